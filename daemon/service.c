/* service.c — one service's life: its workers are started, at boot or when something waits at its sockets; restarted
 * with back-off when they die; drained when it changes, stops or is idle. Its sockets stay open in the supervisor
 * meanwhile, so that who comes waits and is served by the next worker.
 *
 * The supervisor's thread. A service owns its workers' records; a worker is forgotten only when it was waited for. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "conns.h"
#include "log.h"
#include "supervisor.h"

#define BACKOFF_FIRST_NS (100 * HARK_MS)
#define BACKOFF_MAX_NS   (10 * HARK_S)
#define LIVED_NS         (1 * HARK_S)   /* a worker that lived so long is restarted at once when it dies */
#define KILL_NS          (5 * HARK_S)   /* past the grace's end: it has not even cut its connections */
#define IDLE_NS          (10 * HARK_MS) /* between looks whether it is idle, at least */
#define FOREIGN_NS       (1 * HARK_S)   /* between looks at what an older generation's workers hold */
#define SETTLE_NS        (10 * HARK_S)  /* a worker that says neither yes nor no is taken for started */

/* What the older generation counted by, if there is one. */
static int open_memory(struct service *s, const char *name)
{
	char key[sizeof UPGRADE_MEMORY + COUNTERS_NAME_MAX];
	struct inherited_socket from = {.fd = -1};
	(void)snprintf(key, sizeof key, UPGRADE_MEMORY "%s", name);
	(void)upgrade_inherited(key, &from);
	int r = memory_open(name, from.fd, &s->memory);
	if (r == 0)
		s->counters = s->memory->counters;
	return r;
}

struct service *service_new(struct supervisor *v, struct epoch *e, const struct config_service *conf)
{
	struct service *s = calloc(1, sizeof *s);
	if (s == NULL || open_memory(s, conf->name) < 0) {
		free(s);
		return NULL;
	}
	s->epoch = epoch_hold(e);
	s->conf = conf;
	s->foreign_look = v->generation > 1 ? hark_now() : HARK_FOREVER;
	return s;
}

static void end_trial(struct service *s)
{
	epoch_release(s->trial_epoch);
	s->trial_epoch = NULL;
	s->trial = NULL;
	s->trial_renews = false;
}

void service_forget(struct service *s)
{
	end_trial(s);
	memory_release(s->memory);
	epoch_release(s->epoch);
	free(s);
}

static void fail(struct service *s, const char *what, const char *why)
{
	(void)snprintf(s->error, sizeof s->error, "%.30s: %.220s", what, why);
	log_event(LOG_LEVEL_ERROR, s->conf->name, "%s", s->error);
}

/* ---- workers --------------------------------------------------------------------------------- */

unsigned service_workers(const struct service *s)
{
	unsigned n = 0;
	for (const struct worker *w = s->workers; w != NULL; w = w->next)
		n++;
	return n;
}

static bool accepts(const struct worker *w)
{
	return w->kill_at == HARK_FOREVER && !w->retired && w->last_backlog == NULL;
}

/* One that said why it cannot start is about to end; then the service backs off, or its trial is over. */
static bool is_settled(const struct worker *w)
{
	return w->ready || !accepts(w) || hark_now() - w->started >= SETTLE_NS;
}

/* Those that accept, for these settings. */
static unsigned serving(const struct service *s, const struct config_service *conf)
{
	unsigned n = 0;
	for (const struct worker *w = s->workers; w != NULL; w = w->next)
		n += accepts(w) && w->conf == conf;
	return n;
}

/* Those who live on after reloads, for what is still connected, may have all slots, those of the older generation too.
 * Without one a worker would serve beside every limit: the oldest of them drains, and its slot is waited for. */
static void make_room(struct service *s)
{
	struct worker *oldest = NULL;
	for (struct worker *w = s->workers; w != NULL; w = w->next)
		oldest = w->retired && w->kill_at == HARK_FOREVER ? w : oldest;
	if (oldest == NULL)
		return;
	log_event(LOG_LEVEL_WARNING, s->conf->name,
	          "%d older workers still serve: the oldest, %d, ends within its grace", COUNTERS_SLOTS,
	          (int)oldest->pid);
	oldest->kill_at = hark_after(oldest->conf->grace_ns + KILL_NS);
	(void)kill(oldest->pid, SIGTERM);
}

