/* inetd_service.c — what one service of inetd.conf says, as a section of hark.conf. Any thread, one at a time.
 *
 * "tcp" means IPv4 and IPv6 to Debian's inetd, IPv4 to the others, where a second line says "tcp6". Here it means both
 * unless a second line of the same service takes one of them: that serves each file as its own inetd does, but that a
 * BSD's service with one line "tcp" is reached by IPv6 as well.
 *
 * What inetd does and harkd does not, or otherwise, is told by a remark beside the service. What cannot be served at
 * all (RPC, raw sockets) is told at the top: the other services of a file are served. */
#include "inetd.h"

#include <netdb.h>
#include <netinet/in.h>
#include <pwd.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "nearest.h"

static const struct inetd_protocol protocols[] = {
	{"tcp", SOCK_STREAM, "tcp", "tcp"},   {"tcp4", SOCK_STREAM, "tcp4", "tcp"},
	{"tcp6", SOCK_STREAM, "tcp6", "tcp"}, {"tcp46", SOCK_STREAM, "tcp", "tcp"},
	{"tcp64", SOCK_STREAM, "tcp", "tcp"}, {"tcp6only", SOCK_STREAM, "tcp6", "tcp"},
	{"udp", SOCK_DGRAM, "udp", "udp"},    {"udp4", SOCK_DGRAM, "udp4", "udp"},
	{"udp6", SOCK_DGRAM, "udp6", "udp"},  {"udp46", SOCK_DGRAM, "udp", "udp"},
	{"udp64", SOCK_DGRAM, "udp", "udp"},  {"udp6only", SOCK_DGRAM, "udp6", "udp"},
	{"unix", SOCK_STREAM, "unix", NULL},  {"unix", SOCK_DGRAM, "unixgram", NULL},
};

#define PROTOCOLS (sizeof protocols / sizeof *protocols)

const char *inetd_last_part(const char *path)
{
	const char *slash = strrchr(path, '/');
	return slash != NULL ? slash + 1 : path;
}

bool inetd_wrong(struct inetd *r, const struct inetd_entry *e, const char *format, ...)
{
	va_list args;
	char *words;

	va_start(args, format);
	int n = vasprintf(&words, format, args);
	va_end(args);
	if (n < 0) {
		r->no_memory = true;
		return false;
	}
	document_error(r->document, e->place, "%s: %s", e->service, words);
	free(words);
	return false;
}

bool inetd_refuse(struct inetd *r, const struct inetd_entry *e, const char *why)
{
	document_refuse(r->document, e->place, e->service, why);
	return false;
}

static bool is_refused(struct inetd *r, const struct inetd_entry *e)
{
	static const char *const types[] = {"raw", "rdm", "seqpacket", NULL};

	if (e->protocol != NULL && strncmp(e->protocol, "rpc/", 4) == 0)
		return !inetd_refuse(
			r, e,
			"Sun RPC is not served: nobody would register it with rpcbind(8); run its program on its own");
	if (e->protocol != NULL && (strncmp(e->protocol, "faith/", 6) == 0 || strstr(e->protocol, "/faith") != NULL))
		return !inetd_refuse(r, e, "faith, the translation of IPv6 to IPv4, is not served");
	for (int i = 0; e->type != NULL && types[i] != NULL; i++)
		if (strcmp(e->type, types[i]) == 0)
			return !inetd_refuse(r, e, "sockets of the types raw, rdm and seqpacket are not served");
	return false;
}

/* A count of at most nine digits that ends at one of the ends, or with the text. -1: there is none. */
static long take_count(const char **p, const char *ends)
{
	size_t digits = strspn(*p, "0123456789");

	if (digits == 0 || digits > 9 || strchr(ends, (*p)[digits]) == NULL) /* the NUL is an end as well */
		return -1;
	long n = strtol(*p, NULL, 10);
	*p += digits;
	return n;
}

static bool take_number(struct inetd *r, const struct inetd_entry *e, const char *key, const char *text, long *n)
{
	const char *p = text;

	if (text == NULL)
		return true;
	*n = take_count(&p, "");
	return *n >= 0 || inetd_wrong(r, e, "%s is a number, not \"%s\"", key, text);
}

