/* proxy_format.c — writes the PROXY protocol's header, versions 1 and 2: whom a relay speaks for.
 *
 * Where there are no two addresses of one kind that the version has words for, it says so: UNKNOWN in version 1, LOCAL
 * in version 2. IPv4 and IPv6 mixed are both written as IPv6. Any thread. */
#include "conn/proxy.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/un.h>

#include "address/endpoint.h"

#define SUM_BYTES 4

/* Bytes on their way: counted, and written as far as there is room. */
struct out {
	uint8_t *at;
	size_t cap, n;
};

static void put(struct out *o, const void *bytes, size_t n)
{
	if (n > 0 && o->n + n <= o->cap)
		memcpy(o->at + o->n, bytes, n);
	o->n += n;
}

static void put8(struct out *o, unsigned n)
{
	uint8_t b = (uint8_t)n;
	put(o, &b, 1);
}

static void put16(struct out *o, size_t n)
{
	put8(o, (unsigned)(n >> 8));
	put8(o, (unsigned)n & 0xff);
}

static void put32(struct out *o, uint32_t n)
{
	put16(o, n >> 16);
	put16(o, n & 0xffff);
}

/* ---- addresses ------------------------------------------------------------------------------- */

static bool is_inet(const struct hark_endpoint *e)
{
	return e->len > 0 && (e->addr.ss_family == AF_INET || e->addr.ss_family == AF_INET6);
}

/* AF_INET, AF_INET6, AF_UNIX; 0: no two addresses of a kind. */
static int family_of(const struct hark_proxy *p)
{
	const struct hark_endpoint *s = &p->source, *d = &p->destination;
	if (p->local || s->len == 0 || d->len == 0)
		return 0;
	if (is_inet(s) && is_inet(d))
		return s->addr.ss_family == AF_INET && d->addr.ss_family == AF_INET ? AF_INET : AF_INET6;
	return s->addr.ss_family == AF_UNIX && d->addr.ss_family == AF_UNIX ? AF_UNIX : 0;
}

/* The address as family has it: IPv4 is mapped where the other one is IPv6. */
static const void *address_in(const struct hark_endpoint *e, int family, struct in6_addr *room)
{
	const struct sockaddr_in *four = (const struct sockaddr_in *)&e->addr;
	if (family == AF_INET)
		return &four->sin_addr;
	if (e->addr.ss_family == AF_INET6)
		return &((const struct sockaddr_in6 *)&e->addr)->sin6_addr;
	*room = (struct in6_addr){.s6_addr = {[10] = 0xff, [11] = 0xff}};
	memcpy(&room->s6_addr[12], &four->sin_addr, sizeof four->sin_addr);
	return room;
}

/* ---- version 1 ------------------------------------------------------------------------------- */

/* Groups are hexadecimal: inet_ntop(3)'s dotted tail is outside the format. */
static void write_address(const struct hark_endpoint *e, int family, char text[INET6_ADDRSTRLEN])
{
	struct in6_addr room;
	const void *addr = address_in(e, family, &room);
	const uint8_t *b = addr;
	(void)inet_ntop(family, addr, text, INET6_ADDRSTRLEN);
	if (family == AF_INET6 && strchr(text, '.') != NULL)
		(void)snprintf(text, INET6_ADDRSTRLEN, "::%s%x:%x",
		               IN6_IS_ADDR_V4MAPPED((const struct in6_addr *)addr) ? "ffff:" : "",
		               (unsigned)b[12] << 8 | b[13], (unsigned)b[14] << 8 | b[15]);
}

static void write_line(const struct hark_proxy *p, struct out *o)
{
	char line[HARK__PROXY_LINE_MAX + 1], from[INET6_ADDRSTRLEN], to[INET6_ADDRSTRLEN];
	int family = family_of(p), n;
	if ((family != AF_INET && family != AF_INET6) || p->source.type == SOCK_DGRAM) {
		put(o, "PROXY UNKNOWN\r\n", 15);
		return;
	}
	write_address(&p->source, family, from);
	write_address(&p->destination, family, to);
	n = snprintf(line, sizeof line, "PROXY TCP%c %s %s %u %u\r\n", family == AF_INET ? '4' : '6', from, to,
	             hark__endpoint_port(&p->source), hark__endpoint_port(&p->destination));
	put(o, line, (size_t)n);
}

/* ---- version 2 ------------------------------------------------------------------------------- */

