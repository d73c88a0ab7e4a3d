/* test_serve_workers.c — workers, their supervisor and the caller's own children. */
#include "serve_support.h"

#include "base/sys.h"

/* ---- limits ---------------------------------------------------------------------------------- */

static int failures_left;
static pid_t (*real_fork)(void);
static int (*real_create)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);

static pid_t failing_fork(void)
{
	if (failures_left-- <= 0)
		return real_fork();
	errno = EAGAIN;
	return -1;
}

static int failing_create(pthread_t *t, const pthread_attr_t *a, void *(*fn)(void *), void *arg)
{
	return failures_left-- > 0 ? EAGAIN : real_create(t, a, fn, arg);
}

static void break_starts(void)
{
	failures_left = 4;
	real_fork = hark__sys.fork;
	hark__sys.fork = failing_fork;
	real_create = hark__sys.pthread_create;
	hark__sys.pthread_create = failing_create;
}

/* ---- workers that cannot be forked ---------------------------------------------------------------- */

static void break_one_fork(void)
{
	failures_left = 1;
	real_fork = hark__sys.fork;
	hark__sys.fork = failing_fork;
}

static void break_every_fork(void)
{
	break_one_fork();
	failures_left = 1000;
}

static void a_worker_that_could_not_be_forked_at_the_start_comes_later(void **state)
{
	(void)state;
	struct plan p = {.box = greets, .opts = {.workers = 2}, .prepare = break_one_fork, .grace_ns = 10 * HARK_S};
	struct server s = server_start(&p);
	event_await(&s, 'u');
	event_await(&s, 'r');
	event_await(&s, 'u');
	int fd = client(&s);
	client_says(fd, "1\n");
	client_hears(fd, "hi\n1\n");
	client_hears_the_end(fd);
	assert_int_equal(kill(s.pid, SIGTERM), 0);
	assert_int_equal(server_end(&s), 0);
}

static void without_any_worker_serving_fails(void **state)
{
	(void)state;
	struct plan p = {.box = greets, .opts = {.workers = 2}, .prepare = break_every_fork};
	struct server s = server_start(&p);
	assert_int_equal(server_end(&s), 1);
}

/* ---- a supervisor that cannot wait ---------------------------------------------------------------- */

static int64_t prepared_at;

static int failing_ppoll(struct pollfd *p, nfds_t n, const struct timespec *timeout, const sigset_t *mask)
{
	(void)p;
	(void)n;
	(void)timeout;
	(void)mask;
	errno = ENOMEM;
	return -1;
}

static void break_waiting(void)
{
	hark__sys.ppoll = failing_ppoll;
	prepared_at = hark_now();
}

static void check_cpu(void)
{
	CHECK(hark_now() - prepared_at > 500 * HARK_MS);
	CHECK(cpu_ns() < 250 * HARK_MS * SLOWER);
}

static void a_supervisor_whose_poll_fails_supervises_and_does_not_spin(void **state)
{
	(void)state;
	struct plan p = {.box = greets,
	                 .opts = {.workers = 2},
	                 .prepare = break_waiting,
	                 .after = check_cpu,
	                 .grace_ns = 10 * HARK_S};
	struct server s = server_start(&p);
	assert_true(server_ready(&s));
	(void)poll(NULL, 0, 600); /* what it does with this time is the question */
	int fd = client(&s);
	client_says(fd, "1\n");
	client_hears(fd, "hi\n1\n");
	client_hears_the_end(fd);
	assert_int_equal(kill(s.pid, SIGTERM), 0);
	assert_int_equal(server_end(&s), 0);
}

static void a_connection_that_there_was_no_process_or_thread_for_is_served_later(void **state)
{
	static const enum hark_model models[] = {HARK_MODEL_THREAD, HARK_MODEL_PROCESS};
	(void)state;
	for (int drained = 0; drained < 2; drained++) /* also where the drain comes in between */
		for (size_t m = 0; m < 2; m++) {
			struct plan p = {.box = greets,
			                 .opts = {.model = models[m]},
			                 .grace_ns = 10 * HARK_S,
			                 .prepare = break_starts};
			struct server s = server_start(&p);
			assert_true(server_ready(&s));
			int one = client(&s), two = client(&s);
			event_await(&s, 'P');
			if (drained)
				assert_int_equal(kill(s.pid, SIGTERM), 0);
			client_says(one, "1\n");
			client_says(two, "2\n");
			client_hears(one, "hi\n1\n");
			client_hears(two, "hi\n2\n");
			client_hears_the_end(one);
			client_hears_the_end(two);
			assert_int_equal(drained ? server_end(&s) : server_stop(&s), 0);
		}
}

