/* xinetd.c — xinetd.conf(5), read as xinetd 2.3.15 does: entries in braces, `include` and `includedir`, `=`, `+=`
 * and `-=`, and what a service takes from `defaults`.
 *
 * A service that sets a list which may be added to (only_from, log_on_success …) begins with what defaults had at that
 * point of the file; everything else comes from defaults at the end, wherever they are. So the files are read whole
 * first, then each entry is made into a section (xinetd_service.c).
 *
 * Where xinetd would go on without a word or with one in its log, so do we, but say it: an attribute that it does not
 * know is an error that names the nearest; a line that it cannot read makes it drop the service, so the section is
 * disabled. A relative name in include is taken from the directory of the file that has it.
 *
 * Bounded: a file that includes itself is refused, includes are at most DEPTH_MAX deep and FILES_MAX altogether. Any
 * thread. */
#include "xinetd.h"
#include "import.h"

#include "nearest.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

#define DEPTH_MAX     8
#define FILES_MAX     2000
#define ENTRIES_MAX   4096    /* harkd serves a quarter of them at most */
#define WORDS_MAX     1024    /* of one value */
#define ALL_WORDS_MAX 1000000 /* that services begin with, having them from defaults */

enum { NOT_HERE = -3, ANY_SET = -2, ANY = -1 }; /* how many values; ANY_SET: += and -= may be used */

static const struct attribute {
	const char *name;
	enum xinetd_attribute is;
	int service, defaults; /* in a service's entry and in defaults; more than 0: so many exactly */
} attributes[] = {
	{"access_times", X_ACCESS_TIMES, ANY, NOT_HERE},
	{"banner", X_BANNER, 1, 1},
	{"banner_fail", X_BANNER_FAIL, 1, 1},
	{"banner_success", X_BANNER_SUCCESS, 1, 1},
	{"bind", X_BIND, 1, 1},
	{"cps", X_CPS, 2, 2},
	{"deny_time", X_DENY_TIME, 1, NOT_HERE},
	{"disable", X_DISABLE, 1, NOT_HERE},
	{"disabled", X_DISABLED, NOT_HERE, ANY_SET},
	{"enabled", X_ENABLED, NOT_HERE, ANY_SET},
	{"env", X_ENV, ANY_SET, NOT_HERE},
	{"flags", X_FLAGS, ANY, NOT_HERE},
	{"group", X_GROUP, 1, NOT_HERE},
	{"groups", X_GROUPS, 1, 1},
	{"id", X_ID, 1, NOT_HERE},
	{"instances", X_INSTANCES, 1, 1},
	{"interface", X_BIND, 1, 1},
	{"libwrap", X_LIBWRAP, 1, NOT_HERE},
	{"log_on_failure", X_LOG_ON_FAILURE, ANY_SET, ANY_SET},
	{"log_on_success", X_LOG_ON_SUCCESS, ANY_SET, ANY_SET},
	{"log_type", X_LOG_TYPE, ANY, ANY_SET},
	{"max_load", X_MAX_LOAD, 1, 1},
	{"mdns", X_MDNS, 1, 1},
	{"nice", X_NICE, 1, NOT_HERE},
	{"no_access", X_NO_ACCESS, ANY_SET, ANY_SET},
	{"only_from", X_ONLY_FROM, ANY_SET, ANY_SET},
	{"passenv", X_PASSENV, ANY_SET, ANY_SET},
	{"per_source", X_PER_SOURCE, 1, 1},
	{"port", X_PORT, 1, NOT_HERE},
	{"protocol", X_PROTOCOL, 1, NOT_HERE},
	{"redirect", X_REDIRECT, 2, NOT_HERE},
	{"rlimit_as", X_RLIMIT_AS, 1, NOT_HERE},
	{"rlimit_cpu", X_RLIMIT_CPU, 1, NOT_HERE},
	{"rlimit_data", X_RLIMIT_DATA, 1, NOT_HERE},
	{"rlimit_files", X_RLIMIT_FILES, 1, NOT_HERE},
	{"rlimit_rss", X_RLIMIT_RSS, 1, NOT_HERE},
	{"rlimit_stack", X_RLIMIT_STACK, 1, NOT_HERE},
	{"rpc_number", X_RPC_NUMBER, 1, NOT_HERE},
	{"rpc_version", X_RPC_VERSION, 1, NOT_HERE},
	{"server", X_SERVER, 1, NOT_HERE},
	{"server_args", X_SERVER_ARGS, ANY, NOT_HERE},
	{"socket_type", X_SOCKET_TYPE, 1, NOT_HERE},
	{"type", X_TYPE, ANY, NOT_HERE},
	{"umask", X_UMASK, 1, 1},
	{"user", X_USER, 1, NOT_HERE},
	{"v6only", X_V6ONLY, 1, 1},
	{"wait", X_WAIT, 1, NOT_HERE},
};
#define ATTRIBUTES (sizeof attributes / sizeof attributes[0])

