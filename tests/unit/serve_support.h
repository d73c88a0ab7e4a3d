/* serve_support.h — servers for tests of hark_serve().
 *
 * Each server is a child of its own, bounded by alarm(2), that drains on SIGTERM; the test is its client, with plain
 * sockets. Its events come through a pipe, a letter each, so that the tests wait for what happens instead of sleeping.
 */
#ifndef SERVE_SUPPORT_H
#define SERVE_SUPPORT_H

#include "client_support.h"
#include "modes.h"

#include <poll.h>

struct plan {
	const char *address; /* NULL: tcp://127.0.0.1:0 */
	hark_box *box;
	struct hark_serve_opts opts;
	int64_t grace_ns;      /* of SIGTERM's drain; SIGUSR1's is 0. SIGHUP retires */
	void (*prepare)(void); /* in the server, before it serves; may be NULL */
	void (*after)(void);   /* and when it has; may be NULL */
};

struct server {
	pid_t pid;
	int events; /* what happens, read by event_next() */
	struct hark_endpoint at;
};

static int64_t grace;
static int events_out;

static inline void on_term(int sig)
{
	hark_drain(sig == SIGTERM ? grace : 0);
}

static inline void on_hangup(int sig)
{
	(void)sig;
	hark_retire();
}

static inline void tell_event(const struct hark_event *e, void *arg)
{
	static const char letters[] = "?roc\1\2ud!xg";
	(void)arg;
	if (e->kind == HARK_EVENT_LENT || e->kind == HARK_EVENT_RETURNED)
		return;
	char what = letters[e->kind];
	if (e->kind == HARK_EVENT_PAUSED)
		what = e->error == 0 ? 'p' : 'P';
	else if (e->kind == HARK_EVENT_RESUMED)
		what = 'R';
	else if (e->kind == HARK_EVENT_CLOSE && e->error == ELOOP && e->status == 0)
		what = 'E';
	else if (e->kind == HARK_EVENT_CLOSE && e->pid == 4711 && e->status == 7 << 8 && e->error == 0)
		what = 'i';
	CHECK_INT(write(events_out, &what, 1), 1);
}

static inline _Noreturn void be_server(const struct plan *p, struct hark_listener *l)
{
	struct hark_serve_opts o = p->opts;
	struct hark_why why = {.text = ""};
	(void)alarm(40u * SLOWER);
	grace = p->grace_ns;
	(void)signal(SIGSEGV, SIG_DFL);
	(void)signal(SIGTERM, on_term);
	(void)signal(SIGUSR1, on_term);
	(void)signal(SIGHUP, on_hangup);
	if (p->prepare != NULL)
		p->prepare();
	o.event = tell_event;
	o.why = &why;
	int rc = hark_serve(&l, 1, p->box, NULL, &o);
	if (rc == -ENOSYS)
		_exit(SKIPPED);
	if (rc < 0 && rc != -ETIMEDOUT)
		(void)fprintf(stderr, "serve: %s: %s\n", why.text, hark_strerror(rc));
	hark_listener_close(l);
	if (p->after != NULL)
		p->after();
#ifdef UNDER_ASAN
	if (rc == 0)
		__lsan_do_leak_check();
#endif
	_exit(rc == 0 ? 0 : rc == -ETIMEDOUT ? 2 : 1);
}

static inline struct server server_start(const struct plan *p)
{
	struct server s;
	struct hark_listener *l;
	int fds[2];
	socklen_t len = sizeof s.at.addr;
	assert_int_equal(hark_listen(p->address != NULL ? p->address : "tcp://127.0.0.1:0", NULL, &l), 0);
	assert_int_equal(getsockname(hark_listener_fd(l), (struct sockaddr *)&s.at.addr, &len), 0);
	s.at.len = len;
	s.at.type = hark_listener_type(l);
	assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
	s.pid = fork();
	assert_true(s.pid >= 0);
	if (s.pid == 0) {
		(void)close(fds[0]);
		events_out = fds[1];
		be_server(p, l);
	}
	(void)close(fds[1]);
	hark_listener_close(l);
	s.events = fds[0];
	return s;
}

/* The next event's letter; 0: there is none within the time, or the server has ended. */
static inline char event_next(struct server *s, int timeout_ms)
{
	char c;
	struct pollfd p = {.fd = s->events, .events = POLLIN};
	if (poll(&p, 1, timeout_ms) <= 0 || read(s->events, &c, 1) != 1)
		return 0;
	return c;
}

#define LONG_MS (10000 * SLOWER)

