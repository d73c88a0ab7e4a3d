/* test_dial.c — the race for a connection (RFC 8305), what it leaves behind, and what it says when it fails. */
#include "net_support.h"

#include <net/route.h>
#include <netinet/tcp.h>
#include <poll.h>

#include "conn/dial.h"
#include "faults.h"
#include "loop/loop.h"
#include "modes.h"
#include "on_loop.h"

/* ---- support ---- */

struct dialed {
	struct hark_conn *conn;
	struct hark_dial_report report;
	struct hark_why why;
	int64_t took_ns;
};

/* Dials to, in this order; opts may be NULL. */
static int race(const struct hark_endpoint to[], int n, const struct hark_dial_opts *opts, int64_t deadline,
                struct dialed *d)
{
	static const struct hark_dial_opts defaults;
	struct hark__attempt_plan plan = {.opts = opts != NULL ? opts : &defaults};
	const char *step;
	int told;
	memset(d, 0, sizeof *d);
	int64_t began = hark_now();
	int rc = hark__dial_endpoints(to, n, &plan, deadline, &d->report, &told, &step, &d->conn);
	d->took_ns = hark_now() - began;
	return rc;
}

static int dial(const char *address, struct hark_dial_opts opts, struct dialed *d)
{
	memset(d, 0, sizeof *d);
	opts.report = &d->report;
	opts.why = &d->why;
	if (opts.deadline == 0)
		opts.deadline = hark_after(10 * HARK_S);
	return hark_dial(address, &opts, &d->conn);
}

static void hang_up(struct dialed *d)
{
	hark__conn_free(d->conn);
	d->conn = NULL;
}

static int option(const struct dialed *d, int level, int name)
{
	int value = -1;
	socklen_t len = sizeof value;
	assert_int_equal(getsockopt(d->conn->src.fd, level, name, &value, &len), 0);
	return value;
}

/* An endpoint of 127.0.0.1 on which nothing listens. */
static struct hark_endpoint nobody(void)
{
	struct hark_endpoint e;
	int fd = plain_listener("127.0.0.1", 1, &e);
	assert_true(fd >= 0);
	(void)close(fd);
	return e;
}

#define FILLERS 8

/* A listener whose backlog is full: it drops each SYN, as a dead host does. */
struct blackhole {
	struct hark_endpoint at;
	int fd, fillers[FILLERS], n;
};

static void blackhole_open(struct blackhole *b)
{
	struct pollfd p = {.events = POLLOUT};
	b->fd = plain_listener("127.0.0.1", 0, &b->at);
	assert_true(b->fd >= 0);
	for (b->n = 0; b->n < FILLERS;) {
		p.fd = b->fillers[b->n++] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
		assert_true(p.fd >= 0);
		if (connect(p.fd, (struct sockaddr *)&b->at.addr, b->at.len) < 0 && poll(&p, 1, 100) == 0)
			return; /* this one hangs, and so will every other */
	}
	fail_msg("the backlog does not fill");
}

static void blackhole_close(struct blackhole *b)
{
	for (int i = 0; i < b->n; i++)
		(void)close(b->fillers[i]);
	(void)close(b->fd);
}

/* ---- the race ---- */

static void families_are_interleaved(void **state)
{
	(void)state;
	static const struct {
		const char *in, *out;
	} cases[] = {{"", ""},         {"6", "6"},         {"44", "44"},       {"6644", "6464"},
	             {"4466", "4646"}, {"66664", "64666"}, {"46666", "46666"}, {"644446", "646444"}};
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		struct hark_endpoint in[8] = {0}, out[8];
		int n = (int)strlen(cases[i].in), last[2] = {-1, -1};
		for (int k = 0; k < n; k++)
			in[k] = (struct hark_endpoint){.type = k,
			                               .addr.ss_family = cases[i].in[k] == '6' ? AF_INET6 : AF_INET};
		hark__dial_interleave(in, out, n);
		for (int k = 0; k < n; k++) {
			bool six = out[k].addr.ss_family == AF_INET6;
			assert_int_equal(six ? '6' : '4', cases[i].out[k]);
			assert_true(out[k].type > last[six]); /* each family in its own order */
			last[six] = out[k].type;
		}
	}
}

static void a_dead_first_address_costs_at_most_300_ms(void **state)
{
	(void)state;
	struct blackhole dead;
	struct dialed d;
	struct hark_endpoint to[2];
	int64_t best = HARK_FOREVER;
	blackhole_open(&dead);
	int live = plain_listener("127.0.0.1", 8, &to[1]), before = open_descriptors();
	assert_true(live >= 0);
	to[0] = dead.at;
	for (int i = 0; i < 3 && best > 300 * HARK_MS; i++) { /* the machine may be busy; the claim is about us */
		assert_int_equal(race(to, 2, NULL, hark_after(10 * HARK_S), &d), 0);
		best = d.took_ns < best ? d.took_ns : best;
		hang_up(&d);
	}
	assert_in_range(best, 250 * HARK_MS, 300 * HARK_MS);
	assert_int_equal(d.report.n, 2);
	assert_memory_equal(&d.report.attempts[0].to, &to[0], sizeof to[0]);
	assert_int_equal(d.report.attempts[0].error, ECANCELED);
	assert_int_equal(d.report.attempts[1].error, 0);
	assert_true(d.report.attempts[1].start_ns - d.report.attempts[0].start_ns >= 250 * HARK_MS);
	assert_true(d.report.attempts[0].end_ns >= d.report.attempts[1].end_ns);
	assert_int_equal(open_descriptors(), before); /* the loser is closed */
	(void)close(live);
	blackhole_close(&dead);
}

