/* test_serve_shared.c — several hark_serve() in one process, of one listener too, and what outlives one. */
#include "serve_support.h"

#include <stdatomic.h>

/* ---- several on one loop --------------------------------------------------------------------- */

struct one {
	struct hark_listener *l;
	struct hark_serve_opts opts;
	hark_box *box;
	struct hark_scope scope;
	int served, ready, rc;
};

static void count_event(const struct hark_event *e, void *arg)
{
	struct one *o = arg;
	o->served += e->kind == HARK_EVENT_OPEN;
	o->ready += e->kind == HARK_EVENT_READY;
}

static void serve_one(void *arg)
{
	struct one *o = arg;
	o->opts.event = count_event;
	o->opts.event_arg = o;
	o->rc = hark_serve(&o->l, 1, o->box, NULL, &o->opts);
}

static void one_start(struct one *o, struct hark_listener *l, hark_box *box)
{
	*o = (struct one){.l = l, .box = box, .rc = 1};
	hark_scope_open(&o->scope);
	CHECK_INT(hark_go(&o->scope, "serves", serve_one, o), 0);
}

/* One round trip with greets(). */
static void greeted(const char *address)
{
	struct hark_conn *c;
	char buf[8];
	struct hark_dial_opts o = {.deadline = hark_after(10 * HARK_S * SLOWER)};
	CHECK_INT(hark_dial(address, &o, &c), 0);
	hark_deadline(c, hark_after(10 * HARK_S * SLOWER));
	CHECK_INT(hark_readn(c, buf, 3), 3);
	CHECK_INT(hark_write(c, "x\n", 2), 2);
	CHECK_INT(hark_readn(c, buf, 2), 2);
	hark_abort(c);
}

static void settle(struct one *const ones[], int n)
{
	for (int i = 0; i < n; i++) {
		CHECK_INT(hark_join(&ones[i]->scope, hark_after(10 * HARK_S * SLOWER)), 0);
		hark_scope_close(&ones[i]->scope);
	}
}

static void listen_at(struct hark_listener **l, char *address)
{
	CHECK_INT(hark_listen("tcp://127.0.0.1:0", NULL, l), 0);
	CHECK(hark_listener_address(*l, address, HARK_ADDRESS_MAX) > 0);
}

/* One listener, two servers: both are ready, one or the other serves, and ending one leaves the other. */
static void two_servers_share_a_loop_and_a_listener(void)
{
	struct hark_listener *l;
	char address[HARK_ADDRESS_MAX];
	struct one a, b;
	mode_kept = 2; /* a drain's own, and for retiring */
	listen_at(&l, address);
	one_start(&a, l, greets);
	one_start(&b, l, greets);
	for (int i = 0; i < 20; i++)
		greeted(address);
	CHECK_INT(a.ready + b.ready, 2);
	hark_cancel(&a.scope);
	hark_scope_close(&a.scope);
	CHECK(a.rc == 0 || a.rc == -ETIMEDOUT);
	CHECK_INT(b.rc, 1); /* it goes on */
	for (int i = 0; i < 20; i++)
		greeted(address);
	CHECK_INT(a.served + b.served, 40);
	hark_drain(5 * HARK_S);
	settle((struct one *const[]){&b}, 1);
	CHECK_INT(b.rc, 0);
	hark_listener_close(l);
}

/* Each with its own: the connections of the one that is cancelled are cut, the other's are not. */
static void cancelling_a_server_ends_it_alone(void)
{
	struct hark_listener *la, *lb;
	char at_a[HARK_ADDRESS_MAX], at_b[HARK_ADDRESS_MAX], buf[8];
	struct one a, b;
	struct hark_conn *ca, *cb;
	mode_kept = 2;
	listen_at(&la, at_a);
	listen_at(&lb, at_b);
	one_start(&a, la, greets);
	one_start(&b, lb, greets);
	CHECK_INT(hark_dial(at_a, NULL, &ca), 0);
	CHECK_INT(hark_dial(at_b, NULL, &cb), 0);
	CHECK_INT(hark_readn(ca, buf, 3), 3);
	CHECK_INT(hark_readn(cb, buf, 3), 3);
	hark_cancel(&a.scope);
	CHECK(hark_read(ca, buf, 1) <= 0);
	hark_scope_close(&a.scope);
	CHECK_INT(a.rc, -ETIMEDOUT);
	CHECK_INT(hark_drain_deadline() == HARK_FOREVER, 1); /* of nobody else's */
	CHECK_INT(hark_write(cb, "x\n", 2), 2);
	CHECK_INT(hark_readn(cb, buf, 2), 2);
	greeted(at_b);
	CHECK(hark_listener_fd(la) >= 0); /* whoever takes over can */
	one_start(&a, la, greets);
	greeted(at_a);
	hark_drain(5 * HARK_S);
	settle((struct one *const[]){&a, &b}, 2);
	CHECK_INT(a.rc, 0);
	CHECK_INT(b.rc, 0);
	hark_abort(ca);
	hark_abort(cb);
	hark_listener_close(la);
	hark_listener_close(lb);
}

