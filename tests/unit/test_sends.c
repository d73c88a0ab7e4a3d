/* test_sends.c — what was written reaches a peer that reads late, or never does, whichever way it went to the kernel:
 * the io_uring engine takes short answers along in a system call of its own, and must not lose, double or overtake a
 * byte of them.
 *
 * The peers are plain sockets with tiny buffers, so that a few answers fill them. */
#include "modes.h"

#include <limits.h>
#include <linux/sockios.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <time.h>

#include "conn/conn.h"

#define TINY  2048           /* bytes asked for as a socket's buffer */
#define SHORT 1500           /* bytes of an answer: the engine has room for it */
#define CALM  (60 * HARK_MS) /* longer than an acknowledgement is delayed */
#define SOON  (10 * HARK_S)  /* bounds what must not hang */
#define SLOTS 64             /* of engine_uring.c */

#define UNTIL(condition) \
	do { \
		int64_t end_ = hark_after(SOON); \
		while (!(condition)) { \
			CHECK(hark_now() < end_); \
			CHECK_INT(hark_sleep(HARK_MS), 0); \
		} \
	} while (0)

/* ---- who answers, and who asks and does not read ------------------------------------------------- */

struct box {
	struct hark_conn *c;
	int peer;     /* the other end, a plain descriptor */
	size_t len;   /* of an answer */
	size_t at;    /* bytes written */
	size_t taken; /* bytes that the peer has read */
	int asked, answered;
	ssize_t end; /* what the last read said */
};

static struct box box_new(int buffers)
{
	int fds[2];
	raw_tcp_sized(fds, buffers);
	return (struct box){.c = conn_of(fds[1]), .peer = fds[0], .len = SHORT, .end = 1};
}

static void box_drop(struct box *b)
{
	hark_abort(b->c);
	(void)close(b->peer);
}

static ssize_t put(struct box *b, size_t n)
{
	char *bytes = malloc(n);
	CHECK(bytes != NULL);
	pattern_fill(bytes, b->at, n);
	b->at += n;
	ssize_t r = hark_write(b->c, bytes, n);
	free(bytes);
	return r;
}

/* An answer for each byte that comes, until 'q'. */
static void serve(void *arg)
{
	struct box *b = arg;
	char byte;
	while ((b->end = hark_read(b->c, &byte, 1)) > 0 && byte != 'q') {
		CHECK_INT(put(b, b->len), b->len);
		b->answered++;
	}
}

static size_t counted(const struct box *b)
{
	struct hark_conn_stats stats;
	hark_conn_stats(b->c, &stats);
	return stats.bytes_out;
}

/* Whether some of what was written did not leave yet. */
static bool is_left(const struct box *b)
{
	return b->c->src.sending || hark__buffer_len(&b->c->out) > 0;
}

static void ask(struct box *b)
{
	CHECK_INT(send(b->peer, "x", 1, 0), 1);
	b->asked++;
	UNTIL(b->answered == b->asked && atomic_load(&b->c->waiting_in));
	CHECK_INT(hark_sleep(HARK_MS), 0);
}

/* Until no more answers leave: one is blocked. */
static void fill(struct box *b)
{
	for (int i = 0; i < 200; i++) {
		ask(b);
		if (!is_left(b))
			continue;
		CHECK_INT(hark_sleep(CALM), 0);
		if (is_left(b)) { /* and some more behind it: what the kernel still makes room for does not suffice */
			for (int k = 0; k < 3; k++)
				ask(b);
			CHECK(is_left(b));
			return;
		}
	}
	CHECK(!"the buffers fill");
}

/* The peer reads what is there, at most max bytes: how many; 0: nothing; -1: the end; -errno. */
static ssize_t take_some(struct box *b, size_t max)
{
	char buf[4096];
	ssize_t n = recv(b->peer, buf, max < sizeof buf ? max : sizeof buf, MSG_DONTWAIT);
	if (n < 0)
		return errno == EAGAIN ? 0 : -errno;
	CHECK(pattern_is(buf, b->taken, (size_t)n));
	b->taken += (size_t)n;
	return n == 0 ? -1 : n;
}

/* The peer reads until it has n bytes in all. */
static void take(struct box *b, size_t n)
{
	while (b->taken < n) {
		ssize_t r = take_some(b, n - b->taken);
		CHECK(r >= 0);
		if (r == 0)
			CHECK(hark_wait_fd(b->peer, HARK_IN, hark_after(SOON)) > 0);
	}
}

/* The peer reads all, and then the end. */
static void take_to_the_end(struct box *b)
{
	ssize_t r;
	take(b, b->at);
	while ((r = take_some(b, 1)) == 0)
		CHECK(hark_wait_fd(b->peer, HARK_IN, hark_after(SOON)) > 0);
	CHECK_INT(r, -1);
}

/* ---- order ----------------------------------------------------------------------------------- */

#define FILE_BYTES ((size_t)4 << 20)

struct mixer {
	struct box box;
	struct pair through; /* what is passed on comes this way */
	int file;
	atomic_int done;
};

