/* why.h — how libhark words the reason of a failure. */
#ifndef HARK__WHY_H
#define HARK__WHY_H

#include "hark.h"

/* Writes the reason into why; NULL is fine. What does not fit is cut with "..."; control characters, which can only
 * come from an address or a peer, become '?', so that a reason is always one line and safe on a terminal. Any thread.
 */
void hark__why(struct hark_why *why, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
