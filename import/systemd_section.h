/* systemd_section.h — a section of hark.conf being made of a socket unit and its service: what systemd_service.c, which
 * makes address and program, and systemd_directives.c, which makes all other lines, share. */
#ifndef SYSTEMD_SECTION_H
#define SYSTEMD_SECTION_H

#include "systemd.h"

struct systemd_section {
	struct document *d;
	struct document_section *s;
	const struct unit *socket, *service; /* service NULL: it was not found */
	struct config_place place;
	bool accept;    /* a program a connection */
	bool on_stdin;  /* the program has it as its standard input */
	bool relay;     /* the program is systemd-socket-proxyd(8) */
	bool unix_path; /* one of the addresses is a path */
	bool not_known; /* its user is systemd's own (DynamicUser=) */
	struct config_words listen, argv, groups, env, pass_env;
	struct config_place env_at, pass_at, groups_at;
	const struct unit_line *shown; /* ExecStart= */
	size_t bytes;                  /* of argv so far */
	char why[96];                  /* why it is disabled; "": it is not */
};

/* Remembers why the section must be disabled; the first reason is the one that is told. */
void systemd_disable(struct systemd_section *m, const char *why);

/* "KEY=VALUE: why" is not carried over. */
void systemd_drop(struct systemd_section *m, const struct unit_line *l, const char *why);

/* The same of what would let in, or give, what was not meant to be: the section is disabled. */
void systemd_refuse(struct systemd_section *m, const struct unit_line *l, const char *why);

/* The file says something that it cannot: an error. */
void systemd_bad(struct systemd_section *m, const struct unit_line *l, const char *wanted);

/* The value with its specifiers put in, the caller's to free; NULL: one is not known, as was said. */
char *systemd_specified(struct systemd_section *m, const struct unit_line *l, const struct unit *u);

/* Adds the words of the value, which is the service's; *place becomes the line's. */
void systemd_gather(struct systemd_section *m, const struct unit_line *l, struct config_words *words,
                    struct config_place *place);

/* What stderr = should be; NULL: what the unit says is nothing that hark has. */
const char *systemd_stderr(const struct systemd_section *m);

/* Each line of u that holds, through the table of directives. */
void systemd_lines(struct systemd_section *m, const struct unit *u);

#endif
