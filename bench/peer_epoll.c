/* The floor under every echo server on readiness events: accept, read, write, and nothing else.
 *
 * Level-triggered, one shared buffer, no state a connection: the descriptor is all there is. Two
 * system calls a message and a share of one epoll_wait. What a server library adds shows as the
 * difference to this. `--edge` registers edge-triggered instead, which spares the kernel a second
 * look at each ready socket; it is right here because a read that leaves the buffer unfilled has
 * emptied the socket (epoll(7)).
 *
 * Not a server to use: a peer that does not read its answers blocks all others (write_all waits).
 * One thread; owns every descriptor until its peer ends it. */
#include "peer.h"

#include <errno.h>
#include <poll.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define EVENTS_MAX  512   /* events taken from the kernel at a time */
#define BUFFER_SIZE 16384 /* bytes */

static char buffer[BUFFER_SIZE];
static uint32_t trigger;

static void accept_all(int epoll_fd, int listener)
{
	for (int fd; (fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0;) {
		struct epoll_event e = {.events = EPOLLIN | trigger, .data.fd = fd};
		if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &e) < 0)
			(void)close(fd);
	}
}

/* The rare end of a write that the socket did not take whole. */
static bool write_all(int fd, const char *from, size_t left)
{
	while (left > 0) {
		struct pollfd p = {.fd = fd, .events = POLLOUT};
		if (poll(&p, 1, 10000) <= 0)
			return false;
		ssize_t n = send(fd, from, left, MSG_NOSIGNAL);
		if (n < 0 && errno != EAGAIN)
			return false;
		from += n > 0 ? n : 0;
		left -= n > 0 ? (size_t)n : 0;
	}
	return true;
}

static void echo(int fd)
{
	ssize_t n, sent;

	do {
		n = recv(fd, buffer, sizeof buffer, 0);
		if (n <= 0) {
			if (n == 0 || errno != EAGAIN)
				(void)close(fd);
			return;
		}
		sent = send(fd, buffer, (size_t)n, MSG_NOSIGNAL);
		if (sent == n)
			continue;
		sent = sent > 0 ? sent : 0;
		if (!write_all(fd, buffer + sent, (size_t)(n - sent))) {
			(void)close(fd);
			return;
		}
	} while (trigger != 0 && n == (ssize_t)sizeof buffer);
}

int main(int argc, char **argv)
{
	if (argc > 1 && strcmp(argv[1], "--edge") == 0) {
		trigger = EPOLLET;
		argc--, argv++;
	}
	peer_raise_descriptors();
	int listener = peer_listen(argc > 1 ? argv[1] : NULL);
	int epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	struct epoll_event events[EVENTS_MAX], e = {.events = EPOLLIN, .data.fd = listener};
	if (epoll_fd < 0 || epoll_ctl(epoll_fd, EPOLL_CTL_ADD, listener, &e) < 0)
		peer_die("epoll");

	for (;;) {
		int n = epoll_wait(epoll_fd, events, EVENTS_MAX, -1);
		for (int i = 0; i < n; i++) {
			if (events[i].data.fd == listener)
				accept_all(epoll_fd, listener);
			else
				echo(events[i].data.fd);
		}
	}
}
