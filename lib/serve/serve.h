/* serve.h — a server, its acceptors, and the models in which servers differ. */
#ifndef HARK__SERVE_H
#define HARK__SERVE_H

#include <pthread.h>

#include "conn/conn.h"
#include "conn/listen.h"
#include "hark.h"
#include "loop/drain.h"
#include "loop/fiber.h"

struct hark__model {
	/* Has the box serve c, which the server counts already. On success c is the model's, until
	 * hark__server_ended(). -EAGAIN, -ENOMEM: no process, thread or fiber to be had now; c stays the caller's. */
	int (*start)(struct hark__server *s, struct hark_conn *c);
	/* A drain begins: ends what is idle and would not notice by itself. NULL: nothing to do. */
	void (*drain)(struct hark__server *s);
	/* The grace has ended, late_ns ago: cuts what is left. Called again until nothing is, or the server gives up.
	 */
	void (*cut)(struct hark__server *s, int64_t late_ns);
	/* hark_serve() returns while connections do not notice that they were cut: hark__server_leave() for each. */
	void (*abandon)(struct hark__server *s);
	bool gathers; /* boxes run as fibers of the loop: replies to datagrams may gather */
};

extern const struct hark__model hark__model_inline, hark__model_process, hark__model_thread, hark__model_fiber;

/* One listener at work. */
struct hark__acceptor {
	struct hark__waiter waiter; /* something has come */
	struct hark__waiter sender; /* the batch's boxes have run: send the replies */
	struct hark__server *server;
	struct hark_listener *listener;    /* held while src.fd >= 0 */
	struct hark__source src;           /* the listener's socket, watched by this server alone; -1: closed here */
	bool lingers;                      /* SO_LINGER is set, which what is accepted inherits */
	bool copied;                       /* src.fd is: see hark__server_arm() */
	struct hark__listener_watch watch; /* somebody else closes the listener */
	struct hark_conn *spare;           /* what the next connection accepted becomes; NULL: none yet */
	struct hark__datagram_socket *datagrams; /* datagrams; else NULL */
	/* inetd's wait (opts.wait), see serve_wait.c: */
	bool lent;                    /* a box has the socket */
	int64_t backoff;              /* since boxes left the socket as it was; 0: the last one did not */
	uint64_t before;              /* a digest of what was waiting there when the box began */
	struct hark__source arrivals; /* an epoll(7) that tells whether anything came; fd -1: none */
	struct hark__waiter arrived;  /* something has come during a back-off */
	struct hark__timer retry;
};

struct hark__server {
	struct hark_serve_opts opts;
	const struct hark__model *model;
	hark_box *box;
	void *arg;
	struct hark__loop *loop;
	struct hark__acceptor *acceptors;
	int n_acceptors;
	struct hark__list conns;             /* what the model lists: silent connections, threads, children */
	struct hark__list running;           /* serve_fiber.c: connections whose fiber runs */
	struct hark__list young[2], watched; /* serve_linger.c: connections whose box has returned */
	bool youngest;                       /* which of the young lists is still added to */
	int64_t look_at;                     /* at the young ones; HARK_FOREVER: there are none */
	struct hark__timer look;             /* kept */
	bool look_set;
	struct hark__waiter look_waiter;
	unsigned n_conns;        /* being served, wherever */
	struct hark_conn *stuck; /* accepted, but start() had no room: served first when there is */
	struct hark__list
		pending; /* what the backlogs held when a drain began, while max_conns or pace() has no room for it */
	unsigned conn_needs;  /* descriptors of a connection, in this process; 0: not counted */
	bool few_descriptors; /* opts.max_conns is what they allow, not what was asked for */
	bool paused;          /* accepts nothing until a connection ends or the timer */
	bool told_paused;     /* the event was sent, and RESUMED is due when the backlog is empty */
	bool retired;         /* the acceptors are closed, and what is connected goes on */
	bool draining, cut, done;
	bool cancelled;           /* ends alone, now; its listeners stay open */
	int64_t until;            /* then since when; else HARK_FOREVER */
	pthread_mutex_t lock;     /* serve_thread.c: guards abandoned */
	bool abandoned;           /* hark_serve() has returned: what still ends has left already */
	bool overtime;            /* a connection lasted to the end of the grace */
	struct hark__timer retry; /* while paused; kept */
	bool retrying;            /* it is set */
	struct hark__waiter retry_waiter;
	struct hark__source drain[HARK__DRAIN_FDS]; /* this process's and those it comes from, drain.h */
	struct hark__waiter drain_waiter;
	struct hark__timer drain_timer; /* looks whether the grace has ended, or was shortened */
	struct hark__waiter drain_tick;
	struct hark__source retire[2]; /* likewise */
	struct hark__waiter retire_waiter;
	int copies[HARK__DRAIN_FDS + 3]; /* of those above, and the next: see hark__server_arm() */
	int n_copies;
	struct hark__source life; /* a worker's: its supervisor holds the other end; -1: none */
	struct hark__waiter life_waiter;
	struct hark__interrupt interrupt; /* serve_inline.c */
	atomic_uchar *progress;           /* serve_process.c: shared with the children; NULL: none yet */
	struct hark__fiber *waiting;      /* in hark_serve(): woken when all is over */
	struct hark_scope scope;          /* serve_fiber.c: the boxes' fibers */
	struct hark__timer late;          /* serve_fiber.c: closes what has not spoken when a drain began */
	struct hark__waiter late_waiter;
};

void hark__server_forget_children(struct hark__server *s); /* serve_process.c, at the end */

/* Watches src for HARK__IN. 0; 1: src->fd is a copy now, the caller's to close, as epoll tells two who watch one
 * descriptor on one loop apart by its number: another server, say. Or -errno. */
int hark__server_arm(struct hark__server *s, struct hark__source *src);

/* Serves in this process until drained. life_fd: see struct hark__server. */
int hark__work(struct hark__server *s, struct hark_listener *const listeners[], int n, int life_fd);

#endif
