/* test_faults.c — every system call of the library's calls failed at its Nth use: nothing crashes, hangs or leaks; what
 * fails says why, and a passing failure is not felt at all. See fault_driver.h. */
#include "fault_peers.h"

/* ---- fibers ----------------------------------------------------------------------------------- */

#define FIBERS 50

static void count_up(void *arg)
{
	atomic_fetch_add((atomic_int *)arg, 1);
}

static void short_life(void *arg)
{
	(void)hark_yield();
	count_up(arg);
}

static void with_fibers(void *arg)
{
	struct hark_scope scope;
	struct hark__loop *l;
	atomic_int ran = 0, offloaded = 0;
	int started = 0;
	fault_arm();
	int r = hark__loop_open(arg, 0, &l);
	HOLD_VALUE(sensible(r), r);
	if (r < 0)
		return;
	hark_scope_open(&scope);
	for (int i = 0; i < FIBERS; i++) {
		r = hark_go(&scope, "short", short_life, &ran);
		HOLD_VALUE(sensible(r), r);
		started += r == 0;
	}
	r = hark_join(&scope, hark_after(HARK_S));
	HOLD_VALUE(sensible(r), r);
	r = hark_offload(count_up, &offloaded);
	HOLD_VALUE(sensible(r), r);
	HOLD((r == 0) == (offloaded == 1));
	r = hark_sleep(HARK_MS / 4);
	HOLD_VALUE(sensible(r), r);
	hark_scope_close(&scope);
	HOLD_VALUE(ran == started && started >= FIBERS - 1, ran);
	hark__loop_close(l);
}

/* ---- dial ------------------------------------------------------------------------------------- */

static int echo_port = -1;

static void be_echo(int link)
{
	struct sockaddr_in at = at_port(0);
	socklen_t len = sizeof at;
	char buf[4096];
	int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), port, conn;
	if (bind(listener, (struct sockaddr *)&at, sizeof at) < 0 || listen(listener, 64) < 0 ||
	    getsockname(listener, (struct sockaddr *)&at, &len) < 0)
		return;
	port = ntohs(at.sin_port);
	(void)send(link, &port, sizeof port, MSG_NOSIGNAL);
	struct pollfd p[2] = {{.fd = link, .events = POLLIN}, {.fd = listener, .events = POLLIN}};
	while (poll(p, 2, -1) > 0 && p[0].revents == 0 && (conn = accept(listener, NULL, NULL)) >= 0) {
		be_patient(conn, ANSWER_S * 1000);
		for (ssize_t n; (n = receive(conn, buf, sizeof buf)) > 0;)
			(void)send(conn, buf, (size_t)n, MSG_NOSIGNAL);
		(void)close(conn);
	}
}

static void ask_echo(void)
{
	char address[64], buf[64];
	struct hark_conn *c;
	(void)snprintf(address, sizeof address, "tcp://127.0.0.1:%d", echo_port);
	struct hark_dial_opts o = {.deadline = hark_after(5 * HARK_S), .keepalive = true, .send_buffer_bytes = 65536};
	fault_arm();
	int r = hark_dial(address, &o, &c);
	HOLD_VALUE(sensible(r), r);
	if (r < 0)
		return;
	ssize_t n = hark_write(c, "one\ntwo\n", 8);
	HOLD_VALUE(sensible(n), n);
	r = hark_flush(c); /* whose failure this is: the reader below would wait for what never left */
	HOLD_VALUE(sensible(r), r);
	if (n == 8 && r == 0)
		n = hark_readline(c, buf, sizeof buf);
	HOLD_VALUE(sensible(n), n);
	if (n == 4) {
		n = hark_readn(c, buf, 4);
		HOLD_VALUE(sensible(n) && (n < 0 || memcmp(buf, "two\n", 4) == 0), n);
	}
	(void)hark_local(c, buf, sizeof buf);
	r = hark_shutdown(c, HARK_OUT);
	HOLD_VALUE(sensible(r), r);
	if (r == 0 && n == 4)
		n = hark_read(c, buf, sizeof buf);
	HOLD_VALUE(sensible(n) || (n == -ECONNRESET && fault_fired()), n);
	r = hark_close(c);
	HOLD_VALUE(sensible(r), r);
}

static int echo_link;

static void meet_echo(void)
{
	if (echo_port >= 0)
		return;
	(void)start_peer(be_echo, &echo_link);
	HOLD(recv(echo_link, &echo_port, sizeof echo_port, 0) == sizeof echo_port);
}

static void dial_on_thread(void *arg)
{
	(void)arg;
	meet_echo();
	ask_echo();
}

