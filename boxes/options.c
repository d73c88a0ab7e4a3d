/* options.c — a box's typed options, from a command line or a configuration, by the table in its row. getopt_long(3)
 * prints and keeps state; this tells why. Pure: any thread. */
#include "options.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "box.h"
#include "nearest.h"
#include "number.h"

#define AT(o, state, type)  ((type *)((char *)(state) + (o)->at))
#define SEE(o, state, type) ((const type *)((const char *)(state) + (o)->at))

int box_why(struct hark_why *why, int err, const char *format, ...)
{
	if (why != NULL) {
		va_list args;
		va_start(args, format);
		(void)vsnprintf(why->text, sizeof why->text, format, args);
		va_end(args);
	}
	return err;
}

/* ---- values ---- */

static int set_flag(const struct hark_option *o, const char *text, void *state, struct hark_why *why)
{
	bool yes = strcmp(text, "yes") == 0;
	if (!yes && strcmp(text, "no") != 0)
		return box_why(why, -EINVAL, "\"%.40s\" is not yes|no", text);
	*AT(o, state, bool) = yes;
	return 0;
}

static int set_number(const struct hark_option *o, const char *text, void *state, struct hark_why *why)
{
	bool size = o->kind == HARK_OPTION_SIZE;
	int64_t n, max = o->max > 0 ? o->max : INT64_MAX;
	if (number_parse(text, size ? "kmg" : "", &n) < 0 || n < o->min || n > max)
		return box_why(why, -EINVAL, "\"%.40s\" is not a %s from %" PRId64 " to %" PRId64, text,
		               size ? "size" : "number", o->min, max);
	*AT(o, state, int64_t) = n;
	return 0;
}

static int read_duration(const char *text, int64_t min, int64_t *ns, struct hark_why *why)
{
	int r = duration_parse(text, ns);
	if (r == 0 && *ns >= min)
		return 0;
	return box_why(why, -EINVAL, "\"%.40s\" is %s", text,
	               r == 0         ? "too short"
	               : r == -ERANGE ? "too long"
	                              : "not a duration (write 500ms, 5s, 2m, 1h, or plain seconds)");
}

static int set_durations(const struct hark_option *o, const char *text, void *state, struct hark_why *why)
{
	char first[32], second[32], rest;
	int64_t a, b;
	if (sscanf(text, "%31s %31s %c", first, second, &rest) != 2 || read_duration(first, o->min, &a, NULL) < 0 ||
	    read_duration(second, o->min, &b, NULL) < 0)
		return box_why(why, -EINVAL, "\"%.40s\" is not two durations (1s 3s)", text);
	if (b < a)
		return box_why(why, -EINVAL, "\"%.40s\": the second is sooner than the first", text);
	AT(o, state, int64_t)[0] = a;
	AT(o, state, int64_t)[1] = b;
	return 0;
}

static int set_choice(const struct hark_option *o, const char *text, void *state, struct hark_why *why)
{
	struct nearest n = {.word = text};
	char hint[96];
	for (int i = 0; o->choices[i] != NULL; i++) {
		if (strcmp(o->choices[i], text) == 0) {
			*AT(o, state, int) = i;
			return 0;
		}
		nearest_offer(&n, o->choices[i]);
	}
	return box_why(why, -EINVAL, "\"%.40s\" is not %s%s", text, o->value, nearest_hint(&n, "", hint, sizeof hint));
}

int box_option_set(const struct hark_option *o, const char *text, void *state, struct hark_why *why)
{
	switch (o->kind) {
	case HARK_OPTION_FLAG: return set_flag(o, text, state, why);
	case HARK_OPTION_TEXT:
	case HARK_OPTION_PATH:
		if (text[0] == '\0' && o->kind == HARK_OPTION_PATH)
			return box_why(why, -EINVAL, "\"\" is no path");
		*AT(o, state, const char *) = text;
		return 0;
	case HARK_OPTION_NUMBER:
	case HARK_OPTION_SIZE: return set_number(o, text, state, why);
	case HARK_OPTION_DURATION: return read_duration(text, o->min, AT(o, state, int64_t), why);
	case HARK_OPTION_DURATIONS: return set_durations(o, text, state, why);
	case HARK_OPTION_CHOICE: return set_choice(o, text, state, why);
	}
	return box_why(why, -EINVAL, "is of no kind that is known here");
}

