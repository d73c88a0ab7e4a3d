/* test_moves.c — a connection that somebody else goes on with finds all its bytes: a forked child, another thread, and
 * a function on a helper thread, after fibers have waited on it, under each engine.
 *
 * The peer is a plain socket on a thread: it sends numbered lines and wants each back. */
#include "modes.h"

#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>

#include "conn/conn.h"

#define LINES 3000 /* of one test */
#define AHEAD 5    /* lines that the peer sends before it reads an answer; at times */

struct peer {
	pthread_t thread;
	int fd;
	int lines;
	atomic_int answered;
};

static void *peer_main(void *arg)
{
	struct peer *p = arg;
	struct timeval patience = {.tv_sec = 10};
	char line[32], back[32];
	CHECK_INT(setsockopt(p->fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience), 0);
	for (int sent = 0; p->answered < p->lines; p->answered++) {
		int ahead = p->answered % 7 < 3 ? 1 : AHEAD;
		for (; sent < p->lines && sent < p->answered + ahead; sent++) {
			(void)snprintf(line, sizeof line, "line %8d\n", sent);
			CHECK_INT(send(p->fd, line, strlen(line), MSG_NOSIGNAL), (int)strlen(line));
		}
		(void)snprintf(line, sizeof line, "line %8d\n", p->answered);
		size_t n = 0;
		while (n < strlen(line)) {
			ssize_t r = receive(p->fd, back + n, strlen(line) - n);
			CHECK(r > 0);
			n += (size_t)r;
		}
		CHECK_INT(memcmp(back, line, n), 0);
	}
	CHECK_INT(shutdown(p->fd, SHUT_WR), 0);
	return NULL;
}

static struct hark_conn *peer_start(struct peer *p, int lines)
{
	int fds[2];
	raw_tcp(fds);
	*p = (struct peer){.fd = fds[0], .lines = lines};
	CHECK_INT(pthread_create(&p->thread, NULL, peer_main, p), 0);
	return conn_of(fds[1]);
}

static void peer_end(struct peer *p)
{
	while (p->answered < p->lines) /* the loop goes on meanwhile */
		CHECK_INT(hark_sleep(HARK_MS), 0);
	CHECK_INT(pthread_join(p->thread, NULL), 0);
	(void)close(p->fd);
}

static void answer_lines(struct hark_conn *c, int n)
{
	char line[32];
	for (int i = 0; i < n; i++) {
		ssize_t r = hark_readline(c, line, sizeof line);
		CHECK(r > 0);
		CHECK_INT(hark_write(c, line, (size_t)r), r);
	}
}

/* ---- a helper thread --------------------------------------------------------------------------- */

static void answer_three(void *arg)
{
	struct hark_conn *c = arg;
	answer_lines(c, 3);
	CHECK_INT(hark_flush(c), 0);
}

static void an_offloaded_function_reads_and_writes_where_the_fiber_did(void)
{
	struct peer p;
	struct hark_conn *c = peer_start(&p, LINES);
	for (int i = 0; i < LINES / 5; i++) {
		answer_lines(c, 2); /* and not flushed: what was written comes before what the helper writes */
		CHECK_INT(hark_offload(answer_three, c), 0);
	}
	peer_end(&p);
	hark_abort(c);
}

/* ---- another thread, for good ------------------------------------------------------------------- */

static void *go_on(void *arg)
{
	struct hark_conn *c = arg;
	answer_lines(c, 20);
	CHECK_INT(hark_close(c), 0);
	return NULL;
}

struct moved {
	pthread_t thread;
	struct peer peer;
};

/* While the loop runs others, or the fiber blocks it. */
static void move_one(struct moved *m, bool blocks)
{
	struct hark_conn *c = peer_start(&m->peer, 30);
	answer_lines(c, 10);
	CHECK_INT(hark_flush(c), 0);
	CHECK_INT(pthread_create(&m->thread, NULL, go_on, c), 0);
	if (blocks)
		CHECK_INT(pthread_join(m->thread, NULL), 0);
}

