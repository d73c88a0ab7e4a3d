/* sys.h — every system call and allocation that libhark makes, in one table.
 *
 * lib/ calls hark__sys.recv(...), never recv(...): a test replaces an entry by one that fails at its Nth use, and so
 * proves each error path. The table is filled at build time and written by tests alone, before threads start.
 * Entries keep the C library's contract: -1 and errno; callers turn that into -errno. */
#ifndef HARK__SYS_H
#define HARK__SYS_H

#include <poll.h>
#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <sys/wait.h>

/* The sanitizer that this is built with. */
#if defined(__SANITIZE_ADDRESS__)
#define HARK__ASAN 1
#elif defined(__SANITIZE_THREAD__)
#define HARK__TSAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define HARK__ASAN 1
#elif __has_feature(thread_sanitizer)
#define HARK__TSAN 1
#endif
#endif

/* clang-format off: a table, a call a row */
/* X(return type, name, parameters, the parameters' names: what a wrapper passes on) */
#define HARK__SYS_CALLS(X) \
	X(void *, malloc, (size_t n), (n)) \
	X(void *, calloc, (size_t count, size_t n), (count, n)) \
	X(void *, aligned_alloc, (size_t alignment, size_t n), (alignment, n)) \
	X(void *, realloc, (void *old, size_t n), (old, n)) \
	X(void *, mmap, (void *at, size_t n, int prot, int flags, int fd, off_t offset), \
	  (at, n, prot, flags, fd, offset)) \
	X(int, munmap, (void *at, size_t n), (at, n)) \
	X(void *, mremap_to, (void *from, size_t n, void *to), (from, n, to)) \
	X(int, mprotect, (void *at, size_t n, int prot), (at, n, prot)) \
	X(int, madvise, (void *at, size_t n, int advice), (at, n, advice)) \
	X(int, getrlimit, (int resource, struct rlimit *limit), (resource, limit)) \
	X(int, socket, (int domain, int type, int protocol), (domain, type, protocol)) \
	X(int, socketpair, (int domain, int type, int protocol, int fds[2]), (domain, type, protocol, fds)) \
	X(int, connect, (int fd, const struct sockaddr *to, socklen_t len), (fd, to, len)) \
	X(int, bind, (int fd, const struct sockaddr *at, socklen_t len), (fd, at, len)) \
	X(int, listen, (int fd, int backlog), (fd, backlog)) \
	X(int, accept4, (int fd, struct sockaddr *peer, socklen_t *len, int flags), (fd, peer, len, flags)) \
	X(ssize_t, recv, (int fd, void *buf, size_t n, int flags), (fd, buf, n, flags)) \
	X(ssize_t, recvmsg, (int fd, struct msghdr *m, int flags), (fd, m, flags)) \
	X(int, recvmmsg, (int fd, struct mmsghdr *m, unsigned n, int flags, struct timespec *timeout), \
	  (fd, m, n, flags, timeout)) \
	X(ssize_t, send, (int fd, const void *buf, size_t n, int flags), (fd, buf, n, flags)) \
	X(ssize_t, sendmsg, (int fd, const struct msghdr *m, int flags), (fd, m, flags)) \
	X(int, sendmmsg, (int fd, struct mmsghdr *m, unsigned n, int flags), (fd, m, n, flags)) \
	X(ssize_t, read, (int fd, void *buf, size_t n), (fd, buf, n)) \
	X(ssize_t, write, (int fd, const void *buf, size_t n), (fd, buf, n)) \
	X(ssize_t, pread, (int fd, void *buf, size_t n, off_t offset), (fd, buf, n, offset)) \
	X(ssize_t, writev, (int fd, const struct iovec *iov, int n), (fd, iov, n)) \
	X(ssize_t, preadv2, (int fd, const struct iovec *iov, int n, off_t offset, int flags), \
	  (fd, iov, n, offset, flags)) \
	X(ssize_t, pwritev2, (int fd, const struct iovec *iov, int n, off_t offset, int flags), \
	  (fd, iov, n, offset, flags)) \
	X(ssize_t, splice, (int in, off_t *in_at, int out, off_t *out_at, size_t n, unsigned flags), \
	  (in, in_at, out, out_at, n, flags)) \
	X(ssize_t, sendfile, (int out, int in, off_t *at, size_t n), (out, in, at, n)) \
	X(int, shutdown, (int fd, int how), (fd, how)) \
	X(int, close, (int fd), (fd)) \
	X(int, dup3, (int from, int to, int flags), (from, to, flags)) \
	X(int, getsockopt, (int fd, int level, int name, void *value, socklen_t *len), (fd, level, name, value, len)) \
	X(int, setsockopt, (int fd, int level, int name, const void *value, socklen_t len), \
	  (fd, level, name, value, len)) \
	X(int, getsockname, (int fd, struct sockaddr *at, socklen_t *len), (fd, at, len)) \
	X(int, getpeername, (int fd, struct sockaddr *at, socklen_t *len), (fd, at, len)) \
	X(int, fcntl, (int fd, int command, long arg), (fd, command, arg)) \
	X(int, ioctl, (int fd, unsigned long request, void *arg), (fd, request, arg)) \
	X(int, poll, (struct pollfd * p, nfds_t n, int timeout_ms), (p, n, timeout_ms)) \
	X(int, ppoll, (struct pollfd * p, nfds_t n, const struct timespec *timeout, const sigset_t *mask), \
	  (p, n, timeout, mask)) \
	X(int, pselect, \
	  (int n, fd_set *in, fd_set *out, fd_set *except, const struct timespec *timeout, const sigset_t *mask), \
	  (n, in, out, except, timeout, mask)) \
	X(int, epoll_create1, (int flags), (flags)) \
	X(int, epoll_ctl, (int epfd, int op, int fd, struct epoll_event *event), (epfd, op, fd, event)) \
	X(int, epoll_wait, (int epfd, struct epoll_event *events, int n, int timeout_ms), \
	  (epfd, events, n, timeout_ms)) \
	X(int, timerfd_create, (int clock, int flags), (clock, flags)) \
	X(int, timerfd_settime, (int fd, int flags, const struct itimerspec *value, struct itimerspec *old), \
	  (fd, flags, value, old)) \
	X(int, eventfd, (unsigned value, int flags), (value, flags)) \
	X(int, pipe2, (int fds[2], int flags), (fds, flags)) \
	X(pid_t, fork, (void), ()) \
	X(int, pidfd_open, (pid_t pid, unsigned flags), (pid, flags)) \
	X(int, waitid, (idtype_t type, id_t id, siginfo_t * info, int options), (type, id, info, options)) \
	X(int, kill, (pid_t pid, int signal), (pid, signal)) \
	X(int, pthread_create, (pthread_t * t, const pthread_attr_t *a, void *(*fn)(void *), void *arg), \
	  (t, a, fn, arg)) \
	X(int, open, (const char *path, int flags), (path, flags)) \
	X(void *, dlopen, (const char *file, int flags), (file, flags)) \
	X(char *, getcwd, (char *buf, size_t n), (buf, n)) \
	X(int, lstat, (const char *path, struct stat *st), (path, st)) \
	X(int, fstat, (int fd, struct stat *st), (fd, st)) \
	X(int, fstatfs, (int fd, struct statfs *fs), (fd, fs)) \
	X(int, link, (const char *from, const char *to), (from, to)) \
	X(int, rename, (const char *from, const char *to), (from, to)) \
	X(int, unlink, (const char *path), (path)) \
	X(int, chmod, (const char *path, mode_t mode), (path, mode)) \
	X(int, fchmod, (int fd, mode_t mode), (fd, mode)) \
	X(int, chown, (const char *path, uid_t uid, gid_t gid), (path, uid, gid))

#define HARK__SYS_MEMBER(type, name, params, args) type(*name) params;
struct hark__sys {
	HARK__SYS_CALLS(HARK__SYS_MEMBER)
};
/* clang-format on */
#undef HARK__SYS_MEMBER

extern struct hark__sys hark__sys;

/* What every descriptor made here passes through: 0, 1 and 2 are moved up. fd, another one (close-on-exec), or -1. */
int hark__sys_high(int fd);

#endif
