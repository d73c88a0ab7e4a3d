/* cmd_import.c — hark import: what inetd, xinetd or systemd was told to serve, as hark.conf. Main thread.
 *
 * The readers (import/) put everything into one document. Here it is decided which reader a file is for, and the
 * document is printed, checked as harkd would check it, or counted. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#include "import.h"
#include "json.h"
#include "options.h"

#define GUESS_BYTES 65536 /* a file is known by its first line that says anything; what comes before are comments */

struct import_args {
	const char *output, *format;
	bool check, report, json;
};

static const struct format {
	const char *name;
	int (*read)(struct document *d, const char *file);
} formats[] = {{"inetd", import_inetd}, {"xinetd", import_xinetd}, {"systemd", import_systemd}};

static const char *const format_names[] = {"inetd", "xinetd", "systemd", NULL};

#define AT(member) offsetof(struct import_args, member)

static const struct option_row options[] = {
	{"format", 0, OPTION_CHOICE, "F",
         "inetd, xinetd or systemd: what the files are (told by their names and first lines)", AT(format),
         .choices = format_names},
	{"output", 'o', OPTION_TEXT, "FILE", "write to FILE, which is replaced once all is written (standard output)",
         AT(output)},
	{"check", 0, OPTION_FLAG, NULL, "check the result as harkd would; print it only with --output", AT(check)},
	{"report", 0, OPTION_FLAG, NULL, "print a table of what was carried over, and all that was not, instead",
         AT(report)},
	{"json", 0, OPTION_FLAG, NULL, "the report as a JSON object", AT(json)},
	{0},
};

struct import {
	const struct verb *verb;
	struct import_args args;
	struct document *document;
};

/* ---- which reader ---- */

static bool ends_in(const char *text, const char *end)
{
	size_t n = strlen(text), m = strlen(end);

	return n >= m && strcmp(text + n - m, end) == 0;
}

static bool is_word(const char *p, size_t n, const char *word)
{
	return n == strlen(word) && strncasecmp(p, word, n) == 0;
}

/* The format that the first line with anything in it has; a comment has none. NULL: no line has. */
static const char *guess_from(const char *text)
{
	for (const char *p = text; *p != '\0'; p += strcspn(p, "\n"), p += *p == '\n') {
		p += strspn(p, " \t\r");
		size_t n = strcspn(p, " \t\r\n{"), gap = strspn(p + n, " \t");
		const char *next = p + n + gap;
		if (*p == '\n' || *p == '#' || *p == ';' || *p == '\0')
			continue;
		if (*p == '[' && strcspn(p, "]\n") < n && strchr(":,", p[strcspn(p, "]\n") + 1]) == NULL)
			return "systemd";
		/* xinetd: "service NAME" and "{", on this line or another, "defaults", "include FILE": never inetd's
		 * seven columns. */
		bool service = is_word(p, n, "service") && strncmp(next, "stream", 6) != 0 &&
		               strncmp(next, "dgram", 5) != 0;
		if (service || is_word(p, n, "defaults") || is_word(p, n, "include") || is_word(p, n, "includedir"))
			return "xinetd";
		return "inetd";
	}
	return NULL;
}

static const char *guess(const char *file)
{
	if (ends_in(file, ".socket"))
		return "systemd";
	char *text = malloc(GUESS_BYTES + 1);
	int fd = open(file, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK); /* a FIFO without a writer would wait */
	struct stat st;
	const char *format = NULL;
	/* What is not a regular file cannot be read twice; and whether it can be at all, its reader tells. */
	if (text != NULL && fd >= 0 && fstat(fd, &st) == 0 && S_ISREG(st.st_mode)) {
		ssize_t n = read(fd, text, GUESS_BYTES);
		text[n > 0 ? n : 0] = '\0';
		format = guess_from(text);
	}
	if (fd >= 0)
		(void)close(fd);
	free(text);
	return format != NULL ? format : "inetd";
}

/* ---- reading ---- */

static int read_one(struct import *im, const char *file, bool of_directory)
{
	const char *format = im->args.format != NULL ? im->args.format : guess(file);

	/* What a directory of xinetd's has and xinetd itself passes over. */
	if (of_directory && strcmp(format, "xinetd") == 0 && strchr(strrchr(file, '/'), '.') != NULL) {
		document_remark(im->document, NULL, (struct config_place){0},
		                "%s is passed over, as by xinetd: its name has a .", file);
		return 0;
	}
	document_remark(im->document, NULL, (struct config_place){0}, "imported from %s (%s)", file, format);
	for (size_t i = 0; i < sizeof formats / sizeof *formats; i++)
		if (strcmp(formats[i].name, format) == 0)
			return formats[i].read(im->document, file);
	return -EINVAL;
}

