/* certs_shown.h — which certificates a service's workers have: told by them in memory that they share with the
 * supervisor (memory.h), which never reads the files. Public facts alone. What is read of them is bounded, as a worker
 * may have been taken over. */
#ifndef CERTS_SHOWN_H
#define CERTS_SHOWN_H

#include <stdatomic.h>
#include <stdint.h>

#include "config.h"

#define CERTS_SHOWN_MAX 32

struct cert_shown {
	char file[256], subject[128], names[256];
	int64_t not_before, not_after; /* time(2) */
};

struct certs_shown {
	atomic_uint n;
	struct cert_shown cert[CERTS_SHOWN_MAX];
};

/* A worker serves with these. */
void certs_show(struct certs_shown *to, const struct config_service *conf, struct hark_tls *tls);

/* The ith, with an end to each text; false: there is none. */
bool certs_shown_get(const struct certs_shown *from, unsigned i, struct cert_shown *out);

enum cert_age { CERT_FRESH = 0, CERT_DUE, CERT_EXPIRED };

/* DUE: no more than a third of its lifetime is left. */
enum cert_age cert_age(const struct cert_shown *c, int64_t now);

#endif
