/* listen_unix.c — binding to a path, what is there already, and taking it away.
 *
 * The kernel never removes a socket's path, so a server that died leaves one, and bind(2) says EADDRINUSE whether
 * or not somebody listens. Only connecting tells: ECONNREFUSED is nobody. It is also the answer of a server
 * between its bind(2) and its listen(2), so the question is put twice, a moment apart, and the file must be the
 * same one before it is removed. Between that look and unlink(2) another starter might replace it: so the path is
 * moved aside first, looked at again, and put back if it is not the one. It is told by its number, which no other file
 * gets while a descriptor holds it. No lock: whoever can open the directory could hold that. What is not a socket is
 * never touched.
 *
 * Mode and owner are set between bind and listen: before anybody can connect; by a descriptor, as a link may be in the
 * path's place by then, where the directory is somebody else's. Names of users are looked up before anything is made.
 * Caller's thread or fiber; nothing is kept. */
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "address/endpoint.h"
#include "address/fd.h"
#include "base/sys.h"
#include "conn/listen.h"

#define SECOND_LOOK_NS (20 * HARK_MS) /* from bind to listen takes a server less, but for name services */
#define TRIES          3              /* binds; more would be a fight with another starter */

struct owner {
	uid_t uid; /* (uid_t)-1: left as it is */
	gid_t gid;
};

static const char *path_of(const struct hark_endpoint *at)
{
	return ((const struct sockaddr_un *)&at->addr)->sun_path;
}

/* A decimal id, or what a look-up of the name gives. -EINVAL, with the name in hint. */
static int find_id(const char *name, bool group, unsigned *out, struct hark__hint *hint)
{
	char space[4096], *end;
	struct passwd user, *found_user = NULL;
	struct group g, *found_group = NULL;
	unsigned long value = strtoul(name, &end, 10);
	if (name[0] >= '0' && name[0] <= '9' && *end == '\0' && value < UINT32_MAX) {
		*out = (unsigned)value;
		return 0;
	}
	if (group)
		(void)getgrnam_r(name, &g, space, sizeof space, &found_group);
	else
		(void)getpwnam_r(name, &user, space, sizeof space, &found_user);
	if (found_group == NULL && found_user == NULL) {
		(void)snprintf(hint->room, sizeof hint->room, "unix_owner: this machine has no %s \"%s\"",
		               group ? "group" : "user", name);
		hint->text = hint->room;
		return -EINVAL;
	}
	*out = group ? found_group->gr_gid : found_user->pw_uid;
	return 0;
}

/* "user", "user:group", ":group". */
static int parse_owner(const char *text, struct owner *out, struct hark__hint *hint)
{
	char name[128];
	const char *colon;
	*out = (struct owner){(uid_t)-1, (gid_t)-1};
	if (text == NULL)
		return 0;
	if (snprintf(name, sizeof name, "%s", text) >= (int)sizeof name) {
		hint->text = "unix_owner is longer than any name";
		return -EINVAL;
	}
	colon = strchr(text, ':');
	if (colon != NULL)
		name[colon - text] = '\0';
	if (name[0] != '\0' && find_id(name, false, &out->uid, hint) < 0)
		return -EINVAL;
	if (colon != NULL && find_id(colon + 1, true, &out->gid, hint) < 0)
		return -EINVAL;
	return 0;
}

/* Whether somebody listens at the path: -EADDRINUSE; 0: nobody does; another -errno: cannot be told. */
static int probe(const struct hark_endpoint *at)
{
	int fd = hark__fd_socket(AF_UNIX, at->type, SOCK_NONBLOCK);
	if (fd < 0)
		return fd;
	int rc = hark__sys.connect(fd, (const struct sockaddr *)&at->addr, at->len) < 0 ? -errno : 0;
	(void)hark__sys.close(fd);
	switch (rc) {
	case -ECONNREFUSED:
	case -ENOENT: return 0;
	case 0:
	case -EAGAIN:     /* its backlog is full */
	case -EPROTOTYPE: /* it is of another type */
	case -EPERM: /* a datagram socket that is connected to somebody else */ return -EADDRINUSE;
	default: return rc;
	}
}

