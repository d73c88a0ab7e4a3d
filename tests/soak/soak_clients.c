/* soak_clients.c — many clients at once: hostile ones, and polite ones that check every byte of their answers.
 *
 *     soak_clients MODE [SECONDS [PATIENCE_MS [SEED [CA]]]]     targets on standard input, one a line:
 *     NAME SERVER ADDRESS HOSTILE POLITE HOLD_MS COUNT          ADDRESS is tcp://127.0.0.1:PORT, tls://…, udp://… or
 *                                                               unix:/PATH; CA, a file, vouches for those at tls://
 *
 * So many hostile and polite clients make one connection after another, COUNT in all (0: any number). A hostile client
 * pauses for at most HOLD_MS at a time. SERVER is a number that addresses of one server share.
 *
 *   mix       hostile: a random script of its kind (soak_scripts.c);
 *             polite: a message, a half-close, and the same message must come back, all in PATIENCE_MS
 *   burst     polite connections stay open until all of the target's have their answers (HOLD_MS 0: they need not)
 *   attack    hostile: a random script of the attacks, without a pause between connections
 *
 * Ends after SECONDS (0: never), on SIGTERM, or when nothing is left to do: hostile connections are dropped then,
 * polite ones finish. Standard output gets a line of counts for each target, standard error the first polite failures
 * of each. Exit status 1 if an operation failed, 2 for wrong use.
 *
 * A machine with too much to do proves nothing, so a mix steps back. All clients pause longer between connections while
 * turns of this loop take longer than LAG_NS, or polite operations longer than SPARE_NS on many servers. On one alone
 * only hostile clients wait: a server that has lost something does not recover by that.
 *
 * Plain sockets and one epoll loop, nothing of libhark: a fault there must not hide itself. One thread. Sockets are
 * registered once, edge-triggered, and every step tries before it waits. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "soak_scripts.h"
#include "soak_tls.h"

#define TARGETS_MAX   4096
#define SERVERS_MAX   1024
#define SPARE_NS      1000000000
#define FAILURES_TOLD 5           /* per target */
#define RESEND_NS     250000000   /* a datagram without an answer: full socket buffers drop */
#define POLITE_MAX    (256 << 10) /* bytes of a message: more than the socket buffers take at once, now and then */
#define DATAGRAM_MAX  1400        /* bytes of a polite datagram */
#define THINK_MIN_NS  20000000    /* bounds of the longest pause between two connections of a client */
#define THINK_MAX_NS  4000000000.0
#define LAG_NS        20000000   /* a turn of the loop that takes longer is late */
#define ANSWER_NS     50000000   /* a hostile client waits so long for what it wants to read or write */
#define SHAKE_NS      1000000000 /* and so long for a handshake, which waits for its place as well */
#define RETRY_NS      20000000   /* after connect(2) failed for want of ports or of room in the backlog */

struct target {
	char name[64];
	union {
		struct sockaddr any;
		struct sockaddr_in in;
		struct sockaddr_un un;
	} address;
	socklen_t length;
	bool datagram, tls;
	struct soak_sessions sessions;
	int server;
	int hostile, polite; /* clients */
	int64_t hold_ns;     /* longest pause of a hostile client */
	long count, begun;
	long attacks, resets;                  /* of the hostile clients */
	long resumed;                          /* TLS: polite operations by a ticket */
	long done, lost, late, wrong, starved; /* of the polite ones */
	int held;                              /* burst: clients that have their answer */
	int64_t slowest;                       /* ns, of the polite operations */
};

struct client {
	struct target *target;
	bool polite;
	int fd; /* -1: between two connections */
	struct soak_tls *tls;
	int64_t wake; /* call its turn then, whatever comes */
	int64_t over; /* end of the step, or of the operation's patience */
	/* hostile */
	const struct step *step;
	size_t left;
	/* polite */
	int64_t begun; /* 0: no operation */
	int64_t resend;
	uint32_t key;
	size_t size, sent, got;
	bool half;
};

