/* resolve.h — from an address to endpoints, for dial.c and listen.c. */
#ifndef HARK__RESOLVE_H
#define HARK__RESOLVE_H

#include "hark.h"

enum hark__purpose {
	HARK__TO_DIAL,   /* "*" is loopback */
	HARK__TO_LISTEN, /* "*" is every address */
};

/* hark_resolve() of an address that is already taken apart. Not for fd addresses: -EINVAL. May suspend. */
int hark__resolve(const struct hark_address *a, enum hark__purpose purpose, struct hark_endpoint out[], int n,
                  int64_t deadline);

/* Whether the host is an address and not a name. */
bool hark__address_numeric(const struct hark_address *a);

/* SOCK_STREAM or SOCK_DGRAM. */
int hark__address_type(const struct hark_address *a);

#endif
