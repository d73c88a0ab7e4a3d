/* inetd_tcpmux.c — "tcpmux/+date stream tcp nowait nobody /bin/date date": services that have no port but are named at
 * tcpmux's (RFC 1078). Any thread, one at a time.
 *
 * All of them, with the line "tcpmux stream tcp nowait root internal", become one service with the box tcpmux, whose
 * process is of one user: that of the first. What asks for another one is refused, never run as somebody else. */
#include "inetd.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>

#define PREFIX         "tcpmux/"
#define NAME_BYTES_MAX 61 /* what the box takes */
#define SERVICES_MAX   64

const char *inetd_tcpmux_name(const struct inetd_entry *e)
{
	return strncmp(e->service, PREFIX, strlen(PREFIX)) == 0 ? e->service + strlen(PREFIX) : NULL;
}

static bool is_mux(const struct inetd_service *s)
{
	return s->box != NULL && strcmp(s->box, "tcpmux") == 0 && !s->behind;
}

static bool is_name(const char *name)
{
	size_t n = strlen(name);

	for (const char *p = name; *p != '\0'; p++)
		if (!isgraph((unsigned char)*p) || *p == '=')
			return false;
	return n > 0 && n <= NAME_BYTES_MAX;
}

/* The box parts its words at blanks, and knows no quotes. */
static bool are_plain(const struct inetd_entry *e)
{
	for (size_t i = 0; i < e->argv.n; i++)
		if (e->argv.word[i][0] == '\0' || strpbrk(e->argv.word[i], " \t") != NULL)
			return false;
	return e->program == NULL || strpbrk(e->program, " \t") == NULL;
}

bool inetd_tcpmux_judge(struct inetd *r, const struct inetd_service *s)
{
	const char *look_up = s->protocol->look_up, *program = s->box == NULL ? s->e->program : "/";

	if (look_up == NULL || strcmp(look_up, "tcp") != 0)
		return inetd_wrong(r, s->e, "behind tcpmux there is stream tcp alone");
	if (s->wait)
		return inetd_wrong(r, s->e, "behind tcpmux each connection has its own program: nowait");
	if (!is_name(s->name) || (s->box != NULL && strcmp(s->box, "tcpmux") == 0))
		return inetd_wrong(r, s->e, "\"%s\" is no name of a service behind tcpmux", s->name);
	if (!are_plain(s->e))
		return inetd_wrong(r, s->e, "behind tcpmux no argument is empty or has blanks in it");
	if (program[0] != '/' && strchr(program, '/') != NULL)
		return inetd_wrong(r, s->e, "%s: give an absolute path", program);
	if (s->e->ipsec != NULL)
		return inetd_refuse(r, s->e, "it has an IPsec policy, without which anybody could connect");
	if (inetd_admits_nobody(s) != NULL)
		return inetd_refuse(r, s->e, "nobody is admitted");
	return true;
}

static bool same_user(const struct inetd_service *a, const struct inetd_service *b)
{
	const char *texts[][2] = {{a->user, b->user}, {a->group, b->group}};

	for (size_t i = 0; i < 2; i++) {
		const char *x = texts[i][0], *y = texts[i][1];
		if (x != y && (x == NULL || y == NULL || strcmp(x, y) != 0))
			return false;
	}
	return true;
}

/* The later of two lines counts, as of two for one address. */
static bool is_replaced(struct inetd *r, const struct inetd_service *all, size_t n, const struct inetd_service *s)
{
	for (const struct inetd_service *o = s + 1; o < all + n; o++) {
		if (!o->behind || o->e->off || strcasecmp(o->name, s->name) != 0)
			continue;
		document_drop(r->document, NULL, s->e->place, "service %s: %s:%d says it again, and the later counts",
		              s->e->service, o->e->place.file, o->e->place.line);
		return true;
	}
	return false;
}

/* Whether s stays behind tcpmux. first: the first that does; NULL: none so far. */
static bool stays(struct inetd *r, const struct inetd_service *all, size_t n, const struct inetd_service *s,
                  const struct inetd_service *first, size_t many, bool has_mux)
{
	if (s->e->off)
		return false;
	if (!has_mux)
		return inetd_refuse(r, s->e, "no line \"tcpmux stream tcp nowait USER internal\" listens for it");
	if (is_replaced(r, all, n, s))
		return false;
	if (first != NULL && !same_user(s, first))
		return inetd_refuse(r, s->e,
		                    "all services behind tcpmux run as the user of the first one, which is another");
	return many < SERVICES_MAX || inetd_refuse(r, s->e, "behind tcpmux there are 64 services at most");
}

void inetd_tcpmux_sort(struct inetd *r, struct inetd_service *all, size_t n)
{
	const struct inetd_service *first = NULL;
	bool has_mux = false;
	size_t many = 0;

	for (size_t i = 0; i < n; i++)
		has_mux = has_mux || (!all[i].done && is_mux(&all[i]));
	for (struct inetd_service *s = all; s < all + n; s++) {
		s->behind = s->behind && stays(r, all, n, s, first, many, has_mux);
		first = first == NULL && s->behind ? s : first;
		many += s->behind;
	}
	for (struct inetd_service *s = all; s < all + n; s++) {
		if (s->done || !is_mux(s))
			continue;
		s->done = first == NULL;
		if (first == NULL) {
			(void)inetd_refuse(r, s->e, "tcpmux (RFC 1078): no line has a service for it (tcpmux/NAME)");
			continue;
		}
		s->user = first->user;
		s->group = first->group;
		s->class = NULL; /* told of each */
	}
}

/* "+date=exec --stderr /bin/date -u", as one word. */
static void append_service(struct inetd *r, struct inetd_line *l, const struct inetd_service *s)
{
	const struct inetd_words *argv = &s->e->argv;
	const char *argv0 = argv->n > 0 ? argv->word[0] : NULL;
	struct inetd_line word = {0};
	char *begin;

	if (asprintf(&begin, "%s=%s", inetd_tcpmux_name(s->e), s->box != NULL ? s->box : "exec --stderr") < 0) {
		r->no_memory = true;
		return;
	}
	inetd_append(r, &word, begin);
	free(begin);
	if (s->box == NULL) {
		if (argv0 != NULL && strcmp(argv0, inetd_last_part(s->e->program)) != 0 &&
		    strcmp(argv0, s->e->program) != 0) {
			inetd_append(r, &word, "--argv0");
			inetd_append(r, &word, argv0);
		}
		inetd_append(r, &word, s->e->program);
		for (size_t i = 1; i < argv->n; i++)
			inetd_append(r, &word, argv->word[i]);
	}
	if (!r->no_memory)
		inetd_append_quoted(r, l, word.text);
	free(word.text);
}

char *inetd_tcpmux_box(struct inetd *r, const struct inetd_service *all, size_t n)
{
	struct inetd_line l = {0};

	inetd_append(r, &l, "tcpmux");
	for (size_t i = 0; i < n; i++)
		if (all[i].behind)
			append_service(r, &l, &all[i]);
	return inetd_finish(r, &l);
}
