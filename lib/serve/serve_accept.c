/* serve_accept.c — accepting: each listener is an acceptor, a callback on the loop.
 *
 * An acceptor accepts until its backlog is empty and has a box started for each connection. Where there is no room
 * (max_conns, descriptors, memory, processes) all acceptors pause: connections wait in the backlog, where a client sees
 * a slow server, not a refusal. A connection's end, or a timer, resumes. The caller's pace() is asked here alone.
 *
 * Thread: the loop's. */
#include "serve/serve_accept.h"

#include <errno.h>
#include <limits.h>
#include <netinet/tcp.h>
#include <stddef.h>
#include <sys/resource.h>

#include "address/fd.h"
#include "base/sys.h"
#include "conn/accept.h"
#include "conn/datagram.h"
#include "conn/listen.h"
#include "loop/drain.h"
#include "serve/serve_drain.h"
#include "serve/serve_life.h"
#include "serve/serve_linger.h"

#define ACCEPT_BATCH     64              /* connections accepted in a row before others run */
#define LOOP_DESCRIPTORS 4               /* of the loop that hark_go() makes in a thread: epoll, timer, ring, eventfd */
#define SPARE_MAX        8               /* descriptors left for look-ups and the like */
#define RETRY_NS         (100 * HARK_MS) /* while paused for want of something that others may give back */

/* ---- pausing --------------------------------------------------------------------------------- */

void hark__acceptors_wake(struct hark__server *s)
{
	for (int i = 0; i < s->n_acceptors; i++)
		hark__loop_wake(s->loop, &s->acceptors[i].waiter);
}

void hark__acceptors_resume(struct hark__server *s)
{
	if (!s->paused)
		return;
	s->paused = s->retrying = false;
	(void)hark__timer_set(s->loop, &s->retry, HARK_FOREVER);
	hark__acceptors_wake(s);
}

void hark__acceptors_pause(struct hark__server *s, int error, int64_t ns)
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
	hark__linger_watch(s);
}

static void retry_run(struct hark__waiter *w)
{
	hark__acceptors_resume(hark__container(w, struct hark__server, retry_waiter));
}

/* ---- room ------------------------------------------------------------------------------------ */

bool hark__acceptors_may_accept(struct hark__server *s)
{
	if (s->paused || !hark__server_start_stuck(s))
		return false;
	/* Under inline the loop runs too rarely: check before each accept. */
	if (hark__retired()) {
		hark__server_retire(s);
		return false;
	}
	if (hark__server_until(s) != HARK_FOREVER) {
		hark__loop_wake(s->loop, &s->drain_waiter);
		return false;
	}
	if (hark__server_full(s))
		hark__linger_look(s, NULL);
	if (!hark__server_full(s))
		return true;
	/* A relay may give its pipe back without an end of its connection, which would be heard of. */
	bool by_pipes = s->few_descriptors && s->n_conns < (unsigned)s->opts.max_conns;
	hark__acceptors_pause(s, s->few_descriptors ? EMFILE : 0, by_pipes ? RETRY_NS : HARK_FOREVER);
	return false;
}

int64_t hark__pace(struct hark__server *s)
{
	return s->opts.pace != NULL ? s->opts.pace(s->opts.limit_arg) : 0;
}

static bool count_waiting(const struct hark__acceptor *a, unsigned *out)
{
	struct tcp_info info;
	socklen_t len = offsetof(struct tcp_info, tcpi_unacked) + sizeof info.tcpi_unacked;
	if (a->listener->family == AF_UNIX || a->listener->type != SOCK_STREAM ||
	    hark__sys.getsockopt(a->src.fd, IPPROTO_TCP, TCP_INFO, &info, &len) < 0)
		return false;
	*out = info.tcpi_unacked;
	return true;
}

unsigned hark__acceptor_waiting(const struct hark__acceptor *a)
{
	unsigned n;
	struct pollfd p = {.fd = a->src.fd, .events = POLLIN};
	return count_waiting(a, &n) ? n : hark__sys.poll(&p, 1, 0) != 0;
}

/* Looks before it asks: a pause while nobody waits would be told, counted, and slow for who comes next. */
bool hark__acceptor_paced(struct hark__acceptor *a)
{
	if (a->server->opts.pace == NULL)
		return true;
	if (hark__acceptor_waiting(a) == 0) {
		hark__acceptor_watch(a);
		return false;
	}
	int64_t ns = hark__pace(a->server);
	if (ns > 0)
		hark__acceptors_pause(a->server, EBUSY, ns);
	return ns <= 0;
}

void hark__pace_unused(struct hark__server *s)
{
	if (s->opts.pace != NULL && s->opts.leave != NULL)
		s->opts.leave(-1, s->opts.limit_arg);
}

/* ---- accepting ------------------------------------------------------------------------------- */

