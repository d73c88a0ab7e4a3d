/* serve_process.c — the classic concurrent server: a forked child for each connection.
 *
 * A child's end is noticed by its pidfd and waited for by its own number, so children of the caller's are never
 * touched, and SIGCHLD stays the caller's. A child knows nothing of the parent's loop: its calls wait in poll(2).
 *
 * A child tells its connection's close itself, and notes so in a byte that it shares with the parent, which tells of
 * those that were killed before, or called exit(3). For them the parent keeps what the descriptor told of both ends. */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/stdio.h"
#include "base/sys.h"
#include "conn/datagram.h"
#include "conn/listen.h"
#include "loop/drain.h"
#include "serve/serve_life.h"

#define LOOK_NS (100 * HARK_MS) /* between looks at a child that there was no descriptor for */
#define NOTED   65536           /* children at once whose progress is known: a byte each */
#define DEAF_NS HARK_S          /* past the grace's end: a child that still runs then is killed */

enum progress { NONE = 0, RUNS, CLOSED };

struct child {
	struct hark__list link; /* in server->conns */
	struct hark__source pidfd;
	struct hark__waiter waiter;
	struct hark__timer look;
	struct hark__server *server;
	struct hark__acceptor *lent;
	struct hark_conn *conn; /* handed off; NULL: nobody asks */
	struct hark__conn_facts facts;
	atomic_uchar *progress; /* NULL: not known. Relaxed: the end of the process orders it */
	int ticket;
	pid_t pid;
};

static_assert(sizeof(atomic_uchar) == 1, "memchr(3) finds one");

/* ---- what a child has told ----------------------------------------------------------------------- */

