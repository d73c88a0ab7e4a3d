/* Loads a TLS service that speaks first and ends each connection itself: connect, handshake, read to the end, close,
 * again; a settled number of connections at a time, for a while. load_connect.c says why so; the time of an operation
 * runs from connect(2) to the end of stream.
 *
 * --resume: each place brings the session of its last connection, and its first one makes one, before the measured
 * interval; a handshake within it that was not resumed is an error.
 *
 * One process, one thread. It owns every descriptor it opens. */
#include "client.h"
#include "tls_client.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#define IN_FLIGHT_MAX 1024        /* connections */
#define ERRORS_MAX    1000        /* errors after which the run is given up */
#define SOURCES       16          /* addresses the connections come from: see load_connect.c */
#define TURN_MS       100         /* longest wait between two looks at the limits */
#define LIMIT_NS      5000000000L /* of a connection */
#define EVENTS_MAX    256         /* events taken from the kernel at a time */

struct slot {
	struct tls tls;
	int64_t begin_ns;
	size_t received;
	int fd; /* -1 between two connections */
	bool shaken;
};

static struct {
	struct sockaddr_in address;
	struct usage_subject subject;
	unsigned in_flight;
	unsigned version;
	double warm_seconds;
	double seconds;
	bool resume;
} option = {
	.subject = {.core = -1},
	.in_flight = 8,
	.version = 13,
	.warm_seconds = 1,
	.seconds = 3,
};

static SSL_CTX *settings;
static struct slot *slots;
static struct histogram latency;
static int epoll_fd;
static unsigned next_source;
static uint64_t done, resumed, errors;
static bool measuring;

static void finish(struct slot *s)
{
	tls_end(&s->tls);
	if (s->fd >= 0)
		(void)close(s->fd);
	s->fd = -1;
}

static void fail(struct slot *s, const char *why)
{
	if (errors++ < 5)
		(void)fprintf(stderr, "connection: %s\n", why);
	finish(s);
}

static void begin(struct slot *s)
{
	struct epoll_event e = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.u32 = (uint32_t)(s - slots)};

	s->begin_ns = now_ns();
	s->received = 0;
	s->shaken = false;
	s->fd = client_connect(&option.address, 1 + next_source++ % SOURCES);
	if (s->fd < 0) {
		fail(s, strerror(-s->fd));
		return;
	}
	tls_begin(&s->tls, settings, s->fd);
	if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, s->fd, &e) < 0)
		fail(s, strerror(errno));
}

static void complete(struct slot *s)
{
	bool again = SSL_session_reused(s->tls.ssl) == 1;

	if (s->received == 0) {
		fail(s, "no answer");
		return;
	}
	if (measuring && again != option.resume) {
		fail(s, again ? "was resumed" : "was not resumed");
		return;
	}
	if (measuring) {
		histogram_add(&latency, now_ns() - s->begin_ns);
		done++;
		resumed += again;
	}
	(void)SSL_shutdown(s->tls.ssl); /* as clients do: RFC 8446 section 6.1 */
	finish(s);
}

static void advance(struct slot *s)
{
	char sink[4096];
	size_t n;
	enum tls_state state = s->shaken ? TLS_DONE : tls_shake(&s->tls);

	s->shaken = state == TLS_DONE;
	while (state == TLS_DONE) {
		state = tls_read(&s->tls, sink, sizeof sink, &n);
		s->received += state == TLS_DONE ? n : 0;
	}
	if (state == TLS_ENDED && s->shaken)
		complete(s);
	else if (state != TLS_WAITS)
		fail(s, tls_why());
}

static void on_event(struct slot *s)
{
	if (s->fd >= 0)
		advance(s);
	if (s->fd < 0 && errors < ERRORS_MAX)
		begin(s);
}

/* Ends what takes too long and restarts what could not even begin. */
static void look_after(int64_t now)
{
	for (unsigned i = 0; i < option.in_flight; i++) {
		if (slots[i].fd >= 0 && now - slots[i].begin_ns > LIMIT_NS)
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
			on_event(&slots[events[i].data.u32]);
	}
}

static struct usage measure(void)
{
	return usage_measure(&option.subject, option.warm_seconds, option.seconds, &measuring, turn_until);
}

static void report(const struct usage *u)
{
	printf("{\"in_flight\": %u, \"handshakes\": %" PRIu64 ", \"resumed\": %" PRIu64 ", \"errors\": %" PRIu64
	       ", \"per_second\": %.1f, ",
	       option.in_flight, done, resumed, errors, (double)done * 1e9 / (double)u->wall_ns);
	usage_print_json(&option.subject, u, done);
	client_print_latency(&latency);
}

static void read_options(int argc, char **argv)
{
	static const struct option longs[] = {
		{"in-flight", required_argument, NULL, 'c'},
		{"version", required_argument, NULL, 'V'},
		{"warm", required_argument, NULL, 'w'},
		{"seconds", required_argument, NULL, 'd'},
		{"server-pid", required_argument, NULL, 'p'},
		{"server-core", required_argument, NULL, 'C'},
		{"backend-pid", required_argument, NULL, 'b'},
		{"resume", no_argument, NULL, 'r'},
		{0},
	};

	for (int o; (o = getopt_long(argc, argv, "c:w:d:p:", longs, NULL)) != -1;) {
		switch (o) {
		case 'c': option.in_flight = client_number("--in-flight", optarg, 1, IN_FLIGHT_MAX); break;
		case 'V': option.version = tls_version(optarg); break;
		case 'w': option.warm_seconds = client_seconds("--warm", optarg, 60); break;
		case 'd': option.seconds = client_seconds("--seconds", optarg, 600); break;
		case 'r': option.resume = true; break;
		default:
			if (!client_subject_option(o, optarg, &option.subject))
				client_usage("load_tls", "unknown option");
		}
	}
	client_operand(argc, argv, "load_tls", 443, &option.address);
}

int main(int argc, char **argv)
{
	struct usage interval;

	read_options(argc, argv);
	if (client_need_descriptors(option.in_flight + 16) < 0)
		client_usage("load_tls", "the hard limit of open descriptors is too low for so many connections");
	settings = tls_client_settings(option.version, option.resume, false);
	slots = calloc(option.in_flight, sizeof *slots);
	epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (slots == NULL || epoll_fd < 0) {
		perror("load_tls");
		return 111;
	}
	for (unsigned i = 0; i < option.in_flight; i++)
		slots[i].fd = -1;
	interval = measure();
	report(&interval);
	return errors > 0 || done == 0;
}
