/* systemd.h — a systemd unit taken apart: systemd.c reads it, systemd_service.c and systemd_directives.c make
 * settings of it. */
#ifndef SYSTEMD_H
#define SYSTEMD_H

#include "reading.h"

struct unit_line {
	char *section, *key, *value;
	struct config_place place;
};

/* A unit with its drop-ins, in the order in which systemd applies them. */
struct unit {
	char *name;    /* "x.socket"; for specifiers */
	bool user;     /* of a user's own systemd */
	bool has_main; /* its own file was read, not only drop-ins */
	struct unit_line *lines;
	size_t n;
};

/* What the line says holds: no later one, and no later empty one, takes its place. list: the key may be given several
 * times. */
bool unit_holds(const struct unit *u, size_t line, bool list);

/* The value that holds, or NULL. */
const struct unit_line *unit_last(const struct unit *u, const char *section, const char *key);

/* One section of u, x.socket, and s, its service: NULL if there is none, and wanted is the name it should have. */
void systemd_make(struct document *d, const struct unit *u, const struct unit *s, const char *wanted,
                  struct config_place place);

/* Whether systemd takes that for yes (1) or no (0); -1: for neither. */
int systemd_yes(const char *text);

/* ---- systemd_words.c ---- */

/* Cuts the next word off *at as systemd.service(5) has it: '..', "..", \n, \x41 … NULL: there is none. The word is the
 * caller's to free; plain (may be NULL): neither a quote nor a backslash was in it. */
char *systemd_cut(struct document *d, const char **at, bool *plain);

/* text with its %-specifiers put in, the caller's to free. NULL: it has one that is only known when the unit runs,
 * *which, or no memory. */
char *systemd_specify(struct document *d, const struct unit *u, const char *text, char *which);

/* "5min 20s", "infinity" (INT64_MAX), "30" of units (in ns). 0 or -EINVAL. */
int systemd_time(const char *text, int64_t unit_ns, int64_t *ns);

/* "16M", "infinity" (INT64_MAX). 0 or -EINVAL. */
int systemd_size(const char *text, int64_t *n);

#endif
