/* worker.c — what a forked worker does: keeps the descriptors that are its own, becomes its service's user in its
 * service's place, and serves.
 *
 * In the worker's process alone, forked from the supervisor; it never returns to it. The supervisor's memory is here as
 * a copy, of which only the service's configuration, its counters and its limits are used. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/tcp.h>
#include <malloc.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "become.h"
#include "chain.h"
#include "conns.h"
#include "descriptors.h"
#include "line_out.h"
#include "log.h"
#include "program_stderr.h"
#include "refusals.h"
#include "supervisor.h"
#include "tcp_bytes.h"

#define STACK_LEFT (128 * 1024) /* bytes below, where the supervisor's calls may have left something */
#define KEPT_EACH  8            /* chunks of one size */
#define KEPT_FIRST 24           /* bytes: what malloc(3) gives chunks of, from the smallest on, and the last one kept */
#define KEPT_LAST  1032
#define KEPT_STEP  16
#define STATUS_CUT 2 /* the grace ended and connections were cut: service.c tells it from a failure */

/* The one service of this process. */
static struct {
	const struct config_service *conf;
	const struct config *config;
	struct epoch *epoch;
	struct counters *counters;
	struct limits_worker limits;
	struct tickets_user tickets;
	struct certs_shown *certs;
	struct renew renew;
	struct chain chain;
	int ready_fd;
	pid_t supervisor;
} self;

/* what NULL: why says it all. */
static _Noreturn void give_up(const char *what, const char *why)
{
	char text[256];
	int n = snprintf(text, sizeof text, "%s%s%s", what != NULL ? what : "", what != NULL ? ": " : "", why);
	if (self.ready_fd < 0) /* it has served */
		log_event(LOG_LEVEL_ERROR, self.conf->name, "%s", text);
	else
		(void)!write(self.ready_fd, text, n < (int)sizeof text ? (size_t)n : sizeof text - 1);
	_exit(1);
}

/* ---- becoming the service -------------------------------------------------------------------- */

/* The supervisor's second one ends at once. A service manager's comes beside the supervisor's, and the kernel's, for a
 * supervisor that has died, after it: those mean no more than the first. */
static void on_term(int signal, siginfo_t *info, void *context)
{
	static volatile sig_atomic_t told;
	(void)signal;
	(void)context;
	bool again = info->si_pid == self.supervisor && getppid() == self.supervisor && told++ > 0;
	hark_drain(again ? 0 : self.conf->grace_ns);
}

static void on_retire(int signal)
{
	(void)signal;
	hark_retire();
}

static void set_signals(void)
{
	struct sigaction retire = {.sa_handler = on_retire, .sa_flags = SA_RESTART};
	struct sigaction term = {.sa_sigaction = on_term, .sa_flags = SA_RESTART | SA_SIGINFO},
			 standard = {.sa_handler = SIG_DFL};
	sigset_t none;
	for (int signal = 1; signal < NSIG;
	     signal++) /* also what was ignored where harkd was started: nohup(1), a script's trap */
		(void)sigaction(signal, &standard, NULL);
	for (const int *sig = line_out_signals; *sig != 0; sig++) /* programs get the default: spawn.c */
		(void)signal(*sig, SIG_IGN);
	(void)sigaction(SIGTERM, &term, NULL);
	(void)sigaction(SIGINT, &term, NULL);
	(void)sigaction(SIGUSR1, &retire, NULL);
	(void)sigemptyset(&none);
	(void)sigprocmask(SIG_SETMASK, &none, NULL);
}

/* Other services' sockets, other workers' pipes, the control socket: nothing of them may be left in a process that
 * peers talk to. */
static void keep_own(struct hark_listener *const *listeners, int n, int log_channel)
{
	int *keep = calloc((size_t)n + 3, sizeof *keep);
	if (keep == NULL)
		give_up("start", strerror(ENOMEM));
	for (int i = 0; i < n; i++)
		keep[i] = hark_listener_fd(listeners[i]);
	keep[n] = self.ready_fd;
	keep[n + 1] = log_fd();
	keep[n + 2] = log_channel;
	descriptors_keep(keep, n + 3);
	free(keep);
}

static void open_null(int at)
{
	int fd = open("/dev/null", O_RDWR | O_CLOEXEC);
	if (fd < 0 || dup2(fd, at) < 0)
		give_up("/dev/null", strerror(errno));
	if (fd > 2)
		(void)close(fd);
}

