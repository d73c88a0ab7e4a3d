/* test_relay_tls.c — a relay whose server has ended the client's TLS, and which begins it anew for the target or does
 * not: ends and cuts go through, and what was agreed on says where to, under every model and engine. */
#include "serve_support.h"
#include "tls_support.h"

#include "box.h"

#define BULK 300000 /* bytes; less than the kernel holds for who does not read yet */

static const struct hark_box_row *relay_row;
static void *relay_state;

static void relay_box_of(struct hark_conn *c, void *arg)
{
	(void)arg;
	relay_row->serve(c, relay_state);
}

/* One end that has no longer than the test. */
static struct hark_conn *bounded(struct hark_conn *c)
{
	hark_deadline(c, hark_after(20 * HARK_S * SLOWER));
	return c;
}

struct place {
	struct hark_listener *l;
	char plain[HARK_ADDRESS_MAX], tls[HARK_ADDRESS_MAX + 8];
};

static void place_open(struct place *p)
{
	assert_int_equal(hark_listen("tcp://127.0.0.1:0", NULL, &p->l), 0);
	assert_true(hark_listener_address(p->l, p->plain, sizeof p->plain) > 0);
	(void)snprintf(p->tls, sizeof p->tls, "tls%s", strchr(p->plain, ':'));
}

static struct hark_conn *place_accept(const struct place *p)
{
	struct hark_conn *c;
	assert_int_equal(hark_accept(p->l, hark_after(20 * HARK_S * SLOWER), &c), 0);
	return bounded(c);
}

/* The same behind TLS's handshake. */
static struct hark_conn *place_accept_tls(const struct place *p)
{
	struct hark_conn *c = place_accept(p);
	struct hark_tls *t = server_settings();
	assert_int_equal(hark_starttls(c, t, NULL), 0);
	hark_tls_free(t);
	return c;
}

/* ---- the relay ---------------------------------------------------------------------------------- */

static struct hark_tls *ends_tls;

static void relay_make(int argc, char *const argv[])
{
	const struct hark_tls_cert certs[] = {pem_pair(&server_cert), pem_pair(&other_cert)};
	struct hark_why why = {""};
	relay_row = box_find("relay");
	if (box_parse(relay_row, argc, argv, &relay_state, &why) < 0 || box_prepare(relay_row, relay_state, &why) < 0 ||
	    box_open(relay_row, relay_state, &why) < 0)
		fail_msg("%s", why.text);
	ends_tls = settings_of((struct hark_tls_opts){.certs = certs,
	                                              .n_certs = 2,
	                                              .alpn = "h2 http/1.1",
	                                              .ca_pem = authority.pem,
	                                              .clients = HARK_TLS_CLIENTS_OPTIONAL});
}

static void relay_drop(void)
{
	box_free(relay_row, relay_state);
	hark_tls_free(ends_tls);
}

static void under_all(void (*body)(struct server *))
{
	every_way((struct plan){.address = "tls://127.0.0.1:0",
	                        .box = relay_box_of,
	                        .grace_ns = 10 * HARK_S,
	                        .opts.tls = ends_tls},
	          body);
}

static const struct made_cert *shown = &client_cert;
static struct made_cert odd[4];

static struct hark_conn *call(const struct server *s, const char *name, const char *alpn, bool shows)
{
	const struct hark_tls_cert own = pem_pair(shown);
	char at[64];
	struct hark_conn *c;
	struct hark_tls *t = settings_of(
		(struct hark_tls_opts){.ca_pem = authority.pem, .alpn = alpn, .certs = &own, .n_certs = shows});
	const struct hark_dial_opts opts = {.tls = t, .tls_name = name};
	(void)snprintf(at, sizeof at, "tls://127.0.0.1:%d", port_of(&s->at));
	assert_int_equal(hark_dial(at, &opts, &c), 0);
	hark_tls_free(t);
	return bounded(c);
}

/* ---- ends ------------------------------------------------------------------------------------------ */

static struct place target;
static bool target_tls;
static char bulk[BULK], got[BULK];

static struct hark_conn *accept_target(void)
{
	return target_tls ? place_accept_tls(&target) : place_accept(&target);
}

static void hears(struct hark_conn *c, const char *text)
{
	char buf[64];
	assert_int_equal(hark_readn(c, buf, strlen(text)), strlen(text));
	assert_memory_equal(buf, text, strlen(text));
}

static void says(struct hark_conn *c, const char *text)
{
	assert_int_equal(hark_write(c, text, strlen(text)), strlen(text));
	assert_int_equal(hark_flush(c), 0);
}

