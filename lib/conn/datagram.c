/* datagram.c — datagram connections: connected ones, and single datagrams that a server answers.
 *
 * A served datagram is a connection that can be read once and whose writes are replies. It is received with the address
 * it was sent to (IP_PKTINFO, IPV6_RECVPKTINFO; set by listen.c) and answered from there, which a host with two
 * addresses needs, or its peers would drop the answers (RFC 1123 section 2.3). Under load datagrams come by recvmmsg(2)
 * and replies leave by sendmmsg(2).
 *
 * A datagram socket belongs to one loop's thread; replies may be written and freed by other threads, and then are sent
 * at once. See udp_connect.c for datagrams that begin a flow. */
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>

#include "conn/conn.h"
#include "conn/datagram_socket.h"
#include "conn/listen.h"
#include "loop/fiber.h"

#define GATHER_MOST 65507u /* bytes: the longest datagram over IPv4, RFC 768 and RFC 791; IPv6 takes a few more */

/* ---- packet information ---------------------------------------------------------------------- */

void hark__packet_info_get(struct msghdr *m, struct hark__reply *r)
{
	bool six = false;
	for (struct cmsghdr *h = CMSG_FIRSTHDR(m); h != NULL; h = CMSG_NXTHDR(m, h)) {
		if (h->cmsg_level == IPPROTO_IP && h->cmsg_type == IP_PKTINFO) {
			r->family = AF_INET;
			memcpy(&r->at4, CMSG_DATA(h), sizeof r->at4);
		} else if (h->cmsg_level == IPPROTO_IPV6 && h->cmsg_type == IPV6_PKTINFO) {
			six = true;
			memcpy(&r->at6, CMSG_DATA(h), sizeof r->at6);
		} else if ((h->cmsg_level == IPPROTO_IP && h->cmsg_type == IP_TTL) ||
		           (h->cmsg_level == IPPROTO_IPV6 && h->cmsg_type == IPV6_HOPLIMIT)) {
			int hops;
			memcpy(&hops, CMSG_DATA(h), sizeof hops);
			r->hops = (uint8_t)hops;
		}
	}
	if (!six)
		return;
	/* A dual-stack socket tells both of a datagram over IPv4. The mapped address is the header's own, which for a
	 * broadcast nothing can be sent from; the other tells what to send from then, too. */
	if (r->family == AF_INET && IN6_IS_ADDR_V4MAPPED(&r->at6.ipi6_addr))
		memcpy(&r->at6.ipi6_addr.s6_addr[12], &r->at4.ipi_spec_dst, sizeof r->at4.ipi_spec_dst);
	r->family = AF_INET6;
}

void hark__packet_info_put(struct msghdr *m, union hark__packet_info *info, const struct hark__reply *r)
{
	struct in_pktinfo four = {.ipi_spec_dst = r->at4.ipi_spec_dst};
	struct in6_pktinfo six = {.ipi6_addr = r->at6.ipi6_addr};
	bool is4 = r->family == AF_INET;
	if (r->family == 0 || (!is4 && IN6_IS_ADDR_MULTICAST(&six.ipi6_addr)))
		return; /* the kernel chooses */
	if (IN6_IS_ADDR_LINKLOCAL(&six.ipi6_addr))
		six.ipi6_ifindex = r->at6.ipi6_ifindex;
	memset(info, 0, sizeof *info);
	info->align.cmsg_level = is4 ? IPPROTO_IP : IPPROTO_IPV6;
	info->align.cmsg_type = is4 ? IP_PKTINFO : IPV6_PKTINFO;
	info->align.cmsg_len = is4 ? CMSG_LEN(sizeof four) : CMSG_LEN(sizeof six);
	memcpy(CMSG_DATA(&info->align), is4 ? (void *)&four : (void *)&six, is4 ? sizeof four : sizeof six);
	m->msg_control = info;
	m->msg_controllen = is4 ? CMSG_SPACE(sizeof four) : CMSG_SPACE(sizeof six);
}

/* ---- datagram sockets ------------------------------------------------------------------------------- */

int hark__datagram_socket_open(const struct hark_listener *l, struct hark__datagram_socket **out)
{
	struct hark__datagram_socket *m = hark__sys.calloc(1, sizeof *m);
	if (m == NULL)
		return -ENOMEM;
	m->fd = hark__sys.fcntl(hark_listener_fd(l), F_DUPFD_CLOEXEC, 3);
	if (m->fd < 0) {
		int r = -errno;
		free(m);
		return r;
	}
	m->at = l->at;
	(void)pthread_mutex_init(&m->flows_lock, NULL);
	hark__list_init(&m->flows);
	atomic_init(&m->refs, 1);
	atomic_init(&m->fd_refs, 1);
	*out = m;
	return 0;
}

