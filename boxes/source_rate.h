/* source_rate.h — how many answers one source gets: for services that answer any datagram, whose source may be forged,
 * so that nobody is flooded with answers that another one asked for.
 *
 * The table lies in memory that forked children share; any thread, any fiber, any child of who opened it. */
#ifndef BOX_SOURCE_RATE_H
#define BOX_SOURCE_RATE_H

#include "hark.h"

#define SOURCE_RATE_BURST 30 /* answers that a source gets at once, after it was quiet */

struct source_rate;

/* NULL: no memory. */
struct source_rate *source_rate_open(void);

/* Whether this source, an IPv4 address or an IPv6 network of 64 bits, gets one more answer now: per_second of them in
 * the long run. 0: any number. Sources that meet in the table share what one gets. */
bool source_rate_take(struct source_rate *s, const struct hark_endpoint *source, int64_t per_second);

/* NULL is fine. */
void source_rate_close(struct source_rate *s);

#endif
