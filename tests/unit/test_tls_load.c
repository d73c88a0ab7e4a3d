/* test_tls_load.c — OpenSSL is loaded when TLS is first wanted: not before, once, and a failure is told. */
#include "net_support.h"

#include <dlfcn.h>
#include <pthread.h>
#include <sys/wait.h>

#include "base/sys.h"

#define THREADS 8

static bool is_mapped(void)
{
	char line[512];
	bool found = false;
	FILE *maps = fopen("/proc/self/maps", "re");
	assert_non_null(maps);
	while (!found && fgets(line, sizeof line, maps) != NULL)
		found = strstr(line, "/libssl.so") != NULL || strstr(line, "/libcrypto.so") != NULL;
	(void)fclose(maps);
	return found;
}

/* In a child, as what is loaded stays. body returns 0 if all holds. */
static void in_child(int (*body)(void))
{
	int status;
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (pid == 0)
		_exit(body() & 0xff);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
	assert_false(is_mapped());
}

#define NEED(holds) \
	do { \
		if (!(holds)) { \
			(void)fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #holds); \
			return 1; \
		} \
	} while (0)

static void *no_file(const char *file, int flags)
{
	char path[64];
	(void)snprintf(path, sizeof path, "/nonexistent/%s", file);
	return dlopen(path, flags);
}

/* This program, which has no OpenSSL in it. */
static void *another_library(const char *file, int flags)
{
	(void)file;
	return dlopen(NULL, flags);
}

static int starttls(struct hark_why *why)
{
	struct hark_conn *c[2];
	if (hark_pair(c) < 0)
		return -ENOMEM;
	int r = hark_starttls(
		c[0], NULL,
		&(struct hark_starttls_opts){.name = "a.example", .why = why, .deadline = hark_after(HARK_S / 10)});
	hark_abort(c[0]);
	hark_abort(c[1]);
	return r;
}

static int without_a_file(void)
{
	struct hark_why why = {""};
	struct hark_tls *t = NULL;
	void *(*real)(const char *file, int flags) = hark__sys.dlopen;
	hark__sys.dlopen = no_file;
	NEED(hark_tls_new(&(struct hark_tls_opts){.why = &why}, &t) == -ENOPKG);
	NEED(strstr(why.text, "TLS: /nonexistent/libssl.so.") == why.text && strstr(why.text, "cannot open") != NULL);
	why.text[0] = '\0';
	NEED(starttls(&why) == -ENOPKG);
	NEED(strstr(why.text, "cannot open shared object file: No such file") != NULL);
	NEED(t == NULL && !is_mapped());
	hark__sys.dlopen = real;
	NEED(hark_tls_new(&(struct hark_tls_opts){.why = &why}, &t) == 0);
	hark_tls_free(t);
	return 0;
}

static void a_file_that_is_missing_is_told_and_looked_for_again(void **state)
{
	(void)state;
	in_child(without_a_file);
}

static int with_another_library(void)
{
	struct hark_why why;
	struct hark_tls *t;
	hark__sys.dlopen = another_library;
	for (int i = 0; i < 2; i++) {
		why.text[0] = '\0';
		NEED(hark_tls_new(&(struct hark_tls_opts){.why = &why}, &t) == -ENOPKG);
		NEED(strstr(why.text, "it has no ASN1_STRING_get0_data()") != NULL);
	}
	return 0;
}

static void a_function_that_is_missing_is_named(void **state)
{
	(void)state;
	in_child(with_another_library);
}

static void *make_settings(void *result)
{
	struct hark_tls *t;
	*(int *)result = hark_tls_new(NULL, &t);
	if (*(int *)result == 0)
		hark_tls_free(t);
	return NULL;
}

static int by_threads(void)
{
	pthread_t threads[THREADS];
	int results[THREADS];
	for (int i = 0; i < THREADS; i++)
		NEED(pthread_create(&threads[i], NULL, make_settings, &results[i]) == 0);
	for (int i = 0; i < THREADS; i++)
		(void)pthread_join(threads[i], NULL);
	for (int i = 0; i < THREADS; i++)
		NEED(results[i] == 0);
	return 0;
}

static void threads_may_load_it_at_the_same_time(void **state)
{
	(void)state;
	in_child(by_threads);
}

/* Nobody is there to answer: the deadline tells that the handshake began, on a fiber's stack. */
static void starttls_in_fiber(void *arg)
{
	*(int *)arg = starttls(NULL);
}

static int by_fiber(void)
{
	struct hark_scope s;
	int r = 0;
	hark_scope_open(&s);
	NEED(hark_go(&s, "starttls", starttls_in_fiber, &r) == 0);
	NEED(hark_join(&s, hark_after(5 * HARK_S)) == 0);
	hark_scope_close(&s);
	NEED(r == -ETIMEDOUT);
	return 0;
}

static void a_fiber_may_load_it(void **state)
{
	(void)state;
	in_child(by_fiber);
}

static void who_has_no_tls_does_not_have_it(void **state)
{
	(void)state;
	struct hark_conn *c[2];
	assert_int_equal(hark_pair(c), 0);
	assert_int_equal(hark_close(c[0]), 0);
	assert_int_equal(hark_close(c[1]), 0);
	assert_false(is_mapped());
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(who_has_no_tls_does_not_have_it),
		cmocka_unit_test(a_file_that_is_missing_is_told_and_looked_for_again),
		cmocka_unit_test(a_function_that_is_missing_is_named),
		cmocka_unit_test(threads_may_load_it_at_the_same_time),
		cmocka_unit_test(a_fiber_may_load_it),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
