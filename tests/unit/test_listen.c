/* test_listen.c — binding, adopting, replacing what the dead left, and the words for what does not work. */
#include "net_support.h"

#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>

#include "conn/listen.h"
#include "faults.h"

/* ---- support ---- */

static struct hark_why why;

static int open_at(const char *address, struct hark_listen_opts opts, struct hark_listener **out)
{
	*out = NULL;
	why.text[0] = '\0';
	opts.why = &why;
	return hark_listen(address, &opts, out);
}

static struct hark_listener *must_open(const char *address, struct hark_listen_opts opts)
{
	struct hark_listener *l;
	if (open_at(address, opts, &l) != 0)
		fail_msg("%s", why.text);
	return l;
}

static int port_bound(const struct hark_listener *l)
{
	char text[HARK_ADDRESS_MAX];
	assert_true(hark_listener_address(l, text, sizeof text) > 0);
	return atoi(strrchr(text, ':') + 1);
}

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

/* Namespaces of the test's machine may have no IPv6. */
static void need_ipv6(void)
{
	struct hark_endpoint e;
	int fd = plain_listener("::1", 1, &e);
	if (fd < 0) {
		print_message("skipped: no IPv6 on loopback\n");
		skip();
	}
	(void)close(fd);
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

static char directory[] = "/tmp/hark-listen-XXXXXX";
static char path[sizeof directory + 8], address[sizeof path + 16], gram[sizeof path + 16];

static int make_directory(void **state)
{
	(void)state;
	(void)strcpy(directory + sizeof directory - 7, "XXXXXX");
	if (mkdtemp(directory) == NULL)
		return -1;
	(void)snprintf(path, sizeof path, "%s/s", directory);
	(void)snprintf(address, sizeof address, "unix:%s", path);
	(void)snprintf(gram, sizeof gram, "unixgram:%s", path);
	return 0;
}

static int remove_directory(void **state)
{
	(void)state;
	(void)unlink(path);
	return rmdir(directory);
}

/* A socket bound to path as a server that died, or lives, leaves it. */
static int leave_path(int type, bool listening)
{
	struct sockaddr_un at = {.sun_family = AF_UNIX};
	(void)snprintf(at.sun_path, sizeof at.sun_path, "%s", path);
	int fd = socket(AF_UNIX, type | SOCK_CLOEXEC, 0);
	assert_true(fd >= 0);
	assert_int_equal(bind(fd, (struct sockaddr *)&at, sizeof at), 0);
	if (listening)
		assert_int_equal(listen(fd, 0), 0);
	return fd;
}

static bool exists(void)
{
	struct stat st;
	return lstat(path, &st) == 0;
}

static void a_unix_path_is_made_and_removed(void **state)
{
	(void)state;
	char text[HARK_ADDRESS_MAX];
	for (int i = 0; i < 2; i++) {
		struct hark_listener *l = must_open(i == 0 ? address : gram, (struct hark_listen_opts){0});
		assert_true(hark_listener_address(l, text, sizeof text) > 0);
		assert_string_equal(text, i == 0 ? address : gram);
		assert_int_equal(hark_listener_type(l), i == 0 ? SOCK_STREAM : SOCK_DGRAM);
		assert_true(exists());
		hark_listener_close(l);
		assert_false(exists());
	}
}

static void mode_and_owner_are_set(void **state)
{
	(void)state;
	struct stat st;
	char owner[64];
	mode_t umask_before = umask(077);
	struct hark_listener *l = must_open(address, (struct hark_listen_opts){.unix_mode = 0662});
	(void)umask(umask_before);
	assert_int_equal(lstat(path, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0662);
	hark_listener_close(l);
	(void)snprintf(owner, sizeof owner, ":%u", (unsigned)getegid());
	l = must_open(address, (struct hark_listen_opts){.unix_owner = owner});
	assert_int_equal(lstat(path, &st), 0);
	assert_int_equal(st.st_gid, getegid());
	hark_listener_close(l);
	if (geteuid() != 0) {
		print_message("skipped in part: giving a path away needs root\n");
		return;
	}
	l = must_open(address, (struct hark_listen_opts){.unix_owner = "12345:54321", .unix_mode = 0600});
	assert_int_equal(lstat(path, &st), 0);
	assert_int_equal(st.st_uid, 12345);
	assert_int_equal(st.st_gid, 54321);
	hark_listener_close(l);
	l = must_open(address, (struct hark_listen_opts){.unix_owner = "root:root"});
	assert_int_equal(lstat(path, &st), 0);
	assert_int_equal(st.st_uid, 0);
	hark_listener_close(l);
}

static int (*real_bind)(int fd, const struct sockaddr *at, socklen_t len);
static mode_t mode_at_bind;

static int bind_looking(int fd, const struct sockaddr *at, socklen_t len)
{
	struct stat st = {0};
	int r = real_bind(fd, at, len);
	assert_int_equal(lstat(path, &st), 0);
	mode_at_bind = st.st_mode & 0777;
	return r;
}

static void nobody_has_rights_that_are_to_be_taken_away(void **state)
{
	(void)state;
	mode_t before = umask(0);
	real_bind = hark__sys.bind;
	hark__sys.bind = bind_looking;
	struct hark_listener *l = must_open(gram, (struct hark_listen_opts){.unix_mode = 0600});
	hark__sys.bind = real_bind;
	(void)umask(before);
	assert_int_equal(mode_at_bind, 0600);
	hark_listener_close(l);
}

static void an_unknown_owner_is_told_before_anything_is_made(void **state)
{
	(void)state;
	struct hark_listener *l;
	static const char *const owners[] = {"no-such-user", ":no-such-group", "0:no-such-group", "99999999999999"};
	static const char *const told[] = {"no user \"no-such-user\")", "no group \"no-such-group\")",
	                                   "no group \"no-such-group\")", "no user \"99999999999999\")"};
	for (size_t i = 0; i < sizeof owners / sizeof *owners; i++) {
		assert_int_equal(open_at(address, (struct hark_listen_opts){.unix_owner = owners[i]}, &l), -EINVAL);
		assert_non_null(strstr(why.text, told[i]));
		assert_false(exists());
	}
}

static void a_path_left_by_the_dead_is_replaced(void **state)
{
	(void)state;
	static const int types[] = {SOCK_STREAM, SOCK_DGRAM};
	for (int i = 0; i < 4; i++) {
		struct stat left, made;
		(void)close(leave_path(types[i / 2], i < 2));
		assert_int_equal(lstat(path, &left), 0);
		struct hark_listener *l = must_open(i % 2 == 0 ? address : gram, (struct hark_listen_opts){0});
		assert_int_equal(lstat(path, &made), 0);
		assert_true(S_ISSOCK(made.st_mode));
		hark_listener_close(l);
		assert_false(exists());
	}
}

static void a_live_path_is_refused(void **state)
{
	(void)state;
	static const int types[] = {SOCK_STREAM, SOCK_DGRAM};
	for (int i = 0; i < 4; i++) {
		struct hark_listener *l;
		struct stat before, after;
		int fd = leave_path(types[i / 2], i < 2);
		assert_int_equal(lstat(path, &before), 0);
		assert_int_equal(open_at(i % 2 == 0 ? address : gram, (struct hark_listen_opts){0}, &l), -EADDRINUSE);
		assert_non_null(
			strstr(why.text, "Address already in use (a live server has this path: ss -xlp tells which)"));
		assert_int_equal(lstat(path, &after), 0);
		assert_int_equal(before.st_ino, after.st_ino);
		(void)close(fd);
		(void)unlink(path);
	}
}

static void a_live_path_with_a_full_backlog_is_refused(void **state)
{
	(void)state;
	struct hark_listener *l;
	struct sockaddr_un at = {.sun_family = AF_UNIX};
	int fd = leave_path(SOCK_STREAM, true), filler = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	(void)snprintf(at.sun_path, sizeof at.sun_path, "%s", path);
	assert_int_equal(connect(filler, (struct sockaddr *)&at, sizeof at), 0);
	assert_int_equal(open_at(address, (struct hark_listen_opts){0}, &l), -EADDRINUSE);
	assert_true(exists());
	(void)close(filler);
	(void)close(fd);
}

static int told_fd, heard_fd;
static int (*real_unlink)(const char *);

/* Between its last look at a stale path and its removal a starter is overtaken by another, if that one can. */
static int unlink_late(const char *p)
{
	struct pollfd wait = {.fd = heard_fd, .events = POLLIN};
	CHECK_INT(write(told_fd, "x", 1), 1);
	(void)poll(&wait, 1, 300);
	return real_unlink(p);
}

/* Lives on, so that its path does. */
static _Noreturn void start_and_tell(int results)
{
	struct hark_listener *l;
	(void)alarm(30);
	int rc = open_at(address, (struct hark_listen_opts){0}, &l);
	CHECK_INT(write(results, rc == 0 ? "l" : rc == -EADDRINUSE ? "r" : "?", 1), 1);
	for (;;)
		(void)pause();
}

static void two_starters_at_one_stale_path_do_not_both_get_it(void **state)
{
	(void)state;
	int late[2], results[2];
	pid_t pids[2];
	char byte, got[2];
	(void)close(leave_path(SOCK_STREAM, true));
	assert_int_equal(pipe2(late, O_CLOEXEC), 0);
	assert_int_equal(pipe2(results, O_CLOEXEC), 0);
	pids[0] = fork();
	if (pids[0] == 0) {
		told_fd = late[1];
		heard_fd = results[0];
		real_unlink = hark__sys.unlink;
		hark__sys.unlink = unlink_late;
		start_and_tell(results[1]);
	}
	pids[1] = fork();
	if (pids[1] == 0) {
		CHECK_INT(read(late[0], &byte, 1), 1);
		start_and_tell(results[1]);
	}
	assert_true(pids[0] > 0 && pids[1] > 0);
	for (int i = 0; i < 2; i++)
		assert_int_equal(read(results[0], &got[i], 1), 1);
	for (int i = 0; i < 2; i++) {
		assert_int_equal(kill(pids[i], SIGKILL), 0);
		assert_int_equal(waitpid(pids[i], NULL, 0), pids[i]);
		(void)close(late[i]);
		(void)close(results[i]);
	}
	(void)unlink(path);
	assert_true((got[0] == 'l' && got[1] == 'r') || (got[0] == 'r' && got[1] == 'l'));
}

static int starting_fd;
static int (*real_connect)(int fd, const struct sockaddr *to, socklen_t len);

/* The server that is just starting gets to its listen(2) right after somebody found it refusing. */
static int connect_then_listen(int fd, const struct sockaddr *to, socklen_t len)
{
	int rc = real_connect(fd, to, len), err = errno;
	(void)listen(starting_fd, 1);
	errno = err;
	return rc;
}

/* bind(2) done, listen(2) not yet: connecting is refused as if nobody were there. */
static void a_server_that_is_just_starting_is_not_taken_for_dead(void **state)
{
	(void)state;
	struct hark_listener *l;
	starting_fd = leave_path(SOCK_STREAM, false);
	real_connect = hark__sys.connect;
	hark__sys.connect = connect_then_listen;
	int rc = open_at(address, (struct hark_listen_opts){0}, &l);
	hark__sys.connect = real_connect;
	assert_int_equal(rc, -EADDRINUSE);
	assert_true(exists());
	(void)close(starting_fd);
}

static void what_is_not_a_socket_is_never_removed(void **state)
{
	(void)state;
	struct hark_listener *l;
	struct stat st;
	for (int i = 0; i < 2; i++) {
		if (i == 0)
			(void)close(open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
		else
			assert_int_equal(symlink("/nonexistent", path), 0);
		assert_int_equal(open_at(address, (struct hark_listen_opts){0}, &l), -EADDRINUSE);
		assert_non_null(strstr(
			why.text, "Address already in use (the path exists and is not a socket: it is not removed)"));
		assert_int_equal(lstat(path, &st), 0);
		assert_false(S_ISSOCK(st.st_mode));
		(void)unlink(path);
	}
}

static void a_path_that_is_anothers_by_now_is_left_to_it(void **state)
{
	(void)state;
	struct hark_listener *l = must_open(address, (struct hark_listen_opts){0});
	assert_int_equal(unlink(path), 0);
	int fd = leave_path(SOCK_STREAM, true);
	hark_listener_close(l);
	assert_true(exists());
	(void)close(fd);
}

static void relative_body(void)
{
	struct hark_listener *l;
	struct stat st;
	char base[64];
	(void)snprintf(base, sizeof base, "/tmp/hark-unit-dir-%d", (int)getpid());
	CHECK(mkdir(base, 0700) == 0 && chdir(base) == 0 && mkdir("sub", 0700) == 0);
	CHECK_INT(hark_listen("unix:s", NULL, &l), 0);
	CHECK(chdir("sub") == 0);
	int other = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0); /* of the same name, elsewhere */
	struct sockaddr_un at = {.sun_family = AF_UNIX, .sun_path = "s"};
	CHECK_INT(bind(other, (struct sockaddr *)&at, sizeof at), 0);
	hark_listener_close(l);
	CHECK_INT(lstat("../s", &st), -1);
	CHECK_INT(lstat("s", &st), 0);
	CHECK(unlink("s") == 0 && chdir("/") == 0);
	(void)snprintf(base, sizeof base, "/tmp/hark-unit-dir-%d/sub", (int)getpid());
	CHECK(rmdir(base) == 0);
	*strrchr(base, '/') = '\0';
	CHECK(rmdir(base) == 0);
}

static void a_relative_path_is_removed_where_it_was_made(void **state)
{
	(void)state;
	run_in_child(relative_body);
}

static void a_child_does_not_remove_its_parents_path(void **state)
{
	(void)state;
	struct hark_listener *l = must_open(address, (struct hark_listen_opts){0});
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		hark_listener_close(l);
		_exit(0);
	}
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	assert_true(exists());
	hark_listener_close(l);
	assert_false(exists());
}

static void an_abstract_name_leaves_no_path(void **state)
{
	(void)state;
	char name[64], text[HARK_ADDRESS_MAX];
	struct hark_listener *second;
	(void)snprintf(name, sizeof name, "unix:@hark-unit-%d", (int)getpid());
	struct hark_listener *l = must_open(name, (struct hark_listen_opts){.unix_mode = 0600, .unix_owner = "0"});
	assert_true(hark_listener_address(l, text, sizeof text) > 0);
	assert_string_equal(text, name);
	assert_int_equal(open_at(name, (struct hark_listen_opts){0}, &second), -EADDRINUSE);
	assert_non_null(strstr(why.text, "a live server has this name"));
	hark_listener_close(l);
	hark_listener_close(must_open(name, (struct hark_listen_opts){0}));
}

static void a_missing_directory_is_told(void **state)
{
	(void)state;
	struct hark_listener *l;
	char text[sizeof address + 8];
	(void)snprintf(text, sizeof text, "%s/x", address);
	assert_int_equal(open_at(text, (struct hark_listen_opts){0}, &l), -ENOENT);
	assert_non_null(strstr(why.text, "No such file or directory (there is no such directory)"));
}

/* ---- handed over ---- */

/* In a child: puts fd at number and tells the environment of count descriptors from 3 on. */
static void hand_over(int count, const char *names)
{
	char text[16];
	(void)snprintf(text, sizeof text, "%d", (int)getpid());
	CHECK(setenv("LISTEN_PID", text, 1) == 0);
	(void)snprintf(text, sizeof text, "%d", count);
	CHECK(setenv("LISTEN_FDS", text, 1) == 0);
	CHECK((names != NULL ? setenv("LISTEN_FDNAMES", names, 1) : unsetenv("LISTEN_FDNAMES")) == 0);
}

static void put_at(int fd, int number)
{
	CHECK(fd >= 0);
	CHECK(dup2(fd, number) == number); /* not close-on-exec: as a manager hands it over */
	(void)close(fd);
}

static void adopt_by_address(void)
{
	struct hark_endpoint at;
	struct hark_listener *l, *second;
	char text[64];
	put_at(fcntl(plain_listener("127.0.0.1", 8, &at), F_DUPFD_CLOEXEC, 20), 3);
	(void)snprintf(text, sizeof text, "tcp://127.0.0.1:%d", port_of(&at));
	hand_over(1, NULL);
	CHECK_INT(hark_listen_fds(), 1);
	CHECK_INT(fcntl(3, F_GETFD), FD_CLOEXEC);
	CHECK_INT(open_at(text, (struct hark_listen_opts){0}, &l), 0);
	CHECK_INT(hark_listener_fd(l), 3);
	CHECK(fcntl(3, F_GETFL) & O_NONBLOCK);
	CHECK_INT(open_at(text, (struct hark_listen_opts){0}, &second), -EADDRINUSE); /* it is handed over once */
	CHECK_INT(open_at("fd:3", (struct hark_listen_opts){0}, &second), -EBADF);
	CHECK_HAS(why.text, "listen fd:3: Bad file descriptor (it was listened on before in this process)");
	hark_listener_close(l);
}

static void a_socket_handed_over_is_adopted_by_its_address(void **state)
{
	(void)state;
	run_in_child(adopt_by_address);
}

static void adopt_the_star(void)
{
	struct hark_listener *l, *made;
	char text[64];
	CHECK_INT(dup2(STDERR_FILENO, 3), 3); /* not made's own */
	CHECK_INT(open_at("tcp://*:0", (struct hark_listen_opts){0}, &made), 0);
	(void)snprintf(text, sizeof text, "tcp://*:%d", port_bound(made));
	put_at(fcntl(hark_listener_fd(made), F_DUPFD_CLOEXEC, 20), 3);
	hand_over(1, NULL);
	CHECK_INT(open_at(text, (struct hark_listen_opts){0}, &l), 0);
	CHECK_INT(hark_listener_fd(l), 3);
	CHECK_INT(l->dual_stack, made->dual_stack);
}

/* Each hands over one kind and asks for the other: it is not taken, so that the port is still in use. */
static void adopt_no_other_kind(void)
{
	static const char *const stream[] = {"tcp://*", "tcp6://*"}, *const datagrams[] = {"udp://*", "udp6://*"};
	for (int kind = 0; kind < 4; kind++) {
		const char *const *pair = kind < 2 ? stream : datagrams;
		const char *made_as = pair[kind % 2], *asked_as = pair[!(kind % 2)];
		struct hark_listener *l, *made;
		char text[64];
		pid_t pid = fork();
		CHECK(pid >= 0);
		if (pid > 0) {
			int status;
			CHECK_INT(waitpid(pid, &status, 0), pid);
			CHECK_INT(status, 0);
			continue;
		}
		(void)snprintf(text, sizeof text, "%s:0", made_as);
		CHECK_INT(dup2(STDERR_FILENO, 3), 3); /* not made's own */
		CHECK_INT(open_at(text, (struct hark_listen_opts){0}, &made), 0);
		int port = port_bound(made);
		put_at(fcntl(hark_listener_fd(made), F_DUPFD_CLOEXEC, 20), 3);
		hand_over(1, NULL);
		(void)snprintf(text, sizeof text, "%s:%d", asked_as, port);
		CHECK_INT(open_at(text, (struct hark_listen_opts){0}, &l), -EADDRINUSE);
		(void)snprintf(text, sizeof text, "%s:%d", made_as, port);
		CHECK_INT(open_at(text, (struct hark_listen_opts){0}, &l), 0);
		CHECK_INT(hark_listener_fd(l), 3);
		_exit(0);
	}
}

static void a_star_adopts_no_socket_of_other_families(void **state)
{
	(void)state;
	need_ipv6();
	run_in_child(adopt_no_other_kind);
}

static void a_socket_without_an_address_is_not_listened_on(void **state)
{
	struct hark_listener *l;
	char text[16];
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	(void)state;
	(void)snprintf(text, sizeof text, "fd:%d", fd);
	assert_int_equal(open_at(text, (struct hark_listen_opts){0}, &l), -EINVAL);
	assert_non_null(strstr(why.text, "it is a datagram socket that is not bound"));
	(void)close(fd);
}

static void a_descriptor_has_one_listener(void **state)
{
	struct hark_endpoint at;
	struct hark_listener *l, *second;
	char text[16];
	(void)state;
	(void)snprintf(text, sizeof text, "fd:%d", plain_listener("127.0.0.1", 8, &at));
	assert_int_equal(hark_listen(text, NULL, &l), 0);
	assert_int_equal(open_at(text, (struct hark_listen_opts){0}, &second), -EBADF);
	assert_non_null(strstr(why.text, "a listener of this process has it"));
	hark_listener_close(l);
	assert_int_equal(hark_listen(text, NULL, &l), -EBADF);
}

static void a_star_is_adopted(void **state)
{
	(void)state;
	run_in_child(adopt_the_star);
}

static void adopt_by_name(void)
{
	struct hark_endpoint at;
	struct hark_listener *l;
	int udp = socket(AF_INET, SOCK_DGRAM, 0);
	CHECK(udp >= 0);
	struct sockaddr_in any = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	CHECK(bind(udp, (struct sockaddr *)&any, sizeof any) == 0);
	int a = fcntl(plain_listener("127.0.0.1", 8, &at), F_DUPFD, 20),
	    b = fcntl(plain_listener("127.0.0.1", 8, &at), F_DUPFD, 20);
	udp = fcntl(udp, F_DUPFD, 20);
	put_at(a, 3);
	put_at(b, 4);
	put_at(udp, 5);
	hand_over(3, "web:web:time");
	CHECK_INT(hark_listen_fds(), 3);
	CHECK_INT(open_at("fd:time", (struct hark_listen_opts){0}, &l), 0);
	CHECK_INT(hark_listener_fd(l), 5);
	CHECK_INT(hark_listener_type(l), SOCK_DGRAM);
	CHECK_INT(fcntl(5, F_GETFL) & O_NONBLOCK, 0);
	int pktinfo = 0;
	socklen_t len = sizeof pktinfo;
	CHECK(getsockopt(5, IPPROTO_IP, IP_PKTINFO, &pktinfo, &len) == 0 && pktinfo == 1);
	CHECK_INT(open_at("fd:web", (struct hark_listen_opts){0}, &l), 0);
	CHECK_INT(hark_listener_fd(l), 3);
	CHECK_INT(open_at("fd:web", (struct hark_listen_opts){0}, &l), 0); /* the next one of that name */
	CHECK_INT(hark_listener_fd(l), 4);
	CHECK_INT(open_at("fd:web", (struct hark_listen_opts){0}, &l), -EBADF);
	CHECK_HAS(why.text,
	          "listen fd:web: Bad file descriptor (LISTEN_FDNAMES has no such name left for this process)");
}

static void sockets_handed_over_are_adopted_by_name(void **state)
{
	(void)state;
	run_in_child(adopt_by_name);
}

static void adopt_what_cannot_be(void)
{
	struct hark_listener *l;
	int pipes[2], tcp = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int packets = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	char text[32];
	CHECK(pipe2(pipes, O_CLOEXEC) == 0 && tcp >= 0 && packets >= 0);
	(void)snprintf(text, sizeof text, "fd:%d", pipes[0]);
	CHECK_INT(open_at(text, (struct hark_listen_opts){0}, &l), -ENOTSOCK);
	(void)snprintf(text, sizeof text, "fd:%d", tcp);
	CHECK_INT(open_at(text, (struct hark_listen_opts){0}, &l), -EINVAL);
	CHECK_HAS(why.text, "(it is a stream socket that does not listen)");
	(void)snprintf(text, sizeof text, "fd:%d", packets);
	CHECK_INT(open_at(text, (struct hark_listen_opts){0}, &l), -EINVAL);
	CHECK_HAS(why.text, "(it is a socket of neither streams nor datagrams)");
	CHECK_INT(open_at("fd:999", (struct hark_listen_opts){0}, &l), -EBADF);
	CHECK(fcntl(tcp, F_GETFD) >= 0); /* what was not taken is not closed */
}

static void what_cannot_be_listened_on_is_told(void **state)
{
	(void)state;
	run_in_child(adopt_what_cannot_be);
}

static void read_bad_environments(void)
{
	static const char *const counts[] = {"", "x", "-1", "1x", " 1", "99999999999999999999"};
	for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
		hand_over(1, NULL);
		CHECK(setenv("LISTEN_FDS", counts[i], 1) == 0);
		CHECK_INT(hark_listen_fds(), 0);
	}
	hand_over(1, NULL);
	CHECK(setenv("LISTEN_PID", "1", 1) == 0); /* somebody else's */
	CHECK_INT(hark_listen_fds(), 0);
	CHECK(unsetenv("LISTEN_PID") == 0);
	CHECK_INT(hark_listen_fds(), 0);
	hand_over(2000000000, "a");
	CHECK(hark_listen_fds() <= 4096);
}

