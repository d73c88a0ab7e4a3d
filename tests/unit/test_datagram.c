/* test_datagram.c — datagrams: connected ones everywhere, served ones under the models, and flows. */
#include "modes.h"

#include <linux/net_tstamp.h>

#include <poll.h>

#include "base/sys.h"
#include "conn/listen.h"

/* ---- plain peers ----------------------------------------------------------------------------- */

static int peer_to(const char *host, int port)
{
	struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
	struct timeval t = {.tv_sec = 5 * SLOWER};
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	CHECK(fd >= 0);
	CHECK_INT(inet_pton(AF_INET, host, &to.sin_addr), 1);
	CHECK_INT(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof t), 0);
	CHECK_INT(connect(fd, (struct sockaddr *)&to, sizeof to), 0); /* so only that address's answers are heard */
	return fd;
}

static int listener_port(const struct hark_listener *l)
{
	struct sockaddr_storage at;
	socklen_t len = sizeof at;
	CHECK_INT(getsockname(hark_listener_fd(l), (struct sockaddr *)&at, &len), 0);
	return ntohs(((struct sockaddr_in *)&at)->sin_port);
}

static void peer_says(int fd, const char *text)
{
	CHECK_INT(send(fd, text, strlen(text), 0), (long long)strlen(text));
}

static void peer_hears(int fd, const char *text)
{
	char buf[100];
	ssize_t n = receive(fd, buf, sizeof buf - 1);
	CHECK(n >= 0);
	buf[n] = '\0';
	CHECK_HAS(buf, text);
	CHECK_INT(n, (long long)strlen(text));
}

/* ---- accepted ones --------------------------------------------------------------------------- */

static void accept_body(void)
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

static void answers_come_from_the_address_that_was_asked(void **state)
{
	(void)state;
	everywhere(accept_body);
}

/* A broadcast came to no address that could be answered from: the answer leaves from the one of the interface. */
static void broadcast_body(void)
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

static void a_broadcast_is_answered(void **state)
{
	(void)state;
	everywhere(broadcast_body);
}

static void six_body(void)
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

