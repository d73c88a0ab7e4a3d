/* serve_linger.c — the last moments of a served connection: our end is sent, and what the peer still sends is dropped
 * until it ends too (see hark_close()).
 *
 * No fiber or thread waits for that, but callbacks. Most peers end at once when they see ours. So nothing is
 * registered with the engine at first: a connection is young, and one receive a while later finds its peer's end.
 * Registering and forgetting it instead costs a tenth of a short connection. Those that last longer are watched. A
 * lingering connection still counts: max_conns and the caller's limits bound it.
 *
 * Thread: the loop's. */
#include "serve/serve_linger.h"

#include <errno.h>
#include <string.h>

#include "loop/drain.h"
#include "serve/serve_life.h"

#define YOUNG_NS       (300 * INT64_C(1000)) /* between two looks at the young ones */
#define LATE_NS        (10 * HARK_MS)
#define DRAIN_QUIET_NS (200 * HARK_MS) /* a drain has begun: silence for so long is the end */

static void over(struct hark__server *s, struct hark_conn *c)
{
	struct hark__acceptor *lent = c->lent;
	int ticket = c->ticket;
	hark__timer_clear(s->loop, &c->until);
	hark__loop_unwake(s->loop, &c->first);
	hark__conn_free(c);
	hark__server_ended(s, lent, ticket);
}

/* Waits for what the peer sends next. */
static void watch(struct hark__server *s, struct hark_conn *c)
{
	struct hark__engine *e = hark__loop_engine(s->loop);
	c->src.in = &c->first;
	if (hark__timer_set(s->loop, &c->until, hark__conn_until(c, HARK__IN)) < 0 ||
	    e->ops->arm(e, &c->src, HARK__IN) < 0)
		over(s, c);
}

static void step(struct hark__server *s, struct hark_conn *c, bool quiet)
{
	int r = hark__linger_step(c, quiet);
	if (r == 0)
		over(s, c);
	else if (r > 0)
		hark__loop_wake(s->loop, &c->first);
	else
		watch(s, c);
}

/* Something came, or the timer is due. */
static void watched_run(struct hark__waiter *w)
{
	struct hark_conn *c = hark__container(w, struct hark_conn, first);
	step(c->server, c, !(hark__ready(&c->src) & HARK__IN));
}

static void begin_to_watch(struct hark__server *s, struct hark_conn *c)
{
	c->first.run = watched_run;
	c->until.waiter = &c->first;
	hark__list_remove(&c->link);
	hark__list_append(&s->watched, &c->link);
	hark__linger_limit(c);
	hark__ready_set(&c->src, HARK__IN);
	step(s, c, false);
}

/* The acceptors look while others come. The timer is for the last ones, and late: to arm an early one for each wait of
 * a busy loop costs more than it is worth. */
static void look_later(struct hark__server *s)
{
	int64_t now = hark_now(); /* not the loop's: under inline its turns are long */
	s->look_at = now + YOUNG_NS;
	if (!s->look_set)
		(void)hark__timer_set(s->loop, &s->look, now + LATE_NS); /* it is kept: cannot fail */
	s->look_set = true;
}

static void watch_all(struct hark__server *s, struct hark__list *young)
{
	while (!hark__list_empty(young))
		begin_to_watch(s, hark__container(young->next, struct hark_conn, link));
}

/* Each of the young is looked at by the second look after its end: a connection needs no moment of its own. */
void hark__linger_look_due(struct hark__server *s)
{
	if (s->look_at == HARK_FOREVER || hark_now() < s->look_at)
		return;
	watch_all(s, &s->young[!s->youngest]);
	s->youngest = !s->youngest;
	s->look_at = HARK_FOREVER;
	if (!hark__list_empty(&s->young[!s->youngest]))
		look_later(s);
}

static void look_run(struct hark__waiter *w)
{
	struct hark__server *s = hark__container(w, struct hark__server, look_waiter);
	s->look_set = false;
	hark__linger_look_due(s);
	if (s->look_at != HARK_FOREVER)
		look_later(s);
}

void hark__linger_watch(struct hark__server *s)
{
	watch_all(s, &s->young[0]);
	watch_all(s, &s->young[1]);
}

/* By address alone: ports differ. Unix peers are all one. */
static bool same_source(const struct hark_conn *a, const struct hark_conn *b)
{
	if (a->peer.any.sa_family != b->peer.any.sa_family)
		return false;
	switch (a->peer.any.sa_family) {
	case AF_INET: return a->peer.v4.sin_addr.s_addr == b->peer.v4.sin_addr.s_addr;
	case AF_INET6: return memcmp(&a->peer.v6.sin6_addr, &b->peer.v6.sin6_addr, sizeof a->peer.v6.sin6_addr) == 0;
	default: return true;
	}
}

static void look(struct hark__server *s, struct hark__list *young, const struct hark_conn *like)
{
	for (struct hark__list *at = young->next, *next; at != young; at = next) {
		struct hark_conn *c = hark__container(at, struct hark_conn, link);
		next = at->next;
		if (like != NULL && !same_source(c, like))
			continue;
		hark__ready_set(&c->src, HARK__IN);
		if (hark__linger_step(c, false) == 0)
			over(s, c);
	}
}

void hark__linger_look(struct hark__server *s, const struct hark_conn *like)
{
	look(s, &s->young[0], like);
	look(s, &s->young[1], like);
}

void hark__linger(struct hark__server *s, struct hark_conn *c)
{
	hark__list_remove(&c->link);
	hark__splice_end(c); /* its pipe and the waiter share their place */
	c->first = (struct hark__waiter){0};
	c->until = (struct hark__timer){0};
	if (hark__linger_begin(c) < 0 || s->cut) { /* begin first: what is unsent makes it a reset */
		over(s, c);
		return;
	}
	if (c->src.engine != NULL || s->paused) { /* its end tells of itself; or somebody waits for its place */
		begin_to_watch(s, c);
		return;
	}
	if (s->look_at == HARK_FOREVER)
		look_later(s);
	hark__list_append(&s->young[s->youngest], &c->link);
}

void hark__linger_drain(struct hark__server *s)
{
	hark__linger_watch(s);
	for (struct hark__list *at = s->watched.next, *next; at != &s->watched; at = next) {
		struct hark_conn *c = hark__container(at, struct hark_conn, link);
		next = at->next;
		hark_idle_timeout(c, DRAIN_QUIET_NS);
		watch(s, c);
	}
}

void hark__linger_cut(struct hark__server *s)
{
	struct hark__list *node;
	while ((node = hark__list_pop(&s->young[0])) != NULL || (node = hark__list_pop(&s->young[1])) != NULL ||
	       (node = hark__list_pop(&s->watched)) != NULL)
		over(s, hark__container(node, struct hark_conn, link));
}

int hark__linger_init(struct hark__server *s)
{
	hark__list_init(&s->young[0]);
	hark__list_init(&s->young[1]);
	hark__list_init(&s->watched);
	s->look_waiter.run = look_run;
	s->look_at = HARK_FOREVER;
	s->look = (struct hark__timer){.waiter = &s->look_waiter, .kept = true};
	return hark__timer_set(s->loop, &s->look, HARK_FOREVER);
}

void hark__linger_done(struct hark__server *s)
{
	hark__linger_cut(s);
	hark__timer_clear(s->loop, &s->look);
	hark__loop_unwake(s->loop, &s->look_waiter);
}
