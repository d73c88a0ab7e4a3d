/* limiter.h — the limits that no box can forget: how many connections at once and how fast, of the service and of each
 * source.
 *
 * Two questions, asked by the worker that accepts (struct hark_serve_opts): limits_pace() before a connection is taken
 * from the backlog (the service's max_conns, rate, max_load: who comes waits), limits_admit() when it is (its source's
 * max_per_source and rate_per_source: it is shed). State lies in the service's memory (memory.h), which its workers of
 * all configurations and generations share: a reload or upgrade begins no limit anew. One robust process-shared lock
 * guards it; a killed worker's connections are taken back by limits_forget(). Nothing here ever disables a service.
 * Where the peer turns out to be another one than the socket's, limits_move() counts the connection there.
 *
 * A source is an IPv4 address, an IPv6 prefix, or the uid of a unix peer. The table is bounded; where it is full of
 * sources that are all connected, newcomers are counted together, so that none ever exceeds its limit. */
#ifndef LIMITER_H
#define LIMITER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "config.h"
#include "counters.h"
#include "hark.h"

struct limits_state; /* in shared memory, its tables behind it */

/* What the state takes, alone or with the tables of sources. */
size_t limits_bytes(bool tables);

/* Makes zeroed memory a state. 0 or -errno. */
int limits_init(struct limits_state *m);

/* Whether that configuration limits anything: then its workers want the tables, too. */
bool limits_any(const struct config_service *s);

struct limits; /* a worker's own: what is configured, over a state. free(3) it */

/* For a service with that configuration. *out NULL unless limits_any(): every call takes it. 0, -ENOMEM. */
int limits_new(const struct config_service *s, struct limits_state *m, struct limits **out);

/* A worker's view of the limits: what hark_serve()'s hooks get as their argument. */
struct limits_worker {
	struct limits *limits; /* may be NULL */
	struct counters *counters;
	int slot;        /* in the counters and in the limits */
	uint64_t serial; /* limits_join()'s */
};

/* The worker takes its slot, before it asks anything: from now on nobody who had it before moves anything there. */
void limits_join(struct limits_worker *w);

/* struct hark_serve_opts' pace: 0: take the next one; > 0: look again after so many nanoseconds. 0 reserves a place and
 * a token: limits_admit() takes them, limits_leave(-1) gives them back. So max_conns is never exceeded, however many
 * workers ask at once. Counts the hold, once for each time that it begins. */
int64_t limits_pace(void *limits_worker);

/* struct hark_serve_opts' admit: a ticket >= 0 for limits_leave(), or shed it, for the reason that minus this counter
 * is. Counts the refusal, and who is let in: as accepted, and in the worker's now until limits_leave() (also with no
 * limits at all). */
int limits_admit(struct hark_conn *c, void *limits_worker);

/* The same for a connection whose source is told later, by limits_move(): until then it counts in none. */
int limits_admit_later(void *limits_worker);

/* The connection of that ticket counts from now on where its peer, as hark_peer_endpoint() tells it now, belongs; the
 * ticket stays. In any process, thread or fiber that serves it; the worker's copy in a forked child. Never suspends.
 * 0; or the counter that says why it is refused: it counts where it did until it leaves, and has cost the service no
 * token. -ECANCELED: the worker is dead. */
int limits_move(struct hark_conn *c, int ticket, const struct limits_worker *w);

/* The TLS handshake of the connection of that ticket begins, and is over; as limits_move() for who may call. 0; or the
 * counter that says why it is refused; -ECANCELED: the worker is dead. */
int limits_handshake_begins(int ticket, const struct limits_worker *w);
void limits_handshake_ended(int ticket, const struct limits_worker *w);

/* wait = yes, HARK_EVENT_LENT: a program gets the socket after limits_pace() said yes: the service's rate counts it.
 * HARK_EVENT_RETURNED: it is back. A service is not idle while a program has its socket. */
void limits_lend(void *limits_worker);
void limits_returned(void *limits_worker);

/* struct hark_serve_opts' leave: the connection is over; -1: nothing was taken after limits_pace(). */
void limits_leave(int ticket, void *limits_worker);

/* The worker of that slot is dead: what it held is given back, as soon as another one asks. Called by the supervisor;
 * it never waits. */
void limits_forget(struct limits_state *m, int slot);

/* What limiter.c asks of the world; for tests to put their own there, before anything else is called. */
struct limits_world {
	int64_t (*now)(void); /* CLOCK_MONOTONIC */
	double (*load)(void); /* the 1 min load average; < 0: not known */
	void (*locked)(void); /* called with the lock held, in the middle of a change; NULL: not */
};
extern struct limits_world limits_world;

#endif