/* Lists that a service's entry begins with. */
static const enum xinetd_attribute begun_with[] = {X_LOG_ON_FAILURE, X_LOG_ON_SUCCESS, X_NO_ACCESS, X_ONLY_FROM,
                                                   X_PASSENV};

struct reading {
	struct document *d;
	struct xinetd_entry defaults;
	struct xinetd_entry **entries;
	size_t n, words;
	int files;
};

/* One file that is being read. */
struct source {
	struct reading *r;
	const struct source *from; /* the one that includes it */
	char *real;                /* its path without links, to know it again */
	const char *file;          /* as it is named: the document's */
	char *next;                /* what was not read yet */
	int line;
	bool had_defaults;
};

enum operator{ OP_SET, OP_ADD, OP_REMOVE };

static const char *const operator_name[] = {"=", "+=", "-="};

const char *xinetd_name(enum xinetd_attribute a)
{
	for (size_t i = 0; i < ATTRIBUTES; i++)
		if (attributes[i].is == a)
			return attributes[i].name;
	return "?";
}

static struct config_place here(const struct source *s)
{
	return (struct config_place){.file = s->file, .line = s->line};
}

/* The next line that is neither blank nor a comment, without blanks at its ends (a file from Windows loses its '\r'
 * here). NULL: the end. */
static char *next_line(struct source *s)
{
	while (*s->next != '\0') {
		char *line = s->next + strspn(s->next, " \t\r\v\f"), *end = strchrnul(s->next, '\n');
		s->next = *end == '\0' ? end : end + 1;
		s->line++;
		*end = '\0';
		while (end > line && strchr(" \t\r\v\f", end[-1]) != NULL)
			*--end = '\0';
		if (line < end && *line != '#')
			return line;
	}
	return NULL;
}

/* Cuts the next word off *at; NULL: there is none. */
static char *cut_word(char **at)
{
	char *word = *at + strspn(*at, " \t\r\v\f");

	if (*word == '\0')
		return NULL;
	char *end = word + strcspn(word, " \t\r\v\f");
	*at = *end == '\0' ? end : end + 1;
	*end = '\0';
	return word;
}

static void entry_done(struct xinetd_entry *e)
{
	for (size_t i = 0; i < X_ATTRIBUTES; i++)
		wordlist_clear(&e->value[i].words);
	free(e->name);
	free(e->listen);
}

static struct xinetd_entry *add_entry(struct reading *r, const char *name, struct config_place place)
{
	struct xinetd_entry *e = calloc(1, sizeof *e), **more = r->entries;

	if ((r->n & (r->n - 1)) == 0)
		more = reallocarray(r->entries, r->n == 0 ? 1 : 2 * r->n, sizeof *more);
	if (more != NULL)
		r->entries = more;
	if (e == NULL || more == NULL || (e->name = strdup(name)) == NULL) {
		free(e);
		r->d->broken = true;
		return NULL;
	}
	e->place = place;
	more[r->n++] = e;
	for (size_t i = 0; i < sizeof begun_with / sizeof begun_with[0]; i++) {
		const struct xinetd_value *from = &r->defaults.value[begun_with[i]];
		struct xinetd_value *to = &e->value[begun_with[i]];
		to->set = from->set;
		to->place = from->place;
		wordlist_copy(r->d, &to->words, &from->words);
		r->words += from->words.n;
	}
	return e;
}

/* A name that no attribute has. Not an error where the attribute exists and only stands in the wrong place. */
static void unknown(const struct source *s, const char *name, bool in_defaults)
{
	struct nearest near = {.word = name};
	char hint[96];

	for (size_t i = 0; i < ATTRIBUTES; i++) {
		if (strcasecmp(attributes[i].name, name) == 0) {
			document_error(s->r->d, here(s), "%s: not an attribute of %s", name,
			               in_defaults ? "defaults" : "a service");
			return;
		}
		if ((in_defaults ? attributes[i].defaults : attributes[i].service) != NOT_HERE)
			nearest_offer(&near, attributes[i].name);
	}
	document_error(s->r->d, here(s), "%s: unknown attribute%s", name, nearest_hint(&near, "", hint, sizeof hint));
}

