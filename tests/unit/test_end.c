/* test_end.c — how connections end: what is cut looks cut to the peer, what is whole ends in order, whoever else holds
 * the socket. The peer is a plain descriptor. */
#include "modes.h"

#include <poll.h>
#include <sys/sendfile.h>
#include <termios.h>

#include "base/sys.h"
#include "on_loop.h"

#define MB    ((size_t)1 << 20)
#define MUCH  (20 * MB) /* more than any socket takes */
#define SMALL 65536     /* bytes of socket buffers */

/* ---- the peer -------------------------------------------------------------------------------- */

/* Reads to the end, with a bound in time. 0: in order; -ECONNRESET: cut; -ETIMEDOUT: it goes on. *got: the bytes. */
static int read_to_the_end(int fd, size_t *got)
{
	static char buf[MB];
	struct timeval most = {.tv_sec = 5 * SLOWER};
	ssize_t n;
	CHECK_INT(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &most, sizeof most), 0);
	*got = 0;
	while ((n = receive(fd, buf, sizeof buf)) > 0)
		*got += (size_t)n;
	return n == 0 ? 0 : errno == EAGAIN ? -ETIMEDOUT : -errno;
}

struct ends {
	struct hark_conn *c;
	int peer;
};

static struct ends ends_of(const int fds[2])
{
	return (struct ends){conn_of(fds[0]), fds[1]};
}

static struct ends tcp_ends(void)
{
	int fds[2];
	raw_tcp_sized(fds, SMALL);
	return ends_of(fds);
}

static void check_end(struct ends *e, int wanted, size_t least, size_t most)
{
	size_t got;
	CHECK_INT(read_to_the_end(e->peer, &got), wanted);
	CHECK(got >= least);
	CHECK(got <= most);
	(void)close(e->peer);
}

static char *much(void)
{
	static char bytes[MUCH];
	return bytes;
}

/* ---- cut in the middle of a write ------------------------------------------------------------- */

static void a_write_that_time_cut_ends_in_a_reset(void)
{
	struct ends e = tcp_ends();
	hark_deadline(e.c, hark_after(50 * HARK_MS));
	CHECK_INT(hark_write(e.c, much(), MUCH), -ETIMEDOUT);
	CHECK_INT(hark_close(e.c), -ETIMEDOUT);
	check_end(&e, -ECONNRESET, 0, MUCH - 1);
	e = tcp_ends();
	hark_idle_timeout(e.c, 50 * HARK_MS);
	CHECK_INT(hark_write(e.c, much(), MUCH), -ETIMEDOUT);
	CHECK_INT(hark_close(e.c), -ETIMEDOUT);
	check_end(&e, -ECONNRESET, 0, MUCH - 1);
}

static void write_much(void *arg)
{
	struct ends *e = arg;
	CHECK_INT(hark_write(e->c, much(), MUCH), -ECANCELED);
	CHECK_INT(hark_close(e->c), -ECANCELED);
}

static void a_write_that_was_cancelled_ends_in_a_reset(void)
{
	struct ends e = tcp_ends();
	struct hark_scope s;
	hark_scope_open(&s);
	CHECK_INT(hark_go(&s, "writer", write_much, &e), 0);
	CHECK_INT(hark_sleep(20 * HARK_MS), 0);
	hark_scope_close(&s);
	check_end(&e, -ECONNRESET, 0, MUCH - 1);
}

/* The first part has left; the second was refused: the peer must not take the first for all. */
static void a_write_that_was_refused_ends_in_a_reset(void)
{
	struct ends e = tcp_ends();
	CHECK_INT(hark_write(e.c, "first", 5), 5);
	CHECK_INT(hark_flush(e.c), 0);
	hark_deadline(e.c, hark_now());
	CHECK_INT(hark_write(e.c, "", 0), -ETIMEDOUT); /* nothing is missing for that */
	hark_deadline(e.c, HARK_FOREVER);
	CHECK_INT(hark_write(e.c, "more", 4), 4);
	hark_deadline(e.c, hark_now());
	CHECK_INT(hark_write(e.c, "second", 6), -ETIMEDOUT);
	CHECK_INT(hark_close(e.c), -ETIMEDOUT);
	check_end(&e, -ECONNRESET, 0, 9);
}

