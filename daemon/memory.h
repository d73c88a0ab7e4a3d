/* memory.h — what a service's workers share: one anonymous file (memfd) a service, which holds its counters, the
 * state of its limits, and its TLS tickets' keys.
 *
 * It outlives reload and upgrade, so that totals and limits go on: found again by the service's name, handed to the
 * next generation with the sockets. Nobody but the supervisor and the service's own workers has it mapped: a worker
 * that was taken over reaches no other service. The supervisor maps what it reads, counters and marks, and bounds that.
 */
#ifndef MEMORY_H
#define MEMORY_H

#include <stdbool.h>
#include <stddef.h>

#include "certs_shown.h"
#include "counters.h"
#include "limiter.h"
#include "tickets.h"

struct memory {
	struct memory *next;
	char *name;
	int fd; /* close-on-exec */
	unsigned refs;
	void *at; /* the mapping, not inherited by fork(2) */
	size_t mapped;
	struct counters *counters;
	struct limits_state *limits;
	struct certs_shown *certs;
	struct tickets *tickets; /* its TLS sessions'; nothing for the supervisor to look at */
};

/* The service's memory, one reference more. Made if there is none: of fd, which an older generation handed over (taken
 * in any case; -1: none) if its layout is ours, else anew. 0 or -errno. */
int memory_open(const char *name, int fd, struct memory **out);
void memory_release(struct memory *m); /* NULL is fine */

/* In a forked worker: maps the service's own memory. tables: of sources as well, for limits. 0 or -errno. */
int memory_attach(struct memory *m, bool tables);

/* All of them, by their next. */
const struct memory *memory_first(void);

#endif
