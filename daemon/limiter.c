/* limiter.c — places, token buckets and the table of sources, in memory that a service's workers share.
 *
 * One robust lock guards it all: it is held for a hash and a few sums, and never across a system call. A worker that is
 * killed while it holds the lock (pthread_mutexattr_setrobust(3)) leaves sums that are wrong, so sums are never the
 * truth: what each slot holds is, and whoever gets the lock next adds it up again. limits_forget() but marks the slot
 * dead, and the next one to have the lock does the rest: the supervisor, which is root, neither waits for a lock nor
 * follows a pointer (a robust lock is full of them) where a worker can write.
 *
 * The table of sources is hashed with a secret (SipHash-2-4: who can choose addresses must not choose neighbours). A
 * source is looked for in a few places and no more. Entries of connected sources stay. Others give way: those with a
 * full bucket first, as nothing is lost with them, then those nearest to it, so that newcomers push each other out
 * rather than one who is being held back.
 *
 * A refused connection costs the service no token: else a source over its own limit would use up the others' rate.
 *
 * Thread: each worker's loop; limits_forget() the supervisor's main thread. Owner: the supervisor; its workers inherit
 * the mapping. */
#include "limiter.h"

#include <assert.h>
#include <endian.h>
#include <errno.h>
#include <float.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/sysinfo.h>
#include <sys/un.h>
#include <time.h>

#define SOURCES       4096 /* entries; a power of two */
#define PROBES        16   /* places where a source may be */
#define SLOTS         LIMITS_SLOTS
#define WAIT_MAX_NS   HARK_S
#define WAIT_MIN_NS   HARK_MS
#define WAIT_USUAL_NS (10 * HARK_MS) /* at least, where the bucket can gather what comes meanwhile */
#define FULL_NS       (50 * HARK_MS) /* at max_conns: another worker's connection may end, which nobody tells us of */
#define LOAD_NS       HARK_S         /* between looks at the load */
#define EPSILON       1e-6           /* of a token: what adding up fractions may have lost */

enum kind { FREE = 0, IPV4, IPV6, UID, NAMED };

struct key {
	uint64_t kind; /* enum kind; written last, so that a half-written entry is a free one */
	uint64_t hi, lo;
};

struct bucket {
	double tokens;
	int64_t at; /* when that was so */
};

struct source {
	struct key key;
	struct bucket bucket;
	uint32_t conns; /* a sum: of held[][this] */
};

struct slot {
	uint32_t conns;
	bool reserved;  /* limits_pace() said yes, and nothing was taken yet */
	int8_t holding; /* 1 + enum counters_hold, since its last answer; 0: it was not held */
};

/* What workers share. Pointers and sizes are not in it: a worker that has been taken over must not lead the supervisor
 * anywhere. */
struct shared {
	pthread_mutex_t lock;

	/* Guarded by lock; the first two are sums over the slots. */
	unsigned conns, reserved;
	struct bucket bucket;
	struct slot slots[SLOTS];
	bool used[SLOTS]; /* has ever held something: the others' rows are not looked at */

	/* Atomic. seq_cst: a slot's mark is there before any_dead tells of one. */
	atomic_bool dead[SLOTS];
	atomic_bool any_dead;
	_Atomic int64_t load_at; /* relaxed: who moves it looks */
	atomic_bool load_high;   /* relaxed */
};

/* Constant from limits_new() on, and each process's own. */
struct limits {
	struct shared *m;
	size_t bytes;              /* of the mapping: m and, behind it, the next two */
	struct source *sources;    /* SOURCES of them; NULL: no limit for a source */
	uint32_t (*held)[SOURCES]; /* SLOTS of them: a row for each worker, so that rows of none cost no memory */
	unsigned max_conns, max_per_source;
	int v4_bits, v6_bits;
	struct config_rate rate, rate_per_source;
	double max_load;
	uint64_t seed[2];
};

static_assert((SOURCES & (SOURCES - 1)) == 0, "places are cut out of the hash");

static double load_average(void)
{
	struct sysinfo info; /* /proc may not be there: chroot */
	return sysinfo(&info) < 0 ? -1 : (double)info.loads[0] / (1 << SI_LOAD_SHIFT);
}

struct limits_world limits_world = {.now = hark_now, .load = load_average};

/* ---- token buckets --------------------------------------------------------------------------- */

static void refill(struct bucket *b, const struct config_rate *r, int64_t now)
{
	if (now <= b->at) /* another worker has looked at the clock since */
		return;
	b->tokens += (double)(now - b->at) * r->events / (double)r->period_ns;
	if (!(b->tokens < r->burst))
		b->tokens = r->burst;
	b->at = now;
}