static void the_same_over_ipv6(void **state)
{
	(void)state;
	everywhere(six_body);
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

static void connected_body(void)
{
	connected_on(AF_UNIX);
	connected_on(AF_INET);
}

static void datagrams_stay_apart_and_whole(void **state)
{
	(void)state;
	everywhere(connected_body);
}

static void huge_body(void)
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

static void a_datagram_longer_than_any_udp_one_is_kept_too(void **state)
{
	(void)state;
	everywhere(huge_body);
}

static void refused_body(void)
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

static void nobody_there_is_told(void **state)
{
	(void)state;
	everywhere(refused_body);
}

static void unixgram_body(void)
{
	char path[64], address[100], buf[100];
	struct hark_listener *l;
	struct hark_conn *c, *d;
	(void)snprintf(path, sizeof path, "/tmp/hark-dgram-%d", (int)getpid());
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
}

static void unix_datagrams_are_answered_where_they_have_a_sender(void **state)
{
	(void)state;
	everywhere(unixgram_body);
}

/* ---- flows --------------------------------------------------------------------------- */

static void udp_connect_body(void)
{
	char buf[100], text[HARK_ADDRESS_MAX], want[HARK_ADDRESS_MAX];
	struct hark_listener *l;
	struct hark_conn *c, *one, *two;
	CHECK_INT(hark_listen("udp://*:0", NULL, &l), 0);
	int a = peer_to("127.0.0.1", listener_port(l)), b = peer_to("127.0.0.2", listener_port(l));
	peer_says(a, "a1"); /* a burst of first datagrams, and another peer's in between */
	peer_says(a, "a2");
	peer_says(b, "b1");
	peer_says(a, "a3");
	CHECK_INT(hark_accept(l, HARK_FOREVER, &one), 0);
	CHECK(hark_peer(one, want, sizeof want) > 0);
	CHECK_INT(hark_udp_connect(one), 0);
	CHECK_INT(hark_udp_connect(one), -EOPNOTSUPP); /* it is one already */
	CHECK(hark_fd(one) != hark_listener_fd(l));
	CHECK(hark_peer(one, text, sizeof text) > 0);
	CHECK(strcmp(text, want) == 0);
	CHECK(hark_local(one, text, sizeof text) > 0);
	CHECK_HAS(text, "127.0.0.1");
	CHECK_INT(hark_accept(l, HARK_FOREVER, &c), 0); /* a2 */
	CHECK_INT(hark_udp_connect(c), -EALREADY);
	hark_abort(c);
	CHECK_INT(hark_accept(l, HARK_FOREVER, &two), 0); /* b1 */
	CHECK_INT(hark_udp_connect(two), 0);
	CHECK_INT(hark_accept(l, HARK_FOREVER, &c), 0); /* a3 */
	CHECK_INT(hark_udp_connect(c), -EALREADY);
	hark_abort(c);
	hark_idle_timeout(one, 5 * HARK_S);
	hark_idle_timeout(two, 5 * HARK_S);
	for (int i = 1; i <= 3; i++) {
		CHECK_INT(hark_read(one, buf, sizeof buf), 2);
		CHECK_INT(buf[0], 'a');
		CHECK_INT(buf[1], '0' + i);
	}
	CHECK_INT(hark_read(two, buf, sizeof buf), 2);
	CHECK(memcmp(buf, "b1", 2) == 0);
	for (int i = 0; i < 20; i++) { /* from now on each has a socket of its own */
		peer_says(a, "x");
		peer_says(b, "y");
		CHECK_INT(hark_read(two, buf, sizeof buf), 1);
		CHECK_INT(buf[0], 'y');
		CHECK_INT(hark_read(one, buf, sizeof buf), 1);
		CHECK_INT(buf[0], 'x');
		CHECK_INT(hark_write(one, "to a", 4), 4);
		CHECK_INT(hark_write(two, "to b", 4), 4);
		peer_hears(b, "to b");
		peer_hears(a, "to a");
	}
	CHECK_INT(hark_accept(l, hark_after(5 * HARK_MS), &c), -ETIMEDOUT);
	CHECK_INT(hark_close(one), 0);
	peer_says(a, "again"); /* it is over: a new one begins */
	CHECK_INT(hark_accept(l, HARK_FOREVER, &one), 0);
	CHECK_INT(hark_udp_connect(one), 0);
	CHECK_INT(hark_read(one, buf, sizeof buf), 5);
	CHECK_INT(hark_close(one), 0);
	CHECK_INT(hark_close(two), 0);
	hark_listener_close(l);
	(void)close(a);
	(void)close(b);
}

static void a_conversation_gets_all_that_its_peer_sends_and_nothing_else(void **state)
{
	(void)state;
	everywhere(udp_connect_body);
}

/* Two sockets of one port, among which the kernel deals the peers: each makes flows of those that it was dealt, and
 * everybody's later datagrams come to his own flow; those of peers without one still come to the two. */
static void reuseport_body(void)
{
	enum { PEERS = 24 };
	struct hark_listener *l[2];
	struct hark_listen_opts o = {.reuseport = true};
	struct hark_conn *flow[PEERS];
	char address[HARK_ADDRESS_MAX], text[HARK_ADDRESS_MAX], buf[8];
	int fds[PEERS], strangers[PEERS], dealt[2] = {0, 0};
	CHECK_INT(hark_listen("udp4://127.0.0.1:0", &o, &l[0]), 0);
	CHECK(hark_listener_address(l[0], address, sizeof address) > 0);
	CHECK_INT(hark_listen(address, &o, &l[1]), 0);
	int port = listener_port(l[0]);
	for (int i = 0; i < PEERS; i++) {
		int r = -ETIMEDOUT;
		fds[i] = peer_to("127.0.0.1", port);
		peer_says(fds[i], "first");
		for (int k = 0; r < 0; k = !k) { /* whichever has it */
			r = hark_accept(l[k], hark_after(2 * HARK_MS), &flow[i]);
			dealt[k] += r == 0;
		}
		CHECK_INT(hark_udp_connect(flow[i]), 0);
		hark_idle_timeout(flow[i], 5 * HARK_S);
		CHECK_INT(hark_read(flow[i], buf, sizeof buf), 5);
	}
	CHECK(dealt[0] > 0 && dealt[1] > 0);
	for (int round = 0; round < 3; round++)
		for (int i = 0; i < PEERS; i++) {
			(void)snprintf(text, sizeof text, "%d", i);
			peer_says(fds[i], text);
			ssize_t n = hark_read(flow[i], buf, sizeof buf - 1);
			CHECK_INT(n, (int)strlen(text));
			CHECK(memcmp(buf, text, (size_t)n) == 0);
			CHECK_INT(hark_write(flow[i], "yes", 3), 3);
			peer_hears(fds[i], "yes");
		}
	for (int i = 0; i < PEERS; i++) {
		struct hark_conn *c;
		int r = -ETIMEDOUT;
		strangers[i] = peer_to("127.0.0.1", port);
		peer_says(strangers[i], "new");
		for (int k = 0, tries = 0; r < 0 && tries < 400; k = !k, tries++)
			r = hark_accept(l[k], hark_after(2 * HARK_MS), &c);
		CHECK_INT(r, 0);
		hark_abort(c);
		(void)close(strangers[i]);
	}
	for (int i = 0; i < PEERS; i++) {
		CHECK_INT(hark_close(flow[i]), 0);
		(void)close(fds[i]);
	}
	hark_listener_close(l[0]);
	hark_listener_close(l[1]);
}

static void flows_begin_beside_sockets_that_share_a_port(void **state)
{
	(void)state;
	everywhere(reuseport_body);
}

/* ---- waits that last -------------------------------------------------------------------------- */

static int64_t cpu_ns(void)
{
	struct timespec t;
	CHECK_INT(clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t), 0);
	return t.tv_sec * HARK_S + t.tv_nsec;
}

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

