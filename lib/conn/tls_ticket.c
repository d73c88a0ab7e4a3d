/* tls_ticket.c — session tickets (RFC 5077, RFC 8446 section 4.6.1): AES-256-CBC and HMAC-SHA-256, by keys that the
 * settings tell. How old a ticket may be is OpenSSL's to look at: SSL_CTX_set_timeout().
 *
 * A ticket carries what its full handshake came to: when the session is over, however often it is renewed, and the name
 * that was asked for. RFC 8446 section 4.6.1 wants a limit that minds the lifetime of certificates; RFC 6066 section 3
 * wants the same name.
 *
 * Called by OpenSSL in a handshake, on its thread. */
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#include "conn/openssl.h"
#include "conn/tls.h"

/* ---- keys ------------------------------------------------------------------------------------------------- */

/* As struct hark_tls_opts says: 0, 1: renew, < 0: there is none. */
static int ask(const struct hark__tls_settings *s, const unsigned char *name, struct hark_ticket_key *out)
{
	if (s->ticket_key != NULL)
		return s->ticket_key(name, out, s->ticket_arg);
	*out = s->own_key;
	return name == NULL || memcmp(name, s->own_key.name, sizeof s->own_key.name) == 0 ? 0 : -1;
}

static bool init_mac(EVP_MAC_CTX *mac, struct hark_ticket_key *key)
{
	const OSSL_PARAM params[] = {
		OSSL_PARAM_construct_octet_string(OSSL_MAC_PARAM_KEY, key->hmac, sizeof key->hmac),
		OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, (char[]){"SHA256"}, 0),
		OSSL_PARAM_construct_end(),
	};
	return EVP_MAC_CTX_set_params(mac, params) == 1;
}

/* SSL_CTX_set_tlsext_ticket_key_evp_cb(3): 1: done; 2: done, and a new ticket is due; 0: no such key; -1: failed. */
static int ticket_key(SSL *ssl, unsigned char *name, unsigned char *iv, EVP_CIPHER_CTX *cipher, EVP_MAC_CTX *mac,
                      int makes)
{
	const struct hark__tls_conn *t = SSL_get_app_data(ssl);
	struct hark_ticket_key key;
	int r = ask(t->settings, makes ? NULL : name, &key), done;
	if (r < 0)
		return 0;
	if (makes) {
		memcpy(name, key.name, sizeof key.name);
		done = RAND_bytes(iv, 16) == 1 && init_mac(mac, &key) &&
		       EVP_EncryptInit_ex(cipher, EVP_aes_256_cbc(), NULL, key.aes, iv) == 1;
	} else {
		done = init_mac(mac, &key) && EVP_DecryptInit_ex(cipher, EVP_aes_256_cbc(), NULL, key.aes, iv) == 1;
	}
	OPENSSL_cleanse(&key, sizeof key);
	bool once = !makes && SSL_version(ssl) >= TLS1_3_VERSION; /* is used once: RFC 8446 appendix C.4 */
	return !done ? -1 : r > 0 || once ? 2 : 1;
}

/* ---- what a ticket carries -------------------------------------------------------------------------------- */

struct carried {
	int64_t over_s; /* as time(2) counts */
	char name[HARK_HOST_MAX + 1];
};

/* In front of the name, which no NUL ends. */
#define HEAD offsetof(struct carried, name)

static bool get_carried(SSL_SESSION *session, struct carried *out)
{
	void *bytes;
	size_t n;
	if (SSL_SESSION_get0_ticket_appdata(session, &bytes, &n) != 1 || n < HEAD || n >= sizeof *out)
		return false;
	memcpy(out, bytes, n);
	((char *)out)[n] = '\0';
	return true;
}

/* As soon as the first certificate of those that vouch for the client ends. */
static int64_t over_at(SSL *ssl, const SSL_SESSION *session)
{
	int64_t over = (int64_t)time(NULL) + SSL_SESSION_get_timeout(session);
	const STACK_OF(X509) *chain = SSL_get0_verified_chain(ssl);
	for (int i = 0; i < sk_X509_num(chain); i++) {
		int64_t end = hark__tls_seconds(X509_get0_notAfter(sk_X509_value(chain, i)));
		over = end < over ? end : over;
	}
	return over;
}

/* 1: done; 0: no memory, and the handshake fails. */
static int carry(SSL *ssl, void *arg)
{
	SSL_SESSION *session = SSL_get_session(ssl);
	struct carried c;
	(void)arg;
	if (SSL_session_reused(ssl) == 1) /* it has what it came with */
		return 1;
	const char *name = SSL_get_servername(ssl, TLSEXT_NAMETYPE_host_name);
	c.over_s = over_at(ssl, session);
	size_t n = name != NULL ? strnlen(name, HARK_HOST_MAX) : 0;
	memcpy(c.name, name != NULL ? name : "", n);
	return SSL_SESSION_set1_ticket_appdata(session, &c, HEAD + n);
}

/* The name in the hello that is being read: RFC 6066's list of one. False: it is another one. */
static bool asks_for(SSL *ssl, const char *name)
{
	enum { BEFORE = 5 }; /* two lengths and a type */
	const unsigned char *ext;
	size_t n, len = strlen(name);
	if (SSL_client_hello_get0_ext(ssl, TLSEXT_TYPE_server_name, &ext, &n) != 1)
		return len == 0;
	return n == BEFORE + len && strncasecmp((const char *)ext + BEFORE, name, len) == 0;
}

static SSL_TICKET_RETURN take(SSL *ssl, SSL_SESSION *session, const unsigned char *key, size_t key_bytes,
                              SSL_TICKET_STATUS status, void *arg)
{
	struct carried c;
	(void)key;
	(void)key_bytes;
	(void)arg;
	bool good = status == SSL_TICKET_SUCCESS || status == SSL_TICKET_SUCCESS_RENEW;
	if (!good || !get_carried(session, &c) || (int64_t)time(NULL) > c.over_s || !asks_for(ssl, c.name))
		return SSL_TICKET_RETURN_IGNORE_RENEW;
	return status == SSL_TICKET_SUCCESS ? SSL_TICKET_RETURN_USE : SSL_TICKET_RETURN_USE_RENEW;
}

void hark__tls_asked_name(SSL *ssl, char *out, size_t cap)
{
	struct carried c;
	const char *name = SSL_get_servername(ssl, TLSEXT_NAMETYPE_host_name);
	/* Of a session of TLS 1.2 OpenSSL knows the name only where there was a certificate for it. */
	if (name == NULL && SSL_session_reused(ssl) == 1 && get_carried(SSL_get_session(ssl), &c))
		name = c.name;
	(void)snprintf(out, cap, "%s", name != NULL ? name : "");
}

void hark__tls_ticket_use(SSL_CTX *ctx)
{
	(void)SSL_CTX_set_session_ticket_cb(ctx, carry, take, NULL);
	(void)SSL_CTX_set_tlsext_ticket_key_evp_cb(ctx, ticket_key);
}