/* Its worker is dead. What it still served is over, and did not end well. */
static void clear_slot(struct service *s, int slot)
{
	int64_t left = counters_slot_now(s->counters, slot);
	counters_add(s->counters, COUNT_CLOSED, left);
	counters_add(s->counters, COUNT_FAILED, left);
	limits_forget(s->memory->limits, slot); /* before the slot can be another's */
	counters_slot_clear(s->counters, slot);
}

static void leave_slot(struct service *s, const struct worker *w)
{
	if (w->slot >= 0)
		clear_slot(s, w->slot);
	epoch_release(w->epoch);
}

uint32_t worker_now(const struct service *s, const struct worker *w)
{
	return counters_slot_now(s->counters, w->slot);
}

static void forget(struct service *s, struct worker *w)
{
	struct worker **at = &s->workers;
	while (*at != w)
		at = &(*at)->next;
	*at = w->next;
	if (w->ready_fd >= 0)
		(void)close(w->ready_fd);
	leave_slot(s, w);
	log_channel_close(&w->log);
	conns_free(w->conns);
	free(w);
}

/* The fork itself. 0 or -errno; w is half filled, its slot taken. */
static int give_birth(struct supervisor *v, struct service *s, struct worker *w)
{
	int ready[2], conns_fd = -1;
	if (pipe2(ready, O_CLOEXEC) < 0)
		return -errno;
	(void)conns_new(&w->conns, &conns_fd); /* without it nobody is listed */
	pid_t pid = fork();
	if (pid == 0)
		worker_main(v, s, w, ready[1], conns_fd);
	int r = pid < 0 ? -errno : 0;
	(void)close(ready[1]);
	if (conns_fd >= 0)
		(void)close(conns_fd);
	if (r < 0) {
		(void)close(ready[0]);
		return r;
	}
	(void)fcntl(ready[0], F_SETFL, O_NONBLOCK);
	w->pid = pid;
	w->ready_fd = ready[0];
	atomic_store_explicit(&s->counters->slots[w->slot].pid, pid, memory_order_relaxed);
	return 0;
}

/* As what says: settings, limits, and perhaps the one socket. Its pid or -errno. */
static pid_t start_worker(struct supervisor *v, struct service *s, struct worker what)
{
	struct worker *w = malloc(sizeof *w);
	if (w == NULL)
		return -ENOMEM;
	*w = what;
	w->epoch = epoch_hold(what.epoch);
	w->started = hark_now();
	w->kill_at = HARK_FOREVER;
	w->ready_fd = -1;
	(void)log_channel_open(&w->log); /* without it the worker keeps the file that it began with */
	w->slot = counters_slot_take(s->counters);
	int r = w->slot >= 0 ? give_birth(v, s, w) : -EAGAIN;
	if (w->slot < 0)
		make_room(s);
	if (r < 0) {
		leave_slot(s, w);
		log_channel_close(&w->log);
		conns_free(w->conns);
		free(w);
		return r;
	}
	w->next = s->workers;
	s->workers = w;
	counters_add(s->counters, COUNT_STARTS, 1);
	return w->pid;
}

/* As many workers as these settings want. 0 or -errno. */
static int start_workers(struct supervisor *v, struct service *s, struct epoch *e, const struct config_service *conf)
{
	int r = 0;
	if (conf == s->conf && serving(s, conf) == 0) /* before they read them: who changes them meanwhile is noticed */
		s->certs.read = certs_stamp(conf).hash;
	for (unsigned n = serving(s, conf); r >= 0 && n < (unsigned)conf->workers; n++)
		r = start_worker(v, s, (struct worker){.epoch = e, .conf = conf});
	return r < 0 ? r : 0;
}

void service_hand_log(const struct service *s)
{
	for (const struct worker *w = s->workers; w != NULL; w = w->next)
		log_channel_send(&w->log);
}

static void back_off(struct service *s)
{
	s->state = SERVICE_BACKING_OFF;
	s->again = hark_after(s->backoff);
	s->backoff = s->backoff == 0                   ? BACKOFF_FIRST_NS
	             : s->backoff * 2 < BACKOFF_MAX_NS ? s->backoff * 2
	                                               : BACKOFF_MAX_NS;
}

