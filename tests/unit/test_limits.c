/* test_limits.c — the limits of a service and of each source: max_conns, rates, max_load. */
#include "limits_support.h"

/* ---- max_conns ------------------------------------------------------------------------------- */

static void no_limits_hold_nobody(void **state)
{
	(void)state;
	struct bench b = bench_of(&(struct config_service){.source_v4_bits = 32});
	assert_null(b.limits);
	assert_int_equal(limits_pace(&b.w[0]), 0);
	assert_int_equal(limits_admit(NULL, &b.w[0]), 0);
	assert_int_equal(counters_now(counters), 1);
	limits_leave(0, &b.w[0]);
	limits_leave(-1, &b.w[0]);
	assert_int_equal(counters_now(counters), 0);
	limits_leave(0, &b.w[0]); /* as if another process had written there */
	limits_returned(&b.w[0]);
	assert_int_equal(counters_now(counters), 0);
}

static void max_conns_is_never_exceeded_by_workers_that_ask_at_once(void **state)
{
	(void)state;
	struct bench b = bench_of(&(struct config_service){.max_conns = 3});
	int said_yes = 0;
	for (int i = 0; i < 8; i++) /* all ask before one accepts */
		said_yes += limits_pace(&b.w[i]) == 0;
	assert_int_equal(said_yes, 3);
	assert_int_equal(limits_pace(&b.w[0]), 0); /* it has its place already */
	for (int i = 0; i < 2; i++)
		assert_int_equal(admit_from(&b.w[i], from4(1)), 0);
	limits_leave(-1, &b.w[2]); /* somebody else took what it saw */
	assert_true(limits_pace(&b.w[0]) == 0);
	assert_true(limits_pace(&b.w[1]) > 0);
	assert_int_equal(admit_from(&b.w[0], from4(1)), 0);
	int64_t ns = limits_pace(&b.w[0]);
	assert_true(ns >= 10 * HARK_MS && ns <= HARK_S);
	assert_int_equal(counters_now(counters), 3);
	limits_leave(0, &b.w[1]);
	assert_int_equal(limits_pace(&b.w[5]), 0);
	assert_int_equal(counters_now(counters), 2);
	free(b.limits);
}

static void a_hold_is_counted_once_for_each_time_it_begins(void **state)
{
	(void)state;
	struct bench b = bench_of(&(struct config_service){.max_conns = 1});
	assert_int_equal(limits_pace(&b.w[0]), 0);
	assert_int_equal(admit_from(&b.w[0], from4(1)), 0);
	for (int i = 0; i < 10; i++)
		assert_true(limits_pace(&b.w[0]) > 0);
	assert_int_equal(counters_read(counters, HELD_MAX_CONNS), 1);
	limits_leave(0, &b.w[0]);
	assert_int_equal(limits_pace(&b.w[0]), 0);
	assert_int_equal(admit_from(&b.w[0], from4(1)), 0);
	assert_true(limits_pace(&b.w[0]) > 0);
	assert_int_equal(counters_read(counters, HELD_MAX_CONNS), 2);
	assert_int_equal(counters_read(counters, HELD_RATE) + counters_read(counters, HELD_LOAD), 0);
	free(b.limits);
}

/* ---- rates ----------------------------------------------------------------------------------- */

/* How many come in span_ns where somebody always waits and each worker sleeps as it was told. */
static int served_in(struct bench *b, int workers, int64_t span_ns)
{
	int64_t end = clock_ns + span_ns, wake[8] = {0};
	int n = 0;
	while (clock_ns < end) {
		int64_t next = end;
		for (int i = 0; i < workers; i++) {
			if (wake[i] <= clock_ns) {
				int64_t ns = limits_pace(&b->w[i]);
				wake[i] = clock_ns + ns;
				if (ns == 0) {
					assert_int_equal(admit_from(&b->w[i], from4((uint32_t)n)), 0);
					limits_leave(0, &b->w[i]);
					n++;
				}
			}
			next = wake[i] < next ? wake[i] : next;
		}
		if (next > clock_ns)
			clock_ns = next;
	}
	return n;
}

