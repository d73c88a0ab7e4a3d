/* dial.c — connects to a name by Happy Eyeballs, RFC 8305: whichever of its addresses answers first.
 *
 * It is one loop without threads or callbacks: begin an attempt when its time has come, wait until one of those
 * under way is writable or the next one's time comes, look at each. Every attempt is a socket and a connection of
 * its own, in the race until it has failed or lost; the winner is returned as it is. What happened to each is kept
 * in the report, in words and in errno.
 *
 * The look-up is one question for both families, so that RFC 8305 section 3's wait for the second answer is
 * getaddrinfo(3)'s.
 *
 * Any thread or fiber; may suspend in the look-up and in hark__wait_any(). */
#include "conn/dial.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "address/endpoint.h"
#include "base/sys.h"
#include "base/why.h"
#include "conn/listen.h"
#include "conn/resolve.h"
#include "loop/fiber.h"

#define DEADLINE_NS      (30 * HARK_S)
#define ATTEMPT_DELAY_NS (250 * HARK_MS) /* RFC 8305 section 5 */
#define ADDRESSES_MAX    32              /* of a name, from which attempts are chosen */
#define DIAL_CALLS       16u             /* system calls of a dial, about */
#define RETRY_FIRST_NS   HARK_MS /* a unix server with a full backlog is tried again after this, then twice this … */
#define RETRY_MOST_NS    (50 * HARK_MS) /* … up to this */

struct race {
	const struct hark_endpoint *to;
	int n;       /* endpoints */
	int begun;   /* attempts begun: the first so many endpoints */
	int running; /* of those, not ended yet */
	const struct hark__attempt_plan *plan;
	int64_t deadline, delay_ns, retry_ns;
	int64_t next; /* when the next attempt is due */
	struct hark_dial_report *report;
	struct hark_conn *conns[HARK_ATTEMPTS_MAX]; /* NULL: ended */
	const char *steps[HARK_ATTEMPTS_MAX];       /* what failed, where it was not the connect */
};

void hark__dial_interleave(const struct hark_endpoint in[], struct hark_endpoint out[], int n)
{
	int first = n > 0 ? hark__endpoint_family(&in[0]) : 0, a = 0, b = 0;
	for (int i = 0; i < n; i++) {
		while (a < n && hark__endpoint_family(&in[a]) != first)
			a++;
		while (b < n && hark__endpoint_family(&in[b]) == first)
			b++;
		bool take_first = b == n || (a < n && i % 2 == 0);
		out[i] = take_first ? in[a++] : in[b++];
	}
}

static void note_end(struct race *r, int i, int rc)
{
	r->report->attempts[i].error = -rc;
	r->report->attempts[i].end_ns = hark_now();
}

/* Has the caller told that attempt i has begun, or how it has ended. */
static void tell(const struct race *r, int i, bool begins)
{
	const struct hark_dial_opts *o = r->plan->opts;
	if (o->attempt == NULL)
		return;
	struct hark_attempt a = r->report->attempts[i];
	if (begins)
		a.error = EINPROGRESS;
	o->attempt(&a, o->attempt_arg);
}

/* Ends attempt i without a connection. */
static void lose(struct race *r, int i, int rc)
{
	hark__conn_free(r->conns[i]);
	r->conns[i] = NULL;
	r->running--;
	note_end(r, i, rc);
	tell(r, i, false);
	r->next = 0; /* a failure makes the next attempt due at once */
}

static void lose_all(struct race *r, int rc)
{
	for (int i = 0; i < r->begun; i++)
		if (r->conns[i] != NULL)
			lose(r, i, rc);
	if (r->begun < r->report->n) { /* a unix server's that waits for room */
		note_end(r, r->begun, rc);
		tell(r, r->begun, false);
	}
}

/* Attempt i has connected. Returns 0. */
static int win(struct race *r, int i, struct hark_conn **out)
{
	*out = r->conns[i];
	r->conns[i] = NULL;
	r->running--;
	note_end(r, i, 0);
	tell(r, i, false);
	lose_all(r, -ECANCELED);
	return 0;
}

/* A unix server's backlog is full, and no event tells of room (connect(2), EAGAIN). Waits a little; the same endpoint
 * is next again. */
static int pause_for_room(struct race *r)
{
	int64_t left = r->deadline - hark_now();
	int64_t pause = r->retry_ns < left ? r->retry_ns : left;
	r->retry_ns = r->retry_ns * 2 < RETRY_MOST_NS ? r->retry_ns * 2 : RETRY_MOST_NS;
	r->begun--;
	return pause > 0 ? hark_sleep(pause) : 0;
}

