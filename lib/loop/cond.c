/* cond.c — hark_cond: fibers and threads wait until others say that something has changed.
 *
 * The waiters stand in a list in the caller's struct, each on its own stack. One lock guards the lists of all
 * conditions: it is held for a few instructions, and so a zeroed condition is ready and needs no end. A forked child
 * forgets the waiters, as they are its parent's: it is told by a count of forks.
 *
 * Any fiber, any thread, but no signal handler. */
#include <errno.h>
#include <pthread.h>

#include "hark.h"
#include "loop/fiber.h"
#include "loop/wakeup.h"

struct cond {
	struct hark__list waiters; /* guarded by lock, as all of it */
	unsigned generation;
};

_Static_assert(sizeof(struct cond) <= sizeof(struct hark_cond), "hark.h reserves too little for a condition");

struct waiting {
	struct hark__list link;
	struct hark__wakeup wakeup;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static unsigned generation = 1; /* guarded by lock: one more in a forked child */
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void forked_child(void)
{
	(void)pthread_mutex_init(&lock, NULL);
	generation++;
}

static void watch_forks(void)
{
	(void)pthread_atfork(NULL, NULL, forked_child); /* fails only for want of memory, at the very start */
}

/* With lock. */
static struct hark__list *waiters_of(struct hark_cond *cond)
{
	struct cond *c = (struct cond *)cond->hark__private;
	if (c->generation != generation) {
		hark__list_init(&c->waiters);
		c->generation = generation;
	}
	return &c->waiters;
}

/* Out of the list again. True: by a wake-up that came, or is just coming, which others then do not get. */
static bool leave(struct waiting *w)
{
	pthread_mutex_lock(&lock);
	bool woken = !hark__list_linked(&w->link);
	hark__list_remove(&w->link);
	pthread_mutex_unlock(&lock);
	return woken;
}

int hark_cond_wait(struct hark_cond *c, pthread_mutex_t *mutex, int64_t deadline)
{
	struct waiting w;
	if (hark__fiber_cancelled())
		return -ECANCELED;
	if (deadline <= hark_now())
		return -ETIMEDOUT;
	int r = hark__wakeup_init(&w.wakeup);
	if (r < 0)
		return r;
	(void)pthread_once(&once, watch_forks);
	pthread_mutex_lock(&lock);
	hark__list_append(waiters_of(c), &w.link); /* before the mutex is let go: no wake-up is missed */
	pthread_mutex_unlock(&lock);
	if (mutex != NULL)
		(void)pthread_mutex_unlock(mutex);
	r = hark__wakeup_wait(&w.wakeup, deadline, "condition");
	if (leave(&w)) {
		hark__wakeup_await(&w.wakeup, "condition");
		r = 0;
	}
	hark__wakeup_done(&w.wakeup);
	if (mutex != NULL)
		(void)pthread_mutex_lock(mutex);
	return r;
}

/* With lock. False: nobody waits. */
static bool wake_first(struct hark__list *waiters)
{
	struct hark__list *node = hark__list_pop(waiters);
	if (node == NULL)
		return false;
	hark__wakeup_tell(&hark__container(node, struct waiting, link)->wakeup);
	return true;
}

void hark_cond_signal(struct hark_cond *c)
{
	pthread_mutex_lock(&lock);
	(void)wake_first(waiters_of(c));
	pthread_mutex_unlock(&lock);
}

void hark_cond_broadcast(struct hark_cond *c)
{
	pthread_mutex_lock(&lock);
	struct hark__list *waiters = waiters_of(c);
	while (wake_first(waiters))
		;
	pthread_mutex_unlock(&lock);
}