static void the_attempt_delay_can_be_chosen(void **state)
{
	(void)state;
	struct blackhole dead;
	struct dialed d;
	struct hark_endpoint to[2];
	blackhole_open(&dead);
	int live = plain_listener("127.0.0.1", 8, &to[1]);
	to[0] = dead.at;
	struct hark_dial_opts o = {.attempt_delay_ns = 20 * HARK_MS};
	assert_int_equal(race(to, 2, &o, hark_after(10 * HARK_S), &d), 0);
	assert_true(d.took_ns >= 20 * HARK_MS && d.took_ns < 240 * HARK_MS);
	hang_up(&d);
	(void)close(live);
	blackhole_close(&dead);
}

static void a_refused_address_is_followed_at_once(void **state)
{
	(void)state;
	struct dialed d;
	struct hark_endpoint to[2] = {nobody()};
	int64_t best = HARK_FOREVER;
	int live = plain_listener("127.0.0.1", 8, &to[1]);
	for (int i = 0; i < 3; i++) {
		assert_int_equal(race(to, 2, NULL, hark_after(10 * HARK_S), &d), 0);
		best = d.took_ns < best ? d.took_ns : best;
		hang_up(&d);
	}
	assert_true(best < 100 * HARK_MS);
	assert_int_equal(d.report.n, 2);
	assert_int_equal(d.report.attempts[0].error, ECONNREFUSED);
	assert_int_equal(d.report.attempts[1].error, 0);
	(void)close(live);
}

static bool asked_before[1024];
static int (*real_getsockopt)(int fd, int level, int name, void *value, socklen_t *len);

/* On loopback a refusal is there at once; elsewhere it comes later, when the descriptor has been waited for. */
static int getsockopt_late(int fd, int level, int name, void *value, socklen_t *len)
{
	if (level != SOL_SOCKET || name != SO_ERROR || fd >= 1024 || asked_before[fd])
		return real_getsockopt(fd, level, name, value, len);
	asked_before[fd] = true;
	*(int *)value = 0;
	return 0;
}

static void a_refusal_beside_a_dead_address_is_followed_at_once(void **state)
{
	(void)state;
	struct blackhole dead;
	struct dialed d;
	blackhole_open(&dead);
	struct hark_endpoint to[3] = {dead.at, nobody()};
	int live = plain_listener("127.0.0.1", 8, &to[2]);
	for (int late = 0; late < 2; late++) {
		real_getsockopt = hark__sys.getsockopt;
		if (late)
			hark__sys.getsockopt = getsockopt_late;
		int rc = race(to, 3, &(struct hark_dial_opts){.attempt_delay_ns = 400 * HARK_MS},
		              hark_after(10 * HARK_S), &d);
		hark__sys.getsockopt = real_getsockopt;
		assert_int_equal(rc, 0);
		assert_true(d.took_ns >= 400 * HARK_MS && d.took_ns < 780 * HARK_MS); /* one delay, not two */
		assert_int_equal(d.report.attempts[1].error, ECONNREFUSED);
		hang_up(&d);
	}
	(void)close(live);
	blackhole_close(&dead);
}

static void a_slow_first_address_may_still_win(void **state)
{
	(void)state;
	struct blackhole slow, dead;
	struct dialed d;
	blackhole_open(&slow);
	blackhole_open(&dead);
	struct hark_endpoint to[2] = {slow.at, dead.at};
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) { /* empties the first one's backlog after both are under way; its SYN is sent again after 1 s */
		(void)usleep(400 * 1000);
		for (int i = 0; i < FILLERS; i++)
			if (accept(slow.fd, NULL, NULL) < 0)
				_exit(1);
		_exit(0);
	}
	assert_int_equal(race(to, 2, NULL, hark_after(20 * HARK_S), &d), 0);
	assert_int_equal(d.report.attempts[0].error, 0);
	assert_int_equal(d.report.attempts[1].error, ECANCELED);
	hang_up(&d);
	(void)kill(pid, SIGKILL);
	(void)waitpid(pid, NULL, 0);
	blackhole_close(&slow);
	blackhole_close(&dead);
}

static void the_most_telling_error_is_returned(void **state)
{
	(void)state;
	struct blackhole dead;
	struct dialed d;
	blackhole_open(&dead);
	struct hark_endpoint to[3] = {dead.at, nobody(), dead.at};
	int before = open_descriptors();
	assert_int_equal(
		race(to, 3, &(struct hark_dial_opts){.attempt_delay_ns = 10 * HARK_MS}, hark_after(200 * HARK_MS), &d),
		-ECONNREFUSED);
	assert_true(d.took_ns >= 200 * HARK_MS);
	assert_int_equal(d.report.n, 3);
	assert_int_equal(d.report.attempts[0].error, ETIMEDOUT);
	assert_int_equal(d.report.attempts[1].error, ECONNREFUSED);
	assert_int_equal(d.report.attempts[2].error, ETIMEDOUT);
	assert_int_equal(open_descriptors(), before);
	blackhole_close(&dead);
}

static void a_deadline_holds_for_all_attempts_together(void **state)
{
	(void)state;
	struct blackhole dead;
	struct dialed d;
	blackhole_open(&dead);
	struct hark_endpoint to[2] = {dead.at, dead.at};
	assert_int_equal(race(to, 2, NULL, hark_after(100 * HARK_MS), &d), -ETIMEDOUT);
	assert_true(d.took_ns >= 100 * HARK_MS && d.took_ns < 1000 * HARK_MS);
	assert_int_equal(d.report.n, 1); /* the second one's time never came */
	assert_int_equal(race(to, 2, NULL, hark_now() - 1, &d), -ETIMEDOUT);
	assert_int_equal(d.report.n, 0);
	assert_null(d.conn);
	blackhole_close(&dead);
}

static void attempts_are_bounded(void **state)
{
	(void)state;
	struct dialed d;
	struct hark_endpoint to[HARK_ATTEMPTS_MAX + 4];
	to[0] = nobody();
	for (int i = 1; i < HARK_ATTEMPTS_MAX + 4; i++)
		to[i] = to[0];
	assert_int_equal(race(to, HARK_ATTEMPTS_MAX + 4, NULL, hark_after(10 * HARK_S), &d), -ECONNREFUSED);
	assert_int_equal(d.report.n, HARK_ATTEMPTS_MAX);
}

