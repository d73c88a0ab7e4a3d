/* siphash.h — a hash with a secret: who can choose what is hashed can choose neither its place in a table nor what
 * shares it. */
#ifndef SIPHASH_H
#define SIPHASH_H

#include <stddef.h>
#include <stdint.h>

/* SipHash-2-4. Never suspends; any thread. */
uint64_t siphash(const uint64_t secret[2], const void *data, size_t n);

#endif
