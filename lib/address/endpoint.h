/* endpoint.h — what a socket call takes: making, comparing and normalising it. No allocation, any thread. */
#ifndef HARK__ENDPOINT_H
#define HARK__ENDPOINT_H

#include <stdbool.h>
#include <stdint.h>

#include "hark.h"

/* An Internet endpoint; addr is a struct in_addr or in6_addr by family. A v4-mapped IPv6 address becomes IPv4. */
void hark__endpoint_ip(struct hark_endpoint *out, int type, int family, const void *addr, uint32_t scope,
                       unsigned port);

/* A unix endpoint; a name that begins with '@' is abstract. name is at most HARK_PATH_MAX bytes. */
void hark__endpoint_unix(struct hark_endpoint *out, int type, const char *name);

/* The port in host order; 0 where there is none. */
unsigned hark__endpoint_port(const struct hark_endpoint *e);
void hark__endpoint_set_port(struct hark_endpoint *e, unsigned port);

/* Kind, address, scope and port are the same. */
bool hark__endpoint_same(const struct hark_endpoint *a, const struct hark_endpoint *b);

/* It is every IPv6 address, "::". */
bool hark__endpoint_any_six(const struct hark_endpoint *e);

#define HARK__HOST_TEXT 64 /* bytes: an IPv6 address, '%', an interface's name, NUL */

/* Writes the host alone, "192.0.2.1", "fe80::1%eth0"; nothing for a unix endpoint. */
void hark__endpoint_host(const struct hark_endpoint *e, char buf[HARK__HOST_TEXT]);

static inline int hark__endpoint_family(const struct hark_endpoint *e)
{
	return e->addr.ss_family;
}

#endif