static void rates_are_exact_over_time(void **state)
{
	static const struct {
		struct config_rate rate;
		int64_t span;
		int wanted;
	} rows[] = {
		{{50, HARK_S, 50}, 100 * HARK_S, 5050},       {{50, HARK_S, 0}, 100 * HARK_S, 5050},
		{{256, 60 * HARK_S, 10}, 600 * HARK_S, 2570}, {{1000, 3600 * HARK_S, 1}, 36000 * HARK_S, 10001},
		{{3, HARK_S, 1}, 1000 * HARK_S, 3001},        {{0.5, HARK_S, 0}, 1000 * HARK_S, 501},
		{{500, HARK_S, 1}, 100 * HARK_S, 50001},      {{20000, HARK_S, 1000}, 10 * HARK_S, 201000},
	};
	(void)state;
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
		for (int workers = 1; workers <= 4; workers += 3) {
			struct bench b = bench_of(&(struct config_service){.rate = rows[i].rate});
			int n = served_in(&b, workers, rows[i].span), wanted = rows[i].wanted;
			if (n > wanted || n < wanted - 1 - wanted / 1000)
				fail_msg("row %zu, %d workers: %d, not %d", i, workers, n, wanted);
			free(b.limits);
		}
}

static void tokens_are_not_promised_twice_to_workers_that_ask_at_once(void **state)
{
	int said_yes = 0;
	(void)state;
	struct bench b = bench_of(&(struct config_service){.rate = {1, HARK_S, 3}});
	for (int i = 0; i < 8; i++)
		said_yes += limits_pace(&b.w[i]) == 0;
	assert_int_equal(said_yes, 3);
	free(b.limits);
}

static void pauses_and_refusals_cost_no_token(void **state)
{
	(void)state;
	struct bench b = bench_of(
		&(struct config_service){.rate = {10, HARK_S, 10}, .rate_per_source = {1, HARK_S, 1}});
	assert_true(admit_from(&b.w[0], from4(7)) > 0); /* 9 left, and none for this source */
	for (int i = 0; i < 100; i++) {
		assert_int_equal(limits_pace(&b.w[0]), 0);
		limits_leave(-1, &b.w[0]);
		assert_int_equal(limits_pace(&b.w[0]), 0);
		assert_int_equal(admit_from(&b.w[0], from4(7)), -REFUSED_RATE_PER_SOURCE);
	}
	assert_int_equal(counters_read(counters, REFUSED_RATE_PER_SOURCE), 100);
	for (uint32_t i = 0; i < 9; i++) {
		assert_int_equal(limits_pace(&b.w[0]), 0);
		assert_true(admit_from(&b.w[0], from4(100 + i)) > 0);
	}
	int64_t ns = limits_pace(&b.w[0]);
	assert_true(ns > 0 && ns <= 101 * HARK_MS);
	assert_int_equal(counters_read(counters, HELD_RATE), 1);
	free(b.limits);
}

static void a_clock_that_is_behind_anothers_gives_nothing_and_takes_nothing(void **state)
{
	(void)state;
	struct bench b = bench_of(&(struct config_service){.rate = {1, HARK_S, 1}});
	assert_int_equal(limits_pace(&b.w[0]), 0);
	assert_int_equal(admit_from(&b.w[0], from4(1)), 0);
	for (int i = 0; i < 100; i++) {
		clock_ns -= 5 * HARK_S;
		assert_true(limits_pace(&b.w[0]) > 0);
		clock_ns += 5 * HARK_S;
		assert_true(limits_pace(&b.w[0]) > 0);
	}
	clock_ns += HARK_S;
	assert_int_equal(limits_pace(&b.w[0]), 0);
	free(b.limits);
}

