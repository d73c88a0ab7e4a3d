/* screen.c — see screen.h. */
#include "screen.h"

#include <stdbool.h>
#include <string.h>

#include "text.h"

#define STEP_BYTES 512 /* shown at a time: each may become four */

/* How many bytes at the end of the n at s may be the beginning of something that the next ones finish. */
static size_t unfinished(const char *s, size_t n)
{
	static const unsigned char leads[] = {0xc0, 0xe0, 0xf0}; /* of two, three and four bytes (RFC 3629 section 3) */

	if (n > 0 && s[n - 1] == '\r')
		return 1;
	for (size_t back = 1; back <= 3 && back <= n; back++) {
		unsigned char c = (unsigned char)s[n - back];
		if ((c & 0xc0) == 0x80)
			continue;
		return c >= leads[back - 1] && c < 0xf8 ? back : 0;
	}
	return 0;
}

static int show(struct hark_conn *out, const char *s, size_t n)
{
	char buf[4 * STEP_BYTES + 1];
	struct text t = {.buf = buf, .cap = sizeof buf};

	text_add_visible(&t, s, n, "\n\t");
	ssize_t r = t.len > 0 ? hark_write(out, buf, t.len) : 0;
	return r < 0 ? (int)r : 0;
}

/* A line's end is shown as one, whichever form it has. */
static int show_lines(struct hark_conn *out, const char *s, size_t n)
{
	const char *end;
	int r = 0;

	while (r == 0 && (end = memmem(s, n, "\r\n", 2)) != NULL) {
		r = show(out, s, (size_t)(end - s));
		n -= (size_t)(end + 1 - s);
		s = end + 1;
	}
	return r < 0 ? r : show(out, s, n);
}

int screen_write(struct screen *s, struct hark_conn *out, const char *bytes, size_t n)
{
	int r = 0;

	while (n > 0 && r == 0) {
		char piece[STEP_BYTES];
		size_t room = sizeof piece - s->n, step = n < room ? n : room, len = s->n + step;
		memcpy(piece, s->held, s->n);
		memcpy(piece + s->n, bytes, step);
		s->n = unfinished(piece, len);
		memcpy(s->held, piece + len - s->n, s->n);
		r = show_lines(out, piece, len - s->n);
		bytes += step;
		n -= step;
	}
	return r < 0 ? r : hark_flush(out);
}

int screen_end(struct screen *s, struct hark_conn *out)
{
	int r = show(out, s->held, s->n);

	s->n = 0;
	return r < 0 ? r : hark_flush(out);
}
