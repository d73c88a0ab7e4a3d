/* test_serve_box.c — what a box does to the process around it: it prints, forks, starts programs, waits for another
 * box; under each model, with one worker and two. */
#include "modes.h"

#include <poll.h>
#include <spawn.h>

extern char **environ;

static const enum hark_model models_all[] = {HARK_MODEL_INLINE, HARK_MODEL_PROCESS, HARK_MODEL_THREAD,
                                             HARK_MODEL_FIBER};

#define MODELS (sizeof models_all / sizeof models_all[0])

static int ready_out; /* a byte once the server is */
static int printed[2];

static void on_term(int sig)
{
	hark_drain(sig == SIGTERM ? 10 * HARK_S : 0);
}

static void tell_ready(const struct hark_event *e, void *arg)
{
	(void)arg;
	if (e->kind == HARK_EVENT_READY)
		CHECK_INT(write(ready_out, "r", 1), 1);
}

struct served {
	pid_t pid;
	struct hark_endpoint at;
};

static struct served serve_start(hark_box *box, enum hark_model model, int workers, void (*prepare)(void))
{
	struct served s = {0};
	struct hark_listener *l;
	int ready[2];
	char byte;
	socklen_t len = sizeof s.at.addr;
	assert_int_equal(hark_listen("tcp://127.0.0.1:0", NULL, &l), 0);
	assert_int_equal(getsockname(hark_listener_fd(l), (struct sockaddr *)&s.at.addr, &len), 0);
	s.at.len = len;
	assert_int_equal(pipe2(ready, O_CLOEXEC), 0);
	s.pid = fork();
	assert_true(s.pid >= 0);
	if (s.pid == 0) {
		struct hark_serve_opts o = {.model = model, .workers = workers, .event = tell_ready};
		(void)alarm(MODE_TIMEOUT_S);
		(void)signal(SIGTERM, on_term);
		(void)signal(SIGUSR1, on_term);
		(void)signal(SIGSEGV, SIG_DFL);
		ready_out = ready[1];
		if (prepare != NULL)
			prepare();
		int r = hark_serve(&l, 1, box, NULL, &o);
		(void)fflush(NULL);
		_exit(r == 0 ? 0 : 1);
	}
	(void)close(ready[1]);
	assert_int_equal(read(ready[0], &byte, 1), 1);
	(void)close(ready[0]);
	hark_listener_close(l);
	return s;
}

static int serve_end(struct served *s)
{
	int status;
	assert_int_equal(kill(s->pid, SIGTERM), 0);
	assert_int_equal(waitpid(s->pid, &status, 0), s->pid);
	return status;
}

static int client(const struct served *s)
{
	struct timeval patience = {.tv_sec = 10 * SLOWER};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_true(fd >= 0);
	assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience), 0);
	assert_int_equal(connect(fd, (const struct sockaddr *)&s->at.addr, s->at.len), 0);
	return fd;
}

/* All that the box says, at most cap - 1 bytes. */
static void answer_of(int fd, char *buf, size_t cap)
{
	size_t n = 0;
	ssize_t more;
	while (n < cap - 1 && (more = receive(fd, buf + n, cap - 1 - n)) > 0)
		n += (size_t)more;
	buf[n] = '\0';
	(void)close(fd);
}

typedef void check(enum hark_model model, int workers);

static void under_each_model(check *fn)
{
	for (size_t m = 0; m < MODELS; m++)
		for (int workers = 1; workers <= 2; workers++)
			fn(models_all[m], workers);
}

/* ---- stdio ------------------------------------------------------------------------------------ */

static void print_to_pipe(void)
{
	(void)dup2(printed[1], 1);
	(void)close(printed[0]);
	(void)close(printed[1]);
	(void)setvbuf(stdout, NULL, _IOFBF, 4096); /* as where it is no terminal */
	(void)printf("parent;");                   /* stays in the buffer until somebody flushes it */
}

static void printing_box(struct hark_conn *c, void *arg)
{
	char line[16];
	(void)arg;
	if (hark_readline(c, line, sizeof line) > 0)
		(void)printf("box %c;", line[0]);
}

