/* test_address.c — the grammar of addresses, good and bad, and how endpoints are shown. */
#include "net_support.h"

#include "address/endpoint.h"

static const struct good {
	const char *text, *canonical;
	enum hark_scheme scheme;
	const char *host, *port, *path;
	int fd;
} good[] = {
	{"tcp://host:80", "tcp://host:80", HARK_TCP, "host", "80", "", -1},
	{"host:80", "tcp://host:80", HARK_TCP, "host", "80", "", -1},
	{"TCP://host:80", "tcp://host:80", HARK_TCP, "host", "80", "", -1},
	{"tcp4://host:80", "tcp4://host:80", HARK_TCP4, "host", "80", "", -1},
	{"tcp6://host:80", "tcp6://host:80", HARK_TCP6, "host", "80", "", -1},
	{"udp://host:80", "udp://host:80", HARK_UDP, "host", "80", "", -1},
	{"udp4://host:80", "udp4://host:80", HARK_UDP4, "host", "80", "", -1},
	{"udp6://host:80", "udp6://host:80", HARK_UDP6, "host", "80", "", -1},
	{"TLS://[::1]:443", "tls://[::1]:443", HARK_TLS, "::1", "443", "", -1},
	{"tcp://*:0", "tcp://*:0", HARK_TCP, "*", "0", "", -1},
	{"*:daytime", "tcp://*:daytime", HARK_TCP, "*", "daytime", "", -1},
	{"h:whois++", "tcp://h:whois++", HARK_TCP, "h", "whois++", "", -1},
	{"h:00080", "tcp://h:80", HARK_TCP, "h", "80", "", -1},
	{"h:000", "tcp://h:0", HARK_TCP, "h", "0", "", -1},
	{"h:65535", "tcp://h:65535", HARK_TCP, "h", "65535", "", -1},
	{"192.0.2.1:1", "tcp://192.0.2.1:1", HARK_TCP, "192.0.2.1", "1", "", -1},
	{"a-b_c.example.:1", "tcp://a-b_c.example.:1", HARK_TCP, "a-b_c.example.", "1", "", -1},
	{"3com.example:1", "tcp://3com.example:1", HARK_TCP, "3com.example", "1", "", -1},
	{"b\xc3\xbc"
         "cher.example:1",
         "tcp://b\xc3\xbc"
         "cher.example:1",
         HARK_TCP,
         "b\xc3\xbc"
         "cher.example",
         "1", "", -1},
	{"tcp://[::1]:80", "tcp://[::1]:80", HARK_TCP, "::1", "80", "", -1},
	{"[::1]:80", "tcp://[::1]:80", HARK_TCP, "::1", "80", "", -1},
	{"udp6://[2001:DB8:0:0::0:1]:53", "udp6://[2001:db8::1]:53", HARK_UDP6, "2001:db8::1", "53", "", -1},
	{"tcp://[fe80::1%eth0]:80", "tcp://[fe80::1%eth0]:80", HARK_TCP, "fe80::1%eth0", "80", "", -1},
	{"tcp://[fe80::1%2]:80", "tcp://[fe80::1%2]:80", HARK_TCP, "fe80::1%2", "80", "", -1},
	{"tcp://[::ffff:192.0.2.1]:80", "tcp://192.0.2.1:80", HARK_TCP, "192.0.2.1", "80", "", -1},
	{"tcp4://[::ffff:192.0.2.1]:80", "tcp4://192.0.2.1:80", HARK_TCP4, "192.0.2.1", "80", "", -1},
	{"unix:/run/x", "unix:/run/x", HARK_UNIX, "", "", "/run/x", -1},
	{"unix:///run/x", "unix:/run/x", HARK_UNIX, "", "", "/run/x", -1},
	{"unix:@name", "unix:@name", HARK_UNIX, "", "", "@name", -1},
	{"unix:/tmp/a://b", "unix:/tmp/a://b", HARK_UNIX, "", "", "/tmp/a://b", -1},
	{"unixgram:/run/x", "unixgram:/run/x", HARK_UNIXGRAM, "", "", "/run/x", -1},
	{"unixgram:@x y", "unixgram:@x y", HARK_UNIXGRAM, "", "", "@x y", -1},
	{"fd:3", "fd:3", HARK_FD, "", "", "", 3},
	{"fd:003", "fd:3", HARK_FD, "", "", "", 3},
	{"fd:0", "fd:0", HARK_FD, "", "", "", 0},
	{"fd:2147483647", "fd:2147483647", HARK_FD, "", "", "", 2147483647},
	{"fd:web.socket", "fd:web.socket", HARK_FD, "", "", "web.socket", -1},
};

