/* serve.c — hark_serve(): accepting, counting, pausing and draining, the same under every model.
 *
 * Each listener is an acceptor: a callback on the loop that accepts until there is no more, and has the model start a
 * box for each. Where there is no room (max_conns, descriptors, memory, processes) the acceptors pause, and connections
 * wait in the backlog, where a client sees them as slow, not as refused. A connection's end, or a timer, opens them
 * again. The caller's own limits (opts.pace, admit, leave) are asked here alone, so that they hold under every model.
 *
 * A drain closes the sockets after a last look at their backlog, ends what is idle, and cuts the rest when its grace
 * ends. Who retires closes them at once, as others accept there, and serves what it has to its end.
 *
 * Thread: the loop's. The server lives on the heap, owned by hark_serve(). */
#include "serve/serve.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/sys.h"
#include "conn/accept.h"
#include "conn/datagram.h"
#include "conn/listen.h"
#include "loop/drain.h"

#define ACCEPT_BATCH 64              /* connections accepted in a row before others run */
#define RETRY_NS     (100 * HARK_MS) /* while paused for want of something that others may give back */
#define BACKLOG_MAX  65536           /* connections taken from one when a drain begins: somaxconn's own limit */
#define TICK_NS      (50 * HARK_MS)  /* while draining: how soon a shortened grace is seen */
#define CUT_NS       (2 * HARK_S)    /* after the cut: for boxes that must notice it by themselves */

/* ---- models ---------------------------------------------------------------------------------- */

static const struct {
	const char *name;
	const struct hark__model *ops;
} models[] = {
	[HARK_MODEL_INLINE] = {"inline", &hark__model_inline},
	[HARK_MODEL_PROCESS] = {"process", &hark__model_process},
	[HARK_MODEL_THREAD] = {"thread", &hark__model_thread},
	[HARK_MODEL_FIBER] = {"fiber", &hark__model_fiber},
};

#define MODELS (sizeof models / sizeof models[0])

const char *hark_model_name(enum hark_model m)
{
	if (m == HARK_MODEL_DEFAULT)
		m = HARK_MODEL_FIBER;
	return (size_t)m < MODELS ? models[m].name : NULL;
}

int hark_model_parse(const char *name)
{
	for (size_t i = 1; i < MODELS; i++)
		if (strcmp(models[i].name, name) == 0)
			return (int)i;
	return -EINVAL;
}

void hark__server_event(struct hark__server *s, struct hark_event e)
{
	if (s->opts.event != NULL)
		s->opts.event(&e, s->opts.event_arg);
}

/* ---- a connection's life --------------------------------------------------------------------- */

/* Not inlined, as the box's stack below should be small: an idle connection's is put aside whole. */
static __attribute__((noinline)) void tell_conn(struct hark__server *s, enum hark_event_kind kind, struct hark_conn *c,
                                                int err)
{
	if (c->status < 0) /* the box's reason tells more than that of the flush after it */
		err = c->status;
	hark__server_event(s, (struct hark_event){.kind = kind,
	                                          .conn = c,
	                                          .pid = c->pid,
	                                          .status = c->status > 0 ? c->status : 0,
	                                          .error = err < 0 ? -err : 0});
}

void hark__server_opened(struct hark__server *s, struct hark_conn *c)
{
	tell_conn(s, HARK_EVENT_OPEN, c, 0);
}

void hark__server_closed(struct hark__server *s, struct hark_conn *c, int err)
{
	tell_conn(s, HARK_EVENT_CLOSE, c, err);
}

void hark__server_run(struct hark__server *s, struct hark_conn *c)
{
	hark__server_opened(s, c);
	s->box(c, s->arg);
	hark__server_closed(s, c, c->status < 0 ? 0 : hark__conn_flush_last(c));
	hark__server_end(c);
}

void hark__server_end(struct hark_conn *c)
{
	if (c->status < 0)
		hark_abort(c);
	else
		(void)hark_close(c);
}

static bool backlog_left(const struct hark__server *s)
{
	for (int i = 0; i < s->n_acceptors; i++)
		if (s->acceptors[i].listener->src.fd >= 0)
			return true;
	return s->stuck != NULL || !hark__list_empty(&s->pending);
}

static void finish_if_empty(struct hark__server *s)
{
	if ((s->draining || s->retired) && s->n_conns == 0 && !backlog_left(s) && !s->done) {
		s->done = true;
		hark__fiber_wake(s->waiting);
	}
}