static void release_fd(struct hark__datagram_socket *m)
{
	if (atomic_fetch_sub_explicit(&m->fd_refs, 1, memory_order_acq_rel) == 1)
		(void)hark__sys.close(m->fd);
}

static void release(struct hark__datagram_socket *m)
{
	if (atomic_fetch_sub_explicit(&m->refs, 1, memory_order_acq_rel) != 1)
		return;
	(void)pthread_mutex_destroy(&m->flows_lock);
	free(m);
}

void hark__datagram_socket_close(struct hark__datagram_socket *m)
{
	if (m == NULL)
		return;
	release_fd(m);
	release(m);
}

int hark__datagram_socket_receive(struct hark__datagram_socket *m, unsigned max)
{
	if (max > HARK__BATCH)
		max = HARK__BATCH;
	for (unsigned i = 0; i < max; i++) {
		m->in_iov[i] = (struct iovec){.iov_base = m->data[i], .iov_len = HARK__DATAGRAM_MAX};
		m->in[i].msg_hdr = (struct msghdr){
			.msg_name = &m->in_peer[i],
			.msg_namelen = sizeof m->in_peer[i],
			.msg_iov = &m->in_iov[i],
			.msg_iovlen = 1,
			.msg_control = &m->in_info[i],
			.msg_controllen = sizeof m->in_info[i],
		};
	}
	int n;
	do
		n = hark__sys.recvmmsg(m->fd, m->in, max, MSG_DONTWAIT, NULL);
	while (n < 0 && errno == EINTR); /* 0 would mean that nothing is there, and nothing more would tell */
	m->n_in = n > 0 ? (unsigned)n : 0;
	if (n >= 0)
		return n;
	return errno == EAGAIN ? 0 : -errno;
}

int hark__datagram_socket_take(struct hark__datagram_socket *m, unsigned i, struct hark_conn **out)
{
	struct mmsghdr *got = &m->in[i];
	struct hark_conn *c;
	struct hark__reply *r = hark__sys.calloc(1, sizeof *r);
	if (r == NULL)
		return -ENOMEM;
	if (hark__conn_new(-1, SOCK_DGRAM, &c) < 0) {
		free(r);
		return -ENOMEM;
	}
	hark__conn_begins(c, -1);
	r->box = m;
	atomic_fetch_add_explicit(&m->refs, 1, memory_order_relaxed); /* the owner's share keeps it alive here */
	atomic_fetch_add_explicit(&m->fd_refs, 1, memory_order_relaxed);
	c->reply = r;
	c->single = c->replies = true;
	memcpy(&r->peer, &m->in_peer[i], got->msg_hdr.msg_namelen);
	r->peer_len = got->msg_hdr.msg_namelen;
	r->truncated = got->msg_hdr.msg_flags & MSG_TRUNC;
	hark__packet_info_get(&got->msg_hdr, r);
	if (got->msg_len > 0 && hark__buffer_reserve(&c->in, got->msg_len) < 0) {
		hark__conn_free(c);
		return -ENOMEM;
	}
	if (got->msg_len > 0)
		memcpy(c->in.data, m->data[i], got->msg_len);
	c->in.tail = got->msg_len;
	c->bytes_in = got->msg_len;
	c->have_datagram = true;
	*out = c;
	return 0;
}

void hark__datagram_socket_gather(struct hark__datagram_socket *m, bool on)
{
	atomic_store_explicit(&m->gather, on, memory_order_relaxed);
}

/* One that cannot be sent (its peer unreachable, say) is skipped: datagrams may be lost, their neighbours must not be.
 */
void hark__datagram_socket_send(struct hark__datagram_socket *m)
{
	unsigned sent = 0;
	while (sent < m->n_out) {
		int n = hark__sys.sendmmsg(m->fd, m->out + sent, m->n_out - sent, MSG_DONTWAIT | MSG_NOSIGNAL);
		if (n > 0)
			sent += (unsigned)n;
		else if (errno != EINTR)
			sent++;
	}
	for (unsigned i = 0; i < m->n_out; i++)
		free(m->out_iov[i].iov_base);
	m->n_out = 0;
}

/* ---- replies --------------------------------------------------------------------------------- */

void hark__reply_free(struct hark__reply *r)
{
	if (r == NULL)
		return;
	pthread_mutex_lock(&r->box->flows_lock);
	hark__list_remove(&r->flow);
	pthread_mutex_unlock(&r->box->flows_lock);
	if (!r->fd_released)
		release_fd(r->box);
	release(r->box);
	free(r);
}

void hark__reply_hand_off(struct hark__reply *r)
{
	r->fd_released = true;
	release_fd(r->box);
}

int hark__reply_fd(const struct hark__reply *r)
{
	return r->box->fd;
}

