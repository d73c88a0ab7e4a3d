/* fault_driver.h — every entry of hark__sys failed at its Nth use, for N = 1, 2, 3 … until what is tested ends without
 * reaching N; each time with every errno that the call may plausibly tell.
 *
 * Wrappers are made from HARK__SYS_CALLS itself, so an entry that is new there is covered without a line here. A
 * scenario's cases run in one forked child, which a watchdog ends if a case does not: whatever happens, the case that
 * did it is named. After each case the child holds the descriptors that it held before, and every allocation that was
 * made through the table has been freed (by a free() of our own; under AddressSanitizer its leak checker looks
 * instead).
 *
 * What is counted lies in shared memory: a use in a forked worker counts as well. */
#ifndef FAULT_DRIVER_H
#define FAULT_DRIVER_H

#include "net_support.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <time.h>

#include "base/sys.h"
#include "loop/loop.h"

#ifdef HARK__ASAN
#include <sanitizer/lsan_interface.h>
#endif

#if defined(HARK__ASAN) || defined(HARK__TSAN)
#define SANITIZED 1 /* free() is the sanitizer's */
#else
#define SANITIZED 0
#endif

#define USES_MAX   2000 /* of one entry in one scenario; more is a loop without end */
#define PATIENCE_S 20   /* for one case; none takes a second by itself */
#define FDS_MAX    256

enum entry {
#define ENTRY(type, name, params, args) FAULT_##name,
	HARK__SYS_CALLS(ENTRY)
#undef ENTRY
		ENTRIES
};

static const char *const entry_names[] = {
#define ENTRY(type, name, params, args) #name,
	HARK__SYS_CALLS(ENTRY)
#undef ENTRY
};

/* What each call may say; 0 ends. after: the call takes place all the same, as an interrupted close(2) or connect(2)
 * does. An entry that has no row fails by EINTR and ENOMEM. EAGAIN is no failure but a promise that an event comes. */
static const struct plausible {
	int errs[7];
	bool after;
} plausible[ENTRIES] = {
	[FAULT_malloc] = {{ENOMEM}},
	[FAULT_calloc] = {{ENOMEM}},
	[FAULT_aligned_alloc] = {{ENOMEM}},
	[FAULT_realloc] = {{ENOMEM}},
	[FAULT_mmap] = {{ENOMEM}},
	[FAULT_munmap] = {{ENOMEM}, true},
	[FAULT_mprotect] = {{ENOMEM}},
	[FAULT_madvise] = {{ENOMEM, EINVAL, EAGAIN}},
	[FAULT_socket] = {{EMFILE, ENFILE, ENOBUFS}},
	[FAULT_socketpair] = {{EMFILE, ENFILE}},
	[FAULT_connect] = {{EINTR, ECONNREFUSED, ENETUNREACH}, true},
	[FAULT_bind] = {{EADDRINUSE, EACCES, ENOMEM}},
	[FAULT_listen] = {{EADDRINUSE}},
	[FAULT_accept4] = {{EINTR, ECONNABORTED, EMFILE, ENFILE, ENOBUFS, ENOMEM}},
	[FAULT_recv] = {{EINTR, ECONNRESET, ENOMEM}},
	[FAULT_recvmsg] = {{EINTR, ENOMEM}},
	[FAULT_recvmmsg] = {{EINTR, ENOMEM}},
	[FAULT_send] = {{EINTR, EPIPE, ENOBUFS}},
	[FAULT_sendmsg] = {{EINTR, EPIPE, ENOBUFS}},
	[FAULT_sendmmsg] = {{EINTR, ENOBUFS}},
	[FAULT_read] = {{EINTR, EIO}},
	[FAULT_write] = {{EINTR, EIO}},
	[FAULT_pread] = {{EINTR, EIO}},
	[FAULT_writev] = {{EINTR, EIO}},
	[FAULT_splice] = {{EINTR, EINVAL}},
	[FAULT_sendfile] = {{EINTR, EINVAL, EIO}},
	[FAULT_shutdown] = {{ENOTCONN}},
	[FAULT_close] = {{EINTR, EIO}, true},
	[FAULT_getsockopt] = {{ENOBUFS}},
	[FAULT_setsockopt] = {{ENOBUFS}},
	[FAULT_getsockname] = {{ENOBUFS}},
	[FAULT_getpeername] = {{ENOBUFS}},
	[FAULT_fcntl] = {{EMFILE}},
	[FAULT_ioctl] = {{ENOTTY}},
	[FAULT_poll] = {{EINTR, ENOMEM}},
	[FAULT_ppoll] = {{EINTR, ENOMEM}},
	[FAULT_epoll_create1] = {{EMFILE, ENOMEM}},
	[FAULT_epoll_ctl] = {{ENOMEM, ENOSPC}},
	[FAULT_epoll_wait] = {{EINTR}},
	[FAULT_timerfd_create] = {{EMFILE, ENOSYS}},
	[FAULT_timerfd_settime] = {{ENOMEM}},
	[FAULT_eventfd] = {{EMFILE, ENOMEM}},
	[FAULT_pipe2] = {{EMFILE, ENFILE}},
	[FAULT_fork] = {{EAGAIN, ENOMEM}},
	[FAULT_pidfd_open] = {{EMFILE, ENOMEM}},
	[FAULT_waitid] = {{EINTR, ECHILD}},
	[FAULT_kill] = {{EPERM}},
	[FAULT_pthread_create] = {{EAGAIN}},
	[FAULT_lstat] = {{EACCES, ENOMEM}},
	[FAULT_fstat] = {{ENOMEM}},
	[FAULT_link] = {{EACCES}},
	[FAULT_rename] = {{EACCES}},
	[FAULT_unlink] = {{EACCES}},
	[FAULT_open] = {{ENOENT, EMFILE}},
	[FAULT_dlopen] = {{ENOENT}},
	[FAULT_chmod] = {{EPERM}},
	[FAULT_chown] = {{EPERM}},
};

