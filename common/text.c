/* text.c — see text.h. No state: any thread, any fiber; the buffer is the caller's. */
#include "text.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Room for so many bytes and the NUL. */
static void grow(struct text *t, size_t more)
{
	size_t cap = t->cap;

	while (cap - t->len <= more)
		cap = cap == 0 ? 1024 : 2 * cap;
	char *buf = cap > t->cap ? realloc(t->buf, cap) : t->buf;
	if (buf == NULL) {
		t->failed = true;
		return;
	}
	t->buf = buf;
	t->cap = cap;
}

void text_vadd(struct text *t, const char *format, va_list args)
{
	va_list again;

	va_copy(again, args);
	size_t room = t->cap - t->len;
	int n = vsnprintf(room > 0 ? t->buf + t->len : NULL, room, format, args);
	if (n > 0 && t->grows && (size_t)n >= room) {
		grow(t, (size_t)n);
		room = t->cap - t->len;
		n = vsnprintf(room > 0 ? t->buf + t->len : NULL, room, format, again);
	}
	va_end(again);
	if (n > 0 && room > 0)
		t->len += (size_t)n < room ? (size_t)n : room - 1;
}

void text_free(struct text *t)
{
	free(t->buf);
	*t = (struct text){.grows = t->grows};
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

size_t text_unfinished(const char *s, size_t n)
{
	for (size_t back = 1; back <= 3 && back <= n; back++) {
		unsigned char c = (unsigned char)s[n - back];
		size_t length = c >= 0xf5 ? 0 : c >= 0xf0 ? 4 : c >= 0xe0 ? 3 : c >= 0xc2 ? 2 : 0;
		if (length > back)
			return back;
		if (c < 0x80 || c >= 0xc0)
			break;
	}
	return 0;
}

/* The code point of a whole sequence. */
static uint32_t utf8_decode(const unsigned char *s, size_t len)
{
	uint32_t c = len == 1 ? s[0] : s[0] & (0xffu >> (len + 1));

	for (size_t i = 1; i < len; i++)
		c = c << 6 | (s[i] & 0x3f);
	return c;
}

/* What is not to be seen but changes how the rest is seen: control characters of ASCII and U+0080 to U+009F, which many
 * a terminal obeys as well (ISO 6429: U+009B is ESC [); what Unicode calls format characters, line and paragraph
 * separators (Cf, Zl, Zp), which turn a text around, hide it or break a line; and no characters at all. */
static bool is_control(uint32_t c)
{
	static const struct {
		uint32_t from, to;
	} ranges[] = {
		{0x00, 0x1f},       {0x7f, 0x9f},       {0xad, 0xad},       {0x600, 0x605},     {0x61c, 0x61c},
		{0x6dd, 0x6dd},     {0x70f, 0x70f},     {0x890, 0x891},     {0x8e2, 0x8e2},     {0x180e, 0x180e},
		{0x200b, 0x200b},   {0x200e, 0x200f},   {0x2028, 0x202e},   {0x2060, 0x206f},   {0xfdd0, 0xfdef},
		{0xfeff, 0xfeff},   {0xfff9, 0xfffb},   {0xfffe, 0xffff},   {0x110bd, 0x110bd}, {0x110cd, 0x110cd},
		{0x13430, 0x1343f}, {0x1bca0, 0x1bca3}, {0x1d173, 0x1d17a}, {0xe0000, 0xe0fff},
	};

	for (size_t i = 0; i < sizeof ranges / sizeof *ranges && c >= ranges[i].from; i++)
		if (c <= ranges[i].to)
			return true;
	return false;
}

/* UTF-16, as JSON escapes it. */
static void add_escaped(struct text *t, uint32_t c)
{
	if (c >= 0x10000)
		text_add(t, "\\u%04x\\u%04x", 0xd800 + ((c - 0x10000) >> 10), 0xdc00 + ((c - 0x10000) & 0x3ff));
	else
		text_add(t, "\\u%04x", c);
}

void text_scrub(struct text *t)
{
	unsigned char *s = (unsigned char *)t->buf;

	for (size_t i = 0; i < t->len;) {
		size_t len = utf8_length(s + i, t->len - i);
		if (len == 0 || is_control(utf8_decode(s + i, len)))
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
		else if (is_control(utf8_decode((const unsigned char *)s + i, len)))
			add_escaped(t, utf8_decode((const unsigned char *)s + i, len));
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
		if (kept || (len > 0 && !is_control(utf8_decode(at, len)))) {
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

bool text_close_stream(FILE *to, char **text)
{
	if (to != NULL && fclose(to) == 0 && *text != NULL)
		return true;
	free(*text);
	*text = NULL;
	return false;
}
