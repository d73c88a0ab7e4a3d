/* exec.c — a program with the connection as its standard input and output, in the manner of inetd(8) and the ucspi
 * tools.
 *
 *   exec [OPTION...] PROGRAM [ARGUMENT...]
 *
 * PROGRAM is looked for in $PATH, once, when the service starts, and gets its arguments exactly as they are given: no
 * shell; --argv0 gives it another name than the one it was found by. Its standard error is the server's own, or what
 * --stderr says; its standard input with --stdin null is /dev/null, for a program that only answers. Its environment is
 * environ.h's; --lookup-host has the peer's name looked up for it. It leads a process group, in a session
 * without a terminal.
 *
 * Streams: a program a connection. Datagrams: a program a peer, its socket connected to that peer and the first
 * datagram still in it (hark_udp_connect()); or, where the server gives the listening socket itself (struct
 * hark_serve_opts' wait), one program that reads them all.
 *
 * When the program has ended the box returns, and the server ends the connection so that the peer gets all that was
 * written; what it leaves running goes on, and keeps the connection where it has it, as under inetd. But when the
 * connection's time is over, its peer is gone (--until-eof: has ended its side), or the server drains, the whole group
 * is asked to end, ever more firmly, by --stop-ladder (attend.h).
 *
 * Where there is no room for a process (RLIMIT_NPROC, memory, descriptors) it is tried again for ten seconds.
 *
 * The outcome is the program's pid and status; 127 or 126 in a shell's manner if it could not be started (not found;
 * anything else). */
#include "attend.h"
#include "environ.h"
#include "error_file.h"
#include "holders.h"
#include "options.h"
#include "spawn.h"
#include "table.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define DATAGRAM_IDLE_NS (60 * HARK_S) /* of a conversation by datagrams, which has no end of its own */
/* How long a connection waits for a process that cannot be had, and between tries. */
#define ROOM_NS      (10 * HARK_S)
#define ROOM_STEP_NS (100 * HARK_MS)

enum { STDIN_CONNECTION = 0, STDIN_NULL };
static const char *const stdins[] = {[STDIN_CONNECTION] = "connection", [STDIN_NULL] = "null", NULL};
static const char *const stderrs[] = {"log", "connection", "null", NULL};

struct exec {
	/* its options */
	int stdin_from;
	bool stdin_null, want_host;
	const char *stderr_to, *argv0; /* argv0 NULL: as the program is written */
	struct attend attend;
	/* its operands */
	char *const *words;
	size_t n_words;
	char *program; /* words[0], where it is a path from the directory that we were started in; NULL: as it is */
	/* Descriptors + 1; 0: none. null and file were opened, input and error are of those. */
	int null, input, error;
	struct error_file file;
	char **argv;
	char **environ; /* what every program gets */
	size_t environ_count;
	char path[PATH_MAX];
};

static int64_t earlier(int64_t a, int64_t b)
{
	return a < b ? a : b;
}

/* Makes c's descriptor what a program can have. -EALREADY: the datagram has gone to the program that its peer has
 * already. -EOPNOTSUPP, -ENOTEMPTY: it cannot: a local datagram, which has no conversation, or bytes were taken from it
 * already. */
static int make_ready(struct hark_conn *c)
{
	int r = hark_type(c) == SOCK_DGRAM ? hark_udp_connect(c) : 0;
	return r < 0 && r != -EOPNOTSUPP ? r : hark_handover(c);
}

static int error_of(const struct exec *x, int connection, int again)
{
	if (strcmp(x->stderr_to, "connection") == 0)
		return connection;
	return again >= 0 ? again : x->error - 1;
}

/* fd: what it gets for c. */
static int start(const struct exec *x, struct hark_conn *c, int fd, struct spawned *p)
{
	struct conn_environ own;
	int r = conn_environ(c, x->want_host, &own);
	if (r < 0)
		return r;
	char **envp = malloc((x->environ_count + own.count + 1) * sizeof *envp);
	if (envp == NULL)
		return -ENOMEM;
	memcpy(envp, x->environ, x->environ_count * sizeof *envp);
	memcpy(envp + x->environ_count, own.entries, own.count * sizeof *envp);
	envp[x->environ_count + own.count] = NULL;
	int again = error_file_again(&x->file);
	struct spawn s = {
		.path = x->path,
		.argv = x->argv,
		.envp = envp,
		.fd = fd,
		.input = x->input - 1,
		.error = error_of(x, fd, again),
	};
	if (fd == hark_fd(c) && hark_type(c) == SOCK_STREAM)
		holders_begin();
	r = spawn_start(&s, p);
	if (again >= 0)
		(void)close(again);
	free(envp);
	return r;
}

