/* backoff.h — how long to wait before what failed is tried again: at once, then 100 ms, twice as long each time, at
 * most 10 s. Whoever waits keeps the delay; 0 begins anew. */
#ifndef HARK__BACKOFF_H
#define HARK__BACKOFF_H

#include <stdint.h>

#include "hark.h"

#define HARK__BACKOFF_FIRST_NS (100 * HARK_MS)
#define HARK__BACKOFF_MAX_NS   (10 * HARK_S)

/* The delay after one of ns. */
static inline int64_t hark__backoff_next(int64_t ns)
{
	if (ns == 0)
		return HARK__BACKOFF_FIRST_NS;
	return ns < HARK__BACKOFF_MAX_NS / 2 ? ns * 2 : HARK__BACKOFF_MAX_NS;
}

#endif
