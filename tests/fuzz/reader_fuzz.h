/* reader_fuzz.h — what holds for every document, whatever it was read from, and files in memory to read it from. */
#ifndef READER_FUZZ_H
#define READER_FUZZ_H

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "import.h"

static inline void must(bool holds)
{
	if (!holds)
		abort();
}

/* A file in memory (memfd_create(2)) with those bytes; path is its name in /proc. */
static inline int memory_file(const uint8_t *data, size_t size, char path[64])
{
	int fd = memfd_create("fuzz", MFD_CLOEXEC);

	must(fd >= 0 && write(fd, data, size) == (ssize_t)size);
	(void)snprintf(path, 64, "/proc/self/fd/%d", fd);
	return fd;
}

/* A service has an address that hark takes and something to run, a box of the table where it is one; and what could not
 * be kept as it was has disable = yes beside the remark that says so. */
static inline void check_section(const struct document_section *s)
{
	const char *exec = document_get(s, "exec"), *box = document_get(s, "box"), *relay = document_get(s, "relay");
	bool disabled = false;

	must(strlen(s->name) < 64 && *s->name != '\0');
	must(strspn(s->name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") == strlen(s->name));
	must(document_get(s, "listen") != NULL);
	must((exec != NULL) + (box != NULL) + (relay != NULL) == 1);
	if (box != NULL)
		must(box_find(strncmp(box, "exec ", 5) == 0 ? "exec" : box) != NULL);
	for (size_t i = 0; i < s->n; i++) {
		for (const char *p = s->lines[i].value; *p != '\0'; p++)
			must((unsigned char)*p >= 0x20 || *p == '\t');
		disabled = disabled ||
		           (s->lines[i].kind == DOCUMENT_REMARK && strncmp(s->lines[i].value, "disabled: ", 10) == 0);
	}
	const char *disable = document_get(s, "disable");
	must(!disabled || (disable != NULL && strcmp(disable, "yes") == 0));
}

/* Each line of what is printed is a comment, a head, a setting or empty, and there are as many heads as sections. And
 * harkd's own reader makes as many services of it, or says why not. */
static inline void check_document(const struct document *d)
{
	char *text = NULL;
	size_t n, heads = 0;
	FILE *to = open_memstream(&text, &n);
	struct config *c;

	must(!document_broken(d));
	for (size_t i = 0; i < d->n; i++)
		check_section(d->sections[i]);
	must(to != NULL && document_print(d, to) == 0 && fclose(to) == 0);
	for (char *line = text, *end; *line != '\0'; line = end + 1) {
		end = strchr(line, '\n');
		must(end != NULL);
		*end = '\0';
		heads += line[0] == '[';
		must(line[0] == '#' || line[0] == '[' || line[0] == '\0' || strstr(line, " = ") != NULL);
	}
	must(heads == d->n);
	free(text);
	int errors = config_load_document(d, &c);
	must(errors >= 0 && (errors > 0 || c->n_services == d->n));
	config_free(c);
}

#endif
