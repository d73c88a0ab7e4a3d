/* test_tls_handshake.c — who may talk to whom: certificates, names, versions, and what each side says of a refusal. */
#include "tls_support.h"

/* What both sides say of a handshake between these settings. */
struct outcome {
	int client, server;
	char client_says[256], server_says[256];
	struct hark_tls_info seen; /* the client's, or the server's where that alone succeeded */
};

static struct outcome try_with(struct hark_tls_opts client, struct hark_tls_opts server, const char *name)
{
	struct outcome o = {0};
	struct hark_tls *a = settings_of(client), *b = settings_of(server);
	struct pair p = tcp_pair();
	char byte;
	struct shaking sa = {.c = p.a, .t = a, .name = name}, sb = {.c = p.b, .t = b};
	shake_both(&sa, &sb);
	o.client = sa.got;
	o.server = sb.got;
	if (sa.got == 0 && sb.got < 0) { /* TLS 1.3: the client hears of it by its first read */
		o.client = (int)hark_read(p.a, &byte, 1);
		CHECK(o.client < 0);
		(void)snprintf(sa.why.text, sizeof sa.why.text, "%s", hark_tls_failure(p.a));
	}
	(void)snprintf(o.client_says, sizeof o.client_says, "%s", o.client < 0 ? sa.why.text : "");
	(void)snprintf(o.server_says, sizeof o.server_says, "%s", o.server < 0 ? sb.why.text : "");
	if (o.client == 0)
		CHECK_INT(hark_tls_info(p.a, &o.seen), 0);
	else
		CHECK_INT(hark_tls_info(p.b, &o.seen), sb.got < 0 ? -ENOTCONN : 0);
	pair_drop(&p);
	hark_tls_free(a);
	hark_tls_free(b);
	return o;
}

static struct hark_tls_opts trusting(void)
{
	return (struct hark_tls_opts){.ca_pem = authority.pem, .ca = "test-ca.pem"};
}

#define SERVER_OF(...) \
	(struct hark_tls_opts) \
	{ \
		.certs = (const struct hark_tls_cert[]){__VA_ARGS__}, \
		.n_certs = (int)(sizeof((const struct hark_tls_cert[]){__VA_ARGS__}) / sizeof(struct hark_tls_cert)), \
	}

static void refuses(struct outcome o, const char *client_says, const char *server_says)
{
	CHECK_INT(o.client, -HARK_ECERT);
	CHECK_HAS(o.client_says, client_says);
	CHECK_INT(o.server, -EPROTO);
	CHECK_HAS(o.server_says, server_says);
}

