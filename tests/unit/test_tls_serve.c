/* test_tls_serve.c — one box, one object file, over TLS: under every model, number of workers and engine.
 *
 * $HARK_TEST_MB says how much each side sends: 2 MB by itself, 100 MB where that is to be shown. */
#include "serve_support.h"
#include "tls_support.h"

static size_t each_way(void)
{
	const char *mb = getenv("HARK_TEST_MB");
	return (mb != NULL ? strtoul(mb, NULL, 10) : 2) * MB;
}

static struct hark_tls *server_side, *client_side;

static int make_settings(void **state)
{
	(void)make_certs(state);
	server_side = server_settings();
	client_side = client_settings();
	return 0;
}

static struct plan tls_plan(hark_box *box)
{
	return (struct plan){.address = "tls://127.0.0.1:0",
	                     .box = box,
	                     .opts.tls = server_side,
	                     .grace_ns = 10 * HARK_S};
}

/* *out stays as it is where that fails. */
static int try_dial(const struct server *s, struct hark_tls *t, struct hark_conn **out)
{
	struct hark_conn *c = NULL;
	char address[HARK_ADDRESS_MAX];
	struct hark_why why = {.text = ""};
	struct hark_dial_opts o = {.tls = t, .tls_name = "a.example", .why = &why};
	(void)snprintf(address, sizeof address, "tls://127.0.0.1:%u",
	               ntohs(((const struct sockaddr_in *)&s->at.addr)->sin_port));
	int r = hark_dial(address, &o, &c);
	assert_true((r < 0) == (c == NULL));
	if (r == 0)
		*out = c;
	if (r < 0 && t != NULL)
		print_message("%s\n", why.text);
	return r;
}

static struct hark_conn *dial_tls(const struct server *s)
{
	struct hark_conn *c;
	assert_int_equal(try_dial(s, client_side, &c), 0);
	hark_deadline(c, hark_after(30 * HARK_S * SLOWER));
	return c;
}

/* ---- much, both ways at once ------------------------------------------------------------------------------ */

struct sending {
	struct hark_conn *c;
	size_t total;
	bool done;
};

static void send_pattern(void *arg)
{
	struct sending *s = arg;
	enum { PIECE = 60000 };
	char *buf = malloc(PIECE);
	bool good = buf != NULL;
	for (size_t at = 0; good && at < s->total;) {
		size_t n = s->total - at < PIECE ? s->total - at : PIECE;
		pattern_fill(buf, at, n);
		good = hark_write(s->c, buf, n) == (ssize_t)n;
		at += n;
	}
	free(buf);
	s->done = good && hark_shutdown(s->c, HARK_OUT) == 0;
}

/* How many bytes of the pattern come before the end; -1: others, or no end in order. */
static ssize_t read_pattern(struct hark_conn *c)
{
	enum { PIECE = 50000 };
	char *buf = malloc(PIECE);
	size_t at = 0;
	ssize_t n = -1;
	while (buf != NULL && (n = hark_read(c, buf, PIECE)) > 0 && pattern_is(buf, at, (size_t)n))
		at += (size_t)n;
	free(buf);
	return n == 0 ? (ssize_t)at : -1;
}

/* Reads and writes at once, and ends in order if all was there. */
static void exchange(struct hark_conn *c, void *arg)
{
	struct sending s = {.c = c, .total = each_way()};
	struct hark_scope scope;
	(void)arg;
	hark_scope_open(&scope);
	int r = hark_go(&scope, "sender", send_pattern, &s);
	ssize_t got = r == 0 ? read_pattern(c) : -1;
	(void)hark_join(&scope, HARK_FOREVER);
	hark_scope_close(&scope);
	if (got != (ssize_t)each_way() || !s.done)
		hark_outcome(c, 0, -EIO); /* the peer sees no end in order */
}

static void *send_in_thread(void *arg)
{
	send_pattern(arg);
	return NULL;
}

static void exchange_once(struct server *s)
{
	pthread_t thread;
	struct hark_conn *c = dial_tls(s);
	struct sending sent = {.c = c, .total = each_way()};
	assert_int_equal(pthread_create(&thread, NULL, send_in_thread, &sent), 0);
	assert_int_equal(read_pattern(c), each_way());
	assert_int_equal(pthread_join(thread, NULL), 0);
	assert_true(sent.done);
	assert_int_equal(hark_close(c), 0);
	event_await(s, 'c');
}

static void much_goes_both_ways_at_once(void **state)
{
	(void)state;
	every_way(tls_plan(exchange), exchange_once);
}

/* ---- small ones ------------------------------------------------------------------------------------------- */

