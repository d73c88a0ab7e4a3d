/* limiter.c — places, token buckets and the table of sources, in memory that a service's workers share.
 *
 * One robust lock guards it all: it is held for a hash and a few sums, and never across a system call. A process that
 * is killed while it holds the lock (pthread_mutexattr_setrobust(3)) leaves sums that are wrong, so sums are never the
 * truth: the places are, one for each connection that is counted by its source, and whoever gets the lock next adds
 * them up again. A ticket is the number of a place: where it counts may change (a forked child moves it, and may be
 * killed doing so) while the number that the worker gives back at the end stays. Connections are summed over the
 * counters' slots each time they are asked for. limits_forget() but marks the slot dead, and the next one to have the
 * lock does the rest: the supervisor, which is root, neither waits for a lock nor follows a pointer (a robust lock is
 * full of them) where a worker can write. A child that outlives its worker finds the slot another's, and moves nothing.
 *
 * The table of sources is hashed with a secret (SipHash-2-4: who can choose addresses must not choose neighbours). A
 * source is looked for in a few places and no more. Entries of connected sources stay. Others give way: those with a
 * full bucket first, as nothing is lost with them, then those nearest to it, so that newcomers push each other out
 * rather than one who is being held back. A newcomer for whom nobody gives way is counted in a shared entry, with all
 * others of its hash there: it may be shed too early, never too late.
 *
 * A refused connection costs the service no token: else a source over its own limit would use up the others' rate.
 *
 * Thread: each worker's loop; limits_move() any; limits_init() and limits_forget() the supervisor's main thread. */
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

#include "siphash.h"

#define SOURCES       4096 /* entries; a power of two */
#define SHARED        4096 /* entries behind them, for those who find no place; a power of two */
#define ENTRIES       (SOURCES + SHARED)
#define PROBES        16 /* places where a source may be */
#define SLOTS         COUNTERS_SLOTS
#define PLACES        (1 << 20) /* connections at once, of all workers; whoever comes when all are taken is shed */
#define WAIT_MAX_NS   HARK_S
#define WAIT_MIN_NS   HARK_MS
#define WAIT_USUAL_NS (10 * HARK_MS) /* at least, where the bucket can gather what comes meanwhile */
#define FULL_NS       (50 * HARK_MS) /* at max_conns: another worker's connection may end, which nobody tells us of */
#define LOAD_NS       HARK_S         /* between looks at the load */
#define EPSILON       1e-6           /* of a token: what adding up fractions may have lost */

enum kind { FREE = 0, IPV4, IPV6, UID, NAMED, SESSIONS = 8 /* beside one of them */ };

struct key {
	uint64_t kind; /* enum kind; written last, so that a half-written entry is a free one */
	uint64_t hi, lo;
};

struct bucket {
	double tokens;
	int64_t at; /* when that was so */
};

struct source {
	struct key key; /* unused in a shared entry */
	struct bucket bucket;
	uint32_t conns; /* a sum: of the places that are counted here */
};

/* A connection's. Numbers begin with 1, so that memory that nobody has touched is free places without a list. */
struct place {
	uint32_t owner; /* 1 + its worker's slot; 0: free. Written last when it is taken, first when it is given back */
	uint32_t at;    /* 1 + the entry where it counts, 0: in none; of a free one: the next free one, 0: none */
};

struct slot {
	uint64_t serial; /* of the worker that has it; 0: of none */
	bool reserved;   /* limits_pace() said yes, and nothing was taken yet */
	int8_t holding;  /* the HELD_ counter of its last answer; 0: it was not held */
};

/* What workers share. Pointers and sizes are not in it: a worker that has been taken over must not lead the supervisor
 * anywhere. */
struct limits_state {
	pthread_mutex_t lock;
	uint64_t seed[2]; /* constant, and the same in all workers */

	/* Guarded by lock. */
	struct bucket bucket;
	struct slot slots[SLOTS];
	uint64_t serial;       /* the last worker's */
	uint32_t free, places; /* the first free place, 0: none in the list; places that were ever taken */

	/* Atomic. seq_cst: a slot's mark is there before any_dead tells of one. */
	atomic_bool dead[SLOTS];
	atomic_bool any_dead;
	_Atomic int64_t load_at; /* relaxed: who moves it looks */
	atomic_bool load_high;   /* relaxed */
};

