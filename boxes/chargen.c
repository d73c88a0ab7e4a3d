/* chargen.c — lines of 72 characters, each starting one character later in the alphabet than the one before. RFC 864.
 *
 * The 95 printing characters make 95 different lines, 7,030 bytes that then repeat: they are laid out once for each
 * connection and written again and again. What the peer sends is not looked at. A drain ends it at the end of such a
 * round, since nothing else would. A datagram is answered with 0 to 512 of those bytes, at most as many as it had
 * (reply.h). */
#include "reply.h"
#include "table.h"

#include <stdlib.h>

#define FIRST_CHAR   ' '
#define CHARS        95 /* ' ' to '~' */
#define LINE_CHARS   72
#define LINE_BYTES   (LINE_CHARS + 2)
#define DATAGRAM_MAX 512 /* bytes, RFC 864 */

static size_t lay_out(char *out, int lines)
{
	char *p = out;
	for (int line = 0; line < lines; line++) {
		for (int i = 0; i < LINE_CHARS; i++)
			*p++ = (char)(FIRST_CHAR + (line + i) % CHARS);
		*p++ = '\r';
		*p++ = '\n';
	}
	return (size_t)(p - out);
}

static void chargen_stream(struct hark_conn *c)
{
	char lines[CHARS * LINE_BYTES];
	size_t n = lay_out(lines, CHARS);
	while (hark_drain_deadline() == HARK_FOREVER && hark_write(c, lines, n) > 0)
		if (hark_yield() < 0) /* a peer that is fast enough would otherwise have the loop to itself */
			break;
}

static void chargen_serve(struct hark_conn *c, void *arg)
{
	if (hark_type(c) == SOCK_STREAM) {
		chargen_stream(c);
		return;
	}
	ssize_t limit = reply_limit(c, arg);
	if (limit < 0)
		return;
	char lines[(DATAGRAM_MAX / LINE_BYTES + 1) * LINE_BYTES];
	(void)lay_out(lines, DATAGRAM_MAX / LINE_BYTES + 1);
	size_t n = arc4random_uniform(DATAGRAM_MAX + 1);
	(void)reply_write(c, lines, limit < (ssize_t)n ? (size_t)limit : n);
}

const struct hark_box_row chargen_box = {
	.version = HARK_BOX_VERSION,
	.name = "chargen",
	.summary = "lines of characters without end (RFC 864)",
	.options = reply_options,
	.state_bytes = sizeof(struct reply_rules),
	.stream = true,
	.datagram = true,
	.open = reply_open,
	.serve = chargen_serve,
};
