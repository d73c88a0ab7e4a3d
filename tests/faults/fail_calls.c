/* fail_calls.c — makes the Nth system call or allocation of a running program fail: an LD_PRELOAD that stands before
 * the C library, in whatever calls it: hark, OpenSSL, the loader, the C library's own allocations. What fails, in which
 * processes, is told by a board in memory that a test shares with them (tests/e2e/fault_support.py).
 *
 * unit/fault_driver.h does the same to libhark alone, by its table of calls. Wrappers neither allocate nor lock: they
 * run on fibers' stacks, in forked children and in the loader. */
#include <dlfcn.h>
#include <errno.h>
#include <execinfo.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define LINEAGE 8  /* processes from the program that was started to its children's children */
#define LOUD    32 /* frames of where it struck */

/* X(name, errors that it may plausibly tell) */
/* clang-format off: a table, a call a row */
#define CALLS(X) \
	X(malloc, ENOMEM) \
	X(mmap, ENOMEM) \
	X(madvise, ENOMEM) \
	X(mprotect, ENOMEM) \
	X(memfd_create, EMFILE, ENOMEM) \
	X(ftruncate, ENOSPC) \
	X(open, EMFILE, EACCES) \
	X(read, EIO) \
	X(pread, EIO) \
	X(fcntl, EMFILE) \
	X(stat, ENOMEM) \
	X(pipe2, EMFILE) \
	X(dup2, EMFILE) \
	X(eventfd, EMFILE) \
	X(epoll_create1, EMFILE) \
	X(epoll_ctl, ENOMEM) \
	X(epoll_wait, EINTR) \
	X(poll, EINTR, ENOMEM) \
	X(timerfd_create, EMFILE) \
	X(socket, EMFILE, ENOBUFS) \
	X(socketpair, EMFILE) \
	X(bind, EADDRINUSE, ENOMEM) \
	X(listen, EADDRINUSE) \
	X(connect, ENETUNREACH, ECONNREFUSED) \
	X(accept4, EMFILE, ECONNABORTED) \
	X(getsockopt, ENOBUFS) \
	X(setsockopt, ENOBUFS) \
	X(getsockname, ENOBUFS) \
	X(getpeername, ENOBUFS) \
	X(recv, ENOMEM, ECONNRESET) \
	X(recvmsg, ENOMEM) \
	X(send, ENOBUFS) \
	X(sendmsg, ENOBUFS) \
	X(splice, EINVAL) \
	X(shutdown, ENOTCONN) \
	X(close, EIO) \
	X(fork, EAGAIN, ENOMEM) \
	X(clone, EAGAIN) \
	X(pthread_create, EAGAIN) \
	X(pidfd_open, EMFILE) \
	X(waitid, EINTR) \
	X(kill, EPERM) \
	X(getrandom, EIO) \
	X(prctl, EPERM) \
	X(dlopen, ENOENT)
/* clang-format on */

enum call {
#define ENTRY(name, ...) CALL_##name,
	CALLS(ENTRY)
#undef ENTRY
		N_CALLS
};

static const char *const names[] = {
#define ENTRY(name, ...) #name,
	CALLS(ENTRY)
#undef ENTRY
};

static const int errors[][3] = {
#define ENTRY(name, ...) {__VA_ARGS__},
	CALLS(ENTRY)
#undef ENTRY
};

/* As fault_support.py has it. */
struct board {
	atomic_int armed;
	atomic_int call, error, left; /* which, what it tells, uses before the one that fails */
	atomic_int of;                /* a process and all that it forks; 0: any */
	atomic_int alone;             /* that process and no other */
	atomic_int since;             /* no process that began before that number */
	atomic_int serial;            /* processes that have begun: by exec or fork */
	atomic_int fired;             /* where it struck; 0: it has not */
	atomic_int loud;              /* it tells on standard error where it struck */
	atomic_int live;              /* allocations of the process `of` itself that were not freed */
	atomic_int uses[N_CALLS];     /* while armed */
};

static struct board *board;
static pid_t lineage[LINEAGE]; /* ours and those before us, the nearest one first */
static int serial;

/* For who fills the board: a name, and its nth error; NULL, 0: there is none. */
__attribute__((visibility("default"))) const char *fail_calls_name(int call);
__attribute__((visibility("default"))) int fail_calls_error(int call, int nth);

const char *fail_calls_name(int call)
{
	return call >= 0 && call < N_CALLS ? names[call] : NULL;
}

