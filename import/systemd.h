/* systemd.h — a systemd unit taken apart: systemd.c reads it, systemd_service.c and systemd_directives.c make
 * settings of it. */
#ifndef SYSTEMD_H
#define SYSTEMD_H

#include <limits.h>

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

/* ---- systemd_search.c ---- */

/* The directories that a unit is looked for in. */
struct systemd_path {
	const char *const *names; /* systemd's own, below root; NULL: alone */
	char root[PATH_MAX / 2], alone[PATH_MAX];
};

enum systemd_found { SYSTEMD_NOT_FOUND = 0, SYSTEMD_FOUND, SYSTEMD_MASKED };

void systemd_search_path(struct systemd_path *p, const char *directory);

/* Follows path where it is a link: path becomes what it is to. p, name: the unit's; a link out of p keeps both. */
void systemd_resolve(struct systemd_path *p, char path[PATH_MAX], char name[NAME_MAX + 1]);

/* The file of the unit of that name, or of its template. MASKED: path is what masks it, a link to /dev/null or an empty
 * file. */
enum systemd_found systemd_find(const struct systemd_path *p, const char *name, char path[PATH_MAX]);

/* name becomes the unit's own, where it is an alias. False: that one is no name. */
bool systemd_own_name(const struct systemd_path *p, char name[NAME_MAX + 1]);

/* Reads the drop-ins of the unit of that name and of its aliases, in their order. */
void systemd_drop_ins(struct document *d, const struct systemd_path *p, const char *name,
                      void (*read)(struct document *d, struct unit *u, const char *path), struct unit *u);

/* "x@.socket" of "x@a.socket"; false: it is no instance. */
bool systemd_template(const char *name, char *buf, size_t cap);

/* What follows the last '/'. */
const char *systemd_base(const char *path);

/* ---- systemd_words.c ---- */

/* Cuts the next word off *at as systemd.service(5) has it: '..', "..", \n, \x41, \u20ac … NULL: there is none. The word
 * is the caller's to free; *bad (may be NULL) becomes true at an escape that is none, or a quote that does not end. */
char *systemd_cut(struct document *d, const char **at, bool *bad);

/* text with its %-specifiers put in, the caller's to free. NULL: it has one that is only known when the unit runs,
 * *which, or no memory. */
char *systemd_specify(struct document *d, const struct unit *u, const char *text, char *which);

/* "5min 20s", "infinity" (INT64_MAX), "30" of units (in ns). 0 or -EINVAL. */
int systemd_time(const char *text, int64_t unit_ns, int64_t *ns);

/* "16M", "infinity" (INT64_MAX). 0 or -EINVAL. */
int systemd_size(const char *text, int64_t *n);

#endif