static void become(void)
{
	struct hark_why why;
	if (become_limited(self.conf, &why) < 0 || become_environ(self.conf, &why) < 0 ||
	    become_user(self.conf, &why) < 0)
		give_up(NULL, why.text);
}

/* Keys are in this process's memory alone: nobody else's, not even its user's programs', may read that. */
static void hide_memory(bool has_keys)
{
	struct hark_why why = {""};
	if (has_keys && become_unreadable(&why) < 0)
		give_up(NULL, why.text);
}

/* A supervisor that was killed cannot drain us: we do it ourselves. After the user changed, which would undo it. */
static void follow_supervisor(void)
{
	(void)prctl(PR_SET_PDEATHSIG, SIGTERM);
	if (getppid() != self.supervisor)
		(void)raise(SIGTERM);
}

/* What free(3) keeps at hand it does not overwrite, M_PERTURB or not: glibc's tcache, 7 chunks of each small size. */
static void overwrite_kept(void)
{
	void *chunk[KEPT_EACH];
	for (size_t size = KEPT_FIRST; size <= KEPT_LAST; size += KEPT_STEP) {
		for (size_t i = 0; i < KEPT_EACH; i++)
			if ((chunk[i] = malloc(size)) != NULL)
				explicit_bzero(chunk[i], size);
		for (size_t i = 0; i < KEPT_EACH; i++)
			free(chunk[i]);
	}
}

static void forget_in(struct epoch *e)
{
	if (e == NULL || e->forgotten)
		return;
	e->forgotten = true;
	config_forget_others(e->config, self.conf);
}

/* What other services have in their environments: this process has the supervisor's memory as it was. What was freed
 * there is overwritten already (main.c), what lay on the stack is here. */
static __attribute__((noinline)) void forget_others(const struct supervisor *v)
{
	char below[STACK_LEFT];
	explicit_bzero(below, sizeof below);
	overwrite_kept();
	forget_in(v->epoch);
	for (size_t i = 0; i < v->sockets.n; i++)
		forget_in(v->sockets.entry[i]->epoch);
	for (const struct leaving_socket *l = v->sockets.leaving; l != NULL; l = l->next)
		forget_in(l->entry->epoch);
	for (const struct service *s = v->services; s != NULL; s = s->next) {
		forget_in(s->epoch);
		forget_in(s->trial_epoch);
		for (const struct worker *w = s->workers; w != NULL; w = w->next)
			forget_in(w->epoch);
	}
	forget_in(self.epoch);
#ifdef M_PERTURB
	(void)mallopt(M_PERTURB, 0);
#endif
}

/* ---- serving --------------------------------------------------------------------------------- */

/* wait = yes: what came and went on it is not counted there. No descriptor: its process was killed. */
static void count_bytes(struct hark_conn *c, struct log_connection *l)
{
	struct hark_conn_stats stats;
	struct hark_tls_info tls;
	hark_conn_stats(c, &stats);
	l->bytes_in = (int64_t)stats.bytes_in;
	l->bytes_out = (int64_t)stats.bytes_out;
	bool carried = self.chain.tls != NULL && hark_tls_info(c, &tls) == 0; /* a program's go through here */
	if ((!self.chain.box->hands_over || carried) && hark_fd(c) >= 0)
		return;
	l->bytes_in = l->bytes_out = -1;
	if (hark_type(c) == SOCK_STREAM && hark_fd(c) >= 0 && tcp_bytes(hark_fd(c), &l->bytes_in, &l->bytes_out) &&
	    hark_proxied(c) != NULL)
		l->bytes_in -= (int64_t)hark_proxied(c)->bytes; /* the proxy's own */
}

static void tell_untold(enum counter why, uint64_t n, void *arg)
{
	(void)arg;
	log_event(LOG_LEVEL_INFO, self.conf->name, "%" PRIu64 " more refused: %s", n, counter_rows[why].name);
}

static void describe(struct hark_conn *c, struct log_connection *l, struct log_room *room)
{
	l->service = self.conf->name;
	l->box = box_title(self.chain.box, self.chain.state);
	l->target = l->refused == NULL ? box_target(self.chain.box, self.chain.state, c) : NULL;
	log_connection_describe(l, c, room);
}

