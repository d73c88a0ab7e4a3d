/* status.c — see status.h. */
#include "status.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

const struct config_service *status_disabled(const struct supervisor *v, const char *name)
{
	const struct config_service *conf = config_find(v->epoch->config, name);
	return conf != NULL && conf->disabled ? conf : NULL;
}

/* ---- facts ----------------------------------------------------------------------------------- */

static void harkd_facts(const struct supervisor *v, struct harkd_facts *f)
{
	struct timespec now;
	(void)clock_gettime(CLOCK_REALTIME, &now);
	*f = (struct harkd_facts){
		.version = HARK_VERSION,
		.config = v->config_file,
		.pid = v->pid,
		.generation = v->generation,
		.uptime_s = (double)(hark_now() - v->began) / 1e9,
		.realtime_ns = now.tv_sec * HARK_S + now.tv_nsec,
		.draining = v->draining,
	};
}

static void worker_facts(const struct service *s, struct service_facts *f)
{
	for (const struct worker *w = s->workers; w != NULL; w = w->next)
		f->workers[f->n_workers++] = (struct worker_facts){
			.pid = w->pid,
			.now = worker_now(s, w),
			.draining = w->kill_at != HARK_FOREVER || w->retired,
			.uptime_s = (double)(hark_now() - w->started) / 1e9,
		};
}

/* Those of one address: a name may have many. None is open: 1, for what is configured. */
static size_t sockets_of(const struct supervisor *v, const struct service *s, size_t i)
{
	size_t n = 0;
	while (sockets_find(&v->sockets, s->conf, i, n) != NULL)
		n++;
	return n > 0 ? n : 1;
}

static size_t count_listen(const struct supervisor *v, const struct service *s)
{
	size_t n = 0;
	for (size_t i = 0; i < s->conf->listen.n; i++)
		n += sockets_of(v, s, i);
	return n;
}

static void listen_facts(const struct supervisor *v, const struct service *s, struct service_facts *f)
{
	for (size_t i = 0; i < s->conf->listen.n; i++)
		for (size_t nth = 0; nth < sockets_of(v, s, i); nth++) {
			const struct socket_entry *e = sockets_find(&v->sockets, s->conf, i, nth);
			char *address = f->listen[f->n_listen++];
			if (e == NULL || hark_listener_address(e->listener, address, HARK_ADDRESS_MAX) <= 0)
				(void)snprintf(address, HARK_ADDRESS_MAX, "%s", s->conf->listen.word[i]);
		}
}

/* TCP counts, whoever reads and writes: tcp(7). */
static bool knows_bytes(const struct service *s)
{
	if (strcmp(s->conf->box->name, "exec") != 0)
		return true;
	for (size_t i = 0; i < s->conf->listen.n; i++) {
		const char *address = s->conf->listen.word[i];
		if (strncmp(address, "udp", 3) != 0 && strncmp(address, "unix", 4) != 0)
			return true;
	}
	return false;
}

static int tell_service(const struct supervisor *v, const struct service *s, const struct status_printer *p, void *to)
{
	struct service_facts f = {
		.name = s->conf->name,
		.state = service_state_name(s),
		.box = s->conf->argv.word[0],
		.model = hark_model_name(s->conf->model),
		.error = s->error[0] != '\0' ? s->error : NULL,
		.listen = calloc(count_listen(v, s) + 1, HARK_ADDRESS_MAX),
		.workers = calloc(service_workers(s) + 1, sizeof(struct worker_facts)),
		.bytes_known = knows_bytes(s),
		.counters = s->counters,
		.certs = config_has_tls(s->conf) && s->memory != NULL ? s->memory->certs : NULL,
		.proxies_alone = s->conf->n_proxy_from > 0 && !s->conf->proxy_direct,
	};
	bool whole = f.listen != NULL && f.workers != NULL;
	if (whole) {
		worker_facts(s, &f);
		listen_facts(v, s, &f);
		p->service(to, &f);
	}
	free(f.listen);
	free(f.workers);
	return whole ? 0 : -ENOMEM;
}

/* disable = yes: nothing was ever opened or counted for it. */
static int tell_disabled(const struct supervisor *v, const struct config_service *conf, const struct status_printer *p,
                         void *to)
{
	static struct counters none;
	const struct service s = {.conf = conf, .state = SERVICE_DISABLED, .counters = &none};
	return tell_service(v, &s, p, to);
}

static bool is_meant(const struct service *s, const char *name)
{
	return name == NULL || (s->state != SERVICE_GONE && strcmp(s->conf->name, name) == 0);
}

