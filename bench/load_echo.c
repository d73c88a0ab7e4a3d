/* Loads an echo service: many connections, one message in flight on each, for a while; or holds
 * many connections silent while somebody measures the server's memory.
 *
 * Why this way: the client runs on one core against a server on another, so it has to spend less
 * than the server does. One edge-triggered registration a connection (never changed), no read that
 * is bound to fail (a message's length is known), one shared buffer that stays in the cache, and no
 * state touched but the connection's own line. It checks each answer's first 12 bytes (connection,
 * sequence number, length), and all of it with --verify.
 *
 * A connection counts as opened when its first answer is back, and at most OPENING_MAX are being
 * opened at a time, so that a server's backlog never overflows and no SYN is ever resent.
 *
 * --turns measures once for each line read from standard input and lets the connections rest between: so
 * several servers, each with a client of its own, can be measured in turn within a second.
 *
 * One process, one thread. It owns every descriptor it opens until it ends. */
#include "client.h"

#include <assert.h>
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define NS              1000000000LL
#define CONNECTIONS_MAX 100000     /* connections */
#define MESSAGE_MAX     (1u << 20) /* bytes */
#define OPENING_MAX     64         /* connections without their first answer yet */
#define EVENTS_MAX      512        /* events taken from the kernel at a time */
#define SETUP_NS        (60 * NS)  /* to open all connections in */
#define IDLE_NS         (300 * NS) /* that --idle waits for its standard input to end */
#define REST_NS         (10 * NS)  /* for the last answers of an interval */
#define SILENT_PER_MS   10         /* connections opened a millisecond when no answer paces them */

struct header {
	uint32_t connection;
	uint32_t sequence;
	uint32_t length;
};

struct connection {
	int64_t sent_ns;
	char *partial; /* a message received in pieces; allocated once needed, or NULL */
	int fd;        /* -1 once lost or not opened yet */
	uint32_t sequence;
	uint32_t sent; /* bytes of the message in flight */
	uint32_t received;
	uint32_t answers; /* in the measured interval */
	bool opened;      /* its first answer is back */
	bool busy;        /* a message is in flight */
};

enum mode { MODE_LOAD, MODE_TOUCH, MODE_SILENT };

static struct {
	struct sockaddr_in address;
	struct usage_subject subject;
	unsigned connections;
	unsigned size;
	unsigned sources;
	double warm_seconds;
	double seconds;
	enum mode mode;
	bool verify;
	bool spin;
	bool turns;
} option = {
	.subject = {.core = -1},
	.connections = 1000,
	.size = 512,
	.sources = 1,
	.warm_seconds = 1,
	.seconds = 3,
};

static struct connection *connections;
static struct histogram latency;
static int epoll_fd;
static unsigned started, opened, lost, busy;
static uint64_t answers, errors;
static bool measuring;
static bool resting;      /* who has its answer asks no more */
static char *out_message; /* option.size bytes */
static char *in_buffer;   /* option.size + 1 bytes: room to notice a surplus */

static void compose(const struct connection *c)
{
	struct header h = {(uint32_t)(c - connections), c->sequence, option.size};

	if (option.verify)
		for (unsigned i = sizeof h; i < option.size; i++)
			out_message[i] = (char)(i * 7 + h.connection + h.sequence * 31);
	memcpy(out_message, &h, sizeof h);
}

static bool is_right(const struct connection *c, const char *message)
{
	struct header h;

	memcpy(&h, message, sizeof h);
	if (h.connection != (uint32_t)(c - connections) || h.sequence != c->sequence || h.length != option.size)
		return false;
	if (!option.verify)
		return true;
	compose(c);
	return memcmp(message, out_message, option.size) == 0;
}

/* A lost connection is not replaced: an error spoils the run, and the report says so. */
static void lose(struct connection *c, const char *why)
{
	if (errors++ < 5)
		(void)fprintf(stderr, "connection %td: %s\n", c - connections, why);
	if (c->fd >= 0)
		(void)close(c->fd);
	c->fd = -1;
	busy -= c->busy;
	c->busy = false;
	lost++;
}

/* Sends what the kernel takes; the rest follows at the next EPOLLOUT edge. */
static void send_more(struct connection *c)
{
	compose(c);
	ssize_t n = send(c->fd, out_message + c->sent, option.size - c->sent, MSG_NOSIGNAL);
	if (n >= 0)
		c->sent += (uint32_t)n;
	else if (errno != EAGAIN)
		lose(c, strerror(errno));
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
	if (!c->opened) {
		c->opened = true;
		opened++;
	}
	c->busy = false;
	busy--;
	if (option.mode == MODE_LOAD && !resting)
		begin_message(c, now);
}