static const int any_errs[] = {EINTR, ENOMEM, 0};

/* The case under way. Shared with the watchdog and with forked workers. */
static struct fault_case {
	int entry, err, nth;
	atomic_bool armed;
	atomic_int left; /* uses before the one that fails */
	atomic_bool fired;
	atomic_uint cases; /* begun: the watchdog sees it move */
	char scenario[64];
} * now;

static struct hark__sys real_sys;

/* ---- allocations made through the table, by their address ------------------------------------- */

#define SLOTS (1u << 15)

static atomic_uintptr_t owned[SLOTS]; /* 0: free, 1: was used */
static atomic_int n_owned;

static unsigned slot_of(uintptr_t p)
{
	return (unsigned)((p >> 4) * 2654435761u) % SLOTS;
}

static void *own(void *p)
{
	uintptr_t seen;
	if (p == NULL || SANITIZED)
		return p;
	atomic_fetch_add(&n_owned, 1);
	for (unsigned i = slot_of((uintptr_t)p);; i = (i + 1) % SLOTS) {
		seen = atomic_load(&owned[i]);
		if (seen <= 1 && atomic_compare_exchange_strong(&owned[i], &seen, (uintptr_t)p))
			return p;
	}
}

static void disown(void *p)
{
	if (p == NULL || atomic_load(&n_owned) == 0)
		return;
	for (unsigned i = slot_of((uintptr_t)p), tries = 0; tries < SLOTS; i = (i + 1) % SLOTS, tries++) {
		uintptr_t seen = atomic_load(&owned[i]);
		if (seen == 0)
			return;
		if (seen == (uintptr_t)p) {
			atomic_store(&owned[i], 1);
			atomic_fetch_sub(&n_owned, 1);
			return;
		}
	}
}

/* Between cases, when nobody else runs: forgets the places that were used. */
static void tidy_owned(void)
{
	static uintptr_t kept[SLOTS];
	int n = 0;
	for (unsigned i = 0; i < SLOTS; i++) {
		uintptr_t p = atomic_exchange(&owned[i], 0);
		if (p > 1)
			kept[n++] = p;
	}
	atomic_store(&n_owned, 0);
	while (n > 0)
		(void)own((void *)kept[--n]);
}

#if !SANITIZED
extern void __libc_free(void *p);

void free(void *p)
{
	disown(p);
	__libc_free(p);
}
#endif

/* ---- the wrappers ---------------------------------------------------------------------------- */

static bool strike(enum entry e)
{
	if (now == NULL || !atomic_load(&now->armed) || now->entry != (int)e || atomic_fetch_sub(&now->left, 1) != 1)
		return false;
	atomic_store(&now->fired, true);
	return true;
}

static intptr_t failure(enum entry e)
{
	switch (e) {
	case FAULT_malloc:
	case FAULT_calloc:
	case FAULT_aligned_alloc:
	case FAULT_realloc:
	case FAULT_dlopen: return 0;
	case FAULT_pthread_create: return now->err;
	default: return -1; /* of mmap(2) too: MAP_FAILED */
	}
}

