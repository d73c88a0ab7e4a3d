/* test_serve_wait_busy.c — opts.wait under clients that come while a box has the socket: a box that takes one and
 * ends is started again at once, one that takes none is not. */
#include "serve_support.h"

#include <sys/un.h>

#define CLIENTS 6
#define EACH    4 /* connections of a client, one after the other */

/* As a program that serves one client and exits. */
static void takes_one_stream(struct hark_conn *c, void *arg)
{
	(void)arg;
	int fd = accept4(hark_fd(c), NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (fd < 0)
		return;
	CHECK_INT(send(fd, "hi", 2, MSG_NOSIGNAL), 2);
	(void)close(fd);
}

static void takes_one_datagram(struct hark_conn *c, void *arg)
{
	char buf[16];
	struct sockaddr_un from;
	socklen_t len = sizeof from;
	(void)arg;
	ssize_t n = recvfrom(hark_fd(c), buf, sizeof buf, MSG_DONTWAIT, (struct sockaddr *)&from, &len);
	if (n >= 0)
		CHECK_INT(sendto(hark_fd(c), buf, (size_t)n, 0, (struct sockaddr *)&from, len), n);
}

static void looks_only(struct hark_conn *c, void *arg)
{
	(void)arg;
	CHECK(hark_fd(c) >= 0);
}

/* Each comes again as soon as it was served. */
static _Noreturn void be_client(const struct server *s)
{
	char buf[2];
	for (int i = 0; i < EACH; i++) {
		struct sockaddr_un any = {.sun_family = AF_UNIX};
		int fd = client(s);
		if (s->at.type == SOCK_DGRAM) { /* a name of the kernel's choice, to be answered at */
			CHECK_INT(bind(fd, (struct sockaddr *)&any, sizeof any.sun_family), 0);
			CHECK_INT(send(fd, "hi", 2, MSG_NOSIGNAL), 2);
		}
		CHECK_INT(recv(fd, buf, 2, 0), 2);
		(void)close(fd);
	}
	_exit(0);
}

static int64_t time_of_clients(const struct server *s)
{
	pid_t pids[CLIENTS];
	int status;
	int64_t began = hark_now();
	for (int i = 0; i < CLIENTS; i++) {
		pids[i] = fork();
		assert_true(pids[i] >= 0);
		if (pids[i] == 0)
			be_client(s);
	}
	for (int i = 0; i < CLIENTS; i++) {
		assert_int_equal(waitpid(pids[i], &status, 0), pids[i]);
		assert_int_equal(status, 0);
	}
	return hark_now() - began;
}

/* Addresses and the boxes that serve them; %d: the test's number. */
static const struct {
	const char *address;
	hark_box *box;
} kinds[] = {
	{"tcp://127.0.0.1:0", takes_one_stream},
	{"unix:@hark-test-wait-%d", takes_one_stream},
	{"unixgram:@hark-test-waitgram-%d", takes_one_datagram},
};

static void clients_that_come_while_a_box_has_the_socket_hold_nobody_up(void **state)
{
	(void)state;
	for (size_t k = 0; k < sizeof kinds / sizeof kinds[0]; k++)
		for (int m = HARK_MODEL_INLINE; m <= HARK_MODEL_FIBER; m++)
			for (size_t e = 0; e < ENGINES_ALL; e++) {
				char address[64];
				struct plan p = {
					.address = address,
					.box = kinds[k].box,
					.opts = {.model = (enum hark_model)m, .engine = engines_all[e], .wait = true},
					.grace_ns = HARK_S};
				(void)snprintf(address, sizeof address, kinds[k].address, (int)getpid());
				struct server s = server_start(&p);
				if (!server_ready(&s)) {
					assert_int_equal(server_end(&s), SKIPPED);
					continue;
				}
				int64_t ns = time_of_clients(&s);
				if (ns > 2 * HARK_S * SLOWER)
					fail_msg("%s, %s, %s: %d connections took %lld ms", address,
					         hark_model_name((enum hark_model)m), engines_all[e], CLIENTS * EACH,
					         (long long)(ns / HARK_MS));
				assert_int_equal(server_stop(&s), 0);
			}
}

/* The one client comes once: as many wait before and after, and nobody has come. */
static void a_box_that_takes_nothing_is_backed_off_on_every_kind_of_socket(void **state)
{
	(void)state;
	for (size_t k = 0; k < sizeof kinds / sizeof kinds[0]; k++) {
		char address[64];
		int opened = 0;
		struct plan p = {.address = address, .box = looks_only, .opts = {.wait = true}, .grace_ns = HARK_S};
		(void)snprintf(address, sizeof address, kinds[k].address, (int)getpid());
		struct server s = server_start(&p);
		assert_true(server_ready(&s));
		int fd = client(&s);
		if (s.at.type == SOCK_DGRAM)
			client_says(fd, "x");
		for (int64_t end = hark_after(600 * HARK_MS); hark_now() < end;)
			opened += event_next(&s, 50) == 'o';
		assert_in_range(opened, 2, 4); /* at 0, 0 again (the client may be seen to come), 100, 300 ms */
		(void)close(fd);
		assert_int_equal(server_stop(&s), 0);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(clients_that_come_while_a_box_has_the_socket_hold_nobody_up),
		cmocka_unit_test(a_box_that_takes_nothing_is_backed_off_on_every_kind_of_socket),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
