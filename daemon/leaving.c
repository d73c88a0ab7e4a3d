/* leaving.c — sockets of addresses that a reload removed. Who waits in the backlog when that happens is still served,
 * as the address was configured: by a worker of its own, started where somebody waits. Nothing new comes: a filter
 * drops what would begin a connection, so that its retransmission finds who listens there then, or a refusal.
 *
 * The supervisor's thread. */
#include <errno.h>
#include <linux/filter.h>
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
#define HANDSHAKE_NS (300 * HARK_MS) /* the longest round trip that is waited for; a SYN comes again after 1 s */

static bool somebody_waits(const struct socket_entry *e)
{
	struct pollfd p = {.fd = hark_listener_fd(e->listener), .events = POLLIN};
	return poll(&p, 1, 0) > 0;
}

/* No SYN reaches it any more, but all that belongs to a handshake does; of datagrams, none. socket(7), RFC 9293 */
static void refuse_more(int fd, bool stream)
{
	enum { FLAGS_AT = 13, SYN = 0x02, ACK = 0x10 };
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_B | BPF_ABS, FLAGS_AT),
		BPF_STMT(BPF_ALU | BPF_AND | BPF_K, SYN | ACK),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYN, 1, 0),
		BPF_STMT(BPF_RET | BPF_K, UINT32_MAX),
		BPF_STMT(BPF_RET | BPF_K, 0),
	};
	struct sock_fprog program = {.len = stream ? 5 : 1, .filter = stream ? code : code + 4};
	(void)setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program);
}

/* Another socket of ours takes who comes from now on: without this one's filter he would be refused as it is closed. */
static bool is_covered(const struct sockets *s, const struct socket_entry *e)
{
	int type, other;
	unsigned port = socket_port(hark_listener_fd(e->listener), &type);
	for (size_t i = 0; port != 0 && type == SOCK_STREAM && i < s->n; i++)
		if (socket_port(hark_listener_fd(s->entry[i]->listener), &other) == port && other == type)
			return true;
	return false;
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
	bool is_ip = socket_port(fd, &type) != 0, covered = is_covered(s, e);
	/* A service manager's goes on without us. */
	bool kept = e->service != NULL && !e->managed && !e->conf->wait && (is_ip || unix_path(e->key) != NULL);
	struct leaving_socket *l = kept && (covered || somebody_waits(e)) ? calloc(1, sizeof *l) : NULL;
	if (l == NULL) {
		socket_entry_close(s, e);
		return;
	}
	if (is_ip)
		refuse_more(fd, type == SOCK_STREAM);
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
	int fd = hark_listener_fd(l->entry->listener), type;
	if (socket_port(fd, &type) != 0)
		refuse_more(fd, type == SOCK_STREAM);
	l->open_until = hark_after(HANDSHAKE_NS);
	l->until = hark_after(l->entry->conf->grace_ns > HANDSHAKE_NS ? l->entry->conf->grace_ns : HANDSHAKE_NS);
}

void leaving_inherit(struct sockets *s, int fd, const char *key)
{
	struct socket_entry *e = NULL, *at = NULL;
	struct leaving_socket *l = NULL;
	char address[24];
	int type, other;
	unsigned port = socket_port(fd, &type);
	for (size_t i = 0; port != 0 && i < s->n && at == NULL; i++)
		if (socket_port(hark_listener_fd(s->entry[i]->listener), &other) == port && other == type &&
		    !s->entry[i]->conf->wait)
			at = s->entry[i];
	(void)snprintf(address, sizeof address, "fd:%d", fd);
	if (at != NULL) {
		e = calloc(1, sizeof *e);
		l = calloc(1, sizeof *l);
	}
	if (e == NULL || l == NULL || (e->key = strdup(key)) == NULL || hark_listen(address, NULL, &e->listener) < 0) {
		free(e != NULL ? e->key : NULL);
		free(e);
		free(l);
		(void)close(fd);
		return;
	}
	e->service = at->service;
	e->epoch = epoch_hold(at->epoch);
	e->conf = at->conf;
	*l = (struct leaving_socket){.next = s->leaving,
	                             .entry = e,
	                             .look = hark_now(),
	                             .open_until = HARK_FOREVER,
	                             .until = HARK_FOREVER};
	s->leaving = l;
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
		if (strcmp((*at)->entry->key, key) != 0 || unix_path(key) != NULL)
			continue;
		(void)setsockopt(hark_listener_fd((*at)->entry->listener), SOL_SOCKET, SO_DETACH_FILTER, &(int){0},
		                 sizeof(int));
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
