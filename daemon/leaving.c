/* leaving.c — sockets of addresses that a reload removed. Who waits in the backlog when that happens is still served,
 * as the address was configured: by a worker of its own, started where somebody waits. Nothing new comes: for that the
 * kernel looks past such a socket, and finds the one that took its place, or refuses.
 *
 * The supervisor's thread. */
#include <errno.h>
#include <limits.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "log.h"
#include "supervisor.h"

#define LOOK_NS      (20 * HARK_MS)
#define HANDSHAKE_NS (300 * HARK_MS) /* the longest round trip that is waited for */
#define NO_DEVICE    INT_MAX         /* no interface has this number */

static bool somebody_waits(const struct socket_entry *e)
{
	struct pollfd p = {.fd = hark_listener_fd(e->listener), .events = POLLIN};
	return poll(&p, 1, 0) > 0;
}

/* A peer of whom there will be no datagram: the socket itself, at loopback where it is bound to any address. */
static int connect_to_itself(int fd)
{
	struct sockaddr_storage at;
	struct sockaddr_in *four = (void *)&at;
	struct sockaddr_in6 *six = (void *)&at;
	socklen_t len = sizeof at;
	if (getsockname(fd, (struct sockaddr *)&at, &len) < 0)
		return -errno;
	if (at.ss_family == AF_INET && four->sin_addr.s_addr == htonl(INADDR_ANY))
		four->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	else if (at.ss_family == AF_INET6 && IN6_IS_ADDR_UNSPECIFIED(&six->sin6_addr))
		six->sin6_addr = in6addr_loopback;
	return connect(fd, (const struct sockaddr *)&at, len) < 0 ? -errno : 0;
}

/* For a SYN, or a datagram, though it be the best match. socket(7), udp(7). Where that fails, more may come. */
void leaving_divert(int fd)
{
	int type;
	if (socket_port(fd, &type) == 0)
		return;
	if (type == SOCK_STREAM) {
		(void)setsockopt(fd, SOL_SOCKET, SO_BINDTOIFINDEX, &(int){NO_DEVICE}, sizeof(int));
		return;
	}
	/* A worker may keep it while an answer is due: it must not be in the way of its successor's sessions. */
	(void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &(int){1}, sizeof(int));
	(void)connect_to_itself(fd);
}

/* False: it stays as it is, as that takes CAP_NET_RAW. */
static bool take_back(int fd)
{
	const struct sockaddr none = {.sa_family = AF_UNSPEC};
	int type;
	if (socket_port(fd, &type) == 0)
		return true;
	if (type == SOCK_STREAM)
		return setsockopt(fd, SOL_SOCKET, SO_BINDTOIFINDEX, &(int){0}, sizeof(int)) == 0;
	return connect(fd, &none, sizeof none) == 0 &&
	       setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &(int){0}, sizeof(int)) == 0;
}

/* The socket of a service at the port of fd: it takes who comes from now on. NULL: there is none. */
static struct socket_entry *successor(const struct sockets *s, int fd)
{
	int type, other;
	unsigned port = socket_port(fd, &type);
	for (size_t i = 0; port != 0 && i < s->n; i++) {
		struct socket_entry *at = s->entry[i];
		if (at->service != NULL && socket_port(hark_listener_fd(at->listener), &other) == port && other == type)
			return at;
	}
	return NULL;
}

/* e's backlog is served as that service says. */
static void adopt(struct socket_entry *e, const struct socket_entry *by)
{
	e->service = by->service;
	e->epoch = epoch_hold(by->epoch);
	e->conf = by->conf;
}

/* What is bound to a path no longer shows; hark_listener_close() then finds nothing of its own. */
static void remove_path(struct socket_entry *e)
{
	struct stat st;
	const char *path = unix_path(e->key);
	if (path != NULL && e->ino != 0 && !e->managed && lstat(path, &st) == 0 && st.st_dev == e->dev &&
	    st.st_ino == e->ino)
		(void)unlink(path);
	e->ino = 0;
}

