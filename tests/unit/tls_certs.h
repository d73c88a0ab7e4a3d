/* tls_certs.h — an authority and certificates for tests, made when a test program begins. */
#ifndef TLS_CERTS_H
#define TLS_CERTS_H

#include "net_support.h"

#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>

#include "conn/tls.h"

#define DAY_S (24L * 3600)

/* A certificate with its key, as PEM and as OpenSSL has it. */
struct made_cert {
	X509 *cert;
	EVP_PKEY *key;
	char *pem, *key_pem;
};

/* What one is like. Zero: a leaf, EC P-256, good from yesterday for a month. */
struct cert_plan {
	const char *subject;            /* its CN */
	int subject_bytes;              /* 0: a NUL ends it */
	const char *names;              /* "DNS:a.example,IP:127.0.0.1"; NULL: none */
	const struct made_cert *issuer; /* NULL: itself */
	bool is_ca, rsa;
	long from_s, to_s; /* from now; 0: as above */
};

static inline char *bio_text(BIO *b)
{
	char *at, *copy;
	long n = BIO_get_mem_data(b, &at);
	copy = malloc((size_t)n + 1);
	assert_non_null(copy);
	memcpy(copy, at, (size_t)n);
	copy[n] = '\0';
	BIO_free(b);
	return copy;
}

static inline char *pem_of_cert(X509 *cert)
{
	BIO *b = BIO_new(BIO_s_mem());
	assert_int_equal(PEM_write_bio_X509(b, cert), 1);
	return bio_text(b);
}

static inline char *pem_of_key(EVP_PKEY *key)
{
	BIO *b = BIO_new(BIO_s_mem());
	assert_int_equal(PEM_write_bio_PrivateKey(b, key, NULL, NULL, 0, NULL, NULL), 1);
	return bio_text(b);
}

static inline void add_extension(X509 *cert, const X509 *issuer, int nid, const char *value)
{
	X509V3_CTX ctx;
	X509V3_set_ctx(&ctx, (X509 *)issuer, cert, NULL, NULL, 0);
	X509_EXTENSION *e = X509V3_EXT_conf_nid(NULL, &ctx, nid, value);
	assert_non_null(e);
	assert_int_equal(X509_add_ext(cert, e, -1), 1);
	X509_EXTENSION_free(e);
}

/* All that were made, to the program's end: a leak checker finds them here. */
static struct made_cert made[32] __attribute__((used));
static int n_made;

static inline struct made_cert make_cert(struct cert_plan p)
{
	static long serial = 4711;
	struct made_cert m = {.cert = X509_new(), .key = p.rsa ? EVP_RSA_gen(2048) : EVP_EC_gen("P-256")};
	const struct made_cert *by = p.issuer != NULL ? p.issuer : &m;
	assert_true(m.cert != NULL && m.key != NULL);
	X509_NAME *name = X509_get_subject_name(m.cert);
	assert_int_equal(X509_set_version(m.cert, 2), 1);
	ASN1_INTEGER_set(X509_get_serialNumber(m.cert), serial++);
	X509_NAME_add_entry_by_txt(name, "CN", V_ASN1_UTF8STRING, (const unsigned char *)p.subject,
	                           p.subject_bytes > 0 ? p.subject_bytes : -1, -1, 0);
	X509_gmtime_adj(X509_getm_notBefore(m.cert), p.from_s != 0 ? p.from_s : -DAY_S);
	X509_gmtime_adj(X509_getm_notAfter(m.cert), p.to_s != 0 ? p.to_s : 30 * DAY_S);
	assert_int_equal(X509_set_pubkey(m.cert, m.key), 1);
	assert_int_equal(X509_set_issuer_name(m.cert, X509_get_subject_name(by->cert)), 1);
	add_extension(m.cert, by->cert, NID_basic_constraints, p.is_ca ? "critical,CA:TRUE" : "CA:FALSE");
	if (p.is_ca)
		add_extension(m.cert, by->cert, NID_key_usage, "critical,keyCertSign,cRLSign");
	if (p.names != NULL)
		add_extension(m.cert, by->cert, NID_subject_alt_name, p.names);
	assert_true(X509_sign(m.cert, by->key, EVP_sha256()) > 0);
	m.pem = pem_of_cert(m.cert);
	m.key_pem = pem_of_key(m.key);
	assert_true(n_made < 32);
	made[n_made++] = m;
	return m;
}

/* ---- the usual ones ------------------------------------------------------------------------------------- */

static struct made_cert authority, server_cert, other_cert, client_cert;

static inline int make_certs(void **state)
{
	(void)state;
	authority = make_cert((struct cert_plan){.subject = "hark test authority", .is_ca = true});
	server_cert = make_cert((struct cert_plan){.subject = "a.example",
	                                           .names = "DNS:a.example,DNS:*.w.example,IP:127.0.0.1",
	                                           .issuer = &authority});
	other_cert = make_cert(
		(struct cert_plan){.subject = "b.example", .names = "DNS:b.example", .issuer = &authority});
	client_cert = make_cert((struct cert_plan){.subject = "a client", .issuer = &authority});
	return 0;
}

static inline struct hark_tls_cert pem_pair(const struct made_cert *m)
{
	return (struct hark_tls_cert){.cert_pem = m->pem, .key_pem = m->key_pem};
}

#endif
