/* cmd_ping.c — hark ping: round trips through a host's echo service (RFC 862), with loss and percentiles.
 *
 * Two fibers: one sends and waits for the echo, trip after trip; one waits for Ctrl-C on a signalfd and cancels the
 * first, so that the summary is printed by ordinary returns. */
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/random.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "hark.h"
#include "histogram.h"
#include "json.h"
#include "options.h"
#include "target.h"
#include "tls.h"
#include "tool.h"

#define ECHO_PORT "7" /* RFC 862 */
#define TRIP_MIN  8   /* bytes: the mark below */
#define TRIP_MAX \
	65507 /* bytes: the largest UDP datagram over IPv4; it also fits a stream's socket buffers on the way */

struct ping_args {
	bool udp, quiet, json;
	int count;
	int64_t interval, timeout;
	size_t size;
	const char *port;
	struct tls_args tls;
};

#define AT(member) offsetof(struct ping_args, member)

static const struct option_row options[] = {
	{"udp", 'u', OPTION_FLAG, NULL, "by datagrams; the same as udp://HOST", AT(udp)},
	{"count", 'c', OPTION_COUNT, "N", "round trips (until Ctrl-C)", AT(count), 1, 1 << 30},
	{"interval", 'i', OPTION_DURATION, "T", "from one trip's start to the next; 0: at once (1s)", AT(interval), 0},
	{"size", 's', OPTION_SIZE, "SIZE", "bytes in a trip, 8 to 65507 (64)", AT(size), TRIP_MIN, TRIP_MAX},
	{"timeout", 0, OPTION_DURATION, "T", "after which a trip is lost (2s)", AT(timeout), 1},
	{"port", 'p', OPTION_TEXT, "PORT", "port or service, where HOST names none (" ECHO_PORT ")", AT(port)},
	{"quiet", 'q', OPTION_FLAG, NULL, "the summary alone", AT(quiet)},
	{"json", 0, OPTION_FLAG, NULL, "print JSON lines", AT(json)},
	TLS_ROWS(struct ping_args, tls),
	{0},
};

/* At the front of what is sent: echoes of another run, or of an earlier trip, are told apart. */
struct mark {
	uint32_t run;
	uint32_t trip;
};

struct ping {
	const struct verb *verb;
	struct ping_args args;
	char address[HARK_ADDRESS_MAX];
	struct hark_tls *tls; /* NULL: the defaults */
	struct hark_scope scope;
	struct hark_conn *conn; /* NULL: to be dialed */
	struct mark mark;
	int signals; /* signalfd */
	uint64_t sent, late;
	struct histogram trips;
	char out[TRIP_MAX], in[TRIP_MAX];
};

static int dial(struct ping *p, struct hark_why *why)
{
	const struct hark_dial_opts opts = {
		.deadline = hark_after(p->args.timeout),
		.tls = p->tls,
		.tls_name = p->args.tls.server_name,
		.why = why,
	};

	return hark_dial(p->address, &opts, &p->conn);
}

/* A stream keeps order, so the echo is exactly what was sent; anything else is not an echo service. */
static int echo_stream(struct ping *p)
{
	ssize_t n = hark_readn(p->conn, p->in, p->args.size);

	if (n == 0)
		return -ECONNRESET;
	if (n < 0)
		return (int)n;
	return memcmp(p->in, p->out, p->args.size) == 0 ? 0 : -EBADMSG;
}

/* Datagrams may be lost, late, doubled, or somebody else's: the one with this trip's mark counts. */
static int echo_datagram(struct ping *p)
{
	for (;;) {
		struct mark mark;
		ssize_t n = hark_read(p->conn, p->in, sizeof p->in);
		if (n < 0)
			return (int)n;
		if ((size_t)n == p->args.size && memcmp(p->in, p->out, p->args.size) == 0)
			return 0;
		if ((size_t)n < sizeof mark)
			continue;
		memcpy(&mark, p->in, sizeof mark);
		if (mark.run == p->mark.run && mark.trip < p->mark.trip)
			p->late++;
	}
}

