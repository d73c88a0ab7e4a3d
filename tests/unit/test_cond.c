/* test_cond.c — fibers and threads wait for each other: on one loop, on several, without one. */
#include "modes.h"

#include <stdatomic.h>

static char story[64];

static void tell(const char *what)
{
	CHECK(strlen(story) + strlen(what) < sizeof story);
	(void)strcat(story, what);
}

#define CHECK_STORY(wanted) \
	do { \
		CHECK(strcmp(story, wanted) == 0); \
		story[0] = '\0'; \
	} while (0)

/* ---- fibers of one loop ---------------------------------------------------------------------- */

static struct hark_cond cond;

static void waits(void *arg)
{
	CHECK_INT(hark_cond_wait(&cond, NULL, HARK_FOREVER), 0);
	tell(arg);
}

static void who_has_waited_longest_is_woken_first(void)
{
	struct hark_scope s;
	cond = (struct hark_cond){0};
	story[0] = '\0';
	hark_cond_signal(&cond); /* nobody waits, nothing is kept */
	hark_cond_broadcast(&cond);
	hark_scope_open(&s);
	CHECK_INT(hark_go(&s, "a", waits, "a"), 0);
	CHECK_INT(hark_go(&s, "b", waits, "b"), 0);
	CHECK_INT(hark_go(&s, "c", waits, "c"), 0);
	CHECK_INT(hark_yield(), 0);
	CHECK_STORY("");
	hark_cond_signal(&cond);
	CHECK_STORY(""); /* never suspends */
	CHECK_INT(hark_yield(), 0);
	CHECK_STORY("a");
	hark_cond_broadcast(&cond);
	CHECK_INT(hark_join(&s, HARK_FOREVER), 0);
	CHECK_STORY("bc");
	hark_scope_close(&s);
}

static void times_out(void *arg)
{
	CHECK_INT(hark_cond_wait(&cond, NULL, hark_after(20 * HARK_MS)), -ETIMEDOUT);
	CHECK_INT(hark_cond_wait(&cond, NULL, INT64_MIN), -ETIMEDOUT);
	tell(arg);
}

static void is_cancelled(void *arg)
{
	CHECK_INT(hark_cond_wait(&cond, NULL, HARK_FOREVER), -ECANCELED);
	CHECK_INT(hark_cond_wait(&cond, NULL, HARK_FOREVER), -ECANCELED);
	tell(arg);
}

static void gets_it_all_the_same(void *arg)
{
	CHECK_INT(hark_cond_wait(&cond, NULL, HARK_FOREVER), 0); /* nobody else got this wake-up */
	CHECK_INT(hark_cond_wait(&cond, NULL, HARK_FOREVER), -ECANCELED);
	tell(arg);
}

static void a_wait_that_ends_otherwise_takes_no_wake_up(void)
{
	struct hark_scope s, t;
	cond = (struct hark_cond){0};
	story[0] = '\0';
	hark_scope_open(&s);
	CHECK_INT(hark_go(&s, "t", times_out, "t"), 0);
	CHECK_INT(hark_join(&s, HARK_FOREVER), 0);
	CHECK_STORY("t");
	CHECK_INT(hark_go(&s, "c", is_cancelled, "c"), 0);
	CHECK_INT(hark_yield(), 0);
	hark_scope_close(&s);
	CHECK_STORY("c");
	hark_scope_open(&s);
	hark_scope_open(&t);
	CHECK_INT(hark_go(&s, "g", gets_it_all_the_same, "g"), 0);
	CHECK_INT(hark_go(&t, "w", waits, "w"), 0);
	CHECK_INT(hark_yield(), 0);
	hark_cond_signal(&cond);
	hark_scope_close(&s); /* cancelled, but already woken */
	CHECK_STORY("g");
	hark_cond_signal(&cond);
	CHECK_INT(hark_join(&t, HARK_FOREVER), 0);
	hark_scope_close(&t);
	CHECK_STORY("w");
}

/* ---- a queue, between whomever ---------------------------------------------------------------- */

#define ITEMS 2000

static struct {
	pthread_mutex_t lock;
	struct hark_cond filled, emptied;
	int items[8], n, ended;
	long sum;
} queue;

static void put_items(void *arg)
{
	(void)arg;
	for (int i = 1; i <= ITEMS; i++) {
		pthread_mutex_lock(&queue.lock);
		while (queue.n == 8)
			CHECK_INT(hark_cond_wait(&queue.emptied, &queue.lock, HARK_FOREVER), 0);
		queue.items[queue.n++] = i;
		hark_cond_signal(&queue.filled);
		pthread_mutex_unlock(&queue.lock);
	}
	pthread_mutex_lock(&queue.lock);
	queue.ended++;
	pthread_mutex_unlock(&queue.lock);
	hark_cond_broadcast(&queue.filled);
}

static void take_items(void *arg)
{
	(void)arg;
	pthread_mutex_lock(&queue.lock);
	for (;;) {
		while (queue.n == 0 && queue.ended < 2)
			CHECK_INT(hark_cond_wait(&queue.filled, &queue.lock, HARK_FOREVER), 0);
		if (queue.n == 0)
			break;
		queue.sum += queue.items[--queue.n];
		hark_cond_signal(&queue.emptied);
	}
	pthread_mutex_unlock(&queue.lock);
}

