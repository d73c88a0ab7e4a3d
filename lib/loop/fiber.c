/* fiber.c — fibers: how one begins, waits, is woken, and gives way to the next.
 *
 * Whoever parks switches straight to the next ready fiber; only when a callback is next, or nobody, or the budget is
 * spent, does it switch to the scheduler (loop.c). So a busy loop costs one switch a wait.
 *
 * A fiber's timer is lazy: a wait that ends early leaves it set, and when it comes due it is checked against the
 * deadline of the wait then under way. An idle time-out renewed at each request thus costs the heap nothing.
 *
 * One thread: the loop's. Fibers never move to another one. */
#include "loop/fiber.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/sys.h"
#include "hark.h"
#include "loop/loop.h"
#include "loop/switch.h"

#ifdef HARK__ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#ifdef HARK__TSAN
#include <pthread.h>
#include <sanitizer/tsan_interface.h>
#include <signal.h>
#endif

#define CROWD        4u  /* ready fibers from which on it pays to fetch ahead */
#define STACK_LINES  6   /* cache lines of a parked stack that the way out of a wait touches */
#define SOURCE_LINES 3   /* … and of the connection it waited for */
#define SLICE        64u /* system calls a fiber makes in a row without waiting, at most */

/* ---- switching ------------------------------------------------------------------------------- */

#ifdef HARK__TSAN
/* ThreadSanitizer puts a signal off until the fiber that it came to makes a call that it knows; one that has parked may
 * never again. None comes while fibers are switched, then; and the call that sees to that lets prev take those that
 * came. */
static __thread sigset_t signals;

static void hold_signals(void)
{
	sigset_t all;
	(void)sigfillset(&all);
	(void)pthread_sigmask(SIG_SETMASK, &all, &signals);
}

static void release_signals(void)
{
	(void)pthread_sigmask(SIG_SETMASK, &signals, NULL);
}
#endif

/* What is done on the stack just arrived at, for the one just left. */
static void arrived(struct hark__loop *l)
{
	struct hark__fiber *z = l->zombie;
#ifdef HARK__TSAN
	release_signals();
#endif
	if (z == NULL)
		return;
	l->zombie = NULL;
#ifdef HARK__TSAN
	__tsan_destroy_fiber(z->top->tsan);
	z->top->tsan = NULL;
#endif
	hark__stacks_give(&l->stacks, z);
}

/* C++ keeps what a thread has caught and not yet handled, and how much is in flight, in globals of the thread: each
 * fiber has its own. */
static inline void switch_exceptions(const struct hark__loop *l, struct hark__fiber_top *prev,
                                     const struct hark__fiber_top *next)
{
	if (l->exceptions == NULL)
		return;
	memcpy(prev->exceptions, l->exceptions, sizeof prev->exceptions);
	memcpy(l->exceptions, next->exceptions, sizeof next->exceptions);
}

/* One place for all switches: see the end of hark__switch. */
__attribute__((noinline)) void hark__fiber_switch(struct hark__loop *l, struct hark__fiber *next)
{
	struct hark__fiber *prev = l->current;
	if (next->aside)
		hark__stack_swap_in(&l->stacks, next);
	l->slice = SLICE;
	if (next == prev)
		return; /* a yield with nobody else ready */
	l->current = next;
#ifdef HARK__ASAN
	__sanitizer_start_switch_fiber(l->zombie == prev ? NULL : &prev->top->fake_stack, next->top->asan_bottom,
	                               next->top->asan_bytes);
#endif
#ifdef HARK__TSAN
	hold_signals();
	__tsan_switch_to_fiber(next->top->tsan, 0);
#endif
	switch_exceptions(l, prev->top, next->top);
	hark__switch(&prev->sp, next->sp);
#ifdef HARK__ASAN
	__sanitizer_finish_switch_fiber(prev->top->fake_stack, NULL, NULL);
#endif
	arrived(l);
}

void hark__fiber_begin(void)
{
	struct hark__loop *l = hark__loop_current;
#ifdef HARK__ASAN
	const void *bottom;
	size_t bytes;
	__sanitizer_finish_switch_fiber(NULL, &bottom, &bytes);
	if (l->main_top.asan_bottom == NULL) { /* the first switch of all is away from the thread's own stack */
		l->main_top.asan_bottom = bottom;
		l->main_top.asan_bytes = bytes;
	}
#endif
	arrived(l);
}

void hark__fiber_prepare(struct hark__fiber *f, char *low, void *high, void (*entry)(void))
{
	size_t bytes = (size_t)((char *)high - low);
#ifdef HARK__ASAN
	__asan_unpoison_memory_region(low, bytes);
	f->top->fake_stack = NULL;
	f->top->asan_bottom = low;
	f->top->asan_bytes = bytes;
#endif
#ifdef HARK__TSAN
	f->top->tsan = __tsan_create_fiber(0);
#endif
	f->sp = hark__switch_prepare(low, bytes, entry);
}

