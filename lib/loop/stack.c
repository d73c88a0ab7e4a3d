/* stack.c — stacks for fibers: contiguous slots of reserved address space, each with a guard below, recycled last in,
 * first out, so that the next fiber finds its stack in the cache.
 *
 * Guards are installed with MADV_GUARD_INSTALL (Linux 6.13), which marks pages without splitting the mapping: 100,000
 * guarded stacks cost one of the vm.max_map_count (65,530 by default) mappings. Before that, mprotect(2) costs two a
 * stack, and hark_go() says -EAGAIN when the kernel has no more. A guard is a quarter of the stack's size. (256 KB
 * below each stack of 64 KB cost a server of 1,000 connections 3 % of its time: its stacks lay on four times as many
 * pages of the page table.) A frame that is larger is caught where it is compiled with probes, as hark.pc has it.
 *
 * Where address space is limited (RLIMIT_AS, strict overcommit) it is reserved in small steps that double: what is
 * reserved here nobody else can have.
 *
 * One thread: the loop's. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/sys.h"
#include "hark.h"
#include "loop/loop.h"

#ifdef HARK__ASAN
#include <sanitizer/asan_interface.h>
#endif
#ifdef HARK__VALGRIND
#include <valgrind/valgrind.h>
#endif

#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102 /* linux/mman.h of 6.13; newer than the C library's */
#endif

#define STACK_BYTES (64u << 10) /* a fiber's default */
#define STACK_MIN   (16u << 10)
#if defined(__aarch64__)
#define GUARD_MIN (64u << 10) /* compilers probe frames that are larger than this */
#else
#define GUARD_MIN (16u << 10)
#endif
#define GUARD_MAX       (256u << 10)
#define STACKS_RESERVED (UINT64_C(1) << 20) /* stacks that there is room for from the start, where it costs nothing */
#define STEP_MIN        16u                 /* … and elsewhere */
#define BLOCK_FIBERS    64u                 /* fiber structs allocated together */
#define WARM_MAX        1024u               /* free stacks that keep their memory */
#define COLOURS         16u  /* equal stacks begin at unequal places within a page, or their tops would all */
#define COLOUR_BYTES    192u /* fall on the same few cache sets */

static size_t page_bytes(void)
{
	static _Atomic size_t known; /* relaxed: every look-up finds the same */
	size_t bytes = atomic_load_explicit(&known, memory_order_relaxed);
	if (bytes == 0) {
		bytes = (size_t)sysconf(_SC_PAGESIZE);
		atomic_store_explicit(&known, bytes, memory_order_relaxed);
	}
	return bytes;
}