/* ---- what a connection is like ---- */

static void a_dialed_socket_is_blocking_close_on_exec_and_prompt(void **state)
{
	(void)state;
	struct hark_endpoint at;
	struct dialed d;
	char address[64];
	int live = plain_listener("127.0.0.1", 8, &at);
	(void)snprintf(address, sizeof address, "127.0.0.1:%d", port_of(&at));
	assert_int_equal(dial(address, (struct hark_dial_opts){0}, &d), 0);
	assert_int_equal(fcntl(d.conn->src.fd, F_GETFL) & O_NONBLOCK, 0);
	assert_false(d.conn->nonblock);
	assert_int_equal(fcntl(d.conn->src.fd, F_GETFD), FD_CLOEXEC);
	assert_int_equal(option(&d, IPPROTO_TCP, TCP_NODELAY), 1);
	assert_int_equal(option(&d, SOL_SOCKET, SO_KEEPALIVE), 0);
	assert_int_equal(hark_type(d.conn), SOCK_STREAM);
	assert_int_equal(d.report.n, 1);
	hang_up(&d);
	(void)close(live);
}

static void options_reach_the_socket(void **state)
{
	(void)state;
	struct hark_endpoint at;
	struct dialed d;
	char address[64];
	int live = plain_listener("127.0.0.1", 8, &at);
	(void)snprintf(address, sizeof address, "tcp://127.0.0.1:%d", port_of(&at));
	assert_int_equal(dial(address,
	                      (struct hark_dial_opts){.nagle = true,
	                                              .keepalive = true,
	                                              .linger_s = 7,
	                                              .fast_open = true,
	                                              .send_buffer_bytes = 8192,
	                                              .receive_buffer_bytes = 16384},
	                      &d),
	                 0);
	struct linger linger = {0};
	socklen_t len = sizeof linger;
	assert_int_equal(getsockopt(d.conn->src.fd, SOL_SOCKET, SO_LINGER, &linger, &len), 0);
	assert_int_equal(linger.l_onoff, 1);
	assert_int_equal(linger.l_linger, 7);
	assert_int_equal(option(&d, IPPROTO_TCP, TCP_NODELAY), 0);
	assert_int_equal(option(&d, SOL_SOCKET, SO_KEEPALIVE), 1);
	assert_int_equal(option(&d, IPPROTO_TCP, TCP_FASTOPEN_CONNECT), 1);
	assert_int_equal(option(&d, SOL_SOCKET, SO_SNDBUF), 2 * 8192); /* socket(7): the kernel doubles it */
	assert_int_equal(option(&d, SOL_SOCKET, SO_RCVBUF), 2 * 16384);
	hang_up(&d);
	(void)close(live);
}

static void udp_is_connected(void **state)
{
	(void)state;
	struct dialed d;
	struct sockaddr_in peer;
	socklen_t len = sizeof peer;
	assert_int_equal(dial("udp://127.0.0.1:9", (struct hark_dial_opts){0}, &d), 0);
	assert_int_equal(hark_type(d.conn), SOCK_DGRAM);
	assert_int_equal(getpeername(d.conn->src.fd, (struct sockaddr *)&peer, &len), 0);
	assert_int_equal(ntohs(peer.sin_port), 9);
	assert_int_equal(fcntl(d.conn->src.fd, F_GETFL) & O_NONBLOCK, 0);
	hang_up(&d);
}

static struct sockaddr_in local_of(const struct dialed *d)
{
	struct sockaddr_in at = {0};
	socklen_t len = sizeof at;
	assert_int_equal(getsockname(d->conn->src.fd, (struct sockaddr *)&at, &len), 0);
	return at;
}

static void a_local_address_is_come_from(void **state)
{
	(void)state;
	struct hark_endpoint at;
	struct dialed d;
	char address[64], local[64];
	struct hark_endpoint unused = nobody();
	int live = plain_listener("127.0.0.1", 8, &at), free_port = port_of(&unused);
	(void)snprintf(address, sizeof address, "tcp://127.0.0.1:%d", port_of(&at));
	assert_int_equal(dial(address, (struct hark_dial_opts){.local = "127.0.0.2"}, &d), 0);
	assert_int_equal(ntohl(local_of(&d).sin_addr.s_addr), INADDR_LOOPBACK + 1);
	hang_up(&d);
	(void)snprintf(local, sizeof local, ":%d", free_port);
	assert_int_equal(dial(address, (struct hark_dial_opts){.local = local}, &d), 0);
	assert_int_equal(ntohs(local_of(&d).sin_port), free_port);
	hang_up(&d);
	(void)snprintf(local, sizeof local, "127.0.0.3:%d", free_port);
	assert_int_equal(dial(address, (struct hark_dial_opts){.local = local}, &d), 0);
	assert_int_equal(ntohs(local_of(&d).sin_port), free_port);
	assert_int_equal(ntohl(local_of(&d).sin_addr.s_addr), INADDR_LOOPBACK + 2);
	hang_up(&d);
	(void)close(live);
}

