/* xinetd_service.c — one xinetd service becomes a section of hark.conf: settings, and a remark for each thing that has
 * none.
 *
 * Three outcomes. What hark has a key for is set; what hark does anyway (a log line a connection, TCP_NODELAY) counts
 * as carried over and needs no word. What is dropped is said. And where dropping it, or a mistake, would open what
 * xinetd keeps closed (only_from, access_times, a line that cannot be read), the section gets disable = yes, and a
 * remark tells how to enable it.
 *
 * Access and limits are xinetd_access.c's. Functions of their arguments, but for the files of banners and the services
 * database. */
#include "xinetd_section.h"

#include "nearest.h"
#include "number.h"
#include "text.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define BANNER_MAX 4096 /* bytes */

/* Of defaults these are said once: no service inherits them. */
#define NO_LOG_TYPE    "harkd logs to one place, which log = in [harkd] names"
#define NO_BANNER_FAIL "who is refused is told nothing"

/* ---- values ---- */

const char *xinetd_value_of(const struct xinetd_section *m, enum xinetd_attribute a)
{
	return m->v[a].set && m->v[a].words.n > 0 ? m->v[a].words.word[0] : NULL;
}

bool xinetd_has(const struct xinetd_section *m, enum xinetd_attribute a, const char *word)
{
	return m->v[a].set && wordlist_has(&m->v[a].words, word);
}

struct config_place xinetd_at(const struct xinetd_section *m, enum xinetd_attribute a)
{
	return m->v[a].set ? m->v[a].place : m->e->place;
}

/* Carried over without a setting: hark does it anyway. */
void xinetd_covered(const struct xinetd_section *m)
{
	m->d->fates[DOCUMENT_CARRIED]++;
}

void xinetd_disable(struct xinetd_section *m, const char *why)
{
	if (m->why[0] == '\0')
		(void)snprintf(m->why, sizeof m->why, "%s", why);
}

/* What xinetd looks at only if the service is not disabled. */
__attribute__((format(printf, 3, 4))) static void wrong(const struct xinetd_section *m, struct config_place place,
                                                        const char *format, ...)
{
	char words[512];
	va_list args;

	if (m->off)
		return;
	va_start(args, format);
	(void)vsnprintf(words, sizeof words, format, args);
	va_end(args);
	document_error(m->d, place, "%s", words);
}

/* A value that xinetd cannot read either: it disables the service. */
void xinetd_bad(struct xinetd_section *m, enum xinetd_attribute a, const char *wanted)
{
	char reason[64];

	document_error(m->d, xinetd_at(m, a), "%s: \"%.64s\" is not %s", xinetd_name(a),
	               xinetd_value_of(m, a) != NULL ? xinetd_value_of(m, a) : "", wanted);
	(void)snprintf(reason, sizeof reason, "%s cannot be read", xinetd_name(a));
	xinetd_disable(m, reason);
}

void xinetd_drop(const struct xinetd_section *m, enum xinetd_attribute a, const char *why)
{
	char *words = wordlist_join(m->d, &m->v[a].words, 0);

	document_drop(m->d, m->s, xinetd_at(m, a), "%s = %s: %s", xinetd_name(a), words != NULL ? words : "", why);
	free(words);
}

/* "yes" or "no"; -1: not set, or neither (which is said). */
int xinetd_yes(struct xinetd_section *m, enum xinetd_attribute a)
{
	const char *text = xinetd_value_of(m, a);

	if (!m->v[a].set)
		return -1;
	if (text != NULL && strcasecmp(text, "yes") == 0)
		return 1;
	if (text != NULL && strcasecmp(text, "no") == 0)
		return 0;
	xinetd_bad(m, a, "yes or no");
	return -1;
}

bool xinetd_number(const char *text, int64_t max, int64_t *out)
{
	return text != NULL && number_parse(text, "", out) == 0 && *out <= max;
}

bool xinetd_is_one_of(const char *word, const char *const *words)
{
	while (*words != NULL && strcasecmp(word, *words) != 0)
		words++;
	return *words != NULL;
}

/* ---- what and where ---- */

/* bind as xinetd reads it: digits and dots are an IPv4 address, what has a ':' is IPv6, all else a name. False: it is
 * none of them, as was said; then nothing is listened on. */
