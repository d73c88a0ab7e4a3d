/* reload.c — a new configuration, by difference. A service whose effective text is the same is not touched at all; one
 * that differs gets new workers, and its old ones retire once those are ready, or go on if they fail; sockets that are
 * still wanted are never closed. Whatever can fail is done first: a file with a mistake, or an address that cannot be
 * bound, changes nothing.
 *
 * The supervisor's thread. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "import.h"
#include "json.h"
#include "log.h"
#include "supervisor.h"

struct epoch *epoch_new(struct config *c)
{
	struct epoch *e = calloc(1, sizeof *e);
	if (e == NULL) {
		config_free(c);
		return NULL;
	}
	e->config = c;
	e->refs = 1;
	return e;
}

struct epoch *epoch_hold(struct epoch *e)
{
	e->refs++;
	return e;
}

void epoch_release(struct epoch *e)
{
	if (e == NULL || --e->refs > 0)
		return;
	config_free(e->config);
	free(e);
}

static int load_inetd(const char *file, struct config **out)
{
	struct document *d = document_new();
	int r = d != NULL ? import_inetd(d, file) : -ENOMEM;
	if (r == 0)
		r = config_load_document(d, out);
	if (r >= 0 && config_warn_of_document(*out, d) < 0)
		r = -ENOMEM; /* *out has what there was memory for */
	document_free(d);
	return r;
}

int load_config(const struct supervisor *v, struct config **out)
{
	struct config *c = NULL;
	int r = v->inetd ? load_inetd(v->config_file, &c) : config_load(v->config_file, &c);
	/* An inetd.conf is served as far as it can be, as inetd does. */
	if (v->inetd && r > 0)
		r = config_skip_wrong(c);
	if (r == 0)
		r = config_check_system(c, v->epoch == NULL); /* later its worker tells: older secrets are here, too */
	if (v->inetd && r > 0)
		r = config_skip_wrong(c);
	if (c != NULL)
		*out = c;
	return r;
}

static struct service *find_service(const struct supervisor *v, const char *name)
{
	for (struct service *s = v->services; s != NULL; s = s->next)
		if (s->state != SERVICE_GONE && strcmp(s->conf->name, name) == 0)
			return s;
	return NULL;
}

static bool is_stopped(const struct supervisor *v, const char *name)
{
	const struct service *s = find_service(v, name);
	return s != NULL && s->state == SERVICE_STOPPED;
}

/* Where there is no memory to say it, it is not said. */
static void say_line(char ***lines, unsigned *n, const char *format, ...) __attribute__((format(printf, 3, 4)));

static void say_line(char ***lines, unsigned *n, const char *format, ...)
{
	va_list args;
	char **grown = realloc(*lines, (*n + 1) * sizeof(char *));
	if (grown == NULL)
		return;
	*lines = grown;
	va_start(args, format);
	*n += vasprintf(&grown[*n], format, args) >= 0;
	va_end(args);
}

/* Logged, and for who asked. */
static void say_skipped(struct reload_result *r, const char *service, const char *what)
{
	log_event(LOG_LEVEL_ERROR, service, "%s; skipped", what);
	say_line(&r->warnings, &r->n_warnings, "%s; skipped", what);
}

static void say_warning(struct reload_result *r, const char *what)
{
	log_event(LOG_LEVEL_WARNING, NULL, "%s", what);
	say_line(&r->warnings, &r->n_warnings, "%s", what);
}

/* Opens what the new configuration wants and is not open. On failure everything is as it was; of an inetd.conf the
 * service is left out. */
static int open_sockets(struct supervisor *v, const struct config *c, struct reload_result *out)
{
	struct hark_why why;
	sockets_mark(&v->sockets, c);
	for (size_t i = 0; i < c->n_services; i++) {
		struct config_service *conf = c->services[i];
		for (size_t j = 0; !conf->disabled && !is_stopped(v, conf->name) && j < conf->listen.n; j++) {
			int r = sockets_open(v, conf, j, &why);
			if (r == 0)
				continue;
			if (v->inetd && r != -ENOMEM) {
				char text[600];
				(void)snprintf(text, sizeof text, "%s:%d: %s", conf->place.file, conf->place.line,
				               why.text);
				say_skipped(out, conf->name, text);
				conf->disabled = true; /* until the next reload tries again; what it opened is swept */
				continue;
			}
			(void)snprintf(out->text, sizeof out->text, "%s:%d: %.200s", conf->place.file, conf->place.line,
			               why.text);
			if (v->epoch != NULL)
				sockets_sweep(v);
			return r;
		}
	}
	return 0;
}

