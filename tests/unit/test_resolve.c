/* test_resolve.c — from addresses to endpoints: without asking, by asking, and in the time that there is.
 *
 * What is asked is answered by files and a name server that the test itself made, in a namespace of its own. */
#include "net_support.h"

#include <sys/resource.h>

#include <netdb.h>
#include <stdatomic.h>

#include "address/endpoint.h"
#include "base/sys.h"
#include "conn/hosts.h"
#include "conn/resolve.h"
#include "on_loop.h"

static int failing_calloc_uses;

static void *failing_calloc(size_t count, size_t n)
{
	(void)count;
	(void)n;
	failing_calloc_uses++;
	return NULL;
}

static void *(*real_calloc)(size_t count, size_t n);

static int forbid_questions(void **state)
{
	(void)state;
	real_calloc = hark__sys.calloc;
	hark__sys.calloc = failing_calloc;
	failing_calloc_uses = 0;
	return 0;
}

static int allow_questions(void **state)
{
	(void)state;
	hark__sys.calloc = real_calloc;
	return 0;
}

static void gives(const char *address, const char *wanted)
{
	struct hark_endpoint e[4];
	char all[4 * HARK_ADDRESS_MAX] = "";
	int n = hark_resolve(address, e, 4, HARK_FOREVER);
	assert_true(n >= 1);
	for (int i = 0; i < n; i++) {
		char one[HARK_ADDRESS_MAX];
		assert_true(hark_endpoint_format(&e[i], one, sizeof one) > 0);
		(void)strcat(strcat(all, i > 0 ? " " : ""), one);
	}
	assert_string_equal(all, wanted);
}

static void numeric_addresses_ask_nobody(void **state)
{
	(void)state;
	gives("tcp://192.0.2.1:80", "tcp://192.0.2.1:80");
	gives("udp4://192.0.2.1:65535", "udp://192.0.2.1:65535");
	gives("tcp://[2001:db8::1]:80", "tcp://[2001:db8::1]:80");
	gives("tcp://[::ffff:192.0.2.1]:80", "tcp://192.0.2.1:80");
	gives("unix:/run/x", "unix:/run/x");
	gives("unixgram:@x", "unixgram:@x");
	assert_int_equal(failing_calloc_uses, 0);
}

static void a_star_is_loopback_to_dial(void **state)
{
	(void)state;
	gives("tcp://*:80", "tcp://[::1]:80 tcp://127.0.0.1:80");
	gives("tcp4://*:80", "tcp://127.0.0.1:80");
	gives("udp6://*:80", "udp://[::1]:80");
}

static void a_star_is_every_address_to_listen(void **state)
{
	(void)state;
	struct hark_address a;
	struct hark_endpoint e[4];
	char text[HARK_ADDRESS_MAX];
	assert_int_equal(hark_address_parse("udp://*:53", &a, NULL), 0);
	assert_int_equal(hark__resolve(&a, HARK__TO_LISTEN, e, 4, HARK_FOREVER), 2);
	assert_true(hark_endpoint_format(&e[0], text, sizeof text) > 0);
	assert_string_equal(text, "udp://[::]:53");
	assert_true(hark_endpoint_format(&e[1], text, sizeof text) > 0);
	assert_string_equal(text, "udp://0.0.0.0:53");
}

static void scopes_are_interfaces(void **state)
{
	(void)state;
	struct hark_endpoint e;
	unsigned lo = if_nametoindex("lo");
	if (lo == 0) {
		print_message("skipped: no interface is called lo\n");
		skip();
	}
	assert_int_equal(hark_resolve("tcp://[fe80::1%lo]:80", &e, 1, HARK_FOREVER), 1);
	assert_int_equal(((struct sockaddr_in6 *)&e.addr)->sin6_scope_id, lo);
	assert_int_equal(hark_resolve("tcp://[fe80::1%77]:80", &e, 1, HARK_FOREVER), 1);
	assert_int_equal(((struct sockaddr_in6 *)&e.addr)->sin6_scope_id, 77);
	memset(&e, 0x5a, sizeof e);
	struct hark_endpoint before = e;
	assert_int_equal(hark_resolve("tcp://[fe80::1%nosuchif]:80", &e, 1, HARK_FOREVER), -EINVAL);
	assert_int_equal(hark_resolve("tcp://[fe80::1%4294967297]:80", &e, 1, HARK_FOREVER), -EINVAL); /* not 1 */
	assert_int_equal(hark_resolve("tcp://[fe80::1%2147483648]:80", &e, 1, HARK_FOREVER), -EINVAL);
	assert_int_equal(hark_resolve("tcp://[fe80::1%0]:80", &e, 1, HARK_FOREVER), -EINVAL);
	assert_memory_equal(&e, &before, sizeof e);
}