/* Keeps a piece of a message that did not arrive whole. Returns the message once it is whole. */
static const char *join_pieces(struct connection *c, size_t n)
{
	if (c->received == 0 && n == option.size)
		return in_buffer;
	if (c->partial == NULL && (c->partial = malloc(option.size)) == NULL) {
		lose(c, "out of memory");
		return NULL;
	}
	memcpy(c->partial + c->received, in_buffer, n);
	c->received += (uint32_t)n;
	return c->received == option.size ? c->partial : NULL;
}

/* Reads until the message is whole or the socket is empty, as edge-triggered events demand. */
static void receive_more(struct connection *c)
{
	unsigned due = c->busy ? option.size - c->received : 0;

	while (c->fd >= 0) {
		ssize_t n = recv(c->fd, in_buffer, due + 1, 0);
		if (n < 0 && errno == EAGAIN)
			return;
		if (n < 0) {
			lose(c, strerror(errno));
		} else if (n == 0) {
			lose(c, "ended by the server");
		} else if ((size_t)n > due) {
			lose(c, "more came back than was sent");
		} else {
			const char *message = join_pieces(c, (size_t)n);
			due -= (unsigned)n;
			if (message == NULL)
				continue;
			if (is_right(c, message))
				end_message(c);
			else
				lose(c, "a wrong answer");
			return;
		}
	}
}

static void on_event(struct connection *c, uint32_t events)
{
	if (c->fd < 0)
		return;
	if ((events & (EPOLLOUT | EPOLLERR)) && c->sequence == 0 && !c->opened) {
		int err = 0;
		(void)getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &err, &(socklen_t){sizeof err});
		if (err != 0) {
			lose(c, strerror(err));
		} else if (option.mode == MODE_SILENT) {
			c->opened = true;
			opened++;
		} else {
			begin_message(c, now_ns());
		}
		return;
	}
	if (events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR))
		receive_more(c);
	else if (c->fd >= 0 && c->busy && c->sent < option.size)
		send_more(c);
}

static void open_more(void)
{
	while (started < option.connections && started - opened - lost < OPENING_MAX) {
		struct connection *c = &connections[started];
		struct epoll_event e = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.u32 = started};
		unsigned source = option.sources > 1 ? 1 + started % option.sources : 0;
		int fd = client_connect(&option.address, source);
		started++;
		c->fd = fd;
		if (fd < 0)
			lose(c, strerror(-fd));
		else if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &e) < 0)
			lose(c, strerror(errno));
	}
}

static void turn(int64_t until)
{
	struct epoll_event events[EVENTS_MAX];
	int64_t left = until - now_ns();
	int timeout_ms = option.spin || left <= 0 ? 0 : (int)(left / 1000000) + 1;
	int n = epoll_wait(epoll_fd, events, EVENTS_MAX, timeout_ms);

	for (int i = 0; i < n; i++)
		on_event(&connections[events[i].data.u32], events[i].events);
}

static void turn_until(int64_t until)
{
	while (now_ns() < until && lost < option.connections)
		turn(until);
}

static void resume(void)
{
	for (unsigned i = 0; i < option.connections; i++)
		if (connections[i].fd >= 0 && !connections[i].busy)
			begin_message(&connections[i], now_ns());
}

/* Who is open rests until all are: or a server of one process a connection would have to accept beside all that work.
 * Returns 0, or -ETIMEDOUT if some connection is still without an answer. */
static int open_all(void)
{
	int64_t begin = now_ns();

	resting = true;
	while (opened + lost < option.connections) {
		int64_t now = now_ns();
		if (now - begin > SETUP_NS)
			return -ETIMEDOUT;
		if (option.mode != MODE_SILENT || started < (now - begin) / 1000000 * SILENT_PER_MS)
			open_more();
		turn(now + (option.mode == MODE_SILENT ? NS / 1000 : NS / 10));
	}
	resting = false;
	if (option.mode == MODE_LOAD)
		resume();
	return 0;
}

static struct usage measure(void)
{
	return usage_measure(&option.subject, option.warm_seconds, option.seconds, &measuring, turn_until);
}

/* Until nothing is in flight any more, and nothing of this interval is left in the figures of the next. */
static int rest(void)
{
	int64_t until = now_ns() + REST_NS;

	resting = true;
	while (busy > 0 && now_ns() < until)
		turn(until);
	resting = false;
	answers = 0;
	latency = (struct histogram){0};
	for (unsigned i = 0; i < option.connections; i++)
		connections[i].answers = 0;
	return busy > 0 ? -ETIMEDOUT : 0;
}

