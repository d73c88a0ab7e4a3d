/* dial_support.h — what the tests of dialing share: a dial, what became of it, and peers that refuse or drop. */
#ifndef DIAL_SUPPORT_H
#define DIAL_SUPPORT_H

#include "net_support.h"

#include "conn/dial.h"

struct dialed {
	struct hark_conn *conn;
	struct hark_dial_report report;
	struct hark_why why;
	int64_t took_ns;
};

static inline void hang_up(struct dialed *d)
{
	hark__conn_free(d->conn);
	d->conn = NULL;
}

/* An endpoint of 127.0.0.1 on which nothing listens. */
static inline struct hark_endpoint nobody(void)
{
	struct hark_endpoint e;
	int fd = plain_listener("127.0.0.1", 1, &e);
	assert_true(fd >= 0);
	(void)close(fd);
	return e;
}

#define FILLERS 8

/* A listener whose backlog is full: it drops each SYN, as a dead host does. */
struct blackhole {
	struct hark_endpoint at;
	int fd, fillers[FILLERS], n;
};

static inline void blackhole_open(struct blackhole *b)
{
	struct pollfd p = {.events = POLLOUT};
	b->fd = plain_listener("127.0.0.1", 0, &b->at);
	assert_true(b->fd >= 0);
	for (b->n = 0; b->n < FILLERS;) {
		p.fd = b->fillers[b->n++] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
		assert_true(p.fd >= 0);
		if (connect(p.fd, (struct sockaddr *)&b->at.addr, b->at.len) < 0 && poll(&p, 1, 100) == 0)
			return; /* this one hangs, and so will every other */
	}
	fail_msg("the backlog does not fill");
}

static inline void blackhole_close(struct blackhole *b)
{
	for (int i = 0; i < b->n; i++)
		(void)close(b->fillers[i]);
	(void)close(b->fd);
}

#endif
