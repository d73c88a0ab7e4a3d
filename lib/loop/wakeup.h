/* wakeup.h — one fiber or thread waits until another one, of any thread, tells it: once. Under offload.c and cond.c. */
#ifndef HARK__WAKEUP_H
#define HARK__WAKEUP_H

#include "loop/fiber.h"

/* On the stack, or part, of what its waiter owns. The waiter alone looks inside. */
struct hark__wakeup {
	struct hark__loop *loop;    /* NULL: a thread waits, for the eventfd; else */
	struct hark__fiber *fiber;  /* this fiber does, and */
	struct hark__waiter teller; /* this, posted to its loop, wakes it */
	struct hark__source event;
	bool told;
};

/* For the calling fiber or thread. -EMFILE, -ENFILE: of a thread. */
int hark__wakeup_init(struct hark__wakeup *w);
void hark__wakeup_done(struct hark__wakeup *w);

/* Waits to be told. 0, also if that was before; -ETIMEDOUT, -ECANCELED: w may still be told. */
int hark__wakeup_wait(struct hark__wakeup *w, int64_t deadline, const char *doing);

/* The same whatever happens: for who has been told, or is about to be. */
void hark__wakeup_await(struct hark__wakeup *w, const char *doing);

/* From any thread, once. Under a lock that the waiter takes before hark__wakeup_done(). */
void hark__wakeup_tell(struct hark__wakeup *w);

#endif