/* The loop's own opening is with_fibers()' matter. */
static void on_loop(const char *engine, void (*fn)(void))
{
	struct hark__loop *l;
	HOLD(hark__loop_open(engine, 0, &l) == 0);
	fn();
	atomic_store(&now->armed, false);
	hark__loop_close(l);
}

static void dial_on_loop(void *arg)
{
	meet_echo();
	on_loop(arg, ask_echo);
}

/* ---- listen ----------------------------------------------------------------------------------- */

static void listen_once(const char *address, const struct hark_listen_opts *o)
{
	char text[HARK_ADDRESS_MAX];
	struct hark_listener *l;
	int r = hark_listen(address, o, &l);
	HOLD_VALUE(sensible(r), r);
	if (r < 0)
		return;
	HOLD(hark_listener_address(l, text, sizeof text) > 0);
	hark_listener_close(l);
}

static void listen_each(void *arg)
{
	char directory[] = "/tmp/hark-faults-XXXXXX", path[64], address[80];
	(void)arg;
	HOLD(mkdtemp(directory) != NULL);
	(void)snprintf(path, sizeof path, "%s/s", directory);
	(void)snprintf(address, sizeof address, "unix:%s", path);
	struct hark_listen_opts o = {.unix_mode = 0600, .reuseport = true, .receive_buffer_bytes = 65536};
	fault_arm();
	listen_once("tcp://127.0.0.1:0", &o);
	listen_once("udp://*:0", &o);
	listen_once(address, &o);
	/* Whose path it is cannot be known without lstat(2), and without unlink(2) it stays. */
	bool may_stay = fault_fired() && (now->entry == FAULT_lstat || now->entry == FAULT_unlink);
	HOLD(access(path, F_OK) < 0 || may_stay);
	(void)unlink(path);
	(void)rmdir(directory);
}

/* ---- look-ups --------------------------------------------------------------------------------- */

static void resolve_local(void)
{
	struct hark_endpoint at[4];
	fault_arm();
	int r = hark_resolve("tcp://localhost:80", at, 4, HARK_FOREVER);
	HOLD_VALUE(sensible(r) && r != 0, r);
	r = hark_resolve("udp://localhost:80", at, 4, hark_after(10 * HARK_S));
	HOLD_VALUE(sensible(r) && r != 0, r);
}

static void resolve_on_thread(void *arg)
{
	(void)arg;
	resolve_local();
}

static void resolve_on_loop(void *arg)
{
	on_loop(arg, resolve_local);
}

/* ---- sendfile and copy ------------------------------------------------------------------------- */

#define FILE_BYTES 5000

static struct hark_conn *conn_of(int fd)
{
	struct hark_conn *c = NULL;
	int r = hark_conn_from_fd(fd, &c);
	HOLD_VALUE(sensible(r), r);
	return r < 0 ? NULL : c;
}

/* What reached the far end, which is then closed. */
static size_t arrived(int fd)
{
	char buf[4096];
	size_t got = 0;
	for (ssize_t n; (n = recv(fd, buf, sizeof buf, MSG_DONTWAIT)) > 0;)
		got += (size_t)n;
	(void)close(fd);
	return got;
}

static void send_a_file(void)
{
	static const char zeros[FILE_BYTES];
	int pair[2], file = memfd_create("faults", MFD_CLOEXEC);
	HOLD(file >= 0 && write(file, zeros, FILE_BYTES) == FILE_BYTES);
	HOLD(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0);
	struct hark_conn *c = conn_of(pair[0]);
	int64_t n = 0;
	int r = 0;
	if (c != NULL) {
		n = hark_sendfile(c, file, 0, 0);
		HOLD_VALUE(sensible(n) && (n < 0 || n == FILE_BYTES), n);
		(void)shutdown(pair[1], SHUT_WR);
		r = hark_close(c);
		HOLD_VALUE(sensible(r), r);
	}
	size_t got = arrived(pair[1]);
	HOLD_VALUE(got == FILE_BYTES || fault_fired(), got);
	HOLD_VALUE(n <= 0 || r < 0 || got == FILE_BYTES, got);
	(void)close(file);
}

static void copy_through(void)
{
	int in[2], out[2];
	bool to_failed;
	HOLD(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, in) == 0);
	HOLD(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, out) == 0);
	HOLD(send(in[1], "through\n", 8, 0) == 8 && close(in[1]) == 0);
	struct hark_conn *from = conn_of(in[0]), *to = conn_of(out[0]);
	if (from != NULL && to != NULL) {
		int64_t n = hark_copy(from, to, &to_failed);
		HOLD_VALUE(sensible(n) && (n < 0 || n == 8), n);
		HOLD_VALUE(n < 0 || recv(out[1], (char[8]){0}, 8, MSG_DONTWAIT) == 8, n);
	}
	(void)shutdown(out[1], SHUT_WR); /* else the close below waits for it */
	int r = hark_close(from);
	HOLD_VALUE(sensible(r), r);
	r = hark_close(to);
	HOLD_VALUE(sensible(r), r);
	(void)close(out[1]);
}

