/* upgrade.c — a new binary in place of the running one, with nothing lost: the old generation starts the new one with
 * its sockets and its counters; serves on until the new one says that it is ready; and drains. If the new one ends
 * first, or is not ready in time, the old one goes on as if nothing had been.
 *
 *   HARKD_SOCKETS           the keys of the sockets (sockets.c), a line each; they are descriptors 3, 4 … The control
 * socket's is "control PATH", a service's memory "memory NAME"; "-" before it: its path is a service manager's. By what
 * is configured and not by what is bound (sd_listen_fds(3)): port 0 stays the port it became.
 *   HARKD_HEIR              the descriptor on which the new one writes a byte when it is ready
 *   HARKD_GENERATION        its number
 *   HARKD_NOFILE            RLIMIT_NOFILE, the soft one, as the first one found it
 *
 * The supervisor's thread. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "descriptors.h"
#include "log.h"
#include "supervisor.h"

#define FIRST_FD 3

/* What the older generation handed over; taken[i]: is somebody's now. */
static struct {
	char *list; /* the keys lie in it */
	char **key;
	bool *taken;
	int n;
	bool closed;
} inherited;

/* Where the binary lies; a new one was put in the place of the running one. */
static char own_path[PATH_MAX];

static int number_of(const char *name, int none)
{
	const char *text = getenv(name);
	return text != NULL && text[0] >= '0' && text[0] <= '9' ? atoi(text) : none;
}

/* A few descriptors a service: the usual soft limit, which is for programs that select(2), would be the limit of
 * services. */
static void raise_descriptors(struct supervisor *v)
{
	if (getrlimit(RLIMIT_NOFILE, &v->nofile) < 0)
		return;
	(void)setrlimit(RLIMIT_NOFILE, &(struct rlimit){v->nofile.rlim_max, v->nofile.rlim_max});
	v->nofile.rlim_cur = (rlim_t)number_of("HARKD_NOFILE", (int)v->nofile.rlim_cur);
	(void)unsetenv("HARKD_NOFILE");
}

static void inherit(void)
{
	const char *list = getenv("HARKD_SOCKETS");
	char *copy = list != NULL ? strdup(list) : NULL;
	int n = 0;
	for (const char *at = copy; at != NULL && *at != '\0'; at++)
		n += *at == '\n';
	inherited.list = copy;
	inherited.key = calloc((size_t)n + 1, sizeof(char *));
	inherited.taken = calloc((size_t)n + 1, sizeof(bool));
	if (copy == NULL || inherited.key == NULL || inherited.taken == NULL)
		return;
	char *rest = NULL;
	for (char *line = strtok_r(copy, "\n", &rest); line != NULL && inherited.n < n;
	     line = strtok_r(NULL, "\n", &rest)) {
		(void)fcntl(FIRST_FD + inherited.n, F_SETFD, FD_CLOEXEC);
		inherited.key[inherited.n++] = line;
	}
	(void)unsetenv("HARKD_SOCKETS");
}

int upgrade_inherited(const char *key, bool *managed)
{
	for (int i = 0; i < inherited.n && !inherited.closed; i++) {
		const char *line = inherited.key[i];
		bool is_managed = line[0] == '-';
		if (inherited.taken[i] || strcmp(line + is_managed, key) != 0)
			continue;
		inherited.taken[i] = true;
		*managed = is_managed;
		return FIRST_FD + i;
	}
	return -1;
}

void upgrade_close_rest(void)
{
	for (int i = 0; i < inherited.n; i++)
		if (!inherited.taken[i])
			(void)close(FIRST_FD + i);
	inherited.closed = true;
}

/* Of those that nobody wanted. Only now: until we were ready the older generation might have had to go on with them. */
static void remove_paths(void)
{
	struct stat st;
	for (int i = 0; i < inherited.n; i++) {
		const char *address = strstr(inherited.key[i], "unix"); /* behind "control " */
		const char *path = inherited.taken[i] || inherited.key[i][0] == '-' || address == NULL
		                           ? NULL
		                           : unix_path(address);
		if (path != NULL && lstat(path, &st) == 0 && S_ISSOCK(st.st_mode))
			(void)unlink(path);
	}
}

void upgrade_done(void)
{
	free(inherited.list);
	free(inherited.key);
	free(inherited.taken);
}

static bool same_file(const char *a, const char *b)
{
	struct stat s, t;
	return stat(a, &s) == 0 && stat(b, &t) == 0 && s.st_dev == t.st_dev && s.st_ino == t.st_ino;
}

/* As we were called, so that a symbolic link is followed anew by an upgrade; where that does not lead to us (a script's
 * interpreter, a descriptor) it is what the kernel says. */
