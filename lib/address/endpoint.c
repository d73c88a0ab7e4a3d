/* endpoint.c — see endpoint.h; and hark_endpoint_format(), how every endpoint is shown.
 *
 * An address that a peer chose (the bytes of an abstract unix name) is hostile: what is not printable is shown as
 * '?', so that no peer writes into a log or a terminal. Any thread. */
#include "address/endpoint.h"

#include <arpa/inet.h>
#include <assert.h>
#include <errno.h>
#include <net/if.h>
#include <netinet/in.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/un.h>

static_assert(sizeof(((struct sockaddr_un *)0)->sun_path) == HARK_PATH_MAX + 1, "unix(7): 108 bytes");

void hark__endpoint_ip(struct hark_endpoint *out, int type, int family, const void *addr, uint32_t scope, unsigned port)
{
	*out = (struct hark_endpoint){.type = type};
	const struct in6_addr *six = addr;
	if (family == AF_INET6 && IN6_IS_ADDR_V4MAPPED(six)) {
		family = AF_INET;
		addr = &six->s6_addr[12];
	}
	if (family == AF_INET) {
		struct sockaddr_in *in = (struct sockaddr_in *)&out->addr;
		in->sin_family = AF_INET;
		in->sin_port = htons((uint16_t)port);
		memcpy(&in->sin_addr, addr, sizeof in->sin_addr);
		out->len = sizeof *in;
	} else {
		struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)&out->addr;
		in6->sin6_family = AF_INET6;
		in6->sin6_port = htons((uint16_t)port);
		in6->sin6_scope_id = scope;
		in6->sin6_addr = *six;
		out->len = sizeof *in6;
	}
}

void hark__endpoint_unix(struct hark_endpoint *out, int type, const char *name)
{
	size_t n = strnlen(name, HARK_PATH_MAX);
	struct sockaddr_un *un = (struct sockaddr_un *)&out->addr;
	*out = (struct hark_endpoint){.type = type};
	un->sun_family = AF_UNIX;
	memcpy(un->sun_path, name, n);
	out->len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n);
	if (name[0] == '@')
		un->sun_path[0] = '\0'; /* abstract: the length counts, no NUL follows. unix(7) */
	else
		out->len++;
}

int hark_endpoint_from(int type, const struct sockaddr *addr, socklen_t len, struct hark_endpoint *out)
{
	struct sockaddr_in in;
	struct sockaddr_in6 in6;
	if (len < sizeof(sa_family_t) || len > sizeof out->addr)
		return -EINVAL;
	if (addr->sa_family == AF_INET && len >= sizeof in) {
		memcpy(&in, addr, sizeof in);
		hark__endpoint_ip(out, type, AF_INET, &in.sin_addr, 0, ntohs(in.sin_port));
	} else if (addr->sa_family == AF_INET6 && len >= sizeof in6) {
		memcpy(&in6, addr, sizeof in6);
		hark__endpoint_ip(out, type, AF_INET6, &in6.sin6_addr, in6.sin6_scope_id, ntohs(in6.sin6_port));
	} else if (addr->sa_family != AF_INET && addr->sa_family != AF_INET6) {
		struct hark_endpoint e = {.type = type, .len = len}; /* addr may be in *out */
		memcpy(&e.addr, addr, len);
		*out = e;
	} else {
		return -EINVAL;
	}
	return 0;
}

unsigned hark__endpoint_port(const struct hark_endpoint *e)
{
	switch (e->addr.ss_family) {
	case AF_INET: return ntohs(((const struct sockaddr_in *)&e->addr)->sin_port);
	case AF_INET6: return ntohs(((const struct sockaddr_in6 *)&e->addr)->sin6_port);
	default: return 0;
	}
}

void hark__endpoint_set_port(struct hark_endpoint *e, unsigned port)
{
	if (e->addr.ss_family == AF_INET)
		((struct sockaddr_in *)&e->addr)->sin_port = htons((uint16_t)port);
	else if (e->addr.ss_family == AF_INET6)
		((struct sockaddr_in6 *)&e->addr)->sin6_port = htons((uint16_t)port);
}

/* The bytes of a unix name: all of them if abstract, up to the NUL if a path. */
static size_t unix_name_len(const struct hark_endpoint *e)
{
	const struct sockaddr_un *un = (const struct sockaddr_un *)&e->addr;
	size_t at = offsetof(struct sockaddr_un, sun_path);
	size_t n = e->len > at ? e->len - at : 0;
	if (n > sizeof un->sun_path)
		n = sizeof un->sun_path;
	return n > 0 && un->sun_path[0] != '\0' ? strnlen(un->sun_path, n) : n;
}

