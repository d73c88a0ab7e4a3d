/* test_serve_limits.c — the limits that a server's caller sets: pace(), admit() and leave(), under all models, with one
 * and two workers.
 *
 * Each server is a child of its own, bounded by alarm(2), that drains on SIGTERM. What it is asked and tells is counted
 * in memory that it shares with the test, its client; the test waits for counts, never for time. */
#include "client_support.h"
#include "modes.h"

#include <poll.h>
#include <sys/mman.h>
#include <sys/prctl.h>

#include "base/sys.h"

#define TICKETS 4096

/* Shared. Counts are of all workers together; a ticket's place tells how often it left. */
struct ledger {
	_Atomic int ready, opened, closed, paused, busy_paused, resumed, refused, draining, lent, returned;
	_Atomic int asked, came, admitted, left, unused, wrong; /* wrong: called where it must not be */
	_Atomic int ended;        /* the server's hark_serve() has returned, having seen this many leave */
	_Atomic int64_t wait_ns;  /* what pace() says */
	_Atomic int tokens;       /* > 0: pace() says 0 so many times, then wait_ns; < 0: always 0 */
	_Atomic int refuse_every; /* admit() refuses the first of each so many; 0: none */
	_Atomic int left_of[TICKETS];
};

static struct ledger *book;

struct plan {
	const char *address;
	hark_box *box;
	struct hark_serve_opts opts;
	int64_t grace_ns;
	void (*prepare)(void);
};

struct server {
	pid_t pid;
	struct hark_endpoint at;
	struct hark_listener *kept; /* the test's own share of the socket; NULL: given up */
};

/* ---- the server ------------------------------------------------------------------------------ */

static int64_t grace;
static pid_t acceptor; /* set by the first hook called in a process: its children's differ */
static pthread_t acceptor_thread;

static void on_term(int sig)
{
	hark_drain(sig == SIGTERM ? grace : 0);
}

/* In the process that accepts, on one thread. */
static void check_place(void)
{
	if (acceptor == 0) {
		acceptor = getpid();
		acceptor_thread = pthread_self();
	}
	if (acceptor != getpid() || !pthread_equal(acceptor_thread, pthread_self()))
		atomic_fetch_add(&book->wrong, 1);
}

static int64_t pace(void *arg)
{
	check_place();
	atomic_fetch_add(&((struct ledger *)arg)->asked, 1);
	int tokens = atomic_load(&book->tokens);
	while (tokens > 0 && !atomic_compare_exchange_weak(&book->tokens, &tokens, tokens - 1))
		;
	return tokens != 0 ? 0 : atomic_load(&book->wait_ns);
}

static int admit(struct hark_conn *c, void *arg)
{
	char peer[HARK_ADDRESS_MAX];
	struct ledger *b = arg;
	check_place();
	if (hark_peer(c, peer, sizeof peer) < 0)
		atomic_fetch_add(&b->wrong, 1);
	int n = atomic_fetch_add(&b->came, 1), every = atomic_load(&b->refuse_every);
	if (every > 0 && n % every == 0)
		return -EDQUOT;
	return atomic_fetch_add(&b->admitted, 1) % TICKETS;
}

static void leave(int ticket, void *arg)
{
	struct ledger *b = arg;
	check_place();
	if (ticket == -1) {
		atomic_fetch_add(&b->unused, 1);
		if (atomic_load(&b->tokens) >= 0)
			atomic_fetch_add(&b->tokens, 1);
		return;
	}
	if (ticket < 0 || ticket >= TICKETS || atomic_fetch_add(&b->left_of[ticket], 1) != 0)
		atomic_fetch_add(&b->wrong, 1);
	atomic_fetch_add(&b->left, 1);
}

