/* systemd.c — systemd.socket(5) units, each with its service, read as systemd does: sections, continued lines,
 * drop-in directories, an empty assignment that takes back what was said before.
 *
 * A unit's drop-ins are the *.conf files in NAME.d beside it. Its service, X@.service where it accepts, else X.service
 * or what Service= names, is looked for beside it, and where the unit lies in one of systemd's own directories, in the
 * others as well. What the lines mean is for systemd_service.c. Bounded; any thread. */
#include "systemd.h"
#include "import.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LINES_MAX 4000  /* of a unit with its drop-ins */
#define VALUE_MAX 65536 /* bytes */
#define BLANKS    " \t\r\v\f"

/* Where systemd looks, what comes first goes first. */
static const char *const directories[] = {"/etc/systemd/system", "/run/systemd/system", "/usr/local/lib/systemd/system",
                                          "/usr/lib/systemd/system", "/lib/systemd/system"};

bool unit_holds(const struct unit *u, size_t line, bool list)
{
	const struct unit_line *l = &u->lines[line];

	if (l->value[0] == '\0')
		return false;
	for (size_t i = line + 1; i < u->n; i++)
		if ((!list || u->lines[i].value[0] == '\0') && strcmp(u->lines[i].key, l->key) == 0 &&
		    strcmp(u->lines[i].section, l->section) == 0)
			return false;
	return true;
}

const struct unit_line *unit_last(const struct unit *u, const char *section, const char *key)
{
	for (size_t i = u->n; i > 0; i--) {
		const struct unit_line *l = &u->lines[i - 1];
		if (strcmp(l->section, section) == 0 && strcmp(l->key, key) == 0)
			return l->value[0] != '\0' ? l : NULL;
	}
	return NULL;
}

static void unit_done(struct unit *u)
{
	for (size_t i = 0; i < u->n; i++) {
		free(u->lines[i].section);
		free(u->lines[i].key);
		free(u->lines[i].value);
	}
	free(u->lines);
	free(u->name);
}

static void add_line(struct document *d, struct unit *u, const char *section, const char *key, const char *value,
                     struct config_place place)
{
	struct unit_line *more = u->lines;

	if (u->n == LINES_MAX) {
		document_error(d, place, "more than %d lines", LINES_MAX);
		u->n++;
	}
	if (u->n > LINES_MAX)
		return;
	if ((u->n & (u->n - 1)) == 0)
		more = reallocarray(u->lines, u->n == 0 ? 1 : 2 * u->n, sizeof *more);
	if (more == NULL) {
		d->broken = true;
		return;
	}
	u->lines = more;
	struct unit_line *l = &more[u->n];
	*l = (struct unit_line){.section = strdup(section), .key = strdup(key), .value = strdup(value), .place = place};
	if (l->section == NULL || l->key == NULL || l->value == NULL) {
		free(l->section);
		free(l->key);
		free(l->value);
		d->broken = true;
		return;
	}
	u->n++;
}

static char *trim(char *text)
{
	char *end;

	text += strspn(text, BLANKS);
	end = text + strlen(text);
	while (end > text && strchr(BLANKS, end[-1]) != NULL)
		*--end = '\0';
	return text;
}

/* A line with its continuations: a backslash at its end is a blank, and comments between do not count. In place,
 * because what is joined never gets longer. NULL: the end. *line is the number of its first. */
static char *next_line(char **next, int *line, int *read)
{
	char *start = *next, *to = start;
	bool more = true;

	if (*start == '\0')
		return NULL;
	for (bool first = true; more && **next != '\0'; first = false) {
		char *from = *next, *end = strchrnul(from, '\n');
		*next = *end == '\0' ? end : end + 1;
		++*read;
		if (first)
			*line = *read;
		char *text = from + strspn(from, BLANKS);
		bool comment = *text == '#' || *text == ';';
		if (comment && !first)
			continue;
		while (end > from && end[-1] == '\r')
			end--;
		memmove(to, from, (size_t)(end - from));
		to += end - from;
		more = !comment && end > from && to[-1] == '\\';
		if (more)
			to[-1] = ' ';
	}
	*to = '\0';
	return trim(start);
}

static void read_lines(struct document *d, struct unit *u, const char *file, char *text)
{
	struct config_place place = {.file = file};
	char section[64] = "";
	int read = 0;

	if (strncmp(text, "\xef\xbb\xbf", 3) == 0)
		text += 3;
	for (char *line; !d->broken && (line = next_line(&text, &place.line, &read)) != NULL;) {
		size_t n = strlen(line);
		if (n == 0 || line[0] == '#' || line[0] == ';')
			continue;
		if (line[0] == '[' && line[n - 1] == ']' && n - 2 < sizeof section) {
			line[n - 1] = '\0';
			(void)strcpy(section, line + 1);
			continue;
		}
		char *equals = strchr(line, '=');
		if (line[0] == '[' || equals == NULL || equals == line) {
			document_error(d, place, "neither [SECTION] nor KEY=VALUE: %.64s", line);
			continue;
		}
		*equals = '\0';
		if (section[0] == '\0')
			document_error(d, place, "%.64s: before the first section", trim(line));
		else if (strlen(equals + 1) > VALUE_MAX)
			document_error(d, place, "%.64s: longer than %d bytes", trim(line), VALUE_MAX);
		else if (strncmp(section, "X-", 2) != 0)
			add_line(d, u, section, trim(line), trim(equals + 1), place);
	}
	u->n = u->n > LINES_MAX ? LINES_MAX : u->n;
}

