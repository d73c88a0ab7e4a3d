/* cmd_serve.c — hark serve: a box or a program on any addresses, under any model.
 *
 * Everything that serving is about happens in hark_serve(); here the command line becomes its arguments. Main thread.
 * An address always holds a ':', a box's name never does: so the first operand without one is the box. */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "box.h"
#include "hark.h"
#include "options.h"
#include "serve_events.h"
#include "terminal.h"
#include "tool.h"

#define GRACE_DEFAULT (10 * HARK_S)

struct serve_args {
	const char *model, *engine, *unix_owner, *directory;
	int workers, max_conns, backlog, files;
	int64_t timeout, lifetime, grace;
	size_t stack;
	mode_t unix_mode;
	bool reuseport, v6only, freebind, wait, verbose, json;
};

static const char *const models[] = {"inline", "process", "thread", "fiber", NULL};
static const char *const engines[] = {"epoll", "uring", "poll", NULL};

#define AT(member) offsetof(struct serve_args, member)

static const struct option_row options[] = {
	{"model", 0, OPTION_CHOICE, "M", "inline, process, thread or fiber: what each connection gets (fiber)",
         AT(model), .choices = models},
	{"workers", 0, OPTION_COUNT, "N", "processes that all accept (1: hark itself)", AT(workers), 1, 1024},
	{"engine", 0, OPTION_CHOICE, "E", "epoll, uring or poll: how a loop waits ($HARK_ENGINE, else the best here)",
         AT(engine), .choices = engines},
	{"max-conns", 0, OPTION_COUNT, "N", "connections at once in each worker; more wait in the backlog (no limit)",
         AT(max_conns), 1, 100000000},
	{"timeout", 0, OPTION_DURATION, "T", "end a connection that is silent for T (never)", AT(timeout), 1},
	{"lifetime", 0, OPTION_DURATION, "T", "end every connection T after it came (never)", AT(lifetime), 1},
	{"grace", 0, OPTION_DURATION, "T", "on SIGTERM or SIGINT, what is busy has T to finish (10s)", AT(grace), 0},
	{"backlog", 0, OPTION_COUNT, "N",
         "connections that may wait to be accepted (the system's most; $LISTENQ overrides it)", AT(backlog), 1,
         1 << 20},
	{"reuseport", 0, OPTION_FLAG, NULL, "share the port with other processes that do the same", AT(reuseport)},
	{"v6only", 0, OPTION_FLAG, NULL, "* takes no IPv4", AT(v6only)},
	{"freebind", 0, OPTION_FLAG, NULL, "listen at addresses that no interface has yet", AT(freebind)},
	{"unix-mode", 0, OPTION_MODE, "MODE", "permissions of unix sockets, octal (what the umask leaves)",
         AT(unix_mode)},
	{"unix-owner", 0, OPTION_TEXT, "U:G", "owner of unix sockets: user, user:group or :group", AT(unix_owner)},
	{"stack", 0, OPTION_SIZE, "SIZE", "stack of each fiber or thread: 256k, 1m (64k for fibers)", AT(stack), 16384,
         1 << 30},
	{"files", 0, OPTION_COUNT, "N", "raise the limit of open files to N (as it was found)", AT(files), 16, 1 << 30},
	{"directory", 0, OPTION_TEXT, "DIR", "where the box runs (here)", AT(directory)},
	{"wait", 0, OPTION_FLAG, NULL, "inetd's wait: the box gets the listening socket itself", AT(wait)},
	{"verbose", 'v', OPTION_FLAG, NULL, "a line on standard error for each connection, worker and pause",
         AT(verbose)},
	{"json", 0, OPTION_FLAG, NULL, "the same, and the beginning of each connection, as JSON lines", AT(json)},
	{0},
};

/* What was asked for, once the operands are sorted. */
struct serve {
	const struct verb *verb;
	struct serve_args args;
	char **addresses;
	int n;
	const struct hark_box_row *box;
	void *box_state;
	struct hark_listener **listeners; /* n of them, NULL where not yet opened */
	char (*bound)[HARK_ADDRESS_MAX];
	const char **bound_list;
};

static int no_such_box(const struct verb *v, const char *name)
{
	struct nearest n = {.word = name};
	char hint[64];

	for (const struct hark_box_row *const *b = boxes; *b != NULL; b++)
		nearest_offer(&n, (*b)->name);
	say(v, "no such box: %s%s (an address holds a ':'; a program comes after --)", name,
	    nearest_hint(&n, "", hint, sizeof hint));
	return STATUS_USAGE;
}

static int box_failed(const struct serve *s, int err, const struct hark_why *why)
{
	say(s->verb, "%s: %s", s->box->name, why->text[0] != '\0' ? why->text : hark_strerror(err));
	return err == -EINVAL ? STATUS_USAGE : STATUS_SYSTEM;
}