static void seqpacket_body(void)
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

static void a_socket_of_packets_has_an_end(void **state)
{
	(void)state;
	everywhere(seqpacket_body);
}

static void empty_datagrams_body(void)
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

static void an_empty_datagram_is_no_end_and_a_shut_socket_is(void **state)
{
	(void)state;
	everywhere(empty_datagrams_body);
}

/* ---- served ones ----------------------------------------------------------------------------- */

static void on_term(int sig)
{
	(void)sig;
	hark_drain(5 * HARK_S);
}

static int ready_fd;

static void tell_ready(const struct hark_event *e, void *arg)
{
	(void)arg;
	if (e->kind == HARK_EVENT_READY)
		CHECK_INT(write(ready_fd, "r", 1), 1);
}

static void echo(struct hark_conn *c, void *arg)
{
	char buf[2000];
	(void)arg;
	ssize_t n = hark_read(c, buf, sizeof buf);
	if (n >= 0)
		CHECK_INT(hark_write(c, buf, (size_t)n), n);
	else
		CHECK(hark_printf(c, "%s", hark_strerror((int)n)) > 0);
}

static void converses(struct hark_conn *c, void *arg)
{
	char buf[100];
	(void)arg;
	if (hark_udp_connect(c) < 0)
		return;
	hark_idle_timeout(c, 500 * HARK_MS);
	ssize_t n;
	while (hark_idle(c) > 0 && (n = hark_read(c, buf, sizeof buf)) >= 0)
		CHECK_INT(hark_write(c, buf, (size_t)n), n);
}