static void another_thread_goes_on_with_a_connection_and_closes_it(void)
{
	struct moved m[8];
	for (int round = 0; round < 20; round++) {
		for (int i = 0; i < 8; i++)
			move_one(&m[i], i % 4 == 3);
		for (int i = 0; i < 8; i++) {
			peer_end(&m[i].peer);
			if (i % 4 != 3)
				CHECK_INT(pthread_join(m[i].thread, NULL), 0);
		}
	}
}

/* Not while a fiber waits: its loop goes on with it. */
static void read_one(void *arg)
{
	char byte;
	CHECK_INT(hark_read(arg, &byte, 1), 1);
}

static void *write_beside(void *arg)
{
	char byte = 'x';
	CHECK_INT(hark_write(arg, &byte, 1), -EBUSY);
	CHECK_INT(hark_read(arg, &byte, 1), -EBUSY);
	return NULL;
}

static void another_thread_gets_ebusy_while_a_fiber_waits(void)
{
	struct pair p = tcp_pair();
	struct hark_scope s;
	pthread_t thread;
	hark_scope_open(&s);
	CHECK_INT(hark_go(&s, "reads", read_one, p.b), 0);
	CHECK_INT(hark_sleep(HARK_MS), 0);
	CHECK_INT(pthread_create(&thread, NULL, write_beside, p.b), 0);
	CHECK_INT(pthread_join(thread, NULL), 0);
	CHECK_INT(hark_write(p.a, "y", 1), 1);
	CHECK_INT(hark_flush(p.a), 0);
	CHECK_INT(hark_join(&s, HARK_FOREVER), 0);
	hark_scope_close(&s);
	pair_drop(&p);
}

/* The scope's loop ends before the thread is through with it. */
static void read_first(void *arg)
{
	answer_lines(arg, 10);
	CHECK_INT(hark_flush(arg), 0);
}

static void outlives_body(void)
{
	for (int round = 0; round < 20; round++) {
		struct peer p;
		pthread_t thread;
		struct hark_scope s;
		struct hark_conn *c = peer_start(&p, 30);
		hark_scope_open(&s);
		CHECK_INT(hark_go(&s, "first", read_first, c), 0);
		CHECK_INT(hark_join(&s, HARK_FOREVER), 0);
		CHECK_INT(pthread_create(&thread, NULL, go_on, c), 0);
		hark_scope_close(&s);
		peer_end(&p);
		CHECK_INT(pthread_join(thread, NULL), 0);
	}
}

static void a_connection_outlives_the_loop_on_another_thread(void **state)
{
	(void)state;
	for (size_t i = 0; i < ENGINES_ALL; i++) {
		assert_int_equal(setenv("HARK_ENGINE", engines_all[i], 1), 0);
		on_plain_thread(outlives_body);
	}
	assert_int_equal(unsetenv("HARK_ENGINE"), 0);
}

/* ---- from hand to hand ------------------------------------------------------------------------- */

#define CARRIED       24 /* connections */
#define CARRIED_LINES 600
#define LOOPS         3
#define PLAIN         2
#define HANDS         4  /* fibers of a loop at a time */
#define TURNS         40 /* of each, before its loop ends and another begins */

/* guarded by carried_lock */
static struct carried {
	struct hark_conn *c;
	int left; /* lines */
} carried[CARRIED];
static int waiting[CARRIED], n_waiting, n_open;
static pthread_mutex_t carried_lock = PTHREAD_MUTEX_INITIALIZER;
static struct hark_cond carried_changed;

/* One that nobody has at the moment, or -1: all have ended. */
static int take_one(void)
{
	pthread_mutex_lock(&carried_lock);
	while (n_waiting == 0 && n_open > 0)
		CHECK_INT(hark_cond_wait(&carried_changed, &carried_lock, HARK_FOREVER), 0);
	int i = n_waiting > 0 ? waiting[--n_waiting] : -1;
	pthread_mutex_unlock(&carried_lock);
	return i;
}