static void a_bad_local_address_is_told(void **state)
{
	(void)state;
	struct dialed d;
	assert_int_equal(dial("tcp://127.0.0.1:9", (struct hark_dial_opts){.local = "127.0.0.1:x y"}, &d), -EINVAL);
	assert_string_equal(
		d.why.text,
		"local address: port \"x y\" is neither a number nor a service's name in \"tcp://127.0.0.1:x y\"");
	assert_int_equal(dial("tcp://127.0.0.1:9", (struct hark_dial_opts){.local = ":99", .reserved_port = true}, &d),
	                 -EINVAL);
	assert_non_null(strstr(d.why.text, "it names a port, and a reserved port is asked for as well"));
	for (int i = 0; i < 2; i++) {
		assert_int_equal(
			dial("tcp://127.0.0.1:9", (struct hark_dial_opts){.local = i == 0 ? "::1" : "[::1]"}, &d),
			-EADDRNOTAVAIL);
		assert_string_equal(d.why.text,
		                    "dial tcp://127.0.0.1:9: local address: Cannot assign requested address");
	}
	assert_int_equal(dial("tcp://127.0.0.1:9", (struct hark_dial_opts){.local = "192.0.2.77"}, &d), -EADDRNOTAVAIL);
	assert_int_equal(d.report.n, 1);
}

static void a_reserved_port_is_between_512_and_1023(void **state)
{
	(void)state;
	struct hark_endpoint at;
	struct dialed d[4];
	char address[64];
	int live = plain_listener("127.0.0.1", 8, &at);
	if (geteuid() != 0) {
		print_message("skipped: reserved ports need root\n");
		skip();
	}
	(void)snprintf(address, sizeof address, "tcp://127.0.0.1:%d", port_of(&at));
	for (int i = 0; i < 4; i++) {
		assert_int_equal(dial(address, (struct hark_dial_opts){.reserved_port = true}, &d[i]), 0);
		assert_in_range(ntohs(local_of(&d[i]).sin_port), 512, 1023);
	}
	for (int i = 0; i < 4; i++)
		hang_up(&d[i]);
	assert_int_equal(dial(address, (struct hark_dial_opts){.reserved_port = true, .local = "127.0.0.5"}, &d[0]), 0);
	assert_in_range(ntohs(local_of(&d[0]).sin_port), 512, 1023);
	assert_int_equal(ntohl(local_of(&d[0]).sin_addr.s_addr), INADDR_LOOPBACK + 4);
	hang_up(&d[0]);
	(void)close(live);
}

static void as_nobody_from_a_reserved_port(void)
{
	struct dialed d;
	if (setuid(65534) < 0)
		skip_child("the user cannot be changed");
	CHECK_INT(dial("tcp://127.0.0.1:9", (struct hark_dial_opts){.reserved_port = true}, &d), -EACCES);
	CHECK_HAS(d.why.text, "dial tcp://127.0.0.1:9: reserved local port: Permission denied (it needs root or "
	                      "CAP_NET_BIND_SERVICE)");
}

static void a_reserved_port_without_the_right_to_it_is_explained(void **state)
{
	(void)state;
	run_in_child(as_nobody_from_a_reserved_port);
}

static void a_star_is_dialed_at_loopback(void **state)
{
	(void)state;
	struct hark_endpoint at;
	struct dialed d;
	char address[64];
	int live = plain_listener("127.0.0.1", 8, &at);
	(void)snprintf(address, sizeof address, "tcp://*:%d", port_of(&at));
	assert_int_equal(dial(address, (struct hark_dial_opts){0}, &d), 0);
	assert_int_equal(d.report.n, 2); /* ::1 first: nothing there */
	hang_up(&d);
	(void)close(live);
}

/* ---- failures told apart ---- */

static void refused_is_told(void **state)
{
	(void)state;
	struct dialed d;
	struct hark_endpoint e = nobody();
	char address[64], wanted[128];
	(void)snprintf(address, sizeof address, "tcp://127.0.0.1:%d", port_of(&e));
	(void)snprintf(wanted, sizeof wanted, "dial %s: Connection refused", address);
	assert_int_equal(dial(address, (struct hark_dial_opts){0}, &d), -ECONNREFUSED);
	assert_string_equal(d.why.text, wanted);
	assert_null(d.conn);
	assert_int_equal(d.report.n, 1);
	assert_int_equal(d.report.attempts[0].error, ECONNREFUSED);
	assert_int_equal(dial("127.0.0.1:70000", (struct hark_dial_opts){0}, &d), -EINVAL);
	assert_string_equal(d.why.text, "port 70000 is above 65535 in \"127.0.0.1:70000\"");
}

static void timed_out_is_told(void **state)
{
	(void)state;
	struct blackhole dead;
	struct dialed d;
	char address[64], wanted[128];
	blackhole_open(&dead);
	(void)snprintf(address, sizeof address, "tcp://127.0.0.1:%d", port_of(&dead.at));
	(void)snprintf(wanted, sizeof wanted, "dial %s: Connection timed out", address);
	assert_int_equal(dial(address, (struct hark_dial_opts){.deadline = hark_after(50 * HARK_MS)}, &d), -ETIMEDOUT);
	assert_string_equal(d.why.text, wanted);
	assert_int_equal(d.report.attempts[0].error, ETIMEDOUT);
	assert_true(d.report.attempts[0].end_ns - d.report.attempts[0].start_ns > 40 * HARK_MS);
	blackhole_close(&dead);
}

static void dial_where_no_route_leads(void)
{
	struct dialed d;
	struct rtentry route = {.rt_flags = RTF_UP | RTF_REJECT};
	enter_own_network();
	CHECK_INT(dial("tcp://192.0.2.1:80", (struct hark_dial_opts){0}, &d), -ENETUNREACH);
	CHECK_HAS(d.why.text, "dial tcp://192.0.2.1:80: Network is unreachable");
	((struct sockaddr_in *)&route.rt_dst)->sin_family = AF_INET;
	((struct sockaddr_in *)&route.rt_genmask)->sin_family = AF_INET;
	((struct sockaddr_in *)&route.rt_dst)->sin_addr.s_addr = inet_addr("192.0.2.0");
	((struct sockaddr_in *)&route.rt_genmask)->sin_addr.s_addr = inet_addr("255.255.255.0");
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (ioctl(fd, SIOCADDRT, &route) < 0)
		skip_child("no route can be made");
	CHECK_INT(dial("tcp://192.0.2.1:80", (struct hark_dial_opts){0}, &d), -EHOSTUNREACH);
	CHECK_HAS(d.why.text, "dial tcp://192.0.2.1:80: No route to host");
}