static pid_t serve_in_child(struct hark_listener *l, hark_box *box, const struct hark_serve_opts *with)
{
	int fds[2];
	char byte;
	assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		struct hark_serve_opts o = *with;
		(void)close(fds[0]);
		ready_fd = fds[1];
		o.event = tell_ready;
		(void)signal(SIGSEGV, SIG_DFL);
		(void)signal(SIGTERM, on_term);
		(void)alarm(MODE_TIMEOUT_S);
		int rc = hark_serve(&l, 1, box, NULL, &o);
		hark_listener_close(l);
		if (rc < 0 && rc != -ENOSYS)
			(void)fprintf(stderr, "serve, %s: %s\n", hark_model_name(o.model), hark_strerror(rc));
		_exit(rc == 0 ? 0 : rc == -ENOSYS ? SKIPPED : 1);
	}
	(void)close(fds[1]);
	bool ready = read(fds[0], &byte, 1) == 1;
	(void)close(fds[0]);
	if (ready)
		return pid;
	int status;
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(WEXITSTATUS(status), SKIPPED);
	return 0;
}

static void stop(pid_t pid)
{
	int status;
	assert_int_equal(kill(pid, SIGTERM), 0);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

/* Two hundred datagrams come before the server looks; each is answered to its own sender. */
static void batch_with(const struct hark_serve_opts *o)
{
	struct hark_listener *l;
	int fds[10];
	char text[16];
	bool heard[200] = {false};
	assert_int_equal(hark_listen("udp://*:0", &(struct hark_listen_opts){.receive_buffer_bytes = 1 << 20}, &l), 0);
	for (int i = 0; i < 10; i++)
		fds[i] = peer_to(i % 2 ? "127.0.0.1" : "127.0.0.2", listener_port(l));
	for (int i = 0; i < 200; i++) {
		(void)snprintf(text, sizeof text, "%d", i);
		peer_says(fds[i % 10], text);
	}
	pid_t pid = serve_in_child(l, echo, o);
	if (pid == 0) {
		print_message("skipped in part: engine %s is not available here\n", o->engine);
	} else {
		for (int i = 0; i < 200; i++) {
			ssize_t n = receive(fds[i % 10], text, sizeof text - 1);
			assert_true(n > 0);
			text[n] = '\0';
			int which = atoi(text);
			assert_int_equal(which % 10, i % 10);
			assert_false(heard[which]);
			heard[which] = true;
		}
		static char big[2500];
		assert_int_equal(send(fds[0], big, sizeof big, 0), sizeof big);
		peer_hears(fds[0], strerror(EMSGSIZE));
		stop(pid);
	}
	for (int i = 0; i < 10; i++)
		(void)close(fds[i]);
	hark_listener_close(l);
}

static void a_burst_of_datagrams_is_answered_each_to_its_sender(void **state)
{
	(void)state;
	for (int m = HARK_MODEL_INLINE; m <= HARK_MODEL_FIBER; m++)
		for (int max = 0; max <= 5; max += 5)
			for (size_t e = 0; e < ENGINES_ALL; e++)
				batch_with(&(struct hark_serve_opts){.model = (enum hark_model)m,
				                                     .engine = engines_all[e],
				                                     .max_conns = max});
}

static int gate[2];

static void second_waits(struct hark_conn *c, void *arg)
{
	char buf[16];
	(void)arg;
	ssize_t n = hark_read(c, buf, sizeof buf);
	CHECK_INT(n, 1);
	if (buf[0] == '2')
		CHECK_INT(hark_wait_fd(gate[0], HARK_IN, hark_after(20 * HARK_S)), HARK_IN);
	CHECK_INT(hark_write(c, buf, 1), 1);
}

/* Both come before the server looks. */
static void an_answer_does_not_wait_for_the_next_box(void **state)
{
	(void)state;
	for (int model = HARK_MODEL_INLINE; model <= HARK_MODEL_FIBER; model++) {
		struct hark_listener *l;
		struct timeval patience = {.tv_sec = 10 * SLOWER};
		assert_int_equal(pipe2(gate, O_CLOEXEC), 0);
		assert_int_equal(hark_listen("udp://127.0.0.1:0", NULL, &l), 0);
		int fd = peer_to("127.0.0.1", listener_port(l));
		assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience), 0);
		peer_says(fd, "1");
		peer_says(fd, "2");
		pid_t pid = serve_in_child(l, second_waits, &(struct hark_serve_opts){.model = model});
		peer_hears(fd, "1");
		assert_int_equal(write(gate[1], "x", 1), 1);
		peer_hears(fd, "2");
		stop(pid);
		(void)close(fd);
		(void)close(gate[0]);
		(void)close(gate[1]);
		hark_listener_close(l);
	}
}

