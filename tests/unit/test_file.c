/* test_file.c — pipes, terminals and files are read and written without waiting, and nobody else sees a flag. */
#include "net_support.h"

#include <pty.h>
#include <termios.h>

#include "address/fd.h"
#include "address/file.h"
#include "base/sys.h"

#define ALARM_S 10 /* a call that blocks ends the test */

static int prepared(int fd)
{
	(void)alarm(ALARM_S);
	int way = hark__file_prepare(fd);
	assert_true(way >= 0);
	return way;
}

static int64_t fill(int fd, int way)
{
	char lines[4096];
	int64_t all = 0;
	ssize_t n;
	memset(lines, '\n', sizeof lines);
	while ((n = hark__file_write(fd, (enum hark__file_way)way, lines, sizeof lines)) > 0)
		all += n;
	assert_int_equal(n, -EAGAIN);
	return all;
}

static void a_pipe_is_read_without_waiting(void **state)
{
	(void)state;
	int p[2];
	char buf[8];
	assert_int_equal(pipe2(p, O_CLOEXEC), 0);
	int in = prepared(p[0]), out = prepared(p[1]);
	assert_int_equal(hark__file_read(p[0], in, buf, sizeof buf), -EAGAIN); /* as if somebody else had been faster */
	assert_int_equal(hark__file_write(p[1], out, "abc", 3), 3);
	assert_int_equal(hark__file_read(p[0], in, buf, sizeof buf), 3);
	assert_true(fill(p[1], out) >= 4096);
	assert_int_equal(fcntl(p[0], F_GETFL) & O_NONBLOCK, 0);
	assert_int_equal(fcntl(p[1], F_GETFL) & O_NONBLOCK, 0);
	(void)close(p[0]);
	assert_int_equal(hark__file_write(p[1], out, "abc", 3), -EPIPE); /* and no SIGPIPE */
	(void)close(p[1]);
}

static ssize_t refuse_nowait(int fd, const struct iovec *v, int n, off_t at, int flags)
{
	(void)fd, (void)v, (void)n, (void)at, (void)flags;
	errno = EOPNOTSUPP;
	return -1;
}

static void a_kernel_without_nowait_is_polled_first(void **state)
{
	(void)state;
	struct hark__sys real = hark__sys;
	int p[2];
	char buf[8];
	assert_int_equal(pipe2(p, O_CLOEXEC), 0);
	hark__sys.preadv2 = hark__sys.pwritev2 = refuse_nowait;
	int in = prepared(p[0]), out = prepared(p[1]);
	assert_int_equal(hark__file_read(p[0], in, buf, sizeof buf), -EAGAIN);
	assert_true(fill(p[1], out) >= 4096);
	assert_int_equal(hark__file_read(p[0], in, buf, sizeof buf), sizeof buf);
	hark__sys = real;
	(void)close(p[0]);
	(void)close(p[1]);
}

static void a_terminal_is_written_without_waiting_and_its_flags_left(void **state)
{
	(void)state;
	int master, slave;
	char buf[8];
	assert_int_equal(openpty(&master, &slave, NULL, NULL, NULL), 0);
	int other = dup(slave), way = prepared(slave);
	assert_true(other >= 0);
	assert_true(fill(slave, way) > 0);
	assert_int_equal(hark__file_read(slave, way, buf, sizeof buf), -EAGAIN);
	assert_int_equal(fcntl(other, F_GETFL) & O_NONBLOCK, 0);
	assert_int_equal(hark__fd_nonblock(slave, false), 0); /* before a program gets it */
	assert_int_equal(fcntl(slave, F_GETFL) & O_NONBLOCK, 0);
	assert_int_equal(fcntl(slave, F_GETFD), FD_CLOEXEC);
	(void)close(slave);
	(void)close(other);
	(void)close(master);
}

static int no_open(const char *path, int flags)
{
	(void)path, (void)flags;
	errno = EACCES;
	return -1;
}

static void a_terminal_that_cannot_be_opened_is_written_byte_by_byte(void **state)
{
	(void)state;
	struct hark__sys real = hark__sys;
	int master, slave;
	assert_int_equal(openpty(&master, &slave, NULL, NULL, NULL), 0);
	struct termios t;
	assert_int_equal(tcgetattr(slave, &t), 0);
	t.c_oflag &= ~(tcflag_t)OPOST;
	assert_int_equal(tcsetattr(slave, TCSANOW, &t), 0);
	hark__sys.open = no_open;
	int way = prepared(slave);
	hark__sys = real;
	assert_true(fill(slave, way) > 0);
	(void)close(slave);
	(void)close(master);
}

