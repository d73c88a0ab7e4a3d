/* systemd_search.c — where systemd looks for a unit: its search path, masks, links, and the order of drop-ins
 * (systemd.unit(5), "Unit file load path").
 *
 * A unit in one of systemd's own directories is looked for in all of them, the first that has it counts; a tree that
 * holds them (/mnt/usr/lib/systemd/system) is a root of its own, where absolute links stay. A unit anywhere else has
 * its directory alone. Bounded; any thread. */
#include "systemd.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define LINKS_MAX    16
#define DROP_INS_MAX 1000

static const char *const system_directories[] = {
	"/etc/systemd/system.control", "/run/systemd/system.control",
	"/run/systemd/transient",      "/run/systemd/generator.early",
	"/etc/systemd/system",         "/etc/systemd/system.attached",
	"/run/systemd/system",         "/run/systemd/system.attached",
	"/run/systemd/generator",      "/usr/local/lib/systemd/system",
	"/usr/lib/systemd/system",     "/lib/systemd/system",
	"/run/systemd/generator.late", NULL,
};
static const char *const user_directories[] = {
	"/etc/systemd/user",
	"/run/systemd/user",
	"/usr/local/share/systemd/user",
	"/usr/share/systemd/user",
	"/usr/local/lib/systemd/user",
	"/usr/lib/systemd/user",
	"/lib/systemd/user",
	NULL,
};

/* The directory's root, if it is one of those: its first n bytes; the longest name counts. -1: it is none of them. */
static int root_of(const char *const *names, const char *directory)
{
	size_t len = strlen(directory), longest = 0;

	for (; *names != NULL; names++) {
		size_t n = strlen(*names);
		if (n > longest && n <= len && strcmp(directory + len - n, *names) == 0)
			longest = n;
	}
	return longest == 0 ? -1 : (int)(len - longest);
}

/* sockets.target.wants and the like hold links to what is above them. */
static bool is_of_links(const char *directory)
{
	static const char *const ends[] = {".wants", ".requires", ".upholds"};
	size_t n = strlen(directory);

	for (size_t i = 0; i < sizeof ends / sizeof ends[0]; i++)
		if (n > strlen(ends[i]) && strcmp(directory + n - strlen(ends[i]), ends[i]) == 0)
			return strchr(directory, '/') != NULL;
	return false;
}

/* One of systemd's own directories: p is its search path. */
static bool is_own(struct systemd_path *p, const char *directory)
{
	const char *const *names = system_directories;
	char above[PATH_MAX];

	int n = is_of_links(directory) ? (int)(strrchr(directory, '/') - directory) : (int)strlen(directory);
	(void)snprintf(above, sizeof above, "%.*s", n, directory);
	int root = root_of(names, above);
	if (root < 0)
		root = root_of(names = user_directories, above);
	if (root < 0 || root >= PATH_MAX / 2)
		return false;
	(void)snprintf(p->root, sizeof p->root, "%.*s", root, directory);
	p->names = names;
	return true;
}

void systemd_search_path(struct systemd_path *p, const char *directory)
{
	char real[PATH_MAX];

	*p = (struct systemd_path){0};
	if (!is_own(p, directory) && (realpath(directory, real) == NULL || !is_own(p, real)))
		(void)snprintf(p->alone, sizeof p->alone, "%s", directory);
}

/* The i-th directory; false: there is none. */
static bool directory_at(const struct systemd_path *p, size_t i, char buf[PATH_MAX])
{
	if (p->names == NULL) {
		(void)snprintf(buf, PATH_MAX, "%s", p->alone);
		return i == 0;
	}
	if (p->names[i] == NULL)
		return false;
	return snprintf(buf, PATH_MAX, "%s%s", p->root, p->names[i]) < PATH_MAX;
}

/* path is no link. */
static bool is_mask(const char *path)
{
	struct stat st, null;

	if (lstat(path, &st) < 0)
		return false;
	return (S_ISREG(st.st_mode) && st.st_size == 0) ||
	       (S_ISCHR(st.st_mode) && stat("/dev/null", &null) == 0 && st.st_rdev == null.st_rdev);
}

/* Follows path, a link, one step. False: it is none, or too long a one. */
static bool follow_one(const struct systemd_path *p, char path[PATH_MAX])
{
	char to[PATH_MAX], next[PATH_MAX];
	ssize_t n = readlink(path, to, sizeof to - 1);
	const char *slash = strrchr(path, '/');
	int len;

	if (n < 0)
		return false;
	to[n] = '\0';
	if (to[0] != '/')
		len = snprintf(next, sizeof next, "%.*s%s", slash != NULL ? (int)(slash + 1 - path) : 0, path, to);
	else
		len = snprintf(next, sizeof next, "%s%s", strcmp(to, "/dev/null") == 0 ? "" : p->root, to);
	if (len >= (int)sizeof next)
		return false;
	/* Without ".." and links above it, so that one file has one name. */
	char *base = strrchr(next, '/');
	if (base != NULL && base > next) {
		*base++ = '\0';
		if (realpath(next, to) == NULL || snprintf(path, PATH_MAX, "%s/%s", to, base) >= PATH_MAX)
			return false;
	} else {
		(void)strcpy(path, next);
	}
	return true;
}

