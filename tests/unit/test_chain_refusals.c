/* test_chain_refusals.c — links of the session chain that find out who the peer is, and refuse: under each model, with
 * one and two workers, counted once, told once, and forgotten with the connection.
 *
 * The link is the test's own, as a PROXY header's will be: a line names the peer. hark_peer_endpoint() is wrapped
 * (meson.build), so that limits see whom the line named. */
#include "net_support.h"

#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/prctl.h>

#include "chain.h"
#include "limiter.h"
#include "refusals.h"

/* What the server's processes tell; shared. */
struct told {
	_Atomic int opened, closed, refused, served, left, wrong;
	_Atomic int reason;
	_Atomic pid_t by; /* who runs the box: the last one */
};

static struct told *told;
static struct counters *counters;
static struct limits_state *limits_memory;
static struct config_service conf = {.max_per_source = 1, .source_v4_bits = 32, .source_v6_bits = 64};
static struct limits_worker worker; /* each process's that accepts */
static struct chain chain;
static char address[HARK_ADDRESS_MAX];

int __real_hark_peer_endpoint(struct hark_conn *c, struct hark_endpoint *out);
int __wrap_hark_peer_endpoint(struct hark_conn *c, struct hark_endpoint *out);

int __wrap_hark_peer_endpoint(struct hark_conn *c, struct hark_endpoint *out)
{
	uint32_t named = (uint32_t)(uintptr_t)hark_data(c);
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(0x0a000000 + named)};
	if (named == 0)
		return __real_hark_peer_endpoint(c, out);
	*out = (struct hark_endpoint){.type = SOCK_STREAM, .len = sizeof a};
	memcpy(&out->addr, &a, sizeof a);
	return 0;
}

/* ---- the chain ------------------------------------------------------------------------------- */

static int steps_to_live; /* in changes of the limits, by a child that is to be killed */

static void die_there(void)
{
	if (--steps_to_live <= 0)
		(void)raise(SIGKILL);
}

/* "N\n": the peer is 10.0.0.N. "N K\n": likewise, and it is killed in the Kth step of the move there, or in the box.
 * "!\n": it is none. Waits for it, as a header's link does. */
static int name_peer(struct hark_conn *c, const struct chain *with)
{
	char line[16], *end;
	(void)with;
	ssize_t n = hark_readline(c, line, sizeof line);
	if (n < 0)
		return (int)n;
	if (n == 0 || line[0] == '!')
		return (int)REFUSED_SESSIONS; /* a reason as another */
	hark_set_data(c, (void *)(uintptr_t)strtoul(line, &end, 10));
	steps_to_live = (int)strtol(end, NULL, 10);
	limits_world.locked = steps_to_live > 0 ? die_there : NULL;
	return 0;
}

static chain_link *const links[] = {name_peer, chain_limit_peer};

static void serve_chain(struct hark_conn *c, void *arg)
{
	chain_run(c, arg, links, sizeof links / sizeof *links);
}

static void box_serve(struct hark_conn *c, void *arg)
{
	char line[16];
	(void)arg;
	atomic_store(&told->by, getpid());
	atomic_fetch_add(&told->served, 1);
	if (steps_to_live > 0)
		(void)raise(SIGKILL);
	(void)hark_printf(c, "box\n");
	(void)hark_readline(c, line, sizeof line);
}

static const struct hark_box_row box = {.version = HARK_BOX_VERSION, .name = "b", .stream = true, .serve = box_serve};

/* With workers, each takes a slot of its own. */
static void join(void)
{
	static pid_t joined;
	if (joined == getpid())
		return;
	joined = getpid();
	worker.slot = counters_slot_take(counters);
	limits_join(&worker);
}

/* Whoever comes names its peer later: no limit by the socket's address. */
static int admit(struct hark_conn *c, void *arg)
{
	(void)c;
	join();
	return limits_admit_later(arg);
}

static void leave(int ticket, void *arg)
{
	limits_leave(ticket, arg);
	atomic_fetch_add(&told->left, 1);
}

