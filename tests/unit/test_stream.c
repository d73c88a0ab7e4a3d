/* test_stream.c — stream connections, the same bodies on a plain thread and on each engine's loop.
 *
 * What hark.h promises of reading, writing, ending and time, over socket pairs, TCP on loopback, pipes and files. */
#include "modes.h"

#include <limits.h>
#include <netinet/tcp.h>
#include <sys/time.h>

#include "base/sys.h"
#include "conn/conn.h"

#define MB ((size_t)1 << 20)

/* ---- reading --------------------------------------------------------------------------------- */

static void say(struct hark_conn *c, const char *text)
{
	CHECK_INT(hark_write(c, text, strlen(text)), (long long)strlen(text));
	CHECK_INT(hark_flush(c), 0);
}

static void read_body(void)
{
	char buf[2000];
	struct pair p = unix_pair();
	say(p.b, "hello");
	CHECK_INT(hark_read(p.a, buf, 0), -EINVAL);
	CHECK_INT(hark_read(p.a, buf, 2), 2);
	CHECK(memcmp(buf, "he", 2) == 0);
	CHECK_INT(hark_buffered(p.a), 3);
	CHECK_INT(hark_read(p.a, buf, sizeof buf), 3);
	CHECK(memcmp(buf, "llo", 3) == 0);
	say(p.b, "again");
	CHECK_INT(hark_read(p.a, buf, sizeof buf), 5);
	CHECK_INT(hark_shutdown(p.b, HARK_OUT), 0);
	CHECK_INT(hark_read(p.a, buf, sizeof buf), 0);
	CHECK_INT(hark_read(p.a, buf, 1), 0); /* the end stays */
	pair_drop(&p);
}

static void read_gives_what_is_there(void **state)
{
	(void)state;
	everywhere(read_body);
}

static void readn_body(void)
{
	char buf[16];
	struct pair p = unix_pair();
	say(p.b, "0123456789");
	CHECK_INT(hark_readn(p.a, buf, 4), 4);
	CHECK(memcmp(buf, "0123", 4) == 0);
	CHECK_INT(hark_readn(p.a, buf, 0), 0);
	CHECK_INT(hark_readn(p.a, buf, 6), 6);
	CHECK(memcmp(buf, "456789", 6) == 0);
	say(p.b, "xyz");
	CHECK_INT(hark_shutdown(p.b, HARK_OUT), 0);
	CHECK_INT(hark_readn(p.a, buf, 4), -ENODATA);
	CHECK_INT(hark_readn(p.a, buf, 3), 3); /* what came stayed */
	CHECK(memcmp(buf, "xyz", 3) == 0);
	CHECK_INT(hark_readn(p.a, buf, 1), 0);
	pair_drop(&p);
}

static void readn_is_exact_and_keeps_what_came_before_an_early_end(void **state)
{
	(void)state;
	everywhere(readn_body);
}

static void write_pattern(void *arg)
{
	struct hark_conn *c = arg;
	static char buf[40000];
	pattern_fill(buf, 0, sizeof buf);
	CHECK_INT(hark_write(c, buf, sizeof buf), sizeof buf);
	CHECK_INT(hark_shutdown(c, HARK_OUT), 0);
}

static void readn_big_body(void)
{
	static char buf[60000];
	struct beside b;
	struct pair p = tcp_pair();
	beside_start(&b, write_pattern, p.b);
	CHECK_INT(hark_readn(p.a, buf, sizeof buf), -ENODATA);
	beside_end(&b);
	CHECK_INT(hark_readn(p.a, buf, 40000), 40000);
	CHECK(pattern_is(buf, 0, 40000));
	CHECK_INT(hark_readn(p.a, buf, 20000), 0);
	pair_drop(&p);
}

static void readn_of_more_than_the_buffer_keeps_what_came_too(void **state)
{
	(void)state;
	everywhere(readn_big_body);
}

static void readn_times_out_body(void)
{
	static char buf[60000];
	struct pair p = unix_pair();
	pattern_fill(buf, 0, 30000);
	CHECK_INT(hark_write(p.b, buf, 30000), 30000);
	CHECK_INT(hark_flush(p.b), 0);
	hark_idle_timeout(p.a, 20 * HARK_MS);
	CHECK_INT(hark_readn(p.a, buf, sizeof buf), -ETIMEDOUT);
	memset(buf, 0, sizeof buf);
	CHECK_INT(hark_readn(p.a, buf, 30000), 30000); /* nothing was lost with the time-out */
	CHECK(pattern_is(buf, 0, 30000));
	pair_drop(&p);
}

static void readn_keeps_what_came_before_a_time_out(void **state)
{
	(void)state;
	everywhere(readn_times_out_body);
}

static void readline_body(void)
{
	char buf[64];
	struct pair p = unix_pair();
	say(p.b, "one\r\n\ntwelve chars\nlast");
	CHECK_INT(hark_readline(p.a, buf, 1), -EINVAL);
	CHECK_INT(hark_readline(p.a, buf, sizeof buf), 5);
	CHECK(strcmp(buf, "one\r\n") == 0);
	CHECK_INT(hark_readline(p.a, buf, 2), 1);
	CHECK(strcmp(buf, "\n") == 0);
	CHECK_INT(hark_readline(p.a, buf, 13), -EMSGSIZE); /* 12 characters and no room for the '\n' */
	CHECK_INT(hark_readline(p.a, buf, 14), 13);
	CHECK(strcmp(buf, "twelve chars\n") == 0);
	CHECK_INT(hark_shutdown(p.b, HARK_OUT), 0);
	CHECK_INT(hark_readline(p.a, buf, sizeof buf), 4);
	CHECK(strcmp(buf, "last") == 0);
	CHECK_INT(hark_readline(p.a, buf, sizeof buf), 0);
	pair_drop(&p);
}

static void readline_takes_one_line_and_leaves_the_rest(void **state)
{
	(void)state;
	everywhere(readline_body);
}

static void readline_limit_body(void)
{
	char buf[16], all[11];
	struct pair p = unix_pair();
	say(p.b, "0123456789");
	for (int i = 0; i < 3; i++)
		CHECK_INT(hark_readline(p.a, buf, 8), -EMSGSIZE);
	CHECK_INT(hark_readn(p.a, all, 10), 10);
	CHECK(memcmp(all, "0123456789", 10) == 0);
	pair_drop(&p);
}

static void readline_keeps_bytes_past_the_limit(void **state)
{
	(void)state;
	everywhere(readline_limit_body);
}

static void dribble(void *arg)
{
	struct hark_conn *c = arg;
	for (const char *s = "slow line\nnext\n"; *s != '\0'; s++) {
		CHECK_INT(hark_write(c, s, 1), 1);
		CHECK_INT(hark_flush(c), 0);
		CHECK_INT(hark_sleep(HARK_MS), 0);
	}
}

static void readline_dribbled_body(void)
{
	char buf[64];
	struct beside b;
	struct pair p = tcp_pair();
	beside_start(&b, dribble, p.b);
	CHECK_INT(hark_readline(p.a, buf, sizeof buf), 10);
	CHECK(strcmp(buf, "slow line\n") == 0);
	CHECK_INT(hark_readline(p.a, buf, sizeof buf), 5);
	CHECK(strcmp(buf, "next\n") == 0);
	beside_end(&b);
	pair_drop(&p);
}

static void readline_joins_what_comes_byte_by_byte(void **state)
{
	(void)state;
	everywhere(readline_dribbled_body);
}

static void readline_long_body(void)
{
	static char line[50001], buf[60000];
	struct beside b;
	struct pair p = tcp_pair();
	memset(line, 'x', sizeof line - 1);
	beside_start(&b, write_pattern, p.b); /* no line: a pattern, found by its own first '\n' */
	ssize_t n = hark_readline(p.a, buf, sizeof buf);
	CHECK(n > 0);
	CHECK(buf[n - 1] == '\n' && memchr(buf, '\n', (size_t)n) == buf + n - 1);
	CHECK(pattern_is(buf, 0, (size_t)n));
	beside_end(&b);
	pair_drop(&p);
	p = unix_pair();
	CHECK_INT(hark_write(p.b, line, sizeof line - 1), sizeof line - 1);
	say(p.b, "\n");
	CHECK_INT(hark_readline(p.a, buf, sizeof buf), 50001);
	CHECK(memcmp(buf, line, 50000) == 0);
	pair_drop(&p);
}

static void readline_takes_lines_longer_than_the_buffer(void **state)
{
	(void)state;
	everywhere(readline_long_body);
}

