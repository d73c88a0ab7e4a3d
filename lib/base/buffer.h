/* buffer.h — bytes on their way in or out of a connection: a flat buffer with a consumed head.
 *
 * Buffers of the common size, and those for bulk, come from small pools of the thread's, warm and without a walk
 * through malloc, so that a connection holds one only while bytes are in it. A thread may give back what another one
 * took. */
#ifndef HARK__BUFFER_H
#define HARK__BUFFER_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define HARK__BUFFER_BYTES 16384u /* the common size */
#define HARK__BULK_BYTES \
	65536u /* what is moved at a time in bulk: four records of TLS, and as much as one GSO packet */
#define HARK__BUFFER_WIDE 69632u /* for it, encrypted */

struct hark__buffer {
	char *data;    /* NULL: none held */
	uint32_t head; /* first byte not yet consumed */
	uint32_t tail; /* past the last byte */
	uint32_t cap;
};

static inline size_t hark__buffer_len(const struct hark__buffer *b)
{
	return b->tail - b->head;
}

static inline char *hark__buffer_head(const struct hark__buffer *b)
{
	return b->data + b->head;
}

/* Sees to it that at least room bytes can follow the tail; moves or grows what is held. 0 or -ENOMEM. */
int hark__buffer_reserve(struct hark__buffer *b, size_t room);

/* For which there is room. */
static inline void hark__buffer_append(struct hark__buffer *b, const void *bytes, size_t n)
{
	if (n > 0)
		memcpy(b->data + b->tail, bytes, n);
	b->tail += (uint32_t)n;
}

/* Consumes n bytes; an empty buffer's memory is given back. */
void hark__buffer_consume(struct hark__buffer *b, size_t n);

#define HARK__SPILL_BYTES (256u << 10) /* more than any datagram at the system's default limits, unix(7) */

/* The calling thread's own, for use within one call; NULL: no memory. Not thread-local itself: dlopen(3) has no room
 * for so much beside loop.h's static TLS. */
char *hark__buffer_spill(void);

/* Gives the memory back, bytes or not. */
void hark__buffer_release(struct hark__buffer *b);

/* Copies out up to cap bytes and consumes them. Returns how many. */
size_t hark__buffer_take(struct hark__buffer *b, void *to, size_t cap);

#endif
