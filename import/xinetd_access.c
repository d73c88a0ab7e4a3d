/* xinetd_access.c — who may connect to an xinetd service, and how often: access rules, limits, resource limits.
 *
 * hark.conf has no rules of access. Two have an equal: who is only reached from this host may listen on loopback alone,
 * and only_from = 0.0.0.0/0 is IPv4. With any other rule the section is disabled. Functions of their arguments. */
#include "xinetd_section.h"

#include "number.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* ---- access ---- */

static const char *const all_of_four[] = {"0.0.0.0", "0.0.0.0/0", NULL};

/* Whether each of only_from's words is one of those; there is at least one. */
static bool only_from(const struct xinetd_section *m, const char *const *words)
{
	const struct config_words *from = &m->v[X_ONLY_FROM].words;

	for (size_t i = 0; i < from->n; i++)
		if (!xinetd_is_one_of(from->word[i], words))
			return false;
	return m->v[X_ONLY_FROM].set && from->n > 0 && !(m->v[X_NO_ACCESS].set && m->v[X_NO_ACCESS].words.n > 0);
}

void xinetd_narrow(struct xinetd_section *m)
{
	static const char *const here[] = {"localhost",    "127.0.0.1", "127.0.0.1/32", "127.0.0.0", "127.0.0.0/8",
	                                   "127.0.0.0/24", NULL};
	static const char *const here6[] = {"localhost", "::1", "::1/128", NULL};
	bool six = xinetd_has(m, X_FLAGS, "IPv6"), only_six = m->v[X_V6ONLY].set;

	m->loopback = xinetd_binds_all(m) && only_from(m, here) && !six && !only_six;
	m->local = (strncmp(m->bind, "127.", 4) == 0 || (strcasecmp(m->bind, "localhost") == 0 && !six))
	                   ? only_from(m, here)
	                   : strcmp(m->bind, "::1") == 0 && only_from(m, here6);
	m->four = only_from(m, all_of_four) && strchr(m->bind, ':') == NULL && !six && !only_six;
}

/* Whether only_from has all that the socket can be reached from. A socket of IPv6 sees IPv4 as mapped addresses: ::/0
 * has them, 0.0.0.0/0 has nothing else; to one of IPv4 no rule of IPv6 is anything. */
static bool is_everybody(const struct xinetd_section *m)
{
	static const char *const all[] = {"0.0.0.0", "0.0.0.0/0", "::/0", "::0/0", NULL};
	const struct config_words *from = &m->v[X_ONLY_FROM].words;
	bool six = xinetd_has(m, X_FLAGS, "IPv6");
	bool is_four = xinetd_has(m, X_FLAGS, "IPv4") || (m->bind[0] != '\0' && strchr(m->bind, ':') == NULL && !six);

	for (size_t i = 0; i < from->n; i++)
		if (xinetd_is_one_of(from->word[i], all_of_four) == is_four)
			return only_from(m, all);
	return false;
}

void xinetd_access(struct xinetd_section *m)
{
	if (m->loopback || m->local || m->four) {
		xinetd_covered(m);
		document_remark(m->d, m->s, xinetd_at(m, X_ONLY_FROM),
		                "only_from = %s: by its address, which is %s alone", xinetd_value_of(m, X_ONLY_FROM),
		                m->loopback || m->local ? "this host's" : "IPv4");
	} else if (is_everybody(m)) {
		xinetd_covered(m);
	} else if (m->v[X_ONLY_FROM].set) {
		xinetd_drop(m, X_ONLY_FROM,
		            m->v[X_ONLY_FROM].words.n == 0 ? "nobody may connect"
		                                           : "hark.conf has no rules of access yet");
		xinetd_disable(m, "without only_from anybody could connect");
	}
	if (m->v[X_NO_ACCESS].set && m->v[X_NO_ACCESS].words.n > 0) {
		xinetd_drop(m, X_NO_ACCESS, "hark.conf has no rules of access yet");
		xinetd_disable(m, "without no_access anybody could connect");
	}
	if (m->v[X_ACCESS_TIMES].set) {
		xinetd_drop(m, X_ACCESS_TIMES, "hark.conf has no times of access yet");
		xinetd_disable(m, "without access_times it would be open at all times");
	}
	if (xinetd_has(m, X_FLAGS, "IDONLY")) {
		document_drop(m->d, m->s, xinetd_at(m, X_FLAGS),
		              "flags = IDONLY: nobody's user is asked for (RFC 1413)");
		xinetd_disable(m, "without IDONLY anybody could connect");
	}
	if (m->v[X_LIBWRAP].set)
		xinetd_drop(m, X_LIBWRAP, "hosts.allow and hosts.deny are not asked");
}

