/* fiber.c — loops and fibers: who runs next, and who waits for what until when.
 *
 * A loop has a queue of ready waiters, a heap of timers and an engine. Whoever parks switches straight to the next
 * ready fiber; only when a callback is next, or nobody, or the budget is spent, does it switch to the scheduler, a
 * fiber with a large stack that runs callbacks and asks the engine. So a busy loop costs one switch a wait, and no
 * callback ever runs on a box's small stack.
 *
 * A fiber's timer is lazy: a wait that ends early leaves it set, and when it comes due it is checked against the
 * deadline of the wait then under way. An idle time-out renewed at each request thus costs the heap nothing.
 *
 * One thread a loop, except hark__loop_post(). Fibers never move to another thread. */
#include "loop/fiber.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/sys.h"
#include "hark.h"
#include "loop/loop.h"
#include "loop/overflow.h"
#include "loop/switch.h"

#ifdef HARK__ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#ifdef HARK__TSAN
#include <sanitizer/tsan_interface.h>
#define SIGNAL_NS (20 * HARK_MS)
#endif

#define SCHED_STACK_BYTES (8u << 20) /* as much as a thread has: boxes run on it under the inline model */
#define BUDGET_MIN        256u   /* waiters run between two looks at the engine, however few were ready at the last */
#define CROWD             4u     /* ready fibers from which on it pays to fetch ahead */
#define STACK_LINES       6      /* cache lines of a parked stack that the way out of a wait touches */
#define SOURCE_LINES      3      /* … and of the connection it waited for */
#define SLICE             64u    /* system calls a fiber makes in a row without waiting, at most */
#define IDLE_SWEEP_NS     HARK_S /* a stack is given back after one to two of these at a request boundary */

__thread struct hark__loop *hark__loop_current;

static pthread_once_t fork_once = PTHREAD_ONCE_INIT;

/* ---- switching ------------------------------------------------------------------------------- */

static void fiber_main(void);

static struct hark__fiber *as_fiber(struct hark__waiter *w)
{
	return hark__container(w, struct hark__fiber, waiter);
}

/* What is done on the stack just arrived at, for the one just left. */
static void arrived(struct hark__loop *l)
{
	struct hark__fiber *z = l->zombie;
	if (z == NULL)
		return;
	l->zombie = NULL;
#ifdef HARK__TSAN
	__tsan_destroy_fiber(z->tsan);
	z->tsan = NULL;
#endif
	hark__stacks_give(&l->stacks, z);
}

#ifdef HARK__TSAN
/* ThreadSanitizer puts a signal off until the fiber that it came to makes a call that it knows, as clock_gettime(2).
 * One that has parked may never again. */
static void take_signals(void)
{
	(void)hark_now();
}
#endif

/* One place for all switches: see the end of hark__switch. */
static __attribute__((noinline)) void switch_to(struct hark__loop *l, struct hark__fiber *next)
{
	struct hark__fiber *prev = l->current;
	if (next->swapped != NULL)
		hark__stack_swap_in(next);
	l->slice = SLICE;
	if (next == prev)
		return; /* a yield with nobody else ready */
	l->current = next;
#ifdef HARK__ASAN
	__sanitizer_start_switch_fiber(l->zombie == prev ? NULL : &prev->fake_stack,
	                               next->stack ? next->stack : next->asan_bottom,
	                               next->stack ? next->stack_bytes : next->asan_bytes);
#endif
#ifdef HARK__TSAN
	take_signals();
	__tsan_switch_to_fiber(next->tsan, 0);
#endif
	hark__switch(&prev->sp, next->sp);
#ifdef HARK__ASAN
	__sanitizer_finish_switch_fiber(prev->fake_stack, NULL, NULL);
#endif
	arrived(l);
}

/* A fiber's first instructions, on its own stack. */
static void fiber_begin(void)
{
	struct hark__loop *l = hark__loop_current;
#ifdef HARK__ASAN
	const void *bottom;
	size_t bytes;
	__sanitizer_finish_switch_fiber(NULL, &bottom, &bytes);
	if (l->main.asan_bottom == NULL) { /* the first switch of all is away from the thread's own stack */
		l->main.asan_bottom = bottom;
		l->main.asan_bytes = bytes;
	}
#endif
	arrived(l);
}

