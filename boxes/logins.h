/* logins.h — who is logged in on this host, as utmp(5) tells. Any fiber or thread: no state is shared. */
#ifndef BOX_LOGINS_H
#define BOX_LOGINS_H

#include <limits.h>
#include <stdbool.h>
#include <utmp.h>

#include "options.h"
#include "reply.h"

#define LOGIN_NAME_BYTES UT_NAMESIZE /* bytes of a user name in utmp; there need not be a NUL after them */

/* The arg of users and of loggedin. */
struct logins {
	struct reply_rules rules;
	char path[PATH_MAX]; /* empty: the system's */
};

/* Calls each(name, arg) for each session's user, a name of several sessions several times, until each returns false.
 * A machine without utmp has no sessions. path NULL: the system's file. 0, or -errno of a file that is there and
 * cannot be read. */
int logins_walk(const char *path, bool (*each)(const char *name, void *arg), void *arg);

/* The open of both boxes; reply_close() closes. */
int logins_open(int argc, char *const argv[], void **arg, struct hark_why *why);

#endif
