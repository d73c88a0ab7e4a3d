/* test_limits_workers.c — limits with workers that are killed at any moment, and that ask at once. */
#include "limits_support.h"

/* ---- workers that are killed ----------------------------------------------------------------- */

/* Whoever asks next does what limits_forget() has left undone. */
static void somebody_asks(struct limits *l)
{
	assert_true(table_lock(l));
	table_unlock(l);
}

static void a_dead_workers_connections_are_given_back(void **state)
{
	(void)state;
	struct bench b = bench_of(&(struct config_service){.max_conns = 6, .max_per_source = 3});
	for (int i = 0; i < 3; i++) {
		assert_true(admit_from(&b.w[0], from4(1)) > 0);
		assert_true(admit_from(&b.w[1], from4(2)) > 0);
	}
	assert_true(limits_pace(&b.w[2]) > 0);
	assert_int_equal(admit_from(&b.w[1], from4(1)), -REFUSED_PER_SOURCE);
	forget(0);
	forget(0);
	forget(7);
	limits_forget(shared_state, -1);
	limits_forget(shared_state, SLOTS);
	somebody_asks(b.limits);
	assert_int_equal(counters_now(counters), 3);
	assert_int_equal(admit_from(&b.w[1], from4(2)), -REFUSED_PER_SOURCE);
	assert_true(admit_from(&b.w[0], from4(1)) > 0); /* the slot's next worker */
	assert_int_equal(limits_pace(&b.w[2]), 0);
	forget(2); /* killed between the question and the accept */
	somebody_asks(b.limits);
	assert_int_equal(reserved(b.limits, counters), 0);
	assert_int_equal(counters_now(counters), 4);
	free(b.limits);
}

static struct limits_worker *victim;
static _Atomic int *points; /* shared: moments in the middle of changes that the victim has passed */
static int die_at;          /* at this one; 0: never */

static void die_there(void)
{
	if (atomic_fetch_add(points, 1) + 1 == die_at)
		(void)kill(getpid(), SIGKILL);
}

/* Comes and goes, from sources that others come from as well, and from ever new ones. */
static _Noreturn void be_busy(unsigned seed, int rounds)
{
	int tickets[16], n = 0;
	uint64_t x = seed * UINT64_C(0x9e3779b97f4a7c15) + 1;
	for (int i = 0; rounds == 0 || i < rounds; i++) {
		uint64_t r = random64(&x);
		clock_ns += HARK_MS;
		if (n == 16 || (n > 0 && r % 3 == 0)) {
			limits_leave(tickets[--n], victim);
		} else if (limits_pace(victim) == 0) {
			if (r % 7 == 0) {
				limits_leave(-1, victim);
			} else {
				int t = admit_from(victim, r % 2 ? from4((uint32_t)(r >> 8) % 8) : from6(r, x));
				if (t >= 0)
					tickets[n++] = t;
			}
		}
	}
	_exit(0);
}

static int end_of(pid_t pid)
{
	int status;
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return WIFSIGNALED(status) ? WTERMSIG(status) : 0;
}

static uint32_t source_conns(const struct limits *l)
{
	uint32_t sum = 0;
	for (int i = 0; i < ENTRIES; i++)
		sum += l->sources[i].conns;
	return sum;
}

static void sums_are_right(const struct limits *l)
{
	static uint32_t n[ENTRIES];
	memset(n, 0, sizeof n);
	for (uint32_t i = 0; i < l->m->places; i++)
		if (l->places[i].owner != 0 && l->places[i].at != 0)
			n[l->places[i].at - 1]++;
	for (int i = 0; i < ENTRIES; i++)
		assert_int_equal(l->sources[i].conns, n[i]);
}

/* Sums are right, nothing is held but by the living, and places are all to be had again. */
static void usable(struct bench *b, unsigned living)
{
	somebody_asks(b->limits);
	assert_int_equal(counters_now(counters), living);
	assert_int_equal(reserved(b->limits, counters), 0);
	assert_int_equal(source_conns(b->limits), living);
}

static const struct config_service all_limits = {.max_conns = 100,
                                                 .max_per_source = 20,
                                                 .rate_per_source = {1000, HARK_S, 1000},
                                                 .rate = {100000, HARK_S, 100000}};

