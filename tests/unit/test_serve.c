/* test_serve.c — hark_serve() under all models, with one and two workers, on each engine. */
#include "serve_support.h"

#include <linux/sockios.h>
#include <linux/tcp.h>
#include <sys/ioctl.h>
#include <sys/resource.h>

#include "base/heap.h"
#include "base/sys.h"

#define CLIENTS 100
#define KB10    10240

/* ---- all of them ------------------------------------------------------------------------------ */

static void echo_clients(struct server *s)
{
	static int fds[CLIENTS];
	static char out[KB10], in[KB10];
	for (int i = 0; i < CLIENTS; i++) {
		fds[i] = client(s);
		pattern_fill(out, (size_t)i * 7, KB10);
		assert_int_equal(send(fds[i], out, KB10, MSG_NOSIGNAL), KB10);
		assert_int_equal(shutdown(fds[i], SHUT_WR), 0);
	}
	for (int i = 0; i < CLIENTS; i++) {
		size_t got = 0;
		ssize_t n;
		while (got < KB10 && (n = receive(fds[i], in + got, KB10 - got)) > 0)
			got += (size_t)n;
		assert_int_equal(got, KB10);
		assert_true(pattern_is(in, (size_t)i * 7, KB10));
		client_hears_the_end(fds[i]);
	}
}

static void one_box_serves_under_every_model_worker_count_and_engine(void **state)
{
	(void)state;
	every_way((struct plan){.box = echo, .grace_ns = 5 * HARK_S}, echo_clients);
}

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

static int64_t cpu_ns(void)
{
	struct timespec t;
	CHECK_INT(clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t), 0);
	return t.tv_sec * HARK_S + t.tv_nsec;
}

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
			if (models[m] != HARK_MODEL_INLINE) /* there the box that runs has to end first */
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

/* ---- events, time, first bytes ------------------------------------------------------------------ */

static void events_come_in_order(void **state)
{
	(void)state;
	struct plan p = {.box = greets, .grace_ns = 5 * HARK_S};
	struct server s = server_start(&p);
	assert_int_equal(event_next(&s, LONG_MS), 'r');
	int fd = client(&s);
	assert_int_equal(event_next(&s, LONG_MS), 'o');
	assert_int_equal(event_next(&s, 50), 0);
	client_says(fd, "x\n");
	assert_int_equal(event_next(&s, LONG_MS), 'c');
	client_hears(fd, "hi\nx\n");
	client_hears_the_end(fd);
	assert_int_equal(kill(s.pid, SIGTERM), 0);
	assert_int_equal(event_next(&s, LONG_MS), '!');
	assert_int_equal(event_next(&s, LONG_MS), 0);
	assert_int_equal(server_end(&s), 0);
}

static void idle_time_and_lifetime_end_connections(void **state)
{
	(void)state;
	for (int first = 0; first < 2; first++)
		for (int m = HARK_MODEL_INLINE; m <= HARK_MODEL_FIBER; m++) {
			struct plan p = {
				.box = lines,
				.opts = {.model = (enum hark_model)m,
			                 .client_first = first,
			                 .idle_timeout_ns = 100 * HARK_MS},
				.grace_ns = 5 * HARK_S,
			};
			struct server s = server_start(&p);
			assert_true(server_ready(&s));
			int fd = client(&s); /* never speaks */
			client_hears_the_end(fd);
			fd = client(&s);
			client_says(fd, "x\n");
			client_hears(fd, "x\n");
			client_hears_the_end(fd);
			assert_int_equal(server_stop(&s), 0);
			p.opts.idle_timeout_ns = 0;
			p.opts.lifetime_ns = 200 * HARK_MS;
			s = server_start(&p);
			assert_true(server_ready(&s));
			fd = client(&s);
			for (int i = 0; i < 100 && send(fd, "x\n", 2, MSG_NOSIGNAL) == 2; i++) { /* always busy */
				char buf[2];
				if (recv(fd, buf, 2, MSG_WAITALL) != 2)
					break;
				(void)usleep(10000);
				assert_true(i < 90);
			}
			(void)close(fd);
			assert_int_equal(server_stop(&s), 0);
		}
}