static int probe_twice(const struct hark_endpoint *at)
{
	int rc = probe(at);
	if (rc == 0)
		rc = hark_sleep(SECOND_LOOK_NS);
	return rc == 0 ? probe(at) : rc;
}

static bool same_file(const struct stat *a, const struct stat *b)
{
	return a->st_dev == b->st_dev && a->st_ino == b->st_ino;
}

/* Removes the path if it is that file, which the caller holds open. -ESTALE: another server has come to it. */
static int take_away(const char *path, const struct stat *dead, int held)
{
	struct stat now;
	char aside[HARK_PATH_MAX + 40];
	if (hark__sys.lstat(path, &now) < 0)
		return errno == ENOENT ? 0 : -errno;
	if (!same_file(&now, dead))
		return -ESTALE;
	(void)snprintf(aside, sizeof aside, "%s.%d-%d", path, (int)getpid(), held);
	if (hark__sys.rename(path, aside) < 0)
		return errno == ENOENT ? 0 : -errno;
	int rc = hark__sys.lstat(aside, &now) < 0 ? -errno : same_file(&now, dead) ? 0 : -ESTALE;
	if (rc < 0)
		(void)hark__sys.link(aside, path);
	if (hark__sys.unlink(aside) < 0 && rc == 0) {
		rc = -errno;
		(void)hark__sys.rename(aside, path);
	}
	return rc;
}

