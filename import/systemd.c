/* systemd.c — systemd.socket(5) units, each with its service, read as systemd does: sections, continued lines,
 * drop-in directories, an empty assignment that takes back what was said before.
 *
 * Its service is X@.service where it accepts, else X.service or what Service= names. Where units and drop-ins are is
 * systemd_search.c's, what the lines mean systemd_service.c's. Bounded; any thread. */
#include "systemd.h"
#include "import.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define LINES_MAX 4000  /* of a unit with its drop-ins */
#define VALUE_MAX 65536 /* bytes */
#define BLANKS    " \t\r\v\f"

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

static void read_drop_in(struct document *d, struct unit *u, const char *path)
{
	(void)read_file(d, u, (struct config_place){.file = document_file(d, path)}, path);
}

/* Reads the unit of that name with its drop-ins. It has no file, or a mask: has_main stays false. */
static void read_unit(struct document *d, struct unit *u, const struct systemd_path *p)
{
	char path[PATH_MAX], name[NAME_MAX + 1];

	if (snprintf(name, sizeof name, "%s", u->name) >= (int)sizeof name || !systemd_own_name(p, name) ||
	    systemd_find(p, name, path) != SYSTEMD_FOUND)
		return;
	char *own = strdup(name);
	if (own == NULL) {
		d->broken = true;
		return;
	}
	free(u->name);
	u->name = own;
	u->has_main = read_file(d, u, (struct config_place){.file = document_file(d, path)}, path);
	if (u->has_main)
		systemd_drop_ins(d, p, u->name, read_drop_in, u);
}

/* The service's name: of x.socket x@.service where it accepts, of x@.socket x@.service in any case. The caller's to
 * free. */
static char *service_name(struct document *d, const struct unit *u)
{
	const struct unit_line *accept = unit_last(u, "Socket", "Accept"), *service = unit_last(u, "Socket", "Service");
	bool accepts = accept != NULL && systemd_yes(accept->value) == 1;
	size_t n = strlen(u->name) - strlen(".socket"), prefix = strcspn(u->name, "@");
	char *name = NULL;
	int r;

	if (!accepts && service != NULL && strchr(service->value, '/') == NULL)
		name = strdup(service->value);
	else if ((r = asprintf(&name, "%.*s%s.service", (int)(accepts && prefix < n ? prefix : n), u->name,
	                       accepts ? "@" : "")) < 0)
		name = NULL;
	if (name == NULL)
		d->broken = true;
	return name;
}

static bool is_known(const struct document *d, const char *file)
{
	for (size_t i = 0; i < d->n_files; i++)
		if (strcmp(d->files[i], file) == 0)
			return true;
	return false;
}

static bool same_file(const char *a, const char *b)
{
	struct stat x, y;

	return stat(a, &x) == 0 && stat(b, &y) == 0 && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

/* The socket whose file is path, and its service. */
static void read_pair(struct document *d, const char *name, const char *path, const struct systemd_path *p)
{
	struct config_place place = {.file = document_file(d, path)};
	struct unit u = {.user = strstr(path, "/systemd/user/") != NULL}, s = {.user = u.user};

	u.name = strdup(name);
	if (u.name == NULL) {
		d->broken = true;
	} else if (read_file(d, &u, place, path)) {
		u.has_main = true;
		systemd_drop_ins(d, p, u.name, read_drop_in, &u);
		s.name = service_name(d, &u);
		if (s.name != NULL)
			read_unit(d, &s, p);
		if (!d->broken)
			systemd_make(d, &u, s.has_main ? &s : NULL, s.name, place);
	}
	unit_done(&u);
	unit_done(&s);
}

/* What the unit is known by: its file; of an instance, whose file is its template's, the path it would have there. */
static void unit_key(const char *file, const char *name, char key[PATH_MAX])
{
	char template[NAME_MAX + 1];

	if (!systemd_template(name, template, sizeof template) ||
	    snprintf(key, PATH_MAX, "%.*s%s", (int)(systemd_base(file) - file), file, name) >= PATH_MAX)
		(void)strcpy(key, file);
}

int import_systemd(struct document *d, const char *socket_file)
{
	char path[PATH_MAX], name[NAME_MAX + 1], found[PATH_MAX], key[PATH_MAX];
	struct systemd_path p;
	size_t n;

	if (snprintf(path, sizeof path, "%s", socket_file) >= (int)sizeof path) {
		document_error(d, (struct config_place){.file = document_file(d, socket_file)}, "%s",
		               strerror(ENAMETOOLONG));
		return d->broken ? -ENOMEM : 0;
	}
	systemd_resolve(&p, path, name);
	n = strlen(name);
	struct config_place place = {.file = socket_file};
	if (n < 8 || strcmp(name + n - 7, ".socket") != 0) {
		document_error(d, place, "not a socket unit: its name should end in .socket");
		return d->broken ? -ENOMEM : 0;
	}
	enum systemd_found state = systemd_find(&p, name, found);
	if (state == SYSTEMD_FOUND && p.names == NULL)
		(void)strcpy(found, path); /* as it was named */
	switch (state) {
	case SYSTEMD_MASKED:
		if (!is_known(d, found))
			document_drop(d, NULL, (struct config_place){.file = document_file(d, found)},
			              "%s: it is masked", name);
		break;
	case SYSTEMD_FOUND:
		unit_key(found, name, key);
		if (is_known(d, key)) /* one unit once, whatever its names */
			break;
		(void)document_file(d, key);
		if (p.names != NULL && !same_file(found, path))
			document_remark(d, NULL, (struct config_place){0}, "%s takes the place of %s", found, path);
		read_pair(d, name, found, &p);
		break;
	case SYSTEMD_NOT_FOUND: read_pair(d, name, path, &p); break;
	}
	return d->broken ? -ENOMEM : 0;
}
