/* serve.c — hark_serve(): its checks, its models, and the server from its first to its last moment.
 *
 * What a server does in between: serve_accept.c takes connections, serve_life.c serves each, serve_drain.c ends it all.
 * A model (serve_inline.c, serve_process.c, serve_thread.c, serve_fiber.c) says where a box runs. workers.c has several
 * processes do the same.
 *
 * Thread: the caller's, whose loop it uses or makes. The server lives on the heap, owned by hark_serve(). */
#include "serve/serve.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/sys.h"
#include "serve/serve_accept.h"
#include "serve/serve_drain.h"
#include "serve/serve_life.h"
#include "serve/serve_linger.h"
#include "serve/workers.h"

/* ---- models ---------------------------------------------------------------------------------- */

static const struct {
	const char *name;
	const struct hark__model *ops;
} models[] = {
	[HARK_MODEL_INLINE] = {"inline", &hark__model_inline},
	[HARK_MODEL_PROCESS] = {"process", &hark__model_process},
	[HARK_MODEL_THREAD] = {"thread", &hark__model_thread},
	[HARK_MODEL_FIBER] = {"fiber", &hark__model_fiber},
};

#define MODELS (sizeof models / sizeof models[0])

const char *hark_model_name(enum hark_model m)
{
	if (m == HARK_MODEL_DEFAULT)
		m = HARK_MODEL_FIBER;
	return (size_t)m < MODELS ? models[m].name : NULL;
}

int hark_model_parse(const char *name)
{
	for (size_t i = 1; i < MODELS; i++)
		if (strcmp(models[i].name, name) == 0)
			return (int)i;
	return -EINVAL;
}

/* ---- beginning and end ----------------------------------------------------------------------- */

int hark__server_arm(struct hark__server *s, struct hark__source *src)
{
	struct hark__engine *e = hark__loop_engine(s->loop);
	int r = e->ops->arm(e, src, HARK__IN);
	if (r != -EEXIST)
		return r;
	int copy = hark__sys.fcntl(src->fd, F_DUPFD_CLOEXEC, 3);
	if (copy < 0)
		return -errno;
	int original = src->fd;
	src->fd = copy;
	r = e->ops->arm(e, src, HARK__IN);
	if (r == 0)
		return 1;
	src->fd = original;
	(void)hark__sys.close(copy);
	return r;
}

static void close_work(struct hark__server *s)
{
	hark__acceptors_done(s);
	hark__server_drain_done(s);
	hark__linger_done(s);
	pthread_mutex_lock(&s->lock);
	if (s->n_conns > 0 && s->model->abandon != NULL)
		s->model->abandon(s);
	s->abandoned = true;
	pthread_mutex_unlock(&s->lock);
}

static void wait_until_done(struct hark__server *s)
{
	while (!s->done)
		if (hark__park(HARK_FOREVER, "serve") == -ECANCELED && !s->done) {
			hark__server_cancel(s);
			hark__park_uncancellable("serve");
		}
}

static int work_on_loop(struct hark__server *s, struct hark_listener *const listeners[], int n, int life_fd)
{
	s->waiting = hark__fiber_self();
	hark__list_init(&s->conns);
	hark__list_init(&s->running);
	(void)pthread_mutex_init(&s->lock, NULL);
	hark_scope_open(&s->scope);
	int r = hark__server_drain_init(s, life_fd);
	int r1 = hark__acceptors_init(s, listeners, n), r2 = hark__linger_init(s);
	r = r < 0 ? r : r1 < 0 ? r1 : r2;
	if (r == 0) {
		hark__acceptors_wake(s);
		if (life_fd < 0)
			hark__server_event(s, (struct hark_event){.kind = HARK_EVENT_READY});
		wait_until_done(s);
		r = s->cut || s->overtime ? -ETIMEDOUT : 0;
	} else {
		hark__acceptors_leave(s);
	}
	close_work(s);
	if (s->n_conns == 0) {
		hark_scope_close(&s->scope);
		(void)pthread_mutex_destroy(&s->lock);
	}
	return r;
}

