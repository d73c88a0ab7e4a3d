/* client_support.h — a plain client of a served connection: what it says and must hear, by cmocka's asserts. */
#ifndef CLIENT_SUPPORT_H
#define CLIENT_SUPPORT_H

#include "net_support.h"

static inline void client_says(int fd, const char *text)
{
	assert_int_equal(send(fd, text, strlen(text), MSG_NOSIGNAL), (int)strlen(text));
}

static inline void client_hears(int fd, const char *text)
{
	char buf[64];
	size_t got = 0;
	while (got < strlen(text)) {
		ssize_t n = receive(fd, buf + got, strlen(text) - got);
		if (n <= 0)
			fail_msg("heard %zu bytes instead of \"%s\", then %s", got, text,
			         n == 0 ? "the end" : strerror(errno));
		got += (size_t)n;
	}
	assert_memory_equal(buf, text, got);
}

#endif
