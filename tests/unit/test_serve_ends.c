/* test_serve_ends.c — how served connections end: what their peers still get, and what waits for them. */
#include "serve_support.h"

#define TAIL (300 * 1024) /* bytes: more than a socket's buffers take at once */

/* Answers a line, and returns while its peer has more to say. */
static void answers_one(struct hark_conn *c, void *arg)
{
	char line[64];
	(void)arg;
	ssize_t n = hark_readline(c, line, sizeof line);
	if (n > 0)
		(void)hark_write(c, line, (size_t)n);
}

static void says_hello(struct hark_conn *c, void *arg)
{
	(void)arg;
	(void)hark_write(c, "hello\n", 6);
}

static void tail(struct hark_conn *c, void *arg)
{
	static char buf[TAIL];
	(void)arg;
	pattern_fill(buf, 0, TAIL);
	(void)hark_write(c, buf, TAIL);
}

/* Its box has returned; the peer neither reads nor ends. */
static void an_iterative_server_does_not_wait_for_a_peer_that_does_not_end(void **state)
{
	(void)state;
	for (size_t e = 0; e < ENGINES_ALL; e++) {
		struct plan p = {.box = says_hello,
		                 .opts = {.model = HARK_MODEL_INLINE, .engine = engines_all[e]},
		                 .grace_ns = 5 * HARK_S};
		struct server s = server_start(&p);
		if (!server_ready(&s)) {
			assert_int_equal(server_end(&s), SKIPPED);
			continue;
		}
		int fds[10];
		int64_t began = hark_now();
		for (int i = 0; i < 10; i++) {
			fds[i] = client(&s);
			client_hears(fds[i], "hello\n");
		}
		assert_in_range(hark_now() - began, 0, 1500 * HARK_MS * SLOWER); /* one silence lasts 2 s */
		for (int i = 0; i < 10; i++)
			client_hears_the_end(fds[i]);
		assert_int_equal(server_stop(&s), 0);
	}
}

static void talks_after_the_end_and_reads_late(struct server *s)
{
	static char in[TAIL];
	char word[1000] = {0};
	size_t got = 0;
	ssize_t n;
	int fd = client(s);
	for (int i = 0; i < 4; i++) { /* before the server's end, and a while after it */
		(void)send(fd, word, sizeof word, MSG_NOSIGNAL);
		(void)poll(NULL, 0, 10);
	}
	while (got < TAIL && (n = receive(fd, in + got, TAIL - got)) > 0)
		got += (size_t)n;
	assert_int_equal(got, TAIL);
	assert_true(pattern_is(in, 0, TAIL));
	assert_int_equal(receive(fd, in, 1), 0);
	(void)close(fd);
}

static void what_a_peer_still_sends_costs_it_no_byte_of_the_answer(void **state)
{
	(void)state;
	every_way((struct plan){.box = tail, .grace_ns = 5 * HARK_S}, talks_after_the_end_and_reads_late);
}

static void more_than_one_request_in_a_segment(struct server *s)
{
	int fd = client(s);
	client_says(fd, "one\ntwo\nthree\n");
	client_hears(fd, "one\n");
	char c;
	assert_int_equal(receive(fd, &c, 1), 0);
	(void)close(fd);
}

static void input_that_the_box_left_unread_resets_nobody(void **state)
{
	(void)state;
	every_way((struct plan){.box = answers_one, .grace_ns = 5 * HARK_S}, more_than_one_request_in_a_segment);
}

/* A peer that does not end is dropped soon where the service drains. */
static void a_drain_does_not_wait_for_lingering_peers(void **state)
{
	(void)state;
	for (int late = 0; late < 2; late++) /* young ones, and those that are watched */
		for (int m = HARK_MODEL_INLINE; m <= HARK_MODEL_FIBER; m++) {
			if (m == HARK_MODEL_PROCESS) /* each child sees to itself */
				continue;
			struct plan p = {.box = says_hello,
			                 .opts = {.model = (enum hark_model)m},
			                 .grace_ns = 20 * HARK_S};
			struct server s = server_start(&p);
			assert_true(server_ready(&s));
			int fd = client(&s);
			client_hears(fd, "hello\n");
			event_await(&s, 'c');
			if (late)
				(void)poll(NULL, 0, 50);
			int64_t began = hark_now();
			assert_int_equal(server_stop(&s), 0);
			assert_in_range(hark_now() - began, 0, 1500 * HARK_MS * SLOWER);
			(void)close(fd);
		}
}

/* max_conns 1: the next is served as soon as the last peer has ended, not after a while. */
static void a_place_is_free_as_soon_as_the_peer_has_ended(void **state)
{
	(void)state;
	for (int m = HARK_MODEL_INLINE; m <= HARK_MODEL_FIBER; m++) {
		struct plan p = {.box = says_hello,
		                 .opts = {.model = (enum hark_model)m, .max_conns = 1},
		                 .grace_ns = 5 * HARK_S};
		struct server s = server_start(&p);
		assert_true(server_ready(&s));
		int64_t began = hark_now();
		for (int i = 0; i < 50; i++) {
			int fd = client(&s);
			client_hears(fd, "hello\n");
			(void)close(fd);
		}
		assert_in_range(hark_now() - began, 0, 2 * HARK_S * SLOWER);
		assert_int_equal(server_stop(&s), 0);
	}
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(an_iterative_server_does_not_wait_for_a_peer_that_does_not_end),
		cmocka_unit_test(what_a_peer_still_sends_costs_it_no_byte_of_the_answer),
		cmocka_unit_test(input_that_the_box_left_unread_resets_nobody),
		cmocka_unit_test(a_drain_does_not_wait_for_lingering_peers),
		cmocka_unit_test(a_place_is_free_as_soon_as_the_peer_has_ended),
	};
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
