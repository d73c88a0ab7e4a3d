/* systemd_directives.c — the lines of a socket unit and its service that have a setting of their own, or none: one row
 * each in a table.
 *
 * A row says how its directive is made: set, dropped with a reason, covered (hark does it anyway, or another file looks
 * at it), or refused, where dropping it would open the service or give it rights. Functions of their arguments. */
#include "systemd_section.h"

#include "number.h"

#include <stdlib.h>
#include <string.h>

#define COUNT_MAX 1000000000 /* what hark.conf takes at most */
#define WORDS_MAX 1024       /* of one list, but for the program's arguments */
#define GENTLE    "what it would keep the program from is not kept from it"

/* How a directive is made. l holds; value is l->value. */
typedef void maker(struct systemd_section *m, const struct unit_line *l, const char *key);

struct directive {
	const char *section, *name;
	bool list;
	maker *make;
	const char *key; /* hark.conf's; or of systemd_drop() why it is dropped */
};

void systemd_disable(struct systemd_section *m, const char *why)
{
	if (m->why[0] == '\0')
		(void)snprintf(m->why, sizeof m->why, "%s", why);
}

/* ---- makers ---- */

/* Hark does it anyway, or it was looked at already. */
static void covered(struct systemd_section *m, const struct unit_line *l, const char *key)
{
	(void)l, (void)key;
	m->d->fates[DOCUMENT_CARRIED]++;
}

void systemd_drop(struct systemd_section *m, const struct unit_line *l, const char *why)
{
	document_drop(m->d, m->s, l->place, "%s=%s: %s", l->key, l->value, why);
}

void systemd_refuse(struct systemd_section *m, const struct unit_line *l, const char *why)
{
	char reason[96];

	systemd_drop(m, l, why);
	(void)snprintf(reason, sizeof reason, "%.40s= is not carried over", l->key);
	systemd_disable(m, reason);
}

void systemd_bad(struct systemd_section *m, const struct unit_line *l, const char *wanted)
{
	document_error(m->d, l->place, "%s=%.64s: not %s", l->key, l->value, wanted);
}

char *systemd_specified(struct systemd_section *m, const struct unit_line *l, const struct unit *u)
{
	char which, why[64];
	char *text = systemd_specify(m->d, u, l->value, &which);

	if (text == NULL && which != '\0') {
		(void)snprintf(why, sizeof why, "%%%c is known to systemd alone", which);
		systemd_refuse(m, l, why);
	}
	return text;
}

static void text(struct systemd_section *m, const struct unit_line *l, const char *key)
{
	bool of_socket = strcmp(l->section, "Socket") == 0;
	char *value = systemd_specified(m, l, of_socket ? m->socket : m->service);

	if (value != NULL)
		document_set(m->d, m->s, l->place, key, "%s", value);
	free(value);
}

static void user(struct systemd_section *m, const struct unit_line *l, const char *key)
{
	if (m->not_known)
		systemd_drop(m, l, "DynamicUser= makes it when the unit starts");
	else
		text(m, l, key);
}

/* Of unix sockets alone. */
static void of_path(struct systemd_section *m, const struct unit_line *l, const char *key)
{
	if (m->unix_path)
		text(m, l, key);
	else
		covered(m, l, key);
}

static void mode(struct systemd_section *m, const struct unit_line *l, const char *key)
{
	size_t n = strlen(l->value);

	if (n == 0 || n > 4 || strspn(l->value, "01234567") != n || strtol(l->value, NULL, 8) > 07777)
		systemd_bad(m, l, "an octal mode");
	else if (strcmp(key, "socket_mode") == 0 && !m->unix_path)
		covered(m, l, key);
	else
		document_set(m->d, m->s, l->place, key, "%04lo", strtol(l->value, NULL, 8) & 0777);
}

/* key NULL: only whether it is right matters, hark does it anyway. */
static void yes(struct systemd_section *m, const struct unit_line *l, const char *key)
{
	int on = systemd_yes(l->value);

	if (on < 0)
		systemd_bad(m, l, "yes or no");
	else if (on == 1 && key != NULL)
		document_set(m->d, m->s, l->place, key, "yes");
	else
		covered(m, l, key);
}

