/* stream.c — reading and writing. Every call tries first; where it would block it waits in hark__conn_wait().
 *
 * Sockets are left blocking and each call passes MSG_DONTWAIT: the O_NONBLOCK flag belongs to the open file
 * description, which a program on the other end of a fork shares, and io_uring never waits on descriptors that carry
 * it.
 *
 * After a short read the socket is known to be empty, so the next read waits at once and saves the call that would
 * say EAGAIN: with edge-triggered readiness, a later byte makes a later edge (epoll(7), question 9). Not where the
 * peer's end, an error or urgent data was seen (HARK__HUP): a short read then proves nothing. */
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "address/fd.h"
#include "base/sys.h"
#include "conn/conn.h"
#include "conn/datagram.h"
#include "loop/fiber.h"

#define READ_DIRECT 512u /* reads of at least so many bytes go past the buffer */
#define IOV_STACK   8    /* pieces of a writev that need no allocation */

/* ---- roles ----------------------------------------------------------------------------------- */

/* A connection that is attached to a loop is that thread's alone: then a locked instruction would be wasted. */
static bool take(struct hark_conn *c, atomic_bool *what)
{
	if (c->src.engine == NULL)
		return !atomic_exchange(what, true);
	if (atomic_load_explicit(what, memory_order_relaxed))
		return false;
	atomic_store_explicit(what, true, memory_order_relaxed);
	return true;
}

static void put(struct hark_conn *c, atomic_bool *what, bool value)
{
	atomic_store_explicit(what, value, c->src.engine == NULL ? memory_order_seq_cst : memory_order_relaxed);
}

/* Where every call passes: a cancelled fiber is told even where it would not have to wait. */
int hark__conn_begin(struct hark_conn *c, atomic_bool *role)
{
	if (hark__fiber_cancelled())
		return -ECANCELED;
	return take(c, role) ? 0 : -EBUSY;
}

void hark__conn_end(struct hark_conn *c, atomic_bool *role)
{
	put(c, role, false);
}

static bool try_out(struct hark_conn *c)
{
	return take(c, &c->out_lock);
}

/* The writer's: held by another thread's reader for one system call at most; by another fiber never. */
static void lock_out(struct hark_conn *c)
{
	while (!try_out(c))
		(void)sched_yield();
}

static void unlock_out(struct hark_conn *c)
{
	put(c, &c->out_lock, false);
}

/* ---- sending --------------------------------------------------------------------------------- */

static bool poll_now(int fd, short events)
{
	struct pollfd p = {.fd = fd, .events = events};
	return hark__sys.poll(&p, 1, 0) > 0;
}

static ssize_t send_file(struct hark_conn *c, const struct iovec *iov)
{
	size_t n = iov->iov_len;
	if (!c->src.nonblock) {
		if (!poll_now(c->src.fd, POLLOUT))
			return -EAGAIN;
		if (n > PIPE_BUF)
			n = PIPE_BUF; /* so much never blocks once poll(2) says so, pipe(7) */
	}
	ssize_t done = hark__fd_write(c->src.fd, iov->iov_base, n);
	return done < 0 ? -errno : done;
}

/* MSG_MORE keeps back what does not fill a segment: the end that follows at once takes it along (tcp_send_fin() in the
 * kernel), so that both are one segment, and one wake-up of the peer, instead of two. tcp(7) */
static ssize_t send_once(struct hark_conn *c, const struct iovec *iov, int count)
{
	ssize_t n;
	int flags = MSG_DONTWAIT | MSG_NOSIGNAL | (c->ending ? MSG_MORE : 0);
	if (c->kind == HARK__FILE)
		return send_file(c, iov);
	if (count == 1) {
		n = hark__sys.send(c->src.fd, iov->iov_base, iov->iov_len, flags);
	} else {
		struct msghdr m = {.msg_iov = (struct iovec *)iov, .msg_iovlen = (size_t)count};
		n = hark__sys.sendmsg(c->src.fd, &m, flags);
	}
	return n < 0 ? -errno : n;
}

/* What the engine took to send must not be overtaken. A forked child has no part in it. */
static bool is_sending(const struct hark_conn *c)
{
	return c->src.sending && !c->src.engine->forked;
}

