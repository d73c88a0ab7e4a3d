/* test_serve_children.c — the process model's children that end by themselves, or are killed: each connection's close
 * is told once, by the child or for it.
 *
 * The server is a forked child that writes each close to a pipe, which the test reads. */
#include "client_support.h"
#include "modes.h"

#include <assert.h>
#include <limits.h>
#include <poll.h>
#include <sys/prctl.h>

struct told {
	pid_t by, pid;
	int status, error, fd;
	uint64_t bytes;
	bool left, has_user, is_timed;
	char peer[HARK_ADDRESS_MAX], local[HARK_ADDRESS_MAX];
};

static int closes[2]; /* a pipe of struct told; smaller than PIPE_BUF */

static_assert(sizeof(struct told) <= PIPE_BUF, "written whole");

static void note(const struct told *t)
{
	CHECK_INT(write(closes[1], t, sizeof *t), (int)sizeof *t);
}

static void tell(const struct hark_event *e, void *arg)
{
	struct hark_credentials user;
	struct hark_conn_stats stats;
	(void)arg;
	if (e->kind != HARK_EVENT_CLOSE)
		return;
	struct told t = {.by = getpid(), .pid = e->pid, .status = e->status, .error = e->error, .fd = hark_fd(e->conn)};
	hark_conn_stats(e->conn, &stats);
	t.bytes = stats.bytes_in + stats.bytes_out;
	t.is_timed = stats.opened_ns > 0 && stats.opened_ns <= hark_now();
	t.has_user = hark_peer_credentials(e->conn, &user) == 0 && user.uid == getuid();
	(void)hark_peer(e->conn, t.peer, sizeof t.peer);
	(void)hark_local(e->conn, t.local, sizeof t.local);
	note(&t);
}

static int admit(struct hark_conn *c, void *arg)
{
	(void)c;
	(void)arg;
	return 7;
}

static void leave(int ticket, void *arg)
{
	(void)arg;
	CHECK_INT(ticket, 7);
	note(&(struct told){.left = true});
}

static void on_term(int sig)
{
	(void)sig;
	hark_drain(5 * HARK_S);
}

/* The leak check at exit(3) takes what a forked child has of its parent for lost. */
static _Noreturn void ends(int status)
{
#ifdef UNDER_ASAN
	_exit(status);
#else
	exit(status);
#endif
}

/* Does as it is told by the peer's first byte, and tells its number before. */
static void obeys(struct hark_conn *c, void *arg)
{
	char order = 0;
	(void)arg;
	(void)hark_read(c, &order, 1);
	if (order == 'k')
		(void)raise(SIGKILL);
	if (order == 'x')
		ends(3);
	if (order == 'z')
		ends(0);
	(void)hark_printf(c, "%07d", (int)getpid());
}

static pid_t serve(const char *address, struct hark_endpoint *at)
{
	struct hark_listener *l;
	struct hark_serve_opts o = {.model = HARK_MODEL_PROCESS, .event = tell, .admit = admit, .leave = leave};
	assert_int_equal(pipe2(closes, O_CLOEXEC), 0);
	assert_int_equal(hark_listen(address, NULL, &l), 0);
	at->len = sizeof at->addr;
	at->type = hark_listener_type(l);
	assert_int_equal(getsockname(hark_listener_fd(l), (struct sockaddr *)&at->addr, &at->len), 0);
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		(void)alarm(30u * SLOWER);
		(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
		(void)signal(SIGTERM, on_term);
		_exit(hark_serve(&l, 1, obeys, NULL, &o) == 0 ? 0 : 1);
	}
	hark_listener_close(l);
	(void)close(closes[1]);
	return pid;
}

static struct told next(void)
{
	struct told t = {.status = -1};
	struct pollfd p = {.fd = closes[0], .events = POLLIN};
	assert_int_equal(poll(&p, 1, 10000 * SLOWER), 1);
	assert_int_equal(read(closes[0], &t, sizeof t), (int)sizeof t);
	return t;
}

