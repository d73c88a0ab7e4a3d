/* sys.c — the table of system calls, filled with the real ones. See sys.h. */
#include "base/sys.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/pidfd.h>
#include <sys/sendfile.h>
#include <unistd.h>

/* These take a variable argument in C and a fixed one here. */
static int fcntl_fixed(int fd, int command, long arg)
{
	return fcntl(fd, command, arg);
}

static int open_fixed(const char *path, int flags)
{
	return open(path, flags);
}

static int ioctl_fixed(int fd, unsigned long request, void *arg)
{
	return ioctl(fd, request, arg);
}

/* glibc types the address arguments of these as transparent unions under _GNU_SOURCE: no plain function pointer. */
static int connect_plain(int fd, const struct sockaddr *to, socklen_t len)
{
	return connect(fd, to, len);
}

static int bind_plain(int fd, const struct sockaddr *at, socklen_t len)
{
	return bind(fd, at, len);
}

static int accept4_plain(int fd, struct sockaddr *peer, socklen_t *len, int flags)
{
	return accept4(fd, peer, len, flags);
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
	.mprotect = mprotect,
	.madvise = madvise,
	.socket = socket,
	.socketpair = socketpair,
	.connect = connect_plain,
	.bind = bind_plain,
	.listen = listen,
	.accept4 = accept4_plain,
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
	.fcntl = fcntl_fixed,
	.ioctl = ioctl_fixed,
	.poll = poll,
	.ppoll = ppoll,
	.epoll_create1 = epoll_create1,
	.epoll_ctl = epoll_ctl,
	.epoll_wait = epoll_wait,
	.epoll_pwait2 = epoll_pwait2,
	.eventfd = eventfd,
	.pipe2 = pipe2,
	.fork = fork,
	.pidfd_open = pidfd_open,
	.waitid = waitid,
	.kill = kill,
	.pthread_create = pthread_create,
	.open = open_fixed,
	.flock = flock,
	.lstat = lstat,
	.fstat = fstat,
	.fstatfs = fstatfs,
	.unlink = unlink,
	.chmod = chmod,
	.chown = chown,
};
