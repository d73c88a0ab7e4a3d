/* sockets_probe.c — whether an address could be listened on, without doing so: a reload's dry run. A socket is bound as
 * the real one would be, and closed before it listens, so nobody's connection gets there; a unix socket that is there
 * already is connected to. What our own sockets are in the way of is left to the reload, which shares ports among them
 * and takes back what is leaving.
 *
 * The supervisor's thread. A name may be looked up. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "listen_name.h"
#include "supervisor.h"

#define DIAL_NS HARK_S /* for a unix socket with a full backlog */
#define HINT    " (another process %s there: ss %s 'sport = :%u' tells which)"

struct probe {
	const struct sockets *sockets;
	const struct config_service *conf;
	const char *address;
	bool v6only;
	struct hark_why *why;
};

static int failed(const struct probe *p, int err, const char *hint)
{
	(void)snprintf(p->why->text, sizeof p->why->text, "listen %.120s: %s%s", p->address, hark_strerror(err), hint);
	return err;
}

/* ---- IP -------------------------------------------------------------------------------------- */

/* Its address as 16 bytes, IPv4 mapped, and the port. */
static unsigned put_in6(const struct sockaddr_storage *at, struct in6_addr *to)
{
	const struct sockaddr_in *four = (const void *)at;
	const struct sockaddr_in6 *six = (const void *)at;
	if (at->ss_family == AF_INET6) {
		*to = six->sin6_addr;
		return ntohs(six->sin6_port);
	}
	*to = (struct in6_addr){.s6_addr = {[10] = 0xff, [11] = 0xff}};
	memcpy(to->s6_addr + 12, &four->sin_addr, 4);
	return ntohs(four->sin_port);
}

static bool is_any(const struct in6_addr *a)
{
	static const struct in6_addr four = {.s6_addr = {[10] = 0xff, [11] = 0xff}};
	return IN6_IS_ADDR_UNSPECIFIED(a) || memcmp(a, &four, sizeof four) == 0;
}

static bool overlaps(int fd, const struct hark_endpoint *e)
{
	struct sockaddr_storage at = {0};
	struct in6_addr own, other;
	int type;
	socklen_t len = sizeof at;
	if (socket_port(fd, &type) == 0 || type != e->type || getsockname(fd, (struct sockaddr *)&at, &len) < 0 ||
	    put_in6(&at, &own) != put_in6(&e->addr, &other))
		return false;
	return is_any(&own) || is_any(&other) || memcmp(&own, &other, sizeof own) == 0;
}

static bool is_ours(const struct sockets *s, const struct hark_endpoint *e)
{
	for (size_t i = 0; i < s->n; i++)
		if (overlaps(hark_listener_fd(s->entry[i]->listener), e))
			return true;
	for (const struct leaving_socket *l = s->leaving; l != NULL; l = l->next)
		if (overlaps(hark_listener_fd(l->entry->listener), e))
			return true;
	return false;
}

static int try_bind(const struct probe *p, const struct hark_endpoint *e)
{
	int on = 1, six = e->addr.ss_family == AF_INET6;
	int fd = socket(e->addr.ss_family, e->type | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	if (six)
		(void)setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &(int){p->v6only}, sizeof(int));
	if (p->conf->freebind)
		(void)setsockopt(fd, six ? IPPROTO_IPV6 : IPPROTO_IP, six ? IPV6_FREEBIND : IP_FREEBIND, &on,
		                 sizeof on);
	if (p->conf->reuseport)
		(void)setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof on);
	if (e->type == SOCK_STREAM)
		(void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
	int r = bind(fd, (const struct sockaddr *)&e->addr, e->len) < 0 ? -errno : 0;
	(void)close(fd);
	return r == -EADDRINUSE && is_ours(p->sockets, e) ? 0 : r;
}

