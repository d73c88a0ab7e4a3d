/* engine_uring.c — the io_uring engine: epoll tells who is ready, and a ring sends for many connections in one system
 * call.
 *
 * What a reader has written before it waits, if it is short, is copied to a slot of the engine's. Before the loop asks
 * epoll, all of it is sent by one io_uring_enter(2); one or two by send(2). Each send is tried once, MSG_DONTWAIT, and
 * has ended when that call returns: between two turns the ring holds neither a file nor a byte that was not sent. So a
 * forked child, another thread and a killed process's successor find descriptors and ports as they do under epoll. What
 * there was no room for goes back to its writer. What is longer than a slot is tried by send(2) at once, as everywhere.
 *
 * Nothing is received in the ring. One-shot receives cost the arming of a poll each (6 % of the CPU of an echo);
 * multishot ones hold bytes that may be somebody else's by then, and are not told the end of a peer whose data and
 * reset were both there before them (Linux 6.18). A multishot poll costs as much as epoll does, and only the thread
 * that made it can end it.
 *
 * One thread: the loop's; a connection that was handed to another one may be detached there. -ENOSYS where io_uring is
 * missing or forbidden, -ENOMEM where RLIMIT_MEMLOCK has no room for its 8 KB. Where the kernel
 * takes nothing more later, what was to be sent goes back and the engine goes on as epoll. */
#include <assert.h>
#include <errno.h>
#include <liburing.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include "base/sys.h"
#include "hark.h"
#include "loop/engine_epoll.h"
#include "loop/loop.h"

#define SLOTS      64u /* sends of a turn; a power of two */
#define SLOT_BYTES 2048u
#define NO_SLOT    UINT16_MAX
#define SEND_FLAGS (MSG_DONTWAIT | MSG_NOSIGNAL)

unsigned hark__uring_few = 2; /* by send(2) they cost less than by the ring */

struct uring_engine {
	struct hark__epoll_engine epoll;
	struct io_uring ring;
	char *bytes;                    /* SLOTS × SLOT_BYTES */
	struct hark__source *of[SLOTS]; /* whose each slot is; NULL: free */
	uint16_t len[SLOTS];            /* of the bytes in each */
	uint16_t next_free[SLOTS];
	uint16_t free_slot;      /* the first; NO_SLOT: none */
	uint16_t waiting[SLOTS]; /* the n_sends slots that were taken, and not tried yet */
	unsigned n_sends;
	bool woke;     /* a send's end woke somebody: there is no waiting now */
	bool given_up; /* the kernel takes nothing more */
};

static struct uring_engine *mine(struct hark__engine *e)
{
	return hark__container(e, struct uring_engine, epoll.e);
}

static char *slot_bytes(const struct uring_engine *m, unsigned slot)
{
	return m->bytes + (size_t)slot * SLOT_BYTES;
}

static void free_slot(struct uring_engine *m, uint16_t slot)
{
	m->of[slot] = NULL;
	m->next_free[slot] = m->free_slot;
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
	bool no_room = res >= 0 || res == -EAGAIN, not_tried = res == -EINTR || res == -ECANCELED;
	size_t n = res > 0 ? (size_t)res : 0;
	unsent(s, slot_bytes(m, s->slot) + n, m->len[s->slot] - n, no_room || not_tried ? 0 : res);
	hark__source_ready(&m->epoll.e, s, HARK__IN | HARK__OUT);
	if (no_room)
		hark__ready_clear(s, HARK__OUT);
}

static void sent(struct uring_engine *m, uint16_t slot, int res)
{
	struct hark__source *s = m->of[slot];
	s->sending = false;
	m->woke |= s->out != NULL || res != m->len[slot];
	if (res == m->len[slot])
		hark__source_ready(&m->epoll.e, s, HARK__OUT);
	else
		not_sent(m, s, res);
	free_slot(m, slot);
}

static void work_off(struct uring_engine *m)
{
	struct io_uring_cqe *c;
	unsigned head, n = 0;
	io_uring_for_each_cqe(&m->ring, head, c)
	{
		sent(m, (uint16_t)c->user_data, c->res);
		n++;
	}
	io_uring_cq_advance(&m->ring, n);
	m->n_sends -= n;
}

/* The kernel does not take what is in the ring (a filter, no memory): none is used from now on. */
static void give_up(struct uring_engine *m)
{
	for (uint16_t slot = 0; slot < SLOTS; slot++)
		if (m->of[slot] != NULL)
			sent(m, slot, -ECANCELED);
	m->n_sends = 0;
	m->given_up = true;
}

static void send_each(struct uring_engine *m)
{
	for (unsigned i = 0; i < m->n_sends; i++) {
		uint16_t slot = m->waiting[i];
		ssize_t r = hark__sys.send(m->of[slot]->fd, slot_bytes(m, slot), m->len[slot], SEND_FLAGS);
		sent(m, slot, r < 0 ? -errno : (int)r);
	}
	m->n_sends = 0;
}

