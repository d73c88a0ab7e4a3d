/* control.c — see control.h. Served within the supervisor's poll(2): nothing here waits for a client. A request longer
 * than a line may be, a client that does not read its answers, or one too many: it is closed. The socket's mode, 0600,
 * decides who may ask. */
#include "control.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "log.h"
#include "nearest.h"
#include "supervisor.h"
#include "text.h"

#define CLIENTS_MAX 16
#define REQUEST_MAX 512             /* bytes of a line */
#define UNREAD_MAX  (4 << 20)       /* bytes of answers that a client may leave unread */
#define DEAF_NS     (100 * HARK_MS) /* where there was no descriptor for a client: it waits, and we do not spin */

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

#define JSON_BYTE_MAX 6 /* \u00ff */

void control_json(FILE *to, const char *s)
{
	size_t n = s != NULL ? strlen(s) : 0, cap = n * JSON_BYTE_MAX + sizeof "\"null\"";
	struct text t = {.buf = malloc(cap), .cap = cap};
	if (t.buf != NULL)
		text_add_json(&t, s, n);
	(void)fputs(t.buf != NULL ? t.buf : "null", to);
	free(t.buf);
}

static void json_key(FILE *to, const char *key, const char *value)
{
	(void)fprintf(to, ",\"%s\":", key);
	control_json(to, value);
}

static void error_answer(FILE *to, const char *text)
{
	(void)fputs("{\"ok\":false,\"error\":", to);
	control_json(to, text);
	(void)fputs("}", to);
}

static void workers_json(FILE *to, const struct service *s)
{
	(void)fputs(",\"workers\":[", to);
	for (const struct worker *w = s->workers; w != NULL; w = w->next)
		(void)fprintf(to, "%s{\"pid\":%d,\"now\":%u,\"draining\":%s,\"uptime_s\":%.3f}",
		              w == s->workers ? "" : ",", (int)w->pid, worker_now(s, w),
		              w->kill_at != HARK_FOREVER || w->retired ? "true" : "false",
		              (double)(hark_now() - w->started) / 1e9);
	(void)fputs("]", to);
}

static void listen_json(FILE *to, const struct supervisor *v, const struct service *s)
{
	(void)fputs(",\"listen\":[", to);
	for (size_t i = 0; i < s->conf->listen.n; i++) {
		char bound[HARK_ADDRESS_MAX];
		const struct socket_entry *e = sockets_find(&v->sockets, s->conf, i, 0);
		(void)fputs(i > 0 ? "," : "", to);
		if (e == NULL)
			control_json(to, s->conf->listen.word[i]);
		for (size_t nth = 1; e != NULL; e = sockets_find(&v->sockets, s->conf, i, nth++)) {
			bool told = hark_listener_address(e->listener, bound, sizeof bound) > 0;
			(void)fputs(nth > 1 ? "," : "", to);
			control_json(to, told ? bound : s->conf->listen.word[i]);
		}
	}
	(void)fputs("]", to);
}

static void counters_json(FILE *to, const struct counters *c)
{
	const char *group = NULL;
	for (int i = 0; i < COUNTERS; i++) {
		const struct counter_row *row = &counter_rows[i];
		bool begins = row->group != NULL && (group == NULL || strcmp(row->group, group) != 0);
		if (group != NULL && (begins || row->group == NULL))
			(void)fputc('}', to);
		if (begins)
			(void)fprintf(to, ",\"%s\":{", row->group);
		group = row->group;
		(void)fprintf(to, "%s\"%s\":%llu", begins ? "" : ",", row->name,
		              (unsigned long long)counters_read(c, (enum counter)i));
	}
}

static void service_json(FILE *to, const struct supervisor *v, const struct service *s)
{
	(void)fputs("{\"name\":", to);
	control_json(to, s->conf->name);
	json_key(to, "state", service_state_name(s));
	listen_json(to, v, s);
	json_key(to, "box", s->conf->argv.word[0]);
	json_key(to, "model", hark_model_name(s->conf->model));
	workers_json(to, s);
	counters_json(to, s->counters);
	json_key(to, "error", s->error[0] != '\0' ? s->error : NULL);
	(void)fputs("}", to);
}