static bool has(const struct bucket *b, double tokens)
{
	return b->tokens >= tokens - EPSILON;
}

/* How long until so many are there. No shorter than the bucket can gather over: a worker that woke for each token of a
 * high rate would do little else. */
static int64_t wait_for(const struct bucket *b, const struct config_rate *r, double tokens)
{
	double each = (double)r->period_ns / r->events;
	double ns = (tokens - b->tokens) * each + 1, least = r->burst * each;
	if (least > WAIT_USUAL_NS)
		least = WAIT_USUAL_NS;
	if (least < WAIT_MIN_NS)
		least = WAIT_MIN_NS;
	ns = ns < least ? least : ns;
	return ns < WAIT_MAX_NS ? (int64_t)ns : WAIT_MAX_NS;
}

static struct config_rate sane(struct config_rate r)
{
	if (!(r.events > 0) || r.period_ns <= 0)
		return (struct config_rate){0};
	if (!(r.burst > 0))
		r.burst = r.events;
	if (r.burst < 1)
		r.burst = 1; /* or nothing would ever come */
	return r;
}

/* ---- the lock, and what holds when its holder is dead ------------------------------------------- */

/* A kill may come between any two instructions, so the order of what is written matters even under the lock; the
 * compiler is told. */
static void in_order(void)
{
	atomic_signal_fence(memory_order_seq_cst);
}

static void between(void)
{
	in_order();
	if (limits_world.locked != NULL)
		limits_world.locked();
}

static void add_up(struct limits *l)
{
	l->m->conns = l->m->reserved = 0;
	for (int i = 0; l->sources != NULL && i < SOURCES; i++)
		l->sources[i].conns = 0;
	for (int s = 0; s < SLOTS; s++) {
		if (!l->m->used[s])
			continue;
		l->m->conns += l->m->slots[s].conns;
		l->m->reserved += l->m->slots[s].reserved;
		for (int i = 0; l->sources != NULL && i < SOURCES; i++)
			l->sources[i].conns += l->held[s][i];
	}
}

/* Takes back what dead slots hold. Killed in between, it is done again: the marks go last. */
static void bury(struct limits *l)
{
	atomic_store(&l->m->any_dead, false); /* before the looks: who marks another one meanwhile sets it again */
	for (int s = 0; s < SLOTS; s++) {
		if (!atomic_load(&l->m->dead[s]))
			continue;
		if (l->sources != NULL && l->m->used[s])
			memset(l->held[s], 0, sizeof l->held[s]);
		l->m->slots[s] = (struct slot){0};
		between();
		atomic_store(&l->m->dead[s], false);
	}
	add_up(l);
}

static bool lock(struct limits *l)
{
	int r = pthread_mutex_lock(&l->m->lock);
	if (r == EOWNERDEAD) {
		atomic_store(&l->m->any_dead, true); /* the holder may have been about to bury */
		(void)pthread_mutex_consistent(&l->m->lock);
	} else if (r != 0) {
		return false;
	}
	if (atomic_load(&l->m->any_dead))
		bury(l);
	return true;
}

static void unlock(struct limits *l)
{
	(void)pthread_mutex_unlock(&l->m->lock);
}

/* ---- sources --------------------------------------------------------------------------------- */

static uint64_t rotated(uint64_t x, int by)
{
	return x << by | x >> (64 - by);
}

static void sip_rounds(uint64_t v[4], int n)
{
	while (n-- > 0) {
		v[0] += v[1], v[2] += v[3];
		v[1] = rotated(v[1], 13) ^ v[0], v[3] = rotated(v[3], 16) ^ v[2];
		v[0] = rotated(v[0], 32);
		v[2] += v[1], v[0] += v[3];
		v[1] = rotated(v[1], 17) ^ v[2], v[3] = rotated(v[3], 21) ^ v[0];
		v[2] = rotated(v[2], 32);
	}
}

/* SipHash-2-4 of whole words. */
static uint64_t sip(const uint64_t seed[2], const uint64_t *words, size_t n)
{
	uint64_t v[4] = {seed[0] ^ UINT64_C(0x736f6d6570736575), seed[1] ^ UINT64_C(0x646f72616e646f6d),
	                 seed[0] ^ UINT64_C(0x6c7967656e657261), seed[1] ^ UINT64_C(0x7465646279746573)};
	for (size_t i = 0; i <= n; i++) {
		uint64_t word = i < n ? words[i] : (uint64_t)(n * 8) << 56;
		v[3] ^= word;
		sip_rounds(v, 2);
		v[0] ^= word;
	}
	v[2] ^= 0xff;
	sip_rounds(v, 4);
	return v[0] ^ v[1] ^ v[2] ^ v[3];
}

