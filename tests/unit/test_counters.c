/* test_counters.c — a service's counters: one table of what is counted, slots taken once, bounds on what workers may
 * have written. */
#include "net_support.h"

#include "../../service/counters.h"

static struct counters c;

static void each_row_has_a_name_of_its_own_and_groups_stand_together(void **state)
{
	(void)state;
	for (int i = 0; i < COUNTERS; i++) {
		const struct counter_row *row = &counter_rows[i];
		assert_non_null(row->name);
		assert_non_null(row->help);
		for (int k = 0; k < i; k++) {
			const struct counter_row *o = &counter_rows[k];
			bool same_group = row->group == o->group ||
			                  (row->group != NULL && o->group != NULL && strcmp(row->group, o->group) == 0);
			if (same_group)
				assert_string_not_equal(row->name, o->name);
			if (row->group != NULL && same_group) {
				assert_non_null(counter_rows[k + 1].group);
				assert_string_equal(counter_rows[k + 1].group, row->group);
			}
		}
	}
}

static void slots_are_taken_once_and_given_back(void **state)
{
	(void)state;
	memset(&c, 0, sizeof c);
	for (int i = 0; i < COUNTERS_SLOTS; i++) {
		assert_int_equal(counters_slot_take(&c), i);
		assert_int_equal(counters_slots(&c), i + 1);
	}
	assert_int_equal(counters_slot_take(&c), -1);
	atomic_store(&c.slots[3].now, 5);
	atomic_store(&c.slots[9].now, 2);
	assert_int_equal(counters_now(&c), 7);
	assert_int_equal(counters_read(&c, COUNT_NOW), 7);
	counters_slot_clear(&c, 3);
	assert_int_equal(counters_now(&c), 2);
	assert_int_equal(counters_slot_take(&c), 3);
	counters_slot_clear(&c, -1);
	counters_slot_clear(&c, COUNTERS_SLOTS);
}

static void what_is_not_known_adds_nothing(void **state)
{
	(void)state;
	memset(&c, 0, sizeof c);
	counters_add(&c, COUNT_BYTES_IN, 7);
	counters_add(&c, COUNT_BYTES_IN, -1);
	assert_int_equal(counters_read(&c, COUNT_BYTES_IN), 7);
}

/* A worker that was taken over writes what it likes; JSON's integers end at 2^63 - 1. */
static void what_a_worker_writes_there_is_bounded(void **state)
{
	(void)state;
	memset(&c, 0xff, sizeof c);
	for (int i = 0; i < COUNTERS; i++)
		assert_true(counters_read(&c, (enum counter)i) <= INT64_MAX);
	assert_int_equal(counters_slots(&c), COUNTERS_SLOTS);
	assert_int_equal(counters_slot_now(&c, 0), INT32_MAX);
	assert_true(counters_now(&c) == (uint64_t)COUNTERS_SLOTS * INT32_MAX);
	assert_int_equal(counters_slot_take(&c), -1);
	counters_slot_clear(&c, 1);
	assert_int_equal(counters_slot_take(&c), 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(each_row_has_a_name_of_its_own_and_groups_stand_together),
		cmocka_unit_test(slots_are_taken_once_and_given_back),
		cmocka_unit_test(what_is_not_known_adds_nothing),
		cmocka_unit_test(what_a_worker_writes_there_is_bounded),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
