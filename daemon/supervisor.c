/* supervisor.c — the loop of harkd's supervisor: one poll(2) over signals (workers' ends among them), the sockets of
 * services that wait for demand, the control socket; timers by its time-out. Each thing that happens is handed to the
 * file whose it is.
 *
 * A plain poll(2), rebuilt each time: the supervisor wakes when something happens to a service, not for each
 * connection, and so few descriptors need no more. It never accepts and never reads what a peer sent.
 *
 * Ends are told by SIGCHLD and not by a pidfd each: some are of processes that nobody here started, and must be waited
 * for all the same (process 1 of a container; generations that ended before an older one). One thread. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "log.h"
#include "supervisor.h"

#define READY_NS HARK_S /* between looks at a start-up that lasts */
#define LACKS_MS 100    /* of a turn that does not look at all descriptors */

enum watched { WATCH_SIGNALS, WATCH_HEIR, WATCH_ELDER, WATCH_DEMAND, WATCH_READY, WATCH_CONTROL };

struct watch {
	enum watched what;
	struct service *service;
	struct worker *worker;
};

/* The arrays of one turn, grown as needed. */
struct turn {
	struct pollfd *fds;
	struct watch *watches;
	size_t n, cap;
	size_t control; /* the control socket's begin here */
	bool lacks;     /* there was no memory for all: another turn is due soon */
};

static int reserve(struct turn *t, size_t more)
{
	if (t->n + more <= t->cap)
		return 0;
	size_t cap = (t->n + more) * 2;
	struct pollfd *fds = realloc(t->fds, cap * sizeof *fds);
	if (fds != NULL)
		t->fds = fds;
	struct watch *watches = realloc(t->watches, cap * sizeof *watches);
	if (watches != NULL)
		t->watches = watches;
	if (fds == NULL || watches == NULL)
		return -ENOMEM;
	t->cap = cap;
	return 0;
}

static void watch(struct turn *t, int fd, struct watch w)
{
	if (fd < 0)
		return;
	if (reserve(t, 1) < 0) {
		t->lacks = true;
		return;
	}
	t->fds[t->n] = (struct pollfd){.fd = fd, .events = POLLIN};
	t->watches[t->n++] = w;
}

static void watch_service(struct supervisor *v, struct turn *t, struct service *s)
{
	const struct socket_entry *e;
	for (size_t i = 0; s->state == SERVICE_WAITING && !v->draining && i < s->conf->listen.n; i++)
		for (size_t nth = 0; (e = sockets_find(&v->sockets, s->conf, i, nth)) != NULL; nth++)
			watch(t, hark_listener_fd(e->listener), (struct watch){WATCH_DEMAND, s, NULL});
	for (struct worker *w = s->workers; w != NULL; w = w->next)
		watch(t, w->ready_fd, (struct watch){WATCH_READY, s, w});
}

static void watch_all(struct supervisor *v, struct turn *t)
{
	t->n = 0;
	t->lacks = false;
	watch(t, v->signal_fd, (struct watch){WATCH_SIGNALS, NULL, NULL});
	watch(t, v->heir_fd, (struct watch){WATCH_HEIR, NULL, NULL});
	if (v->generation > 1)
		watch(t, v->parent_fd, (struct watch){WATCH_ELDER, NULL, NULL}); /* POLLERR, once nobody reads there */
	for (struct service *s = v->services; s != NULL; s = s->next)
		watch_service(v, t, s);
	t->control = t->n;
	if (reserve(t, 64) < 0) {
		t->lacks = true;
		return;
	}
	/* Until it serves a new generation leaves the control socket to the older one: two must not answer. */
	int n = v->generation > 1 && !v->told_ready ? 0 : control_poll(v->control, t->fds + t->n, 64);
	for (int i = 0; i < n; i++)
		t->watches[t->n + (size_t)i] = (struct watch){WATCH_CONTROL, NULL, NULL};
	t->n += (size_t)n;
}

static bool starting(const struct supervisor *v)
{
	for (const struct service *s = v->services; s != NULL; s = s->next)
		if (!service_settled(s))
			return true;
	return false;
}

static int timeout_ms(const struct supervisor *v)
{
	int64_t at = v->heir_deadline, now = hark_now();
	if (control_due(v->control) < at)
		at = control_due(v->control);
	if (leaving_due(&v->sockets) < at)
		at = leaving_due(&v->sockets);
	if (certs_due(v) < at)
		at = certs_due(v);
	if (v->reloading && at > now + READY_NS)
		at = now + READY_NS;
	for (const struct service *s = v->services; s != NULL; s = s->next) {
		int64_t due = service_due(s);
		if (due < at)
			at = due;
	}
	if (!v->told_ready && !v->draining && at > now + READY_NS)
		at = starting(v) ? now + READY_NS : now; /* nothing to wait for: all are on demand */
	if (at == HARK_FOREVER)
		return -1;
	return at <= now ? 0 : at - now > 3600 * HARK_S ? 3600 * 1000 : (int)((at - now + HARK_MS - 1) / HARK_MS);
}

