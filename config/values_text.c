/* values_text.c — kinds of values that are words: lists, programs, addresses, networks, environment, users, groups,
 * the banner. See values.c.
 *
 * Main thread: the user database is asked. */
#include "inside.h"

#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#define AT(base, key, type)  ((type *)((char *)(base) + (key)->how->at))
#define SEE(base, key, type) ((const type *)((const char *)(base) + (key)->how->at))
#define BANNER_MAX           8192 /* bytes */
#define NAME_MAX_BYTES       255  /* of an environment variable */

/* What is wrong is not the text, but what this system has: a service that is disabled may have it so. */
__attribute__((format(printf, 2, 3))) static void missing(struct reading *r, const char *format, ...)
{
	char words[512];
	va_list args;

	r->bad = true;
	if (r->quiet)
		return;
	va_start(args, format);
	(void)vsnprintf(words, sizeof words, format, args);
	va_end(args);
	inside_message(r->w, r->lenient ? MESSAGE_WARNING : MESSAGE_ERROR, r->at, "%s: %s", r->key->name, words);
}

/* ---- words ---- */

static bool split(struct reading *r, const char *value, struct config_words *words)
{
	bool comment = false;
	const char *wrong = words_split(r->w, value, words, &comment);

	if (wrong != NULL)
		inside_bad(r, "%s", wrong);
	else if (comment && !r->quiet)
		inside_warning(r->w, r->at,
		               "%s: the # or ; is part of the value: a comment needs a line of its own, a word quotes",
		               r->key->name);
	return wrong == NULL;
}

static void print_list(const struct config_key *key, const struct config_words *words, size_t a_line, FILE *to)
{
	for (size_t i = 0; i < words->n; i++) {
		if (i % a_line == 0)
			fprintf(to, "%s =", key->name);
		fputc(' ', to);
		words_print(words->word[i], to);
		if (i % a_line == a_line - 1 || i + 1 == words->n)
			fputc('\n', to);
	}
}

static void read_words(struct reading *r, const char *value, void *base)
{
	(void)split(r, value, AT(base, r->key, struct config_words));
}

static void print_words(const struct config_key *key, const void *base, FILE *to)
{
	print_list(key, SEE(base, key, struct config_words), WORDS_MAX, to);
}

const struct kind kind_words = {read_words, print_words};

static void print_words_each(const struct config_key *key, const void *base, FILE *to)
{
	print_list(key, SEE(base, key, struct config_words), 1, to);
}

static void add_address(struct reading *r, struct service *s, const char *text)
{
	struct config_words *listen = &s->s.listen;
	struct hark_address a;
	struct hark_why why = {""};
	char canonical[HARK_ADDRESS_MAX];

	if (hark_address_parse(text, &a, &why) < 0) {
		bool port = text[0] != '\0' && strspn(text, "0123456789") == strlen(text);
		return inside_bad(r, port ? "%s (did you mean tcp://*:%.20s?)" : "%s", why.text, text);
	}
	if ((a.scheme == HARK_UNIX || a.scheme == HARK_UNIXGRAM) && a.path[0] != '/' && a.path[0] != '@')
		return inside_bad(r, "%.160s: the path is not absolute", text);
	int n = hark_address_format(&a, canonical, sizeof canonical);
	if (listen->n >= LISTEN_MAX)
		return inside_bad(r, "more than %d addresses", LISTEN_MAX);
	if (n > 0 && inside_add_word(r->w, listen, inside_copy(r->w, canonical, (size_t)n)) == 0)
		s->listen_at[listen->n - 1] = r->at;
}

static void read_listen(struct reading *r, const char *value, void *base)
{
	struct config_words words = {0};

	if (split(r, value, &words))
		for (size_t i = 0; i < words.n; i++)
			add_address(r, base, words.word[i]);
	inside_free_words(&words);
}

const struct kind kind_listen = {read_listen, print_words_each};

