/* serve_events.c — see serve_events.h.
 *
 * Lines come from the parent, its workers, a connection's own process or thread: each is built on the stack and
 * written by one write(2), so that they never mix and no lock is needed. A log that cannot be written does not stop
 * the service. */
#include "serve_events.h"

#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "text.h"

/* One "listening on ADDRESS" line each, in one write: who reads them may rely on seeing a line whole. */
static void print_addresses(const struct serve_events *s)
{
	for (const char *const *a = s->addresses; *a != NULL; a++) {
		char buf[HARK_ADDRESS_MAX + 16];
		struct text t = {.buf = buf, .cap = sizeof buf};
		text_add(&t, "listening on %s", *a);
		int err = text_write_line(&t, 1);
		if (err < 0)
			say(s->verb, "standard output: %s", hark_strerror(err));
	}
}

static void add_time(struct text *t)
{
	struct timespec now;
	struct tm tm;
	char stamp[32];

	(void)clock_gettime(CLOCK_REALTIME, &now);
	(void)gmtime_r(&now.tv_sec, &tm);
	(void)strftime(stamp, sizeof stamp, "%Y-%m-%dT%H:%M:%S", &tm);
	text_add(t, "%s.%03ldZ", stamp, now.tv_nsec / 1000000);
}

static void add_status(struct text *t, int status)
{
	if (WIFSIGNALED(status))
		text_add(t, "killed by signal %d (%s)", WTERMSIG(status), strsignal(WTERMSIG(status)));
	else
		text_add(t, "exit status %d", WEXITSTATUS(status));
}

/* "" where there is none, so that a line is still one. */
static void conn_addresses(struct hark_conn *c, char peer[HARK_ADDRESS_MAX], char local[HARK_ADDRESS_MAX])
{
	peer[0] = local[0] = '\0';
	(void)hark_peer(c, peer, HARK_ADDRESS_MAX);
	(void)hark_local(c, local, HARK_ADDRESS_MAX);
}

static void close_words(struct text *t, const struct serve_events *s, const struct hark_event *e)
{
	char peer[HARK_ADDRESS_MAX], local[HARK_ADDRESS_MAX];
	struct hark_conn_stats stats;

	conn_addresses(e->conn, peer, local);
	hark_conn_stats(e->conn, &stats);
	text_add(t, "%s -> %s %s ", peer[0] != '\0' ? peer : "-", local[0] != '\0' ? local : "-", s->box);
	text_add_duration(t, hark_now() - stats.opened_ns);
	if (!s->is_program)
		text_add(t, ", in %llu out %llu", (unsigned long long)stats.bytes_in,
		         (unsigned long long)stats.bytes_out);
	if (e->pid != 0)
		text_add(t, ", pid %d", (int)e->pid);
	if (e->error != 0)
		text_add(t, ", %s", hark_strerror(e->error));
	else if (e->status == 0)
		text_add(t, ", done");
	if (e->status != 0) {
		text_add(t, ", ");
		add_status(t, e->status);
	}
}

static void event_words(const struct serve_events *s, const struct hark_event *e)
{
	char buf[TEXT_LINE_MAX];
	struct text t = {.buf = buf, .cap = sizeof buf};

	text_add(&t, "hark: serve: ");
	switch (e->kind) {
	case HARK_EVENT_READY:
	case HARK_EVENT_OPEN: return;
	case HARK_EVENT_CLOSE: close_words(&t, s, e); break;
	case HARK_EVENT_PAUSED:
		text_add(&t, "accepting pauses: %s",
		         e->error != 0 ? hark_strerror(e->error) : "as many connections as --max-conns");
		break;
	case HARK_EVENT_RESUMED: text_add(&t, "accepting goes on"); break;
	case HARK_EVENT_WORKER_UP: text_add(&t, "worker %d up", (int)e->pid); break;
	case HARK_EVENT_WORKER_DOWN:
		text_add(&t, "worker %d down: ", (int)e->pid);
		add_status(&t, e->status);
		break;
	case HARK_EVENT_REFUSED: text_add(&t, "refused: %s", hark_strerror(e->error)); break;
	case HARK_EVENT_DRAINING: text_add(&t, "draining: no more connections are accepted"); break;
	}
	text_scrub(&t); /* a peer chooses the path that its unix socket is bound to */
	(void)text_write_line(&t, 2);
}