/* Waits for this event, whatever comes before. */
static inline void event_await(struct server *s, char wanted)
{
	char c;
	while ((c = event_next(s, LONG_MS)) != wanted)
		if (c == 0)
			fail_msg("event '%c' did not come", wanted);
}

/* false: this engine is not to be had here. */
static inline bool server_ready(struct server *s)
{
	char c;
	while ((c = event_next(s, LONG_MS)) != 'r')
		if (c == 0)
			return false;
	return true;
}

/* What it ended with, within a time; the pipe tells when all its processes have. */
static inline int server_end(struct server *s)
{
	int status;
	assert_int_equal(waitpid(s->pid, &status, 0), s->pid);
	(void)close(s->events);
	if (WIFSIGNALED(status))
		fail_msg("the server died by signal %d", WTERMSIG(status));
	return WEXITSTATUS(status);
}

/* ThreadSanitizer loses a signal that comes while it makes a fiber's table of them: until it is heard, there. */
static inline int server_stop(struct server *s)
{
	char c;
	assert_int_equal(kill(s->pid, SIGTERM), 0);
	for (int i = 0; SLOWER > 1 && i < 30 && (c = event_next(s, 1000)) != 'd';)
		if (c == 0) {
			(void)kill(s->pid, SIGTERM);
			i++;
		}
	return server_end(s);
}

/* ---- clients --------------------------------------------------------------------------------- */

static inline int client(const struct server *s)
{
	struct timeval t = {.tv_sec = 10 * SLOWER};
	int fd = socket(s->at.addr.ss_family, s->at.type | SOCK_CLOEXEC, 0);
	assert_true(fd >= 0);
	/* Without a time-out yet: see receive(). */
	if (connect(fd, (const struct sockaddr *)&s->at.addr, s->at.len) < 0)
		fail_msg("connect: %s", strerror(errno));
	assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof t), 0);
	assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &t, sizeof t), 0);
	return fd;
}

/* The end, in order or not. */
static inline void client_hears_the_end(int fd)
{
	char c;
	ssize_t n = receive(fd, &c, 1);
	if (n > 0 || (n < 0 && errno != ECONNRESET))
		fail_msg("the connection goes on: %s", n > 0 ? "a byte came" : strerror(errno));
	(void)close(fd);
}

static inline bool hears_within(int fd, int ms)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};
	return poll(&p, 1, ms) > 0;
}

/* ---- boxes ----------------------------------------------------------------------------------- */

static inline void echo(struct hark_conn *c, void *arg)
{
	char buf[3000];
	ssize_t n;
	(void)arg;
	while ((n = hark_read(c, buf, sizeof buf)) > 0)
		if (hark_write(c, buf, (size_t)n) < 0)
			return;
}

/* A request is a line; the answer the same. 'k' kills the worker. */
static inline void lines(struct hark_conn *c, void *arg)
{
	char line[64];
	ssize_t n;
	(void)arg;
	while (hark_idle(c) > 0) {
		n = hark_readline(c, line, sizeof line);
		if (n <= 0 || hark_write(c, line, (size_t)n) < 0)
			return;
		if (line[0] == 'k')
			_exit(9);
	}
}

/* Greets, then is busy until it has read a line, and answers that. */
static inline void greets(struct hark_conn *c, void *arg)
{
	char line[64];
	(void)arg;
	(void)hark_write(c, "hi\n", 3);
	ssize_t n = hark_readline(c, line, sizeof line);
	if (n > 0)
		(void)hark_write(c, line, (size_t)n);
}

/* ---- all models ------------------------------------------------------------------------------- */

/* Runs what under each model, number of workers and engine. */
static inline void every_way(struct plan p, void (*what)(struct server *))
{
	for (int m = HARK_MODEL_INLINE; m <= HARK_MODEL_FIBER; m++)
		for (int workers = 1; workers <= 2; workers++)
			for (size_t e = 0; e < ENGINES_ALL; e++) {
				p.opts.model = (enum hark_model)m;
				p.opts.workers = workers;
				p.opts.engine = engines_all[e];
				struct server s = server_start(&p);
				if (!server_ready(&s)) {
					assert_int_equal(server_end(&s), SKIPPED);
					print_message("skipped in part: engine %s is not available here\n",
					              engines_all[e]);
					continue;
				}
				what(&s);
				int rc = server_stop(&s);
				if (rc != 0)
					fail_msg("%s, %d workers, %s: ended with %d",
					         hark_model_name((enum hark_model)m), workers, engines_all[e], rc);
			}
}

#endif
