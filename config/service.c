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

#include "control_path.h"
#include "nearest.h"
#include "text.h"

void service_free(struct service *s)
{
	if (s == NULL)
		return;
	char *texts[] = {s->s.name,      s->s.text,       s->s.banner,    s->s.engine,      s->s.user,
	                 s->s.group,     s->s.chroot,     s->s.directory, s->s.socket_user, s->s.socket_group,
	                 s->s.client_ca, s->s.client_crl, s->s.alpn};
	struct config_words *words[] = {&s->s.listen,   &s->s.argv,      &s->s.env,        &s->s.user_env,
	                                &s->s.pass_env, &s->group_names, &s->option_words, &s->option_lines,
	                                &s->s.cert,     &s->s.key};

	for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++)
		free(texts[i]);
	for (size_t i = 0; i < sizeof words / sizeof words[0]; i++)
		inside_free_words(words[i]);
	for (size_t i = 0; i < WHATS; i++)
		inside_free_words(&s->what[i]);
	box_keys_free(s);
	free(s->s.proxy_from);
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
	s->s.umask = s->s.socket_mode = s->s.client_first = s->s.client_cert = -1;
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
	if (!s->own[i])
		any = read_from(&default_r, defaults, key, s, &s->at[i]);
	if (!any)
		read_standard(w, key, s);
}

/* ---- what goes together ---- */

const char *const what_names[WHATS] = {[WHAT_EXEC] = "exec", [WHAT_BOX] = "box", [WHAT_RELAY] = "relay"};

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

static void check_flags(struct whole *w, const struct service *s)
{
	bool has_unix = false;

	for (size_t i = 0; i < s->s.listen.n; i++)
		has_unix = has_unix || strncmp(s->s.listen.word[i], "unix", 4) == 0;
	bool has_tls = config_has_tls(&s->s);
	for (const struct config_key *k = config_keys; k->name != NULL; k++) {
		int i = key_index(k);
		if (s->own[i] && s->at[i].file != NULL && (k->how->flags & KEY_UNIX) && !has_unix)
			inside_warning(w, s->at[i], "%s: the service listens on no Unix socket", k->name);
		if (s->own[i] && s->at[i].file != NULL && (k->how->flags & KEY_TLS) && !has_tls)
			inside_warning(w, s->at[i], "%s: the service listens at no tls:// address", k->name);
	}
}

static bool trusts_unix(const struct config_service *s)
{
	for (size_t i = 0; i < s->n_proxy_from; i++)
		if (s->proxy_from[i].family == AF_UNIX)
			return true;
	return false;
}

/* Datagrams have no header, and peers on Unix sockets no address. */
static void check_proxy(struct whole *w, const struct service *s)
{
	struct at at = key_at(s->at, "proxy_from");

	if (s->s.proxy_direct && s->s.n_proxy_from == 0)
		inside_warning(w, key_at(s->at, "proxy_direct"), "proxy_direct: no effect on [%s] without proxy_from",
		               s->s.name);
	for (size_t i = 0; i < s->s.listen.n && s->s.n_proxy_from > 0 && !s->s.wait; i++) {
		const char *address = s->s.listen.word[i];
		if (address_type(address) == SOCK_DGRAM)
			inside_warning(w, at, "proxy_from: no effect on %.200s: datagrams have no header", address);
		else if (strncmp(address, "unix:", 5) == 0 && !s->s.proxy_direct && !trusts_unix(&s->s))
			inside_warning(w, at, "proxy_from: refuses everybody at %.200s, as it has no \"unix\"",
			               address);
	}
}

/* inetd's wait: the program accepts by itself, so what harkd does with each connection it does not do here. */
static void check_wait(struct whole *w, struct service *s, const struct section *own)
{
	const struct {
		const char *key;
		bool given;
	} idle[] = {
		{"banner", s->s.banner != NULL},
		{"proxy_from", s->s.n_proxy_from > 0},
		{"max_conns", s->s.max_conns > 0},
		{"max_per_source", s->s.max_per_source > 0},
		{"rate_per_source", s->s.rate_per_source.events > 0},
		{"keepalive", s->s.keepalive_ns > 0},
		{"user_timeout", s->s.user_timeout_ns > 0},
	};

	if (!s->s.wait)
		return;
	if (s->s.box->operands != HARK_OPERANDS_PROGRAM) {
		inside_warning(w, key_at(s->at, "wait"), "wait: no effect on [%s]: it is for programs", s->s.name);
		s->s.wait = false;
		return;
	}
	for (size_t i = 0; i < sizeof idle / sizeof idle[0]; i++)
		if (idle[i].given)
			inside_warning(w, key_at(s->at, idle[i].key),
			               "%s: no effect on [%s], as wait = yes: the program accepts by itself",
			               idle[i].key, s->s.name);
	box_keys_check_wait(w, s, own);
}

