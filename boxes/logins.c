/* logins.c — see logins.h.
 *
 * getutxent(3) keeps one position for the whole process and sets an alarm(2) while it locks: neither is for a server
 * of many at once. Its file is a plain array of struct utmp; a writer replaces one record by one write(2). So it is
 * read directly, many records at a time. It lies in memory (/run) and is a few kilobytes: no reason to leave the loop
 * for it. */
#include "logins.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define AT_ONCE     16   /* records; 6 KB of stack */
#define RECORDS_MAX 8192 /* looked at: a bound for a file that grows while it is read */

/* A session whose process is gone without its record's having been cleared is over, as who(1) sees it. */
static bool is_session(const struct utmp *u)
{
	return u->ut_type == USER_PROCESS && u->ut_user[0] != '\0' &&
	       (u->ut_pid <= 0 || kill(u->ut_pid, 0) == 0 || errno != ESRCH);
}

static ssize_t read_records(int fd, struct utmp *to)
{
	ssize_t n;
	do
		n = read(fd, to, AT_ONCE * sizeof *to);
	while (n < 0 && errno == EINTR);
	return n < 0 ? -errno : n / (ssize_t)sizeof *to;
}

int logins_walk(const char *path, bool (*each)(const char *name, void *arg), void *arg)
{
	struct utmp records[AT_ONCE];
	char name[LOGIN_NAME_BYTES + 1];
	ssize_t n = 0;
	bool on = true;
	int fd = open(path != NULL && *path != '\0' ? path : _PATH_UTMP, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	if (fd < 0)
		return errno == ENOENT ? 0 : -errno;
	for (int seen = 0; on && seen < RECORDS_MAX && (n = read_records(fd, records)) > 0; seen += (int)n) {
		for (ssize_t i = 0; on && i < n; i++) {
			if (!is_session(&records[i]))
				continue;
			memcpy(name, records[i].ut_user, LOGIN_NAME_BYTES);
			name[LOGIN_NAME_BYTES] = '\0';
			on = each(name, arg);
		}
	}
	(void)close(fd);
	return n < 0 ? (int)n : 0;
}

const struct hark_option logins_options[] = {
	{"utmp", HARK_OPTION_PATH, offsetof(struct logins, path), "FILE", "who is logged in, in the form of utmp(5)"},
	REPLY_ANY_PORT,
	REPLY_LONGER,
	{NULL},
};
