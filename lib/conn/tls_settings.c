/* tls_settings.c — struct hark_tls: options made into contexts of OpenSSL, once, and replaced as a whole.
 *
 * All files are read when the settings are made, with the rights of that moment. Connections hold the settings that
 * they began with. A context is made for each set of certificates that are for the same names; the handshake changes
 * over to the one for the name that is asked for.
 *
 * Any thread. OpenSSL's memory is its own: what it lacks is told as -ENOMEM. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/sys.h"
#include "base/why.h"
#include "conn/openssl.h"
#include "conn/tls.h"

#define TICKET_LIFETIME_NS (12 * 3600 * HARK_S)
#define TICKET_LIFETIME_S  (7 * 24 * 3600) /* at most: RFC 8446 section 4.6.1 */

/* Forward secrecy and AEAD. Those of TLS 1.3 have both. */
#define CIPHERS_12 "ECDHE+AESGCM:ECDHE+CHACHA20:!aNULL"

/* ---- one context ------------------------------------------------------------------------------------------ */

static int by_name(SSL *ssl, int *alert, void *arg)
{
	const struct hark__tls_conn *t = SSL_get_app_data(ssl);
	const char *name = SSL_get_servername(ssl, TLSEXT_NAMETYPE_host_name);
	int i = name != NULL && !t->is_client ? hark__tls_context_for(t->settings, name) : -1;
	(void)alert;
	(void)arg;
	if (i < 0)
		return SSL_TLSEXT_ERR_NOACK;
	if (i > 0 && SSL_set_SSL_CTX(ssl, t->settings->contexts[i].ctx) == NULL)
		return SSL_TLSEXT_ERR_ALERT_FATAL;
	return SSL_TLSEXT_ERR_OK;
}

/* RFC 7301 section 3.2: the server's preference, and no connection where nothing fits. */
static int choose_alpn(SSL *ssl, const unsigned char **out, unsigned char *n, const unsigned char *offered,
                       unsigned n_offered, void *arg)
{
	const struct hark__tls_conn *t = SSL_get_app_data(ssl);
	const struct hark__tls_settings *s = t->settings;
	(void)arg;
	if (s->n_alpn == 0)
		return SSL_TLSEXT_ERR_NOACK;
	int r = SSL_select_next_proto((unsigned char **)out, n, s->alpn, s->n_alpn, offered, n_offered);
	return r == OPENSSL_NPN_NEGOTIATED ? SSL_TLSEXT_ERR_OK : SSL_TLSEXT_ERR_ALERT_FATAL;
}

static void set_modes(SSL_CTX *ctx)
{
	(void)SSL_CTX_set_options(ctx, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION |
	                                       SSL_OP_CIPHER_SERVER_PREFERENCE | SSL_OP_PRIORITIZE_CHACHA);
	/* An idle connection gives its buffers back. What is shown above a certificate is what its file has: no look at
	 * the authorities in each handshake. */
	(void)SSL_CTX_set_mode(ctx, SSL_MODE_RELEASE_BUFFERS | SSL_MODE_ENABLE_PARTIAL_WRITE |
	                                    SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER | SSL_MODE_AUTO_RETRY |
	                                    SSL_MODE_NO_AUTO_CHAIN);
	(void)SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF); /* tickets: processes share no memory */
	SSL_CTX_set_read_ahead(ctx, 1);                                /* one receive for a record's header and body */
}

/* A session that was made for other clients is not resumed: what its certificate was accepted by goes into its id. */
static bool set_session_id(SSL_CTX *ctx, const struct hark_tls_opts *o, const struct hark__tls_pem *ca,
                           const struct hark__tls_pem *crl)
{
	unsigned char digest[SHA256_DIGEST_LENGTH], all[2 * SHA256_DIGEST_LENGTH + 1] = {0};
	bool done = true; /* it allocates */
	if (o->clients != HARK_TLS_CLIENTS_ANY) {
		all[0] = (unsigned char)o->clients;
		done = SHA256((const unsigned char *)ca->text, ca->len, all + 1) != NULL &&
		       SHA256((const unsigned char *)crl->text, crl->len, all + 1 + SHA256_DIGEST_LENGTH) != NULL;
	}
	return done && SHA256(all, sizeof all, digest) != NULL &&
	       SSL_CTX_set_session_id_context(ctx, digest, sizeof digest) == 1;
}

