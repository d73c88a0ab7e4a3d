/* test_fiber_threads.c — fibers beside threads and forks: offload, a loop for each thread, a forked child. */
#include "fiber_support.h"

/* ---- offload --------------------------------------------------------------------------------- */

static pthread_t loop_thread;
static atomic_int ticks, at_work, wanted_ticks, wanted_at_work;

static void block_elsewhere(void *arg)
{
	char deep[512 << 10]; /* a fiber has no such stack */
	memset(deep, 1, sizeof deep);
	CHECK(!pthread_equal(pthread_self(), loop_thread));
	CHECK(hark__loop_self() == NULL);
	struct timespec t = {.tv_nsec = HARK_MS};
	atomic_fetch_add(&at_work, 1);
	while (atomic_load(&ticks) < atomic_load(&wanted_ticks) || atomic_load(&at_work) < atomic_load(&wanted_at_work))
		(void)nanosleep(&t, NULL);
	*(int *)arg = deep[100] + 41;
}

static void ticker(void *arg)
{
	(void)arg;
	while (hark_sleep(3 * HARK_MS) == 0)
		ticks++;
}

static void offloads(void *arg)
{
	CHECK_INT(hark_offload(block_elsewhere, arg), 0);
}

static void offload_runs_elsewhere_while_the_loop_goes_on(void)
{
	int result[8] = {0};
	struct hark_scope s, many;
	loop_thread = pthread_self();
	ticks = 0;
	hark_scope_open(&s);
	CHECK_INT(hark_go(&s, "ticker", ticker, NULL), 0);
	wanted_ticks = 5; /* ends only as the loop goes on */
	CHECK_INT(hark_offload(block_elsewhere, &result[0]), 0);
	CHECK_INT(result[0], 42);
	at_work = 0;
	wanted_at_work = 7; /* and these only as all are at work at the same time */
	hark_scope_open(&many);
	for (int i = 1; i < 8; i++)
		CHECK_INT(hark_go(&many, "offloads", offloads, &result[i]), 0);
	CHECK_INT(hark_join(&many, HARK_FOREVER), 0);
	hark_scope_close(&many);
	for (int i = 0; i < 8; i++)
		CHECK_INT(result[i], 42);
	hark_scope_close(&s);
#ifdef UNDER_TSAN
	return; /* it allows no threads in a forked child */
#endif
	pid_t pid = fork(); /* a child has none of the threads, and starts its own */
	CHECK(pid >= 0);
	if (pid == 0) {
		struct hark__loop *l;
		int child_result = 0;
		wanted_ticks = wanted_at_work = 0;
		loop_thread = pthread_self();
		CHECK_INT(hark__loop_open(mode_engine, 0, &l), 0);
		CHECK_INT(hark_offload(block_elsewhere, &child_result), 0);
		_exit(child_result == 42 ? 0 : 1);
	}
	int status;
	CHECK_INT(waitpid(pid, &status, 0), pid);
	CHECK_INT(status, 0);
}

static void look_at_mask(void *arg)
{
	CHECK(!pthread_equal(pthread_self(), loop_thread));
	CHECK_INT(pthread_sigmask(SIG_SETMASK, NULL, arg), 0);
}

static void a_program_that_offloaded_work_starts_has_the_callers_signal_mask(void)
{
	sigset_t one, seen;
	(void)sigemptyset(&one);
	loop_thread = pthread_self();
	for (int i = 0; i < 2; i++) {
		CHECK_INT(pthread_sigmask(SIG_SETMASK, &one, NULL), 0);
		(void)sigfillset(&seen);
		CHECK_INT(hark_offload(look_at_mask, &seen), 0);
		for (int sig = 1; sig < SIGRTMIN; sig++)
			CHECK_INT(sigismember(&seen, sig), sigismember(&one, sig));
		(void)sigaddset(&one, SIGUSR1);
	}
}

static void offloads_cancelled(void *arg)
{
	CHECK_INT(hark_offload(block_elsewhere, arg), 0); /* waits for it whatever happens */
	CHECK_INT(hark_sleep(1), -ECANCELED);
}

static void offload_is_waited_for_by_a_cancelled_fiber(void)
{
	struct hark_scope s;
	int result = 0;
	loop_thread = pthread_self();
	hark_scope_open(&s);
	at_work = 0;
	wanted_at_work = 2;
	CHECK_INT(hark_go(&s, "o", offloads_cancelled, &result), 0);
	while (at_work == 0)
		CHECK_INT(hark_sleep(HARK_MS), 0);
	hark_cancel(&s);
	CHECK_INT(hark_sleep(5 * HARK_MS), 0);
	at_work = 2;
	hark_scope_close(&s);
	CHECK_INT(result, 42);
}

static atomic_int ran, dropped;

static void slow_job(void *arg)
{
	struct timespec t = {.tv_nsec = 50 * HARK_MS};
	(void)arg;
	(void)nanosleep(&t, NULL);
	atomic_fetch_add(&ran, 1);
}

static atomic_bool held, began;

