/* resolve.c — names to endpoints.
 *
 * getaddrinfo(3) is the only look-up that sees what the rest of the machine sees (nsswitch.conf(5), /etc/hosts,
 * gai.conf(5)) and it blocks, so it runs on a helper thread wherever somebody must not wait for ever: on a loop,
 * or under a deadline. The question and its answer then live in one allocation of their own, which belongs to the
 * asker until hark__offload_until() is called, to the helper during it, and to whoever is left afterwards: an
 * asker who gave up never sees it again. What needs no name server, a numeric address with a numeric port, "*", a
 * unix path, is answered here without any of that.
 *
 * A name server that is silent holds a helper for as long as the resolver is patient, many times longer than an asker.
 * What this machine knows itself, the names of /etc/hosts where nsswitch.conf has them first, services, "localhost"
 * (RFC 6761: loopback, in the families that /etc/hosts has for it), is therefore asked by helpers of its own.
 *
 * AI_ADDRCONFIG is not used: it does not count loopback, so that "localhost" would depend on what else is
 * configured; an address of a family that has no route costs the dialer one failed connect(2) and no packet.
 *
 * Any thread or fiber. */
#include "conn/resolve.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>

#include "address/endpoint.h"
#include "base/sys.h"
#include "conn/hosts.h"
#include "loop/fiber.h"

struct question {
	char host[HARK_HOST_MAX + 1]; /* empty: only the service is asked for */
	char port[HARK_PORT_MAX + 1];
	struct addrinfo hints;
	struct addrinfo *answer;
	bool answered; /* or to be asked of a server */
	int eai;
	int err; /* errno where eai is EAI_SYSTEM */
};

/* EMFILE, ENFILE or 0. getaddrinfo(3) does not tell: what it cannot open is to it as if it were not there. */
static int out_of_descriptors(void)
{
	int fd = hark__sys.open("/", O_PATH | O_CLOEXEC);
	if (fd < 0)
		return errno == EMFILE || errno == ENFILE ? errno : 0;
	(void)hark__sys.close(fd);
	return 0;
}

static void ask(void *arg)
{
	struct question *q = arg;
	q->eai = getaddrinfo(q->host[0] != '\0' ? q->host : NULL, q->port, &q->hints, &q->answer);
	q->err = q->eai == EAI_SYSTEM ? errno : 0;
	int short_of = q->eai != 0 ? out_of_descriptors() : 0;
	if (short_of != 0) {
		q->eai = EAI_SYSTEM;
		q->err = short_of;
	}
}

/* Asks, if no server is needed for it. */
static void ask_local(void *arg)
{
	struct question *q = arg;
	int families = q->host[0] != '\0' ? hark__hosts_families(q->host) : 0;
	if (families < 0) {
		q->answered = true;
		q->eai = EAI_SYSTEM;
		q->err = -families;
		return;
	}
	families &= q->hints.ai_family == AF_INET    ? HARK__HOSTS_IPV4
	            : q->hints.ai_family == AF_INET6 ? HARK__HOSTS_IPV6
	                                             : HARK__HOSTS_IPV4 | HARK__HOSTS_IPV6;
	if (hark__hosts_is_localhost(q->host)) {
		q->host[0] = '\0'; /* then it is loopback: getaddrinfo(3) */
		if (families == HARK__HOSTS_IPV4)
			q->hints.ai_family = AF_INET;
		else if (families == HARK__HOSTS_IPV6)
			q->hints.ai_family = AF_INET6;
	} else if (q->host[0] != '\0' && (families == 0 || !hark__hosts_come_first())) {
		return;
	}
	q->answered = true;
	ask(q);
}

static void drop(void *arg)
{
	struct question *q = arg;
	if (q->eai == 0 && q->answer != NULL)
		freeaddrinfo(q->answer);
	free(q);
}

/* gai_strerror(3)'s numbers in errno's terms. */
static int from_eai(const struct question *q)
{
	switch (q->eai) {
	case 0: return 0;
	case EAI_NONAME:
	case EAI_NODATA:
	case EAI_ADDRFAMILY:
	case EAI_IDN_ENCODE: return -HARK_ENOHOST;
	case EAI_SERVICE: return -HARK_ENOSERVICE;
	case EAI_MEMORY: return -ENOMEM;
	case EAI_SYSTEM: return q->err > 0 ? -q->err : -HARK_EDNS;
	case EAI_AGAIN:
	case EAI_FAIL: return -HARK_EDNS;
	default: return -EINVAL;
	}
}

