/* histogram.h — many durations in little memory, and their percentiles.
 *
 * Log-linear: 128 equal steps between each power of two and the next, so that every value is kept to within 0.8 %,
 * whatever its size, and a measurement can run for days. Least and greatest are exact. */
#ifndef HISTOGRAM_H
#define HISTOGRAM_H

#include <stdint.h>

#define HISTOGRAM_STEPS 128u /* between powers of two; a power of two itself */
#define HISTOGRAM_SLOTS (57u * HISTOGRAM_STEPS)

struct histogram {
	uint64_t n;
	int64_t min, max; /* valid if n > 0 */
	double sum;
	uint32_t slots[HISTOGRAM_SLOTS];
};

/* A zeroed histogram is empty. Negative values count as 0. */
void histogram_add(struct histogram *h, int64_t ns);

/* The value that percent of all are not above, by nearest rank; 0 if there are none. */
int64_t histogram_percentile(const struct histogram *h, double percent);

#endif