static uint64_t upper_bits(uint64_t x, int bits, int of)
{
	return bits <= 0 ? 0 : bits >= of ? x : x >> (of - bits) << (of - bits);
}

static void key_of_inet(const struct limits *l, const struct hark_endpoint *e, struct key *k)
{
	struct sockaddr_in four;
	struct sockaddr_in6 six;
	uint64_t word[2];
	if (e->addr.ss_family == AF_INET) {
		memcpy(&four, &e->addr, sizeof four);
		*k = (struct key){IPV4, 0, upper_bits(ntohl(four.sin_addr.s_addr), l->v4_bits, 32)};
		return;
	}
	memcpy(&six, &e->addr, sizeof six);
	memcpy(word, &six.sin6_addr, sizeof word);
	*k = (struct key){IPV6, upper_bits(be64toh(word[0]), l->v6_bits, 64),
	                  upper_bits(be64toh(word[1]), l->v6_bits - 64, 64)};
}

/* Who connected, by uid. A datagram's socket knows no peer: the sender's name, if it has one. */
static bool key_of_unix(const struct limits *l, struct hark_conn *c, const struct hark_endpoint *e, struct key *k)
{
	struct hark_credentials who;
	uint64_t name[sizeof e->addr / 8 + 1] = {0}, other[2] = {~l->seed[0], ~l->seed[1]};
	if (hark_type(c) == SOCK_STREAM) {
		if (hark_peer_credentials(c, &who) < 0)
			return false;
		*k = (struct key){UID, 0, who.uid};
		return true;
	}
	memcpy(name, &e->addr, e->len < sizeof e->addr ? e->len : sizeof e->addr);
	size_t words = sizeof name / 8;
	*k = (struct key){NAMED, sip(l->seed, name, words), sip(other, name, words)};
	return true;
}

/* false: nothing that could be counted: a pipe, say. */
static bool key_of(const struct limits *l, struct hark_conn *c, struct key *k)
{
	struct hark_endpoint e = {.len = 0};
	int r = hark_peer_endpoint(c, &e);
	/* Unix senders without a name, -ENOTCONN, are one source. */
	if (r < 0 && !(r == -ENOTCONN && hark_type(c) == SOCK_DGRAM))
		return false;
	if (e.addr.ss_family == AF_INET || e.addr.ss_family == AF_INET6) {
		key_of_inet(l, &e, k);
		return true;
	}
	return key_of_unix(l, c, &e, k);
}

/* How little would be lost with the entry: 3: it is free, 2: idle with a full bucket, below: as full as it is. */
static double worthless(const struct limits *l, struct source *s, int64_t now)
{
	if (s->key.kind == FREE)
		return 3;
	if (l->rate_per_source.events <= 0)
		return 2;
	refill(&s->bucket, &l->rate_per_source, now);
	return has(&s->bucket, l->rate_per_source.burst) ? 2 : s->bucket.tokens / l->rate_per_source.burst;
}

static void begin(const struct limits *l, struct source *s, const struct key *k, int64_t now)
{
	s->key.kind = FREE;
	between();
	s->key.hi = k->hi;
	s->key.lo = k->lo;
	s->bucket = (struct bucket){l->rate_per_source.burst, now};
	between();
	s->key.kind = k->kind;
}

/* The entry of that source, made if there is room; NULL: all its places are connected sources'. With the lock. */
static struct source *source_of(struct limits *l, const struct key *k, int64_t now)
{
	uint64_t at = sip(l->seed, (const uint64_t[]){k->kind, k->hi, k->lo}, 3);
	struct source *best = NULL;
	double best_worth = -DBL_MAX;
	for (int i = 0; i < PROBES; i++) {
		struct source *s = &l->sources[(at + (unsigned)i) % SOURCES];
		if (s->key.kind == k->kind && s->key.hi == k->hi && s->key.lo == k->lo)
			return s;
		double w = s->conns == 0 ? worthless(l, s, now) : -DBL_MAX;
		if (w > best_worth) {
			best = s;
			best_worth = w;
		}
	}
	if (best != NULL)
		begin(l, best, k, now);
	return best;
}

/* ---- what a worker asks ---------------------------------------------------------------------- */

static struct slot *slot_of(struct limits *l, int slot)
{
	if (!l->m->used[slot])
		l->m->used[slot] = true;
	in_order();
	return &l->m->slots[slot];
}

static void unreserve(struct limits *l, struct slot *s)
{
	if (!s->reserved)
		return;
	s->reserved = false;
	between();
	l->m->reserved--;
}

