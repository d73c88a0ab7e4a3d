/* test_fiber.c — fibers, scopes, time, offload and forks, with each engine. */
#include "modes.h"

#include <sys/resource.h>

#include "loop/loop.h"

/* What happened, in order. */
static char story[200];

static void tell(const char *what)
{
	CHECK(strlen(story) + strlen(what) < sizeof story);
	(void)strcat(story, what);
}

#define CHECK_STORY(wanted) \
	do { \
		if (strcmp(story, wanted) != 0) { \
			(void)fprintf(stderr, "%s:%d: the story is \"%s\", not \"%s\"\n", __FILE__, __LINE__, story, \
			              wanted); \
			_exit(1); \
		} \
		story[0] = '\0'; \
	} while (0)

/* ---- scopes ---------------------------------------------------------------------------------- */

static void tell_arg(void *arg)
{
	tell(arg);
}

static void tell_twice(void *arg)
{
	tell(arg);
	CHECK_INT(hark_yield(), 0);
	tell(arg);
}

static void order_body(void)
{
	struct hark_scope s;
	story[0] = '\0';
	hark_scope_open(&s);
	CHECK_INT(hark_go(&s, "a", tell_twice, "a"), 0);
	CHECK_INT(hark_go(&s, "b", tell_twice, "b"), 0);
	CHECK_INT(hark_go(&s, NULL, tell_arg, "c"), 0);
	CHECK_STORY(""); /* a fiber runs when its maker suspends */
	CHECK_INT(hark_join(&s, HARK_FOREVER), 0);
	CHECK_STORY("abcab");
	CHECK_INT(hark_join(&s, 0), 0); /* nobody is left */
	hark_scope_close(&s);
}

static void fibers_run_in_the_order_they_were_started(void **state)
{
	(void)state;
	everywhere(order_body); /* on a plain thread the scope makes the loop */
}

static void sleeper(void *arg)
{
	int rc = hark_sleep(HARK_S * 100);
	CHECK_INT(rc, -ECANCELED);
	CHECK_INT(hark_yield(), -ECANCELED);
	CHECK_INT(hark_sleep(1), -ECANCELED); /* sticky */
	tell(arg);
}

static void cancel_body(void)
{
	struct hark_scope s;
	story[0] = '\0';
	hark_scope_open(&s);
	CHECK_INT(hark_go(&s, "a", sleeper, "a"), 0);
	CHECK_INT(hark_go(&s, "b", sleeper, "b"), 0);
	CHECK_INT(hark_join(&s, hark_after(10 * HARK_MS)), -ETIMEDOUT);
	CHECK_STORY("");
	hark_cancel(&s);
	CHECK_STORY(""); /* never suspends */
	CHECK_INT(hark_go(&s, "late", sleeper, "late"), -ECANCELED);
	CHECK_INT(hark_join(&s, HARK_FOREVER), 0);
	CHECK_STORY("ab");
	hark_cancel(&s);
	hark_scope_close(&s);
	hark_scope_open(&s);
	CHECK_INT(hark_go(&s, "c", sleeper, "c"), 0);
	CHECK_INT(hark_yield(), 0);
	hark_scope_close(&s); /* cancels and waits */
	CHECK_STORY("c");
	hark_scope_open(&s);
	CHECK_INT(hark_go(&s, "d", sleeper, "d"), 0);
	hark_scope_close(&s); /* of one that has not begun */
	CHECK_STORY("d");
	hark_scope_open(&s);
	hark_scope_close(&s);
}

static void cancel_is_sticky_and_a_scopes_end_waits(void **state)
{
	(void)state;
	everywhere(cancel_body);
}

static void outer_fiber(void *arg)
{
	struct hark_scope inner;
	(void)arg;
	hark_scope_open(&inner);
	CHECK_INT(hark_go(&inner, "in1", sleeper, "i"), 0);
	CHECK_INT(hark_go(&inner, "in2", sleeper, "j"), 0);
	CHECK_INT(hark_join(&inner, HARK_FOREVER), -ECANCELED);
	tell("o");
	hark_scope_close(&inner); /* waits although its fiber is cancelled */
	tell("O");
}

