/* workers.h — N processes that accept from the same sockets. */
#ifndef HARK__WORKERS_H
#define HARK__WORKERS_H

#include "serve/serve.h"

#define HARK__WORKERS_MAX 64

/* Forks and supervises opts.workers processes that each hark__work(), until drained. As hark_serve(). */
int hark__supervise(struct hark__server *s, struct hark_listener *const listeners[], int n);

#endif
