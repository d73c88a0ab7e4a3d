/* carry.c — see carry.h. Two fibers, a direction each. */
#include "carry.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>

#define DATAGRAM_MAX 65536           /* bytes: above any UDP payload */
#define QUIET_NS     HARK_S          /* of a drain: nothing has moved for so long, or for a quarter of the grace */
#define LINGER_NS    (200 * HARK_MS) /* in a drain, closing waits so long for the target's own end */
#define LOOK_NS      HARK_S          /* after the client's end, where nothing tells of a drain: look for one so often */

/* On the caller's stack, as its directions are: it outlives both fibers, because it closes their scopes. */
struct session {
	struct hark_conn *client, *target;
	bool single;      /* the client is one datagram and no conversation */
	int64_t moved_at; /* hark_now() when either direction last moved */
	int error;        /* the first -errno that broke it; 0: none */
	bool over;        /* it ends in order, whatever the fibers' calls say from now on */
	bool *told;       /* the caller's: client has ended; may be NULL */
};

struct direction {
	struct session *s;
	struct hark_conn *from, *to;
	struct hark_scope *other; /* the other direction's */
	bool heeds;               /* ends when a drain begins, and then has drained */
	bool drained;
};

/* ---- one direction, a fiber ------------------------------------------------------------------- */

/* It does not read any more, and what it has said may still be on its way: that direction ends by itself. To cancel it
 * would cut the answer's tail. */
static bool target_has_gone(const struct direction *d, int error)
{
	struct pollfd p = {.fd = hark_fd(d->to)};
	return d->to == d->s->target && (error == -EPIPE || error == -ECONNRESET) && poll(&p, 1, 0) > 0 &&
	       (p.revents & POLLHUP) != 0;
}

static void end_both(struct direction *d, int error)
{
	struct session *s = d->s;
	bool datagrams = hark_type(d->from) == SOCK_DGRAM;
	if (s->error == 0 && !s->over) {
		if (datagrams && error == -ETIMEDOUT) /* how a session ends */
			s->over = true;
		else
			s->error = error;
	}
	if (datagrams || !target_has_gone(d, error))
		hark_cancel(d->other);
}

/* Whether a wait since begun timed out though the other direction goes on. */
static bool may_wait_longer(const struct direction *d, int64_t begun, ssize_t result)
{
	struct hark_conn_stats stats;
	if (result != -ETIMEDOUT || d->s->moved_at <= begun)
		return false;
	hark_conn_stats(d->from, &stats);
	return hark_now() < stats.deadline_ns;
}

/* Until there is something to read. 1; 0: the end, or a drain's beginning; -errno. */
static int await(const struct direction *d)
{
	char byte;
	int64_t begun;
	ssize_t r;
	do {
		begun = hark_now();
		/* hark_idle() of a target, which no server gave, hears of no drain. */
		r = d->heeds || d->from == d->s->target ? hark_idle(d->from) : hark_peek(d->from, &byte, 1);
	} while (may_wait_longer(d, begun, r));
	return (int)r;
}

/* What was passed leaves before a wait, and with what has come meanwhile: an end that is there goes out in one segment
 * with the last bytes. A reader on the other side would see to it, but may have gone. */
static int carry_bytes(struct direction *d)
{
	int r = await(d);
	while (r > 0) {
		ssize_t n = hark_pass(d->from, d->to);
		if (n <= 0)
			return (int)n;
		d->s->moved_at = hark_now();
		r = hark_ready(d->from);
		if (r >= 0)
			continue;
		int flushed = hark_flush(d->to); /* what came before a failure is good */
		r = flushed < 0 ? flushed : r == -EAGAIN ? await(d) : r;
	}
	return r;
}

/* Datagrams that could not be sent are lost; others may pass. */
static bool is_passing(ssize_t error)
{
	switch (error) {
	case -EMSGSIZE:
	case -ENOBUFS:
	case -ENOMEM:
	case -EAGAIN:
	case -EPERM:
	case -EHOSTUNREACH:
	case -ENETUNREACH:
	case -EHOSTDOWN: return true;
	default: return false;
	}
}

/* A client that has gone (its port is closed) ends the session, and nothing is amiss. */
static ssize_t judge(struct direction *d, const struct hark_conn *side, ssize_t r)
{
	if (r == -ECONNREFUSED && side == d->s->client)
		d->s->over = true;
	return r;
}

static ssize_t carry_one(struct direction *d, char *buf)
{
	ssize_t n;
	int64_t begun;
	if (d->heeds || d->from == d->s->target) {
		n = judge(d, d->from, await(d));
		if (n <= 0)
			return n;
	}
	do {
		begun = hark_now();
		n = hark_read(d->from, buf, DATAGRAM_MAX);
	} while (may_wait_longer(d, begun, n));
	if (n < 0)
		return judge(d, d->from, n);
	n = hark_write(d->to, buf, (size_t)n);
	if (n < 0 && !is_passing(n))
		return judge(d, d->to, n);
	d->s->moved_at = hark_now();
	return 1;
}

