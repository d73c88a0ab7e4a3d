/* fd.c — see fd.h. Every descriptor is close-on-exec from the call that makes it. Any thread. */
#include "address/fd.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/resource.h>
#include <time.h>

#include "address/endpoint.h"
#include "base/sys.h"

#define NUMBERS_AT_ONCE 64u    /* descriptors that one poll(2) looks at: RLIMIT_NOFILE may be as low */
#define NUMBERS_MAX     65536u /* looked at in all */

int hark__fd_socket(int family, int type, int flags)
{
	int fd = hark__sys.socket(family, type | SOCK_CLOEXEC | flags, 0);
	return fd < 0 ? -errno : fd;
}

int hark__fd_option(int fd, int level, int name, int value)
{
	return hark__sys.setsockopt(fd, level, name, &value, sizeof value) < 0 ? -errno : 0;
}

int hark__fd_buffers(int fd, int send_bytes, int receive_bytes)
{
	int rc = 0;
	if (send_bytes > 0)
		rc = hark__fd_option(fd, SOL_SOCKET, SO_SNDBUF, send_bytes);
	if (rc == 0 && receive_bytes > 0)
		rc = hark__fd_option(fd, SOL_SOCKET, SO_RCVBUF, receive_bytes);
	return rc;
}

int hark__fd_nonblock(int fd, bool on)
{
	int flags = hark__sys.fcntl(fd, F_GETFL, 0);
	if (flags < 0)
		return -errno;
	int wanted = on ? flags | O_NONBLOCK : flags & ~O_NONBLOCK;
	if (wanted == flags)
		return 0;
	return hark__sys.fcntl(fd, F_SETFL, wanted) < 0 ? -errno : 0;
}

int hark__fd_cloexec(int fd)
{
	return hark__sys.fcntl(fd, F_SETFD, FD_CLOEXEC) < 0 ? -errno : 0;
}

int hark__fd_local(int fd, struct hark_endpoint *out)
{
	struct sockaddr_storage at = {0};
	socklen_t len = sizeof at, type_len = sizeof(int);
	int type;
	if (hark__sys.getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &type_len) < 0)
		return -errno;
	if (hark__sys.getsockname(fd, (struct sockaddr *)&at, &len) < 0)
		return -errno;
	return hark_endpoint_from(type, (const struct sockaddr *)&at, len, out);
}

bool hark__fd_dual_stack(int fd)
{
	int v6only;
	socklen_t len = sizeof v6only;
	return hark__sys.getsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &v6only, &len) == 0 && v6only == 0;
}

struct quiet {
	sigset_t pipe, old;
	bool pending; /* before the call: somebody else's */
};

static void quiet_begin(struct quiet *q)
{
	sigset_t now;
	(void)sigemptyset(&q->pipe);
	(void)sigaddset(&q->pipe, SIGPIPE);
	(void)pthread_sigmask(SIG_BLOCK, &q->pipe, &q->old);
	q->pending = sigismember(&q->old, SIGPIPE) == 1 && sigpending(&now) == 0 && sigismember(&now, SIGPIPE) == 1;
}

/* A pipe whose reader goes in the middle raises the signal and tells of the part. */
static ssize_t quiet_end(struct quiet *q, ssize_t result, size_t wanted)
{
	static const struct timespec at_once;
	int kept = errno;
	bool raised = result < 0 ? kept == EPIPE : (size_t)result < wanted;
	if (raised && !q->pending)
		(void)sigtimedwait(&q->pipe, NULL, &at_once);
	(void)pthread_sigmask(SIG_SETMASK, &q->old, NULL);
	errno = kept;
	return result;
}

ssize_t hark__fd_write(int fd, const void *buf, size_t n)
{
	struct quiet q;
	quiet_begin(&q);
	return quiet_end(&q, hark__sys.write(fd, buf, n), n);
}

ssize_t hark__fd_write_nowait(int fd, const void *buf, size_t n)
{
	struct iovec v = {.iov_base = (void *)buf, .iov_len = n};
	struct quiet q;
	quiet_begin(&q);
	return quiet_end(&q, hark__sys.pwritev2(fd, &v, 1, -1, RWF_NOWAIT), n);
}

ssize_t hark__fd_sendfile(int out, int in, off_t *at, size_t n)
{
	struct quiet q;
	quiet_begin(&q);
	return quiet_end(&q, hark__sys.sendfile(out, in, at, n), n);
}

ssize_t hark__fd_splice(int in, int out, size_t n)
{
	struct quiet q;
	quiet_begin(&q);
	return quiet_end(&q, hark__sys.splice(in, NULL, out, NULL, n, SPLICE_F_MOVE | SPLICE_F_NONBLOCK), n);
}

int hark__fd_lingers(int fd)
{
	struct linger l = {0};
	socklen_t len = sizeof l;
	if (hark__sys.getsockopt(fd, SOL_SOCKET, SO_LINGER, &l, &len) < 0 || !l.l_onoff || l.l_linger <= 0)
		return 0;
	return l.l_linger;
}

int hark__fd_unlinger(int fd)
{
	const struct linger off = {0};
	int seconds = hark__fd_lingers(fd);
	if (seconds > 0)
		(void)hark__sys.setsockopt(fd, SOL_SOCKET, SO_LINGER, &off, sizeof off);
	return seconds;
}

/* poll(2) tells which numbers are open, without /proc: POLLNVAL. */
unsigned hark__fd_room(void)
{
	struct rlimit l;
	struct pollfd p[NUMBERS_AT_ONCE];
	unsigned limit = INT_MAX, open = 0;
	if (hark__sys.getrlimit(RLIMIT_NOFILE, &l) == 0 && l.rlim_cur < limit)
		limit = (unsigned)l.rlim_cur;
	unsigned end = limit < NUMBERS_MAX ? limit : NUMBERS_MAX;
	for (unsigned at = 0; at < end; at += NUMBERS_AT_ONCE) {
		unsigned n = end - at < NUMBERS_AT_ONCE ? end - at : NUMBERS_AT_ONCE;
		for (unsigned i = 0; i < n; i++)
			p[i] = (struct pollfd){.fd = (int)(at + i)};
		if (hark__sys.poll(p, n, 0) < 0)
			continue;
		for (unsigned i = 0; i < n; i++)
			open += !(p[i].revents & POLLNVAL);
	}
	return limit > open ? limit - open : 0;
}

int hark__fd_fail(int fd, int rc)
{
	if (fd >= 0)
		(void)hark__sys.close(fd);
	return rc;
}