static void addresses_are_taken_apart(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
		struct hark_address a, again;
		struct hark_why why = {""};
		char text[HARK_ADDRESS_MAX];
		if (hark_address_parse(good[i].text, &a, &why) != 0)
			fail_msg("%s: %s", good[i].text, why.text);
		assert_int_equal(a.scheme, good[i].scheme);
		assert_string_equal(a.host, good[i].host);
		assert_string_equal(a.port, good[i].port);
		assert_string_equal(a.path, good[i].path);
		assert_int_equal(a.fd, good[i].fd);
		assert_int_equal(hark_address_format(&a, text, sizeof text), strlen(good[i].canonical));
		assert_string_equal(text, good[i].canonical);
		assert_int_equal(hark_address_parse(text, &again, NULL), 0);
		assert_memory_equal(&a, &again, sizeof a);
	}
}

static const struct {
	const char *text, *why;
} bad[] = {
	{"", "the address is empty"},
	{"tcp://x:70000", "port 70000 is above 65535 in \"tcp://x:70000\""},
	{"x:65536", "port 65536 is above 65535"},
	{"x:184467440737095516160", "is above 65535"},
	{"x:99999999999999999999999999999999999999", "port 99999999999999999999... is above 65535"},
	{"tcp://x", "port is missing in \"tcp://x\""},
	{"tcp://x:", "port is missing"},
	{"tcp://[::1]", "port is missing"},
	{"tcp://:80", "host is missing"},
	{"tcp://", "host is missing"},
	{":80", "host is missing"},
	{"tcp://[]:80", "host is missing"},
	{"tcp://x:80/", "port \"80/\" is neither a number nor a service's name"},
	{"x:-1", "port \"-1\" is neither"},
	{"x:+1", "port \"+1\" is neither"},
	{"x: 1", "port \" 1\" is neither"},
	{"x:8\xc3\xbc", "is neither a number"},
	{"x:abcdefghijabcdefghijabcdefghijkl", "is longer than 31 bytes"},
	{"http://x:80", "scheme \"http\" is unknown"},
	{"://x:80", "scheme \"\" is unknown"},
	{"dtls://x:443", "scheme \"dtls\" is unknown"},
	{"tls://x", "port is missing"},
	{"tcp:host:80", "IPv6 address goes in brackets"},
	{"::1:80", "IPv6 address goes in brackets"},
	{"tcp://[::1:80", "host has no closing \"]\""},
	{"tcp://[::1]80", "\"80\" follows the host"},
	{"tcp://[host]:80", "host \"[host]\" is not an IPv6 address"},
	{"tcp://[192.0.2.1]:80", "host \"[192.0.2.1]\" is not an IPv6 address"},
	{"tcp://[1:2:3]:80", "host \"[1:2:3]\" is not an IPv6 address"},
	{"tcp://[fe80::1]:80", "is link-local and needs a %scope"},
	{"tcp://[fe80::1%]:80", "scope \"\" must be 1 to 15 bytes"},
	{"tcp://[fe80::1%abcdefghijklmnop]:80", "must be 1 to 15 bytes"},
	{"tcp://[fe80::1%e th]:80", "scope \"e th\" is no interface's name"},
	{"tcp4://[::1]:80", "is not what tcp4 asks for: it is an IPv6 address"},
	{"udp6://192.0.2.1:80", "is not what udp6 asks for: it is an IPv4 address"},
	{"tcp6://[::ffff:192.0.2.1]:80", "is not what tcp6 asks for: it is an IPv4 address"},
	{"192.0.2.256:80", "host \"192.0.2.256\" is not an IPv4 address"},
	{"192.0.2:80", "host \"192.0.2\" is not an IPv4 address"},
	{"127.1:80", "is not an IPv4 address"},
	{"1:80", "host \"1\" is not an IPv4 address"},
	{"0x7f000001:80", "is not an IPv4 address"},
	{"a..b:80", "host \"a..b\" has an empty label"},
	{".:80", "is not an IPv4 address"},
	{".a:80", "has an empty label"},
	{"a b:80", "has a \" \", which no name has"},
	{"a%b:80", "has a \"%\", which no name has"},
	{"user@host:80", "has a \"@\", which no name has"},
	{"a\nb:80", "has a \"?\", which no name has"},
	{"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa:80", "label of more than 63 bytes"},
	{"unix:", "path is missing"},
	{"unix:@", "path is missing"},
	{"unixgram:", "path is missing"},
	{"unix:/a\tb", "path has a control character"},
	{"fd:", "descriptor is missing"},
	{"fd:2147483648", "descriptor 2147483648 is above 2147483647"},
	{"fd:99999999999999999999999", "is above 2147483647"},
	{"fd:a b", "neither a number nor a name"},
	{"fd:a:b", "neither a number nor a name"},
	{"fd://3", "neither a number nor a name"},
};

