/* serve_life.c — the life of one connection under a server: admitted, counted, started, run, ended.
 *
 * The same under every model. A model says where hark__server_run() runs, and calls hark__server_finish() on the loop.
 *
 * Thread: the loop's, but hark__server_run() and what it calls, which run where the box does. */
#include "serve/serve_life.h"

#include <errno.h>

#include "conn/tls.h"
#include "serve/serve_accept.h"
#include "serve/serve_drain.h"
#include "serve/serve_linger.h"

#define PROXY_NS (10 * HARK_S)   /* for a PROXY header */
#define RETRY_NS (100 * HARK_MS) /* until a start that lacked memory, processes or threads is tried again */

void hark__server_event(struct hark__server *s, struct hark_event e)
{
	if (s->opts.event != NULL)
		s->opts.event(&e, s->opts.event_arg);
}

/* ---- where the box runs -------------------------------------------------------------------------- */

/* Not inlined: keeps the stack under the box small, as an idle connection's is swapped out whole. */
static __attribute__((noinline)) void tell_conn(struct hark__server *s, enum hark_event_kind kind, struct hark_conn *c,
                                                int err)
{
	if (c->status < 0) /* the box's reason tells more than that of the flush after it */
		err = c->status;
	if (kind == HARK_EVENT_CLOSE && c->refused)
		kind = HARK_EVENT_REFUSED;
	hark__server_event(s, (struct hark_event){.kind = kind,
	                                          .conn = c,
	                                          .pid = c->pid,
	                                          .status = c->status > 0 ? c->status : 0,
	                                          .error = err < 0 ? -err : 0,
	                                          .ticket = c->ticket});
}

void hark_outcome(struct hark_conn *c, pid_t pid, int status)
{
	bool begins = pid > 0 && status == 0 && pid != c->pid && c->server != NULL;
	c->pid = pid;
	c->status = status;
	c->refused = false;
	if (begins)
		tell_conn(c->server, HARK_EVENT_PROGRAM, c, 0);
}

void hark_refuse(struct hark_conn *c, int reason)
{
	hark_outcome(c, 0, reason > 0 ? -reason : -EACCES);
	c->refused = true;
}

int hark_ticket(const struct hark_conn *c)
{
	return c->served ? c->ticket : -1;
}

int64_t hark__server_handshake_until(const struct hark__server *s, const struct hark_conn *c)
{
	return c->opened + (s->opts.tls_handshake_ns > 0 ? s->opts.tls_handshake_ns : HARK__TLS_HANDSHAKE_NS);
}

/* True: the box's turn. */
static __attribute__((noinline)) bool begin_tls(struct hark__server *s, struct hark_conn *c, int *error)
{
	struct hark_starttls_opts o = {.deadline = hark__server_handshake_until(s, c)};
	*error = hark_starttls(c, s->opts.tls, &o);
	if (*error < 0 || !s->opts.client_first)
		return *error == 0;
	int n = hark_idle(c);
	*error = n < 0 ? n : 0;
	return n > 0;
}

/* Not inlined: as tell_conn(). */
static __attribute__((noinline)) int accept_proxied(struct hark__server *s, struct hark_conn *c)
{
	int64_t ns = s->opts.proxy_timeout_ns > 0 ? s->opts.proxy_timeout_ns : PROXY_NS;
	if (s->opts.proxied == NULL || c->datagrams || c->lent != NULL)
		return 0;
	int r = s->opts.proxied(c, s->opts.proxied_arg);
	return r <= 0 ? r : hark_proxy_accept(c, hark_after(ns), NULL);
}

void hark__server_run(struct hark__server *s, struct hark_conn *c)
{
	int error = 0, r = accept_proxied(s, c);
	tell_conn(s, HARK_EVENT_OPEN, c, 0);
	if (r < 0)
		hark_refuse(c, -r);
	else if (!c->tls_due || s->opts.tls_by_box || begin_tls(s, c, &error))
		s->box(c, s->arg);
	int lost = c->status < 0 ? 0 : hark__conn_flush_last(c);
	tell_conn(s, HARK_EVENT_CLOSE, c, error < 0 ? error : lost);
}

void hark__server_run_silent(struct hark__server *s, struct hark_conn *c, int error)
{
	tell_conn(s, HARK_EVENT_OPEN, c, 0);
	tell_conn(s, HARK_EVENT_CLOSE, c, -error);
	hark__conn_free(c);
}

/* ---- beginning and end --------------------------------------------------------------------------- */

bool hark__server_full(const struct hark__server *s)
{
	/* Pipes that relays have opened since take the place of connections. */
	unsigned taken = s->few_descriptors && s->n_conns > 0 ? hark__splice_descriptors() : 0, each = s->conn_needs;
	return s->opts.max_conns > 0 &&
	       s->n_conns + (each > 0 ? (taken + each - 1) / each : 0) >= (unsigned)s->opts.max_conns;
}

/* Asks the caller's admit() once for each connection. False: c is shed. */
static bool admit(struct hark__server *s, struct hark_conn *c)
{
	c->ticket = -1;
	if (s->opts.admit == NULL || c->lent != NULL)
		return true;
	hark__linger_look(s, c); /* the caller's counts are right: who calls again has ended the last time */
	int ticket = s->opts.admit(c, s->opts.limit_arg);
	if (ticket >= 0) {
		c->ticket = ticket;
		return true;
	}
	hark__server_event(s,
	                   (struct hark_event){.kind = HARK_EVENT_REFUSED, .conn = c, .error = -ticket, .ticket = -1});
	hark_abort(c);
	return false;
}

bool hark__server_start(struct hark__server *s, struct hark_conn *c)
{
	if (!c->served && !admit(s, c)) /* served: it was stuck, and is admitted */
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
	hark__acceptors_pause(s, -r, RETRY_NS);
	return false;
}

bool hark__server_start_stuck(struct hark__server *s)
{
	struct hark_conn *c = s->stuck;
	s->stuck = NULL;
	return c == NULL || hark__server_start(s, c);
}

void hark__server_leave(struct hark__server *s, int ticket)
{
	if (ticket >= 0 && s->opts.leave != NULL && !s->abandoned)
		s->opts.leave(ticket, s->opts.limit_arg);
}

/* A peer whose handshake has failed reads the alert that says why: a reset could overtake it. */
bool hark__server_ends_in_order(const struct hark_conn *c)
{
	return c->status >= 0 || (c->refused && hark_tls_failure(c) != NULL);
}

void hark__server_finish(struct hark__server *s, struct hark_conn *c)
{
	struct hark__acceptor *lent = c->lent;
	int ticket = c->ticket;
	if (hark__server_ends_in_order(c)) {
		hark__linger(s, c);
		return;
	}
	hark_abort(c);
	hark__server_ended(s, lent, ticket);
}

void hark__server_ended(struct hark__server *s, struct hark__acceptor *lent, int ticket)
{
	s->n_conns--;
	if (s->abandoned) /* hark_serve() has returned, and the listeners may be gone */
		return;
	hark__server_leave(s, ticket);
	if (lent != NULL)
		hark__acceptor_returned(lent);
	hark__acceptors_resume(s);
	hark__server_drain_step(s);
}
