/* offload.c — blocking work on helper threads, so that a loop never stalls.
 *
 * Threads are started when no idle one is there, up to a limit, and end after ten idle seconds. A job given up at its
 * deadline runs on; its argument is dropped when it is done. So look-ups that wait for a silent name server hold their
 * threads long after their askers have gone: each kind of work has threads of its own. A forked child has none of the
 * threads and starts its own.
 *
 * Helpers have every signal blocked: handlers run in the program's own threads. A job of hark_offload() runs with the
 * mask of the thread that asked, since a program that it starts inherits it. */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <time.h>

#include "base/sys.h"
#include "hark.h"
#include "loop/loop.h"
#include "loop/wakeup.h"

#define THREADS_MAX 64 /* helper threads of a process, for each kind of work; more jobs queue */
#define IDLE_S      10 /* seconds that an idle one lingers */

struct job {
	struct hark__list link;
	struct pool *pool;
	void (*fn)(void *);
	void (*drop)(void *);
	void *arg;
	const sigset_t *mask; /* while fn runs; NULL: the helper's own */
	struct hark__wakeup asker;
	bool done, given_up; /* guarded by lock */
};

struct pool {
	pthread_cond_t work;
	struct hark__list jobs; /* that nobody has begun */
	int queued;             /* how many they are */
	int threads, idle;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct pool pools[HARK__HELPERS]; /* guarded by lock */
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void make_pools(void)
{
	pthread_condattr_t monotonic;
	(void)pthread_mutex_init(&lock, NULL);
	(void)pthread_condattr_init(&monotonic);
	(void)pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	for (int i = 0; i < HARK__HELPERS; i++) {
		(void)pthread_cond_init(&pools[i].work, &monotonic);
		hark__list_init(&pools[i].jobs);
		pools[i].queued = pools[i].threads = pools[i].idle = 0;
	}
	(void)pthread_condattr_destroy(&monotonic);
}

static void make_pools_once(void)
{
	make_pools();
	(void)pthread_atfork(NULL, NULL,
	                     make_pools); /* a child has no helper threads; jobs of the parent are not its own */
}

/* The next job, or NULL when there was none for IDLE_S seconds. With lock. */
static struct job *next_job(struct pool *p)
{
	struct timespec until;
	(void)clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += IDLE_S;
	int r = 0;
	p->idle++;
	while (hark__list_empty(&p->jobs) && r == 0)
		r = pthread_cond_timedwait(&p->work, &lock, &until);
	p->idle--;
	struct hark__list *node = hark__list_pop(&p->jobs);
	p->queued -= node != NULL;
	return node != NULL ? hark__container(node, struct job, link) : NULL;
}

static void free_job(struct job *j)
{
	hark__wakeup_done(&j->asker);
	free(j);
}

/* With lock. The waiting side frees j, except when it has given up. */
static void finish(struct job *j)
{
	j->done = true;
	if (j->given_up) {
		pthread_mutex_unlock(&lock);
		if (j->drop != NULL)
			j->drop(j->arg);
		free_job(j);
		pthread_mutex_lock(&lock);
	} else {
		hark__wakeup_tell(&j->asker);
	}
}

static void run_job(const struct job *j)
{
	sigset_t own;
	if (j->mask != NULL)
		(void)pthread_sigmask(SIG_SETMASK, j->mask, &own);
	j->fn(j->arg);
	if (j->mask != NULL)
		(void)pthread_sigmask(SIG_SETMASK, &own, NULL);
}

static void *helper(void *arg)
{
	struct pool *p = arg;
	struct job *j;
	pthread_mutex_lock(&lock);
	while ((j = next_job(p)) != NULL) {
		pthread_mutex_unlock(&lock);
		run_job(j);
		pthread_mutex_lock(&lock);
		finish(j);
	}
	p->threads--;
	pthread_mutex_unlock(&lock);
	return NULL;
}

/* With lock. */
static int start_helper(struct pool *p)
{
	sigset_t all, old;
	pthread_attr_t detached;
	pthread_t t;
	(void)sigfillset(&all);
	(void)pthread_sigmask(SIG_SETMASK, &all, &old);
	(void)pthread_attr_init(&detached);
	(void)pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED);
	int r = hark__sys.pthread_create(&t, &detached, helper, p);
	(void)pthread_attr_destroy(&detached);
	(void)pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (r != 0)
		return p->threads > 0 ? 0 : -EAGAIN;
	p->threads++;
	return 0;
}

/* With lock. */
static int submit(struct job *j)
{
	struct pool *p = j->pool;
	int r = p->queued >= p->idle && p->threads < THREADS_MAX ? start_helper(p) : 0;
	if (r < 0)
		return r;
	hark__list_append(&p->jobs, &j->link);
	p->queued++;
	(void)pthread_cond_signal(&p->work);
	return 0;
}

/* A job that is given up: 0 if it was done after all, else err; then whoever runs it frees it, or nobody has begun and
 * the caller does (*ours). With lock. */
static int give_up(struct job *j, int err, bool *ours)
{
	if (j->done)
		return 0;
	*ours = hark__list_linked(&j->link);
	hark__list_remove(&j->link);
	j->pool->queued -= *ours;
	j->given_up = !*ours;
	return err;
}

static int wait_done(struct job *j, int64_t deadline, bool uncancellable, bool *ours)
{
	int r = uncancellable ? 0 : hark__wakeup_wait(&j->asker, deadline, "offload");
	if (r < 0) {
		pthread_mutex_lock(&lock);
		r = give_up(j, r, ours);
		pthread_mutex_unlock(&lock);
		if (r < 0)
			return r;
	}
	hark__wakeup_await(&j->asker, "offload");
	pthread_mutex_lock(&lock); /* whoever told has let go of j */
	pthread_mutex_unlock(&lock);
	return 0;
}

/* NULL: out of memory, or of descriptors: *error. */
static struct job *new_job(enum hark__helpers kind, void (*fn)(void *), void *arg, int *error)
{
	struct job *j = hark__sys.calloc(1, sizeof *j);
	*error = -ENOMEM;
	if (j == NULL)
		return NULL;
	(void)pthread_once(&once, make_pools_once);
	*j = (struct job){.pool = &pools[kind], .fn = fn, .arg = arg};
	*error = hark__wakeup_init(&j->asker);
	if (*error == 0)
		return j;
	free(j);
	return NULL;
}

static int run(struct job *j, int64_t deadline, bool uncancellable)
{
	bool ours = true; /* to free; else the helper that has begun will */
	pthread_mutex_lock(&lock);
	int r = submit(j);
	pthread_mutex_unlock(&lock);
	if (r == 0)
		r = wait_done(j, deadline, uncancellable, &ours);
	if (ours && r < 0 && j->drop != NULL)
		j->drop(j->arg);
	if (ours)
		free_job(j);
	return r;
}

int hark__offload_until(enum hark__helpers kind, void (*fn)(void *), void (*drop)(void *), void *arg, int64_t deadline)
{
	int r;
	struct job *j = new_job(kind, fn, arg, &r);
	if (j == NULL) {
		drop(arg);
		return r;
	}
	j->drop = drop;
	return run(j, deadline, false);
}

int hark_offload(void (*fn)(void *), void *arg)
{
	sigset_t mask;
	int r;
	if (hark__loop_current == NULL) {
		fn(arg);
		return 0;
	}
	struct job *j = new_job(HARK__HELPERS_WORK, fn, arg, &r);
	if (j == NULL)
		return r;
	(void)pthread_sigmask(SIG_SETMASK, NULL, &mask);
	j->mask = &mask;
	return run(j, HARK_FOREVER, true);
}
