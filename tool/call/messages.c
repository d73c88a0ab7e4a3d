/* messages.c — the two directions of a call over datagrams.
 *
 * What one read of the input gives, or with --lines one line, is a datagram; what does not fit into one goes as
 * several: no byte of the input is refused. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "call.h"
#include "carry.h"
#include "screen.h"

#define RECEIVE_MAX (256 << 10) /* bytes: more than any datagram at the system's default limits, unix(7) */

struct outgoing {
	char in[CALL_DATAGRAM_MAX + 1];
	char crlf[2 * CALL_DATAGRAM_MAX]; /* every byte may be a line's end */
	char last;                        /* the byte that went before */
};

/* The next datagram's bytes from the input. 0: the end. */
static ssize_t read_message(struct call *c, char *buf)
{
	if (!c->args.lines)
		return hark_read(c->in, buf, CALL_DATAGRAM_MAX);
	ssize_t n = hark_readline(c->in, buf, CALL_DATAGRAM_MAX + 1);
	return n == -EMSGSIZE ? hark_read(c->in, buf, CALL_DATAGRAM_MAX) : n;
}

/* In as many datagrams as it takes. */
static ssize_t write_message(struct call *c, const char *bytes, size_t n)
{
	ssize_t r = 0;

	for (size_t at = 0; at < n && r >= 0;) {
		size_t step = n - at < CALL_DATAGRAM_MAX ? n - at : CALL_DATAGRAM_MAX;
		r = hark_write(c->peer, bytes + at, step);
		at += step;
	}
	return r;
}

int call_send_messages(struct call *c, bool *to_failed)
{
	struct outgoing *o = calloc(1, sizeof *o);
	ssize_t n;

	*to_failed = false;
	if (o == NULL)
		return -ENOMEM;
	while ((n = read_message(c, o->in)) > 0) {
		ssize_t err = c->args.crlf ? write_message(c, o->crlf, carry_crlf(o->crlf, o->in, (size_t)n, &o->last))
		                           : write_message(c, o->in, (size_t)n);
		if (err < 0) {
			*to_failed = true;
			n = err;
			break;
		}
	}
	free(o);
	return (int)n;
}

/* Each datagram whole: on a terminal what of it can be shown. */
static int show_message(struct call *c, const char *bytes, size_t n)
{
	struct screen s = {.n = 0};

	if (c->to_terminal) {
		int r = screen_write(&s, c->out, bytes, n);
		return r < 0 ? r : screen_end(&s, c->out);
	}
	ssize_t r = hark_write(c->out, bytes, n);
	return r < 0 ? (int)r : hark_flush(c->out);
}

int call_receive_messages(struct call *c, bool *to_failed)
{
	char *buf = malloc(RECEIVE_MAX);
	ssize_t n = -ENOMEM;
	int left = c->args.count;

	while (buf != NULL && (n = hark_read(c->peer, buf, RECEIVE_MAX)) >= 0) {
		c->last_in_ns = hark_now();
		if (!c->args.send_only && (n = show_message(c, buf, (size_t)n)) < 0) {
			*to_failed = true;
			break;
		}
		if (left > 0 && --left == 0)
			break;
	}
	free(buf);
	return (int)n;
}