static struct target targets[TARGETS_MAX];
static int ntargets;
static struct client *clients;
static int nclients;
static int epfd;
static double think = THINK_MIN_NS;
static int64_t lag; /* longest turn of the loop */
static int64_t now, end, patience = INT64_C(10000000000);
static bool hold, attacking;
static int64_t oldest[SERVERS_MAX]; /* of the polite operations of each server, in the scan before; 0: none */
static int64_t oldest_now[SERVERS_MAX];
static volatile sig_atomic_t stopped;
static bool has_ca;
static char noise[(1 << 20) + 1000];
static uint64_t seed = 1;

static int64_t clock_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * INT64_C(1000000000) + t.tv_nsec;
}

/* xorshift64*: 0 to n-1. */
static uint64_t dice(uint64_t n)
{
	seed ^= seed >> 12;
	seed ^= seed << 25;
	seed ^= seed >> 27;
	return n == 0 ? 0 : (seed * UINT64_C(2685821657736338717) >> 16) % n;
}

static bool ending(void)
{
	return stopped || (end != 0 && now >= end);
}

/* Ends the connection; the client's next begins after a pause. */
static void leave(struct client *c)
{
	soak_tls_free(c->tls);
	c->tls = NULL;
	if (c->fd >= 0)
		close(c->fd);
	c->fd = -1;
	c->wake = now + (int64_t)dice(attacking ? 1 : (uint64_t)think);
}

static void reset(struct client *c)
{
	struct linger linger = {.l_onoff = 1};

	setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger);
	c->target->resets++;
}

/* Connects, or has begun to. False: tries again later. */
static bool join(struct client *c)
{
	struct target *t = c->target;
	int fd = socket(t->address.any.sa_family,
	                (t->datagram ? SOCK_DGRAM : SOCK_STREAM) | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.ptr = c};

	if (fd >= 0 && (connect(fd, &t->address.any, t->length) == 0 || errno == EINPROGRESS) &&
	    epoll_ctl(epfd, EPOLL_CTL_ADD, fd, &event) == 0 &&
	    (!t->tls || (c->tls = soak_tls_new(fd, &t->sessions, dice(4) == 0, dice(8) != 0)) != NULL)) {
		c->fd = fd;
		return true;
	}
	if (fd >= 0)
		close(fd);
	t->starved++;
	return false;
}

static ssize_t put(struct client *c, const void *buf, size_t n)
{
	return c->tls != NULL ? soak_tls_send(c->tls, buf, n) : send(c->fd, buf, n, MSG_NOSIGNAL);
}

static ssize_t get(struct client *c, void *buf, size_t n)
{
	return c->tls != NULL ? soak_tls_recv(c->tls, buf, n) : recv(c->fd, buf, n, 0);
}

/* A server has to take TLS's end with the socket's and without. */
static int half(struct client *c)
{
	return c->tls != NULL ? soak_tls_half(c->tls, dice(2) == 0) : (shutdown(c->fd, SHUT_WR), 1);
}

/* ---- hostile ---- */

static void begin_step(struct client *c)
{
	enum act act = c->step->act;

	c->left = act == TRICKLE || act == SIP || act == DRIP ? c->step->amount : 1 + dice(c->step->amount);
	c->over = now + (int64_t)dice((uint64_t)c->target->hold_ns) +
	          (act == WAIT                     ? 0
	           : act == SHAKE || act == FLIGHT ? SHAKE_NS
	                                           : ANSWER_NS);
	c->wake = c->over;
}

static void begin_hostile(struct client *c)
{
	struct target *t = c->target;

	if ((oldest[t->server] != 0 && now - oldest[t->server] > SPARE_NS) || !join(c)) {
		c->wake = now + RETRY_NS;
		return;
	}
	t->begun++;
	const struct scripts *from = attacking     ? t->tls ? &scripts_attack_tls : &scripts_attack
	                             : t->datagram ? &scripts_datagram
	                             : t->tls      ? &scripts_tls
	                                           : &scripts_stream;
	c->step = from->rows[dice(from->n)];
	begin_step(c);
}