static void the_master_of_a_terminal_is_written_without_waiting(void **state)
{
	(void)state;
	int master, slave;
	struct termios t;
	char buf[8];
	assert_int_equal(openpty(&master, &slave, NULL, NULL, NULL), 0);
	assert_int_equal(tcgetattr(slave, &t), 0);
	cfmakeraw(&t);
	assert_int_equal(tcsetattr(slave, TCSANOW, &t), 0);
	int way = prepared(master);
	char name[64];
	assert_int_equal(ptsname_r(master, name, sizeof name), 0); /* still that of this terminal */
	assert_string_equal(name, ttyname(slave));
	assert_true(fill(master, way) > 0);
	assert_int_equal(hark__file_read(master, way, buf, sizeof buf), -EAGAIN);
	assert_int_equal(fcntl(master, F_GETFL) & O_NONBLOCK, 0);
	(void)close(slave);
	(void)close(master);
}

static void a_named_fifo_is_read_without_waiting(void **state)
{
	(void)state;
	char path[] = "/tmp/hark-fifo-XXXXXX", buf[8];
	int made = mkstemp(path);
	assert_true(made >= 0);
	(void)close(made);
	(void)unlink(path);
	assert_int_equal(mkfifo(path, 0600), 0);
	int in = open(path, O_RDWR | O_CLOEXEC), out = open(path, O_WRONLY | O_CLOEXEC), other = dup(in);
	assert_true(in >= 0 && out >= 0 && other >= 0);
	(void)unlink(path);
	int way = prepared(in), out_way = prepared(out);
	assert_int_equal(hark__file_read(in, way, buf, sizeof buf), -EAGAIN);
	assert_true(fill(out, out_way) >= 4096);
	assert_int_equal(fcntl(other, F_GETFL) & O_NONBLOCK, 0);
	(void)close(in);
	(void)close(out);
	(void)close(other);
}

static void a_file_is_read_on_from_where_it_stands(void **state)
{
	(void)state;
	char path[] = "/tmp/hark-file-XXXXXX", buf[8];
	int fd = mkostemp(path, O_CLOEXEC);
	assert_true(fd >= 0);
	(void)unlink(path);
	int way = prepared(fd);
	assert_int_equal(way, HARK__FILE_PLAIN);
	assert_int_equal(hark__file_write(fd, way, "abcdef", 6), 6);
	assert_int_equal(lseek(fd, 2, SEEK_SET), 2);
	assert_int_equal(hark__file_read(fd, way, buf, sizeof buf), 4);
	assert_int_equal(hark__file_read(fd, way, buf, sizeof buf), 0);
	(void)close(fd);
	assert_int_equal(hark__file_prepare(fd), -EBADF);
}

static void lingering_is_switched_off_before_a_close(void **state)
{
	(void)state;
	struct linger l = {.l_onoff = 1, .l_linger = 30};
	socklen_t len = sizeof l;
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(hark__fd_unlinger(fd), 0);
	assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_LINGER, &l, sizeof l), 0);
	assert_int_equal(hark__fd_unlinger(fd), 30);
	assert_int_equal(hark__fd_unlinger(fd), 0);
	l.l_linger = 0; /* a reset does not wait, and is kept */
	assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_LINGER, &l, sizeof l), 0);
	assert_int_equal(hark__fd_unlinger(fd), 0);
	assert_int_equal(getsockopt(fd, SOL_SOCKET, SO_LINGER, &l, &len), 0);
	assert_int_equal(l.l_onoff, 1);
	(void)close(fd);
	assert_int_equal(hark__fd_unlinger(fd), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_pipe_is_read_without_waiting),
		cmocka_unit_test(a_kernel_without_nowait_is_polled_first),
		cmocka_unit_test(a_terminal_is_written_without_waiting_and_its_flags_left),
		cmocka_unit_test(a_terminal_that_cannot_be_opened_is_written_byte_by_byte),
		cmocka_unit_test(the_master_of_a_terminal_is_written_without_waiting),
		cmocka_unit_test(a_named_fifo_is_read_without_waiting),
		cmocka_unit_test(a_file_is_read_on_from_where_it_stands),
		cmocka_unit_test(lingering_is_switched_off_before_a_close),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
