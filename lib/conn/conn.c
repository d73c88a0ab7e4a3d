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

#include "base/sys.h"
#include "conn/datagram.h"
#include "conn/listen.h"
#include "loop/fiber.h"

const struct hark__transport *const hark__transports[HARK__TRANSPORTS] = {
	[HARK__SOCKET] = &hark__transport_socket,
	[HARK__FILE] = &hark__transport_file,
};

/* ---- life ------------------------------------------------------------------------------------ */

void hark__conn_keep_error(struct hark_conn *c, int error)
{
	if (c->write_error == 0)
		c->write_error = (int16_t)error;
	if (error == -ECONNRESET)
		atomic_store_explicit(&c->was_reset, true, memory_order_relaxed);
}

/* Nobody is in the midst of the buffer: who flushes it waits until what was handed over before has left. */
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
	struct hark_conn *c = hark__sys.malloc(sizeof *c); /* not calloc(3): it passes by malloc's cache of the thread */
	if (c == NULL)
		return -ENOMEM;
	memset(c, 0, sizeof *c);
	hark__source_init(&c->src, fd);
	hark__source_unsent = unsent;
	c->transport = type == 0 ? HARK__FILE : HARK__SOCKET;
	c->datagrams = type != 0 && type != SOCK_STREAM;
	hark_deadline(c, HARK_FOREVER);
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
	hark__reply_free(c->reply); /* first: nobody hands datagrams to a closed socket */
	if (c->has_path)
		hark__unix_path_remove(c->path);
	if (c->src.fd >= 0)
		(void)hark__sys.close(c->src.fd);
	hark__splice_end(c);
	hark__buffer_release(&c->in);
	hark__buffer_release(&c->out);
	free(c);
}

static int type_of(int fd)
{
	int type;
	socklen_t len = sizeof type;
	return hark__sys.getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) < 0 ? 0 : type;
}

int hark_conn_from_fd(int fd, struct hark_conn **out)
{
	hark__spend(2); /* fcntl, getsockopt */
	int flags = hark__sys.fcntl(fd, F_GETFL, 0);
	int r = flags < 0 ? -errno : hark__conn_new(fd, type_of(fd), out);
	if (r < 0) {
		if (fd >= 0)
			(void)hark__sys.close(fd); /* -EBADF: in vain */
		return r;
	}
	(*out)->src.nonblock = flags & O_NONBLOCK;
	return 0;
}

int hark_fd(const struct hark_conn *c)
{
	return c->src.fd >= 0 || c->reply == NULL ? c->src.fd : hark__reply_fd(c->reply);
}

size_t hark_buffered(const struct hark_conn *c)
{
	return hark__buffer_len(&c->in) + hark__conn_transport(c)->pending(c);
}

int hark_type(const struct hark_conn *c)
{
	return c->datagrams ? SOCK_DGRAM : SOCK_STREAM;
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

int hark__conn_expired(const struct hark_conn *c)
{
	int64_t deadline = hark__conn_deadline(c);
	return deadline != HARK_FOREVER && hark_now() >= deadline ? -ETIMEDOUT : 0;
}

void hark__conn_drop_errors(struct hark_conn *c)
{
	struct msghdr m = {0};
	while (hark__sys.recvmsg(c->src.fd, &m, MSG_ERRQUEUE | MSG_DONTWAIT) >= 0 || errno == EINTR)
		;
	if (c->datagrams) /* a stream's may be its end */
		hark__ready_clear(&c->src, HARK__HUP);
}

/* ---- addresses ------------------------------------------------------------------------------- */

void hark__unmap(struct hark_endpoint *e)
{
	struct sockaddr_in6 six;
	if (e->addr.ss_family != AF_INET6)
		return;
	memcpy(&six, &e->addr, sizeof six);
	if (!IN6_IS_ADDR_V4MAPPED(&six.sin6_addr))
		return;
	struct sockaddr_in four = {.sin_family = AF_INET, .sin_port = six.sin6_port};
	memcpy(&four.sin_addr, &six.sin6_addr.s6_addr[12], 4);
	memset(&e->addr, 0, sizeof e->addr);
	memcpy(&e->addr, &four, sizeof four);
	e->len = sizeof four;
}

void hark__conn_set_peer(struct hark_conn *c, const struct sockaddr_storage *peer, socklen_t len)
{
	if (peer->ss_family != AF_INET && peer->ss_family != AF_INET6)
		return; /* a unix peer's name is asked for when it is wanted */
	struct hark_endpoint e = {.len = len};
	memcpy(&e.addr, peer, len < sizeof e.addr ? len : sizeof e.addr);
	hark__unmap(&e);
	memcpy(&c->peer, &e.addr, sizeof c->peer);
}

typedef int name_call(int, struct sockaddr *, socklen_t *);

static int ask_name(struct hark_conn *c, name_call *call, struct hark_endpoint *out)
{
	struct hark_endpoint e = {.type = hark_type(c), .len = sizeof e.addr};
	hark__spend(1);
	if (call(c->src.fd, (struct sockaddr *)&e.addr, &e.len) < 0)
		return -errno;
	hark__unmap(&e);
	*out = e;
	return 0;
}

int hark_peer_endpoint(struct hark_conn *c, struct hark_endpoint *out)
{
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

/* ---- what the server is told and tells ------------------------------------------------------- */

void hark_conn_stats(const struct hark_conn *c, struct hark_conn_stats *out)
{
	*out = (struct hark_conn_stats){
		.bytes_in = c->bytes_in,
		.bytes_out = c->bytes_out -
	                     (c->src.sending ? c->src.engine->ops->completion->sending(c->src.engine, &c->src) : 0),
		.opened_ns = c->opened,
		.deadline_ns = hark__conn_deadline(c),
		.idle_ns = hark__conn_idle_ns(c),
	};
}

void hark_outcome(struct hark_conn *c, pid_t pid, int status)
{
	c->pid = pid;
	c->status = status;
}
