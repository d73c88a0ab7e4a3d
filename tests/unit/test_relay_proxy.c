/* test_relay_proxy.c — a relay behind a proxy: its target hears of the proxy's client, and of what the proxy told
 * beside; and what a header claims is no loop. */
#include "serve_support.h"

#include "box.h"

#define NOOP 0x04 /* proxy-protocol.txt, PP2_TYPE_NOOP */

static const struct hark_box_row *relay_row;
static void *relay_state;
static struct hark_listener *target;
static char target_at[HARK_ADDRESS_MAX];

/* As a server that requires a header. */
static void behind_a_proxy(struct hark_conn *c, void *arg)
{
	(void)arg;
	if (hark_proxy_accept(c, hark_after(10 * HARK_S), NULL) == 0)
		relay_row->serve(c, relay_state);
}

static int begin(void **state)
{
	struct hark_why why = {""};
	(void)state;
	assert_int_equal(hark_listen("tcp://127.0.0.1:0", NULL, &target), 0);
	assert_true(hark_listener_address(target, target_at, sizeof target_at) > 0);
	relay_row = box_find("relay");
	char *const words[] = {"--send-proxy=v2", target_at, NULL};
	if (box_parse(relay_row, 2, words, &relay_state, &why) < 0 || box_open(relay_row, relay_state, &why) < 0)
		fail_msg("%s", why.text);
	return 0;
}

static int end(void **state)
{
	(void)state;
	box_free(relay_row, relay_state);
	hark_listener_close(target);
	return 0;
}

static struct hark_endpoint endpoint_of(const char *host, int port)
{
	char text[64];
	struct hark_endpoint e;
	(void)snprintf(text, sizeof text, "tcp://%s:%d", host, port);
	assert_int_equal(hark_resolve(text, &e, 1, HARK_FOREVER), 1);
	return e;
}

/* Says it to the relay; what the target got is its header's. */
static struct hark_conn *pass_on(const struct server *s, const struct hark_proxy *told, struct hark_conn **client)
{
	struct hark_conn *there;
	char at[64];
	(void)snprintf(at, sizeof at, "tcp://127.0.0.1:%d", port_of(&s->at));
	assert_int_equal(hark_dial(at, NULL, client), 0);
	assert_true(hark_proxy_send(*client, told) > 0);
	assert_int_equal(hark_write(*client, "hello", 5), 5);
	assert_int_equal(hark_flush(*client), 0);
	assert_int_equal(hark_accept(target, hark_after(10 * HARK_S * SLOWER), &there), 0);
	assert_int_equal(hark_proxy_accept(there, hark_after(10 * HARK_S), NULL), 0);
	return there;
}

static void expect_end(struct hark_conn *c, bool peer, const char *address)
{
	char text[HARK_ADDRESS_MAX];
	assert_true((peer ? hark_peer : hark_local)(c, text, sizeof text) > 0);
	assert_string_equal(text, address);
}

static void expect_tlv(const struct hark_proxy *p, int type, const char *value)
{
	const struct hark_proxy_tlv *t = hark_proxy_find(p, type);
	if (t == NULL)
		fail_msg("no TLV %#x", (unsigned)type);
	assert_int_equal(t->len, strlen(value));
	assert_memory_equal(t->value, value, t->len);
}

static void under_all(void (*body)(struct server *))
{
	every_way((struct plan){.box = behind_a_proxy, .grace_ns = 10 * HARK_S}, body);
}

static void tells_on(struct server *s)
{
	const struct hark_proxy_tlv tlvs[] = {
		{.type = HARK_PROXY_AUTHORITY, .value = "a.example", .len = 9},
		{.type = NOOP, .value = "xx", .len = 2},
		{.type = HARK_PROXY_UNIQUE_ID, .value = "one\0two", .len = 3},
		{.type = HARK_PROXY_SSL_CN, .value = "a client", .len = 8},
		{.type = 0xe5, .value = "ours", .len = 4},
	};
	const struct hark_proxy told = {.version = 2,
	                                .source = endpoint_of("192.0.2.7", 4711),
	                                .destination = endpoint_of("192.0.2.8", 443),
	                                .checksum = true,
	                                .ssl = true,
	                                .ssl_client = 3,
	                                .ssl_verify = 1,
	                                .n_tlvs = 5,
	                                .tlvs = tlvs};
	struct hark_conn *client, *there = pass_on(s, &told, &client);
	const struct hark_proxy *p = hark_proxied(there);
	char buf[5];
	expect_end(there, true, "tcp://192.0.2.7:4711");
	expect_end(there, false, "tcp://192.0.2.8:443");
	assert_true(p->checksum && p->ssl && p->ssl_client == 3 && p->ssl_verify == 1);
	expect_tlv(p, HARK_PROXY_AUTHORITY, "a.example");
	expect_tlv(p, HARK_PROXY_UNIQUE_ID, "one");
	expect_tlv(p, HARK_PROXY_SSL_CN, "a client");
	expect_tlv(p, 0xe5, "ours");
	assert_null(hark_proxy_find(p, NOOP));
	assert_int_equal(hark_readn(there, buf, 5), 5);
	assert_memory_equal(buf, "hello", 5);
	hark_abort(client);
	hark_abort(there);
}

static void what_a_proxy_told_is_told_on(void **state)
{
	(void)state;
	under_all(tells_on);
}

/* A header that claims the target's own address, as a proxy in front of both has it. */
static void passes(struct server *s)
{
	const char *port = strrchr(target_at, ':') + 1;
	const struct hark_proxy told = {.version = 1,
	                                .source = endpoint_of("127.0.0.1", 4711),
	                                .destination = endpoint_of("127.0.0.1", atoi(port))};
	struct hark_conn *client, *there = pass_on(s, &told, &client);
	expect_end(there, false, target_at);
	hark_abort(client);
	hark_abort(there);
}

static void what_a_header_claims_is_no_loop(void **state)
{
	(void)state;
	under_all(passes);
}

/* A proxy's own check of whether we are there: the connection is its own. */
static void checks(struct server *s)
{
	const struct hark_proxy told = {.version = 2, .local = true};
	struct hark_conn *client, *there = pass_on(s, &told, &client);
	char from[HARK_ADDRESS_MAX];
	assert_true(hark_local(client, from, sizeof from) > 0);
	expect_end(there, true, from);
	hark_abort(client);
	hark_abort(there);
}

static void who_came_on_nobodys_behalf_is_told_as_it_is(void **state)
{
	(void)state;
	under_all(checks);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_a_proxy_told_is_told_on),
		cmocka_unit_test(what_a_header_claims_is_no_loop),
		cmocka_unit_test(who_came_on_nobodys_behalf_is_told_as_it_is),
	};
	return cmocka_run_group_tests(tests, begin, end);
}
