/* test_contract.c — what hark.h promises of every call: cancellation, deadlines, roles, and the small things. */
#include "hark.h"

/* Before any other header: what hark.h names it brings along. */
const int errors[] = {HARK_ENOHOST, HARK_ENOSERVICE, HARK_EDNS};

#include "modes.h"

#include <limits.h>
#include <sys/resource.h>

#include "conn/extra.h"

#define MB ((size_t)1 << 20)

/* ---- every call past its time ----------------------------------------------------------------- */

/* A connection of each kind, with something to read in its buffer and in the kernel: nothing would have to wait. */
struct kinds {
	struct pair stream;
	struct hark_conn *file, *datagram;
	int peer; /* of datagram */
};

static int scratch_file(void)
{
	char path[] = "/tmp/hark-contract-XXXXXX";
	int fd = mkostemp(path, O_CLOEXEC);
	CHECK(fd >= 0);
	CHECK_INT(unlink(path), 0);
	CHECK_INT(write(fd, "line\nline\n", 10), 10);
	CHECK_INT(lseek(fd, 0, SEEK_SET), 0);
	return fd;
}

static struct kinds kinds_open(void)
{
	struct kinds k;
	char byte;
	int fds[2];
	k.stream = tcp_pair();
	CHECK_INT(hark_write(k.stream.b, "line\nline\n", 10), 10);
	CHECK_INT(hark_flush(k.stream.b), 0);
	CHECK_INT(hark_peek(k.stream.a, &byte, 1), 1);
	k.file = conn_of(scratch_file());
	CHECK_INT(hark_peek(k.file, &byte, 1), 1);
	CHECK_INT(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, fds), 0);
	k.datagram = conn_of(fds[0]);
	k.peer = fds[1];
	CHECK_INT(send(k.peer, "one", 3, 0), 3);
	return k;
}

static void kinds_close(struct kinds *k)
{
	pair_drop(&k->stream);
	hark_abort(k->file);
	hark_abort(k->datagram);
	(void)close(k->peer);
}

static void check_reading(struct hark_conn *c, int wanted)
{
	char buf[64];
	CHECK_INT(hark_read(c, buf, 1), wanted);
	CHECK_INT(hark_read(c, buf, sizeof buf), wanted);
	CHECK_INT(hark_readn(c, buf, 1), wanted);
	CHECK_INT(hark_readn(c, buf, 0), wanted);
	CHECK_INT(hark_readline(c, buf, sizeof buf), wanted);
	CHECK_INT(hark_peek(c, buf, 1), wanted);
	CHECK_INT(hark_idle(c), wanted);
	CHECK_INT(hark_ready(c), wanted);
}

static void check_writing(struct hark_conn *c, int wanted)
{
	struct iovec v = {.iov_base = (void *)"x", .iov_len = 1};
	CHECK_INT(hark_write(c, "", 0), wanted);
	CHECK_INT(hark_flush(c), wanted);
	CHECK_INT(hark_write(c, "x", 1), wanted);
	CHECK_INT(hark_writev(c, &v, 1), wanted);
	CHECK_INT(hark_printf(c, "%d", 1), wanted);
	CHECK_INT(hark_flush(c), wanted);
	CHECK_INT(hark_shutdown(c, HARK_OUT), wanted);
	CHECK_INT(hark_shutdown(c, HARK_IN), wanted);
}

static void check_all(struct kinds *k, int wanted)
{
	int file = scratch_file();
	bool to_failed = true;
	check_reading(k->stream.a, wanted);
	check_reading(k->file, wanted);
	check_reading(k->datagram, wanted);
	CHECK_INT(hark_pass(k->stream.a, k->stream.b), wanted);
	CHECK_INT(hark_copy(k->stream.a, k->stream.b, &to_failed), wanted);
	CHECK_INT(hark_handover(k->stream.a), wanted);
	CHECK_INT(hark_sendfile(k->stream.a, file, 0, 0), wanted);
	check_writing(k->stream.a, wanted);
	check_writing(k->file, wanted);
	check_writing(k->datagram, wanted);
	(void)close(file);
}

