/* serve_drain.c — how a server ends.
 *
 * A drain closes the listening sockets after a last look at their backlog, ends what is idle, and cuts the rest when
 * its grace ends. Who retires closes them at once, as others accept there, and serves its connections to their ends.
 *
 * Thread: the loop's. */
#include "serve/serve_drain.h"

#include <errno.h>

#include "base/sys.h"
#include "conn/listen.h"
#include "loop/drain.h"
#include "serve/serve_accept.h"
#include "serve/serve_life.h"
#include "serve/serve_linger.h"

#define BACKLOG_MAX 65536        /* connections taken from one when a drain begins: somaxconn's own limit */
#define CUT_NS      (2 * HARK_S) /* after the cut: for boxes that must notice it by themselves */

/* ---- the backlog ----------------------------------------------------------------------------- */

static bool listens(const struct hark__server *s)
{
	for (int i = 0; i < s->n_acceptors; i++)
		if (s->acceptors[i].src.fd >= 0)
			return true;
	return false;
}

static bool backlog_left(const struct hark__server *s)
{
	return listens(s) || s->stuck != NULL || !hark__list_empty(&s->pending);
}

static void finish_if_empty(struct hark__server *s)
{
	if ((s->draining || s->retired) && s->n_conns == 0 && !backlog_left(s) && !s->done) {
		s->done = true;
		hark__fiber_wake(s->waiting);
	}
}

int64_t hark__server_until(const struct hark__server *s)
{
	int64_t end = hark__drain_until();
	return s->until < end ? s->until : end;
}

void hark__server_drain_step(struct hark__server *s)
{
	int64_t end = hark__server_until(s);
	if (end != HARK_FOREVER && hark_now() >= end) /* the box saw the grace end before cut() ran */
		s->overtime = true;
	if (s->draining && backlog_left(s))
		hark__loop_wake(s->loop, &s->drain_tick);
	finish_if_empty(s);
}

/* pace()'s HARK_FOREVER. */
static bool left_to_others(struct hark__server *s)
{
	int64_t ns = hark__pace(s);
	if (ns <= 0)
		hark__pace_unused(s);
	return ns == HARK_FOREVER;
}

/* Accepts the whole backlog, so that the socket can be closed; start_pending() serves it as there is room. False:
 * descriptors or memory ran short, and the next tick tries again. */
static bool empty_backlog(struct hark__acceptor *a)
{
	struct hark__server *s = a->server;
	struct hark_conn *c;
	int r = 0;
	if (s->opts.wait || a->listener->type != SOCK_STREAM || a->src.fd < 0 || left_to_others(s))
		return true;
	for (int i = 0; i < BACKLOG_MAX && (r == 0 || r == -EINTR); i++) {
		r = hark__acceptor_take(a, &c);
		if (r == 0)
			hark__list_append(&s->pending, &c->link);
	}
	return r != -EMFILE && r != -ENFILE && r != -ENOBUFS && r != -ENOMEM;
}

/* Starts boxes for s->pending as far as there is room. Returns the ns until it is due again. */
static int64_t start_pending(struct hark__server *s)
{
	int64_t ns = HARK__DRAIN_TICK_NS;
	bool some = false;
	while (!hark__server_full(s) && hark_now() < hark__server_until(s) &&
	       (s->stuck != NULL || !hark__list_empty(&s->pending))) {
		int64_t wait = s->stuck == NULL ? hark__pace(s) : 0;
		if (wait > 0) {
			ns = wait < ns ? wait : ns;
			break;
		}
		if (s->stuck == NULL)
			s->stuck = hark__container(hark__list_pop(&s->pending), struct hark_conn, link);
		if (!hark__server_start_stuck(s))
			break;
		some = true;
	}
	if (some && s->model->drain != NULL)
		s->model->drain(s);
	return ns;
}

/* Closes what no box was started for. A stuck one may have been admitted. */
static void drop_pending(struct hark__server *s)
{
	struct hark__list *node;
	struct hark_conn *stuck = s->stuck;
	s->stuck = NULL;
	if (stuck != NULL) {
		hark__server_leave(s, stuck->ticket);
		if (stuck->lent != NULL)
			hark__acceptor_returned(stuck->lent);
		hark__conn_free(stuck);
	}
	while ((node = hark__list_pop(&s->pending)) != NULL)
		hark__conn_free(hark__container(node, struct hark_conn, link));
}

/* ---- retiring -------------------------------------------------------------------------------- */

void hark__server_retire(struct hark__server *s)
{
	if (s->draining)
		return;
	if (!s->retired) {
		s->retired = true;
		for (int i = 0; i < s->n_acceptors; i++)
			hark__acceptor_retire(&s->acceptors[i]);
	}
	finish_if_empty(s);
}

void hark__server_close_sockets(struct hark__server *s)
{
	bool leaves = hark__retired() && hark__server_until(s) == HARK_FOREVER;
	for (int i = 0; i < s->n_acceptors && !s->opts.wait; i++) {
		struct hark__acceptor *a = &s->acceptors[i];
		if (a->listener->type == SOCK_STREAM && (leaves || empty_backlog(a)))
			hark__acceptor_close(a);
	}
}

void hark__server_lost_listener(struct hark__server *s)
{
	if (!listens(s))
		hark__server_retire(s);
	finish_if_empty(s);
}

static void retire_run(struct hark__waiter *w)
{
	if (hark__retired())
		hark__server_retire(hark__container(w, struct hark__server, retire_waiter));
}

/* ---- the clock of a drain -------------------------------------------------------------------- */

