/* unix_queue.h — how much waits at a unix socket, which the kernel tells of TCP alone. */
#ifndef HARK__UNIX_QUEUE_H
#define HARK__UNIX_QUEUE_H

/* Connections in a listening stream's backlog; where it cannot be told (no sock_diag(7) here) 1 if any. Never waits. */
unsigned hark__unix_waiting_streams(int fd);

/* Datagrams in a socket's queue, at least 1 if it is readable. Never waits; nothing is taken. */
unsigned hark__unix_waiting_datagrams(int fd);

#endif
