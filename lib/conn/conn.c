/* conn.c — what every connection has: its life, its addresses, its deadlines, its orderly end.
 *
 * A connection belongs to whoever dialed, accepted or made it; a served one to the server. One reader and one writer at
 * a time, each a fiber of one loop or a thread. */
#include "conn/conn.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/sockios.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/sys.h"
#include "conn/datagram.h"
#include "loop/drain.h"
#include "loop/fiber.h"

#define LINGER_QUIET_NS \
	(2 * HARK_S) /* input drained at the end: until the peer, which has all of ours, was silent for so long */
#define LINGER_DRAIN_NS (200 * HARK_MS) /* … while the service drains */
#define LINGER_TOTAL_NS (10 * HARK_S)   /* … and no longer than this in all */
#define UNTAKEN_ROUNDS  1000            /* batches of completions: more than a ring holds */
#define FIRST_BYTE_NS \
	HARK_S /* a connection that has not spoken yet when a drain begins may still do so for this long */

static int64_t now_cheap(void)
{
	struct hark__loop *l = hark__loop_self();
	return l != NULL ? hark__loop_now(l) : hark_now();
}

/* ---- life ------------------------------------------------------------------------------------ */

/* The loop that had received these for c ends before c does. Without memory for them the stream is cut: a gap must not
 * pass unnoticed. */
static void orphaned(struct hark__source *s, const void *bytes, size_t n, bool end)
{
	struct hark_conn *c = hark__container(s, struct hark_conn, src);
	if (n > 0 && hark__buffer_reserve(&c->in, n) == 0) {
		hark__buffer_append(&c->in, bytes, n);
		c->bytes_in += n;
	} else if (n > 0) {
		(void)hark__sys.shutdown(s->fd, SHUT_RDWR);
	}
	c->eof = c->eof || end;
}

void hark__conn_keep_error(struct hark_conn *c, int error)
{
	if (c->write_error == 0)
		c->write_error = (int16_t)error;
	if (error == -ECONNRESET)
		atomic_store_explicit(&c->was_reset, true, memory_order_relaxed);
}

/* Nobody is in the midst of the buffer: who flushes it waits until what was handed over before has left. */
static void unsent(struct hark__source *s, const void *bytes, size_t n, int error)
{
	struct hark_conn *c = hark__container(s, struct hark_conn, src);
	struct hark__buffer later = c->out;
	c->bytes_out -= n;
	if (error == 0) {
		c->out = (struct hark__buffer){0};
		error = hark__buffer_reserve(&c->out, n + hark__buffer_len(&later));
		if (error < 0) {
			c->out = later;
		} else {
			hark__buffer_append(&c->out, bytes, n);
			hark__buffer_append(&c->out, hark__buffer_head(&later), hark__buffer_len(&later));
			hark__buffer_release(&later);
		}
	}
	if (error < 0)
		hark__conn_keep_error(c, error);
}

int hark__conn_new(int fd, enum hark__conn_kind kind, struct hark_conn **out)
{
	struct hark_conn *c = hark__sys.calloc(1, sizeof *c);
	if (c == NULL)
		return -ENOMEM;
	hark__source_init(&c->src, fd);
	c->src.stream = kind == HARK__STREAM;
	hark__source_orphaned = orphaned;
	hark__source_unsent = unsent;
	c->kind = kind;
	hark_deadline(c, HARK_FOREVER);
	c->opened = now_cheap();
	*out = c;
	return 0;
}

void hark__conn_begins(struct hark_conn *c, int fd)
{
	c->src.fd = fd;
	c->opened = now_cheap();
}

void hark__conn_free(struct hark_conn *c)
{
	hark__list_remove(&c->link);
	hark__source_detach(&c->src);
	hark__reply_free(c->reply); /* first: nobody hands datagrams to a closed socket */
	if (c->src.fd >= 0)
		(void)hark__sys.close(c->src.fd);
	hark__splice_end(c);
	hark__buffer_release(&c->in);
	hark__buffer_release(&c->out);
	free(c);
}

static enum hark__conn_kind kind_of(int fd)
{
	int type;
	socklen_t len = sizeof type;
	if (hark__sys.getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) < 0)
		return HARK__FILE;
	return type == SOCK_STREAM ? HARK__STREAM : HARK__DATAGRAM;
}

