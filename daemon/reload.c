/* reload.c — a new configuration, by difference. A service whose effective text is the same is not touched at all; one
 * that differs gets new workers at once and its old ones drain; sockets that are still wanted are never closed.
 * Whatever can fail is done first: a file with a mistake, or an address that cannot be bound, changes nothing.
 *
 * The supervisor's thread. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "import.h"
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
		r = config_check_system(c);
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

/* Opens what the new configuration wants and is not open. On failure everything is as it was; of an inetd.conf the
 * service is left out. */
static int open_sockets(struct supervisor *v, const struct config *c, struct reload_result *out)
{
	struct hark_why why;
	sockets_mark(&v->sockets);
	for (size_t i = 0; i < c->n_services; i++) {
		struct config_service *conf = c->services[i];
		for (size_t j = 0; !conf->disabled && !is_stopped(v, conf->name) && j < conf->listen.n; j++) {
			int r = sockets_open(&v->sockets, conf, j, &why);
			if (r == 0)
				continue;
			if (v->inetd && r != -ENOMEM) {
				log_event(LOG_LEVEL_ERROR, conf->name, "%s:%d: %s; skipped", conf->place.file,
				          conf->place.line, why.text);
				sockets_give_up(&v->sockets, conf);
				conf->disabled = true; /* until the next reload tries again */
				continue;
			}
			(void)snprintf(out->text, sizeof out->text, "%s:%d: %.200s", conf->place.file, conf->place.line,
			               why.text);
			sockets_undo(&v->sockets);
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

static void take_service(struct supervisor *v, struct epoch *e, const struct config_service *conf,
                         struct reload_result *out)
{
	struct service *s = find_service(v, conf->name);
	/* Workers log by themselves, as it was said when they were forked. */
	if (s != NULL && strcmp(s->conf->text, conf->text) == 0 && same_log(s->epoch->config, e->config)) {
		out->unchanged++;
		return;
	}
	if (s != NULL) {
		out->changed++;
		service_replace(v, s, e, conf);
		return;
	}
	s = service_new(v, e, conf);
	if (s == NULL) {
		log_event(LOG_LEVEL_ERROR, conf->name, "no room for one more service");
		return;
	}
	out->added++;
	append(v, s);
	service_begin(v, s);
}

/* Those that are no longer there, or disabled now. */
static void remove_others(struct supervisor *v, const struct config *c, struct reload_result *out)
{
	for (struct service *s = v->services; s != NULL; s = s->next) {
		const struct config_service *conf = s->state != SERVICE_GONE ? config_find(c, s->conf->name) : NULL;
		if (s->state == SERVICE_GONE || (conf != NULL && !conf->disabled))
			continue;
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
	int r = open_sockets(v, c, out);
	if (v->in_background && strcmp(c->log, "stderr") == 0) {
		char *to = strdup("syslog");
		if (to != NULL) {
			free(c->log);
			c->log = to;
		}
	}
	if (r == 0 && log_open(c, &why) < 0)
		log_event(LOG_LEVEL_ERROR, NULL, "%s", why.text); /* the log that was open goes on */
	for (size_t i = 0; r == 0 && i < c->n_errors; i++)
		log_event(LOG_LEVEL_ERROR, NULL, "%s; skipped", c->errors[i]);
	for (size_t i = 0; r == 0 && i < c->n_warnings; i++)
		log_event(LOG_LEVEL_WARNING, NULL, "%s", c->warnings[i]);
	struct epoch *e = r == 0 ? epoch_new(c) : NULL;
	if (e == NULL) {
		if (r < 0)
			config_free(c);
		else
			sockets_undo(&v->sockets);
		return 1;
	}
	remove_others(v, c, out);
	for (size_t i = 0; i < c->n_services; i++)
		if (!c->services[i]->disabled)
			take_service(v, e, c->services[i], out);
	sockets_sweep(&v->sockets);
	if (v->epoch != NULL && v->control_path == NULL && !same_text(v->epoch->config->control, c->control))
		log_event(LOG_LEVEL_WARNING, NULL, "the control socket moves with an upgrade, not with a reload");
	epoch_release(v->epoch);
	v->epoch = e;
	if (v->told_ready)
		supervisor_pid_file(v);
	return 0;
}

int reload(struct supervisor *v, struct reload_result *out)
{
	struct reload_result own;
	struct config *c = NULL;
	if (out == NULL)
		out = &own;
	*out = (struct reload_result){0};
	int r = load_config(v, &c);
	if (r == 0)
		return apply(v, c, out);
	out->failed = c;
	(void)snprintf(out->text, sizeof out->text, "%s",
	               c != NULL && c->n_errors > 0 ? c->errors[0] : hark_strerror(r));
	if (out == &own)
		config_free(c);
	return r < 0 ? 1 : r;
}
