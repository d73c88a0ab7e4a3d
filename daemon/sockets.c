/* sockets.c — listening sockets by address. A socket is opened once and kept as long as a configuration wants its
 * address: a reload closes none that it keeps, so nothing that waits in a backlog is lost, and a failed reload closes
 * only what it opened. An address and its wildcard are held at once while a reload goes from one to the other.
 *
 * hark_listen() itself adopts what a service manager handed over (LISTEN_FDS). The supervisor's thread. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "listen_name.h"
#include "log.h"
#include "supervisor.h"

#define KEY_MAX      (HARK_ADDRESS_MAX + 80)
#define LINGER_NS    (500 * HARK_MS) /* after it was closed here a worker that was told to may still have it */
#define LOOK_NS      (5 * HARK_MS)
#define FIRST_HANDED 3 /* SD_LISTEN_FDS_START */

/* Port 0 is another socket for each service, and each time that it says so. */
static const char *key_of(const struct config_service *conf, size_t i, char key[KEY_MAX])
{
	const char *address = conf->listen.word[i];
	size_t len = strlen(address);
	bool any_port = len > 2 && strcmp(address + len - 2, ":0") == 0;
	(void)snprintf(key, KEY_MAX, any_port ? "%s %s#%zu" : "%s", address, conf->name, i);
	return key;
}

static struct socket_entry *find(const struct sockets *s, const char *key, size_t nth)
{
	for (size_t i = 0; i < s->n; i++)
		if (strcmp(s->entry[i]->key, key) == 0 && nth-- == 0)
			return s->entry[i];
	return NULL;
}

struct socket_entry *sockets_find(const struct sockets *s, const struct config_service *conf, size_t i, size_t nth)
{
	char key[KEY_MAX];
	return find(s, key_of(conf, i, key), nth);
}

static bool lists(const struct config_service *conf, const char *key)
{
	char own[KEY_MAX];
	for (size_t i = 0; i < conf->listen.n; i++)
		if (strcmp(key_of(conf, i, own), key) == 0)
			return true;
	return false;
}

bool sockets_shared(const struct config_service *s, size_t i, const struct config_service *conf)
{
	char key[KEY_MAX];
	return lists(conf, key_of(s, i, key));
}

const char *unix_path(const char *key)
{
	const char *path = strchr(key, ':');
	return strncmp(key, "unix", 4) == 0 && path != NULL && path[1] == '/' ? path + 1 : NULL;
}

/* O_NONBLOCK belongs to the socket, whoever has it. A program that was given it (wait) has it without, and goes on with
 * it while a new generation takes it over; workers that share one must not wait in accept(2) for what another one took.
 */
static void set_nonblock(const struct hark_listener *l, const struct config_service *conf, int flags_before)
{
	int fd = hark_listener_fd(l), flags = fcntl(fd, F_GETFL);
	int wanted = !conf->wait ? flags | O_NONBLOCK : flags_before >= 0 ? flags_before : flags;
	if (flags >= 0 && wanted != flags && hark_listener_type(l) == SOCK_STREAM)
		(void)fcntl(fd, F_SETFL, wanted);
}

/* The path may be something else by now, where the directory is not root's alone: only what was bound gets a mode. */
static void set_mode(const struct socket_entry *e, const struct config_service *conf)
{
	char self[32];
	struct stat st;
	int fd = open(unix_path(e->key), O_PATH | O_NOFOLLOW | O_CLOEXEC), r = 0;
	if (fd < 0 || fstat(fd, &st) < 0)
		r = -errno;
	else if (st.st_dev != e->dev || st.st_ino != e->ino)
		r = -ESTALE;
	else if ((st.st_mode & 07777) != (mode_t)conf->socket_mode) {
		(void)snprintf(self, sizeof self, "/proc/self/fd/%d", fd); /* fchmod(2) takes no O_PATH */
		r = chmod(self, (mode_t)conf->socket_mode) < 0 ? -errno : 0;
	}
	if (fd >= 0)
		(void)close(fd);
	if (r < 0)
		log_event(LOG_LEVEL_WARNING, conf->name, "socket_mode of %s: %s", e->key,
		          r == -ESTALE ? "the path is not what was bound there" : strerror(-r));
}

/* What of the options can still be changed on a socket that is kept. */
static void adjust(const struct socket_entry *e, const struct config_service *conf)
{
	set_nonblock(e->listener, conf, -1);
	if (conf->backlog > 0 && hark_listener_type(e->listener) == SOCK_STREAM)
		(void)listen(hark_listener_fd(e->listener), conf->backlog);
	if (unix_path(e->key) != NULL && conf->socket_mode >= 0 && !e->managed)
		set_mode(e, conf);
}

