/* cmd_call.c — hark call: standard input to the peer, the peer to standard output.
 *
 * Two fibers, one for each direction, so that neither waits for the other: the end of the input half-closes, and what
 * the peer still has to say is read to its end. A third one, where it is wanted, watches for silence. Whoever finds
 * that all is over cancels the scope; main() then says what happened. */
#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "hark.h"
#include "options.h"
#include "text.h"
#include "tool.h"

#define DATAGRAM_MAX 65536        /* bytes; more than any UDP datagram has */
#define CLOSE_MAX    (5 * HARK_S) /* for a peer that has ended but does not take what is left */

struct call_args {
	int64_t timeout, idle, wait;
	const char *local;
	bool reserved_port, crlf, lines, send_only, recv_only, verbose;
};

#define AT(member) offsetof(struct call_args, member)

static const struct option_row options[] = {
	{"verbose", 'v', OPTION_FLAG, NULL, "tell every attempt to connect, and what went each way", AT(verbose)},
	{"timeout", 'w', OPTION_DURATION, "T", "for looking up and connecting (30s)", AT(timeout), 1},
	{"idle", 0, OPTION_DURATION, "T", "fail once nothing has gone either way for T (never)", AT(idle), 1},
	{"wait", 0, OPTION_DURATION, "T", "datagrams: after the input's end, listen until T of silence (1s)", AT(wait),
         0},
	{"local", 0, OPTION_TEXT, "ADDR", "come from this host, host:port or :port; unix: this path", AT(local)},
	{"reserved-port", 0, OPTION_FLAG, NULL, "come from a port between 512 and 1023, which root alone can",
         AT(reserved_port)},
	{"crlf", 0, OPTION_FLAG, NULL, "send each line's end as CR LF", AT(crlf)},
	{"lines", 0, OPTION_FLAG, NULL, "datagrams: one for each line of the input, not for each read", AT(lines)},
	{"send-only", 0, OPTION_FLAG, NULL, "drop what the peer says; its end does not end the call", AT(send_only)},
	{"recv-only", 0, OPTION_FLAG, NULL, "do not read standard input", AT(recv_only)},
	{0},
};

struct call {
	const struct verb *verb;
	const char *address;
	struct call_args args;
	struct hark_conn *peer, *in, *out;
	bool stream;
	struct hark_scope scope;
	int running;        /* of the two directions */
	int64_t last_in_ns; /* when the last datagram came, or the input ended */
	int status;
};

/* The first failure is the one that is told; it ends the call. */
static void fail(struct call *c, const char *where, int err)
{
	if (err != -ECANCELED && c->status == STATUS_DONE) {
		say(c->verb, "%s: %s", where, hark_strerror(err));
		c->status = STATUS_FAILED;
	}
	hark_cancel(&c->scope);
}

/* One direction is through. Once both are, nobody needs to watch for silence. */
static void direction_ended(struct call *c)
{
	if (--c->running == 0)
		hark_cancel(&c->scope);
}

/* Sends buf, each '\n' that has no '\r' before it as "\r\n". *last is the byte that went before. */
static int write_crlf(struct hark_conn *to, const char *buf, size_t n, char *last)
{
	size_t from = 0;

	for (size_t i = 0; i < n; i++) {
		char before = i > 0 ? buf[i - 1] : *last;
		if (buf[i] != '\n' || before == '\r')
			continue;
		ssize_t err = hark_write(to, buf + from, i - from);
		if (err >= 0)
			err = hark_write(to, "\r", 1);
		if (err < 0)
			return (int)err;
		from = i;
	}
	*last = n > 0 ? buf[n - 1] : *last;
	ssize_t err = hark_write(to, buf + from, n - from);
	return err < 0 ? (int)err : 0;
}

/* Input to a stream, line ends turned. Returns 0 or -errno; *to_failed as for hark_copy(). */
static int copy_crlf(struct call *c, bool *to_failed)
{
	char buf[4096], last = '\0';

	for (;;) {
		ssize_t n = hark_read(c->in, buf, sizeof buf);
		*to_failed = false;
		if (n <= 0)
			return (int)n;
		int err = write_crlf(c->peer, buf, (size_t)n, &last);
		if (err == 0)
			err = hark_flush(c->peer);
		*to_failed = true;
		if (err < 0)
			return err;
	}
}

/* The next datagram's bytes from the input: a line, or what one read gives. 0: the end. */
static ssize_t read_message(struct call *c, char *buf)
{
	if (!c->args.lines)
		return hark_read(c->in, buf, DATAGRAM_MAX - 1);
	ssize_t n = hark_readline(c->in, buf, DATAGRAM_MAX);
	/* A line longer than any datagram: its bytes all the same, in as many as it takes. */
	return n == -EMSGSIZE ? hark_read(c->in, buf, DATAGRAM_MAX - 1) : n;
}

