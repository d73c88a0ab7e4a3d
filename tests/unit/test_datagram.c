/* test_datagram.c — datagrams, accepted and connected ones, on a plain thread and on each engine's loop. */
#include "datagram_support.h"

#include <linux/net_tstamp.h>

/* ---- accepted ones --------------------------------------------------------------------------- */

static void answers_come_from_the_address_that_was_asked(void)
{
	char buf[100], text[HARK_ADDRESS_MAX], want[64];
	struct hark_listener *l;
	struct hark_conn *c;
	CHECK_INT(hark_listen("udp://*:0", NULL, &l), 0);
	CHECK_INT(hark_accept(l, hark_after(5 * HARK_MS), &c), -ETIMEDOUT);
	for (int i = 1; i <= 3; i++) { /* 127.0.0.1 to 127.0.0.3: one socket, three addresses */
		char host[] = "127.0.0.x";
		host[8] = (char)('0' + i);
		int fd = peer_to(host, listener_port(l));
		peer_says(fd, "question");
		struct hark_conn_stats stats;
		int64_t before = hark_now();
		CHECK_INT(hark_accept(l, HARK_FOREVER, &c), 0);
		hark_conn_stats(c, &stats);
		CHECK(stats.opened_ns >= before);
		CHECK_INT(hark_type(c), SOCK_DGRAM);
		CHECK_INT(hark_buffered(c), 8);
		(void)snprintf(want, sizeof want, "udp://%s:%d", host, listener_port(l));
		CHECK(hark_local(c, text, sizeof text) > 0);
		CHECK(strcmp(text, want) == 0);
		CHECK(hark_peer(c, text, sizeof text) > 0);
		CHECK_HAS(text, "udp://127.0.0.");          /* never ::ffff: */
		CHECK_INT(hark_read(c, buf, 7), -EMSGSIZE); /* is kept */
		CHECK_INT(hark_read(c, buf, sizeof buf), 8);
		CHECK(memcmp(buf, "question", 8) == 0);
		CHECK_INT(hark_read(c, buf, sizeof buf), 0); /* one datagram, then the end */
		CHECK_INT(hark_idle(c), 0);
		CHECK_INT(hark_write(c, "answer", 6), 6);
		CHECK_INT(hark_printf(c, "%s", "another"), 7);
		CHECK_INT(hark_close(c), 0);
		peer_hears(fd, "answer"); /* from the address that was asked, else the kernel would drop it */
		peer_hears(fd, "another");
		(void)close(fd);
	}
	int fd = peer_to("127.0.0.1", listener_port(l));
	CHECK_INT(send(fd, "", 0, 0), 0); /* an empty one is one all the same */
	CHECK_INT(hark_accept(l, HARK_FOREVER, &c), 0);
	CHECK_INT(hark_idle(c), 1);
	CHECK_INT(hark_read(c, buf, sizeof buf), 0);
	CHECK_INT(hark_idle(c), 0);
	CHECK_INT(hark_write(c, "", 0), 0);
	peer_hears(fd, "");
	CHECK_INT(hark_close(c), 0);
	peer_says(fd, "take me apart");
	CHECK_INT(hark_accept(l, HARK_FOREVER, &c), 0);
	CHECK_INT(hark_readn(c, buf, 5), 5);
	CHECK_INT(hark_readline(c, buf, sizeof buf), 8);
	CHECK(strcmp(buf, "me apart") == 0);
	CHECK_INT(hark_readline(c, buf, sizeof buf), 0);
	hark_abort(c);
	peer_says(fd, "last");
	CHECK_INT(hark_accept(l, HARK_FOREVER, &c), 0);
	hark_listener_close(l);
	CHECK_INT(hark_write(c, "after the listener", 18), 18);
	peer_hears(fd, "after the listener");
	CHECK_INT(hark_close(c), 0);
	(void)close(fd);
}