/* Follows path to its end, within the root. False: it is masked. */
static bool follow(const struct systemd_path *p, char path[PATH_MAX])
{
	for (int i = 0; i < LINKS_MAX && follow_one(p, path); i++)
		;
	return !is_mask(path);
}

const char *systemd_base(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash != NULL ? slash + 1 : path;
}

bool systemd_template(const char *name, char *buf, size_t cap)
{
	const char *at = strchr(name, '@'), *dot = strrchr(name, '.');

	if (at == NULL || dot == NULL || dot < at || dot == at + 1)
		return false;
	return snprintf(buf, cap, "%.*s%s", (int)(at + 1 - name), name, dot) < (int)cap;
}

/* The search path of the directory that path is in. */
static void search_path_of(struct systemd_path *p, const char *path)
{
	const char *base = systemd_base(path);
	int n = base > path + 1 ? (int)(base - path) - 1 : base == path ? 0 : 1;
	char directory[PATH_MAX];

	(void)snprintf(directory, sizeof directory, "%.*s", n > 0 ? n : 1, n > 0 ? path : ".");
	systemd_search_path(p, directory);
}

void systemd_resolve(struct systemd_path *p, char path[PATH_MAX], char name[NAME_MAX + 1])
{
	char template[NAME_MAX + 1];
	struct systemd_path next;
	bool linked = false;

	(void)snprintf(name, NAME_MAX + 1, "%s", systemd_base(path));
	search_path_of(p, path);
	for (int i = 0; i < LINKS_MAX && follow_one(p, path) && !is_mask(path); i++) {
		/* A link out of the search path ("systemctl link") is a unit of its own: it keeps name and drop-ins. */
		search_path_of(&next, path);
		linked = linked || (p->names != NULL && (p->names != next.names || strcmp(p->root, next.root) != 0));
		if (linked)
			continue;
		*p = next;
		/* A link from an instance to its template is the instance; any other is an alias of what it is to. */
		const char *base = systemd_base(path);
		if (!systemd_template(name, template, sizeof template) || strcmp(template, base) != 0)
			(void)snprintf(name, NAME_MAX + 1, "%s", base);
	}
}

enum systemd_found systemd_find(const struct systemd_path *p, const char *name, char path[PATH_MAX])
{
	char directory[PATH_MAX], template[NAME_MAX + 1], link[PATH_MAX];
	bool is_instance = systemd_template(name, template, sizeof template);

	for (int pass = 0; pass < (is_instance ? 2 : 1); pass++)
		for (size_t i = 0; directory_at(p, i, directory); i++) {
			struct stat st;
			if (snprintf(link, sizeof link, "%s/%s", directory, pass == 0 ? name : template) >=
			            (int)sizeof link ||
			    lstat(link, &st) < 0)
				continue;
			(void)strcpy(path, link);
			if (follow(p, path))
				return SYSTEMD_FOUND;
			(void)strcpy(path, link);
			return SYSTEMD_MASKED;
		}
	return SYSTEMD_NOT_FOUND;
}

/* ---- drop-ins ---- */

struct drop_ins {
	struct document *d;
	char *path[DROP_INS_MAX];
	size_t n;
	bool full; /* there are more: said */
};

static int is_conf(const struct dirent *e)
{
	size_t n = strlen(e->d_name);

	return e->d_name[0] != '.' && n > 5 && strcmp(e->d_name + n - 5, ".conf") == 0;
}

static bool is_taken(const struct drop_ins *all, const char *name)
{
	for (size_t i = 0; i < all->n; i++)
		if (strcmp(systemd_base(all->path[i]), name) == 0)
			return true;
	return false;
}

/* A file of the same name that was there before takes its place. */
static void add_file(struct drop_ins *all, const char *directory, const char *name)
{
	if (is_taken(all, name))
		return;
	if (all->n == DROP_INS_MAX) {
		if (!all->full)
			document_error(all->d, (struct config_place){.file = document_file(all->d, directory)},
			               "more than %d drop-ins", DROP_INS_MAX);
		all->full = true;
	} else if (asprintf(&all->path[all->n], "%s/%s", directory, name) < 0) {
		all->d->broken = true;
	} else {
		all->n++;
	}
}

/* The *.conf files of DIRECTORY/NAME.d. */
static void add_directory(struct drop_ins *all, const char *directory, const char *name)
{
	char path[PATH_MAX];
	struct dirent **found = NULL;

	if (snprintf(path, sizeof path, "%s/%s.d", directory, name) >= (int)sizeof path)
		return;
	int n = scandir(path, &found, is_conf, alphasort);
	if (n < 0 && errno != ENOENT && errno != ENOTDIR)
		document_error(all->d, (struct config_place){.file = document_file(all->d, path)}, "%s",
		               strerror(errno));
	for (int i = 0; i < n; i++) {
		add_file(all, path, found[i]->d_name);
		free(found[i]);
	}
	free(found);
}