/* One byte, or one to 100, then a pause. Returns as act(). */
static int slowly(struct client *c)
{
	char few[100];
	ssize_t n = c->step->act == TRICKLE ? put(c, noise + dice(1000), 1)
	            : c->step->act == DRIP  ? soak_tls_drip(c->tls)
	                                    : get(c, few, 1 + dice(sizeof few));

	if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINPROGRESS))
		return -1;
	if (n > 0 && --c->left == 0)
		return 1;
	c->wake = now + 1000000 + (int64_t)dice(5000000);
	return 0;
}

/* What only clients of TLS do. As act(). */
static int act_tls(struct client *c)
{
	const char *from = noise + dice(1000);
	size_t n;
	int r = 1;

	switch (c->step->act) {
	case ODD:
		while (r > 0 && c->left > 0) {
			from = soak_tls_odd(dice(1000), &n);
			ssize_t sent = send(c->fd, from, n, MSG_NOSIGNAL);
			r = sent >= 0 ? 1 : errno == EAGAIN ? 0 : -1;
			c->left -= r > 0;
		}
		return r;
	case REKEY:
		while ((r = soak_tls_rekey(c->tls)) > 0 && --c->left > 0)
			;
		return r;
	case FIN: shutdown(c->fd, SHUT_WR); return 1;
	case FLIGHT: return soak_tls_flight(c->tls);
	case SHAKE: return soak_tls_handshake(c->tls);
	case PART: return soak_tls_part(c->tls, from, c->left, dice(UINT32_MAX));
	default: return 0;
	}
}

/* Returns 1: done; 0: to be continued when the socket or the clock says so; -1: the peer has ended. */
static int act(struct client *c)
{
	static char sink[65536];
	const char *from = noise + dice(1000);
	size_t most = c->left < sizeof noise - 1000 ? c->left : sizeof noise - 1000;
	ssize_t n;

	switch (c->step->act) {
	case SEND:
	case RAW:
	case URGENT:
		n = c->step->act == SEND
		            ? put(c, from, most)
		            : send(c->fd, from, most, MSG_NOSIGNAL | (c->step->act == URGENT ? MSG_OOB : 0));
		if (n < 0)
			return errno == EAGAIN ? 0 : -1;
		c->left = c->target->datagram ? 0 : c->left - (size_t)n;
		return c->left == 0;
	case READ:
		n = get(c, sink, c->left < sizeof sink ? c->left : sizeof sink);
		return n > 0 ? 1 : n < 0 && errno == EAGAIN ? 0 : -1;
	case DRAIN:
		while ((n = get(c, sink, sizeof sink)) > 0)
			;
		return n < 0 && errno == EAGAIN ? 0 : -1;
	case TRICKLE:
	case DRIP:
	case SIP: return now >= c->wake ? slowly(c) : 0;
	case HALF: return half(c);
	case WAIT: return 0;
	default: return act_tls(c);
	}
}

static void hostile_turn(struct client *c)
{
	for (;;) {
		if (c->step->act == RESET)
			reset(c);
		if (c->step->act == RESET || c->step->act == CLOSE)
			break;
		int done = act(c);
		if (done < 0 && c->step->act != DRAIN && dice(2))
			break; /* now and then what follows is tried on a connection that has ended */
		if (done == 0 && now < c->over)
			return;
		c->step++;
		begin_step(c);
	}
	c->target->attacks++;
	leave(c);
}

/* ---- polite ---- */

/* What stands at this place of the message of this key: the key comes first. */
static char letter(uint32_t key, size_t at)
{
	if (at < sizeof key)
		return (char)(key >> 8 * at);
	return (char)(key + at * 31 + (at >> 8) * 7 + (at >> 16) * 3);
}