static bool read_file(struct document *d, struct unit *u, struct config_place place, const char *path)
{
	size_t len;
	char *text = reading_file(d, place, path, READING_FILE_MAX, &len);

	if (text != NULL)
		read_lines(d, u, document_file(d, path), text);
	free(text);
	return text != NULL;
}

static int is_conf(const struct dirent *e)
{
	size_t n = strlen(e->d_name);

	return e->d_name[0] != '.' && n > 5 && strcmp(e->d_name + n - 5, ".conf") == 0;
}

static int by_bytes(const struct dirent **a, const struct dirent **b)
{
	return strcmp((*a)->d_name, (*b)->d_name);
}

/* DIRECTORY/NAME.d/ *.conf */
static void read_drop_ins(struct document *d, struct unit *u, const char *directory)
{
	char path[PATH_MAX];
	struct dirent **names = NULL;
	int n;

	if (snprintf(path, sizeof path, "%s/%s.d", directory, u->name) >= (int)sizeof path)
		return;
	n = scandir(path, &names, is_conf, by_bytes);
	if (n < 0 && errno != ENOENT && errno != ENOTDIR)
		document_error(d, (struct config_place){.file = document_file(d, path)}, "%s", strerror(errno));
	for (int i = 0; i < n; i++) {
		char file[PATH_MAX];
		if (snprintf(file, sizeof file, "%s/%s", path, names[i]->d_name) < (int)sizeof file)
			(void)read_file(d, u, (struct config_place){.file = document_file(d, file)}, file);
		free(names[i]);
	}
	free(names);
}

static bool is_own(const char *directory)
{
	for (size_t i = 0; i < sizeof directories / sizeof directories[0]; i++)
		if (strcmp(directories[i], directory) == 0)
			return true;
	return false;
}

/* Reads the unit of that name, first beside the socket. It has no file: has_main stays false. */
static void read_unit(struct document *d, struct unit *u, const char *beside)
{
	char path[PATH_MAX];
	bool others = is_own(beside);

	for (int i = -1; i < (int)(sizeof directories / sizeof directories[0]) && !u->has_main; i++) {
		const char *directory = i < 0 ? beside : directories[i];
		if (i >= 0 && !others)
			break;
		if (snprintf(path, sizeof path, "%s/%s", directory, u->name) >= (int)sizeof path ||
		    access(path, F_OK) < 0)
			continue;
		u->has_main = read_file(d, u, (struct config_place){.file = document_file(d, path)}, path);
		if (!u->has_main)
			return;
	}
	/* The list backwards: what goes first is read last. */
	for (size_t i = sizeof directories / sizeof directories[0]; others && i > 0; i--)
		if (strcmp(directories[i - 1], beside) != 0)
			read_drop_ins(d, u, directories[i - 1]);
	read_drop_ins(d, u, beside);
}

/* The service's name: of x.socket x@.service where it accepts, of x@.socket x@.service in any case. The caller's to
 * free. */
static char *service_name(struct document *d, const struct unit *u)
{
	const struct unit_line *accept = unit_last(u, "Socket", "Accept"), *service = unit_last(u, "Socket", "Service");
	bool accepts = accept != NULL && systemd_yes(accept->value) == 1;
	size_t n = strlen(u->name) - strlen(".socket");
	char *name = NULL;
	int r;

	if (!accepts && service != NULL && strchr(service->value, '/') == NULL)
		name = strdup(service->value);
	else if ((r = asprintf(&name, "%.*s%s.service", (int)n, u->name,
	                       accepts && memchr(u->name, '@', n) == NULL ? "@" : "")) < 0)
		name = NULL;
	if (name == NULL)
		d->broken = true;
	return name;
}

int import_systemd(struct document *d, const char *socket_file)
{
	struct config_place place = {.file = document_file(d, socket_file)};
	const char *slash = strrchr(socket_file, '/'), *base = slash != NULL ? slash + 1 : socket_file;
	size_t n = strlen(base);
	struct unit u = {.user = strstr(socket_file, "/systemd/user/") != NULL}, s = {.user = u.user};
	char *directory = slash == NULL ? strdup(".")
	                                : strndup(socket_file, slash > socket_file ? (size_t)(slash - socket_file) : 1);

	if (n < 8 || strcmp(base + n - 7, ".socket") != 0) {
		document_error(d, place, "not a socket unit: its name should end in .socket");
		free(directory);
		return d->broken ? -ENOMEM : 0;
	}
	u.name = strdup(base);
	if (directory == NULL || u.name == NULL) {
		d->broken = true;
	} else if (read_file(d, &u, place, socket_file)) {
		u.has_main = true;
		read_drop_ins(d, &u, directory);
		s.name = service_name(d, &u);
		if (s.name != NULL)
			read_unit(d, &s, directory);
		if (!d->broken)
			systemd_make(d, &u, s.has_main ? &s : NULL, s.name, place);
	}
	unit_done(&u);
	unit_done(&s);
	free(directory);
	return d->broken ? -ENOMEM : 0;
}
