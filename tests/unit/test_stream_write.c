/* test_stream_write.c — writing to a stream: when small writes leave, and that all of a large one arrives. */
#include "faults.h"
#include "stream_support.h"

#include <sys/time.h>

/* ---- coalescing ------------------------------------------------------------------------------ */

static void small_writes_leave_when_they_must_and_not_before(void)
{
	char buf[64];
	static char big[16384];
	int fds[2];
	raw_unix(fds);
	struct hark_conn *c = conn_of(fds[0]);
	CHECK_INT(hark_write(c, "small", 5), 5);
	CHECK_INT(hark_printf(c, " and %d", 7), 6);
	CHECK_INT(arrived(fds[1]), -EAGAIN);
	CHECK_INT(hark_flush(c), 0);
	CHECK_INT(arrived(fds[1]), 11);
	CHECK_INT(hark_write(c, "!", 1), 1);
	CHECK_INT(write(fds[1], "in", 2), 2);
	CHECK_INT(hark_read(c, buf, sizeof buf), 2); /* would not wait: nothing need leave */
	hark_idle_timeout(c, 10 * HARK_MS);
	CHECK_INT(hark_read(c, buf, sizeof buf), -ETIMEDOUT); /* would */
	CHECK_INT(arrived(fds[1]), 12);
	CHECK_INT(hark_write(c, "?", 1), 1);
	CHECK_INT(hark_idle(c), -ETIMEDOUT);
	CHECK_INT(arrived(fds[1]), 13);
	CHECK_INT(hark_write(c, big, sizeof big - 1), sizeof big - 1);
	CHECK_INT(arrived(fds[1]), 13);
	CHECK_INT(hark_write(c, big, 1), 1); /* 16 KB have gathered */
	CHECK_INT(arrived(fds[1]), 13 + 16384);
	CHECK_INT(hark_write(c, "end", 3), 3);
	CHECK_INT(hark_shutdown(c, HARK_OUT), 0);
	CHECK_INT(arrived(fds[1]), 13 + 16384 + 3);
	hark_abort(c);
	(void)close(fds[1]);
	raw_unix(fds);
	c = conn_of(fds[0]);
	CHECK_INT(shutdown(fds[1], SHUT_WR), 0);
	CHECK_INT(hark_write(c, "bye", 3), 3);
	CHECK_INT(hark_close(c), 0);
	CHECK_INT(arrived(fds[1]), 3);
	(void)close(fds[1]);
}

static void writes_leave_at_once_while_another_waits_to_read(void)
{
	int fds[2];
	struct beside b;
	raw_unix(fds);
	struct reading r = {.c = conn_of(fds[0])};
	beside_start(&b, read_beside, &r);
	until_it_reads(r.c);
	CHECK_INT(hark_write(r.c, "now", 3), 3);
	CHECK_INT(arrived(fds[1]), 3);
	CHECK_INT(write(fds[1], "x", 1), 1);
	beside_end(&b);
	CHECK_INT(r.got, 1);
	hark_abort(r.c);
	(void)close(fds[1]);
}

static void a_waiting_reader_sends_what_the_socket_had_no_room_for(void)
{
	static char big[16384], sink[1 << 16];
	int fds[2], small = 4096;
	struct beside b;
	raw_unix(fds);
	CHECK_INT(setsockopt(fds[0], SOL_SOCKET, SO_SNDBUF, &small, sizeof small), 0);
	struct reading r = {.c = conn_of(fds[0])};
	pattern_fill(big, 0, sizeof big);
	CHECK_INT(hark_write(r.c, big, 16000), 16000); /* more than the socket takes at once */
	beside_start(&b, read_beside, &r);
	size_t got = 0;
	for (int i = 0; i < 2000 && got < 16000; i++) {
		ssize_t n = recv(fds[1], sink + got, sizeof sink - got, MSG_DONTWAIT);
		if (n > 0)
			got += (size_t)n;
		CHECK_INT(hark_sleep(HARK_MS), 0);
	}
	CHECK_INT(got, 16000); /* the waiting reader sees to what there was no room for at first */
	CHECK(pattern_is(sink, 0, got));
	CHECK_INT(write(fds[1], "x", 1), 1);
	beside_end(&b);
	CHECK_INT(r.got, 1);
	hark_abort(r.c);
	(void)close(fds[1]);
}

/* ---- writing --------------------------------------------------------------------------------- */

