/* listen.c — makes and adopts listeners.
 *
 * A stream's listening socket is O_NONBLOCK, because several workers share it and each but the first finds the
 * backlog empty; a datagram socket is not, since its calls say MSG_DONTWAIT and a program that is given it must
 * find it blocking. SO_REUSEADDR is set for TCP alone: on Linux it lets a second UDP socket take the first one's
 * datagrams (socket(7)).
 *
 * Any thread or fiber. May suspend to look up a name, or where an address is in use or a unix path seems to be left by
 * the dead. */
#include "conn/listen.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "address/endpoint.h"
#include "address/fd.h"
#include "base/sys.h"
#include "base/why.h"
#include "conn/resolve.h"

#define LISTEN_CALLS   10u  /* system calls of a listen, about */
#define RESERVED_PORTS 1024 /* ip_unprivileged_port_start's default, ip(7) */

/* What is being made, for all the steps. */
struct making {
	const char *address;
	const struct hark_address *parsed;
	const struct hark_listen_opts *opts;
	const char *step; /* what failed, where it was not bind or listen */
	struct hark__hint hint;
};

/* $LISTENQ before what the program says: whoever runs it may know better than who wrote it. Stevens, UNIX Network
 * Programming, volume 1, section 4.5. */
static int backlog(const struct hark_listen_opts *o)
{
	const char *env = getenv("LISTENQ");
	long value = env != NULL ? strtol(env, NULL, 10) : 0;
	if (value > 0 && value <= INT32_MAX)
		return (int)value;
	return o->backlog > 0 ? o->backlog : SOMAXCONN;
}

/* The address a datagram was sent to comes with it, so that the answer leaves from there. ip(7), ipv6(7) */
static int want_pktinfo(int fd, int family)
{
	if (family == AF_INET)
		return hark__fd_option(fd, IPPROTO_IP, IP_PKTINFO, 1);
	if (family == AF_INET6) {
		(void)hark__fd_option(fd, IPPROTO_IP, IP_PKTINFO, 1); /* dual-stack: see hark__packet_info_get() */
		return hark__fd_option(fd, IPPROTO_IPV6, IPV6_RECVPKTINFO, 1);
	}
	return 0;
}

/* What is accepted inherits it. Small writes coalesce here: Nagle's algorithm (RFC 896) adds nothing but, with the
 * peer's delayed acknowledgements, 40 ms to an answer that leaves in more than one write. tcp(7) */
static int no_delay(int fd)
{
	return hark__fd_option(fd, IPPROTO_TCP, TCP_NODELAY, 1);
}

static int set_tcp_options(int fd, struct making *m)
{
	int rc = hark__fd_option(fd, SOL_SOCKET, SO_REUSEADDR, 1);
	if (rc == 0)
		rc = no_delay(fd);
	if (rc == 0 && m->opts->defer_accept_s > 0) {
		m->step = "TCP_DEFER_ACCEPT";
		rc = hark__fd_option(fd, IPPROTO_TCP, TCP_DEFER_ACCEPT, m->opts->defer_accept_s);
	}
	if (rc == 0 && m->opts->fast_open_queue > 0) {
		m->step = "TCP_FASTOPEN";
		rc = hark__fd_option(fd, IPPROTO_TCP, TCP_FASTOPEN, m->opts->fast_open_queue);
	}
	return rc;
}

static bool six_alone(const struct making *m)
{
	return m->opts->v6only || m->parsed->scheme == HARK_TCP6 || m->parsed->scheme == HARK_UDP6;
}

static int set_ip_options(int fd, const struct hark_endpoint *at, struct making *m)
{
	int family = hark__endpoint_family(at), rc = 0;
	if (family == AF_INET6) {
		m->step = "IPV6_V6ONLY";
		rc = hark__fd_option(fd, IPPROTO_IPV6, IPV6_V6ONLY,
		                     six_alone(m)); /* whatever net.ipv6.bindv6only says */
	}
	if (rc == 0 && m->opts->freebind) {
		m->step = "IP_FREEBIND";
		rc = family == AF_INET6 ? hark__fd_option(fd, IPPROTO_IPV6, IPV6_FREEBIND, 1)
		                        : hark__fd_option(fd, IPPROTO_IP, IP_FREEBIND, 1);
	}
	if (rc == 0 && m->opts->reuseport) {
		m->step = "SO_REUSEPORT";
		rc = hark__fd_option(fd, SOL_SOCKET, SO_REUSEPORT, 1);
	}
	if (rc == 0)
		rc = at->type == SOCK_STREAM ? set_tcp_options(fd, m) : want_pktinfo(fd, family);
	return rc;
}