/* One trip, connecting anew where the last one broke the connection. Returns 0 with how long it took, or -errno. */
static int trip(struct ping *p, int64_t *took)
{
	int err;

	if (p->conn == NULL && (err = dial(p, NULL)) < 0)
		return err;
	memcpy(p->out, &p->mark, sizeof p->mark);
	hark_deadline(p->conn, hark_after(p->args.timeout));
	int64_t start = hark_now();
	ssize_t n = hark_write(p->conn, p->out, p->args.size);
	if (n >= 0)
		n = hark_type(p->conn) == SOCK_STREAM ? echo_stream(p) : echo_datagram(p);
	if (n == 0) {
		*took = hark_now() - start;
		return 0;
	}
	/* A stream that lost its step is of no more use; a socket for datagrams is, and late echoes are to be seen. */
	if (hark_type(p->conn) == SOCK_STREAM) {
		hark_abort(p->conn);
		p->conn = NULL;
	}
	return (int)n;
}

static const char *lost_words(int err)
{
	return err == -ETIMEDOUT ? "no echo in time"
	       : err == -ENODATA ? "the connection ended before the whole echo had come"
	       : err == -EBADMSG ? "what came is not what was sent"
	                         : hark_strerror(err);
}

static void print_trip(const struct ping *p, int err, int64_t took)
{
	if (p->args.quiet)
		return;
	if (p->args.json) {
		struct text text = {.grows = true};
		struct json j = {.to = &text};
		json_open(&j, NULL, '{');
		json_put_int(&j, "trip", p->mark.trip);
		if (err == 0)
			json_put_real(&j, "seconds", (double)took / 1e9, 9);
		else
			json_put_string(&j, "error", lost_words(err));
		json_close(&j, '}');
		(void)json_print(&j, stdout);
	} else if (err == 0) {
		printf("%zu bytes from %s: trip %u, %.3f ms\n", p->args.size, p->address, p->mark.trip,
		       (double)took / 1e6);
	} else {
		printf("%s: trip %u: %s\n", p->address, p->mark.trip, lost_words(err));
	}
}

static void run_trips(struct ping *p)
{
	int64_t next = hark_now(), took = 0;

	for (int i = 0; p->args.count == 0 || i < p->args.count; i++) {
		p->mark.trip++;
		int err = trip(p, &took);
		if (err == -ECANCELED)
			return; /* cut short by Ctrl-C: neither answered nor lost */
		p->sent++;
		if (err == 0)
			histogram_add(&p->trips, took);
		print_trip(p, err, took);
		next += p->args.interval;
		if (next < hark_now())
			next = hark_now();
		if (i + 1 != p->args.count && hark_sleep(next - hark_now()) < 0)
			return;
	}
}

static void ping_fiber(void *arg)
{
	struct ping *p = arg;
	struct hark_why why = {""};
	int err = dial(p, &why);

	if (err == 0)
		run_trips(p);
	else if (err != -ECANCELED && why.text[0] != '\0')
		say(p->verb, "%s", why.text);
	else if (err != -ECANCELED)
		say(p->verb, "dial %s: %s", p->address, hark_strerror(err));
	hark_cancel(&p->scope); /* nobody needs to wait for Ctrl-C any more */
}

static void signal_fiber(void *arg)
{
	struct ping *p = arg;

	if (hark_wait_fd(p->signals, HARK_IN, HARK_FOREVER) > 0)
		hark_cancel(&p->scope);
}

static void print_summary_json(const struct ping *p)
{
	static const struct {
		const char *key;
		double percent;
	} percentiles[] = {{"p50_s", 50}, {"p90_s", 90}, {"p99_s", 99}};
	const struct histogram *h = &p->trips;
	struct text text = {.grows = true};
	struct json j = {.to = &text};

	json_open(&j, NULL, '{');
	json_put_string(&j, "address", p->address);
	json_put_int(&j, "sent", (int64_t)p->sent);
	json_put_int(&j, "answered", (int64_t)h->n);
	json_put_int(&j, "late", (int64_t)p->late);
	if (h->n > 0) {
		json_put_real(&j, "min_s", (double)h->min / 1e9, 9);
		json_put_real(&j, "mean_s", h->sum / (double)h->n / 1e9, 9);
		for (size_t i = 0; i < sizeof percentiles / sizeof percentiles[0]; i++)
			json_put_real(&j, percentiles[i].key,
			              (double)histogram_percentile(h, percentiles[i].percent) / 1e9, 9);
		json_put_real(&j, "max_s", (double)h->max / 1e9, 9);
	}
	json_close(&j, '}');
	(void)json_print(&j, stdout);
}

