/* line_out.h — a line out of a descriptor that never makes its writer wait: a log must not stop a service.
 *
 * What takes the line decides how that is done:
 *   - a socket: send(2) with MSG_DONTWAIT;
 *   - a pipe or a terminal: an open file description of our own with O_NONBLOCK (line_out_own()), as the one we were
 *     given is shared with other programs;
 *   - a file on a disk: write(2), which waits for the disk alone;
 *   - where no description of our own could be had: pwritev2(2)'s RWF_NOWAIT; else one for the line, or poll(2)
 *     before write(2).
 * SIGPIPE, SIGXFSZ and SIGTTOU are the caller's to ignore: see line_out_signals.
 *
 * Any process, any thread; never a signal handler. One struct is shared by all threads of a process. */
#ifndef LINE_OUT_H
#define LINE_OUT_H

#include <stddef.h>

struct line_out {
	int fd;
	_Atomic int by;     /* enum by, in line_out.c; 0: not yet known, or fd has become another */
	_Atomic _Bool torn; /* a line left in part: the next one begins on a line of its own */
};

/* Signals by which a write would end or stop the process; ends with 0. */
extern const int line_out_signals[];

/* A new descriptor, close-on-exec, for what fd is open for, that never waits; or -errno: fd itself must do. */
int line_out_own(int fd);

/* Writes the line, its newline included. 0, or -errno: it is lost, or -EAGAIN: all or the rest of it. */
int line_out_put(struct line_out *o, const char *line, size_t len);

#endif