static void wake_acceptors(struct hark__server *s)
{
	for (int i = 0; i < s->n_acceptors; i++)
		hark__loop_wake(s->loop, &s->acceptors[i].waiter);
}

static void resume(struct hark__server *s)
{
	if (!s->paused)
		return;
	s->paused = s->retrying = false;
	(void)hark__timer_set(s->loop, &s->retry, HARK_FOREVER);
	wake_acceptors(s);
}

void hark__server_leave(struct hark__server *s, int ticket)
{
	if (ticket >= 0 && s->opts.leave != NULL && !s->abandoned)
		s->opts.leave(ticket, s->opts.limit_arg);
}

void hark__server_ended(struct hark__server *s, struct hark__acceptor *lent, int ticket)
{
	s->n_conns--;
	hark__server_leave(s, ticket);
	int64_t end = hark__drain_until();
	if (end != HARK_FOREVER && hark_now() >= end) /* by its own deadline, before cut() came to it */
		s->overtime = true;
	if (lent != NULL)
		hark__acceptor_returned(lent);
	resume(s);
	if (s->draining && backlog_left(s))
		hark__loop_wake(s->loop, &s->drain_tick);
	finish_if_empty(s);
}

/* Accepts nothing more for ns, or until a connection ends. error: 0: max_conns, EBUSY: pace(), else what there was not
 * enough of. */
static void pause_acceptors(struct hark__server *s, int error, int64_t ns)
{
	if (!s->paused && !s->told_paused) {
		s->told_paused = true;
		hark__server_event(s, (struct hark_event){.kind = HARK_EVENT_PAUSED, .error = error});
	}
	s->paused = true;
	if (ns == HARK_FOREVER && s->n_conns == 0)
		ns = RETRY_NS;
	if (ns != HARK_FOREVER && !s->retrying) {
		s->retrying = true;
		(void)hark__timer_set(s->loop, &s->retry, hark_after(ns)); /* it is kept: cannot fail */
	}
}

static void retry_run(struct hark__waiter *w)
{
	resume(hark__container(w, struct hark__server, retry_waiter));
}

static bool full(const struct hark__server *s)
{
	return s->opts.max_conns > 0 && s->n_conns >= (unsigned)s->opts.max_conns;
}

/* Asked once for each. false: c is shed. */
static bool admit(struct hark__server *s, struct hark_conn *c)
{
	c->ticket = -1;
	if (s->opts.admit == NULL || c->lent != NULL)
		return true;
	int ticket = s->opts.admit(c, s->opts.limit_arg);
	if (ticket >= 0) {
		c->ticket = ticket;
		return true;
	}
	hark__server_event(s, (struct hark_event){.kind = HARK_EVENT_REFUSED, .conn = c, .error = -ticket});
	hark_abort(c);
	return false;
}

bool hark__server_start(struct hark__server *s, struct hark_conn *c)
{
	if (!c->served && !admit(s, c)) /* else it was stuck */
		return true;
	c->server = s;
	c->served = true;
	if (s->opts.idle_timeout_ns > 0)
		hark_idle_timeout(c, s->opts.idle_timeout_ns);
	if (s->opts.lifetime_ns > 0)
		hark_deadline(c, hark_after(s->opts.lifetime_ns));
	s->n_conns++;
	int r = s->model->start(s, c);
	if (r == 0)
		return true;
	s->n_conns--;
	s->stuck = c;
	pause_acceptors(s, -r, RETRY_NS);
	return false;
}

/* The one that there was no room for has another try. false: there still is none. */
static bool start_stuck(struct hark__server *s)
{
	struct hark_conn *c = s->stuck;
	s->stuck = NULL;
	return c == NULL || hark__server_start(s, c);
}

static void retire(struct hark__server *s);

bool hark__server_may_accept(struct hark__server *s)
{
	if (s->paused || !start_stuck(s))
		return false;
	/* Both are told by the engine as well: to a server that serves one after the other in place too late, who is
	 * asked for ever more by its clients. */
	if (hark__retired()) {
		retire(s);
		return false;
	}
	if (hark__drain_until() != HARK_FOREVER) {
		hark__loop_wake(s->loop, &s->drain_waiter);
		return false;
	}
	if (!full(s))
		return true;
	pause_acceptors(s, 0, HARK_FOREVER);
	return false;
}

static int64_t pace(struct hark__server *s)
{
	return s->opts.pace != NULL ? s->opts.pace(s->opts.limit_arg) : 0;
}