static void begin_polite(struct client *c)
{
	struct target *t = c->target;

	if (c->begun == 0)
		c->begun = now;
	if (!join(c)) {
		c->wake = now + RETRY_NS;
		if (now - c->begun > patience) {
			t->late++;
			t->begun++;
			c->begun = 0;
			fprintf(stderr, "%s: connect: %s\n", t->name, strerror(errno));
		}
		return;
	}
	t->begun++;
	c->key = (uint32_t)dice(UINT32_MAX);
	c->size = sizeof c->key + dice(t->datagram     ? DATAGRAM_MAX
	                               : dice(20) == 0 ? POLITE_MAX
	                               : dice(3) == 0  ? 20000
	                                               : 1000);
	c->sent = c->got = 0;
	c->half = false;
	c->over = c->begun + patience;
	c->wake = c->over;
	c->resend = 0;
}

/* why: NULL for an operation that was answered. */
static void end_polite(struct client *c, long *count, const char *why)
{
	struct target *t = c->target;
	int64_t took = now - c->begun;

	if (why != NULL && c->tls != NULL && soak_tls_failure(c->tls) != NULL)
		why = soak_tls_failure(c->tls);
	if (why == NULL && c->tls != NULL && soak_tls_resumed(c->tls) == 0) {
		why = "the ticket was not taken";
		count = &t->lost;
	}
	t->resumed += why == NULL && c->tls != NULL && soak_tls_resumed(c->tls) == 1;
	if (why == NULL && took > t->slowest)
		t->slowest = took;
	if (why != NULL && t->lost + t->late + t->wrong < FAILURES_TOLD) {
		fprintf(stderr, "%s: %s: %zu of %zu bytes sent, %zu came back, after %lld ms\n", t->name, why, c->sent,
		        c->size, c->got, (long long)(took / 1000000));
		fflush(stderr);
	}
	++*count;
	c->begun = 0;
	leave(c);
}

/* Sends what the socket takes. False: the operation has ended. */
static bool send_message(struct client *c)
{
	char part[16384];

	while (c->sent < c->size) {
		size_t n = 1 + dice(sizeof part);
		if (n > c->size - c->sent || c->target->datagram)
			n = c->size - c->sent;
		for (size_t i = 0; i < n; i++)
			part[i] = letter(c->key, c->sent + i);
		ssize_t sent = put(c, part, n);
		if (sent < 0 && (errno == EAGAIN || errno == ENOTCONN))
			return true;
		if (sent < 0) {
			end_polite(c, &c->target->lost, strerror(errno));
			return false;
		}
		c->sent += (size_t)sent;
	}
	return true;
}

/* An answer to what was sent twice may come to who has the port next. */
static bool is_another(const struct client *c, const char *answer, size_t n)
{
	for (size_t i = 0; i < sizeof c->key; i++)
		if (n <= i || answer[i] != letter(c->key, i))
			return true;
	return false;
}

/* Reads and compares what has come. False: the operation has ended. */
static bool read_answer(struct client *c)
{
	static char part[65536];
	ssize_t n;

	while ((n = get(c, part, sizeof part)) > 0 || (n == 0 && c->target->datagram)) {
		if (c->target->datagram && is_another(c, part, (size_t)n))
			continue;
		if ((size_t)n > c->size - c->got || (c->target->datagram && (size_t)n != c->size)) {
			end_polite(c, &c->target->wrong, "more came back than was sent");
			return false;
		}
		for (ssize_t i = 0; i < n; i++, c->got++)
			if (part[i] != letter(c->key, c->got)) {
				end_polite(c, &c->target->wrong, "what came back is not what was sent");
				return false;
			}
		if (c->target->datagram) {
			end_polite(c, &c->target->done, NULL);
			return false;
		}
	}
	if (n < 0 && (errno == EAGAIN || errno == ENOTCONN))
		return true;
	if (n < 0)
		end_polite(c, &c->target->lost, strerror(errno));
	else if (c->half && c->got == c->size)
		end_polite(c, &c->target->done, NULL);
	else
		end_polite(c, &c->target->lost, "the end came early");
	return false;
}

static void half_close(struct client *c)
{
	half(c);
	c->half = true;
}