static void tick(struct hark__server *s)
{
	int64_t now = hark_now(), end = hark__server_until(s);
	for (int i = 0; i < s->n_acceptors; i++)
		if (empty_backlog(&s->acceptors[i]) || now >= end)
			hark__acceptor_close(&s->acceptors[i]);
	int64_t wait = start_pending(s);
	if (now >= end && backlog_left(s)) {
		drop_pending(s);
		s->cut = true;
	}
	if (now >= end && s->n_conns > 0) {
		s->cut = true;
		hark__linger_cut(s);
		s->model->cut(s, now - end);
	}
	if (s->cut && now >= end + CUT_NS) {
		s->done = true; /* what does not notice that it is cut is left behind: see hark_serve() */
		hark__fiber_wake(s->waiting);
		return;
	}
	int64_t next = now + wait;
	(void)hark__timer_set(s->loop, &s->drain_timer,
	                      next < end || s->cut ? next : end); /* it is kept: cannot fail */
}

static void drain_tick_run(struct hark__waiter *w)
{
	struct hark__server *s = hark__container(w, struct hark__server, drain_tick);
	if (!s->draining)
		return;
	tick(s);
	finish_if_empty(s);
}

static void drain_run(struct hark__waiter *w)
{
	struct hark__server *s = hark__container(w, struct hark__server, drain_waiter);
	if (s->draining || hark__server_until(s) == HARK_FOREVER)
		return;
	if (hark__drain_has_upstream() && hark__drain_until() != HARK_FOREVER) /* our own children listen to us */
		hark_drain(hark__drain_until() - hark_now());
	s->draining = true;
	hark__server_event(s, (struct hark_event){.kind = HARK_EVENT_DRAINING});
	if (s->cancelled)
		hark__acceptors_leave(s);
	else
		hark__loop_draining(s->loop);
	hark__linger_drain(s);
	if (s->model->drain != NULL)
		s->model->drain(s);
	tick(s);
	finish_if_empty(s);
}

void hark__server_cancel(struct hark__server *s)
{
	s->cancelled = true;
	s->until = hark_now();
	hark__loop_wake(s->loop, &s->drain_waiter);
	hark__loop_wake(s->loop, &s->drain_tick); /* a drain that is under way has less time */
}

/* The supervisor has died: nobody would restart or drain this worker, so it ends in order by itself. Or it wrote, and
 * was cancelled: nobody reads that, so that each worker finds it. */
static void life_run(struct hark__waiter *w)
{
	struct hark__server *s = hark__container(w, struct hark__server, life_waiter);
	struct pollfd p = {.fd = s->life.fd, .events = POLLIN};
	if (hark__sys.poll(&p, 1, 0) > 0 && (p.revents & POLLIN))
		hark__server_cancel(s);
	else
		hark_drain(10 * HARK_S);
}

/* ---- beginning and end ----------------------------------------------------------------------- */

static int watch_fd(struct hark__server *s, struct hark__source *src, int fd, struct hark__waiter *w)
{
	hark__source_init(src, fd);
	if (fd < 0)
		return 0;
	hark__ready_clear(src, HARK__IN | HARK__OUT);
	src->in = w;
	int r = hark__server_arm(s, src);
	if (r == 1)
		s->copies[s->n_copies++] = src->fd;
	return r < 0 ? r : 0;
}

static int watch_drain(struct hark__server *s, int life_fd)
{
	int fds[HARK__DRAIN_FDS], r = 0;
	hark__drain_fds(fds);
	for (int i = 0; i < HARK__DRAIN_FDS; i++) {
		int one = watch_fd(s, &s->drain[i], fds[i], &s->drain_waiter);
		r = r < 0 ? r : one;
	}
	int r1 = watch_fd(s, &s->life, life_fd, &s->life_waiter);
	if (hark__timer_set(s->loop, &s->drain_timer, HARK_FOREVER) < 0)
		r1 = -ENOMEM;
	hark__loop_wake(s->loop, &s->drain_waiter); /* it may have begun before we looked */
	return r < 0 ? r : r1;
}

static int watch_retire(struct hark__server *s)
{
	int fd = hark__retire_fd();
	int r = fd < 0 ? fd : watch_fd(s, &s->retire[0], fd, &s->retire_waiter);
	int r1 = watch_fd(s, &s->retire[1], hark__retire_upstream_fd(), &s->retire_waiter);
	hark__loop_wake(s->loop, &s->retire_waiter);
	return r < 0 ? r : r1;
}

int hark__server_drain_init(struct hark__server *s, int life_fd)
{
	hark__list_init(&s->pending);
	s->until = HARK_FOREVER;
	s->drain_waiter.run = drain_run;
	s->drain_tick.run = drain_tick_run;
	s->drain_timer = (struct hark__timer){.waiter = &s->drain_tick, .kept = true};
	s->life_waiter.run = life_run;
	s->retire_waiter.run = retire_run;
	hark__source_init(&s->retire[0], -1);
	hark__source_init(&s->retire[1], -1);
	int r = watch_drain(s, life_fd);
	return r < 0 ? r : watch_retire(s);
}

void hark__server_drain_done(struct hark__server *s)
{
	struct hark__waiter *const waiters[] = {&s->drain_waiter, &s->drain_tick, &s->life_waiter, &s->late_waiter,
	                                        &s->retire_waiter};
	drop_pending(s);
	hark__timer_clear(s->loop, &s->drain_timer);
	hark__timer_clear(s->loop, &s->late);
	for (size_t i = 0; i < sizeof waiters / sizeof waiters[0]; i++)
		hark__loop_unwake(s->loop, waiters[i]);
	for (int i = 0; i < HARK__DRAIN_FDS; i++)
		hark__source_detach(&s->drain[i]);
	hark__source_detach(&s->retire[0]);
	hark__source_detach(&s->retire[1]);
	hark__source_detach(&s->life);
	while (s->n_copies > 0)
		(void)hark__sys.close(s->copies[--s->n_copies]);
}
