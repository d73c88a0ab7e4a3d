/* relay.c — joins each connection to another address: xinetd's redirect, and what socat is used for most.
 *
 *   relay [--timeout T] [--local ADDRESS] ADDRESS
 *
 * ADDRESS is dialed for each connection, its name looked up anew, within T (10 s); --local says from where. TCP and
 * unix streams are joined to either, datagrams to datagrams; a stream and datagrams cannot be joined.
 *
 * The two are carry.h's: the client's deadline covers both sides, and so does its idle time-out. Datagrams: a peer's
 * first one begins a session, hark_udp_connect(), with a socket of its own on either side, that ends when nothing has
 * moved for the idle time-out, or for a minute. A unix peer's datagrams have no conversation: each is a session by
 * itself, or is passed on and done with where the peer has no name to answer to.
 *
 * The outcome of a failure is its -errno. Any model: where there is no loop the first fiber makes one. */
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "carry.h"
#include "options.h"
#include "table.h"

#define DIAL_NS          (10 * HARK_S)
#define ROOM_STEP_NS     (100 * HARK_MS) /* between tries where descriptors ran out */
#define DATAGRAM_IDLE_NS (60 * HARK_S)

struct relay {
	char *address;
	char *local; /* NULL: as the kernel chooses */
	int64_t dial_ns;
	int type; /* SOCK_STREAM, SOCK_DGRAM */
};

/* A relay that dials itself would do so until the machine has no descriptors left. */
static bool is_ourselves(struct hark_conn *client, struct hark_conn *target)
{
	char asked[HARK_ADDRESS_MAX], got[HARK_ADDRESS_MAX];
	return hark_local(client, asked, sizeof asked) >= 0 && hark_peer(target, got, sizeof got) >= 0 &&
	       strcmp(asked, got) == 0;
}

/* Dialed from this machine: both ends are one host, or of 127.0.0.0/8. */
static bool is_near(struct hark_conn *client)
{
	char at[HARK_ADDRESS_MAX], from[HARK_ADDRESS_MAX];
	if (hark_local(client, at, sizeof at) < 0 || hark_peer(client, from, sizeof from) < 0)
		return false;
	size_t n = (size_t)(strrchr(at, ':') - at);
	return strncmp(from, "tcp://127.", 10) == 0 || (strncmp(at, from, n) == 0 && from[n] == ':');
}

/* Relays that lead to each other: each lowers the hop limit by one, as a router does (RFC 791), and at its end the
 * connection goes nowhere. What the client's packets had is told where a multicast socket has its own
 * (tcp_v4_syn_recv_sock() of the kernel). Remote clients have come a long way by right: theirs begin anew.
 * 0: the system's; -ELOOP. */
static int hops_left(struct hark_conn *client)
{
	int fd = hark_fd(client), left = 0;
	socklen_t len = sizeof left;
	if (hark_type(client) != SOCK_STREAM || fd < 0 || !is_near(client))
		return 0;
	if (getsockopt(fd, IPPROTO_IPV6, IPV6_MULTICAST_HOPS, &left, &len) < 0 &&
	    getsockopt(fd, IPPROTO_IP, IP_MULTICAST_TTL, &left, &len) < 0)
		return 0;
	return left <= 0 ? 0 : left == 1 ? -ELOOP : left - 1;
}

static int dial(const struct relay *x, struct hark_conn *client, struct hark_conn **target)
{
	struct hark_conn_stats stats;
	hark_conn_stats(client, &stats);
	int64_t deadline = hark_after(x->dial_ns);
	int r = hops_left(client);
	if (r < 0)
		return r;
	struct hark_dial_opts opts = {
		.deadline = deadline < stats.deadline_ns ? deadline : stats.deadline_ns,
		.local = x->local,
		.hop_limit = r,
	};
	while ((r = hark_dial(x->address, &opts, target)) == -EMFILE || r == -ENFILE) /* others give some back */
		if (hark_now() >= opts.deadline || hark_sleep(ROOM_STEP_NS) < 0)
			break;
	if (r < 0)
		return r;
	if (is_ourselves(client, *target)) {
		hark_abort(*target);
		return -ELOOP;
	}
	if (stats.idle_ns == 0 && x->type == SOCK_DGRAM)
		stats.idle_ns = DATAGRAM_IDLE_NS;
	hark_idle_timeout(client, stats.idle_ns);
	hark_idle_timeout(*target, stats.idle_ns);
	hark_deadline(*target, stats.deadline_ns);
	return 0;
}

