/* log_connection.h — a connection that has ended, or was refused, as harkd's log and hark serve tell of it: one set of
 * facts and one set of names for them. hark-log(5) is the promise. Any thread. */
#ifndef LOG_CONNECTION_H
#define LOG_CONNECTION_H

#include <stdint.h>
#include <sys/types.h>

#include "hark.h"
#include "json.h"

struct log_connection {
	const char *service;                 /* NULL: hark serve's */
	const char *box;                     /* its name, or the program */
	const char *peer, *local;            /* addresses; "" where there is none */
	const struct hark_credentials *user; /* of a unix peer; NULL: not known */
	const char *target;                  /* where it was relayed to; NULL: it was not */
	pid_t pid;                           /* of the process that served it: the program, or the worker */
	int64_t opened_realtime_ns;
	int64_t duration_ns;
	int64_t bytes_in, bytes_out;     /* -1: not known */
	int error;                       /* 0 or errno */
	int status;                      /* waitpid(2)'s, of the program; 0: done */
	const char *refused;             /* NULL: served; else the reason: "max_per_source" */
	const char *why_refused;         /* in words; NULL, "": refused says it all */
	const char *failure;             /* TLS's, in words that say more than error; NULL: nothing more */
	const struct hark_tls_info *tls; /* NULL: none, or its handshake failed */
	const char *subject;             /* of the client's certificate; NULL: it showed none */
	const char *ended;               /* what cut it: "lifetime", "drain"; NULL: nothing */
};

/* One thing known of it, by the name that it has in JSON, in syslog's structured data and in the journal. */
struct log_field {
	const char *name;
	enum { LOG_STRING, LOG_INTEGER, LOG_SECONDS } kind;
	const char *s;
	int64_t n; /* LOG_SECONDS: nanoseconds; LOG_INTEGER -1: not known */
};

#define LOG_FIELDS_MAX  21
#define LOG_FIELDS_OPEN 8 /* the first ones: known when it begins */

/* Returns how many. */
int log_connection_fields(const struct log_connection *c, struct log_field f[LOG_FIELDS_MAX]);

/* Of the line that both write: the object begins with when, how grave, what, and which process tells it. */
void log_json_begin(struct json *j, int64_t realtime_ns, const char *level, const char *event);
void log_json_fields(struct json *j, const struct log_field *f, int n);

/* "2026-11-21T15:00:00.123Z", with so many digits of the second. */
void log_add_time(struct text *t, int64_t realtime_ns, int digits);
int64_t log_realtime_ns(void);

/* waitpid(2)'s, in words: "exit status 3", "killed by signal 15 (Terminated)". */
void log_add_status(struct text *t, int status);

/* How it ended, in words: "done", "lifetime, killed by signal 15 (Terminated)". */
void log_add_outcome(struct text *t, const struct log_connection *c);

/* Fills in what c tells itself: addresses, the peer's user, times; buffers are the caller's. */
struct log_room {
	char peer[HARK_ADDRESS_MAX], local[HARK_ADDRESS_MAX];
	struct hark_credentials user;
	struct hark_tls_info tls;
	struct hark_certificate certificate;
};
void log_connection_describe(struct log_connection *l, struct hark_conn *c, struct log_room *room);

#endif
