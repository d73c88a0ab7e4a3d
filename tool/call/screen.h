/* screen.h — a peer's bytes made fit for a terminal, as they come. One for each terminal; no allocation. */
#ifndef CALL_SCREEN_H
#define CALL_SCREEN_H

#include <stddef.h>

#include "hark.h"

struct screen {
	char held[4]; /* the beginning of a character, or a CR that may belong to a line's end */
	size_t n;
};

/* Writes what of bytes can be shown: text in UTF-8, tabs and line ends as they are, every other byte as \xNN, so that
 * no peer commands the terminal. What is not whole yet is held. 0 or -errno. May suspend. */
int screen_write(struct screen *s, struct hark_conn *out, const char *bytes, size_t n);

/* Nothing more comes: what is held is written. */
int screen_end(struct screen *s, struct hark_conn *out);

#endif
