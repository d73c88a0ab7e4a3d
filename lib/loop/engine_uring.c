/* engine_uring.c — the io_uring engine: what is read from streams comes by itself, everything else by one-shot polls.
 *
 * A TCP stream that somebody waits to read gets one multishot receive: from then on each arrival is put into a buffer
 * of a ring that all connections share, and told with everybody else's in one system call. Reading takes it from there.
 * An idle connection holds no buffer. Two bounds keep a peer that sends without being read from taking them all: its
 * receive is cancelled once QUEUE_MAX bytes of it wait, and where the ring has run dry, reading falls back to recv(2).
 * Bytes keep their order as recv(2) is used only when no receive is under way and nothing is queued.
 *
 * Who reads a lot at a time gains nothing by that, and pays for a copy more: its receive is cancelled, and reading is
 * by poll and recv(2) until little comes again.
 *
 * What a reader has written before it waits, if it is short, is copied to a slot of the engine's and sent together with
 * everybody else's, in the system call that the loop makes anyway. It is tried once: what there is no room for goes
 * back. (Left to wait in the ring it would hold its slot, end up half sent where it is cancelled, and take a reset's
 * error from the reader, to whom the stream would then seem to end in order.) So the few slots are free again once the
 * kernel was asked. Where none is, and for all other writing, send(2) is tried at once as everywhere. Accepting is by
 * poll and accept4(2): a multishot accept would take connections that max_conns, a pause or a drain want to leave in
 * the backlog.
 *
 * One thread: the ring is IORING_SETUP_SINGLE_ISSUER. Kernel 6.1 at least; -ENOSYS where it is older or forbids
 * io_uring. */
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

#define SQ_ENTRIES   1024u
#define CQ_ENTRIES   8192u
#define BUFFERS      512u  /* of the shared ring; a power of two */
#define BUFFER_BYTES 2048u /* each: together they fit a second-level cache */
#define RING_BYTES   (BUFFERS * sizeof(struct io_uring_buf))
#define SHARED_BYTES (RING_BYTES + (size_t)(BUFFERS + SLOTS) * BUFFER_BYTES)
#define GROUP        0           /* the ring's buffer group */
#define QUEUE_MAX    (64u << 10) /* bytes that wait for one reader */
#define MUCH         (8u << 10)  /* bytes of one read: so many come in bulk */
#define MUCH_READS   8 /* more reads of much than of little: in bulk from then on; as many the other way: no longer */
#define SLOTS        256u       /* for what is to be sent, BUFFER_BYTES each */
#define BATCH        64         /* completions worked off at once */
#define AHEAD        2          /* completions */
#define NONE         UINT16_MAX /* no buffer, no slot */
#define CLOSE_ROUNDS 100        /* of a millisecond at most, for cancelled operations to end */

/* Kinds of operation, in the low bits of user_data beside the pointer to struct ops. 0 is nobody's: cancellations. */
enum { RECV = 1, WATCH_IN, WATCH_OUT, SEND, KINDS };

/* What is under way for one source. Outlives it until the kernel has told the end of each operation. */
struct ops {
	struct hark__list link; /* in engine->all */
	struct hark__source *s; /* NULL: detached */
	uint8_t under_way;      /* bit of each kind */
	bool cancelling;        /* of RECV: too much waits, or comes */
	bool bulk;              /* no RECV, but WATCH_IN */
	uint8_t much;           /* reads of much more than of little, up to MUCH_READS */
	int16_t end;            /* 1: more may come; 0: the end of the stream; -errno */
	uint16_t first, last;   /* buffers that wait for the reader, by buffer.next */
	uint32_t queued;        /* bytes in them */
	uint16_t slot;          /* of SEND */
};

struct buffer {
	uint16_t next;
	uint16_t from, len; /* what is not yet taken */
};

struct uring_engine {
	struct hark__engine e;
	struct io_uring ring;
	struct io_uring_buf_ring *shared;
	char *bytes; /* BUFFERS and then SLOTS × BUFFER_BYTES */
	struct buffer buffers[BUFFERS + SLOTS];
	uint16_t free_slot;    /* the first, by buffer.next */
	bool sends;            /* some were not submitted yet */
	struct hark__list all; /* ops, for the end */
};

