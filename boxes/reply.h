/* reply.h — what a small box may answer to a datagram.
 *
 * A UDP source address is easily forged. A service that answers whoever seems to ask is a reflector; one that answers
 * with more than was asked is an amplifier; two that answer each other (echo and chargen, once a famous pair) never
 * stop. So, unless told otherwise, the small boxes
 *   - do not answer a source port below 1024, where other small services live (--any-port: do);
 *   - never answer with more bytes than the request had (--longer: do, up to what the service's RFC allows);
 *   - or, where the answer is always the same few bytes (time, daytime), answer any request, as clients of RFC 868 send
 *     an empty one, but only so many a second to one source (--answers).
 * And whatever they are told, they
 *   - do not answer a source that is one of this server's own listeners (hark_is_listener());
 *   - answer no more than REPLY_ECHOES_MAX times a second to a source that sends back what it was answered of late: so
 *     a loop looks, and an impatient client that always says the same.
 * Streams and unix sockets, whose peers are known, have no such rules. */
#ifndef BOX_REPLY_H
#define BOX_REPLY_H

#include <stddef.h>

#include "hark.h"

#define REPLY_ECHOES_MAX 50 /* a second, to one source */

/* Zeroes are the careful rules, which a box's arg of NULL also means. */
struct reply_rules {
	bool any_port;
	bool longer;
};

/* The options that set them, for a box whose state begins with the rules. */
#define REPLY_ANY_PORT \
	{ \
		"any-port", HARK_OPTION_FLAG, offsetof(struct reply_rules, any_port), \
			.help = "answer datagrams from ports below 1024, too" \
	}
#define REPLY_LONGER \
	{ \
		"longer", HARK_OPTION_FLAG, offsetof(struct reply_rules, longer), \
			.help = "answer a datagram with more bytes than it had" \
	}

/* The most bytes that the answer on c may have; SSIZE_MAX: any number; -1: give none. Of a datagram, which must not
 * have been read yet, the size of the request decides. rules may be NULL. Never suspends. */
ssize_t reply_limit(struct hark_conn *c, const struct reply_rules *rules);

/* When a box is opened: what is remembered of answers is shared with the children that this process forks. */
void reply_begin(void);

/* Writes an answer, and remembers it. As hark_write(). */
ssize_t reply_write(struct hark_conn *c, const void *buf, size_t n);

/* The open of a box that opens nothing else. */
int reply_open(void *state, struct hark_why *why);

/* ---- few bytes, at a rate ---------------------------------------------------------------------- */

struct source_rate; /* source_rate.h */

/* The beginning of such a box's state. */
struct reply_paced {
	struct reply_rules rules;
	int64_t answers; /* a second to one source; 0: any number */
	struct source_rate *sources;
};

#define REPLY_ANSWERS \
	{ \
		"answers", HARK_OPTION_NUMBER, offsetof(struct reply_paced, answers), \
			.value = "N", .help = "answers a second by datagram to one source; 0: no limit (10)", \
			.standard = "10", .max = 1000000 \
	}
#define REPLY_LONGER_FORMER \
	{ \
		"longer", HARK_OPTION_FLAG, offsetof(struct reply_rules, longer) \
	}

/* Whether c is to be answered now. Never suspends. */
bool reply_now(struct hark_conn *c, struct reply_paced *r);

/* Of the box's row. */
int reply_paced_open(void *state, struct hark_why *why);
void reply_paced_close(void *state);

extern const struct hark_option reply_paced_options[];

/* Both of the rules, for boxes whose state is the rules and nothing else. */
extern const struct hark_option reply_options[];

#endif
