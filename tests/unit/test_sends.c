/* test_sends.c — what was written reaches a peer that reads late, whichever way it went to the kernel: the io_uring
 * engine takes short answers along in a system call of its own, and must not lose, double or overtake a byte. */
#include "sends_support.h"

/* ---- order ----------------------------------------------------------------------------------- */

#define FILE_BYTES ((size_t)4 << 20)

struct mixer {
	struct box box;
	struct pair through; /* what is passed on comes this way */
	int file;
	atomic_int done;
};

static void mixed_answer(struct mixer *m, char what)
{
	struct box *b = &m->box;
	char bytes[3000];
	size_t n = b->at % 2900 + 1;
	switch (what) {
	case 'l': CHECK_INT(put(b, 16384 + n), 16384 + n); break;
	case 'f':
		CHECK_INT(put(b, n), n);
		CHECK_INT(hark_flush(b->c), 0);
		break;
	case 's':
		CHECK(b->at + n <= FILE_BYTES);
		CHECK_INT(hark_sendfile(b->c, m->file, (off_t)b->at, n), n);
		b->at += n;
		break;
	case 'p':
		pattern_fill(bytes, b->at, n);
		CHECK_INT(write(hark_fd(m->through.a), bytes, n), n);
		for (size_t end = b->at + n; b->at < end;) {
			ssize_t r = hark_pass(m->through.b, b->c);
			CHECK(r > 0);
			b->at += (size_t)r;
		}
		break;
	default: n = n % 1900 + 1; CHECK_INT(put(b, n), n);
	}
}

static void mix(void *arg)
{
	struct mixer *m = arg;
	char what;
	while (hark_read(m->box.c, &what, 1) > 0) {
		mixed_answer(m, what);
		atomic_fetch_add(&m->done, 1);
	}
	CHECK_INT(hark_shutdown(m->box.c, HARK_OUT), 0);
}

static int pattern_file(void)
{
	char name[] = "/tmp/hark-sends-XXXXXX";
	char *all = malloc(FILE_BYTES);
	int fd = mkostemp(name, O_CLOEXEC);
	CHECK(fd >= 0 && all != NULL);
	(void)unlink(name);
	pattern_fill(all, 0, FILE_BYTES);
	CHECK_INT(write(fd, all, FILE_BYTES), FILE_BYTES);
	free(all);
	return fd;
}

static void order_with(unsigned seed)
{
	static const char kinds[] = "wwwwwwwwwwwwwwwwlfsp";
	struct mixer m = {.box = box_new(TINY), .through = unix_pair(), .file = pattern_file()};
	struct beside beside;
	beside_start(&beside, mix, &m);
	for (int i = 0; i < 150;) {
		int dice = rand_r(&seed) % 8;
		if (dice < 5) { /* asks, and mostly lets it answer: each in a turn of its own */
			CHECK_INT(send(m.box.peer, &kinds[(size_t)rand_r(&seed) % (sizeof kinds - 1)], 1, 0), 1);
			i++;
		}
		if (dice < 4)
			for (int k = 0; k < 8 && atomic_load(&m.done) < i; k++)
				CHECK_INT(hark_sleep(HARK_MS / 4), 0);
		if (dice == 7)
			for (int k = rand_r(&seed) % 12; k > 0; k--)
				CHECK(take_some(&m.box, 700) >= 0);
	}
	CHECK_INT(shutdown(m.box.peer, SHUT_WR), 0);
	ssize_t r;
	while ((r = take_some(&m.box, 4096)) >= 0)
		if (r == 0)
			CHECK(hark_wait_fd(m.box.peer, HARK_IN, hark_after(SOON)) > 0);
	CHECK_INT(r, -1);
	beside_end(&beside);
	CHECK_INT(m.box.taken, m.box.at);
	struct hark_conn_stats stats;
	hark_conn_stats(m.box.c, &stats);
	CHECK_INT(stats.bytes_out, m.box.at);
	pair_drop(&m.through);
	(void)close(m.file);
	box_drop(&m.box);
}

static void every_way_of_writing_keeps_its_place_behind_a_blocked_answer(void)
{
	for (unsigned seed = 1; seed <= 6; seed++)
		order_with(seed);
}

/* A writer comes in the very turn in which the reader has handed over an answer and begun to wait: the engine was not
 * asked since. */
struct two {
	struct box box;
	size_t len; /* of what the writer writes behind the answer */
	bool answered, done;
};

static void answer_first(void *arg)
{
	struct two *t = arg;
	char byte;
	while (hark_read(t->box.c, &byte, 1) > 0) {
		CHECK_INT(put(&t->box, SHORT), SHORT);
		t->answered = true;
	}
}

static void write_behind(void *arg)
{
	struct two *t = arg;
	while (!t->answered)
		CHECK_INT(hark_yield(), 0);
	CHECK_INT(put(&t->box, t->len), t->len);
	t->done = true;
}

