/* starttls.c — the handshake: a stream becomes TLS. What was received and not read is TLS's first bytes.
 *
 * The server's tickets (RFC 8446 section 4.6.1) go in front of the first that it says. A client that only talks, and
 * leaves without reading, would have its last bytes dropped by them: the kernel answers what nobody reads with a reset.
 *
 * Fiber: may suspend. Thread: the one that owns c. */
#include <arpa/inet.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/sys.h"
#include "base/why.h"
#include "conn/openssl.h"
#include "conn/tls.h"
#include "loop/fiber.h"

/* ---- roles ------------------------------------------------------------------------------------------------ */

static bool is_ip(const char *name)
{
	unsigned char address[16];
	return inet_pton(AF_INET, name, address) == 1 || inet_pton(AF_INET6, name, address) == 1;
}

/* The name without what DNS has and certificates have not: the root's dot, an address's scope. */
static char *asked_name(const char *name)
{
	size_t n = strcspn(name, "%");
	if (n > 1 && name[n - 1] == '.')
		n--;
	char *copy = hark__sys.malloc(n + 1);
	if (copy == NULL)
		return NULL;
	memcpy(copy, name, n);
	copy[n] = '\0';
	return copy;
}

/* What DNS and TLS have as one; to OpenSSL one that begins with a dot would be any below it. */
static bool can_be_asked(const char *name)
{
	for (const char *p = name; *p != '\0'; p++)
		if (*p <= ' ' || *p > '~')
			return false;
	return name[0] != '\0' && name[0] != '.';
}