static bool something_waits(const struct hark__acceptor *a)
{
	struct pollfd p = {.fd = a->listener->src.fd, .events = POLLIN};
	return hark__sys.poll(&p, 1, 0) != 0;
}

/* Looks first: a pause where nobody waits would be told, counted, and slow for who comes next. */
bool hark__acceptor_paced(struct hark__acceptor *a)
{
	if (a->server->opts.pace == NULL)
		return true;
	if (!something_waits(a)) {
		hark__acceptor_watch(a);
		return false;
	}
	int64_t ns = pace(a->server);
	if (ns > 0)
		pause_acceptors(a->server, EBUSY, ns);
	return ns <= 0;
}

static void unused(struct hark__server *s)
{
	if (s->opts.pace != NULL && s->opts.leave != NULL)
		s->opts.leave(-1, s->opts.limit_arg);
}

void hark__acceptor_unused(struct hark__acceptor *a)
{
	unused(a->server);
}

/* ---- acceptors ----------------------------------------------------------------------------------- */

void hark__acceptor_watch(struct hark__acceptor *a)
{
	struct hark__server *s = a->server;
	struct hark__source *src = &a->listener->src;
	if (s->told_paused && !s->paused) {
		s->told_paused = false;
		hark__server_event(s, (struct hark_event){.kind = HARK_EVENT_RESUMED});
	}
	if (src->fd < 0)
		return;
	struct hark__engine *e = hark__loop_engine(s->loop);
	hark__ready_clear(src, HARK__IN);
	src->in = &a->waiter;
	if (e->ops->arm(e, src, HARK__IN) < 0)
		pause_acceptors(s, ENOMEM, RETRY_NS);
}

/* What accept or receive could not do: nothing there, or no room, or the socket broken (then it is tried again as well:
 * harm is bounded by the timer, and an operator sees the pause). */
static void came_to_nothing(struct hark__acceptor *a, int r)
{
	if (r == -EAGAIN)
		hark__acceptor_watch(a);
	else if (r == -EINTR) /* something may still be there, and no event would tell of it */
		hark__loop_wake(a->server->loop, &a->waiter);
	else
		pause_acceptors(a->server, -r, RETRY_NS);
}

static void accept_streams(struct hark__acceptor *a)
{
	struct hark__server *s = a->server;
	struct hark_conn *c;
	for (int i = 0; i < ACCEPT_BATCH; i++) {
		if (a->listener->src.fd < 0 || !hark__server_may_accept(s) || !hark__acceptor_paced(a))
			return;
		if (i > 0 && s->opts.pace == NULL &&
		    !something_waits(a)) { /* accept(2) makes a socket and a file first, and then finds nobody */
			hark__acceptor_watch(a);
			return;
		}
		int r = hark__accept_now(a->listener, &c);
		if (r < 0) {
			hark__acceptor_unused(a);
			came_to_nothing(a, r);
			return;
		}
		(void)hark__server_start(s, c);
	}
	hark__loop_wake(s->loop, &a->waiter);
}

static unsigned room_for(const struct hark__server *s)
{
	if (!s->model->gathers || s->opts.pace != NULL)
		return 1;
	return s->opts.max_conns > 0 ? (unsigned)s->opts.max_conns - s->n_conns : UINT32_MAX;
}

static void receive_datagrams(struct hark__acceptor *a)
{
	struct hark__server *s = a->server;
	struct hark_conn *c;
	if (a->listener->src.fd < 0 || !hark__server_may_accept(s))
		return;
	if (a->datagrams == NULL && hark__datagram_socket_open(a->listener, &a->datagrams) < 0) {
		pause_acceptors(s, EMFILE, RETRY_NS);
		return;
	}
	if (!hark__acceptor_paced(a))
		return;
	int n = hark__datagram_socket_receive(a->datagrams, room_for(s));
	if (n <= 0) {
		hark__acceptor_unused(a);
		came_to_nothing(a, n == 0 ? -EAGAIN : n);
		return;
	}
	if (s->model->gathers)
		hark__datagram_socket_gather(a->datagrams, true);
	for (int i = 0; i < n; i++) {
		if (hark__datagram_socket_take(a->datagrams, (unsigned)i, &c) < 0) {
			hark__acceptor_unused(a);
			break; /* no memory: as a full socket queue would, it drops them */
		}
		if (!hark__server_start(s, c) &&
		    i + 1 < n) { /* one can be kept; no room for the others is a full queue, too */
			break;
		}
	}
	if (s->model->gathers)
		hark__loop_wake(s->loop, &a->sender); /* behind the fibers just started */
	hark__loop_wake(s->loop, &a->waiter);
}

