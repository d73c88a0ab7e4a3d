/* offload.c — blocking work on helper threads, so that a loop never stalls.
 *
 * Threads are started when no idle one is there, up to a limit, and end after ten idle seconds. A job given up at its
 * deadline runs on; its argument is dropped when it is done. A forked child has none of the threads and starts its own.
 */
#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <time.h>

#include "base/sys.h"
#include "hark.h"
#include "loop/loop.h"

#define THREADS_MAX 64 /* helper threads of a process; more jobs queue */
#define IDLE_S      10 /* seconds that an idle one lingers */

struct job {
	struct hark__list link;
	void (*fn)(void *);
	void (*drop)(void *);
	void *arg;
	struct hark__loop *loop;    /* NULL: a thread waits on the condition; else */
	struct hark__fiber *fiber;  /* this fiber waits, and */
	struct hark__waiter teller; /* this, posted to its loop, wakes it */
	bool told;                  /* the loop's thread alone */
	pthread_cond_t done_cond;
	bool done, given_up; /* guarded by pool.lock */
};

static struct {
	pthread_mutex_t lock;
	pthread_cond_t work;
	struct hark__list jobs;
	int threads, idle;
	bool ready;
} pool = {.lock = PTHREAD_MUTEX_INITIALIZER};

static pthread_once_t once = PTHREAD_ONCE_INIT;

static void make_pool(void)
{
	pthread_condattr_t monotonic;
	(void)pthread_mutex_init(&pool.lock, NULL);
	(void)pthread_condattr_init(&monotonic);
	(void)pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	(void)pthread_cond_init(&pool.work, &monotonic);
	(void)pthread_condattr_destroy(&monotonic);
	hark__list_init(&pool.jobs);
	pool.threads = pool.idle = 0;
}

static void make_pool_once(void)
{
	make_pool();
	(void)pthread_atfork(NULL, NULL,
	                     make_pool); /* a child has no helper threads; jobs of the parent are not its own */
}

/* The next job, or NULL when there was none for IDLE_S seconds. With pool.lock. */
static struct job *next_job(void)
{
	struct timespec until;
	(void)clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += IDLE_S;
	int r = 0;
	pool.idle++;
	while (hark__list_empty(&pool.jobs) && r == 0)
		r = pthread_cond_timedwait(&pool.work, &pool.lock, &until);
	pool.idle--;
	struct hark__list *node = hark__list_pop(&pool.jobs);
	return node != NULL ? hark__container(node, struct job, link) : NULL;
}

static void free_job(struct job *j)
{
	(void)pthread_cond_destroy(&j->done_cond);
	free(j);
}

/* With pool.lock. The waiting side frees j, except when it has given up. */
static void finish(struct job *j)
{
	j->done = true;
	if (j->given_up) {
		pthread_mutex_unlock(&pool.lock);
		if (j->drop != NULL)
			j->drop(j->arg);
		free_job(j);
		pthread_mutex_lock(&pool.lock);
	} else if (j->loop != NULL) {
		hark__loop_post(j->loop,
		                &j->teller); /* the fiber stays until it has run: neither loop nor job can go before */
	} else {
		(void)pthread_cond_signal(&j->done_cond);
	}
}

static void *helper(void *unused)
{
	struct job *j;
	pthread_mutex_lock(&pool.lock);
	while ((j = next_job()) != NULL) {
		pthread_mutex_unlock(&pool.lock);
		j->fn(j->arg);
		pthread_mutex_lock(&pool.lock);
		finish(j);
	}
	pool.threads--;
	pthread_mutex_unlock(&pool.lock);
	return unused;
}

/* With pool.lock. Signals stay with the program's own threads. */
static int start_helper(void)
{
	sigset_t all, old;
	pthread_attr_t detached;
	pthread_t t;
	(void)sigfillset(&all);
	(void)pthread_sigmask(SIG_SETMASK, &all, &old);
	(void)pthread_attr_init(&detached);
	(void)pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED);
	int r = hark__sys.pthread_create(&t, &detached, helper, NULL);
	(void)pthread_attr_destroy(&detached);
	(void)pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (r != 0)
		return pool.threads > 0 ? 0 : -EAGAIN;
	pool.threads++;
	return 0;
}

