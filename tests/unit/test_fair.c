/* test_fair.c — no call that makes a system call, and never has to wait, keeps the loop from others: each family of
 * calls is made over and over on one fiber, beside a timer of 1 ms. */
#include "modes.h"

#include <sys/eventfd.h>
#include <time.h>

#define LASTS_NS  (60 * HARK_MS)
#define TICKS_MIN 6 /* of 60 and more */
#define FAMILY(fn) \
	{ \
#fn, fn##_open, fn##_once, fn##_close \
	}

static struct {
	struct hark_conn *a, *b;
	struct hark_listener *l;
	char address[HARK_ADDRESS_MAX];
	int fd;
} it; /* what the family under test uses */

static int ticks;

static void ticker(void *arg)
{
	(void)arg;
	while (hark_sleep(HARK_MS) == 0)
		ticks++;
}

static void pair_open(void)
{
	struct pair p = unix_pair();
	it.a = p.a;
	it.b = p.b;
}

static void pair_close(void)
{
	hark_abort(it.a);
	hark_abort(it.b);
}

static void listener_open(void)
{
	CHECK_INT(hark_listen("tcp://127.0.0.1:0", NULL, &it.l), 0);
	CHECK(hark_listener_address(it.l, it.address, sizeof it.address) > 0);
}

static void listener_close(void)
{
	hark_listener_close(it.l);
}

static void none(void)
{
}

/* ---- the families ---------------------------------------------------------------------------- */

static void udp_write_open(void)
{
	CHECK_INT(hark_listen("udp://127.0.0.1:0", NULL, &it.l), 0);
	CHECK(hark_listener_address(it.l, it.address, sizeof it.address) > 0);
	CHECK_INT(hark_dial(it.address, NULL, &it.a), 0);
}

static void udp_write_once(void)
{
	CHECK_INT(hark_write(it.a, "x", 1), 1);
}

static void udp_write_close(void)
{
	hark_abort(it.a);
	hark_listener_close(it.l);
}

static void udp_dial_open(void)
{
	(void)strcpy(it.address, "udp://127.0.0.1:9");
}

static void udp_dial_once(void)
{
	CHECK_INT(hark_dial(it.address, NULL, &it.a), 0);
	CHECK_INT(hark_close(it.a), 0);
}

#define udp_dial_close none

#define dial_and_accept_open listener_open

static void dial_and_accept_once(void)
{
	struct hark_dial_opts o = {.linger_s = 0};
	CHECK_INT(hark_dial(it.address, &o, &it.a), 0);
	CHECK_INT(hark_accept(it.l, HARK_FOREVER, &it.b), 0);
	pair_close();
}

#define dial_and_accept_close listener_close

static void refused_dial_open(void)
{
	struct hark_endpoint at;
	it.fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0); /* holds the port, and does not listen */
	socklen_t len = sizeof at.addr;
	CHECK_INT(hark_resolve("tcp://127.0.0.1:0", &at, 1, HARK_FOREVER), 1);
	CHECK_INT(bind(it.fd, (struct sockaddr *)&at.addr, at.len), 0);
	CHECK_INT(getsockname(it.fd, (struct sockaddr *)&at.addr, &len), 0);
	(void)snprintf(it.address, sizeof it.address, "tcp://127.0.0.1:%d", port_of(&at));
}

static void refused_dial_once(void)
{
	CHECK_INT(hark_dial(it.address, NULL, &it.a), -ECONNREFUSED);
}

static void refused_dial_close(void)
{
	(void)close(it.fd);
}

#define resolve_open none

static void resolve_once(void)
{
	struct hark_endpoint e;
	CHECK_INT(hark_resolve("tcp://[fe80::1%lo]:80", &e, 1, HARK_FOREVER), 1); /* if_nametoindex(3) */
}

#define resolve_close none

#define listen_open none

static void listen_once(void)
{
	listener_open();
	listener_close();
}

#define listen_close none

#define write_and_read_open pair_open

static void write_and_read_once(void)
{
	char buf[1000] = "";
	CHECK_INT(hark_write(it.a, buf, sizeof buf), sizeof buf);
	CHECK_INT(hark_flush(it.a), 0);
	CHECK_INT(hark_readn(it.b, buf, sizeof buf), sizeof buf);
}

#define write_and_read_close pair_close

#define idle_open pair_open

static void idle_once(void)
{
	char line[8];
	CHECK_INT(hark_printf(it.a, "x\n"), 2);
	CHECK_INT(hark_flush(it.a), 0);
	CHECK_INT(hark_idle(it.b), 1);
	CHECK_INT(hark_readline(it.b, line, sizeof line), 2);
}

