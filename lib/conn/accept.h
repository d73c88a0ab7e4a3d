/* accept.h — taking one connection without waiting: shared by hark_accept() and the servers. */
#ifndef HARK__ACCEPT_H
#define HARK__ACCEPT_H

#include "hark.h"

/* One stream connection from the listening socket fd. *spare is what it becomes: made if NULL, NULL again once used;
 * the caller's to hark__conn_free(). 0; -EAGAIN: none there; -EINTR: nothing but passing errors so far, ask again;
 * -EMFILE, -ENFILE, -ENOBUFS, -ENOMEM: no room now; another -errno: the listener is broken. Never waits. */
int hark__accept_now(int fd, struct hark_conn **spare, struct hark_conn **out);

#endif
