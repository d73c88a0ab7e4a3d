/* test_dial.c — what a dialed connection is like, what dialing leaves behind, and what it says when it fails. */
#include "dial_support.h"

#include <net/route.h>
#include <netinet/tcp.h>

#include "faults.h"
#include "modes.h"

/* ---- support ---- */

static int dial(const char *address, struct hark_dial_opts opts, struct dialed *d)
{
	memset(d, 0, sizeof *d);
	opts.report = &d->report;
	opts.why = &d->why;
	if (opts.deadline == 0)
		opts.deadline = hark_after(10 * HARK_S);
	return hark_dial(address, &opts, &d->conn);
}

static int option(const struct dialed *d, int level, int name)
{
	int value = -1;
	socklen_t len = sizeof value;
	assert_int_equal(getsockopt(d->conn->src.fd, level, name, &value, &len), 0);
	return value;
}

/* ---- what a connection is like ---- */

static void a_dialed_socket_is_blocking_close_on_exec_and_prompt(void **state)
{
	(void)state;
	struct hark_endpoint at;
	struct dialed d;
	char address[64];
	int live = plain_listener("127.0.0.1", 8, &at);
	(void)snprintf(address, sizeof address, "127.0.0.1:%d", port_of(&at));
	assert_int_equal(dial(address, (struct hark_dial_opts){0}, &d), 0);
	assert_int_equal(fcntl(d.conn->src.fd, F_GETFL) & O_NONBLOCK, 0);
	assert_false(d.conn->nonblock);
	assert_int_equal(fcntl(d.conn->src.fd, F_GETFD), FD_CLOEXEC);
	assert_int_equal(option(&d, IPPROTO_TCP, TCP_NODELAY), 1);
	assert_int_equal(option(&d, SOL_SOCKET, SO_KEEPALIVE), 0);
	assert_int_equal(hark_type(d.conn), SOCK_STREAM);
	assert_int_equal(d.report.n, 1);
	hang_up(&d);
	(void)close(live);
}

static void options_reach_the_socket(void **state)
{
	(void)state;
	struct hark_endpoint at;
	struct dialed d;
	char address[64];
	int live = plain_listener("127.0.0.1", 8, &at);
	(void)snprintf(address, sizeof address, "tcp://127.0.0.1:%d", port_of(&at));
	assert_int_equal(dial(address,
	                      (struct hark_dial_opts){.nagle = true,
	                                              .keepalive = true,
	                                              .linger_s = 7,
	                                              .fast_open = true,
	                                              .send_buffer_bytes = 8192,
	                                              .receive_buffer_bytes = 16384},
	                      &d),
	                 0);
	struct linger linger = {0};
	socklen_t len = sizeof linger;
	assert_int_equal(getsockopt(d.conn->src.fd, SOL_SOCKET, SO_LINGER, &linger, &len), 0);
	assert_int_equal(linger.l_onoff, 1);
	assert_int_equal(linger.l_linger, 7);
	assert_int_equal(option(&d, IPPROTO_TCP, TCP_NODELAY), 0);
	assert_int_equal(option(&d, SOL_SOCKET, SO_KEEPALIVE), 1);
	assert_int_equal(option(&d, IPPROTO_TCP, TCP_FASTOPEN_CONNECT), 1);
	assert_int_equal(option(&d, SOL_SOCKET, SO_SNDBUF), 2 * 8192); /* socket(7): the kernel doubles it */
	assert_int_equal(option(&d, SOL_SOCKET, SO_RCVBUF), 2 * 16384);
	hang_up(&d);
	(void)close(live);
}

static void udp_is_connected(void **state)
{
	(void)state;
	struct dialed d;
	struct sockaddr_in peer;
	socklen_t len = sizeof peer;
	assert_int_equal(dial("udp://127.0.0.1:9", (struct hark_dial_opts){0}, &d), 0);
	assert_int_equal(hark_type(d.conn), SOCK_DGRAM);
	assert_int_equal(getpeername(d.conn->src.fd, (struct sockaddr *)&peer, &len), 0);
	assert_int_equal(ntohs(peer.sin_port), 9);
	assert_int_equal(fcntl(d.conn->src.fd, F_GETFL) & O_NONBLOCK, 0);
	hang_up(&d);
}

