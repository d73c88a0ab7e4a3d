/* read.c — hark.conf's bytes become sections of settings. The INI is libinih's: it tells section heads, keys and
 * comments.
 *
 * How long a line may be in inih, whether " ;" within one begins a comment, whether an indented line continues the
 * one before, whether the handler is told line numbers: all that was chosen by whoever compiled it (Debian's: 200
 * bytes, what is longer is taken for the next line; yes; yes; no). None of this may depend on a distribution, and a
 * program's arguments must never be cut. So inih reads through reader() below, which
 *
 *   - joins lines that end in a backslash, drops blanks at both ends, a carriage return, and a BOM;
 *   - refuses control characters and lines too long to be meant;
 *   - counts lines;
 *   - keeps each value back and gives inih a "1" in its place: the value comes through whole, whatever is in it.
 *
 * A line that inih did not make a setting of is noticed because handler() was not called for it. */
#include "file_open.h"
#include "inside.h"

#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <ini.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define BLANKS        " \t"
#define KEY_BYTES_MAX 64  /* no key is as long; inih has room for 197 bytes in a line */
#define HEAD          "=" /* after a section's head: has handler() called, though no setting may follow */
#define INIH_NAME_MAX 49  /* bytes that inih keeps of a section's name */

/* The file that is being read, and those that include it. */
struct reader {
	struct whole *w;
	const char *file;
	const struct reader *outer;
	dev_t dev;
	ino_t ino;
	int depth;

	const char *bytes;
	size_t n, next; /* next: where the next line begins */
	int line;       /* of the next line's number, less one */
	char *text;     /* the line at hand with its continuations; LINE_BYTES_MAX + 1 bytes */

	struct at at;
	const char *head;  /* name of the section whose head is at hand; NULL: the line is a setting */
	const char *value; /* of the setting at hand; in text */
	bool waiting;      /* inih has a line for which handler() must be called */
	bool head_given;   /* inih has the head's line, not yet what follows it */
	bool lost;         /* the last head was bad: what follows it belongs nowhere */
	struct section *section;
};

static void read_file(struct whole *w, const struct reader *outer, const char *file, struct at at);

/* ---- lines ---- */

struct span {
	const char *at;
	size_t n;
};

static void trim_front(struct span *s)
{
	while (s->n > 0 && strchr(BLANKS, *s->at) != NULL) {
		s->at++;
		s->n--;
	}
}

/* The next physical line, without its end. */
static struct span physical_line(struct reader *r)
{
	struct span s = {.at = r->bytes + r->next};
	const char *end = memchr(s.at, '\n', r->n - r->next);

	s.n = end != NULL ? (size_t)(end - s.at) : r->n - r->next;
	r->next += s.n + (end != NULL);
	r->line++;
	s.n -= s.n > 0 && s.at[s.n - 1] == '\r';
	if (r->line == 1 && s.n >= 3 && memcmp(s.at, "\xef\xbb\xbf", 3) == 0) {
		s.at += 3;
		s.n -= 3;
	}
	return s;
}

static const char *bad_bytes(struct span s)
{
	for (size_t i = 0; i < s.n; i++)
		if (((unsigned char)s.at[i] < 0x20 && s.at[i] != '\t') || s.at[i] == 0x7f)
			return s.at[i] == '\0' ? "a NUL byte in the line" : "a control character in the line";
	return NULL;
}

static bool continues(struct span s)
{
	size_t slashes = 0;

	while (slashes < s.n && s.at[s.n - 1 - slashes] == '\\')
		slashes++;
	return slashes % 2 == 1;
}

/* The next line with its continuations, blanks off both ends, is put in text; one that is wrong is empty. False:
 * there is none. */
static bool next_line(struct reader *r)
{
	size_t n = 0;
	bool more = r->next < r->n, first = true, wrong = false;

	if (!more)
		return false;
	r->at = inside_at(r->w, r->file, r->line + 1);
	for (; more && r->next < r->n; first = false) {
		struct span s = physical_line(r);
		trim_front(&s);
		const char *bad = bad_bytes(s);
		if (bad == NULL && n + s.n > LINE_BYTES_MAX)
			bad = "the line is longer than 65536 bytes";
		if (bad != NULL && !wrong)
			inside_error(r->w, inside_at(r->w, r->file, r->line), "%s", bad);
		wrong = wrong || bad != NULL;
		more = continues(s) && !(first && s.n > 0 && (s.at[0] == '#' || s.at[0] == ';'));
		if (wrong)
			continue;
		memcpy(r->text + n, s.at, s.n);
		n += s.n;
		if (more)
			r->text[n - 1] = ' '; /* the backslash */
	}
	n = wrong ? 0 : n;
	while (n > 0 && strchr(BLANKS, r->text[n - 1]) != NULL)
		n--;
	r->text[n] = '\0';
	return true;
}

