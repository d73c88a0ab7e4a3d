/* config.c — the ways in and out: hark.conf or a document becomes a struct config, and is given back. See inside.h for
 * what happens in between. */
#include "inside.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "document.h"
#include "text.h"

static struct whole *whole_new(void)
{
	struct whole *w = calloc(1, sizeof *w);

	if (w != NULL)
		w->c.private = w;
	return w;
}

static void free_texts(char **texts, size_t n)
{
	for (size_t i = 0; i < n; i++)
		free(texts[i]);
	free(texts);
}

/* What only the reading needed. */
static void free_sections(struct whole *w)
{
	for (size_t i = 0; i < w->n_sections; i++) {
		struct section *s = w->sections[i];
		for (size_t k = 0; k < s->n; k++) {
			free(s->settings[k].name);
			free(s->settings[k].value);
		}
		free(s->settings);
		free(s->name);
		free(s);
	}
	free(w->sections);
	w->sections = NULL;
	w->n_sections = 0;
}

void config_free(struct config *c)
{
	if (c == NULL)
		return;
	struct whole *w = c->private;
	free_sections(w);
	for (size_t i = 0; i < c->n_services; i++)
		service_free((struct service *)c->services[i]);
	free(c->services);
	for (size_t i = 0; i < w->n_messages; i++)
		free(w->messages[i].text);
	free(w->messages);
	free_texts(c->errors, c->n_errors);
	free_texts(c->warnings, c->n_warnings);
	free_texts(w->files, w->n_files);
	free(c->control);
	free(c->pid_file);
	free(c->log);
	free(c->syslog_facility);
	free(w);
}

static void wipe(char *text)
{
	if (text != NULL)
		explicit_bzero(text, strlen(text));
}

void config_forget_others(struct config *c, const struct config_service *kept)
{
	struct whole *w = c->private;

	for (size_t i = 0; i < c->n_services; i++) {
		struct config_service *s = c->services[i];
		for (size_t k = 0; k < s->env.n && s != kept; k++)
			wipe(s->env.word[k]);
		/* One without is left alone, its arguments and banner as well: each page that is written to is copied,
		 * 4.6 KB a service in each worker. */
		if (s != kept && s->env.n > 0)
			wipe(s->text);
	}
	for (size_t i = 0; i < c->n_errors; i++)
		wipe(c->errors[i]);
	for (size_t i = 0; i < c->n_warnings; i++)
		wipe(c->warnings[i]);
	for (size_t i = 0; i < w->n_messages; i++)
		wipe(w->messages[i].text);
}

static int finish(struct whole *w, struct config **out)
{
	if (!w->no_memory)
		inside_build(w);
	if (!w->no_memory)
		inside_collide(w);
	free_sections(w);
	inside_publish(w);
	if (w->no_memory) {
		config_free(&w->c);
		return -ENOMEM;
	}
	*out = &w->c;
	return (int)w->c.n_errors;
}

int config_load(const char *file, struct config **out)
{
	struct whole *w = whole_new();

	if (w == NULL)
		return -ENOMEM;
	inside_read(w, file);
	return finish(w, out);
}

int inside_load_bytes(const char *file, const char *bytes, size_t n, struct config **out)
{
	struct whole *w = whole_new();

	if (w == NULL)
		return -ENOMEM;
	inside_read_bytes(w, file, bytes, n);
	return finish(w, out);
}

static void take_section(struct whole *w, const struct document_section *from)
{
	size_t before = w->n_messages;
	struct section *s = inside_section(w, from->name,
	                                   inside_at(w, inside_file(w, from->place.file), from->place.line));

	for (size_t i = before; s == NULL && i < w->n_messages; i++)
		w->messages[i].skipped = true; /* one too many: no service of it will be there */

	for (size_t i = 0; i < from->n && s != NULL; i++) {
		const struct document_line *l = &from->lines[i];
		if (l->kind == DOCUMENT_SETTING)
			inside_setting(w, s, inside_at(w, inside_file(w, l->place.file), l->place.line), l->key,
			               l->value);
	}
	if (s != NULL)
		s->end = w->order;
}

