/* test_listen_adopt.c — sockets handed over: adopted by address or by name, and what cannot be. */
#include "listen_support.h"

#include "faults.h"

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

static void a_socket_handed_over_is_adopted_by_its_address(void)
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

static void a_star_is_adopted(void)
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

static void sockets_handed_over_are_adopted_by_name(void)
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

static void what_cannot_be_listened_on_is_told(void)
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

static void an_environment_that_is_not_ours_hands_nothing_over(void)
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

static void our_own_socket_is_not_adopted_from_us(void)
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

/* ---- every system call fails at its Nth use ---- */

FAULT_NULL(calloc, (size_t a, size_t b), (a, b))

static void what_could_not_be_adopted_for_want_of_memory_can_be_later(void)
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

int main(void)
{
	const struct CMUnitTest tests[] = {
		IN_CHILD(a_socket_handed_over_is_adopted_by_its_address),
		IN_CHILD(a_star_is_adopted),
		cmocka_unit_test(a_star_adopts_no_socket_of_other_families),
		cmocka_unit_test(a_descriptor_has_one_listener),
		cmocka_unit_test(a_socket_without_an_address_is_not_listened_on),
		IN_CHILD(sockets_handed_over_are_adopted_by_name),
		IN_CHILD(what_could_not_be_adopted_for_want_of_memory_can_be_later),
		IN_CHILD(what_cannot_be_listened_on_is_told),
		IN_CHILD(an_environment_that_is_not_ours_hands_nothing_over),
		IN_CHILD(our_own_socket_is_not_adopted_from_us),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
