/* chain.h — the session chain: what stands between an accepted connection and its box, the same in every model and for
 * hark serve and harkd.
 *
 * It runs where the box will run (a child, a thread, a fiber), so that a link may wait; but for chain_admit(), which
 * the accepting worker asks before anything is started. Each link goes on to the next, refuses with a reason, which is
 * counted, or fails: the connection is reset, and HARK_EVENT_REFUSED or HARK_EVENT_CLOSE tells it. */
#ifndef CHAIN_H
#define CHAIN_H

#include "config.h"
#include "limiter.h"
#include "renew.h"

struct chain {
	const struct config_service *conf;
	const struct hark_box_row *box;
	void *state; /* the box's */
	struct limits_worker *limits;
	struct hark_tls *tls; /* of tls:// addresses; NULL: there are none */
	struct renew *renews; /* files that this process reads again itself, n_renews of them */
	int n_renews;
	/* The limits' ticket of what hark_ticket() gave; NULL: the same. */
	int (*limits_ticket)(int ticket);
	/* c's peer is another one than the socket's: for who lists connections. NULL: nobody. */
	void (*peer_changed)(struct hark_conn *c);
};

/* Whether the peer speaks first, where no proxy does. */
bool chain_client_first(const struct chain *chain);

/* The first link, for struct hark_serve_opts' admit: limits by the socket's address, but for proxies; who is neither a
 * proxy nor served without one is refused. As limits_admit(). Before that it has changed files read again. */
int chain_admit(struct hark_conn *c, const struct chain *chain);

/* For hark_serve(): arg is a struct chain, constant while it serves. */
hark_box chain_serve;

/* The same with wait: the box gets the listening socket, there is no connection yet. */
hark_box chain_serve_lent;

/* A link. 0: go on; > 0: an enum counter, the reason to refuse; < 0: a -errno: the connection has failed. */
typedef int chain_link(struct hark_conn *c, const struct chain *chain);

/* tls.c. TLS, where c comes from a tls:// address. */
chain_link chain_tls;

/* Limits by the real peer: behind a link that has made hark_peer() another one. */
chain_link chain_limit_peer;

/* A failure of ours: memory, a drain that cuts it. The peer's are refusals: counted by reason, their lines bounded. */
bool chain_is_own(int error);

/* For a link: the reason, and it in words for chain_why(). */
int chain_refuse(enum counter reason, const char *why);

/* Why the connection was refused that this thread has refused last, in words, where the link that did it for this
 * reason knows more than its name; NULL: it does not. For the handler of its HARK_EVENT_REFUSED. */
const char *chain_why(int reason);

/* The limits' ticket of c. */
int chain_ticket(const struct hark_conn *c, const struct chain *chain);

/* What chain_serve() does, with those links. */
void chain_run(struct hark_conn *c, const struct chain *chain, chain_link *const links[], size_t n);

#endif
