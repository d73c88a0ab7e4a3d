/* test_heap.c — the timers' heap against a model, and out of memory. */
#include "net_support.h"

#include "base/heap.h"
#include "faults.h"

FAULT_NULL(realloc, (void *old, size_t n), (old, n))

#define NODES 300

static struct hark__heap heap;
static struct hark__heap_node nodes[NODES];
static int64_t keys[NODES]; /* the model */
static bool in[NODES];

static int least_of_model(void)
{
	int best = -1;
	for (int i = 0; i < NODES; i++)
		if (in[i] && (best < 0 || keys[i] < keys[best]))
			best = i;
	return best;
}

static void check_against_model(void)
{
	int64_t key = -77;
	int want = least_of_model();
	struct hark__heap_node *got = hark__heap_least(&heap, &key);
	if (want < 0) {
		assert_null(got);
		assert_int_equal(key, -77);
		return;
	}
	assert_non_null(got);
	assert_int_equal(key, keys[want]);
	assert_true(in[got - nodes]);
	assert_int_equal(keys[got - nodes], keys[want]);
}

static void random_operations_agree_with_a_model(void **state)
{
	unsigned seed = 42;
	(void)state;
	for (int step = 0; step < 60000; step++) {
		int i = (int)((unsigned)rand_r(&seed) % NODES);
		int range = step % 3000 < 1500 ? 50 : 1000000; /* many equal keys, and few */
		int what = rand_r(&seed) % 10;
		int64_t key;
		struct hark__heap_node *least;
		if (what < 5) {
			keys[i] = rand_r(&seed) % range;
			assert_int_equal(hark__heap_set(&heap, &nodes[i], keys[i]), 0);
			in[i] = true;
		} else if (what < 8) {
			hark__heap_remove(&heap, &nodes[i]); /* often one that is not in */
			in[i] = false;
		} else if ((least = hark__heap_least(&heap, &key)) != NULL) {
			hark__heap_remove(&heap, least);
			in[least - nodes] = false;
		}
		assert_int_equal(nodes[i].place != 0, in[i]);
		if (step % 7 == 0)
			check_against_model();
	}
	int64_t last = INT64_MIN, key;
	struct hark__heap_node *n;
	while ((n = hark__heap_least(&heap, &key)) != NULL) { /* empties in order */
		assert_true(key >= last);
		last = key;
		hark__heap_remove(&heap, n);
		in[n - nodes] = false;
	}
	assert_int_equal(least_of_model(), -1);
	hark__heap_done(&heap);
}

static void without_memory_what_was_in_can_still_be_moved(void **state)
{
	struct hark__heap h = {0};
	struct hark__heap_node many[65] = {{0}};
	int64_t key;
	(void)state;
	for (int i = 0; i < 64; i++)
		assert_int_equal(hark__heap_set(&h, &many[i], i), 0);
	fault_install_realloc();
	fault_countdown = 1;
	assert_int_equal(hark__heap_set(&h, &many[64], -1), -ENOMEM);
	fault_remove_realloc();
	assert_int_equal(many[64].place, 0);
	assert_int_equal(hark__heap_set(&h, &many[63], -5), 0);
	assert_ptr_equal(hark__heap_least(&h, &key), &many[63]);
	assert_int_equal(key, -5);
	assert_int_equal(hark__heap_set(&h, &many[64], INT64_MAX), 0);
	hark__heap_done(&h);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(random_operations_agree_with_a_model),
		cmocka_unit_test(without_memory_what_was_in_can_still_be_moved),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
