/* log.h — harkd's log: a line for each connection and for each thing that happens to a service, as text or JSON, to
 * standard error, a file, syslog (RFC 5424 over /dev/log) or the journal.
 *
 * A line is built in the caller's stack and leaves by one system call that does not wait: where it cannot leave at once
 * it is dropped and counted, because a log must not stop a service. Any process of harkd, any thread; never from a
 * signal handler. */
#ifndef LOG_H
#define LOG_H

#include "config.h"
#include "counters.h"
#include "hark.h"
#include "log_connection.h"

enum log_level {
	LOG_LEVEL_ERROR = 3,
	LOG_LEVEL_WARNING = 4,
	LOG_LEVEL_NOTICE = 5,
	LOG_LEVEL_INFO = 6
}; /* RFC 5424's severities */

/* Opens the log that c asks for; called again after a reload (a file that was moved away is made anew). 0 or -errno
 * with why; on failure what was open before stays. Before the first call lines go to standard error as text. */
int log_open(const struct config *c, struct hark_why *why);

/* What happens: "harkd: SERVICE: words" on standard error; in JSON an object of time, level, service, message. service
 * may be NULL. */
void log_event(enum log_level level, const char *service, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

/* dropped: counted up if the line was lost; may be NULL. */
void log_connection(const struct log_connection *l, _Atomic uint64_t *dropped);

/* Descriptor 2 is about to become another file, that of a service's programs: lines that go to standard error go on to
 * what it is now, by another descriptor. 0 or -errno. */
int log_leave_stderr(void);

/* How a worker hears of a log file made anew: the supervisor puts its descriptor into a socket, where every process of
 * the worker finds it (MSG_PEEK), whoever it has become; the supervisor alone takes it out again. */
struct log_channel {
	int to;   /* the supervisor's end; -1: there is none */
	int from; /* both have it */
};

int log_channel_open(struct log_channel *c); /* 0 or -errno: none. There is none where no file is logged to */
void log_channel_close(struct log_channel *c);
void log_channel_send(const struct log_channel *c); /* after log_open(): the descriptor that is in use now */
void log_follow(int from); /* the worker's part, and its first: then it shares nothing of the log with others */
int log_followed(void);    /* what it follows, to be kept as log_fd() is; -1: nothing */

/* The descriptor in use, or -1: a worker keeps it when it closes all that is not its own. */
int log_fd(void);

#endif