static void tell_event(const struct hark_event *e, void *arg)
{
	struct ledger *b = arg;
	_Atomic int *const counts[] = {
		[HARK_EVENT_READY] = &b->ready,       [HARK_EVENT_OPEN] = &b->opened,
		[HARK_EVENT_CLOSE] = &b->closed,      [HARK_EVENT_PAUSED] = &b->paused,
		[HARK_EVENT_RESUMED] = &b->resumed,   [HARK_EVENT_REFUSED] = &b->refused,
		[HARK_EVENT_DRAINING] = &b->draining, [HARK_EVENT_LENT] = &b->lent,
		[HARK_EVENT_RETURNED] = &b->returned,
	};
	if (e->kind == HARK_EVENT_WORKER_UP || e->kind == HARK_EVENT_WORKER_DOWN)
		return;
	if (e->kind == HARK_EVENT_REFUSED && (e->conn == NULL || e->error != EDQUOT))
		atomic_fetch_add(&b->wrong, 1);
	if (e->kind == HARK_EVENT_PAUSED && e->error == EBUSY)
		atomic_fetch_add(&b->busy_paused, 1);
	atomic_fetch_add(counts[e->kind], 1);
}

static _Noreturn void be_server(const struct plan *p, struct hark_listener *l)
{
	struct hark_serve_opts o = p->opts;
	(void)alarm(40u * SLOWER);
	(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
	grace = p->grace_ns;
	(void)signal(SIGSEGV, SIG_DFL);
	(void)signal(SIGTERM, on_term);
	(void)signal(SIGUSR1, on_term);
	o.event = tell_event;
	o.pace = pace;
	o.admit = admit;
	o.leave = leave;
	o.event_arg = o.limit_arg = book;
	if (p->prepare != NULL)
		p->prepare();
	int rc = hark_serve(&l, 1, p->box, NULL, &o);
	atomic_store(&book->ended, atomic_load(&book->left));
	hark_listener_close(l);
	if (rc == -ENOSYS)
		_exit(SKIPPED);
#ifdef UNDER_ASAN
	if (rc == 0)
		__lsan_do_leak_check();
#endif
	_exit(rc == 0 ? 0 : rc == -ETIMEDOUT ? 2 : 1);
}

static void await(_Atomic int *count, int wanted, const char *what)
{
	int64_t end = hark_after(15 * SLOWER * HARK_S);
	while (atomic_load(count) < wanted) {
		if (hark_now() > end)
			fail_msg("%s: %d, not %d", what, atomic_load(count), wanted);
		(void)poll(NULL, 0, 1);
	}
}

#define AWAIT(what, wanted) await(&book->what, (wanted), #what)

/* A fresh ledger whose pace() always says 0. */
static struct server server_start(const struct plan *p)
{
	struct server s;
	socklen_t len = sizeof s.at.addr;
	memset(book, 0, sizeof *book);
	atomic_store(&book->tokens, -1);
	assert_int_equal(hark_listen(p->address != NULL ? p->address : "tcp://127.0.0.1:0", NULL, &s.kept), 0);
	assert_int_equal(getsockname(hark_listener_fd(s.kept), (struct sockaddr *)&s.at.addr, &len), 0);
	s.at.len = len;
	s.at.type = hark_listener_type(s.kept);
	s.pid = fork();
	assert_true(s.pid >= 0);
	if (s.pid == 0)
		be_server(p, s.kept);
	AWAIT(ready, 1);
	return s;
}

static void give_up_socket(struct server *s)
{
	hark_listener_close(s->kept);
	s->kept = NULL;
}

static int server_end(struct server *s)
{
	int status;
	give_up_socket(s);
	assert_int_equal(waitpid(s->pid, &status, 0), s->pid);
	if (WIFSIGNALED(status))
		fail_msg("the server died by signal %d", WTERMSIG(status));
	assert_int_equal(book->wrong, 0);
	return WEXITSTATUS(status);
}

static int server_stop(struct server *s)
{
	give_up_socket(s);
	assert_int_equal(kill(s->pid, SIGTERM), 0);
	return server_end(s);
}

/* ---- the client ------------------------------------------------------------------------------ */

/* -1: the server's reset came before connect(2) had returned, as it may on a busy machine. */
static int client_or_reset(const struct server *s)
{
	struct timeval t = {.tv_sec = 10 * SLOWER};
	int fd = socket(s->at.addr.ss_family, s->at.type | SOCK_CLOEXEC, 0);
	assert_true(fd >= 0);
	assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof t), 0);
	if (connect(fd, (const struct sockaddr *)&s->at.addr, s->at.len) == 0)
		return fd;
	if (errno != ECONNRESET)
		fail_msg("connect: %s", strerror(errno));
	(void)close(fd);
	return -1;
}

