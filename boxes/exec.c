/* exec.c — a program with the connection as its standard input and output, in the manner of inetd(8) and the ucspi
 * tools.
 *
 *   exec [--stderr] [--stdin-null] [--host] [--until-eof] [--argv0 NAME] [--directory DIR] [--term-after T]
 *        [--kill-after T] PROGRAM [ARGUMENT...]
 *
 * PROGRAM is looked for in $PATH, once, when the service starts, and gets its arguments exactly as they are given: no
 * shell; --argv0 gives it another name than the one it was found by. Its standard error is the server's own, or with
 * --stderr the connection too; its standard input with --stdin-null is /dev/null, for a program that only answers. Its
 * environment is environ.h's; --host has the peer's name looked up for it. It leads a session of its own.
 *
 * Streams: a program a connection. Datagrams: a program a peer, its socket connected to that peer and the first
 * datagram still in it (hark_udp_connect()); or, where the server gives the listening socket itself (struct
 * hark_serve_opts' wait), one program that reads them all.
 *
 * When the program has ended the box returns, and the server ends the connection so that the peer gets all that was
 * written; what it leaves running goes on, and keeps the connection where it has it, as under inetd. But when the
 * connection's time is over, its peer is gone (--until-eof: has ended its side), or the server drains, the whole group
 * is asked to end, ever more firmly: end of input at once, SIGTERM --term-after later, and SIGKILL --kill-after
 * (attend.h).
 *
 * Where there is no room for a process (RLIMIT_NPROC, memory, descriptors) it is tried again for ten seconds.
 *
 * The outcome is the program's pid and status; 127 or 126 in a shell's manner if it could not be started (not found;
 * anything else). */
#include "attend.h"
#include "environ.h"
#include "options.h"
#include "spawn.h"
#include "table.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "number.h"

/* A time-out's ladder, unless told otherwise: end of input at once, SIGTERM and SIGKILL so long after. */
#define TERM_AFTER_NS    (1 * HARK_S)
#define KILL_AFTER_NS    (3 * HARK_S)
#define DATAGRAM_IDLE_NS (60 * HARK_S) /* of a conversation by datagrams, which has no end of its own */
/* How long a connection waits for a process that cannot be had, and between tries. */
#define ROOM_NS      (10 * HARK_S)
#define ROOM_STEP_NS (100 * HARK_MS)

