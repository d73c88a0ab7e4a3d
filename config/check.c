/* check.c — what can only be known here and now: whether a service may become its user, enter its directories, and
 * run its program.
 *
 * Where another user or root directory is asked for, a forked child becomes that and tries; what it finds comes back
 * through a pipe. It is killed if it has not said so in time (a directory on a file server that is gone). A box that
 * has something to open is prepared and opened there, too. A script's interpreter and a program's libraries are not
 * looked at. Main thread. */
#include "inside.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "descriptors.h"

#define CHILD_NS (3 * HARK_S)  /* for one service */
#define ALL_NS   (15 * HARK_S) /* for all of them */

/* KEY and LISTEN are not the end: others follow. */
enum step {
	STEP_DONE = 0,
	STEP_CHROOT,
	STEP_USER,
	STEP_DIRECTORY,
	STEP_PROGRAM,
	STEP_BOX,
	STEP_TRY,
	STEP_KEY,
	STEP_LISTEN,
	STEP_TLS,
};

/* What is found. */
struct report {
	enum step step; /* where it ended; DONE: all is well, or what is not was told */
	int error;      /* errno */
	/* PROGRAM: the first bytes of its path that name the directory in the way; 0: it is the program. KEY, LISTEN:
	 * which of the service's. */
	int at;
	struct hark_why why; /* BOX, TLS, KEY, LISTEN: what to say */
};

/* One service. */
struct trial {
	const struct service *s;
	struct config *config;
	const char *program; /* NULL: none, or it was found wanting already */
	const char *path;    /* $PATH; NULL: there is none */
	bool become;         /* another user or other groups */
	bool opens;          /* the box is prepared and opened as well */
	int to;              /* the child's: where reports go */
	bool tls;            /* its certificates and keys are read */
};

/* ---- what the child calls ---- */

static int may_enter(const char *path)
{
	struct stat st;

	if (stat(path, &st) < 0)
		return errno;
	if (!S_ISDIR(st.st_mode))
		return ENOTDIR;
	return faccessat(AT_FDCWD, path, X_OK, AT_EACCESS) < 0 ? errno : 0;
}

/* May the process that we are run it? *at as in struct report. */
static int may_run(const char *path, int *at)
{
	char part[PATH_MAX];
	struct stat st;
	size_t n = strlen(path);

	if (n >= sizeof part)
		return ENAMETOOLONG;
	memcpy(part, path, n + 1);
	*at = 0;
	for (size_t i = 1; i < n; i++) {
		if (part[i] != '/')
			continue;
		part[i] = '\0';
		if (faccessat(AT_FDCWD, part, X_OK, AT_EACCESS) < 0) {
			*at = (int)i;
			return errno;
		}
		part[i] = '/';
	}
	if (stat(path, &st) < 0)
		return errno;
	if (!S_ISREG(st.st_mode))
		return S_ISDIR(st.st_mode) ? EISDIR : EACCES;
	return faccessat(AT_FDCWD, path, X_OK, AT_EACCESS) < 0 ? errno : 0;
}

/* As execvp(3) looks: a name without '/' in each directory of $PATH. */
int program_look(const char *program, const char *dirs, int *at)
{
	char path[PATH_MAX];
	size_t len = strlen(program), n;
	int worst = ENOENT;

	if (strchr(program, '/') != NULL)
		return may_run(program, at);
	for (const char *dir = dirs != NULL && dirs[0] != '\0' ? dirs : "/bin:/usr/bin";; dir += n + 1) {
		n = strcspn(dir, ":");
		if (n > 0 && n + len + 2 <= sizeof path) {
			memcpy(path, dir, n);
			path[n] = '/';
			memcpy(path + n + 1, program, len + 1);
			int err = may_run(path, at);
			*at = 0; /* of the one of many directories nothing is told */
			if (err == 0)
				return 0;
			worst = err == EACCES ? EACCES : worst;
		}
		if (dir[n] == '\0')
			return worst;
	}
}

static void look(const struct trial *t, struct report *r)
{
	if (t->s->s.directory != NULL && (r->error = may_enter(t->s->s.directory)) != 0)
		r->step = STEP_DIRECTORY;
	else if (t->program != NULL && (r->error = program_look(t->program, t->path, &r->at)) != 0)
		r->step = STEP_PROGRAM;
}

static bool report(const struct trial *t, const struct report *r)
{
	return write(t->to, r, sizeof *r) == sizeof *r; /* if not the parent notices */
}