static void fill_ring(struct uring_engine *m)
{
	for (unsigned i = 0; i < m->n_sends; i++) {
		uint16_t slot = m->waiting[i];
		struct io_uring_sqe *q = io_uring_get_sqe(&m->ring);
		assert(q != NULL); /* it has a place for each slot, and is empty */
		io_uring_prep_send(q, m->of[slot]->fd, slot_bytes(m, slot), m->len[slot], SEND_FLAGS);
		io_uring_sqe_set_data64(q, slot);
	}
}

/* After the return no send is under way. Waiting for them all costs nothing, as each has ended already. */
static void submit(struct uring_engine *m)
{
	if (m->n_sends <= hark__uring_few) {
		send_each(m);
		return;
	}
	fill_ring(m);
	while (m->n_sends > 0) {
		int r = io_uring_submit_and_wait(&m->ring, m->n_sends);
		work_off(m);
		if (r < 0 && r != -EINTR)
			give_up(m);
	}
}

static int send_uring(struct hark__engine *e, struct hark__source *s, const void *bytes, size_t n)
{
	struct uring_engine *m = mine(e);
	if (n > SLOT_BYTES || s->sending)
		return -EAGAIN;
	if (m->free_slot == NO_SLOT)
		submit(m);
	uint16_t slot = m->free_slot;
	if (m->given_up)
		return -EAGAIN;
	m->free_slot = m->next_free[slot];
	m->of[slot] = s;
	m->len[slot] = (uint16_t)n;
	memcpy(slot_bytes(m, slot), bytes, n);
	s->slot = slot;
	s->sending = true;
	m->waiting[m->n_sends++] = slot;
	return 0;
}

static size_t sending_uring(struct hark__engine *e, const struct hark__source *s)
{
	return mine(e)->len[s->slot];
}

static void settle_uring(struct hark__engine *e)
{
	submit(mine(e));
}

static int wait_uring(struct hark__engine *e, int64_t until, int64_t now)
{
	struct uring_engine *m = mine(e);
	if (m->n_sends > 0)
		submit(m);
	if (m->woke)
		until = now;
	m->woke = false;
	return hark__epoll_wait(e, until, now);
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

static int make_slots(struct uring_engine *m)
{
	void *at = hark__sys.mmap(NULL, SLOTS * SLOT_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (at == MAP_FAILED)
		return -ENOMEM;
	m->bytes = at;
	m->free_slot = NO_SLOT;
	for (uint16_t slot = SLOTS; slot > 0; slot--)
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
		io_uring_cq_advance(&m->ring, 1);
	return r < 0 ? r : 0;
}

static int open_ring(struct uring_engine *m)
{
	int r = io_uring_queue_init(SLOTS, &m->ring, IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN);
	if (r < 0)
		return not_here(r);
	m->ring.ring_fd = m->ring.enter_ring_fd = hark__sys_high(m->ring.ring_fd);
	r = m->ring.ring_fd < 0 ? -errno : 0;
	ring_changes_hands();
	if (r == 0) {
		(void)io_uring_ring_dontfork(&m->ring);    /* else a child shares what is of no use to it */
		(void)io_uring_register_ring_fd(&m->ring); /* else each call looks its descriptor up */
		r = try_ring(m);
	}
	if (r == 0)
		r = make_slots(m);
	if (r < 0)
		io_uring_queue_exit(&m->ring);
	return not_here(r);
}

static int open_uring(struct hark__engine **out)
{
	struct uring_engine *m = hark__sys.calloc(1, sizeof *m);
	if (m == NULL)
		return -ENOMEM;
	m->epoll.e.ops = &hark__engine_uring;
	int r = open_ring(m);
	if (r < 0)
		goto free_engine;
	r = hark__epoll_init(&m->epoll);
	if (r < 0)
		goto close_ring;
	*out = &m->epoll.e;
	return 0;
close_ring:
	io_uring_queue_exit(&m->ring);
	(void)hark__sys.munmap(m->bytes, SLOTS * SLOT_BYTES);
free_engine:
	free(m);
	return r;
}

static void close_uring(struct hark__engine *e)
{
	struct uring_engine *m = mine(e);
	submit(m);
	hark__epoll_done(&m->epoll);
	ring_changes_hands();
	io_uring_queue_exit(&m->ring);
	(void)hark__sys.munmap(m->bytes, SLOTS * SLOT_BYTES);
	free(m);
}

static void forked_uring(struct hark__engine *e)
{
	(void)hark__sys.close(mine(e)->ring.ring_fd);
	hark__epoll_forked(e);
}

static void detach_uring(struct hark__engine *e, struct hark__source *s)
{
	if (s->sending)
		submit(mine(e));
	hark__epoll_detach(e, s);
}

static const struct hark__batch_ops batch = {
	.send = send_uring,
	.sending = sending_uring,
	.settle = settle_uring,
};

const struct hark__engine_ops hark__engine_uring = {
	.name = "uring",
	.open = open_uring,
	.close = close_uring,
	.forked = forked_uring,
	.arm = hark__epoll_arm,
	.detach = detach_uring,
	.wait = wait_uring,
	.batch = &batch,
};