int hark_conn_from_fd(int fd, struct hark_conn **out)
{
	int flags = hark__sys.fcntl(fd, F_GETFL, 0);
	int r = flags < 0 ? -errno : hark__conn_new(fd, kind_of(fd), out);
	if (r < 0) {
		if (fd >= 0)
			(void)hark__sys.close(fd); /* -EBADF: in vain */
		return r;
	}
	(*out)->src.nonblock = flags & O_NONBLOCK;
	return 0;
}

/* Its caller may hand the descriptor on: what comes from now on is left in it. A receive that is under way ends as soon
 * as the kernel is asked; the loop's completions that wait before its own are worked off first. */
static void take_no_more(struct hark_conn *c)
{
	struct hark__engine *e = c->src.engine;
	if (e == NULL || e->ops->stop_receiving == NULL || e->forked || hark__loop_self() == NULL ||
	    hark__loop_engine(hark__loop_self()) != e)
		return;
	for (int i = 0; i < UNTAKEN_ROUNDS && e->ops->stop_receiving(e, &c->src) == -EINPROGRESS; i++)
		(void)e->ops->wait(e, 0);
}

int hark_fd(const struct hark_conn *c)
{
	take_no_more((struct hark_conn *)c);
	return c->src.fd >= 0 || c->reply == NULL ? c->src.fd : hark__reply_fd(c->reply);
}

size_t hark_buffered(const struct hark_conn *c)
{
	const struct hark__engine *e = c->src.engine;
	size_t n = hark__buffer_len(&c->in);
	if (e != NULL && e->ops->pending != NULL)
		n += e->ops->pending(c->src.engine, &c->src);
	return n;
}

int hark_type(const struct hark_conn *c)
{
	return c->kind == HARK__DATAGRAM || c->kind == HARK__REPLY ? SOCK_DGRAM : SOCK_STREAM;
}

/* ---- time ------------------------------------------------------------------------------------ */

void hark_deadline(struct hark_conn *c, int64_t deadline)
{
	atomic_store_explicit(&c->deadline, deadline, memory_order_relaxed);
}

void hark_idle_timeout(struct hark_conn *c, int64_t ns)
{
	atomic_store_explicit(&c->idle_ns, ns, memory_order_relaxed);
}

int64_t hark__conn_until(const struct hark_conn *c, unsigned events)
{
	int64_t end = hark__conn_deadline(c), idle_ns = hark__conn_idle_ns(c);
	if ((events & HARK__IN) && c->hurried && c->read_until < end)
		end = c->read_until;
	if (idle_ns <= 0)
		return end;
	int64_t now = now_cheap();
	return end - now < idle_ns ? end : now + idle_ns;
}

int hark__conn_expired(const struct hark_conn *c)
{
	int64_t deadline = hark__conn_deadline(c);
	return deadline != HARK_FOREVER && now_cheap() >= deadline ? -ETIMEDOUT : 0;
}

/* ---- addresses ------------------------------------------------------------------------------- */

void hark__unmap(struct hark_endpoint *e)
{
	struct sockaddr_in6 six;
	if (e->addr.ss_family != AF_INET6)
		return;
	memcpy(&six, &e->addr, sizeof six);
	if (!IN6_IS_ADDR_V4MAPPED(&six.sin6_addr))
		return;
	struct sockaddr_in four = {.sin_family = AF_INET, .sin_port = six.sin6_port};
	memcpy(&four.sin_addr, &six.sin6_addr.s6_addr[12], 4);
	memset(&e->addr, 0, sizeof e->addr);
	memcpy(&e->addr, &four, sizeof four);
	e->len = sizeof four;
}

void hark__conn_set_peer(struct hark_conn *c, const struct sockaddr_storage *peer, socklen_t len)
{
	if (peer->ss_family != AF_INET && peer->ss_family != AF_INET6)
		return; /* a unix peer's name is asked for when it is wanted */
	struct hark_endpoint e = {.len = len};
	memcpy(&e.addr, peer, len < sizeof e.addr ? len : sizeof e.addr);
	hark__unmap(&e);
	memcpy(&c->peer, &e.addr, sizeof c->peer);
}

