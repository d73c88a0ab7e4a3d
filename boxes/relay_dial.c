/* relay_dial.c — a relay's addresses, tried in turn: the first one that is well has the connection.
 *
 * One that fails is left alone for a while by all connections; then one of them tries it again, and the others still
 * pass it by until that one knows. Where all have failed, those left alone are tried as well: nobody is refused for
 * what was so some seconds ago.
 *
 * What has failed is known to the process that opened the box and to its children. Any model. */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include "relay.h"

#define ROOM_STEP_NS (100 * HARK_MS) /* between tries where descriptors ran out */

/* ---- loops ------------------------------------------------------------------------------------ */

/* An end of c's own socket, whatever a proxy has told of it. */
static int socket_end(struct hark_conn *c, bool peer, struct hark_endpoint *out)
{
	struct sockaddr_storage at;
	socklen_t len = sizeof at;
	if (hark_proxied(c) == NULL)
		return peer ? hark_peer_endpoint(c, out) : hark_local_endpoint(c, out);
	int r = peer ? getpeername(hark_fd(c), (struct sockaddr *)&at, &len)
	             : getsockname(hark_fd(c), (struct sockaddr *)&at, &len);
	return r < 0 ? -errno : hark_endpoint_from(hark_type(c), (struct sockaddr *)&at, len, out);
}

static bool same_host(const struct hark_endpoint *a, const struct hark_endpoint *b)
{
	const struct sockaddr_in *a4 = (const struct sockaddr_in *)&a->addr, *b4 = (const struct sockaddr_in *)&b->addr;
	const struct sockaddr_in6 *a6 = (const struct sockaddr_in6 *)&a->addr;
	const struct sockaddr_in6 *b6 = (const struct sockaddr_in6 *)&b->addr;
	if (a->addr.ss_family != b->addr.ss_family)
		return false;
	switch (a->addr.ss_family) {
	case AF_INET: return a4->sin_addr.s_addr == b4->sin_addr.s_addr;
	case AF_INET6:
		return IN6_ARE_ADDR_EQUAL(&a6->sin6_addr, &b6->sin6_addr) && a6->sin6_scope_id == b6->sin6_scope_id;
	default: return true;
	}
}

static bool same(const struct hark_endpoint *a, const struct hark_endpoint *b)
{
	if (a->type != b->type || !same_host(a, b))
		return false;
	switch (a->addr.ss_family) {
	case AF_INET:
	case AF_INET6: /* the port is at one place in both */
		return ((const struct sockaddr_in *)&a->addr)->sin_port ==
		       ((const struct sockaddr_in *)&b->addr)->sin_port;
	default: return a->len == b->len && memcmp(&a->addr, &b->addr, a->len) == 0;
	}
}

/* A relay that dials itself would do so until the machine has no descriptors left. A datagram that claims to be the
 * target's would go round between the two for ever. */
static bool is_loop(struct hark_conn *client, const struct hark_endpoint *own, struct hark_conn *target)
{
	struct hark_endpoint from, got;
	if (hark_peer_endpoint(target, &got) < 0)
		return false;
	return same(own, &got) ||
	       (hark_type(client) == SOCK_DGRAM && socket_end(client, true, &from) >= 0 && same(&from, &got));
}

/* Dialed from this machine: both ends are one host, or of 127.0.0.0/8. */
static bool is_near(struct hark_conn *client, const struct hark_endpoint *own)
{
	struct hark_endpoint from;
	if (socket_end(client, true, &from) < 0)
		return false;
	const struct sockaddr_in *v4 = (const struct sockaddr_in *)&from.addr;
	return same_host(&from, own) ||
	       (from.addr.ss_family == AF_INET && ntohl(v4->sin_addr.s_addr) >> 24 == IN_LOOPBACKNET);
}

/* Relays that lead to each other: each lowers the hop limit by one, as a router does (RFC 791), and at its end the
 * connection goes nowhere. Remote clients have come a long way by right: theirs begin anew. 0: the system's; -ELOOP. */
static int hops_left(struct hark_conn *client, const struct hark_endpoint *own)
{
	int left = hark_hops(client);
	return left == 0 || own == NULL || !is_near(client, own) ? 0 : left == 1 ? -ELOOP : left - 1;
}

/* ---- what has failed -------------------------------------------------------------------------- */

int relay_rests_open(struct relay *x)
{
	void *at = mmap(NULL, (size_t)x->n * sizeof *x->rest_until, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
	                -1, 0);
	if (at == MAP_FAILED)
		return -ENOMEM;
	x->rest_until = at;
	return 0;
}

void relay_rests_close(struct relay *x)
{
	if (x->rest_until != NULL)
		(void)munmap(x->rest_until, (size_t)x->n * sizeof *x->rest_until);
}

