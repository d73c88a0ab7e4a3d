/* test_limits_move.c — a connection's place that is moved to another source: by the process that serves it, which may
 * be killed at any moment, while the worker that accepted it gives the place back. */
#include "limits_support.h"

#include <limits.h>

#define REAL 0x0a000000u /* 10.0.0.x: real peers; 1: the proxy */

static uint32_t conns_at(const struct limits *l, struct hark_endpoint e)
{
	struct key k;
	uint32_t n = 0;
	made_up = &e;
	assert_true(key_of(l, NULL, &k));
	made_up = NULL;
	for (int i = 0; i < SOURCES; i++)
		if (memcmp(&l->sources[i].key, &k, sizeof k) == 0)
			n += l->sources[i].conns;
	return n;
}

/* Sums are what the places say, and so many places are taken. */
static void in_order_with(struct limits *l, unsigned taken)
{
	static uint32_t n[ENTRIES];
	unsigned owned = 0, listed = 0;
	assert_true(table_lock(l));
	memset(n, 0, sizeof n);
	for (uint32_t i = 0; i < l->m->places; i++) {
		owned += l->places[i].owner != 0;
		if (l->places[i].owner != 0 && l->places[i].at != 0)
			n[l->places[i].at - 1]++;
	}
	for (int i = 0; i < ENTRIES; i++)
		assert_int_equal(l->sources[i].conns, n[i]);
	for (uint32_t f = l->m->free; f != 0 && listed <= l->m->places; f = l->places[f - 1].at)
		listed++;
	table_unlock(l);
	assert_int_equal(owned, taken);
	assert_int_equal(owned + listed, l->m->places);
}

/* ---- moved ----------------------------------------------------------------------------------- */

static void a_moved_connection_counts_where_its_peer_belongs(void **state)
{
	(void)state;
	struct bench b = bench_of(&(struct config_service){.max_per_source = 2});
	int t = admit_from(&b.w[0], from4(1)), u = admit_from(&b.w[1], from4(1));
	assert_true(t > 0 && u > 0);
	assert_int_equal(admit_from(&b.w[0], from4(1)), -REFUSED_PER_SOURCE);
	assert_int_equal(move_to(&b.w[0], t, from4(REAL + 1)), 0);
	assert_int_equal(conns_at(b.limits, from4(1)), 1);
	assert_int_equal(conns_at(b.limits, from4(REAL + 1)), 1);
	int v = admit_from(&b.w[0], from4(1)); /* its place there is another's */
	assert_true(v > 0);
	assert_int_equal(move_to(&b.w[1], u, from4(REAL + 1)), 0);
	assert_int_equal(move_to(&b.w[0], v, from4(REAL + 1)), REFUSED_PER_SOURCE);
	assert_int_equal(move_to(&b.w[0], t, from4(1)), 0); /* and back */
	assert_int_equal(move_to(&b.w[0], v, from4(REAL + 1)), 0);
	in_order_with(b.limits, 3);
	assert_int_equal(counters_now(counters), 3);
	limits_leave(t, &b.w[0]);
	limits_leave(u, &b.w[1]);
	limits_leave(v, &b.w[0]);
	limits_leave(v, &b.w[0] + 1); /* nobody's */
	in_order_with(b.limits, 0);
	assert_int_equal(conns_at(b.limits, from4(REAL + 1)), 0);
	free(b.limits);
}

static void a_move_to_where_it_is_costs_nothing(void **state)
{
	(void)state;
	struct bench b = bench_of(
		&(struct config_service){.max_per_source = 1, .rate_per_source = {1, 60 * HARK_S, 2}});
	int t = admit_from(&b.w[0], from4(1));
	for (int i = 0; i < 100; i++)
		assert_int_equal(move_to(&b.w[0], t, from4(1)), 0);
	limits_leave(t, &b.w[0]);
	t = admit_from(&b.w[0], from4(1)); /* the second token */
	assert_true(t > 0);
	limits_leave(t, &b.w[0]);
	assert_int_equal(admit_from(&b.w[0], from4(1)), -REFUSED_RATE_PER_SOURCE);
	in_order_with(b.limits, 0);
	free(b.limits);
}

