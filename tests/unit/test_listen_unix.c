/* test_listen_unix.c — listening on unix paths: replacing what the dead left, never what lives or is another's. */
#include "listen_support.h"

#include <sys/file.h>

#include "faults.h"

static char directory[] = "/tmp/hark-listen-XXXXXX";
static char path[sizeof directory + 8], address[sizeof path + 16], gram[sizeof path + 16];

static int make_directory(void **state)
{
	(void)state;
	(void)strcpy(directory + sizeof directory - 7, "XXXXXX");
	if (mkdtemp(directory) == NULL)
		return -1;
	(void)snprintf(path, sizeof path, "%s/s", directory);
	(void)snprintf(address, sizeof address, "unix:%s", path);
	(void)snprintf(gram, sizeof gram, "unixgram:%s", path);
	return 0;
}

static int remove_directory(void **state)
{
	(void)state;
	(void)unlink(path);
	return rmdir(directory);
}

/* A socket bound to path as a server that died, or lives, leaves it. */
static int leave_path(int type, bool listening)
{
	struct sockaddr_un at = {.sun_family = AF_UNIX};
	(void)snprintf(at.sun_path, sizeof at.sun_path, "%s", path);
	int fd = socket(AF_UNIX, type | SOCK_CLOEXEC, 0);
	assert_true(fd >= 0);
	assert_int_equal(bind(fd, (struct sockaddr *)&at, sizeof at), 0);
	if (listening)
		assert_int_equal(listen(fd, 0), 0);
	return fd;
}

static bool exists(void)
{
	struct stat st;
	return lstat(path, &st) == 0;
}

static void a_unix_path_is_made_and_removed(void **state)
{
	(void)state;
	char text[HARK_ADDRESS_MAX];
	for (int i = 0; i < 2; i++) {
		struct hark_listener *l = must_open(i == 0 ? address : gram, (struct hark_listen_opts){0});
		assert_true(hark_listener_address(l, text, sizeof text) > 0);
		assert_string_equal(text, i == 0 ? address : gram);
		assert_int_equal(hark_listener_type(l), i == 0 ? SOCK_STREAM : SOCK_DGRAM);
		assert_true(exists());
		hark_listener_close(l);
		assert_false(exists());
	}
}