static void end_server(pid_t pid)
{
	struct told t;
	int status;
	assert_int_equal(kill(pid, SIGTERM), 0);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	assert_int_equal(read(closes[0], &t, sizeof t), 0); /* nothing was told twice */
	(void)close(closes[0]);
}

static int order(const struct hark_endpoint *at, const char *what)
{
	struct timeval patience = {.tv_sec = 10 * SLOWER};
	int fd = socket(at->addr.ss_family, at->type | SOCK_CLOEXEC, 0);
	assert_true(fd >= 0);
	assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience), 0);
	assert_int_equal(connect(fd, (const struct sockaddr *)&at->addr, at->len), 0);
	client_says(fd, what);
	return fd;
}

static const char *const addresses[] = {"tcp://127.0.0.1:0", "tcp://*:0", "unix:@hark-test-%d", "udp://127.0.0.1:0"};

static void a_child_that_ends_by_itself_has_its_close_told_for_it(void **state)
{
	static const struct {
		const char *order;
		int status;
	} ends[] = {{"k", SIGKILL}, {"x", 3 << 8}, {"z", 0}};
	(void)state;
	for (size_t i = 0; i < sizeof addresses / sizeof *addresses; i++) {
		struct hark_endpoint at, mine;
		char address[HARK_ADDRESS_MAX];
		(void)snprintf(address, sizeof address, addresses[i], (int)getpid());
		pid_t pid = serve(address, &at);
		if (i == 1) { /* the wildcard's own address is no place to dial */
			at.len = sizeof(struct sockaddr_in);
			in_port_t port = ((struct sockaddr_in *)&at.addr)->sin_port; /* where IPv6's is */
			*(struct sockaddr_in *)&at.addr = (struct sockaddr_in){
				.sin_family = AF_INET,
				.sin_port = port,
				.sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
		}
		assert_true(hark_endpoint_format(&at, address, sizeof address) > 0);
		for (size_t k = 0; k < sizeof ends / sizeof *ends; k++) {
			char peer[HARK_ADDRESS_MAX];
			int fd = order(&at, ends[k].order);
			struct told t = next();
			mine = (struct hark_endpoint){.type = at.type, .len = sizeof mine.addr};
			assert_int_equal(getsockname(fd, (struct sockaddr *)&mine.addr, &mine.len), 0);
			assert_true(hark_endpoint_format(&mine, peer, sizeof peer) > 0);
			assert_int_equal(t.by, pid);
			assert_int_equal(t.status, ends[k].status);
			assert_int_equal(t.error, 0);
			assert_int_equal(t.fd, -1);
			assert_int_equal(t.bytes, 0);
			assert_true(t.is_timed && t.pid > 0 && t.pid != pid);
			assert_string_equal(t.local, address);
			assert_string_equal(t.peer, peer);
			assert_int_equal(t.has_user, i == 2);
			assert_true(next().left);
			(void)close(fd);
		}
		end_server(pid);
	}
}

/* Its peer does not end, so it waits there. */
static void a_child_that_is_killed_after_its_close_has_it_told_once(void **state)
{
	(void)state;
	for (size_t i = 0; i < 3; i += 2) {
		struct hark_endpoint at;
		char address[HARK_ADDRESS_MAX], number[8] = "";
		(void)snprintf(address, sizeof address, addresses[i], (int)getpid());
		pid_t pid = serve(address, &at);
		int fd = order(&at, "stay");
		assert_int_equal(receive(fd, number, 7), 7);
		struct told t = next();
		assert_int_equal(t.by, atoi(number));
		assert_int_equal(t.bytes > 0, true);
		assert_int_equal(recv(fd, number + 7, 1, 0), 0); /* its end comes after its note of the close */
		(void)kill(atoi(number), SIGKILL);
		assert_true(next().left);
		(void)close(fd);
		end_server(pid);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_child_that_ends_by_itself_has_its_close_told_for_it),
		cmocka_unit_test(a_child_that_is_killed_after_its_close_has_it_told_once),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
