/* options.c — see options.h. Main thread alone. */
#include "options.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "hark.h"

static int take_number(const struct verb *v, const struct option_row *o, const char *text, int64_t *out)
{
	int64_t n;

	if (number_parse(text, o->kind == OPTION_SIZE ? "kmg" : "", &n) < 0 || n < o->min || n > o->max) {
		say(v, "--%s: \"%s\" is not a number from %lld to %lld", o->name, text, (long long)o->min,
		    (long long)o->max);
		return STATUS_USAGE;
	}
	*out = n;
	return 0;
}

static int take_duration(const struct verb *v, const struct option_row *o, const char *text, int64_t *out)
{
	int64_t ns;
	int err = duration_parse(text, &ns);

	if (err == 0 && ns >= o->min) {
		*out = ns;
		return 0;
	}
	say(v, "--%s: \"%s\" is %s", o->name, text,
	    err == -EINVAL   ? "not a duration (write 500ms, 5s, 2m, 1h, or plain seconds)"
	    : err == -ERANGE ? "too long"
	                     : "too short");
	return STATUS_USAGE;
}

static int take_choice(const struct verb *v, const struct option_row *o, const char *text, const char **out)
{
	struct nearest n = {.word = text};
	char hint[64];

	for (int i = 0; o->choices[i] != NULL; i++) {
		if (strcmp(o->choices[i], text) == 0) {
			*out = text;
			return 0;
		}
		nearest_offer(&n, o->choices[i]);
	}
	say(v, "--%s: \"%s\" is none of those known: see hark %s --help%s", o->name, text, v->name,
	    nearest_hint(&n, "", hint, sizeof hint));
	return STATUS_USAGE;
}

static int take_mode(const struct verb *v, const struct option_row *o, const char *text, mode_t *out)
{
	size_t len = strlen(text);

	if (len == 0 || len > 4 || strspn(text, "01234567") != len) {
		say(v, "--%s: \"%s\" is not an octal mode such as 660", o->name, text);
		return STATUS_USAGE;
	}
	*out = (mode_t)strtoul(text, NULL, 8);
	return 0;
}

/* Puts the value in its place. text is NULL for flags, and for periods that were left out. Returns 0 or STATUS_USAGE.
 */
static int option_take(const struct verb *v, const struct option_row *o, const char *text, void *to)
{
	void *place = (char *)to + o->at;
	int64_t n;
	int err = 0;

	switch (o->kind) {
	case OPTION_FLAG: *(bool *)place = true; return 0;
	case OPTION_TEXT: *(const char **)place = text; return 0;
	case OPTION_COUNT:
		if ((err = take_number(v, o, text, &n)) == 0)
			*(int *)place = (int)n;
		return err;
	case OPTION_SIZE:
		if ((err = take_number(v, o, text, &n)) == 0)
			*(size_t *)place = (size_t)n;
		return err;
	case OPTION_PERIOD:
		if (text == NULL) {
			*(int64_t *)place = o->max;
			return 0;
		}
		return take_duration(v, o, text, place);
	case OPTION_DURATION: return take_duration(v, o, text, place);
	case OPTION_MODE: return take_mode(v, o, text, place);
	case OPTION_CHOICE: return take_choice(v, o, text, place);
	case OPTION_CALL: return o->take(v, o->name, text != NULL ? text : "yes", to);
	}
	return STATUS_USAGE;
}

/* What to use in place of --name, or, where name is NULL, of -letter; NULL: nothing is known of it. */
static const char *hint_for(const struct verb *v, char letter, const char *name)
{
	for (const struct option_hint *h = v->hints; h != NULL && h->text != NULL; h++)
		if (name == NULL ? h->letter == letter : h->name != NULL && strcmp(h->name, name) == 0)
			return h->text;
	return NULL;
}

static int no_such_letter(const struct verb *v, char letter)
{
	const char *text = hint_for(v, letter, NULL);

	say(v, "no such option: -%c%s%s", letter, text != NULL ? "; " : "", text != NULL ? text : "");
	return STATUS_USAGE;
}

static int no_such_option(const struct verb *v, const char *name)
{
	const char *text = hint_for(v, '\0', name);
	struct nearest n = {.word = name};
	char hint[64];

	if (text != NULL) {
		say(v, "no such option: --%s; %s", name, text);
		return STATUS_USAGE;
	}
	for (const struct option_row *o = v->options; o->name != NULL; o++)
		nearest_offer(&n, o->name);
	nearest_offer(&n, "help");
	say(v, "no such option: --%s%s", name, nearest_hint(&n, "--", hint, sizeof hint));
	return STATUS_USAGE;
}