/* disable = yes: nothing was ever opened or counted for it. */
static void disabled_json(FILE *to, const struct supervisor *v, const struct config_service *conf)
{
	static struct counters none;
	const struct service s = {.conf = conf, .state = SERVICE_DISABLED, .counters = &none};
	service_json(to, v, &s);
}

static const struct config_service *disabled(const struct supervisor *v, const char *name)
{
	const struct config_service *conf = config_find(v->epoch->config, name);
	return conf != NULL && conf->disabled ? conf : NULL;
}

static void time_json(FILE *to)
{
	struct timespec now;
	struct tm tm;
	char stamp[32];
	(void)clock_gettime(CLOCK_REALTIME, &now);
	(void)strftime(stamp, sizeof stamp, "%Y-%m-%dT%H:%M:%S", gmtime_r(&now.tv_sec, &tm));
	(void)fprintf(to, ",\"time\":\"%s.%03ldZ\"", stamp, now.tv_nsec / 1000000);
}

/* ---- commands -------------------------------------------------------------------------------- */

static struct service *named(struct supervisor *v, const char *name, FILE *to)
{
	struct nearest near = {.word = name};
	char hint[COUNTERS_NAME_MAX + 32], text[REQUEST_MAX + 128];
	for (struct service *s = v->services; s != NULL; s = s->next) {
		if (s->state != SERVICE_GONE && strcmp(s->conf->name, name) == 0)
			return s;
		nearest_offer(&near, s->conf->name);
	}
	if (disabled(v, name) != NULL)
		(void)snprintf(text, sizeof text, "%s is disabled: its configuration says so", name);
	else
		(void)snprintf(text, sizeof text, "no such service: %s%s", name,
		               nearest_hint(&near, "", hint, sizeof hint));
	error_answer(to, text);
	return NULL;
}

static void do_status(struct supervisor *v, const char *name, FILE *to)
{
	struct service *one = NULL;
	const struct config_service *off = name != NULL ? disabled(v, name) : NULL;
	if (name != NULL && off == NULL && (one = named(v, name, to)) == NULL)
		return;
	(void)fputs("{\"ok\":true", to);
	json_key(to, "version", HARK_VERSION);
	(void)fprintf(to, ",\"pid\":%d,\"generation\":%d", (int)v->pid, v->generation);
	json_key(to, "config", v->config_file);
	(void)fprintf(to, ",\"uptime_s\":%.3f", (double)(hark_now() - v->began) / 1e9);
	time_json(to);
	(void)fprintf(to, ",\"draining\":%s,\"services\":[", v->draining ? "true" : "false");
	bool first = true;
	for (struct service *s = v->services; s != NULL; s = s->next) {
		if ((one != NULL && s != one) || off != NULL)
			continue;
		(void)fputs(first ? "" : ",", to);
		first = false;
		service_json(to, v, s);
	}
	for (size_t i = 0; i < v->epoch->config->n_services && one == NULL; i++) {
		const struct config_service *conf = v->epoch->config->services[i];
		if (!conf->disabled || (off != NULL && conf != off))
			continue;
		(void)fputs(first ? "" : ",", to);
		first = false;
		disabled_json(to, v, conf);
	}
	(void)fputs("]}", to);
}

/* What is changed now the new generation would not know of. */
static bool under_way(const struct supervisor *v, FILE *to)
{
	if (v->heir > 0)
		error_answer(to, "an upgrade is under way");
	return v->heir > 0;
}

static void errors_json(FILE *to, char *const *errors, size_t n)
{
	(void)fputs(",\"errors\":[", to);
	for (size_t i = 0; i < n; i++) {
		(void)fputs(i > 0 ? "," : "", to);
		control_json(to, errors[i]);
	}
	(void)fputs("]", to);
}

static void mistakes_answer(FILE *to, const struct reload_result *r)
{
	(void)fputs("{\"ok\":false,\"error\":", to);
	control_json(to, r->text);
	errors_json(to, r->mistakes != NULL ? r->mistakes->errors : NULL,
	            r->mistakes != NULL ? r->mistakes->n_errors : 0);
	(void)fputs("}", to);
	config_free(r->mistakes);
}