static void held_job(void *arg)
{
	struct timespec t = {.tv_nsec = HARK_MS};
	atomic_store(&began, true);
	while (atomic_load(&held))
		(void)nanosleep(&t, NULL);
	slow_job(arg);
}

static void drop_job(void *arg)
{
	free(arg);
	atomic_fetch_add(&dropped, 1);
}

static void until_dropped(int times)
{
	for (int i = 0; i < 5000 && atomic_load(&dropped) < times; i++)
		CHECK_INT(hark_sleep(2 * HARK_MS), 0);
	CHECK_INT(atomic_load(&dropped), times);
}

static void an_offload_past_its_deadline_is_dropped_once(void)
{
	char *arg = malloc(8);
	int done = 0;
	atomic_store(&held, true);
	CHECK_INT(hark__offload_until(HARK__HELPERS_WORK, held_job, drop_job, arg, hark_after(30 * HARK_MS)),
	          -ETIMEDOUT);
	CHECK(!atomic_load(&began) || atomic_load(&dropped) == 0); /* fn is still at it; else it never will be */
	atomic_store(&held, false);
	until_dropped(1);
	CHECK_INT(atomic_load(&ran), atomic_load(&began));
	arg = malloc(8);
	CHECK_INT(hark__offload_until(HARK__HELPERS_WORK, slow_job, drop_job, arg, HARK_FOREVER), 0);
	CHECK_INT(atomic_load(&dropped), 1); /* never where 0 is returned */
	free(arg);
	for (int i = 0; i < 40; i++) /* the deadline and the end at about the same time */
		if (hark__offload_until(HARK__HELPERS_WORK, slow_job, drop_job, arg = malloc(8),
		                        hark_after(50 * HARK_MS + (i - 20) * 20000)) == 0) {
			free(arg);
			done++;
		}
	until_dropped(1 + 40 - done);
}

/* ---- other threads, forks -------------------------------------------------------------------- */

static void *own_loop(void *arg)
{
	struct hark__loop *l;
	CHECK_INT(hark__loop_open(arg, 0, &l), 0);
	for (int i = 0; i < 20; i++) {
		struct hark_scope s;
		hark_scope_open(&s);
		for (int j = 0; j < 3; j++)
			CHECK_INT(hark_go(&s, "yields", yields_for_ever, NULL), 0);
		CHECK_INT(hark_sleep(HARK_MS), 0);
		hark_scope_close(&s);
	}
	hark__loop_close(l);
	return NULL;
}

static void *plain_waits(void *arg)
{
	(void)arg;
	for (int i = 0; i < 20; i++)
		CHECK_INT(hark_sleep(HARK_MS), 0);
	CHECK(hark__loop_self() == NULL);
	return NULL;
}

static void each_thread_has_a_loop_of_its_own(void)
{
	pthread_t t[4];
	for (int i = 0; i < 3; i++)
		CHECK_INT(pthread_create(&t[i], NULL, own_loop, (void *)mode_engine), 0);
	CHECK_INT(pthread_create(&t[3], NULL, plain_waits, NULL), 0);
	ticks = 0;
	struct hark_scope s;
	hark_scope_open(&s);
	CHECK_INT(hark_go(&s, "ticker", ticker, NULL), 0);
	CHECK_INT(hark_sleep(30 * HARK_MS), 0);
	hark_scope_close(&s);
	CHECK(atomic_load(&ticks) > 0);
	for (int i = 0; i < 4; i++)
		CHECK_INT(pthread_join(t[i], NULL), 0);
}

static void forks(void *arg)
{
	struct pair *p = arg;
	char buf[8];
	pid_t pid = fork();
	CHECK(pid >= 0);
	if (pid == 0) { /* goes on here, with calls that block */
		CHECK(hark__loop_self() == NULL);
		CHECK_INT(hark_yield(), 0);
		int64_t start = hark_now();
		CHECK_INT(hark_sleep(20 * HARK_MS), 0);
		CHECK(hark_now() - start >= 20 * HARK_MS);
		CHECK_INT(hark_write(p->b, "child", 5), 5);
		CHECK_INT(hark_flush(p->b), 0);
		CHECK_INT(hark_dump(2), 0);
		_exit(0);
	}
	CHECK_INT(hark_readn(p->a, buf, 5), 5);
	CHECK(memcmp(buf, "child", 5) == 0);
	int status;
	CHECK_INT(waitpid(pid, &status, 0), pid);
	CHECK_INT(status, 0);
	CHECK_INT(hark_sleep(5 * HARK_MS), 0);
	tell("forked");
}

