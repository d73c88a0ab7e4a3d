/* users.c — users and groups by name, or by number where no name is so. The database may be slow (NSS): main thread,
 * at start. */
#include "inside.h"

#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "number.h"

/* The highest number but the one that means none. */
#define ID_MAX ((int64_t)UINT32_MAX - 1)

/* What the manual names as "not found" among getpwnam(3)'s errors. */
static int why_not(void)
{
	return errno == 0 || errno == ENOENT || errno == ESRCH || errno == EBADF || errno == EPERM ? -ENOENT : -errno;
}

int users_find(const char *name, uid_t *uid, gid_t *gid)
{
	int64_t number;

	errno = 0;
	const struct passwd *p = getpwnam(name);
	int err = why_not();
	if (p == NULL && number_parse(name, "", &number) == 0 && number <= ID_MAX) {
		p = getpwuid((uid_t)number);
		if (p == NULL) {
			*uid = (uid_t)number;
			*gid = (gid_t)-1; /* a number that has no entry has no group */
			return 0;
		}
	}
	if (p == NULL)
		return err;
	*uid = p->pw_uid;
	*gid = p->pw_gid;
	return 0;
}

int users_find_group(const char *name, gid_t *gid)
{
	int64_t number;

	errno = 0;
	const struct group *g = getgrnam(name);
	int err = why_not();
	if (g != NULL) {
		*gid = g->gr_gid;
		return 0;
	}
	if (number_parse(name, "", &number) < 0 || number > ID_MAX)
		return err;
	*gid = (gid_t)number;
	return 0;
}

const char *users_variable(uid_t uid, size_t i, char *text, size_t cap)
{
	static const char *const names[] = {"USER", "LOGNAME", "HOME", "SHELL"};
	const struct passwd *p = getpwuid(uid);

	if (p == NULL || i >= sizeof names / sizeof names[0])
		return NULL;
	const char *const values[] = {p->pw_name, p->pw_name, p->pw_dir,
	                              p->pw_shell[0] != '\0' ? p->pw_shell : "/bin/sh"};
	int n = snprintf(text, cap, "%s=%s", names[i], values[i]);
	return n > 0 && (size_t)n < cap ? text : "";
}

int users_groups(uid_t uid, gid_t gid, gid_t **groups, size_t *n)
{
	int count = 32;
	gid_t *list = malloc((size_t)count * sizeof *list);
	const struct passwd *p = getpwuid(uid); /* and not the name that was given: it may be a number */

	if (list != NULL && p == NULL) {
		list[0] = gid;
		*groups = list;
		*n = 1;
		return 0;
	}
	while (list != NULL) {
		int room = count;
		if (getgrouplist(p->pw_name, gid, list, &count) >= 0) {
			*groups = list;
			*n = (size_t)count;
			return 0;
		}
		count = count > room ? count : 2 * room;
		gid_t *more = count <= GROUPS_MAX ? realloc(list, (size_t)count * sizeof *list) : NULL;
		if (more == NULL)
			free(list);
		list = more;
	}
	return -ENOMEM;
}