static struct uring_engine *mine(struct hark__engine *e)
{
	return hark__container(e, struct uring_engine, e);
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

static void tag(struct io_uring_sqe *q, struct ops *o, unsigned kind)
{
	io_uring_sqe_set_data64(q, (uint64_t)(uintptr_t)o | kind);
	o->under_way |= (uint8_t)(1u << kind);
}

static int receive(struct uring_engine *m, struct ops *o)
{
	struct io_uring_sqe *q = next_sqe(m);
	if (q == NULL)
		return -EAGAIN;
	io_uring_prep_recv_multishot(q, o->s->fd, NULL, 0, 0);
	q->flags |= IOSQE_BUFFER_SELECT;
	q->buf_group = GROUP;
	q->ioprio |= IORING_RECVSEND_POLL_FIRST; /* the reader has just found nothing there */
	tag(q, o, RECV);
	return 0;
}

static int poll_once(struct uring_engine *m, struct ops *o, unsigned kind)
{
	struct io_uring_sqe *q = next_sqe(m);
	if (q == NULL)
		return -EAGAIN;
	io_uring_prep_poll_add(q, o->s->fd, kind == WATCH_IN ? POLLIN | POLLRDHUP : POLLOUT);
	tag(q, o, kind);
	return 0;
}

static void cancel(struct uring_engine *m, struct ops *o, unsigned kind)
{
	struct io_uring_sqe *q = next_sqe(m);
	if (q == NULL)
		return; /* the queue is full even after handing it over: it ends when its descriptor does */
	io_uring_prep_cancel64(q, (uint64_t)(uintptr_t)o | kind, 0);
	io_uring_sqe_set_data64(q, 0);
}

static void take_no_more(struct uring_engine *m, struct ops *o)
{
	if (!(o->under_way & 1u << RECV) || o->cancelling)
		return;
	o->cancelling = true;
	cancel(m, o, RECV);
}

/* ---- the shared buffers ---------------------------------------------------------------------- */

static void give_back(struct uring_engine *m, uint16_t id)
{
	io_uring_buf_ring_add(m->shared, m->bytes + (size_t)id * BUFFER_BYTES, BUFFER_BYTES, id,
	                      io_uring_buf_ring_mask(BUFFERS), 0);
	io_uring_buf_ring_advance(m->shared, 1);
}

static void enqueue(struct uring_engine *m, struct ops *o, uint16_t id, uint32_t len)
{
	m->buffers[id] = (struct buffer){.next = NONE, .len = (uint16_t)len};
	if (o->first == NONE)
		o->first = id;
	else
		m->buffers[o->last].next = id;
	o->last = id;
	o->queued += len;
	if (o->queued > QUEUE_MAX)
		take_no_more(m, o);
}

static void dequeue(struct uring_engine *m, struct ops *o)
{
	uint16_t id = o->first;
	o->first = m->buffers[id].next;
	give_back(m, id);
}

/* What conn.c has set, as early as there are connections. Where an atomic pointer is called, gcc 12 loads it plainly.
 */
static void orphaned(struct hark__source *s, const void *bytes, size_t n, bool end)
{
	atomic_load_explicit(&hark__source_orphaned, memory_order_relaxed)(s, bytes, n, end);
}

static void unsent(struct hark__source *s, const void *bytes, size_t n, int error)
{
	atomic_load_explicit(&hark__source_unsent, memory_order_relaxed)(s, bytes, n, error);
}

/* ---- sending ----------------------------------------------------------------------------------- */

static int send_uring(struct hark__engine *e, struct hark__source *s, const void *bytes, size_t n)
{
	struct uring_engine *m = mine(e);
	struct ops *o = s->op;
	if (n > BUFFER_BYTES || !s->stream || s->nonblock || s->sending || m->free_slot == NONE || e->forked)
		return -EAGAIN;
	struct io_uring_sqe *q = next_sqe(m);
	if (q == NULL)
		return -EAGAIN;
	o->slot = m->free_slot;
	struct buffer *b = &m->buffers[o->slot];
	char *to = m->bytes + (size_t)o->slot * BUFFER_BYTES;
	m->free_slot = b->next;
	*b = (struct buffer){.next = NONE, .len = (uint16_t)n};
	memcpy(to, bytes, n);
	io_uring_prep_send(q, s->fd, to, n, MSG_DONTWAIT | MSG_NOSIGNAL);
	tag(q, o, SEND);
	s->sending = m->sends = true;
	return 0;
}

static void free_slot(struct uring_engine *m, uint16_t slot)
{
	m->buffers[slot].next = m->free_slot;
	m->free_slot = slot;
}

/* What did not leave goes back to whoever wrote it. Where there was no room for it, the reader, who may be waiting,
 * must see to it when there is. */
static void not_sent(struct uring_engine *m, struct ops *o, int res)
{
	const struct buffer *b = &m->buffers[o->slot];
	struct hark__source *s = o->s;
	bool no_room = res >= 0 || res == -EAGAIN || res == -EINTR || res == -ECANCELED;
	size_t n = res > 0 ? (size_t)res : 0;
	unsent(s, m->bytes + (size_t)o->slot * BUFFER_BYTES + n, b->len - n, no_room ? 0 : res);
	hark__source_ready(&m->e, s, HARK__IN | HARK__OUT);
	if (no_room)
		hark__ready_clear(s, HARK__OUT);
}

static void sent(struct uring_engine *m, struct ops *o, int res)
{
	struct hark__source *s = o->s;
	free_slot(m, o->slot);
	if (s == NULL)
		return;
	s->sending = false;
	if (res == m->buffers[o->slot].len)
		hark__source_ready(&m->e, s, HARK__OUT);
	else
		not_sent(m, o, res);
}

static size_t sending_uring(struct hark__engine *e, const struct hark__source *s)
{
	const struct ops *o = s->op;
	return mine(e)->buffers[o->slot].len;
}

/* liburing maps and unmaps its rings by system calls that ThreadSanitizer does not see: a ring at the address of one
 * that another thread has closed would seem to be shared with it. */
static void ring_changes_hands(void)
{
#ifdef HARK__TSAN
	static atomic_int n;
	(void)atomic_fetch_add(&n, 1);
#endif
}

/* ---- the interface --------------------------------------------------------------------------- */

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
	m->free_slot = NONE;
	for (uint16_t slot = BUFFERS + SLOTS; slot > BUFFERS; slot--)
		free_slot(m, slot - 1);
	return 0;
}

