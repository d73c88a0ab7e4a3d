/* engine_uring.c — the io_uring engine: one one-shot operation for each wait, submitted with everybody else's in the
 * one system call that the loop makes anyway.
 *
 * A reader that waits has a receive under way, into a buffer of a ring that all connections share: its completion
 * brings bytes, the end or the error together with the wake-up, and no recv(2) is needed. Everything else waits by a
 * poll. Nothing is received for who does not wait: between two waits all bytes are in the kernel or in the connection's
 * own buffer, so that a forked child, another thread or a program finds them there. A wait that ends otherwise (its
 * deadline, a cancellation, a drain) cancels what it has under way before it returns. (A multishot receive saves an
 * entry a request and no system call, holds bytes that may be somebody else's by then, and is not told the end of a
 * peer whose data and reset were there before it: Linux 6.18. Here each wait begins with a poll, by level.)
 *
 * What a reader has written before it waits, if it is short, is copied to a slot of the engine's and sent in the same
 * system call. It is tried once: what there is no room for goes back. (Left to wait in the ring it would hold its slot,
 * end up half sent where it is cancelled, and take a reset's error from the reader, to whom the stream would then seem
 * to end in order.) Where no slot is free, and for all other writing, send(2) is tried at once as everywhere.
 *
 * Listening sockets are watched by an epoll descriptor, which the ring polls: a poll holds its file open, and what a
 * killed process leaves in a ring is ended by the kernel milliseconds after the process, whose port would stay taken.
 *
 * One thread: the ring is IORING_SETUP_SINGLE_ISSUER. Kernel 6.1 at least; -ENOSYS where it is older or forbids
 * io_uring, -ENOMEM where RLIMIT_MEMLOCK has no room for the ring's 60 KB. */
#include <assert.h>
#include <errno.h>
#include <liburing.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include "base/sys.h"
#include "hark.h"
#include "loop/engine.h"
#include "loop/loop.h"

#define SQ_ENTRIES   256u
#define CQ_ENTRIES   2048u
#define BUFFERS      512u             /* of the shared ring; a power of two */
#define BUFFER_BYTES HARK__RECV_BYTES /* each: together they fit a second-level cache */
#define RING_BYTES   (BUFFERS * sizeof(struct io_uring_buf))
#define SHARED_BYTES (RING_BYTES + (size_t)(BUFFERS + SLOTS) * BUFFER_BYTES)
#define GROUP        0    /* the ring's buffer group */
#define LISTENERS    16   /* told at once */
#define SLOTS        256u /* for what is to be sent, BUFFER_BYTES each */
#define BATCH        64   /* completions worked off at once */
#define AHEAD        2    /* completions */
#define NO_SLOT      UINT16_MAX
#define END_ROUNDS   1000 /* of a millisecond at most, for cancelled operations to end */

/* Kinds of operation, in the low bits of user_data beside the source. 0 is nobody's: cancellations. */
enum { RECV = 1, WATCH_IN, WATCH_OUT, SEND };
#define LISTENER 7 /* no operation: the source is watched by the epoll descriptor */

#define BIT(kind) ((uint8_t)(1u << (kind)))

struct uring_engine {
	struct hark__engine e;
	struct io_uring ring;
	struct io_uring_buf_ring *shared;
	char *bytes;                   /* BUFFERS and then SLOTS × BUFFER_BYTES */
	uint16_t len[BUFFERS + SLOTS]; /* of the bytes in each */
	uint16_t next_free[SLOTS];     /* by slot - BUFFERS */
	uint16_t free_slot;            /* the first; NO_SLOT: none */
	bool sends;                    /* some were not submitted yet */
	struct hark__source listeners; /* the epoll descriptor; -1: none was needed yet */
};

static struct uring_engine *mine(struct hark__engine *e)
{
	return hark__container(e, struct uring_engine, e);
}

static char *buffer(const struct uring_engine *m, unsigned id)
{
	return m->bytes + (size_t)id * BUFFER_BYTES;
}

/* ---- submitting ------------------------------------------------------------------------------ */

