/* test_proxy_serve.c — hark_serve() behind proxies: the box sees the real peer, and no connection without a header of
 * whom must have one; under every model, number of workers and engine. */
#include "serve_support.h"

#define LINE "PROXY TCP4 192.0.2.1 198.51.100.2 1000 443\r\n"
#define V2   "\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\300\0\2\1\306\63\144\2\3\350\1\273"
#define PEER "tcp://192.0.2.1:1000 tcp://198.51.100.2:443 "

/* Says whose connection it is, and what follows the header: as a program that has the descriptor finds it. */
static void tells(struct hark_conn *c, void *arg)
{
	char peer[HARK_ADDRESS_MAX] = "", local[HARK_ADDRESS_MAX] = "", rest[64];
	(void)arg;
	(void)hark_peer(c, peer, sizeof peer);
	(void)hark_local(c, local, sizeof local);
	int fd = hark_handover(c);
	struct pollfd p = {.fd = fd, .events = POLLIN};
	ssize_t n = fd >= 0 && poll(&p, 1, LONG_MS) > 0 ? recv(fd, rest, sizeof rest, 0) : -1;
	if (n > 0)
		(void)hark_printf(c, "%s %s %.*s", peer, local, (int)n, rest);
}

static int required(struct hark_conn *c, void *arg)
{
	(void)c;
	(void)arg;
	return 1;
}

static int direct(struct hark_conn *c, void *arg)
{
	(void)c;
	(void)arg;
	return 0;
}

static int refused(struct hark_conn *c, void *arg)
{
	(void)c;
	(void)arg;
	return -EACCES;
}

static void put(int fd, const char *bytes, size_t n)
{
	assert_int_equal(send(fd, bytes, n, MSG_NOSIGNAL), n);
}

#define PUT(fd, text) put(fd, text, sizeof(text) - 1)

static void assert_answer(int fd, const char *answer)
{
	char buf[512];
	size_t n = 0;
	for (ssize_t got; n < sizeof buf - 1 && (got = receive(fd, buf + n, sizeof buf - 1 - n)) > 0;)
		n += (size_t)got;
	buf[n] = '\0';
	assert_string_equal(buf, answer);
	(void)close(fd);
}

/* Not one byte of an answer. */
static void assert_refused(struct server *s, int fd)
{
	client_hears_the_end(fd);
	event_await(s, 'x');
}

static void speaks(struct server *s)
{
	int fd = client(s);
	PUT(fd, LINE "body");
	assert_answer(fd, PEER "body");
	event_await(s, 'c');
	fd = client(s);
	PUT(fd, V2);
	PUT(fd, "PROXY ");
	assert_answer(fd, PEER "PROXY ");
	event_await(s, 'c');
	fd = client(s);
	PUT(fd, "GET / HTTP/1.0\r\n\r\n");
	assert_refused(s, fd);
	fd = client(s);
	PUT(fd, "PROXY TCP4 192.0.2.1 198.51.100.2 1000 99999\r\nbody");
	assert_refused(s, fd);
}

static void the_box_sees_the_real_peer_and_what_follows_the_header(void **state)
{
	(void)state;
	every_way((struct plan){.box = tells, .opts = {.proxied = required}, .grace_ns = 5 * HARK_S}, speaks);
	every_way((struct plan){.box = tells,
	                        .opts = {.proxied = required, .client_first = true},
	                        .grace_ns = 5 * HARK_S},
	          speaks);
}

static void is_late(struct server *s)
{
	int silent = client(s), slow = client(s);
	PUT(slow, "PROXY TCP4 192.0.2.1 ");
	assert_refused(s, silent);
	assert_refused(s, slow);
	int fd = client(s);
	PUT(fd, LINE "body");
	assert_answer(fd, PEER "body");
}

static void a_header_that_is_not_finished_in_time_is_refused(void **state)
{
	(void)state;
	every_way((struct plan){.box = tells,
	                        .opts = {.proxied = required, .proxy_timeout_ns = 50 * HARK_MS, .client_first = true},
	                        .grace_ns = 5 * HARK_S},
	          is_late);
}

static void is_spoofed(struct server *s)
{
	int fd = client(s);
	(void)!send(fd, LINE "body", sizeof LINE + 3, MSG_NOSIGNAL); /* it may be gone already */
	assert_refused(s, fd);
}

static void who_is_no_proxy_is_refused_with_a_header_or_without(void **state)
{
	(void)state;
	every_way((struct plan){.box = tells, .opts = {.proxied = refused}, .grace_ns = 5 * HARK_S}, is_spoofed);
}

static void is_direct(struct server *s)
{
	char peer[128];
	struct sockaddr_in own;
	socklen_t len = sizeof own;
	int fd = client(s);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&own, &len), 0);
	(void)snprintf(peer, sizeof peer, "tcp://127.0.0.1:%d tcp://127.0.0.1:%d " LINE, ntohs(own.sin_port),
	               port_of(&s->at));
	PUT(fd, LINE);
	assert_answer(fd, peer);
}

static void who_speaks_for_itself_has_no_header_read(void **state)
{
	(void)state;
	every_way((struct plan){.box = tells, .opts = {.proxied = direct}, .grace_ns = 5 * HARK_S}, is_direct);
}

static void resets(struct server *s)
{
	const struct linger now = {.l_onoff = 1};
	for (int i = 0; i < 20; i++) {
		int fd = client(s);
		put(fd, V2, (size_t)i);
		assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof now), 0);
		(void)close(fd);
	}
	int fd = client(s);
	PUT(fd, LINE "body");
	assert_answer(fd, PEER "body");
}

static void peers_that_reset_in_the_midst_of_it_cost_their_own_connection_alone(void **state)
{
	(void)state;
	every_way((struct plan){.box = tells, .opts = {.proxied = required}, .grace_ns = 5 * HARK_S}, resets);
}

/* The grace is longer than what a silent one is left. */
static void waits(struct server *s)
{
	int fd = client(s);
	int64_t began = hark_now();
	assert_int_equal(kill(s->pid, SIGTERM), 0);
	client_hears_the_end(fd);
	if (hark_now() - began > 6 * HARK_S)
		fail_msg("the drain waited for its header");
}

static void a_drain_waits_for_no_header(void **state)
{
	struct plan p = {.box = tells, .opts = {.proxied = required, .proxy_timeout_ns = 60 * HARK_S}};
	(void)state;
	p.grace_ns = 20 * HARK_S;
	for (size_t e = 0; e < ENGINES_ALL; e++) {
		p.opts.engine = engines_all[e];
		struct server s = server_start(&p);
		if (server_ready(&s))
			waits(&s);
		(void)server_end(&s);
	}
}

static void a_negative_time_is_refused(void **state)
{
	struct hark_listener *l;
	(void)state;
	assert_int_equal(hark_listen("tcp://127.0.0.1:0", NULL, &l), 0);
	assert_int_equal(hark_serve(&l, 1, tells, NULL, &(struct hark_serve_opts){.proxy_timeout_ns = -1}), -EINVAL);
	hark_listener_close(l);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_box_sees_the_real_peer_and_what_follows_the_header),
		cmocka_unit_test(a_header_that_is_not_finished_in_time_is_refused),
		cmocka_unit_test(who_is_no_proxy_is_refused_with_a_header_or_without),
		cmocka_unit_test(who_speaks_for_itself_has_no_header_read),
		cmocka_unit_test(peers_that_reset_in_the_midst_of_it_cost_their_own_connection_alone),
		cmocka_unit_test(a_drain_waits_for_no_header),
		cmocka_unit_test(a_negative_time_is_refused),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
