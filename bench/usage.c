/* CPU accounting for the load generators: see usage.h for what is counted.
 *
 * Descendants are found by one walk over /proc that notes every process's parent, then repeated
 * marking, since children may be listed before their parents. A walk costs about 15 µs a process on
 * the machine; it happens twice in a measurement, never inside the measured interval.
 * One thread; keeps no state between calls. */
#include "usage.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#define NS            1000000000LL
#define PROCESSES_MAX 65536 /* processes on the machine that one reading looks at */

struct process {
	pid_t pid;
	pid_t parent;
	int64_t reaped_ticks;
	int softirqd_core; /* the core whose ksoftirqd this is, else -1 */
	bool ours;
};

int64_t now_ns(void)
{
	struct timespec t;

	(void)clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * NS + t.tv_nsec;
}

int usage_add_root(struct usage_subject *s, const char *text)
{
	char *end;
	long pid = strtol(text, &end, 10);

	if (pid <= 0 || *end != '\0')
		return -EINVAL;
	if (s->root_count == USAGE_ROOTS_MAX)
		return -ENOSPC;
	s->roots[s->root_count++] = (pid_t)pid;
	return 0;
}

static ssize_t read_whole(const char *path, char *buf, size_t size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return -errno;
	ssize_t n = read(fd, buf, size - 1);
	(void)close(fd);
	if (n < 0)
		return -EIO;
	buf[n] = '\0';
	return n;
}

/* proc_pid_stat(5): the name may hold spaces and brackets, so fields are counted from the last ')'. */
static int read_process(const char *pid_text, struct process *p)
{
	char path[64], buf[1024];

	(void)snprintf(path, sizeof path, "/proc/%.20s/stat", pid_text);
	if (read_whole(path, buf, sizeof buf) <= 0)
		return -ESRCH;
	const char *after_name = strrchr(buf, ')');
	int parent;
	long cutime, cstime;
	if (after_name == NULL || sscanf(after_name + 1, " %*c %d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %ld %ld",
	                                 &parent, &cutime, &cstime) != 3)
		return -EPROTO;
	*p = (struct process){.pid = (pid_t)atoi(pid_text), .parent = parent, .reaped_ticks = cutime + cstime};
	if (sscanf(buf, "%*d (ksoftirqd/%d)", &p->softirqd_core) != 1)
		p->softirqd_core = -1;
	return 0;
}

/* Lists every process. The caller frees *list. Returns how many, or -errno. */
static int list_processes(struct process **list)
{
	DIR *dir = opendir("/proc");
	int count = 0, room = 0;
	struct process *all = NULL;

	if (dir == NULL)
		return -errno;
	for (struct dirent *e; (e = readdir(dir)) != NULL && count < PROCESSES_MAX;) {
		if (!isdigit((unsigned char)e->d_name[0]))
			continue;
		if (count == room) {
			room = room ? room * 2 : 256;
			struct process *more = realloc(all, (size_t)room * sizeof *all);
			if (more == NULL)
				break;
			all = more;
		}
		if (read_process(e->d_name, &all[count]) == 0)
			count++;
	}
	(void)closedir(dir);
	*list = all;
	return count;
}

static bool is_root(const struct usage_subject *s, pid_t pid)
{
	for (int i = 0; i < s->root_count; i++)
		if (s->roots[i] == pid)
			return true;
	return false;
}

static int by_pid(const void *a, const void *b)
{
	const struct process *x = a, *y = b;
	return (x->pid > y->pid) - (x->pid < y->pid);
}

/* A pass marks the children of what is marked; a tree is at most as deep as there are processes. */
static void mark_descendants(const struct usage_subject *s, struct process *all, int count)
{
	bool changed = true;

	qsort(all, (size_t)count, sizeof *all, by_pid);
	for (int i = 0; i < count; i++)
		all[i].ours = is_root(s, all[i].pid);
	for (int pass = 0; changed && pass < count; pass++) {
		changed = false;
		for (int i = 0; i < count; i++) {
			struct process key = {.pid = all[i].parent};
			const struct process *parent = bsearch(&key, all, (size_t)count, sizeof *all, by_pid);
			if (!all[i].ours && parent != NULL && parent->ours)
				all[i].ours = changed = true;
		}
	}
}

