/* transport_tls.c — the transport of TLS: OpenSSL between c's buffers and its socket. See tls.h.
 *
 * What is sent is counted and lost as plain bytes: send() has them once they are encrypted; what the socket has no room
 * for is held in wire, and push() gets it out.
 *
 * The socket's end without close_notify is kept from OpenSSL, which would fail for good: our half may go on.
 *
 * Any thread, one reader and one writer. */
#include <assert.h>
#include <errno.h>
#include <limits.h>
#include <stdlib.h>

#include "base/sys.h"
#include "conn/openssl.h"
#include "conn/tls.h"
#include "loop/fiber.h"

#define RECORD_BYTES 16384u                  /* RFC 8446 section 5.1 */
#define RECORD_MORE  64u                     /* its header and tag, at most */
#define SEND_BYTES   HARK__BULK_BYTES        /* encrypted at a time */
#define WIRE_MAX     (2 * HARK__BUFFER_WIDE) /* more is a peer who has us answer and does not read */
#define OWN_MAX      64u                     /* messages of TLS's own in a row; servers send a few tickets */
#define TICKETS      2 /* after a full handshake, as OpenSSL has it; after a short one it is one */

struct hark__tls_conn *hark__conn_tls(const struct hark_conn *c)
{
	const struct hark__extra *x = hark__conn_extra(c);
	return x != NULL ? x->tls : NULL;
}

static_assert(SEND_BYTES + SEND_BYTES / RECORD_BYTES * RECORD_MORE <= HARK__BUFFER_WIDE, "wire holds one send");

/* ---- the BIO ------------------------------------------------------------------------------------------ */

static int bio_read(BIO *b, char *buf, int cap)
{
	struct hark__tls_conn *t = BIO_get_data(b);
	BIO_clear_retry_flags(b);
	if (cap <= 0)
		return 0;
	if (t->broken < 0)
		return -1; /* count_message() has ended it */
	if (hark__buffer_len(&t->early) > 0 && !t->unheard)
		return (int)hark__buffer_take(&t->early, buf, (size_t)cap);
	bool none = t->cut || t->socket_error < 0 || t->unheard;
	ssize_t n = none ? -EAGAIN : hark__transport_socket.receive(t->conn, buf, (size_t)cap);
	if (n > 0)
		return (int)n;
	if (n == 0)
		t->cut = true;
	else if (n != -EAGAIN)
		t->socket_error = (int16_t)n;
	BIO_set_retry_read(b);
	return -1;
}

/* Room in wire for n bytes, and with a first record for those that follow it. */
static int make_room(struct hark__buffer *wire, size_t n)
{
	bool first = hark__buffer_len(wire) == 0 && n > HARK__BUFFER_BYTES && n < HARK__BUFFER_WIDE;
	return hark__buffer_reserve(wire, first ? HARK__BUFFER_WIDE : n);
}

static int bio_write(BIO *b, const char *bytes, int n)
{
	struct hark__tls_conn *t = BIO_get_data(b);
	BIO_clear_retry_flags(b);
	if (n <= 0)
		return 0;
	if (hark__buffer_len(&t->wire) + (size_t)n > WIRE_MAX) {
		hark__tls_fail_as(t, -EPROTO, "the peer has TLS answer, and does not read it");
		return -1;
	}
	if (make_room(&t->wire, (size_t)n) < 0)
		return -1;
	hark__buffer_append(&t->wire, bytes, (size_t)n);
	return n;
}

static long bio_ctrl(BIO *b, int command, long n, void *arg)
{
	(void)b;
	(void)n;
	(void)arg;
	return command == BIO_CTRL_FLUSH;
}

static BIO_METHOD *make_method(void)
{
	BIO_METHOD *m = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "hark");
	if (m != NULL && BIO_meth_set_read(m, bio_read) && BIO_meth_set_write(m, bio_write) &&
	    BIO_meth_set_ctrl(m, bio_ctrl))
		return m;
	BIO_meth_free(m);
	return NULL;
}

