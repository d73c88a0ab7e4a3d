/* inetd.c — inetd.conf into a document: Debian's (OpenBSD's), FreeBSD's, NetBSD's and GNU's, told apart by nothing
 * but what each line says. Any thread, one at a time.
 *
 * The seven columns are the same everywhere; what each dialect adds to them collides nowhere but in what "tcp" means
 * (see inetd_service.c), so all are read at once. NetBSD's key-value form is known by its second word, "on" or "off".
 */
#include "inetd.h"
#include "import.h"
#include "reading.h"

#include <errno.h>
#include <glob.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "file_open.h"

/* A file that is being read, on the stack of whoever reads it. */
struct inetd_source {
	const struct inetd_source *by; /* the one that includes it; NULL: none */
	dev_t dev;
	ino_t ino;
	int depth;
};

static void read_file(struct inetd *r, const char *file, struct config_place by);

/* Makes a comment of each line that holds a NUL byte or is too long, so that nothing below meets one. */
static void blank_bad_lines(struct inetd *r, const char *file, char *text, size_t n)
{
	int line = 1;

	for (char *p = text, *end = text + n, *next; p < end; p = next, line++) {
		char *newline = memchr(p, '\n', (size_t)(end - p));
		size_t len = (size_t)((newline != NULL ? newline : end) - p);
		next = newline != NULL ? newline + 1 : end;
		bool nul = memchr(p, '\0', len) != NULL;
		if (!nul && len <= INETD_LINE_MAX)
			continue;
		struct config_place place = {.file = file, .line = line};
		if (nul)
			document_error(r->document, place, "a NUL byte, which no text has: the line is not read");
		else
			document_error(r->document, place, "a line of %zu bytes; more than %d are not read", len,
			               INETD_LINE_MAX);
		memset(p, '#', len);
	}
}

static struct inetd_entry *new_entry(struct inetd *r, struct config_place place)
{
	if (r->n == INETD_SERVICES_MAX) {
		if (!r->full)
			document_error(r->document, place,
			               "more than %d services: this and all that follow are not read",
			               INETD_SERVICES_MAX);
		r->full = true;
		return NULL;
	}
	if ((r->n & (r->n - 1)) == 0) {
		struct inetd_entry *more = reallocarray(r->entries, r->n == 0 ? 1 : 2 * r->n, sizeof *more);
		if (more == NULL) {
			r->no_memory = true;
			return NULL;
		}
		r->entries = more;
	}
	return &r->entries[r->n++];
}

static void add_entry(struct inetd *r, const struct inetd_entry *e)
{
	struct inetd_entry *room = r->no_memory ? NULL : new_entry(r, e->place);

	if (room != NULL)
		*room = *e;
}

/* "#@ policy" holds for the lines that follow; Debian's update-inetd marks what it has switched off. */
static void take_comment(struct inetd *r, struct inetd_text *t)
{
	static const char off[] = "#<off>#";
	size_t left = (size_t)(t->end - t->at);

	if (left >= 2 && t->at[1] == '@') {
		t->at += 2;
		while (!inetd_at_end(t) && strchr(" \t\r", *t->at) != NULL)
			t->at++;
		const char *newline = memchr(t->at, '\n', (size_t)(t->end - t->at));
		size_t n = (size_t)((newline != NULL ? newline : t->end) - t->at);
		r->ipsec = n == 0 ? NULL : inetd_keep(r, t->at, n);
	} else if (left > strlen(off) && strncmp(t->at, off, strlen(off)) == 0) {
		struct inetd_text rest = *t;
		rest.at += strlen(off);
		while (!inetd_at_end(&rest) && strchr("# \t\r", *rest.at) != NULL)
			rest.at++;
		const char *word = inetd_word(r, &rest, false);
		if (word != NULL && *word != '\0')
			document_remark(r->document, NULL, inetd_place(t), "%s was switched off by update-inetd(8)",
			                word);
	}
	inetd_next_line(t);
}

static bool is_being_read(const struct inetd *r, const struct stat *st)
{
	for (const struct inetd_source *s = r->source; s != NULL; s = s->by)
		if (s->dev == st->st_dev && s->ino == st->st_ino)
			return true;
	return false;
}

/* A pattern is relative to the directory of the file that says it. */
static const char *beside(struct inetd *r, const char *file, const char *pattern)
{
	const char *slash = strrchr(file, '/');
	char *full;

	if (pattern[0] == '/' || slash == NULL)
		return pattern;
	if (asprintf(&full, "%.*s/%s", (int)(slash - file), file, pattern) < 0) {
		r->no_memory = true;
		return NULL;
	}
	const char *kept = inetd_keep(r, full, strlen(full));
	free(full);
	return kept;
}

/* Sorted, where NetBSD's has no order: the same files make the same document. What was said by "address:" and "#@"
 * before holds in the file too, and what it says of these ends with it. */
