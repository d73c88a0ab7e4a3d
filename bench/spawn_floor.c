/* How fast the kernel alone starts and reaps processes, with no socket anywhere: the floor under
 * every server that starts something for each connection.
 *
 *   spawn_floor exec PROGRAM   vfork, exec of PROGRAM, wait
 *   spawn_floor fork           fork, exit, wait; this small process's pages are all there is to copy
 *
 * The child inherits standard output, which the caller points at /dev/null. CPU time is this
 * process's and its children's. One thread; each child is reaped before the next one starts. */
#include "client.h"
#include "common/histogram.h"
#include "usage.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

static struct histogram latency;

static pid_t start_program(char **program)
{
	pid_t pid = vfork();

	if (pid == 0) {
		(void)execv(program[0], program);
		_exit(127);
	}
	return pid;
}

static pid_t start_copy(void)
{
	pid_t pid = fork();

	if (pid == 0)
		_exit(0);
	return pid;
}

/* Returns the child's wait status, or -errno. */
static int spawn_once(char **program)
{
	int status;
	pid_t pid = program ? start_program(program) : start_copy();

	if (pid < 0 || waitpid(pid, &status, 0) < 0)
		return -errno;
	return status;
}

/* Returns how many were started, or -1 after saying why. */
static int64_t spawn_until(int64_t until, char **program)
{
	int64_t count = 0;

	for (int64_t now = now_ns(); now < until; count++) {
		int status = spawn_once(program);
		if (status != 0) {
			(void)fprintf(stderr, "spawn_floor: %s\n",
			              status < 0 ? strerror(-status) : "the program did not end well");
			return -1;
		}
		int64_t then = now_ns();
		histogram_add(&latency, then - now);
		now = then;
	}
	return count;
}

static int64_t cpu_ns(void)
{
	struct rusage me, children;

	(void)getrusage(RUSAGE_SELF, &me);
	(void)getrusage(RUSAGE_CHILDREN, &children);
	return 1000 * (me.ru_utime.tv_usec + me.ru_stime.tv_usec + children.ru_utime.tv_usec +
	               children.ru_stime.tv_usec) +
	       1000000000LL *
	               (me.ru_utime.tv_sec + me.ru_stime.tv_sec + children.ru_utime.tv_sec + children.ru_stime.tv_sec);
}

static int measure(double warm_seconds, double seconds, char **program)
{
	if (spawn_until(now_ns() + (int64_t)(warm_seconds * 1e9), program) < 0)
		return 1;
	latency = (struct histogram){0};
	int64_t cpu = cpu_ns(), begin = now_ns();
	int64_t count = spawn_until(begin + (int64_t)(seconds * 1e9), program);
	int64_t wall = now_ns() - begin;
	cpu = cpu_ns() - cpu;
	if (count <= 0)
		return 1;
	(void)fprintf(stderr,
	              "{\"spawned\": %" PRId64 ", \"errors\": 0, \"seconds\": %.4f, \"per_second\": %.1f, "
	              "\"server_us_each\": %.3f, \"server_cpu_percent\": %.1f, \"p50_us\": %.1f, \"p99_us\": %.1f, "
	              "\"max_us\": %.1f}\n",
	              count, (double)wall / 1e9, (double)count * 1e9 / (double)wall, (double)cpu / 1e3 / (double)count,
	              100 * (double)cpu / (double)wall, (double)histogram_percentile(&latency, 50) / 1e3,
	              (double)histogram_percentile(&latency, 99) / 1e3, (double)latency.max / 1e3);
	return 0;
}

int main(int argc, char **argv)
{
	static const struct option longs[] = {
		{"warm", required_argument, NULL, 'w'},
		{"seconds", required_argument, NULL, 'd'},
		{0},
	};
	double warm_seconds = 0.5, seconds = 3;

	for (int o; (o = getopt_long(argc, argv, "+w:d:", longs, NULL)) != -1;) {
		switch (o) {
		case 'w': warm_seconds = client_seconds("--warm", optarg, 60); break;
		case 'd': seconds = client_seconds("--seconds", optarg, 600); break;
		default: client_usage("spawn_floor", "unknown option");
		}
	}
	argv += optind;
	if (argv[0] != NULL && strcmp(argv[0], "fork") == 0 && argv[1] == NULL)
		return measure(warm_seconds, seconds, NULL);
	if (argv[0] != NULL && strcmp(argv[0], "exec") == 0 && argv[1] != NULL)
		return measure(warm_seconds, seconds, argv + 1);
	client_usage("spawn_floor", "\"fork\" or \"exec PROGRAM\" expected");
}