/* Input to datagrams. */
static int copy_messages(struct call *c, bool *to_failed)
{
	char *buf = malloc(DATAGRAM_MAX + 1);
	ssize_t n;

	*to_failed = false;
	if (buf == NULL)
		return -ENOMEM;
	while ((n = read_message(c, buf)) > 0) {
		if (c->args.crlf && buf[n - 1] == '\n' && (n < 2 || buf[n - 2] != '\r')) {
			buf[n - 1] = '\r';
			buf[n++] = '\n';
		}
		ssize_t err = hark_write(c->peer, buf, (size_t)n);
		if (err < 0) {
			*to_failed = true;
			n = err;
			break;
		}
	}
	free(buf);
	return (int)n;
}

/* Datagrams have no end: the call ends once the peer has been silent for a while. */
static void await_silence(struct call *c)
{
	int64_t now;

	c->last_in_ns = hark_now();
	while (!c->args.send_only && (now = hark_now()) < c->last_in_ns + c->args.wait)
		if (hark_sleep(c->last_in_ns + c->args.wait - now) < 0)
			return;
	hark_cancel(&c->scope);
}

static void input_ended(struct call *c)
{
	if (c->stream)
		(void)hark_shutdown(c->peer, HARK_OUT); /* if it fails the connection is gone, which the reader tells */
	else
		await_silence(c);
}

static void send_fiber(void *arg)
{
	struct call *c = arg;
	bool to_failed = false;
	int64_t n = !c->stream     ? copy_messages(c, &to_failed)
	            : c->args.crlf ? copy_crlf(c, &to_failed)
	                           : hark_copy(c->in, c->peer, &to_failed);

	if (n >= 0)
		input_ended(c);
	else if (!to_failed)
		fail(c, "standard input", (int)n);
	else if (!c->stream || c->args.send_only)
		fail(c, c->address, (int)n);
	/* Otherwise the peer takes no more, but may still have something to say: the other fiber reads to the end and
	 * judges. */
	direction_ended(c);
}

/* Until the peer ends. */
static int receive_stream(struct call *c, bool *to_failed)
{
	char buf[4096];
	ssize_t n;

	if (!c->args.send_only) {
		int64_t copied = hark_copy(c->peer, c->out, to_failed);
		return copied < 0 ? (int)copied : 0;
	}
	while ((n = hark_read(c->peer, buf, sizeof buf)) > 0)
		continue;
	return (int)n;
}

static int receive_datagrams(struct call *c, bool *to_failed)
{
	char *buf = malloc(DATAGRAM_MAX);
	ssize_t n = -ENOMEM;

	while (buf != NULL && (n = hark_read(c->peer, buf, DATAGRAM_MAX)) >= 0) {
		c->last_in_ns = hark_now();
		if (c->args.send_only)
			continue;
		n = hark_write(c->out, buf, (size_t)n);
		if (n >= 0)
			n = hark_flush(c->out);
		if (n < 0) {
			*to_failed = true;
			break;
		}
	}
	free(buf);
	return (int)n;
}

static void receive_fiber(void *arg)
{
	struct call *c = arg;
	bool to_failed = false;
	int err = c->stream ? receive_stream(c, &to_failed) : receive_datagrams(c, &to_failed);

	if (err < 0)
		fail(c, to_failed ? "standard output" : c->address, err);
	else if (!c->args.send_only)
		hark_cancel(&c->scope); /* the peer has ended: nothing more can come of this call */
	direction_ended(c);
}

/* Both directions count, so neither connection's own time-out would do. Looks ten times in the span, and is late by
 * no more. */
static void idle_fiber(void *arg)
{
	struct call *c = arg;
	struct hark_conn_stats stats;
	int64_t since = hark_now();
	uint64_t bytes = 0;

	while (hark_sleep(c->args.idle / 10 + 1) == 0) {
		hark_conn_stats(c->peer, &stats);
		if (stats.bytes_in + stats.bytes_out != bytes) {
			bytes = stats.bytes_in + stats.bytes_out;
			since = hark_now();
		} else if (hark_now() - since >= c->args.idle) {
			fail(c, "nothing came or went (--idle)", -ETIMEDOUT);
		}
	}
}

static void tell_attempts(const struct call *c, const struct hark_dial_report *report)
{
	char to[HARK_ADDRESS_MAX], buf[TEXT_LINE_MAX];

	for (int i = 0; i < report->n && i < HARK_ATTEMPTS_MAX; i++) {
		const struct hark_attempt *a = &report->attempts[i];
		struct text t = {.buf = buf, .cap = sizeof buf};
		if (hark_endpoint_format(&a->to, to, sizeof to) < 0)
			continue;
		text_add(&t, "%s: ", to);
		text_add(&t, "%s after ",
		         a->error == 0           ? "connected"
		         : a->error == ECANCELED ? "given up for another"
		                                 : hark_strerror(a->error));
		text_add_duration(&t, a->end_ns - a->start_ns);
		say(c->verb, "%s", buf);
	}
	struct text t = {.buf = buf, .cap = sizeof buf};
	text_add(&t, "look-up took ");
	text_add_duration(&t, report->resolved_ns);
	say(c->verb, "%s", buf);
}

