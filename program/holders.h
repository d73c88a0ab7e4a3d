/* holders.h — who else has a descriptor. */
#ifndef HOLDERS_H
#define HOLDERS_H

#include <stdbool.h>

#include "spawn.h"

/* Before a program is started that has a stream's own descriptor: in a process that serves one connection alone, what
 * loses its parent becomes this process's child, so that holders_left() mostly asks the kernel once. Until
 * holders_any(): of a program that runs for longer, orphans are init's to wait for, as ever. */
void holders_begin(void);

/* Whether the program, or what it has started, has the file that fd is of: what the kernel counts and tells nobody.
 * Looks through /proc: what may not be looked at, such as a program that became another user, has it, if it may descend
 * from the program. Any thread. */
bool holders_any(const struct spawned *p, int fd);

/* The same of what it has started alone, once it has ended. */
bool holders_left(const struct spawned *p, int fd);

/* Kills every other process that has the file that fd is of, as far as we may look and /proc is ours. Not our children:
 * one just forked has it from us until it has closed it. How many. */
int holders_kill(int fd);

#endif