static void box_prints(enum hark_model model, int workers)
{
	char all[256], nothing[8];
	size_t n = 0;
	ssize_t more;
	assert_int_equal(pipe2(printed, O_CLOEXEC), 0);
	struct served s = serve_start(printing_box, model, workers, print_to_pipe);
	(void)close(printed[1]);
	for (int i = 0; i < 3; i++) {
		int fd = client(&s);
		char line[3] = {(char)('a' + i), '\n', '\0'};
		assert_int_equal(send(fd, line, 2, MSG_NOSIGNAL), 2);
		answer_of(fd, nothing, sizeof nothing);
	}
	assert_int_equal(serve_end(&s), 0);
	while ((more = read(printed[0], all + n, sizeof all - 1 - n)) > 0)
		n += (size_t)more;
	(void)close(printed[0]);
	all[n] = '\0';
	static const char *const lines[] = {"parent;", "box a;", "box b;", "box c;"};
	for (int i = 0; i < 4; i++)
		if (strstr(all, lines[i]) == NULL)
			fail_msg("%s, %d workers: \"%s\" is not in \"%s\"", hark_model_name(model), workers, lines[i],
			         all);
	if (n != strlen("parent;box a;box b;box c;")) /* each once */
		fail_msg("%s, %d workers: \"%s\"", hark_model_name(model), workers, all);
}

static void what_a_box_prints_appears_once(void **state)
{
	(void)state;
	under_each_model(box_prints);
}

/* ---- drains of a child that a box forked ------------------------------------------------------- */

static void forking_box(struct hark_conn *c, void *arg)
{
	int status = -1;
	(void)arg;
	pid_t pid = fork();
	if (pid == 0) {
		(void)raise(SIGUSR1); /* hark_drain(0), by the handler */
		hark_drain(0);
		hark_retire();
		_exit(7);
	}
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	(void)hark_sleep(20 * HARK_MS); /* a drain that began would cut this */
	(void)hark_printf(c, "%d %d", WIFEXITED(status) ? WEXITSTATUS(status) : -1,
	                  hark_drain_deadline() == HARK_FOREVER);
}

static void box_forks(enum hark_model model, int workers)
{
	char answer[32];
	struct served s = serve_start(forking_box, model, workers, NULL);
	for (int i = 0; i < 3; i++) {
		answer_of(client(&s), answer, sizeof answer);
		if (strcmp(answer, "7 1") != 0)
			fail_msg("%s, %d workers, call %d: \"%s\"", hark_model_name(model), workers, i, answer);
	}
	assert_int_equal(serve_end(&s), 0);
}

static void a_drain_in_a_child_that_a_box_forked_is_its_own(void **state)
{
	(void)state;
	under_each_model(box_forks);
}

/* A child that a box forked hears of the service's drain. */
static void lingering_box(struct hark_conn *c, void *arg)
{
	(void)arg;
	(void)hark_printf(c, "!");
	(void)hark_flush(c);
	pid_t pid = fork();
	if (pid == 0) {
		int r = hark_wait_fd(0, HARK_DRAIN, hark_after(20 * HARK_S));
		_exit(r == HARK_DRAIN && hark_drain_deadline() != HARK_FOREVER ? 0 : 1);
	}
	int status = -1;
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	(void)hark_printf(c, "%d", status);
}

static void box_lingers(enum hark_model model, int workers)
{
	char byte, answer[32];
	if (model == HARK_MODEL_FIBER || model == HARK_MODEL_INLINE)
		return; /* a box that waits for its child there holds the server up */
	struct served s = serve_start(lingering_box, model, workers, NULL);
	int fd = client(&s), status;
	assert_int_equal(receive(fd, &byte, 1), 1);
	assert_int_equal(kill(s.pid, SIGTERM), 0);
	answer_of(fd, answer, sizeof answer);
	assert_string_equal(answer, "0");
	assert_int_equal(waitpid(s.pid, &status, 0), s.pid);
	assert_int_equal(status, 0);
}

static void a_child_that_a_box_forked_hears_of_the_services_drain(void **state)
{
	(void)state;
	under_each_model(box_lingers);
}

/* ---- programs --------------------------------------------------------------------------------- */

static void starting_box(struct hark_conn *c, void *arg)
{
	char *argv[] = {"grep", "SigBlk", "/proc/self/status", NULL}, text[128]; /* a shell would reset it */
	int p[2], status;
	posix_spawn_file_actions_t to;
	pid_t pid;
	(void)arg;
	CHECK_INT(pipe2(p, O_CLOEXEC), 0);
	(void)posix_spawn_file_actions_init(&to);
	(void)posix_spawn_file_actions_adddup2(&to, p[1], 1);
	CHECK_INT(posix_spawnp(&pid, argv[0], &to, NULL, argv, environ), 0);
	(void)posix_spawn_file_actions_destroy(&to);
	(void)close(p[1]);
	ssize_t n = read(p[0], text, sizeof text);
	(void)close(p[0]);
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	(void)hark_write(c, text, n > 0 ? (size_t)n : 0);
}

