/* spawn.h — starting a program fast, and learning how it ended. Any thread or fiber; nothing here suspends it. */
#ifndef SPAWN_H
#define SPAWN_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

struct spawn {
	const char *path; /* as spawn_find() gave it: no search here */
	char *const *argv;
	char *const *envp;
	int fd;    /* becomes descriptors 0 and 1 */
	int input; /* becomes 0 in its place; -1: none */
	int error; /* becomes 2, may be fd; -1: 2 is ours */
};

struct spawned {
	pid_t pid; /* also the number of its process group, which it leads */
	int pidfd; /* close-on-exec; readable once it has ended */
};

/* Looks up what is the same for all programs: the signals that this process ignores, whether it has a terminal. In a
 * server before it makes processes, each of which would look it up again; what changes later is not seen. */
void spawn_prepare(void);

/* Starts a program: leader of a process group in a session that has no terminal, every signal at its default and none
 * blocked, no descriptor but 0, 1 and 2. The calling thread waits until the program runs, as with vfork(2). The caller
 * owns *out: spawn_reap(), then close the pidfd. 0; or why it could not be started: -ENOENT, -EACCES, -ENOEXEC, … of
 * execve(2), -EAGAIN, -ENOMEM of clone(2). */
int spawn_start(const struct spawn *s, struct spawned *out);

/* Takes a program's end, if it has ended: *status is as waitpid(2) gives it. Returns 0; -EAGAIN: it runs; -ECHILD:
 * not ours to wait for, since this process ignores SIGCHLD. Never waits. */
int spawn_reap(const struct spawned *p, int *status);

/* Sends sig to the program's whole group. Only before spawn_reap() has succeeded: afterwards the number may be
 * another's. */
void spawn_signal(const struct spawned *p, int sig);

/* Whether pid is a program that this process has started and not reaped. One that is may be taken for a stranger where
 * thousands run, never the other way round. */
bool spawn_is_ours(pid_t pid);

/* Finds name as execvp(3) does: as it is if it has a '/', else in $PATH. Writes an absolute path, so that a change of
 * directory does not matter. 0; -ENOENT, -EACCES (found, but not to be run by us), -EISDIR, -ENAMETOOLONG. */
int spawn_find(const char *name, char *path, size_t cap);

#endif