void relay_serve(struct hark_conn *c, void *arg)
{
	const struct relay *x = arg;
	struct hark_conn *target;
	struct hark_endpoint peer;
	int r = hark_type(c) == x->type ? 0 : -EPROTOTYPE;
	if (r == 0 && x->type == SOCK_DGRAM)
		r = hark_udp_connect(c);
	bool single = r == -EOPNOTSUPP;
	if (r == -EALREADY) /* the peer's session has got it */
		return;
	if (r == 0 || single)
		r = dial(x, c, &target);
	if (r < 0) {
		hark_outcome(c, 0, r);
		return;
	}
	r = single && hark_peer_endpoint(c, &peer) < 0 ? carry_once(c, target) : carry_both(c, target, single);
	if (r == 0)
		r = hark_close(target);
	else
		hark_abort(target);
	if (r < 0)
		hark_outcome(c, 0, r);
}

const char *relay_target(const void *arg)
{
	return ((const struct relay *)arg)->address;
}

/* ---- its arguments ---------------------------------------------------------------------------- */

bool relay_takes(const void *arg, int type)
{
	return ((const struct relay *)arg)->type == type;
}

/* "host", "host:port", ":port", "[::1]:port", a bare IPv6 address: as struct hark_dial_opts takes it. */
static int check_local(const char *local, struct hark_why *why)
{
	static const char *const forms[] = {"tcp://%s:0", "tcp://[%s]:0", "tcp://%s", "tcp://*%s"};
	for (size_t i = 0; i < sizeof forms / sizeof *forms; i++) {
		char text[HARK_ADDRESS_MAX];
		struct hark_address a;
		int n = snprintf(text, sizeof text, forms[i], local);
		if (n > 0 && (size_t)n < sizeof text && hark_address_parse(text, &a, NULL) == 0)
			return 0;
	}
	return box_why(why, -EINVAL, "--local: \"%s\" is no address to come from (write HOST, HOST:PORT or :PORT)",
	               local);
}

static int fill(struct relay *x, int argc, char *const argv[], struct hark_why *why)
{
	struct hark_address a;
	const char *timeout = NULL, *local = NULL;
	const struct box_option options[] = {{"timeout", NULL, &timeout}, {"local", NULL, &local}, {NULL}};
	int took = box_options_front(argc, argv, options, why);
	if (took < 0)
		return took;
	if (took == argc)
		return box_why(why, -EINVAL, "no address to relay to");
	if (took + 1 < argc)
		return box_why(why, -EINVAL, "unexpected argument: %s", argv[took + 1]);
	int r = hark_address_parse(argv[took], &a, why);
	if (r == 0)
		r = box_duration("timeout", timeout, &x->dial_ns, why);
	if (r < 0)
		return r;
	if (x->dial_ns == 0)
		return box_why(why, -EINVAL, "--timeout: no time to dial at all");
	if (a.scheme == HARK_FD)
		return box_why(why, -EINVAL, "%s: connections cannot share one descriptor", argv[took]);
	bool is_unix = a.scheme == HARK_UNIX || a.scheme == HARK_UNIXGRAM;
	if (local != NULL && is_unix)
		return box_why(why, -EINVAL, "--local is for tcp and udp, not for %s", argv[took]);
	if (local != NULL && check_local(local, why) < 0)
		return -EINVAL;
	bool datagrams = a.scheme == HARK_UDP || a.scheme == HARK_UDP4 || a.scheme == HARK_UDP6 ||
	                 a.scheme == HARK_UNIXGRAM;
	x->type = datagrams ? SOCK_DGRAM : SOCK_STREAM;
	x->address = strdup(argv[took]);
	x->local = local != NULL ? strdup(local) : NULL;
	if (x->address == NULL || (local != NULL && x->local == NULL))
		return box_why(why, -ENOMEM, "out of memory");
	return 0;
}

int relay_open(int argc, char *const argv[], void **arg, struct hark_why *why)
{
	struct relay *x = calloc(1, sizeof *x);
	if (x == NULL)
		return box_why(why, -ENOMEM, "out of memory");
	x->dial_ns = DIAL_NS;
	int r = fill(x, argc, argv, why);
	if (r < 0) {
		relay_close(x);
		return r;
	}
	*arg = x;
	return 0;
}

void relay_close(void *arg)
{
	struct relay *x = arg;
	if (x == NULL)
		return;
	free(x->address);
	free(x->local);
	free(x);
}