void hark__acceptor_watch(struct hark__acceptor *a)
{
	struct hark__server *s = a->server;
	struct hark__source *src = &a->src;
	if (s->told_paused && !s->paused) {
		s->told_paused = false;
		hark__server_event(s, (struct hark_event){.kind = HARK_EVENT_RESUMED});
	}
	if (src->fd < 0)
		return;
	hark__ready_clear(src, HARK__IN);
	src->in = &a->waiter;
	int r = hark__server_arm(s, src);
	if (r == 1)
		a->copied = true;
	else if (r < 0)
		hark__acceptors_pause(s, r == -EMFILE ? EMFILE : ENOMEM, RETRY_NS);
}

/* r: what accept or receive failed with. A broken socket is tried again as well, on the timer; the operator sees the
 * pause. */
static void accept_failed(struct hark__acceptor *a, int r)
{
	if (r == -EAGAIN)
		hark__acceptor_watch(a);
	else if (r == -EINTR) /* something may still be there, and no event would tell of it */
		hark__loop_wake(a->server->loop, &a->waiter);
	else
		hark__acceptors_pause(a->server, -r, RETRY_NS);
}

int hark__acceptor_take(struct hark__acceptor *a, struct hark_conn **out)
{
	int r = hark__accept_now(a->src.fd, &a->spare, out);
	if (r < 0)
		return r;
	(*out)->may_linger = a->lingers;
	(*out)->tls_due = a->listener->tls;
	return 0;
}

/* False: nobody waits. */
static bool look_again(const struct hark__acceptor *a, unsigned *waiting, bool *counted)
{
	*counted = count_waiting(a, waiting);
	if (!*counted)
		*waiting = hark__acceptor_waiting(a);
	return *waiting > 0;
}

/* Behind whoever is ready and the engine: other listeners, and ends of children and threads, which free what a flood
 * takes, are heard in its midst. */
static void accept_on(struct hark__acceptor *a)
{
	hark__loop_ask_soon(a->server->loop);
	hark__loop_wake(a->server->loop, &a->waiter);
}

/* Asks how many wait, once for all of them: an accept(2) that finds nobody has made a socket for nothing. Who comes
 * after a count was taken makes an edge of its own. */
static void accept_streams(struct hark__acceptor *a)
{
	struct hark__server *s = a->server;
	struct hark_conn *c;
	unsigned waiting = 1; /* as the engine said */
	bool counted = false;
	for (int i = 0; i < ACCEPT_BATCH; i++) {
		if (a->src.fd < 0 || !hark__acceptors_may_accept(s) || !hark__acceptor_paced(a))
			return;
		if (waiting == 0 && s->opts.pace == NULL && (counted || !look_again(a, &waiting, &counted))) {
			hark__acceptor_watch(a);
			return;
		}
		waiting--;
		int r = hark__acceptor_take(a, &c);
		if (r < 0) {
			hark__pace_unused(s);
			accept_failed(a, r);
			return;
		}
		(void)hark__server_start(s, c);
	}
	accept_on(a);
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
	if (a->src.fd < 0 || !hark__acceptors_may_accept(s))
		return;
	if (a->datagrams == NULL && hark__datagram_socket_open(a->listener, &a->datagrams) < 0) {
		hark__acceptors_pause(s, EMFILE, RETRY_NS);
		return;
	}
	if (!hark__acceptor_paced(a))
		return;
	int n = hark__datagram_socket_receive(a->datagrams, room_for(s));
	if (n <= 0) {
		hark__pace_unused(s);
		accept_failed(a, n == 0 ? -EAGAIN : n);
		return;
	}
	if (s->model->gathers)
		hark__datagram_socket_gather(a->datagrams, true);
	for (int i = 0; i < n; i++) {
		if (hark__datagram_socket_take(a->datagrams, (unsigned)i, &c) < 0) {
			hark__pace_unused(s);
			break; /* no memory: as a full socket queue would, it drops them */
		}
		if (!hark__server_start(s, c) &&
		    i + 1 < n) { /* one can be kept; the others are dropped, as by a full queue */
			break;
		}
	}
	if (s->model->gathers)
		hark__loop_wake(s->loop, &a->sender); /* behind the fibers just started */
	accept_on(a);
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
	hark__linger_look_due(a->server);
	if (a->server->retired)
		(void)hark__acceptors_may_accept(a->server); /* for what is stuck */
	else if (a->server->opts.wait)
		hark__acceptor_lend(a);
	else if (a->listener->type == SOCK_DGRAM)
		receive_datagrams(a);
	else
		accept_streams(a);
}

/* ---- beginning and end ----------------------------------------------------------------------- */

/* Another thread or fiber has closed the listener. */
static void listener_closed(struct hark__waiter *w)
{
	struct hark__acceptor *a = hark__container(w, struct hark__acceptor, watch.told);
	hark__acceptor_retire(a);
	hark__server_lost_listener(a->server);
}