static void mode_and_owner_are_set(void **state)
{
	(void)state;
	struct stat st;
	char owner[64];
	mode_t umask_before = umask(077);
	struct hark_listener *l = must_open(address, (struct hark_listen_opts){.unix_mode = 0662});
	(void)umask(umask_before);
	assert_int_equal(lstat(path, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0662);
	hark_listener_close(l);
	(void)snprintf(owner, sizeof owner, ":%u", (unsigned)getegid());
	l = must_open(address, (struct hark_listen_opts){.unix_owner = owner});
	assert_int_equal(lstat(path, &st), 0);
	assert_int_equal(st.st_gid, getegid());
	hark_listener_close(l);
	if (geteuid() != 0) {
		print_message("skipped in part: giving a path away needs root\n");
		return;
	}
	l = must_open(address, (struct hark_listen_opts){.unix_owner = "12345:54321", .unix_mode = 0600});
	assert_int_equal(lstat(path, &st), 0);
	assert_int_equal(st.st_uid, 12345);
	assert_int_equal(st.st_gid, 54321);
	hark_listener_close(l);
	l = must_open(address, (struct hark_listen_opts){.unix_owner = "root:root"});
	assert_int_equal(lstat(path, &st), 0);
	assert_int_equal(st.st_uid, 0);
	hark_listener_close(l);
}

static int (*real_bind)(int fd, const struct sockaddr *at, socklen_t len);
static mode_t mode_at_bind;

static int bind_looking(int fd, const struct sockaddr *at, socklen_t len)
{
	struct stat st = {0};
	int r = real_bind(fd, at, len);
	assert_int_equal(lstat(path, &st), 0);
	mode_at_bind = st.st_mode & 0777;
	return r;
}

static void nobody_has_rights_that_are_to_be_taken_away(void **state)
{
	(void)state;
	mode_t before = umask(0);
	real_bind = hark__sys.bind;
	hark__sys.bind = bind_looking;
	struct hark_listener *l = must_open(gram, (struct hark_listen_opts){.unix_mode = 0600});
	hark__sys.bind = real_bind;
	(void)umask(before);
	assert_int_equal(mode_at_bind, 0600);
	hark_listener_close(l);
}

static void an_unknown_owner_is_told_before_anything_is_made(void **state)
{
	(void)state;
	struct hark_listener *l;
	static const char *const owners[] = {"no-such-user", ":no-such-group", "0:no-such-group", "99999999999999"};
	static const char *const told[] = {"no user \"no-such-user\")", "no group \"no-such-group\")",
	                                   "no group \"no-such-group\")", "no user \"99999999999999\")"};
	for (size_t i = 0; i < sizeof owners / sizeof *owners; i++) {
		assert_int_equal(open_at(address, (struct hark_listen_opts){.unix_owner = owners[i]}, &l), -EINVAL);
		assert_non_null(strstr(why.text, told[i]));
		assert_false(exists());
	}
}

static void a_path_left_by_the_dead_is_replaced(void **state)
{
	(void)state;
	static const int types[] = {SOCK_STREAM, SOCK_DGRAM};
	for (int i = 0; i < 4; i++) {
		struct stat left, made;
		(void)close(leave_path(types[i / 2], i < 2));
		assert_int_equal(lstat(path, &left), 0);
		struct hark_listener *l = must_open(i % 2 == 0 ? address : gram, (struct hark_listen_opts){0});
		assert_int_equal(lstat(path, &made), 0);
		assert_true(S_ISSOCK(made.st_mode));
		hark_listener_close(l);
		assert_false(exists());
	}
}

static void a_live_path_is_refused(void **state)
{
	(void)state;
	static const int types[] = {SOCK_STREAM, SOCK_DGRAM};
	for (int i = 0; i < 4; i++) {
		struct hark_listener *l;
		struct stat before, after;
		int fd = leave_path(types[i / 2], i < 2);
		assert_int_equal(lstat(path, &before), 0);
		assert_int_equal(open_at(i % 2 == 0 ? address : gram, (struct hark_listen_opts){0}, &l), -EADDRINUSE);
		assert_non_null(
			strstr(why.text, "Address already in use (a live server has this path: ss -xlp tells which)"));
		assert_int_equal(lstat(path, &after), 0);
		assert_int_equal(before.st_ino, after.st_ino);
		(void)close(fd);
		(void)unlink(path);
	}
}

static void a_live_path_with_a_full_backlog_is_refused(void **state)
{
	(void)state;
	struct hark_listener *l;
	struct sockaddr_un at = {.sun_family = AF_UNIX};
	int fd = leave_path(SOCK_STREAM, true), filler = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	(void)snprintf(at.sun_path, sizeof at.sun_path, "%s", path);
	assert_int_equal(connect(filler, (struct sockaddr *)&at, sizeof at), 0);
	assert_int_equal(open_at(address, (struct hark_listen_opts){0}, &l), -EADDRINUSE);
	assert_true(exists());
	(void)close(filler);
	(void)close(fd);
}

/* Anybody who may look into a directory may lock it. */
static void a_lock_on_the_directory_holds_up_nobody(void **state)
{
	(void)state;
	struct hark_listener *l;
	int lock = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_int_equal(flock(lock, LOCK_EX | LOCK_NB), 0);
	(void)close(leave_path(SOCK_STREAM, true));
	int64_t before = hark_now();
	assert_int_equal(open_at(address, (struct hark_listen_opts){0}, &l), 0);
	assert_true(hark_now() - before < 500 * HARK_MS);
	hark_listener_close(l);
	(void)close(lock);
}

static int told_fd, heard_fd;
static int (*real_rename)(const char *, const char *);

/* Between its last look at a stale path and its removal a starter is overtaken by another, if that one can. */
static int rename_late(const char *from, const char *to)
{
	struct pollfd wait = {.fd = heard_fd, .events = POLLIN};
	CHECK_INT(write(told_fd, "x", 1), 1);
	(void)poll(&wait, 1, 300);
	hark__sys.rename = real_rename;
	return real_rename(from, to);
}

/* Lives on, so that its path does. */
static _Noreturn void start_and_tell(int results)
{
	struct hark_listener *l;
	(void)alarm(30);
	int rc = open_at(address, (struct hark_listen_opts){0}, &l);
	CHECK_INT(write(results, rc == 0 ? "l" : rc == -EADDRINUSE ? "r" : "?", 1), 1);
	for (;;)
		(void)pause();
}

static void two_starters_at_one_stale_path_do_not_both_get_it(void **state)
{
	(void)state;
	int late[2], results[2];
	pid_t pids[2];
	char byte, got[2];
	(void)close(leave_path(SOCK_STREAM, true));
	assert_int_equal(pipe2(late, O_CLOEXEC), 0);
	assert_int_equal(pipe2(results, O_CLOEXEC), 0);
	pids[0] = fork();
	if (pids[0] == 0) {
		told_fd = late[1];
		heard_fd = results[0];
		real_rename = hark__sys.rename;
		hark__sys.rename = rename_late;
		start_and_tell(results[1]);
	}
	pids[1] = fork();
	if (pids[1] == 0) {
		CHECK_INT(read(late[0], &byte, 1), 1);
		start_and_tell(results[1]);
	}
	assert_true(pids[0] > 0 && pids[1] > 0);
	for (int i = 0; i < 2; i++)
		assert_int_equal(read(results[0], &got[i], 1), 1);
	for (int i = 0; i < 2; i++) {
		assert_int_equal(kill(pids[i], SIGKILL), 0);
		assert_int_equal(waitpid(pids[i], NULL, 0), pids[i]);
		(void)close(late[i]);
		(void)close(results[i]);
	}
	(void)unlink(path);
	assert_true((got[0] == 'l' && got[1] == 'r') || (got[0] == 'r' && got[1] == 'l'));
}

static int starting_fd;
static int (*real_connect)(int fd, const struct sockaddr *to, socklen_t len);

/* The server that is just starting gets to its listen(2) right after somebody found it refusing. */
static int connect_then_listen(int fd, const struct sockaddr *to, socklen_t len)
{
	int rc = real_connect(fd, to, len), err = errno;
	(void)listen(starting_fd, 1);
	errno = err;
	return rc;
}

/* bind(2) done, listen(2) not yet: connecting is refused as if nobody were there. */
static void a_server_that_is_just_starting_is_not_taken_for_dead(void **state)
{
	(void)state;
	struct hark_listener *l;
	starting_fd = leave_path(SOCK_STREAM, false);
	real_connect = hark__sys.connect;
	hark__sys.connect = connect_then_listen;
	int rc = open_at(address, (struct hark_listen_opts){0}, &l);
	hark__sys.connect = real_connect;
	assert_int_equal(rc, -EADDRINUSE);
	assert_true(exists());
	(void)close(starting_fd);
}

static void what_is_not_a_socket_is_never_removed(void **state)
{
	(void)state;
	struct hark_listener *l;
	struct stat st;
	for (int i = 0; i < 2; i++) {
		if (i == 0)
			(void)close(open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
		else
			assert_int_equal(symlink("/nonexistent", path), 0);
		assert_int_equal(open_at(address, (struct hark_listen_opts){0}, &l), -EADDRINUSE);
		assert_non_null(strstr(
			why.text, "Address already in use (the path exists and is not a socket: it is not removed)"));
		assert_int_equal(lstat(path, &st), 0);
		assert_false(S_ISSOCK(st.st_mode));
		(void)unlink(path);
	}
}

static void a_path_that_is_anothers_by_now_is_left_to_it(void **state)
{
	(void)state;
	struct hark_listener *l = must_open(address, (struct hark_listen_opts){0});
	assert_int_equal(unlink(path), 0);
	int fd = leave_path(SOCK_STREAM, true);
	hark_listener_close(l);
	assert_true(exists());
	(void)close(fd);
}

static void a_relative_path_is_removed_where_it_was_made(void)
{
	struct hark_listener *l;
	struct stat st;
	char base[] = "/tmp/hark-unit-dir-XXXXXX", sub[sizeof base + 4];
	CHECK(mkdtemp(base) != NULL && chdir(base) == 0 && mkdir("sub", 0700) == 0);
	CHECK_INT(hark_listen("unix:s", NULL, &l), 0);
	CHECK(chdir("sub") == 0);
	int other = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0); /* of the same name, elsewhere */
	struct sockaddr_un at = {.sun_family = AF_UNIX, .sun_path = "s"};
	CHECK_INT(bind(other, (struct sockaddr *)&at, sizeof at), 0);
	hark_listener_close(l);
	CHECK_INT(lstat("../s", &st), -1);
	CHECK_INT(lstat("s", &st), 0);
	CHECK(unlink("s") == 0 && chdir("/") == 0);
	(void)snprintf(sub, sizeof sub, "%s/sub", base);
	CHECK(rmdir(sub) == 0);
	CHECK(rmdir(base) == 0);
}

static void a_child_does_not_remove_its_parents_path(void **state)
{
	(void)state;
	struct hark_listener *l = must_open(address, (struct hark_listen_opts){0});
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		hark_listener_close(l);
		_exit(0);
	}
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	assert_true(exists());
	hark_listener_close(l);
	assert_false(exists());
}

