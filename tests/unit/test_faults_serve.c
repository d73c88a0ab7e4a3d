/* test_faults_serve.c — every system call failed at its Nth use while a service serves: it loses no connection but one
 * that the failure was about, and its end says why. And services of one process, one after the other and side by side.
 * See fault_driver.h. */
#include "fault_peers.h"

#include <semaphore.h>

/* ---- plain peers ------------------------------------------------------------------------------ */

/* One round of clients: what became of each of them. */
enum fate { SERVED = 1, CUT, REFUSED, SILENCE };

struct round {
	int tcp, udp; /* ports */
	int n_tcp, n_udp;
	enum fate fates[8];
};

static enum fate call_stream(int port)
{
	struct sockaddr_in at = at_port(port);
	char buf[64];
	size_t got = 0;
	ssize_t n = 1;
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	enum fate fate = REFUSED;
	if (connect(fd, (struct sockaddr *)&at, sizeof at) == 0) {
		be_patient(fd, ANSWER_S * 1000); /* not before: an interrupted connect(2) cannot be called again */
		(void)send(fd, "hello\nworld\n", 12, MSG_NOSIGNAL);
		(void)shutdown(fd, SHUT_WR);
		for (; n > 0 && got<sizeof buf; got += n> 0 ? (size_t)n : 0)
			n = receive(fd, buf + got, sizeof buf - got);
		fate = n < 0 && errno == EAGAIN                                        ? SILENCE
		       : n == 0 && got == 12 && memcmp(buf, "hello\nworld\n", 12) == 0 ? SERVED
		                                                                       : CUT;
	}
	(void)close(fd);
	return fate;
}

/* A datagram may be lost: it is sent again. */
static enum fate call_datagram(int port)
{
	struct sockaddr_in at = at_port(port);
	char buf[64];
	enum fate fate = SILENCE;
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	be_patient(fd, 150);
	if (connect(fd, (struct sockaddr *)&at, sizeof at) < 0)
		fate = REFUSED;
	for (int tries = 0; tries < 20 && fate == SILENCE; tries++) {
		(void)send(fd, "knock", 5, MSG_NOSIGNAL);
		ssize_t n = recv(fd, buf, sizeof buf, 0);
		if (n >= 0)
			fate = n == 5 && memcmp(buf, "knock", 5) == 0 ? SERVED : CUT;
	}
	(void)close(fd);
	return fate;
}

static void be_clients(int link)
{
	struct round r;
	while (recv(link, &r, sizeof r, 0) == sizeof r) {
		for (int i = 0; i < r.n_tcp; i++)
			r.fates[i] = call_stream(r.tcp);
		for (int i = 0; i < r.n_udp; i++)
			r.fates[r.n_tcp + i] = call_datagram(r.udp);
		(void)send(link, &r, sizeof r, MSG_NOSIGNAL);
	}
}

static int clients = -1;

static void call_round(struct round *r)
{
	HOLD(send(clients, r, sizeof *r, MSG_NOSIGNAL) == sizeof *r);
	HOLD(recv(clients, r, sizeof *r, 0) == sizeof *r);
}

/* ---- serve ------------------------------------------------------------------------------------ */

struct service {
	const char *name;
	const char *engine;
	enum hark_model model;
	int workers;
	bool client_first;
	/* of the case under way */
	struct hark_listener *listeners[2];
	sem_t told; /* ready, or returned */
	int result;
};

static void echo(struct hark_conn *c, void *arg)
{
	char buf[256];
	ssize_t n;
	(void)arg;
	while ((n = hark_read(c, buf, sizeof buf)) > 0)
		if (hark_write(c, buf, (size_t)n) < 0)
			break;
}

static void on_event(const struct hark_event *e, void *arg)
{
	struct service *s = arg;
	if (e->kind == HARK_EVENT_READY)
		(void)sem_post(&s->told);
}

static void serve_here(void *arg)
{
	struct service *s = arg;
	struct hark_serve_opts o = {
		.model = s->model,
		.workers = s->workers,
		.engine = s->engine,
		.client_first = s->client_first,
		.event = on_event,
		.event_arg = s,
	};
	s->result = hark_serve(s->listeners, 2, echo, NULL, &o);
	(void)sem_post(&s->told);
}