/* The lowest byte that is free: few pages are touched. */
static atomic_uchar *progress_begin(struct hark__server *s)
{
	if (s->opts.event == NULL)
		return NULL;
	if (s->progress == NULL) {
		void *map = hark__sys.mmap(NULL, NOTED, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
		if (map == MAP_FAILED)
			return NULL;
		s->progress = map;
	}
	atomic_uchar *p = memchr((void *)s->progress, NONE, NOTED);
	if (p != NULL)
		atomic_store_explicit(p, RUNS, memory_order_relaxed);
	return p;
}

static void progress_end(atomic_uchar *p)
{
	if (p != NULL)
		atomic_store_explicit(p, NONE, memory_order_relaxed);
}

void hark__server_forget_children(struct hark__server *s)
{
	if (s->progress != NULL)
		(void)munmap((void *)s->progress, NOTED);
	s->progress = NULL;
}

/* As of waitpid(2). */
static int status_of(const siginfo_t *i)
{
	return i->si_code == CLD_EXITED   ? i->si_status << 8
	       : i->si_code == CLD_DUMPED ? i->si_status | WCOREFLAG
	                                  : i->si_status;
}

/* Where it has not been told. Without a byte a child that ended well is believed to have told it. how NULL: the caller
 * ignores SIGCHLD, and the kernel keeps no status. */
static void tell_close(struct child *p, const siginfo_t *how)
{
	int status = how != NULL ? status_of(how) : 0;
	bool told = p->progress != NULL ? atomic_load_explicit(p->progress, memory_order_relaxed) == CLOSED
	                                : status == 0;
	if (p->conn == NULL || told || p->server->abandoned)
		return;
	hark__server_event(p->server, (struct hark_event){.kind = HARK_EVENT_CLOSE,
	                                                  .conn = p->conn,
	                                                  .pid = p->pid,
	                                                  .status = status,
	                                                  .error = how != NULL ? 0 : ECHILD,
	                                                  .ticket = p->ticket});
}

static bool serves_one; /* set before a box runs here */

bool hark_serves_one(void)
{
	return serves_one;
}

/* ---- the parent's -------------------------------------------------------------------------------- */

static void child_ended(struct child *p, const siginfo_t *how)
{
	struct hark__server *s = p->server;
	struct hark__acceptor *lent = p->lent;
	int ticket = p->ticket;
	hark__timer_clear(s->loop, &p->look);
	hark__source_detach(&p->pidfd);
	if (p->pidfd.fd >= 0)
		(void)hark__sys.close(p->pidfd.fd);
	hark__list_remove(&p->link);
	tell_close(p, how);
	if (!s->abandoned)
		progress_end(p->progress);
	if (p->conn != NULL)
		hark__conn_free(p->conn);
	free(p);
	hark__server_ended(s, lent, ticket);
}

static void watch(struct child *p)
{
	struct hark__loop *l = p->server->loop;
	struct hark__engine *e = hark__loop_engine(l);
	p->pidfd.in = &p->waiter;
	hark__ready_clear(&p->pidfd, HARK__IN | HARK__OUT);
	if (p->pidfd.fd < 0 || e->ops->arm(e, &p->pidfd, HARK__IN) < 0)
		(void)hark__timer_set(l, &p->look, hark_after(LOOK_NS)); /* its slot exists: it was set at the start */
}

static void child_run(struct hark__waiter *w)
{
	struct child *p = hark__container(w, struct child, waiter);
	siginfo_t info = {0};
	int r = hark__sys.waitid(P_PID, (id_t)p->pid, &info, WEXITED | WNOHANG);
	if (r == 0 && info.si_pid == 0)
		watch(p); /* not yet */
	else if (r == 0 || errno != EINTR)
		child_ended(p, r == 0 ? &info : NULL); /* ECHILD: the kernel has reaped it */
	else
		hark__loop_wake(p->server->loop, w);
}

static _Noreturn void serve_in_child(struct hark__server *s, struct hark_conn *c, atomic_uchar *progress,
                                     bool all_streams)
{
	serves_one = true;
	hark__stdio_forked();
	hark__drain_forked();
	for (int i = 0; i < s->n_acceptors; i++)
		if (s->acceptors[i].src.fd >= 0 && !s->opts.wait) {
			hark__listener_shut(s->acceptors[i].listener); /* here nobody holds it: listener.c */
			if (s->acceptors[i].copied)
				(void)hark__sys.close(s->acceptors[i].src.fd);
			s->acceptors[i].src.fd = -1;
			hark__datagram_socket_close(s->acceptors[i].datagrams);
			s->acceptors[i].datagrams = NULL;
		}
	for (struct hark__list *at = s->pending.next; at != &s->pending; at = at->next) /* others' connections */
		(void)hark__sys.close(hark__container(at, struct hark_conn, link)->src.fd);
	if (s->life.fd >= 0)
		(void)hark__sys.close(s->life.fd);
	hark__wait_served(true);
	hark__server_run(s, c);
	if (progress != NULL)
		atomic_store_explicit(progress, CLOSED, memory_order_relaxed);
	hark__stdio_end(all_streams);
	if (!hark__server_ends_in_order(c))
		hark_abort(c);
	else
		(void)hark_close(c);
	_exit(0);
}

/* With wait c is no connection, and the socket the caller's. */
static void keep_facts(const struct hark__server *s, struct child *p, struct hark_conn *c)
{
	if (s->opts.event == NULL || c->lent != NULL) {
		hark__conn_free(c);
		return;
	}
	hark__conn_hand_off(c, &p->facts);
	p->conn = c;
}

static int start(struct hark__server *s, struct hark_conn *c)
{
	struct child *p = hark__sys.calloc(1, sizeof *p);
	if (p == NULL)
		return -ENOMEM;
	p->server = s;
	p->waiter.run = child_run;
	p->look.waiter = &p->waiter;
	int r = hark__timer_set(s->loop, &p->look, HARK_FOREVER);
	p->progress = progress_begin(s);
	bool all_streams = hark__stdio_before_fork();
	pid_t pid = r == 0 ? hark__sys.fork() : -1;
	if (pid < 0) {
		r = r < 0 ? r : -errno;
		progress_end(p->progress);
		hark__timer_clear(s->loop, &p->look);
		free(p);
		return r;
	}
	if (pid == 0)
		serve_in_child(s, c, p->progress, all_streams);
	p->lent = c->lent;
	p->ticket = c->ticket;
	keep_facts(s, p, c);
	p->pid = pid;
	hark__source_init(&p->pidfd, hark__sys.pidfd_open(pid, 0));
	hark__list_append(&s->conns, &p->link);
	watch(p);
	return 0;
}

/* The children have heard of the drain themselves, know its deadline, and have things of their own to end: programs.
 * What is left a while later does not listen. */
static void cut(struct hark__server *s, int64_t late_ns)
{
	if (late_ns < DEAF_NS && !s->cancelled) /* of that they hear nothing */
		return;
	for (struct hark__list *at = s->conns.next; at != &s->conns; at = at->next)
		(void)hark__sys.kill(hark__container(at, struct child, link)->pid, SIGKILL);
}

static void abandon(struct hark__server *s)
{
	for (struct hark__list *at = s->conns.next; at != &s->conns; at = at->next)
		hark__server_leave(s, hark__container(at, struct child, link)->ticket);
}

const struct hark__model hark__model_process = {.start = start, .cut = cut, .abandon = abandon};
