/* become.c — see become.h. The main thread of a process that is about to serve. */
#include "become.h"

#include <errno.h>
#include <grp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

/* errno is what failed. */
static int failed(struct hark_why *why, const char *what)
{
	int err = errno;
	(void)snprintf(why->text, sizeof why->text, "%.200s: %s", what, strerror(err));
	return -err;
}

static rlim_t least(rlim_t a, rlim_t b)
{
	return a < b ? a : b;
}

/* As near as may be: who started us is told by config_limit_unmet(). */
static int set_limit(__rlimit_resource_t resource, struct rlimit wanted)
{
	struct rlimit found;
	if (setrlimit(resource, &wanted) == 0)
		return 0;
	if (errno != EPERM || getrlimit(resource, &found) < 0)
		return -1;
	wanted.rlim_max = least(wanted.rlim_max, found.rlim_max);
	wanted.rlim_cur = least(wanted.rlim_cur, wanted.rlim_max);
	return setrlimit(resource, &wanted);
}

int become_limited(const struct config_service *c, struct hark_why *why)
{
	for (unsigned i = 0; i < CONFIG_RLIMITS; i++)
		if ((c->rlimit_set & 1u << i) && set_limit((__rlimit_resource_t)i, c->rlimit[i]) < 0)
			return failed(why, "setrlimit");
	if (c->umask >= 0)
		(void)umask((mode_t)c->umask);
	errno = 0;
	if (c->nice != 0 && nice(c->nice) == -1 && errno != 0)
		return failed(why, "nice");
	return 0;
}

static bool passes(const struct config_words *names, const char *entry)
{
	size_t len = strcspn(entry, "=");
	for (size_t i = 0; i < names->n; i++) {
		const char *name = names->word[i];
		size_t n = strlen(name);
		if (n > 0 && name[n - 1] == '*' ? strncmp(entry, name, n - 1) == 0
		                                : n == len && strncmp(entry, name, len) == 0)
			return true;
	}
	return false;
}

int become_environ(const struct config_service *c, struct hark_why *why)
{
	size_t n = 0;
	for (char **e = environ; e != NULL && *e != NULL; e++) {
		if (passes(&c->pass_env, *e))
			environ[n++] = *e;
		else
			explicit_bzero(*e, strlen(*e)); /* not ours to have, where /proc/PID/environ shows it, too */
	}
	if (environ != NULL)
		environ[n] = NULL;
	const struct config_words *more[] = {&c->user_env, &c->env};
	for (size_t k = 0; k < sizeof more / sizeof more[0]; k++)
		for (size_t i = 0; i < more[k]->n; i++)
			if (putenv(more[k]->word[i]) != 0)
				return failed(why, "env");
	return 0;
}

int become_user(const struct config_service *c, struct hark_why *why)
{
	if (c->chroot != NULL && (chroot(c->chroot) < 0 || chdir("/") < 0))
		return failed(why, c->chroot);
	if (c->uid != (uid_t)-1 || c->gid != (gid_t)-1 || c->groups_named) {
		/* Not where it stays who it is: that needs no privilege. */
		bool another = (c->uid != (uid_t)-1 && c->uid != geteuid()) ||
		               (c->gid != (gid_t)-1 && c->gid != getegid());
		if ((geteuid() == 0 || another || c->groups_named) && setgroups(c->n_groups, c->groups) < 0)
			return failed(why, "setgroups");
		if (c->gid != (gid_t)-1 && setresgid(c->gid, c->gid, c->gid) < 0)
			return failed(why, "setgid");
		if (c->uid != (uid_t)-1 && setresuid(c->uid, c->uid, c->uid) < 0)
			return failed(why, "setuid");
	}
	if (c->directory != NULL && chdir(c->directory) < 0)
		return failed(why, c->directory);
	return 0;
}

void become_all_files(const struct config_service *c)
{
	struct rlimit files;
	if ((c->rlimit_set & 1u << RLIMIT_NOFILE) || getrlimit(RLIMIT_NOFILE, &files) < 0)
		return;
	files.rlim_cur = files.rlim_max;
	(void)setrlimit(RLIMIT_NOFILE, &files);
}

int become_unreadable(struct hark_why *why)
{
	return prctl(PR_SET_DUMPABLE, 0) < 0 ? failed(why, "prctl: keys would be readable") : 0;
}