static struct io_uring_sqe *next_sqe(struct uring_engine *m)
{
	struct io_uring_sqe *q = io_uring_get_sqe(&m->ring);
	if (q == NULL) { /* full: hand over what there is */
		(void)io_uring_submit(&m->ring);
		q = io_uring_get_sqe(&m->ring);
	}
	return q;
}

static void tag(struct io_uring_sqe *q, struct hark__source *s, unsigned kind)
{
	io_uring_sqe_set_data64(q, (uint64_t)(uintptr_t)s | kind);
	s->under_way |= BIT(kind);
}

static int receive(struct uring_engine *m, struct hark__source *s)
{
	struct io_uring_sqe *q = next_sqe(m);
	if (q == NULL)
		return -EAGAIN;
	io_uring_prep_recv(q, s->fd, NULL, BUFFER_BYTES, 0);
	q->flags |= IOSQE_BUFFER_SELECT;
	q->buf_group = GROUP;
	q->ioprio |= IORING_RECVSEND_POLL_FIRST; /* the reader has just found nothing there */
	tag(q, s, RECV);
	return 0;
}

static int poll_once(struct uring_engine *m, struct hark__source *s, unsigned kind)
{
	struct io_uring_sqe *q = next_sqe(m);
	if (q == NULL)
		return -EAGAIN;
	io_uring_prep_poll_add(q, s->fd, kind == WATCH_IN ? POLLIN | POLLRDHUP : POLLOUT);
	tag(q, s, kind);
	return 0;
}

/* ---- the shared buffers ---------------------------------------------------------------------- */

static void give_back(struct uring_engine *m, unsigned id)
{
	io_uring_buf_ring_add(m->shared, buffer(m, id), BUFFER_BYTES, (uint16_t)id, io_uring_buf_ring_mask(BUFFERS), 0);
	io_uring_buf_ring_advance(m->shared, 1);
}

/* A buffer that was filled says that more may be there. An error must not be lost with it: the kernel tells it once. */
static ssize_t take_uring(struct hark__engine *e, struct hark__source *s, void *buf, size_t cap)
{
	struct uring_engine *m = mine(e);
	int got = s->got;
	s->got = HARK__GOT_NONE;
	if (got < HARK__GOT_NONE)
		return got - HARK__GOT_END;
	size_t n = m->len[got];
	assert(n <= cap);
	memcpy(buf, buffer(m, (unsigned)got), n);
	give_back(m, (unsigned)got);
	if (n < BUFFER_BYTES || n == cap)
		return (ssize_t)n;
	ssize_t more = hark__sys.recv(s->fd, (char *)buf + n, cap - n, MSG_DONTWAIT);
	if (more < 0 && errno != EAGAIN && errno != EINTR) {
		s->got = (int16_t)(HARK__GOT_END - errno);
		hark__ready_set(s, HARK__IN | HARK__HUP);
	}
	return (ssize_t)n + (more > 0 ? more : 0);
}

static void received(struct uring_engine *m, struct hark__source *s, int res, uint32_t flags)
{
	unsigned id = flags >> IORING_CQE_BUFFER_SHIFT;
	if ((flags & IORING_CQE_F_BUFFER) && res <= 0)
		give_back(m, id);
	if (res == -ECANCELED)
		return;
	if (res > 0) {
		s->got = (int16_t)id;
		m->len[id] = (uint16_t)res;
	} else if (res == -EAGAIN) { /* somebody who has the file, too, has set O_NONBLOCK: polled from now on */
		s->nonblock = true;
	} else if (res != -ENOBUFS && res != -EINTR) { /* else recv(2) may do better */
		s->got = (int16_t)(HARK__GOT_END + res);
	}
	hark__source_ready(&m->e, s, s->got < HARK__GOT_NONE ? HARK__IN | HARK__HUP : HARK__IN);
}

/* ---- sending ----------------------------------------------------------------------------------- */

