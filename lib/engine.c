/* engine.c — choosing an engine, and what all three share. See engine.h. */
#include "engine.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

void (*_Atomic hark__source_orphaned)(struct hark__source *s, const void *bytes, size_t n, bool end);
void (*_Atomic hark__source_unsent)(struct hark__source *s, const void *bytes, size_t n, int error);

static const struct hark__engine_ops *const engines[] = {&hark__engine_epoll, &hark__engine_uring, &hark__engine_poll};

#define ENGINES (sizeof engines / sizeof engines[0])

/* epoll first: it works everywhere, in containers that forbid io_uring too, and holds a fraction of the memory. Where io_uring serves a load
 * faster (bench/run echo), it is asked for by name. */
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

void hark__source_ready(struct hark__engine *e, struct hark__source *s, unsigned events)
{
	hark__ready_set(s, events);
	if (s->in != NULL && (events & (HARK__IN | HARK__HUP)))
		e->wake(e, s->in);
	if (s->out != NULL && (events & (HARK__OUT | HARK__HUP)))
		e->wake(e, s->out);
}

void hark__source_detach(struct hark__source *s)
{
	if (s->engine != NULL && !s->engine->forked)
		s->engine->ops->detach(s->engine, s);
	s->engine = NULL;
	s->armed = 0;
	s->sending = false;
}
