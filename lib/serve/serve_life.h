/* serve_life.h — a served connection: started, its events told, ended. */
#ifndef HARK__SERVE_LIFE_H
#define HARK__SERVE_LIFE_H

#include "serve/serve.h"

void hark__server_event(struct hark__server *s, struct hark_event e);

/* True if max_conns are being served. */
bool hark__server_full(const struct hark__server *s);

/* Asks admit(), counts c and hands it to the model. Consumes c. True if it was started or shed; false if there was no
 * room: c is kept as s->stuck, and the acceptors pause. */
bool hark__server_start(struct hark__server *s, struct hark_conn *c);

/* Tries s->stuck again, if there is one. False: still no room. */
bool hark__server_start_stuck(struct hark__server *s);

/* Runs the box on c, in the connection's own process, thread or fiber: from its first event to its last, output
 * flushed. hark__server_finish() follows; in a forked child hark_close() or hark_abort(), by c->status. */
void hark__server_run(struct hark__server *s, struct hark_conn *c);

/* Ends c as its status says, without waiting, and then calls hark__server_ended(). Consumes c. Thread: the loop's. */
void hark__server_finish(struct hark__server *s, struct hark_conn *c);

/* How c ends as its status says: as hark_close() does, or by hark_abort(). */
bool hark__server_ends_in_order(const struct hark_conn *c);

/* When the handshake of c, which is accepted from tls://, must be over. */
int64_t hark__server_handshake_until(const struct hark__server *s, const struct hark_conn *c);

/* Closes c without a box: nobody spoke. Its two events are told all the same. error: 0 or what ended it. Frees c. */
void hark__server_run_silent(struct hark__server *s, struct hark_conn *c, int error);

/* A connection that start() took is over. lent, ticket: its conn's. Thread: the loop's. */
void hark__server_ended(struct hark__server *s, struct hark__acceptor *lent, int ticket);

/* Calls leave(), if there is one. ticket -1: nothing to tell. */
void hark__server_leave(struct hark__server *s, int ticket);

#endif
