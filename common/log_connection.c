/* log_connection.c — see log_connection.h. */
#include "log_connection.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define VALUE_MAX 440 /* bytes of one value in a line: a unix path of hostile bytes, each as \xNN */

int64_t log_realtime_ns(void)
{
	struct timespec now;

	(void)clock_gettime(CLOCK_REALTIME, &now);
	return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

void log_add_time(struct text *t, int64_t realtime_ns, int digits)
{
	time_t seconds = (time_t)(realtime_ns / 1000000000);
	int64_t part = realtime_ns % 1000000000;
	struct tm tm = {0};
	char stamp[32];

	for (int i = digits; i < 9; i++)
		part /= 10;
	(void)gmtime_r(&seconds, &tm);
	(void)strftime(stamp, sizeof stamp, "%Y-%m-%dT%H:%M:%S", &tm);
	text_add(t, "%s.%0*" PRId64 "Z", stamp, digits, part);
}

/* NULL: nothing went wrong. */
static const char *error_words(const struct log_connection *c)
{
	const char *words = c->refused != NULL ? c->why_refused : c->failure;
	if (words != NULL && words[0] != '\0')
		return words;
	return c->error != 0 ? hark_strerror(c->error) : NULL;
}

static int tls_fields(const struct log_connection *c, struct log_field *f)
{
	f[0] = (struct log_field){"tls", LOG_STRING, .s = c->tls->version};
	f[1] = (struct log_field){"tls_cipher", LOG_STRING, .s = c->tls->cipher};
	f[2] = (struct log_field){"tls_name", LOG_STRING, .s = c->tls->name[0] != '\0' ? c->tls->name : NULL};
	f[3] = (struct log_field){"tls_session", LOG_STRING, .s = c->tls->resumed ? "resumed" : "new"};
	f[4] = (struct log_field){"tls_subject", LOG_STRING, .s = c->subject};
	return 5;
}

int log_connection_fields(const struct log_connection *c, struct log_field f[LOG_FIELDS_MAX])
{
	int n = 0;

	f[n++] = (struct log_field){"service", LOG_STRING, .s = c->service};
	f[n++] = (struct log_field){"box", LOG_STRING, .s = c->box};
	f[n++] = (struct log_field){"peer", LOG_STRING, .s = c->peer};
	f[n++] = (struct log_field){"peer_uid", LOG_INTEGER, .n = c->user != NULL ? (int64_t)c->user->uid : -1};
	f[n++] = (struct log_field){"peer_pid", LOG_INTEGER, .n = c->user != NULL ? (int64_t)c->user->pid : -1};
	f[n++] = (struct log_field){"local", LOG_STRING, .s = c->local};
	f[n++] = (struct log_field){"target", LOG_STRING, .s = c->target};
	f[n++] = (struct log_field){"pid", LOG_INTEGER, .n = c->pid};
	f[n++] = (struct log_field){"seconds", LOG_SECONDS, .n = c->duration_ns};
	f[n++] = (struct log_field){"bytes_in", LOG_INTEGER, .n = c->bytes_in};
	f[n++] = (struct log_field){"bytes_out", LOG_INTEGER, .n = c->bytes_out};
	f[n++] = (struct log_field){"ended", LOG_STRING, .s = c->ended};
	f[n++] = (struct log_field){"refused", LOG_STRING, .s = c->refused};
	f[n++] = (struct log_field){"error", LOG_STRING, .s = error_words(c)};
	if (c->tls != NULL)
		n += tls_fields(c, f + n);
	if (c->refused != NULL) /* nothing ran that could have a status */
		return n;
	if (WIFSIGNALED(c->status))
		f[n++] = (struct log_field){"signal", LOG_INTEGER, .n = WTERMSIG(c->status)};
	else
		f[n++] = (struct log_field){"status", LOG_INTEGER, .n = WEXITSTATUS(c->status)};
	return n;
}

void log_json_begin(struct json *j, int64_t realtime_ns, const char *level, const char *event)
{
	char buf[48];
	struct text stamp = {.buf = buf, .cap = sizeof buf};

	log_add_time(&stamp, realtime_ns, 3);
	json_open(j, NULL, '{');
	json_put_string(j, "time", buf);
	json_put_string(j, "level", level);
	json_put_string(j, "event", event);
	json_put_int(j, "process", getpid());
}

void log_json_fields(struct json *j, const struct log_field *f, int n)
{
	for (int i = 0; i < n; i++)
		switch (f[i].kind) {
		case LOG_STRING: json_put_string_max(j, f[i].name, f[i].s, VALUE_MAX); break;
		case LOG_INTEGER: json_put_count(j, f[i].name, f[i].n); break;
		case LOG_SECONDS: json_put_real(j, f[i].name, (double)f[i].n / 1e9, 6); break;
		}
}

void log_add_status(struct text *t, int status)
{
	if (WIFSIGNALED(status)) {
		const char *name = sigdescr_np(WTERMSIG(status));
		text_add(t, "killed by signal %d (%s)", WTERMSIG(status), name != NULL ? name : "unknown");
	} else {
		text_add(t, "exit status %d", WEXITSTATUS(status));
	}
}

void log_add_outcome(struct text *t, const struct log_connection *c)
{
	const char *between = c->ended != NULL ? ", " : "";

	text_add(t, "%s", c->ended != NULL ? c->ended : "");
	if (error_words(c) != NULL) {
		text_add(t, "%s%s", between, error_words(c));
		between = ", ";
	}
	if (c->status != 0) {
		text_add(t, "%s", between);
		log_add_status(t, c->status);
	} else if (error_words(c) == NULL && c->ended == NULL) {
		text_add(t, "done");
	}
}

/* What cut it, if its time was over. */
static const char *what_ended(const struct hark_conn_stats *stats, int error)
{
	int64_t now = hark_now(), drain = hark_drain_deadline();

	if (now >= drain || (error == ECANCELED && drain != HARK_FOREVER))
		return "drain";
	return now >= stats->deadline_ns ? "lifetime" : NULL;
}

void log_connection_describe(struct log_connection *l, struct hark_conn *c, struct log_room *room)
{
	struct hark_conn_stats stats;

	room->peer[0] = room->local[0] = '\0';
	(void)hark_peer(c, room->peer, sizeof room->peer);
	(void)hark_local(c, room->local, sizeof room->local);
	hark_conn_stats(c, &stats);
	l->peer = room->peer;
	l->local = room->local;
	l->duration_ns = hark_now() - stats.opened_ns;
	l->opened_realtime_ns = log_realtime_ns() - l->duration_ns;
	l->ended = l->refused == NULL ? what_ended(&stats, l->error) : NULL;
	l->failure = l->refused == NULL ? hark_tls_failure(c) : NULL; /* also a cut that the box has not seen */
	l->tls = hark_tls_info(c, &room->tls) == 0 ? &room->tls : NULL;
	if (l->tls != NULL && hark_tls_peer(c, 0, &room->certificate) == 0)
		l->subject = room->certificate.subject;
	bool on_unix = strncmp(room->local, "unix", 4) == 0 || strncmp(room->peer, "unix", 4) == 0;
	if (on_unix && hark_type(c) == SOCK_STREAM && hark_peer_credentials(c, &room->user) == 0)
		l->user = &room->user;
}
