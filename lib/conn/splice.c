/* splice.c — bytes from one stream to another without copying them: the kernel moves its pages.
 *
 * Where one side is a pipe it is one system call, straight from one to the other; from a file, sendfile(2). Between
 * sockets it takes two and a pipe of our own, so it pays only where much comes at a time, as it does into a pipe, which
 * holds few pieces, however small. A connection whose reads filled the buffer several times in a row is "in bulk"; it
 * no longer is, and gives its pipe back, when little came several times. Small exchanges, and idle connections, never
 * see any of this. Where the kernel cannot (TLS, no pipe to be had) bulk is read by HARK__BULK_BYTES instead.
 *
 * splice(2) waits on sockets unless their O_NONBLOCK is set, whatever its own flag says (that is for pipes): so it is
 * set, as for hark_sendfile().
 *
 * The reader's and the writer's role are the caller's. A pipe of our own is the reader's, and empty between two calls.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdatomic.h>
#include <unistd.h>

#include "address/fd.h"
#include "address/file.h"
#include "base/sys.h"
#include "conn/conn.h"
#include "loop/fiber.h"

#define SHORT_MOVES 8           /* in a row: no longer in bulk */
#define FULL_MAX    15          /* reads that are counted: then a pipe is tried for again */
#define PIPE_BYTES  (256 << 10) /* asked for; beyond the user's share it stays what it is: pipe(7) */
#define MOVE_BYTES  (1 << 20)   /* at most, of one call without a pipe of our own: others want to run, too */
#define FUTILE_MAX  2           /* calls that find both sides ready and move nothing */
#define NO_PIPE     -1

/* Relaxed: counts. What is a little late is what a server keeps spare descriptors for. */
static _Atomic unsigned descriptors;
static _Atomic unsigned keep_from = INT_MAX;

unsigned hark__splice_descriptors(void)
{
	return atomic_load_explicit(&descriptors, memory_order_relaxed);
}

void hark__splice_keep_from(unsigned fd)
{
	atomic_store_explicit(&keep_from, fd, memory_order_relaxed);
}

static void close_pipe(const int fds[2])
{
	(void)hark__sys.close(fds[0]);
	(void)hark__sys.close(fds[1]);
	atomic_fetch_sub_explicit(&descriptors, 2, memory_order_relaxed);
}

/* A pipe is worth less than a connection: none where descriptors are short. */
static bool open_pipe(int fds[2])
{
	if (hark__sys.pipe2(fds, O_CLOEXEC | O_NONBLOCK) < 0)
		return false;
	atomic_fetch_add_explicit(&descriptors, 2, memory_order_relaxed);
	unsigned highest = (unsigned)(fds[0] > fds[1] ? fds[0] : fds[1]);
	if (highest < atomic_load_explicit(&keep_from, memory_order_relaxed))
		return true;
	close_pipe(fds);
	return false;
}

static bool has_pipe(const struct hark_conn *c)
{
	return c->bulk && c->pipe[0] != NO_PIPE;
}

void hark__splice_end(struct hark_conn *c)
{
	if (has_pipe(c))
		close_pipe(c->pipe);
	c->bulk = false;
}

bool hark__conn_kernel_moves(struct hark_conn *c)
{
	if (c->datagrams || !hark__conn_transport(c)->kernel_moves)
		return false;
	if (c->nonblock)
		return true;
	if (hark__fd_nonblock(c->src.fd, true) < 0)
		return false;
	c->nonblock = true;
	return true;
}

/* A file on a disk, for sendfile(2). A terminal is one too, in that it is read as plainly, until it is tried. */
static bool is_file(const struct hark_conn *c)
{
	return c->transport == HARK__FILE && c->way == HARK__FILE_PLAIN && !c->is_pipe;
}

/* Whether one call moves from one to the other. */
static bool is_direct(const struct hark_conn *from, const struct hark_conn *to)
{
	return from->is_pipe || to->is_pipe || is_file(from);
}

static bool may_move(struct hark_conn *from, struct hark_conn *to)
{
	return (to->is_pipe || hark__conn_kernel_moves(to)) &&
	       (from->is_pipe || is_file(from) || hark__conn_kernel_moves(from));
}

/* Counts one read. Whether it begins bulk, or is the time to try for a pipe again. */
static bool count_full(struct hark_conn *from, bool full)
{
	if (!full) {
		if (hark__bulk_is_wide(from) && ++from->short_moves < SHORT_MOVES)
			return false;
		from->full_reads = from->short_moves = 0;
		return false;
	}
	from->short_moves = 0;
	from->full_reads = from->full_reads < FULL_MAX ? from->full_reads + 1 : HARK__FULL_READS;
	return from->full_reads == HARK__FULL_READS;
}

void hark__splice_note(struct hark_conn *from, struct hark_conn *to, size_t n, size_t cap)
{
	int fds[2] = {NO_PIPE, NO_PIPE};
	bool direct = is_direct(from, to);
	if (!count_full(from, n >= cap || (direct && n >= HARK__BUFFER_BYTES)))
		return;
	if (from->no_splice || has_pipe(from) || !may_move(from, to))
		return;
	if (!direct) {
		if (!open_pipe(fds))
			return;
		(void)hark__sys.fcntl(fds[1], F_SETPIPE_SZ, PIPE_BYTES);
	}
	from->pipe[0] = fds[0];
	from->pipe[1] = fds[1];
	from->bulk = true;
	from->full_reads = from->short_moves = 0;
}

bool hark__splice_may(struct hark_conn *from, struct hark_conn *to)
{
	return from->bulk && hark__buffer_len(&from->in) == 0 && (has_pipe(from) || is_direct(from, to)) &&
	       may_move(from, to);
}

