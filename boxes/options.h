/* options.h — a box's arguments: long options alone, at the front. getopt_long(3) prints and keeps state; this tells
 * why. The box's name is not in the reason: whoever opens a box knows it and says it. */
#ifndef BOX_OPTIONS_H
#define BOX_OPTIONS_H

#include <stdint.h>

#include "hark.h"

struct box_option {
	const char *name;   /* without the dashes; NULL ends the list */
	bool *flag;         /* --name sets it, or */
	const char **value; /* --name VALUE and --name=VALUE set this, to a part of argv */
};

/* Takes the options off the front of argv, up to the first other argument or "--" (which is taken).
 * Returns how many arguments it took; -EINVAL with why (may be NULL). */
int box_options_front(int argc, char *const argv[], const struct box_option options[], struct hark_why *why);

/* The same for a box that takes nothing but options. Returns 0 or -EINVAL. */
int box_options_all(int argc, char *const argv[], const struct box_option options[], struct hark_why *why);

/* Reads an option's value as a duration, of any length from 0 up. text NULL: it was not given, *ns stays. 0; -EINVAL
 * with why. */
int box_duration(const char *name, const char *text, int64_t *ns, struct hark_why *why);

/* Fills why, if there is one, as printf(3). Returns err, so that a failure is one statement. */
int box_why(struct hark_why *why, int err, const char *format, ...) __attribute__((format(printf, 3, 4)));

#endif
