/* reader_support.h — what the tests of import/ share: files in a directory of their own, and what is asked of the
 * document that was made of them. */
#ifndef READER_SUPPORT_H
#define READER_SUPPORT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "import.h"

static char directory[] = "/tmp/hark-test-reader-XXXXXX";

static inline const char *path_of(const char *name)
{
	static char path[2][512];
	static int which;

	which = !which;
	(void)snprintf(path[which], sizeof path[which], "%s/%s", directory, name);
	return path[which];
}

static inline void write_bytes(const char *name, const void *bytes, size_t n)
{
	FILE *f = fopen(path_of(name), "w");

	assert_non_null(f);
	assert_int_equal(fwrite(bytes, 1, n, f), n);
	assert_int_equal(fclose(f), 0);
}

static inline void write_file(const char *name, const char *text)
{
	write_bytes(name, text, strlen(text));
}

static inline const struct document_section *find(const struct document *d, const char *name)
{
	for (size_t i = 0; i < d->n; i++)
		if (strcmp(d->sections[i]->name, name) == 0)
			return d->sections[i];
	return NULL;
}

/* value NULL: it is not set. */
static inline void assert_setting(const struct document *d, const char *section, const char *key, const char *value)
{
	const struct document_section *s = find(d, section);

	if (s == NULL)
		fail_msg("there is no section [%s]; error: %s; at the top: %s", section,
		         d->n_errors > 0 ? d->errors[0] : "none", d->head.n > 0 ? d->head.lines[0].value : "nothing");
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

static inline void assert_error(const struct document *d, const char *file, int line, const char *part)
{
	char begin[600];

	(void)snprintf(begin, sizeof begin, "%s:%d: ", path_of(file), line);
	for (size_t i = 0; i < d->n_errors; i++)
		if (strncmp(d->errors[i], begin, strlen(begin)) == 0 && strstr(d->errors[i], part) != NULL)
			return;
	fail_msg("no error \"%s…%s\" among %zu; the first: %s", begin, part, d->n_errors,
	         d->n_errors > 0 ? d->errors[0] : "none");
}

/* That a service is disabled, and says why. */
static inline void assert_disabled(const struct document *d, const char *section, const char *why)
{
	assert_setting(d, section, "disable", "yes");
	assert_remark(d, section, "disabled: ");
	assert_remark(d, section, why);
}

/* What was made is what harkd reads, as it is and as it is printed. */
static inline void assert_loads(const struct document *d)
{
	struct config *c;
	FILE *f = fopen(path_of("printed.conf"), "w");

	assert_non_null(f);
	assert_int_equal(document_print(d, f), 0);
	assert_int_equal(fclose(f), 0);
	(void)config_load_document(d, &c);
	if (c->n_errors > 0)
		fail_msg("%s", c->errors[0]);
	assert_int_equal(c->n_services, d->n);
	config_free(c);
	(void)config_load(path_of("printed.conf"), &c);
	if (c->n_errors > 0)
		fail_msg("%s", c->errors[0]);
	assert_int_equal(c->n_services, d->n);
	config_free(c);
}

static inline int remove_one(const char *path, const struct stat *st, int kind, struct FTW *ftw)
{
	(void)st, (void)kind, (void)ftw;
	return remove(path);
}

static inline int set_up(void **state)
{
	(void)state;
	return mkdtemp(directory) != NULL ? 0 : -1;
}

static inline int tear_down(void **state)
{
	(void)state;
	return nftw(directory, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

#endif
