/* service.c — sections become services: each key's value is the service's own, else that of [defaults], else the
 * standard of its row; then what must go together is checked and the box is asked whether it takes its arguments.
 *
 * Nothing is read twice into one field, so nothing need ever be undone. Main thread, at start and reload. */
#include "inside.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "nearest.h"

void service_free(struct service *s)
{
	if (s == NULL)
		return;
	char *texts[] = {s->s.name,   s->s.text,      s->s.banner,    s->s.engine,      s->s.user,        s->s.group,
	                 s->s.chroot, s->s.directory, s->s.stderr_to, s->s.socket_user, s->s.socket_group};
	struct config_words *words[] = {&s->s.listen,   &s->s.argv,     &s->s.env,
	                                &s->s.user_env, &s->s.pass_env, &s->group_names};

	for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++)
		free(texts[i]);
	for (size_t i = 0; i < sizeof words / sizeof words[0]; i++)
		inside_free_words(words[i]);
	for (size_t i = 0; i < WHATS; i++)
		inside_free_words(&s->what[i]);
	free(s->s.groups);
	free(s);
}

static struct service *service_new(struct whole *w, const struct section *from)
{
	struct service *s = calloc(1, sizeof *s);

	if (s == NULL || (s->s.name = inside_copy(w, from->name, strlen(from->name))) == NULL) {
		w->no_memory = true;
		free(s);
		return NULL;
	}
	s->s.place = (struct config_place){.file = from->at.file, .line = from->at.line};
	s->order = from->at.order;
	s->end = from->end;
	s->s.uid = (uid_t)-1;
	s->s.gid = (gid_t)-1;
	s->s.umask = s->s.socket_mode = s->s.client_first = -1;
	return s;
}

/* ---- settings ---- */

/* Whether the section gives the key, be it empty. */
static bool gives(const struct section *s, const struct config_key *key)
{
	for (size_t i = 0; s != NULL && i < s->n; i++)
		if (s->settings[i].key == key)
			return true;
	return false;
}

static bool gives_value(const struct section *s, const char *name)
{
	const struct config_key *key = key_find(name);

	for (size_t i = 0; s != NULL && i < s->n; i++)
		if (s->settings[i].key == key && s->settings[i].value[0] != '\0')
			return true;
	return false;
}

static void read_value(struct reading *r, const char *value, void *base)
{
	r->value = value;
	r->bad = false;
	r->key->how->kind->read(r, value, base);
}

/* Reads what the section has for the key, at its place in at. False: nothing, or it is empty. */
static bool read_from(const struct reading *as, const struct section *from, const struct config_key *key, void *base,
                      struct at *at)
{
	bool any = false;

	for (size_t i = 0; from != NULL && i < from->n; i++) {
		const struct setting *set = &from->settings[i];
		if (set->key != key || set->value[0] == '\0')
			continue;
		struct reading r = *as;
		r.key = key;
		r.at = *at = set->at;
		read_value(&r, set->value, base);
		any = true;
	}
	return any;
}

static void read_standard(struct whole *w, const struct config_key *key, void *base)
{
	struct reading r = {.w = w, .quiet = true, .key = key};

	if (key->standard[0] != '\0')
		read_value(&r, key->standard, base);
}

/* One key of a service. */
static void read_key(struct whole *w, struct service *s, const struct section *own, const struct section *defaults,
                     const struct config_key *key)
{
	struct reading own_r = {.w = w, .lenient = s->s.disabled}, default_r = {.w = w, .quiet = true};
	int i = key_index(key);

	s->own[i] = gives(own, key);
	bool any = s->own[i] && read_from(&own_r, own, key, s, &s->at[i]);
	if (!s->own[i] && !((key->how->flags & KEY_EXEC) && !s->is_exec))
		any = read_from(&default_r, defaults, key, s, &s->at[i]);
	if (!any)
		read_standard(w, key, s);
}

/* ---- what goes together ---- */

static const char *const what_names[WHATS] = {[WHAT_EXEC] = "exec", [WHAT_BOX] = "box", [WHAT_RELAY] = "relay"};

static struct at head_at(const struct section *s)
{
	return s->at;
}

