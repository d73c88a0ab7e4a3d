/* source_rate.c — see source_rate.h.
 *
 * Each place of the table holds one moment: when the next answer would be due if answers were spread evenly (GCRA,
 * ITU-T I.371). A place names no source, so nobody fills the table; which source has which place is secret, so nobody
 * aims at another one's. */
#include "source_rate.h"

#include <netinet/in.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/random.h>

#include "siphash.h"

#define PLACES 8192u /* 64 KB, of which what is used is taken */

struct source_rate {
	uint64_t secret[2];
	_Atomic int64_t due[PLACES]; /* hark_now(). Relaxed: each stands for itself */
};

struct source_rate *source_rate_open(void)
{
	struct source_rate *s = mmap(NULL, sizeof *s, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	if (s == MAP_FAILED)
		return NULL;
	if (getrandom(s->secret, sizeof s->secret, GRND_NONBLOCK) != sizeof s->secret)
		s->secret[0] = (uint64_t)hark_now(); /* early at boot: rather that than to wait */
	return s;
}

void source_rate_close(struct source_rate *s)
{
	if (s != NULL)
		(void)munmap(s, sizeof *s);
}

static size_t place(const struct source_rate *s, const struct hark_endpoint *source)
{
	if (source->addr.ss_family == AF_INET)
		return siphash(s->secret, &((const struct sockaddr_in *)&source->addr)->sin_addr, 4) % PLACES;
	return siphash(s->secret, &((const struct sockaddr_in6 *)&source->addr)->sin6_addr, 8) % PLACES;
}

bool source_rate_take(struct source_rate *s, const struct hark_endpoint *source, int64_t per_second)
{
	if (per_second <= 0)
		return true;
	_Atomic int64_t *due = &s->due[place(s, source)];
	int64_t step = HARK_S / per_second, now = hark_now(), next;
	int64_t at = atomic_load_explicit(due, memory_order_relaxed);
	do {
		int64_t from = at > now ? at : now;
		if (from - now > step * (SOURCE_RATE_BURST - 1))
			return false;
		next = from + step;
	} while (!atomic_compare_exchange_weak_explicit(due, &at, next, memory_order_relaxed, memory_order_relaxed));
	return true;
}
