/* certs_shown.c — see certs_shown.h. Workers of one service write the same; one that is read half is harmless. */
#include "certs_shown.h"

#include <stdio.h>
#include <string.h>

void certs_show(struct certs_shown *to, const struct config_service *conf, struct hark_tls *tls)
{
	struct hark_certificate c;
	unsigned n = 0;
	for (; n < conf->cert.n && n < CERTS_SHOWN_MAX && hark_tls_own(tls, (int)n, 0, &c) == 0; n++) {
		struct cert_shown *s = &to->cert[n];
		(void)snprintf(s->file, sizeof s->file, "%s", conf->cert.word[n]);
		(void)snprintf(s->subject, sizeof s->subject, "%.127s", c.subject);
		(void)snprintf(s->names, sizeof s->names, "%.255s", c.names);
		s->not_before = c.not_before;
		s->not_after = c.not_after;
	}
	atomic_store(&to->n, n);
}

bool certs_shown_get(const struct certs_shown *from, unsigned i, struct cert_shown *out)
{
	unsigned n = atomic_load(&from->n);
	if (i >= n || i >= CERTS_SHOWN_MAX)
		return false;
	memcpy(out, &from->cert[i], sizeof *out);
	out->file[sizeof out->file - 1] = out->subject[sizeof out->subject - 1] = out->names[sizeof out->names - 1] =
		'\0';
	return true;
}

enum cert_age cert_age(const struct cert_shown *c, int64_t now)
{
	if (now >= c->not_after)
		return CERT_EXPIRED;
	return (double)c->not_after - (double)now <= ((double)c->not_after - (double)c->not_before) / 3 ? CERT_DUE
	                                                                                                : CERT_FRESH;
}