static void include(struct inetd *r, struct config_place place, const char *pattern)
{
	glob_t found = {0};
	const char *host = r->host, *ipsec = r->ipsec, *full = beside(r, place.file, pattern);

	if (full == NULL)
		return;
	int err = glob(full, 0, NULL, &found);
	if (err == GLOB_NOSPACE)
		r->no_memory = true;
	else if (err == GLOB_NOMATCH && strpbrk(full, "*?[") == NULL)
		document_error(r->document, place, ".include %s: %s", pattern, strerror(ENOENT));
	else if (err != 0 && err != GLOB_NOMATCH)
		document_error(r->document, place, ".include %s: cannot be searched", pattern);
	for (size_t i = 0; err == 0 && i < found.gl_pathc; i++) {
		read_file(r, found.gl_pathv[i], place);
		r->host = host;
		r->ipsec = ipsec;
	}
	globfree(&found);
}

static void take_directive(struct inetd *r, struct inetd_text *t, const char *word)
{
	struct config_place place = inetd_place(t);

	if (strcmp(word, ".include") != 0) {
		document_error(r->document, place, "\"%s\" is no directive: .include is the only one", word);
	} else {
		inetd_skip(t, false);
		const char *pattern = inetd_word(r, t, false);
		if (pattern != NULL && *pattern == '\0')
			document_error(r->document, place, ".include names no file");
		else if (pattern != NULL)
			include(r, place, pattern);
	}
	inetd_next_line(t);
}

/* FreeBSD's ":user:group:mode:/path". False: it was told what is wrong. */
static bool split_owner(struct inetd *r, struct inetd_entry *e, const char *word)
{
	const char *path = strstr(word, ":/");
	int colons = 0;

	for (const char *p = word; path != NULL && p < path; p++)
		colons += *p == ':';
	if (path == NULL || colons != 3) {
		document_error(r->document, e->place, "\"%s\" is not :USER:GROUP:MODE:/PATH", word);
		return false;
	}
	e->owner = inetd_keep(r, word + 1, (size_t)(path - word - 1));
	e->service = path + 1;
	return true;
}

/* "address:service" into its two; a path may hold a ':' itself. False: it was told what is wrong. */
static bool split_host(struct inetd *r, struct inetd_entry *e, const char *word)
{
	if (word[0] == ':' && word[1] != ':') /* "::1:ftp" is an address */
		return split_owner(r, e, word);
	const char *colon = strstr(word, ":/");
	if (colon == NULL)
		colon = strrchr(word, ':');
	if (word[0] == '/' || word[0] == '@' || colon == NULL) {
		e->service = word;
		return true;
	}
	e->host = inetd_keep(r, word, (size_t)(colon - word));
	e->service = colon + 1;
	return true;
}

/* The columns after the service's name; the type has been read. */
static void read_columns(struct inetd *r, struct inetd_text *t, struct inetd_entry *e)
{
	const struct {
		const char **text;
		const char *what;
	} columns[] = {
		{&e->protocol, "protocol"},
		{&e->wait, "wait or nowait"},
		{&e->user, "user"},
		{&e->program, "program"},
	};

	for (size_t i = 0; i < sizeof columns / sizeof *columns; i++) {
		inetd_skip(t, false);
		const char *word = inetd_word(r, t, false);
		if (word == NULL)
			return;
		if (*word == '\0') {
			document_error(
				r->document, e->place,
				"%s: the line ends before its %s: SERVICE TYPE PROTOCOL WAIT USER PROGRAM ARGUMENT... "
				"belongs here",
				e->service, columns[i].what);
			return;
		}
		*columns[i].text = word;
	}
	for (inetd_skip(t, false); !inetd_at_end(t) && !r->no_memory; inetd_skip(t, false))
		inetd_add(r, &e->argv, inetd_word(r, t, false));
	if (e->host == NULL)
		e->host = r->host;
	add_entry(r, e);
}

/* "service on a = b, …;". NetBSD takes "on#comment" for "on" as well. */
static bool is_switch(const char *word)
{
	return strcmp(word, "on") == 0 || strcmp(word, "off") == 0 || strncmp(word, "on#", 3) == 0 ||
	       strncmp(word, "off#", 4) == 0;
}

static void read_entry(struct inetd *r, struct inetd_text *t, struct inetd_entry *e)
{
	inetd_skip(t, false);
	const char *word = inetd_word(r, t, false);

	if (word == NULL)
		return;
	if (is_switch(word)) {
		e->off = strncmp(word, "off", 3) == 0;
		if (strchr(word, '#') != NULL)
			inetd_next_line(t);
		if (!inetd_read_keys(r, t, e))
			return;
		if (e->host == NULL)
			e->host = r->host;
		add_entry(r, e);
		return;
	}
	if (*word == '\0') {
		document_error(r->document, e->place, "%s: the line ends before its socket type", e->service);
		return;
	}
	e->type = word;
	read_columns(r, t, e);
	inetd_next_line(t); /* after its columns there is nothing but its end */
}

