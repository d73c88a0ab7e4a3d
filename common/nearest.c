/* nearest.c — the name that was probably meant. Pure functions: any thread. */
#include "nearest.h"

#include <stdio.h>
#include <string.h>

#define WORD_MAX 32 /* bytes; longer words are not mistyped names */

/* How many letters must be changed, added, left out, or swapped with their neighbour to make b of a (the "optimal
 * string alignment" distance, three rows of the usual table at a time). */
static int distance(const char *a, const char *b)
{
	int rows[3][WORD_MAX + 1];
	int *before = rows[0], *last = rows[1], *row = rows[2];
	int n = (int)strlen(b);

	for (int j = 0; j <= n; j++)
		last[j] = j;
	for (int i = 1; a[i - 1] != '\0'; i++) {
		row[0] = i;
		for (int j = 1; j <= n; j++) {
			int best = last[j - 1] + (a[i - 1] != b[j - 1]);
			if (last[j] + 1 < best)
				best = last[j] + 1;
			if (row[j - 1] + 1 < best)
				best = row[j - 1] + 1;
			if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] && before[j - 2] + 1 < best)
				best = before[j - 2] + 1;
			row[j] = best;
		}
		int *spare = before;
		before = last;
		last = row;
		row = spare;
	}
	return last[n];
}

void nearest_offer(struct nearest *n, const char *name)
{
	size_t len = strlen(n->word);

	if (len == 0 || len > WORD_MAX || strlen(name) > WORD_MAX)
		return;
	int d = distance(n->word, name);
	/* A third of the letters wrong is still a slip of the finger; more is another word. */
	if (d > (int)(len + 2) / 3 || d >= (int)len)
		return;
	if (n->best == NULL || d < n->distance) {
		n->best = name;
		n->distance = d;
	}
}

const char *nearest_hint(const struct nearest *n, const char *prefix, char *buf, size_t cap)
{
	buf[0] = '\0';
	if (n->best != NULL)
		(void)snprintf(buf, cap, " (did you mean %s%s?)", prefix, n->best);
	return buf;
}
