/* end.c — how connections end: in halves, in order, cut, or by going over to a program.
 *
 * What is whole ends in order, what is cut looks cut. Neither waits for another process that has the descriptor, too.
 * The end in order goes by steps that do not wait, so that a server lingers in callbacks. */
#include <errno.h>

#include "address/fd.h"
#include "conn/conn.h"
#include "loop/drain.h"
#include "loop/fiber.h"

/* Input is dropped at the end until the peer, which has all of ours, was silent for so long. */
#define LINGER_QUIET_NS (2 * HARK_S)
#define LINGER_DRAIN_NS (200 * HARK_MS) /* … while the service drains */
#define LINGER_TOTAL_NS (10 * HARK_S)   /* … and no longer than this in all */
#define LINGER_ROUNDS   16              /* receives in a row before others run */

/* With the writer's role where HARK_OUT is among them. */
static int end_directions(struct hark_conn *c, int directions)
{
	for (;;) {
		int r = c->single ? 0 : hark__conn_transport(c)->shutdown(c, directions);
		if (r != -EAGAIN)
			return r;
		hark__ready_clear(&c->src, HARK__OUT);
		r = hark__conn_wait(c, HARK__OUT, "shutdown");
		if (r < 0)
			return r;
	}
}

static int end_out(struct hark_conn *c, int directions)
{
	int r = hark__conn_begin(c, &c->writing);
	if (r < 0)
		return r;
	if (c->ending == HARK__ENDED)
		directions &= ~HARK_OUT;
	else if (!c->datagrams) {
		hark__conn_set_ending(c, HARK__ENDING);
		r = hark__conn_flush(c);
	}
	if (r == 0 && directions != 0)
		r = end_directions(c, directions);
	if (c->ending != HARK__ENDED)
		hark__conn_set_ending(c, r == 0 ? HARK__ENDED : HARK__OPEN);
	hark__conn_end(c, &c->writing);
	return r;
}

int hark_shutdown(struct hark_conn *c, int directions)
{
	if (directions == 0 || (directions & ~(HARK_IN | HARK_OUT)) != 0)
		return -EINVAL;
	int r = directions & HARK_OUT ? end_out(c, directions) : hark__conn_over(c);
	if (r == 0 && directions == HARK_IN)
		r = end_directions(c, directions);
	(void)hark__fair();
	return r;
}

int hark__linger_begin(struct hark_conn *c)
{
	const struct hark__transport *t = hark__conn_transport(c);
	if (c->datagrams || c->shared)
		return -ENOTCONN;
	if (c->write_error < 0 || hark__buffer_len(&c->out) > 0) {
		t->reset(c);
		return -ECONNRESET;
	}
	/* By shutdown(2) where close(2) would do, too: that one waits for the last copy of the descriptor. */
	if (t->unsent == NULL || (c->ending != HARK__ENDED && t->shutdown(c, HARK_OUT) < 0) || c->eof)
		return -ENOTCONN;
	if (t->discard != NULL)
		t->discard(c);
	return 0;
}

void hark__linger_limit(struct hark_conn *c)
{
	int64_t end = hark_after(LINGER_TOTAL_NS);
	if (hark__conn_deadline(c) > end)
		hark_deadline(c, end);
	int64_t quiet = c->served && hark__drain_until() != HARK_FOREVER ? LINGER_DRAIN_NS : LINGER_QUIET_NS;
	if (hark__conn_idle_ns(c) == 0 || hark__conn_idle_ns(c) > quiet)
		hark_idle_timeout(c, quiet);
}

/* Silence counts only once the peer has all of ours: it may still be reading. */
static bool peer_reads(struct hark_conn *c)
{
	return hark__conn_expired(c) == 0 && hark__conn_transport(c)->unsent(c) > 0;
}

int hark__linger_step(struct hark_conn *c, bool quiet)
{
	char dropped[4096];
	if (quiet)
		return peer_reads(c) ? -EAGAIN : 0;
	for (int i = 0; i < LINGER_ROUNDS; i++) {
		ssize_t n = hark__conn_receive(c, dropped, sizeof dropped);
		if (n == -EAGAIN)
			return -EAGAIN;
		if (n <= 0 || hark__conn_expired(c) < 0)
			return 0;
	}
	return 1;
}

/* Reads and drops what the peer still sends, until it ends, is silent, or the time is up. */
static void linger(struct hark_conn *c)
{
	if (hark__linger_begin(c) < 0)
		return;
	hark__linger_limit(c);
	int r = hark__linger_step(c, false);
	while (r != 0) {
		if (r > 0 && hark__fair() < 0)
			return;
		int waited = r < 0 ? hark__conn_wait(c, HARK__IN, "end of stream") : 0;
		if (waited < 0 && waited != -ETIMEDOUT)
			return;
		r = hark__linger_step(c, waited < 0);
	}
}

bool hark__conn_take_both(struct hark_conn *c)
{
	if (!hark__conn_take_role(c, &c->reading))
		return false;
	if (hark__conn_take_role(c, &c->writing))
		return true;
	hark__conn_end(c, &c->reading);
	return false;
}

int hark_close(struct hark_conn *c)
{
	int r = 0;
	if (c == NULL)
		return 0;
	if (!hark__conn_take_both(c))
		return -EBUSY;
	if (!c->datagrams && c->ending != HARK__ENDED) {
		hark__conn_set_ending(c, HARK__ENDING);
		r = hark__conn_flush(c);
	}
	linger(c);
	hark__conn_free(c);
	hark__spend(2); /* shutdown, close */
	(void)hark__fair();
	return r;
}

void hark_abort(struct hark_conn *c)
{
	if (c == NULL)
		return;
	/* Not ours: a call of another fiber or thread uses it, and ends soon after the reset. */
	bool mine = hark__conn_take_both(c);
	if (!c->datagrams)
		hark__conn_transport(c)->reset(c);
	if (mine)
		hark__conn_free(c);
	hark__spend(2); /* the reset, close */
}

void hark_release(struct hark_conn *c)
{
	if (c == NULL || !hark__conn_take_both(c))
		return;
	c->shared = true;
	hark__conn_free(c);
	hark__spend(1); /* close */
}

void hark_shared(struct hark_conn *c)
{
	c->shared = true;
}

int hark_handover(struct hark_conn *c)
{
	if (c->single)
		return -EOPNOTSUPP;
	int r = hark__conn_begin(c, &c->reading);
	if (r < 0)
		return r;
	r = hark__conn_transport(c)->plain ? hark_flush(c) : -EOPNOTSUPP;
	if (r == 0 && (hark_buffered(c) > 0 || c->have_datagram))
		r = -ENOTEMPTY;
	if (r == 0)
		r = hark__fd_nonblock(c->src.fd, false);
	if (r == 0)
		c->nonblock = false;
	hark__conn_end(c, &c->reading);
	return r < 0 ? r : c->src.fd;
}
