/* test_accept.c — hark_accept() by several threads and fibers at once, and a listener that is closed under them. */
#include "modes.h"

#include <pthread.h>
#include <stdatomic.h>

#include "conn/listen.h"

#define TAKERS  6
#define CALLERS 300 /* connections or datagrams */

struct shared {
	struct hark_listener *l;
	struct hark_endpoint at;
	const char *engine; /* of a taker's thread; NULL: none */
	atomic_int asked, taken, refused;
};

static void shared_open(struct shared *s, const char *address)
{
	socklen_t len = sizeof s->at.addr;
	CHECK_INT(hark_listen(address, NULL, &s->l), 0);
	CHECK_INT(getsockname(hark_listener_fd(s->l), (struct sockaddr *)&s->at.addr, &len), 0);
	s->at.len = len;
	atomic_init(&s->asked, 0);
	atomic_init(&s->taken, 0);
	atomic_init(&s->refused, 0);
}

/* Accepts until the listener is closed. */
static void take_all(void *arg)
{
	struct shared *s = arg;
	struct hark_conn *c;
	int r;
	while (atomic_fetch_add(&s->asked, 1), (r = hark_accept(s->l, HARK_FOREVER, &c)) == 0) {
		(void)hark_sleep(0);
		hark_abort(c);
		atomic_fetch_add(&s->taken, 1);
	}
	CHECK_INT(r, -EBADF);
	atomic_fetch_add(&s->refused, 1);
}

static void *take_all_thread(void *arg)
{
	struct shared *s = arg;
	struct hark__loop *l = NULL;
	if (s->engine != NULL)
		CHECK_INT(hark__loop_open(s->engine, 0, &l), 0);
	take_all(s);
	if (s->engine != NULL)
		hark__loop_close(l);
	return NULL;
}

static void call(const struct shared *s, int type)
{
	int fd = socket(s->at.addr.ss_family, type | SOCK_CLOEXEC, 0);
	CHECK(fd >= 0);
	if (connect(fd, (const struct sockaddr *)&s->at.addr, s->at.len) < 0)
		CHECK_INT(errno, ECONNRESET); /* taken and aborted already */
	if (type == SOCK_DGRAM)
		CHECK_INT(send(fd, "x", 1, 0), 1);
	(void)close(fd);
}

static void await_count(atomic_int *count, int wanted)
{
	int64_t end = hark_after(10 * SLOWER * HARK_S);
	while (atomic_load(count) < wanted) {
		CHECK(hark_now() < end);
		(void)hark_sleep(HARK_MS);
	}
}

/* ---- several at once ------------------------------------------------------------------------------ */

static void threads_take_each_caller_once(const char *address, int type, const char *engine)
{
	struct shared s = {.engine = engine};
	pthread_t threads[TAKERS];
	shared_open(&s, address);
	for (int i = 0; i < TAKERS; i++)
		CHECK_INT(pthread_create(&threads[i], NULL, take_all_thread, &s), 0);
	for (int i = 0; i < CALLERS; i++) {
		call(&s, type);
		if (type == SOCK_DGRAM) /* its queue is short */
			await_count(&s.taken, i + 1);
	}
	await_count(&s.asked, CALLERS + TAKERS);
	(void)hark_sleep(50 * HARK_MS * SLOWER); /* a call that began after the close would use what is freed */
	hark_listener_close(s.l);
	for (int i = 0; i < TAKERS; i++)
		CHECK_INT(pthread_join(threads[i], NULL), 0);
	CHECK_INT(atomic_load(&s.taken), CALLERS);
	CHECK_INT(atomic_load(&s.refused), TAKERS);
}

static void threads_may_accept_from_one_listener(void)
{
	const char *engine = mode_engine; /* the threads' */
	threads_take_each_caller_once("tcp://127.0.0.1:0", SOCK_STREAM, engine);
	threads_take_each_caller_once("udp://127.0.0.1:0", SOCK_DGRAM, engine);
}

