/* soak_tls.c — see soak_tls.h. Sessions are copied when they are kept and when they are used: OpenSSL makes one useless
 * whose connection ends badly, as most do here. */
#include "soak_tls.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>

#include <openssl/err.h>
#include <openssl/ssl.h>

#define RECORD_MAX 16384 /* bytes of one */
#define HOST       "localhost"

struct soak_tls {
	SSL *ssl;
	BIO *in, *out; /* of ssl */
	int fd;
	bool offered, fin;
	struct soak_sessions *sessions;
	const char *failure;
};

static SSL_CTX *ctx;

static int version_of(const SSL_SESSION *s)
{
	return SSL_SESSION_get_protocol_version(s) == TLS1_3_VERSION;
}

static int keep_session(SSL *ssl, SSL_SESSION *session)
{
	struct soak_tls *t = SSL_get_app_data(ssl);
	void **newest = &t->sessions->newest[version_of(session)];
	SSL_SESSION *copy = SSL_SESSION_dup(session);

	if (copy != NULL) {
		SSL_SESSION_free(*newest);
		*newest = copy;
	}
	return 0; /* session itself stays OpenSSL's */
}

bool soak_tls_init(const char *ca)
{
	ctx = SSL_CTX_new(TLS_client_method());
	if (ctx == NULL || SSL_CTX_load_verify_file(ctx, ca) != 1) {
		fprintf(stderr, "soak_clients: %s: %s\n", ca, ERR_reason_error_string(ERR_peek_last_error()));
		return false;
	}
	SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER, NULL);
	SSL_CTX_set_mode(ctx, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
	                              SSL_MODE_RELEASE_BUFFERS);
	SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
	SSL_CTX_sess_set_new_cb(ctx, keep_session);
	return true;
}

static bool offer(struct soak_tls *t, const SSL_SESSION *newest)
{
	SSL_SESSION *copy = newest == NULL ? NULL : SSL_SESSION_dup(newest);
	bool is = copy != NULL && SSL_SESSION_is_resumable(copy) && SSL_set_session(t->ssl, copy) == 1;

	SSL_SESSION_free(copy);
	return is;
}

struct soak_tls *soak_tls_new(int fd, struct soak_sessions *s, bool old, bool resume)
{
	struct soak_tls *t = calloc(1, sizeof *t);

	if (t == NULL)
		return NULL;
	t->fd = fd;
	t->sessions = s;
	t->ssl = SSL_new(ctx);
	t->in = BIO_new(BIO_s_mem());
	t->out = BIO_new(BIO_s_mem());
	if (t->ssl == NULL || t->in == NULL || t->out == NULL) {
		SSL_free(t->ssl);
		BIO_free(t->in);
		BIO_free(t->out);
		free(t);
		return NULL;
	}
	SSL_set_bio(t->ssl, t->in, t->out);
	SSL_set_app_data(t->ssl, t);
	SSL_set_connect_state(t->ssl);
	(void)SSL_set_tlsext_host_name(t->ssl, HOST);
	(void)SSL_set1_host(t->ssl, HOST);
	if (old)
		(void)SSL_set_max_proto_version(t->ssl, TLS1_2_VERSION);
	t->offered = resume && offer(t, s->newest[!old]);
	return t;
}

void soak_tls_free(struct soak_tls *t)
{
	if (t == NULL)
		return;
	SSL_free(t->ssl);
	free(t);
}

/* ---- to and from the socket ---- */

static int failed(struct soak_tls *t, const char *why)
{
	if (t->failure == NULL)
		t->failure = why;
	errno = EPROTO;
	return -1;
}

/* 0: all is out; -1, errno: EAGAIN or why not. */
static int push(struct soak_tls *t)
{
	char *data;
	long n;

	while ((n = BIO_get_mem_data(t->out, &data)) > 0) {
		char sent[RECORD_MAX];
		ssize_t k = send(t->fd, data, n < RECORD_MAX ? (size_t)n : RECORD_MAX, MSG_NOSIGNAL);
		if (k < 0) {
			errno = errno == ENOTCONN ? EAGAIN : errno;
			return -1;
		}
		(void)BIO_read(t->out, sent, (int)k);
	}
	if (t->fin)
		shutdown(t->fd, SHUT_WR);
	t->fin = false;
	return 0;
}

/* 0: something came; -1, errno. */
static int pull(struct soak_tls *t)
{
	char came[RECORD_MAX];
	ssize_t n = recv(t->fd, came, sizeof came, 0);

	if (n == 0)
		return failed(t, "the end came without close_notify");
	if (n < 0) {
		errno = errno == ENOTCONN ? EAGAIN : errno;
		return -1;
	}
	return BIO_write(t->in, came, (int)n) == n ? 0 : failed(t, "no memory");
}

enum call { SHAKE, READ, WRITE };

/* One call of OpenSSL with what it needs from the socket. As recv(2). */
static int drive(struct soak_tls *t, enum call call, void *buf, size_t n)
{
	int size = n < RECORD_MAX ? (int)n : RECORD_MAX;

	for (;;) {
		if (push(t) < 0 && call == WRITE) /* else what comes may say more, or is what the peer waits for */
			return -1;
		ERR_clear_error();
		int r = call == SHAKE  ? SSL_do_handshake(t->ssl)
		        : call == READ ? SSL_read(t->ssl, buf, size)
		                       : SSL_write(t->ssl, buf, size);
		int why = SSL_get_error(t->ssl, r);
		(void)push(t);
		if (r > 0)
			return r;
		if (why == SSL_ERROR_ZERO_RETURN)
			return 0;
		if (why != SSL_ERROR_WANT_READ) {
			const char *reason = ERR_reason_error_string(ERR_peek_last_error());
			return failed(t, reason != NULL ? reason : "TLS failed");
		}
		if (pull(t) < 0)
			return -1;
	}
}

