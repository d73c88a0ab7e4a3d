/* test_engine.c — engines under what a system may do to them: a limit lowered below what is open, a filter that takes
 * io_uring away, a process killed while it listens. */
#include "modes.h"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>

#include "base/sys.h"
#include "conn/conn.h"
#include "loop/loop.h"

#define WAIT_NS (300 * HARK_MS)
#define TRIES   20
#define BUSY_NS (100 * HARK_MS * SLOWER) /* of processor time in a wait: it spins */

static void echo_one(void *arg)
{
	char byte;
	CHECK_INT(hark_read(arg, &byte, 1), 1);
	CHECK_INT(hark_write(arg, &byte, 1), 1);
	CHECK_INT(hark_flush(arg), 0);
}

/* Fibers still read, write and time out, and none of it spins. */
static void still_works(struct pair *p)
{
	char byte = 'x';
	struct hark_scope s;
	int64_t before = cpu_ns();
	hark_scope_open(&s);
	CHECK_INT(hark_go(&s, "echo", echo_one, p->b), 0);
	hark_deadline(p->a, hark_after(WAIT_NS));
	CHECK_INT(hark_read(p->a, &byte, 1), -ETIMEDOUT);
	hark_deadline(p->a, hark_after(10 * HARK_S));
	CHECK_INT(hark_write(p->a, &byte, 1), 1);
	CHECK_INT(hark_read(p->a, &byte, 1), 1);
	CHECK_INT(hark_join(&s, HARK_FOREVER), 0);
	hark_scope_close(&s);
	CHECK(cpu_ns() - before < BUSY_NS);
}

#define MANY 200u /* sources: more than an engine tells at once */

static struct {
	struct pair p;
	struct hark__waiter w;
} many[MANY];
static unsigned woken;

/* A server's callback may free what it waits on: it must not be called for that afterwards. */
static void forget_all(struct hark__waiter *w)
{
	(void)w;
	if (woken++ > 0)
		return;
	for (unsigned i = 0; i < MANY; i++) {
		hark__loop_unwake(hark__loop_current, &many[i].w);
		hark__source_detach(&many[i].p.a->src);
		CHECK(many[i].w.next == NULL);
	}
}

static void what_is_forgotten_wakes_nobody(void)
{
	struct hark__engine *e = hark__loop_engine(hark__loop_current);
	for (unsigned i = 0; i < MANY; i++) {
		many[i].p = unix_pair();
		many[i].w.run = forget_all;
		struct hark__source *s = &many[i].p.a->src;
		s->in = &many[i].w;
		hark__ready_clear(s, HARK__IN | HARK__OUT);
		CHECK_INT(e->ops->arm(e, s, HARK__IN), 0);
	}
	for (unsigned i = 0; i < MANY; i++)
		CHECK_INT(send(hark_fd(many[i].p.b), "x", 1, 0), 1);
	while (woken == 0)
		CHECK_INT(hark_sleep(HARK_MS), 0);
	CHECK_INT(hark_sleep(HARK_MS), 0);
	CHECK_INT(woken, 1);
	for (unsigned i = 0; i < MANY; i++) {
		many[i].p.a->src.in = NULL;
		pair_drop(&many[i].p);
	}
}

/* ---- another thread goes on with sources of this loop, and frees them ---- */

#define LEAVING 16 /* sources: more than are fetched ahead */

static struct hark__source *leaving[LEAVING]; /* each on a page of its own: who follows it afterwards dies of it */
static int leaving_fds[LEAVING][2];
static bool may_leave;
static int (*real_epoll_wait)(int fd, struct epoll_event *events, int n, int timeout_ms);
static int (*real_ppoll)(struct pollfd *fds, nfds_t n, const struct timespec *timeout, const sigset_t *mask);
static int (*real_close)(int fd);

static void *take_all(void *arg)
{
	(void)arg;
	for (int i = 0; i < LEAVING; i++) {
		CHECK(hark__source_take_over(leaving[i]));
		CHECK_INT(munmap(leaving[i], 4096), 0);
	}
	return NULL;
}

static void all_leave(void)
{
	pthread_t thread;
	if (!may_leave)
		return;
	may_leave = false;
	CHECK_INT(pthread_create(&thread, NULL, take_all, NULL), 0);
	CHECK_INT(pthread_join(thread, NULL), 0);
}

static int epoll_wait_and_leave(int fd, struct epoll_event *events, int n, int timeout_ms)
{
	int r = real_epoll_wait(fd, events, n, timeout_ms);
	all_leave();
	return r;
}

static int ppoll_and_leave(struct pollfd *fds, nfds_t n, const struct timespec *timeout, const sigset_t *mask)
{
	int r = real_ppoll(fds, n, timeout, mask);
	all_leave();
	return r;
}

static int leave_and_close(int fd)
{
	all_leave();
	return real_close(fd);
}

