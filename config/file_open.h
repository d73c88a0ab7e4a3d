/* file_open.h — a file that somebody named, to be read, without waiting for ever. */
#ifndef FILE_OPEN_H
#define FILE_OPEN_H

#include <stddef.h>
#include <stdint.h>

#include "hark.h"

/* How long the writer of a pipe may take, all in all. HARK_FOREVER; harkd sets FILE_OPEN_PATIENCE_NS before it reads:
 * nothing may hold up a supervisor. */
#define FILE_OPEN_PATIENCE_NS (5 * HARK_S)
extern int64_t file_open_patience_ns;

/* Opens path for reading. A regular file; or what is open here already, by its name in /dev or /proc (/dev/stdin): that
 * is read now, at most max bytes, and a copy in memory is opened in its place: to read that waits for nobody. Returns
 * the descriptor, or -errno: -EISDIR; -EINVAL: a FIFO, say; -EFBIG; -ETIMEDOUT: it was not written to its end in
 * time. */
int file_open(const char *path, size_t max);

/* hark_strerror(), in the words of file_open(). */
const char *file_open_error(int err);

#endif
