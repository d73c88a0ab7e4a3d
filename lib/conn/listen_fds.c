/* listen_fds.c — the sockets that a service manager, or our own older generation, left open for this process:
 * LISTEN_PID, LISTEN_FDS and LISTEN_FDNAMES as in sd_listen_fds(3), whose library is not needed for so little.
 *
 * The environment is read anew each time and left as it is: a child has another process id, so it does not apply
 * there. Any thread, as far as getenv(3) is. */
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "address/endpoint.h"
#include "address/fd.h"
#include "conn/listen.h"

#define FIRST_FD       3    /* SD_LISTEN_FDS_START */
#define LISTEN_FDS_MAX 4096 /* descriptors; what is above is not looked at */

/* Two threads may ask for the same one; the exchange alone decides, and orders nothing else: relaxed. */
static atomic_bool taken[LISTEN_FDS_MAX];

/* A whole decimal number from the environment; -1 if it is not one. */
static long number(const char *name)
{
	const char *text = getenv(name);
	if (text == NULL || text[0] < '0' || text[0] > '9')
		return -1;
	char *end;
	errno = 0;
	long value = strtol(text, &end, 10);
	return *end == '\0' && errno == 0 ? value : -1;
}

static int count(void)
{
	if (number("LISTEN_PID") != (long)getpid())
		return 0;
	long n = number("LISTEN_FDS");
	if (n < 0)
		return 0;
	return n > LISTEN_FDS_MAX ? LISTEN_FDS_MAX : (int)n;
}

int hark_listen_fds(void)
{
	int n = count();
	for (int i = 0; i < n; i++)
		(void)hark__fd_cloexec(FIRST_FD +
		                       i); /* as sd_listen_fds(3) does; one that is not open shows when it is used */
	return n;
}

bool hark__listen_fds_claim(int fd)
{
	int i = fd - FIRST_FD;
	if (i < 0 || i >= count())
		return true;
	return !atomic_exchange_explicit(&taken[i], true, memory_order_relaxed);
}

void hark__listen_fds_release(int fd)
{
	int i = fd - FIRST_FD;
	if (i >= 0 && i < count())
		atomic_store_explicit(&taken[i], false, memory_order_relaxed);
}

static bool is_taken(int i)
{
	return atomic_load_explicit(&taken[i], memory_order_relaxed);
}

int hark__listen_fds_named(const char *name)
{
	const char *at = getenv("LISTEN_FDNAMES");
	size_t len = strlen(name);
	int n = hark_listen_fds();
	for (int i = 0; at != NULL && i < n; i++) {
		size_t one = strcspn(at, ":");
		if (one == len && memcmp(at, name, len) == 0 && !is_taken(i))
			return FIRST_FD + i;
		at = at[one] == ':' ? at + one + 1 : NULL;
	}
	return -1;
}

int hark__listen_fds_bound_to(const struct hark_endpoint *at, bool six_alone)
{
	struct hark_endpoint e;
	int n = hark_listen_fds();
	for (int i = 0; i < n; i++) {
		int fd = FIRST_FD + i;
		if (is_taken(i) || hark__fd_local(fd, &e) < 0 || !hark__endpoint_same(&e, at))
			continue;
		if (!hark__endpoint_any_six(at) || hark__fd_dual_stack(fd) != six_alone)
			return fd;
	}
	return -1;
}
