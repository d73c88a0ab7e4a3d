/* program_stderr.h — where the standard error of a service's programs goes. In a worker alone. */
#ifndef PROGRAM_STDERR_H
#define PROGRAM_STDERR_H

#include "config.h"
#include "hark.h"

/* Makes descriptor 2 what c's stderr says, for the programs that inherit it; the log's is another one then. Before the
 * worker leaves harkd's root for its own: a file is opened there, but as the service's user, and never through a link.
 * 0 or -errno with why. */
int program_stderr_open(const struct config_service *c, struct hark_why *why);

/* Begins to write to the log, line by line, what programs say, where stderr = log. Once the worker is its user. 0 or
 * -errno. */
int program_stderr_begin(const char *service);

/* The worker is about to end. What was said so far is logged; where programs go on without it, a process stays that
 * logs what they will say. */
void program_stderr_end(void);

#endif