/* Of one that the box has had. */
static void ask_box(const struct hark_event *e, struct log_connection *l)
{
	const char *words = box_failure(self.chain.box, self.chain.state, e->conn);
	if (words != NULL && l->refused == NULL)
		l->failure = words;
	else if (words != NULL && l->why_refused == NULL)
		l->why_refused = words;
}

static void closed(const struct hark_event *e)
{
	struct log_room room;
	struct log_connection l = {.error = e->error, .status = e->status, .pid = e->pid};
	count_bytes(e->conn, &l);
	counters_add(self.counters, COUNT_FAILED, e->error != 0 || e->status != 0);
	counters_add(self.counters, COUNT_BYTES_IN, l.bytes_in);
	counters_add(self.counters, COUNT_BYTES_OUT, l.bytes_out);
	if (!self.config->log_connections)
		return;
	refusals_untold(self.counters, false, tell_untold, NULL);
	describe(e->conn, &l, &room);
	ask_box(e, &l);
	if (l.pid == 0)
		l.pid = getpid();
	log_connection(&l, &self.counters->n[COUNT_LOG_DROPPED]);
}

/* By chain_admit(), or by a link of the chain: that one was let in, and is over. */
static void refused(const struct hark_event *e)
{
	struct log_room room;
	struct log_connection l = {.pid = getpid(),
	                           .refused = refusals_name(e->error),
	                           .why_refused = chain_why(e->error)};
	if (e->ticket >= 0) {
		count_bytes(e->conn, &l);
		counters_add(self.counters, COUNT_BYTES_IN, l.bytes_in);
		counters_add(self.counters, COUNT_BYTES_OUT, l.bytes_out);
	}
	l.bytes_in = l.bytes_out = -1;
	refusals_count(self.counters, e->error);
	if (!self.config->log_connections)
		return;
	refusals_untold(self.counters, false, tell_untold, NULL);
	if (!refusals_worth_a_line(self.counters, e->error))
		return;
	describe(e->conn, &l, &room);
	if (e->error >= HARK_REFUSED_HELLO) /* a box's own reason */
		ask_box(e, &l);
	log_connection(&l, &self.counters->n[COUNT_LOG_DROPPED]);
}

/* The limits' ticket of each listed connection, by its row: hark_serve()'s is the row, or CONNS_MAX and the limits'. */
static int limit_tickets[CONNS_MAX];

static int row_of(int ticket)
{
	return ticket < CONNS_MAX ? ticket : -1;
}

static void on_event(const struct hark_event *e, void *arg)
{
	(void)arg;
	switch (e->kind) {
	case HARK_EVENT_READY:
		if (self.chain.tls != NULL)
			certs_show(self.certs, self.conf, self.chain.tls);
		(void)!write(self.ready_fd, "", 1);
		(void)close(self.ready_fd);
		self.ready_fd = -1;
		break;
	case HARK_EVENT_OPEN: conns_opened(row_of(e->ticket)); break;
	case HARK_EVENT_LENT: limits_lend(&self.limits); break;
	case HARK_EVENT_RETURNED: limits_returned(&self.limits); break;
	case HARK_EVENT_PROGRAM: conns_program(row_of(e->ticket), e->pid); break;
	case HARK_EVENT_CLOSE:
		conns_closed(row_of(e->ticket));
		closed(e);
		break;
	case HARK_EVENT_REFUSED:
		conns_closed(row_of(e->ticket));
		refused(e);
		break;
	case HARK_EVENT_PAUSED:
		if (e->error != 0 && e->error != EBUSY) { /* EBUSY: limits_pace() has counted it */
			counters_add(self.counters, HELD_RESOURCES, 1);
			log_event(LOG_LEVEL_WARNING, self.conf->name, "accepting pauses: %s", hark_strerror(e->error));
		}
		break;
	default: break;
	}
}

/* Files of a shared object's, which the supervisor knows nothing of. */
static void renewed(int error, const char *why, void *arg)
{
	(void)arg;
	if (error < 0)
		log_event(LOG_LEVEL_ERROR, self.conf->name, "files: not read again, and the old ones go on: %s", why);
	else
		log_event(LOG_LEVEL_NOTICE, self.conf->name, "files: read again");
}