static void peek_body(void)
{
	char buf[64];
	static char big[30000];
	struct pair p = unix_pair();
	say(p.b, "abcdef");
	CHECK_INT(hark_peek(p.a, buf, 3), 3);
	CHECK_INT(hark_peek(p.a, buf, sizeof buf), 6);
	CHECK(memcmp(buf, "abcdef", 6) == 0);
	CHECK_INT(hark_read(p.a, buf, 1), 1);
	CHECK_INT(hark_peek(p.a, buf, sizeof buf), 5);
	CHECK(memcmp(buf, "bcdef", 5) == 0);
	CHECK_INT(hark_readn(p.a, buf, 5), 5);
	CHECK_INT(hark_write(p.b, big, sizeof big), sizeof big);
	CHECK_INT(hark_flush(p.b), 0);
	CHECK(hark_peek(p.a, big, sizeof big) <= 16384);
	CHECK_INT(hark_readn(p.a, big, sizeof big), sizeof big);
	CHECK_INT(hark_shutdown(p.b, HARK_OUT), 0);
	CHECK_INT(hark_peek(p.a, buf, 1), 0);
	pair_drop(&p);
}

static void peek_consumes_nothing(void **state)
{
	(void)state;
	everywhere(peek_body);
}

static void ends_body(void)
{
	char buf[64];
	struct pair p = tcp_pair();
	hark_abort(p.b);
	CHECK_INT(hark_read(p.a, buf, sizeof buf), -ECONNRESET);
	hark_abort(p.a);
	p = tcp_pair();
	say(p.b, "part");
	CHECK_INT(hark_peek(p.a, buf, sizeof buf), 4);
	hark_abort(p.b);
	CHECK_INT(hark_readn(p.a, buf, 8), -ECONNRESET);
	CHECK_INT(hark_readn(p.a, buf, 4), 4); /* came before the cut */
	hark_abort(p.a);
	p = tcp_pair();
	say(p.b, "part");
	CHECK_INT(hark_shutdown(p.b, HARK_OUT), 0);
	CHECK_INT(hark_readn(p.a, buf, 8), -ENODATA);
	pair_drop(&p);
}

static void the_end_a_cut_and_an_early_end_are_told_apart(void **state)
{
	(void)state;
	everywhere(ends_body);
}

struct chunks {
	struct hark_conn *c;
	size_t total;
	unsigned seed;
};

static void write_chunks(void *arg)
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

static void random_body(void)
{
	static char buf[70000];
	unsigned seed = 7;
	struct beside b;
	struct pair p = tcp_pair();
	struct chunks w = {.c = p.b, .total = 2 * MB, .seed = 11};
	beside_start(&b, write_chunks, &w);
	size_t at = 0;
	while (at < w.total) {
		size_t cap = (size_t)rand_r(&seed) % (rand_r(&seed) % 8 == 0 ? sizeof buf : 700) + 2;
		ssize_t n;
		switch (rand_r(&seed) % 4) {
		case 0: n = hark_read(p.a, buf, cap); break;
		case 1:
			n = hark_readn(p.a, buf, cap);
			if (n == -ENODATA)
				continue;
			CHECK_INT(n, (long long)cap);
			break;
		case 2:
			n = hark_readline(p.a, buf, cap);
			if (n == -EMSGSIZE)
				continue;
			CHECK(memchr(buf, '\n', (size_t)n) ==
			      (at + (size_t)n < w.total ? buf + n - 1 : memchr(buf, '\n', (size_t)n)));
			break;
		default:
			n = hark_peek(p.a, buf, cap);
			CHECK(n > 0);
			CHECK(pattern_is(buf, at, (size_t)n));
			continue;
		}
		CHECK(n > 0);
		CHECK(pattern_is(buf, at, (size_t)n));
		at += (size_t)n;
	}
	CHECK_INT(hark_read(p.a, buf, 1), 0);
	beside_end(&b);
	pair_drop(&p);
}

static void any_mixture_of_reads_gives_the_stream_in_order(void **state)
{
	(void)state;
	everywhere(random_body);
}

/* ---- coalescing ------------------------------------------------------------------------------ */

/* How many bytes have arrived at the raw descriptor; none are taken. */
static int arrived(int fd)
{
	static char buf[1 << 17];
	ssize_t n = recv(fd, buf, sizeof buf, MSG_PEEK | MSG_DONTWAIT);
	return n < 0 ? -errno : (int)n;
}

static void coalesce_body(void)
{
	char buf[64];
	static char big[16384];
	int fds[2];
	raw_unix(fds);
	struct hark_conn *c = conn_of(fds[0]);
	CHECK_INT(hark_write(c, "small", 5), 5);
	CHECK_INT(hark_printf(c, " and %d", 7), 6);
	CHECK_INT(arrived(fds[1]), -EAGAIN);
	CHECK_INT(hark_flush(c), 0);
	CHECK_INT(arrived(fds[1]), 11);
	CHECK_INT(hark_write(c, "!", 1), 1);
	CHECK_INT(write(fds[1], "in", 2), 2);
	CHECK_INT(hark_read(c, buf, sizeof buf), 2); /* would not wait: nothing need leave */
	hark_idle_timeout(c, 10 * HARK_MS);
	CHECK_INT(hark_read(c, buf, sizeof buf), -ETIMEDOUT); /* would */
	CHECK_INT(arrived(fds[1]), 12);
	CHECK_INT(hark_write(c, "?", 1), 1);
	CHECK_INT(hark_idle(c), -ETIMEDOUT);
	CHECK_INT(arrived(fds[1]), 13);
	CHECK_INT(hark_write(c, big, sizeof big - 1), sizeof big - 1);
	CHECK_INT(arrived(fds[1]), 13);
	CHECK_INT(hark_write(c, big, 1), 1); /* 16 KB have gathered */
	CHECK_INT(arrived(fds[1]), 13 + 16384);
	CHECK_INT(hark_write(c, "end", 3), 3);
	CHECK_INT(hark_shutdown(c, HARK_OUT), 0);
	CHECK_INT(arrived(fds[1]), 13 + 16384 + 3);
	hark_abort(c);
	(void)close(fds[1]);
	raw_unix(fds);
	c = conn_of(fds[0]);
	CHECK_INT(shutdown(fds[1], SHUT_WR), 0);
	CHECK_INT(hark_write(c, "bye", 3), 3);
	CHECK_INT(hark_close(c), 0);
	CHECK_INT(arrived(fds[1]), 3);
	(void)close(fds[1]);
}

static void small_writes_leave_when_they_must_and_not_before(void **state)
{
	(void)state;
	everywhere(coalesce_body);
}

struct reading {
	struct hark_conn *c;
	ssize_t got;
	char buf[64];
};

static void read_beside(void *arg)
{
	struct reading *r = arg;
	r->got = hark_read(r->c, r->buf, sizeof r->buf);
}

/* Until whoever runs beside waits to read, or is about to. */
static void until_it_reads(struct hark_conn *c)
{
	while (!atomic_load(&c->waiting_in))
		CHECK_INT(hark_sleep(HARK_MS), 0);
	CHECK_INT(hark_sleep(10 * HARK_MS), 0);
}

static void at_once_body(void)
{
	int fds[2];
	struct beside b;
	raw_unix(fds);
	struct reading r = {.c = conn_of(fds[0])};
	beside_start(&b, read_beside, &r);
	until_it_reads(r.c);
	CHECK_INT(hark_write(r.c, "now", 3), 3);
	CHECK_INT(arrived(fds[1]), 3);
	CHECK_INT(write(fds[1], "x", 1), 1);
	beside_end(&b);
	CHECK_INT(r.got, 1);
	hark_abort(r.c);
	(void)close(fds[1]);
}

static void writes_leave_at_once_while_another_waits_to_read(void **state)
{
	(void)state;
	everywhere(at_once_body);
}

static void left_over_body(void)
{
	static char big[16384], sink[1 << 16];
	int fds[2], small = 4096;
	struct beside b;
	raw_unix(fds);
	CHECK_INT(setsockopt(fds[0], SOL_SOCKET, SO_SNDBUF, &small, sizeof small), 0);
	struct reading r = {.c = conn_of(fds[0])};
	pattern_fill(big, 0, sizeof big);
	CHECK_INT(hark_write(r.c, big, 16000), 16000); /* more than the socket takes at once */
	beside_start(&b, read_beside, &r);
	size_t got = 0;
	for (int i = 0; i < 2000 && got < 16000; i++) {
		ssize_t n = recv(fds[1], sink + got, sizeof sink - got, MSG_DONTWAIT);
		if (n > 0)
			got += (size_t)n;
		CHECK_INT(hark_sleep(HARK_MS), 0);
	}
	CHECK_INT(got, 16000); /* the waiting reader sees to what there was no room for at first */
	CHECK(pattern_is(sink, 0, got));
	CHECK_INT(write(fds[1], "x", 1), 1);
	beside_end(&b);
	CHECK_INT(r.got, 1);
	hark_abort(r.c);
	(void)close(fds[1]);
}

static void a_waiting_reader_sends_what_the_socket_had_no_room_for(void **state)
{
	(void)state;
	everywhere(left_over_body);
}

/* ---- writing --------------------------------------------------------------------------------- */

