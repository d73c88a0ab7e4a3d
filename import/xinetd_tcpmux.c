/* xinetd_tcpmux.c — type = TCPMUX and TCPMUXPLUS: services that are named at tcpmux's port (RFC 1078).
 *
 * All of them, with "service tcpmux" of type INTERNAL, become one section with the box tcpmux, which has one user, one
 * environment and one set of limits. The user is that of the first; xinetd itself heeds no port, no banner and no
 * number of instances of theirs (2.3.15); and what else a service has otherwise than tcpmux would be widened by
 * dropping it: such a service is refused. Functions of their arguments, but for the services database. */
#include "xinetd_section.h"

#include "text.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define NAME_BYTES_MAX 61 /* what the box takes */
#define SERVICES_MAX   64
#define ARGUMENTS_MAX  59 /* of one: with "exec --stderr --argv0 NAME PROGRAM" the box takes 64 words */

bool xinetd_is_behind(const struct xinetd_entry *e)
{
	const struct config_words *type = &e->value[X_TYPE].words;

	return wordlist_has(type, "TCPMUX") || wordlist_has(type, "TCPMUXPLUS");
}

bool xinetd_is_tcpmux(const struct xinetd_entry *e)
{
	return strcasecmp(e->name, "tcpmux") == 0 && wordlist_has(&e->value[X_TYPE].words, "INTERNAL") &&
	       !xinetd_is_behind(e);
}

bool xinetd_has_tcpmux(struct xinetd_entry *const *entries, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (xinetd_is_tcpmux(entries[i]))
			return true;
	return false;
}

void xinetd_refuse_behind(struct document *d, const struct xinetd_entry *e, const char *why)
{
	document_drop(d, NULL, e->place, "service %s: %s", e->name, why);
}

static bool same_words(const struct xinetd_value *a, const struct xinetd_value *b)
{
	bool same = a->set == b->set && a->words.n == b->words.n;

	for (size_t i = 0; same && i < a->words.n; i++)
		same = strcmp(a->words.word[i], b->words.word[i]) == 0;
	return same;
}

/* What a service behind tcpmux may have for itself. */
static bool is_own(enum xinetd_attribute a)
{
	static const enum xinetd_attribute own[] = {
		X_DISABLE,        X_FLAGS,       X_GROUP, X_GROUPS,   X_ID,     X_LOG_ON_FAILURE,
		X_LOG_ON_SUCCESS, X_LOG_TYPE,    X_MDNS,  X_PROTOCOL, X_SERVER, X_TYPE,
		X_SERVER_ARGS,    X_SOCKET_TYPE, X_USER,  X_WAIT,
	};

	for (size_t i = 0; i < sizeof own / sizeof own[0]; i++)
		if (own[i] == a)
			return true;
	return false;
}

/* Of no effect under xinetd, where there is tcpmux's. */
static bool is_idle(enum xinetd_attribute a)
{
	return a == X_BANNER || a == X_BANNER_FAIL || a == X_BANNER_SUCCESS || a == X_BIND || a == X_CPS ||
	       a == X_INSTANCES || a == X_MAX_LOAD || a == X_PER_SOURCE || a == X_PORT || a == X_V6ONLY;
}

/* The first attribute that it has otherwise than tcpmux, and would lose; X_ATTRIBUTES: none. */
static enum xinetd_attribute differs(const struct xinetd_section *mux, const struct xinetd_entry *e)
{
	for (int a = 0; a < X_ATTRIBUTES; a++)
		if (!is_own((enum xinetd_attribute)a) && !is_idle((enum xinetd_attribute)a) &&
		    !same_words(&e->value[a], &mux->v[a]))
			return (enum xinetd_attribute)a;
	return X_ATTRIBUTES;
}

static bool is_name(const char *name)
{
	size_t n = strlen(name);

	for (const char *p = name; *p != '\0'; p++)
		if (!isgraph((unsigned char)*p) || *p == '=')
			return false;
	return n > 0 && n <= NAME_BYTES_MAX && name[0] != '+' && strcasecmp(name, "help") != 0;
}

static bool is_word(const struct xinetd_entry *e, enum xinetd_attribute a, const char *word)
{
	const struct config_words *w = &e->value[a].words;

	return w->n > 0 && strcasecmp(w->word[0], word) == 0;
}

/* Why it cannot be served; NULL: it can. reason: room for one with a name in it. */
static const char *judge(const struct xinetd_section *mux, const struct xinetd_section *m, char reason[160])
{
	static const char *const guards[] = {"IDONLY", "SENSOR", "INTERCEPT", "LABELED"};
	const struct xinetd_entry *e = m->e;

	if (e->broken || e->broken_defaults)
		return "not all of its lines, or of defaults', could be read";
	if (m->off)
		return "disabled, and so not behind tcpmux";
	if (!is_word(e, X_SOCKET_TYPE, "stream") || (e->value[X_PROTOCOL].set && !is_word(e, X_PROTOCOL, "tcp")))
		return "behind tcpmux there is socket_type = stream alone, with protocol = tcp";
	if (!is_word(e, X_WAIT, "no"))
		return "behind tcpmux each connection has its own program: wait = no";
	if (!is_name(e->name))
		return "no name of a service behind tcpmux";
	if (xinetd_has(m, X_TYPE, "INTERNAL") || xinetd_has(m, X_TYPE, "RPC") || e->value[X_REDIRECT].set)
		return "behind tcpmux there are programs alone";
	if (xinetd_value_of(m, X_SERVER) == NULL || xinetd_value_of(m, X_USER) == NULL)
		return "server or user is missing, so that xinetd does not serve it";
	if (xinetd_has(m, X_FLAGS, "NAMEINARGS") && e->value[X_SERVER_ARGS].words.n == 0)
		return "flags NAMEINARGS wants the program's name in server_args";
	if (e->value[X_SERVER_ARGS].words.n > ARGUMENTS_MAX)
		return "behind tcpmux a program has 59 arguments at most";
	if (!xinetd_has(m, X_TYPE, "UNLISTED") && xinetd_port_known(m) < 0)
		return "it is not in /etc/services here: without type = UNLISTED xinetd does not serve it";
	for (size_t i = 0; i < sizeof guards / sizeof guards[0]; i++)
		if (xinetd_has(m, X_FLAGS, guards[i])) {
			(void)snprintf(reason, 160, "flags = %s, which is not to be had behind tcpmux", guards[i]);
			return reason;
		}
	enum xinetd_attribute other = differs(mux, e);
	if (other == X_ATTRIBUTES)
		return NULL;
	(void)snprintf(reason, 160, "%s is that of service tcpmux for all behind it, and its own is another",
	               xinetd_name(other));
	return reason;
}

