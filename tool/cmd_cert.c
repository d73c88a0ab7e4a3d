/* cmd_cert.c — hark cert: the certificates of a running harkd's services, and what a client would see of them: each of
 * their tls:// addresses is dialed under a name of each certificate. Or what any server shows. Main thread. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "control.h"
#include "hark.h"
#include "json.h"
#include "options.h"
#include "text.h"
#include "tls.h"
#include "tool.h"

#define TIMEOUT_DEFAULT (5 * HARK_S)
#define END_NS          (500 * HARK_MS) /* for a service to end its side in order: it logs no failure then */
#define DAY_S           (24 * 3600)
#define LINE_MAX_BYTES  8192

struct cert_args {
	struct control_args control; /* first: the rows of all control verbs are for it */
	const char *ca;
};

static const struct option_row options[] = {
	{"ca", 0, OPTION_TEXT, "FILE", "who vouches for them, PEM (the system's store)",
         offsetof(struct cert_args, ca)},
	{"json", 0, OPTION_FLAG, NULL, "a JSON object for each", CONTROL_AT(json)},
	CONTROL_PATH_ROW,
	{"timeout", 0, OPTION_DURATION, "T", "how long harkd, and each server, may take (5s)", CONTROL_AT(timeout), 1},
	{0},
};

/* What a client sees. */
struct seen {
	const char *service; /* NULL: of any server */
	const char *file;    /* NULL: not known */
	const char *address, *name;
	int error;           /* < 0: it cannot be seen */
	struct hark_why why; /* why not */
	struct hark_tls_info tls;
	struct hark_certificate leaf, top;
};

struct cert {
	const struct cert_args *args;
	struct hark_tls *tls;
	int status;
};

/* ---- looking --------------------------------------------------------------------------------------------- */

/* Takes any certificate, to tell about it: what is wrong with it is in tls. */
static void look(const struct cert *c, struct seen *s)
{
	struct hark_conn *conn;
	if (s->error < 0)
		return;
	const struct hark_dial_opts o = {.deadline = hark_after(c->args->control.timeout),
	                                 .tls = c->tls,
	                                 .tls_name = s->name,
	                                 .why = &s->why};
	s->error = hark_dial(s->address, &o, &conn);
	if (s->error < 0)
		return;
	s->error = hark_tls_info(conn, &s->tls);
	if (s->error == 0)
		s->error = hark_tls_peer(conn, 0, &s->leaf);
	if (s->error == 0 && hark_tls_peer(conn, s->leaf.count - 1, &s->top) < 0)
		s->top = s->leaf;
	hark_deadline(conn, hark_after(END_NS));
	(void)hark_close(conn);
}

/* ---- telling --------------------------------------------------------------------------------------------- */

static int64_t days_left(const struct seen *s)
{
	return (s->leaf.not_after - time(NULL)) / DAY_S;
}

static void print_text(const struct seen *s)
{
	char buf[LINE_MAX_BYTES];
	struct text t = {.buf = buf, .cap = sizeof buf};
	if (s->service != NULL)
		text_add(&t, "%s: ", s->service);
	if (s->file != NULL)
		text_add(&t, "%s, ", s->file);
	text_add(&t, "%s", s->address);
	if (s->name != NULL)
		text_add(&t, " as %s", s->name);
	text_add(&t, "\n");
	if (s->error < 0) {
		text_add(&t, "  not seen: %s\n", s->why.text[0] != '\0' ? s->why.text : hark_strerror(s->error));
	} else {
		text_add(&t, "  %s for %s, %s, issued by %s\n", s->leaf.subject,
		         s->leaf.names[0] != '\0' ? s->leaf.names : "no name", s->leaf.key, s->leaf.issuer);
		text_add(&t, "  chain of %d, up to one that %s issued; %s, %s\n", s->leaf.count, s->top.issuer,
		         s->tls.version, s->tls.cipher);
		if (s->leaf.not_after <= time(NULL))
			text_add(&t, "  has expired\n");
		else
			text_add(&t, "  expires in %" PRId64 " day%s\n", days_left(s), days_left(s) == 1 ? "" : "s");
		text_add(&t, "  %s%s\n", s->tls.verified ? "verified" : "not verified: ", s->tls.why);
	}
	for (char *at = buf, *end; *at != '\0'; at = end + 1) { /* a server may say anything */
		end = strchr(at, '\n');
		if (end == NULL)
			break;
		*end = '\0';
		char line[LINE_MAX_BYTES];
		puts(control_clean(at, line, sizeof line));
	}
}

static void print_json(const struct seen *s)
{
	struct text t = {.grows = true};
	struct json j = {.to = &t};
	bool ok = s->error == 0;
	json_open(&j, NULL, '{');
	json_put_string(&j, "service", s->service);
	json_put_string(&j, "file", s->file);
	json_put_string(&j, "address", s->address);
	json_put_string(&j, "name", s->name);
	json_put_string(&j, "error", ok ? NULL : s->why.text[0] != '\0' ? s->why.text : hark_strerror(s->error));
	json_put_string(&j, "subject", ok ? s->leaf.subject : NULL);
	json_put_string(&j, "issuer", ok ? s->leaf.issuer : NULL);
	if (ok)
		tls_put_names(&j, s->leaf.names);
	else
		json_put_null(&j, "names");
	json_put_string(&j, "serial", ok ? s->leaf.serial : NULL);
	json_put_string(&j, "sha256", ok ? s->leaf.sha256 : NULL);
	json_put_string(&j, "key", ok ? s->leaf.key : NULL);
	json_put_count(&j, "not_before", ok ? s->leaf.not_before : -1);
	json_put_count(&j, "not_after", ok ? s->leaf.not_after : -1);
	json_put_count(&j, "chain", ok ? s->leaf.count : -1);
	json_put_string(&j, "tls", ok ? s->tls.version : NULL);
	json_put_bool(&j, "verified", ok && s->tls.verified);
	json_put_string(&j, "why", ok && !s->tls.verified ? s->tls.why : NULL);
	json_close(&j, '}');
	(void)json_print(&j, stdout);
}