static void a_worker_killed_in_the_middle_of_any_change_leaves_all_in_order(void **state)
{
	(void)state;
	int killed = 0;
	points = mmap(NULL, sizeof *points, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	assert_ptr_not_equal(points, MAP_FAILED);
	struct bench b = bench_of(&all_limits);
	victim = &b.w[3];
	int mine = admit_from(&b.w[0], from4(3)); /* lives through it all */
	for (die_at = 1; die_at <= 300; die_at++) {
		atomic_store(points, 0);
		pid_t pid = fork();
		assert_true(pid >= 0);
		if (pid == 0) {
			(void)alarm(20);
			limits_world.locked = die_there;
			be_busy((unsigned)die_at, 0);
		}
		assert_int_equal(end_of(pid), SIGKILL);
		killed++;
		if (die_at % 2) { /* another worker has the lock before the supervisor knows, or after */
			int t = admit_from(&b.w[1], from4(5));
			assert_true(t > 0);
			sums_are_right(b.limits);
			limits_leave(t, &b.w[1]);
		}
		forget(3);
		usable(&b, 1);
	}
	assert_int_equal(killed, 300);
	limits_leave(mine, &b.w[0]);
	usable(&b, 0);
	(void)munmap(points, sizeof *points);
	free(b.limits);
}

static void workers_killed_at_random_moments_leave_the_others_counts_right(void **state)
{
	pid_t pids[4];
	uint64_t x = 4711;
	(void)state;
	struct bench b = bench_of(&all_limits);
	for (int round = 0; round < 60; round++) {
		for (int i = 0; i < 4; i++) {
			victim = &b.w[i];
			pids[i] = fork();
			assert_true(pids[i] >= 0);
			if (pids[i] == 0) {
				(void)alarm(20);
				be_busy((unsigned)(round * 4 + i), 0);
			}
		}
		for (int i = 0; i < 4; i++) {
			/* The moment is the point: no condition to wait for. */
			struct timespec t = {.tv_nsec = (long)(random64(&x) % 3000000)};
			(void)nanosleep(&t, NULL);
			assert_int_equal(kill(pids[i], SIGKILL), 0);
			assert_int_equal(end_of(pids[i]), SIGKILL);
			forget(i); /* while the others go on */
		}
		usable(&b, 0);
	}
	free(b.limits);
}

/* The supervisor must not hang with it. */
static void a_stopped_holder_of_the_lock_does_not_hold_up_the_supervisor(void **state)
{
	int status;
	(void)state;
	struct bench b = bench_of(&all_limits);
	assert_true(admit_from(&b.w[1], from4(5)) > 0);
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		(void)table_lock(b.limits);
		(void)raise(SIGSTOP);
		table_unlock(b.limits);
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, WUNTRACED), pid);
	assert_true(WIFSTOPPED(status));
	(void)alarm(20);
	forget(1);
	(void)alarm(0);
	assert_int_equal(source_conns(b.limits), 1); /* not yet */
	assert_int_equal(kill(pid, SIGCONT), 0);
	assert_int_equal(end_of(pid), 0);
	assert_true(admit_from(&b.w[1], from4(6)) > 0); /* the next one does what was left undone, before its own */
	usable(&b, 1);
	free(b.limits);
}

/* ---- at once --------------------------------------------------------------------------------- */

static struct bench crowd;
static atomic_int crowd_now, crowd_most;

static void *crowd_worker(void *arg)
{
	struct limits_worker *w = arg;
	for (int i = 0; i < 20000; i++) {
		if (limits_pace(w) != 0)
			continue;
		int n = atomic_fetch_add(&crowd_now, 1) + 1, most = atomic_load(&crowd_most);
		while (n > most && !atomic_compare_exchange_weak(&crowd_most, &most, n))
			;
		int t = limits_admit(NULL, w);
		atomic_fetch_sub(&crowd_now, 1); /* before leave(): its place may be another's at once */
		limits_leave(t, w);
	}
	return NULL;
}

static void workers_at_once_never_exceed_and_lose_nothing(void **state)
{
	pthread_t threads[8];
	struct hark_endpoint e = from4(1);
	(void)state;
	/* A refusal would give its place back early. */
	crowd = bench_of(&(struct config_service){.max_conns = 3, .max_per_source = 3});
	made_up = &e;
	for (int i = 0; i < 8; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, crowd_worker, &crowd.w[i]), 0);
	for (int i = 0; i < 8; i++)
		assert_int_equal(pthread_join(threads[i], NULL), 0);
	made_up = NULL;
	assert_in_range(atomic_load(&crowd_most), 1, 3);
	assert_int_equal(counters_read(counters, REFUSED_PER_SOURCE), 0);
	usable(&crowd, 0);
	assert_int_equal(counters_now(counters), 0);
	free(crowd.limits);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_dead_workers_connections_are_given_back),
		cmocka_unit_test(a_worker_killed_in_the_middle_of_any_change_leaves_all_in_order),
		cmocka_unit_test(workers_killed_at_random_moments_leave_the_others_counts_right),
		cmocka_unit_test(a_stopped_holder_of_the_lock_does_not_hold_up_the_supervisor),
		cmocka_unit_test(workers_at_once_never_exceed_and_lose_nothing),
	};
	return cmocka_run_group_tests(tests, make_memory, NULL);
}