static void over_max_load_connections_wait_until_it_falls(void **state)
{
	(void)state;
	struct bench b = bench_of(&(struct config_service){.max_load = 2.5});
	load_now = 3;
	assert_int_equal(limits_pace(&b.w[0]), HARK_S);
	load_now = 2;
	assert_int_equal(limits_pace(&b.w[1]), HARK_S); /* looked at no more than once a second */
	clock_ns += HARK_S;
	assert_int_equal(limits_pace(&b.w[0]), 0);
	load_now = -1; /* not known */
	clock_ns += HARK_S;
	assert_int_equal(limits_pace(&b.w[0]), 0);
	assert_int_equal(counters_read(counters, HELD_LOAD), 2);
	assert_true(load_average() >= 0);
	free(b.limits);
}

/* ---- sources --------------------------------------------------------------------------------- */

static void a_source_over_its_limit_is_shed_and_others_are_not(void **state)
{
	int mine[4];
	(void)state;
	struct bench b = bench_of(&(struct config_service){.max_per_source = 4, .max_conns = 100});
	for (int i = 0; i < 4; i++) /* over two workers */
		assert_true((mine[i] = admit_from(&b.w[i % 2], from4(1))) > 0);
	for (int i = 0; i < 1000; i++) { /* one floods, the other comes and goes */
		assert_int_equal(limits_pace(&b.w[0]), 0);
		assert_int_equal(admit_from(&b.w[0], from4(1)), -REFUSED_PER_SOURCE);
		assert_int_equal(limits_pace(&b.w[1]), 0);
		int t = admit_from(&b.w[1], from4(2));
		assert_true(t > 0);
		limits_leave(t, &b.w[1]);
	}
	assert_int_equal(counters_read(counters, REFUSED_PER_SOURCE), 1000);
	assert_int_equal(counters_now(counters), 4);
	limits_leave(mine[1], &b.w[1]);
	assert_true(admit_from(&b.w[0], from4(1)) > 0);
	assert_int_equal(admit_from(&b.w[0], from4(1)), -REFUSED_PER_SOURCE);
	free(b.limits);
}

static void a_flood_takes_no_rate_from_another_source(void **state)
{
	int flooder = 0, other = 0;
	(void)state;
	struct bench b = bench_of(
		&(struct config_service){.rate = {100, HARK_S, 100}, .rate_per_source = {20, HARK_S, 20}});
	for (int ms = 0; ms < 10000; ms++, clock_ns += HARK_MS) {
		for (int i = 0; i < 5; i++) /* 5,000 a second against 10 */
			if (limits_pace(&b.w[0]) == 0 && admit_from(&b.w[0], from4(66)) > 0)
				flooder++;
		if (ms % 100 == 0) {
			assert_int_equal(limits_pace(&b.w[0]), 0);
			assert_true(admit_from(&b.w[0], from4(77)) > 0);
			other++;
		}
	}
	assert_in_range(flooder, 218, 220);
	assert_int_equal(other, 100);
	free(b.limits);
}

static void addresses_of_one_prefix_are_one_source(void **state)
{
	(void)state;
	struct bench b = bench_of(
		&(struct config_service){.max_per_source = 1, .source_v4_bits = 24, .source_v6_bits = 64});
	assert_true(admit_from(&b.w[0], from4(0x0a000001)) > 0);
	assert_int_equal(admit_from(&b.w[0], from4(0x0a0000fe)), -REFUSED_PER_SOURCE);
	assert_true(admit_from(&b.w[0], from4(0x0a000101)) > 0);
	assert_true(admit_from(&b.w[0], from6(0x20010db800000001, 1)) > 0);
	assert_int_equal(admit_from(&b.w[0], from6(0x20010db800000001, UINT64_MAX)), -REFUSED_PER_SOURCE);
	assert_true(admit_from(&b.w[0], from6(0x20010db800000002, 1)) > 0);
	assert_int_equal(admit_from(&b.w[0], from6(0, 0x0000ffff0a000005)), -REFUSED_PER_SOURCE); /* ::ffff:10.0.0.5 */
	assert_true(admit_from(&b.w[0], from6(0, 0x0000ffff0a000205)) > 0);
	free(b.limits);
	b = bench_of(&(struct config_service){.max_per_source = 1, .source_v6_bits = 128});
	assert_true(admit_from(&b.w[0], from6(1, 1)) > 0);
	assert_true(admit_from(&b.w[0], from6(1, 2)) > 0);
	assert_int_equal(admit_from(&b.w[0], from6(1, 2)), -REFUSED_PER_SOURCE);
	free(b.limits);
	b = bench_of(&(struct config_service){.max_per_source = 1, .source_v6_bits = 48});
	assert_true(admit_from(&b.w[0], from6(0x20010db800010000, 1)) > 0);
	assert_int_equal(admit_from(&b.w[0], from6(0x20010db80001ffff, 1)), -REFUSED_PER_SOURCE);
	free(b.limits);
}

