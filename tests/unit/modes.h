/* modes.h — runs a test's body under each way of waiting: a plain thread, where calls wait in poll(2), and the first
 * fiber of a loop with each engine that works here.
 *
 * Each run is a forked child, so that neither a crash nor a hang (alarm(2)) hurts another test, and so that CHECK can
 * be used on any stack. A body that leaves a descriptor open, or leaks under a sanitizer, fails. */
#ifndef MODES_H
#define MODES_H

#include "net_support.h"

#include <pthread.h>
#include <signal.h>

#include "loop/fiber.h"

#if defined(__SANITIZE_ADDRESS__)
#define UNDER_ASAN 1
#elif defined(__SANITIZE_THREAD__)
#define UNDER_TSAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define UNDER_ASAN 1
#elif __has_feature(thread_sanitizer)
#define UNDER_TSAN 1
#endif
#endif
#ifdef UNDER_ASAN
#include <sanitizer/lsan_interface.h>
#endif
#if defined(UNDER_ASAN) || defined(UNDER_TSAN)
#define SLOWER 5 /* how much more time a bound leaves */
#else
#define SLOWER 1
#endif

#define MODE_TIMEOUT_S (30u * SLOWER) /* of one body under one mode */

static const char *const engines_all[] = {"epoll", "uring", "poll"};

#define ENGINES_ALL (sizeof engines_all / sizeof engines_all[0])

static const char *mode_engine; /* NULL: a plain thread */
static bool mode_ring_alone;    /* the program's bodies also run with io_uring where each send goes by the ring */
static int mode_kept;           /* descriptors that the library keeps for the process, on purpose: the body says so */

static inline void end_child_in_order(int descriptors)
{
	CHECK_INT(open_descriptors(), descriptors + mode_kept);
#ifdef UNDER_ASAN
	__lsan_do_leak_check();
#endif
	_exit(0);
}

static inline void run_mode_child(const char *engine, void (*body)(void))
{
	struct hark__loop *l = NULL;
	static const int fatal[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE};
	for (size_t i = 0; i < sizeof fatal / sizeof fatal[0]; i++)
		(void)signal(fatal[i], SIG_DFL); /* cmocka's handlers would go on with the next test, in this child */
	(void)alarm(MODE_TIMEOUT_S);
	int descriptors = open_descriptors();
	mode_engine = engine;
	if (engine != NULL) {
		int rc = hark__loop_open(engine, 0, &l);
		if (rc == -ENOSYS)
			_exit(SKIPPED);
		CHECK_INT(rc, 0);
	}
	body();
	if (engine != NULL)
		hark__loop_close(l);
	end_child_in_order(descriptors);
}

static inline pid_t mode_start(const char *engine, void (*body)(void))
{
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (pid == 0)
		run_mode_child(engine, body);
	return pid;
}

