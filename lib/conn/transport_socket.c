/* transport_socket.c — the transport of sockets: recv(2), send(2), and what an engine sends for them in batches.
 *
 * Sockets are left blocking and each call passes MSG_DONTWAIT: the O_NONBLOCK flag belongs to the open file
 * description, which a program on the other end of a fork shares.
 *
 * After a short read the socket is known to be empty, so the next read waits at once and saves the call that would
 * say EAGAIN: with edge-triggered readiness, a later byte makes a later edge (epoll(7), question 9). Not where the
 * peer's end, an error or urgent data was seen (HARK__HUP): a short read then proves nothing. */
#include <errno.h>
#include <linux/sockios.h>
#include <sys/ioctl.h>

#include "address/fd.h"
#include "base/sys.h"
#include "conn/conn.h"

static ssize_t receive(struct hark_conn *c, void *buf, size_t cap)
{
	ssize_t n;
	if (!(hark__ready(&c->src) & HARK__IN))
		return -EAGAIN;
	do
		n = hark__sys.recv(c->src.fd, buf, cap, MSG_DONTWAIT);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		n = -errno;
	if (n == -EAGAIN || (n > 0 && (size_t)n < cap && c->src.engine != NULL && !(hark__ready(&c->src) & HARK__HUP)))
		hark__ready_clear(&c->src, HARK__IN);
	return n;
}

static size_t pending(const struct hark_conn *c)
{
	(void)c; /* between two waits all is in the kernel or in c->in */
	return 0;
}

/* MSG_MORE keeps back what does not fill a segment: the end that follows at once takes it along (tcp_send_fin() in the
 * kernel), so that both are one segment, and one wake-up of the peer, instead of two. tcp(7). None follows where others
 * have the socket, too. */
static ssize_t send_once(struct hark_conn *c, const struct iovec *iov, int count)
{
	ssize_t n;
	bool end_follows = c->ending == HARK__ENDING && !c->shared;
	int flags = MSG_DONTWAIT | MSG_NOSIGNAL | (end_follows ? MSG_MORE : 0);
	if (count == 1) {
		n = hark__sys.send(c->src.fd, iov->iov_base, iov->iov_len, flags);
	} else {
		struct msghdr m = {.msg_iov = (struct iovec *)iov, .msg_iovlen = (size_t)count};
		n = hark__sys.sendmsg(c->src.fd, &m, flags);
	}
	return n < 0 ? -errno : n;
}

static ssize_t send_some(struct hark_conn *c, const struct iovec *iov, int count)
{
	ssize_t n;
	if (!(hark__ready(&c->src) & HARK__OUT) || hark__conn_is_sending(c))
		return -EAGAIN;
	do
		n = send_once(c, iov, count);
	while (n == -EINTR);
	return n;
}

static bool post(struct hark_conn *c, const void *bytes, size_t n)
{
	struct hark__engine *e = c->src.engine;
	struct hark__loop *l = hark__loop_self();
	if (e == NULL || l == NULL || hark__loop_engine(l) != e || e->ops->batch == NULL || c->ending)
		return false;
	if (!(hark__ready(&c->src) & HARK__OUT)) /* there was no room just now */
		return false;
	return e->ops->batch->send(e, &c->src, bytes, n) == 0;
}

static int end(struct hark_conn *c, int directions)
{
	int how = directions == (HARK_IN | HARK_OUT) ? SHUT_RDWR : directions == HARK_OUT ? SHUT_WR : SHUT_RD;
	return hark__sys.shutdown(c->src.fd, how) < 0 ? -errno : 0;
}

static int unsent(const struct hark_conn *c)
{
	int n = 0;
	return hark__sys.ioctl(c->src.fd, SIOCOUTQ, &n) < 0 ? -errno : n;
}

/* A reset by SO_LINGER waits until the last copy of the descriptor is closed: a forked child may have one. connect(2)
 * to nowhere disconnects TCP by a reset at once (RFC 9293 section 3.10.5). A unix socket knows no reset: its peer
 * sees the end, or ECONNRESET where something was left unread. */
static void reset(struct hark_conn *c)
{
	const struct sockaddr nowhere = {.sa_family = AF_UNSPEC};
	const struct linger at_once = {.l_onoff = 1};
	if (hark__sys.connect(c->src.fd, &nowhere, sizeof nowhere) == 0)
		return;
	(void)hark__sys.setsockopt(c->src.fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
	(void)hark__sys.shutdown(c->src.fd, SHUT_RDWR);
}

/* SO_LINGER would have close(2) wait on this thread, and with it a whole loop. */
static void close_now(struct hark_conn *c)
{
	if (!c->datagrams && hark__loop_self() != NULL && atomic_load_explicit(&c->may_linger, memory_order_relaxed))
		(void)hark__fd_unlinger(c->src.fd);
	(void)hark__sys.close(c->src.fd);
}

const struct hark__transport hark__transport_socket = {
	.receive = receive,
	.pending = pending,
	.send = send_some,
	.post = post,
	.shutdown = end,
	.unsent = unsent,
	.reset = reset,
	.close = close_now,
	.plain = true,
	.kernel_moves = true,
};