static bool read_bind(struct xinetd_section *m)
{
	static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_";
	const char *bind = xinetd_value_of(m, X_BIND);
	struct in6_addr six;
	struct in_addr four;
	bool good = true;

	if (!m->v[X_BIND].set)
		return true;
	if (m->v[X_BIND].words.n != 1) /* which was said */
		return false;
	(void)snprintf(m->bind, sizeof m->bind, "%s", bind);
	if (strspn(bind, "0123456789.") == strlen(bind))
		good = inet_aton(bind, &four) != 0 && inet_ntop(AF_INET, &four, m->bind, sizeof m->bind) != NULL;
	else if (strchr(bind, ':') != NULL)
		good = inet_pton(AF_INET6, bind, &six) == 1;
	else
		good = strlen(bind) < sizeof m->bind && strspn(bind, letters) == strlen(bind);
	if (!good)
		xinetd_bad(m, X_BIND, "an address or a name");
	return good;
}

bool xinetd_binds_all(const struct xinetd_section *m)
{
	return m->bind[0] == '\0' || strcmp(m->bind, "0.0.0.0") == 0 || strcmp(m->bind, "::") == 0;
}

/* The address's host: bind, or what only_from comes to. */
static void host(const struct xinetd_section *m, char *buf, size_t cap)
{
	if (xinetd_binds_all(m))
		(void)snprintf(buf, cap, "%s", m->loopback ? "127.0.0.1" : "*");
	else
		(void)snprintf(buf, cap, strchr(m->bind, ':') != NULL ? "[%s]" : "%s", m->bind);
}

/* xinetd listens on IPv6 and takes IPv4 there as well, unless flags, bind or v6only say otherwise. Of a name it takes
 * the IPv4 address, unless flags say IPv6. */
static const char *family(const struct xinetd_section *m, const char *named)
{
	bool four = xinetd_has(m, X_FLAGS, "IPv4") || strcmp(m->bind, "0.0.0.0") == 0 || m->four;
	bool name = strcspn(named, "*[") > 0 && inet_addr(named) == INADDR_NONE;

	if (name)
		return xinetd_has(m, X_FLAGS, "IPv6") ? "6" : "4";
	return four && named[0] == '*' ? "4" : "";
}

int xinetd_port_known(const struct xinetd_section *m)
{
	struct servent entry, *found = NULL;
	char room[4096];

	if (getservbyname_r(m->e->name, m->stream ? "tcp" : "udp", &entry, room, sizeof room, &found) != 0 ||
	    found == NULL)
		return -1;
	return ntohs((uint16_t)found->s_port);
}

static void check_port(struct xinetd_section *m)
{
	int known = xinetd_port_known(m);
	const char *port = xinetd_value_of(m, X_PORT);
	int64_t n;

	if (xinetd_has(m, X_TYPE, "UNLISTED"))
		return;
	if (port == NULL && known < 0) {
		document_remark(m->d, m->s, m->e->place,
		                "%s/%s is not in /etc/services here, so that xinetd would not serve it either",
		                m->e->name, m->stream ? "tcp" : "udp");
		xinetd_disable(m, "its port is not known");
	} else if (port != NULL && xinetd_number(port, 65535, &n) && n != known) {
		document_remark(m->d, m->s, xinetd_at(m, X_PORT),
		                "port = %s: without type = UNLISTED xinetd wants the port of /etc/services, and does "
		                "not serve it",
		                port);
		xinetd_disable(m, "its port is not that of /etc/services");
	}
}

/* False: there is no address, and that was said. */
static bool make_listen(struct xinetd_section *m)
{
	const char *port = xinetd_value_of(m, X_PORT);
	char named[256], text[HARK_ADDRESS_MAX];
	struct hark_address a;
	struct hark_why why = {""};
	int64_t n = 0;

	if (m->v[X_PORT].set && !xinetd_number(port, 65535, &n)) {
		xinetd_bad(m, X_PORT, "a port");
		return false;
	}
	if (port == NULL && xinetd_has(m, X_TYPE, "UNLISTED")) {
		wrong(m, m->e->place, "service %.200s: port is missing, which type = UNLISTED needs", m->e->name);
		return false;
	}
	host(m, named, sizeof named);
	(void)snprintf(text, sizeof text, "%s%s://%s:%s", m->stream ? "tcp" : "udp", family(m, named), named,
	               port != NULL ? port : m->e->name);
	if (hark_address_parse(text, &a, &why) < 0) {
		document_error(m->d, m->v[X_BIND].set ? xinetd_at(m, X_BIND) : m->e->place, "service %s: %s",
		               m->e->name, why.text);
		return false;
	}
	if (xinetd_has(m, X_FLAGS, "IPv4") && xinetd_has(m, X_FLAGS, "IPv6"))
		xinetd_disable(m, "flags has IPv4 and IPv6, with which xinetd does not serve it");
	check_port(m);
	document_set(m->d, m->s, xinetd_at(m, m->v[X_PORT].set ? X_PORT : X_SOCKET_TYPE), "listen", "%s", text);
	int six = xinetd_yes(m, X_V6ONLY);
	if (six == 1 && strcmp(named, "*") == 0 && a.scheme != HARK_TCP4 && a.scheme != HARK_UDP4)
		document_set(m->d, m->s, xinetd_at(m, X_V6ONLY), "v6only", "yes");
	else if (m->v[X_V6ONLY].set)
		xinetd_covered(m);
	return true;
}

