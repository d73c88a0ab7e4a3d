/* on_loop.h — runs a test's body as the first fiber of a loop, once for each engine that works here. */
#ifndef ON_LOOP_H
#define ON_LOOP_H

#include "net_support.h"

#include "loop/fiber.h"

/* Returns how many engines there were. In the test's own process, or (CHECK) in a child. */
static inline int on_each_engine(void (*body)(void))
{
	static const char *const engines[] = {"epoll", "uring", "poll"};
	int ran = 0;
	for (int i = 0; i < 3; i++) {
		struct hark__loop *l;
		int rc = hark__loop_open(engines[i], 0, &l);
		if (rc < 0) {
			(void)fprintf(stderr, "skipped in part: engine %s: %s\n", engines[i], hark_strerror(rc));
			continue;
		}
		body();
		hark__loop_close(l);
		ran++;
	}
	return ran;
}

struct ticker {
	struct hark_scope scope;
	int ticks; /* of 5 ms */
};

static inline void tick(void *arg)
{
	struct ticker *t = arg;
	while (hark_sleep(5 * HARK_MS) == 0)
		t->ticks++;
}

/* A fiber beside, that shows whether the loop was stalled. */
static inline int ticker_start(struct ticker *t)
{
	t->ticks = 0;
	hark_scope_open(&t->scope);
	return hark_go(&t->scope, "ticker", tick, t);
}

static inline int ticker_stop(struct ticker *t)
{
	hark_scope_close(&t->scope);
	return t->ticks;
}

#endif