struct sink {
	struct hark_conn *c;
	size_t got;
	ssize_t end;
	int64_t pause_ns;
	size_t piece;
};

static void drain_pattern(void *arg)
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

static char *pattern_alloc(size_t n)
{
	char *p = malloc(n);
	CHECK(p != NULL);
	pattern_fill(p, 0, n);
	return p;
}

static void partial_body(void)
{
	int fds[2];
	struct beside b;
	raw_tcp_sized(fds, 2048);
	struct pair p = pair_of(fds);
	struct sink s = {.c = p.b, .piece = 5000};
	char *all = pattern_alloc(MB);
	beside_start(&b, drain_pattern, &s);
	CHECK_INT(hark_write(p.a, all, MB), MB);
	CHECK_INT(hark_shutdown(p.a, HARK_OUT), 0);
	beside_end(&b);
	CHECK_INT(s.got, MB);
	CHECK_INT(s.end, 0);
	struct hark_conn_stats st;
	hark_conn_stats(p.a, &st);
	CHECK_INT(st.bytes_out, MB);
	hark_conn_stats(p.b, &st);
	CHECK_INT(st.bytes_in, MB);
	free(all);
	pair_drop(&p);
}

static void write_sends_all_through_tiny_buffers(void **state)
{
	(void)state;
	everywhere(partial_body);
}

static void writev_body(void)
{
	int fds[2], small = 4096;
	struct iovec iov[40];
	struct beside b;
	raw_unix(fds);
	CHECK_INT(setsockopt(fds[0], SOL_SOCKET, SO_SNDBUF, &small, sizeof small), 0);
	struct pair p = pair_of(fds);
	struct sink s = {.c = p.b, .piece = 700};
	char *all = pattern_alloc(MB);
	size_t at = 5;
	beside_start(&b, drain_pattern, &s);
	CHECK_INT(hark_write(p.a, all, 5), 5); /* goes before */
	for (int i = 0; i < 40; i++) {
		iov[i] = (struct iovec){all + at, i % 5 == 0 ? 0 : (size_t)i * 200};
		at += iov[i].iov_len;
	}
	CHECK_INT(hark_writev(p.a, iov, 40), (long long)(at - 5));
	CHECK_INT(hark_writev(p.a, iov, 0), 0);
	CHECK_INT(hark_writev(p.a, iov, -1), -EINVAL);
	CHECK_INT(hark_shutdown(p.a, HARK_OUT), 0);
	beside_end(&b);
	CHECK_INT(s.got, at);
	free(all);
	pair_drop(&p);
}

static void writev_sends_its_pieces_in_order(void **state)
{
	(void)state;
	everywhere(writev_body);
}

static void on_alarm(int sig)
{
	(void)sig;
}

static void storm_body(void)
{
	struct itimerval every = {{0, 500}, {0, 500}}, off = {{0, 0}, {0, 0}};
	struct sigaction a = {.sa_handler = on_alarm}; /* no SA_RESTART */
	struct sigaction old;
	int fds[2];
	char buf[16];
	struct beside b;
	raw_tcp_sized(fds, 20000);
	struct pair p = pair_of(fds);
	struct sink s = {.c = p.b, .piece = 3000};
	char *all = pattern_alloc(2 * MB);
	unsigned left = alarm(0);
	CHECK_INT(sigaction(SIGALRM, &a, &old), 0);
	beside_start(&b, drain_pattern, &s);
	CHECK_INT(setitimer(ITIMER_REAL, &every, NULL), 0);
	CHECK_INT(hark_write(p.a, all, 2 * MB), 2 * MB);
	CHECK_INT(hark_shutdown(p.a, HARK_OUT), 0);
	int64_t start = hark_now();
	CHECK_INT(hark_sleep(30 * HARK_MS), 0);
	CHECK(hark_now() - start >= 30 * HARK_MS);
	start = hark_now();
	hark_idle_timeout(p.a, 30 * HARK_MS);
	CHECK_INT(hark_read(p.a, buf, sizeof buf), -ETIMEDOUT);
	CHECK(hark_now() - start >= 29 * HARK_MS);
	CHECK_INT(setitimer(ITIMER_REAL, &off, NULL), 0);
	CHECK_INT(sigaction(SIGALRM, &old, NULL), 0);
	(void)alarm(left);
	beside_end(&b);
	CHECK_INT(s.got, 2 * MB);
	free(all);
	pair_drop(&p);
}

static void signals_neither_break_a_transfer_nor_shorten_a_wait(void **state)
{
	(void)state;
	everywhere(storm_body);
}

/* ---- ends ------------------------------------------------------------------------------------ */

static void half_body(void)
{
	char buf[64];
	struct pair p = tcp_pair();
	CHECK_INT(hark_write(p.a, "question", 8), 8);
	CHECK_INT(hark_shutdown(p.a, HARK_OUT), 0);
	CHECK_INT(hark_readn(p.b, buf, 8), 8);
	CHECK_INT(hark_read(p.b, buf, sizeof buf), 0);
	say(p.b, "answer"); /* the other half is still open */
	CHECK_INT(hark_readn(p.a, buf, 6), 6);
	CHECK_INT(hark_shutdown(p.b, HARK_OUT), 0);
	CHECK_INT(hark_read(p.a, buf, sizeof buf), 0);
	CHECK_INT(hark_write(p.a, "late", 4), -EPIPE); /* told at once: nothing was taken, nothing is lost */
	CHECK_INT(hark_write(p.a, "", 0), -EPIPE);
	CHECK_INT(hark_flush(p.a), 0);
	CHECK_INT(hark_shutdown(p.a, HARK_OUT), 0); /* again */
	CHECK_INT(hark_close(p.a), 0);
	CHECK_INT(hark_close(p.b), 0);
	p = unix_pair();
	CHECK_INT(hark_shutdown(p.a, HARK_IN), 0);
	CHECK_INT(hark_read(p.a, buf, sizeof buf), 0);
	CHECK_INT(hark_shutdown(p.b, HARK_IN | HARK_OUT), 0);
	CHECK_INT(hark_read(p.b, buf, sizeof buf), 0);
	pair_drop(&p);
}

static void each_half_closes_by_itself(void **state)
{
	(void)state;
	everywhere(half_body);
}

struct teller {
	struct hark_conn *c;
	const char *all;
	int rc;
};

static void tell_and_close(void *arg)
{
	struct teller *t = arg;
	CHECK_INT(hark_write(t->c, t->all, MB), MB);
	t->rc = hark_close(t->c);
}

static void no_truncation_on(int kind, const char *all)
{
	static char junk[65536];
	int fds[2];
	struct beside b;
	if (kind == 0)
		raw_tcp(fds);
	else
		raw_unix(fds);
	struct pair p = pair_of(fds);
	struct teller t = {.c = p.b, .all = all, .rc = 1};
	struct sink s = {.c = p.a, .piece = 100000};
	CHECK_INT(hark_write(p.a, junk, sizeof junk), sizeof junk); /* never read by the other side */
	CHECK_INT(hark_flush(p.a), 0);
	beside_start(&b, tell_and_close, &t);
	CHECK_INT(hark_sleep(HARK_MS), 0);
	drain_pattern(&s);
	CHECK_INT(s.got, MB);
	CHECK_INT(s.end, 0);
	CHECK_INT(hark_close(p.a), 0);
	beside_end(&b);
	CHECK_INT(t.rc, 0);
}

static void truncation_body(void)
{
	char *all = pattern_alloc(MB);
	for (int i = 0; i < 20; i++)
		no_truncation_on(i % 4 == 3, all);
	free(all);
}

static void close_with_input_unread_never_cuts_the_answer(void **state)
{
	(void)state;
	everywhere(truncation_body);
}

static void bounded_close_body(void)
{
	int fds[2];
	raw_tcp(fds);
	struct hark_conn *c = conn_of(fds[0]);
	CHECK_INT(hark_write(c, "answer", 6), 6);
	int64_t start = hark_now();
	CHECK_INT(hark_close(c), 0); /* the peer neither speaks nor ends */
	int64_t took = hark_now() - start;
	CHECK(took >= 1900 * HARK_MS && took < 4 * HARK_S * SLOWER);
	CHECK_INT(arrived(fds[1]), 6);
	(void)close(fds[1]);
	raw_tcp(fds);
	c = conn_of(fds[0]);
	hark_idle_timeout(c, 50 * HARK_MS);
	start = hark_now();
	CHECK_INT(hark_close(c), 0);
	CHECK(hark_now() - start < HARK_S);
	(void)close(fds[1]);
}

static void close_waits_a_bounded_time_for_a_silent_peer(void **state)
{
	(void)state;
	everywhere_at_once(bounded_close_body);
}

static void abort_body(void)
{
	char buf[16];
	int fds[2];
	raw_tcp(fds);
	struct hark_conn *c = conn_of(fds[0]);
	CHECK_INT(hark_write(c, "dropped", 7), 7);
	hark_abort(c);
	CHECK_INT(recv(fds[1], buf, sizeof buf, 0), -1);
	CHECK_INT(errno, ECONNRESET);
	(void)close(fds[1]);
	hark_abort(NULL);
	CHECK_INT(hark_close(NULL), 0);
}