struct making {
	const struct hark_tls_opts *opts;
	struct hark__tls_settings *s;
	struct hark__tls_pem ca, crl;
};

static int fail_by_openssl(const struct making *m, const char *what)
{
	char reason[HARK__TLS_WHY];
	bool no_memory = hark__tls_no_memory();
	hark__tls_reason(reason, sizeof reason);
	ERR_clear_error();
	hark__why(m->opts->why, "TLS: %s%s%s", what, what[0] != '\0' ? ": " : "", reason);
	return no_memory ? -ENOMEM : -EINVAL;
}

static int set_context(const struct making *m, SSL_CTX *ctx)
{
	const struct hark_tls_opts *o = m->opts;
	const struct hark__tls_settings *s = m->s;
	int64_t lifetime = (o->ticket_lifetime_ns > 0 ? o->ticket_lifetime_ns : TICKET_LIFETIME_NS) / HARK_S;
	set_modes(ctx);
	if (SSL_CTX_set_min_proto_version(ctx, o->min_version == 13 ? TLS1_3_VERSION : TLS1_2_VERSION) != 1 ||
	    SSL_CTX_set_cipher_list(ctx, CIPHERS_12) != 1 || !set_session_id(ctx, o, &m->ca, &m->crl))
		return fail_by_openssl(m, "");
	SSL_CTX_set1_cert_store(ctx, s->store);
	(void)SSL_CTX_set_timeout(ctx, lifetime < 1                   ? 1
	                               : lifetime < TICKET_LIFETIME_S ? (long)lifetime
	                                                              : TICKET_LIFETIME_S);
	hark__tls_ticket_use(ctx);
	if (s->n_alpn > 0 && SSL_CTX_set_alpn_protos(ctx, s->alpn, s->n_alpn) != 0)
		return fail_by_openssl(m, "alpn");
	SSL_CTX_set_alpn_select_cb(ctx, choose_alpn, NULL);
	(void)SSL_CTX_set_tlsext_servername_callback(ctx, by_name);
	if (s->client_names != NULL && o->clients != HARK_TLS_CLIENTS_ANY) {
		STACK_OF(X509_NAME) *names = SSL_dup_CA_list(s->client_names);
		if (names == NULL)
			return fail_by_openssl(m, "ca");
		SSL_CTX_set_client_CA_list(ctx, names);
	}
	return 0;
}

static int add_context(struct making *m, struct hark__tls_context **out)
{
	struct hark__tls_context *c = &m->s->contexts[m->s->n_contexts];
	*c = (struct hark__tls_context){.ctx = SSL_CTX_new(TLS_method())};
	if (c->ctx == NULL)
		return fail_by_openssl(m, "");
	m->s->n_contexts++;
	*out = c;
	return set_context(m, c->ctx);
}

/* ---- certificates ----------------------------------------------------------------------------------------- */

static bool same_names(const struct hark__tls_context *c, char *const *names, int n)
{
	if (c->n_names != n)
		return false;
	for (int i = 0; i < n; i++)
		if (strcmp(c->names[i], names[i]) != 0)
			return false;
	return true;
}

/* The kinds that OpenSSL keeps a certificate each for. */
static unsigned kind_of(const EVP_PKEY *key)
{
	switch (EVP_PKEY_get_base_id(key)) {
	case EVP_PKEY_RSA: return 1;
	case EVP_PKEY_RSA_PSS: return 2;
	case EVP_PKEY_EC: return 4;
	case EVP_PKEY_ED25519: return 8;
	default: return 16;
	}
}

