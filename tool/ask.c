/* ask.c — see ask.h. ask() runs on fibers, one a host; everything else on the main thread. An ask belongs to its
 * verb. */
#include "ask.h"

#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "target.h"
#include "text.h"

#define MORE_NS (200 * HARK_MS) /* for bytes after an answer that is whole */

int ask_failed(struct ask *a, int err, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	(void)vsnprintf(a->why.text, sizeof a->why.text, format, args);
	va_end(args);
	a->error = err;
	return err;
}

/* c: what it is that has failed; NULL: no connection. */
static void failed(struct ask *a, const struct hark_conn *c, int err, const char *doing)
{
	const char *tls = c != NULL ? hark_tls_failure(c) : NULL;

	(void)ask_failed(a, err, "%s %s: %s", doing, a->address, tls != NULL ? tls : hark_strerror(err));
}

static int dial(struct ask *a, int64_t deadline, struct hark_conn **c)
{
	struct hark_dial_report report = {0};
	const struct hark_dial_opts opts = {
		.deadline = deadline,
		.tls = a->tls,
		.tls_name = a->args->tls.server_name,
		.report = &report,
		.why = &a->why,
	};

	a->why.text[0] = '\0';
	int err = hark_dial(a->address, &opts, c);
	if (err < 0) {
		a->error = err;
		if (a->why.text[0] == '\0')
			failed(a, NULL, err, "dial");
		return err;
	}
	/* The other side may have read its clock as soon as the connection that won was begun. */
	a->sent_ns = hark_now();
	for (int i = 0; i < report.n && i < HARK_ATTEMPTS_MAX; i++)
		if (report.attempts[i].error == 0 && report.attempts[i].start_ns != 0)
			a->sent_ns = report.attempts[i].start_ns;
	hark_deadline(*c, deadline);
	return 0;
}

static void stamp(struct ask *a)
{
	a->answered_ns = hark_now();
	(void)clock_gettime(CLOCK_REALTIME, &a->answered);
}

static void answered(struct ask *a, size_t len)
{
	a->len = len;
	a->answer[len] = '\0';
	a->error = 0;
}

/* An answer of a fixed length is whole. If more follows it is something else: the end tells. A server may wait for our
 * end first, and one that never ends is not waited for long. */
static void await_more(const struct ask *a, struct hark_conn *c)
{
	int64_t until = hark_after(MORE_NS), deadline = a->sent_ns + a->args->timeout;

	(void)hark_shutdown(c, HARK_OUT);
	hark_deadline(c, until < deadline ? until : deadline);
}

/* Reads to the end; the moment of the answer is that of its first bytes. */
static void read_stream(struct ask *a, struct hark_conn *c)
{
	size_t len = 0, whole = a->stream_answer_len, most = whole > 0 ? whole + 1 : ASK_ANSWER_MAX;

	while (len < most) {
		bool complete = whole > 0 && len == whole;
		if (complete)
			await_more(a, c);
		ssize_t n = hark_read(c, a->answer + len, most - len);
		if (n < 0 && complete)
			break;
		if (n < 0) {
			failed(a, c, (int)n, "read");
			return;
		}
		if (len == 0)
			stamp(a);
		if (n == 0)
			break;
		len += (size_t)n;
	}
	if (len > 0 || a->may_be_empty) {
		answered(a, len);
	} else {
		(void)ask_failed(a, -ENODATA, "read %s: the connection ended without an answer", a->address);
	}
}

static void ask_stream(struct ask *a, struct hark_conn *c)
{
	if (a->stream_question_len > 0) {
		ssize_t n = hark_write(c, a->question, a->stream_question_len);
		if (n >= 0)
			n = hark_shutdown(c, HARK_OUT);
		if (n < 0) {
			failed(a, c, (int)n, "write");
			hark_abort(c);
			return;
		}
	}
	read_stream(a, c);
	hark_abort(c); /* all that matters has been read */
}

/* One try. Returns 0, or -errno: -ETIMEDOUT is worth another. Consumes c. */
static int ask_datagram(struct ask *a, struct hark_conn *c)
{
	a->sent_ns = hark_now();
	ssize_t n = hark_write(c, a->question, a->question_len);
	bool sent = n >= 0;
	if (sent)
		n = hark_read(c, a->answer, ASK_ANSWER_MAX);
	stamp(a);
	if (n > 0 || (n == 0 && a->may_be_empty))
		answered(a, (size_t)n);
	else if (n == 0)
		(void)ask_failed(a, -ENODATA, "ask %s: the answer is empty", a->address);
	else if (n == -EMSGSIZE && sent)
		(void)ask_failed(a, -EMSGSIZE, "ask %s: the answer is longer than %d bytes", a->address,
		                 ASK_ANSWER_MAX);
	else
		failed(a, c, (int)n, "ask");
	hark_abort(c);
	return n < 0 ? (int)n : 0;
}

