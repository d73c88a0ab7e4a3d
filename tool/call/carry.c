/* carry.c — standard input to the peer, the peer to standard output.
 *
 * Two fibers, one for each direction, so that neither waits for the other: the end of the input half-closes, and what
 * the peer still has to say is read to its end. A third one, where it is wanted, watches for silence. Whoever finds
 * that all is over cancels the scope. */
#include "carry.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <unistd.h>

#include "call.h"
#include "screen.h"

#define INPUT_NS  (20 * HARK_MS) /* between two looks at the input, once the peer has ended */
#define CLOSE_MAX (5 * HARK_S)   /* for a peer that has ended and takes nothing of what is left */

void call_fail(struct call *c, const char *where, int err)
{
	bool nameless = err == -ENOTCONN && c->args.listen && c->parsed.scheme == HARK_UNIXGRAM;
	const char *tls = where == c->address ? hark_tls_failure(c->peer) : NULL;

	if (err != -ECANCELED && c->status == STATUS_DONE) {
		(void)snprintf(c->why.text, sizeof c->why.text, "%s",
		               nameless      ? "the sender has no name to be answered at"
		               : tls != NULL ? tls
		                             : hark_strerror(err));
		report_error(c, "%s: %s", where, c->why.text);
		c->status = tls != NULL && err == -ECONNRESET ? STATUS_CUT : STATUS_FAILED;
		c->error = err;
	}
	hark_cancel(&c->scope);
}

static void output_failed(struct call *c, int err)
{
	c->out_failed = err != -ECANCELED;
	call_fail(c, "standard output", err);
}

/* One direction is through. Once both are, nobody needs to watch for silence. */
static void direction_ended(struct call *c)
{
	if (--c->running == 0)
		hark_cancel(&c->scope);
}

size_t carry_crlf(char *out, const char *in, size_t n, char *last)
{
	char *to = out;

	for (size_t i = 0; i < n; i++) {
		if (in[i] == '\n' && *last != '\r')
			*to++ = '\r';
		*to++ = *last = in[i];
	}
	return (size_t)(to - out);
}

/* ---- out --------------------------------------------------------------------------------------- */

