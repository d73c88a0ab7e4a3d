/* test_log_out.c — where lines of harkd's log go: nothing makes it wait, what is lost is told, files and daemons are
 * found again. */
#include "log_support.h"

#include <pty.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

static void before_log_open_lines_go_to_standard_error(void **state)
{
	(void)state;
	int p[2];
	assert_int_equal(pipe(p), 0);
	take_stderr(p[1]);
	log_event(LOG_LEVEL_ERROR, NULL, "no %s", "sockets");
	log_event(LOG_LEVEL_NOTICE, "daytime", "worker %d up", 72);
	give_back();
	(void)drain(p[0], text, sizeof text);
	assert_string_equal(text, "harkd: no sockets\nharkd: daytime: worker 72 up\n");
	assert_int_equal(log_fd(), 2);
	(void)close(p[0]);
	(void)close(p[1]);
}

/* ---- never waiting --------------------------------------------------------------------------- */

/* Logs into standard error = fd until lines are lost, and on; returns how many were lost. A log that waits is ended by
 * alarm(2). */
static uint64_t overfill(int fd, int lines)
{
	_Atomic uint64_t dropped = 0;
	struct log_connection c = connection();
	struct config config = {.log = (char *)"stderr", .log_connections = true};

	take_stderr(fd);
	int err = log_open(&config, NULL);
	(void)alarm(20);
	for (int i = 0; i < lines; i++)
		log_connection(&c, &dropped);
	(void)alarm(0);
	give_back();
	assert_int_equal(err, 0);
	return dropped;
}

/* After room was made: the next line says how many were lost, and then itself. */
static void check_lost_is_told(int write_to, int read_from, uint64_t lost)
{
	char wanted[160];

	(void)drain(read_from, text, sizeof text);
	take_stderr(write_to);
	log_event(LOG_LEVEL_NOTICE, NULL, "there is room");
	log_event(LOG_LEVEL_NOTICE, NULL, "again");
	give_back();
	(void)drain(read_from, text, sizeof text);
	(void)snprintf(wanted, sizeof wanted,
	               "harkd: %" PRIu64 " lines were lost\nharkd: there is room\nharkd: again\n", lost);
	assert_string_equal(text, wanted);
}

static void a_full_pipe_loses_lines_and_says_so(void **state)
{
	(void)state;
	int p[2];
	assert_int_equal(pipe(p), 0);
	uint64_t lost = overfill(p[1], 2000);
	assert_in_range(lost, 1000, 1999);
	assert_int_equal(fcntl(p[1], F_GETFL) & O_NONBLOCK, 0); /* others write there too */
	check_lost_is_told(p[1], p[0], lost);
	(void)close(p[0]);
	(void)close(p[1]);
}

static void a_full_fifo_loses_lines_and_says_so(void **state)
{
	(void)state;
	const char *path = in_directory("fifo");
	assert_int_equal(mkfifo(path, 0600), 0);
	int in = open(path, O_RDONLY | O_NONBLOCK), out = open(path, O_WRONLY);
	assert_true(in >= 0 && out >= 0);
	uint64_t lost = overfill(out, 2000);
	assert_in_range(lost, 1000, 1999);
	check_lost_is_told(out, in, lost);
	(void)close(in);
	(void)close(out);
}

static void a_full_stream_socket_loses_lines_and_says_so(void **state)
{
	(void)state;
	int p[2];
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, p), 0);
	uint64_t lost = overfill(p[1], 5000);
	assert_in_range(lost, 1, 4999);
	check_lost_is_told(p[1], p[0], lost);
	(void)close(p[0]);
	(void)close(p[1]);
}

/* Over all that says how many lines were lost. */
static uint64_t sum_of_lost(void)
{
	uint64_t sum = 0, n;

	for (const char *at = text; (at = strstr(at, "harkd: ")) != NULL; at++)
		if (sscanf(at, "harkd: %" SCNu64 " line", &n) == 1)
			sum += n;
	return sum;
}

