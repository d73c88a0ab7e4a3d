/* engine_poll.c — the portable engine, on poll(2): a flat array of what is waited for, scanned at every wait. For
 * systems without the other two, and as their measure. Interest lasts until the event comes or the source is detached.
 *
 * poll(2) refuses more descriptors than RLIMIT_NOFILE allows to open, though they were open before the limit was
 * lowered (a sandbox does so): then it is select(2), which has no such limit.
 *
 * One thread: the loop's. A connection that was handed to another thread is detached there. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "base/sys.h"
#include "hark.h"
#include "loop/engine.h"

struct poll_engine {
	struct hark__engine e;
	struct pollfd *fds;   /* of the sources, in the same order. Guarded by e.lock */
	struct pollfd *asked; /* cap behind fds: what the kernel is asked, as another thread may detach meanwhile */
	uint32_t cap;
};

static struct poll_engine *mine(struct hark__engine *e)
{
	return hark__container(e, struct poll_engine, e);
}

static int open_poll(struct hark__engine **out)
{
	struct poll_engine *m = hark__sys.calloc(1, sizeof *m);
	if (m == NULL)
		return -ENOMEM;
	m->e.ops = &hark__engine_poll;
	*out = &m->e;
	return 0;
}

static void close_poll(struct hark__engine *e)
{
	hark__sources_leave(e);
	free(mine(e)->fds);
	free(mine(e));
}

static void forked_poll(struct hark__engine *e)
{
	(void)e; /* holds no descriptor */
}

static int grow(struct poll_engine *m)
{
	uint32_t cap = m->cap ? m->cap * 2 : 64;
	struct pollfd *fds = hark__sys.realloc(m->fds, 2 * (size_t)cap * sizeof *fds);
	if (fds == NULL)
		return -ENOMEM;
	m->fds = fds;
	m->asked = fds + cap;
	m->cap = cap;
	return 0;
}

static int arm_poll(struct hark__engine *e, struct hark__source *s, unsigned events)
{
	struct poll_engine *m = mine(e);
	int r = 0;
	pthread_mutex_lock(&e->lock);
	if (s->engine == NULL) {
		r = e->n_sources == m->cap ? grow(m) : 0;
		r = r == 0 ? hark__sources_add(e, s) : r;
		if (r == 0)
			m->fds[s->index] = (struct pollfd){.fd = s->fd};
	}
	if (r == 0) {
		m->fds[s->index].fd = s->fd;
		m->fds[s->index].events |= (short)((events & HARK__IN ? POLLIN | POLLRDHUP : 0) |
		                                   (events & HARK__OUT ? POLLOUT : 0));
	}
	pthread_mutex_unlock(&e->lock);
	return r;
}

static void detach_poll(struct hark__engine *e, struct hark__source *s)
{
	struct poll_engine *m = mine(e);
	pthread_mutex_lock(&e->lock);
	m->fds[s->index] = m->fds[e->n_sources - 1];
	hark__sources_remove(e, s);
	pthread_mutex_unlock(&e->lock);
}

/* Interest is spent once the event has come, so that nobody's readiness spins the loop; a descriptor without interest
 * is not even polled for errors (negative: ignored). */
static void spend(struct pollfd *p, unsigned bits)
{
	if (bits & HARK__IN)
		p->events &= (short)~(POLLIN | POLLRDHUP);
	if (bits & HARK__OUT)
		p->events &= (short)~POLLOUT;
	if (p->events == 0)
		p->fd = -1;
}

static unsigned bits(short revents)
{
	unsigned b = 0;
	if (revents & POLLIN)
		b |= HARK__IN;
	if (revents & POLLOUT)
		b |= HARK__OUT;
	if (revents & (POLLRDHUP | POLLHUP | POLLERR | POLLNVAL))
		b |= HARK__IN | HARK__OUT | HARK__HUP;
	return b;
}

#define WORD_BITS (8 * sizeof(fd_mask))

static bool in_set(const fd_mask *set, int fd)
{
	return (set[(size_t)fd / WORD_BITS] >> ((size_t)fd % WORD_BITS)) & 1;
}