static int send_uring(struct hark__engine *e, struct hark__source *s, const void *bytes, size_t n)
{
	struct uring_engine *m = mine(e);
	if (n > BUFFER_BYTES || s->nonblock || s->sending || m->free_slot == NO_SLOT)
		return -EAGAIN;
	struct io_uring_sqe *q = next_sqe(m);
	if (q == NULL)
		return -EAGAIN;
	s->slot = m->free_slot;
	m->free_slot = m->next_free[s->slot - BUFFERS];
	m->len[s->slot] = (uint16_t)n;
	memcpy(buffer(m, s->slot), bytes, n);
	io_uring_prep_send(q, s->fd, buffer(m, s->slot), n, MSG_DONTWAIT | MSG_NOSIGNAL);
	tag(q, s, SEND);
	s->sending = m->sends = true;
	return 0;
}

static void free_slot(struct uring_engine *m, uint16_t slot)
{
	m->next_free[slot - BUFFERS] = m->free_slot;
	m->free_slot = slot;
}

/* What conn.c has set, as early as there are connections. Where an atomic pointer is called, gcc 12 loads it plainly.
 */
static void unsent(struct hark__source *s, const void *bytes, size_t n, int error)
{
	atomic_load_explicit(&hark__source_unsent, memory_order_relaxed)(s, bytes, n, error);
}

/* What did not leave goes back to whoever wrote it. Where there was no room for it, the reader, who may be waiting,
 * must see to it when there is. */
static void not_sent(struct uring_engine *m, struct hark__source *s, int res)
{
	bool no_room = res >= 0 || res == -EAGAIN || res == -EINTR || res == -ECANCELED;
	size_t n = res > 0 ? (size_t)res : 0;
	unsent(s, buffer(m, s->slot) + n, m->len[s->slot] - n, no_room ? 0 : res);
	hark__source_ready(&m->e, s, HARK__IN | HARK__OUT);
	if (no_room)
		hark__ready_clear(s, HARK__OUT);
}

static void sent(struct uring_engine *m, struct hark__source *s, int res)
{
	free_slot(m, s->slot);
	s->sending = false;
	if (res == m->len[s->slot])
		hark__source_ready(&m->e, s, HARK__OUT);
	else
		not_sent(m, s, res);
}

static size_t sending_uring(struct hark__engine *e, const struct hark__source *s)
{
	return mine(e)->len[s->slot];
}

/* ---- completions ----------------------------------------------------------------------------- */

static unsigned bits(int res)
{
	unsigned b = 0;
	if (res < 0 || (res & (POLLHUP | POLLERR | POLLRDHUP | POLLNVAL)))
		b = HARK__IN | HARK__OUT | HARK__HUP;
	if (res > 0 && (res & POLLIN))
		b |= HARK__IN;
	if (res > 0 && (res & POLLOUT))
		b |= HARK__OUT;
	return b;
}

static void listeners_ready(struct uring_engine *m)
{
	struct epoll_event events[LISTENERS];
	int n = hark__sys.epoll_wait(m->listeners.fd, events, LISTENERS, 0);
	for (int i = 0; i < n; i++)
		hark__source_ready(&m->e, events[i].data.ptr, HARK__IN);
}

static struct hark__source *source_of(const struct io_uring_cqe *c)
{
	return (struct hark__source *)(uintptr_t)(c->user_data & ~UINT64_C(7));
}

static void completed(struct uring_engine *m, const struct io_uring_cqe *c)
{
	unsigned kind = (unsigned)(c->user_data & 7);
	struct hark__source *s = source_of(c);
	if (s == NULL)
		return;
	s->under_way &= (uint8_t)~BIT(kind);
	if (kind == RECV)
		received(m, s, c->res, c->flags);
	else if (kind == SEND)
		sent(m, s, c->res);
	else if (s == &m->listeners)
		listeners_ready(m);
	else if (c->res != -ECANCELED)
		hark__source_ready(&m->e, s, bits(c->res));
}

