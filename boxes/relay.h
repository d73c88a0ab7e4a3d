/* relay.h — what relay's files share: its arguments, and the addresses that a connection may go on to. */
#ifndef RELAY_H
#define RELAY_H

#include <stdatomic.h>

#include "hark.h"

#define RELAY_TARGETS_MAX 256

struct relay_target {
	const char *address; /* in argv */
};

struct relay {
	const char *local; /* NULL: as the kernel chooses */
	int64_t dial_ns;   /* for one address */
	int64_t rest_ns;   /* one that has failed is left alone for so long */
	int type;          /* SOCK_STREAM, SOCK_DGRAM */
	int n;
	struct relay_target *targets; /* n of them, in the order in which they are tried */
	/* n of them, shared with forked children: hark_now() until when each is left alone; 0: it is well. Relaxed:
	 * each stands for itself. */
	_Atomic int64_t *rest_until;
};

/* ---- relay_dial.c ---- */

/* 0; -ENOMEM. */
int relay_rests_open(struct relay *x);
void relay_rests_close(struct relay *x);

/* Dials the first address that answers; those that failed of late are left to the end. May suspend. What was tried
 * last is relay_tried(client) from then on. 0; -ELOOP: the relay itself; the last one's -errno. */
int relay_dial(const struct relay *x, struct hark_conn *client, struct hark_conn **target);

/* The address that client went on to, or that was tried last; NULL: none yet. */
const struct relay_target *relay_tried(const struct hark_conn *client);

/* What client went on to has failed after all. */
void relay_failed(const struct relay *x, const struct hark_conn *client);

#endif