bool hark__endpoint_same(const struct hark_endpoint *a, const struct hark_endpoint *b)
{
	if (a->type != b->type || a->addr.ss_family != b->addr.ss_family)
		return false;
	if (a->addr.ss_family == AF_UNIX) {
		size_t n = unix_name_len(a);
		return n == unix_name_len(b) && memcmp(((const struct sockaddr_un *)&a->addr)->sun_path,
		                                       ((const struct sockaddr_un *)&b->addr)->sun_path, n) == 0;
	}
	if (a->addr.ss_family == AF_INET) {
		const struct sockaddr_in *x = (const struct sockaddr_in *)&a->addr,
					 *y = (const struct sockaddr_in *)&b->addr;
		return x->sin_port == y->sin_port && x->sin_addr.s_addr == y->sin_addr.s_addr;
	}
	if (a->addr.ss_family == AF_INET6) {
		const struct sockaddr_in6 *x = (const struct sockaddr_in6 *)&a->addr,
					  *y = (const struct sockaddr_in6 *)&b->addr;
		return x->sin6_port == y->sin6_port && x->sin6_scope_id == y->sin6_scope_id &&
		       memcmp(&x->sin6_addr, &y->sin6_addr, sizeof x->sin6_addr) == 0;
	}
	return false;
}

bool hark__endpoint_any_six(const struct hark_endpoint *e)
{
	return e->addr.ss_family == AF_INET6 &&
	       IN6_IS_ADDR_UNSPECIFIED(&((const struct sockaddr_in6 *)&e->addr)->sin6_addr);
}

void hark__endpoint_host(const struct hark_endpoint *e, char buf[HARK__HOST_TEXT])
{
	const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)&e->addr;
	char name[IF_NAMESIZE], host[INET6_ADDRSTRLEN];
	buf[0] = '\0';
	if (e->addr.ss_family == AF_INET) {
		(void)inet_ntop(AF_INET, &((const struct sockaddr_in *)&e->addr)->sin_addr, buf, HARK__HOST_TEXT);
	} else if (e->addr.ss_family == AF_INET6) {
		(void)inet_ntop(AF_INET6, &in6->sin6_addr, host, sizeof host);
		if (in6->sin6_scope_id == 0)
			(void)snprintf(buf, HARK__HOST_TEXT, "%s", host);
		else if (if_indextoname(in6->sin6_scope_id, name) != NULL)
			(void)snprintf(buf, HARK__HOST_TEXT, "%s%%%s", host, name);
		else
			(void)snprintf(buf, HARK__HOST_TEXT, "%s%%%u", host, in6->sin6_scope_id);
	}
}

static int format_ip(const struct hark_endpoint *e, char *buf, size_t cap)
{
	char host[HARK__HOST_TEXT];
	bool six = e->addr.ss_family == AF_INET6;
	hark__endpoint_host(e, host);
	return snprintf(buf, cap, "%s://%s%s%s:%u", e->type == SOCK_DGRAM ? "udp" : "tcp", six ? "[" : "", host,
	                six ? "]" : "", hark__endpoint_port(e));
}

static int format_unix(const struct hark_endpoint *e, char *buf, size_t cap)
{
	const struct sockaddr_un *un = (const struct sockaddr_un *)&e->addr;
	char name[sizeof un->sun_path + 1];
	size_t n = unix_name_len(e);
	for (size_t i = 0; i < n; i++) {
		unsigned char b = (unsigned char)un->sun_path[i];
		name[i] = b < 0x20 || b == 0x7f ? '?' : (char)b;
	}
	if (n > 0 && un->sun_path[0] == '\0')
		name[0] = '@';
	name[n] = '\0';
	return snprintf(buf, cap, "%s:%s", e->type == SOCK_DGRAM ? "unixgram" : "unix", name);
}

int hark_endpoint_format(const struct hark_endpoint *e, char *buf, size_t cap)
{
	char text[HARK_ADDRESS_MAX];
	struct hark_endpoint plain;
	int n, rc = hark_endpoint_from(e->type, (const struct sockaddr *)&e->addr, e->len, &plain);
	if (rc < 0)
		return rc;
	switch (plain.addr.ss_family) {
	case AF_INET:
	case AF_INET6: n = format_ip(&plain, text, sizeof text); break;
	case AF_UNIX: n = format_unix(&plain, text, sizeof text); break;
	default: n = snprintf(text, sizeof text, "family %d", plain.addr.ss_family); break;
	}
	if (n < 0 || (size_t)n >= cap)
		return -ENOSPC;
	memcpy(buf, text, (size_t)n + 1);
	return n;
}
