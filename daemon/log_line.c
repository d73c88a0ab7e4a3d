/* log_line.c — see log_line.h. Any process, any thread; no state. */
#include "log_line.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define VALUE_MAX    440          /* bytes of one value in a line: a unix path of hostile bytes, each as \xNN */
#define MESSAGE_LONG 3000         /* bytes of an event's words, after escaping */
#define SD_ID        "hark@32473" /* the enterprise number that RFC 5612 sets aside: hark has none of its own */

/* ---- values ---------------------------------------------------------------------------------- */

/* How foreign bytes are made harmless: WORD has no blank, so that a line can be taken apart at them; PHRASE has; PARAM
 * is a value of RFC 5424 section 6.3.3. */
enum style { WORD, PHRASE, PARAM };

/* One byte's form. Returns its length, at most 5. */
static size_t escape(char form[8], unsigned char c, enum style style)
{
	bool plain = c > ' ' && c < 0x7f && !(c == '\\' && style == WORD);

	if (style == PARAM && strchr("\"\\]", c) != NULL && c != '\0')
		return (size_t)snprintf(form, 8, "\\%c", c);
	if (plain || (c == ' ' && style != WORD)) {
		form[0] = (char)c;
		return 1;
	}
	return (size_t)snprintf(form, 8, style == PARAM ? "\\\\x%02x" : "\\x%02x", c);
}

/* At most max bytes of it, "..." in place of the rest. Empty or NULL: "-", where it is a word. */
static void add_value(struct text *t, const char *s, enum style style, size_t max)
{
	size_t room = t->cap - 1 - t->len, end = t->len + (max < room ? max : room);
	char form[8];

	if (s == NULL || s[0] == '\0')
		s = style == WORD ? "-" : "";
	for (; *s != '\0'; s++) {
		size_t n = escape(form, (unsigned char)*s, style);
		/* The dots must fit after every byte but the last one. */
		if (t->len + n + (s[1] != '\0' ? 3 : 0) > end) {
			text_add(t, "%.*s", (int)(end - t->len), "...");
			return;
		}
		memcpy(t->buf + t->len, form, n);
		t->len += n;
	}
	t->buf[t->len] = '\0';
}

static void add_count(struct text *t, int64_t n, const char *unknown)
{
	if (n < 0)
		text_add(t, "%s", unknown);
	else
		text_add(t, "%" PRId64, n);
}

/* ---- words ----------------------------------------------------------------------------------- */

/* How it ended: the one field that is a phrase. */
static void add_outcome(struct text *t, const struct log_connection *c)
{
	if (c->refused == NULL) {
		log_add_outcome(t, c);
		return;
	}
	text_add(t, "refused: ");
	add_value(t, c->refused, PHRASE, VALUE_MAX);
	if (c->why_refused == NULL || c->why_refused[0] == '\0')
		return;
	text_add(t, " (");
	add_value(t, c->why_refused, PHRASE, VALUE_MAX);
	text_add(t, ")");
}

/* hark-log(5) promises the places of the fields. */
static void add_connection(struct text *t, const struct log_connection *c)
{
	add_value(t, c->service, WORD, VALUE_MAX);
	text_add(t, " ");
	add_value(t, c->peer, WORD, VALUE_MAX);
	if (c->user != NULL)
		text_add(t, "[uid=%u,pid=%d]", (unsigned)c->user->uid, (int)c->user->pid);
	if (c->subject != NULL) {
		text_add(t, "[");
		add_value(t, c->subject, WORD, VALUE_MAX);
		text_add(t, "]");
	}
	text_add(t, " -> ");
	add_value(t, c->local, WORD, VALUE_MAX);
	text_add(t, " ");
	add_value(t, c->box, WORD, VALUE_MAX);
	text_add(t, " pid %d %.3f ms in ", (int)c->pid, (double)c->duration_ns / 1e6);
	add_count(t, c->bytes_in, "-");
	text_add(t, " out ");
	add_count(t, c->bytes_out, "-");
	if (c->target != NULL) {
		text_add(t, " to ");
		add_value(t, c->target, WORD, VALUE_MAX);
	}
	text_add(t, " ");
	add_outcome(t, c);
}

static void add_event(struct text *t, const struct log_line *e)
{
	if (e->service != NULL) {
		add_value(t, e->service, WORD, VALUE_MAX);
		text_add(t, ": ");
	}
	add_value(t, e->message, PHRASE, MESSAGE_LONG);
}

/* ---- fields ---------------------------------------------------------------------------------- */

/* What is known of a connection; of an event the service alone. Returns how many. */
static int fields_of(const struct log_line *e, struct log_field f[LOG_FIELDS_MAX])
{
	if (e->message == NULL)
		return log_connection_fields(e->conn, f);
	f[0] = (struct log_field){"service", LOG_STRING, .s = e->service};
	return 1;
}

static void add_number(struct text *t, const struct log_field *f)
{
	if (f->kind == LOG_SECONDS)
		text_add(t, "%.6f", (double)f->n / 1e9);
	else
		text_add(t, "%" PRId64, f->n);
}

