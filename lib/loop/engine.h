/* engine.h — how a loop learns that descriptors are ready: one interface, three engines (io_uring, epoll, poll).
 *
 * An engine knows sources (descriptors) and waiters (somebody to wake). It never names a fiber: waking calls
 * engine->wake(waiter), which the loop sets, and which only queues. So nothing is run, and no source detached,
 * while an engine walks its events.
 *
 * One thread: the loop's. The engine owns its own descriptors; sources belong to whoever embeds them, and are detached
 * before their descriptor is closed. */
#ifndef HARK__ENGINE_H
#define HARK__ENGINE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/list.h"

/* Readiness, as bits of hark__source.ready and arguments of arm. */
#define HARK__IN  1u
#define HARK__OUT 2u
/* The peer ended, an error is pending or urgent data came: a short read does not mean "drained". */
#define HARK__HUP 4u

struct hark__waiter {
	struct hark__waiter *next;          /* in the loop's ready queue; NULL: in none */
	void (*run)(struct hark__waiter *); /* called by the loop; NULL: it is a fiber */
};

struct hark__engine;

struct hark__source {
	int fd;
	_Atomic uint8_t ready; /* HARK__ bits: what a call may find; a call that would block clears its bit */
	bool sending; /* bytes that the engine took to send are under way: others must not overtake them. The loop's */
	/* The one it is attached to; NULL: none. Other threads look whether there is one: seq_cst, so that who sees
	 * NULL sees what was written before. Only its loop's thread, and who detaches, follow it. */
	struct hark__engine *_Atomic engine;
	struct hark__waiter *in, *out; /* who waits for which direction; NULL: nobody */
	uint32_t index;                /* its place among the engine's sources */
	uint16_t slot;                 /* engine_uring: where the bytes to send are */
};

/* What an engine can do that sends for many sources at once. */
struct hark__batch_ops {
	/* Takes a copy of n bytes, to be sent with everybody else's before the loop waits. s->sending until that was
	 * tried, then HARK__OUT; what did not leave goes to hark__source_unsent. 0; -EAGAIN: it has no room, or s is
	 * not one for it. */
	int (*send)(struct hark__engine *e, struct hark__source *s, const void *bytes, size_t n);
	/* While s->sending: how many they are. */
	size_t (*sending)(struct hark__engine *e, const struct hark__source *s);
	/* Tries now all that is to be sent. */
	void (*settle)(struct hark__engine *e);
};

struct hark__engine_ops {
	const char *name;
	/* Makes an engine. -ENOSYS: not available here; another -errno. */
	int (*open)(struct hark__engine **out);
	void (*close)(struct hark__engine *e);
	/* Closes the engine's descriptors in a forked child without disturbing the parent, and frees nothing else. */
	void (*forked)(struct hark__engine *e);
	/* Sees to it that s->in / s->out are woken, and s->ready set, once the events come; attaches s if need be.
	 * Readiness that is already there counts. -errno: s cannot be watched (-EPERM: a regular file, always ready).
	 */
	int (*arm)(struct hark__engine *e, struct hark__source *s, unsigned events);
	/* Forgets s: no event touches it after the return. */
	void (*detach)(struct hark__engine *e, struct hark__source *s);
	/* Waits until hark_now() is `until` (up to now, the loop's: only looks) and wakes whom it concerns. 0: of all
	 * that has happened; else how many events were told, and more may have happened; or -errno. It may return
	 * early. */
	int (*wait)(struct hark__engine *e, int64_t until, int64_t now);
	const struct hark__batch_ops *batch; /* NULL: the engine tells readiness and no more */
};

struct hark__engine {
	const struct hark__engine_ops *ops;
	void (*wake)(struct hark__engine *e, struct hark__waiter *w); /* set by the loop */
	void *loop;                                                   /* the loop's own */
	bool forked; /* this is a child's copy: nothing of it works any more, and nothing may be asked of it */
	/* Recursive. Guards what follows: another thread, that a connection was handed to, may detach it meanwhile. */
	pthread_mutex_t lock;
	struct hark__source **sources; /* the attached ones, each at its index */
	uint32_t n_sources, cap_sources;
	atomic_bool some_left; /* since the wait began: what the kernel tells may name a source that is gone */
};

extern unsigned hark__uring_few; /* sends of a turn that go by send(2), not by the ring; tests: 0 */
extern const struct hark__engine_ops hark__engine_epoll, hark__engine_uring, hark__engine_poll;

/* Opens the engine called name; NULL: $HARK_ENGINE, else the best that works here.
 * -ENOSYS: not available here; -EINVAL: no such name. */
int hark__engine_open(const char *name, struct hark__engine **out);

/* Puts another engine in e's place, which the kernel does not serve any more: all that is waited for is, there. */
int hark__engine_replace(struct hark__engine **e);

/* What is left until `until`, in nanoseconds, however long ago the loop's now was; 0: it only looks. */
int64_t hark__wait_left(int64_t until, int64_t now);

static inline void hark__source_init(struct hark__source *s, int fd)
{
	*s = (struct hark__source){.fd = fd, .ready = HARK__IN | HARK__OUT};
}

/* The bits belong to one loop's thread; only without a loop may a reading and a writing thread meet here. Relaxed: each
 * bit only says whether trying is worth it, the system call itself orders what it finds. */
static inline unsigned hark__ready(const struct hark__source *s)
{
	return atomic_load_explicit(&s->ready, memory_order_relaxed);
}

static inline void hark__ready_set(struct hark__source *s, unsigned bits)
{
	if (s->engine != NULL)
		atomic_store_explicit(&s->ready, (uint8_t)(hark__ready(s) | bits), memory_order_relaxed);
	else
		(void)atomic_fetch_or_explicit(&s->ready, (uint8_t)bits, memory_order_relaxed);
}

static inline void hark__ready_clear(struct hark__source *s, unsigned bits)
{
	if (s->engine != NULL)
		atomic_store_explicit(&s->ready, (uint8_t)(hark__ready(s) & ~bits), memory_order_relaxed);
	else
		(void)atomic_fetch_and_explicit(&s->ready, (uint8_t)~bits, memory_order_relaxed);
}

/* Records readiness and wakes the waiters it concerns. Engines call it. */
void hark__source_ready(struct hark__engine *e, struct hark__source *s, unsigned events);

/* For engines: s is attached from now on, 0 or -ENOMEM; and no longer; and at the engine's end none is, and each must
 * be tried afresh. */
int hark__sources_add(struct hark__engine *e, struct hark__source *s);
void hark__sources_remove(struct hark__engine *e, struct hark__source *s);
void hark__sources_leave(struct hark__engine *e);

/* With the lock: whether s, which may be freed memory, is attached. */
bool hark__sources_has(const struct hark__engine *e, const struct hark__source *s);

/* In a forked child: another thread of the parent may have been detaching. */
void hark__sources_forked(void);

/* What an engine took to send and could not: error < 0: these n bytes are lost; 0: there was no room, and
 * they come before whatever else is to be sent. Set by conn.c, whose connections alone are streams. */
extern void (*_Atomic hark__source_unsent)(struct hark__source *s, const void *bytes, size_t n, int error);

/* Detaches s if it is attached to an engine of this process. */
void hark__source_detach(struct hark__source *s);

/* Detaches s for a thread that is not its loop's and goes on with it. False: somebody waits on it there. */
bool hark__source_take_over(struct hark__source *s);

#endif