#define idle_close pair_close

static void pipe_open(void)
{
	int p[2];
	CHECK_INT(pipe2(p, O_CLOEXEC), 0);
	it.a = conn_of(p[1]);
	it.b = conn_of(p[0]);
}

static void pipe_once(void)
{
	write_and_read_once();
}

#define pipe_close pair_close

#define pass_open pair_open

static void pass_once(void)
{
	char byte;
	CHECK_INT(hark_write(it.a, "x", 1), 1);
	CHECK_INT(hark_flush(it.a), 0);
	CHECK_INT(hark_pass(it.b, it.b), 1);
	CHECK_INT(hark_flush(it.b), 0);
	CHECK_INT(hark_read(it.a, &byte, 1), 1);
}

#define pass_close pair_close

static void sendfile_open(void)
{
	char path[] = "/tmp/hark-fair-XXXXXX";
	it.fd = mkostemp(path, O_CLOEXEC);
	CHECK(it.fd >= 0);
	(void)unlink(path);
	CHECK_INT(ftruncate(it.fd, 100), 0);
	pair_open();
}

static void sendfile_once(void)
{
	char buf[100];
	CHECK_INT(hark_sendfile(it.a, it.fd, 0, 100), 100);
	CHECK_INT(hark_readn(it.b, buf, sizeof buf), sizeof buf);
}

static void sendfile_close(void)
{
	pair_close();
	(void)close(it.fd);
}

#define shutdown_open none

static void shutdown_once(void)
{
	pair_open();
	CHECK_INT(hark_shutdown(it.a, HARK_OUT), 0);
	CHECK_INT(hark_shutdown(it.b, HARK_OUT), 0);
	CHECK_INT(hark_close(it.a), 0);
	CHECK_INT(hark_close(it.b), 0);
}

#define shutdown_close none

static void names_open(void)
{
	struct pair p = tcp_pair();
	it.a = p.a;
	it.b = p.b;
}

/* Calls that never suspend count, and the next that may pays for them. */
static void names_once(void)
{
	char buf[HARK_ADDRESS_MAX];
	for (int i = 0; i < 100; i++)
		CHECK(hark_local(it.a, buf, sizeof buf) > 0);
	CHECK_INT(hark_sleep(0), 0);
}

#define names_close pair_close

static void wait_fd_open(void)
{
	it.fd = eventfd(1, EFD_CLOEXEC);
	CHECK(it.fd >= 0);
}

static void wait_fd_once(void)
{
	CHECK_INT(hark_wait_fd(it.fd, HARK_IN, HARK_FOREVER), HARK_IN);
}

#define wait_fd_close refused_dial_close

static void past_wait_fd_open(void)
{
	it.fd = eventfd(0, EFD_CLOEXEC);
	CHECK(it.fd >= 0);
}

static void past_wait_fd_once(void)
{
	CHECK_INT(hark_wait_fd(it.fd, HARK_IN, 0), -ETIMEDOUT);
}

#define past_wait_fd_close refused_dial_close

static const struct {
	const char *name;
	void (*open)(void), (*once)(void), (*close)(void);
} families[] = {
	FAMILY(udp_write), FAMILY(udp_dial), FAMILY(dial_and_accept), FAMILY(refused_dial), FAMILY(resolve),
	FAMILY(listen),    FAMILY(idle),     FAMILY(write_and_read),  FAMILY(pipe),         FAMILY(pass),
	FAMILY(sendfile),  FAMILY(shutdown), FAMILY(names),           FAMILY(wait_fd),      FAMILY(past_wait_fd),
};

/* Of this thread: the machine may be busy with others. */
static int64_t thread_cpu_ns(void)
{
	struct timespec t;
	CHECK_INT(clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t), 0);
	return t.tv_sec * HARK_S + t.tv_nsec;
}

static void no_call_keeps_the_loop_from_others(void)
{
	for (size_t i = 0; i < sizeof families / sizeof families[0]; i++) {
		struct hark_scope s;
		ticks = 0;
		families[i].open();
		hark_scope_open(&s);
		CHECK_INT(hark_go(&s, "ticker", ticker, NULL), 0);
		CHECK_INT(hark_yield(), 0);
		int64_t end = thread_cpu_ns() + LASTS_NS;
		while (thread_cpu_ns() < end)
			families[i].once();
		hark_scope_close(&s);
		families[i].close();
		if (ticks < TICKS_MIN) {
			(void)fprintf(stderr, "beside %s: %d turns of the ticker, not %d\n", families[i].name, ticks,
			              TICKS_MIN);
			_exit(1);
		}
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		ON_ENGINES(no_call_keeps_the_loop_from_others),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