static void a_servers_certificate_must_be_for_its_name_in_time_and_vouched_for(void)
{
	struct hark_tls_opts usual = SERVER_OF(pem_pair(&server_cert));
	struct made_cert old = make_cert((struct cert_plan){.subject = "old",
	                                                    .names = "DNS:a.example",
	                                                    .issuer = &authority,
	                                                    .from_s = -9 * DAY_S,
	                                                    .to_s = -DAY_S});
	struct made_cert early = make_cert((
		struct cert_plan){.subject = "early", .names = "DNS:a.example", .issuer = &authority, .from_s = DAY_S});
	struct made_cert alone = make_cert((struct cert_plan){.subject = "alone", .names = "DNS:a.example"});
	struct made_cert nobody = make_cert((struct cert_plan){.subject = "another authority", .is_ca = true});
	struct made_cert strange = make_cert(
		(struct cert_plan){.subject = "strange", .names = "DNS:a.example", .issuer = &nobody});
	struct outcome o = try_with(trusting(), usual, "a.example");
	CHECK_INT(o.client, 0);
	CHECK(o.seen.verified && !o.seen.resumed);
	CHECK_INT(strcmp(o.seen.version, "TLSv1.3"), 0);
	CHECK_INT(strcmp(o.seen.name, "a.example"), 0);
	CHECK(o.seen.cipher[0] != '\0' && o.seen.group[0] != '\0');
	CHECK_INT(try_with(trusting(), usual, "A.Example.").client, 0);
	CHECK_INT(try_with(trusting(), usual, "x.w.example").client, 0);
	CHECK_INT(try_with(trusting(), usual, "127.0.0.1").client, 0);
	refuses(try_with(trusting(), usual, "y.x.w.example"),
	        "is not for y.x.w.example (it is for a.example *.w.example", "the peer's alert: bad certificate");
	refuses(try_with(trusting(), usual, "127.0.0.2"), "is not for 127.0.0.2", "bad certificate");
	refuses(try_with(trusting(), SERVER_OF(pem_pair(&old)), "a.example"), "expired at 20", "certificate expired");
	refuses(try_with(trusting(), SERVER_OF(pem_pair(&early)), "a.example"), "is not valid before 20",
	        "bad certificate");
	refuses(try_with(trusting(), SERVER_OF(pem_pair(&alone)), "a.example"), "self-signed, and not in test-ca.pem",
	        "unknown CA");
	refuses(try_with(trusting(), SERVER_OF(pem_pair(&strange)), "a.example"),
	        "issued by CN=another authority, which is not in test-ca.pem", "unknown CA");
	struct made_cert ours = make_cert((struct cert_plan){.subject = "ours", .is_ca = true, .rsa = true}),
			 theirs = make_cert((struct cert_plan){.subject = "ours", .is_ca = true, .rsa = true});
	struct made_cert forged = make_cert(
		(struct cert_plan){.subject = "forged", .names = "DNS:a.example", .issuer = &theirs});
	refuses(try_with((struct hark_tls_opts){.ca_pem = ours.pem}, SERVER_OF(pem_pair(&forged)), "a.example"),
	        "is not signed by the CN=ours that is known", "decrypt error");
	refuses(try_with((struct hark_tls_opts){0}, usual, "a.example"), "not in the system's store", "unknown CA");
	o = try_with((struct hark_tls_opts){.insecure = true}, SERVER_OF(pem_pair(&old)), "b.example");
	CHECK_INT(o.client, 0);
	CHECK(!o.seen.verified && o.seen.why[0] != '\0');
}

/* Whoever is named is trusted, be there others above. */
static void an_authority_needs_no_other_above_it(void)
{
	struct made_cert between = make_cert(
		(struct cert_plan){.subject = "between", .is_ca = true, .issuer = &authority});
	struct made_cert leaf = make_cert(
		(struct cert_plan){.subject = "leaf", .names = "DNS:a.example", .issuer = &between});
	char chain[8192];
	(void)snprintf(chain, sizeof chain, "%s%s", leaf.pem, between.pem);
	struct hark_tls_opts alone = SERVER_OF(pem_pair(&leaf));
	struct hark_tls_opts both = SERVER_OF({.cert_pem = chain, .key_pem = leaf.key_pem});
	for (int i = 0; i < 2; i++) {
		struct hark_tls_opts client = {.ca_pem = i == 0 ? between.pem : leaf.pem};
		struct outcome o = try_with(client, alone, "a.example");
		CHECK_INT(o.client, 0);
		CHECK(o.seen.verified);
		CHECK_INT(try_with(client, both, "a.example").client, 0);
		refuses(try_with(client, alone, "b.example"), "is not for b.example", "bad certificate");
	}
	refuses(try_with(trusting(), alone, "a.example"), "which is not in test-ca.pem", "unknown CA");
	CHECK_INT(try_with(trusting(), both, "a.example").client, 0);
	alone.ca_pem = between.pem;
	alone.clients = HARK_TLS_CLIENTS_REQUIRED;
	struct hark_tls_opts shows = SERVER_OF(pem_pair(&leaf));
	shows.insecure = true;
	CHECK_INT(try_with(shows, alone, "a.example").server, 0);
}