static void an_environment_that_is_not_ours_hands_nothing_over(void **state)
{
	(void)state;
	run_in_child(read_bad_environments);
}

static void lie_about_descriptors(void)
{
	struct hark_listener *l, *second;
	char text[64];
	(void)close(3);
	hand_over(1, NULL); /* nothing is at 3, so that our own socket may come to be there */
	CHECK_INT(open_at("tcp://127.0.0.1:0", (struct hark_listen_opts){0}, &l), 0);
	CHECK_INT(hark_listener_fd(l), 3);
	(void)snprintf(text, sizeof text, "tcp://127.0.0.1:%d", port_bound(l));
	CHECK_INT(open_at(text, (struct hark_listen_opts){0}, &second), -EADDRINUSE);
}

static void our_own_socket_is_not_adopted_from_us(void **state)
{
	(void)state;
	run_in_child(lie_about_descriptors);
}

/* ---- every system call fails at its Nth use ---- */

FAULT(int, socket, (int a, int b, int c), (a, b, c))
FAULT(int, setsockopt, (int a, int b, int c, const void *d, socklen_t e), (a, b, c, d, e))
FAULT(int, getsockopt, (int a, int b, int c, void *d, socklen_t *e), (a, b, c, d, e))
FAULT(int, bind, (int a, const struct sockaddr *b, socklen_t c), (a, b, c))
FAULT(int, listen, (int a, int b), (a, b))
FAULT(int, getsockname, (int a, struct sockaddr *b, socklen_t *c), (a, b, c))
FAULT(int, lstat, (const char *a, struct stat *b), (a, b))
FAULT(int, chmod, (const char *a, mode_t b), (a, b))
FAULT(int, chown, (const char *a, uid_t b, gid_t c), (a, b, c))
FAULT_NULL(calloc, (size_t a, size_t b), (a, b))

