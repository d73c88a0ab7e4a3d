/* serve_keys.h — the keys of hark.conf as options of hark serve: one table, read and checked as in a file. */
#ifndef SERVE_KEYS_H
#define SERVE_KEYS_H

#include "config.h"
#include "document.h"
#include "options.h"

#define SERVE_KEYS_MAX 80

/* Writes a row for each key that hark serve has. take: of OPTION_CALL. Returns how many. */
int serve_keys_rows(struct option_row rows[SERVE_KEYS_MAX],
                    int (*take)(const struct verb *v, const char *name, const char *text, void *to));

/* What was given so far. Zeroes are nothing. */
struct serve_keys {
	struct document *document;
	struct document_section *section;
};

/* Adds one, by the option's name or the key's. 0 or the exit code. */
int serve_keys_set(struct serve_keys *k, const struct verb *v, const char *name, const char *text);

/* Makes a service of them, which config_free(*out) frees. 0 or the exit code: what is wrong was said. */
int serve_keys_load(struct serve_keys *k, const struct verb *v, struct config **out);

#endif
