/* control.c — see control.h. Served within the supervisor's poll(2): nothing here waits for a client, but as the socket
 * closes for those who read. A request longer than a line may be, or a client that is silent for IDLE_NS: it is closed.
 * Who does not read an answer is asked nothing more; where there is no room for one more client, or for its answer, the
 * one that has been silent longest makes it. The socket's mode, 0600, decides who may ask. */
#include "control.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "connections.h"
#include "json.h"
#include "log.h"
#include "nearest.h"
#include "status.h"
#include "supervisor.h"

#define CLIENTS_MAX 16
#define REQUEST_MAX 512             /* bytes of a line */
#define ANSWER_MAX  (4 << 20)       /* bytes */
#define UNREAD_MAX  (8 << 20)       /* bytes of answers that all clients together may leave unread */
#define IDLE_NS     (60 * HARK_S)   /* since a client last asked, or read */
#define DEAF_NS     (100 * HARK_MS) /* where there was no descriptor for a client: it waits, and we do not spin */
#define LAST_NS     (1 * HARK_S)    /* for what is still to be sent as the socket closes, to all clients together */

/* What a client waits for before its next request is looked at. TURN: the end of a reload, to ask for something that
 * changes services as well. */
enum outcome { OUTCOME_NONE = 0, OUTCOME_TURN, OUTCOME_RELOAD, OUTCOME_UPGRADE };

struct client {
	int fd; /* -1: free */
	size_t len;
	char request[REQUEST_MAX];
	char *out;
	size_t out_len, out_sent;
	bool ended; /* it asks no more: closed when it has its answers */
	enum outcome awaits;
	int64_t active; /* when it last asked, read, or had its answer */
};

struct control {
	struct hark_listener *listener;
	int fd;
	char *key; /* "control unix:PATH" */
	dev_t dev;
	ino_t ino;
	int64_t again; /* when to look for clients; 0: now */
	bool paused;   /* the next generation takes them */
	struct client clients[CLIENTS_MAX];
};

#define KEY_HEAD "control "

int control_listener_fd(const struct control *c)
{
	return c != NULL ? c->fd : -1;
}

const char *control_key(const struct control *c)
{
	return c->key;
}

/* ---- answers --------------------------------------------------------------------------------- */

static void error_answer(struct json *to, const char *text)
{
	json_open(to, NULL, '{');
	json_put_bool(to, "ok", false);
	json_put_string(to, "error", text);
	json_close(to, '}');
}

static void ok_answer(struct json *to)
{
	json_open(to, NULL, '{');
	json_put_bool(to, "ok", true);
	json_close(to, '}');
}

/* ---- commands -------------------------------------------------------------------------------- */

static struct service *named(struct supervisor *v, const char *name, struct json *to)
{
	struct nearest near = {.word = name};
	char hint[COUNTERS_NAME_MAX + 32], text[REQUEST_MAX + 128];
	for (struct service *s = v->services; s != NULL; s = s->next) {
		if (s->state != SERVICE_GONE && strcmp(s->conf->name, name) == 0)
			return s;
		nearest_offer(&near, s->conf->name);
	}
	if (status_disabled(v, name) != NULL)
		(void)snprintf(text, sizeof text, "%s is disabled: its configuration says so", name);
	else
		(void)snprintf(text, sizeof text, "no such service: %s%s", name,
		               nearest_hint(&near, "", hint, sizeof hint));
	error_answer(to, text);
	return NULL;
}

static void do_status(struct supervisor *v, const char *name, struct json *to)
{
	int r = status_walk(v, name, &status_json, to);
	if (r == -ENOENT)
		(void)named(v, name, to);
}

/* What is changed now the new generation would not know of. */
static bool under_way(const struct supervisor *v, struct json *to)
{
	if (v->heir > 0)
		error_answer(to, "an upgrade is under way");
	return v->heir > 0;
}

static void put_lines(struct json *to, const char *key, char *const *lines, size_t n)
{
	json_open(to, key, '[');
	for (size_t i = 0; i < n; i++)
		json_put_string(to, NULL, lines[i]);
	json_close(to, ']');
}

static void mistakes_answer(struct json *to, struct reload_result *r)
{
	json_open(to, NULL, '{');
	json_put_bool(to, "ok", false);
	json_put_string(to, "error", r->text);
	if (r->mistakes != NULL)
		put_lines(to, "errors", r->mistakes->errors, r->mistakes->n_errors);
	else
		put_lines(to, "errors", r->errors, r->n_errors);
	json_close(to, '}');
	config_free(r->mistakes);
	reload_free_lines(r);
}

