/* holders.c — see holders.h.
 *
 * While the program runs and has the file, which is nearly always so, two calls tell. Otherwise everything is looked
 * at that may descend from it: what the kernel has numbered since, in a process group that began with the program,
 * which leads one, or later. Of a server's short-lived programs most have no such process: a getpgid(2) for each number
 * since is all it costs.
 *
 * A process that serves one connection alone adopts what its program leaves running: no child, no holder.
 *
 * Where we may not look, whose parent is known to be no descendant has not got it: programs of other services run as
 * other users.
 *
 * Not found: who has got the descriptor by SCM_RIGHTS and is older, or has joined a group that is. */
#include "holders.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "hark.h"

#define NUMBERS_MAX 1000 /* that are tried one by one; where there are more, /proc is listed */
#define DEPTH_MAX   64   /* processes above another that are looked at */

static bool adopts; /* set in a process that has one thread */

static bool same(const struct stat *a, const struct stat *b)
{
	return a->st_dev == b->st_dev && a->st_ino == b->st_ino;
}

/* At most cap-1 bytes, and a NUL. Returns how many; 0: none. */
static size_t read_text(const char *path, char *text, size_t cap)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd >= 0 ? read(fd, text, cap - 1) : -1;
	if (fd >= 0)
		(void)close(fd);
	text[n > 0 ? n : 0] = '\0';
	return n > 0 ? (size_t)n : 0;
}

/* Whether a process has the file at this descriptor: the short way. */
static bool has_at(pid_t pid, int fd, const struct stat *file)
{
	char path[48];
	struct stat st;
	(void)snprintf(path, sizeof path, "/proc/%d/fd/%d", (int)pid, fd);
	return stat(path, &st) == 0 && same(&st, file);
}

/* A process's state and its parent's number; '\0': it has gone. proc(5), /proc/pid/stat */
static char look_up(pid_t pid, pid_t *parent)
{
	char path[32], text[256];
	(void)snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
	const char *name_end = read_text(path, text, sizeof text) > 0 ? strrchr(text, ')') : NULL;
	if (name_end == NULL || strlen(name_end) < 5) /* ") S 1" */
		return '\0';
	*parent = (pid_t)atoi(name_end + 4);
	return name_end[2];
}

enum answer { NO, YES, HIDDEN /* we may not look */ };

/* A zombie has no descriptors, but only root may look. */
static enum answer has(pid_t pid, const struct stat *file)
{
	char path[32];
	struct stat st;
	const struct dirent *e;
	enum answer found = NO;
	pid_t parent;
	(void)snprintf(path, sizeof path, "/proc/%d/fd", (int)pid);
	DIR *d = opendir(path);
	if (d == NULL) {
		if (errno == ENOENT || errno == ESRCH) /* it has ended; or hidepid= hides it */
			return kill(pid, 0) == 0 || errno != ESRCH ? HIDDEN : NO;
		char state = look_up(pid, &parent);
		return state == '\0' || state == 'Z' || state == 'X' ? NO : HIDDEN;
	}
	while (found == NO && (e = readdir(d)) != NULL) {
		if (fstatat(dirfd(d), e->d_name, &st, 0) == 0)
			found = same(&st, file) ? YES : NO;
		else if (errno == EACCES)
			found = HIDDEN;
	}
	(void)closedir(d);
	return found;
}

/* Numbers are given in turn, and begin anew at the end. */
static bool since(pid_t pid, pid_t first, pid_t last)
{
	return first <= last ? pid >= first && pid <= last : pid >= first || pid <= last;
}

/* Whether what of the program's loses its parent may become this one's child: init, we, or one that we descend from
 * (PR_SET_CHILD_SUBREAPER). */
static bool may_adopt(pid_t pid)
{
	pid_t up = getpid();
	for (int i = 0; i < DEPTH_MAX && up > 0 && up != pid; i++)
		if (look_up(up, &up) == '\0')
			return true;
	return up != 0; /* not known: it may */
}

/* Whether one that came after the program may descend from it: not if the first of those above it that were there
 * before can have no other children than its own, as another worker, sshd(8) or cron(8). */
static bool may_descend(pid_t pid, const struct spawned *p, pid_t last)
{
	for (int i = 0; i < DEPTH_MAX && pid != p->pid; i++) {
		pid_t group = getpgid(pid);
		if (group > 0 && !since(group, p->pid, last))
			return may_adopt(pid);
		if (group <= 0 || look_up(pid, &pid) == '\0')
			return true;
	}
	return true;
}