static void nesting_body(void)
{
	struct hark_scope s;
	story[0] = '\0';
	hark_scope_open(&s);
	CHECK_INT(hark_go(&s, "outer", outer_fiber, NULL), 0);
	CHECK_INT(hark_sleep(5 * HARK_MS), 0);
	hark_scope_close(&s);
	CHECK_STORY("oijO");
}

static void an_inner_scope_ends_before_its_owner(void **state)
{
	(void)state;
	everywhere(nesting_body);
}

static struct hark_scope *shared;

static void second_joiner(void *arg)
{
	(void)arg;
	CHECK_INT(hark_join(shared, HARK_FOREVER), -EBUSY);
	tell("busy");
}

static void joiners_body(void)
{
	struct hark_scope s, t;
	story[0] = '\0';
	shared = &s;
	hark_scope_open(&s);
	hark_scope_open(&t);
	CHECK_INT(hark_go(&s, "a", sleeper, "a"), 0);
	CHECK_INT(hark_go(&t, "b", second_joiner, NULL), 0);
	CHECK_INT(hark_join(&s, hark_after(5 * HARK_MS)), -ETIMEDOUT);
	CHECK_STORY("busy");
	hark_scope_close(&t);
	hark_scope_close(&s);
	CHECK_STORY("a");
}

static void a_second_joiner_is_told_busy(void **state)
{
	(void)state;
	on_engines(joiners_body);
}

static void joins_its_own(void *arg)
{
	CHECK_INT(hark_join(arg, HARK_FOREVER), -ECANCELED);
	CHECK_INT(hark_sleep(HARK_MS), -ECANCELED);
	tell("j");
}

static struct hark__fiber *slow;

static void firm_sleeper(void *arg)
{
	*(struct hark__fiber **)arg = hark__fiber_self();
	int rc = hark_sleep(HARK_S);
	CHECK_INT(rc, -ECANCELED);
	for (int i = 0; i < 3; i++)
		hark__park_uncancellable("being slow");
}

static void wake_firm(void *arg)
{
	struct hark__fiber **f = arg;
	for (int i = 0; i < 3; i++) {
		CHECK_INT(hark_sleep(2 * HARK_MS), 0);
		hark__fiber_wake(*f);
	}
}

/* A member that joins its own scope is cancelled while the scope's end waits: the end must still be woken. */
static void self_join_body(void)
{
	struct hark_scope s, helper;
	story[0] = '\0';
	hark_scope_open(&helper);
	hark_scope_open(&s);
	CHECK_INT(hark_go(&s, "joins", joins_its_own, &s), 0);
	CHECK_INT(hark_go(&s, "slow", firm_sleeper, &slow), 0);
	CHECK_INT(hark_sleep(2 * HARK_MS), 0);
	CHECK_INT(hark_go(&helper, "wakes", wake_firm, &slow), 0);
	hark_scope_close(&s);
	CHECK_STORY("j");
	CHECK_INT(hark_join(&helper, HARK_FOREVER), 0);
	hark_scope_close(&helper);
}

static void a_scopes_end_is_not_lost_when_a_member_joins_it(void **state)
{
	(void)state;
	on_engines(self_join_body);
}

static void two_scopes_body(void)
{
	struct hark_scope outer, inner;
	story[0] = '\0';
	hark_scope_open(&outer);
	hark_scope_open(&inner);
	CHECK_INT(hark_go(&inner, "a", tell_twice, "a"), 0); /* makes the loop, off one */
	CHECK_INT(hark_go(&outer, "b", sleeper, "b"), 0);
	CHECK_INT(hark_join(&inner, HARK_FOREVER), 0);
	hark_scope_close(&inner);
	CHECK_STORY("aa");
	CHECK_INT(hark_go(&outer, "c", tell_arg, "c"), 0);
	CHECK_INT(hark_sleep(2 * HARK_MS), 0);
	CHECK_STORY("c");
	hark_scope_close(&outer);
	CHECK_STORY("b");
	CHECK(mode_engine != NULL || hark__loop_self() == NULL);
}

static void the_loop_that_an_inner_scope_made_lives_as_long_as_the_outer_needs_it(void **state)
{
	(void)state;
	everywhere(two_scopes_body);
}

static void starts_more(void *arg)
{
	struct hark_scope *s = arg;
	CHECK_INT(hark_go(s, "x", tell_twice, "x"), 0);
	tell("s");
}