/* ---- the box ---- */

static int add(struct whole *w, struct config_words *to, const char *word)
{
	return inside_add_word(w, to, inside_copy(w, word, strlen(word)));
}

/* Keys that are options come first: what the box's own line has may end in somebody else's arguments. */
static void make_argv(struct whole *w, struct service *s, int what)
{
	const struct config_words *words = &s->what[what], *options = &s->option_words;

	(void)add(w, &s->s.argv, what == WHAT_BOX ? words->word[0] : s->s.box->name);
	for (size_t i = 0; i < options->n; i++)
		(void)add(w, &s->s.argv, options->word[i]);
	s->s.key_options = options->n;
	if (what == WHAT_EXEC && words->word[0][0] == '-')
		(void)add(w, &s->s.argv, "--");
	for (size_t i = what == WHAT_BOX; i < words->n; i++)
		(void)add(w, &s->s.argv, words->word[i]);
}

static const struct hark_box_row *find_box(struct whole *w, const struct service *s, int what)
{
	const char *name = what == WHAT_BOX ? s->what[what].word[0] : what_names[what];
	const struct hark_box_row *box = box_find(name);
	struct nearest n = {.word = name};
	char hint[96];

	if (box_is_path(name)) {
		if (name[0] == '/')
			return &shared_box;
		inside_error(w, key_at(s->at, what_names[what]), "%s: \"%.200s\" is not an absolute path",
		             what_names[what], name);
		return NULL;
	}
	for (const struct hark_box_row *const *b = boxes; *b != NULL && box == NULL; b++)
		nearest_offer(&n, (*b)->name);
	if (box == NULL)
		inside_error(w, key_at(s->at, what_names[what]), "%s: no such box: %.60s%s", what_names[what], name,
		             nearest_hint(&n, "", hint, sizeof hint));
	return box;
}

int address_type(const char *address)
{
	struct hark_address a;

	if (hark_address_parse(address, &a, NULL) < 0 || a.scheme == HARK_FD)
		return 0;
	bool datagram = a.scheme == HARK_UDP || a.scheme == HARK_UDP4 || a.scheme == HARK_UDP6 ||
	                a.scheme == HARK_UNIXGRAM;
	return datagram ? SOCK_DGRAM : SOCK_STREAM;
}

int service_try_listen(const struct service *s, size_t i, const struct hark_box_row *box, const void *state,
                       struct hark_why *why)
{
	const char *address = s->s.listen.word[i];
	int type = address_type(address);

	if (s->s.wait)
		return 0;
	if (type != 0 && !box_takes(box, state, type))
		(void)snprintf(why->text, sizeof why->text, "%.140s: %.40s %s no %s", address, box->name,
		               box->takes != NULL ? "with these arguments takes" : "serves",
		               type == SOCK_DGRAM ? "datagrams" : "streams");
	else if (box->hands_over && strncmp(address, "unixgram:", 9) == 0)
		(void)snprintf(why->text, sizeof why->text, "%.140s: %.40s takes unix datagrams with wait = yes alone",
		               address, box->name);
	else
		return 0;
	return -EINVAL;
}

