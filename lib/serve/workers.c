/* workers.c — N workers: forked processes that all accept from the same sockets, watched by the process that forked
 * them.
 *
 * The supervisor serves nobody. It waits for its workers' pidfds, restarts the dead with back-off, and passes a drain
 * on by the shared state of drain.c. A worker learns of its supervisor's death by a pipe that only the supervisor can
 * write to, and then drains by itself. */
#include "serve/workers.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include "base/backoff.h"
#include "base/stdio.h"
#include "base/sys.h"
#include "conn/listen.h"
#include "loop/drain.h"
#include "serve/serve_life.h"

#define LIVED_NS (10 * HARK_S) /* a worker that lived so long is restarted at once when it dies */
#define NAP_MS   50            /* between looks, where the supervisor cannot wait for what happens */
#define KILL_NS  (3 * HARK_S)  /* past the grace's end: it has not even cut its connections */

struct worker {
	pid_t pid; /* 0: not running */
	struct hark__source pidfd;
	int64_t started;
	int64_t again;   /* when to start it, if it does not run */
	int64_t backoff; /* 0: at once */
};

struct nap {
	struct hark__waiter waiter;
	struct hark__timer timer;
	struct hark__fiber *fiber;
};

struct supervisor {
	struct hark__server *server;
	struct hark_listener *const *listeners;
	int n_listeners;
	struct worker workers[HARK__WORKERS_MAX];
	int n;
	int life[2]; /* [0] the workers', [1] ours */
	struct hark__source drain[HARK__DRAIN_FDS];
	struct hark__source retire;
	int64_t until; /* cancelled then: ends alone, its listeners stay open; else HARK_FOREVER */
	bool retired;
	bool cut;
};

static _Noreturn void be_worker(struct supervisor *v, bool all_streams)
{
	hark__stdio_forked();
	hark__drain_forked();
	(void)hark__sys.close(v->life[1]);
	v->life[1] = -1;
	for (int i = 0; i < HARK__DRAIN_FDS; i++)
		if (v->drain[i].fd >= 0)
			(void)hark__sys.close(v->drain[i].fd);
	(void)hark__sys.close(v->retire.fd);
	for (int i = 0; i < v->n; i++)
		if (v->workers[i].pid > 0 && v->workers[i].pidfd.fd >= 0)
			(void)hark__sys.close(v->workers[i].pidfd.fd);
	int r = hark__work(v->server, v->listeners, v->n_listeners, v->life[0]);
	hark__stdio_end(all_streams);
	_exit(r == 0 ? 0 : r == -ETIMEDOUT ? 2 : 1);
}

static void schedule(struct worker *w)
{
	int64_t now = hark_now();
	if (w->started != 0 && now - w->started > LIVED_NS)
		w->backoff = 0;
	w->again = now + w->backoff;
	w->backoff = hark__backoff_next(w->backoff);
}

static int start_worker(struct supervisor *v, struct worker *w)
{
	w->started = hark_now();
	bool all_streams = hark__stdio_before_fork();
	pid_t pid = hark__sys.fork();
	if (pid == 0)
		be_worker(v, all_streams);
	if (pid < 0) {
		int r = -errno;
		schedule(w);
		return r;
	}
	int fd = hark__sys.pidfd_open(pid, 0);
	w->pid = pid;
	hark__source_init(&w->pidfd, fd);
	hark__ready_clear(&w->pidfd, HARK__IN | HARK__OUT);
	hark__server_event(v->server, (struct hark_event){.kind = HARK_EVENT_WORKER_UP, .pid = pid});
	return 0;
}

static int wait_status(const siginfo_t *i)
{
	if (i->si_code == CLD_EXITED)
		return i->si_status << 8;
	return i->si_status | (i->si_code == CLD_DUMPED ? 0x80 : 0);
}

/* true: it has ended, and is taken note of. */
static bool reap(struct supervisor *v, struct worker *w)
{
	siginfo_t info = {0};
	int r = hark__sys.waitid(P_PID, (id_t)w->pid, &info, WEXITED | WNOHANG);
	if ((r == 0 && info.si_pid == 0) || (r < 0 && errno == EINTR))
		return false;
	hark__source_detach(&w->pidfd);
	if (w->pidfd.fd >= 0)
		(void)hark__sys.close(w->pidfd.fd);
	if (info.si_code == CLD_EXITED && info.si_status == 2)
		v->cut = true;
	hark__server_event(
		v->server,
		(struct hark_event){.kind = HARK_EVENT_WORKER_DOWN, .pid = w->pid, .status = wait_status(&info)});
	w->pid = 0;
	schedule(w);
	return true;
}