static void abort_resets(void **state)
{
	(void)state;
	everywhere(abort_body);
}

static void pipe_signal(int sig)
{
	(void)sig;
	static const char text[] = "SIGPIPE was raised\n";
	ssize_t n = write(2, text, sizeof text - 1);
	(void)n;
	_exit(3);
}

static int temp_file(size_t n)
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

/* Reads the rest so that the peer's reset has certainly come. */
static struct hark_conn *conn_to_nobody(void)
{
	char buf[16];
	int fds[2];
	raw_tcp(fds);
	struct hark_conn *c = conn_of(fds[0]);
	struct linger now = {.l_onoff = 1};
	CHECK_INT(setsockopt(fds[1], SOL_SOCKET, SO_LINGER, &now, sizeof now), 0);
	(void)close(fds[1]);
	CHECK_INT(hark_read(c, buf, sizeof buf), -ECONNRESET);
	return c;
}

static void sigpipe_body(void)
{
	struct sigaction a = {.sa_handler = pipe_signal};
	int fds[2], file = temp_file(100000);
	CHECK_INT(sigaction(SIGPIPE, &a, NULL), 0);
	struct hark_conn *c = conn_to_nobody();
	CHECK_INT(hark_write(c, "x", 1), 1);
	CHECK_INT(hark_flush(c), -EPIPE);
	hark_abort(c);
	c = conn_to_nobody();
	struct iovec two[2] = {{(char *)"a", 1}, {malloc(20000), 20000}};
	memset(two[1].iov_base, 'b', 20000);
	CHECK_INT(hark_writev(c, two, 2), -EPIPE);
	free(two[1].iov_base);
	hark_abort(c);
	c = conn_to_nobody();
	CHECK_INT(hark_sendfile(c, file, 0, 0), -EPIPE);
	hark_abort(c);
	CHECK_INT(pipe2(fds, O_CLOEXEC), 0);
	c = conn_of(fds[1]);
	(void)close(fds[0]);
	CHECK_INT(hark_write(c, "x", 1), 1);
	CHECK_INT(hark_flush(c), -EPIPE);
	hark_abort(c);
	CHECK_INT(pipe2(fds, O_CLOEXEC | O_NONBLOCK), 0);
	c = conn_of(fds[1]);
	(void)close(fds[0]);
	CHECK_INT(hark_sendfile(c, file, 0, 0), -EPIPE);
	hark_abort(c);
	(void)close(file);
	sigset_t pending;
	CHECK_INT(sigpending(&pending), 0);
	CHECK(!sigismember(&pending, SIGPIPE));
}

static void no_write_raises_sigpipe(void **state)
{
	(void)state;
	everywhere(sigpipe_body);
}

/* ---- time ------------------------------------------------------------------------------------ */

static void deadline_body(void)
{
	char buf[16];
	struct pair p = unix_pair();
	int64_t start = hark_now();
	hark_deadline(p.a, hark_after(40 * HARK_MS));
	CHECK_INT(hark_read(p.a, buf, sizeof buf), -ETIMEDOUT);
	int64_t took = hark_now() - start;
	CHECK(took >= 40 * HARK_MS && took < 400 * HARK_MS * SLOWER);
	CHECK_INT(hark_readline(p.a, buf, sizeof buf), -ETIMEDOUT); /* every later call */
	CHECK_INT(hark_idle(p.a), -ETIMEDOUT);
	say(p.b, "there");
	CHECK_INT(hark_read(p.a, buf, sizeof buf), -ETIMEDOUT);
	hark_deadline(p.a, HARK_FOREVER);
	CHECK_INT(hark_read(p.a, buf, sizeof buf), 5);
	char *all = pattern_alloc(4 * MB);
	hark_deadline(p.a, hark_after(40 * HARK_MS));
	CHECK_INT(hark_write(p.a, all, 4 * MB), -ETIMEDOUT); /* nobody reads */
	free(all);
	struct hark_conn_stats st;
	hark_conn_stats(p.a, &st);
	CHECK(st.deadline_ns != HARK_FOREVER && st.bytes_in == 5);
	pair_drop(&p);
}

static void a_deadline_ends_every_later_call(void **state)
{
	(void)state;
	everywhere(deadline_body);
}

struct chatter {
	struct hark_conn *c;
	atomic_bool stop;
};

static void chatter(void *arg)
{
	struct chatter *w = arg;
	static char buf[30000];
	while (!atomic_load(&w->stop) && hark_write(w->c, buf, sizeof buf) > 0)
		;
}

static void busy_peer_body(void)
{
	static char buf[4096];
	struct beside b;
	struct pair p = unix_pair();
	struct chatter w = {.c = p.b};
	beside_start(&b, chatter, &w);
	hark_deadline(p.a, hark_after(60 * HARK_MS));
	ssize_t n;
	int64_t start = hark_now();
	while ((n = hark_read(p.a, buf, sizeof buf)) > 0)
		CHECK(hark_now() - start < 5 * HARK_S);
	CHECK_INT(n, -ETIMEDOUT);
	atomic_store(&w.stop, true);
	hark_abort(p.a);
	beside_end(&b);
	hark_abort(p.b);
}

static void a_peer_that_always_has_more_does_not_outrun_the_deadline(void **state)
{
	(void)state;
	everywhere(busy_peer_body);
}

static void slow_but_steady(void *arg)
{
	struct hark_conn *c = arg;
	for (int i = 0; i < 6; i++) {
		CHECK_INT(hark_sleep(90 * HARK_MS), 0);
		say(c, "x");
	}
}

static void idle_timeout_body(void)
{
	char buf[16];
	struct beside b;
	struct pair p = unix_pair();
	hark_idle_timeout(p.a, 400 * HARK_MS * SLOWER);
	beside_start(&b, slow_but_steady, p.b);
	for (int i = 0; i < 6; i++)
		CHECK_INT(hark_readn(p.a, buf, 1), 1); /* 540 ms in all: each wait counts by itself */
	int64_t start = hark_now();
	CHECK_INT(hark_read(p.a, buf, 1), -ETIMEDOUT);
	CHECK(hark_now() - start >= 399 * HARK_MS * SLOWER);
	beside_end(&b);
	say(p.b, "y"); /* an idle time-out is of that wait alone */
	CHECK_INT(hark_read(p.a, buf, 1), 1);
	pair_drop(&p);
}

static void an_idle_timeout_is_of_each_wait(void **state)
{
	(void)state;
	everywhere_at_once(idle_timeout_body);
}

/* ---- roles ----------------------------------------------------------------------------------- */

static void write_much(void *arg)
{
	char *all = pattern_alloc(4 * MB);
	CHECK_INT(hark_write(arg, all, 4 * MB), 4 * MB);
	free(all);
}

static void busy_body(void)
{
	char buf[16];
	struct beside b;
	struct pair p = unix_pair();
	struct reading r = {.c = p.a};
	beside_start(&b, read_beside, &r);
	until_it_reads(p.a);
	CHECK_INT(hark_read(p.a, buf, sizeof buf), -EBUSY);
	CHECK_INT(hark_readn(p.a, buf, 1), -EBUSY);
	CHECK_INT(hark_readline(p.a, buf, sizeof buf), -EBUSY);
	CHECK_INT(hark_idle(p.a), -EBUSY);
	say(p.b, "x");
	beside_end(&b);
	CHECK_INT(r.got, 1);
	beside_start(&b, write_much, p.a);
	int rc;
	while ((rc = hark_flush(p.a)) == 0)
		CHECK_INT(hark_sleep(HARK_MS), 0);
	CHECK_INT(rc, -EBUSY);
	CHECK_INT(hark_write(p.a, "x", 1), -EBUSY);
	struct sink s = {.c = p.b, .piece = 100000};
	hark_idle_timeout(p.b, 200 * HARK_MS * SLOWER);
	drain_pattern(&s);
	CHECK_INT(s.got, 4 * MB);
	beside_end(&b);
	pair_drop(&p);
}

static void a_second_reader_or_writer_is_told_busy(void **state)
{
	(void)state;
	everywhere(busy_body);
}

static void write_4mb_and_end(void *arg)
{
	write_much(arg);
	CHECK_INT(hark_shutdown(arg, HARK_OUT), 0);
}

