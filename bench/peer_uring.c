/* The floor under every echo server on io_uring: multishot accept, multishot receive into a ring of
 * provided buffers, one send a message, no state a connection.
 *
 * SINGLE_ISSUER|DEFER_TASKRUN (Linux 6.1) does the completions' work inside our own wait rather than
 * by interrupting us; the sends of a turn are submitted by the next turn's wait, so a system call is
 * shared by all messages of a turn. A buffer goes back to the kernel when its send completes, which
 * is why user_data carries the buffer, the length still due and the descriptor.
 *
 * Not a server to use: two messages in flight on one connection may be sent out of order, as no
 * state a connection says that a send is still under way. The load generator has one in flight.
 * MSG_WAITALL makes the kernel, not us, finish a short send.
 * One thread, as SINGLE_ISSUER demands; it owns the ring, the buffers and every descriptor. */
#include "peer.h"

#include <errno.h>
#include <liburing.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#define RING_ENTRIES       2048 /* submissions */
#define COMPLETION_ENTRIES 8192 /* completions */
#define BUFFERS            1024 /* a power of two */
#define BUFFER_SIZE        2048 /* bytes */
#define GROUP              0
#define BATCH              256 /* completions handled before the next system call */

enum kind { ACCEPT, RECEIVE, SEND };

static struct io_uring ring;
static struct io_uring_buf_ring *buffer_ring;
static char *buffers;

static uint64_t tag(enum kind kind, int fd, unsigned buffer)
{
	return (uint64_t)kind << 56 | (uint64_t)buffer << 32 | (uint32_t)fd;
}

static struct io_uring_sqe *next_sqe(void)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&ring);

	if (sqe != NULL)
		return sqe;
	if (io_uring_submit(&ring) < 0 || (sqe = io_uring_get_sqe(&ring)) == NULL)
		peer_die("io_uring_submit");
	return sqe;
}

static void want_accept(int listener)
{
	struct io_uring_sqe *sqe = next_sqe();

	io_uring_prep_multishot_accept(sqe, listener, NULL, NULL, SOCK_CLOEXEC);
	io_uring_sqe_set_data64(sqe, tag(ACCEPT, listener, 0));
}

static void want_receive(int fd)
{
	struct io_uring_sqe *sqe = next_sqe();

	io_uring_prep_recv_multishot(sqe, fd, NULL, 0, 0);
	sqe->flags |= IOSQE_BUFFER_SELECT;
	sqe->buf_group = GROUP;
	io_uring_sqe_set_data64(sqe, tag(RECEIVE, fd, 0));
}

static void give_back(unsigned buffer)
{
	io_uring_buf_ring_add(buffer_ring, buffers + (size_t)buffer * BUFFER_SIZE, BUFFER_SIZE, (unsigned short)buffer,
	                      BUFFERS - 1, 0);
	io_uring_buf_ring_advance(buffer_ring, 1);
}

static void on_receive(int fd, int result, unsigned flags)
{
	if (result > 0) {
		unsigned buffer = flags >> IORING_CQE_BUFFER_SHIFT;
		struct io_uring_sqe *sqe = next_sqe();
		io_uring_prep_send(sqe, fd, buffers + (size_t)buffer * BUFFER_SIZE, (size_t)result,
		                   MSG_WAITALL | MSG_NOSIGNAL);
		io_uring_sqe_set_data64(sqe, tag(SEND, fd, buffer));
	}
	if (flags & IORING_CQE_F_MORE)
		return;
	if (result > 0 || result == -ENOBUFS)
		want_receive(fd);
	else
		(void)close(fd);
}

static void handle(const struct io_uring_cqe *cqe)
{
	int fd = (int)(uint32_t)cqe->user_data;

	switch ((enum kind)(cqe->user_data >> 56)) {
	case ACCEPT:
		if (cqe->res >= 0)
			want_receive(cqe->res);
		if (!(cqe->flags & IORING_CQE_F_MORE))
			want_accept(fd);
		break;
	case RECEIVE: on_receive(fd, cqe->res, cqe->flags); break;
	case SEND: /* a send that failed shows as an end on the receiving side as well */
		give_back((unsigned)(cqe->user_data >> 32) & 0xffff);
		break;
	}
}

static void open_ring(void)
{
	struct io_uring_params p = {
		.flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_CQSIZE,
		.cq_entries = COMPLETION_ENTRIES,
	};
	int err = io_uring_queue_init_params(RING_ENTRIES, &ring, &p);

	if (err < 0) {
		errno = -err;
		peer_die("io_uring_queue_init");
	}
	(void)io_uring_register_ring_fd(&ring);
}

/* liburing 2.3 has no helper that sets up a ring of buffers; it only registers one. */
static void open_buffers(void)
{
	size_t ring_size = BUFFERS * sizeof(struct io_uring_buf);
	int protection = PROT_READ | PROT_WRITE, flags = MAP_ANONYMOUS | MAP_PRIVATE;

	buffer_ring = mmap(NULL, ring_size, protection, flags, -1, 0);
	buffers = mmap(NULL, (size_t)BUFFERS * BUFFER_SIZE, protection, flags, -1, 0);
	if (buffer_ring == MAP_FAILED || buffers == MAP_FAILED)
		peer_die("mmap");
	struct io_uring_buf_reg r = {.ring_addr = (uintptr_t)buffer_ring, .ring_entries = BUFFERS, .bgid = GROUP};
	int err = io_uring_register_buf_ring(&ring, &r, 0);
	if (err < 0) {
		errno = -err;
		peer_die("io_uring_register_buf_ring");
	}
	io_uring_buf_ring_init(buffer_ring);
	for (unsigned i = 0; i < BUFFERS; i++)
		give_back(i);
}

int main(int argc, char **argv)
{
	peer_raise_descriptors();
	open_ring();
	open_buffers();
	want_accept(peer_listen(argc > 1 ? argv[1] : NULL));

	for (;;) {
		struct io_uring_cqe *cqes[BATCH];
		int err = io_uring_submit_and_wait(&ring, 1);
		if (err < 0 && err != -EINTR && err != -EBUSY) {
			errno = -err;
			peer_die("io_uring_submit_and_wait");
		}
		for (unsigned n; (n = io_uring_peek_batch_cqe(&ring, cqes, BATCH)) > 0;) {
			for (unsigned i = 0; i < n; i++)
				handle(cqes[i]);
			io_uring_cq_advance(&ring, n);
		}
	}
}