static void look_and_tell(struct cert *c, struct seen *s)
{
	look(c, s);
	if (s->error < 0 || !s->tls.verified)
		c->status = STATUS_FAILED;
	if (c->args->control.json)
		print_json(s);
	else
		print_text(s);
}

/* ---- a running harkd's ------------------------------------------------------------------------------------ */

/* One of the names that a client could ask for; "": the certificate has none. */
static void first_name(const char *names, char name[HARK_HOST_MAX + 1])
{
	size_t n = strcspn(names, " ");
	bool any = strncmp(names, "*.", 2) == 0;
	(void)snprintf(name, HARK_HOST_MAX + 1, "%s%.*s", any ? "www" : "", (int)(any ? n - 1 : n), names + any);
}

/* cert: one that harkd knows of; NULL: it knows of none yet, as before the first worker of a service on demand. */
static void look_by(struct cert *c, const json_t *service, const json_t *cert)
{
	const json_t *listen = json_object_get(service, "listen");
	char name[80], file[300], names[300] = "", asked[HARK_HOST_MAX + 1];
	if (cert != NULL)
		(void)control_string(cert, "names", names, sizeof names);
	first_name(names, asked);
	for (size_t k = 0; k < json_array_size(listen); k++) {
		const char *address = json_string_value(json_array_get(listen, k));
		if (address == NULL || strncmp(address, "tls:", 4) != 0)
			continue;
		struct seen s = {.service = control_string(service, "name", name, sizeof name),
		                 .file = cert != NULL ? control_string(cert, "file", file, sizeof file) : NULL,
		                 .address = address,
		                 .name = asked[0] != '\0' ? asked : NULL};
		if (json_is_true(json_object_get(service, "proxies_alone"))) {
			s.error = -EACCES;
			(void)snprintf(s.why.text, sizeof s.why.text,
			               "it takes proxies alone (proxy_from): ask for the proxy's own address");
		}
		look_and_tell(c, &s);
	}
}

static void look_at_service(struct cert *c, const json_t *service)
{
	const json_t *certs = json_object_get(service, "certificates");
	size_t n = json_array_size(certs);
	if (json_is_array(certs) && n == 0)
		look_by(c, service, NULL);
	for (size_t i = 0; i < n; i++)
		look_by(c, service, json_array_get(certs, i));
}

static int look_at_all(struct cert *c, const struct verb *self, const char *service)
{
	struct control control;
	struct control_answer answer;
	struct hark_why why = {""};
	int status = control_init(&control, &verb_status, &c->args->control, service);
	if (status != STATUS_DONE)
		return status;
	control.verb = self;
	if (control_ask(&control, &answer, &why) < 0) {
		say(self, "%s", why.text);
		return STATUS_SYSTEM;
	}
	const json_t *services = json_object_get(answer.json, "services");
	if (!answer.ok) {
		char words[300];
		say(self, "%s", control_string(answer.json, "error", words, sizeof words));
		c->status = STATUS_FAILED;
	}
	if (service != NULL && json_is_null(json_object_get(json_array_get(services, 0), "certificates"))) {
		say(self, "%s has no TLS: no address of its at tls://", service);
		c->status = STATUS_FAILED;
	}
	for (size_t i = 0; i < json_array_size(services); i++)
		look_at_service(c, json_array_get(services, i));
	control_answer_free(&answer);
	return c->status;
}

static int look_at(struct cert *c, const struct verb *self, const char *operand)
{
	char address[HARK_ADDRESS_MAX];
	struct hark_address a;
	struct hark_why why;
	bool tls = strncmp(operand, "tls://", 6) == 0;
	if (!tls && strstr(operand, "://") != NULL) {
		(void)snprintf(why.text, sizeof why.text, "%.200s: certificates are at tls:// addresses", operand);
		return options_usage(self, why.text);
	}
	(void)snprintf(address, sizeof address, "%s%s", tls ? "" : "tls://", operand);
	if (hark_address_parse(address, &a, &why) < 0)
		return options_usage(self, why.text);
	struct seen s = {.address = address};
	look_and_tell(c, &s);
	return c->status;
}

static int run(const struct verb *self, int argc, char *argv[])
{
	struct cert_args args = {.control.timeout = TIMEOUT_DEFAULT};
	struct cert c = {.args = &args};
	struct hark_why why;
	int status;
	int n = options_parse(self, argc, argv, &args, &status);

	if (n < 0)
		return status;
	if (n > 1)
		return options_usage(self, "one service, or one address, at a time");
	int err = hark_tls_new(&(struct hark_tls_opts){.ca = args.ca, .insecure = true, .why = &why}, &c.tls);
	if (err < 0) {
		say(self, "%s", why.text);
		return err == -EINVAL ? STATUS_USAGE : STATUS_SYSTEM;
	}
	status = n == 1 && strchr(argv[0], ':') != NULL ? look_at(&c, self, argv[0])
	                                                : look_at_all(&c, self, n == 1 ? argv[0] : NULL);
	hark_tls_free(c.tls);
	return status;
}

const struct verb verb_cert = {
	.name = "cert",
	.summary = "Shows the certificates of a running harkd, as a client sees them, or of any server",
	.usage = "[SERVICE | [tls://]HOST:PORT]",
	.options = options,
	.run = run,
};