void hark__fiber_prepare(struct hark__fiber *f, void (*entry)(void))
{
#ifdef HARK__ASAN
	__asan_unpoison_memory_region(f->stack, f->stack_bytes);
	f->fake_stack = NULL;
#endif
#ifdef HARK__TSAN
	f->tsan = __tsan_create_fiber(0);
#endif
	f->sp = hark__switch_prepare(f->stack, (size_t)(hark__stack_top(f) - f->stack), entry);
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
	__builtin_prefetch((const char *)f + 64, 1);
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
	return as_fiber(w);
}

static void fiber_main(void)
{
	fiber_begin();
	struct hark__loop *l = hark__loop_current;
	struct hark__fiber *f = l->current;
	void (*fn)(void *) = f->begin.fn;
	void *arg = f->begin.arg;
	f->drain = (struct hark__list){0};
	fn(arg);
	l = hark__loop_current;
	assert(l != NULL && l->current == f);
	if (f->timer_at != HARK_FOREVER)
		hark__timer_clear(l, &f->timer);
	f->live = false;
	hark__loop_unwake(l, &f->waiter);
	l->n_fibers--;
	if (f->scope != NULL)
		hark__scope_left(f);
	l->zombie = f;
	switch_to(l, next_fiber(l));
	__builtin_unreachable();
}

/* ---- waiting --------------------------------------------------------------------------------- */

void hark__loop_wake(struct hark__loop *l, struct hark__waiter *w)
{
	if (w->next != NULL)
		return;
	hark__queue_push(&l->ready, w);
	l->n_ready++;
}

void hark__loop_unwake(struct hark__loop *l, struct hark__waiter *w)
{
	if (w->next == NULL)
		return;
	struct hark__waiter **at = &l->ready.first;
	while (*at != w) /* rare: something ends just when its turn has come */
		at = &(*at)->next;
	*at = w->next;
	if (l->ready.last == &w->next)
		l->ready.last = at;
	w->next = NULL;
	l->n_ready--;
}

void hark__fiber_wake(struct hark__fiber *f)
{
	if (f->parked) {
		f->parked = false;
		hark__loop_wake(hark__loop_current, &f->waiter);
	}
}

/* What engines call: a fiber is only woken out of a wait, a callback always. */
static void engine_wakes(struct hark__engine *e, struct hark__waiter *w)
{
	if (w->run == NULL)
		hark__fiber_wake(as_fiber(w));
	else
		hark__loop_wake(e->loop, w);
}

static int park(struct hark__loop *l, struct hark__fiber *f, int64_t deadline, const char *doing)
{
	if (deadline < f->timer_at) {
		int r = hark__timer_set(l, &f->timer, deadline);
		if (r < 0)
			return r;
		f->timer_at = deadline;
	}
	f->deadline = deadline;
	f->doing = doing;
	f->since = l->now;
	f->timed_out = false;
	f->parked = true;
	switch_to(l, next_fiber(l));
	f->doing = NULL;
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
		return 0;
	struct hark__fiber *f = l->current;
	if (f->cancelled)
		return -ECANCELED;
	if (l->budget > 0 && l->n_ready > 0 &&
	    l->ready.first->run == NULL) { /* as a rule: nothing to count up and down */
		struct hark__fiber *next = as_fiber(hark__queue_pop(&l->ready));
		hark__queue_push(&l->ready, &f->waiter);
		l->budget--;
		switch_to(l, next);
	} else if (l->budget > 0 && l->n_ready == 0) {
		l->budget--; /* alone: nobody to switch to until the engine is asked again */
	} else {
		hark__loop_wake(l, &f->waiter);
		switch_to(l, &l->sched);
	}
	return f->cancelled ? -ECANCELED : 0;
}

int hark__fair(void)
{
	struct hark__loop *l = hark__loop_current;
	if (l == NULL || --l->slice > 0)
		return 0;
	l->slice = SLICE;
	if (l->budget > l->n_ready)
		l->budget = l->n_ready; /* who is ready now runs once, then the engine is asked */
	return hark_yield();
}

/* ---- timers ---------------------------------------------------------------------------------- */

int hark__timer_set(struct hark__loop *l, struct hark__timer *t, int64_t at)
{
	return hark__heap_set(&l->timers, &t->node, at);
}

void hark__timer_clear(struct hark__loop *l, struct hark__timer *t)
{
	hark__heap_remove(&l->timers, &t->node);
}

