/* relay.c — joins each connection to another address: xinetd's redirect, and what socat is used for most.
 *
 *   relay [--connect-timeout T] [--local ADDRESS] ADDRESS
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

#define ROOM_STEP_NS     (100 * HARK_MS) /* between tries where descriptors ran out */
#define DATAGRAM_IDLE_NS (60 * HARK_S)

struct relay {
	const char *address;
	const char *local; /* NULL: as the kernel chooses */
	int64_t dial_ns;
	int type; /* SOCK_STREAM, SOCK_DGRAM */
};

/* A relay that dials itself would do so until the machine has no descriptors left. A datagram that claims to be the
 * target's would go round between the two for ever. */
static bool is_loop(struct hark_conn *client, struct hark_conn *target)
{
	char asked[HARK_ADDRESS_MAX], from[HARK_ADDRESS_MAX], got[HARK_ADDRESS_MAX];
	if (hark_local(client, asked, sizeof asked) < 0 || hark_peer(target, got, sizeof got) < 0)
		return false;
	return strcmp(asked, got) == 0 ||
	       (hark_type(client) == SOCK_DGRAM && hark_peer(client, from, sizeof from) >= 0 && strcmp(from, got) == 0);
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
	if (is_loop(client, *target)) {
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

static void relay_serve(struct hark_conn *c, void *arg)
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

static const char *relay_target(const void *state)
{
	return ((const struct relay *)state)->address;
}

/* ---- its arguments ---------------------------------------------------------------------------- */

static bool relay_takes(const void *state, int type)
{
	return ((const struct relay *)state)->type == type;
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

static int relay_parse(void *state, int argc, char *const argv[], struct hark_why *why)
{
	struct relay *x = state;
	struct hark_address a;
	if (argc == 0)
		return box_why(why, -EINVAL, "no address to relay to");
	if (argc > 1)
		return box_why(why, -EINVAL, "unexpected argument: %s", argv[1]);
	int r = hark_address_parse(argv[0], &a, why);
	if (r < 0)
		return r;
	if (a.scheme == HARK_FD)
		return box_why(why, -EINVAL, "%s: connections cannot share one descriptor", argv[0]);
	bool is_unix = a.scheme == HARK_UNIX || a.scheme == HARK_UNIXGRAM;
	if (x->local != NULL && is_unix)
		return box_why(why, -EINVAL, "--local is for tcp and udp, not for %s", argv[0]);
	if (x->local != NULL && check_local(x->local, why) < 0)
		return -EINVAL;
	bool datagrams = a.scheme == HARK_UDP || a.scheme == HARK_UDP4 || a.scheme == HARK_UDP6 ||
	                 a.scheme == HARK_UNIXGRAM;
	x->type = datagrams ? SOCK_DGRAM : SOCK_STREAM;
	x->address = argv[0];
	return 0;
}

static const struct hark_option options[] = {
	{"connect-timeout", HARK_OPTION_DURATION, offsetof(struct relay, dial_ns), "T",
         "for look-up and connecting together", .standard = "10s", .min = 1},
	{"local", HARK_OPTION_TEXT, offsetof(struct relay, local), "ADDRESS",
         "where the dialed connection comes from: HOST, HOST:PORT, :PORT"},
	{NULL},
};

const struct hark_box_row relay_box = {
	.version = HARK_BOX_VERSION,
	.name = "relay",
	.summary = "joins each connection to another address, whatever it speaks",
	.usage = "ADDRESS",
	.operands = HARK_OPERANDS_ADDRESS,
	.options = options,
	.state_bytes = sizeof(struct relay),
	.stream = true,
	.datagram = true,
	.sessions = true,
	.conn_fds = 1, /* the target */
	.parse = relay_parse,
	.serve = relay_serve,
	.takes = relay_takes,
	.target = relay_target,
};
