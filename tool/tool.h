/* tool.h — what the verbs of hark share: how a verb is entered, what the exit codes say, how an error is told.
 *
 * One file a verb, each with one struct verb; main.c holds the list. Of lib/ the tool sees hark.h alone: it proves that
 * the public face is enough. */
#ifndef TOOL_H
#define TOOL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

#include "nearest.h"

/* Exit codes, after the ucspi tools and the rest of hark. */
enum {
	STATUS_DONE = 0,
	STATUS_FAILED = 1,   /* what was asked for did not come to pass */
	STATUS_CUT = 2,      /* a stream of TLS ended without its end: what has come may not be all */
	STATUS_USAGE = 100,  /* the command line is wrong: trying again will not help */
	STATUS_SYSTEM = 111, /* the system refused: trying again may help */
};

struct option_row;
struct option_hint;

struct verb {
	const char *name;
	const char *summary;              /* one line, for the list of verbs */
	const char *usage;                /* what follows "hark NAME [OPTION]..." */
	const char *notes;                /* paragraphs after the options in --help; may be NULL */
	const struct option_row *options; /* ends with a row whose name is NULL */
	const struct option_hint *hints;  /* for options of others that it has not; may be NULL */
	bool (*last)(const char *word);   /* options end at such an operand: what follows is another's; may be NULL */
	void (*begin)(void);              /* completes options, before anything else; may be NULL */
	void (*more)(FILE *to);           /* prints what is known only at run time at the end of --help; may be NULL */
	/* argv: what follows the name. Returns the exit code. */
	int (*run)(const struct verb *self, int argc, char *argv[]);
};

/* The list ends with NULL. */
extern const struct verb *const verbs[];

extern const struct verb verb_call, verb_config, verb_daytime, verb_import, verb_loggedin, verb_ping, verb_serve,
	verb_time, verb_users;
extern const struct verb verb_cert, verb_close, verb_connections;
extern const struct verb verb_drain, verb_reload, verb_start, verb_status, verb_stop, verb_upgrade;

/* Writes "hark: VERB: ..." and a newline to standard error, in one write(2), whatever stdio holds. Control characters
 * are shown as '?': the words may have come from a peer. v may be NULL: "hark: ...". */
void say(const struct verb *v, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