int fail_calls_error(int call, int nth)
{
	return nth < 3 ? errors[call][nth] : 0;
}

static void begin(void)
{
	memmove(lineage + 1, lineage, sizeof lineage - sizeof *lineage);
	lineage[0] = getpid();
	if (board != NULL)
		serial = atomic_fetch_add(&board->serial, 1) + 1;
}

/* spawn.c calls clone3(2) by two instructions, where nobody can stand before it: it is not there, and clone() is. */
static void hide_clone3(void)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_clone3, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSYS),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = {sizeof code / sizeof *code, code};
	(void)syscall(SYS_prctl, PR_SET_NO_NEW_PRIVS, 1L, 0L, 0L, 0L);
	(void)syscall(SYS_prctl, PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program, 0L, 0L);
}

static __attribute__((constructor)) void find_board(void)
{
	const char *path = getenv("HARK_FAIL_BOARD");
	int fd = path != NULL ? (int)syscall(SYS_openat, AT_FDCWD, path, O_RDWR | O_CLOEXEC) : -1;
	if (fd < 0)
		return;
	void *at = (void *)syscall(SYS_mmap, NULL, sizeof *board, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	(void)syscall(SYS_close, fd);
	if (at != MAP_FAILED)
		board = at;
	if (getenv("HARK_FAIL_CLONE") != NULL)
		hide_clone3();
	begin();
}

static bool is_meant(const struct board *b)
{
	int of = atomic_load(&b->of);
	if (serial < atomic_load(&b->since))
		return false;
	if (atomic_load(&b->alone))
		return lineage[0] == of;
	for (int i = 0; i < LINEAGE && of != 0; i++)
		if (lineage[i] == of)
			return true;
	return of == 0;
}

static __attribute__((noinline)) void tell(struct board *b)
{
	void *frames[LOUD];
	static const char head[] = "fail_calls: it strikes here\n";
	int error = errno;
	atomic_store(&b->armed, 0); /* this allocates */
	(void)!write(STDERR_FILENO, head, sizeof head - 1);
	backtrace_symbols_fd(frames, backtrace(frames, LOUD), STDERR_FILENO);
	atomic_store(&b->armed, 1);
	errno = error;
}

static bool strike(enum call call)
{
	struct board *b = board;
	if (b == NULL || !atomic_load(&b->armed) || !is_meant(b))
		return false;
	atomic_fetch_add(&b->uses[call], 1);
	if (atomic_load(&b->call) != (int)call || atomic_fetch_sub(&b->left, 1) != 1)
		return false;
	atomic_store(&b->fired, lineage[0]);
	errno = atomic_load(&b->error);
	if (atomic_load(&b->loud))
		tell(b);
	return true;
}

static void *next(void **at, const char *name)
{
	void *f = __atomic_load_n(at, __ATOMIC_RELAXED);
	if (f == NULL) {
		f = dlsym(RTLD_NEXT, name);
		__atomic_store_n(at, f, __ATOMIC_RELAXED);
	}
	return f;
}

/* ---- allocations ---------------------------------------------------------------------------------------------- */

static void *count(void *p, int n)
{
	if (p != NULL && board != NULL && lineage[0] == atomic_load(&board->of))
		atomic_fetch_add(&board->live, n);
	return p;
}

#define PUBLIC __attribute__((visibility("default")))
#define REAL(type, name, params) \
	static void *at; \
	type(*real) params = (type(*) params)next(&at, name)

PUBLIC void *malloc(size_t n)
{
	REAL(void *, "malloc", (size_t));
	return strike(CALL_malloc) ? NULL : count(real(n), 1);
}

PUBLIC void *calloc(size_t n, size_t size)
{
	REAL(void *, "calloc", (size_t, size_t));
	return strike(CALL_malloc) ? NULL : count(real(n, size), 1);
}

PUBLIC void *realloc(void *old, size_t n)
{
	REAL(void *, "realloc", (void *, size_t));
	if (strike(CALL_malloc))
		return NULL;
	void *p = real(old, n);
	return old == NULL ? count(p, 1) : p;
}

PUBLIC void *reallocarray(void *old, size_t n, size_t size)
{
	size_t all;
	if (__builtin_mul_overflow(n, size, &all)) {
		errno = ENOMEM;
		return NULL;
	}
	return realloc(old, all);
}

PUBLIC void *aligned_alloc(size_t alignment, size_t n)
{
	REAL(void *, "aligned_alloc", (size_t, size_t));
	return strike(CALL_malloc) ? NULL : count(real(alignment, n), 1);
}

PUBLIC void free(void *p)
{
	/* dlsym(3) frees the text of an error before it: that one is kept. No __tls_get_addr(), which is ASan's. */
	static __attribute__((tls_model("initial-exec"))) _Thread_local bool looking;
	if (looking)
		return;
	looking = true;
	REAL(void, "free", (void *));
	looking = false;
	real(count(p, -1));
}

/* ---- system calls --------------------------------------------------------------------------------------------- */

/* The call itself is made where others know of it already: a descriptor is closed, a child waited for. */
#define FAIL_AS(call, type, name, params, args, failure) \
	PUBLIC type name params; \
	PUBLIC type name params \
	{ \
		REAL(type, #name, params); \
		if (strike(CALL_##call)) \
			return failure; \
		return real args; \
	}
#define FAIL(type, name, params, args) FAIL_AS(name, type, name, params, args, -1)

/* clang-format off: a table, a call a row */
FAIL_AS(mmap, void *, mmap, (void *at_, size_t n, int prot, int flags, int fd, off_t off),
        (at_, n, prot, flags, fd, off), MAP_FAILED)
FAIL_AS(mmap, void *, mmap64, (void *at_, size_t n, int prot, int flags, int fd, off_t off),
        (at_, n, prot, flags, fd, off), MAP_FAILED)
FAIL(int, madvise, (void *at_, size_t n, int advice), (at_, n, advice))
FAIL(int, mprotect, (void *at_, size_t n, int prot), (at_, n, prot))
FAIL(int, memfd_create, (const char *name, unsigned flags), (name, flags))
FAIL_AS(ftruncate, int, ftruncate64, (int fd, off_t n), (fd, n), -1)
FAIL_AS(open, FILE *, fopen64, (const char *path, const char *mode), (path, mode), NULL)
FAIL_AS(pread, ssize_t, pread64, (int fd, void *buf, size_t n, off_t off), (fd, buf, n, off), -1)
FAIL_AS(stat, int, stat64, (const char *path, struct stat64 *st), (path, st), -1)
FAIL_AS(stat, int, fstat64, (int fd, struct stat64 *st), (fd, st), -1)
FAIL_AS(stat, int, lstat64, (const char *path, struct stat64 *st), (path, st), -1)
FAIL(int, pipe2, (int fds[2], int flags), (fds, flags))
FAIL(int, dup2, (int from, int to), (from, to))
FAIL(int, eventfd, (unsigned n, int flags), (n, flags))
FAIL(int, epoll_create1, (int flags), (flags))
FAIL(int, epoll_wait, (int fd, struct epoll_event *e, int n, int ms), (fd, e, n, ms))
FAIL(int, poll, (struct pollfd * p, nfds_t n, int ms), (p, n, ms))
FAIL_AS(poll, int, ppoll, (struct pollfd * p, nfds_t n, const struct timespec *t, const sigset_t *m), (p, n, t, m), -1)
FAIL(int, timerfd_create, (int clock, int flags), (clock, flags))
FAIL(int, socket, (int domain, int type, int protocol), (domain, type, protocol))
FAIL(int, socketpair, (int domain, int type, int protocol, int fds[2]), (domain, type, protocol, fds))
FAIL(int, bind, (int fd, const struct sockaddr *to, socklen_t n), (fd, to, n))
FAIL(int, listen, (int fd, int n), (fd, n))
FAIL(int, connect, (int fd, const struct sockaddr *to, socklen_t n), (fd, to, n))
FAIL(int, accept4, (int fd, struct sockaddr *from, socklen_t *n, int flags), (fd, from, n, flags))
FAIL(int, getsockopt, (int fd, int level, int name, void *v, socklen_t *n), (fd, level, name, v, n))
FAIL(int, setsockopt, (int fd, int level, int name, const void *v, socklen_t n), (fd, level, name, v, n))
FAIL(int, getsockname, (int fd, struct sockaddr *to, socklen_t *n), (fd, to, n))
FAIL(int, getpeername, (int fd, struct sockaddr *to, socklen_t *n), (fd, to, n))
FAIL(ssize_t, recv, (int fd, void *buf, size_t n, int flags), (fd, buf, n, flags))
FAIL(ssize_t, recvmsg, (int fd, struct msghdr *m, int flags), (fd, m, flags))
FAIL(ssize_t, send, (int fd, const void *buf, size_t n, int flags), (fd, buf, n, flags))
FAIL(ssize_t, sendmsg, (int fd, const struct msghdr *m, int flags), (fd, m, flags))
FAIL(ssize_t, splice, (int in, off64_t *a, int out, off64_t *b, size_t n, unsigned f), (in, a, out, b, n, f))
FAIL(int, shutdown, (int fd, int how), (fd, how))
FAIL_AS(pthread_create, int, pthread_create, (pthread_t * t, const pthread_attr_t *a, void *(*fn)(void *), void *arg),
        (t, a, fn, arg), errno)
FAIL(int, pidfd_open, (pid_t pid, unsigned flags), (pid, flags))
FAIL(int, waitid, (idtype_t type, id_t id, siginfo_t *info, int options), (type, id, info, options))
FAIL(ssize_t, getrandom, (void *buf, size_t n, unsigned flags), (buf, n, flags))
FAIL_AS(dlopen, void *, dlopen, (const char *file, int flags), (file, flags), NULL)
/* clang-format on */

/* An eventfd's number in memory has nothing to fail by. */
PUBLIC ssize_t read(int fd, void *buf, size_t n)
{
	REAL(ssize_t, "read", (int, void *, size_t));
	return n != sizeof(uint64_t) && strike(CALL_read) ? -1 : real(fd, buf, n);
}

/* Forgetting a descriptor needs nothing. */
PUBLIC int epoll_ctl(int epfd, int op, int fd, struct epoll_event *e)
{
	REAL(int, "epoll_ctl", (int, int, int, struct epoll_event *));
	return op == EPOLL_CTL_ADD && strike(CALL_epoll_ctl) ? -1 : real(epfd, op, fd, e);
}

PUBLIC int close(int fd)
{
	REAL(int, "close", (int));
	int r = real(fd);
	return r == 0 && strike(CALL_close) ? -1 : r;
}

/* Signals to nobody, and to oneself, are plain. */
PUBLIC int kill(pid_t pid, int sig)
{
	REAL(int, "kill", (pid_t, int));
	int r = real(pid, sig);
	return r == 0 && strike(CALL_kill) ? -1 : r;
}

PUBLIC pid_t fork(void)
{
	REAL(pid_t, "fork", (void));
	if (strike(CALL_fork))
		return -1;
	pid_t pid = real();
	if (pid == 0)
		begin();
	return pid;
}

/* spawn.c's, which hands out a pidfd. */
PUBLIC int clone(int (*fn)(void *), void *stack, int flags, void *arg, ...)
{
	REAL(int, "clone", (int (*)(void *), void *, int, void *, ...));
	va_list args;
	va_start(args, arg);
	int *pidfd = va_arg(args, int *);
	va_end(args);
	return strike(CALL_clone) ? -1 : real(fn, stack, flags, arg, pidfd);
}

PUBLIC int open64(const char *path, int flags, ...)
{
	REAL(int, "open64", (const char *, int, ...));
	va_list args;
	va_start(args, flags);
	mode_t mode = flags & (O_CREAT | __O_TMPFILE) ? va_arg(args, mode_t) : 0;
	va_end(args);
	return strike(CALL_open) ? -1 : real(path, flags, mode);
}

/* New descriptors alone: what else it does needs nothing. */
PUBLIC int fcntl64(int fd, int command, ...)
{
	REAL(int, "fcntl64", (int, int, ...));
	va_list args;
	va_start(args, command);
	long arg = va_arg(args, long);
	va_end(args);
	bool makes = command == F_DUPFD || command == F_DUPFD_CLOEXEC;
	return makes && strike(CALL_fcntl) ? -1 : real(fd, command, arg);
}

/* What hides secrets; names and signals are for comfort. */
PUBLIC int prctl(int option, ...)
{
	REAL(int, "prctl", (int, ...));
	unsigned long arg[4];
	va_list args;
	va_start(args, option);
	for (int i = 0; i < 4; i++)
		arg[i] = va_arg(args, unsigned long);
	va_end(args);
	return option == PR_SET_DUMPABLE && strike(CALL_prctl) ? -1 : real(option, arg[0], arg[1], arg[2], arg[3]);
}

PUBLIC long syscall(long number, ...)
{
	REAL(long, "syscall", (long, ...));
	long arg[6];
	va_list args;
	va_start(args, number);
	for (int i = 0; i < 6; i++)
		arg[i] = va_arg(args, long);
	va_end(args);
	if (number == SYS_pidfd_open && strike(CALL_pidfd_open))
		return -1;
	return real(number, arg[0], arg[1], arg[2], arg[3], arg[4], arg[5]);
}