static void reload_answer(struct json *to, const struct reload_result *r)
{
	char text[100];
	if (r->text[0] != '\0') {
		error_answer(to, r->text);
		return;
	}
	json_open(to, NULL, '{');
	json_put_bool(to, "ok", r->failed == 0);
	if (r->failed > 0) {
		(void)snprintf(text, sizeof text, "reloaded, but %u %s not start with %s new settings", r->failed,
		               r->failed == 1 ? "service does" : "services do", r->failed == 1 ? "its" : "their");
		json_put_string(to, "error", text);
		put_lines(to, "errors", r->errors, r->n_errors);
	}
	reload_counts(to, r);
	if (r->n_warnings > 0)
		put_lines(to, "warnings", r->warnings, r->n_warnings);
	json_close(to, '}');
}

static enum outcome do_reload(struct supervisor *v, const char *how, struct json *to)
{
	struct reload_result r;
	if (how != NULL && strcmp(how, "dry-run") == 0) {
		if (reload_compare(v, to, &r) != 0)
			mistakes_answer(to, &r);
		return OUTCOME_NONE;
	}
	if (under_way(v, to))
		return OUTCOME_NONE;
	if (reload(v, how != NULL && strcmp(how, "force") == 0, &r) == 0)
		return OUTCOME_RELOAD;
	log_event(LOG_LEVEL_ERROR, NULL, "reload: nothing was changed: %s", r.text);
	mistakes_answer(to, &r);
	return OUTCOME_NONE;
}

static void do_stop(struct supervisor *v, const char *name, struct json *to)
{
	struct service *s = named(v, name, to);
	if (s == NULL || under_way(v, to))
		return;
	service_stop(v, s);
	ok_answer(to);
}

static void do_start(struct supervisor *v, const char *name, struct json *to)
{
	struct hark_why why;
	struct service *s = named(v, name, to);
	if (s == NULL || under_way(v, to))
		return;
	if (service_start(v, s, &why) < 0)
		error_answer(to, why.text);
	else
		ok_answer(to);
}

static void do_connections(struct supervisor *v, const char *name, struct json *to)
{
	const struct service *one = name != NULL ? named(v, name, to) : NULL;
	if (name == NULL || one != NULL)
		connections_list(v, one, to);
}

static void do_close(struct supervisor *v, const char *id, struct json *to)
{
	char text[REQUEST_MAX + 128];
	int r = connections_end(v, id);
	if (r == 0) {
		log_event(LOG_LEVEL_NOTICE, NULL, "connection %s is closed by command", id);
		ok_answer(to);
		return;
	}
	(void)snprintf(text, sizeof text, "%s: %s", id,
	               r == -EINVAL       ? "no connection's ID: hark connections tells them"
	               : r == -EOPNOTSUPP ? "a datagram's, or about to end: there is nothing to close"
	                                  : "there is no such connection (any more)");
	error_answer(to, text);
}

static enum outcome do_upgrade(struct supervisor *v, bool wait, struct json *to)
{
	struct hark_why why;
	if (supervisor_upgrade(v, &why) < 0)
		error_answer(to, why.text);
	else if (wait)
		return OUTCOME_UPGRADE;
	else
		ok_answer(to);
	return OUTCOME_NONE;
}

/* Answers; or returns what the answer waits for. */
static enum outcome obey(struct supervisor *v, char *line, struct json *to)
{
	enum outcome later = OUTCOME_NONE;
	char *rest = NULL;
	const char *command = strtok_r(line, " \t\r", &rest), *name = strtok_r(NULL, " \t\r", &rest);
	if (command == NULL)
		error_answer(to, "an empty request");
	else if (strcmp(command, "status") == 0)
		do_status(v, name, to);
	else if (strcmp(command, "connections") == 0)
		do_connections(v, name, to);
	else if (strcmp(command, "close") == 0 && name != NULL)
		do_close(v, name, to);
	else if (v->draining)
		error_answer(to, v->standby ? "an upgrade is under way" : "harkd is draining");
	else if (v->reloading &&
	         (strcmp(command, "reload") == 0 || strcmp(command, "stop") == 0 || strcmp(command, "start") == 0))
		later = OUTCOME_TURN;
	else if (strcmp(command, "reload") == 0)
		later = do_reload(v, name, to);
	else if (strcmp(command, "stop") == 0 && name != NULL)
		do_stop(v, name, to);
	else if (strcmp(command, "start") == 0 && name != NULL)
		do_start(v, name, to);
	else if (strcmp(command, "upgrade") == 0)
		later = do_upgrade(v, name != NULL && strcmp(name, "wait") == 0, to);
	else if (strcmp(command, "drain") == 0) {
		ok_answer(to);
		supervisor_drain(v);
	} else
		error_answer(to, "no such request (status [SERVICE], connections [SERVICE], close ID, "
		                 "reload [dry-run|force], stop SERVICE, start SERVICE, upgrade [wait], drain)");
	return later;
}

