/* test_serve.c — hark_serve() under all models, with one and two workers, on each engine: what is served, and what is
 * told of it. */
#include "serve_support.h"

#include <linux/tcp.h>

#define CLIENTS 100
#define KB10    10240

/* ---- all of them ------------------------------------------------------------------------------ */

static void echo_clients(struct server *s)
{
	static int fds[CLIENTS];
	static char out[KB10], in[KB10];
	for (int i = 0; i < CLIENTS; i++) {
		fds[i] = client(s);
		pattern_fill(out, (size_t)i * 7, KB10);
		assert_int_equal(send(fds[i], out, KB10, MSG_NOSIGNAL), KB10);
		assert_int_equal(shutdown(fds[i], SHUT_WR), 0);
	}
	for (int i = 0; i < CLIENTS; i++) {
		size_t got = 0;
		ssize_t n;
		while (got < KB10 && (n = receive(fds[i], in + got, KB10 - got)) > 0)
			got += (size_t)n;
		assert_int_equal(got, KB10);
		assert_true(pattern_is(in, (size_t)i * 7, KB10));
		client_hears_the_end(fds[i]);
	}
}

static void one_box_serves_under_every_model_worker_count_and_engine(void **state)
{
	(void)state;
	every_way((struct plan){.box = echo, .grace_ns = 5 * HARK_S}, echo_clients);
}

/* ---- events, time, first bytes ------------------------------------------------------------------ */

static void events_come_in_order(void **state)
{
	(void)state;
	struct plan p = {.box = greets, .grace_ns = 5 * HARK_S};
	struct server s = server_start(&p);
	assert_int_equal(event_next(&s, LONG_MS), 'r');
	int fd = client(&s);
	assert_int_equal(event_next(&s, LONG_MS), 'o');
	assert_int_equal(event_next(&s, 50), 0);
	client_says(fd, "x\n");
	assert_int_equal(event_next(&s, LONG_MS), 'c');
	client_hears(fd, "hi\nx\n");
	client_hears_the_end(fd);
	assert_int_equal(kill(s.pid, SIGTERM), 0);
	assert_int_equal(event_next(&s, LONG_MS), '!');
	assert_int_equal(event_next(&s, LONG_MS), 0);
	assert_int_equal(server_end(&s), 0);
}

static void idle_time_and_lifetime_end_connections(void **state)
{
	(void)state;
	for (int first = 0; first < 2; first++)
		for (int m = HARK_MODEL_INLINE; m <= HARK_MODEL_FIBER; m++) {
			struct plan p = {
				.box = lines,
				.opts = {.model = (enum hark_model)m,
			                 .client_first = first,
			                 .idle_timeout_ns = 100 * HARK_MS},
				.grace_ns = 5 * HARK_S,
			};
			struct server s = server_start(&p);
			assert_true(server_ready(&s));
			int fd = client(&s); /* never speaks */
			client_hears_the_end(fd);
			fd = client(&s);
			client_says(fd, "x\n");
			client_hears(fd, "x\n");
			client_hears_the_end(fd);
			assert_int_equal(server_stop(&s), 0);
			p.opts.idle_timeout_ns = 0;
			p.opts.lifetime_ns = 200 * HARK_MS;
			s = server_start(&p);
			assert_true(server_ready(&s));
			fd = client(&s);
			for (int i = 0; i < 100 && send(fd, "x\n", 2, MSG_NOSIGNAL) == 2; i++) { /* always busy */
				char buf[2];
				if (recv(fd, buf, 2, MSG_WAITALL) != 2)
					break;
				(void)usleep(10000);
				assert_true(i < 90);
			}
			(void)close(fd);
			assert_int_equal(server_stop(&s), 0);
		}
}

/* How many bytes a program that got the descriptor would find there, as a digit; then it serves as lines() does. */
static void looks_at_its_descriptor(struct hark_conn *c, void *arg)
{
	char buf[8];
	ssize_t n = recv(hark_fd(c), buf, sizeof buf, MSG_PEEK | MSG_DONTWAIT);
	(void)hark_printf(c, "%zd\n", hark_buffered(c) == 0 ? n : -2);
	lines(c, arg);
}