static void fibers_may_accept_from_one_listener(void)
{
	static const struct {
		const char *address;
		int type;
	} kinds[] = {{"tcp://127.0.0.1:0", SOCK_STREAM}, {"udp://127.0.0.1:0", SOCK_DGRAM}};
	for (int k = 0; k < 2; k++) {
		struct hark_scope scope;
		struct shared s = {0};
		shared_open(&s, kinds[k].address);
		hark_scope_open(&scope);
		for (int i = 0; i < TAKERS; i++)
			CHECK_INT(hark_go(&scope, "taker", take_all, &s), 0);
		for (int i = 0; i < CALLERS; i++) {
			call(&s, kinds[k].type);
			if (i % 50 == 0 || kinds[k].type == SOCK_DGRAM)
				await_count(&s.taken, i + 1);
		}
		await_count(&s.taken, CALLERS);
		hark_listener_close(s.l);
		CHECK_INT(hark_join(&scope, hark_after(10 * HARK_S)), 0);
		hark_scope_close(&scope);
		CHECK_INT(atomic_load(&s.taken), CALLERS);
		CHECK_INT(atomic_load(&s.refused), TAKERS);
	}
}

/* ---- closed under it ------------------------------------------------------------------------------ */

/* At any moment of the call: a round each. */
static void closing_a_listener_ends_who_accepts_there(void)
{
	for (int round = 0; round < 40; round++) {
		struct shared s = {.engine = mode_engine};
		struct beside b;
		pthread_t thread;
		bool stream = round & 1;
		shared_open(&s, stream ? "tcp://127.0.0.1:0" : "udp://127.0.0.1:0");
		if (round & 2)
			CHECK_INT(pthread_create(&thread, NULL, take_all_thread, &s), 0);
		beside_start(&b, take_all, &s);
		for (;;) { /* each has begun */
			pthread_mutex_lock(&s.l->lock);
			unsigned held = s.l->held;
			pthread_mutex_unlock(&s.l->lock);
			if (held == (round & 2 ? 2u : 1u))
				break;
			(void)hark_sleep(0);
		}
		if (round % 8 >= 4)
			(void)hark_sleep(HARK_MS); /* most of these wait by now */
		int fd = hark_listener_fd(s.l);
		hark_listener_close(s.l);
		beside_end(&b);
		if (round & 2)
			CHECK_INT(pthread_join(thread, NULL), 0);
		CHECK_INT(atomic_load(&s.refused), round & 2 ? 2 : 1);
		CHECK_INT(fcntl(fd, F_GETFD), -1);
	}
}

static void *sleep_and_take(void *arg)
{
	take_all(arg);
	return NULL;
}

/* The child closes its copy; the parent's thread, which it has not, goes on accepting. */
static void fork_body(void)
{
	struct shared s = {0};
	pthread_t thread;
	shared_open(&s, "tcp://127.0.0.1:0");
	CHECK_INT(pthread_create(&thread, NULL, sleep_and_take, &s), 0);
	call(&s, SOCK_STREAM);
	await_count(&s.taken, 1);
	pid_t pid = fork();
	CHECK(pid >= 0);
	if (pid == 0) {
		int fd = hark_listener_fd(s.l);
		hark_listener_close(s.l);
		_exit(fcntl(fd, F_GETFD) == -1 ? 0 : 1);
	}
	int status;
	CHECK_INT(waitpid(pid, &status, 0), pid);
	CHECK_INT(status, 0);
	call(&s, SOCK_STREAM);
	await_count(&s.taken, 2);
	hark_listener_close(s.l);
	CHECK_INT(pthread_join(thread, NULL), 0);
}

static void a_forked_child_closes_a_listener_on_which_the_parent_accepts(void **state)
{
	(void)state;
	on_plain_thread(fork_body);
}