/* ---- clients --------------------------------------------------------------------------------- */

static void drop(struct client *c)
{
	(void)close(c->fd);
	free(c->out);
	*c = (struct client){.fd = -1};
}

static void send_out(struct client *c)
{
	while (c->out_sent < c->out_len) {
		ssize_t n = send(c->fd, c->out + c->out_sent, c->out_len - c->out_sent, MSG_DONTWAIT | MSG_NOSIGNAL);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0) {
			if (errno != EAGAIN)
				drop(c);
			return;
		}
		c->out_sent += (size_t)n;
		c->active = hark_now();
	}
	free(c->out);
	c->out = NULL;
	c->out_len = c->out_sent = 0;
}

/* What all clients have not read, and more of c's: those that have read nothing for longest are dropped for it. */
static void make_room(struct control *all, const struct client *c, size_t more)
{
	for (;;) {
		struct client *oldest = NULL;
		size_t unread = more;
		for (int i = 0; i < CLIENTS_MAX; i++) {
			struct client *k = &all->clients[i];
			unread += k->out_len;
			if (k != c && k->out != NULL && (oldest == NULL || k->active < oldest->active))
				oldest = k;
		}
		if (unread <= UNREAD_MAX || oldest == NULL)
			return;
		drop(oldest);
	}
}

/* Puts an answer, and the newline, behind what c has not read yet; c is dropped where that cannot be. */
static void queue(struct control *all, struct client *c, const struct text *answer)
{
	size_t len = c->out_len + answer->len + 1;
	make_room(all, c, answer->len + 1);
	char *grown = !answer->failed && len <= UNREAD_MAX ? realloc(c->out, len) : NULL;
	if (grown == NULL) {
		drop(c);
		return;
	}
	memcpy(grown + c->out_len, answer->buf, answer->len);
	grown[len - 1] = '\n';
	c->out = grown;
	c->out_len = len;
}

static void answer(struct supervisor *v, struct client *c, char *line)
{
	struct control *all = v->control;
	struct text text = {.grows = true};
	struct json j = {.to = &text};
	enum outcome later = obey(v, line, &j);
	if (!text.failed && text.len > ANSWER_MAX) {
		text_free(&text);
		j = (struct json){.to = &text};
		error_answer(&j, "the answer is longer than 4 MB: name a service");
	}
	if (v->control == all)
		c->awaits = later;
	if (v->control == all && later == OUTCOME_NONE)
		queue(all, c, &text);
	text_free(&text);
}

/* Answers the next whole line that has come. False: there is none. c may be dropped, and the control socket closed by
 * what was asked. */
static bool take_line(struct supervisor *v, struct client *c)
{
	const struct control *all = v->control;
	char line[REQUEST_MAX], *end = memchr(c->request, '\n', c->len);
	if (end == NULL) {
		if (c->len == sizeof c->request)
			drop(c); /* no request is so long */
		return false;
	}
	size_t n = (size_t)(end - c->request);
	memcpy(line, c->request, n);
	line[n] = '\0';
	answer(v, c, line);
	if (v->control != all || c->fd < 0)
		return false;
	if (c->awaits != OUTCOME_TURN) { /* else the line is looked at again */
		c->len -= n + 1;
		memmove(c->request, end + 1, c->len);
	}
	return true;
}

/* Sends what there is and answers what has come, one line after another: who does not read is not answered more. As
 * take_line(). */
static void serve(struct supervisor *v, struct client *c)
{
	const struct control *all = v->control;
	do {
		send_out(c);
		if (c->fd < 0 || c->out != NULL || c->awaits != OUTCOME_NONE)
			return;
	} while (take_line(v, c));
	if (v->control == all && c->fd >= 0 && c->ended)
		drop(c);
}

/* Answers those who await it, and looks at what else they have asked. */
static void tell_outcome(struct supervisor *v, enum outcome o, const struct text *text)
{
	struct control *c = v->control;
	for (int i = 0; c != NULL && i < CLIENTS_MAX; i++) {
		struct client *k = &c->clients[i];
		if (k->fd < 0 || (k->awaits != o && !(o == OUTCOME_RELOAD && k->awaits == OUTCOME_TURN)))
			continue;
		bool answered = k->awaits == o;
		k->awaits = OUTCOME_NONE;
		k->active = hark_now();
		if (answered)
			queue(c, k, text);
		k->ended = k->ended || c->paused;
		if (k->fd >= 0)
			serve(v, k);
		if (v->control != c)
			return;
	}
}

