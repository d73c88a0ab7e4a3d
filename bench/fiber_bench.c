/* fiber_bench.c — what a fiber costs: one switch, and one whole life from a warm pool.
 *
 * switch_ns: two fibers yield to each other; the time of a yield is one switch with its share of the queue and of
 * looking for events. go_finish_ns: hark_go() of an empty function, and its end, many to a batch from stacks that were
 * used before. Prints "name value unit" lines: the least of ROUNDS rounds, which is what the code costs when nothing
 * else interferes, and the median. */
#include <stdio.h>
#include <stdlib.h>

#include "hark.h"

#define YIELDS 2000000
#define LIVES  2000000
#define BATCH  100
#define ROUNDS 15

static void yielder(void *arg)
{
	for (int i = *(int *)arg; i > 0; i--)
		(void)hark_yield();
}

static double switch_round(void)
{
	struct hark_scope s;
	int each = YIELDS / 2;
	hark_scope_open(&s);
	int64_t begun = hark_now();
	if (hark_go(&s, "a", yielder, &each) < 0 || hark_go(&s, "b", yielder, &each) < 0)
		exit(1);
	(void)hark_join(&s, HARK_FOREVER);
	int64_t ended = hark_now();
	hark_scope_close(&s);
	return (double)(ended - begun) / YIELDS;
}

static void nothing(void *arg)
{
	(void)arg;
}

static double life_round(void)
{
	struct hark_scope s;
	hark_scope_open(&s);
	int64_t begun = 0;
	for (int i = -BATCH; i < LIVES; i += BATCH) { /* the first batch warms the pool */
		if (i == 0)
			begun = hark_now();
		for (int k = 0; k < BATCH; k++)
			if (hark_go(&s, NULL, nothing, NULL) < 0)
				exit(1);
		(void)hark_join(&s, HARK_FOREVER);
	}
	int64_t ended = hark_now();
	hark_scope_close(&s);
	return (double)(ended - begun) / LIVES;
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

static void report(const char *name, double (*round)(void))
{
	double ns[ROUNDS];
	for (int i = 0; i < ROUNDS; i++)
		ns[i] = round();
	qsort(ns, ROUNDS, sizeof ns[0], compare);
	printf("%s %.2f ns\n%s_median %.2f ns\n", name, ns[0], name, ns[ROUNDS / 2]);
}

int main(void)
{
	report("switch", switch_round);
	report("go_finish", life_round);
	return 0;
}