static void served_conversations_keep_peers_apart(void **state)
{
	(void)state;
	for (int m = HARK_MODEL_PROCESS; m <= HARK_MODEL_FIBER; m++) {
		struct hark_listener *l;
		int fds[6];
		char text[16];
		assert_int_equal(hark_listen("udp://*:0", NULL, &l), 0);
		pid_t pid = serve_in_child(l, converses, &(struct hark_serve_opts){.model = (enum hark_model)m});
		assert_true(pid > 0);
		for (int i = 0; i < 6; i++)
			fds[i] = peer_to(i % 2 ? "127.0.0.1" : "127.0.0.2", listener_port(l));
		for (int round = 0; round < 10; round++) {
			for (int i = 0; i < 6; i++) {
				(void)snprintf(text, sizeof text, "%d.%d", i, round);
				peer_says(fds[i], text);
			}
			for (int i = 0; i < 6; i++) {
				(void)snprintf(text, sizeof text, "%d.%d", i, round);
				peer_hears(fds[i], text);
			}
		}
		stop(pid);
		for (int i = 0; i < 6; i++)
			(void)close(fds[i]);
		hark_listener_close(l);
	}
}

static void answers_too_long(struct hark_conn *c, void *arg)
{
	static const char much[65508]; /* a byte more than IPv4 has room for */
	(void)arg;
	(void)hark_printf(c, "first");
	ssize_t n = hark_write(c, much, sizeof much);
	(void)hark_printf(c, "%s", n == -EMSGSIZE ? "too long" : "no error");
}

static void a_reply_that_is_too_long_is_known_as_such_under_every_model(void **state)
{
	(void)state;
	for (int m = HARK_MODEL_INLINE; m <= HARK_MODEL_FIBER; m++) {
		struct hark_listener *l;
		assert_int_equal(hark_listen("udp://127.0.0.1:0", NULL, &l), 0);
		pid_t pid = serve_in_child(l, answers_too_long, &(struct hark_serve_opts){.model = (enum hark_model)m});
		assert_true(pid > 0);
		int fd = peer_to("127.0.0.1", listener_port(l));
		peer_says(fd, "?");
		peer_hears(fd, "first");
		peer_hears(fd, "too long");
		stop(pid);
		(void)close(fd);
		hark_listener_close(l);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(answers_come_from_the_address_that_was_asked),
		cmocka_unit_test(a_broadcast_is_answered),
		cmocka_unit_test(the_same_over_ipv6),
		cmocka_unit_test(datagrams_stay_apart_and_whole),
		cmocka_unit_test(a_datagram_longer_than_any_udp_one_is_kept_too),
		cmocka_unit_test(nobody_there_is_told),
		cmocka_unit_test(unix_datagrams_are_answered_where_they_have_a_sender),
		cmocka_unit_test(a_queued_error_does_not_spin),
		cmocka_unit_test(a_socket_of_packets_has_an_end),
		cmocka_unit_test(an_empty_datagram_is_no_end_and_a_shut_socket_is),
		cmocka_unit_test(flows_begin_beside_sockets_that_share_a_port),
		cmocka_unit_test(a_conversation_gets_all_that_its_peer_sends_and_nothing_else),
		cmocka_unit_test(a_burst_of_datagrams_is_answered_each_to_its_sender),
		cmocka_unit_test(a_reply_that_is_too_long_is_known_as_such_under_every_model),
		cmocka_unit_test(an_answer_does_not_wait_for_the_next_box),
		cmocka_unit_test(served_conversations_keep_peers_apart),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
