/* test_inetd_netbsd.c — inetd.conf's key-value form: limits of 0, and keys that are said twice. */
#include "inetd_support.h"

static struct document *read_keys(const char *more)
{
	char text[512];

	(void)snprintf(text, sizeof text,
	               "ftp on socktype = stream, protocol = tcp, wait = no, user = root, exec = /bin/cat, %s;\n",
	               more);
	return read_text(text);
}

static void a_limit_of_0_admits_nobody(void **state)
{
	static const char *const limits[] = {"service_max = 0", "ip_max = 0"};
	(void)state;
	for (size_t i = 0; i < sizeof limits / sizeof limits[0]; i++) {
		struct document *d = read_keys(limits[i]);
		assert_clean(d);
		assert_setting(d, "ftp", "disable", "yes");
		assert_remark(d, "ftp", limits[i]);
		document_free(d);
	}
	struct document *d = read_keys("service_max = 1, ip_max = 2");
	assert_setting(d, "ftp", "disable", NULL);
	assert_setting(d, "ftp", "rate", "1/m");
	document_free(d);
	d = read_text("ftp stream tcp nowait.0 root /bin/cat cat\n");
	assert_setting(d, "ftp", "disable", NULL);
	document_free(d);
}

static void a_key_that_is_said_twice_is_an_error(void **state)
{
	static const char *const twice[] = {
		"args = cat, args = cat -u",        "filter = a, filter = b",  "acceptfilter = a, acceptfilter = b",
		"ipsec = \"a\", ipsec = \"b\"",     "user = nobody",           "username = nobody",
		"service_max = 1, service_max = 2", "recvbuf = 1, rcvbuf = 2", "wait = yes",
	};
	(void)state;
	for (size_t i = 0; i < sizeof twice / sizeof twice[0]; i++) {
		struct document *d = read_keys(twice[i]);
		assert_error(d, "inetd.conf", 1, "said twice for ftp");
		assert_int_equal(d->n, 0);
		document_free(d);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_limit_of_0_admits_nobody),
		cmocka_unit_test(a_key_that_is_said_twice_is_an_error),
	};
	return cmocka_run_group_tests(tests, set_up, tear_down);
}
