/* serve_limits.c — see serve_limits.h. The hooks: the loop's thread of each process that accepts. */
#include "serve_limits.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

struct serve_shared {
	_Atomic pid_t
		pids[COUNTERS_SLOTS]; /* whose slot it is; 0: free. Atomic: workers take one each at the same time */
	struct tickets tickets;
	struct counters counters; /* written alone: hark serve has no status */
};

static struct limits_worker *own_worker(struct serve_limits *l)
{
	pid_t me = getpid();
	if (l->pid == me)
		return &l->worker;
	l->pid = me;
	l->worker.slot = 0;
	for (int i = 0; i < COUNTERS_SLOTS; i++) {
		pid_t none = 0;
		if (!atomic_compare_exchange_strong(&l->shared->pids[i], &none, me))
			continue;
		l->worker.slot = i;
		break;
	}
	limits_join(&l->worker);
	return &l->worker;
}

static int64_t pace(void *arg)
{
	struct serve_limits *l = arg;
	return l->once && l->taken ? HARK_FOREVER : limits_pace(own_worker(l));
}

static int admit(struct hark_conn *c, void *arg)
{
	struct serve_limits *l = arg;
	(void)own_worker(l);
	int ticket = chain_admit(c, l->chain);
	if (ticket >= 0 && l->once && !l->taken) {
		l->taken = true;
		hark_retire();
	}
	return ticket;
}

static void leave(int ticket, void *arg)
{
	limits_leave(ticket, own_worker(arg));
}

static void *map(size_t bytes)
{
	void *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	return at != MAP_FAILED ? at : NULL;
}

int serve_limits_open(struct serve_limits *l, const struct config_service *c, bool once)
{
	struct config_service own = *c;
	if (own.workers <= 1)
		own.max_conns = 0; /* hark_serve() has that itself */
	l->once = once;
	l->shared = map(sizeof *l->shared);
	if (l->shared == NULL)
		return -ENOMEM;
	l->worker = (struct limits_worker){.counters = &l->shared->counters};
	l->tickets = (struct tickets_user){.shared = &l->shared->tickets, .lifetime_ns = c->tls_tickets_ns};
	int r = tickets_init(&l->shared->tickets);
	if (r < 0)
		return r;
	if (!limits_any(&own))
		return 0;
	l->state = map(limits_bytes(true));
	r = l->state != NULL ? limits_init(l->state) : -ENOMEM;
	if (r == 0)
		r = limits_new(&own, l->state, &l->limits);
	l->worker.limits = l->limits;
	return r;
}

void serve_limits_close(struct serve_limits *l)
{
	free(l->limits);
	if (l->state != NULL)
		(void)munmap(l->state, limits_bytes(true));
	if (l->shared != NULL)
		(void)munmap(l->shared, sizeof *l->shared);
	*l = (struct serve_limits){0};
}

void serve_limits_hook(struct serve_limits *l, const struct chain *chain, struct hark_serve_opts *opts)
{
	const struct config_service *c = chain->conf;
	l->chain = chain;
	if (l->limits == NULL && !l->once && c->n_proxy_from == 0 && chain->n_renews == 0)
		return;
	bool paced = l->once || c->rate.events > 0 || c->max_load > 0 || (c->max_conns > 0 && c->workers > 1);
	opts->pace = paced ? pace : NULL; /* not to look at each datagram for nothing */
	opts->admit = admit;
	opts->leave = leave;
	opts->limit_arg = l;
}

void serve_limits_lent(struct serve_limits *l, bool lent)
{
	if (lent)
		limits_lend(own_worker(l));
	else
		limits_returned(own_worker(l));
}

void serve_limits_worker_down(struct serve_limits *l, pid_t pid)
{
	for (int i = 0; l->state != NULL && i < COUNTERS_SLOTS; i++) {
		if (atomic_load(&l->shared->pids[i]) != pid)
			continue;
		limits_forget(l->state, i);
		atomic_store(&l->shared->pids[i], 0);
	}
}