/* What the box was told of the handshake, as a line; then it answers lines until the end. */
static void tells(struct hark_conn *c, void *arg)
{
	struct hark_tls_info info;
	char line[64];
	ssize_t n;
	(void)arg;
	if (hark_tls_info(c, &info) < 0)
		return;
	(void)hark_printf(c, "%s %s\n", info.version, info.name);
	while (hark_idle(c) > 0 && (n = hark_readline(c, line, sizeof line)) > 0)
		(void)hark_write(c, line, (size_t)n);
	(void)hark_write(c, hark_handover(c) == -EOPNOTSUPP ? "bye\n" : "bad\n", 4);
}

static void expect_line(struct hark_conn *c, const char *line)
{
	char got[128];
	ssize_t n = hark_readline(c, got, sizeof got);
	assert_int_equal(n, strlen(line));
	assert_string_equal(got, line);
}

static void talk(struct server *s)
{
	struct hark_conn *c = dial_tls(s);
	char byte;
	expect_line(c, "TLSv1.3 a.example\n");
	for (int i = 0; i < 3; i++) {
		assert_int_equal(hark_write(c, "one\n", 4), 4);
		expect_line(c, "one\n");
	}
	assert_int_equal(hark_shutdown(c, HARK_OUT), 0); /* our half; the other one goes on */
	expect_line(c, "bye\n");
	assert_int_equal(hark_read(c, &byte, 1), 0);
	assert_int_equal(hark_close(c), 0);
	event_await(s, 'o');
	event_await(s, 'c');
}

static void a_box_talks_over_tls_and_each_half_ends_by_itself(void **state)
{
	(void)state;
	every_way(tls_plan(tells), talk);
}

/* Reads to the end, and says in its outcome how that was: in order, 7; cut: ELOOP. See tell_event(). */
static void judges(struct hark_conn *c, void *arg)
{
	char buf[64];
	ssize_t n;
	(void)arg;
	while ((n = hark_read(c, buf, sizeof buf)) > 0)
		;
	if (n == 0)
		hark_outcome(c, 4711, 7 << 8);
	else if (n == -ECONNRESET)
		hark_outcome(c, 0, -ELOOP);
}

static void end_in_both_ways(struct server *s)
{
	struct hark_conn *c = dial_tls(s);
	assert_int_equal(hark_write(c, "x", 1), 1);
	assert_int_equal(hark_close(c), 0);
	event_await(s, 'i');
	c = dial_tls(s);
	assert_int_equal(hark_write(c, "x", 1), 1);
	assert_int_equal(hark_flush(c), 0);
	assert_int_equal(shutdown(hark_fd(c), SHUT_WR), 0); /* TCP's end without TLS's */
	event_await(s, 'E');
	hark_abort(c);
}

static void an_end_in_order_and_a_cut_are_told_apart(void **state)
{
	(void)state;
	every_way(tls_plan(judges), end_in_both_ways);
}

/* ---- handshakes that fail --------------------------------------------------------------------------------- */

static void never_runs(struct hark_conn *c, void *arg)
{
	(void)c;
	(void)arg;
	_exit(7);
}

/* Garbage, a client that refuses the certificate, and one that goes; each costs its own connection alone. */
static void fail_in_each_way(struct server *s)
{
	struct hark_conn *c;
	unsigned char alert[16];
	int fd = client(s);
	assert_int_equal(write(fd, "\x16\x03\x01\x00\x05\x02\x00\x00\x01\x00", 10), 10);
	assert_int_equal(receive(fd, alert, sizeof alert), 7);
	assert_int_equal(alert[0], 21);
	client_hears_the_end(fd);
	assert_int_equal(try_dial(s, NULL, &c), -HARK_ECERT);
	fd = client(s);
	(void)close(fd);
	for (int i = 0; i < 3; i++)
		event_await(s, 'c');
}

static void a_handshake_that_fails_starts_no_box(void **state)
{
	(void)state;
	every_way(tls_plan(never_runs), fail_in_each_way);
}

static void say_little(struct server *s)
{
	int silent = client(s), half = client(s);
	assert_int_equal(write(half, "\x16\x03\x01\x01\x00\x01", 6), 6);
	client_hears_the_end(silent);
	client_hears_the_end(half);
	event_await(s, 'c');
	event_await(s, 'c');
}

static void a_handshake_that_is_not_finished_ends_at_its_deadline(void **state)
{
	(void)state;
	struct plan p = tls_plan(never_runs);
	p.opts.tls_handshake_ns = 50 * HARK_MS;
	every_way(p, say_little);
}