static void append(struct supervisor *v, struct service *s)
{
	struct service **at = &v->services;
	while (*at != NULL)
		at = &(*at)->next;
	*at = s;
}

static bool same_log(const struct config *a, const struct config *b)
{
	return strcmp(a->log, b->log) == 0 && strcmp(a->syslog_facility, b->syslog_facility) == 0 &&
	       a->log_format == b->log_format && a->log_connections == b->log_connections;
}

/* Workers log by themselves, as it was said when they were forked, and have their certificates from then. */
static bool is_same(const struct service *s, const struct config *c, const struct config_service *conf)
{
	bool reads_later = s->state == SERVICE_STOPPED || s->state == SERVICE_WAITING;
	return strcmp(s->conf->text, conf->text) == 0 && same_log(s->epoch->config, c) &&
	       (reads_later || s->certs.read == certs_stamp(conf).hash);
}

/* An address of s is another service's now: s cannot go on as it was. */
static bool loses_address(const struct service *s, const struct config *c)
{
	for (size_t k = 0; k < c->n_services; k++)
		for (size_t i = 0; i < s->conf->listen.n; i++)
			if (!c->services[k]->disabled && strcmp(c->services[k]->name, s->conf->name) != 0 &&
			    sockets_shared(s->conf, i, c->services[k]))
				return true;
	return false;
}

static void add_error(struct reload_result *r, const char *service, const char *what)
{
	r->failed++;
	log_event(LOG_LEVEL_ERROR, service, "%s%s", r->renews ? "" : "reload: ", what);
	say_line(&r->errors, &r->n_errors, "[%s] %s", service, what);
}

static void free_lines(char ***lines, unsigned *n)
{
	for (unsigned i = 0; i < *n; i++)
		free((*lines)[i]);
	free(*lines);
	*lines = NULL;
	*n = 0;
}

void reload_free_lines(struct reload_result *r)
{
	free_lines(&r->errors, &r->n_errors);
	free_lines(&r->warnings, &r->n_warnings);
}

static void take_service(struct supervisor *v, struct epoch *e, const struct config_service *conf,
                         struct reload_result *out)
{
	struct service *s = find_service(v, conf->name);
	if (s != NULL && is_same(s, e->config, conf)) {
		out->unchanged++;
		return;
	}
	if (s != NULL) {
		out->changed++;
		service_replace(v, s, e, conf, !loses_address(s, e->config));
		return;
	}
	s = service_new(v, e, conf);
	if (s == NULL) {
		static const char why[] = "does not start: no memory or descriptors for one more service";
		if (v->epoch != NULL) {
			add_error(out, conf->name, why);
			return;
		}
		log_event(LOG_LEVEL_ERROR, conf->name, "%s", why);
		(void)snprintf(v->lacks, sizeof v->lacks, "%s", conf->name);
		return;
	}
	out->added++;
	s->settling = true;
	append(v, s);
	service_begin(v, s);
}

static bool is_removed(const struct service *s, const struct config *c)
{
	const struct config_service *conf = s->state != SERVICE_GONE ? config_find(c, s->conf->name) : NULL;
	return s->state != SERVICE_GONE && (conf == NULL || conf->disabled);
}

/* Those that are no longer there, or disabled now. */
static void remove_others(struct supervisor *v, const struct config *c, struct reload_result *out)
{
	for (struct service *s = v->services; s != NULL; s = s->next)
		if (is_removed(s, c)) {
			out->removed++;
			service_remove(v, s);
		}
}

static bool same_text(const char *a, const char *b)
{
	return a == b || (a != NULL && b != NULL && strcmp(a, b) == 0);
}