static struct sockaddr_in local_of(const struct dialed *d)
{
	struct sockaddr_in at = {0};
	socklen_t len = sizeof at;
	assert_int_equal(getsockname(d->conn->src.fd, (struct sockaddr *)&at, &len), 0);
	return at;
}

static void a_local_address_is_come_from(void **state)
{
	(void)state;
	struct hark_endpoint at;
	struct dialed d;
	char address[64], local[64];
	struct hark_endpoint unused = nobody();
	int live = plain_listener("127.0.0.1", 8, &at), free_port = port_of(&unused);
	(void)snprintf(address, sizeof address, "tcp://127.0.0.1:%d", port_of(&at));
	assert_int_equal(dial(address, (struct hark_dial_opts){.local = "127.0.0.2"}, &d), 0);
	assert_int_equal(ntohl(local_of(&d).sin_addr.s_addr), INADDR_LOOPBACK + 1);
	hang_up(&d);
	(void)snprintf(local, sizeof local, ":%d", free_port);
	assert_int_equal(dial(address, (struct hark_dial_opts){.local = local}, &d), 0);
	assert_int_equal(ntohs(local_of(&d).sin_port), free_port);
	hang_up(&d);
	(void)snprintf(local, sizeof local, "127.0.0.3:%d", free_port);
	assert_int_equal(dial(address, (struct hark_dial_opts){.local = local}, &d), 0);
	assert_int_equal(ntohs(local_of(&d).sin_port), free_port);
	assert_int_equal(ntohl(local_of(&d).sin_addr.s_addr), INADDR_LOOPBACK + 2);
	hang_up(&d);
	(void)close(live);
}

static void a_bad_local_address_is_told(void **state)
{
	(void)state;
	struct dialed d;
	assert_int_equal(dial("tcp://127.0.0.1:9", (struct hark_dial_opts){.local = "127.0.0.1:x y"}, &d), -EINVAL);
	assert_string_equal(
		d.why.text,
		"local address: port \"x y\" is neither a number nor a service's name in \"tcp://127.0.0.1:x y\"");
	assert_int_equal(dial("tcp://127.0.0.1:9", (struct hark_dial_opts){.local = ":99", .reserved_port = true}, &d),
	                 -EINVAL);
	assert_non_null(strstr(d.why.text, "it names a port, and a reserved port is asked for as well"));
	for (int i = 0; i < 2; i++) {
		assert_int_equal(
			dial("tcp://127.0.0.1:9", (struct hark_dial_opts){.local = i == 0 ? "::1" : "[::1]"}, &d),
			-EADDRNOTAVAIL);
		assert_string_equal(d.why.text,
		                    "dial tcp://127.0.0.1:9: local address: Cannot assign requested address");
	}
	assert_int_equal(dial("tcp://127.0.0.1:9", (struct hark_dial_opts){.local = "192.0.2.77"}, &d), -EADDRNOTAVAIL);
	assert_int_equal(d.report.n, 1);
}

static void a_reserved_port_is_between_512_and_1023(void **state)
{
	(void)state;
	struct hark_endpoint at;
	struct dialed d[4];
	char address[64];
	int live = plain_listener("127.0.0.1", 8, &at);
	if (geteuid() != 0) {
		print_message("skipped: reserved ports need root\n");
		skip();
	}
	(void)snprintf(address, sizeof address, "tcp://127.0.0.1:%d", port_of(&at));
	for (int i = 0; i < 4; i++) {
		assert_int_equal(dial(address, (struct hark_dial_opts){.reserved_port = true}, &d[i]), 0);
		assert_in_range(ntohs(local_of(&d[i]).sin_port), 512, 1023);
	}
	for (int i = 0; i < 4; i++)
		hang_up(&d[i]);
	assert_int_equal(dial(address, (struct hark_dial_opts){.reserved_port = true, .local = "127.0.0.5"}, &d[0]), 0);
	assert_in_range(ntohs(local_of(&d[0]).sin_port), 512, 1023);
	assert_int_equal(ntohl(local_of(&d[0]).sin_addr.s_addr), INADDR_LOOPBACK + 4);
	hang_up(&d[0]);
	(void)close(live);
}

static void a_reserved_port_without_the_right_to_it_is_explained(void)
{
	struct dialed d;
	if (setuid(65534) < 0)
		skip_child("the user cannot be changed");
	CHECK_INT(dial("tcp://127.0.0.1:9", (struct hark_dial_opts){.reserved_port = true}, &d), -EACCES);
	CHECK_HAS(d.why.text, "dial tcp://127.0.0.1:9: reserved local port: Permission denied (it needs root or "
	                      "CAP_NET_BIND_SERVICE)");
}

