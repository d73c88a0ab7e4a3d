/* attempt.c — see attempt.h.
 *
 * The socket is O_NONBLOCK only while it connects; the winner's flag is cleared, because whoever gets the
 * descriptor must find it blocking and because io_uring refuses to wait on descriptors that have it. The caller's
 * thread or fiber; nothing here waits but a look-up of the local address. */
#include "conn/attempt.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/un.h>
#include <unistd.h>

#include "address/endpoint.h"
#include "address/fd.h"
#include "base/sys.h"
#include "base/why.h"
#include "conn/listen.h"
#include "conn/resolve.h"

#define RESERVED_LOWEST  512 /* rresvport(3) */
#define RESERVED_HIGHEST 1023

static bool is_unix(const struct hark_address *a)
{
	return a->scheme == HARK_UNIX || a->scheme == HARK_UNIXGRAM;
}

/* Makes an address of "host", "host:port", ":port", "[::1]:port", a bare IPv6 address or, for unix, a path. */
static int parse_local(const struct hark_address *to, const char *text, struct hark_address *out, struct hark_why *why)
{
	char whole[HARK_ADDRESS_MAX];
	const char *colon = strchr(text, ':'), *format;
	int n;
	if (is_unix(to)) {
		n = snprintf(whole, sizeof whole, "unix:%s", text);
	} else {
		if (text[0] == ':' && text[1] != ':')
			format = "tcp://*%s";
		else if (colon == NULL || text[strlen(text) - 1] == ']')
			format = "tcp://%s:0";
		else if (text[0] != '[' && strchr(colon + 1, ':') != NULL)
			format = "tcp://[%s]:0";
		else
			format = "tcp://%s";
		n = snprintf(whole, sizeof whole, format, text);
	}
	if (n < 0 || (size_t)n >= sizeof whole) {
		hark__why(why, "local address: it is too long");
		return -EINVAL;
	}
	struct hark_why reason = {0};
	int rc = hark_address_parse(whole, out, &reason);
	if (rc < 0)
		hark__why(why, "local address: %s", reason.text);
	else
		out->scheme = to->scheme;
	return rc;
}

int hark__attempt_plan(struct hark__attempt_plan *plan, const struct hark_address *address,
                       const struct hark_dial_opts *opts, int64_t deadline, struct hark_why *why)
{
	struct hark_address local;
	plan->opts = opts;
	plan->n_locals = 0;
	if (opts->local == NULL)
		return 0;
	int rc = parse_local(address, opts->local, &local, why);
	if (rc < 0)
		return rc;
	rc = hark__resolve(&local, HARK__TO_LISTEN, plan->locals, HARK__LOCALS_MAX, deadline);
	if (rc < 0) {
		hark__why(why, "local address %s: %s", opts->local, hark_strerror(rc));
		return rc;
	}
	if (opts->reserved_port && hark__endpoint_port(&plan->locals[0]) != 0) {
		hark__why(why, "local address %s: it names a port, and a reserved port is asked for as well",
		          opts->local);
		return -EINVAL;
	}
	plan->n_locals = rc;
	return 0;
}

static int set_options(int fd, const struct hark_endpoint *to, const struct hark_dial_opts *o)
{
	bool ip = hark__endpoint_family(to) != AF_UNIX;
	int rc = hark__fd_buffers(fd, o->send_buffer_bytes, o->receive_buffer_bytes);
	if (rc == 0 && ip && o->hop_limit > 0)
		rc = hark__endpoint_family(to) == AF_INET6
		             ? hark__fd_option(fd, IPPROTO_IPV6, IPV6_UNICAST_HOPS, o->hop_limit)
		             : hark__fd_option(fd, IPPROTO_IP, IP_TTL, o->hop_limit);
	if (rc < 0 || to->type != SOCK_STREAM)
		return rc;
	if (ip && !o->nagle)
		rc = hark__fd_option(fd, IPPROTO_TCP, TCP_NODELAY, 1);
	if (rc == 0 && o->keepalive)
		rc = hark__fd_option(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
	if (rc == 0 && ip && o->fast_open)
		(void)hark__fd_option(fd, IPPROTO_TCP, TCP_FASTOPEN_CONNECT,
		                      1); /* a kernel without it connects as always */
	if (rc == 0 && o->linger_s > 0) {
		struct linger linger = {.l_onoff = 1, .l_linger = o->linger_s};
		if (hark__sys.setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger) < 0)
			rc = -errno;
	}
	return rc;
}