/* Dropped, but for no, which says nothing. */
static void unless_no(struct systemd_section *m, const struct unit_line *l, const char *why)
{
	if (systemd_yes(l->value) == 0)
		covered(m, l, why);
	else
		systemd_drop(m, l, why);
}

static void no_delay(struct systemd_section *m, const struct unit_line *l, const char *key)
{
	if (systemd_yes(l->value) == 0)
		systemd_drop(m, l, "TCP_NODELAY is always set");
	else
		yes(m, l, key);
}

static void refuse_unless_no(struct systemd_section *m, const struct unit_line *l, const char *why)
{
	if (systemd_yes(l->value) == 0)
		covered(m, l, why);
	else
		systemd_refuse(m, l, why);
}

/* MPTCP falls back to TCP; a port of any other protocol is not TCP's or UDP's. */
static void protocol(struct systemd_section *m, const struct unit_line *l, const char *why)
{
	if (strcmp(l->value, "mptcp") == 0)
		systemd_drop(m, l, why);
	else
		systemd_refuse(m, l, why);
}

static void v6only(struct systemd_section *m, const struct unit_line *l, const char *key)
{
	if (strcmp(l->value, "ipv6-only") == 0)
		document_set(m->d, m->s, l->place, key, "yes");
	else if (strcmp(l->value, "both") == 0 || strcmp(l->value, "default") == 0)
		covered(m, l, key);
	else
		systemd_bad(m, l, "default, both or ipv6-only");
}

static void count(struct systemd_section *m, const struct unit_line *l, const char *key)
{
	int64_t n;

	if (number_parse(l->value, "", &n) < 0)
		systemd_bad(m, l, "a number");
	else if (!m->accept && strncmp(key, "max_", 4) == 0)
		systemd_drop(m, l, "of Accept=yes alone");
	else if (n == 0 && strcmp(key, "max_conns") == 0)
		systemd_refuse(m, l, "nobody could connect");
	else if (n == 0 || n > COUNT_MAX)
		covered(m, l, key); /* as many as the system lets */
	else
		document_set(m->d, m->s, l->place, key, "%lld", (long long)n);
}

static void nice(struct systemd_section *m, const struct unit_line *l, const char *key)
{
	bool minus = l->value[0] == '-';
	int64_t n;

	if (number_parse(l->value + (minus || l->value[0] == '+'), "", &n) < 0 || n > 20)
		systemd_bad(m, l, "a number from -20 to 19");
	else
		document_set(m->d, m->s, l->place, key, "%s%lld", minus ? "-" : "", (long long)n);
}

/* The socket or its service: that they belong together needs no word. */
static bool is_of_pair(const struct systemd_section *m, const char *name)
{
	return strcmp(name, m->socket->name) == 0 || (m->service != NULL && strcmp(name, m->service->name) == 0);
}

/* After=, Requires= …: of other units. */
static void order(struct systemd_section *m, const struct unit_line *l, const char *why)
{
	const char *from = l->value;
	bool others = false;
	char *word;

	while ((word = systemd_cut(m->d, &from, NULL)) != NULL) {
		others = others || !is_of_pair(m, word);
		free(word);
	}
	if (others)
		systemd_drop(m, l, why);
	else
		covered(m, l, why);
}

static void duration(struct systemd_section *m, const struct unit_line *l, const char *key)
{
	int64_t ns;

	if (systemd_time(l->value, HARK_S, &ns) < 0)
		systemd_bad(m, l, "a time");
	else if (ns == INT64_MAX && strcmp(key, "grace") == 0)
		systemd_drop(m, l, "there is no grace without end");
	else if (strcmp(key, "defer_accept") == 0 && ns > 3600 * HARK_S)
		document_set(m->d, m->s, l->place, key, "3600s");
	else if (ns == INT64_MAX)
		covered(m, l, key);
	else
		document_set(m->d, m->s, l->place, key, ns % HARK_S == 0 ? "%llds" : "%lldms", /* never down to 0 */
		             (long long)(ns % HARK_S == 0 ? ns / HARK_S : (ns + HARK_MS - 1) / HARK_MS));
}

