/* test_stack.c — stacks: their guards, what they leave to others, and how they are put aside at request boundaries. */
#include "modes.h"

#include <malloc.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include "faults.h"
#include "loop/loop.h"

FAULT(int, madvise, (void *at, size_t n, int advice), (at, n, advice))
FAULT(int, mprotect, (void *at, size_t n, int prot), (at, n, prot))
FAULT_RESULT(mmap, (void *at, size_t n, int prot, int flags, int fd, off_t offset), (at, n, prot, flags, fd, offset),
             void *, MAP_FAILED)
FAULT_NULL(aligned_alloc, (size_t alignment, size_t n), (alignment, n))

#if defined(UNDER_ASAN) || defined(UNDER_TSAN) || defined(HARK__UCONTEXT)
#define STAYS 1 /* stacks are not put aside: swap.c */
#else
#define STAYS 0
#endif

/* ---- stacks ---------------------------------------------------------------------------------- */

static int mappings(void)
{
	int n = 0, c;
	FILE *f = fopen("/proc/self/maps", "re");
	CHECK(f != NULL);
	while ((c = getc(f)) != EOF)
		n += c == '\n';
	(void)fclose(f);
	return n;
}

static unsigned alive;

static void touches_its_stack(void *arg)
{
	char here;
	struct hark__fiber *f = hark__fiber_self();
	char *low = hark__stack_low(&hark__loop_current->stacks, f);
	CHECK(&here > low && &here < (char *)f->top);
	low[0] = 1; /* the lowest usable byte: the guard is below */
	alive++;
	CHECK_INT(hark_sleep(HARK_FOREVER), -ECANCELED);
	CHECK(low[0] == 1);
	alive--;
	(void)arg;
}

#if defined(UNDER_TSAN)
#define MANY 2000
#elif defined(UNDER_ASAN)
#define MANY 20000
#else
#define MANY 100000
#endif

static void many_body(void)
{
	struct hark_scope s;
	struct hark__loop *l = hark__loop_self();
	int before = mappings();
	hark_scope_open(&s);
	for (int i = 0; i < MANY; i++)
		CHECK_INT(hark_go(&s, "one", touches_its_stack, NULL), 0);
	CHECK_INT(hark_yield(), 0);
	CHECK_INT(alive, MANY);
#ifdef UNDER_TSAN
	(void)before; /* it maps memory of its own for each fiber */
#else
	if (!l->stacks.mprotect)
		CHECK(mappings() - before < 1000);
	else
		(void)fprintf(stderr, "skipped in part: this kernel has no MADV_GUARD_INSTALL\n");
#endif
	hark_scope_close(&s);
	CHECK_INT(alive, 0);
	hark_scope_open(&s); /* and again, on the same stacks */
	for (int i = 0; i < MANY / 2; i++)
		CHECK_INT(hark_go(&s, "two", touches_its_stack, NULL), 0);
	CHECK_INT(l->stacks.used, MANY);
	hark_scope_close(&s);
}

static void a_hundred_thousand_guarded_fibers_live_at_once(void **state)
{
	(void)state;
	assert_int_equal(mode_end(mode_start("epoll", many_body), "epoll"), 0);
}

static void guarded_body(void)
{
	struct hark__stacks s;
	struct hark__fiber *f[3];
	CHECK_INT(hark__stacks_init(&s, 20000), 0);
	for (int i = 0; i < 3; i++)
		CHECK_INT(hark__stacks_take(&s, &f[i]), 0);
	CHECK(s.stride - s.guard_bytes >= 20000);
	for (int i = 0; i < 3; i++) {
		char *low = hark__stack_low(&s, f[i]);
		CHECK((char *)f[i]->top - low >= 15000);
		CHECK(hark__stacks_guarded(&s, low - 1) == f[i]);
		CHECK(hark__stacks_guarded(&s, low - s.guard_bytes) == f[i]);
		CHECK(hark__stacks_guarded(&s, low) == NULL);
		CHECK(hark__stacks_guarded(&s, f[i]->top) == NULL);
	}
	CHECK(hark__stacks_guarded(&s, s.arenas[0].low - 1) == NULL);
	CHECK(hark__stacks_guarded(&s, s.arenas[0].low + 3 * s.stride) == NULL);
	hark__stacks_give(&s, f[1]);
	struct hark__fiber *again;
	CHECK_INT(hark__stacks_take(&s, &again), 0);
	CHECK(again == f[1]); /* last in, first out */
	hark__stacks_done(&s);
	CHECK_INT(hark__stacks_init(&s, SIZE_MAX / 2), -EINVAL);
	CHECK_INT(hark__stacks_init(&s, SIZE_MAX / 8), 0);
	CHECK_INT(hark__stacks_take(&s, &again), -ENOMEM);
	hark__stacks_done(&s);
}