/* What the next completions will touch, link by link: see fetch_ahead() in fiber.c. */
static inline __attribute__((always_inline)) void fetch_ahead(struct uring_engine *m, unsigned head, unsigned left)
{
	const struct io_uring_cqe *cqes = m->ring.cq.cqes;
	unsigned mask = *m->ring.cq.kring_mask;
	const struct hark__source *s;
	if (left > 2 * AHEAD)
		__builtin_prefetch(source_of(&cqes[(head + 2 * AHEAD) & mask]), 1);
	if (left > AHEAD && (s = source_of(&cqes[(head + AHEAD) & mask])) != NULL)
		__builtin_prefetch(s->in, 1);
}

/* Works off at most max of the completions that are there. What comes meanwhile is not counted: beyond it lies what was
 * there long ago. */
static unsigned work_off(struct uring_engine *m, unsigned max)
{
	struct io_uring_cqe *c;
	unsigned head, n = 0, ready = io_uring_cq_ready(&m->ring);
	io_uring_for_each_cqe(&m->ring, head, c)
	{
		if (n == max || n == ready)
			break;
		fetch_ahead(m, head, ready - n);
		completed(m, c);
		n++;
	}
	io_uring_cq_advance(&m->ring, n);
	return n;
}

/* Hands over what is to be sent while completions are still left to work off. Nearly all of it leaves at once: these
 * completions, the newest, are looked at before their turn, so that their slots are free for who runs next. */
static int submit_sends(struct uring_engine *m)
{
	unsigned mask = *m->ring.cq.kring_mask, at = io_uring_smp_load_acquire(m->ring.cq.ktail);
	int r = io_uring_submit(&m->ring);
	m->sends = false;
	for (unsigned end = io_uring_smp_load_acquire(m->ring.cq.ktail); at != end; at++) {
		struct io_uring_cqe *c = &m->ring.cq.cqes[at & mask];
		if ((c->user_data & 7) != SEND)
			continue;
		completed(m, c);
		c->user_data = 0; /* nobody's from now on */
	}
	return r;
}

static int enter(struct uring_engine *m, int64_t timeout_ns)
{
	struct io_uring_cqe *c;
	struct __kernel_timespec t = {.tv_sec = timeout_ns / HARK_S, .tv_nsec = timeout_ns % HARK_S};
	m->sends = false;
	int r = timeout_ns == 0 ? io_uring_submit_and_get_events(&m->ring)
	                        : io_uring_submit_and_wait_timeout(&m->ring, &c, 1, timeout_ns < 0 ? NULL : &t, NULL);
	return r == -ETIME ? 0 : r;
}

/* Works off at most a batch: so many connections' memory that was touched here is still near when they run. The kernel
 * is only asked when none is left, or something is to be sent. */
static int wait_uring(struct hark__engine *e, int64_t timeout_ns)
{
	struct uring_engine *m = mine(e);
	int r = 0;
	if (m->listeners.fd >= 0 && !(m->listeners.under_way & BIT(WATCH_IN)))
		(void)poll_once(m, &m->listeners, WATCH_IN); /* there was no room for it, or it failed */
	if (io_uring_cq_ready(&m->ring) == 0)
		r = enter(m, timeout_ns);
	else if (m->sends)
		r = submit_sends(m);
	unsigned n = work_off(m, BATCH); /* from Linux 6.13 on the kernel, too, tells a few at a time */
	return n > 0 || r > 0 ? (int)n : r;
}

/* ---- ending operations ------------------------------------------------------------------------- */

/* Whose kinds are under way no more after the return, but for a kernel that does not answer: then nothing is told of
 * them either. */
static void await_end(struct uring_engine *m, struct hark__source *s, unsigned kinds)
{
	for (int i = 0; (s->under_way & kinds) && i < END_ROUNDS; i++) {
		int r = enter(m, i == 0 ? 0 : HARK_MS);
		if (work_off(m, UINT32_MAX) == 0 && r < 0 && r != -EINTR && r != -EBUSY)
			break;
	}
	s->under_way &= (uint8_t)~kinds;
}