/* Each of the keys and addresses that the box does not take. Whether there are any. */
static bool tell_keys(const struct trial *t, const struct hark_box_row *box)
{
	struct report r = {.step = STEP_KEY, .error = EINVAL};
	bool any = false;

	for (size_t i = 0; i < t->s->n_kept; i++) {
		r.at = (int)i;
		if (box_keys_try(t->s, i, box, &r.why) == -EINVAL)
			any = report(t, &r) || any;
	}
	return any;
}

static bool tell_addresses(const struct trial *t, const struct hark_box_row *box, const void *state)
{
	struct report r = {.step = STEP_LISTEN, .error = EINVAL};
	bool any = false;

	for (size_t i = 0; i < t->s->s.listen.n; i++) {
		r.at = (int)i;
		if (service_try_listen(t->s, i, box, state, &r.why) < 0)
			any = report(t, &r) || any;
	}
	return any;
}

/* A shared object is loaded as the service's user alone: all of its steps come then. 1: what is wrong was told. */
static int load_box(const struct trial *t, const struct hark_box_row **box, void **state, struct hark_why *why)
{
	const struct config_service *s = &t->s->s;
	int r = config_box_load(s->argv.word[0], box, why);
	if (r == 0 && tell_keys(t, *box))
		return 1;
	if (r == 0)
		r = config_box_parse(s, *box, state, why);
	if (r == 0 && tell_addresses(t, *box, *state))
		return 1;
	return r == 0 ? box_prepare(*box, *state, why) : r;
}

/* Once the child is what the worker will be. */
static void open_box(const struct trial *t, void *state, struct report *r)
{
	const struct config_service *s = &t->s->s;
	const struct hark_box_row *box = s->box;
	int err = s->directory != NULL && chdir(s->directory) < 0 ? -errno : 0;

	if (err == 0 && box == &shared_box)
		err = load_box(t, &box, &state, &r->why);
	if (err == 0)
		err = box_open(box, state, &r->why);
	r->error = err < 0 ? -err : 0;
	r->step = err < 0 ? STEP_BOX : STEP_DONE;
	box_free(box, state);
}

/* Foreign code is to come: other services' secrets, and those of who started us, are none of its business. */
static void forget(const struct trial *t)
{
	config_forget_others(t->config, &t->s->s);
	for (char **e = environ; e != NULL && *e != NULL; e++)
		explicit_bzero(*e, strlen(*e));
	environ = NULL;
}

/* Keys are never in the memory of who forks the workers of others. */
static int try_tls(const struct config_service *s, struct hark_why *why)
{
	struct hark_tls *tls;
	int r = config_tls_new(s, NULL, &tls, why);
	if (r == 0)
		hark_tls_free(tls);
	return r;
}

static void become_and_look(const struct trial *t, struct report *r)
{
	const struct config_service *s = &t->s->s;
	void *state = NULL;

	box_trial = true;
	if (t->tls && (r->error = -try_tls(s, &r->why)) != 0) {
		r->step = STEP_TLS;
		return;
	}
	if (t->opens && s->box == &shared_box)
		forget(t);
	if (t->opens && s->box != &shared_box) {
		r->error = -config_box_parse(s, s->box, &state, &r->why);
		if (r->error == 0)
			r->error = -box_prepare(s->box, state, &r->why);
		if (r->error != 0) {
			r->step = STEP_BOX;
			return;
		}
	}
	if (s->chroot != NULL && (chroot(s->chroot) < 0 || chdir("/") < 0)) {
		*r = (struct report){STEP_CHROOT, errno, 0};
		return;
	}
	if (t->become) {
		if (setgroups(s->n_groups, s->groups) < 0 ||
		    (s->gid != (gid_t)-1 && setresgid(s->gid, s->gid, s->gid) < 0) ||
		    (s->uid != (uid_t)-1 && setresuid(s->uid, s->uid, s->uid) < 0)) {
			*r = (struct report){STEP_USER, errno, 0};
			return;
		}
	}
	look(t, r);
	if (t->opens && r->step == STEP_DONE)
		open_box(t, state, r);
}

/* ---- the parent ---- */

/* Foreign code may have written it. */
static bool is_possible(const struct trial *t, const struct report *r)
{
	if (r->error < 0)
		return false;
	switch (r->step) {
	case STEP_DONE: return true;
	case STEP_CHROOT: return t->s->s.chroot != NULL;
	case STEP_USER: return t->become;
	case STEP_DIRECTORY: return t->s->s.directory != NULL;
	case STEP_PROGRAM: return t->program != NULL;
	case STEP_BOX: return t->opens;
	case STEP_KEY: return t->opens && r->at >= 0 && (size_t)r->at < t->s->n_kept;
	case STEP_LISTEN: return t->opens && r->at >= 0 && (size_t)r->at < t->s->s.listen.n;
	case STEP_TLS: return t->tls;
	case STEP_TRY: return false; /* the parent's own */
	}
	return false;
}

