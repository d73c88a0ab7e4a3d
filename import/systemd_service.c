/* systemd_service.c — a socket unit and its service become a section of hark.conf: settings, and a remark for each
 * directive that has none.
 *
 * What hark serves in the same way is a program that has the connection (Accept=yes) or the socket (Accept=no) as its
 * standard input, StandardInput=socket. A program that takes its sockets by sd_listen_fds(3) would find none, so its
 * section gets disable = yes. So does one that dropping a directive would open (IPAddressDeny=), give rights
 * (DynamicUser=), or call wrongly (%i in ExecStart=).
 *
 * First the address and the program, here; then each line that holds goes through the table of directives. Functions of
 * their arguments. */
#include "systemd_section.h"

#include "number.h"
#include "text.h"

#include <stdlib.h>
#include <string.h>

#define BYTES_MAX 65536 /* of the program's arguments, with what ${NAME} becomes: a value may be put in many times */

/* ---- what is listened on ---- */

/* One address of ListenStream= or ListenDatagram=, as listen = has it. False: hark has no such. */
static bool address(const struct systemd_section *m, const char *value, bool stream, char *buf, size_t cap)
{
	const struct unit_line *v6 = unit_last(m->socket, "Socket", "BindIPv6Only");
	bool six = v6 != NULL && strcmp(v6->value, "ipv6-only") == 0;
	size_t digits = strspn(value, "0123456789");
	struct hark_address a;

	if (value[0] == '/' || value[0] == '@')
		(void)snprintf(buf, cap, "%s:%s", stream ? "unix" : "unixgram", value);
	else if (digits > 0 && value[digits] == '\0')
		(void)snprintf(buf, cap, "%s%s://*:%s", stream ? "tcp" : "udp", six ? "6" : "", value);
	else if (value[0] == '[' || (digits > 0 && value[digits] == '.'))
		(void)snprintf(buf, cap, "%s://%s", stream ? "tcp" : "udp", value);
	else
		return false;
	return strlen(buf) + 1 < cap && hark_address_parse(buf, &a, NULL) == 0;
}

/* What cannot be listened on is said at once, in the section. */
static void make_address(struct systemd_section *m, const struct unit_line *l)
{
	static const char *const others[] = {"ListenFIFO",    "ListenMessageQueue",
	                                     "ListenNetlink", "ListenSequentialPacket",
	                                     "ListenSpecial", "ListenUSBFunction"};
	bool stream = strcmp(l->key, "ListenStream") == 0;
	char buf[HARK_ADDRESS_MAX + 2];

	for (size_t i = 0; i < sizeof others / sizeof others[0]; i++)
		if (strcmp(others[i], l->key) == 0)
			systemd_drop(m, l, "streams and datagrams alone are listened on");
	if (!stream && strcmp(l->key, "ListenDatagram") != 0)
		return;
	char *value = systemd_specified(m, l, m->socket);
	if (value == NULL)
		return;
	if (!stream && m->accept)
		document_error(m->d, l->place, "%s=%.80s: Accept=yes is of streams alone", l->key, l->value);
	else if (!address(m, value, stream, buf, sizeof buf))
		systemd_drop(m, l, "no address that hark knows");
	else
		wordlist_add(m->d, &m->listen, buf, strlen(buf));
	m->unix_path = m->unix_path || (value[0] == '/' && m->listen.n > 0);
	free(value);
}

static void make_listen(struct systemd_section *m)
{
	for (size_t i = 0; i < m->socket->n; i++)
		if (strcmp(m->socket->lines[i].section, "Socket") == 0 && unit_holds(m->socket, i, true))
			make_address(m, &m->socket->lines[i]);
	char *listen = wordlist_join(m->d, &m->listen, 0);
	if (listen != NULL && m->listen.n > 0)
		document_set(m->d, m->s, m->place, "listen", "%s", listen);
	free(listen);
	if (m->unix_path && unit_last(m->socket, "Socket", "SocketMode") == NULL)
		document_set(m->d, m->s, m->place, "socket_mode", "0666"); /* systemd's own */
}

/* ---- the program ---- */

/* The value of a variable that Environment= sets, or NULL. */
static const char *variable(const struct systemd_section *m, const char *name, size_t n)
{
	const char *value = NULL;

	for (size_t i = 0; i < m->env.n; i++)
		if (strncmp(m->env.word[i], name, n) == 0 && m->env.word[i][n] == '=')
			value = m->env.word[i] + n + 1;
	return value;
}

static void unset(struct systemd_section *m, const char *name, size_t n)
{
	document_drop(m->d, m->s, m->shown->place, "ExecStart= $%.*s: not set by Environment=, and taken for empty",
	              (int)(n < 64 ? n : 64), name);
}

