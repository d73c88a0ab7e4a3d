/* stream.c — reading, writing and the request boundary. Every call tries first; where it would block it waits
 * in hark__conn_wait(). What lies below is the transport's business.
 *
 * One reader and one writer at a time, each a fiber of one loop or a thread. */
#include <errno.h>
#include <limits.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/sys.h"
#include "conn/attempt.h"
#include "conn/conn.h"
#include "conn/datagram.h"
#include "loop/drain.h"
#include "loop/fiber.h"

#define READ_DIRECT   2048   /* reads of at least so many bytes go past the buffer */
#define IOV_STACK     8      /* pieces of a writev that need no allocation */
#define FIRST_BYTE_NS HARK_S /* after a drain's beginning: for who has not spoken yet */

/* ---- sending --------------------------------------------------------------------------------- */

static bool try_out(struct hark_conn *c)
{
	return hark__conn_take(c, &c->out_lock);
}

/* The writer's: held by another thread's reader for one system call at most; by another fiber never. */
static void lock_out(struct hark_conn *c)
{
	while (!try_out(c))
		(void)sched_yield();
}

static void unlock_out(struct hark_conn *c)
{
	hark__conn_put(c, &c->out_lock, false);
}

void hark__conn_set_ending(struct hark_conn *c, enum hark__ending ending)
{
	lock_out(c);
	c->ending = (uint8_t)ending & 3;
	unlock_out(c);
}

/* Some of iov, waiting if it must. > 0 or -errno. */
static ssize_t send_some(struct hark_conn *c, const struct iovec *iov, int count)
{
	for (;;) {
		int r = c->write_error < 0 ? c->write_error : c->ending ? 0 : hark__conn_expired(c);
		if (r < 0)
			return r;
		ssize_t n = hark__conn_transport(c)->send(c, iov, count);
		if (n > 0) {
			c->bytes_out += (uint64_t)n;
			(void)hark__fair(); /* a cancellation is told by the next call */
		}
		if (n != -EAGAIN)
			return n;
		hark__ready_clear(&c->src, HARK__OUT);
		r = hark__conn_wait(c, HARK__OUT, "write");
		if (r < 0)
			return r;
	}
}

/* What failed once fails for good: some bytes may have left. */
static int keep_error(struct hark_conn *c, ssize_t n)
{
	hark__conn_keep_error(c, (int)n);
	hark__buffer_release(&c->out);
	return (int)n;
}

/* Has the transport send what is buffered, if it sends for many at a time. */
static bool post(struct hark_conn *c)
{
	const struct hark__transport *t = hark__conn_transport(c);
	size_t n = hark__buffer_len(&c->out);
	if (t->post == NULL || n == 0 || c->write_error < 0 || !t->post(c, hark__buffer_head(&c->out), n))
		return false;
	c->bytes_out += n;
	hark__buffer_release(&c->out);
	return true;
}

/* What the transport still holds, without waiting. */
static int push_now(struct hark_conn *c)
{
	const struct hark__transport *t = hark__conn_transport(c);
	if (t->push == NULL || c->write_error < 0)
		return c->write_error;
	int r = t->push(c);
	if (r == -EAGAIN)
		hark__ready_clear(&c->src, HARK__OUT);
	else if (r < 0)
		return keep_error(c, r);
	return r;
}

/* With out_lock, without waiting. -EAGAIN: there is no room now. */
static int flush_now(struct hark_conn *c)
{
	if (post(c))
		return 0;
	while (hark__buffer_len(&c->out) > 0 && c->write_error == 0) {
		struct iovec v = {.iov_base = hark__buffer_head(&c->out), .iov_len = hark__buffer_len(&c->out)};
		ssize_t n = hark__conn_transport(c)->send(c, &v, 1);
		if (n == -EAGAIN) {
			hark__ready_clear(&c->src, HARK__OUT);
			return -EAGAIN;
		}
		if (n < 0)
			return keep_error(c, n);
		c->bytes_out += (uint64_t)n;
		hark__buffer_consume(&c->out, (size_t)n);
	}
	return push_now(c);
}

/* What the engine took is tried first; what it had no room for is in c->out again. */
static int settle(struct hark_conn *c)
{
	if (hark__conn_is_sending(c))
		c->src.engine->ops->batch->settle(c->src.engine);
	return c->write_error;
}

/* The same, waiting. */
static int push_all(struct hark_conn *c)
{
	for (;;) {
		int r = push_now(c);
		if (r != -EAGAIN)
			return r;
		r = c->ending ? 0 : hark__conn_expired(c);
		if (r == 0)
			r = hark__conn_wait(c, HARK__OUT, "write");
		if (r < 0)
			return keep_error(c, r);
	}
}

/* With the writer's role and out_lock. */
static int flush_all(struct hark_conn *c)
{
	int r = settle(c);
	if (r < 0)
		return keep_error(c, r);
	while (hark__buffer_len(&c->out) > 0 && c->write_error == 0) {
		struct iovec v = {.iov_base = hark__buffer_head(&c->out), .iov_len = hark__buffer_len(&c->out)};
		ssize_t n = send_some(c, &v, 1);
		if (n < 0)
			return keep_error(c, n);
		hark__buffer_consume(&c->out, (size_t)n);
	}
	return push_all(c);
}