static void put_back(int i)
{
	pthread_mutex_lock(&carried_lock);
	if (i >= 0)
		waiting[n_waiting++] = i;
	else
		n_open--;
	hark_cond_broadcast(&carried_changed);
	pthread_mutex_unlock(&carried_lock);
}

/* What is not flushed the next one flushes. */
static bool take_a_turn(void)
{
	int i = take_one();
	if (i < 0)
		return false;
	int n = carried[i].left < 3 ? carried[i].left : 1 + carried[i].left % 3;
	answer_lines(carried[i].c, n);
	carried[i].left -= n;
	if (carried[i].left == 0)
		CHECK_INT(hark_close(carried[i].c), 0);
	else if (carried[i].left % 4 != 0)
		CHECK_INT(hark_flush(carried[i].c), 0);
	put_back(carried[i].left > 0 ? i : -1);
	return true;
}

static void take_turns(void *going)
{
	for (int i = 0; i < TURNS && *(bool *)going; i++)
		*(bool *)going = take_a_turn();
}

static void *hands_on_loops(void *arg)
{
	(void)arg;
	for (bool going = true; going;) {
		struct hark_scope s;
		hark_scope_open(&s);
		for (int i = 0; i < HANDS; i++)
			CHECK_INT(hark_go(&s, "hand", take_turns, &going), 0);
		CHECK_INT(hark_join(&s, HARK_FOREVER), 0);
		hark_scope_close(&s);
	}
	return NULL;
}

static void *hands_on_a_thread(void *arg)
{
	(void)arg;
	while (take_a_turn())
		;
	return NULL;
}

static void hand_to_hand_body(void)
{
	struct peer peers[CARRIED];
	pthread_t threads[LOOPS + PLAIN];
	n_open = CARRIED;
	for (int i = 0; i < CARRIED; i++) {
		carried[i] = (struct carried){.c = peer_start(&peers[i], CARRIED_LINES), .left = CARRIED_LINES};
		waiting[n_waiting++] = i;
	}
	for (int i = 0; i < LOOPS + PLAIN; i++)
		CHECK_INT(pthread_create(&threads[i], NULL, i < LOOPS ? hands_on_loops : hands_on_a_thread, NULL), 0);
	for (int i = 0; i < CARRIED; i++)
		peer_end(&peers[i]);
	for (int i = 0; i < LOOPS + PLAIN; i++)
		CHECK_INT(pthread_join(threads[i], NULL), 0);
}

static void connections_go_from_hand_to_hand_between_loops_and_threads(void **state)
{
	(void)state;
	for (size_t i = 0; i < ENGINES_ALL; i++) {
		assert_int_equal(setenv("HARK_ENGINE", engines_all[i], 1), 0);
		on_plain_thread(hand_to_hand_body);
	}
	assert_int_equal(unsetenv("HARK_ENGINE"), 0);
}

/* ---- a forked child ----------------------------------------------------------------------------- */

static void a_forked_child_reads_on(void)
{
	for (int round = 0; round < 40; round++) {
		struct peer p;
		struct hark_conn *c = peer_start(&p, 30);
		int status;
		answer_lines(c, 10);
		CHECK_INT(hark_flush(c), 0);
		pid_t pid = fork();
		CHECK(pid >= 0);
		if (pid == 0) {
			answer_lines(c, 20);
			_exit(hark_flush(c) == 0 ? 0 : 1);
		}
		peer_end(&p);
		CHECK_INT(waitpid(pid, &status, 0), pid);
		CHECK_INT(status, 0);
		hark_abort(c);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		EVERYWHERE(an_offloaded_function_reads_and_writes_where_the_fiber_did),
		EVERYWHERE(another_thread_goes_on_with_a_connection_and_closes_it),
		cmocka_unit_test(a_connection_outlives_the_loop_on_another_thread),
		cmocka_unit_test(connections_go_from_hand_to_hand_between_loops_and_threads),
		ON_ENGINES(another_thread_gets_ebusy_while_a_fiber_waits),
		EVERYWHERE(a_forked_child_reads_on),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
