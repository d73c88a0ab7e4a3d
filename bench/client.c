/* The common part of the load generators: see client.h.
 * One thread; owns nothing that outlives a call. */
#include "client.h"

#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

int client_parse_address(const char *text, struct sockaddr_in *out)
{
	char host[INET_ADDRSTRLEN];
	unsigned port;
	int used = 0;
	struct sockaddr_in a = {.sin_family = AF_INET};

	if (strncmp(text, "tcp://", 6) == 0)
		text += 6;
	if (sscanf(text, "%15[0-9.]:%u%n", host, &port, &used) != 2 || text[used] != '\0')
		return -EINVAL;
	if (port == 0 || port > 65535 || inet_pton(AF_INET, host, &a.sin_addr) != 1)
		return -EINVAL;
	if (ntohl(a.sin_addr.s_addr) >> 24 != IN_LOOPBACKNET)
		return -EINVAL;
	a.sin_port = htons((uint16_t)port);
	*out = a;
	return 0;
}

int client_need_descriptors(unsigned needed)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
		return -errno;
	if (limit.rlim_cur >= needed)
		return 0;
	limit.rlim_cur = limit.rlim_max;
	if (limit.rlim_max < needed || setrlimit(RLIMIT_NOFILE, &limit) < 0)
		return -EMFILE;
	return 0;
}

/* IP_BIND_ADDRESS_NO_PORT leaves the port to connect(2), which can then share one port among
 * destinations; without it bind(2) would use up the ephemeral range. Who opens ten thousands names the port: once
 * every other port is taken, connect(2) looks at all of those first, each time. */
static int bind_source(int fd, unsigned source, unsigned port)
{
	struct sockaddr_in from = {
		.sin_family = AF_INET,
		.sin_port = htons((uint16_t)port),
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK + source),
	};

	if (port == 0)
		(void)setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &(int){1}, sizeof(int));
	return bind(fd, (struct sockaddr *)&from, sizeof from) < 0 ? -errno : 0;
}

int client_connect(const struct sockaddr_in *to, unsigned source)
{
	return client_connect_from(to, source, 0);
}

int client_connect_from(const struct sockaddr_in *to, unsigned source, unsigned port)
{
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	int err = 0;

	if (fd < 0)
		return -errno;
	(void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
	if (source > 0)
		err = bind_source(fd, source, port);
	if (err == 0 && connect(fd, (const struct sockaddr *)to, sizeof *to) < 0 && errno != EINPROGRESS)
		err = -errno;
	if (err == 0)
		return fd;
	(void)close(fd);
	return err;
}

_Noreturn void client_usage(const char *why, const char *what)
{
	(void)fprintf(stderr, "%s: %s\n", why, what);
	exit(100);
}

unsigned client_number(const char *option, const char *text, unsigned low, unsigned high)
{
	char *end;
	errno = 0;
	unsigned long v = strtoul(text, &end, 10);

	if (errno != 0 || *text < '0' || *text > '9' || *end != '\0' || v < low || v > high)
		client_usage(option, "number out of range");
	return (unsigned)v;
}

double client_seconds(const char *option, const char *text, double high)
{
	char *end;
	double v = strtod(text, &end);

	if (end == text || *end != '\0' || !(v >= 0) || v > high)
		client_usage(option, "seconds out of range");
	return v;
}

bool client_subject_option(int option, const char *text, struct usage_subject *s)
{
	switch (option) {
	case 'p':
		if (usage_add_root(s, text) < 0)
			client_usage("--server-pid", text);
		return true;
	case 'C': s->core = (int)client_number("--server-core", text, 0, 1023); return true;
	case 'b': s->backend = (pid_t)client_number("--backend-pid", text, 1, 1u << 30); return true;
	default: return false;
	}
}

void client_operand(int argc, char **argv, const char *program, unsigned port, struct sockaddr_in *out)
{
	char why[80];

	if (optind == argc - 1 && client_parse_address(argv[optind], out) == 0)
		return;
	(void)snprintf(why, sizeof why, "one loopback address expected, such as tcp://127.0.0.1:%u", port);
	client_usage(program, why);
}

void client_print_latency(const struct histogram *latency)
{
	printf("\"p50_us\": %.1f, \"p99_us\": %.1f, \"max_us\": %.1f}\n",
	       (double)histogram_percentile(latency, 50) / 1e3, (double)histogram_percentile(latency, 99) / 1e3,
	       (double)latency->max / 1e3);
}
