/* attempt.h — one attempt of a dial: a socket of its own, made ready and its connect(2) begun. dial.c races them. */
#ifndef HARK__ATTEMPT_H
#define HARK__ATTEMPT_H

#include "conn/conn.h"
#include "hark.h"

#define HARK__LOCALS_MAX 8 /* addresses that a local host name may have */

/* What every attempt of a dial has in common. */
struct hark__attempt_plan {
	const struct hark_dial_opts *opts; /* never NULL */
	struct hark_endpoint
		locals[HARK__LOCALS_MAX]; /* where to come from: the first one of the right family is used */
	int n_locals;                     /* 0: the kernel chooses */
};

/* Takes opts->local apart, for a dial of address. May suspend: it may be a name. -EINVAL with why, or
 * hark__resolve()'s. */
int hark__attempt_plan(struct hark__attempt_plan *plan, const struct hark_address *address,
                       const struct hark_dial_opts *opts, int64_t deadline, struct hark_why *why);

/* Makes the socket and begins to connect. Waits shortly at most where a unix path to come from seems to be left by the
 * dead. The caller owns *out where the result is 0 or -EINPROGRESS.
 * 0: connected. -EINPROGRESS: wait until it is writable, then ask hark__attempt_check(). -EAGAIN: a unix server whose
 * backlog is full, of whose room nothing tells: try again. Else -errno, and *step names what failed where it was not
 * the connect. */
int hark__attempt_begin(const struct hark__attempt_plan *plan, const struct hark_endpoint *to, struct hark_conn **out,
                        const char **step);

/* c was dialed with fast_open, and its reader is about to wait: if nothing was written, the SYN leaves without data. */
void hark__attempt_send_syn(struct hark_conn *c);

/* 0: connected, and c is as every connection is; -EINPROGRESS: not yet; -errno: failed. */
int hark__attempt_check(struct hark_conn *c);

#endif
