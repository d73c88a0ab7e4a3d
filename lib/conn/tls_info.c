/* tls_info.c — what is told of a handshake that is over, and of certificates. Copies: nothing of OpenSSL's shows.
 *
 * Any thread that may use the connection. */
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "conn/openssl.h"
#include "conn/tls.h"

/* ---- the connection ------------------------------------------------------------------------------------- */

/* With its guard; NULL: no handshake was begun. */
static struct hark__tls_conn *lock_any(const struct hark_conn *c)
{
	struct hark__tls_conn *t = hark__conn_tls(c);
	if (t != NULL)
		(void)pthread_mutex_lock(&t->guard);
	return t;
}

/* NULL: none has succeeded. */
static struct hark__tls_conn *lock(const struct hark_conn *c)
{
	struct hark__tls_conn *t = lock_any(c);
	if (t == NULL || t->established)
		return t;
	(void)pthread_mutex_unlock(&t->guard);
	return NULL;
}

static void unlock(struct hark__tls_conn *t)
{
	ERR_clear_error();
	(void)pthread_mutex_unlock(&t->guard);
}

const char *hark_tls_failure(const struct hark_conn *c)
{
	struct hark__tls_conn *t = hark__conn_tls(c);
	if (t == NULL)
		return NULL;
	(void)pthread_mutex_lock(&t->guard);
	const char *text = t->failure != NULL    ? t->failure
	                   : t->broken < 0       ? hark_strerror(t->broken)
	                   : t->ended || t->deaf ? NULL
	                   : t->socket_error < 0 ? hark_strerror(t->socket_error)
	                   : t->cut              ? "the stream was cut: the peer ended it without close_notify"
	                                         : NULL;
	(void)pthread_mutex_unlock(&t->guard);
	return text;
}

/* The name is OpenSSL's context's, and goes with it. */
static void copy_group(SSL *ssl, char *out, size_t cap)
{
	int id = (int)SSL_get_negotiated_group(ssl);
	const char *name = id != 0 ? SSL_group_to_name(ssl, id) : NULL;
	(void)snprintf(out, cap, "%s", name != NULL ? name : "");
}

static void copy_alpn(SSL *ssl, char *out, size_t cap)
{
	const unsigned char *chosen;
	unsigned n;
	SSL_get0_alpn_selected(ssl, &chosen, &n);
	(void)snprintf(out, cap, "%.*s", (int)n, n > 0 ? (const char *)chosen : "");
}

int hark_tls_info(const struct hark_conn *c, struct hark_tls_info *out)
{
	struct hark__tls_conn *t = lock(c);
	if (t == NULL)
		return -ENOTCONN;
	long verified = SSL_get_verify_result(t->ssl);
	bool shown = SSL_get0_peer_certificate(t->ssl) != NULL;
	bool asked = t->is_client || t->settings->clients != HARK_TLS_CLIENTS_ANY;
	*out = (struct hark_tls_info){
		.resumed = SSL_session_reused(t->ssl) == 1,
		.verified = asked && shown && verified == X509_V_OK,
	};
	(void)snprintf(out->version, sizeof out->version, "%s", SSL_get_version(t->ssl));
	(void)snprintf(out->cipher, sizeof out->cipher, "%s", SSL_get_cipher_name(t->ssl));
	copy_group(t->ssl, out->group, sizeof out->group);
	copy_alpn(t->ssl, out->alpn, sizeof out->alpn);
	hark__tls_asked_name(t->ssl, out->name, sizeof out->name);
	if (shown && verified != X509_V_OK)
		(void)snprintf(out->why, sizeof out->why, "%s", X509_verify_cert_error_string(verified));
	unlock(t);
	return 0;
}

/* ---- certificates --------------------------------------------------------------------------------------- */