static void every_call_past_its_deadline_times_out(void)
{
	struct kinds k = kinds_open();
	int64_t past = hark_now();
	hark_deadline(k.stream.a, past);
	hark_deadline(k.file, past);
	hark_deadline(k.datagram, past);
	check_all(&k, -ETIMEDOUT);
	hark_deadline(k.stream.a, INT64_MIN);
	check_reading(k.stream.a, -ETIMEDOUT);
	kinds_close(&k);
}

/* A deadline that is moved on gives the reader back what is there. */
static void a_deadline_that_moves_on_loses_nothing(void)
{
	char buf[8];
	struct pair p = tcp_pair();
	CHECK_INT(hark_write(p.b, "line\n", 5), 5);
	CHECK_INT(hark_flush(p.b), 0);
	hark_deadline(p.a, hark_now());
	CHECK_INT(hark_readline(p.a, buf, sizeof buf), -ETIMEDOUT);
	hark_deadline(p.a, HARK_FOREVER);
	CHECK_INT(hark_readline(p.a, buf, sizeof buf), 5);
	pair_drop(&p);
}

static void when_cancelled(void *arg)
{
	CHECK_INT(hark_sleep(10 * HARK_S), -ECANCELED);
	check_all(arg, -ECANCELED);
}

static void every_call_of_a_cancelled_fiber_is_cancelled(void)
{
	struct kinds k = kinds_open();
	struct hark_scope s;
	hark_scope_open(&s);
	CHECK_INT(hark_go(&s, "cancelled", when_cancelled, &k), 0);
	CHECK_INT(hark_yield(), 0);
	hark_scope_close(&s);
	kinds_close(&k);
}

/* ---- roles ------------------------------------------------------------------------------------- */

struct user {
	struct hark_conn *c;
	ssize_t got;
};

static void reads(void *arg)
{
	struct user *u = arg;
	char buf[8];
	u->got = hark_read(u->c, buf, sizeof buf);
}

static void writes(void *arg)
{
	static char bytes[20 * MB];
	struct user *u = arg;
	u->got = hark_write(u->c, bytes, sizeof bytes);
}

static void await_role(const atomic_bool *role)
{
	while (!atomic_load(role))
		CHECK_INT(hark_sleep(HARK_MS), 0);
}

static void a_second_reader_is_refused_and_so_is_a_close_beside_one(void)
{
	char buf[8];
	struct beside b;
	struct pair p = tcp_pair();
	struct user u = {.c = p.a};
	beside_start(&b, reads, &u);
	await_role(&p.a->reading);
	CHECK_INT(hark_read(p.a, buf, sizeof buf), -EBUSY);
	CHECK_INT(hark_readn(p.a, buf, 1), -EBUSY);
	CHECK_INT(hark_readline(p.a, buf, sizeof buf), -EBUSY);
	CHECK_INT(hark_peek(p.a, buf, 1), -EBUSY);
	CHECK_INT(hark_idle(p.a), -EBUSY);
	CHECK_INT(hark_pass(p.a, p.b), -EBUSY);
	CHECK_INT(hark_copy(p.a, p.b, NULL), -EBUSY);
	CHECK_INT(hark_handover(p.a), -EBUSY);
	CHECK_INT(hark_close(p.a), -EBUSY);
	CHECK_INT(hark_write(p.b, "hello", 5), 5); /* and the reader is not disturbed */
	CHECK_INT(hark_flush(p.b), 0);
	beside_end(&b);
	CHECK_INT(u.got, 5);
	pair_drop(&p);
}