/* A service, or "address:" alone, which is for the lines that follow. */
static void read_service(struct inetd *r, struct inetd_text *t, const char *word)
{
	struct inetd_entry e = {.place = inetd_place(t), .ipsec = r->ipsec};

	if (!split_host(r, &e, word)) {
		inetd_next_line(t);
		return;
	}
	if (r->no_memory)
		return;
	if (*e.service == '\0') {
		inetd_skip(t, false);
		if (inetd_at_end(t)) {
			r->host = e.host;
			return;
		}
		if ((e.service = inetd_word(r, t, false)) == NULL)
			return;
	}
	read_entry(r, t, &e);
}

static void read_text(struct inetd *r, struct inetd_text *t)
{
	static const char mark[] = "\xef\xbb\xbf"; /* U+FEFF, which some editors begin a file with */

	if (t->end - t->at >= 3 && memcmp(t->at, mark, 3) == 0)
		t->at += 3;
	while (t->at < t->end && !r->no_memory && !document_broken(r->document)) {
		while (!inetd_at_end(t) && strchr(" \t\r\v\f", *t->at) != NULL)
			t->at++;
		if (inetd_at_end(t)) {
			inetd_next_line(t);
			continue;
		}
		if (*t->at == '#') {
			take_comment(r, t);
			continue;
		}
		const char *word = inetd_word(r, t, false);
		if (word == NULL)
			return;
		if (word[0] == '\0') {
			document_error(r->document, inetd_place(t), "a service without a name");
			inetd_next_line(t);
		} else if (word[0] == '.')
			take_directive(r, t, word);
		else
			read_service(r, t, word);
	}
}

/* Of one that is open. */
static int read_fd(struct inetd *r, int fd, const char *name)
{
	struct inetd_text t = {.file = name, .line = 1};
	char *text;
	size_t n;
	int err = reading_all(fd, INETD_FILE_MAX, &text, &n);

	if (err < 0)
		return err;
	blank_bad_lines(r, name, text, n);
	t.at = text;
	t.end = text + n;
	read_text(r, &t);
	free(text);
	return 0;
}

/* One that may not be read: it includes itself, or there are too many. */
static bool is_refused(struct inetd *r, const struct stat *st, const char *name, struct config_place by)
{
	if (is_being_read(r, st))
		document_error(r->document, by,
		               ".include %s: it is being read already: it would include itself for ever", name);
	else if (r->source != NULL && r->source->depth == INETD_DEPTH_MAX)
		document_error(r->document, by, ".include %s: more than %d files deep", name, INETD_DEPTH_MAX);
	else if (r->files < INETD_FILES_MAX)
		return false;
	else if (!r->full)
		document_error(r->document, by, "%s: more than %d files in all: this and all that follow are not read",
		               name, INETD_FILES_MAX);
	r->full = r->full || r->files >= INETD_FILES_MAX;
	return true;
}

/* Its descriptor, or -errno. What was asked for may be open here already, as /dev/stdin; what is included may not. */
static int open_source(const char *file, bool included, struct stat *st)
{
	if (included && stat(file, st) == 0 && !S_ISREG(st->st_mode))
		return -EINVAL;
	int fd = file_open(file, INETD_FILE_MAX);
	if (fd >= 0 && fstat(fd, st) < 0) {
		int err = -errno;
		(void)close(fd);
		return err;
	}
	return fd;
}

/* by: who asks for it; of line 0 it is the caller of import_inetd(). */
static void read_file(struct inetd *r, const char *file, struct config_place by)
{
	const char *name = document_file(r->document, file);
	bool included = by.line > 0;
	struct stat st;
	int fd = open_source(file, included, &st), err = fd < 0 ? fd : 0;

	if (fd >= 0 && is_refused(r, &st, name, by)) {
		r->document->unread |= !included;
	} else if (fd >= 0) {
		struct inetd_source source = {.by = r->source, .dev = st.st_dev, .ino = st.st_ino};
		source.depth = source.by != NULL ? source.by->depth + 1 : 1;
		r->source = &source;
		r->files++;
		err = read_fd(r, fd, name);
		r->source = source.by;
	}
	if (err == -ENOMEM)
		r->no_memory = true;
	else if (err < 0)
		document_error(r->document, by, "%s%s%s", included ? file : "", included ? ": " : "",
		               file_open_error(err));
	r->document->unread |= err < 0 && !included;
	if (fd >= 0)
		(void)close(fd);
}

int import_inetd(struct document *d, const char *file)
{
	struct inetd r = {.document = d, .host = "*"};
	struct config_place place = {.file = document_file(d, file)};

	read_file(&r, file, place);
	if (!r.no_memory)
		inetd_translate(&r);
	inetd_forget(&r);
	free(r.entries);
	if (r.no_memory)
		d->broken = true;
	return document_broken(d) ? -ENOMEM : 0;
}
