/* connections.c — see connections.h. What a worker's table says is read with care: it may have been taken over. */
#include "connections.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "conns.h"

#define ANSWER_NS (100 * HARK_MS) /* that workers may take to look at their connections */
#define LOOK_NS   (1 * HARK_MS)

static bool can_answer(const struct worker *w)
{
	return w->conns != NULL && w->ready; /* its handler is there */
}

static uint32_t rows_of(const struct worker *w)
{
	uint32_t n = w->conns != NULL ? atomic_load(&w->conns->high) : 0;
	return n < CONNS_MAX ? n : CONNS_MAX;
}

static bool is_live(const struct conn_row *r)
{
	return atomic_load(&r->state) != 0;
}

static void ask(const struct worker *w)
{
	atomic_fetch_add(&w->conns->asked, 1);
	(void)kill(w->pid, SIGUSR2);
}

/* The worker, and the children that have connections of it. */
static bool has_answered(const struct worker *w)
{
	uint32_t asked = atomic_load(&w->conns->asked);
	if (atomic_load(&w->conns->answered) != asked)
		return false;
	for (uint32_t i = 0; i < rows_of(w); i++) {
		const struct conn_row *r = &w->conns->rows[i];
		int32_t owner = atomic_load(&r->owner);
		if (is_live(r) && owner > 0 && owner != w->pid && atomic_load(&r->answered) != asked)
			return false;
	}
	return true;
}

static bool all_answered(const struct supervisor *v, const struct service *one)
{
	for (const struct service *s = v->services; s != NULL; s = s->next)
		for (const struct worker *w = one == NULL || s == one ? s->workers : NULL; w != NULL; w = w->next)
			if (can_answer(w) && !has_answered(w))
				return false;
	return true;
}

static void refresh(const struct supervisor *v, const struct service *one)
{
	int64_t end = hark_after(ANSWER_NS);
	for (const struct service *s = v->services; s != NULL; s = s->next)
		for (const struct worker *w = one == NULL || s == one ? s->workers : NULL; w != NULL; w = w->next)
			if (can_answer(w))
				ask(w);
	while (!all_answered(v, one) && hark_now() < end)
		(void)hark_sleep(LOOK_NS);
}

/* ---- listing --------------------------------------------------------------------------------- */

struct listing {
	struct json *to;
	const struct supervisor *v;
	int64_t now, realtime; /* hark_now(), and CLOCK_REALTIME then */
	unsigned listed;
	uint64_t unlisted;
};

static void add_time(struct json *to, int64_t realtime_ns)
{
	struct tm tm = {0};
	time_t seconds = (time_t)(realtime_ns / HARK_S);
	char day[32], stamp[48];
	(void)strftime(day, sizeof day, "%Y-%m-%dT%H:%M:%S", gmtime_r(&seconds, &tm));
	(void)snprintf(stamp, sizeof stamp, "%s.%03dZ", day, (int)(realtime_ns % HARK_S / HARK_MS));
	json_put_string(to, "time", stamp);
}

/* "" where it is not known. */
static void add_local(struct json *to, const struct conn_row *r)
{
	struct hark_endpoint e;
	char local[HARK_ADDRESS_MAX] = "";
	struct sockaddr_storage at;
	uint32_t len = atomic_load(&r->local_len);
	memcpy(&at, &r->local, sizeof at);
	if (hark_endpoint_from(r->type, (const struct sockaddr *)&at, len, &e) == 0)
		(void)hark_endpoint_format(&e, local, sizeof local);
	json_put_string(to, "local", local);
}