static char *map(size_t bytes)
{
	void *at = hark__sys.mmap(NULL, bytes, PROT_READ | PROT_WRITE,
	                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
	return at == MAP_FAILED ? NULL : at;
}

static bool address_space_is_limited(void)
{
	struct rlimit l;
	return hark__sys.getrlimit(RLIMIT_AS, &l) < 0 || l.rlim_cur != RLIM_INFINITY;
}

static size_t guard_for(size_t stack_bytes)
{
	size_t page = page_bytes(), bytes = stack_bytes / 4;
	if (bytes < GUARD_MIN)
		bytes = GUARD_MIN;
	if (bytes > GUARD_MAX)
		bytes = GUARD_MAX;
	return (bytes + page - 1) / page * page;
}

int hark__stacks_init(struct hark__stacks *s, size_t stack_bytes)
{
	size_t page = page_bytes();
	*s = (struct hark__stacks){0};
	hark__list_init(&s->warm);
	hark__list_init(&s->cold);
	if (stack_bytes == 0)
		stack_bytes = STACK_BYTES;
	if (stack_bytes < STACK_MIN)
		stack_bytes = STACK_MIN;
	if (stack_bytes > SIZE_MAX / 4)
		return -EINVAL;
	s->stingy = address_space_is_limited();
	s->guard_bytes = guard_for(stack_bytes);
	/* An odd number of pages apart, stacks spread over all sets of the translation cache; at 80 KB a quarter of
	 * them served everybody, and a thousand fibers missed it at every switch. */
	s->stride = ((stack_bytes + s->guard_bytes + page - 1) / page | 1) * page;
	return 0;
}

static int reserve(struct hark__stacks *s, uint64_t n)
{
	struct hark__arena *a = &s->arenas[s->n_arenas];
	if (s->n_arenas == HARK__ARENAS_MAX || n > SIZE_MAX / s->stride)
		return -ENOMEM;
	char *low = map(n * s->stride);
	if (low == NULL)
		return -ENOMEM;
	(void)hark__sys.madvise(low, n * s->stride, MADV_NOHUGEPAGE); /* else a stack may cost 2 MB */
	*a = (struct hark__arena){.low = low, .first = s->limit, .slots = n};
	s->n_arenas++;
	s->limit += n;
	return 0;
}

/* Room for more stacks: for as many as there are by now, or fewer where that does not fit. */
static int grow(struct hark__stacks *s)
{
	if (!s->stingy && s->n_arenas == 0 && reserve(s, STACKS_RESERVED) == 0)
		return 0;
	for (uint64_t n = s->limit > STEP_MIN ? s->limit : STEP_MIN; n > 0; n /= 2)
		if (reserve(s, n) == 0)
			return 0;
	return s->n_arenas == 0 ? -ENOMEM : -EAGAIN;
}

static int guard(struct hark__stacks *s, char *at)
{
	if (!s->mprotect) {
		if (hark__sys.madvise(at, s->guard_bytes, MADV_GUARD_INSTALL) == 0)
			return 0;
		if (errno != EINVAL)
			return -ENOMEM;
		s->mprotect = true;
	}
	return hark__sys.mprotect(at, s->guard_bytes, PROT_NONE) == 0 ? 0 : -EAGAIN;
}

static struct hark__fiber *fiber_struct(struct hark__stacks *s, size_t slot)
{
	size_t block = slot / BLOCK_FIBERS;
	if (block == s->n_blocks) {
		struct hark__fiber **blocks = hark__sys.realloc(s->blocks, (block + 1) * sizeof *blocks);
		if (blocks == NULL)
			return NULL;
		s->blocks = blocks;
		s->blocks[block] = hark__sys.aligned_alloc(_Alignof(struct hark__fiber),
		                                           BLOCK_FIBERS * sizeof(struct hark__fiber));
		if (s->blocks[block] == NULL)
			return NULL;
		memset(s->blocks[block], 0, BLOCK_FIBERS * sizeof(struct hark__fiber));
		s->n_blocks++;
	}
	return &s->blocks[block][slot % BLOCK_FIBERS];
}

static void tell_valgrind(struct hark__stacks *s, const char *low)
{
#ifdef HARK__VALGRIND
	if (!RUNNING_ON_VALGRIND)
		return;
	unsigned *ids = hark__sys.realloc(s->valgrind_ids, (s->used + 1) * sizeof *ids);
	if (ids == NULL)
		return;
	ids[s->used] = VALGRIND_STACK_REGISTER(low, low + s->stride - s->guard_bytes);
	s->valgrind_ids = ids;
#else
	(void)s;
	(void)low;
#endif
}

static int take_new(struct hark__stacks *s, struct hark__fiber **out)
{
	int r = s->used == s->limit ? grow(s) : 0;
	if (r < 0)
		return r;
	const struct hark__arena *a = &s->arenas[s->n_arenas - 1];
	char *slot = a->low + (s->used - a->first) * s->stride;
	struct hark__fiber *f = fiber_struct(s, s->used);
	if (f == NULL)
		return -ENOMEM;
	r = guard(s, slot);
	if (r < 0)
		return r;
	f->top = (struct hark__fiber_top *)(slot + s->stride - s->used % COLOURS * COLOUR_BYTES) - 1;
	tell_valgrind(s, slot + s->guard_bytes);
	s->used++;
	*out = f;
	return 0;
}

int hark__stacks_take(struct hark__stacks *s, struct hark__fiber **out)
{
	struct hark__list *node = hark__list_pop(&s->warm);
	if (node != NULL)
		s->n_warm--;
	else
		node = hark__list_pop(&s->cold);
	if (node == NULL)
		return take_new(s, out);
	*out = hark__container(node, struct hark__fiber, sibling);
	return 0;
}

void hark__stacks_give(struct hark__stacks *s, struct hark__fiber *f)
{
	struct hark__list *pool = &s->warm;
	if (s->n_warm == WARM_MAX) {
		(void)hark__sys.madvise(hark__stack_low(s, f), s->stride - s->guard_bytes,
		                        MADV_DONTNEED); /* memory stays in use, no more */
		pool = &s->cold;
	} else {
		s->n_warm++;
	}
	hark__list_append(pool->next, &f->sibling); /* at the front: last in, first out */
}

struct hark__fiber *hark__stacks_slot(const struct hark__stacks *s, size_t slot)
{
	return &s->blocks[slot / BLOCK_FIBERS][slot % BLOCK_FIBERS];
}

/* In which arena an address lies; NULL: in none. Async-signal-safe. */
static const struct hark__arena *arena_of(const struct hark__stacks *s, const void *at)
{
	for (const struct hark__arena *a = s->arenas; a < s->arenas + s->n_arenas; a++)
		if ((const char *)at >= a->low && (size_t)((const char *)at - a->low) < a->slots * s->stride)
			return a;
	return NULL;
}

/* Whose guard lies at this address: for the overflow message. Async-signal-safe. */
const struct hark__fiber *hark__stacks_guarded(const struct hark__stacks *s, const void *at)
{
	const struct hark__arena *a = arena_of(s, at);
	if (a == NULL)
		return NULL;
	size_t offset = (size_t)((const char *)at - a->low), slot = a->first + offset / s->stride;
	return slot < s->used && offset % s->stride < s->guard_bytes ? hark__stacks_slot(s, slot) : NULL;
}

char *hark__stack_low(const struct hark__stacks *s, const struct hark__fiber *f)
{
	const struct hark__arena *a = arena_of(s, f->top);
	size_t offset = (size_t)((char *)f->top - a->low);
	return (char *)f->top - offset % s->stride + s->guard_bytes;
}

/* ASan: frames of fibers that have ended are still poisoned, and would be so for the memory's next owner: glibc puts a
 * thread's stack there, with its errno, and does not tell ASan. Nothing is poisoned beyond used. */
static void unmap(char *at, size_t bytes, size_t used)
{
#ifdef HARK__ASAN
	__asan_unpoison_memory_region(at, used);
#else
	(void)used;
#endif
	(void)hark__sys.munmap(at, bytes);
}

static void unmap_arena(const struct hark__stacks *s, const struct hark__arena *a)
{
	size_t used = s->used - a->first < a->slots ? s->used - a->first : a->slots;
	unmap(a->low, a->slots * s->stride, used * s->stride);
}

void hark__stacks_done(struct hark__stacks *s)
{
#ifdef HARK__VALGRIND
	for (size_t i = 0; i < s->used && s->valgrind_ids != NULL; i++)
		VALGRIND_STACK_DEREGISTER(s->valgrind_ids[i]);
	free(s->valgrind_ids);
#endif
	for (size_t i = 0; i < s->n_blocks; i++)
		free(s->blocks[i]);
	free(s->blocks);
	for (unsigned i = 0; i < s->n_arenas; i++)
		unmap_arena(s, &s->arenas[i]);
	*s = (struct hark__stacks){0};
}

int hark__stack_map(size_t bytes, char **low)
{
	char *at = map(bytes + GUARD_MAX);
	if (at == NULL)
		return -ENOMEM;
	if (hark__sys.mprotect(at, GUARD_MAX, PROT_NONE) < 0) {
		(void)hark__sys.munmap(at, bytes + GUARD_MAX);
		return -ENOMEM;
	}
	*low = at + GUARD_MAX;
	return 0;
}

void hark__stack_unmap(char *low, size_t bytes)
{
	if (low != NULL)
		unmap(low - GUARD_MAX, bytes + GUARD_MAX, bytes + GUARD_MAX);
}