/* What was accepted while there was time, and fits, leaves with the close: nothing is cut. */
static void what_was_written_in_time_leaves_with_a_late_close(void)
{
	struct ends e = tcp_ends();
	CHECK_INT(hark_write(e.c, "whole", 5), 5);
	hark_deadline(e.c, hark_now());
	CHECK_INT(hark_close(e.c), 0);
	check_end(&e, 0, 5, 5);
}

static void close_late(void *arg)
{
	struct ends *e = arg;
	CHECK_INT(hark_write(e->c, "whole", 5), 5);
	CHECK_INT(hark_sleep(HARK_S), -ECANCELED);
	CHECK_INT(hark_flush(e->c), -ECANCELED);
	CHECK_INT(hark_close(e->c), 0);
}

static void a_close_in_a_cancelled_fiber_sends_what_needs_no_waiting(void)
{
	struct ends e = tcp_ends();
	struct hark_scope s;
	hark_scope_open(&s);
	CHECK_INT(hark_go(&s, "writer", close_late, &e), 0);
	CHECK_INT(hark_sleep(5 * HARK_MS), 0);
	int64_t begun = hark_now();
	hark_scope_close(&s);
	CHECK(hark_now() - begun < 500 * HARK_MS); /* it does not wait for the peer's end */
	check_end(&e, 0, 5, 5);
}

/* ---- a server that ends ----------------------------------------------------------------------- */

struct model {
	enum hark_model model;
	const char *engine;
};

static void on_term(int sig)
{
	(void)sig;
	hark_drain(100 * HARK_MS);
}

/* Much at once, or in pieces that a peer who reads keeps up with: then no call ever waits. */
static void writes_much(struct hark_conn *c, void *arg)
{
	const size_t *piece = arg;
	ssize_t n;
	do
		n = hark_write(c, much(), *piece);
	while (n > 0 && *piece < MUCH);
}

static _Noreturn void serve_much(const struct model *m, int port_out, size_t piece)
{
	struct hark_listen_opts listen = {.send_buffer_bytes = SMALL};
	struct hark_serve_opts opts = {.model = m->model, .engine = m->engine};
	struct hark_listener *l;
	char at[HARK_ADDRESS_MAX];
	(void)signal(SIGTERM, on_term);
	(void)alarm(MODE_TIMEOUT_S);
	CHECK_INT(hark_listen("tcp://127.0.0.1:0", &listen, &l), 0);
	CHECK(hark_listener_address(l, at, sizeof at) > 0);
	CHECK(write(port_out, at, sizeof at) == sizeof at);
	int r = hark_serve(&l, 1, writes_much, &piece, &opts);
	_exit(r == -ENOSYS ? SKIPPED : 0);
}

static bool model_cuts(const struct model *m, size_t piece)
{
	int fds[2], status, r;
	char at[HARK_ADDRESS_MAX], first[100];
	struct hark_endpoint to;
	size_t got = 0;
	assert_int_equal(pipe(fds), 0);
	pid_t pid = fork();
	if (pid == 0)
		serve_much(m, fds[1], piece);
	(void)close(fds[1]);
	assert_int_equal(read(fds[0], at, sizeof at), sizeof at);
	(void)close(fds[0]);
	assert_int_equal(hark_resolve(at, &to, 1, HARK_FOREVER), 1);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), small = SMALL;
	assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof small), 0);
	assert_int_equal(connect(fd, (struct sockaddr *)&to.addr, to.len), 0);
	bool served = receive(fd, first, sizeof first) > 0; /* the box is at it */
	(void)kill(pid, SIGTERM);
	if (piece == MUCH) /* who reads nothing until the server is gone */
		assert_int_equal(waitpid(pid, &status, 0), pid);
	r = served ? read_to_the_end(fd, &got) : 0;
	if (piece != MUCH)
		assert_int_equal(waitpid(pid, &status, 0), pid);
	(void)close(fd);
	if (WIFEXITED(status) && WEXITSTATUS(status) == SKIPPED)
		return true;
	if (r == -ECONNRESET && WIFEXITED(status) && WEXITSTATUS(status) == 0)
		return true;
	(void)fprintf(stderr, "%s on %s, %zu at a time: the peer got %zu and then %d; status %#x\n",
	              hark_model_name(m->model), m->engine, piece, got, r, status);
	return false;
}