/* As many workers as there should be. */
static void fill(struct supervisor *v, struct service *s)
{
	int r = start_workers(v, s, s->epoch, s->conf);
	s->state = SERVICE_RUNNING;
	s->looked = hark_now();
	s->looked_accepted = counters_read(s->counters, COUNT_ACCEPTED);
	if (r == 0)
		return;
	fail(s, "cannot start a worker", hark_strerror(r));
	if (s->backoff == 0)
		s->backoff = BACKOFF_FIRST_NS;
	back_off(s);
}

void service_worker_spoke(struct service *s, struct worker *w)
{
	char text[sizeof s->error];
	ssize_t n = read(w->ready_fd, text, sizeof text - 1);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	bool tried = s->trial != NULL && w->conf == s->trial, current = w->conf == s->conf;
	text[n > 0 ? n : 0] = '\0';
	if (n == 1 && text[0] == '\0') {
		w->ready = true;
		if (current)
			s->error[0] = '\0';
	} else if (n > 0 && tried) {
		(void)snprintf(s->trial_error, sizeof s->trial_error, "a worker cannot start: %.200s", text);
	} else if (n > 0 && current) {
		fail(s, "a worker cannot start", text);
	} else if (n > 0 && !w->retired) {
		log_event(LOG_LEVEL_ERROR, s->conf->name, "a worker cannot start: %s", text);
	}
	(void)close(w->ready_fd);
	w->ready_fd = -1;
}

static void describe_death(char text[256], const struct worker *w, const siginfo_t *i)
{
	if (i->si_code == CLD_EXITED && i->si_status != 0)
		(void)snprintf(text, 256, "worker %d ended with status %d", (int)w->pid, i->si_status);
	else if (i->si_code == CLD_EXITED)
		(void)snprintf(text, 256, "worker %d ended by itself", (int)w->pid);
	else
		(void)snprintf(text, 256, "worker %d was killed by signal %d (%s)", (int)w->pid, i->si_status,
		               strsignal(i->si_status));
}

static void tell_death(struct service *s, const struct worker *w, const siginfo_t *i)
{
	describe_death(s->error, w, i);
	log_event(LOG_LEVEL_ERROR, s->conf->name, "%s", s->error);
}

/* Before its grace's end a worker cuts nobody but who waited for a rate or for the load: see limits_pace(). */
static void tell_cut(const struct service *s, const struct worker *w)
{
	bool early = w->kill_at != HARK_FOREVER && hark_now() < w->kill_at - KILL_NS;
	log_event(LOG_LEVEL_NOTICE, s->conf->name, "%s",
	          early ? "nobody was connected: who still waited in the backlog has been turned away"
	                : "the grace ended: connections that were still busy have been cut");
}

void service_worker_ended(struct service *s, struct worker *w)
{
	siginfo_t info = {0};
	int r;
	do
		r = waitid(P_PID, (id_t)w->pid, &info, WEXITED | WNOHANG | WNOWAIT);
	while (r < 0 && errno == EINTR);
	if (r == 0 && info.si_pid == 0)
		return;
	if (info.si_code != CLD_EXITED || info.si_status != 0)
		(void)kill(-w->pid, SIGKILL); /* children of its own, which nobody counts any more */
	(void)waitid(P_PID, (id_t)w->pid, &info, WEXITED | WNOHANG);
	if (w->ready_fd >= 0)
		service_worker_spoke(s, w);
	bool drained = w->kill_at != HARK_FOREVER || w->retired, ready = w->ready;
	bool tried = s->trial != NULL && w->conf == s->trial, current = w->conf == s->conf && w->last_backlog == NULL;
	bool well = r == 0 && info.si_code == CLD_EXITED && info.si_status == 0;
	bool lived = hark_now() - w->started > LIVED_NS;
	if (drained && ready && !well && !w->killed && !(info.si_code == CLD_EXITED && info.si_status == 2))
		tell_death(s, w, &info);
	if (drained && r == 0 && info.si_code == CLD_EXITED && info.si_status == 2)
		tell_cut(s, w);
	if (!drained) {
		counters_add(s->counters, COUNT_CRASHES, 1);
		if (tried && s->trial_error[0] == '\0')
			describe_death(s->trial_error, w, &info);
		else if (!tried && (ready || s->error[0] == '\0'))
			tell_death(s, w, &info);
	}
	forget(s, w);
	if (drained || !current || s->state == SERVICE_STOPPED || s->state == SERVICE_GONE)
		return;
	if (ready && lived)
		s->backoff = 0;
	else if (!ready && s->backoff == 0) /* it never served: what is at once again would fail again */
		s->backoff = BACKOFF_FIRST_NS;
	counters_add(s->counters, COUNT_RESTARTS, 1);
	back_off(s); /* service_look() is next, in this turn: s->again may be now */
}

