/* test_limits.c — the limits of a service and of each source, over a clock that the test sets, with sources that it
 * makes up, and with workers that are killed at any moment.
 *
 * limiter.c is compiled in here, so that addresses can be made up: a connection of these tests is an endpoint and no
 * more. */
#include "net_support.h"

#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>

static int peer_of(struct hark_conn *c, struct hark_endpoint *out);
#define hark_peer_endpoint(c, out) peer_of(c, out)
#include "../../daemon/limiter.c"
#undef hark_peer_endpoint

static const struct hark_endpoint *made_up; /* whom every connection comes from; NULL: as it is */

static int peer_of(struct hark_conn *c, struct hark_endpoint *out)
{
	if (made_up == NULL)
		return hark_peer_endpoint(c, out);
	*out = *made_up;
	return 0;
}

static int64_t clock_ns;
static double load_now;

static int64_t test_clock(void)
{
	return clock_ns;
}

static double test_load(void)
{
	return load_now;
}

static struct counters *counters; /* shared, as is what the limits lie in */
static struct limits_state *shared_state;

/* Made anew for each test: limits, and a view for each worker. */
struct bench {
	struct limits *limits;
	struct limits_worker w[8];
};

static struct limits *limits_of(const struct config_service *s)
{
	struct limits *l;
	assert_int_equal(limits_new(s, shared_state, &l), 0);
	return l;
}

static struct bench bench_of(const struct config_service *s)
{
	struct bench b;
	clock_ns = 1000 * HARK_S;
	limits_world.now = test_clock;
	limits_world.load = test_load;
	limits_world.locked = NULL;
	memset(counters, 0, sizeof *counters);
	for (int i = 0; i < 8; i++)
		assert_int_equal(counters_slot_take(counters), i);
	assert_int_equal(madvise(shared_state, limits_bytes(true), MADV_REMOVE), 0); /* all zero */
	assert_int_equal(limits_init(shared_state), 0);
	b.limits = limits_of(s);
	for (int i = 0; i < 8; i++)
		b.w[i] = (struct limits_worker){.limits = b.limits, .counters = counters, .slot = i};
	return b;
}

/* What the supervisor does when a worker has ended; its slot is taken again. */
static void forget(int slot)
{
	limits_forget(shared_state, slot);
	counters_slot_clear(counters, slot);
	assert_int_equal(counters_slot_take(counters), slot);
}

static struct hark_endpoint from4(uint32_t addr)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(addr), .sin_port = htons(1234)};
	struct hark_endpoint e = {.type = SOCK_STREAM, .len = sizeof a};
	memcpy(&e.addr, &a, sizeof a);
	return e;
}

static struct hark_endpoint from6(uint64_t hi, uint64_t lo)
{
	struct sockaddr_in6 a = {.sin6_family = AF_INET6};
	uint64_t words[2] = {htobe64(hi), htobe64(lo)};
	struct hark_endpoint e = {.type = SOCK_STREAM, .len = sizeof a};
	memcpy(&a.sin6_addr, words, sizeof words);
	memcpy(&e.addr, &a, sizeof a);
	return e;
}