static void a_star_is_dialed_at_loopback(void **state)
{
	(void)state;
	struct hark_endpoint at;
	struct dialed d;
	char address[64];
	int live = plain_listener("127.0.0.1", 8, &at);
	(void)snprintf(address, sizeof address, "tcp://*:%d", port_of(&at));
	assert_int_equal(dial(address, (struct hark_dial_opts){0}, &d), 0);
	assert_int_equal(d.report.n, 2); /* ::1 first: nothing there */
	hang_up(&d);
	(void)close(live);
}

/* ---- failures told apart ---- */

static void refused_is_told(void **state)
{
	(void)state;
	struct dialed d;
	struct hark_endpoint e = nobody();
	char address[64], wanted[128];
	(void)snprintf(address, sizeof address, "tcp://127.0.0.1:%d", port_of(&e));
	(void)snprintf(wanted, sizeof wanted, "dial %s: Connection refused", address);
	assert_int_equal(dial(address, (struct hark_dial_opts){0}, &d), -ECONNREFUSED);
	assert_string_equal(d.why.text, wanted);
	assert_null(d.conn);
	assert_int_equal(d.report.n, 1);
	assert_int_equal(d.report.attempts[0].error, ECONNREFUSED);
	assert_int_equal(dial("127.0.0.1:70000", (struct hark_dial_opts){0}, &d), -EINVAL);
	assert_string_equal(d.why.text, "port 70000 is above 65535 in \"127.0.0.1:70000\"");
}

static void timed_out_is_told(void **state)
{
	(void)state;
	struct blackhole dead;
	struct dialed d;
	char address[64], wanted[128];
	blackhole_open(&dead);
	(void)snprintf(address, sizeof address, "tcp://127.0.0.1:%d", port_of(&dead.at));
	(void)snprintf(wanted, sizeof wanted, "dial %s: Connection timed out", address);
	assert_int_equal(dial(address, (struct hark_dial_opts){.deadline = hark_after(50 * HARK_MS)}, &d), -ETIMEDOUT);
	assert_string_equal(d.why.text, wanted);
	assert_int_equal(d.report.attempts[0].error, ETIMEDOUT);
	assert_true(d.report.attempts[0].end_ns - d.report.attempts[0].start_ns > 40 * HARK_MS);
	blackhole_close(&dead);
}

static void unreachable_is_told(void)
{
	struct dialed d;
	struct rtentry route = {.rt_flags = RTF_UP | RTF_REJECT};
	enter_own_network();
	CHECK_INT(dial("tcp://192.0.2.1:80", (struct hark_dial_opts){0}, &d), -ENETUNREACH);
	CHECK_HAS(d.why.text, "dial tcp://192.0.2.1:80: Network is unreachable");
	((struct sockaddr_in *)&route.rt_dst)->sin_family = AF_INET;
	((struct sockaddr_in *)&route.rt_genmask)->sin_family = AF_INET;
	((struct sockaddr_in *)&route.rt_dst)->sin_addr.s_addr = inet_addr("192.0.2.0");
	((struct sockaddr_in *)&route.rt_genmask)->sin_addr.s_addr = inet_addr("255.255.255.0");
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (ioctl(fd, SIOCADDRT, &route) < 0)
		skip_child("no route can be made");
	CHECK_INT(dial("tcp://192.0.2.1:80", (struct hark_dial_opts){0}, &d), -EHOSTUNREACH);
	CHECK_HAS(d.why.text, "dial tcp://192.0.2.1:80: No route to host");
}

