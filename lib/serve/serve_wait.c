/* serve_wait.c — inetd's wait: the box, usually a program, gets the listening socket itself, and the server looks away
 * until it returns.
 *
 * A program that exits without taking anything would be started again at once, for ever. So what waits there is looked
 * at before and after (nothing is taken): a box that left it as it was is tried again with growing delay, up to 10 s,
 * and at once again when one has taken something. The service is never given up.
 *
 * As many waiting as before may mean that as many came as were taken. So arrivals are watched by an epoll(7) of their
 * own, edge-triggered: where somebody comes, then or during the back-off, the box is tried again at once (the kernel
 * counts who waits a moment before it tells of him). One that takes nothing is thus started no more often than clients
 * come, until the backlog is full. */
#include <errno.h>
#include <fcntl.h>
#include <linux/sockios.h>
#include <string.h>
#include <time.h>

#include "base/backoff.h"
#include "base/sys.h"
#include "conn/listen.h"
#include "conn/unix_queue.h"
#include "serve/serve_accept.h"
#include "serve/serve_life.h"

#define DIGEST_BYTES 512

static uint64_t mix(uint64_t h, const void *data, size_t n) /* FNV-1a */
{
	for (size_t i = 0; i < n; i++)
		h = (h ^ ((const unsigned char *)data)[i]) * UINT64_C(0x100000001b3);
	return h;
}

/* When the datagram that was just looked at arrived, or 0: two that a peer sends one after the other may be the same to
 * the byte. The first call has the kernel keep the times, a moment later; for one that came before, it makes up the
 * present. socket(7). */
static int64_t arrival(int fd)
{
	struct timespec now, t;
	(void)clock_gettime(CLOCK_REALTIME, &now);
	if (hark__sys.ioctl(fd, SIOCGSTAMPNS, &t) < 0)
		return 0; /* none looked at yet; or a unix socket, which keeps none */
	bool made_up = t.tv_sec > now.tv_sec || (t.tv_sec == now.tv_sec && t.tv_nsec >= now.tv_nsec);
	return made_up ? 0 : t.tv_sec * HARK_S + t.tv_nsec;
}

/* Datagrams over IP are told apart by their time; of others it is known how many wait. */
static bool is_stamped(const struct hark__acceptor *a)
{
	return a->listener->type == SOCK_DGRAM && a->listener->family != AF_UNIX;
}

/* 0: nothing waits. Else of a UDP socket: of its first datagram, sender and time; of others how many wait. */
static uint64_t digest(const struct hark__acceptor *a)
{
	char head[DIGEST_BYTES];
	struct sockaddr_storage from = {0};
	socklen_t len = sizeof from;
	int fd = a->src.fd;
	if (is_stamped(a)) {
		struct iovec v = {head, sizeof head};
		struct msghdr m = {.msg_name = &from, .msg_namelen = len, .msg_iov = &v, .msg_iovlen = 1};
		ssize_t n = hark__sys.recvmsg(fd, &m, MSG_PEEK | MSG_DONTWAIT);
		bool none = n < 0 && errno == EAGAIN;
		int64_t at = arrival(fd);
		if (n < 0)
			return !none; /* cannot be told: then a box looks */
		uint64_t h = mix(UINT64_C(0xcbf29ce484222325), &at, sizeof at);
		return mix(mix(h, &from, m.msg_namelen), head, (size_t)n) | 1;
	}
	if (a->listener->family != AF_UNIX)
		return hark__acceptor_waiting(a);
	return a->listener->type == SOCK_DGRAM ? hark__unix_waiting_datagrams(fd) : hark__unix_waiting_streams(fd);
}

/* Whether anything has come since the last call. */
static bool has_come(const struct hark__acceptor *a)
{
	struct epoll_event e;
	return a->arrivals.fd >= 0 && hark__sys.epoll_wait(a->arrivals.fd, &e, 1, 0) > 0;
}

static bool should_wait(const struct hark__acceptor *a, uint64_t after)
{
	return after == a->before && (is_stamped(a) || !has_come(a));
}

