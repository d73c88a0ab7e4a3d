/* stdio.h — what was printed with stdio(3) around a fork(2) whose child ends by _exit(2): once, and by whom it was. */
#ifndef HARK__STDIO_H
#define HARK__STDIO_H

#include <stdbool.h>

/* Before the fork: writes out what the parent has printed, so that the child does not inherit it. True: of all its
 * streams; false: of stdout and stderr, as other threads may hold the others' locks for as long as they wait for input.
 */
bool hark__stdio_before_fork(void);

/* In the child: forgets what could not be written out, because a thread of the parent's was just printing. */
void hark__stdio_forked(void);

/* In the child, before _exit(2): writes out what it has printed. all: what the first one returned. */
void hark__stdio_end(bool all);

#endif