static void await_report(const struct trial *t, int fd, int64_t deadline, struct report *r)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};
	int n;

	do {
		int64_t left = deadline - hark_now();
		n = poll(&p, 1, left > 0 ? (int)((left + HARK_MS - 1) / HARK_MS) : 0);
	} while (n < 0 && errno == EINTR);
	if (n == 0)
		*r = (struct report){STEP_TRY, ETIMEDOUT, 0};
	else if (n < 0 || read(fd, r, sizeof *r) != sizeof *r)
		*r = (struct report){STEP_TRY, EIO, 0}; /* it died */
	else if (!is_possible(t, r))
		*r = (struct report){STEP_TRY, EBADMSG, 0};
	r->why.text[sizeof r->why.text - 1] = '\0';
}

/* What is loaded is foreign code: it gets nothing of ours. Returns the report's new number. */
static int close_others(int report)
{
	if (report != 3)
		report = dup3(report, 3, O_CLOEXEC);
	descriptors_close(4, ~0u);
	return report;
}

/* Whose file it is, by the first word of what libhark says. */
static const char *tls_key(const struct service *s, const char *why)
{
	return strncmp(why, "ca ", 3) == 0                      ? "client_ca"
	       : strncmp(why, "crl ", 4) == 0                   ? "client_crl"
	       : strncmp(why, "key ", 4) == 0 && s->s.key.n > 0 ? "key"
	                                                        : "cert";
}

static void tell(const struct trial *t, const struct report *r)
{
	struct whole *w = t->config->private;
	const struct service *s = t->s;
	const char *who = s->s.user != NULL ? s->s.user : s->s.group != NULL ? s->s.group : "harkd";
	const char *why = hark_strerror(r->error);
	const char *key = what_names[service_what(s)];
	struct at head = {.file = s->s.place.file, .line = s->s.place.line, .order = s->order};

	switch (r->step) {
	case STEP_DONE: return;
	case STEP_CHROOT:
		return inside_error(w, key_at(s->at, "chroot"), "chroot: cannot enter %s: %s%s", s->s.chroot, why,
		                    r->error == EPERM ? " (this needs root)" : "");
	case STEP_TRY:
		return inside_error(w, key_at(s->at, key).file != NULL ? key_at(s->at, key) : head,
		                    "%s: could not be tried: %s", key,
		                    r->error == ETIMEDOUT ? "it took too long"
		                    : r->error == EIO     ? "the process that tried has died"
		                    : r->error == EBADMSG ? "the process that tried has written nonsense"
		                                          : why);
	case STEP_USER:
		key = s->s.user != NULL ? "user" : s->s.group != NULL ? "group" : "groups";
		return inside_error(w, key_at(s->at, key).file != NULL ? key_at(s->at, key) : head,
		                    "%s: cannot become %s: %s%s", key, who, why,
		                    r->error == EPERM ? " (this needs root)" : "");
	case STEP_DIRECTORY:
		return inside_error(w, key_at(s->at, "directory"), "directory: %s cannot enter %s%s%s: %s", who,
		                    s->s.directory, s->s.chroot != NULL ? " in " : "",
		                    s->s.chroot != NULL ? s->s.chroot : "", why);
	case STEP_PROGRAM:
		return inside_error(w, key_at(s->at, key), "%s: %s cannot run %s%s%s: %s%s%.*s", key, who, t->program,
		                    s->s.chroot != NULL ? " in " : "", s->s.chroot != NULL ? s->s.chroot : "", why,
		                    r->at > 0 ? " at " : "", r->at, t->program);
	case STEP_TLS:
		key = tls_key(s, r->why.text);
		return inside_error(w, key_at(s->at, key), "%s: %s", key, r->why.text[0] != '\0' ? r->why.text : why);
	case STEP_BOX:
		return inside_error(w, key_at(s->at, key), "%s: %s%s%s%s", key,
		                    r->why.text[0] != '\0' ? r->why.text : why, t->become ? " (as " : "",
		                    t->become ? who : "", t->become ? ")" : "");
	case STEP_KEY: return inside_error(w, s->kept[r->at].at, "%s", r->why.text);
	case STEP_LISTEN: return inside_error(w, s->listen_at[r->at], "listen: %s", r->why.text);
	}
}

