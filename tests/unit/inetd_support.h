/* inetd_support.h — what the tests of inetd.conf share: a text that is read, and one that is wrong. */
#ifndef INETD_SUPPORT_H
#define INETD_SUPPORT_H

#include "reader_support.h"

static inline struct document *read_bytes(const void *text, size_t n)
{
	struct document *d = document_new();

	write_bytes("inetd.conf", text, n);
	assert_non_null(d);
	assert_int_equal(import_inetd(d, path_of("inetd.conf")), 0);
	return d;
}

static inline struct document *read_text(const char *text)
{
	return read_bytes(text, strlen(text));
}

/* A text with one mistake, told at that line with that word; and nothing is served of it. */
static inline void assert_wrong(const char *text, int line, const char *part)
{
	struct document *d = read_text(text);
	char begin[300];

	(void)snprintf(begin, sizeof begin, "%s/inetd.conf:%d: ", directory, line);
	if (d->n_errors != 1)
		fail_msg("\"%s\": %zu errors, not one", text, d->n_errors);
	if (strncmp(d->errors[0], begin, strlen(begin)) != 0 || strstr(d->errors[0], part) == NULL)
		fail_msg("\"%s\": %s", text, d->errors[0]);
	assert_int_equal(d->n, 0);
	document_free(d);
}

/* One line whose section has that name and that setting. */
static inline void assert_line(const char *line, const char *section, const char *key, const char *value)
{
	struct document *d = read_text(line);

	assert_clean(d);
	assert_setting(d, section, key, value);
	assert_int_equal(d->n, 1);
	document_free(d);
}

#endif
