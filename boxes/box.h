/* box.h — the boxes that hark serve and harkd offer by name, and how one is set up from a command line.
 *
 * What a box is to them: struct hark_box_row. One file a box, with its row at the end; a new box is a new file and one
 * line in table.c. Boxes see hark.h, common/ and program/ alone. A
 * state is its caller's, one thread at a time until it serves. */
#ifndef BOX_H
#define BOX_H

#include <stdio.h>

#include "hark.h"

/* The boxes of this process are but tried: what they would open to write they look at, and make nothing. Set before
 * the first is prepared. */
extern bool box_trial;

/* Ends with NULL. */
extern const struct hark_box_row *const boxes[];

/* The box of that name, or NULL. */
const struct hark_box_row *box_find(const char *name);

/* A state with every option at its standard; box_free(). NULL: no memory. */
void *box_new(const struct hark_box_row *b);

/* Takes the options off the front of argv, up to the first other argument or "--" (which is taken). given (may be NULL)
 * tells by the option's place in the row which were there. Returns how many arguments it took; -EINVAL with why. */
int box_options(const struct hark_box_row *b, int argc, char *const argv[], void *state, bool given[],
                struct hark_why *why);

/* The address in an operand of a box whose row says HARK_OPERANDS_ADDRESS: all of it, or what is behind "NAME=". */
const char *box_operand_address(const char *word);

/* Hands the operands over. 0 or a -errno, with why. */
int box_operands(const struct hark_box_row *b, int argc, char *const argv[], void *state, struct hark_why *why);

/* All three. The caller owns *state; NULL where it fails. */
int box_parse(const struct hark_box_row *b, int argc, char *const argv[], void **state, struct hark_why *why);

/* The row's own, where there are any. 0 or a -errno, with why. */
int box_prepare(const struct hark_box_row *b, void *state, struct hark_why *why);
int box_open(const struct hark_box_row *b, void *state, struct hark_why *why);

/* Closes and frees. state may be NULL. */
void box_free(const struct hark_box_row *b, void *state);

/* Whether it can serve a SOCK_STREAM or SOCK_DGRAM. */
bool box_takes(const struct hark_box_row *b, const void *state, int type);

/* What the log calls it. */
const char *box_title(const struct hark_box_row *b, const void *state);

/* Where c goes on to; NULL: nowhere, or that is not known yet. */
const char *box_target(const struct hark_box_row *b, const void *state, const struct hark_conn *c);

/* Why c has failed, in words that say more than the number; NULL: nothing more. */
const char *box_failure(const struct hark_box_row *b, const void *state, const struct hark_conn *c);

/* ---- shared.c ---- */

/* What stands for a shared object until it is loaded. */
extern const struct hark_box_row shared_box;

/* A box is asked for by its name, or by the path of a shared object, which has a '/'. */
bool box_is_path(const char *name);

/* Loads a shared object, for good. Runs its initialisers. 0; -ENOEXEC, -EPROTO, -EINVAL with why. */
int box_load(const char *path, const struct hark_box_row **out, struct hark_why *why);

/* ---- options.c ---- */

/* The option of that name (len bytes of it; '_' is as good as '-'), or NULL. */
const struct hark_option *box_option_find(const struct hark_box_row *b, const char *name, size_t len);

/* Puts text in the option's place. -EINVAL; why is about the value alone: "is not a duration". */
int box_option_set(const struct hark_option *o, const char *text, void *state, struct hark_why *why);

/* Writes the value as box_option_set() would read it; nothing where there is none. */
void box_option_print(const struct hark_option *o, const void *state, FILE *to);

#endif