/* The program with its arguments. NAMEINARGS: the first of server_args is argv[0]. */
static void make_exec(struct xinetd_section *m)
{
	const char *server = xinetd_value_of(m, X_SERVER), *slash = strrchr(server, '/');
	const struct config_words *args = &m->v[X_SERVER_ARGS].words;
	bool named = xinetd_has(m, X_FLAGS, "NAMEINARGS");
	const char *root = server[0] == '/' ? "" : "/"; /* xinetd's directory */
	char path[2 * 4096 + 3], name[2 * 4096 + 3], whole[4096];

	if (snprintf(whole, sizeof whole, "%s%s", root, server) >= (int)sizeof whole) {
		document_error(m->d, xinetd_at(m, X_SERVER), "server: longer than a path can be");
		return;
	}
	document_quote(whole, path, sizeof path);
	if (named && args->n == 0) {
		wrong(m, m->e->place, "service %.200s: flags NAMEINARGS wants the program's name in server_args",
		      m->e->name);
		named = false;
		xinetd_disable(m, "server_args is missing");
	}
	char *rest = wordlist_join(m->d, args, named ? 1 : 0);
	const char *blank = rest != NULL && rest[0] != '\0' ? " " : "";
	if (rest == NULL)
		return;
	bool usual = !named || strcmp(args->word[0], server) == 0 ||
	             strcmp(args->word[0], slash != NULL ? slash + 1 : server) == 0;
	if (usual)
		document_set(m->d, m->s, xinetd_at(m, X_SERVER), "exec", "%s%s%s", path, blank, rest);
	else if (strlen(args->word[0]) < 4096)
		document_set(m->d, m->s, xinetd_at(m, X_SERVER), "box", "exec --argv0 %s %s%s%s",
		             document_quote(args->word[0], name, sizeof name), path, blank, rest);
	else
		document_error(m->d, xinetd_at(m, X_SERVER_ARGS),
		               "server_args: the program's name is longer than a path can be");
	free(rest);
	if (args->n > 0)
		xinetd_covered(m);
	if (m->wait)
		document_set(m->d, m->s, xinetd_at(m, X_WAIT), "wait", "yes");
	document_set(m->d, m->s, xinetd_at(m, X_SERVER), "stderr", "connection"); /* xinetd puts it on 0, 1 and 2 */
}

/* redirect = HOST PORT */
static void make_relay(struct xinetd_section *m)
{
	const struct config_words *to = &m->v[X_REDIRECT].words;
	char text[HARK_ADDRESS_MAX];
	struct in6_addr six;
	struct hark_address a;
	struct hark_why why = {""};

	(void)snprintf(text, sizeof text,
	               inet_pton(AF_INET6, to->word[0], &six) == 1 ? "tcp://[%.255s]:%.64s" : "tcp://%.255s:%.64s",
	               to->word[0], to->word[1]);
	if (!m->stream || m->wait || xinetd_has(m, X_FLAGS, "NAMEINARGS")) {
		wrong(m, xinetd_at(m, X_REDIRECT),
		      "redirect: of a stream alone, with wait = no and without NAMEINARGS");
		xinetd_disable(m, "its redirect is one that xinetd refuses");
	}
	if (hark_address_parse(text, &a, &why) < 0 || strcmp(to->word[0], "*") == 0) {
		document_error(m->d, xinetd_at(m, X_REDIRECT), "redirect: %s",
		               why.text[0] != '\0' ? why.text : "* is no host to connect to");
		return;
	}
	document_set(m->d, m->s, xinetd_at(m, X_REDIRECT), "relay", "%s", text);
	if (m->v[X_SERVER].set)
		xinetd_drop(m, X_SERVER, "redirect goes before it");
}

/* ---- the program's surroundings ---- */

