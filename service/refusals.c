/* refusals.c — see refusals.h. Of each reason one word tells the second and how many lines it had, so that whoever
 * counts up begins the next one as well. Relaxed: each word stands for itself. */
#include "refusals.h"

#include <stddef.h>

#include "hark.h"

static uint32_t second(void)
{
	return (uint32_t)(hark_now() / HARK_S);
}

/* COUNTERS: none. */
static enum counter counter_of(int reason)
{
	switch (reason) {
	case HARK_REFUSED_HELLO: return REFUSED_HELLO;
	case HARK_REFUSED_NAME: return REFUSED_NAME;
	default: return reason >= REFUSED_FIRST && reason <= REFUSED_LAST ? (enum counter)reason : COUNTERS;
	}
}

void refusals_count(struct counters *c, int reason)
{
	enum counter why = counter_of(reason);
	if (why != COUNTERS && why != (enum counter)reason)
		counters_add(c, why, 1);
}

bool refusals_worth_a_line(struct counters *c, int reason)
{
	enum counter why = counter_of(reason);
	if (why == COUNTERS)
		return true;
	uint32_t now = second();
	uint64_t next, told = atomic_load_explicit(&c->told[why], memory_order_relaxed);
	do {
		bool same = told >> 32 == now;
		if (same && (uint32_t)told >= REFUSALS_LINES) {
			atomic_fetch_add_explicit(&c->untold[why], 1, memory_order_relaxed);
			atomic_store_explicit(&c->any_untold, true, memory_order_relaxed);
			return false;
		}
		next = same ? told + 1 : (uint64_t)now << 32 | 1;
	} while (!atomic_compare_exchange_weak_explicit(&c->told[why], &told, next, memory_order_relaxed,
	                                                memory_order_relaxed));
	return true;
}

/* True if some are left. */
static bool tell_one(struct counters *c, enum counter why, bool all, void (*tell)(enum counter, uint64_t, void *),
                     void *arg)
{
	if (atomic_load_explicit(&c->untold[why], memory_order_relaxed) == 0)
		return false;
	if (!all && atomic_load_explicit(&c->told[why], memory_order_relaxed) >> 32 == second())
		return true;
	uint64_t n = atomic_exchange_explicit(&c->untold[why], 0, memory_order_relaxed);
	if (n > 0) /* else another process has told it */
		tell(why, n, arg);
	return false;
}

void refusals_untold(struct counters *c, bool all, void (*tell)(enum counter why, uint64_t n, void *arg), void *arg)
{
	if (!atomic_load_explicit(&c->any_untold, memory_order_relaxed))
		return;
	/* Before the looks: who keeps one meanwhile sets it again. */
	atomic_store_explicit(&c->any_untold, false, memory_order_relaxed);
	bool left = false;
	for (int i = REFUSED_FIRST; i <= REFUSED_LAST; i++)
		left |= tell_one(c, (enum counter)i, all, tell, arg);
	if (left)
		atomic_store_explicit(&c->any_untold, true, memory_order_relaxed);
}

const char *refusals_name(int reason)
{
	enum counter why = counter_of(reason);
	return why != COUNTERS ? counter_rows[why].name : NULL;
}
