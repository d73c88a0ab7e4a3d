/* chain.c — see chain.h. A new link is a function and a line in links. */
#include "chain.h"

#include <errno.h>
#include <limits.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#define KEEPALIVE_MAX_S 32767 /* tcp(7) takes no more */
#define PROBES          8     /* of keepalive, before a peer is taken for gone */

/* Of the thread's last refusal. Nothing suspends between that and its event. */
static _Thread_local struct {
	int reason;
	char text[sizeof(struct hark_why)];
} why_refused;

bool chain_is_own(int error)
{
	return error == -ENOMEM || error == -ECANCELED || error == -EINVAL;
}

int chain_refuse(enum counter reason, const char *why)
{
	why_refused.reason = (int)reason;
	(void)snprintf(why_refused.text, sizeof why_refused.text, "%s", why);
	return (int)reason;
}

const char *chain_why(int reason)
{
	return why_refused.reason == reason ? why_refused.text : NULL;
}

/* ---- proxies --------------------------------------------------------------------------------- */

/* Datagrams have no header. */
static bool behind_proxies(const struct hark_conn *c, const struct config_service *conf)
{
	return conf->n_proxy_from > 0 && hark_type(c) == SOCK_STREAM;
}

static bool is_proxy(struct hark_conn *c, const struct config_service *conf)
{
	struct hark_endpoint e;
	return hark_peer_endpoint(c, &e) == 0 &&
	       network_has(conf->proxy_from, conf->n_proxy_from, (const struct sockaddr *)&e.addr);
}

/* Who is to be refused is so before anything is started. */
int chain_admit(struct hark_conn *c, const struct chain *chain)
{
	for (int i = 0; i < chain->n_renews; i++)
		renew_look(&chain->renews[i]);
	if (!behind_proxies(c, chain->conf))
		return limits_admit(c, chain->limits);
	if (is_proxy(c, chain->conf))
		return limits_admit_later(chain->limits);
	if (chain->conf->proxy_direct)
		return limits_admit(c, chain->limits);
	limits_leave(-1, chain->limits);
	counters_add(chain->limits->counters, REFUSED_PROXY_FROM, 1);
	return -(int)REFUSED_PROXY_FROM;
}

/* A proxy's health check, LOCAL, has no client that could be limited. */
static int accept_proxy(struct hark_conn *c, const struct chain *chain)
{
	const struct config_service *conf = chain->conf;
	struct hark_why why = {""};
	if (!behind_proxies(c, conf))
		return 0;
	if (!is_proxy(c, conf))
		return conf->proxy_direct ? 0 : (int)REFUSED_PROXY_FROM;
	int r = hark_proxy_accept(c, hark_after(conf->proxy_timeout_ns), &why);
	if (r == -ETIMEDOUT) /* or a drain waits no longer */
		return hark_drain_deadline() == HARK_FOREVER ? (int)REFUSED_PROXY_TIMEOUT : -ECANCELED;
	if (r < 0)
		return chain_is_own(r) ? r : chain_refuse(REFUSED_PROXY_HEADER, why.text);
	return hark_proxied(c)->local ? 0 : chain_limit_peer(c, chain);
}

/* ---- the chain ------------------------------------------------------------------------------- */

int chain_ticket(const struct hark_conn *c, const struct chain *chain)
{
	int ticket = hark_ticket(c);
	return chain->limits_ticket != NULL ? chain->limits_ticket(ticket) : ticket;
}

int chain_limit_peer(struct hark_conn *c, const struct chain *chain)
{
	if (chain->peer_changed != NULL)
		chain->peer_changed(c);
	return limits_move(c, chain_ticket(c, chain), chain->limits);
}

bool chain_client_first(const struct chain *chain)
{
	const struct config_service *conf = chain->conf;
	if (conf->banner != NULL)
		return false;
	return conf->client_first < 0 ? chain->box->client_first : conf->client_first > 0;
}

/* How soon a peer that has vanished is noticed, where that is configured. tcp(7); anything but TCP refuses. */
static int set_keepalive(struct hark_conn *c, const struct chain *chain)
{
	const struct config_service *conf = chain->conf;
	int probes = PROBES;
	if (conf->user_timeout_ns <= 0 && conf->keepalive_ns <= 0)
		return 0;
	int fd = hark_fd(c);
	if (conf->user_timeout_ns > 0) {
		int64_t ms = conf->user_timeout_ns / HARK_MS;
		unsigned limit = ms > INT_MAX ? INT_MAX : (unsigned)ms;
		(void)setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &limit, sizeof limit);
	}
	if (conf->keepalive_ns > 0) {
		int64_t s = (conf->keepalive_ns + HARK_S - 1) / HARK_S;
		int idle = s > KEEPALIVE_MAX_S ? KEEPALIVE_MAX_S : (int)s, each = (idle + probes - 1) / probes;
		(void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof idle);
		(void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &each, sizeof each);
		(void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &probes, sizeof probes);
	}
	return 0;
}

static int send_banner(struct hark_conn *c, const struct chain *chain)
{
	const char *banner = chain->conf->banner;
	if (banner == NULL || hark_type(c) != SOCK_STREAM)
		return 0;
	ssize_t n = hark_write(c, banner, strlen(banner));
	return n < 0 ? (int)n : hark_flush(c);
}

/* In order. */
static chain_link *const links[] = {
	set_keepalive,
	accept_proxy,
	chain_tls,
	send_banner,
};

void chain_run(struct hark_conn *c, const struct chain *chain, chain_link *const with[], size_t n)
{
	for (size_t i = 0; i < n; i++) {
		int r = with[i](c, chain);
		if (r > 0) {
			counters_add(chain->limits->counters, (enum counter)r, 1);
			hark_refuse(c, r);
		} else if (r < 0) {
			hark_outcome(c, 0, r);
		}
		if (r != 0)
			return;
	}
	chain->box->serve(c, chain->state);
}

void chain_serve(struct hark_conn *c, void *arg)
{
	chain_run(c, arg, links, sizeof links / sizeof *links);
}

void chain_serve_lent(struct hark_conn *c, void *arg)
{
	const struct chain *chain = arg;
	chain->box->serve(c, chain->state);
}