/* By whoever started us: sd_listen_fds(3) */
static bool is_handed(const struct hark_listener *l)
{
	int fd = hark_listener_fd(l);
	return fd >= FIRST_HANDED && fd < FIRST_HANDED + hark_listen_fds();
}

/* Room for one more. */
static bool reserve(struct sockets *s)
{
	struct socket_entry **grown = realloc(s->entry, (s->n + 1) * sizeof(struct socket_entry *));
	if (grown != NULL)
		s->entry = grown;
	return grown != NULL;
}

static int add(struct sockets *s, const char *key, struct hark_listener *l, bool managed)
{
	struct socket_entry *e = reserve(s) ? calloc(1, sizeof *e) : NULL;
	if (e == NULL)
		return -ENOMEM;
	e->key = strdup(key);
	if (e->key == NULL) {
		free(e);
		return -ENOMEM;
	}
	e->listener = l;
	e->managed = managed;
	e->wanted = true;
	s->entry[s->n++] = e;
	return 0;
}

/* The path as it is now, right after it was bound. */
static void note_path(struct socket_entry *e)
{
	struct stat st;
	if (unix_path(e->key) == NULL || lstat(unix_path(e->key), &st) < 0)
		return;
	e->dev = st.st_dev;
	e->ino = st.st_ino;
}

/* ---- what is in the way ---------------------------------------------------------------------- */

unsigned socket_port(int fd, int *type)
{
	struct sockaddr_storage at;
	const struct sockaddr_in *four = (const void *)&at;
	const struct sockaddr_in6 *six = (const void *)&at;
	socklen_t len = sizeof at, type_len = sizeof *type;
	if (getsockname(fd, (struct sockaddr *)&at, &len) < 0 ||
	    getsockopt(fd, SOL_SOCKET, SO_TYPE, type, &type_len) < 0)
		return 0;
	return at.ss_family == AF_INET ? ntohs(four->sin_port) : at.ss_family == AF_INET6 ? ntohs(six->sin6_port) : 0;
}

/* What an address asks for. */
struct claim {
	struct hark_address at;
	int type;
	unsigned port;
};

/* False: not of IP, or the kernel chooses the port. */
static bool claim_of(const char *address, struct claim *c)
{
	char *end;
	if (hark_address_parse(address, &c->at, NULL) < 0)
		return false;
	switch (c->at.scheme) {
	case HARK_TCP:
	case HARK_TCP4:
	case HARK_TCP6:
	case HARK_TLS: c->type = SOCK_STREAM; break;
	case HARK_UDP:
	case HARK_UDP4:
	case HARK_UDP6: c->type = SOCK_DGRAM; break;
	default: return false;
	}
	c->port = (unsigned)strtoul(c->at.port, &end, 10);
	if (*end != '\0') {
		const struct servent *e = getservbyname(c->at.port, c->type == SOCK_STREAM ? "tcp" : "udp");
		c->port = e != NULL ? ntohs((uint16_t)e->s_port) : 0;
	}
	return c->port != 0;
}

static bool claimed(int fd, const struct claim *c)
{
	int type;
	return socket_port(fd, &type) == c->port && type == c->type;
}

static void set_shared(int fd, bool on)
{
	(void)setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &(int){on}, sizeof(int));
}

/* Sockets of ours at that port that are on their way out, shared or not with what comes: SO_REUSEPORT is looked at when
 * a socket is bound, and again when it listens. Returns how many there are. */
static int share_port(const struct sockets *s, const struct claim *c, bool on)
{
	int n = upgrade_share_port(c->type, c->port, on);
	for (size_t i = 0; i < s->n; i++) {
		const struct socket_entry *e = s->entry[i];
		int fd = hark_listener_fd(e->listener);
		if (e->wanted || !claimed(fd, c))
			continue;
		set_shared(fd, on || (e->conf != NULL && e->conf->reuseport));
		n++;
	}
	for (const struct leaving_socket *l = s->leaving; l != NULL; l = l->next) {
		int fd = hark_listener_fd(l->entry->listener);
		if (!claimed(fd, c))
			continue;
		set_shared(fd, on);
		n++;
	}
	return n;
}