/* Lets the engine send what is buffered, if it sends for many at a time. */
static bool hand_over(struct hark_conn *c)
{
	struct hark__engine *e = c->src.engine;
	size_t n = hark__buffer_len(&c->out);
	if (e == NULL || e->ops->send == NULL || c->kind != HARK__STREAM || n == 0 || c->write_error < 0 || c->ending)
		return false;
	if (!(hark__ready(&c->src) & HARK__OUT)) /* there was no room just now */
		return false;
	if (e->ops->send(e, &c->src, hark__buffer_head(&c->out), n) < 0)
		return false;
	c->bytes_out += n;
	hark__buffer_release(&c->out);
	return true;
}

ssize_t hark__conn_send(struct hark_conn *c, const struct iovec *iov, int count)
{
	for (;;) {
		int r = c->write_error < 0 ? c->write_error : hark__conn_expired(c);
		if (r < 0)
			return r;
		ssize_t n = -EAGAIN;
		if ((hark__ready(&c->src) & HARK__OUT) && !is_sending(c))
			n = send_once(c, iov, count);
		if (n > 0) {
			c->bytes_out += (uint64_t)n;
			(void)hark__fair(); /* a cancellation is told by the next call */
			return n;
		}
		if (n != -EAGAIN && n != -EINTR)
			return n;
		if (n == -EAGAIN) {
			hark__ready_clear(&c->src, HARK__OUT);
			r = hark__conn_wait(c, HARK__OUT, "write");
			if (r < 0)
				return r;
		}
	}
}

/* What failed once fails for good: some bytes may have left. */
static int keep_error(struct hark_conn *c, ssize_t n)
{
	hark__conn_keep_error(c, (int)n);
	hark__buffer_release(&c->out);
	return (int)n;
}

/* With out_lock, without waiting. -EAGAIN: there is no room now. */
static int flush_now(struct hark_conn *c)
{
	if (hand_over(c))
		return 0;
	if (is_sending(c) && hark__buffer_len(&c->out) > 0) {
		hark__ready_clear(&c->src, HARK__OUT);
		return -EAGAIN;
	}
	while (hark__buffer_len(&c->out) > 0 && c->write_error == 0) {
		struct iovec v = {.iov_base = hark__buffer_head(&c->out), .iov_len = hark__buffer_len(&c->out)};
		ssize_t n = send_once(c, &v, 1);
		if (n == -EINTR)
			continue;
		if (n == -EAGAIN) {
			hark__ready_clear(&c->src, HARK__OUT);
			return -EAGAIN;
		}
		if (n < 0)
			return keep_error(c, n);
		c->bytes_out += (uint64_t)n;
		hark__buffer_consume(&c->out, (size_t)n);
	}
	return 0;
}

/* Waits until what the engine took has left. Who may not wait has it tried at least: it may not have come to that yet.
 */
static int await_sent(struct hark_conn *c)
{
	while (is_sending(c) && c->write_error == 0) {
		hark__ready_clear(&c->src, HARK__OUT);
		int r = hark__conn_wait(c, HARK__OUT, "write");
		if (r < 0 && is_sending(c))
			(void)c->src.engine->ops->wait(c->src.engine, 0);
		if (r < 0 && is_sending(c))
			return r;
	}
	return c->write_error;
}

/* With the writer's role and out_lock. */
static int flush_all(struct hark_conn *c)
{
	int r = await_sent(c);
	if (r < 0)
		return keep_error(c, r);
	while (hark__buffer_len(&c->out) > 0 && c->write_error == 0) {
		struct iovec v = {.iov_base = hark__buffer_head(&c->out), .iov_len = hark__buffer_len(&c->out)};
		ssize_t n = hark__conn_send(c, &v, 1);
		if (n < 0)
			return keep_error(c, n);
		hark__buffer_consume(&c->out, (size_t)n);
	}
	return c->write_error;
}

/* ---- receiving ------------------------------------------------------------------------------- */

static ssize_t receive_file(struct hark_conn *c, void *buf, size_t cap)
{
	if (!c->src.nonblock && !poll_now(c->src.fd, POLLIN))
		return -EAGAIN;
	ssize_t n = hark__sys.read(c->src.fd, buf, cap);
	return n < 0 ? -errno : n;
}