static int family_of(enum hark_scheme scheme)
{
	switch (scheme) {
	case HARK_TCP4:
	case HARK_UDP4: return AF_INET;
	case HARK_TCP6:
	case HARK_UDP6: return AF_INET6;
	default: return AF_UNSPEC;
	}
}

int hark__address_type(const struct hark_address *a)
{
	switch (a->scheme) {
	case HARK_UDP:
	case HARK_UDP4:
	case HARK_UDP6:
	case HARK_UNIXGRAM: return SOCK_DGRAM;
	default: return SOCK_STREAM;
	}
}

bool hark__address_numeric(const struct hark_address *a)
{
	struct in_addr four;
	return strchr(a->host, ':') != NULL || inet_pton(AF_INET, a->host, &four) == 1;
}

static bool port_is_number(const struct hark_address *a)
{
	return strspn(a->port, "0123456789") == strlen(a->port);
}

/* Appends e unless it is there already (/etc/hosts may say things twice) or of a family that was not asked for. */
static int add(struct hark_endpoint out[], int count, int n, int family, const struct hark_endpoint *e)
{
	if (count >= n || (family != AF_UNSPEC && hark__endpoint_family(e) != family))
		return count;
	for (int i = 0; i < count; i++)
		if (hark__endpoint_same(&out[i], e))
			return count;
	out[count] = *e;
	return count + 1;
}

/* "*" and numeric hosts. Returns how many. */
static int without_asking(const struct hark_address *a, enum hark__purpose purpose, unsigned port,
                          struct hark_endpoint out[], int n)
{
	int type = hark__address_type(a), family = family_of(a->scheme);
	struct hark_endpoint e;
	struct in_addr four;
	if (strcmp(a->host, "*") == 0) {
		four.s_addr = htonl(purpose == HARK__TO_DIAL ? INADDR_LOOPBACK : INADDR_ANY);
		hark__endpoint_ip(&e, type, AF_INET6, purpose == HARK__TO_DIAL ? &in6addr_loopback : &in6addr_any, 0,
		                  port);
		int count = add(out, 0, n, family, &e);
		hark__endpoint_ip(&e, type, AF_INET, &four, 0, port);
		return add(out, count, n, family, &e);
	}
	if (inet_pton(AF_INET, a->host, &four) == 1) {
		hark__endpoint_ip(&out[0], type, AF_INET, &four, 0, port);
		return 1;
	}
	char plain[INET6_ADDRSTRLEN] = "";
	const char *scope = strchr(a->host, '%');
	struct in6_addr six;
	size_t len = scope != NULL ? (size_t)(scope - a->host) : strlen(a->host);
	unsigned index = 0;
	if (len >= sizeof plain)
		return -EINVAL;
	memcpy(plain, a->host, len);
	if (inet_pton(AF_INET6, plain, &six) != 1)
		return -EINVAL;
	if (scope != NULL) {
		index = if_nametoindex(scope + 1);
		if (index == 0 && strspn(scope + 1, "0123456789") == strlen(scope + 1)) {
			unsigned long number = strtoul(scope + 1, NULL, 10);
			index = number <= INT32_MAX ? (unsigned)number : 0; /* the kernel's are ints */
		}
		if (index == 0)
			return -EINVAL; /* no such interface */
	}
	hark__endpoint_ip(&out[0], type, AF_INET6, &six, index, port);
	return 1;
}

/* Calls fn(q), on a helper where somebody must not wait for it. On failure q is gone. */
static int helped(struct question *q, enum hark__helpers kind, void (*fn)(void *), int64_t deadline)
{
	if (deadline != HARK_FOREVER || hark__loop_self() != NULL)
		return hark__offload_until(kind, fn, drop, q, deadline);
	fn(q);
	return 0;
}

