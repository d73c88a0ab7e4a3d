/* test_library.c — the shared library as others load it: by dlopen(3), where there is little room for thread-local
 * data, and with nothing exported but the public face. Its path is the argument. */
#include "net_support.h"

#include <dlfcn.h>

static const char *path;

static void the_shared_library_can_be_loaded_at_run_time(void **state)
{
	(void)state;
	void *lib = dlopen(path, RTLD_NOW | RTLD_LOCAL);
	if (lib == NULL)
		fail_msg("%s", dlerror());
	int64_t (*now)(void) = (int64_t(*)(void))dlsym(lib, "hark_now");
	assert_non_null(now);
	assert_true(now() > 0);
	assert_non_null(dlsym(lib, "hark_serve"));
	assert_null(dlsym(lib, "hark__wait_any"));
	assert_int_equal(dlclose(lib), 0);
}

int main(int argc, char *argv[])
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_shared_library_can_be_loaded_at_run_time),
	};
	if (argc != 2)
		return 2;
	path = argv[1];
	return cmocka_run_group_tests(tests, NULL, NULL);
}
