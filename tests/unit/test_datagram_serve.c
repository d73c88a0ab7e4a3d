/* test_datagram_serve.c — served datagrams under the models, and flows. */
#include "datagram_support.h"

/* ---- flows --------------------------------------------------------------------------- */

static void a_conversation_gets_all_that_its_peer_sends_and_nothing_else(void)
{
	char buf[100], text[HARK_ADDRESS_MAX], want[HARK_ADDRESS_MAX];
	struct hark_listener *l;
	struct hark_conn *c, *one, *two;
	CHECK_INT(hark_listen("udp://*:0", NULL, &l), 0);
	int a = peer_to("127.0.0.1", listener_port(l)), b = peer_to("127.0.0.2", listener_port(l));
	peer_says(a, "a1"); /* a burst of first datagrams, and another peer's in between */
	peer_says(a, "a2");
	peer_says(b, "b1");
	peer_says(a, "a3");
	CHECK_INT(hark_accept(l, HARK_FOREVER, &one), 0);
	CHECK(hark_peer(one, want, sizeof want) > 0);
	CHECK_INT(hark_udp_connect(one), 0);
	CHECK_INT(hark_udp_connect(one), -EOPNOTSUPP); /* it is one already */
	CHECK(hark_fd(one) != hark_listener_fd(l));
	CHECK(hark_peer(one, text, sizeof text) > 0);
	CHECK(strcmp(text, want) == 0);
	CHECK(hark_local(one, text, sizeof text) > 0);
	CHECK_HAS(text, "127.0.0.1");
	CHECK_INT(hark_accept(l, HARK_FOREVER, &c), 0); /* a2 */
	CHECK_INT(hark_udp_connect(c), -EALREADY);
	hark_abort(c);
	CHECK_INT(hark_accept(l, HARK_FOREVER, &two), 0); /* b1 */
	CHECK_INT(hark_udp_connect(two), 0);
	CHECK_INT(hark_accept(l, HARK_FOREVER, &c), 0); /* a3 */
	CHECK_INT(hark_udp_connect(c), -EALREADY);
	hark_abort(c);
	hark_idle_timeout(one, 5 * HARK_S);
	hark_idle_timeout(two, 5 * HARK_S);
	for (int i = 1; i <= 3; i++) {
		CHECK_INT(hark_read(one, buf, sizeof buf), 2);
		CHECK_INT(buf[0], 'a');
		CHECK_INT(buf[1], '0' + i);
	}
	CHECK_INT(hark_read(two, buf, sizeof buf), 2);
	CHECK(memcmp(buf, "b1", 2) == 0);
	for (int i = 0; i < 20; i++) { /* from now on each has a socket of its own */
		peer_says(a, "x");
		peer_says(b, "y");
		CHECK_INT(hark_read(two, buf, sizeof buf), 1);
		CHECK_INT(buf[0], 'y');
		CHECK_INT(hark_read(one, buf, sizeof buf), 1);
		CHECK_INT(buf[0], 'x');
		CHECK_INT(hark_write(one, "to a", 4), 4);
		CHECK_INT(hark_write(two, "to b", 4), 4);
		peer_hears(b, "to b");
		peer_hears(a, "to a");
	}
	CHECK_INT(hark_accept(l, hark_after(5 * HARK_MS), &c), -ETIMEDOUT);
	CHECK_INT(hark_close(one), 0);
	peer_says(a, "again"); /* it is over: a new one begins */
	CHECK_INT(hark_accept(l, HARK_FOREVER, &one), 0);
	CHECK_INT(hark_udp_connect(one), 0);
	CHECK_INT(hark_read(one, buf, sizeof buf), 5);
	CHECK_INT(hark_close(one), 0);
	CHECK_INT(hark_close(two), 0);
	hark_listener_close(l);
	(void)close(a);
	(void)close(b);
}

/* ---- answers of a flow's program, while datagrams that came before it are handed over */

enum { HANDED = 100, AHEAD = 200 /* that fit into the peer's queue */ };