static const struct fault faults[] = {
	FAULT_ROW(socket),      FAULT_ROW(setsockopt), FAULT_ROW(getsockopt), FAULT_ROW(bind),  FAULT_ROW(listen),
	FAULT_ROW(getsockname), FAULT_ROW(lstat),      FAULT_ROW(chmod),      FAULT_ROW(chown), FAULT_ROW(calloc),
};

static void a_failing_system_call_leaks_nothing(void **state)
{
	(void)state;
	const char *const addresses[] = {"tcp://*:0", "udp://127.0.0.1:0", address};
	char owner[32];
	int failed = 0, before = open_descriptors();
	(void)snprintf(owner, sizeof owner, "%u", (unsigned)geteuid());
	for (size_t i = 0; i < 3 * (sizeof faults / sizeof *faults); i++) {
		const struct fault *fault = &faults[i / 3];
		for (int nth = 1; nth < 32; nth++) {
			struct hark_listener *l;
			fault->install();
			fault_countdown = nth;
			int rc = open_at(addresses[i % 3],
			                 (struct hark_listen_opts){.unix_mode = 0600, .unix_owner = owner}, &l);
			bool used = fault_countdown == 0;
			fault_countdown = 0;
			fault->remove();
			failed += rc < 0;
			assert_true(rc == 0 || (rc == -ENOMEM && l == NULL && strncmp(why.text, "listen ", 7) == 0));
			hark_listener_close(l);
			assert_int_equal(open_descriptors(), before);
			if (strcmp(fault->name, "lstat") != 0) /* what cannot be looked at cannot be known to be ours */
				assert_false(exists());
			(void)unlink(path);
			if (!used) {
				assert_int_equal(rc, 0);
				break;
			}
		}
	}
	assert_true(failed > 15); /* the faults do reach the listener */
}

