/* wait.c — the one function where every call waits. On a loop the fiber parks and the engine wakes it; elsewhere the
 * thread waits in poll(2). Nothing else in the library knows the difference.
 *
 * Owner: the caller keeps the sources; they stay attached to the engine between waits. */
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "base/sys.h"
#include "hark.h"
#include "loop/drain.h"
#include "loop/loop.h"

#define SOURCES_MAX 72 /* a supervisor's workers, a dial's attempts */

#define SHORTENED_NS (50 * HARK_MS) /* how soon a wait sees that a drain's grace was shortened */

static __thread bool served; /* a box without a loop runs here: a drain's end cuts its waits */

void hark__wait_served(bool on)
{
	served = on;
}

bool hark__wait_is_served(void)
{
	return served;
}

static __thread struct hark__interrupt *interrupt;

struct hark__interrupt *hark__wait_interrupt_by(struct hark__interrupt *i)
{
	struct hark__interrupt *before = interrupt;
	interrupt = i;
	return before;
}

bool hark__wait_is_interruptible(void)
{
	return interrupt != NULL;
}

void hark__wait_interrupt(void)
{
	struct hark__interrupt *i = interrupt;
	if (i == NULL || (!hark__retired() && hark__drain_until() == HARK_FOREVER))
		return;
	interrupt = NULL;
	i->run(i);
}

bool hark__wait_is_cut(void)
{
	int64_t end = served ? hark__drain_until() : HARK_FOREVER;
	return end != HARK_FOREVER && hark_now() >= end;
}

/* ---- on a loop ------------------------------------------------------------------------------- */

static struct hark__waiter **slot(struct hark__source *s, unsigned direction)
{
	return direction == HARK__IN ? &s->in : &s->out;
}

static void let_go(struct hark__source *s, unsigned events, const struct hark__waiter *w)
{
	for (unsigned d = HARK__IN; d <= HARK__OUT; d <<= 1)
		if ((events & d) && *slot(s, d) == w)
			*slot(s, d) = NULL;
}

static int take_hold(struct hark__loop *l, struct hark__source *s, unsigned events, struct hark__waiter *w)
{
	for (unsigned d = HARK__IN; d <= HARK__OUT; d <<= 1) {
		if (!(events & d))
			continue;
		/* A writer takes over from a reader that only saw to what was left in the buffer. */
		if (d == HARK__IN && s->in != NULL && s->in != w) {
			let_go(s, events, w);
			return -EBUSY;
		}
		*slot(s, d) = w;
	}
	if (s->engine != NULL && s->engine != l->engine) /* of a loop that a fork has left behind */
		hark__source_detach(s);
	int r = l->engine->ops->arm(l->engine, s, events & (HARK__IN | HARK__OUT));
	if (r < 0)
		let_go(s, events, w);
	return r;
}

static int wait_parked(struct hark__loop *l, struct hark__source *const s[], int n, unsigned events, int64_t deadline,
                       const char *doing)
{
	struct hark__fiber *f = l->current;
	int held = 0, r = f->cancelled ? -ECANCELED : 0; /* before the engine is asked: that may find it ready */
	for (; held < n && r == 0; held++) {
		r = take_hold(l, s[held], events, &f->waiter);
		if (r == -EPERM) { /* a regular file: always ready */
			hark__ready_set(s[held], HARK__IN | HARK__OUT);
			r = 1;
		}
		if (hark__ready(s[held]) & events) /* arming may have found it ready */
			r = r < 0 ? r : 1;
	}
	if (r == 0) {
		f->drains = events & HARK__DRAIN;
		f->on = n > 0 ? s[0] : NULL;
		r = hark__park(deadline, doing);
		f->on = NULL;
		f->drains = false;
	}
	while (held-- > 0)
		let_go(s[held], events, &f->waiter);
	return r < 0 ? r : 0;
}

void hark__loop_draining(struct hark__loop *l)
{
	if (l->main.drains)
		hark__fiber_wake(&l->main);
	for (size_t i = 0; i < l->stacks.used; i++) {
		struct hark__fiber *f = hark__stacks_slot(&l->stacks, i);
		if (f->drains)
			hark__fiber_wake(f);
	}
}

/* ---- in poll(2) ------------------------------------------------------------------------------- */

static void note(struct hark__source *s, short revents)
{
	if (revents & (POLLIN | POLLPRI))
		hark__ready_set(s, HARK__IN);
	if (revents & POLLOUT)
		hark__ready_set(s, HARK__OUT);
	if (revents & (POLLHUP | POLLERR | POLLNVAL))
		hark__ready_set(s, HARK__IN | HARK__OUT | HARK__HUP);
}

/* One poll(2), until the deadline or a signal. 1: something is ready; 0: look at the clock and the drain again. */
static int poll_once(struct pollfd p[], struct hark__source *const s[], int n, int watch_drain, int64_t until)
{
	struct timespec t, *timeout = NULL;
	if (until != HARK_FOREVER) {
		int64_t now = hark_now();
		int64_t left = until > now ? until - now : 0; /* until may be INT64_MIN */
		t = (struct timespec){.tv_sec = left / HARK_S, .tv_nsec = left % HARK_S};
		timeout = &t;
	}
	int r = hark__sys.ppoll(p, (nfds_t)(n + watch_drain), timeout, NULL);
	if (r < 0)
		return errno == EINTR || errno == EAGAIN ? 0 : -errno;
	for (int i = 0; i < n; i++)
		note(s[i], p[i].revents);
	return r > 0;
}

