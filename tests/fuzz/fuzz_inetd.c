/* fuzz_inetd.c — inetd.conf: whatever a file holds, it becomes a document that can be printed, whose sections have good
 * names and whose settings stay on their lines.
 *
 * The file is in memory (memfd_create(2)), by its name in /proc. An input that includes others is left out: what is on
 * this machine must not decide what is found. */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "import.h"
#include "inside.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(bool holds)
{
	if (!holds)
		abort();
}

static void check_name(const char *name)
{
	must(*name != '\0' && strlen(name) < 64);
	must(strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") == strlen(name));
}

static void check_section(const struct document_section *s)
{
	check_name(s->name);
	must(s->place.line > 0);
	for (size_t i = 0; i < s->n; i++)
		for (const char *p = s->lines[i].value; *p != '\0'; p++)
			must((unsigned char)*p >= 0x20 || *p == '\t');
	/* A service has an address and something to run, and inetd's box is one that there is. */
	const char *exec = document_get(s, "exec"), *box = document_get(s, "box");
	must(document_get(s, "listen") != NULL);
	if (box != NULL && strncmp(box, "exec ", 5) != 0)
		must(box_find(box) != NULL);
	must(exec == NULL || box == NULL);
}

/* What is printed says the same as the document: read again, as a file of the same directory (a program's path is meant
 * from there), it has as many mistakes (a user that is not here), and equal services. */
static void check_loaded(const struct document *d, const char *text, size_t n)
{
	struct config *from_document, *from_text;
	int errors = config_load_document(d, &from_document);

	must(errors >= 0);
	must(inside_load_bytes("/proc/self/fd/printed", text, n, &from_text) == errors - (int)d->n_errors);
	must(from_document->n_services == from_text->n_services);
	for (size_t i = 0; i < from_text->n_services; i++)
		must(strcmp(from_document->services[i]->text, from_text->services[i]->text) == 0);
	config_free(from_document);
	config_free(from_text);
}

/* Each line of what is printed is a comment, a head, a setting or empty, and there are as many heads as sections. */
static void check_printed(const struct document *d)
{
	char *text = NULL;
	size_t n, heads = 0;
	FILE *to = open_memstream(&text, &n);

	must(to != NULL && document_print(d, to) == 0 && fclose(to) == 0);
	must(strlen(text) == n);
	check_loaded(d, text, n);
	for (char *line = text, *end; *line != '\0'; line = end + 1) {
		end = strchr(line, '\n');
		must(end != NULL);
		*end = '\0';
		heads += line[0] == '[';
		must(line[0] == '#' || line[0] == '[' || line[0] == '\0' || strstr(line, " = ") != NULL);
	}
	must(heads == d->n);
	free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char path[64];

	if (memmem(data, size, "include", 7) != NULL)
		return 0;
	int fd = memfd_create("inetd.conf", MFD_CLOEXEC);
	must(fd >= 0 && write(fd, data, size) == (ssize_t)size);
	(void)snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
	struct document *d = document_new();
	must(d != NULL);
	must(import_inetd(d, path) == 0);
	must(!document_broken(d));
	for (size_t i = 0; i < d->n; i++) {
		check_section(d->sections[i]);
		for (size_t k = 0; k < i; k++)
			must(strcmp(d->sections[i]->name, d->sections[k]->name) != 0);
	}
	check_printed(d);
	document_free(d);
	(void)close(fd);
	return 0;
}