/* What a hard failure of these may cost: the one connection whose bytes it was about. */
static bool of_one_connection(void)
{
	switch (now->entry) {
	case FAULT_recv:
	case FAULT_send:
	case FAULT_sendmsg:
	case FAULT_ppoll:     /* of a connection that waits by itself */
	case FAULT_epoll_ctl: /* of one that is to be waited for on the loop */
	case FAULT_malloc:    /* a buffer */
	case FAULT_realloc:   /* the poll engine's place for it */
	case FAULT_calloc: /* the io_uring engine's, and boxes' flows */ return now->err != EINTR;
	default: return false;
	}
}

static const char *const fates[] = {"nothing", "served", "cut", "refused", "met with silence"};

static void check_round(const struct round *r, int may_fail)
{
	int lost = 0;
	for (int i = 0; i < r->n_tcp + r->n_udp; i++) {
		if (r->fates[i] == SERVED)
			continue;
		if (r->fates[i] == CUT && i < r->n_tcp && lost < may_fail) {
			lost++;
			continue;
		}
		(void)fprintf(stderr, "%s %d was %s\n", i < r->n_tcp ? "stream" : "datagram", i, fates[r->fates[i]]);
		HOLD(r->fates[i] == SERVED);
	}
}

/* Zombies and runaways; the clients' process alone stays. */
static void check_children(void)
{
	pid_t pid = waitpid(-1, NULL, WNOHANG);
	if (fault_fired() && now->entry == FAULT_waitid && now->err == ECHILD) {
		/* It was told that a child is not there which is: that one is left to us, and may take until the
		 * drain's end. Not waited for here, it would be found after the next case. */
		for (int i = 0; i < 1000 && pid == 0; i++) {
			(void)poll(NULL, 0, 10);
			pid = waitpid(-1, NULL, WNOHANG);
		}
		while (pid > 0)
			pid = waitpid(-1, NULL, WNOHANG);
	}
	HOLD_VALUE(pid == 0, pid);
}

static void serve(void *arg)
{
	struct service *s = arg;
	struct in_thread server = {serve_here, s};
	pthread_t t;
	if (clients < 0)
		(void)start_peer(be_clients, &clients);
	s->listeners[0] = listen_plainly("tcp://127.0.0.1:0");
	s->listeners[1] = listen_plainly("udp://127.0.0.1:0");
	struct round r = {.tcp = port_at(s->listeners[0]), .udp = port_at(s->listeners[1]), .n_tcp = 3, .n_udp = 2};
	struct round after = {.tcp = r.tcp, .udp = r.udp, .n_tcp = 1, .n_udp = 1};
	s->result = 1;
	(void)sem_init(&s->told, 0, 0);
	fault_arm();
	HOLD(pthread_create(&t, NULL, thread_body, &server) == 0);
	HOLD(sem_wait(&s->told) == 0);
	if (s->result == 1) {
		call_round(&r);
		check_round(&r, of_one_connection() && fault_fired());
		bool over = fault_fired();
		call_round(&after);
		check_round(&after, !over && of_one_connection() && fault_fired());
		hark_drain(4 * HARK_S);
		HOLD(pthread_join(t, NULL) == 0);
		HOLD_VALUE(s->result == 0, s->result);
	} else {
		HOLD(pthread_join(t, NULL) == 0);
		HOLD_VALUE(s->result < 0 && sensible(s->result), s->result);
	}
	atomic_store(&now->armed, false);
	check_children();
	(void)sem_destroy(&s->told);
	hark_listener_close(s->listeners[0]);
	hark_listener_close(s->listeners[1]);
}

/* ---- the tests -------------------------------------------------------------------------------- */

static void wait_until_asleep(pid_t pid)
{
	char path[40], state = 'R';
	(void)snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
	for (int i = 0; i < 10000 && state != 'S'; i++) {
		FILE *f = fopen(path, "re");
		assert_non_null(f);
		assert_int_equal(fscanf(f, "%*d (%*[^)]) %c", &state), 1);
		(void)fclose(f);
		nap();
	}
	assert_int_equal(state, 'S');
}

/* Else its connection counts as cut, whenever somebody stops the tests for a moment. */
static void a_plain_peer_that_was_stopped_still_waits_for_its_answer(void **state)
{
	int pair[2], status;
	char c = 'x';
	(void)state;
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		be_patient(pair[1], ANSWER_S * 1000);
		_exit(receive(pair[1], &c, 1) == 1 ? 0 : 1);
	}
	wait_until_asleep(pid);
	assert_int_equal(kill(pid, SIGSTOP), 0);
	assert_int_equal(waitpid(pid, &status, WUNTRACED), pid);
	assert_true(WIFSTOPPED(status));
	assert_int_equal(kill(pid, SIGCONT), 0);
	wait_until_asleep(pid);
	assert_int_equal(send(pair[0], &c, 1, MSG_NOSIGNAL), 1);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	(void)(close(pair[0]) + close(pair[1]));
}