static void a_bad_address_says_which_part_is_bad(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
		struct hark_address a, before;
		struct hark_why why = {""};
		memset(&before, 0x5a, sizeof before);
		a = before;
		if (hark_address_parse(bad[i].text, &a, &why) != -EINVAL)
			fail_msg("\"%s\" was taken", bad[i].text);
		if (strstr(why.text, bad[i].why) == NULL)
			fail_msg("\"%s\": \"%s\", not \"%s\"", bad[i].text, why.text, bad[i].why);
		assert_memory_equal(&a, &before, sizeof a);
		assert_int_equal(hark_address_parse(bad[i].text, &a, NULL), -EINVAL);
	}
}

static void limits_are_exact(void **state)
{
	(void)state;
	struct hark_address a;
	char text[400];
	for (int n = HARK_PATH_MAX; n <= HARK_PATH_MAX + 1; n++) {
		(void)snprintf(text, sizeof text, "unix:/%0*d", n - 1, 0);
		assert_int_equal(hark_address_parse(text, &a, NULL), n == HARK_PATH_MAX ? 0 : -EINVAL);
	}
	for (int n = HARK_HOST_MAX; n <= HARK_HOST_MAX + 1; n++) {
		for (int i = 0; i < n; i++)
			text[i] = i % 50 == 49 ? '.' : 'a';
		memcpy(text + n, ":80", 4);
		assert_int_equal(hark_address_parse(text, &a, NULL), n == HARK_HOST_MAX ? 0 : -EINVAL);
	}
}

static void the_longest_address_fits_what_is_promised(void **state)
{
	(void)state;
	struct hark_address a = {.scheme = HARK_UDP4};
	char buf[HARK_ADDRESS_MAX];
	memset(a.host, ':', HARK_HOST_MAX); /* brackets as well */
	memset(a.port, 'p', HARK_PORT_MAX);
	int n = hark_address_format(&a, buf, sizeof buf);
	assert_true(n > HARK_HOST_MAX + HARK_PORT_MAX);
	char exact[HARK_ADDRESS_MAX] = "untouched";
	assert_int_equal(hark_address_format(&a, exact, (size_t)n), -ENOSPC);
	assert_string_equal(exact, "untouched");
	assert_int_equal(hark_address_format(&a, exact, (size_t)n + 1), n);
	a.scheme = 0;
	assert_int_equal(hark_address_format(&a, buf, sizeof buf), -EINVAL);
}

static void a_hostile_address_makes_one_bounded_line(void **state)
{
	(void)state;
	static char text[100000];
	struct hark_address a;
	struct hark_why why;
	for (int seed = 0; seed < 256; seed++) {
		memset(text, seed, sizeof text - 1);
		text[0] = "[:u/@*.1"[seed % 8];
		if (hark_address_parse(text, &a, &why) == 0)
			continue;
		assert_true(strnlen(why.text, sizeof why.text) < sizeof why.text);
		for (const char *p = why.text; *p != '\0'; p++)
			assert_false((unsigned char)*p < 0x20 || *p == 0x7f);
	}
}

static void shows(int type, const void *addr, size_t len, const char *wanted)
{
	struct hark_endpoint e = {.type = type, .len = (socklen_t)len};
	char text[HARK_ADDRESS_MAX] = "untouched";
	memcpy(&e.addr, addr, len);
	assert_int_equal(hark_endpoint_format(&e, text, strlen(wanted)), -ENOSPC);
	assert_string_equal(text, "untouched");
	assert_int_equal(hark_endpoint_format(&e, text, sizeof text), strlen(wanted));
	assert_string_equal(text, wanted);
}

static void endpoints_are_shown_by_kind(void **state)
{
	(void)state;
	struct sockaddr_in four = {.sin_family = AF_INET, .sin_port = htons(80)};
	struct sockaddr_in6 six = {.sin6_family = AF_INET6, .sin6_port = htons(53)};
	assert_int_equal(inet_pton(AF_INET, "192.0.2.1", &four.sin_addr), 1);
	shows(SOCK_STREAM, &four, sizeof four, "tcp://192.0.2.1:80");
	shows(SOCK_DGRAM, &four, sizeof four, "udp://192.0.2.1:80");
	assert_int_equal(inet_pton(AF_INET6, "2001:db8::1", &six.sin6_addr), 1);
	shows(SOCK_DGRAM, &six, sizeof six, "udp://[2001:db8::1]:53");
}

