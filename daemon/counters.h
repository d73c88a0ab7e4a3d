/* counters.h — what a service has done, in memory that the supervisor, its workers and every generation of harkd share.
 *
 * One anonymous file (memfd) for all services, one block each, found by name. A block outlives reload and upgrade, so
 * that totals go on. Counts are relaxed atomics: each is right by itself, and nobody derives one's meaning from
 * another's. A worker has a slot for what must be taken back when it is killed: the supervisor clears it. */
#ifndef COUNTERS_H
#define COUNTERS_H

#include <stdatomic.h>
#include <stdint.h>
#include <sys/types.h>

#define COUNTERS_SERVICES_MAX 1024
#define COUNTERS_SLOTS        128 /* workers of one service at once, draining ones included */
#define COUNTERS_NAME_MAX     64

/* Shed: the connection was closed. */
enum counters_refusal {
	REFUSED_PER_SOURCE = 0, /* max_per_source */
	REFUSED_RATE_PER_SOURCE,
	REFUSALS,
};

/* As its key is called. */
extern const char *const counters_refusal_names[REFUSALS];

/* Waits in the backlog. */
enum counters_hold {
	HELD_MAX_CONNS = 0,
	HELD_RATE,
	HELD_LOAD,
	HELD_RESOURCES, /* descriptors, memory, processes */
	HOLDS,
};

struct counters_slot {
	_Atomic pid_t pid;    /* 0: free */
	_Atomic uint32_t now; /* connections being served */
};

struct counters {
	char name[COUNTERS_NAME_MAX]; /* "": the block is free. Written by the supervisor alone */
	_Atomic uint64_t accepted;    /* connections that a box was started for, datagrams likewise */
	_Atomic uint64_t closed;
	_Atomic uint64_t failed; /* closed with an error, or a program's status not 0 */
	_Atomic uint64_t bytes_in, bytes_out;
	_Atomic uint64_t refused[REFUSALS];
	_Atomic uint64_t held[HOLDS]; /* times that accepting stopped for this reason */
	_Atomic uint64_t starts, restarts,
		crashes;              /* of workers: all; after a death; deaths by signal or status not 0 */
	_Atomic uint64_t log_dropped; /* lines that the log could not take */
	struct counters_slot slots[COUNTERS_SLOTS];
};

/* Maps the table: fd -1 makes a new one, else the one that a former generation made. Returns its descriptor
 * (close-on-exec; the caller's, for an upgrade) or -errno; -EPROTO: another layout. */
int counters_open(int fd);

/* The block of that name, a free one taken if there is none. NULL: all are taken. */
struct counters *counters_of(const char *name);

/* Gives the block back: a service that is no more. Not while another generation's workers still count in it: it stays
 * that service's, for good unless it comes back. */
void counters_drop(const char *name);

/* A slot for a worker about to be forked; -1: none is free. */
int counters_slot_take(struct counters *c);

/* The worker is gone: its slot is cleared. */
void counters_slot_clear(struct counters *c, int slot);

/* Connections being served, over all slots. */
uint32_t counters_now(const struct counters *c);

#endif