static void a_datagram_has_no_credentials(void)
{
	static const char *const at[] = {"udp://127.0.0.1:0", "unixgram:@hark-test-credentials-%d"};
	for (size_t i = 0; i < sizeof at / sizeof *at; i++) {
		struct hark_credentials who = {.pid = 4711};
		char address[64], bound[HARK_ADDRESS_MAX];
		struct hark_listener *l;
		struct hark_conn *client, *c;
		(void)snprintf(address, sizeof address, at[i], (int)getpid());
		CHECK_INT(hark_listen(address, NULL, &l), 0);
		CHECK(hark_listener_address(l, bound, sizeof bound) > 0);
		CHECK_INT(hark_dial(bound, NULL, &client), 0);
		CHECK_INT(hark_write(client, "x", 1), 1);
		CHECK_INT(hark_accept(l, hark_after(5 * HARK_S), &c), 0);
		CHECK_INT(hark_peer_credentials(c, &who), -EOPNOTSUPP);
		CHECK_INT(who.pid, 4711);
		hark_abort(c);
		hark_abort(client);
		hark_listener_close(l);
	}
}

/* A broadcast came to no address that could be answered from: the answer leaves from the one of the interface. */
static void a_broadcast_is_answered(void)
{
	static const char *const addresses[] = {"udp://*:0", "udp4://*:0"};
	for (size_t i = 0; i < 2; i++) {
		char buf[100], text[HARK_ADDRESS_MAX], want[64];
		struct sockaddr_in to = {.sin_family = AF_INET}, from;
		socklen_t len = sizeof from;
		struct timeval t = {.tv_sec = 5 * SLOWER};
		struct hark_listener *l;
		struct hark_conn *c;
		int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), one = 1;
		CHECK_INT(hark_listen(addresses[i], NULL, &l), 0);
		CHECK_INT(setsockopt(fd, SOL_SOCKET, SO_BROADCAST, &one, sizeof one), 0);
		CHECK_INT(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof t), 0);
		to.sin_port = htons((uint16_t)listener_port(l));
		CHECK_INT(inet_pton(AF_INET, "127.255.255.255", &to.sin_addr), 1);
		CHECK_INT(sendto(fd, "all", 3, 0, (struct sockaddr *)&to, sizeof to), 3);
		CHECK_INT(hark_accept(l, hark_after(5 * SLOWER * HARK_S), &c), 0);
		CHECK_INT(hark_read(c, buf, sizeof buf), 3);
		(void)snprintf(want, sizeof want, "udp://127.0.0.1:%d", listener_port(l));
		CHECK(hark_local(c, text, sizeof text) > 0);
		CHECK(strcmp(text, want) == 0);
		CHECK_INT(hark_write(c, "me", 2), 2);
		CHECK_INT(recvfrom(fd, buf, sizeof buf, 0, (struct sockaddr *)&from, &len), 2);
		CHECK_INT(from.sin_addr.s_addr, htonl(INADDR_LOOPBACK));
		CHECK_INT(hark_close(c), 0);
		hark_listener_close(l);
		(void)close(fd);
	}
}

static void the_same_over_ipv6(void)
{
	char buf[100], text[HARK_ADDRESS_MAX];
	struct hark_listener *l;
	struct hark_conn *c;
	struct hark_conn *d;
	if (hark_listen("udp6://[::1]:0", NULL, &l) < 0)
		skip_child("no IPv6 here");
	CHECK(hark_listener_address(l, text, sizeof text) > 0);
	CHECK_INT(hark_dial(text, NULL, &d), 0);
	CHECK_INT(hark_write(d, "six", 3), 3);
	CHECK_INT(hark_accept(l, HARK_FOREVER, &c), 0);
	CHECK_INT(hark_read(c, buf, sizeof buf), 3);
	CHECK_INT(hark_write(c, "sixth", 5), 5);
	CHECK_INT(hark_close(c), 0);
	CHECK_INT(hark_read(d, buf, sizeof buf), 5);
	CHECK_INT(hark_close(d), 0);
	hark_listener_close(l);
}

/* ---- connected ones -------------------------------------------------------------------------- */