static void faults_under(enum hark_model model, bool client_first)
{
	struct faulty running[ENGINES];
	char name[64];
	int n = 0;
	for (size_t i = 0; i < ENGINES; i++) {
		struct service s = {.engine = engines[i], .model = model, .client_first = client_first};
		(void)snprintf(name, sizeof name, "serve, %s%s, %s", hark_model_name(model),
		               client_first ? " at its first byte" : "", engines[i]);
		if (have_engine(engines[i]))
			fault_begin(&running[n++], name, serve, &s);
	}
	fault_end(running, n);
}

static void faults_under_inline(void **state)
{
	(void)state;
	faults_under(HARK_MODEL_INLINE, false);
}

static void faults_under_process(void **state)
{
	(void)state;
	faults_under(HARK_MODEL_PROCESS, false);
}

static void faults_under_thread(void **state)
{
	(void)state;
	faults_under(HARK_MODEL_THREAD, false);
}

static void faults_under_fiber(void **state)
{
	(void)state;
	faults_under(HARK_MODEL_FIBER, false);
}

static void faults_under_fiber_at_the_first_byte(void **state)
{
	(void)state;
	faults_under(HARK_MODEL_FIBER, true);
}

static void faults_with_two_workers(void **state)
{
	struct service s = {.engine = "epoll", .model = HARK_MODEL_FIBER, .workers = 2};
	(void)state;
	fault_each_use("serve, two workers", serve, &s);
}

/* Each worker would have found out for itself, and told nobody. */
static void workers_without_their_engine_are_an_error(void **state)
{
	struct hark_listener *l;
	struct hark_why why;
	struct hark_serve_opts o = {.workers = 2, .engine = "none", .why = &why};
	(void)state;
	assert_int_equal(hark_listen("tcp://127.0.0.1:0", NULL, &l), 0);
	assert_int_equal(hark_serve(&l, 1, echo, NULL, &o), -EINVAL);
	assert_non_null(strstr(why.text, "engine none"));
	hark_listener_close(l);
}

/* hark_drain() may write after the service that it ended has gone: the next one hears its own drain all the same. */
static void *drain_soon(void *arg)
{
	(void)arg;
	hark_drain(HARK_S);
	return NULL;
}

static void drain_when_ready(const struct hark_event *e, void *arg)
{
	if (e->kind == HARK_EVENT_READY)
		HOLD(pthread_create(arg, NULL, drain_soon, NULL) == 0);
}

static void a_late_drain_does_not_deafen_the_next_service(void **state)
{
	(void)state;
	for (size_t i = 0; i < ENGINES; i++) {
		if (!have_engine(engines[i]))
			continue;
		for (int round = 0; round < 3; round++) {
			uint64_t one = 1;
			int drain[HARK__DRAIN_FDS];
			pthread_t t;
			struct hark_listener *l;
			struct hark_serve_opts o = {.engine = engines[i], .event = drain_when_ready, .event_arg = &t};
			assert_int_equal(hark_listen("tcp://127.0.0.1:0", NULL, &l), 0);
			(void)alarm(PATIENCE_S);
			assert_int_equal(hark_serve(&l, 1, echo, NULL, &o), 0);
			(void)alarm(0);
			assert_int_equal(pthread_join(t, NULL), 0);
			hark_listener_close(l);
			hark__drain_fds(drain);
			assert_int_equal(write(drain[0], &one, sizeof one), sizeof one); /* the late one */
		}
	}
}

/* A child forked while others' connections wait for room must not hold them: their peers would not see them end. */
static void hold(struct hark_conn *c, void *arg)
{
	char line[16];
	(void)arg;
	if (hark_readline(c, line, sizeof line) > 0)
		(void)hark_write(c, "held\n", 5);
	while (hark_read(c, line, sizeof line) > 0)
		;
}

static void *serve_two_at_once(void *arg)
{
	struct hark_serve_opts o = {.model = HARK_MODEL_PROCESS, .max_conns = 2};
	struct hark_listener *l = arg;
	assert_int_equal(hark_serve(&l, 1, hold, NULL, &o), 0);
	return NULL;
}

