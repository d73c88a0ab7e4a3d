/* conns.h — who is connected now: a table for each worker, in memory that it and the supervisor share and no one else.
 *
 * The worker writes a row when it admits a connection and takes it back when that is over; processes that it forks for
 * connections share the table. The supervisor reads, asks for byte counts to be brought up to date, and asks for a
 * connection to be ended: it sets a mark and sends SIGUSR2, whose handler does it where the descriptor is. What a row
 * says is the worker's word: the supervisor follows no number in it, and bounds what it reads.
 *
 * Datagrams are listed without byte counts, and have nothing to end. With wait there is no connection to list. */
#ifndef CONNS_H
#define CONNS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "hark.h"

#define CONNS_MAX 4096 /* of a worker; more are served and not listed */

struct conn_row {
	_Atomic uint32_t state;              /* enum, in conns.c: whose the row is */
	atomic_bool end;                     /* the supervisor's mark */
	atomic_bool open;                    /* a stream, and it is not over */
	_Atomic int32_t owner;               /* the process that has it; 0: not forked yet */
	_Atomic uint32_t answered;           /* the last SIGUSR2 that owner has obeyed */
	_Atomic int32_t program;             /* that serves in its place; 0: none */
	_Atomic int64_t bytes_in, bytes_out; /* TCP's, as the kernel last told; -1: not known */
	_Atomic int64_t header;              /* bytes of the proxy's, which are not counted */
	uint64_t serial;                     /* of the worker's connections: with its pid that is the ID */
	int64_t opened_ns;                   /* hark_now() */
	int type;                            /* SOCK_STREAM, SOCK_DGRAM */
	_Atomic uint32_t local_len;          /* of local, stored after it; 0: not known yet */
	struct sockaddr_storage local; /* which of the service's addresses: a stream's is asked for with its bytes */
	struct hark_endpoint peer;
	bool has_peer, has_credentials;
	struct hark_credentials credentials;
};

struct conns {
	_Atomic uint32_t high;            /* rows ever used */
	_Atomic uint32_t unlisted;        /* served now for which there was no row */
	_Atomic uint32_t asked, answered; /* SIGUSR2's: the supervisor's and the worker's */
	struct conn_row rows[CONNS_MAX];
};

/* The supervisor's: a table for a worker about to be forked; *fd is for conns_attach(), and to be closed then. 0 or
 * -errno. */
int conns_new(struct conns **out, int *fd);
void conns_free(struct conns *t);

/* The worker's, before it serves: maps the table and catches SIGUSR2. t: the supervisor's mapping is not in the child.
 * 0 or -errno: there is no table, and every other call does nothing. */
int conns_attach(int fd);

/* A row for c, admitted now; -1: none. forked: a child will serve it. Loop's thread. */
int conns_add(struct hark_conn *c, bool forked);
void conns_remove(int row);

/* In the connection's own process, thread or fiber; row may be -1. */
void conns_opened(int row);
void conns_program(int row, pid_t pid);
void conns_peer(int row, struct hark_conn *c); /* it has another one now */
void conns_closed(int row);                    /* it is about to be freed */

#endif
