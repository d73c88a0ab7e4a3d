/* test_stalls.c — what would block a whole loop, and does not: terminals nobody reads, pipes that others read too,
 * sockets that linger. A timer of 5 ms beside shows whether the loop stands still. */
#include "modes.h"

#include <fcntl.h>
#include <pty.h>
#include <termios.h>

#include "base/sys.h"

static int64_t last_tick, longest; /* between two turns of the ticker */

static void ticker(void *arg)
{
	(void)arg;
	while (hark_sleep(5 * HARK_MS) == 0) {
		int64_t now = hark_now();
		if (now - last_tick > longest)
			longest = now - last_tick;
		last_tick = now;
	}
}

#define STALL_NS (HARK_S * SLOWER)

/* body runs beside the ticker, which never waits as long as a stall lasts. */
static void beside_ticker(void (*body)(void))
{
	struct hark_scope s;
	longest = 0;
	last_tick = hark_now();
	hark_scope_open(&s);
	CHECK_INT(hark_go(&s, "ticker", ticker, NULL), 0);
	body();
	CHECK_INT(hark_sleep(20 * HARK_MS), 0);
	hark_scope_close(&s);
	CHECK(longest < STALL_NS);
}

/* ---- terminals -------------------------------------------------------------------------------- */

static int other_end;

static void write_too_much(int fd)
{
	static char lines[200000];
	struct hark_conn *c = conn_of(fd);
	memset(lines, '\n', sizeof lines);
	hark_idle_timeout(c, 100 * HARK_MS);
	CHECK_INT(hark_write(c, lines, sizeof lines), -ETIMEDOUT);
	hark_abort(c);
}

static void write_to_slave(void)
{
	int slave;
	CHECK_INT(openpty(&other_end, &slave, NULL, NULL, NULL), 0);
	int beside = fcntl(slave, F_DUPFD_CLOEXEC, 0);
	write_too_much(slave);
	CHECK_INT(fcntl(beside, F_GETFL) & O_NONBLOCK, 0);
	(void)close(beside);
	(void)close(other_end);
}

static void write_to_master(void)
{
	int master;
	struct termios t;
	CHECK_INT(openpty(&master, &other_end, NULL, NULL, NULL), 0);
	CHECK_INT(tcgetattr(other_end, &t), 0);
	cfmakeraw(&t);
	CHECK_INT(tcsetattr(other_end, TCSANOW, &t), 0);
	write_too_much(master);
	(void)close(other_end);
}

static void a_terminal_that_nobody_reads_does_not_stall_the_loop(void)
{
	beside_ticker(write_to_slave);
	beside_ticker(write_to_master);
}

/* All that is written to a terminal arrives. */
static void what_is_written_to_a_terminal_arrives(void)
{
	static char sent[30000], got[30000];
	int master, slave;
	struct termios t;
	struct hark_scope s;
	CHECK_INT(openpty(&master, &slave, NULL, NULL, NULL), 0);
	CHECK_INT(tcgetattr(slave, &t), 0);
	cfmakeraw(&t);
	CHECK_INT(tcsetattr(slave, TCSANOW, &t), 0);
	struct pair p = {conn_of(master), conn_of(slave)};
	pattern_fill(sent, 0, sizeof sent);
	for (int i = 0; i < 2; i++) {
		struct hark_conn *from = i == 0 ? p.a : p.b, *to = i == 0 ? p.b : p.a;
		size_t n = 0;
		hark_scope_open(&s);
		CHECK_INT(hark_go(&s, "ticker", ticker, NULL), 0);
		while (n < sizeof sent) {
			size_t step = sizeof sent - n < 1000 ? sizeof sent - n : 1000;
			CHECK_INT(hark_write(from, sent + n, step), step);
			CHECK_INT(hark_flush(from), 0);
			CHECK_INT(hark_readn(to, got + n, step), step);
			n += step;
		}
		hark_scope_close(&s);
		CHECK(pattern_is(got, 0, sizeof got));
	}
	pair_drop(&p);
}

/* ---- pipes ------------------------------------------------------------------------------------ */

static int (*real_poll)(struct pollfd *p, nfds_t n, int timeout_ms);
static int shared_pipe = -1;

/* As if another process read it between our poll(2) and our read(2). */
static int poll_and_lose(struct pollfd *p, nfds_t n, int timeout_ms)
{
	char stolen[16];
	int r = real_poll(p, n, timeout_ms);
	if (n == 1 && p->fd == shared_pipe && (p->revents & POLLIN))
		CHECK(read(shared_pipe, stolen, sizeof stolen) > 0);
	return r;
}

static int pipe_writer;

static void writes_at_times(void *arg)
{
	(void)arg;
	for (int i = 0; i < 3; i++) {
		CHECK_INT(hark_sleep(10 * HARK_MS), 0);
		CHECK_INT(write(pipe_writer, "x", 1), 1);
	}
}