/* One limit of Limit*=: sizes, and for CPU and RTTIME times. */
static bool limit_value(const char *key, const char *value, size_t len, char out[32])
{
	char one[64];
	int64_t n;

	if (len >= sizeof one)
		return false;
	memcpy(one, value, len);
	one[len] = '\0';
	if (strcmp(one, "infinity") == 0) {
		(void)strcpy(out, "unlimited");
		return true;
	}
	if (strcmp(key, "rlimit_cpu") == 0) {
		if (systemd_time(one, HARK_S, &n) < 0)
			return false;
		n = (n + HARK_S - 1) / HARK_S;
	} else if (strcmp(key, "rlimit_rttime") == 0) {
		if (systemd_time(one, 1000, &n) < 0)
			return false;
		n /= 1000;
	} else if (strcmp(key, "rlimit_nice") == 0 && (one[0] == '+' || one[0] == '-')) {
		if (number_parse(one + 1, "", &n) < 0 || n > 20)
			return false;
		n = one[0] == '+' ? 20 - n : 20 + n;
	} else if (systemd_size(one, &n) < 0) {
		return false;
	}
	(void)snprintf(out, 32, "%lld", (long long)n);
	return true;
}

static void limit(struct systemd_section *m, const struct unit_line *l, const char *key)
{
	const char *colon = strchr(l->value, ':');
	size_t n = colon != NULL ? (size_t)(colon - l->value) : strlen(l->value);
	char soft[32], hard[32] = "";

	if (!limit_value(key, l->value, n, soft) ||
	    (colon != NULL && !limit_value(key, colon + 1, strlen(colon + 1), hard)))
		systemd_bad(m, l, "a limit");
	else
		document_set(m->d, m->s, l->place, key, "%s%s%s", soft, colon != NULL ? ":" : "", hard);
}

static void directory(struct systemd_section *m, const struct unit_line *l, const char *key)
{
	const char *path = l->value + (l->value[0] == '-');

	if (path[0] != '/')
		systemd_drop(m, l, "an absolute path is wanted");
	else if (path != l->value)
		systemd_drop(m, l, "that it may be missing cannot be said");
	else
		text(m, l, key);
}

void systemd_gather(struct systemd_section *m, const struct unit_line *l, struct config_words *words,
                    struct config_place *place)
{
	char *value = systemd_specified(m, l, m->service);
	const char *from = value;
	char *word;

	while (value != NULL && words->n < WORDS_MAX && (word = systemd_cut(m->d, &from, NULL)) != NULL) {
		wordlist_add(m->d, words, word, strlen(word));
		free(word);
		if (words->n == WORDS_MAX)
			document_error(m->d, l->place, "%s: %d words or more", l->key, WORDS_MAX);
	}
	free(value);
	*place = l->place;
}

static void groups(struct systemd_section *m, const struct unit_line *l, const char *key)
{
	(void)key;
	systemd_gather(m, l, &m->groups, &m->groups_at);
}

static void pass_env(struct systemd_section *m, const struct unit_line *l, const char *key)
{
	(void)key;
	systemd_gather(m, l, &m->pass_env, &m->pass_at);
}

/* What the value of StandardOutput= and StandardError= is to stderr =; NULL: it is none that hark has. */
static const char *output(const char *value)
{
	static const char *const log[] = {"journal", "journal+console", "syslog", "syslog+console",
	                                  "kmsg",    "kmsg+console",    "tty"};

	for (size_t i = 0; i < sizeof log / sizeof log[0]; i++)
		if (strcmp(log[i], value) == 0)
			return "log";
	if (strcmp(value, "socket") == 0)
		return "connection";
	if (strchr(value, '%') != NULL)
		return NULL;
	if (strncmp(value, "append:/", 8) == 0)
		return value + 7;
	if (strncmp(value, "file:/", 6) == 0)
		return value + 5;
	return strcmp(value, "null") == 0 ? value : NULL;
}

