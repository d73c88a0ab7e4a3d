/* conn.h — a connection's inside, shared by stream.c, datagram.c, dial.c, listen.c and the servers.
 *
 * Kept small: a silent accepted connection is this struct and nothing else, so a million of them fit in a fraction of a
 * gigabyte. Buffers are taken when bytes are there and given back when they are gone. */
#ifndef HARK__CONN_H
#define HARK__CONN_H

#include <netinet/in.h>
#include <stdatomic.h>

#include "buffer.h"
#include "engine.h"
#include "hark.h"

enum hark__conn_kind {
	HARK__STREAM,   /* a stream socket */
	HARK__DATAGRAM, /* a connected datagram socket */
	HARK__REPLY,    /* one received datagram; writes go to its sender through the listener's socket */
	HARK__FILE,     /* pipe, terminal, file: read(2) and write(2), poll(2) first */
};

struct hark__server; /* serve.h; the server that gave this connection, if one did */
struct hark__reply;  /* datagram.h; where a HARK__REPLY's answers go */

struct hark_conn {
	struct hark__source src; /* src.fd is the descriptor; -1: a HARK__REPLY, or handed away */
	uint8_t kind;
	bool eof;                /* the end of the stream was read */
	bool started;            /* a byte was read from it, ever: drain tells a new connection from an idle one */
	bool idle;               /* its reader waits in hark_idle(): drain may end it */
	atomic_bool reading;     /* the reader's and the writer's role are taken; exchange acquire, store release */
	atomic_bool writing;
	atomic_bool waiting_in;  /* the reader is waiting: writes must not stay behind in out. seq_cst with writing */
	int64_t deadline;        /* HARK_FOREVER: none */
	int64_t idle_ns;         /* 0: none */
	int64_t opened;
	int status;              /* hark_outcome() */
	struct hark__buffer in, out;
	uint64_t bytes_in, bytes_out;
	union {                  /* the peer as accept told it; family 0: not told, ask getpeername(2) */
		struct sockaddr_in v4;
		struct sockaddr_in6 v6;
		struct sockaddr any;
	} peer;
	struct hark__server *server;
	struct hark__reply *reply;
	struct hark__list link;  /* in the server's list */
};

/* A connection over fd, deadline and time-outs off. Takes fd only on success. -ENOMEM. */
int hark__conn_new(int fd, enum hark__conn_kind kind, struct hark_conn **out);

/* Detaches, closes fd, frees c and its buffers. Nothing is flushed. Not for a connection in use. */
void hark__conn_free(struct hark_conn *c);

/* Keeps what accept(2) told of the peer, v4-mapped addresses turned into IPv4. */
void hark__conn_set_peer(struct hark_conn *c, const struct sockaddr_storage *peer, socklen_t len);

/* Turns a v4-mapped IPv6 address into IPv4, in place. */
void hark__unmap(struct hark_endpoint *e);

/* The earliest of the connection's deadline, its idle time-out from now, and the drain's end where it is served. */
int64_t hark__conn_until(struct hark_conn *c);

#endif