/* ---- what inih is given ---- */

/* "[name]" becomes just that, with name in text. False: it is none, as was said. */
static bool take_head(struct reader *r)
{
	char *end = strchr(r->text, ']');

	r->lost = true;
	r->section = NULL;
	if (end == NULL) {
		inside_error(r->w, r->at, "the \"[\" has no \"]\"");
		return false;
	}
	if (end[1] != '\0') {
		inside_error(r->w, r->at, "\"%.40s\" follows the section's head (a comment needs a line of its own)",
		             end + 1);
		return false;
	}
	*end = '\0';
	r->head = r->text + 1;
	return true;
}

/* "key = value": value is kept back, text is cut after the key. False: it is none, as was said. */
static bool take_setting(struct reader *r)
{
	size_t n = strcspn(r->text, "=:");
	char *value = r->text + n + 1;

	if (r->text[n] != '=' || n == 0) {
		inside_error(r->w, r->at, "this is neither [section] nor KEY = VALUE: %.60s", r->text);
		return false;
	}
	while (n > 0 && strchr(BLANKS, r->text[n - 1]) != NULL)
		n--;
	r->text[n] = '\0';
	if (n > KEY_BYTES_MAX) {
		inside_error(r->w, r->at, "no such key: %.60s...", r->text);
		return false;
	}
	r->head = NULL;
	r->value = value + strspn(value, BLANKS);
	return true;
}

/* The line before this one was for inih to make a setting of. */
static void check_taken(struct reader *r)
{
	if (r->waiting)
		inside_error(r->w, r->at, "this is neither [section] nor KEY = VALUE: %.60s", r->text);
	r->waiting = false;
}

/* inih's reader function, in the manner of fgets(3). */
static char *reader(char *buf, int cap, void *arg)
{
	struct reader *r = arg;

	if (r->head_given) {
		r->head_given = false;
		r->waiting = true;
		(void)snprintf(buf, (size_t)cap, HEAD "\n");
		return buf;
	}
	check_taken(r);
	while (next_line(r)) {
		int n;
		if (r->text[0] == '\0' || r->text[0] == '#' || r->text[0] == ';')
			continue;
		if (r->text[0] == '[') {
			if (!take_head(r))
				continue;
			r->head_given = true;
			n = snprintf(buf, (size_t)cap, "[%.*s]\n", INIH_NAME_MAX, r->head);
		} else {
			if (!take_setting(r))
				continue;
			r->waiting = true;
			n = snprintf(buf, (size_t)cap, "%s=1\n", r->text);
		}
		if (n > 0 && n < cap)
			return buf;
		inside_error(r->w, r->at, "the line is too long for inih as it was built here");
		r->head_given = r->waiting = false;
	}
	return NULL;
}

/* ---- includes ---- */

static char *join_path(struct whole *w, const char *file, const char *pattern)
{
	const char *slash = strrchr(file, '/');
	char *path, *to;

	if (pattern[0] == '/' || slash == NULL)
		return inside_copy(w, pattern, strlen(pattern));
	/* The directory's own name is no pattern. */
	path = malloc(2 * (size_t)(slash - file) + strlen(pattern) + 2);
	if (path == NULL) {
		w->no_memory = true;
		return NULL;
	}
	to = path;
	for (const char *from = file; from <= slash; from++) {
		if (strchr("*?[\\", *from) != NULL)
			*to++ = '\\';
		*to++ = *from;
	}
	strcpy(to, pattern);
	return path;
}

static void include(struct reader *r, const char *pattern)
{
	glob_t found = {0};

	if (r->section != NULL && strcmp(r->section->name, "harkd") != 0)
		return; /* inside_setting() says that this is no key of a service */
	if (pattern[0] == '\0')
		return inside_error(r->w, r->at, "include: no file is named");
	if (r->depth >= INCLUDE_DEPTH_MAX)
		return inside_error(r->w, r->at, "include: %s: more than %d files deep", pattern, INCLUDE_DEPTH_MAX);
	char *path = join_path(r->w, r->file, pattern);
	if (path == NULL)
		return;
	bool many = strpbrk(pattern, "*?[") != NULL;
	int err = glob(path, many ? 0 : GLOB_NOCHECK, NULL, &found);
	if (err == GLOB_NOSPACE)
		r->w->no_memory = true;
	else if (err != 0 && err != GLOB_NOMATCH)
		inside_error(r->w, r->at, "include: %s: cannot be read", pattern);
	struct at at = r->at;
	for (size_t i = 0; err == 0 && i < found.gl_pathc; i++)
		read_file(r->w, r, found.gl_pathv[i], at);
	globfree(&found);
	free(path);
}