/* 0: won; -EINPROGRESS: the race goes on; else it is over. */
static int begin_next(struct race *r, struct hark_conn **out)
{
	int i = r->begun++;
	struct hark_attempt *a = &r->report->attempts[i];
	if (r->report->n < r->begun) {
		r->report->n = r->begun;
		*a = (struct hark_attempt){.to = r->to[i], .error = ECANCELED, .start_ns = hark_now()};
		tell(r, i, true);
	}
	int rc = hark__attempt_begin(r->plan, &r->to[i], &r->conns[i], &r->steps[i]);
	if (rc == -EAGAIN && hark__endpoint_family(&r->to[i]) == AF_UNIX) {
		rc = pause_for_room(r);
		return rc < 0 ? rc : -EINPROGRESS;
	}
	r->next = 0;
	if (rc < 0 && rc != -EINPROGRESS) {
		note_end(r, i, rc);
		tell(r, i, false);
		return -EINPROGRESS;
	}
	r->running++;
	if (rc == 0)
		return win(r, i, out);
	r->next = a->start_ns >= HARK_FOREVER - r->delay_ns ? HARK_FOREVER : a->start_ns + r->delay_ns;
	return rc;
}

/* Waits until one of those under way may have ended, or until. */
static int wait_for_some(struct race *r, int64_t until)
{
	struct hark__source *sources[HARK_ATTEMPTS_MAX];
	int n = 0;
	for (int i = 0; i < r->begun; i++) {
		if (r->conns[i] == NULL)
			continue;
		hark__ready_clear(&r->conns[i]->src, HARK__OUT); /* nothing was there when it was looked at */
		sources[n++] = &r->conns[i]->src;
	}
	int rc = hark__wait_any(sources, n, HARK__OUT, until, "dial");
	return rc == -ETIMEDOUT ? 0 : rc; /* the clock is read anyway */
}

static int look_at_each(struct race *r, struct hark_conn **out)
{
	for (int i = 0; i < r->begun; i++) {
		if (r->conns[i] == NULL)
			continue;
		int rc = hark__attempt_check(r->conns[i]);
		if (rc == 0)
			return win(r, i, out);
		if (rc != -EINPROGRESS)
			lose(r, i, rc);
	}
	return -EINPROGRESS;
}

/* How much an error tells of the peer, the more the lower. Refused: a host is there, nothing listens. Unreachable may
 * be the other family's lack of a route, and that a family is missing here says least. */
static int rank(int error)
{
	switch (error) {
	case ECONNREFUSED: return 0;
	case ETIMEDOUT: return 1;
	default: return 2;
	case EHOSTUNREACH: return 3;
	case ENETUNREACH: return 4;
	case EADDRNOTAVAIL: return 5;
	case EAFNOSUPPORT: return 6;
	case ECANCELED: return 7;
	}
}

static int most_telling(const struct hark_dial_report *report)
{
	int best = -1;
	for (int i = 0; i < report->n; i++)
		if (best < 0 || rank(report->attempts[i].error) < rank(report->attempts[best].error))
			best = i;
	return best;
}

/* 0, -EINPROGRESS: every attempt has failed or time is up; else what ended the race from outside. */
static int run(struct race *r, struct hark_conn **out)
{
	int rc = -EINPROGRESS;
	while (rc == -EINPROGRESS) {
		int64_t now = hark_now();
		if (now >= r->deadline) {
			lose_all(r, -ETIMEDOUT);
			break;
		}
		if (r->begun < r->n && (r->running == 0 || now >= r->next)) {
			rc = begin_next(r, out);
			continue;
		}
		if (r->running == 0)
			break;
		rc = wait_for_some(r, r->begun < r->n && r->next < r->deadline ? r->next : r->deadline);
		if (rc == 0)
			rc = look_at_each(r, out);
	}
	return rc;
}

int hark__dial_endpoints(const struct hark_endpoint to[], int n, const struct hark__attempt_plan *plan,
                         int64_t deadline, struct hark_dial_report *report, int *told, const char **step,
                         struct hark_conn **out)
{
	struct race r = {
		.to = to,
		.n = n < HARK_ATTEMPTS_MAX ? n : HARK_ATTEMPTS_MAX,
		.plan = plan,
		.deadline = deadline,
		.delay_ns = plan->opts->attempt_delay_ns > 0 ? plan->opts->attempt_delay_ns : ATTEMPT_DELAY_NS,
		.retry_ns = RETRY_FIRST_NS,
		.report = report,
	};
	*told = -1;
	*step = NULL;
	int rc = run(&r, out);
	if (rc == 0)
		return 0;
	if (rc != -EINPROGRESS) {
		lose_all(&r, rc);
		return rc;
	}
	*told = most_telling(report);
	if (*told < 0)
		return -ETIMEDOUT; /* not even one was begun in time */
	*step = r.steps[*told];
	return -report->attempts[*told].error;
}

