/* test_buffer.c — buffers against a model, across threads, and out of memory. */
#include "modes.h"

#include "base/buffer.h"
#include "faults.h"

FAULT_NULL(malloc, (size_t n), (n))

static void append(struct hark__buffer *b, size_t from, size_t n)
{
	assert_int_equal(hark__buffer_reserve(b, n), 0);
	assert_true(b->cap - b->tail >= n);
	pattern_fill(b->data + b->tail, from, n);
	b->tail += (uint32_t)n;
}

static void bytes_come_out_as_they_went_in(void **state)
{
	static char out[50000];
	struct hark__buffer b = {0};
	size_t in = 0, gone = 0;
	unsigned seed = 3;
	(void)state;
	for (int i = 0; i < 20000; i++) {
		size_t n = (size_t)rand_r(&seed) % (rand_r(&seed) % 50 == 0 ? 40000 : 900) + 1;
		if (rand_r(&seed) % 2 == 0) {
			append(&b, in, n);
			in += n;
		} else {
			size_t got = hark__buffer_take(&b, out, n);
			assert_int_equal(got, n < in - gone ? n : in - gone);
			assert_true(pattern_is(out, gone, got));
			gone += got;
		}
		assert_int_equal(hark__buffer_len(&b), in - gone);
		if (in == gone)
			assert_null(b.data); /* an empty one holds nothing */
	}
	hark__buffer_release(&b);
	assert_null(b.data);
	hark__buffer_release(&b);
	assert_int_equal(hark__buffer_take(&b, out, 10), 0);
}

static void the_common_size_is_taken_again(void **state)
{
	struct hark__buffer b = {0};
	(void)state;
	append(&b, 0, 10);
	assert_int_equal(b.cap, HARK__BUFFER_BYTES);
	char *at = b.data;
	hark__buffer_consume(&b, 10);
	fault_install_malloc();
	fault_countdown = 1; /* nothing has to be allocated */
	append(&b, 0, HARK__BUFFER_BYTES);
	assert_ptr_equal(b.data, at);
	assert_int_equal(fault_countdown, 1);
	assert_int_equal(hark__buffer_reserve(&b, 1), -ENOMEM); /* and here it has: nothing is lost by it */
	fault_remove_malloc();
	assert_true(pattern_is(hark__buffer_head(&b), 0, HARK__BUFFER_BYTES));
	assert_int_equal(hark__buffer_reserve(&b, UINT32_MAX), -ENOMEM);
	assert_int_equal(hark__buffer_len(&b), HARK__BUFFER_BYTES);
	hark__buffer_release(&b);
}

static void bulk_has_a_size_of_its_own_which_is_taken_again(void **state)
{
	struct hark__buffer b = {0};
	(void)state;
	append(&b, 0, HARK__BULK_BYTES);
	assert_int_equal(b.cap, HARK__BUFFER_WIDE);
	char *at = b.data;
	hark__buffer_release(&b);
	append(&b, 0, HARK__BUFFER_BYTES); /* the common size has its own */
	assert_int_equal(b.cap, HARK__BUFFER_BYTES);
	append(&b, HARK__BUFFER_BYTES, HARK__BUFFER_WIDE - HARK__BUFFER_BYTES);
	assert_ptr_equal(b.data, at);
	assert_true(pattern_is(hark__buffer_head(&b), 0, HARK__BUFFER_WIDE));
	append(&b, 0, 1);
	assert_true(b.cap > HARK__BUFFER_WIDE);
	hark__buffer_release(&b);
}

static void *fills(void *arg)
{
	struct hark__buffer *b = arg;
	for (int i = 0; i < 100; i++) {
		b[i] = (struct hark__buffer){0};
		if (hark__buffer_reserve(&b[i], 10) == 0)
			pattern_fill(b[i].data, 0, 10);
		b[i].tail = 10;
	}
	return NULL;
}

static void one_thread_gives_back_what_another_took(void **state)
{
	static struct hark__buffer b[100];
	pthread_t t;
	(void)state;
	for (int round = 0; round < 5; round++) {
		assert_int_equal(pthread_create(&t, NULL, fills, b), 0);
		assert_int_equal(pthread_join(t, NULL), 0);
		for (int i = 0; i < 100; i++) {
			assert_true(pattern_is(hark__buffer_head(&b[i]), 0, 10));
			hark__buffer_release(&b[i]);
		}
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(bytes_come_out_as_they_went_in),
		cmocka_unit_test(the_common_size_is_taken_again),
		cmocka_unit_test(bulk_has_a_size_of_its_own_which_is_taken_again),
		cmocka_unit_test(one_thread_gives_back_what_another_took),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