static void every_model_cuts(size_t piece)
{
	bool all = true;
	for (size_t i = 0; i < ENGINES_ALL; i++)
		for (enum hark_model model = HARK_MODEL_INLINE; model <= HARK_MODEL_FIBER; model++)
			all &= model_cuts(&(struct model){model, engines_all[i]}, piece);
	assert_true(all);
}

static void a_write_that_the_grace_cut_ends_in_a_reset(void **state)
{
	(void)state;
	every_model_cuts(MUCH);
}

static void a_box_that_never_waits_is_cut_by_the_grace_too(void **state)
{
	(void)state;
	every_model_cuts(10000);
}

/* ---- files ------------------------------------------------------------------------------------ */

static int sends_until_failure;

static ssize_t failing_sendfile(int out, int in, off_t *at, size_t n)
{
	if (sends_until_failure-- == 0) {
		errno = EIO;
		return -1;
	}
	ssize_t done = pread(in, much(), n < SMALL ? n : SMALL, *at);
	if (done > 0)
		done = send(out, much(), (size_t)done, MSG_NOSIGNAL);
	*at += done > 0 ? done : 0;
	return done;
}

static ssize_t failing_pread(int fd, void *buf, size_t n, off_t at)
{
	if (sends_until_failure-- == 0) {
		errno = EIO;
		return -1;
	}
	return pread(fd, buf, n, at);
}

static int file_of(size_t n)
{
	char path[] = "/tmp/hark-end-XXXXXX";
	int fd = mkostemp(path, O_CLOEXEC);
	CHECK(fd >= 0);
	CHECK_INT(unlink(path), 0);
	CHECK_INT(ftruncate(fd, (off_t)n), 0);
	return fd;
}

static void a_sendfile_that_failed_midway_is_a_reset_in_the_end(void)
{
	int file = file_of(3 * SMALL);
	struct ends e = tcp_ends();
	hark__sys.sendfile = failing_sendfile;
	sends_until_failure = 1;
	CHECK_INT(hark_sendfile(e.c, file, 0, 0), -EIO);
	CHECK_INT(hark_write(e.c, "x", 1), -EIO);
	CHECK_INT(hark_sendfile(e.c, file, 0, 0), -EIO);
	CHECK_INT(hark_close(e.c), -EIO);
	check_end(&e, -ECONNRESET, 0, SMALL);
	hark__sys.sendfile = sendfile;
	e = tcp_ends();
	hark_deadline(e.c, hark_after(50 * HARK_MS));
	CHECK_INT(ftruncate(file, (off_t)MUCH), 0);
	CHECK_INT(hark_sendfile(e.c, file, 0, 0), -ETIMEDOUT);
	hark_deadline(e.c, HARK_FOREVER);
	CHECK_INT(hark_write(e.c, "x", 1), -ETIMEDOUT);
	CHECK_INT(hark_close(e.c), -ETIMEDOUT);
	check_end(&e, -ECONNRESET, 0, MUCH - 1);
	(void)close(file);
}

/* The same by a buffer, where the kernel does not send: to a pipe. */
static void a_sendfile_by_buffer_that_failed_midway_sticks_too(void)
{
	int fds[2], file = file_of(MB);
	CHECK_INT(pipe2(fds, O_CLOEXEC), 0);
	CHECK_INT(fcntl(fds[1], F_SETPIPE_SZ, (int)MB) > 0, 1);
	struct ends e = ends_of((int[]){fds[1], fds[0]});
	hark__sys.pread = failing_pread;
	sends_until_failure = 2;
	CHECK_INT(hark_sendfile(e.c, file, 0, 0), -EIO);
	CHECK_INT(hark_write(e.c, "x", 1), -EIO);
	CHECK_INT(hark_close(e.c), -EIO);
	hark__sys.pread = pread;
	(void)close(e.peer);
	(void)close(file);
}

/* Nothing has left: what failed is the file. */
static void a_file_that_cannot_be_read_leaves_the_connection_whole(void)
{
	struct ends e = tcp_ends();
	CHECK_INT(hark_write(e.c, "before ", 7), 7);
	CHECK_INT(hark_sendfile(e.c, -1, 0, 0), -EBADF);
	int directory = open("/", O_RDONLY | O_CLOEXEC);
	CHECK_INT(hark_sendfile(e.c, directory, 0, 0), -EISDIR);
	(void)close(directory);
	CHECK_INT(hark_write(e.c, "after", 5), 5);
	CHECK_INT(shutdown(e.peer, SHUT_WR), 0); /* or it lingers */
	CHECK_INT(hark_close(e.c), 0);
	check_end(&e, 0, 12, 12);
}

