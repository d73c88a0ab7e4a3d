/* serve_drain.h — a server's ends: drain, retire, cut. */
#ifndef HARK__SERVE_DRAIN_H
#define HARK__SERVE_DRAIN_H

#include "serve/serve.h"

/* Watches for drain, retire and the supervisor's death (life_fd; -1: none), which may have come already. 0 or -errno;
 * hark__server_drain_done() either way. */
int hark__server_drain_init(struct hark__server *s, int life_fd);
void hark__server_drain_done(struct hark__server *s);

/* When the grace ends: hark_drain()'s, or this server's own if it was cancelled; HARK_FOREVER: it goes on. */
int64_t hark__server_until(const struct hark__server *s);

/* Ends this server alone, as hark_drain(0) would; its listeners stay open. */
void hark__server_cancel(struct hark__server *s);

/* A connection has ended: takes the next of a drain's backlog; the last wakes hark_serve(). */
void hark__server_drain_step(struct hark__server *s);

/* hark_retire(): leaves the backlogs to others, and ends with the last connection. */
void hark__server_retire(struct hark__server *s);

/* While a box runs in the loop's place: a drain or retirement has begun. Closes the sockets of streams, a drain's after
 * a last look at their backlog; the loop does the rest when the box has returned. */
void hark__server_close_sockets(struct hark__server *s);

/* An acceptor's listener was closed by somebody else: without any left, the same. */
void hark__server_lost_listener(struct hark__server *s);

#endif
