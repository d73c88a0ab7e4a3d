/* listen.h — a listener's inside, and the sockets that the environment handed over. */
#ifndef HARK__LISTEN_H
#define HARK__LISTEN_H

#include <pthread.h>
#include <stdatomic.h>

#include "base/list.h"
#include "hark.h"
#include "loop/fiber.h"

struct hark__datagram_socket; /* datagram.h */

struct hark_listener {
	_Atomic int fd;               /* -1 once it is closed. Set under lock; steady while held: relaxed */
	int type;                     /* SOCK_STREAM, SOCK_DGRAM */
	int family;                   /* AF_INET, AF_INET6, AF_UNIX */
	bool dual_stack;              /* an IPv6 socket that takes IPv4 as well */
	bool tls;                     /* its connections begin with TLS's handshake */
	struct hark_endpoint at;      /* where it is bound; good after the socket is closed */
	struct hark__unix_path *path; /* that this socket made; NULL: none. Its owner's */

	pthread_mutex_t lock;                    /* guards what follows */
	struct hark__datagram_socket *datagrams; /* hark_accept()'s, of a datagram listener; NULL until first used */
	unsigned held;                           /* calls and servers at work on it */
	bool shut;                               /* no more holds; the last one closes the socket */
	bool closed;                             /* hark_listener_close() was called: the last one frees it */
	int shut_fd;                             /* readable once shut, for threads in poll(2); -1: none waited yet */
	struct hark__list watches;
	struct hark__list link;    /* in listener.c's list of all */
	struct hark__list at_port; /* in its list of those with such a port: IP datagrams; else in none */
};

/* listener.c. A listener over fd, which is bound and, if a stream, listens. Takes fd only on success. */
int hark__listener_new(int fd, struct hark_listener **out);

/* True if fd is an open listener's already. */
bool hark__listener_has(int fd);

/* A call or a server begins to use l: until hark__listener_release() l is not freed, and its descriptor stays its own.
 * 0, or -EBADF: the socket is closed. Any thread. */
int hark__listener_hold(struct hark_listener *l);
void hark__listener_release(struct hark_listener *l);

/* Closes the socket, at the latest with the last hold, and tells who waits on it. Any thread. */
void hark__listener_shut(struct hark_listener *l);
bool hark__listener_is_shut(struct hark_listener *l);

/* Whoever holds l on a loop has told.run called there once l is shut; at once if it is. told.run must not be NULL.
 * After unwatch, on the loop's thread, it is not called. */
struct hark__listener_watch {
	struct hark__waiter told;
	struct hark__loop *loop;
	struct hark__list link;
};

void hark__listener_watch(struct hark_listener *l, struct hark__listener_watch *w);
void hark__listener_unwatch(struct hark_listener *l, struct hark__listener_watch *w);

/* A descriptor that becomes readable once l is shut, good while l is held; -1: none to be had. */
int hark__listener_shut_fd(struct hark_listener *l);

/* What helps, beside an error's number. */
struct hark__hint {
	const char *text; /* NULL: nothing more is known. Static, or room */
	char room[192];
};

/* listen_unix.c. A path that a socket made here: whoever closes the socket removes it, if it still is that file. */
struct hark__unix_path {
	pid_t maker; /* only this process removes it */
	dev_t dev;
	ino_t ino;
	char text[]; /* absolute: the working directory may change */
};

/* Binds fd to a unix name; a path that a dead process left is replaced, then mode and owner are set. May suspend
 * shortly, where a path seems to be left. *made is the new path, or NULL if the name is abstract. 0 or -errno; hint
 * says more where there is more to say. What was made is removed on failure. */
int hark__unix_bind(int fd, const struct hark_endpoint *at, const struct hark_listen_opts *opts,
                    struct hark__unix_path **made, struct hark__hint *hint);

/* Before its socket is closed: while that holds the file's number no other file has it. Frees p; NULL is fine. */
void hark__unix_path_remove(struct hark__unix_path *p);

/* listen_fds.c: sd_listen_fds(3)'s protocol. A descriptor is taken once in the life of the process: later its number
 * may be somebody else's. By name and by where it is bound: the descriptor, or -1 where none is left. six_alone: where
 * at is every IPv6 address, not IPv4's as well; else it must take both. */
int hark__listen_fds_named(const char *name);
int hark__listen_fds_bound_to(const struct hark_endpoint *at, bool six_alone);

/* Marks fd taken. false: it was taken before. A descriptor that was not handed over is never marked. */
bool hark__listen_fds_claim(int fd);

/* Takes the mark back: nothing came of it. */
void hark__listen_fds_release(int fd);

#endif
