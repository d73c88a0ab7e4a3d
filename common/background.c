/* background.c — see background.h. */
#include "background.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

static _Noreturn void await(pid_t child, int ready)
{
	int status = 0;
	char byte;
	ssize_t n;

	while ((n = read(ready, &byte, 1)) < 0 && errno == EINTR)
		;
	if (n == 1)
		_exit(0);
	while (waitpid(child, &status, 0) < 0 && errno == EINTR)
		;
	_exit(WIFEXITED(status) ? WEXITSTATUS(status) : 1);
}

int background_begin(void)
{
	int ready[2];

	(void)signal(SIGCHLD, SIG_DFL); /* ignored, as some leave it, it would lose us how the child ended */
	if (pipe2(ready, O_CLOEXEC) < 0)
		return -errno;
	pid_t pid = fork();
	if (pid < 0) {
		int err = -errno;
		(void)close(ready[0]);
		(void)close(ready[1]);
		return err;
	}
	(void)close(ready[pid == 0 ? 0 : 1]);
	if (pid > 0)
		await(pid, ready[0]);
	(void)setsid();
	return ready[1];
}