static void fiber_timer_due(struct hark__loop *l, struct hark__fiber *f)
{
	f->timer_at = HARK_FOREVER;
	if (!f->parked || f->deadline == HARK_FOREVER)
		return;
	if (f->deadline > l->now) {
		if (hark__timer_set(l, &f->timer, f->deadline) == 0) {
			f->timer_at = f->deadline;
			return;
		} /* a slot was just freed: cannot fail; if it did, an early time-out beats none */
	}
	f->timed_out = true;
	hark__fiber_wake(f);
}

static void run_timers(struct hark__loop *l)
{
	int64_t at;
	struct hark__heap_node *node;
	while ((node = hark__heap_least(&l->timers, &at)) != NULL && at <= l->now) {
		struct hark__timer *t = hark__container(node, struct hark__timer, node);
		if (t->kept)
			(void)hark__heap_set(&l->timers, node, HARK_FOREVER);
		else
			hark__heap_remove(&l->timers, node);
		if (t->waiter->run == NULL)
			fiber_timer_due(l, as_fiber(t->waiter));
		else
			hark__loop_wake(l, t->waiter);
	}
}

/* ---- the scheduler --------------------------------------------------------------------------- */

/* See take_signals(). io_uring_enter(2) and epoll_pwait2(2) are no calls that ThreadSanitizer knows: a signal that
 * comes just before them waits as long as they do. */
static int64_t in_time_for_signals(int64_t timeout_ns)
{
#ifdef HARK__TSAN
	if (timeout_ns < 0 || timeout_ns > SIGNAL_NS)
		return SIGNAL_NS;
#endif
	return timeout_ns;
}

static int64_t engine_timeout(struct hark__loop *l)
{
	int64_t at;
	if (l->n_ready > 0)
		return 0;
	if (hark__heap_least(&l->timers, &at) == NULL)
		return -1;
	int64_t left = at - hark_now();
	return left > 0 ? left : 0;
}

static void sched_main(void)
{
	fiber_begin();
	struct hark__loop *l = hark__loop_current;
	for (;;) {
		while (l->budget > 0 && l->n_ready > 0) {
			struct hark__waiter *w = hark__queue_pop(&l->ready);
			l->n_ready--;
			l->budget--;
			if (w->run != NULL)
				w->run(w);
			else
				switch_to(l, as_fiber(w));
		}
		(void)l->engine->ops->wait(
			l->engine,
			in_time_for_signals(engine_timeout(l))); /* fails by EINTR, or for want of memory: look again */
		l->now = hark_now();
		run_timers(l);
		l->budget = l->n_ready > BUDGET_MIN ? l->n_ready : BUDGET_MIN;
	}
}

/* ---- request boundaries: stacks that are given back ------------------------------------------- */

static void idle_sweep(struct hark__waiter *w)
{
	struct hark__loop *l = hark__container(w, struct hark__loop, idle_waiter);
	struct hark__list *at = l->idle.next;
	while (at != &l->idle) {
		struct hark__fiber *f = hark__container(at, struct hark__fiber, idle);
		if (f->since > l->now - IDLE_SWEEP_NS)
			break;
		at = at->next;
		hark__list_remove(&f->idle);     /* once is enough: it stays given back while it waits */
		if (f->parked && f->scopes == 0) /* a scope lies on the stack, and members may use what else does */
			hark__stack_swap_out(f);
	}
	if (!hark__list_empty(&l->idle))
		(void)hark__timer_set(l, &l->idle_timer, l->now + IDLE_SWEEP_NS);
}

void hark__fiber_idles(bool begins)
{
	struct hark__loop *l = hark__loop_current;
	struct hark__fiber *f = l->current;
	if (!begins) {
		hark__list_remove(&f->idle);
		return;
	}
	if (f->stack == NULL)
		return;
	hark__list_append(&l->idle, &f->idle);
	if (l->idle_timer.node.place == 0)
		(void)hark__timer_set(l, &l->idle_timer,
		                      l->now + IDLE_SWEEP_NS); /* without it stacks are kept, no more */
}

/* ---- other threads --------------------------------------------------------------------------- */

