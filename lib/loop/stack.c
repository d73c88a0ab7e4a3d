/* stack.c — stacks for fibers: contiguous slots of one reserved arena, each with a guard page below, recycled last in,
 * first out, so that the next fiber finds its stack in the cache.
 *
 * Guards are installed with MADV_GUARD_INSTALL (Linux 6.13), which marks pages without splitting the mapping: 100,000
 * guarded stacks cost one of the vm.max_map_count (65,530 by default) mappings. Before that, mprotect(2) costs two a
 * stack, and hark_go() says -EAGAIN when the kernel has no more.
 *
 * A fiber that waits at a request boundary for long has its live stack (a few hundred bytes) copied aside and its pages
 * given back; the addresses stay its own, so the copy goes back to the very same place, and pointers into the stack
 * stay good.
 *
 * One thread: the loop's. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/sys.h"
#include "hark.h"
#include "loop/loop.h"

#ifdef HARK__VALGRIND
#include <valgrind/valgrind.h>
#endif

#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102 /* linux/mman.h of 6.13; newer than the C library's */
#endif

#define STACK_BYTES  (64u << 10) /* a fiber's default */
#define STACK_MIN    (16u << 10)
#define GUARD_BYTES  (16u << 10)         /* more than a page: a frame with a buffer could step over one */
#define STACKS_MAX   (UINT64_C(1) << 20) /* slots that are reserved, address space permitting */
#define STACKS_MIN   64u
#define BLOCK_FIBERS 64u   /* fiber structs allocated together */
#define WARM_MAX     1024u /* free stacks that keep their memory */
#define SHELF_MAX    2048u /* live bytes that are worth copying to save a page or more */

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
	/* An odd number of pages apart, stacks spread over all sets of the translation cache; at 80 KB a quarter of
	 * them served everybody, and a thousand fibers missed it at every switch. */
	s->stack_bytes = ((stack_bytes + GUARD_BYTES + page - 1) / page | 1) * page;
	return 0;
}

/* Address space may be short (RLIMIT_AS, strict overcommit): halve until it fits. */
static int reserve(struct hark__stacks *s)
{
	for (uint64_t n = STACKS_MAX; n >= STACKS_MIN; n /= 2) {
		if (n > SIZE_MAX / s->stack_bytes)
			continue;
		s->arena = map(n * s->stack_bytes);
		if (s->arena == NULL)
			continue;
		s->arena_bytes = n * s->stack_bytes;
		s->limit = n;
		(void)hark__sys.madvise(s->arena, s->arena_bytes, MADV_NOHUGEPAGE); /* else a stack may cost 2 MB */
		return 0;
	}
	return -ENOMEM;
}

static int guard(struct hark__stacks *s, char *at)
{
	if (!s->mprotect) {
		if (hark__sys.madvise(at, GUARD_BYTES, MADV_GUARD_INSTALL) == 0)
			return 0;
		if (errno != EINVAL)
			return -ENOMEM;
		s->mprotect = true;
	}
	return hark__sys.mprotect(at, GUARD_BYTES, PROT_NONE) == 0 ? 0 : -EAGAIN;
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

static int take_new(struct hark__stacks *s, struct hark__fiber **out)
{
	if (s->arena == NULL && reserve(s) < 0)
		return -ENOMEM;
	if (s->used == s->limit)
		return -EAGAIN;
	char *slot = s->arena + s->used * s->stack_bytes;
	struct hark__fiber *f = fiber_struct(s, s->used);
	if (f == NULL)
		return -ENOMEM;
	int r = guard(s, slot);
	if (r < 0)
		return r;
	f->stack = slot + GUARD_BYTES;
	f->stack_bytes = s->stack_bytes - GUARD_BYTES;
#ifdef HARK__VALGRIND
	f->valgrind_id = VALGRIND_STACK_REGISTER(f->stack, f->stack + f->stack_bytes);
#endif
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
		(void)hark__sys.madvise(f->stack, f->stack_bytes, MADV_DONTNEED); /* memory stays in use, no more */
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

/* Whose guard lies at this address: for the overflow message. Async-signal-safe. */
const struct hark__fiber *hark__stacks_guarded(const struct hark__stacks *s, const void *at)
{
	size_t offset = (size_t)((const char *)at - s->arena);
	if (s->arena == NULL || (const char *)at < s->arena || offset >= s->used * s->stack_bytes)
		return NULL;
	size_t slot = offset / s->stack_bytes;
	return offset % s->stack_bytes < GUARD_BYTES ? hark__stacks_slot(s, slot) : NULL;
}

void hark__stacks_done(struct hark__stacks *s)
{
#ifdef HARK__VALGRIND
	for (size_t i = 0; i < s->used; i++)
		VALGRIND_STACK_DEREGISTER(hark__stacks_slot(s, i)->valgrind_id);
#endif
	for (size_t i = 0; i < s->n_blocks; i++)
		free(s->blocks[i]);
	free(s->blocks);
	if (s->arena != NULL)
		(void)hark__sys.munmap(s->arena, s->arena_bytes);
	*s = (struct hark__stacks){0};
}

int hark__stack_map(size_t bytes, char **low)
{
	char *at = map(bytes + GUARD_BYTES);
	if (at == NULL)
		return -ENOMEM;
	if (hark__sys.mprotect(at, GUARD_BYTES, PROT_NONE) < 0) {
		(void)hark__sys.munmap(at, bytes + GUARD_BYTES);
		return -ENOMEM;
	}
	*low = at + GUARD_BYTES;
	return 0;
}

void hark__stack_unmap(char *low, size_t bytes)
{
	if (low != NULL)
		(void)hark__sys.munmap(low - GUARD_BYTES, bytes + GUARD_BYTES);
}

char *hark__stack_top(const struct hark__fiber *f)
{
	size_t colour = (uintptr_t)f->stack / f->stack_bytes % 16 * 192;
	return f->stack + f->stack_bytes - colour;
}

struct swapped {
	size_t bytes;
	char live[];
};

void hark__stack_swap_out(struct hark__fiber *f)
{
#if defined(HARK__ASAN) || defined(HARK__TSAN) || defined(HARK__UCONTEXT)
	(void)f; /* the sanitizers' shadow of the stack would not move along; a context holds pointers into itself */
#else
	char *top = hark__stack_top(f);
	char *from = f->sp;
	size_t live = (size_t)(top - from);
	if (f->stack == NULL || live > SHELF_MAX)
		return;
	struct swapped *s = hark__sys.malloc(sizeof *s + live);
	if (s == NULL)
		return;
	s->bytes = live;
	memcpy(s->live, from, live);
	if (hark__sys.madvise(f->stack, f->stack_bytes, MADV_DONTNEED) < 0)
		free(s);
	else
		f->swapped = s;
#endif
}

void hark__stack_swap_in(struct hark__fiber *f)
{
	struct swapped *s = f->swapped;
	memcpy(hark__stack_top(f) - s->bytes, s->live, s->bytes);
	f->swapped = NULL;
	free(s);
}
