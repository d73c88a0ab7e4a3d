/* fd.h — sockets and their options, in the terms that dial and listen use. All return 0 (or what they make), or
 * -errno. Any thread. */
#ifndef HARK__FD_H
#define HARK__FD_H

#include <stdbool.h>

#include "hark.h"

/* A close-on-exec socket; flags: SOCK_NONBLOCK or 0. */
int hark__fd_socket(int family, int type, int flags);

int hark__fd_option(int fd, int level, int name, int value);

/* SO_SNDBUF and SO_RCVBUF, each left alone where it is 0. Before connect or listen: the window's scale is agreed in the
 * SYN. */
int hark__fd_buffers(int fd, int send_bytes, int receive_bytes);

/* Sets or clears O_NONBLOCK, in as few calls as it takes. */
int hark__fd_nonblock(int fd, bool on);

int hark__fd_cloexec(int fd);

/* Where fd is bound and what type it is, v4-mapped addresses as IPv4. -EBADF, -ENOTSOCK. */
int hark__fd_local(int fd, struct hark_endpoint *out);

/* Whether an IPv6 socket takes IPv4 as well. */
bool hark__fd_dual_stack(int fd);

/* write(2), pwritev2(2), sendfile(2) and splice(2), whose flags have no MSG_NOSIGNAL, without the SIGPIPE: it is held
 * back for the call, and taken away if the call raised it. -1 and errno, as the calls themselves. */
ssize_t hark__fd_write(int fd, const void *buf, size_t n);
ssize_t hark__fd_write_nowait(int fd, const void *buf, size_t n); /* RWF_NOWAIT; what has no support: EOPNOTSUPP */
ssize_t hark__fd_sendfile(int out, int in, off_t *at, size_t n);
ssize_t hark__fd_splice(int in, int out, size_t n); /* one is a pipe, a socket among them O_NONBLOCK */

/* The seconds that close(2) of fd would wait for the peer, SO_LINGER; 0: it would not wait. The second sees to it that
 * it will not: on a loop it would stand still. A reset at once (0 seconds) is left. */
int hark__fd_lingers(int fd);
int hark__fd_unlinger(int fd);

/* How many descriptors RLIMIT_NOFILE leaves to be opened now. Looks at the first 65,536 numbers: not for every day. */
unsigned hark__fd_room(void);

/* Closes fd and returns rc: for the ends of functions that fail. */
int hark__fd_fail(int fd, int rc);

#endif
