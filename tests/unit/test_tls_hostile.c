/* test_tls_hostile.c — handshakes that go wrong on the way: slow, garbled, cut, never finished. The peer of the server
 * is a plain socket. */
#include "tls_support.h"

/* A ClientHello as OpenSSL writes it. */
static size_t client_hello(unsigned char *buf, size_t cap)
{
	SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());
	SSL *ssl = SSL_new(ctx);
	BIO *in = BIO_new(BIO_s_mem()), *out = BIO_new(BIO_s_mem());
	SSL_set_bio(ssl, in, out);
	SSL_set_connect_state(ssl);
	SSL_set_tlsext_host_name(ssl, "a.example");
	CHECK(SSL_do_handshake(ssl) < 0);
	int n = BIO_read(out, buf, (int)cap);
	CHECK(n > 100);
	SSL_free(ssl);
	SSL_CTX_free(ctx);
	ERR_clear_error();
	return (size_t)n;
}

struct plain_peer {
	int fd;
	struct hark_conn *c; /* the server's */
	struct hark_tls *t;
};

static struct plain_peer meet(void)
{
	int fds[2];
	raw_tcp(fds);
	return (struct plain_peer){.fd = fds[0], .c = conn_of(fds[1]), .t = server_settings()};
}

static void part(struct plain_peer *p)
{
	hark_idle_timeout(p->c, 50 * HARK_MS);
	CHECK_INT(hark_close(p->c), 0);
	(void)close(p->fd);
	hark_tls_free(p->t);
}

/* The alert that the server has sent: a record of type 21, with its description as the last byte. */
static void hears_alert(int fd, int description)
{
	unsigned char buf[64];
	ssize_t n = recv(fd, buf, sizeof buf, 0);
	CHECK_INT(n, 7);
	CHECK_INT(buf[0], 21);
	CHECK_INT(buf[6], description);
}

static void what_is_no_tls_is_told_apart(void)
{
	static const struct {
		const char *bytes;
		size_t n;
		const char *says;
	} rows[] = {
		{"GET / HTTP/1.1\r\n\r\n", 18, "plain HTTP came, not TLS"},
		{"CONNECT a.example:443 HTTP/1.1\r\n\r\n", 34, "(HTTP CONNECT), not TLS"},
		{"SSH-2.0-OpenSSH_9.2\r\n", 21, "what came is not TLS"},
		{"\0\0\0\0\0\0\0\0\0\0\0\0", 12, "what came is not TLS"},
		{"\x16\x03\x01\x00\x05\x02\x00\x00\x01\x00", 10, "unexpected message"},
	};
	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
		struct plain_peer p = meet();
		struct hark_why why = {.text = ""};
		CHECK_INT(write(p.fd, rows[i].bytes, rows[i].n), (long long)rows[i].n);
		CHECK_INT(hark_starttls(p.c, p.t, &(struct hark_starttls_opts){.why = &why}), -EPROTO);
		CHECK_HAS(why.text, rows[i].says);
		CHECK_INT(strcmp(hark_tls_failure(p.c), why.text), 0);
		CHECK_INT(hark_starttls(p.c, p.t, NULL), -EALREADY);
		char byte;
		CHECK_INT(hark_read(p.c, &byte, 1), -EPROTO);
		part(&p);
	}
}

static void the_peer_is_told_by_an_alert(void)
{
	struct plain_peer p = meet();
	CHECK_INT(write(p.fd, "\x16\x03\x01\x00\x05\x02\x00\x00\x01\x00", 10), 10);
	CHECK_INT(hark_starttls(p.c, p.t, NULL), -EPROTO);
	hears_alert(p.fd, SSL_AD_UNEXPECTED_MESSAGE);
	part(&p);
}

struct piecemeal {
	int fd;
	const unsigned char *bytes;
	size_t n, piece;
};