static int running(const struct supervisor *v)
{
	int n = 0;
	for (int i = 0; i < v->n; i++)
		n += v->workers[i].pid > 0;
	return n;
}

static void start_due(struct supervisor *v)
{
	int64_t now = hark_now();
	for (int i = 0; i < v->n; i++)
		if (v->workers[i].pid == 0 && now >= v->workers[i].again)
			(void)start_worker(v, &v->workers[i]); /* a failure is scheduled again */
}

static void kill_all(struct supervisor *v)
{
	for (int i = 0; i < v->n; i++)
		if (v->workers[i].pid > 0)
			(void)hark__sys.kill(v->workers[i].pid, SIGKILL);
	v->cut = true;
}

/* When to look again if nothing happens. */
static int64_t next_look(const struct supervisor *v, int64_t drain_end)
{
	int64_t at = drain_end == HARK_FOREVER ? HARK_FOREVER : hark_after(50 * HARK_MS); /* it may be shortened */
	for (int i = 0; i < v->n; i++) {
		const struct worker *w = &v->workers[i];
		if (w->pid == 0 && drain_end == HARK_FOREVER && !v->retired && w->again < at)
			at = w->again;
		if (w->pid > 0 && w->pidfd.fd < 0)
			at = hark_after(100 * HARK_MS); /* no descriptor to wait for: look */
	}
	return at;
}

static void nap_over(struct hark__waiter *w)
{
	hark__fiber_wake(hark__container(w, struct nap, waiter)->fiber);
}

/* Where no wait can be had, because the fiber is cancelled or the system call fails: a while, whatever comes, and then
 * a look at everything. Other fibers run meanwhile. */
static void nap(void)
{
	struct hark__loop *l = hark__loop_self();
	struct nap n = {.waiter.run = nap_over, .timer.waiter = &n.waiter};
	if (l == NULL) {
		(void)hark__sys.poll(NULL, 0, NAP_MS);
		return;
	}
	n.fiber = hark__fiber_self();
	if (hark__timer_set(l, &n.timer, hark_after(NAP_MS * HARK_MS)) < 0)
		hark__loop_wake(l, &n.waiter); /* no memory: at least the others have their turn */
	hark__park_uncancellable("workers");
	hark__timer_clear(l, &n.timer);
	hark__loop_unwake(l, &n.waiter);
}

/* Tells the workers by what they watch for our end: life_run() in serve_drain.c. */
static void cancel(struct supervisor *v)
{
	if (v->until != HARK_FOREVER)
		return;
	v->until = hark_now();
	while (hark__sys.write(v->life[1], "", 1) < 0 && errno == EINTR)
		;
}

static void wait_for_news(struct supervisor *v, int64_t drain_end)
{
	struct hark__source *s[HARK__WORKERS_MAX + HARK__DRAIN_FDS + 1];
	int n = 0;
	for (int i = 0; i < v->n; i++)
		if (v->workers[i].pid > 0 && v->workers[i].pidfd.fd >= 0)
			s[n++] = &v->workers[i].pidfd;
	for (int i = 0; i < HARK__DRAIN_FDS && drain_end == HARK_FOREVER; i++)
		if (v->drain[i].fd >= 0)
			s[n++] = &v->drain[i];
	if (!v->retired)
		s[n++] = &v->retire;
	int r = hark__wait_any(s, n, HARK__IN, next_look(v, drain_end), "workers");
	if (r == -ECANCELED || hark__fiber_cancelled())
		cancel(v);
	if (r < 0 && r != -ETIMEDOUT)
		nap();
	for (int i = 0; i < n; i++)
		hark__ready_clear(s[i], HARK__IN | HARK__OUT);
}

static void close_listeners(struct supervisor *v)
{
	for (int i = 0; i < v->n_listeners; i++) {
		if (v->until == HARK_FOREVER)
			hark__listener_shut(v->listeners[i]);
		hark__listener_release(v->listeners[i]);
	}
	v->n_listeners = 0;
}

