/* engine.c — choosing an engine, and what all three share. See engine.h. */
#include "loop/engine.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/sys.h"
#include "loop/loop.h"

void (*_Atomic hark__source_unsent)(struct hark__source *s, const void *bytes, size_t n, int error);

/* The best first, by what bench/run engines measures: epoll, its sends in batches, is 4 to 8 % cheaper than epoll alone
 * with 100 and 1,000 connections, and never dearer (Linux 6.18). */
static const struct hark__engine_ops *const engines[] = {&hark__engine_uring, &hark__engine_epoll, &hark__engine_poll};

#define ENGINES (sizeof engines / sizeof engines[0])

int64_t hark__wait_left(int64_t until, int64_t now)
{
	int64_t at = until > now ? hark_now() : until;
	return until > at ? until - at : 0;
}

static int open_one(const struct hark__engine_ops *ops, struct hark__engine **out)
{
	int r = ops->open(out);
	if (r == 0)
		(*out)->lock = (pthread_mutex_t)PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP;
	return r;
}

/* Whatever keeps a ring from being made (a filter, RLIMIT_MEMLOCK), epoll may have it. */
static int open_best(struct hark__engine **out)
{
	int r = open_one(&hark__engine_uring, out);
	if (r < 0)
		r = open_one(&hark__engine_epoll, out);
	return r == -ENOSYS ? open_one(&hark__engine_poll, out) : r;
}

int hark__engine_open(const char *name, struct hark__engine **out)
{
	if (name == NULL)
		name = getenv("HARK_ENGINE");
	if (name == NULL || *name == '\0')
		return open_best(out);
	for (size_t i = 0; i < ENGINES; i++)
		if (strcmp(engines[i]->name, name) == 0)
			return open_one(engines[i], out);
	return -EINVAL;
}

static int open_other(struct hark__engine **out)
{
	return open_one(&hark__engine_epoll, out) == 0 ? 0 : open_one(&hark__engine_poll, out);
}

static void watch_again(struct hark__engine *e, struct hark__source *s)
{
	unsigned events = (s->in != NULL ? HARK__IN : 0) | (s->out != NULL ? HARK__OUT : 0);
	hark__ready_clear(s, events);
	if (e->ops->arm(e, s, events) < 0)
		hark__source_ready(e, s, events); /* whoever waits tries, and meets the error */
}

/* Those that somebody waits on: any other may be another thread's, and freed, once the engine is closed. */
static uint32_t copy_waited_on(struct hark__engine *e, struct hark__source *out[])
{
	uint32_t n = 0;
	pthread_mutex_lock(&e->lock);
	for (uint32_t i = 0; i < e->n_sources; i++)
		if (e->sources[i]->in != NULL || e->sources[i]->out != NULL)
			out[n++] = e->sources[i];
	pthread_mutex_unlock(&e->lock);
	return n;
}

int hark__engine_replace(struct hark__engine **e)
{
	struct hark__engine *old = *e;
	struct hark__source **sources = hark__sys.calloc((size_t)old->cap_sources + 1, sizeof *sources);
	int r = sources == NULL ? -ENOMEM : open_other(e);
	if (r < 0) {
		free(sources);
		return r;
	}
	(*e)->loop = old->loop;
	(*e)->wake = old->wake;
	uint32_t n = copy_waited_on(old, sources);
	old->ops->close(old);
	for (uint32_t i = 0; i < n; i++)
		watch_again(*e, sources[i]);
	free(sources);
	return 0;
}

void hark__source_ready(struct hark__engine *e, struct hark__source *s, unsigned events)
{
	hark__ready_set(s, events);
	if (s->in != NULL && (events & (HARK__IN | HARK__HUP)))
		e->wake(e, s->in);
	if (s->out != NULL && (events & (HARK__OUT | HARK__HUP)))
		e->wake(e, s->out);
}

/* ---- the attached sources ---------------------------------------------------------------------- */

/* Held by who detaches from another thread's loop, and by who closes a loop: the engine stays while it is used. */
static pthread_mutex_t strangers = PTHREAD_MUTEX_INITIALIZER;

void hark__sources_forked(void)
{
	strangers = (pthread_mutex_t)PTHREAD_MUTEX_INITIALIZER;
}

static int add(struct hark__engine *e, struct hark__source *s)
{
	if (e->n_sources == e->cap_sources) {
		uint32_t cap = e->cap_sources > 0 ? e->cap_sources * 2 : 64;
		struct hark__source **sources = hark__sys.realloc(e->sources, cap * sizeof *sources);
		if (sources == NULL)
			return -ENOMEM;
		e->sources = sources;
		e->cap_sources = cap;
	}
	s->engine = e;
	s->index = e->n_sources;
	e->sources[e->n_sources++] = s;
	return 0;
}

int hark__sources_add(struct hark__engine *e, struct hark__source *s)
{
	pthread_mutex_lock(&e->lock);
	int r = add(e, s);
	pthread_mutex_unlock(&e->lock);
	return r;
}

/* The last one takes its place. */
void hark__sources_remove(struct hark__engine *e, struct hark__source *s)
{
	pthread_mutex_lock(&e->lock);
	struct hark__source *last = e->sources[--e->n_sources];
	e->sources[s->index] = last;
	last->index = s->index;
	s->engine = NULL;
	e->some_left = true;
	pthread_mutex_unlock(&e->lock);
}

void hark__sources_leave(struct hark__engine *e)
{
	pthread_mutex_lock(&strangers);
	for (uint32_t i = 0; i < e->n_sources; i++) {
		struct hark__source *s = e->sources[i];
		s->sending = false;
		hark__ready_set(s, HARK__IN | HARK__OUT);
		s->engine = NULL; /* another thread may go on with it from here */
	}
	e->n_sources = 0;
	free(e->sources);
	e->sources = NULL;
	pthread_mutex_unlock(&strangers);
}

bool hark__sources_has(const struct hark__engine *e, const struct hark__source *s)
{
	for (uint32_t i = 0; i < e->n_sources; i++)
		if (e->sources[i] == s)
			return true;
	return false;
}

static void detach(struct hark__source *s)
{
	if (s->engine != NULL && !s->engine->forked)
		s->engine->ops->detach(s->engine, s);
	s->sending = false;
	s->engine = NULL;
}

void hark__source_detach(struct hark__source *s)
{
	const struct hark__loop *l = hark__loop_current;
	if (s->engine == NULL || (l != NULL && l->engine == s->engine)) {
		detach(s);
		return;
	}
	pthread_mutex_lock(&strangers);
	detach(s);
	pthread_mutex_unlock(&strangers);
}

bool hark__source_take_over(struct hark__source *s)
{
	pthread_mutex_lock(&strangers);
	bool unused = s->engine == NULL || (s->in == NULL && s->out == NULL);
	if (unused)
		detach(s);
	pthread_mutex_unlock(&strangers);
	return unused;
}
