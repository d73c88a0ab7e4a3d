/* fuzz_line.c — readline, readn, read and peek in any order over a stream that arrives in any pieces, against a model
 * that is the bytes themselves: nothing is lost, doubled or out of order, and each call says what hark.h says it does.
 *
 * The input is a program: the first byte chooses a thread or a loop; then each operation is a byte that says what, and
 * one that says how much. The peer is the other end of a socketpair, so all that was sent has arrived; a wait ends at
 * once, by the shortest idle time-out. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "hark.h"
#include "loop/fiber.h"

#define SENT_MAX (96u << 10) /* bytes unread at once: below any socket's buffer */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(bool holds)
{
	if (!holds)
		abort();
}

struct model {
	struct hark_conn *c;
	int peer;
	bool ended;
	char sent[SENT_MAX]; /* all of it, and */
	size_t n, at;        /* how much was read */
	char got[SENT_MAX + 1];
};

static size_t left(const struct model *m)
{
	return m->n - m->at;
}

static void send_bytes(struct model *m, const uint8_t *from, size_t n)
{
	if (m->ended || n == 0 || n > SENT_MAX - m->n)
		return;
	memcpy(m->sent + m->n, from, n);
	must(send(m->peer, from, n, MSG_DONTWAIT | MSG_NOSIGNAL) == (ssize_t)n);
	m->n += n;
}

/* n bytes in which a newline is rare, so that buffers are crossed. */
static void send_many(struct model *m, size_t n, uint8_t seed)
{
	static uint8_t many[64 << 10];
	for (size_t i = 0; i < n; i++)
		many[i] = (uint8_t)(i % 3001 == seed ? '\n' : 'a' + (i + seed) % 26);
	send_bytes(m, many, n);
}

static void end(struct model *m)
{
	if (!m->ended)
		must(shutdown(m->peer, SHUT_WR) == 0);
	m->ended = true;
}

/* What a call returns that finds nothing to do its work with. */
static ssize_t nothing(const struct model *m)
{
	return m->ended ? 0 : -ETIMEDOUT;
}

static void take(struct model *m, size_t n)
{
	must(memcmp(m->got, m->sent + m->at, n) == 0);
	m->at += n;
}

static void check_readline(struct model *m, size_t cap)
{
	size_t max = cap - 1 < left(m) ? cap - 1 : left(m);
	const char *from = m->sent + m->at, *nl = memchr(from, '\n', max);
	ssize_t wanted = left(m) >= cap - 1 ? -EMSGSIZE : m->ended ? (ssize_t)left(m) : -ETIMEDOUT;
	if (nl != NULL)
		wanted = nl - from + 1;
	must(hark_readline(m->c, m->got, cap) == wanted);
	if (wanted >= 0) {
		must(m->got[wanted] == '\0');
		take(m, (size_t)wanted);
	}
}

static void check_readn(struct model *m, size_t n)
{
	ssize_t wanted = left(m) >= n ? (ssize_t)n : left(m) > 0 && m->ended ? -ENODATA : nothing(m);
	must(hark_readn(m->c, m->got, n) == wanted);
	if (wanted > 0)
		take(m, n);
}

static void check_read(struct model *m, size_t cap, bool only_peek)
{
	ssize_t n = only_peek ? hark_peek(m->c, m->got, cap) : hark_read(m->c, m->got, cap);
	if (left(m) == 0) {
		must(n == nothing(m));
		return;
	}
	must(n > 0 && (size_t)n <= cap && (size_t)n <= left(m));
	take(m, (size_t)n);
	if (only_peek)
		m->at -= (size_t)n;
}

static void step(struct model *m, uint8_t what, uint8_t much, const uint8_t **data, size_t *size)
{
	size_t n = much;
	switch (what % 9) {
	case 0:
	case 1:
		n = n < *size ? n : *size;
		send_bytes(m, *data, n);
		*data += n;
		*size -= n;
		break;
	case 2: send_many(m, n * 128 + 1, what); break;
	case 3: check_readline(m, n + 2); break;
	case 4: check_readline(m, n * 256 + 2); break;
	case 5: check_readn(m, what & 64 ? n * 256 + 1 : n + 1); break;
	case 6: check_read(m, what & 64 ? n * 64 + 1 : n + 1, false); break;
	case 7: check_read(m, n + 1, true); break;
	case 8:
		if (much % 4 == 0)
			end(m);
		break;
	}
	must(hark_buffered(m->c) <= left(m));
}

static void run(struct model *m, const uint8_t *data, size_t size)
{
	int pair[2];
	must(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0);
	must(setsockopt(pair[1], SOL_SOCKET, SO_SNDBUF, &(int){1 << 20}, sizeof(int)) == 0);
	must(hark_conn_from_fd(pair[0], &m->c) == 0);
	m->peer = pair[1];
	m->n = m->at = 0;
	m->ended = false;
	hark_idle_timeout(m->c, 1);
	while (size >= 2) {
		uint8_t what = data[0], much = data[1];
		data += 2;
		size -= 2;
		step(m, what, much, &data, &size);
	}
	end(m);
	while (left(m) > 0)
		check_read(m, SENT_MAX, false);
	must(hark_read(m->c, m->got, 1) == 0);
	must(hark_close(m->c) == 0);
	(void)close(m->peer);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct model m;
	static const char *const engines[] = {NULL, "epoll", "poll"};
	static struct hark__loop *loops[3];
	if (size == 0)
		return 0;
	unsigned which = data[0] % 3;
	if (which > 0 && loops[which] == NULL)
		must(hark__loop_open(engines[which], 0, &loops[which]) == 0);
	else
		hark__loop_resume(loops[which]);
	run(&m, data + 1, size - 1);
	(void)hark__loop_suspend();
	return 0;
}
