/* words.c — a value taken apart into words, as exec, box and env have them: like a shell's words, but nothing in
 * them is ever expanded, because no shell is started.
 *
 * The same rules print a word (words_print) and are what document_quote() writes. Any thread. */
#include "inside.h"

#include <stdlib.h>
#include <string.h>

#define BLANKS " \t"

/* One word being put together; it is never longer than the text it comes from. */
struct word {
	const char *from;
	char *to;
};

static const char *take_single(struct word *w)
{
	const char *end = strchr(w->from, '\'');

	if (end == NULL)
		return "a ' has no second one";
	size_t n = (size_t)(end - w->from);
	memcpy(w->to, w->from, n);
	w->to += n;
	w->from = end + 1;
	return NULL;
}

static const char *take_double(struct word *w)
{
	for (; *w->from != '"'; w->from++) {
		char c = *w->from;
		if (c == '\\') {
			c = *++w->from;
			if (c != '\0' && strchr("\"\\nt", c) == NULL)
				return "in \"..\" a \\ stands before \", \\, n or t alone (use '..')";
			c = c == 'n' ? '\n' : c == 't' ? '\t' : c;
		}
		if (c == '\0')
			return "a \" has no second one";
		*w->to++ = c;
	}
	w->from++;
	return NULL;
}

/* From the first character of a word to the blank after it. */
static const char *take_word(struct word *w)
{
	const char *wrong = NULL;

	while (wrong == NULL && *w->from != '\0' && strchr(BLANKS, *w->from) == NULL) {
		char c = *w->from++;
		if (c == '\'')
			wrong = take_single(w);
		else if (c == '"')
			wrong = take_double(w);
		else if (c != '\\')
			*w->to++ = c;
		else if (*w->from != '\0')
			*w->to++ = *w->from++;
		else
			wrong = "the \\ at the end has nothing after it";
	}
	return wrong;
}

/* buf: as long as text, for each word in turn. */
static const char *split(struct whole *whole, const char *text, char *buf, struct config_words *words, bool *comment)
{
	size_t bytes = 0;

	for (text += strspn(text, BLANKS); *text != '\0'; text += strspn(text, BLANKS)) {
		struct word w = {.from = text, .to = buf};
		if (comment != NULL && (*text == '#' || *text == ';'))
			*comment = true;
		const char *wrong = words->n >= WORDS_MAX ? "too many words" : take_word(&w);
		if (wrong != NULL)
			return wrong;
		bytes += (size_t)(w.to - buf) + 1;
		if (bytes > WORDS_BYTES_MAX)
			return "longer than 16384 bytes";
		if (inside_add_word(whole, words, inside_copy(whole, buf, (size_t)(w.to - buf))) < 0)
			return NULL;
		text = w.from;
	}
	return NULL;
}

const char *words_split(struct whole *whole, const char *text, struct config_words *words, bool *comment)
{
	char *buf = inside_copy(whole, text, strlen(text));
	const char *wrong = buf != NULL ? split(whole, text, buf, words, comment) : NULL;

	free(buf);
	return wrong;
}

void words_print(const char *word, FILE *to)
{
	bool plain = *word != '\0' && strpbrk(word, " \t\n\"'\\;#") == NULL;

	if (plain) {
		fputs(word, to);
		return;
	}
	fputc('"', to);
	for (; *word != '\0'; word++) {
		if (*word == '\n')
			fputs("\\n", to);
		else if (*word == '\t')
			fputs("\\t", to);
		else
			fprintf(to, "%s%c", *word == '"' || *word == '\\' ? "\\" : "", *word);
	}
	fputc('"', to);
}
