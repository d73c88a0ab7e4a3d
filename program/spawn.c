/* spawn.c — see spawn.h.
 *
 * One clone(2) with CLONE_VM | CLONE_VFORK: nothing of the parent's memory is copied, however much of it there is,
 * and the parent's thread stands still until the program runs or the attempt has failed, so that the child can tell
 * why through the parent's own variable. posix_spawn(3) does the same with a dozen calls more, and can neither change
 * directory before glibc 2.29 nor hand out a pidfd. CLONE_PIDFD: an end that can be waited for beside everything
 * else, without SIGCHLD.
 *
 * The child shares memory with its parent and the parent's other threads. Hence: bare system calls alone, which lock
 * nothing and allocate nothing; no handler of the parent's may run in it; and it must not disturb the stack that its
 * parent goes on with. Where clone3(2) can be called in place (two instructions, so an architecture at a time), the
 * kernel clears the handlers and the child simply uses the stack below its parent's frame, as vfork(2) has it.
 * Elsewhere, and before Linux 5.5, glibc's clone() gives it a piece of stack of its own, and every signal is blocked
 * until thirty calls have made all dispositions the default: 8 of the 400 microseconds that a program costs. Nor do
 * sanitizers look at the child, which would take its stack for a stranger. */
#include "spawn.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "descriptors.h"

#define CHILD_STACK   8192        /* bytes; the child uses 2 KB at most, the kernel none of it */
#define LAST_SIGNAL   31          /* the standard ones; nobody starts a service with real-time signals ignored */
#define RUNNING       4096        /* programs that are known to be ours; a power of two */
#define KERNEL_SIGSET (_NSIG / 8) /* bytes of the kernel's sigset_t: 8, on MIPS 16 */

#if defined(__clang__)
#define UNWATCHED __attribute__((noinline, no_sanitize("address", "thread", "undefined")))
#else
#define UNWATCHED __attribute__((noinline, no_sanitize_address, no_sanitize_thread, no_sanitize_undefined))
#endif

/* ThreadSanitizer's clone() takes every child for one with memory of its own, and notes in that memory, which ours
 * shares with us, that this is a forked child. glibc's own has a second name. */
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

#if (defined(__x86_64__) || defined(__aarch64__)) && defined(SYS_clone3) && !defined(THREAD_SANITIZER) && \
	!defined(__SANITIZE_ADDRESS__)
#define CLONE3_IN_PLACE
#endif
#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#undef CLONE3_IN_PLACE /* it marks the frames of functions it knows, and the child's would stay marked */
#endif
#endif

struct birth {
	const struct spawn *s;
	pid_t parent;
	bool session;       /* one of its own, not a process group alone */
	uint32_t reset;     /* signals whose dispositions the child makes the default */
	volatile int error; /* the child's, while the parent stands still; volatile: clone() hides the write */
};

/* The connection, or other input, on 0 and the connection on 1 (and 2), in whatever order the numbers lie;
 * close-on-exec off, as dup2(2) leaves it. */
UNWATCHED static int child_descriptors(const struct spawn *s)
{
	long fd = s->fd, input = s->input < 0 ? s->fd : s->input;
	if (fd <= 2) /* dup2() onto itself would keep close-on-exec, onto another's place would lose it */
		fd = syscall(SYS_fcntl, fd, F_DUPFD_CLOEXEC, 3);
	if (input <= 2)
		input = syscall(SYS_fcntl, input, F_DUPFD_CLOEXEC, 3);
	long error = s->error == s->fd ? fd : s->error;
	if (fd < 0 || input < 0 || syscall(SYS_dup3, input, 0, 0) < 0 || syscall(SYS_dup3, fd, 1, 0) < 0)
		return errno;
	if (error >= 0 && syscall(SYS_dup3, error, 2, 0) < 0)
		return errno;
	/* All of ours are close-on-exec already; this is for what somebody else's code in this process, or whoever
	 * started it, left open. */
	descriptors_close(3, UINT_MAX);
	return 0;
}

/* which: a bit for each signal whose disposition is to be made the default. */
UNWATCHED static void child_signals(uint32_t which)
{
	/* A zeroed struct sigaction of the kernel's is SIG_DFL with no flag on every architecture; 64 bytes is more
	 * than any. execve(2) itself resets what is caught, but not what is ignored. */
	static const uint64_t defaults[8], none[2];
	for (int sig = 1; sig <= LAST_SIGNAL; sig++)
		if (sig != SIGKILL && sig != SIGSTOP && (which & UINT32_C(1) << sig))
			(void)syscall(SYS_rt_sigaction, sig, defaults, NULL, KERNEL_SIGSET);
	(void)syscall(SYS_rt_sigprocmask, SIG_SETMASK, none, NULL, KERNEL_SIGSET);
}

