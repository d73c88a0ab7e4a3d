/* hark.h — the whole public face of libhark: dial, listen, serve.
 *
 * Whatever serves is a box: straight-line code that reads and writes one connection. The same box
 * runs under every server model; only how a call waits differs, and that is decided where it runs.
 *
 * Conventions, for every function unless its comment says otherwise:
 *   - it returns >= 0, or -errno; outputs are untouched on failure; errno itself is not the channel;
 *   - a deadline is absolute: CLOCK_MONOTONIC nanoseconds in an int64_t; HARK_FOREVER is none;
 *   - "may suspend": on a fiber the fiber parks and others run; elsewhere the thread waits in poll(2);
 *   - a call that may suspend returns -ECANCELED once its fiber is cancelled (sticky: every later one too), or
 *     the grace of a drain has ended for its box; -ETIMEDOUT past the connection's deadline or idle time-out;
 *   - a deadline among a call's arguments bounds its waiting: past it, as at 0, it still does what needs no waiting;
 *   - calls that may suspend let other fibers run after a good many system calls, also where they never wait;
 *   - a connection has at most one reader and one writer at a time; a second one gets -EBUSY;
 *   - both are fibers of one thread, or threads: another thread may go on with a connection once no fiber's call on it
 *     is under way, and gets -EBUSY while one waits;
 *   - every descriptor made here is close-on-exec and none is 0, 1 or 2; no call raises SIGPIPE;
 *   - a zeroed options struct, or NULL for it, means the defaults.
 */
#ifndef HARK_H
#define HARK_H

#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/uio.h>