static void box_starts_a_program(enum hark_model model, int workers)
{
	char answer[128];
	struct served s = serve_start(starting_box, model, workers, NULL);
	answer_of(client(&s), answer, sizeof answer);
	assert_non_null(strstr(answer, "SigBlk:"));
	if (strstr(answer, "0000000000000000") == NULL)
		fail_msg("%s, %d workers: %s", hark_model_name(model), workers, answer);
	assert_int_equal(serve_end(&s), 0);
}

static void a_program_that_a_box_starts_has_no_signals_blocked(void **state)
{
	(void)state;
	under_each_model(box_starts_a_program);
}

/* ---- boxes that wait for each other ------------------------------------------------------------ */

static struct {
	pthread_mutex_t lock;
	struct hark_cond came;
	int here;
} room = {.lock = PTHREAD_MUTEX_INITIALIZER};

/* Two are company. */
static void meeting_box(struct hark_conn *c, void *arg)
{
	int64_t until = hark_after(HARK_S * 5);
	int r = 0;
	(void)arg;
	pthread_mutex_lock(&room.lock);
	room.here++;
	hark_cond_broadcast(&room.came);
	while (room.here < 2 && r == 0)
		r = hark_cond_wait(&room.came, &room.lock, until);
	pthread_mutex_unlock(&room.lock);
	(void)hark_printf(c, "%d", r);
}

static void boxes_meet(enum hark_model model, int workers)
{
	char answer[16];
	if (workers > 1 || model == HARK_MODEL_PROCESS || model == HARK_MODEL_INLINE)
		return; /* no memory in common, or no second box at a time */
	struct served s = serve_start(meeting_box, model, workers, NULL);
	int one = client(&s), two = client(&s);
	answer_of(one, answer, sizeof answer);
	assert_string_equal(answer, "0");
	answer_of(two, answer, sizeof answer);
	assert_string_equal(answer, "0");
	assert_int_equal(serve_end(&s), 0);
}

static void boxes_wait_for_each_other(void **state)
{
	(void)state;
	under_each_model(boxes_meet);
}

static void waiting_box(struct hark_conn *c, void *arg)
{
	struct hark_cond never = {0};
	struct hark_scope s;
	(void)arg;
	(void)hark_printf(c, "!");
	(void)hark_flush(c);
	int r = hark_cond_wait(&never, NULL, HARK_FOREVER);
	hark_scope_open(&s);
	if (r == -ECANCELED && hark_sleep(0) == -ECANCELED && hark_yield() == -ECANCELED &&
	    hark_wait_fd(0, HARK_IN, 0) == -ECANCELED && hark_join(&s, 0) == -ECANCELED)
		(void)write(printed[1], "+", 1); /* the connection is cut as well */
	hark_scope_close(&s);
}

static void box_is_cut(enum hark_model model, int workers)
{
	char byte, rest[16];
	int status;
	assert_int_equal(pipe2(printed, O_CLOEXEC), 0);
	struct served s = serve_start(waiting_box, model, workers, NULL);
	int fd = client(&s);
	assert_int_equal(receive(fd, &byte, 1), 1);
	assert_int_equal(kill(s.pid, SIGUSR1), 0); /* no grace */
	assert_int_equal(waitpid(s.pid, &status, 0), s.pid);
	(void)close(printed[1]);
	if (read(printed[0], rest, sizeof rest) != 1)
		fail_msg("%s, %d workers: not told", hark_model_name(model), workers);
	(void)close(printed[0]);
	(void)close(fd);
}

static void the_end_of_the_grace_is_told_by_every_call(void **state)
{
	(void)state;
	under_each_model(box_is_cut);
}

static void telling_box(struct hark_conn *c, void *arg)
{
	(void)arg;
	(void)hark_printf(c, "%d", hark_serves_one());
}

static void box_tells(enum hark_model model, int workers)
{
	char answer[32];
	struct served s = serve_start(telling_box, model, workers, NULL);
	for (int i = 0; i < 3; i++) {
		answer_of(client(&s), answer, sizeof answer);
		assert_string_equal(answer, model == HARK_MODEL_PROCESS ? "1" : "0");
	}
	assert_int_equal(serve_end(&s), 0);
}

static void a_process_knows_that_it_serves_one_connection(void **state)
{
	(void)state;
	under_each_model(box_tells);
	assert_false(hark_serves_one());
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_process_knows_that_it_serves_one_connection),
		cmocka_unit_test(what_a_box_prints_appears_once),
		cmocka_unit_test(a_drain_in_a_child_that_a_box_forked_is_its_own),
		cmocka_unit_test(a_child_that_a_box_forked_hears_of_the_services_drain),
		cmocka_unit_test(a_program_that_a_box_starts_has_no_signals_blocked),
		cmocka_unit_test(boxes_wait_for_each_other),
		cmocka_unit_test(the_end_of_the_grace_is_told_by_every_call),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
