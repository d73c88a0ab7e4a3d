/* serve_events.c — see serve_events.h.
 *
 * Lines come from the parent, its workers, a connection's own process or thread: each is built on the stack and
 * written at once or not at all (line_out.h), so that they never mix, no lock is needed, and nobody who does not read
 * them stops the service. What a process lost is told by the next line of its that leaves. */
#include "serve_events.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "box.h"
#include "chain.h"
#include "log_connection.h"
#include "refusals.h"
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

static void put(struct serve_events *s, struct text *t)
{
	if (t->len + 1 >= t->cap)
		t->len = t->cap - 2;
	text_add(t, "\n");
	if (line_out_put(&s->out, t->buf, t->len) < 0)
		atomic_fetch_add_explicit(&s->lost, 1, memory_order_relaxed);
}

static void tell_lost(struct serve_events *s)
{
	unsigned n = atomic_exchange_explicit(&s->lost, 0, memory_order_relaxed);
	char buf[128];
	struct text t = {.buf = buf, .cap = sizeof buf};

	if (n == 0)
		return;
	if (s->json) {
		struct json j = {.to = &t};
		json_open(&j, NULL, '{');
		json_put_string(&j, "event", "lost");
		json_put_int(&j, "lines", n);
		json_close(&j, '}');
	} else {
		text_add(&t, "hark: serve: %u line%s lost", n, n == 1 ? " was" : "s were");
	}
	text_add(&t, "\n");
	if (line_out_put(&s->out, t.buf, t.len) < 0)
		atomic_fetch_add_explicit(&s->lost, n, memory_order_relaxed);
}

void serve_events_say(struct serve_events *s, bool important, const char *format, ...)
{
	char buf[TEXT_LINE_MAX], words[512];
	struct text t = {.buf = buf, .cap = sizeof buf};
	va_list args;

	if (!important && !s->verbose && !s->json)
		return;
	va_start(args, format);
	(void)vsnprintf(words, sizeof words, format, args);
	va_end(args);
	if (s->json) {
		struct json j = {.to = &t};
		log_json_begin(&j, log_realtime_ns(), important ? "error" : "info", "message");
		json_put_null(&j, "service");
		json_put_string(&j, "message", words);
		json_close(&j, '}');
	} else {
		text_add(&t, "hark: serve: %s", words);
	}
	put(s, &t);
}

static void tell_untold(enum counter why, uint64_t n, void *arg)
{
	serve_events_say(arg, false, "%" PRIu64 " more refused: %s", n, counter_rows[why].name);
}

/* What both forms tell of a connection. */
static void describe(const struct serve_events *s, const struct hark_event *e, struct log_connection *l,
                     struct log_room *room)
{
	struct hark_conn_stats stats;

	bool refused = e->kind == HARK_EVENT_REFUSED;
	bool counted = !s->is_program && !refused && hark_fd(e->conn) >= 0; /* no descriptor: its process was killed */
	hark_conn_stats(e->conn, &stats);
	*l = (struct log_connection){
		.box = s->box,
		.target = box_target(s->row, s->state, e->conn),
		.pid = e->pid != 0 ? e->pid : getpid(),
		.bytes_in = counted ? (int64_t)stats.bytes_in : -1,
		.bytes_out = counted ? (int64_t)stats.bytes_out : -1,
		.error = refused ? 0 : e->error, /* the limit says more */
		.status = e->status,
		.refused = refused ? refusals_name(e->error) : NULL,
		.why_refused = refused ? chain_why(e->error) : NULL,
	};
	log_connection_describe(l, e->conn, room);
	bool had = e->kind == HARK_EVENT_CLOSE || (refused && e->error >= HARK_REFUSED_HELLO); /* by the box */
	const char *failure = had ? box_failure(s->row, s->state, e->conn) : NULL;
	if (failure != NULL && !refused)
		l->failure = failure;
	else if (failure != NULL && l->why_refused == NULL)
		l->why_refused = failure;
}

static void close_words(struct text *t, const struct serve_events *s, const struct hark_event *e)
{
	struct log_connection l;
	struct log_room room;

	describe(s, e, &l, &room);
	text_add(t, "%s", l.peer[0] != '\0' ? l.peer : "-");
	if (l.user != NULL)
		text_add(t, "[uid=%u,pid=%d]", (unsigned)l.user->uid, (int)l.user->pid);
	if (l.subject != NULL)
		text_add(t, "[%s]", l.subject);
	text_add(t, " -> %s %s", l.local[0] != '\0' ? l.local : "-", l.box);
	if (l.refused != NULL) {
		text_add(t, " refused: %s", l.refused);
		if (l.why_refused != NULL && l.why_refused[0] != '\0')
			text_add(t, " (%s)", l.why_refused);
		return;
	}
	text_add(t, " ");
	text_add_duration(t, l.duration_ns);
	if (l.bytes_in >= 0)
		text_add(t, ", in %lld out %lld", (long long)l.bytes_in, (long long)l.bytes_out);
	if (e->pid != 0)
		text_add(t, ", pid %d", (int)e->pid);
	if (l.target != NULL)
		text_add(t, ", to %s", l.target);
	text_add(t, ", ");
	log_add_outcome(t, &l);
}

