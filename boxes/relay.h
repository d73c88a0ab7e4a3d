/* relay.h — what relay's files share: its arguments, and the addresses that a connection may go on to. */
#ifndef RELAY_H
#define RELAY_H

#include <stdatomic.h>

#include "client_hello.h"
#include "hark.h"

#define RELAY_TARGETS_MAX 256

struct relay_target {
	const char *address;  /* in argv */
	bool tls;             /* tls://: TCP, then TLS */
	const char *name;     /* "*.example.org", "*"; no NUL ends it; NULL: for who goes nowhere else */
	const char *protocol; /* of ALPN, likewise; NULL: any */
	size_t name_bytes, protocol_bytes;
	int route; /* the place of the first target with this name and protocol: they are tried in turn */
};

struct relay {
	const char *local; /* NULL: as the kernel chooses */
	int64_t dial_ns;   /* for one address */
	int64_t rest_ns;   /* one that has failed is left alone for so long */
	int64_t hello_ns;  /* for a client's hello, where there are names */
	int type;          /* SOCK_STREAM, SOCK_DGRAM */
	int proxy_version; /* of the PROXY header that targets get; 0: none */
	/* of tls:// targets */
	const char *ca, *server_name, *target_cert, *target_key, *target_alpn;
	bool insecure;
	struct hark_tls *tls; /* NULL: there is none */
	bool named;           /* some target has a name: who is asked for says where a connection goes on to */
	int n;
	struct relay_target *targets; /* n of them, in the order in which they are tried */
	/* n of them, shared with forked children: hark_now() until when each is left alone; 0: it is well. Relaxed:
	 * each stands for itself. */
	_Atomic int64_t *rest_until;
};

/* ---- relay.c ---- */

/* Keeps why client failed or was refused, for the log. Nothing may suspend from then on until its box has returned. */
void relay_tell(const struct hark_conn *client, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* ---- relay_dial.c ---- */

/* 0; -ENOMEM. */
int relay_rests_open(struct relay *x);
void relay_rests_close(struct relay *x);

/* Dials the route's first address that answers, with all that comes before the client's bytes: relay_introduce(), and
 * TLS's handshake. Those that failed of late are left to the end. May suspend. What was tried last is
 * relay_tried(client) from then on. asked: what the client asked for, if it was read; may be NULL. 0; -ELOOP: the relay
 * itself; the last one's -errno, with why where that says more, else "". */
int relay_dial(const struct relay *x, int route, struct hark_conn *client, const struct client_hello *asked,
               struct hark_conn **target, struct hark_why *why);

/* The address that client went on to, or that was tried last; NULL: none yet. */
const struct relay_target *relay_tried(const struct hark_conn *client);

/* What client went on to has failed after all. */
void relay_failed(const struct relay *x, const struct hark_conn *client);

/* ---- relay_route.c ---- */

/* Takes "NAME=", "NAME/PROTOCOL=" or nothing off the front of word, as those of t, and gives t its route; the targets
 * before it have theirs. -EINVAL with why. */
int relay_route_parse(const struct relay *x, struct relay_target *t, const char *word, struct hark_why *why);

/* The route for that name and that list of protocols (RFC 7301's), the first in order; -HARK_ENOHOST: there is none. */
int relay_route_find(const struct relay *x, const char *name, const uint8_t *protocols, size_t protocols_bytes);

/* The beginning of a connection that was read to see where it goes on to. */
struct relay_opening {
	struct client_hello hello; /* where we have ended the client's TLS: what was agreed on */
	size_t n, cap;             /* then 0 */
	uint8_t *bytes;            /* on the heap, for free(3); NULL: none yet */
};

/* Reads c's TLS hello, unless the server has ended its TLS, and finds its route; who has none is told by an alert. May
 * suspend. The route; -ENODATA: c was refused, or the client has left, or a drain has begun, before its first byte;
 * another -errno. Whatever it is, the caller frees o->bytes. */
int relay_opening_read(const struct relay *x, struct hark_conn *c, struct relay_opening *o);

/* ---- relay_proxy.c ---- */

/* Tells target about client, if x wants that, before anything else is written there. asked: see relay_dial(). May
 * suspend. 0 or -errno. */
int relay_introduce(const struct relay *x, struct hark_conn *client, const struct client_hello *asked,
                    struct hark_conn *target);

/* ---- relay_tls.c ---- */

/* Whether its options go together. 0 or -EINVAL with why. */
int relay_tls_check(const struct relay *x, struct hark_why *why);

/* Reads certificates and keys, also once more while it serves. 0 or a -errno with why. */
int relay_tls_open(struct relay *x, struct hark_why *why);

/* The same address, its scheme tcp://. */
void relay_tls_plain(const char *address, char out[HARK_ADDRESS_MAX]);

/* The handshake with t. May suspend. 0 or -errno. */
int relay_tls_begin(const struct relay *x, const struct relay_target *t, struct hark_conn *target, int64_t deadline);

#endif
