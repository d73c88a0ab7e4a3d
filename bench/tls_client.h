/* What the load generators over TLS share: settings, a connection's beginning and end, and sessions to resume.
 *
 * OpenSSL over a non-blocking socket. One thread. */
#ifndef BENCH_TLS_CLIENT_H
#define BENCH_TLS_CLIENT_H

#include <netinet/in.h>
#include <openssl/ssl.h>
#include <stdbool.h>

enum tls_state { TLS_DONE, TLS_WAITS, TLS_ENDED, TLS_FAILED };

/* A connection's TLS. session: the last one that its server gave, kept over connections. */
struct tls {
	SSL *ssl;
	SSL_SESSION *session;
};

/* One version, 12 or 13; AES-256-GCM; X25519, and P-256 because TLS 1.2 wants a certificate's group named. keeps:
 * sessions are kept in struct tls. batch: many records a system call are received. Ends the program if OpenSSL has no
 * such settings. The server's certificate is taken as it is, and of its ECDSA signatures only the first one is
 * verified: that costs three times as much as making it, and the client would be what is measured. */
SSL_CTX *tls_client_settings(unsigned version, bool keeps, bool batch);

/* TLS over fd, which stays the caller's; resumes t->session if there is one. Ends the program without memory. */
void tls_begin(struct tls *t, SSL_CTX *ctx, int fd);

/* Steps that do not wait: TLS_WAITS until the socket is ready. Sizes are those of SSL_read(3). */
enum tls_state tls_shake(struct tls *t);
enum tls_state tls_read(struct tls *t, void *buf, size_t cap, size_t *n);
enum tls_state tls_write(struct tls *t, const void *buf, size_t len, size_t *n);

/* Frees it without a word to the server; the session stays resumable. */
void tls_end(struct tls *t);

/* Why the last step failed. */
const char *tls_why(void);

/* JSON members of what was agreed on, each followed by a comma. */
void tls_print_json(const SSL *ssl);

/* The version an operand means. Ends the program if it is none. */
unsigned tls_version(const char *text);

#endif
