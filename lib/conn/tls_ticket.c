/* tls_ticket.c — session tickets (RFC 5077, RFC 8446 section 4.6.1): AES-256-CBC and HMAC-SHA-256, by keys that the
 * settings tell. How old a session may be is OpenSSL's to look at: SSL_CTX_set_timeout(). Under TLS 1.3 each resumption
 * is a new session to it, of that moment; we have them begin with the full handshake, as TLS 1.2's do.
 *
 * Called by OpenSSL in a handshake, on its thread. */
#include <string.h>

#include "conn/openssl.h"
#include "conn/tls.h"

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

/* SSL_CTX_set_session_ticket_cb(3). Of several that a client offers the last one is resumed, if any is. */
static SSL_TICKET_RETURN decrypted(SSL *ssl, SSL_SESSION *session, const unsigned char *name, size_t name_len,
                                   SSL_TICKET_STATUS status, void *arg)
{
	struct hark__tls_conn *t = SSL_get_app_data(ssl);
	(void)name;
	(void)name_len;
	(void)arg;
	if (status != SSL_TICKET_SUCCESS && status != SSL_TICKET_SUCCESS_RENEW)
		return SSL_TICKET_RETURN_IGNORE_RENEW;
	t->session_began = SSL_SESSION_get_time(session);
	return status == SSL_TICKET_SUCCESS ? SSL_TICKET_RETURN_USE : SSL_TICKET_RETURN_USE_RENEW;
}

/* Right before a ticket is made. */
static int makes(SSL *ssl, void *arg)
{
	const struct hark__tls_conn *t = SSL_get_app_data(ssl);
	(void)arg;
	if (SSL_session_reused(ssl))
		(void)SSL_SESSION_set_time(SSL_get_session(ssl), t->session_began);
	return 1;
}

void hark__tls_ticket_use(SSL_CTX *ctx)
{
	(void)SSL_CTX_set_tlsext_ticket_key_evp_cb(ctx, ticket_key);
	(void)SSL_CTX_set_session_ticket_cb(ctx, makes, decrypted, NULL);
}
