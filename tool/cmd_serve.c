/* cmd_serve.c — hark serve: a box or a program on any addresses, under any model.
 *
 * Everything that serving is about happens in hark_serve(); here the command line becomes its arguments: options become
 * a service by the table of hark.conf's keys. Main thread. An address always holds a ':', a box's name never does: so
 * the first operand without one is the box. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "background.h"
#include "become.h"
#include "box.h"
#include "chain.h"
#include "hark.h"
#include "line_out.h"
#include "options.h"
#include "serve_events.h"
#include "serve_help.h"
#include "serve_keys.h"
#include "serve_limits.h"
#include "serve_listen.h"
#include "terminal.h"
#include "tool.h"

struct serve_args {
	struct serve_keys keys;
	const char *unix_owner;
	int files;
	mode_t unix_mode;
	bool verbose, json, once, daemon;
};

#define AT(member) offsetof(struct serve_args, member)

static int take_key(const struct verb *v, const char *name, const char *text, void *to)
{
	return serve_keys_set(&((struct serve_args *)to)->keys, v, name, text);
}

#define OWN_ROWS 7

/* What hark.conf has no key for; behind it complete_options() puts a row for each key. */
static struct option_row options[OWN_ROWS + SERVE_KEYS_MAX + 1] = {
	{"verbose", 'v', OPTION_FLAG, NULL, "a line on standard error for each connection, worker and pause",
         AT(verbose)},
	{"json", 0, OPTION_FLAG, NULL, "the same, and the beginning of each connection, as JSON lines", AT(json)},
	{"once", 0, OPTION_FLAG, NULL, "serve one connection and end with it", AT(once)},
	{"daemon", 0, OPTION_FLAG, NULL, "go into the background once everything serves", AT(daemon)},
	{"files", 0, OPTION_COUNT, "N", "raise the limit of open files to N (as it was found)", AT(files), 16, 1 << 30},
	{"unix-mode", 0, OPTION_MODE, "MODE", "--socket-mode", AT(unix_mode)},
	{"unix-owner", 0, OPTION_TEXT, "U:G", "--socket-user and --socket-group: user, user:group or :group",
         AT(unix_owner)},
};

static void complete_options(void)
{
	(void)serve_keys_rows(options + OWN_ROWS, take_key);
}

/* What was asked for, once the operands are sorted. */
struct serve {
	const struct verb *verb;
	struct serve_args args;
	struct config *config;
	const struct config_service *conf; /* in config */
	char **addresses;
	int n;
	struct chain chain;
	char *shared_path; /* absolute, of a box that is still to be loaded; NULL: it is one of ours */
	char **shared_argv;
	int shared_argc;
	struct serve_limits limits;
	struct serve_events events;
	struct hark_tls_opts tls_opts;
	struct renew renews[2]; /* of TLS, of the box */
	int ready_fd;           /* --daemon: who waits for us; -1: nobody */
	bool wants_tls;         /* it has an address at tls:// */
	bool help;              /* the box's, in place of serving */
	bool has_keys;          /* of TLS, perhaps */
	bool cut;               /* boxes may still be running: what is theirs stays */
	struct serve_sockets sockets;
};

/* Options end where the box is named: an address always has a ':', its name never, but a shared object's path may. */
static bool is_box(const char *word)
{
	return strchr(word, ':') == NULL || word[0] == '/';
}

static int no_such_box(const struct verb *v, const char *name)
{
	struct nearest n = {.word = name};
	char hint[64];

	for (const struct hark_box_row *const *b = boxes; *b != NULL; b++)
		nearest_offer(&n, (*b)->name);
	if (name[0] != '\0' && strspn(name, "0123456789") == strlen(name))
		(void)snprintf(hint, sizeof hint, " (did you mean tcp://*:%.20s?)", name);
	else
		(void)nearest_hint(&n, "", hint, sizeof hint);
	say(v, "no such box: %s%s (an address holds a ':'; a program comes after --)", name, hint);
	return STATUS_USAGE;
}