static ssize_t receive_once(struct hark_conn *c, void *buf, size_t cap)
{
	struct hark__engine *e = c->src.engine;
	if (c->kind == HARK__FILE)
		return receive_file(c, buf, cap);
	if (e != NULL && e->ops->recv != NULL && c->src.stream)
		return e->ops->recv(e, &c->src, buf, cap);
	ssize_t n = hark__sys.recv(c->src.fd, buf, cap, MSG_DONTWAIT);
	return n < 0 ? -errno : n;
}

ssize_t hark__conn_receive(struct hark_conn *c, void *buf, size_t cap)
{
	ssize_t n;
	if (!(hark__ready(&c->src) & HARK__IN))
		return -EAGAIN;
	do
		n = receive_once(c, buf, cap);
	while (n == -EINTR);
	if (n == -EAGAIN || (n > 0 && (size_t)n < cap && c->kind == HARK__STREAM && c->src.engine != NULL &&
	                     !(hark__ready(&c->src) & HARK__HUP)))
		hark__ready_clear(&c->src, HARK__IN);
	if (n > 0)
		c->bytes_in += (uint64_t)n;
	else if (n == 0)
		n = hark__conn_ended(c);
	return n;
}

/* What was written must not stay behind while the reader waits for the answer to it. Never waits itself; what the
 * kernel has no room for now is seen to when there is: HARK__OUT is returned then. If the writer is at work just now,
 * it sees waiting_in when it is done. Errors are the writer's: a peer that has gone may still have left something to
 * read. Not inlined: the stack of who waits next is put aside whole. */
static __attribute__((noinline)) unsigned flush_before_wait(struct hark_conn *c)
{
	unsigned more = 0;
	put(c, &c->waiting_in, true);
	if (!try_out(c))
		return 0;
	if (hark__buffer_len(&c->out) > 0 && flush_now(c) == -EAGAIN)
		more = HARK__OUT;
	unlock_out(c);
	return more;
}

int hark__conn_wait_in(struct hark_conn *c, unsigned events, const char *doing)
{
	int r = 0;
	unsigned more = flush_before_wait(c);
	if (!(hark__ready(&c->src) & HARK__IN))
		r = hark__conn_wait(c, events | more, doing);
	put(c, &c->waiting_in, false);
	if (r == 0 && (events & HARK__DRAIN) && !(hark__ready(&c->src) & HARK__IN) &&
	    hark_drain_deadline() != HARK_FOREVER)
		return -EAGAIN;
	return r;
}

/* Receives at least a byte, waiting if it must. */
static ssize_t receive(struct hark_conn *c, void *buf, size_t cap, const char *doing)
{
	for (;;) {
		if (c->eof)
			return 0;
		int r = hark__conn_expired(c);
		if (r < 0)
			return r;
		ssize_t n = hark__conn_receive(c, buf, cap);
		if (n > 0)
			(void)hark__fair(); /* a cancellation is told by the next call: these bytes are not lost */
		if (n != -EAGAIN)
			return n;
		r = hark__conn_wait_in(c, HARK__IN, doing);
		if (r < 0)
			return r;
	}
}

/* Receives into the buffer what is there. */
static ssize_t fill_now(struct hark_conn *c)
{
	if (c->eof)
		return 0;
	int r = hark__conn_expired(c);
	if (r < 0)
		return r;
	if (!(hark__ready(&c->src) & HARK__IN))
		return -EAGAIN; /* before a buffer is taken: idle connections hold none */
	r = hark__buffer_reserve(&c->in, HARK__BUFFER_BYTES / 4);
	if (r < 0)
		return r;
	ssize_t n = hark__conn_receive(c, c->in.data + c->in.tail, c->in.cap - c->in.tail);
	if (n > 0)
		c->in.tail += (uint32_t)n;
	else if (hark__buffer_len(&c->in) == 0)
		hark__buffer_release(&c->in);
	return n;
}

ssize_t hark__conn_fill(struct hark_conn *c, unsigned events, const char *doing)
{
	if (hark_type(c) == SOCK_DGRAM)
		return hark__datagram_fill(c, events, doing);
	for (;;) {
		ssize_t n = fill_now(c);
		if (n > 0)
			(void)hark__fair();
		if (n != -EAGAIN || events == 0)
			return n;
		int r = hark__conn_wait_in(c, events, doing);
		if (r < 0)
			return r;
	}
}