static void mixed_answer(struct mixer *m, char what)
{
	struct box *b = &m->box;
	char bytes[3000];
	size_t n = b->at % 2900 + 1;
	switch (what) {
	case 'l': CHECK_INT(put(b, 16384 + n), 16384 + n); break;
	case 'f':
		CHECK_INT(put(b, n), n);
		CHECK_INT(hark_flush(b->c), 0);
		break;
	case 's':
		CHECK(b->at + n <= FILE_BYTES);
		CHECK_INT(hark_sendfile(b->c, m->file, (off_t)b->at, n), n);
		b->at += n;
		break;
	case 'p':
		pattern_fill(bytes, b->at, n);
		CHECK_INT(write(hark_fd(m->through.a), bytes, n), n);
		for (size_t end = b->at + n; b->at < end;) {
			ssize_t r = hark_pass(m->through.b, b->c);
			CHECK(r > 0);
			b->at += (size_t)r;
		}
		break;
	default: n = n % 1900 + 1; CHECK_INT(put(b, n), n);
	}
}

static void mix(void *arg)
{
	struct mixer *m = arg;
	char what;
	while (hark_read(m->box.c, &what, 1) > 0) {
		mixed_answer(m, what);
		atomic_fetch_add(&m->done, 1);
	}
	CHECK_INT(hark_shutdown(m->box.c, HARK_OUT), 0);
}

static int pattern_file(void)
{
	char name[] = "/tmp/hark-sends-XXXXXX";
	char *all = malloc(FILE_BYTES);
	int fd = mkostemp(name, O_CLOEXEC);
	CHECK(fd >= 0 && all != NULL);
	(void)unlink(name);
	pattern_fill(all, 0, FILE_BYTES);
	CHECK_INT(write(fd, all, FILE_BYTES), FILE_BYTES);
	free(all);
	return fd;
}

static void order_with(unsigned seed)
{
	static const char kinds[] = "wwwwwwwwwwwwwwwwlfsp";
	struct mixer m = {.box = box_new(TINY), .through = unix_pair(), .file = pattern_file()};
	struct beside beside;
	beside_start(&beside, mix, &m);
	for (int i = 0; i < 150;) {
		int dice = rand_r(&seed) % 8;
		if (dice < 5) { /* asks, and mostly lets it answer: each in a turn of its own */
			CHECK_INT(send(m.box.peer, &kinds[(size_t)rand_r(&seed) % (sizeof kinds - 1)], 1, 0), 1);
			i++;
		}
		if (dice < 4)
			for (int k = 0; k < 8 && atomic_load(&m.done) < i; k++)
				CHECK_INT(hark_sleep(HARK_MS / 4), 0);
		if (dice == 7)
			for (int k = rand_r(&seed) % 12; k > 0; k--)
				CHECK(take_some(&m.box, 700) >= 0);
	}
	CHECK_INT(shutdown(m.box.peer, SHUT_WR), 0);
	ssize_t r;
	while ((r = take_some(&m.box, 4096)) >= 0)
		if (r == 0)
			CHECK(hark_wait_fd(m.box.peer, HARK_IN, hark_after(SOON)) > 0);
	CHECK_INT(r, -1);
	beside_end(&beside);
	CHECK_INT(m.box.taken, m.box.at);
	struct hark_conn_stats stats;
	hark_conn_stats(m.box.c, &stats);
	CHECK_INT(stats.bytes_out, m.box.at);
	pair_drop(&m.through);
	(void)close(m.file);
	box_drop(&m.box);
}

static void order_body(void)
{
	for (unsigned seed = 1; seed <= 6; seed++)
		order_with(seed);
}

static void every_way_of_writing_keeps_its_place_behind_a_blocked_answer(void **state)
{
	(void)state;
	everywhere(order_body);
}

/* A writer comes in the very turn in which the reader has handed over an answer and begun to wait: the engine was not
 * asked since. */
struct two {
	struct box box;
	size_t len; /* of what the writer writes behind the answer */
	bool answered, done;
};

static void answer_first(void *arg)
{
	struct two *t = arg;
	char byte;
	while (hark_read(t->box.c, &byte, 1) > 0) {
		CHECK_INT(put(&t->box, SHORT), SHORT);
		t->answered = true;
	}
}

static void write_behind(void *arg)
{
	struct two *t = arg;
	while (!t->answered)
		CHECK_INT(hark_yield(), 0);
	CHECK_INT(put(&t->box, t->len), t->len);
	t->done = true;
}