/* A terminal hands on in the background: there may be room again, and what was lost so far be told, at any line. */
static void a_stopped_terminal_loses_lines_and_says_so(void **state)
{
	(void)state;
	int master, slave;
	struct termios raw = {.c_cflag = CS8 | CREAD};
	if (openpty(&master, &slave, NULL, &raw, NULL) != 0) {
		print_message("skipped: no pseudo-terminal here\n");
		skip();
	}
	uint64_t lost = overfill(slave, 1000);
	assert_in_range(lost, 1, 999);
	size_t len = drain(master, text, sizeof text);
	take_stderr(slave);
	log_event(LOG_LEVEL_NOTICE, NULL, "there is room");
	give_back();
	while (strstr(text, "harkd: there is room\n") == NULL &&
	       poll(&(struct pollfd){.fd = master, .events = POLLIN}, 1, 10000) == 1) {
		ssize_t n = read(master, text + len, sizeof text - 1 - len);
		assert_true(n > 0);
		text[len += (size_t)n] = '\0';
	}
	assert_non_null(strstr(text, "harkd: there is room\n"));
	assert_int_equal(sum_of_lost(), lost);
	(void)close(slave);
	(void)close(master);
}

/* Lines longer than the room that is left, and others that write there as well: poll(2) alone does not tell. */
static void a_terminal_that_nobody_reads_holds_up_nobody(void **state)
{
	(void)state;
	int master, slave;
	if (openpty(&master, &slave, NULL, NULL, NULL) != 0) {
		print_message("skipped: no pseudo-terminal here\n");
		skip();
	}
	struct config config = {.log = (char *)"stderr", .log_connections = true};
	static char words[900];
	memset(words, 'w', sizeof words - 1);
	take_stderr(slave);
	int err = log_open(&config, NULL);
	(void)alarm(20);
	for (int i = 0; i < 500; i++)
		log_event(LOG_LEVEL_NOTICE, NULL, "%.*s", 100 + i, words);
	(void)alarm(0);
	give_back();
	assert_int_equal(err, 0);
	assert_int_equal(fcntl(slave, F_GETFL) & O_NONBLOCK, 0); /* others write there too */
	(void)close(slave);
	(void)close(master);
}

/* No more descriptors than are open now. */
static struct rlimit no_more_descriptors(void)
{
	struct rlimit before;
	int next = dup(2);

	assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
	(void)close(next);
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &(struct rlimit){(rlim_t)next, before.rlim_max}), 0);
	return before;
}

/* A reload then: the description that was there goes on. */
static void without_descriptors_the_log_that_is_open_goes_on(void **state)
{
	(void)state;
	int p[2];
	char wanted[80];
	_Atomic uint64_t dropped = 0;
	struct log_connection c = connection();
	assert_int_equal(pipe(p), 0);
	take_stderr(p[1]);
	open_log("stderr", CONFIG_LOG_TEXT);
	int fd = log_fd();
	struct rlimit before = no_more_descriptors();
	open_log("stderr", CONFIG_LOG_TEXT);
	int after = log_fd();
	(void)setrlimit(RLIMIT_NOFILE, &before);
	(void)alarm(20);
	for (int i = 0; i < 2000; i++)
		log_connection(&c, &dropped);
	(void)drain(p[0], text, sizeof text);
	log_event(LOG_LEVEL_NOTICE, NULL, "there is room");
	(void)alarm(0);
	int flags = fcntl(after, F_GETFL);
	give_back();
	assert_true(fd > 2 && after == fd && (flags & O_NONBLOCK) != 0);
	(void)drain(p[0], text, sizeof text);
	(void)snprintf(wanted, sizeof wanted, "harkd: %" PRIu64 " lines were lost\nharkd: there is room\n", dropped);
	assert_string_equal(text, wanted);
	(void)close(p[0]);
	(void)close(p[1]);
}

/* Nor was there one from the start. */
static void without_a_descriptor_of_its_own_a_log_holds_up_nobody(void **state)
{
	(void)state;
	static char words[900];
	memset(words, 'w', sizeof words - 1);
	for (int kind = 0; kind < 2; kind++) {
		int p[2];
		if (kind == 0 ? openpty(&p[0], &p[1], NULL, NULL, NULL) != 0 : pipe(p) != 0)
			continue;
		take_stderr(p[1]);
		struct rlimit before = no_more_descriptors();
		open_log("stderr", CONFIG_LOG_TEXT);
		int fd = log_fd();
		(void)alarm(20);
		for (int i = 0; i < 800; i++)
			log_event(LOG_LEVEL_NOTICE, NULL, "%.*s", 1 + i, words);
		(void)drain(p[0], text, sizeof text);
		for (int i = 0; i < 10; i++)
			log_event(LOG_LEVEL_NOTICE, NULL, "there is room");
		(void)alarm(0);
		(void)setrlimit(RLIMIT_NOFILE, &before);
		give_back();
		assert_int_equal(fd, 2);
		(void)drain(p[0], text, sizeof text);
		assert_non_null(strstr(text, "lines were lost"));
		assert_non_null(strstr(text, "harkd: there is room"));
		(void)close(p[0]);
		(void)close(p[1]);
	}
}