static int box_failed(const struct serve *s, int err, const struct hark_why *why)
{
	say(s->verb, "%s: %s", s->chain.box->name, why->text[0] != '\0' ? why->text : hark_strerror(err));
	return err == -EINVAL ? STATUS_USAGE : STATUS_SYSTEM;
}

static int parse_box(struct serve *s, int argc, char *argv[])
{
	struct hark_why why = {""};
	int err = box_parse(s->chain.box, argc, argv, &s->chain.state, &why);

	return err < 0 ? box_failed(s, err, &why) : STATUS_DONE;
}

/* inetd's wait hands the socket itself over: whether it is a stream's is then the program's affair. */
static int check_type(struct serve *s, int i)
{
	int type = hark_listener_type(s->sockets.listeners[i]);
	const char *address = s->sockets.asked[i];
	bool stream = type == SOCK_STREAM;

	if (!s->conf->wait && s->chain.box->hands_over && strncmp(address, "unixgram:", 9) == 0) {
		say(s->verb, "%s: the box %s takes unix datagrams with --wait alone", address, s->chain.box->name);
		return STATUS_USAGE;
	}
	if (s->conf->wait || box_takes(s->chain.box, s->chain.state, type))
		return STATUS_DONE;
	say(s->verb, "%s: the box %s serves %s alone%s", address, s->chain.box->name, stream ? "datagrams" : "streams",
	    s->chain.box->takes != NULL ? " with these arguments" : "");
	return STATUS_USAGE;
}

static void renewed(int error, const char *why, void *serve)
{
	struct serve *s = serve;

	if (error < 0)
		serve_events_say(&s->events, true, "certificates: not read again, and the old ones go on: %s", why);
	else
		serve_events_say(&s->events, false, "certificates: read again");
}

/* Elsewhere their names are others. */
static void begin_renewal(struct serve *s, struct renew r)
{
	if (s->conf->chroot != NULL || s->conf->directory != NULL)
		return;
	struct renew *to = &s->renews[s->chain.n_renews];
	*to = r;
	to->told = renewed;
	to->told_arg = s;
	renew_begin(to);
	s->chain.renews = s->renews;
	s->chain.n_renews += to->files.read != 0;
}

static void begin_box_renewal(struct serve *s)
{
	begin_renewal(s, (struct renew){.box = s->chain.box, .state = s->chain.state});
}

/* A shared object, by the user that serves. */
static int load_box(struct serve *s)
{
	struct hark_why why = {""};
	int err = config_box_load(s->shared_path, &s->chain.box, &why), status;

	if (err == 0 && (status = parse_box(s, s->shared_argc, s->shared_argv)) != STATUS_DONE)
		return status;
	for (int i = 0; i < s->sockets.n && err == 0; i++)
		if ((status = check_type(s, i)) != STATUS_DONE)
			return status;
	if (err == 0) {
		begin_box_renewal(s);
		err = box_prepare(s->chain.box, s->chain.state, &why);
	}
	if (err == 0)
		err = box_open(s->chain.box, s->chain.state, &why);
	return err < 0 ? box_failed(s, err, &why) : STATUS_DONE;
}

static int become(const struct serve *s)
{
	struct hark_why why = {""};

	if (become_limited(s->conf, &why) < 0 || become_environ(s->conf, &why) < 0 || become_user(s->conf, &why) < 0 ||
	    (s->has_keys && become_unreadable(&why) < 0)) {
		say(s->verb, "%s", why.text);
		return STATUS_SYSTEM;
	}
	return STATUS_DONE;
}

static bool is_tls(const char *address)
{
	return strncmp(address, "tls:", 4) == 0;
}

