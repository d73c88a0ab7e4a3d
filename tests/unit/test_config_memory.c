/* test_config_memory.c — hark.conf where memory is short. */
#include "config_support.h"

static long allocations_left = -1; /* -1: without end */

static bool spent(void)
{
	if (allocations_left < 0)
		return false;
	if (allocations_left == 0)
		return true;
	allocations_left--;
	return false;
}

/* The linker sends the calls of everything that is linked in here (-Wl,--wrap), the libraries' own excepted. */
void *__real_malloc(size_t n);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *old, size_t n);
void *__real_reallocarray(void *old, size_t n, size_t size);
char *__real_strndup(const char *text, size_t n);
void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *old, size_t n);
void *__wrap_reallocarray(void *old, size_t n, size_t size);
char *__wrap_strndup(const char *text, size_t n);

void *__wrap_malloc(size_t n)
{
	return spent() ? NULL : __real_malloc(n);
}

void *__wrap_calloc(size_t n, size_t size)
{
	return spent() ? NULL : __real_calloc(n, size);
}

void *__wrap_realloc(void *old, size_t n)
{
	return spent() ? NULL : __real_realloc(old, n);
}

void *__wrap_reallocarray(void *old, size_t n, size_t size)
{
	return spent() ? NULL : __real_reallocarray(old, n, size);
}

char *__wrap_strndup(const char *text, size_t n)
{
	return spent() ? NULL : __real_strndup(text, n);
}

static void out_of_memory_at_any_call_is_told_and_nothing_leaks(void **state)
{
	static const char text[] = "[harkd]\nlog = syslog\nx = y\n[a]\nlisten = tcp://*:7 udp://*:7\nexec = cat 'a "
				   "b'\nenv = A=b C=d\nuser = root\n"
				   "banner = x\\n\n[b]\nlisten = unix:/x\nbox = daytime --nist\n"
				   "[c]\nlisten = unix:/y\nbox = /x.so\nlines = 3\nany-port =\n";
	long n = 0;
	int r = -ENOMEM;
	(void)state;
	for (; r == -ENOMEM; n++) {
		struct config *c = (struct config *)&n;
		allocations_left = n;
		r = inside_load_bytes("t.conf", text, sizeof text - 1, &c);
		bool enough = allocations_left > 0;
		allocations_left = -1;
		if (r == -ENOMEM) {
			assert_ptr_equal(c, &n);
			continue;
		}
		assert_true(enough || r == 1);
		config_free(c);
	}
	assert_int_equal(r, 1);
	assert_true(n > 100);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(out_of_memory_at_any_call_is_told_and_nothing_leaks),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