static void processes_share_the_count_of_what_was_lost(void **state)
{
	(void)state;
	int p[2], status;
	assert_int_equal(pipe(p), 0);
	uint64_t lost = overfill(p[1], 2000);
	pid_t pid = fork();
	if (pid == 0) {
		(void)dup2(p[1], 2);
		for (int i = 0; i < 3; i++)
			log_event(LOG_LEVEL_NOTICE, NULL, "lost");
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	check_lost_is_told(p[1], p[0], lost + 3);
	(void)close(p[0]);
	(void)close(p[1]);
}

/* ---- a file ---------------------------------------------------------------------------------- */

static const char *contents(const char *path)
{
	int fd = open(path, O_RDONLY);
	ssize_t n = fd >= 0 ? read(fd, text, sizeof text - 1) : -1;

	if (n < 0)
		fail_msg("%s: %s", path, strerror(errno));
	(void)close(fd);
	text[n] = '\0';
	return text;
}

static void a_file_is_appended_to_and_made_anew_after_it_was_moved(void **state)
{
	(void)state;
	char path[128], old[144];
	struct stat st;
	(void)snprintf(path, sizeof path, "%s", in_directory("log"));
	(void)snprintf(old, sizeof old, "%s.1", path);
	mode_t mask = umask(0);
	open_log(path, CONFIG_LOG_TEXT);
	(void)umask(mask);
	int fd = log_fd();
	assert_true(fd > 2 && (fcntl(fd, F_GETFD) & FD_CLOEXEC) != 0 && (fcntl(fd, F_GETFL) & O_APPEND) != 0);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0640);
	log_event(LOG_LEVEL_NOTICE, "a", "one");
	assert_int_equal(rename(path, old), 0);
	log_event(LOG_LEVEL_NOTICE, "a", "two");
	open_log(path, CONFIG_LOG_TEXT);
	assert_int_equal(log_fd(), fd);
	log_event(LOG_LEVEL_NOTICE, "a", "three");
	(void)contents(old);
	/* In a file an event has its time as well: 24 bytes and a blank. */
	assert_true(strlen(text) == 2 * strlen("2026-11-21T15:00:00.123Z harkd: a: one\n") &&
	            strstr(text, "Z harkd: a: two\n") != NULL);
	assert_string_equal(contents(path) + 24, " harkd: a: three\n");
	open_log("stderr", CONFIG_LOG_TEXT);
	struct stat file, now;
	assert_int_equal(stat(path, &file), 0);
	assert_true(fstat(fd, &now) < 0 || now.st_ino != file.st_ino); /* closed */
}

/* A worker that is told to go on: logs a line for each byte, until the end. */
static void worker(int in, int out, uid_t uid)
{
	char c;

	if (uid != 0 && setuid(uid) != 0)
		_exit(1);
	while (read(in, &c, 1) == 1) {
		log_event(LOG_LEVEL_NOTICE, "worker", "line %c", c);
		if (write(out, &c, 1) != 1)
			break;
	}
	_exit(0);
}

static void check_worker_after_reload(uid_t uid)
{
	struct log_channel channel;
	char path[128], old[144], c;
	int p[2], status;
	(void)snprintf(path, sizeof path, "%s%d", in_directory("reload"), (int)uid);
	(void)snprintf(old, sizeof old, "%s.1", path);
	open_log(path, CONFIG_LOG_TEXT);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, p), 0);
	assert_int_equal(log_channel_open(&channel), 0);
	pid_t pid = fork();
	if (pid == 0) {
		(void)close(p[0]);
		(void)close(channel.to);
		log_follow(channel.from);
		worker(p[1], p[1], uid);
	}
	(void)close(p[1]);
	assert_true(write(p[0], "1", 1) == 1 && read(p[0], &c, 1) == 1);
	assert_int_equal(rename(path, old), 0);
	for (int i = 0; i < 3; i++) { /* as many as like: the last one counts */
		(void)unlink(path);
		open_log(path, CONFIG_LOG_TEXT);
		log_channel_send(&channel);
	}
	assert_true(write(p[0], "2", 1) == 1 && read(p[0], &c, 1) == 1);
	(void)close(p[0]);
	log_channel_close(&channel);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	assert_non_null(strstr(contents(old), "line 1\n"));
	assert_non_null(strstr(contents(path), "line 2\n"));
	open_log("stderr", CONFIG_LOG_TEXT);
}