static void write_sends_all_through_tiny_buffers(void)
{
	int fds[2];
	struct beside b;
	raw_tcp_sized(fds, 2048);
	struct pair p = pair_of(fds);
	struct sink s = {.c = p.b, .piece = 5000};
	char *all = pattern_alloc(MB);
	beside_start(&b, drain_pattern, &s);
	CHECK_INT(hark_write(p.a, all, MB), MB);
	CHECK_INT(hark_shutdown(p.a, HARK_OUT), 0);
	beside_end(&b);
	CHECK_INT(s.got, MB);
	CHECK_INT(s.end, 0);
	struct hark_conn_stats st;
	hark_conn_stats(p.a, &st);
	CHECK_INT(st.bytes_out, MB);
	hark_conn_stats(p.b, &st);
	CHECK_INT(st.bytes_in, MB);
	free(all);
	pair_drop(&p);
}

static void writev_sends_its_pieces_in_order(void)
{
	int fds[2], small = 4096;
	struct iovec iov[40];
	struct beside b;
	raw_unix(fds);
	CHECK_INT(setsockopt(fds[0], SOL_SOCKET, SO_SNDBUF, &small, sizeof small), 0);
	struct pair p = pair_of(fds);
	struct sink s = {.c = p.b, .piece = 700};
	char *all = pattern_alloc(MB);
	size_t at = 5;
	beside_start(&b, drain_pattern, &s);
	CHECK_INT(hark_write(p.a, all, 5), 5); /* goes before */
	for (int i = 0; i < 40; i++) {
		iov[i] = (struct iovec){all + at, i % 5 == 0 ? 0 : (size_t)i * 200};
		at += iov[i].iov_len;
	}
	CHECK_INT(hark_writev(p.a, iov, 40), (long long)(at - 5));
	CHECK_INT(hark_writev(p.a, iov, 0), 0);
	CHECK_INT(hark_writev(p.a, iov, -1), -EINVAL);
	CHECK_INT(hark_shutdown(p.a, HARK_OUT), 0);
	beside_end(&b);
	CHECK_INT(s.got, at);
	free(all);
	pair_drop(&p);
}

static void on_alarm(int sig)
{
	(void)sig;
}

static void signals_neither_break_a_transfer_nor_shorten_a_wait(void)
{
	struct itimerval every = {{0, 500}, {0, 500}}, off = {{0, 0}, {0, 0}};
	struct sigaction a = {.sa_handler = on_alarm}; /* no SA_RESTART */
	struct sigaction old;
	int fds[2];
	char buf[16];
	struct beside b;
	raw_tcp_sized(fds, 20000);
	struct pair p = pair_of(fds);
	struct sink s = {.c = p.b, .piece = 3000};
	char *all = pattern_alloc(2 * MB);
	unsigned left = alarm(0);
	CHECK_INT(sigaction(SIGALRM, &a, &old), 0);
	beside_start(&b, drain_pattern, &s);
	CHECK_INT(setitimer(ITIMER_REAL, &every, NULL), 0);
	CHECK_INT(hark_write(p.a, all, 2 * MB), 2 * MB);
	CHECK_INT(hark_shutdown(p.a, HARK_OUT), 0);
	int64_t start = hark_now();
	CHECK_INT(hark_sleep(30 * HARK_MS), 0);
	CHECK(hark_now() - start >= 30 * HARK_MS);
	start = hark_now();
	hark_idle_timeout(p.a, 30 * HARK_MS);
	CHECK_INT(hark_read(p.a, buf, sizeof buf), -ETIMEDOUT);
	CHECK(hark_now() - start >= 29 * HARK_MS);
	CHECK_INT(setitimer(ITIMER_REAL, &off, NULL), 0);
	CHECK_INT(sigaction(SIGALRM, &old, NULL), 0);
	(void)alarm(left);
	beside_end(&b);
	CHECK_INT(s.got, 2 * MB);
	free(all);
	pair_drop(&p);
}

/* ---- what is no socket ----------------------------------------------------------------------- */

