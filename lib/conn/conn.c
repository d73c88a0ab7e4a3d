/* conn.c — what every connection has: its life, its addresses, its deadlines.
 *
 * A connection belongs to whoever dialed, accepted or made it; a served one to the server. One reader and one writer at
 * a time, each a fiber of one loop or a thread. */
#include "conn/conn.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "address/fd.h"
#include "address/file.h"
#include "base/sys.h"
#include "conn/datagram.h"
#include "conn/extra.h"
#include "conn/listen.h"
#include "loop/fiber.h"

#define ERRORS_MAX 64 /* dropped in a row; the next wait drops more */

const struct hark__transport *const hark__transports[HARK__TRANSPORTS] = {
	[HARK__SOCKET] = &hark__transport_socket,
	[HARK__FILE] = &hark__transport_file,
	[HARK__TLS] = &hark__transport_tls,
};

/* ---- life ------------------------------------------------------------------------------------ */

void hark__conn_keep_error(struct hark_conn *c, int error)
{
	if (c->write_error == 0)
		c->write_error = (int16_t)error;
	if (error == -ECONNRESET)
		atomic_store_explicit(&c->was_reset, true, memory_order_relaxed);
}

/* Nobody is in the midst of the buffer: who flushes it has what was handed over before tried first. */
static void unsent(struct hark__source *s, const void *bytes, size_t n, int error)
{
	struct hark_conn *c = hark__container(s, struct hark_conn, src);
	struct hark__buffer later = c->out;
	c->bytes_out -= n;
	if (error == 0) {
		c->out = (struct hark__buffer){0};
		error = hark__buffer_reserve(&c->out, n + hark__buffer_len(&later));
		if (error < 0) {
			c->out = later;
		} else {
			hark__buffer_append(&c->out, bytes, n);
			hark__buffer_append(&c->out, hark__buffer_head(&later), hark__buffer_len(&later));
			hark__buffer_release(&later);
		}
	}
	if (error < 0)
		hark__conn_keep_error(c, error);
}

int hark__conn_new(int fd, int type, struct hark_conn **out)
{
	struct hark_conn *c = hark__sys.malloc(sizeof *c); /* calloc(3) passes by the thread's cache */
	if (c == NULL)
		return -ENOMEM;
	memset(c, 0, sizeof *c);
	hark__source_init(&c->src, fd);
	hark__source_unsent = unsent;
	c->transport = type == 0 ? HARK__FILE : HARK__SOCKET;
	c->datagrams = type != 0 && type != SOCK_STREAM;
	c->may_linger = true;
	hark_deadline(c, HARK_FOREVER);
	if (fd >= 0) /* else hark__conn_begins() follows */
		c->opened = hark_now();
	*out = c;
	return 0;
}

void hark__conn_begins(struct hark_conn *c, int fd)
{
	c->src.fd = fd;
	c->opened = hark_now();
}

void hark__conn_free(struct hark_conn *c)
{
	hark__list_remove(&c->link);
	hark__source_detach(&c->src);
	hark__reply_free(hark__conn_reply(c)); /* first: nobody hands datagrams to a closed socket */
	if (c->has_path && c->shared)
		free(c->path); /* it stays for the others */
	else if (c->has_path)
		hark__unix_path_remove(c->path);
	if (c->src.fd >= 0)
		hark__conn_transport(c)->close(c);
	hark__splice_end(c);
	hark__buffer_release(&c->in);
	hark__buffer_release(&c->out);
	hark__extra_free(c);
	free(c);
}

void hark__conn_hand_off(struct hark_conn *c, struct hark__conn_facts *facts)
{
	facts->peer_r = hark_peer_endpoint(c, &facts->peer);
	facts->local_r = hark_local_endpoint(c, &facts->local);
	facts->user_r = -EOPNOTSUPP;
	if (facts->peer_r == 0 && facts->peer.addr.ss_family == AF_UNIX)
		facts->user_r = hark_peer_credentials(c, &facts->user);
	hark__source_detach(&c->src);
	if (c->src.fd >= 0)
		hark__conn_transport(c)->close(c);
	c->src.fd = -1;
	if (c->single)
		hark__reply_hand_off(c->reply);
	c->single = false;
	c->bytes_in = c->bytes_out = 0;
	hark__buffer_release(&c->in);
	c->handed_off = true;
	c->facts = facts;
}

/* A listening socket carries no bytes, and is not ours to end: other processes may accept from it. */
static int type_of(int fd)
{
	int type, listens = 0;
	socklen_t len = sizeof type, listens_len = sizeof listens;
	if (hark__sys.getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) < 0)
		return 0;
	(void)hark__sys.getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &listens_len);
	return listens ? 0 : type;
}