/* ---- states ---------------------------------------------------------------------------------- */

void service_begin(struct supervisor *v, struct service *s)
{
	if (s->conf->start == CONFIG_START_DEMAND)
		s->state = SERVICE_WAITING;
	else
		fill(v, s);
	sockets_assign(&v->sockets, s);
}

void service_demand(struct supervisor *v, struct service *s)
{
	if (s->state == SERVICE_WAITING)
		fill(v, s);
}

static void drain_worker(struct worker *w)
{
	if (w->kill_at != HARK_FOREVER)
		return; /* has been told */
	w->kill_at = hark_after(w->conf->grace_ns + KILL_NS);
	(void)kill(w->pid, SIGTERM);
}

void service_drain(struct service *s)
{
	end_trial(s);
	for (struct worker *w = s->workers; w != NULL; w = w->next)
		drain_worker(w);
}

void service_hurry(struct service *s)
{
	for (struct worker *w = s->workers; w != NULL; w = w->next) {
		if (w->kill_at == HARK_FOREVER) /* it was retired */
			continue;
		w->kill_at = hark_after(KILL_NS);
		(void)kill(w->pid, SIGTERM); /* a second one ends at once: worker.c */
	}
	service_drain(s);
}

/* SIGUSR1, and not SIGTERM: it closes its sockets and ends with its last connection, which may go on as long as it
 * likes, idle or not. Wait services have no connections: those drain. */
static void retire_worker(struct worker *w)
{
	if (w->kill_at != HARK_FOREVER || w->retired)
		return;
	if (w->conf->wait) {
		drain_worker(w);
		return;
	}
	w->retired = true;
	(void)kill(w->pid, SIGUSR1);
}

void service_retire(struct service *s)
{
	end_trial(s);
	for (struct worker *w = s->workers; w != NULL; w = w->next)
		if (w->last_backlog == NULL)
			retire_worker(w);
}

static struct worker *find_worker(const struct service *s, pid_t pid)
{
	for (struct worker *w = s->workers; w != NULL; w = w->next)
		if (w->pid == pid)
			return w;
	return NULL;
}

bool service_has_worker(const struct service *s, pid_t pid)
{
	return find_worker(s, pid) != NULL;
}

void service_retire_worker(struct service *s, pid_t pid)
{
	struct worker *w = find_worker(s, pid);
	if (w != NULL)
		retire_worker(w);
}

pid_t service_last_worker(struct supervisor *v, struct service *s, const struct socket_entry *e)
{
	pid_t r = start_worker(v, s, (struct worker){.epoch = e->epoch, .conf = e->conf, .last_backlog = e->listener});
	if (r < 0)
		log_event(LOG_LEVEL_ERROR, s->conf->name, "cannot start a worker for who waits at %s: %s", e->key,
		          hark_strerror(r));
	return r;
}

void service_stop(struct supervisor *v, struct service *s)
{
	if (s->state == SERVICE_STOPPED)
		return;
	s->state = SERVICE_STOPPED;
	service_drain(s);
	for (size_t i = 0; i < s->conf->listen.n; i++)
		sockets_close(&v->sockets, s->conf, i);
	log_event(LOG_LEVEL_NOTICE, s->conf->name, "stopped");
}