static void behind_body(void)
{
	static const size_t lens[] = {20000, 15000, 16384};
	struct two t = {.box = box_new(TINY)};
	struct hark_scope scope;
	hark_scope_open(&scope);
	CHECK_INT(hark_go(&scope, "reader", answer_first, &t), 0);
	for (int i = 0; i < 130; i++) {
		struct beside beside;
		t.answered = t.done = false;
		/* Which of them finds no room varies. */
		t.len = i % 13 == 12 ? lens[i % 3] : (size_t)(i * 397) % 700 + 1;
		CHECK_INT(hark_sleep(HARK_MS), 0); /* the reader waits */
		CHECK_INT(send(t.box.peer, "x", 1, 0), 1);
		beside_start(&beside, write_behind, &t);
		for (int k = 0; k < 2 && !t.done;
		     k++) /* nobody reads at first: they fill the buffers, one or the other */
			CHECK_INT(hark_sleep(HARK_MS), 0);
		while (!t.done)
			if (take_some(&t.box, 1 + t.box.taken % 4000) == 0)
				CHECK_INT(hark_sleep(HARK_MS / 4), 0);
		beside_end(&beside);
		if (i % 5 == 4)
			take(&t.box, t.box.at); /* the next answer finds room */
	}
	CHECK_INT(shutdown(t.box.peer, SHUT_WR), 0);
	CHECK_INT(hark_join(&scope, hark_after(SOON)), 0);
	hark_scope_close(&scope);
	take(&t.box, t.box.at);
	CHECK_INT(counted(&t.box), t.box.at);
	box_drop(&t.box);
}

static void a_writer_beside_does_not_overtake_what_the_reader_handed_over(void **state)
{
	(void)state;
	on_engines(behind_body);
}

static int64_t cpu_time(void)
{
	struct timespec t;
	CHECK_INT(clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t), 0);
	return t.tv_sec * HARK_S + t.tv_nsec;
}

static void rest_body(void)
{
	struct beside beside;
	struct box b = box_new(TINY);
	b.len = 300; /* what is left is short enough to be handed over again, in vain */
	beside_start(&beside, serve, &b);
	while (!is_left(&b))
		ask(&b);
	int64_t before = cpu_time();
	CHECK_INT(hark_sleep(200 * HARK_MS), 0);
	CHECK(cpu_time() - before < 50 * HARK_MS);
	CHECK_INT(shutdown(b.peer, SHUT_WR), 0);
	beside_end(&beside);
	box_drop(&b);
}

static void a_peer_that_does_not_read_costs_no_time(void **state)
{
	(void)state;
	on_engines(rest_body);
}

/* ---- more of them than the engine has room for ------------------------------------------------ */

#define CROWD  300
#define ROUNDS 10

static struct box boxes[CROWD];

static void have_descriptors(void)
{
	struct rlimit limit;
	CHECK_INT(getrlimit(RLIMIT_NOFILE, &limit), 0);
	limit.rlim_cur = limit.rlim_max;
	CHECK_INT(setrlimit(RLIMIT_NOFILE, &limit), 0);
}

static void crowd_body(void)
{
	struct hark_scope scope;
	have_descriptors();
	hark_scope_open(&scope);
	for (int i = 0; i < CROWD; i++) {
		boxes[i] = box_new(TINY);
		CHECK_INT(hark_go(&scope, "box", serve, &boxes[i]), 0);
	}
	for (int round = 0; round < ROUNDS; round++) {
		for (int i = 0; i < CROWD; i++)
			CHECK_INT(send(boxes[i].peer, "x", 1, 0), 1);
		for (int i = 0; i < CROWD; i++)
			UNTIL(boxes[i].answered == round + 1);
	}
	CHECK_INT(hark_sleep(CALM), 0);
	int left = 0;
	for (int i = 0; i < CROWD; i++)
		left += is_left(&boxes[i]);
	CHECK(left > SLOTS);
	struct box other = box_new(0);
	CHECK_INT(hark_go(&scope, "other", serve, &other), 0);
	for (size_t i = 1; i <= 5; i++) {
		CHECK_INT(send(other.peer, "x", 1, 0), 1);
		take(&other, i * SHORT);
	}
	for (int i = 0; i < CROWD; i++)
		take(&boxes[i], (size_t)ROUNDS * SHORT);
	for (int i = 0; i < CROWD; i++)
		CHECK(!is_left(&boxes[i]) && boxes[i].at == boxes[i].taken);
	hark_scope_close(&scope);
	for (int i = 0; i < CROWD; i++)
		box_drop(&boxes[i]);
	box_drop(&other);
}

static void more_blocked_peers_than_slots_hinder_nobody(void **state)
{
	(void)state;
	on_engines(crowd_body);
}

static int64_t moment;
static int most; /* that were being sent at once */

static void answer_at_that_moment(void *arg)
{
	struct box *b = arg;
	char byte;
	CHECK_INT(hark_read(b->c, &byte, 1), 1);
	b->answered++;
	CHECK_INT(hark__park(moment, "moment"), -ETIMEDOUT);
	int sending = 0;
	for (int i = 0; i < CROWD; i++)
		sending += boxes[i].c->src.sending;
	most = sending > most ? sending : most;
	CHECK_INT(put(b, SHORT), SHORT);
	CHECK_INT(hark_read(b->c, &byte, 1), 0);
}