/* ---- what happens ---------------------------------------------------------------------------- */

static void log_errors(const struct config *c)
{
	for (size_t i = 0; i < c->n_errors; i++)
		log_event(LOG_LEVEL_ERROR, NULL, "%s", c->errors[i]);
}

void supervisor_hang_up(struct supervisor *v)
{
	struct reload_result r;
	if (v->heir > 0 || v->reloading) { /* an heir may have read the file already, and would not have what we open */
		v->reload_due = true;
		if (v->heir > 0)
			log_event(LOG_LEVEL_NOTICE, NULL,
			          "reload: put off until the upgrade has come about, or has failed");
		return;
	}
	notify("RELOADING=1\nMONOTONIC_USEC=%lld", (long long)(hark_now() / 1000));
	if (reload(v, false, &r) == 0)
		return; /* reload_look() goes on */
	if (r.mistakes != NULL)
		log_errors(r.mistakes);
	log_event(LOG_LEVEL_ERROR, NULL, "reload: nothing was changed: %s", r.text);
	config_free(r.mistakes);
	notify("READY=1");
}

/* What is left of it is the workers. */
static void release_sockets(struct supervisor *v)
{
	v->standby = false;
	sockets_free(&v->sockets, v->handed_over);
	if (v->handed_over)
		control_close(v);
}

/* Connections have the grace; asked for again: they end at once. */
void supervisor_drain(struct supervisor *v)
{
	bool begins = !v->draining || v->standby, again = v->ending;
	v->draining = v->ending = true;
	if (v->generation > 1 && !v->told_ready)
		v->handed_over = true; /* the older one goes on: paths and pid file are still its own */
	if (begins && v->told_ready && !v->handed_over)
		log_event(LOG_LEVEL_NOTICE, NULL, "draining: what is busy may finish within its grace");
	if (!v->handed_over) {
		upgrade_abandon(v);
		notify("STOPPING=1");
		upgrade_tell_end(v);
	} else if (v->standby) {
		pid_t heir = v->heir;
		control_upgraded(v, NULL);
		upgrade_forget(v);
		if (notify_wanted()) /* it ends, too, and before us: with the main process systemd ends all */
			v->heir = heir;
	} else if (again) { /* not for a new one that hangs, either */
		upgrade_forget(v);
	}
	for (struct service *s = v->services; s != NULL; s = s->next) {
		if (s->state != SERVICE_GONE)
			service_remove(v, s);
		else if (again)
			service_hurry(s);
		else
			service_drain(s);
	}
	if (begins)
		release_sockets(v);
}

/* Its connections go on as long as they like; its sockets stay open, so that nobody is refused if it takes over. */
void supervisor_stand_by(struct supervisor *v)
{
	v->draining = v->handed_over = v->standby = true;
	control_pause(v, true);
	for (struct service *s = v->services; s != NULL; s = s->next)
		if (s->state != SERVICE_GONE && s->state != SERVICE_STOPPED) {
			s->state = SERVICE_STANDBY;
			service_retire(s);
		}
}

void supervisor_take_over(struct supervisor *v)
{
	v->draining = v->handed_over = v->standby = false;
	control_pause(v, false);
	for (struct service *s = v->services; s != NULL; s = s->next)
		if (s->state == SERVICE_STANDBY) {
			s->backoff = 0;
			service_begin(v, s);
		}
	supervisor_pid_file(v);
	notify("READY=1\nMAINPID=%d", (int)getpid());
}

void supervisor_let_go(struct supervisor *v)
{
	for (struct service *s = v->services; s != NULL; s = s->next)
		s->state = SERVICE_GONE;
	release_sockets(v);
	upgrade_tell_end(v);
}

static char *const *own_argv;

int supervisor_upgrade(struct supervisor *v, struct hark_why *why)
{
	int r = upgrade_begin(v, own_argv, why);
	if (r < 0)
		log_event(LOG_LEVEL_ERROR, NULL, "upgrade: %s", why->text);
	return r;
}

static struct worker *worker_of(const struct supervisor *v, pid_t pid, struct service **of)
{
	for (*of = v->services; *of != NULL; *of = (*of)->next)
		for (struct worker *w = (*of)->workers; w != NULL; w = w->next)
			if (w->pid == pid)
				return w;
	return NULL;
}

