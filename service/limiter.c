/* limiter.c — see limiter.h: token buckets and sources, asked about in the table that a service's workers share
 * (limits_table.h). Connections are summed over the counters' slots each time they are asked for.
 *
 * A refused connection costs the service no token: else a source over its own limit would use up the others' rate.
 *
 * Thread: each worker's loop; limits_move() any; limits_init() and limits_forget() the supervisor's main thread. */
#include "limiter.h"

#include <assert.h>
#include <endian.h>
#include <errno.h>
#include <netinet/in.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysinfo.h>
#include <sys/un.h>
#include <time.h>

#include "limits_table.h"
#include "siphash.h"

#define WAIT_MAX_NS   HARK_S
#define WAIT_MIN_NS   HARK_MS
#define WAIT_USUAL_NS (10 * HARK_MS) /* at least, where the bucket can gather what comes meanwhile */
#define FULL_NS       (50 * HARK_MS) /* at max_conns: another worker's connection may end, which nobody tells us of */

static_assert(COUNTERS <= INT8_MAX, "a slot tells by which it is held");

static double load_average(void)
{
	struct sysinfo info; /* /proc may not be there: chroot */
	return sysinfo(&info) < 0 ? -1 : (double)info.loads[0] / (1 << SI_LOAD_SHIFT);
}

struct limits_world limits_world = {.now = hark_now, .load = load_average};

/* ---- token buckets --------------------------------------------------------------------------- */

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
	uint32_t v4;
	if (e->addr.ss_family == AF_INET) {
		memcpy(&four, &e->addr, sizeof four);
		*k = (struct key){IPV4, 0, upper_bits(ntohl(four.sin_addr.s_addr), l->v4_bits, 32)};
		return;
	}
	memcpy(&six, &e->addr, sizeof six);
	if (IN6_IS_ADDR_V4MAPPED(&six.sin6_addr)) { /* what a proxy may call it */
		memcpy(&v4, &six.sin6_addr.s6_addr[12], sizeof v4);
		*k = (struct key){IPV4, 0, upper_bits(ntohl(v4), l->v4_bits, 32)};
		return;
	}
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
	bucket_refill(&l->m->bucket, &l->rate, now);
	return bucket_has(&l->m->bucket, wanted) ? 0 : wait_for(&l->m->bucket, &l->rate, wanted);
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
	if (!table_lock(l))
		return WAIT_MAX_NS;
	struct slot *s = &l->m->slots[w->slot];
	int64_t ns = s->reserved ? 0 : hold(l, w->counters, high, now, &why);
	if (ns == 0) {
		s->reserved = true;
		table_between();
		s->holding = 0;
	} else {
		begins = s->holding != (int8_t)why;
		s->holding = (int8_t)why;
	}
	bool nobody = ns > 0 && why != HELD_MAX_CONNS && counters_slot_now(w->counters, w->slot) == 0;
	table_unlock(l);
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
	struct source *own = source_find(l, k, at, now), *shared = &l->sources[SOURCES + (at >> 32) % SHARED];
	struct source *s = own != NULL ? own : shared;
	if (counted != NULL && counted == own)
		return own;
	/* It may have found no place when it came before; nor counts one that is in there already for another. */
	if (most > 0 && (own != NULL ? own->conns : 0) + shared->conns - (counted == shared) >= most)
		return NULL;
	if (counted == s)
		return s;
	*why = REFUSED_RATE_PER_SOURCE;
	if (l->rate_per_source.events > 0) {
		bucket_refill(&s->bucket, &l->rate_per_source, now);
		if (!bucket_has(&s->bucket, 1))
			return NULL;
		s->bucket.tokens -= 1;
	}
	return s;
}

/* k NULL: counted in no source. A ticket; 0 and why: refused. */
static uint32_t take_of_source(struct limits *l, const struct key *k, int slot, int64_t now, enum counter *why)
{
	struct source *s = NULL;
	uint32_t n = place_free(l);
	*why = REFUSED_PER_SOURCE;
	if (n == 0 || (k != NULL && (s = ask_source(l, k, NULL, now, why)) == NULL))
		return 0;
	place_take(l, n, slot, s);
	return n;
}

/* n < 0: gives them back. */
static void take_tokens(struct limits *l, int64_t now, double n)
{
	struct bucket *b = &l->m->bucket;
	if (l->rate.events <= 0)
		return;
	bucket_refill(b, &l->rate, now);
	b->tokens -= n;
	if (b->tokens > l->rate.burst)
		b->tokens = l->rate.burst;
}

/* Side by side, here and below: a worker killed in between would be in one of the two alone. */
static void count_in(const struct limits_worker *w)
{
	counters_add(w->counters, COUNT_ACCEPTED, 1);
	atomic_fetch_add_explicit(&w->counters->slots[w->slot].now, 1, memory_order_relaxed);
}

/* Never below 0, whatever another process of the service has written there. */
static void count_out(const struct limits_worker *w)
{
	_Atomic uint32_t *now = &w->counters->slots[w->slot].now;
	counters_add(w->counters, COUNT_CLOSED, 1);
	if (atomic_fetch_sub_explicit(now, 1, memory_order_relaxed) == 0)
		atomic_fetch_add_explicit(now, 1, memory_order_relaxed);
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
	take_tokens(l, now, 1);
	table_between();
	count_in(w); /* with the lock: the place that was reserved is taken in one step */
	return (int)ticket;
}

