/* test_stream_end.c — how a stream ends: half-closes, closes, resets, and no answer cut. */
#include "stream_support.h"

/* ---- ends ------------------------------------------------------------------------------------ */

static void each_half_closes_by_itself(void)
{
	char buf[64];
	struct pair p = tcp_pair();
	CHECK_INT(hark_write(p.a, "question", 8), 8);
	CHECK_INT(hark_shutdown(p.a, HARK_OUT), 0);
	CHECK_INT(hark_readn(p.b, buf, 8), 8);
	CHECK_INT(hark_read(p.b, buf, sizeof buf), 0);
	say(p.b, "answer"); /* the other half is still open */
	CHECK_INT(hark_readn(p.a, buf, 6), 6);
	CHECK_INT(hark_shutdown(p.b, HARK_OUT), 0);
	CHECK_INT(hark_read(p.a, buf, sizeof buf), 0);
	CHECK_INT(hark_write(p.a, "late", 4), -EPIPE); /* told at once: nothing was taken, nothing is lost */
	CHECK_INT(hark_write(p.a, "", 0), -EPIPE);
	CHECK_INT(hark_flush(p.a), 0);
	CHECK_INT(hark_shutdown(p.a, HARK_OUT), 0); /* again */
	CHECK_INT(hark_close(p.a), 0);
	CHECK_INT(hark_close(p.b), 0);
	p = unix_pair();
	CHECK_INT(hark_shutdown(p.a, HARK_IN), 0);
	CHECK_INT(hark_read(p.a, buf, sizeof buf), 0);
	CHECK_INT(hark_shutdown(p.b, HARK_IN | HARK_OUT), 0);
	CHECK_INT(hark_read(p.b, buf, sizeof buf), 0);
	pair_drop(&p);
}

struct teller {
	struct hark_conn *c;
	const char *all;
	int rc;
};

static void tell_and_close(void *arg)
{
	struct teller *t = arg;
	CHECK_INT(hark_write(t->c, t->all, MB), MB);
	t->rc = hark_close(t->c);
}

static void no_truncation_on(int kind, const char *all)
{
	static char junk[65536];
	int fds[2];
	struct beside b;
	if (kind == 0)
		raw_tcp(fds);
	else
		raw_unix(fds);
	struct pair p = pair_of(fds);
	struct teller t = {.c = p.b, .all = all, .rc = 1};
	struct sink s = {.c = p.a, .piece = 100000};
	CHECK_INT(hark_write(p.a, junk, sizeof junk), sizeof junk); /* never read by the other side */
	CHECK_INT(hark_flush(p.a), 0);
	beside_start(&b, tell_and_close, &t);
	CHECK_INT(hark_sleep(HARK_MS), 0);
	drain_pattern(&s);
	CHECK_INT(s.got, MB);
	CHECK_INT(s.end, 0);
	CHECK_INT(hark_close(p.a), 0);
	beside_end(&b);
	CHECK_INT(t.rc, 0);
}

static void close_with_input_unread_never_cuts_the_answer(void)
{
	char *all = pattern_alloc(MB);
	for (int i = 0; i < 20; i++)
		no_truncation_on(i % 4 == 3, all);
	free(all);
}

static void close_waits_a_bounded_time_for_a_silent_peer(void)
{
	int fds[2];
	raw_tcp(fds);
	struct hark_conn *c = conn_of(fds[0]);
	CHECK_INT(hark_write(c, "answer", 6), 6);
	int64_t start = hark_now();
	CHECK_INT(hark_close(c), 0); /* the peer neither speaks nor ends */
	int64_t took = hark_now() - start;
	CHECK(took >= 1900 * HARK_MS && took < 4 * HARK_S * SLOWER);
	CHECK_INT(arrived(fds[1]), 6);
	(void)close(fds[1]);
	raw_tcp(fds);
	c = conn_of(fds[0]);
	hark_idle_timeout(c, 50 * HARK_MS);
	start = hark_now();
	CHECK_INT(hark_close(c), 0);
	CHECK(hark_now() - start < HARK_S);
	(void)close(fds[1]);
}

static void abort_resets(void)
{
	char buf[16];
	int fds[2];
	raw_tcp(fds);
	struct hark_conn *c = conn_of(fds[0]);
	CHECK_INT(hark_write(c, "dropped", 7), 7);
	hark_abort(c);
	CHECK_INT(recv(fds[1], buf, sizeof buf, 0), -1);
	CHECK_INT(errno, ECONNRESET);
	(void)close(fds[1]);
	hark_abort(NULL);
	CHECK_INT(hark_close(NULL), 0);
}

static void pipe_signal(int sig)
{
	(void)sig;
	static const char text[] = "SIGPIPE was raised\n";
	ssize_t n = write(2, text, sizeof text - 1);
	(void)n;
	_exit(3);
}