void control_reloaded(struct supervisor *v, const struct reload_result *r)
{
	struct text text = {.grows = true};
	struct json j = {.to = &text};
	reload_answer(&j, r);
	tell_outcome(v, OUTCOME_RELOAD, &text);
	text_free(&text);
}

void control_upgraded(struct supervisor *v, const char *error)
{
	struct text text = {.grows = true};
	struct json j = {.to = &text};
	if (error != NULL) {
		error_answer(&j, error);
	} else {
		json_open(&j, NULL, '{');
		json_put_bool(&j, "ok", true);
		json_put_int(&j, "generation", v->generation + 1);
		json_put_int(&j, "pid", v->heir);
		json_close(&j, '}');
	}
	tell_outcome(v, OUTCOME_UPGRADE, &text);
	text_free(&text);
}

void control_path(const struct control *c, dev_t *dev, ino_t *ino)
{
	*dev = c->dev;
	*ino = c->ino;
}

static bool listens_to(const struct client *c)
{
	return !c->ended && c->awaits == OUTCOME_NONE && c->out == NULL;
}

static void hear(struct supervisor *v, struct client *c)
{
	ssize_t n = recv(c->fd, c->request + c->len, sizeof c->request - c->len, MSG_DONTWAIT);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n < 0) {
		drop(c);
		return;
	}
	c->ended = n == 0;
	c->len += (size_t)n;
	c->active = hark_now();
	serve(v, c);
}

/* Whoever has asked by now has an answer; who asks later dials the next generation. */
void control_pause(struct supervisor *v, bool pause)
{
	struct control *c = v->control;
	for (int i = 0; c != NULL && pause && i < CLIENTS_MAX; i++) {
		struct client *k = &c->clients[i];
		if (k->fd < 0 || k->awaits != OUTCOME_NONE)
			continue;
		if (listens_to(k))
			hear(v, k);
		if (k->fd < 0)
			continue;
		k->ended = true; /* dropped when it has its answers */
		serve(v, k);
	}
	if (c != NULL)
		c->paused = pause;
}

/* Its answer is on its way: however long that takes, it is not silent. */
static bool is_silent(const struct client *c)
{
	return c->fd >= 0 && c->awaits == OUTCOME_NONE;
}

/* A free place, or that of the one that has been silent longest. NULL: all await answers. */
static struct client *place_for_one(struct control *c)
{
	struct client *oldest = NULL;
	for (int i = 0; i < CLIENTS_MAX; i++) {
		struct client *k = &c->clients[i];
		if (k->fd < 0)
			return k;
		if (is_silent(k) && (oldest == NULL || k->active < oldest->active))
			oldest = k;
	}
	return oldest;
}

static void turn_away(int fd)
{
	char buf[100];
	struct text text = {.buf = buf, .cap = sizeof buf};
	struct json j = {.to = &text};
	error_answer(&j, "too many others await an answer");
	text_add(&text, "\n");
	(void)send(fd, text.buf, text.len, MSG_DONTWAIT | MSG_NOSIGNAL);
	(void)close(fd);
}

static void welcome(struct control *c)
{
	int fd = accept4(c->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (fd < 0) {
		if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM)
			c->again = hark_after(DEAF_NS);
		return;
	}
	struct client *k = place_for_one(c);
	if (k == NULL) {
		turn_away(fd);
		return;
	}
	if (k->fd >= 0)
		drop(k);
	k->fd = fd;
	k->active = hark_now();
}

int64_t control_due(const struct control *c)
{
	int64_t at = c != NULL && c->again != 0 ? c->again : HARK_FOREVER;
	for (int i = 0; c != NULL && i < CLIENTS_MAX; i++)
		if (is_silent(&c->clients[i]) && c->clients[i].active + IDLE_NS < at)
			at = c->clients[i].active + IDLE_NS;
	return at;
}

static void drop_idle(struct control *c)
{
	int64_t now = hark_now();
	for (int i = 0; i < CLIENTS_MAX; i++)
		if (is_silent(&c->clients[i]) && now >= c->clients[i].active + IDLE_NS)
			drop(&c->clients[i]);
}

