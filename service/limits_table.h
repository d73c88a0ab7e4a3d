/* limits_table.h — what limiter.c counts in, by itself: places, sources, and the lock over them, in memory that a
 * service's workers share. For limiter.c alone; limits_table.c says how it holds. With the lock, all but the first. */
#ifndef LIMITS_TABLE_H
#define LIMITS_TABLE_H

#include <pthread.h>
#include <stdatomic.h>

#include "limiter.h"

#define SOURCES 4096 /* entries; a power of two */
#define SHARED  4096 /* entries behind them, for those who find no place; a power of two */
#define ENTRIES (SOURCES + SHARED)
#define SLOTS   COUNTERS_SLOTS
#define LOAD_NS HARK_S    /* between looks at the load */
#define PLACES  (1 << 20) /* connections at once, of all workers; whoever comes when all are taken is shed */

#define SHAKES (UINT32_C(1) << 31) /* in a place: its TLS handshake is under way */

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
	/* 1 + the entry where it counts, 0: in none, and SHAKES; of a free one: the next free one, 0: none. */
	uint32_t at;
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
	uint32_t shakes;       /* a sum: of the places */

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
	unsigned max_per_source, max_sessions, max_conns, max_handshakes;
	int v4_bits, v6_bits;
	struct config_rate rate, rate_per_source;
	double max_load;
};

/* False: it cannot be had. Whoever gets it after a death puts in order what was left. */
bool table_lock(struct limits *l);
void table_unlock(struct limits *l);

/* Between two steps of a change: a kill may come here. */
void table_between(void);

void bucket_refill(struct bucket *b, const struct config_rate *r, int64_t now);
bool bucket_has(const struct bucket *b, double tokens);

/* The entry of that source, whose hash is at; made if there is room. NULL: all its entries are connected sources'. */
struct source *source_find(struct limits *l, const struct key *k, uint64_t at, int64_t now);

/* A place that is free: its ticket; 0: all are taken. */
uint32_t place_free(struct limits *l);

/* place_free()'s becomes the slot's, counted in s, or in none. */
void place_take(struct limits *l, uint32_t ticket, int slot, struct source *s);

/* NULL: no place of that slot. */
struct place *place_of(struct limits *l, int ticket, int slot);

/* Where it counts; NULL: nowhere. */
struct source *place_source(struct limits *l, const struct place *p);

void place_move(struct limits *l, struct place *p, struct source *to);
void place_give(struct limits *l, int ticket, int slot);

/* Where the tables lie in a state's memory. */
struct source *table_sources(struct limits_state *m);
struct place *table_places(struct limits_state *m);

#endif
