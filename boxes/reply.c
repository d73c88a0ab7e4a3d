/* reply.c — see reply.h. Any fiber or thread: it only looks. */
#include "reply.h"

#include <errno.h>
#include <limits.h>
#include <netinet/in.h>
#include <stdlib.h>

#define LOW_PORTS \
	IPPORT_RESERVED /* ports below 1024: echo 7, daytime 13, qotd 17, chargen 19, time 37 and their like */

static bool from_low_port(const struct hark_endpoint *peer)
{
	const struct sockaddr_in *v4 = (const struct sockaddr_in *)&peer->addr;
	const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)&peer->addr;
	return ntohs(peer->addr.ss_family == AF_INET ? v4->sin_port : v6->sin6_port) < LOW_PORTS;
}

ssize_t reply_limit(struct hark_conn *c, const struct reply_rules *rules)
{
	static const struct reply_rules careful;
	if (rules == NULL)
		rules = &careful;
	if (hark_type(c) != SOCK_DGRAM)
		return SSIZE_MAX;
	struct hark_endpoint peer;
	if (hark_peer_endpoint(c, &peer) < 0)
		return -1; /* nobody to answer */
	if (peer.addr.ss_family != AF_INET && peer.addr.ss_family != AF_INET6)
		return SSIZE_MAX; /* the kernel vouches for a local peer */
	if (!rules->any_port && from_low_port(&peer))
		return -1;
	return rules->longer ? SSIZE_MAX : (ssize_t)hark_buffered(c);
}

int reply_open(int argc, char *const argv[], void **arg, struct hark_why *why)
{
	struct reply_rules *rules = calloc(1, sizeof *rules);
	if (rules == NULL)
		return box_why(why, -ENOMEM, "out of memory");
	const struct box_option options[] = {REPLY_OPTIONS(rules), {NULL}};
	int r = box_options_all(argc, argv, options, why);
	if (r < 0) {
		free(rules);
		return r;
	}
	*arg = rules;
	return 0;
}

void reply_close(void *arg)
{
	free(arg);
}