/* Into the pipe what is there. > 0, 0: the end, -EAGAIN: nothing, and a wait will tell. */
static ssize_t move_in(struct hark_conn *from)
{
	ssize_t n;
	if (!(hark__ready(&from->src) & HARK__IN))
		return -EAGAIN;
	do
		n = hark__sys.splice(from->src.fd, NULL, from->pipe[1], NULL, PIPE_BYTES,
		                     SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
	while (n < 0 && errno == EINTR);
	if (n == 0)
		return hark__conn_ended(from);
	if (n > 0)
		from->bytes_in += (uint64_t)n;
	if (n < 0 && errno == EAGAIN)
		hark__ready_clear(&from->src, HARK__IN);
	return n < 0 ? -errno : n;
}

/* All n bytes out of the pipe again, waiting if it must. */
static int move_out(struct hark_conn *from, struct hark_conn *to, size_t n)
{
	while (n > 0) {
		int r = hark__conn_expired(to);
		ssize_t done = 0;
		if (r < 0)
			return r;
		if (hark__ready(&to->src) & HARK__OUT)
			done = hark__fd_splice(from->pipe[0], to->src.fd, n);
		else
			errno = EAGAIN;
		if (done > 0) {
			n -= (size_t)done;
			to->bytes_out += (uint64_t)done;
			continue;
		}
		if (done < 0 && errno == EINTR)
			continue;
		if (done < 0 && errno != EAGAIN)
			return -errno;
		hark__ready_clear(&to->src, HARK__OUT);
		r = hark__conn_wait(to, HARK__OUT, "pass");
		if (r < 0)
			return r;
	}
	return 0;
}

/* Which side has made a move futile: HARK__IN, HARK__OUT, or 0: neither, any more. Told by poll(2), as both sides say
 * EAGAIN. What is not ready here will make an edge: it is looked at after it was found wanting. */
static unsigned not_ready(struct hark_conn *from, struct hark_conn *to)
{
	struct pollfd p[2] = {{.fd = from->src.fd, .events = POLLIN}, {.fd = to->src.fd, .events = POLLOUT}};
	if (is_file(from)) /* it never is the one to be waited for */
		return HARK__OUT;
	if (hark__sys.poll(p, 2, 0) < 0)
		return 0;
	return p[0].revents == 0 ? HARK__IN : p[1].revents == 0 ? HARK__OUT : 0;
}

static ssize_t move_once(struct hark_conn *from, struct hark_conn *to)
{
	ssize_t n;
	do
		n = is_file(from) && !to->is_pipe ? hark__fd_sendfile(to->src.fd, from->src.fd, NULL, MOVE_BYTES)
		                                  : hark__fd_splice(from->src.fd, to->src.fd, MOVE_BYTES);
	while (n < 0 && errno == EINTR);
	return n < 0 ? -errno : n;
}

/* Which side it is that the error is about. */
static bool is_writers(const struct hark_conn *from, ssize_t error)
{
	return error == -EPIPE || (from->transport == HARK__FILE && error != -EIO);
}

static bool needs_a_buffer(ssize_t error)
{
	return error == -EINVAL || error == -ENOSYS || error == -EOPNOTSUPP;
}

static int await_room(struct hark_conn *to)
{
	int r = hark__conn_expired(to);
	hark__ready_clear(&to->src, HARK__OUT);
	r = r < 0 ? r : hark__conn_wait(to, HARK__OUT, "pass");
	if (r < 0)
		hark__conn_fail(to, r); /* its end is not one in order: bytes that were there did not get through */
	return r;
}

/* One call, straight from one to the other. As hark__splice(). */
static ssize_t move_direct(struct hark_conn *from, struct hark_conn *to)
{
	for (int futile = 0;;) {
		int r = hark__ready(&to->src) & HARK__OUT ? hark__conn_expired(to) : await_room(to);
		if (r < 0)
			return r;
		if (!(hark__ready(&from->src) & HARK__IN))
			return -EAGAIN;
		ssize_t n = move_once(from, to);
		if (n == 0)
			return hark__conn_ended(from);
		if (n > 0) {
			from->bytes_in += (uint64_t)n;
			to->bytes_out += (uint64_t)n;
			return n;
		}
		if (n != -EAGAIN) {
			if (!needs_a_buffer(n) && is_writers(from, n))
				hark__conn_fail(to, (int)n);
			return n;
		}
		unsigned wanting = not_ready(from, to);
		if (wanting == 0 && ++futile == FUTILE_MAX)
			return -EOPNOTSUPP;
		hark__ready_clear(wanting == HARK__IN ? &from->src : &to->src, wanting);
	}
}

/* In two calls, by a pipe of our own. */
static ssize_t move_by_pipe(struct hark_conn *from, struct hark_conn *to)
{
	ssize_t n = move_in(from);
	if (n <= 0)
		return n;
	int r = move_out(from, to, (size_t)n);
	if (r == 0)
		return n;
	hark__splice_end(from); /* with what is left in it */
	hark__conn_fail(to, r);
	return r;
}

ssize_t hark__splice(struct hark_conn *from, struct hark_conn *to)
{
	int r = hark__conn_expired(from);
	ssize_t n = r < 0 ? r : from->eof ? 0 : is_direct(from, to) ? move_direct(from, to) : move_by_pipe(from, to);
	if (needs_a_buffer(n)) {
		from->no_splice = true; /* a socket of some other protocol, a file that only appends */
		hark__splice_end(from);
		return -EOPNOTSUPP;
	}
	if (n <= 0)
		return n;
	from->short_moves = (size_t)n < HARK__BUFFER_BYTES ? from->short_moves + 1 : 0;
	if (from->short_moves == SHORT_MOVES)
		hark__splice_end(from);
	(void)hark__fair();
	return n;
}
