/* descriptors.c — see descriptors.h. No sanitizer looks at descriptors_close(): spawn.c's child runs it on a piece of
 * its parent's stack. */
#include "descriptors.h"

#include <fcntl.h>
#include <limits.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#define LIST_BYTES 1024    /* of directory entries at a time: some 40 */
#define NUMBERS    1048576 /* descriptors: fs.nr_open, unless an administrator raised it */

#if defined(__clang__)
#define UNWATCHED __attribute__((noinline, no_sanitize("address", "thread", "undefined")))
#else
#define UNWATCHED __attribute__((noinline, no_sanitize_address, no_sanitize_thread, no_sanitize_undefined))
#endif

/* As getdents64(2) has it. */
struct entry {
	uint64_t inode;
	int64_t offset;
	unsigned short size;
	unsigned char type;
	char name[];
};

/* "12"; -1 for "." and "..". */
UNWATCHED static long number(const char *name)
{
	long n = 0;
	for (; *name != '\0'; name++) {
		if (*name < '0' || *name > '9')
			return -1;
		n = n * 10 + (*name - '0');
	}
	return n;
}

/* The kernel lists by number, so that nothing is passed over when some are closed meanwhile. -1: there is no /proc. */
UNWATCHED static int close_listed(long first, long last)
{
	_Alignas(struct entry) char list[LIST_BYTES];
	long fd = syscall(SYS_openat, AT_FDCWD, "/proc/self/fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	long n;
	if (fd < 0)
		return -1;
	while ((n = syscall(SYS_getdents64, fd, list, sizeof list)) > 0) {
		const struct entry *e;
		for (long at = 0; at < n; at += e->size) {
			e = (const struct entry *)(list + at);
			long found = number(e->name);
			if (found >= first && found <= last && found != fd)
				(void)syscall(SYS_close, found);
		}
	}
	(void)syscall(SYS_close, fd);
	return n < 0 ? -1 : 0;
}

UNWATCHED static void close_numbers(long first, long last)
{
	struct rlimit limit;
	if (syscall(SYS_prlimit64, 0, RLIMIT_NOFILE, NULL, &limit) < 0 || limit.rlim_max > NUMBERS)
		limit.rlim_max = NUMBERS;
	for (long fd = first; fd <= last && fd < (long)limit.rlim_max; fd++)
		(void)syscall(SYS_close, fd);
}

UNWATCHED void descriptors_close(unsigned first, unsigned last)
{
	if (syscall(SYS_close_range, first, last, 0) < 0 && close_listed((long)first, (long)last) < 0)
		close_numbers((long)first, (long)last);
}

static int by_number(const void *a, const void *b)
{
	return *(const int *)a - *(const int *)b;
}

void descriptors_keep(int *keep, int n)
{
	unsigned from = 3;
	qsort(keep, (size_t)n, sizeof *keep, by_number);
	for (int i = 0; i < n; i++) {
		if (keep[i] < 3 || (i > 0 && keep[i] == keep[i - 1]))
			continue;
		if ((unsigned)keep[i] > from)
			descriptors_close(from, (unsigned)keep[i] - 1);
		from = (unsigned)keep[i] + 1;
	}
	descriptors_close(from, UINT_MAX);
}