/* What is being parsed: argv[at] is next. */
struct cursor {
	const struct verb *verb;
	int argc, at;
	char **argv;
	void *to;
};

static int value_missing(const struct verb *v, const struct option_row *o)
{
	say(v, "--%s needs a value: %s", o->name, o->value);
	return STATUS_USAGE;
}

static int flag_with_value(const struct verb *v, const char *name)
{
	say(v, "--%s takes no value", name);
	return STATUS_USAGE;
}

/* --name, --name=value, --name value. Returns 0 or the exit code. */
static int parse_long(struct cursor *c)
{
	char name[64];
	const char *word = c->argv[c->at++] + 2;
	const char *equals = strchr(word, '=');
	size_t len = equals != NULL ? (size_t)(equals - word) : strlen(word);

	(void)snprintf(name, sizeof name, "%.*s", (int)(len < sizeof name ? len : sizeof name - 1), word);
	if (strcmp(name, "help") == 0)
		return flag_with_value(c->verb, name); /* without one it does not come here */
	for (const struct option_row *o = c->verb->options; o->name != NULL; o++) {
		if (strcmp(o->name, name) != 0)
			continue;
		if (o->kind == OPTION_FLAG) {
			if (equals == NULL)
				return option_take(c->verb, o, NULL, c->to);
			return flag_with_value(c->verb, name);
		}
		if (equals != NULL)
			return option_take(c->verb, o, equals + 1, c->to);
		if (o->kind == OPTION_PERIOD || (o->kind == OPTION_CALL && o->value == NULL))
			return option_take(c->verb, o, NULL, c->to);
		if (c->at == c->argc)
			return value_missing(c->verb, o);
		return option_take(c->verb, o, c->argv[c->at++], c->to);
	}
	return no_such_option(c->verb, name);
}

/* -v, -vq, -c5, -c 5. Returns 0 or the exit code. */
static int parse_short(struct cursor *c)
{
	const char *word = c->argv[c->at++] + 1;

	for (; *word != '\0'; word++) {
		const struct option_row *o = c->verb->options;
		while (o->name != NULL && o->letter != *word)
			o++;
		if (o->name == NULL)
			return no_such_letter(c->verb, *word);
		int err;
		if (o->kind != OPTION_FLAG) {
			if (word[1] != '\0')
				return option_take(c->verb, o, word + 1, c->to);
			if (c->at == c->argc)
				return value_missing(c->verb, o);
			return option_take(c->verb, o, c->argv[c->at++], c->to);
		}
		if ((err = option_take(c->verb, o, NULL, c->to)) != 0)
			return err;
	}
	return 0;
}

int options_parse(const struct verb *v, int argc, char *argv[], void *to, int *status)
{
	struct cursor c = {.verb = v, .argc = argc, .argv = argv, .to = to};
	int operands = 0;

	while (c.at < argc) {
		char *word = argv[c.at];
		bool end = strcmp(word, "--") == 0;
		if (end || ((word[0] != '-' || word[1] == '\0') && v->last != NULL && v->last(word))) {
			if (end && v->last == NULL)
				c.at++;
			while (c.at < argc)
				argv[operands++] = argv[c.at++];
			break;
		}
		if (word[0] != '-' || word[1] == '\0') {
			argv[operands++] = argv[c.at++];
			continue;
		}
		if (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0) {
			options_help(v, stdout);
			*status = STATUS_DONE;
			return -1;
		}
		if ((*status = word[1] == '-' ? parse_long(&c) : parse_short(&c)) != 0)
			return -1;
	}
	return operands;
}

static void help_row(FILE *to, char letter, const char *name, const char *value, const char *help)
{
	char left[64];

	(void)snprintf(left, sizeof left, "%c%c%s--%s%s%s", letter ? '-' : ' ', letter ? letter : ' ',
	               letter ? ", " : "  ", name, value != NULL && value[0] != '[' ? " " : "",
	               value != NULL ? value : "");
	fprintf(to, "  %-25s  %s\n", left, help);
}

void options_help(const struct verb *v, FILE *to)
{
	fprintf(to, "usage: hark %s [OPTION]... %s\n%s.\n\n", v->name, v->usage, v->summary);
	for (const struct option_row *o = v->options; o->name != NULL; o++)
		help_row(to, o->letter, o->name, o->value, o->help);
	help_row(to, 'h', "help", NULL, "this text");
	if (v->notes != NULL)
		fprintf(to, "\n%s", v->notes);
	if (v->more != NULL)
		v->more(to);
}

int options_usage(const struct verb *v, const char *what)
{
	say(v, "%s; usage: hark %s [OPTION]... %s", what, v->name, v->usage);
	return STATUS_USAGE;
}