/* How many bytes a program that got the descriptor would find there, as a digit; then it serves as lines() does. */
static void looks_at_its_descriptor(struct hark_conn *c, void *arg)
{
	char buf[8];
	ssize_t n = recv(hark_fd(c), buf, sizeof buf, MSG_PEEK | MSG_DONTWAIT);
	(void)hark_printf(c, "%zd\n", hark_buffered(c) == 0 ? n : -2);
	lines(c, arg);
}

static void the_first_bytes_are_left_on_the_descriptor(void **state)
{
	static const char *const addresses[] = {"tcp://127.0.0.1:0", "unix:@hark-unit-first"};
	(void)state;
	for (size_t i = 0; i < 2 * ENGINES_ALL; i++) {
		struct plan p = {.address = addresses[i % 2],
		                 .box = looks_at_its_descriptor,
		                 .grace_ns = 5 * HARK_S,
		                 .opts = {.engine = engines_all[i / 2], .client_first = true}};
		struct server s = server_start(&p);
		if (!server_ready(&s)) {
			assert_int_equal(server_end(&s), SKIPPED);
			continue;
		}
		int fd = client(&s);
		assert_false(hears_within(fd, 20)); /* it is watched by now */
		client_says(fd, "now\n");
		client_hears(fd, "4\nnow\n");
		client_says(fd, "and then\n");
		client_hears(fd, "and then\n");
		assert_int_equal(shutdown(fd, SHUT_WR), 0);
		client_hears_the_end(fd);
		assert_int_equal(server_stop(&s), 0);
	}
}

static void where_the_client_speaks_first_the_box_starts_with_its_first_byte(void **state)
{
	(void)state;
	for (size_t e = 0; e < ENGINES_ALL; e++) {
		struct plan p = {.box = lines,
		                 .opts = {.client_first = true, .engine = engines_all[e]},
		                 .grace_ns = 10 * HARK_S};
		struct server s = server_start(&p);
		if (!server_ready(&s)) {
			assert_int_equal(server_end(&s), SKIPPED);
			print_message("skipped in part: engine %s is not available here\n", engines_all[e]);
			continue;
		}
		int silent = client(&s), gone = client(&s), late = client(&s), fd = client(&s);
		client_says(fd, "x\n");
		client_hears(fd, "x\n");
		assert_int_equal(event_next(&s, LONG_MS), 'o');
		assert_int_equal(event_next(&s, 20), 0); /* the others have not begun */
		(void)close(gone);
		assert_int_equal(event_next(&s, LONG_MS), 'o');
		assert_int_equal(event_next(&s, LONG_MS), 'c');
		assert_int_equal(kill(s.pid, SIGTERM), 0);
		event_await(&s, '!');
		client_says(late, "late\n"); /* it was accepted before */
		client_hears(late, "late\n");
		client_hears_the_end(late);
		client_hears_the_end(fd);
		client_hears_the_end(silent);
		assert_int_equal(server_end(&s), 0);
	}
}

/* As a program would that it was handed to. */
static void uses_the_descriptor(struct hark_conn *c, void *arg)
{
	char word[8];
	(void)arg;
	CHECK_INT(hark_buffered(c), 0);
	CHECK_INT(recv(hark_fd(c), word, sizeof word, MSG_DONTWAIT), 2);
	CHECK_INT(send(hark_fd(c), word, 2, MSG_NOSIGNAL), 2);
}

static void the_first_byte_is_left_in_the_socket(void **state)
{
	(void)state;
	for (size_t e = 0; e < ENGINES_ALL; e++) {
		struct plan p = {
			.box = uses_the_descriptor,
			.opts = {.client_first = true, .engine = engines_all[e]},
			.grace_ns = 10 * HARK_S,
		};
		struct server s = server_start(&p);
		if (!server_ready(&s)) {
			assert_int_equal(server_end(&s), SKIPPED);
			print_message("skipped in part: engine %s is not available here\n", engines_all[e]);
			continue;
		}
		int fd = client(&s);
		assert_int_equal(event_next(&s, 20), 0); /* silent yet */
		client_says(fd, "x\n");
		client_hears(fd, "x\n");
		client_hears_the_end(fd);
		assert_int_equal(server_stop(&s), 0);
	}
}

/* ---- inetd's wait ------------------------------------------------------------------------------ */

static void looks_only(struct hark_conn *c, void *arg)
{
	(void)arg;
	CHECK(hark_fd(c) >= 0);
}