void box_option_print(const struct hark_option *o, const void *state, FILE *to)
{
	char text[32];
	const char *words;
	switch (o->kind) {
	case HARK_OPTION_FLAG: fputs(*SEE(o, state, bool) ? "yes" : "no", to); break;
	case HARK_OPTION_TEXT:
	case HARK_OPTION_PATH:
		words = *SEE(o, state, char *);
		fputs(words != NULL ? words : "", to);
		break;
	case HARK_OPTION_NUMBER:
	case HARK_OPTION_SIZE: fprintf(to, "%" PRId64, *SEE(o, state, int64_t)); break;
	case HARK_OPTION_DURATION: fputs(duration_format(*SEE(o, state, int64_t), text), to); break;
	case HARK_OPTION_DURATIONS:
		fprintf(to, "%s ", duration_format(SEE(o, state, int64_t)[0], text));
		fputs(duration_format(SEE(o, state, int64_t)[1], text), to);
		break;
	case HARK_OPTION_CHOICE: fputs(o->choices[*SEE(o, state, int)], to); break;
	}
}

/* ---- command lines ---- */

/* An address has a ':' before any '='. */
const char *box_operand_address(const char *word)
{
	size_t n = strcspn(word, ":=");
	return word[n] == '=' ? word + n + 1 : word;
}

static bool same_name(const char *name, const char *text, size_t len)
{
	for (size_t i = 0; i < len; i++)
		if (name[i] == '\0' || name[i] != (text[i] == '_' ? '-' : text[i]))
			return false;
	return name[len] == '\0';
}

const struct hark_option *box_option_find(const struct hark_box_row *b, const char *name, size_t len)
{
	for (const struct hark_option *o = b->options; o != NULL && o->name != NULL; o++)
		if (same_name(o->name, name, len))
			return o;
	return NULL;
}

static int no_such_option(const struct hark_box_row *b, const char *word, struct hark_why *why)
{
	char name[64], hint[96];
	(void)snprintf(name, sizeof name, "%.*s", (int)strcspn(word + 1, "="), word + (word[1] == '-' ? 2 : 1));
	struct nearest n = {.word = name};
	for (const struct hark_option *o = b->options; o != NULL && o->name != NULL; o++)
		if (o->help != NULL)
			nearest_offer(&n, o->name);
	return box_why(why, -EINVAL, "no such option: %.80s%s", word, nearest_hint(&n, "--", hint, sizeof hint));
}

int box_options(const struct hark_box_row *b, int argc, char *const argv[], void *state, bool given[],
                struct hark_why *why)
{
	int i = 0;
	while (i < argc && argv[i][0] == '-' && argv[i][1] != '\0') {
		const char *word = argv[i], *value;
		if (strcmp(word, "--") == 0)
			return i + 1;
		size_t len = word[1] == '-' ? strcspn(word + 2, "=") : 0;
		const struct hark_option *o = len > 0 && memchr(word, '_', len + 2) == NULL
		                                      ? box_option_find(b, word + 2, len)
		                                      : NULL;
		if (o == NULL)
			return no_such_option(b, word, why);
		i++;
		if (word[2 + len] == '=')
			value = word + 3 + len;
		else if (o->kind == HARK_OPTION_FLAG)
			value = "yes";
		else if (o->alone != NULL)
			value = o->alone;
		else if (i < argc)
			value = argv[i++];
		else
			return box_why(why, -EINVAL, "--%s wants a value", o->name);
		struct hark_why about = {""};
		int r = box_option_set(o, value, state, &about);
		if (r < 0)
			return box_why(why, r, "--%s: %.200s", o->name, about.text);
		if (given != NULL)
			given[o - b->options] = true;
	}
	return i;
}