static int ask_admit(struct limits_worker *w, enum source_kind kind, const struct key *k)
{
	struct limits *l = w->limits;
	if (l == NULL || !table_lock(l)) {
		count_in(w);
		return 0;
	}
	int ticket = admit(w, kind, k);
	table_unlock(l);
	if (ticket < 0)
		counters_add(w->counters, (enum counter) - ticket, 1);
	return ticket;
}

int limits_admit(struct hark_conn *c, void *limits_worker)
{
	struct limits_worker *w = limits_worker;
	const struct limits *l = w->limits;
	struct key k;
	bool keyed = l != NULL && l->by_source && key_of(l, c, &k);
	bool has_place = l != NULL && l->max_handshakes > 0;
	return ask_admit(w, keyed ? SOURCE_KEY : has_place ? SOURCE_LATER : SOURCE_NONE, &k);
}

int limits_admit_later(void *limits_worker)
{
	struct limits_worker *w = limits_worker;
	bool has_place = w->limits != NULL && (w->limits->by_source || w->limits->max_handshakes > 0);
	return ask_admit(w, has_place ? SOURCE_LATER : SOURCE_NONE, NULL);
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
	struct source *from = place_source(l, p);
	int64_t now = limits_world.now();
	if (k != NULL && (to = ask_source(l, k, from, now, &why)) == NULL) {
		take_tokens(l, now, -1);
		return (int)why;
	}
	if (to != from)
		place_move(l, p, to);
	return 0;
}

int limits_move(struct hark_conn *c, int ticket, const struct limits_worker *w)
{
	struct limits *l = w->limits;
	struct key k;
	if (l == NULL || !l->by_source)
		return 0;
	bool keyed = key_of(l, c, &k);
	if (!table_lock(l))
		return -ECANCELED;
	int r = move(w, ticket, keyed ? &k : NULL);
	table_unlock(l);
	return r;
}

/* The place of a connection that is served; NULL: it has none, or another worker has its slot by now. */
static struct place *served_place(const struct limits_worker *w, int ticket)
{
	struct limits *l = w->limits;
	bool lives = w->serial != 0 && l->m->slots[w->slot].serial == w->serial;
	return lives ? place_of(l, ticket, w->slot) : NULL;
}

int limits_handshake_begins(int ticket, const struct limits_worker *w)
{
	struct limits *l = w->limits;
	int r = 0;
	if (l == NULL || l->max_handshakes == 0)
		return 0;
	if (!table_lock(l))
		return -ECANCELED;
	struct place *p = served_place(w, ticket);
	if (p == NULL || l->m->shakes >= l->max_handshakes) {
		r = (int)REFUSED_HANDSHAKES;
	} else {
		p->at |= SHAKES;
		table_between();
		l->m->shakes++;
	}
	table_unlock(l);
	return r;
}

void limits_handshake_ended(int ticket, const struct limits_worker *w)
{
	struct limits *l = w->limits;
	if (l == NULL || l->max_handshakes == 0 || !table_lock(l))
		return;
	struct place *p = served_place(w, ticket);
	if (p != NULL && (p->at & SHAKES)) {
		p->at &= ~SHAKES;
		table_between();
		l->m->shakes -= l->m->shakes > 0;
	}
	table_unlock(l);
}

void limits_lend(void *limits_worker)
{
	const struct limits_worker *w = limits_worker;
	struct limits *l = w->limits;
	count_in(w);
	if (l == NULL || !table_lock(l))
		return;
	take_tokens(l, limits_world.now(), 1);
	table_unlock(l);
}

void limits_returned(void *limits_worker)
{
	count_out(limits_worker);
}

static void leave(struct limits *l, int slot, int ticket)
{
	if (ticket < 0)
		l->m->slots[slot].reserved = false;
	else
		place_give(l, ticket, slot);
}

void limits_leave(int ticket, void *limits_worker)
{
	struct limits_worker *w = limits_worker;
	bool locked = w->limits != NULL && ticket != 0 && table_lock(w->limits);
	if (locked)
		leave(w->limits, w->slot, ticket);
	if (ticket >= 0)
		count_out(w); /* last: who gets the place finds the source's free, too */
	if (locked)
		table_unlock(w->limits);
}

void limits_join(struct limits_worker *w)
{
	struct limits *l = w->limits;
	if (l == NULL || !table_lock(l))
		return;
	w->serial = ++l->m->serial;
	l->m->slots[w->slot].serial = w->serial;
	table_unlock(l);
}

/* ---- beginning and end ----------------------------------------------------------------------- */

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
	return is_by_source(s) || s->max_conns > 0 || sane(s->rate).events > 0 || s->max_load > 0 ||
	       s->max_handshakes > 0;
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
		.sources = table_sources(m),
		.places = table_places(m),
		.by_source = is_by_source(s),
		.max_conns = s->max_conns > 0 ? (unsigned)s->max_conns : 0,
		.max_sessions = limits_sessions(s) ? (unsigned)s->max_sessions : 0,
		.max_per_source = s->max_per_source > 0 ? (unsigned)s->max_per_source : 0,
		.max_handshakes = s->max_handshakes > 0 ? (unsigned)s->max_handshakes : 0,
		.v4_bits = s->source_v4_bits > 0 ? s->source_v4_bits : 32,
		.v6_bits = s->source_v6_bits > 0 ? s->source_v6_bits : 64,
		.rate = sane(s->rate),
		.rate_per_source = sane(s->rate_per_source),
		.max_load = s->max_load,
	};
	*out = l;
	return 0;
}
