/* program_stderr.c — see program_stderr.h.
 *
 * To the log it goes through a pipe, which a thread of the worker reads: under inline the worker's loop stands still
 * while a program runs. Also where the log is standard error: a program that writes to it would wait for its reader. */
#include "program_stderr.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "descriptors.h"
#include "log.h"

#define SAID_MAX 1000 /* bytes of a line; a longer one is several */
#define REST_MS  100  /* for what lies in the pipe when the worker ends */

static struct {
	int pipe; /* its reading end; -1: none */
	int stop; /* readable: the reader ends */
	pthread_t reader;
	const char *service;
	char said[2 * SAID_MAX]; /* what no line's end has come of yet: one reader takes it over from another */
	size_t have;
} self = {.pipe = -1};

static int tell(struct hark_why *why, int err, const char *what)
{
	(void)snprintf(why->text, sizeof why->text, "%s: %s", what, hark_strerror(err));
	return err;
}

/* Logs the whole lines; the last, unfinished one is left. */
static void take_lines(void)
{
	size_t begin = 0;
	for (size_t at = 0; at < self.have; at++) {
		bool ends = self.said[at] == '\n', full = at + 1 - begin == SAID_MAX;
		if (!ends && !full)
			continue;
		int len = (int)(at - begin + !ends);
		if (len > 0)
			log_event(LOG_LEVEL_NOTICE, self.service, "%.*s", len, self.said + begin);
		begin = at + 1;
	}
	self.have -= begin;
	memmove(self.said, self.said + begin, self.have);
}

/* False: nobody writes there any more. */
static bool take_some(void)
{
	ssize_t n = read(self.pipe, self.said + self.have, sizeof self.said - self.have);
	if (n < 0 && errno == EINTR)
		return true;
	if (n > 0) {
		self.have += (size_t)n;
		take_lines();
	} else if (self.have > 0) {
		log_event(LOG_LEVEL_NOTICE, self.service, "%.*s", (int)self.have, self.said);
	}
	return n > 0;
}

/* Until nobody writes there any more: true; or until stop, unless it is -1, is readable, or the deadline is over. */
static bool read_said(int stop, int64_t deadline)
{
	struct pollfd p[] = {{.fd = self.pipe, .events = POLLIN}, {.fd = stop, .events = POLLIN}};
	while (p[1].revents == 0 && hark_now() < deadline)
		if (poll(p, 2, deadline == HARK_FOREVER ? -1 : REST_MS) > 0 && p[0].revents != 0 && !take_some())
			return true;
	return false;
}

static void *read_until_stop(void *arg)
{
	(void)read_said(self.stop, HARK_FOREVER);
	return arg;
}

static int open_pipe(struct hark_why *why)
{
	int ends[2];
	int r = log_leave_stderr();
	if (r < 0)
		return tell(why, r, "log");
	if (pipe2(ends, O_CLOEXEC) < 0)
		return tell(why, -errno, "pipe");
	r = dup2(ends[1], 2) < 0 ? -errno : 0;
	(void)close(ends[1]);
	self.pipe = ends[0];
	return r < 0 ? tell(why, r, "pipe") : 0;
}

int program_stderr_begin(const char *service, struct hark_why *why)
{
	sigset_t all, before;
	int r = open_pipe(why);
	if (r < 0)
		return r;
	self.service = service;
	self.stop = eventfd(0, EFD_CLOEXEC);
	if (self.stop < 0)
		return tell(why, -errno, "eventfd");
	(void)sigfillset(&all);
	(void)pthread_sigmask(SIG_SETMASK, &all, &before); /* signals are the serving thread's */
	r = pthread_create(&self.reader, NULL, read_until_stop, NULL);
	(void)pthread_sigmask(SIG_SETMASK, &before, NULL);
	return r != 0 ? tell(why, -r, "thread") : 0;
}

/* The thread ends before the fork: else what it has read would be lost with it, and the child could find the C
 * library's locks taken. */
void program_stderr_end(void)
{
	if (self.pipe < 0)
		return;
	int null = open("/dev/null", O_WRONLY | O_CLOEXEC);
	if (null < 0 || dup2(null, 2) < 0) /* the pipe's last writer is a program now, or nobody */
		(void)close(2);
	(void)!write(self.stop, &(uint64_t){1}, sizeof(uint64_t));
	(void)pthread_join(self.reader, NULL);
	if (read_said(-1, hark_after(REST_MS * HARK_MS)) || fork() != 0)
		return;
	int keep[] = {self.pipe, log_fd(), log_followed()};
	descriptors_keep(keep, (int)(sizeof keep / sizeof *keep));
	(void)signal(SIGTERM, SIG_DFL);
	(void)read_said(-1, HARK_FOREVER);
	_exit(0);
}
