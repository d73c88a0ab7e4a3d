/* screen.c — see screen.h. */
#include "screen.h"

#include <stdbool.h>
#include <string.h>

#include "text.h"

#define STEP_BYTES 512 /* shown at a time: each may become four */

/* How many bytes at the end of the n at s may be the beginning of something that the next ones finish. */
static size_t unfinished(const char *s, size_t n)
{
	return n > 0 && s[n - 1] == '\r' ? 1 : text_unfinished(s, n);
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