static int dial(struct call *c)
{
	struct hark_why why = {""};
	struct hark_dial_report report = {0};
	const struct hark_dial_opts opts = {
		.deadline = c->args.timeout > 0 ? hark_after(c->args.timeout) : 0,
		.local = c->args.local,
		.reserved_port = c->args.reserved_port,
		.report = &report,
		.why = &why,
	};

	int err = hark_dial(c->address, &opts, &c->peer);
	if (c->args.verbose)
		tell_attempts(c, &report);
	if (err == 0)
		return STATUS_DONE;
	if (why.text[0] != '\0')
		say(c->verb, "%s", why.text);
	else
		say(c->verb, "dial %s: %s", c->address, hark_strerror(err));
	return STATUS_FAILED;
}

static int open_standard(struct call *c)
{
	int err = hark_conn_from_fd(STDIN_FILENO, &c->in);

	if (err == 0)
		err = hark_conn_from_fd(STDOUT_FILENO, &c->out);
	if (err == 0)
		return STATUS_DONE;
	say(c->verb, "%s: %s", c->in == NULL ? "standard input" : "standard output", hark_strerror(err));
	return STATUS_SYSTEM;
}

static void finish(struct call *c)
{
	struct hark_conn_stats stats;

	hark_conn_stats(c->peer, &stats);
	/* Not an abort where all went well: a peer that has ended its half may still be reading ours. */
	hark_deadline(c->peer, hark_after(CLOSE_MAX));
	if (c->status == STATUS_DONE)
		(void)hark_close(c->peer);
	else
		hark_abort(c->peer);
	int err = hark_close(c->out);
	if (err < 0 && c->status == STATUS_DONE) {
		say(c->verb, "standard output: %s", hark_strerror(err));
		c->status = STATUS_FAILED;
	}
	(void)hark_close(c->in);
	if (c->args.verbose)
		say(c->verb, "%s: sent %llu bytes, received %llu", c->address, (unsigned long long)stats.bytes_out,
		    (unsigned long long)stats.bytes_in);
}

static void converse(struct call *c)
{
	int err = 0;

	c->stream = hark_type(c->peer) == SOCK_STREAM;
	c->running = c->args.recv_only ? 1 : 2;
	hark_scope_open(&c->scope);
	if (!c->args.recv_only)
		err = hark_go(&c->scope, "send", send_fiber, c);
	if (err == 0)
		err = hark_go(&c->scope, "receive", receive_fiber, c);
	if (err == 0 && c->args.idle > 0)
		err = hark_go(&c->scope, "idle", idle_fiber, c);
	if (err < 0)
		fail(c, "fiber", err);
	(void)hark_join(&c->scope, HARK_FOREVER);
	finish(c); /* before the scope's end, which closes the loop that the connections are on */
	hark_scope_close(&c->scope);
}

/* Whether --local is a unix socket's path that this call makes: then it also removes it. */
static bool makes_path(const struct call *c, const struct hark_address *to)
{
	const char *local = c->args.local;
	struct stat st;

	return (to->scheme == HARK_UNIX || to->scheme == HARK_UNIXGRAM) && local != NULL && local[0] != '@' &&
	       lstat(local, &st) < 0 && errno == ENOENT;
}

static int run(const struct verb *self, int argc, char *argv[])
{
	struct call c = {.verb = self, .args = {.wait = HARK_S}};
	struct hark_address parsed;
	struct hark_why why = {""};
	int status;
	int n = options_parse(self, argc, argv, &c.args, &status);

	if (n < 0)
		return status;
	if (n != 1)
		return options_usage(self, n == 0 ? "no address to call" : "one address at a time");
	if (c.args.send_only && c.args.recv_only)
		return options_usage(self, "--send-only and --recv-only exclude each other");
	c.address = argv[0];
	if (hark_address_parse(c.address, &parsed, &why) < 0) {
		say(self, "%s", why.text);
		return STATUS_USAGE;
	}
	bool path_is_ours = makes_path(&c, &parsed);
	if ((status = dial(&c)) == STATUS_DONE && (status = open_standard(&c)) == STATUS_DONE) {
		converse(&c);
		status = c.status;
	}
	if (path_is_ours)
		(void)unlink(c.args.local); /* it is not there if the socket was never bound */
	return status;                      /* what is still open ends with the process */
}

const struct verb verb_call = {
	.name = "call",
	.summary = "Connects standard input and output to an address",
	.usage = "ADDRESS",
	.notes = "At the end of standard input the connection is half-closed and the peer read to its end. The peer's "
		 "end\n"
		 "ends the call: exit code 0. Over udp:// and unixgram: each read of standard input is a datagram.\n",
	.options = options,
	.run = run,
};
