/* test_serve_drain.c — how serving ends: a drain, its grace, and the successor's retiring. */
#include "serve_support.h"

/* ---- draining -------------------------------------------------------------------------------- */

static void a_drain_ends_the_idle_and_lets_the_busy_finish(void **state)
{
	static const enum hark_model models[] = {HARK_MODEL_FIBER, HARK_MODEL_THREAD, HARK_MODEL_PROCESS};
	(void)state;
	for (int workers = 1; workers <= 2; workers++)
		for (size_t m = 0; m < 3; m++) {
			struct plan p = {.box = lines,
			                 .opts = {.model = models[m], .workers = workers},
			                 .grace_ns = 10 * HARK_S};
			struct server s = server_start(&p);
			assert_true(server_ready(&s));
			int idle = client(&s), busy = client(&s);
			client_says(idle, "one\n");
			client_hears(idle, "one\n");
			client_says(busy, "begun\nand not");
			client_hears(busy, "begun\n");
			assert_int_equal(kill(s.pid, SIGTERM), 0);
			event_await(&s, '!');
			client_hears_the_end(idle);
			client_says(busy, " ended\n");
			client_hears(busy, "and not ended\n");
			client_hears_the_end(busy);
			assert_int_equal(server_end(&s), 0);
			int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
			assert_int_equal(connect(fd, (struct sockaddr *)&s.at.addr, s.at.len), -1);
			assert_int_equal(errno, ECONNREFUSED);
			(void)close(fd);
		}
}

/* Nobody listens there any more: the sockets are closed. */
static void await_refusal(const struct server *s)
{
	for (;;) {
		int fd = socket(s->at.addr.ss_family, s->at.type | SOCK_CLOEXEC, 0);
		int r = s->at.type == SOCK_STREAM ? connect(fd, (const struct sockaddr *)&s->at.addr, s->at.len)
		                                  : bind(fd, (const struct sockaddr *)&s->at.addr, s->at.len);
		int err = errno;
		(void)close(fd);
		if (s->at.type == SOCK_STREAM ? r < 0 && err == ECONNREFUSED : r == 0)
			return;
		(void)poll(NULL, 0, 5); /* bounded by alarm(2) */
	}
}

static void who_retires_accepts_no_more_and_serves_what_it_has(void **state)
{
	static const enum hark_model models[] = {HARK_MODEL_FIBER, HARK_MODEL_THREAD, HARK_MODEL_PROCESS,
	                                         HARK_MODEL_INLINE};
	(void)state;
	(void)alarm(60 * SLOWER);
	for (int workers = 1; workers <= 2; workers++)
		for (size_t m = 0; m < 4; m++) {
			struct plan p = {.box = lines,
			                 .opts = {.model = models[m], .workers = workers},
			                 .grace_ns = 10 * HARK_S};
			struct server s = server_start(&p);
			assert_true(server_ready(&s));
			int fd = client(&s);
			client_says(fd, "one\n");
			client_hears(fd, "one\n");
			assert_int_equal(kill(s.pid, SIGHUP), 0);
			await_refusal(&s);
			client_says(fd, "two\n"); /* though it was idle */
			client_hears(fd, "two\n");
			(void)close(fd);
			assert_int_equal(server_end(&s), 0);
			await_refusal(&s);
		}
	(void)alarm(0);
}

static void who_retires_with_nobody_there_ends(void **state)
{
	static void (*const when[])(void) = {NULL, hark_retire};
	(void)state;
	(void)alarm(60 * SLOWER);
	for (int workers = 1; workers <= 2; workers++)
		for (int before = 0; before < 2; before++) /* even before it served */
			for (int udp = 0; udp < 2; udp++) {
				struct plan p = {.box = lines,
				                 .opts = {.workers = workers},
				                 .prepare = when[before],
				                 .address = udp ? "udp://127.0.0.1:0" : NULL};
				struct server s = server_start(&p);
				assert_true(server_ready(&s));
				if (!before)
					assert_int_equal(kill(s.pid, SIGHUP), 0);
				assert_int_equal(server_end(&s), 0);
				await_refusal(&s);
			}
	(void)alarm(0);
}

static void who_retires_can_still_be_drained(void **state)
{
	struct plan p = {.box = lines, .grace_ns = 10 * HARK_S};
	struct server s = server_start(&p);
	(void)state;
	assert_true(server_ready(&s));
	int idle = client(&s);
	client_says(idle, "one\n");
	client_hears(idle, "one\n");
	assert_int_equal(kill(s.pid, SIGHUP), 0);
	await_refusal(&s);
	assert_int_equal(kill(s.pid, SIGTERM), 0);
	client_hears_the_end(idle);
	assert_int_equal(server_end(&s), 0);
}

