/* counters.h — what a service has done: counts, and a slot for each of its workers, in the memory that they share
 * (memory.h).
 *
 * One table says what is counted (counter_rows); who prints walks it. Counts are relaxed atomics: each is right by
 * itself, and nobody derives one's meaning from another's. A worker has a slot for what must be taken back when it is
 * killed: the supervisor clears it. The service's workers can write anything here: what is read is bounded. */
#ifndef COUNTERS_H
#define COUNTERS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#define COUNTERS_SLOTS    256 /* workers of one service at once, of all generations, draining ones included */
#define COUNTERS_NAME_MAX 64  /* bytes of a service's name, with its NUL */

enum counter {
	COUNT_NOW = 0, /* the sum over the slots */
	COUNT_ACCEPTED,
	COUNT_CLOSED,
	COUNT_FAILED,
	COUNT_BYTES_IN,
	COUNT_BYTES_OUT,
	/* Refused: the connection was reset, by its limits, a link of the session chain, or its box. */
	REFUSED_FIRST,
	REFUSED_PER_SOURCE = REFUSED_FIRST,
	REFUSED_RATE_PER_SOURCE,
	REFUSED_SESSIONS,
	REFUSED_PROXY_FROM,
	REFUSED_PROXY_HEADER,
	REFUSED_PROXY_TIMEOUT,
	REFUSED_HELLO, /* by the box: enum hark_refusal */
	REFUSED_NAME,
	REFUSED_HANDSHAKES,
	REFUSED_TLS,
	REFUSED_TLS_TIMEOUT,
	REFUSED_CLIENT_CERT,
	REFUSED_LAST = REFUSED_CLIENT_CERT,
	/* Waits in the backlog. */
	HELD_MAX_CONNS,
	HELD_RATE,
	HELD_LOAD,
	HELD_RESOURCES,
	COUNT_STARTS,
	COUNT_RESTARTS,
	COUNT_CRASHES,
	COUNT_LOG_DROPPED,
	COUNTERS,
};

enum counter_type { COUNTER_TOTAL = 0, COUNTER_GAUGE };

struct counter_row {
	const char *name;  /* of a refusal or a hold: its key in hark.conf, where it has one */
	const char *group; /* the object that holds it: "refused", "held"; rows of one stand together. NULL: none */
	enum counter_type type;
	const char *help; /* one line */
};

extern const struct counter_row counter_rows[COUNTERS];

struct counters_slot {
	_Atomic pid_t pid;    /* 0: free */
	_Atomic uint32_t now; /* connections being served */
};

/* All zero to begin with. */
struct counters {
	_Atomic uint64_t n[COUNTERS];
	/* Refusals (refusals.c): the second and how many lines it had; those that had none since. */
	_Atomic uint64_t told[COUNTERS], untold[COUNTERS];
	atomic_bool any_untold;
	_Atomic uint32_t high; /* slots ever used */
	struct counters_slot slots[COUNTERS_SLOTS];
};

/* n < 0 is not known, and adds nothing. */
void counters_add(struct counters *c, enum counter which, int64_t n);

/* At most INT64_MAX: what JSON's readers take. */
uint64_t counters_read(const struct counters *c, enum counter which);

/* A slot for a worker about to be forked; -1: none is free. */
int counters_slot_take(struct counters *c);

/* The worker is gone: its slot is cleared. */
void counters_slot_clear(struct counters *c, int slot);

/* Slots that may be in use: those below. */
int counters_slots(const struct counters *c);

/* Connections that a worker serves; and over all slots. */
uint32_t counters_slot_now(const struct counters *c, int slot);
uint64_t counters_now(const struct counters *c);

#endif