static int wait_polled(struct hark__source *const s[], int n, unsigned events, int64_t deadline)
{
	struct pollfd p[SOURCES_MAX + HARK__DRAIN_FDS + HARK__RETIRE_FDS];
	short want = (short)((events & HARK__IN ? POLLIN : 0) | (events & HARK__OUT ? POLLOUT : 0));
	for (int i = 0; i < n; i++)
		p[i] = (struct pollfd){.fd = s[i]->fd, .events = want};
	for (;;) {
		int64_t end = served ? hark__drain_until() : HARK_FOREVER;
		bool draining = end != HARK_FOREVER;
		hark__wait_interrupt();
		if ((events & HARK__DRAIN) && draining)
			return 0;
		int watch = 0; /* until a drain begins, its descriptors wake us up to learn of its deadline */
		if (served && !draining)
			watch = hark__drain_poll(p + n);
		if (interrupt != NULL)
			watch += hark__retire_poll(p + n + watch);
		int64_t until = deadline < end ? deadline : end;
		if (draining && until > hark_after(SHORTENED_NS))
			until = hark_after(SHORTENED_NS);
		int r = poll_once(p, s, n, watch, until);
		if (r < 0)
			return r;
		for (int i = 0; i < n; i++)
			if (p[i].revents != 0)
				return 0;
		int64_t now = hark_now();
		if (now >= deadline)
			return -ETIMEDOUT;
		if (now >= (served ? hark__drain_until() : HARK_FOREVER))
			return -ECANCELED;
	}
}

/* ---- either ----------------------------------------------------------------------------------- */

int hark__wait_any(struct hark__source *const s[], int n, unsigned events, int64_t deadline, const char *doing)
{
	struct hark__loop *l = hark__loop_current;
	if (n > SOURCES_MAX)
		return -EINVAL;
	for (int i = 0; i < n; i++)
		if (hark__ready(s[i]) & events & (HARK__IN | HARK__OUT))
			return hark__fiber_cancelled() ? -ECANCELED : 0;
	if (l == NULL)
		return wait_polled(s, n, events, deadline);
	if ((events & HARK__DRAIN) && hark__drain_until() != HARK_FOREVER)
		return 0;
	return wait_parked(l, s, n, events, deadline, doing);
}

int hark__wait_one(struct hark__source *s, unsigned events, int64_t deadline, const char *doing)
{
	struct hark__loop *l = hark__loop_current;
	if (l == NULL || s->engine != l->engine || hark__ready(s) & events & (HARK__IN | HARK__OUT) ||
	    ((events & HARK__DRAIN) && hark__drain_until() != HARK_FOREVER))
		return hark__wait_any(&s, 1, events, deadline, doing);
	struct hark__fiber *f = l->current;
	int r = f->cancelled ? -ECANCELED : take_hold(l, s, events, &f->waiter);
	if (r < 0)
		return r;
	if (!(hark__ready(s) & events)) {
		f->drains = events & HARK__DRAIN;
		f->on = s;
		r = hark__park(deadline, doing);
		f->on = NULL;
		f->drains = false;
	}
	let_go(s, events, &f->waiter);
	return r;
}

int hark_wait_fd(int fd, int directions, int64_t deadline)
{
	struct hark__source s;
	struct hark__source *one = &s;
	unsigned events = (unsigned)directions & (HARK__IN | HARK__OUT);
	unsigned drain = directions & HARK_DRAIN ? HARK__DRAIN : 0;
	if (fd < 0 || directions == 0 || (directions & ~(HARK_IN | HARK_OUT | HARK_DRAIN)))
		return -EINVAL;
	if (hark__fiber_cancelled())
		return -ECANCELED;
	if (events == 0 && hark__sys.fcntl(fd, F_GETFD, 0) < 0)
		return -errno;
	hark__source_init(&s, fd);
	s.ready = 0;
	int r = 0, found = 0, own = -1;
	bool past = deadline <= hark_now(); /* only a look: an engine may tell too late */
	while (r == 0 && found == 0) {
		/* For a drain alone the descriptor is not looked at: a hung-up one would end each wait. */
		r = past ? wait_polled(&one, events != 0, events | drain, deadline)
		         : hark__wait_any(&one, events != 0, events | drain, deadline, "descriptor");
		if (r == -EEXIST && own < 0) { /* a connection, or another fiber here, has it registered: epoll tells
			                          them apart by number */
			own = hark__sys.fcntl(fd, F_DUPFD_CLOEXEC, 3);
			r = own < 0 ? -errno : 0;
			s.fd = own;
			continue;
		}
		found = (int)(hark__ready(&s) & events);
		if (drain && hark__drain_until() != HARK_FOREVER)
			found |= HARK_DRAIN;
	}
	hark__source_detach(&s);
	(void)hark__fair();
	if (own >= 0)
		(void)hark__sys.close(own);
	if ((hark__ready(&s) & HARK__HUP) && own < 0 && hark__sys.fcntl(fd, F_GETFD, 0) < 0)
		return -errno; /* poll(2) and io_uring say it as they say an error: ready */
	return r < 0 && found == 0 ? r : found;
}

int hark_sleep(int64_t ns)
{
	int64_t until = hark_after(ns);
	int r = 0;
	if (ns <= 0)
		return hark_yield();
	if (hark__fiber_cancelled())
		return -ECANCELED;
	while (r == 0)
		r = hark__loop_current != NULL ? hark__park(until, "sleep") : wait_polled(NULL, 0, 0, until);
	return r == -ETIMEDOUT ? 0 : r;
}