/* The last one of a burst that has its answer lets all end. */
static void hold_open(struct client *c)
{
	struct target *t = c->target;

	if (c->left != 0)
		return;
	c->left = 1;
	if (++t->held < t->polite)
		return;
	for (int i = 0; i < nclients; i++)
		if (clients[i].target == t && clients[i].fd >= 0 && !clients[i].half)
			half_close(&clients[i]);
}

static void polite_turn(struct client *c)
{
	struct target *t = c->target;

	if (now >= c->over) {
		end_polite(c, &t->late, "no answer in time");
		return;
	}
	if (t->datagram && now >= c->resend) {
		c->sent = 0;
		c->resend = c->wake = now + RESEND_NS;
	}
	if (!send_message(c))
		return;
	bool held = hold && t->hold_ns > 0 && !t->datagram;
	if (c->sent == c->size && !c->half && !held && !t->datagram)
		half_close(c);
	if (read_answer(c) && held && c->got == c->size)
		hold_open(c);
}

/* ---- all ---- */

static void turn(struct client *c)
{
	if (c->fd >= 0 && c->polite)
		polite_turn(c);
	else if (c->fd >= 0)
		hostile_turn(c);
	else if (c->target->count != 0 && c->target->begun >= c->target->count)
		c->wake = INT64_MAX;
	else if (ending() && c->begun == 0)
		c->wake = INT64_MAX;
	else if (c->polite)
		begin_polite(c);
	else
		begin_hostile(c);
}

/* True while a client has something to do: in the end the polite ones alone. */
static bool turns_due(void)
{
	bool busy = false;

	memset(oldest_now, 0, sizeof oldest_now);
	for (int i = 0; i < nclients; i++) {
		struct client *c = &clients[i];
		if (now >= c->wake)
			turn(c);
		if (c->fd >= 0 || c->wake != INT64_MAX)
			busy |= c->polite || !ending();
		int64_t *first = &oldest_now[c->target->server];
		if (c->begun != 0 && (*first == 0 || c->begun < *first))
			*first = c->begun;
	}
	memcpy(oldest, oldest_now, sizeof oldest);
	return busy;
}

/* Whether more servers are slow than a fault of some would make. */
static bool are_slow(void)
{
	int servers = 0, slow = 0;

	for (int i = 0; i < SERVERS_MAX; i++)
		if (oldest[i] != 0) {
			servers++;
			slow += now - oldest[i] > SPARE_NS;
		}
	return slow > 2 && slow > servers / 8;
}

/* The pause adapts within some tens of turns either way. */
static void pace(int64_t took)
{
	if (took > lag)
		lag = took;
	think *= took > LAG_NS ? 1.1 : are_slow() ? 1.005 : 0.999;
	think = think < THINK_MIN_NS ? THINK_MIN_NS : think > THINK_MAX_NS ? THINK_MAX_NS : think;
}

static void loop(void)
{
	struct epoll_event events[512];
	int64_t last = 0, tick = nclients > 500 ? 1000000 : 50000;
	const struct timespec wait = {.tv_nsec = tick};

	for (;;) {
		now = clock_ns();
		if (now - last >= tick) {
			if (!turns_due())
				return;
			if (last != 0)
				pace(now - last);
			last = now;
		}
		int n = epoll_pwait2(epfd, events, sizeof events / sizeof events[0], &wait, NULL);
		now = clock_ns();
		for (int i = 0; i < n; i++) {
			struct client *c = events[i].data.ptr;
			if (c->fd >= 0)
				turn(c);
		}
	}
}

static bool parse_address(struct target *t, const char *text)
{
	int port;
	char host[64];

	t->datagram = strncmp(text, "udp:", 4) == 0;
	t->tls = strncmp(text, "tls:", 4) == 0;
	if (strncmp(text, "unix:", 5) == 0) {
		if (strlen(text + 5) >= sizeof t->address.un.sun_path)
			return false;
		t->address.un.sun_family = AF_UNIX;
		strcpy(t->address.un.sun_path, text + 5);
		t->length = sizeof t->address.un;
		return true;
	}
	if ((t->tls && !has_ca) || sscanf(text, "%*[a-z]://%63[0-9.]:%d", host, &port) != 2)
		return false;
	t->address.in.sin_family = AF_INET;
	t->address.in.sin_port = htons((uint16_t)port);
	t->length = sizeof t->address.in;
	return inet_pton(AF_INET, host, &t->address.in.sin_addr) == 1;
}

