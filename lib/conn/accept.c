/* accept.c — accept(2), with its errors told apart: those of a connection that is gone already are skipped, those of a
 * system without room are the caller's to wait out, and only the rest are the listener's own.
 *
 * Any threads and fibers, several on one listener: each waits by a source of its own. The descriptor may be shared with
 * other processes that accept as well. */
#include "conn/accept.h"

#include <errno.h>
#include <fcntl.h>

#include "base/sys.h"
#include "conn/conn.h"
#include "conn/datagram.h"
#include "conn/listen.h"
#include "loop/fiber.h"

/* Errors that accept(2) hands on from a connection's network, and a firewall's: this connection is lost, not the
 * listener. */
static bool passing(int err)
{
	switch (err) {
	case EINTR:
	case ECONNABORTED:
	case EPROTO:
	case EPERM:
	case ENETDOWN:
	case ENOPROTOOPT:
	case EHOSTDOWN:
	case ENONET:
	case EHOSTUNREACH:
	case ENETUNREACH:
	case ETIMEDOUT: return true;
	default: return false;
	}
}

#define PASSING_MAX 64 /* in a row; then others come first */

int hark__accept_now(int fd, struct hark_conn **spare, struct hark_conn **out)
{
	struct sockaddr_storage peer;
	if (*spare == NULL) { /* before accept(2): one that was taken could not be put back */
		int r = hark__conn_new(-1, SOCK_STREAM, spare);
		if (r < 0)
			return r;
	}
	for (int i = 0; i < PASSING_MAX; i++) {
		socklen_t len = sizeof peer;
		peer.ss_family = 0;
		int got = hark__sys.accept4(fd, (struct sockaddr *)&peer, &len, SOCK_CLOEXEC);
		if (got >= 0) {
			struct hark_conn *c = *spare;
			*spare = NULL;
			hark__conn_begins(c, got);
			hark__conn_set_peer(c, &peer, len);
			*out = c;
			return 0;
		}
		if (!passing(errno))
			return -errno;
	}
	return -EINTR;
}

/* Threads take turns: the batch's room is one. */
static int datagram_now(struct hark_listener *l, struct hark_conn **out)
{
	pthread_mutex_lock(&l->lock);
	int r = l->datagrams == NULL ? hark__datagram_socket_open(l, &l->datagrams) : 0;
	if (r == 0)
		r = hark__datagram_socket_receive(l->datagrams, 1);
	if (r > 0)
		r = hark__datagram_socket_take(l->datagrams, 0, out);
	else if (r == 0)
		r = -EAGAIN;
	pthread_mutex_unlock(&l->lock);
	return r;
}

/* One hark_accept() at work. */
struct call {
	struct hark__listener_watch watch; /* on a loop */
	struct hark__fiber *fiber;
	bool watched;
	struct hark_listener *l;
	struct hark__source src; /* its own: others may wait at the same socket, and on other loops */
	int copy;                /* -1: none. epoll tells two who watch one socket apart by the number */
	struct hark_conn *spare;
};

static void told(struct hark__waiter *w)
{
	hark__fiber_wake(hark__container(w, struct call, watch.told)->fiber);
}

#define LOOK_NS (50 * HARK_MS) /* where no descriptor is left to tell of the listener's end */

static int wait_polled(struct call *c, int64_t deadline)
{
	struct hark__source end, *both[] = {&c->src, &end};
	int fd = hark__listener_shut_fd(c->l);
	int64_t look = fd >= 0 ? HARK_FOREVER : hark_after(LOOK_NS);
	hark__source_init(&end, fd);
	hark__ready_clear(&end, HARK__IN | HARK__OUT);
	int r = hark__wait_any(both, fd >= 0 ? 2 : 1, HARK__IN, deadline < look ? deadline : look, "accept");
	return r == -ETIMEDOUT && look < deadline ? 0 : r;
}

static int wait_for_more(struct call *c, int64_t deadline)
{
	struct hark__source *one = &c->src;
	hark__ready_clear(&c->src, HARK__IN);
	if (c->watch.loop == NULL)
		return wait_polled(c, deadline);
	if (!c->watched)
		hark__listener_watch(c->l, &c->watch);
	c->watched = true;
	int r = hark__wait_any(&one, 1, HARK__IN, deadline, "accept");
	if (r != -EEXIST || c->copy >= 0)
		return r;
	c->copy = hark__sys.fcntl(c->src.fd, F_DUPFD_CLOEXEC, 3);
	if (c->copy < 0)
		return -errno;
	c->src.fd = c->copy;
	return 0;
}

static int accept_held(struct call *c, int64_t deadline, struct hark_conn **out)
{
	for (;;) {
		if (hark__fiber_cancelled())
			return -ECANCELED;
		if (hark__listener_is_shut(c->l))
			return -EBADF;
		int r = c->l->type == SOCK_DGRAM ? datagram_now(c->l, out)
		                                 : hark__accept_now(c->src.fd, &c->spare, out);
		if (r == -EINTR)
			r = hark_yield();
		else if (r == -EAGAIN)
			r = wait_for_more(c, deadline);
		else {
			if (r == 0)
				(void)hark__fair(); /* a cancellation is told by the next call */
			return r;
		}
		if (r < 0)
			return r;
	}
}

int hark_accept(struct hark_listener *l, int64_t deadline, struct hark_conn **out)
{
	struct call c = {.l = l, .copy = -1, .watch = {.told.run = told, .loop = hark__loop_self()}};
	int r = hark__listener_hold(l);
	if (r < 0)
		return r;
	hark__source_init(&c.src, hark_listener_fd(l));
	if (c.watch.loop != NULL)
		c.fiber = hark__fiber_self();
	r = accept_held(&c, deadline < 0 ? 0 : deadline, out);
	hark__source_detach(&c.src);
	if (c.watched)
		hark__listener_unwatch(l, &c.watch);
	if (c.copy >= 0)
		(void)hark__sys.close(c.copy);
	if (c.spare != NULL)
		hark__conn_free(c.spare);
	hark__listener_release(l);
	return r;
}
