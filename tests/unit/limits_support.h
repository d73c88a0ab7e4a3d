/* limits_support.h — what the tests of limits share: a clock that the test sets, sources that it makes up, and limits
 * over shared memory with a view for each worker.
 *
 * limiter.c is compiled in here, so that addresses can be made up: a connection of these tests is an endpoint and no
 * more. */
#ifndef LIMITS_SUPPORT_H
#define LIMITS_SUPPORT_H

#include "net_support.h"

#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>

static int peer_of(struct hark_conn *c, struct hark_endpoint *out);
#define hark_peer_endpoint(c, out) peer_of(c, out)
#include "../../service/limiter.c"
#undef hark_peer_endpoint

static const struct hark_endpoint *made_up; /* whom every connection comes from; NULL: as it is */

static inline int peer_of(struct hark_conn *c, struct hark_endpoint *out)
{
	if (made_up == NULL)
		return hark_peer_endpoint(c, out);
	*out = *made_up;
	return 0;
}

static int64_t clock_ns;
static double load_now;

static inline int64_t test_clock(void)
{
	return clock_ns;
}

static inline double test_load(void)
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

static inline struct limits *limits_of(const struct config_service *s)
{
	struct limits *l;
	assert_int_equal(limits_new(s, shared_state, &l), 0);
	return l;
}

static inline struct limits_worker worker_of(struct limits *l, int slot)
{
	struct limits_worker w = {.limits = l, .counters = counters, .slot = slot};
	limits_join(&w);
	return w;
}

static inline struct bench bench_of(const struct config_service *s)
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
		b.w[i] = worker_of(b.limits, i);
	return b;
}

/* What the supervisor does when a worker has ended; its slot is taken again. */
static inline void forget(int slot)
{
	limits_forget(shared_state, slot);
	counters_slot_clear(counters, slot);
	assert_int_equal(counters_slot_take(counters), slot);
}

static inline struct hark_endpoint from4(uint32_t addr)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(addr), .sin_port = htons(1234)};
	struct hark_endpoint e = {.type = SOCK_STREAM, .len = sizeof a};
	memcpy(&e.addr, &a, sizeof a);
	return e;
}

static inline struct hark_endpoint from6(uint64_t hi, uint64_t lo)
{
	struct sockaddr_in6 a = {.sin6_family = AF_INET6};
	uint64_t words[2] = {htobe64(hi), htobe64(lo)};
	struct hark_endpoint e = {.type = SOCK_STREAM, .len = sizeof a};
	memcpy(&a.sin6_addr, words, sizeof words);
	memcpy(&e.addr, &a, sizeof a);
	return e;
}

static inline int admit_from(struct limits_worker *w, struct hark_endpoint e)
{
	made_up = &e;
	int r = limits_admit(NULL, w);
	made_up = NULL;
	return r;
}

/* The entry where a ticket's place counts; -1: nowhere. */
static inline int entry_of(const struct limits *l, int ticket)
{
	assert_in_range(ticket, 1, PLACES);
	return (int)l->places[ticket - 1].at - 1;
}

static inline int move_to(struct limits_worker *w, int ticket, struct hark_endpoint e)
{
	made_up = &e;
	int r = limits_move(NULL, ticket, w);
	made_up = NULL;
	return r;
}

static inline uint64_t random64(uint64_t *seed)
{
	*seed ^= *seed << 13;
	*seed ^= *seed >> 7;
	*seed ^= *seed << 17;
	return *seed;
}

static inline int make_memory(void **state)
{
	(void)state;
	counters = mmap(NULL, sizeof *counters, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	shared_state = mmap(NULL, limits_bytes(true), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	return counters == MAP_FAILED || shared_state == MAP_FAILED;
}

#endif