/* Another socket that we have, and mean to keep, is there. */
static void tell_holder(const struct sockets *s, const char *address, const struct claim *c, struct hark_why *why)
{
	for (size_t i = 0; i < s->n; i++) {
		const struct socket_entry *e = s->entry[i];
		if (!e->wanted || !claimed(hark_listener_fd(e->listener), c))
			continue;
		(void)snprintf(why->text, sizeof why->text, "listen %.120s: harkd itself listens there: %.120s",
		               address, e->key);
		return;
	}
}

static bool claims(const struct config_service *conf, const struct claim *c)
{
	struct claim own;
	for (size_t i = 0; i < conf->listen.n; i++)
		if (claim_of(conf->listen.word[i], &own) && own.type == c->type && own.port == c->port)
			return true;
	return false;
}

/* Workers that drain, of an older generation too, may have UDP sessions there: sockets beside the one that was closed,
 * which are in the way of the next one. */
static bool may_have_sessions(const struct supervisor *v, const struct claim *c)
{
	for (const struct service *s = v->services; c->type == SOCK_DGRAM && s != NULL; s = s->next) {
		if (s->foreign_look != HARK_FOREVER && claims(s->conf, c))
			return true;
		for (const struct worker *w = s->workers; w != NULL; w = w->next)
			if (claims(w->conf, c))
				return true;
	}
	return false;
}

/* An address that was given up just now and is wanted again (`hark stop`, `hark start`) is waited for. */
static int listen_patiently(const struct supervisor *v, const char *address, struct hark_listen_opts *o,
                            struct hark_listener **out)
{
	const struct sockets *s = &v->sockets;
	struct claim c = {.port = 0};
	bool reuseport = o->reuseport, shared = false;
	int r;
	for (;;) {
		o->why->text[0] = '\0';
		r = hark_listen(address, o, out);
		if (r == -EADDRINUSE && !shared && claim_of(address, &c) &&
		    (share_port(s, &c, true) > 0 || may_have_sessions(v, &c)))
			shared = o->reuseport = o->beside_connected = true;
		else if (r != -EADDRINUSE || s->dropped == 0 || hark_now() >= s->dropped + LINGER_NS)
			break;
		else
			(void)hark_sleep(LOOK_NS);
	}
	if (shared)
		(void)share_port(s, &c, false);
	if (r == 0 && shared && !reuseport)
		set_shared(hark_listener_fd(*out), false);
	o->reuseport = reuseport;
	o->beside_connected = false;
	if (r == -EADDRINUSE && c.port != 0)
		tell_holder(s, address, &c, o->why);
	return r;
}

/* ---- opening --------------------------------------------------------------------------------- */

/* One socket, at address or one that the older generation had. */
static int open_one(struct supervisor *v, const struct config_service *conf, const char *key, const char *address,
                    const struct inherited_socket *from, struct hark_why *why)
{
	struct sockets *s = &v->sockets;
	char owner[128] = "", handed[24];
	if (conf->socket_user != NULL || conf->socket_group != NULL)
		(void)snprintf(owner, sizeof owner, "%s%s%s", conf->socket_user != NULL ? conf->socket_user : "",
		               conf->socket_group != NULL ? ":" : "",
		               conf->socket_group != NULL ? conf->socket_group : "");
	struct hark_listen_opts opts = {
		.backlog = conf->backlog,
		.reuseport = conf->reuseport,
		.v6only = conf->v6only,
		.freebind = conf->freebind,
		.defer_accept_s = conf->defer_accept_s,
		.unix_mode = conf->socket_mode >= 0 ? (mode_t)conf->socket_mode : 0,
		.unix_owner = owner[0] != '\0' ? owner : NULL,
		.tls = strncmp(key, "tls:", 4) == 0, /* address may be a descriptor, or one address of a name */
		.why = why,
	};
	struct hark_listener *l;
	int flags = from->fd >= 0 ? fcntl(from->fd, F_GETFL) : -1;
	(void)snprintf(handed, sizeof handed, "fd:%d", from->fd);
	why->text[0] = '\0';
	int r = listen_patiently(v, from->fd >= 0 ? handed : address, &opts, &l);
	if (r == 0) {
		set_nonblock(l, conf, flags);
		r = add(s, key, l, from->managed || is_handed(l));
		if (r < 0)
			hark_listener_close(l);
	}
	if (r < 0) {
		if (why->text[0] == '\0')
			(void)snprintf(why->text, sizeof why->text, "listen %s: %s", address, hark_strerror(r));
		return r;
	}
	struct socket_entry *e = s->entry[s->n - 1];
	int type;
	if (from->fd < 0 && !e->managed && socket_port(hark_listener_fd(l), &type) != 0)
		upgrade_opened(key, hark_listener_fd(l));
	e->dev = from->dev;
	e->ino = from->ino;
	if (from->ino == 0)
		note_path(e);
	return 0;
}