static void add_row(struct listing *l, const struct service *s, const struct worker *w, const struct conn_row *r)
{
	char id[48], peer[HARK_ADDRESS_MAX] = "";
	struct hark_endpoint e = r->peer;
	int64_t said = *(const volatile int64_t *)&r->opened_ns; /* once: it may change between two looks */
	int64_t opened = said > 0 && said < l->now ? said : l->now;
	int32_t owner = atomic_load_explicit(&r->owner, memory_order_relaxed);
	int32_t program = atomic_load_explicit(&r->program, memory_order_relaxed);
	bool known = r->has_credentials;
	if (e.len > sizeof e.addr)
		e.len = sizeof e.addr;
	if (r->has_peer)
		(void)hark_endpoint_format(&e, peer, sizeof peer);
	(void)snprintf(id, sizeof id, "%d.%" PRIu64, (int)w->pid, r->serial);
	json_open(l->to, NULL, '{');
	json_put_string(l->to, "id", id);
	json_put_string(l->to, "service", s->conf->name);
	json_put_string(l->to, "peer", peer);
	add_local(l->to, r);
	json_put_count(l->to, "peer_uid", known ? (int64_t)r->credentials.uid : -1);
	json_put_count(l->to, "peer_pid", known ? (int64_t)r->credentials.pid : -1);
	json_put_int(l->to, "pid", program > 0 ? program : owner > 0 ? owner : w->pid);
	add_time(l->to, l->realtime - (l->now - opened));
	json_put_real(l->to, "seconds", (double)(l->now - opened) / 1e9, 3);
	json_put_count(l->to, "bytes_in", atomic_load_explicit(&r->bytes_in, memory_order_relaxed));
	json_put_count(l->to, "bytes_out", atomic_load_explicit(&r->bytes_out, memory_order_relaxed));
	json_close(l->to, '}');
}

static void add_worker(struct listing *l, const struct service *s, const struct worker *w)
{
	for (uint32_t i = 0; i < rows_of(w); i++) {
		if (!is_live(&w->conns->rows[i]))
			continue;
		if (l->listed < CONNECTIONS_MAX)
			add_row(l, s, w, &w->conns->rows[i]);
		l->unlisted += l->listed == CONNECTIONS_MAX;
		l->listed += l->listed < CONNECTIONS_MAX;
	}
	l->unlisted += w->conns != NULL ? atomic_load(&w->conns->unlisted) : 0;
}

void connections_list(const struct supervisor *v, const struct service *one, struct json *to)
{
	struct timespec now;
	refresh(v, one);
	(void)clock_gettime(CLOCK_REALTIME, &now);
	struct listing l = {.to = to, .v = v, .now = hark_now(), .realtime = now.tv_sec * HARK_S + now.tv_nsec};
	json_open(to, NULL, '{');
	json_put_bool(to, "ok", true);
	json_open(to, "connections", '[');
	for (const struct service *s = v->services; s != NULL; s = s->next)
		for (const struct worker *w = one == NULL || s == one ? s->workers : NULL; w != NULL; w = w->next)
			add_worker(&l, s, w);
	json_close(to, ']');
	json_put_int(to, "unlisted", (int64_t)l.unlisted);
	json_close(to, '}');
}

/* ---- ending ---------------------------------------------------------------------------------- */

static struct worker *worker_of(const struct supervisor *v, long pid)
{
	for (const struct service *s = v->services; s != NULL; s = s->next)
		for (struct worker *w = s->workers; w != NULL; w = w->next)
			if (w->pid == pid)
				return w;
	return NULL;
}

int connections_end(const struct supervisor *v, const char *id)
{
	char *end;
	long pid = id[0] >= '1' && id[0] <= '9' ? strtol(id, &end, 10) : 0;
	if (pid <= 0 || *end != '.' || end[1] < '0' || end[1] > '9')
		return -EINVAL;
	uint64_t serial = strtoull(end + 1, &end, 10);
	if (*end != '\0')
		return -EINVAL;
	struct worker *w = worker_of(v, pid);
	for (uint32_t i = 0; w != NULL && can_answer(w) && i < rows_of(w); i++) {
		struct conn_row *r = &w->conns->rows[i];
		if (!is_live(r) || r->serial != serial)
			continue;
		if (!atomic_load_explicit(&r->open, memory_order_relaxed))
			return -EOPNOTSUPP;
		atomic_store(&r->end, true);
		ask(w);
		return 0;
	}
	return -ENOENT;
}
