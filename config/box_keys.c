/* box_keys.c — the options of a service's box: --x V on the box's own line is the key x = V of its section, by the
 * table in the box's row (hark.h).
 *
 * Each option is given once: on the line, by the section, or by [defaults], where it counts for every service whose box
 * has it. Main thread, at start and reload. */
#include "inside.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "nearest.h"
#include "text.h"

#define KEY_BYTES 40 /* of an option's name; a longer one is offered as a hint cut short */

/* The option as a key: any_port. */
static const char *key_name(const struct hark_option *o, char buf[KEY_BYTES])
{
	(void)snprintf(buf, KEY_BYTES, "%s", o->name);
	for (char *p = buf; *p != '\0'; p++)
		if (*p == '-')
			*p = '_';
	return buf;
}

static const struct hark_option *option_of(const struct hark_box_row *box, const char *name)
{
	if (box == NULL || strchr(name, '-') != NULL)
		return NULL;
	return box_option_find(box, name, strlen(name));
}

/* The first box that has an option of that name, or NULL. */
static const struct hark_box_row *box_with(const char *name)
{
	for (const struct hark_box_row *const *b = boxes; *b != NULL; b++)
		if (option_of(*b, name) != NULL)
			return *b;
	return NULL;
}

/* ---- names that nobody knows ---- */

static void offer_options(struct nearest *n, const struct hark_box_row *box, char names[][KEY_BYTES])
{
	const struct hark_option *o = box != NULL ? box->options : NULL;

	for (int i = 0; o != NULL && o->name != NULL && i < HARK_BOX_OPTIONS_MAX; i++, o++)
		if (o->help != NULL)
			nearest_offer(n, key_name(o, names[i]));
}

/* Fills why. */
static int no_such_key(const char *name, const struct hark_box_row *box, struct hark_why *why)
{
	char names[HARK_BOX_OPTIONS_MAX][KEY_BYTES], hint[96];
	struct nearest n = {.word = name};
	const struct hark_box_row *other = box_with(name);

	if (box != NULL && other != NULL) {
		(void)snprintf(why->text, sizeof why->text, "%.80s is an option of the box %s, not of %.80s", name,
		               other->name, box->name);
		return -EINVAL;
	}
	for (const struct config_key *k = config_keys; k->name != NULL; k++)
		if (!k->global)
			nearest_offer(&n, k->name);
	offer_options(&n, box, names);
	const char *near = nearest_hint(&n, "", hint, sizeof hint);
	if (near[0] == '\0' && key_hint(name, true, hint, sizeof hint)[0] != '\0')
		near = " ([harkd] has one like it)";
	(void)snprintf(why->text, sizeof why->text, "no such key: %.80s%s", name, near);
	return -EINVAL;
}

void box_keys_check(struct whole *w, const struct section *own, const struct hark_box_row *box)
{
	struct hark_why why;

	for (size_t i = 0; i < own->n; i++) {
		const struct setting *set = &own->settings[i];
		if (set->key != NULL || box == &shared_box || option_of(box, set->name) != NULL ||
		    (box == NULL && box_with(set->name) != NULL))
			continue;
		(void)no_such_key(set->name, box, &why);
		inside_error(w, set->at, "%s", why.text);
	}
}

void box_keys_check_wait(struct whole *w, const struct service *s, const struct section *own)
{
	for (size_t i = 0; i < own->n; i++) {
		const struct setting *set = &own->settings[i];
		const struct hark_option *o = set->key == NULL ? option_of(s->s.box, set->name) : NULL;
		const char *standard = o != NULL && o->standard != NULL ? o->standard : "";
		if (o != NULL && o->of_peer && strcmp(set->value, standard) != 0)
			inside_warning(w, set->at, "%s: no effect on [%s], as wait = yes: there is no peer", set->name,
			               s->s.name);
	}
}

static int parse(const struct config_service *s, const struct hark_box_row *b, void *state, struct hark_why *why)
{
	bool by_key[HARK_BOX_OPTIONS_MAX] = {false}, on_line[HARK_BOX_OPTIONS_MAX] = {false};
	int keys = (int)s->key_options, argc = (int)s->argv.n - 1 - keys;
	char *const *argv = s->argv.word + 1;
	int r = box_options(b, keys, argv, state, by_key, why);

	if (r < 0 || (r = box_options(b, argc, argv + keys, state, on_line, why)) < 0)
		return r;
	for (int i = 0; i < HARK_BOX_OPTIONS_MAX; i++)
		if (by_key[i] && on_line[i]) {
			(void)snprintf(why->text, sizeof why->text,
			               "--%.40s stands on the line and as a key: one of them", b->options[i].name);
			return -EINVAL;
		}
	return box_operands(b, argc - r, argv + keys + r, state, why);
}

