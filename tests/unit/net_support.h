/* net_support.h — what the tests of addresses, dial and listen share: a child of one's own, with a network of its
 * own.
 *
 * A test that needs its own look-ups, routes, user or environment runs its body in a forked child, where cmocka's
 * asserts cannot be used: CHECK says what failed and ends the child, and run_in_child() fails the test. */
#ifndef NET_SUPPORT_H
#define NET_SUPPORT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "hark.h"

#define SKIPPED 77 /* what a child that cannot run ends with */

#define CHECK(condition) \
	do { \
		if (!(condition)) { \
			(void)fprintf(stderr, "%s:%d: %s does not hold\n", __FILE__, __LINE__, #condition); \
			_exit(1); \
		} \
	} while (0)

#define CHECK_INT(got, wanted) \
	do { \
		long long got_ = (got), wanted_ = (wanted); \
		if (got_ != wanted_) { \
			(void)fprintf(stderr, "%s:%d: %s is %lld, not %lld\n", __FILE__, __LINE__, #got, got_, \
			              wanted_); \
			_exit(1); \
		} \
	} while (0)

#define CHECK_HAS(text, part) \
	do { \
		if (strstr((text), (part)) == NULL) { \
			(void)fprintf(stderr, "%s:%d: \"%s\" is not in \"%s\"\n", __FILE__, __LINE__, (part), (text)); \
			_exit(1); \
		} \
	} while (0)

/* Runs body in a child; the test fails, or is skipped with the child's words, as the child ends. */
static inline void run_in_child(void (*body)(void))
{
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		body();
		_exit(0);
	}
	int status;
	assert_int_equal(waitpid(pid, &status, 0), pid);
	if (WIFEXITED(status) && WEXITSTATUS(status) == SKIPPED)
		skip();
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
}

static inline void run_row_in_child(void **state)
{
	run_in_child((void (*)(void)) * state);
}

/* A row of a table of tests: the body in a child. */
#define IN_CHILD(body) ROW_OF(body, run_row_in_child)
#define ROW_OF(body, runner) \
	{ \
		.name = #body, .test_func = (runner), .initial_state = (void *)(body) \
	}

/* In a child: what cannot be tested here, and why. */
static inline void skip_child(const char *why)
{
	(void)fprintf(stderr, "skipped: %s: %s\n", why, strerror(errno));
	_exit(SKIPPED);
}

/* In a child: a network namespace with a loopback that is up and nothing else, and a mount namespace. */
static inline void enter_own_network(void)
{
	int as_user = geteuid() != 0 ? CLONE_NEWUSER : 0; /* where that is allowed */
	if (unshare(CLONE_NEWNET | CLONE_NEWNS | as_user) < 0)
		skip_child("no namespaces for this user");
	if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		skip_child("mounts cannot be made private");
	struct ifreq lo = {.ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING};
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	CHECK(fd >= 0);
	CHECK(ioctl(fd, SIOCSIFFLAGS, &lo) == 0);
	(void)close(fd);
}

/* In such a child: path has this text. */
static inline void replace_file(const char *path, const char *text)
{
	char made[] = "/tmp/hark-unit-XXXXXX";
	int fd = mkostemp(made, O_CLOEXEC);
	CHECK(fd >= 0);
	CHECK(fchmod(fd, 0644) == 0);
	CHECK(write(fd, text, strlen(text)) == (ssize_t)strlen(text));
	(void)close(fd);
	(void)umount2(path, MNT_DETACH); /* an earlier one: nothing can be mounted on a file that is gone */
	if (mount(made, path, NULL, MS_BIND, NULL) < 0) {
		(void)unlink(made);
		skip_child(path);
	}
	(void)unlink(made);
}

/* How many descriptors this process holds. */
static inline int open_descriptors(void)
{
	int n = 0;
	DIR *d = opendir("/proc/self/fd");
	if (d == NULL)
		return -1;
	while (readdir(d) != NULL)
		n++;
	(void)closedir(d);
	return n;
}

/* A receive with a time-out is interrupted where the process is stopped and continued, though nobody has a handler:
 * signal(7). */
static inline ssize_t receive(int fd, void *buf, size_t cap)
{
	ssize_t n;
	do
		n = recv(fd, buf, cap, 0);
	while (n < 0 && errno == EINTR);
	return n;
}

/* A plain listening socket on a port of the kernel's choice; its endpoint through *at. */
static inline int plain_listener(const char *host, int backlog, struct hark_endpoint *at)
{
	char address[80];
	socklen_t len = sizeof at->addr;
	(void)snprintf(address, sizeof address, strchr(host, ':') != NULL ? "tcp://[%s]:0" : "tcp://%s:0", host);
	if (hark_resolve(address, at, 1, HARK_FOREVER) != 1)
		return -1;
	int fd = socket(at->addr.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || bind(fd, (struct sockaddr *)&at->addr, at->len) < 0 || listen(fd, backlog) < 0)
		return -1;
	return getsockname(fd, (struct sockaddr *)&at->addr, &len) < 0 ? -1 : fd;
}

static inline int port_of(const struct hark_endpoint *e)
{
	return ntohs(((const struct sockaddr_in *)&e->addr)->sin_port); /* at the same place in sockaddr_in6 */
}

static inline int listener_port(const struct hark_listener *l)
{
	struct sockaddr_storage at;
	socklen_t len = sizeof at;
	CHECK_INT(getsockname(hark_listener_fd(l), (struct sockaddr *)&at, &len), 0);
	return ntohs(((struct sockaddr_in *)&at)->sin_port);
}

/* Processor time of this process. */
static inline int64_t cpu_ns(void)
{
	struct timespec t;
	CHECK_INT(clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t), 0);
	return t.tv_sec * HARK_S + t.tv_nsec;
}

#endif