static void who_names_its_source_later_counts_in_none_until_then(void **state)
{
	int t[3];
	(void)state;
	struct bench b = bench_of(&(struct config_service){.max_per_source = 1, .max_conns = 3});
	for (int i = 0; i < 3; i++) {
		assert_int_equal(limits_pace(&b.w[0]), 0);
		assert_true((t[i] = limits_admit_later(&b.w[0])) > 0);
		assert_int_equal(entry_of(b.limits, t[i]), -1);
	}
	assert_true(limits_pace(&b.w[0]) > 0); /* the service's limits hold */
	assert_int_equal(move_to(&b.w[0], t[0], from4(REAL + 1)), 0);
	assert_int_equal(move_to(&b.w[0], t[1], from4(REAL + 1)), REFUSED_PER_SOURCE);
	assert_int_equal(entry_of(b.limits, t[1]), -1);
	assert_int_equal(move_to(&b.w[0], t[1], from4(REAL + 2)), 0);
	in_order_with(b.limits, 3);
	for (int i = 0; i < 3; i++)
		limits_leave(t[i], &b.w[0]);
	in_order_with(b.limits, 0);
	assert_int_equal(counters_now(counters), 0);
	free(b.limits);
	b = bench_of(&(struct config_service){.max_conns = 3}); /* nothing is counted by source */
	assert_int_equal(limits_admit_later(&b.w[0]), 0);
	assert_int_equal(move_to(&b.w[0], 0, from4(1)), 0);
	free(b.limits);
	b = bench_of(&(struct config_service){0});
	assert_int_equal(limits_admit_later(&b.w[0]), 0);
	assert_int_equal(move_to(&b.w[0], 0, from4(1)), 0);
}

static void a_refused_move_is_for_the_reasons_of_admission(void **state)
{
	(void)state;
	struct bench b = bench_of(
		&(struct config_service){.max_per_source = 2, .rate_per_source = {1, 60 * HARK_S, 3}});
	int t[4];
	for (int i = 0; i < 4; i++)
		t[i] = limits_admit_later(&b.w[0]);
	assert_int_equal(move_to(&b.w[0], t[0], from4(1)), 0);
	assert_int_equal(move_to(&b.w[0], t[1], from4(1)), 0);
	for (int i = 0; i < 5; i++) /* costs no token */
		assert_int_equal(move_to(&b.w[0], t[2], from4(1)), REFUSED_PER_SOURCE);
	limits_leave(t[0], &b.w[0]);
	assert_int_equal(move_to(&b.w[0], t[2], from4(1)), 0);
	limits_leave(t[1], &b.w[0]);
	assert_int_equal(move_to(&b.w[0], t[3], from4(1)), REFUSED_RATE_PER_SOURCE);
	assert_int_equal(counters_read(counters, REFUSED_PER_SOURCE), 0); /* whoever refuses counts */
	limits_leave(t[2], &b.w[0]);
	limits_leave(t[3], &b.w[0]);
	in_order_with(b.limits, 0);
	free(b.limits);
}

/* Else a peer over its own limit would use up the others' rate, from behind a proxy. */
static void a_refused_move_costs_the_service_no_token(void **state)
{
	(void)state;
	struct bench b = bench_of(&(struct config_service){.rate = {10, HARK_S, 10}, .max_per_source = 1});
	int t = admit_from(&b.w[0], from4(9));
	assert_true(t > 0);
	for (int i = 0; i < 100; i++) {
		assert_int_equal(limits_pace(&b.w[0]), 0);
		int u = limits_admit_later(&b.w[0]);
		assert_int_equal(move_to(&b.w[0], u, from4(9)), REFUSED_PER_SOURCE);
		limits_leave(u, &b.w[0]);
	}
	for (uint32_t i = 0; i < 9; i++) {
		assert_int_equal(limits_pace(&b.w[0]), 0);
		assert_true(admit_from(&b.w[0], from4(100 + i)) > 0);
	}
	assert_true(limits_pace(&b.w[0]) > 0); /* nor gives it one too much */
	free(b.limits);
}

