/* terminal.c — see terminal.h. */
#include "terminal.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "descriptors.h"
#include "text.h"

#define CHUNK    4096 /* bytes copied at a time */
#define FLUSH_MS 200  /* at exit, for what is still in the pipe */

static pid_t owner; /* who called terminal_detach(): its forked children do not wait at their exit */

/* A terminal that is gone takes nothing more; its writers go on all the same. */
static void show(int terminal, const char *bytes, size_t n)
{
	while (n > 0) {
		ssize_t wrote = write(terminal, bytes, n);
		if (wrote < 0 && errno != EINTR)
			return;
		bytes += wrote > 0 ? wrote : 0;
		n -= wrote > 0 ? (size_t)wrote : 0;
	}
}

/* Line ends and tabs are the only control characters that stay. */
static void scrub(char *bytes, size_t n)
{
	for (size_t at = 0; at < n;) {
		size_t len = 0;
		while (at + len < n && bytes[at + len] != '\n' && bytes[at + len] != '\t')
			len++;
		text_scrub(&(struct text){.buf = bytes + at, .cap = len, .len = len});
		at += len + 1;
	}
}

static _Noreturn void copy(int from, int terminal)
{
	char buf[CHUNK], next[4];
	size_t kept = 0;
	ssize_t n;
	/* Its writers decide when it ends; and a job in the background may write. */
	static const int ignored[] = {SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTTOU};
	for (size_t i = 0; i < sizeof ignored / sizeof *ignored; i++)
		(void)signal(ignored[i], SIG_IGN);
	(void)prctl(PR_SET_NAME, "terminal");
	while ((n = read(from, buf + kept, CHUNK - kept)) > 0 || (n < 0 && errno == EINTR)) {
		if (n < 0)
			continue;
		size_t have = kept + (size_t)n;
		kept = text_unfinished(buf, have);
		memcpy(next, buf + have - kept, kept);
		scrub(buf, have - kept);
		show(terminal, buf, have - kept);
		memcpy(buf, next, kept);
	}
	_exit(0);
}

/* So that a shell's prompt comes after the last words. */
static void await_empty(void)
{
	int waiting = 0;
	if (getpid() != owner)
		return;
	(void)fflush(NULL);
	for (int ms = 0; ms < FLUSH_MS; ms += 5) {
		if ((ioctl(STDERR_FILENO, FIONREAD, &waiting) < 0 || waiting == 0) &&
		    (ioctl(STDOUT_FILENO, FIONREAD, &waiting) < 0 || waiting == 0))
			return;
		(void)poll(NULL, 0, 5);
	}
}

/* Forks who copies. Nothing of ours is left to it but the pipe and the terminal. */
static int start(int from, int to, int terminal)
{
	pid_t pid = fork();
	if (pid < 0)
		return -errno;
	if (pid > 0)
		return 0;
	(void)close(to);
	int high = fcntl(terminal, F_DUPFD, 10), low = fcntl(from, F_DUPFD, 10);
	if (high < 0 || low < 0 || dup2(low, 0) < 0 || dup2(high, 1) < 0)
		_exit(1);
	descriptors_close(2, UINT_MAX);
	copy(0, 1);
}

int terminal_detach(void)
{
	bool out = isatty(STDOUT_FILENO), err = isatty(STDERR_FILENO);
	int ends[2], r;
	if (!out && !err)
		return 0;
	(void)fflush(NULL);
	if (pipe2(ends, O_CLOEXEC) < 0)
		return -errno;
	r = start(ends[0], ends[1], err ? STDERR_FILENO : STDOUT_FILENO);
	if (r == 0 && ((out && dup2(ends[1], STDOUT_FILENO) < 0) || (err && dup2(ends[1], STDERR_FILENO) < 0)))
		r = -errno;
	(void)close(ends[0]);
	(void)close(ends[1]);
	owner = getpid();
	if (r == 0)
		(void)atexit(await_empty);
	return r;
}
