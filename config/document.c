/* document.c — see document.h. Any thread, one at a time; all memory is the document's.
 *
 * What is put in comes from foreign files. It is made harmless here, once, and not in each reader: a name has a section
 * name's characters alone, a value no control character, a remark is one line of printable bytes. So whatever a reader
 * puts in, what is printed has the settings and sections that the document has. */
#include "document.h"

#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define NAME_MAX_BYTES \
	40 /* of a section: with a "-1234" as well it is a name that the reader of hark.conf keeps whole */

struct document *document_new(void)
{
	return calloc(1, sizeof(struct document));
}

static void lines_free(struct document_section *s)
{
	for (size_t i = 0; i < s->n; i++) {
		free(s->lines[i].key);
		free(s->lines[i].value);
	}
	free(s->lines);
}

static void section_free(struct document_section *s)
{
	lines_free(s);
	free(s->name);
	free(s);
}

void document_free(struct document *d)
{
	if (d == NULL)
		return;
	for (size_t i = 0; i < d->n; i++)
		section_free(d->sections[i]);
	for (size_t i = 0; i < d->n_errors; i++)
		free(d->errors[i]);
	for (size_t i = 0; i < d->n_files; i++)
		free(d->files[i]);
	lines_free(&d->head);
	free(d->sections);
	free(d->errors);
	free(d->files);
	free(d);
}

bool document_broken(const struct document *d)
{
	return d->broken;
}

/* Room for one more in an array of n: it grows where n is a power of two, so that no capacity need be kept. NULL: there
 * is none, the document is broken and the old array stays. */
static void *room(struct document *d, void *array, size_t n, size_t size)
{
	if ((n & (n - 1)) != 0)
		return array;
	void *more = reallocarray(array, n == 0 ? 1 : 2 * n, size);
	if (more == NULL)
		d->broken = true;
	return more;
}

/* Adds text, which is then the array's; where that fails text is freed. NULL is a text that could not be made. The
 * place it got, or NULL. */
static char *add_text(struct document *d, char ***array, size_t *n, char *text)
{
	char **more = text == NULL || d->broken ? NULL : room(d, *array, *n, sizeof **array);

	if (more == NULL) {
		d->broken = true;
		free(text);
		return NULL;
	}
	*array = more;
	more[(*n)++] = text;
	return text;
}

const char *document_file(struct document *d, const char *file)
{
	for (size_t i = d->n_files; i > 0; i--)
		if (strcmp(d->files[i - 1], file) == 0)
			return d->files[i - 1];
	const char *kept = add_text(d, &d->files, &d->n_files, strdup(file));
	return kept != NULL ? kept : "";
}

/* The characters a section's name may have, the others as '-'. */
static void clean_name(const char *name, char *buf, size_t cap)
{
	size_t n = 0;

	for (; *name != '\0' && n < cap - 1; name++) {
		unsigned char c = (unsigned char)*name;
		bool good = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
		            strchr("._-", c) != NULL;
		buf[n++] = good ? (char)c : '-';
	}
	buf[n] = '\0';
	if (n == 0)
		(void)snprintf(buf, cap, "service");
	/* Which hark.conf keeps for itself. */
	if (strcmp(buf, "harkd") == 0 || strcmp(buf, "defaults") == 0)
		(void)strcat(buf, "-service");
}

/* 0: no section has the name; else the number that makes it new: one above the highest taken. One walk, however many
 * have it: a file may name one service ten thousand times. */
static unsigned long next_number(const struct document *d, const char *name)
{
	size_t len = strlen(name);
	unsigned long highest = 1;
	bool taken = false;

	for (size_t i = 0; i < d->n; i++) {
		const char *other = d->sections[i]->name;
		if (strncmp(other, name, len) != 0)
			continue;
		taken = taken || other[len] == '\0';
		size_t digits = other[len] == '-' ? strspn(other + len + 1, "0123456789") : 0;
		if (digits == 0 || digits > 9 || other[len + 1 + digits] != '\0')
			continue;
		unsigned long number = strtoul(other + len + 1, NULL, 10);
		highest = number > highest ? number : highest;
	}
	return taken ? highest + 1 : 0;
}

struct document_section *document_section(struct document *d, const char *name, struct config_place place)
{
	char clean[NAME_MAX_BYTES + 1], unique[NAME_MAX_BYTES + 24];