/* 0: it went well, or could not be run here; else the status. Says which mode it was. */
static inline int mode_end(pid_t pid, const char *engine)
{
	int status;
	assert_int_equal(waitpid(pid, &status, 0), pid);
	if (engine != NULL && WIFEXITED(status) && WEXITSTATUS(status) == SKIPPED) {
		(void)fprintf(stderr, "skipped in part: engine %s is not available here\n", engine);
		return 0;
	}
	if (status != 0)
		(void)fprintf(stderr, "on %s: %s %d\n", engine != NULL ? engine : "a plain thread",
		              WIFSIGNALED(status) ? "signal" : "exit status",
		              WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
	return status;
}

/* On each engine; the test fails if one fails. */
static inline void on_engines(void (*body)(void))
{
	int bad = 0;
	for (size_t i = 0; i < ENGINES_ALL; i++)
		bad |= mode_end(mode_start(engines_all[i], body), engines_all[i]);
	if (mode_ring_alone) {
		unsigned few = hark__uring_few;
		hark__uring_few = 0;
		bad |= mode_end(mode_start("uring", body), "uring, by the ring alone");
		hark__uring_few = few;
	}
	assert_int_equal(bad, 0);
}

static inline void on_plain_thread(void (*body)(void))
{
	assert_int_equal(mode_end(mode_start(NULL, body), NULL), 0);
}

/* On a plain thread, and on each engine. */
static inline void everywhere(void (*body)(void))
{
	on_plain_thread(body);
	on_engines(body);
}

/* The same all at once: for bodies that mostly wait. */
static inline void everywhere_at_once(void (*body)(void))
{
	pid_t pids[ENGINES_ALL + 1];
	int bad = 0;
	for (size_t i = 0; i <= ENGINES_ALL; i++)
		pids[i] = mode_start(i < ENGINES_ALL ? engines_all[i] : NULL, body);
	for (size_t i = 0; i <= ENGINES_ALL; i++)
		bad |= mode_end(pids[i], i < ENGINES_ALL ? engines_all[i] : NULL);
	assert_int_equal(bad, 0);
}

static inline void run_row_on_engines(void **state)
{
	on_engines((void (*)(void)) * state);
}

static inline void run_row_everywhere(void **state)
{
	everywhere((void (*)(void)) * state);
}

static inline void run_row_everywhere_at_once(void **state)
{
	everywhere_at_once((void (*)(void)) * state);
}

/* Rows of a table of tests. */
#define ON_ENGINES(body)         ROW_OF(body, run_row_on_engines)
#define EVERYWHERE(body)         ROW_OF(body, run_row_everywhere)
#define EVERYWHERE_AT_ONCE(body) ROW_OF(body, run_row_everywhere_at_once)

/* ---- something that runs beside: a thread in the plain mode, else a fiber ---------------------- */

struct beside {
	struct hark_scope scope;
	pthread_t thread;
	void (*fn)(void *);
	void *arg;
};

static inline void *beside_thread(void *arg)
{
	struct beside *b = arg;
	b->fn(b->arg);
	return NULL;
}

static inline void beside_start(struct beside *b, void (*fn)(void *), void *arg)
{
	b->fn = fn;
	b->arg = arg;
	if (mode_engine == NULL) {
		CHECK_INT(pthread_create(&b->thread, NULL, beside_thread, b), 0);
		return;
	}
	hark_scope_open(&b->scope);
	CHECK_INT(hark_go(&b->scope, "beside", fn, arg), 0);
}

/* Waits for it. */
static inline void beside_end(struct beside *b)
{
	if (mode_engine == NULL) {
		CHECK_INT(pthread_join(b->thread, NULL), 0);
		return;
	}
	CHECK_INT(hark_join(&b->scope, HARK_FOREVER), 0);
	hark_scope_close(&b->scope);
}

/* ---- pairs of connections ------------------------------------------------------------------------ */

struct pair {
	struct hark_conn *a, *b;
};

static inline void raw_unix(int fds[2])
{
	CHECK_INT(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
}

/* sndbuf 0: the system's. Set before connecting, so that both ends are small. */
static inline void raw_tcp_sized(int fds[2], int sndbuf)
{
	struct hark_endpoint at;
	int l = plain_listener("127.0.0.1", 8, &at);
	CHECK(l >= 0);
	fds[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	CHECK(fds[0] >= 0);
	if (sndbuf > 0) {
		CHECK_INT(setsockopt(l, SOL_SOCKET, SO_RCVBUF, &sndbuf, sizeof sndbuf), 0);
		CHECK_INT(setsockopt(l, SOL_SOCKET, SO_SNDBUF, &sndbuf, sizeof sndbuf), 0);
		CHECK_INT(setsockopt(fds[0], SOL_SOCKET, SO_RCVBUF, &sndbuf, sizeof sndbuf), 0);
		CHECK_INT(setsockopt(fds[0], SOL_SOCKET, SO_SNDBUF, &sndbuf, sizeof sndbuf), 0);
	}
	CHECK_INT(connect(fds[0], (struct sockaddr *)&at.addr, at.len), 0);
	fds[1] = accept4(l, NULL, NULL, SOCK_CLOEXEC);
	CHECK(fds[1] >= 0);
	(void)close(l);
}

static inline void raw_tcp(int fds[2])
{
	raw_tcp_sized(fds, 0);
}

static inline struct hark_conn *conn_of(int fd)
{
	struct hark_conn *c;
	CHECK_INT(hark_conn_from_fd(fd, &c), 0);
	return c;
}

static inline struct pair pair_of(const int fds[2])
{
	return (struct pair){conn_of(fds[0]), conn_of(fds[1])};
}

static inline struct pair unix_pair(void)
{
	int fds[2];
	raw_unix(fds);
	return pair_of(fds);
}

static inline struct pair tcp_pair(void)
{
	int fds[2];
	raw_tcp(fds);
	return pair_of(fds);
}

/* Aborted, so that no test waits for a lingering close that it does not want. */
static inline void pair_drop(struct pair *p)
{
	hark_abort(p->a);
	hark_abort(p->b);
}

/* Bytes that tell their place. */
static inline unsigned char pattern_at(size_t i)
{
	return (unsigned char)((i * 2654435761u) >> 13);
}

static inline void pattern_fill(void *buf, size_t from, size_t n)
{
	for (size_t i = 0; i < n; i++)
		((unsigned char *)buf)[i] = pattern_at(from + i);
}

static inline bool pattern_is(const void *buf, size_t from, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (((const unsigned char *)buf)[i] != pattern_at(from + i))
			return false;
	return true;
}

#endif
