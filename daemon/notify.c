/* notify.c — telling whoever started us: sd_notify(3) without its library, for it is one datagram; and the pid file.
 *
 * The supervisor's thread. Failures of the notification are nobody's business but the service manager's, which will
 * time out. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "supervisor.h"

bool notify_wanted(void)
{
	const char *path = getenv("NOTIFY_SOCKET");
	return path != NULL && (path[0] == '/' || path[0] == '@');
}

void notify(const char *format, ...)
{
	const char *path = getenv("NOTIFY_SOCKET");
	struct sockaddr_un to = {.sun_family = AF_UNIX};
	char text[512];
	va_list args;
	if (!notify_wanted() || strlen(path) >= sizeof to.sun_path)
		return;
	memcpy(to.sun_path, path, strlen(path));
	if (path[0] == '@')
		to.sun_path[0] = '\0';
	va_start(args, format);
	int n = vsnprintf(text, sizeof text, format, args);
	va_end(args);
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return;
	(void)sendto(fd, text, n < (int)sizeof text ? (size_t)n : sizeof text - 1, MSG_NOSIGNAL | MSG_DONTWAIT,
	             (struct sockaddr *)&to, (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(path)));
	(void)close(fd);
}

static int write_number(const char *path)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
	if (fd < 0)
		return -errno;
	int r = dprintf(fd, "%d\n", (int)getpid()) < 0 ? -errno : 0;
	(void)close(fd);
	return r;
}

/* Written beside and renamed: who reads it sees a whole number, the old or the new one. What is there beside was left
 * by one that had our number, or made by somebody who hopes to own what we write to. */
int pid_file_write(const char *path, struct hark_why *why)
{
	char beside[PATH_MAX];
	int r = snprintf(beside, sizeof beside, "%s.%d", path, (int)getpid()) < (int)sizeof beside ? 0 : -ENAMETOOLONG;
	if (r == 0) {
		(void)unlink(beside);
		r = write_number(beside);
		if (r == 0 && rename(beside, path) < 0)
			r = -errno;
		if (r < 0)
			(void)unlink(beside);
	}
	if (r < 0)
		(void)snprintf(why->text, sizeof why->text, "pid file %s: %s", path, hark_strerror(r));
	return r;
}

void pid_file_remove(const char *path)
{
	char text[24] = "";
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY); /* somebody may have put a FIFO there */
	if (fd < 0)
		return;
	if (read(fd, text, sizeof text - 1) > 0 && strtol(text, NULL, 10) == (long)getpid())
		(void)unlink(path);
	(void)close(fd);
}
