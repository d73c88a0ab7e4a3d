/* report.c — what happens to a call, as it happens: in words, or as JSON lines, on standard error.
 *
 * Standard output is the peer's. Each line is one write(2), so that lines never mix with those of others. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "call.h"
#include "json.h"
#include "text.h"

/* A line of JSON in the making: points into itself. */
struct line {
	char buf[TEXT_LINE_MAX];
	struct text text;
	struct json json;
};

static struct json *begin(struct line *l, const char *event)
{
	l->text = (struct text){.buf = l->buf, .cap = sizeof l->buf};
	l->json = (struct json){.to = &l->text};
	json_open(&l->json, NULL, '{');
	json_put_string(&l->json, "event", event);
	return &l->json;
}

static void put_seconds(struct json *j, int64_t ns)
{
	json_put_real(j, "seconds", (double)ns / 1e9, 6);
}

static void end(struct json *j)
{
	json_close(j, '}');
	(void)text_write_line(j->to, 2);
}

static bool wanted(const struct call *c)
{
	return c->args.verbose || c->args.json;
}

void report_error(const struct call *c, const char *format, ...)
{
	char message[1024];
	struct line l;
	va_list args;

	va_start(args, format);
	(void)vsnprintf(message, sizeof message, format, args);
	va_end(args);
	if (!c->args.json) {
		say(c->verb, "%s", message);
		return;
	}
	struct json *j = begin(&l, "error");
	json_put_string(j, "message", message);
	end(j);
}

void report_lookup(const struct call *c, int64_t took_ns)
{
	struct line l;
	char buf[64];
	struct text t = {.buf = buf, .cap = sizeof buf};

	if (!wanted(c))
		return;
	if (c->args.json) {
		struct json *j = begin(&l, "look-up");
		put_seconds(j, took_ns);
		end(j);
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
	struct line l;
	struct json *j = begin(&l, a->error == EINPROGRESS ? "connecting" : "attempt");

	json_put_string(j, "peer", to);
	if (a->error != EINPROGRESS) {
		put_seconds(j, a->end_ns - a->start_ns);
		json_put_string(j, "error", a->error != 0 ? hark_strerror(a->error) : NULL);
	}
	end(j);
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
	struct line l;

	if (!wanted(c))
		return;
	if (!c->args.json) {
		say(c->verb, "listening on %s", address);
		return;
	}
	struct json *j = begin(&l, "listening");
	json_put_string(j, "local", address);
	end(j);
}

void report_open(const struct call *c)
{
	char peer[HARK_ADDRESS_MAX] = "unixgram:", local[HARK_ADDRESS_MAX] = "";
	struct line l;

	if (!wanted(c))
		return;
	(void)hark_peer(c->peer, peer, sizeof peer); /* -ENOTCONN: of a sender without a name */
	(void)hark_local(c->peer, local, sizeof local);
	if (!c->args.json) {
		say(c->verb, "connection from %s", peer);
		return;
	}
	struct json *j = begin(&l, "open");
	json_put_string(j, "peer", peer);
	json_put_string(j, "local", local);
	end(j);
}

void report_tls(const struct call *c, int64_t took_ns)
{
	char buf[64];
	struct text t = {.buf = buf, .cap = sizeof buf}, line = {.grows = true};
	struct tls_facts *f = wanted(c) ? tls_facts(c->peer) : NULL;

	if (f == NULL)
		return;
	if (c->args.json) {
		struct json j = {.to = &line};
		json_open(&j, NULL, '{');
		json_put_string(&j, "event", "tls");
		put_seconds(&j, took_ns);
		tls_put(&j, f);
		json_close(&j, '}');
		if (!line.failed)
			(void)text_write_line(&line, 2);
		text_free(&line);
	} else {
		text_add_duration(&t, took_ns);
		say(c->verb, "TLS: %s after %s", f->established ? "handshake" : "refused", buf);
		tls_say(c->verb, f);
	}
	free(f);
}

void report_close(const struct call *c, const struct hark_conn_stats *stats)
{
	struct line l;

	if (!wanted(c))
		return;
	if (!c->args.json) {
		say(c->verb, "%s: sent %llu bytes, received %llu", c->address, (unsigned long long)stats->bytes_out,
		    (unsigned long long)stats->bytes_in);
		return;
	}
	struct json *j = begin(&l, "close");
	put_seconds(j, hark_now() - stats->opened_ns);
	json_put_int(j, "bytes_in", (int64_t)stats->bytes_in);
	json_put_int(j, "bytes_out", (int64_t)stats->bytes_out);
	json_put_string(j, "error", c->error != 0 ? c->why.text : NULL);
	end(j);
}