/* To OpenSSL it would be any name below that one. */
static void a_name_that_begins_with_a_dot_is_none(void)
{
	struct hark_tls *t = client_settings();
	struct pair p = tcp_pair();
	struct hark_why why;
	CHECK_INT(hark_starttls(p.a, t, &(struct hark_starttls_opts){.name = ".w.example", .why = &why}), -EINVAL);
	CHECK_HAS(why.text, "none that TLS can ask for");
	pair_drop(&p);
	hark_tls_free(t);
}

static void the_certificate_is_chosen_by_the_name_that_is_asked_for(void)
{
	struct hark_certificate seen;
	struct hark_tls_opts both = SERVER_OF(pem_pair(&server_cert), pem_pair(&other_cert));
	static const struct {
		const char *name, *subject;
	} rows[] = {{"a.example", "CN=a.example"},       {"b.example", "CN=b.example"},
	            {"B.EXAMPLE", "CN=b.example"},       {"q.w.example", "CN=a.example"},
	            {"unknown.example", "CN=a.example"}, {"127.0.0.1", "CN=a.example"}};
	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
		struct hark_tls *a = settings_of((struct hark_tls_opts){.insecure = true}), *b = settings_of(both);
		struct pair p = tls_over(tcp_pair(), a, b, rows[i].name);
		CHECK_INT(hark_tls_peer(p.a, 0, &seen), 0);
		CHECK_INT(strcmp(seen.subject, rows[i].subject), 0);
		CHECK_INT(hark_tls_peer(p.a, 1, &seen), -ENOENT);
		CHECK_INT(hark_tls_peer(p.b, 0, &seen), -ENOENT);
		pair_drop(&p);
		hark_tls_free(a);
		hark_tls_free(b);
	}
}

static void of_certificates_for_the_same_names_the_client_takes_what_it_can(void)
{
	struct made_cert rsa = make_cert((struct cert_plan){.subject = "rsa",
	                                                    .names = "DNS:*.w.example,DNS:a.example,IP:127.0.0.1",
	                                                    .issuer = &authority,
	                                                    .rsa = true});
	struct hark_tls *b = settings_of(SERVER_OF(pem_pair(&server_cert), pem_pair(&rsa)));
	for (int i = 0; i < 2; i++) {
		struct hark_tls *a = client_settings();
		struct hark_certificate seen;
		if (i == 1)
			CHECK_INT(SSL_CTX_set1_sigalgs_list(a->settings->contexts[0].ctx,
			                                    "RSA-PSS+SHA256:RSA+SHA256:ECDSA+SHA512"),
			          1);
		struct pair p = tls_over(tcp_pair(), a, b, "a.example");
		CHECK_INT(hark_tls_peer(p.a, 0, &seen), 0);
		CHECK_INT(strcmp(seen.key, i == 1 ? "RSA 2048" : "EC P-256"), 0);
		pair_drop(&p);
		hark_tls_free(a);
	}
	CHECK_INT(b->settings->n_contexts, 1);
	hark_tls_free(b);
}

/* A wildcard's RSA beside the host's own EC; one of more names beside one of fewer. In any order. */
static void of_certificates_for_overlapping_names_the_client_takes_what_it_can(void)
{
	struct made_cert ec = make_cert(
		(struct cert_plan){.subject = "ec", .names = "DNS:www.v.example", .issuer = &authority});
	struct made_cert rsa = make_cert((struct cert_plan){.subject = "rsa",
	                                                    .names = "DNS:*.v.example,DNS:b.example",
	                                                    .issuer = &authority,
	                                                    .rsa = true});
	static const struct {
		const char *name, *first, *by_rsa; /* what is shown; NULL: nothing that the client can */
	} rows[] = {{"www.v.example", "CN=ec", "CN=rsa"},
	            {"q.v.example", "CN=rsa", "CN=rsa"},
	            {"b.example", "CN=b.example", "CN=rsa"},
	            {"a.example", "CN=a.example", NULL}};
	for (int i = 0; i < 16; i++) {
		const struct hark_tls_cert certs[] = {pem_pair(&server_cert), pem_pair(i & 1 ? &ec : &rsa),
		                                      pem_pair(&other_cert), pem_pair(i & 1 ? &rsa : &ec)};
		struct hark_tls *b = settings_of((struct hark_tls_opts){.certs = certs, .n_certs = 4}),
				*a = settings_of((struct hark_tls_opts){.insecure = true});
		const char *name = rows[i / 4].name, *wants = i & 2 ? rows[i / 4].by_rsa : rows[i / 4].first;
		struct hark_certificate seen;
		struct pair p = tcp_pair();
		struct shaking sa = {.c = p.a, .t = a, .name = name}, sb = {.c = p.b, .t = b};
		if (i & 2)
			CHECK_INT(SSL_CTX_set1_sigalgs_list(a->settings->contexts[0].ctx, "RSA-PSS+SHA256:RSA+SHA256"),
			          1);
		shake_both(&sa, &sb);
		CHECK_INT(sa.got, wants != NULL ? 0 : -EPROTO);
		if (wants != NULL) {
			CHECK_INT(hark_tls_peer(p.a, 0, &seen), 0);
			CHECK_INT(strcmp(seen.subject, wants), 0);
		}
		pair_drop(&p);
		hark_tls_free(a);
		hark_tls_free(b);
	}
}

