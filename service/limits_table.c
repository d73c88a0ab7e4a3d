/* limits_table.c — see limits_table.h.
 *
 * One robust lock guards it all: it is held for a hash and a few sums, and never across a system call. A process
 * that is killed while it holds the lock leaves sums that are wrong, so sums are never the truth: the places are,
 * one for each connection that is counted by its source, and whoever gets the lock next adds them up again. A ticket
 * is the number of a place: where it counts may change (a forked child moves it, and may be killed doing so) while
 * the number that the worker gives back at the end stays. limits_forget() but marks the slot dead, and the next one
 * to have the lock does the rest: the supervisor, which is root, neither waits for a lock nor follows a pointer (a
 * robust lock is full of them) where a worker can write. A child that outlives its worker finds the slot another's.
 *
 * The table of sources is hashed with a secret (SipHash-2-4: who can choose addresses must not choose neighbours). A
 * source is looked for in a few places and no more. Entries of connected sources stay. Others give way: those with a
 * full bucket first, as nothing is lost with them, then those nearest to it, so that newcomers push each other out
 * rather than one who is being held back. A newcomer for whom nobody gives way is counted in a shared entry, with all
 * others of its hash there: it may be shed too early, never too late. */
#include "limits_table.h"

#include <assert.h>
#include <float.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/random.h>

#include "shared_lock.h"

#define PROBES  16   /* entries where a source may be */
#define EPSILON 1e-6 /* of a token: what adding up fractions may have lost */

static_assert((SOURCES & (SOURCES - 1)) == 0 && (SHARED & (SHARED - 1)) == 0, "entries are cut out of the hash");

/* ---- token buckets --------------------------------------------------------------------------- */

void bucket_refill(struct bucket *b, const struct config_rate *r, int64_t now)
{
	if (now <= b->at) /* another worker has looked at the clock since */
		return;
	b->tokens += (double)(now - b->at) * r->events / (double)r->period_ns;
	if (!(b->tokens < r->burst))
		b->tokens = r->burst;
	b->at = now;
}

bool bucket_has(const struct bucket *b, double tokens)
{
	return b->tokens >= tokens - EPSILON;
}

/* ---- the lock, and what holds when its holder is dead ------------------------------------------- */

/* A kill may come between any two instructions, so the order of what is written matters even under the lock; the
 * compiler is told. */
static void in_order(void)
{
	atomic_signal_fence(memory_order_seq_cst);
}

void table_between(void)
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
	m->free = m->shakes = 0;
	for (uint32_t n = m->places; n > 0; n--) {
		struct place *p = &l->places[n - 1];
		if (p->owner == 0) {
			p->at = m->free;
			m->free = n;
			continue;
		}
		struct source *s = place_source(l, p);
		m->shakes += (p->at & SHAKES) != 0;
		if (s != NULL)
			s->conns++;
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
		table_between();
		atomic_store(&m->dead[s], false);
	}
	add_up(l);
}

bool table_lock(struct limits *l)
{
	int r = shared_lock(&l->m->lock);
	if (r < 0)
		return false;
	if (r > 0)
		atomic_store(&l->m->any_dead, true); /* the holder may have been about to bury */
	if (atomic_load(&l->m->any_dead))
		bury(l);
	return true;
}

void table_unlock(struct limits *l)
{
	shared_unlock(&l->m->lock);
}

/* ---- sources --------------------------------------------------------------------------------- */

/* How little would be lost with the entry: 3: it is free, 2: idle with a full bucket, below: as full as it is. */
static double worthless(const struct limits *l, struct source *s, int64_t now)
{
	if (s->key.kind == FREE)
		return 3;
	if (l->rate_per_source.events <= 0)
		return 2;
	bucket_refill(&s->bucket, &l->rate_per_source, now);
	return bucket_has(&s->bucket, l->rate_per_source.burst) ? 2 : s->bucket.tokens / l->rate_per_source.burst;
}

static void begin(const struct limits *l, struct source *s, const struct key *k, int64_t now)
{
	s->key.kind = FREE;
	table_between();
	s->key.hi = k->hi;
	s->key.lo = k->lo;
	s->bucket = (struct bucket){l->rate_per_source.burst, now};
	table_between();
	s->key.kind = k->kind;
}

struct source *source_find(struct limits *l, const struct key *k, uint64_t at, int64_t now)
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

uint32_t place_free(struct limits *l)
{
	struct limits_state *m = l->m;
	if (m->free > PLACES || (m->free > 0 && l->places[m->free - 1].owner != 0))
		add_up(l); /* none of ours writes that */
	return m->free > 0 ? m->free : m->places < PLACES ? m->places + 1 : 0;
}

void place_take(struct limits *l, uint32_t n, int slot, struct source *s)
{
	struct place *p = &l->places[n - 1];
	if (n == l->m->free)
		l->m->free = p->at;
	else
		l->m->places = n;
	table_between();
	p->at = s != NULL ? (uint32_t)(s - l->sources) + 1 : 0;
	in_order();
	p->owner = (uint32_t)slot + 1;
	table_between();
	if (s != NULL)
		s->conns++;
}

struct place *place_of(struct limits *l, int ticket, int slot)
{
	struct place *p = ticket > 0 && ticket <= PLACES ? &l->places[ticket - 1] : NULL;
	return p != NULL && p->owner == (uint32_t)slot + 1 ? p : NULL;
}

struct source *place_source(struct limits *l, const struct place *p)
{
	uint32_t at = p->at & ~SHAKES;
	return at > 0 && at <= ENTRIES ? &l->sources[at - 1] : NULL;
}

static void leave_source(struct source *s)
{
	if (s != NULL && s->conns > 0)
		s->conns--;
}

void place_give(struct limits *l, int ticket, int slot)
{
	struct place *p = place_of(l, ticket, slot);
	if (p == NULL)
		return;
	struct source *s = place_source(l, p);
	bool shakes = (p->at & SHAKES) != 0;
	p->owner = 0;
	table_between();
	if (shakes && l->m->shakes > 0)
		l->m->shakes--;
	p->at = l->m->free;
	l->m->free = (uint32_t)ticket;
	table_between();
	leave_source(s);
}

/* Killed in between, the place counts in one of the two: whichever it names. */
void place_move(struct limits *l, struct place *p, struct source *to)
{
	struct source *from = place_source(l, p);
	if (to != NULL)
		to->conns++;
	table_between();
	p->at = (p->at & SHAKES) | (to != NULL ? (uint32_t)(to - l->sources) + 1 : 0);
	table_between();
	leave_source(from);
}

/* ---- the whole ------------------------------------------------------------------------------- */

void limits_forget(struct limits_state *m, int slot)
{
	if (slot < 0 || slot >= SLOTS)
		return;
	atomic_store(&m->dead[slot], true);
	atomic_store(&m->any_dead, true);
}

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

/* Empty buckets that were never looked at fill up at the first look. */
int limits_init(struct limits_state *m)
{
	/* Early in a system's life there may be no randomness yet: the clock and the mapping's place then make do. */
	if (getrandom(m->seed, sizeof m->seed, GRND_NONBLOCK) != (ssize_t)sizeof m->seed)
		m->seed[0] = (uint64_t)hark_now(), m->seed[1] = (uint64_t)(uintptr_t)m;
	atomic_store(&m->load_at, -LOAD_NS);
	return shared_lock_init(&m->lock);
}

struct source *table_sources(struct limits_state *m)
{
	return (struct source *)((char *)m + sources_at());
}

struct place *table_places(struct limits_state *m)
{
	return (struct place *)((char *)m + places_at());
}