/* ---- limits ---- */

/* instances, per_source: a number or UNLIMITED. */
static void make_limit(struct xinetd_section *m, enum xinetd_attribute a, const char *key)
{
	const char *text = xinetd_value_of(m, a);
	int64_t n;

	if (!m->v[a].set)
		return;
	if (text != NULL && strcasecmp(text, "UNLIMITED") == 0) {
		xinetd_covered(m);
	} else if (!xinetd_number(text, XINETD_COUNT_MAX, &n)) {
		xinetd_bad(m, a, "a number or UNLIMITED");
	} else if (n == 0) {
		xinetd_drop(m, a, "nobody is served at all");
		xinetd_disable(m, "nobody may connect");
	} else if (m->wait && !m->internal) {
		if (a == X_INSTANCES)
			xinetd_covered(m); /* one program has the socket */
		else
			xinetd_drop(m, a, "the program that waits takes its connections itself");
	} else {
		document_set(m->d, m->s, xinetd_at(m, a), key, "%lld", (long long)n);
	}
}

/* cps = CONNECTIONS SECONDS */
static void make_rate(struct xinetd_section *m)
{
	const struct config_words *w = &m->v[X_CPS].words;
	int64_t n, seconds;

	if (!m->v[X_CPS].set)
		return;
	if (w->n != 2 || !xinetd_number(w->word[0], XINETD_COUNT_MAX, &n) ||
	    !xinetd_number(w->word[1], INT32_MAX, &seconds)) {
		xinetd_bad(m, X_CPS, "a number a second, and seconds");
	} else if (n == 0) {
		xinetd_covered(m);
	} else {
		document_set(m->d, m->s, xinetd_at(m, X_CPS), "rate", "%lld/s", (long long)n);
		document_remark(m->d, m->s, xinetd_at(m, X_CPS),
		                "who comes faster waits in the backlog: the service is never disabled for %lld s",
		                (long long)seconds);
	}
}

static void make_load(struct xinetd_section *m)
{
	const char *text = xinetd_value_of(m, X_MAX_LOAD);
	char *end;

	if (!m->v[X_MAX_LOAD].set)
		return;
	double load = text != NULL && strspn(text, "0123456789.") == strlen(text) ? strtod(text, &end) : 0;
	if (load <= 0 || load >= 1e5)
		xinetd_bad(m, X_MAX_LOAD, "a load above 0");
	else
		document_set(m->d, m->s, xinetd_at(m, X_MAX_LOAD), "max_load", "%g", load);
}

/* A number of bytes (K, M), seconds or descriptors; 0 is none to xinetd. */
static void make_rlimits(struct xinetd_section *m)
{
	static const struct {
		enum xinetd_attribute a;
		const char *key, *suffixes;
	} limits[] = {
		{X_RLIMIT_AS, "rlimit_as", "km"},     {X_RLIMIT_CPU, "rlimit_cpu", ""},
		{X_RLIMIT_DATA, "rlimit_data", "km"}, {X_RLIMIT_FILES, "rlimit_nofile", "km"},
		{X_RLIMIT_RSS, "rlimit_rss", "km"},   {X_RLIMIT_STACK, "rlimit_stack", "km"},
	};

	for (size_t i = 0; i < sizeof limits / sizeof limits[0]; i++) {
		enum xinetd_attribute a = limits[i].a;
		const char *text = xinetd_value_of(m, a);
		int64_t n;
		if (!m->v[a].set)
			continue;
		if (text != NULL && strcasecmp(text, "UNLIMITED") == 0)
			document_set(m->d, m->s, xinetd_at(m, a), limits[i].key, "unlimited");
		else if (text == NULL || number_parse(text, limits[i].suffixes, &n) < 0)
			xinetd_bad(m, a, "a number or UNLIMITED");
		else if (n == 0)
			xinetd_covered(m);
		else
			document_set(m->d, m->s, xinetd_at(m, a), limits[i].key, "%lld", (long long)n);
	}
}

void xinetd_limits(struct xinetd_section *m)
{
	make_limit(m, X_INSTANCES, "max_conns");
	make_limit(m, X_PER_SOURCE, "max_per_source");
	make_rate(m);
	make_load(m);
	make_rlimits(m);
}
