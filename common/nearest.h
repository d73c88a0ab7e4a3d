/* nearest.h — the name nearest to a mistyped one, for errors that help. */
#ifndef NEAREST_H
#define NEAREST_H

#include <stddef.h>

/* The name nearest to a mistyped word. Begin with {.word = word}, offer each name, then best is it, or NULL if none
 * is near. */
struct nearest {
	const char *word;
	const char *best;
	int distance;
};

void nearest_offer(struct nearest *n, const char *name);

/* Puts " (did you mean X?)" or "" into buf, for the end of an error line. cap is at least 1. Returns buf. */
const char *nearest_hint(const struct nearest *n, const char *prefix, char *buf, size_t cap);

#endif