static int limits_ticket(int ticket)
{
	int row = row_of(ticket);
	return row >= 0 ? limit_tickets[row] : ticket >= 0 ? ticket - CONNS_MAX : ticket;
}

static int admit(struct hark_conn *c, void *limits)
{
	(void)limits;
	int ticket = chain_admit(c, &self.chain);
	if (ticket < 0)
		return ticket;
	int row = conns_add(c, self.conf->model == HARK_MODEL_PROCESS);
	if (row < 0)
		return CONNS_MAX + ticket;
	limit_tickets[row] = ticket;
	return row;
}

static void leave(int ticket, void *limits)
{
	if (ticket >= 0)
		conns_remove(row_of(ticket));
	limits_leave(limits_ticket(ticket), limits);
}

static bool paced(const struct config_service *c)
{
	return c->max_conns > 0 || c->rate.events > 0 || c->max_load > 0;
}

static _Noreturn void serve_all(struct hark_listener *const *listeners, int n)
{
	const struct config_service *c = self.conf;
	struct hark_why why = {""};
	const struct hark_serve_opts opts = {
		.model = c->model,
		.conn_fds = self.chain.box->conn_fds,
		.client_first = chain_client_first(&self.chain) && c->n_proxy_from == 0,
		.wait = c->wait,
		.engine = c->engine,
		.stack_bytes = c->stack_bytes,
		.idle_timeout_ns = c->idle_timeout_ns,
		.lifetime_ns = c->lifetime_ns,
		.tls_by_box = true, /* in its place in the chain */
		.tls_handshake_ns = c->n_proxy_from == 0 ? c->tls_handshake_timeout_ns : 0, /* a header comes before */
		.pace = paced(c) ? limits_pace : NULL, /* not to look at each datagram for nothing */
		.admit = admit,
		.leave = leave,
		.limit_arg = &self.limits,
		.event = on_event,
		.why = &why,
	};
	int r = hark_serve(listeners, n, c->wait ? chain_serve_lent : chain_serve, &self.chain, &opts);
	if (r < 0 && r != -ETIMEDOUT)
		give_up("serve", strncmp(why.text, "serve: ", 7) == 0 ? why.text + 7 : hark_strerror(r));
	if (r == 0) /* else boxes may still be running */
		box_free(self.chain.box, self.chain.state);
	if (self.config->log_connections)
		refusals_untold(self.counters, true, tell_untold, NULL);
	program_stderr_end();
	_exit(r == 0 ? 0 : STATUS_CUT);
}

/* hark connections lists whom the chain has found out. */
static void peer_changed(struct hark_conn *c)
{
	conns_peer(row_of(hark_ticket(c)), c);
}

static _Noreturn void give_up_box(int r, const struct hark_why *why)
{
	const char *name = self.conf->argv.word[0], *slash = strrchr(name, '/');
	give_up(slash != NULL ? slash + 1 : name, why->text[0] != '\0' ? why->text : hark_strerror(r));
}

static void read_tls(void)
{
	struct hark_why why = {""};
	if (!config_has_tls(self.conf))
		return;
	self.tickets.lifetime_ns = self.conf->tls_tickets_ns;
	const struct hark_tls_opts opts = {.ticket_key = tickets_key, .ticket_arg = &self.tickets};
	if (config_tls_new(self.conf, &opts, &self.chain.tls, &why) < 0)
		give_up(NULL, why.text);
}

/* With the rights that harkd has. */
static void prepare_box(void)
{
	struct hark_why why = {""};
	self.chain = (struct chain){.conf = self.conf,
	                            .box = self.conf->box,
	                            .limits = &self.limits,
	                            .limits_ticket = limits_ticket,
	                            .peer_changed = peer_changed};
	read_tls();
	if (self.chain.box == &shared_box)
		return; /* foreign code, for the service's user to load */
	int r = config_box_parse(self.conf, self.chain.box, &self.chain.state, &why);
	if (r == 0)
		r = box_prepare(self.chain.box, self.chain.state, &why);
	if (r < 0)
		give_up_box(r, &why);
}

/* As the service's user. */
static void load_box(void)
{
	struct hark_why why = {""};
	if (self.chain.box != &shared_box)
		return;
	int r = config_box_load(self.conf->argv.word[0], &self.chain.box, &why);
	if (r < 0)
		give_up_box(r, &why);
}

