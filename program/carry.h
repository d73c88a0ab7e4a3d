/* carry.h — a pump between two connections. Any model: where there is no loop the first fiber makes one. */
#ifndef CARRY_H
#define CARRY_H

#include <stdbool.h>

#include "hark.h"

/* Carries both ways, streams or datagrams, until both directions have ended or one has failed. One direction's end is
 * passed on as a half-close, and the other goes on. What breaks one side breaks the other: the caller resets target
 * then, so that a peer that gets less than all sees no end in order. It is over, too, when neither direction has moved
 * for the idle time-out, which both have (twice as long at most).
 *
 * single: client is one datagram and no conversation.
 *
 * In a drain: where nothing moves for a second, target reads the end of client's input; where still nothing does, it
 * ends in order. What moves goes on until the grace ends. May suspend. Both stay the caller's. 0 or -errno. */
int carry_both(struct hark_conn *client, struct hark_conn *target, bool single);

/* The same of streams; *client_ended becomes true, for the caller's other fibers, when all that client has sent has
 * been passed on, and its end. */
int carry_streams(struct hark_conn *client, struct hark_conn *target, bool *client_ended);

/* Carries one datagram, whose sender cannot be answered. 0 or -errno. */
int carry_once(struct hark_conn *client, struct hark_conn *target);

#endif