/* There is no room for a process now: others give some back. Or for a peer's socket: a reload goes from one address to
 * another. */
static bool may_pass(int r)
{
	return r == -EAGAIN || r == -ENOMEM || r == -EMFILE || r == -ENFILE || r == -EADDRINUSE;
}

/* make_ready() and start(), again and again for a while: a connection that waits is better than one that is lost.
 * fd: what the program gets; -1: c's own descriptor. */
static int start_patiently(const struct exec *x, struct hark_conn *c, int fd, struct spawned *p)
{
	struct hark_conn_stats stats;
	int64_t until = hark_after(ROOM_NS);
	hark_conn_stats(c, &stats);
	until = earlier(until, stats.deadline_ns);
	for (bool ready = fd >= 0;;) {
		int r = ready ? 0 : make_ready(c);
		ready = ready || r >= 0;
		if (ready)
			r = start(x, c, fd >= 0 ? fd : hark_fd(c), p);
		if (!may_pass(r) || hark_now() >= earlier(until, hark_drain_deadline()) || hark_sleep(ROOM_STEP_NS) < 0)
			return r;
	}
}

static void cannot_start(struct hark_conn *c, int r)
{
	hark_outcome(c, 0, (r == -ENOENT ? 127 : 126) << 8);
}

/* Behind TLS the program speaks plain text to us. */
static void serve_carried(const struct exec *x, struct hark_conn *c)
{
	struct hark_conn *pair[2]; /* ours and the program's */
	struct spawned p;
	int r = hark_pair(pair);
	if (r == 0) {
		r = start_patiently(x, c, hark_fd(pair[1]), &p);
		hark_release(pair[1]);
		if (r < 0)
			hark_abort(pair[0]);
	}
	if (r < 0) {
		cannot_start(c, r);
		return;
	}
	hark_outcome(c, p.pid, 0);
	hark_outcome(c, p.pid, attend_carried(&x->attend, c, pair[0], &p));
	(void)close(p.pidfd);
	hark_abort(pair[0]); /* all of it was carried, or nobody wants it */
}

static void exec_serve(struct hark_conn *c, void *arg)
{
	const struct exec *x = arg;
	struct hark_conn_stats stats;
	struct hark_endpoint peer;
	struct hark_tls_info tls;
	struct spawned p;
	int r = start_patiently(x, c, -1, &p);
	if (r == -EALREADY)
		return;
	if (r == -EOPNOTSUPP && hark_tls_info(c, &tls) == 0) {
		serve_carried(x, c);
		return;
	}
	if (r < 0) {
		cannot_start(c, r);
		return;
	}
	hark_outcome(c, p.pid, 0);
	bool has_peer = hark_peer_endpoint(c, &peer) == 0;
	hark_conn_stats(c, &stats);
	if (has_peer && hark_type(c) == SOCK_DGRAM && stats.idle_ns == 0)
		hark_idle_timeout(c, DATAGRAM_IDLE_NS);
	hark_outcome(c, p.pid, attend(&x->attend, c, &p, has_peer));
	(void)close(p.pidfd);
}

/* ---- its arguments ---------------------------------------------------------------------------- */

static int exec_parse(void *state, int argc, char *const argv[], struct hark_why *why)
{
	struct exec *x = state;
	if (argc == 0)
		return box_why(why, -EINVAL, "no program to run");
	if (x->attend.ladder_ns[1] < x->attend.ladder_ns[0])
		return box_why(why, -EINVAL, "--kill-after is sooner than --term-after");
	x->words = argv;
	x->n_words = (size_t)argc;
	return 0;
}

/* The directory may become another one. */
static int keep_program(struct exec *x)
{
	const char *name = x->words[0];
	char cwd[PATH_MAX];
	if (name[0] == '/' || strchr(name, '/') == NULL)
		return 0;
	if (getcwd(cwd, sizeof cwd) == NULL)
		return -errno;
	return asprintf(&x->program, "%s/%s", cwd, name) < 0 ? -ENOMEM : 0;
}

/* A chroot that is entered later may lack /dev/null, and has other files. */
static int exec_prepare(void *state, struct hark_why *why)
{
	struct exec *x = state;
	int fd, r = keep_program(x);
	if (r < 0)
		return box_why(why, r, "cannot run %s: %s", x->words[0], hark_strerror(r));
	bool stdin_null = x->stdin_null || x->stdin_from == STDIN_NULL, stderr_null = strcmp(x->stderr_to, "null") == 0;
	if (stdin_null || stderr_null) {
		if ((fd = open("/dev/null", O_RDWR | O_CLOEXEC)) < 0)
			return box_why(why, -errno, "cannot open /dev/null: %s", strerror(errno));
		x->null = 1 + fd;
		x->input = stdin_null ? x->null : 0;
		x->error = stderr_null ? x->null : 0;
	}
	return x->stderr_to[0] == '/' ? error_file_prepare(&x->file, x->stderr_to, why) : 0;
}