struct exec {
	bool stderr_too;
	bool want_host;
	int input; /* /dev/null, or -1: the connection. Opened once: a chroot that is entered later may have none */
	struct attend ladder;
	char *directory; /* absolute; NULL: the server's */
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

static int start(const struct exec *x, struct hark_conn *c, struct spawned *p)
{
	struct conn_environ own;
	conn_environ(c, x->want_host, &own);
	char **envp = malloc((x->environ_count + own.count + 1) * sizeof *envp);
	if (envp == NULL)
		return -ENOMEM;
	memcpy(envp, x->environ, x->environ_count * sizeof *envp);
	memcpy(envp + x->environ_count, own.entries, own.count * sizeof *envp);
	envp[x->environ_count + own.count] = NULL;
	struct spawn s = {
		.path = x->path,
		.argv = x->argv,
		.envp = envp,
		.directory = x->directory,
		.fd = hark_fd(c),
		.input = x->input,
		.stderr_too = x->stderr_too,
	};
	int r = spawn_start(&s, p);
	free(envp);
	return r;
}

/* There is no room for a process now: others give some back. */
static bool may_pass(int r)
{
	return r == -EAGAIN || r == -ENOMEM || r == -EMFILE || r == -ENFILE;
}

/* start(), again and again for a while: a connection that waits is better than one that is lost. */
static int start_patiently(const struct exec *x, struct hark_conn *c, struct spawned *p)
{
	struct hark_conn_stats stats;
	int64_t until = hark_after(ROOM_NS);
	hark_conn_stats(c, &stats);
	until = earlier(until, stats.deadline_ns);
	for (;;) {
		int r = start(x, c, p);
		if (!may_pass(r) || hark_now() >= earlier(until, hark_drain_deadline()) || hark_sleep(ROOM_STEP_NS) < 0)
			return r;
	}
}

void exec_serve(struct hark_conn *c, void *arg)
{
	const struct exec *x = arg;
	struct hark_conn_stats stats;
	struct hark_endpoint peer;
	struct spawned p;
	int r = make_ready(c);
	if (r == -EALREADY)
		return;
	if (r >= 0)
		r = start_patiently(x, c, &p);
	if (r < 0) {
		hark_outcome(c, 0, (r == -ENOENT ? 127 : 126) << 8);
		return;
	}
	hark_outcome(c, p.pid, 0);
	bool has_peer = hark_peer_endpoint(c, &peer) == 0;
	hark_conn_stats(c, &stats);
	if (has_peer && hark_type(c) == SOCK_DGRAM && stats.idle_ns == 0)
		hark_idle_timeout(c, DATAGRAM_IDLE_NS);
	hark_outcome(c, p.pid, attend(&x->ladder, c, &p, has_peer));
	(void)close(p.pidfd);
}

static int check_directory(struct exec *x, const char *directory, struct hark_why *why)
{
	struct stat st;
	x->directory = realpath(directory, NULL);
	int r = x->directory == NULL || stat(x->directory, &st) < 0 ? -errno : S_ISDIR(st.st_mode) ? 0 : -ENOTDIR;
	return r < 0 ? box_why(why, r, "cannot start in %s: %s", directory, hark_strerror(r)) : 0;
}

/* What every program gets: arguments and environment. */
static int take_words(struct exec *x, char *const words[], size_t n, const char *argv0)
{
	char **argv = malloc(n * sizeof *argv);
	if (argv == NULL)
		return -ENOMEM;
	memcpy(argv, words, n * sizeof *argv);
	if (argv0 != NULL)
		argv[0] = (char *)argv0; /* strings_copy() does not write to it */
	x->argv = strings_copy(argv, n);
	free(argv);
	x->environ = environ_base(&x->environ_count);
	return x->argv == NULL || x->environ == NULL ? -ENOMEM : 0;
}

/* A chroot may lack it; but a server's own standard input often is that already. Returns a descriptor or -errno. */
static int open_null(void)
{
	struct stat st;
	int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	int error = errno;
	/* 1, 3: Linux's devices.txt. */
	if (fd < 0 && fstat(0, &st) == 0 && S_ISCHR(st.st_mode) && st.st_rdev == makedev(1, 3))
		fd = fcntl(0, F_DUPFD_CLOEXEC, 3);
	return fd >= 0 ? fd : -error;
}

static int fill(struct exec *x, int argc, char *const argv[], struct hark_why *why)
{
	const char *directory = NULL, *argv0 = NULL, *term_after = NULL, *kill_after = NULL;
	bool stdin_null = false;
	const struct box_option options[] = {{"stderr", &x->stderr_too, NULL},
	                                     {"stdin-null", &stdin_null, NULL},
	                                     {"host", &x->want_host, NULL},
	                                     {"until-eof", &x->ladder.until_eof, NULL},
	                                     {"argv0", NULL, &argv0},
	                                     {"directory", NULL, &directory},
	                                     {"term-after", NULL, &term_after},
	                                     {"kill-after", NULL, &kill_after},
	                                     {NULL}};
	int took = box_options_front(argc, argv, options, why);
	if (took < 0)
		return took;
	if (took == argc)
		return box_why(why, -EINVAL, "no program to run");
	int r = box_duration("term-after", term_after, &x->ladder.term_after_ns, why);
	if (r == 0)
		r = box_duration("kill-after", kill_after, &x->ladder.kill_after_ns, why);
	if (r == 0 && x->ladder.kill_after_ns < x->ladder.term_after_ns)
		r = box_why(why, -EINVAL, "--kill-after is sooner than --term-after");
	if (r < 0)
		return r;
	const char *name = argv[took];
	r = spawn_find(name, x->path, sizeof x->path);
	if (r < 0)
		return box_why(why, r, "cannot run %s: %s", name,
		               r == -ENOENT && strchr(name, '/') == NULL ? "not found in $PATH" : hark_strerror(r));
	if (take_words(x, argv + took, (size_t)(argc - took), argv0) < 0)
		return box_why(why, -ENOMEM, "out of memory");
	if (stdin_null && (x->input = open_null()) < 0)
		return box_why(why, x->input, "cannot open /dev/null: %s", hark_strerror(x->input));
	return directory != NULL ? check_directory(x, directory, why) : 0;
}

int exec_open(int argc, char *const argv[], void **arg, struct hark_why *why)
{
	struct exec *x = calloc(1, sizeof *x);
	if (x == NULL)
		return box_why(why, -ENOMEM, "out of memory");
	*x = (struct exec){.input = -1, .ladder = {.term_after_ns = TERM_AFTER_NS, .kill_after_ns = KILL_AFTER_NS}};
	int r = fill(x, argc, argv, why);
	if (r < 0) {
		exec_close(x);
		return r;
	}
	*arg = x;
	return 0;
}

void exec_close(void *arg)
{
	struct exec *x = arg;
	if (x == NULL)
		return;
	if (x->input >= 0)
		(void)close(x->input);
	free(x->directory);
	free(x->argv);
	free(x->environ);
	free(x);
}
