/* sys.c — the table of system calls, filled with the real ones. See sys.h.
 *
 * A program that was started with a standard descriptor closed must not find a connection there: its next message to
 * standard error would go to the peer. So what makes a descriptor here never returns 0, 1 or 2. */
#include "base/sys.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/pidfd.h>
#include <sys/sendfile.h>
#include <sys/syscall.h>
#include <unistd.h>

/* ---- descriptors ----------------------------------------------------------------------------- */

int hark__sys_high(int fd)
{
	if (fd < 0 || fd > STDERR_FILENO)
		return fd;
	int high = fcntl(fd, F_DUPFD_CLOEXEC, STDERR_FILENO + 1), kept = errno;
	(void)close(fd);
	errno = kept;
	return high;
}

static int both_high(int made, int fds[2])
{
	if (made < 0)
		return made;
	fds[0] = hark__sys_high(fds[0]);
	fds[1] = fds[0] < 0 ? (close(fds[1]), -1) : hark__sys_high(fds[1]);
	if (fds[0] >= 0 && fds[1] < 0)
		(void)close(fds[0]);
	return fds[1] < 0 ? -1 : 0;
}

static int socket_high(int domain, int type, int protocol)
{
	return hark__sys_high(socket(domain, type, protocol));
}

static int socketpair_high(int domain, int type, int protocol, int fds[2])
{
	return both_high(socketpair(domain, type, protocol, fds), fds);
}

static int accept4_high(int fd, struct sockaddr *peer, socklen_t *len, int flags)
{
	return hark__sys_high(accept4(fd, peer, len, flags));
}

static int epoll_create1_high(int flags)
{
	return hark__sys_high(epoll_create1(flags));
}

static int timerfd_create_high(int clock, int flags)
{
	return hark__sys_high(timerfd_create(clock, flags));
}

static int eventfd_high(unsigned value, int flags)
{
	return hark__sys_high(eventfd(value, flags));
}

static int pipe2_high(int fds[2], int flags)
{
	return both_high(pipe2(fds, flags), fds);
}

static int pidfd_open_high(pid_t pid, unsigned flags)
{
	return hark__sys_high(pidfd_open(pid, flags));
}

static int open_high(const char *path, int flags)
{
	return hark__sys_high(open(path, flags));
}

/* Takes a variable argument in C and a fixed one here. */
static int fcntl_high(int fd, int command, long arg)
{
	int r = fcntl(fd, command, arg);
	return command == F_DUPFD_CLOEXEC ? hark__sys_high(r) : r;
}

/* ---- the others ------------------------------------------------------------------------------ */

/* Takes a variable argument in C and a fixed one here. */
static int ioctl_fixed(int fd, unsigned long request, void *arg)
{
	return ioctl(fd, request, arg);
}

static void *mremap_to(void *from, size_t n, void *to)
{
	return mremap(from, n, n, MREMAP_MAYMOVE | MREMAP_FIXED, to);
}

/* glibc types the resource as an enumeration. */
static int getrlimit_plain(int resource, struct rlimit *limit)
{
	return getrlimit(resource, limit);
}

/* glibc types the address arguments of these as transparent unions under _GNU_SOURCE: no plain function pointer. */
static int connect_plain(int fd, const struct sockaddr *to, socklen_t len)
{
#ifdef HARK__TSAN /* takes connecting a datagram socket that another thread reads for a race of the descriptor */
	return (int)syscall(SYS_connect, fd, to, len);
#endif
	return connect(fd, to, len);
}

static int bind_plain(int fd, const struct sockaddr *at, socklen_t len)
{
	return bind(fd, at, len);
}

static int getsockname_plain(int fd, struct sockaddr *at, socklen_t *len)
{
	return getsockname(fd, at, len);
}

static int getpeername_plain(int fd, struct sockaddr *at, socklen_t *len)
{
	return getpeername(fd, at, len);
}

struct hark__sys hark__sys = {
	.malloc = malloc,
	.calloc = calloc,
	.aligned_alloc = aligned_alloc,
	.realloc = realloc,
	.mmap = mmap,
	.munmap = munmap,
	.mremap_to = mremap_to,
	.mprotect = mprotect,
	.madvise = madvise,
	.getrlimit = getrlimit_plain,
	.socket = socket_high,
	.socketpair = socketpair_high,
	.connect = connect_plain,
	.bind = bind_plain,
	.listen = listen,
	.accept4 = accept4_high,
	.recv = recv,
	.recvmsg = recvmsg,
	.recvmmsg = recvmmsg,
	.send = send,
	.sendmsg = sendmsg,
	.sendmmsg = sendmmsg,
	.read = read,
	.write = write,
	.pread = pread,
	.writev = writev,
	.preadv2 = preadv2,
	.pwritev2 = pwritev2,
	.splice = splice,
	.sendfile = sendfile,
	.shutdown = shutdown,
	.close = close,
	.dup3 = dup3,
	.getsockopt = getsockopt,
	.setsockopt = setsockopt,
	.getsockname = getsockname_plain,
	.getpeername = getpeername_plain,
	.fcntl = fcntl_high,
	.ioctl = ioctl_fixed,
	.poll = poll,
	.ppoll = ppoll,
	.pselect = pselect,
	.epoll_create1 = epoll_create1_high,
	.epoll_ctl = epoll_ctl,
	.epoll_wait = epoll_wait,
	.timerfd_create = timerfd_create_high,
	.timerfd_settime = timerfd_settime,
	.eventfd = eventfd_high,
	.pipe2 = pipe2_high,
	.fork = fork,
	.pidfd_open = pidfd_open_high,
	.waitid = waitid,
	.kill = kill,
	.pthread_create = pthread_create,
	.open = open_high,
	.dlopen = dlopen,
	.getcwd = getcwd,
	.lstat = lstat,
	.fstat = fstat,
	.fstatfs = fstatfs,
	.link = link,
	.rename = rename,
	.unlink = unlink,
	.chmod = chmod,
	.fchmod = fchmod,
	.chown = chown,
};