static const char *level_name(enum log_level level)
{
	switch (level) {
	case LOG_LEVEL_ERROR: return "error";
	case LOG_LEVEL_WARNING: return "warning";
	case LOG_LEVEL_NOTICE: return "notice";
	case LOG_LEVEL_INFO: break;
	}
	return "info";
}

static void add_object(struct text *t, const struct log_line *e)
{
	struct log_field f[LOG_FIELDS_MAX];
	struct json j = {.to = t};
	int n = fields_of(e, f);

	if (e->message != NULL)
		log_json_begin(&j, log_realtime_ns(), level_name(e->level), "message");
	else
		log_json_begin(&j, e->conn->opened_realtime_ns, level_name(e->level),
		               e->conn->refused != NULL ? "refused" : "close");
	log_json_fields(&j, f, n);
	if (e->message != NULL)
		json_put_string_max(&j, "message", e->message, MESSAGE_LONG);
	json_close(&j, '}');
}

/* Fields without a value are left out where the form does not call for them. */
static bool has_value(const struct log_field *f)
{
	return f->kind == LOG_STRING ? f->s != NULL && f->s[0] != '\0' : f->n >= 0;
}

static void add_structured_data(struct text *t, const struct log_line *e)
{
	struct log_field f[LOG_FIELDS_MAX];
	int n = fields_of(e, f);

	if (e->message != NULL && e->service == NULL) {
		text_add(t, "-");
		return;
	}
	text_add(t, "[" SD_ID);
	for (int i = 0; i < n; i++) {
		if (!has_value(&f[i]))
			continue;
		text_add(t, " %s=\"", f[i].name);
		if (f[i].kind == LOG_STRING)
			add_value(t, f[i].s, PARAM, VALUE_MAX);
		else
			add_number(t, &f[i]);
		text_add(t, "\"");
	}
	text_add(t, "]");
}

static void add_journal_fields(struct text *t, const struct log_line *e)
{
	struct log_field f[LOG_FIELDS_MAX];
	int n = fields_of(e, f);

	for (int i = 0; i < n; i++) {
		if (!has_value(&f[i]))
			continue;
		text_add(t, "HARK_");
		for (const char *c = f[i].name; *c != '\0'; c++)
			text_add(t, "%c", *c == '_' ? '_' : *c - 'a' + 'A');
		text_add(t, "=");
		if (f[i].kind == LOG_STRING)
			add_value(t, f[i].s, PHRASE, VALUE_MAX);
		else
			add_number(t, &f[i]);
		text_add(t, "\n");
	}
}

/* ---- lines ----------------------------------------------------------------------------------- */

/* The text of a message whose time and sender travel beside it. */
static void add_message(struct text *t, const struct log_form *f, const struct log_line *e)
{
	if (f->format == CONFIG_LOG_JSON)
		add_object(t, e);
	else if (e->message != NULL)
		add_event(t, e);
	else
		add_connection(t, e->conn);
}

static void render_stream(struct text *t, const struct log_form *f, const struct log_line *e, bool timed)
{
	if (f->format == CONFIG_LOG_TEXT && (timed || e->message == NULL)) {
		log_add_time(t, e->message != NULL ? log_realtime_ns() : e->conn->opened_realtime_ns, 3);
		text_add(t, " ");
	}
	if (f->format == CONFIG_LOG_TEXT && e->message != NULL)
		text_add(t, "harkd: ");
	add_message(t, f, e);
	if (t->len + 1 >= t->cap)
		t->len = t->cap - 2;
	text_add(t, "\n");
}

void log_line_stderr(struct text *t, const struct log_form *f, const struct log_line *e)
{
	render_stream(t, f, e, false);
}

void log_line_file(struct text *t, const struct log_form *f, const struct log_line *e)
{
	render_stream(t, f, e, true);
}

/* RFC 5424 section 6. Not preceded by a byte order mark, so to its letter the message is MSG-ANY. */
void log_line_syslog(struct text *t, const struct log_form *f, const struct log_line *e)
{
	char host[256] = "";

	(void)gethostname(host, sizeof host - 1);
	text_add(t, "<%d>1 ", f->facility * 8 + (int)e->level);
	log_add_time(t, log_realtime_ns(), 6);
	text_add(t, " ");
	add_value(t, host, WORD, 255);
	text_add(t, " harkd %d %s ", (int)getpid(), e->message != NULL ? "event" : "connection");
	add_structured_data(t, e);
	text_add(t, " ");
	add_message(t, f, e);
}

/* The journal's native protocol: a field a line. No value has a newline: they are all printable, or JSON. */
void log_line_journal(struct text *t, const struct log_form *f, const struct log_line *e)
{
	text_add(t, "PRIORITY=%d\nSYSLOG_IDENTIFIER=harkd\nSYSLOG_FACILITY=%d\n", (int)e->level, f->facility);
	add_journal_fields(t, e);
	text_add(t, "MESSAGE=");
	add_message(t, f, e);
	if (t->len + 1 >= t->cap)
		t->len = t->cap - 2;
	text_add(t, "\n");
}