/* With pool.lock. */
static int submit(struct job *j)
{
	hark__list_append(&pool.jobs, &j->link);
	int waiting = 0;
	for (struct hark__list *at = pool.jobs.next; at != &pool.jobs; at = at->next)
		waiting++;
	int r = waiting > pool.idle && pool.threads < THREADS_MAX ? start_helper() : 0;
	if (r < 0)
		hark__list_remove(&j->link);
	else
		(void)pthread_cond_signal(&pool.work);
	return r;
}

/* A job that is given up: 0 if it was done after all, else err; then whoever runs it frees it, or nobody has begun and
 * the caller does (*ours). With pool.lock. */
static int give_up(struct job *j, int err, bool *ours)
{
	if (j->done)
		return 0;
	*ours = hark__list_linked(&j->link);
	hark__list_remove(&j->link);
	j->given_up = !*ours;
	return err;
}

static int wait_blocking(struct job *j, int64_t deadline, bool *ours)
{
	struct timespec until = {.tv_sec = deadline / HARK_S, .tv_nsec = deadline % HARK_S};
	int r = 0;
	pthread_mutex_lock(&pool.lock);
	while (!j->done && r == 0) {
		if (deadline == HARK_FOREVER)
			r = pthread_cond_wait(&j->done_cond, &pool.lock);
		else
			r = pthread_cond_timedwait(&j->done_cond, &pool.lock, &until);
	}
	r = give_up(j, -r, ours);
	pthread_mutex_unlock(&pool.lock);
	return r;
}

static void teller_run(struct hark__waiter *w)
{
	struct job *j = hark__container(w, struct job, teller);
	j->told = true;
	hark__fiber_wake(j->fiber);
}

static int wait_on_loop(struct job *j, int64_t deadline, bool uncancellable, bool *ours)
{
	int r = 0;
	while (!j->told && r == 0 && !uncancellable)
		r = hark__park(deadline, "offload");
	if (r < 0) {
		pthread_mutex_lock(&pool.lock);
		r = give_up(j, r, ours);
		pthread_mutex_unlock(&pool.lock);
		if (r < 0)
			return r;
	}
	while (!j->told)
		hark__park_uncancellable("offload");
	return 0;
}

static struct job *new_job(void (*fn)(void *), void (*drop)(void *), void *arg)
{
	pthread_condattr_t monotonic;
	struct job *j = hark__sys.calloc(1, sizeof *j);
	if (j == NULL)
		return NULL;
	*j = (struct job){.fn = fn, .drop = drop, .arg = arg, .loop = hark__loop_current, .teller.run = teller_run};
	if (j->loop != NULL)
		j->fiber = hark__fiber_self();
	(void)pthread_condattr_init(&monotonic);
	(void)pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	(void)pthread_cond_init(&j->done_cond, &monotonic);
	(void)pthread_condattr_destroy(&monotonic);
	return j;
}

static int run(void (*fn)(void *), void (*drop)(void *), void *arg, int64_t deadline, bool uncancellable)
{
	struct job *j = new_job(fn, drop, arg);
	bool ours = true; /* to free; else the helper that has begun will */
	int r = -ENOMEM;
	if (j != NULL) {
		(void)pthread_once(&once, make_pool_once);
		pthread_mutex_lock(&pool.lock);
		r = submit(j);
		pthread_mutex_unlock(&pool.lock);
	}
	if (r == 0)
		r = j->loop != NULL ? wait_on_loop(j, deadline, uncancellable, &ours)
		                    : wait_blocking(j, deadline, &ours);
	if (ours && j != NULL)
		free_job(j);
	if (ours && r < 0 && drop != NULL)
		drop(arg);
	return r;
}

int hark__offload_until(void (*fn)(void *), void (*drop)(void *), void *arg, int64_t deadline)
{
	return run(fn, drop, arg, deadline, false);
}

int hark_offload(void (*fn)(void *), void *arg)
{
	if (hark__loop_current == NULL) {
		fn(arg);
		return 0;
	}
	return run(fn, NULL, arg, HARK_FOREVER, true);
}
