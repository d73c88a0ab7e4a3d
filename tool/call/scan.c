/* scan.c — hark call -z: which ports of a host are open.
 *
 * The host is looked up once. Then a few dozen fibers take the ports in turn; each port is told as soon as all before
 * it are, so that the list is in order however the answers come. */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>

#include "call.h"
#include "json.h"
#include "options.h"
#include "text.h"

#define PORTS_MAX     65535 /* each once */
#define AT_ONCE       64    /* connections; below every limit on descriptors */
#define ADDRESSES_MAX 8     /* of a host: those that are tried for each port */
#define TIMEOUT_NS    (2 * HARK_S)

enum state { WAITING, OPEN, REFUSED, SILENT, FAILED, STATES };

static const char *const names[STATES] = {"waiting", "open", "refused", "silent", "failed"};

struct port {
	uint16_t number;
	uint8_t state; /* enum state */
	uint8_t at;    /* of the host's addresses */
	int error;     /* a positive errno */
	int64_t took_ns;
	struct tls_facts *tls; /* of tls://: what the handshake came to; NULL: not known, or nobody asks */
	char *why;             /* of tls://: why it failed; NULL: error says it */
};

struct scan {
	struct call *call;
	const char *host;
	struct hark_endpoint at[ADDRESSES_MAX];
	int n_at;
	struct port *ports; /* n of them */
	size_t n, next, told;
	int count[STATES];
	bool listed[PORTS_MAX + 1];
};

/* ---- which ports ------------------------------------------------------------------------------- */

static int add_range(struct scan *s, unsigned from, unsigned to)
{
	for (unsigned i = from; i <= to; i++) {
		if (!s->listed[i])
			s->ports[s->n++].number = (uint16_t)i;
		s->listed[i] = true;
	}
	return 0;
}

static bool parse_number(const char *text, size_t len, unsigned *out)
{
	unsigned n = 0;

	if (len == 0 || len > 5)
		return false;
	for (size_t i = 0; i < len; i++) {
		if (text[i] < '0' || text[i] > '9')
			return false;
		n = n * 10 + (unsigned)(text[i] - '0');
	}
	*out = n;
	return n > 0 && n <= PORTS_MAX;
}

/* A service's name, which may have a '-' in it: http, imap4-ssl. */
static int add_service(struct scan *s, const char *name, size_t len)
{
	char address[HARK_ADDRESS_MAX];
	struct hark_endpoint e;
	const char *kind = s->call->args.udp ? "udp4" : "tcp4";

	if (s->call->args.numeric || len == 0 || len > HARK_PORT_MAX)
		return -EINVAL;
	(void)snprintf(address, sizeof address, "%s://127.0.0.1:%.*s", kind, (int)len, name);
	int err = hark_resolve(address, &e, 1, hark_after(TIMEOUT_NS));
	if (err < 0)
		return err;
	unsigned port = ntohs(((const struct sockaddr_in *)&e.addr)->sin_port);
	return port == 0 ? -EINVAL : add_range(s, port, port);
}

/* "20", "20-30", "http". */
static int add_ports(struct scan *s, const char *text, size_t len)
{
	const char *dash = memchr(text, '-', len);
	size_t left = dash != NULL ? (size_t)(dash - text) : len;
	unsigned from, to;

	if (!parse_number(text, left, &from))
		return add_service(s, text, len);
	to = from;
	if (dash != NULL && !parse_number(dash + 1, len - left - 1, &to))
		return -EINVAL;
	return to >= from ? add_range(s, from, to) : -EINVAL;
}

static int list_ports(struct scan *s, int n, char *const words[])
{
	for (int i = 0; i < n; i++) {
		for (const char *word = words[i];; word++) {
			size_t len = strcspn(word, ",");
			int err = add_ports(s, word, len);
			if (err < 0) {
				say(s->call->verb, "-z: \"%.*s\": %s", (int)len, word,
				    err == -EINVAL ? "not a port from 1 to 65535, nor a range of them"
				                   : hark_strerror(err));
				return STATUS_USAGE;
			}
			word += len;
			if (*word == '\0')
				break;
		}
	}
	return 0;
}