static void a_unix_peer_counts_by_uid_and_a_senders_name_by_itself(void **state)
{
	int fds[4], dgram[2];
	struct hark_conn *c[2], *d;
	struct hark_endpoint e = {.type = SOCK_DGRAM};
	(void)state;
	struct bench b = bench_of(&(struct config_service){.max_per_source = 1});
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds + 2), 0);
	assert_int_equal(hark_conn_from_fd(fds[0], &c[0]), 0);
	assert_int_equal(hark_conn_from_fd(fds[2], &c[1]), 0);
	int t = limits_admit(c[0], &b.w[0]);
	assert_true(t > 0);
	assert_int_equal(b.limits->sources[entry_of(b.limits, t)].key.kind, UID);
	assert_int_equal(b.limits->sources[entry_of(b.limits, t)].key.lo, getuid());
	assert_int_equal(limits_admit(c[1], &b.w[0]), -REFUSED_PER_SOURCE);

	assert_int_equal(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, dgram), 0);
	assert_int_equal(hark_conn_from_fd(dgram[0], &d), 0);
	for (int name = 1; name <= 2; name++) {
		struct sockaddr_un a = {.sun_family = AF_UNIX, .sun_path = {0, (char)name}};
		e.len = offsetof(struct sockaddr_un, sun_path) + 2;
		memcpy(&e.addr, &a, e.len);
		made_up = &e;
		assert_true(limits_admit(d, &b.w[0]) > 0);
		assert_int_equal(limits_admit(d, &b.w[0]), -REFUSED_PER_SOURCE);
		made_up = NULL;
	}
	hark_abort(c[0]);
	hark_abort(c[1]);
	hark_abort(d);
	for (int i = 1; i < 4; i += 2)
		(void)close(fds[i]);
	(void)close(dgram[1]);
	free(b.limits);
}

static void what_has_no_source_is_not_limited_by_it(void **state)
{
	int fds[2];
	struct hark_conn *c;
	(void)state;
	struct bench b = bench_of(&(struct config_service){.max_per_source = 1, .max_conns = 3});
	assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
	assert_int_equal(hark_conn_from_fd(fds[0], &c), 0);
	for (int i = 0; i < 3; i++)
		assert_int_equal(limits_admit(c, &b.w[0]), 0);
	assert_true(limits_pace(&b.w[0]) > 0);
	hark_abort(c);
	(void)close(fds[1]);
	free(b.limits);
}

static void a_hundred_thousand_sources_push_no_connected_one_out(void **state)
{
	uint64_t seed = 88172645463325252;
	(void)state;
	struct bench b = bench_of(&(
		struct config_service){.max_per_source = 2, .rate_per_source = {1, HARK_S, 5}, .source_v6_bits = 128});
	int first = admit_from(&b.w[0], from4(1)), second = admit_from(&b.w[1], from4(1));
	assert_true(first > 0 && second > 0);
	int entry = entry_of(b.limits, first);
	assert_int_equal(entry_of(b.limits, second), entry);
	for (int i = 0; i < 100000; i++) {
		uint64_t hi = random64(&seed), lo = random64(&seed);
		clock_ns += HARK_MS / 10;
		int t = admit_from(&b.w[i % 4], from6(hi, lo));
		assert_true(t >= 0);
		if (i % 50 != 0) /* 2,000 stay */
			limits_leave(t, &b.w[i % 4]);
		if (i % 1000 == 0)
			assert_int_equal(admit_from(&b.w[2], from4(1)), -REFUSED_PER_SOURCE);
	}
	assert_true(limits_bytes(true) < 9 * 1024 * 1024); /* most of it places that were never taken */
	assert_int_equal(counters_now(counters), 2002);
	assert_int_equal(counters_read(counters, REFUSED_PER_SOURCE), 100);
	limits_leave(first, &b.w[0]);
	assert_int_equal(entry_of(b.limits, admit_from(&b.w[0], from4(1))), entry);
	free(b.limits);
}