static int bind_ip(int fd, const struct hark_endpoint *at, const struct making *m)
{
	bool beside = at->type == SOCK_DGRAM && m->opts->beside_connected;
	int rc = beside ? hark__fd_option(fd, SOL_SOCKET, SO_REUSEADDR, 1) : 0;
	if (rc == 0)
		rc = hark__sys.bind(fd, (const struct sockaddr *)&at->addr, at->len) < 0 ? -errno : 0;
	if (rc == 0 && beside) /* for that moment alone: else any process could bind the port as well */
		rc = hark__fd_option(fd, SOL_SOCKET, SO_REUSEADDR, 0);
	return rc;
}

static int bind_and_listen(int fd, const struct hark_endpoint *at, struct making *m, struct hark__unix_path **made)
{
	int rc;
	m->step = NULL;
	if (hark__endpoint_family(at) == AF_UNIX)
		rc = hark__unix_bind(fd, at, m->opts, made, &m->hint);
	else
		rc = bind_ip(fd, at, m);
	if (rc == 0 && at->type == SOCK_STREAM && hark__sys.listen(fd, backlog(m->opts)) < 0)
		rc = -errno;
	return rc;
}

/* Makes a socket, and a listener of it. */
static int make(const struct hark_endpoint *at, struct making *m, struct hark_listener **out)
{
	struct hark__unix_path *made = NULL;
	struct hark_listener *l;
	bool is_unix = hark__endpoint_family(at) == AF_UNIX;
	m->step = "socket";
	int fd = hark__fd_socket(hark__endpoint_family(at), at->type, at->type == SOCK_STREAM ? SOCK_NONBLOCK : 0);
	if (fd < 0)
		return fd;
	(void)hark__listen_fds_claim(fd); /* a number that was never really handed over is not adopted from us later */
	m->step = "socket buffers";
	int rc = hark__fd_buffers(fd, m->opts->send_buffer_bytes, m->opts->receive_buffer_bytes);
	if (rc == 0 && !is_unix)
		rc = set_ip_options(fd, at, m);
	if (rc == 0)
		rc = bind_and_listen(fd, at, m, &made);
	if (rc == 0)
		rc = hark__listener_new(fd, &l);
	if (rc < 0) {
		hark__unix_path_remove(made);
		return hark__fd_fail(fd, rc);
	}
	l->path = made;
	*out = l;
	return 0;
}

/* Makes a listener of a socket that somebody else has bound. Its description may be shared with whoever handed it over;
 * O_NONBLOCK is set all the same, as in what is made here. Takes fd only on success. */
static int adopt(int fd, struct making *m, struct hark_listener **out)
{
	struct hark_endpoint at;
	int rc = hark__fd_local(fd, &at), listens = 0;
	socklen_t len = sizeof listens;
	if (rc < 0)
		return rc;
	if (at.type != SOCK_STREAM && at.type != SOCK_DGRAM) {
		m->hint.text = "it is a socket of neither streams nor datagrams";
		return -EINVAL;
	}
	if (at.type == SOCK_STREAM) {
		if (hark__sys.getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &len) < 0)
			return -errno;
		if (!listens) {
			m->hint.text = "it is a stream socket that does not listen";
			return -EINVAL;
		}
		rc = hark__fd_nonblock(fd, true);
		if (rc == 0 && hark__endpoint_family(&at) != AF_UNIX)
			(void)no_delay(fd); /* a stream of another protocol has no such option */
	} else if (hark__endpoint_family(&at) != AF_UNIX && hark__endpoint_port(&at) == 0) {
		m->hint.text = "it is a datagram socket that is not bound";
		return -EINVAL;
	} else {
		rc = want_pktinfo(fd, hark__endpoint_family(&at));
	}
	if (rc == 0)
		rc = hark__fd_cloexec(fd);
	if (rc == 0 && !hark__listen_fds_claim(fd)) {
		m->hint.text = "it was listened on before in this process";
		rc = -EBADF;
	}
	if (rc == 0 && hark__listener_has(fd)) {
		m->hint.text = "a listener of this process has it";
		rc = -EBADF;
	}
	if (rc < 0)
		return rc;
	rc = hark__listener_new(fd, out);
	if (rc < 0)
		hark__listen_fds_release(fd);
	return rc;
}

