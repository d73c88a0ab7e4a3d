/* fuzz_client_hello.c — any bytes whatever as a TLS client's first: a hello, or what more is needed for one, or a
 * reason. What is taken is taken the same from its own bytes alone, and in other records; and no beginning of it is
 * anything but a beginning. */
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "client_hello.h"

#define RECORD_HEADER 5

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(bool holds)
{
	if (!holds)
		abort();
}

/* A copy of just so many bytes, so that reading past them shows. */
static ssize_t parse(const uint8_t *data, size_t n, struct client_hello *out)
{
	uint8_t *copy = malloc(n > 0 ? n : 1);
	must(copy != NULL);
	memcpy(copy, data, n);
	ssize_t r = client_hello_parse(copy, n, out);
	free(copy);
	return r;
}

static void check_same(const struct client_hello *a, const struct client_hello *b)
{
	must(strcmp(a->name, b->name) == 0 && a->protocols_bytes == b->protocols_bytes);
	must(memcmp(a->protocols, b->protocols, a->protocols_bytes) == 0);
}

/* The message out of its records, into records of each bytes. */
static size_t cut_again(const uint8_t *data, size_t n, size_t each, uint8_t *out)
{
	size_t size = 0, in_record = each;
	for (size_t at = 0, left = 0; at < n; at++, left--) {
		if (left == 0) {
			left = (size_t)data[at + 3] << 8 | data[at + 4];
			at += RECORD_HEADER;
		}
		if (in_record == each) {
			memcpy(out + size, "\x16\3\1\0\0", RECORD_HEADER);
			size += RECORD_HEADER;
			in_record = 0;
		}
		out[size++] = data[at];
		in_record++;
		out[size - in_record - 2] = (uint8_t)(in_record >> 8);
		out[size - in_record - 1] = (uint8_t)in_record;
	}
	return size;
}

static void check_taken(const uint8_t *data, size_t n, const struct client_hello *h)
{
	struct client_hello other;
	must(strlen(h->name) <= CLIENT_NAME_MAX && h->protocols_bytes <= sizeof h->protocols);
	for (size_t at = 0; at < h->protocols_bytes; at += 1 + h->protocols[at])
		must(h->protocols[at] > 0 && at + 1 + h->protocols[at] <= h->protocols_bytes);
	must(parse(data, n, &other) == (ssize_t)n);
	check_same(h, &other);
	for (size_t k = 0; k < n; k += 1 + n / 16)
		must(parse(data, k, &other) == 0);
	uint8_t *again = malloc(n * (1 + RECORD_HEADER));
	must(again != NULL);
	for (size_t each = 1; each < 8; each++) {
		size_t size = cut_again(data, n, each, again);
		ssize_t r = parse(again, size, &other);
		must(r == (size <= CLIENT_HELLO_MAX ? (ssize_t)size : -EMSGSIZE));
		if (r > 0)
			check_same(h, &other);
	}
	free(again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct client_hello h;
	ssize_t r = parse(data, size, &h);
	must(r >= 0 ? (size_t)r <= size && r <= CLIENT_HELLO_MAX : r == -EPROTO || r == -EMSGSIZE);
	must((r < 0) == (h.why != NULL));
	if (r > 0)
		check_taken(data, (size_t)r, &h);
	else
		must(h.name[0] == '\0' && h.protocols_bytes == 0);
	return 0;
}
