/* spawn.c — see spawn.h.
 *
 * One clone(2) with CLONE_VM | CLONE_VFORK: nothing of the parent's memory is copied, however much of it there is,
 * and the parent's thread stands still until the program runs or the attempt has failed, so that the child can tell
 * why through the parent's own variable. posix_spawn(3) does the same with a dozen calls more, and can neither change
 * directory before glibc 2.29 nor hand out a pidfd. CLONE_PIDFD: an end that can be waited for beside everything
 * else, without SIGCHLD.
 *
 * The child shares memory with its parent and the parent's other threads. Hence: a stack of its own (a piece of the
 * caller's, far from what the caller uses); every signal blocked from before the clone until dispositions are the
 * default ones, so that no handler of the parent runs in it; and bare system calls alone, which lock nothing,
 * allocate nothing and need no symbol to be resolved on that small stack. Nor do sanitizers look at it, which would
 * take its stack for a stranger. */
#include "spawn.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/close_range.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define CHILD_STACK   8192        /* bytes; the child uses a few hundred, the kernel none of it */
#define LAST_SIGNAL   31          /* the standard ones; nobody starts a service with real-time signals ignored */
#define KERNEL_SIGSET (_NSIG / 8) /* bytes of the kernel's sigset_t: 8, on MIPS 16 */

#if defined(__clang__)
#define UNWATCHED __attribute__((noinline, no_sanitize("address", "thread", "undefined")))
#else
#define UNWATCHED __attribute__((noinline, no_sanitize_address, no_sanitize_thread, no_sanitize_undefined))
#endif

/* ThreadSanitizer's clone() takes every child for one with memory of its own, and notes in that memory, which ours shares
 * with us, that this is a forked child. glibc's own has a second name. */
#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define THREAD_SANITIZER
#endif
#elif defined(__SANITIZE_THREAD__)
#define THREAD_SANITIZER
#endif
#if defined(THREAD_SANITIZER) && defined(__GLIBC__)
int __clone(int (*fn)(void *), void *stack, int flags, void *arg, ...);
#define clone __clone
#endif

struct birth {
	const struct spawn *s;
	volatile int error; /* the child's, while the parent stands still; volatile: clone() hides the write */
};

/* The connection on 0 and 1 (and 2), in whatever order the numbers lie; close-on-exec off, as dup2(2) leaves it. */
UNWATCHED static int child_descriptors(const struct spawn *s)
{
	long fd = s->fd;
	if (fd <= 2) /* dup2() onto itself would keep close-on-exec, onto another's place would lose it */
		fd = syscall(SYS_fcntl, fd, F_DUPFD_CLOEXEC, 3);
	if (fd < 0 || syscall(SYS_dup3, fd, 0, 0) < 0 || syscall(SYS_dup3, fd, 1, 0) < 0)
		return errno;
	if (s->stderr_too && syscall(SYS_dup3, fd, 2, 0) < 0)
		return errno;
	/* All of ours are close-on-exec already; this is for what somebody else's code in this process, or whoever
	 * started it, left open. ENOSYS before Linux 5.11: then that stays. */
	(void)syscall(SYS_close_range, 3u, ~0u, CLOSE_RANGE_CLOEXEC);
	return 0;
}

UNWATCHED static void child_signals(void)
{
	/* A zeroed struct sigaction of the kernel's is SIG_DFL with no flag on every architecture; 64 bytes is more than
	 * any. execve(2) itself resets what is caught, but not what is ignored. */
	static const uint64_t defaults[8], none[2];
	for (int sig = 1; sig <= LAST_SIGNAL; sig++)
		if (sig != SIGKILL && sig != SIGSTOP)
			(void)syscall(SYS_rt_sigaction, sig, defaults, NULL, KERNEL_SIGSET);
	(void)syscall(SYS_rt_sigprocmask, SIG_SETMASK, none, NULL, KERNEL_SIGSET);
}

UNWATCHED static int child(void *arg)
{
	struct birth *b = arg;
	const struct spawn *s = b->s;
	b->error = child_descriptors(s);
	if (b->error == 0) {
		(void)syscall(SYS_setpgid, 0, 0); /* cannot fail for a new child */
		child_signals();
		if (s->directory != NULL && syscall(SYS_chdir, s->directory) < 0)
			b->error = errno;
		else if (syscall(SYS_execve, s->path, s->argv, s->envp) < 0)
			b->error = errno;
	}
	syscall(SYS_exit_group, 127);
	return 0; /* not reached */
}

