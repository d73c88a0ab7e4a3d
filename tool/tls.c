/* tls.c — see tls.h. Main thread: settings; any fiber: the rest. */
#include "tls.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "text.h"

#define DAY_S (24 * 3600)

/* ---- settings ---------------------------------------------------------------------------------- */

/* The first option of these that is given; NULL: none is. */
static const char *given(const struct tls_args *a)
{
	return a->ca != NULL            ? "--ca"
	       : a->cert != NULL        ? "--cert"
	       : a->key != NULL         ? "--key"
	       : a->alpn != NULL        ? "--alpn"
	       : a->server_name != NULL ? "--server-name"
	       : a->insecure            ? "--insecure"
	                                : NULL;
}

static const char *mistake(const struct tls_args *a, bool server)
{
	return a->key != NULL && a->cert == NULL  ? "--key goes with --cert"
	       : server && a->cert == NULL        ? "to listen at tls:// needs --cert"
	       : server && a->insecure            ? "--insecure is for calling: clients are verified by --ca"
	       : server && a->server_name != NULL ? "--server-name is for calling"
	                                          : NULL;
}

static int make(const struct verb *v, const struct tls_args *a, bool server, struct hark_tls **out)
{
	const struct hark_tls_cert cert = {.cert = a->cert, .key = a->key};
	struct hark_why why = {""};
	const struct hark_tls_opts opts = {
		.certs = &cert,
		.n_certs = a->cert != NULL ? 1 : 0,
		.ca = a->ca,
		.clients = server && a->ca != NULL ? HARK_TLS_CLIENTS_REQUIRED : HARK_TLS_CLIENTS_ANY,
		.insecure = a->insecure,
		.alpn = a->alpn,
		.why = &why,
	};
	int err = hark_tls_new(&opts, out);

	if (err == 0)
		return 0;
	say(v, "%s", why.text[0] != '\0' ? why.text : hark_strerror(err));
	return err == -ENOMEM || err == -EMFILE || err == -ENFILE || err == -ENOPKG ? STATUS_SYSTEM : STATUS_USAGE;
}

int tls_settings(const struct verb *v, const struct tls_args *args, bool used, bool server, struct hark_tls **out)
{
	const char *option = given(args), *wrong = mistake(args, used && server);
	char text[64];

	*out = NULL;
	if (!used && option != NULL) {
		(void)snprintf(text, sizeof text, "%s goes with an address at tls://", option);
		wrong = text;
	}
	if (wrong != NULL)
		return options_usage(v, wrong);
	/* The server's name alone is asked for as one dials. */
	bool needed = args->ca != NULL || args->cert != NULL || args->alpn != NULL || args->insecure;
	return needed ? make(v, args, server, out) : 0;
}

void tls_rename(char *address)
{
	const char *rest = strchr(address, ':');

	if (rest == NULL || rest - address < 3)
		return;
	memmove(address + 3, rest, strlen(rest) + 1);
	memcpy(address, "tls", 3);
}

/* ---- facts --------------------------------------------------------------------------------------- */

struct tls_facts *tls_facts(const struct hark_conn *c)
{
	struct tls_facts *f = calloc(1, sizeof *f);

	if (f == NULL)
		return NULL;
	f->established = hark_tls_info(c, &f->info) == 0;
	while (f->n < TLS_CHAIN_MAX && hark_tls_peer(c, f->n, &f->chain[f->n]) == 0)
		f->n++;
	f->count = f->n > 0 ? f->chain[0].count : 0;
	if (f->established || f->n > 0)
		return f;
	free(f);
	return NULL;
}

static const char *when(int64_t seconds, const char *format, char buf[32])
{
	time_t t = (time_t)seconds;
	struct tm tm;

	if (gmtime_r(&t, &tm) == NULL || strftime(buf, 32, format, &tm) == 0)
		(void)snprintf(buf, 32, "?");
	return buf;
}

#define FOR_PEOPLE   "%Y-%m-%d %H:%M UTC"
#define FOR_MACHINES "%Y-%m-%dT%H:%M:%SZ" /* RFC 3339 */

/* ---- in words -------------------------------------------------------------------------------------- */

