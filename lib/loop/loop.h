/* loop.h — the inside of loops and fibers, for the files of floor 3 that share it:
 * loop.c, fiber.c, stack.c, wait.c, scope.c, offload.c. Everybody else uses fiber.h. */
#ifndef HARK__LOOP_H
#define HARK__LOOP_H

#include <pthread.h>
#include <stdatomic.h>

#include "base/sys.h"
#include "loop/drain.h"
#include "loop/fiber.h"

#define HARK__NAME_MAX 23 /* bytes of a fiber's name */

struct hark__scope;

#if defined(__ARM_EABI_UNWINDER__)
#define HARK__EXCEPTION_WORDS 3
#else
#define HARK__EXCEPTION_WORDS 2
#endif

/* What lies at the top of a fiber's stack, and is put aside with it: what others need of a fiber only while that is in
 * place. A wait touches the first cache line. */
struct hark__fiber_top {
	int64_t deadline;  /* of the wait under way */
	int64_t timer_at;  /* HARK_FOREVER: not set */
	const char *doing; /* what it waits for: static text; NULL: it runs or is ready */
	int64_t since;     /* when the wait began, by the loop's clock */
	union {
		struct hark__list idle; /* in loop->idle while it waits at a request boundary */
		struct {                /* before its first instruction */
			void (*fn)(void *);
			void *arg;
		} begin;
	};
	struct hark__scope *scope; /* the scope it belongs to; NULL: the main one, the scheduler */
	unsigned scopes;           /* that it has open */

	struct hark__fiber *fiber;
	void *exceptions[HARK__EXCEPTION_WORDS]; /* __cxa_get_globals() of C++, while it does not run */
	char name[HARK__NAME_MAX + 1];
#ifdef HARK__ASAN
	void *fake_stack;
	const void *asan_bottom; /* the main fiber's stack, as ASan tells at the first switch away from it */
	size_t asan_bytes;
#endif
#ifdef HARK__TSAN
	void *tsan;
#endif
} __attribute__((aligned(64)));

/* What stays in memory while a fiber waits at a request boundary: a cache line, as there may be a million. */
struct hark__fiber {
	struct hark__waiter waiter; /* first; run is NULL: that tells a fiber from a callback */
	union {
		void *sp;                      /* where it goes on; valid while it does not run */
		struct hark__swapped *swapped; /* its stack while that is put aside (swap.c) */
	};
	struct hark__fiber_top *top;
	const struct hark__source *on; /* what it waits for, or the first of several; NULL: no source */
	struct hark__list sibling;     /* in scope->fibers; in the pool: next free */
	struct hark__heap_node timer;  /* in loop->deadlines. Lazy: left set when a wait ends early */
	bool parked;                   /* waiting, and to be woken */
	bool timed_out;                /* the wait ended by its deadline */
	bool cancelled;                /* sticky */
	bool uncancellable : 1;        /* the wait ignores cancellation */
	bool live : 1;                 /* started and not yet returned */
	bool drains : 1;               /* its wait ends with a drain */
	bool aside : 1;                /* its stack is put aside */
} __attribute__((aligned(64)));

_Static_assert(sizeof(struct hark__fiber) == 64 || sizeof(void *) != 8, "a fiber is a cache line");

/* One reservation of address space. */
struct hark__arena {
	char *low;
	size_t first, slots; /* number of its first stack; how many it has room for */
};

#define HARK__ARENAS_MAX 32
#define HARK__BASES_MAX  16

/* Where stacks come from: see stack.c. */
struct hark__stacks {
	struct hark__arena arenas[HARK__ARENAS_MAX]; /* one, as a rule */
	unsigned n_arenas;
	size_t stride;                /* from one stack to the next: guard, stack, what is left of the last page */
	size_t guard_bytes;           /* below each stack */
	size_t used, limit;           /* stacks ever handed out; that there is room for */
	struct hark__list warm, cold; /* free fibers with their stacks: last used first; given back to the system */
	unsigned n_warm;
	struct hark__fiber **blocks; /* the fiber structs, in blocks that never move */
	size_t n_blocks;
	bool mprotect; /* guards by mprotect: the kernel has no MADV_GUARD_INSTALL */
	bool stingy;   /* address space is limited: reserved in small steps */
#ifdef HARK__VALGRIND
	unsigned *valgrind_ids; /* one a stack, where Valgrind runs */
#endif
	struct hark__swap_base *bases[HARK__BASES_MAX]; /* swap.c; NULL: free */
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
	unsigned untold; /* events that may have happened in time and not been told; 0: none */
	unsigned slice;  /* system calls the current fiber may still make before others run */
	struct hark__fiber *current;
	struct hark__fiber *zombie; /* has returned; its stack is free once another one runs */
	int64_t now; /* as of the latest wait for events: for what is due, and for order. Deadlines are the clock's */
	struct hark__heap timers;    /* of callbacks: struct hark__timer */
	struct hark__heap deadlines; /* of fibers */
	void *exceptions;            /* __cxa_get_globals() of this thread; NULL: no C++ here */
	struct hark__stacks stacks;
	unsigned n_fibers;      /* without main and sched */
	unsigned scopes;        /* that have started fibers here and are not closed */
	bool of_scopes;         /* made by one: closed with the last one */
	bool forked;            /* this process is a child of the one that it runs in */
	struct hark__list idle; /* fibers at a request boundary, longest first */
	struct hark__timer idle_timer;
	struct hark__waiter idle_waiter;
	struct hark__fiber main;  /* whoever opened the loop, on the thread's own stack */
	struct hark__fiber sched; /* waits for events and runs callbacks, on a large stack */
	struct hark__fiber_top main_top, sched_top;
	char *sched_stack;
	pthread_mutex_t posted_lock;
	struct hark__queue posted;         /* guarded by posted_lock: waiters other threads woke */
	struct hark__source posted_source; /* an eventfd */
	struct hark__waiter posted_waiter;
	/* drain_watch.c: this process's and those it comes from, drain.h */
	struct hark__source drain[HARK__DRAIN_FDS + HARK__RETIRE_FDS];
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
/* The lowest usable byte of a fiber's stack. They are usable up to f->top. */
char *hark__stack_low(const struct hark__stacks *s, const struct hark__fiber *f);
/* A stack outside the arena, with a guard below. */
int hark__stack_map(size_t bytes, char **low);
void hark__stack_unmap(char *low, size_t bytes);

/* ---- swap.c */

/* Gives the memory of a parked fiber's stack back, its live part kept aside; and puts it in place again. */
void hark__stack_swap_out(struct hark__stacks *s, struct hark__fiber *f);
void hark__stack_swap_in(struct hark__stacks *s, struct hark__fiber *f);
/* f->top, or a copy in *copy of the one that is put aside. */
const struct hark__fiber_top *hark__fiber_top_of(const struct hark__stacks *s, const struct hark__fiber *f,
                                                 struct hark__fiber_top *copy);

/* ---- fiber.c */

static inline struct hark__fiber *hark__fiber_of(struct hark__waiter *w)
{
	return hark__container(w, struct hark__fiber, waiter);
}

void hark__fiber_init(struct hark__fiber *f, struct hark__fiber_top *top, const char *name);
/* Lays out its stack, from low to high, so that a switch to f calls entry, which begins with hark__fiber_begin() and
 * never returns. */
void hark__fiber_prepare(struct hark__fiber *f, char *low, void *high, void (*entry)(void));
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