/* With the rights that we were started with. */
static int read_tls(struct serve *s)
{
	struct hark_why why = {""};

	if (!s->wants_tls)
		return STATUS_DONE;
	s->tls_opts = (struct hark_tls_opts){.ticket_key = tickets_key, .ticket_arg = &s->limits.tickets};
	begin_renewal(s, (struct renew){.conf = s->conf, .opts = &s->tls_opts});
	int err = config_tls_new(s->conf, &s->tls_opts, &s->chain.tls, &why);
	s->renews[0].tls = s->chain.tls;
	if (err < 0)
		say(s->verb, "%s", why.text);
	return err == 0 ? STATUS_DONE : err == -EINVAL ? STATUS_USAGE : STATUS_SYSTEM;
}

/* In the service's place, as its user. */
static int open_box(struct serve *s)
{
	struct hark_why why = {""};
	const struct config_service *tls = s->wants_tls ? s->conf : NULL;
	int status, err;

	s->has_keys = renew_stamp(tls, s->chain.box, s->chain.state).hash != 0;
	if (s->has_keys && become_unreadable(&why) < 0) {
		say(s->verb, "%s", why.text);
		return STATUS_SYSTEM;
	}
	status = read_tls(s);
	if (status != STATUS_DONE)
		return status;
	if (s->shared_path == NULL)
		begin_box_renewal(s);
	err = box_prepare(s->chain.box, s->chain.state, &why);
	if (err < 0)
		return box_failed(s, err, &why);
	status = become(s);
	if (status != STATUS_DONE)
		return status;
	if (s->shared_path != NULL)
		return load_box(s);
	err = box_open(s->chain.box, s->chain.state, &why);
	return err < 0 ? box_failed(s, err, &why) : STATUS_DONE;
}

/* Of a shared object, which is foreign code: by the user that would serve it. */
static int show_help(struct serve *s)
{
	struct hark_why why = {""};
	int status = s->shared_path != NULL ? become(s) : STATUS_DONE;

	if (status != STATUS_DONE)
		return status;
	int err = s->shared_path != NULL ? config_box_load(s->shared_path, &s->chain.box, &why) : 0;
	if (err < 0)
		return box_failed(s, err, &why);
	serve_help_box(s->chain.box, s->addresses[s->n], stdout);
	return STATUS_DONE;
}

/* Found from here: the directory may become another one. */
static int take_shared(struct serve *s, int argc, char *argv[])
{
	s->shared_path = s->conf->chroot != NULL ? strdup(argv[0]) : realpath(argv[0], NULL);
	if (s->shared_path == NULL) {
		say(s->verb, "%s: %s", argv[0], strerror(errno));
		return STATUS_SYSTEM;
	}
	s->shared_argv = argv + 1;
	s->shared_argc = argc - 1;
	s->chain.box = &shared_box;
	return STATUS_DONE;
}

/* The first option that says a service has TLS; NULL: none is given. */
static const char *tls_option(const struct config_service *c)
{
	return c->cert.n > 0           ? "cert"
	       : c->key.n > 0          ? "key"
	       : c->client_ca != NULL  ? "client-ca"
	       : c->client_crl != NULL ? "client-crl"
	       : c->alpn != NULL       ? "alpn"
	                               : NULL;
}

/* Those before the box. */
static int take_addresses(struct serve *s, int argc, char *argv[])
{
	struct hark_address a;
	struct hark_why why = {""};

	s->addresses = argv;
	for (; s->n < argc && strcmp(argv[s->n], "--") != 0 && !is_box(argv[s->n]); s->n++) {
		if (hark_address_parse(argv[s->n], &a, &why) < 0) {
			say(s->verb, "%s", why.text);
			return STATUS_USAGE;
		}
		if (a.scheme != HARK_TLS)
			continue;
		s->wants_tls = true;
		if (s->conf->cert.n == 0) {
			say(s->verb, "%s: --cert says with which certificate", argv[s->n]);
			return STATUS_USAGE;
		}
		if (s->conf->wait) {
			say(s->verb, "%s: not with --wait: the program gets the socket itself", argv[s->n]);
			return STATUS_USAGE;
		}
	}
	return STATUS_DONE;
}