/* Whether argv may have so many bytes more. That it may not is said once. */
static bool room(struct systemd_section *m, size_t n)
{
	bool was = m->bytes <= BYTES_MAX;

	m->bytes += n;
	if (was && m->bytes > BYTES_MAX)
		document_error(m->d, m->shown->place, "ExecStart: longer than %d bytes", BYTES_MAX);
	return m->bytes <= BYTES_MAX;
}

/* The word with its ${NAME}s and $$s put in; the caller's to free. */
static char *expand(struct systemd_section *m, const char *word)
{
	char *out = NULL;
	size_t len;
	FILE *to = open_memstream(&out, &len);

	if (to == NULL) {
		m->d->broken = true;
		return NULL;
	}
	for (const char *p = word; *p != '\0'; p++) {
		const char *end = p[0] == '$' && p[1] == '{' ? strchr(p, '}') : NULL;
		if (p[0] == '$' && p[1] == '$') {
			fputc(*p++, to);
		} else if (end != NULL) {
			const char *value = variable(m, p + 2, (size_t)(end - p - 2));
			if (value == NULL) {
				unset(m, p + 2, (size_t)(end - p - 2));
				systemd_disable(m, "its program would get empty arguments");
			}
			if (value != NULL && room(m, strlen(value)))
				fputs(value, to);
			p = end;
		} else {
			fputc(*p, to);
		}
	}
	if (!text_close_stream(to, &out))
		m->d->broken = true;
	return out;
}

/* An argument: "$NAME" alone is as many words as are in it. */
static void add_argument(struct systemd_section *m, const char *word, bool variables)
{
	static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_0123456789";
	size_t n = word[0] == '$' ? strspn(word + 1, letters) : 0;

	if (!room(m, strlen(word) + 1))
		return;
	if (!variables) {
		wordlist_add(m->d, &m->argv, word, strlen(word));
	} else if (n > 0 && word[1 + n] == '\0') {
		const char *value = variable(m, word + 1, n);
		if (value == NULL)
			unset(m, word + 1, n);
		char *part;
		while (value != NULL && (part = systemd_cut(m->d, &value, NULL)) != NULL) {
			if (room(m, strlen(part) + 1))
				wordlist_add(m->d, &m->argv, part, strlen(part));
			free(part);
		}
	} else {
		char *whole = expand(m, word);
		if (whole != NULL)
			wordlist_add(m->d, &m->argv, whole, strlen(whole));
		free(whole);
	}
}

/* Takes "-", "@", ":", "+", "!" off the program's name. */
static char *prefixes(struct systemd_section *m, char *program, bool *named, bool *variables)
{
	for (; *program != '\0' && strchr("-@:+!|", *program) != NULL; program++) {
		if (*program == '@')
			*named = true;
		else if (*program == ':')
			*variables = false;
		else if (*program != '-' && m->why[0] == '\0')
			systemd_refuse(m, m->shown, "its prefix asks for other rights than the section has");
	}
	return program;
}

/* The word with its specifiers put in; one that is known to systemd alone stays, and disables the section. */
static char *specified(struct systemd_section *m, char *word)
{
	char which, why[64];
	char *text = systemd_specify(m->d, m->service, word, &which);

	if (text == NULL && which != '\0') {
		(void)snprintf(why, sizeof why, "%%%c is known to systemd alone", which);
		if (m->why[0] == '\0')
			systemd_refuse(m, m->shown, why);
		return word;
	}
	free(word);
	return text;
}

/* The next word of the command; NULL: its end. A ';' by itself ends it, "\;" is one. */
static char *cut_argument(struct systemd_section *m, const char **at)
{
	bool bad = false;

	*at += strspn(*at, " \t");
	const char *p = *at;
	if (p[0] == '\\' && p[1] == ';' && strchr(" \t", p[2]) != NULL) { /* its NUL is an end, too */
		*at = p + 2;
		char *word = strdup(";");
		m->d->broken |= word == NULL;
		return word;
	}
	if (p[0] == ';' && strchr(" \t", p[1]) != NULL) {
		systemd_drop(m, m->shown, "the first of its commands alone is run");
		return NULL;
	}
	char *word = systemd_cut(m->d, at, &bad);
	if (bad) {
		systemd_bad(m, m->shown, "a command: an escape that systemd does not know, or a quote without end");
		systemd_disable(m, "its command cannot be read");
	}
	return word != NULL ? specified(m, word) : NULL;
}

