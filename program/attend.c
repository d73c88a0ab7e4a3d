/* attend.c — see attend.h.
 *
 * A program's end is told by its pidfd. What happens on its connection meanwhile is between the program and the kernel:
 * it is looked at from time to time, rarely where the program runs for long. One that ends soon is never looked at. */
#include "attend.h"

#include <errno.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "carry.h"
#include "holders.h"

/* A drain's: end of input at once, and so long before the grace ends, or a quarter of the grace where that is less:
 * SIGKILL, and as long again before it SIGTERM. So a program has half the grace or more to finish in peace. */
#define DRAIN_STEP_NS (2 * HARK_S)
/* How long one that was killed may take to be gone, when there is no more time. */
#define DYING_MS 1000
/* Between two looks at a connection: an eighth of the time since its program started, within these. */
#define LOOK_MIN_NS (20 * HARK_MS)
#define LOOK_MAX_NS (500 * HARK_MS)
/* Where nobody has the connection any more, what its peer still sends is dropped until it ends, or so long. */
#define LINGER_QUIET_NS (2 * HARK_S)
#define LINGER_TOTAL_NS (10 * HARK_S)

enum { TCP_CLOSE_ = 7 }; /* of include/net/tcp_states.h, which <linux/tcp.h> leaves out */

/* What a program's connection was seen to do. */
struct seen {
	int64_t begun,
		moved;    /* hark_now() when the program started, and when a byte was seen to have gone either way */
	uint64_t in, out; /* TCP: bytes received, and confirmed by the peer, then */
	int edges;        /* anything but TCP: an epoll that tells whether anything happened since; -1: none */
	bool ended;       /* nobody had it any more: the peer was sent the end */
};

static int64_t earlier(int64_t a, int64_t b)
{
	return a < b ? a : b;
}

static int64_t later_by(int64_t at, int64_t ns)
{
	return at >= HARK_FOREVER - ns ? HARK_FOREVER : at + ns;
}

/* When SIGTERM and SIGKILL are due, as things stand: deadline is the connection's, begun when the ladder was entered.
 */
static void timetable(const struct attend *how, int64_t begun, int64_t deadline, int64_t *term, int64_t *kill)
{
	int64_t from = deadline > begun ? deadline : begun;
	int64_t end = hark_drain_deadline();
	*term = deadline == HARK_FOREVER ? HARK_FOREVER : later_by(from, how->ladder_ns[0]);
	*kill = deadline == HARK_FOREVER ? HARK_FOREVER : later_by(from, how->ladder_ns[1]);
	if (end == HARK_FOREVER)
		return;
	int64_t step = end > begun ? earlier((end - begun) / 4, DRAIN_STEP_NS) : 0;
	*kill = earlier(*kill, end - step);
	*term = earlier(*term, end - 2 * step);
}

static void await_death(void *arg)
{
	struct pollfd p = {.fd = *(const int *)arg, .events = POLLIN};
	while (poll(&p, 1, DYING_MS) < 0 && errno == EINTR)
		;
}

/* No time is left: SIGKILL. A fiber that is cancelled can wait no more, and the loop must not: a helper thread does. */
static void end_now(const struct spawned *p)
{
	int pidfd = p->pidfd;
	spawn_signal(p, SIGKILL);
	(void)hark_offload(await_death, &pidfd);
}

/* The ladder. Ends when the program has, or as end_now(). has_peer: c is its own, not the listening socket, whose
 * reading must not be shut down under other processes that have it. */
static void climb(const struct attend *how, struct hark_conn *c, const struct spawned *p, int64_t deadline,
                  bool has_peer, bool draining)
{
	int64_t begun = hark_now(), term, kill;
	bool termed = false, killed = false;
	if (has_peer)
		(void)shutdown(hark_fd(c), SHUT_RD);
	for (;;) {
		timetable(how, begun, deadline, &term, &kill);
		int64_t now = hark_now();
		if (!killed && now >= kill) {
			spawn_signal(p, SIGKILL);
			termed = killed = true;
		} else if (!termed && now >= term) {
			spawn_signal(p, SIGTERM);
			termed = true;
		}
		/* A drain that begins meanwhile changes the timetable; one that is under way is in it. */
		int r = hark_wait_fd(p->pidfd, draining ? HARK_IN : HARK_IN | HARK_DRAIN,
		                     killed   ? HARK_FOREVER
		                     : termed ? kill
		                              : term);
		if (r < 0 && r != -ETIMEDOUT) {
			end_now(p);
			return;
		}
		if (r > 0 && (r & HARK_IN))
			break;
		draining = draining || (r > 0 && (r & HARK_DRAIN));
	}
	/* The leader is gone but not yet waited for, so the group's number is still its own: nobody of it stays behind.
	 */
	spawn_signal(p, termed ? SIGKILL : SIGTERM);
}

/* ---- what happens on the connection -------------------------------------------------------------- */

/* The kernel counts TCP's bytes. Elsewhere every arrival, and every datagram or part of a stream that the peer has
 * taken, makes an edge. unix(7), epoll(7) */