static void end(struct uring_engine *m, struct hark__source *s, unsigned kinds)
{
	for (unsigned kind = RECV; kind <= WATCH_OUT; kind++) {
		struct io_uring_sqe *q = s->under_way & kinds & BIT(kind) ? next_sqe(m) : NULL;
		if (q == NULL)
			continue;
		io_uring_prep_cancel64(q, (uint64_t)(uintptr_t)s | kind, 0);
		io_uring_sqe_set_data64(q, 0);
	}
	await_end(m, s, kinds);
}

static void settle_uring(struct hark__engine *e, struct hark__source *s)
{
	unsigned kinds = s->under_way & BIT(SEND);
	if (s->in == NULL)
		kinds |= s->under_way & (BIT(RECV) | BIT(WATCH_IN));
	if (s->out == NULL)
		kinds |= s->under_way & BIT(WATCH_OUT);
	if (kinds != 0)
		end(mine(e), s, kinds);
}

/* ---- the interface --------------------------------------------------------------------------- */

/* liburing maps and unmaps its rings by system calls that ThreadSanitizer does not see: a ring at the address of one
 * that another thread has closed would seem to be shared with it. */
static void ring_changes_hands(void)
{
#ifdef HARK__TSAN
	static atomic_int n;
	(void)atomic_fetch_add(&n, 1);
#endif
}

