/* options.h — a verb's options as one table: parsing, errors and --help all come from it, so they cannot disagree.
 *
 * An own parser and not getopt_long(3): values are checked and put in place by the table, a mistyped name is answered
 * with the nearest one, and "hark serve" must see where its own options end. Main thread, before anything else runs.
 * */
#ifndef OPTIONS_H
#define OPTIONS_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "number.h"
#include "tool.h"

enum option_kind {
	OPTION_FLAG = 1, /* bool; takes no value */
	OPTION_TEXT,     /* const char *: the argument itself */
	OPTION_COUNT,    /* int, from min to max */
	OPTION_DURATION, /* int64_t nanoseconds: 500ms, 5s, 2m, 1h, 250us, plain seconds; at least min nanoseconds */
	OPTION_SIZE,     /* size_t bytes: 4096, 64k, 1m; from min to max */
	OPTION_MODE,     /* mode_t, octal */
	OPTION_CHOICE,   /* const char *: one of choices */
	OPTION_PERIOD,   /* a duration that may be left out: --watch is --watch=2s if max is that */
	OPTION_CALL,     /* take() gets it; value NULL: --x alone is "yes" */
};

struct option_row {
	const char *name; /* "model" for --model */
	char letter;      /* 'v' for -v; 0: none */
	enum option_kind kind;
	const char *value;          /* what --help calls the value; NULL for a flag; "[=T]" for a period */
	const char *help;           /* one line, the default in it */
	size_t at;                  /* offsetof() in the struct that is filled */
	int64_t min, max;           /* a period's max: what it is where it is left out */
	const char *const *choices; /* ends with NULL */
	/* to: the struct that is filled. Returns 0 or the exit code. */
	int (*take)(const struct verb *v, const char *name, const char *text, void *to);
};

/* What to say of an option that a verb has not, but people will try. The list ends with a row without a text. */
struct option_hint {
	char letter;      /* 0: none */
	const char *name; /* NULL: none */
	const char *text; /* what to use instead */
};

/* Takes argv apart and fills *to. The operands are moved to the front of argv in their order; where the verb has a
 * last(), everything from the first operand that it knows is one, and from a "--" on, that included. Returns how many
 * operands there are; or -1: nothing is left to do, *status is the exit code (help was shown, or an error told). */
int options_parse(const struct verb *v, int argc, char *argv[], void *to, int *status);

void options_help(const struct verb *v, FILE *to);

/* Tells that the operands are wrong, and returns STATUS_USAGE. */
int options_usage(const struct verb *v, const char *what);

#endif
