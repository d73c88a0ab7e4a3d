/* program_stderr.h — what a service's programs say on standard error, in the log. In a worker alone; a box may give its
 * programs another one. */
#ifndef PROGRAM_STDERR_H
#define PROGRAM_STDERR_H

#include "hark.h"

/* Makes descriptor 2, which programs inherit, a way to the log, line by line; the log's own is another one then. Once
 * the worker is its user. 0 or -errno with why. */
int program_stderr_begin(const char *service, struct hark_why *why);

/* The worker is about to end. What was said so far is logged; where programs go on without it, a process stays that
 * logs what they will say. */
void program_stderr_end(void);

#endif
