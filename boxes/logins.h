/* logins.h — who is logged in on this host, as utmp(5) tells. Any fiber or thread: no state is shared. */
#ifndef BOX_LOGINS_H
#define BOX_LOGINS_H

#include <stdbool.h>
#include <utmp.h>

#include "reply.h"

#define LOGIN_NAME_BYTES UT_NAMESIZE /* bytes of a user name in utmp; there need not be a NUL after them */

/* The state of users and of loggedin. */
struct logins {
	struct reply_rules rules;
	const char *path; /* NULL: the system's */
};

/* Calls each(name, arg) for each session's user, a name of several sessions several times, until each returns false.
 * A machine without utmp has no sessions. path NULL: the system's file. 0, or -errno of a file that is there and
 * cannot be read. */
int logins_walk(const char *path, bool (*each)(const char *name, void *arg), void *arg);

/* The options of both boxes. */
extern const struct hark_option logins_options[];

#endif
