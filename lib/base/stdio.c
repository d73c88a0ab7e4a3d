/* stdio.c — see stdio.h. */
#include "base/stdio.h"

#include <stdio.h>
#include <stdio_ext.h>

#if __has_include(<sys/single_threaded.h>)
#include <sys/single_threaded.h>
#else
#define __libc_single_threaded false
#endif

static void flush(FILE *f)
{
	if (ftrylockfile(f) != 0)
		return;
	(void)fflush_unlocked(f);
	funlockfile(f);
}

static void flush_some(void)
{
	flush(stdout);
	flush(stderr);
}

bool hark__stdio_before_fork(void)
{
	bool all = __libc_single_threaded;
	if (all)
		(void)fflush(NULL);
	else
		flush_some();
	return all;
}

void hark__stdio_forked(void)
{
	__fpurge(stdout);
	__fpurge(stderr);
}

void hark__stdio_end(bool all)
{
	if (all)
		(void)fflush(NULL);
	else
		flush_some();
}