static void read_shared(void)
{
	int p[2], r;
	char byte;
	struct hark_scope s;
	CHECK_INT(pipe2(p, O_CLOEXEC), 0);
	pipe_writer = p[1];
	shared_pipe = p[0];
	CHECK_INT(write(p[1], "x", 1), 1);
	struct hark_conn *c = conn_of(p[0]);
	hark_idle_timeout(c, 100 * HARK_MS);
	hark_scope_open(&s);
	CHECK_INT(hark_go(&s, "writes", writes_at_times, NULL), 0);
	do
		r = (int)hark_read(c, &byte, 1);
	while (r > 0);
	CHECK_INT(r, -ETIMEDOUT);
	hark_scope_close(&s);
	shared_pipe = -1;
	hark_abort(c);
	(void)close(p[1]);
}

static void a_pipe_that_another_process_reads_too_does_not_stall_the_loop(void)
{
	real_poll = hark__sys.poll;
	hark__sys.poll = poll_and_lose;
	beside_ticker(read_shared);
	hark__sys.poll = real_poll;
}

/* ---- lingering -------------------------------------------------------------------------------- */

static void close_lingering(bool by_option)
{
	static char much[400000];
	struct hark_listener *l;
	struct hark_conn *c;
	char address[HARK_ADDRESS_MAX];
	struct hark_dial_opts o = {.linger_s = by_option ? 8 : 0, .send_buffer_bytes = 1 << 20};
	struct hark_listen_opts small = {.receive_buffer_bytes = 4096};
	CHECK_INT(hark_listen("tcp://127.0.0.1:0", &small, &l), 0);
	CHECK(hark_listener_address(l, address, sizeof address) > 0);
	CHECK_INT(hark_dial(address, &o, &c), 0);
	if (!by_option) {
		struct linger on = {.l_onoff = 1, .l_linger = 8};
		CHECK_INT(setsockopt(hark_fd(c), SOL_SOCKET, SO_LINGER, &on, sizeof on), 0);
	}
	CHECK_INT(hark_write(c, much, sizeof much), sizeof much); /* to a peer that does not read */
	CHECK_INT(hark_flush(c), 0);
	hark_deadline(c, hark_after(100 * HARK_MS));
	int64_t began = hark_now();
	(void)hark_close(c);
	CHECK(hark_now() - began < STALL_NS);
	hark_listener_close(l);
}

static void close_that_dialed_so(void)
{
	close_lingering(true);
}

static void close_that_set_it(void)
{
	close_lingering(false);
}

static void a_socket_that_lingers_does_not_stall_the_loop(void)
{
	beside_ticker(close_that_dialed_so);
	beside_ticker(close_that_set_it);
}

/* Answers much, and sets SO_LINGER if arg says so; else the connection has it from its listener. */
static void answer_lingering(struct hark_conn *c, void *arg)
{
	static char much[400000];
	const struct linger on = {.l_onoff = 1, .l_linger = 8};
	const bool *by_box = arg;
	if (*by_box)
		CHECK_INT(setsockopt(hark_fd(c), SOL_SOCKET, SO_LINGER, &on, sizeof on), 0);
	CHECK_INT(hark_write(c, much, sizeof much), sizeof much);
}

struct lingering {
	struct hark_listener *l;
	bool by_box;
};

static void serve_until_cancelled(void *arg)
{
	struct lingering *g = arg;
	struct hark_serve_opts o = {.lifetime_ns = 200 * HARK_MS};
	(void)hark_serve(&g->l, 1, answer_lingering, &g->by_box, &o);
}

static void serve_lingering(bool by_box)
{
	struct lingering g = {.by_box = by_box};
	struct hark_conn *c;
	struct hark_scope s;
	char address[HARK_ADDRESS_MAX];
	const struct linger on = {.l_onoff = 1, .l_linger = 8};
	struct hark_listen_opts large = {.send_buffer_bytes = 1 << 20};
	struct hark_dial_opts small = {.receive_buffer_bytes = 4096};
	CHECK_INT(hark_listen("tcp://127.0.0.1:0", &large, &g.l), 0);
	if (!by_box)
		CHECK_INT(setsockopt(hark_listener_fd(g.l), SOL_SOCKET, SO_LINGER, &on, sizeof on), 0);
	CHECK(hark_listener_address(g.l, address, sizeof address) > 0);
	CHECK_INT(hark_dial(address, &small, &c), 0); /* and never reads */
	hark_scope_open(&s);
	CHECK_INT(hark_go(&s, "server", serve_until_cancelled, &g), 0);
	CHECK_INT(hark_sleep(400 * HARK_MS), 0); /* past the connection's lifetime */
	hark_cancel(&s);
	hark_scope_close(&s);
	hark_abort(c);
	hark_listener_close(g.l);
}

static void serve_with_a_box_that_lingers(void)
{
	serve_lingering(true);
}

static void serve_with_a_listener_that_lingers(void)
{
	serve_lingering(false);
}

static void a_served_connection_that_lingers_does_not_stall_the_loop(void)
{
	mode_kept = 2; /* by which the first server hears of drains */
	beside_ticker(serve_with_a_box_that_lingers);
	beside_ticker(serve_with_a_listener_that_lingers);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		ON_ENGINES(a_terminal_that_nobody_reads_does_not_stall_the_loop),
		ON_ENGINES(what_is_written_to_a_terminal_arrives),
		ON_ENGINES(a_pipe_that_another_process_reads_too_does_not_stall_the_loop),
		ON_ENGINES(a_socket_that_lingers_does_not_stall_the_loop),
		ON_ENGINES(a_served_connection_that_lingers_does_not_stall_the_loop),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