static void on_event(const struct hark_event *e, void *arg)
{
	(void)arg;
	switch (e->kind) {
	case HARK_EVENT_OPEN: atomic_fetch_add(&told->opened, 1); break;
	case HARK_EVENT_CLOSE: atomic_fetch_add(&told->closed, 1); break;
	case HARK_EVENT_REFUSED:
		if (e->ticket < 0 || refusals_name(e->error) == NULL)
			atomic_fetch_add(&told->wrong, 1);
		atomic_store(&told->reason, e->error);
		atomic_fetch_add(&told->refused, 1);
		break;
	default: break;
	}
}

/* ---- a server and its clients ---------------------------------------------------------------- */

static void on_term(int sig)
{
	(void)sig;
	hark_drain(0);
}

static pid_t serve(enum hark_model model, int workers)
{
	struct hark_listener *l;
	memset(told, 0, sizeof *told);
	memset(counters, 0, sizeof *counters);
	assert_int_equal(madvise(limits_memory, limits_bytes(true), MADV_REMOVE), 0); /* all zero */
	assert_int_equal(limits_init(limits_memory), 0);
	worker = (struct limits_worker){.counters = counters};
	assert_int_equal(limits_new(&conf, limits_memory, &worker.limits), 0);
	chain = (struct chain){.conf = &conf, .box = &box, .limits = &worker};
	assert_int_equal(hark_listen("tcp://127.0.0.1:0", NULL, &l), 0);
	assert_true(hark_listener_address(l, address, sizeof address) > 0);
	pid_t pid = fork();
	if (pid == 0) {
		(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
		(void)signal(SIGTERM, on_term);
		(void)alarm(100);
		const struct hark_serve_opts opts = {
			.model = model,
			.workers = workers,
			.admit = admit,
			.leave = leave,
			.limit_arg = &worker,
			.event = on_event,
		};
		_exit(hark_serve(&l, 1, serve_chain, &chain, &opts) != 0);
	}
	hark_listener_close(l);
	return pid;
}

static void await(const _Atomic int *what, int wanted)
{
	int64_t until = hark_after(20 * HARK_S);
	while (atomic_load(what) < wanted && hark_now() < until)
		(void)hark_sleep(HARK_MS);
	assert_int_equal(atomic_load(what), wanted);
}

static void end(pid_t pid)
{
	assert_int_equal(kill(pid, SIGTERM), 0);
	(void)waitpid(pid, NULL, 0);
	free(worker.limits);
	assert_int_equal(atomic_load(&told->wrong), 0);
	assert_int_equal(counters_now(counters), 0);
}

static struct hark_conn *dial(const char *peer)
{
	struct hark_conn *c;
	assert_int_equal(hark_dial(address, &(struct hark_dial_opts){.deadline = hark_after(10 * HARK_S)}, &c), 0);
	hark_deadline(c, hark_after(20 * HARK_S));
	assert_true(hark_printf(c, "%s\n", peer) > 0);
	return c;
}

/* True if the box spoke; else c is closed, after its reset. */
static bool is_served(struct hark_conn *c)
{
	char line[16];
	ssize_t n = hark_readline(c, line, sizeof line);
	if (n == 4)
		return true;
	assert_int_equal(n, -ECONNRESET);
	(void)hark_close(c);
	return false;
}

static void bye(struct hark_conn *c)
{
	(void)hark_printf(c, "bye\n");
	(void)hark_close(c);
}

static const enum hark_model models[] = {HARK_MODEL_INLINE, HARK_MODEL_PROCESS, HARK_MODEL_THREAD, HARK_MODEL_FIBER};

/* ---- what holds ------------------------------------------------------------------------------ */

static void refused_for_its_peer(enum hark_model model, int workers)
{
	pid_t pid = serve(model, workers);
	struct hark_conn *first = dial("1");
	assert_true(is_served(first));
	assert_false(is_served(dial("1"))); /* from the same socket address as all */
	struct hark_conn *other = dial("2");
	assert_true(is_served(other));
	assert_false(is_served(dial("2")));
	await(&told->refused, 2);
	assert_int_equal(atomic_load(&told->reason), REFUSED_PER_SOURCE);
	assert_int_equal(counters_read(counters, REFUSED_PER_SOURCE), 2);
	bye(first);
	await(&told->left, 3); /* its place is free for its source again */
	first = dial("1");
	assert_true(is_served(first));
	bye(first);
	bye(other);
	await(&told->left, 5);
	assert_int_equal(atomic_load(&told->served), 3);
	assert_int_equal(atomic_load(&told->opened), 5);
	assert_int_equal(atomic_load(&told->closed), 3);
	end(pid);
}

static void a_peer_over_its_limit_is_refused_wherever_the_chain_runs(void **state)
{
	(void)state;
	for (size_t i = 1; i < sizeof models / sizeof *models; i++) /* inline has no two at once: below */
		for (int workers = 1; workers <= 2; workers++)
			refused_for_its_peer(models[i], workers);
}

static void two_inline_workers_share_the_limit_of_a_peer(void **state)
{
	(void)state;
	pid_t pid = serve(HARK_MODEL_INLINE, 2);
	struct hark_conn *first = dial("1");
	assert_true(is_served(first));
	assert_false(is_served(dial("1"))); /* the other worker's */
	await(&told->left, 1);
	bye(first);
	await(&told->left, 2);
	first = dial("1");
	assert_true(is_served(first));
	bye(first);
	await(&told->left, 3);
	end(pid);
}

static void a_link_refuses_and_no_box_runs(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
		pid_t pid = serve(models[i], 1);
		for (int k = 1; k <= 5; k++) {
			assert_false(is_served(dial("!")));
			await(&told->left, k);
		}
		assert_int_equal(atomic_load(&told->reason), REFUSED_SESSIONS);
		assert_int_equal(counters_read(counters, REFUSED_SESSIONS), 5);
		assert_int_equal(counters_read(counters, REFUSED_PER_SOURCE), 0);
		assert_int_equal(atomic_load(&told->refused), 5);
		assert_int_equal(atomic_load(&told->served) + atomic_load(&told->closed), 0);
		struct hark_conn *c = dial("1");
		assert_true(is_served(c));
		bye(c);
		await(&told->left, 6);
		end(pid);
	}
}

