/* Loads an echo service over TLS: connections that are kept, one message in flight on each; or holds them idle after a
 * handshake and one echo each, while somebody measures the server's memory.
 *
 * As load_echo.c, which says why so: --turns measures once for each line of standard input; without it the connections
 * are held, "ready" is said, and at the end of standard input who is still connected is counted. Each answer's first 8
 * bytes, connection and sequence number, are checked, and its length.
 *
 * One process, one thread. It owns every descriptor it opens until it ends. */
#include "client.h"
#include "tls_client.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define NS              1000000000LL
#define CONNECTIONS_MAX 20000     /* connections */
#define MESSAGE_MAX     16384     /* bytes: one record */
#define OPENING_MAX     16        /* connections without their first answer yet */
#define EVENTS_MAX      256       /* events taken from the kernel at a time */
#define SETUP_NS        (60 * NS) /* to open all connections in */
#define REST_NS         (10 * NS) /* for the last answers of an interval */

struct connection {
	struct tls tls;
	int64_t sent_ns;
	int fd; /* -1 once lost or not opened yet */
	uint32_t sequence;
	uint32_t sent, received; /* bytes of the message in flight */
	uint32_t answers;        /* in the measured interval */
	bool shaken, opened, busy;
};

static struct {
	struct sockaddr_in address;
	struct usage_subject subject;
	unsigned connections;
	unsigned size;
	double warm_seconds;
	double seconds;
	bool turns;
} option = {
	.subject = {.core = -1},
	.connections = 100,
	.size = 3072,
	.warm_seconds = 1,
	.seconds = 3,
};

static SSL_CTX *settings;
static struct connection *connections;
static struct histogram latency;
static int epoll_fd;
static unsigned started, opened, lost, busy;
static uint64_t answers, errors;
static bool measuring;
static bool resting; /* who has its answer asks no more */
static char out_message[MESSAGE_MAX], in_message[MESSAGE_MAX];

static void lose(struct connection *c, const char *why)
{
	if (errors++ < 5)
		(void)fprintf(stderr, "connection %td: %s\n", c - connections, why);
	tls_end(&c->tls);
	if (c->fd >= 0)
		(void)close(c->fd);
	c->fd = -1;
	busy -= c->busy;
	c->busy = false;
	lost++;
}

static void send_more(struct connection *c)
{
	uint32_t head[2] = {(uint32_t)(c - connections), c->sequence};
	size_t n;

	memcpy(out_message, head, sizeof head);
	while (c->sent < option.size) {
		enum tls_state state = tls_write(&c->tls, out_message + c->sent, option.size - c->sent, &n);
		if (state == TLS_WAITS)
			return;
		if (state != TLS_DONE) {
			lose(c, tls_why());
			return;
		}
		c->sent += (uint32_t)n;
	}
}

static void begin_message(struct connection *c, int64_t now)
{
	c->sequence++;
	c->sent = c->received = 0;
	c->sent_ns = now;
	busy += !c->busy;
	c->busy = true;
	send_more(c);
}

static void end_message(struct connection *c)
{
	int64_t now = now_ns();

	if (measuring) {
		histogram_add(&latency, now - c->sent_ns);
		answers++;
		c->answers++;
	}
	opened += !c->opened;
	c->opened = true;
	c->busy = false;
	busy--;
	if (option.turns && !resting)
		begin_message(c, now);
}

/* Until the message is whole or nothing more is there. Its head is checked where it comes in one piece with it. */
static void receive_more(struct connection *c)
{
	while (c->fd >= 0 && c->busy) {
		size_t n;
		uint32_t head[2];
		enum tls_state state = tls_read(&c->tls, in_message, option.size - c->received, &n);
		if (state == TLS_WAITS)
			return;
		if (state != TLS_DONE) {
			lose(c, state == TLS_ENDED ? "ended by the server" : tls_why());
			return;
		}
		memcpy(head, in_message, sizeof head);
		if (c->received == 0 && n >= sizeof head &&
		    (head[0] != (uint32_t)(c - connections) || head[1] != c->sequence)) {
			lose(c, "a wrong answer");
			return;
		}
		c->received += (uint32_t)n;
		if (c->received == option.size)
			end_message(c);
	}
}

static void on_event(struct connection *c, uint32_t events)
{
	if (c->fd < 0)
		return;
	if (!c->shaken) {
		enum tls_state state = tls_shake(&c->tls);
		if (state == TLS_WAITS)
			return;
		if (state != TLS_DONE) {
			lose(c, tls_why());
			return;
		}
		c->shaken = true;
		begin_message(c, now_ns());
		return;
	}
	if (c->busy && c->sent < option.size && (events & EPOLLOUT))
		send_more(c);
	if (c->fd >= 0 && !c->busy && (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)))
		lose(c, "ended by the server");
	else if (events & ~(uint32_t)EPOLLOUT)
		receive_more(c);
}

static void open_more(void)
{
	while (started < option.connections && started - opened - lost < OPENING_MAX) {
		struct connection *c = &connections[started];
		struct epoll_event e = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.u32 = started};
		started++;
		c->fd = client_connect(&option.address, 0);
		if (c->fd < 0) {
			lose(c, strerror(-c->fd));
			continue;
		}
		tls_begin(&c->tls, settings, c->fd);
		if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, c->fd, &e) < 0)
			lose(c, strerror(errno));
	}
}