/* The first of the keys that is wrong. 0 or -errno with why, its place in it. */
static int try_kept(const struct service *s, const struct hark_box_row *b, struct hark_why *why)
{
	struct hark_why about = {""};

	for (size_t i = 0; i < s->n_kept; i++) {
		int r = box_keys_try(s, i, b, &about);
		if (r == 0)
			continue;
		(void)snprintf(why->text, sizeof why->text, "%.100s:%d: %.140s", s->kept[i].at.file, s->kept[i].at.line,
		               about.text);
		return r;
	}
	return 0;
}

int config_box_parse(const struct config_service *s, const struct hark_box_row *b, void **state, struct hark_why *why)
{
	int r = try_kept((const struct service *)s, b, why);
	void *made = r == 0 ? box_new(b) : NULL;

	if (r == 0)
		r = made != NULL ? parse(s, b, made, why) : -ENOMEM;

	if (r < 0) {
		box_free(b, made);
		return r;
	}
	*state = made;
	return 0;
}

int config_box_load(const char *path, const struct hark_box_row **out, struct hark_why *why)
{
	const struct hark_box_row *b;
	char name[KEY_BYTES];
	int r = box_load(path, &b, why);

	for (const struct hark_option *o = r == 0 ? b->options : NULL; o != NULL && o->name != NULL; o++) {
		const struct config_key *key = key_find(key_name(o, name));
		if (key == NULL || key->global)
			continue;
		(void)snprintf(why->text, sizeof why->text, "%.120s: its option --%.40s is a key of every service",
		               path, o->name);
		return -EINVAL;
	}
	if (r == 0)
		*out = b;
	return r;
}

/* ---- values ---- */

/* Puts the value in its place. 0, or -EINVAL with why. */
static int set_value(const struct hark_option *o, const struct setting *set, void *state, struct hark_why *why)
{
	struct hark_why about = {""};
	const char *value = set->value;
	bool word = false;

	for (const char *const *c = o->choices; o->kind == HARK_OPTION_PATH && c != NULL && *c != NULL; c++)
		word = word || strcmp(*c, value) == 0;
	if (o->kind == HARK_OPTION_PATH && !word && value[0] != '/')
		(void)snprintf(about.text, sizeof about.text,
		               o->choices != NULL ? "\"%.80s\" is not %.80s" : "\"%.80s\" is not an absolute path",
		               value, o->value);
	else if (strchr(" \t", value[0]) != NULL || strchr(" \t", value[strlen(value) - 1]) != NULL)
		(void)snprintf(about.text, sizeof about.text, "a blank at its beginning or end");
	else if (box_option_set(o, value, state, &about) == 0)
		return 0;
	(void)snprintf(why->text, sizeof why->text, "%.40s: %.200s", set->name, about.text);
	return -EINVAL;
}

/* The same in vain. Or -ENOMEM. */
static int try_value(const struct setting *set, const struct hark_box_row *box, struct hark_why *why)
{
	void *state = set->value[0] != '\0' ? box_new(box) : NULL;

	if (state == NULL)
		return set->value[0] != '\0' ? -ENOMEM : 0;
	int r = set_value(option_of(box, set->name), set, state, why);
	free(state); /* nothing was opened */
	return r;
}

void box_keys_check_defaults(struct whole *w, const struct section *defaults)
{
	struct hark_why why;

	for (size_t i = 0; i < defaults->n; i++) {
		const struct setting *set = &defaults->settings[i];
		const struct hark_box_row *box = set->key == NULL ? box_with(set->name) : NULL;
		if (set->key != NULL)
			continue;
		int r = box != NULL ? try_value(set, box, &why) : no_such_key(set->name, NULL, &why);
		if (r == -ENOMEM)
			w->no_memory = true;
		else if (r < 0)
			inside_error(w, set->at, "%s", why.text);
	}
}

/* The section's setting of the option, or NULL. */
static const struct setting *setting_of(const struct section *s, const struct hark_box_row *box,
                                        const struct hark_option *o)
{
	for (size_t i = 0; s != NULL && i < s->n; i++)
		if (s->settings[i].key == NULL && option_of(box, s->settings[i].name) == o)
			return &s->settings[i];
	return NULL;
}

/* Adds before, name, between and the option's value as a word. */
static void add_option(struct whole *w, struct config_words *to, const char *before, const char *name,
                       const char *between, const char *value)
{
	char *text;

	if (asprintf(&text, "%s%s%s%s", before, name, between, value) < 0)
		w->no_memory = true;
	else
		(void)inside_add_word(w, to, text);
}

/* The option's value, as it is written; NULL: no memory. */
static char *value_of(struct whole *w, const struct hark_option *o, const void *state)
{
	char *text = NULL;
	size_t n;
	FILE *to = open_memstream(&text, &n);

	if (to != NULL)
		box_option_print(o, state, to);
	if (!text_close_stream(to, &text))
		w->no_memory = true;
	return text;
}

