/* upgrade.c — a new binary in place of the running one, with nothing lost: the old generation starts the new one with
 * its sockets and its counters; serves on until the new one says that it is ready; stands by until that has lived for a
 * while; and drains. If the new one ends first, or is not ready in time, the old one goes on, or takes over again.
 *
 *   HARKD_SOCKETS           the keys of the sockets (sockets.c), a line each; they are descriptors 3, 4 … The control
 *                           socket's is "control PATH", a service's memory "memory NAME"; "-" before it: its path is a
 *                           service manager's. By what is configured and not by what is bound (sd_listen_fds(3)): port
 *                           0 stays the port it became
 *   HARKD_PATHS             "DEVICE INODE" of each one's path as it was bound, a line each; "0 0": none
 *   HARKD_HEIR              the descriptor on which the new one writes a 0 when it is ready, and later a 1 when it ends
 *                           as it was told to; " why" behind the number: before that, text that says why it fails
 *   HARKD_OPENED            a socket by which the old one keeps what the new one opens anew, until that one is relied
 *                           on: if it fails, whoever has come to a new backlog is served
 *   HARKD_GENERATION        its number
 *   HARKD_NOFILE            RLIMIT_NOFILE, the soft one, as the first one found it
 *
 * The supervisor's thread. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "descriptors.h"
#include "holders.h"
#include "log.h"
#include "supervisor.h"
#include "text.h"

#define FIRST_FD  3
#define LIVED_NS  (2 * HARK_S) /* a generation that serves so long is relied on */
#define MSG_READY '\0'
#define MSG_END   '\1'

#define STDERR_MAX 4096 /* bytes of a new generation's standard error */
#define ROUNDS_MAX 20   /* of killing what it has left, which may go on forking */

/* What the older generation handed over; taken[i]: is somebody's now. */
static struct {
	char *list; /* the keys lie in it */
	char **key;
	struct inherited_socket *socket;
	bool *taken;
	int n;
	bool closed;
	bool tells_why; /* the older generation reads why we fail */
} inherited;

static int opened_fd = -1; /* HARKD_OPENED */

/* Where the binary lies; a new one was put in the place of the running one. */
static char own_path[PATH_MAX];

static int number_of(const char *name, int none)
{
	const char *text = getenv(name);
	char *end;
	long n = text != NULL && text[0] >= '0' && text[0] <= '9' ? strtol(text, &end, 10) : -1;
	return n >= 0 && n <= INT_MAX && (*end == '\0' || *end == ' ') ? (int)n : none;
}

/* A few descriptors a service: the usual soft limit, which is for programs that select(2), would be the limit of
 * services. */
static void raise_descriptors(struct supervisor *v)
{
	if (getrlimit(RLIMIT_NOFILE, &v->nofile) < 0)
		return;
	(void)setrlimit(RLIMIT_NOFILE, &(struct rlimit){v->nofile.rlim_max, v->nofile.rlim_max});
	v->nofile.rlim_cur = (rlim_t)number_of("HARKD_NOFILE", (int)v->nofile.rlim_cur);
}

/* One line of HARKD_PATHS; NULL: there are none. Returns where the next one begins. */
static const char *read_path(const char *line, struct inherited_socket *to)
{
	char *end;
	if (line == NULL || line[0] < '0' || line[0] > '9')
		return NULL;
	to->dev = (dev_t)strtoull(line, &end, 10);
	if (*end != ' ')
		return NULL;
	to->ino = (ino_t)strtoull(end + 1, &end, 10);
	return *end == '\n' ? end + 1 : NULL;
}

/* 0 or -ENOMEM: what was handed over is there, and we would bind it anew. */
static int inherit(void)
{
	const char *list = getenv("HARKD_SOCKETS");
	int n = 0;
	if (list == NULL)
		return 0;
	char *copy = strdup(list);
	for (const char *at = copy; at != NULL && *at != '\0'; at++)
		n += *at == '\n';
	inherited.list = copy;
	inherited.key = calloc((size_t)n + 1, sizeof(char *));
	inherited.taken = calloc((size_t)n + 1, sizeof(bool));
	inherited.socket = calloc((size_t)n + 1, sizeof(struct inherited_socket));
	if (copy == NULL || inherited.key == NULL || inherited.taken == NULL || inherited.socket == NULL)
		return -ENOMEM;
	char *rest = NULL;
	const char *paths = getenv("HARKD_PATHS");
	for (char *line = strtok_r(copy, "\n", &rest); line != NULL && inherited.n < n;
	     line = strtok_r(NULL, "\n", &rest)) {
		struct inherited_socket *i = &inherited.socket[inherited.n];
		*i = (struct inherited_socket){.fd = FIRST_FD + inherited.n, .managed = line[0] == '-'};
		paths = read_path(paths, i);
		(void)fcntl(i->fd, F_SETFD, FD_CLOEXEC);
		inherited.key[inherited.n++] = line + i->managed;
	}
	return 0;
}

