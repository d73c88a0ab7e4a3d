/* aarch64_fibers.c — floor 3 on another machine: the switch keeps every register that a callee must keep, and scopes,
 * sleeping, cancelling and waiting work. Built and run under emulation by aarch64-fibers. No cmocka there: exit status
 * 0, or 1 with the line that does not hold. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/heap.h"
#include "hark.h"
#include "loop/engine.h"
#include "loop/fiber.h"

#define CHECK(condition) \
	do { \
		if (!(condition)) { \
			(void)fprintf(stderr, "%s:%d: %s does not hold\n", __FILE__, __LINE__, #condition); \
			exit(1); \
		} \
	} while (0)

/* liburing is not built for this machine here. */
static int no_uring(struct hark__engine **out)
{
	(void)out;
	return -ENOSYS;
}

const struct hark__engine_ops hark__engine_uring = {.name = "uring", .open = no_uring};

static int finished;

/* Many live values, integers and floating point, across many switches. */
__attribute__((noinline)) static double mix(uint64_t seed, int depth)
{
	uint64_t a = seed, b = seed * 3, c = seed * 5, d = seed * 7, e = seed * 11, f = seed * 13, g = seed * 17,
		 h = seed * 19;
	double p = (double)seed, q = p * 0.5, r = p * 0.25, s = p * 0.125, t = p + 1, u = p + 2, v = p + 3, w = p + 4;
	double deeper = depth > 0 ? mix(seed + 1, depth - 1) : 0;
	for (int i = 0; i < 50; i++) {
		CHECK(hark_yield() == 0);
		a += b;
		b += c;
		c += d;
		d += e;
		e += f;
		f += g;
		g += h;
		h += a;
		p += q;
		q += r;
		r += s;
		s += t * 1e-9;
		t += u * 1e-9;
		u += v * 1e-9;
		v += w * 1e-9;
		w += p * 1e-9;
	}
	return (double)((a ^ b ^ c ^ d ^ e ^ f ^ g ^ h) & 0xffffff) + p + q + r + s + t + u + v + w + deeper;
}

struct job {
	uint64_t seed;
	double got;
};

static void mixes(void *arg)
{
	struct job *j = arg;
	j->got = mix(j->seed, 20);
	finished++;
}

static void sleeps(void *arg)
{
	CHECK(hark_sleep(HARK_S * 1000) == -ECANCELED);
	CHECK(hark_yield() == -ECANCELED);
	(*(int *)arg)++;
}

static void reads(void *arg)
{
	char byte;
	CHECK(hark_wait_fd(*(int *)arg, HARK_IN, HARK_FOREVER) == HARK_IN);
	CHECK(read(*(int *)arg, &byte, 1) == 1 && byte == 'x');
	finished++;
}

static void blocks(void *arg)
{
	usleep(20000);
	*(int *)arg = 1;
}

static void check_engine(const char *engine)
{
	enum { N = 40 };
	struct hark__loop *l;
	struct hark_scope s;
	struct job jobs[N], alone[N];
	int cancelled = 0, fds[2], offloaded = 0;
	for (int i = 0; i < N; i++) { /* on the plain thread first: nobody to switch to */
		alone[i].seed = (uint64_t)i * 7919 + 1;
		mixes(&alone[i]);
	}
	CHECK(hark__loop_open(engine, 0, &l) == 0);
	finished = 0;
	hark_scope_open(&s);
	for (int i = 0; i < N; i++) {
		jobs[i].seed = alone[i].seed;
		CHECK(hark_go(&s, "mixes", mixes, &jobs[i]) == 0);
	}
	CHECK(hark_join(&s, HARK_FOREVER) == 0);
	hark_scope_close(&s);
	CHECK(finished == N);
	for (int i = 0; i < N; i++)
		CHECK(jobs[i].got == alone[i].got);
	hark_scope_open(&s);
	for (int i = 0; i < 3000; i++)
		CHECK(hark_go(&s, "sleeps", sleeps, &cancelled) == 0);
	int64_t start = hark_now();
	CHECK(hark_sleep(20 * HARK_MS) == 0);
	CHECK(hark_now() - start >= 20 * HARK_MS);
	hark_scope_close(&s);
	CHECK(cancelled == 3000);
	CHECK(pipe(fds) == 0);
	hark_scope_open(&s);
	finished = 0;
	CHECK(hark_go(&s, "reads", reads, &fds[0]) == 0);
	CHECK(hark_join(&s, hark_after(5 * HARK_MS)) == -ETIMEDOUT);
	CHECK(write(fds[1], "x", 1) == 1);
	CHECK(hark_join(&s, HARK_FOREVER) == 0);
	CHECK(finished == 1);
	CHECK(hark_offload(blocks, &offloaded) == 0);
	CHECK(offloaded == 1);
	hark_scope_close(&s);
	(void)close(fds[0]);
	(void)close(fds[1]);
	hark__loop_close(l);
}

static void check_heap(void)
{
	enum { N = 500 };
	static struct hark__heap_node nodes[N];
	struct hark__heap h = {0};
	unsigned seed = 1;
	int64_t last = -1, key;
	struct hark__heap_node *n;
	for (int i = 0; i < 20 * N; i++)
		if (rand_r(&seed) % 3)
			CHECK(hark__heap_set(&h, &nodes[(unsigned)rand_r(&seed) % N], rand_r(&seed) % 1000) == 0);
		else
			hark__heap_remove(&h, &nodes[(unsigned)rand_r(&seed) % N]);
	while ((n = hark__heap_least(&h, &key)) != NULL) {
		CHECK(key >= last);
		last = key;
		hark__heap_remove(&h, n);
	}
	hark__heap_done(&h);
}

int main(void)
{
	check_heap();
	check_engine("epoll");
	check_engine("poll");
	return 0;
}