static void what_has_no_endpoint_is_refused(void **state)
{
	(void)state;
	struct hark_endpoint e;
	assert_int_equal(hark_resolve("fd:3", &e, 1, HARK_FOREVER), -EINVAL);
	assert_int_equal(hark_resolve("tcp://x", &e, 1, HARK_FOREVER), -EINVAL);
	assert_int_equal(hark_resolve("tcp://127.0.0.1:1", &e, 0, HARK_FOREVER), -EINVAL);
}

static void a_question_without_memory_is_enomem(void **state)
{
	(void)state;
	struct hark_endpoint e;
	assert_int_equal(hark_resolve("tcp://name.invalid:80", &e, 1, HARK_FOREVER), -ENOMEM);
	assert_int_equal(failing_calloc_uses, 1);
}

static void service_names_are_looked_up_by_protocol(void **state)
{
	(void)state;
	if (getservbyname("domain", "tcp") == NULL || getservbyname("domain", "udp") == NULL) {
		print_message("skipped: services(5) does not know domain\n");
		skip();
	}
	gives("tcp://127.0.0.1:domain", "tcp://127.0.0.1:53");
	gives("udp://[::1]:domain", "udp://[::1]:53");
	gives("tcp://*:domain", "tcp://[::1]:53 tcp://127.0.0.1:53");
}

static void an_unknown_service_is_told_apart(void **state)
{
	(void)state;
	struct hark_endpoint e;
	assert_int_equal(hark_resolve("tcp://127.0.0.1:no-such-service", &e, 1, HARK_FOREVER), -HARK_ENOSERVICE);
	assert_int_equal(hark_resolve("tcp://*:no-such-service", &e, 1, hark_after(10 * HARK_S)), -HARK_ENOSERVICE);
}

static int look_up(const char *address, char *all, int n, int64_t deadline)
{
	struct hark_endpoint e[8];
	int got = hark_resolve(address, e, n, deadline);
	all[0] = '\0';
	for (int i = 0; i < got; i++) {
		char one[HARK_ADDRESS_MAX];
		CHECK(hark_endpoint_format(&e[i], one, sizeof one) > 0);
		(void)strcat(strcat(all, i > 0 ? " " : ""), one);
	}
	return got;
}

static void names_are_looked_up_and_families_kept_apart(void)
{
	char all[8 * HARK_ADDRESS_MAX];
	enter_own_network();
	replace_file("/etc/nsswitch.conf", "hosts: files\nservices: files\n");
	replace_file("/etc/hosts",
	             "127.0.0.1 localhost\n127.0.0.7 four both twice\n127.0.0.7 twice\nfd00::7 both six\n");
	for (int i = 0; i < 2; i++) { /* by the caller itself, and by a helper under a deadline */
		int64_t deadline = i == 0 ? HARK_FOREVER : hark_after(20 * HARK_S);
		CHECK_INT(look_up("tcp://four:80", all, 8, deadline), 1);
		CHECK_HAS(all, "tcp://127.0.0.7:80");
		CHECK_INT(look_up("tcp://twice:80", all, 8, deadline), 1);
		CHECK_INT(look_up("udp://both:80", all, 8, deadline), 2);
		CHECK_HAS(all, "udp://127.0.0.7:80");
		CHECK_HAS(all, "udp://[fd00::7]:80");
		CHECK_INT(look_up("tcp4://both:80", all, 8, deadline), 1);
		CHECK_HAS(all, "tcp://127.0.0.7:80");
		CHECK_INT(look_up("tcp6://both:80", all, 8, deadline), 1);
		CHECK_HAS(all, "tcp://[fd00::7]:80");
		CHECK_INT(look_up("tcp://both:80", all, 1, deadline), 1);
		CHECK_INT(look_up("tcp6://four:80", all, 8, deadline), -HARK_ENOHOST);
		CHECK_INT(look_up("tcp://nobody:80", all, 8, deadline), -HARK_ENOHOST);
		CHECK_INT(look_up("tcp://b\xc3\xbc"
		                  "cher:80",
		                  all, 8, deadline),
		          -HARK_ENOHOST);
	}
}

