/* test_chain.c — the session chain: a link that waits holds up nobody else, in each model that has more than one
 * connection at once; it ends with its connection's time; and who is killed in it gives back what it held. */
#include "net_support.h"

#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/prctl.h>

#include "chain.h"
#include "limiter.h"

#define BANNER_BYTES (16 << 20) /* more than the kernel takes for a peer that does not read */

/* What the server's processes tell. */
struct told {
	_Atomic int closed, error;
	_Atomic pid_t opened_by; /* the last one */
};

static struct told *told;
static char *banner;
static struct config_service conf;
static struct limits_worker worker;
static char address[HARK_ADDRESS_MAX];

static void *shared(size_t bytes)
{
	void *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	assert_ptr_not_equal(at, MAP_FAILED);
	return at;
}

static void box_serve(struct hark_conn *c, void *arg)
{
	(void)arg;
	(void)hark_printf(c, "box\n");
}

static const struct hark_box_row box = {.version = HARK_BOX_VERSION, .name = "b", .stream = true, .serve = box_serve};

static void on_event(const struct hark_event *e, void *arg)
{
	(void)arg;
	if (e->kind == HARK_EVENT_OPEN)
		atomic_store(&told->opened_by, getpid());
	if (e->kind != HARK_EVENT_CLOSE)
		return;
	atomic_store(&told->error, e->error);
	atomic_fetch_add(&told->closed, 1);
}

static pid_t serve(enum hark_model model, int64_t lifetime_ns)
{
	struct hark_listener *l;
	const struct chain chain = {.conf = &conf, .box = &box};
	*told = (struct told){0};
	assert_int_equal(hark_listen("tcp://127.0.0.1:0", NULL, &l), 0);
	assert_true(hark_listener_address(l, address, sizeof address) > 0);
	pid_t pid = fork();
	if (pid == 0) {
		(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
		const struct hark_serve_opts opts = {
			.model = model,
			.lifetime_ns = lifetime_ns,
			.pace = worker.limits != NULL ? limits_pace : NULL,
			.admit = worker.limits != NULL ? limits_admit : NULL,
			.leave = worker.limits != NULL ? limits_leave : NULL,
			.limit_arg = &worker,
			.event = on_event,
		};
		_exit(hark_serve(&l, 1, chain_serve, (void *)(uintptr_t)&chain, &opts) != 0);
	}
	hark_listener_close(l);
	return pid;
}

static void end(pid_t pid)
{
	(void)kill(pid, SIGKILL);
	(void)waitpid(pid, NULL, 0);
}

static struct hark_conn *dial(void)
{
	struct hark_conn *c;
	assert_int_equal(hark_dial(address, &(struct hark_dial_opts){.deadline = hark_after(10 * HARK_S)}, &c), 0);
	hark_deadline(c, hark_after(20 * HARK_S));
	return c;
}

/* Reads to the end. Whether the box has spoken there. */
static bool box_speaks(struct hark_conn *c)
{
	static char buf[1 << 16];
	char last[4] = "";
	ssize_t n;
	while ((n = hark_read(c, buf, sizeof buf)) > 0)
		for (ssize_t i = n > 4 ? n - 4 : 0; i < n; i++) {
			memmove(last, last + 1, 3);
			last[3] = buf[i];
		}
	return n == 0 && memcmp(last, "box\n", 4) == 0;
}

/* One more client. Who is refused may hear of that before hark_dial() returns. */
static bool is_served(void)
{
	struct hark_conn *c;
	if (hark_dial(address, &(struct hark_dial_opts){.deadline = hark_after(10 * HARK_S)}, &c) < 0)
		return false;
	bool served = box_speaks(c);
	(void)hark_close(c);
	return served;
}

static void wait_for(const _Atomic int *what)
{
	int64_t until = hark_after(20 * HARK_S);
	while (atomic_load(what) == 0 && hark_now() < until)
		(void)hark_sleep(5 * HARK_MS);
	assert_int_not_equal(atomic_load(what), 0);
}

static void a_link_that_waits_holds_up_nobody(void **state)
{
	static const enum hark_model models[] = {HARK_MODEL_PROCESS, HARK_MODEL_THREAD, HARK_MODEL_FIBER};
	(void)state;
	for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
		pid_t pid = serve(models[i], 0);
		struct hark_conn *slow = dial();
		wait_for(&told->opened_by);
		assert_true(is_served());
		assert_true(is_served());
		assert_true(box_speaks(slow)); /* all of it was kept for it */
		(void)hark_close(slow);
		end(pid);
	}
}

static void a_link_ends_with_its_connections_time(void **state)
{
	static const enum hark_model models[] = {HARK_MODEL_INLINE, HARK_MODEL_PROCESS, HARK_MODEL_THREAD,
	                                         HARK_MODEL_FIBER};
	(void)state;
	for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
		pid_t pid = serve(models[i], 200 * HARK_MS);
		struct hark_conn *c = dial();
		wait_for(&told->closed);
		assert_int_equal(atomic_load(&told->error), ETIMEDOUT);
		assert_false(box_speaks(c));
		(void)hark_close(c);
		end(pid);
	}
}

static void who_is_killed_in_a_link_gives_its_place_back(void **state)
{
	struct counters *counters = shared(sizeof *counters);
	struct limits_state *m = shared(limits_bytes(true));
	(void)state;
	conf.max_per_source = 1;
	conf.source_v4_bits = 32;
	conf.source_v6_bits = 64;
	assert_int_equal(limits_init(m), 0);
	worker = (struct limits_worker){.counters = counters, .slot = counters_slot_take(counters)};
	assert_int_equal(limits_new(&conf, m, &worker.limits), 0);
	pid_t pid = serve(HARK_MODEL_PROCESS, 0);
	struct hark_conn *slow = dial();
	wait_for(&told->opened_by);
	assert_false(is_served()); /* the second of its source */
	assert_int_not_equal(atomic_load(&told->opened_by), pid);
	assert_int_equal(kill(atomic_load(&told->opened_by), SIGKILL), 0);
	bool served = false;
	for (int64_t until = hark_after(20 * HARK_S); !served && hark_now() < until;)
		served = is_served();
	assert_true(served);
	(void)hark_close(slow);
	end(pid);
	free(worker.limits);
	worker = (struct limits_worker){0};
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_link_that_waits_holds_up_nobody),
		cmocka_unit_test(a_link_ends_with_its_connections_time),
		cmocka_unit_test(who_is_killed_in_a_link_gives_its_place_back),
	};
	told = shared(sizeof *told);
	banner = malloc(BANNER_BYTES + 1);
	if (banner == NULL)
		return 1;
	memset(banner, 'x', BANNER_BYTES);
	banner[BANNER_BYTES] = '\0';
	conf.banner = banner;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
