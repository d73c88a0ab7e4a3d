/* sends_support.h — a box that answers short, and a peer with tiny buffers that reads late: a few answers block it. */
#ifndef SENDS_SUPPORT_H
#define SENDS_SUPPORT_H

#include "modes.h"

#include "conn/conn.h"

#define TINY  2048           /* bytes asked for as a socket's buffer */
#define SHORT 1500           /* bytes of an answer: the engine has room for it */
#define CALM  (60 * HARK_MS) /* longer than an acknowledgement is delayed */
#define SOON  (10 * HARK_S)  /* bounds what must not hang */
#define SLOTS 64             /* of engine_uring.c */

#define UNTIL(condition) \
	do { \
		int64_t end_ = hark_after(SOON); \
		while (!(condition)) { \
			CHECK(hark_now() < end_); \
			CHECK_INT(hark_sleep(HARK_MS), 0); \
		} \
	} while (0)

struct box {
	struct hark_conn *c;
	int peer;     /* the other end, a plain descriptor */
	size_t len;   /* of an answer */
	size_t at;    /* bytes written */
	size_t taken; /* bytes that the peer has read */
	int asked, answered;
	ssize_t end; /* what the last read said */
};

static inline struct box box_new(int buffers)
{
	int fds[2];
	raw_tcp_sized(fds, buffers);
	return (struct box){.c = conn_of(fds[1]), .peer = fds[0], .len = SHORT, .end = 1};
}

static inline void box_drop(struct box *b)
{
	hark_abort(b->c);
	(void)close(b->peer);
}

static inline ssize_t put(struct box *b, size_t n)
{
	char *bytes = malloc(n);
	CHECK(bytes != NULL);
	pattern_fill(bytes, b->at, n);
	b->at += n;
	ssize_t r = hark_write(b->c, bytes, n);
	free(bytes);
	return r;
}

/* An answer for each byte that comes, until 'q'. */
static inline void serve(void *arg)
{
	struct box *b = arg;
	char byte;
	while ((b->end = hark_read(b->c, &byte, 1)) > 0 && byte != 'q') {
		CHECK_INT(put(b, b->len), b->len);
		b->answered++;
	}
}

static inline size_t counted(const struct box *b)
{
	struct hark_conn_stats stats;
	hark_conn_stats(b->c, &stats);
	return stats.bytes_out;
}

/* Whether some of what was written did not leave yet. */
static inline bool is_left(const struct box *b)
{
	return b->c->src.sending || hark__buffer_len(&b->c->out) > 0;
}

static inline void ask(struct box *b)
{
	CHECK_INT(send(b->peer, "x", 1, 0), 1);
	b->asked++;
	UNTIL(b->answered == b->asked && atomic_load(&b->c->waiting_in));
	CHECK_INT(hark_sleep(HARK_MS), 0);
}

/* The peer reads what is there, at most max bytes: how many; 0: nothing; -1: the end; -errno. */
static inline ssize_t take_some(struct box *b, size_t max)
{
	char buf[4096];
	ssize_t n = recv(b->peer, buf, max < sizeof buf ? max : sizeof buf, MSG_DONTWAIT);
	if (n < 0)
		return errno == EAGAIN ? 0 : -errno;
	CHECK(pattern_is(buf, b->taken, (size_t)n));
	b->taken += (size_t)n;
	return n == 0 ? -1 : n;
}

/* The peer reads until it has n bytes in all. */
static inline void take(struct box *b, size_t n)
{
	while (b->taken < n) {
		ssize_t r = take_some(b, n - b->taken);
		CHECK(r >= 0);
		if (r == 0)
			CHECK(hark_wait_fd(b->peer, HARK_IN, hark_after(SOON)) > 0);
	}
}

#endif
