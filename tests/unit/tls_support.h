/* tls_support.h — what the tests of TLS share: settings, and pairs of connections with TLS between them. */
#ifndef TLS_SUPPORT_H
#define TLS_SUPPORT_H

#include "stream_support.h"

#include "tls_certs.h"

static inline struct hark_tls *settings_of(struct hark_tls_opts o)
{
	struct hark_why why = {.text = ""};
	struct hark_tls *t;
	o.why = &why;
	int r = hark_tls_new(&o, &t);
	if (r < 0)
		(void)fprintf(stderr, "settings: %s\n", why.text);
	CHECK_INT(r, 0);
	return t;
}

static inline struct hark_tls *server_settings(void)
{
	const struct hark_tls_cert certs[] = {pem_pair(&server_cert), pem_pair(&other_cert)};
	return settings_of((struct hark_tls_opts){.certs = certs, .n_certs = 2});
}

static inline struct hark_tls *client_settings(void)
{
	return settings_of((struct hark_tls_opts){.ca_pem = authority.pem});
}

/* ---- pairs: a is the client, b the server ----------------------------------------------------------------- */

struct shaking {
	struct hark_conn *c;
	struct hark_tls *t;
	const char *name; /* NULL: the server */
	int64_t deadline; /* 0: the default */
	int got;
	struct hark_why why;
};

static inline void shake_beside(void *arg)
{
	struct shaking *s = arg;
	s->got = hark_starttls(s->c, s->t,
	                       &(struct hark_starttls_opts){.name = s->name, .deadline = s->deadline, .why = &s->why});
}

/* Both at once. What each came to is in its got. */
static inline void shake_both(struct shaking *client, struct shaking *server)
{
	struct beside b;
	beside_start(&b, shake_beside, server);
	shake_beside(client);
	beside_end(&b);
}

static inline struct pair tls_over(struct pair p, struct hark_tls *client, struct hark_tls *server, const char *name)
{
	struct shaking a = {.c = p.a, .t = client, .name = name}, b = {.c = p.b, .t = server};
	shake_both(&a, &b);
	if (a.got < 0 || b.got < 0)
		(void)fprintf(stderr, "handshake: client: %s; server: %s\n", a.why.text, b.why.text);
	CHECK_INT(a.got, 0);
	CHECK_INT(b.got, 0);
	return p;
}

/* With the usual certificates. */
static inline struct pair tls_pair(void)
{
	struct hark_tls *client = client_settings(), *server = server_settings();
	struct pair p = tls_over(tcp_pair(), client, server, "a.example");
	hark_tls_free(client); /* connections hold what they need */
	hark_tls_free(server);
	return p;
}

#endif
