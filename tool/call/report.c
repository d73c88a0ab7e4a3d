/* report.c — what happens to a call, as it happens: in words, or as JSON lines, on standard error.
 *
 * Standard output is the peer's. Each line is one write(2), so that lines never mix with those of others. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "call.h"
#include "text.h"

static void json_begin(struct text *t, const char *event)
{
	text_add(t, "{\"event\":\"%s\"", event);
}

static void json_string(struct text *t, const char *key, const char *value)
{
	text_add(t, ",\"%s\":", key);
	text_add_json(t, value, value != NULL ? strlen(value) : 0);
}

static void json_seconds(struct text *t, int64_t ns)
{
	text_add(t, ",\"seconds\":%.6f", (double)ns / 1e9);
}

static void json_end(struct text *t)
{
	text_add(t, "}");
	(void)text_write_line(t, 2);
}

static bool wanted(const struct call *c)
{
	return c->args.verbose || c->args.json;
}

void report_error(const struct call *c, const char *format, ...)
{
	char message[1024], buf[TEXT_LINE_MAX];
	struct text t = {.buf = buf, .cap = sizeof buf};
	va_list args;

	va_start(args, format);
	(void)vsnprintf(message, sizeof message, format, args);
	va_end(args);
	if (!c->args.json) {
		say(c->verb, "%s", message);
		return;
	}
	json_begin(&t, "error");
	json_string(&t, "message", message);
	json_end(&t);
}

void report_lookup(const struct call *c, int64_t took_ns)
{
	char buf[TEXT_LINE_MAX];
	struct text t = {.buf = buf, .cap = sizeof buf};

	if (!wanted(c))
		return;
	if (c->args.json) {
		json_begin(&t, "look-up");
		json_seconds(&t, took_ns);
		json_end(&t);
		return;
	}
	text_add(&t, "look-up took ");
	text_add_duration(&t, took_ns);
	say(c->verb, "%s", buf);
}

static void attempt_words(const struct call *c, const struct hark_attempt *a, const char *to)
{
	char buf[TEXT_LINE_MAX];
	struct text t = {.buf = buf, .cap = sizeof buf};

	if (a->error == EINPROGRESS) {
		say(c->verb, "%s: connecting", to);
		return;
	}
	text_add(&t, "%s after ",
	         a->error == 0           ? "connected"
	         : a->error == ECANCELED ? "given up for another"
	                                 : hark_strerror(a->error));
	text_add_duration(&t, a->end_ns - a->start_ns);
	say(c->verb, "%s: %s", to, buf);
}

static void attempt_json(const struct hark_attempt *a, const char *to)
{
	char buf[TEXT_LINE_MAX];
	struct text t = {.buf = buf, .cap = sizeof buf};

	json_begin(&t, a->error == EINPROGRESS ? "connecting" : "attempt");
	json_string(&t, "peer", to);
	if (a->error != EINPROGRESS) {
		json_seconds(&t, a->end_ns - a->start_ns);
		json_string(&t, "error", a->error != 0 ? hark_strerror(a->error) : NULL);
	}
	json_end(&t);
}

void report_attempt(const struct hark_attempt *a, void *call)
{
	const struct call *c = call;
	char to[HARK_ADDRESS_MAX];

	if (!wanted(c) || hark_endpoint_format(&a->to, to, sizeof to) < 0)
		return;
	if (c->args.json)
		attempt_json(a, to);
	else
		attempt_words(c, a, to);
}

void report_listening(const struct call *c, const char *address)
{
	char buf[TEXT_LINE_MAX];
	struct text t = {.buf = buf, .cap = sizeof buf};

	if (!wanted(c))
		return;
	if (!c->args.json) {
		say(c->verb, "listening on %s", address);
		return;
	}
	json_begin(&t, "listening");
	json_string(&t, "local", address);
	json_end(&t);
}

void report_open(const struct call *c)
{
	char peer[HARK_ADDRESS_MAX] = "", local[HARK_ADDRESS_MAX] = "", buf[TEXT_LINE_MAX];
	struct text t = {.buf = buf, .cap = sizeof buf};

	if (!wanted(c))
		return;
	(void)hark_peer(c->peer, peer, sizeof peer);
	(void)hark_local(c->peer, local, sizeof local);
	if (!c->args.json) {
		say(c->verb, "connection from %s", peer);
		return;
	}
	json_begin(&t, "open");
	json_string(&t, "peer", peer);
	json_string(&t, "local", local);
	json_end(&t);
}

void report_close(const struct call *c, const struct hark_conn_stats *stats)
{
	char buf[TEXT_LINE_MAX];
	struct text t = {.buf = buf, .cap = sizeof buf};
	unsigned long long in = stats->bytes_in, out = stats->bytes_out;

	if (!wanted(c))
		return;
	if (!c->args.json) {
		say(c->verb, "%s: sent %llu bytes, received %llu", c->address, out, in);
		return;
	}
	json_begin(&t, "close");
	json_seconds(&t, hark_now() - stats->opened_ns);
	text_add(&t, ",\"bytes_in\":%llu,\"bytes_out\":%llu", in, out);
	json_string(&t, "error", c->error != 0 ? hark_strerror(c->error) : NULL);
	json_end(&t);
}