/* "stream", "stream,10", "stream:httpready", and from the key-value form nothing where the protocol tells it. */
static bool judge_type(struct inetd *r, struct inetd_service *s)
{
	const char *type = s->e->type, *protocol = s->e->protocol != NULL ? s->e->protocol : "";
	size_t n = type != NULL ? strcspn(type, ",:") : 0;

	if (type == NULL && (strncmp(protocol, "tcp", 3) == 0 || strncmp(protocol, "udp", 3) == 0))
		s->type = protocol[0] == 't' ? SOCK_STREAM : SOCK_DGRAM;
	else if (type == NULL)
		return inetd_wrong(r, s->e, "its socket type is missing (stream or dgram)");
	else if (n == 6 && strncmp(type, "stream", n) == 0)
		s->type = SOCK_STREAM;
	else if (n == 5 && strncmp(type, "dgram", n) == 0)
		s->type = SOCK_DGRAM;
	else
		return inetd_wrong(r, s->e, "\"%s\" is no socket type (stream or dgram)", type);
	if (n == 0 || type[n] != ',')
		return true;
	const char *count = type + n + 1;
	long most = take_count(&count, ":");
	if (most < 0)
		return inetd_wrong(r, s->e, "\"%s\": a number belongs behind the ','", type);
	s->max_conns = most;
	return true;
}

static bool judge_protocol(struct inetd *r, struct inetd_service *s)
{
	const char *text = s->e->protocol;
	char name[32], hint[64];

	if (text == NULL)
		return inetd_wrong(r, s->e, "its protocol is missing (tcp, udp, unix)");
	(void)snprintf(name, sizeof name, "%.*s", (int)strcspn(text, ",/"), text);
	struct nearest near = {.word = name};
	bool known = false;
	for (size_t i = 0; i < PROTOCOLS; i++) {
		nearest_offer(&near, protocols[i].name);
		if (strcmp(protocols[i].name, name) != 0)
			continue;
		known = true;
		if (protocols[i].type == s->type) {
			s->protocol = &protocols[i];
			s->scheme = protocols[i].scheme;
			return true;
		}
	}
	if (known)
		return inetd_wrong(r, s->e, "%s is not what %s serves", s->type == SOCK_STREAM ? "stream" : "dgram",
		                   name);
	return inetd_wrong(r, s->e, "\"%s\" is no protocol that is served%s", text,
	                   nearest_hint(&near, "", hint, sizeof hint));
}

/* "nowait", "nowait.40", "nowait:40", "nowait/10/60/5", and "wait" likewise. */
static bool judge_wait(struct inetd *r, struct inetd_service *s)
{
	const char *text = s->e->wait, *p;
	long *const counts[] = {&s->max_conns, &s->rate_per_source, &s->max_per_source};
	size_t n = 0;

	if (text == NULL)
		return s->box != NULL || inetd_wrong(r, s->e, "wait = yes or wait = no is missing");
	s->wait = strncmp(text, "wait", 4) == 0;
	if (!s->wait && strncmp(text, "nowait", 6) != 0)
		return inetd_wrong(r, s->e, "\"%s\" is neither wait nor nowait", text);
	for (p = text + (s->wait ? 4 : 6); *p != '\0';) {
		char sign = *p++;
		long *to = sign == '.' || sign == ':' ? &s->rate : sign == '/' && n < 3 ? counts[n++] : NULL;
		long count = to != NULL ? take_count(&p, ".:/") : -1;
		if (count < 0)
			return inetd_wrong(r, s->e,
			                   "\"%s\" is none of wait, nowait, nowait.MAX, "
			                   "nowait/MAX/PER-SOURCE-AND-MINUTE/PER-SOURCE",
			                   text);
		*to = count;
	}
	return true;
}