static void second_writer_body(void)
{
	int fds[2];
	struct beside b;
	raw_tcp_sized(fds, 65536);
	struct pair p = pair_of(fds);
	struct user u = {.c = p.a};
	int file = scratch_file();
	beside_start(&b, writes, &u);
	await_role(&p.a->writing);
	CHECK_INT(hark_write(p.a, "x", 1), -EBUSY);
	CHECK_INT(hark_write(p.a, "", 0), -EBUSY);
	CHECK_INT(hark_printf(p.a, "x"), -EBUSY);
	CHECK_INT(hark_flush(p.a), -EBUSY);
	CHECK_INT(hark_sendfile(p.a, file, 0, 0), -EBUSY);
	CHECK_INT(hark_shutdown(p.a, HARK_OUT), -EBUSY);
	CHECK_INT(hark_shutdown(p.a, HARK_IN | HARK_OUT), -EBUSY);
	CHECK_INT(hark_handover(p.a), -EBUSY);
	CHECK_INT(hark_close(p.a), -EBUSY);
	hark_abort(p.a); /* ends the other's call, and leaves it to be closed */
	beside_end(&b);
	CHECK(u.got == -ECONNRESET || u.got == -EPIPE);
	CHECK(hark_close(p.a) < 0);
	hark_abort(p.b);
	(void)close(file);
}

static void a_second_writer_is_refused_and_an_abort_beside_one_ends_it(void **state)
{
	(void)state;
#ifndef UNDER_TSAN /* which takes connect(2) for the making of the descriptor */
	on_plain_thread(second_writer_body);
#endif
	on_engines(second_writer_body);
}

static void the_end_of_reading_wakes_its_reader(void)
{
	char buf[8];
	struct beside b;
	struct pair p = tcp_pair();
	struct user u = {.c = p.a, .got = 1};
	beside_start(&b, reads, &u);
	await_role(&p.a->waiting_in);
	CHECK_INT(hark_shutdown(p.a, HARK_IN), 0);
	beside_end(&b);
	CHECK_INT(u.got, 0);
	CHECK_INT(hark_read(p.a, buf, 1), 0);
	CHECK_INT(hark_write(p.a, "still", 5), 5); /* the other direction goes on */
	CHECK_INT(hark_flush(p.a), 0);
	CHECK_INT(hark_readn(p.b, buf, 5), 5);
	pair_drop(&p);
}

/* ---- writing nothing, and much ----------------------------------------------------------------- */

static void reads_all(void *arg)
{
	struct user *u = arg;
	static char buf[65536];
	ssize_t n;
	while ((n = hark_read(u->c, buf, sizeof buf)) > 0)
		u->got += n;
}

static void any_number_of_pieces_is_written_whole(void)
{
	static char bytes[100];
	static struct iovec v[3 * IOV_MAX];
	struct beside b;
	struct pair p = tcp_pair();
	struct user u = {.c = p.b};
	size_t n = sizeof v / sizeof v[0];
	beside_start(&b, reads_all, &u);
	CHECK_INT(hark_writev(p.a, NULL, 0), 0);
	CHECK_INT(hark_write(p.a, NULL, 0), 0);
	CHECK_INT(hark_printf(p.a, "%s", ""), 0);
	CHECK_INT(hark_writev(p.a, v, -1), -EINVAL);
	CHECK_INT(hark_writev(p.a, v, (int)n), 0); /* all empty */
	for (size_t i = 0; i < n; i++)
		v[i] = (struct iovec){.iov_base = bytes, .iov_len = i % 2};
	CHECK_INT(hark_writev(p.a, v, (int)n), n / 2); /* they fit the buffer */
	for (size_t i = 0; i < n; i++)
		v[i] = (struct iovec){.iov_base = bytes, .iov_len = sizeof bytes};
	CHECK_INT(hark_writev(p.a, v, (int)n), n * sizeof bytes); /* they do not */
	v[0].iov_len = v[1].iov_len = SSIZE_MAX;
	CHECK_INT(hark_writev(p.a, v, 2), -EINVAL);
	v[2].iov_len = v[3].iov_len = SSIZE_MAX; /* their sum wraps around */
	CHECK_INT(hark_writev(p.a, v, 4), -EINVAL);
	CHECK_INT(hark_printf(p.a, "%*d", (int)MB, 1), MB);
	CHECK_INT(hark_shutdown(p.a, HARK_OUT), 0);
	beside_end(&b);
	CHECK_INT(u.got, n / 2 + n * sizeof bytes + MB);
	pair_drop(&p);
}

