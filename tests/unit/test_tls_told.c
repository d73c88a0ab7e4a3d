/* test_tls_told.c — what is told of TLS that failed: the chain of a refused server, and why a stream ended. */
#include "tls_support.h"

static void a_refused_server_has_shown_its_chain(void)
{
	struct hark_tls *trusts_none = settings_of((struct hark_tls_opts){.ca_pem = other_cert.pem});
	struct hark_tls *server = server_settings();
	struct pair p = tcp_pair();
	struct shaking a = {.c = p.a, .t = trusts_none, .name = "a.example"}, b = {.c = p.b, .t = server};
	struct hark_certificate shown;
	struct hark_tls_info info;
	char pem[4096];
	CHECK_INT(hark_tls_peer(p.a, 0, &shown), -ENOTCONN);
	shake_both(&a, &b);
	CHECK_INT(a.got, -HARK_ECERT);
	CHECK_INT(hark_tls_info(p.a, &info), -ENOTCONN);
	CHECK_INT(hark_tls_peer(p.a, 0, &shown), 0);
	CHECK(strcmp(shown.subject, "CN=a.example") == 0);
	CHECK(strcmp(shown.issuer, "CN=hark test authority") == 0);
	CHECK_INT(shown.count, 1);
	CHECK_INT(hark_tls_peer(p.a, 1, &shown), -ENOENT);
	CHECK_INT(hark_tls_peer(p.b, 0, &shown), -ENOENT);
	CHECK_INT(hark_tls_peer_pem(p.a, 0, pem, sizeof pem), (long long)strlen(server_cert.pem));
	hark_abort(p.a);
	hark_abort(p.b);
	hark_tls_free(trusts_none);
	hark_tls_free(server);
}

static void a_cut_stream_says_so_and_an_ended_one_does_not(void)
{
	struct pair p = tls_pair();
	char buf[64];
	CHECK(hark_tls_failure(p.b) == NULL);
	CHECK_INT(shutdown(hark_fd(p.a), SHUT_WR), 0);
	CHECK_INT(hark_read(p.b, buf, sizeof buf), -ECONNRESET);
	CHECK(strstr(hark_tls_failure(p.b), "without close_notify") != NULL);
	CHECK_INT(hark_shutdown(p.b, HARK_OUT), 0);
	CHECK_INT(hark_read(p.a, buf, sizeof buf), 0);
	CHECK(hark_tls_failure(p.a) == NULL);
	hark_abort(p.a);
	hark_abort(p.b);
}

int main(int argc, char *argv[])
{
	const struct CMUnitTest tests[] = {
		EVERYWHERE(a_refused_server_has_shown_its_chain),
		EVERYWHERE(a_cut_stream_says_so_and_an_ended_one_does_not),
	};
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, make_certs, NULL);
}