/* ---- receiving ------------------------------------------------------------------------------- */

ssize_t hark__conn_receive(struct hark_conn *c, void *buf, size_t cap)
{
	ssize_t n = hark__conn_transport(c)->receive(c, buf, cap);
	if (n > 0)
		c->bytes_in += (uint64_t)n;
	else if (n == 0)
		n = hark__conn_ended(c);
	return n;
}

ssize_t hark__conn_look(struct hark_conn *c, void *buf, size_t cap)
{
	ssize_t n;
	if (!(hark__ready(&c->src) & HARK__IN))
		return -EAGAIN;
	do
		n = hark__sys.recv(c->src.fd, buf, cap, MSG_PEEK | MSG_DONTWAIT);
	while (n < 0 && errno == EINTR);
	if (n < 0 && errno == EAGAIN)
		hark__ready_clear(&c->src, HARK__IN);
	if (n < 0)
		return -errno;
	return n == 0 ? hark__conn_ended(c) : n;
}

/* Sending has failed by a want of ours: the peer, which is there, waits for what is lost, and no event comes. */
static bool is_our_want(int error)
{
	return error == -ENOBUFS || error == -ENOMEM || error == -EPROTO; /* of TLS, which has no room either */
}

/* What was written must not stay behind while the reader waits for the answer to it. Never waits itself; what the
 * kernel has no room for now is seen to when there is: HARK__OUT is returned then. If the writer is at work just now,
 * it sees waiting_in when it is done. Errors are the writer's: a peer that has gone may still have left something to
 * read; but the reader's, too, where it would wait in vain: -errno. Not inlined: the stack of who waits next is put
 * aside whole. */
static __attribute__((noinline)) int flush_before_wait(struct hark_conn *c)
{
	int r = 0;
	hark__conn_put(c, &c->waiting_in, true);
	if (!try_out(c))
		return 0;
	if ((hark__buffer_len(&c->out) > 0 || hark__conn_transport(c)->push != NULL) && flush_now(c) == -EAGAIN)
		r = HARK__OUT;
	if (is_our_want(c->write_error))
		r = c->write_error;
	unlock_out(c);
	return r;
}

