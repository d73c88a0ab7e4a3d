/* test_serve_backlog.c — connections wait in the backlog while there is no room or no descriptor for them. */
#include "serve_support.h"

#include "base/sys.h"

#define CLIENTS 100

/* ---- limits ---------------------------------------------------------------------------------- */

static void over_max_conns_connections_wait_in_the_backlog(void **state)
{
	static const enum hark_model models[] = {HARK_MODEL_FIBER, HARK_MODEL_THREAD, HARK_MODEL_PROCESS};
	(void)state;
	for (size_t m = 0; m < 3; m++) {
		int fds[5];
		struct plan p = {.box = greets, .opts = {.model = models[m], .max_conns = 2}, .grace_ns = 5 * HARK_S};
		struct server s = server_start(&p);
		assert_true(server_ready(&s));
		for (int i = 0; i < 5; i++)
			fds[i] = client(&s);
		client_hears(fds[0], "hi\n");
		client_hears(fds[1], "hi\n");
		event_await(&s, 'p');
		assert_false(hears_within(fds[2], 100));
		for (int i = 0; i < 5; i++) {
			client_says(fds[i], "go\n");
			if (i >= 2)
				client_hears(fds[i], "hi\n");
			client_hears(fds[i], "go\n");
			client_hears_the_end(fds[i]);
		}
		event_await(&s, 'R');
		assert_int_equal(server_stop(&s), 0);
	}
}

static void low_descriptor_limit(void)
{
	struct rlimit l = {40, 40};
	CHECK_INT(setrlimit(RLIMIT_NOFILE, &l), 0);
}

static int64_t cpu_of(pid_t pid)
{
	clockid_t clock;
	struct timespec t;
	assert_int_equal(clock_getcpuclockid(pid, &clock), 0);
	assert_int_equal(clock_gettime(clock, &t), 0);
	return t.tv_sec * HARK_S + t.tv_nsec;
}

static void running_out_of_descriptors_pauses_idly_and_serves_all_in_the_end(void **state)
{
	(void)state;
	for (size_t e = 0; e < ENGINES_ALL; e++) {
		int fds[CLIENTS];
		struct plan p = {
			.box = greets,
			.opts = {.engine = engines_all[e]},
			.grace_ns = 5 * HARK_S,
			.prepare = low_descriptor_limit,
		};
		struct server s = server_start(&p);
		if (!server_ready(&s)) {
			assert_int_equal(server_end(&s), SKIPPED);
			print_message("skipped in part: engine %s is not available here\n", engines_all[e]);
			continue;
		}
		for (int i = 0; i < CLIENTS; i++)
			fds[i] = client(&s);
		client_hears(fds[0], "hi\n");
		event_await(&s, 'P');
		int64_t before = cpu_of(s.pid);
		(void)usleep(400000); /* long enough to tell spinning from waiting */
		assert_in_range(cpu_of(s.pid) - before, 0, 80 * HARK_MS);
		for (int i = 0; i < CLIENTS; i++) {
			client_says(fds[i], "go\n");
			if (i > 0)
				client_hears(fds[i], "hi\n");
			client_hears(fds[i], "go\n");
			client_hears_the_end(fds[i]);
		}
		event_await(&s, 'R');
		assert_int_equal(server_stop(&s), 0);
	}
}

/* Greets if it finds a descriptor, as a program's or a relay's box needs one, and keeps that as greets() does. */
static void opens_one(struct hark_conn *c, void *arg)
{
	int fd = fcntl(0, F_DUPFD_CLOEXEC, 3);
	if (fd < 0)
		(void)hark_write(c, "no\n", 3);
	else
		greets(c, arg);
	(void)close(fd);
}