static void sender_run(struct hark__waiter *w)
{
	struct hark__acceptor *a = hark__container(w, struct hark__acceptor, sender);
	hark__datagram_socket_gather(a->datagrams, false);
	hark__datagram_socket_send(a->datagrams);
}

static void acceptor_run(struct hark__waiter *w)
{
	struct hark__acceptor *a = hark__container(w, struct hark__acceptor, waiter);
	if (a->server->draining)
		return;
	if (a->server->retired)
		(void)hark__server_may_accept(a->server); /* for what is stuck */
	else if (a->server->opts.wait)
		hark__acceptor_lend(a);
	else if (a->listener->type == SOCK_DGRAM)
		receive_datagrams(a);
	else
		accept_streams(a);
}

/* ---- draining -------------------------------------------------------------------------------- */

/* pace()'s HARK_FOREVER. */
static bool left_to_others(struct hark__server *s)
{
	int64_t ns = pace(s);
	if (ns <= 0)
		unused(s);
	return ns == HARK_FOREVER;
}

/* Takes what a backlog holds, so that the socket can be closed: who has connected is served, now or when max_conns and
 * pace() have room. false: not all could be taken, for want of descriptors or memory; they come back as connections
 * end. */
static bool empty_backlog(struct hark__acceptor *a)
{
	struct hark__server *s = a->server;
	struct hark_conn *c;
	int r = 0;
	if (s->opts.wait || a->listener->type != SOCK_STREAM || a->listener->src.fd < 0 || left_to_others(s))
		return true;
	for (int i = 0; i < BACKLOG_MAX && (r == 0 || r == -EINTR); i++) {
		r = hark__accept_now(a->listener, &c);
		if (r == 0)
			hark__list_append(&s->pending, &c->link);
	}
	return r != -EMFILE && r != -ENFILE && r != -ENOBUFS && r != -ENOMEM;
}

/* Starts boxes for them as far as there is room. Returns when to look again, in ns. */
static int64_t start_pending(struct hark__server *s)
{
	int64_t ns = TICK_NS;
	bool some = false;
	while (!full(s) && hark_now() < hark__drain_until() && (s->stuck != NULL || !hark__list_empty(&s->pending))) {
		int64_t wait = s->stuck == NULL ? pace(s) : 0;
		if (wait > 0) {
			ns = wait < ns ? wait : ns;
			break;
		}
		if (s->stuck == NULL)
			s->stuck = hark__container(hark__list_pop(&s->pending), struct hark_conn, link);
		if (!start_stuck(s))
			break;
		some = true;
	}
	if (some && s->model->drain != NULL)
		s->model->drain(s);
	return ns;
}

/* They never began; one that was stuck may have been admitted. */
static void drop_pending(struct hark__server *s)
{
	struct hark__list *node;
	struct hark_conn *stuck = s->stuck;
	s->stuck = NULL;
	if (stuck != NULL) {
		hark__server_leave(s, stuck->ticket);
		hark__conn_free(stuck);
	}
	while ((node = hark__list_pop(&s->pending)) != NULL)
		hark__conn_free(hark__container(node, struct hark_conn, link));
}

static void close_acceptor(struct hark__acceptor *a)
{
	hark__loop_unwake(a->server->loop, &a->waiter);
	hark__timer_clear(a->server->loop, &a->retry);
	hark__source_detach(&a->listener->src);
	a->listener->src.in = NULL;
	if (a->listener->src.fd >= 0)
		(void)hark__sys.close(a->listener->src.fd);
	a->listener->src.fd = -1;
}

/* ---- retiring -------------------------------------------------------------------------------- */

/* Neither the socket nor the datagram socket's copy of it stays open; replies that are under way keep what they need of
 * that. */
static void retire_acceptor(struct hark__acceptor *a)
{
	close_acceptor(a);
	if (a->datagrams == NULL)
		return;
	hark__loop_unwake(a->server->loop, &a->sender);
	hark__datagram_socket_gather(a->datagrams, false);
	hark__datagram_socket_send(a->datagrams);
	hark__datagram_socket_close(a->datagrams);
	a->datagrams = NULL;
}

static void retire(struct hark__server *s)
{
	if (s->draining)
		return;
	if (!s->retired) {
		s->retired = true;
		for (int i = 0; i < s->n_acceptors; i++)
			retire_acceptor(&s->acceptors[i]);
	}
	finish_if_empty(s);
}

