/* collide.c — two services, or one twice, on what the kernel takes for the same address: told here with both places,
 * and not by the second one's EADDRINUSE. And relays that lead to each other, or to themselves: a connection to one of
 * them would go round until descriptors run out.
 *
 * What overlaps: the same protocol and port, and hosts of which one is every address or both are the same, in a
 * family that both have. "*" is both families, unless v6only; so is [::]. Names are compared as names, and nothing is
 * looked up but the ports', until config_check_system(). A path is one whatever the kind of socket; an abstract name is
 * one for each kind. Port 0 is another one each time. Main thread. */
#include "inside.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define NAME_ADDRESSES_MAX 16
#define LOOK_UP_NS         (2 * HARK_S)

enum { FAMILY_4 = 1, FAMILY_6 = 2 };

/* An address as it is compared. */
struct spot {
	const struct service *s;
	const char *text; /* in s */
	struct at at;
	int protocol; /* 't', 'u'; 'p' a path, 'a' and 'A' an abstract stream and datagram name; 'f' a descriptor */
	int port;     /* -1: a name that is unknown */
	unsigned families;
	bool any;   /* every address of the families */
	char *name; /* host, path or descriptor's */
};

static bool is_datagram(enum hark_scheme scheme)
{
	return scheme == HARK_UDP || scheme == HARK_UDP4 || scheme == HARK_UDP6 || scheme == HARK_UNIXGRAM;
}

/* quiet: of a target, whose port is the box's to complain of. */
static void find_port(struct whole *w, struct spot *p, const struct hark_address *a, bool quiet)
{
	char *end;
	long number = strtol(a->port, &end, 10);

	if (*end == '\0') {
		p->port = (int)number;
		return;
	}
	const char *protocol = p->protocol == 'u' ? "udp" : "tcp";
	const struct servent *found = getservbyname(a->port, protocol);
	p->port = found != NULL ? ntohs((uint16_t)found->s_port) : -1;
	if (found == NULL && !quiet)
		inside_message(w, p->s->s.disabled ? MESSAGE_WARNING : MESSAGE_ERROR, p->at,
		               "listen: %.200s: no such %s service: %s", p->text, protocol, a->port);
}

static void find_host(struct spot *p, const struct hark_address *a)
{
	bool only4 = a->scheme == HARK_TCP4 || a->scheme == HARK_UDP4,
	     only6 = a->scheme == HARK_TCP6 || a->scheme == HARK_UDP6;
	struct in_addr four;

	p->families = only4 ? FAMILY_4 : only6 ? FAMILY_6 : FAMILY_4 | FAMILY_6;
	p->any = strcmp(a->host, "*") == 0 || strcmp(a->host, "::") == 0 || strcmp(a->host, "0.0.0.0") == 0;
	if (inet_pton(AF_INET, a->host, &four) == 1)
		p->families = FAMILY_4;
	else if (strchr(a->host, ':') != NULL && !p->any)
		p->families = FAMILY_6;
	else if (p->any && p->s->s.v6only && p->families != FAMILY_4)
		p->families = FAMILY_6;
}

static bool make_spot(struct whole *w, struct spot *p, bool quiet)
{
	struct hark_address a;

	if (hark_address_parse(p->text, &a, NULL) < 0)
		return false;
	const char *name = a.host;
	if (a.scheme == HARK_FD) {
		p->protocol = 'f';
		name = p->text;
	} else if (a.scheme == HARK_UNIX || a.scheme == HARK_UNIXGRAM) {
		p->protocol = a.path[0] != '@' ? 'p' : is_datagram(a.scheme) ? 'A' : 'a';
		name = a.path;
	} else {
		p->protocol = is_datagram(a.scheme) ? 'u' : 't';
		find_port(w, p, &a, quiet);
		find_host(p, &a);
	}
	p->name = inside_copy(w, name, strlen(name));
	return p->name != NULL;
}

static bool overlap(const struct spot *a, const struct spot *b)
{
	if (a->protocol != b->protocol)
		return false;
	if (a->protocol != 't' && a->protocol != 'u')
		return strcmp(a->name, b->name) == 0;
	if (a->port != b->port || a->port <= 0 || !(a->families & b->families))
		return false;
	return a->any || b->any || strcasecmp(a->name, b->name) == 0;
}

