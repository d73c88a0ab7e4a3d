/* One connection over TLS that carries much, one way: load_tls_bulk --bytes N [--receive] [--bare] ADDRESS.
 *
 * Through a relay to peer_bulk, which is told in a head what is to come: who sends is answered by a byte when all has
 * arrived. --bare: the service itself is told nothing: what is sent ends by close_notify, and the service's end says
 * that it has all; what is received is enough once N bytes have come. The handshake is not measured.
 *
 * A blocking socket, many records a system call: the client has to be cheaper than the server. One thread. */
#include "client.h"
#include "peer_bulk.h"
#include "tls_client.h"

#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <openssl/bio.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define CHUNK 262144u /* bytes */

static struct {
	struct sockaddr_in address;
	struct usage_subject subject;
	uint64_t bytes;
	bool receive;
	bool bare;
} option = {.subject = {.core = -1}, .bytes = 1u << 30};

static char chunk[CHUNK];

_Noreturn static void give_up(const char *doing)
{
	(void)fprintf(stderr, "load_tls_bulk: %s: %s\n", doing, tls_why());
	exit(1);
}

static void send_all(SSL *ssl, const void *bytes, size_t len)
{
	size_t n;

	for (const char *at = bytes; len > 0; at += n, len -= n)
		if (SSL_write_ex(ssl, at, len, &n) != 1)
			give_up("send");
}

static void flush(SSL *ssl)
{
	if (BIO_flush(SSL_get_wbio(ssl)) != 1)
		give_up("send");
}

static void send_much(SSL *ssl)
{
	size_t n;

	for (uint64_t left = option.bytes; left > 0; left -= n) {
		n = left < CHUNK ? (size_t)left : CHUNK;
		send_all(ssl, chunk, n);
	}
	if (option.bare)
		(void)SSL_shutdown(ssl);
	flush(ssl);
	int r = SSL_read_ex(ssl, chunk, CHUNK, &n);
	if (r == 1 ? option.bare : !option.bare || SSL_get_error(ssl, r) != SSL_ERROR_ZERO_RETURN)
		give_up("the answer");
}

static void receive_much(SSL *ssl)
{
	size_t n;

	for (uint64_t left = option.bytes; left > 0; left -= n < left ? n : left)
		if (SSL_read_ex(ssl, chunk, CHUNK, &n) != 1)
			give_up("receive");
}

static SSL *connect_to(SSL_CTX *ctx, struct tls *t)
{
	int fd = client_connect(&option.address, 0);
	struct pollfd p = {.fd = fd, .events = POLLOUT};

	if (fd < 0 || poll(&p, 1, 10000) != 1 || fcntl(fd, F_SETFL, 0) < 0)
		give_up("connect");
	tls_begin(t, ctx, fd);
	if (tls_shake(t) != TLS_DONE)
		give_up("handshake");
	BIO *buffer = BIO_new(BIO_f_buffer());
	if (buffer == NULL || BIO_set_write_buffer_size(buffer, CHUNK) != 1)
		give_up("connect");
	BIO *socket = SSL_get_rbio(t->ssl);
	(void)BIO_up_ref(socket);
	SSL_set0_wbio(t->ssl, BIO_push(buffer, socket));
	return t->ssl;
}

static void read_options(int argc, char **argv)
{
	static const struct option longs[] = {
		{"bytes", required_argument, NULL, 'n'},
		{"receive", no_argument, NULL, 'r'},
		{"bare", no_argument, NULL, 'B'},
		{"server-pid", required_argument, NULL, 'p'},
		{"server-core", required_argument, NULL, 'C'},
		{"backend-pid", required_argument, NULL, 'b'},
		{0},
	};

	for (int o; (o = getopt_long(argc, argv, "n:p:", longs, NULL)) != -1;) {
		switch (o) {
		case 'n': option.bytes = client_number("--bytes", optarg, 1, 1u << 31); break;
		case 'r': option.receive = true; break;
		case 'B': option.bare = true; break;
		default:
			if (!client_subject_option(o, optarg, &option.subject))
				client_usage("load_tls_bulk", "unknown option");
		}
	}
	client_operand(argc, argv, "load_tls_bulk", 443, &option.address);
}

int main(int argc, char **argv)
{
	struct usage before, after, u;
	struct tls t = {0};

	read_options(argc, argv);
	SSL *ssl = connect_to(tls_client_settings(13, false, true), &t);
	struct bulk_head head = {.bytes = option.bytes, .peer_sends = option.receive};
	usage_read(&option.subject, &before);
	if (!option.bare)
		send_all(ssl, &head, sizeof head);
	flush(ssl);
	if (option.receive)
		receive_much(ssl);
	else
		send_much(ssl);
	usage_read(&option.subject, &after);
	u = usage_between(&before, &after);
	printf("{\"bytes\": %" PRIu64 ", \"server_s_gb\": %.4f, \"client_s_gb\": %.4f, ", option.bytes,
	       (double)u.server_ns / (double)option.bytes, (double)u.client_ns / (double)option.bytes);
	tls_print_json(ssl);
	usage_print_json(&option.subject, &u, 1);
	printf("\"seconds_gb\": %.4f}\n", (double)u.wall_ns / (double)option.bytes);
	return 0;
}
