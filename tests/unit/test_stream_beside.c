/* test_stream_beside.c — several that use one stream: a reader beside a writer, loops that come and go, who is handed
 * the descriptor. */
#include "stream_support.h"

/* ---- roles ----------------------------------------------------------------------------------- */

static void a_second_reader_or_writer_is_told_busy(void)
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

static void reader_and_writer_of_one_connection_do_not_disturb_each_other(void)
{
	duplex_on(true);
	duplex_on(false);
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

static void nothing_stays_behind_when_one_writes_and_another_reads(void)
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

/* ---- bulk ------------------------------------------------------------------------------------ */

/* A read has waited, so that an engine may be receiving in advance: no more of what comes once c is handed over. */
static void what_comes_is_left_in_a_descriptor_that_was_handed_over(void)
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

static void any_descriptor_can_be_waited_for_a_connections_too(void)
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

int main(int argc, char *argv[])
{
	const struct CMUnitTest tests[] = {
		EVERYWHERE(a_second_reader_or_writer_is_told_busy),
		EVERYWHERE(reader_and_writer_of_one_connection_do_not_disturb_each_other),
		EVERYWHERE(nothing_stays_behind_when_one_writes_and_another_reads),
		EVERYWHERE(what_comes_is_left_in_a_descriptor_that_was_handed_over),
		cmocka_unit_test(a_connection_outlives_the_loops_that_it_was_used_on),
		EVERYWHERE(any_descriptor_can_be_waited_for_a_connections_too),
	};
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
