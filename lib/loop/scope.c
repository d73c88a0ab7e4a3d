/* scope.c — structured concurrency: a scope holds fibers, and its end waits for them.
 *
 * The scope is the caller's own memory, usually on its stack; it outlives its fibers because hark_scope_close() waits.
 * Owner and fibers are on one loop, so nothing here is locked. */
#include <assert.h>
#include <errno.h>

#include "hark.h"
#include "loop/loop.h"

struct hark__scope {
	struct hark__list fibers;   /* by their sibling node */
	struct hark__fiber *joiner; /* waits for the last one; NULL: nobody */
	struct hark__loop *loop;    /* of the first hark_go(); NULL: none yet */
	struct hark__fiber *owner;  /* who opened it; NULL: not a fiber */
	bool cancelled;
};

_Static_assert(sizeof(struct hark__scope) <= sizeof(struct hark_scope), "hark.h reserves too little for a scope");

static struct hark__scope *inside(struct hark_scope *s)
{
	return (struct hark__scope *)s->hark__private;
}

void hark_scope_open(struct hark_scope *s)
{
	*inside(s) = (struct hark__scope){0};
	hark__list_init(&inside(s)->fibers);
	if (hark__loop_current != NULL) {
		inside(s)->owner = hark__fiber_self();
		inside(s)->owner->top->scopes++;
	}
}

/* In a forked child the fibers are gone, and the loop with them: what is left of the scope is empty. */
static void forget_if_forked(struct hark__scope *s)
{
	if (s->loop == NULL || !s->loop->forked)
		return;
	hark__list_init(&s->fibers);
	s->joiner = NULL;
	s->loop = NULL;
}

/* The loop of a thread that had none lives as long as one of the scopes that use it. */
static int use_loop(struct hark__scope *s)
{
	if (hark__loop_current == NULL) {
		struct hark__loop *l;
		int r = hark__loop_open(NULL, 0, &l);
		if (r < 0)
			return r;
		r = hark__wait_is_served() ? hark__loop_watch_drain(l) : 0;
		if (r < 0) {
			hark__loop_close(l);
			return r;
		}
		l->of_scopes = true;
	}
	assert(s->loop == NULL || s->loop == hark__loop_current);
	if (s->loop == NULL) {
		s->loop = hark__loop_current;
		s->loop->scopes++;
	}
	return 0;
}

static void leave_loop(struct hark__scope *s)
{
	struct hark__loop *l = s->loop;
	s->loop = NULL;
	if (l != NULL && --l->scopes == 0 && l->of_scopes)
		hark__loop_close(l);
}

int hark_go(struct hark_scope *scope, const char *name, void (*fn)(void *), void *arg)
{
	struct hark__scope *s = inside(scope);
	struct hark__fiber *f;
	if (s->cancelled)
		return -ECANCELED;
	forget_if_forked(s);
	int r = use_loop(s);
	if (r == 0)
		r = hark__fiber_start(s->loop, name, fn, arg, &f);
	if (r < 0)
		return r;
	f->top->scope = s;
	hark__list_append(&s->fibers, &f->sibling);
	return 0;
}

void hark__scope_left(struct hark__fiber *f)
{
	struct hark__scope *s = f->top->scope;
	hark__list_remove(&f->sibling);
	if (hark__list_empty(&s->fibers) && s->joiner != NULL)
		hark__fiber_wake(s->joiner);
}

void hark_cancel(struct hark_scope *scope)
{
	struct hark__scope *s = inside(scope);
	forget_if_forked(s);
	s->cancelled = true;
	for (struct hark__list *at = s->fibers.next; at != &s->fibers; at = at->next)
		hark__fiber_cancel(hark__container(at, struct hark__fiber, sibling));
}

int hark_join(struct hark_scope *scope, int64_t deadline)
{
	struct hark__scope *s = inside(scope);
	int r = 0;
	forget_if_forked(s);
	if (hark__fiber_cancelled())
		return -ECANCELED;
	if (s->joiner != NULL)
		return -EBUSY;
	while (r == 0 && !hark__list_empty(&s->fibers)) {
		s->joiner = hark__fiber_self();
		r = hark__park(deadline, "join");
		if (s->joiner == hark__fiber_self()) /* else the scope's end waits by now */
			s->joiner = NULL;
	}
	return r;
}

void hark_scope_close(struct hark_scope *scope)
{
	struct hark__scope *s = inside(scope);
	forget_if_forked(s);
	if (!hark__list_empty(&s->fibers))
		hark_cancel(scope);
	while (!hark__list_empty(&s->fibers)) {
		s->joiner = hark__fiber_self();
		hark__park_uncancellable("scope end");
		s->joiner = NULL;
	}
	if (s->owner != NULL)
		s->owner->top->scopes--;
	s->owner = NULL;
	leave_loop(s);
}