static void reserve(struct limits *l, struct slot *s)
{
	if (s->reserved)
		return;
	s->reserved = true;
	between();
	l->m->reserved++;
}

static bool load_is_high(struct limits *l, int64_t now)
{
	int64_t at = atomic_load_explicit(&l->m->load_at, memory_order_relaxed);
	if (l->max_load <= 0)
		return false;
	if (now - at >= LOAD_NS && atomic_compare_exchange_strong(&l->m->load_at, &at, now))
		atomic_store_explicit(&l->m->load_high, limits_world.load() > l->max_load, memory_order_relaxed);
	return atomic_load_explicit(&l->m->load_high, memory_order_relaxed);
}

/* 0: go on; else for how long not, and why. What others have reserved is as good as taken. */
static int64_t hold(struct limits *l, bool high, int64_t now, enum counters_hold *why)
{
	double wanted = 1.0 + l->m->reserved;
	*why = HELD_LOAD;
	if (high)
		return LOAD_NS;
	*why = HELD_MAX_CONNS;
	if (l->max_conns > 0 && l->m->conns + l->m->reserved >= l->max_conns)
		return FULL_NS;
	*why = HELD_RATE;
	if (l->rate.events <= 0)
		return 0;
	refill(&l->m->bucket, &l->rate, now);
	return has(&l->m->bucket, wanted) ? 0 : wait_for(&l->m->bucket, &l->rate, wanted);
}

int64_t limits_pace(void *limits_worker)
{
	struct limits_worker *w = limits_worker;
	struct limits *l = w->limits;
	enum counters_hold why;
	bool begins = false;
	if (l == NULL)
		return 0;
	int64_t now = limits_world.now();
	bool high = load_is_high(l, now);
	if (!lock(l))
		return WAIT_MAX_NS;
	struct slot *s = slot_of(l, w->slot);
	int64_t ns = s->reserved ? 0 : hold(l, high, now, &why);
	if (ns == 0) {
		reserve(l, s);
		s->holding = 0;
	} else {
		begins = s->holding != (int8_t)(1 + why);
		s->holding = (int8_t)(1 + why);
	}
	unlock(l);
	if (begins)
		atomic_fetch_add_explicit(&w->counters->held[why], 1, memory_order_relaxed);
	return ns;
}

/* Takes one for the source. 0, or -1 and why not. */
static int take_of_source(struct limits *l, struct source *s, int slot, int64_t now, enum counters_refusal *why)
{
	*why = REFUSED_PER_SOURCE;
	if (l->max_per_source > 0 && s->conns >= l->max_per_source)
		return -1;
	*why = REFUSED_RATE_PER_SOURCE;
	if (l->rate_per_source.events > 0) {
		refill(&s->bucket, &l->rate_per_source, now);
		if (!has(&s->bucket, 1))
			return -1;
		s->bucket.tokens -= 1;
	}
	l->held[slot][s - l->sources]++;
	between();
	s->conns++;
	return 0;
}

static void take_token(struct limits *l, int64_t now)
{
	if (l->rate.events <= 0)
		return;
	refill(&l->m->bucket, &l->rate, now);
	l->m->bucket.tokens -= 1;
}

static void take_of_service(struct limits *l, struct slot *s, int64_t now)
{
	take_token(l, now);
	s->conns++;
	between();
	l->m->conns++;
}

static int admit(struct limits *l, int slot, const struct key *k, enum counters_refusal *why)
{
	int64_t now = limits_world.now();
	struct slot *s = slot_of(l, slot);
	unreserve(l, s);
	struct source *source = k != NULL ? source_of(l, k, now) : NULL;
	if (source != NULL && take_of_source(l, source, slot, now, why) < 0)
		return -EACCES;
	take_of_service(l, s, now);
	return source != NULL ? 1 + (int)(source - l->sources) : 0;
}

static void count_now(const struct limits_worker *w, int n)
{
	if (w->now != NULL)
		atomic_fetch_add_explicit(w->now, (uint32_t)n, memory_order_relaxed);
}

int limits_admit(struct hark_conn *c, void *limits_worker)
{
	struct limits_worker *w = limits_worker;
	struct limits *l = w->limits;
	struct key k;
	enum counters_refusal why = REFUSED_PER_SOURCE;
	int ticket = 0;
	bool keyed = l != NULL && l->sources != NULL && key_of(l, c, &k);
	if (l != NULL && lock(l)) {
		ticket = admit(l, w->slot, keyed ? &k : NULL, &why);
		unlock(l);
	}
	if (ticket >= 0) {
		count_now(w, 1);
		return ticket;
	}
	w->refused = why;
	atomic_fetch_add_explicit(&w->counters->refused[why], 1, memory_order_relaxed);
	return ticket;
}

