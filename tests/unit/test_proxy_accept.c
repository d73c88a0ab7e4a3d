/* test_proxy_accept.c — the PROXY protocol's header on a connection: read to its last byte and no further, in whatever
 * pieces it comes, by its deadline; and written for one that is relayed. */
#include "stream_support.h"

#include "conn/proxy.h"

#define LINE      "PROXY TCP4 192.0.2.1 198.51.100.2 1000 443\r\n"
#define SIGNATURE "\r\n\r\n\0\r\nQUIT\n"
#define V4        "\300\0\2\1\306\63\144\2\3\350\1\273"
#define HEAD      SIGNATURE "\x21\x11\0\x15" V4 "\2\0\6a.test"

struct raw {
	int fd; /* the proxy's end */
	struct hark_conn *c;
};

static struct raw raw_open(void)
{
	int fds[2];
	raw_tcp(fds);
	return (struct raw){fds[0], conn_of(fds[1])};
}

static void raw_close(struct raw *r)
{
	hark_abort(r->c);
	(void)close(r->fd);
}

static void put(int fd, const char *bytes, size_t n)
{
	CHECK_INT(send(fd, bytes, n, MSG_NOSIGNAL), (long long)n);
}

#define PUT(fd, text) put(fd, text, sizeof(text) - 1)

static void check_ends(struct hark_conn *c, const char *peer, const char *local)
{
	char text[HARK_ADDRESS_MAX];
	CHECK(hark_peer(c, text, sizeof text) > 0);
	CHECK_HAS(text, peer);
	CHECK(hark_local(c, text, sizeof text) > 0);
	CHECK_HAS(text, local);
}

static void accepts(struct hark_conn *c)
{
	struct hark_why why = {""};
	int r = hark_proxy_accept(c, hark_after(10 * HARK_S), &why);
	if (r < 0)
		(void)fprintf(stderr, "%s\n", why.text);
	CHECK_INT(r, 0);
}

static void refuses(struct hark_conn *c, int error, const char *word)
{
	struct hark_why why = {""};
	CHECK_INT(hark_proxy_accept(c, hark_after(HARK_S / 5), &why), error);
	CHECK_INT(strncmp(why.text, word, strlen(word)), 0);
	CHECK(hark_proxied(c) == NULL);
}

/* ---- what is read ---------------------------------------------------------------------------- */

static void the_real_peer_is_the_peer_from_then_on(void)
{
	struct raw r = raw_open();
	PUT(r.fd, LINE);
	accepts(r.c);
	check_ends(r.c, "tcp://192.0.2.1:1000", "tcp://198.51.100.2:443");
	CHECK_INT(hark_proxied(r.c)->version, 1);
	CHECK_INT(hark_proxy_accept(r.c, HARK_FOREVER, NULL), -EALREADY);
	raw_close(&r);
}

static void what_the_header_told_lasts(void)
{
	struct raw r = raw_open();
	PUT(r.fd, HEAD "body");
	accepts(r.c);
	check_ends(r.c, "tcp://192.0.2.1:1000", "tcp://198.51.100.2:443");
	const struct hark_proxy *p = hark_proxied(r.c);
	const struct hark_proxy_tlv *t = hark_proxy_find(p, HARK_PROXY_AUTHORITY);
	CHECK(t != NULL && t->len == 6 && memcmp(t->value, "a.test", 6) == 0);
	CHECK(hark_proxy_find(p, HARK_PROXY_ALPN) == NULL);
	CHECK_INT(p->n_tlvs, 1);
	raw_close(&r);
}

static void unknown_and_local_keep_the_sockets_own_ends(void)
{
	static const struct {
		const char *bytes;
		size_t n;
	} own[] = {
		{"PROXY UNKNOWN\r\n", 15},           {"PROXY UNKNOWN 1.2.3.4 x\r\n", 25}, {SIGNATURE "\x20\0\0\0", 16},
		{SIGNATURE "\x20\x11\0\x0c" V4, 28}, {SIGNATURE "\x21\0\0\3abc", 19},
	};
	for (size_t i = 0; i < sizeof own / sizeof *own; i++) {
		struct raw r = raw_open();
		char peer[HARK_ADDRESS_MAX], local[HARK_ADDRESS_MAX];
		CHECK(hark_peer(r.c, peer, sizeof peer) > 0 && hark_local(r.c, local, sizeof local) > 0);
		put(r.fd, own[i].bytes, own[i].n);
		accepts(r.c);
		check_ends(r.c, peer, local);
		CHECK(hark_proxied(r.c)->local);
		raw_close(&r);
	}
}

