/* file.h — pipes, terminals and files, read and written without waiting and without touching flags that others share.
 * Any thread. */
#ifndef HARK__FILE_H
#define HARK__FILE_H

#include <stddef.h>
#include <sys/types.h>

enum hark__file_way {
	HARK__FILE_PLAIN,  /* read(2), write(2): a file on a disk, or a description of our own with O_NONBLOCK */
	HARK__FILE_NOWAIT, /* RWF_NOWAIT for each call */
	HARK__FILE_POLL,   /* poll(2) before each call; at most PIPE_BUF bytes are written */
	HARK__FILE_BYTE,   /* the same, a byte at a time: a terminal */
};

/* How fd, which is no socket, is to be used from now on. A terminal and a named FIFO get a description of their own,
 * under the same number and with O_NONBLOCK: nobody else sees the flag, and hark__fd_nonblock(fd, false) takes it away
 * before a program gets the descriptor. -EBADF. */
int hark__file_prepare(int fd);

/* Some of what is there, or of what there is room for. The count, 0 at the end, -EAGAIN, -EINTR or another -errno.
 * A process that reads the same pipe cannot make them wait, except by the ways POLL and BYTE. */
ssize_t hark__file_read(int fd, enum hark__file_way way, void *buf, size_t n);
ssize_t hark__file_write(int fd, enum hark__file_way way, const void *buf, size_t n);

#endif