/* ExecStart= taken apart into argv; with @, its second word is *name, the program's argv[0]. */
static void cut_command(struct systemd_section *m, const char *command, char **name)
{
	bool named = false, variables = true, first = true;
	char *word;

	while ((word = cut_argument(m, &command)) != NULL) {
		if (first) {
			char *program = prefixes(m, word, &named, &variables);
			wordlist_add(m->d, &m->argv, program, strlen(program));
			first = false;
		} else if (named && *name == NULL) {
			*name = word;
			word = NULL;
		} else {
			add_argument(m, word, variables);
		}
		free(word);
	}
}

/* systemd-socket-proxyd(8)'s HOST[:PORT], /PATH or @NAME as relay = has it. False: it is none. */
static bool relay_target(const char *word, char *buf, size_t cap)
{
	const char *colon = strrchr(word, ':'), *bracket = strrchr(word, ']');
	bool port = colon != NULL && (bracket != NULL ? colon == bracket + 1 : strchr(word, ':') == colon);
	struct hark_address a;

	if (word[0] == '/' || word[0] == '@')
		(void)snprintf(buf, cap, "unix:%s", word);
	else
		(void)snprintf(buf, cap, "tcp://%s%s", word, port ? "" : ":80");
	return strlen(buf) + 1 < cap && hark_address_parse(buf, &a, NULL) == 0;
}

/* A unit that runs systemd-socket-proxyd is a relay: its options are in argv. False: it is none, or one that cannot be
 * made of it. */
static bool make_relay(struct systemd_section *m)
{
	char target[HARK_ADDRESS_MAX + 8];
	const char *to = NULL, *most = "256"; /* its own limit */
	int64_t n;

	if (m->argv.n < 2 || m->accept || strcmp(systemd_base(m->argv.word[0]), "systemd-socket-proxyd") != 0)
		return false;
	for (size_t i = 1; i < m->argv.n; i++) {
		const char *word = m->argv.word[i];
		if (strncmp(word, "--connections-max=", 18) == 0)
			most = word + 18;
		else if (strcmp(word, "-c") == 0 && i + 1 < m->argv.n)
			most = m->argv.word[++i];
		else if (strncmp(word, "--exit-idle-time=", 17) == 0)
			continue; /* a relay that nobody uses costs next to nothing */
		else if (word[0] != '-' && to == NULL)
			to = word;
		else
			return false;
	}
	if (to == NULL || !relay_target(to, target, sizeof target) || number_parse(most, "", &n) < 0 || n < 1)
		return false;
	document_set(m->d, m->s, m->shown->place, "relay", "%s", target);
	document_set(m->d, m->s, m->shown->place, "max_conns", "%lld", (long long)n);
	return true;
}

/* exec = or box = exec --argv0, or relay =. False: there is no program. */
static bool make_exec(struct systemd_section *m)
{
	char *name = NULL, *line = NULL;

	for (size_t i = 0; i < m->service->n; i++) {
		const struct unit_line *l = &m->service->lines[i];
		if (strcmp(l->key, "ExecStart") != 0 || strcmp(l->section, "Service") != 0 ||
		    !unit_holds(m->service, i, true))
			continue;
		if (m->shown == NULL)
			m->shown = l;
		else
			systemd_drop(m, l, "the first of the programs alone is run");
	}
	if (m->shown != NULL)
		cut_command(m, m->shown->value, &name);
	if (m->argv.n > 0 && m->argv.word[0][0] != '\0')
		line = wordlist_join(m->d, &m->argv, 0);
	char *quoted = name != NULL ? malloc(2 * strlen(name) + 3) : NULL;
	m->relay = make_relay(m);
	if (m->relay)
		;
	else if (line != NULL && quoted != NULL)
		document_set(m->d, m->s, m->shown->place, "box", "exec --argv0 %s %s",
		             document_quote(name, quoted, 2 * strlen(name) + 3), line);
	else if (line != NULL)
		document_set(m->d, m->s, m->shown->place, "exec", "%s", line);
	free(quoted);
	free(name);
	free(line);
	return m->relay || document_get(m->s, "exec") != NULL || document_get(m->s, "box") != NULL;
}

/* Before the rest, because ExecStart= may have its variables. */
static void read_environment(struct systemd_section *m)
{
	for (size_t i = 0; i < m->service->n; i++) {
		const struct unit_line *l = &m->service->lines[i];
		if (strcmp(l->key, "Environment") == 0 && strcmp(l->section, "Service") == 0 &&
		    unit_holds(m->service, i, true))
			systemd_gather(m, l, &m->env, &m->env_at);
	}
}

static void make_environment(struct systemd_section *m)
{
	reading_environment(m->d, m->s, m->env_at, &m->env, false, "");
	reading_environment(m->d, m->s, m->pass_at, &m->pass_env, true, "PATH TZ LANG LC_* ");
	char *line = m->groups.n > 0 ? wordlist_join(m->d, &m->groups, 0) : NULL;
	if (line != NULL)
		document_set(m->d, m->s, m->groups_at, "groups", "%s", line);
	free(line);
}