static int load_document(const struct document *d, bool keys_alone, struct config **out)
{
	struct whole *w = whole_new();

	if (w == NULL || d->broken) {
		free(w);
		return -ENOMEM;
	}
	w->keys_alone = keys_alone;
	for (size_t i = 0; i < d->n_errors; i++) /* each has its place in it already */
		inside_message(w, MESSAGE_ERROR, (struct at){0}, "%s", d->errors[i]);
	for (size_t i = 0; i < w->n_messages; i++) /* the lines were skipped by whoever read them */
		w->messages[i].skipped = !d->unread;
	w->c.n_refused = d->refused;
	for (size_t i = 0; i < d->n; i++)
		take_section(w, d->sections[i]);
	return finish(w, out);
}

int config_load_document(const struct document *d, struct config **out)
{
	return load_document(d, false, out);
}

int config_load_keys(const struct document *d, struct config **out)
{
	return load_document(d, true, out);
}

/* Takes out the service that the error is about. False: it is about none that is there. */
static bool skip_service(struct whole *w, const struct message *m)
{
	struct config *c = &w->c;

	for (size_t i = 0; i < c->n_services; i++) {
		struct service *s = (struct service *)c->services[i];
		if (m->order < s->order || m->order > s->end)
			continue;
		/* Every other error of it goes with it. */
		for (size_t k = 0; k < w->n_messages; k++)
			if (w->messages[k].order >= s->order && w->messages[k].order <= s->end)
				w->messages[k].skipped = true;
		memmove(c->services + i, c->services + i + 1, (c->n_services - i - 1) * sizeof *c->services);
		c->n_services--;
		service_free(s);
		return true;
	}
	return false;
}

int config_skip_wrong(struct config *c)
{
	struct whole *w = c->private;

	if (w->too_many) /* errors that nobody kept may be any service's */
		return (int)c->n_errors;
	for (size_t i = 0; i < w->n_messages; i++) {
		const struct message *m = &w->messages[i];
		if (m->kind == MESSAGE_ERROR && !m->skipped && !skip_service(w, m))
			return (int)c->n_errors;
	}
	return 0;
}

static void warn_of_section(struct whole *w, const struct document_section *s)
{
	for (size_t i = 0; i < s->n; i++) {
		const struct document_line *l = &s->lines[i];
		if (l->kind == DOCUMENT_REMARK &&
		    strncmp(l->value, DOCUMENT_NOT_CARRIED, strlen(DOCUMENT_NOT_CARRIED)) == 0)
			inside_warning(w, inside_at(w, inside_file(w, l->place.file), l->place.line), "%s", l->value);
	}
}

int config_warn_of_document(struct config *c, const struct document *d)
{
	struct whole *w = c->private;

	warn_of_section(w, &d->head);
	for (size_t i = 0; i < d->n; i++)
		warn_of_section(w, d->sections[i]);
	inside_publish(w);
	return w->no_memory ? -ENOMEM : 0;
}

struct config_service *config_find(const struct config *c, const char *name)
{
	for (size_t i = 0; i < c->n_services; i++)
		if (strcmp(c->services[i]->name, name) == 0)
			return c->services[i];
	return NULL;
}

int config_copy(const struct config *c, const char *file, struct config **out)
{
	char *text = NULL;
	size_t n = 0;
	FILE *to = open_memstream(&text, &n);

	if (to == NULL)
		return -ENOMEM;
	int r = config_print(c, to);
	if (!text_close_stream(to, &text))
		r = -ENOMEM;
	if (r == 0)
		r = inside_load_bytes(file, text, n, out);
	if (text != NULL)
		explicit_bzero(text, n); /* environments */
	free(text);
	return r;
}