/* Asks q, and waits for the answer no longer than the deadline. On failure q is gone. */
static int wait_for_answer(struct question *q, int64_t deadline)
{
	if (deadline <= hark_now()) {
		drop(q);
		return -ETIMEDOUT;
	}
	int rc = helped(q, HARK__HELPERS_LOCAL, ask_local, deadline);
	if (rc == 0 && !q->answered)
		rc = helped(q, HARK__HELPERS_REMOTE, ask, deadline);
	if (rc < 0)
		return rc; /* q is the helper's now */
	rc = from_eai(q);
	if (rc < 0)
		drop(q);
	return rc;
}

static int question_new(const struct hark_address *a, bool service_only, struct question **out)
{
	struct question *q = hark__sys.calloc(1, sizeof *q);
	if (q == NULL)
		return -ENOMEM;
	if (!service_only)
		memcpy(q->host, a->host, sizeof q->host);
	memcpy(q->port, a->port, sizeof q->port);
	q->hints.ai_family = family_of(a->scheme);
	q->hints.ai_socktype = hark__address_type(a);
	if (port_is_number(a))
		q->hints.ai_flags |= AI_NUMERICSERV;
	for (const char *p = q->host; *p != '\0'; p++)
		if ((unsigned char)*p >= 0x80)
			q->hints.ai_flags |= AI_IDN;
	*out = q;
	return 0;
}

/* How many of n places a family may take: of a name with more addresses than that, the family that comes first leaves
 * up to half of them to the other, or the one that works here might not be among them. */
static int share(const struct addrinfo *answer, int family, int n)
{
	int others = 0;
	for (const struct addrinfo *i = answer; i != NULL; i = i->ai_next)
		others += i->ai_family != family;
	return n - (others < n / 2 ? others : n / 2);
}

static int from_answer(const struct hark_address *a, const struct addrinfo *answer, struct hark_endpoint out[], int n)
{
	int count = 0, sixes = 0, most_sixes = share(answer, AF_INET6, n), most_fours = share(answer, AF_INET, n);
	for (const struct addrinfo *i = answer; i != NULL && count < n; i = i->ai_next) {
		struct hark_endpoint e;
		bool six = i->ai_family == AF_INET6;
		if ((six ? sixes >= most_sixes : count - sixes >= most_fours) ||
		    hark_endpoint_from(hark__address_type(a), i->ai_addr, i->ai_addrlen, &e) < 0)
			continue;
		int before = count;
		count = add(out, count, n, family_of(a->scheme), &e);
		sixes += six && count > before;
	}
	return count;
}

static int by_asking(const struct hark_address *a, enum hark__purpose purpose, struct hark_endpoint out[], int n,
                     int64_t deadline)
{
	bool service_only = strcmp(a->host, "*") == 0 || hark__address_numeric(a);
	struct hark_endpoint port_only;
	struct question *q;
	int rc = question_new(a, service_only, &q);
	if (rc < 0)
		return rc;
	rc = wait_for_answer(q, deadline);
	if (rc < 0)
		return rc;
	if (service_only) {
		rc = from_answer(a, q->answer, &port_only, 1);
		drop(q);
		return rc > 0 ? without_asking(a, purpose, hark__endpoint_port(&port_only), out, n) : -HARK_ENOSERVICE;
	}
	int count = from_answer(a, q->answer, out, n);
	drop(q);
	return count > 0 ? count : -HARK_ENOHOST;
}

int hark__resolve(const struct hark_address *a, enum hark__purpose purpose, struct hark_endpoint out[], int n,
                  int64_t deadline)
{
	if (n < 1 || a->scheme == HARK_FD)
		return -EINVAL;
	if (hark__fiber_cancelled())
		return -ECANCELED;
	if (a->scheme == HARK_UNIX || a->scheme == HARK_UNIXGRAM) {
		hark__endpoint_unix(&out[0], hark__address_type(a), a->path);
		return 1;
	}
	if (port_is_number(a) && (strcmp(a->host, "*") == 0 || hark__address_numeric(a)))
		return without_asking(a, purpose, (unsigned)strtoul(a->port, NULL, 10), out, n);
	return by_asking(a, purpose, out, n, deadline);
}

int hark_resolve(const char *address, struct hark_endpoint out[], int n, int64_t deadline)
{
	struct hark_address a;
	int rc = hark_address_parse(address, &a, NULL);
	if (rc < 0)
		return rc;
	rc = hark__resolve(&a, HARK__TO_DIAL, out, n, deadline);
	(void)hark__fair();
	return rc;
}