static void one_turn_body(void)
{
	struct hark_scope scope;
	have_descriptors();
	most = 0;
	for (int i = 0; i < CROWD; i++)
		boxes[i] = box_new(0);
	hark_scope_open(&scope);
	for (int i = 0; i < CROWD; i++)
		CHECK_INT(hark_go(&scope, "box", answer_at_that_moment, &boxes[i]), 0);
	CHECK_INT(hark_sleep(HARK_MS), 0); /* all wait to read: the engine knows them */
	moment = hark_after(200 * HARK_MS * SLOWER);
	for (int i = 0; i < CROWD; i++)
		CHECK_INT(send(boxes[i].peer, "x", 1, 0), 1);
	for (int i = 0; i < CROWD; i++)
		UNTIL(boxes[i].answered == 1);
	bool together = hark_now() < moment; /* else some were late: a busy machine */
	for (int i = 0; i < CROWD; i++) {
		take(&boxes[i], SHORT);
		CHECK_INT(shutdown(boxes[i].peer, SHUT_WR), 0);
	}
	CHECK_INT(hark_join(&scope, hark_after(SOON)), 0);
	hark_scope_close(&scope);
	if (together)
		CHECK_INT(most, strcmp(mode_engine, "uring") == 0 ? SLOTS : 0);
	for (int i = 0; i < CROWD; i++)
		box_drop(&boxes[i]);
}

static void more_answers_in_one_turn_than_slots_all_leave(void **state)
{
	(void)state;
	on_engines(one_turn_body);
}

/* Enough come and go that the ring's entries were all used; then more speak at once than a look at the ring takes. */
#define PASSERS  3500
#define SPEAKERS 90

static void churn_body(void)
{
	struct hark_scope scope;
	for (int i = 0; i < PASSERS; i++) {
		struct beside beside;
		struct box b = box_new(0);
		beside_start(&beside, serve, &b);
		CHECK_INT(send(b.peer, "x", 1, 0), 1);
		take(&b, SHORT);
		CHECK_INT(shutdown(b.peer, SHUT_WR), 0);
		beside_end(&beside);
		CHECK_INT(b.end, 0);
		box_drop(&b);
	}
	hark_scope_open(&scope);
	for (int i = 0; i < SPEAKERS; i++) {
		boxes[i] = box_new(0);
		CHECK_INT(hark_go(&scope, "box", serve, &boxes[i]), 0);
	}
	for (size_t round = 1; round <= 20; round++) {
		CHECK_INT(hark_sleep(HARK_MS), 0);
		for (size_t i = 0; i < SPEAKERS - round; i++)
			CHECK_INT(send(boxes[i].peer, "x", 1, 0), 1);
		for (size_t i = 0; i < SPEAKERS - round; i++)
			take(&boxes[i], round * SHORT);
	}
	hark_scope_close(&scope);
	for (int i = 0; i < SPEAKERS; i++)
		box_drop(&boxes[i]);
}

/* The look at what completes next went past the last completion, to operations that were freed long ago. */
static void many_that_speak_at_once_touch_nothing_of_those_that_have_gone(void **state)
{
	(void)state;
	on_engines(churn_body);
}

/* ---- the peer resets -------------------------------------------------------------------------- */

static void reset(struct box *b)
{
	struct linger now = {.l_onoff = 1};
	CHECK_INT(setsockopt(b->peer, SOL_SOCKET, SO_LINGER, &now, sizeof now), 0);
	(void)close(b->peer);
	b->peer = -1;
}

/* What left this end: it lies at the peer, or is on its way. */
static size_t kernel_took(const struct box *b)
{
	int there = 0, here = 0;
	CHECK_INT(ioctl(b->peer, SIOCINQ, &there), 0);
	CHECK_INT(ioctl(hark_fd(b->c), SIOCOUTQ, &here), 0);
	return (size_t)there + (size_t)here;
}

static void reset_with(int way)
{
	struct beside beside;
	struct box b = box_new(TINY);
	beside_start(&beside, serve, &b);
	fill(&b);
	size_t took = kernel_took(&b);
	CHECK(counted(&b) <= took);
	reset(&b);
	beside_end(&beside);
	CHECK_INT(b.end, -ECONNRESET); /* no orderly end, whoever of reader and writer learnt of it first */
	hark_idle_timeout(b.c, SOON);
	int r = 0;
	if (way == 0) {
		for (int i = 0; i < 20 && r == 0; i++) {
			ssize_t n = put(&b, SHORT);
			r = n < 0 ? (int)n : 0;
		}
		CHECK(r == -EPIPE || r == -ECONNRESET);
		CHECK_INT(hark_write(b.c, "x", 1), r); /* and again */
	}
	if (way <= 1) {
		r = hark_flush(b.c);
		CHECK(r == -EPIPE || r == -ECONNRESET);
		CHECK_INT(hark_flush(b.c), r);
	}
	CHECK(counted(&b) <= took);
	r = hark_close(b.c);
	CHECK(r == -EPIPE || r == -ECONNRESET);
}

static void reset_body(void)
{
	for (int way = 0; way < 3; way++)
		reset_with(way);
}

static void a_reset_behind_a_blocked_answer_is_told_to_reader_and_writer(void **state)
{
	(void)state;
	on_engines(reset_body);
}

struct flusher {
	struct box *b;
	int r;
};

static void flush_beside(void *arg)
{
	struct flusher *f = arg;
	f->r = 1;
	f->r = hark_flush(f->b->c);
}