static void the_first_bytes_are_left_on_the_descriptor(void **state)
{
	static const char *const addresses[] = {"tcp://127.0.0.1:0", "unix:@hark-unit-first"};
	(void)state;
	for (size_t i = 0; i < 2 * ENGINES_ALL; i++) {
		struct plan p = {.address = addresses[i % 2],
		                 .box = looks_at_its_descriptor,
		                 .grace_ns = 5 * HARK_S,
		                 .opts = {.engine = engines_all[i / 2], .client_first = true}};
		struct server s = server_start(&p);
		if (!server_ready(&s)) {
			assert_int_equal(server_end(&s), SKIPPED);
			continue;
		}
		int fd = client(&s);
		assert_false(hears_within(fd, 20)); /* it is watched by now */
		client_says(fd, "now\n");
		client_hears(fd, "4\nnow\n");
		client_says(fd, "and then\n");
		client_hears(fd, "and then\n");
		assert_int_equal(shutdown(fd, SHUT_WR), 0);
		client_hears_the_end(fd);
		assert_int_equal(server_stop(&s), 0);
	}
}

static void where_the_client_speaks_first_the_box_starts_with_its_first_byte(void **state)
{
	(void)state;
	for (size_t e = 0; e < ENGINES_ALL; e++) {
		struct plan p = {.box = lines,
		                 .opts = {.client_first = true, .engine = engines_all[e]},
		                 .grace_ns = 10 * HARK_S};
		struct server s = server_start(&p);
		if (!server_ready(&s)) {
			assert_int_equal(server_end(&s), SKIPPED);
			print_message("skipped in part: engine %s is not available here\n", engines_all[e]);
			continue;
		}
		int silent = client(&s), gone = client(&s), late = client(&s), fd = client(&s);
		client_says(fd, "x\n");
		client_hears(fd, "x\n");
		assert_int_equal(event_next(&s, LONG_MS), 'o');
		assert_int_equal(event_next(&s, 20), 0); /* the others have not begun */
		(void)close(gone);
		assert_int_equal(event_next(&s, LONG_MS), 'o');
		assert_int_equal(event_next(&s, LONG_MS), 'c');
		assert_int_equal(kill(s.pid, SIGTERM), 0);
		event_await(&s, '!');
		client_says(late, "late\n"); /* it was accepted before */
		client_hears(late, "late\n");
		client_hears_the_end(late);
		client_hears_the_end(fd);
		client_hears_the_end(silent);
		assert_int_equal(server_end(&s), 0);
	}
}

/* As a program would that it was handed to. */
static void uses_the_descriptor(struct hark_conn *c, void *arg)
{
	char word[8];
	(void)arg;
	CHECK_INT(hark_buffered(c), 0);
	CHECK_INT(recv(hark_fd(c), word, sizeof word, MSG_DONTWAIT), 2);
	CHECK_INT(send(hark_fd(c), word, 2, MSG_NOSIGNAL), 2);
}

static void the_first_byte_is_left_in_the_socket(void **state)
{
	(void)state;
	for (size_t e = 0; e < ENGINES_ALL; e++) {
		struct plan p = {
			.box = uses_the_descriptor,
			.opts = {.client_first = true, .engine = engines_all[e]},
			.grace_ns = 10 * HARK_S,
		};
		struct server s = server_start(&p);
		if (!server_ready(&s)) {
			assert_int_equal(server_end(&s), SKIPPED);
			print_message("skipped in part: engine %s is not available here\n", engines_all[e]);
			continue;
		}
		int fd = client(&s);
		assert_int_equal(event_next(&s, 20), 0); /* silent yet */
		client_says(fd, "x\n");
		client_hears(fd, "x\n");
		client_hears_the_end(fd);
		assert_int_equal(server_stop(&s), 0);
	}
}

/* ---- inetd's wait ------------------------------------------------------------------------------ */

static void says_and_ends(struct hark_conn *c, void *arg)
{
	(void)arg;
	CHECK_INT(hark_write(c, "last words", 10), 10);
}

/* One segment for the last bytes and the end, not two: what the client received is that and the handshake's. */
static void the_last_bytes_and_the_end_travel_together(void **state)
{
	(void)state;
	for (int m = HARK_MODEL_INLINE; m <= HARK_MODEL_FIBER; m++) {
		struct plan p = {.box = says_and_ends, .opts = {.model = (enum hark_model)m}, .grace_ns = HARK_S};
		struct server s = server_start(&p);
		assert_true(server_ready(&s));
		int fd = client(&s);
		char c;
		client_hears(fd, "last words");
		assert_int_equal(read(fd, &c, 1), 0);
		struct tcp_info info = {0};
		socklen_t len = sizeof info;
		assert_int_equal(getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len), 0);
		assert_int_equal(info.tcpi_segs_in, 2);
		(void)close(fd);
		assert_int_equal(server_stop(&s), 0);
	}
}

