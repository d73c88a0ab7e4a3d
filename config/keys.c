/* keys.c — every key of hark.conf: one row each, from which it is read, checked, printed, suggested and listed.
 * Constant. */
#include "inside.h"

#include <assert.h>
#include <string.h>
#include <syslog.h>

#include "nearest.h"

#define OF_SERVICE(field) .at = offsetof(struct service, field)
#define OF_HARKD(field)   .at = offsetof(struct config, field)
#define HOW(...) \
	&(const struct config_how) \
	{ \
		__VA_ARGS__ \
	}
#define COUNT_MAX      1000000000
#define TICKETS_MAX_NS (7 * 24 * 3600 * HARK_S) /* RFC 8446 section 4.6.1 */

static const struct choice models[] = {{"inline", HARK_MODEL_INLINE},
                                       {"process", HARK_MODEL_PROCESS},
                                       {"thread", HARK_MODEL_THREAD},
                                       {"fiber", HARK_MODEL_FIBER},
                                       {NULL}};
static const struct choice firsts[] = {{"client", 1}, {"server", 0}, {NULL}};
static const struct choice starts[] = {{"boot", CONFIG_START_BOOT}, {"demand", CONFIG_START_DEMAND}, {NULL}};
static const struct choice formats[] = {{"text", CONFIG_LOG_TEXT}, {"json", CONFIG_LOG_JSON}, {NULL}};
static const struct choice engines[] = {{"epoll", 0}, {"uring", 1}, {"poll", 2}, {NULL}};
static const struct choice facilities[] = {{"daemon", LOG_DAEMON}, {"auth", LOG_AUTH},     {"authpriv", LOG_AUTHPRIV},
                                           {"cron", LOG_CRON},     {"ftp", LOG_FTP},       {"kern", LOG_KERN},
                                           {"lpr", LOG_LPR},       {"mail", LOG_MAIL},     {"news", LOG_NEWS},
                                           {"syslog", LOG_SYSLOG}, {"user", LOG_USER},     {"uucp", LOG_UUCP},
                                           {"local0", LOG_LOCAL0}, {"local1", LOG_LOCAL1}, {"local2", LOG_LOCAL2},
                                           {"local3", LOG_LOCAL3}, {"local4", LOG_LOCAL4}, {"local5", LOG_LOCAL5},
                                           {"local6", LOG_LOCAL6}, {"local7", LOG_LOCAL7}, {NULL}};
static const struct choice logs[] = {{"stderr", 0}, {"syslog", 0}, {"journal", 0}, {NULL}};
static const struct choice yes_no[] = {{"no", 0}, {"yes", 1}, {NULL}};
static const struct choice clients[] = {{"none", HARK_TLS_CLIENTS_ANY},
                                        {"optional", HARK_TLS_CLIENTS_OPTIONAL},
                                        {"required", HARK_TLS_CLIENTS_REQUIRED},
                                        {NULL}};
static const struct choice versions[] = {{"1.2", 12}, {"1.3", 13}, {NULL}};
static const struct choice none[] = {{"none", 0}, {NULL}};

#define RLIMIT(key, resource, what, more) \
	{ \
		"rlimit_" key, false, "LIMIT[:LIMIT]", "", what, \
			HOW(&kind_rlimit, .number = resource, .suffixes = more) \
	}