/* ---- a forked child holds the socket ---------------------------------------------------------- */

static pid_t child_that_holds(void)
{
	pid_t pid = fork();
	CHECK(pid >= 0);
	if (pid == 0) {
		(void)alarm(MODE_TIMEOUT_S);
		for (;;)
			(void)pause();
	}
	return pid;
}

static void end_child(pid_t pid)
{
	CHECK_INT(kill(pid, SIGKILL), 0);
	CHECK_INT(waitpid(pid, NULL, 0), pid);
}

static void an_abort_does_not_wait_for_a_child_that_holds_the_socket(void)
{
	int fds[2];
	struct ends e = tcp_ends();
	pid_t pid = child_that_holds();
	hark_abort(e.c);
	check_end(&e, -ECONNRESET, 0, 0);
	end_child(pid);
	e = tcp_ends();
	pid = child_that_holds();
	hark_deadline(e.c, hark_after(20 * HARK_MS));
	CHECK_INT(hark_write(e.c, much(), MUCH), -ETIMEDOUT);
	CHECK_INT(hark_close(e.c), -ETIMEDOUT);
	check_end(&e, -ECONNRESET, 0, MUCH - 1);
	end_child(pid);
	raw_unix(fds); /* which knows no reset */
	e = ends_of(fds);
	pid = child_that_holds();
	hark_abort(e.c);
	check_end(&e, 0, 0, 0);
	end_child(pid);
}

static void held_close_with(struct ends e)
{
	char byte;
	CHECK_INT(shutdown(e.peer, SHUT_WR), 0);
	CHECK_INT(hark_read(e.c, &byte, 1), 0);
	CHECK_INT(hark_write(e.c, "the last", 8), 8);
	pid_t pid = child_that_holds();
	CHECK_INT(hark_close(e.c), 0);
	check_end(&e, 0, 8, 8);
	end_child(pid);
}

static void a_close_does_not_wait_for_a_child_that_holds_the_socket(void)
{
	int fds[2];
	held_close_with(tcp_ends());
	raw_unix(fds);
	held_close_with(ends_of(fds));
}

static void shared_close_with(struct ends e)
{
	int copy = dup(hark_fd(e.c));
	CHECK(copy >= 0);
	CHECK_INT(hark_write(e.c, "one ", 4), 4);
	hark_shared(e.c);
	CHECK_INT(hark_close(e.c), 0);
	CHECK_INT(poll(&(struct pollfd){.fd = e.peer, .events = POLLIN}, 1, 50), 1); /* not kept back for an end */
	CHECK_INT(write(copy, "two", 3), 3);
	CHECK_INT(close(copy), 0);
	check_end(&e, 0, 7, 7);
}

static void a_shared_connection_ends_with_the_last_who_has_it(void)
{
	int fds[2];
	shared_close_with(tcp_ends());
	raw_unix(fds);
	shared_close_with(ends_of(fds));
}

static void a_listening_socket_goes_on_where_a_copy_is_closed_or_aborted(void)
{
	struct hark_endpoint at;
	int l = plain_listener("127.0.0.1", 8, &at);
	struct hark_conn *c = conn_of(fcntl(l, F_DUPFD_CLOEXEC, 0));
	hark_abort(c);
	c = conn_of(fcntl(l, F_DUPFD_CLOEXEC, 0));
	CHECK_INT(hark_close(c), 0);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	CHECK_INT(connect(fd, (struct sockaddr *)&at.addr, at.len), 0);
	(void)close(fd);
	(void)close(l);
}

/* ---- pipes and terminals ---------------------------------------------------------------------- */

static struct ends pipe_ends(bool writes)
{
	int fds[2];
	CHECK_INT(pipe2(fds, O_CLOEXEC), 0);
	return writes ? ends_of((int[]){fds[1], fds[0]}) : ends_of(fds);
}

/* A pseudo-terminal's two sides, without echo or line editing. [0]: the master. */
static void raw_pty(int fds[2])
{
	struct termios t;
	fds[0] = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
	CHECK(fds[0] >= 0);
	CHECK_INT(grantpt(fds[0]), 0);
	CHECK_INT(unlockpt(fds[0]), 0);
	fds[1] = open(ptsname(fds[0]), O_RDWR | O_NOCTTY | O_CLOEXEC);
	CHECK(fds[1] >= 0);
	CHECK_INT(tcgetattr(fds[1], &t), 0);
	cfmakeraw(&t);
	CHECK_INT(tcsetattr(fds[1], TCSANOW, &t), 0);
}

