/* refusals.h — who is refused, by the limits, a link of the session chain or a box: counted, and told at a bounded
 * rate.
 *
 * Of each reason a service's log has so many lines a second, then how many more there were: a flood of refusals is no
 * flood of lines. State lies beside the counters, shared by the service's workers and their children. Any process, any
 * thread. */
#ifndef REFUSALS_H
#define REFUSALS_H

#include <stdbool.h>

#include "counters.h"

#define REFUSALS_LINES 10 /* a second, of a reason */

/* A reason is an enum counter, or a box's, enum hark_refusal. */

/* Counts a box's; who refuses for another one has counted it. */
void refusals_count(struct counters *c, int reason);

/* Whether one more refusal for that reason is worth a line of its own; else it is kept for refusals_untold(). */
bool refusals_worth_a_line(struct counters *c, int reason);

/* Calls tell for each reason that has refusals without a line, of a second that is over; all: of this one, too. */
void refusals_untold(struct counters *c, bool all, void (*tell)(enum counter why, uint64_t n, void *arg), void *arg);

/* The reason, which is an event's error, as its row is called; NULL: none of ours. */
const char *refusals_name(int reason);

#endif
