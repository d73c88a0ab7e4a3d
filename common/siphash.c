/* siphash.c — see siphash.h. Aumasson and Bernstein, SipHash: a fast short-input PRF, 2012. */
#include "siphash.h"

#include <endian.h>
#include <string.h>

static uint64_t rotated(uint64_t x, int by)
{
	return x << by | x >> (64 - by);
}

static void rounds(uint64_t v[4], int n)
{
	while (n-- > 0) {
		v[0] += v[1], v[2] += v[3];
		v[1] = rotated(v[1], 13) ^ v[0], v[3] = rotated(v[3], 16) ^ v[2];
		v[0] = rotated(v[0], 32);
		v[2] += v[1], v[0] += v[3];
		v[1] = rotated(v[1], 17) ^ v[2], v[3] = rotated(v[3], 21) ^ v[0];
		v[2] = rotated(v[2], 32);
	}
}

uint64_t siphash(const uint64_t secret[2], const void *data, size_t n)
{
	uint64_t v[4] = {secret[0] ^ UINT64_C(0x736f6d6570736575), secret[1] ^ UINT64_C(0x646f72616e646f6d),
	                 secret[0] ^ UINT64_C(0x6c7967656e657261), secret[1] ^ UINT64_C(0x7465646279746573)};
	for (size_t i = 0; i <= n / 8; i++) {
		uint64_t word = 0;
		memcpy(&word, (const char *)data + 8 * i, i < n / 8 ? 8 : n % 8);
		word = le64toh(word);
		if (i == n / 8)
			word |= (uint64_t)n << 56;
		v[3] ^= word;
		rounds(v, 2);
		v[0] ^= word;
	}
	v[2] ^= 0xff;
	rounds(v, 4);
	return v[0] ^ v[1] ^ v[2] ^ v[3];
}