/* Input to a stream, line ends turned. Returns 0 or -errno; *to_failed as for hark_copy(). */
static int copy_crlf(struct call *c, bool *to_failed)
{
	char in[4096], out[2 * sizeof in], last = '\0';

	for (;;) {
		ssize_t n = hark_read(c->in, in, sizeof in);
		*to_failed = false;
		if (n <= 0)
			return (int)n;
		n = hark_write(c->peer, out, carry_crlf(out, in, (size_t)n, &last));
		int err = n < 0 ? (int)n : hark_flush(c->peer);
		*to_failed = true;
		if (err < 0)
			return err;
	}
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

static void half_close(struct call *c)
{
	struct hark_conn_stats stats;

	hark_conn_stats(c->peer, &stats);
	/* A listener without input (/dev/null) only receives: its end would be taken for that of the call. */
	bool receives_only = c->args.listen && stats.bytes_out == 0 && !c->args.half_close && !c->args.send_only;
	if (c->stream && !c->args.no_half_close && !receives_only)
		(void)hark_shutdown(c->peer, HARK_OUT); /* if it fails the connection is gone, which the reader tells */
}

/* The call ends, unless the peer ends it before. */
static void input_ended(struct call *c)
{
	if (c->args.quit >= 0) {
		if (c->args.quit == 0 || hark_sleep(c->args.quit) == 0)
			hark_cancel(&c->scope);
	} else if (!c->stream) {
		await_silence(c);
	}
}

static void send_fiber(void *arg)
{
	struct call *c = arg;
	bool to_failed = false;
	int64_t n = !c->stream     ? call_send_messages(c, &to_failed)
	            : c->args.crlf ? copy_crlf(c, &to_failed)
	                           : hark_copy(c->in, c->peer, &to_failed);

	if (n >= 0)
		half_close(c);
	else if (!to_failed)
		call_fail(c, "standard input", (int)n);
	else if (!c->stream || c->args.send_only)
		call_fail(c, c->address, (int)n);
	/* Otherwise the peer takes no more, but may still have something to say: the other fiber reads to the end and
	 * judges. */
	direction_ended(c);
	if (n >= 0)
		input_ended(c);
}

/* ---- in ---------------------------------------------------------------------------------------- */

static int drop_stream(struct call *c)
{
	char buf[4096];
	ssize_t n;

	while ((n = hark_read(c->peer, buf, sizeof buf)) > 0)
		continue;
	return (int)n;
}

static int show_stream(struct call *c, bool *to_failed)
{
	char buf[4096];
	struct screen s = {.n = 0};
	ssize_t n;

	while ((n = hark_read(c->peer, buf, sizeof buf)) > 0) {
		int err = screen_write(&s, c->out, buf, (size_t)n);
		if (err < 0) {
			*to_failed = true;
			return err;
		}
	}
	int err = screen_end(&s, c->out);
	*to_failed = n == 0 && err < 0;
	return n < 0 ? (int)n : err;
}

/* Until the peer ends. */
static int receive_stream(struct call *c, bool *to_failed)
{
	if (c->args.send_only)
		return drop_stream(c);
	if (c->to_terminal)
		return show_stream(c, to_failed);
	int64_t copied = hark_copy(c->peer, c->out, to_failed);
	return copied < 0 ? (int)copied : 0;
}

/* The peer has ended, and may still read: what standard input has by now is sent, for as long as the peer takes any of
 * it. What is typed was for a peer that answers. */
static void send_rest(struct call *c)
{
	struct pollfd input = {.fd = hark_fd(c->in), .events = POLLIN};
	struct hark_conn_stats stats;
	int64_t end = hark_after(CLOSE_MAX);
	bool more = isatty(input.fd) != 1;

	hark_conn_stats(c->peer, &stats);
	while (more && c->running == 2 && hark_sleep(INPUT_NS) == 0) {
		uint64_t sent = stats.bytes_out;
		hark_conn_stats(c->peer, &stats);
		if (stats.bytes_out != sent)
			end = hark_after(CLOSE_MAX);
		else
			more = poll(&input, 1, 0) > 0 && hark_now() < end;
	}
}

static void receive_fiber(void *arg)
{
	struct call *c = arg;
	bool to_failed = false;
	int err = c->stream ? receive_stream(c, &to_failed) : call_receive_messages(c, &to_failed);

	if (err < 0 && to_failed)
		output_failed(c, err);
	else if (err < 0)
		call_fail(c, c->address, err);
	if (err >= 0 && !c->args.send_only) {
		if (c->stream)
			send_rest(c);
		hark_cancel(&c->scope);
	}
	direction_ended(c);
}

/* ---- both -------------------------------------------------------------------------------------- */

/* Both directions count, so neither connection's own time-out would do. Looks ten times in the span, and is late by
 * no more. */
static void idle_fiber(void *arg)
{
	struct call *c = arg;
	struct hark_conn_stats stats;
	int64_t since = hark_now();
	uint64_t bytes = 0;

	while (hark_sleep(c->args.idle_timeout / 10 + 1) == 0) {
		hark_conn_stats(c->peer, &stats);
		if (stats.bytes_in + stats.bytes_out != bytes) {
			bytes = stats.bytes_in + stats.bytes_out;
			since = hark_now();
		} else if (hark_now() - since >= c->args.idle_timeout) {
			call_fail(c, "nothing came or went (--idle-timeout)", -ETIMEDOUT);
		}
	}
}

/* Not an abort where all went well: a peer that has ended its half may still be reading ours. */
static void close_peer(struct call *c)
{
	struct hark_conn_stats stats;

	hark_conn_stats(c->peer, &stats);
	hark_deadline(c->peer, hark_after(CLOSE_MAX));
	if (c->status == STATUS_DONE)
		(void)hark_close(c->peer);
	else
		hark_abort(c->peer);
	c->peer = NULL;
	report_close(c, &stats);
}

void call_carry(struct call *c)
{
	int err = 0;

	c->stream = hark_type(c->peer) == SOCK_STREAM;
	c->running = c->args.recv_only ? 1 : 2;
	hark_scope_open(&c->scope);
	if (!c->args.recv_only)
		err = hark_go(&c->scope, "send", send_fiber, c);
	if (err == 0)
		err = hark_go(&c->scope, "receive", receive_fiber, c);
	if (err == 0 && c->args.idle_timeout > 0)
		err = hark_go(&c->scope, "idle", idle_fiber, c);
	if (err < 0)
		call_fail(c, "fiber", err);
	(void)hark_join(&c->scope, HARK_FOREVER);
	hark_scope_close(&c->scope);
	close_peer(c);
}
