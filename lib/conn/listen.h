/* listen.h — a listener's inside, and the sockets that the environment handed over. */
#ifndef HARK__LISTEN_H
#define HARK__LISTEN_H

#include <sys/stat.h>

#include "hark.h"
#include "loop/engine.h"

struct hark__datagram_socket; /* datagram.h */

struct hark_listener {
	struct hark__source src; /* src.fd is the socket; -1 once a drain has closed it */
	int type;                /* SOCK_STREAM, SOCK_DGRAM */
	int family;              /* AF_INET, AF_INET6, AF_UNIX */
	bool dual_stack;         /* an IPv6 socket that takes IPv4 as well */
	struct hark_endpoint at; /* where it is bound; good after the socket is closed */
	pid_t maker;             /* the process that made the unix path in at, and removes it; 0: nobody did */
	dev_t dev;               /* which file that was: only it is removed */
	ino_t ino;
	struct hark__datagram_socket *datagrams; /* hark_accept()'s, of a datagram listener; NULL until first used */
	struct hark_conn *spare; /* accept.c: what the next connection accepted becomes; NULL: none yet */
};

/* What helps, beside an error's number. */
struct hark__hint {
	const char *text; /* NULL: nothing more is known. Static, or room */
	char room[192];
};

/* listen_unix.c. Binds fd to a unix name; a path that a dead server left is replaced, then mode and owner are set.
 * May suspend shortly, where a path seems to be left. Fills *made with the new path's lstat(2) unless the name is
 * abstract. 0 or -errno; hint says more where there is more to say. What was made is removed on failure. */
int hark__unix_bind(int fd, const struct hark_endpoint *at, const struct hark_listen_opts *opts, struct stat *made,
                    struct hark__hint *hint);

/* Takes the path of a unix endpoint away if it still is that file. */
void hark__unix_unlink(const struct hark_endpoint *at, dev_t dev, ino_t ino);

/* listen_fds.c: sd_listen_fds(3)'s protocol. A descriptor is taken once in the life of the process: later its number
 * may be somebody else's. By name and by where it is bound: the descriptor, or -1 where none is left. */
int hark__listen_fds_named(const char *name);
int hark__listen_fds_bound_to(const struct hark_endpoint *at);

/* Marks fd taken. false: it was taken before. A descriptor that was not handed over is never marked. */
bool hark__listen_fds_claim(int fd);

/* Takes the mark back: nothing came of it. */
void hark__listen_fds_release(int fd);

#endif