/* Whether a process that came after the program may descend from it, and has the file. */
static bool descendant_has(pid_t pid, const struct spawned *p, pid_t last, const struct stat *file)
{
	if (pid == p->pid || spawn_is_ours(pid))
		return false;
	pid_t group = getpgid(pid);
	if (group <= 0 || !since(group, p->pid, last))
		return false;
	enum answer answer = has(pid, file);
	return answer == YES || (answer == HIDDEN && may_descend(pid, p, last));
}

/* Whether /proc is there and has our numbers: in a container it may be another PID namespace's. pid_namespaces(7) */
static bool has_our_numbers(void)
{
	static _Atomic pid_t asked; /* here it has. Relaxed: a thread that does not see it asks again */
	char text[16];
	pid_t own = getpid();
	if (atomic_load_explicit(&asked, memory_order_relaxed) == own)
		return true;
	ssize_t n = readlink("/proc/self", text, sizeof text - 1);
	text[n > 0 ? n : 0] = '\0';
	if ((pid_t)atoi(text) != own)
		return false;
	atomic_store_explicit(&asked, own, memory_order_relaxed);
	return true;
}

/* The number that was given last; 0: not known. proc(5), /proc/loadavg. */
static pid_t last_number(void)
{
	char text[128];
	const char *space = read_text("/proc/loadavg", text, sizeof text) > 0 ? strrchr(text, ' ') : NULL;
	return space != NULL ? (pid_t)atoi(space) : 0;
}

static bool listed_has(const struct spawned *p, pid_t last, const struct stat *file)
{
	const struct dirent *e;
	bool found = false;
	DIR *d = opendir("/proc");
	while (d != NULL && !found && (e = readdir(d)) != NULL) {
		pid_t pid = (pid_t)atoi(e->d_name); /* 0: no process */
		found = pid > 0 && since(pid, p->pid, last) && descendant_has(pid, p, last, file);
	}
	if (d != NULL)
		(void)closedir(d);
	return found;
}

static bool left_has(const struct spawned *p, const struct stat *file)
{
	pid_t last = has_our_numbers() ? last_number() : 0;
	if (last == 0) /* who is still in its group may have it */
		return kill(-p->pid, 0) == 0 || errno == EPERM;
	if (last < p->pid || last - p->pid > NUMBERS_MAX)
		return listed_has(p, last, file);
	for (pid_t pid = p->pid + 1; pid <= last; pid++)
		if (descendant_has(pid, p, last, file))
			return true;
	return false;
}

bool holders_any(const struct spawned *p, int fd)
{
	struct stat file;
	if (adopts)
		adopts = prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0) < 0;
	if (fstat(fd, &file) < 0)
		return false;
	if (has_our_numbers() && (has_at(p->pid, 1, &file) || has_at(p->pid, 0, &file) || has(p->pid, &file) != NO))
		return true;
	return left_has(p, &file);
}

void holders_begin(void)
{
	if (hark_serves_one() && !adopts)
		adopts = prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0;
}

/* Only where the program itself has been waited for: its orphans are ours by then. PR_SET_CHILD_SUBREAPER(2const) */
static bool has_no_children(void)
{
	int pid;
	while ((pid = waitpid(-1, NULL, WNOHANG)) > 0)
		;
	return pid < 0 && errno == ECHILD;
}

bool holders_left(const struct spawned *p, int fd)
{
	struct stat file;
	if (adopts && has_no_children())
		return false;
	return fstat(fd, &file) == 0 && left_has(p, &file);
}

static bool is_our_child(pid_t pid)
{
	pid_t parent = 0;
	return look_up(pid, &parent) != '\0' && parent == getpid();
}

int holders_kill(int fd)
{
	struct stat file;
	const struct dirent *e;
	int n = 0;
	DIR *d = fstat(fd, &file) == 0 && has_our_numbers() ? opendir("/proc") : NULL;
	while (d != NULL && (e = readdir(d)) != NULL) {
		pid_t pid = (pid_t)atoi(e->d_name); /* 0: no process */
		if (pid > 0 && pid != getpid() && has(pid, &file) == YES && !is_our_child(pid))
			n += kill(pid, SIGKILL) == 0;
	}
	if (d != NULL)
		(void)closedir(d);
	return n;
}
