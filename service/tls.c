/* tls.c — TLS's link of the session chain: the handshake, for connections from tls:// addresses.
 *
 * Each handshake that fails costs its own connection alone. */
#include <errno.h>

#include "chain.h"

static enum counter reason_of(int error)
{
	switch (error) {
	case -HARK_ECERT: return REFUSED_CLIENT_CERT;
	case -ETIMEDOUT: return REFUSED_TLS_TIMEOUT;
	default: return REFUSED_TLS;
	}
}

static const char *why(struct hark_conn *c, int error)
{
	const char *words = hark_tls_failure(c);
	return error == -ETIMEDOUT ? "" : words != NULL ? words : hark_strerror(error);
}

/* Silence is no handshake: it takes nobody's place, and little memory. */
static int await_hello(struct hark_conn *c, int64_t until, int64_t deadline)
{
	hark_deadline(c, until < deadline ? until : deadline);
	int r = hark_idle(c);
	hark_deadline(c, deadline);
	if (r == 0 && hark_drain_deadline() != HARK_FOREVER)
		return -ECANCELED;
	return r < 0 ? r : 0; /* of an end TLS tells more */
}

static __attribute__((noinline)) int shake(struct hark_conn *c, const struct chain *chain, int64_t until)
{
	int ticket = chain_ticket(c, chain), r = limits_handshake_begins(ticket, chain->limits);
	if (r != 0)
		return r;
	r = hark_starttls(c, chain->tls, &(struct hark_starttls_opts){.deadline = until});
	limits_handshake_ended(ticket, chain->limits);
	return r;
}

/* Whoever speaks first does so behind the handshake: until then a connection costs little. */
int chain_tls(struct hark_conn *c, const struct chain *chain)
{
	struct hark_conn_stats stats;
	if (!hark_tls_due(c))
		return 0;
	hark_conn_stats(c, &stats);
	int64_t until = stats.opened_ns + chain->conf->tls_handshake_timeout_ns;
	int r = await_hello(c, until, stats.deadline_ns);
	if (r == 0)
		r = shake(c, chain, until);
	if (r < 0 && !chain_is_own(r))
		return chain_refuse(reason_of(r), why(c, r));
	if (r != 0 || !chain_client_first(chain))
		return r;
	r = hark_idle(c);
	return r < 0 ? r : 0;
}
