/* relay.c — joins each connection to another address: xinetd's redirect, and what socat is used for most.
 *
 *   relay [OPTION...] [NAME=]ADDRESS...
 *
 * An ADDRESS is dialed for each connection, its name looked up anew, within T (10 s), then the next one: relay_dial.c;
 * --local says from where. Where addresses have names, the client's TLS hello says which: relay_route.c. TCP and unix
 * streams are joined to either, datagrams to datagrams; a stream and datagrams cannot be joined.
 *
 * The two are carry.h's: the client's deadline covers both sides, and so does its idle time-out. Datagrams: a peer's
 * first one begins a session, hark_udp_connect(), with a socket of its own on either side, that ends when nothing has
 * moved for the idle time-out, or for a minute. A unix peer's datagrams have no conversation: each is a session by
 * itself, or is passed on and done with where the peer has no name to answer to. A datagram is not accepted by anybody:
 * a target has failed when ICMP tells in a session that nobody listens, and the next session goes elsewhere.
 *
 * The outcome of a failure is its -errno. Any model: where there is no loop the first fiber makes one. */
#include "relay.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "carry.h"
#include "options.h"
#include "table.h"

#define DATAGRAM_IDLE_NS (60 * HARK_S)

/* ---- why one has failed, for the log --------------------------------------------------------- */

/* Of the thread's last one. */
static _Thread_local struct {
	const struct hark_conn *of;
	struct hark_why why;
} failure;

void relay_tell(const struct hark_conn *client, const char *format, ...)
{
	va_list args;
	va_start(args, format);
	(void)vsnprintf(failure.why.text, sizeof failure.why.text, format, args);
	va_end(args);
	failure.of = client;
}

/* Once: the next one's struct may come to lie at the same place. */
static const char *relay_failure(const void *state, const struct hark_conn *c)
{
	(void)state;
	bool is_it = failure.of == c;
	failure.of = NULL;
	return is_it ? failure.why.text : NULL;
}

/* ---- a connection ---------------------------------------------------------------------------- */

/* Both sides have the client's limits. */
static void set_limits(const struct relay *x, struct hark_conn *client, struct hark_conn *target)
{
	struct hark_conn_stats stats;
	hark_conn_stats(client, &stats);
	if (stats.idle_ns == 0 && x->type == SOCK_DGRAM)
		stats.idle_ns = DATAGRAM_IDLE_NS;
	hark_idle_timeout(client, stats.idle_ns);
	hark_idle_timeout(target, stats.idle_ns);
	hark_deadline(target, stats.deadline_ns);
}

/* Dials, and passes on what was read to know where to. */
static int begin_named(const struct relay *x, struct hark_conn *c, struct hark_conn **target, struct hark_why *why)
{
	struct relay_opening o;
	int r = relay_opening_read(x, c, &o);
	if (r >= 0)
		r = relay_dial(x, r, c, &o.hello, target, why);
	if (r == 0 && o.n > 0 && ((r = (int)hark_write(*target, o.bytes, o.n)) < 0 || (r = hark_flush(*target)) < 0))
		hark_abort(*target);
	free(o.bytes);
	return r;
}

static int begin(const struct relay *x, struct hark_conn *c, struct hark_conn **target)
{
	struct hark_why why;
	why.text[0] = '\0';
	int r = x->named ? begin_named(x, c, target, &why) : relay_dial(x, 0, c, NULL, target, &why);
	if (r < 0 && why.text[0] != '\0')
		relay_tell(c, "%s", why.text);
	return r;
}

/* Where it was the target's TLS. When the client has failed, what the target waited for was cancelled. */
static void tell_cut(const struct hark_conn *c, const struct hark_conn *target, int error)
{
	const char *words = error == -ECONNRESET || error == -EPROTO ? hark_tls_failure(target) : NULL;
	if (words != NULL && strcmp(words, hark_strerror(ECANCELED)) != 0)
		relay_tell(c, "target: %s", words);
}

static void relay_serve(struct hark_conn *c, void *arg)
{
	const struct relay *x = arg;
	struct hark_conn *target;
	struct hark_endpoint peer;
	int r = hark_type(c) == x->type ? 0 : -EPROTOTYPE;
	(void)relay_failure(x, c);
	if (r == 0 && x->type == SOCK_DGRAM)
		r = hark_udp_connect(c);
	/* No conversation, or, where a reload goes from one address to another, no room for a socket of its own. */
	bool single = r == -EOPNOTSUPP || r == -EADDRINUSE;
	if (r == -EALREADY) /* the peer's session has got it */
		return;
	if (r == 0 || single)
		r = begin(x, c, &target);
	if (r == -ENODATA && x->named) /* it was said, or there is nothing to say */
		return;
	if (r < 0) {
		hark_outcome(c, 0, r);
		return;
	}
	set_limits(x, c, target);
	r = single && hark_peer_endpoint(c, &peer) < 0 ? carry_once(c, target) : carry_both(c, target, single);
	if (r == -ECONNREFUSED && x->type == SOCK_DGRAM)
		relay_failed(x, c);
	if (r == 0) {
		r = hark_close(target);
	} else {
		tell_cut(c, target, r);
		hark_abort(target);
	}
	if (r < 0)
		hark_outcome(c, 0, r);
}

