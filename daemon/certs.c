/* certs.c — certificates that are renewed, and other files that boxes read once (renew.h): those of running services
 * are looked at, and where they have changed and stay as they are, new workers are tried, as a reload does, which read
 * them. The old ones go on where those fail, as with a certificate whose key has not been written yet: tried again at
 * the next change, and, as memory or a process may have been what was lacking, ever less often without one. Connections
 * keep what they began with.
 *
 * Nothing of the files is read here: keys are no business of the supervisor's. The supervisor's thread. */
#include <errno.h>
#include <inttypes.h>
#include <time.h>

#include "log.h"
#include "supervisor.h"

#define DAY_S (24 * 3600)

struct renew_stamp certs_stamp(const struct config_service *c)
{
	struct hark_why why;
	void *state = NULL;
	if (c->box->renew != NULL)
		(void)config_box_parse(c, c->box, &state, &why);
	struct renew_stamp stamp = renew_stamp(config_has_tls(c) ? c : NULL, state != NULL ? c->box : NULL, state);
	box_free(c->box, state);
	return stamp;
}

/* Workers that begin by themselves, when they are wanted, read the files then. */
static bool is_looked_at(const struct service *s)
{
	return s->state == SERVICE_RUNNING && s->trial == NULL && s->certs.read != 0;
}

static bool may_look(const struct supervisor *v)
{
	return !v->reloading && !v->draining && !v->standby && v->heir == 0 && v->told_ready;
}

int64_t certs_due(const struct supervisor *v)
{
	bool any = false;
	for (const struct service *s = v->services; s != NULL; s = s->next)
		any = any || is_looked_at(s);
	return any && may_look(v) ? v->certs_looked + RENEW_LOOK_NS : HARK_FOREVER;
}

/* The same settings once more: workers of a reload are told apart by where those lie. */
static bool renew(struct supervisor *v, struct service *s)
{
	struct config *c = NULL;
	int r = config_copy(s->epoch->config, v->config_file, &c);
	struct epoch *e = r == 0 ? epoch_new(c) : NULL;
	const struct config_service *conf = e != NULL ? config_find(c, s->conf->name) : NULL;
	if (conf != NULL)
		service_replace(v, s, e, conf, true);
	else
		log_event(LOG_LEVEL_ERROR, s->conf->name, "certificates: not read again: %s",
		          r > 0 ? c->errors[0] : hark_strerror(r < 0 ? r : -ENOMEM));
	if (conf == NULL)
		renew_put_off(&s->certs);
	if (e != NULL)
		epoch_release(e);
	else if (r > 0)
		config_free(c);
	return conf != NULL;
}

/* ---- those that are about to expire ----------------------------------------------------------- */

/* Once as it begins, and once a day. */
static void warn(struct service *s, const struct cert_shown *c, enum cert_age age, int64_t now)
{
	int64_t days = (c->not_after - now) / DAY_S;
	const char *names = c->names[0] != '\0' ? c->names : c->subject;
	if (age == CERT_EXPIRED)
		log_event(LOG_LEVEL_ERROR, s->conf->name, "certificate %s (%s) has expired", c->file, names);
	else
		log_event(LOG_LEVEL_WARNING, s->conf->name,
		          "certificate %s (%s) expires in %" PRId64 " day%s: less than a third of its time is left",
		          c->file, names, days, days == 1 ? "" : "s");
}

static void look_at_ages(struct service *s)
{
	struct cert_shown c;
	int64_t now = time(NULL), latest = 0;
	enum cert_age worst = CERT_FRESH;
	for (unsigned i = 0; certs_shown_get(s->memory->certs, i, &c); i++) {
		worst = cert_age(&c, now) > worst ? cert_age(&c, now) : worst;
		latest = c.not_after > latest ? c.not_after : latest;
	}
	bool told = s->certs_age == worst && s->certs_latest == latest && now < s->certs_told + DAY_S;
	if (told)
		return;
	s->certs_age = worst;
	s->certs_latest = latest;
	s->certs_told = now;
	for (unsigned i = 0; worst != CERT_FRESH && certs_shown_get(s->memory->certs, i, &c); i++)
		if (cert_age(&c, now) != CERT_FRESH)
			warn(s, &c, cert_age(&c, now), now);
}

void certs_look(struct supervisor *v)
{
	unsigned n = 0;
	if (hark_now() < certs_due(v))
		return;
	v->certs_looked = hark_now();
	for (struct service *s = v->services; s != NULL; s = s->next) {
		if (!is_looked_at(s)) {
			s->certs.seen = 0;
			continue;
		}
		look_at_ages(s);
		if (renew_is_due(&s->certs, certs_stamp(s->conf)))
			n += renew(v, s);
	}
	if (n > 0)
		reload_renews(v, n);
}