static void add_network(struct reading *r, struct config_service *s, const char *text)
{
	char canonical[NETWORK_TEXT_MAX];
	struct network n, *more;
	int dropped = network_parse(text, &n);

	if (dropped < 0)
		return inside_bad(r, "\"%.60s\" is no network, such as 192.0.2.0/24, 2001:db8::/32, ::1 or unix", text);
	if (dropped > 0 && !r->quiet)
		inside_warning(r->w, r->at, "%s: %.60s is taken for %s", r->key->name, text,
		               network_format(&n, canonical));
	if (s->n_proxy_from >= NETWORKS_MAX)
		return inside_bad(r, "more than %d networks", NETWORKS_MAX);
	more = inside_room(r->w, s->proxy_from, s->n_proxy_from, sizeof *more);
	if (more == NULL)
		return;
	s->proxy_from = more;
	more[s->n_proxy_from++] = n;
}

static void read_networks(struct reading *r, const char *value, void *base)
{
	struct config_words words = {0};

	if (split(r, value, &words))
		for (size_t i = 0; i < words.n; i++)
			add_network(r, &((struct service *)base)->s, words.word[i]);
	inside_free_words(&words);
}

static void print_networks(const struct config_key *key, const void *base, FILE *to)
{
	const struct config_service *s = &((const struct service *)base)->s;
	char text[NETWORK_TEXT_MAX];

	for (size_t i = 0; i < s->n_proxy_from; i++)
		fprintf(to, "%s = %s\n", key->name, network_format(&s->proxy_from[i], text));
}

const struct kind kind_networks = {read_networks, print_networks};

static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_0123456789";

static void read_env(struct reading *r, const char *value, void *base)
{
	struct config_words *env = AT(base, r->key, struct config_words);
	size_t before = env->n;

	if (!split(r, value, env))
		return;
	for (size_t i = before; i < env->n; i++) {
		size_t n = strspn(env->word[i], letters);
		if (n == 0 || n > NAME_MAX_BYTES || env->word[i][n] != '=')
			inside_bad(r, "\"%.60s\" is not NAME=VALUE", env->word[i]);
	}
}

const struct kind kind_env = {read_env, print_words_each};

static void read_names(struct reading *r, const char *value, void *base)
{
	struct config_words *names = AT(base, r->key, struct config_words);
	size_t before = names->n;

	if (strcmp(value, "none") == 0 || !split(r, value, names))
		return;
	for (size_t i = before; i < names->n; i++) {
		const char *name = names->word[i];
		size_t n = strspn(name, letters);
		bool pattern = name[n] == '*' && name[n + 1] == '\0';
		if (n > NAME_MAX_BYTES || (!pattern && (n == 0 || name[n] != '\0')))
			inside_bad(r, "\"%.60s\" is not a variable's name, or the beginning of one and a *", name);
	}
}

static void print_names(const struct config_key *key, const void *base, FILE *to)
{
	if (SEE(base, key, struct config_words)->n == 0)
		fprintf(to, "%s = none\n", key->name);
	print_list(key, SEE(base, key, struct config_words), 16, to);
}

const struct kind kind_names = {read_names, print_names};

/* ---- users and groups ---- */

static void read_user(struct reading *r, const char *value, void *base)
{
	struct service *s = base;
	uid_t uid;
	gid_t gid;
	int err = users_find(value, &uid, &gid);

	if (err < 0)
		return missing(r, "%.80s: %s", value, err == -ENOENT ? "no such user" : hark_strerror(err));
	s->s.uid = uid;
	s->s.gid = s->s.gid == (gid_t)-1 ? gid : s->s.gid;
	inside_set_text(r, &s->s.user, value);
}

const struct kind kind_user = {read_user, inside_print_text};

