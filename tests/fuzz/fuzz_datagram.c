/* fuzz_datagram.c — read, readn, readline and peek in any order over datagrams, against a model that is a queue of
 * them: none is joined with the next, cut short, doubled or lost, and one that is too long for a read stays. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "hark.h"

#define QUEUE_MAX 8 /* below net.unix.max_dgram_qlen */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(bool holds)
{
	if (!holds)
		abort();
}

struct message {
	uint8_t bytes[256];
	size_t n, at;
};

static struct message queue[QUEUE_MAX];
static size_t first, count;
static char got[512];

static void send_one(int fd, const uint8_t *from, size_t n)
{
	if (count == QUEUE_MAX)
		return;
	struct message *m = &queue[(first + count++) % QUEUE_MAX];
	memcpy(m->bytes, from, n);
	m->n = n;
	m->at = 0;
	must(send(fd, from, n, MSG_DONTWAIT | MSG_NOSIGNAL) == (ssize_t)n);
}

static void next(void)
{
	first = (first + 1) % QUEUE_MAX;
	count--;
}

/* n bytes of the first one were read; it is over once nothing of it is left. */
static void take(struct message *m, size_t n)
{
	must(memcmp(got, m->bytes + m->at, n) == 0);
	m->at += n;
	if (m->at == m->n)
		next();
}

static void check_read(struct hark_conn *c, size_t cap)
{
	struct message *m = &queue[first];
	ssize_t n = hark_read(c, got, cap);
	if (count == 0) {
		must(n == -ETIMEDOUT);
	} else if (m->n - m->at > cap) {
		must(n == -EMSGSIZE && hark_buffered(c) == m->n - m->at);
	} else {
		must(n == (ssize_t)(m->n - m->at));
		take(m, (size_t)n);
	}
}

static void check_readn(struct hark_conn *c, size_t n)
{
	struct message *m = &queue[first];
	size_t left = count > 0 ? m->n - m->at : 0;
	ssize_t wanted = count == 0 ? -ETIMEDOUT : left >= n ? (ssize_t)n : left > 0 ? -ENODATA : 0;
	must(hark_readn(c, got, n) == wanted);
	if (wanted >= 0)
		take(m, (size_t)wanted);
}

static void check_readline(struct hark_conn *c, size_t cap)
{
	struct message *m = &queue[first];
	size_t left = count > 0 ? m->n - m->at : 0, max = left < cap - 1 ? left : cap - 1;
	const uint8_t *from = m->bytes + m->at, *nl = max > 0 ? memchr(from, '\n', max) : NULL;
	ssize_t wanted = nl != NULL        ? nl - from + 1
	                 : count == 0      ? -ETIMEDOUT
	                 : left >= cap - 1 ? -EMSGSIZE
	                                   : (ssize_t)left;
	must(hark_readline(c, got, cap) == wanted);
	if (wanted >= 0) {
		must(got[wanted] == '\0');
		take(m, (size_t)wanted);
	}
}

static void check_peek(struct hark_conn *c, size_t cap)
{
	struct message *m = &queue[first];
	size_t left = count > 0 ? m->n - m->at : 0;
	ssize_t n = hark_peek(c, got, cap);
	must(count == 0 ? n == -ETIMEDOUT : n == (ssize_t)(left < cap ? left : cap));
	must(n <= 0 || memcmp(got, m->bytes + m->at, (size_t)n) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct hark_conn *c;
	int pair[2];
	must(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, pair) == 0);
	must(hark_conn_from_fd(pair[0], &c) == 0);
	must(hark_type(c) == SOCK_DGRAM);
	hark_idle_timeout(c, 1);
	first = count = 0;
	while (size >= 2) {
		uint8_t what = data[0], much = data[1];
		data += 2;
		size -= 2;
		if (what % 6 < 2) {
			size_t n = much < size ? much : size;
			send_one(pair[1], data, n);
			data += n;
			size -= n;
		} else if (what % 6 == 2) {
			check_read(c, (size_t)much + 1);
		} else if (what % 6 == 3) {
			check_readn(c, (size_t)much + 1);
		} else if (what % 6 == 4) {
			check_readline(c, (size_t)much + 2);
		} else {
			check_peek(c, (size_t)much + 1);
		}
	}
	while (count > 0)
		check_read(c, sizeof got);
	must(hark_close(c) == 0);
	(void)close(pair[1]);
	return 0;
}