/* Made by who first wants it, be it after somebody who lacked the memory; of several at once the first one's stays.
 * NULL: no memory. */
static const BIO_METHOD *the_method(void)
{
	static _Atomic(BIO_METHOD *) method; /* acq_rel: whoever sees it sees what it points at */
	BIO_METHOD *seen = atomic_load_explicit(&method, memory_order_acquire), *made;
	if (seen != NULL || (made = make_method()) == NULL)
		return seen;
	if (atomic_compare_exchange_strong_explicit(&method, &seen, made, memory_order_acq_rel, memory_order_acquire))
		return made;
	BIO_meth_free(made);
	return seen;
}

static BIO *new_bio(struct hark__tls_conn *t)
{
	const BIO_METHOD *method = the_method();
	BIO *b = method != NULL ? BIO_new(method) : NULL;
	if (b == NULL)
		return NULL;
	BIO_set_data(b, t);
	BIO_set_init(b, 1);
	return b;
}

/* OpenSSL goes on by itself for as long as such messages come: a peer who sends nothing else would keep it busy past
 * every deadline. */
static void count_message(int sent, int version, int type, const void *buf, size_t n, SSL *ssl, void *arg)
{
	struct hark__tls_conn *t = arg;
	(void)version;
	(void)ssl;
	if (sent || type != SSL3_RT_HANDSHAKE || n == 0)
		return;
	switch (*(const unsigned char *)buf) {
	case SSL3_MT_HELLO_REQUEST:
	case SSL3_MT_NEWSESSION_TICKET:
	case SSL3_MT_KEY_UPDATE:
		if (++t->own_messages > OWN_MAX)
			hark__tls_fail_as(t, -EPROTO, "the peer sends TLS's own messages alone");
		break;
	default: break;
	}
}

/* ---- its life ------------------------------------------------------------------------------------------- */

int hark__tls_conn_new(struct hark_conn *c, struct hark__tls_settings *s, struct hark__tls_conn **out)
{
	struct hark__tls_conn *t = hark__sys.calloc(1, sizeof *t);
	if (t == NULL)
		return -ENOMEM;
	t->conn = c;
	t->ssl = SSL_new(s->contexts[0].ctx);
	BIO *b = t->ssl != NULL && SSL_set_app_data(t->ssl, t) == 1 ? new_bio(t) : NULL;
	if (b == NULL) {
		SSL_free(t->ssl);
		free(t);
		ERR_clear_error();
		return -ENOMEM;
	}
	SSL_set_bio(t->ssl, b, b);
	SSL_set_msg_callback(t->ssl, count_message);
	SSL_set_msg_callback_arg(t->ssl, t);
	(void)pthread_mutex_init(&t->guard, NULL);
	atomic_fetch_add_explicit(&s->refs, 1, memory_order_relaxed);
	t->settings = s;
	*out = t;
	return 0;
}

void hark__tls_conn_free(struct hark__tls_conn *t)
{
	if (t == NULL)
		return;
	SSL_free(t->ssl);
	X509_free(t->at_fault);
	(void)pthread_mutex_destroy(&t->guard);
	hark__buffer_release(&t->early);
	hark__buffer_release(&t->wire);
	hark__tls_settings_release(t->settings);
	free(t->asked);
	free(t->failure);
	free(t);
}

static struct hark__tls_conn *lock(const struct hark_conn *c)
{
	struct hark__tls_conn *t = c->extra->tls;
	(void)pthread_mutex_lock(&t->guard);
	return t;
}

static void unlock(struct hark__tls_conn *t)
{
	(void)pthread_mutex_unlock(&t->guard);
}

/* ---- sending -------------------------------------------------------------------------------------------- */

int hark__tls_push(struct hark__tls_conn *t)
{
	while (hark__buffer_len(&t->wire) > 0) {
		struct iovec v = {.iov_base = hark__buffer_head(&t->wire), .iov_len = hark__buffer_len(&t->wire)};
		ssize_t n = hark__transport_socket.send(t->conn, &v, 1);
		if (n < 0)
			return (int)n;
		hark__buffer_consume(&t->wire, (size_t)n);
	}
	return 0;
}