static void connected_on(int family)
{
	static char big[5000];
	char buf[100];
	int fds[2];
	struct pair p;
	if (family == AF_UNIX) {
		CHECK_INT(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, fds), 0);
		p = pair_of(fds);
	} else {
		struct sockaddr_in at[2];
		socklen_t len = sizeof at[0];
		for (int i = 0; i < 2; i++) {
			at[i] = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
			fds[i] = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
			CHECK_INT(bind(fds[i], (struct sockaddr *)&at[i], len), 0);
			CHECK_INT(getsockname(fds[i], (struct sockaddr *)&at[i], &len), 0);
		}
		for (int i = 0; i < 2; i++)
			CHECK_INT(connect(fds[i], (struct sockaddr *)&at[!i], len), 0);
		p = pair_of(fds);
	}
	CHECK_INT(hark_type(p.a), SOCK_DGRAM);
	hark_idle_timeout(p.a, 10 * HARK_MS);
	CHECK_INT(hark_read(p.a, buf, sizeof buf), -ETIMEDOUT);
	hark_idle_timeout(p.a, 0);
	CHECK_INT(hark_write(p.b, "one", 3), 3);
	CHECK_INT(hark_printf(p.b, "tw%c", 'o'), 3);
	struct iovec v[2] = {{(char *)"th", 2}, {(char *)"ree", 3}};
	CHECK_INT(hark_writev(p.b, v, 2), 5);
	CHECK_INT(hark_peek(p.a, buf, sizeof buf), 3);
	CHECK_INT(hark_read(p.a, buf, sizeof buf), 3); /* they stay apart */
	CHECK_INT(hark_read(p.a, buf, sizeof buf), 3);
	CHECK(memcmp(buf, "two", 3) == 0);
	CHECK_INT(hark_read(p.a, buf, sizeof buf), 5);
	CHECK(memcmp(buf, "three", 5) == 0);
	pattern_fill(big, 0, sizeof big);
	CHECK_INT(hark_write(p.b, big, sizeof big), sizeof big);
	CHECK_INT(hark_write(p.b, "next", 4), 4);
	memset(big, 0, sizeof big);
	CHECK_INT(hark_read(p.a, buf, sizeof buf), -EMSGSIZE); /* keeps the datagram, and tells its size */
	CHECK_INT(hark_read(p.a, buf, sizeof buf), -EMSGSIZE);
	CHECK_INT(hark_buffered(p.a), sizeof big);
	CHECK_INT(hark_read(p.a, big, sizeof big), sizeof big);
	CHECK(pattern_is(big, 0, sizeof big));
	CHECK_INT(hark_read(p.a, buf, sizeof buf), 4);
	CHECK_INT(hark_write(p.b, "", 0), 0);
	CHECK_INT(hark_write(p.b, "short", 5), 5);
	CHECK_INT(hark_read(p.a, buf, sizeof buf), 0); /* an empty one, not the end */
	CHECK_INT(hark_readn(p.a, buf, 6), -ENODATA);  /* they are never joined */
	CHECK_INT(hark_readn(p.a, buf, 5), 5);
	hark_deadline(p.a, hark_now() - 1);
	CHECK_INT(hark_read(p.a, buf, sizeof buf), -ETIMEDOUT);
	pair_drop(&p);
}

static void datagrams_stay_apart_and_whole(void)
{
	connected_on(AF_UNIX);
	connected_on(AF_INET);
}

static void a_datagram_longer_than_any_udp_one_is_kept_too(void)
{
	size_t n = 150000; /* a unix datagram can be longer than any UDP one */
	char *big = malloc(n), buf[100];
	int fds[2];
	CHECK(big != NULL);
	CHECK_INT(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, fds), 0);
	struct pair p = pair_of(fds);
	pattern_fill(big, 0, n);
	CHECK_INT(hark_write(p.b, big, n), (long long)n);
	memset(big, 0, n);
	CHECK_INT(hark_read(p.a, buf, sizeof buf), -EMSGSIZE);
	CHECK_INT(hark_buffered(p.a), n);
	CHECK_INT(hark_read(p.a, big, n), (long long)n);
	CHECK(pattern_is(big, 0, n));
	CHECK_INT(hark_write(p.b, big, n), (long long)n);
	CHECK_INT(hark_read(p.a, big, n), (long long)n);
	CHECK(pattern_is(big, 0, n));
	free(big);
	pair_drop(&p);
}

