/* address.c — takes the text of an address apart, and puts it together again. The grammar is in hark.h.
 *
 * Strict, so that what is wrong is told here, by its part, and not by a look-up that fails later with other words;
 * and normalising (IPv6 by RFC 5952, v4-mapped to IPv4, no leading zeros), so that one address has one text. Hosts
 * that inet_aton(3) would read as numbers ("127.1", "0x7f000001") are refused: getaddrinfo(3) would not ask for
 * them as names. No look-up, no allocation, no system call; any thread. */
#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <net/if.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "base/why.h"
#include "hark.h"

#define LABEL_MAX 63 /* bytes, RFC 1035 section 2.3.4 */

static const struct scheme {
	const char *name;
	enum hark_scheme scheme;
	bool slashes; /* "://" follows, else ":" */
	int family;   /* that the host must be of; 0: any */
} schemes[] = {
	{"tcp", HARK_TCP, true, AF_UNSPEC},  {"tcp4", HARK_TCP4, true, AF_INET},
	{"tcp6", HARK_TCP6, true, AF_INET6}, {"udp", HARK_UDP, true, AF_UNSPEC},
	{"udp4", HARK_UDP4, true, AF_INET},  {"udp6", HARK_UDP6, true, AF_INET6},
	{"unix", HARK_UNIX, false, AF_UNIX}, {"unixgram", HARK_UNIXGRAM, false, AF_UNIX},
	{"fd", HARK_FD, false, AF_UNSPEC},   {"tls", HARK_TLS, true, AF_UNSPEC},
};

#define SCHEMES (sizeof schemes / sizeof *schemes)

struct input {
	const char *text;
	const struct scheme *scheme;
	struct hark_why *why;
};

/* Tells what is wrong with which part. Always -EINVAL. */
__attribute__((format(printf, 2, 3))) static int bad(const struct input *in, const char *format, ...)
{
	char what[160];
	va_list args;
	va_start(args, format);
	(void)vsnprintf(what, sizeof what, format, args);
	va_end(args);
	hark__why(in->why, "%s in \"%.72s%s\"", what, in->text, strlen(in->text) > 72 ? "..." : "");
	return -EINVAL;
}

static int parse_scheme(struct input *in, const char **rest)
{
	const char *text = in->text, *slashes = strstr(text, "://");
	for (size_t i = 0; i < SCHEMES; i++) {
		size_t n = strlen(schemes[i].name);
		if (strncasecmp(text, schemes[i].name, n) != 0)
			continue;
		const char *sep = schemes[i].slashes ? "://" : ":";
		if (strncmp(text + n, sep, strlen(sep)) != 0)
			continue;
		in->scheme = &schemes[i];
		*rest = text + n + strlen(sep);
		return 0;
	}
	if (slashes != NULL)
		return bad(in, "scheme \"%.*s\" is unknown", (int)(slashes - text > 32 ? 32 : slashes - text), text);
	in->scheme = &schemes[0];
	*rest = text;
	return 0;
}

static int parse_ipv6(const struct input *in, struct hark_address *a)
{
	char plain[INET6_ADDRSTRLEN], *scope = strchr(a->host, '%');
	struct in6_addr six;
	size_t n = scope != NULL ? (size_t)(scope - a->host) : strlen(a->host);
	if (n >= sizeof plain)
		return bad(in, "host \"[%.48s...]\" is not an IPv6 address", a->host);
	memcpy(plain, a->host, n);
	plain[n] = '\0';
	if (inet_pton(AF_INET6, plain, &six) != 1)
		return bad(in, "host \"[%s]\" is not an IPv6 address", a->host);
	if (scope != NULL) {
		size_t len = strlen(++scope);
		if (len == 0 || len >= IF_NAMESIZE)
			return bad(in, "scope \"%.32s\" must be 1 to %d bytes", scope, IF_NAMESIZE - 1);
		for (size_t i = 0; i < len; i++)
			if (scope[i] <= 0x20 || scope[i] >= 0x7f || strchr("%[]/", scope[i]) != NULL)
				return bad(in, "scope \"%s\" is no interface's name", scope);
	}
	if (scope == NULL && IN6_IS_ADDR_LINKLOCAL(&six))
		return bad(in, "host \"[%s]\" is link-local and needs a %%scope", a->host);
	if (IN6_IS_ADDR_V4MAPPED(&six)) {
		if (in->scheme->family == AF_INET6)
			return bad(in, "host \"[%s]\" is not what %s asks for: it is an IPv4 address", a->host,
			           in->scheme->name);
		memset(a->host, 0, sizeof a->host); /* what a longer spelling left behind, so that equal addresses are
		                                       equal bytes */
		(void)inet_ntop(AF_INET, &six.s6_addr[12], a->host, sizeof a->host);
		return 0;
	}
	if (in->scheme->family == AF_INET)
		return bad(in, "host \"[%s]\" is not what %s asks for: it is an IPv6 address", a->host,
		           in->scheme->name);
	char kept[IF_NAMESIZE] = "";
	if (scope != NULL)
		(void)snprintf(kept, sizeof kept, "%s", scope);
	(void)inet_ntop(AF_INET6, &six, plain, sizeof plain);
	memset(a->host, 0, sizeof a->host);
	(void)snprintf(a->host, sizeof a->host, "%s%s%s", plain, scope != NULL ? "%" : "", kept);
	return 0;
}

