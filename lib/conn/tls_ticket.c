/* tls_ticket.c — session tickets (RFC 5077, RFC 8446 section 4.6.1): AES-256-CBC and HMAC-SHA-256, by keys that the
 * settings tell. How old a session may be is OpenSSL's to look at: SSL_CTX_set_timeout().
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

void hark__tls_ticket_use(SSL_CTX *ctx)
{
	(void)SSL_CTX_set_tlsext_ticket_key_evp_cb(ctx, ticket_key);
}