/* The context for a certificate of these names, which it takes over. */
static int context_of(struct making *m, char **names, int n, unsigned kind, int *out)
{
	struct hark__tls_settings *s = m->s;
	struct hark__tls_context *c;
	for (int i = 0; i < s->n_contexts; i++)
		if (same_names(&s->contexts[i], names, n) && !(s->contexts[i].key_kinds & kind)) {
			hark__tls_names_free(names, n);
			s->contexts[i].key_kinds |= kind;
			*out = i;
			return 0;
		}
	int r = add_context(m, &c);
	if (r < 0) {
		hark__tls_names_free(names, n);
		return r;
	}
	c->names = names;
	c->n_names = n;
	c->key_kinds = kind;
	*out = s->n_contexts - 1;
	return 0;
}

/* certs[0] is the leaf, to be taken off. */
static int check_key(const struct making *m, const struct hark_tls_cert *c, STACK_OF(X509) * certs, EVP_PKEY *key)
{
	const char *cert_name = c->cert != NULL ? c->cert : "certificate";
	const char *key_name = c->key != NULL ? c->key : "key";
	if (X509_check_private_key(sk_X509_value(certs, 0), key) == 1)
		return 0;
	int reason = ERR_GET_REASON(ERR_peek_error());
	if (reason != X509_R_KEY_VALUES_MISMATCH && reason != X509_R_KEY_TYPE_MISMATCH)
		return fail_by_openssl(m, cert_name);
	for (int i = 1; i < sk_X509_num(certs); i++)
		if (X509_check_private_key(sk_X509_value(certs, i), key) == 1) {
			ERR_clear_error();
			hark__why(m->opts->why, "%s: key %s belongs to certificate %d of it, which must come first",
			          cert_name, key_name, i + 1);
			return -EINVAL;
		}
	ERR_clear_error();
	hark__why(m->opts->why, "key %s is not that of certificate %s", key_name, cert_name);
	return -EINVAL;
}

/* Has the context show them. certs stays the caller's. */
static int show(struct making *m, const struct hark_tls_cert *c, STACK_OF(X509) * certs, EVP_PKEY *key, int at)
{
	STACK_OF(X509) *above = X509_chain_up_ref(certs);
	X509 *leaf = above != NULL ? sk_X509_shift(above) : NULL;
	int r = 0;
	if (leaf == NULL || SSL_CTX_use_cert_and_key(m->s->contexts[at].ctx, leaf, key, above, 1) != 1)
		r = fail_by_openssl(m, c->cert != NULL ? c->cert : "certificate");
	X509_free(leaf);
	sk_X509_pop_free(above, X509_free);
	return r;
}

/* Takes over the certificates. */
static int use_chain(struct making *m, const struct hark_tls_cert *c, STACK_OF(X509) * certs, EVP_PKEY *key)
{
	char **names;
	int n, at = 0, r = check_key(m, c, certs, key);
	m->s->chains[m->s->n_certs++] = certs;
	if (r == 0) {
		r = hark__tls_names_of(sk_X509_value(certs, 0), &names, &n);
		if (r < 0)
			hark__why(m->opts->why, "%s: %s", c->cert != NULL ? c->cert : "certificate",
			          r == -EINVAL ? "its names (subjectAltName) cannot be read" : hark_strerror(r));
	}
	if (r == 0)
		r = context_of(m, names, n, kind_of(key), &at);
	return r < 0 ? r : show(m, c, certs, key, at);
}