void hark__reply_set_data(struct hark__reply *r, void *data)
{
	r->data = data;
}

void *hark__reply_data(const struct hark__reply *r)
{
	return r->data;
}

int hark__reply_hops(const struct hark__reply *r)
{
	return r->hops;
}

int hark__reply_peer(const struct hark__reply *r, struct hark_endpoint *out)
{
	if (r->peer_len == 0)
		return -ENOTCONN; /* an unnamed unix socket: nowhere to answer to */
	return hark_endpoint_from(SOCK_DGRAM, (const struct sockaddr *)&r->peer, r->peer_len, out);
}

int hark__reply_local(const struct hark__reply *r, struct hark_endpoint *out)
{
	struct hark_endpoint e = r->box->at;
	struct sockaddr_in *four = (struct sockaddr_in *)&e.addr;
	struct sockaddr_in6 *six = (struct sockaddr_in6 *)&e.addr;
	if (r->family == AF_INET && e.addr.ss_family == AF_INET) {
		four->sin_addr = r->at4.ipi_spec_dst;
	} else if (r->family == AF_INET6 && e.addr.ss_family == AF_INET6) {
		six->sin6_addr = r->at6.ipi6_addr;
		if (IN6_IS_ADDR_LINKLOCAL(&six->sin6_addr))
			six->sin6_scope_id = (uint32_t)r->at6.ipi6_ifindex;
	}
	return hark_endpoint_from(e.type, (const struct sockaddr *)&e.addr, e.len, out);
}

static int gather_reply(struct hark__datagram_socket *m, const struct hark__reply *r, const struct iovec *iov,
                        int count, size_t total)
{
	char *copy = hark__sys.malloc(total + 1); /* never 0 bytes: NULL means failure */
	if (copy == NULL)
		return -ENOMEM;
	if (m->n_out == HARK__BATCH)
		hark__datagram_socket_send(m);
	unsigned i = m->n_out++;
	m->out_iov[i] = (struct iovec){.iov_base = copy, .iov_len = total};
	m->out_peer[i] = r->peer;
	m->out[i].msg_hdr = (struct msghdr){
		.msg_name = &m->out_peer[i],
		.msg_namelen = r->peer_len,
		.msg_iov = &m->out_iov[i],
		.msg_iovlen = 1,
	};
	hark__packet_info_put(&m->out[i].msg_hdr, &m->out_info[i], r);
	for (int k = 0; k < count; copy += iov[k].iov_len, k++)
		memcpy(copy, iov[k].iov_base, iov[k].iov_len);
	return 0;
}