static void send_piecemeal(void *arg)
{
	struct piecemeal *m = arg;
	for (size_t at = 0; at < m->n; at += m->piece) {
		size_t n = m->piece < m->n - at ? m->piece : m->n - at;
		CHECK_INT(send(m->fd, m->bytes + at, n, MSG_NOSIGNAL), (long long)n);
		CHECK_INT(hark_sleep(HARK_MS / 4), 0);
	}
	unsigned char flight[4096];
	while (recv(m->fd, flight, sizeof flight, MSG_DONTWAIT) < 0 && errno == EAGAIN)
		CHECK_INT(hark_sleep(HARK_MS), 0);
	CHECK_INT(flight[0], 22); /* a ServerHello */
	CHECK_INT(shutdown(m->fd, SHUT_WR), 0);
}

/* The same bytes in many segments, and in records of a few bytes each. */
static void a_client_hello_comes_in_any_number_of_pieces(void)
{
	unsigned char hello[2048], records[8192];
	size_t n = client_hello(hello, sizeof hello), n_records = 0;
	for (size_t at = 5; at < n; at += 7) {
		size_t len = n - at < 7 ? n - at : 7;
		unsigned char head[5] = {22, 3, 1, 0, (unsigned char)len};
		memcpy(records + n_records, head, 5);
		memcpy(records + n_records + 5, hello + at, len);
		n_records += 5 + len;
	}
	struct piecemeal ways[] = {{.bytes = hello, .n = n, .piece = 1},
	                           {.bytes = hello, .n = n, .piece = 100},
	                           {.bytes = records, .n = n_records, .piece = 1},
	                           {.bytes = records, .n = n_records, .piece = 4000}};
	for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
		struct plain_peer p = meet();
		struct beside b;
		struct hark_why why = {.text = ""};
		ways[i].fd = p.fd;
		beside_start(&b, send_piecemeal, &ways[i]);
		CHECK_INT(hark_starttls(p.c, p.t, &(struct hark_starttls_opts){.why = &why}), -ECONNRESET);
		CHECK_HAS(why.text, "the peer ended in the midst of the handshake");
		beside_end(&b);
		part(&p);
	}
}

/* Bytes that were looked at before are the handshake's. */
static void what_was_peeked_at_is_the_handshakes(void)
{
	unsigned char hello[2048], seen[16];
	size_t n = client_hello(hello, sizeof hello);
	struct plain_peer p = meet();
	struct beside b;
	CHECK_INT(write(p.fd, hello, 60), 60);
	CHECK_INT(hark_peek(p.c, seen, sizeof seen), sizeof seen);
	CHECK(memcmp(seen, hello, sizeof seen) == 0);
	struct piecemeal rest = {.fd = p.fd, .bytes = hello + 60, .n = n - 60, .piece = 50};
	beside_start(&b, send_piecemeal, &rest);
	CHECK_INT(hark_starttls(p.c, p.t, NULL), -ECONNRESET);
	beside_end(&b);
	part(&p);
}

static void a_handshake_ends_at_its_deadline(void)
{
	unsigned char hello[2048];
	size_t n = client_hello(hello, sizeof hello);
	for (int i = 0; i < 5; i++) {
		struct plain_peer p = meet();
		struct hark_starttls_opts o = {0};
		int64_t began = hark_now();
		size_t sent = i == 0 ? 0 : i == 1 ? 50 : n; /* then the server waits for the client's Finished */
		CHECK_INT(write(p.fd, hello, sent), (long long)sent);
		if (i < 3)
			o.deadline = hark_after(50 * HARK_MS);
		else if (i == 3)
			hark_deadline(p.c, hark_after(50 * HARK_MS));
		else
			hark_idle_timeout(p.c, 50 * HARK_MS);
		CHECK_INT(hark_starttls(p.c, p.t, &o), -ETIMEDOUT);
		CHECK(hark_now() - began >= 50 * HARK_MS && hark_now() - began < 5 * HARK_S * SLOWER);
		hark_deadline(p.c, HARK_FOREVER);
		part(&p);
	}
}

static void a_reset_in_the_midst_ends_the_handshake(void)
{
	unsigned char hello[2048];
	const struct linger at_once = {.l_onoff = 1};
	size_t n = client_hello(hello, sizeof hello);
	struct plain_peer p = meet();
	CHECK_INT(write(p.fd, hello, n / 2), (long long)(n / 2));
	CHECK_INT(setsockopt(p.fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once), 0);
	CHECK_INT(close(p.fd), 0);
	p.fd = -1;
	CHECK_INT(hark_starttls(p.c, p.t, NULL), -ECONNRESET);
	part(&p);
}