static void unreachable_is_told(void **state)
{
	(void)state;
	run_in_child(dial_where_no_route_leads);
}

static void dial_names(void)
{
	struct dialed d;
	struct hark_endpoint at;
	char address[64], wanted[128];
	enter_own_network();
	replace_file("/etc/nsswitch.conf", "hosts: files\nservices: files\n");
	replace_file("/etc/hosts", "127.0.0.7 db\n192.0.2.1 half\n127.0.0.7 half\n");
	CHECK_INT(dial("tcp://nobody:5432", (struct hark_dial_opts){0}, &d), -HARK_ENOHOST);
	CHECK_INT(strcmp(d.why.text, "tcp://nobody:5432: No such host"), 0);
	CHECK_INT(d.report.n, 0);
	CHECK_INT(dial("tcp://db:no-such-service", (struct hark_dial_opts){0}, &d), -HARK_ENOSERVICE);
	CHECK_INT(strcmp(d.why.text, "tcp://db:no-such-service: No such service"), 0);
	CHECK_INT(dial("tcp://db:5432", (struct hark_dial_opts){0}, &d), -ECONNREFUSED);
	CHECK_INT(strcmp(d.why.text, "dial tcp://db:5432 (127.0.0.7): Connection refused"), 0);
	CHECK_INT(dial("tcp://half:5432", (struct hark_dial_opts){0}, &d), -ECONNREFUSED);
	CHECK_INT(strcmp(d.why.text, "dial tcp://half:5432 (127.0.0.7): Connection refused; tried 2 addresses"), 0);
	CHECK_INT(d.report.n, 2);
	int live = plain_listener("127.0.0.7", 8, &at);
	CHECK(live >= 0);
	(void)snprintf(address, sizeof address, "tcp://half:%d", port_of(&at));
	CHECK_INT(dial(address, (struct hark_dial_opts){0}, &d), 0);
	CHECK(d.report.resolved_ns > 0);
	CHECK(hark_endpoint_format(&d.report.attempts[d.report.n - 1].to, wanted, sizeof wanted) > 0);
	CHECK_HAS(wanted, "tcp://127.0.0.7:");
}

static void names_that_fail_are_told_apart(void **state)
{
	(void)state;
	run_in_child(dial_names);
}

/* ---- unix ---- */

static int unix_listener(const char *path, int type, int backlog)
{
	struct sockaddr_un at = {.sun_family = AF_UNIX};
	(void)snprintf(at.sun_path, sizeof at.sun_path, "%s", path);
	int fd = socket(AF_UNIX, type | SOCK_CLOEXEC, 0);
	assert_true(fd >= 0);
	assert_int_equal(bind(fd, (struct sockaddr *)&at, sizeof at), 0);
	if (type == SOCK_STREAM)
		assert_int_equal(listen(fd, backlog), 0);
	return fd;
}

static char directory[] = "/tmp/hark-dial-XXXXXX";
static char path[sizeof directory + 8], address[sizeof path + 16];

static int make_directory(void **state)
{
	(void)state;
	(void)strcpy(directory + sizeof directory - 7, "XXXXXX");
	if (mkdtemp(directory) == NULL)
		return -1;
	(void)snprintf(path, sizeof path, "%s/s", directory);
	(void)snprintf(address, sizeof address, "unix:%s", path);
	return 0;
}

static int remove_directory(void **state)
{
	(void)state;
	(void)unlink(path);
	return rmdir(directory);
}

static void unix_paths_are_dialed(void **state)
{
	(void)state;
	struct dialed d;
	assert_int_equal(dial(address, (struct hark_dial_opts){0}, &d), -ENOENT);
	assert_non_null(strstr(d.why.text, ": No such file or directory"));
	int live = unix_listener(path, SOCK_STREAM, 8);
	assert_int_equal(dial(address, (struct hark_dial_opts){0}, &d), 0);
	assert_int_equal(fcntl(d.conn->src.fd, F_GETFL) & O_NONBLOCK, 0);
	hang_up(&d);
	(void)close(live);
	assert_int_equal(dial(address, (struct hark_dial_opts){0}, &d), -ECONNREFUSED);
}

/* connect(2): EAGAIN, and no event when there is room. */
static void a_full_unix_backlog_is_waited_for(void **state)
{
	(void)state;
	struct dialed first, second, third;
	int live = unix_listener(path, SOCK_STREAM, 0);
	assert_int_equal(dial(address, (struct hark_dial_opts){0}, &first), 0);
	int64_t began = hark_now();
	assert_int_equal(dial(address, (struct hark_dial_opts){.deadline = hark_after(80 * HARK_MS)}, &second),
	                 -ETIMEDOUT);
	assert_true(hark_now() - began >= 80 * HARK_MS);
	assert_int_equal(second.report.n, 1);
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		(void)usleep(50 * 1000); /* while the parent is dialing */
		_exit(accept(live, NULL, NULL) < 0);
	}
	assert_int_equal(dial(address, (struct hark_dial_opts){0}, &third), 0);
	assert_int_equal(third.report.n, 1);
	assert_int_equal(third.report.attempts[0].error, 0);
	int status;
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	hang_up(&first);
	hang_up(&third);
	(void)close(live);
}