static void reap(struct supervisor *v)
{
	for (;;) {
		siginfo_t i = {0};
		struct service *s;
		int r;
		do
			r = waitid(P_ALL, 0, &i, WEXITED | WNOHANG | WNOWAIT);
		while (r < 0 && errno == EINTR);
		if (r < 0 || i.si_pid == 0)
			return;
		struct worker *w = worker_of(v, i.si_pid, &s);
		if (w != NULL)
			service_worker_ended(s, w);
		else if (v->heir > 0 && i.si_pid == v->heir)
			upgrade_ended(v);
		else
			(void)waitpid(i.si_pid, NULL, WNOHANG);
	}
}

/* To end, for one time more. A service manager may tell its whole group (KillMode=control-group); what an older
 * generation then hands on to us is the same once more, and no second time. */
static bool told_again(struct supervisor *v, const struct signalfd_siginfo *i)
{
	bool by_elder = v->generation > 1 && i->ssi_code == SI_QUEUE && (pid_t)i->ssi_pid == getppid();
	int before = v->told > v->told_by_elder ? v->told : v->told_by_elder;
	if (by_elder)
		v->told_by_elder = i->ssi_int;
	else
		v->told++;
	return v->told > before || v->told_by_elder > before;
}

static void take_signals(struct supervisor *v)
{
	struct signalfd_siginfo i;
	struct hark_why why;
	while (read(v->signal_fd, &i, sizeof i) == (ssize_t)sizeof i) {
		/* A service manager takes us for harkd until the heir is relied on: it is the heir that it means. */
		bool ends = i.ssi_signo == SIGTERM || i.ssi_signo == SIGINT, again = ends && told_again(v, &i);
		if (v->handed_over && v->heir > 0 && i.ssi_signo != SIGCHLD && notify_wanted()) {
			upgrade_hand_on(v, (int)i.ssi_signo);
			v->reload_due = v->reload_due || i.ssi_signo == SIGHUP;
		}
		if (again)
			supervisor_drain(v);
		else if (i.ssi_signo == SIGCHLD)
			reap(v);
		else if (i.ssi_signo == SIGHUP && !v->draining)
			supervisor_hang_up(v);
		else if (i.ssi_signo == SIGUSR2 && !v->draining)
			(void)supervisor_upgrade(v, &why);
	}
}

/* An event of this turn may concern what an earlier one of it did away with. */
static bool alive(const struct supervisor *v, const struct watch *w)
{
	for (const struct service *s = v->services; s != NULL; s = s->next)
		if (s == w->service) {
			if (w->worker == NULL)
				return true;
			for (const struct worker *x = s->workers; x != NULL; x = x->next)
				if (x == w->worker)
					return true;
		}
	return false;
}

static void dispatch(struct supervisor *v, const struct watch *w)
{
	switch (w->what) {
	case WATCH_SIGNALS: take_signals(v); return;
	case WATCH_HEIR: upgrade_heard(v); return;
	case WATCH_ELDER: upgrade_alone(v); return;
	case WATCH_CONTROL: return;
	default: break;
	}
	if (!alive(v, w))
		return;
	if (w->what == WATCH_DEMAND)
		service_demand(v, w->service);
	else if (w->worker->ready_fd >= 0)
		service_worker_spoke(w->service, w->worker);
}

/* Services that were removed and whose last worker has ended. */
static void bury(struct supervisor *v)
{
	for (struct service **at = &v->services; *at != NULL;) {
		struct service *s = *at;
		if (s->state != SERVICE_GONE || s->workers != NULL || leaving_of(&v->sockets, s)) {
			at = &s->next;
			continue;
		}
		*at = s->next;
		service_forget(s);
	}
}

/* Of an upgrade: it is no good if the new generation cannot serve what the old one does. True: why says what it cannot.
 */
static bool unfit(const struct supervisor *v, struct hark_why *why)
{
	if (v->generation == 1)
		return false;
	if (v->lacks[0] != '\0') {
		(void)snprintf(why->text, sizeof why->text, "[%s] no memory or descriptors for it", v->lacks);
		return true;
	}
	for (const struct service *s = v->services; s != NULL; s = s->next)
		if (s->state == SERVICE_BACKING_OFF) {
			(void)snprintf(why->text, sizeof why->text, "[%.63s] %.180s", s->conf->name, s->error);
			return true;
		}
	return false;
}

/* Last, so that what failed until now was seen. */
static void leave_terminal(void)
{
	int fd = open("/dev/null", O_RDWR | O_CLOEXEC);
	for (int i = 0; fd >= 0 && i < 3; i++)
		(void)dup2(fd, i);
	if (fd > 2)
		(void)close(fd);
}

static void remove_pid_file(struct supervisor *v)
{
	if (v->pid_written != NULL)
		pid_file_remove(v->pid_written);
	free(v->pid_written);
	v->pid_written = NULL;
}

