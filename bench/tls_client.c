/* TLS for the load generators: see tls_client.h. One thread. */
#define OPENSSL_SUPPRESS_DEPRECATED /* EC_KEY_METHOD: the one way to leave a signature unverified */
#include "tls_client.h"
#include "client.h"

#include <errno.h>
#include <openssl/ec.h>
#include <openssl/err.h>
#include <openssl/objects.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define READ_AHEAD (256u << 10) /* bytes */

static int (*really_verify)(int, const unsigned char *, int, const unsigned char *, int, EC_KEY *);

static int verify_first(int type, const unsigned char *digest, int n, const unsigned char *signature, int n_signature,
                        EC_KEY *key)
{
	static bool verified;

	if (verified)
		return 1;
	verified = true;
	return really_verify(type, digest, n, signature, n_signature, key);
}

static void verify_less(void)
{
	EC_KEY_METHOD *method = EC_KEY_METHOD_new(EC_KEY_get_default_method());
	int (*raw)(const unsigned char *, int, const ECDSA_SIG *, EC_KEY *);

	if (method == NULL)
		client_usage("TLS", "out of memory");
	EC_KEY_METHOD_get_verify(method, &really_verify, &raw);
	EC_KEY_METHOD_set_verify(method, verify_first, raw);
	EC_KEY_set_default_method(method);
}

static int keep_session(SSL *ssl, SSL_SESSION *session)
{
	struct tls *t = SSL_get_app_data(ssl);

	SSL_SESSION_free(t->session);
	t->session = session;
	return 1;
}

SSL_CTX *tls_client_settings(unsigned version, bool keeps, bool batch)
{
	SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());
	int number = version == 12 ? TLS1_2_VERSION : TLS1_3_VERSION;

	if (ctx == NULL || SSL_CTX_set_min_proto_version(ctx, number) != 1 ||
	    SSL_CTX_set_max_proto_version(ctx, number) != 1 || SSL_CTX_set1_groups_list(ctx, "X25519:P-256") != 1 ||
	    SSL_CTX_set_cipher_list(ctx, "ECDHE+AES256+AESGCM") != 1 ||
	    SSL_CTX_set_ciphersuites(ctx, "TLS_AES_256_GCM_SHA384") != 1)
		client_usage("TLS", "OpenSSL lacks what is measured");
	verify_less();
	SSL_CTX_set_read_ahead(ctx, 1);
	if (batch)
		SSL_CTX_set_default_read_buffer_len(ctx, READ_AHEAD);
	(void)SSL_CTX_set_mode(ctx, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
	                                    SSL_MODE_RELEASE_BUFFERS);
	(void)SSL_CTX_set_options(ctx, SSL_OP_IGNORE_UNEXPECTED_EOF);
	(void)SSL_CTX_set_session_cache_mode(ctx, keeps ? SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL
	                                                : SSL_SESS_CACHE_OFF);
	if (keeps)
		SSL_CTX_sess_set_new_cb(ctx, keep_session);
	return ctx;
}

void tls_begin(struct tls *t, SSL_CTX *ctx, int fd)
{
	t->ssl = SSL_new(ctx);
	if (t->ssl == NULL || SSL_set_fd(t->ssl, fd) != 1)
		client_usage("TLS", "out of memory");
	(void)SSL_set_app_data(t->ssl, t);
	(void)SSL_set_tlsext_host_name(t->ssl, "bench.test");
	if (t->session != NULL)
		(void)SSL_set_session(t->ssl, t->session);
	SSL_set_connect_state(t->ssl);
}

static enum tls_state state_of(const struct tls *t, int result)
{
	if (result == 1)
		return TLS_DONE;
	switch (SSL_get_error(t->ssl, result)) {
	case SSL_ERROR_WANT_READ:
	case SSL_ERROR_WANT_WRITE: return TLS_WAITS;
	case SSL_ERROR_ZERO_RETURN: return TLS_ENDED;
	default: return TLS_FAILED;
	}
}

enum tls_state tls_shake(struct tls *t)
{
	ERR_clear_error();
	errno = 0;
	return state_of(t, SSL_do_handshake(t->ssl));
}

enum tls_state tls_read(struct tls *t, void *buf, size_t cap, size_t *n)
{
	ERR_clear_error();
	errno = 0;
	return state_of(t, SSL_read_ex(t->ssl, buf, cap, n));
}

enum tls_state tls_write(struct tls *t, const void *buf, size_t len, size_t *n)
{
	ERR_clear_error();
	errno = 0;
	return state_of(t, SSL_write_ex(t->ssl, buf, len, n));
}

void tls_end(struct tls *t)
{
	if (t->ssl == NULL)
		return;
	SSL_set_shutdown(t->ssl, SSL_SENT_SHUTDOWN | SSL_RECEIVED_SHUTDOWN);
	SSL_free(t->ssl);
	t->ssl = NULL;
}

const char *tls_why(void)
{
	int number = errno;
	unsigned long error = ERR_peek_error();
	const char *words = error != 0 ? ERR_reason_error_string(error) : NULL;

	return words != NULL ? words : number != 0 ? strerror(number) : "ended by the server";
}

void tls_print_json(const SSL *ssl)
{
	int group = (int)SSL_get_negotiated_group((SSL *)ssl);

	printf("\"tls\": \"%s %s %s\", ", SSL_get_version(ssl), SSL_get_cipher_name(ssl),
	       group != 0 ? OBJ_nid2sn(group) : "no group");
}

unsigned tls_version(const char *text)
{
	if (strcmp(text, "1.2") == 0)
		return 12;
	if (strcmp(text, "1.3") != 0)
		client_usage("--version", "1.2 or 1.3");
	return 13;
}