/* ---- what is there ----------------------------------------------------------------------------- */

static struct hark_endpoint endpoint(const struct scan *s, const struct port *p)
{
	struct hark_endpoint e = s->at[p->at];

	if (e.addr.ss_family == AF_INET)
		((struct sockaddr_in *)&e.addr)->sin_port = htons(p->number);
	else
		((struct sockaddr_in6 *)&e.addr)->sin6_port = htons(p->number);
	return e;
}

/* Nothing is said of a port by a datagram that is sent there: its answer, or the host's refusal, is waited for. */
static int ask_datagram(struct scan *s, struct hark_conn *c)
{
	char answer[16];

	hark_deadline(c, hark_after(s->call->args.wait));
	ssize_t r = hark_write(c, "", 0);
	if (r >= 0)
		r = hark_read(c, answer, sizeof answer);
	return r == -EMSGSIZE ? 0 : r < 0 ? (int)r : 0;
}

/* TLS is a port's, too: it is open where the handshake succeeds. */
static int ask_tls(const struct call *c, struct port *p, struct hark_conn *conn, int64_t deadline)
{
	struct hark_why why;
	int err = call_starttls(c, conn, deadline, &why);

	free(p->why);
	free(p->tls);
	p->why = err < 0 ? strdup(why.text) : NULL;
	p->tls = c->args.verbose || c->args.json ? tls_facts(conn) : NULL;
	return err;
}

static int try_address(struct scan *s, struct port *p)
{
	const struct call *c = s->call;
	struct hark_endpoint e = endpoint(s, p);
	char address[HARK_ADDRESS_MAX];
	struct hark_conn *conn;
	const struct hark_dial_opts opts = {
		.deadline = hark_after(c->args.connect_timeout > 0 ? c->args.connect_timeout : TIMEOUT_NS),
		.local = c->local[0] != '\0' ? c->local : NULL,
		.reserved_port = c->args.reserved_port,
	};

	if (hark_endpoint_format(&e, address, sizeof address) < 0)
		return -EINVAL;
	int err = hark_dial(address, &opts, &conn);
	if (err < 0)
		return err;
	if (hark_type(conn) == SOCK_DGRAM)
		err = ask_datagram(s, conn);
	else if (c->tls)
		err = ask_tls(c, p, conn, opts.deadline);
	hark_abort(conn);
	return err;
}

static enum state state_of(int err)
{
	return err == 0 ? OPEN : err == ECONNREFUSED ? REFUSED : err == ETIMEDOUT ? SILENT : FAILED;
}

/* The first address where it is open; else the first one. */
static void try_port(struct scan *s, struct port *p)
{
	int64_t began = hark_now();
	int first = 0;

	for (int i = 0; i < s->n_at; i++) {
		p->at = (uint8_t)i;
		int err = -try_address(s, p);
		first = i == 0 ? err : first;
		if (err == 0) {
			first = 0;
			break;
		}
	}
	if (first != 0)
		p->at = 0;
	p->error = first;
	p->took_ns = hark_now() - began;
	p->state = state_of(first);
}

/* ---- telling it -------------------------------------------------------------------------------- */

static void tell_port(const struct scan *s, const struct port *p)
{
	const struct call_args *args = &s->call->args;
	struct hark_endpoint e = endpoint(s, p);
	const char *error = p->error == 0 ? NULL : p->why != NULL ? p->why : hark_strerror(p->error);
	char peer[HARK_ADDRESS_MAX] = "", brief[384] = "";
	struct text t = {.grows = true};
	struct json j = {.to = &t};

	(void)hark_endpoint_format(&e, peer, sizeof peer);
	if (s->call->tls)
		tls_rename(peer);
	if (args->json) {
		json_open(&j, NULL, '{');
		json_put_string(&j, "peer", peer);
		json_put_string(&j, "state", names[p->state]);
		json_put_real(&j, "seconds", (double)p->took_ns / 1e9, 6);
		json_put_string(&j, "error", error);
		if (p->tls != NULL)
			tls_put(&j, p->tls);
		json_close(&j, '}');
		(void)json_print(&j, stdout);
	} else if (p->state == OPEN || args->verbose || p->state == FAILED) {
		if (p->state == OPEN && p->tls != NULL)
			tls_brief(p->tls, brief, sizeof brief);
		text_add(&t, "%s: %s%s%s", peer, p->state == OPEN ? names[OPEN] : error, brief[0] != '\0' ? ", " : "",
		         brief);
		text_scrub(&t);
		puts(t.failed ? peer : t.buf);
	}
	text_free(&t);
}