/* A thousand connections do not fit in the nearest caches: each would run into a dozen misses, one after the other. So
 * while one runs, what the next one will touch is fetched, and of the one after that what tells where that is. Measured
 * with 1,000 echo connections: without it a tenth of the server's time went by waiting here. */
static inline __attribute__((always_inline)) void fetch_ahead(
	const struct hark__loop *l) /* else found free of effects, and dropped */
{
	const struct hark__waiter *w = l->ready.first;
	if (l->n_ready < CROWD || w->run != NULL)
		return;
	const struct hark__fiber *f = hark__container(w, const struct hark__fiber, waiter);
	const char *sp = f->sp, *on = (const char *)f->on;
	__builtin_prefetch(f->top, 1);
	for (int line = 0; line < STACK_LINES; line++)
		__builtin_prefetch(sp + line * 64, 1);
	for (int line = 0; on != NULL && line < SOURCE_LINES; line++)
		__builtin_prefetch(on + line * 64, 1);
	__builtin_prefetch(w->next, 1);
}

/* The next to run after the current one, which has parked or ended. */
static struct hark__fiber *next_fiber(struct hark__loop *l)
{
	struct hark__waiter *w = l->ready.first;
	if (l->budget == 0 || l->n_ready == 0 || w->run != NULL)
		return &l->sched;
	(void)hark__queue_pop(&l->ready);
	l->n_ready--;
	l->budget--;
	fetch_ahead(l);
	return hark__fiber_of(w);
}

static void fiber_main(void)
{
	hark__fiber_begin();
	struct hark__loop *l = hark__loop_current;
	struct hark__fiber *f = l->current;
	void (*fn)(void *) = f->top->begin.fn;
	void *arg = f->top->begin.arg;
	f->top->idle = (struct hark__list){0};
	fn(arg);
	l = hark__loop_current;
	assert(l != NULL && l->current == f);
	hark__heap_remove(&l->deadlines, &f->timer);
	f->live = false;
	hark__loop_unwake(l, &f->waiter);
	l->n_fibers--;
	if (f->top->scope != NULL)
		hark__scope_left(f);
	l->zombie = f;
	hark__fiber_switch(l, next_fiber(l));
	__builtin_unreachable();
}

/* ---- waiting --------------------------------------------------------------------------------- */

void hark__fiber_wake(struct hark__fiber *f)
{
	if (f->parked) {
		f->parked = false;
		hark__loop_wake(hark__loop_current, &f->waiter);
	}
}

static int park(struct hark__loop *l, struct hark__fiber *f, int64_t deadline, const char *doing)
{
	struct hark__fiber_top *top = f->top;
	if (deadline < top->timer_at) {
		int r = hark__heap_set(&l->deadlines, &f->timer, deadline);
		if (r < 0)
			return r;
		top->timer_at = deadline;
	}
	top->deadline = deadline;
	top->doing = doing;
	top->since = l->now;
	f->timed_out = false;
	f->parked = true;
	hark__fiber_switch(l, next_fiber(l));
	top->doing = NULL;
	return 0;
}

int hark__park(int64_t deadline, const char *doing)
{
	struct hark__loop *l = hark__loop_current;
	struct hark__fiber *f = l->current;
	if (f->cancelled)
		return -ECANCELED;
	int r = park(l, f, deadline, doing);
	if (r < 0)
		return r;
	if (f->cancelled)
		return -ECANCELED;
	return f->timed_out ? -ETIMEDOUT : 0;
}

void hark__park_uncancellable(const char *doing)
{
	struct hark__fiber *f = hark__loop_current->current;
	f->uncancellable = true;
	(void)park(hark__loop_current, f, HARK_FOREVER, doing); /* cannot fail without a timer */
	f->uncancellable = false;
}

int hark_yield(void)
{
	struct hark__loop *l = hark__loop_current;
	if (l == NULL)
		return hark__wait_is_cut() ? -ECANCELED : 0;
	struct hark__fiber *f = l->current;
	if (f->cancelled)
		return -ECANCELED;
	if (l->slice <= 1)
		hark__loop_ask_soon(l);
	if (l->budget > 0 && l->n_ready > 0 &&
	    l->ready.first->run == NULL) { /* as a rule: nothing to count up and down */
		struct hark__fiber *next = hark__fiber_of(hark__queue_pop(&l->ready));
		hark__queue_push(&l->ready, &f->waiter);
		l->budget--;
		hark__fiber_switch(l, next);
	} else if (l->budget > 0 && l->n_ready == 0) {
		l->budget--; /* alone: nobody to switch to until the engine is asked again */
	} else {
		hark__loop_wake(l, &f->waiter);
		hark__fiber_switch(l, &l->sched);
	}
	return f->cancelled ? -ECANCELED : 0;
}

int hark__fair(void)
{
	struct hark__loop *l = hark__loop_current;
	if (l == NULL)
		return 0;
	if (l->slice <= 1)
		return hark_yield();
	l->slice--;
	return 0;
}

