/* udp_connect.c — a socket of its own for the peer of a datagram, with the datagram in its queue.
 *
 * UDP has no accept(2). A second socket, bound to the address that was asked and connected to the peer, gets all that
 * the peer sends from then on, since the kernel prefers the most exact match; but not what has come already. So it is
 * first connected to a helper socket of ours, which sends it the datagram, and then to the peer: what lies in the queue
 * stays. What falls into it from strangers between bind and connect is dropped: a datagram may always be lost, but must
 * not turn up in somebody else's flow.
 *
 * A second datagram that the peer sent before its socket was there is handed over to it by the same way: the datagram
 * socket keeps a list of its flows. What a program answers to others meanwhile goes to the helper, which passes it on.
 * (Other workers, and children under the process model, have lists of their own:
 * there a burst of first datagrams may begin two.)
 *
 * The datagram socket's thread; under the thread model any. The socket is the connection's. */
#include <errno.h>
#include <string.h>

#include "address/fd.h"
#include "conn/conn.h"
#include "conn/datagram.h"
#include "conn/datagram_socket.h"

#define UDP_CONNECT_CALLS 10u   /* about */
#define UNDER_WAY_NS      20000 /* nanoseconds: what a send(2) takes over loopback: it may have begun before */
#define PASSED_MAX        1000  /* answers; a queue of the usual size holds fewer */

/* A socket at the local address, free to bind beside others of its kind; reuseport: beside a group of these. */
static int socket_there(const struct hark_endpoint *at, bool reuseport, int *out)
{
	int fd = hark__fd_socket(at->addr.ss_family, SOCK_DGRAM, 0);
	if (fd < 0)
		return fd;
	int r = hark__fd_option(fd, SOL_SOCKET, SO_REUSEADDR, 1);
	if (r == 0 && reuseport)
		r = hark__fd_option(fd, SOL_SOCKET, SO_REUSEPORT, 1);
	if (r == 0 && hark__sys.bind(fd, (const struct sockaddr *)&at->addr, at->len) < 0)
		r = -errno;
	if (r < 0)
		return hark__fd_fail(fd, r);
	*out = fd;
	return 0;
}

#define BESIDE_TRIES 8

/* The same beside the listener. That one carries SO_REUSEADDR only for this moment: always on, any process could bind
 * the port as well and take the service over. Another worker may be at the same and have just taken it away again. */
static int socket_beside(int listener, const struct hark_endpoint *at, int *out)
{
	int r = -EADDRINUSE, reuseport = 0;
	socklen_t len = sizeof reuseport;
	/* Of a group of SO_REUSEPORT it becomes a member: once it is connected, the kernel deals no stranger's datagram
	 * to it. */
	(void)hark__sys.getsockopt(listener, SOL_SOCKET, SO_REUSEPORT, &reuseport, &len);
	if (reuseport)
		return socket_there(at, true, out);
	for (int i = 0; i < BESIDE_TRIES && r == -EADDRINUSE; i++) {
		r = hark__fd_option(listener, SOL_SOCKET, SO_REUSEADDR, 1);
		if (r == 0)
			r = socket_there(at, false, out);
		(void)hark__fd_option(listener, SOL_SOCKET, SO_REUSEADDR, 0);
	}
	return r;
}

static void set_port(struct hark_endpoint *e, in_port_t port)
{
	if (e->addr.ss_family == AF_INET)
		((struct sockaddr_in *)&e->addr)->sin_port = port;
	else
		((struct sockaddr_in6 *)&e->addr)->sin6_port = port;
}

/* A socket at the same host with a port of the kernel's choice, and where that is. */
static int helper_socket(const struct hark_endpoint *beside, struct hark_endpoint *at, int *out)
{
	*at = *beside;
	set_port(at, 0);
	int fd, r = socket_there(at, false, &fd);
	if (r < 0)
		return r;
	r = hark__fd_local(fd, at);
	if (r < 0)
		return hark__fd_fail(fd, r);
	*out = fd;
	return 0;
}

static int connect_to(int fd, const struct hark_endpoint *to)
{
	int r;
	do
		r = hark__sys.connect(fd, (const struct sockaddr *)&to->addr, to->len);
	while (r < 0 && errno == EINTR); /* a datagram socket may be connected again and again */
	return r < 0 ? -errno : 0;
}

/* Drops what strangers sent to the new socket while it was bound and not yet connected: microseconds, and a datagram
 * may always be lost; in a stranger's flow it must not turn up. */
static void empty(int fd)
{
	char byte;
	while (hark__sys.recv(fd, &byte, 1, MSG_DONTWAIT | MSG_TRUNC) >= 0 || errno == EINTR)
		;
}

