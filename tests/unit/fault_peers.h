/* fault_peers.h — plain peers for scenarios in which system calls fail: processes of their own with blocking sockets,
 * which do not use the table. */
#ifndef FAULT_PEERS_H
#define FAULT_PEERS_H

#include "fault_driver.h"

#define ANSWER_S 5 /* seconds that a plain peer waits for bytes that must come */

static const char *const engines[] = {"epoll", "uring", "poll"};

static inline void be_patient(int fd, int ms)
{
	struct timeval t = {.tv_sec = ms / 1000, .tv_usec = ms % 1000 * 1000};
	(void)setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof t);
	(void)setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &t, sizeof t);
}

static inline struct sockaddr_in at_port(int port)
{
	return (struct sockaddr_in){.sin_family = AF_INET,
	                            .sin_port = htons((uint16_t)port),
	                            .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
}

/* Forks a peer that answers what comes over *link, in fn, until its end. Once in a scenario. */
static inline pid_t start_peer(void (*fn)(int fd), int *link)
{
	int pair[2];
	HOLD(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) == 0);
	pid_t pid = fork();
	HOLD(pid >= 0);
	if (pid == 0) {
		(void)close(pair[0]);
		hark__sys = real_sys;
		fn(pair[1]);
		_exit(0);
	}
	(void)close(pair[1]);
	*link = pair[0];
	return pid;
}

static inline int port_at(const struct hark_listener *l)
{
	struct sockaddr_in at;
	socklen_t len = sizeof at;
	HOLD(getsockname(hark_listener_fd(l), (struct sockaddr *)&at, &len) == 0);
	return ntohs(at.sin_port);
}

static inline struct hark_listener *listen_plainly(const char *address)
{
	struct hark_listener *l;
	HOLD(hark_listen(address, NULL, &l) == 0);
	return l;
}

static inline int connected_to(const struct hark_listener *l, int type)
{
	struct sockaddr_in at = at_port(port_at(l));
	int fd = socket(AF_INET, type | SOCK_CLOEXEC, 0);
	HOLD(connect(fd, (struct sockaddr *)&at, sizeof at) == 0);
	be_patient(fd, 300);
	return fd;
}

static inline bool have_engine(const char *name)
{
	struct hark__loop *l;
	int r = hark__loop_open(name, 0, &l);
	if (r < 0)
		(void)fprintf(stderr, "skipped in part: engine %s: %s\n", name, hark_strerror(r));
	else
		hark__loop_close(l);
	return r == 0;
}

#define ENGINES (sizeof engines / sizeof *engines)

#endif
