/* relay_route.c — where a connection goes on to, by the name that its TLS hello asks for (SNI, RFC 6066) and by the
 * protocols that it offers (ALPN, RFC 7301). The hello is read and passed on as it was: nothing is decrypted.
 *
 *   relay www.example.org=A *.example.org=B *.example.org=C *.example.net/h2=D E
 *
 * The first name in order that fits is the route, with all addresses that have it; no name at all is what is left. A
 * name that one before it always takes for itself is a mistake, so that the order never surprises. Any model. */
#include <assert.h>
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "options.h"
#include "relay.h"
#include "table.h"

#define HELLO_USUAL 2048         /* bytes, the most common ones have room */
#define DROP_NS     (2 * HARK_S) /* for who is sent away, to hear why */
#define DROP_MAX    65536        /* bytes of what it still says */

/* ---- names ------------------------------------------------------------------------------------ */

/* Whether pattern is for that name: "*" for any, "*.example.org" for all below example.org; case means nothing. */
static bool fits(const char *pattern, size_t len, const char *name, size_t name_len)
{
	if (len == 1 && pattern[0] == '*')
		return true;
	if (len > 1 && pattern[0] == '*')
		return name_len > len - 1 && strncasecmp(name + name_len - (len - 1), pattern + 1, len - 1) == 0;
	return name_len == len && strncasecmp(name, pattern, len) == 0;
}

static bool offers(const struct relay_target *t, const uint8_t *protocols, size_t bytes)
{
	for (size_t at = 0; t->protocol != NULL && at < bytes; at += 1 + protocols[at])
		if (protocols[at] == t->protocol_bytes &&
		    memcmp(protocols + at + 1, t->protocol, t->protocol_bytes) == 0)
			return true;
	return t->protocol == NULL;
}

int relay_route_find(const struct relay *x, const char *name, const uint8_t *protocols, size_t protocols_bytes)
{
	int rest = -HARK_ENOHOST;
	size_t n = strlen(name);
	if (n > 1 && name[n - 1] == '.') /* the root's */
		n--;
	for (int i = 0; i < x->n; i++) {
		const struct relay_target *t = &x->targets[i];
		if (t->name == NULL)
			rest = t->route;
		else if (fits(t->name, t->name_bytes, name, n) && offers(t, protocols, protocols_bytes))
			return t->route;
	}
	return rest;
}

/* ---- its arguments ---------------------------------------------------------------------------- */

static bool is_name(const char *name, size_t n)
{
	if (n == 1 && name[0] == '*')
		return true;
	size_t begin = n > 2 && name[0] == '*' && name[1] == '.' ? 2 : 0;
	for (size_t i = begin; i < n; i++)
		if (!isalnum((unsigned char)name[i]) && strchr("-._", name[i]) == NULL)
			return false;
	return n > 0 && n <= CLIENT_NAME_MAX && name[begin] != '.' && name[n - 1] != '.';
}

static bool same_protocol(const struct relay_target *a, const struct relay_target *b)
{
	return a->protocol_bytes == b->protocol_bytes &&
	       (a->protocol == NULL || memcmp(a->protocol, b->protocol, a->protocol_bytes) == 0);
}

static bool same_route(const struct relay_target *a, const struct relay_target *b)
{
	if (a->name == NULL || b->name == NULL)
		return a->name == b->name;
	return a->name_bytes == b->name_bytes && strncasecmp(a->name, b->name, a->name_bytes) == 0 &&
	       same_protocol(a, b);
}

/* Whether a takes all that is for b. */
static bool hides(const struct relay_target *a, const struct relay_target *b)
{
	return a->name != NULL && b->name != NULL && (a->protocol == NULL || same_protocol(a, b)) &&
	       fits(a->name, a->name_bytes, b->name, b->name_bytes);
}

static int find_route(const struct relay *x, struct relay_target *t, const char *word, struct hark_why *why)
{
	for (t->route = 0; t->route < x->n; t->route++)
		if (same_route(&x->targets[t->route], t))
			return 0;
	for (int i = 0; i < x->n; i++) {
		const struct relay_target *a = &x->targets[i];
		if (hides(a, t))
			return box_why(why, -EINVAL, "%.100s: %.*s stands before it and takes all of that", word,
			               (int)(a->name_bytes < 100 ? a->name_bytes : 100), a->name);
	}
	return 0;
}

