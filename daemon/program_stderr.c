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
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "descriptors.h"
#include "log.h"

#define SAID_MAX 1000 /* bytes of a line; a longer one is several */
#define REST_MS  100  /* for what lies in the pipe when the worker ends */

static struct {
	int pipe; /* its reading end; -1: none */
	pthread_t reader;
	const char *service;
} self = {.pipe = -1};

static int tell(struct hark_why *why, int err, const char *what)
{
	(void)snprintf(why->text, sizeof why->text, "%s: %s", what, hark_strerror(err));
	return err;
}

/* Takes whole lines off the front of said. Returns how many bytes of the last, unfinished one are left. */
static size_t take_lines(char *said, size_t n)
{
	size_t begin = 0;
	for (size_t at = 0; at < n; at++) {
		bool full = at + 1 - begin == SAID_MAX;
		if (said[at] != '\n' && !full)
			continue;
		int len = (int)(at - begin + (said[at] != '\n'));
		if (len > 0)
			log_event(LOG_LEVEL_NOTICE, self.service, "%.*s", len, said + begin);
		begin = at + 1;
	}
	memmove(said, said + begin, n - begin);
	return n - begin;
}

static void *read_all(void *arg)
{
	char said[2 * SAID_MAX];
	size_t have = 0;
	ssize_t n;
	while ((n = read(self.pipe, said + have, sizeof said - have)) > 0 || (n < 0 && errno == EINTR))
		have = take_lines(said, have + (n > 0 ? (size_t)n : 0));
	if (have > 0)
		log_event(LOG_LEVEL_NOTICE, self.service, "%.*s", (int)have, said);
	return arg;
}

int program_stderr_open(struct hark_why *why)
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

int program_stderr_begin(const char *service)
{
	sigset_t all, before;
	if (self.pipe < 0)
		return 0;
	self.service = service;
	(void)sigfillset(&all);
	(void)pthread_sigmask(SIG_SETMASK, &all, &before); /* signals are the serving thread's */
	int r = pthread_create(&self.reader, NULL, read_all, NULL);
	(void)pthread_sigmask(SIG_SETMASK, &before, NULL);
	return -r;
}

/* Not pthread_timedjoin_np(3): its clock may be set back meanwhile. */
static bool reader_ended(void)
{
	int r = pthread_tryjoin_np(self.reader, NULL);
	for (int ms = 0; r == EBUSY && ms < REST_MS; ms++) {
		(void)poll(NULL, 0, 1);
		r = pthread_tryjoin_np(self.reader, NULL);
	}
	return r == 0;
}

void program_stderr_end(void)
{
	if (self.pipe < 0)
		return;
	int null = open("/dev/null", O_WRONLY | O_CLOEXEC);
	if (null < 0 || dup2(null, 2) < 0) /* the pipe's last writer is a program now, or nobody */
		(void)close(2);
	if (reader_ended() || fork() != 0)
		return;
	int keep[] = {self.pipe, log_fd(), log_followed()};
	descriptors_keep(keep, (int)(sizeof keep / sizeof *keep));
	(void)signal(SIGTERM, SIG_DFL);
	(void)read_all(NULL);
	_exit(0);
}