static void who_lacks_its_boxs_descriptors_waits_in_the_backlog(void **state)
{
	static const enum hark_model models[] = {HARK_MODEL_FIBER, HARK_MODEL_THREAD, HARK_MODEL_PROCESS};
	(void)state;
	for (size_t m = 0; m < 3; m++) {
		int fds[CLIENTS];
		struct plan p = {
			.box = opens_one,
			.opts = {.model = models[m], .conn_fds = 1},
			.grace_ns = 5 * HARK_S,
			.prepare = low_descriptor_limit,
		};
		struct server s = server_start(&p);
		assert_true(server_ready(&s));
		for (int i = 0; i < CLIENTS; i++)
			fds[i] = client(&s);
		client_hears(fds[0], "hi\n");
		event_await(&s, 'P');
		for (int i = 0; i < CLIENTS; i++) {
			client_says(fds[i], "go\n");
			client_hears(fds[i], i > 0 ? "hi\ngo\n" : "go\n");
			client_hears_the_end(fds[i]);
		}
		assert_int_equal(server_stop(&s), 0);
	}
}

static int (*real_accept4)(int, struct sockaddr *, socklen_t *, int);

static int failing_accept4(int fd, struct sockaddr *peer, socklen_t *len, int flags)
{
	static const int errors[] = {ECONNABORTED, EPROTO, EINTR,   EPERM, ENETDOWN, EHOSTUNREACH,
	                             ETIMEDOUT,    ENFILE, ENOBUFS, 0,     0};
	static unsigned calls;
	int err = errors[calls++ % (sizeof errors / sizeof errors[0])];
	if (err == 0)
		return real_accept4(fd, peer, len, flags);
	errno = err;
	return -1;
}

static void break_accept(void)
{
	real_accept4 = hark__sys.accept4;
	hark__sys.accept4 = failing_accept4;
}

static void errors_of_accept_lose_no_connection(void **state)
{
	struct plan p = {.box = greets, .grace_ns = 5 * HARK_S, .prepare = break_accept};
	(void)state;
	struct server s = server_start(&p);
	assert_true(server_ready(&s));
	for (int i = 0; i < 6; i++) {
		int fd = client(&s);
		client_hears(fd, "hi\n");
		client_says(fd, "x\n");
		client_hears(fd, "x\n");
		client_hears_the_end(fd);
	}
	assert_int_equal(server_stop(&s), 0);
}

static int failures_left;

#define HEAP_FIRST 64 /* timers that a loop has room for before it asks for more: heap.c */

static void *(*real_realloc)(void *, size_t);

static void *failing_realloc(void *old, size_t n)
{
	if (n != 2 * HEAP_FIRST * sizeof(struct hark__heap_slot) || failures_left-- <= 0)
		return real_realloc(old, n);
	return NULL;
}

static void break_growth(void)
{
	failures_left = 2; /* for a connection's timer, and for that of the pause that follows */
	real_realloc = hark__sys.realloc;
	hark__sys.realloc = failing_realloc;
}

static void a_pause_for_which_there_is_no_memory_ends_all_the_same(void **state)
{
	int fds[HEAP_FIRST + 10];
	(void)state;
	struct plan p = {.box = lines,
	                 .opts = {.client_first = true, .idle_timeout_ns = 100 * HARK_S},
	                 .grace_ns = 10 * HARK_S,
	                 .prepare = break_growth};
	struct server s = server_start(&p);
	assert_true(server_ready(&s));
	for (int i = 0; i < HEAP_FIRST + 10; i++)
		fds[i] = client(&s);
	event_await(&s, 'P');
	client_says(fds[HEAP_FIRST + 9], "x\n"); /* nobody else's connection ends */
	client_hears(fds[HEAP_FIRST + 9], "x\n");
	for (int i = 0; i < HEAP_FIRST + 10; i++)
		(void)close(fds[i]);
	assert_int_equal(kill(s.pid, SIGTERM), 0);
	assert_int_equal(server_end(&s), 0);
}

/* ---- draining -------------------------------------------------------------------------------- */

static void a_drain_out_of_descriptors_serves_the_backlog_too(void **state)
{
	int fds[60];
	(void)state;
	struct plan p = {.box = greets, .grace_ns = 10 * HARK_S, .prepare = low_descriptor_limit};
	struct server s = server_start(&p);
	assert_true(server_ready(&s));
	for (int i = 0; i < 60; i++)
		fds[i] = client(&s);
	client_hears(fds[0], "hi\n");
	event_await(&s, 'P');
	assert_int_equal(kill(s.pid, SIGTERM), 0);
	for (int i = 0; i < 60; i++) {
		client_says(fds[i], "go\n");
		client_hears(fds[i], i > 0 ? "hi\ngo\n" : "go\n");
		client_hears_the_end(fds[i]);
	}
	assert_int_equal(server_end(&s), 0);
}