static void an_abstract_name_leaves_no_path(void **state)
{
	(void)state;
	char name[64], text[HARK_ADDRESS_MAX];
	struct hark_listener *second;
	(void)snprintf(name, sizeof name, "unix:@hark-unit-%d", (int)getpid());
	struct hark_listener *l = must_open(name, (struct hark_listen_opts){.unix_mode = 0600, .unix_owner = "0"});
	assert_true(hark_listener_address(l, text, sizeof text) > 0);
	assert_string_equal(text, name);
	assert_int_equal(open_at(name, (struct hark_listen_opts){0}, &second), -EADDRINUSE);
	assert_non_null(strstr(why.text, "a live server has this name"));
	hark_listener_close(l);
	hark_listener_close(must_open(name, (struct hark_listen_opts){0}));
}

static void a_missing_directory_is_told(void **state)
{
	(void)state;
	struct hark_listener *l;
	char text[sizeof address + 8];
	(void)snprintf(text, sizeof text, "%s/x", address);
	assert_int_equal(open_at(text, (struct hark_listen_opts){0}, &l), -ENOENT);
	assert_non_null(strstr(why.text, "No such file or directory (there is no such directory)"));
}

/* ---- every system call fails at its Nth use ---- */

FAULT(int, socket, (int a, int b, int c), (a, b, c))
FAULT(int, setsockopt, (int a, int b, int c, const void *d, socklen_t e), (a, b, c, d, e))
FAULT(int, getsockopt, (int a, int b, int c, void *d, socklen_t *e), (a, b, c, d, e))
FAULT(int, bind, (int a, const struct sockaddr *b, socklen_t c), (a, b, c))
FAULT(int, listen, (int a, int b), (a, b))
FAULT(int, getsockname, (int a, struct sockaddr *b, socklen_t *c), (a, b, c))
FAULT(int, lstat, (const char *a, struct stat *b), (a, b))
FAULT(int, chmod, (const char *a, mode_t b), (a, b))
FAULT(int, chown, (const char *a, uid_t b, gid_t c), (a, b, c))
FAULT_NULL(calloc, (size_t a, size_t b), (a, b))