/* Attached, and with an event to be told of, but nobody waits. */
static void leaving_begin(void)
{
	struct hark__engine *e = hark__loop_engine(hark__loop_current);
	for (int i = 0; i < LEAVING; i++) {
		raw_unix(leaving_fds[i]);
		leaving[i] = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		CHECK(leaving[i] != MAP_FAILED);
		hark__source_init(leaving[i], leaving_fds[i][0]);
		CHECK_INT(e->ops->arm(e, leaving[i], HARK__IN), 0);
		CHECK_INT(send(leaving_fds[i][1], "x", 1, 0), 1);
	}
	may_leave = true;
}

static void leaving_end(void)
{
	CHECK_INT(hark_sleep(HARK_MS), 0);
	CHECK(!may_leave);
	for (int i = 0; i < LEAVING; i++) {
		(void)close(leaving_fds[i][0]);
		(void)close(leaving_fds[i][1]);
	}
}

static void what_another_thread_takes_during_a_wait_is_not_followed(void)
{
	real_epoll_wait = hark__sys.epoll_wait;
	real_ppoll = hark__sys.ppoll;
	hark__sys.epoll_wait = epoll_wait_and_leave;
	hark__sys.ppoll = ppoll_and_leave;
	leaving_begin();
	leaving_end();
}

static void what_another_thread_takes_from_an_engine_that_is_replaced_is_not_followed(void)
{
	real_close = hark__sys.close;
	hark__sys.close = leave_and_close;
	leaving_begin();
	CHECK_INT(hark__engine_replace(&hark__loop_current->engine), 0);
	all_leave(); /* poll closes nothing */
	leaving_end();
}

/* ---- the time ---- */

static int (*real_settime)(int fd, int flags, const struct itimerspec *value, struct itimerspec *old);
static int armed;

static int count_settime(int fd, int flags, const struct itimerspec *value, struct itimerspec *old)
{
	armed++;
	return real_settime(fd, flags, value, old);
}

static int no_timer(int clock, int flags)
{
	(void)clock;
	(void)flags;
	errno = EMFILE;
	return -1;
}

static void deadlines_that_are_put_off_arm_no_timer_each(void)
{
	char byte = 'x';
	struct pair p = tcp_pair();
	real_settime = hark__sys.timerfd_settime;
	hark__sys.timerfd_settime = count_settime;
	for (int i = 0; i < 100; i++) {
		hark_deadline(p.a, hark_after(10 * HARK_S));
		CHECK_INT(hark_write(p.b, &byte, 1), 1);
		CHECK_INT(hark_flush(p.b), 0);
		CHECK_INT(hark_read(p.a, &byte, 1), 1);
		hark_yield();
	}
	CHECK(armed <= 5);
	pair_drop(&p);
}

static void sleeps(void *arg)
{
	(void)arg;
	CHECK_INT(hark_sleep(300 * HARK_MS), 0);
}

static void an_earlier_deadline_comes_before_one_that_is_waited_for(void)
{
	struct hark_scope s;
	int64_t began = hark_now();
	hark_scope_open(&s);
	CHECK_INT(hark_go(&s, "late", sleeps, NULL), 0);
	hark_yield();
	for (int i = 0; i < 3; i++) {
		int64_t at = hark_now();
		CHECK_INT(hark_sleep(5 * HARK_MS), 0);
		CHECK(hark_now() - at >= 5 * HARK_MS);
		CHECK(hark_now() - at < 250 * HARK_MS * SLOWER);
	}
	CHECK_INT(hark_join(&s, HARK_FOREVER), 0);
	CHECK(hark_now() - began >= 300 * HARK_MS);
	CHECK(hark_now() - began < 10 * HARK_S);
	hark_scope_close(&s);
}

/* What ran since the loop last looked at the clock is no part of the wait. */
static void a_wait_ends_in_time_however_old_the_loops_now_is(void)
{
	struct hark__engine *e = hark__loop_engine(hark__loop_current);
	int64_t began = hark_now();
	CHECK(e->ops->wait(e, began + 20 * HARK_MS, began - 5 * HARK_S) >= 0);
	CHECK(hark_now() - began < 3 * HARK_S);
}

static void without_a_timer_time_passes_all_the_same(void)
{
	struct pair p = tcp_pair();
	hark__sys.timerfd_create = no_timer;
	CHECK_INT(hark__engine_replace(&hark__loop_current->engine), 0); /* by epoll, or poll */
	still_works(&p);
	an_earlier_deadline_comes_before_one_that_is_waited_for();
	a_wait_ends_in_time_however_old_the_loops_now_is();
	pair_drop(&p);
}