static void check_listen(struct whole *w, const struct service *s, const struct section *own)
{
	struct nearest n = {.word = own->name};
	char hint[96];

	if (s->s.listen.n > 0 || gives_value(own, "listen"))
		return;
	nearest_offer(&n, "defaults");
	nearest_offer(&n, "harkd");
	inside_error(w, head_at(own), "[%s] has no listen%s", own->name, nearest_hint(&n, "", hint, sizeof hint));
}

/* Which of the three is served, or -1: it was said. */
static int check_what(struct whole *w, const struct service *s, const struct section *own)
{
	int found = -1;

	for (int i = 0; i < WHATS; i++) {
		if (!gives_value(own, what_names[i]))
			continue;
		if (found >= 0) {
			inside_error(w, key_at(s->at, what_names[i]), "%s: [%s] has %s already, and one is served",
			             what_names[i], own->name, what_names[found]);
			return -1;
		}
		found = i;
	}
	if (found < 0)
		inside_error(w, head_at(own), "[%s] has neither exec nor box nor relay: nothing to serve", own->name);
	return found < 0 || s->what[found].n == 0 ? -1 : found;
}

static void check_flags(struct whole *w, const struct service *s, int what)
{
	bool has_unix = false;

	for (size_t i = 0; i < s->s.listen.n; i++)
		has_unix = has_unix || strncmp(s->s.listen.word[i], "unix", 4) == 0;
	for (const struct config_key *k = config_keys; k->name != NULL; k++) {
		int i = key_index(k);
		if (!s->own[i] || s->at[i].file == NULL)
			continue;
		if ((k->how->flags & KEY_EXEC) && what >= 0 && !s->is_exec)
			inside_error(w, s->at[i], "%s is for programs: it goes with exec, not with %s", k->name,
			             what_names[what]);
		if ((k->how->flags & KEY_UNIX) && !has_unix)
			inside_warning(w, s->at[i], "%s: the service listens on no Unix socket", k->name);
	}
}

/* inetd's wait: the program accepts by itself, so what harkd does with each connection it does not do here. */
static void check_wait(struct whole *w, struct service *s)
{
	const struct {
		const char *key;
		bool given;
	} idle[] = {
		{"banner", s->s.banner != NULL},
		{"max_conns", s->s.max_conns > 0},
		{"max_per_source", s->s.max_per_source > 0},
		{"rate_per_source", s->s.rate_per_source.events > 0},
		{"lookup_host", s->lookup_host},
	};

	if (!s->s.wait)
		return;
	if (!s->is_exec) {
		inside_warning(w, key_at(s->at, "wait"), "wait: no effect on [%s]: it is for programs", s->s.name);
		s->s.wait = false;
		return;
	}
	for (size_t i = 0; i < sizeof idle / sizeof idle[0]; i++)
		if (idle[i].given)
			inside_warning(w, key_at(s->at, idle[i].key),
			               "%s: no effect on [%s], as wait = yes: the program accepts by itself",
			               idle[i].key, s->s.name);
}

/* ---- the box ---- */

static int add(struct whole *w, struct config_words *to, const char *word)
{
	return inside_add_word(w, to, inside_copy(w, word, strlen(word)));
}

static void add_duration(struct whole *w, struct config_words *to, const char *option, int64_t ns)
{
	char text[32];

	(void)snprintf(text, sizeof text, "%lldns", (long long)ns);
	(void)add(w, to, option);
	(void)add(w, to, text);
}

/* exec's options stand before the program; the ladder's standard is exec's own. */
static void add_exec_options(struct whole *w, struct service *s)
{
	struct config_words *argv = &s->s.argv;
	const struct service standard = {.term_after_ns = 1 * HARK_S, .kill_after_ns = 3 * HARK_S};

	if (s->s.stderr_to != NULL && strcmp(s->s.stderr_to, "connection") == 0)
		(void)add(w, argv, "--stderr");
	if (s->lookup_host)
		(void)add(w, argv, "--host");
	if (s->s.stdin_null)
		(void)add(w, argv, "--stdin-null");
	if (s->until_eof)
		(void)add(w, argv, "--until-eof");
	if (s->term_after_ns != standard.term_after_ns || s->kill_after_ns != standard.kill_after_ns) {
		add_duration(w, argv, "--term-after", s->term_after_ns);
		add_duration(w, argv, "--kill-after", s->kill_after_ns);
	}
}