static int parse_box(struct serve *s, int argc, char *argv[])
{
	struct hark_why why = {""};
	int err = box_parse(s->box, argc, argv, &s->box_state, &why);

	return err < 0 ? box_failed(s, err, &why) : STATUS_DONE;
}

static int open_box(struct serve *s)
{
	struct hark_why why = {""};
	int err = box_prepare(s->box, s->box_state, &why);

	if (err == 0 && s->args.directory != NULL && chdir(s->args.directory) < 0) {
		say(s->verb, "--directory: %s: %s", s->args.directory, strerror(errno));
		return STATUS_SYSTEM;
	}
	if (err == 0)
		err = box_open(s->box, s->box_state, &why);
	return err < 0 ? box_failed(s, err, &why) : STATUS_DONE;
}

/* ADDRESS... BOX [ARGUMENT]...   or   ADDRESS... -- PROGRAM [ARGUMENT]... */
static int take_operands(struct serve *s, int argc, char *argv[])
{
	struct hark_address a;
	struct hark_why why = {""};

	s->addresses = argv;
	while (s->n < argc && strcmp(argv[s->n], "--") != 0 && strchr(argv[s->n], ':') != NULL) {
		if (hark_address_parse(argv[s->n], &a, &why) < 0) {
			say(s->verb, "%s", why.text);
			return STATUS_USAGE;
		}
		s->n++;
	}
	argc -= s->n;
	argv += s->n;
	if (argc == 0 || (strcmp(argv[0], "--") == 0 && argc == 1))
		return options_usage(s->verb, "neither a box nor a program to serve");
	if (s->n == 0 && (strcmp(argv[0], "--") == 0 || box_find(argv[0]) != NULL))
		return options_usage(s->verb, "no address to listen on");
	bool program = strcmp(argv[0], "--") == 0;
	s->box = box_find(program ? "exec" : argv[0]);
	if (s->box == NULL)
		return no_such_box(s->verb, argv[0]);
	/* exec is given the "--" as well, lest it takes a program's name for an option of its own. */
	return program ? parse_box(s, argc, argv) : parse_box(s, argc - 1, argv + 1);
}

/* inetd's wait hands the socket itself over: whether it is a stream's is then the program's affair. */
static int check_type(struct serve *s, int i)
{
	int type = hark_listener_type(s->listeners[i]);
	bool stream = type == SOCK_STREAM;

	if (s->args.wait || box_takes(s->box, s->box_state, type))
		return STATUS_DONE;
	say(s->verb, "%s: the box %s serves %s alone%s", s->addresses[i], s->box->name,
	    stream ? "datagrams" : "streams", s->box->takes != NULL ? " with these arguments" : "");
	return STATUS_USAGE;
}

static int listen_all(struct serve *s)
{
	struct hark_why why;
	const struct hark_listen_opts opts = {
		.backlog = s->args.backlog,
		.reuseport = s->args.reuseport,
		.v6only = s->args.v6only,
		.freebind = s->args.freebind,
		.unix_mode = s->args.unix_mode,
		.unix_owner = s->args.unix_owner,
		.why = &why,
	};

	s->listeners = calloc((size_t)s->n, sizeof *s->listeners);
	s->bound = calloc((size_t)s->n, sizeof *s->bound);
	s->bound_list = calloc((size_t)s->n + 1, sizeof *s->bound_list);
	if (s->listeners == NULL || s->bound == NULL || s->bound_list == NULL) {
		say(s->verb, "%s", strerror(ENOMEM));
		return STATUS_SYSTEM;
	}
	for (int i = 0; i < s->n; i++) {
		why.text[0] = '\0';
		int err = hark_listen(s->addresses[i], &opts, &s->listeners[i]);
		if (err < 0 && why.text[0] != '\0')
			say(s->verb, "%s", why.text);
		else if (err < 0)
			say(s->verb, "listen %s: %s", s->addresses[i], hark_strerror(err));
		if (err < 0)
			return STATUS_SYSTEM;
		int status = check_type(s, i);
		if (status != STATUS_DONE)
			return status;
		/* Inherited by what is accepted: peers that have vanished end. */
		(void)setsockopt(hark_listener_fd(s->listeners[i]), SOL_SOCKET, SO_KEEPALIVE, &(int){1}, sizeof(int));
		(void)hark_listener_address(s->listeners[i], s->bound[i], sizeof s->bound[i]);
		s->bound_list[i] = s->bound[i];
	}
	return STATUS_DONE;
}

static void close_all(struct serve *s)
{
	for (int i = 0; s->listeners != NULL && i < s->n; i++)
		hark_listener_close(s->listeners[i]);
	free(s->listeners);
	free(s->bound);
	free(s->bound_list);
	if (s->box != NULL)
		box_free(s->box, s->box_state);
}