/* A name: letters, digits, '-', '_', and bytes of UTF-8 in labels between dots; the last dot may be the root's. */
static int parse_name(const struct input *in, const char *name)
{
	size_t label = 0;
	bool ascii = true;
	for (const char *p = name;; p++) {
		unsigned char b = (unsigned char)*p;
		if (b == '.' || b == '\0') {
			if (label == 0 && !(b == '\0' && p > name))
				return bad(in, "host \"%.64s\" has an empty label", name);
			if (label > LABEL_MAX && ascii)
				return bad(in, "host \"%.32s...\" has a label of more than %d bytes", name, LABEL_MAX);
			if (b == '\0')
				return 0;
			label = 0;
			ascii = true;
			continue;
		}
		if (b < 0x80 && !isalnum(b) && b != '-' && b != '_')
			return bad(in, "host \"%.64s\" has a \"%c\", which no name has", name, b);
		ascii = ascii && b < 0x80;
		label++;
	}
}

static int parse_host(const struct input *in, struct hark_address *a, const char *host, size_t n, bool brackets)
{
	struct in_addr four;
	if (n == 0)
		return bad(in, "host is missing (* is every address)");
	if (n > HARK_HOST_MAX)
		return bad(in, "host is longer than %d bytes", HARK_HOST_MAX);
	memcpy(a->host, host, n);
	a->host[n] = '\0';
	if (brackets)
		return parse_ipv6(in, a);
	if (strcmp(a->host, "*") == 0)
		return 0;
	if (inet_pton(AF_INET, a->host, &four) == 1) {
		if (in->scheme->family == AF_INET6)
			return bad(in, "host \"%s\" is not what %s asks for: it is an IPv4 address", a->host,
			           in->scheme->name);
		return 0;
	}
	if (inet_aton(a->host, &four) != 0 || strspn(a->host, "0123456789.") == n)
		return bad(in, "host \"%.64s\" is not an IPv4 address", a->host);
	return parse_name(in, a->host);
}

static int parse_port(const struct input *in, struct hark_address *a, const char *port)
{
	size_t n = strlen(port);
	if (n == 0)
		return bad(in, "port is missing");
	if (strspn(port, "0123456789") == n) {
		const char *digits = port + strspn(port, "0");
		unsigned long value = 0;
		for (const char *p = digits; *p != '\0' && value <= 65535; p++)
			value = value * 10 + (unsigned long)(*p - '0');
		if (value > 65535)
			return bad(in, "port %.20s%s is above 65535", digits, strlen(digits) > 20 ? "..." : "");
		(void)snprintf(a->port, sizeof a->port, "%lu", value);
		return 0;
	}
	if (n > HARK_PORT_MAX)
		return bad(in, "port \"%.24s...\" is longer than %d bytes", port, HARK_PORT_MAX);
	/* RFC 6335 section 5.1 allows letters, digits and '-'; services(5) has older names: "whois++", "at_rtmp". */
	bool letter = false;
	for (const char *p = port; *p != '\0'; p++) {
		unsigned char b = (unsigned char)*p;
		letter = letter || (b < 0x80 && isalpha(b));
		if (b >= 0x80 || (!isalnum(b) && strchr("-_+.", b) == NULL))
			return bad(in, "port \"%s\" is neither a number nor a service's name", port);
	}
	if (!letter)
		return bad(in, "port \"%s\" is neither a number nor a service's name", port);
	memcpy(a->port, port, n + 1);
	return 0;
}

