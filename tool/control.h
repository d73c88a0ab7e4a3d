/* control.h — one question to harkd over its control socket, one answer: what status, connections, close, reload, stop,
 * start, drain and upgrade have in common. The protocol is told in daemon/control.h; the server is not trusted: its
 * answer is bounded in size and time, and printed with nothing in it that a terminal obeys. */
#ifndef CONTROL_H
#define CONTROL_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "control_path.h"
#include "hark.h"
#include "options.h"
#include "tool.h"

/* The options that every one of these verbs has. Embedded first in the verb's own arguments, so that offsets agree. */
struct control_args {
	const char *control;
	int64_t timeout;
	bool json;
};

#define CONTROL_AT(member) offsetof(struct control_args, member)
#define CONTROL_PATH_ROW \
	{ \
		"control", 0, OPTION_TEXT, "PATH", \
			"harkd's control socket ($HARKD_CONTROL, else where harkd puts it)", CONTROL_AT(control) \
	}
#define CONTROL_TIMEOUT_ROW(t) \
	{ \
		"timeout", 0, OPTION_DURATION, "T", "how long harkd may take to answer (" t ")", CONTROL_AT(timeout), \
			1 \
	}
#define CONTROL_JSON_ROW \
	{ \
		"json", 0, OPTION_FLAG, NULL, "print harkd's answer as it is, JSON", CONTROL_AT(json) \
	}

struct control {
	const struct verb *verb;
	const struct control_args *args;
	struct control_place place[CONTROL_PLACES_MAX]; /* asked in order, until one listens */
	size_t n_places;
	const char *path;  /* the one that was asked last */
	char request[128]; /* a line */
};

struct control_answer {
	char *line;   /* as it came, without the newline */
	json_t *json; /* an object with a boolean "ok" */
	bool ok;
};

/* Where to ask, and what: COMMAND or COMMAND SERVICE (service may be NULL). Returns STATUS_DONE or, having told it,
 * STATUS_USAGE. */
int control_init(struct control *c, const struct verb *v, const struct control_args *args, const char *service);

/* Asks once. May suspend. Returns 0 with *answer, the caller's to control_answer_free(); or -errno, why telling path,
 * cause and what can be done about it. */
int control_ask(struct control *c, struct control_answer *answer, struct hark_why *why);
void control_answer_free(struct control_answer *answer);

/* A whole verb: asks once, and prints the answer as JSON if that is wanted, else by tell() if harkd said yes. Why it
 * said no is told on standard error. Returns the exit code. */
int control_run(struct control *c, void (*tell)(const struct control *c, const json_t *answer, const void *arg),
                const void *arg);

/* Tells on standard error why harkd said no, each reason a line. */
void control_tell_refusal(const struct verb *v, const struct control_answer *answer);

/* Members of an object that may be anything: "" and 0 where they are not what they should be. The string is cleaned
 * into buf and cut to fit. */
const char *control_string(const json_t *object, const char *key, char *buf, size_t cap);
int64_t control_count(const json_t *object, const char *key);
double control_real(const json_t *object, const char *key);

/* A string that came from harkd, made printable. Returns buf. */
const char *control_clean(const char *s, char *buf, size_t cap);

#endif