static void make_argv(struct whole *w, struct service *s, int what)
{
	const struct config_words *words = &s->what[what];

	(void)add(w, &s->s.argv, what == WHAT_BOX ? words->word[0] : what_names[what]);
	if (s->is_exec)
		add_exec_options(w, s);
	if (what == WHAT_EXEC && words->word[0][0] == '-')
		(void)add(w, &s->s.argv, "--");
	for (size_t i = what == WHAT_BOX; i < words->n; i++)
		(void)add(w, &s->s.argv, words->word[i]);
}

static const struct box *find_box(struct whole *w, const struct service *s, int what)
{
	const char *name = what == WHAT_BOX ? s->what[what].word[0] : what_names[what];
	const struct box *box = box_find(name);
	struct nearest n = {.word = name};
	char hint[96];

	for (const struct box *b = boxes; b->name != NULL && box == NULL; b++)
		nearest_offer(&n, b->name);
	if (box == NULL)
		inside_error(w, key_at(s->at, what_names[what]), "%s: no such box: %.60s%s", what_names[what], name,
		             nearest_hint(&n, "", hint, sizeof hint));
	return box;
}

const char *service_program(const struct service *s)
{
	static const char *const flags[] = {"--stderr", "--stdin-null", "--host", "--until-eof"};
	const struct config_words *argv = &s->s.argv;
	size_t i = 1;

	for (; i < argv->n && argv->word[i][0] == '-' && argv->word[i][1] != '\0'; i++) {
		const char *word = argv->word[i];
		bool alone = strchr(word, '=') != NULL;
		if (strcmp(word, "--") == 0) {
			i++;
			break;
		}
		for (size_t k = 0; k < sizeof flags / sizeof flags[0]; k++)
			alone = alone || strcmp(word, flags[k]) == 0;
		i += !alone;
	}
	return i < argv->n ? argv->word[i] : NULL;
}

/* arg: what the box made of its arguments; a box that was not opened tells of its row alone. */
static void check_kinds(struct whole *w, const struct service *s, const void *arg)
{
	for (size_t i = 0; i < s->s.listen.n && !s->s.wait; i++) {
		struct hark_address a;
		if (hark_address_parse(s->s.listen.word[i], &a, NULL) < 0 || a.scheme == HARK_FD)
			continue;
		bool datagram = a.scheme == HARK_UDP || a.scheme == HARK_UDP4 || a.scheme == HARK_UDP6 ||
		                a.scheme == HARK_UNIXGRAM;
		if (!box_takes(s->s.box, arg, datagram ? SOCK_DGRAM : SOCK_STREAM))
			inside_error(w, s->listen_at[i], "listen: %.200s: %s %s no %s", s->s.listen.word[i],
			             s->s.box->name, s->s.box->takes != NULL ? "with these arguments takes" : "serves",
			             datagram ? "datagrams" : "streams");
	}
}

/* Opens the box for what it says of its arguments, and closes it again. */
static void try_box(struct whole *w, struct service *s, int what)
{
	const struct config_words *argv = &s->s.argv;
	struct hark_why why = {""};
	void *arg = NULL;
	int err = 0;

	if (s->s.box->open != NULL) {
		err = s->s.box->open((int)argv->n - 1, argv->word + 1, &arg, &why);
	} else if (argv->n > 1) {
		(void)snprintf(why.text, sizeof why.text, "%.80s takes no arguments", s->s.box->name);
		err = -EINVAL;
	}
	if (err >= 0) {
		check_kinds(w, s, arg);
		if (s->s.box->open != NULL && s->s.box->close != NULL)
			s->s.box->close(arg);
		return;
	}
	s->program_bad = true;
	if (err == -ENOMEM)
		w->no_memory = true;
	/* -EINVAL: the arguments are wrong on any system. */
	enum message_kind kind = s->s.disabled && err != -EINVAL ? MESSAGE_WARNING : MESSAGE_ERROR;
	inside_message(w, kind, key_at(s->at, what_names[what]), "%s: %s", what_names[what],
	               why.text[0] != '\0' ? why.text : hark_strerror(err));
}