static int parse_host_port(const struct input *in, struct hark_address *a, const char *rest)
{
	const char *host = rest, *end, *colon;
	bool brackets = rest[0] == '[';
	if (brackets) {
		host++;
		end = strchr(host, ']');
		if (end == NULL)
			return bad(in, "host has no closing \"]\"");
		colon = end + 1;
		if (*colon != ':' && *colon != '\0')
			return bad(in, "\"%.32s\" follows the host where \":port\" belongs", colon);
	} else {
		end = colon = rest + strcspn(rest, ":");
		if (*colon == ':' && strchr(colon + 1, ':') != NULL)
			return bad(in, "host has a \":\" (an IPv6 address goes in brackets, as in [::1]:80)");
	}
	int rc = parse_host(in, a, host, (size_t)(end - host), brackets);
	if (rc < 0)
		return rc;
	return parse_port(in, a, *colon == ':' ? colon + 1 : "");
}

static int parse_path(const struct input *in, struct hark_address *a, const char *path)
{
	while (path[0] == '/' && path[1] == '/') /* "unix:///run/x", as a URL has it, is the same file */
		path++;
	size_t n = strlen(path);
	if (n == 0 || strcmp(path, "@") == 0)
		return bad(in, "path is missing");
	if (n > HARK_PATH_MAX)
		return bad(in, "path is %zu bytes long, above the limit of %d", n, HARK_PATH_MAX);
	for (size_t i = 0; i < n; i++)
		if ((unsigned char)path[i] < 0x20 || path[i] == 0x7f)
			return bad(in, "path has a control character");
	memcpy(a->path, path, n + 1);
	return 0;
}

static int parse_fd(const struct input *in, struct hark_address *a, const char *rest)
{
	size_t n = strlen(rest);
	if (n == 0)
		return bad(in, "descriptor is missing");
	if (strspn(rest, "0123456789") == n) {
		int64_t value = 0;
		for (const char *p = rest; *p != '\0' && value <= INT32_MAX; p++)
			value = value * 10 + (*p - '0');
		if (value > INT32_MAX)
			return bad(in, "descriptor %.20s is above %d", rest, INT32_MAX);
		a->fd = (int)value;
		return 0;
	}
	if (n > HARK_PATH_MAX)
		return bad(in, "descriptor's name is longer than %d bytes", HARK_PATH_MAX);
	for (size_t i = 0; i < n; i++)
		if (rest[i] <= 0x20 || rest[i] >= 0x7f || strchr(":/", rest[i]) != NULL)
			return bad(in, "descriptor \"%.32s\" is neither a number nor a name", rest);
	memcpy(a->path, rest, n + 1);
	return 0;
}

int hark_address_parse(const char *text, struct hark_address *out, struct hark_why *why)
{
	struct input in = {.text = text, .why = why};
	struct hark_address a = {.fd = -1};
	const char *rest = text;
	if (text[0] == '\0') {
		hark__why(why, "the address is empty");
		return -EINVAL;
	}
	int rc = parse_scheme(&in, &rest);
	if (rc < 0)
		return rc;
	a.scheme = in.scheme->scheme;
	if (a.scheme == HARK_FD)
		rc = parse_fd(&in, &a, rest);
	else if (in.scheme->family == AF_UNIX)
		rc = parse_path(&in, &a, rest);
	else
		rc = parse_host_port(&in, &a, rest);
	if (rc == 0)
		*out = a;
	return rc;
}

int hark_address_format(const struct hark_address *a, char *buf, size_t cap)
{
	char text[HARK_ADDRESS_MAX];
	const struct scheme *s = NULL;
	int n;
	for (size_t i = 0; i < SCHEMES; i++)
		if (schemes[i].scheme == a->scheme)
			s = &schemes[i];
	if (s == NULL)
		return -EINVAL;
	if (!s->slashes && a->scheme == HARK_FD && a->fd >= 0)
		n = snprintf(text, sizeof text, "fd:%d", a->fd);
	else if (!s->slashes)
		n = snprintf(text, sizeof text, "%s:%s", s->name, a->path);
	else if (strchr(a->host, ':') != NULL)
		n = snprintf(text, sizeof text, "%s://[%s]:%s", s->name, a->host, a->port);
	else
		n = snprintf(text, sizeof text, "%s://%s:%s", s->name, a->host, a->port);
	if (n < 0 || (size_t)n >= cap)
		return -ENOSPC;
	memcpy(buf, text, (size_t)n + 1);
	return n;
}