static int send_reply(const struct hark__reply *r, const struct iovec *iov, int count)
{
	union hark__packet_info info;
	struct msghdr m = {
		.msg_name = (void *)&r->peer,
		.msg_namelen = r->peer_len,
		.msg_iov = (struct iovec *)iov,
		.msg_iovlen = (size_t)count,
	};
	hark__packet_info_put(&m, &info, r);
	return hark__sys.sendmsg(r->box->fd, &m, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 ? -errno : 0;
}

/* ---- reading --------------------------------------------------------------------------------- */

/* One datagram: its first cap bytes to buf, the rest to the thread's spill. Its whole length, or -errno. */
static ssize_t receive_once(struct hark_conn *c, void *buf, size_t cap)
{
	struct iovec iov[2] = {{buf, cap}, {hark__buffer_spill(), HARK__SPILL_BYTES}};
	if (iov[1].iov_base == NULL)
		return -ENOMEM;
	struct msghdr m = {.msg_iov = iov, .msg_iovlen = 2};
	ssize_t n = hark__sys.recvmsg(c->src.fd, &m, MSG_DONTWAIT);
	if (n < 0)
		return -errno;
	return m.msg_flags & MSG_TRUNC ? -EMSGSIZE : n;
}

/* Its reading side was shut, here or (SOCK_SEQPACKET) by the peer's close. The kernel tells it by 0 or, of datagrams,
 * by EAGAIN, and calls the socket readable for ever. */
static bool is_shut(const struct hark_conn *c)
{
	struct pollfd p = {.fd = c->src.fd, .events = POLLRDHUP};
	return hark__sys.poll(&p, 1, 0) > 0 && (p.revents & (POLLRDHUP | POLLHUP));
}

/* 0 is an empty datagram, or the end, behind which there is nothing. */
static bool is_end(const struct hark_conn *c)
{
	char byte;
	return is_shut(c) && hark__sys.recv(c->src.fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) <= 0;
}

static ssize_t receive(struct hark_conn *c, void *buf, size_t cap, unsigned events, const char *doing)
{
	for (bool waited = false;; waited = true) {
		if (c->eof)
			return 0;
		int r = hark__conn_expired(c);
		if (r < 0)
			return r;
		ssize_t n = receive_once(c, buf, cap);
		if (n >= 0) {
			c->eof = n == 0 && is_end(c);
			c->bytes_in += (uint64_t)n;
			(void)hark__fair();
			return n;
		}
		if (n == -EINTR)
			continue;
		if (n != -EAGAIN || events == 0)
			return n;
		if (waited && is_shut(c)) {
			c->eof = true;
			return 0;
		}
		hark__ready_clear(&c->src, HARK__IN);
		r = hark__conn_wait(c, events, doing);
		if (r < 0)
			return r;
		if ((events & HARK__DRAIN) && !(hark__ready(&c->src) & HARK__IN) &&
		    hark_drain_deadline() != HARK_FOREVER)
			return -EAGAIN;
	}
}

/* Buffers a datagram of n bytes whose first cap are at buf and whose others are spilt. */
static int keep(struct hark_conn *c, const void *buf, size_t cap, size_t n)
{
	size_t head = n < cap ? n : cap;
	int r = n > 0 ? hark__buffer_reserve(&c->in, n) : 0;
	if (r < 0)
		return r;
	if (head > 0)
		memcpy(c->in.data, buf, head);
	if (n > head)
		memcpy(c->in.data + head, hark__buffer_spill(), n - head);
	c->in.tail = (uint32_t)n;
	c->have_datagram = true;
	return 0;
}

ssize_t hark__datagram_fill(struct hark_conn *c, unsigned events, const char *doing)
{
	if (c->have_datagram || c->single)
		return 0;
	ssize_t n = receive(c, NULL, 0, events, doing);
	if (n < 0 || c->eof)
		return n;
	int r = keep(c, NULL, 0, (size_t)n);
	return r < 0 ? r : n;
}

ssize_t hark__datagram_read(struct hark_conn *c, void *buf, size_t cap)
{
	if (c->single && c->have_datagram && c->reply->truncated)
		return -EMSGSIZE;
	if (c->have_datagram) {
		if (hark__buffer_len(&c->in) > cap)
			return -EMSGSIZE;
		c->have_datagram = false;
		return (ssize_t)hark__buffer_take(&c->in, buf, cap);
	}
	if (c->single)
		return 0;
	ssize_t n = receive(c, buf, cap, HARK__IN, "read");
	if (n <= (ssize_t)cap)
		return n;
	int r = keep(c, buf, cap, (size_t)n);
	return r < 0 ? r : -EMSGSIZE;
}

/* ---- writing --------------------------------------------------------------------------------- */

static int send_connected(struct hark_conn *c, const struct iovec *iov, int count)
{
	struct msghdr m = {.msg_iov = (struct iovec *)iov, .msg_iovlen = (size_t)count};
	for (;;) {
		ssize_t n = hark__sys.sendmsg(c->src.fd, &m, MSG_DONTWAIT | MSG_NOSIGNAL);
		if (n >= 0 || (errno != EAGAIN && errno != EINTR))
			return n >= 0 ? 0 : -errno;
		if (errno == EINTR)
			continue;
		hark__ready_clear(&c->src, HARK__OUT);
		int r = hark__conn_wait(c, HARK__OUT, "write");
		if (r < 0)
			return r;
	}
}

/* The socket is shared with every other reply: no room in it is rare and brief, so it is asked for again rather than
 * watched. */
static int send_patiently(struct hark_conn *c, const struct iovec *iov, int count)
{
	for (int tries = 0;; tries++) {
		int r = send_reply(c->reply, iov, count);
		if ((r != -EAGAIN && r != -EINTR) || tries == 100)
			return r;
		r = hark_sleep(HARK_MS);
		if (r == 0)
			r = hark__conn_expired(c);
		if (r < 0)
			return r;
	}
}

/* What may be too long for a datagram leaves by itself, behind what has gathered: its writer must hear of that. */
static bool gathers(struct hark__datagram_socket *m, size_t total)
{
	if (!atomic_load_explicit(&m->gather, memory_order_relaxed))
		return false;
	if (total <= GATHER_MOST)
		return true;
	hark__datagram_socket_send(m);
	return false;
}

int hark__datagram_write(struct hark_conn *c, const struct iovec *iov, int count, size_t total)
{
	int r;
	if (!c->single)
		r = send_connected(c, iov, count);
	else if (c->reply->peer_len == 0)
		r = -ENOTCONN;
	else if (gathers(c->reply->box, total))
		r = gather_reply(c->reply->box, c->reply, iov, count, total);
	else
		r = send_patiently(c, iov, count);
	if (r < 0)
		return r;
	c->bytes_out += total;
	(void)hark__fair(); /* a cancellation is told by the next call */
	return 0;
}
