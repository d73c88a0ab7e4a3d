/* buffer.c — see buffer.h. */
#include "base/buffer.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/sys.h"

#define POOL_MAX 64 /* buffers a thread keeps: 1 MB */

static __thread struct {
	void *first; /* each free buffer's first word points at the next */
	int n;
	bool keyed;
	char *spill;
} pool;

static pthread_key_t pool_key;
static pthread_once_t pool_once = PTHREAD_ONCE_INIT;

static void pool_drop(void *unused)
{
	(void)unused;
	while (pool.first != NULL) {
		void *next = *(void **)pool.first;
		free(pool.first);
		pool.first = next;
	}
	free(pool.spill);
	pool.spill = NULL;
	pool.n = POOL_MAX; /* what other destructors still give back is freed at once */
}

static void pool_make_key(void)
{
	(void)pthread_key_create(&pool_key, pool_drop); /* without a key a thread's pool is lost at its end, no more */
}

static char *pool_get(void)
{
	if (pool.first == NULL)
		return hark__sys.malloc(HARK__BUFFER_BYTES);
	char *got = pool.first;
	pool.first = *(void **)got;
	pool.n--;
	return got;
}

/* The thread's end gives all back. */
static void drop_at_end(void)
{
	if (pool.keyed)
		return;
	pool.keyed = true;
	(void)pthread_once(&pool_once, pool_make_key);
	(void)pthread_setspecific(pool_key, &pool);
}

static void pool_put(char *data)
{
	drop_at_end();
	if (pool.n >= POOL_MAX) {
		free(data);
		return;
	}
	*(void **)data = pool.first;
	pool.first = data;
	pool.n++;
}

char *hark__buffer_spill(void)
{
	if (pool.spill == NULL) {
		drop_at_end();
		pool.spill = hark__sys.malloc(HARK__SPILL_BYTES);
	}
	return pool.spill;
}

void hark__buffer_release(struct hark__buffer *b)
{
	if (b->data != NULL) {
		if (b->cap == HARK__BUFFER_BYTES)
			pool_put(b->data);
		else
			free(b->data);
	}
	*b = (struct hark__buffer){0};
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
	size_t cap = HARK__BUFFER_BYTES;
	while (cap < len + room)
		cap *= 2;
	if (cap > UINT32_MAX / 2)
		return -ENOMEM;
	char *data = cap == HARK__BUFFER_BYTES ? pool_get() : hark__sys.malloc(cap);
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
