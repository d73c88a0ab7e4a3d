/* engine_epoll.c — the epoll(7) engine: one edge-triggered registration a descriptor, made when somebody first waits
 * there and kept until it is closed. A request then costs its read and its write, and a share of one epoll_wait(2).
 *
 * One thread: the loop's. A connection that was handed to another thread is detached there. */
#include "loop/engine_epoll.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/sys.h"
#include "hark.h"

#define AHEAD 4 /* events */

static struct hark__epoll_engine *mine(struct hark__engine *e)
{
	return hark__container(e, struct hark__epoll_engine, e);
}

int hark__epoll_init(struct hark__epoll_engine *m)
{
	m->fd = hark__sys.epoll_create1(EPOLL_CLOEXEC);
	return m->fd < 0 ? -errno : 0;
}

void hark__epoll_done(struct hark__epoll_engine *m)
{
	hark__sources_leave(&m->e);
	(void)hark__sys.close(m->fd);
}

static int open_epoll(struct hark__engine **out)
{
	struct hark__epoll_engine *m = hark__sys.calloc(1, sizeof *m);
	if (m == NULL)
		return -ENOMEM;
	m->e.ops = &hark__engine_epoll;
	int r = hark__epoll_init(m);
	if (r < 0) {
		free(m);
		return r;
	}
	*out = &m->e;
	return 0;
}

static void close_epoll(struct hark__engine *e)
{
	hark__epoll_done(mine(e));
	free(mine(e));
}

/* The registrations belong to the open file, which the parent still has: closing this descriptor leaves them alone. */
void hark__epoll_forked(struct hark__engine *e)
{
	(void)hark__sys.close(mine(e)->fd);
	mine(e)->fd = -1; /* a source that is detached in the child must not find another file under the number */
}

int hark__epoll_arm(struct hark__engine *e, struct hark__source *s, unsigned events)
{
	(void)events; /* both directions at once: adding the second one later would cost a call and gain nothing */
	struct hark__epoll_engine *m = mine(e);
	if (s->engine != NULL)
		return 0;
	int r = hark__sources_add(e, s);
	struct epoll_event ev = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLPRI | EPOLLET, .data.ptr = s};
	if (r == 0 && hark__sys.epoll_ctl(m->fd, EPOLL_CTL_ADD, s->fd, &ev) < 0) {
		r = -errno;
		hark__sources_remove(e, s);
	}
	return r;
}

/* Always by name: a program that was given a copy of the descriptor would keep the registration alive after our close.
 */
void hark__epoll_detach(struct hark__engine *e, struct hark__source *s)
{
	struct hark__epoll_engine *m = mine(e);
	struct epoll_event unused = {0};
	(void)hark__sys.epoll_ctl(m->fd, EPOLL_CTL_DEL, s->fd, &unused);
	hark__sources_remove(e, s);
}

static unsigned bits(uint32_t events)
{
	unsigned b = 0;
	if (events & EPOLLIN)
		b |= HARK__IN;
	if (events & EPOLLOUT)
		b |= HARK__OUT;
	if (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR | EPOLLPRI))
		b |= HARK__IN | HARK__OUT | HARK__HUP;
	return b;
}

static int wait_once(struct hark__epoll_engine *m, int64_t timeout_ns)
{
	if (timeout_ns > 0 && !m->no_pwait2) {
		struct timespec t = {.tv_sec = timeout_ns / HARK_S, .tv_nsec = timeout_ns % HARK_S};
		int n = hark__sys.epoll_pwait2(m->fd, m->events, HARK__EPOLL_BATCH, &t, NULL);
		if (n >= 0 || errno != ENOSYS)
			return n;
		m->no_pwait2 = true;
	}
	int64_t ms = timeout_ns <= 0 ? timeout_ns : (timeout_ns + HARK_MS - 1) / HARK_MS;
	return hark__sys.epoll_wait(m->fd, m->events, HARK__EPOLL_BATCH, ms > 60000 ? 60000 : (int)ms);
}

/* The sources of a large batch, and then who waits for them, are fetched some events ahead: see fetch_ahead() in
 * fiber.c. */
static inline __attribute__((always_inline)) void fetch_ahead(const struct hark__epoll_engine *m, int i, int n)
{
	if (i + 2 * AHEAD < n)
		__builtin_prefetch(m->events[i + 2 * AHEAD].data.ptr, 1);
	if (i + AHEAD < n)
		__builtin_prefetch(((const struct hark__source *)m->events[i + AHEAD].data.ptr)->in, 1);
}

int hark__epoll_wait(struct hark__engine *e, int64_t timeout_ns)
{
	struct hark__epoll_engine *m = mine(e);
	/* Who leaves before this has no event in the batch that comes. */
	atomic_store_explicit(&e->some_left, false, memory_order_relaxed);
	int n = wait_once(m, timeout_ns), error = errno;
	pthread_mutex_lock(&e->lock); /* what the kernel told is worked off with it: none leaves meanwhile */
	bool all_there = !e->some_left;
	for (int i = 0; i < n; i++) {
		struct hark__source *s = m->events[i].data.ptr;
		if (all_there)
			fetch_ahead(m, i, n);
		if (all_there || hark__sources_has(e, s))
			hark__source_ready(e, s, bits(m->events[i].events));
	}
	pthread_mutex_unlock(&e->lock);
	return n < 0 ? -error : n == HARK__EPOLL_BATCH ? n : 0;
}

const struct hark__engine_ops hark__engine_epoll = {
	.name = "epoll",
	.open = open_epoll,
	.close = close_epoll,
	.forked = hark__epoll_forked,
	.arm = hark__epoll_arm,
	.detach = hark__epoll_detach,
	.wait = hark__epoll_wait,
};