static void duplex_on(bool tcp)
{
	struct beside wa, wb, ra;
	struct pair p = tcp ? tcp_pair() : unix_pair();
	struct sink sa = {.c = p.a, .piece = 30000};
	struct chunks w = {.c = p.b, .total = 3 * MB, .seed = 5};
	beside_start(&wa, write_4mb_and_end, p.a);
	beside_start(&wb, write_chunks, &w); /* small pieces: they pass through the buffer that the reader sees too */
	static char buf[20000];              /* not drain_pattern's, which is in use beside */
	size_t got = 0;
	ssize_t n;
	beside_start(&ra, drain_pattern, &sa);
	while ((n = hark_read(p.b, buf, sizeof buf)) > 0) {
		CHECK(pattern_is(buf, got, (size_t)n));
		got += (size_t)n;
	}
	beside_end(&ra);
	CHECK_INT(n, 0);
	CHECK_INT(got, 4 * MB);
	CHECK_INT(sa.got, 3 * MB);
	CHECK_INT(sa.end, 0);
	beside_end(&wb);
	beside_end(&wa);
	pair_drop(&p);
}

static void duplex_body(void)
{
	duplex_on(true);
	duplex_on(false);
}

static void reader_and_writer_of_one_connection_do_not_disturb_each_other(void **state)
{
	(void)state;
	everywhere(duplex_body);
}

static void echo_lines(void *arg)
{
	char line[64];
	ssize_t n;
	while ((n = hark_readline(arg, line, sizeof line)) > 0)
		CHECK_INT(hark_write(arg, line, (size_t)n), n); /* coalesces: the next read sends it */
}

static void lines_of_two(void *arg)
{
	struct hark_conn *c = arg;
	for (int i = 0; i < 3000; i++)
		CHECK(hark_printf(c, "line %d\n", i) > 0); /* no flush: the waiting reader sees to it, or we do */
}

static void no_lost_wakeup_body(void)
{
	char line[64], want[64];
	struct beside e, w;
	struct pair p = unix_pair();
	beside_start(&e, echo_lines, p.b);
	beside_start(&w, lines_of_two, p.a);
	hark_idle_timeout(p.a, 5 * HARK_S);
	for (int i = 0; i < 3000; i++) {
		ssize_t n = hark_readline(p.a, line, sizeof line);
		(void)snprintf(want, sizeof want, "line %d\n", i);
		CHECK(n > 0);
		CHECK(strcmp(line, want) == 0);
	}
	beside_end(&w);
	CHECK_INT(hark_shutdown(p.a, HARK_OUT), 0);
	beside_end(&e);
	pair_drop(&p);
}

static void nothing_stays_behind_when_one_writes_and_another_reads(void **state)
{
	(void)state;
	everywhere(no_lost_wakeup_body);
}

/* ---- bulk ------------------------------------------------------------------------------------ */

static void sendfile_to(struct hark_conn *from, struct hark_conn *to, int file)
{
	static char buf[100];
	struct beside b;
	struct sink s = {.c = to, .piece = 30000};
	pattern_fill(buf, 0, sizeof buf);
	beside_start(&b, drain_pattern, &s);
	CHECK_INT(hark_write(from, buf, 100), 100); /* goes before the file */
	CHECK_INT(hark_sendfile(from, file, 100, 50000), 50000);
	CHECK_INT(hark_sendfile(from, file, 50100, 0), MB - 50100); /* to its end */
	CHECK_INT(hark_sendfile(from, file, MB, 0), 0);
	CHECK_INT(hark_sendfile(from, file, MB + 5, 10), 0);
	pattern_fill(buf, MB, 50);
	CHECK_INT(hark_write(from, buf, 50), 50); /* and after it */
	CHECK_INT(hark_close(from), 0);
	beside_end(&b);
	CHECK_INT(s.got, MB + 50);
	CHECK_INT(s.end, 0);
}

static void sendfile_body(void)
{
	int fds[2], file = temp_file(MB);
	struct pair p = tcp_pair();
	hark_idle_timeout(p.a, 100 * HARK_MS); /* of the close's lingering: the other side does not end first */
	sendfile_to(p.a, p.b, file);
	hark_abort(p.b);
	CHECK_INT(pipe2(fds, O_CLOEXEC), 0);
	struct hark_conn *in = conn_of(fds[0]);
	sendfile_to(conn_of(fds[1]), in, file);
	hark_abort(in);
	p = unix_pair();
	CHECK_INT(hark_sendfile(p.a, -1, 0, 0), -EBADF);
	CHECK_INT(pipe2(fds, O_CLOEXEC), 0);
	CHECK(hark_sendfile(p.a, fds[0], 0, 10) < 0); /* no file: it has no offsets */
	(void)close(fds[0]);
	(void)close(fds[1]);
	hark_deadline(p.a, hark_after(30 * HARK_MS));
	CHECK_INT(hark_sendfile(p.a, file, 0, 0), -ETIMEDOUT); /* nobody reads */
	(void)close(file);
	pair_drop(&p);
}

static void sendfile_sends_what_was_asked_between_what_was_written(void **state)
{
	(void)state;
	everywhere(sendfile_body);
}

static void copy_body(void)
{
	struct beside wr, rd;
	struct pair p = tcp_pair(), q = unix_pair();
	struct chunks w = {.c = p.a, .total = 2 * MB, .seed = 3};
	struct sink s = {.c = q.b, .piece = 9000};
	bool to_failed = false;
	beside_start(&wr, write_chunks, &w);
	beside_start(&rd, drain_pattern, &s);
	CHECK_INT(hark_copy(p.b, q.a, &to_failed), 2 * MB);
	CHECK(!to_failed);
	CHECK_INT(hark_shutdown(q.a, HARK_OUT), 0);
	beside_end(&wr);
	beside_end(&rd);
	CHECK_INT(s.got, 2 * MB);
	pair_drop(&p);
	pair_drop(&q);
	p = tcp_pair();
	q = unix_pair();
	say(p.a, "x");
	hark_abort(q.b);
	CHECK_INT(hark_copy(p.b, q.a, &to_failed), -EPIPE);
	CHECK(to_failed);
	hark_abort(q.a);
	q = unix_pair();
	hark_abort(p.a);
	CHECK_INT(hark_copy(p.b, q.a, &to_failed), -ECONNRESET);
	CHECK(!to_failed);
	hark_abort(p.b);
	pair_drop(&q);
}

#define BULK (20 * MB)

static void pass_all(void *arg)
{
	struct hark_conn **c = arg;
	ssize_t n;
	while ((n = hark_idle(c[0])) > 0 && (n = hark_pass(c[0], c[1])) > 0)
		CHECK_INT(hark_flush(c[1]), 0);
	CHECK_INT(n, 0);
	CHECK_INT(hark_shutdown(c[1], HARK_OUT), 0);
}

static void copy_all(void *arg)
{
	struct hark_conn **c = arg;
	CHECK_INT(hark_copy(c[0], c[1], NULL), BULK);
	CHECK_INT(hark_shutdown(c[1], HARK_OUT), 0);
}

static int (*real_pipe2)(int *, int);
static atomic_int pipes_made; /* by reader threads */

static int counting_pipe2(int *fds, int flags)
{
	pipes_made++;
	return real_pipe2(fds, flags);
}

static void write_bulk(void *arg)
{
	struct chunks *w = arg;
	char *buf = malloc(MB);
	CHECK(buf != NULL);
	for (size_t at = 0, n; at < w->total; at += n) {
		n = (size_t)rand_r(&w->seed) % MB + 1;
		if (n > w->total - at)
			n = w->total - at;
		pattern_fill(buf, at, n);
		CHECK_INT(hark_write(w->c, buf, n), (long long)n);
	}
	free(buf);
	CHECK_INT(hark_shutdown(w->c, HARK_OUT), 0);
}

/* Both ways at once, from p.b to q.a and back; the bytes come whole, and then the end. */
static void bulk_with(void (*mover)(void *), struct pair p, struct pair q)
{
	struct beside wp, wq, rp, rq, there, back;
	struct chunks w[2] = {{.c = p.a, .total = BULK, .seed = 3}, {.c = q.b, .total = BULK, .seed = 4}};
	struct sink s[2] = {{.c = q.b, .piece = 90000}, {.c = p.a, .piece = 70001}};
	struct hark_conn *up[2] = {p.b, q.a}, *down[2] = {q.a, p.b};
	pipes_made = 0;
	real_pipe2 = hark__sys.pipe2;
	hark__sys.pipe2 = counting_pipe2;
	beside_start(&there, mover, up);
	beside_start(&back, mover, down);
	beside_start(&rq, drain_pattern, &s[0]);
	beside_start(&rp, drain_pattern, &s[1]);
	beside_start(&wp, write_bulk, &w[0]);
	beside_start(&wq, write_bulk, &w[1]);
	beside_end(&wp);
	beside_end(&wq);
	beside_end(&there);
	beside_end(&back);
	beside_end(&rp);
	beside_end(&rq);
	hark__sys.pipe2 = real_pipe2;
	CHECK_INT(s[0].got, BULK);
	CHECK_INT(s[1].got, BULK);
	CHECK(pipes_made > 0); /* it was spliced indeed */
	struct hark_conn_stats stats;
	hark_conn_stats(p.b, &stats);
	CHECK_INT(stats.bytes_in, BULK);
	CHECK_INT(stats.bytes_out, BULK);
	pair_drop(&p);
	pair_drop(&q);
}

