/* log_support.h — what the tests of harkd's log share: standard error, /dev/log and the journal, played by descriptors
 * of the test's own. While a test has standard error in its hands nothing is asserted: what fails would be told to
 * nobody. */
#ifndef LOG_SUPPORT_H
#define LOG_SUPPORT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "log.h"

static char directory[] = "/tmp/hark-log-XXXXXX";
static int saved_stderr;

static inline struct log_connection connection(void)
{
	return (struct log_connection){
		.service = "daytime",
		.box = "daytime",
		.peer = "tcp://127.0.0.1:4711",
		.local = "tcp://127.0.0.1:13",
		.pid = 72,
		.opened_realtime_ns = INT64_C(1795273200123456789),
		.duration_ns = 1203000,
		.bytes_in = 0,
		.bytes_out = 26,
	};
}

/* A path in the test's directory; good until the next but one. */
static inline char *in_directory(const char *name)
{
	static char paths[2][128];
	static int turn;
	char *path = paths[turn++ % 2];

	(void)snprintf(path, sizeof paths[0], "%s/%s", directory, name);
	return path;
}

static inline void open_log(const char *to, enum config_log_format format)
{
	struct config c = {.log = (char *)to, .log_format = format, .log_connections = true};
	struct hark_why why = {""};

	if (log_open(&c, &why) != 0)
		fail_msg("%s", why.text);
}

/* Standard error becomes fd until give_back(). */
static inline void take_stderr(int fd)
{
	saved_stderr = dup(2);
	assert_true(saved_stderr > 2 && dup2(fd, 2) == 2);
}

static inline void give_back(void)
{
	(void)dup2(saved_stderr, 2);
	(void)close(saved_stderr);
}

/* All that there is to read now. */
static inline size_t drain(int fd, char *buf, size_t cap)
{
	size_t len = 0;

	while (len < cap - 1 && poll(&(struct pollfd){.fd = fd, .events = POLLIN}, 1, 0) == 1) {
		ssize_t n = read(fd, buf + len, cap - 1 - len);
		if (n <= 0)
			break;
		len += (size_t)n;
	}
	buf[len] = '\0';
	return len;
}

static char text[1 << 20];

/* A daemon's socket, and the environment that leads to it. */
static inline int daemon_socket(const char *name, const char *variable)
{
	struct sockaddr_un at = {.sun_family = AF_UNIX};
	const char *path = in_directory(name);
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	(void)unlink(path);
	memcpy(at.sun_path, path, strlen(path) + 1);
	assert_true(fd >= 0 && bind(fd, (struct sockaddr *)&at, sizeof at) == 0);
	assert_int_equal(setenv(variable, path, 1), 0);
	return fd;
}

/* The next datagram, NUL-terminated. */
static inline const char *next(int fd)
{
	assert_int_equal(poll(&(struct pollfd){.fd = fd, .events = POLLIN}, 1, 0), 1);
	ssize_t n = recv(fd, text, sizeof text - 1, 0);
	assert_true(n >= 0);
	text[n] = '\0';
	assert_int_equal(strlen(text), n);
	return text;
}

/* What comes after the header, which is checked: <pri>1 TIME HOST harkd PID. */
static inline const char *syslog_rest(const char *line, int pri)
{
	int got, pid, at = 0, year, month, day, hour, minute, second, us;
	char host[256];

	if (sscanf(line, "<%d>1 %4d-%2d-%2dT%2d:%2d:%2d.%6dZ %255s harkd %d %n", &got, &year, &month, &day, &hour,
	           &minute, &second, &us, host, &pid, &at) != 10 ||
	    at == 0)
		fail_msg("no header: %s", line);
	assert_int_equal(got, pri);
	assert_int_equal(pid, getpid());
	return line + at;
}

static inline int make_directory(void **state)
{
	(void)state;
	return mkdtemp(directory) == NULL ? -1 : 0;
}

static inline int remove_directory(void **state)
{
	(void)state;
	char command[64];

	(void)snprintf(command, sizeof command, "rm -r %s", directory);
	return system(command);
}

#endif