/* Whoever comes when the table is full is counted all the same, also when there is room again. */
static void where_all_are_connected_no_source_exceeds_its_limit(void **state)
{
	int refused = 0, late[4], n = 0;
	(void)state;
	struct bench b = bench_of(&(struct config_service){.max_per_source = 3, .source_v6_bits = 128});
	int *tickets = calloc(2 * SOURCES, sizeof *tickets);
	assert_non_null(tickets);
	for (uint64_t i = 0; i < 2 * SOURCES; i++) {
		tickets[i] = admit_from(&b.w[0], from6(1, i));
		assert_true(tickets[i] != 0);
		refused += tickets[i] < 0;
	}
	assert_in_range(refused, 0, SOURCES / 8); /* three of one entry are rare */
	for (uint64_t i = 0; i < 64; i++) {
		for (n = 0; n < 4 && (late[n] = admit_from(&b.w[n % 2], from6(2, i))) > 0;)
			n++;
		assert_in_range(n, 0, 3);
		while (n > 0)
			n--, limits_leave(late[n], &b.w[n % 2]);
	}
	while (n < 3 && (late[n] = admit_from(&b.w[0], from6(3, 1))) > 0)
		n++;
	for (uint64_t i = 0; i < 2 * SOURCES; i++)
		if (tickets[i] > 0)
			limits_leave(tickets[i], &b.w[0]);
	while (admit_from(&b.w[1], from6(3, 1)) > 0) /* now it has an entry of its own, and is still counted there */
		n++;
	assert_int_equal(n, 3);
	assert_int_equal(counters_now(counters), 3);
	free(tickets);
	free(b.limits);
}

/* A reload or an upgrade: workers of another configuration over the same state. */
static void limits_go_on_over_generations(void **state)
{
	(void)state;
	struct bench b = bench_of(&(struct config_service){.max_conns = 5, .max_per_source = 2});
	int mine = admit_from(&b.w[0], from4(1));
	assert_true(mine > 0 && admit_from(&b.w[0], from4(1)) > 0);
	for (uint32_t i = 2; i < 5; i++)
		assert_true(admit_from(&b.w[0], from4(i)) > 0);
	struct limits *next = limits_of(&(struct config_service){.max_conns = 5, .max_per_source = 2});
	struct limits_worker w = worker_of(next, 5);
	assert_true(limits_pace(&w) > 0);
	assert_int_equal(admit_from(&w, from4(1)), -REFUSED_PER_SOURCE);
	limits_leave(mine, &b.w[0]); /* of an older worker */
	assert_int_equal(limits_pace(&w), 0);
	assert_true(admit_from(&w, from4(1)) > 0);
	struct limits *fewer = limits_of(&(struct config_service){.max_conns = 4});
	struct limits_worker v = worker_of(fewer, 6);
	assert_true(limits_pace(&v) > 0);
	forget(0); /* the older worker is killed: four of its five were left */
	assert_int_equal(limits_pace(&v), 0);
	limits_leave(-1, &v);
	assert_true(admit_from(&w, from4(1)) > 0);
	assert_int_equal(admit_from(&w, from4(1)), -REFUSED_PER_SOURCE);
	free(fewer);
	free(next);
	free(b.limits);
}

