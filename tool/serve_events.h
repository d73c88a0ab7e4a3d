/* serve_events.h — what hark serve tells while it serves: each event a line on standard error, as words or as JSON. */
#ifndef SERVE_EVENTS_H
#define SERVE_EVENTS_H

#include <stdatomic.h>
#include <stdbool.h>

#include "counters.h"
#include "hark.h"
#include "line_out.h"
#include "tool.h"

struct serve_events {
	const struct verb *verb;
	const char *box; /* its name, or the program's path */
	const struct hark_box_row *row;
	const void *state;            /* the box's */
	bool is_program;              /* the program moves the bytes: hark does not see how many */
	bool verbose;                 /* a line a connection, workers, pauses; otherwise only what went wrong */
	bool json;                    /* the same as JSON lines */
	struct counters *counters;    /* where refusals without a line of their own are kept */
	const char *const *addresses; /* what is printed once the service accepts; ends with NULL */
	/* Workers that end now were asked to. Written once, while connections' threads read it and its neighbours above
	 * (so it is not among them: compilers join their reads); it orders nothing else. */
	atomic_bool draining;
	struct line_out out;   /* standard error, or what does not make us wait in its place */
	_Atomic unsigned lost; /* lines, since one left. Relaxed: a count */
};

/* Before the first event: standard error never stops the service from now on. */
void serve_events_open(struct serve_events *s);

/* A line where it is important, or lines were asked for: as printf(3). */
void serve_events_say(struct serve_events *s, bool important, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

/* Standard error has become another file. */
void serve_events_moved(struct serve_events *s);

/* When the last event has been. */
void serve_events_ended(struct serve_events *s);

/* For struct hark_serve_opts; arg is a struct serve_events. Called in whatever process, thread or fiber the event is
 * in. */
void serve_event(const struct hark_event *e, void *arg);

#endif