const char *systemd_stderr(const struct systemd_section *m)
{
	static const char *const keys[] = {"StandardError", "StandardOutput"};

	/* Each inherits the one before: standard error output's, output input's, which is the socket. */
	for (size_t i = 0; i < 2; i++) {
		const struct unit_line *l = unit_last(m->service, "Service", keys[i]);
		if (l != NULL && strcmp(l->value, "inherit") != 0)
			return output(l->value);
	}
	return "connection";
}

static void stderr_to(struct systemd_section *m, const struct unit_line *l, const char *key)
{
	(void)key;
	if (m->relay || systemd_stderr(m) != NULL)
		covered(m, l, NULL);
	else
		systemd_drop(m, l, "neither the connection, a file, nor a log");
}

static void stdout_to(struct systemd_section *m, const struct unit_line *l, const char *key)
{
	if (m->relay || strcmp(l->value, "socket") == 0 || strcmp(l->value, "inherit") == 0)
		covered(m, l, key);
	else
		systemd_drop(m, l, "standard output is the connection");
}

static void service_type(struct systemd_section *m, const struct unit_line *l, const char *key)
{
	static const char *const fine[] = {"simple", "exec", "idle", "oneshot"};

	if (m->relay) /* systemd-socket-proxyd's is notify */
		return covered(m, l, key);
	for (size_t i = 0; i < sizeof fine / sizeof fine[0]; i++)
		if (strcmp(fine[i], l->value) == 0)
			return covered(m, l, key);
	systemd_drop(m, l, "the program's first process is the one that counts");
}

static void kill_mode(struct systemd_section *m, const struct unit_line *l, const char *key)
{
	if (strcmp(l->value, "control-group") == 0 || strcmp(l->value, "mixed") == 0)
		covered(m, l, key);
	else
		systemd_drop(m, l, "the program's process group is what is ended");
}

static void restart(struct systemd_section *m, const struct unit_line *l, const char *key)
{
	if (strcmp(l->value, "no") == 0)
		covered(m, l, key);
	else
		systemd_drop(m, l, "a program is started by what comes in");
}

/* ---- the table ---- */

#define ORDER    "harkd orders nothing; its own unit does"
#define DURING   "only the program itself is run"
#define SANDBOX  "harkd has no sandbox yet; " GENTLE
#define NOT_SET  "the socket's option stays as the system has it"
#define NO_RULES "hark.conf has no rules of access yet"

