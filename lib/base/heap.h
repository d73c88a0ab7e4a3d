/* heap.h — a 4-ary min-heap of moments, for timers: four children share a cache line of keys.
 *
 * Nodes are intrusive and know their place, so that moving and removing one needs no search. One thread. */
#ifndef HARK__HEAP_H
#define HARK__HEAP_H

#include <stddef.h>
#include <stdint.h>

struct hark__heap_node {
	uint32_t place; /* 1 + index; 0: in no heap */
};

struct hark__heap_slot {
	int64_t key;
	struct hark__heap_node *node;
};

struct hark__heap {
	struct hark__heap_slot *slots;
	uint32_t n, cap;
};

void hark__heap_done(struct hark__heap *h);

/* Puts node in, or moves it, to key. 0 or -ENOMEM (only when it was not in). */
int hark__heap_set(struct hark__heap *h, struct hark__heap_node *node, int64_t key);

void hark__heap_remove(struct hark__heap *h, struct hark__heap_node *node);

/* The least node, or NULL; its key through *key. */
struct hark__heap_node *hark__heap_least(const struct hark__heap *h, int64_t *key);

#endif