static void a_process_that_runs_already_follows_to_the_new_file(void **state)
{
	(void)state;
	check_worker_after_reload(0);
}

static void one_that_may_not_open_it_follows_as_well(void **state)
{
	(void)state;
	if (getuid() != 0) {
		print_message("skipped: needs root\n");
		skip();
	}
	check_worker_after_reload(65534);
}

static void a_line_that_was_cut_does_not_run_into_the_next(void **state)
{
	(void)state;
	struct rlimit saved, limit;
	char path[128];
	(void)snprintf(path, sizeof path, "%s", in_directory("full"));
	assert_int_equal(getrlimit(RLIMIT_FSIZE, &saved), 0);
	(void)signal(SIGXFSZ, SIG_IGN);
	limit = saved;
	limit.rlim_cur = 60;
	open_log(path, CONFIG_LOG_TEXT);
	int err = setrlimit(RLIMIT_FSIZE, &limit);
	log_event(LOG_LEVEL_NOTICE, NULL, "one");
	log_event(LOG_LEVEL_NOTICE, NULL, "two is cut");
	log_event(LOG_LEVEL_NOTICE, NULL, "three is lost");
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &saved), 0);
	assert_int_equal(err, 0);
	log_event(LOG_LEVEL_NOTICE, NULL, "four");
	(void)contents(path);
	char *lost = strstr(text, "harkd: 2 lines were lost\n");
	assert_non_null(lost);
	assert_true(lost - text == 60 + 1 + 25 && text[60] == '\n');
	assert_non_null(strstr(lost, "harkd: four\n"));
	open_log("stderr", CONFIG_LOG_TEXT);
}

static void what_cannot_be_opened_changes_nothing(void **state)
{
	(void)state;
	struct hark_why why;
	static const struct {
		const char *log, *facility, *why;
		int err;
	} rows[] = {
		{"/nonexistent/log", NULL, "log file /nonexistent/log: No such file or directory", -ENOENT},
		{"sylog", NULL, "log sylog: Invalid argument (stderr, syslog, journal", -EINVAL},
		{"syslog", "demon", "log facility demon: Invalid argument (daemon,", -EINVAL},
		{"journal", NULL, "No such file or directory (is the daemon running?)", -ENOENT},
	};
	open_log(in_directory("kept"), CONFIG_LOG_JSON);
	int fd = log_fd();
	assert_int_equal(setenv("HARKD_JOURNAL_SOCKET", "/nonexistent/journal", 1), 0);
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		struct config c = {.log = (char *)rows[i].log, .syslog_facility = (char *)rows[i].facility};
		assert_int_equal(log_open(&c, &why), rows[i].err);
		if (strstr(why.text, rows[i].why) == NULL)
			fail_msg("\"%s\", not \"%s\"", why.text, rows[i].why);
		assert_int_equal(log_open(&c, NULL), rows[i].err);
		assert_int_equal(log_fd(), fd);
	}
	log_event(LOG_LEVEL_NOTICE, NULL, "still here");
	assert_non_null(strstr(contents(in_directory("kept")), "\"message\":\"still here\"}\n"));
	open_log("stderr", CONFIG_LOG_TEXT);
}

static void connections_may_be_left_out(void **state)
{
	(void)state;
	struct config c = {.log = in_directory("few"), .log_connections = false};
	struct log_connection l = connection();
	assert_int_equal(log_open(&c, NULL), 0);
	log_connection(&l, NULL);
	log_event(LOG_LEVEL_NOTICE, NULL, "an event");
	assert_string_equal(contents(c.log) + 24, " harkd: an event\n");
	open_log("stderr", CONFIG_LOG_TEXT);
}

/* ---- daemons --------------------------------------------------------------------------------- */

