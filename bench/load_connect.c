/* Loads a service that ends each connection itself: connect, perhaps send a request, read to the
 * end, close, again; a settled number of connections at a time, for a while.
 *
 * Why this way: it is what a super-server and its programs do all day, and what shows the price of
 * accepting, starting whatever serves, and reaping it. The time of an operation runs from connect(2)
 * to the end of stream. Source addresses rotate over 127.0.0.2 …, so that the four-tuples waiting in
 * TIME_WAIT never exhaust the ephemeral ports. A connection without an end within --limit seconds,
 * or with less than --least bytes, is an error.
 *
 * One process, one thread. It owns every descriptor it opens. */
#include "client.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define NS            1000000000LL
#define IN_FLIGHT_MAX 4096  /* connections */
#define ERRORS_MAX    1000  /* errors after which the run is given up */
#define TURN_MS       100   /* longest wait between two looks at the limits */
#define EVENTS_MAX    256   /* events taken from the kernel at a time */
#define READ_SIZE     65536 /* bytes */

struct slot {
	int64_t begin_ns;
	size_t received;
	int fd; /* -1 between two connections */
	bool asked;
};

static struct {
	struct sockaddr_in address;
	struct usage_subject subject;
	unsigned in_flight;
	unsigned sources;
	unsigned least;
	double warm_seconds;
	double seconds;
	double limit_seconds;
	const char *request;
} option = {
	.subject = {.core = -1},
	.in_flight = 8,
	.sources = 16,
	.least = 1,
	.warm_seconds = 1,
	.seconds = 3,
	.limit_seconds = 5,
};

static struct slot *slots;
static struct histogram latency;
static int epoll_fd;
static unsigned next_source;
static uint64_t done, bytes, errors, errors_measured;
static bool measuring;

static void finish(struct slot *s)
{
	if (s->fd >= 0)
		(void)close(s->fd);
	s->fd = -1;
}

static void fail(struct slot *s, const char *why)
{
	if (errors++ < 5)
		(void)fprintf(stderr, "connection: %s\n", why);
	errors_measured += measuring;
	finish(s);
}

static void begin(struct slot *s)
{
	struct epoll_event e = {.events = EPOLLIN | EPOLLRDHUP | EPOLLET | (option.request ? EPOLLOUT : 0u),
	                        .data.u32 = (uint32_t)(s - slots)};
	unsigned source = option.sources > 1 ? 1 + next_source++ % option.sources : 0;

	*s = (struct slot){.begin_ns = now_ns(), .fd = -1};
	int fd = client_connect(&option.address, source);
	if (fd < 0) {
		fail(s, strerror(-fd));
		return;
	}
	s->fd = fd;
	if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &e) < 0)
		fail(s, strerror(errno));
}

static void ask(struct slot *s)
{
	size_t length = strlen(option.request);
	ssize_t n = send(s->fd, option.request, length, MSG_NOSIGNAL);

	s->asked = true;
	if (n < 0 && errno == EAGAIN) /* not connected yet */
		s->asked = false;
	else if (n < 0)
		fail(s, strerror(errno));
	else if ((size_t)n < length)
		fail(s, "the request was not taken whole");
}

static void complete(struct slot *s)
{
	if (s->received < option.least) {
		fail(s, "the answer is too short");
		return;
	}
	if (measuring) {
		histogram_add(&latency, now_ns() - s->begin_ns);
		done++;
		bytes += s->received;
	}
	finish(s);
}

static void receive(struct slot *s)
{
	static char sink[READ_SIZE];

	while (s->fd >= 0) {
		ssize_t n = recv(s->fd, sink, sizeof sink, 0);
		if (n > 0)
			s->received += (size_t)n;
		else if (n == 0)
			complete(s);
		else if (errno == EAGAIN)
			return;
		else
			fail(s, strerror(errno));
	}
}

/* Events still queued for a descriptor just closed cannot exist: close(2) removes it from epoll, and
 * a slot appears once in a batch, so begin() may reuse it at once. */