static int client(const struct server *s)
{
	int fd = client_or_reset(s);
	assert_true(fd >= 0);
	return fd;
}

/* The end in order, or a reset: which. */
static bool hears_a_reset(int fd)
{
	char buf[64];
	ssize_t n;
	while ((n = receive(fd, buf, sizeof buf)) > 0)
		;
	int err = n < 0 ? errno : 0;
	(void)close(fd);
	if (err != 0 && err != ECONNRESET)
		fail_msg("neither an end nor a reset: %s", strerror(err));
	return err == ECONNRESET;
}

/* Greets, is busy until it has read a line, and answers that. 'k' kills the process. */
static void greets(struct hark_conn *c, void *arg)
{
	char line[64];
	(void)arg;
	(void)hark_write(c, "hi\n", 3);
	ssize_t n = hark_readline(c, line, sizeof line);
	if (n > 0 && line[0] == 'k')
		(void)raise(SIGKILL);
	if (n > 0)
		(void)hark_write(c, line, (size_t)n);
}

static void answers(struct hark_conn *c, void *arg)
{
	char buf[64];
	(void)arg;
	ssize_t n = hark_read(c, buf, sizeof buf);
	if (n > 0)
		(void)hark_write(c, buf, (size_t)n);
}

static const enum hark_model models[] = {HARK_MODEL_INLINE, HARK_MODEL_PROCESS, HARK_MODEL_THREAD, HARK_MODEL_FIBER};

/* Runs what under each model, with one and two workers. */
static void every_way(void (*what)(struct plan *), hark_box *box)
{
	for (size_t m = 0; m < 4; m++)
		for (int workers = 1; workers <= 2; workers++) {
			struct plan p = {.box = box,
			                 .opts = {.model = models[m], .workers = workers},
			                 .grace_ns = 10 * HARK_S};
			what(&p);
		}
}

/* ---- each leaves once ------------------------------------------------------------------------ */

static void greet_many(struct plan *p)
{
	int fds[20];
	for (int first = 0; first < 2; first++) { /* the client speaks first: silent ones as well */
		p->opts.client_first = first == 1;
		struct server s = server_start(p);
		for (int i = 0; i < 20; i++) {
			fds[i] = client(&s);
			client_says(fds[i], "go\n");
		}
		for (int i = 0; i < 20; i++) {
			client_hears(fds[i], "hi\ngo\n");
			assert_false(hears_a_reset(fds[i]));
		}
		int gone = client(&s); /* never says a word */
		(void)close(gone);
		AWAIT(left, 21);
		assert_int_equal(server_stop(&s), 0);
		assert_int_equal(book->admitted, 21);
		assert_int_equal(book->left, 21);
		assert_int_equal(book->opened, 21);
		assert_int_equal(book->closed, 21);
		assert_int_equal(book->asked, book->admitted + book->unused);
		assert_int_equal(book->busy_paused + book->refused, 0);
	}
}

static void each_admitted_one_leaves_once(void **state)
{
	(void)state;
	every_way(greet_many, greets);
}

static void a_child_that_is_killed_leaves_too(void **state)
{
	(void)state;
	struct plan p = {.box = greets, .opts = {.model = HARK_MODEL_PROCESS}, .grace_ns = 10 * HARK_S};
	struct server s = server_start(&p);
	int fd = client(&s);
	client_hears(fd, "hi\n");
	client_says(fd, "k\n");
	AWAIT(left, 1);
	(void)hears_a_reset(fd);
	assert_int_equal(book->closed, 1); /* told for it */
	assert_int_equal(server_stop(&s), 0);
	assert_int_equal(book->left, 1);
}

static void cut_all(struct plan *p)
{
	int fds[6];
	if (p->opts.model == HARK_MODEL_INLINE)
		return; /* one at a time: below */
	p->grace_ns = 100 * HARK_MS;
	struct server s = server_start(p);
	for (int i = 0; i < 6; i++) {
		fds[i] = client(&s);
		client_hears(fds[i], "hi\n");
	}
	assert_int_equal(server_stop(&s), 2);
	assert_int_equal(book->admitted, 6);
	assert_int_equal(book->left, 6);
	for (int i = 0; i < 6; i++)
		(void)hears_a_reset(fds[i]);
}

