/* text.c — see text.h. No state: any thread, any fiber; the buffer is the caller's. */
#include "text.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

void text_vadd(struct text *t, const char *format, va_list args)
{
	size_t room = t->cap - t->len;
	int n = vsnprintf(t->buf + t->len, room, format, args);

	if (n > 0)
		t->len += (size_t)n < room ? (size_t)n : room - 1;
}

void text_add(struct text *t, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	text_vadd(t, format, args);
	va_end(args);
}

/* The length of the UTF-8 sequence at s, 0 if there is none (RFC 3629 section 4: no surrogates, nothing overlong,
 * nothing past U+10FFFF). */
static size_t utf8_length(const unsigned char *s, size_t n)
{
	size_t len = s[0] < 0x80                   ? 1
	             : s[0] >= 0xc2 && s[0] < 0xe0 ? 2
	             : (s[0] & 0xf0) == 0xe0       ? 3
	             : s[0] >= 0xf0 && s[0] < 0xf5 ? 4
	                                           : 0;

	if (len == 0 || len > n)
		return 0;
	for (size_t i = 1; i < len; i++)
		if ((s[i] & 0xc0) != 0x80)
			return 0;
	if ((s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xed && s[1] > 0x9f) || (s[0] == 0xf0 && s[1] < 0x90) ||
	    (s[0] == 0xf4 && s[1] > 0x8f))
		return 0;
	return len;
}

/* Whether the UTF-8 sequence at s is a control character: of ASCII, or U+0080 to U+009F, which many a terminal obeys as
 * well (ISO 6429: U+009B is ESC [). */
static bool is_control(const unsigned char *s)
{
	return s[0] < ' ' || s[0] == 0x7f || (s[0] == 0xc2 && s[1] < 0xa0);
}

/* Whether the UTF-8 sequence at s turns the direction of what is beside it (U+061C, U+200E, U+200F, U+202A to U+202E,
 * U+2066 to U+2069) or ends a line (U+2028, U+2029): text that is read as something else than it says. */
static bool is_turning(const unsigned char *s)
{
	if (s[0] == 0xd8)
		return s[1] == 0x9c;
	if (s[0] != 0xe2 || (s[1] != 0x80 && s[1] != 0x81))
		return false;
	return s[1] == 0x81 ? s[2] >= 0xa6 && s[2] <= 0xa9
	                    : s[2] == 0x8e || s[2] == 0x8f || (s[2] >= 0xa8 && s[2] <= 0xae);
}

void text_scrub(struct text *t)
{
	unsigned char *s = (unsigned char *)t->buf;

	for (size_t i = 0; i < t->len;) {
		size_t len = utf8_length(s + i, t->len - i);
		if (len == 0 || is_control(s + i))
			memset(s + i, '?', len == 0 ? 1 : len);
		i += len == 0 ? 1 : len;
	}
}

void text_add_json(struct text *t, const char *s, size_t n)
{
	if (s == NULL) {
		text_add(t, "null");
		return;
	}
	text_add(t, "\"");
	for (size_t i = 0; i < n;) {
		unsigned char c = (unsigned char)s[i];
		size_t len = utf8_length((const unsigned char *)s + i, n - i);
		if (len == 0)
			text_add(t, "\\ufffd");
		else if (c == '"' || c == '\\')
			text_add(t, "\\%c", c);
		else if (is_control((const unsigned char *)s + i))
			text_add(t, "\\u%04x", c == 0xc2 ? (unsigned char)s[i + 1] : c);
		else
			text_add(t, "%.*s", (int)len, s + i);
		i += len == 0 ? 1 : len;
	}
	text_add(t, "\"");
}

void text_add_printable(struct text *t, const char *s, size_t n, const char *keep)
{
	for (size_t i = 0; i < n; i++) {
		unsigned char c = (unsigned char)s[i];
		if ((c >= ' ' && c < 0x7f) || (c != '\0' && strchr(keep, c) != NULL))
			text_add(t, "%c", c);
		else
			text_add(t, "\\x%02x", c);
	}
}

void text_add_visible(struct text *t, const char *s, size_t n, const char *keep)
{
	for (size_t i = 0; i < n;) {
		const unsigned char *at = (const unsigned char *)s + i;
		size_t len = utf8_length(at, n - i);
		bool kept = s[i] != '\0' && strchr(keep, s[i]) != NULL;
		if (kept || (len > 0 && !is_control(at) && !is_turning(at))) {
			text_add(t, "%.*s", kept ? 1 : (int)len, s + i);
			i += kept ? 1 : len;
		} else {
			text_add(t, "\\x%02x", *at);
			i++;
		}
	}
}

void text_add_duration(struct text *t, int64_t ns)
{
	if (ns < 1000000)
		text_add(t, "%.0f us", (double)ns / 1e3);
	else if (ns < 1000000000)
		text_add(t, "%.3f ms", (double)ns / 1e6);
	else
		text_add(t, "%.3f s", (double)ns / 1e9);
}

int text_write_line(struct text *t, int fd)
{
	size_t at = 0;

	if (t->len + 1 >= t->cap)
		t->len = t->cap - 1;
	t->buf[t->len++] = '\n';
	while (at < t->len) {
		ssize_t n = write(fd, t->buf + at, t->len - at);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		at += (size_t)n;
	}
	return 0;
}