void hark__spend(unsigned calls)
{
	struct hark__loop *l = hark__loop_current;
	if (l != NULL)
		l->slice = l->slice > calls ? l->slice - calls : 1;
}

/* Its stack is in place. */
static void timer_due(struct hark__loop *l, struct hark__fiber *f)
{
	struct hark__fiber_top *top = f->top;
	top->timer_at = HARK_FOREVER;
	if (!f->parked || top->deadline == HARK_FOREVER)
		return;
	if (top->deadline > l->now) {
		if (hark__heap_set(&l->deadlines, &f->timer, top->deadline) == 0) {
			top->timer_at = top->deadline;
			return;
		} /* a slot was just freed: cannot fail; if it did, an early time-out beats none */
	}
	f->timed_out = true;
	hark__fiber_wake(f);
}

void hark__fiber_timer_due(struct hark__loop *l, struct hark__fiber *f)
{
	bool aside = f->aside; /* once a wait at most: a timer set afresh is due when the wait ends */
	if (aside)
		hark__stack_swap_in(&l->stacks, f);
	timer_due(l, f);
	if (aside && f->parked)
		hark__stack_swap_out(&l->stacks, f);
}

/* ---- fibers ---------------------------------------------------------------------------------- */

struct hark__fiber *hark__fiber_self(void)
{
	return hark__loop_current->current;
}

struct hark__waiter *hark__fiber_waiter(struct hark__fiber *f)
{
	return &f->waiter;
}

bool hark__fiber_cancelled(void)
{
	return hark__loop_current != NULL ? hark__loop_current->current->cancelled : hark__wait_is_cut();
}

void hark__fiber_cancel(struct hark__fiber *f)
{
	f->cancelled = true;
	if (!f->uncancellable)
		hark__fiber_wake(f);
}

static void set_name(struct hark__fiber_top *top, const char *name)
{
	size_t n = name != NULL ? strnlen(name, HARK__NAME_MAX) : 0;
	if (n > 0)
		memcpy(top->name, name, n);
	memset(top->name + n, 0, sizeof top->name - n);
}

void hark__fiber_init(struct hark__fiber *f, struct hark__fiber_top *top, const char *name)
{
	f->top = top;
	top->fiber = f;
	f->waiter = (struct hark__waiter){0};
	f->on = NULL;
	f->sibling = (struct hark__list){0};
	f->parked = f->timed_out = f->cancelled = f->uncancellable = f->live = f->drains = f->aside = false;
	top->timer_at = top->deadline = HARK_FOREVER;
	top->doing = NULL;
	top->idle = (struct hark__list){0};
	top->scope = NULL;
	top->scopes = 0;
	memset(top->exceptions, 0, sizeof top->exceptions);
	set_name(top, name);
}

int hark__fiber_start(struct hark__loop *l, const char *name, void (*fn)(void *), void *arg, struct hark__fiber **out)
{
	struct hark__fiber *f;
	int r = hark__stacks_take(&l->stacks, &f);
	if (r < 0)
		return r;
	hark__fiber_init(f, f->top, name);
	f->top->begin.fn = fn;
	f->top->begin.arg = arg;
	f->live = true;
	hark__fiber_prepare(f, hark__stack_low(&l->stacks, f), f->top, fiber_main);
	l->n_fibers++;
	hark__loop_wake(l, &f->waiter);
	if (out != NULL)
		*out = f;
	return 0;
}

static int dump_fiber(const struct hark__loop *l, const struct hark__fiber *f, int fd, int64_t now)
{
	char line[256], where[32] = "";
	int len;
	struct hark__fiber_top copy;
	const struct hark__fiber_top *top = hark__fiber_top_of(&l->stacks, f, &copy);
	if (f->on != NULL)
		(void)snprintf(where, sizeof where, " on fd %d", f->on->fd);
	if (top->doing == NULL)
		len = snprintf(line, sizeof line, "%-24s %s\n", top->name, f == l->current ? "runs" : "is ready");
	else
		len = snprintf(line, sizeof line, "%-24s waits: %s%s, for %.3f s\n", top->name, top->doing, where,
		               (double)(now - top->since) / 1e9);
	ssize_t wrote;
	do
		wrote = hark__sys.write(fd, line, (size_t)len);
	while (wrote < 0 && errno == EINTR);
	return wrote < 0 ? -errno : 1;
}

int hark_dump(int fd)
{
	struct hark__loop *l = hark__loop_current;
	if (l == NULL)
		return 0;
	int64_t now = hark_now();
	hark__spend(l->n_fibers + 1);
	int n = dump_fiber(l, &l->main, fd, now);
	for (size_t i = 0; i < l->stacks.used && n >= 0; i++) {
		const struct hark__fiber *f = hark__stacks_slot(&l->stacks, i);
		int r = f->live ? dump_fiber(l, f, fd, now) : 0;
		n = r < 0 ? r : n + r;
	}
	return n;
}