int service_start(struct supervisor *v, struct service *s, struct hark_why *why)
{
	if (s->state != SERVICE_STOPPED)
		return 0;
	for (size_t i = 0; i < s->conf->listen.n; i++) {
		int r = sockets_open(v, s->conf, i, why);
		if (r < 0) {
			for (size_t k = 0; k <= i; k++)
				sockets_close(&v->sockets, s->conf, k);
			return r;
		}
	}
	s->backoff = 0;
	service_begin(v, s);
	log_event(LOG_LEVEL_NOTICE, s->conf->name, "started");
	return 0;
}

static void set_conf(struct service *s, struct epoch *e, const struct config_service *conf)
{
	struct epoch *old = s->epoch;
	s->epoch = epoch_hold(e);
	s->conf = conf;
	epoch_release(old);
	s->backoff = 0;
	s->error[0] = '\0';
	s->certs.again = s->certs.wait = 0;
}

static bool is_served(const struct service *s)
{
	for (const struct worker *w = s->workers; w != NULL; w = w->next)
		if (w->ready && accepts(w) && w->conf == s->conf)
			return true;
	return false;
}

void service_replace(struct supervisor *v, struct service *s, struct epoch *e, const struct config_service *conf,
                     bool keep)
{
	bool stopped = s->state == SERVICE_STOPPED;
	end_trial(s);
	s->trial_error[0] = '\0';
	bool same = s->state == SERVICE_RUNNING &&
	            strcmp(s->conf->text, conf->text) == 0; /* but for its certificates */
	if (keep && !stopped && (conf->start == CONFIG_START_BOOT || same) && is_served(s)) {
		s->trial_epoch = epoch_hold(e);
		s->trial = conf;
		s->trial_renews = same;
		s->certs.tried = certs_stamp(conf).hash;
		int r = start_workers(v, s, e, conf);
		if (r < 0)
			(void)snprintf(s->trial_error, sizeof s->trial_error, "cannot start a worker: %s",
			               hark_strerror(r));
		return;
	}
	service_retire(s);
	set_conf(s, e, conf);
	s->settling = !stopped;
	if (!stopped)
		service_begin(v, s);
}

static void retire_all_of(struct service *s, const struct config_service *conf)
{
	for (struct worker *w = s->workers; w != NULL; w = w->next)
		if (w->conf == conf && w->last_backlog == NULL)
			retire_worker(w);
}

/* The old workers go on. */
static int give_up_trial(struct service *s)
{
	retire_all_of(s, s->trial);
	if (s->trial_renews)
		renew_put_off(&s->certs);
	end_trial(s);
	(void)snprintf(s->error, sizeof s->error, "goes on as it was, its new settings do not work: %.180s",
	               s->trial_error);
	return -1;
}

int service_outcome(struct supervisor *v, struct service *s)
{
	if (s->trial == NULL || s->trial_error[0] != '\0')
		return s->trial == NULL ? 1 : give_up_trial(s);
	for (const struct worker *w = s->workers; w != NULL; w = w->next)
		if (w->conf == s->trial && !is_settled(w))
			return 0;
	retire_all_of(s, s->conf);
	s->certs.read = s->certs.tried;
	set_conf(s, s->trial_epoch, s->trial);
	end_trial(s);
	s->state = SERVICE_RUNNING;
	s->looked = hark_now();
	sockets_assign(&v->sockets, s);
	return 1;
}

void service_remove(struct supervisor *v, struct service *s)
{
	(void)v;
	s->state = SERVICE_GONE;
	service_drain(s);
}

/* ---- the clock ------------------------------------------------------------------------------- */

/* Not while new settings are tried: their workers would end with the others, and nobody hear of it. */
static bool ends_when_idle(const struct service *s)
{
	return s->state == SERVICE_RUNNING && s->trial == NULL && s->conf->start == CONFIG_START_DEMAND &&
	       s->conf->stop_idle_ns > 0;
}

static int64_t idle_due(const struct service *s)
{
	return s->looked + (s->conf->stop_idle_ns > IDLE_NS ? s->conf->stop_idle_ns : IDLE_NS);
}