static bool has_moved(struct seen *s, const struct tcp_info *info)
{
	struct epoll_event e;
	if (info == NULL)
		return s->edges >= 0 && epoll_wait(s->edges, &e, 1, 0) > 0;
	bool moved = s->in != info->tcpi_bytes_received || s->out != info->tcpi_bytes_acked;
	s->in = info->tcpi_bytes_received;
	s->out = info->tcpi_bytes_acked;
	return moved;
}

/* An end in order, of both sides, makes the same state; but then our FIN is confirmed, which counts as a byte. */
static bool is_reset(const struct tcp_info *info)
{
	return info->tcpi_state == TCP_CLOSE_ &&
	       info->tcpi_bytes_acked <= info->tcpi_bytes_sent - info->tcpi_bytes_retrans;
}

static bool has_ended_input(int fd)
{
	struct pollfd p = {.fd = fd, .events = POLLRDHUP};
	return poll(&p, 1, 0) > 0;
}

/* All that the peer has said has been read, and its end as well: closing has nothing to wait for, whoever else has the
 * connection. */
static bool is_read_to_end(int fd)
{
	char byte;
	return recv(fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 0;
}

static bool has_unread(int fd)
{
	char byte;
	return recv(fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) > 0;
}

/* Whether what the program has started goes on with the connection. A shell's background child may be about to redirect
 * it: as the last one to close it, with input unread, it would reset it. So it is given time. */
static bool stays_shared(const struct spawned *p, int fd)
{
	int64_t until = earlier(hark_after(LINGER_QUIET_NS), hark_drain_deadline());
	while (holders_left(p, fd))
		if (hark_now() >= until || !has_unread(fd) || hark_sleep(LOOK_MIN_NS) < 0)
			return true;
	return false;
}

/* Nobody has the connection any more, but the program goes on: its peer gets all that was written, and the end. */
static void end_connection(struct hark_conn *c)
{
	struct hark_conn_stats stats;
	char dropped[4096];
	hark_conn_stats(c, &stats);
	hark_deadline(c, earlier(stats.deadline_ns, hark_after(LINGER_TOTAL_NS)));
	hark_idle_timeout(c, LINGER_QUIET_NS);
	if (hark_shutdown(c, HARK_OUT) == 0)
		while (hark_idle(c) > 0 && hark_read(c, dropped, sizeof dropped) > 0)
			;
	hark_deadline(c, stats.deadline_ns);
	hark_idle_timeout(c, stats.idle_ns);
}

/* Whether the connection's time is over. */
static bool look(const struct attend *how, struct hark_conn *c, const struct spawned *p, struct seen *s,
                 int64_t idle_ns)
{
	struct tcp_info info;
	socklen_t len = sizeof info;
	int fd = hark_fd(c);
	int64_t now = hark_now();
	bool stream = hark_type(c) == SOCK_STREAM;
	bool tcp = stream && getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len) == 0;
	if (has_moved(s, tcp ? &info : NULL))
		s->moved = now;
	if ((tcp && is_reset(&info)) || (how->until_eof && stream && has_ended_input(fd)))
		return true;
	if (idle_ns > 0 && (tcp || s->edges >= 0) && now - s->moved >= idle_ns)
		return true;
	if (stream && !holders_any(p, fd)) {
		s->ended = true;
		end_connection(c);
	}
	return false;
}

static int64_t next_look(const struct seen *s, int64_t idle_ns)
{
	int64_t now = hark_now(), step = (now - s->begun) / 8;
	step = step < LOOK_MIN_NS ? LOOK_MIN_NS : earlier(step, LOOK_MAX_NS);
	if (idle_ns > 0 && s->moved + idle_ns > now)
		step = earlier(step, s->moved + idle_ns - now);
	return now + step;
}

/* Without one, for want of descriptors, the connection is not seen to be idle. */
static int open_edges(int fd)
{
	struct epoll_event e = {.events = EPOLLIN | EPOLLOUT | EPOLLET};
	struct tcp_info info;
	socklen_t len = sizeof info;
	if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len) == 0)
		return -1;
	int edges = epoll_create1(EPOLL_CLOEXEC);
	if (edges >= 0 && epoll_ctl(edges, EPOLL_CTL_ADD, fd, &e) < 0) {
		(void)close(edges);
		return -1;
	}
	return edges;
}

/* As hark_wait_fd(): until the program has ended, a drain begins, or the connection's time is over. */
static int await_end(const struct attend *how, struct hark_conn *c, const struct spawned *p, struct seen *s,
                     const struct hark_conn_stats *stats)
{
	for (;;) {
		int64_t until = s->ended ? stats->deadline_ns
		                         : earlier(stats->deadline_ns, next_look(s, stats->idle_ns));
		int r = hark_wait_fd(p->pidfd, HARK_IN | HARK_DRAIN, until);
		if (r != -ETIMEDOUT || hark_now() >= stats->deadline_ns)
			return r;
		if (!s->ended && look(how, c, p, s, stats->idle_ns))
			return -ETIMEDOUT;
	}
}