static bool judge_counts(struct inetd *r, struct inetd_service *s)
{
	return take_number(r, s->e, "service_max", s->e->service_max, &s->rate) &&
	       take_number(r, s->e, "ip_max", s->e->ip_max, &s->rate_per_source) &&
	       take_number(r, s->e, "accept_max", s->e->accept_max, &s->max_conns);
}

/* Where the user's name ends in "user.group": names may have dots, so the longest that is a user's counts; if there is
 * none, the first dot. */
static size_t user_length(struct inetd *r, const char *text)
{
	size_t len = strlen(text);

	for (size_t n = len; n > 0; n--) {
		if (n < len && text[n] != '.')
			continue;
		const char *name = inetd_keep(r, text, n);
		if (name != NULL && getpwnam(name) != NULL)
			return n;
	}
	return strcspn(text, ".");
}

static bool is_name(const char *name)
{
	return *name != '\0' && strpbrk(name, " \t\r\n\v\f\"'\\;#,:/") == NULL;
}

/* "user", "user:group", "user.group", each with "/login-class". */
static bool judge_user(struct inetd *r, struct inetd_service *s)
{
	const char *text = s->e->user;

	if (text == NULL)
		return s->box != NULL || inetd_wrong(r, s->e, "its user is missing");
	const char *slash = strchr(text, '/');
	size_t len = slash != NULL ? (size_t)(slash - text) : strlen(text);
	char *name = inetd_keep(r, text, len);
	if (slash != NULL)
		s->class = inetd_keep(r, slash + 1, strlen(slash + 1));
	if (name == NULL || r->no_memory)
		return false;
	char *colon = strchr(name, ':');
	size_t n = colon != NULL ? (size_t)(colon - name) : strchr(name, '.') != NULL ? user_length(r, name) : len;
	if (n < len) {
		s->group = name + n + 1;
		name[n] = '\0';
	}
	s->user = name;
	if (s->e->group != NULL)
		s->group = inetd_keep(r, s->e->group, strlen(s->e->group));
	if (!is_name(s->user))
		return inetd_wrong(r, s->e, "\"%s\" is no user", text);
	if (s->group != NULL && !is_name(s->group))
		return inetd_wrong(r, s->e, "\"%s\" is no group", s->group);
	return true;
}

/* The first name that services(5) has for the service, which is what inetd goes by; else what was said. */
static const char *official_name(const struct inetd_service *s)
{
	const char *name = s->name, *look_up = s->protocol->look_up;
	struct servent *known = NULL;

	if (look_up != NULL && strspn(name, "0123456789") == strlen(name))
		known = getservbyport(htons((uint16_t)strtoul(name, NULL, 10)), look_up);
	else if (look_up != NULL)
		known = getservbyname(name, look_up);
	return known != NULL ? known->s_name : name;
}

static bool judge_internal(struct inetd *r, struct inetd_service *s)
{
	static const char *const names[] = {"echo", "discard", "chargen", "daytime", "time", "tcpmux"};
	static const char *const refused[] = {"auth", "ident"};

	if (s->e->program != NULL && strcmp(s->e->program, "internal") != 0)
		return true;
	const char *said = s->name, *official = official_name(s);
	for (size_t i = 0; i < sizeof names / sizeof *names; i++)
		if (strcmp(names[i], said) == 0 || strcmp(names[i], official) == 0)
			s->box = names[i];
	/* "7007 stream tcp nowait root internal echo": more than other inetds take, for ports that services(5) does not
	 * know. */
	for (size_t i = 0; i < sizeof names / sizeof *names && s->box == NULL && s->e->argv.n == 1; i++)
		if (strcmp(names[i], s->e->argv.word[0]) == 0)
			s->box = names[i];
	if (s->box != NULL)
		return true;
	for (size_t i = 0; i < sizeof refused / sizeof *refused; i++)
		if (strcmp(refused[i], said) == 0 || strcmp(refused[i], official) == 0)
			return inetd_refuse(
				r, s->e, "auth (RFC 1413) is none of hark's boxes; an identd can be run in its place");
	if (s->e->program == NULL)
		return inetd_wrong(r, s->e, "exec is missing, and no internal service has its name");
	return inetd_wrong(r, s->e, "no internal service has its name (echo, discard, chargen, daytime, time, tcpmux)");
}

