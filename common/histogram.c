/* histogram.c — see histogram.h. One thread at a time. */
#include "histogram.h"

#include <assert.h>

#define STEP_BITS 7 /* log2(HISTOGRAM_STEPS) */

static_assert(HISTOGRAM_STEPS == 1u << STEP_BITS, "steps are a power of two");
static_assert(HISTOGRAM_SLOTS == (64 - STEP_BITS) * HISTOGRAM_STEPS, "every int64_t has a slot");

/* Below 2*STEPS each value has a slot of its own; above, the top STEP_BITS+1 bits choose. */
static unsigned slot_of(int64_t ns)
{
	uint64_t v = (uint64_t)ns;

	if (v < 2 * HISTOGRAM_STEPS)
		return (unsigned)v;
	unsigned shift = 63u - (unsigned)__builtin_clzll(v) - STEP_BITS;
	return shift * HISTOGRAM_STEPS + (unsigned)(v >> shift);
}

/* The middle of what a slot holds. */
static int64_t value_of(unsigned slot)
{
	if (slot < 2 * HISTOGRAM_STEPS)
		return slot;
	unsigned shift = slot / HISTOGRAM_STEPS - 1;
	int64_t low = (int64_t)(slot - shift * HISTOGRAM_STEPS) << shift;
	return low + ((INT64_C(1) << shift) >> 1);
}

void histogram_add(struct histogram *h, int64_t ns)
{
	if (ns < 0)
		ns = 0;
	if (h->n == 0 || ns < h->min)
		h->min = ns;
	if (h->n == 0 || ns > h->max)
		h->max = ns;
	h->n++;
	h->sum += (double)ns;
	h->slots[slot_of(ns)]++;
}

int64_t histogram_percentile(const struct histogram *h, double percent)
{
	double exact = percent / 100.0 * (double)h->n;
	uint64_t rank = (uint64_t)exact, seen = 0;

	if (h->n == 0)
		return 0;
	if ((double)rank < exact || rank == 0)
		rank++;
	for (unsigned i = 0; i < HISTOGRAM_SLOTS; i++) {
		seen += h->slots[i];
		if (seen < rank)
			continue;
		int64_t value = value_of(i);
		return value < h->min ? h->min : value > h->max ? h->max : value;
	}
	return h->max;
}