static void bulk_body(void)
{
	bulk_with(copy_all, tcp_pair(), unix_pair());
	bulk_with(pass_all, tcp_pair(), tcp_pair());
}

static void bulk_passes_whole_in_both_directions(void **state)
{
	(void)state;
	everywhere(bulk_body);
}

/* The writer meets the reset first: to the reader, too, the stream did not end in order. */
static void met_by_writer_body(void)
{
	static char much[MB];
	struct pair p = tcp_pair();
	char got[8];
	say(p.b, "abc");
	hark_abort(p.b);
	CHECK_INT(hark_wait_fd(hark_fd(p.a), HARK_IN, hark_after(2 * HARK_S)) > 0, 1);
	CHECK_INT(hark_write(p.a, much, sizeof much), -ECONNRESET);
	ssize_t n = hark_read(p.a, got, sizeof got);
	if (n > 0) /* the kernel may have kept what came before */
		n = hark_read(p.a, got, sizeof got);
	CHECK_INT(n, -ECONNRESET);
	CHECK_INT(hark_shutdown(p.a, 0), -EINVAL);
	CHECK_INT(hark_shutdown(p.a, 8), -EINVAL);
	hark_abort(p.a);
}

static void a_reset_that_the_writer_met_is_no_end_to_the_reader(void **state)
{
	(void)state;
	everywhere(met_by_writer_body);
}

/* A read has waited, so that an engine may be receiving in advance: no more of what comes once c is handed over. */
static void handed_on_body(void)
{
	struct pair p = tcp_pair();
	char got[8];
	say(p.a, "xy");
	CHECK_INT(hark_read(p.b, got, 1), 1);
	CHECK_INT(hark_handover(p.b), -ENOTEMPTY); /* 'y' is here, and in no descriptor */
	CHECK_INT(hark_read(p.b, got, 1), 1);
	hark_deadline(p.b, hark_after(20 * HARK_MS));
	CHECK_INT(hark_read(p.b, got, sizeof got), -ETIMEDOUT);
	hark_deadline(p.b, HARK_FOREVER);
	CHECK_INT(fcntl(hark_fd(p.b), F_SETFL, O_NONBLOCK), 0);
	CHECK_INT(hark_write(p.b, "mine", 4), 4); /* leaves before what the program writes */
	int fd = hark_handover(p.b);
	CHECK_INT(fd, hark_fd(p.b));
	CHECK_INT(fcntl(fd, F_GETFL) & O_NONBLOCK, 0);
	CHECK_INT(send(fd, "its", 3, 0), 3);
	CHECK_INT(hark_readn(p.a, got, 7), 7);
	CHECK(memcmp(got, "mineits", 7) == 0);
	say(p.a, "abc");
	CHECK_INT(hark_sleep(20 * HARK_MS), 0); /* the loop asks the engine */
	CHECK_INT(recv(fd, got, sizeof got, MSG_DONTWAIT), 3);
	say(p.a, "de"); /* and the connection can be read from again */
	CHECK_INT(hark_read(p.b, got, sizeof got), 2);
	pair_drop(&p);
}

static void what_comes_is_left_in_a_descriptor_that_was_handed_over(void **state)
{
	(void)state;
	everywhere(handed_on_body);
}

/* A peer that reads nothing for longer than we linger in silence, while all that it has not read is still with us. */
static void slow_peer(void *arg)
{
	struct sink *s = arg;
	CHECK_INT(hark_sleep(2500 * HARK_MS), 0);
	CHECK_INT(hark_write(s->c, "still there\n", 12), 12);
	CHECK_INT(hark_flush(s->c), 0);
	drain_pattern(s);
}

#define LATE 300000 /* bytes: more than the peer's buffer takes, less than ours */

static void slow_body(void)
{
	static char much[LATE];
	struct beside reader;
	struct pair p = tcp_pair();
	struct sink s = {.c = p.b, .piece = 50000};
	int small = 8192, large = 4 * MB;
	CHECK_INT(setsockopt(hark_fd(p.b), SOL_SOCKET, SO_RCVBUF, &small, sizeof small), 0);
	CHECK_INT(setsockopt(hark_fd(p.a), SOL_SOCKET, SO_SNDBUF, &large, sizeof large), 0);
	pattern_fill(much, 0, sizeof much);
	CHECK_INT(hark_write(p.a, much, sizeof much), LATE);
	beside_start(&reader, slow_peer, &s);
	CHECK_INT(hark_close(p.a), 0);
	beside_end(&reader);
	CHECK_INT(s.end, 0);
	CHECK_INT(s.got, LATE);
	hark_abort(p.b);
}

static void a_close_waits_for_a_peer_that_reads_late(void **state)
{
	(void)state;
	everywhere_at_once(slow_body);
}

/* Much at a time and little by turns: a completion engine takes the one in advance and leaves the other to the reader.
 */
static void write_by_turns(void *arg)
{
	static const size_t much = 400000;
	struct chunks *w = arg;
	char *buf = malloc(much);
	char heard;
	CHECK(buf != NULL);
	for (size_t at = 0, turn = 0; turn < 6; turn++) {
		pattern_fill(buf, at, much);
		CHECK_INT(hark_write(w->c, buf, much), (long long)much);
		CHECK_INT(hark_readn(w->c, &heard, 1), 1);
		at += much;
		for (int i = 0; i < 20; i++, at += 10) {
			pattern_fill(buf, at, 10);
			CHECK_INT(hark_write(w->c, buf, 10), 10);
			CHECK_INT(hark_readn(w->c, &heard, 1), 1);
		}
	}
	free(buf);
	CHECK_INT(hark_shutdown(w->c, HARK_OUT), 0);
}

static void turns_body(void)
{
	struct beside writer;
	struct pair p = tcp_pair();
	struct chunks w = {.c = p.a};
	static char buf[30000];
	size_t at = 0, end = 0;
	ssize_t n;
	beside_start(&writer, write_by_turns, &w);
	for (int turn = 0; turn < 6; turn++) {
		for (int i = -1; i < 20; i++) {
			for (end += i < 0 ? 400000 : 10; at < end; at += (size_t)n) {
				n = hark_read(p.b, buf, sizeof buf);
				CHECK(n > 0 && at + (size_t)n <= end && pattern_is(buf, at, (size_t)n));
			}
			say(p.b, "x");
		}
	}
	CHECK_INT(hark_read(p.b, buf, sizeof buf), 0);
	struct hark_conn_stats stats;
	hark_conn_stats(p.b, &stats);
	CHECK_INT(stats.bytes_in, (long long)end);
	beside_end(&writer);
	pair_drop(&p);
}

static void much_and_little_by_turns_come_in_order(void **state)
{
	(void)state;
	everywhere(turns_body);
}

/* p.b has passed so much to q.a that it is in bulk; nothing is left on the way. */
static void get_into_bulk(const struct pair *p, const struct pair *q)
{
	static char much[MB], got[MB];
	struct hark_conn *up[2] = {p->b, q->a};
	for (int round = 0; round < 2; round++) {
		CHECK_INT(write(hark_fd(p->a), much, 150000) > 0, 1);
		size_t passed = 0;
		while (hark_wait_fd(hark_fd(up[0]), HARK_IN, hark_after(20 * HARK_MS)) > 0 ||
		       hark_buffered(up[0]) > 0) {
			ssize_t n = hark_pass(up[0], up[1]);
			CHECK(n > 0);
			CHECK_INT(hark_flush(up[1]), 0);
			passed += (size_t)n;
			while (passed > 0) {
				n = hark_read(q->b, got, passed);
				CHECK(n > 0);
				passed -= (size_t)n;
			}
		}
	}
	CHECK(p->b->bulk);
}

static void bulk_end_body(void)
{
	struct pair p = unix_pair(), q = unix_pair();
	char byte;
	get_into_bulk(&p, &q);
	say(p.a, "x"); /* a little in between */
	CHECK_INT(hark_idle(p.b), 1);
	CHECK_INT(hark_idle(p.b), 1);
	CHECK_INT(hark_pass(p.b, q.a), 1);
	CHECK_INT(hark_flush(q.a), 0);
	CHECK_INT(hark_readn(q.b, &byte, 1), 1);
	say(p.a, "yz"); /* and it can be read by hand */
	CHECK_INT(hark_idle(p.b), 1);
	CHECK_INT(hark_readn(p.b, &byte, 1), 1);
	CHECK_INT(byte, 'y');
	CHECK_INT(hark_pass(p.b, q.a), 1);
	CHECK_INT(hark_flush(q.a), 0);
	CHECK_INT(hark_readn(q.b, &byte, 1), 1);
	CHECK_INT(byte, 'z');
	hark_idle_timeout(p.b, 20 * HARK_MS);
	CHECK_INT(hark_idle(p.b), -ETIMEDOUT);
	CHECK_INT(hark_pass(p.b, q.a), -ETIMEDOUT);
	CHECK_INT(hark_shutdown(p.a, HARK_OUT), 0);
	CHECK_INT(hark_idle(p.b), 0);
	CHECK_INT(hark_pass(p.b, q.a), 0);
	pair_drop(&p);
	pair_drop(&q);
	p = tcp_pair();
	q = unix_pair();
	bool to_failed = false;
	get_into_bulk(&p, &q);
	hark_abort(q.b);
	say(p.a, "x");
	CHECK_INT(hark_copy(p.b, q.a, &to_failed), -EPIPE);
	CHECK(to_failed);
	CHECK_INT(hark_flush(q.a), -EPIPE); /* what is lost stays told */
	hark_abort(q.a);
	q = unix_pair();
	hark_abort(p.a);
	CHECK_INT(hark_copy(p.b, q.a, &to_failed), -ECONNRESET);
	CHECK(!to_failed);
	hark_abort(p.b);
	pair_drop(&q);
}

