/* terminal.h — keeping services away from the terminal that they were started at. */
#ifndef TERMINAL_H
#define TERMINAL_H

/* Where standard output or error is a terminal, puts a pipe in its place, which a process of its own copies to the
 * terminal, control characters as '?'. Who inherits them can then neither read what is typed, nor put it in (TIOCSTI),
 * nor change how the terminal behaves. That process stays in the caller's job, outlives its interrupts, and ends with
 * the last writer. At exit(3) the caller gives it a moment to write what is on the way. Once, before there are threads.
 * 0 or -errno. */
int terminal_detach(void);

#endif
