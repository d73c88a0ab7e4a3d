/* tcp_bytes.h — what came and went on a TCP connection, whoever moved it. */
#ifndef TCP_BYTES_H
#define TCP_BYTES_H

#include <stdbool.h>
#include <stdint.h>

/* Bytes that were received and written. False: fd is no TCP connection. Safe in a signal handler. tcp(7), TCP_INFO */
bool tcp_bytes(int fd, int64_t *in, int64_t *out);

#endif
