/* loop.h — the inside of loops and fibers, for the files of floor 3 that share it:
 * loop.c, fiber.c, stack.c, wait.c, scope.c, offload.c. Everybody else uses fiber.h. */
#ifndef HARK__LOOP_H
#define HARK__LOOP_H

#include <pthread.h>
#include <stdatomic.h>

#include "loop/drain.h"
#include "loop/fiber.h"

#if defined(__SANITIZE_ADDRESS__)
#define HARK__ASAN 1
#elif defined(__SANITIZE_THREAD__)
#define HARK__TSAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define HARK__ASAN 1
#elif __has_feature(thread_sanitizer)
#define HARK__TSAN 1
#endif
#endif

#define HARK__NAME_MAX 23 /* bytes of a fiber's name */

struct hark__scope;

/* In order of use: a switch touches the first cache line, a wait the second. 192 bytes, as there may be a million. */
struct hark__fiber {
	struct hark__waiter waiter; /* first; run is NULL: that tells a fiber from a callback */
	void *sp;                   /* where it goes on; valid while it does not run */
	void *swapped;              /* its live stack while that is given back, see stack.c; NULL: in place */
	const struct hark__source
		*on;            /* what it waits for, if that is one source: to be fetched before it runs again */
	int fd;                 /* on which descriptor; -1: none */
	bool parked;            /* waiting, and to be woken */
	bool timed_out;         /* the wait ended by its deadline */
	bool cancelled;         /* sticky */
	bool uncancellable : 1; /* the wait ignores cancellation */
	bool live : 1;          /* started and not yet returned */
	int64_t deadline;       /* of the wait under way */

	const char *doing;      /* what it waits for: static text; NULL: it runs or is ready */
	int64_t since;          /* when the wait began, by the loop's clock */
	int64_t timer_at;       /* HARK_FOREVER: not set */
	struct hark__list idle; /* in loop->idle while it waits at a request boundary */
	union {
		struct hark__list drain; /* in loop->drain_waiters while its wait ends with a drain */
		struct {                 /* before its first instruction */
			void (*fn)(void *);
			void *arg;
		} begin;
	};
	struct hark__scope *scope; /* the scope it belongs to; NULL: the main one, the scheduler */

	char *stack; /* lowest usable byte; NULL: the thread's own stack */
	size_t stack_bytes;
	struct hark__list sibling; /* in scope->fibers; in the pool: next free */
	struct hark__timer
		timer; /* lazy: left set at timer_at when a wait ends early, checked against deadline when due */
	char name[HARK__NAME_MAX + 1];
	unsigned scopes; /* that it has open */
#ifdef HARK__ASAN
	void *fake_stack;
	const void *asan_bottom; /* the main fiber's stack, as ASan tells at the first switch away from it */
	size_t asan_bytes;
#endif
#ifdef HARK__TSAN
	void *tsan;
#endif
#ifdef HARK__VALGRIND
	unsigned valgrind_id;
#endif
} __attribute__((aligned(64)));

/* Where stacks come from: see stack.c. */
struct hark__stacks {
	char *arena; /* one reservation; NULL: none yet */
	size_t arena_bytes;
	size_t stack_bytes;           /* a stack and its guard page */
	size_t used, limit;           /* slots ever handed out; slots in the arena */
	struct hark__list warm, cold; /* free fibers with their stacks: last used first; given back to the system */
	unsigned n_warm;
	struct hark__fiber **blocks; /* the fiber structs, in blocks that never move */
	size_t n_blocks;
	bool mprotect; /* guards by mprotect: the kernel has no MADV_GUARD_INSTALL */
};

/* First in, first out. The last one's next is the queue itself, so that a queued waiter's is never NULL. */
struct hark__queue {
	struct hark__waiter *first;
	struct hark__waiter **last; /* where the next one is hooked in */
};

static inline void hark__queue_init(struct hark__queue *q)
{
	q->first = (struct hark__waiter *)q;
	q->last = &q->first;
}

static inline bool hark__queue_empty(const struct hark__queue *q)
{
	return q->first == (const struct hark__waiter *)q;
}

static inline void hark__queue_push(struct hark__queue *q, struct hark__waiter *w)
{
	w->next = (struct hark__waiter *)q;
	*q->last = w;
	q->last = &w->next;
}