/* A path of a program that does not begin with '/' is meant from the directory of the file that it stands in:
 * harkd's own may be any. */
static void make_absolute(struct whole *w, struct service *s)
{
	char **program = &s->what[WHAT_EXEC].word[0], *path;
	const struct at at = key_at(s->at, "exec");
	const char *slash = strrchr(at.file, '/');

	if ((*program)[0] == '/' || strchr(*program, '/') == NULL)
		return;
	char *dir = slash == NULL ? strdup(".") : strndup(at.file, (size_t)(slash - at.file) + 1);
	char *real = dir != NULL ? realpath(dir, NULL) : NULL;
	free(dir);
	if (real == NULL && errno != ENOMEM) {
		inside_error(w, at, "exec: %.200s: where it is meant from cannot be told: %s", *program,
		             hark_strerror(errno));
	} else if (real == NULL || asprintf(&path, "%s/%s", real, *program) < 0) {
		w->no_memory = true;
	} else {
		free(*program);
		*program = path;
	}
	free(real);
}

const char *service_path(const struct service *s)
{
	bool passed = false;

	for (size_t i = s->s.env.n; i > 0; i--)
		if (strncmp(s->s.env.word[i - 1], "PATH=", 5) == 0)
			return s->s.env.word[i - 1] + 5;
	for (size_t i = 0; i < s->s.pass_env.n; i++) {
		const char *name = s->s.pass_env.word[i];
		size_t n = strcspn(name, "*");
		passed = passed || (name[n] == '*' ? strncmp("PATH", name, n) == 0 : strcmp("PATH", name) == 0);
	}
	return passed ? getenv("PATH") : NULL;
}

/* Whether exec's box, opened here, would look for the program elsewhere than in the worker. */
static bool looks_elsewhere(const struct service *s, const char *program)
{
	const char *ours = getenv("PATH"), *its = service_path(s);

	if (s->s.chroot != NULL)
		return true;
	return program != NULL && program[0] != '/' && strcmp(ours != NULL ? ours : "", its != NULL ? its : "") != 0;
}

static void check_box(struct whole *w, struct service *s, int what)
{
	const char *program = s->is_exec ? service_program(s) : NULL;

	if (program != NULL && program[0] != '/' && strchr(program, '/') != NULL) {
		s->program_bad = true;
		inside_error(w, key_at(s->at, what_names[what]),
		             "%s: %.200s: give an absolute path, or a name that is found in $PATH", what_names[what],
		             program);
	} else if (s->is_exec && looks_elsewhere(s, program)) {
		check_kinds(w, s, NULL); /* config_check_system() looks for the program where it will be */
	} else {
		try_box(w, s, what);
	}
}

/* ---- as whom ---- */

static void find_variables(struct whole *w, struct service *s)
{
	char text[PATH_MAX + 16];
	const char *found;

	for (size_t i = 0; s->s.user != NULL && (found = users_variable(s->s.uid, i, text, sizeof text)) != NULL; i++)
		if (found[0] != '\0')
			(void)add(w, &s->s.user_env, found);
}

static void find_groups(struct whole *w, struct service *s)
{
	const struct config_words *names = &s->group_names;
	bool none = names->n == 1 && strcmp(names->word[0], "none") == 0;

	if (s->s.user != NULL && s->s.gid == (gid_t)-1)
		inside_error(w, key_at(s->at, "user"), "user: the number %s has no entry, so the service needs a group",
		             s->s.user);
	if (names->n == 0) {
		if (s->s.user != NULL && s->s.gid != (gid_t)-1 &&
		    users_groups(s->s.uid, s->s.gid, &s->s.groups, &s->s.n_groups) < 0)
			w->no_memory = true;
		return;
	}
	s->s.groups_named = true;
	s->s.groups = calloc(names->n, sizeof *s->s.groups);
	if (s->s.groups == NULL) {
		w->no_memory = true;
		return;
	}
	for (size_t i = 0; i < names->n && !none; i++)
		if (users_find_group(names->word[i], &s->s.groups[s->s.n_groups]) == 0)
			s->s.n_groups++;
}