/* A pipe is read and written by other calls. */
static void copy_pipe(void)
{
	int in[2], out[2];
	HOLD(pipe2(in, O_CLOEXEC) == 0 && pipe2(out, O_CLOEXEC) == 0);
	HOLD(write(in[1], "piped\n", 6) == 6 && close(in[1]) == 0);
	struct hark_conn *from = conn_of(in[0]), *to = conn_of(out[1]);
	if (from != NULL && to != NULL) {
		int64_t n = hark_copy(from, to, NULL);
		HOLD_VALUE(sensible(n) && (n < 0 || n == 6), n);
		HOLD_VALUE(n < 0 || read(out[0], (char[8]){0}, 8) == 6, n);
	}
	(void)hark_close(from);
	(void)hark_close(to);
	(void)close(out[0]);
}

#define PASSED_BYTES 150000 /* bytes: fits in a socket's buffer, and is more than it takes to be spliced */

static void pass_much(void)
{
	static char zeros[PASSED_BYTES];
	int in[2], out[2], r = 0;
	HOLD(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, in) == 0);
	HOLD(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, out) == 0);
	HOLD(send(in[1], zeros, PASSED_BYTES, 0) == PASSED_BYTES && close(in[1]) == 0);
	struct hark_conn *from = conn_of(in[0]), *to = conn_of(out[0]);
	int64_t n = 1, passed = 0;
	if (to != NULL)
		hark_deadline(
			to,
			hark_after(200 * HARK_MS)); /* taken for a pipe it has room for less, and nobody reads yet */
	while (from != NULL && to != NULL && n > 0 && r == 0) {
		n = hark_idle(from);
		if (n > 0)
			n = hark_pass(from, to);
		HOLD_VALUE(sensible(n) || n == -ETIMEDOUT, n);
		if (n > 0)
			r = hark_flush(to);
		HOLD_VALUE(sensible(r) || r == -ETIMEDOUT, r);
		passed += n > 0 ? n : 0;
	}
	(void)shutdown(out[1], SHUT_WR);
	int closed = hark_close(to);
	HOLD_VALUE(sensible(closed) || closed == -ETIMEDOUT, closed);
	(void)hark_close(from);
	size_t got = arrived(out[1]);
	HOLD_VALUE(got <= PASSED_BYTES && (got == PASSED_BYTES || fault_fired()), got);
	HOLD_VALUE(n < 0 || r < 0 || closed < 0 || (int64_t)got == passed, got); /* what is lost is told */
}

static void bulk(void)
{
	fault_arm();
	send_a_file();
	copy_through();
	pass_much();
	copy_pipe();
}

static void bulk_on_thread(void *arg)
{
	(void)arg;
	bulk();
}

static void bulk_on_loop(void *arg)
{
	on_loop(arg, bulk);
}

/* ---- accept and converse ----------------------------------------------------------------------- */

/* "Nothing is lost, try again when there is room": so the second accept has it, within the same second. */
static void accept_one(void)
{
	struct hark_listener *l = listen_plainly("tcp://127.0.0.1:0");
	struct hark_conn *c;
	char buf[8];
	int fd = connected_to(l, SOCK_STREAM);
	fault_arm();
	int r = hark_accept(l, hark_after(HARK_S), &c);
	HOLD_VALUE(sensible(r), r);
	if (r < 0)
		r = hark_accept(l, hark_after(HARK_S), &c);
	HOLD_VALUE(r == 0, r);
	ssize_t n = hark_write(c, "x", 1);
	HOLD_VALUE(sensible(n), n);
	(void)shutdown(fd, SHUT_WR);
	r = hark_close(c);
	HOLD_VALUE(sensible(r), r);
	HOLD(r < 0 || n < 0 || receive(fd, buf, sizeof buf) == 1);
	(void)close(fd);
	hark_listener_close(l);
}

static void udp_connect_once(void)
{
	struct hark_listener *l = listen_plainly("udp://127.0.0.1:0");
	struct hark_conn *c;
	char buf[8];
	int fd = connected_to(l, SOCK_DGRAM), r = -1;
	HOLD(send(fd, "knock", 5, 0) == 5);
	fault_arm();
	r = hark_accept(l, hark_after(HARK_S), &c);
	HOLD_VALUE(sensible(r), r);
	if (r == 0) {
		r = hark_udp_connect(c);
		HOLD_VALUE(sensible(r), r);
		ssize_t n = hark_read(c, buf, sizeof buf);
		/* It is there, whether in the queue of its own or as it came. */
		HOLD_VALUE(sensible(n) && (n < 0 || n == 5), n);
		n = n < 0 ? n : hark_write(c, buf, (size_t)n);
		HOLD_VALUE(sensible(n), n);
		HOLD_VALUE(n < 0 || receive(fd, buf, sizeof buf) == 5, n);
		r = hark_close(c);
		HOLD_VALUE(sensible(r), r);
	}
	(void)close(fd);
	hark_listener_close(l);
}

