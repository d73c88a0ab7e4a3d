/* relay_tls.c — a relay's targets at tls:// addresses: TCP, then TLS as a client, the server's certificate verified
 * unless --insecure says not to. Any model. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "options.h"
#include "relay.h"
#include "table.h"

static bool any(const struct relay *x)
{
	for (int i = 0; i < x->n; i++)
		if (x->targets[i].tls)
			return true;
	return false;
}

int relay_tls_check(const struct relay *x, struct hark_why *why)
{
	const struct {
		const char *name;
		bool given;
	} all[] = {
		{"ca", x->ca != NULL},
		{"insecure", x->insecure},
		{"server-name", x->server_name != NULL},
		{"target-cert", x->target_cert != NULL},
		{"target-key", x->target_key != NULL},
		{"target-alpn", x->target_alpn != NULL},
	};
	bool tls = any(x);
	for (size_t i = 0; i < sizeof all / sizeof *all; i++)
		if (all[i].given && !tls)
			return box_why(why, -EINVAL, "--%s is for tls:// addresses, and there is none", all[i].name);
	if (x->insecure && x->ca != NULL)
		return box_why(why, -EINVAL, "--ca has nobody to vouch for with --insecure: one of them");
	if (x->target_key != NULL && x->target_cert == NULL)
		return box_why(why, -EINVAL, "--target-key goes with --target-cert");
	return 0;
}

int relay_tls_open(struct relay *x, struct hark_why *why)
{
	const struct hark_tls_cert own = {.cert = x->target_cert, .key = x->target_key};
	const struct hark_tls_opts opts = {
		.certs = &own,
		.n_certs = x->target_cert != NULL,
		.ca = x->ca,
		.insecure = x->insecure,
		.alpn = x->target_alpn,
		.why = why,
	};
	if (!any(x))
		return 0;
	return x->tls != NULL ? hark_tls_reload(x->tls, &opts) : hark_tls_new(&opts, &x->tls);
}

void relay_tls_plain(const char *address, char out[HARK_ADDRESS_MAX])
{
	(void)snprintf(out, HARK_ADDRESS_MAX, "tcp%s", strchr(address, ':'));
}

int relay_tls_begin(const struct relay *x, const struct relay_target *t, struct hark_conn *target, int64_t deadline)
{
	struct hark_address a;
	int r = hark_address_parse(t->address, &a, NULL);
	const struct hark_starttls_opts opts = {
		.name = x->server_name != NULL ? x->server_name : a.host,
		.deadline = deadline,
	};
	return r < 0 ? r : hark_starttls(target, x->tls, &opts);
}