int hark__work(struct hark__server *s, struct hark_listener *const listeners[], int n, int life_fd)
{
	bool own_loop = hark__loop_self() == NULL;
	s->loop = hark__loop_self();
	if (own_loop) {
		int r = hark__loop_open(s->opts.engine, s->opts.stack_bytes, &s->loop);
		if (r < 0)
			return r;
	}
	int r = work_on_loop(s, listeners, n, life_fd);
	if (own_loop && s->n_conns == 0)
		hark__loop_close(s->loop);
	return r;
}

/* What is wrong with serving tls:// so; NULL: nothing. */
static const char *check_tls(const struct hark_serve_opts *o)
{
	struct hark_certificate first;
	if (o->tls_by_box)
		return NULL;
	if (o->wait)
		return "a box that gets the listening socket itself has no TLS";
	if (o->tls == NULL || hark_tls_own(o->tls, 0, 0, &first) == -ENOENT)
		return "tls:// needs a certificate";
	return NULL;
}

static int check(struct hark_listener *const listeners[], int n, hark_box *box, const struct hark_serve_opts *o)
{
	const char *what = NULL;
	if (n < 1 || listeners == NULL)
		what = "no listener";
	else if (box == NULL)
		what = "no box";
	else if ((unsigned)o->model >= MODELS)
		what = "no such model";
	else if (o->workers < 0 || o->workers > HARK__WORKERS_MAX)
		what = "workers must be 0 to 64";
	else if (o->max_conns < 0 || o->conn_fds < 0 || o->idle_timeout_ns < 0 || o->lifetime_ns < 0 ||
	         o->tls_handshake_ns < 0 || o->proxy_timeout_ns < 0)
		what = "a limit is negative";
	for (int i = 0; what == NULL && i < n; i++)
		what = listeners[i]->tls ? check_tls(o) : NULL;
	if (what == NULL)
		return 0;
	if (o->why != NULL)
		(void)snprintf(o->why->text, sizeof o->why->text, "serve: %s", what);
	return -EINVAL;
}

static void explain(const struct hark_serve_opts *o, int r)
{
	const char *engine = o->engine != NULL ? o->engine : getenv("HARK_ENGINE");
	if (o->why == NULL || r >= 0 || r == -ETIMEDOUT)
		return;
	if (engine != NULL && (r == -ENOSYS || r == -EINVAL))
		(void)snprintf(o->why->text, sizeof o->why->text, "serve: engine %s: %s", engine,
		               r == -EINVAL ? "no such engine (epoll, uring, poll)" : "not available on this system");
	else if (engine != NULL && r == -ENOMEM && strcmp(engine, "uring") == 0)
		(void)snprintf(o->why->text, sizeof o->why->text,
		               "serve: engine uring: no memory for its ring (RLIMIT_MEMLOCK, which all processes of a "
		               "user share, or ulimit -l)");
	else
		(void)snprintf(o->why->text, sizeof o->why->text, "serve: %s", hark_strerror(r));
}

int hark_serve(struct hark_listener *const listeners[], int n, hark_box *box, void *arg,
               const struct hark_serve_opts *opts)
{
	static const struct hark_serve_opts defaults;
	const struct hark_serve_opts *o = opts != NULL ? opts : &defaults;
	int r = check(listeners, n, box, o);
	if (r < 0)
		return r;
	struct hark__server *s = hark__sys.calloc(1, sizeof *s);
	if (s == NULL)
		return -ENOMEM;
	s->opts = *o;
	s->model = models[o->model == HARK_MODEL_DEFAULT ? HARK_MODEL_FIBER : o->model].ops;
	s->box = box;
	s->arg = arg;
	s->acceptors = hark__sys.calloc((size_t)n, sizeof *s->acceptors);
	r = s->acceptors != NULL ? hark__drain_enter() : -ENOMEM;
	if (r == 0) {
		r = o->workers > 1 ? hark__supervise(s, listeners, n) : hark__work(s, listeners, n, -1);
		hark__drain_leave();
	}
	explain(o, r);
	if (s->n_conns == 0) { /* else threads that did not notice the cut still look here: left to the process's end */
		hark__server_forget_children(s);
		free(s->acceptors);
		free(s);
	}
	return r;
}