/* What whoever has fd sent while that was connected to the helper goes to the peer after all. */
static void pass_on(int helper, int fd)
{
	char *answer = hark__buffer_spill();
	int64_t until = hark_after(UNDER_WAY_NS);
	for (int i = 0; answer != NULL && i < PASSED_MAX && hark_now() < until;) {
		ssize_t n = hark__sys.recv(helper, answer, HARK__SPILL_BYTES, MSG_DONTWAIT);
		if (n < 0)
			continue;
		(void)hark__sys.send(fd, answer, (size_t)n, MSG_DONTWAIT | MSG_NOSIGNAL);
		until = hark_after(UNDER_WAY_NS);
		i++;
	}
}

/* Puts a datagram into the queue of fd, which is then connected to the peer. fresh: fd was bound just now. */
static int hand_over(int fd, bool fresh, const struct hark_endpoint *local, const struct hark_endpoint *peer,
                     const struct hark__buffer *b)
{
	struct hark_endpoint helper_at;
	int helper = -1;
	int r = helper_socket(local, &helper_at, &helper);
	if (r < 0)
		return r;
	r = connect_to(helper, local); /* from nobody else anything comes to it */
	if (r == 0)
		r = connect_to(fd, &helper_at);
	if (fresh && r == 0)
		empty(fd);
	struct iovec v = {.iov_base = b->data != NULL ? hark__buffer_head(b) : NULL, .iov_len = hark__buffer_len(b)};
	struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1};
	while (r == 0 && hark__sys.sendmsg(helper, &m, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
		r = errno == EINTR ? 0 : -errno;
	int back = connect_to(fd, peer);
	if (!fresh && back == 0)
		pass_on(helper, fd);
	(void)hark__sys.close(helper);
	return r < 0 ? r : back;
}

/* The socket of the flow that this peer has already, or -1. With flows_lock. */
static int find_flow(const struct hark__reply *r)
{
	for (struct hark__list *at = r->box->flows.next; at != &r->box->flows; at = at->next) {
		const struct hark__reply *o = hark__container(at, struct hark__reply, flow);
		if (o->peer_len == r->peer_len && memcmp(&o->peer, &r->peer, r->peer_len) == 0)
			return o->flow_fd;
	}
	return -1;
}

/* Of datagrams to come, for hark_hops(): where there are flows, there may be relays. With flows_lock. */
static void ask_for_hops(struct hark__datagram_socket *m)
{
	if (m->tells_hops)
		return;
	m->tells_hops = true;
	(void)hark__fd_option(m->fd, IPPROTO_IP, IP_RECVTTL, 1);
	if (m->at.addr.ss_family == AF_INET6)
		(void)hark__fd_option(m->fd, IPPROTO_IPV6, IPV6_RECVHOPLIMIT, 1);
}

/* With flows_lock. The new socket, or -errno; -EALREADY: the peer has one, and the datagram is handed over to it. */
static int udp_connect(struct hark_conn *c, const struct hark_endpoint *local, const struct hark_endpoint *peer)
{
	int fd = find_flow(c->reply);
	bool fresh = fd < 0;
	int r = fresh ? socket_beside(c->reply->box->fd, local, &fd) : 0;
	if (r == 0)
		r = hand_over(fd, fresh, local, peer, &c->in);
	if (!fresh)
		return r < 0 ? r : -EALREADY;
	if (r < 0)
		return fd >= 0 ? hark__fd_fail(fd, r) : r;
	ask_for_hops(c->reply->box);
	hark__list_append(&c->reply->box->flows, &c->reply->flow);
	c->reply->flow_fd = fd;
	hark__reply_hand_off(c->reply);
	return fd;
}

int hark_udp_connect(struct hark_conn *c)
{
	struct hark_endpoint local, peer;
	if (!c->single || !c->have_datagram || c->reply->truncated)
		return -EOPNOTSUPP;
	int r = hark_peer_endpoint(c, &peer);
	if (r < 0 || (peer.addr.ss_family != AF_INET && peer.addr.ss_family != AF_INET6))
		return -EOPNOTSUPP;
	if (hark_is_listener(&peer))
		return -ELOOP;
	(void)hark_local_endpoint(c, &local);
	pthread_mutex_lock(&c->reply->box->flows_lock);
	int fd = udp_connect(c, &local, &peer);
	hark__spend(UDP_CONNECT_CALLS);
	pthread_mutex_unlock(&c->reply->box->flows_lock);
	if (fd < 0)
		return fd;
	hark__buffer_release(&c->in);
	c->have_datagram = false;
	c->single = false;
	hark__source_init(&c->src, fd);
	c->bytes_in = 0;
	hark__conn_set_peer(c, &peer.addr, peer.len);
	return 0;
}
