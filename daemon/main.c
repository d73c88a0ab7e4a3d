/* main.c — harkd's command line: what to read, where to run, and what to say when that is not possible.
 *
 * The main thread, before the supervisor's loop. Exit codes: 0, 1 failed, 100 usage or configuration, 111 system. */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <limits.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "background.h"
#include "line_out.h"
#include "log.h"
#include "supervisor.h"
#include "terminal.h"

#define CONFIG_DEFAULT "/etc/hark/hark.conf"

enum { STATUS_FAILED = 1, STATUS_USAGE = 100, STATUS_SYSTEM = 111 };

static const char usage[] =
	"usage: harkd [-c FILE | --inetd FILE] [-t] [--daemon] [--pid-file FILE] [--control PATH]\n"
	"\n"
	"Serves what a configuration says: boxes, programs and relays on any addresses.\n"
	"\n"
	"  -c, --config FILE    the configuration, hark.conf(5) (" CONFIG_DEFAULT ")\n"
	"      --inetd FILE     an inetd.conf, as it is, instead\n"
	"  -t, --test           check the configuration, say what is wrong, and exit\n"
	"      --foreground     stay in the foreground (so it does without --daemon)\n"
	"      --daemon         go into the background once everything serves\n"
	"      --pid-file FILE  write the process number there once everything serves\n"
	"      --control PATH   the control socket (none: there is none), whatever the configuration says\n"
	"  -h, --help           this\n"
	"  -V, --version        the version\n"
	"\n"
	"SIGHUP reloads, SIGUSR2 upgrades the binary, SIGTERM drains and ends; see harkd(8).\n"
	"Exit codes: 0; 1: failed; 100: wrong usage or configuration; 111: the system refused.\n";

struct arguments {
	const char *config, *inetd, *pid_file, *control;
	bool test, daemon;
};

static _Noreturn void bad_usage(const char *what)
{
	(void)fprintf(stderr, "harkd: %s\n%s", what, usage);
	exit(STATUS_USAGE);
}

static void read_arguments(int argc, char *argv[], struct arguments *a)
{
	enum { INETD = 256, FOREGROUND, DAEMON, PID_FILE, CONTROL };
	static const struct option longs[] = {
		{"config", required_argument, NULL, 'c'},
		{"inetd", required_argument, NULL, INETD},
		{"test", no_argument, NULL, 't'},
		{"foreground", no_argument, NULL, FOREGROUND},
		{"daemon", no_argument, NULL, DAEMON},
		{"pid-file", required_argument, NULL, PID_FILE},
		{"control", required_argument, NULL, CONTROL},
		{"help", no_argument, NULL, 'h'},
		{"version", no_argument, NULL, 'V'},
		{0},
	};
	for (int o; (o = getopt_long(argc, argv, "c:thV", longs, NULL)) != -1;) {
		switch (o) {
		case 'c': a->config = optarg; break;
		case INETD: a->inetd = optarg; break;
		case 't': a->test = true; break;
		case FOREGROUND: a->daemon = false; break;
		case DAEMON: a->daemon = true; break;
		case PID_FILE: a->pid_file = optarg; break;
		case CONTROL: a->control = optarg; break;
		case 'h': (void)fputs(usage, stdout); exit(0);
		case 'V': (void)puts("harkd " HARK_VERSION); exit(0);
		default: (void)fputs("Try harkd --help.\n", stderr); exit(STATUS_USAGE);
		}
	}
	if (optind < argc)
		bad_usage("no operands are expected");
	if (a->config != NULL && a->inetd != NULL)
		bad_usage("either --config or --inetd, not both");
}