static const struct directive table[] = {
	{"Unit", "Description", false, covered, NULL},
	{"Unit", "Documentation", true, covered, NULL},
	{"Unit", "After", true, order, ORDER},
	{"Unit", "Before", true, order, ORDER},
	{"Unit", "BindsTo", true, order, ORDER},
	{"Unit", "Conflicts", true, order, ORDER},
	{"Unit", "DefaultDependencies", false, covered, NULL},
	{"Unit", "PartOf", true, order, ORDER},
	{"Unit", "Requires", true, order, ORDER},
	{"Unit", "RequiresMountsFor", true, systemd_drop, ORDER},
	{"Unit", "Wants", true, order, ORDER},
	{"Unit", "CollectMode", false, covered, NULL},
	{"Unit", "StartLimitBurst", false, systemd_drop, "harkd backs off by itself and never gives up"},
	{"Unit", "StartLimitInterval", false, systemd_drop, "harkd backs off by itself and never gives up"},
	{"Unit", "StartLimitIntervalSec", false, systemd_drop, "harkd backs off by itself and never gives up"},
	{"Install", "WantedBy", true, covered, NULL},
	{"Install", "RequiredBy", true, covered, NULL},
	{"Install", "Also", true, order, ORDER},
	{"Install", "Alias", true, systemd_drop, "a section has one name"},

	{"Socket", "Accept", false, covered, NULL},
	{"Socket", "Service", false, covered, NULL},
	{"Socket", "ListenStream", true, covered, NULL},
	{"Socket", "ListenDatagram", true, covered, NULL},
	{"Socket", "ListenFIFO", true, covered, NULL},
	{"Socket", "ListenMessageQueue", true, covered, NULL},
	{"Socket", "ListenNetlink", true, covered, NULL},
	{"Socket", "ListenSequentialPacket", true, covered, NULL},
	{"Socket", "ListenSpecial", true, covered, NULL},
	{"Socket", "ListenUSBFunction", true, covered, NULL},
	{"Socket", "Backlog", false, count, "backlog"},
	{"Socket", "BindIPv6Only", false, v6only, "v6only"},
	{"Socket", "BPFProgram", true, systemd_refuse, NO_RULES},
	{"Socket", "BindToDevice", false, systemd_refuse, "listen = has addresses, not interfaces"},
	{"Socket", "Broadcast", false, unless_no, NOT_SET},
	{"Socket", "DeferAcceptSec", false, duration, "defer_accept"},
	{"Socket", "DirectoryMode", false, systemd_drop, "directories of sockets are not made"},
	{"Socket", "ExecStartPre", true, systemd_drop, DURING},
	{"Socket", "ExecStartPost", true, systemd_drop, DURING},
	{"Socket", "ExecStopPre", true, systemd_drop, DURING},
	{"Socket", "ExecStopPost", true, systemd_drop, DURING},
	{"Socket", "FileDescriptorName", false, systemd_drop, "of sd_listen_fds(3) alone"},
	{"Socket", "FlushPending", false, unless_no, "what waits in the socket is served"},
	{"Socket", "FreeBind", false, yes, "freebind"},
	{"Socket", "IPAddressAllow", true, systemd_refuse, NO_RULES},
	{"Socket", "IPAddressDeny", true, systemd_refuse, NO_RULES},
	{"Socket", "IPEgressFilterPath", true, systemd_refuse, NO_RULES},
	{"Socket", "IPIngressFilterPath", true, systemd_refuse, NO_RULES},
	{"Socket", "IPTOS", false, systemd_drop, NOT_SET},
	{"Socket", "IPTTL", false, systemd_drop, NOT_SET},
	{"Socket", "KeepAlive", false, yes, NULL}, /* each TCP connection has SO_KEEPALIVE */
	{"Socket", "KeepAliveIntervalSec", false, systemd_drop, NOT_SET},
	{"Socket", "KeepAliveProbes", false, systemd_drop, NOT_SET},
	{"Socket", "KeepAliveTimeSec", false, duration, "keepalive"},
	{"Socket", "Mark", false, systemd_drop, NOT_SET},
	{"Socket", "MaxConnections", false, count, "max_conns"},
	{"Socket", "MaxConnectionsPerSource", false, count, "max_per_source"},
	{"Socket", "NetworkNamespacePath", false, systemd_refuse, "harkd listens in its own"},
	{"Socket", "NoDelay", false, no_delay, NULL},
	{"Socket", "PassCredentials", false, unless_no, NOT_SET},
	{"Socket", "PassPacketInfo", false, unless_no, NOT_SET},
	{"Socket", "PassSecurity", false, unless_no, NOT_SET},
	{"Socket", "PipeSize", false, systemd_drop, "of FIFOs alone"},
	{"Socket", "PollLimitBurst", false, systemd_drop,
         "a service is never disabled; rate = limits how fast connections are taken"},
	{"Socket", "PollLimitIntervalSec", false, systemd_drop,
         "a service is never disabled; rate = limits how fast connections are taken"},
	{"Socket", "PrivateNetwork", false, refuse_unless_no, "harkd listens in its own namespace"},
	{"Socket", "Priority", false, systemd_drop, NOT_SET},
	{"Socket", "ReceiveBuffer", false, systemd_drop, NOT_SET},
	{"Socket", "RemoveOnStop", false, yes, NULL},
	{"Socket", "RestrictNetworkInterfaces", true, systemd_refuse, NO_RULES},
	{"Socket", "ReusePort", false, yes, "reuseport"},
	{"Socket", "SendBuffer", false, systemd_drop, NOT_SET},
	{"Socket", "SocketGroup", false, of_path, "socket_group"},
	{"Socket", "SocketMode", false, mode, "socket_mode"},
	{"Socket", "SocketProtocol", false, protocol, "ports are TCP's and UDP's"},
	{"Socket", "SocketUser", false, of_path, "socket_user"},
	{"Socket", "Symlinks", true, systemd_drop, "one path a socket; listen = takes several"},
	{"Socket", "TCPCongestion", false, systemd_drop, NOT_SET},
	{"Socket", "TimeoutSec", false, systemd_drop, DURING},
	{"Socket", "Transparent", false, unless_no, NOT_SET},
	{"Socket", "TriggerLimitBurst", false, systemd_drop,
         "a service is never disabled; rate = limits how fast connections are taken"},
	{"Socket", "TriggerLimitIntervalSec", false, systemd_drop,
         "a service is never disabled; rate = limits how fast connections are taken"},
	{"Socket", "Writable", false, systemd_drop, "of special files alone"},

	{"Service", "ExecStart", true, covered, NULL},
	{"Service", "Environment", true, covered, NULL},
	{"Service", "StandardInput", false, covered, NULL},
	{"Service", "StandardOutput", false, stdout_to, NULL},
	{"Service", "StandardError", false, stderr_to, NULL},
	{"Service", "User", false, user, "user"},
	{"Service", "Group", false, user, "group"},
	{"Service", "SupplementaryGroups", true, groups, NULL},
	{"Service", "DynamicUser", false, refuse_unless_no, "set user = to one that exists"},
	{"Service", "WorkingDirectory", false, directory, "directory"},
	{"Service", "RootDirectory", false, directory, "chroot"},
	{"Service", "UMask", false, mode, "umask"},
	{"Service", "Nice", false, nice, "nice"},
	{"Service", "PassEnvironment", true, pass_env, NULL},
	{"Service", "EnvironmentFile", true, systemd_drop, "no file of variables is read; env = takes them"},
	{"Service", "LimitAS", false, limit, "rlimit_as"},
	{"Service", "LimitCORE", false, limit, "rlimit_core"},
	{"Service", "LimitCPU", false, limit, "rlimit_cpu"},
	{"Service", "LimitDATA", false, limit, "rlimit_data"},
	{"Service", "LimitFSIZE", false, limit, "rlimit_fsize"},
	{"Service", "LimitLOCKS", false, limit, "rlimit_locks"},
	{"Service", "LimitMEMLOCK", false, limit, "rlimit_memlock"},
	{"Service", "LimitMSGQUEUE", false, limit, "rlimit_msgqueue"},
	{"Service", "LimitNICE", false, limit, "rlimit_nice"},
	{"Service", "LimitNOFILE", false, limit, "rlimit_nofile"},
	{"Service", "LimitNPROC", false, limit, "rlimit_nproc"},
	{"Service", "LimitRSS", false, limit, "rlimit_rss"},
	{"Service", "LimitRTPRIO", false, limit, "rlimit_rtprio"},
	{"Service", "LimitRTTIME", false, limit, "rlimit_rttime"},
	{"Service", "LimitSIGPENDING", false, limit, "rlimit_sigpending"},
	{"Service", "LimitSTACK", false, limit, "rlimit_stack"},
	{"Service", "RuntimeMaxSec", false, duration, "lifetime"},
	{"Service", "TimeoutStopSec", false, duration, "grace"},
	{"Service", "TimeoutSec", false, duration, "grace"},
	{"Service", "Type", false, service_type, NULL},
	{"Service", "KillMode", false, kill_mode, NULL},
	{"Service", "Restart", false, restart, NULL},
	{"Service", "RestartSec", false, systemd_drop, "harkd backs off by itself"},
	{"Service", "RemainAfterExit", false, unless_no, "a program that ended is gone"},
	{"Service", "Sockets", true, covered, NULL},
	{"Service", "ExecStartPre", true, systemd_drop, DURING},
	{"Service", "ExecStartPost", true, systemd_drop, DURING},
	{"Service", "ExecStop", true, systemd_drop, DURING},
	{"Service", "ExecStopPost", true, systemd_drop, DURING},
	{"Service", "ExecReload", true, systemd_drop, DURING},
	{"Service", "ExecCondition", true, systemd_refuse, "only the program itself is run"},
	{"Service", "IPAddressAllow", true, systemd_refuse, NO_RULES},
	{"Service", "IPAddressDeny", true, systemd_refuse, NO_RULES},
	{"Service", "BPFProgram", true, systemd_refuse, NO_RULES},
	{"Service", "IPEgressFilterPath", true, systemd_refuse, NO_RULES},
	{"Service", "IPIngressFilterPath", true, systemd_refuse, NO_RULES},
	{"Service", "RestrictNetworkInterfaces", true, systemd_refuse, NO_RULES},
	{"Service", "NonBlocking", false, unless_no, "sockets are passed as they are"},
	{"Service", "IgnoreSIGPIPE", false, unless_no, "a program has SIGPIPE's default"},
};

