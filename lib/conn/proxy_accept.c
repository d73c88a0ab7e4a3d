/* proxy_accept.c — the PROXY protocol on a connection: reads the header of one that a proxy makes, writes that of one
 * that we relay.
 *
 * The header is taken from the socket to its last byte and no further, as a program may go on with the descriptor: what
 * has come is looked at (MSG_PEEK), and what of it belongs to the header is received. Where nothing tells of its end
 * yet that is all of it, so that the next wait is for more. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/sys.h"
#include "conn/conn.h"
#include "conn/extra.h"
#include "conn/proxy.h"
#include "loop/fiber.h"

#define DRAIN_NS HARK_S /* that a drain leaves */
#define FEW      256    /* bytes of a header that needs no allocation to be read */
#define STEP     4096   /* bytes that a longer one is given room for as it comes: its length is only what it says */

/* ---- reading --------------------------------------------------------------------------------- */

struct header {
	uint8_t few[FEW], *bytes;
	size_t n, cap;
	const char *wrong;
	bool hurries; /* a drain has begun */
};

/* Until there is something; a drain is in more of a hurry. 1 or -errno. */
static ssize_t wait_in(struct hark_conn *c, struct header *h)
{
	if (c->served && !h->hurries && hark_drain_deadline() != HARK_FOREVER) {
		int64_t end = hark_after(DRAIN_NS);
		c->read_until = c->read_until < end ? c->read_until : end;
		h->hurries = true;
	}
	int r = hark__conn_wait_in(c, HARK__IN | (c->served && !h->hurries ? HARK__DRAIN : 0), "PROXY header");
	return r == 0 || r == -EAGAIN ? 1 : r;
}

/* What is there, at least a byte, waiting if it must; consumes nothing. 0: the end. */
static ssize_t look(struct hark_conn *c, struct header *h, void *buf, size_t cap)
{
	ssize_t n = 1;
	while (hark__buffer_len(&c->in) == 0 && n > 0) {
		if (c->transport != HARK__SOCKET) {
			n = hark__conn_fill(c, HARK__IN, "PROXY header");
			continue;
		}
		n = c->eof ? 0 : hark__conn_look(c, buf, cap);
		if (n != -EAGAIN)
			return n;
		n = wait_in(c, h);
	}
	if (n <= 0)
		return n;
	size_t len = hark__buffer_len(&c->in);
	memcpy(buf, hark__buffer_head(&c->in), len < cap ? len : cap);
	return (ssize_t)(len < cap ? len : cap);
}

/* Consumes n bytes that were looked at: not counted, as they are not the peer's. */
static ssize_t take(struct hark_conn *c, void *buf, size_t n)
{
	if (hark__buffer_len(&c->in) > 0)
		return (ssize_t)hark__buffer_take(&c->in, buf, n);
	(void)hark__fair(); /* a cancellation is told by the next wait */
	return hark__conn_transport(c)->receive(c, buf, n);
}

static int make_room(struct header *h, size_t most)
{
	if (h->n < h->cap)
		return 0;
	size_t cap = h->cap + (most < STEP ? most : STEP);
	uint8_t *bytes = hark__sys.realloc(h->bytes == h->few ? NULL : h->bytes, cap);
	if (bytes == NULL)
		return -ENOMEM;
	if (h->bytes == h->few)
		memcpy(bytes, h->few, h->n);
	h->bytes = bytes;
	h->cap = cap;
	return 0;
}

/* Some more of it. whole: its length, 0: not known yet. > 0 or -errno. */
static ssize_t read_more(struct hark_conn *c, struct header *h, size_t whole)
{
	size_t most = (whole > 0 ? whole : HARK__PROXY_LINE_MAX) - h->n;
	int r = make_room(h, most);
	if (r < 0)
		return r;
	uint8_t *to = h->bytes + h->n;
	ssize_t n = look(c, h, to, most < h->cap - h->n ? most : h->cap - h->n);
	if (n <= 0)
		return n == 0 ? -ENODATA : n;
	ssize_t ends = hark__proxy_measure(h->bytes, h->n + (size_t)n, &h->wrong);
	if (ends < 0)
		return ends;
	if (ends > 0 && (size_t)ends < h->n + (size_t)n)
		n = ends - (ssize_t)h->n;
	return take(c, to, (size_t)n);
}