int spawn_start(const struct spawn *s, struct spawned *out)
{
	_Alignas(64) char stack[CHILD_STACK];
	static const uint64_t all[2] = {~UINT64_C(0), ~UINT64_C(0)};
	uint64_t before[2];
	struct birth b = {.s = s};
	int pidfd = -1;
#ifdef __hppa__
	void *top = stack; /* its stack grows upward */
#else
	void *top = stack + sizeof stack;
#endif
	errno = 0; /* has its symbol, and below syscall()'s, resolved here and not in the child */
	/* The bare call also blocks the two signals that pthread_sigmask(3) keeps for itself. */
	(void)syscall(SYS_rt_sigprocmask, SIG_SETMASK, all, before, KERNEL_SIGSET);
	pid_t pid = clone(child, top, CLONE_VM | CLONE_VFORK | CLONE_PIDFD | SIGCHLD, &b, &pidfd);
	int error = pid < 0 ? errno : b.error;
	(void)syscall(SYS_rt_sigprocmask, SIG_SETMASK, before, NULL, KERNEL_SIGSET);
	if (pid < 0)
		return -error;
	struct spawned p = {.pid = pid, .pidfd = pidfd};
	if (error != 0) {
		siginfo_t info; /* it has ended: this does not wait */
		(void)waitid(P_PIDFD, (id_t)pidfd, &info, WEXITED);
		(void)close(pidfd);
		return -error;
	}
	*out = p;
	return 0;
}

int spawn_reap(const struct spawned *p, int *status)
{
	siginfo_t info = {0};
	int r;
	do
		r = waitid(P_PIDFD, (id_t)p->pidfd, &info, WEXITED | WNOHANG);
	while (r < 0 && errno == EINTR);
	if (r < 0)
		return -errno;
	if (info.si_pid == 0)
		return -EAGAIN;
	if (info.si_code == CLD_EXITED)
		*status = (info.si_status & 0xff) << 8;
	else
		*status = (info.si_status & 0x7f) | (info.si_code == CLD_DUMPED ? 0x80 : 0);
	return 0;
}

void spawn_signal(const struct spawned *p, int sig)
{
	(void)kill(-p->pid, sig); /* fails only where the whole group has already gone */
}

/* 0 if path is a file that we may run. */
static int runnable(const char *path)
{
	struct stat st;
	if (stat(path, &st) < 0)
		return -errno;
	if (S_ISDIR(st.st_mode))
		return -EISDIR;
	return S_ISREG(st.st_mode) && faccessat(AT_FDCWD, path, X_OK, AT_EACCESS) == 0 ? 0 : -EACCES;
}

/* Writes "dir/name", with the working directory before it where dir is not absolute, and tries it. */
static int try_in(const char *dir, size_t dir_len, const char *name, char *path, size_t cap)
{
	char cwd[PATH_MAX];
	int n;
	if (dir_len > 0 && dir[0] == '/')
		n = snprintf(path, cap, "%.*s/%s", (int)dir_len, dir, name);
	else if (getcwd(cwd, sizeof cwd) == NULL)
		return -errno;
	else if (dir_len > 0)
		n = snprintf(path, cap, "%s/%.*s/%s", cwd, (int)dir_len, dir, name);
	else
		n = snprintf(path, cap, "%s/%s", cwd, name);
	return n < 0 || (size_t)n >= cap ? -ENAMETOOLONG : runnable(path);
}

int spawn_find(const char *name, char *path, size_t cap)
{
	if (name[0] == '\0')
		return -ENOENT;
	if (name[0] == '/')
		return snprintf(path, cap, "%s", name) >= (int)cap ? -ENAMETOOLONG : runnable(path);
	if (strchr(name, '/') != NULL)
		return try_in("", 0, name, path, cap);
	const char *dirs = getenv("PATH");
	int result = -ENOENT;
	if (dirs == NULL || dirs[0] == '\0')
		dirs = "/bin:/usr/bin"; /* as execvp(3) */
	for (;;) {
		size_t len = strcspn(dirs, ":");
		int r = try_in(dirs, len, name, path, cap);
		if (r == 0)
			return 0;
		if (r == -EACCES) /* perhaps there is one that may be run further on; if not, this is the telling reason */
			result = r;
		if (dirs[len] == '\0')
			return result;
		dirs += len + 1;
	}
}