/* ---- reading --------------------------------------------------------------------------------- */

static ssize_t read_some(struct hark_conn *c, void *buf, size_t cap)
{
	if (hark_type(c) == SOCK_DGRAM)
		return hark__datagram_read(c, buf, cap);
	if (hark__buffer_len(&c->in) > 0)
		return (ssize_t)hark__buffer_take(&c->in, buf, cap);
	if (cap >= READ_DIRECT)
		return receive(c, buf, cap, "read");
	ssize_t n = hark__conn_fill(c, HARK__IN, "read");
	return n <= 0 ? n : (ssize_t)hark__buffer_take(&c->in, buf, cap);
}

ssize_t hark_read(struct hark_conn *c, void *buf, size_t cap)
{
	if (cap == 0)
		return -EINVAL;
	int r = hark__conn_begin(c, &c->reading);
	if (r < 0)
		return r;
	ssize_t n = read_some(c, buf, cap);
	hark__conn_end(c, &c->reading);
	return n;
}

/* Buffers until n bytes are there. Returns how many are: fewer only at the end (0 in *end too) or with -errno in *end.
 */
static size_t gather(struct hark_conn *c, size_t n, ssize_t *end)
{
	*end = 1;
	while (hark__buffer_len(&c->in) < n && *end > 0) {
		int r = hark__buffer_reserve(&c->in, n - hark__buffer_len(&c->in));
		*end = r < 0 ? r : hark__conn_fill(c, HARK__IN, "read");
	}
	return hark__buffer_len(&c->in);
}

/* Puts bytes that were read back in front of what is buffered. 0 or -ENOMEM. */
static int unread(struct hark_conn *c, const void *bytes, size_t n)
{
	size_t len = hark__buffer_len(&c->in);
	int r = hark__buffer_reserve(&c->in, n);
	if (r < 0)
		return r;
	memmove(hark__buffer_head(&c->in) + n, hark__buffer_head(&c->in), len);
	memcpy(hark__buffer_head(&c->in), bytes, n);
	c->in.tail += (uint32_t)n;
	return 0;
}

ssize_t hark_readn(struct hark_conn *c, void *buf, size_t n)
{
	ssize_t end;
	size_t done = 0;
	int r = hark__conn_begin(c, &c->reading);
	if (r < 0)
		return r;
	if (n > HARK__BUFFER_BYTES && hark_type(c) == SOCK_STREAM) /* big ones: most of it straight to its place */
		while (n - done > HARK__BUFFER_BYTES) {
			end = read_some(c, (char *)buf + done, n - done);
			if (end <= 0)
				goto out;
			done += (size_t)end;
		}
	end = 1;
	if (gather(c, n - done, &end) >= n - done)
		done += hark__buffer_take(&c->in, (char *)buf + done, n - done);
out:
	if (done < n) {
		r = done > 0 ? unread(c, buf, done) : 0;
		end = r < 0 ? r : end < 0 ? end : hark__buffer_len(&c->in) == 0 ? 0 : -ENODATA;
	} else {
		end = (ssize_t)n;
	}
	if (hark__buffer_len(&c->in) == 0)
		c->have_datagram = false;
	hark__conn_end(c, &c->reading);
	return end;
}

/* The line's length with its '\n'; 0 at the end; -EMSGSIZE. Looks at each byte once. */
static ssize_t find_line(struct hark_conn *c, size_t max)
{
	size_t seen = 0;
	for (;;) {
		size_t len = hark__buffer_len(&c->in);
		if (len > max)
			len = max;
		char *nl = len > seen ? memchr(hark__buffer_head(&c->in) + seen, '\n', len - seen) : NULL;
		if (nl != NULL)
			return nl - hark__buffer_head(&c->in) + 1;
		if (len == max)
			return -EMSGSIZE;
		seen = len;
		ssize_t n = hark__conn_fill(c, HARK__IN, "read line");
		if (n < 0)
			return n;
		if (n == 0)
			return (ssize_t)hark__buffer_len(&c->in);
	}
}

