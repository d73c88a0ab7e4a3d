/* serve_limits.h — the limits of hark serve: harkd's own limiter, over the processes of one hark_serve(). */
#ifndef SERVE_LIMITS_H
#define SERVE_LIMITS_H

#include "chain.h"
#include "hark.h"
#include "limiter.h"
#include "tickets.h"

struct serve_shared;

/* Zeroes are no limits. Each worker has a copy, but for what shared points at. */
struct serve_limits {
	struct limits *limits;
	struct limits_state *state;
	struct serve_shared *shared;
	struct limits_worker worker; /* of the process pid */
	struct tickets_user tickets;
	pid_t pid;
	bool once, taken; /* one connection, and then no more */
	const struct chain *chain;
};

/* c: with its box and its addresses. once: --once. 0 or -errno. */
int serve_limits_open(struct serve_limits *l, const struct config_service *c, bool once);
void serve_limits_close(struct serve_limits *l);

/* Puts the hooks in that the limits want, if any. chain asks them: its limits are l's worker. */
void serve_limits_hook(struct serve_limits *l, const struct chain *chain, struct hark_serve_opts *opts);

/* HARK_EVENT_LENT, and HARK_EVENT_RETURNED. */
void serve_limits_lent(struct serve_limits *l, bool lent);

/* HARK_EVENT_WORKER_DOWN: what it held is given back. */
void serve_limits_worker_down(struct serve_limits *l, pid_t pid);

#endif
