/* engine.c — choosing an engine, and what all three share. See engine.h. */
#include "loop/engine.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/sys.h"

void (*_Atomic hark__source_unsent)(struct hark__source *s, const void *bytes, size_t n, int error);

static const struct hark__engine_ops *const engines[] = {&hark__engine_epoll, &hark__engine_uring, &hark__engine_poll};

#define ENGINES (sizeof engines / sizeof engines[0])

/* By what bench/run engines measures (Linux 6.18): epoll is level with io_uring or ahead of it, with every number of
 * connections, and needs neither locked memory nor leave. io_uring is for those who ask for it by name. */
static int open_best(struct hark__engine **out)
{
	int r = hark__engine_epoll.open(out);
	return r == -ENOSYS ? hark__engine_poll.open(out) : r;
}

int hark__engine_open(const char *name, struct hark__engine **out)
{
	if (name == NULL)
		name = getenv("HARK_ENGINE");
	if (name == NULL || *name == '\0')
		return open_best(out);
	for (size_t i = 0; i < ENGINES; i++)
		if (strcmp(engines[i]->name, name) == 0)
			return engines[i]->open(out);
	return -EINVAL;
}

static int open_other(struct hark__engine **out)
{
	return hark__engine_epoll.open(out) == 0 ? 0 : hark__engine_poll.open(out);
}

static void watch_again(struct hark__engine *e, struct hark__source *s)
{
	unsigned events = (s->in != NULL ? HARK__IN : 0) | (s->out != NULL ? HARK__OUT : 0);
	if (events == 0)
		return;
	hark__ready_clear(s, events);
	if (e->ops->arm(e, s, events) < 0)
		hark__source_ready(e, s, events); /* whoever waits tries, and meets the error */
}

int hark__engine_replace(struct hark__engine **e)
{
	struct hark__engine *old = *e;
	uint32_t n = old->n_sources;
	struct hark__source **sources = hark__sys.calloc((size_t)n + 1, sizeof *sources);
	int r = sources == NULL ? -ENOMEM : open_other(e);
	if (r < 0) {
		free(sources);
		return r;
	}
	(*e)->loop = old->loop;
	(*e)->wake = old->wake;
	for (uint32_t i = 0; i < n; i++)
		sources[i] = old->sources[i];
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

static pthread_mutex_t sources_mutex = PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP;

void hark__sources_lock(void)
{
	(void)pthread_mutex_lock(&sources_mutex);
}

void hark__sources_unlock(void)
{
	(void)pthread_mutex_unlock(&sources_mutex);
}

void hark__sources_forked(void)
{
	sources_mutex = (pthread_mutex_t)PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP;
}

/* Room for one more pointer. */
static int make_room(struct hark__source ***array, uint32_t n, uint32_t *cap)
{
	if (n < *cap)
		return 0;
	uint32_t more = *cap > 0 ? *cap * 2 : 64;
	struct hark__source **grown = hark__sys.realloc(*array, more * sizeof **array);
	if (grown == NULL)
		return -ENOMEM;
	*array = grown;
	*cap = more;
	return 0;
}

int hark__sources_add(struct hark__engine *e, struct hark__source *s)
{
	hark__sources_lock();
	int r = make_room(&e->sources, e->n_sources, &e->cap_sources);
	if (r == 0) {
		s->engine = e;
		s->index = e->n_sources;
		e->sources[e->n_sources++] = s;
	}
	hark__sources_unlock();
	return r;
}

/* The last one takes its place. */
void hark__sources_remove(struct hark__engine *e, struct hark__source *s)
{
	hark__sources_lock();
	struct hark__source *last = e->sources[--e->n_sources];
	e->sources[s->index] = last;
	last->index = s->index;
	s->engine = NULL;
	if (e->waiting &&
	    make_room(&e->gone, e->n_gone, &e->cap_gone) == 0) /* else it is told of as if it were there */
		e->gone[e->n_gone++] = s;
	hark__sources_unlock();
}

void hark__sources_leave(struct hark__engine *e)
{
	hark__sources_lock();
	for (uint32_t i = 0; i < e->n_sources; i++) {
		struct hark__source *s = e->sources[i];
		s->engine = NULL;
		s->sending = false;
		s->got = HARK__GOT_NONE;
		hark__ready_set(s, HARK__IN | HARK__OUT);
	}
	e->n_sources = 0;
	free(e->sources);
	free(e->gone);
	e->sources = e->gone = NULL;
	hark__sources_unlock();
}

void hark__sources_wait_begin(struct hark__engine *e)
{
	hark__sources_lock();
	e->waiting = true;
	e->n_gone = 0;
	hark__sources_unlock();
}

void hark__sources_wait_end(struct hark__engine *e)
{
	hark__sources_lock();
	e->waiting = false;
}

bool hark__sources_is_gone(const struct hark__engine *e, const struct hark__source *s)
{
	for (uint32_t i = 0; i < e->n_gone; i++)
		if (e->gone[i] == s)
			return true;
	return false;
}

void hark__source_detach(struct hark__source *s)
{
	if (s->engine != NULL && !s->engine->forked)
		s->engine->ops->detach(s->engine, s);
	s->engine = NULL;
	s->sending = false;
	s->under_way = 0;
	s->got = HARK__GOT_NONE;
}