static void find_own_path(void)
{
	const char *called = (const char *)(uintptr_t)getauxval(AT_EXECFN); /* as execve(2) was told: getauxval(3) */
	char cwd[PATH_MAX];
	int n = -1;
	if (called != NULL && called[0] == '/')
		n = snprintf(own_path, sizeof own_path, "%s", called);
	else if (called != NULL && getcwd(cwd, sizeof cwd) != NULL)
		n = snprintf(own_path, sizeof own_path, "%s/%s", cwd, called);
	if (n > 0 && n < (int)sizeof own_path && strncmp(own_path, "/dev/", 5) != 0 &&
	    strncmp(own_path, "/proc/", 6) != 0 && same_file(own_path, "/proc/self/exe"))
		return;
	ssize_t len = readlink("/proc/self/exe", own_path, sizeof own_path - 1);
	own_path[len > 0 ? len : 0] = '\0';
}

void upgrade_self(struct supervisor *v)
{
	inherit();
	find_own_path();
	raise_descriptors(v);
	v->heir_fd = -1;
	v->heir_deadline = HARK_FOREVER;
	v->generation = number_of("HARKD_GENERATION", 1);
	v->parent_fd = number_of("HARKD_HEIR", v->parent_fd);
	if (v->parent_fd >= 0)
		(void)fcntl(v->parent_fd, F_SETFD, FD_CLOEXEC);
	(void)unsetenv("HARKD_GENERATION");
	(void)unsetenv("HARKD_HEIR");
}

void upgrade_tell_ready(struct supervisor *v)
{
	remove_paths();
	if (v->parent_fd >= 0)
		(void)!write(v->parent_fd, "", 1);
	if (v->generation == 1)
		upgrade_alone(v);
}

void upgrade_alone(struct supervisor *v)
{
	if (v->parent_fd >= 0)
		(void)close(v->parent_fd);
	v->parent_fd = -1;
}

/* Puts copies of fds at FIRST_FD and on, and those of more after them, close-on-exec off. fds must all lie above. 0 or
 * -errno. */
static int arrange(const int *fds, int n)
{
	for (int i = 0; i < n; i++)
		if (dup2(fds[i], FIRST_FD + i) < 0)
			return -errno;
	descriptors_close((unsigned)(FIRST_FD + n), UINT_MAX);
	return 0;
}

static void set_number(const char *name, long value)
{
	char text[24];
	(void)snprintf(text, sizeof text, "%ld", value);
	(void)setenv(name, text, 1);
}

/* In the child: sockets and the like first, then the pipe. Our signals stay blocked, as one that comes before the
 * new binary has blocked them itself would kill it; but for those that are meant to. */
static _Noreturn void become_heir(struct supervisor *v, char *const argv[], int *fds, int n_sockets,
                                  const char *addresses)
{
	sigset_t ends;
	for (int i = 0; i < n_sockets + 1; i++) { /* out of the way of the numbers they will get */
		fds[i] = fcntl(fds[i], F_DUPFD, FIRST_FD + n_sockets + 1);
		if (fds[i] < 0)
			_exit(111);
	}
	if (arrange(fds, n_sockets + 1) < 0)
		_exit(111);
	(void)setenv("HARKD_SOCKETS", addresses, 1);
	(void)unsetenv("LISTEN_FDS"); /* whatever a service manager once said: it is not about these */
	set_number("HARKD_HEIR", FIRST_FD + n_sockets);
	set_number("HARKD_GENERATION", v->generation + 1);
	set_number(
		"HARKD_NOFILE",
		(long)v->nofile.rlim_cur); /* the limit itself stays as we raised it: its sockets are above the other */
	(void)sigemptyset(&ends);
	(void)sigaddset(&ends, SIGTERM);
	(void)sigaddset(&ends, SIGINT);
	(void)sigprocmask(SIG_UNBLOCK, &ends, NULL);
	(void)execv(own_path, argv);
	_exit(111);
}

/* Descriptors and their keys, in one order, with room for one more. false: no memory. */
static bool all_sockets(struct supervisor *v, int **fds, int *n, char **addresses)
{
	size_t len = 0;
	FILE *f = open_memstream(addresses, &len);
	size_t most = v->sockets.n + 2;
	for (const struct memory *m = memory_first(); m != NULL; m = m->next)
		most++;
	*fds = calloc(most, sizeof **fds);
	*n = 0;
	if (f == NULL || *fds == NULL) {
		if (f != NULL)
			(void)fclose(f);
		return false;
	}
	for (size_t i = 0; i < v->sockets.n; i++) {
		(*fds)[(*n)++] = hark_listener_fd(v->sockets.entry[i]->listener);
		(void)fprintf(f, "%s%s\n", v->sockets.entry[i]->managed ? "-" : "", v->sockets.entry[i]->key);
	}
	if (control_listener_fd(v->control) >= 0) {
		(*fds)[(*n)++] = control_listener_fd(v->control);
		(void)fprintf(f, "%s\n", control_key(v->control));
	}
	for (const struct memory *m = memory_first(); m != NULL; m = m->next) {
		(*fds)[(*n)++] = m->fd;
		(void)fprintf(f, UPGRADE_MEMORY "%s\n", m->name);
	}
	return fclose(f) == 0;
}