static void report_load(const struct usage *u)
{
	unsigned starved = 0;
	uint32_t least = UINT32_MAX, most = 0;

	for (unsigned i = 0; i < option.connections; i++) {
		uint32_t n = connections[i].answers;
		starved += n == 0;
		least = n < least ? n : least;
		most = n > most ? n : most;
	}
	printf("{\"connections\": %u, \"size\": %u, \"round_trips\": %" PRIu64 ", \"errors\": %" PRIu64
	       ", \"starved\": %u, \"least\": %u, \"most\": %u, \"per_second\": %.1f, ",
	       option.connections, option.size, answers, errors, starved, least, most,
	       (double)answers * 1e9 / (double)u->wall_ns);
	usage_print_json(&option.subject, u, answers);
	client_print_latency(&latency);
}

/* A measurement a line, until standard input ends. Returns 0, or -ETIMEDOUT if an answer is missing. */
static int measure_in_turns(void)
{
	struct usage interval;
	char line[16];
	uint64_t measured = 0;
	int r = rest();

	printf("ready %u\n", opened);
	(void)fflush(stdout);
	while (r == 0 && fgets(line, sizeof line, stdin) != NULL) {
		resume();
		interval = measure();
		report_load(&interval);
		(void)fflush(stdout);
		measured += answers;
		r = rest();
	}
	answers = measured;
	return r;
}

/* Says "ready", waits for the end of standard input, then counts who is still connected. */
static void hold_idle(void)
{
	struct pollfd in = {.fd = STDIN_FILENO, .events = POLLIN};
	int64_t until = now_ns() + IDLE_NS;
	char byte;
	unsigned held = 0;

	printf("ready %u\n", opened);
	(void)fflush(stdout);
	while (now_ns() < until && poll(&in, 1, 1000) >= 0)
		if (in.revents != 0 && read(STDIN_FILENO, &byte, 1) <= 0)
			break;
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
		{"sources", required_argument, NULL, 'S'},
		{"server-pid", required_argument, NULL, 'p'},
		{"server-core", required_argument, NULL, 'C'},
		{"verify", no_argument, NULL, 'v'},
		{"spin", no_argument, NULL, 'b'},
		{"idle", no_argument, NULL, 'i'},
		{"touch", no_argument, NULL, 't'},
		{"turns", no_argument, NULL, 'T'},
		{0},
	};

	for (int o; (o = getopt_long(argc, argv, "c:s:w:d:p:", longs, NULL)) != -1;) {
		switch (o) {
		case 'c': option.connections = client_number("--connections", optarg, 1, CONNECTIONS_MAX); break;
		case 's': option.size = client_number("--size", optarg, sizeof(struct header), MESSAGE_MAX); break;
		case 'w': option.warm_seconds = client_seconds("--warm", optarg, 60); break;
		case 'd': option.seconds = client_seconds("--seconds", optarg, 600); break;
		case 'S': option.sources = client_number("--sources", optarg, 1, 200); break;
		case 'v': option.verify = true; break;
		case 'b': option.spin = true; break;
		case 'i':
			if (option.mode == MODE_LOAD)
				option.mode = MODE_SILENT;
			break;
		case 't': option.mode = MODE_TOUCH; break;
		case 'T': option.turns = true; break;
		default:
			if (!client_subject_option(o, optarg, &option.subject))
				client_usage("load_echo", "unknown option");
		}
	}
	client_operand(argc, argv, "load_echo", 7, &option.address);
}

int main(int argc, char **argv)
{
	struct usage interval;

	read_options(argc, argv);
	if (client_need_descriptors(option.connections + 16) < 0)
		client_usage("load_echo", "the hard limit of open descriptors is too low for so many connections");
	connections = calloc(option.connections, sizeof *connections);
	out_message = calloc(1, option.size);
	in_buffer = malloc(option.size + 1);
	epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (connections == NULL || out_message == NULL || in_buffer == NULL || epoll_fd < 0) {
		perror("load_echo");
		return 111;
	}
	for (unsigned i = 0; i < option.connections; i++)
		connections[i].fd = -1;
	if (open_all() < 0) {
		(void)fprintf(stderr, "load_echo: only %u of %u connections were answered within %lld s\n", opened,
		              option.connections, SETUP_NS / NS);
		return 1;
	}
	if (option.mode == MODE_LOAD && option.turns) {
		if (measure_in_turns() < 0) {
			(void)fprintf(stderr, "load_echo: %u answers did not come within %lld s\n", busy, REST_NS / NS);
			return 1;
		}
	} else if (option.mode == MODE_LOAD) {
		interval = measure();
		report_load(&interval);
	} else {
		hold_idle();
	}
	return errors > 0 || (option.mode == MODE_LOAD && answers == 0);
}