static void a_unixgram_dialer_can_be_answered(void **state)
{
	(void)state;
	struct dialed d;
	struct sockaddr_un from;
	socklen_t len = sizeof from;
	char buf[8], gram[sizeof address];
	int live = unix_listener(path, SOCK_DGRAM, 0);
	(void)snprintf(gram, sizeof gram, "unixgram:%s", path);
	assert_int_equal(dial(gram, (struct hark_dial_opts){0}, &d), 0);
	assert_int_equal(send(d.conn->src.fd, "ask", 3, MSG_DONTWAIT), 3);
	assert_int_equal(recvfrom(live, buf, sizeof buf, MSG_DONTWAIT, (struct sockaddr *)&from, &len), 3);
	assert_true(len > offsetof(struct sockaddr_un, sun_path) + 1);
	assert_int_equal(from.sun_path[0], '\0');
	assert_int_equal(sendto(live, "yes!", 4, MSG_DONTWAIT, (struct sockaddr *)&from, len), 4);
	assert_int_equal(recv(d.conn->src.fd, buf, sizeof buf, MSG_DONTWAIT), 4);
	hang_up(&d);
	assert_int_equal(dial(gram, (struct hark_dial_opts){.local = "@hark-unit-dial"}, &d), 0);
	assert_int_equal(send(d.conn->src.fd, "ask", 3, MSG_DONTWAIT), 3);
	len = sizeof from;
	assert_int_equal(recvfrom(live, buf, sizeof buf, MSG_DONTWAIT, (struct sockaddr *)&from, &len), 3);
	assert_memory_equal(from.sun_path, "\0hark-unit-dial", 15);
	hang_up(&d);
	(void)close(live);
}

static void a_descriptor_becomes_the_connection(void **state)
{
	(void)state;
	struct dialed d;
	int pair[2];
	char fd[16];
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	(void)snprintf(fd, sizeof fd, "fd:%d", pair[0]);
	assert_int_equal(dial(fd, (struct hark_dial_opts){0}, &d), 0);
	assert_int_equal(d.conn->src.fd, pair[0]);
	hang_up(&d);
	assert_int_equal(fcntl(pair[0], F_GETFD), -1);
	(void)close(pair[1]);
	assert_int_equal(dial("fd:no-such-name", (struct hark_dial_opts){0}, &d), -EBADF);
	assert_string_equal(d.why.text, "dial fd:no-such-name: Bad file descriptor (LISTEN_FDNAMES has no such name)");
}

/* ---- nobody but ourselves ---- */

static void write_file(const char *name, const char *text)
{
	int fd = open(name, O_WRONLY | O_CLOEXEC);
	if (fd < 0 || write(fd, text, strlen(text)) != (ssize_t)strlen(text))
		skip_child(name);
	(void)close(fd);
}

/* Few ephemeral ports, so that connect(2) soon chooses the one that it is to reach. */
static void self_body(void)
{
	static const char *const hosts[] = {"127.0.0.1", "[::1]", "0.0.0.0", "[::]"};
	for (int h = 0; h < 4; h++)
		for (int i = 0; i < 60; i++) {
			struct hark_conn *c;
			struct hark_dial_opts o = {0};
			char to[64], local[64];
			(void)snprintf(to, sizeof to, "tcp://%s:4000%d", hosts[h], i % 4);
			(void)snprintf(local, sizeof local, "%s:4000%d", hosts[h], i % 4);
			if (i % 10 == 9 && h < 2) /* as if it had been chosen */
				o.local = local;
			CHECK_INT(hark_dial(to, &o, &c), -ECONNREFUSED);
		}
}

static void self_in_child(void)
{
	enter_own_network();
	write_file("/proc/sys/net/ipv4/ip_local_port_range", "40000 40003");
	int bad = 0;
	for (size_t i = 0; i <= ENGINES_ALL; i++) {
		const char *engine = i < ENGINES_ALL ? engines_all[i] : NULL;
		pid_t pid = fork();
		CHECK(pid >= 0);
		if (pid == 0)
			run_mode_child(engine, self_body);
		int status;
		CHECK_INT(waitpid(pid, &status, 0), pid);
		bad |= status != 0 && WEXITSTATUS(status) != SKIPPED;
	}
	CHECK_INT(bad, 0);
}

static void a_closed_local_port_is_refused_and_not_met_by_ourselves(void **state)
{
	(void)state;
	run_in_child(self_in_child);
}

/* ---- fast open ---- */

static void greet(void *arg)
{
	struct hark_listener *l = arg;
	struct hark_conn *c;
	for (int i = 0; i < 3; i++) {
		CHECK_INT(hark_accept(l, hark_after(10 * HARK_S), &c), 0);
		CHECK_INT(hark_write(c, "220 hi", 6), 6);
		CHECK_INT(hark_close(c), 0);
	}
}

static void fast_open_body(void)
{
	struct hark_listen_opts lo = {.fast_open_queue = 16};
	struct hark_listener *l;
	struct hark_conn *c;
	struct beside b;
	char to[HARK_ADDRESS_MAX], buf[16];
	int deferred = 0;
	CHECK_INT(hark_listen("tcp://127.0.0.1:0", &lo, &l), 0);
	CHECK(hark_listener_address(l, to, sizeof to) > 0);
	beside_start(&b, greet, l);
	for (int i = 0; i < 3; i++) { /* the first one gets the cookie */
		struct hark_dial_opts o = {.fast_open = true};
		CHECK_INT(hark_dial(to, &o, &c), 0);
		deferred += c->syn_due;
		hark_idle_timeout(c, 5 * HARK_S);
		if (i == 1)
			CHECK_INT(hark_idle(c), 1);
		CHECK_INT(hark_readn(c, buf, 6), 6);
		CHECK(memcmp(buf, "220 hi", 6) == 0);
		CHECK_INT(hark_close(c), 0);
	}
	CHECK(deferred > 0);
	beside_end(&b);
	hark_listener_close(l);
}

static void fast_open_in_child(void)
{
	enter_own_network();
	write_file("/proc/sys/net/ipv4/tcp_fastopen", "3");
	int bad = 0;
	for (size_t i = 0; i <= ENGINES_ALL; i++) {
		pid_t pid = fork();
		CHECK(pid >= 0);
		if (pid == 0)
			run_mode_child(i < ENGINES_ALL ? engines_all[i] : NULL, fast_open_body);
		int status;
		CHECK_INT(waitpid(pid, &status, 0), pid);
		bad |= status != 0 && WEXITSTATUS(status) != SKIPPED;
	}
	CHECK_INT(bad, 0);
}