static void many_addresses_of_one_family_leave_room_for_the_other(void)
{
	static char hosts[4096];
	struct hark_endpoint e[32];
	size_t len = 0;
	int sixes = 0;
	enter_own_network();
	for (int i = 0; i < 40; i++)
		len += (size_t)snprintf(hosts + len, sizeof hosts - len, "127.0.1.%d many\n", i + 1);
	/* No route: they come last. */
	(void)snprintf(hosts + len, sizeof hosts - len, "2001:db8::1 many\n2001:db8::2 many\n");
	replace_file("/etc/nsswitch.conf", "hosts: files\n");
	replace_file("/etc/hosts", hosts);
	CHECK_INT(hark_resolve("tcp://many:80", e, 32, HARK_FOREVER), 32);
	for (int i = 0; i < 32; i++)
		sixes += e[i].addr.ss_family == AF_INET6;
	CHECK_INT(sixes, 2);
	CHECK_INT(hark_resolve("tcp://many:80", e, 2, HARK_FOREVER), 2);
	CHECK_INT(e[0].addr.ss_family, AF_INET);
	CHECK_INT(e[1].addr.ss_family, AF_INET6);
	CHECK_INT(hark_resolve("tcp://many:80", e, 1, HARK_FOREVER), 1);
	CHECK_INT(hark_resolve("tcp4://many:80", e, 32, HARK_FOREVER), 32);
}

static void who_is_out_of_descriptors_is_not_told_that_there_is_no_such_host(void)
{
	struct hark_endpoint e;
	struct rlimit r;
	for (int i = 0; i < 2; i++) {
		int64_t deadline = i == 0 ? HARK_FOREVER : hark_after(20 * HARK_S);
		CHECK_INT(getrlimit(RLIMIT_NOFILE, &r), 0);
		r.rlim_cur = 3;
		CHECK_INT(setrlimit(RLIMIT_NOFILE, &r), 0);
		CHECK_INT(hark_resolve("tcp://localhost:80", &e, 1, deadline), -EMFILE);
		r.rlim_cur = 64;
		CHECK_INT(setrlimit(RLIMIT_NOFILE, &r), 0);
		CHECK_INT(hark_resolve("tcp://localhost:80", &e, 1, deadline), 1);
	}
}

