/* memory_file.c — see memory_file.h. Any thread; RLIMIT_FSIZE is the process's. */
#include "memory_file.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

/* RLIMIT_FSIZE is about files that fill a disk, and holds for memory all the same: lifted for a moment. */
static int set_size(int fd, size_t bytes)
{
	struct rlimit before;
	if (ftruncate(fd, (off_t)bytes) == 0)
		return 0;
	int r = -errno;
	if (r != -EFBIG || getrlimit(RLIMIT_FSIZE, &before) < 0)
		return r;
	struct rlimit lifted = {RLIM_INFINITY, RLIM_INFINITY};
	if (setrlimit(RLIMIT_FSIZE, &lifted) < 0) /* not root: as far as it goes */
		(void)setrlimit(RLIMIT_FSIZE, &(struct rlimit){before.rlim_max, before.rlim_max});
	r = ftruncate(fd, (off_t)bytes) < 0 ? -errno : 0;
	(void)setrlimit(RLIMIT_FSIZE, &before);
	return r;
}

int memory_file(const char *name, size_t bytes)
{
	int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (fd < 0)
		return -errno;
	int r = set_size(fd, bytes);
	if (r == 0 && fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW) < 0)
		r = -errno;
	if (r < 0)
		(void)close(fd);
	return r < 0 ? r : fd;
}