static void retire_run(struct hark__waiter *w)
{
	if (hark__retired())
		retire(hark__container(w, struct hark__server, retire_waiter));
}

/* ---- the clock of a drain -------------------------------------------------------------------- */

static void tick(struct hark__server *s)
{
	int64_t now = hark_now(), end = hark__drain_until();
	for (int i = 0; i < s->n_acceptors; i++)
		if (empty_backlog(&s->acceptors[i]) || now >= end)
			close_acceptor(&s->acceptors[i]);
	int64_t wait = start_pending(s);
	if (now >= end && backlog_left(s)) {
		drop_pending(s);
		s->cut = true;
	}
	if (now >= end && s->n_conns > 0) {
		s->cut = true;
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
	tick(s);
	finish_if_empty(s);
}

static void drain_run(struct hark__waiter *w)
{
	struct hark__server *s = hark__container(w, struct hark__server, drain_waiter);
	if (s->draining || hark__drain_until() == HARK_FOREVER)
		return;
	if (hark__drain_has_upstream()) /* our own children listen to us */
		hark_drain(hark__drain_until() - hark_now());
	s->draining = true;
	hark__server_event(s, (struct hark_event){.kind = HARK_EVENT_DRAINING});
	hark__loop_draining(s->loop);
	if (s->model->drain != NULL)
		s->model->drain(s);
	tick(s);
	finish_if_empty(s);
}

/* The supervisor has died: nobody would restart or drain this worker, so it ends in order by itself. */
static void life_run(struct hark__waiter *w)
{
	(void)w;
	hark_drain(10 * HARK_S);
}

static int watch_fd(struct hark__server *s, struct hark__source *src, int fd, struct hark__waiter *w)
{
	struct hark__engine *e = hark__loop_engine(s->loop);
	hark__source_init(src, fd);
	if (fd < 0)
		return 0;
	hark__ready_clear(src, HARK__IN | HARK__OUT);
	src->in = w;
	return e->ops->arm(e, src, HARK__IN);
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
	if (hark__timer_set(s->loop, &s->drain_timer, HARK_FOREVER) < 0 ||
	    hark__timer_set(s->loop, &s->retry, HARK_FOREVER) < 0)
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

/* ---- beginning and end ----------------------------------------------------------------------- */

static void init_acceptors(struct hark__server *s, struct hark_listener *const listeners[], int n)
{
	for (int i = 0; i < n; i++) {
		struct hark__acceptor *a = &s->acceptors[i];
		a->server = s;
		a->listener = listeners[i];
		a->waiter.run = acceptor_run;
		a->sender.run = sender_run;
		a->retry.waiter = &a->waiter;
	}
	s->n_acceptors = n;
	hark__list_init(&s->conns);
	hark__list_init(&s->running);
	hark__list_init(&s->pending);
	s->retry_waiter.run = retry_run;
	s->retry = (struct hark__timer){.waiter = &s->retry_waiter, .kept = true};
	s->drain_waiter.run = drain_run;
	s->drain_tick.run = drain_tick_run;
	s->drain_timer = (struct hark__timer){.waiter = &s->drain_tick, .kept = true};
	s->life_waiter.run = life_run;
	s->retire_waiter.run = retire_run;
	hark__source_init(&s->retire[0], -1);
	hark__source_init(&s->retire[1], -1);
}

static void close_work(struct hark__server *s)
{
	struct hark__waiter *const waiters[] = {&s->retry_waiter, &s->drain_waiter, &s->drain_tick,
	                                        &s->life_waiter,  &s->late_waiter,  &s->retire_waiter};
	for (int i = 0; i < s->n_acceptors; i++) {
		struct hark__acceptor *a = &s->acceptors[i];
		close_acceptor(a);
		hark__loop_unwake(s->loop, &a->sender);
		if (a->datagrams != NULL)
			hark__datagram_socket_send(a->datagrams);
		hark__datagram_socket_close(a->datagrams);
	}
	drop_pending(s);
	if (s->n_conns > 0 && s->model->abandon != NULL)
		s->model->abandon(s);
	s->abandoned = true;
	hark__timer_clear(s->loop, &s->retry);
	hark__timer_clear(s->loop, &s->drain_timer);
	hark__timer_clear(s->loop, &s->late);
	for (size_t i = 0; i < sizeof waiters / sizeof waiters[0]; i++)
		hark__loop_unwake(s->loop, waiters[i]);
	for (int i = 0; i < HARK__DRAIN_FDS; i++)
		hark__source_detach(&s->drain[i]);
	hark__source_detach(&s->retire[0]);
	hark__source_detach(&s->retire[1]);
	hark__source_detach(&s->life);
}

static int work_on_loop(struct hark__server *s, struct hark_listener *const listeners[], int n, int life_fd)
{
	init_acceptors(s, listeners, n);
	for (int i = 0; i < n && s->opts.wait; i++)
		hark__acceptor_prepare(&s->acceptors[i]);
	s->waiting = hark__fiber_self();
	hark_scope_open(&s->scope);
	int r = watch_drain(s, life_fd);
	if (r == 0)
		r = watch_retire(s);
	if (r == 0) {
		wake_acceptors(s);
		if (life_fd < 0)
			hark__server_event(s, (struct hark_event){.kind = HARK_EVENT_READY});
		while (!s->done)
			if (hark__park(HARK_FOREVER, "serve") == -ECANCELED && !s->done) {
				hark_drain(0);
				hark__park_uncancellable("serve");
			}
		r = s->cut || s->overtime ? -ETIMEDOUT : 0;
	}
	close_work(s);
	if (s->n_conns == 0)
		hark_scope_close(&s->scope);
	return r;
}

int hark__work(struct hark__server *s, struct hark_listener *const listeners[], int n, int life_fd)
{
	bool own_loop = hark__loop_self() == NULL;
	s->loop = hark__loop_self();
	if (own_loop) {
		int r = hark__loop_open(s->opts.engine, s->opts.stack_bytes, &s->loop);
		if (r < 0)
			return r;
	}
	int r = work_on_loop(s, listeners, n, life_fd);
	if (own_loop && s->n_conns == 0)
		hark__loop_close(s->loop);
	return r;
}

static int check(struct hark_listener *const listeners[], int n, hark_box *box, const struct hark_serve_opts *o)
{
	const char *what = NULL;
	if (n < 1 || listeners == NULL)
		what = "no listener";
	else if (box == NULL)
		what = "no box";
	else if ((unsigned)o->model >= MODELS)
		what = "no such model";
	else if (o->workers < 0 || o->workers > HARK__WORKERS_MAX)
		what = "workers must be 0 to 64";
	else if (o->max_conns < 0 || o->idle_timeout_ns < 0 || o->lifetime_ns < 0)
		what = "a limit is negative";
	if (what == NULL)
		return 0;
	if (o->why != NULL)
		(void)snprintf(o->why->text, sizeof o->why->text, "serve: %s", what);
	return -EINVAL;
}

static void explain(const struct hark_serve_opts *o, int r)
{
	const char *engine = o->engine != NULL ? o->engine : getenv("HARK_ENGINE");
	if (o->why == NULL || r >= 0 || r == -ETIMEDOUT)
		return;
	if (engine != NULL && (r == -ENOSYS || r == -EINVAL))
		(void)snprintf(o->why->text, sizeof o->why->text, "serve: engine %s: %s", engine,
		               r == -EINVAL ? "no such engine (epoll, uring, poll)" : "not available on this system");
	else
		(void)snprintf(o->why->text, sizeof o->why->text, "serve: %s", hark_strerror(r));
}

int hark_serve(struct hark_listener *const listeners[], int n, hark_box *box, void *arg,
               const struct hark_serve_opts *opts)
{
	static const struct hark_serve_opts defaults;
	const struct hark_serve_opts *o = opts != NULL ? opts : &defaults;
	int r = check(listeners, n, box, o);
	if (r < 0)
		return r;
	struct hark__server *s = hark__sys.calloc(1, sizeof *s);
	if (s == NULL)
		return -ENOMEM;
	s->opts = *o;
	s->model = models[o->model == HARK_MODEL_DEFAULT ? HARK_MODEL_FIBER : o->model].ops;
	s->box = box;
	s->arg = arg;
	s->acceptors = hark__sys.calloc((size_t)n, sizeof *s->acceptors);
	r = s->acceptors != NULL ? hark__drain_enter() : -ENOMEM;
	if (r == 0) {
		r = o->workers > 1 ? hark__supervise(s, listeners, n) : hark__work(s, listeners, n, -1);
		hark__drain_leave();
	}
	explain(o, r);
	if (s->n_conns == 0) { /* else threads that did not notice the cut still look here: left to the process's end */
		free(s->acceptors);
		free(s);
	}
	return r;
}
