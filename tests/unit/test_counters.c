/* test_counters.c — a service's counters: one table of what is counted, slots taken once, bounds on what workers may
 * have written. */
#include "net_support.h"

#include "../../service/counters.h"
#include "../../service/refusals.h"

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

static uint64_t told_more[COUNTERS];
static int tellings;

static void tell_more(enum counter why, uint64_t n, void *arg)
{
	assert_ptr_equal(arg, &c);
	told_more[why] += n;
	tellings++;
}

/* The second's end may come in between: what has no line is told then, and nothing twice. */
static void refusals_have_so_many_lines_a_second_and_the_others_are_told_together(void **state)
{
	(void)state;
	for (int fast = 0; fast < 3; fast++) {
		uint64_t lines[COUNTERS] = {0};
		memset(&c, 0, sizeof c);
		memset(told_more, 0, sizeof told_more);
		tellings = 0;
		int64_t began = hark_now() / HARK_S;
		for (int i = 0; i < 1000; i++) {
			lines[REFUSED_PER_SOURCE] += refusals_worth_a_line(&c, REFUSED_PER_SOURCE);
			lines[REFUSED_SESSIONS] += i % 2 == 0 && refusals_worth_a_line(&c, REFUSED_SESSIONS);
			refusals_untold(&c, false, tell_more, &c);
		}
		int64_t seconds = hark_now() / HARK_S - began + 1;
		assert_in_range(lines[REFUSED_PER_SOURCE], REFUSALS_LINES, seconds * REFUSALS_LINES);
		assert_in_range(tellings, 0, 2 * (seconds - 1));
		refusals_untold(&c, true, tell_more, &c);
		refusals_untold(&c, true, tell_more, &c);
		assert_in_range(tellings, 2, 2 * seconds);
		assert_int_equal(lines[REFUSED_PER_SOURCE] + told_more[REFUSED_PER_SOURCE], 1000);
		assert_int_equal(lines[REFUSED_SESSIONS] + told_more[REFUSED_SESSIONS], 500);
		assert_int_equal(told_more[REFUSED_RATE_PER_SOURCE], 0);
	}
}

static void the_next_second_has_lines_again_and_tells_what_had_none(void **state)
{
	(void)state;
	memset(&c, 0, sizeof c);
	memset(told_more, 0, sizeof told_more);
	while (refusals_worth_a_line(&c, REFUSED_PER_SOURCE))
		;
	int64_t until = hark_after(5 * HARK_S);
	while (told_more[REFUSED_PER_SOURCE] == 0 && hark_now() < until)
		refusals_untold(&c, false, tell_more, &c);
	assert_int_equal(told_more[REFUSED_PER_SOURCE], 1);
	assert_true(refusals_worth_a_line(&c, REFUSED_PER_SOURCE));
}

static void reasons_are_the_refusals_and_nothing_else(void **state)
{
	(void)state;
	for (int i = -1; i <= COUNTERS; i++) {
		bool is = i >= 0 && i < COUNTERS && counter_rows[i].group != NULL &&
		          strcmp(counter_rows[i].group, "refused") == 0;
		if (is)
			assert_string_equal(refusals_name(i), counter_rows[i].name);
		else
			assert_null(refusals_name(i));
	}
}

static void a_boxs_reason_is_counted_and_one_that_nobody_knows_writes_nowhere(void **state)
{
	static const int unknown[] = {-1, 0, COUNT_CLOSED, COUNTERS, HARK_REFUSED_HELLO - 1, 1 << 20, INT32_MAX};
	struct counters before;
	(void)state;
	memset(&c, 0, sizeof c);
	refusals_count(&c, HARK_REFUSED_HELLO);
	refusals_count(&c, HARK_REFUSED_NAME);
	refusals_count(&c, HARK_REFUSED_NAME);
	refusals_count(&c, REFUSED_PER_SOURCE); /* who refused has counted it */
	assert_int_equal(counters_read(&c, REFUSED_HELLO), 1);
	assert_int_equal(counters_read(&c, REFUSED_NAME), 2);
	assert_int_equal(counters_read(&c, REFUSED_PER_SOURCE), 0);
	assert_string_equal(refusals_name(HARK_REFUSED_NAME), "tls_name");
	for (int i = 0; i < REFUSALS_LINES; i++)
		(void)refusals_worth_a_line(&c, HARK_REFUSED_HELLO);
	assert_int_not_equal(c.told[REFUSED_HELLO], 0);
	memcpy(&before, &c, sizeof c);
	for (size_t i = 0; i < sizeof unknown / sizeof *unknown; i++) {
		refusals_count(&c, unknown[i]);
		assert_true(refusals_worth_a_line(&c, unknown[i]));
	}
	assert_memory_equal(&before, &c, sizeof c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(each_row_has_a_name_of_its_own_and_groups_stand_together),
		cmocka_unit_test(slots_are_taken_once_and_given_back),
		cmocka_unit_test(what_is_not_known_adds_nothing),
		cmocka_unit_test(what_a_worker_writes_there_is_bounded),
		cmocka_unit_test(refusals_have_so_many_lines_a_second_and_the_others_are_told_together),
		cmocka_unit_test(the_next_second_has_lines_again_and_tells_what_had_none),
		cmocka_unit_test(reasons_are_the_refusals_and_nothing_else),
		cmocka_unit_test(a_boxs_reason_is_counted_and_one_that_nobody_knows_writes_nowhere),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
