/* test_fiber.c — fibers, their scopes and their time, and what is told of them, with each engine. */
#include "fiber_support.h"

#include "loop/loop.h"

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

static void cancel_is_sticky_and_a_scopes_end_waits(void)
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

static void an_inner_scope_ends_before_its_owner(void)
{
	struct hark_scope s;
	story[0] = '\0';
	hark_scope_open(&s);
	CHECK_INT(hark_go(&s, "outer", outer_fiber, NULL), 0);
	CHECK_INT(hark_sleep(5 * HARK_MS), 0);
	hark_scope_close(&s);
	CHECK_STORY("oijO");
}

static struct hark_scope *shared;

static void second_joiner(void *arg)
{
	(void)arg;
	CHECK_INT(hark_join(shared, HARK_FOREVER), -EBUSY);
	tell("busy");
}

static void a_second_joiner_is_told_busy(void)
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
static void a_scopes_end_is_not_lost_when_a_member_joins_it(void)
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

static void the_loop_that_an_inner_scope_made_lives_as_long_as_the_outer_needs_it(void)
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

static void starts_more(void *arg)
{
	struct hark_scope *s = arg;
	CHECK_INT(hark_go(s, "x", tell_twice, "x"), 0);
	tell("s");
}

static void a_member_can_start_others_that_join_waits_for(void)
{
	struct hark_scope s;
	story[0] = '\0';
	hark_scope_open(&s);
	CHECK_INT(hark_go(&s, "s", starts_more, &s), 0);
	CHECK_INT(hark_join(&s, HARK_FOREVER), 0);
	CHECK_STORY("sxx");
	hark_scope_close(&s);
}

/* ---- time ------------------------------------------------------------------------------------ */

static void sleep_is_never_short_and_seldom_long(void)
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

static void timers_come_due_in_order(void)
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

static void yield_is_fair(void)
{
	struct hark_scope s;
	memset(turns, 0, sizeof turns);
	hark_scope_open(&s);
	for (int i = 0; i < 3; i++)
		CHECK_INT(hark_go(&s, "turns", take_turns, &turns[i]), 0);
	CHECK_INT(hark_join(&s, HARK_FOREVER), 0);
	hark_scope_close(&s);
}

static void a_fiber_that_only_yields_starves_neither_timers_nor_events(void)
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

/* ---- telling --------------------------------------------------------------------------------- */

static void reads_for_ever(void *arg)
{
	char byte;
	CHECK_INT(hark_read(arg, &byte, 1), -ECANCELED);
}

static void dump_tells_who_waits_for_what(void)
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

static void who_is_sent_the_signal_of_a_fault_ends_by_it(void)
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
		EVERYWHERE(cancel_is_sticky_and_a_scopes_end_waits),
		EVERYWHERE(an_inner_scope_ends_before_its_owner),
		ON_ENGINES(a_second_joiner_is_told_busy),
		ON_ENGINES(a_scopes_end_is_not_lost_when_a_member_joins_it),
		EVERYWHERE(the_loop_that_an_inner_scope_made_lives_as_long_as_the_outer_needs_it),
		EVERYWHERE(a_member_can_start_others_that_join_waits_for),
		EVERYWHERE(sleep_is_never_short_and_seldom_long),
		ON_ENGINES(timers_come_due_in_order),
		ON_ENGINES(yield_is_fair),
		ON_ENGINES(a_fiber_that_only_yields_starves_neither_timers_nor_events),
		ON_ENGINES(dump_tells_who_waits_for_what),
		cmocka_unit_test(a_stack_overflow_names_its_fiber),
		ON_ENGINES(who_is_sent_the_signal_of_a_fault_ends_by_it),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