static void a_writer_beside_does_not_overtake_what_the_reader_handed_over(void)
{
	static const size_t lens[] = {20000, 15000, 16384};
	struct two t = {.box = box_new(TINY)};
	struct hark_scope scope;
	hark_scope_open(&scope);
	CHECK_INT(hark_go(&scope, "reader", answer_first, &t), 0);
	for (int i = 0; i < 130; i++) {
		struct beside beside;
		t.answered = t.done = false;
		/* Which of them finds no room varies. */
		t.len = i % 13 == 12 ? lens[i % 3] : (size_t)(i * 397) % 700 + 1;
		CHECK_INT(hark_sleep(HARK_MS), 0); /* the reader waits */
		CHECK_INT(send(t.box.peer, "x", 1, 0), 1);
		beside_start(&beside, write_behind, &t);
		for (int k = 0; k < 2 && !t.done;
		     k++) /* nobody reads at first: they fill the buffers, one or the other */
			CHECK_INT(hark_sleep(HARK_MS), 0);
		while (!t.done)
			if (take_some(&t.box, 1 + t.box.taken % 4000) == 0)
				CHECK_INT(hark_sleep(HARK_MS / 4), 0);
		beside_end(&beside);
		if (i % 5 == 4)
			take(&t.box, t.box.at); /* the next answer finds room */
	}
	CHECK_INT(shutdown(t.box.peer, SHUT_WR), 0);
	CHECK_INT(hark_join(&scope, hark_after(SOON)), 0);
	hark_scope_close(&scope);
	take(&t.box, t.box.at);
	CHECK_INT(counted(&t.box), t.box.at);
	box_drop(&t.box);
}

static void a_peer_that_does_not_read_costs_no_time(void)
{
	struct beside beside;
	struct box b = box_new(TINY);
	b.len = 300; /* what is left is short enough to be handed over again, in vain */
	beside_start(&beside, serve, &b);
	while (!is_left(&b))
		ask(&b);
	int64_t before = cpu_ns();
	CHECK_INT(hark_sleep(200 * HARK_MS), 0);
	CHECK(cpu_ns() - before < 50 * HARK_MS);
	CHECK_INT(shutdown(b.peer, SHUT_WR), 0);
	beside_end(&beside);
	box_drop(&b);
}

/* ---- more of them than the engine has room for ------------------------------------------------ */

#define CROWD  300
#define ROUNDS 10

static struct box boxes[CROWD];

static void have_descriptors(void)
{
	struct rlimit limit;
	CHECK_INT(getrlimit(RLIMIT_NOFILE, &limit), 0);
	limit.rlim_cur = limit.rlim_max;
	CHECK_INT(setrlimit(RLIMIT_NOFILE, &limit), 0);
}

static void more_blocked_peers_than_slots_hinder_nobody(void)
{
	struct hark_scope scope;
	have_descriptors();
	hark_scope_open(&scope);
	for (int i = 0; i < CROWD; i++) {
		boxes[i] = box_new(TINY);
		CHECK_INT(hark_go(&scope, "box", serve, &boxes[i]), 0);
	}
	for (int round = 0; round < ROUNDS; round++) {
		for (int i = 0; i < CROWD; i++)
			CHECK_INT(send(boxes[i].peer, "x", 1, 0), 1);
		for (int i = 0; i < CROWD; i++)
			UNTIL(boxes[i].answered == round + 1);
	}
	CHECK_INT(hark_sleep(CALM), 0);
	int left = 0;
	for (int i = 0; i < CROWD; i++)
		left += is_left(&boxes[i]);
	CHECK(left > SLOTS);
	struct box other = box_new(0);
	CHECK_INT(hark_go(&scope, "other", serve, &other), 0);
	for (size_t i = 1; i <= 5; i++) {
		CHECK_INT(send(other.peer, "x", 1, 0), 1);
		take(&other, i * SHORT);
	}
	for (int i = 0; i < CROWD; i++)
		take(&boxes[i], (size_t)ROUNDS * SHORT);
	for (int i = 0; i < CROWD; i++)
		CHECK(!is_left(&boxes[i]) && boxes[i].at == boxes[i].taken);
	hark_scope_close(&scope);
	for (int i = 0; i < CROWD; i++)
		box_drop(&boxes[i]);
	box_drop(&other);
}

static int64_t moment;
static int most; /* that were being sent at once */

static void answer_at_that_moment(void *arg)
{
	struct box *b = arg;
	char byte;
	CHECK_INT(hark_read(b->c, &byte, 1), 1);
	b->answered++;
	CHECK_INT(hark__park(moment, "moment"), -ETIMEDOUT);
	int sending = 0;
	for (int i = 0; i < CROWD; i++)
		sending += boxes[i].c->src.sending;
	most = sending > most ? sending : most;
	CHECK_INT(put(b, SHORT), SHORT);
	CHECK_INT(hark_read(b->c, &byte, 1), 0);
}

