/* main.c — finds the verb and runs it.
 *
 * What every verb may rely on is set up here, before a thread or a fiber exists: descriptors 0, 1 and 2 are open, so
 * that no socket is ever mistaken for one of them, and a reader of our output that has gone is an error and not the
 * end. */
#include "tool.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "hark.h"
#include "options.h"

const struct verb *const verbs[] = {
	&verb_serve,  &verb_call,   &verb_ping,   &verb_daytime,     &verb_time,  &verb_users, &verb_loggedin,
	&verb_config, &verb_import, &verb_status, &verb_connections, &verb_close, &verb_cert,  &verb_reload,
	&verb_stop,   &verb_start,  &verb_drain,  &verb_upgrade,     NULL,
};

static void on_signal(int signal)
{
	(void)signal;
}

/* A reader that has gone and a file at its limit (ulimit -f) are errors of the write. Handlers and not SIG_IGN: what
 * hark serve starts gets the default back by execve(2), as it expects it. */
static void catch_signals(void)
{
	struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};

	(void)sigaction(SIGPIPE, &action, NULL);
	(void)sigaction(SIGXFSZ, &action, NULL);
}

/* Closed standard descriptors become /dev/null: an empty input; an output where writing is an error, because what was
 * meant for it is lost; and a standard error that swallows. */
static int open_standard_fds(void)
{
	static const int flags[] = {O_RDONLY, O_RDONLY, O_WRONLY};

	for (int fd = 0; fd <= 2; fd++) {
		if (fcntl(fd, F_GETFD) >= 0 || errno != EBADF)
			continue;
		if (open("/dev/null", flags[fd]) != fd) /* the lowest free one, and those below are open */
			return -errno;
	}
	return 0;
}

static void print_help(FILE *to)
{
	fputs("usage: hark VERB [OPTION]... [ARGUMENT]...\n\n", to);
	for (int i = 0; verbs[i] != NULL; i++)
		fprintf(to, "  %-11s %s\n", verbs[i]->name, verbs[i]->summary);
	fputs("\n  hark VERB --help   a verb's options\n"
	      "  hark --version     the version\n"
	      "\nAn address is tcp://HOST:PORT, udp://HOST:PORT, tls://HOST:PORT, unix:/PATH, unix:@NAME, "
	      "unixgram:/PATH,\nfd:N or fd:NAME; "
	      "tcp4, tcp6, udp4 and udp6 choose a family, HOST:PORT alone means tcp, * is every address.\n"
	      "Exit codes: 0 done, 1 failed, 2 TLS was cut, 100 wrong usage, 111 the system refused. Manual: "
	      "hark(1).\n",
	      to);
}

static const struct verb *verb_find(const char *name)
{
	for (int i = 0; verbs[i] != NULL; i++) {
		if (strcmp(verbs[i]->name, name) != 0)
			continue;
		if (verbs[i]->begin != NULL)
			verbs[i]->begin();
		return verbs[i];
	}
	return NULL;
}

static int no_such_verb(const char *name)
{
	struct nearest n = {.word = name};
	char hint[64];

	for (int i = 0; verbs[i] != NULL; i++)
		nearest_offer(&n, verbs[i]->name);
	say(NULL, "no such %s: %s%s", name[0] == '-' ? "option" : "verb", name,
	    nearest_hint(&n, "", hint, sizeof hint));
	return STATUS_USAGE;
}

/* hark help [VERB] */
static int help(int argc, char *argv[])
{
	if (argc == 0) {
		print_help(stdout);
		return STATUS_DONE;
	}
	const struct verb *v = verb_find(argv[0]);
	if (v == NULL)
		return no_such_verb(argv[0]);
	options_help(v, stdout);
	return STATUS_DONE;
}

static int dispatch(int argc, char *argv[])
{
	if (argc < 2) {
		print_help(stderr);
		return STATUS_USAGE;
	}
	const char *name = argv[1];
	if (strcmp(name, "--version") == 0 || strcmp(name, "-V") == 0) {
		puts("hark " HARK_VERSION);
		return STATUS_DONE;
	}
	if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0 || strcmp(name, "help") == 0)
		return help(argc - 2, argv + 2);
	const struct verb *v = verb_find(name);
	if (v == NULL)
		return no_such_verb(name);
	return v->run(v, argc - 2, argv + 2);
}

int main(int argc, char *argv[])
{
	if (open_standard_fds() < 0)
		return STATUS_SYSTEM;
	catch_signals();
	int status = dispatch(argc, argv);
	errno = 0;
	if ((fflush(stdout) != 0 || ferror(stdout)) && status == STATUS_DONE) {
		say(NULL, "standard output: %s", errno != 0 ? strerror(errno) : "cannot be written");
		status = STATUS_FAILED;
	}
	return status;
}