/* ---- processes ------------------------------------------------------------------------------- */

static pid_t own_child;

static void have_a_child(void)
{
	own_child = fork();
	CHECK(own_child >= 0);
	if (own_child == 0)
		_exit(33);
}

static void wait_for_it(void)
{
	int status;
	CHECK_INT(waitpid(own_child, &status, 0), own_child);
	CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 33);
	CHECK_INT(waitpid(-1, &status, WNOHANG), -1); /* and the server's own are all waited for */
	CHECK_INT(errno, ECHILD);
}

static void serve_one(struct server *s)
{
	int fd = client(s);
	client_hears(fd, "hi\n");
	client_says(fd, "x\n");
	client_hears(fd, "x\n");
	client_hears_the_end(fd);
}

static void the_callers_own_children_are_left_to_it(void **state)
{
	(void)state;
	for (int m = HARK_MODEL_PROCESS; m <= HARK_MODEL_FIBER; m++)
		for (int workers = 1; workers <= 2; workers++) {
			struct plan p = {
				.box = greets,
				.opts = {.model = (enum hark_model)m, .workers = workers},
				.grace_ns = 5 * HARK_S,
				.prepare = have_a_child,
				.after = wait_for_it,
			};
			struct server s = server_start(&p);
			assert_true(server_ready(&s));
			serve_one(&s);
			serve_one(&s);
			assert_int_equal(server_stop(&s), 0);
		}
}

static void a_dead_worker_is_replaced(void **state)
{
	(void)state;
	struct plan p = {.box = lines, .opts = {.workers = 2}, .grace_ns = 5 * HARK_S};
	struct server s = server_start(&p);
	assert_true(server_ready(&s));
	for (int i = 0; i < 3; i++) {
		int fd = client(&s);
		client_says(fd, "kill\n");
		client_hears_the_end(fd);
		event_await(&s, 'd');
		event_await(&s, 'u');
	}
	int fds[10];
	for (int i = 0; i < 10; i++) {
		fds[i] = client(&s);
		client_says(fds[i], "x\n");
		client_hears(fds[i], "x\n");
	}
	for (int i = 0; i < 10; i++)
		(void)close(fds[i]);
	assert_int_equal(server_stop(&s), 0);
}

static void workers_end_when_their_supervisor_dies(void **state)
{
	(void)state;
	struct plan p = {.box = lines, .opts = {.workers = 2}, .grace_ns = 5 * HARK_S};
	struct server s = server_start(&p);
	assert_true(server_ready(&s));
	int fd = client(&s), status;
	client_says(fd, "x\n");
	client_hears(fd, "x\n");
	assert_int_equal(kill(s.pid, SIGKILL), 0);
	assert_int_equal(waitpid(s.pid, &status, 0), s.pid);
	client_hears_the_end(fd);
	while (event_next(&s, LONG_MS) != 0)
		; /* the pipe's end: nobody holds it any more */
	char c;
	assert_int_equal(read(s.events, &c, 1), 0);
	(void)close(s.events);
}

static void a_childs_crash_is_its_own(void **state)
{
	(void)state;
	struct plan p = {.box = lines, .opts = {.model = HARK_MODEL_PROCESS}, .grace_ns = 5 * HARK_S};
	struct server s = server_start(&p);
	assert_true(server_ready(&s));
	for (int i = 0; i < 3; i++) {
		int fd = client(&s);
		client_says(fd, "kill\n");
		client_hears_the_end(fd);
	}
	int fd = client(&s);
	client_says(fd, "x\n");
	client_hears(fd, "x\n");
	(void)close(fd);
	assert_int_equal(server_stop(&s), 0);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_connection_that_there_was_no_process_or_thread_for_is_served_later),
		cmocka_unit_test(a_worker_that_could_not_be_forked_at_the_start_comes_later),
		cmocka_unit_test(without_any_worker_serving_fails),
		cmocka_unit_test(a_supervisor_whose_poll_fails_supervises_and_does_not_spin),
		cmocka_unit_test(the_callers_own_children_are_left_to_it),
		cmocka_unit_test(a_dead_worker_is_replaced),
		cmocka_unit_test(workers_end_when_their_supervisor_dies),
		cmocka_unit_test(a_childs_crash_is_its_own),
	};
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
