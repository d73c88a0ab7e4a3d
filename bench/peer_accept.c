/* The floor under every server of one connection a request: accept, write a line, close, and nothing
 * else. Blocking calls, one thread; it owns one connection at a time. */
#include "peer.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	static const char line[] = "Thursday, January 1, 1970 00:00:00-UTC\r\n";
	int listener = peer_listen(argc > 1 ? argv[1] : NULL);

	if (fcntl(listener, F_SETFL, 0) < 0)
		peer_die("fcntl");
	for (;;) {
		int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
		if (fd < 0)
			continue;
		(void)send(fd, line, sizeof line - 1, MSG_NOSIGNAL);
		(void)close(fd);
	}
}
