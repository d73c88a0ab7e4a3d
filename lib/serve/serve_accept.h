/* serve_accept.h — a server's acceptors: one for each listener. */
#ifndef HARK__SERVE_ACCEPT_H
#define HARK__SERVE_ACCEPT_H

#include "serve/serve.h"

/* 0 or -errno, -EBADF: a listener is closed; done() either way: nothing runs afterwards, and the sockets are closed,
 * unless leave() was called before. */
int hark__acceptors_init(struct hark__server *s, struct hark_listener *const listeners[], int n);
void hark__acceptors_done(struct hark__server *s);

/* Gives the listeners back as they are: nothing was begun. */
void hark__acceptors_leave(struct hark__server *s);

/* Has each look at its backlog, from the loop. */
void hark__acceptors_wake(struct hark__server *s);

/* Accepts nothing more for ns, or until a connection ends. error: 0: max_conns, EBUSY: pace(), else what ran short. */
void hark__acceptors_pause(struct hark__server *s, int error, int64_t ns);
void hark__acceptors_resume(struct hark__server *s);

/* True if one more may be accepted; pauses the acceptors if not. */
bool hark__acceptors_may_accept(struct hark__server *s);

/* How many connections wait in the backlog; of what is not TCP, 1 if any. tcp(7), TCP_INFO: tcpi_unacked is the accept
 * queue's length there. */
unsigned hark__acceptor_waiting(const struct hark__acceptor *a);

/* Waits for the next connection. */
void hark__acceptor_watch(struct hark__acceptor *a);

/* True if something waits and pace() lets it in; else watches or pauses. After true: hark__server_start(), or
 * hark__pace_unused() if nothing was taken. */
bool hark__acceptor_paced(struct hark__acceptor *a);

/* Takes a connection from the backlog: hark__accept_now(). */
int hark__acceptor_take(struct hark__acceptor *a, struct hark_conn **out);

/* Closes the socket; what was accepted goes on. */
void hark__acceptor_close(struct hark__acceptor *a);

/* The same, and the copy that replies to datagrams go through; those under way are sent. */
void hark__acceptor_retire(struct hark__acceptor *a);

/* The caller's pace(): 0: one may come; else for how long none may. hark__pace_unused(): the one did not come. */
int64_t hark__pace(struct hark__server *s);
void hark__pace_unused(struct hark__server *s);

/* serve_wait.c, opts.wait: lends the socket to a box, and takes it back. */
void hark__acceptor_lend(struct hark__acceptor *a);
void hark__acceptor_prepare(struct hark__acceptor *a); /* before anything comes: see arrival() there */
void hark__acceptor_unprepare(struct hark__acceptor *a);
void hark__acceptor_returned(struct hark__acceptor *a);

#endif
