/* soak_tls.h — TLS of the clients of a soak, by OpenSSL alone. It works in memory: what it makes goes out by the
 * connection's socket whole, or, from a hostile client, in part. One thread. */
#ifndef SOAK_TLS_H
#define SOAK_TLS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct soak_tls; /* one connection's */

/* What a server's tickets are kept in, of TLS 1.2 and 1.3. Zero: none yet. */
struct soak_sessions {
	void *newest[2];
};

/* ca: who vouches for all servers, PEM. False after telling why. */
bool soak_tls_init(const char *ca);

/* The client of a connected or connecting socket, which does not wait and stays the caller's. old: TLS 1.2. resume: by
 * the newest ticket, if there is one. s outlives it. NULL: no memory. */
struct soak_tls *soak_tls_new(int fd, struct soak_sessions *s, bool old, bool resume);
void soak_tls_free(struct soak_tls *t);

/* As send(2) and recv(2): the handshake comes before. recv's 0 is close_notify; an end without it fails. What send took
 * goes out with the next calls of whatever kind if the socket has no room. */
ssize_t soak_tls_send(struct soak_tls *t, const void *buf, size_t n);
ssize_t soak_tls_recv(struct soak_tls *t, void *buf, size_t n);

/* The next flight of the handshake, or all of it. Returns 1: it went out, or the handshake is over; 0: the socket is to
 * be waited for; -1: failed. */
int soak_tls_flight(struct soak_tls *t);
int soak_tls_handshake(struct soak_tls *t);

/* close_notify; fin: and then the socket's. 1. */
int soak_tls_half(struct soak_tls *t, bool fin);

/* For hostile clients; they return as soak_tls_flight() does.
 * part: of the next flight, or of a record of n bytes, some first bytes go out and the rest never will.
 * drip: one byte of the hello more.
 * rekey: a KeyUpdate that asks for one, in TLS 1.2 a renegotiation. */
int soak_tls_part(struct soak_tls *t, const void *buf, size_t n, uint64_t dice);
int soak_tls_drip(struct soak_tls *t);
int soak_tls_rekey(struct soak_tls *t);

/* A record that has no place anywhere, or is not well formed. */
const char *soak_tls_odd(uint64_t dice, size_t *n);

/* 1: by the ticket that was offered; 0: it was not taken; -1: none was offered. */
int soak_tls_resumed(const struct soak_tls *t);

/* Why it failed. NULL: as errno says. */
const char *soak_tls_failure(const struct soak_tls *t);

#endif