/* Directives that are all dropped for one reason, by how they begin. */
static const struct {
	const char *section, *begins, *why;
} groups_of[] = {
	{"Service", "Protect", SANDBOX},         {"Service", "Private", SANDBOX},
	{"Service", "Restrict", SANDBOX},        {"Service", "SystemCall", SANDBOX},
	{"Service", "Capability", SANDBOX},      {"Service", "AmbientCapabilities", SANDBOX},
	{"Service", "NoNewPrivileges", SANDBOX}, {"Service", "MemoryDenyWriteExecute", SANDBOX},
	{"Service", "LockPersonality", SANDBOX}, {"Service", "ReadOnly", SANDBOX},
	{"Service", "ReadWrite", SANDBOX},       {"Service", "Inaccessible", SANDBOX},
	{"Service", "Device", SANDBOX},
};

/* systemd starts neither socket nor service where one of these does not hold; some say so by "no". */
static const char *const conditions[] = {"Condition", "Assert", NULL};

/* An empty one takes back all conditions, or all assertions, before it. */
static bool is_asked(const struct unit *u, size_t line, const char *begins)
{
	for (size_t i = line; i < u->n; i++)
		if (u->lines[i].value[0] == '\0' && strcmp(u->lines[i].section, "Unit") == 0 &&
		    strncmp(u->lines[i].key, begins, strlen(begins)) == 0)
			return false;
	return true;
}