/* A place in a shared entry is one of the peer's there, and frees nothing for it. */
static void a_place_among_others_is_no_way_around_a_limit(void **state)
{
	struct key k;
	struct hark_endpoint e = from4(REAL + 1);
	(void)state;
	struct bench b = bench_of(&(struct config_service){.max_per_source = 3});
	made_up = &e;
	assert_true(key_of(b.limits, NULL, &k));
	made_up = NULL;
	uint64_t at = siphash(b.limits->m->seed, &k, sizeof k);
	uint32_t shared = SOURCES + (uint32_t)((at >> 32) % SHARED) + 1;
	int n = 0;
	for (int i = 0; i < 9; i++) {
		int t = limits_admit_later(&b.w[0]);
		if (i >= 3) { /* as if it had come when the table was full */
			b.limits->places[t - 1].at = shared;
			b.limits->sources[shared - 1].conns++;
		}
		int r = move_to(&b.w[0], t, e);
		n += r == 0;
		if (r != 0)
			limits_leave(t, &b.w[0]);
	}
	assert_int_equal(n, 3);
	in_order_with(b.limits, 3);
	free(b.limits);
}

static void what_was_not_counted_is_not_moved(void **state)
{
	(void)state;
	struct bench b = bench_of(&(struct config_service){.max_per_source = 9});
	int t = admit_from(&b.w[0], from4(1)), bad[] = {0, -1, INT_MIN, PLACES, PLACES + 1, INT_MAX};
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
		assert_int_equal(move_to(&b.w[0], bad[i], from4(2)), REFUSED_PER_SOURCE);
	assert_int_equal(move_to(&b.w[1], t, from4(2)), REFUSED_PER_SOURCE); /* another worker's */
	limits_leave(t, &b.w[1]);
	in_order_with(b.limits, 1);
	limits_leave(t, &b.w[0]);
	assert_int_equal(move_to(&b.w[0], t, from4(2)), REFUSED_PER_SOURCE); /* it has left */
	in_order_with(b.limits, 0);
	free(b.limits);
}

/* ---- full ------------------------------------------------------------------------------------ */

/* More sources than there are entries: whoever has none of its own is counted with others, moved there or not. */
static void no_source_exceeds_its_limit_by_moves_to_a_full_table(void **state)
{
	int refused = 0, moved = 0;
	(void)state;
	struct bench b = bench_of(&(struct config_service){.max_per_source = 3, .source_v6_bits = 128});
	int *tickets = calloc(2 * SOURCES, sizeof *tickets);
	assert_non_null(tickets);
	for (uint64_t i = 0; i < 2 * SOURCES; i++) {
		assert_true((tickets[i] = limits_admit_later(&b.w[0])) > 0);
		refused += move_to(&b.w[0], tickets[i], from6(1, i)) != 0;
	}
	assert_in_range(refused, 0, SOURCES / 8); /* three of one entry are rare */
	for (uint64_t i = 0; i < 64; i++) {
		int n = 0, t[5];
		for (int k = 0; k < 5; k++) {
			assert_true((t[k] = limits_admit_later(&b.w[1])) > 0);
			n += move_to(&b.w[1], t[k], from6(2, i)) == 0;
		}
		assert_in_range(n, 0, 3);
		moved += n;
		for (int k = 0; k < 5; k++)
			limits_leave(t[k], &b.w[1]);
	}
	assert_true(moved > 64);
	in_order_with(b.limits, 2 * SOURCES);
	for (uint64_t i = 0; i < 2 * SOURCES; i++)
		limits_leave(tickets[i], &b.w[0]);
	in_order_with(b.limits, 0);
	free(tickets);
	free(b.limits);
}

static void without_a_free_place_newcomers_are_shed(void **state)
{
	(void)state;
	struct bench b = bench_of(&(struct config_service){.max_per_source = 9});
	int t = admit_from(&b.w[0], from4(1));
	shared_state->places = PLACES; /* the others, as if they were taken */
	assert_int_equal(admit_from(&b.w[0], from4(2)), -REFUSED_PER_SOURCE);
	assert_int_equal(limits_admit_later(&b.w[0]), -REFUSED_PER_SOURCE);
	assert_int_equal(counters_read(counters, REFUSED_PER_SOURCE), 2);
	assert_int_equal(move_to(&b.w[0], t, from4(2)), 0); /* needs none */
	limits_leave(t, &b.w[0]);
	assert_true(admit_from(&b.w[0], from4(1)) > 0);
	assert_int_equal(counters_now(counters), 1);
	free(b.limits);
}