static void bulk_ends_in_every_way(void **state)
{
	(void)state;
	everywhere(bulk_end_body);
}

#define COPIES 80 /* one in thirty went wrong */

static void copies_body(void)
{
	for (int i = 0; i < COPIES; i++) {
		struct beside wr, rd;
		struct pair p = tcp_pair(), q = unix_pair();
		struct chunks w = {.c = p.a, .total = 2 * MB, .seed = (unsigned)i};
		struct sink s = {.c = q.b, .piece = 9000, .end = 1};
		hark_idle_timeout(q.b, 5 * HARK_S);
		beside_start(&wr, write_chunks, &w);
		beside_start(&rd, drain_pattern, &s);
		CHECK_INT(hark_copy(p.b, q.a, NULL), 2 * MB);
		CHECK_INT(hark_shutdown(q.a, HARK_OUT), 0);
		beside_end(&wr);
		beside_end(&rd);
		CHECK_INT(s.end, 0);
		CHECK_INT(s.got, 2 * MB);
		pair_drop(&p);
		pair_drop(&q);
	}
}

/* On the io_uring engine it was: see is_unix() there. */
static void the_end_of_a_unix_stream_behind_much_is_not_missed(void **state)
{
	(void)state;
	assert_int_equal(mode_end(mode_start("uring", copies_body), "uring"), 0);
}

static void copy_takes_all_and_tells_which_side_failed(void **state)
{
	(void)state;
	everywhere(copy_body);
}

static void oob_body(void)
{
	char buf[600]; /* large enough to go past the buffer, and learn from a short read */
	int fds[2];
	struct beside b;
	raw_tcp(fds);
	struct hark_conn *c = conn_of(fds[0]);
	struct reading r = {.c = c};
	beside_start(&b, read_beside, &r);
	until_it_reads(c);
	CHECK_INT(send(fds[1], "ab!", 3, MSG_OOB), 3); /* "!" is urgent */
	CHECK_INT(send(fds[1], "cd", 2, 0), 2);
	beside_end(&b);
	CHECK(r.got >= 2 && memcmp(r.buf, "ab", 2) == 0);
	size_t got = (size_t)r.got;
	hark_idle_timeout(c, 5 * HARK_S);
	while (got < 4) { /* what lies beyond the mark must not wait for another edge */
		ssize_t n = hark_read(c, buf, sizeof buf);
		CHECK(n > 0);
		memcpy(r.buf + got, buf, (size_t)n);
		got += (size_t)n;
	}
	CHECK_INT(got, 4);
	CHECK(memcmp(r.buf, "abcd", 4) == 0);
	hark_abort(c);
	(void)close(fds[1]);
}

static void urgent_data_does_not_stall_a_reader(void **state)
{
	(void)state;
	everywhere(oob_body);
}

/* ---- what is no socket ----------------------------------------------------------------------- */

static void pipes_with(int flags)
{
	int fds[2];
	struct beside b;
	CHECK_INT(pipe2(fds, O_CLOEXEC | flags), 0);
	struct pair p = pair_of(fds);
	char buf[16];
	hark_idle_timeout(p.a, 20 * HARK_MS);
	CHECK_INT(hark_read(p.a, buf, sizeof buf), -ETIMEDOUT);
	hark_idle_timeout(p.a, 0);
	CHECK_INT(fcntl(fds[0], F_GETFL) & O_NONBLOCK, flags & O_NONBLOCK); /* left as it was */
	CHECK_INT(hark_type(p.a), SOCK_STREAM);
	struct sink s = {.c = p.a, .piece = 3000};
	beside_start(&b, drain_pattern, &s);
	char *all = pattern_alloc(MB);
	CHECK_INT(hark_write(p.b, all, MB), MB);
	free(all);
	CHECK_INT(hark_close(p.b), 0);
	beside_end(&b);
	CHECK_INT(s.got, MB);
	CHECK_INT(s.end, 0);
	CHECK_INT(fcntl(fds[0], F_GETFL) & O_NONBLOCK, flags & O_NONBLOCK);
	CHECK_INT(hark_close(p.a), 0);
}

static void pipe_body(void)
{
	pipes_with(0);
	pipes_with(O_NONBLOCK);
}

static void pipes_are_streams_blocking_or_not(void **state)
{
	(void)state;
	everywhere(pipe_body);
}

static void file_body(void)
{
	int file = temp_file(100000), null = open("/dev/null", O_RDWR | O_CLOEXEC);
	CHECK_INT(lseek(file, 0, SEEK_SET), 0);
	struct hark_conn *c = conn_of(file);
	struct sink s = {.c = c, .piece = 7000};
	drain_pattern(&s);
	CHECK_INT(s.got, 100000);
	CHECK_INT(s.end, 0);
	CHECK_INT(hark_write(c, "more", 4), 4);
	CHECK_INT(hark_flush(c), 0);
	CHECK_INT(lseek(file, 0, SEEK_END), 100004);
	CHECK_INT(hark_close(c), 0);
	c = conn_of(null);
	char buf[8];
	CHECK_INT(hark_read(c, buf, sizeof buf), 0);
	CHECK_INT(hark_close(c), 0);
	CHECK_INT(hark_conn_from_fd(-1, &c), -EBADF);
	CHECK_INT(hark_conn_from_fd(9999, &c), -EBADF);
}

static void files_are_streams(void **state)
{
	(void)state;
	everywhere(file_body);
}

static void nonblocking_socket_body(void)
{
	int fds[2];
	struct beside b;
	CHECK_INT(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds), 0);
	struct pair p = pair_of(fds);
	struct sink s = {.c = p.b, .piece = 3000};
	beside_start(&b, drain_pattern, &s);
	write_4mb_and_end(p.a);
	beside_end(&b);
	CHECK_INT(s.got, 4 * MB);
	pair_drop(&p);
}

static void nonblocking_sockets_are_streams_like_others(void **state)
{
	(void)state;
	everywhere(nonblocking_socket_body);
}

/* ---- loops come and go ----------------------------------------------------------------------- */

struct scoped {
	struct pair *p;
	char got;
};

static void scoped_reader(void *arg)
{
	struct scoped *s = arg;
	CHECK_INT(hark_read(s->p->a, &s->got, 1), 1);
}

/* Each round's scope makes a loop for the thread and ends it, while the connection stays. */
static void outlive_on(const char *engine)
{
	(void)setenv("HARK_ENGINE", engine, 1);
	struct pair p = unix_pair();
	for (int i = 0; i < 3; i++) {
		struct hark_scope scope;
		struct scoped s = {.p = &p};
		char c = (char)('a' + i);
		hark_scope_open(&scope);
		if (hark_go(&scope, "reader", scoped_reader, &s) == -ENOSYS) {
			hark_scope_close(&scope);
			break;
		}
		CHECK_INT(hark_sleep(2 * HARK_MS), 0); /* it waits, and is registered */
		CHECK_INT(hark_write(p.b, &c, 1), 1);
		CHECK_INT(hark_flush(p.b), 0);
		CHECK_INT(hark_join(&scope, hark_after(5 * HARK_S)), 0);
		hark_scope_close(&scope);
		CHECK_INT(s.got, c);
		CHECK_INT(hark_write(p.b, &c, 1), 1); /* and without a loop */
		CHECK_INT(hark_flush(p.b), 0);
		CHECK_INT(hark_read(p.a, &s.got, 1), 1);
		hark_idle_timeout(p.a, 5 * HARK_MS);
		CHECK_INT(hark_read(p.a, &s.got, 1), -ETIMEDOUT);
		hark_idle_timeout(p.a, 0);
	}
	pair_drop(&p);
}

static void outlive_body(void)
{
	for (size_t i = 0; i < ENGINES_ALL; i++)
		outlive_on(engines_all[i]);
}

static void a_connection_outlives_the_loops_that_it_was_used_on(void **state)
{
	(void)state;
	on_plain_thread(outlive_body);
}