static void clients_show_the_certificate_that_is_required_of_them(void)
{
	struct hark_tls_opts server = SERVER_OF(pem_pair(&server_cert)), shows = trusting();
	struct made_cert nobody = make_cert((struct cert_plan){.subject = "another authority", .is_ca = true});
	struct made_cert strange = make_cert((struct cert_plan){.subject = "strange", .issuer = &nobody});
	/* Of several the first, though another one is for the name that is asked for. */
	const struct hark_tls_cert good[] = {pem_pair(&client_cert), pem_pair(&server_cert)}, bad = pem_pair(&strange);
	server.ca = "clients.pem";
	server.ca_pem = authority.pem;
	shows.n_certs = 1;
	for (int required = 0; required < 2; required++) {
		server.clients = required ? HARK_TLS_CLIENTS_REQUIRED : HARK_TLS_CLIENTS_OPTIONAL;
		struct outcome o = try_with(trusting(), server, "a.example");
		CHECK_INT(o.server, required ? -HARK_ECERT : 0);
		CHECK_INT(o.client, required ? -EPROTO : 0);
		if (required) {
			CHECK_HAS(o.server_says, "the peer shows no certificate");
			CHECK_HAS(o.client_says, "the peer's alert: certificate required");
		}
		shows.certs = good;
		shows.n_certs = 2;
		struct hark_tls *a = settings_of(shows), *b = settings_of(server);
		struct pair p = tls_over(tcp_pair(), a, b, "a.example");
		struct hark_certificate seen;
		struct hark_tls_info info;
		char pem[4096];
		CHECK_INT(hark_tls_peer(p.b, 0, &seen), 0);
		CHECK_INT(strcmp(seen.subject, "CN=a client"), 0);
		CHECK_INT(strcmp(seen.issuer, "CN=hark test authority"), 0);
		CHECK_INT(hark_tls_peer(p.a, 1, &seen), -ENOENT); /* the server shows its file, not its ca */
		CHECK(hark_tls_peer_pem(p.b, 0, pem, sizeof pem) > 0);
		CHECK_INT(strcmp(pem, client_cert.pem), 0);
		CHECK_INT(hark_tls_peer_pem(p.b, 0, pem, 100), -ENOSPC);
		CHECK_INT(hark_tls_info(p.b, &info), 0);
		CHECK(info.verified);
		pair_drop(&p);
		hark_tls_free(a);
		hark_tls_free(b);
		shows.certs = &bad;
		shows.n_certs = 1;
		o = try_with(shows, server, "a.example");
		CHECK_INT(o.server, -HARK_ECERT);
		CHECK_HAS(o.server_says, "issued by CN=another authority, which is not in clients.pem");
		CHECK_HAS(o.client_says, "the peer's alert: unknown CA");
	}
}