static void guard_of(size_t stack_bytes, size_t wanted)
{
	struct hark__stacks s;
	CHECK_INT(hark__stacks_init(&s, stack_bytes), 0);
	CHECK(s.guard_bytes >= wanted && s.guard_bytes < wanted + (64u << 10));
	CHECK(s.stride >= s.guard_bytes + stack_bytes);
	hark__stacks_done(&s);
}

static void guard_sizes_body(void)
{
	guard_of(0, 16u << 10);
	guard_of(512u << 10, 128u << 10);
	guard_of(8u << 20, 256u << 10);
}

static void guards_grow_with_their_stacks(void **state)
{
	(void)state;
	on_plain_thread(guard_sizes_body);
}

static void guards_lie_below_their_stacks(void **state)
{
	(void)state;
	on_plain_thread(guarded_body);
}

static void short_body(void)
{
	struct hark__stacks s;
	struct hark__fiber *f;
	CHECK_INT(hark__stacks_init(&s, 0), 0);
	fault_install_aligned_alloc();
	fault_countdown = 1;
	CHECK_INT(hark__stacks_take(&s, &f), -ENOMEM); /* the fiber structs */
	fault_remove_aligned_alloc();
	fault_install_madvise();
	fault_errno = ENOMEM;
	fault_countdown = 1;
	CHECK_INT(hark__stacks_take(&s, &f), -ENOMEM); /* the guard */
	fault_remove_madvise();
	CHECK_INT(hark__stacks_take(&s, &f), 0);
	hark__stacks_done(&s);
	CHECK_INT(hark__stacks_init(&s, 0), 0);
	fault_install_madvise(); /* a kernel without MADV_GUARD_INSTALL: MADV_NOHUGEPAGE comes first */
	fault_errno = EINVAL;
	fault_countdown = 2;
	CHECK_INT(hark__stacks_take(&s, &f), 0);
	CHECK(s.mprotect);
	fault_remove_madvise();
	fault_install_mprotect();
	fault_errno = ENOMEM; /* vm.max_map_count is reached */
	fault_countdown = 1;
	CHECK_INT(hark__stacks_take(&s, &f), -EAGAIN);
	CHECK_INT(hark__stacks_take(&s, &f), 0);
	fault_remove_mprotect();
	hark__stacks_done(&s);
}

static void stacks_that_cannot_be_had_are_told(void **state)
{
	(void)state;
	on_plain_thread(short_body);
}

static void is_done(void *arg)
{
	*(bool *)arg = true;
}

static void address_space_body(void)
{
	struct rlimit l = {(rlim_t)1 << 30, (rlim_t)1 << 30}; /* the arena would be 80 GB */
	struct hark_scope s;
	CHECK_INT(setrlimit(RLIMIT_AS, &l), 0);
	hark_scope_open(&s);
	bool done = false;
	CHECK_INT(hark_go(&s, "a", is_done, &done), 0);
	CHECK_INT(hark_join(&s, HARK_FOREVER), 0);
	CHECK(done);
	int n = 0, rc;
	while ((rc = hark_go(&s, "b", touches_its_stack, NULL)) == 0)
		n++;
	CHECK(rc == -EAGAIN || rc == -ENOMEM);
	CHECK(n > 1000);
	hark_scope_close(&s);
}

