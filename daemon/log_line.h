/* log_line.h — how a line of harkd's log looks: text, JSON, RFC 5424, the journal's fields. hark-log(5) is its promise.
 *
 * Lines are rendered into the caller's buffer, at most TEXT_LINE_MAX bytes, and end with a newline where a stream takes
 * them. */
#ifndef LOG_LINE_H
#define LOG_LINE_H

#include "log.h"
#include "text.h"

/* What a line tells: an event's message, or a connection. */
struct log_line {
	enum log_level level;
	const char *service; /* may be NULL */
	const char *message; /* NULL: a connection */
	const struct log_connection *conn;
};

struct log_form {
	enum config_log_format format;
	int facility; /* syslog's */
};

typedef void log_render(struct text *t, const struct log_form *f, const struct log_line *e);

log_render log_line_stderr, log_line_file, log_line_syslog, log_line_journal;

#endif