static void no_box(struct hark_conn *c, void *arg)
{
	(void)c;
	(void)arg;
}

static void drained_body(void)
{
	for (int workers = 1; workers <= 2; workers++) {
		struct shared s;
		struct hark_conn *c;
		struct hark_serve_opts o = {.workers = workers};
		shared_open(&s, "tcp://127.0.0.1:0");
		hark_drain(0);
		(void)hark_serve(&s.l, 1, no_box, NULL, &o);
		CHECK_INT(hark_listener_fd(s.l), -1);
		CHECK_INT(hark_accept(s.l, HARK_FOREVER, &c), -EBADF);
		CHECK_INT(hark_serve(&s.l, 1, no_box, NULL, &o), -EBADF);
		CHECK_INT(hark_serve(&s.l, 1, no_box, NULL, NULL), -EBADF);
		hark_listener_close(s.l);
	}
	mode_kept = 2; /* drain.c's eventfds, of the process */
}

static void a_drained_listener_is_told_to_be_closed(void **state)
{
	(void)state;
	on_plain_thread(drained_body);
}

/* One closed listener among others: nothing begins, and the others stay open. */
static void among_body(void)
{
	struct hark_listener *two[2];
	CHECK_INT(hark_listen("tcp://127.0.0.1:0", NULL, &two[0]), 0);
	CHECK_INT(hark_listen("tcp://127.0.0.1:0", NULL, &two[1]), 0);
	hark__listener_shut(two[1]);
	CHECK_INT(hark_serve(two, 2, no_box, NULL, NULL), -EBADF);
	CHECK(hark_listener_fd(two[0]) >= 0);
	hark_listener_close(two[0]);
	hark_listener_close(two[1]);
	mode_kept = 2; /* drain.c's eventfds, of the process */
}

static void a_serve_that_cannot_start_leaves_its_listeners_open(void **state)
{
	(void)state;
	on_plain_thread(among_body);
}

/* ---- served --------------------------------------------------------------------------------------- */

static void *serve_thread(void *arg)
{
	struct shared *s = arg;
	struct hark_serve_opts o = {.engine = s->engine};
	CHECK_INT(hark_serve(&s->l, 1, no_box, NULL, &o), 0);
	atomic_fetch_add(&s->refused, 1);
	return NULL;
}

/* hark_serve() in two threads on one listener, which a third closes: both return. */
static void served_body(void)
{
	for (size_t e = 0; e < ENGINES_ALL; e++) {
		struct shared s = {.engine = engines_all[e]};
		pthread_t threads[2];
		shared_open(&s, "tcp://127.0.0.1:0");
		for (int i = 0; i < 2; i++)
			CHECK_INT(pthread_create(&threads[i], NULL, serve_thread, &s), 0);
		for (int i = 0; i < 20; i++) {
			char byte;
			int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
			CHECK_INT(connect(fd, (struct sockaddr *)&s.at.addr, s.at.len), 0);
			CHECK_INT(recv(fd, &byte, 1, 0), 0);
			(void)close(fd);
		}
		for (;;) {
			pthread_mutex_lock(&s.l->lock);
			unsigned held = s.l->held;
			pthread_mutex_unlock(&s.l->lock);
			if (held == 2)
				break;
			(void)hark_sleep(HARK_MS);
		}
		hark_listener_close(s.l);
		for (int i = 0; i < 2; i++)
			CHECK_INT(pthread_join(threads[i], NULL), 0);
		CHECK_INT(atomic_load(&s.refused), 2);
	}
	mode_kept = 2; /* drain.c's eventfds, of the process */
}

static void closing_a_listener_ends_who_serves_there(void **state)
{
	(void)state;
	on_plain_thread(served_body);
}

/* ---- a killed one's port --------------------------------------------------------------------------- */

static void waits_for_more(struct hark_conn *c, void *arg)
{
	char buf[64];
	(void)arg;
	while (hark_read(c, buf, sizeof buf) > 0)
		;
}