struct answers {
	int fd;
	atomic_bool over;
	atomic_int sent, heard;
};

static void *answer_without_pause(void *arg)
{
	struct answers *a = arg;
	while (!atomic_load(&a->over))
		if (atomic_load(&a->sent) - atomic_load(&a->heard) < AHEAD && send(a->fd, "!", 1, 0) == 1)
			atomic_fetch_add(&a->sent, 1);
	return NULL;
}

static void hears_all(int fd, struct answers *a)
{
	char byte;
	while (recv(fd, &byte, 1, MSG_DONTWAIT) == 1)
		atomic_fetch_add(&a->heard, 1);
}

/* The kernel may have been sending one to where the socket was connected a moment ago. */
static void what_a_program_answers_meanwhile_arrives(void)
{
	struct hark_listener *l;
	struct hark_conn *one, *c[HANDED];
	pthread_t thread;
	CHECK_INT(hark_listen("udp4://127.0.0.1:0", NULL, &l), 0);
	int peer = peer_to("127.0.0.1", listener_port(l));
	for (int i = 0; i <= HANDED; i++)
		peer_says(peer, "x");
	CHECK_INT(hark_accept(l, HARK_FOREVER, &one), 0);
	for (int i = 0; i < HANDED; i++)
		CHECK_INT(hark_accept(l, HARK_FOREVER, &c[i]), 0);
	CHECK_INT(hark_udp_connect(one), 0);
	struct answers a = {.fd = hark_fd(one)};
	CHECK_INT(pthread_create(&thread, NULL, answer_without_pause, &a), 0);
	for (int i = 0; i < HANDED; i++) {
		int before = atomic_load(&a.sent);
		CHECK_INT(hark_udp_connect(c[i]), -EALREADY);
		hark_abort(c[i]);
		while (atomic_load(&a.sent) == before)
			hears_all(peer, &a);
	}
	atomic_store(&a.over, true);
	CHECK_INT(pthread_join(thread, NULL), 0);
	hears_all(peer, &a);
	if (a.heard < a.sent - HANDED / 4)
		fail_msg("%d of %d answers came", a.heard, a.sent);
	CHECK_INT(hark_close(one), 0);
	hark_listener_close(l);
	(void)close(peer);
}

/* Two sockets of one port, among which the kernel deals the peers: each makes flows of those that it was dealt, and
 * everybody's later datagrams come to his own flow; those of peers without one still come to the two. */
static void flows_begin_beside_sockets_that_share_a_port(void)
{
	enum { PEERS = 24 };
	struct hark_listener *l[2];
	struct hark_listen_opts o = {.reuseport = true};
	struct hark_conn *flow[PEERS];
	char address[HARK_ADDRESS_MAX], text[HARK_ADDRESS_MAX], buf[8];
	int fds[PEERS], strangers[PEERS], dealt[2] = {0, 0};
	CHECK_INT(hark_listen("udp4://127.0.0.1:0", &o, &l[0]), 0);
	CHECK(hark_listener_address(l[0], address, sizeof address) > 0);
	CHECK_INT(hark_listen(address, &o, &l[1]), 0);
	int port = listener_port(l[0]);
	for (int i = 0; i < PEERS; i++) {
		int r = -ETIMEDOUT;
		fds[i] = peer_to("127.0.0.1", port);
		peer_says(fds[i], "first");
		for (int k = 0; r < 0; k = !k) { /* whichever has it */
			r = hark_accept(l[k], hark_after(2 * HARK_MS), &flow[i]);
			dealt[k] += r == 0;
		}
		CHECK_INT(hark_udp_connect(flow[i]), 0);
		hark_idle_timeout(flow[i], 5 * HARK_S);
		CHECK_INT(hark_read(flow[i], buf, sizeof buf), 5);
	}
	CHECK(dealt[0] > 0 && dealt[1] > 0);
	for (int round = 0; round < 3; round++)
		for (int i = 0; i < PEERS; i++) {
			(void)snprintf(text, sizeof text, "%d", i);
			peer_says(fds[i], text);
			ssize_t n = hark_read(flow[i], buf, sizeof buf - 1);
			CHECK_INT(n, (int)strlen(text));
			CHECK(memcmp(buf, text, (size_t)n) == 0);
			CHECK_INT(hark_write(flow[i], "yes", 3), 3);
			peer_hears(fds[i], "yes");
		}
	for (int i = 0; i < PEERS; i++) {
		struct hark_conn *c;
		int r = -ETIMEDOUT;
		strangers[i] = peer_to("127.0.0.1", port);
		peer_says(strangers[i], "new");
		for (int k = 0, tries = 0; r < 0 && tries < 400; k = !k, tries++)
			r = hark_accept(l[k], hark_after(2 * HARK_MS), &c);
		CHECK_INT(r, 0);
		hark_abort(c);
		(void)close(strangers[i]);
	}
	for (int i = 0; i < PEERS; i++) {
		CHECK_INT(hark_close(flow[i]), 0);
		(void)close(fds[i]);
	}
	hark_listener_close(l[0]);
	hark_listener_close(l[1]);
}

