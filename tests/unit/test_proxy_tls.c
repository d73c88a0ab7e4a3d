/* test_proxy_tls.c — the PROXY protocol's header before TLS: in the clear, in one segment with the handshake's first
 * bytes, on a connection and under a server of every model. */
#include "serve_support.h"
#include "tls_support.h"

/* Not used here, and so optimized away: its memory would seem lost. */
static const struct made_cert *volatile kept_cert __attribute__((unused)) = &client_cert;

static struct hark_proxy on_behalf(void)
{
	struct hark_proxy p = {.version = 2};
	assert_int_equal(hark_resolve("tcp://192.0.2.1:1000", &p.source, 1, 0), 1);
	assert_int_equal(hark_resolve("tcp://198.51.100.2:443", &p.destination, 1, 0), 1);
	return p;
}

static void tls_follows_the_header(void)
{
	struct hark_tls *client = client_settings(), *server = server_settings();
	struct pair p = tcp_pair();
	struct hark_proxy head = on_behalf();
	char peer[HARK_ADDRESS_MAX], buf[8];
	CHECK(hark_proxy_send(p.a, &head) > 0); /* leaves with the ClientHello */
	struct shaking a = {.c = p.a, .t = client, .name = "a.example"}, b = {.c = p.b, .t = server};
	struct beside beside;
	beside_start(&beside, shake_beside, &a);
	CHECK_INT(hark_proxy_accept(p.b, hark_after(10 * HARK_S), NULL), 0);
	shake_beside(&b);
	beside_end(&beside);
	CHECK_INT(a.got, 0);
	CHECK_INT(b.got, 0);
	CHECK(hark_peer(p.b, peer, sizeof peer) > 0);
	CHECK_HAS(peer, "tcp://192.0.2.1:1000");
	say(p.a, "body");
	CHECK_INT(hark_readn(p.b, buf, 4), 4);
	pair_drop(&p);
	hark_tls_free(client);
	hark_tls_free(server);
}

static int required(struct hark_conn *c, void *arg)
{
	(void)c;
	(void)arg;
	return 1;
}

static void tells_peer(struct hark_conn *c, void *arg)
{
	char peer[HARK_ADDRESS_MAX] = "";
	(void)arg;
	(void)hark_peer(c, peer, sizeof peer);
	(void)hark_printf(c, "%s\n", peer);
}

static struct hark_tls *settings; /* the client's */

static struct hark_conn *client_conn(const struct server *s)
{
	struct hark_conn *c;
	assert_int_equal(hark_conn_from_fd(client(s), &c), 0);
	return c;
}

static void asks(struct server *s)
{
	struct hark_proxy head = on_behalf();
	char line[64];
	struct hark_conn *c = client_conn(s);
	assert_true(hark_proxy_send(c, &head) > 0);
	assert_int_equal(hark_starttls(c, settings, &(struct hark_starttls_opts){.name = "a.example"}), 0);
	assert_true(hark_readline(c, line, sizeof line) > 0);
	assert_string_equal(line, "tcp://192.0.2.1:1000\n");
	hark_abort(c);
	event_await(s, 'c');
	c = client_conn(s); /* none: a ClientHello is no header */
	assert_true(hark_starttls(c, settings, &(struct hark_starttls_opts){.name = "a.example"}) < 0);
	hark_abort(c);
	event_await(s, 'x');
}

static void under_a_server_tls_follows_the_header(void **state)
{
	struct hark_tls *server = server_settings();
	struct plan p = {.address = "tls://127.0.0.1:0", .box = tells_peer, .grace_ns = 5 * HARK_S};
	(void)state;
	settings = client_settings();
	p.opts.proxied = required;
	p.opts.tls = server;
	every_way(p, asks);
	hark_tls_free(server);
	hark_tls_free(settings);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		EVERYWHERE(tls_follows_the_header),
		cmocka_unit_test(under_a_server_tls_follows_the_header),
	};
	return cmocka_run_group_tests(tests, make_certs, NULL);
}