static int apply(struct supervisor *v, struct config *c, struct reload_result *out)
{
	struct hark_why why = {""};
	struct epoch *e = epoch_new(c); /* first: nothing is undone where it fails */
	if (e == NULL) {
		(void)snprintf(out->text, sizeof out->text, "%s", hark_strerror(-ENOMEM));
		return 1;
	}
	int r = open_sockets(v, c, out);
	if (r == 0 && log_open(c, &why) < 0)
		log_event(LOG_LEVEL_ERROR, NULL, "%s", why.text); /* the log that was open goes on */
	for (size_t i = 0; r == 0 && i < c->n_errors; i++)
		say_skipped(out, NULL, c->errors[i]);
	for (const struct service *s = v->services; r == 0 && s != NULL; s = s->next)
		service_hand_log(s);
	for (size_t i = 0; r == 0 && i < c->n_warnings; i++)
		say_warning(out, c->warnings[i]);
	if (r < 0 || v->epoch == NULL) /* nobody asked */
		reload_free_lines(out);
	if (r < 0) {
		epoch_release(e);
		return 1;
	}
	remove_others(v, c, out);
	for (size_t i = 0; i < c->n_services; i++)
		if (!c->services[i]->disabled)
			take_service(v, e, c->services[i], out);
	sockets_sweep(v);
	if (v->epoch != NULL && v->control_path == NULL && !same_text(v->epoch->config->control, c->control))
		log_event(LOG_LEVEL_WARNING, NULL, "the control socket moves with an upgrade, not with a reload");
	v->reloading = v->epoch != NULL; /* be it before all have started for the first time */
	v->reload = *out;
	epoch_release(v->epoch);
	v->epoch = e;
	if (v->told_ready)
		supervisor_pid_file(v);
	return 0;
}

/* A file that was truncated by accident, most likely. */
static bool ends_all(const struct supervisor *v, const struct config *c)
{
	bool some = false;
	for (size_t i = 0; i < c->n_services; i++)
		some = some || !c->services[i]->disabled;
	return !some && v->services != NULL;
}

/* In the background nobody sees our standard error. */
static void redirect_log(const struct supervisor *v, struct config *c)
{
	char *to = v->in_background && strcmp(c->log, "stderr") == 0 ? strdup("syslog") : NULL;
	if (to == NULL)
		return;
	free(c->log);
	c->log = to;
}

static int load(const struct supervisor *v, bool force, struct config **out, struct reload_result *result)
{
	*out = NULL;
	*result = (struct reload_result){0};
	int r = load_config(v, out);
	if (r == 0 && !force && ends_all(v, *out)) {
		(void)snprintf(result->text, sizeof result->text,
		               "%.150s has no services: that would end all (hark reload --force does)", v->config_file);
		config_free(*out);
		*out = NULL;
		return 1;
	}
	if (r == 0) {
		redirect_log(v, *out);
		return 0;
	}
	result->mistakes = *out;
	(void)snprintf(result->text, sizeof result->text, "%s",
	               *out != NULL && (*out)->n_errors > 0 ? (*out)->errors[0] : hark_strerror(r));
	return r < 0 ? 1 : r;
}

int reload(struct supervisor *v, bool force, struct reload_result *out)
{
	struct config *c;
	int r = load(v, force, &c, out);
	return r != 0 ? r : apply(v, c, out);
}

/* ---- what would be --------------------------------------------------------------------------- */

/* The other text has a line of the same key. */
static bool has_key(const char *other, const char *line, size_t len)
{
	size_t key = strcspn(line, " \n"), n;
	for (const char *o = other; *o != '\0'; o += n + (o[n] == '\n')) {
		n = strcspn(o, "\n");
		if (key < len && n > key && memcmp(o, line, key + 1) == 0)
			return true;
	}
	return false;
}

/* The line is "NAME = VALUE", '_' in it for each '-' of the name. */
static bool is_setting(const char *line, size_t len, const char *name, const char *value)
{
	size_t n = strlen(name);
	if (len != n + 3 + strlen(value) || strncmp(line + n, " = ", 3) != 0 ||
	    memcmp(line + n + 3, value, len - n - 3) != 0)
		return false;
	for (size_t i = 0; i < n; i++)
		if (line[i] != (name[i] == '-' ? '_' : name[i]))
			return false;
	return true;
}