/* ---- by a child that is killed ----------------------------------------------------------------- */

static void ended(pid_t pid, int by)
{
	int status;
	assert_int_equal(waitpid(pid, &status, 0), pid);
	if (by == 0)
		assert_int_equal(status, 0);
	else
		assert_true(WIFSIGNALED(status) && WTERMSIG(status) == by);
}

static void what_a_child_has_moved_the_worker_gives_back(void **state)
{
	(void)state;
	struct bench b = bench_of(&(struct config_service){.max_per_source = 1});
	for (int killed = 0; killed < 2; killed++) {
		int t = admit_from(&b.w[0], from4(1));
		assert_true(t > 0);
		pid_t pid = fork();
		if (pid == 0) {
			CHECK_INT(move_to(&b.w[0], t, from4(REAL + 1)), 0);
			if (killed)
				(void)raise(SIGKILL);
			_exit(0);
		}
		ended(pid, killed ? SIGKILL : 0);
		assert_int_equal(admit_from(&b.w[1], from4(REAL + 1)), -REFUSED_PER_SOURCE);
		int u = admit_from(&b.w[1], from4(1));
		assert_true(u > 0);
		limits_leave(t, &b.w[0]);
		limits_leave(u, &b.w[1]);
		in_order_with(b.limits, 0);
	}
	free(b.limits);
}

static _Atomic int *points; /* shared: moments in the middle of changes that were passed */
static int die_at;

static void die_there(void)
{
	if (atomic_fetch_add(points, 1) + 1 == die_at)
		(void)kill(getpid(), SIGKILL);
}