static void reset_in_flush_body(void)
{
	struct hark_scope scope;
	struct box b = box_new(TINY);
	struct flusher f = {.b = &b};
	hark_scope_open(&scope);
	CHECK_INT(hark_go(&scope, "box", serve, &b), 0);
	fill(&b);
	size_t took = kernel_took(&b);
	CHECK_INT(hark_go(&scope, "flush", flush_beside, &f), 0);
	CHECK_INT(hark_sleep(HARK_MS), 0);
	CHECK_INT(f.r, 1); /* it waits */
	reset(&b);
	CHECK_INT(hark_join(&scope, hark_after(SOON)), 0);
	hark_scope_close(&scope);
	CHECK(f.r == -EPIPE || f.r == -ECONNRESET);
	CHECK(counted(&b) <= took);
	CHECK_INT(hark_close(b.c), f.r);
}

static void a_reset_ends_a_flush_behind_a_blocked_answer(void **state)
{
	(void)state;
	on_engines(reset_in_flush_body);
}

/* ---- the end ---------------------------------------------------------------------------------- */

struct closer {
	struct box *b;
	bool shutdown;
	int r;
};

static void close_beside(void *arg)
{
	struct closer *s = arg;
	s->r = s->shutdown ? hark_shutdown(s->b->c, HARK_OUT) : hark_close(s->b->c);
}

/* serve() ends with the wait under way, which has sent what there was room for; what comes then is the end. */
static void end_with(bool shutdown, size_t len, bool blocked)
{
	struct beside beside;
	struct box b = box_new(blocked ? TINY : 0);
	struct closer s = {.b = &b, .shutdown = shutdown, .r = 1};
	b.len = len;
	beside_start(&beside, serve, &b);
	if (blocked)
		fill(&b);
	else
		ask(&b);
	CHECK_INT(send(b.peer, "q", 1, 0), 1);
	beside_end(&beside);
	CHECK_INT(is_left(&b), blocked);
	hark_idle_timeout(b.c, SOON);
	beside_start(&beside, close_beside, &s);
	take_to_the_end(&b);
	(void)close(b.peer);
	beside_end(&beside);
	CHECK_INT(s.r, 0);
	if (shutdown)
		hark_abort(b.c);
}

static void end_body(void)
{
	end_with(false, SHORT, true);
	end_with(true, SHORT, true);
	end_with(false, 300, true);
	end_with(false, SHORT, false);
	end_with(true, SHORT, false);
}

static void the_peer_gets_the_whole_tail_and_then_the_end(void **state)
{
	(void)state;
	on_engines(end_body);
}

/* The victim is cancelled in the very turn in which it began to wait: the engine was not asked since. */
struct victim {
	struct box b;
	bool waits;
	int r;
};

static void victim_main(void *arg)
{
	struct victim *v = arg;
	char byte;
	CHECK_INT(hark_read(v->b.c, &byte, 1), 1);
	CHECK_INT(put(&v->b, SHORT), SHORT);
	v->waits = true;
	CHECK_INT(hark_read(v->b.c, &byte, 1), -ECANCELED);
	v->r = hark_close(v->b.c);
}

static void cancel_once(void)
{
	struct hark_scope scope;
	struct victim v = {.b = box_new(0)};
	hark_scope_open(&scope);
	CHECK_INT(hark_go(&scope, "victim", victim_main, &v), 0);
	CHECK_INT(hark_sleep(HARK_MS), 0); /* it waits to read */
	CHECK_INT(send(v.b.peer, "x", 1, 0), 1);
	while (!v.waits)
		CHECK_INT(hark_yield(), 0);
	hark_cancel(&scope);
	CHECK_INT(hark_join(&scope, hark_after(SOON)), 0);
	hark_scope_close(&scope);
	CHECK_INT(v.r, 0); /* nothing was lost */
	take_to_the_end(&v.b);
	(void)close(v.b.peer);
}

static void cancel_body(void)
{
	for (int i = 0; i < 20; i++)
		cancel_once();
}

static void a_cancelled_fiber_still_sends_what_can_leave_at_once(void **state)
{
	(void)state;
	on_engines(cancel_body);
}

static void cancel_blocked_body(void)
{
	struct hark_scope scope;
	struct box b = box_new(TINY);
	struct flusher f = {.b = &b};
	hark_scope_open(&scope);
	CHECK_INT(hark_go(&scope, "box", serve, &b), 0);
	fill(&b);
	CHECK_INT(hark_go(&scope, "flush", flush_beside, &f), 0);
	CHECK_INT(hark_sleep(HARK_MS), 0);
	hark_cancel(&scope);
	CHECK_INT(hark_join(&scope, hark_after(SOON)), 0);
	hark_scope_close(&scope);
	CHECK_INT(b.end, -ECANCELED);
	CHECK_INT(f.r, -ECANCELED);
	CHECK_INT(hark_close(b.c), -ECANCELED); /* at once, and told: some is lost */
	ssize_t r;
	while ((r = take_some(&b, 4096)) >= 0)
		if (r == 0)
			CHECK(hark_wait_fd(b.peer, HARK_IN, hark_after(SOON)) > 0);
	CHECK(b.taken > 0 && b.taken < b.at); /* what had left came, in order */
	(void)close(b.peer);
}

