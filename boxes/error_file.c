/* error_file.c — see error_file.h. */
#include "error_file.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "box.h"
#include "options.h"

#define FILE_MODE 0640 /* of one that is made */

/* A terminal does not become ours. */
#define FILE_FLAGS (O_WRONLY | O_APPEND | O_NOFOLLOW | O_NOCTTY | O_NONBLOCK | O_CLOEXEC)
#define DIR_FLAGS  (O_PATH | O_DIRECTORY | O_CLOEXEC)

/* In the root directory that was there before a chroot; in ours before Linux 5.6. */
static int open_at(const struct error_file *f, const char *path, int flags)
{
	struct open_how how = {.flags = (unsigned)flags, .resolve = RESOLVE_IN_ROOT};
	long fd = -1;
	how.mode = (flags & O_CREAT) != 0 ? FILE_MODE : 0;
	errno = ENOSYS;
	if (f->root > 0)
		fd = syscall(SYS_openat2, f->root - 1, path, &how, sizeof how);
	if (fd < 0 && (errno == ENOSYS || errno == EPERM)) /* it is older, or a seccomp filter forbids it */
		fd = open(path, flags, FILE_MODE);
	return fd < 0 ? -errno : (int)fd;
}

int error_file_prepare(struct error_file *f, const char *path, struct hark_why *why)
{
	int fd = open("/", DIR_FLAGS);
	if (fd < 0)
		return box_why(why, -errno, "cannot open /: %s", strerror(errno));
	f->path = path;
	f->root = 1 + fd;
	return 0;
}

/* 0: it could be made; or -errno. */
static int look_at_directory(const struct error_file *f)
{
	char directory[PATH_MAX];
	const char *slash = strrchr(f->path, '/');
	int len = (int)(slash - f->path) + 1;
	if (snprintf(directory, sizeof directory, "%.*s", len, f->path) >= (int)sizeof directory)
		return -ENAMETOOLONG;
	int fd = open_at(f, directory, DIR_FLAGS);
	if (fd < 0)
		return fd;
	int r = faccessat(fd, ".", W_OK | X_OK, AT_EACCESS) < 0 ? -errno : 0;
	(void)close(fd);
	return r;
}

static bool in_root(const struct error_file *f)
{
	struct stat a, b;
	return fstat(f->root - 1, &a) == 0 && stat("/", &b) == 0 && a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

int error_file_open(struct error_file *f, struct hark_why *why)
{
	int fd = open_at(f, f->path, box_trial ? FILE_FLAGS : FILE_FLAGS | O_CREAT);
	int r = fd == -ENOENT && box_trial ? look_at_directory(f) : fd < 0 ? fd : 0;
	f->reopens = in_root(f);
	(void)close(f->root - 1);
	f->root = 0;
	if (r < 0)
		return box_why(why, r, "stderr: %s: %s", f->path,
		               r == -ELOOP ? "a symbolic link is not followed"
		                           : strerror(-r)); /* ENXIO: no host here */
	if (fd >= 0)
		(void)fcntl(fd, F_SETFL, O_APPEND); /* programs find it as they expect */
	f->file = fd >= 0 ? 1 + fd : 0;
	return 0;
}

int error_file_again(const struct error_file *f)
{
	int fd = f->reopens ? open_at(f, f->path, FILE_FLAGS | O_CREAT) : -1;
	if (fd >= 0)
		(void)fcntl(fd, F_SETFL, O_APPEND);
	return fd >= 0 ? fd : -1;
}

void error_file_close(struct error_file *f)
{
	if (f->file > 0)
		(void)close(f->file - 1);
	if (f->root > 0)
		(void)close(f->root - 1);
}
