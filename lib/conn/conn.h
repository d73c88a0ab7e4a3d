/* conn.h — a connection's inside, shared by stream.c, datagram.c, dial.c, listen.c and the servers.
 *
 * Kept small: a silent accepted connection is this struct and nothing else, so a million of them fit in a fraction of a
 * gigabyte. Buffers are taken when bytes are there and given back when they are gone. */
#ifndef HARK__CONN_H
#define HARK__CONN_H

#include <assert.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdatomic.h>

#include "base/buffer.h"
#include "conn/transport.h"
#include "hark.h"
#include "loop/engine.h"
#include "loop/fiber.h"
#include "loop/loop.h"

struct hark__acceptor;  /* serve.h */
struct hark__server;    /* serve.h; the server that gave this connection, if one did */
struct hark__unix_path; /* listen.h */
struct hark__reply;     /* datagram.h; where the answers to a single datagram go */
struct hark__extra;     /* extra.h; what few connections have */

enum hark__ending {
	HARK__OPEN,
	HARK__ENDING, /* what is flushed now is the last before our end: it leaves together with it */
	HARK__ENDED,  /* there is nothing more to write: hark_shutdown() */
};

/* What a descriptor tells of the two ends. < 0: why it does not. */
struct hark__conn_facts {
	struct hark_endpoint peer, local;
	struct hark_credentials user;
	int peer_r, local_r, user_r;
};

/* In order of use: a request touches the first two cache lines. */
struct hark_conn {
	struct hark__source src; /* src.fd is the descriptor; -1: there is none */
	uint8_t transport : 2;   /* enum hark__transport_kind */
	uint8_t way : 2;         /* of a file: enum hark__file_way */
	bool replies : 1;        /* has a struct hark__reply: it was a single datagram once */
	bool datagrams : 1;      /* messages keep apart; else a stream */
	bool single : 1;         /* one received datagram; writes go to its sender through the listener's socket */
	bool is_pipe : 1;        /* an end of one */
	uint8_t : 0;             /* the next are the reader's: another byte, as the writer may be another thread */
	bool served : 1;         /* a server gave it: its waits end with a drain */
	bool eof : 1;            /* the end of the stream was read */
	bool have_datagram : 1;  /* in holds one datagram, perhaps an empty one */
	bool hurried : 1;        /* it waits no longer than read_until */
	bool bulk : 1;           /* splice.c, as the three below: the kernel moves its bytes */
	bool no_splice : 1;
	bool syn_due : 1;        /* fast open: the connection begins with the first send */
	bool has_path : 1;       /* dialed from a unix path: it is in path */
	uint8_t full_reads : 4;  /* in a row, see hark__bulk_is_wide() */
	uint8_t short_moves : 4; /* in a row */
	/* The reader's and the writer's role are taken. seq_cst; relaxed on a loop, see hark__conn_take(). */
	atomic_bool reading, writing;
	atomic_bool out_lock;   /* guards out and write_error. The reader only tries it, and never waits with it */
	atomic_bool waiting_in; /* the reader waits: writes must not stay behind in out. seq_cst with out_lock */
	/* A write was told of a reset, which the kernel tells once: a reader would see an end. Relaxed. */
	atomic_bool was_reset;
	/* The description has O_NONBLOCK, as splice(2) wants it. Either role may come to set it: which of the two is
	 * seen first decides nothing. */
	atomic_bool nonblock;
	/* SO_LINGER may be set: others know the descriptor. To ask the kernel at each close would cost a short
	 * connection 4 %. Relaxed: who was told the descriptor closes after that. */
	atomic_bool may_linger;
	uint8_t ending : 2;  /* enum hark__ending. The writer's, set with out_lock */
	bool shared : 1;     /* hark_shared() */
	bool has_extra : 1;  /* has a struct hark__extra; set with both roles */
	bool tls_due : 1;    /* it comes from a listener at tls:// */
	bool handed_off : 1; /* its descriptor is another process's: what it told is in facts */
	bool refused;        /* hark_refuse(). A byte of its own, as a writer may be at ending in another thread */
	int16_t write_error; /* sticky: what was lost, told by the next write, flush or close; 0: nothing */
	/* HARK_FOREVER: none; 0: none. Either role sets them, both look: relaxed, each stands for itself. */
	_Atomic int64_t deadline, idle_ns;