static const struct inherited_socket none = {.fd = -1};

/* A name: a socket at each of its addresses that this machine has, at least one. */
static int open_name(struct supervisor *v, const struct config_service *conf, const char *key, const char *address,
                     struct hark_why *why)
{
	struct hark_endpoint at[LISTEN_NAMES_MAX];
	char one[HARK_ADDRESS_MAX];
	const struct hark_listen_opts opts = {.freebind = conf->freebind, .why = why};
	int n = hark_resolve(address, at, LISTEN_NAMES_MAX, HARK_FOREVER), opened = 0, r = n;
	int port = n > 0 ? listen_name_port(address, at, n, &opts) : 0;
	if (port < 0)
		return port;
	for (int i = 0; i < n; i++) {
		if (listen_name_format(&at[i], (unsigned)port, one, sizeof one) < 0)
			continue;
		r = open_one(v, conf, key, one, &none, why);
		opened += r == 0;
		if (r < 0 && !listen_is_elsewhere(r))
			return r;
	}
	if (n < 0)
		(void)snprintf(why->text, sizeof why->text, "listen %s: %s", address, hark_strerror(n));
	return opened > 0 ? 0 : r;
}

/* All that an address stands for, where nothing of it is open. */
static int open_all(struct supervisor *v, const struct config_service *conf, const char *key, const char *address,
                    struct hark_why *why)
{
	struct hark_address a;
	struct inherited_socket from;
	struct hark_why more = {""};
	int r = -ENOENT;
	while (upgrade_inherited(key, &from)) {
		r = open_one(v, conf, key, address, &from, why);
		if (r < 0)
			return r;
	}
	if (r == 0)
		return 0;
	if (hark_address_parse(address, &a, NULL) == 0 && listen_is_name(&a))
		return open_name(v, conf, key, address, why);
	r = open_one(v, conf, key, address, &none, why);
	/* A name may be that of several that were handed over. */
	while (r == 0 && a.scheme == HARK_FD && a.fd < 0 && open_one(v, conf, key, address, &none, &more) == 0)
		;
	return r;
}

/* Those that were about to leave; without memory they stay where they are. 0 or -ENOMEM. */
static int take_back(struct sockets *s, const char *key)
{
	struct socket_entry *e = NULL;
	do {
		if (!reserve(s))
			return -ENOMEM;
		e = leaving_take_back(s, key);
		if (e != NULL)
			s->entry[s->n++] = e;
	} while (e != NULL);
	return 0;
}

int sockets_open(struct supervisor *v, const struct config_service *conf, size_t i, struct hark_why *why)
{
	struct sockets *s = &v->sockets;
	char key[KEY_MAX];
	key_of(conf, i, key);
	int r = take_back(s, key);
	if (r < 0) {
		(void)snprintf(why->text, sizeof why->text, "listen %s: %s", conf->listen.word[i], hark_strerror(r));
		return r;
	}
	if (find(s, key, 0) == NULL) {
		r = open_all(v, conf, key, conf->listen.word[i], why);
		if (r != -EAFNOSUPPORT || conf->listen.n == 1)
			return r;
		log_event(LOG_LEVEL_WARNING, conf->name, "%s", why->text); /* the other family serves */
		return 0;
	}
	struct socket_entry *e;
	for (size_t nth = 0; (e = find(s, key, nth)) != NULL; nth++) {
		e->wanted = true;
		adjust(e, conf);
	}
	return 0;
}

/* ---- what a service manager handed over in vain ---------------------------------------------- */

static bool has_listener(const struct sockets *s, int fd)
{
	for (size_t i = 0; i < s->n; i++)
		if (hark_listener_fd(s->entry[i]->listener) == fd)
			return true;
	return false;
}

/* The nth of $LISTEN_FDNAMES; its length. */
static int handed_name(int n, const char **name)
{
	*name = getenv("LISTEN_FDNAMES");
	for (; *name != NULL && n > 0; n--)
		*name = strchr(*name, ':') != NULL ? strchr(*name, ':') + 1 : NULL;
	return *name != NULL ? (int)strcspn(*name, ":") : 0;
}

