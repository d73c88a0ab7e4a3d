/* control.c — see control.h. Main thread. */
#include "control.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "text.h"

#define ANSWER_MAX  (8 << 20) /* bytes: a thousand services take less than one million */
#define SERVICE_MAX 63        /* bytes of a service's name */
#define ERRORS_MAX  1000      /* of one refused reload that are shown */

/* ---- where and what -------------------------------------------------------------------------- */

static int find_places(struct control *c)
{
	const char *environment = getenv("HARKD_CONTROL"), *from = "--control ";
	const char *path = c->args->control;
	char address[HARK_ADDRESS_MAX];
	struct hark_address a;
	struct hark_why why = {""};

	if (path == NULL && environment != NULL && environment[0] != '\0') {
		path = environment;
		from = "$HARKD_CONTROL ";
	}
	if (path == NULL) {
		c->n_places = control_places(c->place);
		return STATUS_DONE;
	}
	int n = snprintf(address, sizeof address, "unix:%s", path);
	if (n >= (int)sizeof address || hark_address_parse(address, &a, &why) < 0) {
		say(c->verb, "%s%.60s: %s", from, path, why.text[0] != '\0' ? why.text : "the path is too long");
		return STATUS_USAGE;
	}
	(void)snprintf(c->place[0].path, sizeof c->place[0].path, "%s", path);
	c->place[0].own = true; /* whoever named it knows whose it is */
	c->n_places = 1;
	return STATUS_DONE;
}