static void takes_all(struct hark_conn *c, void *arg)
{
	char buf[64];
	struct sockaddr_storage from;
	socklen_t len = sizeof from;
	ssize_t n;
	(void)arg;
	while ((n = recvfrom(hark_fd(c), buf, sizeof buf, MSG_DONTWAIT, (struct sockaddr *)&from, &len)) >= 0) {
		CHECK_INT(sendto(hark_fd(c), buf, (size_t)n, 0, (struct sockaddr *)&from, len), n);
		len = sizeof from;
	}
}

/* One at a time, as a program that serves one request and exits. */
static void takes_one(struct hark_conn *c, void *arg)
{
	char buf[64];
	struct sockaddr_storage from;
	socklen_t len = sizeof from;
	(void)arg;
	ssize_t n = recvfrom(hark_fd(c), buf, sizeof buf, MSG_DONTWAIT, (struct sockaddr *)&from, &len);
	CHECK(n >= 0);
	CHECK_INT(sendto(hark_fd(c), buf, (size_t)n, 0, (struct sockaddr *)&from, len), n);
}

static void says_and_ends(struct hark_conn *c, void *arg)
{
	(void)arg;
	CHECK_INT(hark_write(c, "last words", 10), 10);
}

/* One segment for the last bytes and the end, not two: what the client received is that and the handshake's. */
static void the_last_bytes_and_the_end_travel_together(void **state)
{
	(void)state;
	for (int m = HARK_MODEL_INLINE; m <= HARK_MODEL_FIBER; m++) {
		struct plan p = {.box = says_and_ends, .opts = {.model = (enum hark_model)m}, .grace_ns = HARK_S};
		struct server s = server_start(&p);
		assert_true(server_ready(&s));
		int fd = client(&s);
		char c;
		client_hears(fd, "last words");
		assert_int_equal(read(fd, &c, 1), 0);
		struct tcp_info info = {0};
		socklen_t len = sizeof info;
		assert_int_equal(getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len), 0);
		assert_int_equal(info.tcpi_segs_in, 2);
		(void)close(fd);
		assert_int_equal(server_stop(&s), 0);
	}
}

/* The kernel stamps what arrives from a moment on after the first socket asked for it, and leaves off after the last
 * (its work queue sees to that): a busy machine may take long. Returns a socket that keeps it at it, once it is. */
static int stamping(void)
{
	struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof at;
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(fd, (struct sockaddr *)&at, sizeof at), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&at, &len), 0);
	for (int64_t end = hark_after(LONG_MS * HARK_MS); hark_now() < end;) {
		struct timespec taken, came = {0};
		char c = 'x';
		assert_int_equal(sendto(fd, &c, 1, 0, (struct sockaddr *)&at, sizeof at), 1);
		(void)poll(NULL, 0, 3);
		(void)clock_gettime(CLOCK_REALTIME, &taken);
		assert_int_equal(recv(fd, &c, 1, 0), 1);
		(void)ioctl(fd, SIOCGSTAMPNS, &came); /* the present, if it was not stamped */
		if (came.tv_sec > 0 &&
		    (came.tv_sec < taken.tv_sec || (came.tv_sec == taken.tv_sec && came.tv_nsec < taken.tv_nsec)))
			return fd;
	}
	fail_msg("the kernel stamps no datagrams");
	return -1;
}

static void wait_mode_is_not_held_up_by_datagrams_that_look_the_same(void **state)
{
	(void)state;
	int stamps = stamping();
	for (int m = HARK_MODEL_PROCESS; m <= HARK_MODEL_FIBER; m++) {
		struct plan p = {
			.address = "udp://127.0.0.1:0",
			.box = takes_one,
			.opts = {.model = (enum hark_model)m, .wait = true},
			.grace_ns = HARK_S,
		};
		struct server s = server_start(&p);
		assert_true(server_ready(&s));
		int fd = client(&s);
		client_says(fd, "first");
		client_hears(fd, "first");
		int64_t start = hark_now();
		for (int i = 0; i < 6; i++)
			client_says(fd, "same");
		for (int i = 0; i < 6; i++)
			client_hears(fd, "same");
		assert_in_range(hark_now() - start, 0, 6 * HARK_S); /* with back-off it would be eight seconds */
		(void)close(fd);
		assert_int_equal(server_stop(&s), 0);
	}
	(void)close(stamps);
}