/* A port's number, or a service that services(5) knows. */
static bool judge_port(struct inetd *r, const struct inetd_service *s)
{
	const char *name = s->e->service;
	char best[64], hint[96];

	if (strspn(name, "0123456789") == strlen(name)) {
		const char *p = name;
		long port = take_count(&p, "");
		return (port > 0 && port < 65536) || inetd_wrong(r, s->e, "a port is from 1 to 65535");
	}
	if (getservbyname(name, s->protocol->look_up) != NULL)
		return true;
	struct nearest near = {.word = name};
	setservent(1);
	for (struct servent *known; (known = getservent()) != NULL;) {
		if (strcmp(known->s_proto, s->protocol->look_up) != 0)
			continue;
		nearest_offer(&near, known->s_name);
		if (near.best == known->s_name) { /* which is the next one's in a moment */
			(void)snprintf(best, sizeof best, "%s", known->s_name);
			near.best = best;
		}
	}
	endservent();
	return inetd_wrong(r, s->e, "/etc/services has no such service for %s%s", s->protocol->look_up,
	                   nearest_hint(&near, "", hint, sizeof hint));
}

/* One address of the list, checked and added to l. */
static bool add_address(struct inetd *r, struct inetd_service *s, const char *host, size_t n, struct inetd_line *l)
{
	struct hark_address a;
	struct hark_why why = {""};
	char *url;
	int len;

	if (n >= 2 && host[0] == '[' && host[n - 1] == ']') {
		host++;
		n -= 2;
	}
	bool six = memchr(host, ':', n) != NULL;
	if (s->protocol->look_up == NULL)
		len = asprintf(&url, "%s:%s", s->scheme, s->e->service);
	else
		len = asprintf(&url, "%s://%s%.*s%s:%s", s->scheme, six ? "[" : "", (int)n, host, six ? "]" : "",
		               s->e->service);
	if (len < 0) {
		r->no_memory = true;
		return false;
	}
	bool good = hark_address_parse(url, &a, &why) == 0 || inetd_wrong(r, s->e, "%s", why.text);
	inetd_append_quoted(r, l, url);
	free(url);
	return good;
}

/* The addresses as a value of listen =. NULL: it was told why not, or there is no memory. */
static char *list_addresses(struct inetd *r, struct inetd_service *s)
{
	const char *host = s->e->host;
	struct inetd_line l = {0};

	for (;;) {
		size_t n = strcspn(host, ",");
		if (!add_address(r, s, host, n, &l)) {
			free(l.text);
			return NULL;
		}
		if (host[n] == '\0' || s->protocol->look_up == NULL)
			return inetd_finish(r, &l);
		host += n + 1;
	}
}

struct owner {
	char user[64], group[64], mode[8];
};

/* "user:group:mode" of FreeBSD's unix sockets. */
static bool read_owner(const char *text, struct owner *o)
{
	int end = 0;

	return sscanf(text, "%63[^:]:%63[^:]:%7[0-7]%n", o->user, o->group, o->mode, &end) == 3 && text[end] == '\0' &&
	       is_name(o->user) && is_name(o->group);
}

/* Everything that one service says of itself. False: it gets no section; it was told why. */
static bool judge(struct inetd *r, struct inetd_service *s)
{
	const char *mux = inetd_tcpmux_name(s->e);
	struct owner o;

	s->name = mux != NULL ? mux + (mux[0] == '+') : inetd_last_part(s->e->service);
	s->rate = s->max_conns = s->rate_per_source = s->max_per_source = -1;
	if (is_refused(r, s->e) || !judge_type(r, s) || !judge_protocol(r, s) || !judge_internal(r, s) ||
	    !judge_wait(r, s) || !judge_counts(r, s) || !judge_user(r, s))
		return false;
	if (mux != NULL)
		return inetd_tcpmux_judge(r, s);
	if (s->e->owner != NULL && !read_owner(s->e->owner, &o))
		return inetd_wrong(r, s->e, "\":%s:\" is not :USER:GROUP:MODE:", s->e->owner);
	if (s->protocol->look_up != NULL)
		return judge_port(r, s);
	if (s->e->service[0] == '/' || s->e->service[0] == '@')
		return true;
	return inetd_wrong(r, s->e, "a path belongs here, with a '/' at its beginning");
}