static void a_drain_serves_what_waited_in_the_backlog(void **state)
{
	static const enum hark_model models[] = {HARK_MODEL_FIBER, HARK_MODEL_THREAD, HARK_MODEL_PROCESS,
	                                         HARK_MODEL_INLINE};
	(void)state;
	for (size_t m = 0; m < 4; m++) {
		int fds[5];
		struct plan p = {.box = greets, .opts = {.model = models[m], .max_conns = 1}, .grace_ns = 10 * HARK_S};
		struct server s = server_start(&p);
		assert_true(server_ready(&s));
		for (int i = 0; i < 5; i++)
			fds[i] = client(&s);
		client_hears(fds[0], "hi\n");
		assert_int_equal(kill(s.pid, SIGTERM), 0);
		if (models[m] != HARK_MODEL_INLINE) /* there the box that runs has to end first */
			event_await(&s, '!');
		for (int i = 0; i < 5; i++) {
			client_says(fds[i], "go\n");
			client_hears(fds[i], i > 0 ? "hi\ngo\n" : "go\n");
			client_hears_the_end(fds[i]);
		}
		assert_int_equal(server_end(&s), 0);
	}
}

static int64_t started;

static void cut_when_the_grace_ends(struct server *s)
{
	int fd = client(s);
	client_hears(fd, "hi\n");
	started = hark_now();
	assert_int_equal(kill(s->pid, SIGTERM), 0);
	client_hears_the_end(fd);
	assert_int_equal(server_end(s), 2);
	int64_t took = hark_now() - started;
	assert_in_range(took, 150 * HARK_MS, 3 * HARK_S * SLOWER);
}

static void the_end_of_the_grace_cuts_what_is_left(void **state)
{
	(void)state;
	for (int m = HARK_MODEL_INLINE; m <= HARK_MODEL_FIBER; m++)
		for (int workers = 1; workers <= 2; workers++) {
			struct plan p = {
				.box = greets,
				.opts = {.model = (enum hark_model)m, .workers = workers},
				.grace_ns = 200 * HARK_MS,
			};
			struct server s = server_start(&p);
			assert_true(server_ready(&s));
			cut_when_the_grace_ends(&s);
		}
}

static void a_second_drain_shortens_the_grace(void **state)
{
	(void)state;
	for (int m = HARK_MODEL_INLINE; m <= HARK_MODEL_FIBER; m++)
		for (int workers = 1; workers <= 2; workers++) {
			struct plan p = {.box = greets,
			                 .opts = {.model = (enum hark_model)m, .workers = workers},
			                 .grace_ns = 100 * HARK_S};
			struct server s = server_start(&p);
			assert_true(server_ready(&s));
			int fd = client(&s);
			client_hears(fd, "hi\n");
			assert_int_equal(kill(s.pid, SIGTERM), 0);
			if (m != HARK_MODEL_INLINE || workers == 2)
				event_await(&s, '!');
			assert_false(hears_within(fd, 20));
			started = hark_now();
			assert_int_equal(kill(s.pid, SIGUSR1), 0);
			client_hears_the_end(fd);
			assert_int_equal(server_end(&s), 2);
			assert_in_range(hark_now() - started, 0, 4 * HARK_S * SLOWER);
		}
}

/* ---- processes ------------------------------------------------------------------------------- */

/* One that serves in place looks at the drain before it takes the next, or it would go on for as long as clients come.
 */
static void an_iterative_server_drains_between_two_connections(void **state)
{
	(void)state;
	for (size_t e = 0; e < ENGINES_ALL; e++) {
		struct plan p = {.box = greets,
		                 .opts = {.model = HARK_MODEL_INLINE, .engine = engines_all[e]},
		                 .grace_ns = 20 * SLOWER * HARK_S};
		struct server s = server_start(&p);
		if (!server_ready(&s)) {
			assert_int_equal(server_end(&s), SKIPPED);
			continue;
		}
		int first = client(&s), second;
		client_hears(first, "hi\n");
		assert_int_equal(event_next(&s, LONG_MS), 'o');
		second = client(&s);
		assert_int_equal(kill(s.pid, SIGTERM), 0);
		client_says(first, "x\n");
		client_hears(first, "x\n");
		client_hears_the_end(first);
		assert_int_equal(event_next(&s, LONG_MS), 'c');
		assert_int_equal(event_next(&s, LONG_MS), '!');
		assert_int_equal(event_next(&s, LONG_MS), 'o'); /* it waited already when the drain began */
		client_hears(second, "hi\n");
		client_says(second, "y\n");
		client_hears(second, "y\n");
		client_hears_the_end(second);
		assert_int_equal(server_end(&s), 0);
	}
}