static void make_env(struct xinetd_section *m)
{
	const struct config_words *env = &m->v[X_ENV].words, *pass = &m->v[X_PASSENV].words;

	for (size_t i = 0; i < env->n; i++) {
		if (strchr(env->word[i], '=') != NULL)
			continue;
		document_error(m->d, xinetd_at(m, X_ENV), "env: \"%.64s\" is not NAME=value", env->word[i]);
		xinetd_disable(m, "env cannot be read");
		break;
	}
	reading_environment(m->d, m->s, xinetd_at(m, X_ENV), env, false, "");
	reading_environment(m->d, m->s, xinetd_at(m, X_PASSENV), pass, true, "");
	if (!m->v[X_PASSENV].set)
		document_set(m->d, m->s, m->e->place, "pass_env", "*"); /* xinetd's environment is the program's */
	else if (pass->n == 0)
		document_set(m->d, m->s, xinetd_at(m, X_PASSENV), "pass_env", "none");
}

static void make_user(struct xinetd_section *m)
{
	const char *mask = xinetd_value_of(m, X_UMASK), *nice = xinetd_value_of(m, X_NICE);
	int64_t n;

	if (xinetd_value_of(m, X_USER) != NULL)
		document_set(m->d, m->s, xinetd_at(m, X_USER), "user", "%s", xinetd_value_of(m, X_USER));
	if (xinetd_value_of(m, X_GROUP) != NULL)
		document_set(m->d, m->s, xinetd_at(m, X_GROUP), "group", "%s", xinetd_value_of(m, X_GROUP));
	int groups = xinetd_yes(m, X_GROUPS);
	if (groups == 1)
		xinetd_covered(m); /* what hark does where user is set */
	else if (xinetd_value_of(m, X_USER) != NULL && !m->internal)
		document_set(m->d, m->s, xinetd_at(m, X_GROUPS), "groups", "none"); /* xinetd's default */
	if (mask != NULL && strspn(mask, "01234567") == strlen(mask) && strlen(mask) <= 5 &&
	    strtol(mask, NULL, 8) <= 0777)
		document_set(m->d, m->s, xinetd_at(m, X_UMASK), "umask", "%04lo", strtol(mask, NULL, 8));
	else if (m->v[X_UMASK].set)
		xinetd_bad(m, X_UMASK, "an octal number up to 0777");
	else if (!m->internal && !m->redirect)
		document_set(m->d, m->s, m->e->place, "umask", "0022"); /* xinetd's own */
	if (nice != NULL &&
	    xinetd_number(nice + (nice[0] == '-'), INT32_MAX, &n)) /* there are 40 steps: more is as much */
		document_set(m->d, m->s, xinetd_at(m, X_NICE), "nice", "%s%d", nice[0] == '-' ? "-" : "",
		             n > 40 ? 40 : (int)n);
	else if (m->v[X_NICE].set)
		xinetd_bad(m, X_NICE, "a number");
}

/* The bytes of a banner's file, as banner = takes them: added to text. False: they cannot be had. */
static bool add_banner(const struct xinetd_section *m, enum xinetd_attribute a, struct text *text)
{
	/* In a document of its own, because that it cannot be read is no mistake of the file that we read. */
	struct document *aside = document_new();
	size_t len = 0;
	char *bytes = aside != NULL ? reading_file(aside, xinetd_at(m, a), xinetd_value_of(m, a), BANNER_MAX, &len)
	                            : NULL;
	bool good = bytes != NULL;

	for (size_t i = 0; i < len; i++) {
		unsigned char c = (unsigned char)bytes[i];
		const char *escape = c != '\0' ? strchr("\nn\tt\rr\\\\", c) : NULL;
		bool end = i == 0 || i == len - 1;
		if (escape != NULL && c != 'n' && c != 't' && c != 'r')
			text_add(text, "\\%c", escape[1]);
		else if (c > ' ' || (c == ' ' && !end))
			text_add(text, c == 0x7f ? "\\x%02x" : "%c", c);
		else
			text_add(text, "\\x%02x", c); /* a setting has no blanks at its ends */
	}
	if (aside == NULL || aside->broken)
		m->d->broken = true;
	free(bytes);
	document_free(aside);
	return good;
}