static void a_child_killed_in_the_middle_of_a_move_leaves_all_in_order(void **state)
{
	bool through = false;
	(void)state;
	points = mmap(NULL, sizeof *points, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	assert_ptr_not_equal(points, MAP_FAILED);
	struct bench b = bench_of(&(struct config_service){.max_per_source = 2, .max_conns = 9});
	for (die_at = 1; !through; die_at++) {
		assert_true(die_at < 20);
		atomic_store(points, 0);
		int stays = admit_from(&b.w[1], from4(1));
		int t = die_at % 2 ? admit_from(&b.w[0], from4(1)) : limits_admit_later(&b.w[0]);
		pid_t pid = fork();
		if (pid == 0) {
			limits_world.locked = die_there;
			CHECK_INT(move_to(&b.w[0], t, from4(REAL + 1)), 0);
			_exit(0);
		}
		int status;
		assert_int_equal(waitpid(pid, &status, 0), pid);
		through = status == 0;
		in_order_with(b.limits, 2); /* whoever has the lock next sees to it */
		uint32_t before = conns_at(b.limits, from4(1)) - 1, after = conns_at(b.limits, from4(REAL + 1));
		assert_in_range(before + after, die_at % 2, 1);
		assert_int_equal(entry_of(b.limits, t) >= 0, before + after);
		limits_leave(t, &b.w[0]);
		in_order_with(b.limits, 1);
		limits_leave(stays, &b.w[1]);
		assert_int_equal(counters_now(counters), 0);
	}
	assert_true(die_at > 4);
	(void)munmap(points, sizeof *points);
	free(b.limits);
}

/* ---- and whose worker is ------------------------------------------------------------------------ */

static void a_child_that_outlives_its_worker_moves_nothing(void **state)
{
	(void)state;
	struct bench b = bench_of(&(struct config_service){.max_per_source = 1});
	struct limits_worker orphan = b.w[3];
	int t = admit_from(&orphan, from4(1));
	assert_int_equal(move_to(&orphan, t, from4(2)), 0);
	forget(3);
	assert_int_equal(move_to(&orphan, t, from4(1)), -ECANCELED);
	in_order_with(b.limits, 0);
	b.w[3] = worker_of(b.limits, 3); /* the slot's next one, whose first place is the same */
	int next = admit_from(&b.w[3], from4(5));
	assert_int_equal(next, t);
	assert_int_equal(move_to(&orphan, t, from4(1)), -ECANCELED);
	assert_int_equal(conns_at(b.limits, from4(5)), 1);
	assert_int_equal(move_to(&b.w[3], next, from4(6)), 0);
	in_order_with(b.limits, 1);
	free(b.limits);
}

/* A reload or an upgrade: older workers' connections stay counted where they were moved to. */
static void moved_places_go_on_over_generations(void **state)
{
	(void)state;
	struct bench b = bench_of(&(struct config_service){.max_per_source = 1});
	int t = admit_from(&b.w[0], from4(1));
	assert_int_equal(move_to(&b.w[0], t, from4(REAL + 1)), 0);
	struct limits *next = limits_of(&(struct config_service){.max_per_source = 1, .max_conns = 9});
	struct limits_worker w = worker_of(next, 5);
	assert_int_equal(admit_from(&w, from4(REAL + 1)), -REFUSED_PER_SOURCE);
	int u = limits_admit_later(&w);
	assert_int_equal(move_to(&w, u, from4(REAL + 1)), REFUSED_PER_SOURCE);
	limits_leave(t, &b.w[0]);
	assert_int_equal(move_to(&w, u, from4(REAL + 1)), 0);
	forget(5);
	assert_true(admit_from(&b.w[0], from4(REAL + 1)) > 0);
	in_order_with(b.limits, 1);
	free(next);
	free(b.limits);
}

/* ---- at once --------------------------------------------------------------------------------- */

/* Comes, moves and leaves for ever; each second connection is a child's, as under the process model. */
static _Noreturn void be_busy(struct limits_worker *w, unsigned seed)
{
	uint64_t x = seed * UINT64_C(0x9e3779b97f4a7c15) + 1;
	for (;;) {
		uint64_t r = random64(&x);
		struct hark_endpoint to = r & 1 ? from4(REAL + (uint32_t)(r >> 8) % 8) : from6(r, x);
		int t = r & 2 ? limits_admit_later(w) : admit_from(w, from4((uint32_t)(r >> 16) % 4));
		if (t < 0)
			continue;
		pid_t child = r & 4 ? fork() : -1;
		if (child <= 0)
			(void)move_to(w, t, to);
		if (child == 0)
			_exit(0);
		if (child > 0 && r & 8)
			(void)kill(child, SIGKILL); /* whereever it is */
		if (child > 0)
			(void)waitpid(child, NULL, 0);
		limits_leave(t, w);
	}
}

static void workers_and_children_killed_at_any_moment_lose_nothing(void **state)
{
	pid_t pids[3];
	uint64_t x = 815;
	(void)state;
	struct bench b = bench_of(&(
		struct config_service){.max_conns = 50, .max_per_source = 2, .rate_per_source = {1000, HARK_S, 1000}});
	int mine = admit_from(&b.w[7], from4(REAL + 1)); /* lives through it all */
	for (int round = 0; round < 40; round++) {
		for (int i = 0; i < 3; i++) {
			b.w[i] = worker_of(b.limits, i);
			pids[i] = fork();
			assert_true(pids[i] >= 0);
			if (pids[i] == 0) {
				(void)alarm(20);
				limits_world.now = hark_now;
				be_busy(&b.w[i], (unsigned)(round * 3 + i));
			}
		}
		for (int i = 0; i < 3; i++) {
			/* The moment is the point: no condition to wait for. */
			struct timespec t = {.tv_nsec = (long)(random64(&x) % 4000000)};
			(void)nanosleep(&t, NULL);
			assert_int_equal(kill(pids[i], SIGKILL), 0);
			ended(pids[i], SIGKILL);
			forget(i); /* while the others, and a child of this one, go on */
		}
		in_order_with(b.limits, 1);
		assert_int_equal(counters_now(counters), 1);
	}
	limits_leave(mine, &b.w[7]);
	in_order_with(b.limits, 0);
	free(b.limits);
}

static struct bench crowd;
static atomic_int crowd_now, crowd_most;

/* As threads of one connection each do. */
static void *crowd_thread(void *arg)
{
	struct limits_worker *w = arg;
	for (int i = 0; i < 20000; i++) {
		int t = limits_admit_later(w);
		assert_true(t > 0);
		if (limits_move(NULL, t, w) == 0) {
			int n = atomic_fetch_add(&crowd_now, 1) + 1, most = atomic_load(&crowd_most);
			while (n > most && !atomic_compare_exchange_weak(&crowd_most, &most, n))
				;
			atomic_fetch_sub(&crowd_now, 1);
		}
		limits_leave(t, w);
	}
	return NULL;
}

static void threads_at_once_never_exceed_and_lose_nothing(void **state)
{
	pthread_t threads[8];
	struct hark_endpoint e = from4(1);
	(void)state;
	crowd = bench_of(&(struct config_service){.max_per_source = 3});
	made_up = &e;
	for (int i = 0; i < 8; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, crowd_thread, &crowd.w[i / 2]), 0);
	for (int i = 0; i < 8; i++)
		assert_int_equal(pthread_join(threads[i], NULL), 0);
	made_up = NULL;
	assert_in_range(atomic_load(&crowd_most), 1, 3);
	in_order_with(crowd.limits, 0);
	assert_int_equal(counters_now(counters), 0);
	free(crowd.limits);
}