/* What lies beside configuration and is none: hidden files, copies that editors and package managers leave. */
static int is_meant(const struct dirent *e)
{
	static const char *const endings[] = {"~",        ".bak",    ".orig",    ".rej",     ".swp",
	                                      ".rpmsave", ".rpmnew", ".rpmorig", ".service", NULL};

	for (int i = 0; endings[i] != NULL; i++)
		if (ends_in(e->d_name, endings[i]))
			return 0;
	return e->d_name[0] != '.' && strstr(e->d_name, ".dpkg-") == NULL && strstr(e->d_name, ".ucf-") == NULL;
}

static int read_entry(struct import *im, const char *directory, const char *name, bool sockets)
{
	struct stat st;
	char *path;
	int err = 0;

	if (asprintf(&path, "%s%s%s", directory, ends_in(directory, "/") ? "" : "/", name) < 0)
		return -ENOMEM;
	if (stat(path, &st) < 0 || S_ISREG(st.st_mode))
		if (!sockets || ends_in(name, ".socket"))
			err = read_one(im, path, true);
	free(path);
	return err;
}

/* The files of a directory in the order of their names; where there are units of systemd, the sockets alone. */
static int read_directory(struct import *im, const char *directory)
{
	struct dirent **entries;
	bool sockets = false;
	int err = 0;
	int n = scandir(directory, &entries, is_meant, alphasort);

	if (n < 0 && errno == ENOMEM)
		return -ENOMEM;
	if (n < 0) {
		document_error(im->document, (struct config_place){.file = document_file(im->document, directory)},
		               "%s", strerror(errno));
		return 0;
	}
	for (int i = 0; i < n; i++)
		sockets = sockets || ends_in(entries[i]->d_name, ".socket");
	for (int i = 0; i < n; i++) {
		if (err == 0)
			err = read_entry(im, directory, entries[i]->d_name, sockets);
		free(entries[i]);
	}
	free(entries);
	return err;
}

static int read_all(struct import *im, int n, char *files[])
{
	struct stat st;
	int err = 0;

	for (int i = 0; i < n && err == 0; i++)
		err = stat(files[i], &st) == 0 && S_ISDIR(st.st_mode) ? read_directory(im, files[i])
		                                                      : read_one(im, files[i], false);
	return document_broken(im->document) ? -ENOMEM : err;
}

/* ---- the result ---- */

static void print_lines(char *const lines[], size_t n, const char *before)
{
	for (size_t i = 0; i < n; i++)
		fprintf(stderr, "%s%s\n", before, lines[i]);
}

/* Tells what is wrong with it. Returns how many errors there are, or -ENOMEM. */
static int check(const struct import *im)
{
	const struct document *d = im->document;
	struct config *c;

	if (!im->args.check) {
		print_lines(d->errors, d->n_errors, "");
		return (int)d->n_errors;
	}
	int errors = config_load_document(d, &c); /* the document's own errors are among them */
	if (errors < 0)
		return errors;
	print_lines(c->warnings, c->n_warnings, "warning: ");
	print_lines(c->errors, c->n_errors, "");
	config_free(c);
	return errors;
}

static int cannot_write(const struct import *im, int err)
{
	say(im->verb, "%s: %s", im->args.output, strerror(-err));
	return STATUS_SYSTEM;
}

/* Into a new file beside it, which then takes its name: nobody finds half a configuration. */
static int replace_file(const struct import *im, const char *path)
{
	char *beside;
	mode_t mask = umask(0);

	(void)umask(mask);
	if (asprintf(&beside, "%s.XXXXXX", path) < 0)
		return cannot_write(im, -ENOMEM);
	int fd = mkostemp(beside, O_CLOEXEC);
	FILE *to = fd >= 0 ? fdopen(fd, "w") : NULL;
	int err = to == NULL ? -errno : document_print(im->document, to);
	if (err == 0 && fchmod(fd, 0666 & ~mask) < 0)
		err = -errno;
	if (to != NULL ? fclose(to) != 0 && err == 0 : false)
		err = -errno;
	else if (to == NULL && fd >= 0)
		(void)close(fd);
	if (err == 0 && rename(beside, path) < 0)
		err = -errno;
	if (err < 0 && fd >= 0)
		(void)unlink(beside);
	free(beside);
	return err < 0 ? cannot_write(im, err) : STATUS_DONE;
}

