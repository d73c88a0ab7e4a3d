/* collide.c — two services, or one twice, on what the kernel takes for the same address: told here with both places,
 * and not by the second one's EADDRINUSE.
 *
 * What overlaps: the same protocol and port, and hosts of which one is every address or both are the same, in a
 * family that both have. "*" is both families, unless v6only; so is [::]. Names are compared as names: nothing is
 * looked up but the ports'. A path is one whatever the kind of socket; an abstract name is one for each kind. Port 0
 * is another one each time. Main thread. */
#include "inside.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

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

static void find_port(struct whole *w, struct spot *p, const struct hark_address *a)
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
	if (found == NULL)
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

static bool make_spot(struct whole *w, struct spot *p)
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
		find_port(w, p, &a);
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

static void compare(struct whole *w, const struct spot *spots, size_t n)
{
	for (size_t i = 1; i < n; i++) {
		const struct spot *b = &spots[i];
		for (size_t k = 0; k < i; k++) {
			const struct spot *a = &spots[k];
			if (!overlap(a, b))
				continue;
			if (a->s == b->s)
				inside_error(w, b->at, "listen: %.200s: the service itself listens on %.200s", b->text,
				             a->text);
			else
				inside_error(w, b->at, "listen: %.200s: [%s] (%s:%d) listens on %.200s", b->text,
				             a->s->s.name, a->at.file, a->at.line, a->text);
			break;
		}
	}
}

void inside_collide(struct whole *w)
{
	struct spot *spots = calloc(ADDRESSES_MAX, sizeof *spots);
	size_t n = 0;

	if (spots == NULL) {
		w->no_memory = true;
		return;
	}
	for (size_t i = 0; i < w->c.n_services; i++) {
		const struct service *s = (const struct service *)w->c.services[i];
		for (size_t k = 0; k < s->s.listen.n && !s->s.disabled; k++) {
			if (n == ADDRESSES_MAX) {
				inside_error(w, s->listen_at[k], "listen: more than %d addresses in all",
				             ADDRESSES_MAX);
				goto full;
			}
			spots[n].s = s;
			spots[n].at = s->listen_at[k];
			spots[n].text = s->s.listen.word[k];
			n += make_spot(w, &spots[n]);
		}
	}
full:
	if (!w->no_memory)
		compare(w, spots, n);
	for (size_t i = 0; i < n; i++)
		free(spots[i].name);
	free(spots);
}