/* -EBADF: one is closed. */
static int hold_listeners(struct hark_listener *const listeners[], int n)
{
	for (int i = 0; i < n; i++) {
		int r = hark__listener_hold(listeners[i]);
		for (int k = 0; r < 0 && k < i; k++)
			hark__listener_release(listeners[k]);
		if (r < 0)
			return r;
	}
	return 0;
}

static void supervise(struct supervisor *v)
{
	bool told = false;
	for (;;) {
		int64_t end = hark__drain_until();
		if (end != HARK_FOREVER && !told && hark__drain_has_upstream())
			hark_drain(end - hark_now()); /* the workers listen to us */
		end = v->until < end ? v->until : end;
		if (end != HARK_FOREVER && !told) {
			told = true;
			close_listeners(v);
			hark__server_event(v->server, (struct hark_event){.kind = HARK_EVENT_DRAINING});
		}
		if (!v->retired && hark__retired()) { /* the workers have heard of it themselves */
			v->retired = true;
			close_listeners(v);
		}
		for (int i = 0; i < v->n; i++)
			if (v->workers[i].pid > 0)
				(void)reap(v, &v->workers[i]);
		if ((told || v->retired) && running(v) == 0)
			return;
		if (told && hark_now() >= end + KILL_NS)
			kill_all(v);
		if (!told && !v->retired)
			start_due(v);
		wait_for_news(v, end);
	}
}

static void close_source(struct hark__source *src)
{
	hark__source_detach(src);
	if (src->fd >= 0)
		(void)hark__sys.close(src->fd);
}

/* A copy, as other servers on this loop may watch fd: epoll tells them apart by the number. fd -1: none. */
static int source_of_copy(struct hark__source *src, int fd)
{
	int copy = fd >= 0 ? hark__sys.fcntl(fd, F_DUPFD_CLOEXEC, 3) : -1;
	hark__source_init(src, copy);
	hark__ready_clear(src, HARK__IN | HARK__OUT);
	return fd >= 0 && copy < 0 ? -errno : 0;
}

static int watch_ends(struct supervisor *v)
{
	int fds[HARK__DRAIN_FDS], fd = hark__retire_fd();
	int r = fd < 0 ? fd : source_of_copy(&v->retire, fd);
	hark__drain_fds(fds);
	for (int i = 0; i < HARK__DRAIN_FDS; i++) {
		int one = source_of_copy(&v->drain[i], fds[i]);
		r = r < 0 ? r : one;
	}
	return r;
}

static void close_ends(struct supervisor *v)
{
	for (int i = 0; i < HARK__DRAIN_FDS; i++)
		close_source(&v->drain[i]);
	close_source(&v->retire);
	for (int i = 0; i < 2; i++)
		if (v->life[i] >= 0)
			(void)hark__sys.close(v->life[i]);
}

/* 0, or why there is nothing to supervise. */
static int start_workers(struct supervisor *v)
{
	int r = 0;
	for (int i = 0; i < v->n; i++) {
		int one = start_worker(v, &v->workers[i]);
		r = r < 0 ? r : one;
	}
	return running(v) > 0 ? 0 : r; /* the others are tried again, with back-off */
}

int hark__supervise(struct hark__server *s, struct hark_listener *const listeners[], int n)
{
	struct hark__engine *e;
	int r = hark__engine_open(s->opts.engine, &e); /* a worker that lacks it could tell nobody */
	if (r < 0)
		return r;
	e->ops->close(e);
	r = hold_listeners(listeners, n);
	if (r < 0)
		return r;
	struct supervisor v = {.server = s,
	                       .listeners = listeners,
	                       .n_listeners = n,
	                       .n = s->opts.workers,
	                       .until = HARK_FOREVER,
	                       .life = {-1, -1}};
	r = watch_ends(&v);
	if (r == 0 && hark__sys.pipe2(v.life, O_CLOEXEC) < 0)
		r = -errno;
	if (r == 0)
		r = start_workers(&v);
	if (r == 0) {
		hark__server_event(s, (struct hark_event){.kind = HARK_EVENT_READY});
		supervise(&v);
	}
	for (int i = 0; i < v.n_listeners; i++) /* it did not come to a drain */
		hark__listener_release(listeners[i]);
	close_ends(&v);
	return r < 0 ? r : v.cut ? -ETIMEDOUT : 0;
}