static void a_descriptor_limit_below_what_is_open_stops_nothing(void)
{
	for (rlim_t limit = 0; limit < 2; limit++) {
		struct rlimit old, low;
		struct pair p = tcp_pair();
		CHECK_INT(getrlimit(RLIMIT_NOFILE, &old), 0);
		low = (struct rlimit){.rlim_cur = limit, .rlim_max = old.rlim_max};
		CHECK_INT(setrlimit(RLIMIT_NOFILE, &low), 0);
		still_works(&p);
		CHECK_INT(setrlimit(RLIMIT_NOFILE, &old), 0);
		pair_drop(&p);
	}
}

static void forbid(unsigned call)
{
	struct sock_filter f[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, call, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog p = {.len = sizeof f / sizeof f[0], .filter = f};
	CHECK_INT(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
	CHECK_INT(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &p), 0);
}

/* While one waits that had begun before. */
static void io_uring_taken_away_later_is_replaced(void)
{
	char byte;
	struct pair p = tcp_pair(), q = tcp_pair();
	struct hark_scope s;
	hark_scope_open(&s);
	CHECK_INT(hark_go(&s, "waits already", echo_one, q.b), 0);
	CHECK_INT(hark_sleep(HARK_MS), 0);
	forbid(SYS_io_uring_enter);
	still_works(&p);
	CHECK_INT(hark_write(q.a, "y", 1), 1);
	CHECK_INT(hark_read(q.a, &byte, 1), 1);
	CHECK_INT(hark_join(&s, HARK_FOREVER), 0);
	hark_scope_close(&s);
	pair_drop(&p);
	pair_drop(&q);
}

static void from_the_start_body(void)
{
	struct hark__engine *e;
	forbid(SYS_io_uring_enter);
	CHECK_INT(hark__engine_open("uring", &e), -ENOSYS);
	CHECK_INT(strcmp(hark_engine_name(), "epoll"), 0);
}

static void io_uring_that_cannot_be_entered_is_not_there(void **state)
{
	(void)state;
	on_plain_thread(from_the_start_body);
}

static void nothing(struct hark_conn *c, void *arg)
{
	(void)c;
	(void)arg;
}

static void tell_ready(const struct hark_event *e, void *arg)
{
	if (e->kind == HARK_EVENT_READY)
		CHECK_INT(write(*(int *)arg, "r", 1), 1);
}

static void killed_while_it_listens(const char *engine)
{
	for (int i = 0; i < TRIES; i++) {
		struct hark_endpoint at;
		socklen_t len = sizeof at.addr;
		int fds[2], status, one = 1;
		char byte;
		assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
		int fd = plain_listener("127.0.0.1", 8, &at);
		assert_true(fd >= 0);
		pid_t pid = fork();
		assert_true(pid >= 0);
		if (pid == 0) {
			struct hark_listener *l;
			char address[32];
			struct hark_serve_opts o = {.engine = engine, .event = tell_ready, .event_arg = &fds[1]};
			(void)close(fd);
			(void)close(fds[0]);
			(void)snprintf(address, sizeof address, "tcp://127.0.0.1:%d", port_of(&at));
			while (hark_listen(address, NULL, &l) < 0)
				(void)usleep(1000);
			(void)hark_serve(&l, 1, nothing, NULL, &o);
			_exit(1);
		}
		(void)close(fd);
		(void)close(fds[1]);
		bool began = read(fds[0], &byte, 1) == 1;
		(void)close(fds[0]);
		if (began)
			(void)usleep(2000); /* it waits */
		(void)kill(pid, SIGKILL);
		assert_int_equal(waitpid(pid, &status, 0), pid);
		if (!began)
			return; /* this engine is not to be had here */
		fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
		assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one), 0);
		if (bind(fd, (struct sockaddr *)&at.addr, len < at.len ? len : at.len) < 0)
			fail_msg("on %s: %s, try %d", engine, strerror(errno), i);
		(void)close(fd);
	}
}

static void the_port_of_a_killed_process_is_free(void **state)
{
	(void)state;
	for (size_t i = 0; i < ENGINES_ALL; i++)
		killed_while_it_listens(engines_all[i]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		ON_ENGINES(what_is_forgotten_wakes_nobody),
		ON_ENGINES(what_another_thread_takes_during_a_wait_is_not_followed),
		ON_ENGINES(what_another_thread_takes_from_an_engine_that_is_replaced_is_not_followed),
		ON_ENGINES(deadlines_that_are_put_off_arm_no_timer_each),
		ON_ENGINES(an_earlier_deadline_comes_before_one_that_is_waited_for),
		ON_ENGINES(a_wait_ends_in_time_however_old_the_loops_now_is),
		ON_ENGINES(without_a_timer_time_passes_all_the_same),
		ON_ENGINES(a_descriptor_limit_below_what_is_open_stops_nothing),
		ON_ENGINES(io_uring_taken_away_later_is_replaced),
		cmocka_unit_test(io_uring_that_cannot_be_entered_is_not_there),
		cmocka_unit_test(the_port_of_a_killed_process_is_free),
	};
	mode_ring_alone = true;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
