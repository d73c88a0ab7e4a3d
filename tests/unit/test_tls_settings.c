/* test_tls_settings.c — settings: files that are read once, what is wrong with which, replaced while connections live;
 * session tickets. */
#include "tls_support.h"

#include <sys/resource.h>

#include "base/sys.h"

/* ---- files ------------------------------------------------------------------------------------------------ */

static void write_text(const char *path, const char *text, const char *more)
{
	FILE *f = fopen(path, "we");
	CHECK(f != NULL);
	CHECK(fputs(text, f) >= 0 && fputs(more, f) >= 0);
	CHECK_INT(fclose(f), 0);
}

static char folder[64];

static const char *in_folder(const char *name)
{
	static char path[4][128];
	static int at;
	at = (at + 1) % 4;
	(void)snprintf(path[at], sizeof path[at], "%s/%s", folder, name);
	return path[at];
}

static int make_folder(void **state)
{
	(void)snprintf(folder, sizeof folder, "/tmp/hark-tls-XXXXXX");
	assert_non_null(mkdtemp(folder));
	return make_certs(state);
}

static int remove_folder(void **state)
{
	char command[128];
	(void)state;
	(void)snprintf(command, sizeof command, "rm -r %s", folder);
	return system(command);
}

static void fails(struct hark_tls_opts o, int error, const char *says)
{
	struct hark_why why = {.text = ""};
	struct hark_tls *t = NULL;
	o.why = &why;
	CHECK_INT(hark_tls_new(&o, &t), error);
	CHECK(t == NULL);
	CHECK_HAS(why.text, says);
}

static void fails_with(const char *cert, const char *key, int error, const char *says)
{
	const struct hark_tls_cert c = {.cert = cert, .key = key};
	fails((struct hark_tls_opts){.certs = &c, .n_certs = 1}, error, says);
}

static char *encrypted_key(void)
{
	BIO *b = BIO_new(BIO_s_mem());
	CHECK_INT(PEM_write_bio_PKCS8PrivateKey(b, server_cert.key, EVP_aes_128_cbc(), "secret", 6, NULL, NULL), 1);
	return bio_text(b);
}

static void what_is_wrong_with_a_file_is_told_with_its_name(void)
{
	char *secret = encrypted_key();
	write_text(in_folder("cert.pem"), server_cert.pem, authority.pem);
	write_text(in_folder("key.pem"), server_cert.key_pem, "");
	write_text(in_folder("other.pem"), other_cert.key_pem, "");
	write_text(in_folder("both.pem"), server_cert.key_pem, server_cert.pem);
	write_text(in_folder("reversed.pem"), authority.pem, server_cert.pem);
	write_text(in_folder("empty.pem"), "", "");
	write_text(in_folder("secret.pem"), secret, "");
	write_text(in_folder("broken.pem"), "-----BEGIN CERTIFICATE-----\nMIIB", "!!!\n-----END CERTIFICATE-----\n");
	free(secret);
	const struct hark_tls_cert good[] = {{.cert = in_folder("cert.pem"), .key = in_folder("key.pem")},
	                                     {.cert = in_folder("both.pem")}};
	struct hark_tls *t = settings_of((struct hark_tls_opts){.certs = good, .n_certs = 2});
	struct hark_certificate seen;
	CHECK_INT(hark_tls_own(t, 0, 0, &seen), 0);
	CHECK_INT(seen.count, 2);
	CHECK_INT(strcmp(seen.names, "a.example *.w.example 127.0.0.1"), 0);
	CHECK_INT(strcmp(seen.key, "EC P-256"), 0);
	CHECK_INT(strlen(seen.sha256), 64);
	CHECK(seen.not_before < time(NULL) && seen.not_after > time(NULL) + 29 * DAY_S);
	CHECK_INT(hark_tls_own(t, 0, 1, &seen), 0);
	CHECK_INT(strcmp(seen.subject, "CN=hark test authority"), 0);
	CHECK_INT(hark_tls_own(t, 1, 1, &seen), -ENOENT);
	CHECK_INT(hark_tls_own(t, 2, 0, &seen), -ENOENT);
	CHECK_INT(hark_tls_own(t, -1, 0, &seen), -ENOENT);
	hark_tls_free(t);
	fails_with(in_folder("none.pem"), NULL, -ENOENT, "none.pem: No such file or directory");
	fails_with(in_folder("cert.pem"), in_folder("none.pem"), -ENOENT, "key ");
	fails_with(folder, NULL, -EISDIR, "Is a directory");
	fails_with(in_folder("empty.pem"), in_folder("key.pem"), -EINVAL, "empty.pem: holds no certificate in PEM");
	fails_with(in_folder("cert.pem"), NULL, -EINVAL, "cert.pem: holds no private key in PEM");
	fails_with(in_folder("cert.pem"), in_folder("other.pem"), -EINVAL, "is not that of certificate");
	fails_with(in_folder("cert.pem"), in_folder("secret.pem"), -EINVAL, "secret.pem: is encrypted");
	fails_with(in_folder("reversed.pem"), in_folder("key.pem"), -EINVAL, "belongs to certificate 2 of it");
	fails_with(in_folder("broken.pem"), in_folder("key.pem"), -EINVAL, "certificate ");
	fails((struct hark_tls_opts){.ca = in_folder("none.pem")}, -ENOENT, "ca ");
	fails((struct hark_tls_opts){.ca = in_folder("key.pem")}, -EINVAL, "key.pem: holds no certificate");
	fails((struct hark_tls_opts){.crl = in_folder("cert.pem")}, -EINVAL, "cert.pem: holds no revocation list");
	fails((struct hark_tls_opts){.clients = HARK_TLS_CLIENTS_REQUIRED}, -EINVAL, "need a ca");
	fails((struct hark_tls_opts){.min_version = 11}, -EINVAL, "min_version must be 12 or 13");
	fails((struct hark_tls_opts){.n_certs = 1}, -EINVAL, "certs");
	const struct hark_tls_cert neither = {0};
	fails((struct hark_tls_opts){.certs = &neither, .n_certs = 1}, -EINVAL, "neither a file nor its text");
	hark_tls_free(NULL);
}