int64_t service_due(const struct service *s)
{
	int64_t at = s->state == SERVICE_BACKING_OFF ? s->again : HARK_FOREVER;
	if (ends_when_idle(s) && idle_due(s) < at)
		at = idle_due(s);
	if (s->foreign_look < at)
		at = s->foreign_look;
	for (const struct worker *w = s->workers; w != NULL; w = w->next) {
		if (w->kill_at < at)
			at = w->kill_at;
	}
	return at;
}

/* Somebody whom no worker has taken: the first one is only starting, or a limit holds him. */
static bool somebody_waits(const struct supervisor *v, const struct service *s)
{
	const struct socket_entry *e;
	for (size_t i = 0; i < s->conf->listen.n; i++)
		for (size_t nth = 0; (e = sockets_find(&v->sockets, s->conf, i, nth)) != NULL; nth++) {
			struct pollfd p = {.fd = hark_listener_fd(e->listener), .events = POLLIN};
			if (poll(&p, 1, 0) > 0)
				return true;
		}
	return false;
}

/* Nobody was there since it was looked at: its workers may end. A connection that comes just now waits for the next
 * ones. */
static void look_idle(const struct supervisor *v, struct service *s, int64_t now)
{
	uint64_t accepted = counters_read(s->counters, COUNT_ACCEPTED);
	if (now < idle_due(s))
		return;
	bool idle = accepted == s->looked_accepted && counters_now(s->counters) == 0 && !somebody_waits(v, s);
	s->looked = now;
	s->looked_accepted = accepted;
	if (!idle)
		return;
	service_retire(s);
	s->state = SERVICE_WAITING;
}

/* Also one that nobody has waited for. Numbers are not reused so soon. */
static bool has_ended(pid_t pid)
{
	struct pollfd p = {.fd = (int)syscall(SYS_pidfd_open, pid, 0), .events = POLLIN};
	bool ended = p.fd < 0 ? errno == ESRCH : poll(&p, 1, 0) > 0;
	if (p.fd >= 0)
		(void)close(p.fd);
	return ended;
}

/* An older generation clears its workers' slots itself, unless it was killed: it has until the next look. A slot that
 * two clear may be another's already when the second one comes. */
static void look_at_foreign(struct service *s, int64_t now)
{
	bool some = false;
	for (int i = 0; i < counters_slots(s->counters); i++) {
		pid_t pid = atomic_load(&s->counters->slots[i].pid);
		if (pid <= 0 || pid == getpid() || find_worker(s, pid) != NULL)
			continue;
		bool over = pid == s->foreign_ended[i];
		s->foreign_ended[i] = !over && has_ended(pid) ? pid : 0;
		if (over)
			clear_slot(s, i);
		else
			some = true;
	}
	s->foreign_look = some ? now + FOREIGN_NS : HARK_FOREVER;
}

void service_look(struct supervisor *v, struct service *s)
{
	int64_t now = hark_now();
	if (now >= s->foreign_look)
		look_at_foreign(s, now);
	for (struct worker *w = s->workers; w != NULL; w = w->next) {
		if (now < w->kill_at)
			continue;
		log_event(LOG_LEVEL_WARNING, s->conf->name, "worker %d did not end in time: killed", (int)w->pid);
		w->killed = true;
		w->kill_at = now + HARK_S;
		(void)kill(-w->pid, SIGKILL);
		(void)kill(w->pid, SIGKILL);
	}
	if (s->state == SERVICE_BACKING_OFF && now >= s->again)
		fill(v, s);
	else if (ends_when_idle(s))
		look_idle(v, s, now);
}

bool service_settled(const struct service *s)
{
	if (s->state == SERVICE_BACKING_OFF)
		return true;
	for (const struct worker *w = s->workers; w != NULL; w = w->next)
		if (!is_settled(w))
			return false;
	return true;
}

const char *service_state_name(const struct service *s)
{
	static const char *const names[] = {
		[SERVICE_WAITING] = "waiting",   [SERVICE_RUNNING] = "running",  [SERVICE_BACKING_OFF] = "backing-off",
		[SERVICE_STOPPED] = "stopped",   [SERVICE_STANDBY] = "draining", [SERVICE_GONE] = "draining",
		[SERVICE_DISABLED] = "disabled",
	};
	return s->state == SERVICE_STOPPED && s->workers != NULL ? "draining" : names[s->state];
}