static void names_that_fail_are_told_apart(void)
{
	struct dialed d;
	struct hark_endpoint at;
	char address[64], wanted[128];
	enter_own_network();
	replace_file("/etc/nsswitch.conf", "hosts: files\nservices: files\n");
	replace_file("/etc/hosts", "127.0.0.7 db\n192.0.2.1 half\n127.0.0.7 half\n");
	CHECK_INT(dial("tcp://nobody:5432", (struct hark_dial_opts){0}, &d), -HARK_ENOHOST);
	CHECK_INT(strcmp(d.why.text, "tcp://nobody:5432: No such host"), 0);
	CHECK_INT(d.report.n, 0);
	CHECK_INT(dial("tcp://db:no-such-service", (struct hark_dial_opts){0}, &d), -HARK_ENOSERVICE);
	CHECK_INT(strcmp(d.why.text, "tcp://db:no-such-service: No such service"), 0);
	CHECK_INT(dial("tcp://db:5432", (struct hark_dial_opts){0}, &d), -ECONNREFUSED);
	CHECK_INT(strcmp(d.why.text, "dial tcp://db:5432 (127.0.0.7): Connection refused"), 0);
	CHECK_INT(dial("tcp://half:5432", (struct hark_dial_opts){0}, &d), -ECONNREFUSED);
	CHECK_INT(strcmp(d.why.text, "dial tcp://half:5432 (127.0.0.7): Connection refused; tried 2 addresses"), 0);
	CHECK_INT(d.report.n, 2);
	int live = plain_listener("127.0.0.7", 8, &at);
	CHECK(live >= 0);
	(void)snprintf(address, sizeof address, "tcp://half:%d", port_of(&at));
	CHECK_INT(dial(address, (struct hark_dial_opts){0}, &d), 0);
	CHECK(d.report.resolved_ns > 0);
	CHECK(hark_endpoint_format(&d.report.attempts[d.report.n - 1].to, wanted, sizeof wanted) > 0);
	CHECK_HAS(wanted, "tcp://127.0.0.7:");
}

/* ---- unix ---- */

static int unix_listener(const char *path, int type, int backlog)
{
	struct sockaddr_un at = {.sun_family = AF_UNIX};
	(void)snprintf(at.sun_path, sizeof at.sun_path, "%s", path);
	int fd = socket(AF_UNIX, type | SOCK_CLOEXEC, 0);
	assert_true(fd >= 0);
	assert_int_equal(bind(fd, (struct sockaddr *)&at, sizeof at), 0);
	if (type == SOCK_STREAM)
		assert_int_equal(listen(fd, backlog), 0);
	return fd;
}

static char directory[] = "/tmp/hark-dial-XXXXXX";
static char path[sizeof directory + 8], address[sizeof path + 16];

static int make_directory(void **state)
{
	(void)state;
	(void)strcpy(directory + sizeof directory - 7, "XXXXXX");
	if (mkdtemp(directory) == NULL)
		return -1;
	(void)snprintf(path, sizeof path, "%s/s", directory);
	(void)snprintf(address, sizeof address, "unix:%s", path);
	return 0;
}

static int remove_directory(void **state)
{
	(void)state;
	(void)unlink(path);
	return rmdir(directory);
}

static void unix_paths_are_dialed(void **state)
{
	(void)state;
	struct dialed d;
	assert_int_equal(dial(address, (struct hark_dial_opts){0}, &d), -ENOENT);
	assert_non_null(strstr(d.why.text, ": No such file or directory"));
	int live = unix_listener(path, SOCK_STREAM, 8);
	assert_int_equal(dial(address, (struct hark_dial_opts){0}, &d), 0);
	assert_int_equal(fcntl(d.conn->src.fd, F_GETFL) & O_NONBLOCK, 0);
	hang_up(&d);
	(void)close(live);
	assert_int_equal(dial(address, (struct hark_dial_opts){0}, &d), -ECONNREFUSED);
}

/* connect(2): EAGAIN, and no event when there is room. */
static void a_full_unix_backlog_is_waited_for(void **state)
{
	(void)state;
	struct dialed first, second, third;
	int live = unix_listener(path, SOCK_STREAM, 0);
	assert_int_equal(dial(address, (struct hark_dial_opts){0}, &first), 0);
	int64_t began = hark_now();
	assert_int_equal(dial(address, (struct hark_dial_opts){.deadline = hark_after(80 * HARK_MS)}, &second),
	                 -ETIMEDOUT);
	assert_true(hark_now() - began >= 80 * HARK_MS);
	assert_int_equal(second.report.n, 1);
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		(void)usleep(50 * 1000); /* while the parent is dialing */
		_exit(accept(live, NULL, NULL) < 0);
	}
	assert_int_equal(dial(address, (struct hark_dial_opts){0}, &third), 0);
	assert_int_equal(third.report.n, 1);
	assert_int_equal(third.report.attempts[0].error, 0);
	int status;
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	hang_up(&first);
	hang_up(&third);
	(void)close(live);
}