static void wait_mode_backs_off_where_a_box_takes_nothing(void **state)
{
	(void)state;
	for (int m = HARK_MODEL_PROCESS; m <= HARK_MODEL_FIBER; m++) {
		struct plan p = {
			.address = "udp://127.0.0.1:0",
			.box = looks_only,
			.opts = {.model = (enum hark_model)m, .wait = true},
			.grace_ns = HARK_S,
		};
		struct server s = server_start(&p);
		assert_true(server_ready(&s));
		int fd = client(&s);
		client_says(fd, "x");
		int opened = 0;
		int64_t end = hark_after(1200 * HARK_MS);
		while (hark_now() < end)
			opened += event_next(&s, 50) == 'o';
		assert_in_range(opened, 2, 4); /* at 0, 250, 750 ms */
		(void)close(fd);
		assert_int_equal(server_stop(&s), 0);
		p.box = takes_all;
		s = server_start(&p);
		assert_true(server_ready(&s));
		fd = client(&s);
		for (int i = 0; i < 20; i++) {
			client_says(fd, "y");
			client_hears(fd, "y");
		}
		(void)close(fd);
		assert_int_equal(server_stop(&s), 0);
	}
}

/* ---- beside other fibers -------------------------------------------------------------------------- */

struct besides {
	struct hark_listener *l;
	char address[HARK_ADDRESS_MAX];
	struct hark_scope scope;
	int ticks, rc;
};

static void serves(void *arg)
{
	struct besides *b = arg;
	b->rc = hark_serve(&b->l, 1, greets, NULL, &(struct hark_serve_opts){.model = HARK_MODEL_FIBER});
}

static void ticks(void *arg)
{
	struct besides *b = arg;
	while (hark_sleep(5 * HARK_MS) == 0)
		b->ticks++;
}

static void beside_body(void)
{
	struct besides b = {.rc = 1};
	mode_kept = 2; /* a drain's own, and for retiring */
	struct hark_scope serving;
	for (int round = 0; round < 2; round++) { /* a drain that is over does not end the next one */
		CHECK_INT(hark_listen("tcp://127.0.0.1:0", NULL, &b.l), 0);
		CHECK(hark_listener_address(b.l, b.address, sizeof b.address) > 0);
		hark_scope_open(&b.scope);
		hark_scope_open(&serving);
		CHECK_INT(hark_go(&b.scope, "ticks", ticks, &b), 0);
		CHECK_INT(hark_go(&serving, "serves", serves, &b), 0);
		for (int i = 0; i < 10; i++) {
			struct hark_conn *c;
			char buf[8];
			CHECK_INT(hark_dial(b.address, NULL, &c), 0);
			CHECK_INT(hark_readn(c, buf, 3), 3);
			CHECK_INT(hark_write(c, "x\n", 2), 2);
			CHECK_INT(hark_readn(c, buf, 2), 2);
			CHECK_INT(hark_sleep(5 * HARK_MS), 0);
			CHECK_INT(hark_close(c), 0);
		}
		hark_drain(HARK_S);
		CHECK_INT(hark_join(&serving, hark_after(5 * HARK_S)), 0);
		CHECK_INT(b.rc, 0);
		hark_scope_close(&serving);
		hark_scope_close(&b.scope);
		CHECK(b.ticks > 0);
		hark_listener_close(b.l);
	}
}

static void a_server_is_a_fiber_beside_others(void **state)
{
	(void)state;
	on_engines(beside_body);
}

static void cancelled_body(void)
{
	struct besides b = {.rc = 1};
	mode_kept = 2; /* a drain's own, and for retiring */
	struct hark_conn *c;
	char buf[8];
	CHECK_INT(hark_listen("tcp://127.0.0.1:0", NULL, &b.l), 0);
	CHECK(hark_listener_address(b.l, b.address, sizeof b.address) > 0);
	hark_scope_open(&b.scope);
	CHECK_INT(hark_go(&b.scope, "serves", serves, &b), 0);
	CHECK_INT(hark_dial(b.address, NULL, &c), 0);
	CHECK_INT(hark_readn(c, buf, 3), 3);
	hark_scope_close(&b.scope); /* cancels it, and with it its connections */
	CHECK_INT(b.rc, -ETIMEDOUT);
	hark_abort(c);
	hark_listener_close(b.l);
}

