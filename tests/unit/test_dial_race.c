/* test_dial_race.c — the race for a connection (RFC 8305): its times, who wins, and that it stalls nobody. */
#include "dial_support.h"

#include "on_loop.h"

/* ---- support ---- */

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

#define TOLD_MAX 8

struct told {
	struct hark_attempt attempts[TOLD_MAX];
	int n;
};

static void note_attempt(const struct hark_attempt *a, void *arg)
{
	struct told *t = arg;
	if (t->n < TOLD_MAX)
		t->attempts[t->n++] = *a;
}

static void attempts_are_told_as_they_begin_and_end(void **state)
{
	(void)state;
	struct hark_endpoint to[2] = {nobody()};
	struct dialed d;
	struct told t = {.n = 0};
	int live = plain_listener("127.0.0.1", 4, &to[1]);
	assert_true(live >= 0);
	assert_int_equal(race(to, 2, &(struct hark_dial_opts){.attempt = note_attempt, .attempt_arg = &t},
	                      hark_after(10 * HARK_S), &d),
	                 0);
	hang_up(&d);
	(void)close(live);
	static const int errors[] = {EINPROGRESS, ECONNREFUSED, EINPROGRESS, 0};
	assert_int_equal(t.n, 4);
	for (int i = 0; i < 4; i++) {
		assert_int_equal(t.attempts[i].error, errors[i]);
		assert_memory_equal(&t.attempts[i].to, &to[i / 2], sizeof to[0]);
		assert_int_equal(t.attempts[i].end_ns != 0, i % 2 == 1);
	}
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

struct queued {
	struct hark_endpoint to;
	struct told told;
	int rc;
};

static void dial_a_full_one(void *arg)
{
	struct queued *q = arg;
	struct dialed d;
	q->rc = race(&q->to, 1, &(struct hark_dial_opts){.attempt = note_attempt, .attempt_arg = &q->told},
	             HARK_FOREVER, &d);
}

static void cancel_while_a_backlog_is_full(void)
{
	struct hark_scope s;
	struct queued q = {.rc = 1, .to = {.type = SOCK_STREAM, .addr.ss_family = AF_UNIX}};
	q.to.len = sizeof q.to.addr.ss_family; /* bind(2) chooses an abstract name, unix(7) */
	int live = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0),
	    first = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(live, (struct sockaddr *)&q.to.addr, q.to.len), 0);
	assert_int_equal(listen(live, 0), 0);
	q.to.len = sizeof q.to.addr;
	assert_int_equal(getsockname(live, (struct sockaddr *)&q.to.addr, &q.to.len), 0);
	assert_int_equal(connect(first, (struct sockaddr *)&q.to.addr, q.to.len), 0);
	hark_scope_open(&s);
	assert_int_equal(hark_go(&s, "dialer", dial_a_full_one, &q), 0);
	assert_int_equal(hark_sleep(20 * HARK_MS), 0);
	assert_int_equal(q.rc, 1); /* still at it */
	assert_int_equal(q.told.n, 1);
	hark_scope_close(&s);
	assert_int_equal(q.rc, -ECANCELED);
	assert_int_equal(q.told.n, 2);
	assert_int_equal(q.told.attempts[1].error, ECANCELED);
	(void)close(first);
	(void)close(live);
}

static void a_cancelled_attempt_is_told_where_a_backlog_is_full(void **state)
{
	(void)state;
	assert_true(on_each_engine(cancel_while_a_backlog_is_full) > 0);
}

static void a_cancelled_dial_leaves_nothing(void **state)
{
	(void)state;
	assert_true(on_each_engine(cancel_a_dial) > 0);
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
		cmocka_unit_test(attempts_are_told_as_they_begin_and_end),
		cmocka_unit_test(the_most_telling_error_is_returned),
		cmocka_unit_test(a_deadline_holds_for_all_attempts_together),
		cmocka_unit_test(attempts_are_bounded),
		cmocka_unit_test(a_race_does_not_stall_the_loop),
		cmocka_unit_test(a_dial_has_room_on_the_smallest_stack),
		cmocka_unit_test(a_cancelled_attempt_is_told_where_a_backlog_is_full),
		cmocka_unit_test(a_cancelled_dial_leaves_nothing),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
