/* reply.c — see reply.h. Any fiber, thread or process: it only looks, and remembers by relaxed atomics, each of which
 * is right by itself.
 *
 * A loop may carry as many datagrams at once as two sockets' buffers hold, some hundreds, so one answer a source is not
 * enough to remember. Answers lie in sets of a cache line by a hash with a secret: nobody can choose what shares one.
 * Sources of one hash share their count. */
#include "reply.h"

#include <errno.h>
#include <limits.h>
#include <netinet/in.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "options.h"
#include "siphash.h"
#include "source_rate.h"

#define LOW_PORTS \
	IPPORT_RESERVED /* ports below 1024: echo 7, daytime 13, qotd 17, chargen 19, time 37 and their like */

#define SETS       2048 /* of answers that are remembered; a power of two */
#define SET        8    /* answers */
#define SOURCES    1024 /* whose echoes are counted; a power of two */
#define BYTES_MOST 256  /* of an answer are looked at, beside its length */

struct echoes {
	_Atomic int64_t second; /* in which n are counted */
	_Atomic uint32_t n;
};

/* Shared with the children that this process forks. */
struct memory {
	_Alignas(64) _Atomic uint64_t answers[SETS][SET]; /* digests of source and answer */
	struct echoes sources[SOURCES];
	_Atomic unsigned turn; /* which of a set gives way */
};

static struct memory *memory; /* NULL: nothing is remembered */
static uint64_t secret[2];

/* What of an answer is remembered. */
struct said {
	uint64_t source, n; /* n: all of its bytes */
	char head[BYTES_MOST];
};

static uint64_t digest_of(const struct said *s)
{
	return siphash(secret, s, offsetof(struct said, head) + (s->n < BYTES_MOST ? s->n : BYTES_MOST));
}

static uint64_t source_of(const struct hark_endpoint *peer)
{
	return siphash(secret, &peer->addr, peer->len);
}

/* In a forked process anew: one service's memory is none of another's. */
void reply_begin(void)
{
	static pid_t owner;
	if (memory != NULL && owner == getpid())
		return;
	if (memory != NULL)
		(void)munmap(memory, sizeof *memory);
	owner = getpid();
	arc4random_buf(secret, sizeof secret);
	void *at = mmap(NULL, sizeof *memory, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	memory = at != MAP_FAILED ? at : NULL;
}

static bool is_known(uint64_t digest)
{
	for (int i = 0; i < SET; i++)
		if (atomic_load_explicit(&memory->answers[digest % SETS][i], memory_order_relaxed) == digest)
			return true;
	return false;
}

/* In the place of any other of its set. */
static void remember(uint64_t digest)
{
	if (is_known(digest))
		return;
	unsigned turn = atomic_fetch_add_explicit(&memory->turn, 1, memory_order_relaxed);
	atomic_store_explicit(&memory->answers[digest % SETS][turn % SET], digest, memory_order_relaxed);
}

/* Whether the datagram is what its source was answered before, once too often. */
static bool is_loop(struct hark_conn *c, const struct hark_endpoint *peer)
{
	struct said s = {.source = source_of(peer), .n = hark_buffered(c)};
	if (memory == NULL || s.n == 0 || hark_peek(c, s.head, sizeof s.head) < 0 || !is_known(digest_of(&s)))
		return false;
	struct echoes *e = &memory->sources[s.source % SOURCES];
	int64_t second = hark_now() / HARK_S;
	if (atomic_exchange_explicit(&e->second, second, memory_order_relaxed) != second)
		atomic_store_explicit(&e->n, 0, memory_order_relaxed);
	return atomic_fetch_add_explicit(&e->n, 1, memory_order_relaxed) >= REPLY_ECHOES_MAX;
}

ssize_t reply_write(struct hark_conn *c, const void *buf, size_t n)
{
	struct hark_endpoint peer;
	if (memory != NULL && hark_type(c) == SOCK_DGRAM && hark_peer_endpoint(c, &peer) == 0) {
		struct said s = {.source = source_of(&peer), .n = n};
		memcpy(s.head, buf, n < BYTES_MOST ? n : BYTES_MOST);
		remember(digest_of(&s));
	}
	return hark_write(c, buf, n);
}

static bool from_low_port(const struct hark_endpoint *peer)
{
	const struct sockaddr_in *v4 = (const struct sockaddr_in *)&peer->addr;
	const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)&peer->addr;
	return ntohs(peer->addr.ss_family == AF_INET ? v4->sin_port : v6->sin6_port) < LOW_PORTS;
}

/* 1: the peer is known, a stream's or a local one, and no rule applies; 0: a source that may be forged; -1: nobody to
 * answer, or none that is answered. */
static int judge(struct hark_conn *c, const struct reply_rules *rules, struct hark_endpoint *peer)
{
	if (hark_type(c) != SOCK_DGRAM)
		return 1;
	if (hark_peer_endpoint(c, peer) < 0)
		return -1;
	if (peer->addr.ss_family != AF_INET && peer->addr.ss_family != AF_INET6)
		return 1; /* the kernel vouches for a local peer */
	return (!rules->any_port && from_low_port(peer)) || hark_is_listener(peer) || is_loop(c, peer) ? -1 : 0;
}

ssize_t reply_limit(struct hark_conn *c, const struct reply_rules *rules)
{
	static const struct reply_rules careful;
	struct hark_endpoint peer;
	if (rules == NULL)
		rules = &careful;
	int known = judge(c, rules, &peer);
	return known < 0 ? -1 : known > 0 || rules->longer ? SSIZE_MAX : (ssize_t)hark_buffered(c);
}

bool reply_now(struct hark_conn *c, struct reply_paced *r)
{
	struct hark_endpoint peer;
	int known = judge(c, &r->rules, &peer);
	return known > 0 || (known == 0 && source_rate_take(r->sources, &peer, r->answers));
}

int reply_paced_open(void *state, struct hark_why *why)
{
	struct reply_paced *r = state;
	reply_begin();
	r->sources = source_rate_open();
	return r->sources != NULL ? 0 : box_why(why, -ENOMEM, "out of memory");
}

void reply_paced_close(void *state)
{
	struct reply_paced *r = state;
	source_rate_close(r->sources);
}

const struct hark_option reply_paced_options[] = {REPLY_ANY_PORT, REPLY_ANSWERS, REPLY_LONGER_FORMER, {NULL}};

int reply_open(void *state, struct hark_why *why)
{
	(void)state, (void)why;
	reply_begin();
	return 0;
}

const struct hark_option reply_options[] = {REPLY_ANY_PORT, REPLY_LONGER, {NULL}};