/* From one side all and the end, then from the other. */
static void half_closes(struct hark_conn *first, struct hark_conn *second)
{
	char byte;
	assert_int_equal(hark_write(first, bulk, BULK), BULK);
	assert_int_equal(hark_shutdown(first, HARK_OUT), 0);
	assert_int_equal(hark_readn(second, got, BULK), BULK);
	assert_memory_equal(got, bulk, BULK);
	assert_int_equal(hark_read(second, &byte, 1), 0);
	says(second, "one");
	hears(first, "one");
	says(second, "two");
	assert_int_equal(hark_shutdown(second, HARK_OUT), 0);
	hears(first, "two");
	assert_int_equal(hark_read(first, &byte, 1), 0);
	assert_int_equal(hark_close(first), 0);
	assert_int_equal(hark_close(second), 0);
}

static void each_end_goes_through(struct server *s)
{
	for (int by_client = 0; by_client < 2; by_client++) {
		struct hark_conn *client = call(s, "a.example", NULL, false), *there = accept_target();
		half_closes(by_client ? client : there, by_client ? there : client);
	}
}

/* One side's end without close_notify, or its reset. */
static void each_cut_goes_through(struct server *s)
{
	for (int way = 0; way < 4; way++) {
		struct hark_conn *client = call(s, "a.example", NULL, false), *there = accept_target();
		struct hark_conn *cut = way % 2 ? client : there, *other = way % 2 ? there : client;
		char byte;
		says(cut, "half");
		hears(other, "half");
		if (way < 2 && (way == 1 || target_tls))
			assert_int_equal(shutdown(hark_fd(cut), SHUT_WR), 0);
		else
			hark_abort(cut);
		assert_int_equal(hark_read(other, &byte, 1), -ECONNRESET);
		hark_abort(other);
		if (way < 2 && (way == 1 || target_tls))
			hark_abort(cut);
	}
}

static void ends_and_cuts(const char *address)
{
	char ca[] = "/tmp/hark-relay-tls-XXXXXX";
	int fd = mkstemp(ca);
	assert_true(fd >= 0 && write(fd, authority.pem, strlen(authority.pem)) == (ssize_t)strlen(authority.pem));
	(void)close(fd);
	if (target_tls)
		relay_make(3, (char *const[]){"--ca", ca, (char *)address, NULL});
	else
		relay_make(1, (char *const[]){(char *)address, NULL});
	(void)unlink(ca); /* it is read once */
	under_all(each_end_goes_through);
	under_all(each_cut_goes_through);
	relay_drop();
}

static void ends_and_cuts_go_through_where_tls_ends_at_the_relay(void **state)
{
	(void)state;
	place_open(&target);
	target_tls = false;
	ends_and_cuts(target.plain);
	hark_listener_close(target.l);
}

static void ends_and_cuts_go_through_between_tls_and_tls(void **state)
{
	(void)state;
	place_open(&target);
	target_tls = true;
	ends_and_cuts(target.tls);
	hark_listener_close(target.l);
}

/* ---- where to, and what is told ---------------------------------------------------------------------- */

static struct place a, b, h2;

static void goes_to(struct server *s, const char *name, const char *alpn, const struct place *p)
{
	struct hark_conn *client = call(s, name, alpn, false), *there = place_accept(p);
	says(there, "here");
	hears(client, "here");
	hark_abort(client);
	hark_abort(there);
}

static void goes_where_it_says(struct server *s)
{
	char byte;
	goes_to(s, "a.example", NULL, &a);
	goes_to(s, "a.example", "http/1.1", &a);
	goes_to(s, "a.example", "http/1.1 h2", &h2); /* the server has chosen it */
	goes_to(s, "x.w.example", "h2", &b);
	struct hark_conn *nowhere = call(s, "b.example", NULL, false);
	assert_int_equal(hark_read(nowhere, &byte, 1), -ECONNRESET);
	hark_abort(nowhere);
}

static void what_was_agreed_on_says_where_to(void **state)
{
	char words[3][HARK_ADDRESS_MAX + 32];
	(void)state;
	place_open(&a);
	place_open(&b);
	place_open(&h2);
	(void)snprintf(words[0], sizeof words[0], "a.example/h2=%s", h2.plain);
	(void)snprintf(words[1], sizeof words[1], "a.example=%s", a.plain);
	(void)snprintf(words[2], sizeof words[2], "*.w.example=%s", b.plain);
	relay_make(3, (char *const[]){words[0], words[1], words[2], NULL});
	under_all(goes_where_it_says);
	relay_drop();
	hark_listener_close(a.l);
	hark_listener_close(b.l);
	hark_listener_close(h2.l);
}

