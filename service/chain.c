/* chain.c — see chain.h. A new link is a function and a line in links. */
#include "chain.h"

#include <limits.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>

#define KEEPALIVE_MAX_S 32767 /* tcp(7) takes no more */
#define PROBES          8     /* of keepalive, before a peer is taken for gone */

int chain_admit(struct hark_conn *c, const struct chain *chain)
{
	return limits_admit(c, chain->limits);
}

int chain_limit_peer(struct hark_conn *c, const struct chain *chain)
{
	int ticket = hark_ticket(c);
	if (chain->peer_changed != NULL)
		chain->peer_changed(c);
	return limits_move(c, chain->limits_ticket != NULL ? chain->limits_ticket(ticket) : ticket, chain->limits);
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