ssize_t hark_readline(struct hark_conn *c, char *buf, size_t cap)
{
	if (cap < 2)
		return -EINVAL;
	int r = hark__conn_begin(c, &c->reading);
	if (r < 0)
		return r;
	ssize_t n = find_line(c, cap - 1);
	if (n >= 0) {
		(void)hark__buffer_take(&c->in, buf, (size_t)n);
		buf[n] = '\0';
		if (hark__buffer_len(&c->in) == 0)
			c->have_datagram = false;
	}
	hark__conn_end(c, &c->reading);
	return n;
}

ssize_t hark_peek(struct hark_conn *c, void *buf, size_t cap)
{
	if (cap == 0)
		return -EINVAL;
	int r = hark__conn_begin(c, &c->reading);
	if (r < 0)
		return r;
	ssize_t n = 1;
	if (hark__buffer_len(&c->in) == 0)
		n = hark__conn_fill(c, HARK__IN, "peek");
	if (n > 0) {
		size_t len = hark__buffer_len(&c->in);
		n = (ssize_t)(len < cap ? len : cap);
		memcpy(buf, hark__buffer_head(&c->in), (size_t)n);
	}
	hark__conn_end(c, &c->reading);
	return n;
}

/* ---- writing --------------------------------------------------------------------------------- */

/* Sends the buffer and then all of iov, without copying. iov is the function's own to change. */
static int send_all(struct hark_conn *c, struct iovec *iov, int count)
{
	int r = flush_all(c);
	while (r == 0 && count > 0) {
		if (iov->iov_len == 0) {
			iov++;
			count--;
			continue;
		}
		ssize_t n = hark__conn_send(c, iov, count < IOV_MAX ? count : IOV_MAX);
		if (n < 0)
			return keep_error(c, n);
		for (; n > 0; iov++, count--) {
			size_t step = (size_t)n < iov->iov_len ? (size_t)n : iov->iov_len;
			iov->iov_base = (char *)iov->iov_base + step;
			iov->iov_len -= step;
			n -= (ssize_t)step;
			if (iov->iov_len > 0)
				break;
		}
	}
	return r;
}

static int write_locked(struct hark_conn *c, const struct iovec *iov, int count, size_t total)
{
	if (c->write_error < 0)
		return c->write_error;
	if (total + hark__buffer_len(&c->out) <= HARK__BUFFER_BYTES && hark__buffer_reserve(&c->out, total) == 0) {
		for (int i = 0; i < count; i++)
			hark__buffer_append(&c->out, iov[i].iov_base, iov[i].iov_len);
		return hark__buffer_len(&c->out) == HARK__BUFFER_BYTES ? flush_all(c) : 0;
	}
	struct iovec few[IOV_STACK];
	struct iovec *mine = count <= IOV_STACK ? few : hark__sys.malloc((size_t)count * sizeof *mine);
	if (mine == NULL)
		return -ENOMEM;
	memcpy(mine, iov, (size_t)count * sizeof *mine);
	int r = send_all(c, mine, count);
	if (mine != few)
		free(mine);
	return r;
}

/* Ends a write. A reader that began to wait meanwhile has seen the lock taken, and left the bytes to us. */
static int unlock_and_look(struct hark_conn *c, int r)
{
	unlock_out(c);
	while (r == 0 && atomic_load(&c->waiting_in) && try_out(c)) {
		bool left = hark__buffer_len(&c->out) > 0;
		if (left)
			r = flush_all(c);
		unlock_out(c);
		if (!left)
			break;
	}
	return r;
}

ssize_t hark_writev(struct hark_conn *c, const struct iovec *iov, int count)
{
	size_t total = 0;
	if (count < 0)
		return -EINVAL;
	for (int i = 0; i < count; i++)
		total += iov[i].iov_len;
	if (total > SSIZE_MAX)
		return -EINVAL;
	int r = hark__conn_begin(c, &c->writing);
	if (r < 0)
		return r;
	if (hark_type(c) == SOCK_DGRAM) {
		r = hark__datagram_write(c, iov, count, total);
	} else if (total > 0) {
		lock_out(c);
		r = unlock_and_look(c, write_locked(c, iov, count, total));
	}
	hark__conn_end(c, &c->writing);
	return r < 0 ? r : (ssize_t)total;
}

ssize_t hark_write(struct hark_conn *c, const void *buf, size_t n)
{
	struct iovec v = {.iov_base = (void *)buf, .iov_len = n};
	return hark_writev(c, &v, 1);
}

