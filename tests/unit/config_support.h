/* config_support.h — what the tests of hark.conf share: a text that is loaded, and what is said of it. */
#ifndef CONFIG_SUPPORT_H
#define CONFIG_SUPPORT_H

#include "net_support.h"

#include "inside.h"

static inline struct config *load_bytes(const char *bytes, size_t n)
{
	struct config *c = NULL;
	int r = inside_load_bytes("t.conf", bytes, n, &c);
	assert_non_null(c);
	assert_int_equal(r, c->n_errors);
	return c;
}

static inline struct config *load(const char *text)
{
	return load_bytes(text, strlen(text));
}

static inline struct config *load_good(const char *text)
{
	struct config *c = load(text);
	for (size_t i = 0; i < c->n_errors; i++)
		print_error("%s\n", c->errors[i]);
	assert_int_equal(c->n_errors, 0);
	return c;
}

static inline bool says(char *const *list, size_t n, const char *what)
{
	for (size_t i = 0; i < n; i++)
		if (strstr(list[i], what) != NULL)
			return true;
	for (size_t i = 0; i < n; i++)
		print_error("not \"%s\" but: %s\n", what, list[i]);
	return false;
}

/* One error, with those words in it. */
static inline void expect_error(const char *text, const char *what)
{
	struct config *c = load(text);
	if (c->n_errors != 1 || !says(c->errors, c->n_errors, what)) {
		print_error("for:\n%s\n%zu errors, wanted: %s\n", text, c->n_errors, what);
		says(c->errors, c->n_errors, "?");
		fail();
	}
	config_free(c);
}

static inline void expect_warning(const char *text, const char *what)
{
	struct config *c = load_good(text);
	assert_true(says(c->warnings, c->n_warnings, what));
	config_free(c);
}

static inline bool has_line(const char *text, const char *line)
{
	size_t n = strlen(line);
	for (const char *p = text; (p = strstr(p, line)) != NULL; p++)
		if ((p == text || p[-1] == '\n') && p[n] == '\n')
			return true;
	return false;
}

#define ECHO "[s]\nlisten = tcp://*:7\nbox = echo\n"
#define CAT  "[s]\nlisten = tcp://*:7\nexec = cat\n"

#endif