static void short_address_space_gives_fewer_fibers_and_an_error(void **state)
{
	(void)state;
#if defined(UNDER_ASAN) || defined(UNDER_TSAN)
	(void)address_space_body;
	print_message("skipped: a sanitizer's shadow does not fit the limit\n");
	skip();
#else
	assert_int_equal(mode_end(mode_start("epoll", address_space_body), "epoll"), 0);
#endif
}

/* ---- large frames ---------------------------------------------------------------------------- */

/* Uses nothing but the far end of its frame. */
__attribute__((noinline)) static void steps_far(size_t bytes)
{
	volatile char *low = __builtin_alloca(bytes);
	low[0] = 1;
}

static void has_a_large_frame(void *arg)
{
	steps_far(*(size_t *)arg);
}

/* What the child said before it ended by SIGSEGV. */
static void steps_into(size_t bytes, char *text, size_t cap)
{
	int fds[2], status;
	CHECK_INT(pipe2(fds, O_CLOEXEC), 0);
	pid_t pid = fork();
	CHECK(pid >= 0);
	if (pid == 0) {
		struct hark_scope s;
		size_t modest = 4096;
		struct rlimit none = {0, 0};
		(void)setrlimit(RLIMIT_CORE, &none);
		(void)dup2(fds[1], 2);
		hark_scope_open(&s);
		for (int i = 0; i < 8; i++) /* neighbours whose stacks it could hit */
			CHECK_INT(hark_go(&s, "beside", has_a_large_frame, &modest), 0);
		CHECK_INT(hark_go(&s, "wide", has_a_large_frame, &bytes), 0);
		(void)hark_join(&s, HARK_FOREVER);
		_exit(0);
	}
	(void)close(fds[1]);
	size_t got = 0;
	ssize_t n;
	while ((n = read(fds[0], text + got, cap - 1 - got)) > 0)
		got += (size_t)n;
	text[got] = '\0';
	(void)close(fds[0]);
	CHECK_INT(waitpid(pid, &status, 0), pid);
	CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
}

static void wide_body(void)
{
	char text[300];
	for (size_t kb = 80; kb <= 2000; kb += 120) {
		steps_into(kb << 10, text, sizeof text);
		CHECK_HAS(text, "hark: fiber 'wide' has overflowed its stack of ");
	}
}

static void a_large_frame_that_is_probed_does_not_reach_the_stack_below(void **state)
{
	(void)state;
#if defined(UNDER_ASAN) || defined(UNDER_TSAN)
	(void)wide_body;
	print_message("skipped: a sanitizer has SIGSEGV for itself\n");
	skip();
#else
	on_plain_thread(wide_body);
#endif
}

/* ---- address space --------------------------------------------------------------------------- */

/* How much malloc(3) gives at once, to the megabyte. */
static size_t largest_mb(void)
{
	size_t mb = 1;
	void *got;
	while ((got = malloc(mb << 20)) != NULL) {
		free(got);
		mb++;
	}
	return mb - 1;
}

static void leaves_body(void)
{
	struct hark_scope s;
	char line[64];
	unsigned long pages = 0;
	FILE *f = fopen("/proc/self/statm", "re");
	CHECK(f != NULL && fgets(line, sizeof line, f) != NULL && sscanf(line, "%lu", &pages) == 1);
	(void)fclose(f);
	rlim_t limit = pages * 4096 + ((rlim_t)100 << 20);
	CHECK_INT(setrlimit(RLIMIT_AS, &(struct rlimit){limit, limit}), 0);
	size_t before = largest_mb();
	CHECK(before >= 60);
	hark_scope_open(&s);
	bool done = false;
	CHECK_INT(hark_go(&s, "a", is_done, &done), 0);
	CHECK_INT(hark_join(&s, HARK_FOREVER), 0);
	CHECK(largest_mb() + 16 >= before); /* the loop's own stack, and a few fibers' */
	hark_scope_close(&s);
}

