/* The floor under every TLS server of OpenSSL's: the server's part of a handshake, between two buffers in memory; no
 * socket, no certificate's file, no answer.
 *
 *   tls_floor --version 1.3 [--resume] CERTIFICATE KEY
 *
 * The settings are those of the servers (tls.py). The CPU time of the server's calls alone is counted, by two looks at
 * the thread's clock around each. One thread. */
#include "client.h"
#include "tls_client.h"
#include "usage.h"

#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <time.h>

#define CIPHERS   "ECDHE+AESGCM:ECDHE+CHACHA20:!aNULL"
#define STEPS_MAX 10 /* of a handshake */

static struct {
	unsigned version;
	double warm_seconds;
	double seconds;
	bool resume;
} option = {.version = 13, .warm_seconds = 0.05, .seconds = 1};

static int64_t cpu_ns(void)
{
	struct timespec t;

	(void)clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static SSL_CTX *server_settings(const char *cert, const char *key)
{
	SSL_CTX *ctx = SSL_CTX_new(TLS_server_method());

	if (ctx == NULL || SSL_CTX_use_certificate_chain_file(ctx, cert) != 1 ||
	    SSL_CTX_use_PrivateKey_file(ctx, key, SSL_FILETYPE_PEM) != 1 || SSL_CTX_set_cipher_list(ctx, CIPHERS) != 1)
		client_usage("tls_floor", "no such certificate");
	(void)SSL_CTX_set_options(ctx, SSL_OP_CIPHER_SERVER_PREFERENCE);
	(void)SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
	return ctx;
}

/* Returns the server's CPU time. Ends the program if it fails. */
static int64_t handshake(SSL_CTX *server_ctx, SSL_CTX *client_ctx, struct tls *client)
{
	int64_t spent = -cpu_ns();
	BIO *up = BIO_new(BIO_s_mem()), *down = BIO_new(BIO_s_mem());
	SSL *server = SSL_new(server_ctx);
	bool again = option.resume && client->session != NULL;
	size_t n;
	char byte;

	if (up == NULL || down == NULL || server == NULL)
		client_usage("tls_floor", "out of memory");
	SSL_set_bio(server, up, down);
	SSL_set_accept_state(server);
	spent += cpu_ns();
	tls_begin(client, client_ctx, -1);
	(void)BIO_up_ref(up);
	(void)BIO_up_ref(down);
	SSL_set_bio(client->ssl, down, up);
	enum tls_state theirs = TLS_WAITS;
	int ours = 0;
	for (int i = 0; i < STEPS_MAX && (theirs != TLS_DONE || ours != 1); i++) {
		theirs = tls_shake(client);
		spent -= cpu_ns();
		ours = SSL_do_handshake(server);
		spent += cpu_ns();
	}
	(void)tls_read(client, &byte, 1, &n); /* tickets */
	if (theirs != TLS_DONE || ours != 1)
		client_usage("tls_floor", tls_why());
	if (SSL_session_reused(server) != again)
		client_usage("tls_floor", "resumption is not as it is to be");
	tls_end(client);
	spent -= cpu_ns();
	SSL_set_quiet_shutdown(server, 1);
	(void)SSL_shutdown(server);
	SSL_free(server);
	return spent + cpu_ns();
}

static void read_options(int argc, char **argv)
{
	static const struct option longs[] = {
		{"version", required_argument, NULL, 'V'},
		{"warm", required_argument, NULL, 'w'},
		{"seconds", required_argument, NULL, 'd'},
		{"resume", no_argument, NULL, 'r'},
		{0},
	};

	for (int o; (o = getopt_long(argc, argv, "w:d:", longs, NULL)) != -1;) {
		switch (o) {
		case 'V': option.version = tls_version(optarg); break;
		case 'w': option.warm_seconds = client_seconds("--warm", optarg, 60); break;
		case 'd': option.seconds = client_seconds("--seconds", optarg, 600); break;
		case 'r': option.resume = true; break;
		default: client_usage("tls_floor", "unknown option");
		}
	}
	if (optind != argc - 2)
		client_usage("tls_floor", "a certificate and its key expected, PEM");
}

int main(int argc, char **argv)
{
	struct tls client = {0};
	uint64_t done = 0;
	int64_t spent = 0;

	read_options(argc, argv);
	SSL_CTX *server_ctx = server_settings(argv[optind], argv[optind + 1]);
	SSL_CTX *client_ctx = tls_client_settings(option.version, option.resume, false);
	int64_t begin = now_ns() + (int64_t)(option.warm_seconds * 1e9);
	int64_t end = begin + (int64_t)(option.seconds * 1e9);
	for (int64_t now; (now = now_ns()) < end;) {
		int64_t one = handshake(server_ctx, client_ctx, &client);
		done += now >= begin;
		spent += now >= begin ? one : 0;
	}
	printf("{\"handshakes\": %" PRIu64 ", \"per_second\": %.1f, \"server_us_each\": %.3f}\n", done,
	       (double)done * 1e9 / (double)spent, (double)spent / 1e3 / (double)done);
	return done == 0;
}
