/* inetd_keys.c — NetBSD's other form of a service in inetd.conf: "key = value value, key = value, …;". Any thread, one
 * at a time.
 *
 * It goes over any number of lines, with comments anywhere. Where it is so wrong that its end cannot be found, the
 * reading goes on at the next ';', or at the next line that is not indented: a forgotten ';' must not swallow the rest
 * of the file. */
#include "inetd.h"

#include <assert.h>
#include <string.h>

#include "nearest.h"

enum shape { ONE_TEXT = 0, YES_NO, MANY };

static const struct key {
	const char *name;
	enum shape shape;
	size_t at; /* in struct inetd_entry */
} keys[] = {
	{"bind", ONE_TEXT, offsetof(struct inetd_entry, host)},
	{"socktype", ONE_TEXT, offsetof(struct inetd_entry, type)},
	{"protocol", ONE_TEXT, offsetof(struct inetd_entry, protocol)},
	{"wait", YES_NO, offsetof(struct inetd_entry, wait)},
	{"user", ONE_TEXT, offsetof(struct inetd_entry, user)},
	{"username", ONE_TEXT, offsetof(struct inetd_entry, user)},
	{"group", ONE_TEXT, offsetof(struct inetd_entry, group)},
	{"exec", ONE_TEXT, offsetof(struct inetd_entry, program)},
	{"args", MANY, offsetof(struct inetd_entry, argv)},
	{"service_max", ONE_TEXT, offsetof(struct inetd_entry, service_max)},
	{"ip_max", ONE_TEXT, offsetof(struct inetd_entry, ip_max)},
	{"accept_max", ONE_TEXT, offsetof(struct inetd_entry, accept_max)},
	{"sndbuf", ONE_TEXT, offsetof(struct inetd_entry, sndbuf)},
	{"recvbuf", ONE_TEXT, offsetof(struct inetd_entry, recvbuf)},
	{"rcvbuf", ONE_TEXT, offsetof(struct inetd_entry, recvbuf)},
	{"acceptfilter", MANY, 0},
	{"filter", MANY, 0},
	{"ipsec", MANY, 0},
};

#define KEYS (sizeof keys / sizeof *keys)
static_assert(KEYS <= 32, "inetd_entry.many has a bit for each");

static const struct key *find_key(struct inetd *r, const struct inetd_text *t, const char *name)
{
	struct nearest near = {.word = name};
	char hint[64];

	for (size_t i = 0; i < KEYS; i++) {
		if (strcmp(keys[i].name, name) == 0)
			return &keys[i];
		nearest_offer(&near, keys[i].name);
	}
	document_error(r->document, inetd_place(t), "\"%s\" is no option of a service%s", name,
	               nearest_hint(&near, "", hint, sizeof hint));
	return NULL;
}

/* To where reading can go on: behind a ';', or at a line that begins in the first column. */
static void resynchronise(struct inetd_text *t)
{
	while (t->at < t->end && *t->at != ';') {
		if (*t->at != '\n') {
			t->at++;
			continue;
		}
		t->at++;
		t->line++;
		if (t->at < t->end && strchr(" \t\r\n#", *t->at) == NULL)
			return;
	}
	if (t->at < t->end)
		t->at++;
}

/* The values of a key, up to the ',' or ';' that ends them, which is *end; '\0': it never came, or a value was so wrong
 * (t->bad) that it cannot be known. */
static struct inetd_words take_values(struct inetd *r, struct inetd_text *t, char *end)
{
	struct inetd_words values = {0};

	*end = '\0';
	while (!t->bad && !r->no_memory) {
		inetd_skip(t, true);
		if (t->at == t->end)
			return values;
		if (*t->at == ',' || *t->at == ';') {
			*end = *t->at++;
			return values;
		}
		inetd_add(r, &values, inetd_word(r, t, true));
	}
	return values;
}

static bool put_text(struct inetd *r, struct config_place place, struct inetd_entry *e, const struct key *k,
                     const char *value)
{
	const char **text = (const char **)(void *)((char *)e + k->at);

	if (*text != NULL) {
		document_error(r->document, place, "%s is said twice for %s", k->name, e->service);
		return false;
	}
	*text = value;
	return true;
}

static bool put(struct inetd *r, struct config_place place, struct inetd_entry *e, const struct key *k,
                struct inetd_words values)
{
	if (k->shape == MANY) {
		unsigned bit = 1U << (k - keys);
		if (e->many & bit) {
			document_error(r->document, place, "%s is said twice for %s", k->name, e->service);
			return false;
		}
		e->many |= bit;
		const char *first = values.n > 0 ? values.word[0] : NULL;
		if (strcmp(k->name, "args") == 0)
			e->argv = values;
		else if (strcmp(k->name, "ipsec") == 0)
			e->ipsec = first;
		else
			e->filter = first;
		return true;
	}
	if (values.n != 1) {
		document_error(r->document, place, "%s takes one value, not %zu", k->name, values.n);
		return false;
	}
	const char *value = values.word[0];
	if (k->shape == YES_NO) {
		if (strcmp(value, "yes") != 0 && strcmp(value, "no") != 0) {
			document_error(r->document, place, "%s is yes or no, not \"%s\"", k->name, value);
			return false;
		}
		value = strcmp(value, "yes") == 0 ? "wait" : "nowait";
	}
	return put_text(r, place, e, k, value);
}

/* The key at t, and t past its '='. NULL: there is none, it was told. */
static const char *take_name(struct inetd *r, struct inetd_text *t, const struct inetd_entry *e)
{
	static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_";
	size_t n = 0;

	inetd_skip(t, true);
	const char *name = t->at;
	while (t->at + n < t->end && t->at[n] != '\0' && strchr(letters, t->at[n]) != NULL)
		n++;
	t->at += n;
	struct config_place place = inetd_place(t);
	inetd_skip(t, true);
	if (n > 0 && t->at < t->end && *t->at == '=') {
		t->at++;
		return inetd_keep(r, name, n);
	}
	if (t->at == t->end)
		document_error(r->document, e->place, "%s: no ';' ends its options", e->service);
	else
		document_error(r->document, place, "%s: \"option = value\" belongs here", e->service);
	return NULL;
}

bool inetd_read_keys(struct inetd *r, struct inetd_text *t, struct inetd_entry *e)
{
	bool good = true;
	char end = ',';

	while (end == ',' && !r->no_memory) {
		inetd_skip(t, true);
		if (t->at < t->end && *t->at == ';') { /* "a = b, ;": nothing more comes */
			t->at++;
			return good;
		}
		const char *name = take_name(r, t, e);
		if (name == NULL) {
			resynchronise(t);
			return false;
		}
		struct config_place place = inetd_place(t);
		const struct key *k = find_key(r, t, name);
		t->bad = false;
		struct inetd_words values = take_values(r, t, &end);
		if (t->bad) {
			resynchronise(t);
			return false;
		}
		good = k != NULL && put(r, place, e, k, values) && good;
	}
	if (end != ';' && !r->no_memory)
		document_error(r->document, e->place, "%s: no ';' ends its options", e->service);
	return good && end == ';';
}