static void a_cancelled_fiber_does_not_wait_for_a_blocked_answer(void **state)
{
	(void)state;
	on_engines(cancel_blocked_body);
}

/* ---- a drain ---------------------------------------------------------------------------------- */

struct drained {
	struct box b;
	struct hark_listener *l;
	size_t told; /* bytes_out, as the connection closed */
	int error, r;
};

static void drained_box(struct hark_conn *c, void *arg)
{
	struct drained *d = arg;
	char byte;
	CHECK_INT(setsockopt(hark_fd(c), SOL_SOCKET, SO_SNDBUF, &(int){TINY}, sizeof(int)), 0);
	d->b.c = c;
	while (hark_idle(c) > 0 && hark_read(c, &byte, 1) > 0) {
		CHECK_INT(put(&d->b, SHORT), SHORT);
		d->b.answered++;
	}
}

static void drained_event(const struct hark_event *e, void *arg)
{
	struct drained *d = arg;
	if (e->kind != HARK_EVENT_CLOSE)
		return;
	d->told = counted(&(struct box){.c = e->conn});
	d->error = e->error;
}

static void drained_serve(void *arg)
{
	struct drained *d = arg;
	struct hark_serve_opts o = {.model = HARK_MODEL_FIBER, .event = drained_event, .event_arg = d};
	d->r = hark_serve(&d->l, 1, drained_box, d, &o);
}

static void drain_with(int64_t grace_ns)
{
	struct drained d = {.b = {.len = SHORT}, .r = 1};
	struct sockaddr_storage at;
	socklen_t len = sizeof at;
	struct hark_scope scope;
	CHECK_INT(hark_listen("tcp://127.0.0.1:0", NULL, &d.l), 0);
	CHECK_INT(getsockname(hark_listener_fd(d.l), (struct sockaddr *)&at, &len), 0);
	hark_scope_open(&scope);
	CHECK_INT(hark_go(&scope, "server", drained_serve, &d), 0);
	d.b.peer = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	CHECK(d.b.peer >= 0);
	CHECK_INT(setsockopt(d.b.peer, SOL_SOCKET, SO_RCVBUF, &(int){TINY}, sizeof(int)), 0);
	CHECK_INT(connect(d.b.peer, (struct sockaddr *)&at, len), 0);
	UNTIL(d.b.c != NULL);
	fill(&d.b);
	hark_drain(grace_ns);
	if (grace_ns >= SOON) {
		take_to_the_end(&d.b);
		(void)shutdown(d.b.peer, SHUT_WR);
	}
	CHECK_INT(hark_join(&scope, hark_after(SOON)), 0);
	hark_scope_close(&scope);
	hark_listener_close(d.l);
	ssize_t r;
	while ((r = take_some(&d.b, 4096)) >= 0)
		if (r == 0)
			CHECK(hark_wait_fd(d.b.peer, HARK_IN, hark_after(SOON)) > 0);
	if (grace_ns >= SOON) {
		CHECK_INT(d.r, 0);
		CHECK_INT(d.error, 0);
		CHECK_INT(d.told, d.b.at);
	} else {
		CHECK_INT(d.r, -ETIMEDOUT);
		CHECK_INT(d.error, ECANCELED);
		CHECK(d.b.taken > 0 && d.b.taken < d.b.at);
		CHECK(d.told < d.b.at); /* what the kernel never got is not counted */
	}
	(void)close(d.b.peer);
}

static void drain_body(void)
{
	mode_kept = 2; /* drain.c's eventfds */
	drain_with(2 * SOON);
	drain_with(100 * HARK_MS);
}

static void a_drain_sends_what_is_left_within_its_grace(void **state)
{
	(void)state;
	on_engines(drain_body);
}

/* ---- the loop ends ---------------------------------------------------------------------------- */

static void take_beside(void *arg)
{
	take_to_the_end(arg);
}