static void the_shutdown_of_a_pipe_is_its_other_sides_end(void)
{
	char buf[16];
	struct ends e = pipe_ends(true);
	CHECK_INT(hark_write(e.c, "last", 4), 4);
	CHECK_INT(hark_shutdown(e.c, HARK_OUT), 0);
	CHECK_INT(read(e.peer, buf, sizeof buf), 4);
	struct pollfd p = {.fd = e.peer, .events = POLLIN};
	CHECK_INT(poll(&p, 1, 2000 * SLOWER), 1);
	CHECK_INT(read(e.peer, buf, sizeof buf), 0);
	CHECK_INT(hark_fd(e.c), -1);
	CHECK_INT(hark_write(e.c, "x", 1), -EPIPE);
	CHECK_INT(hark_shutdown(e.c, HARK_OUT), 0);
	CHECK_INT(hark_read(e.c, buf, 1), 0);
	CHECK_INT(hark_close(e.c), 0);
	(void)close(e.peer);
	e = pipe_ends(false);
	CHECK_INT(hark_shutdown(e.c, HARK_OUT), 0); /* it has none */
	CHECK(hark_fd(e.c) >= 0);
	CHECK_INT(hark_shutdown(e.c, HARK_IN), 0);
	CHECK_INT(hark_read(e.c, buf, 1), 0);
	CHECK_INT(hark_idle(e.c), 0);
	(void)signal(SIGPIPE, SIG_IGN);
	CHECK_INT(write(e.peer, "x", 1), -1);
	CHECK_INT(errno, EPIPE);
	CHECK_INT(hark_close(e.c), 0);
	(void)close(e.peer);
}

static void read_exactly(int fd, char *buf, size_t n)
{
	for (ssize_t got; n > 0; buf += got, n -= (size_t)got) {
		got = read(fd, buf, n);
		CHECK(got > 0);
	}
}

static void a_terminal_says_that_it_cannot_end_one_direction(void)
{
	int fds[2];
	char buf[16];
	raw_pty(fds);
	struct ends e = ends_of(fds);
	CHECK_INT(hark_write(e.c, "line", 4), 4);
	CHECK_INT(hark_shutdown(e.c, HARK_OUT), -EOPNOTSUPP);
	read_exactly(e.peer, buf, 4);             /* flushed all the same */
	CHECK_INT(hark_write(e.c, "more", 4), 4); /* and nothing has ended */
	CHECK_INT(hark_flush(e.c), 0);
	read_exactly(e.peer, buf, 4);
	CHECK_INT(hark_close(e.c), 0);
	(void)close(e.peer);
}

static void a_terminals_hang_up_is_its_end(void)
{
	int fds[2];
	char buf[16];
	raw_pty(fds);
	struct ends e = ends_of(fds);
	CHECK_INT(write(e.peer, "bye", 3), 3);
	(void)close(e.peer);
	CHECK_INT(hark_readn(e.c, buf, 3), 3);
	CHECK_INT(hark_read(e.c, buf, sizeof buf), 0);
	CHECK_INT(hark_idle(e.c), 0);
	CHECK_INT(hark_close(e.c), 0);
	raw_pty(fds); /* hung up while its reader waits */
	e = ends_of((int[]){fds[1], fds[0]});
	(void)close(e.peer);
	CHECK_INT(hark_read(e.c, buf, sizeof buf), 0);
	CHECK_INT(hark_close(e.c), 0);
}

/* ---- what must not stall a loop ---------------------------------------------------------------- */

static void full_terminal_with(struct ends e)
{
	static char bytes[MB];
	struct ticker t;
	CHECK_INT(ticker_start(&t), 0);
	hark_deadline(e.c, hark_after(200 * HARK_MS * SLOWER));
	CHECK_INT(hark_write(e.c, bytes, sizeof bytes), -ETIMEDOUT);
	CHECK(ticker_stop(&t) > 5);
	CHECK_INT(hark_close(e.c), -ETIMEDOUT);
	(void)close(e.peer);
}

