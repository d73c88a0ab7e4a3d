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

static int64_t send_by_buffer(struct hark_conn *c, int fd, off_t offset, size_t count)
{
	char *buf = hark__sys.malloc(CHUNK);
	int64_t done = 0;
	if (buf == NULL)
		return -ENOMEM;
	while (count == 0 || (size_t)done < count) {
		size_t want = count == 0 || count - (size_t)done > CHUNK ? CHUNK : count - (size_t)done;
		ssize_t n = hark__sys.pread(fd, buf, want, offset + done);
		if (n < 0 && errno == EINTR)
			continue;
		(void)hark__fair();
		if (n == 0)
			break;
		n = n < 0 ? -errno : hark_write(c, buf, (size_t)n);
		if (n < 0) {
			done = n;
			break;
		}
		done += n;
	}
	free(buf);
	return done;
}

/* -EOPNOTSUPP before anything was sent: this file or socket needs a buffer. */
static int64_t send_by_kernel(struct hark_conn *c, int fd, off_t offset, size_t count)
{
	int64_t done = 0;
	off_t at = offset;
	while (count == 0 || (size_t)done < count) {
		size_t want = count == 0 || count - (size_t)done > SEND_MOST ? SEND_MOST : count - (size_t)done;
		int r = hark__fiber_cancelled() ? -ECANCELED : hark__conn_expired(c);
		if (r < 0)
			return r;
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
			if (r < 0)
				return r;
		} else if (errno != EINTR) {
			return done == 0 && (errno == EINVAL || errno == ENOSYS) ? -EOPNOTSUPP : -errno;
		}
	}
	return done;
}

int64_t hark_sendfile(struct hark_conn *c, int fd, off_t offset, size_t count)
{
	int r = hark_flush(c);
	if (r < 0)
		return r;
	int64_t n = -EOPNOTSUPP;
	if (hark__conn_kernel_moves(c)) {
		r = hark__conn_begin(c, &c->writing);
		if (r < 0)
			return r;
		n = send_by_kernel(c, fd, offset, count);
		hark__conn_end(c, &c->writing);
	}
	return n == -EOPNOTSUPP ? send_by_buffer(c, fd, offset, count) : n;
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
	int r = hark__conn_begin(to, &to->writing);
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
		int r = hark__conn_begin(to, &to->writing); /* not while we wait for something to write */
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
