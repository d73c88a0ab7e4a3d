/* fiber_support.h — what the tests of fibers share: a story of what happened, in order. */
#ifndef FIBER_SUPPORT_H
#define FIBER_SUPPORT_H

#include "modes.h"

/* What happened, in order. */
static char story[200];

static inline void tell(const char *what)
{
	CHECK(strlen(story) + strlen(what) < sizeof story);
	(void)strcat(story, what);
}

#define CHECK_STORY(wanted) \
	do { \
		if (strcmp(story, wanted) != 0) { \
			(void)fprintf(stderr, "%s:%d: the story is \"%s\", not \"%s\"\n", __FILE__, __LINE__, story, \
			              wanted); \
			_exit(1); \
		} \
		story[0] = '\0'; \
	} while (0)

static inline void yields_for_ever(void *arg)
{
	(void)arg;
	while (hark_yield() == 0)
		;
}

#endif
