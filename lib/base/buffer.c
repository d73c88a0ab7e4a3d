/* buffer.c — see buffer.h. */
#include "base/buffer.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/sys.h"

#define POOL_MAX      64 /* buffers a thread keeps: 1 MB */
#define POOL_WIDE_MAX 4

/* Each free buffer's first word points at the next. */
struct pool {
	void *first;
	int n, max;
};

static __thread struct {
	struct pool common, wide;
	bool keyed;
	char *spill;
} mine = {.common = {.max = POOL_MAX}, .wide = {.max = POOL_WIDE_MAX}};

static pthread_key_t pool_key;
static pthread_once_t pool_once = PTHREAD_ONCE_INIT;

static void pool_empty(struct pool *p)
{
	while (p->first != NULL) {
		void *next = *(void **)p->first;
		free(p->first);
		p->first = next;
	}
	p->max = 0; /* what other destructors still give back is freed at once */
}

static void pools_drop(void *unused)
{
	(void)unused;
	pool_empty(&mine.common);
	pool_empty(&mine.wide);
	free(mine.spill);
	mine.spill = NULL;
}

static void pool_make_key(void)
{
	(void)pthread_key_create(&pool_key, pools_drop); /* without a key a thread's are lost at its end, no more */
}

/* NULL: buffers of this size are in none. */
static struct pool *pool_of(size_t cap)
{
	return cap == HARK__BUFFER_BYTES ? &mine.common : cap == HARK__BUFFER_WIDE ? &mine.wide : NULL;
}

static char *get(size_t cap)
{
	struct pool *p = pool_of(cap);
	if (p == NULL || p->first == NULL)
		return hark__sys.malloc(cap);
	char *got = p->first;
	p->first = *(void **)got;
	p->n--;
	return got;
}

/* The thread's end gives all back. */
static void drop_at_end(void)
{
	if (mine.keyed)
		return;
	mine.keyed = true;
	(void)pthread_once(&pool_once, pool_make_key);
	(void)pthread_setspecific(pool_key, &mine);
}

static void put(char *data, size_t cap)
{
	struct pool *p = pool_of(cap);
	if (p != NULL)
		drop_at_end();
	if (p == NULL || p->n >= p->max) {
		free(data);
		return;
	}
	*(void **)data = p->first;
	p->first = data;
	p->n++;
}

char *hark__buffer_spill(void)
{
	if (mine.spill == NULL) {
		drop_at_end();
		mine.spill = hark__sys.malloc(HARK__SPILL_BYTES);
	}
	return mine.spill;
}

void hark__buffer_release(struct hark__buffer *b)
{
	if (b->data != NULL)
		put(b->data, b->cap);
	*b = (struct hark__buffer){0};
}

static size_t size_for(size_t n)
{
	size_t cap = HARK__BUFFER_BYTES;
	while (cap < n)
		cap *= 2;
	return n > HARK__BUFFER_WIDE / 2 && n <= HARK__BUFFER_WIDE ? HARK__BUFFER_WIDE : cap;
}

int hark__buffer_reserve(struct hark__buffer *b, size_t room)
{
	size_t len = hark__buffer_len(b);
	if (b->data != NULL && room <= b->cap - b->tail)
		return 0;
	if (b->data != NULL && room <= b->cap - len) {
		memmove(b->data, hark__buffer_head(b), len);
		b->head = 0;
		b->tail = (uint32_t)len;
		return 0;
	}
	size_t cap = size_for(len + room);
	if (cap > UINT32_MAX / 2)
		return -ENOMEM;
	char *data = get(cap);
	if (data == NULL)
		return -ENOMEM;
	if (len > 0)
		memcpy(data, hark__buffer_head(b), len);
	hark__buffer_release(b);
	*b = (struct hark__buffer){.data = data, .tail = (uint32_t)len, .cap = (uint32_t)cap};
	return 0;
}

void hark__buffer_consume(struct hark__buffer *b, size_t n)
{
	b->head += (uint32_t)n;
	if (b->head == b->tail)
		hark__buffer_release(b);
}

size_t hark__buffer_take(struct hark__buffer *b, void *to, size_t cap)
{
	size_t n = hark__buffer_len(b);
	if (n > cap)
		n = cap;
	if (n > 0) {
		memcpy(to, hark__buffer_head(b), n);
		hark__buffer_consume(b, n);
	}
	return n;
}
