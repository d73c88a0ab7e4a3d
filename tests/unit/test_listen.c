/* test_listen.c — listening on Internet addresses, the backlog, and the words for what does not work. */
#include "listen_support.h"

#include <netinet/tcp.h>
#include <poll.h>

#include "base/sys.h"

/* ---- support ---- */

static int option(const struct hark_listener *l, int level, int name)
{
	int value = -1;
	socklen_t len = sizeof value;
	assert_int_equal(getsockopt(hark_listener_fd(l), level, name, &value, &len), 0);
	return value;
}

/* Whether a plain connect(2) to host reaches port. */
static bool reaches(const char *host, int port)
{
	struct hark_endpoint e;
	char address[80];
	(void)snprintf(address, sizeof address, strchr(host, ':') != NULL ? "[%s]:%d" : "%s:%d", host, port);
	if (hark_resolve(address, &e, 1, HARK_FOREVER) != 1)
		return false;
	int fd = socket(e.addr.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return false;
	bool connected = connect(fd, (struct sockaddr *)&e.addr, e.len) == 0;
	(void)close(fd);
	return connected;
}

/* ---- Internet ---- */

static void port_0_is_the_kernels_choice(void **state)
{
	(void)state;
	struct hark_listener *l = must_open("tcp://127.0.0.1:0", (struct hark_listen_opts){0});
	char text[HARK_ADDRESS_MAX], wanted[64];
	assert_true(port_bound(l) > 0);
	(void)snprintf(wanted, sizeof wanted, "tcp://127.0.0.1:%d", port_bound(l));
	assert_int_equal(hark_listener_address(l, text, sizeof text), strlen(wanted));
	assert_string_equal(text, wanted);
	assert_int_equal(hark_listener_address(l, text, strlen(wanted)), -ENOSPC);
	assert_true(reaches("127.0.0.1", port_bound(l)));
	assert_int_equal(hark_listener_type(l), SOCK_STREAM);
	hark_listener_close(l);
	hark_listener_close(NULL);
}

static void a_listening_socket_is_shareable_and_close_on_exec(void **state)
{
	(void)state;
	struct hark_listener *l = must_open("127.0.0.1:0", (struct hark_listen_opts){0});
	assert_true(fcntl(hark_listener_fd(l), F_GETFL) & O_NONBLOCK);
	assert_int_equal(fcntl(hark_listener_fd(l), F_GETFD), FD_CLOEXEC);
	assert_int_equal(option(l, SOL_SOCKET, SO_REUSEADDR), 1);
	assert_int_equal(option(l, SOL_SOCKET, SO_REUSEPORT), 0);
	assert_int_equal(option(l, SOL_SOCKET, SO_ACCEPTCONN), 1);
	int fd = hark_listener_fd(l);
	hark_listener_close(l);
	assert_int_equal(fcntl(fd, F_GETFD), -1);
}

static void a_star_takes_both_families(void **state)
{
	(void)state;
	need_ipv6();
	struct hark_listener *l = must_open("tcp://*:0", (struct hark_listen_opts){0});
	char text[HARK_ADDRESS_MAX];
	assert_true(hark_listener_address(l, text, sizeof text) > 0);
	assert_int_equal(strncmp(text, "tcp://*:", 8), 0);
	assert_int_equal(l->family, AF_INET6);
	assert_true(reaches("127.0.0.1", port_bound(l)));
	assert_true(reaches("::1", port_bound(l)));
	hark_listener_close(l);
}

static void v6only_takes_no_ipv4(void **state)
{
	(void)state;
	need_ipv6();
	static const char *const addresses[] = {"tcp://*:0", "tcp://[::]:0", "tcp6://*:0"};
	for (int i = 0; i < 3; i++) {
		struct hark_listener *l = must_open(addresses[i], (struct hark_listen_opts){.v6only = i < 2});
		char text[HARK_ADDRESS_MAX];
		assert_true(hark_listener_address(l, text, sizeof text) > 0);
		assert_int_equal(strncmp(text, "tcp://[::]:", 11), 0);
		assert_false(reaches("127.0.0.1", port_bound(l)));
		assert_true(reaches("::1", port_bound(l)));
		hark_listener_close(l);
	}
}

static void tcp4_and_tcp6_share_a_port(void **state)
{
	(void)state;
	need_ipv6();
	struct hark_listener *four = must_open("tcp4://*:0", (struct hark_listen_opts){0});
	char six_text[64];
	(void)snprintf(six_text, sizeof six_text, "tcp6://*:%d", port_bound(four));
	struct hark_listener *six = must_open(six_text, (struct hark_listen_opts){0});
	assert_int_equal(four->family, AF_INET);
	assert_int_equal(six->family, AF_INET6);
	hark_listener_close(four);
	hark_listener_close(six);
}

static int refused_family_errno, refused_bind_errno;
static int (*real_socket)(int domain, int type, int protocol);
static int (*real_bind)(int fd, const struct sockaddr *at, socklen_t len);

static int socket_without_ipv6(int domain, int type, int protocol)
{
	if (domain == AF_INET6 && refused_family_errno != 0) {
		errno = refused_family_errno;
		return -1;
	}
	return real_socket(domain, type, protocol);
}

static int bind_without_ipv6(int fd, const struct sockaddr *at, socklen_t len)
{
	if (at->sa_family == AF_INET6 && refused_bind_errno != 0) {
		errno = refused_bind_errno;
		return -1;
	}
	return real_bind(fd, at, len);
}

static void a_star_is_ipv4_where_there_is_no_ipv6(void **state)
{
	(void)state;
	real_socket = hark__sys.socket;
	real_bind = hark__sys.bind;
	hark__sys.socket = socket_without_ipv6;
	hark__sys.bind = bind_without_ipv6;
	for (int i = 0; i < 2; i++) {
		struct hark_listener *l;
		char text[HARK_ADDRESS_MAX] = "";
		int before = open_descriptors();
		refused_family_errno = i == 0 ? EAFNOSUPPORT : 0;
		refused_bind_errno = i == 1 ? EADDRNOTAVAIL : 0;
		int rc = open_at("tcp://*:0", (struct hark_listen_opts){0}, &l);
		assert_int_equal(rc, 0);
		assert_true(hark_listener_address(l, text, sizeof text) > 0);
		assert_int_equal(strncmp(text, "tcp://0.0.0.0:", 14), 0);
		hark_listener_close(l);
		rc = open_at("tcp://*:0", (struct hark_listen_opts){.v6only = true}, &l);
		assert_int_equal(rc, i == 0 ? -EAFNOSUPPORT : -EADDRNOTAVAIL);
		assert_int_equal(open_descriptors(), before);
	}
	hark__sys.socket = real_socket;
	hark__sys.bind = real_bind;
}

static void an_address_in_use_is_explained(void **state)
{
	(void)state;
	struct hark_listener *l = must_open("tcp://127.0.0.1:0", (struct hark_listen_opts){0}), *second;
	char address[64], wanted[256];
	(void)snprintf(address, sizeof address, "tcp://127.0.0.1:%d", port_bound(l));
	(void)snprintf(wanted, sizeof wanted,
	               "listen %s: Address already in use (another process listens there: ss -ltnp 'sport = :%d' "
	               "tells which)",
	               address, port_bound(l));
	assert_int_equal(open_at(address, (struct hark_listen_opts){0}, &second), -EADDRINUSE);
	assert_string_equal(why.text, wanted);
	assert_null(second);
	hark_listener_close(l);
	l = must_open("udp://127.0.0.1:0", (struct hark_listen_opts){0});
	(void)snprintf(address, sizeof address, "udp://127.0.0.1:%d", port_bound(l));
	/* Nobody takes our datagrams. */
	assert_int_equal(open_at(address, (struct hark_listen_opts){0}, &second), -EADDRINUSE);
	assert_non_null(strstr(why.text, "ss -lunp 'sport = :"));
	hark_listener_close(l);
}

static void a_restart_need_not_wait_for_time_wait(void **state)
{
	(void)state;
	struct hark_listener *l = must_open("tcp://127.0.0.1:0", (struct hark_listen_opts){0});
	struct pollfd p = {.fd = hark_listener_fd(l), .events = POLLIN};
	char address[64];
	(void)snprintf(address, sizeof address, "tcp://127.0.0.1:%d", port_bound(l));
	struct hark_endpoint e;
	assert_int_equal(hark_resolve(address, &e, 1, HARK_FOREVER), 1);
	int client = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(connect(client, (struct sockaddr *)&e.addr, e.len), 0);
	assert_int_equal(poll(&p, 1, 5000), 1);
	int served = accept(p.fd, NULL, NULL);
	(void)close(served); /* we end first: TIME_WAIT is ours */
	(void)close(client);
	hark_listener_close(l);
	hark_listener_close(must_open(address, (struct hark_listen_opts){0}));
}

static void reuseport_lets_two_listen(void **state)
{
	(void)state;
	struct hark_listener *a = must_open("tcp://127.0.0.1:0", (struct hark_listen_opts){.reuseport = true});
	char address[64];
	(void)snprintf(address, sizeof address, "tcp://127.0.0.1:%d", port_bound(a));
	struct hark_listener *b = must_open(address, (struct hark_listen_opts){.reuseport = true});
	assert_int_equal(port_bound(a), port_bound(b));
	hark_listener_close(a);
	hark_listener_close(b);
}

static void tcp_options_reach_the_socket(void **state)
{
	(void)state;
	struct hark_listener *l = must_open("tcp://127.0.0.1:0",
	                                    (struct hark_listen_opts){.defer_accept_s = 5,
	                                                              .fast_open_queue = 16,
	                                                              .send_buffer_bytes = 8192,
	                                                              .receive_buffer_bytes = 16384});
	assert_true(option(l, IPPROTO_TCP, TCP_DEFER_ACCEPT) >= 5);
	assert_int_equal(option(l, IPPROTO_TCP, TCP_FASTOPEN), 16);
	assert_int_equal(option(l, SOL_SOCKET, SO_SNDBUF), 2 * 8192);
	assert_int_equal(option(l, SOL_SOCKET, SO_RCVBUF), 2 * 16384);
	hark_listener_close(l);
}

static void datagrams_tell_where_they_were_sent(void **state)
{
	(void)state;
	struct hark_listener *four = must_open("udp://127.0.0.1:0", (struct hark_listen_opts){0});
	assert_int_equal(hark_listener_type(four), SOCK_DGRAM);
	assert_int_equal(option(four, IPPROTO_IP, IP_PKTINFO), 1);
	assert_int_equal(fcntl(hark_listener_fd(four), F_GETFL) & O_NONBLOCK, 0);
	hark_listener_close(four);
	need_ipv6();
	struct hark_listener *both = must_open("udp://*:0", (struct hark_listen_opts){0});
	char text[HARK_ADDRESS_MAX];
	assert_int_equal(option(both, IPPROTO_IPV6, IPV6_RECVPKTINFO), 1);
	assert_true(hark_listener_address(both, text, sizeof text) > 0);
	assert_int_equal(strncmp(text, "udp://*:", 8), 0);
	hark_listener_close(both);
}

static void a_reserved_port_as_nobody(void)
{
	struct hark_listener *l;
	if (geteuid() == 0 && setuid(65534) < 0)
		skip_child("the user cannot be changed");
	CHECK_INT(open_at("tcp://*:13", (struct hark_listen_opts){0}, &l), -EACCES);
	CHECK_INT(strcmp(why.text,
	                 "listen tcp://*:13: Permission denied (ports below 1024 need root or CAP_NET_BIND_SERVICE)"),
	          0);
}

static void a_port_that_this_machine_reserves_as_nobody(void)
{
	struct hark_listener *l;
	enter_own_network();
	int fd = open("/proc/sys/net/ipv4/ip_unprivileged_port_start", O_WRONLY | O_CLOEXEC);
	if (fd < 0 || write(fd, "5000", 4) != 4)
		skip_child("what is reserved cannot be changed");
	(void)close(fd);
	if (geteuid() == 0 && setuid(65534) < 0)
		skip_child("the user cannot be changed");
	CHECK_INT(open_at("tcp://*:4000", (struct hark_listen_opts){0}, &l), -EACCES);
	CHECK_INT(strcmp(why.text,
	                 "listen tcp://*:4000: Permission denied (ports below 5000 need root or CAP_NET_BIND_SERVICE)"),
	          0);
}

static void a_reserved_port_without_the_right_to_it_is_explained(void **state)
{
	(void)state;
	run_in_child(a_reserved_port_as_nobody);
	run_in_child(a_port_that_this_machine_reserves_as_nobody);
}

static void other_failures_say_what_and_where(void **state)
{
	(void)state;
	struct hark_listener *l;
	assert_int_equal(open_at("tcp://192.0.2.77:0", (struct hark_listen_opts){0}, &l), -EADDRNOTAVAIL);
	assert_string_equal(
		why.text,
		"listen tcp://192.0.2.77:0: Cannot assign requested address (no interface here has this address)");
	assert_int_equal(open_at("tcp://[fe80::1%nosuchif]:0", (struct hark_listen_opts){0}, &l), -EINVAL);
	assert_string_equal(
		why.text,
		"listen tcp://[fe80::1%nosuchif]:0: Invalid argument (no interface here has the scope's name)");
	assert_int_equal(open_at("tcp://x:70000", (struct hark_listen_opts){0}, &l), -EINVAL);
	assert_string_equal(why.text, "port 70000 is above 65535 in \"tcp://x:70000\"");
	assert_int_equal(open_at("tcp://*:no-such-service", (struct hark_listen_opts){0}, &l), -HARK_ENOSERVICE);
	assert_string_equal(why.text, "listen tcp://*:no-such-service: No such service");
	assert_int_equal(hark_listen("tcp://192.0.2.77:0", NULL, &l), -EADDRNOTAVAIL);
}

/* ---- backlog ---- */

static int backlog_seen;
static int (*real_listen)(int fd, int backlog);

static int listen_noting(int fd, int backlog)
{
	backlog_seen = backlog;
	return real_listen(fd, backlog);
}

static int backlog_with(const char *listenq, int asked)
{
	if (listenq != NULL)
		(void)setenv("LISTENQ", listenq, 1);
	real_listen = hark__sys.listen;
	hark__sys.listen = listen_noting;
	struct hark_listener *l = must_open("tcp://127.0.0.1:0", (struct hark_listen_opts){.backlog = asked});
	hark__sys.listen = real_listen;
	hark_listener_close(l);
	(void)unsetenv("LISTENQ");
	return backlog_seen;
}

static void the_backlog_is_listenq_or_what_is_asked_for_or_somaxconn(void **state)
{
	(void)state;
	assert_int_equal(backlog_with(NULL, 0), SOMAXCONN);
	assert_int_equal(backlog_with("17", 0), 17);
	assert_int_equal(backlog_with(NULL, 5), 5);
	assert_int_equal(backlog_with("17", 5), 17);
	assert_int_equal(backlog_with("rubbish", 5), 5);
	assert_int_equal(backlog_with("rubbish", 0), SOMAXCONN);
	assert_int_equal(backlog_with("-3", 0), SOMAXCONN);
	assert_int_equal(backlog_with("99999999999999", 0), SOMAXCONN);
}

/* ---- unix ---- */

static int (*real_bind)(int fd, const struct sockaddr *at, socklen_t len);

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(port_0_is_the_kernels_choice),
		cmocka_unit_test(a_listening_socket_is_shareable_and_close_on_exec),
		cmocka_unit_test(a_star_takes_both_families),
		cmocka_unit_test(v6only_takes_no_ipv4),
		cmocka_unit_test(tcp4_and_tcp6_share_a_port),
		cmocka_unit_test(a_star_is_ipv4_where_there_is_no_ipv6),
		cmocka_unit_test(an_address_in_use_is_explained),
		cmocka_unit_test(a_restart_need_not_wait_for_time_wait),
		cmocka_unit_test(reuseport_lets_two_listen),
		cmocka_unit_test(tcp_options_reach_the_socket),
		cmocka_unit_test(datagrams_tell_where_they_were_sent),
		cmocka_unit_test(a_reserved_port_without_the_right_to_it_is_explained),
		cmocka_unit_test(other_failures_say_what_and_where),
		cmocka_unit_test(the_backlog_is_listenq_or_what_is_asked_for_or_somaxconn),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