/* banner goes to everybody, then banner_success to who is let in; hark's one banner is both. */
static void make_banner(struct xinetd_section *m)
{
	static const enum xinetd_attribute both[] = {X_BANNER, X_BANNER_SUCCESS};
	size_t cap = 2 * 4 * BANNER_MAX + 1;
	char *buf = malloc(cap);
	struct text text = {.buf = buf, .cap = cap};
	enum xinetd_attribute last = X_BANNER;

	if (buf == NULL) {
		m->d->broken = true;
		return;
	}
	buf[0] = '\0';
	for (size_t i = 0; i < 2; i++) {
		if (xinetd_value_of(m, both[i]) == NULL)
			continue;
		if (!m->stream || m->wait)
			xinetd_drop(m, both[i], "of streams that hark accepts alone");
		else if (!add_banner(m, both[i], &text))
			xinetd_drop(m, both[i],
			            "no file that can be read here, of at most 4096 bytes; banner = takes its words");
		else
			last = both[i];
	}
	if (text.len > 0)
		document_set(m->d, m->s, xinetd_at(m, last), "banner", "%s", buf);
	free(buf);
	if (m->v[X_BANNER_FAIL].set)
		xinetd_drop(m, X_BANNER_FAIL, NO_BANNER_FAIL);
}

/* ---- flags, logging and the rest ---- */

static void make_flags(struct xinetd_section *m)
{
	static const struct {
		const char *name, *dropped; /* NULL: carried over */
	} flags[] = {
		{"IDONLY", NULL}, /* xinetd_access() */
		{"INTERCEPT", "nothing stands between a wait program and its clients"},
		{"IPv4", NULL},
		{"IPv6", NULL},
		{"KEEPALIVE", NULL}, /* each TCP connection has it */
		{"LABELED", "programs keep harkd's own SELinux context"},
		{"NAMEINARGS", NULL},
		{"NODELAY", NULL},
		{"NOLIBWRAP", NULL},
		{"NORETRY", NULL},
		{"REUSE", NULL},
		{"SENSOR", NULL}, /* such a service is refused */
	};
	const struct config_words *w = &m->v[X_FLAGS].words;

	for (size_t i = 0; i < w->n; i++) {
		struct nearest near = {.word = w->word[i]};
		size_t k = 0;
		char hint[96];
		while (k < sizeof flags / sizeof flags[0] && strcasecmp(flags[k].name, w->word[i]) != 0)
			nearest_offer(&near, flags[k++].name);
		if (k == sizeof flags / sizeof flags[0]) {
			document_error(m->d, xinetd_at(m, X_FLAGS), "flags: unknown flag %.64s%s", w->word[i],
			               nearest_hint(&near, "", hint, sizeof hint));
			xinetd_disable(m, "flags cannot be read");
		} else if (flags[k].dropped != NULL) {
			document_drop(m->d, m->s, xinetd_at(m, X_FLAGS), "flags = %s: %s", flags[k].name,
			              flags[k].dropped);
		} else {
			xinetd_covered(m);
		}
	}
}

/* What of log_type xinetd does not take, or NULL. */
static const char *bad_log_type(const struct xinetd_value *v)
{
	static const char *const facilities[] = {"daemon", "auth",   "authpriv", "user",   "mail",   "lpr",
	                                         "news",   "uucp",   "ftp",      "local0", "local1", "local2",
	                                         "local3", "local4", "local5",   "local6", "local7", NULL};
	static const char *const levels[] = {"emerg",  "alert", "crit",  "err", "warning",
	                                     "notice", "info",  "debug", NULL};
	const struct config_words *w = &v->words;
	int64_t soft = 0, hard = INT64_MAX;

	if (w->n > 0 && strcasecmp(w->word[0], "SYSLOG") == 0) {
		bool good = (w->n == 2 || w->n == 3) && xinetd_is_one_of(w->word[1], facilities) &&
		            (w->n == 2 || xinetd_is_one_of(w->word[2], levels));
		return good ? NULL : "SYSLOG FACILITY [LEVEL]";
	}
	if (w->n > 0 && strcasecmp(w->word[0], "FILE") == 0) {
		bool good = w->n >= 2 && w->n <= 4 && (w->n < 3 || number_parse(w->word[2], "km", &soft) == 0) &&
		            (w->n < 4 || number_parse(w->word[3], "km", &hard) == 0) && soft <= hard;
		return good ? NULL : "FILE PATH [SOFT-LIMIT [HARD-LIMIT]]";
	}
	return "SYSLOG FACILITY [LEVEL] or FILE PATH [SOFT-LIMIT [HARD-LIMIT]]";
}

