/* test_stream_time.c — deadlines, idle time-outs and cancellation of a stream's calls. */
#include "stream_support.h"

/* ---- time ------------------------------------------------------------------------------------ */

static void a_deadline_ends_every_later_call(void)
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

static void a_peer_that_always_has_more_does_not_outrun_the_deadline(void)
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

static void slow_but_steady(void *arg)
{
	struct hark_conn *c = arg;
	for (int i = 0; i < 6; i++) {
		CHECK_INT(hark_sleep(90 * HARK_MS), 0);
		say(c, "x");
	}
}

static void an_idle_timeout_is_of_each_wait(void)
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

static void every_call_of_a_cancelled_fiber_says_so(void)
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

static void spin_on_busy_peer(void *arg)
{
	char buf[64];
	while (hark_read(arg, buf, sizeof buf) > 0)
		;
}

static void a_fiber_whose_peer_always_has_more_is_cancelled_too(void)
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

int main(int argc, char *argv[])
{
	const struct CMUnitTest tests[] = {
		EVERYWHERE(a_deadline_ends_every_later_call),
		EVERYWHERE(a_peer_that_always_has_more_does_not_outrun_the_deadline),
		EVERYWHERE_AT_ONCE(an_idle_timeout_is_of_each_wait),
		ON_ENGINES(every_call_of_a_cancelled_fiber_says_so),
		ON_ENGINES(a_fiber_whose_peer_always_has_more_is_cancelled_too),
	};
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
