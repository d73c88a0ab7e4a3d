/* fiber.h — loops, fibers, timers, and the one function where every call waits: hark__wait_any().
 *
 * Each thread has at most one current loop. On a loop, waiting parks the fiber; elsewhere it is poll(2). */
#ifndef HARK__FIBER_H
#define HARK__FIBER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/heap.h"
#include "loop/engine.h"

struct hark__loop;
struct hark__fiber;

/* The calling thread's loop; NULL where calls block the thread. */
struct hark__loop *hark__loop_self(void);

/* Makes a loop with the named engine (NULL: the default) the thread's current one and its caller the loop's first
 * fiber. stack_bytes 0: the default. -ENOSYS, -EINVAL, -ENOMEM, -EMFILE. */
int hark__loop_open(const char *engine, size_t stack_bytes, struct hark__loop **out);

/* Ends a loop in which no other fiber is left; the thread has then no loop. NULL is fine. */
void hark__loop_close(struct hark__loop *l);

/* Puts the thread's loop aside, so that calls block, and back: a box under the inline model. Returns the one put aside.
 */
struct hark__loop *hark__loop_suspend(void);
void hark__loop_resume(struct hark__loop *l);

struct hark__engine *hark__loop_engine(struct hark__loop *l);

/* Queues w: its run() is called, on the loop's own large stack, when its turn comes. Once queued, again is a no-op. */
void hark__loop_wake(struct hark__loop *l, struct hark__waiter *w);

void hark__loop_unwake(struct hark__loop *l, struct hark__waiter *w); /* takes it out of the queue again */
/* Who is ready now runs once, then the engine is asked: for who has made many system calls and is to run again. */
void hark__loop_ask_soon(struct hark__loop *l);

/* The same from any thread. w stays valid until it runs. Needs no lock of the caller's. */
void hark__loop_post(struct hark__loop *l, struct hark__waiter *w);

/* On the loop's thread: w, which nobody posts any more, is not run. */
void hark__loop_unpost(struct hark__loop *l, struct hark__waiter *w);

/* Called by whatever may suspend after each system call that did not wait: lets others run after a good many of them,
 * so that a peer that always has more cannot hold the loop. 0 or -ECANCELED. */
int hark__fair(void);

/* Counts so many system calls on top: of who must not suspend, or makes many. The next hark__fair() heeds them. */
void hark__spend(unsigned calls);

/* Timers call t->waiter's run() by queueing it. Setting a set one moves it. */
struct hark__timer {
	struct hark__heap_node node;
	bool kept; /* its place in the heap outlives its moment: once set, it can always be set again. Until cleared */
	struct hark__waiter *waiter;
};

int hark__timer_set(struct hark__loop *l, struct hark__timer *t, int64_t at); /* 0 or -ENOMEM */
void hark__timer_clear(struct hark__loop *l, struct hark__timer *t);

#define HARK__DRAIN 8u /* also return, with 0, when a drain begins or has begun */

/* Waits until one of n sources is ready in a direction of events (HARK__IN, HARK__OUT, with HARK__DRAIN).
 * doing names the wait for hark_dump(): static text. Spurious returns are possible: the caller tries again.
 * 0; -ETIMEDOUT; -ECANCELED; -EBUSY: another fiber waits there in that direction; or -errno of the engine. */
int hark__wait_any(struct hark__source *const s[], int n, unsigned events, int64_t deadline, const char *doing);

/* The same for one source, where nearly all the waiting is done: few frames deep, since each return on the way out of a
 * fiber switch is mispredicted. */
int hark__wait_one(struct hark__source *s, unsigned events, int64_t deadline, const char *doing);

/* What hark__wait_any() waits for while a drain's grace ends earlier: -ECANCELED then. Set for boxes that are served by
 * the calling thread without a loop; a loop cancels its fibers instead. */
void hark__wait_served(bool served);
bool hark__wait_is_served(void);

/* Runs once, in the middle of a wait, when a drain begins or the process retires: for a server whose loop stands still
 * while the box runs in its place. */
struct hark__interrupt {
	void (*run)(struct hark__interrupt *i);
};

/* Sets the thread's, NULL: none. Returns the one before. */
struct hark__interrupt *hark__wait_interrupt_by(struct hark__interrupt *i);

/* Whether there is one that has not run; and runs it, if there is reason to. */
bool hark__wait_is_interruptible(void);
void hark__wait_interrupt(void);

/* Whether that has come: the box is as a cancelled fiber. Without a loop. */
bool hark__wait_is_cut(void);

/* Parks the calling fiber until woken by hark__fiber_wake(). Loop only. 0, -ETIMEDOUT, -ECANCELED. */
int hark__park(int64_t deadline, const char *doing);

/* Parks whatever happens, cancellation included. */
void hark__park_uncancellable(const char *doing);

/* The calling fiber begins or ends to wait at a request boundary: its stack may be given back meanwhile. */
void hark__fiber_idles(bool begins);

/* The drain has begun: ends every wait of the loop that asked for that (HARK__DRAIN). */
void hark__loop_draining(struct hark__loop *l);

struct hark__fiber *hark__fiber_self(void);
struct hark__waiter *hark__fiber_waiter(struct hark__fiber *f);
void hark__fiber_wake(struct hark__fiber *f); /* same thread */
void hark__fiber_cancel(struct hark__fiber *f);
bool hark__fiber_cancelled(void); /* without a loop: hark__wait_is_cut() */

/* Starts a fiber: what hark_go() does, without a scope. */
int hark__fiber_start(struct hark__loop *l, const char *name, void (*fn)(void *), void *arg, struct hark__fiber **out);

/* Kinds of work for helper threads, by what may hold a thread up. */
enum hark__helpers {
	HARK__HELPERS_WORK,   /* hark_offload() */
	HARK__HELPERS_LOCAL,  /* look-ups that files answer */
	HARK__HELPERS_REMOTE, /* look-ups that name servers answer, or do not */
	HARK__HELPERS,
};

/* hark_offload() that can be given up: fn(arg) on a helper thread of that kind; past the deadline it is abandoned, and
 * drop(arg) is called once fn has returned. drop is never called when 0 is returned. Works without a loop too. 0,
 * -ETIMEDOUT, -ECANCELED, -EAGAIN, -ENOMEM (in all of which drop(arg) is called, at once or later). */
int hark__offload_until(enum hark__helpers kind, void (*fn)(void *), void (*drop)(void *), void *arg, int64_t deadline);

#endif