static void a_unixgram_dialer_can_be_answered(void **state)
{
	(void)state;
	struct dialed d;
	struct sockaddr_un from;
	socklen_t len = sizeof from;
	char buf[8], gram[sizeof address];
	int live = unix_listener(path, SOCK_DGRAM, 0);
	(void)snprintf(gram, sizeof gram, "unixgram:%s", path);
	assert_int_equal(dial(gram, (struct hark_dial_opts){0}, &d), 0);
	assert_int_equal(send(d.conn->src.fd, "ask", 3, MSG_DONTWAIT), 3);
	assert_int_equal(recvfrom(live, buf, sizeof buf, MSG_DONTWAIT, (struct sockaddr *)&from, &len), 3);
	assert_true(len > offsetof(struct sockaddr_un, sun_path) + 1);
	assert_int_equal(from.sun_path[0], '\0');
	assert_int_equal(sendto(live, "yes!", 4, MSG_DONTWAIT, (struct sockaddr *)&from, len), 4);
	assert_int_equal(recv(d.conn->src.fd, buf, sizeof buf, MSG_DONTWAIT), 4);
	hang_up(&d);
	assert_int_equal(dial(gram, (struct hark_dial_opts){.local = "@hark-unit-dial"}, &d), 0);
	assert_int_equal(send(d.conn->src.fd, "ask", 3, MSG_DONTWAIT), 3);
	len = sizeof from;
	assert_int_equal(recvfrom(live, buf, sizeof buf, MSG_DONTWAIT, (struct sockaddr *)&from, &len), 3);
	assert_memory_equal(from.sun_path, "\0hark-unit-dial", 15);
	hang_up(&d);
	(void)close(live);
}

/* Who goes on with it is answered there. */
static void a_path_dialed_from_stays_with_a_connection_that_others_have(void **state)
{
	(void)state;
	struct dialed d;
	char gram[sizeof address], local[sizeof path + 8];
	int live = unix_listener(path, SOCK_DGRAM, 0);
	(void)snprintf(gram, sizeof gram, "unixgram:%s", path);
	(void)snprintf(local, sizeof local, "%s.local", path);
	for (int shared = 0; shared < 2; shared++) {
		assert_int_equal(dial(gram, (struct hark_dial_opts){.local = local}, &d), 0);
		if (shared) {
			hark_shared(d.conn);
			assert_int_equal(hark_close(d.conn), 0);
		} else {
			hark_release(d.conn);
		}
		assert_int_equal(unlink(local), 0);
	}
	(void)close(live);
}

static void a_descriptor_becomes_the_connection(void **state)
{
	(void)state;
	struct dialed d;
	int pair[2];
	char fd[16];
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	(void)snprintf(fd, sizeof fd, "fd:%d", pair[0]);
	assert_int_equal(dial(fd, (struct hark_dial_opts){0}, &d), 0);
	assert_int_equal(d.conn->src.fd, pair[0]);
	hang_up(&d);
	assert_int_equal(fcntl(pair[0], F_GETFD), -1);
	(void)close(pair[1]);
	assert_int_equal(dial("fd:no-such-name", (struct hark_dial_opts){0}, &d), -EBADF);
	assert_string_equal(d.why.text, "dial fd:no-such-name: Bad file descriptor (LISTEN_FDNAMES has no such name)");
}

/* ---- nobody but ourselves ---- */

static void write_file(const char *name, const char *text)
{
	int fd = open(name, O_WRONLY | O_CLOEXEC);
	if (fd < 0 || write(fd, text, strlen(text)) != (ssize_t)strlen(text))
		skip_child(name);
	(void)close(fd);
}

/* Few ephemeral ports, so that connect(2) soon chooses the one that it is to reach. */
static void self_body(void)
{
	static const char *const hosts[] = {"127.0.0.1", "[::1]", "0.0.0.0", "[::]"};
	for (int h = 0; h < 4; h++)
		for (int i = 0; i < 60; i++) {
			struct hark_conn *c;
			struct hark_dial_opts o = {0};
			char to[64], local[64];
			(void)snprintf(to, sizeof to, "tcp://%s:4000%d", hosts[h], i % 4);
			(void)snprintf(local, sizeof local, "%s:4000%d", hosts[h], i % 4);
			if (i % 10 == 9 && h < 2) /* as if it had been chosen */
				o.local = local;
			CHECK_INT(hark_dial(to, &o, &c), -ECONNREFUSED);
		}
}

