/* The back end of bulk through a relay: takes as many bytes as it is told, and answers with one, or sends as many; then
 * waits for the end. What it takes is dropped in the kernel (MSG_TRUNC, tcp(7)), and what it sends is one warm buffer:
 * it runs on the client's core, and must cost little. One connection at a time. */
#include "peer_bulk.h"
#include "peer.h"

#include <fcntl.h>
#include <stdbool.h>
#include <sys/socket.h>
#include <unistd.h>

#define CHUNK (256u << 10) /* bytes */

static char chunk[CHUNK];

static bool take(int fd, uint64_t left)
{
	while (left > 0) {
		ssize_t n = recv(fd, NULL, left < CHUNK * 4 ? left : CHUNK * 4, MSG_TRUNC);
		if (n <= 0)
			return false;
		left -= (uint64_t)n;
	}
	return send(fd, chunk, 1, MSG_NOSIGNAL) == 1;
}

static bool give(int fd, uint64_t left)
{
	while (left > 0) {
		ssize_t n = send(fd, chunk, left < CHUNK ? left : CHUNK, MSG_NOSIGNAL);
		if (n <= 0)
			return false;
		left -= (uint64_t)n;
	}
	return true;
}

int main(int argc, char **argv)
{
	int listener = peer_listen(argc > 1 ? argv[1] : NULL);

	if (fcntl(listener, F_SETFL, 0) < 0)
		peer_die("fcntl");
	for (;;) {
		struct bulk_head head;
		int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
		if (fd < 0)
			continue;
		if (recv(fd, &head, sizeof head, MSG_WAITALL) == (ssize_t)sizeof head &&
		    (head.peer_sends ? give(fd, head.bytes) : take(fd, head.bytes)))
			(void)recv(fd, chunk, 1, 0);
		(void)close(fd);
	}
}