/* What depends on the box's row: of a shared object it is known once that is loaded. */
static void fit_box(struct limits_state *limits)
{
	struct config_service c = *self.conf;
	struct hark_why why = {""};
	c.box = self.chain.box;
	if (limits_new(&c, limits, &self.limits.limits) < 0)
		give_up("limits", strerror(ENOMEM));
	limits_join(&self.limits);
	if (!c.box->hands_over) {
		become_all_files(self.conf);
		return;
	}
	/* Programs inherit the limit of files, and a low soft one may be meant for them (select(2)). Another box's
	 * standard error, and a worker's own, stays where it is. */
	if (program_stderr_begin(self.conf->name, &why) < 0)
		give_up("stderr", why.text);
}

static void open_box(void)
{
	struct hark_why why = {""};
	int r = 0;
	if (self.conf->box == &shared_box) {
		r = config_box_parse(self.conf, self.chain.box, &self.chain.state, &why);
		self.renew = (struct renew){.box = self.chain.box, .state = self.chain.state, .told = renewed};
		self.chain.renews = &self.renew;
		self.chain.n_renews = r == 0;
		if (r == 0)
			renew_begin(&self.renew);
		if (r == 0)
			r = box_prepare(self.chain.box, self.chain.state, &why);
	}
	if (r == 0)
		r = box_open(self.chain.box, self.chain.state, &why);
	if (r < 0)
		give_up_box(r, &why);
}

/* The service's own, and no other's: the supervisor's mappings did not come with the fork. */
static void take_memory(struct service *s, const struct worker *w)
{
	int r = memory_attach(s->memory, limits_any(w->conf) || w->conf->box == &shared_box);
	if (r < 0)
		give_up("counters", strerror(-r));
	self.counters = s->memory->counters;
	self.certs = s->memory->certs;
	self.tickets.shared = s->memory->tickets;
	self.limits = (struct limits_worker){.counters = self.counters, .slot = w->slot};
}

/* All sockets of all its addresses, or the one whose backlog it is for. */
static struct hark_listener **own_listeners(const struct sockets *s, const struct worker *w, int *n)
{
	struct hark_listener **own = calloc(s->n + 1, sizeof(struct hark_listener *));
	if (own == NULL)
		give_up("start", strerror(ENOMEM));
	*n = 0;
	if (w->last_backlog != NULL)
		own[(*n)++] = w->last_backlog;
	for (size_t i = 0; w->last_backlog == NULL && i < w->conf->listen.n; i++) {
		const struct socket_entry *e = sockets_find(s, w->conf, i, 0);
		for (size_t nth = 1; e != NULL; e = sockets_find(s, w->conf, i, nth++))
			own[(*n)++] = e->listener;
	}
	if (*n == 0)
		give_up(w->conf->listen.word[0], "is not open");
	for (int i = 0; i < *n; i++) /* inherited by what is accepted */
		(void)setsockopt(hark_listener_fd(own[i]), SOL_SOCKET, SO_KEEPALIVE, &(int){1}, sizeof(int));
	return own;
}

_Noreturn void worker_main(struct supervisor *v, struct service *s, const struct worker *w, int ready_fd, int conns_fd)
{
	self.conf = w->conf;
	self.epoch = w->epoch;
	self.config = w->epoch->config;
	self.ready_fd = ready_fd;
	self.supervisor = v->pid;
	int n;
	struct hark_listener **listeners = own_listeners(&v->sockets, w, &n);
	(void)setsid(); /* no terminal reaches it, and signals from one neither: harkd hears of Ctrl-C and drains it */
	(void)prctl(PR_SET_NAME, w->conf->name);
	take_memory(s, w);
	forget_others(v);
	set_signals();
	(void)conns_attach(conns_fd); /* without it nobody is listed */
	log_follow(w->log.from);
	keep_own(listeners, n, w->log.from);
	open_null(0);
	if (v->in_background) {
		open_null(1);
		open_null(2);
	}
	bool has_keys = certs_stamp(w->conf).hash != 0; /* s's own are others, where it is tried or left */
	hide_memory(has_keys);
	prepare_box();
	(void)setrlimit(RLIMIT_NOFILE, &v->nofile);
	become();
	hide_memory(has_keys); /* another user's becomes readable */
	follow_supervisor();
	load_box();
	fit_box(s->memory->limits);
	open_box();
	serve_all(listeners, n);
}