static void syslog_is_found_again_after_it_was_restarted(void **state)
{
	(void)state;
	int fd = daemon_socket("devlog", "HARKD_SYSLOG_SOCKET");
	open_log("syslog", CONFIG_LOG_TEXT);
	int number = log_fd();
	log_event(LOG_LEVEL_NOTICE, NULL, "before");
	assert_string_equal(syslog_rest(next(fd), 3 * 8 + 5), "event - before");
	(void)close(fd);
	log_event(LOG_LEVEL_NOTICE, NULL, "nobody listens");
	log_event(LOG_LEVEL_NOTICE, NULL, "nor now");
	fd = daemon_socket("devlog", "HARKD_SYSLOG_SOCKET");
	log_event(LOG_LEVEL_NOTICE, NULL, "after");
	assert_string_equal(syslog_rest(next(fd), 3 * 8 + 4), "event - 2 lines were lost");
	assert_string_equal(syslog_rest(next(fd), 3 * 8 + 5), "event - after");
	assert_int_equal(log_fd(), number);
	(void)close(fd);
	open_log("stderr", CONFIG_LOG_TEXT);
}

static void a_daemon_that_does_not_read_loses_lines(void **state)
{
	(void)state;
	static const char *const kinds[][2] = {{"syslog", "HARKD_SYSLOG_SOCKET"}, {"journal", "HARKD_JOURNAL_SOCKET"}};
	for (int k = 0; k < 2; k++) {
		int fd = daemon_socket(kinds[k][0], kinds[k][1]);
		struct log_connection l = connection();
		_Atomic uint64_t dropped = 0;
		char wanted[40];
		open_log(kinds[k][0], CONFIG_LOG_TEXT);
		(void)alarm(20);
		for (int i = 0; i < 5000; i++)
			log_connection(&l, &dropped);
		(void)alarm(0);
		assert_in_range(dropped, 1, 4999);
		while (poll(&(struct pollfd){.fd = fd, .events = POLLIN}, 1, 0) == 1)
			(void)next(fd);
		log_event(LOG_LEVEL_NOTICE, NULL, "there is room");
		(void)snprintf(wanted, sizeof wanted, "%" PRIu64 " lines were lost", dropped);
		assert_non_null(strstr(next(fd), wanted));
		assert_non_null(strstr(next(fd), "there is room"));
		(void)close(fd);
	}
	open_log("stderr", CONFIG_LOG_TEXT);
}

static void errno_is_left_alone(void **state)
{
	(void)state;
	int p[2];
	struct log_connection l = connection();
	assert_int_equal(pipe(p), 0);
	(void)overfill(p[1], 1000);
	take_stderr(p[1]);
	errno = 4711;
	log_event(LOG_LEVEL_NOTICE, NULL, "lost");
	log_connection(&l, NULL);
	int left = errno;
	give_back();
	assert_int_equal(left, 4711);
	(void)close(p[0]);
	(void)close(p[1]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(before_log_open_lines_go_to_standard_error),
		cmocka_unit_test(a_full_pipe_loses_lines_and_says_so),
		cmocka_unit_test(a_full_fifo_loses_lines_and_says_so),
		cmocka_unit_test(a_full_stream_socket_loses_lines_and_says_so),
		cmocka_unit_test(a_stopped_terminal_loses_lines_and_says_so),
		cmocka_unit_test(a_terminal_that_nobody_reads_holds_up_nobody),
		cmocka_unit_test(without_descriptors_the_log_that_is_open_goes_on),
		cmocka_unit_test(without_a_descriptor_of_its_own_a_log_holds_up_nobody),
		cmocka_unit_test(processes_share_the_count_of_what_was_lost),
		cmocka_unit_test(a_file_is_appended_to_and_made_anew_after_it_was_moved),
		cmocka_unit_test(a_process_that_runs_already_follows_to_the_new_file),
		cmocka_unit_test(one_that_may_not_open_it_follows_as_well),
		cmocka_unit_test(a_line_that_was_cut_does_not_run_into_the_next),
		cmocka_unit_test(what_cannot_be_opened_changes_nothing),
		cmocka_unit_test(connections_may_be_left_out),
		cmocka_unit_test(syslog_is_found_again_after_it_was_restarted),
		cmocka_unit_test(a_daemon_that_does_not_read_loses_lines),
		cmocka_unit_test(errno_is_left_alone),
	};
	return cmocka_run_group_tests(tests, make_directory, remove_directory);
}
