/* line_out.c — see line_out.h. */
#include "line_out.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum by { BY_UNKNOWN = 0, BY_WRITE, BY_SEND, BY_NOWAIT, BY_POLL };

#define OWN_FLAGS (O_WRONLY | O_APPEND | O_NONBLOCK | O_NOCTTY | O_CLOEXEC)

const int line_out_signals[] = {SIGPIPE, SIGXFSZ, SIGTTOU, 0};

/* A terminal may belong to the user that somebody was before su(1); the controlling one can be opened all the same. */
static int open_controlling(int fd)
{
	unsigned wanted, found;

	if (ioctl(fd, TIOCGDEV, &wanted) < 0)
		return -errno;
	int own = open("/dev/tty", OWN_FLAGS);
	if (own < 0)
		return -errno;
	if (ioctl(own, TIOCGDEV, &found) == 0 && found == wanted)
		return own;
	(void)close(own);
	return -ENXIO;
}

int line_out_own(int fd)
{
	char path[32];
	struct stat st;
	int flags = fcntl(fd, F_GETFL);

	if (flags < 0 || fstat(fd, &st) < 0)
		return -errno;
	bool terminal = S_ISCHR(st.st_mode) && isatty(fd);
	/* A file's description has the offset that other writers share; what cannot be written stays so. */
	if ((!S_ISFIFO(st.st_mode) && !terminal) || (flags & O_ACCMODE) == O_RDONLY)
		return -EINVAL;
	(void)snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
	int own = open(path, OWN_FLAGS), err = -errno;
	if (own >= 0 || !terminal)
		return own >= 0 ? own : err;
	return open_controlling(fd);
}

static enum by find_by(int fd)
{
	struct stat st;
	int flags = fcntl(fd, F_GETFL);

	if (flags < 0 || fstat(fd, &st) < 0)
		return BY_WRITE; /* which tells why */
	if (S_ISSOCK(st.st_mode))
		return BY_SEND;
	return S_ISREG(st.st_mode) || (flags & O_NONBLOCK) ? BY_WRITE : BY_NOWAIT;
}

/* A terminal's poll(2) does not tell how much it takes, and the rest would be waited for: a description of our own for
 * this line alone. Where only descriptors are short the line is lost: there will be some again. */
static ssize_t write_by_poll(int fd, struct iovec *iov, int n)
{
	struct pollfd ready = {.fd = fd, .events = POLLOUT};
	int own = line_out_own(fd);

	if (own == -EMFILE || own == -ENFILE || own == -ENOMEM) {
		errno = -own;
		return -1;
	}
	if (own < 0 && poll(&ready, 1, 0) == 0) {
		errno = EAGAIN;
		return -1;
	}
	ssize_t r = writev(own >= 0 ? own : fd, iov, n);
	int error = errno;
	if (own >= 0)
		(void)close(own);
	errno = error;
	return r;
}

static ssize_t write_once(struct line_out *o, struct iovec *iov, int n)
{
	enum by by = (enum by)atomic_load_explicit(&o->by, memory_order_relaxed);

	if (by == BY_UNKNOWN)
		by = find_by(o->fd);
	if (by == BY_NOWAIT) {
		ssize_t r = pwritev2(o->fd, iov, n, -1, RWF_NOWAIT);
		if (r >= 0 || (errno != EOPNOTSUPP && errno != ENOSYS && errno != EINVAL))
			return r;
		by = BY_POLL;
	}
	atomic_store_explicit(&o->by, (int)by, memory_order_relaxed);
	if (by == BY_SEND)
		return sendmsg(o->fd, &(struct msghdr){.msg_iov = iov, .msg_iovlen = (size_t)n},
		               MSG_DONTWAIT | MSG_NOSIGNAL);
	return by == BY_POLL ? write_by_poll(o->fd, iov, n) : writev(o->fd, iov, n);
}

int line_out_put(struct line_out *o, const char *line, size_t len)
{
	bool torn = atomic_exchange_explicit(&o->torn, false, memory_order_relaxed);
	struct iovec iov[] = {{(void *)(uintptr_t) "\n", 1}, {(void *)(uintptr_t)line, len}};
	size_t all = len + torn;
	ssize_t n;

	do
		n = write_once(o, iov + !torn, 1 + torn);
	while (n < 0 && errno == EINTR);
	if ((size_t)n == all)
		return 0;
	int err = n < 0 ? -errno : -EAGAIN;
	/* A terminal, or a disk that is full, took a part; or the newline after an earlier part has not left either. */
	if (n > torn || (torn && n <= 0))
		atomic_store_explicit(&o->torn, true, memory_order_relaxed);
	return err;
}
