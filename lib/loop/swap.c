/* swap.c — stacks put aside: of a fiber that waits at a request boundary for long, the live stack is kept in a block of
 * its own, and its pages are given back. Its addresses stay its own: it comes back to the very same place, and pointers
 * into it stay good.
 *
 * The block is short, because stacks that wait in the same place are nearly the same: one of them becomes a base, and
 * of the others only what differs from it is kept. What differs are pointers to the connection, the fiber and the
 * stack, again and again, and each of the three by the same amount; so a word mostly takes a byte, 600 bytes of stack
 * take 40, and a box's depth hardly matters. A stack that is like no base becomes one, up to BASES_MAX; then it is told
 * by its difference from zeroes, which is longer.
 *
 * One thread: the loop's. */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/sys.h"
#include "loop/loop.h"

#define LIVE_MAX  (2048u + sizeof(struct hark__fiber_top)) /* bytes: above, a page or two are not worth the copying */
#define WORDS_MAX (LIVE_MAX / sizeof(uintptr_t))
#define WORD_CODE 12u /* bytes that a word takes at most: 2 of distance, 10 of difference */
#define ALIKE     4u  /* a stack is like a base if its code is so many times shorter than itself */
#define ZEROES    HARK__BASES_MAX

/* The sanitizers' shadow of the stack would not move along; a context holds pointers into itself. */
#if defined(HARK__ASAN) || defined(HARK__TSAN) || defined(HARK__UCONTEXT)
#define MOVES false
#else
#define MOVES true
#endif

struct hark__swap_base {
	unsigned users;
	unsigned words;
	uintptr_t word[];
};

struct hark__swapped {
	uint16_t base;  /* index, or ZEROES */
	uint16_t words; /* of the stack */
	uint16_t bytes; /* of code */
	uint8_t code[];
};

/* ---- the code --------------------------------------------------------------------------------
 *
 * For each word that differs from the base's: how many before it do not, times 4, plus 1–3: its difference is the one
 * in that place of the three latest; plus 0: its difference follows, and takes one of their places in turn. */

struct recent {
	uintptr_t difference[3]; /* 0: none */
	unsigned oldest;
};

static void keep(struct recent *r, uintptr_t difference)
{
	r->difference[r->oldest] = difference;
	r->oldest = (r->oldest + 1) % 3;
}

static uint8_t *put(uint8_t *at, uintptr_t value)
{
	for (; value >= 0x80; value >>= 7)
		*at++ = (uint8_t)(value | 0x80);
	*at++ = (uint8_t)value;
	return at;
}

static const uint8_t *get(const uint8_t *at, uintptr_t *value)
{
	unsigned shift = 0;
	*value = 0;
	do {
		*value |= (uintptr_t)(*at & 0x7f) << shift;
		shift += 7;
	} while (*at++ & 0x80);
	return at;
}

/* Small differences in either direction become small numbers: 0, -1, 1, -2, 2 … */
static uintptr_t fold(uintptr_t difference)
{
	return difference << 1 ^ (uintptr_t)((intptr_t)difference >> (sizeof difference * 8 - 1));
}

static uintptr_t unfold(uintptr_t folded)
{
	return folded >> 1 ^ -(folded & 1);
}

/* base NULL: zeroes. Returns the length of the code, of which there may be WORD_CODE bytes for each word. */
static size_t encode(const uintptr_t *word, const uintptr_t *base, size_t words, uint8_t *code)
{
	uint8_t *at = code;
	uintptr_t same = 0;
	struct recent r = {0};
	for (size_t i = 0; i < words; i++) {
		uintptr_t difference = word[i] - (base != NULL ? base[i] : 0);
		if (difference == 0) {
			same++;
			continue;
		}
		unsigned place = 0;
		while (place < 3 && r.difference[place] != difference)
			place++;
		at = put(at, same * 4 + (place + 1) % 4);
		same = 0;
		if (place == 3) {
			at = put(at, fold(difference));
			keep(&r, difference);
		}
	}
	return (size_t)(at - code);
}

