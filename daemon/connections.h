/* connections.h — who is connected now, and ending one: what the control socket answers. The supervisor's thread. */
#ifndef CONNECTIONS_H
#define CONNECTIONS_H

#include "json.h"
#include "supervisor.h"

#define CONNECTIONS_MAX 10000 /* that are listed at once */

/* An object of all connections, or of one service's. Asks the workers to bring their counts up to date, and waits for
 * them for a tenth of a second at most. */
void connections_list(const struct supervisor *v, const struct service *one, struct json *to);

/* Ends the connection of that ID. 0: it was told to; -EINVAL: no ID has that form; -ENOENT: it is not there (any more);
 * -EOPNOTSUPP: a datagram's. */
int connections_end(const struct supervisor *v, const char *id);

#endif