static void a_child_killed_after_it_moved_gives_the_peers_place_back(void **state)
{
	(void)state;
	pid_t pid = serve(HARK_MODEL_PROCESS, 1);
	struct hark_conn *c = dial("1");
	assert_true(is_served(c));
	assert_int_not_equal(atomic_load(&told->by), pid);
	assert_false(is_served(dial("1")));
	await(&told->left, 1);
	for (int i = 0; i < 3; i++) {
		struct hark_conn *before = c;
		assert_int_equal(kill(atomic_load(&told->by), SIGKILL), 0);
		await(&told->left, 2 + i);
		(void)hark_close(before);
		c = dial("1");
		assert_true(is_served(c));
	}
	bye(c);
	await(&told->left, 5);
	end(pid);
}

static void children_killed_in_any_step_of_a_move_lose_no_place(void **state)
{
	char line[16];
	(void)state;
	for (int workers = 1; workers <= 2; workers++) {
		pid_t pid = serve(HARK_MODEL_PROCESS, workers);
		struct hark_conn *stays = dial("1");
		assert_true(is_served(stays));
		for (int i = 0; i < 60; i++) {
			struct hark_conn *c;
			(void)snprintf(line, sizeof line, "%d %d", 1 + i % 3, 1 + i % 7);
			c = dial(line);
			while (hark_readline(c, line, sizeof line) > 0)
				;
			(void)hark_close(c);
		}
		await(&told->left, 60);
		for (int peer = 2; peer <= 3; peer++) {
			(void)snprintf(line, sizeof line, "%d", peer);
			struct hark_conn *c = dial(line);
			assert_true(is_served(c));
			assert_false(is_served(dial(line)));
			bye(c);
		}
		assert_false(is_served(dial("1")));
		bye(stays);
		await(&told->left, 66);
		end(pid);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_peer_over_its_limit_is_refused_wherever_the_chain_runs),
		cmocka_unit_test(two_inline_workers_share_the_limit_of_a_peer),
		cmocka_unit_test(a_link_refuses_and_no_box_runs),
		cmocka_unit_test(a_child_killed_after_it_moved_gives_the_peers_place_back),
		cmocka_unit_test(children_killed_in_any_step_of_a_move_lose_no_place),
	};
	void *at = mmap(NULL, sizeof *told + sizeof *counters, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1,
	                0);
	limits_memory = mmap(NULL, limits_bytes(true), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (at == MAP_FAILED || limits_memory == MAP_FAILED)
		return 1;
	counters = at;
	told = (struct told *)(counters + 1);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