	struct hark__buffer in, out;
	uint64_t bytes_in, bytes_out;

	int64_t opened;
	struct hark__server *server; /* NULL: none */
	union {
		struct hark__reply *reply; /* if replies; it has such data of its own */
		struct hark__extra *extra; /* if has_extra; likewise */
		void *data;                /* the user's: hark_set_data() */
	};
	union {
		struct hark__acceptor *lent;  /* serve_wait.c: the acceptor whose own socket this is; else NULL */
		struct hark__unix_path *path; /* if has_path: removed with the connection */
	};
	union { /* the peer as accept told it; family 0: not told, ask getpeername(2) */
		struct sockaddr_in v4;
		struct sockaddr_in6 v6;
		struct sockaddr any;
	} peer;
	pid_t pid;              /* hark_outcome() */
	int64_t read_until;     /* the reader's own, beside the deadline; if hurried */
	int status;             /* hark_outcome() */
	int ticket;             /* what admit() gave; -1: none. Good once served is set */
	struct hark__list link; /* in the server's list */
	union {
		struct hark__waiter first;      /* serve_fiber.c: its first byte, or the moment below without one */
		int pipe[2];                    /* once that is past; if bulk; -1: none */
		struct hark__conn_facts *facts; /* if handed_off */
	};
	struct hark__timer until;
};

static_assert(sizeof(void *) < 8 || sizeof(struct hark_conn) <= 264,
              "a silent connection is one small chunk of memory");

/* A connection over fd, deadline and time-outs off. type: of the socket; 0: fd is none, or one that only a program
 * will use. Takes fd only on success. -ENOMEM. */
int hark__conn_new(int fd, int type, struct hark_conn **out);

/* c, made without a descriptor, becomes that of fd from now on. */
void hark__conn_begins(struct hark_conn *c, int fd);

/* Detaches, closes fd, frees c and its buffers. Nothing is flushed. Not for a connection in use. */
void hark__conn_free(struct hark_conn *c);

/* Closes the descriptor, which another process has; facts must stay as long as c. It can still be asked for both ends'
 * addresses, the peer's credentials and its times. */
void hark__conn_hand_off(struct hark_conn *c, struct hark__conn_facts *facts);

/* Keeps what accept(2) told of the peer, v4-mapped addresses turned into IPv4. */
void hark__conn_set_peer(struct hark_conn *c, const struct sockaddr_storage *peer, socklen_t len);

static inline int64_t hark__conn_deadline(const struct hark_conn *c)
{
	return atomic_load_explicit(&c->deadline, memory_order_relaxed);
}

static inline int64_t hark__conn_idle_ns(const struct hark_conn *c)
{
	return atomic_load_explicit(&c->idle_ns, memory_order_relaxed);
}

/* When a wait that begins now ends, by its deadline and idle time-out. */
int64_t hark__conn_until(const struct hark_conn *c, unsigned events);

static inline struct hark__reply *hark__conn_reply(const struct hark_conn *c)
{
	return c->replies ? c->reply : NULL;
}

static inline const struct hark__transport *hark__conn_transport(const struct hark_conn *c)
{
	return hark__transports[c->transport];
}

/* Empties the socket's error queue (IP_RECVERR, SO_TIMESTAMPING): while it holds anything no wait lasts. The error
 * itself was told by a call. */
void hark__conn_drop_errors(struct hark_conn *c);