static int bind_to(int fd, const struct hark_endpoint *at)
{
	return hark__sys.bind(fd, (const struct sockaddr *)&at->addr, at->len) < 0 ? -errno : 0;
}

/* rresvport(3), from a place that differs between callers: two of them rarely meet, and a port that has just served
 * is in TIME_WAIT. No SO_REUSEADDR: the bind itself is to find out which ports are free. */
static int bind_reserved(int fd, struct hark_endpoint at)
{
	unsigned count = RESERVED_HIGHEST - RESERVED_LOWEST + 1;
	unsigned start = ((unsigned)getpid() * 31 + (unsigned)(hark_now() / 1000)) % count;
	int rc = -EADDRINUSE;
	for (unsigned i = 0; i < count && rc == -EADDRINUSE; i++) {
		hark__endpoint_set_port(&at, RESERVED_LOWEST + (start + i) % count);
		rc = bind_to(fd, &at);
	}
	return rc;
}

static int bind_ip(int fd, const struct hark__attempt_plan *plan, const struct hark_endpoint *to, const char **step)
{
	struct hark_endpoint at;
	int family = hark__endpoint_family(to), i = 0, rc = 0;
	if (plan->n_locals == 0 && !plan->opts->reserved_port)
		return 0;
	while (i < plan->n_locals && hark__endpoint_family(&plan->locals[i]) != family)
		i++;
	*step = plan->opts->reserved_port ? "reserved local port" : "local address";
	if (i == plan->n_locals && i > 0)
		return -EADDRNOTAVAIL; /* we are to come from an address of the other family */
	hark__endpoint_ip(&at, to->type, family, &in6addr_any, 0, 0);
	if (i < plan->n_locals)
		at = plan->locals[i];
	if (family == AF_INET6)
		rc = hark__fd_option(fd, IPPROTO_IPV6, IPV6_V6ONLY,
		                     1); /* attempts over IPv4 beside this one want the port too */
	if (rc == 0 && plan->opts->reserved_port)
		return bind_reserved(fd, at);
	if (rc == 0 && hark__endpoint_port(&at) != 0)
		rc = hark__fd_option(fd, SOL_SOCKET, SO_REUSEADDR, 1);
	else if (rc == 0) /* the port is chosen at connect, and may serve for several peers: ip(7) */
		(void)hark__fd_option(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1);
	return rc < 0 ? rc : bind_to(fd, &at);
}

/* A datagram path left by the dead is replaced. A stream's is not: a client that lives refuses callers like a dead one.
 */
static int bind_path(int fd, const struct hark_endpoint *at, struct hark__unix_path **path)
{
	static const struct hark_listen_opts as_it_comes;
	struct hark__hint hint = {0};
	struct stat st;
	const char *name = ((const struct sockaddr_un *)&at->addr)->sun_path;
	if (at->type == SOCK_STREAM && name[0] != '\0' && hark__sys.lstat(name, &st) == 0)
		return -EADDRINUSE;
	return hark__unix_bind(fd, at, &as_it_comes, path, &hint);
}

static int bind_unix(int fd, const struct hark__attempt_plan *plan, const struct hark_endpoint *to,
                     struct hark__unix_path **path)
{
	if (plan->n_locals > 0)
		return bind_path(fd, &plan->locals[0], path);
	if (to->type != SOCK_DGRAM)
		return 0;
	/* An abstract address of the kernel's choice, so that answers find us: unix(7), autobind. */
	const struct sockaddr any = {.sa_family = AF_UNIX};
	return hark__sys.bind(fd, &any, sizeof any.sa_family) < 0 ? -errno : 0;
}

static int bind_local(int fd, const struct hark__attempt_plan *plan, const struct hark_endpoint *to,
                      struct hark__unix_path **path, const char **step)
{
	if (hark__endpoint_family(to) != AF_UNIX)
		return bind_ip(fd, plan, to, step);
	*step = "local address";
	return bind_unix(fd, plan, to, path);
}

