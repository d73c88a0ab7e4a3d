/* engine_epoll.h — the epoll engine's inside, for the io_uring engine, which is this one and a ring to send by. */
#ifndef HARK__ENGINE_EPOLL_H
#define HARK__ENGINE_EPOLL_H

#include <sys/epoll.h>

#include "loop/engine.h"

#define HARK__EPOLL_BATCH 512 /* events taken at once: as many as wait, so that the kernel is asked seldom */

struct hark__epoll_engine {
	struct hark__engine e;
	int fd;
	struct hark__source timer; /* a timerfd(2), or none */
	int64_t timer_at;          /* when it expires; past: not armed */
	struct epoll_event events[HARK__EPOLL_BATCH];
};

/* Opens what is behind m, which is zeroed. 0 or -errno. Its end leaves m to be freed. */
int hark__epoll_init(struct hark__epoll_engine *m);
void hark__epoll_done(struct hark__epoll_engine *m);

/* As the operations of struct hark__engine_ops. */
void hark__epoll_forked(struct hark__engine *e);
int hark__epoll_arm(struct hark__engine *e, struct hark__source *s, unsigned events);
void hark__epoll_detach(struct hark__engine *e, struct hark__source *s);
int hark__epoll_wait(struct hark__engine *e, int64_t until, int64_t now);

#endif
