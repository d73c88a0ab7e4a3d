/* inside.c — memory, messages and sections: see inside.h. */
#include "inside.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "nearest.h"
#include "text.h"

void *inside_room(struct whole *w, void *array, size_t n, size_t size)
{
	if ((n & (n - 1)) != 0) /* it grows where n is a power of two: no capacity need be kept */
		return array;
	void *more = reallocarray(array, n == 0 ? 1 : 2 * n, size);
	if (more == NULL)
		w->no_memory = true;
	return more;
}

char *inside_copy(struct whole *w, const char *text, size_t n)
{
	char *copy = strndup(text, n);

	if (copy == NULL)
		w->no_memory = true;
	return copy;
}

int inside_add_word(struct whole *w, struct config_words *to, char *word)
{
	/* n words and the NULL after them. */
	char **more = word != NULL ? inside_room(w, to->word, to->n + 1, sizeof *more) : NULL;

	if (more == NULL) {
		free(word);
		return -1;
	}
	to->word = more;
	more[to->n++] = word;
	more[to->n] = NULL;
	return 0;
}

void inside_free_words(struct config_words *words)
{
	for (size_t i = 0; i < words->n; i++)
		free(words->word[i]);
	free(words->word);
	*words = (struct config_words){0};
}

const char *inside_file(struct whole *w, const char *name)
{
	for (size_t i = w->n_files; i > 0; i--)
		if (strcmp(w->files[i - 1], name) == 0)
			return w->files[i - 1];
	char *copy = inside_copy(w, name, strlen(name));
	char **more = copy != NULL ? inside_room(w, w->files, w->n_files, sizeof *more) : NULL;
	if (more == NULL) {
		free(copy);
		return "";
	}
	w->files = more;
	return more[w->n_files++] = copy;
}

struct at inside_at(struct whole *w, const char *file, int line)
{
	return (struct at){.file = file, .line = line, .order = ++w->order};
}

static char *message_text(struct at at, const char *words)
{
	char *text;
	int n;

	if (at.file == NULL)
		n = asprintf(&text, "%s", words);
	else if (at.line == 0)
		n = asprintf(&text, "%s: %s", at.file, words);
	else
		n = asprintf(&text, "%s:%d: %s", at.file, at.line, words);
	if (n < 0)
		return NULL;
	/* What comes from a file must not write to the terminal that reads the message. */
	text_scrub(&(struct text){.buf = text, .len = (size_t)n});
	return text;
}

void inside_message(struct whole *w, enum message_kind kind, struct at at, const char *format, ...)
{
	char words[1024];
	va_list args;

	if (w->n_messages >= MESSAGES_MAX) {
		w->too_many = true;
		return;
	}
	va_start(args, format);
	(void)vsnprintf(words, sizeof words, format, args);
	va_end(args);
	char *text = message_text(at, words);
	struct message *more = text != NULL ? inside_room(w, w->messages, w->n_messages, sizeof *more) : NULL;
	if (more == NULL) {
		free(text);
		w->no_memory = true;
		return;
	}
	w->messages = more;
	unsigned number = (unsigned)w->n_messages++;
	more[number] = (struct message){.text = text, .order = at.order, .number = number, .kind = kind};
}

static int compare(const void *a, const void *b)
{
	const struct message *x = a, *y = b;

	if (x->order != y->order)
		return x->order < y->order ? -1 : 1;
	return (x->number > y->number) - (x->number < y->number);
}

static void put(struct whole *w, char ***array, size_t *n, const char *text)
{
	char *copy = inside_copy(w, text, strlen(text));
	char **more = copy != NULL ? inside_room(w, *array, *n, sizeof *more) : NULL;

	if (more == NULL) {
		free(copy);
		return;
	}
	*array = more;
	more[(*n)++] = copy;
}

static void drop(char ***array, size_t *n)
{
	for (size_t i = 0; i < *n; i++)
		free((*array)[i]);
	free(*array);
	*array = NULL;
	*n = 0;
}

void inside_publish(struct whole *w)
{
	struct config *c = &w->c;

	drop(&c->errors, &c->n_errors);
	drop(&c->warnings, &c->n_warnings);
	if (w->n_messages > 0)
		qsort(w->messages, w->n_messages, sizeof *w->messages, compare);
	for (size_t i = 0; i < w->n_messages; i++) {
		const struct message *m = &w->messages[i];
		if (m->kind == MESSAGE_ERROR)
			put(w, &c->errors, &c->n_errors, m->text);
		else
			put(w, &c->warnings, &c->n_warnings, m->text);
	}
	if (w->too_many)
		put(w, &c->errors, &c->n_errors, "and more than is told here");
}

/* ---- sections ---- */