static int use_cert(struct making *m, const struct hark_tls_cert *c)
{
	struct hark__tls_pem text;
	STACK_OF(X509) * certs;
	EVP_PKEY *key;
	bool apart = c->key != NULL || c->key_pem != NULL;
	int r = hark__tls_pem_read(&text, "certificate", c->cert, c->cert_pem, m->opts->why);
	if (r == 0)
		r = hark__tls_pem_certs(&text, &certs, m->opts->why);
	hark__tls_pem_free(&text);
	if (r < 0)
		return r;
	r = apart ? hark__tls_pem_read(&text, "key", c->key, c->key_pem, m->opts->why)
	          : hark__tls_pem_read(&text, "key", c->cert, c->cert_pem, m->opts->why);
	if (r == 0)
		r = hark__tls_pem_key(&text, &key, m->opts->why);
	hark__tls_pem_free(&text);
	if (r < 0) {
		sk_X509_pop_free(certs, X509_free);
		return r;
	}
	r = use_chain(m, c, certs, key);
	EVP_PKEY_free(key);
	return r;
}

/* Certificates of other kinds of keys that are good for these names as well, such as a wildcard's: who cannot do with
 * those of the names themselves takes them. */
static int borrow(struct making *m, struct hark__tls_context *to, const struct hark__tls_context *from)
{
	int more = SSL_CTX_set_current_cert(from->ctx, SSL_CERT_SET_FIRST), r = 0;
	for (; more == 1 && r == 0; more = SSL_CTX_set_current_cert(from->ctx, SSL_CERT_SET_NEXT)) {
		EVP_PKEY *key = SSL_CTX_get0_privatekey(from->ctx);
		STACK_OF(X509) * above;
		if (to->key_kinds & kind_of(key))
			continue;
		SSL_CTX_get0_chain_certs(from->ctx, &above);
		if (SSL_CTX_use_cert_and_key(to->ctx, SSL_CTX_get0_certificate(from->ctx), key, above, 1) != 1)
			r = fail_by_openssl(m, "certificates");
		to->key_kinds |= kind_of(key);
	}
	return r;
}

static int borrow_all(struct making *m)
{
	struct hark__tls_settings *s = m->s;
	int r = 0;
	for (int i = 0; i < s->n_contexts; i++)
		for (int k = 0; k < s->n_contexts && r == 0; k++)
			if ((s->contexts[k].key_kinds & ~s->contexts[i].key_kinds) != 0 &&
			    hark__tls_names_cover(&s->contexts[k], &s->contexts[i]))
				r = borrow(m, &s->contexts[i], &s->contexts[k]);
	return r;
}

/* ---- who vouches for the peer ------------------------------------------------------------------------------ */

static int add_authorities(struct making *m)
{
	STACK_OF(X509) * certs;
	struct hark__tls_settings *s = m->s;
	int r = hark__tls_pem_certs(&m->ca, &certs, m->opts->why);
	if (r < 0)
		return r;
	s->client_names = sk_X509_NAME_new_null();
	for (int i = 0; i < sk_X509_num(certs) && r == 0; i++) {
		X509 *one = sk_X509_value(certs, i);
		X509_NAME *name = X509_NAME_dup(X509_get_subject_name(one));
		if (X509_STORE_add_cert(s->store, one) != 1 || name == NULL || s->client_names == NULL ||
		    sk_X509_NAME_push(s->client_names, name) <= 0) {
			X509_NAME_free(name);
			r = fail_by_openssl(m, "ca");
		}
	}
	sk_X509_pop_free(certs, X509_free);
	return r;
}