static void say_validity(const struct verb *v, const struct hark_certificate *c)
{
	char from[32], to[32], left[48];
	int64_t now = (int64_t)time(NULL), days = (c->not_after - now) / DAY_S;

	if (now > c->not_after)
		(void)snprintf(left, sizeof left, "expired");
	else if (now < c->not_before)
		(void)snprintf(left, sizeof left, "not yet valid");
	else
		(void)snprintf(left, sizeof left, "%lld %s left", (long long)days, days == 1 ? "day" : "days");
	say(v, "  valid: %s to %s (%s)", when(c->not_before, FOR_PEOPLE, from), when(c->not_after, FOR_PEOPLE, to),
	    left);
}

static void say_chain(const struct verb *v, const struct tls_facts *f)
{
	for (int i = 0; i < f->n; i++) {
		const struct hark_certificate *c = &f->chain[i];
		say(v, "certificate %d of %d: %s", i + 1, f->count, c->subject[0] != '\0' ? c->subject : "no subject");
		say(v, "  issuer: %s", c->issuer);
		if (c->names[0] != '\0')
			say(v, "  names: %s", c->names);
		say_validity(v, c);
		say(v, "  key: %s", c->key);
	}
	if (f->count > f->n)
		say(v, "and %d more", f->count - f->n);
}

void tls_say(const struct verb *v, const struct tls_facts *f)
{
	const struct hark_tls_info *i = &f->info;

	if (f->established) {
		say(v, "version: %s", i->version);
		say(v, "cipher: %s", i->cipher);
		if (i->group[0] != '\0')
			say(v, "group: %s", i->group);
		if (i->name[0] != '\0')
			say(v, "server name: %s", i->name);
		say(v, "ALPN: %s", i->alpn[0] != '\0' ? i->alpn : "nothing agreed on");
		say(v, "session: %s", i->resumed ? "resumed" : "new");
		say(v, "peer's certificate: %s%s",
		    i->verified         ? "verified"
		    : i->why[0] != '\0' ? "not verified: "
		    : f->count > 0      ? "not verified"
		                        : "none",
		    i->why);
	}
	say_chain(v, f);
}

void tls_brief(const struct tls_facts *f, char *buf, size_t cap)
{
	char to[32];

	if (f->n == 0)
		(void)snprintf(buf, cap, "%s", f->info.version);
	else
		(void)snprintf(buf, cap, "%s, %s, until %s", f->info.version, f->chain[0].subject,
		               when(f->chain[0].not_after, FOR_PEOPLE, to));
}

/* ---- as JSON ----------------------------------------------------------------------------------------- */

void tls_put_names(struct json *j, const char *names)
{
	json_open(j, "names", '[');
	for (size_t n; (names += strspn(names, " "))[0] != '\0'; names += n) {
		n = strcspn(names, " ");
		json_put_bytes(j, NULL, names, n);
	}
	json_close(j, ']');
}

static void put_chain(struct json *j, const struct tls_facts *f)
{
	char buf[32];

	json_open(j, "chain", '[');
	for (int i = 0; i < f->n; i++) {
		const struct hark_certificate *c = &f->chain[i];
		json_open(j, NULL, '{');
		json_put_string(j, "subject", c->subject);
		json_put_string(j, "issuer", c->issuer);
		tls_put_names(j, c->names);
		json_put_string(j, "not_before", when(c->not_before, FOR_MACHINES, buf));
		json_put_string(j, "not_after", when(c->not_after, FOR_MACHINES, buf));
		json_put_string(j, "key", c->key);
		json_put_string(j, "serial", c->serial);
		json_put_string(j, "sha256", c->sha256);
		json_close(j, '}');
	}
	json_close(j, ']');
	json_put_int(j, "certificates", f->count);
}

static const char *or_null(const char *text)
{
	return text[0] != '\0' ? text : NULL;
}

void tls_put(struct json *j, const struct tls_facts *f)
{
	const struct hark_tls_info *i = &f->info;

	if (f->established) {
		json_put_string(j, "version", i->version);
		json_put_string(j, "cipher", i->cipher);
		json_put_string(j, "group", or_null(i->group));
		json_put_string(j, "server_name", or_null(i->name));
		json_put_string(j, "alpn", or_null(i->alpn));
		json_put_bool(j, "resumed", i->resumed);
		json_put_bool(j, "verified", i->verified);
		json_put_string(j, "not_verified", or_null(i->why));
	}
	put_chain(j, f);
}
