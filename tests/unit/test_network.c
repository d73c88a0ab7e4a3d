/* test_network.c — networks: their grammar, and who is in them. */
#include "net_support.h"

#include "network.h"

static const struct {
	const char *text, *canonical;
	int rc;
} good[] = {
	{"192.0.2.0/24", "192.0.2.0/24", 0},
	{"192.0.2.1", "192.0.2.1/32", 0},
	{"192.0.2.77/24", "192.0.2.0/24", 1},
	{"255.255.255.255/1", "128.0.0.0/1", 1},
	{"0.0.0.0/0", "0.0.0.0/0", 0},
	{"2001:DB8::/32", "2001:db8::/32", 0},
	{"2001:db8::1/127", "2001:db8::/127", 1},
	{"::1", "::1/128", 0},
	{"::/0", "::/0", 0},
	{"::ffff:192.0.2.0/120", "192.0.2.0/24", 0},
	{"::ffff:0:0/96", "0.0.0.0/0", 0},
	{"::ffff:0:0/95", "::fffe:0:0/95", 1},
	{"unix", "unix", 0},
};

static const char *const bad[] = {
	"",           "/",      "/8",         "1.2.3",      "1.2.3.4/33", "1.2.3.4/",
	"1.2.3.4/-1", "::/129", "1.2.3.4/08", "1.2.3.4/8x", "localhost",  "1.2.3.4/8/8",
	"fe80::1%lo", "*",      "1.2.3.4/+8", "01.2.3.4",   "UNIX",       "10.0.0.0/255.0.0.0"};

static void networks_are_written_as_they_are_read(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
		struct network n, again;
		char buf[NETWORK_TEXT_MAX];
		if (network_parse(good[i].text, &n) != good[i].rc)
			fail_msg("%s", good[i].text);
		assert_string_equal(network_format(&n, buf), good[i].canonical);
		assert_int_equal(network_parse(buf, &again), 0);
		assert_memory_equal(&n, &again, sizeof n);
	}
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
		struct network n;
		if (network_parse(bad[i], &n) != -EINVAL)
			fail_msg("%s", bad[i]);
	}
}

static bool is_in(const char *network, const char *address)
{
	struct network n[2];
	struct hark_endpoint e;
	assert_true(network_parse("203.0.113.7", &n[0]) == 0 && network_parse(network, &n[1]) >= 0);
	assert_int_equal(hark_resolve(address, &e, 1, 0), 1);
	return network_has(n, 2, (const struct sockaddr *)&e.addr);
}

static void an_address_is_in_its_networks_alone(void **state)
{
	(void)state;
	assert_true(is_in("192.0.2.0/24", "tcp://192.0.2.255:1"));
	assert_false(is_in("192.0.2.0/24", "tcp://192.0.3.0:1"));
	assert_true(is_in("192.0.2.64/26", "tcp://192.0.2.127:1"));
	assert_false(is_in("192.0.2.64/26", "tcp://192.0.2.128:1"));
	assert_false(is_in("192.0.2.64/26", "tcp://192.0.2.63:1"));
	assert_true(is_in("::1", "tcp://203.0.113.7:1"));
	assert_true(is_in("0.0.0.0/0", "tcp://192.0.2.1:1"));
	assert_false(is_in("0.0.0.0/0", "tcp://[::1]:1"));
	assert_false(is_in("::/0", "tcp://192.0.2.1:1"));
	assert_true(is_in("::/0", "tcp://[2001:db8::1]:1"));
	assert_true(is_in("2001:db8:0:8000::/49", "tcp://[2001:db8:0:ffff::1]:1"));
	assert_false(is_in("2001:db8:0:8000::/49", "tcp://[2001:db8:0:7fff::1]:1"));
	assert_true(is_in("::ffff:192.0.2.0/120", "tcp://192.0.2.9:1"));
	assert_true(is_in("unix", "unix:/run/x"));
	assert_false(is_in("unix", "tcp://127.0.0.1:1"));
	assert_false(is_in("0.0.0.0/0", "unix:/run/x"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(networks_are_written_as_they_are_read),
		cmocka_unit_test(an_address_is_in_its_networks_alone),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