static void take(void)
{
	accept_one();
	atomic_store(&now->armed, false);
	udp_connect_once();
}

static void take_on_thread(void *arg)
{
	(void)arg;
	take();
}

static void take_on_loop(void *arg)
{
	on_loop(arg, take);
}

/* ---- PROXY headers ----------------------------------------------------------------------------- */

/* One that takes memory to read, to keep and to write. */
static void proxy(void)
{
	static char value[5000], header[6000];
	struct hark_proxy_tlv tlv = {0xe0, sizeof value, value};
	struct hark_proxy p = {.tlvs = &tlv, .n_tlvs = 1};
	struct hark_listener *l = listen_plainly("tcp://127.0.0.1:0");
	struct hark_conn *c;
	char buf[8];
	int fd = connected_to(l, SOCK_STREAM);
	HOLD(hark_accept(l, hark_after(HARK_S), &c) == 0);
	hark_proxy_describe(c, &p);
	p.tlvs = &tlv;
	p.n_tlvs = 1;
	ssize_t n = hark_proxy_format(&p, header, sizeof header - 1);
	header[n] = 'x';
	HOLD(send(fd, header, (size_t)n + 1, 0) == n + 1);
	fault_arm();
	int r = hark_proxy_accept(c, hark_after(HARK_S), NULL);
	HOLD_VALUE(sensible(r), r);
	HOLD((hark_proxied(c) != NULL) == (r == 0));
	if (r == 0) {
		HOLD(hark_proxy_find(hark_proxied(c), 0xe0)->len == sizeof value);
		n = hark_read(c, buf, sizeof buf);
		HOLD_VALUE(sensible(n) && (n < 0 || (n == 1 && buf[0] == 'x')), n);
	}
	n = hark_proxy_send(c, &p);
	HOLD_VALUE(sensible(n), n);
	hark_abort(c);
	(void)close(fd);
	hark_listener_close(l);
}

static void proxy_on_thread(void *arg)
{
	(void)arg;
	proxy();
}

static void proxy_on_loop(void *arg)
{
	on_loop(arg, proxy);
}

/* ---- the tests -------------------------------------------------------------------------------- */

static void on_each(const char *what, void (*fn)(void *))
{
	struct faulty running[ENGINES];
	char name[64];
	int n = 0;
	for (size_t i = 0; i < ENGINES; i++) {
		(void)snprintf(name, sizeof name, "%s, %s", what, engines[i]);
		if (have_engine(engines[i]))
			fault_begin(&running[n++], name, fn, (void *)engines[i]);
	}
	fault_end(running, n);
}

static void faults_in_fibers(void **state)
{
	(void)state;
	on_each("fibers", with_fibers);
}

static void faults_in_dial(void **state)
{
	(void)state;
	fault_each_use("dial, thread", dial_on_thread, NULL);
	on_each("dial", dial_on_loop);
}

static void faults_in_listen(void **state)
{
	(void)state;
	fault_each_use("listen", listen_each, NULL);
}

static void faults_in_resolve(void **state)
{
	(void)state;
	fault_each_use("resolve, thread", resolve_on_thread, NULL);
	on_each("resolve", resolve_on_loop);
}

static void faults_in_sendfile_and_copy(void **state)
{
	(void)state;
	fault_each_use("bulk, thread", bulk_on_thread, NULL);
	on_each("bulk", bulk_on_loop);
}

static void faults_in_accept_and_udp_connect(void **state)
{
	(void)state;
	fault_each_use("accept, thread", take_on_thread, NULL);
	on_each("accept", take_on_loop);
}

static void faults_in_proxy_headers(void **state)
{
	(void)state;
	fault_each_use("proxy, thread", proxy_on_thread, NULL);
	on_each("proxy", proxy_on_loop);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(faults_in_fibers),
		cmocka_unit_test(faults_in_dial),
		cmocka_unit_test(faults_in_listen),
		cmocka_unit_test(faults_in_resolve),
		cmocka_unit_test(faults_in_sendfile_and_copy),
		cmocka_unit_test(faults_in_accept_and_udp_connect),
		cmocka_unit_test(faults_in_proxy_headers),
	};
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