bool hark__tls_copy_name(const X509_NAME *name, char *out, size_t cap)
{
	static const char cut[] = "...";
	BIO *b = BIO_new(BIO_s_mem());
	bool whole = b != NULL &&
	             X509_NAME_print_ex(b, name, 0, XN_FLAG_RFC2253 & ~(unsigned long)ASN1_STRFLGS_ESC_MSB) >= 0;
	int n = whole ? BIO_read(b, out, (int)cap - 1) : 0;
	out[n > 0 ? n : 0] = '\0';
	if (whole && BIO_pending(b) > 0) {
		size_t at = cap - sizeof cut;
		while (at > 0 && (out[at] & 0xc0) == 0x80) /* of a character of several bytes */
			at--;
		memcpy(out + at, cut, sizeof cut);
	}
	BIO_free(b);
	return whole;
}

bool hark__tls_copy_names(const X509 *cert, char *out, size_t cap)
{
	int absent;
	ERR_clear_error();
	GENERAL_NAMES *alt = X509_get_ext_d2i(cert, NID_subject_alt_name, &absent, NULL);
	char ip[INET6_ADDRSTRLEN];
	size_t len = 0;
	out[0] = '\0';
	if (alt == NULL)
		return absent < 0 || !hark__tls_no_memory();
	for (int i = 0; i < sk_GENERAL_NAME_num(alt); i++) {
		const GENERAL_NAME *g = sk_GENERAL_NAME_value(alt, i);
		const char *text = NULL;
		int n = 0;
		if (g->type == GEN_DNS) {
			text = (const char *)ASN1_STRING_get0_data(g->d.dNSName);
			n = ASN1_STRING_length(g->d.dNSName);
		} else if (g->type == GEN_IPADD) {
			int family = ASN1_STRING_length(g->d.iPAddress) == 4 ? AF_INET : AF_INET6;
			if (ASN1_STRING_length(g->d.iPAddress) == 4 || ASN1_STRING_length(g->d.iPAddress) == 16)
				text = inet_ntop(family, ASN1_STRING_get0_data(g->d.iPAddress), ip, sizeof ip);
			n = text != NULL ? (int)strlen(text) : 0;
		}
		if (n <= 0 || len + (size_t)n + 2 > cap)
			continue;
		if (len > 0)
			out[len++] = ' ';
		for (int k = 0; k < n; k++)
			out[len++] = text[k] > 0x20 && text[k] < 0x7f ? text[k] : '?';
		out[len] = '\0';
	}
	GENERAL_NAMES_free(alt);
	return true;
}

static void copy_serial(const X509 *cert, char *out, size_t cap)
{
	const ASN1_INTEGER *serial = X509_get0_serialNumber(cert);
	size_t len = 0;
	for (int i = 0; i < ASN1_STRING_length(serial) && len + 3 <= cap; i++)
		len += (size_t)snprintf(out + len, cap - len, "%02X", ASN1_STRING_get0_data(serial)[i]);
	out[len] = '\0';
}

static bool copy_digest(const X509 *cert, char out[65])
{
	unsigned char digest[EVP_MAX_MD_SIZE];
	unsigned n = 0;
	out[0] = '\0';
	if (X509_digest(cert, EVP_sha256(), digest, &n) != 1)
		return false;
	for (unsigned i = 0; i < n && i < 32; i++)
		(void)snprintf(out + i * 2, 3, "%02X", digest[i]);
	return true;
}

static void copy_key(const X509 *cert, char *out, size_t cap)
{
	const EVP_PKEY *key = X509_get0_pubkey(cert);
	char group[24] = "";
	size_t n;
	if (key == NULL)
		return;
	switch (EVP_PKEY_get_base_id(key)) {
	case EVP_PKEY_RSA:
	case EVP_PKEY_RSA_PSS: (void)snprintf(out, cap, "RSA %d", EVP_PKEY_get_bits(key)); return;
	case EVP_PKEY_EC:
		(void)EVP_PKEY_get_group_name(key, group, sizeof group, &n);
		(void)snprintf(out, cap, "EC %s",
		               strcmp(group, "prime256v1") == 0  ? "P-256"
		               : strcmp(group, "secp384r1") == 0 ? "P-384"
		               : strcmp(group, "secp521r1") == 0 ? "P-521"
		                                                 : group);
		return;
	default: (void)snprintf(out, cap, "%s", OBJ_nid2sn(EVP_PKEY_get_base_id(key)));
	}
}

