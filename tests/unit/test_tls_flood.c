/* test_tls_flood.c — a peer who keeps TLS itself busy, without a byte for us: OpenSSL would go on for as long as it
 * sends, past every deadline. A few such messages are as usual. */
#include "tls_support.h"

#include "base/sys.h"

#define FLOOD_NS (2 * HARK_S) /* then it ends by itself, and the test fails */

/* ---- in the handshake: HelloRequests, which a client has to overlook ------------------------------------------ */

static int flooded = -1;
static int64_t flood_ends;
static size_t flood_at;
static ssize_t (*real_recv)(int fd, void *buf, size_t n, int flags);

static ssize_t flood_recv(int fd, void *buf, size_t n, int flags)
{
	static const unsigned char record[9] = {22, 3, 3, 0, 4};
	if (fd != flooded || hark_now() > flood_ends)
		return real_recv(fd, buf, n, flags);
	for (size_t i = 0; i < n; i++)
		((unsigned char *)buf)[i] = record[flood_at++ % sizeof record];
	return (ssize_t)n;
}

static void a_flood_of_hello_requests_ends_the_handshake(void)
{
	struct pair p = tcp_pair();
	struct hark_tls *t = client_settings();
	struct hark_why why = {.text = ""};
	struct hark_starttls_opts o = {.name = "a.example", .deadline = hark_after(HARK_S / 2), .why = &why};
	real_recv = hark__sys.recv;
	hark__sys.recv = flood_recv;
	flooded = hark_fd(p.a);
	flood_ends = hark_after(FLOOD_NS);
	CHECK_INT(hark_starttls(p.a, t, &o), -EPROTO);
	CHECK_HAS(why.text, "TLS's own messages alone");
	CHECK(hark_now() < flood_ends);
	hark__sys.recv = real_recv;
	hark_tls_free(t);
	pair_drop(&p);
}

/* Where a client is sent close_notify in place of an answer, it was no lack of memory. */
static void an_end_in_place_of_an_answer_is_told_as_one(void)
{
	static const unsigned char goodbye[7] = {21, 3, 3, 0, 2, 1, 0};
	struct hark_why why = {.text = ""};
	struct hark_starttls_opts o = {.name = "a.example", .why = &why};
	int fds[2];
	raw_tcp(fds);
	struct hark_conn *c = conn_of(fds[0]);
	struct hark_tls *t = client_settings();
	CHECK_INT(write(fds[1], goodbye, sizeof goodbye), sizeof goodbye);
	CHECK_INT(hark_starttls(c, t, &o), -ECONNRESET);
	CHECK_HAS(why.text, "in the midst of the handshake");
	hark_abort(c);
	(void)close(fds[1]);
	hark_tls_free(t);
}

/* ---- later: KeyUpdates, of TLS 1.3 ------------------------------------------------------------------------------ */

/* By OpenSSL under c, as the library has no such call. */
static void send_updates(struct hark_conn *c, int how, int n)
{
	struct hark__tls_conn *t = hark__conn_tls(c);
	for (int i = 0; i < n; i++)
		CHECK(SSL_key_update(t->ssl, how) == 1 && SSL_do_handshake(t->ssl) == 1);
	CHECK_INT(hark__tls_push(t), 0);
}

static void a_flood_of_key_updates_ends_the_connection(void)
{
	static const int kinds[] = {SSL_KEY_UPDATE_NOT_REQUESTED, SSL_KEY_UPDATE_REQUESTED};
	for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
		struct pair p = tls_pair();
		char byte;
		send_updates(p.b, kinds[i], 1000);
		hark_deadline(p.a, hark_after(HARK_S / 2));
		CHECK_INT(hark_read(p.a, &byte, 1), -EPROTO);
		CHECK_HAS(hark_tls_failure(p.a), "TLS's own messages alone");
		pair_drop(&p);
	}
}

static void key_updates_between_data_are_as_usual(void)
{
	struct pair p = tls_pair();
	char byte;
	for (int i = 0; i < 10; i++) {
		send_updates(p.b, i % 2 == 0 ? SSL_KEY_UPDATE_REQUESTED : SSL_KEY_UPDATE_NOT_REQUESTED, 20);
		say(p.b, "x");
		CHECK_INT(hark_read(p.a, &byte, 1), 1);
		say(p.a, "y");
		CHECK_INT(hark_read(p.b, &byte, 1), 1);
	}
	CHECK_INT(hark_shutdown(p.b, HARK_OUT), 0);
	CHECK_INT(hark_read(p.a, &byte, 1), 0);
	CHECK_INT(hark_close(p.a), 0);
	CHECK_INT(hark_close(p.b), 0);
}

int main(int argc, char *argv[])
{
	const struct CMUnitTest tests[] = {
		EVERYWHERE_AT_ONCE(a_flood_of_hello_requests_ends_the_handshake),
		EVERYWHERE(an_end_in_place_of_an_answer_is_told_as_one),
		EVERYWHERE_AT_ONCE(a_flood_of_key_updates_ends_the_connection),
		EVERYWHERE(key_updates_between_data_are_as_usual),
	};
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, make_certs, NULL);
}
