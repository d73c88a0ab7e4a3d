/* transport_file.c — the transport of pipes, terminals and files: read(2) and write(2), poll(2) first.
 *
 * Their O_NONBLOCK is left as it is: the description may be shared with other processes. */
#include <errno.h>
#include <limits.h>
#include <poll.h>

#include "address/fd.h"
#include "base/sys.h"
#include "conn/conn.h"

static bool poll_now(int fd, short events)
{
	struct pollfd p = {.fd = fd, .events = events};
	return hark__sys.poll(&p, 1, 0) > 0;
}

static ssize_t receive(struct hark_conn *c, void *buf, size_t cap)
{
	ssize_t n = -EAGAIN;
	if (!(hark__ready(&c->src) & HARK__IN))
		return -EAGAIN;
	if (c->src.nonblock || poll_now(c->src.fd, POLLIN)) {
		do
			n = hark__sys.read(c->src.fd, buf, cap);
		while (n < 0 && errno == EINTR);
		n = n < 0 ? -errno : n;
	}
	if (n == -EAGAIN)
		hark__ready_clear(&c->src, HARK__IN);
	return n;
}

static size_t pending(const struct hark_conn *c)
{
	(void)c;
	return 0;
}

static ssize_t send_some(struct hark_conn *c, const struct iovec *iov, int count)
{
	size_t n = iov->iov_len;
	(void)count;
	if (!(hark__ready(&c->src) & HARK__OUT))
		return -EAGAIN;
	if (!c->src.nonblock) {
		if (!poll_now(c->src.fd, POLLOUT))
			return -EAGAIN;
		if (n > PIPE_BUF)
			n = PIPE_BUF; /* so much never blocks once poll(2) says so, pipe(7) */
	}
	ssize_t done;
	do
		done = hark__fd_write(c->src.fd, iov->iov_base, n);
	while (done < 0 && errno == EINTR);
	return done < 0 ? -errno : done;
}

static int end(struct hark_conn *c, int directions)
{
	(void)c;
	(void)directions;
	return 0;
}

static void reset(struct hark_conn *c)
{
	(void)c;
}

const struct hark__transport hark__transport_file = {
	.receive = receive,
	.pending = pending,
	.send = send_some,
	.shutdown = end,
	.reset = reset,
	.plain = true,
};