static void read_group(struct reading *r, const char *value, void *base)
{
	struct service *s = base;
	gid_t gid;
	int err = users_find_group(value, &gid);

	if (err < 0)
		return missing(r, "%.80s: %s", value, err == -ENOENT ? "no such group" : hark_strerror(err));
	s->s.gid = gid;
	inside_set_text(r, &s->s.group, value);
}

const struct kind kind_group = {read_group, inside_print_text};

static void read_groups(struct reading *r, const char *value, void *base)
{
	struct service *s = base;
	gid_t gid;

	if (!split(r, value, &s->group_names))
		return;
	if (s->group_names.n == 1 && strcmp(value, "none") == 0)
		return;
	for (size_t i = 0; i < s->group_names.n; i++) {
		int err = users_find_group(s->group_names.word[i], &gid);
		if (err < 0)
			missing(r, "%.80s: %s", s->group_names.word[i],
			        err == -ENOENT ? "no such group" : hark_strerror(err));
	}
}

const struct kind kind_groups = {read_groups, print_words};

static void read_socket_user(struct reading *r, const char *value, void *base)
{
	uid_t uid;
	gid_t gid;

	if (users_find(value, &uid, &gid) < 0)
		return missing(r, "%.80s: no such user", value);
	inside_set_text(r, AT(base, r->key, char *), value);
}

const struct kind kind_socket_user = {read_socket_user, inside_print_text};

static void read_socket_group(struct reading *r, const char *value, void *base)
{
	gid_t gid;

	if (users_find_group(value, &gid) < 0)
		return missing(r, "%.80s: no such group", value);
	inside_set_text(r, AT(base, r->key, char *), value);
}

const struct kind kind_socket_group = {read_socket_group, inside_print_text};

/* ---- the banner ---- */

static int hex(char c)
{
	return c >= '0' && c <= '9' ? c - '0' : (c | 0x20) >= 'a' && (c | 0x20) <= 'f' ? (c | 0x20) - 'a' + 10 : -1;
}

/* What stands after a backslash, which from points to: the byte, or 0; *from is moved past it. */
static char unescape(const char **from)
{
	static const char names[] = "ntr\\", bytes[] = "\n\t\r\\";
	const char *p = *from, *found = *p != '\0' ? strchr(names, *p) : NULL;

	if (found != NULL) {
		*from = p + 1;
		return bytes[found - names];
	}
	if (*p != 'x' || hex(p[1]) < 0 || hex(p[2]) < 0)
		return '\0';
	*from = p + 3;
	return (char)(hex(p[1]) << 4 | hex(p[2]));
}

static void read_banner(struct reading *r, const char *value, void *base)
{
	char *text = inside_copy(r->w, value, strlen(value)), *to = text;

	if (text == NULL)
		return;
	for (const char *from = value; *from != '\0'; to++) {
		*to = *from++;
		if (*to == '\\' && (*to = unescape(&from)) == '\0') {
			inside_bad(r, "after a \\ stands n, t, r, \\ or x and two digits, and not \\x00: \"%.20s\"",
			           from - 1);
			break;
		}
	}
	*to = '\0';
	if (!r->bad && to - text > BANNER_MAX)
		inside_bad(r, "longer than %d bytes", BANNER_MAX);
	*AT(base, r->key, char *) = text;
}

static void print_banner(const struct config_key *key, const void *base, FILE *to)
{
	const char *text = *SEE(base, key, char *);

	if (text == NULL)
		return;
	fprintf(to, "%s = ", key->name);
	for (const char *p = text; *p != '\0'; p++) {
		bool edge = p == text || p[1] == '\0';
		if (*p == '\n')
			fputs("\\n", to);
		else if (*p == '\\')
			fputs("\\\\", to);
		else if ((unsigned char)*p < 0x20 || *p == 0x7f || (*p == ' ' && edge))
			fprintf(to, "\\x%02x", (unsigned char)*p);
		else
			fputc(*p, to);
	}
	fputc('\n', to);
}

const struct kind kind_banner = {read_banner, print_banner};
