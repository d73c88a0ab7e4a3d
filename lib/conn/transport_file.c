/* transport_file.c — the transport of pipes, terminals and files: file.h's ways to use them without waiting.
 *
 * A descriptor that is open for one direction alone (an end of a pipe) ends by being closed: that is what the other end
 * sees as an end. One that is open for both cannot end one of them. Nothing here knows a reset. */
#include <errno.h>
#include <fcntl.h>
#include <sys/ioctl.h>

#include "address/file.h"
#include "base/sys.h"
#include "conn/conn.h"

/* A pseudo-terminal's master reads EIO once nobody has its other side open any more: that is its end. */
static bool is_hung_up(int fd, ssize_t result)
{
	unsigned number;
	return result == -EIO && hark__sys.ioctl(fd, TIOCGPTN, &number) == 0;
}

static ssize_t receive(struct hark_conn *c, void *buf, size_t cap)
{
	ssize_t n;
	if (!(hark__ready(&c->src) & HARK__IN))
		return -EAGAIN;
	do
		n = hark__file_read(c->src.fd, c->way, buf, cap);
	while (n == -EINTR);
	if (n == -EAGAIN)
		hark__ready_clear(&c->src, HARK__IN);
	return is_hung_up(c->src.fd, n) ? 0 : n;
}

static size_t pending(const struct hark_conn *c)
{
	(void)c;
	return 0;
}

static ssize_t send_some(struct hark_conn *c, const struct iovec *iov, int count)
{
	ssize_t n;
	(void)count;
	if (!(hark__ready(&c->src) & HARK__OUT))
		return -EAGAIN;
	do
		n = hark__file_write(c->src.fd, c->way, iov->iov_base, iov->iov_len);
	while (n == -EINTR);
	return n;
}

static void close_now(struct hark_conn *c)
{
	(void)hark__sys.close(c->src.fd);
	c->src.fd = -1;
}

/* Which of its directions the descriptor is open for. */
static int open_for(int fd)
{
	int flags = hark__sys.fcntl(fd, F_GETFL, 0);
	if (flags < 0)
		return -errno;
	int access = flags & O_ACCMODE;
	return access == O_RDONLY ? HARK_IN : access == O_WRONLY ? HARK_OUT : HARK_IN | HARK_OUT;
}

static int end(struct hark_conn *c, int directions)
{
	int has = open_for(c->src.fd);
	if (has < 0)
		return has;
	if ((has & directions) == 0)
		return 0;
	if ((has & ~directions) != 0)
		return -EOPNOTSUPP;
	if ((has & HARK_IN) && atomic_load(&c->reading))
		return -EBUSY; /* a closed descriptor would never wake it */
	hark__source_detach(&c->src);
	close_now(c);
	c->eof = true;
	return 0;
}

static void reset(struct hark_conn *c)
{
	(void)c;
}

const struct hark__transport hark__transport_file = {
	.receive = receive,
	.pending = pending,
	.send = send_some,
	.shutdown = end,
	.reset = reset,
	.close = close_now,
	.plain = true,
};
