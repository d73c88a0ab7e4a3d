/* test_drain.c — the state of drains: what a child finds of it that another thread forks at any moment. */
#include "modes.h"

#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/wait.h>

#include "base/sys.h"
#include "loop/drain.h"

#define BESIDE_MS 100 /* for the other thread, which may have to wait for us */

static atomic_bool forked;
static int found; /* by the child, as of waitpid(2) */

/* Readable for ever, and no drain: a server would ask again and again. */
static bool told_of_nothing(void)
{
	struct pollfd p[HARK__DRAIN_FDS];
	int n = hark__drain_poll(p);
	return poll(p, (nfds_t)n, 0) > 0 && hark__drain_until() == HARK_FOREVER;
}

static void *fork_beside(void *arg)
{
	pid_t pid = fork();
	if (pid == 0)
		_exit(told_of_nothing());
	atomic_store(&forked, true);
	CHECK_INT(waitpid(pid, &found, 0), pid);
	return arg;
}

static pthread_t beside;
static int (*real_dup3)(int from, int to, int flags);

/* Between the two halves of the state. */
static int forking_dup3(int from, int to, int flags)
{
	CHECK_INT(pthread_create(&beside, NULL, fork_beside, NULL), 0);
	for (int ms = 0; ms < BESIDE_MS && !atomic_load(&forked); ms++)
		(void)poll(NULL, 0, 1);
	return real_dup3(from, to, flags);
}

static void a_child_that_is_forked_as_a_drain_ends_finds_no_half_of_it(void **state)
{
	(void)state;
	assert_int_equal(hark__drain_enter(), 0);
	hark_drain(HARK_S);
	real_dup3 = hark__sys.dup3;
	hark__sys.dup3 = forking_dup3;
	hark__drain_leave();
	hark__sys.dup3 = real_dup3;
	assert_int_equal(pthread_join(beside, NULL), 0);
	assert_int_equal(found, 0);
	assert_false(told_of_nothing());
}

static void a_drain_before_the_first_server_is_heard_by_it(void **state)
{
	struct pollfd p[HARK__DRAIN_FDS];
	(void)state;
	hark_drain(HARK_S);
	assert_int_equal(hark__drain_enter(), 0);
	assert_true(hark_drain_deadline() != HARK_FOREVER);
	assert_int_equal(poll(p, (nfds_t)hark__drain_poll(p), 0), 1);
	hark__drain_leave();
	assert_true(hark_drain_deadline() == HARK_FOREVER);
	assert_false(told_of_nothing());
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_drain_before_the_first_server_is_heard_by_it),
		cmocka_unit_test(a_child_that_is_forked_as_a_drain_ends_finds_no_half_of_it),
	};
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