/* ---- one listener's flood ---------------------------------------------------------------------- */

#define FLOOD 1200
#define LATE  200 /* has come before somebody comes elsewhere */

static struct {
	struct hark_endpoint at[2]; /* the flooded one; the other, to which somebody comes in the flood's midst */
	int late;                   /* who does */
	int came, before;           /* in the flood, so far; when that one was heard; -1: not yet */
} flood;

/* Connected once this returns. */
static int comes_to(const struct hark_endpoint *at)
{
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	CHECK(fd >= 0);
	CHECK_INT(connect(fd, (const struct sockaddr *)&at->addr, at->len), 0);
	return fd;
}

static int admit_of_flood(struct hark_conn *c, void *arg)
{
	struct hark_endpoint local;
	(void)arg;
	CHECK_INT(hark_local_endpoint(c, &local), 0);
	if (port_of(&local) == port_of(&flood.at[1])) {
		flood.before = flood.came;
		hark_drain(0);
	} else if (++flood.came == LATE) {
		flood.late = comes_to(&flood.at[1]);
	}
	return 0;
}

static void no_more(struct hark_conn *c, void *arg)
{
	(void)c;
	(void)arg;
}

static void flood_of(struct hark_serve_opts o)
{
	struct hark_listener *l[2];
	o.admit = admit_of_flood;
	flood.came = 0;
	flood.before = -1;
	for (int i = 0; i < 2; i++) {
		CHECK_INT(hark_listen("tcp://127.0.0.1:0", NULL, &l[i]), 0);
		flood.at[i].len = sizeof flood.at[i].addr;
		CHECK_INT(getsockname(hark_listener_fd(l[i]), (struct sockaddr *)&flood.at[i].addr, &flood.at[i].len),
		          0);
	}
	for (int i = 0; i < FLOOD; i++)
		(void)close(comes_to(&flood.at[0]));
	int rc = hark_serve(l, 2, no_more, NULL, &o);
	for (int i = 0; i < 2; i++)
		hark_listener_close(l[i]);
	if (rc == -ENOSYS)
		return;
	(void)close(flood.late);
	if (flood.before < 0 || flood.before > FLOOD / 2) {
		(void)fprintf(stderr, "%s, %s: %d came before\n", hark_model_name(o.model), o.engine, flood.before);
		_exit(1);
	}
}

/* Nor is the end of a connection, a child's or a thread's, heard late. */
static void who_comes_elsewhere_does_not_wait_for_a_floods_end(void **state)
{
	(void)state;
	for (int m = HARK_MODEL_INLINE; m <= HARK_MODEL_FIBER; m++)
		for (size_t e = 0; e < ENGINES_ALL; e++) {
			int status;
			pid_t pid = fork();
			assert_true(pid >= 0);
			if (pid == 0) {
				(void)alarm(40u * SLOWER);
				flood_of((struct hark_serve_opts){.model = (enum hark_model)m,
				                                  .engine = engines_all[e]});
				_exit(0);
			}
			assert_int_equal(waitpid(pid, &status, 0), pid);
			assert_int_equal(status, 0);
		}
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(over_max_conns_connections_wait_in_the_backlog),
		cmocka_unit_test(running_out_of_descriptors_pauses_idly_and_serves_all_in_the_end),
		cmocka_unit_test(who_lacks_its_boxs_descriptors_waits_in_the_backlog),
		cmocka_unit_test(errors_of_accept_lose_no_connection),
		cmocka_unit_test(a_pause_for_which_there_is_no_memory_ends_all_the_same),
		cmocka_unit_test(a_drain_out_of_descriptors_serves_the_backlog_too),
		cmocka_unit_test(who_comes_elsewhere_does_not_wait_for_a_floods_end),
	};
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