/* Waits for a direction of c so long. 0, -ETIMEDOUT, -ECANCELED, …. */
static inline int hark__conn_wait(struct hark_conn *c, unsigned events, const char *doing)
{
	if (hark__ready(&c->src) & HARK__HUP)
		hark__conn_drop_errors(c);
	return hark__wait_one(&c->src, events, hark__conn_until(c, events), doing);
}

/* -ETIMEDOUT past c's deadline, by the clock: a peer that never makes us wait does not outrun it. */
static inline int hark__conn_expired(const struct hark_conn *c)
{
	int64_t deadline = hark__conn_deadline(c);
	return deadline != HARK_FOREVER && hark_now() >= deadline ? -ETIMEDOUT : 0;
}

/* ---- roles ----------------------------------------------------------------------------------- */

/* A connection that is attached to a loop is that thread's alone: then a locked instruction would be wasted. */
static inline bool hark__conn_take(struct hark_conn *c, atomic_bool *what)
{
	if (c->src.engine == NULL)
		return !atomic_exchange(what, true);
	if (atomic_load_explicit(what, memory_order_relaxed))
		return false;
	atomic_store_explicit(what, true, memory_order_relaxed);
	return true;
}

static inline void hark__conn_put(struct hark_conn *c, atomic_bool *what, bool value)
{
	atomic_store_explicit(what, value, c->src.engine == NULL ? memory_order_seq_cst : memory_order_relaxed);
}

/* Takes the reader's or the writer's role. A thread that was handed the connection takes it from the loop that has it
 * registered. False: another fiber or thread has the role, or waits. */
static inline bool hark__conn_take_role(struct hark_conn *c, atomic_bool *role)
{
	const struct hark__engine *e = c->src.engine;
	if (e != NULL && (hark__loop_current == NULL || hark__loop_current->engine != e) &&
	    !hark__source_take_over(&c->src))
		return false;
	return hark__conn_take(c, role);
}

/* -ECANCELED, -ETIMEDOUT: calls do nothing any more, not even what needs no waiting. */
static inline int hark__conn_over(const struct hark_conn *c)
{
	return hark__fiber_cancelled() ? -ECANCELED : hark__conn_expired(c);
}

/* Where every call passes: takes the reader's or the writer's role. As hark__conn_over(), or -EBUSY: another fiber or
 * thread has it. */
static inline int hark__conn_begin(struct hark_conn *c, atomic_bool *role)
{
	int r = hark__conn_over(c);
	return r < 0 ? r : hark__conn_take_role(c, role) ? 0 : -EBUSY;
}

static inline void hark__conn_end(struct hark_conn *c, atomic_bool *role)
{
	hark__conn_put(c, role, false);
}

/* ---- stream.c, with the reader's role --------------------------------------------------------- */

/* Receives what is there, at most cap bytes, without waiting. -EAGAIN: nothing yet. 0: the end. */
ssize_t hark__conn_receive(struct hark_conn *c, void *buf, size_t cap);

/* The same of a socket's, but consumes nothing. */
ssize_t hark__conn_look(struct hark_conn *c, void *buf, size_t cap);

/* One wait of the reader's, for HARK__IN and perhaps HARK__DRAIN, what was written flushed before. 0; -EAGAIN: it
 * ended with a drain's beginning; -errno. */
int hark__conn_wait_in(struct hark_conn *c, unsigned events, const char *doing);

/* Receives into c->in, datagrams too, waiting; what was written is flushed before a wait. > 0, 0: the end. events 0:
 * without waiting. */
ssize_t hark__conn_fill(struct hark_conn *c, unsigned events, const char *doing);

/* For the reader whom the kernel has told of an end. 0: it is one; -ECONNRESET: it only seems so. */
static inline int hark__conn_ended(struct hark_conn *c)
{
	if (atomic_load_explicit(&c->was_reset, memory_order_relaxed))
		return -ECONNRESET;
	c->eof = true;
	return 0;
}

/* The writer's role, for a write. -EPIPE: our end was sent. Where it is refused to who has something to write, the
 * stream ends before what its writer meant to be its end: that is an error of writing, which sticks. */