static int64_t living_ns(pid_t pid)
{
	clockid_t clock;
	struct timespec t;

	if (clock_getcpuclockid(pid, &clock) != 0 || clock_gettime(clock, &t) < 0)
		return 0;
	return (int64_t)t.tv_sec * NS + t.tv_nsec;
}

static void read_processes(const struct usage_subject *s, struct usage *out)
{
	struct process *all = NULL;
	int64_t tick_ns = NS / sysconf(_SC_CLK_TCK);

	if (s->root_count == 0)
		return;
	int count = list_processes(&all);
	if (count > 0)
		mark_descendants(s, all, count);
	for (int i = 0; i < count; i++) {
		if (all[i].ours)
			out->server_ns += living_ns(all[i].pid) + all[i].reaped_ticks * tick_ns;
		if (all[i].softirqd_core >= 0 && all[i].softirqd_core == s->core)
			out->core_softirqd_ns = living_ns(all[i].pid);
	}
	free(all);
}

/* proc_stat(5): user nice system idle iowait irq softirq steal, in ticks since boot. */
static void read_core(int core, struct usage *out)
{
	char buf[16384], label[16];
	long long user, nice, system, idle, iowait, irq, softirq, steal;
	int64_t tick_ns = NS / sysconf(_SC_CLK_TCK);

	if (core < 0 || read_whole("/proc/stat", buf, sizeof buf) <= 0)
		return;
	(void)snprintf(label, sizeof label, "\ncpu%d ", core);
	const char *line = strstr(buf, label);
	if (line == NULL || sscanf(line + strlen(label), "%lld %lld %lld %lld %lld %lld %lld %lld", &user, &nice,
	                           &system, &idle, &iowait, &irq, &softirq, &steal) != 8)
		return;
	out->core_busy_ns = (user + nice + system + irq + softirq) * tick_ns;
	out->core_steal_ns = steal * tick_ns;
}

void usage_read(const struct usage_subject *s, struct usage *out)
{
	struct timespec mine;

	*out = (struct usage){0};
	read_processes(s, out);
	read_core(s->core, out);
	(void)clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &mine);
	out->client_ns = (int64_t)mine.tv_sec * NS + mine.tv_nsec + (s->backend > 0 ? living_ns(s->backend) : 0);
	out->wall_ns = now_ns();
}

struct usage usage_between(const struct usage *before, const struct usage *after)
{
	return (struct usage){
		.wall_ns = after->wall_ns - before->wall_ns,
		.server_ns = after->server_ns - before->server_ns,
		.client_ns = after->client_ns - before->client_ns,
		.core_busy_ns = after->core_busy_ns - before->core_busy_ns,
		.core_softirqd_ns = after->core_softirqd_ns - before->core_softirqd_ns,
		.core_steal_ns = after->core_steal_ns - before->core_steal_ns,
	};
}

struct usage usage_measure(const struct usage_subject *s, double warm_seconds, double seconds, bool *measuring,
                           void (*turn_until)(int64_t until_ns))
{
	struct usage before, after;

	turn_until(now_ns() + (int64_t)(warm_seconds * 1e9));
	usage_read(s, &before);
	*measuring = true;
	turn_until(before.wall_ns + (int64_t)(seconds * 1e9));
	*measuring = false;
	usage_read(s, &after);
	return usage_between(&before, &after);
}

void usage_print_json(const struct usage_subject *s, const struct usage *u, uint64_t operations)
{
	double wall = (double)u->wall_ns;

	printf("\"seconds\": %.4f, \"client_cpu_seconds\": %.4f, \"client_core_percent\": %.1f, ", wall / 1e9,
	       (double)u->client_ns / 1e9, 100 * (double)u->client_ns / wall);
	if (s->root_count > 0)
		printf("\"server_cpu_seconds\": %.4f, \"server_cpu_percent\": %.1f, \"server_us_each\": %.3f, ",
		       (double)u->server_ns / 1e9, 100 * (double)u->server_ns / wall,
		       operations ? (double)u->server_ns / 1e3 / (double)operations : 0.0);
	if (s->core >= 0)
		printf("\"core_busy_percent\": %.1f, \"core_softirqd_percent\": %.1f, \"core_steal_percent\": %.1f, ",
		       100 * (double)u->core_busy_ns / wall, 100 * (double)u->core_softirqd_ns / wall,
		       100 * (double)u->core_steal_ns / wall);
}
