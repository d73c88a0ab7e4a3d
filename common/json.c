/* json.c — see json.h. */
#include "json.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

static void begin(struct json *j, const char *key)
{
	if (j->comma)
		text_add(j->to, ",");
	j->comma = true;
	if (key == NULL)
		return;
	text_add_json(j->to, key, strlen(key));
	text_add(j->to, ":");
}

void json_open(struct json *j, const char *key, char bracket)
{
	begin(j, key);
	text_add(j->to, "%c", bracket);
	j->comma = false;
}

void json_close(struct json *j, char bracket)
{
	text_add(j->to, "%c", bracket);
	j->comma = true;
}

void json_put_string(struct json *j, const char *key, const char *s)
{
	begin(j, key);
	text_add_json(j->to, s, s != NULL ? strlen(s) : 0);
}

void json_put_bytes(struct json *j, const char *key, const char *s, size_t n)
{
	begin(j, key);
	text_add_json(j->to, s, n);
}

void json_put_string_max(struct json *j, const char *key, const char *s, size_t max)
{
	size_t n = s != NULL ? strnlen(s, max) : 0;

	begin(j, key);
	struct text *t = j->to;
	size_t room = t->cap - t->len;
	struct text value = {.buf = t->buf + t->len, .cap = max + 1 < room ? max + 1 : room};
	for (;; n = n * 3 / 4) {
		value.len = 0;
		text_add_json(&value, s, n);
		if (value.len + 1 < value.cap || n == 0)
			break;
	}
	t->len += value.len;
}

void json_put_int(struct json *j, const char *key, int64_t n)
{
	begin(j, key);
	text_add(j->to, "%" PRId64, n);
}

void json_put_count(struct json *j, const char *key, int64_t n)
{
	if (n < 0)
		json_put_null(j, key);
	else
		json_put_int(j, key, n);
}

void json_put_real(struct json *j, const char *key, double x, int digits)
{
	begin(j, key);
	text_add(j->to, "%.*f", digits, x);
}

void json_put_bool(struct json *j, const char *key, bool b)
{
	begin(j, key);
	text_add(j->to, b ? "true" : "false");
}

void json_put_null(struct json *j, const char *key)
{
	begin(j, key);
	text_add(j->to, "null");
}

int json_print(struct json *j, FILE *to)
{
	int err = j->to->failed ? -ENOMEM : 0;

	if (err == 0)
		(void)fprintf(to, "%s\n", j->to->buf);
	text_free(j->to);
	return err;
}