static void a_closed_local_port_is_refused_and_not_met_by_ourselves(void)
{
	enter_own_network();
	write_file("/proc/sys/net/ipv4/ip_local_port_range", "40000 40003");
	int bad = 0;
	for (size_t i = 0; i <= ENGINES_ALL; i++) {
		const char *engine = i < ENGINES_ALL ? engines_all[i] : NULL;
		pid_t pid = fork();
		CHECK(pid >= 0);
		if (pid == 0)
			run_mode_child(engine, self_body);
		int status;
		CHECK_INT(waitpid(pid, &status, 0), pid);
		bad |= status != 0 && WEXITSTATUS(status) != SKIPPED;
	}
	CHECK_INT(bad, 0);
}

/* ---- fast open ---- */

static void greet(void *arg)
{
	struct hark_listener *l = arg;
	struct hark_conn *c;
	for (int i = 0; i < 3; i++) {
		CHECK_INT(hark_accept(l, hark_after(10 * HARK_S), &c), 0);
		CHECK_INT(hark_write(c, "220 hi", 6), 6);
		CHECK_INT(hark_close(c), 0);
	}
}

static void fast_open_body(void)
{
	struct hark_listen_opts lo = {.fast_open_queue = 16};
	struct hark_listener *l;
	struct hark_conn *c;
	struct beside b;
	char to[HARK_ADDRESS_MAX], buf[16];
	int deferred = 0;
	CHECK_INT(hark_listen("tcp://127.0.0.1:0", &lo, &l), 0);
	CHECK(hark_listener_address(l, to, sizeof to) > 0);
	beside_start(&b, greet, l);
	for (int i = 0; i < 3; i++) { /* the first one gets the cookie */
		struct hark_dial_opts o = {.fast_open = true};
		CHECK_INT(hark_dial(to, &o, &c), 0);
		deferred += c->syn_due;
		hark_idle_timeout(c, 5 * HARK_S);
		if (i == 1)
			CHECK_INT(hark_idle(c), 1);
		CHECK_INT(hark_readn(c, buf, 6), 6);
		CHECK(memcmp(buf, "220 hi", 6) == 0);
		CHECK_INT(hark_close(c), 0);
	}
	CHECK(deferred > 0);
	beside_end(&b);
	hark_listener_close(l);
}

static void fast_open_hears_a_server_that_speaks_first(void)
{
	enter_own_network();
	write_file("/proc/sys/net/ipv4/tcp_fastopen", "3");
	int bad = 0;
	for (size_t i = 0; i <= ENGINES_ALL; i++) {
		pid_t pid = fork();
		CHECK(pid >= 0);
		if (pid == 0)
			run_mode_child(i < ENGINES_ALL ? engines_all[i] : NULL, fast_open_body);
		int status;
		CHECK_INT(waitpid(pid, &status, 0), pid);
		bad |= status != 0 && WEXITSTATUS(status) != SKIPPED;
	}
	CHECK_INT(bad, 0);
}

/* ---- a unix path to come from ---- */

static void a_path_that_was_come_from_is_removed(void **state)
{
	(void)state;
	struct dialed d;
	struct stat st;
	char to[sizeof address], from[sizeof path + 8];
	(void)snprintf(from, sizeof from, "%s.from", path);
	for (int type = SOCK_STREAM; type <= SOCK_DGRAM; type++) {
		int live = unix_listener(path, type, 4);
		(void)snprintf(to, sizeof to, "%s:%s", type == SOCK_STREAM ? "unix" : "unixgram", path);
		for (int i = 0; i < 2; i++) {
			assert_int_equal(dial(to, (struct hark_dial_opts){.local = from}, &d), 0);
			assert_int_equal(lstat(from, &st), 0);
			struct dialed other;
			assert_int_equal(dial(to, (struct hark_dial_opts){.local = from}, &other), -EADDRINUSE);
			assert_int_equal(hark_close(d.conn), 0);
			assert_int_equal(lstat(from, &st), -1);
		}
		int stale = unix_listener(from, type, 0); /* left by somebody who died; a stream's may as well live */
		(void)close(stale);
		assert_int_equal(dial(to, (struct hark_dial_opts){.local = from}, &d),
		                 type == SOCK_DGRAM ? 0 : -EADDRINUSE);
		if (type == SOCK_DGRAM)
			hark_abort(d.conn);
		else
			assert_int_equal(unlink(from), 0);
		assert_int_equal(lstat(from, &st), -1);
		(void)close(live);
		assert_int_equal(dial(to, (struct hark_dial_opts){.local = from}, &d), -ECONNREFUSED);
		assert_int_equal(lstat(from, &st), -1);
		(void)unlink(path);
	}
}

