/* loop.c — loops: who runs next, what is due when, and what other threads post.
 *
 * A loop has a queue of ready waiters, a heap of timers and an engine. Its scheduler is a fiber with a large stack that
 * runs callbacks, asks the engine, and runs the timers that are due; fibers switch among themselves as long as they can
 * (fiber.c). So no callback ever runs on a box's small stack.
 *
 * One thread a loop, except hark__loop_post(). */
#include <assert.h>
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/sys.h"
#include "hark.h"
#include "loop/loop.h"
#include "loop/overflow.h"

#ifdef HARK__TSAN
#include <sanitizer/tsan_interface.h>
#endif

#define SCHED_STACK_BYTES (8u << 20) /* as much as a thread has: boxes run on it under the inline model */
#define BUDGET_MIN        256u   /* waiters run between two looks at the engine, however few were ready at the last */
#define IDLE_SWEEP_NS     HARK_S /* a stack is given back after one to two of these at a request boundary */

__thread struct hark__loop *hark__loop_current;

/* Of the C++ run-time, where it is part of the program. */
extern void *__cxa_get_globals(void) __attribute__((weak));

static pthread_once_t fork_once = PTHREAD_ONCE_INIT;

/* ---- waking ---------------------------------------------------------------------------------- */

void hark__loop_wake(struct hark__loop *l, struct hark__waiter *w)
{
	if (w->next != NULL)
		return;
	hark__queue_push(&l->ready, w);
	l->n_ready++;
}

/* false: it is not in q. Rare: something ends just when its turn has come. */
static bool queue_remove(struct hark__queue *q, struct hark__waiter *w)
{
	struct hark__waiter **at = &q->first;
	while (*at != w) {
		if (*at == (struct hark__waiter *)q)
			return false;
		at = &(*at)->next;
	}
	*at = w->next;
	if (q->last == &w->next)
		q->last = at;
	w->next = NULL;
	return true;
}

void hark__loop_unwake(struct hark__loop *l, struct hark__waiter *w)
{
	if (w->next != NULL && queue_remove(&l->ready, w))
		l->n_ready--;
}

void hark__loop_ask_soon(struct hark__loop *l)
{
	if (l->budget > l->n_ready)
		l->budget = l->n_ready;
}