#ifdef __cplusplus
extern "C" {
#endif

#define HARK_VERSION "0.1.0" /* of this header */

struct hark_conn;     /* one connection, or one datagram being answered */
struct hark_listener; /* one bound socket that takes connections or datagrams */
struct hark_tls;      /* TLS settings: certificates, authorities, tickets */

/* ---- version and time ------------------------------------------------------------------------ */

/* The version of the library that runs. */
const char *hark_version(void);

#define HARK_FOREVER INT64_MAX
#define HARK_MS      INT64_C(1000000)    /* nanoseconds in a millisecond */
#define HARK_S       INT64_C(1000000000) /* nanoseconds in a second */

/* CLOCK_MONOTONIC now, in nanoseconds. Never fails. clock_gettime(2). */
int64_t hark_now(void);

/* hark_now() + ns, or HARK_FOREVER where that would overflow or ns is HARK_FOREVER. */
int64_t hark_after(int64_t ns);

/* ---- errors ---------------------------------------------------------------------------------- */

/* What getaddrinfo(3) and TLS tell and errno has no number for travels under these errno values. */
#define HARK_ENOHOST    ENXIO        /* the name has no address of the family that was asked for */
#define HARK_ENOSERVICE ENOPROTOOPT  /* no such service name for that protocol */
#define HARK_EDNS       EREMOTEIO    /* the name servers failed or did not answer: try again later */
#define HARK_ECERT      EKEYREJECTED /* TLS: the peer's certificate is not accepted */

/* Words for an error number, negative or positive: strerror(3)'s, and HARK_ENOHOST, HARK_ENOSERVICE, HARK_EDNS and
 * HARK_ECERT in their sense. The text is static or thread-local: good until the thread's next call. */
const char *hark_strerror(int err);

/* A place for the reason of a failure, in words that name what, where and why. */
struct hark_why {
	char text[256];
};

/* ---- addresses -------------------------------------------------------------------------------
 *
 *   tcp://host:port tcp4:// tcp6:// udp:// udp4:// udp6:// tls://    host:port alone means tcp
 *   unix:/path unix:@abstract  unixgram:/path unixgram:@abstract
 *   fd:3 (this descriptor)  fd:name (the one LISTEN_FDNAMES calls so; sd_listen_fds(3))
 *
 * host: a name, an IPv4 address, an IPv6 address in brackets, with %scope where link-local, or '*':
 * every address to listen on, loopback to dial. port: 0–65535 (0: the kernel chooses) or a service name. */

enum hark_scheme {
	HARK_TCP = 1,
	HARK_TCP4,
	HARK_TCP6,
	HARK_UDP,
	HARK_UDP4,
	HARK_UDP6,
	HARK_UNIX,
	HARK_UNIXGRAM,
	HARK_FD,
	HARK_TLS, /* over TCP */
};

#define HARK_HOST_MAX    255 /* bytes, RFC 1035 section 2.3.4 */
#define HARK_PORT_MAX    31  /* bytes of a service name */
#define HARK_PATH_MAX    107 /* bytes, unix(7) */
#define HARK_ADDRESS_MAX 320 /* bytes that any formatted address fits in, its NUL included */

struct hark_address {
	enum hark_scheme scheme;
	char host[HARK_HOST_MAX + 1]; /* no brackets, the %scope kept; "*" for every address */
	char port[HARK_PORT_MAX + 1];
	char path[HARK_PATH_MAX + 1]; /* unix, unixgram; '@' first if abstract. fd: the name, if it is one */
	int fd;                       /* fd: the descriptor, or -1 if it is a name */
};

/* Takes an address apart. No look-up, no allocation, never suspends.
 * -EINVAL: why (may be NULL) tells which part is bad. */
int hark_address_parse(const char *text, struct hark_address *out, struct hark_why *why);

/* Writes the canonical text; parsing that gives the same address again.
 * Returns its length; -ENOSPC if cap is too small (HARK_ADDRESS_MAX always does). */
int hark_address_format(const struct hark_address *a, char *buf, size_t cap);

/* What a socket call takes: a kind of socket and where. v4-mapped IPv6 addresses never appear here. */
struct hark_endpoint {
	int type; /* SOCK_STREAM, SOCK_DGRAM */
	socklen_t len;
	struct sockaddr_storage addr;
};

/* Makes one of a socket address as getsockname(2), getpeername(2) and accept(2) tell it, of a socket of that type, a
 * v4-mapped address turned into IPv4. 0, or -EINVAL: no address has that length. */
int hark_endpoint_from(int type, const struct sockaddr *addr, socklen_t len, struct hark_endpoint *out);

/* Writes an endpoint as an address: "tcp://192.0.2.1:80", "udp://[2001:db8::1]:53", "unix:/run/x"; "unix:" is unnamed.
 * Returns its length or -ENOSPC. */
int hark_endpoint_format(const struct hark_endpoint *e, char *buf, size_t cap);

/* Looks an address up, in the order of RFC 6724 as getaddrinfo(3) gives it, at most n results.
 * May suspend: on a fiber, and wherever there is a deadline, a helper thread does the asking, so that a loop
 * never stalls; past the deadline its answer is dropped when it comes. A numeric address with a numeric port asks
 * nobody. "localhost" is loopback (RFC 6761), in the families that /etc/hosts has for it; it, service names, and names
 * in /etc/hosts where nsswitch.conf(5) puts that first, are not held up by name servers that do not answer.
 * Returns how many, at least 1. -EINVAL, -HARK_ENOHOST, -HARK_ENOSERVICE, -HARK_EDNS, -ETIMEDOUT, -ENOMEM, -EAGAIN
 * (no helper thread). */
int hark_resolve(const char *address, struct hark_endpoint out[], int n, int64_t deadline);

/* ---- dial ------------------------------------------------------------------------------------ */

#define HARK_ATTEMPTS_MAX 16 /* attempts that one dial makes and a report holds */

struct hark_attempt {
	struct hark_endpoint to;
	int error;        /* 0 the one that won; else a positive errno; ECANCELED: another one won first */
	int64_t start_ns; /* hark_now() at its start and end */
	int64_t end_ns;
};

struct hark_dial_report {
	int n;
	struct hark_attempt attempts[HARK_ATTEMPTS_MAX];
	int64_t resolved_ns; /* how long the look-up took */
};

struct hark_dial_opts {
	int64_t deadline;                /* for look-up and connect together; 0: 30 s from now */
	int64_t attempt_delay_ns;        /* before the next address is tried beside; 0: 250 ms, RFC 8305 section 5 */
	const char *local;               /* "host", "host:port", ":port" to come from; unix: a path, removed with it */
	bool reserved_port;              /* come from a port in 512–1023, rresvport(3); needs CAP_NET_BIND_SERVICE */
	bool nagle;                      /* leave Nagle's algorithm on; by default TCP_NODELAY is set */
	bool keepalive;                  /* SO_KEEPALIVE */
	bool fast_open;                  /* TCP_FASTOPEN_CONNECT: the first write travels in the SYN, RFC 7413 */
	int linger_s;                    /* SO_LINGER seconds; 0: off */
	int hop_limit;                   /* IP_TTL, IPV6_UNICAST_HOPS; 0: the system's */
	int send_buffer_bytes;           /* SO_SNDBUF; 0: the system's */
	int receive_buffer_bytes;        /* SO_RCVBUF; 0: the system's */
	struct hark_tls *tls;            /* for tls://; NULL: the system's store verifies the server */
	const char *tls_name;            /* for tls://: asked for and verified; NULL: the address's host */
	struct hark_dial_report *report; /* filled in success and failure alike; may be NULL */
	struct hark_why *why;            /* filled on failure; may be NULL */
	/* Called as each attempt begins, its error EINPROGRESS and its end_ns 0, and again as it ends, by the dialing
	 * fiber or thread. Must not suspend. May be NULL. */
	void (*attempt)(const struct hark_attempt *a, void *attempt_arg);
	void *attempt_arg;
};

/* Connects, by RFC 8305 (Happy Eyeballs): families interleaved, a new socket for each address, the next one tried
 * beside when one is slow or has failed, the first to connect wins, the others are closed.
 * May suspend. The caller owns *out: hark_close() or hark_abort(). udp and unixgram give a connected datagram
 * socket; unixgram binds an abstract address of the kernel's choice so that answers find it. fd:N and fd:NAME make a
 * connection of the descriptor itself, as hark_conn_from_fd() does. tls:// does TLS's handshake, and takes a server
 * whose certificate is vouched for and is for its name.
 * Returns 0, or the most telling attempt's error: -ECONNREFUSED, -ETIMEDOUT, -EHOSTUNREACH, -ENETUNREACH,
 * -ENOENT (unix), -EACCES, …; or one of hark_resolve()'s, or hark_starttls()'s. */
int hark_dial(const char *address, const struct hark_dial_opts *opts, struct hark_conn **out);

/* ---- listen ---------------------------------------------------------------------------------- */

struct hark_listen_opts {
	int backlog;            /* connections; 0: SOMAXCONN; $LISTENQ overrides it. listen(2) */
	bool reuseport;         /* SO_REUSEPORT */
	bool beside_connected;  /* UDP: sockets of hark_udp_connect() there are not in the way: SO_REUSEADDR, at bind */
	bool v6only;            /* IPV6_V6ONLY: "*" and [::] take no IPv4; tcp6 and udp6 never do */
	bool freebind;          /* IP_FREEBIND: an address that no interface has yet. ip(7) */
	int defer_accept_s;     /* TCP_DEFER_ACCEPT seconds; 0: off */
	int fast_open_queue;    /* TCP_FASTOPEN requests; 0: off */
	mode_t unix_mode;       /* permissions of a unix path; 0: what the umask leaves */
	const char *unix_owner; /* "user", "user:group" or ":group" of a unix path */
	int send_buffer_bytes;  /* SO_SNDBUF, inherited by what is accepted; 0: the system's */
	int receive_buffer_bytes; /* SO_RCVBUF likewise */
	bool tls;                 /* a stream's is as at tls://, be it fd:N */
	struct hark_why *why;     /* filled on failure; may be NULL */
};

/* Binds and listens. TCP_NODELAY is set, for what is accepted. "*" is one dual-stack socket, IPv4 alone where the
 * system has no IPv6. A name must have one address, or the first is taken. SO_REUSEADDR is set, so that a restart need
 * not wait for TIME_WAIT. A unix path left by a dead server is tried, found dead and replaced; a live one is
 * -EADDRINUSE; what is not a socket is never removed. A socket that the environment hands over (LISTEN_PID, LISTEN_FDS;
 * sd_listen_fds(3)) and that is bound to this very address is adopted instead; fd:N and fd:NAME adopt by number and
 * name. May suspend. The caller owns *out.
 * Returns 0; -EADDRINUSE, -EACCES, -EADDRNOTAVAIL, -EAFNOSUPPORT, -EBADF, -ENOTSOCK, -EINVAL, or one of
 * hark_resolve()'s. */
int hark_listen(const char *address, const struct hark_listen_opts *opts, struct hark_listener **out);

/* How many sockets the environment handed over, and so fd:3 … can be listened on; 0 if none or not for this process. */
int hark_listen_fds(void);

/* Closes the socket and removes the unix path that this process made. NULL is fine. Never suspends. Calls that other
 * threads and fibers have under way on l end: hark_accept() returns -EBADF, hark_serve() goes on without it; the last
 * of them closes the socket and frees l. None may begin afterwards. */
void hark_listener_close(struct hark_listener *l);

/* The address that is bound, port 0 replaced by the kernel's choice; the host is "*" where both families are taken.
 * Returns the length or -ENOSPC. */
int hark_listener_address(const struct hark_listener *l, char *buf, size_t cap);

/* The descriptor, still the listener's own; -1 after a drain closed it. */
int hark_listener_fd(const struct hark_listener *l);

/* SOCK_STREAM or SOCK_DGRAM. */
int hark_listener_type(const struct hark_listener *l);

/* Whether a datagram listener of this process, or of those that it was forked from, is bound to e: to that address of
 * this host, or to its port at every address. A datagram that comes from there is no client's: it is forged, or the
 * other one's answer, and answering it may begin a loop. Any thread. Never suspends. */
bool hark_is_listener(const struct hark_endpoint *e);

/* Takes one connection, or one datagram as a connection (see hark_serve). May suspend. The caller owns *out. Any number
 * of threads and fibers may accept from one listener. Of tls:// it is as it was before hark_starttls().
 * Returns 0; -ETIMEDOUT; -EBADF: it was closed, by a drain or meanwhile;
 * -EMFILE, -ENFILE, -ENOMEM, -ENOBUFS: nothing is lost, try again when there is room. Errors that accept(2) passes on
 * from the network (ECONNABORTED, EPROTO …) concern a connection that is gone: skipped. */
int hark_accept(struct hark_listener *l, int64_t deadline, struct hark_conn **out);

/* ---- connections: streams and datagrams ------------------------------------------------------
 *
 * A stream is bytes. A datagram connection keeps messages apart: one hark_read() takes one datagram whole, one
 * write sends one. Where hark_serve() or hark_accept() gave it, it is one datagram: it can be read once, then comes
 * the end; each write is a reply to its sender, from the address that was asked (IP_PKTINFO). */

/* Makes a connection of a socket, pipe, terminal or file. Consumes fd, even on failure. Its O_NONBLOCK flag is left
 * as it is: the description may be shared with other processes. A terminal and a named pipe get a description of their
 * own under the same number, so that neither reading nor writing ever blocks a loop. A pseudo-terminal's hang-up is the
 * end of the stream. Returns 0; -EBADF, -ENOMEM. */
int hark_conn_from_fd(int fd, struct hark_conn **out);

/* Two connections, each the other's peer, to try a box with: a socketpair(2). The caller owns both.
 * Returns 0; -EMFILE, -ENOMEM. */
int hark_pair(struct hark_conn *out[2]);

/* A pointer of the user's, kept with the connection and never looked at; NULL until it is set. */
void hark_set_data(struct hark_conn *c, void *data);
void *hark_data(const struct hark_conn *c);

/* The descriptor, still the connection's own, for options and to wait for; -1: it has none. What was received already
 * (hark_buffered()) or written and not yet flushed is not in it: hark_handover() is for who reads or writes it. */
int hark_fd(const struct hark_conn *c);

/* Makes the descriptor one that a program or other code can go on with where hark_read() and hark_write() have got to:
 * what was written is flushed, what comes is left in it until the connection is read from again, and O_NONBLOCK is off.
 * May suspend. Returns the descriptor, still the connection's own. -ENOTEMPTY: bytes were received and not yet read:
 * hark_buffered() tells how many, read them first. -EOPNOTSUPP: no descriptor carries c's own bytes, as with a single
 * datagram. -EBUSY; or as hark_flush(). */
int hark_handover(struct hark_conn *c);

/* Tells that other processes, too, have the descriptor and go on with it: hark_close(), or the server when the box has
 * returned, closes it here and ends nothing. The connection ends when the last of them closes it. */
void hark_shared(struct hark_conn *c);

/* Bytes that were received and not yet read. */
size_t hark_buffered(const struct hark_conn *c);

/* SOCK_STREAM or SOCK_DGRAM; a pipe, terminal or file is a stream; SOCK_SEQPACKET is datagrams that end. */
int hark_type(const struct hark_conn *c);

/* Reads what there is, at least 1 byte, at most cap. May suspend; before it would, what was written is flushed.
 * Returns the count; 0 at the end of the stream (the peer ended it in order). -ECONNRESET: it was cut.
 * Datagrams: one, whole; 0 is an empty one, or the end; -EMSGSIZE if it is longer than cap: it is not consumed, and
 * hark_buffered() tells its size. hark_readn() and hark_readline() take its bytes apart; they never join two. */
ssize_t hark_read(struct hark_conn *c, void *buf, size_t cap);

/* Reads exactly n bytes. Returns n; 0 if the stream ended before the first one; -ECONNRESET if it was cut;
 * -ENODATA if it ended in between (what came stays readable). May suspend. */
ssize_t hark_readn(struct hark_conn *c, void *buf, size_t n);

/* Reads one line, up to and including '\n', into buf (at most cap-1 bytes, then a NUL). May suspend.
 * Returns its length, 0 at the end of the stream, -EMSGSIZE if there is no '\n' within cap-1 bytes (nothing is
 * consumed). A last line without '\n' is returned as it is. RFC 1288 section 2.2 is a caller. */
ssize_t hark_readline(struct hark_conn *c, char *buf, size_t cap);

/* Like hark_read(), but consumes nothing: the same bytes are read next. At most 16384 bytes. May suspend. */
ssize_t hark_peek(struct hark_conn *c, void *buf, size_t cap);

/* Writes all n bytes, or fails. Small writes to a stream coalesce: they leave with hark_flush(), before a read of
 * this connection that would wait, with hark_close() and hark_shutdown(), when 16 KB have gathered, and at once while
 * another fiber or thread waits to read. May suspend. Returns n, or -EPIPE, -ECONNRESET, -ETIMEDOUT, -ECANCELED, …:
 * then the peer has less than all of it. From then on the connection is good for nothing but reading what is still
 * there: all writing fails with that error, and so does hark_close(), which resets. */
ssize_t hark_write(struct hark_conn *c, const void *buf, size_t n);
ssize_t hark_writev(struct hark_conn *c, const struct iovec *iov, int count);

/* printf(3) to the connection: one datagram where it is one. Returns the length. May suspend. */
ssize_t hark_printf(struct hark_conn *c, const char *format, ...) __attribute__((format(printf, 2, 3)));
ssize_t hark_vprintf(struct hark_conn *c, const char *format, va_list args);

/* Sends what was written. Returns 0. May suspend. */
int hark_flush(struct hark_conn *c);

/* Sends count bytes of the file fd from offset, or to its end if count is 0. sendfile(2) where it can be used,
 * a buffer elsewhere. May suspend. Returns how many bytes were sent, fewer than count where the file ends before; a
 * failure in the midst sticks as one of hark_write(). -EOPNOTSUPP for datagrams. */
int64_t hark_sendfile(struct hark_conn *c, int fd, off_t offset, size_t count);

/* hark_read() from one stream and hark_write() to another, or back to the same one, of what there is, at least 1 byte,
 * without a buffer of the caller's and mostly without copying. May suspend. Returns the count; 0 at the end of from;
 * -EOPNOTSUPP for datagrams. What it wrote leaves with hark_flush(), or before a read of that connection that would
 * wait. After a failure of to what was read is lost. Much at a time, between sockets and pipes, and from files, is
 * moved by the kernel; for that, as for hark_sendfile(), O_NONBLOCK of sockets is set. */
ssize_t hark_pass(struct hark_conn *from, struct hark_conn *to);

/* Copies from one connection to another until from's end, flushing as it goes. Splices as hark_pass(). May suspend.
 * Returns how many bytes; on failure, which side failed is in *to_failed (may be NULL). */
int64_t hark_copy(struct hark_conn *from, struct hark_conn *to, bool *to_failed);

#define HARK_IN  1 /* reading; for hark_wait_fd: readable */
#define HARK_OUT 2 /* writing; for hark_wait_fd: writable */

/* Ends one direction (HARK_IN or HARK_OUT) or both. HARK_OUT flushes first, then the peer reads the end of the
 * stream; every later write here is -EPIPE, and nothing is lost. HARK_IN: what has come can still be read, then comes
 * the end; a reader that waits wakes. An end of a pipe, or a file that is open for that direction alone, is closed by
 * it: hark_fd() is -1 then. Of a terminal or a file that is open for both one cannot be ended: -EOPNOTSUPP. To end
 * what has ended is 0. May suspend. -EINVAL: no or another direction; else as hark_flush(). shutdown(2). */
int hark_shutdown(struct hark_conn *c, int directions);

/* Flushes, ends, and reads and drops the peer's remaining input, for a bounded time, so that closing with input unread
 * does not make the kernel reset the connection and cut the answer's tail (RFC 1122 section 4.2.2.13, RFC 9112
 * section 9.6). Where bytes that hark_write() was given could not be sent, the end is hark_abort()'s: what is cut looks
 * cut. Past the deadline and in a cancelled fiber it sends what needs no waiting, and waits for nothing. Neither end
 * waits for a process that has the socket, too. Frees c; NULL is fine. May suspend. Returns 0 or the first error that
 * lost written bytes; -EBUSY: another fiber or thread is in a call on c, and nothing was done. */
int hark_close(struct hark_conn *c);

/* Drops what is not yet sent and closes with RST; a unix socket's peer, which knows no reset, sees the end. Frees c,
 * unless another fiber or thread is in a call on it: that one fails, and c is still to be closed. NULL is fine. Never
 * suspends. */
void hark_abort(struct hark_conn *c);

/* Lets go of c in this process alone: closes its descriptor and sends, ends and resets nothing; written bytes that were
 * not flushed are lost here. For both sides of a fork(2): whoever goes on with the connection still has it. Frees c, in
 * the same cases as hark_abort(). NULL is fine. Never suspends. */
void hark_release(struct hark_conn *c);

/* Every later call on c fails with -ETIMEDOUT past this moment. HARK_FOREVER, the default: none. */
void hark_deadline(struct hark_conn *c, int64_t deadline);

/* A single wait within a call on c lasts at most ns. 0, the default: for ever. */
void hark_idle_timeout(struct hark_conn *c, int64_t ns);

/* The peer's and our own address, as hark_endpoint_format() writes them. Return the length or -errno. */
int hark_peer(struct hark_conn *c, char *buf, size_t cap);
int hark_local(struct hark_conn *c, char *buf, size_t cap);

/* The same as endpoints, v4-mapped addresses already IPv4. -ENOTCONN, -ENOTSOCK. */
int hark_peer_endpoint(struct hark_conn *c, struct hark_endpoint *out);
int hark_local_endpoint(struct hark_conn *c, struct hark_endpoint *out);

struct hark_credentials {
	pid_t pid;
	uid_t uid;
	gid_t gid;
};

/* Who is at the other end of a unix connection: the process and its user, as they were when it connected or listened.
 * unix(7), SO_PEERCRED. -EOPNOTSUPP, -ENOTSOCK: it is no unix connection. */
int hark_peer_credentials(const struct hark_conn *c, struct hark_credentials *out);

/* How many hops (IP_TTL) were left to an accepted connection's SYN, or to a received datagram; of a listener's it is
 * known once one of them has become a flow. 0: not known. A relay that dials on with one less
 * (hark_dial_opts.hop_limit) is part of no endless ring. */
int hark_hops(const struct hark_conn *c);

struct hark_conn_stats {
	uint64_t bytes_in;   /* received by hark; not what a program took from the descriptor */
	uint64_t bytes_out;  /* handed to the kernel */
	int64_t opened_ns;   /* hark_now() when it was accepted, dialed or made */
	int64_t deadline_ns; /* what hark_deadline() or the service's lifetime set; HARK_FOREVER: none */
	int64_t idle_ns;     /* what hark_idle_timeout() or the service's idle time-out set; 0: none */
};

/* What c has carried so far, and its limits. Never fails. */
void hark_conn_stats(const struct hark_conn *c, struct hark_conn_stats *out);

/* Request boundary: waits until the peer's next byte is there. May suspend; what was written is flushed before.
 * Here a drain ends a connection, and here the stack of a fiber that waits for more than a second is given back, if
 * less than 2 KB of it is in use: keep large buffers in a function that is called after hark_idle() has returned. While
 * it waits nobody else may use what lies on its stack, unless a scope of its own is open. Returns 1: read on. 0: return
 * from the box: the stream has ended or the service drains. Or -ETIMEDOUT, -ECONNRESET, ….
 *
 *     while (hark_idle(c) > 0)
 *             serve_one_request(c); */
int hark_idle(struct hark_conn *c);

/* Looks whether there is something to read, without waiting: for who has more to do before the next wait. 1: there is;
 * 0: the end; -EAGAIN: a wait will tell; else as hark_idle(). */
int hark_ready(struct hark_conn *c);

/* Makes a flow of a UDP datagram that hark_serve() or hark_accept() gave: from now on c has a socket of its own,
 * bound to the address that was asked and connected to the peer, in whose queue the datagram lies, followed by all that
 * the peer sends; hark_handover() makes it a program's. -EALREADY: this peer has a flow here already, which has
 * got the datagram; c is of no more use. -ELOOP: the peer is a listener of ours (hark_is_listener()). -EADDRINUSE:
 * another socket than the listener's is in the way. -EOPNOTSUPP if c is not such a datagram. Never suspends. */
int hark_udp_connect(struct hark_conn *c);

#define HARK_DRAIN 4 /* for hark_wait_fd, in a box: return also when a drain begins, or has begun */

/* Waits until any descriptor is readable (HARK_IN) or writable (HARK_OUT): pidfds, signalfds, another library's.
 * May suspend. Returns what is so, of what was asked (an error or hang-up makes both directions ready), or -ETIMEDOUT,
 * -ECANCELED, -EBADF. */
int hark_wait_fd(int fd, int directions, int64_t deadline);

/* Tells the server how the box judges its own end: HARK_EVENT_CLOSE carries it. pid: the process that served in the
 * box's place; 0: none; told when that begins, status 0, it is an event of its own. status: in waitpid(2)'s form, 0 by
 * default; or a -errno: the connection has failed, that is the event's error, and the server ends it by hark_abort()
 * instead of hark_close(): its peer sees no end in order. */
void hark_outcome(struct hark_conn *c, pid_t pid, int status);

/* The box refuses c, for a reason of the caller's own, > 0: once it returns HARK_EVENT_REFUSED comes in the place of
 * HARK_EVENT_CLOSE, with the reason as its error, and c is reset; where its handshake has failed, the alert that says
 * why is its end. */
void hark_refuse(struct hark_conn *c, int reason);

/* Reasons that boxes have of their own: harkd and hark serve count them, and log them at a bounded rate. */
enum hark_refusal {
	HARK_REFUSED_HELLO = 1000, /* no TLS hello, a bad one, a late one */
	HARK_REFUSED_NAME,         /* nobody is there for the name that the client asks for */
};

/* What admit() gave for c; -1: it was not asked. */
int hark_ticket(const struct hark_conn *c);

/* ---- TLS -------------------------------------------------------------------------------------
 *
 * TLS 1.2 and 1.3 by OpenSSL, over a stream's socket; afterwards the connection is used as before. Ciphers with forward
 * secrecy and AEAD alone; no renegotiation, no compression. The end of the stream is the peer's close_notify, and
 * hark_close() and hark_shutdown() send ours, after which the peer may go on. An end without it is -ECONNRESET: the
 * stream was cut. hark_sendfile(), hark_pass() and hark_copy() copy; hark_handover() is -EOPNOTSUPP.
 *
 * OpenSSL is loaded by dlopen(3) when TLS is first wanted: by hark_tls_new(), or by a client without settings. Who goes
 * into a chroot calls hark_tls_new() before. -ENOPKG: it cannot be loaded. */

/* A certificate, those above it behind it, and its key: PEM, which is not encrypted. */
struct hark_tls_cert {
	const char *cert;     /* the file */
	const char *key;      /* the key's; NULL: that is in the same file */
	const char *cert_pem; /* not NULL: the text itself, and cert is only what messages call it */
	const char *key_pem;  /* likewise */
};

enum hark_tls_clients {
	HARK_TLS_CLIENTS_ANY = 0,  /* clients are asked for no certificate */
	HARK_TLS_CLIENTS_OPTIONAL, /* what they show must be vouched for */
	HARK_TLS_CLIENTS_REQUIRED,
};

/* What session tickets are made with. RFC 5077 section 4. */
struct hark_ticket_key {
	unsigned char name[16], aes[32], hmac[32];
};

struct hark_tls_opts {
	/* A server's, chosen by the name that the client asks for, among those of the same names by what the client
	 * can; the first one's where none fits. A client shows the first. */
	const struct hark_tls_cert *certs;
	int n_certs;
	const char *ca; /* PEM: who vouches for the peer, with crl up to a root. NULL: the system's store, of servers */
	const char *ca_pem; /* not NULL: the text itself, as above */
	const char *crl;    /* PEM: what they have revoked, of each in a chain; NULL: nobody looks */
	const char *crl_pem;
	enum hark_tls_clients clients;
	bool insecure;    /* a client takes any certificate of a server's */
	int min_version;  /* 12 or 13; 0: 12 */
	const char *alpn; /* "h2 http/1.1", "h2,http/1.1": application protocols, best first; NULL: none. RFC 7301 */
	/* A server's ticket keys, where several processes share them and change them: name NULL: which one are tickets
	 * made with? 0, or < 0: none is made. Else the one of that name: 0; 1: good, but a new ticket is due; < 0:
	 * unknown, or its time is over, and a full handshake follows. Called in handshakes, on their threads. Must not
	 * suspend. NULL: a key that hark_tls_new() makes, and that processes have in common which it is forked to. */
	int (*ticket_key)(const unsigned char *name, struct hark_ticket_key *out, void *ticket_arg);
	void *ticket_arg;
	/* Sessions are resumed so long after their full handshake, for the same name, and no longer than a client's
	 * certificate and those above it last; 0: 12 h; at most 7 days. */
	int64_t ticket_lifetime_ns;
	struct hark_why *why; /* filled on failure: which file, and what about it; may be NULL */
};

/* Makes settings, for servers and clients. Every file is read now, by the calling thread. The caller owns *out.
 * Returns 0; -EINVAL, -ENOENT, -EACCES, -ENOMEM …; -ENOPKG: no OpenSSL, and why says what was looked for. */
int hark_tls_new(const struct hark_tls_opts *opts, struct hark_tls **out);

/* The same, in the place of t's settings, for handshakes that begin from now on; what cannot be made changes nothing.
 * Any thread. Returns as hark_tls_new(). */
int hark_tls_reload(struct hark_tls *t, const struct hark_tls_opts *opts);

/* Connections go on. Not while a server or a call has t. NULL is fine. */
void hark_tls_free(struct hark_tls *t);

struct hark_starttls_opts {
	const char *name;     /* the server's, or its IP address: asked for and verified. NULL: we are the server */
	int64_t deadline;     /* of the handshake; 0: 10 s from now. The connection's own hold, too */
	struct hark_why *why; /* filled on failure; may be NULL */
};

/* Does the handshake. t NULL: a client's defaults. What was received and not yet read, such as what hark_peek() has
 * shown, is TLS's. It takes some 16 KB of stack. After a failure, which the peer is told as an alert, c can only be
 * closed. May suspend.
 * Returns 0; -HARK_ECERT; -EPROTO: the peer's alert, nothing in common, no TLS; -ECONNRESET; -ETIMEDOUT; -EALREADY: it
 * is TLS; -EINVAL: t has no certificate for a server; -EOPNOTSUPP: it is no stream's socket; -EBUSY; -ENOMEM;
 * -ENOPKG: no OpenSSL. */
int hark_starttls(struct hark_conn *c, struct hark_tls *t, const struct hark_starttls_opts *opts);

/* Whether c is from a listener at tls://, and its handshake still to be done: tls_by_box. */
bool hark_tls_due(const struct hark_conn *c);

/* Why c's TLS has failed, or that it was cut: "the peer's alert: unknown CA"; NULL: neither. The text is c's. */
const char *hark_tls_failure(const struct hark_conn *c);

struct hark_tls_info {
	char version[16], cipher[48]; /* "TLSv1.3", "TLS_AES_256_GCM_SHA384" */
	char group[32];               /* "x25519"; "": none */
	char alpn[64];                /* what was agreed on; "": nothing */
	char name[HARK_HOST_MAX + 1]; /* the server's that was asked for; "": none */
	bool resumed;                 /* the handshake was a short one */
	bool verified;                /* the peer's certificate is vouched for, a server's for its name */
	char why[128];                /* why it is not; "": it is, or there is none */
};

/* What the handshake came to. Returns 0, -ENOTCONN: there was none, or none that succeeded. */
int hark_tls_info(const struct hark_conn *c, struct hark_tls_info *out);

struct hark_certificate {
	char subject[256], issuer[256]; /* "CN=example.org,O=Example", RFC 2253; one that is cut ends in "..." */
	char names[1024];               /* DNS names and IP addresses, spaces between */
	char serial[64], sha256[65];    /* hexadecimal digits */
	char key[32];                   /* "RSA 2048", "EC P-256", "ED25519" */
	int64_t not_before, not_after;  /* seconds, as time(2) counts them */
	int count;                      /* of certificates, from the peer's or own one up */
};

/* The peer's certificate, place 0, and those above it, also a refused server's. Returns 0; -ENOTCONN; -ENOENT: there is
 * none; -ENOMEM: there may be one. */
int hark_tls_peer(const struct hark_conn *c, int place, struct hark_certificate *out);

/* The same of t's own: which is as in the options' certs. Returns 0; -ENOENT; -ENOMEM. */
int hark_tls_own(struct hark_tls *t, int which, int place, struct hark_certificate *out);

/* One of the peer's as PEM text. Returns the length; -ENOSPC; or as hark_tls_peer(). */
int hark_tls_peer_pem(const struct hark_conn *c, int place, char *buf, size_t cap);

/* ---- the PROXY protocol ----------------------------------------------------------------------
 *
 * A proxy says on whose behalf it connects by a header before the first byte: haproxy's proxy-protocol.txt, versions 1
 * and 2. Anybody can write one: ask it of proxies that are known by their addresses alone, and require it of them. */

enum hark_proxy_type {
	HARK_PROXY_ALPN = 0x01,        /* the application's protocol: "h2" */
	HARK_PROXY_AUTHORITY = 0x02,   /* the host's name that the client asked for: TLS's server name */
	HARK_PROXY_UNIQUE_ID = 0x05,   /* the connection's, at most 128 bytes */
	HARK_PROXY_SSL_VERSION = 0x21, /* the next are of the client's TLS, of a type of their own: ssl */
	HARK_PROXY_SSL_CN = 0x22,      /* of the client's certificate */
	HARK_PROXY_SSL_CIPHER = 0x23,
	HARK_PROXY_SSL_SIG_ALG = 0x24,
	HARK_PROXY_SSL_KEY_ALG = 0x25,
	HARK_PROXY_SSL_GROUP = 0x26,
	HARK_PROXY_SSL_SIG_SCHEME = 0x27,
	HARK_PROXY_SSL_CLIENT_CERT = 0x28, /* DER */
	HARK_PROXY_NETNS = 0x30,
};

struct hark_proxy_tlv {
	int type;   /* enum hark_proxy_type, or any other's number */
	size_t len; /* of value: bytes that the proxy chose, with no NUL behind */
	const void *value;
};

struct hark_proxy {
	int version;  /* 1 or 2; 0, to write one: 2 */
	size_t bytes; /* of the header that was read */
	bool local;   /* nobody's behalf (LOCAL, UNKNOWN, a family without addresses): the socket's own ends hold */
	struct hark_endpoint source, destination; /* of a connection to the proxy; len 0: none */
	/* Version 2 alone, and not where local: */
	bool checksum;       /* it has one (CRC-32C), which was right */
	bool ssl;            /* it tells of the client's TLS: */
	uint8_t ssl_client;  /* bits: 1: it has spoken TLS, 2: with a certificate now, 4: or in its session */
	uint32_t ssl_verify; /* 0: the certificate was verified */
	int n_tlvs;
	const struct hark_proxy_tlv *tlvs; /* what else it tells, those of ssl beside the others, in its order */
};

/* Reads a proxy's header, and not a byte of what follows it: a program can be given the descriptor afterwards. From
 * then on hark_peer(), hark_local() and their endpoints tell what it told. Before anything else is read; deadline is
 * that of the whole. May suspend. Returns 0. -EPROTO: it is none, or a bad one; why, which may be NULL, begins with a
 * word for the reason, and a ':'. -ENODATA: the stream ended before its end. -ETIMEDOUT, -ECONNRESET, …; -EALREADY: one
 * was read; -EOPNOTSUPP: no stream. */
int hark_proxy_accept(struct hark_conn *c, int64_t deadline, struct hark_why *why);

/* What that header told, good as long as c; NULL: none was read. The first of p's TLVs of a type; NULL: it has none.
 * Never suspend. */
const struct hark_proxy *hark_proxied(const struct hark_conn *c);
const struct hark_proxy_tlv *hark_proxy_find(const struct hark_proxy *p, int type);

/* What a relay says of c: *out is zeroed and gets c's ends. Local, where there are no two of them. Never suspends.
 * Returns 0, or -ENOBUFS, -ENOMEM: it has them, and cannot be asked for them. */
int hark_proxy_describe(struct hark_conn *c, struct hark_proxy *out);

/* Writes a header to buf, or to c, before all else there: of p's version, with its TLVs and a checksum if it wants one.
 * Version 1 has room for addresses alone. Where source and destination are not two of a kind that it knows, it is
 * LOCAL, or UNKNOWN. Return its length; -ENOSPC; -EMSGSIZE: more than 65535 bytes; -EINVAL; or as hark_write().
 * hark_proxy_send() may suspend. */
ssize_t hark_proxy_format(const struct hark_proxy *p, void *buf, size_t cap);
ssize_t hark_proxy_send(struct hark_conn *c, const struct hark_proxy *p);

/* ---- serve ----------------------------------------------------------------------------------- */

/* Serves one connection. The server owns c: it flushes and closes it when the box returns. */
typedef void hark_box(struct hark_conn *c, void *arg);

enum hark_model {
	HARK_MODEL_DEFAULT = 0, /* fiber */
	HARK_MODEL_INLINE,      /* the accepting worker itself: iterative */
	HARK_MODEL_PROCESS,     /* a forked child for each connection, which ends by _exit(2), its stdio(3) flushed */
	HARK_MODEL_THREAD,      /* a thread for each connection, with the signal mask of hark_serve()'s */
	HARK_MODEL_FIBER,       /* a fiber for each connection, on an event loop */
};

/* "inline", "process", "thread", "fiber"; NULL for no such model. */
const char *hark_model_name(enum hark_model m);

/* The model of that name. -EINVAL: there is none. */
int hark_model_parse(const char *name);

enum hark_event_kind {
	HARK_EVENT_READY = 1, /* every worker that could be forked accepts from now on */
	HARK_EVENT_OPEN,      /* conn was accepted */
	HARK_EVENT_CLOSE,     /* conn's box has returned; conn is closed next. error: 0 or why it was cut */
	/* Accepting pauses. error: EMFILE, ENFILE, ENOBUFS, ENOMEM, EAGAIN (fork, thread), EBUSY: pace() says so, or
	 * 0: max_conns. */
	HARK_EVENT_PAUSED,
	HARK_EVENT_RESUMED,     /* accepting goes on */
	HARK_EVENT_WORKER_UP,   /* pid */
	HARK_EVENT_WORKER_DOWN, /* pid, status as of waitpid(2) */
	HARK_EVENT_DRAINING,    /* no more is accepted */
	/* conn was refused, with this error, and is reset next. ticket -1: by admit(), there is no OPEN and no CLOSE;
	 * else by its box, hark_refuse(): in CLOSE's place. */
	HARK_EVENT_REFUSED,
	HARK_EVENT_PROGRAM,  /* hark_outcome() told the pid of what serves conn in the box's place; it goes on */
	HARK_EVENT_LENT,     /* wait: a box gets the socket next. This one and the next: in the process that accepts */
	HARK_EVENT_RETURNED, /* wait: it is back, in whatever way, also where a child that had it was killed */
};

struct hark_event {
	enum hark_event_kind kind;
	struct hark_conn *conn; /* OPEN, PROGRAM, CLOSE, REFUSED */
	int error;
	pid_t pid;  /* WORKER_UP, WORKER_DOWN; PROGRAM, CLOSE: what hark_outcome() told, or 0 */
	int status; /* WORKER_DOWN; CLOSE: what hark_outcome() told, or 0 */
	int ticket; /* of conn: what admit() gave; -1: none */
};

struct hark_serve_opts {
	enum hark_model model;
	int workers;   /* processes that all accept; 0 or 1: the caller itself */
	int max_conns; /* at once in each worker; above it connections wait in the backlog; 0: no limit */
	/* Descriptors that the box opens for a connection, beside its own: where RLIMIT_NOFILE leaves no room for them,
	 * connections wait in the backlog. 0: none. HARK_MODEL_THREAD adds those of the loop that hark_go() makes. */
	int conn_fds;
	/* The peer speaks first: the box starts at its first byte, a silent connection costs no stack. */
	bool client_first;
	/* inetd's wait: once a listener has something, the box gets the listening socket itself as its connection,
	 * nothing taken from it, and the server looks away until the box returns; at once at first, with back-off up to
	 * 10 s for a box that returns leaving the socket as it was, where nothing has come meanwhile. */
	bool wait;
	/* Of listeners at tls://: the handshake comes before the box, where that runs, within so long from the accept:
	 * 0: 10 s. Where it fails no box starts, and CLOSE has the error. client_first: that starts at the first byte
	 * behind it. tls_by_box: hark_starttls() is the box's, which starts at the first byte if a time is given. */
	struct hark_tls *tls;
	int64_t tls_handshake_ns;
	bool tls_by_box;
	const char *engine;      /* "epoll", "uring", "poll"; NULL: $HARK_ENGINE, else the best that works here */
	size_t stack_bytes;      /* of each fiber or thread; 0: 64 KB for fibers, the system's for threads */
	int64_t idle_timeout_ns; /* hark_idle_timeout() of each connection; 0: none */
	int64_t lifetime_ns;     /* hark_deadline() of each connection, from its accept; 0: none */
	/* What happens, as it happens; never called from a signal handler. In the process and thread models OPEN and
	 * CLOSE come from the connection's own process or thread; where that process was killed, or ended by itself,
	 * CLOSE from the one that accepts, with the process's pid and status (error ECHILD: its parent ignores
	 * SIGCHLD); conn then has addresses and times, but neither descriptor (-1) nor counts. May be NULL. Must not
	 * suspend. */
	void (*event)(const struct hark_event *e, void *event_arg);
	void *event_arg;
	/* Limits of the caller's own. All three are called in the process that accepts, on its loop's thread: never in
	 * a forked child or a connection's thread; with workers in each of them. Each may be NULL. Must not suspend.
	 *
	 * pace: something waits at a listener: may it be taken? Asked before each connection and each datagram (which
	 * therefore come one by one, not in batches) and, with wait, before the socket is lent. 0: go on. > 0: what
	 * waits stays in the backlog for so many nanoseconds, or until a connection ends; then it is asked again.
	 * HARK_FOREVER: until one ends (for a short while if there is none). In a drain it is asked for each connection
	 * that the backlog still held; those that have to wait when the grace ends are reset. HARK_FOREVER in a drain:
	 * the backlog is not taken at all, as others accept from that socket and go on. Each pace() that said 0 is
	 * followed by one admit(), or by leave(-1) if nothing was taken after all; so it may reserve.
	 *
	 * admit: c was accepted, its box not yet started. >= 0: a ticket, for leave(). < 0: a -errno, or minus a reason
	 * of the caller's own; c is reset, a datagram is dropped, and there is a HARK_EVENT_REFUSED for it alone. Not
	 * asked with wait.
	 *
	 * leave: the connection of that ticket is over, in whatever way, also where a child that served it was killed
	 * or a drain cut it: once for each that was admitted, before hark_serve() returns. -1: see pace. */
	int64_t (*pace)(void *limit_arg);
	int (*admit)(struct hark_conn *c, void *limit_arg);
	void (*leave)(int ticket, void *limit_arg);
	void *limit_arg;
	/* Behind proxies: asked of each stream, where its box will run. 1: its peer is a proxy: OPEN comes, and the box
	 * begins, once its header is read, hark_proxy_accept(), within proxy_timeout_ns (0: 10 s). 0: it speaks for
	 * itself. A -errno: it is refused, as by hark_refuse(); so is one whose header is late, bad or missing. NULL:
	 * nobody has a header. Must not suspend. Not asked with wait; client_first has no effect with it. */
	int (*proxied)(struct hark_conn *c, void *proxied_arg);
	void *proxied_arg;
	int64_t proxy_timeout_ns;
	struct hark_why *why; /* filled on failure; may be NULL */
};

/* Serves every listener, streams and datagrams alike, until drained. Each datagram is a connection of its own; replies
 * written while a batch is served leave by sendmmsg(2). A worker that dies is restarted, at once at first, then with
 * back-off up to 10 s, and one that cannot be forked is tried again likewise, as long as any runs at the start.
 * Children are waited for by their own pid alone. Descriptors run out: accepting pauses and resumes, nothing is
 * refused. When a drain begins the listeners' sockets are closed here (after what their backlog held is accepted); the
 * structs stay the caller's to hark_listener_close(). May suspend: on a fiber, others run meanwhile.
 * Any number may run in a process, of one listener too: in threads, as fibers of one loop, inside a box. One whose
 * fiber is cancelled ends alone, and returns, as by hark_drain(0), and leaves its listeners open.
 * A box that does not notice for 2 s that it is cut is left behind: its connection, arg and opts' callbacks stay in
 * use until it returns; the listeners do not.
 * Returns 0 when drained or cancelled, or all listeners are closed and the last connection has ended; -ETIMEDOUT if the
 * grace ended and connections were cut; -EBADF: a listener is closed, perhaps by a drain before; -EINVAL, -ENOSYS (no
 * such engine here), -EMFILE, -ENOMEM …: it could not start. */
int hark_serve(struct hark_listener *const listeners[], int n, hark_box *box, void *arg,
               const struct hark_serve_opts *opts);

/* Ends every hark_serve() of this process and its workers: idle connections end, busy ones finish, and what is left
 * when grace_ns have passed is cut. A later call can only shorten the grace: hark_drain(0) ends at once. In a child
 * that a box forked it concerns that child alone, which hears of its parent's drains as well. Async-signal-safe. */
void hark_drain(int64_t grace_ns);

/* Has every hark_serve() of this process and its workers accept no more, and return when its last connection has ended
 * by itself, in its own time: nobody is told, nothing idle is ended. What waits in the backlogs is left there, for
 * others that have the sockets open: a successor. A socket that was lent (serve_opts.wait) is lent no more. A
 * hark_drain() may follow. Async-signal-safe. */
void hark_retire(void);

/* Whether hark_serve() has made this process for one connection (HARK_MODEL_PROCESS): what is set for the whole process
 * ends with it. So in a process that a box forks there. Any thread. */
bool hark_serves_one(void);

/* When the grace of the drain under way ends, as a deadline; HARK_FOREVER while none is. Any thread, any worker. */
int64_t hark_drain_deadline(void);

/* ---- a box by name ---------------------------------------------------------------------------
 *
 * What harkd and hark serve know of a box: one row. They take its options apart by a table, from the command line
 * (--any-port) and from hark.conf (any_port = yes), and call, in this order:
 *
 *   parse    at any time, also just to check: no files, no privileges, nothing that lasts
 *   prepare  in the service's process while it has the rights that it was started with: keys, logs, low descriptors
 *   open     as the service's user, in its root and working directory, before the first connection
 *   serve    each connection, in any model; several at once
 *   close    after any of them; not where serve was cut and may still be running, nor by a process that gives up
 *
 * All get one state: state_bytes of zeroes in which the options have been put at their places. harkd -t calls all but
 * serve, in a child process.
 *
 * A shared object is a box, too: box = /path/mine.so, hark serve ADDRESS /path/mine.so. It defines
 *
 *     const struct hark_box_row hark_box_row = {.version = HARK_BOX_VERSION, .name = "mine", .serve = ...};
 *
 * and is loaded once the service's process has become its user. It need not be linked with libhark: the symbols are
 * those of the program that loads it. */

#define HARK_BOX_VERSION     1
#define HARK_BOX_OPTIONS_MAX 32

enum hark_option_kind {
	HARK_OPTION_FLAG = 1,  /* bool; yes or no, --x alone is yes */
	HARK_OPTION_TEXT,      /* const char *: NULL if it is not given; good as long as the state */
	HARK_OPTION_PATH,      /* const char *, likewise; absolute in hark.conf */
	HARK_OPTION_NUMBER,    /* int64_t, from min to max */
	HARK_OPTION_SIZE,      /* int64_t bytes, from min to max: 4096, 64k, 1m */
	HARK_OPTION_DURATION,  /* int64_t nanoseconds, at least min: 500ms, 5s, 2m, 1h, plain seconds */
	HARK_OPTION_DURATIONS, /* int64_t[2] nanoseconds, "1s 3s", the second no less than the first */
	HARK_OPTION_CHOICE,    /* int: the place in choices of the word that is given */
};

struct hark_option {
	const char *name; /* "any-port": --any-port, any_port = yes; none that hark.conf has for every service */
	enum hark_option_kind kind;
	size_t at;                  /* offsetof() in the state */
	const char *value;          /* what --help calls the value: "FILE"; NULL for a flag */
	const char *help;           /* a line; NULL: a former name, still taken and not shown */
	const char *standard;       /* what it is where it is not given, as it would be written; NULL: zero */
	const char *alone;          /* what --x alone means, a value then follows as --x=V only; NULL: it must follow */
	int64_t min, max;           /* max 0: no limit */
	const char *const *choices; /* ends with NULL */
	bool of_peer; /* about the peer: no effect where the box gets the listening socket itself (wait) */
};

enum hark_operands {
	HARK_OPERANDS_OTHER = 0,
	HARK_OPERANDS_PROGRAM, /* the first one is a program, found in $PATH; what follows is its own */
	HARK_OPERANDS_ADDRESS, /* each is an address to dial, perhaps behind NAME= */
};

struct hark_box_row {
	unsigned version;    /* HARK_BOX_VERSION */
	const char *name;    /* as it is asked for: "daytime" */
	const char *summary; /* a line for lists */
	const char *usage;   /* its operands: "PROGRAM [ARGUMENT...]"; NULL: none */
	enum hark_operands operands;
	const struct hark_option *options; /* ends with a row whose name is NULL; NULL: none */
	size_t state_bytes;
	bool stream, datagram; /* what it can serve */
	bool sessions;         /* a peer's datagrams are a session that lasts, not an answer each */
	bool client_first;     /* see struct hark_serve_opts */
	bool hands_over;       /* the connection's bytes go through another process: only the kernel can count them */
	int conn_fds;          /* see struct hark_serve_opts */
	/* Each may be NULL, but serve. Those that return int: 0 or a -errno with why, -EINVAL where the arguments are
	 * wrong on any system. argv lives as long as the state. */
	int (*parse)(void *state, int argc, char *const argv[], struct hark_why *why); /* its operands */
	int (*prepare)(void *state, struct hark_why *why);
	int (*open)(void *state, struct hark_why *why);
	hark_box *serve; /* arg: the state */
	void (*close)(void *state);
	/* Files of its HARK_OPTION_PATHs, which it has read once, have changed: for what is served from now on it reads
	 * them again, or goes on as before. Called while it serves, by the thread that accepts; must not suspend. Of
	 * our own boxes harkd begins new workers instead. */
	int (*renew)(void *state, struct hark_why *why);
	bool (*takes)(const void *state, int type); /* SOCK_STREAM, SOCK_DGRAM, where that depends on the arguments */
	const char *(*title)(const void *state);    /* for the log; NULL: the name */
	/* Where a connection goes on to, for the log; NULL: nowhere, or that is not known yet. */
	const char *(*target)(const void *state, const struct hark_conn *c);
	/* Why c has failed, or was refused, in words that say more than the number; NULL: nothing more. Asked once,
	 * by the thread that serve has returned on, before another box of its does. */
	const char *(*failure)(const void *state, const struct hark_conn *c);
};

/* ---- fibers: structured concurrency inside a box or a program -----------------------------------
 *
 * A fiber is a function with a stack of its own, on the event loop of the thread that started it; it never moves to
 * another thread, and is switched only where a call may suspend. A scope holds fibers: its end waits for them all, so
 * that no fiber outlives the variables it uses. All of this works in every model: where there is no loop, the first
 * hark_go() makes one for the thread, and in a box that one too hears of drains, and is cut when the grace ends.
 *
 * In C++ each fiber has its own exceptions, thrown and caught; one that leaves its function ends the program
 * (std::terminate).
 *
 * After fork(2) the child has the calling fiber alone, as a thread whose calls block, on that fiber's stack; scopes
 * that were open hold nothing there. It must end by _exit(2) or execve(2): where it returns from the fiber's function
 * there is no loop to go back to, and the child is aborted (SIGABRT). What was written and not flushed is in both, as
 * with stdio: hark_flush() before.
 *
 * Below each stack lies a guard that nothing may touch, of a quarter of its size, at least 16 KB: who runs into it is
 * told its name and ended (SIGSEGV). A function with more than that in its frame, such as a large array, can step over
 * the guard into another fiber's stack, unless it is compiled with -fstack-clash-protection, which touches a frame page
 * by page: "pkg-config --cflags hark" says so. */

struct hark_scope {
	void *hark__private[6];
};

/* Begins a scope for the calling fiber or thread. Always followed by hark_scope_close() in the same function. */
void hark_scope_open(struct hark_scope *s);

/* Starts fn(arg) as a fiber in s; it runs when the caller next suspends. name (copied, at most 23 bytes kept; may be
 * NULL) is for hark_dump() and the overflow message. The scope's owner or any fiber in it may call this.
 * Returns 0; -ENOMEM; -EAGAIN: out of guarded stacks; -ECANCELED: the scope is cancelled; -ENOSYS: no engine. */
int hark_go(struct hark_scope *s, const char *name, void (*fn)(void *), void *arg);

/* Cancels every fiber in s: what they wait for returns -ECANCELED, and everything after. They unwind by ordinary
 * returns. Never suspends. */
void hark_cancel(struct hark_scope *s);

/* Waits until every fiber in s has returned. May suspend. 0; -ETIMEDOUT past the deadline; -ECANCELED. */
int hark_join(struct hark_scope *s, int64_t deadline);

/* Cancels what still runs in s and waits for it; does not fail and is not itself cancelled. May suspend. */
void hark_scope_close(struct hark_scope *s);

/* Sleeps for ns. May suspend. 0 or -ECANCELED. */
int hark_sleep(int64_t ns);

/* Lets every other ready fiber run once. May suspend. 0 or -ECANCELED. */
int hark_yield(void);

/* Where fibers wait until others say that something has changed: a queue has filled, somebody has come. A zeroed one
 * is ready and needs no end; its memory stays while anybody waits there. After fork(2) nobody waits in the child's
 * copy. */
struct hark_cond {
	void *hark__private[4];
};

/* Waits until it is woken; then look again, as somebody else may have been faster:
 *
 *     while (queue_is_empty(q) && r == 0)
 *             r = hark_cond_wait(&q->filled, NULL, HARK_FOREVER);
 *
 * mutex: what guards the thing that is waited for, held by the caller. It is let go while the wait lasts, and held
 * again when it ends, in whatever way. While a fiber holds it, it may suspend here alone: others of its thread that
 * want it would block them all. NULL: only fibers of one thread are concerned, which need none. Waiters and wakers may
 * be any fibers and threads of a process, in every model; processes share no memory. May suspend.
 * 0: woken; -ETIMEDOUT; -ECANCELED; -EMFILE, -ENFILE: a thread without fibers waits by a descriptor. */
int hark_cond_wait(struct hark_cond *c, pthread_mutex_t *mutex, int64_t deadline);

/* Wakes who has waited longest, or everybody who waits now. Nobody waits: nothing happens, and nothing is kept. With
 * the mutex held or not. Never suspends. Not in signal handlers. */
void hark_cond_signal(struct hark_cond *c);
void hark_cond_broadcast(struct hark_cond *c);

/* Runs fn(arg) on a full-stack helper thread while the calling fiber waits, also a cancelled one (fn may use its
 * stack); a plain call where there is no fiber. For what would stall the loop: look-ups, disk, deep recursion. At most
 * 64 at once run, further ones queue. fn has the caller's signal mask, for programs that it starts. May suspend.
 * 0, or -EAGAIN: no thread could be had. -ENOMEM. */
int hark_offload(void (*fn)(void *), void *arg);

/* Writes a line for each fiber of this thread to fd: its name, what it waits for, since when. Returns how many. */
int hark_dump(int fd);

/* The engine that this thread's loop uses, or would: "epoll", "uring" or "poll". */
const char *hark_engine_name(void);

#ifdef __cplusplus
}
#endif
#endif