/* The same for an upgrade: paths that were relative are not, and the directory may have become another. */
static char *const *upgrade_arguments(const struct supervisor *v, const struct arguments *a, char *name)
{
	static char *argv[10];
	int n = 0;
	argv[n++] = name;
	argv[n++] = (char *)(v->inetd ? "--inetd" : "--config"); /* execv(3) writes to none of them */
	argv[n++] = v->config_file;
	if (a->daemon)
		argv[n++] = (char *)"--daemon";
	if (v->pid_file != NULL) {
		argv[n++] = (char *)"--pid-file";
		argv[n++] = v->pid_file;
	}
	if (v->control_path != NULL) {
		argv[n++] = (char *)"--control";
		argv[n++] = v->control_path;
	}
	return argv;
}

/* Whatever the working directory becomes later: a reload reads the same file. NULL: it said why. */
static char *absolute(const char *path)
{
	char cwd[PATH_MAX], *out = NULL;
	if (path[0] == '/')
		return strdup(path);
	if (getcwd(cwd, sizeof cwd) == NULL || asprintf(&out, "%s/%s", cwd, path) < 0)
		(void)fprintf(stderr, "harkd: %s: %s\n", path, strerror(errno));
	return out;
}

/* What is opened next must not get one of these numbers: messages would be written to it, and workers make others of
 * them. */
static bool fill_standard_descriptors(void)
{
	int fd;
	do
		fd = open("/dev/null", O_RDWR);
	while (fd >= 0 && fd <= 2);
	if (fd > 2)
		(void)close(fd);
	return fd >= 0;
}

static int test_only(const struct supervisor *v)
{
	struct config *c = NULL;
	int r = load_config(v, &c);
	const char *skipped = r == 0 ? "; skipped" : "";
	for (size_t i = 0; c != NULL && i < c->n_errors; i++)
		(void)fprintf(stderr, "harkd: %s%s\n", c->errors[i], skipped);
	for (size_t i = 0; c != NULL && i < c->n_warnings; i++)
		(void)fprintf(stderr, "harkd: warning: %s\n", c->warnings[i]);
	size_t n_skipped = r == 0 ? c->n_errors + c->n_refused : 0;
	const char *services = r == 0 && c->n_services == 1 ? "service" : "services";
	if (n_skipped > 0)
		(void)printf("%s: %zu %s, %zu skipped\n", v->config_file, c->n_services, services, n_skipped);
	else if (r == 0)
		(void)printf("%s: %zu %s, no mistakes\n", v->config_file, c->n_services, services);
	else if (r < 0)
		(void)fprintf(stderr, "harkd: %s: %s\n", v->config_file, hark_strerror(r));
	config_free(c);
	return r < 0 ? STATUS_SYSTEM : r > 0 || n_skipped > 0 ? STATUS_USAGE : 0;
}

static int into_background(struct supervisor *v)
{
	v->parent_fd = background_begin();
	if (v->parent_fd < 0)
		return v->parent_fd;
	(void)!chdir("/");
	return 0;
}

static int open_control(struct supervisor *v)
{
	struct hark_why why;
	const char *path = v->control_path != NULL ? v->control_path : v->epoch->config->control;
	if (path == NULL || path[0] == '\0' || strcmp(path, "none") == 0 || control_open(v, path, &why) == 0)
		return 0;
	if (v->control_path == NULL && v->epoch->config->control_in_tmp) {
		/* Nobody named it, and another user must not keep ours from starting. */
		log_event(LOG_LEVEL_WARNING, NULL, "no control socket (control = PATH names another place): %s",
		          why.text);
		return 0;
	}
	log_event(LOG_LEVEL_ERROR, NULL, "%s", why.text);
	upgrade_tell_failed(v, why.text);
	return STATUS_SYSTEM;
}

