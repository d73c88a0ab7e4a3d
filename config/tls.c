/* tls.c — a service's TLS settings become libhark's. Any process that may read the files: a worker before it becomes
 * its user, a child of harkd -t. */
#include "config.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

bool config_has_tls(const struct config_service *s)
{
	for (size_t i = 0; i < s->listen.n; i++)
		if (strncmp(s->listen.word[i], "tls:", 4) == 0)
			return true;
	return false;
}

static enum hark_tls_clients clients_of(const struct config_service *s)
{
	if (s->client_ca == NULL)
		return HARK_TLS_CLIENTS_ANY;
	return s->client_cert >= 0 ? (enum hark_tls_clients)s->client_cert : HARK_TLS_CLIENTS_REQUIRED;
}

/* into NULL: new ones, in *out. */
static int make(const struct config_service *s, const struct hark_tls_opts *more, struct hark_tls *into,
                struct hark_tls **out, struct hark_why *why)
{
	struct hark_tls_cert *certs = calloc(s->cert.n + 1, sizeof *certs);
	struct hark_tls_opts o = more != NULL ? *more : (struct hark_tls_opts){0};
	if (certs == NULL) {
		(void)snprintf(why->text, sizeof why->text, "%s", hark_strerror(ENOMEM));
		return -ENOMEM;
	}
	for (size_t i = 0; i < s->cert.n; i++)
		certs[i] = (struct hark_tls_cert){.cert = s->cert.word[i], .key = i < s->key.n ? s->key.word[i] : NULL};
	o.certs = certs;
	o.n_certs = (int)s->cert.n;
	o.clients = clients_of(s);
	o.ca = o.clients != HARK_TLS_CLIENTS_ANY ? s->client_ca : NULL;
	o.crl = o.ca != NULL ? s->client_crl : NULL;
	o.min_version = s->tls_min;
	o.alpn = s->alpn;
	o.ticket_lifetime_ns = s->tls_tickets_ns;
	o.why = why;
	int r = into != NULL ? hark_tls_reload(into, &o) : hark_tls_new(&o, out);
	free(certs);
	return r;
}

int config_tls_new(const struct config_service *s, const struct hark_tls_opts *more, struct hark_tls **out,
                   struct hark_why *why)
{
	return make(s, more, NULL, out, why);
}

int config_tls_reload(const struct config_service *s, const struct hark_tls_opts *more, struct hark_tls *t,
                      struct hark_why *why)
{
	return make(s, more, t, NULL, why);
}
