/* test_serve_beside.c — a server in a fiber, beside others. */
#include "serve_support.h"

struct besides {
	struct hark_listener *l;
	char address[HARK_ADDRESS_MAX];
	struct hark_scope scope;
	int ticks, rc;
};

static void serves(void *arg)
{
	struct besides *b = arg;
	b->rc = hark_serve(&b->l, 1, greets, NULL, &(struct hark_serve_opts){.model = HARK_MODEL_FIBER});
}

static void ticks(void *arg)
{
	struct besides *b = arg;
	while (hark_sleep(5 * HARK_MS) == 0)
		b->ticks++;
}

static void a_server_is_a_fiber_beside_others(void)
{
	struct besides b = {.rc = 1};
	mode_kept = 2; /* a drain's own, and for retiring */
	struct hark_scope serving;
	for (int round = 0; round < 2; round++) { /* a drain that is over does not end the next one */
		CHECK_INT(hark_listen("tcp://127.0.0.1:0", NULL, &b.l), 0);
		CHECK(hark_listener_address(b.l, b.address, sizeof b.address) > 0);
		hark_scope_open(&b.scope);
		hark_scope_open(&serving);
		CHECK_INT(hark_go(&b.scope, "ticks", ticks, &b), 0);
		CHECK_INT(hark_go(&serving, "serves", serves, &b), 0);
		for (int i = 0; i < 10; i++) {
			struct hark_conn *c;
			char buf[8];
			CHECK_INT(hark_dial(b.address, NULL, &c), 0);
			CHECK_INT(hark_readn(c, buf, 3), 3);
			CHECK_INT(hark_write(c, "x\n", 2), 2);
			CHECK_INT(hark_readn(c, buf, 2), 2);
			CHECK_INT(hark_sleep(5 * HARK_MS), 0);
			CHECK_INT(hark_close(c), 0);
		}
		hark_drain(HARK_S);
		CHECK_INT(hark_join(&serving, hark_after(5 * HARK_S)), 0);
		CHECK_INT(b.rc, 0);
		hark_scope_close(&serving);
		hark_scope_close(&b.scope);
		CHECK(b.ticks > 0);
		hark_listener_close(b.l);
	}
}

static void a_cancelled_server_cuts_its_connections(void)
{
	struct besides b = {.rc = 1};
	mode_kept = 2; /* a drain's own, and for retiring */
	struct hark_conn *c;
	char buf[8];
	CHECK_INT(hark_listen("tcp://127.0.0.1:0", NULL, &b.l), 0);
	CHECK(hark_listener_address(b.l, b.address, sizeof b.address) > 0);
	hark_scope_open(&b.scope);
	CHECK_INT(hark_go(&b.scope, "serves", serves, &b), 0);
	CHECK_INT(hark_dial(b.address, NULL, &c), 0);
	CHECK_INT(hark_readn(c, buf, 3), 3);
	hark_scope_close(&b.scope); /* cancels it, and with it its connections */
	CHECK_INT(b.rc, -ETIMEDOUT);
	hark_abort(c);
	hark_listener_close(b.l);
}

static void dawdles(struct hark_conn *c, void *arg)
{
	(void)arg;
	(void)hark_printf(c, "hi\n");
	(void)hark_flush(c);
	(void)poll(NULL, 0, 700); /* hears of nothing meanwhile */
}

static void supervises(void *arg)
{
	struct besides *b = arg;
	b->rc = hark_serve(&b->l, 1, dawdles, NULL, &(struct hark_serve_opts){.workers = 2});
}

static void a_cancelled_supervisor_waits_for_its_workers_and_does_not_spin(void)
{
	struct besides b = {.rc = 1};
	mode_kept = 2; /* a drain's and a retirement's own */
	struct hark_conn *c;
	struct hark_scope ticking;
	char buf[8];
	CHECK_INT(hark_listen("tcp://127.0.0.1:0", NULL, &b.l), 0);
	CHECK(hark_listener_address(b.l, b.address, sizeof b.address) > 0);
	hark_scope_open(&ticking);
	hark_scope_open(&b.scope);
	CHECK_INT(hark_go(&ticking, "ticks", ticks, &b), 0);
	CHECK_INT(hark_go(&b.scope, "serves", supervises, &b), 0);
	CHECK_INT(hark_dial(b.address, NULL, &c), 0);
	CHECK_INT(hark_readn(c, buf, 3), 3);
	int64_t began = hark_now(), cpu = cpu_ns();
	b.ticks = 0;
	hark_scope_close(&b.scope);
	CHECK(hark_now() - began > 300 * HARK_MS);
	CHECK(cpu_ns() - cpu < 150 * HARK_MS * SLOWER);
	CHECK(b.ticks > 5); /* and others run meanwhile */
	hark_scope_close(&ticking);
	CHECK(b.rc == 0 || b.rc == -ETIMEDOUT);
	hark_abort(c);
	hark_listener_close(b.l);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		ON_ENGINES(a_server_is_a_fiber_beside_others),
		ON_ENGINES(a_cancelled_server_cuts_its_connections),
		ON_ENGINES(a_cancelled_supervisor_waits_for_its_workers_and_does_not_spin),
	};
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