/* A socket where the name server should be; it never answers. */
static int silent_name_server(void)
{
	struct sockaddr_in at = {.sin_family = AF_INET,
	                         .sin_port = htons(53),
	                         .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	enter_own_network();
	replace_file("/etc/nsswitch.conf", "hosts: dns\nservices: files\n");
	replace_file("/etc/resolv.conf", "nameserver 127.0.0.1\noptions timeout:2 attempts:1\n");
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	CHECK(fd >= 0 && bind(fd, (struct sockaddr *)&at, sizeof at) == 0);
	return fd;
}

static void dead_name_servers_are_told_apart(void)
{
	char all[8 * HARK_ADDRESS_MAX];
	(void)close(silent_name_server());
	CHECK_INT(look_up("tcp://host.example:80", all, 8, HARK_FOREVER), -HARK_EDNS);
	CHECK_INT(look_up("tcp://host.example:80", all, 8, hark_after(20 * HARK_S)), -HARK_EDNS);
}

static void a_look_up_ends_with_its_deadline(void)
{
	char all[8 * HARK_ADDRESS_MAX];
	int fd = silent_name_server();
	int64_t began = hark_now();
	CHECK_INT(look_up("tcp://host.example:80", all, 8, hark_after(100 * HARK_MS)), -ETIMEDOUT);
	int64_t took = hark_now() - began;
	CHECK(took >= 100 * HARK_MS && took < 1500 * HARK_MS); /* the resolver itself gives up after 2 s */
	char query[512];
	CHECK(recv(fd, query, sizeof query, 0) > 12);                        /* it was asked */
	CHECK_INT(look_up("tcp://127.0.0.1:80", all, 8, hark_now() - 1), 1); /* nothing to wait for */
}

static void ask_on_a_loop(void)
{
	char all[8 * HARK_ADDRESS_MAX];
	struct ticker t;
	int64_t began = hark_now();
	CHECK_INT(ticker_start(&t), 0);
	CHECK_INT(look_up("tcp://host.example:80", all, 8, hark_after(150 * HARK_MS)), -ETIMEDOUT);
	CHECK(ticker_stop(&t) >= 10); /* of 30 */
	CHECK(hark_now() - began < 1500 * HARK_MS);
	CHECK_INT(look_up("tcp://127.0.0.1:80", all, 8, HARK_FOREVER), 1);
	CHECK_INT(look_up("tcp://*:no-such-service", all, 8, HARK_FOREVER), -HARK_ENOSERVICE);
}

static void a_look_up_does_not_stall_the_loop(void)
{
	(void)silent_name_server();
	CHECK(on_each_engine(ask_on_a_loop) > 0);
}

static atomic_int timed_out;

static void ask_in_vain(void *arg)
{
	struct hark_endpoint e;
	timed_out += hark_resolve(arg, &e, 1, hark_after(50 * HARK_MS)) == -ETIMEDOUT;
}

static void do_nothing(void *arg)
{
	*(bool *)arg = true;
}

#define ABANDONED 100 /* more than there are helper threads */

/* "timeout:2" of the name server's side: helpers are held for so long after their askers have gone. */
static void ask_beside_abandoned(void)
{
	static char names[ABANDONED][40];
	struct hark_scope s;
	char all[8 * HARK_ADDRESS_MAX];
	bool done = false;
	timed_out = 0;
	hark_scope_open(&s);
	for (int i = 0; i < ABANDONED; i++) {
		(void)snprintf(names[i], sizeof names[i], "tcp://host%d.example:80", i);
		CHECK_INT(hark_go(&s, "in vain", ask_in_vain, names[i]), 0);
	}
	CHECK_INT(hark_join(&s, HARK_FOREVER), 0);
	hark_scope_close(&s);
	CHECK_INT(timed_out, ABANDONED);
	int64_t began = hark_now();
	CHECK_INT(look_up("tcp://localhost:80", all, 8, hark_after(HARK_S)), 1);
	CHECK_HAS(all, "tcp://127.0.0.1:80");
	CHECK_INT(look_up("udp://here:domain", all, 8, hark_after(HARK_S)), 1);
	CHECK_HAS(all, "udp://127.0.0.7:53");
	CHECK_INT(look_up("tcp://*:domain", all, 8, hark_after(HARK_S)), 2);
	CHECK_INT(hark_offload(do_nothing, &done), 0);
	CHECK(done);
	CHECK(hark_now() - began < HARK_S);
}

static void abandoned_look_ups_hold_up_neither_local_names_nor_offloads(void)
{
	(void)silent_name_server();
	replace_file("/etc/nsswitch.conf", "passwd: files\nhosts: files dns\nservices: files\n");
	replace_file("/etc/hosts", "127.0.0.1 localhost\n127.0.0.7 elsewhere.example here # not: host1.example\n");
	CHECK(on_each_engine(ask_beside_abandoned) > 0);
}

static void localhost_is_loopback_whoever_would_be_asked(void)
{
	char all[8 * HARK_ADDRESS_MAX];
	(void)silent_name_server(); /* which alone nsswitch.conf names */
	replace_file("/etc/hosts", "192.0.2.1 elsewhere\n");
	CHECK_INT(look_up("tcp://localhost:80", all, 8, hark_after(HARK_S)), 2);
	CHECK_HAS(all, "tcp://127.0.0.1:80");
	CHECK_HAS(all, "tcp://[::1]:80");
	CHECK_INT(look_up("tcp4://a.LocalHost:domain", all, 8, hark_after(HARK_S)), 1);
	CHECK_HAS(all, "tcp://127.0.0.1:53");
	CHECK_INT(look_up("tcp://notlocalhost:80", all, 8, hark_after(50 * HARK_MS)), -ETIMEDOUT);
	replace_file("/etc/hosts", "127.0.0.1 localhost"); /* no '\n' at its end */
	CHECK_INT(look_up("tcp://localhost:80", all, 8, hark_after(HARK_S)), 1);
	CHECK_HAS(all, "tcp://127.0.0.1:80");
}

static void the_hosts_file_is_read_as_it_is_written(void)
{
	static char hosts[40000];
	size_t n = 0;
	enter_own_network();
	n = (size_t)snprintf(hosts, sizeof hosts, "127.0.0.2 early\n#");
	while (n < 9000) /* a line that is longer than any buffer */
		hosts[n++] = 'x';
	n += (size_t)snprintf(hosts + n, sizeof hosts - n, "\n \t \n::7%%lo\tearly  late\r\n");
	while (n < sizeof hosts - 100)
		n += (size_t)snprintf(hosts + n, sizeof hosts - n, "192.0.2.%zu host%zu\n", n % 250, n);
	(void)snprintf(hosts + n, sizeof hosts - n, "127.0.0.3 last # early");
	replace_file("/etc/hosts", hosts);
	CHECK_INT(hark__hosts_families("early"), HARK__HOSTS_IPV4 | HARK__HOSTS_IPV6);
	CHECK_INT(hark__hosts_families("LATE"), HARK__HOSTS_IPV6);
	CHECK_INT(hark__hosts_families("last"), HARK__HOSTS_IPV4);
	CHECK_INT(hark__hosts_families("x"), 0);
	CHECK_INT(hark__hosts_families("127.0.0.2"), 0);
	static const struct {
		const char *text;
		bool first;
	} lines[] = {
		{"passwd: dns\n", true},
		{"hosts: files dns\n", true},
		{"hosts:\tmymachines resolve [!UNAVAIL=return] files myhostname dns", true},
		{"hosts: dns files\n", false},
		{"hosts: mdns4_minimal [NOTFOUND=return] files\n", false},
		{"#hosts: files\nhosts: dns [!UNAVAIL=return] files # files\n", false},
	};
	for (size_t i = 0; i < sizeof lines / sizeof lines[0]; i++) {
		replace_file("/etc/nsswitch.conf", lines[i].text);
		CHECK_INT(hark__hosts_come_first(), lines[i].first);
	}
}

static void ask_cancelled(void *arg)
{
	struct hark_endpoint e;
	(void)arg;
	CHECK_INT(hark_sleep(HARK_S), -ECANCELED);
	CHECK_INT(hark_resolve("tcp://127.0.0.1:80", &e, 1, HARK_FOREVER), -ECANCELED);
	CHECK_INT(hark_resolve("unix:/x", &e, 1, HARK_FOREVER), -ECANCELED);
	CHECK_INT(hark_resolve("tcp://localhost:80", &e, 1, HARK_FOREVER), -ECANCELED);
}

static void ask_in_a_cancelled_fiber(void)
{
	struct hark_scope s;
	hark_scope_open(&s);
	CHECK_INT(hark_go(&s, "asks", ask_cancelled, NULL), 0);
	CHECK_INT(hark_yield(), 0);
	hark_scope_close(&s);
}

static void a_cancelled_fiber_looks_nothing_up(void)
{
	CHECK(on_each_engine(ask_in_a_cancelled_fiber) > 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(numeric_addresses_ask_nobody, forbid_questions, allow_questions),
		cmocka_unit_test(a_star_is_loopback_to_dial),
		cmocka_unit_test(a_star_is_every_address_to_listen),
		cmocka_unit_test(scopes_are_interfaces),
		cmocka_unit_test(what_has_no_endpoint_is_refused),
		cmocka_unit_test_setup_teardown(a_question_without_memory_is_enomem, forbid_questions, allow_questions),
		cmocka_unit_test(service_names_are_looked_up_by_protocol),
		cmocka_unit_test(an_unknown_service_is_told_apart),
		IN_CHILD(many_addresses_of_one_family_leave_room_for_the_other),
		IN_CHILD(who_is_out_of_descriptors_is_not_told_that_there_is_no_such_host),
		IN_CHILD(names_are_looked_up_and_families_kept_apart),
		IN_CHILD(dead_name_servers_are_told_apart),
		IN_CHILD(a_look_up_ends_with_its_deadline),
		IN_CHILD(a_look_up_does_not_stall_the_loop),
		IN_CHILD(abandoned_look_ups_hold_up_neither_local_names_nor_offloads),
		IN_CHILD(localhost_is_loopback_whoever_would_be_asked),
		IN_CHILD(the_hosts_file_is_read_as_it_is_written),
		IN_CHILD(a_cancelled_fiber_looks_nothing_up),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