/* ADDRESS... BOX [ARGUMENT]...   or   ADDRESS... -- PROGRAM [ARGUMENT]... */
static int take_operands(struct serve *s, int argc, char *argv[])
{
	const char *lost = tls_option(s->conf);
	int status = take_addresses(s, argc, argv);

	if (status != STATUS_DONE)
		return status;
	argc -= s->n;
	argv += s->n;
	if (argc == 0 || (strcmp(argv[0], "--") == 0 && argc == 1))
		return options_usage(s->verb, "neither a box nor a program to serve");
	bool program = strcmp(argv[0], "--") == 0;
	s->help = !program && argc > 1 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0);
	s->chain.box = box_find(program ? "exec" : argv[0]);
	if (s->n == 0 && !s->help && (s->chain.box != NULL || box_is_path(argv[0])))
		return options_usage(s->verb, "no address to listen on");
	if (!s->help && !s->wants_tls && lost != NULL) {
		say(s->verb, "--%s goes with an address at tls://", lost);
		return STATUS_USAGE;
	}
	if (s->chain.box == NULL && box_is_path(argv[0]))
		return take_shared(s, argc, argv);
	if (s->chain.box == NULL)
		return no_such_box(s->verb, argv[0]);
	if (s->help)
		return STATUS_DONE;
	/* exec is given the "--" as well, lest it takes a program's name for an option of its own. */
	return program ? parse_box(s, argc, argv) : parse_box(s, argc - 1, argv + 1);
}

static int listen_all(struct serve *s)
{
	const struct config_service *c = s->conf;
	struct hark_why why;
	char owner[256] = "";
	if (c->socket_user != NULL || c->socket_group != NULL)
		(void)snprintf(owner, sizeof owner, "%s%s%s", c->socket_user != NULL ? c->socket_user : "",
		               c->socket_group != NULL ? ":" : "", c->socket_group != NULL ? c->socket_group : "");
	struct hark_listen_opts opts = {
		.backlog = c->backlog,
		.reuseport = c->reuseport,
		.v6only = c->v6only,
		.freebind = c->freebind,
		.defer_accept_s = c->defer_accept_s,
		.unix_mode = c->socket_mode >= 0 ? (mode_t)c->socket_mode : s->args.unix_mode,
		.unix_owner = owner[0] != '\0' ? owner : s->args.unix_owner,
		.why = &why,
	};

	for (int i = 0; i < s->n; i++) {
		opts.tls = is_tls(s->addresses[i]); /* of a name each address is opened by itself */
		int next = s->sockets.n, status = serve_listen(&s->sockets, s->verb, s->addresses[i], &opts);
		while (status == STATUS_DONE && next < s->sockets.n)
			status = check_type(s, next++);
		if (status != STATUS_DONE)
			return status;
	}
	return STATUS_DONE;
}

static void close_all(struct serve *s)
{
	serve_listen_close(&s->sockets);
	if (s->chain.box != NULL && !s->cut)
		box_free(s->chain.box, s->chain.state);
	free(s->shared_path);
	if (s->cut)
		return;
	hark_tls_free(s->chain.tls);
	serve_limits_close(&s->limits);
	config_free(s->config);
}

/* Only on demand: what the service starts inherits the limit, and a low one may be meant. */
static int raise_files(const struct serve *s)
{
	struct rlimit found, limit = {.rlim_cur = (rlim_t)s->args.files};

	if (s->args.files == 0)
		return STATUS_DONE;
	(void)getrlimit(RLIMIT_NOFILE, &found);
	limit.rlim_max = found.rlim_max < limit.rlim_cur ? limit.rlim_cur
	                                                 : found.rlim_max; /* for root; others are told */
	if (setrlimit(RLIMIT_NOFILE, &limit) == 0)
		return STATUS_DONE;
	say(s->verb, "--files %d: %s (the hard limit is %llu)", s->args.files, strerror(errno),
	    (unsigned long long)found.rlim_max);
	return STATUS_SYSTEM;
}

