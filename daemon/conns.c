/* conns.c — see conns.h.
 *
 * A row is FREE, LIVE or BUSY. The signal handler takes a LIVE one (BUSY) while it uses its connection, and waits
 * for nothing; conns_closed() waits for it to be LIVE, so that no connection is freed, and its descriptor's number
 * another's, while the handler uses it. Free rows are a list of the worker's own: it alone, on its loop's thread, adds
 * and removes.
 *
 * In the handler: nothing but system calls and atomics (signal-safety(7)). */
#include "conns.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "memory_file.h"
#include "tcp_bytes.h"

enum { FREE = 0, LIVE, BUSY };

static struct {
	struct conns *t; /* NULL: none */
	pid_t worker;
	pid_t process;                       /* this one: getpid(2) is a system call */
	int own;                             /* the row that a forked child serves; -1: this is the worker */
	int32_t next[CONNS_MAX], first_free; /* -1: none */
	/* By row; the handler asks for the descriptor, not who fills the row: see may_linger in the library. */
	struct hark_conn *conn[CONNS_MAX];
	uint64_t serial;
} self = {.own = -1};

/* ---- the supervisor's ------------------------------------------------------------------------ */

int conns_new(struct conns **out, int *fd)
{
	struct conns *t = MAP_FAILED;
	int m = memory_file("connections", sizeof *t);
	if (m < 0)
		return m;
	t = mmap(NULL, sizeof *t, PROT_READ | PROT_WRITE, MAP_SHARED, m, 0);
	if (t == MAP_FAILED || madvise(t, sizeof *t, MADV_DONTFORK) < 0) { /* other workers must not have it */
		int r = -errno;
		conns_free(t != MAP_FAILED ? t : NULL);
		(void)close(m);
		return r;
	}
	*out = t;
	*fd = m;
	return 0;
}

void conns_free(struct conns *t)
{
	if (t != NULL)
		(void)munmap(t, sizeof *t);
}

/* ---- in the handler -------------------------------------------------------------------------- */

static void look_at_bytes(struct conn_row *r, int fd)
{
	int64_t in, out;
	if (!tcp_bytes(fd, &in, &out))
		return;
	in -= atomic_load_explicit(&r->header, memory_order_relaxed);
	atomic_store_explicit(&r->bytes_in, in > 0 ? in : 0, memory_order_relaxed);
	atomic_store_explicit(&r->bytes_out, out, memory_order_relaxed);
}

/* Once: it does not change. */
static void look_at_local(struct conn_row *r, int fd)
{
	socklen_t len = sizeof r->local;
	if (atomic_load_explicit(&r->local_len, memory_order_relaxed) == 0 &&
	    getsockname(fd, (struct sockaddr *)&r->local, &len) == 0)
		atomic_store(&r->local_len, len);
}

/* Reading ends and writing fails, for a program as well; which is asked to end, too: it may do neither. */
static void end_row(struct conn_row *r, int fd)
{
	int32_t program = atomic_load_explicit(&r->program, memory_order_relaxed);
	(void)shutdown(fd, SHUT_RDWR);
	if (program > 0)
		(void)kill(-program, SIGTERM);
}

static void attend_row(struct conn_row *r)
{
	uint32_t live = LIVE;
	if (!atomic_compare_exchange_strong(&r->state, &live, BUSY)) /* it is about to end */
		return;
	if (atomic_load_explicit(&r->open, memory_order_relaxed)) {
		int fd = hark_fd(self.conn[r - self.t->rows]);
		look_at_bytes(r, fd);
		look_at_local(r, fd);
		if (atomic_exchange(&r->end, false))
			end_row(r, fd);
	}
	live = BUSY;
	(void)atomic_compare_exchange_strong(&r->state, &live, LIVE);
}

static void on_asked(int signal)
{
	int saved = errno;
	pid_t process = getpid();
	uint32_t asked = atomic_load(&self.t->asked);
	uint32_t from = self.own >= 0 ? (uint32_t)self.own : 0;
	uint32_t to = self.own >= 0 ? from + 1 : atomic_load(&self.t->high);
	(void)signal;
	for (uint32_t i = from; i < to && i < CONNS_MAX; i++) {
		struct conn_row *r = &self.t->rows[i];
		int32_t owner = atomic_load(&r->owner);
		if (atomic_load(&r->state) == FREE || owner == 0)
			continue;
		if (owner == process) {
			attend_row(r);
			atomic_store(&r->answered, asked);
		} else if (process == self.worker) {
			(void)kill(owner, SIGUSR2); /* its row is left alone, or its handler would find it taken */
		}
	}
	if (process == self.worker)
		atomic_store(&self.t->answered, asked);
	errno = saved;
}

/* ---- the worker's ---------------------------------------------------------------------------- */