int hark_conn_from_fd(int fd, struct hark_conn **out)
{
	struct hark_conn *c;
	int type = type_of(fd);
	hark__spend(3); /* getsockopt, fstat, fcntl */
	int way = type == 0 ? hark__file_prepare(fd) : 0;
	int flags = way < 0 ? way : hark__sys.fcntl(fd, F_GETFL, 0);
	int r = way < 0 ? way : flags < 0 ? -errno : hark__conn_new(fd, type, &c);
	if (r < 0)
		return hark__fd_fail(fd, r); /* -EBADF: in vain */
	c->way = (uint8_t)way & 3;
	c->is_pipe = type == 0 && way != HARK__FILE_BYTE && hark__sys.fcntl(fd, F_GETPIPE_SZ, 0) > 0;
	c->nonblock = flags & O_NONBLOCK;
	*out = c;
	return 0;
}

int hark_fd(const struct hark_conn *c)
{
	atomic_store_explicit(&((struct hark_conn *)c)->may_linger, true, memory_order_relaxed);
	return c->single ? hark__reply_fd(c->reply) : c->src.fd;
}

size_t hark_buffered(const struct hark_conn *c)
{
	return hark__buffer_len(&c->in) + hark__conn_transport(c)->pending(c);
}

int hark_type(const struct hark_conn *c)
{
	return c->datagrams ? SOCK_DGRAM : SOCK_STREAM;
}

void hark_set_data(struct hark_conn *c, void *data)
{
	if (c->replies)
		hark__reply_set_data(c->reply, data);
	else if (c->has_extra)
		c->extra->data = data;
	else
		c->data = data;
}

void *hark_data(const struct hark_conn *c)
{
	return c->replies ? hark__reply_data(c->reply) : c->has_extra ? c->extra->data : c->data;
}

int hark_pair(struct hark_conn *out[2])
{
	int fds[2];
	struct hark_conn *c[2];
	int r = hark__sys.socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0 ? -errno : 0;
	if (r < 0)
		return r;
	r = hark__conn_new(fds[0], SOCK_STREAM, &c[0]);
	if (r < 0) {
		(void)hark__sys.close(fds[0]);
		return hark__fd_fail(fds[1], r);
	}
	r = hark__conn_new(fds[1], SOCK_STREAM, &c[1]);
	if (r < 0) {
		hark__conn_free(c[0]);
		return hark__fd_fail(fds[1], r);
	}
	out[0] = c[0];
	out[1] = c[1];
	return 0;
}

/* ---- time ------------------------------------------------------------------------------------ */

void hark_deadline(struct hark_conn *c, int64_t deadline)
{
	atomic_store_explicit(&c->deadline, deadline, memory_order_relaxed);
}

void hark_idle_timeout(struct hark_conn *c, int64_t ns)
{
	atomic_store_explicit(&c->idle_ns, ns, memory_order_relaxed);
}

int64_t hark__conn_until(const struct hark_conn *c, unsigned events)
{
	int64_t end = hark__conn_deadline(c), idle_ns = hark__conn_idle_ns(c);
	if ((events & HARK__IN) && c->hurried && c->read_until < end)
		end = c->read_until;
	if (idle_ns <= 0)
		return end;
	int64_t now = hark_now();
	return end - now < idle_ns ? end : now + idle_ns;
}

/* Others have no such queue and do not know the flag: on a unix socket the call would take a datagram. */
static bool has_error_queue(int fd)
{
	int domain = AF_UNSPEC;
	socklen_t len = sizeof domain;
	return hark__sys.getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &len) == 0 &&
	       (domain == AF_INET || domain == AF_INET6);
}

void hark__conn_drop_errors(struct hark_conn *c)
{
	struct msghdr m = {0};
	ssize_t n = has_error_queue(c->src.fd) ? 0 : -1;
	for (int i = 0; n >= 0 && i < ERRORS_MAX; i++) {
		n = hark__sys.recvmsg(c->src.fd, &m, MSG_ERRQUEUE | MSG_DONTWAIT);
		if (n < 0 && errno == EINTR)
			n = 0;
	}
	if (c->datagrams) /* a stream's may be its end */
		hark__ready_clear(&c->src, HARK__HUP);
}

/* ---- addresses ------------------------------------------------------------------------------- */

void hark__conn_set_peer(struct hark_conn *c, const struct sockaddr_storage *peer, socklen_t len)
{
	if (peer->ss_family != AF_INET && peer->ss_family != AF_INET6)
		return; /* a unix peer's name is asked for when it is wanted */
	struct hark_endpoint e;
	if (hark_endpoint_from(SOCK_STREAM, (const struct sockaddr *)peer, len, &e) == 0)
		memcpy(&c->peer, &e.addr, sizeof c->peer);
}

typedef int name_call(int, struct sockaddr *, socklen_t *);