static const char *bad_name(const char *name)
{
	size_t n = strlen(name);

	if (n == 0)
		return "has no name";
	if (n > NAME_BYTES_MAX)
		return "has a name longer than 63 bytes";
	if (strspn(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-") != n)
		return "may have letters, digits, \".\", \"_\" and \"-\" in its name alone";
	return NULL;
}

static struct section *find_section(const struct whole *w, const char *name)
{
	for (size_t i = 0; i < w->n_sections; i++)
		if (strcmp(w->sections[i]->name, name) == 0)
			return w->sections[i];
	return NULL;
}

struct section *inside_section(struct whole *w, const char *name, struct at at)
{
	const char *wrong = bad_name(name);
	const struct section *other = find_section(w, name);

	if (wrong != NULL)
		inside_error(w, at, "a section %s: [%.80s]", wrong, name);
	else if (other != NULL)
		inside_error(w, at, "[%s] was there already, at %s:%d", name, other->at.file, other->at.line);
	if (w->n_sections >= SERVICES_MAX) {
		inside_error(w, at, "[%s] is one too many: %d sections are the most", name, SERVICES_MAX);
		return NULL;
	}
	struct section **more = inside_room(w, w->sections, w->n_sections, sizeof *more);
	if (more != NULL)
		w->sections = more;
	struct section *s = calloc(1, sizeof *s);
	if (more == NULL || s == NULL || (s->name = inside_copy(w, name, strlen(name))) == NULL) {
		w->no_memory = true;
		free(s);
		return NULL;
	}
	s->at = at;
	s->wrong = wrong != NULL || other != NULL;
	return more[w->n_sections++] = s;
}

static bool is_global(const struct section *s)
{
	return s == NULL || strcmp(s->name, "harkd") == 0;
}

/* NULL: it was said that it cannot be. */
static const struct config_key *key_of(struct whole *w, const struct section *s, struct at at, const char *name)
{
	const struct config_key *key = key_find(name);
	char hint[96];

	if (key == NULL) {
		const char *near = key_hint(name, true, hint, sizeof hint);
		if (near[0] == '\0' && key_hint(name, false, hint, sizeof hint)[0] != '\0')
			near = " (a service has one like it)";
		inside_error(w, at, "no such key: %.80s%s", name, near);
	} else if (s == NULL && strcmp(name, "include") != 0) {
		inside_error(w, at, "%s stands before the first [section]", name);
	} else if (key->global && !is_global(s)) {
		inside_error(w, at, "%s is a key of [harkd], not of a service", name);
	} else if (!key->global && is_global(s)) {
		inside_error(w, at, "%s is a key of a service or of [defaults], not of [harkd]", name);
	} else if (s != NULL && strcmp(s->name, "defaults") == 0 && (key->how->flags & KEY_OWN)) {
		inside_error(w, at, "%s is each service's own and cannot be a default", name);
	} else {
		return key;
	}
	return NULL;
}

/* A document's value may have what no line of a file can say, and printing could not give back. */
static const char *bad_value(const char *value)
{
	size_t n = strlen(value), slashes = 0;

	for (size_t i = 0; i < n; i++)
		if (((unsigned char)value[i] < 0x20 && value[i] != '\t') || value[i] == 0x7f)
			return "a control character in the value";
	while (slashes < n && value[n - 1 - slashes] == '\\')
		slashes++;
	return slashes % 2 != 0 ? "the \\ at the end has nothing after it" : NULL;
}

/* The section's setting of that key, or of that name where it is none. */
static struct setting *find_setting(const struct section *s, const struct config_key *key, const char *name)
{
	for (size_t i = 0; i < s->n; i++)
		if (key != NULL ? s->settings[i].key == key
		                : s->settings[i].key == NULL && strcmp(s->settings[i].name, name) == 0)
			return &s->settings[i];
	return NULL;
}

void inside_setting(struct whole *w, struct section *s, struct at at, const char *name, const char *value)
{
	/* What is no key of a service may be an option of its box, which may come later. */
	bool option = !is_global(s) && key_find(name) == NULL;
	const struct config_key *key = option ? NULL : key_of(w, s, at, name);

	if ((key == NULL && !option) || s == NULL) /* include: whoever reads has done it */
		return;
	struct setting *before = key == NULL || !(key->how->flags & KEY_LIST) ? find_setting(s, key, name) : NULL;
	if (before != NULL && before->at.line > 0) {
		inside_error(w, at, "%s was given already, at line %d", name, before->at.line);
		return;
	}
	const char *wrong = bad_value(value);
	if (wrong != NULL) {
		inside_error(w, at, "%s: %s", name, wrong);
		return;
	}
	if (before != NULL) { /* of a command line the last one counts */
		char *last = inside_copy(w, value, strlen(value));
		if (last != NULL) {
			free(before->value);
			before->value = last;
		}
		return;
	}
	if (s->n >= SETTINGS_MAX) {
		inside_error(w, at, "%s is one too many: %d settings are the most in a section", name, SETTINGS_MAX);
		return;
	}
	struct setting *more = inside_room(w, s->settings, s->n, sizeof *more);
	if (more != NULL)
		s->settings = more;
	char *copy = more != NULL ? inside_copy(w, value, strlen(value)) : NULL;
	char *own_name = copy != NULL && option ? inside_copy(w, name, strlen(name)) : NULL;
	if (copy == NULL || (option && own_name == NULL)) {
		free(copy);
		return;
	}
	more[s->n++] = (struct setting){.key = key, .name = own_name, .value = copy, .at = at};
}