static void *malloc_of_a_key(size_t n)
{
	static const char words[] = "PRIVATE KEY-----";
	char *p = malloc(n);
	for (size_t i = 0; p != NULL && i < n; i++)
		p[i] = words[i % (sizeof words - 1)];
	return p;
}

/* What memory held before is none of it. */
static void a_key_is_looked_for_in_the_text_alone(void)
{
	static const char bad[] = "-----BEGIN CERTIFICATE-----\nMIIB!!!\n-----END CERTIFICATE-----\n";
	const struct hark_tls_cert as_text = {.cert_pem = server_cert.pem, .key_pem = bad};
	write_text(in_folder("cert.pem"), server_cert.pem, "");
	write_text(in_folder("bad.pem"), bad, "");
	hark__sys.malloc = malloc_of_a_key;
	fails_with(in_folder("cert.pem"), in_folder("bad.pem"), -EINVAL, "bad.pem: holds no private key in PEM");
	fails((struct hark_tls_opts){.certs = &as_text, .n_certs = 1}, -EINVAL, "key: holds no private key in PEM");
	hark__sys.malloc = malloc;
}

static void a_file_without_end_is_not_read_for_ever(void)
{
#if !defined(UNDER_ASAN) && !defined(UNDER_TSAN) /* else their own memory */
	const struct rlimit room = {(rlim_t)1 << 30, (rlim_t)1 << 30};
	CHECK_INT(setrlimit(RLIMIT_AS, &room), 0);
#endif
	fails_with("/dev/zero", NULL, -EFBIG, "certificate /dev/zero: File too large");
}

static void a_file_that_may_not_be_read_is_told(void)
{
	struct hark_why why = {.text = ""};
	struct hark_tls *t;
	write_text(in_folder("closed.pem"), server_cert.pem, server_cert.key_pem);
	CHECK_INT(chmod(in_folder("closed.pem"), 0), 0);
	CHECK_INT(chmod(folder, 0755), 0);
	if (geteuid() == 0)
		CHECK_INT(seteuid(65534), 0);
	const struct hark_tls_cert c = {.cert = in_folder("closed.pem")};
	int r = hark_tls_new(&(struct hark_tls_opts){.certs = &c, .n_certs = 1, .why = &why}, &t);
	CHECK(geteuid() == 65534 ? seteuid(0) == 0 : true);
	CHECK_INT(r, -EACCES);
	CHECK_HAS(why.text, "closed.pem: Permission denied");
}