static void tell(struct scan *s)
{
	while (s->told < s->n && s->ports[s->told].state != WAITING) {
		struct port *p = &s->ports[s->told++];
		tell_port(s, p);
		s->count[p->state]++;
		free(p->tls);
		free(p->why);
		p->tls = NULL;
		p->why = NULL;
	}
	(void)fflush(stdout);
}

static void summary(const struct scan *s, int64_t took_ns)
{
	const int *n = s->count;
	char buf[TEXT_LINE_MAX];
	struct text t = {.buf = buf, .cap = sizeof buf};

	if (s->call->args.json) {
		struct json j = {.to = &t};
		json_open(&j, NULL, '{');
		json_put_string(&j, "event", "summary");
		json_put_int(&j, "ports", (int64_t)s->n);
		json_put_int(&j, "open", n[OPEN]);
		json_put_int(&j, "refused", n[REFUSED]);
		json_put_int(&j, "silent", n[SILENT]);
		json_put_int(&j, "failed", n[FAILED]);
		json_put_real(&j, "seconds", (double)took_ns / 1e9, 6);
		json_close(&j, '}');
		puts(buf);
		return;
	}
	text_add(&t, "%s: %d of %zu %s open, %d refused, %d silent", s->host, n[OPEN], s->n,
	         s->n == 1 ? "port" : "ports", n[REFUSED], n[SILENT]);
	if (n[FAILED] > 0)
		text_add(&t, ", %d failed", n[FAILED]);
	text_add(&t, ", in ");
	text_add_duration(&t, took_ns);
	say(s->call->verb, "%s", buf);
}

static void scan_fiber(void *arg)
{
	struct scan *s = arg;

	while (s->next < s->n) {
		try_port(s, &s->ports[s->next++]);
		tell(s);
	}
}

static int scan_all(struct scan *s)
{
	struct hark_scope scope;
	int64_t began = hark_now();
	int err = 0;

	hark_scope_open(&scope);
	for (size_t i = 0; i < s->n && i < AT_ONCE && err == 0; i++)
		err = hark_go(&scope, "scan", scan_fiber, s);
	(void)hark_join(&scope, HARK_FOREVER);
	hark_scope_close(&scope);
	if (s->told < s->n) {
		report_error(s->call, "fiber: %s", hark_strerror(err));
		return STATUS_SYSTEM;
	}
	summary(s, hark_now() - began);
	return s->count[OPEN] > 0 ? STATUS_DONE : STATUS_FAILED;
}

/* ---- the whole --------------------------------------------------------------------------------- */

/* Of the first port's address, already parsed and checked. */
static int look_up(struct scan *s)
{
	struct call *c = s->call;
	int64_t began = hark_now();
	int n = hark_resolve(c->address, s->at, ADDRESSES_MAX,
	                     hark_after(c->args.connect_timeout > 0 ? c->args.connect_timeout : 30 * HARK_S));

	if (n < 0) {
		report_error(c, "%s: %s", s->host, hark_strerror(n));
		return STATUS_FAILED;
	}
	report_lookup(c, hark_now() - began);
	s->n_at = n;
	return 0;
}

int call_scan(struct call *c, const char *host, int n, char *const words[])
{
	struct scan *s = calloc(1, sizeof *s);
	struct port *ports = calloc(PORTS_MAX, sizeof *ports);
	int status = STATUS_SYSTEM;

	if (s != NULL && ports != NULL) {
		*s = (struct scan){.call = c, .host = host, .ports = ports};
		status = list_ports(s, n, words);
		if (status == 0)
			status = look_up(s);
		if (status == 0)
			status = scan_all(s);
	} else {
		report_error(c, "%s", hark_strerror(-ENOMEM));
	}
	free(ports);
	free(s);
	return status;
}