static void dawdles(struct hark_conn *c, void *arg)
{
	(void)arg;
	(void)hark_printf(c, "hi\n");
	(void)hark_flush(c);
	(void)poll(NULL, 0, 700); /* hears of nothing meanwhile */
}

static void supervises(void *arg)
{
	struct besides *b = arg;
	b->rc = hark_serve(&b->l, 1, dawdles, NULL, &(struct hark_serve_opts){.workers = 2});
}

static void cancelled_supervisor_body(void)
{
	struct besides b = {.rc = 1};
	mode_kept = 2; /* a drain's and a retirement's own */
	struct hark_conn *c;
	struct hark_scope ticking;
	char buf[8];
	CHECK_INT(hark_listen("tcp://127.0.0.1:0", NULL, &b.l), 0);
	CHECK(hark_listener_address(b.l, b.address, sizeof b.address) > 0);
	hark_scope_open(&ticking);
	hark_scope_open(&b.scope);
	CHECK_INT(hark_go(&ticking, "ticks", ticks, &b), 0);
	CHECK_INT(hark_go(&b.scope, "serves", supervises, &b), 0);
	CHECK_INT(hark_dial(b.address, NULL, &c), 0);
	CHECK_INT(hark_readn(c, buf, 3), 3);
	int64_t began = hark_now(), cpu = cpu_ns();
	b.ticks = 0;
	hark_scope_close(&b.scope);
	CHECK(hark_now() - began > 300 * HARK_MS);
	CHECK(cpu_ns() - cpu < 150 * HARK_MS * SLOWER);
	CHECK(b.ticks > 5); /* and others run meanwhile */
	hark_scope_close(&ticking);
	CHECK(b.rc == 0 || b.rc == -ETIMEDOUT);
	hark_abort(c);
	hark_listener_close(b.l);
}

static void a_cancelled_supervisor_waits_for_its_workers_and_does_not_spin(void **state)
{
	(void)state;
	on_engines(cancelled_supervisor_body);
}

