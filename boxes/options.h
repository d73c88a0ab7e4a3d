/* options.h — what boxes share in reading their arguments. The options themselves: box.h. */
#ifndef BOX_OPTIONS_H
#define BOX_OPTIONS_H

#include "hark.h"

/* Fills why, if there is one, as printf(3). Returns err, so that a failure is one statement. */
int box_why(struct hark_why *why, int err, const char *format, ...) __attribute__((format(printf, 3, 4)));

#endif