static void those_that_a_drain_cuts_leave_too(void **state)
{
	(void)state;
	every_way(cut_all, greets);
}

/* Deaf to all of it, until the process ends. */
static void deaf(struct hark_conn *c, void *arg)
{
	(void)arg;
	(void)hark_write(c, "hi\n", 3);
	(void)hark_flush(c);
	for (;;)
		(void)pause();
}

static void those_that_are_left_behind_have_left(void **state)
{
	static const enum hark_model some[] = {HARK_MODEL_THREAD, HARK_MODEL_PROCESS};
	(void)state;
	for (int i = 0; i < 2; i++) {
		struct plan p = {.box = deaf, .opts = {.model = some[i]}};
		struct server s = server_start(&p);
		int fd = client(&s);
		client_hears(fd, "hi\n");
		assert_int_equal(server_stop(&s), 2);
		assert_int_equal(book->ended, 1);
		assert_int_equal(book->left, 1);
		(void)hears_a_reset(fd);
	}
}

/* A fiber that does not notice: its stack waits in a helper thread. */
static void deaf_helper(void *arg)
{
	(void)arg;
	for (;;)
		(void)pause();
}

static void offloads(struct hark_conn *c, void *arg)
{
	(void)hark_write(c, "hi\n", 3);
	(void)hark_flush(c);
	(void)hark_offload(deaf_helper, arg);
}

static void a_fiber_that_is_left_behind_has_left(void **state)
{
	(void)state;
	struct plan p = {.box = offloads, .opts = {.model = HARK_MODEL_FIBER}};
	struct server s = server_start(&p);
	int fd = client(&s);
	client_hears(fd, "hi\n");
	assert_int_equal(server_stop(&s), 2);
	assert_int_equal(book->ended, 1);
	(void)hears_a_reset(fd);
}

/* ---- refused --------------------------------------------------------------------------------- */

static void refuse_a_third(struct plan *p)
{
	int resets = 0;
	char c;
	struct server s = server_start(p);
	atomic_store(&book->refuse_every, 3);
	for (int i = 0; i < 30; i++) {
		int fd = client_or_reset(&s);
		bool served = fd >= 0 && receive(fd, &c, 1) == 1; /* before a word, which would fetch the error */
		if (fd < 0) {
			resets++;
		} else if (served) {
			client_says(fd, "go\n");
			client_hears(fd, "i\ngo\n");
			assert_false(hears_a_reset(fd));
		} else {
			resets += errno == ECONNRESET;
			(void)close(fd);
		}
	}
	assert_int_equal(server_stop(&s), 0);
	assert_int_equal(book->refused, 10);
	assert_int_equal(resets, 10);
	assert_int_equal(book->admitted, 20);
	assert_int_equal(book->left, 20);
	assert_int_equal(book->opened, 20);
	assert_int_equal(book->closed, 20);
}

static void refused_ones_are_reset_and_told_and_others_served(void **state)
{
	(void)state;
	every_way(refuse_a_third, greets);
}

static void refuses(struct hark_conn *c, void *arg)
{
	char buf[8];
	(void)arg;
	if (hark_ticket(c) != (int)hark_read(c, buf, sizeof buf) - 1)
		atomic_fetch_add(&book->wrong, 1);
	hark_refuse(c, EDQUOT);
}

static void be_refused(struct plan *p)
{
	struct server s = server_start(p);
	for (int i = 0; i < 4; i++) { /* each says as many bytes as its ticket, and one */
		int fd = client(&s);
		assert_int_equal(send(fd, "1234", (size_t)i + 1, 0), i + 1);
		assert_true(hears_a_reset(fd));
		AWAIT(left, i + 1);
	}
	assert_int_equal(server_stop(&s), 0);
	assert_int_equal(book->opened, 4);
	assert_int_equal(book->refused, 4);
	assert_int_equal(book->closed, 0);
	assert_int_equal(book->left, 4);
}