int control_poll(struct control *c, struct pollfd *p, int room)
{
	int n = 0;
	if (c == NULL)
		return 0;
	if (c->again != 0 && hark_now() >= c->again)
		c->again = 0;
	drop_idle(c);
	if (c->again == 0 && !c->paused && room > 0)
		p[n++] = (struct pollfd){.fd = c->fd, .events = POLLIN};
	for (int i = 0; i < CLIENTS_MAX && n < room; i++)
		if (c->clients[i].fd >= 0)
			p[n++] = (struct pollfd){.fd = c->clients[i].fd,
			                         .events = (short)((listens_to(&c->clients[i]) ? POLLIN : 0) |
			                                           (c->clients[i].out != NULL ? POLLOUT : 0))};
	return n;
}

void control_run(struct supervisor *v, const struct pollfd *p, int n)
{
	for (int i = 0; i < n && v->control != NULL; i++) {
		struct control *c = v->control;
		if (p[i].revents == 0)
			continue;
		if (p[i].fd == c->fd)
			welcome(c);
		for (int j = 0; j < CLIENTS_MAX; j++) {
			struct client *k = &c->clients[j];
			if (k->fd != p[i].fd)
				continue;
			if (k->out != NULL)
				serve(v, k);
			if (v->control != c)
				return;
			if (k->fd >= 0 && listens_to(k) && (p[i].revents & (POLLIN | POLLHUP | POLLERR)))
				hear(v, k);
			else if (k->fd >= 0 && (p[i].revents & (POLLHUP | POLLERR)))
				drop(k);
			if (v->control != c)
				return; /* drained or handed over by what was asked */
		}
	}
}

int control_open(struct supervisor *v, const char *path, struct hark_why *why)
{
	char handed[24];
	struct stat st;
	struct control *c = calloc(1, sizeof *c);
	struct inherited_socket from = {.fd = -1};
	int r = c == NULL || asprintf(&c->key, KEY_HEAD "unix:%s", path) < 0 ? -ENOMEM : 0;
	(void)snprintf(why->text, sizeof why->text, "control %.200s: %s", path, hark_strerror(r));
	if (r == 0) {
		(void)upgrade_inherited(c->key, &from);
		(void)snprintf(handed, sizeof handed, "fd:%d", from.fd);
		r = hark_listen(from.fd >= 0 ? handed : c->key + strlen(KEY_HEAD),
		                &(struct hark_listen_opts){.unix_mode = 0600, .why = why}, &c->listener);
	}
	if (r < 0) {
		if (c != NULL)
			free(c->key);
		free(c);
		return r;
	}
	c->fd = hark_listener_fd(c->listener);
	c->dev = from.dev;
	c->ino = from.ino;
	if (from.fd < 0 && lstat(path, &st) == 0) {
		c->dev = st.st_dev;
		c->ino = st.st_ino;
	}
	for (int i = 0; i < CLIENTS_MAX; i++)
		c->clients[i].fd = -1;
	v->control = c;
	return 0;
}

/* Who reads by then has its answer whole. */
static void send_last(struct control *c, int64_t deadline)
{
	for (;;) {
		struct pollfd p[CLIENTS_MAX];
		nfds_t n = 0;
		for (int i = 0; i < CLIENTS_MAX; i++) {
			struct client *k = &c->clients[i];
			if (k->fd >= 0)
				send_out(k);
			if (k->fd >= 0 && k->out != NULL)
				p[n++] = (struct pollfd){.fd = k->fd, .events = POLLOUT};
		}
		int64_t left = deadline - hark_now();
		if (n == 0 || left <= 0)
			return;
		(void)poll(p, n, (int)((left + HARK_MS - 1) / HARK_MS));
	}
}

void control_close(struct supervisor *v)
{
	struct control *c = v->control;
	struct stat st;
	if (c == NULL)
		return;
	send_last(c, hark_after(LAST_NS));
	for (int i = 0; i < CLIENTS_MAX; i++)
		if (c->clients[i].fd >= 0)
			drop(&c->clients[i]);
	if (v->handed_over) {
		__attribute__((used)) static struct hark_listener *left;
		(void)close(c->fd); /* the path is the next generation's, and hark_listener_close() would remove it */
		left = c->listener;
		(void)left;
	} else {
		hark_listener_close(c->listener);
		const char *path = unix_path(c->key + strlen(KEY_HEAD));
		if (path != NULL && c->ino != 0 && lstat(path, &st) == 0 && st.st_dev == c->dev && st.st_ino == c->ino)
			(void)unlink(path);
	}
	free(c->key);
	free(c);
	v->control = NULL;
}