static void on_event(struct slot *s, uint32_t events)
{
	if (s->fd >= 0 && option.request && !s->asked && (events & EPOLLOUT))
		ask(s);
	if (s->fd >= 0 && (events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)))
		receive(s);
	if (s->fd < 0 && errors < ERRORS_MAX)
		begin(s);
}

/* Ends what takes too long and restarts what could not even begin. */
static void look_after(int64_t now)
{
	for (unsigned i = 0; i < option.in_flight; i++) {
		if (slots[i].fd >= 0 && now - slots[i].begin_ns > (int64_t)(option.limit_seconds * 1e9))
			fail(&slots[i], "no end within the limit");
		if (slots[i].fd < 0 && errors < ERRORS_MAX)
			begin(&slots[i]);
	}
}

static void turn_until(int64_t until)
{
	struct epoll_event events[EVENTS_MAX];
	int64_t looked = 0;

	for (int64_t now; (now = now_ns()) < until && errors < ERRORS_MAX;) {
		if (now - looked > TURN_MS * 1000000LL) {
			look_after(now);
			looked = now;
		}
		int64_t left_ms = (until - now) / 1000000 + 1;
		int n = epoll_wait(epoll_fd, events, EVENTS_MAX, left_ms < TURN_MS ? (int)left_ms : TURN_MS);
		for (int i = 0; i < n; i++)
			on_event(&slots[events[i].data.u32], events[i].events);
	}
}

static struct usage measure(void)
{
	return usage_measure(&option.subject, option.warm_seconds, option.seconds, &measuring, turn_until);
}

static void report(const struct usage *u)
{
	printf("{\"in_flight\": %u, \"connections\": %" PRIu64 ", \"bytes\": %" PRIu64 ", \"errors\": %" PRIu64
	       ", \"errors_measured\": %" PRIu64 ", \"per_second\": %.1f, ",
	       option.in_flight, done, bytes, errors, errors_measured, (double)done * 1e9 / (double)u->wall_ns);
	usage_print_json(&option.subject, u, done);
	client_print_latency(&latency);
}

static void read_options(int argc, char **argv)
{
	static const struct option longs[] = {
		{"in-flight", required_argument, NULL, 'c'},   {"send", required_argument, NULL, 's'},
		{"least", required_argument, NULL, 'l'},       {"limit", required_argument, NULL, 'L'},
		{"warm", required_argument, NULL, 'w'},        {"seconds", required_argument, NULL, 'd'},
		{"sources", required_argument, NULL, 'S'},     {"server-pid", required_argument, NULL, 'p'},
		{"server-core", required_argument, NULL, 'C'}, {0},
	};

	for (int o; (o = getopt_long(argc, argv, "c:s:w:d:p:", longs, NULL)) != -1;) {
		switch (o) {
		case 'c': option.in_flight = client_number("--in-flight", optarg, 1, IN_FLIGHT_MAX); break;
		case 's': option.request = optarg; break;
		case 'l': option.least = client_number("--least", optarg, 0, 1u << 30); break;
		case 'L': option.limit_seconds = client_seconds("--limit", optarg, 600); break;
		case 'w': option.warm_seconds = client_seconds("--warm", optarg, 60); break;
		case 'd': option.seconds = client_seconds("--seconds", optarg, 600); break;
		case 'S': option.sources = client_number("--sources", optarg, 1, 200); break;
		default:
			if (!client_subject_option(o, optarg, &option.subject))
				client_usage("load_connect", "unknown option");
		}
	}
	client_operand(argc, argv, "load_connect", 13, &option.address);
}

int main(int argc, char **argv)
{
	struct usage interval;

	read_options(argc, argv);
	if (client_need_descriptors(option.in_flight + 16) < 0)
		client_usage("load_connect", "the hard limit of open descriptors is too low for so many connections");
	slots = calloc(option.in_flight, sizeof *slots);
	epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (slots == NULL || epoll_fd < 0) {
		perror("load_connect");
		return 111;
	}
	for (unsigned i = 0; i < option.in_flight; i++)
		slots[i].fd = -1;
	interval = measure();
	report(&interval);
	return errors > 0 || done == 0;
}
