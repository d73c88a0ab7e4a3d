/* test_serve_wait.c — inetd's wait: the box gets the listening socket. */
#include "serve_support.h"

#include <linux/sockios.h>

static void looks_only(struct hark_conn *c, void *arg)
{
	(void)arg;
	CHECK(hark_fd(c) >= 0);
}

static void takes_all(struct hark_conn *c, void *arg)
{
	char buf[64];
	struct sockaddr_storage from;
	socklen_t len = sizeof from;
	ssize_t n;
	(void)arg;
	while ((n = recvfrom(hark_fd(c), buf, sizeof buf, MSG_DONTWAIT, (struct sockaddr *)&from, &len)) >= 0) {
		CHECK_INT(sendto(hark_fd(c), buf, (size_t)n, 0, (struct sockaddr *)&from, len), n);
		len = sizeof from;
	}
}

/* One at a time, as a program that serves one request and exits. */
static void takes_one(struct hark_conn *c, void *arg)
{
	char buf[64];
	struct sockaddr_storage from;
	socklen_t len = sizeof from;
	(void)arg;
	ssize_t n = recvfrom(hark_fd(c), buf, sizeof buf, MSG_DONTWAIT, (struct sockaddr *)&from, &len);
	CHECK(n >= 0);
	CHECK_INT(sendto(hark_fd(c), buf, (size_t)n, 0, (struct sockaddr *)&from, len), n);
}

/* The kernel stamps what arrives from a moment on after the first socket asked for it, and leaves off after the last
 * (its work queue sees to that): a busy machine may take long. Returns a socket that keeps it at it, once it is. */
static int stamping(void)
{
	struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof at;
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(fd, (struct sockaddr *)&at, sizeof at), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&at, &len), 0);
	for (int64_t end = hark_after(LONG_MS * HARK_MS); hark_now() < end;) {
		struct timespec taken, came = {0};
		char c = 'x';
		assert_int_equal(sendto(fd, &c, 1, 0, (struct sockaddr *)&at, sizeof at), 1);
		(void)poll(NULL, 0, 3);
		(void)clock_gettime(CLOCK_REALTIME, &taken);
		assert_int_equal(recv(fd, &c, 1, 0), 1);
		(void)ioctl(fd, SIOCGSTAMPNS, &came); /* the present, if it was not stamped */
		if (came.tv_sec > 0 &&
		    (came.tv_sec < taken.tv_sec || (came.tv_sec == taken.tv_sec && came.tv_nsec < taken.tv_nsec)))
			return fd;
	}
	fail_msg("the kernel stamps no datagrams");
	return -1;
}

static void wait_mode_is_not_held_up_by_datagrams_that_look_the_same(void **state)
{
	(void)state;
	int stamps = stamping();
	for (int m = HARK_MODEL_PROCESS; m <= HARK_MODEL_FIBER; m++) {
		struct plan p = {
			.address = "udp://127.0.0.1:0",
			.box = takes_one,
			.opts = {.model = (enum hark_model)m, .wait = true},
			.grace_ns = HARK_S,
		};
		struct server s = server_start(&p);
		assert_true(server_ready(&s));
		int fd = client(&s);
		client_says(fd, "first");
		client_hears(fd, "first");
		int64_t start = hark_now();
		for (int i = 0; i < 6; i++)
			client_says(fd, "same");
		for (int i = 0; i < 6; i++)
			client_hears(fd, "same");
		assert_in_range(hark_now() - start, 0, 6 * HARK_S); /* with back-off it would be eight seconds */
		(void)close(fd);
		assert_int_equal(server_stop(&s), 0);
	}
	(void)close(stamps);
}

static void wait_mode_backs_off_where_a_box_takes_nothing(void **state)
{
	(void)state;
	for (int m = HARK_MODEL_PROCESS; m <= HARK_MODEL_FIBER; m++) {
		struct plan p = {
			.address = "udp://127.0.0.1:0",
			.box = looks_only,
			.opts = {.model = (enum hark_model)m, .wait = true},
			.grace_ns = HARK_S,
		};
		struct server s = server_start(&p);
		assert_true(server_ready(&s));
		int fd = client(&s);
		client_says(fd, "x");
		int opened = 0;
		int64_t end = hark_after(1200 * HARK_MS);
		while (hark_now() < end)
			opened += event_next(&s, 50) == 'o';
		assert_in_range(opened, 2, 4); /* at 0, 250, 750 ms */
		(void)close(fd);
		assert_int_equal(server_stop(&s), 0);
		p.box = takes_all;
		s = server_start(&p);
		assert_true(server_ready(&s));
		fd = client(&s);
		for (int i = 0; i < 20; i++) {
			client_says(fd, "y");
			client_hears(fd, "y");
		}
		(void)close(fd);
		assert_int_equal(server_stop(&s), 0);
	}
}

/* Somebody who comes in the middle of a back-off ends it: of 800 ms here, of 10 s in the end. */
static void ends_the_back_off(const struct plan *p)
{
	struct server s = server_start(p);
	assert_true(server_ready(&s));
	int first = client(&s);
	for (int i = 0; i < 4; i++) { /* at 0, 100, 300, 700 ms; next at 1500 */
		event_await(&s, 'o');
		event_await(&s, 'c');
	}
	int64_t start = hark_now();
	int second = client(&s);
	event_await(&s, 'o');
	assert_in_range(hark_now() - start, 0, 250 * HARK_MS);
	(void)close(first);
	(void)close(second);
	assert_int_equal(server_stop(&s), 0);
}

static void wait_mode_tries_again_at_once_when_somebody_comes_during_a_back_off(void **state)
{
	char path[64];
	(void)state;
	(void)snprintf(path, sizeof path, "unix:@hark-test-serve-wait-%d", (int)getpid());
	for (int m = HARK_MODEL_PROCESS; m <= HARK_MODEL_FIBER; m++) {
		struct plan p = {
			.box = looks_only,
			.opts = {.model = (enum hark_model)m, .wait = true},
			.grace_ns = HARK_S,
		};
		ends_the_back_off(&p);
		p.address = path;
		ends_the_back_off(&p);
	}
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(wait_mode_is_not_held_up_by_datagrams_that_look_the_same),
		cmocka_unit_test(wait_mode_backs_off_where_a_box_takes_nothing),
		cmocka_unit_test(wait_mode_tries_again_at_once_when_somebody_comes_during_a_back_off),
	};
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