static bool is_standard(const struct hark_option *o, const char *value)
{
	static const char *const zero[] = {[HARK_OPTION_FLAG] = "no", [HARK_OPTION_TEXT] = "", [HARK_OPTION_PATH] = ""};
	const char *unset = (size_t)o->kind < sizeof zero / sizeof *zero ? zero[o->kind] : "0";

	return strcmp(value, o->standard != NULL ? o->standard : unset) == 0;
}

static void add_text(struct whole *w, struct config_words *to, const char *before, const struct setting *set,
                     const char *between, char dash)
{
	char *text;

	if (asprintf(&text, "%s%s%s%s", before, set->name, between, set->value) < 0) {
		w->no_memory = true;
		return;
	}
	for (char *p = text + strlen(before); p < text + strlen(before) + strlen(set->name); p++)
		*p = *p == '_' ? dash : *p;
	(void)inside_add_word(w, to, text);
}

static void keep(struct whole *w, struct service *s, const struct setting *set)
{
	struct setting *more = inside_room(w, s->kept, s->n_kept, sizeof *more);
	char *name = more != NULL ? inside_copy(w, set->name, strlen(set->name)) : NULL;
	char *value = name != NULL ? inside_copy(w, set->value, strlen(set->value)) : NULL;

	s->kept = more != NULL ? more : s->kept;
	if (value != NULL)
		more[s->n_kept++] = (struct setting){.name = name, .value = value, .at = set->at};
	else
		free(name);
}

void box_keys_keep(struct whole *w, struct service *s, const struct section *own)
{
	for (size_t i = 0; i < own->n; i++) {
		if (own->settings[i].key != NULL)
			continue;
		keep(w, s, &own->settings[i]);
		if (own->settings[i].value[0] == '\0')
			continue;
		add_text(w, &s->option_words, "--", &own->settings[i], "=", '-');
		add_text(w, &s->option_lines, "", &own->settings[i], " = ", '_');
	}
}

void box_keys_free(struct service *s)
{
	for (size_t i = 0; i < s->n_kept; i++) {
		free(s->kept[i].name);
		free(s->kept[i].value);
	}
	free(s->kept);
}

int box_keys_try(const struct service *s, size_t i, const struct hark_box_row *box, struct hark_why *why)
{
	const struct setting *set = &s->kept[i];

	return option_of(box, set->name) != NULL ? try_value(set, box, why) : no_such_key(set->name, box, why);
}

/* One option. on_line: the box's own line has it. */
static bool read_option(struct whole *w, struct service *s, const struct section *own, const struct section *defaults,
                        const struct hark_option *o, bool on_line, void *state)
{
	const struct setting *set = setting_of(own, s->s.box, o);
	const char *what = what_names[service_what(s)];
	bool its_own = set != NULL;
	struct hark_why why;
	char name[KEY_BYTES];

	if (on_line && its_own) {
		inside_error(w, set->at, "%s: --%s stands in %s, at line %d, too: one of them", set->name, o->name,
		             what, key_at(s->at, what).line);
		return false;
	}
	if (set == NULL && !on_line)
		set = setting_of(defaults, s->s.box, o);
	if (set != NULL && set->value[0] == '\0')
		set = NULL;
	if (set != NULL && set_value(o, set, state, &why) < 0) {
		if (its_own)
			inside_error(w, set->at, "%s", why.text);
		return false;
	}
	char *value = value_of(w, o, state);
	bool is_text = o->kind == HARK_OPTION_TEXT || o->kind == HARK_OPTION_PATH;
	/* What is as it would be anyway needs no saying to the box. */
	if (value != NULL && set != NULL && !is_standard(o, value))
		add_option(w, &s->option_words, "--", o->name, "=", value);
	if (value != NULL && !on_line && (set != NULL || o->help != NULL) && (!is_text || value[0] != '\0'))
		add_option(w, &s->option_lines, "", key_name(o, name), " = ", value);
	free(value);
	return true;
}

int box_keys_read(struct whole *w, struct service *s, const struct section *own, const struct section *defaults,
                  const struct config_words *words, size_t from, void *state)
{
	const struct hark_box_row *box = s->s.box;
	bool given[HARK_BOX_OPTIONS_MAX] = {false}, good = true;
	struct hark_why why = {""};
	const char *what = what_names[service_what(s)];
	/* exec = PROGRAM has no room for options: what begins with a '-' is the program. */
	int took = service_what(s) == WHAT_EXEC
	                   ? 0
	                   : box_options(box, (int)(words->n - from), words->word + from, state, given, &why);
	if (took < 0)
		inside_error(w, key_at(s->at, what), "%s: %s", what, why.text);
	const struct hark_option *o = box->options;
	for (int i = 0; o != NULL && o->name != NULL && i < HARK_BOX_OPTIONS_MAX; i++, o++)
		good = read_option(w, s, own, defaults, o, given[i], state) && good;
	return good ? took : -1;
}