/* fd:N and fd:NAME: the descriptor itself becomes the connection's, as one that a server hands its program. */
static int dial_fd(const char *address, const struct hark_address *a, struct hark_why *why, struct hark_conn **out)
{
	int fd = a->fd >= 0 ? a->fd : hark__listen_fds_named(a->path);
	int rc = fd >= 0 ? hark_conn_from_fd(fd, out) : -EBADF;
	if (rc < 0)
		hark__why(why, "dial %s: %s%s", address, hark_strerror(rc),
		          fd < 0 ? " (LISTEN_FDNAMES has no such name)" : "");
	return rc;
}

static void explain(struct hark_why *why, const char *address, bool numeric, int rc,
                    const struct hark_dial_report *report, int told, const char *step)
{
	char host[HARK__HOST_TEXT] = "", others[48] = "";
	if (told >= 0 && !numeric)
		hark__endpoint_host(&report->attempts[told].to, host);
	if (report->n > 1)
		(void)snprintf(others, sizeof others, "; tried %d addresses", report->n);
	bool needs_root = rc == -EACCES && step != NULL && strcmp(step, "reserved local port") == 0;
	hark__why(why, "dial %s%s%s%s: %s%s%s%s%s", address, host[0] != '\0' ? " (" : "", host,
	          host[0] != '\0' ? ")" : "", step != NULL ? step : "", step != NULL ? ": " : "", hark_strerror(rc),
	          needs_root ? " (it needs root or CAP_NET_BIND_SERVICE)" : "", others);
}

/* Too much for a fiber's stack: 11 KB. */
struct room {
	struct hark_endpoint found[ADDRESSES_MAX], to[ADDRESSES_MAX];
	struct hark_dial_report report; /* where the caller wants none */
};

/* The handshake over a connection that was dialed; without one it is ended at once, an alert sent. */
static int begin_tls(const char *address, const struct hark_address *a, const struct hark_dial_opts *o,
                     int64_t deadline, struct hark_conn *c)
{
	struct hark_why why;
	const char *name = o->tls_name != NULL ? o->tls_name : strcmp(a->host, "*") == 0 ? "localhost" : a->host;
	struct hark_starttls_opts opts = {.name = name, .deadline = deadline, .why = &why};
	int rc = hark_starttls(c, o->tls, &opts);
	if (rc == 0)
		return 0;
	hark__why(o->why, "dial %s: %s", address, why.text);
	(void)hark__conn_transport(c)->shutdown(c, HARK_OUT);
	hark__conn_free(c);
	return rc;
}

/* Look-up and race. */
static int dial_address(const char *address, const struct hark_address *a, const struct hark_dial_opts *o,
                        int64_t deadline, struct room *room, struct hark_conn **out)
{
	struct hark_dial_report *report = o->report != NULL ? o->report : &room->report;
	struct hark__attempt_plan plan;
	struct hark_conn *c;
	const char *step;
	int told, rc = hark__attempt_plan(&plan, a, o, deadline, o->why);
	if (rc < 0)
		return rc;
	int64_t began = hark_now();
	report->n = 0;
	int n = hark__resolve(a, HARK__TO_DIAL, room->found, ADDRESSES_MAX, deadline);
	report->resolved_ns = hark_now() - began;
	if (n < 0) {
		hark__why(o->why, "%s: %s%s%s", address, n == -ETIMEDOUT ? "name look-up: " : "", hark_strerror(n),
		          n == -EINVAL ? " (no interface here has the scope's name)" : "");
		return n;
	}
	hark__dial_interleave(room->found, room->to, n);
	rc = hark__dial_endpoints(room->to, n, &plan, deadline, report, &told, &step, &c);
	if (rc < 0)
		explain(o->why, address, hark__address_numeric(a), rc, report, told, step);
	else if (a->scheme == HARK_TLS)
		rc = begin_tls(address, a, o, deadline, c);
	if (rc == 0)
		*out = c;
	return rc;
}

int hark_dial(const char *address, const struct hark_dial_opts *opts, struct hark_conn **out)
{
	static const struct hark_dial_opts defaults;
	const struct hark_dial_opts *o = opts != NULL ? opts : &defaults;
	struct hark_address a;
	if (o->report != NULL) {
		o->report->n = 0;
		o->report->resolved_ns = 0;
	}
	int rc = hark_address_parse(address, &a, o->why);
	if (rc < 0)
		return rc;
	if (a.scheme == HARK_FD)
		return dial_fd(address, &a, o->why, out);
	struct room *room = hark__sys.malloc(sizeof *room);
	if (room == NULL) {
		hark__why(o->why, "dial %s: %s", address, hark_strerror(-ENOMEM));
		return -ENOMEM;
	}
	rc = dial_address(address, &a, o, o->deadline != 0 ? o->deadline : hark_after(DEADLINE_NS), room, out);
	free(room);
	hark__spend(DIAL_CALLS);
	(void)hark__fair(); /* loopback never waits */
	return rc;
}