static void print_summary(const struct ping *p)
{
	const struct histogram *h = &p->trips;

	if (p->args.json) {
		print_summary_json(p);
		return;
	}
	printf("%s%s: %llu sent, %llu answered, %.1f%% lost", p->args.quiet ? "" : "\n", p->address,
	       (unsigned long long)p->sent, (unsigned long long)h->n,
	       p->sent > 0 ? 100.0 * (double)(p->sent - h->n) / (double)p->sent : 0.0);
	if (p->late > 0)
		printf(", %llu late", (unsigned long long)p->late);
	putchar('\n');
	if (h->n > 0)
		printf("round trip: min %.3f, p50 %.3f, p90 %.3f, p99 %.3f, max %.3f ms\n", (double)h->min / 1e6,
		       (double)histogram_percentile(h, 50) / 1e6, (double)histogram_percentile(h, 90) / 1e6,
		       (double)histogram_percentile(h, 99) / 1e6, (double)h->max / 1e6);
}

/* Blocks the signals before any thread exists, so that they arrive at the descriptor alone. */
static int open_signals(void)
{
	sigset_t set;

	(void)sigemptyset(&set);
	(void)sigaddset(&set, SIGINT);
	(void)sigaddset(&set, SIGTERM);
	if (sigprocmask(SIG_BLOCK, &set, NULL) < 0)
		return -errno;
	int fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	return fd < 0 ? -errno : fd;
}

static int measure(struct ping *p)
{
	int err;

	for (size_t i = 0; i < p->args.size; i++)
		p->out[i] = (char)('!' + i % 94); /* printable, as the first pingers had it */
	if (getrandom(&p->mark.run, sizeof p->mark.run, 0) < 0)
		p->mark.run = (uint32_t)hark_now();
	p->signals = open_signals();
	if (p->signals < 0) {
		say(p->verb, "signals: %s", strerror(-p->signals));
		return STATUS_SYSTEM;
	}
	hark_scope_open(&p->scope);
	if ((err = hark_go(&p->scope, "signals", signal_fiber, p)) == 0)
		err = hark_go(&p->scope, "ping", ping_fiber, p);
	if (err == 0)
		(void)hark_join(&p->scope, HARK_FOREVER);
	hark_abort(p->conn); /* before the scope's end, which closes the loop that it is on */
	hark_scope_close(&p->scope);
	(void)close(p->signals);
	if (err < 0) {
		say(p->verb, "%s", hark_strerror(err));
		return STATUS_SYSTEM;
	}
	if (p->sent > 0)
		print_summary(p);
	return p->trips.n > 0 ? STATUS_DONE : STATUS_FAILED;
}

static int run(const struct verb *self, int argc, char *argv[])
{
	static struct ping p; /* large */
	struct hark_why why = {""};
	int status;

	p.verb = self;
	p.args = (struct ping_args){.interval = HARK_S, .timeout = 2 * HARK_S, .size = 64};
	int n = options_parse(self, argc, argv, &p.args, &status);
	if (n < 0)
		return status;
	if (n != 1)
		return options_usage(self, n == 0 ? "no host to ping" : "one host at a time");
	if (target_address(argv[0], p.args.udp ? "udp" : "tcp", p.args.port != NULL ? p.args.port : ECHO_PORT,
	                   p.address, &why) < 0) {
		say(self, "%s", why.text);
		return STATUS_USAGE;
	}
	bool tls = strncmp(p.address, "tls://", 6) == 0;
	if ((status = tls_settings(self, &p.args.tls, tls, false, &p.tls)) != 0)
		return status;
	(void)setvbuf(stdout, NULL, _IOLBF, 0); /* each trip is seen when it ends */
	status = measure(&p);
	hark_tls_free(p.tls);
	return status;
}

const struct verb verb_ping = {
	.name = "ping",
	.summary = "Measures round trips through a host's echo service (RFC 862)",
	.usage = "HOST",
	.notes = "HOST is a host, host:port or a full address. Ctrl-C prints the summary. Exit code 0 if anything was "
		 "answered.\n",
	.options = options,
	.run = run,
};
