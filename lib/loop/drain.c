/* drain.c — hark_drain() and hark_retire(): async-signal-safe, and heard by every worker, thread and child of this
 * process.
 *
 * The state is a deadline in memory shared with forked children and an eventfd that is written once and never read:
 * readable for everybody who polls it. When the drain is over this process takes fresh ones: children that outlive it
 * keep the old, which tell them as before. Each process has a state of its own and looks at the ones of the process
 * that forked it and of the one before as well; so ending one child, also one that a box forked, does not drain its
 * parent, and a connection's process hears of the service's drain also where the worker that forked it has died.
 * Retiring is told by an eventfd of its own: it concerns those alone who accept, and who waits for a drain must not be
 * woken by it.
 *
 * Any thread; hark_drain() also in signal handlers. */
#include "loop/drain.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/eventfd.h>
#include <sys/mman.h>

#include "base/sys.h"
#include "hark.h"

struct state {
	_Atomic int64_t
		until;       /* HARK_FOREVER: no drain. seq_cst: read after the eventfd told, by other processes too */
	atomic_bool retired; /* seq_cst, likewise */
};

static struct state first = {.until = HARK_FOREVER}; /* before the first serve, so that an early signal is not lost */
static _Atomic(struct state *) own = &first;
static struct state *upstream, *far_upstream;
static _Atomic int own_fd = -1, own_retire_fd = -1;
static int upstream_fd = -1, upstream_retire_fd = -1, far_upstream_fd = -1;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int serving; /* guarded by lock */
static pthread_once_t fork_once = PTHREAD_ONCE_INIT;

static void shorten(struct state *s, int64_t until)
{
	int64_t seen = atomic_load(&s->until);
	while (until < seen && !atomic_compare_exchange_weak(&s->until, &seen, until))
		;
}

static void tell(int fd)
{
	uint64_t one = 1;
	while (fd >= 0 && hark__sys.write(fd, &one, sizeof one) < 0 && errno == EINTR)
		;
}

/* own is replaced once, by renew(), which looks at the old state when that is done: whoever still found the old one is
 * seen there, or finds the new one here. seq_cst. */
void hark_drain(int64_t grace_ns)
{
	int saved = errno; /* the interrupted code's */
	int64_t until = hark_after(grace_ns < 0 ? 0 : grace_ns > HARK_FOREVER / 2 ? HARK_FOREVER / 2 : grace_ns);
	struct state *s = atomic_load(&own), *told;
	do {
		told = s;
		shorten(told, until);
		s = atomic_load(&own);
	} while (s != told);
	tell(atomic_load(&own_fd));
	errno = saved;
}

void hark_retire(void)
{
	int saved = errno;
	struct state *s = atomic_load(&own), *told;
	do {
		told = s;
		atomic_store(&told->retired, true);
		s = atomic_load(&own);
	} while (s != told);
	tell(atomic_load(&own_retire_fd));
	errno = saved;
}

bool hark__retired(void)
{
	return atomic_load(&atomic_load(&own)->retired) || (upstream != NULL && atomic_load(&upstream->retired));
}

/* Made when it is first asked for: a child that serves one connection needs none. Of threads that ask at once one makes
 * it. */
int hark__retire_fd(void)
{
	int none = -1, fd = atomic_load(&own_retire_fd);
	if (fd >= 0)
		return fd;
	fd = hark__sys.eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (fd < 0)
		return -errno;
	if (atomic_compare_exchange_strong(&own_retire_fd, &none, fd))
		return fd;
	(void)hark__sys.close(fd);
	return none;
}

int hark__retire_upstream_fd(void)
{
	return upstream_retire_fd;
}

int hark__retire_poll(struct pollfd p[HARK__RETIRE_FDS])
{
	const int fds[HARK__RETIRE_FDS] = {hark__retire_fd(), upstream_retire_fd};
	int n = 0;
	for (int i = 0; i < HARK__RETIRE_FDS; i++)
		if (fds[i] >= 0)
			p[n++] = (struct pollfd){.fd = fds[i], .events = POLLIN};
	return n;
}

static int64_t earlier(int64_t until, struct state *s)
{
	int64_t other = s != NULL ? atomic_load(&s->until) : HARK_FOREVER;
	return until < other ? until : other;
}

int64_t hark__drain_until(void)
{
	return earlier(earlier(atomic_load(&atomic_load(&own)->until), upstream), far_upstream);
}

int64_t hark_drain_deadline(void)
{
	return hark__drain_until();
}

void hark__drain_fds(int fds[HARK__DRAIN_FDS])
{
	fds[0] = atomic_load(&own_fd);
	fds[1] = upstream_fd;
	fds[2] = far_upstream_fd;
}

int hark__drain_poll(struct pollfd p[HARK__DRAIN_FDS])
{
	int fds[HARK__DRAIN_FDS], n = 0;
	hark__drain_fds(fds);
	for (int i = 0; i < HARK__DRAIN_FDS; i++)
		if (fds[i] >= 0)
			p[n++] = (struct pollfd){.fd = fds[i], .events = POLLIN};
	return n;
}

bool hark__drain_has_upstream(void)
{
	return upstream_fd >= 0;
}