static void any_number_of_pieces_is_one_datagram(void)
{
	static char bytes[4 * IOV_MAX], got[sizeof bytes];
	static struct iovec v[2 * IOV_MAX];
	int fds[2];
	CHECK_INT(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, fds), 0);
	struct pair p = pair_of(fds);
	size_t n = sizeof v / sizeof v[0];
	pattern_fill(bytes, 0, sizeof bytes);
	for (size_t i = 0; i < n; i++)
		v[i] = (struct iovec){.iov_base = bytes + 2 * i, .iov_len = 2};
	CHECK_INT(hark_writev(p.a, v, (int)n), sizeof bytes);
	CHECK_INT(hark_read(p.b, got, sizeof got), sizeof bytes);
	CHECK(pattern_is(got, 0, sizeof bytes));
	CHECK_INT(hark_writev(p.a, NULL, 0), 0); /* an empty one */
	CHECK_INT(hark_read(p.b, got, sizeof got), 0);
	pair_drop(&p);
}

/* ---- what a service needs ---------------------------------------------------------------------- */

static void echo(void *arg)
{
	struct hark_conn *c = arg;
	char line[64];
	ssize_t n;
	while (hark_idle(c) > 0 && (n = hark_readline(c, line, sizeof line)) > 0)
		CHECK_INT(hark_write(c, line, (size_t)n), n);
	CHECK_INT(hark_close(c), 0);
}

static void a_pair_serves_to_try_a_box_and_tells_who_made_it(void)
{
	char line[64];
	struct beside b;
	struct hark_conn *c[2];
	struct hark_credentials who = {0};
	CHECK_INT(hark_pair(c), 0);
	beside_start(&b, echo, c[1]);
	for (int i = 0; i < 3; i++) {
		CHECK_INT(hark_printf(c[0], "line %d\n", i), 7);
		CHECK_INT(hark_readline(c[0], line, sizeof line), 7);
	}
	CHECK_INT(hark_peer_credentials(c[0], &who), 0);
	CHECK_INT(who.pid, getpid());
	CHECK_INT(who.uid, getuid());
	CHECK_INT(who.gid, getgid());
	CHECK_INT(hark_shutdown(c[0], HARK_OUT), 0);
	CHECK_INT(hark_read(c[0], line, sizeof line), 0);
	beside_end(&b);
	CHECK_INT(hark_close(c[0]), 0);
}

static void pair_fails_body(void)
{
	struct hark_conn *c[2] = {NULL, NULL};
	struct rlimit old, none;
	CHECK_INT(getrlimit(RLIMIT_NOFILE, &old), 0);
	none = old;
	none.rlim_cur = 0;
	CHECK_INT(setrlimit(RLIMIT_NOFILE, &none), 0);
	CHECK_INT(hark_pair(c), -EMFILE);
	CHECK(c[0] == NULL && c[1] == NULL);
	CHECK_INT(setrlimit(RLIMIT_NOFILE, &old), 0);
}

static void a_pair_that_cannot_be_made_leaves_nothing(void **state)
{
	(void)state;
	on_plain_thread(pair_fails_body);
}

static void a_connection_keeps_its_users_data_and_tells_no_credentials_it_has_not(void)
{
	struct hark_credentials who = {.pid = 4711};
	struct pair p = tcp_pair();
	int word;
	CHECK_INT(hark_peer_credentials(p.a, &who), -EOPNOTSUPP);
	CHECK_INT(who.pid, 4711);
	CHECK(hark_data(p.a) == NULL);
	hark_set_data(p.a, &word);
	CHECK(hark_data(p.a) == &word);
	CHECK(hark_data(p.b) == NULL);
	pair_drop(&p);
	struct hark_conn *file = conn_of(scratch_file());
	CHECK_INT(hark_peer_credentials(file, &who), -ENOTSOCK);
	hark_set_data(file, &word);
	CHECK(hark_data(file) == &word);
	CHECK_INT(hark_close(file), 0);
	CHECK_INT(strcmp(hark_version(), HARK_VERSION), 0);
	CHECK_INT(sizeof errors / sizeof errors[0], 3);
}