/* ---- boxes with fibers of their own ------------------------------------------------------------- */

static const enum hark_model models_all[] = {HARK_MODEL_FIBER, HARK_MODEL_THREAD, HARK_MODEL_PROCESS,
                                             HARK_MODEL_INLINE};

/* ---- what a box tells of its end ------------------------------------------------------------------ */

static void fails(struct hark_conn *c, void *arg)
{
	(void)arg;
	CHECK_INT(hark_printf(c, "half an answ"), 12);
	hark_outcome(c, 0, -ELOOP);
}

static void judges(struct hark_conn *c, void *arg)
{
	(void)arg;
	CHECK_INT(hark_printf(c, "done\n"), 5);
	hark_outcome(c, 4711, 7 << 8);
}

static void a_box_that_failed_resets_its_connection_and_the_event_tells_why(void **state)
{
	char buf[16];
	(void)state;
	for (size_t m = 0; m < 4; m++) {
		struct plan p = {.box = fails, .opts = {.model = models_all[m]}, .grace_ns = 10 * HARK_S};
		struct server s = server_start(&p);
		assert_true(server_ready(&s));
		int fd = client(&s);
		event_await(&s, 'E');
		assert_int_equal(read(fd, buf, sizeof buf), -1);
		assert_int_equal(errno, ECONNRESET);
		(void)close(fd);
		assert_int_equal(kill(s.pid, SIGTERM), 0);
		assert_int_equal(server_end(&s), 0);
	}
}

static void a_boxs_pid_and_status_are_told(void **state)
{
	(void)state;
	for (size_t m = 0; m < 4; m++) {
		struct plan p = {.box = judges, .opts = {.model = models_all[m]}, .grace_ns = 10 * HARK_S};
		struct server s = server_start(&p);
		assert_true(server_ready(&s));
		int fd = client(&s);
		client_hears(fd, "done\n");
		client_hears_the_end(fd);
		event_await(&s, 'i');
		assert_int_equal(kill(s.pid, SIGTERM), 0);
		assert_int_equal(server_end(&s), 0);
	}
}

/* ---- what cannot be served ------------------------------------------------------------------------ */

static void nonsense_is_refused_with_a_reason(void **state)
{
	struct hark_why why;
	struct hark_listener *l;
	(void)state;
	assert_int_equal(hark_listen("tcp://127.0.0.1:0", NULL, &l), 0);
	assert_int_equal(hark_serve(NULL, 0, echo, NULL, &(struct hark_serve_opts){.why = &why}), -EINVAL);
	assert_non_null(strstr(why.text, "listener"));
	assert_int_equal(hark_serve(&l, 1, NULL, NULL, &(struct hark_serve_opts){.why = &why}), -EINVAL);
	assert_int_equal(hark_serve(&l, 1, echo, NULL, &(struct hark_serve_opts){.workers = 65, .why = &why}), -EINVAL);
	assert_int_equal(hark_serve(&l, 1, echo, NULL, &(struct hark_serve_opts){.model = 9, .why = &why}), -EINVAL);
	assert_int_equal(hark_serve(&l, 1, echo, NULL, &(struct hark_serve_opts){.engine = "steam", .why = &why}),
	                 -EINVAL);
	assert_non_null(strstr(why.text, "steam"));
	assert_int_equal(hark_model_parse("fibre"), -EINVAL);
	for (int m = HARK_MODEL_INLINE; m <= HARK_MODEL_FIBER; m++)
		assert_int_equal(hark_model_parse(hark_model_name((enum hark_model)m)), m);
	assert_null(hark_model_name(9));
	hark_listener_close(l);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(one_box_serves_under_every_model_worker_count_and_engine),
		cmocka_unit_test(a_box_that_failed_resets_its_connection_and_the_event_tells_why),
		cmocka_unit_test(a_boxs_pid_and_status_are_told),
		cmocka_unit_test(events_come_in_order),
		cmocka_unit_test(idle_time_and_lifetime_end_connections),
		cmocka_unit_test(where_the_client_speaks_first_the_box_starts_with_its_first_byte),
		cmocka_unit_test(the_first_byte_is_left_in_the_socket),
		cmocka_unit_test(the_first_bytes_are_left_on_the_descriptor),
		cmocka_unit_test(the_last_bytes_and_the_end_travel_together),
		cmocka_unit_test(nonsense_is_refused_with_a_reason),
	};
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
