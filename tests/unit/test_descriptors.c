/* test_descriptors.c — a program that was started with standard descriptors closed finds nothing of the library's
 * there: else its next message to standard error would go to a peer. */
#include "modes.h"

static unsigned closed; /* a bit for each of 0, 1, 2 */

/* The box, in whatever process, thread or fiber: it cannot say it there, so its peer is told. */
static void tells_what_is_open(struct hark_conn *c, void *arg)
{
	bool clean = hark_fd(c) > 2;
	(void)arg;
	for (int fd = 0; fd <= 2; fd++)
		if (closed & (1u << fd))
			clean = clean && fcntl(fd, F_GETFD) < 0;
	(void)hark_write(c, clean ? "clean" : "dirty", 5);
}

static void nothing_there(void)
{
	for (int fd = 0; fd <= 2; fd++)
		if (closed & (1u << fd))
			CHECK_INT(fcntl(fd, F_GETFD), -1);
}

static void event(const struct hark_event *e, void *arg)
{
	const int *ready = arg;
	if (e->kind == HARK_EVENT_READY)
		(void)write(*ready, "r", 1);
}

static void serve_and_call(enum hark_model model, int workers, const char *engine)
{
	struct hark_listener *l;
	char address[HARK_ADDRESS_MAX], answer[8] = "";
	struct hark_conn *c;
	int ready[2];
	CHECK_INT(hark_listen("tcp://127.0.0.1:0", NULL, &l), 0);
	CHECK(hark_listener_fd(l) > 2);
	CHECK(hark_listener_address(l, address, sizeof address) > 0);
	CHECK_INT(pipe2(ready, O_CLOEXEC), 0); /* at 20 and up: not where the library should find room */
	int told[2] = {fcntl(ready[0], F_DUPFD_CLOEXEC, 20), fcntl(ready[1], F_DUPFD_CLOEXEC, 20)};
	(void)close(ready[0]);
	(void)close(ready[1]);
	pid_t pid = fork();
	CHECK(pid >= 0);
	if (pid == 0) {
		struct hark_serve_opts o = {.model = model,
		                            .workers = workers,
		                            .engine = engine,
		                            .event = event,
		                            .event_arg = &told[1]};
		(void)signal(SIGTERM, SIG_DFL);
		_exit(hark_serve(&l, 1, tells_what_is_open, NULL, &o) == 0 ? 0 : 1);
	}
	CHECK_INT(read(told[0], answer, 1), 1);
	CHECK_INT(hark_dial(address, NULL, &c), 0);
	CHECK(hark_fd(c) > 2);
	CHECK_INT(hark_readn(c, answer, 5), 5);
	CHECK(memcmp(answer, "clean", 5) == 0);
	CHECK_INT(hark_close(c), 0);
	nothing_there();
	(void)kill(pid, SIGKILL);
	CHECK_INT(waitpid(pid, NULL, 0), pid);
	hark_listener_close(l);
	(void)close(told[0]);
	(void)close(told[1]);
}

static void serving_body(void)
{
	static const enum hark_model models[] = {HARK_MODEL_FIBER, HARK_MODEL_THREAD, HARK_MODEL_PROCESS,
	                                         HARK_MODEL_INLINE};
	for (size_t m = 0; m < sizeof models / sizeof models[0]; m++)
		for (size_t e = 0; e < ENGINES_ALL; e++)
			serve_and_call(models[m], m % 2 ? 2 : 1, engines_all[e]);
}

static void nothing(void *arg)
{
	(void)arg;
}

/* What else makes descriptors: look-ups, datagrams, splicing, helper threads, copies, unix paths. */
static void using_body(void)
{
	struct hark_listener *l;
	struct hark_conn *c, *d;
	struct hark_endpoint e;
	char directory[] = "/tmp/hark-standard-XXXXXX", path[64], address[HARK_ADDRESS_MAX];
	CHECK(mkdtemp(directory) != NULL);
	(void)snprintf(path, sizeof path, "unix:%s/s", directory);
	CHECK(hark_resolve("tcp://localhost:80", &e, 1, hark_after(10 * HARK_S)) == 1);
	nothing_there();
	for (int round = 0; round < 2; round++) {
		CHECK_INT(hark_listen(round ? path : "udp://127.0.0.1:0", NULL, &l), 0);
		CHECK(hark_listener_address(l, address, sizeof address) > 0);
		CHECK_INT(hark_dial(address, NULL, &c), 0);
		CHECK_INT(hark_write(c, "x", 1), 1);
		CHECK_INT(hark_flush(c), 0);
		CHECK_INT(hark_accept(l, HARK_FOREVER, &d), 0);
		CHECK(hark_fd(d) > 2);
		if (round == 0)
			CHECK_INT(hark_udp_connect(d), 0);
		CHECK(hark_fd(d) > 2);
		nothing_there();
		hark_abort(d);
		hark_abort(c);
		hark_listener_close(l);
	}
	CHECK_INT(rmdir(directory), 0);
	CHECK_INT(hark_offload(nothing, NULL), 0);
	nothing_there();
}

static void with_each_closed(void (*body)(void), bool on_each)
{
	int bad = 0;
	for (closed = 1; closed < 8; closed++) {
		pid_t pid = fork();
		assert_true(pid >= 0);
		if (pid == 0) {
			for (int fd = 0; fd <= 2; fd++)
				if (closed & (1u << fd))
					(void)close(fd);
			if (on_each) {
				for (size_t e = 0; e < ENGINES_ALL; e++) {
					struct hark__loop *l;
					int r = hark__loop_open(engines_all[e], 0, &l);
					if (r == -ENOSYS)
						continue;
					CHECK_INT(r, 0);
					nothing_there();
					body();
					hark__loop_close(l);
				}
			}
			(void)alarm(MODE_TIMEOUT_S);
			body();
			_exit(0);
		}
		int status;
		assert_int_equal(waitpid(pid, &status, 0), pid);
		if (status != 0)
			(void)fprintf(stderr, "with %u closed: status %x\n", closed, (unsigned)status);
		bad |= status;
	}
	assert_int_equal(bad, 0);
}

static void a_server_leaves_closed_standard_descriptors_closed(void **state)
{
	(void)state;
	with_each_closed(serving_body, false);
}

static void calls_leave_closed_standard_descriptors_closed(void **state)
{
	(void)state;
	with_each_closed(using_body, true);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_server_leaves_closed_standard_descriptors_closed),
		cmocka_unit_test(calls_leave_closed_standard_descriptors_closed),
	};
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