static void check_log_words(struct xinetd_section *m, enum xinetd_attribute a)
{
	static const char *const success[] = {"HOST", "DURATION", "EXIT", "PID", "USERID", "TRAFFIC", NULL};
	static const char *const failure[] = {"HOST", "ATTEMPT", "USERID", NULL};
	const struct config_words *w = &m->v[a].words;

	for (size_t i = 0; i < w->n; i++) {
		if (xinetd_is_one_of(w->word[i], a == X_LOG_ON_SUCCESS ? success : failure))
			continue;
		document_error(m->d, xinetd_at(m, a), "%s: unknown word %.64s", xinetd_name(a), w->word[i]);
		xinetd_disable(m, "what to log cannot be read");
	}
	if (a == X_LOG_ON_SUCCESS && !m->redirect && xinetd_has(m, a, "TRAFFIC")) {
		wrong(m, xinetd_at(m, a), "service %.200s: log_on_success TRAFFIC is of redirect alone", m->e->name);
		xinetd_disable(m, "xinetd does not serve it with log_on_success = TRAFFIC");
	}
}

/* harkd's line of a connection has all that log_on_success can ask for, but for the user's name. */
static void make_log(struct xinetd_section *m)
{
	static const enum xinetd_attribute both[] = {X_LOG_ON_SUCCESS, X_LOG_ON_FAILURE};

	for (size_t i = 0; i < 2; i++) {
		if (!m->v[both[i]].set)
			continue;
		check_log_words(m, both[i]);
		if (xinetd_has(m, both[i], "USERID"))
			document_drop(m->d, m->s, xinetd_at(m, both[i]),
			              "%s = USERID: nobody's user is asked for (RFC 1413)", xinetd_name(both[i]));
		else
			xinetd_covered(m);
	}
	if (m->v[X_LOG_TYPE].set && bad_log_type(&m->v[X_LOG_TYPE]) != NULL)
		xinetd_bad(m, X_LOG_TYPE, bad_log_type(&m->v[X_LOG_TYPE]));
	else if (m->v[X_LOG_TYPE].set)
		xinetd_drop(m, X_LOG_TYPE, NO_LOG_TYPE);
}

static void make_rest(struct xinetd_section *m)
{
	static const struct {
		enum xinetd_attribute a;
		const char *why;
	} rest[] = {
		{X_DENY_TIME, "of SENSOR alone"},
		{X_RPC_NUMBER, "of RPC services alone"},
		{X_RPC_VERSION, "of RPC services alone"},
	};

	for (size_t i = 0; i < sizeof rest / sizeof rest[0]; i++)
		if (m->v[rest[i].a].set)
			xinetd_drop(m, rest[i].a, rest[i].why);
	if (m->v[X_MDNS].set)
		xinetd_covered(m); /* nothing is announced, nor by xinetd but on macOS */
}

/* ---- a service ---- */

/* Why hark cannot serve it at all, or NULL. */
static const char *refused(const struct xinetd_section *m)
{
	static const char *const here[] = {"services", "servers", "xadmin", NULL};
	const char *type = xinetd_value_of(m, X_SOCKET_TYPE);

	if (xinetd_has(m, X_TYPE, "RPC"))
		return "type = RPC: services of the portmapper are not served";
	if (xinetd_has(m, X_FLAGS, "SENSOR"))
		return "flags = SENSOR: a port that denies its visitors everything else; firewalls do that";
	if (m->internal && xinetd_is_one_of(m->e->name, here))
		return "type = INTERNAL: about xinetd itself; hark status tells about harkd";
	if (type != NULL && (strcasecmp(type, "raw") == 0 || strcasecmp(type, "seqpacket") == 0))
		return "socket_type: streams and datagrams alone are served";
	return NULL;
}

static void missing(struct xinetd_section *m, const char *what)
{
	char reason[64];

	wrong(m, m->e->place, "service %.200s: %s is missing, so that xinetd does not serve it", m->e->name, what);
	(void)snprintf(reason, sizeof reason, "%s is missing", what);
	xinetd_disable(m, reason);
}

/* What kind of socket it has, from socket_type or protocol. False: nothing can be made of them. */
static bool read_kind(struct xinetd_section *m)
{
	const char *type = xinetd_value_of(m, X_SOCKET_TYPE), *protocol = xinetd_value_of(m, X_PROTOCOL);

	m->stream = type != NULL ? strcasecmp(type, "stream") == 0
	                         : protocol != NULL && strcasecmp(protocol, "tcp") == 0;
	if (type == NULL && protocol == NULL) {
		missing(m, "socket_type");
		return false;
	}
	if (type != NULL && !m->stream && strcasecmp(type, "dgram") != 0) {
		xinetd_bad(m, X_SOCKET_TYPE, "stream or dgram");
		return false;
	}
	if (protocol != NULL && strcasecmp(protocol, m->stream ? "tcp" : "udp") != 0) {
		xinetd_bad(m, X_PROTOCOL,
		           m->stream ? "tcp, as a stream's should be" : "udp, as a datagram's should be");
		return false;
	}
	return true;
}