/* Its child hears of the drain first; the server's own thread stands still meanwhile. */
static void waits_for_its_child(struct hark_conn *c, void *arg)
{
	static bool forked;
	int status;
	(void)arg;
	pid_t pid = forked ? 0 : fork();
	CHECK(pid >= 0);
	if (pid > 0) {
		forked = true;
		CHECK_INT(hark_write(c, "hi\n", 3), 3);
		CHECK_INT(hark_flush(c), 0);
		while (waitpid(pid, &status, 0) < 0) /* by no call of the library's: it would take part in the drain */
			CHECK_INT(errno, EINTR);
		CHECK_INT(status, 0);
	} else if (!forked) {
		while (hark_drain_deadline() == HARK_FOREVER)
			(void)hark_wait_fd(hark_fd(c), HARK_DRAIN, HARK_FOREVER);
		CHECK_INT(hark_sleep(HARK_MS), 0); /* a wait more */
		_exit(0);
	} else {
		CHECK_INT(hark_write(c, "yo\n", 3), 3);
	}
}

static void a_boxs_own_child_leaves_the_backlog_to_the_server(void **state)
{
	(void)state;
	for (size_t e = 0; e < ENGINES_ALL; e++) {
		struct plan p = {.box = waits_for_its_child,
		                 .opts = {.model = HARK_MODEL_INLINE, .engine = engines_all[e]},
		                 .grace_ns = 20 * SLOWER * HARK_S};
		struct server s = server_start(&p);
		if (!server_ready(&s)) {
			assert_int_equal(server_end(&s), SKIPPED);
			continue;
		}
		int first = client(&s);
		client_hears(first, "hi\n");
		int second = client(&s);
		assert_int_equal(kill(s.pid, SIGTERM), 0);
		client_hears_the_end(first);
		client_hears(second, "yo\n");
		client_hears_the_end(second);
		assert_int_equal(server_end(&s), 0);
	}
}

/* The pid of the worker it comes from, then as lines() does. */
static void tells_its_worker(struct hark_conn *c, void *arg)
{
	(void)hark_printf(c, "%d\n", (int)getppid());
	lines(c, arg);
}

static void nothing(void *arg)
{
	(void)arg;
}

static void waits_beside_fibers_of_its_own(struct hark_conn *c, void *arg)
{
	struct hark_scope s;
	hark_scope_open(&s);
	(void)hark_go(&s, "nothing", nothing, NULL);
	tells_its_worker(c, arg);
	hark_scope_close(&s);
}

static void a_connection_whose_worker_died_still_hears_of_the_drain(void **state)
{
	static hark_box *const boxes[] = {tells_its_worker, waits_beside_fibers_of_its_own};
	(void)state;
	for (size_t b = 0; b < 2; b++) {
		struct plan p = {.box = boxes[b],
		                 .opts = {.model = HARK_MODEL_PROCESS, .workers = 2},
		                 .grace_ns = 30 * SLOWER * HARK_S};
		struct server s = server_start(&p);
		assert_true(server_ready(&s));
		int fd = client(&s);
		char pid[16] = "", byte = 0;
		for (size_t i = 0; i < sizeof pid - 1 && byte != '\n'; i++) {
			assert_int_equal(receive(fd, &byte, 1), 1);
			pid[i] = byte;
		}
		assert_true(atoi(pid) > 1);
		assert_int_equal(kill(atoi(pid), SIGKILL), 0);
		event_await(&s, 'd');
		client_says(fd, "x\n"); /* its own process lives on */
		client_hears(fd, "x\n");
		assert_int_equal(server_stop(&s), 0);
		client_hears_the_end(fd);
	}
}

/* ---- boxes with fibers of their own ------------------------------------------------------------- */

static void idles(void *arg)
{
	CHECK_INT(hark_idle(arg), 0);
}

static void sleeps(void *arg)
{
	CHECK_INT(hark_sleep(1000 * HARK_S), -ECANCELED);
	*(int *)arg = 1;
}

