/* accept.h — taking one connection without waiting: shared by hark_accept() and the servers. */
#ifndef HARK__ACCEPT_H
#define HARK__ACCEPT_H

#include "hark.h"

/* One stream connection. 0; -EAGAIN: none there; -EINTR: nothing but passing errors so far, ask again; -EMFILE,
 * -ENFILE, -ENOBUFS, -ENOMEM: no room now; another -errno: the listener is broken. Never waits. */
int hark__accept_now(struct hark_listener *l, struct hark_conn **out);

#endif