/* A socket, or a service's memory. */
static bool is_handed(int fd)
{
	struct stat st;
	return fstat(fd, &st) == 0 && (S_ISSOCK(st.st_mode) || fcntl(fd, F_GET_SEALS) > 0);
}

/* Whether the environment is an older generation's: what it names is there, and of its kind. Else it was left over, or
 * made up, and its numbers would be those of descriptors that we open ourselves. */
static bool is_handed_over(void)
{
	const char *list = getenv("HARKD_SOCKETS");
	int fd = FIRST_FD, heir = number_of("HARKD_HEIR", -1);
	struct stat st;
	for (const char *at = list; at != NULL && *at != '\0'; at++)
		if (*at == '\n' && !is_handed(fd++))
			return false;
	return list != NULL && number_of("HARKD_GENERATION", 0) > 1 && heir >= fd && fstat(heir, &st) == 0 &&
	       S_ISFIFO(st.st_mode) && (fcntl(heir, F_GETFL) & O_ACCMODE) == O_WRONLY;
}

static void forget_environment(void)
{
	static const char *const names[] = {"HARKD_SOCKETS", "HARKD_PATHS",      "HARKD_HEIR",
	                                    "HARKD_OPENED",  "HARKD_GENERATION", "HARKD_NOFILE"};
	for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
		(void)unsetenv(names[i]);
}

/* ---- what a new generation opens anew ---------------------------------------------------------- */

/* A socket and its key. SCM_RIGHTS: unix(7). Nobody waits: one that finds no room is kept by us alone. */
void upgrade_opened(const char *key, int fd)
{
	union {
		struct cmsghdr head;
		char bytes[CMSG_SPACE(sizeof fd)];
	} control = {0};
	struct iovec text = {.iov_base = (char *)(uintptr_t)key, .iov_len = strlen(key)};
	struct msghdr m = {.msg_iov = &text,
	                   .msg_iovlen = 1,
	                   .msg_control = &control,
	                   .msg_controllen = sizeof control};
	if (opened_fd < 0)
		return;
	control.head = (struct cmsghdr){.cmsg_len = CMSG_LEN(sizeof fd),
	                                .cmsg_level = SOL_SOCKET,
	                                .cmsg_type = SCM_RIGHTS};
	memcpy(CMSG_DATA(&control.head), &fd, sizeof fd);
	(void)sendmsg(opened_fd, &m, MSG_DONTWAIT | MSG_NOSIGNAL);
}

/* The next one. -1: there are no more. */
static int receive_opened(int from, char *key, size_t cap)
{
	union {
		struct cmsghdr head;
		char bytes[CMSG_SPACE(sizeof(int))];
	} control = {0};
	struct iovec text = {.iov_base = key, .iov_len = cap - 1};
	struct msghdr m = {.msg_iov = &text,
	                   .msg_iovlen = 1,
	                   .msg_control = &control,
	                   .msg_controllen = sizeof control};
	int fd = -1;
	ssize_t n = recvmsg(from, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	if (n <= 0 || control.head.cmsg_type != SCM_RIGHTS || control.head.cmsg_len != CMSG_LEN(sizeof fd))
		return -1;
	key[n] = '\0';
	memcpy(&fd, CMSG_DATA(&control.head), sizeof fd);
	return fd;
}

/* Consumes from. */
static void adopt_opened(struct supervisor *v, int from)
{
	char key[HARK_ADDRESS_MAX + 80];
	int fd;
	while (from >= 0 && (fd = receive_opened(from, key, sizeof key)) >= 0)
		leaving_inherit(&v->sockets, fd, key, true);
	if (from >= 0)
		(void)close(from);
}

/* The new generation's end; the other one is v->heir_opened. -1: it goes without. */
static int make_opened(struct supervisor *v)
{
	int both[2];
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, both) < 0)
		return -1;
	(void)setsockopt(both[1], SOL_SOCKET, SO_SNDBUF, &(int){1 << 20}, sizeof(int));
	v->heir_opened = both[0];
	return both[1];
}