static int read_header(struct hark_conn *c, struct header *h)
{
	ssize_t whole = 0;
	while (whole == 0 || (size_t)whole > h->n) {
		ssize_t n = read_more(c, h, (size_t)whole);
		if (n <= 0)
			return n == 0 ? -ENODATA : (int)n;
		h->n += (size_t)n;
		whole = hark__proxy_measure(h->bytes, h->n, &h->wrong); /* it has not failed just before */
	}
	return 0;
}

/* What it tells, with its TLVs and their bytes in one piece. */
static int keep(struct hark_conn *c, struct header *h)
{
	struct hark_proxy p;
	struct hark__extra *x;
	int r = hark__proxy_parse(h->bytes, h->n, &p, NULL, 0, &h->wrong);
	if (r < 0)
		return r;
	r = hark__extra_make(c, &x);
	if (r < 0)
		return r;
	size_t tlvs = (size_t)p.n_tlvs * sizeof(struct hark_proxy_tlv), bytes = p.n_tlvs > 0 ? h->n : 0;
	struct hark_proxy *kept = hark__sys.malloc(sizeof *kept + tlvs + bytes);
	if (kept == NULL)
		return -ENOMEM;
	if (p.n_tlvs > 0) {
		struct hark_proxy_tlv *at = (struct hark_proxy_tlv *)(kept + 1);
		memcpy(at + p.n_tlvs, h->bytes, h->n);
		(void)hark__proxy_parse(at + p.n_tlvs, h->n, &p, at, p.n_tlvs, &h->wrong);
	}
	*kept = p;
	if (!p.local)
		hark__conn_set_peer(c, &p.source.addr, p.source.len);
	x->proxied = kept;
	return 0;
}

static void explain(struct hark_why *why, int r, const struct header *h)
{
	if (why == NULL || r >= 0)
		return;
	(void)snprintf(why->text, sizeof why->text, "%s",
	               r == -EPROTO      ? h->wrong
	               : r == -ENODATA   ? "end: the stream ended before the header did"
	               : r == -ETIMEDOUT ? "timeout: the header was not complete in time"
	                                 : hark_strerror(r));
}

int hark_proxy_accept(struct hark_conn *c, int64_t deadline, struct hark_why *why)
{
	struct header h = {.bytes = h.few, .cap = sizeof h.few, .wrong = ""};
	int r = c->datagrams ? -EOPNOTSUPP : hark_proxied(c) != NULL ? -EALREADY : 0;
	r = r == 0 ? hark__conn_begin(c, &c->reading) : r;
	if (r == 0) {
		c->read_until = deadline;
		c->hurried = true;
		r = read_header(c, &h);
		c->hurried = false;
		r = r == 0 ? keep(c, &h) : r;
		hark__conn_end(c, &c->reading);
	}
	explain(why, r, &h);
	if (h.bytes != h.few)
		free(h.bytes);
	return r;
}

const struct hark_proxy *hark_proxied(const struct hark_conn *c)
{
	const struct hark__extra *x = hark__conn_extra(c);
	return x != NULL ? x->proxied : NULL;
}

/* ---- writing --------------------------------------------------------------------------------- */

int hark_proxy_describe(struct hark_conn *c, struct hark_proxy *out)
{
	*out = (struct hark_proxy){0};
	int r = hark_peer_endpoint(c, &out->source);
	if (r == 0)
		r = hark_local_endpoint(c, &out->destination);
	out->local = r < 0;
	return r == -ENOBUFS || r == -ENOMEM ? r : 0;
}

ssize_t hark_proxy_send(struct hark_conn *c, const struct hark_proxy *p)
{
	uint8_t few[FEW], *bytes = few;
	ssize_t n = hark_proxy_format(p, few, sizeof few);
	if (n == -ENOSPC) {
		bytes = hark__sys.malloc(HARK__PROXY_MAX);
		n = bytes != NULL ? hark_proxy_format(p, bytes, HARK__PROXY_MAX) : -ENOMEM;
	}
	if (n > 0)
		n = hark_write(c, bytes, (size_t)n);
	if (bytes != few)
		free(bytes);
	return n;
}