static void is_ready(const struct hark_event *e, void *arg)
{
	const int *ready = arg;
	if (e->kind == HARK_EVENT_READY)
		CHECK_INT(write(*ready, "r", 1), 1);
}

/* io_uring's operations under way hold the socket, and end some milliseconds after their process: no supervisor that
 * starts it again at once may fail for that. */
static void the_port_of_a_killed_process_can_be_listened_on(void)
{
	for (int round = 0; round < 24; round++) {
		struct hark_listener *l;
		char address[HARK_ADDRESS_MAX], byte;
		int ready[2], clients[4];
		struct hark_endpoint at;
		socklen_t len = sizeof at.addr;
		bool udp = round % 4 == 3;
		CHECK_INT(pipe2(ready, O_CLOEXEC), 0);
		CHECK_INT(hark_listen(udp ? "udp://127.0.0.1:0" : "tcp://127.0.0.1:0", NULL, &l), 0);
		CHECK(hark_listener_address(l, address, sizeof address) > 0);
		CHECK_INT(getsockname(hark_listener_fd(l), (struct sockaddr *)&at.addr, &len), 0);
		pid_t pid = fork();
		CHECK(pid >= 0);
		if (pid == 0) {
			struct hark_serve_opts o = {.engine = "uring", .event = is_ready, .event_arg = &ready[1]};
			_exit(hark_serve(&l, 1, waits_for_more, NULL, &o) == 0 ? 0 : SKIPPED);
		}
		hark_listener_close(l);
		(void)close(ready[1]);
		if (read(ready[0], &byte, 1) != 1)
			_exit(SKIPPED);
		for (int i = 0; i < 4; i++) {
			clients[i] = socket(AF_INET, (udp ? SOCK_DGRAM : SOCK_STREAM) | SOCK_CLOEXEC, 0);
			CHECK_INT(connect(clients[i], (struct sockaddr *)&at.addr, len), 0);
			CHECK_INT(send(clients[i], "x", 1, 0), 1);
		}
		CHECK_INT(kill(pid, SIGKILL), 0);
		CHECK_INT(waitpid(pid, NULL, 0), pid);
		CHECK_INT(hark_listen(address, NULL, &l), 0);
		hark_listener_close(l);
		for (int i = 0; i < 4; i++)
			(void)close(clients[i]);
		(void)close(ready[0]);
	}
}

/* ---- time ----------------------------------------------------------------------------------------- */

static void a_deadline_before_all_time_is_past(void)
{
	static const int64_t pasts[] = {INT64_MIN, INT64_MIN + 1, -1, 0, 1};
	struct shared s;
	struct hark_conn *c;
	shared_open(&s, "tcp://127.0.0.1:0");
	for (size_t i = 0; i < sizeof pasts / sizeof pasts[0]; i++) {
		CHECK_INT(hark_accept(s.l, pasts[i], &c), -ETIMEDOUT);
		struct hark_dial_opts o = {.deadline = pasts[i]};
		if (pasts[i] != 0)
			CHECK_INT(hark_dial("tcp://127.0.0.1:1", &o, &c), -ETIMEDOUT);
	}
	hark_listener_close(s.l);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		EVERYWHERE(threads_may_accept_from_one_listener),
		ON_ENGINES(fibers_may_accept_from_one_listener),
		EVERYWHERE(closing_a_listener_ends_who_accepts_there),
		cmocka_unit_test(a_forked_child_closes_a_listener_on_which_the_parent_accepts),
		cmocka_unit_test(a_drained_listener_is_told_to_be_closed),
		cmocka_unit_test(a_serve_that_cannot_start_leaves_its_listeners_open),
		cmocka_unit_test(closing_a_listener_ends_who_serves_there),
		IN_CHILD(the_port_of_a_killed_process_can_be_listened_on),
		EVERYWHERE(a_deadline_before_all_time_is_past),
	};
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