static void paths_of_unix_are_ends_too(void)
{
	struct raw r = raw_open();
	struct hark_credentials who;
	char bytes[232] = SIGNATURE "\x21\x31\0\xd8/run/client";
	memcpy(bytes + 16 + 108, "/run/server", 11);
	put(r.fd, bytes, sizeof bytes);
	accepts(r.c);
	check_ends(r.c, "unix:/run/client", "unix:/run/server");
	CHECK_INT(hark_peer_credentials(r.c, &who), -EOPNOTSUPP);
	raw_close(&r);
}

static void a_proxys_credentials_are_not_its_clients(void)
{
	int fds[2];
	struct hark_credentials who;
	raw_unix(fds);
	struct raw r = {fds[0], conn_of(fds[1])};
	CHECK_INT(hark_peer_credentials(r.c, &who), 0);
	PUT(r.fd, LINE);
	accepts(r.c);
	check_ends(r.c, "tcp://192.0.2.1:1000", "tcp://198.51.100.2:443");
	CHECK_INT(hark_peer_credentials(r.c, &who), -EOPNOTSUPP);
	raw_close(&r);
}

/* ---- how it comes ---------------------------------------------------------------------------- */

struct pieces {
	int fd;
	const char *bytes;
	size_t n, step;
};

static void put_pieces(void *arg)
{
	struct pieces *p = arg;
	for (size_t at = 0; at < p->n; at += p->step) {
		put(p->fd, p->bytes + at, p->n - at < p->step ? p->n - at : p->step);
		(void)hark_sleep(HARK_MS);
	}
}

static void check_pieces(const char *bytes, size_t n, size_t step)
{
	struct raw r = raw_open();
	struct pieces p = {r.fd, bytes, n, step};
	struct beside b;
	char rest[8];
	CHECK_INT(setsockopt(r.fd, IPPROTO_TCP, 1 /* TCP_NODELAY */, &(int){1}, sizeof(int)), 0);
	beside_start(&b, put_pieces, &p);
	accepts(r.c);
	check_ends(r.c, "tcp://192.0.2.1:1000", "tcp://198.51.100.2:443");
	CHECK_INT(hark_readn(r.c, rest, 4), 4);
	CHECK_INT(memcmp(rest, "body", 4), 0);
	beside_end(&b);
	raw_close(&r);
}

static void it_may_come_in_any_pieces(void)
{
	check_pieces(LINE "body", sizeof LINE - 1 + 4, 1);
	check_pieces(LINE "body", sizeof LINE - 1 + 4, 7);
	check_pieces(HEAD "body", sizeof HEAD - 1 + 4, 1);
	check_pieces(HEAD "body", sizeof HEAD - 1 + 4, 9);
}

/* As a program would that is given the descriptor: nothing of what follows has been taken. */
static void what_follows_is_left_to_who_has_the_descriptor(void)
{
	static const struct {
		const char *bytes;
		size_t n;
	} heads[] = {{LINE, sizeof LINE - 1}, {HEAD, sizeof HEAD - 1}, {SIGNATURE "\x20\0\0\0", 16}};
	for (size_t i = 0; i < sizeof heads / sizeof *heads; i++) {
		struct raw r = raw_open();
		char both[128], buf[16];
		memcpy(both, heads[i].bytes, heads[i].n);
		memcpy(both + heads[i].n, "PROXY \n", 7);
		put(r.fd, both, heads[i].n + 7);
		accepts(r.c);
		CHECK_INT(hark_buffered(r.c), 0);
		int fd = hark_handover(r.c);
		CHECK(fd >= 0);
		CHECK_INT(recv(fd, buf, sizeof buf, 0), 7);
		CHECK_INT(memcmp(buf, "PROXY \n", 7), 0);
		raw_close(&r);
	}
}

/* Somebody looked first: it is in the connection's buffer. */
static void a_header_that_was_looked_at_is_read(void)
{
	struct raw r = raw_open();
	char buf[64];
	PUT(r.fd, LINE "body");
	CHECK(hark_peek(r.c, buf, sizeof buf) > 0);
	accepts(r.c);
	CHECK_INT(hark_buffered(r.c), 4);
	CHECK_INT(hark_readn(r.c, buf, 4), 4);
	CHECK_INT(memcmp(buf, "body", 4), 0);
	raw_close(&r);
}