static const char *event_name(enum hark_event_kind kind)
{
	static const char *const names[] = {
		[HARK_EVENT_READY] = "ready",
		[HARK_EVENT_OPEN] = "open",
		[HARK_EVENT_CLOSE] = "close",
		[HARK_EVENT_PAUSED] = "paused",
		[HARK_EVENT_RESUMED] = "resumed",
		[HARK_EVENT_WORKER_UP] = "worker-up",
		[HARK_EVENT_WORKER_DOWN] = "worker-down",
		[HARK_EVENT_DRAINING] = "draining",
		[HARK_EVENT_REFUSED] = "refused",
	};

	return names[kind];
}

static void add_string(struct text *t, const char *key, const char *value)
{
	text_add(t, ",\"%s\":", key);
	text_add_json(t, value, value != NULL ? strlen(value) : 0);
}

static void add_conn_json(struct text *t, const struct serve_events *s, const struct hark_event *e)
{
	char peer[HARK_ADDRESS_MAX], local[HARK_ADDRESS_MAX];
	struct hark_conn_stats stats;

	conn_addresses(e->conn, peer, local);
	add_string(t, "peer", peer);
	add_string(t, "local", local);
	add_string(t, "box", s->box);
	if (e->kind != HARK_EVENT_CLOSE)
		return;
	hark_conn_stats(e->conn, &stats);
	text_add(t, ",\"seconds\":%.6f", (double)(hark_now() - stats.opened_ns) / 1e9);
	if (!s->is_program)
		text_add(t, ",\"bytes_in\":%llu,\"bytes_out\":%llu", (unsigned long long)stats.bytes_in,
		         (unsigned long long)stats.bytes_out);
}

static void event_json(const struct serve_events *s, const struct hark_event *e)
{
	char buf[TEXT_LINE_MAX];
	struct text t = {.buf = buf, .cap = sizeof buf};

	text_add(&t, "{\"time\":\"");
	add_time(&t);
	text_add(&t, "\",\"event\":\"%s\",\"process\":%d", event_name(e->kind), (int)getpid());
	if (e->conn != NULL)
		add_conn_json(&t, s, e);
	if (e->pid != 0)
		text_add(&t, ",\"pid\":%d", (int)e->pid);
	if (e->kind == HARK_EVENT_CLOSE || e->kind == HARK_EVENT_PAUSED)
		add_string(&t, "error", e->error != 0 ? hark_strerror(e->error) : NULL);
	if (e->kind == HARK_EVENT_CLOSE || e->kind == HARK_EVENT_WORKER_DOWN) {
		if (WIFSIGNALED(e->status))
			text_add(&t, ",\"signal\":%d", WTERMSIG(e->status));
		else
			text_add(&t, ",\"status\":%d", WEXITSTATUS(e->status));
	}
	text_add(&t, "}");
	(void)text_write_line(&t, 2);
}

/* A worker that dies of itself is worth a line even where nothing was asked for. */
static bool worth_a_line(const struct serve_events *s, const struct hark_event *e)
{
	return s->verbose || s->json || (e->kind == HARK_EVENT_WORKER_DOWN && e->status != 0 && !s->draining);
}

void serve_event(const struct hark_event *e, void *arg)
{
	struct serve_events *s = arg;

	if (e->kind == HARK_EVENT_READY)
		print_addresses(s);
	if (e->kind == HARK_EVENT_DRAINING)
		s->draining = true;
	if (!worth_a_line(s, e))
		return;
	if (s->json)
		event_json(s, e);
	else
		event_words(s, e);
}