static void check_type(struct xinetd_section *m)
{
	static const char *const types[] = {"RPC", "INTERNAL", "UNLISTED", "SPECIAL", "TCPMUX", "TCPMUXPLUS", NULL};
	const struct config_words *w = &m->v[X_TYPE].words;

	for (size_t i = 0; i < w->n; i++) {
		struct nearest near = {.word = w->word[i]};
		char hint[96];
		if (xinetd_is_one_of(w->word[i], types))
			continue;
		for (size_t k = 0; types[k] != NULL; k++)
			nearest_offer(&near, types[k]);
		document_error(m->d, xinetd_at(m, X_TYPE), "type: unknown type %.64s%s", w->word[i],
		               nearest_hint(&near, "", hint, sizeof hint));
		xinetd_disable(m, "type cannot be read");
	}
}

/* box, exec or relay. False: there is nothing to serve, and that was said. */
static bool make_what(struct xinetd_section *m)
{
	static const char *const known[] = {"echo", "discard", "chargen", "daytime", "time", NULL};

	if (m->redirect) {
		make_relay(m);
	} else if (m->internal) {
		size_t i = 0;
		while (known[i] != NULL && strcasecmp(known[i], m->e->name) != 0)
			i++;
		if (known[i] != NULL)
			document_set(m->d, m->s, xinetd_at(m, X_TYPE), "box", "%s", known[i]);
		else
			wrong(m, m->e->place, "service %.200s: xinetd has no such service of its own (type = INTERNAL)",
			      m->e->name);
	} else if (xinetd_value_of(m, X_SERVER) == NULL) {
		missing(m, "server");
	} else {
		make_exec(m);
	}
	return document_get(m->s, "relay") != NULL || document_get(m->s, "box") != NULL ||
	       document_get(m->s, "exec") != NULL;
}

/* Whether an earlier service that is served has the same address. */
static const char *taken(struct xinetd_entry *const *entries, size_t i, const char *listen)
{
	for (size_t k = 0; k < i; k++)
		if (entries[k]->listen != NULL && strcmp(entries[k]->listen, listen) == 0)
			return entries[k]->name;
	return NULL;
}

static void make_disable(struct xinetd_section *m, struct xinetd_entry *const *entries, size_t i)
{
	struct xinetd_entry *e = entries[i];
	const char *listen = document_get(m->s, "listen");
	const char *other = m->off || m->why[0] != '\0' || listen == NULL ? NULL : taken(entries, i, listen);

	if (other != NULL) {
		document_error(m->d, e->place, "service %s: service %s has the same address; the first one counts",
		               e->name, other);
		xinetd_disable(m, "another service has its address");
	}
	if (m->why[0] != '\0')
		document_remark(m->d, m->s, e->place, "%s: %s; once that is seen to, take out the next line",
		                m->off ? "still disabled" : "disabled", m->why);
	if (!m->off && m->why[0] != '\0')
		document_disable(m->d, m->s, m->v[X_DISABLE].set ? xinetd_at(m, X_DISABLE) : e->place);
	else if (m->off)
		document_set(m->d, m->s, m->v[X_DISABLE].set ? xinetd_at(m, X_DISABLE) : e->place, "disable", "yes");
	else if (listen != NULL && (e->listen = strdup(listen)) == NULL)
		m->d->broken = true;
}

static const char *id_of(const struct xinetd_section *m)
{
	return xinetd_value_of(m, X_ID) != NULL ? xinetd_value_of(m, X_ID) : m->e->name;
}

bool xinetd_is_off(struct xinetd_section *m, const struct xinetd_entry *defaults)
{
	const struct xinetd_value *off = &defaults->value[X_DISABLED], *on = &defaults->value[X_ENABLED];

	return xinetd_yes(m, X_DISABLE) == 1 || (off->set && wordlist_has(&off->words, id_of(m))) ||
	       (on->set && !wordlist_has(&on->words, id_of(m)));
}