/* ---- a worker that was taken over ---------------------------------------------------------------- */

/* What the service's other workers do not write they do not believe. */
static void nonsense_in_the_shared_state_leads_nowhere(void **state)
{
	(void)state;
	struct bench b = bench_of(&(struct config_service){.max_per_source = 3});
	int t = admit_from(&b.w[0], from4(1)), u = admit_from(&b.w[0], from4(2));
	shared_state->free = UINT32_MAX;
	assert_true(admit_from(&b.w[1], from4(3)) > 0);
	shared_state->free = (uint32_t)t; /* taken */
	assert_true(admit_from(&b.w[1], from4(4)) > 0);
	in_order_with(b.limits, 4);
	shared_state->places = UINT32_MAX;
	atomic_store(&shared_state->any_dead, true);
	assert_true(admit_from(&b.w[1], from4(5)) > 0);
	assert_int_equal(shared_state->places, PLACES);
	b.limits->places[u - 1].at = UINT32_MAX;
	b.limits->places[t - 1].owner = UINT32_MAX;
	assert_int_equal(move_to(&b.w[0], u, from4(1)), 0);
	limits_leave(t, &b.w[0]);
	limits_leave(u, &b.w[0]);
	b.limits->sources[entry_of(b.limits, 3)].conns = 0;
	limits_leave(3, &b.w[1]);
	atomic_store(&shared_state->any_dead, true);
	assert_true(table_lock(b.limits));
	table_unlock(b.limits);
	free(b.limits);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_moved_connection_counts_where_its_peer_belongs),
		cmocka_unit_test(a_move_to_where_it_is_costs_nothing),
		cmocka_unit_test(who_names_its_source_later_counts_in_none_until_then),
		cmocka_unit_test(a_refused_move_is_for_the_reasons_of_admission),
		cmocka_unit_test(a_refused_move_costs_the_service_no_token),
		cmocka_unit_test(a_place_among_others_is_no_way_around_a_limit),
		cmocka_unit_test(what_was_not_counted_is_not_moved),
		cmocka_unit_test(no_source_exceeds_its_limit_by_moves_to_a_full_table),
		cmocka_unit_test(without_a_free_place_newcomers_are_shed),
		cmocka_unit_test(what_a_child_has_moved_the_worker_gives_back),
		cmocka_unit_test(a_child_killed_in_the_middle_of_a_move_leaves_all_in_order),
		cmocka_unit_test(a_child_that_outlives_its_worker_moves_nothing),
		cmocka_unit_test(moved_places_go_on_over_generations),
		cmocka_unit_test(workers_and_children_killed_at_any_moment_lose_nothing),
		cmocka_unit_test(threads_at_once_never_exceed_and_lose_nothing),
		cmocka_unit_test(nonsense_in_the_shared_state_leads_nowhere),
	};
	return cmocka_run_group_tests(tests, make_memory, NULL);
}