static int write_output(const struct import *im)
{
	const char *path = im->args.output;
	struct stat st;

	if (stat(path, &st) != 0 || S_ISREG(st.st_mode)) {
		char *real = realpath(path, NULL); /* where it is a link the link stays */
		int status = replace_file(im, real != NULL ? real : path);
		free(real);
		return status;
	}
	FILE *to = fopen(path, "we"); /* a pipe, a terminal */
	if (to == NULL)
		return cannot_write(im, -errno);
	int err = document_print(im->document, to);
	if (fclose(to) != 0 && err == 0)
		err = -errno;
	return err < 0 ? cannot_write(im, err) : STATUS_DONE;
}

/* ---- the report ---- */

struct counts {
	size_t services, carried, dropped, errors;
};

static bool is_drop(const struct document_line *l)
{
	return l->kind == DOCUMENT_REMARK && strncmp(l->value, DOCUMENT_NOT_CARRIED, strlen(DOCUMENT_NOT_CARRIED)) == 0;
}

static bool is_in(const struct config_place *place, const char *file)
{
	return place->file != NULL && strcmp(place->file, file) == 0;
}

static void count_section(const struct document_section *s, const char *file, struct counts *c)
{
	if (s->name != NULL && is_in(&s->place, file) && strcmp(s->name, "defaults") != 0 &&
	    strcmp(s->name, "harkd") != 0)
		c->services++;
	for (size_t i = 0; i < s->n; i++) {
		if (!is_in(&s->lines[i].place, file))
			continue;
		c->carried += s->lines[i].kind == DOCUMENT_SETTING;
		c->dropped += is_drop(&s->lines[i]);
	}
}

static struct counts count_file(const struct document *d, const char *file)
{
	struct counts c = {0};
	size_t n = strlen(file);

	count_section(&d->head, file, &c);
	for (size_t i = 0; i < d->n; i++)
		count_section(d->sections[i], file, &c);
	for (size_t i = 0; i < d->n_errors; i++)
		c.errors += strncmp(d->errors[i], file, n) == 0 && d->errors[i][n] == ':';
	return c;
}

/* Bytes of files and their names as text that no terminal acts upon. */
static void print_plain(const char *text)
{
	for (; *text != '\0'; text++)
		putchar((unsigned char)*text < 0x20 || *text == 0x7f ? '?' : *text);
}

static void each_drop(const struct document *d,
                      void (*show)(const struct document_section *s, const struct document_line *l, void *arg),
                      void *arg)
{
	for (size_t i = 0; i <= d->n; i++) {
		const struct document_section *s = i == 0 ? &d->head : d->sections[i - 1];
		for (size_t k = 0; k < s->n; k++) {
			if (is_drop(&s->lines[k]))
				show(s, &s->lines[k], arg);
		}
	}
}

static void show_drop(const struct document_section *s, const struct document_line *l, void *first)
{
	if (*(bool *)first)
		puts("\nNot carried over:");
	*(bool *)first = false;
	print_plain(l->place.file != NULL ? l->place.file : "");
	printf(":%d: %s%s%s\n", l->place.line, s->name != NULL ? s->name : "", s->name != NULL ? ": " : "",
	       l->value + strlen(DOCUMENT_NOT_CARRIED));
}

static void report(const struct document *d)
{
	struct counts all = {0};

	printf("%8s %8s %8s %8s  %s\n", "SERVICES", "CARRIED", "DROPPED", "ERRORS", "FILE");
	for (size_t i = 0; i < d->n_files; i++) {
		struct counts c = count_file(d, d->files[i]);
		printf("%8zu %8zu %8zu %8zu  ", c.services, c.carried, c.dropped, c.errors);
		print_plain(d->files[i]);
		putchar('\n');
		all.services += c.services;
		all.carried += c.carried;
		all.dropped += c.dropped;
		all.errors += c.errors;
	}
	if (d->n_files != 1)
		printf("%8zu %8zu %8zu %8zu  total\n", all.services, all.carried, all.dropped, all.errors);
	each_drop(d, show_drop, &(bool){true});
}

