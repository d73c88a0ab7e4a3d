/* test_faults_openssl.c — each allocation of OpenSSL's failed at its Nth use: settings are made whole or not at all; a
 * handshake costs its own connection at most, and lets in nobody whom it would not let in otherwise. fault_driver.h
 * does the same to our own calls.
 *
 * Of many uses the first ones are tried, and then one in STRIDE; all with HARK_FAULTS=all. */
#include "tls_certs.h"

#include <pthread.h>
#include <stdatomic.h>
#include <unistd.h>

#define FIRST      100
#define STRIDE     67
#define FIRST_USES 400 /* that are looked at one by one before anything is made */
#define PATIENCE_S 60  /* for one case; none takes a second by itself */

static atomic_long left; /* uses before the one that fails; 0: none does */
static atomic_bool fired;
static atomic_long live; /* allocations that were not freed */
static long nth;

static bool strikes(void)
{
	if (atomic_load(&left) <= 0 || atomic_fetch_sub(&left, 1) != 1)
		return false;
	atomic_store(&fired, true);
	return true;
}

static void *own_malloc(size_t n, const char *file, int line)
{
	(void)(file + line);
	void *p = strikes() ? NULL : malloc(n);
	atomic_fetch_add(&live, p != NULL);
	return p;
}

static void *own_realloc(void *old, size_t n, const char *file, int line)
{
	(void)(file + line);
	void *p = strikes() ? NULL : realloc(old, n);
	atomic_fetch_add(&live, p != NULL && old == NULL);
	return p;
}

static void own_free(void *p, const char *file, int line)
{
	(void)(file + line);
	atomic_fetch_sub(&live, p != NULL);
	free(p);
}

static void fault(long n)
{
	nth = n;
	atomic_store(&fired, false);
	atomic_store(&left, n);
	(void)alarm(PATIENCE_S);
}

static void no_fault(void)
{
	atomic_store(&left, 0);
}