/* The scope's loop ends with an answer blocked, and perhaps more behind it in the buffer. */
static void loop_ends_on(const char *engine, bool more)
{
	struct hark_scope scope;
	struct beside reader;
	struct box b = box_new(TINY);
	(void)setenv("HARK_ENGINE", engine, 1);
	hark_scope_open(&scope);
	int r = hark_go(&scope, "box", serve, &b);
	if (r == -ENOSYS) {
		hark_scope_close(&scope);
		box_drop(&b);
		return;
	}
	CHECK_INT(r, 0);
	mode_engine = engine; /* what fill() looks at */
	fill(&b);
	for (b.len = 700; more && hark__buffer_len(&b.c->out) + b.len < 16384;)
		ask(&b);
	mode_engine = NULL;
	CHECK_INT(shutdown(b.peer, SHUT_WR), 0);
	CHECK_INT(hark_join(&scope, hark_after(SOON)), 0);
	CHECK(is_left(&b));
	hark_scope_close(&scope);
	CHECK_INT(b.end, 0);
	CHECK(!b.c->src.sending && is_left(&b));
	CHECK(counted(&b) <= kernel_took(&b));
	CHECK_INT(counted(&b) + hark__buffer_len(&b.c->out), b.at);
	if (more) { /* what came back counts as buffered: more than 16 KB are not */
		hark_idle_timeout(b.c, 20 * HARK_MS);
		CHECK_INT(put(&b, 16384), -ETIMEDOUT);
		hark_abort(b.c);
		(void)close(b.peer);
		return;
	}
	b.at += 20000 + 5; /* for the reader, who knows what to wait for */
	beside_start(&reader, take_beside, &b);
	char *bytes = malloc(20000 + 5);
	CHECK(bytes != NULL);
	pattern_fill(bytes, b.at - 20000 - 5, 20000 + 5);
	CHECK_INT(hark_write(b.c, bytes, 5), 5);
	CHECK_INT(hark_write(b.c, bytes + 5, 20000), 20000);
	free(bytes);
	CHECK_INT(hark_flush(b.c), 0);
	CHECK_INT(counted(&b), b.at);
	CHECK_INT(hark_close(b.c), 0);
	beside_end(&reader);
	(void)close(b.peer);
}

static void loop_ends_body(void)
{
	for (size_t i = 0; i < ENGINES_ALL; i++) {
		loop_ends_on(engines_all[i], false);
		loop_ends_on(engines_all[i], true);
	}
}

static void a_blocked_answer_outlives_its_loop(void **state)
{
	(void)state;
	on_plain_thread(loop_ends_body);
}

/* ---- a fork ----------------------------------------------------------------------------------- */

/* The child has no part in what its parent's engine sends. */
static _Noreturn void fork_child(struct box *b)
{
	char byte;
	(void)alarm(20u * SLOWER);
	hark__buffer_release(&b->c->out); /* the parent sends it */
	hark_idle_timeout(b->c, 20 * HARK_MS);
	CHECK_INT(hark_read(b->c, &byte, 1), -ETIMEDOUT);
	CHECK_INT(hark_flush(b->c), 0);
	hark__conn_free(b->c); /* not closed: that would end the parent's, too */
	_exit(0);
}

static void fork_body(void)
{
	struct hark_scope scope;
	struct box b = box_new(TINY);
	int status;
	hark_idle_timeout(b.c, SOON);
	hark_scope_open(&scope);
	CHECK_INT(hark_go(&scope, "box", serve, &b), 0);
	fill(&b);
	hark_cancel(&scope); /* so that the child may read */
	CHECK_INT(hark_join(&scope, hark_after(SOON)), 0);
	hark_scope_close(&scope);
	CHECK(is_left(&b));
	pid_t pid = fork();
	CHECK(pid >= 0);
	if (pid == 0)
		fork_child(&b);
	pid_t got;
	while ((got = waitpid(pid, &status, WNOHANG)) == 0) /* the loop goes on meanwhile */
		CHECK_INT(hark_sleep(HARK_MS), 0);
	CHECK_INT(got, pid);
	CHECK_INT(status, 0);
	struct beside beside;
	struct closer s = {.b = &b, .shutdown = true, .r = 1};
	CHECK_INT(put(&b, 300), 300);
	beside_start(&beside, close_beside, &s);
	take_to_the_end(&b);
	beside_end(&beside);
	CHECK_INT(s.r, 0);
	box_drop(&b);
}

static void a_fork_beside_a_blocked_answer_hangs_nobody(void **state)
{
	(void)state;
	on_engines(fork_body);
}

/* ---- time ------------------------------------------------------------------------------------- */

static void time_with(bool deadline)
{
	struct hark_scope scope;
	struct box b = box_new(TINY);
	hark_scope_open(&scope);
	CHECK_INT(hark_go(&scope, "box", serve, &b), 0);
	fill(&b);
	size_t took = kernel_took(&b);
	int64_t start = hark_now();
	if (deadline)
		hark_deadline(b.c, hark_after(50 * HARK_MS));
	else
		hark_idle_timeout(b.c, 50 * HARK_MS);
	CHECK_INT(hark_flush(b.c), -ETIMEDOUT);
	CHECK(hark_now() - start >= 40 * HARK_MS); /* by the loop's clock */
	hark_deadline(b.c, HARK_FOREVER);
	hark_idle_timeout(b.c, 0);
	CHECK_INT(hark_write(b.c, "x", 1), -ETIMEDOUT);
	CHECK_INT(hark_flush(b.c), -ETIMEDOUT); /* told at once, not waited for again */
	CHECK(counted(&b) <= took);
	CHECK_INT(shutdown(b.peer, SHUT_WR), 0);
	CHECK_INT(hark_join(&scope, hark_after(SOON)), 0);
	hark_scope_close(&scope);
	CHECK_INT(hark_close(b.c), -ETIMEDOUT);
	(void)close(b.peer);
}

static void time_body(void)
{
	time_with(true);
	time_with(false);
}