void supervisor_pid_file(struct supervisor *v)
{
	const char *path = v->pid_file != NULL ? v->pid_file : v->epoch->config->pid_file;
	struct hark_why why;
	if (v->pid_written != NULL && (path == NULL || strcmp(path, v->pid_written) != 0))
		remove_pid_file(v);
	if (path == NULL)
		return;
	if (pid_file_write(path, &why) < 0)
		log_event(LOG_LEVEL_ERROR, NULL, "%s", why.text);
	else if (v->pid_written == NULL)
		v->pid_written = strdup(path);
}

/* To whoever started it in the background: the log is elsewhere then. */
static void tell_failed_services(const struct supervisor *v)
{
	for (const struct service *s = v->services; s != NULL; s = s->next)
		if (s->state == SERVICE_BACKING_OFF)
			(void)fprintf(stderr, "harkd: [%s] does not start, and is tried again: %s\n", s->conf->name,
			              s->error);
}

static void become_ready(struct supervisor *v)
{
	v->told_ready = true;
	supervisor_pid_file(v);
	if (v->in_background && v->generation == 1)
		tell_failed_services(v);
	upgrade_tell_ready(v);
	if (v->in_background)
		leave_terminal();
	notify("READY=1\nMAINPID=%d", (int)getpid());
	if (v->control != NULL)
		log_event(LOG_LEVEL_NOTICE, NULL, "control socket %s", strchr(control_key(v->control), ':') + 1);
	size_t n = 0;
	for (const struct service *s = v->services; s != NULL; s = s->next)
		n += s->state != SERVICE_GONE;
	log_event(LOG_LEVEL_NOTICE, NULL, "ready: %zu service%s of %s", n, n == 1 ? "" : "s", v->config_file);
}

static void look_at_start(struct supervisor *v)
{
	if (v->told_ready || v->draining || starting(v))
		return;
	struct hark_why why;
	if (unfit(v, &why)) {
		upgrade_tell_failed(v, why.text);
		log_event(LOG_LEVEL_ERROR, NULL, "upgrade: a service cannot start under generation %d, which ends",
		          v->generation);
		v->failed = true;
		supervisor_drain(v);
	} else {
		become_ready(v);
	}
}

static void turn(struct supervisor *v, struct turn *t)
{
	watch_all(v, t);
	int ms = timeout_ms(v);
	if (t->lacks && (ms < 0 || ms > LACKS_MS))
		ms = LACKS_MS;
	int n = poll(t->fds, (nfds_t)t->n, ms);
	if (n < 0 && errno != EINTR) /* EFAULT, EINVAL, ENOMEM: none that lasts, and none to spin on */
		(void)hark_sleep(100 * HARK_MS);
	for (size_t i = 0; n > 0 && i < t->n; i++)
		if (t->fds[i].revents != 0)
			dispatch(v, &t->watches[i]);
	if (n > 0)
		control_run(v, t->fds + t->control, (int)(t->n - t->control));
	if (v->heir > 0 && hark_now() >= v->heir_deadline)
		upgrade_heard(v);
	for (struct service *s = v->services; s != NULL; s = s->next)
		if (service_due(s) <= hark_now())
			service_look(v, s);
	leaving_look(v);
	certs_look(v);
	look_at_start(v);
	bury(v); /* a reload does not wait for who was removed before it had started */
	reload_look(v);
	bury(v); /* last: nothing would wake us for those who are gone by now */
}

int supervisor_signals(struct supervisor *v)
{
	/* SIGUSR1 means nothing here and does no harm; a worker that is sent it may not have its handlers yet. */
	static const int ours[] = {SIGTERM, SIGINT, SIGHUP, SIGUSR2, SIGCHLD, SIGUSR1};
	sigset_t set;
	(void)sigemptyset(&set);
	for (size_t i = 0; i < sizeof ours / sizeof ours[0]; i++)
		(void)sigaddset(&set, ours[i]);
	v->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	if (sigprocmask(SIG_BLOCK, &set, NULL) < 0)
		return -errno;
	return v->signal_fd < 0 ? -errno : 0;
}

int supervisor_run(struct supervisor *v, char *const argv[])
{
	struct turn t = {0};
	own_argv = argv;
	for (;;) {
		bury(v); /* also what went without a turn of its own: nothing would wake us for it */
		if (v->draining && !v->standby && v->services == NULL && v->heir == 0)
			break;
		turn(v, &t);
	}
	if (v->told_ready)
		log_event(LOG_LEVEL_NOTICE, NULL, "ended: generation %d", v->generation);
	if (!v->handed_over)
		remove_pid_file(v);
	control_close(v);
	upgrade_await_release(v);
	free(t.fds);
	free(t.watches);
	return v->failed ? 1 : 0;
}
