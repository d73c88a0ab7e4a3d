/* splice.c — bytes from one stream socket to another through a pipe: the kernel moves its pages and copies none of
 * them.
 *
 * That takes two system calls and a pipe, so it pays only where much comes at a time. A connection whose reads filled
 * the buffer several times in a row is "in bulk", and gets a pipe; it gives it back when little came several times.
 * Small exchanges, and idle connections, never see one.
 *
 * splice(2) waits on sockets unless their O_NONBLOCK is set, whatever its own flag says (that is for the pipe): so it
 * is set, as for hark_sendfile().
 *
 * The reader's and the writer's role are the caller's. A pipe is the reader's, and empty between two calls. */
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "address/fd.h"
#include "base/sys.h"
#include "conn/conn.h"
#include "loop/fiber.h"

#define FULL_READS  4           /* in a row: from then on in bulk */
#define SHORT_MOVES 8           /* in a row: no longer */
#define PIPE_BYTES  (256 << 10) /* asked for; beyond the user's share it stays what it is: pipe(7) */

/* Frees the pipe. */
void hark__splice_end(struct hark_conn *c)
{
	if (!c->bulk)
		return;
	(void)hark__sys.close(c->pipe[0]);
	(void)hark__sys.close(c->pipe[1]);
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

void hark__splice_note(struct hark_conn *from, struct hark_conn *to, size_t n, size_t cap)
{
	int fds[2];
	if (n == cap)
		from->full_reads++;
	else
		from->full_reads = 0;
	if (from->full_reads < FULL_READS)
		return;
	from->full_reads = 0;
	if (from->no_splice || from->bulk || !hark__conn_kernel_moves(from) || !hark__conn_kernel_moves(to) ||
	    hark__sys.pipe2(fds, O_CLOEXEC | O_NONBLOCK) < 0)
		return; /* without a pipe: a while later again */
	(void)hark__sys.fcntl(fds[1], F_SETPIPE_SZ, PIPE_BYTES);
	from->pipe[0] = fds[0];
	from->pipe[1] = fds[1];
	from->bulk = true;
	from->short_moves = 0;
}

bool hark__splice_may(struct hark_conn *from, struct hark_conn *to)
{
	return from->bulk && hark__buffer_len(&from->in) == 0 && hark__conn_kernel_moves(to);
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

ssize_t hark__splice(struct hark_conn *from, struct hark_conn *to)
{
	int r = hark__conn_expired(from);
	ssize_t n = r < 0 ? r : from->eof ? 0 : move_in(from);
	if (n == -EINVAL || n == -ENOSYS || n == -EOPNOTSUPP) {
		from->no_splice = true; /* a socket of some other protocol */
		hark__splice_end(from);
		return -EOPNOTSUPP;
	}
	if (n <= 0)
		return n;
	r = move_out(from, to, (size_t)n);
	if (r < 0) {
		hark__splice_end(from); /* with what is left in it */
		hark__conn_fail(to, r);
		return r;
	}
	from->short_moves = (size_t)n < HARK__BUFFER_BYTES ? from->short_moves + 1 : 0;
	if (from->short_moves == SHORT_MOVES)
		hark__splice_end(from);
	(void)hark__fair();
	return n;
}