/* Whom we ask for, and who it must be. */
static int be_client(struct hark__tls_conn *t, const char *name)
{
	X509_VERIFY_PARAM *param = SSL_get0_param(t->ssl);
	t->is_client = true;
	SSL_set_connect_state(t->ssl);
	SSL_set_verify(t->ssl, t->settings->insecure ? SSL_VERIFY_NONE : SSL_VERIFY_PEER, hark__tls_verified);
	t->asked = asked_name(name);
	if (t->asked == NULL)
		return -ENOMEM;
	if (!can_be_asked(t->asked))
		return -EINVAL;
	X509_VERIFY_PARAM_set_hostflags(param, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
	bool ip = is_ip(t->asked);
	bool done = ip ? X509_VERIFY_PARAM_set1_ip_asc(param, t->asked) == 1
	               : X509_VERIFY_PARAM_set1_host(param, t->asked, 0) == 1 &&
	                            SSL_set_tlsext_host_name(t->ssl, t->asked) == 1;
	return done ? 0 : -EINVAL;
}

static void be_server(struct hark__tls_conn *t)
{
	const struct hark__tls_settings *s = t->settings;
	struct hark_ticket_key key;
	int verify = s->clients == HARK_TLS_CLIENTS_ANY        ? SSL_VERIFY_NONE
	             : s->clients == HARK_TLS_CLIENTS_OPTIONAL ? SSL_VERIFY_PEER
	                                                       : SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT;
	SSL_set_accept_state(t->ssl);
	SSL_set_verify(t->ssl, verify, hark__tls_verified);
	(void)SSL_set_num_tickets(t->ssl, 0);
	t->owes_tickets = s->ticket_key == NULL || s->ticket_key(NULL, &key, s->ticket_arg) >= 0;
	if (!t->owes_tickets)
		(void)SSL_set_options(t->ssl, SSL_OP_NO_TICKET);
	OPENSSL_cleanse(&key, sizeof key);
}

/* ---- the handshake ---------------------------------------------------------------------------------------- */

/* The socket's end or failure in the midst. */
static int fail_by_socket(struct hark__tls_conn *t)
{
	if (t->socket_error < 0)
		hark__tls_fail_as(t, t->socket_error, "the handshake: %s", hark_strerror(t->socket_error));
	else
		hark__tls_fail_as(t, -ECONNRESET, "the peer ended in the midst of the handshake");
	return t->broken;
}

/* One step, without waiting. 0: done; -EAGAIN: wait for *events; else it has failed, and the alert is sent. */
static int step(struct hark__tls_conn *t, unsigned *events)
{
	ERR_clear_error();
	int r = SSL_do_handshake(t->ssl), err = r == 1 ? SSL_ERROR_NONE : SSL_get_error(t->ssl, r);
	if (err == SSL_ERROR_ZERO_RETURN)
		return fail_by_socket(t); /* its close_notify */
	if (r != 1 && err != SSL_ERROR_WANT_READ)
		hark__tls_fail(t);
	int pushed = hark__tls_push(t);
	if (t->broken < 0)
		return t->broken;
	if (pushed < 0 && pushed != -EAGAIN) {
		t->socket_error = (int16_t)pushed;
		return fail_by_socket(t);
	}
	if (r == 1)
		return 0;
	if (t->socket_error < 0 || t->cut)
		return fail_by_socket(t);
	*events = HARK__IN | (pushed == -EAGAIN ? HARK__OUT : 0);
	return -EAGAIN;
}

static int shake(struct hark__tls_conn *t, int64_t deadline)
{
	struct hark_conn *c = t->conn;
	unsigned events = HARK__IN;
	for (;;) {
		(void)pthread_mutex_lock(&t->guard);
		int r = step(t, &events);
		t->established = r == 0;
		/* What came behind the client's last message is here, and no event tells of it. */
		t->more = r == 0 && (SSL_has_pending(t->ssl) || hark__buffer_len(&t->early) > 0);
		(void)pthread_mutex_unlock(&t->guard);
		int others = hark__fair();
		if (r != -EAGAIN)
			return r;
		int64_t until = hark__conn_until(c, HARK__IN);
		until = until < deadline ? until : deadline;
		if (others == 0 && hark_now() >= until)
			others = -ETIMEDOUT;
		if (events & HARK__OUT)
			hark__ready_clear(&c->src, HARK__OUT);
		r = others < 0 ? others : hark__wait_one(&c->src, events, until, "TLS handshake");
		if (r < 0) {
			hark__tls_fail_as(t, r, "the handshake: %s", hark_strerror(r));
			return r;
		}
	}
}

/* ---- its beginning ---------------------------------------------------------------------------------------- */

static int attach(struct hark_conn *c, struct hark__tls_settings *s, const char *name, struct hark__tls_conn **out)
{
	struct hark__extra *x;
	int r = name == NULL && s->n_certs == 0 ? -EINVAL : hark__extra_make(c, &x);
	if (r == 0)
		r = hark__tls_conn_new(c, s, out);
	if (r < 0)
		return r;
	if (name == NULL)
		be_server(*out);
	else
		r = be_client(*out, name);
	if (r < 0) {
		hark__tls_conn_free(*out);
		return r;
	}
	c->bytes_in -= hark__buffer_len(&c->in); /* counted as what it says, once that is read */
	(*out)->early = c->in;
	(*out)->cut = c->eof;
	c->in = (struct hark__buffer){0};
	x->tls = *out;
	c->transport = HARK__TLS;
	return 0;
}

/* With both roles. */
static int start(struct hark_conn *c, struct hark_tls *tls, const struct hark_starttls_opts *o)
{
	struct hark__tls_settings *s;
	struct hark__tls_conn *t;
	int64_t deadline = o->deadline != 0 ? o->deadline : hark_after(HARK__TLS_HANDSHAKE_NS);
	int r = hark__tls_settings(tls, &s, o->why);
	if (r < 0)
		return r;
	r = c->ending != HARK__OPEN ? -EPIPE : hark__conn_flush(c);
	if (r == 0)
		r = attach(c, s, o->name, &t);
	hark__tls_settings_release(s);
	if (r < 0) {
		bool none = r == -EINVAL && o->name == NULL;
		hark__why(o->why, "TLS: %s",
		          none           ? "the settings have no certificate"
		          : r == -EINVAL ? "the server's name is none that TLS can ask for"
		                         : hark_strerror(r));
		return r;
	}
	r = shake(t, deadline);
	X509_free(t->at_fault);
	t->at_fault = NULL;
	if (r < 0)
		hark__why(o->why, "%s", t->failure != NULL ? t->failure : hark_strerror(r));
	return r;
}

int hark_starttls(struct hark_conn *c, struct hark_tls *tls, const struct hark_starttls_opts *opts)
{
	static const struct hark_starttls_opts defaults;
	const struct hark_starttls_opts *o = opts != NULL ? opts : &defaults;
	int r = c->datagrams || c->transport == HARK__FILE ? -EOPNOTSUPP
	        : hark__conn_tls(c) != NULL                ? -EALREADY
	                                                   : hark__conn_over(c);
	if (r == 0 && !hark__conn_take_both(c))
		r = -EBUSY;
	if (r < 0) {
		hark__why(o->why, "TLS: %s", hark_strerror(r));
		return r;
	}
	r = start(c, tls, o);
	hark__conn_end(c, &c->writing);
	hark__conn_end(c, &c->reading);
	return r;
}

bool hark_tls_due(const struct hark_conn *c)
{
	return c->tls_due && hark__conn_tls(c) == NULL;
}