/* The attribute and its operator; *line is then at the first value. NULL, having said why, if it is no such line. */
static char *cut_attribute(const struct source *s, char **line, enum operator* op)
{
	char *name = *line, *p = name + strcspn(name, " \t=");

	if (*p == '=') {
		document_error(s->r->d, here(s), "%.64s: xinetd wants a blank between an attribute and its operator",
		               name);
		return NULL;
	}
	if (*p != '\0')
		*p++ = '\0';
	p += strspn(p, " \t");
	*op = *p == '+' ? OP_ADD : *p == '-' ? OP_REMOVE : OP_SET;
	p += *p == '+' || *p == '-';
	if (*p != '=') {
		document_error(s->r->d, here(s), "%.64s: =, += or -= should follow", name);
		return NULL;
	}
	*line = p + 1;
	return name;
}

static void change_list(const struct source *s, const struct attribute *a, struct xinetd_value *v, enum operator op,
                        char *values)
{
	/* The same word twice is two. */
	bool own = a->is == X_ENV || a->is == X_LOG_TYPE || a->is == X_SERVER_ARGS;

	if (op == OP_SET)
		wordlist_clear(&v->words);
	for (const char *word; (word = cut_word(&values)) != NULL;) {
		if (op == OP_REMOVE)
			wordlist_remove(&v->words, word);
		else if (own || !wordlist_has(&v->words, word))
			wordlist_add(s->r->d, &v->words, word, strlen(word));
	}
	v->set = true;
	v->place = here(s);
}

static size_t count_words(const char *text)
{
	size_t n = 0;

	while (text[strspn(text, " \t\r\v\f")] != '\0') {
		text += strspn(text, " \t\r\v\f");
		text += strcspn(text, " \t\r\v\f");
		n++;
	}
	return n;
}

/* Limits who is served, or as whom. xinetd ignores a line with too many values or with an operator that the attribute
 * does not take; the service of such a line is disabled here if the attribute is a guard. */
static bool is_guard(enum xinetd_attribute a)
{
	static const enum xinetd_attribute others[] = {X_BANNER,  X_BANNER_FAIL, X_BANNER_SUCCESS, X_DENY_TIME, X_ID,
	                                               X_LIBWRAP, X_LOG_TYPE,    X_MDNS,           X_TYPE};

	for (size_t i = 0; i < sizeof others / sizeof others[0]; i++)
		if (others[i] == a)
			return false;
	return true;
}

/* NAME OP VALUE…: true unless it is a line that xinetd gives the whole entry up for. */
static bool read_attribute(const struct source *s, struct xinetd_entry *e, bool in_defaults, char *line)
{
	struct document *d = s->r->d;
	enum operator op;
	const struct attribute *a = NULL;
	const char *name = cut_attribute(s, &line, &op);

	if (name == NULL)
		return false;
	for (size_t i = 0; i < ATTRIBUTES && a == NULL; i++)
		if (strcasecmp(attributes[i].name, name) == 0 &&
		    (in_defaults ? attributes[i].defaults : attributes[i].service) != NOT_HERE)
			a = &attributes[i];
	if (a == NULL) {
		unknown(s, name, in_defaults);
		return true;
	}
	int wanted = in_defaults ? a->defaults : a->service;
	struct xinetd_value *v = &e->value[a->is];
	size_t n = count_words(line);
	if (wanted != ANY_SET && op != OP_SET) {
		document_error(d, here(s), "%s: takes no %s", name, operator_name[op]);
		return !is_guard(a->is);
	} else if (a->is == X_ENV && op == OP_REMOVE) {
		document_error(d, here(s), "%s: takes no -=", name);
	} else if (wanted != ANY_SET && v->set) {
		document_error(d, here(s), "%s: set twice; the first one counts (line %d)", name, v->place.line);
	} else if (wanted > 0 && n != (size_t)wanted) {
		document_error(d, here(s), "%s: takes %d value%s, %zu %s given", name, wanted, wanted == 1 ? "" : "s",
		               n, n == 1 ? "is" : "are");
		if (a->is == X_BIND) /* no address is not every address */
			change_list(s, a, v, op, line);
		return !is_guard(a->is);
	} else if (n + v->words.n > WORDS_MAX) {
		document_error(d, here(s), "%s: more than %d values", name, WORDS_MAX);
		return false;
	} else {
		/* In defaults values gather: = is +=. */
		bool gathers = in_defaults && wanted == ANY_SET && op == OP_SET && a->is != X_LOG_TYPE;
		change_list(s, a, v, gathers ? OP_ADD : op, line);
	}
	return true;
}