/* "tcp" beside a line with "tcp6" for the same is IPv4, and the other way round. */
static const char *scheme_beside(const struct inetd_service *all, size_t n, const struct inetd_service *s)
{
	const char *name = s->protocol->name;

	if (strcmp(name, "tcp") != 0 && strcmp(name, "udp") != 0)
		return s->scheme;
	for (size_t i = 0; i < n; i++) {
		const struct inetd_service *o = &all[i];
		if (o == s || o->done || o->e->off || o->type != s->type || o->protocol->look_up == NULL)
			continue;
		char family = o->scheme[3];
		if (family == '\0' || o->protocol->name[3] == '\0' || strcmp(o->e->service, s->e->service) != 0 ||
		    strcmp(o->e->host, s->e->host) != 0)
			continue;
		return family == '6' ? (name[0] == 't' ? "tcp4" : "udp4") : (name[0] == 't' ? "tcp6" : "udp6");
	}
	return s->scheme;
}

static bool same_text(const char *a, const char *b)
{
	return a == b || (a != NULL && b != NULL && strcmp(a, b) == 0);
}

static bool same_words(const struct inetd_words *a, const struct inetd_words *b)
{
	for (size_t i = 0; i < a->n && a->n == b->n; i++)
		if (strcmp(a->word[i], b->word[i]) != 0)
			return false;
	return a->n == b->n;
}

static const char *behind_comma(const char *protocol)
{
	return protocol + strcspn(protocol, ",/");
}

static bool is_limited(const struct inetd_service *s)
{
	return s->rate > 0 || s->max_conns > 0 || s->rate_per_source > 0 || s->max_per_source > 0 ||
	       s->e->service_max != NULL || s->e->ip_max != NULL;
}

/* Whether the two differ in nothing but the address. Limits are a line's own, so that whoever has one stays alone. */
static bool can_share(const struct inetd_service *a, const struct inetd_service *b)
{
	const struct inetd_entry *x = a->e, *y = b->e;

	if (is_limited(a) || is_limited(b) || a->rate != b->rate || x->off != y->off ||
	    !same_text(x->service, y->service) || !same_text(a->user, b->user) || !same_text(a->group, b->group) ||
	    !same_text(a->class, b->class) || !same_text(x->owner, y->owner) || !same_text(x->ipsec, y->ipsec) ||
	    !same_text(x->filter, y->filter) || !same_text(x->sndbuf, y->sndbuf) ||
	    !same_text(x->recvbuf, y->recvbuf) || !same_text(behind_comma(x->protocol), behind_comma(y->protocol)) ||
	    !same_words(&x->argv, &y->argv))
		return false;
	if (a->box != NULL)
		return same_text(a->box, b->box);
	return b->box == NULL && a->type == b->type && a->wait == b->wait && same_text(x->type, y->type) &&
	       same_text(x->program, y->program);
}

/* The addresses of s and of all later ones that can share its section. NULL: no memory. */
static char *gather(struct inetd *r, struct inetd_service *all, size_t n, struct inetd_service *s)
{
	struct inetd_line l = {0};

	inetd_append(r, &l, s->listen);
	for (struct inetd_service *o = s + 1; o < all + n; o++) {
		if (o->done || !can_share(s, o))
			continue;
		inetd_append(r, &l, o->listen);
		o->done = true;
	}
	return inetd_finish(r, &l);
}