static void member_go_body(void)
{
	struct hark_scope s;
	story[0] = '\0';
	hark_scope_open(&s);
	CHECK_INT(hark_go(&s, "s", starts_more, &s), 0);
	CHECK_INT(hark_join(&s, HARK_FOREVER), 0);
	CHECK_STORY("sxx");
	hark_scope_close(&s);
}

static void a_member_can_start_others_that_join_waits_for(void **state)
{
	(void)state;
	everywhere(member_go_body);
}

/* ---- time ------------------------------------------------------------------------------------ */

static void sleep_body(void)
{
	static const int64_t ns[] = {1, 100000, 2 * HARK_MS, 20 * HARK_MS};
	for (size_t i = 0; i < sizeof ns / sizeof ns[0]; i++) {
		int64_t best = HARK_FOREVER;
		for (int j = 0; j < 5; j++) {
			int64_t start = hark_now();
			CHECK_INT(hark_sleep(ns[i]), 0);
			int64_t took = hark_now() - start;
			CHECK(took >= ns[i]);
			best = took < best ? took : best;
		}
		CHECK(best < ns[i] + 3 * HARK_MS * SLOWER); /* the best of five: others use the machine too */
	}
	CHECK_INT(hark_sleep(0), 0);
	CHECK_INT(hark_sleep(-5), 0);
}

static void sleep_is_never_short_and_seldom_long(void **state)
{
	(void)state;
	everywhere(sleep_body);
}

static char woken[64];
static int n_woken;

struct nap {
	int64_t at;
	char name;
};

static void nap(void *arg)
{
	const struct nap *n = arg;
	CHECK_INT(hark__park(n->at, "nap"), -ETIMEDOUT); /* hark_sleep() would count from when it is called */
	woken[n_woken++] = n->name;
}

static void timers_body(void)
{
	static const int order[] = {7, 2, 9, 0, 4, 8, 1, 6, 3, 5};
	struct nap naps[10];
	struct hark_scope s;
	int64_t start = hark_after(200 * HARK_MS); /* all sleep by then, on a slow machine too */
	n_woken = 0;
	hark_scope_open(&s);
	for (int i = 0; i < 10; i++) {
		naps[i] = (struct nap){start + order[i] * 3 * HARK_MS, (char)('0' + order[i])};
		CHECK_INT(hark_go(&s, "nap", nap, &naps[i]), 0);
	}
	CHECK_INT(hark_join(&s, HARK_FOREVER), 0);
	hark_scope_close(&s);
	CHECK_INT(n_woken, 10);
	CHECK(memcmp(woken, "0123456789", 10) == 0);
}

static void timers_come_due_in_order(void **state)
{
	(void)state;
	on_engines(timers_body);
}

static int turns[3];

static void take_turns(void *arg)
{
	int *mine = arg;
	for (int i = 0; i < 1000; i++) {
		(*mine)++;
		for (int j = 0; j < 3; j++)
			CHECK(turns[j] >= *mine - 1 && turns[j] <= *mine + 1);
		CHECK_INT(hark_yield(), 0);
	}
}

static void yield_body(void)
{
	struct hark_scope s;
	memset(turns, 0, sizeof turns);
	hark_scope_open(&s);
	for (int i = 0; i < 3; i++)
		CHECK_INT(hark_go(&s, "turns", take_turns, &turns[i]), 0);
	CHECK_INT(hark_join(&s, HARK_FOREVER), 0);
	hark_scope_close(&s);
}

static void yield_is_fair(void **state)
{
	(void)state;
	on_engines(yield_body);
}

static void yields_for_ever(void *arg)
{
	(void)arg;
	while (hark_yield() == 0)
		;
}

static void yielding_body(void)
{
	struct hark_scope s;
	char byte;
	struct pair p = unix_pair();
	hark_scope_open(&s);
	CHECK_INT(hark_go(&s, "busy", yields_for_ever, NULL), 0);
	CHECK_INT(hark_sleep(5 * HARK_MS), 0); /* timers come due beside */
	CHECK_INT(hark_write(p.b, "x", 1), 1);
	CHECK_INT(hark_flush(p.b), 0);
	CHECK_INT(hark_read(p.a, &byte, 1), 1);
	hark_idle_timeout(p.a, 10 * HARK_MS);
	CHECK_INT(hark_read(p.a, &byte, 1), -ETIMEDOUT);
	hark_scope_close(&s);
	pair_drop(&p);
}