/* The lines up to the closing brace. e NULL: they are skipped. */
static void read_entry(struct source *s, struct xinetd_entry *e, bool in_defaults)
{
	char *line;

	while ((line = next_line(s)) != NULL) {
		if (strcmp(line, "}") == 0)
			return;
		if (e != NULL && !read_attribute(s, e, in_defaults, line))
			e->broken = true;
	}
	document_error(s->r->d, here(s), "the file ends within an entry: its } is missing");
	if (e != NULL)
		e->broken = true;
}

static void read_source(struct reading *r, const struct source *from, struct config_place place, const char *file);

/* xinetd passes over what editors and package managers leave. */
static bool is_skipped(const char *name)
{
	return strchr(name, '.') != NULL || name[strlen(name) - 1] == '~';
}

static int visible(const struct dirent *e)
{
	return e->d_name[0] != '.';
}

static int by_bytes(const struct dirent **a, const struct dirent **b)
{
	return strcmp((*a)->d_name, (*b)->d_name);
}

static void read_directory(const struct source *s, const char *directory)
{
	struct dirent **names = NULL;
	char path[PATH_MAX];
	int n = scandir(directory, &names, visible, by_bytes);

	if (n < 0) {
		if (errno == ENOMEM)
			s->r->d->broken = true;
		document_error(s->r->d, here(s), "includedir %s: %s", directory, strerror(errno));
		return;
	}
	for (int i = 0; i < n; i++) {
		const char *name = names[i]->d_name;
		struct stat st;
		if (snprintf(path, sizeof path, "%s/%s", directory, name) < (int)sizeof path) {
			bool other = stat(path, &st) == 0 && !S_ISREG(st.st_mode);
			if (is_skipped(name) || other)
				document_remark(s->r->d, NULL, here(s), "%s is passed over, as by xinetd: %s", path,
				                other ? "it is no regular file" : "its name has a . or ends in ~");
			else
				read_source(s->r, s, here(s), path);
		}
		free(names[i]);
	}
	free(names);
}

static void read_include(const struct source *s, bool directory, const char *name)
{
	char path[PATH_MAX];
	const char *slash = strrchr(s->file, '/');
	int base = name[0] == '/' || slash == NULL ? 0 : (int)(slash - s->file) + 1;

	if (snprintf(path, sizeof path, "%.*s%s", base, s->file, name) >= (int)sizeof path)
		document_error(s->r->d, here(s), "%s: %s", directory ? "includedir" : "include",
		               strerror(ENAMETOOLONG));
	else if (directory)
		read_directory(s, path);
	else
		read_source(s->r, s, here(s), path);
}

/* "service NAME" or "defaults", and then a brace alone in its line. */
static void begin_entry(struct source *s, const char *name, char *rest)
{
	struct config_place place = here(s);
	struct reading *r = s->r;
	bool defaults = name == NULL, inline_brace = strchr(rest, '{') != NULL;
	char *line = next_line(s);
	struct xinetd_entry *e = NULL;

	if (line == NULL || strcmp(line, "{") != 0) {
		document_error(r->d, place, "%s%s: xinetd wants a { alone in the next line%s",
		               defaults ? "defaults" : "service ", defaults ? "" : name,
		               inline_brace ? ", not in this one" : "");
		if (line != NULL && strcmp(line, "}") != 0)
			read_entry(s, NULL, defaults);
		return;
	}
	if (defaults && s->had_defaults)
		document_error(r->d, place, "defaults: a second entry in one file; the first one counts");
	else if (defaults)
		e = &r->defaults;
	else if (r->n >= ENTRIES_MAX || r->words > ALL_WORDS_MAX)
		document_error(r->d, place, "service %s: more than %d services, or too many words in defaults", name,
		               ENTRIES_MAX);
	else
		e = add_entry(r, name, place);
	s->had_defaults = s->had_defaults || defaults;
	read_entry(s, e, defaults);
}

/* A line that begins nothing. If it was meant to begin an entry, its braces come next: what is in them is skipped. */
static void misplaced(const struct source *s, const char *word)
{
	static const char *const words[] = {"service", "defaults", "include", "includedir"};
	struct nearest near = {.word = word};
	char hint[96];

	for (size_t i = 0; i < sizeof words / sizeof words[0]; i++)
		nearest_offer(&near, words[i]);
	document_error(s->r->d, here(s), "%.64s: service, defaults, include or includedir should stand here%s", word,
	               nearest_hint(&near, "", hint, sizeof hint));
}