static void the_first_fiber_leaves_limited_address_space_to_others(void **state)
{
	(void)state;
#if defined(UNDER_ASAN) || defined(UNDER_TSAN)
	(void)leaves_body;
	print_message("skipped: a sanitizer's shadow does not fit the limit\n");
	skip();
#else
	on_plain_thread(leaves_body);
#endif
}

/* Strict overcommit refuses the large reservation whatever RLIMIT_AS says. */
static void refused_body(void)
{
	struct hark__stacks s;
	struct hark__fiber *f;
	CHECK_INT(hark__stacks_init(&s, 0), 0);
	fault_install_mmap();
	fault_errno = ENOMEM;
	fault_countdown = 1;
	for (int i = 0; i < 1000; i++)
		CHECK_INT(hark__stacks_take(&s, &f), 0);
	fault_remove_mmap();
	CHECK(s.limit < 3000);
	hark__stacks_done(&s);
}

static void where_much_cannot_be_reserved_little_is(void **state)
{
	(void)state;
	on_plain_thread(refused_body);
}

/* ---- request boundaries ---------------------------------------------------------------------- */

static long resident_pages(void)
{
	long all, resident;
	FILE *f = fopen("/proc/self/statm", "re");
	CHECK(f != NULL);
	CHECK_INT(fscanf(f, "%ld %ld", &all, &resident), 2);
	(void)fclose(f);
	return resident;
}

struct idler {
	struct hark_conn *mine, *peer;
	int *on_stack;
	struct hark__fiber *fiber;
	bool done;
};

static void idles(void *arg)
{
	struct idler *i = arg;
	int value = 12345, *pointer = &value; /* lie on the stack, and so does what it points at */
	char buf[8];
	i->on_stack = &value;
	i->fiber = hark__fiber_self();
	CHECK_INT(hark_idle(i->mine), 1);
	CHECK(pointer == i->on_stack && *pointer == 12345);
	CHECK_INT(hark_read(i->mine, buf, sizeof buf), 5);
	CHECK(memcmp(buf, "hello", 5) == 0);
	i->done = true;
}

#define IDLERS 2000

static void swapped_body(void)
{
	static struct idler idlers[IDLERS];
	struct hark_scope s;
	hark_scope_open(&s);
	for (int i = 0; i < IDLERS; i++) {
		struct pair p = unix_pair();
		idlers[i] = (struct idler){.mine = p.a, .peer = p.b};
		CHECK_INT(hark_go(&s, "idler", idles, &idlers[i]), 0);
	}
	CHECK_INT(hark_sleep(50 * HARK_MS), 0);
	long before = resident_pages();
	size_t heap = mallinfo2().uordblks;
	CHECK_INT(hark_sleep(2500 * HARK_MS), 0);
	long saved = before - resident_pages();
#if !STAYS
	CHECK(saved > IDLERS / 2);
	CHECK(mallinfo2().uordblks - heap < IDLERS * 100ul); /* what is kept of each stack */
	CHECK(idlers[IDLERS - 1].fiber->aside);
#else
	(void)saved;
	(void)heap;
#endif
	for (int i = 0; i < IDLERS; i++)
		CHECK_INT(write(hark_fd(idlers[i].peer), "hello", 5), 5);
	CHECK_INT(hark_join(&s, hark_after(20 * HARK_S)), 0);
	hark_scope_close(&s);
	for (int i = 0; i < IDLERS; i++) {
		CHECK(idlers[i].done);
		hark_abort(idlers[i].mine);
		hark_abort(idlers[i].peer);
	}
}

