/* heap.c — see heap.h. */
#include "base/heap.h"

#include <errno.h>
#include <stdlib.h>

#include "base/sys.h"

#define CHILDREN 4u

static void place(struct hark__heap *h, uint32_t i, struct hark__heap_slot s)
{
	h->slots[i] = s;
	s.node->place = i + 1;
}

static void sift_up(struct hark__heap *h, uint32_t i, struct hark__heap_slot s)
{
	while (i > 0) {
		uint32_t parent = (i - 1) / CHILDREN;
		if (h->slots[parent].key <= s.key)
			break;
		place(h, i, h->slots[parent]);
		i = parent;
	}
	place(h, i, s);
}

static void sift_down(struct hark__heap *h, uint32_t i, struct hark__heap_slot s)
{
	for (;;) {
		uint32_t first = i * CHILDREN + 1;
		if (first >= h->n)
			break;
		uint32_t last = first + CHILDREN < h->n ? first + CHILDREN : h->n;
		uint32_t least = first;
		for (uint32_t c = first + 1; c < last; c++)
			if (h->slots[c].key < h->slots[least].key)
				least = c;
		if (h->slots[least].key >= s.key)
			break;
		place(h, i, h->slots[least]);
		i = least;
	}
	place(h, i, s);
}

static void settle(struct hark__heap *h, uint32_t i, struct hark__heap_slot s)
{
	if (i > 0 && h->slots[(i - 1) / CHILDREN].key > s.key)
		sift_up(h, i, s);
	else
		sift_down(h, i, s);
}

void hark__heap_done(struct hark__heap *h)
{
	free(h->slots);
	*h = (struct hark__heap){0};
}

int hark__heap_set(struct hark__heap *h, struct hark__heap_node *node, int64_t key)
{
	struct hark__heap_slot s = {.key = key, .node = node};
	if (node->place != 0) {
		settle(h, node->place - 1, s);
		return 0;
	}
	if (h->n == h->cap) {
		uint32_t cap = h->cap ? h->cap * 2 : 64;
		struct hark__heap_slot *grown = hark__sys.realloc(h->slots, cap * sizeof *grown);
		if (grown == NULL)
			return -ENOMEM;
		h->slots = grown;
		h->cap = cap;
	}
	h->n++;
	sift_up(h, h->n - 1, s);
	return 0;
}

void hark__heap_remove(struct hark__heap *h, struct hark__heap_node *node)
{
	if (node->place == 0)
		return;
	uint32_t i = node->place - 1;
	node->place = 0;
	h->n--;
	if (i != h->n)
		settle(h, i, h->slots[h->n]);
}

struct hark__heap_node *hark__heap_least(const struct hark__heap *h, int64_t *key)
{
	if (h->n == 0)
		return NULL;
	*key = h->slots[0].key;
	return h->slots[0].node;
}
