/* test_stream_read.c — reading a stream: exactly, by the line, ahead; on a plain thread and on each engine's loop. */
#include "stream_support.h"

/* ---- reading --------------------------------------------------------------------------------- */

static void read_gives_what_is_there(void)
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

static void readn_is_exact_and_keeps_what_came_before_an_early_end(void)
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

static void write_pattern(void *arg)
{
	struct hark_conn *c = arg;
	static char buf[40000];
	pattern_fill(buf, 0, sizeof buf);
	CHECK_INT(hark_write(c, buf, sizeof buf), sizeof buf);
	CHECK_INT(hark_shutdown(c, HARK_OUT), 0);
}

static void readn_of_more_than_the_buffer_keeps_what_came_too(void)
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

static void readn_keeps_what_came_before_a_time_out(void)
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

static void readline_takes_one_line_and_leaves_the_rest(void)
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

static void readline_keeps_bytes_past_the_limit(void)
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

static void dribble(void *arg)
{
	struct hark_conn *c = arg;
	for (const char *s = "slow line\nnext\n"; *s != '\0'; s++) {
		CHECK_INT(hark_write(c, s, 1), 1);
		CHECK_INT(hark_flush(c), 0);
		CHECK_INT(hark_sleep(HARK_MS), 0);
	}
}

static void readline_joins_what_comes_byte_by_byte(void)
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

static void readline_takes_lines_longer_than_the_buffer(void)
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

static void peek_consumes_nothing(void)
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

static void the_end_a_cut_and_an_early_end_are_told_apart(void)
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

static void any_mixture_of_reads_gives_the_stream_in_order(void)
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

/* ---- bulk ------------------------------------------------------------------------------------ */

static void urgent_data_does_not_stall_a_reader(void)
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

static void ready_tells_what_is_there_and_never_waits(void)
{
	struct pair p = tcp_pair();
	char byte;
	CHECK_INT(hark_ready(p.b), -EAGAIN);
	say(p.a, "xy");
	CHECK_INT(hark_idle(p.b), 1);
	CHECK_INT(hark_ready(p.b), 1);
	CHECK_INT(hark_read(p.b, &byte, 1), 1);
	CHECK_INT(hark_ready(p.b), 1); /* nothing is consumed */
	CHECK_INT(hark_read(p.b, &byte, 1), 1);
	CHECK_INT(byte, 'y');
	CHECK_INT(hark_ready(p.b), -EAGAIN);
	CHECK_INT(hark_shutdown(p.a, HARK_OUT), 0);
	CHECK_INT(hark_wait_fd(hark_fd(p.b), HARK_IN, hark_after(5 * HARK_S)), HARK_IN);
	CHECK_INT(hark_idle(p.b), 0);
	CHECK_INT(hark_ready(p.b), 0);
	pair_drop(&p);
}

int main(int argc, char *argv[])
{
	const struct CMUnitTest tests[] = {
		EVERYWHERE(ready_tells_what_is_there_and_never_waits),
		EVERYWHERE(read_gives_what_is_there),
		EVERYWHERE(readn_is_exact_and_keeps_what_came_before_an_early_end),
		EVERYWHERE(readn_of_more_than_the_buffer_keeps_what_came_too),
		EVERYWHERE(readn_keeps_what_came_before_a_time_out),
		EVERYWHERE(readline_takes_one_line_and_leaves_the_rest),
		EVERYWHERE(readline_keeps_bytes_past_the_limit),
		EVERYWHERE(readline_joins_what_comes_byte_by_byte),
		EVERYWHERE(readline_takes_lines_longer_than_the_buffer),
		EVERYWHERE(peek_consumes_nothing),
		EVERYWHERE(the_end_a_cut_and_an_early_end_are_told_apart),
		EVERYWHERE(any_mixture_of_reads_gives_the_stream_in_order),
		EVERYWHERE(urgent_data_does_not_stall_a_reader),
	};
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
