/* fuzz_config.c — any bytes whatever as hark.conf, or, where the first one is odd, as a document: errors are bounded
 * lines that name their place, and what has no error is printed as text that is read to the same again, twice. Files
 * are never looked for: glob(3) is ours. */
#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "document.h"
#include "inside.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(bool holds)
{
	if (!holds)
		abort();
}

/* Every other pattern finds a file, always the same. */
int glob(const char *pattern, int flags, int (*errors)(const char *, int), glob_t *out)
{
	static char file[] = "/etc/hostname", *paths[] = {file, NULL};
	(void)flags, (void)errors;
	if (strlen(pattern) % 2 == 0)
		return GLOB_NOMATCH;
	out->gl_pathc = 1;
	out->gl_pathv = paths;
	return 0;
}

void globfree(glob_t *g)
{
	(void)g;
}

static void check_lines(char *const lines[], size_t n)
{
	for (size_t i = 0; i < n; i++) {
		must(lines[i][0] != '\0' && strlen(lines[i]) < 2048);
		for (const char *p = lines[i]; *p != '\0'; p++)
			must((unsigned char)*p >= 0x20 && *p != 0x7f);
	}
}

static char *print(const struct config *c, size_t *n)
{
	char *text = NULL;
	FILE *to = open_memstream(&text, n);
	must(to != NULL && config_print(c, to) == 0);
	fclose(to);
	return text;
}

static void check_service(const struct config_service *s, bool good)
{
	must(s->text != NULL && s->workers >= 0);
	if (!good)
		return;
	must(s->box != NULL && s->argv.n > 0 && s->argv.word[s->argv.n] == NULL && s->listen.n > 0 && s->workers >= 1);
	for (size_t i = 0; i < s->listen.n; i++)
		must(hark_address_parse(s->listen.word[i], &(struct hark_address){0}, NULL) == 0);
}

static void check(struct config *c, int r)
{
	must(r >= 0 && (size_t)r == c->n_errors && c->n_errors <= MESSAGES_MAX + 1);
	check_lines(c->errors, c->n_errors);
	check_lines(c->warnings, c->n_warnings);
	for (size_t i = 0; i < c->n_services; i++)
		check_service(c->services[i], r == 0);
	size_t n, n_again;
	char *text = print(c, &n);
	if (r == 0) {
		struct config *again;
		must(inside_load_bytes("again", text, n, &again) == 0);
		must(again->n_services == c->n_services);
		for (size_t i = 0; i < c->n_services; i++)
			must(strcmp(again->services[i]->text, c->services[i]->text) == 0);
		char *text_again = print(again, &n_again);
		must(n == n_again && memcmp(text, text_again, n) == 0);
		free(text_again);
		config_free(again);
	}
	free(text);
	config_free(c);
}

#define LINES_MAX 64

/* Lines "key value"; one that begins with '[' is a section's name. */
static void as_document(char *text)
{
	struct document_line lines[LINES_MAX];
	struct document_section sections[LINES_MAX], *pointers[LINES_MAX];
	struct document d = {.sections = pointers};
	struct config *c;
	size_t used = 0;
	int number = 0;
	char *rest = text;
	for (char *line; used < LINES_MAX && d.n < LINES_MAX && (line = strsep(&rest, "\n")) != NULL;) {
		struct config_place place = {"document", ++number};
		if (line[0] == '[' || d.n == 0) {
			sections[d.n] = (struct document_section){.name = line, .place = place, .lines = &lines[used]};
			pointers[d.n] = &sections[d.n];
			d.n++;
			continue;
		}
		char *value = line;
		strsep(&value, " ");
		value = value != NULL ? value : line;
		lines[used++] =
			(struct document_line){.kind = DOCUMENT_SETTING, .key = line, .value = value, .place = place};
		sections[d.n - 1].n++;
	}
	int r = config_load_document(&d, &c);
	check(c, r);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct config *c;
	char *text = malloc(size + 1); /* exactly as long as it is, so that reading past it shows */
	must(text != NULL);
	memcpy(text, data, size);
	text[size] = '\0';
	if (size > 0 && (data[0] & 1)) {
		as_document(text + 1);
	} else {
		char *exact = malloc(size > 0 ? size : 1);
		must(exact != NULL);
		memcpy(exact, data, size);
		int r = inside_load_bytes("input", exact, size, &c);
		check(c, r);
		free(exact);
	}
	free(text);
	return 0;
}
