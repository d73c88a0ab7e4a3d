/* datagram.h — datagrams: read one whole, write one, answer one from the address it was sent to. */
#ifndef HARK__DATAGRAM_H
#define HARK__DATAGRAM_H

#include <stdbool.h>

#include "hark.h"

struct hark__datagram_socket;
struct hark__reply;

/* A datagram listener's inside while it is served: receives batches, gathers replies. It has a descriptor of its own
 * for the same socket, so that replies can leave after the listener has closed. Counts its replies; closes with the
 * last one. */
int hark__datagram_socket_open(const struct hark_listener *l, struct hark__datagram_socket **out);
void hark__datagram_socket_close(struct hark__datagram_socket *m); /* the owner's share; NULL is fine */

/* Receives up to max (and a batch) of datagrams without waiting. How many, 0: none there, or -errno. */
int hark__datagram_socket_receive(struct hark__datagram_socket *m, unsigned max);

/* Makes a connection of the i-th one received. -ENOMEM: it is dropped, as a full queue would drop it. */
int hark__datagram_socket_take(struct hark__datagram_socket *m, unsigned i, struct hark_conn **out);

/* While on, replies gather and leave with hark__datagram_socket_send() (or when a batch is full); else at once. On only
 * while no other thread writes replies. */
void hark__datagram_socket_gather(struct hark__datagram_socket *m, bool on);
void hark__datagram_socket_send(struct hark__datagram_socket *m);

void hark__reply_free(struct hark__reply *r);     /* NULL is fine */
void hark__reply_hand_off(struct hark__reply *r); /* it needs the listener's socket no more */
int hark__reply_fd(const struct hark__reply *r);
void hark__reply_set_data(struct hark__reply *r, void *data);
void *hark__reply_data(const struct hark__reply *r);
int hark__reply_hops(const struct hark__reply *r); /* hark_hops() */
int hark__reply_peer(const struct hark__reply *r, struct hark_endpoint *out);
int hark__reply_local(const struct hark__reply *r, struct hark_endpoint *out);

/* What stream.c calls for both kinds of datagram connection. fill: > 0 bytes are buffered; 0: the end, or an empty one
 * (c->have_datagram tells). With the roles. */
ssize_t hark__datagram_fill(struct hark_conn *c, unsigned events, const char *doing);
ssize_t hark__datagram_read(struct hark_conn *c, void *buf, size_t cap);
int hark__datagram_write(struct hark_conn *c, const struct iovec *iov, int count, size_t total);

#endif
