/* openssl.c — see openssl.h. */
#include "conn/openssl.h"

#include <assert.h>
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#include "base/sys.h"
#include "base/why.h"

/* What is binary compatible with the headers of this build. */
#define TEXT_OF(number) #number
#define TEXT(number)    TEXT_OF(number)
#define LIBRARY         "libssl.so." TEXT(OPENSSL_SHLIB_VERSION)

/* In the table's order; in one text, which needs no relocations. libcrypto's are found by way of libssl. */
#define NAME(name) #name "\0"
static const char names[] = HARK__OPENSSL_CALLS(NAME);
#undef NAME

struct hark__openssl hark__openssl;

static _Atomic(void *) library; /* NULL: not loaded yet; stays for good */
static pthread_once_t resolve_once = PTHREAD_ONCE_INIT;
static const char *lacking; /* written by resolve(): a function that the library has not; NULL: it has all */

static void resolve(void)
{
	void *lib = atomic_load_explicit(&library, memory_order_acquire);
	char *at = (char *)&hark__openssl;
	static_assert(sizeof(void *) == sizeof SSL_new, "the table is an array of pointers");
	for (const char *name = names; name[0] != '\0'; name += strlen(name) + 1, at += sizeof(void *)) {
		void *function = dlsym(lib, name);
		if (function == NULL) {
			lacking = name;
			return;
		}
		memcpy(at, &function, sizeof function);
	}
	/* Threads may still serve while exit(3) would take OpenSSL apart under them. */
	(void)OPENSSL_init_ssl(OPENSSL_INIT_NO_ATEXIT, NULL);
}

/* Whoever comes at the same time gets the same handle. */
static int open_library(struct hark_why *why)
{
	if (atomic_load_explicit(&library, memory_order_acquire) != NULL)
		return 0;
	void *lib = hark__sys.dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL);
	if (lib == NULL) {
		const char *text = dlerror();
		hark__why(why, "TLS: %s", text != NULL ? text : LIBRARY " cannot be loaded");
		return -ENOPKG;
	}
	atomic_store_explicit(&library, lib, memory_order_release);
	return 0;
}

int hark__openssl_load(struct hark_why *why)
{
	int r = open_library(why);
	if (r < 0)
		return r;
	(void)pthread_once(&resolve_once, resolve);
	if (lacking == NULL)
		return 0;
	hark__why(why, "TLS: %s is too old, or not OpenSSL's: it has no %s()", LIBRARY, lacking);
	return -ENOPKG;
}