#define WRAP(type, name, params, args) \
	static type wrap_##name params \
	{ \
		if (!strike(FAULT_##name)) \
			return real_sys.name args; \
		if (plausible[FAULT_##name].after) \
			(void)real_sys.name args; \
		errno = now->err; \
		return (type)failure(FAULT_##name); \
	}
HARK__SYS_CALLS(WRAP)
#undef WRAP

static void *own_malloc(size_t n)
{
	return own(wrap_malloc(n));
}

static void *own_calloc(size_t count, size_t n)
{
	return own(wrap_calloc(count, n));
}

static void *own_aligned_alloc(size_t alignment, size_t n)
{
	return own(wrap_aligned_alloc(alignment, n));
}

static void *own_realloc(void *old, size_t n)
{
	void *got = wrap_realloc(old, n); /* which does not call free() by its name */
	if (got != NULL) {
		disown(old);
		(void)own(got);
	}
	return got;
}

static bool is_eventfd(int fd)
{
	char link[64], text[64] = "";
	(void)snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
	ssize_t n = readlink(link, text, sizeof text - 1);
	return n > 0 && strstr(text, "eventfd") != NULL;
}

/* An eventfd in memory has nothing to fail by. */
static ssize_t read_plausibly(int fd, void *buf, size_t n)
{
	return now->err != EINTR && is_eventfd(fd) ? real_sys.read(fd, buf, n) : wrap_read(fd, buf, n);
}

static ssize_t write_plausibly(int fd, const void *buf, size_t n)
{
	return now->err != EINTR && is_eventfd(fd) ? real_sys.write(fd, buf, n) : wrap_write(fd, buf, n);
}

/* Forgetting a descriptor needs nothing. */
static int epoll_ctl_plausibly(int epfd, int op, int fd, struct epoll_event *event)
{
	return op == EPOLL_CTL_ADD ? wrap_epoll_ctl(epfd, op, fd, event) : real_sys.epoll_ctl(epfd, op, fd, event);
}

static void install(void)
{
	real_sys = hark__sys;
#define REPLACE(type, name, params, args) hark__sys.name = wrap_##name;
	HARK__SYS_CALLS(REPLACE)
#undef REPLACE
	hark__sys.malloc = own_malloc;
	hark__sys.calloc = own_calloc;
	hark__sys.aligned_alloc = own_aligned_alloc;
	hark__sys.realloc = own_realloc;
	hark__sys.read = read_plausibly;
	hark__sys.write = write_plausibly;
	hark__sys.epoll_ctl = epoll_ctl_plausibly;
}

/* ---- what a scenario calls -------------------------------------------------------------------- */

static void fault_arm(void)
{
	atomic_store(&now->armed, true);
}

static bool fault_fired(void)
{
	return atomic_load(&now->fired);
}

static _Noreturn void fault_failed(const char *file, int line, const char *what, long long value)
{
	(void)fprintf(stderr, "%s:%d: %s does not hold (%lld): %s: %s fails by %s at its use %d%s\n", file, line, what,
	              value, now->scenario, entry_names[now->entry],
	              now->err != 0 ? strerrorname_np(now->err) : "nothing", now->nth,
	              fault_fired() ? "" : " (not reached)");
	_exit(1);
}

#define HOLD_VALUE(condition, value) \
	do { \
		if (!(condition)) \
			fault_failed(__FILE__, __LINE__, #condition, (long long)(value)); \
	} while (0)
#define HOLD(condition) HOLD_VALUE(condition, 0)

/* A result under faults: success; or the failure, told as it was. Interruptions are nobody's business. */
static bool sensible(long long r)
{
	int told = now->entry == FAULT_madvise || now->entry == FAULT_munmap ? ENOMEM : now->err; /* of a stack */
	return r >= 0 || (fault_fired() && r != -EINTR && r == -told);
}

/* Runs fn in a fresh thread, so that what is a thread's own (the buffer pool) is gone with it. */
struct in_thread {
	void (*fn)(void *);
	void *arg;
};

static void *thread_body(void *arg)
{
	struct in_thread *t = arg;
	t->fn(t->arg);
	return NULL;
}

/* ---- cases ------------------------------------------------------------------------------------ */

static uint64_t fds_before[FDS_MAX / 64];

static void look_at_fds(uint64_t bits[])
{
	for (int fd = 0; fd < FDS_MAX; fd++)
		if (fcntl(fd, F_GETFD) >= 0)
			bits[fd / 64] |= UINT64_C(1) << fd % 64;
}

static int leaked_fd(void)
{
	uint64_t after[FDS_MAX / 64] = {0};
	look_at_fds(after);
	for (int fd = 0; fd < FDS_MAX; fd++)
		if ((after[fd / 64] ^ fds_before[fd / 64]) >> fd % 64 & 1)
			return fd;
	return -1;
}

static void nap(void)
{
	struct timespec t = {.tv_nsec = 1000000};
	(void)nanosleep(&t, NULL);
}

static void run_case(const struct in_thread *scenario)
{
	pthread_t t;
	atomic_store(&now->fired, false);
	atomic_store(&now->armed, false);
	atomic_store(&now->left, now->nth);
	atomic_fetch_add(&now->cases, 1);
	HOLD(pthread_create(&t, NULL, thread_body, (void *)scenario) == 0);
	HOLD(pthread_join(t, NULL) == 0);
	atomic_store(&now->armed, false);
}

/* A helper thread that was left behind lets go a little later. */
static void check_leaks(int allocations)
{
	for (int i = 0; i < 3000 && (leaked_fd() >= 0 || atomic_load(&n_owned) != allocations); i++)
		nap();
	HOLD_VALUE(leaked_fd() < 0, leaked_fd());
	HOLD_VALUE(atomic_load(&n_owned) == allocations, atomic_load(&n_owned) - allocations);
	tidy_owned();
}

static void run_entry(const struct in_thread *scenario, enum entry e, int allocations)
{
	const int *errs = plausible[e].errs[0] != 0 ? plausible[e].errs : any_errs;
	bool used = true;
	now->entry = (int)e;
	for (; *errs != 0 && used; errs++) {
		now->err = *errs;
		for (now->nth = 1, used = false;; now->nth++, used = true) {
			HOLD(now->nth < USES_MAX);
			run_case(scenario);
			check_leaks(allocations);
			if (!fault_fired())
				break;
		}
	}
#ifdef HARK__ASAN
	if (used)
		HOLD(__lsan_do_recoverable_leak_check() == 0);
#endif
}

static _Noreturn void run_all(const struct in_thread *scenario)
{
	(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
	for (int sig = 1; sig < 32; sig++) /* cmocka's own hide how a case ended */
		if (sig != SIGKILL && sig != SIGSTOP)
			(void)signal(sig, SIG_DFL);
	install();
	now->err = 0;
	for (int i = 0; i < 3; i++) /* what is made once in a process is made now */
		run_case(scenario);
	nap();
	memset(fds_before, 0, sizeof fds_before);
	look_at_fds(fds_before);
	tidy_owned();
	int allocations = atomic_load(&n_owned);
	for (int e = 0; e < ENTRIES; e++)
		run_entry(scenario, (enum entry)e, allocations);
	_exit(0);
}

/* One scenario at work in its child. */
struct faulty {
	pid_t pid;
	struct fault_case *at;
	int64_t began;
	unsigned seen, still; /* the watchdog's: cases begun when it last looked; looks since that moved */
	int status;
};

static void fault_begin(struct faulty *f, const char *name, void (*fn)(void *), void *arg)
{
	struct in_thread scenario = {fn, arg};
	*f = (struct faulty){.began = hark_now()};
	f->at = mmap(NULL, sizeof *f->at, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	assert_true(f->at != MAP_FAILED);
	(void)snprintf(f->at->scenario, sizeof f->at->scenario, "%s", name);
	(void)fflush(NULL);
	f->pid = fork();
	assert_true(f->pid >= 0);
	if (f->pid == 0) {
		now = f->at;
		run_all(&scenario);
	}
}

/* true: it has ended. */
static bool look_at(struct faulty *f)
{
	if (waitpid(f->pid, &f->status, WNOHANG) == f->pid)
		return true;
	unsigned cases = atomic_load(&f->at->cases);
	f->still = cases == f->seen ? f->still + 1 : 0;
	f->seen = cases;
	if (f->still == PATIENCE_S * 100)
		(void)kill(f->pid, SIGABRT);
	return false;
}

static void explain_end(const struct faulty *f)
{
	char how[64];
	if (f->status == 0)
		(void)snprintf(how, sizeof how, "%u cases", atomic_load(&f->at->cases));
	else if (WIFEXITED(f->status))
		(void)snprintf(how, sizeof how, "status %d", WEXITSTATUS(f->status));
	else
		(void)snprintf(how, sizeof how, "%s by signal %d",
		               f->still >= PATIENCE_S * 100 ? "hangs, ended" : "ended", WTERMSIG(f->status));
	(void)fprintf(stderr, "%s: %s after %.1f s", f->at->scenario, how, (double)(hark_now() - f->began) / 1e9);
	if (f->status != 0)
		(void)fprintf(stderr, ": %s fails by %s at its use %d", entry_names[f->at->entry],
		              strerrorname_np(f->at->err), f->at->nth);
	(void)fprintf(stderr, "\n");
}

/* Waits for them all, and then fails if one has failed. */
static void fault_end(struct faulty f[], int n)
{
	int left = n, failed = 0;
	while (left > 0) {
		for (int i = 0; i < n; i++) {
			if (f[i].pid == 0 || !look_at(&f[i]))
				continue;
			f[i].pid = 0;
			left--;
			failed += f[i].status != 0;
			explain_end(&f[i]);
		}
		for (int i = 0; i < 10; i++)
			nap();
	}
	for (int i = 0; i < n; i++)
		(void)munmap(f[i].at, sizeof *f[i].at);
	assert_int_equal(failed, 0);
}

static void fault_each_use(const char *name, void (*fn)(void *), void *arg)
{
	struct faulty one;
	fault_begin(&one, name, fn, arg);
	fault_end(&one, 1);
}

#endif