static bool read_targets(void)
{
	char line[512], address[256];

	while (fgets(line, sizeof line, stdin) != NULL) {
		struct target *t = &targets[ntargets];
		int hold_ms;
		if (ntargets == TARGETS_MAX ||
		    sscanf(line, "%63s %d %255s %d %d %d %ld", t->name, &t->server, address, &t->hostile, &t->polite,
		           &hold_ms, &t->count) != 7 ||
		    t->server < 0 || t->server >= SERVERS_MAX || t->hostile < 0 || t->polite < 0 ||
		    !parse_address(t, address)) {
			fprintf(stderr, "soak_clients: target: %s", line);
			return false;
		}
		t->hold_ns = hold_ms * INT64_C(1000000);
		nclients += t->hostile + t->polite;
		ntargets++;
	}
	return true;
}

static bool make_clients(void)
{
	clients = calloc((size_t)nclients + 1, sizeof *clients);
	if (clients == NULL)
		return false;
	struct client *c = clients;
	for (int i = 0; i < ntargets; i++)
		for (int k = 0; k < targets[i].hostile + targets[i].polite; k++, c++) {
			c->target = &targets[i];
			c->polite = k >= targets[i].hostile;
			c->fd = -1;
			c->wake = now + (int64_t)dice(hold || attacking ? 1 : (uint64_t)think);
		}
	return true;
}

/* Exit status. */
static int report(void)
{
	long failed = 0;

	for (int i = 0; i < ntargets; i++) {
		struct target *t = &targets[i];
		printf("%s attacks %ld resets %ld resumed %ld done %ld lost %ld late %ld wrong %ld starved %ld "
		       "slowest_ms %lld\n",
		       t->name, t->attacks, t->resets, t->resumed, t->done, t->lost, t->late, t->wrong, t->starved,
		       (long long)(t->slowest / 1000000));
		failed += t->lost + t->late + t->wrong;
	}
	printf("loop longest_turn_ms %lld think_ms %.0f\n", (long long)(lag / 1000000), think / 1e6);
	return failed != 0;
}

static void stop(int number)
{
	(void)number;
	stopped = 1;
}

int main(int argc, char **argv)
{
	const char *mode = argc > 1 ? argv[1] : "";
	struct sigaction action = {.sa_handler = stop};
	struct rlimit files;

	attacking = strcmp(mode, "attack") == 0;
	hold = strcmp(mode, "burst") == 0;
	if (!hold && !attacking && strcmp(mode, "mix") != 0) {
		fprintf(stderr, "usage: %s mix|burst|attack [SECONDS [PATIENCE_MS [SEED [CA]]]] <TARGETS\n", argv[0]);
		return 2;
	}
	now = clock_ns();
	if (argc > 2 && atof(argv[2]) > 0)
		end = now + (int64_t)(atof(argv[2]) * 1e9);
	if (argc > 3)
		patience = atoll(argv[3]) * 1000000;
	if (argc > 4)
		seed = strtoull(argv[4], NULL, 0) * 2 + 1;
	sigaction(SIGTERM, &action, NULL);
	has_ca = argc > 5;
	if (has_ca && !soak_tls_init(argv[5]))
		return 2;
	if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
		files.rlim_cur = files.rlim_max;
		setrlimit(RLIMIT_NOFILE, &files);
	}
	for (size_t i = 0; i < sizeof noise; i++)
		noise[i] = (char)dice(256);
	epfd = epoll_create1(EPOLL_CLOEXEC);
	if (epfd < 0 || !read_targets() || !make_clients()) {
		perror("soak_clients");
		return 2;
	}
	loop();
	return report();
}