	if (d->broken)
		return NULL;
	clean_name(name, clean, sizeof clean);
	unsigned long number = next_number(d, clean);
	if (number == 0)
		(void)snprintf(unique, sizeof unique, "%s", clean);
	else
		(void)snprintf(unique, sizeof unique, "%s-%lu", clean, number);
	struct document_section *s = calloc(1, sizeof *s);
	struct document_section **more = room(d, d->sections, d->n, sizeof *more);
	if (more != NULL)
		d->sections = more;
	if (s == NULL || more == NULL || (s->name = strdup(unique)) == NULL) {
		free(s);
		d->broken = true;
		return NULL;
	}
	s->place = place;
	more[d->n++] = s;
	return s;
}

/* Takes key and value over, even on failure. */
static void add_line(struct document *d, struct document_section *s, enum document_kind kind, struct config_place place,
                     char *key, char *value)
{
	struct document_line *more = NULL;

	if (value != NULL && (kind == DOCUMENT_REMARK || key != NULL))
		more = room(d, s->lines, s->n, sizeof *more);
	if (more == NULL) {
		d->broken = true;
		free(key);
		free(value);
		return;
	}
	s->lines = more;
	more[s->n++] = (struct document_line){.kind = kind, .key = key, .value = value, .place = place};
}

static bool is_control(unsigned char c)
{
	return c < 0x20 || c == 0x7f;
}

/* Blanks at the ends go, as they would where the value is read from a file. */
static void trim(char *text)
{
	size_t n = strlen(text), lead = strspn(text, " \t");

	while (n > lead && strchr(" \t", text[n - 1]) != NULL)
		n--;
	memmove(text, text + lead, n - lead);
	text[n - lead] = '\0';
}

void document_set(struct document *d, struct document_section *s, struct config_place place, const char *key,
                  const char *format, ...)
{
	va_list args;
	char *value;

	if (d->broken || s == NULL)
		return;
	va_start(args, format);
	int n = vasprintf(&value, format, args);
	va_end(args);
	if (n < 0) {
		d->broken = true;
		return;
	}
	trim(value);
	for (const char *p = value; *p != '\0'; p++) {
		if (!is_control((unsigned char)*p) || *p == '\t')
			continue;
		document_error(d, place, "%s = %s: a control character, which no setting may have", key, value);
		free(value);
		return;
	}
	d->fates[DOCUMENT_CARRIED]++;
	add_line(d, s, DOCUMENT_SETTING, place, strdup(key), value);
}

void document_disable(struct document *d, struct document_section *s, struct config_place place)
{
	document_set(d, s, place, "disable", "yes");
	if (s != NULL)
		s->disabled = true;
}

/* Foreign bytes that could end a line or talk to a terminal are shown as '?'. */
static void mask(char *text)
{
	for (; *text != '\0'; text++)
		if (is_control((unsigned char)*text))
			*text = '?';
}

__attribute__((format(printf, 5, 0))) static void add_remark(struct document *d, struct document_section *s,
                                                             struct config_place place, const char *before,
                                                             const char *format, va_list args)
{
	char *words, *value;

	if (vasprintf(&words, format, args) < 0) {
		d->broken = true;
		return;
	}
	mask(words);
	if (asprintf(&value, "%s%s", before, words) < 0)
		value = NULL;
	free(words);
	add_line(d, s == NULL ? &d->head : s, DOCUMENT_REMARK, place, NULL, value);
}

void document_remark(struct document *d, struct document_section *s, struct config_place place, const char *format, ...)
{
	va_list args;

	if (d->broken)
		return;
	va_start(args, format);
	add_remark(d, s, place, "", format, args);
	va_end(args);
}

void document_drop(struct document *d, struct document_section *s, struct config_place place, const char *format, ...)
{
	va_list args;

	if (d->broken)
		return;
	d->fates[DOCUMENT_DROPPED]++;
	va_start(args, format);
	add_remark(d, s, place, DOCUMENT_NOT_CARRIED, format, args);
	va_end(args);
}

void document_refuse(struct document *d, struct config_place place, const char *name, const char *why)
{
	document_drop(d, NULL, place, "service %s: %s", name, why);
	d->refused++;
}