static void arrived_run(struct hark__waiter *w)
{
	struct hark__acceptor *a = hark__container(w, struct hark__acceptor, arrived);
	hark__timer_clear(a->server->loop, &a->retry);
	hark__acceptor_lend(a);
}

/* Without it the timer alone ends the back-off. */
static void watch_arrivals(struct hark__acceptor *a)
{
	struct hark__engine *e = hark__loop_engine(a->server->loop);
	if (a->arrivals.fd < 0)
		return;
	hark__ready_clear(&a->arrivals, HARK__IN);
	a->arrivals.in = &a->arrived;
	(void)e->ops->arm(e, &a->arrivals, HARK__IN);
}

void hark__acceptor_prepare(struct hark__acceptor *a)
{
	struct epoll_event e = {.events = EPOLLIN | EPOLLET};
	if (a->src.fd < 0)
		return;
	if (is_stamped(a)) {
		(void)arrival(a->src.fd);
		return;
	}
	a->arrived.run = arrived_run;
	hark__source_init(&a->arrivals, hark__sys.epoll_create1(EPOLL_CLOEXEC));
	if (a->arrivals.fd >= 0 && hark__sys.epoll_ctl(a->arrivals.fd, EPOLL_CTL_ADD, a->src.fd, &e) < 0)
		hark__acceptor_unprepare(a); /* then as many as before are taken for the same ones */
}

void hark__acceptor_unprepare(struct hark__acceptor *a)
{
	hark__loop_unwake(a->server->loop, &a->arrived);
	hark__source_detach(&a->arrivals);
	if (a->arrivals.fd >= 0)
		(void)hark__sys.close(a->arrivals.fd);
	hark__source_init(&a->arrivals, -1);
}

void hark__acceptor_lend(struct hark__acceptor *a)
{
	struct hark__server *s = a->server;
	struct hark_conn *c;
	bool delayed = a->retry.node.place != 0; /* another acceptor's pause must not end this one's back-off */
	if (s->draining || a->src.fd < 0 || !hark__acceptors_may_accept(s) || a->lent || delayed)
		return;
	a->arrivals.in = NULL;
	(void)has_come(a); /* first: who comes between the two looks is in both, and costs a try */
	a->before = digest(a);
	if (a->before == 0) {
		hark__acceptor_watch(a);
		return;
	}
	if (!hark__acceptor_paced(a))
		return;
	hark__pace_unused(s); /* no connection */
	int fd = hark__sys.fcntl(a->src.fd, F_DUPFD_CLOEXEC, 3);
	int r = fd < 0 ? -errno : hark__conn_new(fd, a->listener->type == SOCK_DGRAM ? SOCK_DGRAM : 0, &c);
	if (r == 0) {
		c->lent = a;
		a->lent = true;
		hark__server_event(s, (struct hark_event){.kind = HARK_EVENT_LENT, .ticket = -1});
		(void)hark__server_start(s, c); /* without room it is tried again as it is: lent all the same */
		return;
	}
	if (fd >= 0)
		(void)hark__sys.close(fd);
	if (hark__timer_set(s->loop, &a->retry, hark_after(HARK__BACKOFF_FIRST_NS)) < 0)
		hark__loop_wake(s->loop, &a->waiter);
}

void hark__acceptor_returned(struct hark__acceptor *a)
{
	struct hark__server *s = a->server;
	a->lent = false;
	hark__server_event(s, (struct hark_event){.kind = HARK_EVENT_RETURNED, .ticket = -1});
	if (s->draining || a->src.fd < 0)
		return;
	a->backoff = should_wait(a, digest(a)) ? hark__backoff_next(a->backoff) : 0;
	if (a->backoff == 0) {
		hark__loop_wake(s->loop, &a->waiter);
		return;
	}
	if (hark__timer_set(s->loop, &a->retry, hark_after(a->backoff)) < 0)
		hark__loop_wake(s->loop, &a->waiter);
	else
		watch_arrivals(a);
}
