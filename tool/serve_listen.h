/* serve_listen.h — the listening sockets of hark serve. Main thread. */
#ifndef SERVE_LISTEN_H
#define SERVE_LISTEN_H

#include "hark.h"
#include "tool.h"

struct serve_sockets {
	struct hark_listener **listeners;
	const char **asked; /* of each, what the command line says */
	char **bound;       /* its address; ends with NULL */
	int n;
};

/* Opens all that an address stands for: a name's addresses that are here, all sockets that were handed over by one
 * name. opts->why is filled. A status; what went wrong was said. */
int serve_listen(struct serve_sockets *s, const struct verb *v, const char *address,
                 const struct hark_listen_opts *opts);

void serve_listen_close(struct serve_sockets *s);

#endif