static bool is_default(const char *line, size_t len, const struct config_service *conf)
{
	for (const struct config_key *k = config_keys; k->name != NULL; k++)
		if (!k->global && is_setting(line, len, k->name, k->standard))
			return true;
	for (const struct hark_option *o = conf->box->options; o != NULL && o->name != NULL; o++)
		if (is_setting(line, len, o->name,
		               o->standard != NULL           ? o->standard
		               : o->kind == HARK_OPTION_FLAG ? "no"
		                                             : "0"))
			return true;
	return false;
}

/* The service's name, which is told already; or a default that nothing else takes the place of. */
static bool says_nothing(const char *line, size_t len, const struct config_service *conf, const char *other)
{
	return len == 0 || line[0] == '[' || (is_default(line, len, conf) && !has_key(other, line, len));
}

/* The lines of conf's text that the other does not have. */
static void tell_lines(struct json *to, const struct config_service *conf, const char *other, char sign)
{
	for (const char *at = conf->text; *at != '\0';) {
		size_t len = strcspn(at, "\n");
		bool in_other = false;
		for (const char *o = other; *o != '\0' && !in_other;) {
			size_t n = strcspn(o, "\n");
			in_other = n == len && memcmp(o, at, n) == 0;
			o += n + (o[n] == '\n');
		}
		char *line = in_other || says_nothing(at, len, conf, other) ? NULL : malloc(len + 3);
		if (line != NULL) {
			(void)snprintf(line, len + 3, "%c %.*s", sign, (int)len, at);
			json_put_string(to, NULL, line);
			free(line);
		}
		at += len + (at[len] == '\n');
	}
}

/* before, after: NULL where it is added, or removed. */
static void tell_change(struct json *to, const char *change, const struct config_service *before,
                        const struct config_service *after)
{
	json_open(to, NULL, '{');
	json_put_string(to, "name", (after != NULL ? after : before)->name);
	json_put_string(to, "change", change);
	json_open(to, "lines", '[');
	if (before != NULL)
		tell_lines(to, before, after != NULL ? after->text : "", '-');
	if (after != NULL)
		tell_lines(to, after, before != NULL ? before->text : "", '+');
	json_close(to, ']');
	json_close(to, '}');
}

void reload_counts(struct json *to, const struct reload_result *r)
{
	json_put_int(to, "added", r->added);
	json_put_int(to, "changed", r->changed);
	json_put_int(to, "removed", r->removed);
	json_put_int(to, "unchanged", r->unchanged);
}

/* Addresses that could not be listened on. */
static unsigned probe_addresses(const struct supervisor *v, const struct config *c, struct reload_result *out)
{
	struct hark_why why;
	for (size_t i = 0; i < c->n_services; i++) {
		struct config_service *conf = c->services[i];
		for (size_t k = 0; !conf->disabled && !is_stopped(v, conf->name) && k < conf->listen.n; k++) {
			int r = sockets_probe(&v->sockets, conf, k, &why);
			if (r >= 0 || (r == -EAFNOSUPPORT && conf->listen.n > 1)) /* the other family serves */
				continue;
			say_line(v->inetd ? &out->warnings : &out->errors, v->inetd ? &out->n_warnings : &out->n_errors,
			         "%s:%d: %s%s", conf->place.file, conf->place.line, why.text,
			         v->inetd ? "; skipped" : "");
			conf->disabled = v->inetd;
		}
	}
	if (out->n_errors > 0)
		(void)snprintf(out->text, sizeof out->text, "%s", out->errors[0]);
	return out->n_errors;
}

