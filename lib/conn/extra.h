/* extra.h — what few connections have, in one block that a connection without it does not pay for: struct hark_conn is
 * full (conn.h). It takes the place of the user's pointer, and holds that.
 *
 * Made with both roles, or while nobody else knows the connection; it lasts as long as the connection. */
#ifndef HARK__EXTRA_H
#define HARK__EXTRA_H

#include "conn/conn.h"

struct hark__tls_conn; /* tls.h */

struct hark__extra {
	void *data;                 /* the user's: hark_set_data() */
	struct hark__tls_conn *tls; /* NULL: none, or its end has come */
	struct hark_proxy *proxied; /* proxy_accept.c: what its PROXY header told; NULL: there was none */
};

/* c's block; NULL: it has none. */
static inline struct hark__extra *hark__conn_extra(const struct hark_conn *c)
{
	return c->has_extra ? c->extra : NULL;
}

/* c's block, made if there is none. 0; -ENOMEM; -EOPNOTSUPP: a datagram of a listener's, which has its sender there. */
int hark__extra_make(struct hark_conn *c, struct hark__extra **out);

/* With the connection. */
void hark__extra_free(struct hark_conn *c);

#endif