static void v4_mapped_endpoints_are_shown_as_ipv4(void **state)
{
	(void)state;
	struct sockaddr_in6 six = {.sin6_family = AF_INET6, .sin6_port = htons(53)};
	assert_int_equal(inet_pton(AF_INET6, "::ffff:192.0.2.1", &six.sin6_addr), 1);
	shows(SOCK_STREAM, &six, sizeof six, "tcp://192.0.2.1:53");
}

static void a_socket_address_becomes_an_endpoint_with_no_v4_mapped_one(void **state)
{
	(void)state;
	struct sockaddr_in6 six = {.sin6_family = AF_INET6, .sin6_port = htons(53)};
	struct hark_endpoint e = {.type = 77};
	assert_int_equal(inet_pton(AF_INET6, "::ffff:192.0.2.1", &six.sin6_addr), 1);
	assert_int_equal(hark_endpoint_from(SOCK_DGRAM, (const struct sockaddr *)&six, sizeof six - 1, &e), -EINVAL);
	assert_int_equal(hark_endpoint_from(SOCK_DGRAM, (const struct sockaddr *)&six, 0, &e), -EINVAL);
	assert_int_equal(e.type, 77);
	assert_int_equal(hark_endpoint_from(SOCK_DGRAM, (const struct sockaddr *)&six, sizeof six, &e), 0);
	assert_int_equal(e.type, SOCK_DGRAM);
	assert_int_equal(e.addr.ss_family, AF_INET);
	assert_int_equal(e.len, sizeof(struct sockaddr_in));
	assert_int_equal(hark_endpoint_from(SOCK_STREAM, (const struct sockaddr *)&e.addr, e.len, &e), 0);
	shows(e.type, &e.addr, e.len, "tcp://192.0.2.1:53");
}

static void scopes_are_shown_by_the_interfaces_name(void **state)
{
	(void)state;
	struct sockaddr_in6 six = {.sin6_family = AF_INET6,
	                           .sin6_port = htons(53),
	                           .sin6_scope_id = if_nametoindex("lo")};
	if (six.sin6_scope_id == 0) {
		print_message("skipped: no interface is called lo\n");
		skip();
	}
	assert_int_equal(inet_pton(AF_INET6, "fe80::1", &six.sin6_addr), 1);
	shows(SOCK_STREAM, &six, sizeof six, "tcp://[fe80::1%lo]:53");
	six.sin6_scope_id = 4000000000u;
	shows(SOCK_STREAM, &six, sizeof six, "tcp://[fe80::1%4000000000]:53");
}

static void unix_endpoints_are_shown_by_name(void **state)
{
	(void)state;
	struct sockaddr_un un = {.sun_family = AF_UNIX, .sun_path = "/run/x"};
	size_t at = offsetof(struct sockaddr_un, sun_path);
	shows(SOCK_STREAM, &un, sizeof un, "unix:/run/x");
	shows(SOCK_STREAM, &un, at + 6, "unix:/run/x");
	shows(SOCK_DGRAM, &un, sizeof un, "unixgram:/run/x");
	shows(SOCK_STREAM, &un, at, "unix:");
	memcpy(un.sun_path, "\0a\nb\0\x7f", 6);
	shows(SOCK_STREAM, &un, at + 6, "unix:@a?b??");
	memset(un.sun_path, 'x', sizeof un.sun_path); /* unix(7): a path may fill it without a NUL */
	char wanted[128] = "unix:";
	memset(wanted + 5, 'x', sizeof un.sun_path);
	shows(SOCK_STREAM, &un, sizeof un, wanted);
}

static void an_endpoint_that_cannot_be_is_refused(void **state)
{
	(void)state;
	char text[HARK_ADDRESS_MAX];
	struct hark_endpoint e = {.type = SOCK_STREAM, .len = 4, .addr = {.ss_family = AF_INET6}};
	assert_int_equal(hark_endpoint_format(&e, text, sizeof text), -EINVAL);
	e.len = sizeof e.addr + 1;
	assert_int_equal(hark_endpoint_format(&e, text, sizeof text), -EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(addresses_are_taken_apart),
		cmocka_unit_test(a_bad_address_says_which_part_is_bad),
		cmocka_unit_test(limits_are_exact),
		cmocka_unit_test(the_longest_address_fits_what_is_promised),
		cmocka_unit_test(a_hostile_address_makes_one_bounded_line),
		cmocka_unit_test(endpoints_are_shown_by_kind),
		cmocka_unit_test(v4_mapped_endpoints_are_shown_as_ipv4),
		cmocka_unit_test(a_socket_address_becomes_an_endpoint_with_no_v4_mapped_one),
		cmocka_unit_test(scopes_are_shown_by_the_interfaces_name),
		cmocka_unit_test(unix_endpoints_are_shown_by_name),
		cmocka_unit_test(an_endpoint_that_cannot_be_is_refused),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