static void queue_reset(void)
{
	memset(&queue, 0, sizeof queue);
	CHECK_INT(pthread_mutex_init(&queue.lock, NULL), 0);
}

static void fibers_share_a_queue(void)
{
	struct hark_scope s;
	queue_reset();
	hark_scope_open(&s);
	for (int i = 0; i < 2; i++) {
		CHECK_INT(hark_go(&s, "put", put_items, NULL), 0);
		CHECK_INT(hark_go(&s, "take", take_items, NULL), 0);
	}
	CHECK_INT(hark_join(&s, HARK_FOREVER), 0);
	hark_scope_close(&s);
	CHECK_INT(queue.sum, 2L * ITEMS * (ITEMS + 1) / 2);
}

struct role {
	void (*fn)(void *);
	const char *engine; /* NULL: the thread has no loop */
};

static void *role_main(void *arg)
{
	const struct role *r = arg;
	struct hark__loop *l = NULL;
	if (r->engine != NULL)
		CHECK_INT(hark__loop_open(r->engine, 0, &l), 0);
	r->fn(NULL);
	hark__loop_close(l);
	return NULL;
}

/* Threads without a loop, and fibers of several loops. */
static void threads_and_fibers_of_other_loops_share_a_queue(void)
{
	for (unsigned which = 0; which < 16; which++) {
		pthread_t t[4];
		struct role roles[4];
		queue_reset();
		for (unsigned i = 0; i < 4; i++) {
			roles[i].fn = i < 2 ? put_items : take_items;
			roles[i].engine = which & 1u << i ? mode_engine : NULL;
			CHECK_INT(pthread_create(&t[i], NULL, role_main, &roles[i]), 0);
		}
		for (int i = 0; i < 4; i++)
			CHECK_INT(pthread_join(t[i], NULL), 0);
		CHECK_INT(queue.sum, 2L * ITEMS * (ITEMS + 1) / 2);
	}
}

/* Wakers and deadlines at about the same time: each wake-up ends one wait, or nobody waited. */
static atomic_bool done;
static atomic_int woken;

static void *wakes_often(void *arg)
{
	(void)arg;
	while (!atomic_load(&done)) {
		struct timespec t = {.tv_nsec = 100000};
		pthread_mutex_lock(&queue.lock);
		hark_cond_signal(&queue.filled);
		pthread_mutex_unlock(&queue.lock);
		(void)nanosleep(&t, NULL);
	}
	return NULL;
}

static void waits_shortly(void *arg)
{
	(void)arg;
	for (int i = 0; i < 300; i++) {
		pthread_mutex_lock(&queue.lock);
		int r = hark_cond_wait(&queue.filled, &queue.lock, hark_after(50000 + i * 500));
		CHECK(r == 0 || r == -ETIMEDOUT);
		CHECK_INT(pthread_mutex_trylock(&queue.lock), EBUSY); /* it is held again */
		pthread_mutex_unlock(&queue.lock);
		woken += r == 0;
	}
}

static void a_wake_up_and_a_deadline_may_meet(void)
{
	pthread_t t;
	struct beside b;
	queue_reset();
	atomic_store(&done, false);
	atomic_store(&woken, 0);
	CHECK_INT(pthread_create(&t, NULL, wakes_often, NULL), 0);
	beside_start(&b, waits_shortly, NULL);
	beside_end(&b);
	atomic_store(&done, true);
	CHECK_INT(pthread_join(t, NULL), 0);
	CHECK(atomic_load(&woken) > 0);
}

/* ---- forks ------------------------------------------------------------------------------------ */

static void a_forked_child_has_none_of_the_waiters(void)
{
	struct hark_scope s;
	cond = (struct hark_cond){0};
	story[0] = '\0';
	hark_scope_open(&s);
	CHECK_INT(hark_go(&s, "a", waits, "a"), 0);
	CHECK_INT(hark_yield(), 0);
	pid_t pid = fork();
	CHECK(pid >= 0);
	if (pid == 0) {
		hark_cond_broadcast(&cond); /* its parent's waiters are not its own */
		CHECK_INT(hark_cond_wait(&cond, NULL, hark_after(20 * HARK_MS)), -ETIMEDOUT);
		_exit(0);
	}
	int status;
	CHECK_INT(waitpid(pid, &status, 0), pid);
	CHECK_INT(status, 0);
	CHECK_INT(hark_sleep(5 * HARK_MS), 0);
	CHECK_STORY("");
	hark_cond_signal(&cond);
	CHECK_INT(hark_join(&s, HARK_FOREVER), 0);
	CHECK_STORY("a");
	hark_scope_close(&s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		EVERYWHERE(who_has_waited_longest_is_woken_first),
		EVERYWHERE(a_wait_that_ends_otherwise_takes_no_wake_up),
		EVERYWHERE(fibers_share_a_queue),
		ON_ENGINES(threads_and_fibers_of_other_loops_share_a_queue),
		EVERYWHERE(a_wake_up_and_a_deadline_may_meet),
		EVERYWHERE(a_forked_child_has_none_of_the_waiters),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