static void through_a_pipe_it_is_read_as_well(void)
{
	int fds[2];
	char buf[8];
	CHECK_INT(pipe2(fds, O_CLOEXEC), 0);
	struct raw r = {fds[1], conn_of(fds[0])};
	CHECK_INT(write(r.fd, LINE "body", sizeof LINE - 1 + 4), (long long)sizeof LINE - 1 + 4);
	accepts(r.c);
	CHECK_INT(hark_readn(r.c, buf, 4), 4);
	CHECK_INT(memcmp(buf, "body", 4), 0);
	raw_close(&r);
}

static void a_long_header_is_read_whole(void)
{
	static char value[65000], bytes[HARK__PROXY_MAX + 4];
	struct hark_proxy_tlv tlv[] = {{0xe0, sizeof value, value}, {HARK_PROXY_ALPN, 2, "h2"}};
	struct hark_proxy p = {.tlvs = tlv, .n_tlvs = 2, .checksum = true};
	pattern_fill(value, 0, sizeof value);
	CHECK_INT(hark_resolve("tcp://192.0.2.1:1000", &p.source, 1, 0), 1);
	CHECK_INT(hark_resolve("tcp://198.51.100.2:443", &p.destination, 1, 0), 1);
	ssize_t n = hark_proxy_format(&p, bytes, sizeof bytes);
	CHECK(n > 65000);
	memcpy(bytes + n, "body", 4);
	check_pieces(bytes, (size_t)n + 4, 9999);
	struct raw r = raw_open();
	struct pieces all = {r.fd, bytes, (size_t)n, (size_t)n};
	struct beside b;
	beside_start(&b, put_pieces, &all);
	accepts(r.c);
	beside_end(&b);
	const struct hark_proxy_tlv *t = hark_proxy_find(hark_proxied(r.c), 0xe0);
	CHECK(t != NULL && t->len == sizeof value && pattern_is(t->value, 0, t->len));
	raw_close(&r);
}

/* ---- what is refused ------------------------------------------------------------------------- */

static void one_that_is_never_finished_ends_at_its_deadline(void)
{
	static const struct {
		const char *bytes;
		size_t n;
	} parts[] = {
		{"", 0},
		{"PROXY TCP4 192.0.2.1", 20},
		{SIGNATURE, 12},
		{SIGNATURE "\x21\x11\xff\xff" V4, 28}, /* its length lies */
	};
	for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
		struct raw r = raw_open();
		put(r.fd, parts[i].bytes, parts[i].n);
		int64_t began = hark_now();
		refuses(r.c, -ETIMEDOUT, "timeout:");
		CHECK(hark_now() - began >= HARK_S / 5 && hark_now() - began < 3 * HARK_S);
		raw_close(&r);
	}
}

static void the_connections_own_deadline_holds_too(void)
{
	struct raw r = raw_open();
	hark_deadline(r.c, hark_after(20 * HARK_MS));
	CHECK_INT(hark_proxy_accept(r.c, HARK_FOREVER, NULL), -ETIMEDOUT);
	raw_close(&r);
	r = raw_open();
	PUT(r.fd, LINE); /* it waits for nothing: read, though it is late */
	CHECK_INT(hark_proxy_accept(r.c, 0, NULL), 0);
	raw_close(&r);
}

static void a_bad_header_is_refused_as_soon_as_it_is_one(void)
{
	struct raw r = raw_open();
	PUT(r.fd, "G");
	refuses(r.c, -EPROTO, "signature:");
	raw_close(&r);
	r = raw_open();
	PUT(r.fd, SIGNATURE "\x21\x41");
	refuses(r.c, -EPROTO, "family:");
	raw_close(&r);
	char line[108];
	memset(line, 'x', sizeof line);
	memcpy(line, "PROXY UNKNOWN ", 14);
	r = raw_open();
	put(r.fd, line, sizeof line);
	refuses(r.c, -EPROTO, "line:");
	raw_close(&r);
	r = raw_open();
	PUT(r.fd, SIGNATURE "\x21\x11\0\x13" V4 "\3\0\4\0\0\0\0");
	refuses(r.c, -EPROTO, "checksum:");
	raw_close(&r);
}