static void settings_are_replaced_while_connections_live(void)
{
	const struct hark_tls_cert first = pem_pair(&server_cert), second = pem_pair(&other_cert);
	struct hark_tls *a = settings_of((struct hark_tls_opts){.insecure = true}),
			*b = settings_of((struct hark_tls_opts){.certs = &first, .n_certs = 1});
	struct pair p = tls_over(tcp_pair(), a, b, "a.example"), q;
	struct hark_certificate seen;
	struct hark_why why = {.text = ""};
	char byte;
	const struct hark_tls_cert bad = {.cert = "/none/here.pem"};
	CHECK_INT(hark_tls_reload(b, &(struct hark_tls_opts){.certs = &bad, .n_certs = 1, .why = &why}), -ENOENT);
	CHECK_HAS(why.text, "/none/here.pem");
	CHECK_INT(hark_tls_own(b, 0, 0, &seen), 0);
	CHECK_INT(strcmp(seen.subject, "CN=a.example"), 0);
	CHECK_INT(hark_tls_reload(b, &(struct hark_tls_opts){.certs = &second, .n_certs = 1}), 0);
	q = tls_over(tcp_pair(), a, b, "a.example");
	CHECK_INT(hark_tls_peer(q.a, 0, &seen), 0);
	CHECK_INT(strcmp(seen.subject, "CN=b.example"), 0);
	hark_tls_free(a);
	hark_tls_free(b);
	say(p.a, "x");
	CHECK_INT(hark_read(p.b, &byte, 1), 1);
	pair_drop(&p);
	pair_drop(&q);
}

/* ---- tickets ---------------------------------------------------------------------------------------------- */

/* A client of OpenSSL's over a plain socket, which keeps its session. */
struct resuming {
	SSL_CTX *ctx;
	int fd, version;
	SSL_SESSION *session; /* to come with, then the one that was got */
	const char *name;     /* to ask for; NULL: none */
	bool resumed, failed;
	int tickets;
};

static int keep_session(SSL *ssl, SSL_SESSION *session)
{
	struct resuming *r = SSL_get_app_data(ssl);
	r->tickets++;
	SSL_SESSION_free(r->session);
	r->session = session;
	return 1;
}

static void resume(void *arg)
{
	struct resuming *r = arg;
	char byte;
	SSL *ssl = SSL_new(r->ctx);
	r->failed = true;
	SSL_set_fd(ssl, r->fd);
	SSL_set_app_data(ssl, r);
	SSL_set_max_proto_version(ssl, r->version);
	if (r->name != NULL)
		CHECK_INT(SSL_set_tlsext_host_name(ssl, r->name), 1);
	if (r->session != NULL)
		CHECK_INT(SSL_set_session(ssl, r->session), 1);
	r->tickets = 0;
	if (SSL_connect(ssl) == 1 && SSL_read(ssl, &byte, 1) == 1) { /* the tickets come before it */
		r->failed = false;
		r->resumed = SSL_session_reused(ssl) == 1;
		if (r->version == TLS1_2_VERSION && r->resumed) { /* no callback tells of a renewed one */
			SSL_SESSION_free(r->session);
			r->session = SSL_get1_session(ssl);
		}
		(void)SSL_shutdown(ssl);
	}
	SSL_free(ssl);
	(void)close(r->fd);
}

static void *resume_thread(void *arg)
{
	resume(arg);
	return NULL;
}

/* One connection: true if it was a resumed one. */
static bool resumes(struct resuming *r, struct hark_tls *t)
{
	pthread_t thread;
	int fds[2];
	struct hark_tls_info info;
	raw_tcp(fds);
	r->fd = fds[0];
	struct hark_conn *c = conn_of(fds[1]);
	CHECK_INT(pthread_create(&thread, NULL, resume_thread, r), 0);
	CHECK_INT(hark_starttls(c, t, NULL), 0);
	CHECK_INT(hark_tls_info(c, &info), 0);
	say(c, "x");
	CHECK_INT(hark_close(c), 0);
	CHECK_INT(pthread_join(thread, NULL), 0);
	CHECK(!r->failed);
	CHECK_INT(info.resumed, r->resumed);
	CHECK_INT(strcmp(info.name, r->name != NULL ? r->name : ""), 0);
	return r->resumed;
}