int64_t hark__tls_seconds(const ASN1_TIME *at)
{
	struct tm tm;
	return ASN1_TIME_to_tm(at, &tm) ? (int64_t)timegm(&tm) : 0;
}

/* 0 or -ENOMEM. */
static int describe(const X509 *cert, int count, struct hark_certificate *out)
{
	struct hark_certificate c = {
		.not_before = hark__tls_seconds(X509_get0_notBefore(cert)),
		.not_after = hark__tls_seconds(X509_get0_notAfter(cert)),
		.count = count,
	};
	if (!hark__tls_copy_name(X509_get_subject_name(cert), c.subject, sizeof c.subject) ||
	    !hark__tls_copy_name(X509_get_issuer_name(cert), c.issuer, sizeof c.issuer) ||
	    !hark__tls_copy_names(cert, c.names, sizeof c.names) || !copy_digest(cert, c.sha256))
		return -ENOMEM;
	copy_serial(cert, c.serial, sizeof c.serial);
	copy_key(cert, c.key, sizeof c.key);
	*out = c;
	return 0;
}

/* What the peer has shown; OpenSSL keeps a client's own certificate apart from those above it. NULL: no such one. */
static const X509 *shown(const struct hark__tls_conn *t, int place, int *count)
{
	STACK_OF(X509) *chain = SSL_get_peer_cert_chain(t->ssl);
	const X509 *leaf = SSL_get0_peer_certificate(t->ssl);
	if (leaf == NULL && t->is_client && chain != NULL)
		leaf = sk_X509_value(chain, 0); /* a server's that was refused */
	int above = chain != NULL ? sk_X509_num(chain) - (t->is_client ? 1 : 0) : 0;
	*count = leaf != NULL ? above + 1 : 0;
	if (place < 0 || place >= *count)
		return NULL;
	return place == 0 ? leaf : sk_X509_value(chain, place - (t->is_client ? 0 : 1));
}

int hark_tls_peer(const struct hark_conn *c, int place, struct hark_certificate *out)
{
	struct hark__tls_conn *t = lock_any(c);
	int count;
	if (t == NULL)
		return -ENOTCONN;
	const X509 *cert = shown(t, place, &count);
	int r = cert != NULL ? describe(cert, count, out) : -ENOENT;
	unlock(t);
	return r;
}

int hark_tls_peer_pem(const struct hark_conn *c, int place, char *buf, size_t cap)
{
	struct hark__tls_conn *t = lock_any(c);
	int count;
	if (t == NULL)
		return -ENOTCONN;
	const X509 *cert = shown(t, place, &count);
	BIO *b = cert != NULL ? BIO_new(BIO_s_mem()) : NULL;
	char *text;
	int r = cert == NULL ? -ENOENT : b == NULL || PEM_write_bio_X509(b, cert) != 1 ? -ENOMEM : 0;
	long n = r == 0 ? BIO_get_mem_data(b, &text) : 0;
	if (r == 0 && (size_t)n >= cap)
		r = -ENOSPC;
	if (r == 0) {
		memcpy(buf, text, (size_t)n);
		buf[n] = '\0';
		r = (int)n;
	}
	BIO_free(b);
	unlock(t);
	return r;
}

int hark_tls_own(struct hark_tls *t, int which, int place, struct hark_certificate *out)
{
	struct hark__tls_settings *s;
	int r = hark__tls_settings(t, &s, NULL);
	if (r < 0)
		return r;
	const STACK_OF(X509) *chain = which >= 0 && which < s->n_certs ? s->chains[which] : NULL;
	int count = chain != NULL ? sk_X509_num(chain) : 0;
	r = place >= 0 && place < count ? describe(sk_X509_value(chain, place), count, out) : -ENOENT;
	hark__tls_settings_release(s);
	ERR_clear_error();
	return r;
}