/* Who gets what: the heart of the matter. */
static void make_passing(struct systemd_section *m)
{
	const struct unit_line *in = unit_last(m->service, "Service", "StandardInput");

	m->on_stdin = in != NULL && strcmp(in->value, "socket") == 0;
	if (m->on_stdin) {
		if (!m->accept)
			document_set(m->d, m->s, in->place, "wait", "yes");
		if (systemd_stderr(m) != NULL)
			document_set(m->d, m->s, in->place, "stderr", "%s", systemd_stderr(m));
	} else if (m->accept) {
		document_drop(
			m->d, m->s, m->place,
			"Accept=yes without StandardInput=socket: the program wants the connection as descriptor 3");
		systemd_disable(m, "the program must take the connection as its standard input");
	} else {
		document_drop(
			m->d, m->s, m->place,
			"Accept=no: the program takes its sockets by sd_listen_fds(3), which harkd gives to none");
		systemd_disable(m, "the program must take the socket or the connection as its standard input");
	}
}

/* ---- the section ---- */

static void words_done(struct systemd_section *m)
{
	wordlist_clear(&m->listen);
	wordlist_clear(&m->argv);
	wordlist_clear(&m->groups);
	wordlist_clear(&m->env);
	wordlist_clear(&m->pass_env);
}

/* What has no address or no program is no service: it is told in one line, at the top. */
static void no_service(struct systemd_section *m, const char *why)
{
	char text[512];

	(void)snprintf(text, sizeof text, "%s", why); /* it may be of the section that goes */
	document_remove(m->d, m->s);
	document_drop(m->d, NULL, m->place, "%s: %s", m->socket->name, text);
}

/* Why it has no address: what was said of the first that it had. */
static const char *no_address(const struct systemd_section *m)
{
	size_t n = strlen(DOCUMENT_NOT_CARRIED);

	for (size_t i = 0; m->s != NULL && i < m->s->n; i++)
		if (m->s->lines[i].kind == DOCUMENT_REMARK &&
		    strncmp(m->s->lines[i].value, DOCUMENT_NOT_CARRIED, n) == 0)
			return m->s->lines[i].value + n;
	return "it listens on nothing";
}

static void make_section(struct systemd_section *m, const char *wanted)
{
	const struct unit_line *about = unit_last(m->socket, "Unit", "Description");
	const struct unit_line *most = unit_last(m->socket, "Socket", "MaxConnections");
	char why[320];
	int64_t n;
	const struct unit_line *dynamic = m->service == NULL ? NULL : unit_last(m->service, "Service", "DynamicUser");

	if (about != NULL)
		document_remark(m->d, m->s, about->place, "%s", about->value);
	make_listen(m);
	if (m->listen.n == 0) {
		no_service(m, no_address(m));
		return;
	}
	if (m->service == NULL) {
		(void)snprintf(why, sizeof why, "its service is not there: %s", wanted);
		no_service(m, why);
		return;
	}
	m->not_known = dynamic != NULL && systemd_yes(dynamic->value) == 1;
	read_environment(m);
	if (!make_exec(m)) {
		(void)snprintf(why, sizeof why, "no program is started by %s", wanted);
		no_service(m, why);
		return;
	}
	if (!m->relay)
		make_passing(m);
	if (m->accept && (most == NULL || number_parse(most->value, "", &n) < 0))
		document_set(m->d, m->s, m->place, "max_conns", "64"); /* systemd's own */
	systemd_lines(m, m->socket);
	systemd_lines(m, m->service);
	make_environment(m);
	if (m->why[0] == '\0')
		return;
	document_remark(m->d, m->s, m->place, "disabled: %s; once that is seen to, take out the next line", m->why);
	document_disable(m->d, m->s, m->place);
}

void systemd_make(struct document *d, const struct unit *u, const struct unit *s, const char *wanted,
                  struct config_place place)
{
	const struct unit_line *accept = unit_last(u, "Socket", "Accept");
	size_t n = strlen(u->name) - strlen(".socket");
	struct systemd_section m = {.d = d, .socket = u, .service = s, .place = place};
	char name[256];

	(void)snprintf(name, sizeof name, "%.*s", (int)(n < sizeof name ? n : sizeof name - 1), u->name);
	m.accept = accept != NULL && systemd_yes(accept->value) == 1;
	if (accept != NULL && systemd_yes(accept->value) < 0)
		systemd_bad(&m, accept, "yes or no");
	m.s = document_section(d, name, place);
	make_section(&m, wanted != NULL ? wanted : "");
	words_done(&m);
}