/* The configuration for the first time. Returns an exit code; 0: go on. */
static int begin(struct supervisor *v)
{
	struct reload_result r;
	int err = supervisor_signals(v);
	if (err < 0) {
		(void)fprintf(stderr, "harkd: signals: %s\n", hark_strerror(err));
		return STATUS_SYSTEM;
	}
	if (reload(v, false, &r) == 0) {
		err = open_control(v);
		upgrade_close_rest(v);
		sockets_tell_unclaimed(&v->sockets, control_listener_fd(v->control));
		return err;
	}
	for (size_t i = 0; r.mistakes != NULL && i < r.mistakes->n_errors; i++)
		log_event(LOG_LEVEL_ERROR, NULL, "%s", r.mistakes->errors[i]);
	if (r.mistakes == NULL || r.mistakes->n_errors == 0)
		log_event(LOG_LEVEL_ERROR, NULL, "%s", r.text);
	upgrade_tell_failed(v, r.text);
	err = r.mistakes != NULL ? STATUS_USAGE : STATUS_SYSTEM;
	config_free(r.mistakes);
	return err;
}

/* What did start ends again. */
static void abandon(struct supervisor *v)
{
	v->handed_over = v->generation > 1;
	if (v->epoch == NULL) {
		sockets_free(&v->sockets, v->handed_over);
		return;
	}
	supervisor_drain(v);
	(void)supervisor_run(v, NULL);
}

/* So that what a leak checker finds was lost while it ran. What was handed over cannot be taken apart: its paths would
 * go with it. */
static int end(struct supervisor *v, int status)
{
	if (v->handed_over)
		_exit(status);
	epoch_release(v->epoch);
	upgrade_done();
	free(v->config_file);
	free(v->pid_file);
	free(v->control_path);
	return status;
}

/* What is freed is overwritten: files that were read hold secrets of services, and workers begin with our memory. */
static void overwrite_freed(void)
{
#ifdef M_PERTURB
	(void)mallopt(M_PERTURB, 0xa5);
#endif
}

int main(int argc, char *argv[])
{
	struct arguments a = {0};
	struct supervisor v = {.parent_fd = -1, .signal_fd = -1, .pid = getpid(), .began = hark_now()};
	overwrite_freed();
	if (!fill_standard_descriptors()) {
		(void)fprintf(stderr, "harkd: /dev/null: %s\n", strerror(errno));
		return STATUS_SYSTEM;
	}
	read_arguments(argc, argv, &a);
	(void)unsetenv("LISTENQ"); /* its own configuration counts, not the shell of who starts it */
	for (const int *sig = line_out_signals; *sig != 0; sig++)
		(void)signal(*sig, SIG_IGN);
	(void)signal(SIGCHLD, SIG_DFL); /* ignored, as some leave it, it would lose us how children ended */
	v.inetd = a.inetd != NULL;
	v.config_file = absolute(v.inetd ? a.inetd : a.config != NULL ? a.config : CONFIG_DEFAULT);
	v.pid_file = a.pid_file != NULL ? absolute(a.pid_file) : NULL;
	v.control_path = a.control == NULL                ? NULL
	                 : strcmp(a.control, "none") == 0 ? strdup("none")
	                                                  : absolute(a.control);
	if (v.config_file == NULL || (a.pid_file != NULL && v.pid_file == NULL) ||
	    (a.control != NULL && v.control_path == NULL))
		return end(&v, STATUS_SYSTEM);
	if (a.test)
		return end(&v, test_only(&v));
	int taken = upgrade_self(&v);
	if (taken < 0) {
		upgrade_tell_failed(&v, hark_strerror(taken));
		v.handed_over = true;
		return end(&v, STATUS_SYSTEM);
	}
	v.in_background = a.daemon;
	int left = a.daemon && v.generation == 1 ? into_background(&v) : 0;
	if (left < 0) {
		(void)fprintf(stderr, "harkd: cannot go into the background: %s\n", hark_strerror(left));
		return STATUS_SYSTEM;
	}
	left = a.daemon ? 0 : terminal_detach();
	if (left < 0) {
		(void)fprintf(stderr, "harkd: terminal: %s\n", hark_strerror(left));
		return STATUS_SYSTEM;
	}
	v.pid = getpid(); /* another one, in the background */
	int status = begin(&v);
	if (status != 0) {
		abandon(&v);
		return end(&v, status);
	}
	return end(&v, supervisor_run(&v, upgrade_arguments(&v, &a, argv[0])));
}