/* Only on demand: what the service starts inherits the limit, and a low one may be meant. */
static int raise_files(const struct serve *s)
{
	struct rlimit limit;

	if (s->args.files == 0)
		return STATUS_DONE;
	if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
		limit.rlim_cur = (rlim_t)s->args.files;
		if (limit.rlim_max < limit.rlim_cur)
			limit.rlim_max = limit.rlim_cur; /* for root; others are told */
		if (setrlimit(RLIMIT_NOFILE, &limit) == 0)
			return STATUS_DONE;
	}
	say(s->verb, "--files %d: %s (the hard limit is %llu)", s->args.files, strerror(errno),
	    (unsigned long long)limit.rlim_max);
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

static int serve_all(struct serve *s)
{
	struct hark_why why = {""};
	struct serve_events events = {
		.verb = s->verb,
		.box = box_title(s->box, s->box_state),
		.target = box_target(s->box, s->box_state),
		.is_program = s->box->hands_over,
		.verbose = s->args.verbose,
		.json = s->args.json,
		.addresses = s->bound_list,
	};
	int model = s->args.model != NULL ? hark_model_parse(s->args.model) : HARK_MODEL_DEFAULT;
	const struct hark_serve_opts opts = {
		.model = (enum hark_model)model,
		.workers = s->args.workers,
		.max_conns = s->args.max_conns,
		.conn_fds = s->box->conn_fds,
		.client_first = s->box->client_first,
		.wait = s->args.wait,
		.engine = s->args.engine,
		.stack_bytes = s->args.stack,
		.idle_timeout_ns = s->args.timeout,
		.lifetime_ns = s->args.lifetime,
		.event = serve_event,
		.event_arg = &events,
		.why = &why,
	};

	serve_events_open(&events);
	int err = hark_serve(s->listeners, s->n, s->box->serve, s->box_state, &opts);
	if (err == 0)
		return STATUS_DONE;
	if (err == -ETIMEDOUT) {
		say(s->verb, "the grace ended: connections that were still busy have been cut");
		return STATUS_FAILED;
	}
	say(s->verb, "%s", why.text[0] != '\0' ? why.text : hark_strerror(err));
	return STATUS_SYSTEM;
}

static int run(const struct verb *self, int argc, char *argv[])
{
	struct serve s = {.verb = self, .args = {.grace = GRACE_DEFAULT}};
	int status;
	int n = options_parse(self, argc, argv, &s.args, &status);

	if (n < 0)
		return status;
	catch_signals(s.args.grace);
	status = take_operands(&s, n, argv);
	if (status == STATUS_DONE)
		status = raise_files(&s);
	if (status == STATUS_DONE)
		status = listen_all(&s);
	if (status == STATUS_DONE)
		status = open_box(&s);
	if (status == STATUS_DONE)
		status = leave_terminal(&s);
	if (status == STATUS_DONE)
		status = serve_all(&s);
	close_all(&s);
	return status;
}

#define HELP_COLUMN 29

/* What precedes the help, then spaces up to its column, or a line of its own. */
static void list_option(FILE *to, const struct hark_option *o)
{
	int n = fprintf(to, "      [--%s%s%s%s]", o->name,
	                o->value == NULL   ? ""
	                : o->alone != NULL ? "[="
	                                   : " ",
	                o->value != NULL ? o->value : "", o->value != NULL && o->alone != NULL ? "]" : "");

	fprintf(to, "%*s%s", n < HELP_COLUMN ? HELP_COLUMN - n : 1, "", o->help);
	fprintf(to, o->standard != NULL && o->kind != HARK_OPTION_FLAG ? " (%s)\n" : "\n", o->standard);
}

static void list_boxes(FILE *to)
{
	fputs("\nBoxes:\n", to);
	for (const struct hark_box_row *const *b = boxes; *b != NULL; b++) {
		fprintf(to, "  %-10s %s\n", (*b)->name, (*b)->summary);
		if ((*b)->usage != NULL)
			fprintf(to, "      %s\n", (*b)->usage);
		for (const struct hark_option *o = (*b)->options; o != NULL && o->name != NULL; o++)
			if (o->help != NULL)
				list_option(to, o);
	}
}

const struct verb verb_serve = {
	.name = "serve",
	.summary = "Serves a box or a program on any addresses",
	.usage = "ADDRESS... (BOX [ARGUMENT]... | -- PROGRAM [ARGUMENT]...)",
	.notes = "Options come first. The first operand without a ':' is the box; what follows is the box's own. "
		 "PROGRAM gets the\n"
		 "connection as its standard input and output: the same as the box exec.\n"
		 "Prints \"listening on ADDRESS\" for each address once it accepts. SIGTERM or SIGINT drains,\n"
		 "a second one ends at once.\n",
	.options = options,
	.options_first = true,
	.more = list_boxes,
	.run = run,
};