void ask(void *arg)
{
	struct ask *a = arg;
	struct hark_conn *c;

	for (int i = 0; i < a->args->tries; i++) {
		if (dial(a, hark_after(a->args->timeout), &c) < 0)
			return;
		if (hark_type(c) == SOCK_STREAM) {
			ask_stream(a, c);
			return;
		}
		if (ask_datagram(a, c) != -ETIMEDOUT)
			return;
	}
	(void)ask_failed(a, -ETIMEDOUT, "ask %s: no answer to %d datagrams", a->address, a->args->tries);
}

struct ask *ask_new(const struct verb *v, const struct ask_args *args, int n, char *const hosts[], const char *scheme,
                    const char *port, int *status)
{
	struct ask *asks = calloc((size_t)n, sizeof *asks);
	struct hark_why why = {""};
	bool tls = false;

	if (asks == NULL) {
		say(v, "%s", strerror(ENOMEM));
		*status = STATUS_SYSTEM;
		return NULL;
	}
	for (int i = 0; i < n; i++) {
		asks[i].args = args;
		asks[i].host = hosts[i];
		if (target_address(hosts[i], args->udp ? "udp" : scheme, args->port != NULL ? args->port : port,
		                   asks[i].address, &why) < 0) {
			say(v, "%s", why.text);
			*status = STATUS_USAGE;
			ask_free(asks);
			return NULL;
		}
		tls = tls || strncmp(asks[i].address, "tls://", 6) == 0;
	}
	*status = tls_settings(v, &args->tls, tls, false, &asks[0].tls);
	if (*status != 0) {
		ask_free(asks);
		return NULL;
	}
	for (int i = 1; i < n; i++)
		asks[i].tls = asks[0].tls;
	return asks;
}

void ask_free(struct ask asks[])
{
	hark_tls_free(asks[0].tls);
	free(asks);
}

int ask_all(const struct verb *v, struct ask asks[], int n, int (*show)(struct ask *a, bool many))
{
	struct hark_scope scope;
	int status = STATUS_DONE;

	hark_scope_open(&scope);
	for (int i = 0; i < n; i++) {
		int err = hark_go(&scope, asks[i].host, ask, &asks[i]);
		if (err < 0)
			failed(&asks[i], NULL, err, "ask");
	}
	(void)hark_join(&scope, HARK_FOREVER);
	hark_scope_close(&scope);
	for (int i = 0; i < n; i++) {
		int err = asks[i].error;
		if (err == 0)
			err = show(&asks[i], n > 1);
		if (err == 0)
			continue;
		(void)fflush(stdout);
		say(v, "%s", asks[i].why.text);
		status = STATUS_FAILED;
	}
	return status;
}

void ask_print_lines(const struct ask *a, bool many)
{
	const char *at = a->answer, *end = a->answer + a->len;

	while (at < end) {
		const char *newline = memchr(at, '\n', (size_t)(end - at));
		const char *stop = newline != NULL ? newline : end;
		size_t len = (size_t)(stop - at);
		char buf[TEXT_LINE_MAX];
		struct text t = {.buf = buf, .cap = sizeof buf};
		if (len > 0 && at[len - 1] == '\r')
			len--;
		buf[0] = '\0';
		text_add_printable(&t, at, len, "\t");
		/* The NIST form begins with an empty line (RFC 867 leaves the syntax open): nothing to show. */
		if (t.len > 0)
			printf("%s%s%s\n", many ? a->host : "", many ? ": " : "", buf);
		at = newline != NULL ? newline + 1 : end;
	}
}

void ask_json_begin(const struct ask *a, struct ask_json *to)
{
	*to = (struct ask_json){.text = {.grows = true}, .json = {.to = &to->text}};
	json_open(&to->json, NULL, '{');
	json_put_string(&to->json, "host", a->host);
	json_put_string(&to->json, "address", a->address);
	json_put_real(&to->json, "round_trip_s", (double)(a->answered_ns - a->sent_ns) / 1e9, 9);
}

int ask_json_end(struct ask *a, struct ask_json *j)
{
	json_close(&j->json, '}');
	return json_print(&j->json, stdout) < 0
	               ? ask_failed(a, -ENOMEM, "ask %s: no memory to print the answer", a->address)
	               : 0;
}

int ask_run(const struct verb *v, int argc, char *argv[], const struct ask_kind *kind)
{
	struct ask_args args = ASK_DEFAULTS;
	int status;
	int n = options_parse(v, argc, argv, &args, &status);

	if (n < 0)
		return status;
	if (n == 0)
		return options_usage(v, "no host to ask");
	struct ask *asks = ask_new(v, &args, n, argv, "tcp", kind->port, &status);
	if (asks == NULL)
		return status;
	for (int i = 0; i < n; i++) {
		asks[i].question = kind->question;
		asks[i].question_len = kind->question_len;
		asks[i].stream_answer_len = kind->stream_answer_len;
		asks[i].may_be_empty = kind->may_be_empty;
	}
	status = ask_all(v, asks, n, kind->show);
	ask_free(asks);
	return status;
}