/* A drain of no grace that cuts nobody. */
static void a_server_that_is_cancelled_with_nobody_connected_returns_0(void)
{
	struct hark_listener *l;
	char at[HARK_ADDRESS_MAX];
	mode_kept = 2;
	listen_at(&l, at);
	for (int workers = 1; workers <= 2; workers++) {
		struct one a = {.l = l, .box = greets, .rc = 1, .opts = {.workers = workers}};
		hark_scope_open(&a.scope);
		CHECK_INT(hark_go(&a.scope, "serves", serve_one, &a), 0);
		CHECK_INT(hark_sleep(50 * HARK_MS), 0);
		hark_cancel(&a.scope);
		hark_scope_close(&a.scope);
		CHECK_INT(a.rc, 0);
		CHECK(hark_listener_fd(l) >= 0);
	}
	hark_listener_close(l);
}

static void cancelling_a_supervisor_ends_its_workers_alone(void)
{
	struct hark_listener *la, *lb;
	char at_a[HARK_ADDRESS_MAX], at_b[HARK_ADDRESS_MAX];
	struct one a, b;
	mode_kept = 2;
	listen_at(&la, at_a);
	listen_at(&lb, at_b);
	one_start(&b, lb, greets);
	a = (struct one){.l = la, .box = greets, .rc = 1, .opts = {.workers = 2}};
	hark_scope_open(&a.scope);
	CHECK_INT(hark_go(&a.scope, "supervises", serve_one, &a), 0);
	greeted(at_a);
	greeted(at_b);
	int64_t began = hark_now();
	hark_cancel(&a.scope);
	hark_scope_close(&a.scope);
	CHECK(hark_now() - began < 3 * HARK_S * SLOWER); /* not the ten of workers that are alone */
	CHECK(a.rc == 0 || a.rc == -ETIMEDOUT);
	CHECK(hark_listener_fd(la) >= 0);
	CHECK_INT(b.rc, 1);
	greeted(at_b);
	hark_drain(5 * HARK_S);
	settle((struct one *const[]){&b}, 1);
	CHECK_INT(b.rc, 0);
	hark_listener_close(la);
	hark_listener_close(lb);
}

/* ---- inside a box ----------------------------------------------------------------------------- */

static char inner_address[HARK_ADDRESS_MAX];
static struct hark_listener *inner;

/* Serves its own listener until the drain, and says where. */
static void serves_inside(struct hark_conn *c, void *arg)
{
	(void)arg;
	CHECK_INT(hark_printf(c, "%s\n", inner_address) > 0, 1);
	CHECK_INT(hark_flush(c), 0);
	CHECK_INT(hark_serve(&inner, 1, greets, NULL, NULL), 0);
	CHECK_INT(hark_printf(c, "over\n"), 5);
}

static void a_box_may_serve(void)
{
	struct hark_listener *l;
	char address[HARK_ADDRESS_MAX], line[HARK_ADDRESS_MAX];
	struct one a;
	struct hark_conn *c;
	mode_kept = 2;
	listen_at(&l, address);
	listen_at(&inner, inner_address);
	one_start(&a, l, serves_inside);
	CHECK_INT(hark_dial(address, NULL, &c), 0);
	CHECK(hark_readline(c, line, sizeof line) > 0);
	for (int i = 0; i < 5; i++)
		greeted(inner_address);
	hark_drain(5 * HARK_S);
	CHECK_INT(hark_readline(c, line, sizeof line), 5);
	settle((struct one *const[]){&a}, 1);
	CHECK_INT(a.rc, 0);
	hark_abort(c);
	hark_listener_close(l);
	hark_listener_close(inner);
}

/* ---- several threads -------------------------------------------------------------------------- */

static void *serve_in_thread(void *arg)
{
	struct one *o = arg;
	o->rc = hark_serve(&o->l, 1, o->box, NULL, &o->opts);
	return NULL;
}