static int listen_fd(struct making *m, struct hark_listener **out)
{
	int fd = m->parsed->fd;
	(void)hark_listen_fds(); /* those beside it become close-on-exec as well */
	if (fd < 0)
		fd = hark__listen_fds_named(m->parsed->path);
	if (fd < 0) {
		m->hint.text = "LISTEN_FDNAMES has no such name left for this process";
		return -EBADF;
	}
	return adopt(fd, m, out);
}

static int listen_at(const struct hark_endpoint at[], int n, struct making *m, struct hark_listener **out)
{
	int rc = -EADDRNOTAVAIL;
	for (int i = 0; i < n; i++) {
		int fd = hark__listen_fds_bound_to(&at[i], six_alone(m));
		if (fd >= 0)
			return adopt(fd, m, out);
	}
	for (int i = 0; i < n; i++) {
		rc = make(&at[i], m, out);
		if (rc != -EAFNOSUPPORT && rc != -EADDRNOTAVAIL)
			return rc; /* else there is no IPv6 here, and what "*" means is IPv4 */
	}
	return rc;
}

/* The lowest port that anybody may take, ip(7). */
static unsigned lowest_free_port(void)
{
	char text[16] = "";
	int fd = hark__sys.open("/proc/sys/net/ipv4/ip_unprivileged_port_start", O_RDONLY | O_CLOEXEC);
	ssize_t n = fd >= 0 ? hark__sys.read(fd, text, sizeof text - 1) : -1;
	if (fd >= 0)
		(void)hark__sys.close(fd);
	return n > 0 ? (unsigned)strtoul(text, NULL, 10) : RESERVED_PORTS;
}

/* Says what failed and, where the number alone leaves the reader at a loss, why. */
static void explain(const struct making *m, int rc, const struct hark_endpoint *at)
{
	char hint[sizeof m->hint.room] = "";
	unsigned port = at != NULL ? hark__endpoint_port(at) : 0, lowest;
	if (m->hint.text != NULL)
		(void)snprintf(hint, sizeof hint, "%s", m->hint.text);
	else if (rc == -EADDRINUSE && port != 0)
		(void)snprintf(hint, sizeof hint, "another process %s there: ss %s 'sport = :%u' tells which",
		               at->type == SOCK_STREAM ? "listens" : "is", at->type == SOCK_STREAM ? "-ltnp" : "-lunp",
		               port);
	else if (rc == -EACCES && port != 0 && port < (lowest = lowest_free_port()))
		(void)snprintf(hint, sizeof hint, "ports below %u need root or CAP_NET_BIND_SERVICE", lowest);
	else if (rc == -EADDRNOTAVAIL)
		(void)snprintf(hint, sizeof hint, "no interface here has this address");
	hark__why(m->opts->why, "listen %s: %s%s%s%s%s%s", m->address, m->step != NULL ? m->step : "",
	          m->step != NULL ? ": " : "", hark_strerror(rc), hint[0] != '\0' ? " (" : "", hint,
	          hint[0] != '\0' ? ")" : "");
}

int hark_listen(const char *address, const struct hark_listen_opts *opts, struct hark_listener **out)
{
	static const struct hark_listen_opts defaults;
	struct hark_address a;
	struct hark_endpoint at[2]; /* "*" has two: dual-stack, and IPv4 where there is no IPv6 */
	struct making m = {.address = address, .parsed = &a, .opts = opts != NULL ? opts : &defaults};
	int rc = hark_address_parse(address, &a, m.opts->why);
	if (rc < 0)
		return rc;
	if (a.scheme == HARK_FD) {
		rc = listen_fd(&m, out);
		if (rc == 0)
			(*out)->tls = m.opts->tls && (*out)->type == SOCK_STREAM;
		else
			explain(&m, rc, NULL);
		return rc;
	}
	int n = hark__resolve(&a, HARK__TO_LISTEN, at, 2, HARK_FOREVER);
	if (n < 0) {
		m.hint.text = n == -EINVAL ? "no interface here has the scope's name" : NULL;
		explain(&m, n, NULL);
		return n;
	}
	if (n > 1 && (strcmp(a.host, "*") != 0 || m.opts->v6only))
		n = 1;
	rc = listen_at(at, n, &m, out);
	if (rc == 0)
		(*out)->tls = a.scheme == HARK_TLS || (m.opts->tls && (*out)->type == SOCK_STREAM);
	hark__spend(LISTEN_CALLS);
	(void)hark__fair();
	if (rc < 0)
		explain(&m, rc, &at[0]);
	return rc;
}