static void check_kinds(struct whole *w, const struct service *s, const void *state)
{
	struct hark_why why;

	for (size_t i = 0; i < s->s.listen.n; i++)
		if (service_try_listen(s, i, s->s.box, state, &why) < 0)
			inside_error(w, s->listen_at[i], "listen: %s", why.text);
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

/* Whether the program is looked for elsewhere than in the worker, if it is done here. */
static bool looks_elsewhere(const struct service *s)
{
	const char *ours = getenv("PATH"), *its = service_path(s);

	if (s->s.chroot != NULL)
		return true;
	return s->program[0] != '/' && strcmp(ours != NULL ? ours : "", its != NULL ? its : "") != 0;
}

/* "exec = a | b": each word is an argument. A shell's own script may be anything. */
static void check_no_shell(struct whole *w, const struct service *s, int what)
{
	static const char *const words[] = {"|", "||", "&", "&&", ";", "<", ">", ">>", "2>&1"};
	const struct config_words *all = &s->what[what];
	size_t n = strlen(s->program);

	for (size_t i = 0; i < all->n && (n < 2 || strcmp(s->program + n - 2, "sh") != 0); i++)
		for (size_t k = 0; k < sizeof words / sizeof *words; k++)
			if (strcmp(all->word[i], words[k]) == 0)
				return inside_warning(
					w, key_at(s->at, what_names[what]),
					"%s: \"%s\" is an argument of %.80s: there is no shell; for one write "
					"/bin/sh -c '...'",
					what_names[what], words[k], s->program);
}

/* What the box's user can see of it is config_check_system()'s affair. */
static void check_program(struct whole *w, struct service *s, int what)
{
	struct at at = key_at(s->at, what_names[what]);
	const char *path = getenv("PATH");
	int where;

	if (s->program[0] != '/' && strchr(s->program, '/') != NULL) {
		s->program_bad = true;
		return inside_error(w, at, "%s: %.200s: give an absolute path, or a name that is found in $PATH",
		                    what_names[what], s->program);
	}
	int err = looks_elsewhere(s) ? 0 : program_look(s->program, path, &where);
	if (err == 0)
		return;
	s->program_bad = true;
	inside_message(w, s->s.disabled ? MESSAGE_WARNING : MESSAGE_ERROR, at, "%s: cannot run %.200s: %s",
	               what_names[what], s->program,
	               err == ENOENT && s->program[0] != '/' ? "not found in $PATH" : hark_strerror(err));
}

/* Reads the box's own line and the keys that are its options into a state of it, for what only the box can tell. */
static void build_box(struct whole *w, struct service *s, const struct section *own, const struct section *defaults)
{
	int what = service_what(s);
	const struct config_words *words = &s->what[what];
	size_t from = what == WHAT_BOX;
	struct hark_why why = {""};

	if (s->s.box == &shared_box) { /* config_check_system() has it tried where it will be loaded */
		box_keys_keep(w, s, own);
		return make_argv(w, s, what);
	}
	void *state = box_new(s->s.box);
	int took = state != NULL ? box_keys_read(w, s, own, defaults, words, from, state) : -1;

	if (state == NULL)
		w->no_memory = true;
	from += took > 0 ? (size_t)took : 0;
	s->program_bad = took < 0;
	if (took >= 0) {
		if (s->s.box->operands == HARK_OPERANDS_PROGRAM && from < words->n)
			s->program = words->word[from];
		if (s->s.box->operands == HARK_OPERANDS_ADDRESS && from < words->n)
			s->targets = words->word + from, s->n_targets = words->n - from;
		if (box_operands(s->s.box, (int)(words->n - from), words->word + from, state, &why) == 0) {
			check_kinds(w, s, state);
			if (s->program != NULL) {
				check_program(w, s, what);
				check_no_shell(w, s, what);
			}
		} else {
			s->program_bad = true;
			inside_error(w, key_at(s->at, what_names[what]), "%s: %s", what_names[what], why.text);
		}
	}
	box_free(s->s.box, state);
	make_argv(w, s, what);
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
	if (!text_close_stream(to, &s->s.text))
		w->no_memory = true;
}

int service_what(const struct service *s)
{
	int what = 0;

	while (what < WHATS - 1 && s->what[what].n == 0)
		what++;
	return what;
}

static struct service *build(struct whole *w, const struct section *own, const struct section *defaults)
{
	struct service *s = service_new(w, own);
	const struct config_key *disable = key_find("disable");

	if (s == NULL)
		return NULL;
	read_key(w, s, own, defaults, disable);
	for (const struct config_key *k = config_keys; k->name != NULL; k++)
		if (!k->global && k != disable)
			read_key(w, s, own, defaults, k);
	bool served = !own->wrong && !w->keys_alone;
	int what = served ? check_what(w, s, own) : -1;
	if (served) {
		check_listen(w, s, own);
		check_flags(w, s);
		check_proxy(w, s);
	}
	tls_check(w, s);
	find_variables(w, s);
	find_groups(w, s);
	s->s.box = what >= 0 ? find_box(w, s, what) : NULL;
	box_keys_check(w, own, s->s.box);
	if (s->s.box != NULL)
		check_wait(w, s, own);
	if (s->s.box != NULL && !w->no_memory) {
		if (what == WHAT_EXEC && s->s.chroot == NULL)
			make_absolute(w, s);
		build_box(w, s, own, defaults);
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

/* Where no setting says it. */
static void default_control(struct whole *w)
{
	struct control_place places[CONTROL_PLACES_MAX];
	const struct control_place *p = control_place_to_take(places, control_places(places));

	free(w->c.control);
	w->c.control = inside_copy(w, p->path, strlen(p->path));
	w->c.control_in_tmp = !p->own;
}

static void build_harkd(struct whole *w, const struct section *harkd)
{
	const struct reading r = {.w = w};

	for (const struct config_key *k = config_keys; k->name != NULL; k++) {
		if (!k->global || read_from(&r, harkd, k, &w->c, &w->at[key_index(k)]))
			continue;
		read_standard(w, k, &w->c);
		if (strcmp(k->name, "control") == 0)
			default_control(w);
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
	box_keys_check_defaults(w, defaults);
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