static void fast_open_hears_a_server_that_speaks_first(void **state)
{
	(void)state;
	run_in_child(fast_open_in_child);
}

/* ---- a unix path to come from ---- */

static void a_path_that_was_come_from_is_removed(void **state)
{
	(void)state;
	struct dialed d;
	struct stat st;
	char to[sizeof address], from[sizeof path + 8];
	(void)snprintf(from, sizeof from, "%s.from", path);
	for (int type = SOCK_STREAM; type <= SOCK_DGRAM; type++) {
		int live = unix_listener(path, type, 4);
		(void)snprintf(to, sizeof to, "%s:%s", type == SOCK_STREAM ? "unix" : "unixgram", path);
		for (int i = 0; i < 2; i++) {
			assert_int_equal(dial(to, (struct hark_dial_opts){.local = from}, &d), 0);
			assert_int_equal(lstat(from, &st), 0);
			struct dialed other;
			assert_int_equal(dial(to, (struct hark_dial_opts){.local = from}, &other), -EADDRINUSE);
			assert_int_equal(hark_close(d.conn), 0);
			assert_int_equal(lstat(from, &st), -1);
		}
		int stale = unix_listener(from, type, 0); /* left by somebody who died; a stream's may as well live */
		(void)close(stale);
		assert_int_equal(dial(to, (struct hark_dial_opts){.local = from}, &d),
		                 type == SOCK_DGRAM ? 0 : -EADDRINUSE);
		if (type == SOCK_DGRAM)
			hark_abort(d.conn);
		else
			assert_int_equal(unlink(from), 0);
		assert_int_equal(lstat(from, &st), -1);
		(void)close(live);
		assert_int_equal(dial(to, (struct hark_dial_opts){.local = from}, &d), -ECONNREFUSED);
		assert_int_equal(lstat(from, &st), -1);
		(void)unlink(path);
	}
}

/* ---- on a loop ---- */

static void race_on_a_loop(void)
{
	struct blackhole dead;
	struct dialed d;
	struct ticker t;
	struct hark_endpoint to[3];
	char buf[4];
	blackhole_open(&dead);
	int live = plain_listener("127.0.0.1", 8, &to[2]), before = open_descriptors();
	to[0] = dead.at;
	to[1] = nobody();
	assert_int_equal(ticker_start(&t), 0);
	assert_int_equal(race(to, 3, NULL, hark_after(10 * HARK_S), &d), 0);
	assert_true(ticker_stop(&t) >= 10); /* of 50 */
	assert_true(d.took_ns >= 250 * HARK_MS && d.took_ns < 480 * HARK_MS);
	assert_int_equal(d.report.attempts[0].error, ECANCELED);
	assert_int_equal(d.report.attempts[1].error, ECONNREFUSED);
	assert_int_equal(d.report.attempts[2].error, 0);
	int served = accept(live, NULL, NULL);
	assert_int_equal(hark_write(d.conn, "ask", 3), 3); /* and it works as every connection does */
	assert_int_equal(hark_flush(d.conn), 0);
	assert_int_equal(recv(served, buf, sizeof buf, 0), 3);
	assert_int_equal(send(served, "yes!", 4, 0), 4);
	assert_int_equal(hark_readn(d.conn, buf, 4), 4);
	(void)close(served);
	assert_int_equal(hark_read(d.conn, buf, 4), 0);
	assert_int_equal(hark_close(d.conn), 0);
	assert_int_equal(open_descriptors(), before);
	(void)close(live);
	blackhole_close(&dead);
}

#define DIAL_STACK \
	8192 /* bytes, those of the C library's printf and of lazy binding included; a fiber may have 16 KB in all */

static void dial_on_a_painted_stack(void *arg)
{
	struct hark_conn *c;
	struct hark_why why;
	char *low = hark__stack_low(&hark__loop_current->stacks, hark__fiber_self());
	char *here = __builtin_frame_address(0), *p;
	for (p = low; p < here - 1024; p++)
		*(volatile char *)p = 0x5a;
	CHECK_INT(hark_dial(arg, &(struct hark_dial_opts){.why = &why}, &c), -ECONNREFUSED);
	for (p = low; *(volatile char *)p == 0x5a; p++)
		;
	if (here - p > DIAL_STACK)
		(void)fprintf(stderr, "%td bytes of stack were used\n", here - p);
	CHECK(here - p <= DIAL_STACK);
}

static void dial_in_little_room(void)
{
	char refused[64];
	struct hark_scope s;
	struct hark_endpoint refuses = nobody();
	(void)snprintf(refused, sizeof refused, "tcp://127.0.0.1:%d", port_of(&refuses));
	hark_scope_open(&s);
	CHECK_INT(hark_go(&s, "dial", dial_on_a_painted_stack, refused), 0);
	CHECK_INT(hark_join(&s, HARK_FOREVER), 0);
	hark_scope_close(&s);
}

static void a_dial_has_room_on_the_smallest_stack(void **state)
{
	(void)state;
#if defined(HARK__ASAN) || defined(HARK__TSAN)
	print_message("skipped: sanitizers need more stack\n");
	skip();
#endif
	assert_true(on_each_engine(dial_in_little_room) > 0);
}

static void a_race_does_not_stall_the_loop(void **state)
{
	(void)state;
	assert_true(on_each_engine(race_on_a_loop) > 0);
}

struct given_up {
	struct hark_endpoint to;
	struct dialed d;
	int rc;
};

static void dial_the_dead(void *arg)
{
	struct given_up *g = arg;
	struct hark_endpoint to[2] = {g->to, g->to};
	g->rc = race(to, 2, &(struct hark_dial_opts){.attempt_delay_ns = 10 * HARK_MS}, HARK_FOREVER, &g->d);
}

