/* engine.c — choosing an engine, and what all three share. See engine.h. */
#include "loop/engine.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>

#ifdef HARK__VALGRIND
#include <valgrind/valgrind.h>
#endif

void (*_Atomic hark__source_orphaned)(struct hark__source *s, const void *bytes, size_t n, bool end);
void (*_Atomic hark__source_unsent)(struct hark__source *s, const void *bytes, size_t n, int error);

static const struct hark__engine_ops *const engines[] = {&hark__engine_epoll, &hark__engine_uring, &hark__engine_poll};

#define ENGINES (sizeof engines / sizeof engines[0])

/* io_uring before 6.12 was not tried with all that is tested here: there it is for those who ask for it by name. */
static bool uring_is_tried(void)
{
	struct utsname u;
	unsigned major, minor;
	return uname(&u) == 0 && sscanf(u.release, "%u.%u", &major, &minor) == 2 &&
	       (major > 6 || (major == 6 && minor >= 12));
}

static bool valgrind_runs(void)
{
#ifdef HARK__VALGRIND
	return RUNNING_ON_VALGRIND; /* it does not see what io_uring writes */
#else
	return false;
#endif
}

/* By what bench/run echo and engines measure: io_uring, epoll, poll. Whatever keeps io_uring from being used here (a
 * container that forbids it, a limit), epoll does without it. */
static int open_best(struct hark__engine **out)
{
	if (uring_is_tried() && !valgrind_runs() && hark__engine_uring.open(out) == 0)
		return 0;
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
	s->sending = false;
}