/* ---- waiting for descriptors ----------------------------------------------------------------- */

static void wait_fd_beside(void *arg)
{
	struct reading *r = arg;
	r->got = hark_wait_fd(hark_fd(r->c), HARK_IN, hark_after(5 * HARK_S));
}

static void wait_fd_body(void)
{
	char byte;
	struct beside b;
	struct pair p = unix_pair();
	struct reading r = {.c = p.a};
	hark_idle_timeout(p.a, HARK_MS);
	CHECK_INT(hark_read(p.a, &byte, 1), -ETIMEDOUT); /* so the engine knows it */
	CHECK_INT(hark_wait_fd(hark_fd(p.a), HARK_IN, hark_after(5 * HARK_MS)), -ETIMEDOUT);
	CHECK_INT(hark_wait_fd(hark_fd(p.a), HARK_IN | HARK_OUT, HARK_FOREVER), HARK_OUT);
	beside_start(&b, wait_fd_beside, &r);
	CHECK_INT(hark_sleep(5 * HARK_MS), 0);
	CHECK_INT(hark_wait_fd(hark_fd(p.a), HARK_IN, hark_after(5 * HARK_MS)), -ETIMEDOUT); /* two at once */
	CHECK_INT(write(hark_fd(p.b), "x", 1), 1);
	CHECK_INT(hark_wait_fd(hark_fd(p.a), HARK_IN, HARK_FOREVER), HARK_IN);
	beside_end(&b);
	CHECK_INT(r.got, HARK_IN);
	CHECK_INT(hark_wait_fd(-1, HARK_IN, HARK_FOREVER), -EINVAL);
	CHECK_INT(hark_wait_fd(0, 0, HARK_FOREVER), -EINVAL);
	pair_drop(&p);
	int closed = dup(0);
	CHECK(closed >= 0 && close(closed) == 0);
	CHECK_INT(hark_wait_fd(closed, HARK_IN, HARK_FOREVER), -EBADF);
	CHECK_INT(hark_wait_fd(closed, HARK_IN | HARK_OUT, hark_after(HARK_S)), -EBADF);
}

static void any_descriptor_can_be_waited_for_a_connections_too(void **state)
{
	(void)state;
	everywhere(wait_fd_body);
}

/* ---- cancellation ---------------------------------------------------------------------------- */

struct cancelled {
	struct pair *p;
	bool went_on;
};

static void after_cancel(void *arg)
{
	struct cancelled *t = arg;
	char buf[8];
	struct hark_conn *c = t->p->a;
	CHECK_INT(hark_read(c, buf, 1), -ECANCELED); /* woken out of a wait */
	CHECK_INT(write(hark_fd(t->p->b), "ready\n", 6), 6);
	for (int i = 0; i < 2; i++) { /* although nothing here would have to wait */
		CHECK_INT(hark_read(c, buf, 1), -ECANCELED);
		CHECK_INT(hark_readn(c, buf, 1), -ECANCELED);
		CHECK_INT(hark_readline(c, buf, sizeof buf), -ECANCELED);
		CHECK_INT(hark_peek(c, buf, 1), -ECANCELED);
		CHECK_INT(hark_idle(c), -ECANCELED);
		CHECK_INT(hark_write(c, "x", 1), -ECANCELED);
		CHECK_INT(hark_sleep(1), -ECANCELED);
		CHECK_INT(hark_sleep(0), -ECANCELED);
		CHECK_INT(hark_yield(), -ECANCELED);
		CHECK_INT(hark_wait_fd(hark_fd(c), HARK_IN, HARK_FOREVER), -ECANCELED);
	}
	t->went_on = true;
}

static void cancel_body(void)
{
	struct pair p = unix_pair();
	struct cancelled t = {.p = &p};
	char buf[8];
	struct hark_scope s;
	hark_scope_open(&s);
	CHECK_INT(hark_go(&s, "victim", after_cancel, &t), 0);
	CHECK_INT(hark_sleep(2 * HARK_MS), 0);
	hark_cancel(&s);
	CHECK_INT(hark_join(&s, HARK_FOREVER), 0);
	CHECK(t.went_on);
	hark_scope_close(&s);
	CHECK_INT(hark_readn(p.a, buf, 6), 6); /* nothing was lost for who is not cancelled */
	pair_drop(&p);
}

static void every_call_of_a_cancelled_fiber_says_so(void **state)
{
	(void)state;
	on_engines(cancel_body);
}

static void spin_on_busy_peer(void *arg)
{
	char buf[64];
	while (hark_read(arg, buf, sizeof buf) > 0)
		;
}

static void cancel_busy_body(void)
{
	struct beside b;
	struct pair p = unix_pair();
	struct chatter w = {.c = p.b};
	struct hark_scope s;
	hark_scope_open(&s);
	beside_start(&b, chatter, &w);
	CHECK_INT(hark_go(&s, "busy", spin_on_busy_peer, p.a), 0);
	CHECK_INT(hark_sleep(10 * HARK_MS), 0);
	int64_t start = hark_now();
	hark_scope_close(&s);
	CHECK(hark_now() - start < HARK_S * SLOWER);
	atomic_store(&w.stop, true);
	hark_abort(p.a);
	beside_end(&b);
	hark_abort(p.b);
}

static void a_fiber_whose_peer_always_has_more_is_cancelled_too(void **state)
{
	(void)state;
	on_engines(cancel_busy_body);
}

int main(int argc, char *argv[])
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(read_gives_what_is_there),
		cmocka_unit_test(readn_is_exact_and_keeps_what_came_before_an_early_end),
		cmocka_unit_test(readn_of_more_than_the_buffer_keeps_what_came_too),
		cmocka_unit_test(readn_keeps_what_came_before_a_time_out),
		cmocka_unit_test(readline_takes_one_line_and_leaves_the_rest),
		cmocka_unit_test(readline_keeps_bytes_past_the_limit),
		cmocka_unit_test(readline_joins_what_comes_byte_by_byte),
		cmocka_unit_test(readline_takes_lines_longer_than_the_buffer),
		cmocka_unit_test(peek_consumes_nothing),
		cmocka_unit_test(the_end_a_cut_and_an_early_end_are_told_apart),
		cmocka_unit_test(any_mixture_of_reads_gives_the_stream_in_order),
		cmocka_unit_test(small_writes_leave_when_they_must_and_not_before),
		cmocka_unit_test(writes_leave_at_once_while_another_waits_to_read),
		cmocka_unit_test(a_waiting_reader_sends_what_the_socket_had_no_room_for),
		cmocka_unit_test(write_sends_all_through_tiny_buffers),
		cmocka_unit_test(writev_sends_its_pieces_in_order),
		cmocka_unit_test(signals_neither_break_a_transfer_nor_shorten_a_wait),
		cmocka_unit_test(each_half_closes_by_itself),
		cmocka_unit_test(close_with_input_unread_never_cuts_the_answer),
		cmocka_unit_test(close_waits_a_bounded_time_for_a_silent_peer),
		cmocka_unit_test(abort_resets),
		cmocka_unit_test(no_write_raises_sigpipe),
		cmocka_unit_test(a_deadline_ends_every_later_call),
		cmocka_unit_test(a_peer_that_always_has_more_does_not_outrun_the_deadline),
		cmocka_unit_test(an_idle_timeout_is_of_each_wait),
		cmocka_unit_test(a_second_reader_or_writer_is_told_busy),
		cmocka_unit_test(reader_and_writer_of_one_connection_do_not_disturb_each_other),
		cmocka_unit_test(nothing_stays_behind_when_one_writes_and_another_reads),
		cmocka_unit_test(sendfile_sends_what_was_asked_between_what_was_written),
		cmocka_unit_test(copy_takes_all_and_tells_which_side_failed),
		cmocka_unit_test(bulk_passes_whole_in_both_directions),
		cmocka_unit_test(much_and_little_by_turns_come_in_order),
		cmocka_unit_test(a_reset_that_the_writer_met_is_no_end_to_the_reader),
		cmocka_unit_test(a_close_waits_for_a_peer_that_reads_late),
		cmocka_unit_test(what_comes_is_left_in_a_descriptor_that_was_handed_over),
		cmocka_unit_test(bulk_ends_in_every_way),
		cmocka_unit_test(the_end_of_a_unix_stream_behind_much_is_not_missed),
		cmocka_unit_test(urgent_data_does_not_stall_a_reader),
		cmocka_unit_test(pipes_are_streams_blocking_or_not),
		cmocka_unit_test(files_are_streams),
		cmocka_unit_test(nonblocking_sockets_are_streams_like_others),
		cmocka_unit_test(a_connection_outlives_the_loops_that_it_was_used_on),
		cmocka_unit_test(any_descriptor_can_be_waited_for_a_connections_too),
		cmocka_unit_test(every_call_of_a_cancelled_fiber_says_so),
		cmocka_unit_test(a_fiber_whose_peer_always_has_more_is_cancelled_too),
	};
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