static int ask_name(struct hark_conn *c, name_call *call, struct hark_endpoint *out)
{
	struct sockaddr_storage at = {0};
	socklen_t len = sizeof at;
	hark__spend(1);
	if (call(c->src.fd, (struct sockaddr *)&at, &len) < 0)
		return -errno;
	return hark_endpoint_from(hark_type(c), (const struct sockaddr *)&at, len, out);
}

/* One end of a connection to the proxy, as it told. */
static int take_end(const struct hark_conn *c, const struct hark_endpoint *end, struct hark_endpoint *out)
{
	*out = *end;
	out->type = hark_type(c);
	return 0;
}

/* NULL: the socket's own ends are those that count. */
static const struct hark_proxy *on_behalf(const struct hark_conn *c)
{
	const struct hark_proxy *p = hark_proxied(c);
	return p != NULL && !p->local ? p : NULL;
}

int hark_peer_endpoint(struct hark_conn *c, struct hark_endpoint *out)
{
	const struct hark_proxy *p = on_behalf(c);
	if (p != NULL)
		return take_end(c, &p->source, out);
	if (c->handed_off) {
		if (c->facts->peer_r == 0)
			*out = c->facts->peer;
		return c->facts->peer_r;
	}
	if (c->single)
		return hark__reply_peer(c->reply, out);
	if (c->peer.any.sa_family == 0)
		return ask_name(c, hark__sys.getpeername, out);
	*out = (struct hark_endpoint){
		.type = hark_type(c),
		.len = c->peer.any.sa_family == AF_INET ? sizeof c->peer.v4 : sizeof c->peer.v6,
	};
	memcpy(&out->addr, &c->peer, out->len);
	return 0;
}

int hark_local_endpoint(struct hark_conn *c, struct hark_endpoint *out)
{
	const struct hark_proxy *p = on_behalf(c);
	if (p != NULL)
		return take_end(c, &p->destination, out);
	if (c->handed_off) {
		if (c->facts->local_r == 0)
			*out = c->facts->local;
		return c->facts->local_r;
	}
	if (c->single)
		return hark__reply_local(c->reply, out);
	return ask_name(c, hark__sys.getsockname, out);
}

int hark_peer(struct hark_conn *c, char *buf, size_t cap)
{
	struct hark_endpoint e;
	int r = hark_peer_endpoint(c, &e);
	return r < 0 ? r : hark_endpoint_format(&e, buf, cap);
}

int hark_local(struct hark_conn *c, char *buf, size_t cap)
{
	struct hark_endpoint e;
	int r = hark_local_endpoint(c, &e);
	return r < 0 ? r : hark_endpoint_format(&e, buf, cap);
}

int hark_peer_credentials(const struct hark_conn *c, struct hark_credentials *out)
{
	struct ucred u;
	socklen_t len = sizeof u;
	if (on_behalf(c) != NULL) /* the proxy's are not its client's */
		return -EOPNOTSUPP;
	if (c->handed_off) {
		if (c->facts->user_r == 0)
			*out = c->facts->user;
		return c->facts->user_r;
	}
	if (c->single) /* its descriptor is the listener's */
		return -EOPNOTSUPP;
	if (hark__sys.getsockopt(c->src.fd, SOL_SOCKET, SO_PEERCRED, &u, &len) < 0)
		return errno == ENOPROTOOPT ? -EOPNOTSUPP : -errno;
	if (u.uid == (uid_t)-1) /* no unix socket, or none that was connected */
		return -EOPNOTSUPP;
	*out = (struct hark_credentials){.pid = u.pid, .uid = u.uid, .gid = u.gid};
	return 0;
}

/* Of TCP the kernel keeps it where a multicast socket has its own (tcp_v4_syn_recv_sock()). */
int hark_hops(const struct hark_conn *c)
{
	int left = 0;
	socklen_t len = sizeof left;
	if (c->replies)
		return hark__reply_hops(c->reply);
	if (c->datagrams || c->src.fd < 0)
		return 0;
	if (hark__sys.getsockopt(c->src.fd, IPPROTO_IPV6, IPV6_MULTICAST_HOPS, &left, &len) < 0 &&
	    hark__sys.getsockopt(c->src.fd, IPPROTO_IP, IP_MULTICAST_TTL, &left, &len) < 0)
		return 0;
	return left > 0 ? left : 0;
}

/* ---- what the server is told and tells ------------------------------------------------------- */

void hark_conn_stats(const struct hark_conn *c, struct hark_conn_stats *out)
{
	*out = (struct hark_conn_stats){
		.bytes_in = c->bytes_in,
		.bytes_out = c->bytes_out -
	                     (c->src.sending ? c->src.engine->ops->batch->sending(c->src.engine, &c->src) : 0),
		.opened_ns = c->opened,
		.deadline_ns = hark__conn_deadline(c),
		.idle_ns = hark__conn_idle_ns(c),
	};
}