const struct config_key config_keys[] = {
	/* what is served */
	{"listen", false, "ADDRESS...", "", "the addresses to listen on",
         HOW(&kind_listen, OF_SERVICE(s.listen), KEY_LIST | KEY_OWN)},
	{"exec", false, "PROGRAM [ARGUMENT...]", "", "a program with the connection as its standard input and output",
         HOW(&kind_words, OF_SERVICE(what[WHAT_EXEC]), KEY_OWN)},
	{"box", false, "NAME [ARGUMENT...]", "", "a built-in protocol: see hark serve --help",
         HOW(&kind_words, OF_SERVICE(what[WHAT_BOX]), KEY_OWN)},
	{"relay", false, "[OPTION...] [NAME=]ADDRESS...", "", "passes everything on to another address and back",
         HOW(&kind_words, OF_SERVICE(what[WHAT_RELAY]), KEY_OWN)},
	{"disable", false, "yes|no", "no", "check the service, but do not serve it",
         HOW(&kind_bool, OF_SERVICE(s.disabled), .choices = yes_no)},
	{"wait", false, "yes|no", "no", "inetd's wait: the program gets the listening socket itself",
         HOW(&kind_bool, OF_SERVICE(s.wait), .choices = yes_no)},
	{"banner", false, "TEXT", "", "sent first on each stream; \\n, \\t, \\r, \\\\, \\xHH",
         HOW(&kind_banner, OF_SERVICE(s.banner))},
	/* how */
	{"model", false, "inline|process|thread|fiber", "fiber", "what each connection gets",
         HOW(&kind_choice, OF_SERVICE(s.model), .choices = models)},
	{"workers", false, "NUMBER", "1", "processes that all accept",
         HOW(&kind_number, OF_SERVICE(s.workers), .min = 1, .max = 64)},
	{"engine", false, "epoll|uring|poll", "", "how an event loop waits",
         HOW(&kind_one_of, OF_SERVICE(s.engine), .choices = engines)},
	{"stack", false, "SIZE", "0", "the stack of each fiber or thread; 0: 64k for fibers, the system's for threads",
         HOW(&kind_size, OF_SERVICE(s.stack_bytes), .min = 16384, .max = 1 << 30)},
	{"first", false, "client|server", "", "who speaks first: a client that is silent costs no stack",
         HOW(&kind_choice, OF_SERVICE(s.client_first), .choices = firsts)},
	{"start", false, "boot|demand", "boot", "when the workers are started: at once, or at the first connection",
         HOW(&kind_choice, OF_SERVICE(s.start), .choices = starts)},
	{"stop_idle", false, "DURATION", "1m",
         "start = demand: the workers end when nobody was connected so long; 0: never",
         HOW(&kind_duration, OF_SERVICE(s.stop_idle_ns))},
	{"idle_timeout", false, "DURATION", "0", "ends a connection on which nothing happens; 0: never",
         HOW(&kind_duration, OF_SERVICE(s.idle_timeout_ns))},
	{"keepalive", false, "DURATION", "0",
         "a TCP peer that was silent so long is asked whether it is there; 0: the system's",
         HOW(&kind_duration, OF_SERVICE(s.keepalive_ns))},
	{"user_timeout", false, "DURATION", "0",
         "ends a TCP connection whose peer confirms nothing for so long; 0: the system's",
         HOW(&kind_duration, OF_SERVICE(s.user_timeout_ns))},
	{"lifetime", false, "DURATION", "0", "ends every connection so long after its start; 0: never",
         HOW(&kind_duration, OF_SERVICE(s.lifetime_ns))},
	{"grace", false, "DURATION", "10s", "what is busy may take so long to finish at a reload or stop",
         HOW(&kind_duration, OF_SERVICE(s.grace_ns))},
	{"backlog", false, "NUMBER", "0", "connections that may wait to be accepted; 0: the system's most",
         HOW(&kind_number, OF_SERVICE(s.backlog), .max = COUNT_MAX)},
	{"reuseport", false, "yes|no", "no", "shares the ports with other processes that do the same",
         HOW(&kind_bool, OF_SERVICE(s.reuseport), .choices = yes_no)},
	{"v6only", false, "yes|no", "no", "* and [::] take no IPv4",
         HOW(&kind_bool, OF_SERVICE(s.v6only), .choices = yes_no)},
	{"freebind", false, "yes|no", "no", "listens at addresses that no interface has yet",
         HOW(&kind_bool, OF_SERVICE(s.freebind), .choices = yes_no)},
	{"defer_accept", false, "DURATION", "0",
         "TCP connections are taken when they have sent something, for at most so long",
         HOW(&kind_seconds, OF_SERVICE(s.defer_accept_s), .max = 3600)},
	/* who speaks for others */
	{"proxy_from", false, "NETWORK...", "",
         "proxies, whose streams begin with a header of the PROXY protocol; others are refused",
         HOW(&kind_networks, 0, KEY_LIST)},
	{"proxy_direct", false, "yes|no", "no", "proxy_from: others are served, too, as who they are",
         HOW(&kind_bool, OF_SERVICE(s.proxy_direct), .choices = yes_no)},
	{"proxy_timeout", false, "DURATION", "10s", "proxy_from: a header that is not complete by then is refused",
         HOW(&kind_duration, OF_SERVICE(s.proxy_timeout_ns), .min = 1)},
	/* limits */
	{"max_conns", false, "NUMBER", "0", "connections at once; more wait in the backlog; 0: no limit",
         HOW(&kind_number, OF_SERVICE(s.max_conns), .max = COUNT_MAX)},
	{"max_per_source", false, "NUMBER", "0", "connections at once from one source; more are closed; 0: no limit",
         HOW(&kind_number, OF_SERVICE(s.max_per_source), .max = COUNT_MAX)},
	{"max_sessions_per_source", false, "NUMBER", "500",
         "UDP sessions at once from one source, of programs and relays; 0: no limit",
         HOW(&kind_number, OF_SERVICE(s.max_sessions), .max = COUNT_MAX)},
	{"source_prefix", false, "BITS BITS", "32 64",
         "what counts as one source: the leading bits of IPv4 and IPv6 addresses", HOW(&kind_prefix, 0)},
	{"rate", false, "RATE", "0", "connections that come faster wait in the backlog; 0: no limit",
         HOW(&kind_rate, OF_SERVICE(s.rate))},
	{"rate_per_source", false, "RATE", "0", "connections that come faster from one source are closed; 0: no limit",
         HOW(&kind_rate, OF_SERVICE(s.rate_per_source))},
	{"max_load", false, "LOAD", "0", "above this 1 minute load average connections wait; 0: no limit",
         HOW(&kind_load, OF_SERVICE(s.max_load))},
	{"max_handshakes", false, "NUMBER", "0", "TLS handshakes under way at once; more are closed; 0: no limit",
         HOW(&kind_number, OF_SERVICE(s.max_handshakes), .max = COUNT_MAX)},
	/* TLS */
	{"cert", false, "FILE...", "", "certificates for tls:// addresses, each with those above it: PEM",
         HOW(&kind_files, OF_SERVICE(s.cert), KEY_LIST | KEY_TLS)},
	{"key", false, "FILE...", "", "their keys, in the same order; none: they are in the same files",
         HOW(&kind_files, OF_SERVICE(s.key), KEY_LIST | KEY_TLS)},
	{"client_ca", false, "FILE", "", "certificates that vouch for clients: PEM",
         HOW(&kind_file, OF_SERVICE(s.client_ca), KEY_TLS)},
	{"client_cert", false, "required|optional|none", "", "whether clients must show one; with client_ca: required",
         HOW(&kind_choice, OF_SERVICE(s.client_cert), KEY_TLS, .choices = clients)},
	{"client_crl", false, "FILE", "", "what client_ca has revoked: PEM",
         HOW(&kind_file, OF_SERVICE(s.client_crl), KEY_TLS)},
	{"tls_min", false, "1.2|1.3", "1.2", "the lowest version of TLS",
         HOW(&kind_choice, OF_SERVICE(s.tls_min), .choices = versions)},
	{"alpn", false, "NAME...", "", "application protocols that clients can agree on, the best first",
         HOW(&kind_alpn, OF_SERVICE(s.alpn), KEY_TLS)},
	{"tls_handshake_timeout", false, "DURATION", "10s", "a TLS handshake must be over so long after the accept",
         HOW(&kind_duration, OF_SERVICE(s.tls_handshake_timeout_ns), .min = HARK_MS)},
	{"tls_tickets", false, "DURATION", "12h", "how long a TLS session can be resumed; 0: never",
         HOW(&kind_duration, OF_SERVICE(s.tls_tickets_ns), .max = TICKETS_MAX_NS)},
	/* as whom, and where */
	{"user", false, "USER", "", "the service runs as this user", HOW(&kind_user, OF_SERVICE(s.user))},
	{"group", false, "GROUP", "", "and as this group; without it the user's own",
         HOW(&kind_group, OF_SERVICE(s.group))},
	{"groups", false, "GROUP...|none", "", "supplementary groups; without it the user's own",
         HOW(&kind_groups, OF_SERVICE(group_names))},
	{"chroot", false, "DIRECTORY", "", "the service's root directory", HOW(&kind_path, OF_SERVICE(s.chroot))},
	{"directory", false, "DIRECTORY", "", "where the service runs, inside the chroot",
         HOW(&kind_path, OF_SERVICE(s.directory))},
	{"umask", false, "MODE", "", "the permissions that files it makes do not get, octal",
         HOW(&kind_octal, OF_SERVICE(s.umask), .max = 0777)},
	{"nice", false, "NUMBER", "0", "added to the niceness that it has",
         HOW(&kind_number, OF_SERVICE(s.nice), .min = -40, .max = 40)},
	RLIMIT("as", RLIMIT_AS, "address space, bytes", "kmg"),
	RLIMIT("core", RLIMIT_CORE, "a core file, bytes", "kmg"),
	RLIMIT("cpu", RLIMIT_CPU, "processor time, seconds", ""),
	RLIMIT("data", RLIMIT_DATA, "data segment, bytes", "kmg"),
	RLIMIT("fsize", RLIMIT_FSIZE, "a file that is written, bytes", "kmg"),
	RLIMIT("locks", RLIMIT_LOCKS, "file locks", ""),
	RLIMIT("memlock", RLIMIT_MEMLOCK, "locked memory, bytes", "kmg"),
	RLIMIT("msgqueue", RLIMIT_MSGQUEUE, "POSIX message queues, bytes", "kmg"),
	RLIMIT("nice", RLIMIT_NICE, "20 less the lowest niceness that may be set", ""),
	RLIMIT("nofile", RLIMIT_NOFILE, "open files", "kmg"),
	RLIMIT("nproc", RLIMIT_NPROC, "processes of the user", "kmg"),
	RLIMIT("rss", RLIMIT_RSS, "resident memory, bytes", "kmg"),
	RLIMIT("rtprio", RLIMIT_RTPRIO, "real-time priority", ""),
	RLIMIT("rttime", RLIMIT_RTTIME, "processor time without a wait at real-time priority, microseconds", ""),
	RLIMIT("sigpending", RLIMIT_SIGPENDING, "queued signals", ""),
	RLIMIT("stack", RLIMIT_STACK, "the main thread's stack, bytes", "kmg"),
	{"env", false, "NAME=VALUE...", "", "variables of the environment",
         HOW(&kind_env, OF_SERVICE(s.env), KEY_LIST)},
	{"pass_env", false, "NAME...|*|none", "PATH TZ LANG LC_*", "variables that are taken over from the environment",
         HOW(&kind_names, OF_SERVICE(s.pass_env), KEY_LIST)},
	{"socket_user", false, "USER", "", "the owner of Unix sockets",
         HOW(&kind_socket_user, OF_SERVICE(s.socket_user), KEY_UNIX)},
	{"socket_group", false, "GROUP", "", "the group of Unix sockets",
         HOW(&kind_socket_group, OF_SERVICE(s.socket_group), KEY_UNIX)},
	{"socket_mode", false, "MODE", "", "the permissions of Unix sockets, octal",
         HOW(&kind_octal, OF_SERVICE(s.socket_mode), KEY_UNIX, .max = 0777)},
	/* [harkd] */
	{"include", true, "PATTERN", "", "more files, beside this one", HOW(&kind_include, 0, KEY_LIST)},
	{"control", true, "PATH|none", "/run/harkd.sock", "the control socket",
         HOW(&kind_path_or, OF_HARKD(control), .choices = none)},
	{"pid_file", true, "PATH", "", "a file that has harkd's process id", HOW(&kind_path, OF_HARKD(pid_file))},
	{"log", true, "stderr|syslog|journal|PATH", "stderr", "where the log goes",
         HOW(&kind_path_or, OF_HARKD(log), .choices = logs)},
	{"log_format", true, "text|json", "text", "the form of its lines",
         HOW(&kind_choice, OF_HARKD(log_format), .choices = formats)},
	{"syslog_facility", true, "FACILITY", "daemon", "daemon, auth, local0 ...: syslog(3)",
         HOW(&kind_one_of, OF_HARKD(syslog_facility), .choices = facilities)},
	{"log_connections", true, "yes|no", "yes", "a line for each connection",
         HOW(&kind_bool, OF_HARKD(log_connections), .choices = yes_no)},
	{"upgrade_timeout", true, "DURATION", "30s", "a new harkd that is not ready by then has failed",
         HOW(&kind_duration, OF_HARKD(upgrade_timeout_ns), .min = 100000000)},
	{NULL},
};

static_assert(sizeof config_keys / sizeof config_keys[0] <= KEYS_MAX, "KEYS_MAX is too low");
static_assert(RLIMIT_NLIMITS <= CONFIG_RLIMITS, "there is a resource more");

const struct config_key *key_find(const char *name)
{
	for (const struct config_key *k = config_keys; k->name != NULL; k++)
		if (strcmp(k->name, name) == 0)
			return k;
	return NULL;
}

int key_index(const struct config_key *key)
{
	return (int)(key - config_keys);
}

struct at key_at(const struct at at[KEYS_MAX], const char *name)
{
	const struct config_key *key = key_find(name);

	return key != NULL ? at[key_index(key)] : (struct at){0};
}

const char *key_hint(const char *name, bool global, char *buf, size_t cap)
{
	struct nearest n = {.word = name};

	for (const struct config_key *k = config_keys; k->name != NULL; k++)
		if (k->global == global)
			nearest_offer(&n, k->name);
	return nearest_hint(&n, "", buf, cap);
}
