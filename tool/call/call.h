/* call.h — what the files of hark call share: the call itself, and who does which part of it.
 *
 * All of it runs on the fibers of one loop: nothing here is guarded. cmd_call.c owns the struct; standard input and
 * output belong to the call, the peer to one connection of it. */
#ifndef CALL_H
#define CALL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "hark.h"
#include "tls.h"
#include "tool.h"

#define CALL_DATAGRAM_MAX 65507 /* bytes: the largest payload of UDP over IPv4; an input is cut there */

struct call_args {
	int64_t connect_timeout, idle_timeout, wait, quit;
	const char *local, *source_port;
	int count;
	bool udp, unix_socket, ipv4, ipv6, numeric;
	bool listen, keep_open, scan;
	bool reserved_port, crlf, lines, send_only, recv_only, half_close, no_half_close;
	bool raw, verbose, json;
	struct tls_args tls;
};

struct call {
	const struct verb *verb;
	struct call_args args;
	char address[HARK_ADDRESS_MAX]; /* canonical */
	struct hark_address parsed;     /* of tls:// what is under it: tcp, tcp4, tcp6 */
	bool tls;
	struct hark_tls *tls_settings; /* NULL: a client's defaults */
	char local[HARK_ADDRESS_MAX];  /* where to come from, as hark_dial_opts takes it; "" */
	struct hark_conn *peer, *in, *out;
	bool stream;
	bool to_terminal;        /* standard output is one, and not --raw */
	struct hark_scope scope; /* of the two directions */
	int running;             /* of the two directions */
	int64_t last_in_ns;      /* when the last datagram came, or the input ended */
	bool out_failed;         /* standard output takes no more: no further connection is of use */
	int error;               /* of this connection: its first, as -errno */
	struct hark_why why;     /* the same in words */
	int status;
};

/* ---- target.c: operands to an address --------------------------------------------------------- */

/* Fills c->address, c->parsed and c->local. Returns 0, or the exit code after an error was told. */
int call_target(struct call *c, int n, char *const operands[]);

/* ---- report.c: what happens, in words or as JSON lines on standard error ----------------------- */

/* An error, whatever was asked for. */
void report_error(const struct call *c, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Only with --verbose or --json. */
void report_lookup(const struct call *c, int64_t took_ns);
void report_attempt(const struct hark_attempt *a, void *call);
void report_listening(const struct call *c, const char *address);
void report_open(const struct call *c);
/* How TLS's handshake went, in success and failure alike; the failure itself is report_error()'s. */
void report_tls(const struct call *c, int64_t took_ns);
void report_close(const struct call *c, const struct hark_conn_stats *stats);

/* ---- the rest ---------------------------------------------------------------------------------- */

/* dial.c: connects to c->address. Returns the exit code. May suspend. */
int call_dial(struct call *c);

/* starttls.c: TLS's handshake on c->peer, if it is to be one. 0, or -errno with why. May suspend. */
int call_starttls(const struct call *c, struct hark_conn *peer, int64_t deadline, struct hark_why *why);
/* The same on c->peer, told; ends that where it fails. Returns the exit code. */
int call_begin_tls(struct call *c, int64_t deadline);

/* listen.c: takes one connection after the other, or one alone, and serves it from standard input and output. */
int call_listen(struct call *c);

/* carry.c: both directions between c->peer and c->in and c->out, until the call is over. Closes the peer. */
void call_carry(struct call *c);

/* The first failure is the one that is told; it ends this connection. */
void call_fail(struct call *c, const char *where, int err);

/* messages.c: the directions of datagrams. 0 or -errno, *to_failed as for hark_copy(). */
int call_send_messages(struct call *c, bool *to_failed);
int call_receive_messages(struct call *c, bool *to_failed);

/* scan.c: -z. words are the ports, as numbers, ranges, names and lists of these. Returns the exit code. */
int call_scan(struct call *c, const char *host, int n, char *const words[]);

#endif