static int open_stderr(struct exec *x, struct hark_why *why)
{
	int r = x->file.path != NULL ? error_file_open(&x->file, why) : 0;
	if (r == 0 && x->file.file > 0)
		x->error = x->file.file;
	return r;
}

/* What every program gets: arguments and environment. */
static int take_words(struct exec *x)
{
	char **argv = malloc(x->n_words * sizeof *argv);
	if (argv == NULL)
		return -ENOMEM;
	memcpy(argv, x->words, x->n_words * sizeof *argv);
	if (x->argv0 != NULL)
		argv[0] = (char *)x->argv0; /* strings_copy() does not write to it */
	x->argv = strings_copy(argv, x->n_words);
	free(argv);
	x->environ = environ_base(&x->environ_count);
	return x->argv == NULL || x->environ == NULL ? -ENOMEM : 0;
}

static int exec_open(void *state, struct hark_why *why)
{
	struct exec *x = state;
	const char *name = x->words[0];
	int r = spawn_find(x->program != NULL ? x->program : name, x->path, sizeof x->path);
	if (r < 0)
		return box_why(why, r, "cannot run %s: %s", name,
		               r == -ENOENT && strchr(name, '/') == NULL ? "not found in $PATH" : hark_strerror(r));
	if (take_words(x) < 0)
		return box_why(why, -ENOMEM, "out of memory");
	spawn_prepare();
	return open_stderr(x, why);
}

static void exec_close(void *state)
{
	struct exec *x = state;
	if (x->null > 0)
		(void)close(x->null - 1);
	error_file_close(&x->file);
	free(x->program);
	free(x->argv);
	free(x->environ);
}

static const char *exec_title(const void *state)
{
	const struct exec *x = state;
	const char *slash = strrchr(x->words[0], '/');
	return slash != NULL ? slash + 1 : x->words[0];
}

static const struct hark_option options[] = {
	{"stdin", HARK_OPTION_CHOICE, offsetof(struct exec, stdin_from), "connection|null",
         "the program's standard input; null: it only answers", .standard = "connection", .choices = stdins},
	{"stderr", HARK_OPTION_PATH, offsetof(struct exec, stderr_to), "log|connection|null|PATH",
         "the program's standard error; log: the server's own", .standard = "log", .alone = "connection",
         .choices = stderrs},
	{"lookup-host", HARK_OPTION_FLAG, offsetof(struct exec, want_host),
         .help = "look the peer's name up, for TCPREMOTEHOST", .standard = "no", .of_peer = true},
	{"argv0", HARK_OPTION_TEXT, offsetof(struct exec, argv0), "NAME", "what the program finds as its own name"},
	{"stop-ladder", HARK_OPTION_DURATIONS, offsetof(struct exec, attend.ladder_ns), "'T T'",
         "SIGTERM and SIGKILL so long after the end of its input", .standard = "1s 3s"},
	{"until-eof", HARK_OPTION_FLAG, offsetof(struct exec, attend.until_eof),
         .help = "the ladder begins also when the peer has ended its side", .standard = "no", .of_peer = true},
	{"term-after", HARK_OPTION_DURATION, offsetof(struct exec, attend.ladder_ns[0]), "T", .standard = "1s"},
	{"kill-after", HARK_OPTION_DURATION, offsetof(struct exec, attend.ladder_ns[1]), "T", .standard = "3s"},
	{"stdin-null", HARK_OPTION_FLAG, offsetof(struct exec, stdin_null)},
	{"host", HARK_OPTION_FLAG, offsetof(struct exec, want_host)},
	{NULL},
};

const struct hark_box_row exec_box = {
	.version = HARK_BOX_VERSION,
	.name = "exec",
	.summary = "a program with the connection as its standard input and output",
	.usage = "PROGRAM [ARGUMENT...]",
	.operands = HARK_OPERANDS_PROGRAM,
	.options = options,
	.state_bytes = sizeof(struct exec),
	.stream = true,
	.datagram = true,
	.sessions = true,
	.hands_over = true,
	.conn_fds = 3, /* the program's end, and what tells of an idle connection; with TLS a socketpair */
	.parse = exec_parse,
	.prepare = exec_prepare,
	.open = exec_open,
	.serve = exec_serve,
	.close = exec_close,
	.title = exec_title,
};
