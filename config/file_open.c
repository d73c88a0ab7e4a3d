/* file_open.c — see file_open.h. Any thread. */
#include "file_open.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

int64_t file_open_patience_ns = HARK_FOREVER;

static int write_all(int fd, const char *buf, size_t n)
{
	while (n > 0) {
		ssize_t put = write(fd, buf, n);
		if (put < 0 && errno != EINTR)
			return -errno;
		buf += put > 0 ? put : 0;
		n -= put > 0 ? (size_t)put : 0;
	}
	return 0;
}

/* from has O_NONBLOCK, unless it cannot have it: poll(2) first in any case. */
static int copy(int from, int to, size_t max)
{
	int64_t end = hark_after(file_open_patience_ns);
	char buf[4096];

	for (size_t all = 0;;) {
		struct pollfd p = {.fd = from, .events = POLLIN};
		int64_t left = end == HARK_FOREVER ? -1 : end - hark_now();
		if (end != HARK_FOREVER && left <= 0)
			return -ETIMEDOUT;
		int ready = poll(&p, 1, left < 0 ? -1 : (int)((left + HARK_MS - 1) / HARK_MS));
		if (ready == 0)
			continue;
		ssize_t n = ready > 0 ? read(from, buf, sizeof buf) : -1;
		if (n < 0 && (errno == EINTR || errno == EAGAIN))
			continue;
		if (n <= 0)
			return n < 0 ? -errno : lseek(to, 0, SEEK_SET) < 0 ? -errno : 0;
		if ((all += (size_t)n) > max)
			return -EFBIG;
		int err = write_all(to, buf, (size_t)n);
		if (err < 0)
			return err;
	}
}

int file_open(const char *path, size_t max)
{
	struct stat st;
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK); /* a FIFO without a writer would wait */

	if (fd < 0)
		return -errno;
	int err = fstat(fd, &st) < 0 ? -errno : S_ISDIR(st.st_mode) ? -EISDIR : 0;
	if (err == 0 && S_ISREG(st.st_mode))
		return fd;
	if (err == 0 && strncmp(path, "/dev/", 5) != 0 && strncmp(path, "/proc/", 6) != 0)
		err = -EINVAL;
	int memory = err == 0 ? memfd_create("hark-file", MFD_CLOEXEC) : -1;
	if (err == 0)
		err = memory < 0 ? -errno : copy(fd, memory, max);
	(void)close(fd);
	if (err < 0 && memory >= 0)
		(void)close(memory);
	return err < 0 ? err : memory;
}

const char *file_open_error(int err)
{
	return err == -ETIMEDOUT ? "nobody wrote it to its end in time"
	       : err == -EINVAL  ? "not a regular file"
	                         : hark_strerror(err);
}