static int64_t grace_ns; /* set before the handlers are, constant from then on */

/* The first signal lets what is busy finish, any further one ends at once. */
static void on_signal(int signal)
{
	static volatile sig_atomic_t times;

	(void)signal;
	hark_drain(times++ == 0 ? grace_ns : 0);
}

static void catch_signals(int64_t grace)
{
	struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};

	grace_ns = grace;
	(void)sigaction(SIGTERM, &action, NULL);
	(void)sigaction(SIGINT, &action, NULL);
	for (const int *sig = line_out_signals; *sig != 0; sig++)
		(void)signal(*sig, SIG_IGN);
	(void)signal(SIGCHLD, SIG_DFL); /* ignored, as some leave it, it would lose us how programs ended */
}

static int leave_terminal(const struct serve *s)
{
	int err = terminal_detach();

	if (err == 0)
		return STATUS_DONE;
	say(s->verb, "terminal: %s", hark_strerror(err));
	return STATUS_SYSTEM;
}

/* ---- the background ---- */

/* Terminal and pipes are given up, whose readers would wait for us; a log in a file goes on. */
static void tell_ready(struct serve *s)
{
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	struct stat st;
	for (int fd = 0; fd <= 2 && null >= 0; fd++)
		if (fd < 2 || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
			(void)dup2(null, fd);
	if (null > 2)
		(void)close(null);
	serve_events_moved(&s->events);
	(void)!write(s->ready_fd, "", 1);
	(void)close(s->ready_fd);
	s->ready_fd = -1;
}

static void on_event(const struct hark_event *e, void *arg)
{
	struct serve *s = arg;
	if (e->kind == HARK_EVENT_WORKER_DOWN)
		serve_limits_worker_down(&s->limits, e->pid);
	if (e->kind == HARK_EVENT_LENT || e->kind == HARK_EVENT_RETURNED)
		serve_limits_lent(&s->limits, e->kind == HARK_EVENT_LENT);
	serve_event(e, &s->events);
	if (e->kind == HARK_EVENT_READY && s->ready_fd >= 0)
		tell_ready(s);
}

static int serve_all(struct serve *s)
{
	struct hark_why why = {""};
	const struct config_service *c = s->conf;
	const struct hark_box_row *box = s->chain.box;
	struct hark_serve_opts opts = {
		.model = c->model,
		.workers = c->workers,
		.max_conns = c->workers > 1 ? 0 : c->max_conns,
		.conn_fds = box->conn_fds,
		.client_first = chain_client_first(&s->chain) && c->n_proxy_from == 0,
		.wait = c->wait,
		.engine = c->engine,
		.stack_bytes = c->stack_bytes,
		.idle_timeout_ns = c->idle_timeout_ns,
		.lifetime_ns = c->lifetime_ns,
		.tls_by_box = true, /* in its place in the chain */
		.tls_handshake_ns = c->n_proxy_from == 0 ? c->tls_handshake_timeout_ns : 0, /* a header comes before */
		.event = on_event,
		.event_arg = s,
		.why = &why,
	};

	s->events = (struct serve_events){.verb = s->verb,
	                                  .box = box_title(box, s->chain.state),
	                                  .row = box,
	                                  .state = s->chain.state,
	                                  .is_program = box->hands_over,
	                                  .verbose = s->args.verbose,
	                                  .json = s->args.json,
	                                  .counters = s->limits.worker.counters,
	                                  .addresses = (const char *const *)s->sockets.bound};
	serve_events_open(&s->events);
	s->chain.limits = &s->limits.worker;
	serve_limits_hook(&s->limits, &s->chain, &opts);
	int err = hark_serve(s->sockets.listeners, s->sockets.n, c->wait ? chain_serve_lent : chain_serve, &s->chain,
	                     &opts);
	serve_events_ended(&s->events);
	if (err == 0)
		return STATUS_DONE;
	if (err == -ETIMEDOUT) {
		s->cut = true;
		say(s->verb, "the grace ended: connections that were still busy have been cut");
		return STATUS_FAILED;
	}
	say(s->verb, "%s", why.text[0] != '\0' ? why.text : hark_strerror(err));
	return STATUS_SYSTEM;
}

/* The options become a service, as a section of hark.conf does. */
static int take_options(struct serve *s)
{
	int status = serve_keys_load(&s->args.keys, s->verb, &s->config);

	if (status != STATUS_DONE)
		return status;
	s->conf = s->chain.conf = s->config->services[0];
	if (s->args.once && (s->conf->wait || s->conf->workers > 1))
		return options_usage(s->verb,
		                     s->conf->wait ? "--once goes with no --wait" : "--once goes with one worker");
	return STATUS_DONE;
}

static int begin_limits(struct serve *s)
{
	struct config_service c = *s->conf;

	c.box = s->chain.box;
	c.listen = (struct config_words){.word = s->addresses, .n = (size_t)s->n};
	int err = serve_limits_open(&s->limits, &c, s->args.once);
	if (err < 0)
		say(s->verb, "%s", hark_strerror(err));
	return err < 0 ? STATUS_SYSTEM : STATUS_DONE;
}

static int begin_background(struct serve *s)
{
	if (!s->args.daemon)
		return STATUS_DONE;
	s->ready_fd = background_begin();
	if (s->ready_fd < 0)
		say(s->verb, "--daemon: %s", strerror(-s->ready_fd));
	return s->ready_fd < 0 ? STATUS_SYSTEM : STATUS_DONE;
}

/* The steps from the operands on. */
static int serve(struct serve *s)
{
	int status = raise_files(s);

	if (status == STATUS_DONE)
		status = begin_background(s);
	if (status == STATUS_DONE) {
		catch_signals(s->conf->grace_ns);
		status = listen_all(s);
	}
	if (status == STATUS_DONE)
		status = leave_terminal(s);
	if (status == STATUS_DONE)
		status = open_box(s);
	if (status == STATUS_DONE)
		status = begin_limits(s);
	return status == STATUS_DONE ? serve_all(s) : status;
}

static int run(const struct verb *self, int argc, char *argv[])
{
	static struct serve s; /* boxes that were cut may still use it */
	int status;

	s = (struct serve){.verb = self, .ready_fd = -1};
	int n = options_parse(self, argc, argv, &s.args, &status);

	if (n < 0)
		return status;
	status = take_options(&s);
	if (status == STATUS_DONE)
		status = take_operands(&s, n, argv);
	if (status == STATUS_DONE)
		status = s.help ? show_help(&s) : serve(&s);
	close_all(&s);
	return status;
}

static const struct option_hint hints[] = {
	{0, "timeout", "for silence: --idle-timeout T; for a whole connection: --lifetime T"},
	{0, NULL, NULL},
};

const struct verb verb_serve = {
	.name = "serve",
	.summary = "Serves a box or a program on any addresses",
	.usage = "ADDRESS... (BOX | /PATH.so | -- PROGRAM) [ARGUMENT]...",
	.notes = "Options come before the box: the first operand without a ':'. What follows is the box's own. "
		 "PROGRAM gets the\n"
		 "connection as its standard input and output: the same as the box exec.\n"
		 "BOX --help tells of one box, also of a shared object.\n"
		 "Prints \"listening on ADDRESS\" for each address once it accepts. SIGTERM or SIGINT drains,\n"
		 "a second one ends at once.\n",
	.options = options,
	.hints = hints,
	.last = is_box,
	.begin = complete_options,
	.more = serve_help_boxes,
	.run = run,
};
