/* file.c — see file.h.
 *
 * poll(2) before read(2) is not enough: another process that has the same pipe may be faster, and the read blocks the
 * loop. Nor is it enough for a terminal: it is writable at one byte of room, and write(2) waits until all bytes fit.
 * O_NONBLOCK belongs to the description, which a shell or a child may share. So, by what the kernel offers:
 *
 *   pipes, eventfds, /dev/null   RWF_NOWAIT (Linux 6.5 for pipes); without it poll(2) first
 *   terminals, named FIFOs       no RWF_NOWAIT (6.18): opened again by /proc/self/fd, with O_NONBLOCK
 *   masters of pseudo-terminals  opening one makes a new terminal: poll(2), and write a byte at a time
 *   files, disks                 read(2) and write(2): always ready
 *
 * Where /proc or the permission to open is missing, poll(2) comes first as well. */
#include "address/file.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/magic.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/vfs.h>
#include <termios.h>

#include "address/fd.h"
#include "base/sys.h"

/* The number stays, the description is a new one. */
static int reopen(int fd)
{
	char path[sizeof "/proc/self/fd/" + 3 * sizeof fd];
	int flags = hark__sys.fcntl(fd, F_GETFL, 0);
	(void)snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
	int own = hark__sys.open(path, (flags & (O_ACCMODE | O_APPEND)) | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	if (own < 0)
		return -errno;
	int r = hark__sys.dup3(own, fd, O_CLOEXEC) < 0 ? -errno : 0;
	return hark__fd_fail(own, r);
}

static bool is_terminal(int fd)
{
	struct termios t;
	return hark__sys.ioctl(fd, TCGETS, &t) == 0;
}

static bool is_master(int fd)
{
	unsigned number;
	return hark__sys.ioctl(fd, TIOCGPTN, &number) == 0;
}

static bool has_no_name(int fd)
{
	struct statfs fs;
	return hark__sys.fstatfs(fd, &fs) == 0 && fs.f_type == PIPEFS_MAGIC;
}

int hark__file_prepare(int fd)
{
	struct stat st;
	if (hark__sys.fstat(fd, &st) < 0)
		return -errno;
	if (S_ISREG(st.st_mode) || S_ISBLK(st.st_mode) || S_ISDIR(st.st_mode))
		return HARK__FILE_PLAIN;
	if (S_ISFIFO(st.st_mode) && !has_no_name(fd))
		return reopen(fd) == 0 ? HARK__FILE_PLAIN : HARK__FILE_POLL;
	if (S_ISCHR(st.st_mode) && is_terminal(fd))
		return !is_master(fd) && reopen(fd) == 0 ? HARK__FILE_PLAIN : HARK__FILE_BYTE;
	return HARK__FILE_NOWAIT;
}

/* ---- reading and writing ---------------------------------------------------------------------- */

static bool ready(int fd, short events)
{
	struct pollfd p = {.fd = fd, .events = events};
	return hark__sys.poll(&p, 1, 0) > 0;
}

static bool unsupported(ssize_t n)
{
	return n < 0 && (errno == EOPNOTSUPP || errno == ENOSYS);
}

ssize_t hark__file_read(int fd, enum hark__file_way way, void *buf, size_t n)
{
	struct iovec v = {.iov_base = buf, .iov_len = n};
	ssize_t done;
	if (way == HARK__FILE_NOWAIT) {
		done = hark__sys.preadv2(fd, &v, 1, -1, RWF_NOWAIT);
		if (!unsupported(done))
			return done < 0 ? -errno : done;
	}
	if (way != HARK__FILE_PLAIN && !ready(fd, POLLIN))
		return -EAGAIN;
	done = hark__sys.read(fd, buf, n);
	return done < 0 ? -errno : done;
}

ssize_t hark__file_write(int fd, enum hark__file_way way, const void *buf, size_t n)
{
	size_t most = way == HARK__FILE_PLAIN ? n : way == HARK__FILE_BYTE ? 1 : PIPE_BUF;
	ssize_t done;
	if (way == HARK__FILE_NOWAIT) {
		done = hark__fd_write_nowait(fd, buf, n);
		if (!unsupported(done))
			return done < 0 ? -errno : done;
	}
	if (way != HARK__FILE_PLAIN && !ready(fd, POLLOUT))
		return -EAGAIN;
	done = hark__fd_write(fd, buf, n < most ? n : most);
	return done < 0 ? -errno : done;
}
