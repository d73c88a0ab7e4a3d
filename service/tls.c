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

/* Ours, and not the peer's: memory, a drain that cuts it. */
static bool is_own(int error)
{
	return error == -ENOMEM || error == -ECANCELED || error == -EINVAL;
}

static __attribute__((noinline)) int shake(struct hark_conn *c, const struct chain *chain)
{
	struct hark_conn_stats stats;
	int ticket = chain_ticket(c, chain);
	int r = limits_handshake_begins(ticket, chain->limits);
	if (r != 0)
		return r;
	hark_conn_stats(c, &stats);
	const struct hark_starttls_opts o = {.deadline = stats.opened_ns + chain->conf->tls_handshake_timeout_ns};
	r = hark_starttls(c, chain->tls, &o);
	limits_handshake_ended(ticket, chain->limits);
	if (r == 0 || is_own(r))
		return r;
	const char *why = hark_tls_failure(c);
	return chain_refuse(reason_of(r), why != NULL && r != -ETIMEDOUT ? why : "");
}

/* Whoever speaks first does so behind the handshake: until then a connection costs little. */
int chain_tls(struct hark_conn *c, const struct chain *chain)
{
	if (!hark_tls_due(c))
		return 0;
	int r = shake(c, chain);
	if (r != 0 || !chain_client_first(chain))
		return r;
	r = hark_idle(c);
	return r < 0 ? r : 0;
}