/* The later of two lines for one address counts, as in every inetd. */
static bool is_replaced(struct inetd *r, const struct inetd_service *all, size_t n, const struct inetd_service *s)
{
	for (const struct inetd_service *o = s + 1; o < all + n && !s->e->off; o++) {
		if (o->done || o->e->off || strcmp(o->listen, s->listen) != 0)
			continue;
		document_drop(r->document, NULL, s->e->place, "service %s: %s:%d says it again, and the later counts",
		              s->e->service, o->e->place.file, o->e->place.line);
		return true;
	}
	return false;
}

static bool has_section(const struct document *d, const char *name)
{
	for (size_t i = 0; i < d->n; i++)
		if (strcmp(d->sections[i]->name, name) == 0)
			return true;
	return false;
}

/* The service's name; beside another of that name, with the protocol's behind it. */
static struct document_section *open_section(struct inetd *r, const struct inetd_service *s)
{
	const char *said = inetd_last_part(s->e->service);
	char name[HARK_PATH_MAX + 32];

	said += said[0] == '@'; /* of an abstract socket */
	if (strspn(said, "0123456789") == strlen(said))
		(void)snprintf(name, sizeof name, "port-%s", said);
	else
		(void)snprintf(name, sizeof name, "%s", said);
	if (has_section(r->document, name)) {
		size_t len = strlen(name);
		(void)snprintf(name + len, sizeof name - len, "-%.*s", (int)strcspn(s->e->protocol, ",/"),
		               s->e->protocol);
	}
	return document_section(r->document, name, s->e->place);
}

/* "PROGRAM ARGUMENT…" behind what comes before it. NULL: no memory. */
static char *command_line(struct inetd *r, const struct inetd_service *s, const char *argv0)
{
	struct inetd_line l = {0};

	if (argv0 != NULL) {
		inetd_append(r, &l, "exec --argv0");
		inetd_append_quoted(r, &l, argv0);
	}
	inetd_append_quoted(r, &l, s->e->program);
	for (size_t i = 1; i < s->e->argv.n; i++)
		inetd_append_quoted(r, &l, s->e->argv.word[i]);
	return inetd_finish(r, &l);
}

static void put_program(struct inetd *r, struct document_section *to, const struct inetd_service *s)
{
	const struct inetd_entry *e = s->e;
	const char *argv0 = e->argv.n > 0 ? e->argv.word[0] : NULL;
	bool plain = argv0 == NULL || strcmp(argv0, inetd_last_part(e->program)) == 0 || strcmp(argv0, e->program) == 0;

	char *line = command_line(r, s, plain ? NULL : argv0);
	if (line == NULL)
		return;
	document_set(r->document, to, e->place, plain ? "exec" : "box", "%s", line);
	free(line);
	document_set(r->document, to, e->place, "stderr", "connection");
	if (strcmp(inetd_last_part(e->program), "tcpd") == 0)
		document_remark(r->document, to, e->place,
		                "hosts.allow and hosts.deny still count: tcpd(8) looks at them and then runs %s",
		                argv0 != NULL ? argv0 : "nothing");
	if (e->program[0] != '/')
		document_remark(r->document, to, e->place, "%s is %s; inetd looks in /", e->program,
		                strchr(e->program, '/') != NULL ? "meant from the directory of its file"
		                                                : "looked for in $PATH");
	for (size_t i = 1; i < e->argv.n; i++)
		if (e->argv.word[i][0] == '#')
			document_remark(
				r->document, to, e->place,
				"\"%s\" and what follows are arguments of the program, as in inetd, and no comment",
				e->argv.word[i]);
	if (!s->wait && s->type == SOCK_DGRAM)
		document_remark(r->document, to, e->place,
		                "dgram nowait: each peer gets a program of its own, connected to it, with the first "
		                "datagram still to be read");
}