static void a_fork_goes_on_blocking_and_leaves_the_parents_loop_alone(void)
{
	struct pair p = unix_pair();
	struct hark_scope s, t;
	char byte;
	story[0] = '\0';
	ticks = 0;
	hark_idle_timeout(p.a, HARK_MS);
	CHECK_INT(hark_read(p.a, &byte, 1), -ETIMEDOUT); /* registered before the fork, as is */
	hark_idle_timeout(p.a, 0);
	hark_scope_open(&t);
	CHECK_INT(hark_go(&t, "ticker", ticker, NULL), 0);
	hark_scope_open(&s);
	CHECK_INT(hark_go(&s, "forks", forks, &p), 0);
	CHECK_INT(hark_join(&s, HARK_FOREVER), 0);
	hark_scope_close(&s);
	CHECK_STORY("forked");
	while (ticks < 2)
		CHECK_INT(hark_sleep(HARK_MS), 0);
	hark_scope_close(&t);
	pair_drop(&p);
}

static void a_forked_child_can_leave_its_scopes_and_make_a_loop(void)
{
	struct pair p = unix_pair();
	struct hark_scope s;
	char byte;
	ticks = 0;
	hark_idle_timeout(p.a, HARK_MS);
	CHECK_INT(hark_read(p.a, &byte, 1), -ETIMEDOUT);
	hark_scope_open(&s);
	CHECK_INT(hark_go(&s, "ticker", ticker, NULL), 0);
	pid_t pid = fork();
	CHECK(pid >= 0);
	if (pid == 0) { /* the scope's fibers stayed with the parent */
		struct hark_scope mine;
		hark_release(p.a);
		hark_release(p.b);
		CHECK_INT(hark_join(&s, HARK_FOREVER), 0);
		hark_scope_close(&s);
		p = unix_pair();
		hark_scope_open(&mine); /* and a loop of its own can be had */
		(void)setenv("HARK_ENGINE", mode_engine, 1);
		CHECK_INT(hark_go(&mine, "ticker", ticker, NULL), 0);
		hark_idle_timeout(p.a, 10 * HARK_MS);
		CHECK_INT(hark_read(p.a, &byte, 1), -ETIMEDOUT);
		hark_scope_close(&mine);
		pair_drop(&p);
		_exit(0);
	}
	int status;
	while (ticks < 2)
		CHECK_INT(hark_sleep(HARK_MS), 0);
	CHECK_INT(waitpid(pid, &status, 0), pid);
	CHECK_INT(status, 0);
	hark_idle_timeout(p.a, 5 * HARK_S);
	CHECK_INT(hark_write(p.b, "x", 1), 1);
	CHECK_INT(hark_flush(p.b), 0);
	CHECK_INT(hark_read(p.a, &byte, 1), 1); /* the registration is still there */
	hark_scope_close(&s);
	pair_drop(&p);
}

static void a_connection_can_be_handed_to_a_forked_child(void)
{
	struct pair p = unix_pair();
	char byte;
	hark_idle_timeout(p.a, HARK_MS);
	CHECK_INT(hark_read(p.a, &byte, 1), -ETIMEDOUT); /* an engine may be receiving for it by now */
	hark_idle_timeout(p.a, 5 * HARK_S);
	pid_t pid = fork();
	CHECK(pid >= 0);
	if (pid == 0) {
		CHECK_INT(hark_readn(p.a, &byte, 1), 1);
		CHECK_INT(byte, 'x');
		hark_release(p.a);
		hark_release(p.b);
		_exit(0);
	}
	int status;
	hark_release(p.a); /* it is the child's */
	CHECK_INT(hark_sleep(5 * HARK_MS), 0);
	CHECK_INT(hark_write(p.b, "x", 1), 1);
	CHECK_INT(hark_flush(p.b), 0);
	CHECK_INT(waitpid(pid, &status, 0), pid);
	CHECK_INT(status, 0);
	hark_abort(p.b);
}

static void returns_in_a_child(void *arg)
{
	pid_t *pid = arg;
	*pid = fork();
	if (*pid == 0)
		(void)signal(SIGABRT, SIG_DFL);
}

static void a_forked_child_that_returns_from_its_fiber_is_aborted(void)
{
	struct hark_scope s;
	pid_t pid = -1;
	int status;
	hark_scope_open(&s);
	CHECK_INT(hark_go(&s, "returns", returns_in_a_child, &pid), 0);
	CHECK_INT(hark_join(&s, HARK_FOREVER), 0);
	hark_scope_close(&s);
	CHECK(pid > 0);
	CHECK_INT(waitpid(pid, &status, 0), pid);
	CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		ON_ENGINES(offload_runs_elsewhere_while_the_loop_goes_on),
		ON_ENGINES(a_program_that_offloaded_work_starts_has_the_callers_signal_mask),
		ON_ENGINES(offload_is_waited_for_by_a_cancelled_fiber),
		EVERYWHERE_AT_ONCE(an_offload_past_its_deadline_is_dropped_once),
		ON_ENGINES(each_thread_has_a_loop_of_its_own),
		ON_ENGINES(a_fork_goes_on_blocking_and_leaves_the_parents_loop_alone),
		ON_ENGINES(a_forked_child_can_leave_its_scopes_and_make_a_loop),
		ON_ENGINES(a_forked_child_that_returns_from_its_fiber_is_aborted),
		ON_ENGINES(a_connection_can_be_handed_to_a_forked_child),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