/* ---- what an older generation has handed over -------------------------------------------------- */

bool upgrade_inherited(const char *key, struct inherited_socket *out)
{
	for (int i = 0; i < inherited.n && !inherited.closed; i++) {
		if (inherited.taken[i] || strcmp(inherited.key[i], key) != 0)
			continue;
		inherited.taken[i] = true;
		*out = inherited.socket[i];
		return true;
	}
	return false;
}

int upgrade_share_port(int type, unsigned port, bool on)
{
	int n = 0, is;
	for (int i = 0; i < inherited.n && !inherited.closed; i++) {
		int fd = inherited.socket[i].fd;
		if (inherited.taken[i] || socket_port(fd, &is) != port || is != type)
			continue;
		n += setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &(int){on}, sizeof(int)) == 0;
	}
	return n;
}

void upgrade_close_rest(struct supervisor *v)
{
	for (int i = 0; i < inherited.n; i++)
		if (!inherited.taken[i])
			leaving_inherit(&v->sockets, inherited.socket[i].fd, inherited.key[i], false);
	inherited.closed = true;
}

/* Of those that nobody wanted, where nothing else lies there by now. Only when the older generation has let go: until
 * then it might have had to go on with them. */
static void remove_paths(void)
{
	struct stat st;
	for (int i = 0; i < inherited.n; i++) {
		const struct inherited_socket *s = &inherited.socket[i];
		const char *address = strstr(inherited.key[i], "unix"); /* behind "control " */
		const char *path = inherited.taken[i] || s->managed || address == NULL ? NULL : unix_path(address);
		if (path != NULL && s->ino != 0 && lstat(path, &st) == 0 && st.st_dev == s->dev && st.st_ino == s->ino)
			(void)unlink(path);
	}
}

void upgrade_done(void)
{
	free(inherited.list);
	free(inherited.key);
	free(inherited.socket);
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

/* HARKD_OPENED's; -1: none. A binary that knows nothing of it may have left an older generation's number there. */
static int find_opened(int parent_fd)
{
	int fd = number_of("HARKD_OPENED", -1), type = -1;
	socklen_t len = sizeof type;
	if (fd != parent_fd + 1 || getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) < 0 || type != SOCK_SEQPACKET)
		return -1;
	(void)fcntl(fd, F_SETFD, FD_CLOEXEC);
	return fd;
}

int upgrade_self(struct supervisor *v)
{
	if (!is_handed_over())
		forget_environment();
	int r = inherit();
	find_own_path();
	raise_descriptors(v);
	v->heir_fd = v->heir_stderr = v->heir_opened = -1;
	v->heir_deadline = HARK_FOREVER;
	v->generation = number_of("HARKD_GENERATION", 1);
	v->parent_fd = number_of("HARKD_HEIR", v->parent_fd);
	opened_fd = find_opened(v->parent_fd);
	inherited.tells_why = getenv("HARKD_HEIR") != NULL && strstr(getenv("HARKD_HEIR"), " why") != NULL;
	if (v->parent_fd >= 0)
		(void)fcntl(v->parent_fd, F_SETFD, FD_CLOEXEC);
	forget_environment();
	return r;
}

static void tell(const struct supervisor *v, const char *text, size_t n)
{
	if (v->parent_fd >= 0)
		(void)!write(v->parent_fd, text, n);
}

void upgrade_tell_ready(struct supervisor *v)
{
	tell(v, &(char){MSG_READY}, 1);
	if (v->generation == 1)
		upgrade_alone(v);
}

void upgrade_tell_failed(const struct supervisor *v, const char *why)
{
	if (v->generation > 1 && inherited.tells_why && why[0] >= ' ')
		tell(v, why, strlen(why));
}

void upgrade_tell_end(struct supervisor *v)
{
	if (v->generation > 1 && v->told_ready)
		tell(v, &(char){MSG_END}, 1);
}

void upgrade_await_release(struct supervisor *v)
{
	struct pollfd p = {.fd = v->parent_fd}; /* POLLERR: nobody reads there any more */
	if (v->generation > 1 && v->told_ready && v->parent_fd >= 0 && poll(&p, 1, 1000) > 0)
		upgrade_alone(v);
}

