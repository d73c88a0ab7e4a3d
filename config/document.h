/* document.h — a configuration as text with places: sections of settings and remarks, in order.
 *
 * import/ reads inetd.conf, xinetd.conf and systemd units into one. It can be printed as hark.conf, remarks as comments
 * (hark import), or loaded (harkd --inetd, config_load_document()): one translation serves both.
 *
 * Memory: a call that finds none makes the document "broken"; everything after is ignored, and document_broken() tells
 * once at the end. Any thread, one at a time. */
#ifndef DOCUMENT_H
#define DOCUMENT_H

#include <stdbool.h>
#include <stdio.h>

#include "config.h"

enum document_kind {
	DOCUMENT_SETTING = 1, /* key = value */
	DOCUMENT_REMARK,      /* a comment; what could not be carried over begins "not carried over: " */
};

struct document_line {
	enum document_kind kind;
	char *key, *value; /* REMARK: value alone */
	struct config_place place;
};

struct document_section {
	char *name; /* unique in the document: "telnet", then "telnet-2" */
	struct config_place place;
	struct document_line *lines;
	size_t n;
	bool disabled; /* document_disable() */
};

#define DOCUMENT_NOT_CARRIED "not carried over: " /* what document_drop() puts before its words */

/* What a reader made of one directive of its input: for the table of hark import --report. */
enum document_fate { DOCUMENT_CARRIED = 0, DOCUMENT_DROPPED, DOCUMENT_FATES };

struct document {
	struct document_section **sections;
	size_t n;
	char **errors; /* "FILE:LINE: …": what could not be read at all; the rest was */
	size_t n_errors;
	size_t fates[DOCUMENT_FATES];
	char **files; /* names that places point at */
	size_t n_files;
	struct document_section head; /* remarks at the top of the file; its name is NULL */
	size_t refused;               /* services that got no section: document_refuse() */
	bool unread;                  /* the file itself could not be read: the errors say why */
	bool broken;
};

struct document *document_new(void); /* NULL: no memory */
void document_free(struct document *d);

/* Memory was short: the document is not whole. */
bool document_broken(const struct document *d);

/* A copy of file's name that lives as long as the document. */
const char *document_file(struct document *d, const char *file);

/* A new section; name is made unique and its characters what a section name may have ([A-Za-z0-9._-]). Never NULL
 * unless broken: then NULL, which the calls below take. */
struct document_section *document_section(struct document *d, const char *name, struct config_place place);

/* key = value, value as printf(3). Counts as carried over. */
void document_set(struct document *d, struct document_section *s, struct config_place place, const char *key,
                  const char *format, ...) __attribute__((format(printf, 5, 6)));

/* disable = yes by the reader's own decision, where its input has the service on. */
void document_disable(struct document *d, struct document_section *s, struct config_place place);

/* A comment in the section; s NULL: at the top of the file. */
void document_remark(struct document *d, struct document_section *s, struct config_place place, const char *format, ...)
	__attribute__((format(printf, 4, 5)));

/* "not carried over: …": a comment that counts as dropped. */
void document_drop(struct document *d, struct document_section *s, struct config_place place, const char *format, ...)
	__attribute__((format(printf, 4, 5)));

/* "not carried over: service NAME: why", at the top of the file: a whole service that hark has not. */
void document_refuse(struct document *d, struct config_place place, const char *name, const char *why);

void document_error(struct document *d, struct config_place place, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

/* The last value set for key, or NULL. */
const char *document_get(const struct document_section *s, const char *key);

/* Takes the section out again (a service that turned out to be none). */
void document_remove(struct document *d, struct document_section *s);

/* As hark.conf. 0 or -errno. */
int document_print(const struct document *d, FILE *to);

/* A word as hark.conf's exec and env take it: quoted where it must be. Returns buf. Words that do not fit are cut: give
 * it 2 * strlen + 3. */
const char *document_quote(const char *word, char *buf, size_t cap);

#endif