static void a_box_knows_its_ticket_and_may_refuse(void **state)
{
	(void)state;
	every_way(be_refused, refuses);
}

/* ---- paced ----------------------------------------------------------------------------------- */

static bool hears_within(int fd, int ms)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};
	return poll(&p, 1, ms) > 0;
}

static void pace_three(struct plan *p)
{
	int fds[5];
	struct server s = server_start(p);
	atomic_store(&book->wait_ns, 20 * HARK_MS);
	atomic_store(&book->tokens, 2);
	for (int i = 0; i < 5; i++) {
		fds[i] = client(&s);
		client_says(fds[i], "go\n");
	}
	for (int i = 0; i < 2; i++) {
		client_hears(fds[i], "hi\ngo\n");
		assert_false(hears_a_reset(fds[i]));
	}
	AWAIT(busy_paused, 1);
	AWAIT(left, 2);
	int asked = book->asked;
	AWAIT(asked, asked + 3); /* by the timer: nothing else happens */
	assert_false(hears_within(fds[2], 0));
	assert_int_equal(book->admitted, 2);
	atomic_store(&book->tokens, 3);
	for (int i = 2; i < 5; i++) {
		client_hears(fds[i], "hi\ngo\n");
		assert_false(hears_a_reset(fds[i]));
	}
	AWAIT(left, 5);
	AWAIT(resumed, 1);
	assert_int_equal(server_stop(&s), 0);
	assert_int_equal(book->left, 5);
}

static void paced_ones_wait_and_are_served(void **state)
{
	(void)state;
	every_way(pace_three, greets);
}

static void a_pause_ends_with_a_connection(void **state)
{
	(void)state;
	for (size_t m = 1; m < 4; m++)
		for (int forever = 0; forever < 2; forever++) {
			struct plan p = {.box = greets, .opts = {.model = models[m]}, .grace_ns = 10 * HARK_S};
			struct server s = server_start(&p);
			atomic_store(&book->wait_ns, forever ? HARK_FOREVER : 1000 * HARK_S);
			atomic_store(&book->tokens, 1);
			int one = client(&s), two = client(&s);
			client_hears(one, "hi\n");
			AWAIT(busy_paused, 1);
			atomic_store(&book->tokens, 1);
			assert_int_equal(book->admitted, 1);
			client_says(one, "bye\n");
			client_hears(one, "bye\n");
			assert_false(hears_a_reset(one));
			client_hears(two, "hi\n");
			client_says(two, "bye\n");
			client_hears(two, "bye\n");
			assert_false(hears_a_reset(two));
			AWAIT(left, 2);
			assert_int_equal(server_stop(&s), 0);
		}
}

static void for_ever_is_not_for_ever_where_nothing_could_end_it(void **state)
{
	(void)state;
	struct plan p = {.box = greets, .grace_ns = 10 * HARK_S};
	struct server s = server_start(&p);
	atomic_store(&book->wait_ns, HARK_FOREVER);
	atomic_store(&book->tokens, 0);
	int fd = client(&s);
	AWAIT(asked, 3);
	atomic_store(&book->tokens, -1);
	client_says(fd, "go\n");
	client_hears(fd, "hi\ngo\n");
	(void)close(fd);
	assert_int_equal(server_stop(&s), 0);
}

static void nobody_is_asked_about_where_nobody_waits(void **state)
{
	(void)state;
	struct plan p = {.box = greets, .grace_ns = 10 * HARK_S};
	struct server s = server_start(&p);
	atomic_store(&book->wait_ns, HARK_S);
	for (int i = 0; i < 10; i++) {
		atomic_store(&book->tokens, 1);
		int fd = client(&s);
		client_says(fd, "go\n");
		client_hears(fd, "hi\ngo\n");
		assert_false(hears_a_reset(fd));
		AWAIT(left, i + 1);
	}
	assert_int_equal(server_stop(&s), 0);
	assert_int_equal(book->asked, 11); /* the drain's look at the backlog is one */
	assert_int_equal(book->busy_paused, 0);
}

/* ---- drains ---------------------------------------------------------------------------------- */

