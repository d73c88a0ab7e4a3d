/* transport.h — what lies under a connection, as a table of few operations: a socket, a file (a pipe, a terminal), TLS
 * over a socket. Everything above asks the table, never which one it is. Only what makes a connection names one.
 *
 * No operation waits: -EAGAIN means that hark__conn_wait() for its direction will tell. TLS is OpenSSL whose BIO calls
 * the socket's receive and send; it has neither `post` nor a plain descriptor, and `pending` tells what lies decrypted.
 *
 * Datagrams keep their messages apart (datagram.c) and use the table for their descriptor and their end alone.
 *
 * Who calls receive has the reader's role; send, post, push and shutdown the writer's, or out_lock. */
#ifndef HARK__TRANSPORT_H
#define HARK__TRANSPORT_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>
#include <sys/uio.h>

struct hark_conn;

struct hark__transport {
	/* At most cap bytes of what is there. > 0; 0: the end; -EAGAIN; another -errno. */
	ssize_t (*receive)(struct hark_conn *c, void *buf, size_t cap);
	/* Bytes that receive() has without asking the kernel; they are not in c->in. */
	size_t (*pending)(const struct hark_conn *c);
	/* Some of what iov holds. > 0; -EAGAIN; another -errno. With c->ending the end follows at once. */
	ssize_t (*send)(struct hark_conn *c, const struct iovec *iov, int count);
	/* Takes a copy of these bytes, to be sent together with other connections'. false: it does not. May be NULL. */
	bool (*post)(struct hark_conn *c, const void *bytes, size_t n);
	/* Sends what send() has taken and still holds; with c->ending also what belongs before the end. 0; -EAGAIN;
	 * another -errno. NULL: it holds nothing. */
	int (*push)(struct hark_conn *c);
	/* Ends directions (HARK_IN, HARK_OUT) behind what was sent, whoever else has the descriptor. 0; -EAGAIN: wait
	 * for HARK__OUT; another -errno. */
	int (*shutdown)(struct hark_conn *c, int directions);
	/* Bytes that the peer has not confirmed yet, or -errno. NULL: closing never loses any. */
	int (*unsent)(const struct hark_conn *c);
	/* Makes the end look cut, at once, whoever else has the descriptor. What is unsent is dropped. */
	void (*reset)(struct hark_conn *c);
	/* Nobody reads on: what comes need not be made bytes. NULL: it is none but them. */
	void (*discard)(struct hark_conn *c);
	/* Closes the descriptor without waiting. */
	void (*close)(struct hark_conn *c);
	/* Whether another program can read on from the descriptor. */
	bool plain;
	/* Whether splice(2) and sendfile(2) may use the descriptor: plain bytes, and its O_NONBLOCK is ours to set. */
	bool kernel_moves;
};

/* By hark_conn.transport: an index, as a silent connection's 264 bytes are a chunk of malloc's to the byte. */
enum hark__transport_kind { HARK__SOCKET, HARK__FILE, HARK__TLS, HARK__TRANSPORTS };

extern const struct hark__transport hark__transport_socket, hark__transport_file, hark__transport_tls;
extern const struct hark__transport *const hark__transports[HARK__TRANSPORTS];

#endif