static void adopt_after_a_failure(void)
{
	struct hark_endpoint at;
	struct hark_listener *l;
	char text[64];
	put_at(fcntl(plain_listener("127.0.0.1", 8, &at), F_DUPFD_CLOEXEC, 20), 3);
	(void)snprintf(text, sizeof text, "tcp://127.0.0.1:%d", port_of(&at));
	hand_over(1, NULL);
	fault_install_calloc();
	fault_countdown = 1;
	CHECK_INT(open_at("fd:3", (struct hark_listen_opts){0}, &l), -ENOMEM);
	fault_remove_calloc();
	CHECK_INT(open_at(text, (struct hark_listen_opts){0}, &l), 0);
	CHECK_INT(hark_listener_fd(l), 3);
	hark_listener_close(l);
}

static void what_could_not_be_adopted_for_want_of_memory_can_be_later(void **state)
{
	(void)state;
	run_in_child(adopt_after_a_failure);
}

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
		cmocka_unit_test_setup_teardown(a_unix_path_is_made_and_removed, make_directory, remove_directory),
		cmocka_unit_test_setup_teardown(mode_and_owner_are_set, make_directory, remove_directory),
		cmocka_unit_test_setup_teardown(nobody_has_rights_that_are_to_be_taken_away, make_directory,
	                                        remove_directory),
		cmocka_unit_test_setup_teardown(an_unknown_owner_is_told_before_anything_is_made, make_directory,
	                                        remove_directory),
		cmocka_unit_test_setup_teardown(a_path_left_by_the_dead_is_replaced, make_directory, remove_directory),
		cmocka_unit_test_setup_teardown(a_live_path_is_refused, make_directory, remove_directory),
		cmocka_unit_test_setup_teardown(a_live_path_with_a_full_backlog_is_refused, make_directory,
	                                        remove_directory),
		cmocka_unit_test_setup_teardown(a_server_that_is_just_starting_is_not_taken_for_dead, make_directory,
	                                        remove_directory),
		cmocka_unit_test_setup_teardown(two_starters_at_one_stale_path_do_not_both_get_it, make_directory,
	                                        remove_directory),
		cmocka_unit_test_setup_teardown(what_is_not_a_socket_is_never_removed, make_directory,
	                                        remove_directory),
		cmocka_unit_test_setup_teardown(a_path_that_is_anothers_by_now_is_left_to_it, make_directory,
	                                        remove_directory),
		cmocka_unit_test(a_relative_path_is_removed_where_it_was_made),
		cmocka_unit_test_setup_teardown(a_child_does_not_remove_its_parents_path, make_directory,
	                                        remove_directory),
		cmocka_unit_test_setup_teardown(an_abstract_name_leaves_no_path, make_directory, remove_directory),
		cmocka_unit_test_setup_teardown(a_missing_directory_is_told, make_directory, remove_directory),
		cmocka_unit_test(a_socket_handed_over_is_adopted_by_its_address),
		cmocka_unit_test(a_star_is_adopted),
		cmocka_unit_test(a_star_adopts_no_socket_of_other_families),
		cmocka_unit_test(a_descriptor_has_one_listener),
		cmocka_unit_test(a_socket_without_an_address_is_not_listened_on),
		cmocka_unit_test(sockets_handed_over_are_adopted_by_name),
		cmocka_unit_test(what_could_not_be_adopted_for_want_of_memory_can_be_later),
		cmocka_unit_test(what_cannot_be_listened_on_is_told),
		cmocka_unit_test(an_environment_that_is_not_ours_hands_nothing_over),
		cmocka_unit_test(our_own_socket_is_not_adopted_from_us),
		cmocka_unit_test_setup_teardown(a_failing_system_call_leaks_nothing, make_directory, remove_directory),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