static void in_threads(enum hark_model model, const char *engine)
{
	struct one ones[3];
	pthread_t threads[3];
	struct hark_listener *l;
	char address[HARK_ADDRESS_MAX];
	listen_at(&l, address);
	for (int i = 0; i < 3; i++) {
		ones[i] = (struct one){.l = l, .box = greets, .rc = 1, .opts = {.model = model, .engine = engine}};
		CHECK_INT(pthread_create(&threads[i], NULL, serve_in_thread, &ones[i]), 0);
	}
	for (int i = 0; i < 60; i++)
		greeted(address);
	hark_drain(5 * HARK_S);
	for (int i = 0; i < 3; i++) {
		CHECK_INT(pthread_join(threads[i], NULL), 0);
		if (ones[i].rc != -EBADF) /* it came after the drain */
			CHECK_INT(ones[i].rc, 0);
	}
	hark_listener_close(l);
}

static void threads_body(void)
{
	mode_kept = 2;
	for (int m = HARK_MODEL_INLINE; m <= HARK_MODEL_FIBER; m++)
		for (size_t e = 0; e < ENGINES_ALL; e++)
			if (m != HARK_MODEL_PROCESS) /* a fork among threads */
				in_threads((enum hark_model)m, engines_all[e]);
}

static void several_threads_serve_one_listener(void **state)
{
	(void)state;
	on_plain_thread(threads_body);
}

/* ---- what outlives it ------------------------------------------------------------------------- */

static atomic_bool outlived;

static void naps(void *arg)
{
	(void)arg;
	(void)poll(NULL, 0, 3500);
}

/* Does not notice that it is cut for longer than hark_serve() waits. */
static void outlives(struct hark_conn *c, void *arg)
{
	(void)arg;
	(void)hark_write(c, "hi\n", 3);
	(void)hark_flush(c);
	(void)hark_offload(naps, NULL);
	(void)hark_write(c, "late\n", 5);
	atomic_store(&outlived, true);
}

static void *drains_when_greeted(void *arg)
{
	const struct hark_endpoint *at = arg;
	char buf[8];
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	CHECK_INT(connect(fd, (const struct sockaddr *)&at->addr, at->len), 0);
	CHECK_INT(recv(fd, buf, 3, MSG_WAITALL), 3);
	hark_drain(0);
	while (recv(fd, buf, sizeof buf, 0) > 0)
		;
	(void)close(fd);
	return NULL;
}

static void outlive(enum hark_model model)
{
	struct hark_listener *l;
	struct hark_endpoint at;
	pthread_t t;
	socklen_t len = sizeof at.addr;
	atomic_store(&outlived, false);
	CHECK_INT(hark_listen("tcp://127.0.0.1:0", NULL, &l), 0);
	CHECK_INT(getsockname(hark_listener_fd(l), (struct sockaddr *)&at.addr, &len), 0);
	at.len = len;
	CHECK_INT(pthread_create(&t, NULL, drains_when_greeted, &at), 0);
	CHECK_INT(hark_serve(&l, 1, outlives, NULL, &(struct hark_serve_opts){.model = model}), -ETIMEDOUT);
	CHECK(!atomic_load(&outlived));
	hark_listener_close(l);
	for (int i = 0; i < 1000 && !atomic_load(&outlived); i++)
		CHECK_INT(hark_sleep(10 * HARK_MS), 0);
	CHECK(atomic_load(&outlived));
	CHECK_INT(hark_sleep(50 * HARK_MS), 0); /* what comes after the box */
	CHECK_INT(pthread_join(t, NULL), 0);
}

static void outlive_thread(void)
{
	outlive(HARK_MODEL_THREAD);
	_exit(0); /* what was left behind is left to the process's end */
}

static void outlive_fiber(void)
{
	outlive(HARK_MODEL_FIBER);
	_exit(0);
}

static void a_box_that_outlives_its_server_ends_in_peace(void **state)
{
	(void)state;
	everywhere_at_once(outlive_thread);
	everywhere_at_once(outlive_fiber);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		ON_ENGINES(two_servers_share_a_loop_and_a_listener),
		ON_ENGINES(cancelling_a_server_ends_it_alone),
		ON_ENGINES(a_server_that_is_cancelled_with_nobody_connected_returns_0),
		ON_ENGINES(cancelling_a_supervisor_ends_its_workers_alone),
		ON_ENGINES(a_box_may_serve),
		cmocka_unit_test(several_threads_serve_one_listener),
		cmocka_unit_test(a_box_that_outlives_its_server_ends_in_peace),
	};
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