/* Too old or forbidden is -ENOSYS; what may pass is told as it is. */
static int not_here(int r)
{
	return r == -EPERM || r == -EACCES || r == -EINVAL || r == -EOPNOTSUPP ? -ENOSYS : r;
}

static int open_uring(struct hark__engine **out)
{
	struct uring_engine *m = hark__sys.calloc(1, sizeof *m);
	if (m == NULL)
		return -ENOMEM;
	hark__list_init(&m->all);
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
	(void)io_uring_ring_dontfork(&m->ring); /* else a child shares what is of no use to it */
	r = make_shared(m);
	if (r < 0) {
		io_uring_queue_exit(&m->ring);
		free(m);
		return not_here(r);
	}
	m->e.ops = &hark__engine_uring;
	*out = &m->e;
	return 0;
}

static int wait_uring(struct hark__engine *e, int64_t timeout_ns);

/* Ends every operation and waits for that: what is left to the exit is done in the kernel's own time, and keeps files
 * open and ports in use until then. */
static void end_all(struct uring_engine *m)
{
	bool busy = true;
	for (struct hark__list *at = m->all.next; at != &m->all; at = at->next) {
		struct ops *o = hark__container(at, struct ops, link);
		for (unsigned kind = RECV; kind < KINDS && o->s != NULL; kind++)
			if (o->under_way & (1u << kind))
				cancel(m, o, kind);
	}
	for (int i = 0; i < CLOSE_ROUNDS && busy; i++) {
		(void)wait_uring(&m->e, HARK_MS);
		busy = false;
		for (struct hark__list *at = m->all.next; at != &m->all; at = at->next)
			busy |= hark__container(at, struct ops, link)->under_way != 0;
	}
}