static int make_store(struct making *m)
{
	const struct hark_tls_opts *o = m->opts;
	struct hark__tls_settings *s = m->s;
	bool has_ca = o->ca != NULL || o->ca_pem != NULL, has_crl = o->crl != NULL || o->crl_pem != NULL;
	s->store = X509_STORE_new();
	if (s->store == NULL)
		return fail_by_openssl(m, "");
	int r = 0;
	if (has_ca) {
		r = hark__tls_pem_read(&m->ca, "ca", o->ca, o->ca_pem, o->why);
		if (r == 0)
			r = add_authorities(m);
		const char *name = o->ca != NULL ? o->ca : "the authorities that are given";
		s->store_name = r == 0 ? hark__sys.malloc(strlen(name) + 1) : NULL;
		if (s->store_name != NULL)
			(void)memcpy(s->store_name, name, strlen(name) + 1);
	} else if (X509_STORE_set_default_paths(s->store) != 1) {
		r = fail_by_openssl(m, "the system's store");
	}
	if (r == 0 && has_crl) {
		r = hark__tls_pem_read(&m->crl, "crl", o->crl, o->crl_pem, o->why);
		if (r == 0)
			r = hark__tls_pem_crls(&m->crl, s->store, o->why);
		(void)X509_STORE_set_flags(s->store, X509_V_FLAG_CRL_CHECK | X509_V_FLAG_CRL_CHECK_ALL);
	} else if (has_ca) { /* who is named needs no other above; with lists all above are looked at */
		(void)X509_STORE_set_flags(s->store, X509_V_FLAG_PARTIAL_CHAIN);
	}
	return r;
}

/* ---- the whole -------------------------------------------------------------------------------------------- */

/* "h2 http/1.1", "h2,http/1.1": with a length before each. */
static int take_alpn(struct making *m)
{
	const char *text = m->opts->alpn;
	if (text == NULL)
		return 0;
	unsigned char *at = m->s->alpn = hark__sys.malloc(strlen(text) + 2);
	if (at == NULL)
		return -ENOMEM;
	for (size_t n; (text += strspn(text, " \t,"))[0] != '\0'; text += n) {
		n = strcspn(text, " \t,");
		if (n > 63 || m->s->n_alpn + n + 1 > UINT16_MAX) {
			hark__why(m->opts->why, "alpn: \"%.40s...\" is longer than 63 bytes", text);
			return -EINVAL;
		}
		*at++ = (unsigned char)n;
		memcpy(at, text, n);
		at += n;
		m->s->n_alpn += (unsigned)n + 1;
	}
	return 0;
}

static int check(const struct hark_tls_opts *o)
{
	const char *what = NULL;
	if (o->n_certs < 0 || (o->n_certs > 0 && o->certs == NULL))
		what = "certs: there are none";
	else if (o->min_version != 0 && o->min_version != 12 && o->min_version != 13)
		what = "min_version must be 12 or 13";
	else if ((unsigned)o->clients > HARK_TLS_CLIENTS_REQUIRED)
		what = "clients: no such choice";
	else if (o->clients != HARK_TLS_CLIENTS_ANY && o->ca == NULL && o->ca_pem == NULL)
		what = "certificates of clients need a ca";
	if (what == NULL)
		return 0;
	hark__why(o->why, "TLS: %s", what);
	return -EINVAL;
}

static int fill(struct making *m)
{
	const struct hark_tls_opts *o = m->opts;
	struct hark__tls_settings *s = m->s;
	struct hark__tls_context *only;
	size_t n = (size_t)o->n_certs + 1;
	s->contexts = hark__sys.calloc(n, sizeof *s->contexts);
	s->chains = hark__sys.calloc(n, sizeof *s->chains);
	int r = s->contexts == NULL || s->chains == NULL ? -ENOMEM : take_alpn(m);
	if (r == -ENOMEM)
		hark__why(o->why, "TLS: %s", hark_strerror(r));
	if (r == 0)
		r = make_store(m);
	for (int i = 0; i < o->n_certs && r == 0; i++)
		r = use_cert(m, &o->certs[i]);
	if (r == 0)
		r = borrow_all(m);
	if (r == 0 && s->n_contexts == 0)
		r = add_context(m, &only);
	return r;
}

static int make(const struct hark_tls_opts *o, const struct hark_ticket_key *own, struct hark__tls_settings **out)
{
	int r = check(o);
	if (r < 0)
		return r;
	struct making m = {.opts = o, .s = hark__sys.calloc(1, sizeof *m.s)};
	if (m.s == NULL) {
		hark__why(o->why, "TLS: %s", hark_strerror(-ENOMEM));
		return -ENOMEM;
	}
	atomic_init(&m.s->refs, 1);
	m.s->clients = o->clients;
	m.s->insecure = o->insecure;
	m.s->ticket_key = o->ticket_key;
	m.s->ticket_arg = o->ticket_arg;
	m.s->own_key = *own;
	r = fill(&m);
	hark__tls_pem_free(&m.ca);
	hark__tls_pem_free(&m.crl);
	if (r < 0)
		hark__tls_settings_release(m.s);
	else
		*out = m.s;
	return r;
}

