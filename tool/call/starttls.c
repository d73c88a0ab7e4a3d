/* starttls.c — TLS under a call, whether it dials or listens.
 *
 * hark_dial() and the listener make the TCP connection alone: what the peer has shown can then be told also where its
 * certificate is refused. */
#include <errno.h>
#include <string.h>

#include "call.h"

#define GOODBYE_MAX (500 * HARK_MS) /* for the peer to read the alert before the connection is gone */

int call_starttls(const struct call *c, struct hark_conn *peer, int64_t deadline, struct hark_why *why)
{
	const char *host = strcmp(c->parsed.host, "*") == 0 ? "localhost" : c->parsed.host;
	const struct hark_starttls_opts opts = {
		.name = c->args.listen                    ? NULL
	                : c->args.tls.server_name != NULL ? c->args.tls.server_name
	                                                  : host,
		.deadline = deadline,
		.why = why,
	};

	why->text[0] = '\0';
	int err = hark_starttls(peer, c->tls_settings, &opts);
	if (err < 0 && why->text[0] == '\0')
		(void)snprintf(why->text, sizeof why->text, "TLS: %s", hark_strerror(err));
	return err;
}

int call_begin_tls(struct call *c, int64_t deadline)
{
	struct hark_why why;
	int64_t began = hark_now();
	int err = call_starttls(c, c->peer, deadline, &why);

	report_tls(c, hark_now() - began);
	if (err == 0)
		return STATUS_DONE;
	report_error(c, "%s: %s", c->address, why.text);
	hark_deadline(c->peer, hark_after(GOODBYE_MAX));
	if (err == -ETIMEDOUT)
		hark_abort(c->peer);
	else
		(void)hark_close(c->peer);
	c->peer = NULL;
	return STATUS_FAILED;
}