/* Any child's, a box's own included: what was its parent's is upstream, and a drain of its own is its own alone. A
 * descriptor of its own it gets when it serves. */
static void forked_child(void)
{
	pthread_mutex_unlock(&lock); /* before_fork() has it, by this thread */
	serving = 0;
	if (atomic_load(&own_fd) < 0) /* the parent has not served: its state is not shared */
		return;
	if (far_upstream_fd >= 0)
		(void)hark__sys.close(far_upstream_fd);
	if (upstream_retire_fd >= 0)
		(void)hark__sys.close(upstream_retire_fd);
	far_upstream = upstream;
	far_upstream_fd = upstream_fd;
	upstream_fd = atomic_exchange(&own_fd, -1);
	atomic_store(&first.until, HARK_FOREVER);
	atomic_store(&first.retired, false);
	upstream = atomic_exchange(&own, &first);
	upstream_retire_fd = atomic_exchange(&own_retire_fd, -1);
}

/* The lock is for what is forked: no child gets half of a state that another thread is just replacing. */
static void before_fork(void)
{
	pthread_mutex_lock(&lock);
}

static void after_fork(void)
{
	pthread_mutex_unlock(&lock);
}

static void watch_forks(void)
{
	(void)pthread_atfork(before_fork, after_fork, forked_child); /* fails only for want of memory, at the start */
}

/* Shared memory and an eventfd that tell of nothing. */
static int fresh(struct state **out)
{
	int fd = hark__sys.eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (fd < 0)
		return -errno;
	struct state *s = hark__sys.mmap(NULL, sizeof *s, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (s == MAP_FAILED) {
		(void)hark__sys.close(fd);
		return -ENOMEM;
	}
	atomic_store(&s->until, HARK_FOREVER);
	*out = s;
	return fd;
}

/* A fresh state; what a signal or another thread asked for of the old one meanwhile is carried over, and what it asked
 * for of the new one before that had a descriptor is told. */
static int renew(struct state *old)
{
	struct state *s;
	int fd = fresh(&s);
	if (fd < 0)
		return fd;
	(void)pthread_once(&fork_once, watch_forks);
	atomic_store(&own, s);
	atomic_store(&own_fd, fd);
	shorten(s, atomic_load(&old->until));
	if (atomic_load(&s->until) != HARK_FOREVER)
		tell(fd);
	if (atomic_load(&old->retired)) /* no need to tell: who begins to serve looks */
		atomic_store(&s->retired, true);
	return 0;
}

/* Another page at the same place, another eventfd at the same number: threads and handlers look there at any time.
 * Children keep those that they have. False: no room.
 *
 * With lock, and nobody serves: a hark_drain() in a thread or handler at the same time may reach either page and either
 * descriptor, and means the drain that ends here, of which the children were told; what it tells the new descriptor
 * alone untell() takes back, now or as the next one begins to serve. mremap(2) replaces the page in one step: who looks
 * meanwhile waits for it. Forks wait for the lock. */
static bool replace_told(void)
{
	struct state *s;
	int fd = atomic_load(&own) != &first ? fresh(&s) : -1; /* the first is not shared */
	if (fd < 0)
		return false;
	bool done = hark__sys.mremap_to(s, sizeof *s, atomic_load(&own)) != MAP_FAILED;
	if (!done)
		(void)hark__sys.munmap(s, sizeof *s);
	done = done && hark__sys.dup3(fd, atomic_load(&own_fd), O_CLOEXEC) >= 0;
	(void)hark__sys.close(fd);
	return done;
}

static void empty(int fd)
{
	uint64_t count;
	while (fd >= 0 && hark__sys.read(fd, &count, sizeof count) < 0 && errno == EINTR)
		;
}

/* Takes back what the descriptors tell of a drain that is over. With lock. A drain that begins meanwhile is told again.
 */
static void untell(void)
{
	empty(atomic_load(&own_fd));
	empty(atomic_load(&own_retire_fd));
	if (atomic_load(&atomic_load(&own)->until) != HARK_FOREVER)
		tell(atomic_load(&own_fd));
	if (atomic_load(&atomic_load(&own)->retired))
		tell(atomic_load(&own_retire_fd));
}

int hark__drain_enter(void)
{
	int r = 0;
	pthread_mutex_lock(&lock);
	if (atomic_load(&own_fd) < 0)
		r = renew(&first);
	else if (serving == 0) /* hark_drain() may have written after the last serve had left */
		untell();
	if (r == 0)
		serving++;
	pthread_mutex_unlock(&lock);
	return r;
}

void hark__drain_leave(void)
{
	pthread_mutex_lock(&lock);
	if (--serving == 0) {
		if (atomic_load(&atomic_load(&own)->until) != HARK_FOREVER)
			(void)replace_told(); /* else children that did not look yet miss it */
		atomic_store(&atomic_load(&own)->until, HARK_FOREVER);
		atomic_store(&first.until, HARK_FOREVER);
		atomic_store(&atomic_load(&own)->retired, false);
		atomic_store(&first.retired, false);
		untell();
	}
	pthread_mutex_unlock(&lock);
}

void hark__drain_forked(void)
{
	serving = 1;
	(void)renew(&first); /* no room: its own drains are seen where somebody looks */
}
