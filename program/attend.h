/* attend.h — staying with a program that has a connection as its standard input and output, to its end. */
#ifndef ATTEND_H
#define ATTEND_H

#include <stdbool.h>
#include <stdint.h>

#include "hark.h"
#include "spawn.h"

struct attend {
	/* The ladder by which a program is asked to end, with its whole group: it reads the end of its input at once,
	 * SIGTERM and SIGKILL come so long after. */
	int64_t ladder_ns[2];
	bool until_eof; /* it begins also when the peer has ended its side */
};

/* Returns the program's status, as waitpid(2) gives it, once it has ended. May suspend.
 *
 * What begins the ladder: the connection's deadline; its idle time-out, when no byte has gone either way for so long; a
 * peer that has reset it, or vanished; a drain, in which the ladder fits into the grace: a program has half of it or
 * more to finish in peace, or three quarters of a long one.
 *
 * The connection ends when the last process that has it ends it, as under inetd. While the program runs and nobody has
 * it any more, the peer is sent the end at once (half a second late at most). Where the program has ended and what it
 * has started still has it, it is hark_shared().
 *
 * has_peer: c is its own; else it is a listening socket, which other processes have, too. */
int attend(const struct attend *how, struct hark_conn *c, const struct spawned *p, bool has_peer);

/* The same of a program that cannot have c's descriptor, as c has TLS, and has the other end of a socketpair: own, c's
 * and this one's bytes are carried. Half-closes are passed on. A peer that was cut, or has reset, begins the ladder. */
int attend_carried(const struct attend *how, struct hark_conn *c, struct hark_conn *own, const struct spawned *p);

#endif
