/* accept.c — accept(2), with its errors told apart: those of a connection that is gone already are skipped, those of a
 * system without room are the caller's to wait out, and only the rest are the listener's own.
 *
 * Thread: the listener's; the descriptor may be shared with other processes that accept as well. */
#include "conn/accept.h"

#include <errno.h>

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

int hark__accept_now(struct hark_listener *l, struct hark_conn **out)
{
	struct sockaddr_storage peer;
	if (l->spare == NULL) { /* before accept(2): one that was taken could not be put back */
		int r = hark__conn_new(-1, SOCK_STREAM, &l->spare);
		if (r < 0)
			return r;
	}
	for (int i = 0; i < PASSING_MAX; i++) {
		socklen_t len = sizeof peer;
		peer.ss_family = 0;
		int fd = hark__sys.accept4(l->src.fd, (struct sockaddr *)&peer, &len, SOCK_CLOEXEC);
		if (fd >= 0) {
			struct hark_conn *c = l->spare;
			l->spare = NULL;
			hark__conn_begins(c, fd);
			hark__conn_set_peer(c, &peer, len);
			*out = c;
			return 0;
		}
		if (!passing(errno))
			return -errno;
	}
	return -EINTR;
}

static int datagram_now(struct hark_listener *l, struct hark_conn **out)
{
	int r = l->datagrams == NULL ? hark__datagram_socket_open(l, &l->datagrams) : 0;
	if (r < 0)
		return r;
	int n = hark__datagram_socket_receive(l->datagrams, 1);
	if (n <= 0)
		return n < 0 ? n : -EAGAIN;
	return hark__datagram_socket_take(l->datagrams, 0, out);
}

int hark_accept(struct hark_listener *l, int64_t deadline, struct hark_conn **out)
{
	struct hark__source *one = &l->src;
	for (;;) {
		if (hark__fiber_cancelled())
			return -ECANCELED;
		int r = l->type == SOCK_DGRAM ? datagram_now(l, out) : hark__accept_now(l, out);
		if (r == -EINTR) {
			r = hark_yield();
			if (r < 0)
				return r;
			continue;
		}
		if (r == 0)
			(void)hark__fair(); /* a cancellation is told by the next call */
		if (r != -EAGAIN)
			return r;
		hark__ready_clear(&l->src, HARK__IN);
		r = hark__wait_any(&one, 1, HARK__IN, deadline, "accept");
		if (r < 0)
			return r;
	}
}
