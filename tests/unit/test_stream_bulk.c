/* test_stream_bulk.c — much at a time: sendfile, copy, and what an engine receives in advance. */
#include "stream_support.h"

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

static void sendfile_sends_what_was_asked_between_what_was_written(void)
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

static void copy_takes_all_and_tells_which_side_failed(void)
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

static void bulk_passes_whole_in_both_directions(void)
{
	bulk_with(copy_all, tcp_pair(), unix_pair());
	bulk_with(pass_all, tcp_pair(), tcp_pair());
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

static void much_and_little_by_turns_come_in_order(void)
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

static void bulk_ends_in_every_way(void)
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

int main(int argc, char *argv[])
{
	const struct CMUnitTest tests[] = {
		EVERYWHERE(sendfile_sends_what_was_asked_between_what_was_written),
		EVERYWHERE(copy_takes_all_and_tells_which_side_failed),
		EVERYWHERE(bulk_passes_whole_in_both_directions),
		EVERYWHERE(much_and_little_by_turns_come_in_order),
		EVERYWHERE(bulk_ends_in_every_way),
		cmocka_unit_test(the_end_of_a_unix_stream_behind_much_is_not_missed),
	};
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