/* What engines call: a fiber is only woken out of a wait, a callback always. */
static void engine_wakes(struct hark__engine *e, struct hark__waiter *w)
{
	if (w->run == NULL)
		hark__fiber_wake(hark__fiber_of(w));
	else
		hark__loop_wake(e->loop, w);
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

/* What has come in time is read before anybody is told that it has not: while the engine may have more to tell, timers
 * wait, but not for more events than there can have been when they came due. */
static bool may_be_late(struct hark__loop *l, int told)
{
	if (told <= 0) {
		l->untold = 0;
		return false;
	}
	if (l->untold == 0)
		l->untold = l->n_fibers + l->timers.n;
	l->untold -= l->untold < (unsigned)told ? l->untold : (unsigned)told;
	return l->untold > 0;
}

static void run_timers(struct hark__loop *l)
{
	int64_t at;
	struct hark__heap_node *node;
	while ((node = hark__heap_least(&l->deadlines, &at)) != NULL && at <= l->now) {
		hark__heap_remove(&l->deadlines, node);
		hark__fiber_timer_due(l, hark__container(node, struct hark__fiber, timer));
	}
	while ((node = hark__heap_least(&l->timers, &at)) != NULL && at <= l->now) {
		struct hark__timer *t = hark__container(node, struct hark__timer, node);
		if (t->kept)
			(void)hark__heap_set(&l->timers, node, HARK_FOREVER);
		else
			hark__heap_remove(&l->timers, node);
		hark__loop_wake(l, t->waiter);
	}
}

/* ---- the scheduler --------------------------------------------------------------------------- */

#ifdef HARK__TSAN
/* ThreadSanitizer keeps a signal in a table that a thread's or fiber's first call that waits makes: one that comes
 * meanwhile is lost, and so is the drain that it asks for. So the table is made while none can come: for the main
 * thread before main(); for the scheduler, on which boxes wait under the inline model, before it begins. */
static __attribute__((constructor)) void make_signal_table(void)
{
	sigset_t all, old;
	(void)sigfillset(&all);
	(void)pthread_sigmask(SIG_SETMASK, &all, &old);
	(void)hark__sys.ppoll(NULL, 0, &(struct timespec){0}, NULL);
	(void)pthread_sigmask(SIG_SETMASK, &old, NULL);
}
#endif

/* HARK_FOREVER: no timer is due. */
static int64_t next_due(struct hark__loop *l)
{
	int64_t at = HARK_FOREVER, deadline = HARK_FOREVER;
	(void)hark__heap_least(&l->timers, &at);
	(void)hark__heap_least(&l->deadlines, &deadline);
	return deadline < at ? deadline : at;
}

static bool will_pass(int r)
{
	return r == -EINTR || r == -EAGAIN || r == -EBUSY || r == -ENOMEM;
}

/* An engine that the kernel does not serve any more (a filter, put in place after it was opened) is replaced, when
 * nobody has still to take what it brought: else this loop would spin. */
static int ask_engine(struct hark__loop *l)
{
	int r = l->engine->ops->wait(l->engine, l->n_ready > 0 ? l->now : next_due(l), l->now);
	if (r < 0 && !will_pass(r) && l->n_ready == 0)
		(void)hark__engine_replace(&l->engine);
	return r;
}

static void sched_main(void)
{
	hark__fiber_begin();
	struct hark__loop *l = hark__loop_current;
#ifdef HARK__TSAN
	make_signal_table();
#endif
	for (;;) {
		while (l->budget > 0 && l->n_ready > 0) {
			struct hark__waiter *w = hark__queue_pop(&l->ready);
			l->n_ready--;
			l->budget--;
			if (w->run != NULL)
				w->run(w);
			else
				hark__fiber_switch(l, hark__fiber_of(w));
		}
		int told = ask_engine(l);
		l->now = hark_now();
		if (!may_be_late(l, told))
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
		struct hark__fiber_top *top = hark__container(at, struct hark__fiber_top, idle);
		if (top->since > l->now - IDLE_SWEEP_NS)
			break;
		at = at->next;
		hark__list_remove(&top->idle);              /* once is enough: it stays aside while it waits */
		if (top->fiber->parked && top->scopes == 0) /* a scope lies there, and members may use what else does */
			hark__stack_swap_out(&l->stacks, top->fiber);
	}
	if (!hark__list_empty(&l->idle))
		(void)hark__timer_set(l, &l->idle_timer, l->now + IDLE_SWEEP_NS);
}

void hark__fiber_idles(bool begins)
{
	struct hark__loop *l = hark__loop_current;
	struct hark__fiber *f = l->current;
	if (!begins) {
		hark__list_remove(&f->top->idle);
		return;
	}
	if (f == &l->main)
		return;
	hark__list_append(&l->idle, &f->top->idle);
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

void hark__loop_unpost(struct hark__loop *l, struct hark__waiter *w)
{
	pthread_mutex_lock(&l->posted_lock);
	bool posted = w->next != NULL && queue_remove(&l->posted, w);
	pthread_mutex_unlock(&l->posted_lock);
	if (!posted)
		hark__loop_unwake(l, w);
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
			hark__fiber_wake(hark__fiber_of(w));
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
	(void)hark__wait_interrupt_by(NULL); /* the sockets and their backlogs are the parent's to see to */
	hark__sources_forked();
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

static int open_parts(struct hark__loop *l, const char *engine, size_t stack_bytes)
{
	int r = hark__stacks_init(&l->stacks, stack_bytes);
	if (r < 0)
		return r;
	r = hark__stack_map(SCHED_STACK_BYTES, &l->sched_stack);
	if (r < 0)
		return r;
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
	hark__stack_unmap(l->sched_stack, SCHED_STACK_BYTES);
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
	hark__fiber_init(&l->main, &l->main_top, "main");
	hark__fiber_init(&l->sched, &l->sched_top, "scheduler");
	l->current = &l->main;
#ifdef HARK__TSAN
	l->main_top.tsan = __tsan_get_current_fiber();
#endif
	l->exceptions = __cxa_get_globals != NULL ? __cxa_get_globals() : NULL;
	hark__fiber_prepare(&l->sched, l->sched_stack, l->sched_stack + SCHED_STACK_BYTES, sched_main);
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
	__tsan_destroy_fiber(l->sched_top.tsan);
#endif
	hark__stacks_done(&l->stacks);
	hark__stack_unmap(l->sched_stack, SCHED_STACK_BYTES);
	hark__heap_done(&l->timers);
	hark__heap_done(&l->deadlines);
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