static void reload_answer(FILE *to, const struct reload_result *r)
{
	char text[100];
	(void)fprintf(to, "{\"ok\":%s", r->failed == 0 ? "true" : "false");
	if (r->failed > 0) {
		(void)snprintf(text, sizeof text, "reloaded, but %u %s not start with %s new settings", r->failed,
		               r->failed == 1 ? "service does" : "services do", r->failed == 1 ? "its" : "their");
		json_key(to, "error", text);
		errors_json(to, r->errors, r->errors != NULL ? r->failed : 0);
	}
	(void)fprintf(to, ",\"added\":%u,\"changed\":%u,\"removed\":%u,\"unchanged\":%u}", r->added, r->changed,
	              r->removed, r->unchanged);
}

static enum outcome do_reload(struct supervisor *v, const char *how, FILE *to)
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

static void do_stop(struct supervisor *v, const char *name, FILE *to)
{
	struct service *s = named(v, name, to);
	if (s == NULL || under_way(v, to))
		return;
	service_stop(v, s);
	(void)fputs("{\"ok\":true}", to);
}

static void do_start(struct supervisor *v, const char *name, FILE *to)
{
	struct hark_why why;
	struct service *s = named(v, name, to);
	if (s == NULL || under_way(v, to))
		return;
	if (service_start(v, s, &why) < 0)
		error_answer(to, why.text);
	else
		(void)fputs("{\"ok\":true}", to);
}

static enum outcome do_upgrade(struct supervisor *v, bool wait, FILE *to)
{
	struct hark_why why;
	if (supervisor_upgrade(v, &why) < 0)
		error_answer(to, why.text);
	else if (wait)
		return OUTCOME_UPGRADE;
	else
		(void)fputs("{\"ok\":true}", to);
	return OUTCOME_NONE;
}

/* Answers; or returns what the answer waits for. */
static enum outcome obey(struct supervisor *v, char *line, FILE *to)
{
	enum outcome later = OUTCOME_NONE;
	char *rest = NULL;
	const char *command = strtok_r(line, " \t\r", &rest), *name = strtok_r(NULL, " \t\r", &rest);
	if (command == NULL)
		error_answer(to, "an empty request");
	else if (strcmp(command, "status") == 0)
		do_status(v, name, to);
	else if (v->draining)
		error_answer(to, "harkd is draining");
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
		(void)fputs("{\"ok\":true}", to);
		supervisor_drain(v);
	} else
		error_answer(to,
		             "no such request (status [SERVICE], reload [dry-run|force], stop SERVICE, start SERVICE, "
		             "upgrade [wait], drain)");
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
	}
	free(c->out);
	c->out = NULL;
	c->out_len = c->out_sent = 0;
	if (c->ended && c->awaits == OUTCOME_NONE)
		drop(c);
}

/* Consumes text, to which the newline is added; NULL: there was no memory for it. */
static void queue(struct client *c, char *text, size_t len)
{
	char *grown = text != NULL && c->out_len + len + 1 <= UNREAD_MAX ? realloc(c->out, c->out_len + len + 1) : NULL;
	if (grown == NULL) {
		free(text);
		drop(c);
		return;
	}
	memcpy(grown + c->out_len, text, len);
	grown[c->out_len + len] = '\n';
	c->out = grown;
	c->out_len += len + 1;
	free(text);
}

static void answer(struct supervisor *v, struct client *c, char *line)
{
	char *text = NULL;
	size_t len = 0;
	FILE *f = open_memstream(&text, &len);
	if (f == NULL) {
		drop(c);
		return;
	}
	c->awaits = obey(v, line, f);
	if (fclose(f) != 0) {
		free(text);
		text = NULL;
	}
	if (c->awaits == OUTCOME_NONE)
		queue(c, text, len);
	else
		free(text);
}