static void cancel_a_dial(void)
{
	struct blackhole dead;
	struct hark_scope s;
	blackhole_open(&dead);
	int before = open_descriptors();
	struct given_up g = {.to = dead.at, .rc = 1};
	hark_scope_open(&s);
	assert_int_equal(hark_go(&s, "dialer", dial_the_dead, &g), 0);
	assert_int_equal(hark_sleep(50 * HARK_MS), 0);
	assert_int_equal(g.rc, 1); /* still at it */
	hark_scope_close(&s);
	assert_int_equal(g.rc, -ECANCELED);
	assert_int_equal(g.d.report.n, 2);
	assert_int_equal(g.d.report.attempts[1].error, ECANCELED);
	assert_int_equal(open_descriptors(), before);
	blackhole_close(&dead);
}

static void a_cancelled_dial_leaves_nothing(void **state)
{
	(void)state;
	assert_true(on_each_engine(cancel_a_dial) > 0);
}

/* ---- every system call fails at its Nth use ---- */

FAULT(int, socket, (int a, int b, int c), (a, b, c))
FAULT(int, setsockopt, (int a, int b, int c, const void *d, socklen_t e), (a, b, c, d, e))
FAULT(int, getsockopt, (int a, int b, int c, void *d, socklen_t *e), (a, b, c, d, e))
FAULT(int, bind, (int a, const struct sockaddr *b, socklen_t c), (a, b, c))
FAULT(int, connect, (int a, const struct sockaddr *b, socklen_t c), (a, b, c))
FAULT(int, getpeername, (int a, struct sockaddr *b, socklen_t *c), (a, b, c))
FAULT(int, fcntl, (int a, int b, long c), (a, b, c))
FAULT_NULL(calloc, (size_t a, size_t b), (a, b))
FAULT_NULL(malloc, (size_t a), (a))

static const struct fault faults[] = {
	FAULT_ROW(socket),      FAULT_ROW(setsockopt), FAULT_ROW(getsockopt), FAULT_ROW(bind),   FAULT_ROW(connect),
	FAULT_ROW(getpeername), FAULT_ROW(fcntl),      FAULT_ROW(calloc),     FAULT_ROW(malloc),
};

static void a_failing_system_call_leaks_nothing(void **state)
{
	(void)state;
	struct hark_endpoint at;
	char to[64];
	int live = plain_listener("127.0.0.1", 1000, &at), failed = 0, before = open_descriptors();
	(void)snprintf(to, sizeof to, "tcp://*:%d", port_of(&at)); /* ::1 is refused, 127.0.0.1 answers */
	for (size_t i = 0; i < sizeof faults / sizeof *faults; i++) {
		for (int nth = 1; nth < 64; nth++) {
			struct dialed d;
			faults[i].install();
			fault_countdown = nth;
			int rc = dial(to, (struct hark_dial_opts){.local = ":0", .keepalive = true, .linger_s = 1}, &d);
			bool used = fault_countdown == 0;
			fault_countdown = 0;
			faults[i].remove();
			failed += rc < 0;
			if (rc == 0)
				hang_up(&d);
			else
				assert_true(d.why.text[0] != '\0' && d.conn == NULL);
			assert_int_equal(open_descriptors(), before);
			if (!used) {
				assert_int_equal(rc, 0);
				break;
			}
		}
	}
	assert_true(failed > 3); /* the faults do reach the dial */
	(void)close(live);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(families_are_interleaved),
		cmocka_unit_test(a_dead_first_address_costs_at_most_300_ms),
		cmocka_unit_test(the_attempt_delay_can_be_chosen),
		cmocka_unit_test(a_refused_address_is_followed_at_once),
		cmocka_unit_test(a_refusal_beside_a_dead_address_is_followed_at_once),
		cmocka_unit_test(a_slow_first_address_may_still_win),
		cmocka_unit_test(the_most_telling_error_is_returned),
		cmocka_unit_test(a_deadline_holds_for_all_attempts_together),
		cmocka_unit_test(attempts_are_bounded),
		cmocka_unit_test(a_dialed_socket_is_blocking_close_on_exec_and_prompt),
		cmocka_unit_test(options_reach_the_socket),
		cmocka_unit_test(udp_is_connected),
		cmocka_unit_test(a_local_address_is_come_from),
		cmocka_unit_test(a_bad_local_address_is_told),
		cmocka_unit_test(a_reserved_port_is_between_512_and_1023),
		cmocka_unit_test(a_reserved_port_without_the_right_to_it_is_explained),
		cmocka_unit_test(a_star_is_dialed_at_loopback),
		cmocka_unit_test(refused_is_told),
		cmocka_unit_test(timed_out_is_told),
		cmocka_unit_test(unreachable_is_told),
		cmocka_unit_test(names_that_fail_are_told_apart),
		cmocka_unit_test_setup_teardown(unix_paths_are_dialed, make_directory, remove_directory),
		cmocka_unit_test_setup_teardown(a_full_unix_backlog_is_waited_for, make_directory, remove_directory),
		cmocka_unit_test_setup_teardown(a_unixgram_dialer_can_be_answered, make_directory, remove_directory),
		cmocka_unit_test(a_descriptor_becomes_the_connection),
		cmocka_unit_test(a_closed_local_port_is_refused_and_not_met_by_ourselves),
		cmocka_unit_test(fast_open_hears_a_server_that_speaks_first),
		cmocka_unit_test_setup_teardown(a_path_that_was_come_from_is_removed, make_directory, remove_directory),
		cmocka_unit_test(a_race_does_not_stall_the_loop),
		cmocka_unit_test(a_dial_has_room_on_the_smallest_stack),
		cmocka_unit_test(a_cancelled_dial_leaves_nothing),
		cmocka_unit_test(a_failing_system_call_leaks_nothing),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