static void add_to_set(fd_mask *set, int fd)
{
	set[(size_t)fd / WORD_BITS] |= (fd_mask)((unsigned long)1 << ((size_t)fd % WORD_BITS));
}

/* Where a descriptor among them is closed: those are told. */
static int tell_closed(struct pollfd *fds, uint32_t n)
{
	int closed = 0;
	for (uint32_t i = 0; i < n; i++) {
		bool bad = fds[i].fd >= 0 && hark__sys.fcntl(fds[i].fd, F_GETFD, 0) < 0;
		fds[i].revents = bad ? POLLNVAL : 0;
		closed += bad;
	}
	return closed;
}

/* As ppoll(2), with sets of any size: the C library's macros alone stop at FD_SETSIZE. */
static int wait_select(struct pollfd *fds, uint32_t n, const struct timespec *timeout)
{
	int top = 0;
	for (uint32_t i = 0; i < n; i++)
		top = fds[i].fd >= top ? fds[i].fd + 1 : top;
	size_t words = (size_t)top / WORD_BITS + 1;
	fd_mask *in = hark__sys.calloc(2 * words, sizeof *in), *out = in != NULL ? in + words : NULL;
	if (in == NULL) {
		errno = ENOMEM;
		return -1;
	}
	for (uint32_t i = 0; i < n; i++) {
		if (fds[i].fd >= 0 && (fds[i].events & POLLIN))
			add_to_set(in, fds[i].fd);
		if (fds[i].fd >= 0 && (fds[i].events & POLLOUT))
			add_to_set(out, fds[i].fd);
	}
	int r = hark__sys.pselect(top, (fd_set *)in, (fd_set *)out, NULL, timeout, NULL);
	for (uint32_t i = 0; i < n && r >= 0; i++) {
		bool is_in = fds[i].fd >= 0 && in_set(in, fds[i].fd), is_out = fds[i].fd >= 0 && in_set(out, fds[i].fd);
		fds[i].revents = (short)((is_in ? POLLIN | POLLRDHUP : 0) |
		                         (is_out ? POLLOUT : 0)); /* or an end: not told */
	}
	free(in);
	return r < 0 && errno == EBADF ? tell_closed(fds, n) : r;
}

/* With the lock. Returns how many will be asked. */
static uint32_t copy(struct poll_engine *m)
{
	if (m->e.n_sources > 0)
		memcpy(m->asked, m->fds, m->e.n_sources * sizeof *m->fds);
	m->e.some_left = false;
	return m->e.n_sources;
}

static int ask(struct poll_engine *m, uint32_t n_asked, const struct timespec *timeout)
{
	int n = hark__sys.ppoll(m->asked, n_asked, timeout, NULL);
	if (n < 0 && errno == EINVAL)
		n = wait_select(m->asked, n_asked, timeout);
	return n;
}

static int wait_poll(struct hark__engine *e, int64_t until, int64_t now)
{
	struct poll_engine *m = mine(e);
	int64_t ns = until == HARK_FOREVER ? 0 : hark__wait_left(until, now);
	struct timespec t = {.tv_sec = ns / HARK_S, .tv_nsec = ns % HARK_S};
	pthread_mutex_lock(&e->lock);
	uint32_t n_asked = copy(m);
	pthread_mutex_unlock(&e->lock);
	int n = ask(m, n_asked, until == HARK_FOREVER ? NULL : &t), error = errno;
	pthread_mutex_lock(&e->lock);
	if (n >= 0 && e->some_left) { /* others lie at their places now: once more, with the lock */
		n_asked = copy(m);
		n = ask(m, n_asked, &(struct timespec){0});
		error = errno;
	}
	for (uint32_t i = 0; i < n_asked && n > 0; i++) {
		if (m->asked[i].revents == 0)
			continue;
		unsigned b = bits(m->asked[i].revents);
		spend(&m->fds[i], b);
		hark__source_ready(e, e->sources[i], b);
	}
	pthread_mutex_unlock(&e->lock);
	return n < 0 ? -error : 0;
}

const struct hark__engine_ops hark__engine_poll = {
	.name = "poll",
	.open = open_poll,
	.close = close_poll,
	.forked = forked_poll,
	.arm = arm_poll,
	.detach = detach_poll,
	.wait = wait_poll,
};