/* inih's handler. Its value is the placeholder: r has the real one. */
static int take(struct reader *r, const char *name)
{
	r->waiting = false;
	if (r->head != NULL) {
		r->section = inside_section(r->w, r->head, r->at);
		r->lost = r->section == NULL;
		return 1;
	}
	if (r->lost)
		return 1;
	if (strcmp(name, "include") == 0)
		include(r, r->value);
	inside_setting(r->w, r->section, r->at, name, r->value);
	return 1;
}

#if INI_HANDLER_LINENO
static int handler(void *arg, const char *section, const char *name, const char *value, int line)
{
	(void)section, (void)value, (void)line;
	return take(arg, name);
}
#else
static int handler(void *arg, const char *section, const char *name, const char *value)
{
	(void)section, (void)value;
	return take(arg, name);
}
#endif

/* ---- files ---- */

static void read_lines(struct reader *r)
{
	r->text = malloc(LINE_BYTES_MAX + 1);
	if (r->text == NULL) {
		r->w->no_memory = true;
		return;
	}
	int err = ini_parse_stream(reader, r, handler, r);
	check_taken(r);
	if (err == -2)
		r->w->no_memory = true;
	free(r->text);
}

void inside_read_bytes(struct whole *w, const char *file, const char *bytes, size_t n)
{
	struct reader r = {.w = w, .file = inside_file(w, file), .bytes = bytes, .n = n};

	read_lines(&r);
}

/* Reads fd to its end. The bytes are the caller's to free. */
static int slurp(int fd, char **bytes, size_t *n)
{
	size_t cap = 0;

	*bytes = NULL;
	*n = 0;
	for (;;) {
		if (*n == cap) {
			cap = cap == 0 ? 16384 : 4 * cap;
			char *more = realloc(*bytes, cap);
			if (more == NULL)
				return -ENOMEM;
			*bytes = more;
		}
		ssize_t got = read(fd, *bytes + *n, cap - *n);
		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			return got < 0 ? -errno : 0;
		*n += (size_t)got;
		if (*n > FILE_BYTES_MAX)
			return -EFBIG;
	}
}

/* Opens it and says who it is. An included file must be a regular one: a pattern may match a FIFO, which would be
 * waited for. */
static int open_file(struct reader *r)
{
	struct stat st;
	int fd = r->outer != NULL ? open(r->file, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK)
	                          : file_open(r->file, FILE_BYTES_MAX);

	if (fd < 0)
		return r->outer != NULL ? -errno : fd;
	int err = fstat(fd, &st) < 0 ? -errno : S_ISDIR(st.st_mode) ? -EISDIR : 0;
	if (err == 0 && r->outer != NULL && !S_ISREG(st.st_mode))
		err = -EINVAL;
	if (err < 0) {
		(void)close(fd);
		return err;
	}
	r->dev = st.st_dev;
	r->ino = st.st_ino;
	return fd;
}

static bool is_open(const struct reader *r)
{
	for (const struct reader *o = r->outer; o != NULL; o = o->outer)
		if (o->dev == r->dev && o->ino == r->ino)
			return true;
	return false;
}

/* at: of the include, for what cannot be read; nowhere: the file itself. */
static void cannot_read(struct whole *w, struct at at, const char *file, const char *why)
{
	if (at.file != NULL)
		inside_error(w, at, "include: %s: %s", file, why);
	else
		inside_error(w, inside_at(w, inside_file(w, file), 0), "%s", why);
}

static void read_file(struct whole *w, const struct reader *outer, const char *file, struct at at)
{
	struct reader r = {.w = w,
	                   .file = inside_file(w, file),
	                   .outer = outer,
	                   .depth = outer != NULL ? outer->depth + 1 : 0};
	char *bytes;

	if (w->n_files > FILES_MAX || w->total_bytes > TOTAL_BYTES_MAX)
		return cannot_read(w, at, file, "there are too many files, or they are too long");
	int fd = open_file(&r);
	if (fd < 0)
		return cannot_read(w, at, file, fd == -EFBIG ? "longer than 1 MB" : file_open_error(fd));
	if (is_open(&r)) {
		cannot_read(w, at, file, "includes itself");
		(void)close(fd);
		return;
	}
	int err = slurp(fd, &bytes, &r.n);
	(void)close(fd);
	r.bytes = bytes;
	w->total_bytes += r.n;
	if (err == -ENOMEM)
		w->no_memory = true;
	else if (err == -EFBIG || w->total_bytes > TOTAL_BYTES_MAX)
		cannot_read(w, at, file, err < 0 ? "longer than 1 MB" : "all files together are longer than 8 MB");
	else if (err < 0)
		cannot_read(w, at, file, hark_strerror(err));
	else
		read_lines(&r);
	free(bytes);
}

void inside_read(struct whole *w, const char *file)
{
	read_file(w, NULL, file, (struct at){0});
}
