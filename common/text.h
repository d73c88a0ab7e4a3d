/* text.h — a line built in the caller's buffer and written by one write(2), and the forms that numbers and foreign
 * bytes take in it.
 *
 * Lines of hark serve come from many processes, threads and fibers at once: stdio would mix them, a single write of
 * less than PIPE_BUF bytes does not (pipe(7)). A text that is full is cut, never overrun. */
#ifndef TEXT_H
#define TEXT_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

struct text {
	char *buf; /* the caller's; always NUL-terminated once something was added */
	size_t cap, len;
	bool grows;  /* buf is malloc(3)'s, NULL at first, and made larger as needed: text_free() */
	bool failed; /* there was no memory for it: something is missing */
};

#define TEXT_LINE_MAX 4096 /* bytes: PIPE_BUF on Linux */

void text_add(struct text *t, const char *format, ...) __attribute__((format(printf, 2, 3)));
void text_vadd(struct text *t, const char *format, va_list args);
void text_free(struct text *t); /* of one that grows; it is empty then */

/* A JSON string, quotes included (RFC 8259 section 7). Bytes that are not UTF-8 become U+FFFD, control characters are
 * escaped, those from U+0080 to U+009F too, and so is what else Unicode has that changes how a text is seen (U+202E,
 * U+2028). s NULL: null. */
void text_add_json(struct text *t, const char *s, size_t n);

/* Foreign bytes as printable ASCII: the others as \xNN, so that no peer writes to our terminal. keep: bytes that
 * stay. */
void text_add_printable(struct text *t, const char *s, size_t n, const char *keep);

/* Foreign bytes for a person to read: text in UTF-8 stays, without control characters and without those that turn the
 * direction of what is beside them; the others as \xNN. keep: bytes that stay. */
void text_add_visible(struct text *t, const char *s, size_t n, const char *keep);

/* How many bytes at the end of these n may begin a character of UTF-8 that the next ones end: 0 to 3. */
size_t text_unfinished(const char *s, size_t n);

/* Makes what is in t fit to be shown on a terminal: what text_add_json() would escape but quotes becomes '?'. */
void text_scrub(struct text *t);

/* "812 us", "1.203 ms", "3.2 s". */
void text_add_duration(struct text *t, int64_t ns);

/* Adds the newline and writes all of it to fd. 0 or -errno. */
int text_write_line(struct text *t, int fd);

/* Ends an open_memstream(3), or the NULL that it returned, whose text is *text: NULL before, the caller's to free.
 * False: there was no memory for all of it, and *text is NULL. glibc's fclose(3) does not tell where the last byte has
 * none. */
bool text_close_stream(FILE *to, char **text);

#endif