/* Connections outlive the loops that scopes made: what has arrived for them goes along. */
static void leave(struct uring_engine *m, struct ops *o)
{
	struct hark__source *s = o->s;
	const struct buffer *out = &m->buffers[o->slot];
	if (o->under_way & (1u << SEND)) /* not even tried in time: whether it has left cannot be told */
		unsent(s, NULL, out->len, -ECANCELED);
	for (; o->first != NONE; dequeue(m, o)) {
		const struct buffer *b = &m->buffers[o->first];
		orphaned(s, m->bytes + (size_t)o->first * BUFFER_BYTES + b->from, b->len, false);
	}
	if (o->end == 0)
		orphaned(s, NULL, 0, true);
	hark__source_left(s);
}

static void close_uring(struct hark__engine *e)
{
	struct uring_engine *m = mine(e);
	end_all(m);
	while (!hark__list_empty(&m->all)) {
		struct ops *o = hark__container(hark__list_pop(&m->all), struct ops, link);
		if (o->s != NULL)
			leave(m, o);
		free(o);
	}
	ring_changes_hands();
	io_uring_queue_exit(&m->ring);
	(void)hark__sys.munmap(m->shared, SHARED_BYTES);
	free(m);
}

static void forked_uring(struct hark__engine *e)
{
	(void)hark__sys.close(mine(e)->ring.ring_fd);
}

/* A multishot receive may miss the end of a unix stream, where the peer's last bytes and its shutdown come in one
 * moment: seen on Linux 6.18, once in fifty copies of 2 MB; github.com/axboe/liburing issue 1549. A poll before each
 * recv(2) does not. */
static bool is_unix(const struct hark__source *s)
{
	int family = AF_UNSPEC;
	socklen_t len = sizeof family;
	return hark__sys.getsockopt(s->fd, SOL_SOCKET, SO_DOMAIN, &family, &len) == 0 && family == AF_UNIX;
}

static int attach(struct uring_engine *m, struct hark__source *s)
{
	struct ops *o = hark__sys.calloc(1, sizeof *o);
	if (o == NULL)
		return -ENOMEM;
	*o = (struct ops){.s = s, .end = 1, .first = NONE, .last = NONE};
	hark__list_append(&m->all, &o->link);
	s->op = o;
	s->engine = &m->e;
	s->stream = s->stream && !is_unix(s);
	return 0;
}

static int arm_uring(struct hark__engine *e, struct hark__source *s, unsigned events)
{
	struct uring_engine *m = mine(e);
	int r = s->engine == NULL ? attach(m, s) : 0;
	if (r < 0)
		return r;
	struct ops *o = s->op;
	unsigned in = s->stream && !s->nonblock && !o->bulk ? RECV : WATCH_IN;
	if (o->first != NONE || o->end <= 0)
		hark__ready_set(s, HARK__IN);
	else if ((events & HARK__IN) && !(o->under_way & (1u << RECV | 1u << WATCH_IN)))
		r = in == RECV ? receive(m, o) : poll_once(m, o, in);
	if (r == 0 && (events & HARK__OUT) && !(o->under_way & (1u << WATCH_OUT | 1u << SEND)))
		r = poll_once(m, o, WATCH_OUT);
	return r;
}

static void free_if_over(struct ops *o)
{
	if (o->s == NULL && o->under_way == 0) {
		hark__list_remove(&o->link);
		free(o);
	}
}

