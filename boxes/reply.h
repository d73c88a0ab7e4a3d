/* reply.h — what a small box may answer to a datagram.
 *
 * A UDP source address is easily forged. A service that answers whoever seems to ask is a reflector; one that answers
 * with more than was asked is an amplifier; two that answer each other (echo and chargen, once a famous pair) never
 * stop. So, unless told otherwise, the small boxes
 *   - do not answer a source port below 1024, where other small services live (--any-port: do);
 *   - never answer with more bytes than the request had (--longer: do, up to what the service's RFC allows). An
 *     answer of a fixed size thus wants a request of that size: 4 bytes for time, 22 for daytime.
 * Streams and unix sockets, whose peers are known, have no such rules. */
#ifndef BOX_REPLY_H
#define BOX_REPLY_H

#include <stdint.h>

#include "options.h"

/* Static storage or calloc makes the careful rules, which a box's arg of NULL also means. */
struct reply_rules {
	bool any_port;
	bool longer;
};

/* The rows that set the rules, for a box's struct box_option list. */
#define REPLY_OPTIONS(rules) \
	{"any-port", &(rules)->any_port, NULL}, \
	{ \
		"longer", &(rules)->longer, NULL \
	}

/* The most bytes that the answer on c may have; SSIZE_MAX: any number; -1: give none. Of a datagram, which must not
 * have been read yet, the size of the request decides. rules may be NULL. Never suspends. */
ssize_t reply_limit(struct hark_conn *c, const struct reply_rules *rules);

/* The open and close of a box whose arg is a struct reply_rules and nothing else. */
int reply_open(int argc, char *const argv[], void **arg, struct hark_why *why);
void reply_close(void *arg);

#endif