static int start_heir(struct supervisor *v, char *const argv[], int said[2])
{
	int n, *fds = NULL;
	char *addresses = NULL;
	pid_t pid = -1;
	errno = ENOMEM;
	if (all_sockets(v, &fds, &n, &addresses) && pipe2(said, O_CLOEXEC) == 0) {
		fds[n] = said[1];
		pid = fork();
		if (pid == 0)
			become_heir(v, argv, fds, n, addresses);
		int error = errno;
		(void)close(said[1]);
		if (pid < 0)
			(void)close(said[0]);
		errno = error;
	}
	int r = pid < 0 ? -errno : (int)pid;
	free(fds);
	free(addresses);
	return r;
}

int upgrade_begin(struct supervisor *v, char *const argv[], struct hark_why *why)
{
	int said[2], pid = -EPERM;
	const char *reason = NULL;
	if (v->heir > 0)
		reason = "one is under way";
	else if (getpid() == 1)
		reason = "process 1 cannot be replaced: the container would end with it";
	else
		pid = access(own_path, X_OK) < 0 ? -errno : start_heir(v, argv, said);
	if (pid < 0) {
		(void)snprintf(why->text, sizeof why->text, "upgrade: %.180s: %s",
		               reason != NULL ? "refused" : own_path, reason != NULL ? reason : strerror(-pid));
		return pid;
	}
	(void)fcntl(said[0], F_SETFL, O_NONBLOCK);
	v->heir = pid;
	v->heir_fd = said[0];
	v->heir_deadline = hark_after(v->epoch->config->upgrade_timeout_ns);
	log_event(LOG_LEVEL_NOTICE, NULL, "upgrade: generation %d is process %d", v->generation + 1, pid);
	return 0;
}

static void forget_heir(struct supervisor *v)
{
	(void)close(v->heir_fd);
	v->heir = 0;
	v->heir_fd = -1;
	v->heir_deadline = HARK_FOREVER;
}

static void end_heir(struct supervisor *v)
{
	(void)kill(v->heir, SIGKILL);
	while (waitpid(v->heir, NULL, 0) < 0 && errno == EINTR)
		;
}

static void heir_failed(struct supervisor *v, const char *how)
{
	end_heir(v);
	log_event(LOG_LEVEL_ERROR, NULL, "upgrade: generation %d %s: this one goes on", v->generation + 1, how);
	forget_heir(v);
	if (v->reload_due)
		(void)kill(getpid(), SIGHUP);
	v->reload_due = false;
	if (v->told_ready)
		supervisor_pid_file(v); /* it may have got as far as to write its own number */
}

void upgrade_heard(struct supervisor *v)
{
	char byte;
	if (v->heir == 0)
		return;
	ssize_t n = read(v->heir_fd, &byte, 1);
	if (n == 1) {
		notify("MAINPID=%d", (int)v->heir);
		log_event(LOG_LEVEL_NOTICE, NULL, "upgrade: generation %d serves, this one drains", v->generation + 1);
		if (v->reload_due)
			(void)kill(v->heir, SIGHUP);
		forget_heir(v);
		v->handed_over = true;
		supervisor_drain(v);
	} else if (n == 0) {
		heir_failed(v, "ended before it was ready");
	} else if (hark_now() >= v->heir_deadline) {
		heir_failed(v, "was not ready in time");
	}
}

void upgrade_abandon(struct supervisor *v)
{
	char byte;
	if (v->heir == 0)
		return;
	(void)kill(v->heir, SIGTERM); /* it may serve already, and drains then */
	bool gone = false;
	for (int i = 0; i < 50 && !gone; i++) {
		gone = waitpid(v->heir, NULL, WNOHANG) != 0;
		if (!gone)
			(void)poll(NULL, 0, 10);
	}
	if (!gone && read(v->heir_fd, &byte, 1) != 1) /* not even our signals reach it yet */
		end_heir(v);
	log_event(LOG_LEVEL_NOTICE, NULL, "upgrade: generation %d is given up", v->generation + 1);
	forget_heir(v);
}

/* Even if it said that it was ready. Its pipe may still be open: in a worker that it was just forking. */
void upgrade_ended(struct supervisor *v)
{
	heir_failed(v, "ended before it was ready");
}