static void detach_uring(struct hark__engine *e, struct hark__source *s)
{
	struct uring_engine *m = mine(e);
	struct ops *o = s->op;
	while (o->first != NONE)
		dequeue(m, o);
	o->s = NULL;
	for (unsigned kind = RECV; kind < KINDS; kind++)
		if (o->under_way & (1u << kind))
			cancel(m, o, kind);
	if (o->under_way !=
	    0) /* at once: until they end, the kernel keeps the descriptor's file open, and the peer sees no end */
		(void)io_uring_submit_and_get_events(&m->ring);
	free_if_over(o);
	s->op = NULL;
}

static ssize_t take_queued(struct uring_engine *m, struct ops *o, char *buf, size_t cap)
{
	size_t done = 0;
	while (o->first != NONE && done < cap) {
		struct buffer *b = &m->buffers[o->first];
		size_t n = b->len < cap - done ? b->len : cap - done;
		memcpy(buf + done, m->bytes + (size_t)o->first * BUFFER_BYTES + b->from, n);
		done += n;
		b->from = (uint16_t)(b->from + n);
		b->len = (uint16_t)(b->len - n);
		if (b->len == 0)
			dequeue(m, o);
	}
	o->queued -= (uint32_t)done;
	return (ssize_t)done;
}

/* A reader that takes little at a time, of however much there is, tells nothing. */
static void weigh(struct uring_engine *m, struct ops *o, size_t n, size_t cap)
{
	if (n >= MUCH && o->much < MUCH_READS && ++o->much == MUCH_READS) {
		o->bulk = true;
		take_no_more(m, o);
	} else if (n < MUCH && n < cap && o->much > 0 && --o->much == 0) {
		o->bulk = false;
	}
}

static ssize_t recv_uring(struct hark__engine *e, struct hark__source *s, void *buf, size_t cap)
{
	struct uring_engine *m = mine(e);
	struct ops *o = s->op;
	ssize_t n;
	if (o->first == NONE && o->end <= 0)
		return o->end;
	if (o->first != NONE)
		n = take_queued(m, o, buf, cap);
	else if ((o->under_way & (1u << RECV)) && !e->forked)
		return -EAGAIN;
	else if ((n = hark__sys.recv(s->fd, buf, cap, MSG_DONTWAIT)) < 0)
		return -errno;
	if (n > 0 && !e->forked)
		weigh(m, o, (size_t)n, cap);
	return n;
}

static int stop_receiving_uring(struct hark__engine *e, struct hark__source *s)
{
	struct ops *o = s->op;
	o->bulk = true;
	o->much = MUCH_READS;
	if (!e->forked)
		take_no_more(mine(e), o);
	if (!e->forked && (o->under_way & (1u << RECV)))
		return -EINPROGRESS;
	return o->first != NONE || o->end <= 0;
}

static size_t pending_uring(struct hark__engine *e, const struct hark__source *s)
{
	(void)e;
	return s->op != NULL ? ((const struct ops *)s->op)->queued : 0;
}

/* ---- completions ----------------------------------------------------------------------------- */

static void received(struct uring_engine *m, struct ops *o, int res, uint32_t flags)
{
	bool has_buffer = flags & IORING_CQE_F_BUFFER;
	uint16_t id = (uint16_t)(flags >> IORING_CQE_BUFFER_SHIFT);
	if (has_buffer && (o->s == NULL || res <= 0))
		give_back(m, id);
	else if (has_buffer)
		enqueue(m, o, id, (uint32_t)res);
	if (!(flags & IORING_CQE_F_MORE))
		o->cancelling = false;
	if (o->s == NULL)
		return;
	bool passing = res == -ENOBUFS || res == -ECANCELED || res == -EINTR || res == -EAGAIN;
	if (res <= 0 && !passing)
		o->end = (int16_t)res;
	hark__source_ready(&m->e, o->s, o->end <= 0 ? HARK__IN | HARK__HUP : HARK__IN);
}

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

