/* target.c — what the operands of hark call mean: an address, HOST PORT, or where to listen. No state. */
#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>

#include "call.h"
#include "options.h"

static bool is_path(const char *word)
{
	return strncmp(word, "unix:", 5) == 0 || strncmp(word, "unixgram:", 9) == 0 || strncmp(word, "fd:", 3) == 0;
}

static bool is_full(const char *word)
{
	return strstr(word, "://") != NULL || is_path(word);
}

static bool is_digits(const char *word)
{
	return strspn(word, "0123456789") == strlen(word);
}

/* "tcp://HOST:PORT", an IPv6 address in brackets. False: too long. */
static bool join(char out[2 * HARK_ADDRESS_MAX], const char *host, const char *port)
{
	bool bare = host[0] != '[' && strchr(host, ':') != NULL;
	int n = snprintf(out, 2 * HARK_ADDRESS_MAX, bare ? "tcp://[%s]:%s" : "tcp://%s:%s", host, port);

	return n > 0 && n < 2 * HARK_ADDRESS_MAX;
}

/* Where the operands alone do not say it: hark call -l 7000, hark call -l -p 7000. */
static const char *listening_port(const struct call *c, int n, char *const operands[])
{
	if (n == 0 && c->args.source_port != NULL)
		return c->args.source_port;
	return n == 1 && strchr(operands[0], ':') == NULL ? operands[0] : NULL;
}

static int spell(const struct call *c, int n, char *const operands[], char out[2 * HARK_ADDRESS_MAX])
{
	const char *port = c->args.listen ? listening_port(c, n, operands) : NULL;
	int len;

	if (c->args.unix_socket && n == 1) {
		len = snprintf(out, 2 * HARK_ADDRESS_MAX, "%s:%s", c->args.udp ? "unixgram" : "unix", operands[0]);
		return len < 2 * HARK_ADDRESS_MAX ? 0 : -1;
	}
	if (port != NULL)
		return join(out, "*", port) ? 0 : -1;
	if (n == 1) {
		len = snprintf(out, 2 * HARK_ADDRESS_MAX, "%s", operands[0]);
		return len < 2 * HARK_ADDRESS_MAX ? 0 : -1;
	}
	return join(out, operands[0], operands[1]) ? 0 : -1;
}

/* -u, -4 and -6 choose what the operands leave open. Returns what they contradict, or NULL. */
static const char *choose_scheme(struct call *c, struct hark_address *a, bool explicit)
{
	c->tls = a->scheme == HARK_TLS;
	if (c->tls)
		a->scheme = HARK_TCP;
	bool ip = a->scheme >= HARK_TCP && a->scheme <= HARK_UDP6;

	if (!ip)
		return c->args.ipv4 || c->args.ipv6 || c->local[0] == ':' ? "-4, -6 and -p go with a host and a port"
		                                                          : NULL;
	if (c->args.udp && a->scheme <= HARK_TCP6) {
		if (explicit)
			return "-u contradicts the address";
		a->scheme = HARK_UDP;
	}
	if (!c->args.ipv4 && !c->args.ipv6)
		return NULL;
	enum hark_scheme any = a->scheme <= HARK_TCP6 ? HARK_TCP : HARK_UDP;
	enum hark_scheme wanted = c->args.ipv4 ? any + 1 : any + 2; /* hark.h: each family follows both */
	if (a->scheme != any && a->scheme != wanted)
		return "-4 or -6 contradicts the address";
	a->scheme = wanted;
	return NULL;
}

static bool is_numeric(const struct hark_address *a)
{
	char host[HARK_HOST_MAX + 1];
	unsigned char any[sizeof(struct in6_addr)];

	(void)snprintf(host, sizeof host, "%.*s", (int)strcspn(a->host, "%"), a->host);
	return is_digits(a->port) &&
	       (strcmp(host, "*") == 0 || inet_pton(AF_INET, host, any) == 1 || inet_pton(AF_INET6, host, any) == 1);
}

/* Whether --local names a port of its own: "host:port", "[v6]:port". */
static bool has_port(const char *local)
{
	const char *bracket = strrchr(local, ']'), *colon = strchr(bracket != NULL ? bracket : local, ':');

	return colon != NULL && strchr(colon + 1, ':') == NULL;
}

/* --local and -p as one. */
static int choose_local(struct call *c)
{
	const char *host = c->args.local, *port = c->args.listen ? NULL : c->args.source_port;
	bool bare = host != NULL && host[0] != '[' && strchr(host, ':') != NULL;
	int n;

	if (port == NULL)
		n = snprintf(c->local, sizeof c->local, "%s", host != NULL ? host : "");
	else if (host != NULL && has_port(host))
		return options_usage(c->verb, "--local names a port, and -p another one");
	else
		n = snprintf(c->local, sizeof c->local, bare ? "[%s]:%s" : "%s:%s", host != NULL ? host : "", port);
	if (n < (int)sizeof c->local)
		return 0;
	return options_usage(c->verb, "--local is too long for an address");
}

static int count_wrong(const struct call *c, int n, char *const operands[])
{
	int most = c->args.unix_socket ? 1 : 2;

	if (n == 0 && c->args.listen)
		return c->args.source_port != NULL ? 0 : options_usage(c->verb, "no address to listen on");
	if (n == 0)
		return options_usage(c->verb, "no address to call");
	if (n > most || (n == 2 && (is_full(operands[0]) || is_full(operands[1]))))
		return options_usage(c->verb, "one address at a time, or HOST PORT");
	if (n == 1 && !c->args.listen && !c->args.unix_socket && operands[0][0] != '\0' && is_digits(operands[0]))
		return options_usage(c->verb, "a port alone goes with -l");
	if (c->args.listen && c->args.source_port != NULL && (n == 2 || c->args.unix_socket))
		return options_usage(c->verb, "-p names a port to listen on, and so does the address");
	return 0;
}

int call_target(struct call *c, int n, char *const operands[])
{
	char text[2 * HARK_ADDRESS_MAX];
	struct hark_why why = {""};
	char *pair[2];
	int status = count_wrong(c, n, operands);

	if (status != 0 || (status = choose_local(c)) != 0)
		return status;
	if (c->args.listen && n == 1 && c->args.source_port != NULL) { /* nc -l -p PORT HOST */
		pair[0] = operands[0];
		pair[1] = (char *)c->args.source_port;
		operands = pair;
		n = 2;
	}
	if (spell(c, n, operands, text) < 0)
		return options_usage(c->verb, "that is too long for an address");
	if (hark_address_parse(text, &c->parsed, &why) < 0) {
		say(c->verb, "%s", why.text);
		return STATUS_USAGE;
	}
	const char *wrong = choose_scheme(c, &c->parsed, n == 1 && is_full(operands[0]));
	if (wrong != NULL)
		return options_usage(c->verb, wrong);
	if (c->args.numeric && c->parsed.scheme <= HARK_UDP6 && !is_numeric(&c->parsed)) {
		say(c->verb, "%s: not a number, and -n asks nobody", text);
		return STATUS_USAGE;
	}
	return hark_address_format(&c->parsed, c->address, sizeof c->address) < 0
	               ? options_usage(c->verb, "that is too long for an address")
	               : 0;
}