/* The request is words and a newline: a name that is neither cannot be asked for. */
static bool is_service_name(const char *s)
{
	size_t n = strlen(s);

	return n > 0 && n <= SERVICE_MAX &&
	       strspn(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-") == n;
}

int control_init(struct control *c, const struct verb *v, const struct control_args *args, const char *service)
{
	*c = (struct control){.verb = v, .args = args};
	if (service != NULL && !is_service_name(service)) {
		say(v, "\"%.80s\" is no service's name: 1 to %d letters, digits, '.', '_' and '-'", service,
		    SERVICE_MAX);
		return STATUS_USAGE;
	}
	(void)snprintf(c->request, sizeof c->request, "%s%s%s\n", v->name, service != NULL ? " " : "",
	               service != NULL ? service : "");
	return find_places(c);
}

/* ---- what came ------------------------------------------------------------------------------- */

const char *control_clean(const char *s, char *buf, size_t cap)
{
	struct text t = {.buf = buf, .cap = cap};

	buf[0] = '\0';
	text_add_printable(&t, s, strnlen(s, cap), "");
	return buf;
}

const char *control_string(const json_t *object, const char *key, char *buf, size_t cap)
{
	const char *s = json_string_value(json_object_get(object, key));

	return control_clean(s != NULL ? s : "", buf, cap);
}

int64_t control_count(const json_t *object, const char *key)
{
	return json_integer_value(json_object_get(object, key));
}

double control_real(const json_t *object, const char *key)
{
	return json_number_value(json_object_get(object, key));
}

/* harkd's one-line summary may be the first of the errors: once is enough. */
static bool among(const char *error, const json_t *errors)
{
	const json_t *e;

	for (size_t i = 0; (e = json_array_get(errors, i)) != NULL; i++)
		if (json_is_string(e) && strcmp(json_string_value(e), error) == 0)
			return true;
	return false;
}

void control_tell_refusal(const struct verb *v, const struct control_answer *answer)
{
	char buf[900];
	const json_t *errors = json_object_get(answer->json, "errors");
	size_t n = json_array_size(errors);
	const char *error = json_string_value(json_object_get(answer->json, "error"));

	if (error == NULL || error[0] == '\0')
		error = n == 0 ? "harkd said no, and not why" : NULL;
	size_t name = strlen(v->name);
	if (error != NULL && strncmp(error, v->name, name) == 0 && strncmp(error + name, ": ", 2) == 0)
		error += name + 2; /* say() begins with it */
	if (error != NULL && !among(error, errors))
		say(v, "%s", control_clean(error, buf, sizeof buf));
	for (size_t i = 0; i < n && i < ERRORS_MAX; i++) {
		const char *s = json_string_value(json_array_get(errors, i));
		if (s != NULL && s[0] != '\0')
			say(v, "%s", control_clean(s, buf, sizeof buf));
	}
	if (n > ERRORS_MAX)
		say(v, "and %zu more", n - ERRORS_MAX);
}

void control_answer_free(struct control_answer *answer)
{
	free(answer->line);
	json_decref(answer->json);
	*answer = (struct control_answer){0};
}

/* ---- asking ---------------------------------------------------------------------------------- */

static int failed(const struct control *c, struct hark_why *why, int err, const char *what)
{
	(void)snprintf(why->text, sizeof why->text, "%s: %s", c->path, what);
	return err;
}

/* What an operator can do about it: most of these are a harkd that does not run, or another user's. */
static int dial_failed(const struct control *c, struct hark_why *why, int err)
{
	const char *advice = "";
	char nor[CONTROL_PLACES_MAX * sizeof c->place[0].path] = "";

	for (size_t i = 1; i < c->n_places; i++)
		(void)snprintf(nor + strlen(nor), sizeof nor - strlen(nor), "%s%s", i == 1 ? " (nor at " : ", ",
		               c->place[i].path);
	if (c->n_places > 1)
		(void)snprintf(nor + strlen(nor), sizeof nor - strlen(nor), ")");
	if (err == -ENOENT || err == -ECONNREFUSED)
		advice =
			": harkd does not run, or its socket is elsewhere: its log says where (name it by --control or "
			"$HARKD_CONTROL)";
	else if (err == -EACCES || err == -EPERM)
		advice = ": ask as the user that harkd runs as, or as root";
	else if (err == -ETIMEDOUT || err == -EAGAIN)
		advice = ": harkd is there and does not take connections";
	(void)snprintf(why->text, sizeof why->text, "%s: %s%s%s", c->path, hark_strerror(err), nor, advice);
	return err;
}

/* In /tmp anyone may make a socket of that name and be asked in harkd's place; and XDG_RUNTIME_DIR may be another
 * user's. */
static int check_owner(const struct control *c, const struct control_place *p, struct hark_conn *conn,
                       struct hark_why *why)
{
	struct hark_credentials peer;

	if (p->own || (hark_peer_credentials(conn, &peer) == 0 && (peer.uid == geteuid() || peer.uid == 0)))
		return 0;
	return failed(c, why, -EPERM, "another user's process listens there: not asked");
}

/* Reads to the newline into *line, malloc'd. */
static int read_line(const struct control *c, struct hark_conn *conn, char **line, struct hark_why *why)
{
	size_t len = 0, cap = 0;

	for (;;) {
		if (len + 1 >= cap) {
			char *grown = realloc(*line, cap = cap == 0 ? 16384 : 2 * cap);
			if (grown == NULL)
				return failed(c, why, -ENOMEM, "no memory for the answer");
			*line = grown;
		}
		ssize_t n = hark_read(conn, *line + len, cap - 1 - len);
		if (n == -ETIMEDOUT)
			return failed(c, why, -ETIMEDOUT, "harkd did not answer in time (--timeout)");
		if (n < 0)
			return failed(c, why, (int)n, hark_strerror((int)n));
		if (n == 0)
			return failed(c, why, -ENODATA,
			              len == 0 ? "the connection ended without an answer"
			                       : "the connection ended within the answer");
		char *newline = memchr(*line + len, '\n', (size_t)n);
		len += (size_t)n;
		if (newline != NULL) {
			*newline = '\0';
			/* A NUL before it would hide what follows from whoever prints the line. */
			return strlen(*line) == (size_t)(newline - *line)
			               ? 0
			               : failed(c, why, -EBADMSG, "not harkd's answer: a NUL byte");
		}
		if (len > ANSWER_MAX)
			return failed(c, why, -EMSGSIZE, "not harkd's answer: it does not end");
	}
}

static int parse(const struct control *c, struct control_answer *answer, struct hark_why *why)
{
	json_error_t error;
	char buf[sizeof error.text];

	answer->json = json_loads(answer->line, 0, &error);
	if (answer->json == NULL) {
		char words[sizeof error.text + 40];
		(void)snprintf(words, sizeof words, "not harkd's answer: %s",
		               control_clean(error.text, buf, sizeof buf));
		return failed(c, why, -EBADMSG, words);
	}
	const json_t *ok = json_object_get(answer->json, "ok");
	if (!json_is_boolean(ok))
		return failed(c, why, -EBADMSG, "not harkd's answer: no \"ok\" in it");
	answer->ok = json_is_true(ok);
	return 0;
}

static int converse(const struct control *c, struct hark_conn *conn, struct control_answer *answer,
                    struct hark_why *why)
{
	ssize_t n = hark_write(conn, c->request, strlen(c->request));

	if (n < 0)
		return failed(c, why, (int)n, hark_strerror((int)n));
	int err = read_line(c, conn, &answer->line, why);
	return err < 0 ? err : parse(c, answer, why);
}

/* Connects to the first place where somebody listens whom this user may ask. What is told of none is told of the first,
 * where harkd most likely is, but for a harkd that is there. */
static int dial(struct control *c, int64_t deadline, struct hark_conn **conn, struct hark_why *why)
{
	int first = 0;

	for (size_t i = 0; i < c->n_places; i++) {
		char address[sizeof c->place[0].path + 8];
		c->path = c->place[i].path;
		(void)snprintf(address, sizeof address, "unix:%s", c->path);
		int err = hark_dial(address, &(struct hark_dial_opts){.deadline = deadline}, conn);
		if (err == 0) {
			err = check_owner(c, &c->place[i], *conn, why);
			if (err < 0)
				hark_abort(*conn);
			return err;
		}
		if (err != -ENOENT && err != -ECONNREFUSED && err != -EACCES)
			return dial_failed(c, why, err);
		first = i == 0 ? err : first;
	}
	c->path = c->place[0].path;
	return dial_failed(c, why, first);
}

int control_ask(struct control *c, struct control_answer *answer, struct hark_why *why)
{
	int64_t deadline = hark_after(c->args->timeout);
	struct hark_conn *conn;

	*answer = (struct control_answer){0};
	int err = dial(c, deadline, &conn, why);
	if (err < 0)
		return err;
	hark_deadline(conn, deadline);
	err = converse(c, conn, answer, why);
	hark_abort(conn); /* all that matters has been read */
	if (err < 0)
		control_answer_free(answer);
	return err;
}

int control_run(struct control *c, void (*tell)(const struct control *c, const json_t *answer, const void *arg),
                const void *arg)
{
	struct control_answer answer;
	struct hark_why why = {""};

	if (control_ask(c, &answer, &why) < 0) {
		say(c->verb, "%s", why.text);
		return STATUS_SYSTEM;
	}
	int status = answer.ok ? STATUS_DONE : STATUS_FAILED;
	if (c->args->json)
		puts(answer.line);
	else if (answer.ok)
		tell(c, answer.json, arg);
	if (!answer.ok)
		control_tell_refusal(c->verb, &answer);
	control_answer_free(&answer);
	return status;
}