ssize_t soak_tls_send(struct soak_tls *t, const void *buf, size_t n)
{
	size_t sent = 0;
	int r = 1;

	while (sent < n && (r = drive(t, WRITE, (char *)buf + sent, n - sent)) > 0)
		sent += (size_t)r;
	if (r == 0)
		return failed(t, "close_notify in the handshake");
	return sent > 0 ? (ssize_t)sent : r;
}

ssize_t soak_tls_recv(struct soak_tls *t, void *buf, size_t n)
{
	return drive(t, READ, buf, n);
}

static int waits(int r)
{
	return r > 0 ? 1 : r < 0 && errno == EAGAIN ? 0 : -1;
}

int soak_tls_handshake(struct soak_tls *t)
{
	return waits(drive(t, SHAKE, NULL, 0));
}

/* Makes the next flight, once what it answers has come. 1: it is in t->out, or the handshake is over. */
static int make_flight(struct soak_tls *t)
{
	while (!SSL_is_init_finished(t->ssl)) {
		ERR_clear_error();
		int r = SSL_do_handshake(t->ssl), why = SSL_get_error(t->ssl, r);
		if (BIO_ctrl_pending(t->out) > 0)
			break;
		if (r <= 0 && why != SSL_ERROR_WANT_READ)
			return -1;
		if (r <= 0 && pull(t) < 0)
			return waits(-1);
	}
	return 1;
}

int soak_tls_flight(struct soak_tls *t)
{
	int r = make_flight(t);
	return r <= 0 ? r : push(t) == 0 ? 1 : waits(-1);
}

int soak_tls_half(struct soak_tls *t, bool fin)
{
	(void)SSL_shutdown(t->ssl);
	t->fin = fin;
	(void)push(t);
	return 1;
}

/* ---- for hostile clients ---- */

/* Of what is in t->out so many bytes; the rest is dropped. */
static int cut(struct soak_tls *t, uint64_t dice)
{
	char *data;
	long n = BIO_get_mem_data(t->out, &data);
	ssize_t k = n < 2 ? 0 : send(t->fd, data, 1 + dice % (uint64_t)(n - 1), MSG_NOSIGNAL);

	if (k < 0 && (errno == EAGAIN || errno == ENOTCONN))
		return 0;
	(void)BIO_reset(t->out);
	return k < 0 ? -1 : 1;
}

int soak_tls_part(struct soak_tls *t, const void *buf, size_t n, uint64_t dice)
{
	if (BIO_ctrl_pending(t->out) == 0) {
		int r = make_flight(t);
		if (r <= 0)
			return r;
	}
	if (BIO_ctrl_pending(t->out) == 0 && SSL_write(t->ssl, buf, n < RECORD_MAX ? (int)n : RECORD_MAX) <= 0)
		return -1;
	return cut(t, dice);
}

int soak_tls_drip(struct soak_tls *t)
{
	char *data, byte;

	if (BIO_ctrl_pending(t->out) == 0 && SSL_in_before(t->ssl))
		(void)SSL_do_handshake(t->ssl);
	if (BIO_get_mem_data(t->out, &data) <= 0)
		return -1;
	ssize_t k = send(t->fd, data, 1, MSG_NOSIGNAL);
	if (k == 1)
		(void)BIO_read(t->out, &byte, 1);
	else if (errno == ENOTCONN)
		errno = EAGAIN;
	return waits((int)k);
}

int soak_tls_rekey(struct soak_tls *t)
{
	if (push(t) < 0)
		return waits(-1);
	ERR_clear_error();
	if (SSL_version(t->ssl) == TLS1_3_VERSION ? SSL_key_update(t->ssl, SSL_KEY_UPDATE_REQUESTED) != 1
	                                          : SSL_renegotiate(t->ssl) != 1)
		return -1;
	(void)SSL_do_handshake(t->ssl);
	return push(t) == 0 ? 1 : waits(-1);
}

const char *soak_tls_odd(uint64_t dice, size_t *n)
{
#define ODD(text) \
	{ \
		text, sizeof text - 1 \
	}
	static const struct {
		const char *bytes;
		size_t n;
	} records[] = {
		ODD("\x14\x03\x03\x00\x01\x01"),     /* ChangeCipherSpec */
		ODD("\x15\x03\x03\x00\x02\x01\x00"), /* close_notify in the clear */
		ODD("\x15\x03\x03\x00\x02\x01\x5a"), /* a warning */
		ODD("\x15\x03\x03\x00\x02\x02\x28"), /* a fatal alert */
		ODD("\x16\x03\x03\x00\x00"),         /* an empty record */
		ODD("\x17\x03\x03\x00\x00"),
		ODD("\x17\x03\x03\xff\xff"),                 /* one that is too long */
		ODD("\x16\x03\x01\x00\x04\x01\xff\xff\xff"), /* a hello of 16 MB */
		ODD("\x16\x03\x03\x00\x04\x00\x00\x00\x00"), /* HelloRequest */
		ODD("\x80\x2e\x01\x00\x02\x00\x15"),         /* SSLv2's hello */
		ODD("GET / HTTP/1.0\r\n\r\n"),
		ODD("\x7f\x00\x00\x00\x01\x00"), /* of no type */
	};
#undef ODD
	dice %= sizeof records / sizeof records[0];
	*n = records[dice].n;
	return records[dice].bytes;
}

int soak_tls_resumed(const struct soak_tls *t)
{
	return !t->offered ? -1 : SSL_session_reused(t->ssl);
}

const char *soak_tls_failure(const struct soak_tls *t)
{
	return t->failure;
}