static void turn(int64_t until)
{
	struct epoll_event events[EVENTS_MAX];
	int64_t left = until - now_ns();
	int n = epoll_wait(epoll_fd, events, EVENTS_MAX, left <= 0 ? 0 : (int)(left / 1000000) + 1);

	for (int i = 0; i < n; i++)
		on_event(&connections[events[i].data.u32], events[i].events);
}

static void turn_until(int64_t until)
{
	while (now_ns() < until && lost < option.connections)
		turn(until);
}

/* Returns 0, or -ETIMEDOUT if some connection is still without an answer. */
static int open_all(void)
{
	int64_t begin = now_ns();

	resting = true;
	while (opened + lost < option.connections) {
		int64_t now = now_ns();
		if (now - begin > SETUP_NS)
			return -ETIMEDOUT;
		open_more();
		turn(now + NS / 10);
	}
	return 0;
}

static struct usage measure(void)
{
	resting = false;
	for (unsigned i = 0; i < option.connections; i++)
		if (connections[i].fd >= 0 && !connections[i].busy)
			begin_message(&connections[i], now_ns());
	return usage_measure(&option.subject, option.warm_seconds, option.seconds, &measuring, turn_until);
}

/* Until nothing is in flight any more, and nothing of this interval is left in the figures of the next. */
static int rest(void)
{
	int64_t until = now_ns() + REST_NS;

	resting = true;
	while (busy > 0 && now_ns() < until)
		turn(until);
	answers = 0;
	latency = (struct histogram){0};
	for (unsigned i = 0; i < option.connections; i++)
		connections[i].answers = 0;
	return busy > 0 ? -ETIMEDOUT : 0;
}

static void report(const struct usage *u)
{
	unsigned starved = 0;

	for (unsigned i = 0; i < option.connections; i++)
		starved += connections[i].answers == 0;
	printf("{\"connections\": %u, \"size\": %u, \"round_trips\": %" PRIu64 ", \"errors\": %" PRIu64
	       ", \"starved\": %u, \"per_second\": %.1f, ",
	       option.connections, option.size, answers, errors, starved, (double)answers * 1e9 / (double)u->wall_ns);
	usage_print_json(&option.subject, u, answers);
	client_print_latency(&latency);
	(void)fflush(stdout);
}

/* A measurement a line, until standard input ends. Returns 0, or -ETIMEDOUT if an answer is missing. */
static int measure_in_turns(void)
{
	struct usage interval;
	char line[16];
	int r = rest();

	printf("ready %u\n", opened);
	(void)fflush(stdout);
	while (r == 0 && fgets(line, sizeof line, stdin) != NULL) {
		interval = measure();
		report(&interval);
		r = rest();
	}
	return r;
}

static void hold(void)
{
	char byte;
	unsigned held = 0;

	printf("ready %u\n", opened);
	(void)fflush(stdout);
	while (read(STDIN_FILENO, &byte, 1) > 0)
		;
	for (unsigned i = 0; i < option.connections; i++)
		if (connections[i].fd >= 0)
			held += recv(connections[i].fd, &byte, 1, MSG_PEEK) < 0 && errno == EAGAIN;
	printf("{\"connections\": %u, \"held\": %u, \"errors\": %" PRIu64 "}\n", option.connections, held, errors);
}

static void read_options(int argc, char **argv)
{
	static const struct option longs[] = {
		{"connections", required_argument, NULL, 'c'},
		{"size", required_argument, NULL, 's'},
		{"warm", required_argument, NULL, 'w'},
		{"seconds", required_argument, NULL, 'd'},
		{"server-pid", required_argument, NULL, 'p'},
		{"server-core", required_argument, NULL, 'C'},
		{"backend-pid", required_argument, NULL, 'b'},
		{"turns", no_argument, NULL, 'T'},
		{0},
	};

	for (int o; (o = getopt_long(argc, argv, "c:s:w:d:p:", longs, NULL)) != -1;) {
		switch (o) {
		case 'c': option.connections = client_number("--connections", optarg, 1, CONNECTIONS_MAX); break;
		case 's': option.size = client_number("--size", optarg, 8, MESSAGE_MAX); break;
		case 'w': option.warm_seconds = client_seconds("--warm", optarg, 60); break;
		case 'd': option.seconds = client_seconds("--seconds", optarg, 600); break;
		case 'T': option.turns = true; break;
		default:
			if (!client_subject_option(o, optarg, &option.subject))
				client_usage("load_tls_kept", "unknown option");
		}
	}
	client_operand(argc, argv, "load_tls_kept", 443, &option.address);
}

int main(int argc, char **argv)
{
	read_options(argc, argv);
	if (client_need_descriptors(option.connections + 16) < 0)
		client_usage("load_tls_kept", "the hard limit of open descriptors is too low for so many connections");
	settings = tls_client_settings(13, false, false);
	connections = calloc(option.connections, sizeof *connections);
	epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (connections == NULL || epoll_fd < 0) {
		perror("load_tls_kept");
		return 111;
	}
	for (unsigned i = 0; i < option.connections; i++)
		connections[i].fd = -1;
	if (open_all() < 0) {
		(void)fprintf(stderr, "load_tls_kept: only %u of %u connections were answered within %lld s\n", opened,
		              option.connections, SETUP_NS / NS);
		return 1;
	}
	if (!option.turns) {
		hold();
	} else if (measure_in_turns() < 0) {
		(void)fprintf(stderr, "load_tls_kept: %u answers did not come within %lld s\n", busy, REST_NS / NS);
		return 1;
	}
	return errors > 0;
}