int hark__conn_begin_write(struct hark_conn *c, bool something);

/* ---- stream.c, with the writer's role, streams alone ------------------------------------------ */

/* Writes all, small ones into c->out. 0 or -errno. */
int hark__conn_write(struct hark_conn *c, const struct iovec *iov, int count, size_t total);

/* Writes what b holds, and takes over its memory where it can. Small ones wait for a flush, whoever reads beside. */
int hark__conn_write_buffer(struct hark_conn *c, struct hark__buffer *b);

/* Where its output is, for who flushes: a reader beside does, too. */
void hark__conn_set_ending(struct hark_conn *c, enum hark__ending ending);

/* Sends what was written. */
int hark__conn_flush(struct hark_conn *c);

/* Keeps the first error of writing: what failed once fails for good, as some bytes may have left. With out_lock; the
 * second takes it, and drops what is unsent. */
void hark__conn_keep_error(struct hark_conn *c, int error);
void hark__conn_fail(struct hark_conn *c, int error);

/* What the engine took to send must not be overtaken. A forked child has no part in it. */
static inline bool hark__conn_is_sending(const struct hark_conn *c)
{
	return c->src.sending && !c->src.engine->forked;
}

/* Takes the role: hark_flush() where the end follows at once, without which the last bytes may stay behind. Also past a
 * deadline and in a cancelled fiber, where it sends what needs no waiting. */
int hark__conn_flush_last(struct hark_conn *c);

/* ---- end.c ------------------------------------------------------------------------------------ */

/* Takes both roles, or none. */
bool hark__conn_take_both(struct hark_conn *c);

/* The end, after hark__conn_flush_last() and with both roles. Ends our output, or resets where something of it is
 * unsent. The peer's input is dropped from now on: closing over it would reset the peer, and lose the tail that it has
 * not read. < 0: nothing to linger for. */
int hark__linger_begin(struct hark_conn *c);

/* Bounds the time for that, by c's deadline and idle time-out. */
void hark__linger_limit(struct hark_conn *c);

/* Drops what has come, without waiting. quiet: the wait for more, hark__conn_until() for HARK__IN, has timed out.
 * 0: over; -EAGAIN: wait for more; 1: more may be there, others first. */
int hark__linger_step(struct hark_conn *c, bool quiet);

/* ---- splice.c, with the reader's role --------------------------------------------------------- */

#define HARK__FULL_READS 4 /* in a row: from then on in bulk */

/* Whether c is read HARK__BULK_BYTES at a time: it is in bulk, and the kernel cannot move its bytes. */
static inline bool hark__bulk_is_wide(const struct hark_conn *c)
{
	return c->full_reads >= HARK__FULL_READS && !c->bulk;
}

/* Notes whether what was passed on, n bytes, had filled its buffer of cap; whether the next bytes should be spliced
 * (nothing of from is buffered then); does it, of what is there: > 0, 0: the end, -errno, -EAGAIN: nothing is,
 * -EOPNOTSUPP before anything moved: they cannot be. The last with the writer's role of to, and nothing in to->out.
 * Frees the pipe. */
void hark__splice_note(struct hark_conn *from, struct hark_conn *to, size_t n, size_t cap);
bool hark__splice_may(struct hark_conn *from, struct hark_conn *to);
ssize_t hark__splice(struct hark_conn *from, struct hark_conn *to);
void hark__splice_end(struct hark_conn *c);

/* How many descriptors the pipes of our own take now, of all threads; and from which number on none is made: a server
 * keeps those for connections that it has still to take. */
unsigned hark__splice_descriptors(void);
void hark__splice_keep_from(unsigned fd);

/* Whether the kernel may move c's bytes itself: sets O_NONBLOCK, once, since neither sendfile(2) nor splice(2) has a
 * flag to keep it from waiting. */
bool hark__conn_kernel_moves(struct hark_conn *c);

#endif