typedef int name_call(int, struct sockaddr *, socklen_t *);

static int ask_name(struct hark_conn *c, name_call *call, struct hark_endpoint *out)
{
	struct hark_endpoint e = {.type = hark_type(c), .len = sizeof e.addr};
	if (call(c->src.fd, (struct sockaddr *)&e.addr, &e.len) < 0)
		return -errno;
	hark__unmap(&e);
	*out = e;
	return 0;
}

int hark_peer_endpoint(struct hark_conn *c, struct hark_endpoint *out)
{
	if (c->kind == HARK__REPLY && c->reply != NULL)
		return hark__reply_peer(c->reply, out);
	if (c->peer.any.sa_family == 0)
		return ask_name(c, hark__sys.getpeername, out);
	*out = (struct hark_endpoint){
		.type = hark_type(c),
		.len = c->peer.any.sa_family == AF_INET ? sizeof c->peer.v4 : sizeof c->peer.v6,
	};
	memcpy(&out->addr, &c->peer, out->len);
	return 0;
}

int hark_local_endpoint(struct hark_conn *c, struct hark_endpoint *out)
{
	if (c->kind == HARK__REPLY && c->reply != NULL)
		return hark__reply_local(c->reply, out);
	return ask_name(c, hark__sys.getsockname, out);
}

int hark_peer(struct hark_conn *c, char *buf, size_t cap)
{
	struct hark_endpoint e;
	int r = hark_peer_endpoint(c, &e);
	return r < 0 ? r : hark_endpoint_format(&e, buf, cap);
}

int hark_local(struct hark_conn *c, char *buf, size_t cap)
{
	struct hark_endpoint e;
	int r = hark_local_endpoint(c, &e);
	return r < 0 ? r : hark_endpoint_format(&e, buf, cap);
}

/* ---- what the server is told and tells ------------------------------------------------------- */

void hark_conn_stats(const struct hark_conn *c, struct hark_conn_stats *out)
{
	*out = (struct hark_conn_stats){
		.bytes_in = c->bytes_in,
		.bytes_out = c->bytes_out - (c->src.sending ? c->src.engine->ops->sending(c->src.engine, &c->src) : 0),
		.opened_ns = c->opened,
		.deadline_ns = hark__conn_deadline(c),
		.idle_ns = hark__conn_idle_ns(c),
	};
}

void hark_outcome(struct hark_conn *c, pid_t pid, int status)
{
	c->pid = pid;
	c->status = status;
}

/* ---- request boundary ------------------------------------------------------------------------ */

/* A drain has begun: what has already come is served, an idle connection ends, a new one may still speak for a moment.
 */
static __attribute__((noinline)) ssize_t idle_draining(struct hark_conn *c)
{
	ssize_t n;
	if (c->bytes_in > 0) {
		n = hark__conn_fill(c, 0, "idle");
		return n == -EAGAIN ? 0 : n;
	}
	c->read_until = now_cheap() + FIRST_BYTE_NS; /* not the deadline: a writer beside is not in that hurry */
	c->hurried = true;
	n = hark__conn_fill(c, HARK__IN, "first byte");
	c->hurried = false;
	return n == -ETIMEDOUT || n == -ECANCELED ? 0 : n;
}