/* Where others have the socket, too, the end is not ours to tell. */
static void say_goodbye(struct hark__tls_conn *t)
{
	if (t->said_goodbye || !t->established || t->broken < 0 || t->conn->shared)
		return;
	t->said_goodbye = true;
	ERR_clear_error();
	(void)SSL_shutdown(t->ssl);
}

/* They are made, and sent, with what is said next. Those of TLS 1.2 were part of the handshake. True: some are. */
static bool make_tickets(struct hark__tls_conn *t)
{
	int n = SSL_session_reused(t->ssl) == 1 ? 1 : TICKETS;
	bool made = false;
	t->owes_tickets = false;
	while (n-- > 0)
		made |= SSL_new_session_ticket(t->ssl) == 1;
	return made;
}

/* OpenSSL 3.0 takes a buffer to read into when it makes tickets, and gives it back only once a read finds nothing.
 * SSL_free_buffers() would free it while a record is half read, before 3.0.14 (CVE-2024-4741). */
static void give_back(struct hark__tls_conn *t)
{
	char none;
	size_t n;
	if (SSL_has_pending(t->ssl))
		return;
	t->unheard = true;
	(void)SSL_peek_ex(t->ssl, &none, sizeof none, &n);
	t->unheard = false;
}

/* Encrypts n bytes. 0 or -errno. */
static int encrypt(struct hark__tls_conn *t, const void *bytes, size_t n)
{
	size_t done;
	bool made = t->owes_tickets && make_tickets(t);
	for (const char *at = bytes; n > 0; at += done, n -= done) {
		ERR_clear_error();
		t->own_messages = 0;
		if (SSL_write_ex(t->ssl, at, n, &done) == 1)
			continue;
		hark__tls_fail(t);
		return t->broken;
	}
	if (made)
		give_back(t);
	return 0;
}

/* Small pieces are one record together: what of iov fits into it, from the first one on. */
static ssize_t encrypt_pieces(struct hark__tls_conn *t, const struct iovec *iov, int count)
{
	struct hark__buffer record = {0};
	ssize_t r = hark__buffer_reserve(&record, RECORD_BYTES);
	for (int i = 0; r == 0 && i < count && hark__buffer_len(&record) < RECORD_BYTES; i++) {
		size_t room = RECORD_BYTES - hark__buffer_len(&record);
		hark__buffer_append(&record, iov[i].iov_base, iov[i].iov_len < room ? iov[i].iov_len : room);
	}
	size_t n = hark__buffer_len(&record);
	if (r == 0)
		r = encrypt(t, hark__buffer_head(&record), n);
	hark__buffer_release(&record);
	return r < 0 ? r : (ssize_t)n;
}

static ssize_t encrypt_some(struct hark__tls_conn *t, const struct iovec *iov, int count)
{
	size_t n = iov->iov_len < SEND_BYTES ? iov->iov_len : SEND_BYTES;
	if (count > 1 && n < RECORD_BYTES)
		return encrypt_pieces(t, iov, count);
	ssize_t r = encrypt(t, iov->iov_base, n);
	if (r == 0 && count == 1 && n == iov->iov_len && t->conn->ending == HARK__ENDING)
		say_goodbye(t); /* in one send with the last bytes */
	return r < 0 ? r : (ssize_t)n;
}

static ssize_t send_some(struct hark_conn *c, const struct iovec *iov, int count)
{
	struct hark__tls_conn *t = lock(c);
	ssize_t n = t->broken < 0 ? t->broken : hark__tls_push(t);
	if (n == 0 && t->said_goodbye)
		n = -EPIPE;
	if (n == 0)
		n = encrypt_some(t, iov, count);
	if (n > 0) {
		int r = hark__tls_push(t);
		n = r < 0 && r != -EAGAIN ? r : n;
	}
	unlock(t);
	return n;
}