/* Constant from limits_new() on, and each process's own. */
struct limits {
	struct limits_state *m;
	struct source *sources; /* ENTRIES of them */
	struct place *places;   /* PLACES of them: those that were never taken cost no memory */
	bool by_source;         /* the next two, or rate_per_source */
	unsigned max_per_source, max_sessions, max_conns;
	int v4_bits, v6_bits;
	struct config_rate rate, rate_per_source;
	double max_load;
};

static_assert((SOURCES & (SOURCES - 1)) == 0 && (SHARED & (SHARED - 1)) == 0, "places are cut out of the hash");
static_assert(COUNTERS <= INT8_MAX, "a slot tells by which it is held");

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
	struct limits_state *m = l->m;
	if (m->places > PLACES)
		m->places = PLACES;
	for (int i = 0; i < ENTRIES; i++)
		l->sources[i].conns = 0;
	m->free = 0;
	for (uint32_t n = m->places; n > 0; n--) {
		struct place *p = &l->places[n - 1];
		if (p->owner == 0) {
			p->at = m->free;
			m->free = n;
		} else if (p->at > 0 && p->at <= ENTRIES) {
			l->sources[p->at - 1].conns++;
		}
	}
}

/* Takes back what dead slots hold. Killed in between, it is done again: the marks go last. */
static void bury(struct limits *l)
{
	struct limits_state *m = l->m;
	bool dead[1 + SLOTS] = {false};    /* by a place's owner */
	atomic_store(&m->any_dead, false); /* before the looks: who marks another one meanwhile sets it again */
	for (int s = 0; s < SLOTS; s++)
		dead[1 + s] = atomic_load(&m->dead[s]);
	for (uint32_t n = 0; n < m->places && n < PLACES; n++)
		if (l->places[n].owner > SLOTS || dead[l->places[n].owner])
			l->places[n].owner = 0;
	for (int s = 0; s < SLOTS; s++) {
		if (!dead[1 + s])
			continue;
		m->slots[s] = (struct slot){0};
		between();
		atomic_store(&m->dead[s], false);
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
	const uint64_t *seed = l->m->seed, other[2] = {~seed[0], ~seed[1]};
	uint64_t name[sizeof e->addr / 8 + 1] = {0};
	if (hark_type(c) == SOCK_STREAM) {
		if (hark_peer_credentials(c, &who) < 0)
			return false;
		*k = (struct key){UID, 0, who.uid};
		return true;
	}
	memcpy(name, &e->addr, e->len < sizeof e->addr ? e->len : sizeof e->addr);
	*k = (struct key){NAMED, siphash(seed, name, sizeof name), siphash(other, name, sizeof name)};
	return true;
}

/* false: nothing that could be counted: a pipe, say. */
static bool key_of_peer(const struct limits *l, struct hark_conn *c, struct key *k)
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

/* Where sessions alone are limited, streams of the same source do not count. */
static bool key_of(const struct limits *l, struct hark_conn *c, struct key *k)
{
	if (!key_of_peer(l, c, k))
		return false;
	if (l->max_sessions > 0 && l->max_per_source == 0 && hark_type(c) == SOCK_DGRAM)
		k->kind |= SESSIONS;
	return true;
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
static struct source *source_of(struct limits *l, const struct key *k, uint64_t at, int64_t now)
{
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

/* ---- places ---------------------------------------------------------------------------------- */

/* A place that is free; 0: all are taken. */
static uint32_t free_place(struct limits *l)
{
	struct limits_state *m = l->m;
	if (m->free > PLACES || (m->free > 0 && l->places[m->free - 1].owner != 0))
		add_up(l); /* none of ours writes that */
	return m->free > 0 ? m->free : m->places < PLACES ? m->places + 1 : 0;
}

/* free_place()'s becomes the slot's, counted in s, or in none. */
static void take_place(struct limits *l, uint32_t n, int slot, struct source *s)
{
	struct place *p = &l->places[n - 1];
	if (n == l->m->free)
		l->m->free = p->at;
	else
		l->m->places = n;
	between();
	p->at = s != NULL ? (uint32_t)(s - l->sources) + 1 : 0;
	in_order();
	p->owner = (uint32_t)slot + 1;
	between();
	if (s != NULL)
		s->conns++;
}

static struct place *place_of(struct limits *l, int ticket, int slot)
{
	struct place *p = ticket > 0 && ticket <= PLACES ? &l->places[ticket - 1] : NULL;
	return p != NULL && p->owner == (uint32_t)slot + 1 ? p : NULL;
}

/* Where a place counts; NULL: nowhere. */
static struct source *source_at(struct limits *l, uint32_t at)
{
	return at > 0 && at <= ENTRIES ? &l->sources[at - 1] : NULL;
}

static void count_out(struct source *s)
{
	if (s != NULL && s->conns > 0)
		s->conns--;
}

static void give_place(struct limits *l, int ticket, int slot)
{
	struct place *p = place_of(l, ticket, slot);
	if (p == NULL)
		return;
	struct source *s = source_at(l, p->at);
	p->owner = 0;
	between();
	p->at = l->m->free;
	l->m->free = (uint32_t)ticket;
	between();
	count_out(s);
}

/* Killed in between, the place counts in one of the two: whichever it names. */
static void move_place(struct limits *l, struct place *p, struct source *to)
{
	struct source *from = source_at(l, p->at);
	if (to != NULL)
		to->conns++;
	between();
	p->at = to != NULL ? (uint32_t)(to - l->sources) + 1 : 0;
	between();
	count_out(from);
}

/* ---- what a worker asks ---------------------------------------------------------------------- */

/* Places that others have reserved are as good as taken. */
static unsigned reserved(const struct limits *l, const struct counters *c)
{
	unsigned n = 0;
	for (int i = 0; i < counters_slots(c); i++)
		n += l->m->slots[i].reserved;
	return n;
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

/* 0: go on; else for how long not, and why. */
static int64_t hold(struct limits *l, const struct counters *c, bool high, int64_t now, enum counter *why)
{
	unsigned others = reserved(l, c);
	double wanted = 1.0 + others;
	*why = HELD_LOAD;
	if (high)
		return LOAD_NS;
	*why = HELD_MAX_CONNS;
	if (l->max_conns > 0 && counters_now(c) + others >= l->max_conns)
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
	enum counter why;
	bool begins = false;
	if (l == NULL)
		return 0;
	int64_t now = limits_world.now();
	bool high = load_is_high(l, now);
	if (!lock(l))
		return WAIT_MAX_NS;
	struct slot *s = &l->m->slots[w->slot];
	int64_t ns = s->reserved ? 0 : hold(l, w->counters, high, now, &why);
	if (ns == 0) {
		s->reserved = true;
		between();
		s->holding = 0;
	} else {
		begins = s->holding != (int8_t)why;
		s->holding = (int8_t)why;
	}
	bool nobody = ns > 0 && why != HELD_MAX_CONNS && counters_slot_now(w->counters, w->slot) == 0;
	unlock(l);
	if (nobody && hark_drain_deadline() != HARK_FOREVER)
		hark_drain(0); /* a drain waits for who is connected, not for a rate's next token */
	if (begins)
		counters_add(w->counters, why, 1);
	return ns;
}

/* How many the source may have at once; 0: any number. */
static unsigned most_of(const struct limits *l, const struct key *k, enum counter *why)
{
	*why = k->kind & SESSIONS ? REFUSED_SESSIONS : REFUSED_PER_SOURCE;
	return k->kind & SESSIONS ? l->max_sessions : l->max_per_source;
}

/* Where another connection of that source is to be counted, a token of its rate taken; NULL and why: it is over a
 * limit. counted: where this connection counts already, so that it is no other one; NULL: nowhere. */
static struct source *ask_source(struct limits *l, const struct key *k, struct source *counted, int64_t now,
                                 enum counter *why)
{
	unsigned most = most_of(l, k, why);
	uint64_t at = siphash(l->m->seed, k, sizeof *k);
	struct source *own = source_of(l, k, at, now), *shared = &l->sources[SOURCES + (at >> 32) % SHARED];
	struct source *s = own != NULL ? own : shared;
	if (counted != NULL && (counted == own || counted == shared))
		return counted;
	/* It may have found no place when it came before. */
	if (most > 0 && (own != NULL ? own->conns : 0) + shared->conns >= most)
		return NULL;
	*why = REFUSED_RATE_PER_SOURCE;
	if (l->rate_per_source.events > 0) {
		refill(&s->bucket, &l->rate_per_source, now);
		if (!has(&s->bucket, 1))
			return NULL;
		s->bucket.tokens -= 1;
	}
	return s;
}

/* k NULL: counted in no source. A ticket; 0 and why: refused. */
static uint32_t take_of_source(struct limits *l, const struct key *k, int slot, int64_t now, enum counter *why)
{
	struct source *s = NULL;
	uint32_t n = free_place(l);
	*why = REFUSED_PER_SOURCE;
	if (n == 0 || (k != NULL && (s = ask_source(l, k, NULL, now, why)) == NULL))
		return 0;
	take_place(l, n, slot, s);
	return n;
}

static void take_token(struct limits *l, int64_t now)
{
	if (l->rate.events <= 0)
		return;
	refill(&l->m->bucket, &l->rate, now);
	l->m->bucket.tokens -= 1;
}

static void count_now(const struct limits_worker *w, int n)
{
	atomic_fetch_add_explicit(&w->counters->slots[w->slot].now, (uint32_t)n, memory_order_relaxed);
}

enum source_kind { SOURCE_NONE, SOURCE_KEY, SOURCE_LATER };

/* A ticket, or minus the counter that says why not. */
static int admit(const struct limits_worker *w, enum source_kind kind, const struct key *k)
{
	struct limits *l = w->limits;
	int64_t now = limits_world.now();
	enum counter why;
	uint32_t ticket = 0;
	if (kind != SOURCE_NONE)
		ticket = take_of_source(l, kind == SOURCE_KEY ? k : NULL, w->slot, now, &why);
	l->m->slots[w->slot].reserved = false;
	if (kind != SOURCE_NONE && ticket == 0)
		return -(int)why;
	take_token(l, now);
	between();
	count_now(w, 1); /* with the lock: the place that was reserved is taken in one step */
	return (int)ticket;
}

static int ask_admit(struct limits_worker *w, enum source_kind kind, const struct key *k)
{
	struct limits *l = w->limits;
	if (l == NULL || !lock(l)) {
		count_now(w, 1);
		return 0;
	}
	int ticket = admit(w, kind, k);
	unlock(l);
	if (ticket < 0)
		counters_add(w->counters, (enum counter) - ticket, 1);
	return ticket;
}

int limits_admit(struct hark_conn *c, void *limits_worker)
{
	struct limits_worker *w = limits_worker;
	struct key k;
	bool keyed = w->limits != NULL && w->limits->by_source && key_of(w->limits, c, &k);
	return ask_admit(w, keyed ? SOURCE_KEY : SOURCE_NONE, &k);
}

int limits_admit_later(void *limits_worker)
{
	struct limits_worker *w = limits_worker;
	bool by_source = w->limits != NULL && w->limits->by_source;
	return ask_admit(w, by_source ? SOURCE_LATER : SOURCE_NONE, NULL);
}

/* k NULL: to no source. */
static int move(const struct limits_worker *w, int ticket, const struct key *k)
{
	struct limits *l = w->limits;
	struct source *to = NULL;
	enum counter why;
	if (w->serial == 0 || l->m->slots[w->slot].serial != w->serial)
		return -ECANCELED;
	struct place *p = place_of(l, ticket, w->slot);
	if (p == NULL)
		return (int)REFUSED_PER_SOURCE; /* it could not be counted */
	struct source *from = source_at(l, p->at);
	if (k != NULL && (to = ask_source(l, k, from, limits_world.now(), &why)) == NULL)
		return (int)why;
	if (to != from)
		move_place(l, p, to);
	return 0;
}

int limits_move(struct hark_conn *c, int ticket, const struct limits_worker *w)
{
	struct limits *l = w->limits;
	struct key k;
	if (l == NULL || !l->by_source)
		return 0;
	bool keyed = key_of(l, c, &k);
	if (!lock(l))
		return -ECANCELED;
	int r = move(w, ticket, keyed ? &k : NULL);
	unlock(l);
	return r;
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
	if (ticket < 0)
		l->m->slots[slot].reserved = false;
	else
		give_place(l, ticket, slot);
}

void limits_leave(int ticket, void *limits_worker)
{
	struct limits_worker *w = limits_worker;
	bool locked = w->limits != NULL && ticket != 0 && lock(w->limits);
	if (locked)
		leave(w->limits, w->slot, ticket);
	if (ticket >= 0)
		count_now(w, -1); /* last: who gets the place finds the source's free, too */
	if (locked)
		unlock(w->limits);
}

void limits_join(struct limits_worker *w)
{
	struct limits *l = w->limits;
	if (l == NULL || !lock(l))
		return;
	w->serial = ++l->m->serial;
	l->m->slots[w->slot].serial = w->serial;
	unlock(l);
}

void limits_forget(struct limits_state *m, int slot)
{
	if (slot < 0 || slot >= SLOTS)
		return;
	atomic_store(&m->dead[slot], true);
	atomic_store(&m->any_dead, true);
}

/* ---- beginning and end ----------------------------------------------------------------------- */

static size_t aligned(size_t n)
{
	return (n + 63) / 64 * 64;
}

static size_t sources_at(void)
{
	return aligned(sizeof(struct limits_state));
}

static size_t places_at(void)
{
	return sources_at() + aligned(ENTRIES * sizeof(struct source));
}

size_t limits_bytes(bool tables)
{
	return tables ? places_at() + PLACES * sizeof(struct place) : sources_at();
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

/* Empty buckets that were never looked at fill up at the first look. */
int limits_init(struct limits_state *m)
{
	/* Early in a system's life there may be no randomness yet: the clock and the mapping's place then make do. */
	if (getrandom(m->seed, sizeof m->seed, GRND_NONBLOCK) != (ssize_t)sizeof m->seed)
		m->seed[0] = (uint64_t)hark_now(), m->seed[1] = (uint64_t)(uintptr_t)m;
	atomic_store(&m->load_at, -LOAD_NS);
	return init_lock(&m->lock);
}

/* Whether its datagrams are sessions, and their number is limited. */
static bool limits_sessions(const struct config_service *s)
{
	bool datagrams = false;
	for (size_t i = 0; i < s->listen.n; i++) /* of fd:3 it is not known */
		datagrams = datagrams || strncmp(s->listen.word[i], "udp", 3) == 0 ||
		            strncmp(s->listen.word[i], "unixgram", 8) == 0 || strncmp(s->listen.word[i], "fd:", 3) == 0;
	return datagrams && s->max_sessions > 0 && s->box != NULL && s->box->sessions && !s->wait;
}

static bool is_by_source(const struct config_service *s)
{
	return s->max_per_source > 0 || sane(s->rate_per_source).events > 0 || limits_sessions(s);
}

bool limits_any(const struct config_service *s)
{
	return is_by_source(s) || s->max_conns > 0 || sane(s->rate).events > 0 || s->max_load > 0;
}

int limits_new(const struct config_service *s, struct limits_state *m, struct limits **out)
{
	*out = NULL;
	if (!limits_any(s))
		return 0;
	struct limits *l = calloc(1, sizeof *l);
	if (l == NULL)
		return -ENOMEM;
	*l = (struct limits){
		.m = m,
		.sources = (struct source *)((char *)m + sources_at()),
		.places = (struct place *)((char *)m + places_at()),
		.by_source = is_by_source(s),
		.max_conns = s->max_conns > 0 ? (unsigned)s->max_conns : 0,
		.max_sessions = limits_sessions(s) ? (unsigned)s->max_sessions : 0,
		.max_per_source = s->max_per_source > 0 ? (unsigned)s->max_per_source : 0,
		.v4_bits = s->source_v4_bits > 0 ? s->source_v4_bits : 32,
		.v6_bits = s->source_v6_bits > 0 ? s->source_v6_bits : 64,
		.rate = sane(s->rate),
		.rate_per_source = sane(s->rate_per_source),
		.max_load = s->max_load,
	};
	*out = l;
	return 0;
}