static void put_path(struct out *o, const struct hark_endpoint *e)
{
	uint8_t path[HARK__PROXY_PATH] = {0};
	size_t at = offsetof(struct sockaddr_un, sun_path), n = e->len > at ? e->len - at : 0;
	memcpy(path, ((const struct sockaddr_un *)&e->addr)->sun_path, n < sizeof path ? n : sizeof path);
	put(o, path, sizeof path);
}

static void put_block(struct out *o, const struct hark_proxy *p, int family)
{
	struct in6_addr room;
	size_t size = family == AF_INET ? 4 : 16;
	if (family == AF_UNIX) {
		put_path(o, &p->source);
		put_path(o, &p->destination);
	} else if (family != 0) {
		put(o, address_in(&p->source, family, &room), size);
		put(o, address_in(&p->destination, family, &room), size);
		put16(o, hark__endpoint_port(&p->source));
		put16(o, hark__endpoint_port(&p->destination));
	}
}

static void put_tlv(struct out *o, const struct hark_proxy_tlv *t)
{
	put8(o, (unsigned)t->type);
	put16(o, t->len);
	put(o, t->value, t->len);
}

static void put_ssl(struct out *o, const struct hark_proxy *p)
{
	size_t n = HARK__PROXY_SSL_HEAD;
	for (int i = 0; i < p->n_tlvs; i++)
		n += hark__proxy_in_ssl(p->tlvs[i].type) ? HARK__PROXY_TLV_HEAD + p->tlvs[i].len : 0;
	put8(o, HARK__PROXY_SSL);
	put16(o, n);
	put8(o, p->ssl_client);
	put32(o, p->ssl_verify);
	for (int i = 0; i < p->n_tlvs; i++)
		if (hark__proxy_in_ssl(p->tlvs[i].type))
			put_tlv(o, &p->tlvs[i]);
}

/* Checksums and SSL's outer part are written from p's own fields. */
static void put_tlvs(struct out *o, const struct hark_proxy *p)
{
	for (int i = 0; i < p->n_tlvs; i++)
		if (!hark__proxy_in_ssl(p->tlvs[i].type) && p->tlvs[i].type != HARK__PROXY_SSL &&
		    p->tlvs[i].type != HARK__PROXY_CRC32C)
			put_tlv(o, &p->tlvs[i]);
	if (p->ssl)
		put_ssl(o, p);
}

static void write_binary(const struct hark_proxy *p, struct out *o)
{
	static const unsigned codes[] = {[AF_INET] = 0x10, [AF_INET6] = 0x20, [AF_UNIX] = 0x30};
	int family = family_of(p);
	bool datagrams = family != 0 && p->source.type == SOCK_DGRAM;
	put(o, hark__proxy_signature, sizeof hark__proxy_signature);
	put8(o, family == 0 ? 0x20 : 0x21);
	put8(o, family == 0 ? 0 : codes[family] | (datagrams ? 2u : 1u));
	size_t length_at = o->n;
	put16(o, 0);
	put_block(o, p, family);
	put_tlvs(o, p);
	size_t sum_at = o->n + HARK__PROXY_TLV_HEAD;
	if (p->checksum)
		put_tlv(o, &(struct hark_proxy_tlv){HARK__PROXY_CRC32C, SUM_BYTES, "\0\0\0"});
	if (o->n > o->cap || o->n > HARK__PROXY_MAX)
		return;
	struct out length = {.at = o->at + length_at, .cap = 2}, sum = {.at = o->at + sum_at, .cap = SUM_BYTES};
	put16(&length, o->n - HARK__PROXY_HEAD);
	if (p->checksum)
		put32(&sum, hark__crc32c(0, o->at, o->n));
}

/* -EINVAL: no such version, or a TLV that there cannot be. */
static int check(const struct hark_proxy *p)
{
	if (p->version < 0 || p->version > 2 || p->n_tlvs < 0)
		return -EINVAL;
	for (int i = 0; i < p->n_tlvs; i++)
		if (p->tlvs[i].type < 0 || p->tlvs[i].type > 0xff || p->tlvs[i].len > 0xffff)
			return -EINVAL;
	return 0;
}

ssize_t hark_proxy_format(const struct hark_proxy *p, void *buf, size_t cap)
{
	struct out o = {.at = buf, .cap = cap};
	int r = check(p);
	if (r < 0)
		return r;
	if (p->version == 1)
		write_line(p, &o);
	else
		write_binary(p, &o);
	if (o.n > HARK__PROXY_MAX)
		return -EMSGSIZE;
	return o.n > cap ? -ENOSPC : (ssize_t)o.n;
}