static int acceptor_init(struct hark__acceptor *a, struct hark__server *s, struct hark_listener *l)
{
	a->server = s;
	a->listener = l;
	hark__source_init(&a->arrivals, -1);
	a->waiter.run = acceptor_run;
	a->sender.run = sender_run;
	a->retry.waiter = &a->waiter;
	a->watch = (struct hark__listener_watch){.told.run = listener_closed, .loop = s->loop};
	hark__source_init(&a->src, -1);
	int r = hark__listener_hold(l);
	if (r < 0)
		return r;
	hark__source_init(&a->src, hark_listener_fd(l));
	a->lingers = hark__fd_lingers(a->src.fd) > 0;
	hark__listener_watch(l, &a->watch);
	if (s->opts.wait)
		hark__acceptor_prepare(a);
	return 0;
}

/* Bounds max_conns by what connections and their boxes need of the descriptors that are left. Of a child process they
 * are its own: here each takes its pidfd, and the last child must still find room for the rest. */
static void bound_by_descriptors(struct hark__server *s)
{
	unsigned needed = (unsigned)s->opts.conn_fds + 1;
	if (s->opts.conn_fds == 0 || s->model == &hark__model_inline || s->opts.wait)
		return;
	if (s->model == &hark__model_thread)
		needed += LOOP_DESCRIPTORS;
	unsigned room = hark__fd_room();
	unsigned spare = room / 8 < SPARE_MAX ? room / 8 : SPARE_MAX;
	if (s->model == &hark__model_process) {
		spare += needed;
		needed = 1;
	}
	s->conn_needs = needed;
	/* Pipes that idle relays keep must not take the place of all others. */
	struct rlimit limit;
	if (hark__sys.getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur <= INT_MAX)
		hark__splice_keep_from((unsigned)limit.rlim_cur - spare - room / 4);
	unsigned most = room > spare + needed ? (room - spare) / needed : 1;
	s->few_descriptors = s->opts.max_conns == 0 || most < (unsigned)s->opts.max_conns;
	if (s->few_descriptors)
		s->opts.max_conns = most < INT_MAX ? (int)most : INT_MAX;
}

int hark__acceptors_init(struct hark__server *s, struct hark_listener *const listeners[], int n)
{
	int r = 0;
	for (int i = 0; i < n; i++) {
		int one = acceptor_init(&s->acceptors[i], s, listeners[i]);
		r = r < 0 ? r : one;
	}
	s->n_acceptors = n;
	s->retry_waiter.run = retry_run;
	s->retry = (struct hark__timer){.waiter = &s->retry_waiter, .kept = true};
	int r1 = hark__timer_set(s->loop, &s->retry, HARK_FOREVER);
	bound_by_descriptors(s);
	return r < 0 ? r : r1;
}

/* The listener is the caller's again, its socket as it is. */
static void acceptor_leave(struct hark__acceptor *a)
{
	hark__loop_unwake(a->server->loop, &a->waiter);
	hark__timer_clear(a->server->loop, &a->retry);
	hark__source_detach(&a->src);
	a->src.in = NULL;
	hark__acceptor_unprepare(a);
	if (a->src.fd < 0)
		return;
	if (a->copied)
		(void)hark__sys.close(a->src.fd);
	a->copied = false;
	a->src.fd = -1;
	hark__listener_unwatch(a->listener, &a->watch);
	hark__listener_release(a->listener);
}

void hark__acceptors_leave(struct hark__server *s)
{
	for (int i = 0; i < s->n_acceptors; i++)
		acceptor_leave(&s->acceptors[i]);
}

void hark__acceptor_close(struct hark__acceptor *a)
{
	if (a->src.fd >= 0)
		hark__listener_shut(a->listener);
	acceptor_leave(a);
}

void hark__acceptor_retire(struct hark__acceptor *a)
{
	hark__acceptor_close(a);
	hark__loop_unwake(a->server->loop, &a->sender);
	if (a->datagrams == NULL)
		return;
	hark__datagram_socket_gather(a->datagrams, false);
	hark__datagram_socket_send(a->datagrams);
	hark__datagram_socket_close(a->datagrams);
	a->datagrams = NULL;
}

static void acceptor_done(struct hark__acceptor *a)
{
	hark__acceptor_retire(a);
	if (a->spare != NULL)
		hark__conn_free(a->spare);
	a->spare = NULL;
}

void hark__acceptors_done(struct hark__server *s)
{
	for (int i = 0; i < s->n_acceptors; i++)
		acceptor_done(&s->acceptors[i]);
	hark__timer_clear(s->loop, &s->retry);
	hark__loop_unwake(s->loop, &s->retry_waiter);
}