/* A closed port in the ephemeral range, dialed from the same host, may be the very port that connect(2) chose: both
 * SYNs are ours (RFC 9293 section 3.5, simultaneous open), and nobody is there. Cut, so that the port is free at once.
 */
static int check_other(struct hark_conn *c)
{
	struct hark_endpoint local, peer;
	struct sockaddr_storage at;
	socklen_t len = sizeof at;
	if (hark_type(c) != SOCK_STREAM || c->peer.any.sa_family == 0 || hark_local_endpoint(c, &local) < 0 ||
	    hark_peer_endpoint(c, &peer) < 0 || hark__endpoint_port(&local) != hark__endpoint_port(&peer))
		return 0;
	/* 0.0.0.0 and [::], where it was dialed, mean another one: the kernel knows which. */
	if (hark__sys.getpeername(c->src.fd, (struct sockaddr *)&at, &len) == 0)
		(void)hark_endpoint_from(SOCK_STREAM, (const struct sockaddr *)&at, len, &peer);
	if (!hark__endpoint_same(&local, &peer))
		return 0;
	hark__conn_transport(c)->reset(c);
	return -ECONNREFUSED;
}

/* The connection is made: from here on its descriptor is blocking, and forgotten by the engine that watched it connect.
 */
static int settle(struct hark_conn *c)
{
	hark__source_detach(&c->src);
	hark__ready_set(&c->src, HARK__IN | HARK__OUT);
	hark__ready_clear(&c->src, HARK__HUP);
	if (c->nonblock && hark__sys.fcntl(c->src.fd, F_SETFL, 0) < 0)
		return -errno;
	c->nonblock = false;
	return check_other(c);
}

void hark__attempt_send_syn(struct hark_conn *c)
{
	c->syn_due = false;
	(void)hark__sys.send(c->src.fd, NULL, 0, MSG_DONTWAIT | MSG_NOSIGNAL); /* its failure is the reader's to meet */
}

int hark__attempt_check(struct hark_conn *c)
{
	struct sockaddr_storage peer;
	socklen_t len = sizeof peer, err_len = sizeof(int);
	int err = 0;
	if (hark__sys.getpeername(c->src.fd, (struct sockaddr *)&peer, &len) == 0)
		return settle(c);
	if (errno != ENOTCONN)
		return -errno;
	if (hark__sys.getsockopt(c->src.fd, SOL_SOCKET, SO_ERROR, &err, &err_len) < 0)
		return -errno;
	return err != 0 ? -err : -EINPROGRESS;
}

int hark__attempt_begin(const struct hark__attempt_plan *plan, const struct hark_endpoint *to, struct hark_conn **out,
                        const char **step)
{
	struct hark_conn *c;
	struct hark__unix_path *path = NULL;
	*step = "socket";
	int fd = hark__fd_socket(hark__endpoint_family(to), to->type, SOCK_NONBLOCK);
	if (fd < 0)
		return fd;
	*step = "socket options";
	int rc = set_options(fd, to, plan->opts);
	if (rc == 0)
		rc = bind_local(fd, plan, to, &path, step);
	if (rc < 0)
		return hark__fd_fail(fd, rc);
	*step = NULL;
	rc = hark__conn_new(fd, to->type, &c);
	if (rc < 0) {
		hark__unix_path_remove(path);
		return hark__fd_fail(fd, rc);
	}
	c->path = path;
	c->has_path = path != NULL;
	c->nonblock = true;
	if (hark__endpoint_family(to) != AF_UNIX)
		hark__conn_set_peer(c, &to->addr, to->len);
	if (hark__sys.connect(fd, (const struct sockaddr *)&to->addr, to->len) == 0) {
		/* TCP that does not wait for an answer has sent nothing yet. */
		c->syn_due = plan->opts->fast_open && to->type == SOCK_STREAM && hark__endpoint_family(to) != AF_UNIX;
		rc = settle(c);
	} else if (errno == EINPROGRESS || errno == EINTR) { /* interrupted, it goes on by itself: connect(2) */
		rc = hark__attempt_check(c);                 /* on loopback the handshake is already over */
	} else {
		rc = -errno;
	}
	if (rc < 0 && rc != -EINPROGRESS)
		hark__conn_free(c);
	else
		*out = c;
	return rc;
}
