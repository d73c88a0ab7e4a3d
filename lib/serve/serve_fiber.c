/* serve_fiber.c — a fiber for each connection, on the worker's own loop.
 *
 * Where the peer speaks first, as in TLS, the fiber starts at its first byte: until then the connection is its struct,
 * a waiter embedded in it, and nothing else. */
#include <errno.h>
#include <stdlib.h>

#include "base/sys.h"
#include "serve/serve_life.h"

#define AGAIN_NS      (100 * HARK_MS) /* when no stack could be had for one that has spoken */
#define FIRST_BYTE_NS HARK_S          /* after a drain's beginning, for those that have not spoken yet */

static void box_main(void *arg)
{
	struct hark_conn *c = arg;
	struct hark__server *s = c->server;
	hark__server_run(s, c);
	hark__server_finish(s, c);
}

/* Until its box has returned: see abandon(). */
static void list_running(struct hark__server *s, struct hark_conn *c)
{
	if (s->opts.leave != NULL)
		hark__list_append(&s->running, &c->link);
}

/* ---- silent connections: in server->conns until they speak ------------------------------------ */

static void close_silent(struct hark_conn *c, int error)
{
	struct hark__server *s = c->server;
	int ticket = c->ticket;
	hark__list_remove(&c->link);
	hark__timer_clear(s->loop, &c->until);
	hark__loop_unwake(s->loop, &c->first);
	hark__server_run_silent(s, c, error);
	hark__server_ended(s, NULL, ticket);
}

/* It has spoken, or hung up: either is the box's business. */
static void spoken(struct hark_conn *c)
{
	struct hark__server *s = c->server;
	c->src.in = NULL;
	int r = hark_go(&s->scope, "box", box_main, c);
	if (r == 0) {
		hark__list_remove(&c->link);
		list_running(s, c);
		hark__timer_clear(s->loop, &c->until);
	} else if (r == -ECANCELED || hark__timer_set(s->loop, &c->until, hark_after(AGAIN_NS)) < 0) {
		close_silent(c, -r);
	}
}

/* Does TLS's client speak first? A box that begins TLS itself may say something before, unless it gives a time. */
static bool awaits_hello(const struct hark_conn *c, const struct hark__server *s)
{
	return c->tls_due && (!s->opts.tls_by_box || s->opts.tls_handshake_ns > 0);
}

static int64_t silent_until(const struct hark_conn *c)
{
	int64_t idle_ns = hark__conn_idle_ns(c), end = hark__conn_deadline(c);
	if (idle_ns > 0 && c->opened + idle_ns < end)
		end = c->opened + idle_ns;
	if (awaits_hello(c, c->server) && hark__server_handshake_until(c->server, c) < end)
		end = hark__server_handshake_until(c->server, c);
	return end;
}

/* No handshake came, and the box, which was to do it, says what that means. */
static bool is_boxs_to_end(const struct hark_conn *c, int64_t now)
{
	const struct hark__server *s = c->server;
	return s->opts.tls_by_box && awaits_hello(c, s) && now >= hark__server_handshake_until(s, c);
}

/* The first byte, or the timer. */
static void first_run(struct hark__waiter *w)
{
	struct hark_conn *c = hark__container(w, struct hark_conn, first);
	if (hark__ready(&c->src) & HARK__IN) {
		spoken(c);
		return;
	}
	int64_t now = hark_now();
	if (is_boxs_to_end(c, now))
		spoken(c);
	else if (now >= silent_until(c))
		close_silent(c, ETIMEDOUT);
}

static int watch_first(struct hark__server *s, struct hark_conn *c)
{
	struct hark__engine *e = hark__loop_engine(s->loop);
	int64_t end = silent_until(c);
	c->first.run = first_run;
	c->until.waiter = &c->first;
	hark__ready_clear(&c->src, HARK__IN);
	c->src.in = &c->first;
	if (end != HARK_FOREVER && hark__timer_set(s->loop, &c->until, end) < 0)
		return -ENOMEM;
	int r = e->ops->arm(e, &c->src, HARK__IN);
	if (r < 0) {
		hark__timer_clear(s->loop, &c->until);
		hark__ready_set(&c->src, HARK__IN);
		c->src.in = NULL;
		return -ENOMEM; /* the engine has no room now */
	}
	hark__list_append(&s->conns, &c->link);
	return 0;
}

/* ---- the model ------------------------------------------------------------------------------- */

static int start(struct hark__server *s, struct hark_conn *c)
{
	bool client_first = (s->opts.client_first || awaits_hello(c, s)) && s->opts.proxied == NULL;
	if (client_first && hark_type(c) == SOCK_STREAM && c->lent == NULL)
		return watch_first(s, c);
	int r = hark_go(&s->scope, "box", box_main, c);
	if (r == 0)
		list_running(s, c);
	return r;
}

static void close_all_silent(struct hark__server *s)
{
	while (!hark__list_empty(&s->conns))
		close_silent(hark__container(s->conns.next, struct hark_conn, link), 0);
}

static void late_run(struct hark__waiter *w)
{
	close_all_silent(hark__container(w, struct hark__server, late_waiter));
}

/* Boxes at a request boundary notice a drain themselves. Who has just connected may still speak: a client that saw its
 * connection accepted is about to. */
static void drain(struct hark__server *s)
{
	s->late_waiter.run = late_run;
	s->late.waiter = &s->late_waiter;
	if (!hark__list_empty(&s->conns) && hark__timer_set(s->loop, &s->late, hark_after(FIRST_BYTE_NS)) < 0)
		close_all_silent(s);
}

static void cut(struct hark__server *s, int64_t late_ns)
{
	(void)late_ns;
	close_all_silent(s);
	hark_cancel(&s->scope);
}

static void abandon(struct hark__server *s)
{
	for (struct hark__list *at = s->running.next; at != &s->running; at = at->next)
		hark__server_leave(s, hark__container(at, struct hark_conn, link)->ticket);
}

const struct hark__model hark__model_fiber = {
	.start = start, .drain = drain, .cut = cut, .abandon = abandon, .gathers = true};