static void drain_paced(struct plan *p)
{
	int fds[6];
	struct server s = server_start(p);
	atomic_store(&book->wait_ns, 10 * HARK_MS);
	atomic_store(&book->tokens, 0);
	for (int i = 0; i < 6; i++) {
		fds[i] = client(&s);
		client_says(fds[i], "go\n");
	}
	AWAIT(busy_paused, 1);
	give_up_socket(&s);
	assert_int_equal(kill(s.pid, SIGTERM), 0);
	AWAIT(draining, 1);
	int asked = book->asked;
	AWAIT(asked, asked + 2);
	assert_int_equal(book->admitted, 0);
	for (int i = 0; i < 6; i++)
		atomic_fetch_add(&book->tokens, 1);
	for (int i = 0; i < 6; i++) {
		client_hears(fds[i], "hi\ngo\n");
		assert_false(hears_a_reset(fds[i]));
	}
	assert_int_equal(server_end(&s), 0);
	assert_int_equal(book->left, 6);
}

static void a_drain_serves_what_was_held_at_its_pace(void **state)
{
	(void)state;
	every_way(drain_paced, greets);
}

static void what_is_held_to_the_end_of_the_grace_is_reset(void **state)
{
	(void)state;
	struct plan p = {.box = greets, .grace_ns = 200 * HARK_MS};
	struct server s = server_start(&p);
	atomic_store(&book->wait_ns, HARK_S);
	atomic_store(&book->tokens, 0);
	int fd = client(&s);
	client_says(fd, "go\n");
	AWAIT(busy_paused, 1);
	assert_int_equal(server_stop(&s), 2);
	assert_true(hears_a_reset(fd));
	assert_int_equal(book->admitted + book->left, 0);
}

static void a_drain_leaves_the_backlog_to_others_if_told_so(void **state)
{
	struct hark_conn *c;
	(void)state;
	struct plan p = {.box = greets, .grace_ns = 10 * HARK_S};
	struct server s = server_start(&p);
	atomic_store(&book->wait_ns, 1000 * HARK_S);
	atomic_store(&book->tokens, 0);
	int fd = client(&s);
	AWAIT(busy_paused, 1);
	atomic_store(&book->wait_ns, HARK_FOREVER);
	assert_int_equal(kill(s.pid, SIGTERM), 0);
	int status;
	assert_int_equal(waitpid(s.pid, &status, 0), s.pid);
	assert_int_equal(status, 0);
	assert_int_equal(hark_accept(s.kept, hark_after(10 * HARK_S), &c), 0); /* it was there for us */
	hark_abort(c);
	(void)hears_a_reset(fd);
	give_up_socket(&s);
	assert_int_equal(book->admitted, 0);
}

/* A connection that there was no thread for, then cut: it was admitted, so it leaves. */
static int no_thread(pthread_t *t, const pthread_attr_t *a, void *(*fn)(void *), void *arg)
{
	(void)t, (void)a, (void)fn, (void)arg;
	return EAGAIN;
}

static void break_threads(void)
{
	hark__sys.pthread_create = no_thread;
}

static void one_that_never_started_leaves_too(void **state)
{
	(void)state;
	struct plan p = {.box = greets,
	                 .opts = {.model = HARK_MODEL_THREAD},
	                 .grace_ns = 100 * HARK_MS,
	                 .prepare = break_threads};
	struct server s = server_start(&p);
	int fd = client(&s);
	AWAIT(paused, 1);
	assert_int_equal(server_stop(&s), 2);
	(void)hears_a_reset(fd);
	assert_int_equal(book->admitted, 1);
	assert_int_equal(book->left, 1);
	assert_int_equal(book->opened, 0);
}

/* ---- datagrams and wait ---------------------------------------------------------------------- */