static struct resuming resuming_client(int version)
{
	struct resuming r = {.ctx = SSL_CTX_new(TLS_client_method()), .version = version};
	SSL_CTX_set_session_cache_mode(r.ctx, SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
	SSL_CTX_sess_set_new_cb(r.ctx, keep_session);
	return r;
}

static void end_resuming(struct resuming *r)
{
	SSL_SESSION_free(r->session);
	SSL_CTX_free(r->ctx);
}

static const int versions[] = {TLS1_2_VERSION, TLS1_3_VERSION};

static void a_session_is_resumed_also_after_a_reload(void)
{
	for (int i = 0; i < 2; i++) {
		const struct hark_tls_cert c = pem_pair(&server_cert);
		struct hark_tls_opts o = {.certs = &c, .n_certs = 1};
		struct hark_tls *t = settings_of(o), *other = settings_of(o);
		struct resuming r = resuming_client(versions[i]);
		CHECK(!resumes(&r, t));
		CHECK_INT(r.tickets, versions[i] == TLS1_2_VERSION ? 1 : 2);
		CHECK(resumes(&r, t));
		for (int k = 0; k < 20; k++) {
			CHECK_INT(hark_tls_reload(t, &o), 0);
			CHECK(resumes(&r, t));
		}
		CHECK(!resumes(&r, other)); /* whose key is another one */
		end_resuming(&r);
		hark_tls_free(t);
		hark_tls_free(other);
	}
}

/* Keys as a server with several processes has them. */
static struct {
	struct hark_ticket_key keys[2];
	int current;  /* -1: none */
	bool gone[2]; /* its time is over */
	bool renew;
} ring;

static int ring_key(const unsigned char *name, struct hark_ticket_key *out, void *arg)
{
	CHECK(arg == &ring);
	for (int i = 0; i < 2; i++)
		if (name == NULL ? i == ring.current
		                 : !ring.gone[i] && memcmp(name, ring.keys[i].name, sizeof ring.keys[i].name) == 0) {
			*out = ring.keys[i];
			return name != NULL && (ring.renew || i != ring.current);
		}
	return -ENOENT;
}

static void tickets_are_of_the_keys_that_are_told(void)
{
	for (int i = 0; i < 2; i++) {
		const struct hark_tls_cert c = pem_pair(&server_cert);
		struct hark_tls_opts o = {.certs = &c, .n_certs = 1, .ticket_key = ring_key, .ticket_arg = &ring};
		struct hark_tls *t = settings_of(o), *another = settings_of(o);
		struct resuming r = resuming_client(versions[i]);
		memset(&ring, 0, sizeof ring);
		for (int k = 0; k < 2; k++)
			memset(&ring.keys[k], 'a' + k, sizeof ring.keys[k]);
		CHECK(!resumes(&r, t));
		CHECK(resumes(&r, another)); /* another process's, as it were */
		ring.current = 1;
		CHECK(resumes(&r, t)); /* by the old key */
		ring.gone[0] = true;
		CHECK(resumes(&r, t)); /* by the new one, which it was given */
		ring.gone[1] = true;
		CHECK(!resumes(&r, t));
		ring.gone[1] = false;
		ring.current = -1;
		SSL_SESSION_free(r.session);
		r.session = NULL;
		CHECK(!resumes(&r, t));
		CHECK_INT(r.tickets, 0);
		end_resuming(&r);
		hark_tls_free(t);
		hark_tls_free(another);
	}
}

static void a_session_past_its_lifetime_is_not_resumed(void)
{
	const struct hark_tls_cert c = pem_pair(&server_cert);
	struct hark_tls *t = settings_of(
		(struct hark_tls_opts){.certs = &c, .n_certs = 1, .ticket_lifetime_ns = HARK_S});
	struct resuming r[] = {resuming_client(versions[0]), resuming_client(versions[1])};
	for (int i = 0; i < 2; i++) {
		CHECK(!resumes(&r[i], t));
		CHECK(resumes(&r[i], t));
	}
	CHECK_INT(hark_sleep(2 * HARK_S + 10 * HARK_MS), 0); /* it is counted in whole seconds */
	for (int i = 0; i < 2; i++) {
		CHECK(SSL_SESSION_set_time(r[i].session, time(NULL)) > 0); /* the client still believes in it */
		CHECK(!resumes(&r[i], t));
		end_resuming(&r[i]);
	}
	hark_tls_free(t);
}

/* RFC 6066 section 3; and what was asked for is told also where there was no certificate for it. */
static void a_session_is_resumed_for_the_name_that_it_was_made_for_alone(void)
{
	const struct hark_tls_cert c[] = {pem_pair(&server_cert), pem_pair(&other_cert)};
	struct hark_tls *t = settings_of((struct hark_tls_opts){.certs = c, .n_certs = 2});
	static const char *const names[] = {"a.example", "b.example", "unknown.example", NULL, "q.w.example"};
	for (int i = 0; i < 2; i++) {
		struct resuming r = resuming_client(versions[i]);
		for (int k = 0; k < 5; k++) {
			r.name = names[k];
			CHECK(!resumes(&r, t));
			CHECK(resumes(&r, t));
			CHECK(resumes(&r, t));
		}
		end_resuming(&r);
	}
	hark_tls_free(t);
}

/* Whose certificate another service would not accept. */
static void a_session_of_other_clients_is_not_resumed(void)
{
	const struct hark_tls_cert c = pem_pair(&server_cert);
	struct hark_tls_opts o = {.certs = &c, .n_certs = 1, .ticket_key = ring_key, .ticket_arg = &ring};
	struct resuming r = resuming_client(TLS1_3_VERSION);
	memset(&ring, 0, sizeof ring);
	struct hark_tls *open = settings_of(o);
	o.ca_pem = authority.pem;
	o.clients = HARK_TLS_CLIENTS_OPTIONAL;
	struct hark_tls *asks = settings_of(o);
	CHECK(!resumes(&r, open));
	CHECK(!resumes(&r, asks));
	CHECK(resumes(&r, asks));
	CHECK(!resumes(&r, open));
	end_resuming(&r);
	hark_tls_free(open);
	hark_tls_free(asks);
}

/* Whatever of its client's chain ends first; to resume it does not make it last longer. */
static void a_session_is_not_resumed_once_its_clients_certificate_has_expired(void)
{
	const struct hark_tls_cert c = pem_pair(&server_cert);
	struct hark_tls_opts o = {.certs = &c,
	                          .n_certs = 1,
	                          .ca_pem = authority.pem,
	                          .clients = HARK_TLS_CLIENTS_OPTIONAL};
	struct made_cert between = make_cert(
		(struct cert_plan){.subject = "between", .is_ca = true, .issuer = &authority, .to_s = 2});
	struct made_cert own[] = {
		make_cert((struct cert_plan){.subject = "leaf", .issuer = &authority, .to_s = 2}),
		make_cert((struct cert_plan){.subject = "below", .issuer = &between}),
	};
	struct hark_tls *t = settings_of(o);
	struct resuming r[4];
	int64_t over = hark_after(3 * HARK_S);
	for (int i = 0; i < 4; i++) {
		r[i] = resuming_client(versions[i % 2]);
		CHECK_INT(SSL_CTX_use_cert_and_key(r[i].ctx, own[i / 2].cert, own[i / 2].key, NULL, 1), 1);
		CHECK(i / 2 == 0 || SSL_CTX_add1_chain_cert(r[i].ctx, between.cert) == 1);
		CHECK(!resumes(&r[i], t));
		SSL_CTX_free(r[i].ctx);
		r[i].ctx = resuming_client(versions[i % 2]).ctx; /* it shows none from here on */
		CHECK(resumes(&r[i], t));
		CHECK(resumes(&r[i], t));
	}
	CHECK(hark_now() < over - HARK_S);
	CHECK_INT(hark_sleep(over - hark_now()), 0);
	for (int i = 0; i < 4; i++) {
		CHECK(!resumes(&r[i], t));
		end_resuming(&r[i]);
	}
	hark_tls_free(t);
}

int main(int argc, char *argv[])
{
	const struct CMUnitTest tests[] = {
		EVERYWHERE(what_is_wrong_with_a_file_is_told_with_its_name),
		IN_CHILD(a_key_is_looked_for_in_the_text_alone),
		IN_CHILD(a_file_without_end_is_not_read_for_ever),
		IN_CHILD(a_file_that_may_not_be_read_is_told),
		EVERYWHERE(settings_are_replaced_while_connections_live),
		EVERYWHERE(a_session_is_resumed_also_after_a_reload),
		EVERYWHERE(tickets_are_of_the_keys_that_are_told),
		EVERYWHERE_AT_ONCE(a_session_past_its_lifetime_is_not_resumed),
		EVERYWHERE(a_session_of_other_clients_is_not_resumed),
		EVERYWHERE(a_session_is_resumed_for_the_name_that_it_was_made_for_alone),
		EVERYWHERE_AT_ONCE(a_session_is_not_resumed_once_its_clients_certificate_has_expired),
	};
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
