/* serve_help.h — what hark serve tells of boxes, from their rows. Main thread. */
#ifndef SERVE_HELP_H
#define SERVE_HELP_H

#include <stdio.h>

#include "box.h"

/* Every box of ours. */
void serve_help_boxes(FILE *to);

/* One box, name as it is asked for: usage, summary, options. */
void serve_help_box(const struct hark_box_row *b, const char *name, FILE *to);

#endif
