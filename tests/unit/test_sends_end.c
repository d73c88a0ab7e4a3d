/* test_sends_end.c — a peer that reads late, or never does, and how it ends with it: resets, the tail and the end,
 * cancellation, time, a drain, a fork. */
#include "sends_support.h"

#include <linux/sockios.h>

/* ---- who answers, and who asks and does not read ------------------------------------------------- */

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

/* The peer reads all, and then the end. */
static void take_to_the_end(struct box *b)
{
	ssize_t r;
	take(b, b->at);
	while ((r = take_some(b, 1)) == 0)
		CHECK(hark_wait_fd(b->peer, HARK_IN, hark_after(SOON)) > 0);
	CHECK_INT(r, -1);
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

static void a_reset_behind_a_blocked_answer_is_told_to_reader_and_writer(void)
{
	for (int way = 0; way < 3; way++)
		reset_with(way);
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

static void a_reset_ends_a_flush_behind_a_blocked_answer(void)
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

static void the_peer_gets_the_whole_tail_and_then_the_end(void)
{
	end_with(false, SHORT, true);
	end_with(true, SHORT, true);
	end_with(false, 300, true);
	end_with(false, SHORT, false);
	end_with(true, SHORT, false);
}

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

/* Cancelled in the very turn in which it began to wait: the engine was not asked since, and what it has written was not
 * tried. */
struct victim {
	struct box b;
	bool aborts, waits;
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
	if (!v->aborts) {
		v->r = hark_close(v->b.c);
		return;
	}
	hark_abort(v->b.c);
	expect_reset(v->b.peer);
}

static void cut_off_once(bool aborts)
{
	struct hark_scope scope;
	struct victim v = {.b = box_new(0), .aborts = aborts};
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
	if (!aborts)
		take_to_the_end(&v.b);
	(void)close(v.b.peer);
}

static void a_cancelled_fiber_still_sends_what_can_leave_at_once(void)
{
	for (int i = 0; i < 20; i++)
		cut_off_once(false);
}

static void a_cancelled_fiber_does_not_wait_for_a_blocked_answer(void)
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

static void a_drain_sends_what_is_left_within_its_grace(void)
{
	mode_kept = 2; /* drain.c's eventfds */
	drain_with(2 * SOON);
	drain_with(100 * HARK_MS);
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

static void a_fork_beside_a_blocked_answer_hangs_nobody(void)
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

static void time_runs_out_in_a_flush_behind_a_blocked_answer(void)
{
	time_with(true);
	time_with(false);
}

/* ---- abort ------------------------------------------------------------------------------------ */

#define ABORTED (SLOTS + 20)

static void abort_resets_at_once_whatever_is_under_way(void)
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
		cut_off_once(true);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		ON_ENGINES(a_reset_behind_a_blocked_answer_is_told_to_reader_and_writer),
		ON_ENGINES(a_reset_ends_a_flush_behind_a_blocked_answer),
		ON_ENGINES(the_peer_gets_the_whole_tail_and_then_the_end),
		ON_ENGINES(a_cancelled_fiber_still_sends_what_can_leave_at_once),
		ON_ENGINES(a_cancelled_fiber_does_not_wait_for_a_blocked_answer),
		ON_ENGINES(a_drain_sends_what_is_left_within_its_grace),
		cmocka_unit_test(a_blocked_answer_outlives_its_loop),
		ON_ENGINES(a_fork_beside_a_blocked_answer_hangs_nobody),
		ON_ENGINES(time_runs_out_in_a_flush_behind_a_blocked_answer),
		ON_ENGINES(abort_resets_at_once_whatever_is_under_way),
	};
	mode_ring_alone = true;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
