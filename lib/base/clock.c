/* clock.c — CLOCK_MONOTONIC in nanoseconds, words for errors, the version. Any thread. */
#include <errno.h>
#include <string.h>
#include <time.h>

#include "hark.h"

int64_t hark_now(void)
{
	struct timespec t;
	(void)clock_gettime(CLOCK_MONOTONIC, &t); /* cannot fail with this clock */
	return (int64_t)t.tv_sec * HARK_S + t.tv_nsec;
}

int64_t hark_after(int64_t ns)
{
	int64_t now = hark_now();
	return ns >= HARK_FOREVER - now ? HARK_FOREVER : now + ns;
}

const char *hark_version(void)
{
	return HARK_VERSION;
}

const char *hark_strerror(int err)
{
	if (err < 0)
		err = -err;
	switch (err) {
	case HARK_ENOHOST: return "No such host";
	case HARK_ENOSERVICE: return "No such service";
	case HARK_EDNS: return "Name server failed or did not answer";
	case HARK_ECERT: return "Certificate not accepted";
	default: return strerror(err);
	}
}
