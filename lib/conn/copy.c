/* copy.c — bulk data without the caller's hands: files to connections, connections to connections.
 *
 * sendfile(2) moves a file's pages straight to a socket. It has no flag to keep it from waiting, so the socket's
 * O_NONBLOCK is set for it, once; a connection that uses it is its owner's alone by then. Where the kernel cannot, a
 * buffer does. Between connections a buffer does until there is much: splice.c. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>

#include "address/fd.h"
#include "base/sys.h"
#include "conn/conn.h"
#include "loop/fiber.h"

#define CHUNK     (64u << 10) /* bytes a copy moves at a time */
#define SEND_MOST (1u << 30)  /* bytes of one sendfile(2) */

/* With the writer's role, as the next. What fails before the first byte is the file's own failure, or sticks already.
 */
static int64_t send_by_buffer(struct hark_conn *c, int fd, off_t offset, size_t count)
{
	char *buf = hark__sys.malloc(CHUNK);
	int64_t done = 0;
	ssize_t n = 1;
	if (buf == NULL)
		return -ENOMEM;
	while (n > 0 && (count == 0 || (size_t)done < count)) {
		size_t want = count == 0 || count - (size_t)done > CHUNK ? CHUNK : count - (size_t)done;
		do
			n = hark__sys.pread(fd, buf, want, offset + done);
		while (n < 0 && errno == EINTR);
		n = n < 0 ? -errno : n;
		(void)hark__fair();
		if (n > 0) {
			struct iovec v = {.iov_base = buf, .iov_len = (size_t)n};
			int r = hark__conn_over(c);
			r = r < 0 ? r : hark__conn_write(c, &v, 1, v.iov_len);
			n = r < 0 ? r : n;
		}
		done += n > 0 ? n : 0;
	}
	free(buf);
	if (n < 0 && done > 0)
		hark__conn_fail(c, (int)n);
	return n < 0 ? n : done;
}

/* What sendfile(2) says of the file or of such a socket, not of the connection. */
static bool needs_a_buffer(int error)
{
	switch (error) {
	case EINVAL:
	case ENOSYS:
	case EOPNOTSUPP:
	case EBADF:
	case EISDIR:
	case EIO:
	case ESPIPE:
	case EOVERFLOW: return true;
	default: return false;
	}
}

/* -EOPNOTSUPP before anything was sent: this file or socket needs a buffer. */
static int64_t send_by_kernel(struct hark_conn *c, int fd, off_t offset, size_t count)
{
	int64_t done = 0;
	off_t at = offset;
	int r = 0;
	while (r == 0 && (count == 0 || (size_t)done < count)) {
		size_t want = count == 0 || count - (size_t)done > SEND_MOST ? SEND_MOST : count - (size_t)done;
		r = hark__conn_over(c);
		if (r < 0)
			break;
		ssize_t n = hark__fd_sendfile(c->src.fd, fd, &at, want);
		if (n == 0)
			break;
		if (n > 0) {
			done += n;
			c->bytes_out += (uint64_t)n;
			(void)hark__fair();
		} else if (errno == EAGAIN) {
			hark__ready_clear(&c->src, HARK__OUT);
			r = hark__conn_wait(c, HARK__OUT, "sendfile");
		} else if (errno != EINTR) {
			r = -errno;
			if (done == 0 && needs_a_buffer(-r))
				return -EOPNOTSUPP;
		}
	}
	if (r < 0)
		hark__conn_fail(c, r);
	return r < 0 ? r : done;
}

int64_t hark_sendfile(struct hark_conn *c, int fd, off_t offset, size_t count)
{
	if (c->datagrams)
		return -EOPNOTSUPP;
	int64_t n = hark__conn_begin_write(c, true);
	if (n < 0)
		return n;
	n = hark__conn_flush(c);
	if (n == 0)
		n = hark__conn_kernel_moves(c) ? send_by_kernel(c, fd, offset, count) : -EOPNOTSUPP;
	if (n == -EOPNOTSUPP)
		n = send_by_buffer(c, fd, offset, count);
	hark__conn_end(c, &c->writing);
	return n;
}

/* With the reader's role of from. The reader's buffer becomes the writer's where that one holds none: nothing is
 * copied. */
static ssize_t pass_buffered(struct hark_conn *from, struct hark_conn *to)
{
	ssize_t n = (ssize_t)hark__buffer_len(&from->in);
	if (n == 0)
		n = hark__conn_fill(from, HARK__IN, "pass");
	if (n <= 0)
		return n;
	int r = hark__conn_begin_write(to, true);
	if (r == 0) {
		r = hark__conn_write_buffer(to, &from->in);
		hark__splice_note(from, to, (size_t)n, HARK__BUFFER_BYTES);
		hark__conn_end(to, &to->writing);
	}
	return r < 0 ? r : n;
}

/* The same. -EOPNOTSUPP before anything has moved: a buffer must do. */
static ssize_t pass_spliced(struct hark_conn *from, struct hark_conn *to)
{
	for (;;) {
		int r = hark__conn_begin_write(to, true); /* not while we wait for something to write */
		if (r < 0)
			return r;
		r = hark__conn_flush(to);
		ssize_t n = r < 0 ? r : hark__splice(from, to);
		hark__conn_end(to, &to->writing);
		if (n != -EAGAIN)
			return n;
		r = hark__conn_wait_in(from, HARK__IN, "pass");
		if (r < 0)
			return r;
	}
}

ssize_t hark_pass(struct hark_conn *from, struct hark_conn *to)
{
	if (from->datagrams || to->datagrams)
		return -EOPNOTSUPP;
	int r = hark__conn_begin(from, &from->reading);
	if (r < 0)
		return r;
	ssize_t n = hark__splice_may(from, to) ? pass_spliced(from, to) : -EOPNOTSUPP;
	if (n == -EOPNOTSUPP)
		n = pass_buffered(from, to);
	hark__conn_end(from, &from->reading);
	return n;
}

int64_t hark_copy(struct hark_conn *from, struct hark_conn *to, bool *to_failed)
{
	char *buf = hark__sys.malloc(CHUNK);
	int64_t done = 0;
	bool writing = false;
	ssize_t n = 1;
	if (buf == NULL)
		return -ENOMEM;
	while (n > 0) {
		if (hark__splice_may(from, to)) {
			n = hark_pass(from, to);
			writing = n < 0 && to->write_error < 0;
			done += n > 0 ? n : 0;
			continue;
		}
		n = hark_read(from, buf, CHUNK);
		writing = n > 0;
		if (n > 0)
			n = hark_write(to, buf, (size_t)n);
		if (n > 0) {
			done += n;
			hark__splice_note(from, to, (size_t)n, CHUNK);
			int r = hark_flush(to); /* the other side may wait for just this */
			n = r < 0 ? r : n;
		}
	}
	free(buf);
	if (n < 0 && to_failed != NULL)
		*to_failed = writing;
	return n < 0 ? n : done;
}