static int carry_datagrams(struct direction *d)
{
	bool once = d->s->single && d->from == d->s->client;
	char *buf = malloc(DATAGRAM_MAX);
	if (buf == NULL)
		return -ENOMEM;
	ssize_t r;
	do
		r = carry_one(d, buf);
	while (r > 0 && !once);
	free(buf);
	return r < 0 ? (int)r : 0;
}

static void carry(void *arg)
{
	struct direction *d = arg;
	bool stream = hark_type(d->from) == SOCK_STREAM;
	int r = stream ? carry_bytes(d) : carry_datagrams(d);
	d->drained = r == 0 && d->heeds && !d->s->single && hark_drain_deadline() != HARK_FOREVER;
	if (r == 0 && stream && !d->drained)
		r = hark_shutdown(d->to, HARK_OUT);
	if (r == 0 && d->from == d->s->client && d->s->told != NULL)
		*d->s->told = true;
	if (r < 0 && r != -ENOTCONN) /* that one: a side that was reset, of which its reader tells more */
		end_both(d, r);
}

/* ---- the connection --------------------------------------------------------------------------- */

struct pair {
	struct session s;
	struct direction up, down;
	struct hark_scope up_scope, down_scope;
};

/* A drain is under way, and nothing has moved for a while. true: enough of waiting. */
static bool step_down(struct pair *p, bool *asked)
{
	if (!*asked && hark_type(p->s.client) == SOCK_STREAM) {
		*asked = true;
		(void)hark_shutdown(p->s.client, HARK_IN); /* its direction reads the end, and passes it on */
		return false;
	}
	p->s.over = true;
	hark_idle_timeout(p->s.target, LINGER_NS);
	return true;
}

/* Waits for both directions, ending what is quiet in a drain. */
static int await_both(struct pair *p)
{
	bool asked = false;
	int64_t stepped = 0;
	for (;;) {
		int64_t now = hark_now(), end = hark_drain_deadline(), quiet = QUIET_NS;
		if (end != HARK_FOREVER && (end - now) / 4 < quiet)
			quiet = end > now ? (end - now) / 4 : 0;
		int64_t since = stepped > p->s.moved_at ? stepped : p->s.moved_at;
		int64_t look = end == HARK_FOREVER ? now + LOOK_NS : since + quiet > now ? since + quiet : now;
		int r = hark_join(&p->up_scope, look);
		if (r == 0)
			r = hark_join(&p->down_scope, look);
		if (r != -ETIMEDOUT)
			return r;
		if (end == HARK_FOREVER || p->s.moved_at > since)
			continue;
		stepped = hark_now();
		if (step_down(p, &asked))
			return 0;
	}
}

static int attend(struct pair *p)
{
	int r = hark_join(&p->up_scope, HARK_FOREVER); /* a failure of the other direction ends this one too */
	if (r == 0 && p->up.drained) {
		p->up.heeds = p->up.drained = false;
		r = hark_go(&p->up_scope, "relay up", carry, &p->up);
		if (r == -ECANCELED) /* the other direction has failed meanwhile */
			r = 0;
	}
	return r < 0 ? r : await_both(p);
}

static int carry_pair(struct session s)
{
	struct pair p = {.s = s};
	p.up = (struct direction){.s = &p.s, .from = s.client, .to = s.target, .other = &p.down_scope, .heeds = true};
	p.down = (struct direction){.s = &p.s, .from = s.target, .to = s.client, .other = &p.up_scope};
	hark_scope_open(&p.up_scope);
	hark_scope_open(&p.down_scope);
	int r = hark_go(&p.up_scope, "relay up", carry, &p.up);
	if (r == 0)
		r = hark_go(&p.down_scope, "relay down", carry, &p.down);
	if (r == 0)
		r = attend(&p);
	if (r < 0 && p.s.error == 0 && !p.s.over)
		p.s.error = r;
	hark_scope_close(&p.down_scope);
	hark_scope_close(&p.up_scope);
	return p.s.over ? 0 : p.s.error;
}

int carry_both(struct hark_conn *client, struct hark_conn *target, bool single)
{
	return carry_pair(
		(struct session){.client = client, .target = target, .single = single, .moved_at = hark_now()});
}

int carry_streams(struct hark_conn *client, struct hark_conn *target, bool *client_ended)
{
	return carry_pair(
		(struct session){.client = client, .target = target, .told = client_ended, .moved_at = hark_now()});
}

int carry_once(struct hark_conn *client, struct hark_conn *target)
{
	struct session s = {.client = client, .target = target, .single = true};
	struct direction d = {.s = &s, .from = client, .to = target};
	return carry_datagrams(&d);
}