static void a_terminal_that_nobody_reads_stalls_no_loop(void)
{
	int fds[2];
	raw_pty(fds);
	full_terminal_with(ends_of(fds));
	raw_pty(fds);
	full_terminal_with(ends_of((int[]){fds[1], fds[0]}));
}

/* Another process reads the same pipe, and is faster: between poll(2) and the read. */
static int stolen_from;

static void steal(void)
{
	char all[64];
	struct pollfd p = {.fd = stolen_from, .events = POLLIN};
	if (poll(&p, 1, 0) > 0)
		CHECK(read(stolen_from, all, sizeof all) > 0);
}

static ssize_t late_read(int fd, void *buf, size_t n)
{
	steal();
	return read(fd, buf, n);
}

static ssize_t late_preadv2(int fd, const struct iovec *iov, int n, off_t at, int flags)
{
	steal();
	return preadv2(fd, iov, n, at, flags);
}

static void a_pipe_that_others_read_stalls_no_loop(void)
{
	char buf[16];
	struct ticker t;
	struct ends e = pipe_ends(false);
	stolen_from = hark_fd(e.c);
	hark__sys.read = late_read;
	hark__sys.preadv2 = late_preadv2;
	CHECK_INT(write(e.peer, "x", 1), 1);
	CHECK_INT(ticker_start(&t), 0);
	hark_deadline(e.c, hark_after(200 * HARK_MS));
	CHECK_INT(hark_read(e.c, buf, sizeof buf), -ETIMEDOUT);
	CHECK(ticker_stop(&t) > 5);
	CHECK_INT(hark_close(e.c), 0);
	(void)close(e.peer);
}

static void a_close_with_so_linger_stalls_no_loop(void)
{
	static char bytes[160000]; /* more than the peer's buffer takes, less than both */
	struct linger on = {.l_onoff = 1, .l_linger = 5};
	struct ticker t;
	struct ends e = tcp_ends();
	CHECK_INT(setsockopt(hark_fd(e.c), SOL_SOCKET, SO_LINGER, &on, sizeof on), 0);
	CHECK_INT(hark_write(e.c, bytes, sizeof bytes), sizeof bytes);
	CHECK_INT(ticker_start(&t), 0);
	int64_t begun = hark_now();
	hark_deadline(e.c, hark_after(200 * HARK_MS));
	CHECK_INT(hark_close(e.c), 0);
	CHECK(ticker_stop(&t) > 5);
	CHECK(hark_now() - begun < 2 * HARK_S);
	check_end(&e, 0, sizeof bytes, sizeof bytes);
}

int main(int argc, char *argv[])
{
	const struct CMUnitTest tests[] = {
		EVERYWHERE(a_write_that_time_cut_ends_in_a_reset),
		ON_ENGINES(a_write_that_was_cancelled_ends_in_a_reset),
		EVERYWHERE(a_write_that_was_refused_ends_in_a_reset),
		EVERYWHERE(what_was_written_in_time_leaves_with_a_late_close),
		ON_ENGINES(a_close_in_a_cancelled_fiber_sends_what_needs_no_waiting),
		cmocka_unit_test(a_write_that_the_grace_cut_ends_in_a_reset),
		cmocka_unit_test(a_box_that_never_waits_is_cut_by_the_grace_too),
		EVERYWHERE(a_sendfile_that_failed_midway_is_a_reset_in_the_end),
		EVERYWHERE(a_sendfile_by_buffer_that_failed_midway_sticks_too),
		EVERYWHERE(a_file_that_cannot_be_read_leaves_the_connection_whole),
		EVERYWHERE(an_abort_does_not_wait_for_a_child_that_holds_the_socket),
		EVERYWHERE(a_close_does_not_wait_for_a_child_that_holds_the_socket),
		EVERYWHERE(a_shared_connection_ends_with_the_last_who_has_it),
		EVERYWHERE(a_listening_socket_goes_on_where_a_copy_is_closed_or_aborted),
		EVERYWHERE(the_shutdown_of_a_pipe_is_its_other_sides_end),
		EVERYWHERE(a_terminal_says_that_it_cannot_end_one_direction),
		EVERYWHERE(a_terminals_hang_up_is_its_end),
		ON_ENGINES(a_terminal_that_nobody_reads_stalls_no_loop),
		ON_ENGINES(a_pipe_that_others_read_stalls_no_loop),
		ON_ENGINES(a_close_with_so_linger_stalls_no_loop),
	};
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