static void put_box(struct inetd *r, struct document_section *to, const struct inetd_service *s, bool datagrams)
{
	const struct inetd_words *argv = &s->e->argv;

	document_set(r->document, to, s->e->place, "box", "%s", s->box);
	for (size_t i = 0; i < argv->n; i++)
		if (strcmp(argv->word[i], "internal") != 0 &&
		    strcmp(argv->word[i], inetd_last_part(s->e->service)) != 0 && strcmp(argv->word[i], s->box) != 0)
			document_drop(r->document, to, s->e->place, "argument %s of an internal service",
			              argv->word[i]);
	if (strcmp(s->box, "daytime") == 0)
		document_remark(r->document, to, s->e->place,
		                "inetd tells local time as ctime(3) has it; hark tells UTC as ISO 8601 has it");
	if (datagrams && strcmp(s->box, "chargen") == 0)
		document_remark(
			r->document, to, s->e->place,
			"a datagram is answered by no more bytes than it has; box = %s --longer answers as inetd does",
			s->box);
}

/* Once for all: what inetd does to whoever says nothing. */
static void tell_default_rate(struct inetd *r)
{
	static const char words[] =
		"inetd stops a service for ten minutes that is started more than 256 times in a minute (NetBSD's, "
		"GNU's: 40) where its "
		"line says nothing else. This is not carried over; rate = 256/m makes callers wait instead.";
	const struct document_section *head = &r->document->head;

	for (size_t i = 0; i < head->n; i++)
		if (strcmp(head->lines[i].value, words) == 0)
			return;
	document_remark(r->document, NULL, (struct config_place){0}, "%s", words);
}

/* service_max = 0 and ip_max = 0 of NetBSD's key-value form admit nobody; 0 in a column is no limit. */
const char *inetd_admits_nobody(const struct inetd_service *s)
{
	return s->e->service_max != NULL && s->rate == 0         ? "service_max = 0"
	       : s->e->ip_max != NULL && s->rate_per_source == 0 ? "ip_max = 0"
	                                                         : NULL;
}

/* Over one limit a connection waits or is shed; the service goes on. */
static void put_limits(struct inetd *r, struct document_section *to, const struct inetd_service *s)
{
	struct config_place place = s->e->place;

	if (s->wait && s->max_conns > 1)
		document_drop(r->document, to, place, "%ld programs at once for a service with wait: there is one",
		              s->max_conns);
	else if (!s->wait && s->max_conns > 0)
		document_set(r->document, to, place, "max_conns", "%ld", s->max_conns);
	if (s->rate > 0)
		document_set(r->document, to, place, "rate", "%ld/m", s->rate);
	if (s->wait && (s->rate_per_source > 0 || s->max_per_source > 0)) {
		document_drop(r->document, to, place,
		              "limits of each source for a service with wait: its program alone knows its peers");
		return;
	}
	if (s->max_per_source > 0)
		document_set(r->document, to, place, "max_per_source", "%ld", s->max_per_source);
	if (s->rate_per_source > 0)
		document_set(r->document, to, place, "rate_per_source", "%ld/m", s->rate_per_source);
}

static void put_owner(struct inetd *r, struct document_section *to, const struct inetd_service *s)
{
	struct owner o;

	if (s->e->owner == NULL || !read_owner(s->e->owner, &o))
		return;
	document_set(r->document, to, s->e->place, "socket_user", "%s", o.user);
	document_set(r->document, to, s->e->place, "socket_group", "%s", o.group);
	document_set(r->document, to, s->e->place, "socket_mode", "%s", o.mode);
}

/* What hark has no setting for. */
static void put_dropped(struct inetd *r, struct document_section *to, const struct inetd_service *s)
{
	const struct inetd_entry *e = s->e;
	const char *suffix = behind_comma(e->protocol), *filter = e->filter;

	if (filter == NULL && e->type != NULL && (filter = strchr(e->type, ':')) != NULL)
		filter++;
	if (*suffix != '\0')
		document_drop(r->document, to, e->place, "protocol option %s", suffix + 1);
	if (e->sndbuf != NULL)
		document_drop(r->document, to, e->place, "sndbuf = %s", e->sndbuf);
	if (e->recvbuf != NULL)
		document_drop(r->document, to, e->place, "recvbuf = %s", e->recvbuf);
	if (filter != NULL)
		document_drop(r->document, to, e->place, "accept filter %s", filter);
	if (e->ipsec != NULL)
		document_drop(
			r->document, to, e->place,
			"IPsec policy \"%s\": without it anybody could connect, so it is disabled; see ip-xfrm(8)",
			e->ipsec);
	if (s->class != NULL)
		document_drop(r->document, to, e->place, "login class %s", s->class);
}