static char *crl_of(const struct made_cert *issuer, const struct made_cert *revoked, long from_s, long to_s)
{
	X509_CRL *crl = X509_CRL_new();
	ASN1_TIME *at = X509_gmtime_adj(NULL, from_s);
	X509_CRL_set_version(crl, 1);
	X509_CRL_set_issuer_name(crl, X509_get_subject_name(issuer->cert));
	X509_CRL_set1_lastUpdate(crl, at);
	X509_gmtime_adj(at, to_s);
	X509_CRL_set1_nextUpdate(crl, at);
	if (revoked != NULL) {
		X509_REVOKED *r = X509_REVOKED_new();
		X509_REVOKED_set_serialNumber(r, X509_get_serialNumber(revoked->cert));
		X509_gmtime_adj(at, -60);
		X509_REVOKED_set_revocationDate(r, at);
		X509_CRL_add0_revoked(crl, r);
	}
	ASN1_TIME_free(at);
	CHECK(X509_CRL_sign(crl, issuer->key, EVP_sha256()) > 0);
	BIO *b = BIO_new(BIO_s_mem());
	PEM_write_bio_X509_CRL(b, crl);
	X509_CRL_free(crl);
	return bio_text(b);
}

static void a_certificate_that_is_revoked_is_refused(void)
{
	struct hark_tls_opts server = SERVER_OF(pem_pair(&server_cert)), shows = trusting();
	struct hark_tls_cert good = pem_pair(&client_cert);
	shows.certs = &good;
	shows.n_certs = 1;
	server.ca_pem = authority.pem;
	server.clients = HARK_TLS_CLIENTS_REQUIRED;
	for (int revoked = 0; revoked < 2; revoked++) {
		char *crl = crl_of(&authority, revoked ? &client_cert : NULL, -60, DAY_S);
		server.crl_pem = crl;
		struct outcome o = try_with(shows, server, "a.example");
		CHECK_INT(o.server, revoked ? -HARK_ECERT : 0);
		if (revoked)
			CHECK_HAS(o.server_says, "its certificate is revoked");
		free(crl);
	}
}

static void a_list_that_is_not_there_or_not_in_force_is_told_with_whose_it_is(void)
{
	struct hark_tls_opts server = SERVER_OF(pem_pair(&server_cert)), shows = trusting();
	struct hark_tls_cert good = pem_pair(&client_cert);
	struct made_cert other = make_cert((struct cert_plan){.subject = "another authority", .is_ca = true});
	char *lists[] = {crl_of(&authority, NULL, -2 * DAY_S, -DAY_S), crl_of(&authority, NULL, DAY_S, 2 * DAY_S),
	                 crl_of(&other, NULL, -60, DAY_S)};
	static const char *const words[] = {"it has expired", "it is not valid yet", "there is none"};
	shows.certs = &good;
	shows.n_certs = 1;
	server.ca_pem = authority.pem;
	server.clients = HARK_TLS_CLIENTS_REQUIRED;
	for (int i = 0; i < 3; i++) {
		char says[128];
		server.crl_pem = lists[i];
		struct outcome o = try_with(shows, server, "a.example");
		CHECK_INT(o.server, -HARK_ECERT);
		(void)snprintf(says, sizeof says, "the revocation list (CRL) of CN=hark test authority, and %s",
		               words[i]);
		CHECK_HAS(o.server_says, says);
		free(lists[i]);
	}
}

static void the_application_protocol_is_the_servers_first_that_the_client_has(void)
{
	struct hark_tls_opts client = trusting(), server = SERVER_OF(pem_pair(&server_cert));
	server.alpn = "h2 http/1.1";
	CHECK_INT(strcmp(try_with(client, server, "a.example").seen.alpn, ""), 0);
	client.alpn = " http/1.1  h2 ";
	CHECK_INT(strcmp(try_with(client, server, "a.example").seen.alpn, "h2"), 0);
	client.alpn = ",http/1.1,\th2,";
	CHECK_INT(strcmp(try_with(client, server, "a.example").seen.alpn, "h2"), 0);
	client.alpn = "http/1.1 imap";
	CHECK_INT(strcmp(try_with(client, server, "a.example").seen.alpn, "http/1.1"), 0);
	client.alpn = "imap";
	struct outcome o = try_with(client, server, "a.example");
	CHECK_INT(o.server, -EPROTO);
	CHECK_HAS(o.server_says, "no shared application protocol");
	CHECK_HAS(o.client_says, "the peer's alert: no application protocol");
	server.alpn = NULL;
	CHECK_INT(strcmp(try_with(client, server, "a.example").seen.alpn, ""), 0);
}