UNWATCHED static int child(void *arg)
{
	struct birth *b = arg;
	const struct spawn *s = b->s;
	b->error = child_descriptors(s);
	if (b->error == 0) {
		(void)(b->session ? syscall(SYS_setsid) : syscall(SYS_setpgid, 0, 0)); /* cannot fail for a new child */
		/* Whoever started it is killed: the program ends, too, or it would be beside every limit. */
		(void)syscall(SYS_prctl, PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
		if (syscall(SYS_getppid) != b->parent)
			syscall(SYS_exit_group, 127);
		child_signals(b->reset);
		if (syscall(SYS_execve, s->path, s->argv, s->envp) < 0)
			b->error = errno;
	}
	syscall(SYS_exit_group, 127);
	return 0; /* not reached */
}

/* The parent's handlers are cleared by the kernel; what it ignores is looked up once: a service decides that before it
 * serves. */
static uint32_t ignored_signals(void)
{
	static _Atomic uint32_t known; /* bit 0: it has been looked up. Relaxed: every look-up finds the same */
	uint32_t set = atomic_load_explicit(&known, memory_order_relaxed);
	if (set != 0)
		return set;
	for (int sig = 1; sig <= LAST_SIGNAL; sig++) {
		struct sigaction a;
		if (sigaction(sig, NULL, &a) == 0 && a.sa_handler == SIG_IGN)
			set |= UINT32_C(1) << sig;
	}
	set |= 1;
	atomic_store_explicit(&known, set, memory_order_relaxed);
	return set;
}

#if defined(CLONE3_IN_PLACE)
/* Both return: the child 0, on its parent's stack. -errno. */
static inline __attribute__((always_inline)) long clone3_in_place(struct clone_args *a)
{
#if defined(__x86_64__)
	long r;
	__asm__ volatile("syscall" : "=a"(r) : "0"((long)SYS_clone3), "D"(a), "S"(sizeof *a) : "rcx", "r11", "memory");
	return r;
#else
	register long number __asm__("x8") = SYS_clone3;
	register long r __asm__("x0") = (long)a;
	register long size __asm__("x1") = sizeof *a;
	__asm__ volatile("svc #0" : "+r"(r) : "r"(number), "r"(size) : "memory");
	return r;
#endif
}

static __attribute__((noinline)) pid_t give_birth(struct birth *b, int *pidfd)
{
	struct clone_args a = {
		.flags = CLONE_VM | CLONE_VFORK | CLONE_PIDFD | CLONE_CLEAR_SIGHAND,
		.pidfd = (uintptr_t)pidfd,
		.exit_signal = SIGCHLD,
	};
	b->reset = ignored_signals();
	long pid = clone3_in_place(&a);
	if (pid == 0)
		(void)child(b); /* does not return: nothing of this frame is written again */
	return (pid_t)pid;
}
#else
static pid_t give_birth(struct birth *b, int *pidfd)
{
	(void)b;
	(void)pidfd;
	(void)ignored_signals;
	return -ENOSYS;
}
#endif

static __attribute__((noinline)) pid_t give_birth_by_libc(struct birth *b, int *pidfd)
{
	_Alignas(64) char stack[CHILD_STACK];
	static const uint64_t all[2] = {~UINT64_C(0), ~UINT64_C(0)};
	uint64_t before[2];
#ifdef __hppa__
	void *top = stack; /* its stack grows upward */
#else
	void *top = stack + sizeof stack;
#endif
	b->reset = UINT32_MAX;
	/* The bare call also blocks the two signals that pthread_sigmask(3) keeps for itself. */
	(void)syscall(SYS_rt_sigprocmask, SIG_SETMASK, all, before, KERNEL_SIGSET);
	pid_t pid = clone(child, top, CLONE_VM | CLONE_VFORK | CLONE_PIDFD | SIGCHLD, b, pidfd);
	int error = errno;
	(void)syscall(SYS_rt_sigprocmask, SIG_SETMASK, before, NULL, KERNEL_SIGSET);
	return pid < 0 ? -error : pid;
}

/* The programs that run, each at its number modulo RUNNING: the later of two has the place. Relaxed: each is right by
 * itself. */
static _Atomic pid_t running[RUNNING];

bool spawn_is_ours(pid_t pid)
{
	return atomic_load_explicit(&running[pid % RUNNING], memory_order_relaxed) == pid;
}

/* Whether our session has a terminal, or may have one. If not, a program needs no session of its own: none but the
 * session's leader can take a terminal. A new one costs a seventh of a spawn, for the kernel gives each a group of its
 * scheduler's (sched(7), autogroup). */
static bool has_terminal(void)
{
	static _Atomic bool none; /* relaxed: it stays so, as no leader of a session opens a terminal to keep it */
	if (atomic_load_explicit(&none, memory_order_relaxed))
		return false;
	int fd = open("/dev/tty", O_RDONLY | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
	if (fd >= 0)
		(void)close(fd);
	bool found = fd >= 0 || errno != ENXIO;
	atomic_store_explicit(&none, !found, memory_order_relaxed);
	return found;
}

void spawn_prepare(void)
{
	(void)ignored_signals();
	(void)has_terminal();
}

int spawn_start(const struct spawn *s, struct spawned *out)
{
	struct birth b = {.s = s, .parent = getpid(), .session = has_terminal()};
	int pidfd = -1;
	errno = 0; /* has its symbol, and below syscall()'s, resolved here and not in the child */
	pid_t pid = give_birth(&b, &pidfd);
	if (pid == -ENOSYS || pid == -EINVAL || pid == -EPERM) /* older than 5.5, or forbidden where clone(2) is not */
		pid = give_birth_by_libc(&b, &pidfd);
	if (pid < 0)
		return pid;
	struct spawned p = {.pid = pid, .pidfd = pidfd};
	if (b.error != 0) {
		siginfo_t info; /* it has ended: this does not wait */
		(void)waitid(P_PIDFD, (id_t)pidfd, &info, WEXITED);
		(void)close(pidfd);
		return -b.error;
	}
	atomic_store_explicit(&running[pid % RUNNING], pid, memory_order_relaxed);
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
	pid_t pid = p->pid;
	(void)atomic_compare_exchange_strong_explicit(&running[pid % RUNNING], &pid, 0, memory_order_relaxed,
	                                              memory_order_relaxed);
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
		/* Perhaps there is one further on that may be run; if not, this is the telling reason. */
		if (r == -EACCES)
			result = r;
		if (dirs[len] == '\0')
			return result;
		dirs += len + 1;
	}
}