static void say_nothing(struct server *s)
{
	struct hark_conn *c = dial_tls(s);
	char byte;
	assert_int_equal(hark_shutdown(c, HARK_OUT), 0);
	assert_int_equal(hark_read(c, &byte, 1), 0);
	assert_int_equal(hark_close(c), 0);
	event_await(s, 'c');
}

static void the_box_of_a_client_that_speaks_first_starts_at_its_first_byte(void **state)
{
	(void)state;
	struct plan p = tls_plan(never_runs);
	p.opts.client_first = true;
	every_way(p, say_nothing);
}

/* A drain ends who waits between requests, and lets a request in its midst finish. */
static void drain_between(struct server *s)
{
	char byte;
	struct hark_conn *c = dial_tls(s);
	expect_line(c, "TLSv1.3 a.example\n");
	assert_int_equal(hark_write(c, "one\n", 4), 4);
	expect_line(c, "one\n");
	assert_int_equal(kill(s->pid, SIGTERM), 0);
	expect_line(c, "bye\n");
	assert_int_equal(hark_read(c, &byte, 1), 0);
	assert_int_equal(hark_close(c), 0);
}

static void a_drain_ends_it_in_order(void **state)
{
	(void)state;
	struct plan p = tls_plan(tells);
	every_way(p, drain_between);
}

static void what_cannot_be_served_is_told(void **state)
{
	(void)state;
	struct hark_listener *l;
	struct hark_why why = {.text = ""};
	char at[HARK_ADDRESS_MAX];
	assert_int_equal(hark_listen("tls://127.0.0.1:0", NULL, &l), 0);
	assert_true(hark_listener_address(l, at, sizeof at) > 0);
	assert_true(strncmp(at, "tls://127.0.0.1:", 16) == 0);
	assert_int_equal(hark_serve(&l, 1, echo, NULL, &(struct hark_serve_opts){.why = &why}), -EINVAL);
	assert_string_equal(why.text, "serve: tls:// needs a certificate");
	assert_int_equal(hark_serve(&l, 1, echo, NULL, &(struct hark_serve_opts){.why = &why, .tls = client_side}),
	                 -EINVAL);
	assert_int_equal(
		hark_serve(&l, 1, echo, NULL, &(struct hark_serve_opts){.why = &why, .tls = server_side, .wait = true}),
		-EINVAL);
	hark_listener_close(l);
}

/* ---- by the box ------------------------------------------------------------------------------------------- */

static void greets_plainly_first(struct hark_conn *c, void *arg)
{
	char line[64];
	(void)arg;
	(void)hark_write(c, "220 ready\n", 10);
	if (hark_readline(c, line, sizeof line) <= 0 || hark_write(c, "go ahead\n", 9) < 0 ||
	    hark_starttls(c, server_side, NULL) < 0)
		return;
	(void)hark_printf(c, "safe\n");
}

static void upgrade(struct server *s)
{
	struct hark_conn *c;
	char byte;
	assert_int_equal(hark_conn_from_fd(client(s), &c), 0);
	hark_deadline(c, hark_after(10 * HARK_S * SLOWER));
	expect_line(c, "220 ready\n");
	assert_int_equal(hark_write(c, "STARTTLS\n", 9), 9);
	expect_line(c, "go ahead\n");
	assert_int_equal(hark_starttls(c, client_side, &(struct hark_starttls_opts){.name = "a.example"}), 0);
	expect_line(c, "safe\n");
	assert_int_equal(hark_read(c, &byte, 1), 0);
	assert_int_equal(hark_close(c), 0);
}

static void a_box_begins_tls_itself(void **state)
{
	(void)state;
	every_way((struct plan){.box = greets_plainly_first, .grace_ns = 10 * HARK_S}, upgrade);
	every_way((struct plan){.address = "tls://127.0.0.1:0",
	                        .box = greets_plainly_first,
	                        .opts.tls_by_box = true,
	                        .grace_ns = 10 * HARK_S},
	          upgrade);
}

int main(int argc, char *argv[])
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(much_goes_both_ways_at_once),
		cmocka_unit_test(a_box_talks_over_tls_and_each_half_ends_by_itself),
		cmocka_unit_test(an_end_in_order_and_a_cut_are_told_apart),
		cmocka_unit_test(a_handshake_that_fails_starts_no_box),
		cmocka_unit_test(a_handshake_that_is_not_finished_ends_at_its_deadline),
		cmocka_unit_test(the_box_of_a_client_that_speaks_first_starts_at_its_first_byte),
		cmocka_unit_test(a_drain_ends_it_in_order),
		cmocka_unit_test(what_cannot_be_served_is_told),
		cmocka_unit_test(a_box_begins_tls_itself),
	};
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, make_settings, NULL);
}