static void a_peer_that_ends_in_the_midst_is_told_apart_from_one_that_resets(void)
{
	struct raw r = raw_open();
	PUT(r.fd, "PROXY TCP4 ");
	CHECK_INT(shutdown(r.fd, SHUT_WR), 0);
	refuses(r.c, -ENODATA, "end:");
	raw_close(&r);
	r = raw_open();
	CHECK_INT(shutdown(r.fd, SHUT_WR), 0);
	refuses(r.c, -ENODATA, "end:");
	raw_close(&r);
	r = raw_open();
	const struct linger now = {.l_onoff = 1};
	CHECK_INT(setsockopt(r.fd, SOL_SOCKET, SO_LINGER, &now, sizeof now), 0);
	PUT(r.fd, SIGNATURE);
	CHECK_INT(close(r.fd), 0);
	CHECK_INT(hark_proxy_accept(r.c, HARK_FOREVER, NULL), -ECONNRESET);
	hark_abort(r.c);
}

static void datagrams_have_none(void)
{
	struct hark_conn *c;
	CHECK_INT(hark_dial("udp://127.0.0.1:9", NULL, &c), 0);
	CHECK_INT(hark_proxy_accept(c, HARK_FOREVER, NULL), -EOPNOTSUPP);
	hark_abort(c);
}

/* ---- what is written ------------------------------------------------------------------------- */

static void a_relay_tells_for_whom_it_speaks(void)
{
	struct raw client = raw_open();
	struct pair on = tcp_pair();
	struct hark_proxy p;
	char peer[HARK_ADDRESS_MAX], local[HARK_ADDRESS_MAX];
	struct hark_proxy_tlv tlvs[] = {{HARK_PROXY_ALPN, 2, "h2"}, {HARK_PROXY_SSL_VERSION, 7, "TLSv1.3"}};
	CHECK(hark_peer(client.c, peer, sizeof peer) > 0 && hark_local(client.c, local, sizeof local) > 0);
	hark_proxy_describe(client.c, &p);
	p.checksum = p.ssl = true;
	p.ssl_client = 1;
	p.tlvs = tlvs;
	p.n_tlvs = 2;
	CHECK_INT(hark_proxy_send(on.a, &p), 16 + 12 + 5 + 8 + 10 + 7);
	say(on.a, "body");
	accepts(on.b);
	check_ends(on.b, peer, local);
	CHECK(hark_proxied(on.b)->ssl && hark_proxied(on.b)->checksum);
	CHECK_INT(hark_proxy_find(hark_proxied(on.b), HARK_PROXY_SSL_VERSION)->len, 7);
	pair_drop(&on);
	raw_close(&client);
}

static void a_relay_of_what_has_no_address_says_local(void)
{
	int fds[2];
	struct hark_proxy p;
	CHECK_INT(pipe2(fds, O_CLOEXEC), 0);
	struct hark_conn *c = conn_of(fds[0]);
	hark_proxy_describe(c, &p);
	CHECK(p.local);
	struct pair on = tcp_pair();
	p.version = 1;
	CHECK_INT(hark_proxy_send(on.a, &p), 15);
	CHECK_INT(hark_flush(on.a), 0);
	accepts(on.b);
	CHECK(hark_proxied(on.b)->local);
	pair_drop(&on);
	hark_abort(c);
	(void)close(fds[1]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		EVERYWHERE(the_real_peer_is_the_peer_from_then_on),
		EVERYWHERE(what_the_header_told_lasts),
		EVERYWHERE(unknown_and_local_keep_the_sockets_own_ends),
		EVERYWHERE(paths_of_unix_are_ends_too),
		EVERYWHERE(a_proxys_credentials_are_not_its_clients),
		EVERYWHERE_AT_ONCE(it_may_come_in_any_pieces),
		EVERYWHERE(what_follows_is_left_to_who_has_the_descriptor),
		EVERYWHERE(a_header_that_was_looked_at_is_read),
		EVERYWHERE(through_a_pipe_it_is_read_as_well),
		EVERYWHERE(a_long_header_is_read_whole),
		EVERYWHERE_AT_ONCE(one_that_is_never_finished_ends_at_its_deadline),
		EVERYWHERE(the_connections_own_deadline_holds_too),
		EVERYWHERE(a_bad_header_is_refused_as_soon_as_it_is_one),
		EVERYWHERE(a_peer_that_ends_in_the_midst_is_told_apart_from_one_that_resets),
		EVERYWHERE(datagrams_have_none),
		EVERYWHERE(a_relay_tells_for_whom_it_speaks),
		EVERYWHERE(a_relay_of_what_has_no_address_says_local),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
