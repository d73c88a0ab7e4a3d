/* serve_linger.h — served connections after their box: closed, or their peers' last input dropped first. */
#ifndef HARK__SERVE_LINGER_H
#define HARK__SERVE_LINGER_H

#include "serve/serve.h"

/* 0 or -ENOMEM; done() either way. */
int hark__linger_init(struct hark__server *s);
void hark__linger_done(struct hark__server *s);

/* Ends c, whose box has returned and whose output is flushed: at once, or as hark_close() would, without waiting here.
 * hark__server_ended() follows. Consumes c. Thread: the loop's. */
void hark__linger(struct hark__server *s, struct hark_conn *c);

/* Looks at those that are due, if any: for who runs often while others come. */
void hark__linger_look_due(struct hark__server *s);

/* Ends those whose peers have ended by now; of the same source as like, if that is not NULL. */
void hark__linger_look(struct hark__server *s, const struct hark_conn *like);

/* The same; and each that goes on tells of its end as soon as it comes: somebody waits for its place. */
void hark__linger_watch(struct hark__server *s);

/* A drain begins: they linger for less long. */
void hark__linger_drain(struct hark__server *s);

/* The grace has ended: closes them. */
void hark__linger_cut(struct hark__server *s);

#endif