static int admit_from(struct limits_worker *w, struct hark_endpoint e)
{
	made_up = &e;
	int r = limits_admit(NULL, w);
	made_up = NULL;
	return r;
}

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
		assert_int_equal(admit_from(&b.w[0], from4(7)), -EACCES);
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
		assert_int_equal(admit_from(&b.w[0], from4(1)), -EACCES);
		assert_int_equal(limits_pace(&b.w[1]), 0);
		int t = admit_from(&b.w[1], from4(2));
		assert_true(t > 0);
		limits_leave(t, &b.w[1]);
	}
	assert_int_equal(counters_read(counters, REFUSED_PER_SOURCE), 1000);
	assert_int_equal(counters_now(counters), 4);
	limits_leave(mine[1], &b.w[1]);
	assert_true(admit_from(&b.w[0], from4(1)) > 0);
	assert_int_equal(admit_from(&b.w[0], from4(1)), -EACCES);
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
	assert_int_equal(admit_from(&b.w[0], from4(0x0a0000fe)), -EACCES);
	assert_true(admit_from(&b.w[0], from4(0x0a000101)) > 0);
	assert_true(admit_from(&b.w[0], from6(0x20010db800000001, 1)) > 0);
	assert_int_equal(admit_from(&b.w[0], from6(0x20010db800000001, UINT64_MAX)), -EACCES);
	assert_true(admit_from(&b.w[0], from6(0x20010db800000002, 1)) > 0);
	free(b.limits);
	b = bench_of(&(struct config_service){.max_per_source = 1, .source_v6_bits = 128});
	assert_true(admit_from(&b.w[0], from6(1, 1)) > 0);
	assert_true(admit_from(&b.w[0], from6(1, 2)) > 0);
	assert_int_equal(admit_from(&b.w[0], from6(1, 2)), -EACCES);
	free(b.limits);
	b = bench_of(&(struct config_service){.max_per_source = 1, .source_v6_bits = 48});
	assert_true(admit_from(&b.w[0], from6(0x20010db800010000, 1)) > 0);
	assert_int_equal(admit_from(&b.w[0], from6(0x20010db80001ffff, 1)), -EACCES);
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
	assert_int_equal(b.limits->sources[t - 1].key.kind, UID);
	assert_int_equal(b.limits->sources[t - 1].key.lo, getuid());
	assert_int_equal(limits_admit(c[1], &b.w[0]), -EACCES);

	assert_int_equal(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, dgram), 0);
	assert_int_equal(hark_conn_from_fd(dgram[0], &d), 0);
	for (int name = 1; name <= 2; name++) {
		struct sockaddr_un a = {.sun_family = AF_UNIX, .sun_path = {0, (char)name}};
		e.len = offsetof(struct sockaddr_un, sun_path) + 2;
		memcpy(&e.addr, &a, e.len);
		made_up = &e;
		assert_true(limits_admit(d, &b.w[0]) > 0);
		assert_int_equal(limits_admit(d, &b.w[0]), -EACCES);
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

static uint64_t random64(uint64_t *seed)
{
	*seed ^= *seed << 13;
	*seed ^= *seed >> 7;
	*seed ^= *seed << 17;
	return *seed;
}

static void a_hundred_thousand_sources_push_no_connected_one_out(void **state)
{
	uint64_t seed = 88172645463325252;
	(void)state;
	struct bench b = bench_of(&(
		struct config_service){.max_per_source = 2, .rate_per_source = {1, HARK_S, 5}, .source_v6_bits = 128});
	int first = admit_from(&b.w[0], from4(1)), second = admit_from(&b.w[1], from4(1));
	assert_true(first > 0 && second == first);
	for (int i = 0; i < 100000; i++) {
		uint64_t hi = random64(&seed), lo = random64(&seed);
		clock_ns += HARK_MS / 10;
		int t = admit_from(&b.w[i % 4], from6(hi, lo));
		assert_true(t >= 0);
		if (i % 50 != 0) /* 2,000 stay */
			limits_leave(t, &b.w[i % 4]);
		if (i % 1000 == 0)
			assert_int_equal(admit_from(&b.w[2], from4(1)), -EACCES);
	}
	assert_true(limits_bytes(true) < 9 * 1024 * 1024); /* most of it rows that no worker touches */
	assert_int_equal(counters_now(counters), 2002);
	assert_int_equal(counters_read(counters, REFUSED_PER_SOURCE), 100);
	limits_leave(first, &b.w[0]);
	assert_int_equal(admit_from(&b.w[0], from4(1)), first);
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
	int before = n;
	for (uint64_t i = 0; i < 2 * SOURCES; i++)
		if (tickets[i] > 0)
			limits_leave(tickets[i], &b.w[0]);
	while (admit_from(&b.w[1], from6(3, 1)) > 0) /* now it has an entry of its own, and is still counted there */
		n++;
	assert_int_equal(n, 3);
	assert_int_equal(counters_now(counters), 3);
	assert_true(before <= 3);
	free(tickets);
	free(b.limits);
}

/* A reload or an upgrade: workers of another configuration over the same state. */
static void limits_go_on_over_generations(void **state)
{
	(void)state;
	struct bench b = bench_of(&(struct config_service){.max_conns = 5, .max_per_source = 2});
	int mine = admit_from(&b.w[0], from4(1));
	assert_true(mine > 0 && admit_from(&b.w[0], from4(1)) == mine);
	for (uint32_t i = 2; i < 5; i++)
		assert_true(admit_from(&b.w[0], from4(i)) > 0);
	struct limits *next = limits_of(&(struct config_service){.max_conns = 5, .max_per_source = 2});
	struct limits_worker w = {.limits = next, .counters = counters, .slot = 5};
	assert_true(limits_pace(&w) > 0);
	assert_int_equal(admit_from(&w, from4(1)), -EACCES);
	limits_leave(mine, &b.w[0]); /* of an older worker */
	assert_int_equal(limits_pace(&w), 0);
	assert_int_equal(admit_from(&w, from4(1)), mine);
	struct limits *fewer = limits_of(&(struct config_service){.max_conns = 4});
	struct limits_worker v = {.limits = fewer, .counters = counters, .slot = 6};
	assert_true(limits_pace(&v) > 0);
	forget(0); /* the older worker is killed: four of its five were left */
	assert_int_equal(limits_pace(&v), 0);
	limits_leave(-1, &v);
	assert_int_equal(admit_from(&w, from4(1)), mine);
	assert_int_equal(admit_from(&w, from4(1)), -EACCES);
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
	struct limits_worker w = {.limits = next, .counters = counters, .slot = 5};
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
	assert_int_equal(admit_from(&b.w[0], from4(9)), -EACCES);
	for (uint32_t i = 0; i < 20000; i++) /* far more than there are entries; each has lost less than that one */
		limits_leave(admit_from(&b.w[0], from4(100 + i)), &b.w[0]);
	assert_int_equal(admit_from(&b.w[0], from4(9)), -EACCES);
	free(b.limits);
}

/* ---- workers that are killed ----------------------------------------------------------------- */

/* Whoever asks next does what limits_forget() has left undone. */
static void somebody_asks(struct limits *l)
{
	assert_true(lock(l));
	unlock(l);
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
	assert_int_equal(admit_from(&b.w[1], from4(1)), -EACCES);
	forget(0);
	forget(0);
	forget(7);
	limits_forget(shared_state, -1);
	limits_forget(shared_state, SLOTS);
	somebody_asks(b.limits);
	assert_int_equal(counters_now(counters), 3);
	assert_int_equal(admit_from(&b.w[1], from4(2)), -EACCES);
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
	for (int i = 0; i < ENTRIES; i++) {
		uint32_t n = 0;
		for (int s = 0; s < 8; s++)
			n += l->held[s][i];
		assert_int_equal(l->sources[i].conns, n);
	}
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
		(void)lock(b.limits);
		(void)raise(SIGSTOP);
		unlock(b.limits);
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

static int make_memory(void **state)
{
	(void)state;
	counters = mmap(NULL, sizeof *counters, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	shared_state = mmap(NULL, limits_bytes(true), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	return counters == MAP_FAILED || shared_state == MAP_FAILED;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
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
		cmocka_unit_test(a_dead_workers_connections_are_given_back),
		cmocka_unit_test(a_worker_killed_in_the_middle_of_any_change_leaves_all_in_order),
		cmocka_unit_test(workers_killed_at_random_moments_leave_the_others_counts_right),
		cmocka_unit_test(a_stopped_holder_of_the_lock_does_not_hold_up_the_supervisor),
		cmocka_unit_test(workers_at_once_never_exceed_and_lose_nothing),
	};
	return cmocka_run_group_tests(tests, make_memory, NULL);
}
