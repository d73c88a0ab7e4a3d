/* test_splice.c — streams of which one side is a pipe or a file, moved by the kernel: every byte, in order, under each
 * engine; the end, and which side failed.
 *
 * The other ends are plain descriptors on threads. */
#include "modes.h"

#include <fcntl.h>
#include <pthread.h>

#include "conn/conn.h"

#define TOTAL (6u << 20) /* bytes */
#define PIECE 50000      /* bytes that the writer writes, and the reader asks for, at a time */

struct far {
	pthread_t thread;
	int fd;
	size_t total, stop_at; /* stop_at: it goes after so many; 0: at the end */
	bool slow;
};

static void nap(const struct far *f)
{
	if (f->slow)
		(void)usleep(200);
}

static void *write_main(void *arg)
{
	struct far *f = arg;
	static _Thread_local char buf[PIECE];
	size_t at = 0, most = f->stop_at > 0 ? f->stop_at : f->total;
	while (at < most) {
		size_t n = most - at < sizeof buf ? most - at : sizeof buf;
		pattern_fill(buf, at, n);
		ssize_t r = write(f->fd, buf, n);
		CHECK(r > 0);
		at += (size_t)r;
		nap(f);
	}
	(void)close(f->fd);
	return NULL;
}

static void *read_main(void *arg)
{
	struct far *f = arg;
	static _Thread_local char buf[PIECE];
	ssize_t n = 1;
	size_t at = 0;
	while ((f->stop_at == 0 || at < f->stop_at) && (n = read(f->fd, buf, sizeof buf)) > 0) {
		CHECK(pattern_is(buf, at, (size_t)n));
		at += (size_t)n;
		nap(f);
	}
	CHECK(f->stop_at > 0 || (n == 0 && at == f->total));
	(void)close(f->fd);
	return NULL;
}

static void far_start(struct far *f, void *(*fn)(void *), int fd)
{
	f->fd = fd;
	CHECK_INT(pthread_create(&f->thread, NULL, fn, f), 0);
}

static void raw_pipe(int fds[2])
{
	CHECK_INT(pipe2(fds, O_CLOEXEC), 0);
}

/* fds[0] is read from, fds[1] written to. */
static void raw_stream(int fds[2])
{
	int both[2];
	raw_tcp(both);
	fds[0] = both[0];
	fds[1] = both[1];
}