#define HOLD(condition) \
	do { \
		if (!(condition)) { /* be it in a thread */ \
			(void)fprintf(stderr, "%s:%d: %s does not hold: use %ld fails\n", __FILE__, __LINE__, \
			              #condition, nth); \
			abort(); \
		} \
	} while (0)

static long next_use(void)
{
	const char *all = getenv("HARK_FAULTS");
	return nth + (nth < FIRST || (all != NULL && strcmp(all, "all") == 0) ? 1 : STRIDE);
}

/* Each use in turn, until one() ends without it. What stays for good is made once: growth is told by many cases. */
static void sweep(void (*one)(void))
{
	long before, cases = 0;
	for (int i = 0; i < 3; i++)
		one();
	before = atomic_load(&live);
	nth = 0;
	do {
		fault(next_use());
		one();
		no_fault();
		cases++;
	} while (atomic_load(&fired));
	(void)alarm(0);
	(void)fprintf(stderr, "%ld cases, up to use %ld; %ld allocations more\n", cases, nth, live - before);
	HOLD(atomic_load(&live) - before < cases / 10 + 20);
}

/* ---- what they are made of ---------------------------------------------------------------------------------- */

static struct made_cert gone_cert;
static char *crl_pem, *chain_pem;

static void make_crl(void)
{
	X509_CRL *crl = X509_CRL_new();
	X509_REVOKED *r = X509_REVOKED_new();
	ASN1_TIME *now = X509_gmtime_adj(NULL, -60), *later = X509_gmtime_adj(NULL, DAY_S);
	BIO *b = BIO_new(BIO_s_mem());
	assert_int_equal(X509_REVOKED_set_serialNumber(r, X509_get_serialNumber(gone_cert.cert)), 1);
	assert_int_equal(X509_REVOKED_set_revocationDate(r, now), 1);
	assert_int_equal(X509_CRL_set_version(crl, 1), 1);
	assert_int_equal(X509_CRL_set_issuer_name(crl, X509_get_subject_name(authority.cert)), 1);
	assert_int_equal(X509_CRL_set1_lastUpdate(crl, now), 1);
	assert_int_equal(X509_CRL_set1_nextUpdate(crl, later), 1);
	assert_int_equal(X509_CRL_add0_revoked(crl, r), 1);
	assert_true(X509_CRL_sign(crl, authority.key, EVP_sha256()) > 0);
	assert_int_equal(PEM_write_bio_X509_CRL(b, crl), 1);
	crl_pem = bio_text(b);
	ASN1_TIME_free(now);
	ASN1_TIME_free(later);
	X509_CRL_free(crl);
}

static int make_all(void **state)
{
	(void)make_certs(state);
	gone_cert = make_cert((struct cert_plan){.subject = "gone", .issuer = &authority});
	make_crl();
	chain_pem = malloc(strlen(server_cert.pem) + strlen(authority.pem) + 1);
	assert_non_null(chain_pem);
	(void)stpcpy(stpcpy(chain_pem, server_cert.pem), authority.pem);
	return 0;
}

static int free_all(void **state)
{
	(void)state;
	free(chain_pem);
	free(crl_pem);
	return 0;
}

static struct hark_tls_cert certs[2];

static struct hark_tls_opts server_opts(void)
{
	certs[0] = (struct hark_tls_cert){.cert_pem = chain_pem, .key_pem = server_cert.key_pem};
	certs[1] = pem_pair(&other_cert);
	return (struct hark_tls_opts){
		.certs = certs,
		.n_certs = 2,
		.clients = HARK_TLS_CLIENTS_REQUIRED,
		.ca_pem = authority.pem,
		.crl_pem = crl_pem,
		.alpn = "h2 http/1.1",
	};
}

/* ---- settings ----------------------------------------------------------------------------------------------- */

static void check_context(const struct hark__tls_settings *s, int i, int n_names, const char *first)
{
	const struct hark__tls_context *c = &s->contexts[i];
	HOLD(c->n_names == n_names && strcmp(c->names[0], first) == 0);
	HOLD(SSL_CTX_get_min_proto_version(c->ctx) == TLS1_2_VERSION);
	HOLD(SSL_CTX_get0_certificate(c->ctx) != NULL && SSL_CTX_get0_privatekey(c->ctx) != NULL);
	HOLD(SSL_CTX_get_cert_store(c->ctx) == s->store);
	HOLD(sk_X509_NAME_num(SSL_CTX_get_client_CA_list(c->ctx)) == 1);
	HOLD(SSL_CTX_get_options(c->ctx) & SSL_OP_NO_RENEGOTIATION);
}

static void check_whole(const struct hark__tls_settings *s)
{
	STACK_OF(X509) * above;
	HOLD(s->n_contexts == 2 && s->n_certs == 2);
	check_context(s, 0, 2, "*.w.example");
	check_context(s, 1, 1, "b.example");
	HOLD(sk_X509_num(s->chains[0]) == 2 && sk_X509_num(s->chains[1]) == 1);
	HOLD(SSL_CTX_get0_chain_certs(s->contexts[0].ctx, &above) == 1 && sk_X509_num(above) == 1);
	HOLD(sk_X509_OBJECT_num(X509_STORE_get0_objects(s->store)) == 2);
	HOLD(X509_VERIFY_PARAM_get_flags(X509_STORE_get0_param(s->store)) & X509_V_FLAG_CRL_CHECK);
	HOLD(s->n_alpn == 12);
}

static void make_settings(void)
{
	struct hark_why why = {""};
	struct hark_tls_opts o = server_opts();
	struct hark_tls *t = NULL;
	o.why = &why;
	int r = hark_tls_new(&o, &t);
	bool failed = atomic_load(&fired);
	no_fault();
	HOLD(r == 0 || failed);
	HOLD(r == 0 || (t == NULL && why.text[0] != '\0'));
	if (r == 0)
		check_whole(t->settings);
	hark_tls_free(t);
}

static void settings_are_made_whole_or_not_at_all(void **state)
{
	(void)state;
	sweep(make_settings);
}

static void tell_names(void)
{
	char **names;
	int n, r = hark__tls_names_of(server_cert.cert, &names, &n);
	HOLD(r == 0 || (r == -ENOMEM && atomic_load(&fired)));
	if (r < 0)
		return;
	HOLD(n == 2 && strcmp(names[0], "*.w.example") == 0 && strcmp(names[1], "a.example") == 0);
	hark__tls_names_free(names, n);
}

static struct hark_tls *shown;

static void tell_all(void)
{
	struct hark_certificate c = {.subject = "unchanged"};
	int r = hark_tls_own(shown, 0, 0, &c);
	HOLD(r == 0 || (r == -ENOMEM && atomic_load(&fired)));
	HOLD(strcmp(c.subject, r == 0 ? "CN=a.example" : "unchanged") == 0);
	if (r < 0)
		return;
	HOLD(strcmp(c.issuer, "CN=hark test authority") == 0 && strlen(c.sha256) == 64 && c.not_after > 0);
	HOLD(strcmp(c.names, "a.example *.w.example 127.0.0.1") == 0);
}

static void a_certificate_is_told_of_whole_or_not_at_all(void **state)
{
	struct hark_tls_opts o = server_opts();
	(void)state;
	assert_int_equal(hark_tls_new(&o, &shown), 0);
	sweep(tell_names);
	sweep(tell_all);
	hark_tls_free(shown);
}

/* Only what lives on is looked at: new settings do not take the place of those that are there before they are whole. */
static struct hark_tls *renewed;

static void renew_settings(void)
{
	struct hark_why why = {""};
	struct hark_tls_opts o = server_opts();
	o.why = &why;
	const struct hark__tls_settings *before = renewed->settings;
	int r = hark_tls_reload(renewed, &o);
	bool failed = atomic_load(&fired);
	no_fault();
	HOLD(r == 0 || (failed && why.text[0] != '\0'));
	HOLD((renewed->settings == before) == (r < 0));
	check_whole(renewed->settings);
}

static void a_reload_that_fails_leaves_the_settings_as_they_were(void **state)
{
	struct hark_tls_opts o = server_opts();
	(void)state;
	assert_int_equal(hark_tls_new(&o, &renewed), 0);
	sweep(renew_settings);
	hark_tls_free(renewed);
}

/* ---- handshakes --------------------------------------------------------------------------------------------- */

struct end {
	struct hark_conn *c;
	struct hark_tls *tls;
	const char *name; /* a client's */
	int r;
	bool said, heard;
};

static void *talk(void *end)
{
	struct end *e = end;
	char buf[16];
	hark_deadline(e->c, hark_after(20 * HARK_S));
	e->r = hark_starttls(e->c, e->tls, &(struct hark_starttls_opts){.name = e->name});
	if (e->r == 0) {
		struct hark_certificate its;
		int told = hark_tls_peer(e->c, 0, &its);
		HOLD(told < 0 || strcmp(its.subject, e->name != NULL ? "CN=b.example" : "CN=a client") == 0);
		HOLD(told < 0 || e->name == NULL || strcmp(its.names, "b.example") == 0);
		e->said = hark_write(e->c, "hello\n", 6) == 6 && hark_flush(e->c) == 0;
		e->heard = hark_readline(e->c, buf, sizeof buf) == 6 && memcmp(buf, "hello\n", 6) == 0;
	}
	if (e->heard)
		(void)hark_close(e->c);
	else
		hark_abort(e->c);
	OPENSSL_thread_stop();
	return NULL;
}

static struct hark_tls *server, *good, *bare, *gone;

static void meet(struct hark_tls *client, struct end e[2])
{
	struct hark_conn *c[2];
	pthread_t t;
	HOLD(hark_pair(c) == 0);
	e[0] = (struct end){.c = c[0], .tls = client, .name = "b.example"};
	e[1] = (struct end){.c = c[1], .tls = server};
	HOLD(pthread_create(&t, NULL, talk, &e[1]) == 0);
	(void)talk(&e[0]);
	HOLD(pthread_join(t, NULL) == 0);
	HOLD(e[0].r != -ETIMEDOUT && e[1].r != -ETIMEDOUT);
}

static void good_handshake(void)
{
	struct end e[2];
	meet(good, e);
	bool failed = atomic_load(&fired);
	no_fault();
	HOLD(failed || (e[0].heard && e[1].heard));
	if (!failed)
		return;
	meet(good, e); /* nothing stays broken */
	HOLD(e[0].heard && e[1].heard);
}

static void bad_handshakes(void)
{
	struct end e[2];
	meet(bare, e);
	HOLD(e[1].r < 0 && !e[0].heard);
	meet(gone, e);
	HOLD(e[1].r < 0 && !e[0].heard);
}

static struct hark_tls *client_of(const struct made_cert *m)
{
	const struct hark_tls_cert c = m != NULL ? pem_pair(m) : (struct hark_tls_cert){0};
	struct hark_tls *t = NULL;
	const struct hark_tls_opts o = {.ca_pem = authority.pem, .certs = &c, .n_certs = m != NULL};
	HOLD(hark_tls_new(&o, &t) == 0);
	return t;
}

static void make_ends(void)
{
	struct hark_tls_opts o = server_opts();
	HOLD(hark_tls_new(&o, &server) == 0);
	good = client_of(&client_cert);
	bare = client_of(NULL);
	gone = client_of(&gone_cert);
}

/* To nobody: the client's hello is made, and no more. */
static int begin(void)
{
	struct hark_conn *c[2];
	HOLD(hark_pair(c) == 0);
	hark_abort(c[1]);
	int r = hark_starttls(c[0], good, &(struct hark_starttls_opts){.name = "b.example"});
	hark_abort(c[0]);
	return r;
}

/* First of all: what is made once in a process is made by the next one who wants it, where it failed. */
static void what_is_made_once_is_made_later_where_it_failed(void **state)
{
	(void)state;
	make_ends();
	nth = 0;
	do {
		fault(nth + 1);
		int r = begin();
		no_fault();
		HOLD(r < 0 && r != -ETIMEDOUT);
	} while (atomic_load(&fired) && nth < FIRST_USES);
	HOLD(begin() != -ENOMEM);
}

static void a_handshake_costs_its_own_connection_at_most(void **state)
{
	(void)state;
	sweep(good_handshake);
}

static void no_failure_lets_in_whom_it_would_not_let_in(void **state)
{
	(void)state;
	sweep(bad_handshakes);
	hark_tls_free(server);
	hark_tls_free(good);
	hark_tls_free(bare);
	hark_tls_free(gone);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_is_made_once_is_made_later_where_it_failed),
		cmocka_unit_test(a_handshake_costs_its_own_connection_at_most),
		cmocka_unit_test(no_failure_lets_in_whom_it_would_not_let_in),
		cmocka_unit_test(settings_are_made_whole_or_not_at_all),
		cmocka_unit_test(a_certificate_is_told_of_whole_or_not_at_all),
		cmocka_unit_test(a_reload_that_fails_leaves_the_settings_as_they_were),
	};
	if (CRYPTO_set_mem_functions(own_malloc, own_realloc, own_free) != 1)
		return 1;
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, make_all, free_all);
}