static void event_words(struct serve_events *s, const struct hark_event *e)
{
	char buf[TEXT_LINE_MAX];
	struct text t = {.buf = buf, .cap = sizeof buf};

	text_add(&t, "hark: serve: ");
	switch (e->kind) {
	case HARK_EVENT_READY:
	case HARK_EVENT_PROGRAM:
	case HARK_EVENT_LENT:
	case HARK_EVENT_RETURNED:
	case HARK_EVENT_OPEN: return;
	case HARK_EVENT_REFUSED:
	case HARK_EVENT_CLOSE: close_words(&t, s, e); break;
	case HARK_EVENT_PAUSED:
		text_add(&t, "accepting pauses: %s",
		         e->error != 0 ? hark_strerror(e->error) : "as many connections as --max-conns");
		break;
	case HARK_EVENT_RESUMED: text_add(&t, "accepting goes on"); break;
	case HARK_EVENT_WORKER_UP: text_add(&t, "worker %d up", (int)e->pid); break;
	case HARK_EVENT_WORKER_DOWN:
		text_add(&t, "worker %d down: ", (int)e->pid);
		log_add_status(&t, e->status);
		break;
	case HARK_EVENT_DRAINING: text_add(&t, "draining: no more connections are accepted"); break;
	}
	text_scrub(&t); /* a peer chooses the path that its unix socket is bound to */
	put(s, &t);
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
		[HARK_EVENT_PROGRAM] = "program",
	};

	return names[kind];
}

static void add_other_json(struct json *j, const struct hark_event *e)
{
	json_put_null(j, "service");
	if (e->pid != 0)
		json_put_int(j, "pid", e->pid);
	if (e->kind == HARK_EVENT_PAUSED)
		json_put_string(j, "error", e->error != 0 ? hark_strerror(e->error) : NULL);
	if (e->kind == HARK_EVENT_WORKER_DOWN && WIFSIGNALED(e->status))
		json_put_int(j, "signal", WTERMSIG(e->status));
	else if (e->kind == HARK_EVENT_WORKER_DOWN)
		json_put_int(j, "status", WEXITSTATUS(e->status));
}

/* An end has what harkd's log has, at its beginning there is nothing to tell of the end. */
static void event_json(struct serve_events *s, const struct hark_event *e)
{
	char buf[TEXT_LINE_MAX];
	struct text t = {.buf = buf, .cap = sizeof buf};
	struct json j = {.to = &t};
	struct log_connection l;
	struct log_room room;
	struct log_field f[LOG_FIELDS_MAX];
	bool opens = e->kind == HARK_EVENT_OPEN, closes = e->kind == HARK_EVENT_CLOSE || e->kind == HARK_EVENT_REFUSED;

	if (e->conn != NULL)
		describe(s, e, &l, &room);
	log_json_begin(&j, closes ? l.opened_realtime_ns : log_realtime_ns(), "info", event_name(e->kind));
	if (opens || closes) {
		int n = log_connection_fields(&l, f);
		log_json_fields(&j, f, opens ? LOG_FIELDS_OPEN : n);
	} else {
		add_other_json(&j, e);
	}
	json_close(&j, '}');
	put(s, &t);
}

/* A worker that dies of itself is worth a line even where nothing was asked for. */
static bool worth_a_line(const struct serve_events *s, const struct hark_event *e)
{
	bool untold = e->kind == HARK_EVENT_PROGRAM || e->kind == HARK_EVENT_LENT || e->kind == HARK_EVENT_RETURNED;
	return ((s->verbose || s->json) && !untold) ||
	       (e->kind == HARK_EVENT_WORKER_DOWN && e->status != 0 && !s->draining);
}

void serve_events_open(struct serve_events *s)
{
	int own = line_out_own(2);

	s->out = (struct line_out){.fd = own >= 0 ? own : 2};
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
	tell_lost(s);
	refusals_untold(s->counters, false, tell_untold, s);
	if (e->kind == HARK_EVENT_REFUSED && !refusals_worth_a_line(s->counters, e->error))
		return;
	if (s->json)
		event_json(s, e);
	else
		event_words(s, e);
}

void serve_events_ended(struct serve_events *s)
{
	if (s->verbose || s->json)
		refusals_untold(s->counters, true, tell_untold, s);
}

void serve_events_moved(struct serve_events *s)
{
	if (s->out.fd != STDERR_FILENO)
		(void)dup3(STDERR_FILENO, s->out.fd, O_CLOEXEC);
	s->out.by = 0;
}
