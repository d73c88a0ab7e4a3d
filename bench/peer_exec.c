/* The floor under every server of one program a connection: accept, vfork, exec, wait, close, and nothing else: no end
 * that can be cut short, no environment, no process group, one program at a time. Beside spawn_floor, which has no
 * socket, it tells what the connection itself costs.
 *
 *   peer_exec PORT PROGRAM
 *
 * Blocking calls, one thread; it owns one connection and one child at a time. */
#include "peer.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	int listener = peer_listen(argc > 2 ? argv[1] : NULL);

	if (argc < 3 || fcntl(listener, F_SETFL, 0) < 0)
		peer_die("peer_exec PORT PROGRAM");
	for (;;) {
		int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
		if (fd < 0)
			continue;
		pid_t pid = vfork();
		if (pid == 0) {
			if (dup2(fd, 0) == 0 && dup2(fd, 1) == 1)
				(void)execv(argv[2], argv + 2);
			_exit(127);
		}
		if (pid > 0)
			(void)waitpid(pid, NULL, 0);
		(void)close(fd);
	}
}