static int make_shared(struct uring_engine *m)
{
	void *at = hark__sys.mmap(NULL, SHARED_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (at == MAP_FAILED)
		return -ENOMEM;
	m->shared = at;
	m->bytes = (char *)at + RING_BYTES;
	io_uring_buf_ring_init(m->shared);
	struct io_uring_buf_reg reg = {.ring_addr = (uintptr_t)at, .ring_entries = BUFFERS, .bgid = GROUP};
	int r = io_uring_register_buf_ring(&m->ring, &reg, 0);
	if (r < 0) {
		(void)hark__sys.munmap(at, SHARED_BYTES);
		return r;
	}
	for (uint16_t id = 0; id < BUFFERS; id++)
		give_back(m, id);
	m->free_slot = NO_SLOT;
	for (uint16_t slot = BUFFERS + SLOTS; slot > BUFFERS; slot--)
		free_slot(m, slot - 1);
	return 0;
}

/* Too old or forbidden is -ENOSYS; what may pass is told as it is. */
static int not_here(int r)
{
	return r == -EPERM || r == -EACCES || r == -EINVAL || r == -EOPNOTSUPP ? -ENOSYS : r;
}

/* A filter may allow to make a ring, and not to use it. */
static int try_ring(struct uring_engine *m)
{
	io_uring_prep_nop(io_uring_get_sqe(&m->ring));
	int r = io_uring_submit_and_wait(&m->ring, 1);
	if (r >= 0)
		(void)work_off(m, 1);
	return r < 0 ? r : make_shared(m);
}

static int open_uring(struct hark__engine **out)
{
	struct uring_engine *m = hark__sys.calloc(1, sizeof *m);
	if (m == NULL)
		return -ENOMEM;
	struct io_uring_params p = {
		.flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_CQSIZE,
		.cq_entries = CQ_ENTRIES,
	};
	int r = io_uring_queue_init_params(SQ_ENTRIES, &m->ring, &p);
	if (r < 0) {
		free(m);
		return not_here(r);
	}
	m->ring.ring_fd = m->ring.enter_ring_fd = hark__sys_high(m->ring.ring_fd);
	if (m->ring.ring_fd < 0) {
		r = -errno;
		io_uring_queue_exit(&m->ring);
		free(m);
		return r;
	}
	ring_changes_hands();
	(void)io_uring_ring_dontfork(&m->ring);    /* else a child shares what is of no use to it */
	(void)io_uring_register_ring_fd(&m->ring); /* else each call looks its descriptor up */
	r = try_ring(m);
	if (r < 0) {
		io_uring_queue_exit(&m->ring);
		free(m);
		return not_here(r);
	}
	m->e.ops = &hark__engine_uring;
	hark__source_init(&m->listeners, -1);
	*out = &m->e;
	return 0;
}

/* Ends every operation and waits for that: what is left to the exit is done in the kernel's own time, and keeps files
 * open and ports in use until then. What was to be sent and could not even be tried goes back. */
static void close_uring(struct hark__engine *e)
{
	struct uring_engine *m = mine(e);
	struct io_uring_sqe *q = next_sqe(m);
	if (q != NULL) {
		io_uring_prep_cancel(q, NULL, IORING_ASYNC_CANCEL_ANY);
		io_uring_sqe_set_data64(q, 0);
	}
	for (uint32_t i = 0; i < e->n_sources; i++) {
		struct hark__source *s = e->sources[i];
		s->under_way &= (uint8_t)~BIT(LISTENER);
		await_end(m, s, s->under_way);
		if (s->sending)
			not_sent(m, s, 0);
	}
	await_end(m, &m->listeners, m->listeners.under_way);
	if (m->listeners.fd >= 0)
		(void)hark__sys.close(m->listeners.fd);
	hark__sources_leave(e);
	ring_changes_hands();
	io_uring_queue_exit(&m->ring);
	(void)hark__sys.munmap(m->shared, SHARED_BYTES);
	free(m);
}

static void forked_uring(struct hark__engine *e)
{
	(void)hark__sys.close(mine(e)->ring.ring_fd);
	if (mine(e)->listeners.fd >= 0)
		(void)hark__sys.close(mine(e)->listeners.fd);
}

static int watch_listener(struct uring_engine *m, struct hark__source *s)
{
	struct epoll_event ev = {.events = EPOLLIN | EPOLLET, .data.ptr = s};
	if (m->listeners.fd < 0) {
		m->listeners.fd = hark__sys.epoll_create1(EPOLL_CLOEXEC);
		if (m->listeners.fd < 0)
			return -errno;
	}
	if (hark__sys.epoll_ctl(m->listeners.fd, EPOLL_CTL_ADD, s->fd, &ev) < 0)
		return -errno;
	s->under_way |= BIT(LISTENER);
	return 0;
}

static int arm_uring(struct hark__engine *e, struct hark__source *s, unsigned events)
{
	struct uring_engine *m = mine(e);
	int r = s->engine == NULL ? hark__sources_add(e, s) : 0;
	if (r == 0 && (events & HARK__LISTENER) && !(s->under_way & BIT(LISTENER)))
		r = watch_listener(m, s);
	if (s->under_way & BIT(LISTENER))
		return r;
	if (r == 0 && (events & HARK__IN) && !(s->under_way & (BIT(RECV) | BIT(WATCH_IN))))
		r = (events & HARK__RECV) && !s->nonblock ? receive(m, s) : poll_once(m, s, WATCH_IN);
	if (r == 0 && (events & HARK__OUT) && !(s->under_way & (BIT(WATCH_OUT) | BIT(SEND))))
		r = poll_once(m, s, WATCH_OUT);
	return r;
}

static void detach_uring(struct hark__engine *e, struct hark__source *s)
{
	struct epoll_event unused = {0};
	if (s->under_way & BIT(LISTENER))
		(void)hark__sys.epoll_ctl(mine(e)->listeners.fd, EPOLL_CTL_DEL, s->fd, &unused);
	struct hark__waiter *in = s->in, *out = s->out;
	s->in = s->out = NULL; /* what is cancelled wakes nobody: who waited may be about to go, too */
	end(mine(e), s, s->under_way & (BIT(RECV) | BIT(WATCH_IN) | BIT(WATCH_OUT) | BIT(SEND)));
	s->in = in;
	s->out = out;
	if (s->got >= 0)
		give_back(mine(e), (unsigned)s->got);
	s->got = HARK__GOT_NONE;
	hark__sources_remove(e, s);
}

static const struct hark__completion_ops completion = {
	.take = take_uring,
	.settle = settle_uring,
	.send = send_uring,
	.sending = sending_uring,
};

const struct hark__engine_ops hark__engine_uring = {
	.name = "uring",
	.open = open_uring,
	.close = close_uring,
	.forked = forked_uring,
	.arm = arm_uring,
	.detach = detach_uring,
	.wait = wait_uring,
	.completion = &completion,
};