/* As hark__conn_fill() without waiting, but leaves what is there to hark_pass(), which is about to splice it. */
static __attribute__((noinline)) ssize_t look(struct hark_conn *c)
{
	char byte;
	ssize_t n;
	int r = hark__conn_expired(c);
	if (r < 0)
		return r;
	if (!(hark__ready(&c->src) & HARK__IN))
		return -EAGAIN;
	do
		n = hark__sys.recv(c->src.fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
	while (n < 0 && errno == EINTR);
	if (n < 0 && errno == EAGAIN)
		hark__ready_clear(&c->src, HARK__IN);
	if (n < 0)
		return -errno;
	return n == 0 ? hark__conn_ended(c) : n;
}

/* It waits here, few frames deep: the stack of an idle connection is put aside whole. */
static ssize_t idle_wait(struct hark_conn *c)
{
	bool on_loop = hark__loop_self() != NULL, datagram = hark_type(c) == SOCK_DGRAM;
	unsigned events = HARK__IN | (c->served ? HARK__DRAIN : 0);
	ssize_t n;
	if (on_loop)
		hark__fiber_idles(true);
	for (;;) {
		n = c->bulk && hark__splice_receive_stopped(c) ? look(c)
		                                               : hark__conn_fill(c, datagram ? events : 0, "idle");
		if (n != -EAGAIN || datagram)
			break;
		n = hark__conn_wait_in(c, events, "idle");
		if (n < 0)
			break;
	}
	if (on_loop)
		hark__fiber_idles(false);
	return n;
}

int hark_idle(struct hark_conn *c)
{
	int r = hark__conn_begin(c, &c->reading); /* before a look at what is the reader's */
	if (r < 0)
		return r;
	ssize_t n = -EAGAIN;
	if (hark__buffer_len(&c->in) > 0 || c->have_datagram)
		n = 1;
	else if (c->eof)
		n = 0;
	else if (!c->served || hark__drain_until() == HARK_FOREVER)
		n = idle_wait(c);
	if (n == -EAGAIN)
		n = idle_draining(c);
	hark__conn_end(c, &c->reading);
	return n > 0 || c->have_datagram ? 1 : (int)n;
}

/* ---- the end --------------------------------------------------------------------------------- */

int hark_shutdown(struct hark_conn *c, int directions)
{
	int r = 0;
	if (directions == 0 || (directions & ~(HARK_IN | HARK_OUT)) != 0)
		return -EINVAL;
	if (directions & HARK_OUT)
		r = hark__conn_flush_last(c);
	if (c->kind == HARK__REPLY)
		return r;
	int how = directions == (HARK_IN | HARK_OUT) ? SHUT_RDWR : directions == HARK_OUT ? SHUT_WR : SHUT_RD;
	if (c->kind != HARK__FILE && hark__sys.shutdown(c->src.fd, how) < 0 && r == 0)
		r = -errno;
	return r;
}

/* 1: there is something to receive, or the peer may still be reading: silence only counts once it has all of ours. 0:
 * no more. */
static int await_peer(struct hark_conn *c)
{
	int unsent = 0, r = hark__conn_wait(c, HARK__IN, "end of stream");
	if (r == 0)
		return 1;
	return r == -ETIMEDOUT && hark__conn_expired(c) == 0 && hark__sys.ioctl(c->src.fd, SIOCOUTQ, &unsent) == 0 &&
	       unsent > 0;
}

/* Reads and drops what the peer still sends, until it ends, is silent, or the time is up. */
static void linger(struct hark_conn *c)
{
	char dropped[4096];
	if (hark__sys.shutdown(c->src.fd, SHUT_WR) < 0)
		return;
	int64_t end = hark_after(LINGER_TOTAL_NS);
	if (hark__conn_deadline(c) > end)
		hark_deadline(c, end);
	int64_t quiet = c->served && hark__drain_until() != HARK_FOREVER ? LINGER_DRAIN_NS : LINGER_QUIET_NS;
	if (hark__conn_idle_ns(c) == 0 || hark__conn_idle_ns(c) > quiet)
		hark_idle_timeout(c, quiet);
	ssize_t n = 1;
	while (n != 0) {
		n = hark__conn_receive(c, dropped, sizeof dropped);
		if (n == -EAGAIN)
			n = await_peer(c);
		else if (n < 0 || hark__conn_expired(c) < 0 || hark__fair() < 0)
			return;
	}
}

int hark_close(struct hark_conn *c)
{
	if (c == NULL)
		return 0;
	int r = hark__conn_flush_last(c);
	if (c->kind == HARK__STREAM && c->src.fd >= 0 && r == 0 && !c->eof)
		linger(c);
	hark__conn_free(c);
	return r;
}

void hark_abort(struct hark_conn *c)
{
	if (c == NULL)
		return;
	struct linger now = {.l_onoff = 1};
	if (c->kind == HARK__STREAM && c->src.fd >= 0)
		(void)hark__sys.setsockopt(c->src.fd, SOL_SOCKET, SO_LINGER, &now, sizeof now);
	hark__conn_free(c);
}