static void pipes_with(int flags)
{
	int fds[2];
	struct beside b;
	CHECK_INT(pipe2(fds, O_CLOEXEC | flags), 0);
	struct pair p = pair_of(fds);
	char buf[16];
	hark_idle_timeout(p.a, 20 * HARK_MS);
	CHECK_INT(hark_read(p.a, buf, sizeof buf), -ETIMEDOUT);
	hark_idle_timeout(p.a, 0);
	CHECK_INT(fcntl(fds[0], F_GETFL) & O_NONBLOCK, flags & O_NONBLOCK); /* left as it was */
	CHECK_INT(hark_type(p.a), SOCK_STREAM);
	struct sink s = {.c = p.a, .piece = 3000};
	beside_start(&b, drain_pattern, &s);
	char *all = pattern_alloc(MB);
	CHECK_INT(hark_write(p.b, all, MB), MB);
	free(all);
	CHECK_INT(hark_close(p.b), 0);
	beside_end(&b);
	CHECK_INT(s.got, MB);
	CHECK_INT(s.end, 0);
	CHECK_INT(fcntl(fds[0], F_GETFL) & O_NONBLOCK, flags & O_NONBLOCK);
	CHECK_INT(hark_close(p.a), 0);
}

static void pipes_are_streams_blocking_or_not(void)
{
	pipes_with(0);
	pipes_with(O_NONBLOCK);
}

static void files_are_streams(void)
{
	int file = temp_file(100000), null = open("/dev/null", O_RDWR | O_CLOEXEC);
	CHECK_INT(lseek(file, 0, SEEK_SET), 0);
	struct hark_conn *c = conn_of(file);
	struct sink s = {.c = c, .piece = 7000};
	drain_pattern(&s);
	CHECK_INT(s.got, 100000);
	CHECK_INT(s.end, 0);
	CHECK_INT(hark_write(c, "more", 4), 4);
	CHECK_INT(hark_flush(c), 0);
	CHECK_INT(lseek(file, 0, SEEK_END), 100004);
	CHECK_INT(hark_close(c), 0);
	c = conn_of(null);
	char buf[8];
	CHECK_INT(hark_read(c, buf, sizeof buf), 0);
	CHECK_INT(hark_close(c), 0);
	CHECK_INT(hark_conn_from_fd(-1, &c), -EBADF);
	CHECK_INT(hark_conn_from_fd(9999, &c), -EBADF);
}

static void nonblocking_sockets_are_streams_like_others(void)
{
	int fds[2];
	struct beside b;
	CHECK_INT(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds), 0);
	struct pair p = pair_of(fds);
	struct sink s = {.c = p.b, .piece = 3000};
	beside_start(&b, drain_pattern, &s);
	write_4mb_and_end(p.a);
	beside_end(&b);
	CHECK_INT(s.got, 4 * MB);
	pair_drop(&p);
}

FAULT(ssize_t, send, (int fd, const void *buf, size_t n, int flags), (fd, buf, n, flags))

/* The peer, which waits for it, would wait for ever, and the reader with it. A ring sends by itself. */
static void a_reader_hears_that_what_it_wrote_could_not_be_sent(void)
{
	static const int wants[] = {ENOBUFS, ENOMEM};
	char buf[8];
	for (size_t i = 0; i < sizeof wants / sizeof *wants; i++) {
		struct pair p = unix_pair();
		hark_idle_timeout(p.a, 200 * HARK_MS);
		CHECK_INT(hark_write(p.a, "answer\n", 7), 7);
		fault_install_send();
		fault_errno = wants[i];
		fault_countdown = 1;
		ssize_t n = i == 0 ? hark_read(p.a, buf, sizeof buf) : hark_idle(p.a);
		fault_remove_send();
		CHECK_INT(n, fault_countdown == 0 ? -wants[i] : -ETIMEDOUT);
		fault_countdown = 0;
		pair_drop(&p);
	}
}

int main(int argc, char *argv[])
{
	const struct CMUnitTest tests[] = {
		EVERYWHERE(a_reader_hears_that_what_it_wrote_could_not_be_sent),
		EVERYWHERE(small_writes_leave_when_they_must_and_not_before),
		EVERYWHERE(writes_leave_at_once_while_another_waits_to_read),
		EVERYWHERE(a_waiting_reader_sends_what_the_socket_had_no_room_for),
		EVERYWHERE(write_sends_all_through_tiny_buffers),
		EVERYWHERE(writev_sends_its_pieces_in_order),
		EVERYWHERE(signals_neither_break_a_transfer_nor_shorten_a_wait),
		EVERYWHERE(pipes_are_streams_blocking_or_not),
		EVERYWHERE(files_are_streams),
		EVERYWHERE(nonblocking_sockets_are_streams_like_others),
	};
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