static void read_disable(struct xinetd_section *m, const struct xinetd_entry *defaults)
{
	m->off = xinetd_is_off(m, defaults);
	m->internal = xinetd_has(m, X_TYPE, "INTERNAL");
	m->redirect = xinetd_value_of(m, X_REDIRECT) != NULL;
	m->wait = xinetd_yes(m, X_WAIT) == 1;
	if (m->e->broken)
		xinetd_disable(m, "not all of its lines could be read");
	if (m->e->broken_defaults)
		xinetd_disable(m, "not all of defaults could be read");
	if (!m->v[X_WAIT].set)
		missing(m, "wait");
	if (!m->internal && xinetd_value_of(m, X_USER) == NULL)
		missing(m, "user");
	check_type(m);
}

static void refuse(struct xinetd_section *m, const char *id, const char *why)
{
	const char *name = m->e->name;
	bool same = strcmp(name, id) == 0;

	document_remove(m->d, m->s);
	document_drop(m->d, NULL, m->e->place, "service %s%s%s%s: %s", name, same ? "" : " (", same ? "" : id,
	              same ? "" : ")", why);
}

bool xinetd_make_defaults(struct document *d, const struct xinetd_entry *defaults)
{
	struct xinetd_section m = {.d = d, .e = defaults, .v = defaults->value};
	const char *bad = m.v[X_LOG_TYPE].set ? bad_log_type(&m.v[X_LOG_TYPE]) : NULL;

	if (bad != NULL)
		xinetd_bad(&m, X_LOG_TYPE, bad);
	else if (m.v[X_LOG_TYPE].set)
		xinetd_drop(&m, X_LOG_TYPE, NO_LOG_TYPE);
	if (m.v[X_BANNER_FAIL].set)
		xinetd_drop(&m, X_BANNER_FAIL, NO_BANNER_FAIL);
	return bad == NULL;
}

/* What is served, and its surroundings: behind tcpmux those of the first. Why not; NULL: it is. */
static const char *make_program(struct xinetd_section *m, struct xinetd_entry *const *entries, size_t n,
                                const struct xinetd_entry *defaults)
{
	const struct xinetd_entry *own = m->e;
	bool mux = xinetd_is_tcpmux(own);
	const struct xinetd_entry *first = mux ? xinetd_make_tcpmux(m, entries, n, defaults) : own;

	if (first == NULL)
		return "no service has type = TCPMUX or TCPMUXPLUS (RFC 1078)";
	if (!mux && !make_what(m))
		return "nothing that can be served";
	m->e = first;
	m->v = first->value;
	m->internal = m->internal && !mux;
	make_user(m);
	if (!m->internal && !m->redirect)
		make_env(m);
	m->e = own;
	m->v = own->value;
	return NULL;
}

/* Why it cannot be served; NULL: it has an address. */
static const char *begin(struct xinetd_section *m, const struct xinetd_entry *defaults)
{
	const char *why = refused(m);

	if (why != NULL)
		return why;
	read_disable(m, defaults);
	bool good = read_bind(m);
	xinetd_narrow(m);
	if (!good)
		return "bind cannot be read, and no other address is meant";
	return read_kind(m) && make_listen(m) ? NULL : "nothing that can be served";
}

void xinetd_make(struct document *d, struct xinetd_entry *const *entries, size_t n, size_t i,
                 const struct xinetd_entry *defaults)
{
	const struct xinetd_entry *e = entries[i];
	struct xinetd_section m = {.d = d, .e = e, .v = e->value};
	const char *id = id_of(&m);

	if (xinetd_is_behind(e)) {
		if (!xinetd_has_tcpmux(entries, n))
			xinetd_refuse_behind(d, e, "no service tcpmux of type = INTERNAL listens for it (RFC 1078)");
		return;
	}
	m.s = document_section(d, id, e->place);
	m.internal = xinetd_has(&m, X_TYPE, "INTERNAL");
	const char *why = begin(&m, defaults);
	for (size_t k = 0; k < n && why != NULL && xinetd_is_tcpmux(e); k++)
		if (xinetd_is_behind(entries[k]))
			xinetd_refuse_behind(d, entries[k], "service tcpmux, which it is behind, cannot be served");
	why = why != NULL ? why : make_program(&m, entries, n, defaults);
	if (why != NULL) {
		refuse(&m, id, why);
		return;
	}
	xinetd_access(&m);
	make_banner(&m);
	xinetd_limits(&m);
	make_flags(&m);
	make_log(&m);
	make_rest(&m);
	make_disable(&m, entries, i);
}