void hark__tls_settings_release(struct hark__tls_settings *s)
{
	/* acq_rel: the last one sees all that the others did with it. */
	if (s == NULL || atomic_fetch_sub_explicit(&s->refs, 1, memory_order_acq_rel) > 1)
		return;
	for (int i = 0; i < s->n_contexts; i++) {
		SSL_CTX_free(s->contexts[i].ctx);
		hark__tls_names_free(s->contexts[i].names, s->contexts[i].n_names);
	}
	for (int i = 0; i < s->n_certs; i++)
		sk_X509_pop_free(s->chains[i], X509_free);
	sk_X509_NAME_pop_free(s->client_names, X509_NAME_free);
	X509_STORE_free(s->store);
	OPENSSL_cleanse(&s->own_key, sizeof s->own_key);
	free(s->store_name);
	free(s->alpn);
	free(s->contexts);
	free(s->chains);
	free(s);
}

/* ---- the handle --------------------------------------------------------------------------------------------- */

static const struct hark_tls_opts defaults;

int hark_tls_new(const struct hark_tls_opts *opts, struct hark_tls **out)
{
	const struct hark_tls_opts *o = opts != NULL ? opts : &defaults;
	int r = hark__openssl_load(o->why);
	if (r < 0)
		return r;
	struct hark_tls *t = hark__sys.calloc(1, sizeof *t);
	r = t == NULL || RAND_bytes((unsigned char *)&t->own_key, sizeof t->own_key) != 1 ? -ENOMEM : 0;
	if (r < 0)
		hark__why(o->why, "TLS: %s", hark_strerror(r));
	if (r == 0)
		r = make(o, &t->own_key, &t->settings);
	if (r < 0) {
		free(t);
		return r;
	}
	(void)pthread_mutex_init(&t->lock, NULL);
	*out = t;
	return 0;
}

int hark_tls_reload(struct hark_tls *t, const struct hark_tls_opts *opts)
{
	struct hark__tls_settings *s;
	int r = make(opts != NULL ? opts : &defaults, &t->own_key, &s);
	if (r < 0)
		return r;
	(void)pthread_mutex_lock(&t->lock);
	struct hark__tls_settings *old = t->settings;
	t->settings = s;
	(void)pthread_mutex_unlock(&t->lock);
	hark__tls_settings_release(old);
	return 0;
}

void hark_tls_free(struct hark_tls *t)
{
	if (t == NULL)
		return;
	hark__tls_settings_release(t->settings);
	(void)pthread_mutex_destroy(&t->lock);
	OPENSSL_cleanse(&t->own_key, sizeof t->own_key);
	free(t);
}

/* What a client uses that brings no settings: made when it is first wanted, and kept. */
static struct hark_tls clients = {.lock = PTHREAD_MUTEX_INITIALIZER};

int hark__tls_settings(struct hark_tls *t, struct hark__tls_settings **out, struct hark_why *why)
{
	const struct hark_tls_opts o = {.why = why};
	int r = 0;
	if (t == NULL)
		t = &clients;
	(void)pthread_mutex_lock(&t->lock);
	if (t->settings == NULL)
		r = hark__openssl_load(why);
	if (t->settings == NULL && r == 0)
		r = make(&o, &t->own_key, &t->settings);
	if (r == 0) {
		atomic_fetch_add_explicit(&t->settings->refs, 1, memory_order_relaxed);
		*out = t->settings;
	}
	(void)pthread_mutex_unlock(&t->lock);
	return r;
}
