/* hold — opens many connections to an echo server, says a line on each, reads its echo, and holds them idle: a client's
 * part of `bench/run million`. It keeps a number a connection and nothing else, so that the memory beside the
 * server's is the kernel's.
 *
 *   hold --connections N --source K ADDRESS
 *
 * From 127.0.0.(1 + K), whose ports it has to itself. Prints "ready N". Then, for each line "echo K" of standard input,
 * says a line on K connections at random, one after the other, and prints "echoed K MEDIAN_US MAX_US". At the end of
 * standard input it prints "held N": how many the server has neither ended nor sent anything surplus; and resets them.
 * Exit status 1 and a message when a connection fails, is ended or answers wrongly. */
#include "client.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define BATCH      32    /* connections opened at a time: all clients' together fit in a backlog */
#define PORT_FIRST 10000 /* the source's are all ours */
#define PORT_LAST  65535
#define PATIENCE   60000 /* ms for one step of one connection */
#define LINE_BYTES 32
#define SPARE      16 /* descriptors beside the connections */

static int *fds;
static unsigned n_fds;

_Noreturn static void fail(const char *what, int err)
{
	(void)fprintf(stderr, "hold: connection %u: %s: %s\n", n_fds, what, strerror(err));
	exit(1);
}

static void await(int fd, short events)
{
	struct pollfd p = {.fd = fd, .events = events};
	int r;

	while ((r = poll(&p, 1, PATIENCE)) < 0 && errno == EINTR)
		;
	if (r <= 0)
		fail("no answer", r < 0 ? errno : ETIMEDOUT);
}

static size_t line_of(int fd, char line[LINE_BYTES])
{
	return (size_t)snprintf(line, LINE_BYTES, "connection %d\n", fd);
}

static void say(int fd)
{
	char line[LINE_BYTES];
	size_t n = line_of(fd, line);

	if (send(fd, line, n, MSG_NOSIGNAL) != (ssize_t)n)
		fail("send", errno);
}

static void hear(int fd)
{
	char line[LINE_BYTES], got[LINE_BYTES];
	size_t n = line_of(fd, line), have = 0;

	while (have < n) {
		await(fd, POLLIN);
		ssize_t r = recv(fd, got + have, sizeof got - have, MSG_DONTWAIT);
		if (r == 0)
			fail("recv", ECONNRESET);
		if (r < 0 && errno != EAGAIN && errno != EINTR)
			fail("recv", errno);
		have += r > 0 ? (size_t)r : 0;
	}
	if (have != n || memcmp(line, got, n) != 0)
		fail("another answer", EBADMSG);
}

static void connected(int fd)
{
	int err = 0;
	socklen_t len = sizeof err;
	struct linger at_once = {.l_onoff = 1}; /* a million in TIME-WAIT would be in the next run's way */

	await(fd, POLLOUT);
	if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &err, &len) < 0 || err != 0)
		fail("connect", err ? err : errno);
	(void)setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
}

static void open_all(const struct sockaddr_in *to, unsigned source, unsigned connections)
{
	unsigned port = PORT_FIRST;

	while (n_fds < connections) {
		unsigned first = n_fds, end = connections - first < BATCH ? connections : first + BATCH;
		for (; n_fds < end; n_fds++) {
			do
				fds[n_fds] = client_connect_from(to, source, port++);
			while (fds[n_fds] == -EADDRINUSE && port <= PORT_LAST);
			if (fds[n_fds] < 0)
				fail("connect", -fds[n_fds]);
		}
		for (unsigned i = first; i < end; i++) {
			connected(fds[i]);
			say(fds[i]);
		}
		for (unsigned i = first; i < end; i++)
			hear(fds[i]);
	}
}

static double now_us(void)
{
	struct timespec t;

	(void)clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static void echo_some(unsigned count)
{
	double *us = calloc(count ? count : 1, sizeof *us);

	if (us == NULL)
		fail("echo", ENOMEM);
	for (unsigned i = 0; i < count; i++) {
		int fd = fds[(unsigned)random() % n_fds];
		double begun = now_us();
		say(fd);
		hear(fd);
		us[i] = now_us() - begun;
	}
	qsort(us, count, sizeof *us, compare);
	printf("echoed %u %.1f %.1f\n", count, count ? us[count / 2] : 0, count ? us[count - 1] : 0);
	free(us);
}

static unsigned held(void)
{
	unsigned n = 0;
	char byte;

	for (unsigned i = 0; i < n_fds; i++)
		n += recv(fds[i], &byte, 1, MSG_DONTWAIT | MSG_PEEK) < 0 && errno == EAGAIN;
	return n;
}

int main(int argc, char **argv)
{
	struct sockaddr_in to;
	unsigned connections = 0, source = 0, count;
	char line[64];

	for (; argc > 2; argc -= 2, argv += 2) {
		if (strcmp(argv[1], "--connections") == 0)
			connections = client_number(argv[1], argv[2], 1, 1000000);
		else if (strcmp(argv[1], "--source") == 0)
			source = client_number(argv[1], argv[2], 0, 65535);
		else
			client_usage(argv[1], "no such option");
	}
	if (argc != 2 || connections == 0 || client_parse_address(argv[1], &to) < 0)
		client_usage("usage", "hold --connections N --source K tcp://127.0.0.1:PORT");
	fds = calloc(connections, sizeof *fds);
	if (fds == NULL || client_need_descriptors(connections + SPARE) < 0)
		fail("too many", fds == NULL ? ENOMEM : EMFILE);
	srandom((unsigned)getpid());
	open_all(&to, source, connections);
	printf("ready %u\n", n_fds);
	(void)fflush(stdout);
	while (fgets(line, sizeof line, stdin) != NULL && sscanf(line, "echo %u", &count) == 1) {
		echo_some(count);
		(void)fflush(stdout);
	}
	printf("held %u\n", held());
	return 0;
}
