/* engine_epoll.c — the epoll(7) engine: one edge-triggered registration a descriptor, made when somebody first waits
 * there and kept until it is closed. A request then costs its read and its write, and a share of one epoll_wait(2).
 *
 * The time is a timerfd(2) among the descriptors, armed when an earlier moment than the armed one is waited for. Most
 * deadlines are put off again and again; a timeout of each wait would be armed and taken back each time, which costs a
 * short connection a twentieth.
 *
 * One thread: the loop's. A connection that was handed to another thread is detached there. */
#include "loop/engine_epoll.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "base/sys.h"
#include "hark.h"

#define AHEAD      4     /* events */
#define LONGEST_MS 60000 /* without a timer */

static struct hark__epoll_engine *mine(struct hark__engine *e)
{
	return hark__container(e, struct hark__epoll_engine, e);
}

static void close_timer(struct hark__epoll_engine *m)
{
	if (m->timer.fd >= 0)
		(void)hark__sys.close(m->timer.fd);
	m->timer.fd = -1;
}

int hark__epoll_init(struct hark__epoll_engine *m)
{
	m->fd = hark__sys.epoll_create1(EPOLL_CLOEXEC);
	if (m->fd < 0)
		return -errno;
	hark__source_init(&m->timer, hark__sys.timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK));
	m->timer_at = INT64_MIN;
	struct epoll_event ev = {.events = EPOLLIN | EPOLLET, .data.ptr = &m->timer};
	if (m->timer.fd >= 0 && hark__sys.epoll_ctl(m->fd, EPOLL_CTL_ADD, m->timer.fd, &ev) < 0)
		close_timer(m);
	return 0;
}

void hark__epoll_done(struct hark__epoll_engine *m)
{
	hark__sources_leave(&m->e);
	close_timer(m);
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
	close_timer(mine(e));
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

/* Nobody reads the timer: each expiry is an edge. */
static bool timer_armed(struct hark__epoll_engine *m, int64_t at, int64_t now)
{
	if (at >= m->timer_at && m->timer_at > now)
		return true;
	struct itimerspec t = {.it_value = {.tv_sec = at / HARK_S, .tv_nsec = at % HARK_S}};
	if (m->timer.fd < 0 || hark__sys.timerfd_settime(m->timer.fd, TFD_TIMER_ABSTIME, &t, NULL) < 0)
		return false;
	m->timer_at = at;
	return true;
}

/* In milliseconds, for epoll_wait(2): -1 where nothing is to come, or the timer tells. */
static int timeout(struct hark__epoll_engine *m, int64_t until, int64_t now)
{
	if (until <= now)
		return 0;
	if (until == HARK_FOREVER || timer_armed(m, until, now))
		return -1;
	int64_t ms = (hark__wait_left(until, now) + HARK_MS - 1) / HARK_MS;
	return ms < LONGEST_MS ? (int)ms : LONGEST_MS;
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

int hark__epoll_wait(struct hark__engine *e, int64_t until, int64_t now)
{
	struct hark__epoll_engine *m = mine(e);
	/* Who leaves before this has no event in the batch that comes. */
	atomic_store_explicit(&e->some_left, false, memory_order_relaxed);
	int n = hark__sys.epoll_wait(m->fd, m->events, HARK__EPOLL_BATCH, timeout(m, until, now)), error = errno;
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
