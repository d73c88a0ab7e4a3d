/* datagram_support.h — plain peers of the datagram tests. */
#ifndef DATAGRAM_SUPPORT_H
#define DATAGRAM_SUPPORT_H

#include "modes.h"

static inline int peer_to(const char *host, int port)
{
	struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
	struct timeval t = {.tv_sec = 5 * SLOWER};
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	CHECK(fd >= 0);
	CHECK_INT(inet_pton(AF_INET, host, &to.sin_addr), 1);
	CHECK_INT(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof t), 0);
	CHECK_INT(connect(fd, (struct sockaddr *)&to, sizeof to), 0); /* so only that address's answers are heard */
	return fd;
}

static inline void peer_says(int fd, const char *text)
{
	CHECK_INT(send(fd, text, strlen(text), 0), (long long)strlen(text));
}

static inline void peer_hears(int fd, const char *text)
{
	char buf[100];
	ssize_t n = receive(fd, buf, sizeof buf - 1);
	CHECK(n >= 0);
	buf[n] = '\0';
	CHECK_HAS(buf, text);
	CHECK_INT(n, (long long)strlen(text));
}

#endif