void hark__loop_post(struct hark__loop *l, struct hark__waiter *w)
{
	uint64_t one = 1;
	pthread_mutex_lock(&l->posted_lock);
	bool first = hark__queue_empty(&l->posted);
	if (w->next == NULL)
		hark__queue_push(&l->posted, w);
	if (first) /* under the lock: the loop cannot close its descriptor before it has taken this */
		while (hark__sys.write(l->posted_source.fd, &one, sizeof one) < 0 && errno == EINTR)
			;
	pthread_mutex_unlock(&l->posted_lock);
}

static void posted_run(struct hark__waiter *self)
{
	struct hark__loop *l = hark__container(self, struct hark__loop, posted_waiter);
	uint64_t count;
	(void)hark__sys.read(l->posted_source.fd, &count, sizeof count);
	l->posted_source.ready = 0;
	l->posted_source.in = self;
	(void)l->engine->ops->arm(l->engine, &l->posted_source, HARK__IN);
	pthread_mutex_lock(&l->posted_lock);
	while (!hark__queue_empty(&l->posted)) {
		struct hark__waiter *w = hark__queue_pop(&l->posted);
		if (w->run == NULL)
			hark__fiber_wake(as_fiber(w));
		else
			hark__loop_wake(l, w);
	}
	pthread_mutex_unlock(&l->posted_lock);
}

/* ---- opening and closing --------------------------------------------------------------------- */

/* A forked child keeps the calling fiber alone: it goes on as a plain thread whose calls block. The loop's memory, its
 * other fibers included, is left as it was: nobody runs there any more. */
static void forked_child(void)
{
	struct hark__loop *l = hark__loop_current;
	hark__loop_current = NULL;
	if (l == NULL)
		return;
	l->forked = l->engine->forked = true;
	l->engine->ops->forked(l->engine);
	(void)hark__sys.close(l->posted_source.fd);
}

static void watch_forks(void)
{
	(void)pthread_atfork(NULL, NULL, forked_child); /* fails only for want of memory, at the very start */
}

static void init_fiber(struct hark__fiber *f, const char *name)
{
	f->waiter = (struct hark__waiter){0};
	f->swapped = NULL;
	f->scope = NULL;
	f->scopes = 0;
	f->sibling = f->drain = f->idle = (struct hark__list){0};
	f->timer = (struct hark__timer){.waiter = &f->waiter};
	f->timer_at = f->deadline = HARK_FOREVER;
	f->doing = NULL;
	f->on = NULL;
	f->fd = -1;
	f->parked = f->timed_out = f->cancelled = f->uncancellable = f->live = false;
	hark__fiber_init_name(f, name);
}

void hark__fiber_init_name(struct hark__fiber *f, const char *name)
{
	size_t n = name != NULL ? strnlen(name, HARK__NAME_MAX) : 0;
	if (n > 0)
		memcpy(f->name, name, n);
	f->name[n] = '\0';
}

static int open_parts(struct hark__loop *l, const char *engine, size_t stack_bytes)
{
	int r = hark__stacks_init(&l->stacks, stack_bytes);
	if (r < 0)
		return r;
	r = hark__stack_map(SCHED_STACK_BYTES, &l->sched.stack);
	if (r < 0)
		return r;
	l->sched.stack_bytes = SCHED_STACK_BYTES;
	int fd = hark__sys.eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (fd < 0) {
		r = -errno;
		goto unmap;
	}
	r = hark__engine_open(engine, &l->engine);
	if (r < 0)
		goto close_fd;
	l->engine->loop = l;
	l->engine->wake = engine_wakes;
	hark__source_init(&l->posted_source, fd);
	l->posted_source.ready = 0;
	l->posted_source.in = &l->posted_waiter;
	l->posted_waiter.run = posted_run;
	r = l->engine->ops->arm(l->engine, &l->posted_source, HARK__IN);
	if (r == 0)
		return 0;
	l->engine->ops->close(l->engine);
close_fd:
	(void)hark__sys.close(fd);
unmap:
	hark__stack_unmap(l->sched.stack, SCHED_STACK_BYTES);
	return r;
}