static void raw_file(int fds[2])
{
	static char buf[PIECE];
	fds[1] = -1;
	fds[0] = open("/tmp", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	CHECK(fds[0] >= 0);
	for (size_t at = 0; at < TOTAL;) {
		size_t n = TOTAL - at < sizeof buf ? TOTAL - at : sizeof buf;
		pattern_fill(buf, at, n);
		CHECK_INT(write(fds[0], buf, n), (ssize_t)n);
		at += n;
	}
	CHECK_INT(lseek(fds[0], 0, SEEK_SET), 0);
}

typedef void opener(int fds[2]);

/* Everything from one kind of descriptor to another. Whether a pipe's flag, which others share, is as it was. */
static void copy_between(opener *a, opener *b, bool slow_writer, bool slow_reader)
{
	int in[2], out[2];
	struct far w = {.total = TOTAL, .slow = slow_writer}, r = {.total = TOTAL, .slow = slow_reader};
	a(in);
	b(out);
	int flags_in = fcntl(in[0], F_GETFL), flags_out = fcntl(out[1], F_GETFL);
	struct hark_conn *from = conn_of(in[0]), *to = conn_of(out[1]);
	if (in[1] >= 0)
		far_start(&w, write_main, in[1]);
	far_start(&r, read_main, out[0]);
	CHECK_INT(hark_copy(from, to, NULL), TOTAL);
	CHECK(!from->no_splice);
	if (a == raw_pipe)
		CHECK_INT(fcntl(in[0], F_GETFL), flags_in);
	if (b == raw_pipe)
		CHECK_INT(fcntl(out[1], F_GETFL), flags_out);
	struct hark_conn_stats stats;
	hark_conn_stats(to, &stats);
	CHECK_INT(stats.bytes_out, TOTAL);
	CHECK_INT(hark_close(to), 0);
	CHECK_INT(hark_close(from), 0);
	CHECK_INT(pthread_join(r.thread, NULL), 0);
	if (in[1] >= 0)
		CHECK_INT(pthread_join(w.thread, NULL), 0);
}

static void all_ways_body(void)
{
	for (int slow = 0; slow < 3; slow++) {
		copy_between(raw_stream, raw_pipe, slow == 1, slow == 2);
		copy_between(raw_pipe, raw_stream, slow == 1, slow == 2);
		copy_between(raw_pipe, raw_pipe, slow == 1, slow == 2);
	}
	copy_between(raw_file, raw_stream, false, false);
	copy_between(raw_file, raw_stream, false, true);
	copy_between(raw_file, raw_pipe, false, true);
}

static void every_byte_passes_pipes_and_files_in_order(void **state)
{
	(void)state;
	everywhere(all_ways_body);
}

#define ROUND 65536 /* bytes: what a pipe holds, and four times a buffer's */

/* Rounds that are passed on whole before the next one begins. */
static void rounds_between(opener *a, opener *b)
{
	static char sent[ROUND], got[ROUND];
	int in[2], out[2];
	a(in);
	b(out);
	struct hark_conn *from = conn_of(in[0]), *to = conn_of(out[1]);
	for (int round = 0; round < 5; round++) {
		pattern_fill(sent, (size_t)round, ROUND);
		CHECK_INT(write(in[1], sent, ROUND), ROUND);
		for (size_t passed = 0; passed < ROUND;) {
			ssize_t n = hark_pass(from, to);
			CHECK(n > 0);
			CHECK_INT(hark_flush(to), 0);
			for (size_t end = passed + (size_t)n; passed < end; passed += (size_t)n) {
				n = read(out[0], got + passed, end - passed);
				CHECK(n > 0);
			}
		}
		CHECK(memcmp(sent, got, ROUND) == 0);
		CHECK(round == 0 || from->bulk);
	}
	(void)close(in[1]);
	(void)close(out[0]);
	hark_abort(to);
	hark_abort(from);
}

static void rounds_body(void)
{
	rounds_between(raw_stream, raw_pipe);
	rounds_between(raw_pipe, raw_stream);
	rounds_between(raw_pipe, raw_pipe);
}

static void much_at_a_time_is_spliced(void **state)
{
	(void)state;
	everywhere(rounds_body);
}

static void small_exchanges_body(void)
{
	int in[2], out[2];
	char byte;
	raw_pipe(in);
	raw_stream(out);
	struct hark_conn *from = conn_of(in[0]), *to = conn_of(out[1]);
	for (int i = 0; i < 20; i++) {
		CHECK_INT(write(in[1], "x", 1), 1);
		CHECK_INT(hark_pass(from, to), 1);
		CHECK_INT(hark_flush(to), 0);
		CHECK_INT(read(out[0], &byte, 1), 1);
	}
	CHECK(!from->bulk);
	CHECK((fcntl(out[1], F_GETFL) & O_NONBLOCK) == 0);
	(void)close(in[1]);
	CHECK_INT(hark_pass(from, to), 0);
	hark_abort(to);
	hark_abort(from);
	(void)close(out[0]);
}

static void small_exchanges_are_not_spliced(void **state)
{
	(void)state;
	everywhere(small_exchanges_body);
}

/* Who reads the pipe goes in the midst: its writer is told, without a signal; the peer is not blamed. */
static void reader_gone_body(void)
{
	int in[2], out[2];
	bool to_failed = false;
	struct far w = {.total = TOTAL, .stop_at = 1u << 20}, r = {.stop_at = 3 * PIECE};
	raw_stream(in);
	raw_pipe(out);
	struct hark_conn *from = conn_of(in[0]), *to = conn_of(out[1]);
	far_start(&w, write_main, in[1]);
	far_start(&r, read_main, out[0]);
	CHECK_INT(hark_copy(from, to, &to_failed), -EPIPE);
	CHECK(to_failed);
	CHECK_INT(hark_flush(to), -EPIPE);
	hark_abort(to);
	CHECK_INT(pthread_join(r.thread, NULL), 0);
	char rest[PIECE];
	while (hark_read(from, rest, sizeof rest) > 0)
		;
	hark_abort(from);
	CHECK_INT(pthread_join(w.thread, NULL), 0);
}

static void a_reader_that_goes_is_the_writers_failure(void **state)
{
	(void)state;
	everywhere(reader_gone_body);
}

/* A peer that resets in the midst has failed, the pipe has not. */
static void reset_body(void)
{
	int in[2], out[2];
	bool to_failed = true;
	static char much[PIECE];
	raw_stream(in);
	raw_pipe(out);
	struct far r = {.stop_at = SIZE_MAX};
	struct hark_conn *from = conn_of(in[0]), *to = conn_of(out[1]), *peer = conn_of(in[1]);
	far_start(&r, read_main, out[0]);
	for (size_t at = 0; at < 10 * PIECE; at += PIECE) {
		pattern_fill(much, at, PIECE);
		CHECK_INT(hark_write(peer, much, PIECE), PIECE);
		for (size_t passed = 0; passed < PIECE;) {
			ssize_t n = hark_pass(from, to);
			CHECK(n > 0);
			CHECK_INT(hark_flush(to), 0);
			passed += (size_t)n;
		}
	}
	hark_abort(peer);
	CHECK_INT(hark_copy(from, to, &to_failed), -ECONNRESET);
	CHECK(!to_failed);
	hark_abort(from);
	CHECK_INT(hark_close(to), 0);
	CHECK_INT(pthread_join(r.thread, NULL), 0);
}

static void a_peer_that_resets_is_the_readers_failure(void **state)
{
	(void)state;
	everywhere(reset_body);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_byte_passes_pipes_and_files_in_order),
		cmocka_unit_test(much_at_a_time_is_spliced),
		cmocka_unit_test(small_exchanges_are_not_spliced),
		cmocka_unit_test(a_reader_that_goes_is_the_writers_failure),
		cmocka_unit_test(a_peer_that_resets_is_the_readers_failure),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