int hark__conn_wait_in(struct hark_conn *c, unsigned events, const char *doing)
{
	int r = 0;
	if ((hark__ready(&c->src) & HARK__IN) && !c->syn_due)
		return 0;
	int more = flush_before_wait(c);
	if (c->syn_due)
		hark__attempt_send_syn(c);
	r = more < 0 ? more : hark__conn_wait(c, events | (unsigned)more, doing);
	hark__conn_put(c, &c->waiting_in, false);
	(void)settle(c); /* the wait may have been none, and who goes on with c may be another thread */
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

/* Receives into the buffer what is there; in bulk more at a time. */
static ssize_t fill_now(struct hark_conn *c)
{
	if (c->eof)
		return 0;
	int r = hark__conn_expired(c);
	if (r < 0)
		return r;
	if (!(hark__ready(&c->src) & HARK__IN) && hark__conn_transport(c)->pending(c) == 0)
		return -EAGAIN; /* before a buffer is taken: idle connections hold none */
	bool wide = c->in.data == NULL && hark__bulk_is_wide(c);
	r = hark__buffer_reserve(&c->in, wide ? HARK__BUFFER_WIDE : HARK__BUFFER_BYTES / 4);
	if (r < 0)
		return r;
	ssize_t n = hark__conn_receive(c, c->in.data + c->in.tail, wide ? HARK__BULK_BYTES : c->in.cap - c->in.tail);
	if (n > 0)
		c->in.tail += (uint32_t)n;
	else if (hark__buffer_len(&c->in) == 0)
		hark__buffer_release(&c->in);
	return n;
}

ssize_t hark__conn_fill(struct hark_conn *c, unsigned events, const char *doing)
{
	if (c->datagrams)
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
	if (c->datagrams)
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
	if (n > HARK__BUFFER_BYTES && !c->datagrams) /* big ones: most of it straight to its place */
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
		cap = cap < HARK__BUFFER_BYTES ? cap : HARK__BUFFER_BYTES;
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
		ssize_t n = send_some(c, iov, count < IOV_MAX ? count : IOV_MAX);
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
	return r < 0 ? r : push_all(c);
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

int hark__conn_write(struct hark_conn *c, const struct iovec *iov, int count, size_t total)
{
	if (total == 0)
		return 0;
	lock_out(c);
	return unlock_and_look(c, write_locked(c, iov, count, total));
}

int hark__conn_write_buffer(struct hark_conn *c, struct hark__buffer *b)
{
	struct iovec v = {.iov_base = hark__buffer_head(b), .iov_len = hark__buffer_len(b)};
	lock_out(c);
	int r = c->write_error;
	if (r == 0 && c->out.data == NULL && b->cap == HARK__BUFFER_BYTES) {
		c->out = *b;
		*b = (struct hark__buffer){0};
		if (v.iov_len == HARK__BUFFER_BYTES)
			r = flush_all(c);
	} else if (r == 0) {
		r = write_locked(c, &v, 1, v.iov_len);
		hark__buffer_consume(b, v.iov_len);
	}
	unlock_out(c); /* though a reader beside may wait: more may follow at once, and then a flush */
	return r;
}

void hark__conn_fail(struct hark_conn *c, int error)
{
	lock_out(c);
	(void)keep_error(c, error);
	unlock_out(c);
}

int hark__conn_begin_write(struct hark_conn *c, bool something)
{
	int r = hark__conn_begin(c, &c->writing);
	if (something && (r == -ECANCELED || r == -ETIMEDOUT) && !c->datagrams &&
	    hark__conn_take_role(c, &c->writing)) {
		if (c->ending != HARK__ENDED)
			hark__conn_fail(c, r);
		hark__conn_end(c, &c->writing);
	}
	if (r == 0 && c->ending == HARK__ENDED) {
		hark__conn_end(c, &c->writing);
		r = -EPIPE;
	}
	return r;
}

/* sendmsg(2) takes IOV_MAX pieces: more are joined first. */
static int write_datagram(struct hark_conn *c, const struct iovec *iov, int count, size_t total)
{
	if (count <= IOV_MAX)
		return hark__datagram_write(c, iov, count, total);
	char *all = hark__sys.malloc(total + 1), *at = all; /* never 0 bytes: NULL means failure */
	if (all == NULL)
		return -ENOMEM;
	for (int i = 0; i < count; at += iov[i].iov_len, i++)
		if (iov[i].iov_len > 0)
			memcpy(at, iov[i].iov_base, iov[i].iov_len);
	int r = hark__datagram_write(c, &(struct iovec){.iov_base = all, .iov_len = total}, 1, total);
	free(all);
	return r;
}

ssize_t hark_writev(struct hark_conn *c, const struct iovec *iov, int count)
{
	size_t total = 0;
	if (count < 0)
		return -EINVAL;
	for (int i = 0; i < count; i++) {
		if (iov[i].iov_len > SSIZE_MAX - total)
			return -EINVAL;
		total += iov[i].iov_len;
	}
	int r = hark__conn_begin_write(c, total > 0);
	if (r < 0)
		return r;
	r = c->datagrams ? write_datagram(c, iov, count, total) : hark__conn_write(c, iov, count, total);
	hark__conn_end(c, &c->writing);
	return r < 0 ? r : (ssize_t)total;
}

ssize_t hark_write(struct hark_conn *c, const void *buf, size_t n)
{
	struct iovec v = {.iov_base = (void *)buf, .iov_len = n};
	return hark_writev(c, &v, 1);
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

int hark__conn_flush(struct hark_conn *c)
{
	lock_out(c);
	int r = flush_all(c);
	unlock_out(c);
	return r;
}

int hark_flush(struct hark_conn *c)
{
	int r = hark__conn_begin(c, &c->writing);
	if (r < 0)
		return r;
	r = c->datagrams ? 0 : hark__conn_flush(c);
	hark__conn_end(c, &c->writing);
	return r;
}

int hark__conn_flush_last(struct hark_conn *c)
{
	if (c->datagrams)
		return 0;
	if (!hark__conn_take_role(c, &c->writing))
		return -EBUSY;
	if (c->ending == HARK__OPEN)
		hark__conn_set_ending(c, HARK__ENDING);
	int r = hark__conn_flush(c);
	hark__conn_end(c, &c->writing);
	return r;
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
	c->read_until = hark_now() + FIRST_BYTE_NS; /* not the deadline: a writer beside is not in that hurry */
	c->hurried = true;
	n = hark__conn_fill(c, HARK__IN, "first byte");
	c->hurried = false;
	return n == -ETIMEDOUT || n == -ECANCELED ? 0 : n;
}

/* As hark__conn_fill() without waiting, but leaves what is there to hark_pass(), which is about to splice it. */
static __attribute__((noinline)) ssize_t look(struct hark_conn *c)
{
	char byte;
	int r = hark__conn_expired(c);
	return r < 0 ? r : hark__conn_look(c, &byte, 1);
}

/* It waits here, few frames deep: the stack of an idle connection is put aside whole. */
static ssize_t idle_wait(struct hark_conn *c)
{
	bool on_loop = hark__loop_self() != NULL, datagram = c->datagrams;
	unsigned events = HARK__IN | (c->served ? HARK__DRAIN : 0);
	ssize_t n;
	if (on_loop)
		hark__fiber_idles(true);
	for (;;) {
		n = c->bulk && c->transport == HARK__SOCKET ? look(c)
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

int hark_ready(struct hark_conn *c)
{
	int r = hark__conn_begin(c, &c->reading);
	if (r < 0)
		return r;
	ssize_t n = hark__buffer_len(&c->in) > 0 || c->have_datagram ? 1
	            : c->bulk                                        ? -EAGAIN
	                                                             : hark__conn_fill(c, 0, "ready");
	hark__conn_end(c, &c->reading);
	return n > 0 || c->have_datagram ? 1 : (int)n;
}
