/* serve_thread.c — a thread for each connection. Its calls wait in poll(2); its end is posted to the worker's loop.
 *
 * It has the signal mask of the thread that serves, as what it starts inherits it. */
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

#include "base/sys.h"
#include "serve/serve_life.h"

struct threaded {
	struct hark__list link;    /* in server->conns: the loop's thread alone */
	struct hark__waiter ended; /* posted when the thread is through; it touches nothing afterwards */
	struct hark__server *server;
	struct hark_conn *conn; /* closed on the loop's thread: cut() may use its descriptor */
};

static void ended_run(struct hark__waiter *w)
{
	struct threaded *t = hark__container(w, struct threaded, ended);
	struct hark__server *s = t->server;
	struct hark_conn *c = t->conn;
	hark__list_remove(&t->link);
	free(t);
	hark__server_finish(s, c);
}

static void *thread_main(void *arg)
{
	struct threaded *t = arg;
	struct hark__server *s = t->server;
	hark__wait_served(true);
	hark__server_run(s, t->conn);
	pthread_mutex_lock(&s->lock);
	if (s->abandoned) { /* the loop may be gone */
		hark_abort(t->conn);
		free(t);
	} else {
		hark__loop_post(s->loop, &t->ended);
	}
	pthread_mutex_unlock(&s->lock);
	return NULL;
}

static int create(struct threaded *t, size_t stack_bytes)
{
	pthread_attr_t attr;
	pthread_t thread;
	(void)pthread_attr_init(&attr);
	(void)pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	if (stack_bytes > 0)
		(void)pthread_attr_setstacksize(&attr, stack_bytes); /* too small for the system: its default */
	int r = hark__sys.pthread_create(&thread, &attr, thread_main, t);
	(void)pthread_attr_destroy(&attr);
	return -r;
}

static int start(struct hark__server *s, struct hark_conn *c)
{
	struct threaded *t = hark__sys.calloc(1, sizeof *t);
	if (t == NULL)
		return -ENOMEM;
	*t = (struct threaded){.ended.run = ended_run, .server = s, .conn = c};
	hark__list_append(&s->conns, &t->link);
	int r = create(t, s->opts.stack_bytes);
	if (r < 0) {
		hark__list_remove(&t->link);
		free(t);
	}
	return r;
}

/* Wakes those that wait to read with a longer time-out in mind; who writes looks at the drain often. The other
 * direction is left: a write in its midst must not look ended in order. */
static void cut(struct hark__server *s, int64_t late_ns)
{
	(void)late_ns;
	for (struct hark__list *at = s->conns.next; at != &s->conns; at = at->next) {
		const struct hark_conn *c = hark__container(at, struct threaded, link)->conn;
		if (c->src.fd >= 0)
			(void)hark__sys.shutdown(c->src.fd, SHUT_RD);
	}
}

static void abandon(struct hark__server *s)
{
	for (struct hark__list *at = s->conns.next; at != &s->conns; at = at->next)
		hark__server_leave(s, hark__container(at, struct threaded, link)->conn->ticket);
}

const struct hark__model hark__model_thread = {.start = start, .cut = cut, .abandon = abandon};