static void make_text(struct whole *w, struct service *s)
{
	size_t n;
	FILE *to = open_memstream(&s->s.text, &n);

	if (to == NULL) {
		w->no_memory = true;
		return;
	}
	print_service(s, to);
	if (fclose(to) != 0)
		w->no_memory = true;
}

static struct service *build(struct whole *w, const struct section *own, const struct section *defaults)
{
	struct service *s = service_new(w, own);
	const struct config_key *disable = key_find("disable");

	if (s == NULL)
		return NULL;
	read_key(w, s, own, defaults, disable);
	for (const struct config_key *k = config_keys; k->name != NULL; k++) {
		if (!k->global && k != disable)
			read_key(w, s, own, defaults, k);
		/* What is served stands before what goes with it in the table. */
		s->is_exec = s->what[WHAT_EXEC].n > 0 ||
		             (s->what[WHAT_BOX].n > 0 && strcmp(s->what[WHAT_BOX].word[0], "exec") == 0);
	}
	int what = own->wrong ? -1 : check_what(w, s, own);
	if (!own->wrong)
		check_listen(w, s, own);
	check_flags(w, s, what);
	if (what >= 0)
		check_wait(w, s);
	find_variables(w, s);
	find_groups(w, s);
	if (what >= 0 && (s->s.box = find_box(w, s, what)) != NULL) {
		if (what == WHAT_EXEC && s->s.chroot == NULL)
			make_absolute(w, s);
		make_argv(w, s, what);
		if (!w->no_memory)
			check_box(w, s, what);
	}
	make_text(w, s);
	return s;
}

static void add_service(struct whole *w, struct service *s)
{
	struct config *c = &w->c;
	struct config_service **more = inside_room(w, c->services, c->n_services, sizeof *more);

	if (more == NULL) {
		service_free(s);
		return;
	}
	c->services = more;
	more[c->n_services++] = &s->s;
}

/* ---- [harkd] and [defaults] ---- */

/* An ordinary user's own, where the session has a place for it. */
static void own_control(struct whole *w)
{
	const char *dir = getenv("XDG_RUNTIME_DIR");

	free(w->c.control);
	w->c.control = NULL;
	if (dir != NULL && dir[0] == '/' && asprintf(&w->c.control, "%s/harkd.sock", dir) < 0) {
		w->c.control = NULL;
		w->no_memory = true;
	}
}

static void build_harkd(struct whole *w, const struct section *harkd)
{
	const struct reading r = {.w = w};

	for (const struct config_key *k = config_keys; k->name != NULL; k++) {
		if (!k->global || read_from(&r, harkd, k, &w->c, &w->at[key_index(k)]))
			continue;
		read_standard(w, k, &w->c);
		if (strcmp(k->name, "control") == 0 && geteuid() != 0)
			own_control(w);
	}
}

/* What is wrong in [defaults] is said here, once, and not for every service. */
static void check_defaults(struct whole *w, const struct section *defaults)
{
	const struct reading r = {.w = w};
	struct service *scratch = service_new(w, defaults);
	struct at at;

	for (const struct config_key *k = config_keys; k->name != NULL && scratch != NULL; k++)
		if (!k->global)
			(void)read_from(&r, defaults, k, scratch, &at);
	service_free(scratch);
}

void inside_build(struct whole *w)
{
	const struct section *harkd = NULL, *defaults = NULL;

	for (size_t i = 0; i < w->n_sections; i++) {
		if (w->sections[i]->wrong)
			continue;
		if (strcmp(w->sections[i]->name, "harkd") == 0)
			harkd = w->sections[i];
		else if (strcmp(w->sections[i]->name, "defaults") == 0)
			defaults = w->sections[i];
	}
	build_harkd(w, harkd);
	if (defaults != NULL)
		check_defaults(w, defaults);
	for (size_t i = 0; i < w->n_sections && !w->no_memory; i++) {
		const struct section *own = w->sections[i];
		if (strcmp(own->name, "harkd") == 0 || strcmp(own->name, "defaults") == 0)
			continue;
		struct service *s = build(w, own, defaults);
		if (s == NULL || own->wrong)
			service_free(s);
		else
			add_service(w, s);
	}
}