void upgrade_alone(struct supervisor *v)
{
	if (v->parent_fd >= 0)
		(void)close(v->parent_fd);
	v->parent_fd = -1;
	if (opened_fd >= 0)
		(void)close(opened_fd);
	opened_fd = -1;
	if (v->generation == 1)
		return;
	remove_paths();
	leaving_released(&v->sockets);
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

static bool set_number(const char *name, long value)
{
	char text[24];
	(void)snprintf(text, sizeof text, "%ld", value);
	return setenv(name, text, 1) == 0;
}

/* What the next generation finds, which without a part of it would take itself for the first one. n: descriptors before
 * the pipe's; opened: one more comes behind it. */
static bool set_environment(const struct supervisor *v, const char *addresses, const char *paths, int n, bool opened)
{
	char heir[32];
	(void)unsetenv("LISTEN_FDS"); /* whatever a service manager once said: it is not about these */
	(void)snprintf(heir, sizeof heir, "%d why", FIRST_FD + n);
	/* The limit itself stays as we raised it: its sockets are above the other. */
	return setenv("HARKD_SOCKETS", addresses, 1) == 0 && setenv("HARKD_PATHS", paths, 1) == 0 &&
	       setenv("HARKD_HEIR", heir, 1) == 0 && (!opened || set_number("HARKD_OPENED", FIRST_FD + n + 1)) &&
	       set_number("HARKD_GENERATION", v->generation + 1) &&
	       set_number("HARKD_NOFILE", (long)v->nofile.rlim_cur);
}

/* In the child: sockets and the like first, then the pipe, then HARKD_OPENED's, if there is one. Our signals stay
 * blocked, as one that comes before the new binary has blocked them itself would kill it; but for those that are meant
 * to. */
static _Noreturn void become_heir(struct supervisor *v, char *const argv[], int *fds, int n_sockets,
                                  const char *addresses, const char *paths)
{
	sigset_t ends;
	int n = n_sockets + 1 + (fds[n_sockets + 1] >= 0);
	for (int i = 0; i < n; i++) { /* out of the way of the numbers they will get */
		fds[i] = fcntl(fds[i], F_DUPFD, FIRST_FD + n);
		if (fds[i] < 0)
			_exit(111);
	}
	if (v->heir_stderr >= 0)
		(void)dup2(v->heir_stderr, STDERR_FILENO);
	if (arrange(fds, n) < 0)
		_exit(111);
	(void)sigemptyset(&ends);
	(void)sigaddset(&ends, SIGTERM);
	(void)sigaddset(&ends, SIGINT);
	(void)sigprocmask(SIG_UNBLOCK, &ends, NULL);
	if (set_environment(v, addresses, paths, n_sockets, n > n_sockets + 1))
		(void)execv(own_path, argv);
	(void)dprintf(FIRST_FD + n_sockets, "%s: %s", own_path, strerror(errno));
	_exit(111);
}

/* Descriptors and their keys, in one order, with room for two more. false: no memory. */
static bool all_sockets(struct supervisor *v, int **fds, int *n, char **addresses, char **paths)
{
	size_t len = 0, paths_len = 0;
	FILE *f = open_memstream(addresses, &len), *p = open_memstream(paths, &paths_len);
	size_t most = v->sockets.n + 3;
	for (const struct memory *m = memory_first(); m != NULL; m = m->next)
		most++;
	*fds = calloc(most, sizeof **fds);
	*n = 0;
	bool all = f != NULL && p != NULL && *fds != NULL;
	for (size_t i = 0; all && i < v->sockets.n; i++) {
		const struct socket_entry *e = v->sockets.entry[i];
		(*fds)[(*n)++] = hark_listener_fd(e->listener);
		(void)fprintf(f, "%s%s\n", e->managed ? "-" : "", e->key);
		(void)fprintf(p, "%llu %llu\n", (unsigned long long)e->dev, (unsigned long long)e->ino);
	}
	if (all && control_listener_fd(v->control) >= 0) {
		dev_t dev;
		ino_t ino;
		control_path(v->control, &dev, &ino);
		(*fds)[(*n)++] = control_listener_fd(v->control);
		(void)fprintf(f, "%s\n", control_key(v->control));
		(void)fprintf(p, "%llu %llu\n", (unsigned long long)dev, (unsigned long long)ino);
	}
	for (const struct memory *m = memory_first(); all && m != NULL; m = m->next) {
		(*fds)[(*n)++] = m->fd;
		(void)fprintf(f, UPGRADE_MEMORY "%s\n", m->name);
	}
	all = text_close_stream(f, addresses) && all;
	return text_close_stream(p, paths) && all;
}

/* What a binary says that cannot even be loaded, or is another one, goes to standard error, which in the background
 * nobody sees. A file that does not grow: workers that were forked before it was ready have it for life. -1: none. */
static int make_stderr(void)
{
	int fd = memfd_create("harkd-stderr", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (fd < 0)
		return -1;
	if (ftruncate(fd, STDERR_MAX) == 0 && fcntl(fd, F_ADD_SEALS, F_SEAL_GROW | F_SEAL_SHRINK) == 0)
		return fd;
	(void)close(fd);
	return -1;
}

static void close_own(int *fd)
{
	if (*fd >= 0)
		(void)close(*fd);
	*fd = -1;
}

static int start_heir(struct supervisor *v, char *const argv[], int said[2])
{
	int n, *fds = NULL;
	char *addresses = NULL, *paths = NULL;
	pid_t pid = -1;
	errno = ENOMEM;
	if (all_sockets(v, &fds, &n, &addresses, &paths) && pipe2(said, O_CLOEXEC) == 0) {
		fds[n] = said[1];
		int opened = fds[n + 1] = make_opened(v);
		v->heir_stderr = v->in_background ? make_stderr() : -1;
		pid = fork();
		if (pid == 0)
			become_heir(v, argv, fds, n, addresses, paths);
		int error = errno;
		(void)close(said[1]);
		if (opened >= 0)
			(void)close(opened);
		if (pid < 0) {
			(void)close(said[0]);
			close_own(&v->heir_stderr);
			close_own(&v->heir_opened);
		}
		errno = error;
	}
	int r = pid < 0 ? -errno : (int)pid;
	free(fds);
	free(addresses);
	free(paths);
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
		(void)snprintf(why->text, sizeof why->text, "%.180s: %s", reason != NULL ? "refused" : own_path,
		               reason != NULL ? reason : strerror(-pid));
		return pid;
	}
	(void)fcntl(said[0], F_SETFL, O_NONBLOCK);
	v->heir = pid;
	v->heir_fd = said[0];
	v->heir_said[0] = '\0';
	v->heir_deadline = hark_after(v->epoch->config->upgrade_timeout_ns);
	log_event(LOG_LEVEL_NOTICE, NULL, "upgrade: generation %d is process %d", v->generation + 1, pid);
	return 0;
}

void upgrade_forget(struct supervisor *v)
{
	close_own(&v->heir_fd);
	close_own(&v->heir_stderr);
	close_own(&v->heir_opened);
	v->heir = 0;
	v->heir_deadline = HARK_FOREVER;
}

void upgrade_hand_on(const struct supervisor *v, int signal)
{
	int told = v->told > v->told_by_elder ? v->told : v->told_by_elder;
	(void)sigqueue(v->heir, signal, (union sigval){.sival_int = told});
}

static void end_heir(struct supervisor *v)
{
	(void)kill(v->heir, SIGKILL);
	while (waitpid(v->heir, NULL, 0) < 0 && errno == EINTR)
		;
}

/* What it wrote to standard error: each line to the log, and the first as the reason if it told none. */
static void hear_stderr(struct supervisor *v)
{
	char text[STDERR_MAX + 1], *rest = NULL;
	ssize_t n = v->heir_stderr >= 0 ? pread(v->heir_stderr, text, STDERR_MAX, 0) : 0;
	text[n > 0 ? n : 0] = '\0';
	for (char *line = strtok_r(text, "\r\n", &rest); line != NULL; line = strtok_r(NULL, "\r\n", &rest)) {
		log_event(LOG_LEVEL_ERROR, NULL, "upgrade: generation %d said: %s", v->generation + 1, line);
		if (v->heir_said[0] == '\0')
			(void)snprintf(v->heir_said, sizeof v->heir_said, "%s", line);
	}
}

/* What it has started and left behind, as a binary does that goes into the background: that has our sockets, and may
 * serve beside us. Its workers have not got the pipe; they drain by themselves. */
static void end_left_behind(const struct supervisor *v)
{
	int all = 0, n;
	for (int round = 0; v->heir_fd >= 0 && round < ROUNDS_MAX && (n = holders_kill(v->heir_fd)) > 0; round++)
		all += n;
	if (all > 0)
		log_event(LOG_LEVEL_WARNING, NULL, "upgrade: generation %d left processes behind, which are killed",
		          v->generation + 1);
}

/* Its process has ended. */
static void heir_failed(struct supervisor *v, const char *how)
{
	char text[sizeof v->heir_said + 120];
	end_left_behind(v);
	hear_stderr(v);
	(void)snprintf(text, sizeof text, "generation %d %s: this one goes on%s%s", v->generation + 1, how,
	               v->heir_said[0] != '\0' ? ": " : "", v->heir_said);
	int opened = v->heir_opened;
	v->heir_opened = -1;
	log_event(LOG_LEVEL_ERROR, NULL, "upgrade: %s", text);
	upgrade_forget(v);
	if (v->standby)
		supervisor_take_over(v);
	else if (v->told_ready)
		supervisor_pid_file(v); /* it may have got as far as to write its own number */
	adopt_opened(v, opened);
	control_upgraded(v, text);
	if (v->reload_due)
		(void)kill(getpid(), SIGHUP);
	v->reload_due = false;
}

static void heir_serves(struct supervisor *v)
{
	log_event(LOG_LEVEL_NOTICE, NULL, "upgrade: generation %d serves, this one drains", v->generation + 1);
	v->heir_deadline = hark_after(LIVED_NS);
	if (v->reload_due)
		(void)kill(v->heir, SIGHUP); /* still due here, if it dies */
	supervisor_stand_by(v);
}

/* It has lived long enough, or ends as it was told to. From here on it is the service manager's main process: of one
 * that died before, whose parent we are, the manager would not learn, nor listen to us. */
static void heir_proven(struct supervisor *v)
{
	notify("MAINPID=%d", (int)v->heir);
	v->reload_due = false;
	control_upgraded(v, NULL);
	upgrade_forget(v);
	supervisor_let_go(v);
}

/* What it said, n bytes. */
static void hear(struct supervisor *v, const char *text, size_t n)
{
	size_t len = strlen(v->heir_said);
	for (size_t i = 0; i < n && v->heir > 0; i++) {
		if (text[i] == MSG_READY && !v->standby)
			heir_serves(v);
		else if (text[i] == MSG_END && v->standby)
			heir_proven(v);
		else if (!v->standby && len + 1 < sizeof v->heir_said && text[i] >= ' ') {
			v->heir_said[len++] = text[i];
			v->heir_said[len] = '\0';
		}
	}
}

void upgrade_heard(struct supervisor *v)
{
	char text[256];
	if (v->heir == 0)
		return;
	ssize_t n = read(v->heir_fd, text, sizeof text);
	if (n > 0) {
		hear(v, text, (size_t)n);
		return;
	}
	if (n == 0 && v->heir_fd >= 0) { /* SIGCHLD tells whether it has ended, and how */
		(void)close(v->heir_fd);
		v->heir_fd = -1;
	}
	bool late = hark_now() >= v->heir_deadline;
	if (v->standby && late) {
		heir_proven(v);
	} else if (late) {
		end_heir(v);
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
	if (!gone && (read(v->heir_fd, &byte, 1) != 1 || byte != MSG_READY)) /* not even our signals reach it yet */
		end_heir(v);
	log_event(LOG_LEVEL_NOTICE, NULL, "upgrade: generation %d is given up", v->generation + 1);
	control_upgraded(v, "the upgrade is given up: harkd ends");
	upgrade_forget(v);
}

/* Even if it said that it was ready. Its pipe may still be open: in a worker that it was just forking. */
void upgrade_ended(struct supervisor *v)
{
	char text[256], how[100];
	int status = 0;
	ssize_t n = v->heir_fd >= 0 ? read(v->heir_fd, text, sizeof text) : 0;
	hear(v, text, n > 0 ? (size_t)n : 0); /* its last words */
	if (v->heir == 0)
		return;
	while (waitpid(v->heir, &status, 0) < 0 && errno == EINTR)
		;
	if (v->ending) { /* supervisor_drain() */
		upgrade_forget(v);
		return;
	}
	const char *when = v->standby ? "died as soon as it served" : "ended before it was ready";
	if (WIFSIGNALED(status))
		(void)snprintf(how, sizeof how, "%s (signal %d, %s)", when, WTERMSIG(status),
		               strsignal(WTERMSIG(status)));
	else
		(void)snprintf(how, sizeof how, "%s (exit status %d)", when, WEXITSTATUS(status));
	heir_failed(v, how);
}