/* bind(2) found the path taken. 0: it is free now. */
static int clear_path(const struct hark_endpoint *at, struct hark__hint *hint)
{
	struct stat found;
	const char *path = path_of(at);
	int held = hark__sys.open(path, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	if (held < 0)
		return errno == ENOENT ? 0 : -errno;
	int rc = hark__sys.fstat(held, &found) < 0 ? -errno : S_ISSOCK(found.st_mode) ? probe_twice(at) : -EEXIST;
	if (rc == -EADDRINUSE)
		hint->text = "a live server has this path: ss -xlp tells which";
	else if (rc == -EEXIST)
		hint->text = "the path exists and is not a socket: it is not removed";
	else if (rc < 0 && rc != -ECANCELED)
		hint->text = "the path exists, and whether a server lives there cannot be told";
	if (rc == 0) {
		rc = take_away(path, &found, held);
		if (rc < 0)
			hint->text = rc == -ESTALE ? "another server has just come to this path"
			                           : "a dead server left the path, and it cannot be removed";
	}
	(void)hark__sys.close(held);
	return rc == -EEXIST || rc == -ESTALE ? -EADDRINUSE : rc;
}

static int bind_clearing(int fd, const struct hark_endpoint *at, struct hark__hint *hint)
{
	bool abstract = path_of(at)[0] == '\0';
	int rc = -EADDRINUSE;
	for (int i = 0; i < TRIES && rc == -EADDRINUSE; i++) {
		rc = hark__sys.bind(fd, (const struct sockaddr *)&at->addr, at->len) < 0 ? -errno : 0;
		if (rc != -EADDRINUSE)
			break;
		if (abstract) {
			hint->text = "a live server has this name: ss -xlp tells which";
			return rc;
		}
		int cleared = clear_path(at, hint);
		if (cleared < 0) {
			rc = cleared;
			break;
		}
	}
	if (hint->text != NULL)
		return rc;
	if (rc == -ENOENT)
		hint->text = "there is no such directory";
	else if (rc == -EACCES)
		hint->text = "the directory lets this user make nothing";
	return rc;
}

/* through: the path by which what was opened with O_PATH can be changed; fchmod(2) and fchown(2) take no such
 * descriptor. */
static int set_mode_and_owner(const char *through, const struct hark_listen_opts *opts, const struct owner *owner,
                              struct hark__hint *hint)
{
	if (opts->unix_mode != 0 && hark__sys.chmod(through, opts->unix_mode & 07777) < 0) {
		hint->text = "unix_mode cannot be set";
		return -errno;
	}
	if (opts->unix_owner != NULL && hark__sys.chown(through, owner->uid, owner->gid) < 0) {
		hint->text = "unix_owner cannot be set";
		return -errno;
	}
	return 0;
}

/* made: what is at the path now. */
static int find_made(const char *path, int *fd, struct stat *made)
{
	*fd = hark__sys.open(path, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	if (*fd < 0)
		return -errno;
	int rc = hark__sys.fstat(*fd, made) < 0 ? -errno
	         : S_ISSOCK(made->st_mode)      ? 0
	                                        : -EADDRINUSE; /* somebody was faster */
	return rc < 0 ? hark__fd_fail(*fd, rc) : 0;
}

static void unlink_if(const char *path, dev_t dev, ino_t ino)
{
	struct stat st;
	if (hark__sys.lstat(path, &st) == 0 && S_ISSOCK(st.st_mode) && st.st_dev == dev && st.st_ino == ino)
		(void)hark__sys.unlink(path);
}

/* Keeps what was made, by its absolute path. Without memory it is removed. */
static int keep_path(const char *path, const struct stat *st, struct hark__unix_path **out)
{
	char directory[PATH_MAX] = "";
	if (path[0] != '/' && hark__sys.getcwd(directory, sizeof directory) == NULL)
		directory[0] = '\0'; /* it has none that is reachable: the path as it is must do */
	size_t n = strlen(directory) + 1 + strlen(path) + 1;
	struct hark__unix_path *p = hark__sys.malloc(sizeof *p + n);
	if (p == NULL) {
		unlink_if(path, st->st_dev, st->st_ino);
		return -ENOMEM;
	}
	*p = (struct hark__unix_path){.maker = getpid(), .dev = st->st_dev, .ino = st->st_ino};
	(void)snprintf(p->text, n, "%s%s%s", directory, directory[0] != '\0' ? "/" : "", path);
	*out = p;
	return 0;
}

void hark__unix_path_remove(struct hark__unix_path *p)
{
	if (p != NULL && p->maker == getpid())
		unlink_if(p->text, p->dev, p->ino);
	free(p);
}

int hark__unix_bind(int fd, const struct hark_endpoint *at, const struct hark_listen_opts *opts,
                    struct hark__unix_path **made, struct hark__hint *hint)
{
	struct owner owner;
	const char *path = path_of(at);
	int rc = parse_owner(opts->unix_owner, &owner, hint);
	/* The path begins with what the umask leaves of this: no datagram comes by rights that are taken away next. */
	if (opts->unix_mode != 0)
		(void)hark__sys.fchmod(fd, opts->unix_mode & 07777);
	if (rc == 0)
		rc = bind_clearing(fd, at, hint);
	*made = NULL;
	if (rc < 0 || path[0] == '\0')
		return rc;
	struct stat found;
	char through[32];
	int path_fd;
	rc = find_made(path, &path_fd, &found);
	if (rc < 0) {
		if (hark__sys.lstat(path, &found) == 0) /* else gone, or out of reach */
			unlink_if(path, found.st_dev, found.st_ino);
		return rc;
	}
	(void)snprintf(through, sizeof through, "/proc/self/fd/%d", path_fd);
	rc = set_mode_and_owner(through, opts, &owner, hint);
	if (rc == -ENOENT) /* no /proc here */
		rc = set_mode_and_owner(path, opts, &owner, hint);
	(void)hark__sys.close(path_fd);
	if (rc < 0)
		unlink_if(path, found.st_dev, found.st_ino);
	return rc < 0 ? rc : keep_path(path, &found, made);
}