int conns_attach(int fd)
{
	struct sigaction asked = {.sa_handler = on_asked, .sa_flags = SA_RESTART};
	void *t = fd >= 0 ? mmap(NULL, sizeof *self.t, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) : MAP_FAILED;
	if (t == MAP_FAILED)
		return fd >= 0 ? -errno : -EBADF;
	self.t = t;
	self.worker = self.process = getpid();
	for (int i = 0; i < CONNS_MAX; i++)
		self.next[i] = i + 1 < CONNS_MAX ? i + 1 : -1;
	return sigaction(SIGUSR2, &asked, NULL) < 0 ? -errno : 0;
}

static void set_peer(struct conn_row *r, struct hark_conn *c)
{
	const struct hark_proxy *p = hark_proxied(c);
	atomic_store_explicit(&r->header, p != NULL ? (int64_t)p->bytes : 0, memory_order_relaxed);
	r->has_peer = hark_peer_endpoint(c, &r->peer) == 0;
	r->has_credentials = r->has_peer && r->peer.addr.ss_family == AF_UNIX &&
	                     hark_peer_credentials(c, &r->credentials) == 0;
}

/* A datagram came with it: no system call. */
static void keep_local(struct conn_row *r, struct hark_conn *c)
{
	struct hark_endpoint e;
	if (hark_local_endpoint(c, &e) < 0)
		return;
	memcpy(&r->local, &e.addr, e.len);
	atomic_store_explicit(&r->local_len, e.len, memory_order_relaxed);
}

int conns_add(struct hark_conn *c, bool forked)
{
	struct hark_conn_stats stats;
	int i = self.first_free;
	if (self.t == NULL)
		return -1;
	if (i < 0) {
		atomic_fetch_add_explicit(&self.t->unlisted, 1, memory_order_relaxed);
		return -1;
	}
	self.first_free = self.next[i];
	self.conn[i] = c;
	struct conn_row *r = &self.t->rows[i];
	hark_conn_stats(c, &stats);
	r->serial = ++self.serial;
	r->opened_ns = stats.opened_ns;
	set_peer(r, c);
	r->type = hark_type(c);
	atomic_store_explicit(&r->local_len, 0, memory_order_relaxed);
	if (r->type == SOCK_DGRAM)
		keep_local(r, c);
	atomic_store_explicit(&r->bytes_in, -1, memory_order_relaxed);
	atomic_store_explicit(&r->bytes_out, -1, memory_order_relaxed);
	atomic_store_explicit(&r->end, false, memory_order_relaxed);
	atomic_store_explicit(&r->program, 0, memory_order_relaxed);
	atomic_store_explicit(&r->open, r->type == SOCK_STREAM, memory_order_relaxed);
	atomic_store_explicit(&r->owner, forked ? 0 : self.worker, memory_order_relaxed);
	if ((uint32_t)i >= atomic_load_explicit(&self.t->high, memory_order_relaxed))
		atomic_store_explicit(&self.t->high, (uint32_t)i + 1, memory_order_relaxed);
	atomic_store_explicit(&r->state, LIVE, memory_order_release); /* last: all of it is there */
	return i;
}

/* Else a child's: it may have been killed, and its row stay BUSY. */
static bool is_own(const struct conn_row *r)
{
	return atomic_load_explicit(&r->owner, memory_order_relaxed) == self.process;
}

static void leave_live(struct conn_row *r, uint32_t state)
{
	for (uint32_t live = LIVE; !atomic_compare_exchange_strong(&r->state, &live, state); live = LIVE)
		(void)sched_yield(); /* the handler, in another thread, is about to be done */
}

void conns_remove(int row)
{
	if (self.t == NULL)
		return;
	if (row < 0) {
		atomic_fetch_sub_explicit(&self.t->unlisted, 1, memory_order_relaxed);
		return;
	}
	struct conn_row *r = &self.t->rows[row];
	if (is_own(r))
		leave_live(r, FREE);
	else
		atomic_store_explicit(&r->state, FREE, memory_order_release);
	self.next[row] = self.first_free;
	self.first_free = row;
}

void conns_opened(int row)
{
	if (self.t == NULL || row < 0)
		return;
	struct conn_row *r = &self.t->rows[row];
	if (atomic_load_explicit(&r->owner, memory_order_relaxed) != 0)
		return;
	self.own = row;
	self.process = getpid();
	atomic_store(&r->owner, self.process);
	if (atomic_load(&r->end)) /* it was asked for before there was anybody to ask */
		attend_row(r);
}

void conns_program(int row, pid_t pid)
{
	if (self.t != NULL && row >= 0)
		atomic_store_explicit(&self.t->rows[row].program, pid, memory_order_relaxed);
}

void conns_peer(int row, struct hark_conn *c)
{
	if (self.t != NULL && row >= 0)
		set_peer(&self.t->rows[row], c);
}

void conns_closed(int row)
{
	if (self.t == NULL || row < 0)
		return;
	struct conn_row *r = &self.t->rows[row];
	if (!is_own(r))
		return;
	leave_live(r, BUSY);
	atomic_store_explicit(&r->open, false, memory_order_relaxed);
	atomic_store_explicit(&r->program, 0, memory_order_relaxed);
	atomic_store_explicit(&r->state, LIVE, memory_order_release);
}
