/* inetd_support.h — what the tests of inetd.conf share: a text read to a draft, and looking for what is in it. */
#ifndef INETD_SUPPORT_H
#define INETD_SUPPORT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "import.h"

static char directory[] = "/tmp/hark-test-inetd-XXXXXX";

static inline const char *path_of(const char *name)
{
	static char path[256];

	(void)snprintf(path, sizeof path, "%s/%s", directory, name);
	return path;
}

static inline void write_file(const char *name, const void *text, size_t n)
{
	FILE *f = fopen(path_of(name), "w");

	assert_non_null(f);
	assert_int_equal(fwrite(text, 1, n, f), n);
	assert_int_equal(fclose(f), 0);
}

static inline struct document *read_bytes(const void *text, size_t n)
{
	struct document *d = document_new();

	write_file("inetd.conf", text, n);
	assert_non_null(d);
	assert_int_equal(import_inetd(d, path_of("inetd.conf")), 0);
	return d;
}

static inline struct document *read_text(const char *text)
{
	return read_bytes(text, strlen(text));
}

static inline struct document_section *find(const struct document *d, const char *name)
{
	for (size_t i = 0; i < d->n; i++)
		if (strcmp(d->sections[i]->name, name) == 0)
			return d->sections[i];
	return NULL;
}

static inline void assert_setting(const struct document *d, const char *section, const char *key, const char *value)
{
	const struct document_section *s = find(d, section);

	if (s == NULL)
		fail_msg("there is no section [%s] of %zu; error: %s", section, d->n,
		         d->n_errors > 0 ? d->errors[0] : "none");
	const char *got = document_get(s, key);
	if (value == NULL ? got != NULL : got == NULL || strcmp(got, value) != 0)
		fail_msg("[%s] %s = %s, not %s", section, key, got != NULL ? got : "(none)",
		         value != NULL ? value : "(none)");
}

/* section NULL: at the top. */
static inline bool has_remark(const struct document *d, const char *section, const char *part)
{
	const struct document_section *s = section != NULL ? find(d, section) : &d->head;

	for (size_t i = 0; s != NULL && i < s->n; i++)
		if (s->lines[i].kind == DOCUMENT_REMARK && strstr(s->lines[i].value, part) != NULL)
			return true;
	return false;
}

static inline void assert_remark(const struct document *d, const char *section, const char *part)
{
	if (!has_remark(d, section, part))
		fail_msg("[%s] has no remark with \"%s\"", section != NULL ? section : "top", part);
}

static inline void assert_clean(const struct document *d)
{
	if (d->n_errors > 0)
		fail_msg("%s", d->errors[0]);
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

static inline int make_directory(void **state)
{
	(void)state;
	return mkdtemp(directory) == NULL ? -1 : 0;
}

static inline int remove_directory(void **state)
{
	static const char *const names[] = {"sub/a.conf", "sub/b.conf", "sub", "inetd.conf"};
	char name[32];

	(void)state;
	for (int i = 0; i < 20; i++) {
		(void)snprintf(name, sizeof name, "chain%d", i);
		(void)remove(path_of(name));
	}
	for (size_t i = 0; i < sizeof names / sizeof *names; i++)
		(void)remove(path_of(names[i]));
	return rmdir(directory);
}

#endif