/* As where a service's workers have sessions, and its address changes: the listener is gone with its last user. */
static void a_flow_keeps_neither_its_listeners_socket_nor_another_listener_out(void)
{
	const char *const others[] = {"udp4://127.0.0.1:%d", "udp4://*:%d", "udp://*:%d"};
	struct hark_listen_opts beside = {.beside_connected = true};
	struct hark_listener *l;
	struct hark_conn *flow;
	char address[HARK_ADDRESS_MAX], buf[8];
	CHECK_INT(hark_listen("udp4://127.0.0.1:0", NULL, &l), 0);
	int port = listener_port(l), peer = peer_to("127.0.0.1", port), stranger = peer_to("127.0.0.1", port), on = -1;
	socklen_t len = sizeof on;
	peer_says(peer, "first");
	CHECK_INT(hark_accept(l, HARK_FOREVER, &flow), 0);
	CHECK_INT(hark_udp_connect(flow), 0);
	CHECK_INT(hark_read(flow, buf, sizeof buf), 5);
	hark_listener_close(l);
	for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
		struct hark_conn *c;
		(void)snprintf(address, sizeof address, others[i], port);
		CHECK_INT(hark_listen(address, NULL, &l), -EADDRINUSE);
		CHECK_INT(hark_listen(address, &beside, &l), 0);
		CHECK_INT(getsockopt(hark_listener_fd(l), SOL_SOCKET, SO_REUSEADDR, &on, &len), 0);
		CHECK_INT(on, 0); /* nobody else gets beside it */
		peer_says(peer, "more");
		CHECK_INT(hark_read(flow, buf, sizeof buf), 4);
		peer_says(stranger, "new");
		CHECK_INT(hark_accept(l, hark_after(5 * HARK_S), &c), 0);
		hark_abort(c);
		hark_listener_close(l);
	}
	CHECK_INT(hark_close(flow), 0);
	(void)close(peer);
	(void)close(stranger);
}

/* ---- served ones ----------------------------------------------------------------------------- */

static void on_term(int sig)
{
	(void)sig;
	hark_drain(5 * HARK_S);
}

static int ready_fd;

static void tell_ready(const struct hark_event *e, void *arg)
{
	(void)arg;
	if (e->kind == HARK_EVENT_READY)
		CHECK_INT(write(ready_fd, "r", 1), 1);
}

static void echo(struct hark_conn *c, void *arg)
{
	char buf[2000];
	(void)arg;
	ssize_t n = hark_read(c, buf, sizeof buf);
	if (n >= 0)
		CHECK_INT(hark_write(c, buf, (size_t)n), n);
	else
		CHECK(hark_printf(c, "%s", hark_strerror((int)n)) > 0);
}

