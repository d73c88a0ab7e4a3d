/* draft.h — a configuration in the making: sections of settings and remarks, in order, each knowing the place it comes
 * from.
 *
 * What inetd.conf, xinetd.conf and systemd units say is turned into a draft. A draft can be printed as hark.conf (hark
 * import), remarks as comments; or loaded (harkd --inetd, config_load_draft()). One translation serves both.
 *
 * Memory: a call that finds none makes the draft "broken"; everything after is ignored, and draft_broken() tells once
 * at the end. Any thread, one at a time. */
#ifndef DRAFT_H
#define DRAFT_H

#include <stdbool.h>
#include <stdio.h>

#include "config.h"

enum draft_kind {
	DRAFT_SETTING = 1, /* key = value */
	DRAFT_REMARK,      /* a comment; what could not be carried over begins "not carried over: " */
};

struct draft_line {
	enum draft_kind kind;
	char *key, *value; /* REMARK: value alone */
	struct config_place place;
};

struct draft_section {
	char *name; /* unique in the draft: "telnet", then "telnet-2" */
	struct config_place place;
	struct draft_line *lines;
	size_t n;
};

#define DRAFT_NOT_CARRIED "not carried over: " /* what draft_drop() puts before its words */

/* What a reader made of one directive of its input: for the table of hark import --report. */
enum draft_fate { DRAFT_CARRIED = 0, DRAFT_DROPPED, DRAFT_FATES };

struct draft {
	struct draft_section **sections;
	size_t n;
	char **errors; /* "FILE:LINE: …": what could not be read at all; the rest was */
	size_t n_errors;
	size_t fates[DRAFT_FATES];
	char **files; /* names that places point at */
	size_t n_files;
	struct draft_section head; /* remarks at the top of the file; its name is NULL */
	bool broken;
};

struct draft *draft_new(void); /* NULL: no memory */
void draft_free(struct draft *d);

/* Memory was short: the draft is not whole. */
bool draft_broken(const struct draft *d);

/* A copy of file's name that lives as long as the draft. */
const char *draft_file(struct draft *d, const char *file);

/* A new section; name is made unique and its characters what a section name may have ([A-Za-z0-9._-]). Never NULL
 * unless broken: then NULL, which the calls below take. */
struct draft_section *draft_section(struct draft *d, const char *name, struct config_place place);

/* key = value, value as printf(3). Counts as carried over. */
void draft_set(struct draft *d, struct draft_section *s, struct config_place place, const char *key, const char *format,
               ...) __attribute__((format(printf, 5, 6)));

/* A comment in the section; s NULL: at the top of the file. */
void draft_remark(struct draft *d, struct draft_section *s, struct config_place place, const char *format, ...)
	__attribute__((format(printf, 4, 5)));

/* "not carried over: …": a comment that counts as dropped. */
void draft_drop(struct draft *d, struct draft_section *s, struct config_place place, const char *format, ...)
	__attribute__((format(printf, 4, 5)));

void draft_error(struct draft *d, struct config_place place, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

/* The last value set for key, or NULL. */
const char *draft_get(const struct draft_section *s, const char *key);

/* Takes the section out again (a service that turned out to be none). */
void draft_remove(struct draft *d, struct draft_section *s);

/* As hark.conf. 0 or -errno. */
int draft_print(const struct draft *d, FILE *to);

/* A word as hark.conf's exec and env take it: quoted where it must be. Returns buf. Words that do not fit are cut: give
 * it 2 * strlen + 3. */
const char *draft_quote(const char *word, char *buf, size_t cap);

/* Readers. Each adds to d what file says; a mistake is one of d's errors and never ends the reading of the rest. A file
 * that cannot be read is an error too. Return 0, or -ENOMEM. */
int draft_read_inetd(struct draft *d, const char *file);
int draft_read_xinetd(struct draft *d, const char *file);
/* socket_file: X.socket; its service is beside it (X@.service, X.service, or Service=). */
int draft_read_systemd(struct draft *d, const char *socket_file);

#endif
