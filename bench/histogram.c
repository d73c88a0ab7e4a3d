/* The histogram of histogram.h. Values below 64 have a bucket each; above, the top seven bits of a
 * value (a leading one and six more) and its magnitude name the bucket.
 * Any thread, one at a time; owns nothing. */
#include "histogram.h"

#define STEPS (1u << HISTOGRAM_STEP_BITS)

static unsigned bucket_of(uint64_t value)
{
	if (value < STEPS)
		return (unsigned)value;
	unsigned magnitude = 63u - (unsigned)__builtin_clzll(value);
	unsigned shift = magnitude - HISTOGRAM_STEP_BITS;
	return ((shift + 1) << HISTOGRAM_STEP_BITS) + (unsigned)((value >> shift) - STEPS);
}

static uint64_t middle_of(unsigned bucket)
{
	if (bucket < STEPS)
		return bucket;
	unsigned shift = (bucket >> HISTOGRAM_STEP_BITS) - 1;
	uint64_t low = (uint64_t)(STEPS + bucket % STEPS) << shift;
	return low + ((UINT64_C(1) << shift) >> 1);
}

void histogram_record(struct histogram *h, uint64_t value)
{
	h->count++;
	if (value > h->max)
		h->max = value;
	h->bucket[bucket_of(value)]++;
}

uint64_t histogram_quantile(const struct histogram *h, double share)
{
	uint64_t rank = (uint64_t)(share * (double)h->count);
	uint64_t seen = 0;

	for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++) {
		seen += h->bucket[i];
		if (seen > rank) {
			uint64_t value = middle_of(i);
			return value < h->max ? value : h->max;
		}
	}
	return h->max;
}