int attend(const struct attend *how, struct hark_conn *c, const struct spawned *p, bool has_peer)
{
	struct hark_conn_stats stats;
	struct seen s = {.begun = hark_now(), .moved = hark_now(), .edges = -1, .ended = !has_peer};
	int status = 0;
	hark_conn_stats(c, &stats);
	if (has_peer && stats.idle_ns > 0)
		s.edges = open_edges(hark_fd(c));
	int r = await_end(how, c, p, &s, &stats);
	bool by_itself = r > 0 && (r & HARK_IN);
	if (r == -ETIMEDOUT)
		climb(how, c, p, earlier(stats.deadline_ns, hark_now()), has_peer, false);
	else if (r > 0 && !by_itself)
		climb(how, c, p, stats.deadline_ns, has_peer, true);
	else if (r < 0)
		end_now(p);
	if (s.edges >= 0)
		(void)close(s.edges);
	/* -EAGAIN: killed, and stuck in the kernel; -ECHILD: SIGCHLD is ignored here, the status is lost. */
	if (spawn_reap(p, &status) == -EAGAIN)
		status = SIGKILL;
	int fd = hark_fd(c);
	/* Who may have it is asked second: it costs the more, the longer the program ran and the more others run. */
	if (by_itself && !s.ended && hark_type(c) == SOCK_STREAM && (is_read_to_end(fd) || stays_shared(p, fd)))
		hark_shared(c);
	return status;
}

/* ---- a program behind a socketpair --------------------------------------------------------------- */

/* On the stack of attend_carried(), which ends its fiber. */
struct carried {
	struct hark_conn *c, *own;
	int64_t dying_ns;  /* how long the ladder takes */
	bool client_ended; /* and the program has read that */
	bool failed;       /* the connection's time is over, or its peer's end is none in order */
	bool deaf;         /* nothing of the peer's is passed on any more */
};

/* Nobody has the program's end. */
static bool is_hung_up(const struct hark_conn *own)
{
	struct pollfd p = {.fd = hark_fd(own)};
	return poll(&p, 1, 0) > 0 && (p.revents & (POLLHUP | POLLERR)) != 0;
}

/* The program reads what has come, and the end. */
static void end_input(struct carried *k)
{
	if (!k->deaf)
		(void)hark_shutdown(k->c, HARK_IN);
	k->deaf = true;
}

/* A fiber. What a program says after its input was cut, or as it ends, is carried as well: the ladder bounds that, and
 * the time of a peer that does not read it. */
static void carry_program(void *arg)
{
	struct carried *k = arg;
	struct hark_conn_stats stats;
	hark_conn_stats(k->c, &stats);
	int r = carry_streams(k->c, k->own, &k->client_ended);
	bool ended = r == 0 || is_hung_up(k->own); /* it may end with input unread: a reset, for us */
	k->failed = !ended;
	if (k->failed) {
		(void)hark_shutdown(k->own, HARK_OUT);
		hark_deadline(k->c, hark_after(k->dying_ns + LINGER_QUIET_NS));
		hark_deadline(k->own, HARK_FOREVER);
	}
	hark_idle_timeout(k->c, ended ? stats.idle_ns : LINGER_QUIET_NS);
	hark_idle_timeout(k->own, ended ? stats.idle_ns : 0);
	if (r == 0 || ended || r == -ETIMEDOUT)
		(void)hark_copy(k->own, k->c, NULL);
}

/* As await_end(). */
static int await_carried(const struct attend *how, struct carried *k, const struct spawned *p, int64_t deadline)
{
	struct seen s = {.begun = hark_now()};
	for (;;) {
		int r = hark_wait_fd(p->pidfd, HARK_IN | HARK_DRAIN, earlier(deadline, next_look(&s, 0)));
		if (r != -ETIMEDOUT || hark_now() >= deadline || k->failed || (how->until_eof && k->client_ended))
			return r;
		if (is_hung_up(k->own))
			end_input(k);
	}
}

/* What the program has left to be carried, or left running. */
static void await_rest(struct carried *k, struct hark_scope *scope)
{
	int r;
	do {
		if (is_hung_up(k->own))
			end_input(k);
		r = hark_join(scope, hark_after(LOOK_MIN_NS));
	} while (r == -ETIMEDOUT);
}

int attend_carried(const struct attend *how, struct hark_conn *c, struct hark_conn *own, const struct spawned *p)
{
	struct carried k = {.c = c, .own = own, .dying_ns = how->ladder_ns[1]};
	struct hark_conn_stats stats;
	struct hark_scope scope;
	int status = 0;
	hark_conn_stats(c, &stats);
	hark_idle_timeout(own, stats.idle_ns);
	hark_scope_open(&scope);
	int r = hark_go(&scope, "carry", carry_program, &k);
	if (r == 0)
		r = await_carried(how, &k, p, stats.deadline_ns);
	bool draining = r > 0 && !(r & HARK_IN);
	if (draining || r == -ETIMEDOUT) {
		end_input(&k);
		climb(how, c, p, draining ? stats.deadline_ns : hark_now(), false, draining);
	} else if (r < 0) {
		end_now(p);
	}
	if (spawn_reap(p, &status) == -EAGAIN)
		status = SIGKILL;
	await_rest(&k, &scope);
	hark_scope_close(&scope);
	return status;
}
