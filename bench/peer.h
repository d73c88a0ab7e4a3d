/* What the bare peers share: a listening socket, announced the way hark announces its own. */
#ifndef BENCH_PEER_H
#define BENCH_PEER_H

/* A non-blocking listener on 127.0.0.1, on the port named by text or, if NULL, one the kernel
 * chooses. Prints "listening on tcp://127.0.0.1:PORT" on standard output. Accepted sockets inherit
 * TCP_NODELAY. Ends the program with status 111 on failure. The caller owns the descriptor. */
int peer_listen(const char *port);

/* Raises the soft limit of open descriptors to the hard one. */
void peer_raise_descriptors(void);

/* Ends the program with status 111, naming the operation and errno. */
_Noreturn void peer_die(const char *operation);

#endif