static void show_drop_json(const struct document_section *s, const struct document_line *l, void *to)
{
	struct json *j = to;

	json_open(j, NULL, '{');
	json_put_string(j, "file", l->place.file);
	json_put_int(j, "line", l->place.line);
	json_put_string(j, "service", s->name);
	json_put_string(j, "what", l->value + strlen(DOCUMENT_NOT_CARRIED));
	json_close(j, '}');
}

static int report_json(const struct document *d)
{
	size_t carried = 0;
	struct text text = {.grows = true};
	struct json j = {.to = &text};

	json_open(&j, NULL, '{');
	json_open(&j, "files", '[');
	for (size_t i = 0; i < d->n_files; i++) {
		struct counts c = count_file(d, d->files[i]);
		json_open(&j, NULL, '{');
		json_put_string(&j, "file", d->files[i]);
		json_put_int(&j, "services", (int64_t)c.services);
		json_put_int(&j, "carried", (int64_t)c.carried);
		json_put_int(&j, "dropped", (int64_t)c.dropped);
		json_put_int(&j, "errors", (int64_t)c.errors);
		json_close(&j, '}');
		carried += c.carried;
	}
	json_close(&j, ']');
	json_put_int(&j, "carried", (int64_t)carried);
	json_open(&j, "dropped", '[');
	each_drop(d, show_drop_json, &j);
	json_close(&j, ']');
	json_open(&j, "errors", '[');
	for (size_t i = 0; i < d->n_errors; i++)
		json_put_string(&j, NULL, d->errors[i]);
	json_close(&j, ']');
	json_close(&j, '}');
	return json_print(&j, stdout);
}

/* ---- */

/* The file has more than anybody reads, and a service that is off is missed. */
static void tell_disabled(const struct import *im)
{
	const struct document *d = im->document;
	char buf[512];
	struct text names = {.buf = buf, .cap = sizeof buf};
	size_t n = 0;

	for (size_t i = 0; i < d->n; i++)
		if (d->sections[i]->disabled)
			text_add(&names, "%s%s", n++ > 0 ? ", " : "", d->sections[i]->name);
	if (n > 0)
		say(im->verb, "%zu disabled, and why is told in %s: %s", n, im->args.output, buf);
}

static int show(const struct import *im)
{
	int status = im->args.output != NULL ? write_output(im) : STATUS_DONE;

	if (im->args.output != NULL && status == STATUS_DONE)
		tell_disabled(im);
	if (im->args.json) { /* of the report */
		if (report_json(im->document) < 0) {
			say(im->verb, "%s", strerror(ENOMEM));
			status = STATUS_SYSTEM;
		}
	} else if (im->args.report)
		report(im->document);
	else if (im->args.output == NULL && !im->args.check)
		(void)document_print(im->document, stdout); /* whether it could be written, main() tells */
	return status;
}

static int import(struct import *im, int n, char *files[])
{
	int errors = read_all(im, n, files);
	int status = errors == 0 ? show(im) : STATUS_DONE;

	if (errors == 0)
		errors = check(im);
	if (errors < 0) {
		say(im->verb, "%s", strerror(-errors));
		return STATUS_SYSTEM;
	}
	return status != STATUS_DONE ? status : errors > 0 ? STATUS_FAILED : STATUS_DONE;
}

static int run(const struct verb *self, int argc, char *argv[])
{
	struct import im = {.verb = self};
	int status;
	int n = options_parse(self, argc, argv, &im.args, &status);

	if (n < 0)
		return status;
	if (n == 0)
		return options_usage(self, "no file to import");
	if (im.args.json && !im.args.report)
		return options_usage(self, "--json is for --report");
	im.document = document_new();
	if (im.document == NULL) {
		say(self, "%s", strerror(ENOMEM));
		return STATUS_SYSTEM;
	}
	status = import(&im, n, argv);
	document_free(im.document);
	return status;
}

const struct verb verb_import = {
	.name = "import",
	.summary = "Turns inetd.conf, xinetd.conf or systemd's sockets into hark.conf",
	.usage = "FILE...",
	.notes = "FILE is an inetd.conf, an xinetd.conf, a .socket unit, or a directory of them; all become one "
		 "configuration.\n"
		 "What cannot be carried over is a comment in it. Exit code 1 if something could not be read.\n",
	.options = options,
	.run = run,
};
