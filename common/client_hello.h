/* client_hello.h — the name and the protocols that a TLS client asks for, read out of its first bytes, so that a relay
 * can choose where they go on to and pass them on unopened. */
#ifndef CLIENT_HELLO_H
#define CLIENT_HELLO_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define CLIENT_HELLO_MAX 16384 /* bytes on the wire, record headers and all; with post-quantum keys it has some 2,000 */
#define CLIENT_NAME_MAX  255   /* bytes, RFC 1035 section 2.3.4 */

struct client_hello {
	char name[CLIENT_NAME_MAX + 1]; /* as it was sent; "": none is asked for */
	size_t protocols_bytes;         /* of the ALPN list, RFC 7301: each protocol behind a byte with its length */
	uint8_t protocols[256];         /* as many whole ones as have room */
	const char *why;                /* where it is bad: static */
};

/* Parses what a client has sent so far, at data: pure, no allocation, never more than CLIENT_HELLO_MAX bytes.
 * Returns how many of them are the hello's; 0: it goes on, more is needed; -EPROTO: it is none, or a bad one, with why;
 * -EMSGSIZE: one that is too long, likewise. */
ssize_t client_hello_parse(const void *data, size_t n, struct client_hello *out);

#endif