static const char *target_of(const void *state, const struct hark_conn *c)
{
	const struct relay *x = state;
	const struct relay_target *t = relay_tried(c);
	return t != NULL ? t->address : x->n == 1 && !x->named ? x->targets[0].address : NULL;
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

static bool is_datagram(enum hark_scheme scheme)
{
	return scheme == HARK_UDP || scheme == HARK_UDP4 || scheme == HARK_UDP6 || scheme == HARK_UNIXGRAM;
}

static int take_target(struct relay *x, const char *word, struct hark_why *why)
{
	struct hark_address a;
	struct relay_target *t = &x->targets[x->n];
	int r = relay_route_parse(x, t, word, why);
	if (r == 0)
		r = hark_address_parse(t->address, &a, why);
	if (r < 0)
		return r;
	if (a.scheme == HARK_FD)
		return box_why(why, -EINVAL, "%s: connections cannot share one descriptor", word);
	if (x->local != NULL && (a.scheme == HARK_UNIX || a.scheme == HARK_UNIXGRAM))
		return box_why(why, -EINVAL, "--local is for tcp and udp, not for %s", word);
	int type = is_datagram(a.scheme) ? SOCK_DGRAM : SOCK_STREAM;
	if (x->n > 0 && x->type != type)
		return box_why(why, -EINVAL, "%s and %s: a connection goes on to streams or to datagrams",
		               x->targets[0].address, word);
	if (t->name != NULL && type == SOCK_DGRAM)
		return box_why(why, -EINVAL, "%s: the name that is asked for is told by TLS, on streams", word);
	t->tls = a.scheme == HARK_TLS;
	x->type = type;
	x->named = x->named || t->name != NULL;
	x->n++;
	return 0;
}

static int relay_parse(void *state, int argc, char *const argv[], struct hark_why *why)
{
	struct relay *x = state;
	if (argc == 0)
		return box_why(why, -EINVAL, "no address to relay to");
	if (argc > RELAY_TARGETS_MAX)
		return box_why(why, -EINVAL, "more than %d addresses to relay to", RELAY_TARGETS_MAX);
	x->targets = calloc((size_t)argc, sizeof *x->targets);
	if (x->targets == NULL)
		return box_why(why, -ENOMEM, "out of memory");
	int r = 0;
	for (int i = 0; i < argc && r == 0; i++)
		r = take_target(x, argv[i], why);
	if (r == 0 && x->proxy_version > 0 && x->type == SOCK_DGRAM)
		return box_why(why, -EINVAL, "--send-proxy is for streams, not for %s", argv[0]);
	if (r == 0)
		r = relay_tls_check(x, why);
	return r < 0 || x->local == NULL ? r : check_local(x->local, why);
}

static int relay_prepare(void *state, struct hark_why *why)
{
	return relay_tls_open(state, why);
}

static int relay_open(void *state, struct hark_why *why)
{
	return relay_rests_open(state) == 0 ? 0 : box_why(why, -ENOMEM, "out of memory");
}

static void relay_close(void *state)
{
	struct relay *x = state;
	relay_rests_close(x);
	hark_tls_free(x->tls);
	free(x->targets);
}

static const char *const proxy_versions[] = {"no", "v1", "v2", NULL};

static const struct hark_option options[] = {
	{"connect-timeout", HARK_OPTION_DURATION, offsetof(struct relay, dial_ns), "T",
         "for look-up and connecting together, of each address", .standard = "10s", .min = 1},
	{"retry-after", HARK_OPTION_DURATION, offsetof(struct relay, rest_ns), "T",
         "an address that failed is left alone for so long, where there is another", .standard = "10s"},
	{"hello-timeout", HARK_OPTION_DURATION, offsetof(struct relay, hello_ns), "T",
         "for a client's TLS hello, where addresses have names", .standard = "10s", .min = 1},
	{"local", HARK_OPTION_TEXT, offsetof(struct relay, local), "ADDRESS",
         "where the dialed connection comes from: HOST, HOST:PORT, :PORT"},
	{"send-proxy", HARK_OPTION_CHOICE, offsetof(struct relay, proxy_version), "no|v1|v2",
         "begin with a header that tells who the client is, of the PROXY protocol", .standard = "no",
         .choices = proxy_versions},
	{"ca", HARK_OPTION_PATH, offsetof(struct relay, ca), "FILE",
         "who vouches for the servers at tls:// addresses, PEM; else the system's store"},
	{"insecure", HARK_OPTION_FLAG, offsetof(struct relay, insecure), NULL, "take any certificate of theirs"},
	{"server-name", HARK_OPTION_TEXT, offsetof(struct relay, server_name), "NAME",
         "what they are asked for and must have a certificate for; else the address's host"},
	{"target-cert", HARK_OPTION_PATH, offsetof(struct relay, target_cert), "FILE",
         "the certificate that they are shown, PEM, with its chain"},
	{"target-key", HARK_OPTION_PATH, offsetof(struct relay, target_key), "FILE",
         "its key, PEM; else it is in the certificate's file"},
	{"target-alpn", HARK_OPTION_TEXT, offsetof(struct relay, target_alpn), "NAMES",
         "application protocols that they are offered, the best first: \"h2 http/1.1\""},
	{NULL},
};

const struct hark_box_row relay_box = {
	.version = HARK_BOX_VERSION,
	.name = "relay",
	.summary = "joins each connection to another address, whatever it speaks",
	.usage = "[NAME=]ADDRESS...",
	.operands = HARK_OPERANDS_ADDRESS,
	.options = options,
	.state_bytes = sizeof(struct relay),
	.stream = true,
	.datagram = true,
	.sessions = true,
	.conn_fds = 1, /* the target */
	.parse = relay_parse,
	.prepare = relay_prepare,
	.open = relay_open,
	.serve = relay_serve,
	.close = relay_close,
	.renew = relay_prepare,
	.takes = relay_takes,
	.target = target_of,
	.failure = relay_failure,
};