int hark__loop_open(const char *engine, size_t stack_bytes, struct hark__loop **out)
{
	assert(hark__loop_current == NULL);
	(void)pthread_once(&fork_once, watch_forks);
	struct hark__loop *l = hark__sys.aligned_alloc(_Alignof(struct hark__loop), sizeof *l);
	if (l == NULL)
		return -ENOMEM;
	memset(l, 0, sizeof *l);
	hark__queue_init(&l->ready);
	hark__list_init(&l->drain_waiters);
	hark__list_init(&l->idle);
	hark__queue_init(&l->posted);
	int r = open_parts(l, engine, stack_bytes);
	if (r < 0) {
		free(l);
		return r;
	}
	(void)pthread_mutex_init(&l->posted_lock, NULL);
	l->idle_waiter.run = idle_sweep;
	l->idle_timer.waiter = &l->idle_waiter;
	l->now = hark_now();
	l->budget = BUDGET_MIN;
	init_fiber(&l->main, "main");
	init_fiber(&l->sched, "scheduler");
	l->current = &l->main;
#ifdef HARK__TSAN
	l->main.tsan = __tsan_get_current_fiber();
#endif
	hark__fiber_prepare(&l->sched, sched_main);
	hark__loop_current = l;
	hark__overflow_watch();
	*out = l;
	return 0;
}

void hark__loop_close(struct hark__loop *l)
{
	if (l == NULL)
		return;
	assert(l->current == &l->main && l->n_fibers == 0);
	hark__overflow_unwatch();
	hark__loop_unwatch_drain(l);
	hark__source_detach(&l->posted_source);
	l->engine->ops->close(l->engine);
	pthread_mutex_lock(&l->posted_lock); /* a post under way still writes to the descriptor */
	(void)hark__sys.close(l->posted_source.fd);
	pthread_mutex_unlock(&l->posted_lock);
	(void)pthread_mutex_destroy(&l->posted_lock);
#ifdef HARK__TSAN
	__tsan_destroy_fiber(l->sched.tsan);
#endif
	hark__stacks_done(&l->stacks);
	hark__stack_unmap(l->sched.stack, SCHED_STACK_BYTES);
	hark__heap_done(&l->timers);
	if (hark__loop_current == l)
		hark__loop_current = NULL;
	free(l);
}

struct hark__loop *hark__loop_self(void)
{
	return hark__loop_current;
}

struct hark__loop *hark__loop_suspend(void)
{
	struct hark__loop *l = hark__loop_current;
	hark__loop_current = NULL;
	return l;
}

void hark__loop_resume(struct hark__loop *l)
{
	hark__loop_current = l;
}

struct hark__engine *hark__loop_engine(struct hark__loop *l)
{
	return l->engine;
}

int64_t hark__loop_now(const struct hark__loop *l)
{
	return l->now;
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
	return hark__loop_current != NULL && hark__loop_current->current->cancelled;
}

void hark__fiber_cancel(struct hark__fiber *f)
{
	f->cancelled = true;
	if (!f->uncancellable)
		hark__fiber_wake(f);
}

int hark__fiber_start(struct hark__loop *l, const char *name, void (*fn)(void *), void *arg, struct hark__fiber **out)
{
	struct hark__fiber *f;
	int r = hark__stacks_take(&l->stacks, &f);
	if (r < 0)
		return r;
	init_fiber(f, name);
	f->begin.fn = fn;
	f->begin.arg = arg;
	f->live = true;
	hark__fiber_prepare(f, fiber_main);
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
	if (f->fd >= 0)
		(void)snprintf(where, sizeof where, " on fd %d", f->fd);
	if (f->doing == NULL)
		len = snprintf(line, sizeof line, "%-24s %s\n", f->name, f == l->current ? "runs" : "is ready");
	else
		len = snprintf(line, sizeof line, "%-24s waits: %s%s, for %.3f s\n", f->name, f->doing, where,
		               (double)(now - f->since) / 1e9);
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
	int n = dump_fiber(l, &l->main, fd, now);
	for (size_t i = 0; i < l->stacks.used && n >= 0; i++) {
		const struct hark__fiber *f = hark__stacks_slot(&l->stacks, i);
		int r = f->live ? dump_fiber(l, f, fd, now) : 0;
		n = r < 0 ? r : n + r;
	}
	return n;
}

const char *hark_engine_name(void)
{
	struct hark__loop *l = hark__loop_current;
	if (l != NULL)
		return l->engine->ops->name;
	struct hark__engine *e;
	if (hark__engine_open(NULL, &e) < 0)
		return "poll";
	const char *name = e->ops->name;
	e->ops->close(e);
	return name;
}