static void converses(struct hark_conn *c, void *arg)
{
	char buf[100];
	(void)arg;
	if (hark_udp_connect(c) < 0)
		return;
	hark_idle_timeout(c, 500 * HARK_MS);
	ssize_t n;
	while (hark_idle(c) > 0 && (n = hark_read(c, buf, sizeof buf)) >= 0)
		CHECK_INT(hark_write(c, buf, (size_t)n), n);
}

static pid_t serve_in_child(struct hark_listener *l, hark_box *box, const struct hark_serve_opts *with)
{
	int fds[2];
	char byte;
	assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		struct hark_serve_opts o = *with;
		(void)close(fds[0]);
		ready_fd = fds[1];
		o.event = tell_ready;
		(void)signal(SIGSEGV, SIG_DFL);
		(void)signal(SIGTERM, on_term);
		(void)alarm(MODE_TIMEOUT_S);
		int rc = hark_serve(&l, 1, box, NULL, &o);
		hark_listener_close(l);
		if (rc < 0 && rc != -ENOSYS)
			(void)fprintf(stderr, "serve, %s: %s\n", hark_model_name(o.model), hark_strerror(rc));
		_exit(rc == 0 ? 0 : rc == -ENOSYS ? SKIPPED : 1);
	}
	(void)close(fds[1]);
	bool ready = read(fds[0], &byte, 1) == 1;
	(void)close(fds[0]);
	if (ready)
		return pid;
	int status;
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(WEXITSTATUS(status), SKIPPED);
	return 0;
}

static void stop(pid_t pid)
{
	int status;
	assert_int_equal(kill(pid, SIGTERM), 0);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

/* Two hundred datagrams come before the server looks; each is answered to its own sender. */
static void batch_with(const struct hark_serve_opts *o)
{
	struct hark_listener *l;
	int fds[10];
	char text[16];
	bool heard[200] = {false};
	assert_int_equal(hark_listen("udp://*:0", &(struct hark_listen_opts){.receive_buffer_bytes = 1 << 20}, &l), 0);
	for (int i = 0; i < 10; i++)
		fds[i] = peer_to(i % 2 ? "127.0.0.1" : "127.0.0.2", listener_port(l));
	for (int i = 0; i < 200; i++) {
		(void)snprintf(text, sizeof text, "%d", i);
		peer_says(fds[i % 10], text);
	}
	pid_t pid = serve_in_child(l, echo, o);
	if (pid == 0) {
		print_message("skipped in part: engine %s is not available here\n", o->engine);
	} else {
		for (int i = 0; i < 200; i++) {
			ssize_t n = receive(fds[i % 10], text, sizeof text - 1);
			assert_true(n > 0);
			text[n] = '\0';
			int which = atoi(text);
			assert_int_equal(which % 10, i % 10);
			assert_false(heard[which]);
			heard[which] = true;
		}
		static char big[2500];
		assert_int_equal(send(fds[0], big, sizeof big, 0), sizeof big);
		peer_hears(fds[0], strerror(EMSGSIZE));
		stop(pid);
	}
	for (int i = 0; i < 10; i++)
		(void)close(fds[i]);
	hark_listener_close(l);
}

static void a_burst_of_datagrams_is_answered_each_to_its_sender(void **state)
{
	(void)state;
	for (int m = HARK_MODEL_INLINE; m <= HARK_MODEL_FIBER; m++)
		for (int max = 0; max <= 5; max += 5)
			for (size_t e = 0; e < ENGINES_ALL; e++)
				batch_with(&(struct hark_serve_opts){.model = (enum hark_model)m,
				                                     .engine = engines_all[e],
				                                     .max_conns = max});
}

static int gate[2];

static void second_waits(struct hark_conn *c, void *arg)
{
	char buf[16];
	(void)arg;
	ssize_t n = hark_read(c, buf, sizeof buf);
	CHECK_INT(n, 1);
	if (buf[0] == '2')
		CHECK_INT(hark_wait_fd(gate[0], HARK_IN, hark_after(20 * HARK_S)), HARK_IN);
	CHECK_INT(hark_write(c, buf, 1), 1);
}

/* Both come before the server looks. */
static void an_answer_does_not_wait_for_the_next_box(void **state)
{
	(void)state;
	for (int model = HARK_MODEL_INLINE; model <= HARK_MODEL_FIBER; model++) {
		struct hark_listener *l;
		struct timeval patience = {.tv_sec = 10 * SLOWER};
		assert_int_equal(pipe2(gate, O_CLOEXEC), 0);
		assert_int_equal(hark_listen("udp://127.0.0.1:0", NULL, &l), 0);
		int fd = peer_to("127.0.0.1", listener_port(l));
		assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience), 0);
		peer_says(fd, "1");
		peer_says(fd, "2");
		pid_t pid = serve_in_child(l, second_waits, &(struct hark_serve_opts){.model = model});
		peer_hears(fd, "1");
		assert_int_equal(write(gate[1], "x", 1), 1);
		peer_hears(fd, "2");
		stop(pid);
		(void)close(fd);
		(void)close(gate[0]);
		(void)close(gate[1]);
		hark_listener_close(l);
	}
}