static void a_cancelled_server_cuts_its_connections(void **state)
{
	(void)state;
	on_engines(cancelled_body);
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

/* ---- what a box tells of its end ------------------------------------------------------------------ */

static void fails(struct hark_conn *c, void *arg)
{
	(void)arg;
	CHECK_INT(hark_printf(c, "half an answ"), 12);
	hark_outcome(c, 0, -ELOOP);
}

static void judges(struct hark_conn *c, void *arg)
{
	(void)arg;
	CHECK_INT(hark_printf(c, "done\n"), 5);
	hark_outcome(c, 4711, 7 << 8);
}

static void a_box_that_failed_resets_its_connection_and_the_event_tells_why(void **state)
{
	char buf[16];
	(void)state;
	for (size_t m = 0; m < 4; m++) {
		struct plan p = {.box = fails, .opts = {.model = models_all[m]}, .grace_ns = 10 * HARK_S};
		struct server s = server_start(&p);
		assert_true(server_ready(&s));
		int fd = client(&s);
		event_await(&s, 'E');
		assert_int_equal(read(fd, buf, sizeof buf), -1);
		assert_int_equal(errno, ECONNRESET);
		(void)close(fd);
		assert_int_equal(kill(s.pid, SIGTERM), 0);
		assert_int_equal(server_end(&s), 0);
	}
}

static void a_boxs_pid_and_status_are_told(void **state)
{
	(void)state;
	for (size_t m = 0; m < 4; m++) {
		struct plan p = {.box = judges, .opts = {.model = models_all[m]}, .grace_ns = 10 * HARK_S};
		struct server s = server_start(&p);
		assert_true(server_ready(&s));
		int fd = client(&s);
		client_hears(fd, "done\n");
		client_hears_the_end(fd);
		event_await(&s, 'i');
		assert_int_equal(kill(s.pid, SIGTERM), 0);
		assert_int_equal(server_end(&s), 0);
	}
}

/* ---- what cannot be served ------------------------------------------------------------------------ */

static void nonsense_is_refused_with_a_reason(void **state)
{
	struct hark_why why;
	struct hark_listener *l;
	(void)state;
	assert_int_equal(hark_listen("tcp://127.0.0.1:0", NULL, &l), 0);
	assert_int_equal(hark_serve(NULL, 0, echo, NULL, &(struct hark_serve_opts){.why = &why}), -EINVAL);
	assert_non_null(strstr(why.text, "listener"));
	assert_int_equal(hark_serve(&l, 1, NULL, NULL, &(struct hark_serve_opts){.why = &why}), -EINVAL);
	assert_int_equal(hark_serve(&l, 1, echo, NULL, &(struct hark_serve_opts){.workers = 65, .why = &why}), -EINVAL);
	assert_int_equal(hark_serve(&l, 1, echo, NULL, &(struct hark_serve_opts){.model = 9, .why = &why}), -EINVAL);
	assert_int_equal(hark_serve(&l, 1, echo, NULL, &(struct hark_serve_opts){.engine = "steam", .why = &why}),
	                 -EINVAL);
	assert_non_null(strstr(why.text, "steam"));
	assert_int_equal(hark_model_parse("fibre"), -EINVAL);
	for (int m = HARK_MODEL_INLINE; m <= HARK_MODEL_FIBER; m++)
		assert_int_equal(hark_model_parse(hark_model_name((enum hark_model)m)), m);
	assert_null(hark_model_name(9));
	hark_listener_close(l);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(one_box_serves_under_every_model_worker_count_and_engine),
		cmocka_unit_test(over_max_conns_connections_wait_in_the_backlog),
		cmocka_unit_test(running_out_of_descriptors_pauses_idly_and_serves_all_in_the_end),
		cmocka_unit_test(who_lacks_its_boxs_descriptors_waits_in_the_backlog),
		cmocka_unit_test(errors_of_accept_lose_no_connection),
		cmocka_unit_test(a_connection_that_there_was_no_process_or_thread_for_is_served_later),
		cmocka_unit_test(a_pause_for_which_there_is_no_memory_ends_all_the_same),
		cmocka_unit_test(a_worker_that_could_not_be_forked_at_the_start_comes_later),
		cmocka_unit_test(without_any_worker_serving_fails),
		cmocka_unit_test(a_supervisor_whose_poll_fails_supervises_and_does_not_spin),
		cmocka_unit_test(a_drain_ends_the_idle_and_lets_the_busy_finish),
		cmocka_unit_test(who_retires_accepts_no_more_and_serves_what_it_has),
		cmocka_unit_test(who_retires_with_nobody_there_ends),
		cmocka_unit_test(who_retires_can_still_be_drained),
		cmocka_unit_test(a_drain_serves_what_waited_in_the_backlog),
		cmocka_unit_test(a_drain_out_of_descriptors_serves_the_backlog_too),
		cmocka_unit_test(the_end_of_the_grace_cuts_what_is_left),
		cmocka_unit_test(a_boxs_own_fibers_hear_a_drain_begin),
		cmocka_unit_test(a_boxs_own_fibers_are_cut_when_the_grace_ends),
		cmocka_unit_test(a_box_that_failed_resets_its_connection_and_the_event_tells_why),
		cmocka_unit_test(a_boxs_pid_and_status_are_told),
		cmocka_unit_test(a_second_drain_shortens_the_grace),
		cmocka_unit_test(the_callers_own_children_are_left_to_it),
		cmocka_unit_test(a_dead_worker_is_replaced),
		cmocka_unit_test(workers_end_when_their_supervisor_dies),
		cmocka_unit_test(a_childs_crash_is_its_own),
		cmocka_unit_test(an_iterative_server_drains_between_two_connections),
		cmocka_unit_test(a_connection_whose_worker_died_still_hears_of_the_drain),
		cmocka_unit_test(events_come_in_order),
		cmocka_unit_test(idle_time_and_lifetime_end_connections),
		cmocka_unit_test(where_the_client_speaks_first_the_box_starts_with_its_first_byte),
		cmocka_unit_test(the_first_byte_is_left_in_the_socket),
		cmocka_unit_test(the_first_bytes_are_left_on_the_descriptor),
		cmocka_unit_test(the_last_bytes_and_the_end_travel_together),
		cmocka_unit_test(wait_mode_is_not_held_up_by_datagrams_that_look_the_same),
		cmocka_unit_test(wait_mode_backs_off_where_a_box_takes_nothing),
		cmocka_unit_test(a_server_is_a_fiber_beside_others),
		cmocka_unit_test(a_cancelled_server_cuts_its_connections),
		cmocka_unit_test(a_cancelled_supervisor_waits_for_its_workers_and_does_not_spin),
		cmocka_unit_test(nonsense_is_refused_with_a_reason),
	};
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