static const struct fault faults[] = {
	FAULT_ROW(socket),      FAULT_ROW(setsockopt), FAULT_ROW(getsockopt), FAULT_ROW(bind),  FAULT_ROW(listen),
	FAULT_ROW(getsockname), FAULT_ROW(lstat),      FAULT_ROW(chmod),      FAULT_ROW(chown), FAULT_ROW(calloc),
};

static void a_failing_system_call_leaks_nothing(void **state)
{
	(void)state;
	const char *const addresses[] = {"tcp://*:0", "udp://127.0.0.1:0", address};
	char owner[32];
	int failed = 0, before = open_descriptors();
	(void)snprintf(owner, sizeof owner, "%u", (unsigned)geteuid());
	for (size_t i = 0; i < 3 * (sizeof faults / sizeof *faults); i++) {
		const struct fault *fault = &faults[i / 3];
		for (int nth = 1; nth < 32; nth++) {
			struct hark_listener *l;
			fault->install();
			fault_countdown = nth;
			int rc = open_at(addresses[i % 3],
			                 (struct hark_listen_opts){.unix_mode = 0600, .unix_owner = owner}, &l);
			bool used = fault_countdown == 0;
			fault_countdown = 0;
			fault->remove();
			failed += rc < 0;
			assert_true(rc == 0 || (rc == -ENOMEM && l == NULL && strncmp(why.text, "listen ", 7) == 0));
			hark_listener_close(l);
			assert_int_equal(open_descriptors(), before);
			if (strcmp(fault->name, "lstat") != 0) /* what cannot be looked at cannot be known to be ours */
				assert_false(exists());
			(void)unlink(path);
			if (!used) {
				assert_int_equal(rc, 0);
				break;
			}
		}
	}
	assert_true(failed > 15); /* the faults do reach the listener */
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(a_unix_path_is_made_and_removed, make_directory, remove_directory),
		cmocka_unit_test_setup_teardown(mode_and_owner_are_set, make_directory, remove_directory),
		cmocka_unit_test_setup_teardown(nobody_has_rights_that_are_to_be_taken_away, make_directory,
	                                        remove_directory),
		cmocka_unit_test_setup_teardown(an_unknown_owner_is_told_before_anything_is_made, make_directory,
	                                        remove_directory),
		cmocka_unit_test_setup_teardown(a_path_left_by_the_dead_is_replaced, make_directory, remove_directory),
		cmocka_unit_test_setup_teardown(a_live_path_is_refused, make_directory, remove_directory),
		cmocka_unit_test_setup_teardown(a_live_path_with_a_full_backlog_is_refused, make_directory,
	                                        remove_directory),
		cmocka_unit_test_setup_teardown(a_server_that_is_just_starting_is_not_taken_for_dead, make_directory,
	                                        remove_directory),
		cmocka_unit_test_setup_teardown(a_lock_on_the_directory_holds_up_nobody, make_directory,
	                                        remove_directory),
		cmocka_unit_test_setup_teardown(two_starters_at_one_stale_path_do_not_both_get_it, make_directory,
	                                        remove_directory),
		cmocka_unit_test_setup_teardown(what_is_not_a_socket_is_never_removed, make_directory,
	                                        remove_directory),
		cmocka_unit_test_setup_teardown(a_path_that_is_anothers_by_now_is_left_to_it, make_directory,
	                                        remove_directory),
		IN_CHILD(a_relative_path_is_removed_where_it_was_made),
		cmocka_unit_test_setup_teardown(a_child_does_not_remove_its_parents_path, make_directory,
	                                        remove_directory),
		cmocka_unit_test_setup_teardown(an_abstract_name_leaves_no_path, make_directory, remove_directory),
		cmocka_unit_test_setup_teardown(a_missing_directory_is_told, make_directory, remove_directory),
		cmocka_unit_test_setup_teardown(a_failing_system_call_leaks_nothing, make_directory, remove_directory),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