static void served_conversations_keep_peers_apart(void **state)
{
	(void)state;
	for (int m = HARK_MODEL_PROCESS; m <= HARK_MODEL_FIBER; m++) {
		struct hark_listener *l;
		int fds[6];
		char text[16];
		assert_int_equal(hark_listen("udp://*:0", NULL, &l), 0);
		pid_t pid = serve_in_child(l, converses, &(struct hark_serve_opts){.model = (enum hark_model)m});
		assert_true(pid > 0);
		for (int i = 0; i < 6; i++)
			fds[i] = peer_to(i % 2 ? "127.0.0.1" : "127.0.0.2", listener_port(l));
		for (int round = 0; round < 10; round++) {
			for (int i = 0; i < 6; i++) {
				(void)snprintf(text, sizeof text, "%d.%d", i, round);
				peer_says(fds[i], text);
			}
			for (int i = 0; i < 6; i++) {
				(void)snprintf(text, sizeof text, "%d.%d", i, round);
				peer_hears(fds[i], text);
			}
		}
		stop(pid);
		for (int i = 0; i < 6; i++)
			(void)close(fds[i]);
		hark_listener_close(l);
	}
}

static void answers_too_long(struct hark_conn *c, void *arg)
{
	static const char much[65508]; /* a byte more than IPv4 has room for */
	(void)arg;
	(void)hark_printf(c, "first");
	ssize_t n = hark_write(c, much, sizeof much);
	(void)hark_printf(c, "%s", n == -EMSGSIZE ? "too long" : "no error");
}

static void a_reply_that_is_too_long_is_known_as_such_under_every_model(void **state)
{
	(void)state;
	for (int m = HARK_MODEL_INLINE; m <= HARK_MODEL_FIBER; m++) {
		struct hark_listener *l;
		assert_int_equal(hark_listen("udp://127.0.0.1:0", NULL, &l), 0);
		pid_t pid = serve_in_child(l, answers_too_long, &(struct hark_serve_opts){.model = (enum hark_model)m});
		assert_true(pid > 0);
		int fd = peer_to("127.0.0.1", listener_port(l));
		peer_says(fd, "?");
		peer_hears(fd, "first");
		peer_hears(fd, "too long");
		stop(pid);
		(void)close(fd);
		hark_listener_close(l);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		EVERYWHERE(flows_begin_beside_sockets_that_share_a_port),
		EVERYWHERE(a_flow_keeps_neither_its_listeners_socket_nor_another_listener_out),
		EVERYWHERE(what_a_program_answers_meanwhile_arrives),
		EVERYWHERE(a_conversation_gets_all_that_its_peer_sends_and_nothing_else),
		cmocka_unit_test(a_burst_of_datagrams_is_answered_each_to_its_sender),
		cmocka_unit_test(a_reply_that_is_too_long_is_known_as_such_under_every_model),
		cmocka_unit_test(an_answer_does_not_wait_for_the_next_box),
		cmocka_unit_test(served_conversations_keep_peers_apart),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