static void nobody_there_is_told(void)
{
	char buf[10], text[HARK_ADDRESS_MAX];
	struct hark_listener *l;
	struct hark_conn *c;
	CHECK_INT(hark_listen("udp://127.0.0.1:0", NULL, &l), 0);
	CHECK(hark_listener_address(l, text, sizeof text) > 0);
	hark_listener_close(l);
	CHECK_INT(hark_dial(text, NULL, &c), 0);
	CHECK_INT(hark_write(c, "anybody?", 8), 8);
	hark_idle_timeout(c, 5 * HARK_S);
	CHECK_INT(hark_read(c, buf, sizeof buf), -ECONNREFUSED);
	hark_idle_timeout(c, 10 * HARK_MS);
	CHECK_INT(hark_read(c, buf, sizeof buf), -ETIMEDOUT); /* told once; another try is free to succeed */
	CHECK_INT(hark_close(c), 0);
}

static void unix_datagrams_are_answered_where_they_have_a_sender(void)
{
	char directory[] = "/tmp/hark-dgram-XXXXXX", path[64], address[100], buf[100];
	struct hark_listener *l;
	struct hark_conn *c, *d;
	CHECK(mkdtemp(directory) != NULL);
	(void)snprintf(path, sizeof path, "%s/s", directory);
	(void)snprintf(address, sizeof address, "unixgram:%s", path);
	CHECK_INT(hark_listen(address, NULL, &l), 0);
	CHECK_INT(hark_dial(address, NULL, &d), 0);
	CHECK_INT(hark_write(d, "ask", 3), 3);
	CHECK_INT(hark_accept(l, HARK_FOREVER, &c), 0);
	CHECK_INT(hark_read(c, buf, sizeof buf), 3);
	CHECK_INT(hark_write(c, "told", 4), 4);
	CHECK_INT(hark_close(c), 0);
	CHECK_INT(hark_read(d, buf, sizeof buf), 4);
	CHECK_INT(hark_close(d), 0);
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0); /* without a name: nowhere to answer to */
	struct sockaddr_un to = {.sun_family = AF_UNIX};
	memcpy(to.sun_path, path, strlen(path) + 1);
	CHECK_INT(sendto(fd, "x", 1, 0, (struct sockaddr *)&to, sizeof to), 1);
	CHECK_INT(hark_accept(l, HARK_FOREVER, &c), 0);
	CHECK_INT(hark_read(c, buf, sizeof buf), 1);
	CHECK_INT(hark_write(c, "x", 1), -ENOTCONN);
	CHECK_INT(hark_udp_connect(c), -EOPNOTSUPP);
	CHECK_INT(hark_close(c), 0);
	(void)close(fd);
	hark_listener_close(l);
	CHECK_INT(access(path, F_OK), -1);
	CHECK_INT(rmdir(directory), 0);
}

/* ---- waits that last -------------------------------------------------------------------------- */

/* A read that waits half a second and does not spin meanwhile. */
static void waits_idly(struct hark_conn *c)
{
	char buf[8];
	int64_t before = cpu_ns();
	hark_idle_timeout(c, 500 * HARK_MS);
	CHECK_INT(hark_read(c, buf, sizeof buf), -ETIMEDOUT);
	CHECK(cpu_ns() - before < 100 * SLOWER * HARK_MS);
}

static void queued_error_body(void)
{
	struct hark_endpoint nobody;
	struct hark_conn *c;
	char address[HARK_ADDRESS_MAX], buf[8];
	int on = 1, fd = plain_listener("127.0.0.1", 1, &nobody);
	(void)close(fd);
	(void)snprintf(address, sizeof address, "udp://127.0.0.1:%d", port_of(&nobody));
	CHECK_INT(hark_dial(address, NULL, &c), 0);
	CHECK_INT(setsockopt(hark_fd(c), IPPROTO_IP, IP_RECVERR, &on, sizeof on), 0);
	CHECK_INT(hark_write(c, "x", 1), 1);
	hark_idle_timeout(c, 5 * HARK_S);
	CHECK_INT(hark_read(c, buf, sizeof buf), -ECONNREFUSED);
	waits_idly(c);
	CHECK_INT(hark_close(c), 0);
}