/* Connections of a service without limits count as well, once it has one. */
static void a_limit_that_is_new_counts_who_is_connected_already(void **state)
{
	(void)state;
	struct bench b = bench_of(&(struct config_service){0});
	assert_null(b.limits);
	for (int i = 0; i < 5; i++)
		assert_int_equal(admit_from(&b.w[0], from4(1)), 0);
	struct limits *next = limits_of(&(struct config_service){.max_conns = 5});
	struct limits_worker w = worker_of(next, 5);
	assert_true(limits_pace(&w) > 0);
	limits_leave(0, &b.w[0]);
	assert_int_equal(limits_pace(&w), 0);
	free(next);
}

static void a_full_bucket_gives_way_before_one_that_is_held_back(void **state)
{
	(void)state;
	struct bench b = bench_of(&(struct config_service){.rate_per_source = {1, 60 * HARK_S, 3}});
	for (int i = 0; i < 3; i++) {
		int t = admit_from(&b.w[0], from4(9));
		assert_true(t > 0);
		limits_leave(t, &b.w[0]);
	}
	assert_int_equal(admit_from(&b.w[0], from4(9)), -REFUSED_RATE_PER_SOURCE);
	for (uint32_t i = 0; i < 20000; i++) /* far more than there are entries; each has lost less than that one */
		limits_leave(admit_from(&b.w[0], from4(100 + i)), &b.w[0]);
	assert_int_equal(admit_from(&b.w[0], from4(9)), -REFUSED_RATE_PER_SOURCE);
	free(b.limits);
}

/* Of the reference implementation. */
static void the_hash_is_siphash(void **state)
{
	unsigned char key[16], text[15];
	uint64_t secret[2];
	(void)state;
	for (size_t i = 0; i < sizeof key; i++)
		key[i] = (unsigned char)i;
	for (size_t i = 0; i < sizeof text; i++)
		text[i] = (unsigned char)i;
	memcpy(secret, key, sizeof secret);
	secret[0] = le64toh(secret[0]);
	secret[1] = le64toh(secret[1]);
	assert_true(siphash(secret, text, 0) == UINT64_C(0x726fdb47dd0e0e31));
	assert_true(siphash(secret, text, 8) == UINT64_C(0x93f5f5799a932462));
	assert_true(siphash(secret, text, 15) == UINT64_C(0xa129ca6149be45e5));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_hash_is_siphash),
		cmocka_unit_test(no_limits_hold_nobody),
		cmocka_unit_test(max_conns_is_never_exceeded_by_workers_that_ask_at_once),
		cmocka_unit_test(a_hold_is_counted_once_for_each_time_it_begins),
		cmocka_unit_test(rates_are_exact_over_time),
		cmocka_unit_test(tokens_are_not_promised_twice_to_workers_that_ask_at_once),
		cmocka_unit_test(pauses_and_refusals_cost_no_token),
		cmocka_unit_test(a_clock_that_is_behind_anothers_gives_nothing_and_takes_nothing),
		cmocka_unit_test(over_max_load_connections_wait_until_it_falls),
		cmocka_unit_test(a_source_over_its_limit_is_shed_and_others_are_not),
		cmocka_unit_test(a_flood_takes_no_rate_from_another_source),
		cmocka_unit_test(addresses_of_one_prefix_are_one_source),
		cmocka_unit_test(a_unix_peer_counts_by_uid_and_a_senders_name_by_itself),
		cmocka_unit_test(what_has_no_source_is_not_limited_by_it),
		cmocka_unit_test(a_hundred_thousand_sources_push_no_connected_one_out),
		cmocka_unit_test(where_all_are_connected_no_source_exceeds_its_limit),
		cmocka_unit_test(limits_go_on_over_generations),
		cmocka_unit_test(a_limit_that_is_new_counts_who_is_connected_already),
		cmocka_unit_test(a_full_bucket_gives_way_before_one_that_is_held_back),
	};
	return cmocka_run_group_tests(tests, make_memory, NULL);
}