static void expect_tlv(const struct hark_proxy *p, int type, const char *value)
{
	const struct hark_proxy_tlv *t = hark_proxy_find(p, type);
	if (t == NULL)
		fail_msg("no TLV %#x", (unsigned)type);
	if (value != NULL) {
		assert_int_equal(t->len, strlen(value));
		assert_memory_equal(t->value, value, t->len);
	}
}

static void tells_of_tls(struct server *s)
{
	for (int shows = 0; shows < 2; shows++) {
		struct hark_conn *client = call(s, "a.example", "h2", shows), *there = place_accept(&target);
		char from[HARK_ADDRESS_MAX], peer[HARK_ADDRESS_MAX];
		assert_int_equal(hark_proxy_accept(there, hark_after(10 * HARK_S), NULL), 0);
		const struct hark_proxy *p = hark_proxied(there);
		assert_true(hark_local(client, from, sizeof from) > 0 && hark_peer(there, peer, sizeof peer) > 0);
		assert_string_equal(from, peer);
		assert_true(p->checksum && p->ssl);
		assert_int_equal(p->ssl_client, shows ? 7 : 1);
		assert_int_equal(p->ssl_verify, 0);
		expect_tlv(p, HARK_PROXY_ALPN, "h2");
		expect_tlv(p, HARK_PROXY_AUTHORITY, "a.example");
		expect_tlv(p, HARK_PROXY_SSL_VERSION, "TLSv1.3");
		expect_tlv(p, HARK_PROXY_SSL_CIPHER, NULL);
		expect_tlv(p, HARK_PROXY_SSL_GROUP, NULL);
		if (shows)
			expect_tlv(p, HARK_PROXY_SSL_CN, "a client");
		else
			assert_null(hark_proxy_find(p, HARK_PROXY_SSL_CN));
		hark_abort(client);
		hark_abort(there);
	}
}

static void a_proxy_header_tells_of_the_clients_tls(void **state)
{
	(void)state;
	place_open(&target);
	relay_make(2, (char *const[]){"--send-proxy=v2", target.plain, NULL});
	under_all(tells_of_tls);
	relay_drop();
	hark_listener_close(target.l);
}

/* One that is told only as far as a NUL, or as far as there is room, could pass for another one. */
static void tells_odd_names(struct server *s)
{
	static const char *const names[] = {"admin\0.b.example", "a\\,b+c=\"d\"#", " J\xc3\xb6rg\n"};
	static const int bytes[] = {16, 11, 7};
	for (int i = 0; i < 4; i++) {
		struct hark_conn *client, *there;
		char name[300];
		int n = i < 3 ? bytes[i] : (int)sizeof name;
		memset(name, 'x', sizeof name);
		if (i < 3)
			memcpy(name, names[i], (size_t)n);
		if (odd[i].cert == NULL)
			odd[i] = make_cert(
				(struct cert_plan){.subject = name, .subject_bytes = n, .issuer = &authority});
		shown = &odd[i];
		client = call(s, "a.example", NULL, true);
		there = place_accept(&target);
		assert_int_equal(hark_proxy_accept(there, hark_after(10 * HARK_S), NULL), 0);
		const struct hark_proxy_tlv *cn = hark_proxy_find(hark_proxied(there), HARK_PROXY_SSL_CN);
		assert_non_null(cn);
		if (i < 3) {
			assert_int_equal(cn->len, n);
			assert_memory_equal(cn->value, name, cn->len);
		} else {
			assert_true(cn->len > 200 && cn->len < sizeof name);
			assert_memory_equal((const char *)cn->value + cn->len - 4, "x...", 4);
		}
		hark_abort(client);
		hark_abort(there);
	}
	shown = &client_cert;
}

static void a_proxy_header_tells_the_clients_name_whole_or_that_it_is_cut(void **state)
{
	(void)state;
	place_open(&target);
	relay_make(2, (char *const[]){"--send-proxy=v2", target.plain, NULL});
	under_all(tells_odd_names);
	relay_drop();
	hark_listener_close(target.l);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(ends_and_cuts_go_through_where_tls_ends_at_the_relay),
		cmocka_unit_test(ends_and_cuts_go_through_between_tls_and_tls),
		cmocka_unit_test(what_was_agreed_on_says_where_to),
		cmocka_unit_test(a_proxy_header_tells_of_the_clients_tls),
		cmocka_unit_test(a_proxy_header_tells_the_clients_name_whole_or_that_it_is_cut),
	};
	pattern_fill(bulk, 0, BULK);
	return cmocka_run_group_tests(tests, make_certs, NULL);
}