/* The same of a stream: what a time stamp leaves behind. */
static void queued_stamp_body(void)
{
	struct pair p = tcp_pair();
	int want = SOF_TIMESTAMPING_TX_SOFTWARE | SOF_TIMESTAMPING_SOFTWARE;
	CHECK_INT(setsockopt(hark_fd(p.a), SOL_SOCKET, SO_TIMESTAMPING, &want, sizeof want), 0);
	CHECK_INT(hark_write(p.a, "x", 1), 1);
	CHECK_INT(hark_flush(p.a), 0);
	waits_idly(p.a);
	pair_drop(&p);
}

static void a_queued_error_does_not_spin(void **state)
{
	(void)state;
	everywhere_at_once(queued_error_body);
	everywhere_at_once(queued_stamp_body);
}

static void a_socket_of_packets_has_an_end(void)
{
	struct hark_conn *c;
	char buf[8];
	int fds[2], turns = 0, r;
	for (int how = 0; how < 3; how++) {
		CHECK_INT(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds), 0);
		CHECK_INT(hark_conn_from_fd(fds[0], &c), 0);
		CHECK_INT(hark_type(c), SOCK_DGRAM);
		CHECK_INT(send(fds[1], "ab", 2, 0), 2);
		CHECK_INT(send(fds[1], "c", 1, 0), 1);
		(void)close(fds[1]);
		if (how == 0) {
			CHECK_INT(hark_read(c, buf, sizeof buf), 2);
			CHECK_INT(hark_read(c, buf, sizeof buf), 1);
			for (int i = 0; i < 3; i++)
				CHECK_INT(hark_read(c, buf, sizeof buf), 0);
			CHECK_INT(hark_idle(c), 0);
			CHECK_INT(hark_write(c, "x", 1), -EPIPE);
		} else if (how == 1) {
			for (turns = 0; (r = hark_idle(c)) > 0 && turns < 10; turns++)
				CHECK(hark_read(c, buf, sizeof buf) > 0);
			CHECK_INT(r, 0);
			CHECK_INT(turns, 2);
		} else { /* bytes, not messages */
			CHECK_INT(hark_readn(c, buf, 2), 2);
			CHECK_INT(hark_peek(c, buf, sizeof buf), 1);
			CHECK_INT(hark_readn(c, buf, 1), 1);
			CHECK_INT(hark_readn(c, buf, 1), 0);
		}
		CHECK_INT(hark_close(c), 0);
	}
}

static void an_empty_datagram_is_no_end_and_a_shut_socket_is(void)
{
	struct hark_conn *c;
	char buf[8];
	int fds[2];
	CHECK_INT(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, fds), 0);
	CHECK_INT(hark_conn_from_fd(fds[0], &c), 0);
	CHECK_INT(send(fds[1], "", 0, 0), 0);
	CHECK_INT(send(fds[1], "x", 1, 0), 1);
	CHECK_INT(hark_idle(c), 1);
	CHECK_INT(hark_read(c, buf, sizeof buf), 0);
	CHECK_INT(hark_read(c, buf, sizeof buf), 1);
	CHECK_INT(hark_shutdown(c, HARK_IN), 0); /* from now on the kernel says the end, again and again */
	CHECK_INT(hark_idle(c), 0);
	CHECK_INT(hark_read(c, buf, sizeof buf), 0);
	CHECK_INT(hark_close(c), 0);
	(void)close(fds[1]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		EVERYWHERE(answers_come_from_the_address_that_was_asked),
		EVERYWHERE(a_datagram_has_no_credentials),
		EVERYWHERE(a_broadcast_is_answered),
		EVERYWHERE(the_same_over_ipv6),
		EVERYWHERE(datagrams_stay_apart_and_whole),
		EVERYWHERE(a_datagram_longer_than_any_udp_one_is_kept_too),
		EVERYWHERE(nobody_there_is_told),
		EVERYWHERE(unix_datagrams_are_answered_where_they_have_a_sender),
		cmocka_unit_test(a_queued_error_does_not_spin),
		EVERYWHERE(a_socket_of_packets_has_an_end),
		EVERYWHERE(an_empty_datagram_is_no_end_and_a_shut_socket_is),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
