/* network.h — networks, as access and trust are told by: address prefixes, and everybody on this machine who comes by a
 * Unix socket. No look-up. Any thread. */
#ifndef NETWORK_H
#define NETWORK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#define NETWORK_TEXT_MAX 64 /* bytes that any network's text fits in, its NUL included */

struct network {
	uint8_t addr[16]; /* network byte order, the bits behind the prefix 0 */
	uint8_t bits;
	sa_family_t family; /* AF_INET, AF_INET6; AF_UNIX: all of it */
};

/* "192.0.2.0/24", "2001:db8::/32", an address alone, "unix". IPv4-mapped prefixes are IPv4's.
 * 0; 1: there were bits behind the prefix, which are dropped; -EINVAL. */
int network_parse(const char *text, struct network *out);

/* The text that network_parse() reads to the same. Returns buf. */
const char *network_format(const struct network *n, char buf[NETWORK_TEXT_MAX]);

/* Whether one of count networks has the address. Mapped addresses are IPv4's, as hark's endpoints have them. */
bool network_has(const struct network *networks, size_t count, const struct sockaddr *address);

#endif