/* False: it is none. */
static bool condition(struct systemd_section *m, const struct unit *u, size_t line)
{
	const struct unit_line *l = &u->lines[line];

	for (const char *const *c = conditions; *c != NULL && strcmp(l->section, "Unit") == 0; c++) {
		if (strncmp(l->key, *c, strlen(*c)) != 0)
			continue;
		if (is_asked(u, line, *c))
			systemd_refuse(m, l, "harkd asks for no conditions; see whether it holds");
		return true;
	}
	return false;
}

static const struct directive *find(const struct unit_line *l)
{
	for (size_t i = 0; i < sizeof table / sizeof table[0]; i++)
		if (strcmp(table[i].name, l->key) == 0 && strcmp(table[i].section, l->section) == 0)
			return &table[i];
	return NULL;
}

/* Nothing in the table: of a group, or one that we do not know. What says no confines nothing. */
static void other(struct systemd_section *m, const struct unit_line *l)
{
	bool no = systemd_yes(l->value) == 0 && strcmp(l->value, "0") != 0;

	for (size_t i = 0; i < sizeof groups_of / sizeof groups_of[0]; i++)
		if (strcmp(groups_of[i].section, l->section) == 0 &&
		    strncmp(l->key, groups_of[i].begins, strlen(groups_of[i].begins)) == 0)
			return no ? covered(m, l, NULL) : systemd_drop(m, l, groups_of[i].why);
	systemd_drop(m, l, "hark.conf has nothing like it");
}

void systemd_lines(struct systemd_section *m, const struct unit *u)
{
	for (size_t i = 0; i < u->n && !m->d->broken; i++) {
		const struct unit_line *l = &u->lines[i];
		const struct directive *d = find(l);
		if (condition(m, u, i))
			continue;
		if (!unit_holds(u, i, d == NULL || d->list))
			continue;
		/* Who wants the service does not matter: it is the socket that is served. */
		if (u == m->service && strcmp(l->section, "Install") == 0)
			covered(m, l, NULL);
		else if (d == NULL)
			other(m, l);
		else
			d->make(m, l, d->key);
	}
}