void leaving_add(struct sockets *s, struct socket_entry *e)
{
	int fd = hark_listener_fd(e->listener), type;
	bool is_ip = socket_port(fd, &type) != 0;
	const struct socket_entry *by = successor(s, fd);
	if (e->service == NULL && by != NULL) /* of a reload that failed: somebody may have come to it all the same */
		adopt(e, by);
	/* A service manager's goes on without us. */
	bool kept = e->service != NULL && !e->managed && !e->conf->wait && (is_ip || unix_path(e->key) != NULL);
	bool covered = kept && by != NULL;
	if (kept)
		leaving_divert(fd);
	struct leaving_socket *l = kept && (covered || somebody_waits(e)) ? calloc(1, sizeof *l) : NULL;
	if (l == NULL) {
		socket_entry_close(s, e);
		return;
	}
	remove_path(e);
	l->entry = e;
	l->look = hark_after(LOOK_NS);
	l->open_until = hark_after(covered ? HANDSHAKE_NS : 0);
	l->until = hark_after(e->conf->grace_ns > HANDSHAKE_NS ? e->conf->grace_ns : HANDSHAKE_NS);
	l->next = s->leaving;
	s->leaving = l;
}

/* Any more, from now on; after a while it is closed. */
static void begin_to_leave(struct leaving_socket *l)
{
	leaving_divert(hark_listener_fd(l->entry->listener));
	l->open_until = hark_after(HANDSHAKE_NS);
	l->until = hark_after(l->entry->conf->grace_ns > HANDSHAKE_NS ? l->entry->conf->grace_ns : HANDSHAKE_NS);
}

void leaving_inherit(struct sockets *s, int fd, const char *key, bool released)
{
	struct socket_entry *e = NULL, *at = successor(s, fd);
	struct leaving_socket *l = NULL;
	char address[24];
	(void)snprintf(address, sizeof address, "fd:%d", fd);
	struct hark_listen_opts opts = {.tls = at != NULL && strncmp(at->key, "tls:", 4) == 0};
	if (at != NULL && !at->conf->wait) {
		e = calloc(1, sizeof *e);
		l = calloc(1, sizeof *l);
	}
	if (e == NULL || l == NULL || (e->key = strdup(key)) == NULL || hark_listen(address, &opts, &e->listener) < 0) {
		free(e != NULL ? e->key : NULL);
		free(e);
		free(l);
		(void)close(fd);
		return;
	}
	adopt(e, at);
	*l = (struct leaving_socket){.next = s->leaving,
	                             .entry = e,
	                             .look = hark_now(),
	                             .open_until = HARK_FOREVER,
	                             .until = HARK_FOREVER};
	s->leaving = l;
	if (released)
		begin_to_leave(l);
}

void leaving_released(struct sockets *s)
{
	for (struct leaving_socket *l = s->leaving; l != NULL; l = l->next)
		if (l->open_until == HARK_FOREVER)
			begin_to_leave(l);
}

static struct socket_entry *take_out(struct leaving_socket **at)
{
	struct leaving_socket *l = *at;
	struct socket_entry *e = l->entry;
	if (l->worker > 0)
		service_retire_worker(e->service, l->worker);
	*at = l->next;
	free(l);
	return e;
}

struct socket_entry *leaving_take_back(struct sockets *s, const char *key)
{
	for (struct leaving_socket **at = &s->leaving; *at != NULL; at = &(*at)->next) {
		if (strcmp((*at)->entry->key, key) == 0 && unix_path(key) == NULL &&
		    take_back(hark_listener_fd((*at)->entry->listener)))
			return take_out(at);
	}
	return NULL;
}

/* True: it is done with. */
static bool look(struct supervisor *v, struct leaving_socket *l, int64_t now)
{
	struct socket_entry *e = l->entry;
	bool waits = somebody_waits(e);
	if (now >= l->until || (!waits && now >= l->open_until))
		return true;
	if (l->worker > 0 && !service_has_worker(e->service, l->worker)) {
		if (l->open_until != HARK_FOREVER)
			return true;
		l->worker = 0;
	}
	if (waits && l->worker == 0)
		l->worker = service_last_worker(v, e->service, e);
	l->look = now + LOOK_NS;
	return l->worker < 0;
}

void leaving_look(struct supervisor *v)
{
	int64_t now = hark_now();
	for (struct leaving_socket **at = &v->sockets.leaving; *at != NULL;) {
		if (now >= (*at)->look && look(v, *at, now))
			socket_entry_close(&v->sockets, take_out(at));
		else
			at = &(*at)->next;
	}
}

int64_t leaving_due(const struct sockets *s)
{
	int64_t at = HARK_FOREVER;
	for (const struct leaving_socket *l = s->leaving; l != NULL; l = l->next)
		at = l->look < at ? l->look : at;
	return at;
}

bool leaving_of(const struct sockets *s, const struct service *of)
{
	for (const struct leaving_socket *l = s->leaving; l != NULL; l = l->next)
		if (l->entry->service == of)
			return true;
	return false;
}

void leaving_free(struct sockets *s)
{
	while (s->leaving != NULL)
		socket_entry_close(s, take_out(&s->leaving));
}