static void versions_below_the_lowest_are_refused(void)
{
	struct hark_tls_opts old = trusting(), server = SERVER_OF(pem_pair(&server_cert));
	server.min_version = 13;
	struct hark_tls *a = settings_of(old), *b = settings_of(server);
	SSL_CTX_set_max_proto_version(a->settings->contexts[0].ctx, TLS1_2_VERSION);
	struct pair p = tcp_pair();
	struct shaking sa = {.c = p.a, .t = a, .name = "a.example"}, sb = {.c = p.b, .t = b};
	shake_both(&sa, &sb);
	CHECK_INT(sb.got, -EPROTO);
	CHECK_HAS(sb.why.text, "no version of TLS");
	CHECK_INT(sa.got, -EPROTO);
	CHECK_HAS(sa.why.text, "the peer's alert: protocol version");
	pair_drop(&p);
	hark_tls_free(b);
	server.min_version = 0;
	b = settings_of(server);
	p = tls_over(tcp_pair(), a, b, "a.example");
	struct hark_tls_info info;
	CHECK_INT(hark_tls_info(p.b, &info), 0);
	CHECK_INT(strcmp(info.version, "TLSv1.2"), 0);
	CHECK_HAS(info.cipher, "ECDHE-ECDSA-AES256-GCM");
	pair_drop(&p);
	hark_tls_free(a);
	a = settings_of(old);
	SSL_CTX *ctx = a->settings->contexts[0].ctx;
	SSL_CTX_set_max_proto_version(ctx, TLS1_2_VERSION);
	CHECK_INT(SSL_CTX_set_cipher_list(ctx, "ECDHE-ECDSA-AES128-SHA"), 1);
	p = tcp_pair();
	sa = (struct shaking){.c = p.a, .t = a, .name = "a.example"};
	sb = (struct shaking){.c = p.b, .t = b};
	shake_both(&sa, &sb);
	CHECK_INT(sb.got, -EPROTO);
	CHECK_HAS(sb.why.text, "no shared cipher");
	CHECK_HAS(sa.why.text, "the peer's alert: handshake failure");
	pair_drop(&p);
	hark_tls_free(a);
	hark_tls_free(b);
}

int main(int argc, char *argv[])
{
	const struct CMUnitTest tests[] = {
		EVERYWHERE_AT_ONCE(a_servers_certificate_must_be_for_its_name_in_time_and_vouched_for),
		EVERYWHERE_AT_ONCE(an_authority_needs_no_other_above_it),
		EVERYWHERE(a_name_that_begins_with_a_dot_is_none),
		EVERYWHERE_AT_ONCE(the_certificate_is_chosen_by_the_name_that_is_asked_for),
		EVERYWHERE_AT_ONCE(of_certificates_for_the_same_names_the_client_takes_what_it_can),
		EVERYWHERE_AT_ONCE(of_certificates_for_overlapping_names_the_client_takes_what_it_can),
		EVERYWHERE_AT_ONCE(clients_show_the_certificate_that_is_required_of_them),
		EVERYWHERE_AT_ONCE(a_certificate_that_is_revoked_is_refused),
		EVERYWHERE_AT_ONCE(a_list_that_is_not_there_or_not_in_force_is_told_with_whose_it_is),
		EVERYWHERE_AT_ONCE(the_application_protocol_is_the_servers_first_that_the_client_has),
		EVERYWHERE_AT_ONCE(versions_below_the_lowest_are_refused),
	};
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, make_certs, NULL);
}