static void put_tcpmux(struct inetd *r, const struct inetd_service *all, size_t n, struct document_section *to,
                       const struct inetd_service *s)
{
	char *box = inetd_tcpmux_box(r, all, n);

	if (box == NULL)
		return;
	document_set(r->document, to, s->e->place, "box", "%s", box);
	free(box);
	for (const struct inetd_service *o = all; o < all + n; o++) {
		if (!o->behind)
			continue;
		if (is_limited(o))
			document_drop(r->document, to, o->e->place,
			              "limits of %s: those of tcpmux hold for all behind it", o->e->service);
		put_dropped(r, to, o);
	}
}

static void put_service(struct inetd *r, struct inetd_service *all, size_t n, struct inetd_service *s)
{
	bool datagrams = s->type == SOCK_DGRAM;

	for (struct inetd_service *o = s + 1; o < all + n && s->box != NULL; o++)
		datagrams = datagrams || (!o->done && o->type == SOCK_DGRAM && can_share(s, o));
	char *listen = gather(r, all, n, s);
	if (listen == NULL)
		return;
	struct document_section *to = open_section(r, s);
	document_set(r->document, to, s->e->place, "listen", "%s", listen);
	free(listen);
	if (s->box != NULL && strcmp(s->box, "tcpmux") == 0)
		put_tcpmux(r, all, n, to, s);
	else if (s->box != NULL)
		put_box(r, to, s, datagrams);
	else
		put_program(r, to, s);
	if (s->wait)
		document_set(r->document, to, s->e->place, "wait", "yes");
	if (s->user != NULL)
		document_set(r->document, to, s->e->place, "user", "%s", s->user);
	if (s->group != NULL)
		document_set(r->document, to, s->e->place, "group", "%s", s->group);
	put_limits(r, to, s);
	put_owner(r, to, s);
	if (!s->e->off && inetd_admits_nobody(s) != NULL)
		document_drop(r->document, to, s->e->place, "%s: nobody is admitted, so it is disabled",
		              inetd_admits_nobody(s));
	if (s->e->off)
		document_set(r->document, to, s->e->place, "disable", "yes");
	else if (inetd_admits_nobody(s) != NULL || s->e->ipsec != NULL)
		document_disable(r->document, to, s->e->place);
	put_dropped(r, to, s);
	if (s->rate < 0)
		tell_default_rate(r);
}

void inetd_translate(struct inetd *r)
{
	struct inetd_service *all = calloc(r->n + 1, sizeof *all);

	if (all == NULL) {
		r->no_memory = true;
		return;
	}
	for (size_t i = 0; i < r->n; i++) {
		all[i].e = &r->entries[i];
		bool good = judge(r, &all[i]);
		all[i].behind = good && inetd_tcpmux_name(all[i].e) != NULL;
		all[i].done = !good || all[i].behind;
		/* Boxes take each datagram and connection by themselves, whatever their line says. */
		if (all[i].box != NULL)
			all[i].wait = false;
	}
	inetd_tcpmux_sort(r, all, r->n);
	for (size_t i = 0; i < r->n && !r->no_memory; i++)
		if (!all[i].done)
			all[i].scheme = scheme_beside(all, r->n, &all[i]);
	for (size_t i = 0; i < r->n && !r->no_memory; i++)
		if (!all[i].done)
			all[i].done = (all[i].listen = list_addresses(r, &all[i])) == NULL;
	for (size_t i = 0; i < r->n && !r->no_memory; i++)
		if (!all[i].done)
			all[i].done = is_replaced(r, all, r->n, &all[i]);
	for (size_t i = 0; i < r->n && !r->no_memory; i++)
		if (!all[i].done)
			put_service(r, all, r->n, &all[i]);
	for (size_t i = 0; i < r->n; i++)
		free(all[i].listen);
	free(all);
}