static int push(struct hark_conn *c)
{
	struct hark__tls_conn *t = lock(c);
	if (c->ending == HARK__ENDING)
		say_goodbye(t);
	int r = hark__tls_push(t);
	unlock(t);
	return r;
}

/* ---- receiving -------------------------------------------------------------------------------------------- */

/* What there is to say where nothing more comes. */
static ssize_t end_of(const struct hark__tls_conn *t)
{
	if (t->ended)
		return 0;
	if (t->broken < 0)
		return t->broken;
	if (t->socket_error < 0)
		return t->socket_error;
	if (t->cut)
		return t->deaf ? 0 : -ECONNRESET;
	return -EAGAIN;
}

/* Decrypts one record, or what is left of it. > 0, or as end_of(). */
static ssize_t decrypt(struct hark__tls_conn *t, void *buf, size_t cap)
{
	size_t n;
	if (t->ended || t->broken < 0)
		return end_of(t);
	ERR_clear_error();
	int r = SSL_read_ex(t->ssl, buf, cap, &n);
	if (r == 1) {
		t->own_messages = 0;
		return (ssize_t)n;
	}
	switch (SSL_get_error(t->ssl, r)) {
	case SSL_ERROR_WANT_READ:
	case SSL_ERROR_WANT_WRITE: break;
	case SSL_ERROR_ZERO_RETURN: t->ended = true; break;
	default: hark__tls_fail(t); break;
	}
	return end_of(t);
}

/* Several records, where they have come together. */
static ssize_t receive(struct hark_conn *c, void *buf, size_t cap)
{
	struct hark__tls_conn *t = lock(c);
	ssize_t n = decrypt(t, buf, cap);
	size_t done = n > 0 ? (size_t)n : 0;
	while (n > 0 && done < cap && SSL_has_pending(t->ssl)) {
		n = decrypt(t, (char *)buf + done, cap - done);
		done += n > 0 ? (size_t)n : 0;
	}
	t->more = n > 0 && SSL_has_pending(t->ssl);
	/* The end is told next, or bytes from before TLS are left: no event tells of either. */
	if ((done > 0 && n <= 0 && n != -EAGAIN) || hark__buffer_len(&t->early) > 0)
		hark__ready_set(&c->src, HARK__IN);
	if (hark__buffer_len(&t->wire) > 0)
		(void)hark__tls_push(t); /* an alert, an answer of TLS itself */
	unlock(t);
	return done > 0 ? (ssize_t)done : n;
}

static size_t pending(const struct hark_conn *c)
{
	struct hark__tls_conn *t = lock(c);
	int n = SSL_pending(t->ssl);
	if (n == 0 && t->more)
		n = 1; /* a record that is not decrypted yet */
	unlock(t);
	return (size_t)n;
}

/* ---- the end ------------------------------------------------------------------------------------------------- */

static int end(struct hark_conn *c, int directions)
{
	struct hark__tls_conn *t = lock(c);
	int r = 0;
	if (directions & HARK_OUT) {
		say_goodbye(t);
		r = hark__tls_push(t);
	}
	if (r == 0 && (directions & HARK_IN) && !t->cut) /* a stream that was cut stays so */
		t->deaf = true;
	unlock(t);
	return r < 0 ? r : hark__transport_socket.shutdown(c, directions);
}

static int unsent(const struct hark_conn *c)
{
	return hark__transport_socket.unsent(c);
}

static void reset(struct hark_conn *c)
{
	hark__transport_socket.reset(c);
}

/* c is a plain socket from here on. */
static void discard(struct hark_conn *c)
{
	struct hark__extra *x = hark__conn_extra(c);
	c->transport = HARK__SOCKET;
	hark__tls_conn_free(x->tls);
	x->tls = NULL;
}

static void close_now(struct hark_conn *c)
{
	hark__transport_socket.close(c);
}

const struct hark__transport hark__transport_tls = {
	.receive = receive,
	.pending = pending,
	.send = send_some,
	.push = push,
	.shutdown = end,
	.unsent = unsent,
	.reset = reset,
	.discard = discard,
	.close = close_now,
};