static void idle_stacks_are_given_back_and_come_back_as_they_were(void **state)
{
	(void)state;
	struct rlimit l;
	if (getrlimit(RLIMIT_NOFILE, &l) < 0 || l.rlim_cur < 2 * IDLERS + 100) {
		l.rlim_cur = 2 * IDLERS + 100;
		if (l.rlim_max < l.rlim_cur || setrlimit(RLIMIT_NOFILE, &l) < 0) {
			print_message("skipped: only %ld descriptors may be open\n", (long)l.rlim_max);
			skip();
		}
	}
	int bad = 0;
	pid_t pids[ENGINES_ALL];
	for (size_t i = 0; i < ENGINES_ALL; i++)
		pids[i] = mode_start(engines_all[i], swapped_body);
	for (size_t i = 0; i < ENGINES_ALL; i++)
		bad |= mode_end(pids[i], engines_all[i]);
	assert_int_equal(bad, 0);
}

static void counts_up(void *arg)
{
	for (int *at = arg; *at < 5; ++*at)
		CHECK_INT(hark_sleep(600 * HARK_MS), 0);
}

static bool member_joined;

/* Its member writes to its stack, and the scope itself lies there. */
static void idles_with_a_member(void *arg)
{
	struct hark_scope s;
	int count = 0;
	char buf[8];
	hark_scope_open(&s);
	CHECK_INT(hark_go(&s, "member", counts_up, &count), 0);
	CHECK_INT(hark_idle(arg), 1);
	CHECK_INT(count, 5);
	CHECK_INT(hark_read(arg, buf, sizeof buf), 1);
	CHECK_INT(hark_join(&s, HARK_FOREVER), 0);
	hark_scope_close(&s);
	member_joined = true;
}

static void swapped_scope_body(void)
{
	struct hark_scope s;
	struct pair p = unix_pair();
	hark_scope_open(&s);
	CHECK_INT(hark_go(&s, "owner", idles_with_a_member, p.a), 0);
	CHECK_INT(hark_sleep(3300 * HARK_MS), 0);
	CHECK_INT(write(hark_fd(p.b), "x", 1), 1);
	CHECK_INT(hark_join(&s, HARK_FOREVER), 0);
	hark_scope_close(&s);
	CHECK(member_joined);
	pair_drop(&p);
}

static void the_stack_of_a_scopes_owner_stays_while_it_idles(void **state)
{
	(void)state;
	assert_int_equal(mode_end(mode_start("epoll", swapped_scope_body), "epoll"), 0);
}

/* ---- what is kept of a stack put aside -------------------------------------------------------- */

struct deep {
	struct hark_conn *mine, *peer;
	unsigned seed;
	int depth; /* frames */
	bool done;
};

static unsigned next_random(unsigned *seed)
{
	*seed = *seed * 1103515245 + 12345;
	return *seed >> 8;
}

/* Words that nothing resembles, some levels down, and a check of each on the way back. */
__attribute__((noinline)) static void idles_deep(struct deep *d, int depth)
{
	volatile unsigned long word[9];
	unsigned seed = d->seed + (unsigned)depth;
	for (int i = 0; i < 9; i++)
		word[i] = i % 3 == 0 ? 0 : (unsigned long)next_random(&seed) << (next_random(&seed) % 60);
	if (depth > 0)
		idles_deep(d, depth - 1);
	else
		CHECK_INT(hark_idle(d->mine), 1);
	seed = d->seed + (unsigned)depth;
	for (int i = 0; i < 9; i++)
		CHECK(word[i] == (i % 3 == 0 ? 0 : (unsigned long)next_random(&seed) << (next_random(&seed) % 60)));
}

static void deep_fiber(void *arg)
{
	struct deep *d = arg;
	idles_deep(d, d->depth);
	d->done = true;
}

#define DEEP 100

