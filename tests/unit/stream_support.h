/* stream_support.h — what the tests of stream connections share: peers that write and read a pattern. */
#ifndef STREAM_SUPPORT_H
#define STREAM_SUPPORT_H

#include "modes.h"

#include "conn/conn.h"

#define MB ((size_t)1 << 20)

static inline void say(struct hark_conn *c, const char *text)
{
	CHECK_INT(hark_write(c, text, strlen(text)), (long long)strlen(text));
	CHECK_INT(hark_flush(c), 0);
}

struct chunks {
	struct hark_conn *c;
	size_t total;
	unsigned seed;
};

static inline void write_chunks(void *arg)
{
	struct chunks *w = arg;
	static char buf[50000];
	for (size_t at = 0; at < w->total;) {
		size_t n = (size_t)rand_r(&w->seed) % (rand_r(&w->seed) % 8 == 0 ? sizeof buf : 300) + 1;
		if (n > w->total - at)
			n = w->total - at;
		pattern_fill(buf, at, n);
		CHECK_INT(hark_write(w->c, buf, n), (long long)n);
		at += n;
		if (rand_r(&w->seed) % 16 == 0)
			CHECK_INT(hark_flush(w->c), 0);
	}
	CHECK_INT(hark_shutdown(w->c, HARK_OUT), 0);
}

/* How many bytes have arrived at the raw descriptor; none are taken. */
static inline int arrived(int fd)
{
	static char buf[1 << 17];
	ssize_t n = recv(fd, buf, sizeof buf, MSG_PEEK | MSG_DONTWAIT);
	return n < 0 ? -errno : (int)n;
}

struct reading {
	struct hark_conn *c;
	ssize_t got;
	char buf[64];
};

static inline void read_beside(void *arg)
{
	struct reading *r = arg;
	r->got = hark_read(r->c, r->buf, sizeof r->buf);
}

/* Until whoever runs beside waits to read, or is about to. */
static inline void until_it_reads(struct hark_conn *c)
{
	while (!atomic_load(&c->waiting_in))
		CHECK_INT(hark_sleep(HARK_MS), 0);
	CHECK_INT(hark_sleep(10 * HARK_MS), 0);
}

struct sink {
	struct hark_conn *c;
	size_t got;
	ssize_t end;
	int64_t pause_ns;
	size_t piece;
};

static inline void drain_pattern(void *arg)
{
	struct sink *s = arg;
	char *buf = malloc(s->piece); /* its own: a read may let others run once it has its bytes */
	CHECK(buf != NULL);
	for (;;) {
		ssize_t n = hark_read(s->c, buf, s->piece);
		if (n <= 0) {
			s->end = n;
			free(buf);
			return;
		}
		CHECK(pattern_is(buf, s->got, (size_t)n));
		s->got += (size_t)n;
		if (s->pause_ns > 0)
			CHECK_INT(hark_sleep(s->pause_ns), 0);
	}
}

static inline char *pattern_alloc(size_t n)
{
	char *p = malloc(n);
	CHECK(p != NULL);
	pattern_fill(p, 0, n);
	return p;
}

static inline int temp_file(size_t n)
{
	char name[] = "/tmp/hark-stream-XXXXXX";
	int fd = mkostemp(name, O_CLOEXEC);
	CHECK(fd >= 0);
	(void)unlink(name);
	char *all = pattern_alloc(n);
	CHECK_INT(write(fd, all, n), (long long)n);
	free(all);
	return fd;
}

static inline void write_much(void *arg)
{
	char *all = pattern_alloc(4 * MB);
	CHECK_INT(hark_write(arg, all, 4 * MB), 4 * MB);
	free(all);
}

static inline void write_4mb_and_end(void *arg)
{
	write_much(arg);
	CHECK_INT(hark_shutdown(arg, HARK_OUT), 0);
}

#endif