static _Atomic int64_t *rest_of(const struct relay *x, const struct relay_target *t)
{
	return &x->rest_until[t - x->targets];
}

static void leave_alone(const struct relay *x, const struct relay_target *t)
{
	atomic_store_explicit(rest_of(x, t), hark_after(x->rest_ns), memory_order_relaxed);
}

/* Whether t is well; or has been left alone long enough, and nobody else is trying it. */
static bool may_try(const struct relay *x, const struct relay_target *t)
{
	int64_t until = atomic_load_explicit(rest_of(x, t), memory_order_relaxed);
	if (until == 0)
		return true;
	return hark_now() >= until &&
	       atomic_compare_exchange_strong_explicit(rest_of(x, t), &until, hark_after(x->dial_ns),
	                                               memory_order_relaxed, memory_order_relaxed);
}

/* What says nothing of the one that was dialed, and would be no better with another one. */
static bool is_ours(int error)
{
	switch (error) {
	case -EMFILE:
	case -ENFILE:
	case -ENOMEM:
	case -ENOBUFS:
	case -EAGAIN:
	case -ECANCELED:
	case -ELOOP: return true;
	default: return false;
	}
}

static void note(const struct relay *x, const struct relay_target *t, int result)
{
	if (result < 0)
		leave_alone(x, t);
	else if (atomic_load_explicit(rest_of(x, t), memory_order_relaxed) != 0)
		atomic_store_explicit(rest_of(x, t), 0, memory_order_relaxed);
}

const struct relay_target *relay_tried(const struct hark_conn *client)
{
	return hark_data(client);
}

void relay_failed(const struct relay *x, const struct hark_conn *client)
{
	leave_alone(x, relay_tried(client));
}

/* ---- dialing ---------------------------------------------------------------------------------- */

/* What all attempts of one client have in common. */
struct call {
	struct hark_conn *client;
	const struct hark_endpoint *own; /* the client's socket's, here; NULL: it has none */
	const struct client_hello *asked;
	int hops;
	int64_t latest;
	struct hark_why *why;
};

static int dial_one(const struct relay *x, const struct relay_target *t, const struct call *call,
                    struct hark_conn **target)
{
	char plain[HARK_ADDRESS_MAX];
	int64_t deadline = hark_after(x->dial_ns);
	struct hark_dial_opts opts = {
		.deadline = deadline < call->latest ? deadline : call->latest,
		.local = x->local,
		.hop_limit = call->hops,
	};
	struct hark_conn *c;
	int r;
	if (t->tls)
		relay_tls_plain(t->address, plain);
	while ((r = hark_dial(t->tls ? plain : t->address, &opts, &c)) == -EMFILE ||
	       r == -ENFILE) /* others give some back */
		if (hark_now() >= opts.deadline || hark_sleep(ROOM_STEP_NS) < 0)
			break;
	if (r < 0)
		return r;
	hark_deadline(c, opts.deadline);
	r = call->own != NULL && is_loop(call->client, call->own, c) ? -ELOOP
	                                                             : relay_introduce(x, call->client, call->asked, c);
	if (r == 0 && t->tls)
		r = relay_tls_begin(x, t, c, opts.deadline);
	if (r < 0) {
		const char *words = hark_tls_failure(c);
		if (words != NULL)
			(void)snprintf(call->why->text, sizeof call->why->text, "target: %s", words);
		hark_abort(c);
		return r;
	}
	hark_deadline(c, call->latest);
	*target = c;
	return 0;
}

int relay_dial(const struct relay *x, int route, struct hark_conn *client, const struct client_hello *asked,
               struct hark_conn **target, struct hark_why *why)
{
	bool tried[RELAY_TARGETS_MAX] = {false};
	struct hark_conn_stats stats;
	hark_conn_stats(client, &stats);
	struct hark_endpoint at;
	const struct hark_endpoint *own = socket_end(client, false, &at) < 0 ? NULL : &at;
	int r = hops_left(client, own);
	why->text[0] = '\0';
	struct call call = {
		.client = client,
		.own = own,
		.asked = asked,
		.hops = r,
		.latest = stats.deadline_ns,
		.why = why,
	};
	for (int k = 0; k < 2 * x->n && call.hops >= 0; k++) { /* twice round: those left alone come last */
		struct relay_target *t = &x->targets[k % x->n];
		if (t->route != route || tried[k % x->n] || (k < x->n && !may_try(x, t)))
			continue;
		tried[k % x->n] = true;
		hark_set_data(client, t);
		why->text[0] = '\0';
		r = dial_one(x, t, &call, target);
		if (is_ours(r) || hark_now() >= stats.deadline_ns)
			return r;
		note(x, t, r);
		if (r == 0)
			return 0;
	}
	return r;
}
