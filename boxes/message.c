/* message.c — reads a message, shows it on standard output, and answers that it got it.
 *
 * A stream's message goes up to its end (the peer's half-close) or to MESSAGE_MAX bytes, a datagram is one. It is
 * shown a line at a time, each after its sender's address, with control characters, and every byte that is not valid
 * for a terminal, made visible: \n ends a shown line; others are written ^X or \xHH. So no message can move a
 * terminal's cursor, or pass for another sender's. A message that was cut (reset, timed out) is neither shown nor
 * answered. The answer is "+ got N bytes", in the manner of RFC 1312 section 2, or as much of it as the request was
 * long (reply.h).
 *
 * Showing may wait for a slow terminal or pipe: it is done off the loop, each message by one write(2), so that
 * messages do not mix. */
#include "reply.h"
#include "table.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MESSAGE_MAX 4096 /* bytes taken of one message */

struct shown {
	char *text;
	size_t len;
	bool ok;
};

static void write_out(void *arg)
{
	struct shown *s = arg;
	size_t done = 0;
	while (done < s->len) {
		ssize_t n = write(STDOUT_FILENO, s->text + done, s->len - done);
		if (n < 0 && errno != EINTR)
			break;
		done += n > 0 ? (size_t)n : 0;
	}
	s->ok = done == s->len;
}

/* Appends one byte as it is shown: at most 4 characters. */
static char *put_visible(char *out, unsigned char byte)
{
	if ((byte >= ' ' && byte <= '~') || byte == '\t')
		*out++ = (char)byte;
	else if (byte < ' ')
		out += sprintf(out, "^%c", byte + '@');
	else
		out += sprintf(out, "\\x%02x", byte);
	return out;
}

/* Lays message out in *s, its text to be freed. False: out of memory. */
static bool lay_out(const unsigned char *message, size_t n, const char *from, struct shown *s)
{
	char visible[4 * HARK_ADDRESS_MAX], *end = visible; /* a unix peer chooses its own path */
	size_t lines = 1;
	for (const char *p = from; *p != '\0'; p++)
		end = put_visible(end, (unsigned char)*p);
	size_t from_len = (size_t)(end - visible);
	for (size_t i = 0; i < n; i++)
		lines += message[i] == '\n';
	s->text = malloc(lines * (from_len + 3) + 4 * n + 1);
	if (s->text == NULL)
		return false;
	char *out = s->text;
	size_t i = 0;
	do {
		out = mempcpy(out, visible, from_len);
		out = mempcpy(out, ": ", 2);
		for (; i < n && message[i] != '\n'; i++)
			if (!(message[i] == '\r' && i + 1 < n && message[i + 1] == '\n'))
				out = put_visible(out, message[i]);
		*out++ = '\n';
		i++;
	} while (i < n);
	s->len = (size_t)(out - s->text);
	return true;
}

static bool show(struct hark_conn *c, const char *message, size_t n)
{
	char from[HARK_ADDRESS_MAX];
	struct shown s = {0};
	if (hark_peer(c, from, sizeof from) < 0)
		strcpy(from, "unknown");
	if (!lay_out((const unsigned char *)message, n, from, &s))
		return false;
	if (hark_offload(write_out, &s) < 0)
		s.ok = false;
	free(s.text);
	return s.ok;
}

/* Reads up to the end or cap bytes. Returns how many, or -errno. */
static ssize_t take(struct hark_conn *c, char *buf, size_t cap)
{
	size_t have = 0;
	while (have < cap) {
		ssize_t n = hark_read(c, buf + have, cap - have);
		if (n < 0)
			return n;
		if (n == 0)
			break;
		have += (size_t)n;
		if (hark_type(c) == SOCK_DGRAM)
			break;
	}
	return (ssize_t)have;
}

static void message_serve(struct hark_conn *c, void *arg)
{
	char message[MESSAGE_MAX], answer[40];
	ssize_t limit = reply_limit(c, arg);
	ssize_t n = take(c, message, sizeof message);
	if (n < 0 || (n == 0 && hark_type(c) == SOCK_STREAM) || !show(c, message, (size_t)n) || limit < 0)
		return;
	int len = snprintf(answer, sizeof answer, "+ got %zd bytes\r\n", n);
	(void)reply_write(c, answer, limit < len ? (size_t)limit : (size_t)len);
}

const struct hark_box_row message_box = {
	.version = HARK_BOX_VERSION,
	.name = "message",
	.summary = "shows a message on standard output and answers that it got it",
	.options = reply_options,
	.state_bytes = sizeof(struct reply_rules),
	.stream = true,
	.datagram = true,
	.client_first = true,
	.open = reply_open,
	.serve = message_serve,
};
