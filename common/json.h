/* json.h — JSON (RFC 8259) written member by member into a text: commas and escapes are seen to here and nowhere else.
 *
 * key is NULL within an array, and for the outermost value. Any thread; the text is the caller's. */
#ifndef JSON_H
#define JSON_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "text.h"

struct json {
	struct text *to;
	bool comma; /* a value stands before the next one */
};

void json_open(struct json *j, const char *key, char bracket); /* '{' or '[' */
void json_close(struct json *j, char bracket);                 /* '}' or ']' */

void json_put_string(struct json *j, const char *key, const char *s); /* NULL: null */
void json_put_bytes(struct json *j, const char *key, const char *s, size_t n);
/* At most max bytes of output, and what the text has room for: what is cut is cut within the quotes. */
void json_put_string_max(struct json *j, const char *key, const char *s, size_t max);
void json_put_int(struct json *j, const char *key, int64_t n);
void json_put_count(struct json *j, const char *key, int64_t n); /* below 0: not known, null */
void json_put_real(struct json *j, const char *key, double x, int digits);
void json_put_bool(struct json *j, const char *key, bool b);
void json_put_null(struct json *j, const char *key);

/* Writes what was made, and a newline, and frees the text, which grows. Where there was no memory for all of it, half a
 * value is no JSON: nothing is written. 0 or -ENOMEM; whether to could be written, its owner tells. */
int json_print(struct json *j, FILE *to);

#endif