/* ---- every system call fails at its Nth use ---- */

FAULT(int, socket, (int a, int b, int c), (a, b, c))
FAULT(int, setsockopt, (int a, int b, int c, const void *d, socklen_t e), (a, b, c, d, e))
FAULT(int, getsockopt, (int a, int b, int c, void *d, socklen_t *e), (a, b, c, d, e))
FAULT(int, bind, (int a, const struct sockaddr *b, socklen_t c), (a, b, c))
FAULT(int, connect, (int a, const struct sockaddr *b, socklen_t c), (a, b, c))
FAULT(int, getpeername, (int a, struct sockaddr *b, socklen_t *c), (a, b, c))
FAULT(int, fcntl, (int a, int b, long c), (a, b, c))
FAULT_NULL(calloc, (size_t a, size_t b), (a, b))
FAULT_NULL(malloc, (size_t a), (a))

static const struct fault faults[] = {
	FAULT_ROW(socket),      FAULT_ROW(setsockopt), FAULT_ROW(getsockopt), FAULT_ROW(bind),   FAULT_ROW(connect),
	FAULT_ROW(getpeername), FAULT_ROW(fcntl),      FAULT_ROW(calloc),     FAULT_ROW(malloc),
};

static void a_failing_system_call_leaks_nothing(void **state)
{
	(void)state;
	struct hark_endpoint at;
	char to[64];
	int live = plain_listener("127.0.0.1", 1000, &at), failed = 0, before = open_descriptors();
	(void)snprintf(to, sizeof to, "tcp://*:%d", port_of(&at)); /* ::1 is refused, 127.0.0.1 answers */
	for (size_t i = 0; i < sizeof faults / sizeof *faults; i++) {
		for (int nth = 1; nth < 64; nth++) {
			struct dialed d;
			faults[i].install();
			fault_countdown = nth;
			int rc = dial(to, (struct hark_dial_opts){.local = ":0", .keepalive = true, .linger_s = 1}, &d);
			bool used = fault_countdown == 0;
			fault_countdown = 0;
			faults[i].remove();
			failed += rc < 0;
			if (rc == 0)
				hang_up(&d);
			else
				assert_true(d.why.text[0] != '\0' && d.conn == NULL);
			assert_int_equal(open_descriptors(), before);
			if (!used) {
				assert_int_equal(rc, 0);
				break;
			}
		}
	}
	assert_true(failed > 3); /* the faults do reach the dial */
	(void)close(live);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_dialed_socket_is_blocking_close_on_exec_and_prompt),
		cmocka_unit_test(options_reach_the_socket),
		cmocka_unit_test(udp_is_connected),
		cmocka_unit_test(a_local_address_is_come_from),
		cmocka_unit_test(a_bad_local_address_is_told),
		cmocka_unit_test(a_reserved_port_is_between_512_and_1023),
		IN_CHILD(a_reserved_port_without_the_right_to_it_is_explained),
		cmocka_unit_test(a_star_is_dialed_at_loopback),
		cmocka_unit_test(refused_is_told),
		cmocka_unit_test(timed_out_is_told),
		IN_CHILD(unreachable_is_told),
		IN_CHILD(names_that_fail_are_told_apart),
		cmocka_unit_test_setup_teardown(unix_paths_are_dialed, make_directory, remove_directory),
		cmocka_unit_test_setup_teardown(a_full_unix_backlog_is_waited_for, make_directory, remove_directory),
		cmocka_unit_test_setup_teardown(a_unixgram_dialer_can_be_answered, make_directory, remove_directory),
		cmocka_unit_test_setup_teardown(a_path_dialed_from_stays_with_a_connection_that_others_have,
	                                        make_directory, remove_directory),
		cmocka_unit_test(a_descriptor_becomes_the_connection),
		IN_CHILD(a_closed_local_port_is_refused_and_not_met_by_ourselves),
		IN_CHILD(fast_open_hears_a_server_that_speaks_first),
		cmocka_unit_test_setup_teardown(a_path_that_was_come_from_is_removed, make_directory, remove_directory),
		cmocka_unit_test(a_failing_system_call_leaks_nothing),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