/* Answers each whole line that has come. c may be dropped, and the control socket closed by what was asked. */
static void take_lines(struct supervisor *v, struct client *c)
{
	char *end;
	while (c->fd >= 0 && c->awaits == OUTCOME_NONE && (end = memchr(c->request, '\n', c->len)) != NULL) {
		char line[REQUEST_MAX];
		size_t n = (size_t)(end - c->request);
		memcpy(line, c->request, n);
		line[n] = '\0';
		answer(v, c, line);
		if (c->fd < 0 || c->awaits == OUTCOME_TURN)
			return; /* the line is looked at again */
		c->len -= n + 1;
		memmove(c->request, end + 1, c->len);
	}
	if (c->fd >= 0 && c->awaits == OUTCOME_NONE && c->len == sizeof c->request)
		drop(c); /* no request is so long */
}

/* Answers those who await it, and looks at what else they have asked. */
static void tell_outcome(struct supervisor *v, enum outcome o, const char *text, size_t len)
{
	struct control *c = v->control;
	for (int i = 0; c != NULL && i < CLIENTS_MAX; i++) {
		struct client *k = &c->clients[i];
		if (k->fd < 0 || (k->awaits != o && !(o == OUTCOME_RELOAD && k->awaits == OUTCOME_TURN)))
			continue;
		if (k->awaits == o)
			queue(k, text != NULL ? strndup(text, len) : NULL, len);
		k->awaits = OUTCOME_NONE;
		if (c->paused)
			k->ended = true;
		else if (k->fd >= 0)
			take_lines(v, k);
		if (v->control != c)
			return;
		if (k->fd >= 0)
			send_out(k);
	}
}

void control_reloaded(struct supervisor *v, const struct reload_result *r)
{
	char *text = NULL;
	size_t len = 0;
	FILE *f = open_memstream(&text, &len);
	if (f != NULL)
		reload_answer(f, r);
	bool whole = f != NULL && fclose(f) == 0;
	tell_outcome(v, OUTCOME_RELOAD, whole ? text : NULL, len);
	free(text);
}

void control_upgraded(struct supervisor *v, const char *error)
{
	char *text = NULL;
	size_t len = 0;
	FILE *f = open_memstream(&text, &len);
	if (f != NULL && error != NULL)
		error_answer(f, error);
	else if (f != NULL)
		(void)fprintf(f, "{\"ok\":true,\"generation\":%d,\"pid\":%d}", v->generation + 1, (int)v->heir);
	bool whole = f != NULL && fclose(f) == 0;
	tell_outcome(v, OUTCOME_UPGRADE, whole ? text : NULL, len);
	free(text);
}

void control_pause(struct control *c, bool pause)
{
	for (int i = 0; c != NULL && pause && i < CLIENTS_MAX; i++) {
		struct client *k = &c->clients[i];
		if (k->fd < 0 || k->awaits != OUTCOME_NONE)
			continue;
		k->ended = true; /* dropped when it has its answers */
		send_out(k);
	}
	if (c != NULL)
		c->paused = pause;
}

void control_path(const struct control *c, dev_t *dev, ino_t *ino)
{
	*dev = c->dev;
	*ino = c->ino;
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
	take_lines(v, c);
	if (c->fd >= 0)
		send_out(c);
}

static void welcome(struct control *c)
{
	int fd = accept4(c->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (fd < 0) {
		if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM)
			c->again = hark_after(DEAF_NS);
		return;
	}
	for (int i = 0; i < CLIENTS_MAX; i++)
		if (c->clients[i].fd < 0) {
			c->clients[i].fd = fd;
			return;
		}
	(void)close(fd);
}

int64_t control_due(const struct control *c)
{
	return c != NULL && c->again != 0 ? c->again : HARK_FOREVER;
}

static bool listens_to(const struct client *c)
{
	return !c->ended && c->awaits == OUTCOME_NONE;
}

int control_poll(struct control *c, struct pollfd *p, int room)
{
	int n = 0;
	if (c == NULL)
		return 0;
	if (c->again != 0 && hark_now() >= c->again)
		c->again = 0;
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
				send_out(k);
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

void control_close(struct supervisor *v)
{
	struct control *c = v->control;
	struct stat st;
	if (c == NULL)
		return;
	for (int i = 0; i < CLIENTS_MAX; i++)
		if (c->clients[i].fd >= 0) {
			send_out(&c->clients[i]);
			if (c->clients[i].fd >= 0)
				drop(&c->clients[i]);
		}
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