static void a_fiber_that_only_yields_starves_neither_timers_nor_events(void **state)
{
	(void)state;
	on_engines(yielding_body);
}

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

static void offload_body(void)
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

static void offload_runs_elsewhere_while_the_loop_goes_on(void **state)
{
	(void)state;
	on_engines(offload_body);
}

static void look_at_mask(void *arg)
{
	CHECK(!pthread_equal(pthread_self(), loop_thread));
	CHECK_INT(pthread_sigmask(SIG_SETMASK, NULL, arg), 0);
}

static void offload_mask_body(void)
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

static void a_program_that_offloaded_work_starts_has_the_callers_signal_mask(void **state)
{
	(void)state;
	on_engines(offload_mask_body);
}

static void offloads_cancelled(void *arg)
{
	CHECK_INT(hark_offload(block_elsewhere, arg), 0); /* waits for it whatever happens */
	CHECK_INT(hark_sleep(1), -ECANCELED);
}

static void offload_cancel_body(void)
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

static void offload_is_waited_for_by_a_cancelled_fiber(void **state)
{
	(void)state;
	on_engines(offload_cancel_body);
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

static void given_up_body(void)
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

static void an_offload_past_its_deadline_is_dropped_once(void **state)
{
	(void)state;
	everywhere_at_once(given_up_body);
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

static void threads_body(void)
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

static void each_thread_has_a_loop_of_its_own(void **state)
{
	(void)state;
	on_engines(threads_body);
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

static void fork_body(void)
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

static void a_fork_goes_on_blocking_and_leaves_the_parents_loop_alone(void **state)
{
	(void)state;
	on_engines(fork_body);
}

static void fork_in_scope_body(void)
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

static void fork_reads_body(void)
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

static void a_connection_can_be_handed_to_a_forked_child(void **state)
{
	(void)state;
	on_engines(fork_reads_body);
}

static void returns_in_a_child(void *arg)
{
	pid_t *pid = arg;
	*pid = fork();
	if (*pid == 0)
		(void)signal(SIGABRT, SIG_DFL);
}

static void fork_returns_body(void)
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

static void a_forked_child_that_returns_from_its_fiber_is_aborted(void **state)
{
	(void)state;
	on_engines(fork_returns_body);
}

static void a_forked_child_can_leave_its_scopes_and_make_a_loop(void **state)
{
	(void)state;
	on_engines(fork_in_scope_body);
}

/* ---- telling --------------------------------------------------------------------------------- */

static void reads_for_ever(void *arg)
{
	char byte;
	CHECK_INT(hark_read(arg, &byte, 1), -ECANCELED);
}

static void dump_body(void)
{
	char text[2000], want[64];
	int fds[2];
	struct hark_scope s;
	struct pair p = unix_pair();
	CHECK_INT(pipe2(fds, O_CLOEXEC), 0);
	hark_scope_open(&s);
	CHECK_INT(hark_go(&s, "sleeps", sleeper, ""), 0);
	CHECK_INT(hark_go(&s, "reads", reads_for_ever, p.a), 0);
	CHECK_INT(hark_go(&s, "a name that is longer than is kept of it", sleeper, ""), 0);
	CHECK_INT(hark_sleep(20 * HARK_MS), 0);
	CHECK_INT(hark_dump(fds[1]), 4);
	ssize_t n = read(fds[0], text, sizeof text - 1);
	CHECK(n > 0);
	text[n] = '\0';
	(void)snprintf(want, sizeof want, "waits: read on fd %d, for 0.", hark_fd(p.a));
	CHECK_HAS(text, "main                     runs\n");
	CHECK_HAS(text, "sleeps                   waits: sleep, for 0.");
	CHECK_HAS(text, want);
	CHECK_HAS(text, "a name that is longer t  waits");
	CHECK(hark_dump(-1) == -EBADF);
	hark_scope_close(&s);
	(void)close(fds[0]);
	(void)close(fds[1]);
	pair_drop(&p);
	CHECK(strcmp(hark_engine_name(), mode_engine) == 0);
}

static void dump_tells_who_waits_for_what(void **state)
{
	(void)state;
	on_engines(dump_body);
}

static int volatile never = 1;

__attribute__((noinline)) static int too_deep(int n)
{
	char frame[300];
	memset(frame, n, sizeof frame);
	if (never)
		return too_deep(n + 1) + frame[n % 300];
	return frame[0];
}

static void overflows(void *arg)
{
	*(int *)arg = too_deep(0);
}

static void overflow_body(void)
{
	char text[300];
	int fds[2], status, sink;
	CHECK_INT(pipe2(fds, O_CLOEXEC), 0);
	pid_t pid = fork();
	CHECK(pid >= 0);
	if (pid == 0) {
		struct hark_scope s;
		struct rlimit none = {0, 0};
		(void)setrlimit(RLIMIT_CORE, &none);
		(void)dup2(fds[1], 2);
		(void)setenv("HARK_ENGINE", mode_engine, 1);
		hark_scope_open(&s);
		CHECK_INT(hark_go(&s, "greedy", overflows, &sink), 0);
		hark_scope_close(&s);
		_exit(0);
	}
	(void)close(fds[1]);
	size_t got = 0;
	ssize_t n;
	while ((n = read(fds[0], text + got, sizeof text - 1 - got)) > 0)
		got += (size_t)n;
	text[got] = '\0';
	CHECK_HAS(text, "hark: fiber 'greedy' has overflowed its stack of ");
	CHECK_INT(waitpid(pid, &status, 0), pid);
	CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
	(void)close(fds[0]);
}

static void sent_body(void)
{
	int status;
	pid_t pid = fork();
	CHECK(pid >= 0);
	if (pid == 0) {
		struct hark_scope s;
		struct rlimit none = {0, 0};
		(void)setrlimit(RLIMIT_CORE, &none);
		hark_scope_open(&s);
		CHECK_INT(hark_sleep(0), 0);
		CHECK_INT(raise(SIGSEGV), 0);
		_exit(0);
	}
	CHECK_INT(waitpid(pid, &status, 0), pid);
	CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
}

static void who_is_sent_the_signal_of_a_fault_ends_by_it(void **state)
{
	(void)state;
	on_engines(sent_body);
}

static void a_stack_overflow_names_its_fiber(void **state)
{
	(void)state;
#if defined(UNDER_ASAN) || defined(UNDER_TSAN)
	(void)overflow_body;
	print_message("skipped: a sanitizer has SIGSEGV for itself\n");
	skip();
#else
	on_engines(overflow_body);
#endif
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(fibers_run_in_the_order_they_were_started),
		cmocka_unit_test(cancel_is_sticky_and_a_scopes_end_waits),
		cmocka_unit_test(an_inner_scope_ends_before_its_owner),
		cmocka_unit_test(a_second_joiner_is_told_busy),
		cmocka_unit_test(a_scopes_end_is_not_lost_when_a_member_joins_it),
		cmocka_unit_test(the_loop_that_an_inner_scope_made_lives_as_long_as_the_outer_needs_it),
		cmocka_unit_test(a_member_can_start_others_that_join_waits_for),
		cmocka_unit_test(sleep_is_never_short_and_seldom_long),
		cmocka_unit_test(timers_come_due_in_order),
		cmocka_unit_test(yield_is_fair),
		cmocka_unit_test(a_fiber_that_only_yields_starves_neither_timers_nor_events),
		cmocka_unit_test(offload_runs_elsewhere_while_the_loop_goes_on),
		cmocka_unit_test(a_program_that_offloaded_work_starts_has_the_callers_signal_mask),
		cmocka_unit_test(offload_is_waited_for_by_a_cancelled_fiber),
		cmocka_unit_test(an_offload_past_its_deadline_is_dropped_once),
		cmocka_unit_test(each_thread_has_a_loop_of_its_own),
		cmocka_unit_test(a_fork_goes_on_blocking_and_leaves_the_parents_loop_alone),
		cmocka_unit_test(a_forked_child_can_leave_its_scopes_and_make_a_loop),
		cmocka_unit_test(a_forked_child_that_returns_from_its_fiber_is_aborted),
		cmocka_unit_test(a_connection_can_be_handed_to_a_forked_child),
		cmocka_unit_test(dump_tells_who_waits_for_what),
		cmocka_unit_test(a_stack_overflow_names_its_fiber),
		cmocka_unit_test(who_is_sent_the_signal_of_a_fault_ends_by_it),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
