/* sockets.c — listening sockets by address. A socket is opened once and kept as long as a configuration wants its
 * address: a reload closes none that it keeps, so nothing that waits in a backlog is lost, and a failed reload closes
 * only what it opened.
 *
 * hark_listen() itself adopts what a service manager handed over (LISTEN_FDS). The supervisor's thread. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

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

static struct socket_entry *find(const struct sockets *s, const char *key)
{
	for (size_t i = 0; i < s->n; i++)
		if (strcmp(s->entry[i]->key, key) == 0)
			return s->entry[i];
	return NULL;
}

struct socket_entry *sockets_find(const struct sockets *s, const struct config_service *conf, size_t i)
{
	char key[KEY_MAX];
	return find(s, key_of(conf, i, key));
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

static int add(struct sockets *s, const char *key, struct hark_listener *l, bool managed)
{
	struct socket_entry **grown = realloc(s->entry, (s->n + 1) * sizeof(struct socket_entry *));
	if (grown == NULL)
		return -ENOMEM;
	s->entry = grown;
	struct socket_entry *e = calloc(1, sizeof *e);
	if (e == NULL)
		return -ENOMEM;
	e->key = strdup(key);
	if (e->key == NULL) {
		free(e);
		return -ENOMEM;
	}
	e->listener = l;
	e->managed = managed;
	struct stat st;
	if (unix_path(key) != NULL && lstat(unix_path(key), &st) == 0) {
		e->dev = st.st_dev;
		e->ino = st.st_ino;
	}
	e->wanted = e->fresh = true;
	s->entry[s->n++] = e;
	return 0;
}

/* An address that was given up just now and is wanted again: `hark stop`, `hark start`. */
static int listen_patiently(const struct sockets *s, const char *address, const struct hark_listen_opts *o,
                            struct hark_listener **out)
{
	for (;;) {
		o->why->text[0] = '\0';
		int r = hark_listen(address, o, out);
		if (r != -EADDRINUSE || s->dropped == 0 || hark_now() >= s->dropped + LINGER_NS)
			return r;
		(void)hark_sleep(LOOK_NS);
	}
}

int sockets_open(struct sockets *s, const struct config_service *conf, size_t i, struct hark_why *why)
{
	const char *address = conf->listen.word[i];
	char key[KEY_MAX];
	struct socket_entry *have = find(s, key_of(conf, i, key));
	char owner[128] = "";
	if (have != NULL) {
		have->wanted = true;
		adjust(have, conf);
		return 0;
	}
	if (conf->socket_user != NULL || conf->socket_group != NULL)
		(void)snprintf(owner, sizeof owner, "%s%s%s", conf->socket_user != NULL ? conf->socket_user : "",
		               conf->socket_group != NULL ? ":" : "",
		               conf->socket_group != NULL ? conf->socket_group : "");
	const struct hark_listen_opts opts = {
		.backlog = conf->backlog,
		.reuseport = conf->reuseport,
		.v6only = conf->v6only,
		.defer_accept_s = conf->defer_accept_s,
		.unix_mode = conf->socket_mode >= 0 ? (mode_t)conf->socket_mode : 0,
		.unix_owner = owner[0] != '\0' ? owner : NULL,
		.why = why,
	};
	struct hark_listener *l;
	char handed[24];
	bool managed = false;
	int fd = upgrade_inherited(key, &managed), flags = fd >= 0 ? fcntl(fd, F_GETFL) : -1;
	(void)snprintf(handed, sizeof handed, "fd:%d", fd);
	int r = listen_patiently(s, fd >= 0 ? handed : address, &opts, &l);
	if (r < 0) {
		if (why->text[0] == '\0')
			(void)snprintf(why->text, sizeof why->text, "listen %s: %s", address, hark_strerror(r));
		return r;
	}
	set_nonblock(l, conf, flags);
	r = add(s, key, l, managed || is_handed(l));
	if (r == 0) {
		s->entry[s->n - 1]->inherited = fd >= 0;
	} else {
		hark_listener_close(l);
		(void)snprintf(why->text, sizeof why->text, "listen %s: %s", address, hark_strerror(r));
	}
	return r;
}

void sockets_mark(struct sockets *s)
{
	for (size_t i = 0; i < s->n; i++)
		s->entry[i]->wanted = s->entry[i]->fresh = false;
}

static void drop(struct sockets *s, size_t i)
{
	struct socket_entry *e = s->entry[i];
	struct stat st;
	s->dropped = hark_now();
	hark_listener_close(e->listener);
	/* What an older generation made is not the listener's to unlink, but ours all the same. */
	if (e->ino != 0 && !e->managed && lstat(unix_path(e->key), &st) == 0 && st.st_dev == e->dev &&
	    st.st_ino == e->ino)
		(void)unlink(unix_path(e->key));
	free(e->key);
	free(e);
	s->entry[i] = s->entry[--s->n];
}

void sockets_sweep(struct sockets *s)
{
	for (size_t i = s->n; i-- > 0;)
		if (!s->entry[i]->wanted)
			drop(s, i);
}

void sockets_give_up(struct sockets *s, const struct config_service *conf)
{
	char key[KEY_MAX];

	for (size_t i = 0; i < conf->listen.n; i++) {
		struct socket_entry *e = find(s, key_of(conf, i, key));
		if (e != NULL)
			e->wanted = false;
	}
}

void sockets_undo(struct sockets *s)
{
	for (size_t i = s->n; i-- > 0;) {
		if (!s->entry[i]->fresh)
			continue;
		if (s->entry[i]->inherited)
			s->entry[i]->ino = 0; /* the path stays */
		drop(s, i);
	}
}

void sockets_close(struct sockets *s, const struct config_service *conf, size_t i)
{
	const struct socket_entry *e = sockets_find(s, conf, i);
	for (size_t k = s->n; k-- > 0;)
		if (s->entry[k] == e)
			drop(s, k);
}

void sockets_free(struct sockets *s, bool leave_paths)
{
	/* Until the process ends, which is soon: hark_listener_close() would remove the paths that it made. */
	__attribute__((used)) static struct sockets left;
	while (s->n > 0 && !leave_paths)
		drop(s, s->n - 1);
	for (size_t i = 0; i < s->n; i++)
		(void)close(hark_listener_fd(s->entry[i]->listener));
	if (leave_paths)
		left = *s;
	else
		free(s->entry);
	*s = (struct sockets){0};
	(void)left;
}