/* NAME.d, that of its template, and of each prefix that ends in a dash: foo-.service.d for foo-bar.service. */
static void add_names(struct drop_ins *all, const char *directory, const char *name)
{
	char other[NAME_MAX + 1];
	const char *dot = strrchr(name, '.'), *at = strchr(name, '@');

	add_directory(all, directory, name);
	if (systemd_template(name, other, sizeof other))
		add_directory(all, directory, other);
	for (const char *dash = at != NULL ? at : dot; dash != NULL && dash > name; dash--)
		if (*dash == '-' && dash + 1 != dot &&
		    snprintf(other, sizeof other, "%.*s%s", (int)(dash + 1 - name), name, dot) < (int)sizeof other)
			add_directory(all, directory, other);
}

static int by_name(const void *a, const void *b)
{
	return strcmp(systemd_base(*(char *const *)a), systemd_base(*(char *const *)b));
}

/* ---- names ---- */

/* The instance of the template alias that name is of the template it is an alias of. */
static bool instance_of(const char *template, const char *name, char *buf, size_t cap)
{
	const char *at = strchr(template, '@'), *name_at = strchr(name, '@'), *dot = strrchr(name, '.');

	return snprintf(buf, cap, "%.*s%.*s%s", (int)(at - template), template, (int)(dot - name_at), name_at, dot) <
	       (int)cap;
}

static bool is_template(const char *name)
{
	const char *at = strchr(name, '@');

	return at != NULL && at[1] == '.' && strrchr(name, '.') == at + 1;
}

bool systemd_own_name(const struct systemd_path *p, char name[NAME_MAX + 1])
{
	char directory[PATH_MAX], link[PATH_MAX], template[NAME_MAX + 1], own[NAME_MAX + 1];
	bool is_instance = systemd_template(name, template, sizeof template);
	struct systemd_path q;

	for (int pass = 0; pass < (is_instance ? 2 : 1); pass++)
		for (size_t i = 0; directory_at(p, i, directory); i++) {
			struct stat st;
			const char *as = pass == 0 ? name : template;
			if (snprintf(link, sizeof link, "%s/%s", directory, as) >= (int)sizeof link ||
			    lstat(link, &st) < 0)
				continue;
			systemd_resolve(&q, link, own);
			if (strcmp(own, as) == 0)
				return true;
			if (pass == 1) {
				(void)strcpy(link, own);
				if (!is_template(link) || !instance_of(link, name, own, sizeof own))
					return false;
			}
			(void)strcpy(name, own);
			return true;
		}
	return true;
}

static bool is_same_kind(const char *a, const char *b)
{
	const char *x = strrchr(a, '.'), *y = strrchr(b, '.');

	return x != NULL && y != NULL && strcmp(x, y) == 0;
}

/* What links of that directory are aliases of name: their drop-ins in all directories. */
static void add_aliases(struct drop_ins *all, const struct systemd_path *p, const char *directory, const char *name)
{
	char template[NAME_MAX + 1], path[PATH_MAX], own[NAME_MAX + 1], alias[NAME_MAX + 1], other[PATH_MAX];
	bool is_instance = systemd_template(name, template, sizeof template);
	struct dirent **found = NULL;
	struct systemd_path q;
	int n = scandir(directory, &found, NULL, alphasort);

	for (int i = 0; i < n; free(found[i++])) {
		const char *entry = found[i]->d_name;
		if ((found[i]->d_type != DT_LNK && found[i]->d_type != DT_UNKNOWN) || !is_same_kind(entry, name) ||
		    strcmp(entry, name) == 0 ||
		    snprintf(path, sizeof path, "%s/%s", directory, entry) >= (int)sizeof path)
			continue;
		systemd_resolve(&q, path, own);
		if (strcmp(own, entry) == 0)
			continue;
		(void)snprintf(alias, sizeof alias, "%s", entry);
		bool is_one = strcmp(own, name) == 0;
		if (!is_one && is_instance && strcmp(own, template) == 0 && is_template(entry))
			is_one = instance_of(entry, name, alias, sizeof alias);
		for (size_t k = 0; is_one && directory_at(p, k, other); k++)
			add_names(all, other, alias);
	}
	free(found);
}

void systemd_drop_ins(struct document *d, const struct systemd_path *p, const char *name,
                      void (*read)(struct document *d, struct unit *u, const char *path), struct unit *u)
{
	struct drop_ins all = {.d = d};
	char directory[PATH_MAX];
	const char *dot = strrchr(name, '.');

	for (size_t i = 0; directory_at(p, i, directory); i++)
		add_names(&all, directory, name);
	for (size_t i = 0; p->names != NULL && directory_at(p, i, directory); i++)
		add_aliases(&all, p, directory, name);
	for (size_t i = 0; dot != NULL && directory_at(p, i, directory); i++)
		add_directory(&all, directory, dot + 1); /* socket.d, service.d: of all units of the kind */
	qsort(all.path, all.n, sizeof *all.path, by_name);
	for (size_t i = 0; i < all.n; i++) {
		char path[PATH_MAX];
		if (snprintf(path, sizeof path, "%s", all.path[i]) >= (int)sizeof path || follow(p, path))
			read(d, u, path);
		free(all.path[i]);
	}
}