static void shake_and_count(void *arg)
{
	struct plain_peer *p = arg;
	CHECK_INT(hark_starttls(p->c, p->t, NULL), -ECANCELED);
}

static void a_cancelled_handshake_ends(void)
{
	struct plain_peer p = meet();
	struct hark_scope s;
	hark_scope_open(&s);
	CHECK_INT(hark_go(&s, "shake", shake_and_count, &p), 0);
	CHECK_INT(hark_sleep(5 * HARK_MS), 0);
	hark_cancel(&s);
	CHECK_INT(hark_join(&s, hark_after(5 * HARK_S)), 0);
	hark_scope_close(&s);
	part(&p);
}

/* A record that was changed on its way, and one that is none. */
static void a_bad_record_ends_the_connection_and_not_in_order(void)
{
	for (int i = 0; i < 2; i++) {
		struct pair p = tls_pair();
		static const unsigned char bad[2][10] = {{23, 3, 3, 0, 5, 1, 2, 3, 4, 5}, "plain text"};
		char byte;
		say(p.a, "x");
		CHECK_INT(write(hark_fd(p.a), bad[i], 10), 10);
		CHECK_INT(hark_read(p.b, &byte, 1), 1);
		CHECK_INT(hark_read(p.b, &byte, 1), -EPROTO);
		CHECK(hark_tls_failure(p.b) != NULL);
		CHECK_INT(hark_write(p.b, "y", 1), 1);
		CHECK_INT(hark_flush(p.b), -EPROTO);
		CHECK_INT(hark_read(p.a, &byte, 1), -EPROTO); /* the alert */
		CHECK_HAS(hark_tls_failure(p.a), "the peer's alert: ");
		pair_drop(&p);
	}
}

static void what_cannot_have_tls_says_so(void)
{
	struct hark_conn *file;
	struct hark_why why = {.text = ""};
	int fds[2];
	CHECK_INT(pipe2(fds, O_CLOEXEC), 0);
	(void)close(fds[1]);
	CHECK_INT(hark_conn_from_fd(fds[0], &file), 0);
	CHECK_INT(hark_starttls(file, NULL, NULL), -EOPNOTSUPP);
	CHECK_INT(hark_close(file), 0);
	struct pair p = unix_pair();
	struct hark_tls *none = client_settings();
	struct hark_tls_info info;
	CHECK_INT(hark_starttls(p.a, none, &(struct hark_starttls_opts){.why = &why}), -EINVAL);
	CHECK_HAS(why.text, "the settings have no certificate");
	CHECK_INT(hark_tls_info(p.a, &info), -ENOTCONN);
	CHECK(hark_tls_failure(p.a) == NULL);
	say(p.a, "still plain");
	CHECK_INT(hark_shutdown(p.a, HARK_OUT), 0);
	CHECK_INT(hark_starttls(p.a, none, &(struct hark_starttls_opts){.name = "x"}), -EPIPE);
	hark_tls_free(none);
	pair_drop(&p);
}

int main(int argc, char *argv[])
{
	const struct CMUnitTest tests[] = {
		EVERYWHERE(what_is_no_tls_is_told_apart),
		EVERYWHERE(the_peer_is_told_by_an_alert),
		EVERYWHERE_AT_ONCE(a_client_hello_comes_in_any_number_of_pieces),
		EVERYWHERE(what_was_peeked_at_is_the_handshakes),
		EVERYWHERE_AT_ONCE(a_handshake_ends_at_its_deadline),
		EVERYWHERE(a_reset_in_the_midst_ends_the_handshake),
		ON_ENGINES(a_cancelled_handshake_ends),
		EVERYWHERE(a_bad_record_ends_the_connection_and_not_in_order),
		EVERYWHERE(what_cannot_have_tls_says_so),
	};
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, make_certs, NULL);
}