int status_walk(const struct supervisor *v, const char *name, const struct status_printer *p, void *to)
{
	struct harkd_facts f;
	const struct service *one = v->services;
	while (one != NULL && !is_meant(one, name))
		one = one->next;
	if (name != NULL && one == NULL && status_disabled(v, name) == NULL)
		return -ENOENT;
	int r = 0;
	harkd_facts(v, &f);
	p->begin(to, &f);
	for (const struct service *s = v->services; s != NULL && r == 0; s = s->next)
		if (is_meant(s, name))
			r = tell_service(v, s, p, to);
	for (size_t i = 0; i < v->epoch->config->n_services && r == 0; i++) {
		const struct config_service *conf = v->epoch->config->services[i];
		if (conf->disabled && (name == NULL || (one == NULL && strcmp(conf->name, name) == 0)))
			r = tell_disabled(v, conf, p, to);
	}
	p->end(to);
	return r;
}

/* ---- as JSON --------------------------------------------------------------------------------- */

static void json_begin(void *to, const struct harkd_facts *f)
{
	struct json *j = to;
	struct tm tm;
	time_t seconds = (time_t)(f->realtime_ns / HARK_S);
	char day[32], stamp[48];
	(void)strftime(day, sizeof day, "%Y-%m-%dT%H:%M:%S", gmtime_r(&seconds, &tm));
	(void)snprintf(stamp, sizeof stamp, "%s.%03dZ", day, (int)(f->realtime_ns % HARK_S / HARK_MS));
	json_open(j, NULL, '{');
	json_put_bool(j, "ok", true);
	json_put_string(j, "version", f->version);
	json_put_int(j, "pid", f->pid);
	json_put_int(j, "generation", f->generation);
	json_put_string(j, "config", f->config);
	json_put_real(j, "uptime_s", f->uptime_s, 3);
	json_put_string(j, "time", stamp);
	json_put_bool(j, "draining", f->draining);
	json_open(j, "services", '[');
}

static void json_workers(struct json *j, const struct service_facts *f)
{
	json_open(j, "workers", '[');
	for (size_t i = 0; i < f->n_workers; i++) {
		json_open(j, NULL, '{');
		json_put_int(j, "pid", f->workers[i].pid);
		json_put_int(j, "now", f->workers[i].now);
		json_put_bool(j, "draining", f->workers[i].draining);
		json_put_real(j, "uptime_s", f->workers[i].uptime_s, 3);
		json_close(j, '}');
	}
	json_close(j, ']');
}

/* By the table: what a group has in common is an object. Bytes that nobody counted are not known. */
static void json_counts(struct json *j, const struct service_facts *f)
{
	const char *group = NULL;
	for (int i = 0; i < COUNTERS; i++) {
		const struct counter_row *row = &counter_rows[i];
		bool bytes = i == COUNT_BYTES_IN || i == COUNT_BYTES_OUT;
		bool begins = row->group != NULL && (group == NULL || strcmp(row->group, group) != 0);
		if (group != NULL && (begins || row->group == NULL))
			json_close(j, '}');
		if (begins)
			json_open(j, row->group, '{');
		group = row->group;
		int64_t n = (int64_t)counters_read(f->counters, (enum counter)i);
		json_put_count(j, row->name, bytes && !f->bytes_known ? -1 : n);
	}
	if (group != NULL)
		json_close(j, '}');
}

/* null: no TLS. */
static void json_certs(struct json *j, const struct service_facts *f)
{
	static const char *const ages[] = {[CERT_FRESH] = "fresh", [CERT_DUE] = "due", [CERT_EXPIRED] = "expired"};
	struct cert_shown c;
	int64_t now = time(NULL);
	if (f->certs == NULL) {
		json_put_null(j, "certificates");
		return;
	}
	json_open(j, "certificates", '[');
	for (unsigned i = 0; certs_shown_get(f->certs, i, &c); i++) {
		json_open(j, NULL, '{');
		json_put_string(j, "file", c.file);
		json_put_string(j, "subject", c.subject);
		json_put_string(j, "names", c.names);
		json_put_int(j, "not_before", c.not_before);
		json_put_int(j, "not_after", c.not_after);
		json_put_string(j, "age", ages[cert_age(&c, now)]);
		json_close(j, '}');
	}
	json_close(j, ']');
}

static void json_service(void *to, const struct service_facts *f)
{
	struct json *j = to;
	json_open(j, NULL, '{');
	json_put_string(j, "name", f->name);
	json_put_string(j, "state", f->state);
	json_open(j, "listen", '[');
	for (size_t i = 0; i < f->n_listen; i++)
		json_put_string(j, NULL, f->listen[i]);
	json_close(j, ']');
	json_put_string(j, "box", f->box);
	json_put_string(j, "model", f->model);
	json_workers(j, f);
	json_counts(j, f);
	json_certs(j, f);
	json_put_bool(j, "proxies_alone", f->proxies_alone);
	json_put_string(j, "error", f->error);
	json_close(j, '}');
}

static void json_end(void *to)
{
	json_close(to, ']');
	json_close(to, '}');
}

const struct status_printer status_json = {json_begin, json_service, json_end};