/* Not on an empty queue. */
static inline struct hark__waiter *hark__queue_pop(struct hark__queue *q)
{
	struct hark__waiter *w = q->first;
	q->first = w->next;
	w->next = NULL;
	if (hark__queue_empty(q))
		q->last = &q->first;
	return w;
}

struct hark__loop {
	struct hark__engine *engine;
	struct hark__queue ready;
	unsigned n_ready;
	unsigned budget; /* waiters to run before the engine is asked again */
	unsigned slice;  /* system calls the current fiber may still make before others run */
	struct hark__fiber *current;
	struct hark__fiber *zombie; /* has returned; its stack is free once another one runs */
	int64_t now;
	struct hark__heap timers;
	struct hark__stacks stacks;
	unsigned n_fibers; /* without main and sched */
	unsigned scopes;   /* that have started fibers here and are not closed */
	bool of_scopes;    /* made by one: closed with the last one */
	bool forked;       /* this process is a child of the one that it runs in */
	struct hark__list drain_waiters;
	struct hark__list idle; /* fibers at a request boundary, longest first */
	struct hark__timer idle_timer;
	struct hark__waiter idle_waiter;
	struct hark__fiber main;  /* whoever opened the loop, on the thread's own stack */
	struct hark__fiber sched; /* waits for events and runs callbacks, on a large stack */
	pthread_mutex_t posted_lock;
	struct hark__queue posted;         /* guarded by posted_lock: waiters other threads woke */
	struct hark__source posted_source; /* an eventfd */
	struct hark__waiter posted_waiter;
	struct hark__source drain[HARK__DRAIN_FDS]; /* drain_watch.c: this process's and those it comes from, drain.h */
	struct hark__waiter drain_waiter;
	struct hark__timer drain_timer;
	bool watches_drain;
};

/* The thread's loop. initial-exec: one instruction to reach, which dlopen() of the library still can serve from the
 * static TLS reserve. */
extern __thread struct hark__loop *hark__loop_current __attribute__((tls_model("initial-exec"), visibility("hidden")));

/* ---- stack.c */

int hark__stacks_init(struct hark__stacks *s, size_t stack_bytes);
void hark__stacks_done(struct hark__stacks *s);
/* A zeroed fiber with a stack, warm if possible. -ENOMEM, -EAGAIN: no more guarded stacks. */
int hark__stacks_take(struct hark__stacks *s, struct hark__fiber **out);
void hark__stacks_give(struct hark__stacks *s, struct hark__fiber *f);
struct hark__fiber *hark__stacks_slot(const struct hark__stacks *s, size_t slot); /* slot < s->used */
const struct hark__fiber *hark__stacks_guarded(const struct hark__stacks *s, const void *at);
/* A stack outside the arena, with a guard below. */
int hark__stack_map(size_t bytes, char **low);
void hark__stack_unmap(char *low, size_t bytes);
/* Where a fiber's stack begins, downwards: equal stacks begin at unequal places within a page, or their tops would all
 * fall on the same few cache sets. */
char *hark__stack_top(const struct hark__fiber *f);
/* Gives the memory of a parked fiber's stack back, its live part kept aside; and puts it in place again. */
void hark__stack_swap_out(struct hark__fiber *f);
void hark__stack_swap_in(struct hark__fiber *f);

/* ---- fiber.c */

static inline struct hark__fiber *hark__fiber_of(struct hark__waiter *w)
{
	return hark__container(w, struct hark__fiber, waiter);
}

void hark__fiber_init(struct hark__fiber *f, const char *name);
/* Lays out its stack so that a switch to f calls entry, which begins with hark__fiber_begin() and never returns. */
void hark__fiber_prepare(struct hark__fiber *f, void (*entry)(void));
void hark__fiber_begin(void);
/* Goes on as next; returns when somebody switches back to who called. */
void hark__fiber_switch(struct hark__loop *l, struct hark__fiber *next);
void hark__fiber_timer_due(struct hark__loop *l, struct hark__fiber *f);

/* ---- drain_watch.c */

/* For a loop whose thread serves a box: the loop hears of drains from now on. 0, -ENOMEM. */
int hark__loop_watch_drain(struct hark__loop *l);
void hark__loop_unwatch_drain(struct hark__loop *l);

/* ---- scope.c */

void hark__scope_left(struct hark__fiber *f); /* f of a scope has returned */

#endif
