/* drain_watch.c — drains, for the loop that a served box makes for fibers of its own where it has none: on a thread, in
 * a child, or called in place.
 *
 * The server's loop hears of a drain as a server. Such a loop is nobody else's: without this its fibers would hear
 * neither of the drain's beginning (HARK__DRAIN) nor of its end, which cuts every wait of a box by -ECANCELED as wait.c
 * does for boxes that wait in poll(2).
 *
 * The loop's thread. The descriptors are drain.c's. */
#include <errno.h>

#include "hark.h"
#include "loop/drain.h"
#include "loop/fiber.h"
#include "loop/loop.h"

/* The grace has ended. Again at each tick: a fiber may start another. */
static void cut(struct hark__loop *l)
{
	hark__fiber_cancel(&l->main);
	for (size_t i = 0; i < l->stacks.used; i++) {
		struct hark__fiber *f = hark__stacks_slot(&l->stacks, i);
		if (f->live)
			hark__fiber_cancel(f);
	}
}

static int arm(struct hark__loop *l)
{
	struct hark__engine *e = hark__loop_engine(l);
	int r = 0;
	for (int i = 0; i < HARK__DRAIN_FDS + HARK__RETIRE_FDS && r == 0; i++) {
		struct hark__source *s = &l->drain[i];
		if (s->fd < 0 || (i >= HARK__DRAIN_FDS && hark__retired())) /* that one would be readable for ever */
			continue;
		hark__ready_clear(s, HARK__IN | HARK__OUT);
		s->in = &l->drain_waiter;
		r = e->ops->arm(e, s, HARK__IN);
	}
	return r;
}

static void drain_told(struct hark__waiter *w)
{
	struct hark__loop *l = hark__container(w, struct hark__loop, drain_waiter);
	int64_t now = hark_now(), end = hark__drain_until();
	hark__wait_interrupt();
	if (end == HARK_FOREVER) { /* a drain that was over before we looked */
		(void)arm(l);
		return;
	}
	hark__loop_draining(l);
	if (now >= end)
		cut(l);
	int64_t next = now + HARK__DRAIN_TICK_NS;
	(void)hark__timer_set(l, &l->drain_timer, next < end || now >= end ? next : end); /* it is kept: cannot fail */
}

int hark__loop_watch_drain(struct hark__loop *l)
{
	int fds[HARK__DRAIN_FDS + HARK__RETIRE_FDS] = {[HARK__DRAIN_FDS] = -1, -1};
	l->drain_waiter.run = drain_told;
	l->drain_timer = (struct hark__timer){.waiter = &l->drain_waiter, .kept = true};
	l->watches_drain = true;
	hark__drain_fds(fds);
	if (hark__wait_is_interruptible()) {
		fds[HARK__DRAIN_FDS] = hark__retire_fd();
		fds[HARK__DRAIN_FDS + 1] = hark__retire_upstream_fd();
	}
	for (int i = 0; i < HARK__DRAIN_FDS + HARK__RETIRE_FDS; i++)
		hark__source_init(&l->drain[i], fds[i]);
	int r = hark__timer_set(l, &l->drain_timer, HARK_FOREVER);
	if (r == 0)
		r = arm(l);
	if (r == 0)
		hark__loop_wake(l, &l->drain_waiter); /* it may have begun before we looked */
	return r;
}

void hark__loop_unwatch_drain(struct hark__loop *l)
{
	if (!l->watches_drain)
		return;
	l->watches_drain = false;
	hark__loop_unwake(l, &l->drain_waiter);
	hark__timer_clear(l, &l->drain_timer);
	for (int i = 0; i < HARK__DRAIN_FDS + HARK__RETIRE_FDS; i++)
		hark__source_detach(&l->drain[i]);
}
