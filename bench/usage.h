/* What a measured interval cost: CPU time of the servers, of this client, and of the servers' core.
 *
 * A server is a process and all that descends from it. Its CPU time is the scheduler's own count
 * in nanoseconds (a process's CPU clock: the sum over its threads, ended ones included; the same
 * count as the first field of /proc/PID/schedstat), plus what its ended and reaped children used
 * (cutime and cstime of /proc/PID/stat, 10 ms steps). A child that is neither alive nor reaped by a
 * parent, as where SIGCHLD is ignored, is counted nowhere in /proc: the core's own count shows it.
 *
 * Nor does it count what the kernel does on the server's behalf elsewhere: in ksoftirqd of its core,
 * which is read beside it, and in the client's own system calls.
 *
 * One thread; the caller owns both structs. */
#ifndef BENCH_USAGE_H
#define BENCH_USAGE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#define USAGE_ROOTS_MAX 16 /* --server-pid options */

/* Whom to watch: filled from the command line. */
struct usage_subject {
	pid_t roots[USAGE_ROOTS_MAX];
	int root_count;
	int core;      /* the servers' core, -1 if not told */
	pid_t backend; /* one more process on this client's core, counted with it; 0: none */
};

struct usage {
	int64_t wall_ns;
	int64_t server_ns;
	int64_t client_ns;        /* and the back end's */
	int64_t core_busy_ns;     /* all but idle, on the servers' core, 10 ms steps */
	int64_t core_softirqd_ns; /* of that core's ksoftirqd */
	int64_t core_steal_ns;    /* taken from that core by the machine's host */
};

/* CLOCK_MONOTONIC, in nanoseconds. */
int64_t now_ns(void);

/* Parses one --server-pid operand into s. Returns 0 or -EINVAL, -ENOSPC. */
int usage_add_root(struct usage_subject *s, const char *text);

/* Reads all counts now. A process that ends while being read is left out. */
void usage_read(const struct usage_subject *s, struct usage *out);

/* after - before, field by field. */
struct usage usage_between(const struct usage *before, const struct usage *after);

/* The interval that a load generator measures: turn_until() runs for warm_seconds, and then for seconds with
 * *measuring set. */
struct usage usage_measure(const struct usage_subject *s, double warm_seconds, double seconds, bool *measuring,
                           void (*turn_until)(int64_t until_ns));

/* Prints the interval as JSON members, each followed by a comma, for `operations` done in it. */
void usage_print_json(const struct usage_subject *s, const struct usage *u, uint64_t operations);

#endif