static int held(const struct hark_listener *l)
{
	int fd = connected_to(l, SOCK_STREAM);
	be_patient(fd, ANSWER_S * 1000);
	assert_int_equal(send(fd, "hold\n", 5, MSG_NOSIGNAL), 5);
	return fd;
}

static void await_held(int fd)
{
	char buf[8];
	assert_int_equal(receive(fd, buf, sizeof buf), 5);
}

static void a_child_holds_no_connection_but_its_own(void **state)
{
	char buf[8];
	pthread_t t;
	struct hark_listener *l;
	(void)state;
	assert_int_equal(hark_listen("tcp://127.0.0.1:0", NULL, &l), 0);
	int first = held(l), second = held(l), waits = -1, ends = -1;
	assert_int_equal(pthread_create(&t, NULL, serve_two_at_once, l), 0);
	await_held(first);
	await_held(second);
	waits = held(l);
	ends = held(l);
	assert_int_equal(shutdown(ends, SHUT_WR), 0);
	hark_drain(20 * HARK_S);
	assert_int_equal(shutdown(first, SHUT_WR), 0);
	await_held(waits);
	assert_int_equal(shutdown(second, SHUT_WR), 0);
	await_held(ends);
	assert_int_equal(receive(ends, buf, sizeof buf), 0); /* while the one before it is still held */
	assert_int_equal(shutdown(waits, SHUT_WR), 0);
	assert_int_equal(pthread_join(t, NULL), 0);
	(void)(close(first) + close(second) + close(waits) + close(ends));
	hark_listener_close(l);
}

/* At a drain a connection that has not spoken may do so for a second. That is the reader's limit alone. */
#define MUCH (8u << 20)

static void write_much(void *arg)
{
	static const char much[MUCH];
	while (hark_drain_deadline() == HARK_FOREVER && hark_sleep(5 * HARK_MS) == 0)
		;
	(void)hark_sleep(50 * HARK_MS); /* the reader has begun its second */
	(void)hark_write(arg, much, sizeof much);
}

static void write_beside(struct hark_conn *c, void *arg)
{
	struct hark_scope s;
	(void)arg;
	(void)hark_write(c, "held\n", 5);
	(void)hark_flush(c);
	hark_scope_open(&s);
	(void)hark_go(&s, "writer", write_much, c);
	(void)hark_idle(c);
	(void)hark_join(&s, HARK_FOREVER);
	hark_scope_close(&s);
}

static void *serve_beside(void *arg)
{
	struct hark_listener *l = arg;
	assert_int_equal(hark_serve(&l, 1, write_beside, NULL, NULL), 0);
	return NULL;
}

static void a_writer_outlasts_the_second_that_a_drain_gives_an_idle_reader(void **state)
{
	static char buf[1 << 16];
	struct hark_listener *l;
	pthread_t t;
	size_t got = 0;
	(void)state;
	assert_int_equal(hark_listen("tcp://127.0.0.1:0", NULL, &l), 0);
	assert_int_equal(pthread_create(&t, NULL, serve_beside, l), 0);
	int fd = connected_to(l, SOCK_STREAM);
	be_patient(fd, ANSWER_S * 1000);
	await_held(fd);
	hark_drain(20 * HARK_S);
	/* Longer than that second: the writer waits for room meanwhile. */
	assert_int_equal(hark_sleep(1300 * HARK_MS), 0);
	for (ssize_t n; (n = receive(fd, buf, sizeof buf)) > 0;)
		got += (size_t)n;
	assert_int_equal(got, MUCH);
	(void)close(fd);
	assert_int_equal(pthread_join(t, NULL), 0);
	hark_listener_close(l);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_plain_peer_that_was_stopped_still_waits_for_its_answer),
		cmocka_unit_test(faults_under_inline),
		cmocka_unit_test(faults_under_process),
		cmocka_unit_test(faults_under_thread),
		cmocka_unit_test(faults_under_fiber),
		cmocka_unit_test(faults_under_fiber_at_the_first_byte),
		cmocka_unit_test(faults_with_two_workers),
		cmocka_unit_test(workers_without_their_engine_are_an_error),
		cmocka_unit_test(a_child_holds_no_connection_but_its_own),
		cmocka_unit_test(a_writer_outlasts_the_second_that_a_drain_gives_an_idle_reader),
		cmocka_unit_test(a_late_drain_does_not_deafen_the_next_service),
	};
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