int reload_compare(struct supervisor *v, struct json *to, struct reload_result *out)
{
	struct config *c;
	int r = load(v, false, &c, out);
	if (r != 0)
		return r;
	if (probe_addresses(v, c, out) > 0) {
		config_free(c);
		return (int)out->n_errors;
	}
	json_open(to, NULL, '{');
	json_put_bool(to, "ok", true);
	json_open(to, "services", '[');
	for (struct service *s = v->services; s != NULL; s = s->next)
		if (is_removed(s, c)) {
			out->removed++;
			tell_change(to, "removed", s->conf, NULL);
		}
	for (size_t i = 0; i < c->n_services; i++) {
		const struct config_service *conf = c->services[i];
		const struct service *s = conf->disabled ? NULL : find_service(v, conf->name);
		if (conf->disabled)
			continue;
		if (s != NULL && is_same(s, c, conf)) {
			out->unchanged++;
			continue;
		}
		*(s != NULL ? &out->changed : &out->added) += 1;
		tell_change(to, s != NULL ? "changed" : "added", s != NULL ? s->conf : NULL, conf);
	}
	json_close(to, ']');
	reload_counts(to, out);
	for (size_t i = 0; i < c->n_errors; i++)
		say_line(&out->warnings, &out->n_warnings, "%s; skipped", c->errors[i]);
	for (size_t i = 0; i < c->n_warnings; i++)
		say_line(&out->warnings, &out->n_warnings, "%s", c->warnings[i]);
	if (out->n_warnings > 0) {
		json_open(to, "warnings", '[');
		for (unsigned i = 0; i < out->n_warnings; i++)
			json_put_string(to, NULL, out->warnings[i]);
		json_close(to, ']');
	}
	json_close(to, '}');
	config_free(c);
	reload_free_lines(out);
	return 0;
}

/* ---- how it ends ----------------------------------------------------------------------------- */

/* False: it is not known yet how the reload came out for s. */
static bool settle(struct supervisor *v, struct service *s)
{
	char text[sizeof s->error + 40];
	int r = service_outcome(v, s);
	if (r < 0) {
		v->reload.changed--;
		add_error(&v->reload, s->conf->name, s->error);
	}
	if (r <= 0)
		return r < 0;
	if (!s->settling)
		return true;
	if (!service_settled(s))
		return false;
	s->settling = false;
	if (s->state == SERVICE_BACKING_OFF) {
		(void)snprintf(text, sizeof text, "does not start, and is tried again: %s", s->error);
		add_error(&v->reload, s->conf->name, text);
	}
	return true;
}

static void finish(struct supervisor *v)
{
	struct reload_result result = v->reload, *r = &result;
	v->reload = (struct reload_result){0};
	v->reloading = false; /* from here on there may be another one */
	if (!v->draining)
		sockets_sweep(v);
	if (v->ending)
		(void)snprintf(r->text, sizeof r->text, "given up: harkd is draining");
	if (r->renews && !v->ending)
		log_event(r->failed > 0 ? LOG_LEVEL_ERROR : LOG_LEVEL_NOTICE, NULL,
		          "certificates: read again by %u service%s, %u go%s on with the old ones", r->changed,
		          r->changed == 1 ? "" : "s", r->failed, r->failed == 1 ? "es" : "");
	else if (v->ending)
		log_event(LOG_LEVEL_ERROR, NULL, "reload: %s", r->text);
	else
		log_event(r->failed > 0 ? LOG_LEVEL_ERROR : LOG_LEVEL_NOTICE, NULL,
		          "reloaded %s: %u added, %u changed, %u removed, %u unchanged%s", v->config_file, r->added,
		          r->changed, r->removed, r->unchanged, r->failed > 0 ? ", and some do not work" : "");
	if (v->told_ready && !v->ending)
		notify("READY=1");
	control_reloaded(v, r);
	reload_free_lines(r);
}

void reload_renews(struct supervisor *v, unsigned n)
{
	v->reloading = true;
	v->reload = (struct reload_result){.changed = n, .renews = true};
}

static bool settle_all(struct supervisor *v)
{
	bool all = true;
	for (struct service *s = v->services; s != NULL && !v->draining; s = s->next)
		all = settle(v, s) && all;
	return all;
}

void reload_look(struct supervisor *v)
{
	while (v->reloading && settle_all(v)) {
		finish(v);
		if (v->reload_due && v->heir == 0 && !v->draining && !v->reloading) {
			v->reload_due = false;
			supervisor_hang_up(v);
		}
	}
}