static void unlike_body(void)
{
	static struct deep deep[DEEP];
	struct hark_scope s;
	hark_scope_open(&s);
	for (int i = 0; i < DEEP; i++) {
		struct pair p = unix_pair();
		deep[i] = (struct deep){.mine = p.a, .peer = p.b, .seed = (unsigned)i * 77, .depth = i % 11};
		CHECK_INT(hark_go(&s, "deep", deep_fiber, &deep[i]), 0);
	}
	for (int round = 0; round < 2; round++) { /* the second half stays aside while the first one's bases go */
		CHECK_INT(hark_sleep(2500 * HARK_MS), 0);
		CHECK(STAYS || hark__loop_self()->stacks.bases[0] != NULL);
		for (int i = round * DEEP / 2; i < (round + 1) * DEEP / 2; i++)
			CHECK_INT(write(hark_fd(deep[i].peer), "x", 1), 1);
	}
	CHECK_INT(hark_join(&s, hark_after(20 * HARK_S)), 0);
	hark_scope_close(&s);
	for (int i = 0; i < HARK__BASES_MAX; i++)
		CHECK(hark__loop_self()->stacks.bases[i] == NULL);
	for (int i = 0; i < DEEP; i++) {
		CHECK(deep[i].done);
		hark_abort(deep[i].mine);
		hark_abort(deep[i].peer);
	}
}

static void stacks_that_resemble_nothing_come_back_as_they_were(void **state)
{
	(void)state;
	assert_int_equal(mode_end(mode_start("epoll", unlike_body), "epoll"), 0);
}

/* A lazy timer that is due while the stack is aside: the wait's own deadline is later, and holds. */
static void idles_twice(void *arg)
{
	struct deep *d = arg;
	char byte;
	hark_idle_timeout(d->mine, 4 * HARK_S);
	CHECK_INT(hark_idle(d->mine), 1);
	CHECK_INT(hark_read(d->mine, &byte, 1), 1);
	int64_t begun = hark_now();
	CHECK_INT(hark_idle(d->mine), -ETIMEDOUT);
	CHECK(hark_now() - begun >= 4 * HARK_S);
	d->done = true;
}

static void lazy_body(void)
{
	struct hark_scope s;
	struct pair p = unix_pair();
	struct deep d = {.mine = p.a, .peer = p.b};
	char text[600];
	int fds[2];
	CHECK_INT(pipe2(fds, O_CLOEXEC), 0);
	hark_scope_open(&s);
	CHECK_INT(hark_go(&s, "patient", idles_twice, &d), 0);
	CHECK_INT(hark_sleep(HARK_S), 0);
	CHECK_INT(write(hark_fd(p.b), "x", 1), 1);
	CHECK_INT(hark_sleep(3500 * HARK_MS), 0); /* the first wait's moment is past */
	CHECK(!d.done);
	CHECK_INT(hark_dump(fds[1]), 2);
	ssize_t n = read(fds[0], text, sizeof text - 1);
	CHECK(n > 0);
	text[n] = '\0';
	CHECK_HAS(text, "patient                  waits: idle on fd ");
	CHECK_HAS(text, ", for 3.");
	CHECK_INT(hark_join(&s, hark_after(20 * HARK_S)), 0);
	hark_scope_close(&s);
	CHECK(d.done);
	(void)close(fds[0]);
	(void)close(fds[1]);
	pair_drop(&p);
}

static void a_timer_that_is_due_finds_a_stack_that_is_put_aside(void **state)
{
	(void)state;
	assert_int_equal(mode_end(mode_start("epoll", lazy_body), "epoll"), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_hundred_thousand_guarded_fibers_live_at_once),
		cmocka_unit_test(guards_lie_below_their_stacks),
		cmocka_unit_test(guards_grow_with_their_stacks),
		cmocka_unit_test(stacks_that_cannot_be_had_are_told),
		cmocka_unit_test(short_address_space_gives_fewer_fibers_and_an_error),
		cmocka_unit_test(a_large_frame_that_is_probed_does_not_reach_the_stack_below),
		cmocka_unit_test(the_first_fiber_leaves_limited_address_space_to_others),
		cmocka_unit_test(where_much_cannot_be_reserved_little_is),
		cmocka_unit_test(idle_stacks_are_given_back_and_come_back_as_they_were),
		cmocka_unit_test(the_stack_of_a_scopes_owner_stays_while_it_idles),
		cmocka_unit_test(stacks_that_resemble_nothing_come_back_as_they_were),
		cmocka_unit_test(a_timer_that_is_due_finds_a_stack_that_is_put_aside),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