/* Reads the rest so that the peer's reset has certainly come. */
static struct hark_conn *conn_to_nobody(void)
{
	char buf[16];
	int fds[2];
	raw_tcp(fds);
	struct hark_conn *c = conn_of(fds[0]);
	struct linger now = {.l_onoff = 1};
	CHECK_INT(setsockopt(fds[1], SOL_SOCKET, SO_LINGER, &now, sizeof now), 0);
	(void)close(fds[1]);
	CHECK_INT(hark_read(c, buf, sizeof buf), -ECONNRESET);
	return c;
}

static void no_write_raises_sigpipe(void)
{
	struct sigaction a = {.sa_handler = pipe_signal};
	int fds[2], file = temp_file(100000);
	CHECK_INT(sigaction(SIGPIPE, &a, NULL), 0);
	struct hark_conn *c = conn_to_nobody();
	CHECK_INT(hark_write(c, "x", 1), 1);
	CHECK_INT(hark_flush(c), -EPIPE);
	hark_abort(c);
	c = conn_to_nobody();
	struct iovec two[2] = {{(char *)"a", 1}, {malloc(20000), 20000}};
	memset(two[1].iov_base, 'b', 20000);
	CHECK_INT(hark_writev(c, two, 2), -EPIPE);
	free(two[1].iov_base);
	hark_abort(c);
	c = conn_to_nobody();
	CHECK_INT(hark_sendfile(c, file, 0, 0), -EPIPE);
	hark_abort(c);
	CHECK_INT(pipe2(fds, O_CLOEXEC), 0);
	c = conn_of(fds[1]);
	(void)close(fds[0]);
	CHECK_INT(hark_write(c, "x", 1), 1);
	CHECK_INT(hark_flush(c), -EPIPE);
	hark_abort(c);
	CHECK_INT(pipe2(fds, O_CLOEXEC | O_NONBLOCK), 0);
	c = conn_of(fds[1]);
	(void)close(fds[0]);
	CHECK_INT(hark_sendfile(c, file, 0, 0), -EPIPE);
	hark_abort(c);
	(void)close(file);
	sigset_t pending;
	CHECK_INT(sigpending(&pending), 0);
	CHECK(!sigismember(&pending, SIGPIPE));
}

/* ---- bulk ------------------------------------------------------------------------------------ */

/* The writer meets the reset first: to the reader, too, the stream did not end in order. */
static void a_reset_that_the_writer_met_is_no_end_to_the_reader(void)
{
	static char much[MB];
	struct pair p = tcp_pair();
	char got[8];
	say(p.b, "abc");
	hark_abort(p.b);
	CHECK_INT(hark_wait_fd(hark_fd(p.a), HARK_IN, hark_after(2 * HARK_S)) > 0, 1);
	CHECK_INT(hark_write(p.a, much, sizeof much), -ECONNRESET);
	ssize_t n = hark_read(p.a, got, sizeof got);
	if (n > 0) /* the kernel may have kept what came before */
		n = hark_read(p.a, got, sizeof got);
	CHECK_INT(n, -ECONNRESET);
	CHECK_INT(hark_shutdown(p.a, 0), -EINVAL);
	CHECK_INT(hark_shutdown(p.a, 8), -EINVAL);
	hark_abort(p.a);
}

/* A peer that reads nothing for longer than we linger in silence, while all that it has not read is still with us. */
static void slow_peer(void *arg)
{
	struct sink *s = arg;
	CHECK_INT(hark_sleep(2500 * HARK_MS), 0);
	CHECK_INT(hark_write(s->c, "still there\n", 12), 12);
	CHECK_INT(hark_flush(s->c), 0);
	drain_pattern(s);
}

#define LATE 300000 /* bytes: more than the peer's buffer takes, less than ours */

static void a_close_waits_for_a_peer_that_reads_late(void)
{
	static char much[LATE];
	struct beside reader;
	struct pair p = tcp_pair();
	struct sink s = {.c = p.b, .piece = 50000};
	int small = 8192, large = 4 * MB;
	CHECK_INT(setsockopt(hark_fd(p.b), SOL_SOCKET, SO_RCVBUF, &small, sizeof small), 0);
	CHECK_INT(setsockopt(hark_fd(p.a), SOL_SOCKET, SO_SNDBUF, &large, sizeof large), 0);
	pattern_fill(much, 0, sizeof much);
	CHECK_INT(hark_write(p.a, much, sizeof much), LATE);
	beside_start(&reader, slow_peer, &s);
	CHECK_INT(hark_close(p.a), 0);
	beside_end(&reader);
	CHECK_INT(s.end, 0);
	CHECK_INT(s.got, LATE);
	hark_abort(p.b);
}

int main(int argc, char *argv[])
{
	const struct CMUnitTest tests[] = {
		EVERYWHERE(each_half_closes_by_itself),
		EVERYWHERE(close_with_input_unread_never_cuts_the_answer),
		EVERYWHERE_AT_ONCE(close_waits_a_bounded_time_for_a_silent_peer),
		EVERYWHERE(abort_resets),
		EVERYWHERE(no_write_raises_sigpipe),
		EVERYWHERE(a_reset_that_the_writer_met_is_no_end_to_the_reader),
		EVERYWHERE_AT_ONCE(a_close_waits_for_a_peer_that_reads_late),
	};
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