/* Some of a name's addresses may be no interface's; all of them must not. */
static int probe_ip(const struct probe *p, const char *address)
{
	struct hark_endpoint at[LISTEN_NAMES_MAX];
	struct in6_addr ip;
	char hint[100] = "";
	int n = hark_resolve(address, at, LISTEN_NAMES_MAX, HARK_FOREVER), r = n, possible = 0;
	for (int i = 0; i < n; i++) {
		r = try_bind(p, &at[i]);
		if (r == -EADDRINUSE)
			(void)snprintf(hint, sizeof hint, HINT, at[i].type == SOCK_STREAM ? "listens" : "is",
			               at[i].type == SOCK_STREAM ? "-ltnp" : "-lunp", put_in6(&at[i].addr, &ip));
		if (r < 0 && !listen_is_elsewhere(r))
			return failed(p, r, hint);
		possible += r == 0;
	}
	return possible > 0 ? 0 : failed(p, r, r == -EADDRNOTAVAIL ? " (no interface here has this address)" : "");
}

/* "*" is one socket for both families, or of IPv4 alone where there is no IPv6. */
static int probe_any(struct probe *p, const struct hark_address *a)
{
	bool udp = a->scheme == HARK_UDP || a->scheme == HARK_UDP4 || a->scheme == HARK_UDP6;
	bool four = a->scheme == HARK_TCP4 || a->scheme == HARK_UDP4;
	bool six = a->scheme == HARK_TCP6 || a->scheme == HARK_UDP6;
	char address[HARK_ADDRESS_MAX];
	int r = -EAFNOSUPPORT;
	p->v6only = p->v6only || six;
	for (int i = four; i < (six ? 1 : 2) && r == -EAFNOSUPPORT; i++) {
		(void)snprintf(address, sizeof address, "%s://%s:%s", udp ? "udp" : "tcp", i == 0 ? "[::]" : "0.0.0.0",
		               a->port);
		r = probe_ip(p, address);
	}
	return r;
}

/* ---- unix ------------------------------------------------------------------------------------ */

/* What the path is made in. */
static int probe_directory(const struct probe *p, const char *path)
{
	char directory[PATH_MAX];
	const char *slash = strrchr(path, '/');
	(void)snprintf(directory, sizeof directory, "%.*s", slash != NULL ? (int)(slash - path) + 1 : 1,
	               slash != NULL ? path : ".");
	if (faccessat(AT_FDCWD, directory, W_OK | X_OK, AT_EACCESS) == 0)
		return 0;
	return failed(p, -errno, errno == ENOENT ? " (there is no such directory)" : "");
}

static int probe_unix(const struct probe *p, const char *path)
{
	struct hark_conn *c;
	struct stat st;
	if (path[0] != '@' && lstat(path, &st) < 0)
		return errno == ENOENT ? probe_directory(p, path) : failed(p, -errno, "");
	if (path[0] != '@' && !S_ISSOCK(st.st_mode))
		return failed(p, -EADDRINUSE, " (the path exists and is not a socket: it is not removed)");
	int r = hark_dial(p->address, &(struct hark_dial_opts){.deadline = hark_after(DIAL_NS)}, &c);
	if (r == 0)
		hark_abort(c);
	if (r == -ECONNREFUSED || r == -ENOENT) /* left by the dead, or free */
		return 0;
	return failed(p, -EADDRINUSE, " (another process has it)");
}

int sockets_probe(const struct sockets *s, const struct config_service *conf, size_t i, struct hark_why *why)
{
	struct hark_address a;
	struct probe p = {s, conf, conf->listen.word[i], conf->v6only, why};
	if (sockets_find(s, conf, i, 0) != NULL || hark_address_parse(p.address, &a, NULL) < 0)
		return 0;
	if (a.scheme == HARK_UNIX || a.scheme == HARK_UNIXGRAM) {
		for (const struct leaving_socket *l = s->leaving; l != NULL; l = l->next)
			if (strcmp(l->entry->key, p.address) == 0)
				return 0; /* it is taken back */
		return probe_unix(&p, a.path);
	}
	if (a.scheme == HARK_FD)
		return 0;
	return strcmp(a.host, "*") == 0 ? probe_any(&p, &a) : probe_ip(&p, p.address);
}