void limits_lend(void *limits_worker)
{
	struct limits *l = ((struct limits_worker *)limits_worker)->limits;
	if (l == NULL || !lock(l))
		return;
	take_token(l, limits_world.now());
	unlock(l);
}

static void leave(struct limits *l, int slot, int ticket)
{
	struct slot *s = slot_of(l, slot);
	if (ticket < 0) {
		unreserve(l, s);
		return;
	}
	if (s->conns > 0) {
		s->conns--;
		between();
		l->m->conns--;
	}
	if (ticket == 0 || l->sources == NULL || ticket > SOURCES || l->held[slot][ticket - 1] == 0)
		return;
	l->held[slot][ticket - 1]--;
	between();
	l->sources[ticket - 1].conns--;
}

void limits_leave(int ticket, void *limits_worker)
{
	struct limits_worker *w = limits_worker;
	if (w->limits != NULL && lock(w->limits)) {
		leave(w->limits, w->slot, ticket);
		unlock(w->limits);
	}
	if (ticket >= 0)
		count_now(w, -1);
}

void limits_forget(struct limits *l, int slot)
{
	if (l == NULL || slot < 0 || slot >= SLOTS)
		return;
	atomic_store(&l->m->dead[slot], true);
	atomic_store(&l->m->any_dead, true);
}

/* ---- beginning and end ----------------------------------------------------------------------- */

static size_t aligned(size_t n)
{
	return (n + 63) / 64 * 64;
}

static int init_lock(pthread_mutex_t *m)
{
	pthread_mutexattr_t a;
	int r = pthread_mutexattr_init(&a);
	if (r != 0)
		return -r;
	(void)pthread_mutexattr_setpshared(&a, PTHREAD_PROCESS_SHARED);
	(void)pthread_mutexattr_setrobust(&a, PTHREAD_MUTEX_ROBUST);
	r = pthread_mutex_init(m, &a);
	(void)pthread_mutexattr_destroy(&a);
	return -r;
}

static void configure(struct limits *l, const struct config_service *s)
{
	l->max_conns = s->max_conns > 0 ? (unsigned)s->max_conns : 0;
	l->max_per_source = s->max_per_source > 0 ? (unsigned)s->max_per_source : 0;
	l->v4_bits = s->source_v4_bits > 0 ? s->source_v4_bits : 32;
	l->v6_bits = s->source_v6_bits > 0 ? s->source_v6_bits : 64;
	l->rate = sane(s->rate);
	l->rate_per_source = sane(s->rate_per_source);
	l->max_load = s->max_load;
	l->m->bucket = (struct bucket){l->rate.burst, limits_world.now()};
	atomic_store(&l->m->load_at, -LOAD_NS);
}

int limits_new(const struct config_service *s, struct counters *c, struct limits **out)
{
	(void)c; /* each worker has it beside: see struct limits_worker */
	bool by_source = s->max_per_source > 0 || sane(s->rate_per_source).events > 0;
	if (!by_source && s->max_conns <= 0 && sane(s->rate).events <= 0 && !(s->max_load > 0)) {
		*out = NULL;
		return 0;
	}
	size_t table = aligned(sizeof(struct shared)), rows = table + aligned(SOURCES * sizeof(struct source));
	struct limits *l = calloc(1, sizeof *l);
	if (l == NULL)
		return -ENOMEM;
	l->bytes = by_source ? rows + SLOTS * sizeof(uint32_t[SOURCES]) : table;
	l->m = mmap(NULL, l->bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (l->m == MAP_FAILED) {
		free(l);
		return -ENOMEM;
	}
	configure(l, s);
	if (by_source) {
		l->sources = (struct source *)((char *)l->m + table);
		l->held = (uint32_t(*)[SOURCES])((char *)l->m + rows);
	}
	/* Early in a system's life there may be no randomness yet: the clock and the mapping's place then make do. */
	if (getrandom(l->seed, sizeof l->seed, GRND_NONBLOCK) != (ssize_t)sizeof l->seed)
		l->seed[0] = (uint64_t)hark_now(), l->seed[1] = (uint64_t)(uintptr_t)l->m;
	if (init_lock(&l->m->lock) < 0) {
		limits_free(l);
		return -ENOMEM;
	}
	*out = l;
	return 0;
}

void limits_free(struct limits *l)
{
	if (l != NULL)
		(void)munmap(l->m, l->bytes);
	free(l);
}