int relay_route_parse(const struct relay *x, struct relay_target *t, const char *word, struct hark_why *why)
{
	const char *address = box_operand_address(word);
	*t = (struct relay_target){.address = address};
	if (address != word) {
		size_t n = (size_t)(address - word) - 1;
		const char *slash = memchr(word, '/', n);
		t->name = word;
		t->name_bytes = slash != NULL ? (size_t)(slash - word) : n;
		if (slash != NULL) {
			t->protocol = slash + 1;
			t->protocol_bytes = n - t->name_bytes - 1;
		}
		if (!is_name(t->name, t->name_bytes))
			return box_why(why, -EINVAL,
			               "%.100s: no name of a host before the '=' (write www.example.org, "
			               "*.example.org, *, or one of them with /PROTOCOL)",
			               word);
		if (t->protocol != NULL && (t->protocol_bytes == 0 || t->protocol_bytes > 255))
			return box_why(why, -EINVAL, "%.100s: no protocol behind the '/'", word);
	}
	return find_route(x, t, word, why);
}

/* ---- a connection's beginning ------------------------------------------------------------------ */

/* A fatal unrecognized_name, RFC 6066 section 3, as the last thing that the client reads. */
static void send_away(struct hark_conn *c)
{
	static const uint8_t alert[] = {21, 3, 3, 0, 2, 2, 112};
	char dropped[512];
	ssize_t n = hark_write(c, alert, sizeof alert);
	if (n < 0 || hark_shutdown(c, HARK_OUT) < 0)
		return;
	hark_deadline(c, hark_after(DROP_NS));
	for (size_t all = 0; n > 0 && all < DROP_MAX; all += (size_t)n)
		n = hark_read(c, dropped, sizeof dropped);
}

static_assert(CLIENT_HELLO_MAX == 8 * HELLO_USUAL, "doubled, it ends there");

/* Memory grows with what has come: who says little holds little. */
static int make_room(struct relay_opening *o)
{
	size_t cap = o->cap == 0 ? HELLO_USUAL : 2 * o->cap;
	uint8_t *more = realloc(o->bytes, cap);
	if (more == NULL)
		return -ENOMEM;
	o->bytes = more;
	o->cap = cap;
	return 0;
}

static int read_hello(struct hark_conn *c, struct relay_opening *o)
{
	int r = hark_idle(c);
	if (r <= 0)
		return r < 0 ? r : -ENODATA;
	for (;;) {
		if (o->n == o->cap && make_room(o) < 0)
			return -ENOMEM;
		ssize_t n = hark_read(c, o->bytes + o->n, o->cap - o->n);
		if (n <= 0)
			return n < 0 ? (int)n : -EPROTO; /* it ended in the midst */
		o->n += (size_t)n;
		n = client_hello_parse(o->bytes, o->n, &o->hello);
		if (n != 0)
			return n < 0 ? (int)n : 0;
	}
}

/* What was agreed on in the handshake, where the server has ended the client's TLS. False: it has not. */
static bool read_agreed(const struct hark_conn *c, struct client_hello *h)
{
	struct hark_tls_info info;
	if (hark_tls_info(c, &info) < 0)
		return false;
	size_t n = strlen(info.alpn);
	(void)snprintf(h->name, sizeof h->name, "%s", info.name);
	h->protocols[0] = (uint8_t)n;
	memcpy(h->protocols + 1, info.alpn, n);
	h->protocols_bytes = n > 0 ? n + 1 : 0;
	return true;
}

static int refuse(struct hark_conn *c, int reason, const char *words)
{
	hark_refuse(c, reason);
	relay_tell(c, "%s", words);
	return -ENODATA;
}

int relay_opening_read(const struct relay *x, struct hark_conn *c, struct relay_opening *o)
{
	struct hark_conn_stats stats;
	int64_t latest = hark_after(x->hello_ns);
	*o = (struct relay_opening){.n = 0};
	bool agreed = read_agreed(c, &o->hello);
	hark_conn_stats(c, &stats);
	if (latest < stats.deadline_ns)
		hark_deadline(c, latest);
	int r = agreed ? 0 : read_hello(c, o);
	if (r == -EPROTO || r == -EMSGSIZE || (r == -ETIMEDOUT && hark_now() < stats.deadline_ns))
		r = refuse(c, HARK_REFUSED_HELLO,
		           r == -EPROTO     ? "what came is no hello of TLS"
		           : r == -EMSGSIZE ? "its hello is too long"
		                            : "its hello is late");
	if (r == 0)
		r = relay_route_find(x, o->hello.name, o->hello.protocols, o->hello.protocols_bytes);
	if (r == -HARK_ENOHOST) {
		if (!agreed)
			send_away(c);
		r = refuse(c, HARK_REFUSED_NAME, o->hello.name[0] != '\0' ? o->hello.name : "it asks for no name");
	}
	hark_deadline(c, stats.deadline_ns);
	return r;
}
