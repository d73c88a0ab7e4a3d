/* test_wait.c — deadlines and cancellation: what every call that may suspend says, whether or not it would have to
 * wait. */
#include "modes.h"

#include <sys/eventfd.h>
#include <time.h>

/* ---- deadlines long past --------------------------------------------------------------------- */

static void sleeps(void *arg)
{
	(void)arg;
	(void)hark_sleep(HARK_S);
}

static void a_deadline_long_past_ends_every_wait(void)
{
	static const int64_t past[] = {INT64_MIN, INT64_MIN + 1, -1, 0, 1};
	struct hark_endpoint e;
	struct hark_listener *l;
	struct hark_scope s;
	struct hark_conn *c;
	struct pair p = unix_pair();
	int fd = eventfd(0, EFD_CLOEXEC);
	char byte;
	CHECK(fd >= 0);
	CHECK_INT(hark_listen("tcp://127.0.0.1:0", NULL, &l), 0);
	for (size_t i = 0; i < sizeof past / sizeof past[0]; i++) {
		struct hark_dial_opts o = {.deadline = past[i]};
		CHECK_INT(hark_wait_fd(fd, HARK_IN, past[i]), -ETIMEDOUT);
		CHECK_INT(hark_wait_fd(fd, HARK_OUT, past[i]), HARK_OUT);
		CHECK_INT(hark_accept(l, past[i], &c), -ETIMEDOUT);
		CHECK_INT(hark_resolve("tcp://name.invalid:80", &e, 1, past[i]), -ETIMEDOUT);
		CHECK_INT(hark_resolve("tcp://127.0.0.1:80", &e, 1, past[i]), 1); /* nothing to wait for */
		if (past[i] != 0)                                                 /* the default */
			CHECK_INT(hark_dial("tcp://name.invalid:80", &o, &c), -ETIMEDOUT);
		CHECK_INT(hark_sleep(past[i]), 0);
		hark_deadline(p.a, past[i]);
		CHECK_INT(hark_read(p.a, &byte, 1), -ETIMEDOUT);
		hark_scope_open(&s);
		CHECK_INT(hark_join(&s, past[i]), 0); /* nobody to wait for */
		CHECK_INT(hark_go(&s, "sleeps", sleeps, NULL), 0);
		CHECK_INT(hark_join(&s, past[i]), -ETIMEDOUT);
		hark_scope_close(&s);
	}
	hark_listener_close(l);
	pair_drop(&p);
	(void)close(fd);
}

/* ---- cancelled ------------------------------------------------------------------------------- */

static struct hark_listener *listener;

static void calls_everything(void *arg)
{
	struct hark_scope *own = arg, inner;
	struct hark_endpoint e;
	struct hark_conn *c;
	int fd = eventfd(1, EFD_CLOEXEC);
	CHECK(fd >= 0);
	CHECK_INT(hark_sleep(HARK_S), -ECANCELED);
	for (int i = 0; i < 2; i++) {
		CHECK_INT(hark_sleep(0), -ECANCELED);
		CHECK_INT(hark_sleep(-1), -ECANCELED);
		CHECK_INT(hark_sleep(1), -ECANCELED);
		CHECK_INT(hark_yield(), -ECANCELED);
		CHECK_INT(hark_wait_fd(fd, HARK_IN, HARK_FOREVER), -ECANCELED); /* ready */
		CHECK_INT(hark_wait_fd(fd, HARK_IN | HARK_DRAIN, 0), -ECANCELED);
		CHECK_INT(hark_wait_fd(fd, HARK_DRAIN, HARK_FOREVER), -ECANCELED);
		CHECK_INT(hark_resolve("tcp://127.0.0.1:80", &e, 1, HARK_FOREVER), -ECANCELED);
		CHECK_INT(hark_resolve("tcp://localhost:80", &e, 1, HARK_FOREVER), -ECANCELED);
		CHECK_INT(hark_dial("tcp://127.0.0.1:80", NULL, &c), -ECANCELED);
		CHECK_INT(hark_dial("udp://127.0.0.1:80", NULL, &c), -ECANCELED);
		CHECK_INT(hark_dial("unix:/nowhere", NULL, &c), -ECANCELED);
		CHECK_INT(hark_accept(listener, HARK_FOREVER, &c), -ECANCELED);
		CHECK_INT(hark_go(own, "late", sleeps, NULL), -ECANCELED);
		hark_scope_open(&inner);
		CHECK_INT(hark_join(&inner, HARK_FOREVER), -ECANCELED); /* of nobody */
		CHECK_INT(hark_join(&inner, 0), -ECANCELED);
		hark_scope_close(&inner);
	}
	(void)close(fd);
}

static void every_call_of_a_cancelled_fiber_says_so(void)
{
	struct hark_scope s;
	CHECK_INT(hark_listen("tcp://127.0.0.1:0", NULL, &listener), 0);
	hark_scope_open(&s);
	CHECK_INT(hark_go(&s, "calls", calls_everything, &s), 0);
	CHECK_INT(hark_yield(), 0);
	hark_cancel(&s);
	CHECK_INT(hark_join(&s, HARK_FOREVER), 0);
	hark_scope_close(&s);
	hark_listener_close(listener);
}

/* ---- descriptors ------------------------------------------------------------------------------ */

static void waiting_for_a_drain_does_not_spin_on_a_pipe_that_is_hung_up(void)
{
	int p[2];
	CHECK_INT(pipe2(p, O_CLOEXEC), 0);
	(void)close(p[1]);
	int64_t before = cpu_ns();
	CHECK_INT(hark_wait_fd(p[0], HARK_DRAIN, hark_after(200 * HARK_MS)), -ETIMEDOUT);
	CHECK(cpu_ns() - before < 50 * HARK_MS);
	CHECK_INT(hark_wait_fd(p[0], HARK_IN | HARK_DRAIN, hark_after(200 * HARK_MS)), HARK_IN);
	(void)close(p[0]);
	CHECK_INT(hark_wait_fd(p[0], HARK_DRAIN, hark_after(HARK_S)), -EBADF);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		EVERYWHERE_AT_ONCE(a_deadline_long_past_ends_every_wait),
		EVERYWHERE(every_call_of_a_cancelled_fiber_says_so),
		EVERYWHERE(waiting_for_a_drain_does_not_spin_on_a_pipe_that_is_hung_up),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