static void time_runs_out_in_a_flush_behind_a_blocked_answer(void **state)
{
	(void)state;
	on_engines(time_body);
}

/* ---- abort ------------------------------------------------------------------------------------ */

#define ABORTED (SLOTS + 20)

/* Without a turn of the loop in between. */
static void expect_reset(int fd)
{
	char buf[4096];
	struct timeval soon = {.tv_sec = SOON / HARK_S};
	ssize_t n;
	CHECK_INT(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &soon, sizeof soon), 0);
	while ((n = recv(fd, buf, sizeof buf, 0)) > 0)
		;
	CHECK_INT(n, -1);
	CHECK_INT(errno, ECONNRESET);
}

struct aborter {
	struct box b;
	bool waits;
};

/* As in cancel_once(): what it has written is handed over, and was not tried yet. */
static void abort_beside(void *arg)
{
	struct aborter *a = arg;
	char byte;
	CHECK_INT(hark_read(a->b.c, &byte, 1), 1);
	CHECK_INT(put(&a->b, SHORT), SHORT);
	a->waits = true;
	CHECK_INT(hark_read(a->b.c, &byte, 1), -ECANCELED);
	hark_abort(a->b.c);
	expect_reset(a->b.peer);
}

static void abort_once(void)
{
	struct hark_scope scope;
	struct aborter a = {.b = box_new(0)};
	hark_scope_open(&scope);
	CHECK_INT(hark_go(&scope, "aborter", abort_beside, &a), 0);
	CHECK_INT(hark_sleep(HARK_MS), 0);
	CHECK_INT(send(a.b.peer, "x", 1, 0), 1);
	while (!a.waits)
		CHECK_INT(hark_yield(), 0);
	hark_cancel(&scope);
	CHECK_INT(hark_join(&scope, hark_after(SOON)), 0);
	hark_scope_close(&scope);
	(void)close(a.b.peer);
}

static void abort_body(void)
{
	for (int i = 0; i < 3; i++) {
		struct beside beside;
		struct box b = box_new(TINY);
		beside_start(&beside, serve, &b);
		fill(&b);
		CHECK_INT(send(b.peer, "q", 1, 0), 1);
		beside_end(&beside);
		hark_abort(b.c);
		expect_reset(b.peer);
		(void)close(b.peer);
	}
	for (int i = 0; i < ABORTED; i++)
		abort_once();
}

static void abort_resets_at_once_whatever_is_under_way(void **state)
{
	(void)state;
	on_engines(abort_body);
}

/* ---- a description that others make non-blocking ---------------------------------------------- */

static void nonblock_body(void)
{
	struct hark_scope scope;
	struct box b = box_new(TINY);
	hark_scope_open(&scope);
	CHECK_INT(hark_go(&scope, "box", serve, &b), 0);
	ask(&b);
	int flags = fcntl(hark_fd(b.c), F_GETFL);
	CHECK_INT(fcntl(hark_fd(b.c), F_SETFL, flags | O_NONBLOCK), 0); /* as a program may that shares it */
	while (!is_left(&b) && b.at < 100000)
		ask(&b);
	CHECK_INT(hark_sleep(CALM), 0);
	take(&b, b.at); /* the waiting reader sees to it */
	ask(&b);
	take(&b, b.at);
	CHECK_INT(hark_flush(b.c), 0);
	CHECK_INT(counted(&b), b.at);
	hark_scope_close(&scope);
	box_drop(&b);
}

static void a_socket_made_non_blocking_by_others_loses_nothing(void **state)
{
	(void)state;
	on_engines(nonblock_body);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_way_of_writing_keeps_its_place_behind_a_blocked_answer),
		cmocka_unit_test(a_writer_beside_does_not_overtake_what_the_reader_handed_over),
		cmocka_unit_test(a_peer_that_does_not_read_costs_no_time),
		cmocka_unit_test(more_blocked_peers_than_slots_hinder_nobody),
		cmocka_unit_test(more_answers_in_one_turn_than_slots_all_leave),
		cmocka_unit_test(many_that_speak_at_once_touch_nothing_of_those_that_have_gone),
		cmocka_unit_test(a_reset_behind_a_blocked_answer_is_told_to_reader_and_writer),
		cmocka_unit_test(a_reset_ends_a_flush_behind_a_blocked_answer),
		cmocka_unit_test(the_peer_gets_the_whole_tail_and_then_the_end),
		cmocka_unit_test(a_cancelled_fiber_still_sends_what_can_leave_at_once),
		cmocka_unit_test(a_cancelled_fiber_does_not_wait_for_a_blocked_answer),
		cmocka_unit_test(a_drain_sends_what_is_left_within_its_grace),
		cmocka_unit_test(a_blocked_answer_outlives_its_loop),
		cmocka_unit_test(a_fork_beside_a_blocked_answer_hangs_nobody),
		cmocka_unit_test(time_runs_out_in_a_flush_behind_a_blocked_answer),
		cmocka_unit_test(abort_resets_at_once_whatever_is_under_way),
		cmocka_unit_test(a_socket_made_non_blocking_by_others_loses_nothing),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
