/* status_view.h — what harkd answers to "status" made into text: a table of services, or all that is known of one.
 * Pure: from JSON, of which nothing is taken for granted, to a stream. */
#ifndef STATUS_VIEW_H
#define STATUS_VIEW_H

#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>

struct status_view {
	const json_t *now;    /* the answer */
	const json_t *before; /* an earlier one to take rates from; NULL: none */
	double elapsed_s;     /* between the two */
	bool rates;           /* there is a column for them, and the time in the head */
};

/* The answer is one to "status": an object with an array of objects, its services. */
bool status_view_fits(const json_t *answer);

/* Cells of other tables: two units of time; a count, "-" where it is null. */
void status_view_span(double seconds, char *buf, size_t cap);
void status_view_count(const json_t *n, char *buf, size_t cap);

void status_view_table(const struct status_view *v, FILE *to);
void status_view_service(const struct status_view *v, FILE *to);

#endif
