/* test_clock.c — time on a loop whose fibers compute: the clock goes on meanwhile, and nobody's time-out is charged
 * with it. With each engine. */
#include "modes.h"

#include <sys/resource.h>

#include "loop/fiber.h"

/* Holds the whole loop. */
static void compute(int64_t ns)
{
	int64_t until = hark_now() + ns;
	while (hark_now() < until)
		;
}

struct later {
	int64_t after_ns;
	int fd;
};

static void *writes_later(void *arg)
{
	const struct later *l = arg;
	struct timespec t = {.tv_sec = l->after_ns / HARK_S, .tv_nsec = l->after_ns % HARK_S};
	(void)nanosleep(&t, NULL);
	CHECK_INT(write(l->fd, "x", 1), 1);
	return NULL;
}

/* What comes 100 ms after 300 ms of computing is there within an idle time-out of 200 ms. */
static void an_idle_time_out_begins_after_what_a_box_has_computed(void)
{
	struct pair p = tcp_pair();
	struct later l = {.after_ns = 400 * HARK_MS, .fd = hark_fd(p.b)};
	pthread_t thread;
	char byte;
	hark_idle_timeout(p.a, 200 * HARK_MS);
	CHECK_INT(pthread_create(&thread, NULL, writes_later, &l), 0);
	CHECK_INT(hark_yield(), 0);
	compute(300 * HARK_MS);
	CHECK_INT(hark_read(p.a, &byte, 1), 1);
	CHECK_INT(pthread_join(thread, NULL), 0);
	pair_drop(&p);
}

static void a_deadline_that_has_passed_while_a_box_computed_has_passed(void)
{
	struct pair p = tcp_pair();
	char byte;
	CHECK_INT(write(hark_fd(p.b), "x", 1), 1);
	CHECK_INT(hark_wait_fd(hark_fd(p.a), HARK_IN, HARK_FOREVER), HARK_IN);
	hark_deadline(p.a, hark_after(20 * HARK_MS));
	compute(50 * HARK_MS);
	CHECK_INT(hark_read(p.a, &byte, 1), -ETIMEDOUT);
	hark_deadline(p.a, HARK_FOREVER);
	CHECK_INT(hark_read(p.a, &byte, 1), 1);
	pair_drop(&p);
}

/* Else its first idle time-out would have begun before it. */
static void a_connection_is_opened_when_it_is_accepted(void)
{
	struct hark_listener *l;
	struct hark_conn *c, *peer;
	struct hark_conn_stats stats;
	char address[HARK_ADDRESS_MAX];
	CHECK_INT(hark_listen("tcp://127.0.0.1:0", NULL, &l), 0);
	CHECK(hark_listener_address(l, address, sizeof address) > 0);
	CHECK_INT(hark_dial(address, NULL, &peer), 0);
	compute(50 * HARK_MS);
	int64_t before = hark_now();
	CHECK_INT(hark_accept(l, HARK_FOREVER, &c), 0);
	hark_conn_stats(c, &stats);
	CHECK(stats.opened_ns >= before);
	hark_abort(c);
	hark_abort(peer);
	hark_listener_close(l);
}

/* More than an engine tells at once. */
#define READERS 700

static int got, late;

static void reads(void *arg)
{
	char byte;
	ssize_t n = hark_read(arg, &byte, 1);
	CHECK(n == 1 || n == -ETIMEDOUT);
	*(n == 1 ? &got : &late) += 1;
}

static void many_body(void)
{
	static struct pair pairs[READERS];
	struct hark_scope s;
	hark_scope_open(&s);
	for (int i = 0; i < READERS; i++) {
		pairs[i] = unix_pair();
		hark_idle_timeout(pairs[i].a, 500 * HARK_MS);
		CHECK_INT(hark_go(&s, "reads", reads, pairs[i].a), 0);
	}
	CHECK_INT(hark_yield(), 0);
	for (int i = 0; i < READERS; i++)
		CHECK_INT(write(hark_fd(pairs[i].b), "x", 1), 1);
	compute(600 * HARK_MS);
	CHECK_INT(hark_join(&s, HARK_FOREVER), 0);
	hark_scope_close(&s);
	CHECK_INT(late, 0);
	CHECK_INT(got, READERS);
	for (int i = 0; i < READERS; i++)
		pair_drop(&pairs[i]);
}

static void what_has_come_in_time_is_read_however_much_came_beside_it(void **state)
{
	(void)state;
	struct rlimit l;
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &l), 0);
	l.rlim_cur = l.rlim_cur < 2 * READERS + 100 ? 2 * READERS + 100 : l.rlim_cur;
	if (setrlimit(RLIMIT_NOFILE, &l) < 0) {
		print_message("skipped: only %ld descriptors may be open\n", (long)l.rlim_max);
		skip();
	}
	on_engines(many_body);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		EVERYWHERE_AT_ONCE(an_idle_time_out_begins_after_what_a_box_has_computed),
		EVERYWHERE_AT_ONCE(a_deadline_that_has_passed_while_a_box_computed_has_passed),
		EVERYWHERE_AT_ONCE(a_connection_is_opened_when_it_is_accepted),
		cmocka_unit_test(what_has_come_in_time_is_read_however_much_came_beside_it),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