static void decode(const struct hark__stacks *stacks, const struct hark__swapped *s, uintptr_t *word)
{
	const uint8_t *at = s->code, *end = s->code + s->bytes;
	struct recent r = {0};
	if (s->base != ZEROES)
		memcpy(word, stacks->bases[s->base]->word, s->words * sizeof *word);
	else
		memset(word, 0, s->words * sizeof *word);
	while (at < end) {
		uintptr_t token, folded;
		at = get(at, &token);
		word += token / 4;
		if (token % 4 == 0) {
			at = get(at, &folded);
			keep(&r, unfold(folded));
			*word++ += unfold(folded);
		} else {
			*word++ += r.difference[token % 4 - 1];
		}
	}
}

/* ---- bases ----------------------------------------------------------------------------------- */

static uint16_t make_base(struct hark__stacks *s, const uintptr_t *word, size_t words)
{
	uint16_t i = 0;
	while (i < HARK__BASES_MAX && s->bases[i] != NULL)
		i++;
	if (i == HARK__BASES_MAX)
		return ZEROES;
	struct hark__swap_base *b = hark__sys.malloc(sizeof *b + words * sizeof *word);
	if (b == NULL)
		return ZEROES;
	*b = (struct hark__swap_base){.words = (unsigned)words};
	memcpy(b->word, word, words * sizeof *word);
	s->bases[i] = b;
	return i;
}

static void use_base(struct hark__stacks *s, uint16_t base)
{
	if (base != ZEROES)
		s->bases[base]->users++;
}

static void leave_base(struct hark__stacks *s, uint16_t base)
{
	if (base == ZEROES || --s->bases[base]->users > 0)
		return;
	free(s->bases[base]);
	s->bases[base] = NULL;
}

/* Finds the base that it is most like, or makes it one. Returns the length of its code. */
static size_t encode_shortest(struct hark__stacks *s, const uintptr_t *word, size_t words, uint8_t *code,
                              uint16_t *base)
{
	uint8_t other[WORDS_MAX * WORD_CODE];
	size_t bytes = encode(word, NULL, words, code);
	*base = ZEROES;
	for (uint16_t i = 0; i < HARK__BASES_MAX; i++) {
		if (s->bases[i] == NULL || s->bases[i]->words != words)
			continue;
		size_t n = encode(word, s->bases[i]->word, words, other);
		if (n < bytes) {
			bytes = n;
			*base = i;
			memcpy(code, other, n);
		}
	}
	if (bytes * ALIKE <= words * sizeof *word)
		return bytes;
	uint16_t made = make_base(s, word, words);
	if (made == ZEROES)
		return bytes;
	*base = made;
	return 0;
}

/* ---- out and in ------------------------------------------------------------------------------ */

static void *end_of(const struct hark__fiber *f)
{
	return f->top + 1;
}

void hark__stack_swap_out(struct hark__stacks *s, struct hark__fiber *f)
{
	uint8_t code[WORDS_MAX * WORD_CODE];
	uint16_t base;
	size_t live = (size_t)((char *)end_of(f) - (char *)f->sp), words = live / sizeof(uintptr_t);
	if (!MOVES || live > LIVE_MAX)
		return;
	assert(live % sizeof(uintptr_t) == 0);
	size_t bytes = encode_shortest(s, f->sp, words, code, &base);
	use_base(s, base);
	struct hark__swapped *block = hark__sys.malloc(sizeof *block + bytes);
	char *low = hark__stack_low(s, f);
	size_t extent = s->stride - s->guard_bytes;
	if (block == NULL || hark__sys.madvise(low, extent, MADV_DONTNEED) < 0) {
		free(block);
		leave_base(s, base);
		return;
	}
	*block = (struct hark__swapped){.base = base, .words = (uint16_t)words, .bytes = (uint16_t)bytes};
	memcpy(block->code, code, bytes);
	f->swapped = block;
	f->aside = true;
}

void hark__stack_swap_in(struct hark__stacks *s, struct hark__fiber *f)
{
	struct hark__swapped *block = f->swapped;
	uintptr_t *sp = (uintptr_t *)end_of(f) - block->words;
	decode(s, block, sp);
	f->sp = sp;
	f->aside = false;
	leave_base(s, block->base);
	free(block);
}

const struct hark__fiber_top *hark__fiber_top_of(const struct hark__stacks *s, const struct hark__fiber *f,
                                                 struct hark__fiber_top *copy)
{
	uintptr_t word[WORDS_MAX];
	if (!f->aside)
		return f->top;
	decode(s, f->swapped, word);
	memcpy(copy, word + f->swapped->words - sizeof *copy / sizeof *word, sizeof *copy);
	return copy;
}