static void read_lines(struct source *s)
{
	bool said = false;
	char *line;

	while ((line = next_line(s)) != NULL && !s->r->d->broken) {
		const char *word = cut_word(&line), *name = NULL;
		bool service = strcasecmp(word, "service") == 0, directory = strcasecmp(word, "includedir") == 0;
		bool named = service || directory || strcasecmp(word, "include") == 0;
		if (named && (name = cut_word(&line)) == NULL)
			document_error(s->r->d, here(s), "%s: a name should follow", word);
		else if (service || strcasecmp(word, "defaults") == 0)
			begin_entry(s, name, line);
		else if (named)
			read_include(s, directory, name);
		else if (strcmp(word, "{") == 0 && said)
			read_entry(s, NULL, false);
		else
			misplaced(s, word);
		said = !named || name == NULL;
	}
}

static int depth(const struct source *s)
{
	int n = 0;

	for (; s != NULL; s = s->from)
		n++;
	return n;
}

static bool may_read(struct reading *r, const struct source *from, struct config_place place, const char *file,
                     const char *real)
{
	if (depth(from) >= DEPTH_MAX)
		document_error(r->d, place, "%s: includes are more than %d deep", file, DEPTH_MAX - 1);
	else if (r->files == FILES_MAX)
		document_error(r->d, place, "%s: more than %d files", file, FILES_MAX);
	else
		for (const struct source *s = from;; s = s->from) {
			if (s == NULL)
				return true;
			if (real == NULL || s->real == NULL || strcmp(s->real, real) != 0)
				continue;
			document_error(r->d, place, "%s: includes itself", file);
			return false;
		}
	return false;
}

/* A file, and what it includes. Where it cannot be read, place is what names it. */
static void read_source(struct reading *r, const struct source *from, struct config_place place, const char *file)
{
	struct source s = {.r = r, .from = from, .real = realpath(file, NULL), .file = document_file(r->d, file)};
	size_t len;

	if (may_read(r, from, place, file, s.real)) {
		r->files++;
		char *text = reading_file(r->d, place, file, READING_FILE_MAX, &len);
		if (text != NULL) {
			s.next = text;
			read_lines(&s);
			free(text);
		}
	}
	free(s.real);
}

/* What a service does not say itself, defaults do. What is said of defaults alone need not be copied. */
static void inherit(struct reading *r, struct xinetd_entry *e)
{
	e->broken_defaults = r->defaults.broken;
	for (size_t i = 0; i < ATTRIBUTES; i++) {
		const struct attribute *a = &attributes[i];
		struct xinetd_value *v = &e->value[a->is];
		const struct xinetd_value *from = &r->defaults.value[a->is];
		if (v->set || !from->set || a->service == NOT_HERE || a->is == X_LOG_TYPE || a->is == X_BANNER_FAIL)
			continue;
		v->set = true;
		v->place = from->place;
		wordlist_copy(r->d, &v->words, &from->words);
	}
}

/* xinetd asks tcp_wrappers' files of every service that does not say NOLIBWRAP. Whether there are rules in them is not
 * looked at: what is imported may be another machine's. */
static void tell_of_libwrap(const struct reading *r)
{
	for (size_t i = 0; i < r->n; i++) {
		const struct xinetd_entry *e = r->entries[i];
		if (e->listen == NULL || wordlist_has(&e->value[X_FLAGS].words, "NOLIBWRAP"))
			continue;
		document_remark(
			r->d, NULL, e->place,
			"xinetd asks hosts.allow and hosts.deny, hark does not: exec = /usr/sbin/tcpd PROGRAM has "
			"rules in them kept");
		return;
	}
}

int import_xinetd(struct document *d, const char *file)
{
	struct reading r = {.d = d};

	read_source(&r, NULL, (struct config_place){.file = document_file(d, file)}, file);
	r.defaults.broken |= !xinetd_make_defaults(d, &r.defaults);
	for (size_t i = 0; i < r.n && !d->broken; i++)
		inherit(&r, r.entries[i]);
	for (size_t i = 0; i < r.n && !d->broken; i++)
		xinetd_make(d, r.entries, r.n, i, &r.defaults);
	tell_of_libwrap(&r);
	for (size_t i = 0; i < r.n; i++) {
		entry_done(r.entries[i]);
		free(r.entries[i]);
	}
	free(r.entries);
	entry_done(&r.defaults);
	return d->broken ? -ENOMEM : 0;
}