/* Of two of one name the first counts, as in xinetd. */
static bool is_repeated(struct xinetd_entry *const *served, size_t n, const struct xinetd_entry *e)
{
	for (size_t i = 0; i < n; i++)
		if (strcasecmp(served[i]->name, e->name) == 0)
			return true;
	return false;
}

static bool same_user(const struct xinetd_entry *a, const struct xinetd_entry *b)
{
	return same_words(&a->value[X_USER], &b->value[X_USER]) && same_words(&a->value[X_GROUP], &b->value[X_GROUP]) &&
	       same_words(&a->value[X_GROUPS], &b->value[X_GROUPS]);
}

static void tell_idle(const struct xinetd_section *mux, const struct xinetd_section *m)
{
	for (int a = 0; a < X_ATTRIBUTES; a++)
		if (is_idle((enum xinetd_attribute)a) && m->v[a].set && !same_words(&m->v[a], &mux->v[a]))
			document_drop(mux->d, mux->s, m->v[a].place, "%s of %s: that of tcpmux holds for all behind it",
			              xinetd_name((enum xinetd_attribute)a), m->e->name);
}

/* "+NAME=exec --stderr PROGRAM ARGUMENT…", the box's one word: it parts it at blanks, of which xinetd's have none. */
static void add_word(struct text *t, const struct xinetd_section *m)
{
	const struct config_words *args = &m->v[X_SERVER_ARGS].words;
	const char *server = xinetd_value_of(m, X_SERVER), *slash = strrchr(server, '/');
	bool named = xinetd_has(m, X_FLAGS, "NAMEINARGS");

	text_add(t, "%s%s=exec --stderr", xinetd_has(m, X_TYPE, "TCPMUXPLUS") ? "+" : "", m->e->name);
	if (named && strcmp(args->word[0], server) != 0 &&
	    strcmp(args->word[0], slash != NULL ? slash + 1 : server) != 0)
		text_add(t, " --argv0 %s", args->word[0]);
	text_add(t, " %s%s", server[0] == '/' ? "" : "/", server); /* xinetd's directory */
	for (size_t i = named; i < args->n; i++)
		text_add(t, " %s", args->word[i]);
}

static void add_service(struct text *box, const struct xinetd_section *m)
{
	struct text word = {.grows = true};
	char *quoted = NULL;

	add_word(&word, m);
	if (!word.failed && (quoted = malloc(2 * word.len + 3)) != NULL)
		text_add(box, " %s", document_quote(word.buf, quoted, 2 * word.len + 3));
	if (quoted == NULL || box->failed)
		m->d->broken = true;
	free(quoted);
	text_free(&word);
}

/* Why it is not one of those that are served, of which there are n; NULL: it is. */
static const char *compare(struct xinetd_entry *const *served, size_t n, const struct xinetd_entry *e)
{
	if (is_repeated(served, n, e))
		return "another one has its name, and the first counts";
	if (n > 0 && !same_user(e, served[0]))
		return "all services behind tcpmux run as the user of the first one, which is another";
	if (n == SERVICES_MAX)
		return "behind tcpmux there are 64 services at most";
	return NULL;
}

const struct xinetd_entry *xinetd_make_tcpmux(struct xinetd_section *mux, struct xinetd_entry *const *entries, size_t n,
                                              const struct xinetd_entry *defaults)
{
	struct xinetd_entry **served = calloc(n + 1, sizeof *served);
	struct text box = {.grows = true};
	size_t many = 0;

	text_add(&box, "tcpmux");
	mux->d->broken = mux->d->broken || served == NULL || box.failed;
	for (size_t i = 0; i < n && !mux->d->broken; i++) {
		struct xinetd_entry *e = entries[i];
		struct xinetd_section m = {.d = mux->d, .e = e, .v = e->value, .stream = true};
		char reason[160];
		if (!xinetd_is_behind(e))
			continue;
		m.off = xinetd_is_off(&m, defaults);
		const char *why = judge(mux, &m, reason);
		why = why != NULL ? why : compare(served, many, e);
		if (why != NULL) {
			xinetd_refuse_behind(mux->d, e, why);
			continue;
		}
		served[many++] = e;
		add_service(&box, &m);
		tell_idle(mux, &m);
	}
	const struct xinetd_entry *first = many > 0 ? served[0] : NULL;
	if (first != NULL && !mux->d->broken)
		document_set(mux->d, mux->s, mux->e->place, "box", "%s", box.buf);
	text_free(&box);
	free(served);
	return first;
}