static void completed(struct uring_engine *m, const struct io_uring_cqe *c)
{
	unsigned kind = (unsigned)(c->user_data & 7);
	struct ops *o = (struct ops *)(uintptr_t)(c->user_data & ~UINT64_C(7));
	if (o == NULL)
		return;
	if (!(c->flags & IORING_CQE_F_MORE))
		o->under_way &= (uint8_t) ~(1u << kind);
	if (kind == RECV)
		received(m, o, c->res, c->flags);
	else if (kind == SEND)
		sent(m, o, c->res);
	else if (o->s != NULL)
		hark__source_ready(&m->e, o->s, bits(c->res));
	free_if_over(o);
}

static struct ops *ops_ahead(struct uring_engine *m, unsigned head, unsigned ahead)
{
	uint64_t data = m->ring.cq.cqes[(head + ahead) & *m->ring.cq.kring_mask].user_data;
	return (struct ops *)(uintptr_t)(data & ~UINT64_C(7));
}

/* What the next completions will touch, link by link: see fetch_ahead() in fiber.c. */
static inline __attribute__((always_inline)) void fetch_ahead(struct uring_engine *m, unsigned head, unsigned left)
{
	const struct ops *o;
	if (left > 3 * AHEAD)
		__builtin_prefetch(ops_ahead(m, head, 3 * AHEAD), 1);
	if (left > 2 * AHEAD && (o = ops_ahead(m, head, 2 * AHEAD)) != NULL)
		__builtin_prefetch(o->s, 1);
	if (left > AHEAD && (o = ops_ahead(m, head, AHEAD)) != NULL && o->s != NULL)
		__builtin_prefetch(o->s->in, 1);
}

/* Hands over what is to be sent while completions are still left to work off. Nearly all of it leaves at once: these
 * completions, the newest, are looked at before their turn, so that their slots are free for who runs next. */
static void submit_sends(struct uring_engine *m)
{
	unsigned mask = *m->ring.cq.kring_mask, at = io_uring_smp_load_acquire(m->ring.cq.ktail);
	(void)io_uring_submit(&m->ring);
	m->sends = false;
	for (unsigned end = io_uring_smp_load_acquire(m->ring.cq.ktail); at != end; at++) {
		struct io_uring_cqe *c = &m->ring.cq.cqes[at & mask];
		if ((c->user_data & 7) != SEND)
			continue;
		completed(m, c);
		c->user_data = 0; /* nobody's from now on */
	}
}

/* Works off at most a batch: so many connections' memory that was touched here is still near when they run. The kernel
 * is only asked when none is left, or something is to be sent. */
static int wait_uring(struct hark__engine *e, int64_t timeout_ns)
{
	struct uring_engine *m = mine(e);
	struct io_uring_cqe *c;
	struct __kernel_timespec t = {.tv_sec = timeout_ns / HARK_S, .tv_nsec = timeout_ns % HARK_S};
	unsigned head, n = 0, ready = io_uring_cq_ready(&m->ring);
	int r = 0;
	if (ready > 0 && m->sends) {
		submit_sends(m);
		ready = io_uring_cq_ready(&m->ring);
	} else if (ready == 0) {
		m->sends = false;
		if (timeout_ns == 0)
			r = io_uring_submit_and_get_events(&m->ring);
		else
			r = io_uring_submit_and_wait_timeout(&m->ring, &c, 1, timeout_ns < 0 ? NULL : &t, NULL);
		ready = io_uring_cq_ready(&m->ring);
	}
	io_uring_for_each_cqe(&m->ring, head, c)
	{
		if (n == BATCH ||
		    n == ready) /* what came meanwhile is not counted, and beyond it lies what was there long ago */
			break;
		fetch_ahead(m, head, ready - n);
		completed(m, c);
		n++;
	}
	io_uring_cq_advance(&m->ring, n);
	return r < 0 && r != -ETIME && n == 0 ? r : 0;
}

const struct hark__engine_ops hark__engine_uring = {
	.name = "uring",
	.open = open_uring,
	.close = close_uring,
	.forked = forked_uring,
	.arm = arm_uring,
	.detach = detach_uring,
	.wait = wait_uring,
	.recv = recv_uring,
	.pending = pending_uring,
	.stop_receiving = stop_receiving_uring,
	.send = send_uring,
	.sending = sending_uring,
};