/* The last one into *r; what comes before it is told. */
static void await_reports(const struct trial *t, int fd, int64_t deadline, struct report *r)
{
	size_t most = t->s->n_kept + t->s->s.listen.n;

	for (size_t n = 0;; n++) {
		await_report(t, fd, deadline, r);
		if (r->step != STEP_KEY && r->step != STEP_LISTEN)
			return;
		if (n == most)
			break;
		tell(t, r);
	}
	*r = (struct report){STEP_TRY, EBADMSG, 0};
}

static void try_in_child(struct trial *t, int64_t deadline, struct report *r)
{
	int fds[2];

	if (pipe2(fds, O_CLOEXEC) < 0) {
		*r = (struct report){STEP_TRY, errno, 0};
		return;
	}
	pid_t pid = fork();
	if (pid == 0) {
		t->to = t->s->s.box == &shared_box ? close_others(fds[1]) : fds[1];
		become_and_look(t, r);
		_exit(!report(t, r));
	}
	int err = errno;
	(void)close(fds[1]);
	if (pid < 0) {
		*r = (struct report){STEP_TRY, err, 0};
	} else {
		await_reports(t, fds[0], deadline, r);
		(void)kill(pid, SIGKILL);
		while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
			;
	}
	(void)close(fds[0]);
}

static bool must_become(const struct service *s)
{
	return (s->s.uid != (uid_t)-1 && (s->s.uid != geteuid() || geteuid() == 0)) ||
	       (s->s.gid != (gid_t)-1 && s->s.gid != getegid()) || s->group_names.n > 0;
}

static const char *limit_name(unsigned resource)
{
	const struct config_key *k = config_keys;

	while (k->name != NULL && (k->how->kind != &kind_rlimit || k->how->number != resource))
		k++;
	return k->name;
}

/* Raised in vain; what was raised is lowered again, which everybody may. The soft limit is not touched. */
bool config_limit_unmet(const struct config_service *s, unsigned resource, struct hark_why *what)
{
	struct rlimit found, raised;

	if (!(s->rlimit_set & 1u << resource) || getrlimit((__rlimit_resource_t)resource, &found) < 0 ||
	    s->rlimit[resource].rlim_max <= found.rlim_max)
		return false;
	raised = (struct rlimit){.rlim_cur = found.rlim_cur, .rlim_max = s->rlimit[resource].rlim_max};
	if (setrlimit((__rlimit_resource_t)resource, &raised) == 0) {
		(void)setrlimit((__rlimit_resource_t)resource, &found);
		return false;
	}
	(void)snprintf(what->text, sizeof what->text, "%s: the hard limit is %llu, and cannot be raised here: it stays",
	               limit_name(resource), (unsigned long long)found.rlim_max);
	return true;
}

static void look_at_limits(struct whole *w, const struct service *s)
{
	struct hark_why what;

	for (unsigned i = 0; i < CONFIG_RLIMITS; i++)
		if (config_limit_unmet(&s->s, i, &what))
			inside_warning(w, key_at(s->at, limit_name(i)), "%s", what.text);
}

static void try_service(struct config *c, const struct service *s, bool foreign, int64_t deadline)
{
	const struct hark_box_row *box = s->s.box;
	struct trial t = {.s = s, .config = c, .become = must_become(s), .path = service_path(s)};
	struct report r = {0};

	if (s->s.disabled || (s->s.user != NULL && s->s.gid == (gid_t)-1))
		return;
	look_at_limits(c->private, s);
	if (!s->program_bad)
		t.program = s->program;
	/* Where a program is served the look at it is all: what it opens may be made by that, such as a log. A box of
	 * ours that is told nothing opens nothing of the configuration's. */
	t.opens = box == &shared_box ? foreign
	                             : (box != NULL && s->s.argv.n > 1 && !s->program_bad && s->program == NULL &&
	                                (box->prepare != NULL || box->open != NULL));
	t.tls = config_has_tls(&s->s) && s->s.cert.n > 0;
	if (t.become || t.opens || t.tls || s->s.chroot != NULL) {
		int64_t own = hark_after(CHILD_NS);
		try_in_child(&t, own < deadline ? own : deadline, &r);
	} else {
		look(&t, &r);
	}
	tell(&t, &r);
}

int config_check_system(struct config *c, bool foreign)
{
	struct whole *w = c->private;
	int64_t deadline = hark_after(ALL_NS);

	for (size_t i = 0; i < c->n_services && !w->system_checked; i++)
		try_service(c, (const struct service *)c->services[i], foreign, deadline);
	if (!w->system_checked)
		inside_collide_names(w);
	w->system_checked = true;
	inside_publish(w);
	return w->no_memory ? -ENOMEM : (int)c->n_errors;
}