static void a_connection_with_extra_state_keeps_its_users_data(void)
{
	struct pair p = tcp_pair();
	struct hark__extra *x, *again;
	int word, other;
	CHECK(hark__conn_extra(p.a) == NULL);
	hark_set_data(p.a, &word);
	CHECK_INT(hark__extra_make(p.a, &x), 0);
	CHECK(hark_data(p.a) == &word);
	hark_set_data(p.a, &other);
	CHECK(hark_data(p.a) == &other);
	CHECK_INT(hark__extra_make(p.a, &again), 0);
	CHECK(again == x && hark__conn_extra(p.a) == x);
	pair_drop(&p);
}

/* A datagram being answered, and the flow that it becomes, keep theirs. */
static void a_datagram_keeps_its_users_data(void)
{
	struct hark_listener *l;
	struct hark_conn *c, *to;
	struct hark__extra *x;
	char at[HARK_ADDRESS_MAX];
	int word;
	CHECK_INT(hark_listen("udp://127.0.0.1:0", NULL, &l), 0);
	CHECK(hark_listener_address(l, at, sizeof at) > 0);
	CHECK_INT(hark_dial(at, NULL, &to), 0);
	CHECK_INT(hark_write(to, "x", 1), 1);
	CHECK_INT(hark_accept(l, hark_after(5 * HARK_S), &c), 0);
	CHECK(hark_data(c) == NULL);
	hark_set_data(c, &word);
	CHECK(hark_data(c) == &word);
	CHECK_INT(hark__extra_make(c, &x), -EOPNOTSUPP);
	CHECK_INT(hark_udp_connect(c), 0);
	CHECK(hark_data(c) == &word);
	CHECK_INT(hark_shutdown(c, HARK_OUT), 0);
	CHECK_INT(hark_write(c, "x", 1), -EPIPE);
	CHECK_INT(hark_close(c), 0);
	CHECK_INT(hark_write(to, "x", 1), 1);
	CHECK_INT(hark_accept(l, hark_after(5 * HARK_S), &c), 0);
	CHECK_INT(hark_handover(c), -EOPNOTSUPP);
	CHECK_INT(hark_shutdown(c, HARK_OUT), 0);
	CHECK_INT(hark_write(c, "x", 1), -EPIPE);
	CHECK_INT(hark_close(c), 0);
	CHECK_INT(hark_close(to), 0);
	hark_listener_close(l);
}

int main(int argc, char *argv[])
{
	const struct CMUnitTest tests[] = {
		EVERYWHERE(every_call_past_its_deadline_times_out),
		EVERYWHERE(a_deadline_that_moves_on_loses_nothing),
		ON_ENGINES(every_call_of_a_cancelled_fiber_is_cancelled),
		EVERYWHERE(a_second_reader_is_refused_and_so_is_a_close_beside_one),
		cmocka_unit_test(a_second_writer_is_refused_and_an_abort_beside_one_ends_it),
		EVERYWHERE(the_end_of_reading_wakes_its_reader),
		EVERYWHERE(any_number_of_pieces_is_written_whole),
		EVERYWHERE(any_number_of_pieces_is_one_datagram),
		EVERYWHERE(a_pair_serves_to_try_a_box_and_tells_who_made_it),
		cmocka_unit_test(a_pair_that_cannot_be_made_leaves_nothing),
		EVERYWHERE(a_connection_keeps_its_users_data_and_tells_no_credentials_it_has_not),
		EVERYWHERE(a_connection_with_extra_state_keeps_its_users_data),
		EVERYWHERE(a_datagram_keeps_its_users_data),
	};
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