void document_error(struct document *d, struct config_place place, const char *format, ...)
{
	va_list args;
	char *words, *text;
	int n;

	if (d->broken)
		return;
	va_start(args, format);
	n = vasprintf(&words, format, args);
	va_end(args);
	if (n < 0) {
		d->broken = true;
		return;
	}
	n = place.line > 0 ? asprintf(&text, "%s:%d: %s", place.file, place.line, words)
	                   : asprintf(&text, "%s: %s", place.file, words);
	free(words);
	if (n >= 0)
		mask(text);
	(void)add_text(d, &d->errors, &d->n_errors, n < 0 ? NULL : text);
}

const char *document_get(const struct document_section *s, const char *key)
{
	for (size_t i = s == NULL ? 0 : s->n; i > 0; i--)
		if (s->lines[i - 1].kind == DOCUMENT_SETTING && strcasecmp(s->lines[i - 1].key, key) == 0)
			return s->lines[i - 1].value;
	return NULL;
}

/* What was counted as carried or dropped for the section is taken back with it. */
void document_remove(struct document *d, struct document_section *s)
{
	for (size_t i = 0; s != NULL && i < d->n; i++) {
		if (d->sections[i] != s)
			continue;
		for (size_t k = 0; k < s->n; k++) {
			if (s->lines[k].kind == DOCUMENT_SETTING)
				d->fates[DOCUMENT_CARRIED]--;
			else if (strncmp(s->lines[k].value, DOCUMENT_NOT_CARRIED, strlen(DOCUMENT_NOT_CARRIED)) == 0)
				d->fates[DOCUMENT_DROPPED]--;
		}
		memmove(d->sections + i, d->sections + i + 1, (d->n - i - 1) * sizeof *d->sections);
		/* room() counts on an array's room being the next power of two: it may now have more, never less. */
		d->n--;
		section_free(s);
		return;
	}
}

/* A file's name is foreign as well. */
static void print_file(const char *file, FILE *to)
{
	for (; *file != '\0'; file++)
		fputc(is_control((unsigned char)*file) ? '?' : *file, to);
}

static void print_line(const struct document_line *l, FILE *to)
{
	if (l->kind == DOCUMENT_SETTING)
		fprintf(to, "%s = %s\n", l->key, l->value);
	else
		fprintf(to, "#%s%s\n", l->value[0] != '\0' ? " " : "", l->value);
}

/* A remark that belongs to no section tells what it is about by its place. */
static void print_head(const struct document *d, FILE *to)
{
	for (size_t i = 0; i < d->head.n; i++) {
		const struct document_line *l = &d->head.lines[i];
		if (l->place.line > 0) {
			fputs("# ", to);
			print_file(l->place.file, to);
			fprintf(to, ":%d: %s\n", l->place.line, l->value);
		} else {
			print_line(l, to);
		}
	}
}

static void print_section(const struct document_section *s, FILE *to)
{
	fprintf(to, "[%s]\n", s->name);
	if (s->place.line > 0) {
		fputs("# ", to);
		print_file(s->place.file, to);
		fprintf(to, ":%d\n", s->place.line);
	}
	for (size_t i = 0; i < s->n; i++)
		print_line(&s->lines[i], to);
}

int document_print(const struct document *d, FILE *to)
{
	if (d->broken)
		return -ENOMEM;
	print_head(d, to);
	for (size_t i = 0; i < d->n; i++) {
		if (i > 0 || d->head.n > 0)
			fputc('\n', to);
		print_section(d->sections[i], to);
	}
	errno = 0;
	if (fflush(to) != 0 || ferror(to))
		return errno != 0 ? -errno : -EIO;
	return 0;
}

/* A blank, a quote, a backslash would end or change a plain word; ';' and '#' might begin a comment; an empty one would
 * vanish. */
static bool needs_quotes(const char *word)
{
	return *word == '\0' || strpbrk(word, " \t\n\r\v\f\"'\\;#") != NULL;
}

const char *document_quote(const char *word, char *buf, size_t cap)
{
	bool quotes = needs_quotes(word);
	size_t n = 0;

	if (cap == 0)
		return buf;
	if (quotes && n + 1 < cap)
		buf[n++] = '"';
	for (; *word != '\0'; word++) {
		char c = *word == '\n' ? 'n' : *word == '\t' ? 't' : *word;
		bool escape = c != *word || c == '"' || c == '\\';
		if (n + (escape ? 2 : 1) + (quotes ? 1 : 0) >= cap)
			break;
		if (escape)
			buf[n++] = '\\';
		buf[n++] = c;
	}
	if (quotes && n + 1 < cap)
		buf[n++] = '"';
	buf[n] = '\0';
	return buf;
}