static void tell_conflict(struct whole *w, const struct spot *a, const struct spot *b)
{
	if (a->s == b->s)
		inside_error(w, b->at, "listen: %.200s: the service itself listens on %.200s", b->text, a->text);
	else
		inside_error(w, b->at, "listen: %.200s: [%s] (%s:%d) listens on %.200s", b->text, a->s->s.name,
		             a->at.file, a->at.line, a->text);
}

static void compare(struct whole *w, const struct spot *spots, size_t n,
                    bool (*same)(const struct spot *, const struct spot *))
{
	for (size_t i = 1; i < n; i++)
		for (size_t k = 0; k < i; k++)
			if (same(&spots[k], &spots[i])) {
				tell_conflict(w, &spots[k], &spots[i]);
				break;
			}
}

/* ---- names that have the same address --------------------------------------------------------- */

static bool is_name(const struct spot *p)
{
	struct in_addr four;
	return !p->any && strchr(p->name, ':') == NULL && inet_pton(AF_INET, p->name, &four) != 1;
}

static bool same_address(const struct hark_endpoint *a, const struct hark_endpoint *b)
{
	const struct sockaddr_in *a4 = (const void *)&a->addr, *b4 = (const void *)&b->addr;
	const struct sockaddr_in6 *a6 = (const void *)&a->addr, *b6 = (const void *)&b->addr;

	if (a->addr.ss_family != b->addr.ss_family)
		return false;
	return a->addr.ss_family == AF_INET ? a4->sin_addr.s_addr == b4->sin_addr.s_addr
	                                    : memcmp(&a6->sin6_addr, &b6->sin6_addr, sizeof a6->sin6_addr) == 0;
}

/* Looked up where names have the same port alone; what cannot be is left to hark_listen(). */
static bool overlap_looked_up(const struct spot *a, const struct spot *b)
{
	struct hark_endpoint x[NAME_ADDRESSES_MAX], y[NAME_ADDRESSES_MAX];

	if (a->protocol != b->protocol || (a->protocol != 't' && a->protocol != 'u') || a->port != b->port ||
	    a->port <= 0 || overlap(a, b) || a->any || b->any || (!is_name(a) && !is_name(b)))
		return false;
	int n = hark_resolve(a->text, x, NAME_ADDRESSES_MAX, hark_after(LOOK_UP_NS));
	int m = n > 0 ? hark_resolve(b->text, y, NAME_ADDRESSES_MAX, hark_after(LOOK_UP_NS)) : 0;
	for (int i = 0; i < n; i++)
		for (int k = 0; k < m; k++)
			if (same_address(&x[i], &y[k]))
				return true;
	return false;
}

/* ---- loops of relays ------------------------------------------------------------------------- */

static bool is_loopback(const char *host)
{
	return strncmp(host, "127.", 4) == 0 || strcmp(host, "::1") == 0 || strcasecmp(host, "localhost") == 0;
}

/* Does who dials `to` surely get `at`? A host that is neither written the same nor loopback may be another machine. */
static bool leads_to(const struct spot *to, const struct spot *at)
{
	if (to->protocol != at->protocol)
		return false;
	if (to->protocol != 't' && to->protocol != 'u')
		return to->protocol != 'f' && strcmp(to->name, at->name) == 0;
	if (to->port != at->port || to->port <= 0 || !(to->families & at->families))
		return false;
	if (at->any)
		return to->any || is_loopback(to->name);
	return strcasecmp(to->name, at->name) == 0 || (is_loopback(to->name) && is_loopback(at->name));
}

/* Relays as a graph: to each service the others that one of its targets is. */
struct graph {
	struct whole *w;
	const struct spot *spots;
	size_t n_spots;
	size_t *queue; /* of services, by their place, which the search has reached */
	size_t *from;  /* by a service's place: where the search came from, + 1; 0: it has not been there */
};