/* With both roles. The reader's buffer becomes the writer's where that one holds none: nothing is copied. */
static int pass_buffer(struct hark_conn *from, struct hark_conn *to)
{
	struct iovec v = {.iov_base = hark__buffer_head(&from->in), .iov_len = hark__buffer_len(&from->in)};
	size_t n = v.iov_len;
	lock_out(to);
	int r = to->write_error;
	if (r == 0 && to->out.data == NULL && from->in.cap == HARK__BUFFER_BYTES) {
		to->out = from->in;
		from->in = (struct hark__buffer){0};
		if (n == HARK__BUFFER_BYTES)
			r = flush_all(to);
	} else if (r == 0) {
		r = write_locked(to, &v, 1, n);
		hark__buffer_consume(&from->in, n);
	}
	return unlock_and_look(to, r);
}

/* With the reader's role of from. */
static ssize_t pass_buffered(struct hark_conn *from, struct hark_conn *to)
{
	ssize_t n = (ssize_t)hark__buffer_len(&from->in);
	if (n == 0)
		n = hark__conn_fill(from, HARK__IN, "pass");
	if (n <= 0)
		return n;
	int r = hark__conn_begin(to, &to->writing);
	if (r == 0) {
		r = pass_buffer(from, to);
		hark__splice_note(from, to, n == HARK__BUFFER_BYTES);
		hark__conn_end(to, &to->writing);
	}
	return r < 0 ? r : n;
}

/* The same. -EOPNOTSUPP before anything has moved: a buffer must do. */
static ssize_t pass_spliced(struct hark_conn *from, struct hark_conn *to)
{
	for (;;) {
		int r = hark__conn_begin(to, &to->writing); /* not while we wait for something to write */
		if (r < 0)
			return r;
		lock_out(to);
		r = flush_all(to);
		unlock_out(to);
		ssize_t n = r < 0 ? r : hark__splice(from, to);
		hark__conn_end(to, &to->writing);
		if (n != -EAGAIN)
			return n;
		r = hark__conn_wait_in(from, HARK__IN, "pass");
		if (r < 0)
			return r;
	}
}

ssize_t hark_pass(struct hark_conn *from, struct hark_conn *to)
{
	if (hark_type(from) == SOCK_DGRAM || hark_type(to) == SOCK_DGRAM)
		return -EOPNOTSUPP;
	int r = hark__conn_begin(from, &from->reading);
	if (r < 0)
		return r;
	ssize_t n = hark__splice_may(from, to) ? pass_spliced(from, to) : -EOPNOTSUPP;
	if (n == -EOPNOTSUPP)
		n = pass_buffered(from, to);
	hark__conn_end(from, &from->reading);
	return n;
}

ssize_t hark_vprintf(struct hark_conn *c, const char *format, va_list args)
{
	char few[512];
	va_list again;
	va_copy(again, args);
	int n = vsnprintf(few, sizeof few, format, args);
	ssize_t r = -EINVAL;
	if (n >= 0 && (size_t)n < sizeof few) {
		r = hark_write(c, few, (size_t)n);
	} else if (n >= 0) {
		char *all = hark__sys.malloc((size_t)n + 1);
		r = -ENOMEM;
		if (all != NULL) {
			(void)vsnprintf(all, (size_t)n + 1, format, again);
			r = hark_write(c, all, (size_t)n);
			free(all);
		}
	}
	va_end(again);
	return r;
}

ssize_t hark_printf(struct hark_conn *c, const char *format, ...)
{
	va_list args;
	va_start(args, format);
	ssize_t r = hark_vprintf(c, format, args);
	va_end(args);
	return r;
}

int hark__conn_flush_last(struct hark_conn *c)
{
	c->ending = true;
	return hark_flush(c);
}

int hark_flush(struct hark_conn *c)
{
	if (hark_type(c) == SOCK_DGRAM)
		return 0;
	int r = take(c, &c->writing)
	                ? 0
	                : -EBUSY; /* of a cancelled fiber, too: closing sends what can be sent without waiting */
	if (r < 0)
		return r;
	lock_out(c);
	r = flush_all(c);
	unlock_out(c);
	hark__conn_end(c, &c->writing);
	return r;
}