static void datagrams_in_turn(struct plan *p)
{
	char text[8];
	int fds[10], heard = 0;
	p->address = "udp://127.0.0.1:0";
	struct server s = server_start(p);
	atomic_store(&book->wait_ns, 10 * HARK_MS);
	atomic_store(&book->tokens, 4);
	for (int i = 0; i < 10; i++) {
		fds[i] = client(&s);
		(void)snprintf(text, sizeof text, "d%d", i);
		client_says(fds[i], text);
	}
	for (int i = 0; i < 4; i++) {
		(void)snprintf(text, sizeof text, "d%d", i);
		client_hears(fds[i], text);
	}
	AWAIT(busy_paused, 1);
	assert_false(hears_within(fds[4], 0)); /* not one more than was said */
	assert_int_equal(book->admitted, 4);
	atomic_store(&book->refuse_every, 1);
	atomic_store(&book->tokens, 2);
	AWAIT(refused, 2);
	atomic_store(&book->refuse_every, 0);
	atomic_store(&book->tokens, -1);
	AWAIT(left, 8);
	for (int i = 4; i < 10; i++)
		heard += hears_within(fds[i], i < 6 ? 0 : 10000);
	assert_int_equal(heard, 4);
	for (int i = 0; i < 10; i++)
		(void)close(fds[i]);
	assert_int_equal(server_stop(&s), 0);
	assert_int_equal(book->left, 8);
	assert_int_equal(book->opened, 8);
}

static void datagrams_are_paced_one_by_one_and_dropped_if_refused(void **state)
{
	(void)state;
	every_way(datagrams_in_turn, answers);
}

/* The box of a wait service: one datagram, answered. */
static void takes_one(struct hark_conn *c, void *arg)
{
	char buf[64];
	struct sockaddr_storage from;
	socklen_t len = sizeof from;
	(void)arg;
	ssize_t n = recvfrom(hark_fd(c), buf, sizeof buf, MSG_DONTWAIT, (struct sockaddr *)&from, &len);
	if (n > 0)
		(void)sendto(hark_fd(c), buf, (size_t)n, 0, (struct sockaddr *)&from, len);
}

static void wait_services_are_paced_and_not_admitted(void **state)
{
	(void)state;
	for (size_t m = 0; m < 4; m++) {
		struct plan p = {.address = "udp://127.0.0.1:0",
		                 .box = takes_one,
		                 .opts = {.model = models[m], .wait = true},
		                 .grace_ns = 10 * HARK_S};
		struct server s = server_start(&p);
		atomic_store(&book->wait_ns, 10 * HARK_MS);
		atomic_store(&book->tokens, 0);
		int fd = client(&s);
		client_says(fd, "one");
		AWAIT(asked, 3);
		AWAIT(busy_paused, 1);
		atomic_store(&book->tokens, -1);
		client_hears(fd, "one");
		client_says(fd, "two");
		client_hears(fd, "two");
		(void)close(fd);
		assert_int_equal(server_stop(&s), 0);
		assert_int_equal(book->admitted + book->left, 0);
		assert_int_equal(book->unused, 2);
		assert_int_equal(book->lent, 2);
		assert_int_equal(book->returned, 2);
	}
}

static int make_book(void **state)
{
	(void)state;
	book = mmap(NULL, sizeof *book, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	return book == MAP_FAILED;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(each_admitted_one_leaves_once),
		cmocka_unit_test(a_child_that_is_killed_leaves_too),
		cmocka_unit_test(those_that_a_drain_cuts_leave_too),
		cmocka_unit_test(those_that_are_left_behind_have_left),
		cmocka_unit_test(a_fiber_that_is_left_behind_has_left),
		cmocka_unit_test(refused_ones_are_reset_and_told_and_others_served),
		cmocka_unit_test(a_box_knows_its_ticket_and_may_refuse),
		cmocka_unit_test(paced_ones_wait_and_are_served),
		cmocka_unit_test(a_pause_ends_with_a_connection),
		cmocka_unit_test(for_ever_is_not_for_ever_where_nothing_could_end_it),
		cmocka_unit_test(nobody_is_asked_about_where_nobody_waits),
		cmocka_unit_test(a_drain_serves_what_was_held_at_its_pace),
		cmocka_unit_test(what_is_held_to_the_end_of_the_grace_is_reset),
		cmocka_unit_test(a_drain_leaves_the_backlog_to_others_if_told_so),
		cmocka_unit_test(one_that_never_started_leaves_too),
		cmocka_unit_test(datagrams_are_paced_one_by_one_and_dropped_if_refused),
		cmocka_unit_test(wait_services_are_paced_and_not_admitted),
	};
	return cmocka_run_group_tests(tests, make_book, NULL);
}