static void idles_in_a_fiber(struct hark_conn *c, void *arg)
{
	struct hark_scope s;
	char line[8];
	(void)arg;
	hark_scope_open(&s);
	CHECK_INT(hark_readline(c, line, sizeof line), 2);
	CHECK_INT(hark_go(&s, "idles", idles, c), 0);
	CHECK_INT(hark_yield(), 0); /* it waits */
	CHECK_INT(hark_printf(c, "hello\n"), 6);
	CHECK_INT(hark_flush(c), 0);
	CHECK_INT(hark_join(&s, HARK_FOREVER), 0);
	hark_scope_close(&s);
	CHECK_INT(hark_printf(c, "bye\n"), 4);
}

static void sleeps_in_fibers(struct hark_conn *c, void *arg)
{
	struct hark_scope s, inner;
	int cut = 0;
	(void)arg;
	hark_scope_open(&s);
	hark_scope_open(&inner);
	CHECK_INT(hark_printf(c, "hello\n"), 6);
	CHECK_INT(hark_flush(c), 0);
	CHECK_INT(hark_go(&s, "sleeps", sleeps, &cut), 0);
	CHECK_INT(hark_go(&inner, "sleeps", sleeps, &cut), 0);
	CHECK_INT(hark_join(&inner, HARK_FOREVER), -ECANCELED);
	hark_scope_close(&inner);
	hark_scope_close(&s);
	CHECK(cut);
}

static const enum hark_model models_all[] = {HARK_MODEL_FIBER, HARK_MODEL_THREAD, HARK_MODEL_PROCESS,
                                             HARK_MODEL_INLINE};

static void a_boxs_own_fibers_hear_a_drain_begin(void **state)
{
	(void)state;
	for (int workers = 1; workers <= 2; workers++)
		for (size_t m = 0; m < 4; m++) {
			struct plan p = {.box = idles_in_a_fiber,
			                 .opts = {.model = models_all[m], .workers = workers},
			                 .grace_ns = 20 * HARK_S};
			struct server s = server_start(&p);
			assert_true(server_ready(&s));
			int fd = client(&s);
			client_says(fd, "x\n"); /* it has spoken: a drain does not wait for its first byte */
			client_hears(fd, "hello\n");
			assert_int_equal(kill(s.pid, SIGTERM), 0);
			client_hears(fd, "bye\n");
			(void)close(fd);
			assert_int_equal(server_end(&s), 0);
		}
}

static void a_boxs_own_fibers_are_cut_when_the_grace_ends(void **state)
{
	(void)state;
	for (size_t m = 0; m < 4; m++)
		for (int late = 0; late < 2; late++) { /* a grace that is shortened ends then */
			struct plan p = {.box = sleeps_in_fibers,
			                 .opts = {.model = models_all[m]},
			                 .grace_ns = (late ? 100 : 0) * HARK_S};
			struct server s = server_start(&p);
			assert_true(server_ready(&s));
			int fd = client(&s);
			client_hears(fd, "hello\n");
			assert_int_equal(kill(s.pid, SIGTERM), 0);
			if (late) {
				/* inline tells of the drain when its box returns. */
				if (models_all[m] != HARK_MODEL_INLINE)
					event_await(&s, '!');
				assert_int_equal(kill(s.pid, SIGUSR1), 0);
			}
			(void)close(fd);
			assert_int_equal(server_end(&s), 2);
		}
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_drain_ends_the_idle_and_lets_the_busy_finish),
		cmocka_unit_test(who_retires_accepts_no_more_and_serves_what_it_has),
		cmocka_unit_test(who_retires_with_nobody_there_ends),
		cmocka_unit_test(who_retires_can_still_be_drained),
		cmocka_unit_test(a_drain_serves_what_waited_in_the_backlog),
		cmocka_unit_test(the_end_of_the_grace_cuts_what_is_left),
		cmocka_unit_test(a_boxs_own_fibers_hear_a_drain_begin),
		cmocka_unit_test(a_boxs_own_fibers_are_cut_when_the_grace_ends),
		cmocka_unit_test(a_second_drain_shortens_the_grace),
		cmocka_unit_test(an_iterative_server_drains_between_two_connections),
		cmocka_unit_test(a_boxs_own_child_leaves_the_backlog_to_the_server),
		cmocka_unit_test(a_connection_whose_worker_died_still_hears_of_the_drain),
	};
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