/* The place of the service that a target of s is; SIZE_MAX: none of these. */
static size_t leads_where(const struct graph *g, const struct service *s, const char *target)
{
	struct spot to = {.s = s, .text = box_operand_address(target)};
	const struct service *found = NULL;
	size_t i = 0;

	if (!make_spot(g->w, &to, true))
		return SIZE_MAX;
	for (size_t k = 0; k < g->n_spots && found == NULL; k++)
		if (leads_to(&to, &g->spots[k]))
			found = g->spots[k].s;
	free(to.name);
	while (found != NULL && g->w->c.services[i] != &found->s)
		i++;
	return found != NULL ? i : SIZE_MAX;
}

static void tell_loop(const struct graph *g, size_t first, size_t last)
{
	const struct service *s = (const struct service *)g->w->c.services[first];
	struct at head = {.file = s->s.place.file, .line = s->s.place.line, .order = s->order};
	char way[400] = "", step[80];

	for (size_t at = last; at != first; at = g->from[at] - 1) { /* from behind */
		(void)snprintf(step, sizeof step, "[%s] -> ", g->w->c.services[at]->name);
		size_t n = strlen(step), len = strlen(way);
		if (len + n >= sizeof way)
			break;
		memmove(way + n, way, len + 1);
		memcpy(way, step, n);
	}
	inside_error(g->w, head, "relays that lead back to themselves: [%s] -> %s[%s]", s->s.name, way, s->s.name);
}

/* Told at the first service of a loop, by its shortest way round. */
static void find_loop(struct graph *g, size_t first)
{
	size_t reached = 0;

	memset(g->from, 0, g->w->c.n_services * sizeof *g->from);
	g->queue[reached++] = first;
	for (size_t k = 0; k < reached; k++) {
		size_t at = g->queue[k];
		const struct service *s = (const struct service *)g->w->c.services[at];
		for (size_t i = 0; i < s->n_targets && !s->program_bad; i++) {
			size_t to = leads_where(g, s, s->targets[i]);
			if (to == first)
				return tell_loop(g, first, at);
			if (to == SIZE_MAX || to < first || g->from[to] != 0)
				continue;
			g->from[to] = at + 1;
			g->queue[reached++] = to;
		}
	}
}

static void find_loops(struct whole *w, const struct spot *spots, size_t n)
{
	size_t services = w->c.n_services;
	struct graph g = {.w = w,
	                  .spots = spots,
	                  .n_spots = n,
	                  .queue = calloc(services + 1, sizeof *g.queue),
	                  .from = calloc(services + 1, sizeof *g.from)};

	if (g.queue == NULL || g.from == NULL)
		w->no_memory = true;
	for (size_t i = 0; i < services && !w->no_memory; i++)
		if (!w->c.services[i]->disabled)
			find_loop(&g, i);
	free(g.queue);
	free(g.from);
}

/* Every address of all services, n of them; quiet: what is wrong with them was said. NULL: no memory. */
static struct spot *gather(struct whole *w, size_t *n, bool quiet)
{
	struct spot *spots = calloc(ADDRESSES_MAX, sizeof *spots);

	*n = 0;
	if (spots == NULL)
		w->no_memory = true;
	for (size_t i = 0; spots != NULL && i < w->c.n_services; i++) {
		const struct service *s = (const struct service *)w->c.services[i];
		for (size_t k = 0; k < s->s.listen.n && !s->s.disabled; k++) {
			if (*n == ADDRESSES_MAX) {
				if (!quiet)
					inside_error(w, s->listen_at[k], "listen: more than %d addresses in all",
					             ADDRESSES_MAX);
				return spots;
			}
			spots[*n] = (struct spot){.s = s, .at = s->listen_at[k], .text = s->s.listen.word[k]};
			*n += make_spot(w, &spots[*n], quiet);
		}
	}
	return spots;
}

static void free_spots(struct spot *spots, size_t n)
{
	for (size_t i = 0; i < n; i++)
		free(spots[i].name);
	free(spots);
}

void inside_collide(struct whole *w)
{
	size_t n;
	struct spot *spots = gather(w, &n, false);

	if (!w->no_memory)
		compare(w, spots, n, overlap);
	if (!w->no_memory)
		find_loops(w, spots, n);
	free_spots(spots, n);
}

void inside_collide_names(struct whole *w)
{
	size_t n;
	struct spot *spots = gather(w, &n, true);

	if (!w->no_memory)
		compare(w, spots, n, overlap_looked_up);
	free_spots(spots, n);
}