static void more_answers_in_one_turn_than_slots_all_leave(void)
{
	struct hark_scope scope;
	have_descriptors();
	most = 0;
	for (int i = 0; i < CROWD; i++)
		boxes[i] = box_new(0);
	hark_scope_open(&scope);
	for (int i = 0; i < CROWD; i++)
		CHECK_INT(hark_go(&scope, "box", answer_at_that_moment, &boxes[i]), 0);
	CHECK_INT(hark_sleep(HARK_MS), 0); /* all wait to read: the engine knows them */
	moment = hark_after(200 * HARK_MS * SLOWER);
	for (int i = 0; i < CROWD; i++)
		CHECK_INT(send(boxes[i].peer, "x", 1, 0), 1);
	for (int i = 0; i < CROWD; i++)
		UNTIL(boxes[i].answered == 1);
	bool together = hark_now() < moment; /* else some were late: a busy machine */
	for (int i = 0; i < CROWD; i++) {
		take(&boxes[i], SHORT);
		CHECK_INT(shutdown(boxes[i].peer, SHUT_WR), 0);
	}
	CHECK_INT(hark_join(&scope, hark_after(SOON)), 0);
	hark_scope_close(&scope);
	if (together)
		CHECK_INT(most, strcmp(mode_engine, "uring") == 0 ? SLOTS : 0);
	for (int i = 0; i < CROWD; i++)
		box_drop(&boxes[i]);
}

/* Enough come and go that the ring's entries were all used; then more speak at once than a look at the ring takes. */
#define PASSERS  3500
#define SPEAKERS 90

/* The look at what completes next went past the last completion, to operations that were freed long ago. */
static void many_that_speak_at_once_touch_nothing_of_those_that_have_gone(void)
{
	struct hark_scope scope;
	for (int i = 0; i < PASSERS; i++) {
		struct beside beside;
		struct box b = box_new(0);
		beside_start(&beside, serve, &b);
		CHECK_INT(send(b.peer, "x", 1, 0), 1);
		take(&b, SHORT);
		CHECK_INT(shutdown(b.peer, SHUT_WR), 0);
		beside_end(&beside);
		CHECK_INT(b.end, 0);
		box_drop(&b);
	}
	hark_scope_open(&scope);
	for (int i = 0; i < SPEAKERS; i++) {
		boxes[i] = box_new(0);
		CHECK_INT(hark_go(&scope, "box", serve, &boxes[i]), 0);
	}
	for (size_t round = 1; round <= 20; round++) {
		CHECK_INT(hark_sleep(HARK_MS), 0);
		for (size_t i = 0; i < SPEAKERS - round; i++)
			CHECK_INT(send(boxes[i].peer, "x", 1, 0), 1);
		for (size_t i = 0; i < SPEAKERS - round; i++)
			take(&boxes[i], round * SHORT);
	}
	hark_scope_close(&scope);
	for (int i = 0; i < SPEAKERS; i++)
		box_drop(&boxes[i]);
}

/* ---- a description that others make non-blocking ---------------------------------------------- */

static void a_socket_made_non_blocking_by_others_loses_nothing(void)
{
	struct hark_scope scope;
	struct box b = box_new(TINY);
	hark_scope_open(&scope);
	CHECK_INT(hark_go(&scope, "box", serve, &b), 0);
	ask(&b);
	int flags = fcntl(hark_fd(b.c), F_GETFL);
	CHECK_INT(fcntl(hark_fd(b.c), F_SETFL, flags | O_NONBLOCK), 0); /* as a program may that shares it */
	while (!is_left(&b) && b.at < 100000)
		ask(&b);
	CHECK_INT(hark_sleep(CALM), 0);
	take(&b, b.at); /* the waiting reader sees to it */
	ask(&b);
	take(&b, b.at);
	CHECK_INT(hark_flush(b.c), 0);
	CHECK_INT(counted(&b), b.at);
	hark_scope_close(&scope);
	box_drop(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		EVERYWHERE(every_way_of_writing_keeps_its_place_behind_a_blocked_answer),
		ON_ENGINES(a_writer_beside_does_not_overtake_what_the_reader_handed_over),
		ON_ENGINES(a_peer_that_does_not_read_costs_no_time),
		ON_ENGINES(more_blocked_peers_than_slots_hinder_nobody),
		ON_ENGINES(more_answers_in_one_turn_than_slots_all_leave),
		ON_ENGINES(many_that_speak_at_once_touch_nothing_of_those_that_have_gone),
		ON_ENGINES(a_socket_made_non_blocking_by_others_loses_nothing),
	};
	mode_ring_alone = true;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