void sockets_tell_unclaimed(const struct sockets *s, int control_fd)
{
	int n = hark_listen_fds();
	for (int i = 0; i < n; i++) {
		struct hark_endpoint at = {.len = sizeof at.addr};
		socklen_t len = sizeof at.type;
		char address[HARK_ADDRESS_MAX] = "";
		const char *name;
		int fd = FIRST_HANDED + i, name_len = handed_name(i, &name);
		if (fd == control_fd || has_listener(s, fd))
			continue;
		if (getsockname(fd, (struct sockaddr *)&at.addr, &at.len) < 0 ||
		    getsockopt(fd, SOL_SOCKET, SO_TYPE, &at.type, &len) < 0 ||
		    hark_endpoint_format(&at, address, sizeof address) < 0)
			(void)snprintf(address, sizeof address, "no socket");
		log_event(LOG_LEVEL_WARNING, NULL, "descriptor %d, %.*s (%s) was handed over, and no listen has it", fd,
		          name_len > 0 ? name_len : 7, name_len > 0 ? name : "unnamed", address);
	}
}

/* ---- closing --------------------------------------------------------------------------------- */

void sockets_mark(struct sockets *s, const struct config *c)
{
	for (size_t i = 0; i < s->n; i++) {
		s->entry[i]->wanted = false;
		for (size_t k = 0; k < c->n_services && !s->entry[i]->wanted; k++)
			s->entry[i]->wanted = !c->services[k]->disabled && lists(c->services[k], s->entry[i]->key);
	}
}

void sockets_assign(struct sockets *s, struct service *to)
{
	struct socket_entry *e;
	for (size_t i = 0; i < to->conf->listen.n; i++)
		for (size_t nth = 0; (e = sockets_find(s, to->conf, i, nth)) != NULL; nth++) {
			struct epoch *before = e->epoch;
			e->service = to;
			e->epoch = epoch_hold(to->epoch);
			e->conf = to->conf;
			epoch_release(before);
		}
}

void socket_entry_close(struct sockets *s, struct socket_entry *e)
{
	struct stat st;
	s->dropped = hark_now();
	hark_listener_close(e->listener);
	/* What an older generation made is not the listener's to unlink, but ours all the same. */
	if (e->ino != 0 && !e->managed && lstat(unix_path(e->key), &st) == 0 && st.st_dev == e->dev &&
	    st.st_ino == e->ino)
		(void)unlink(unix_path(e->key));
	epoch_release(e->epoch);
	free(e->key);
	free(e);
}

static struct socket_entry *take_out(struct sockets *s, size_t i)
{
	struct socket_entry *e = s->entry[i];
	s->entry[i] = s->entry[--s->n];
	return e;
}

static bool is_wanted(const struct supervisor *v, const struct socket_entry *e)
{
	for (const struct service *s = v->services; s != NULL; s = s->next)
		if (s->state != SERVICE_GONE && s->state != SERVICE_STOPPED &&
		    (lists(s->conf, e->key) || (s->trial != NULL && lists(s->trial, e->key))))
			return true;
	return false;
}

void sockets_sweep(struct supervisor *v)
{
	struct sockets *s = &v->sockets;
	for (size_t i = s->n; i-- > 0;)
		if (!is_wanted(v, s->entry[i]))
			leaving_add(s, take_out(s, i));
}

void sockets_close(struct sockets *s, const struct config_service *conf, size_t i)
{
	char key[KEY_MAX];
	key_of(conf, i, key);
	for (size_t k = s->n; k-- > 0;) {
		struct socket_entry *e = s->entry[k];
		if (strcmp(e->key, key) != 0)
			continue;
		/* A worker may keep it while an answer is due. */
		if (!e->managed && hark_listener_type(e->listener) == SOCK_DGRAM)
			leaving_divert(hark_listener_fd(e->listener));
		socket_entry_close(s, take_out(s, k));
	}
}

void sockets_free(struct sockets *s, bool leave_paths)
{
	/* Until the process ends, which is soon: hark_listener_close() would remove the paths that it made. */
	__attribute__((used)) static struct sockets left;
	leaving_free(s);
	while (s->n > 0 && !leave_paths)
		socket_entry_close(s, take_out(s, s->n - 1));
	for (size_t i = 0; i < s->n; i++)
		(void)close(hark_listener_fd(s->entry[i]->listener));
	if (leave_paths)
		left = *s;
	else
		free(s->entry);
	*s = (struct sockets){0};
	(void)left;
}
