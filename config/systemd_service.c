/* systemd_service.c — a socket unit and its service become a section of hark.conf: settings, and a remark for each directive that has none.
 *
 * What hark serves in the same way is a program that has the connection (Accept=yes) or the socket (Accept=no) as its standard input,
 * StandardInput=socket. A program that takes its sockets by sd_listen_fds(3) would find none, so its section gets disable = yes.
 * So does one that dropping a directive would open (IPAddressDeny=), give rights (DynamicUser=), or call wrongly (%i in ExecStart=).
 *
 * First the address and the program; then each line that holds goes through the table of directives. Functions of their arguments. */
#include "systemd.h"

#include "number.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define COUNT_MAX 1000000000 /* what hark.conf takes at most */
#define WORDS_MAX 1024 /* of one list, but for the program's arguments */
#define BYTES_MAX 65536 /* of the program's arguments, with what ${NAME} becomes: a value may be put in many times */
#define GENTLE    "what it would keep the program from is not kept from it"

struct making {
	struct draft *d;
	struct draft_section *s;
	const struct unit *socket, *service; /* service NULL: it was not found */
	struct config_place place;
	bool accept;    /* a program a connection */
	bool on_stdin;  /* the program has it as its standard input */
	bool unix_path; /* one of the addresses is a path */
	bool not_known; /* its user is systemd's own (DynamicUser=) */
	struct config_words listen, argv, groups, env, pass_env;
	struct config_place env_at, pass_at, groups_at;
	const struct unit_line *shown; /* ExecStart= */
	size_t bytes;   /* of argv so far */
	char why[96];   /* why it is disabled; "": it is not */
};

/* How a directive is made. l holds; value is l->value. */
typedef void maker(struct making *m, const struct unit_line *l, const char *key);

struct directive {
	const char *section, *name;
	bool list;
	maker *make;
	const char *key; /* hark.conf's; or of drop() why it is dropped */
};

static void disable(struct making *m, const char *why)
{
	if (m->why[0] == '\0')
		(void)snprintf(m->why, sizeof m->why, "%s", why);
}

/* ---- makers ---- */

/* Hark does it anyway, or it was looked at already. */
static void covered(struct making *m, const struct unit_line *l, const char *key)
{
	(void)l, (void)key;
	m->d->fates[DRAFT_CARRIED]++;
}

static void drop(struct making *m, const struct unit_line *l, const char *why)
{
	draft_drop(m->d, m->s, l->place, "%s=%s: %s", l->key, l->value, why);
}

/* Dropping it would let in, or give, what was not meant to be. */
static void refuse(struct making *m, const struct unit_line *l, const char *why)
{
	char reason[96];

	drop(m, l, why);
	(void)snprintf(reason, sizeof reason, "%.40s= is not carried over", l->key);
	disable(m, reason);
}

static void bad(struct making *m, const struct unit_line *l, const char *wanted)
{
	draft_error(m->d, l->place, "%s=%.64s: not %s", l->key, l->value, wanted);
}

/* The value with its specifiers put in, the caller's to free; NULL: one is not known, as was said. */
static char *specified(struct making *m, const struct unit_line *l, const struct unit *u)
{
	char which, why[64];
	char *text = systemd_specify(m->d, u, l->value, &which);

	if (text == NULL && which != '\0') {
		(void)snprintf(why, sizeof why, "%%%c is known to systemd alone", which);
		refuse(m, l, why);
	}
	return text;
}

static void text(struct making *m, const struct unit_line *l, const char *key)
{
	bool of_socket = strcmp(l->section, "Socket") == 0;
	char *value = specified(m, l, of_socket ? m->socket : m->service);

	if (value != NULL)
		draft_set(m->d, m->s, l->place, key, "%s", value);
	free(value);
}

static void user(struct making *m, const struct unit_line *l, const char *key)
{
	if (m->not_known)
		drop(m, l, "DynamicUser= makes it when the unit starts");
	else
		text(m, l, key);
}

/* Of unix sockets alone. */
static void of_path(struct making *m, const struct unit_line *l, const char *key)
{
	if (m->unix_path)
		text(m, l, key);
	else
		covered(m, l, key);
}

static void mode(struct making *m, const struct unit_line *l, const char *key)
{
	size_t n = strlen(l->value);

	if (n == 0 || n > 4 || strspn(l->value, "01234567") != n || strtol(l->value, NULL, 8) > 07777)
		bad(m, l, "an octal mode");
	else if (strcmp(key, "socket_mode") == 0 && !m->unix_path)
		covered(m, l, key);
	else
		draft_set(m->d, m->s, l->place, key, "%04lo", strtol(l->value, NULL, 8) & 0777);
}

/* key NULL: only whether it is right matters, hark does it anyway. */
static void yes(struct making *m, const struct unit_line *l, const char *key)
{
	int on = systemd_yes(l->value);

	if (on < 0)
		bad(m, l, "yes or no");
	else if (on == 1 && key != NULL)
		draft_set(m->d, m->s, l->place, key, "yes");
	else
		covered(m, l, key);
}

/* Dropped, but for no, which says nothing. */
static void unless_no(struct making *m, const struct unit_line *l, const char *why)
{
	if (systemd_yes(l->value) == 0)
		covered(m, l, why);
	else
		drop(m, l, why);
}

static void no_delay(struct making *m, const struct unit_line *l, const char *key)
{
	if (systemd_yes(l->value) == 0)
		drop(m, l, "TCP_NODELAY is always set");
	else
		yes(m, l, key);
}

static void dynamic_user(struct making *m, const struct unit_line *l, const char *key)
{
	if (systemd_yes(l->value) == 0)
		covered(m, l, key);
	else
		refuse(m, l, "set user = to one that exists");
}

static void v6only(struct making *m, const struct unit_line *l, const char *key)
{
	if (strcmp(l->value, "ipv6-only") == 0)
		draft_set(m->d, m->s, l->place, key, "yes");
	else if (strcmp(l->value, "both") == 0 || strcmp(l->value, "default") == 0)
		covered(m, l, key);
	else
		bad(m, l, "default, both or ipv6-only");
}

static void count(struct making *m, const struct unit_line *l, const char *key)
{
	int64_t n;

	if (number_parse(l->value, "", &n) < 0)
		bad(m, l, "a number");
	else if (!m->accept && strncmp(key, "max_", 4) == 0)
		drop(m, l, "of Accept=yes alone");
	else if (n > COUNT_MAX || (n == 0 && strcmp(key, "backlog") == 0))
		covered(m, l, key); /* as many as the system lets */
	else if (n == 0 && strncmp(key, "max_", 4) == 0)
		refuse(m, l, "nobody could connect");
	else
		draft_set(m->d, m->s, l->place, key, "%lld", (long long)n);
}

static void nice(struct making *m, const struct unit_line *l, const char *key)
{
	bool minus = l->value[0] == '-';
	int64_t n;

	if (number_parse(l->value + (minus || l->value[0] == '+'), "", &n) < 0 || n > 20)
		bad(m, l, "a number from -20 to 19");
	else
		draft_set(m->d, m->s, l->place, key, "%s%lld", minus ? "-" : "", (long long)n);
}

static void duration(struct making *m, const struct unit_line *l, const char *key)
{
	int64_t ns;

	if (systemd_time(l->value, HARK_S, &ns) < 0)
		bad(m, l, "a time");
	else if (ns == INT64_MAX && strcmp(key, "grace") == 0)
		drop(m, l, "there is no grace without end");
	else if (strcmp(key, "defer_accept") == 0 && ns > 3600 * HARK_S)
		draft_set(m->d, m->s, l->place, key, "3600s");
	else if (ns == INT64_MAX)
		covered(m, l, key);
	else
		draft_set(m->d, m->s, l->place, key, ns % HARK_S == 0 ? "%llds" : "%lldms",
		          (long long)(ns % HARK_S == 0 ? ns / HARK_S : ns / HARK_MS));
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

static void limit(struct making *m, const struct unit_line *l, const char *key)
{
	const char *colon = strchr(l->value, ':');
	size_t n = colon != NULL ? (size_t)(colon - l->value) : strlen(l->value);
	char soft[32], hard[32] = "";

	if (!limit_value(key, l->value, n, soft) || (colon != NULL && !limit_value(key, colon + 1, strlen(colon + 1), hard)))
		bad(m, l, "a limit");
	else
		draft_set(m->d, m->s, l->place, key, "%s%s%s", soft, colon != NULL ? ":" : "", hard);
}

static void directory(struct making *m, const struct unit_line *l, const char *key)
{
	const char *path = l->value + (l->value[0] == '-');

	if (path[0] != '/')
		drop(m, l, "an absolute path is wanted");
	else if (path != l->value)
		drop(m, l, "that it may be missing cannot be said");
	else
		text(m, l, key);
}

static void gather(struct making *m, const struct unit_line *l, struct config_words *words, struct config_place *place)
{
	char *value = specified(m, l, m->service);
	const char *from = value;
	char *word;

	while (value != NULL && words->n < WORDS_MAX && (word = systemd_cut(m->d, &from, NULL)) != NULL) {
		wordlist_add(m->d, words, word, strlen(word));
		free(word);
		if (words->n == WORDS_MAX)
			draft_error(m->d, l->place, "%s: %d words or more", l->key, WORDS_MAX);
	}
	free(value);
	*place = l->place;
}

static void groups(struct making *m, const struct unit_line *l, const char *key)
{
	(void)key;
	gather(m, l, &m->groups, &m->groups_at);
}

static void pass_env(struct making *m, const struct unit_line *l, const char *key)
{
	(void)key;
	gather(m, l, &m->pass_env, &m->pass_at);
}

static void stderr_to(struct making *m, const struct unit_line *l, const char *key)
{
	static const char *const log[] = {"journal", "journal+console", "syslog", "syslog+console", "kmsg", "kmsg+console", "tty"};
	const char *value = l->value;

	for (size_t i = 0; i < sizeof log / sizeof log[0]; i++)
		if (strcmp(log[i], value) == 0)
			value = "log";
	if (strcmp(value, "inherit") == 0 || strcmp(value, "socket") == 0)
		value = m->accept ? "connection" : "log";
	else if (strchr(value, '%') != NULL)
		return drop(m, l, "neither the connection, a file, nor a log");
	else if (strncmp(value, "append:/", 8) == 0)
		value += 7;
	else if (strncmp(value, "file:/", 6) == 0)
		value += 5;
	else if (strcmp(value, "null") != 0 && strcmp(value, "log") != 0)
		return drop(m, l, "neither the connection, a file, nor a log");
	draft_set(m->d, m->s, l->place, key, "%s", value);
}

static void stdout_to(struct making *m, const struct unit_line *l, const char *key)
{
	if (strcmp(l->value, "socket") == 0 || strcmp(l->value, "inherit") == 0)
		covered(m, l, key);
	else
		drop(m, l, "standard output is the connection");
}

static void service_type(struct making *m, const struct unit_line *l, const char *key)
{
	static const char *const fine[] = {"simple", "exec", "idle", "oneshot"};

	for (size_t i = 0; i < sizeof fine / sizeof fine[0]; i++)
		if (strcmp(fine[i], l->value) == 0)
			return covered(m, l, key);
	drop(m, l, "the program's first process is the one that counts");
}

static void kill_mode(struct making *m, const struct unit_line *l, const char *key)
{
	if (strcmp(l->value, "control-group") == 0 || strcmp(l->value, "mixed") == 0)
		covered(m, l, key);
	else
		drop(m, l, "the program's process group is what is ended");
}

static void restart(struct making *m, const struct unit_line *l, const char *key)
{
	if (strcmp(l->value, "no") == 0)
		covered(m, l, key);
	else
		drop(m, l, "a program is started by what comes in");
}

/* ---- the table ---- */

#define ORDER    "harkd orders nothing; its own unit does"
#define DURING   "only the program itself is run"
#define SANDBOX  "harkd has no sandbox yet; " GENTLE
#define NOT_SET  "the socket's option stays as the system has it"

static const struct directive table[] = {
	{"Unit", "Description", false, covered, NULL},
	{"Unit", "Documentation", true, covered, NULL},
	{"Unit", "After", true, drop, ORDER},
	{"Unit", "Before", true, drop, ORDER},
	{"Unit", "BindsTo", true, drop, ORDER},
	{"Unit", "Conflicts", true, drop, ORDER},
	{"Unit", "DefaultDependencies", false, drop, ORDER},
	{"Unit", "PartOf", true, drop, ORDER},
	{"Unit", "Requires", true, drop, ORDER},
	{"Unit", "RequiresMountsFor", true, drop, ORDER},
	{"Unit", "Wants", true, drop, ORDER},
	{"Unit", "CollectMode", false, covered, NULL},
	{"Unit", "StartLimitBurst", false, drop, "harkd backs off by itself and never gives up"},
	{"Unit", "StartLimitInterval", false, drop, "harkd backs off by itself and never gives up"},
	{"Unit", "StartLimitIntervalSec", false, drop, "harkd backs off by itself and never gives up"},
	{"Install", "WantedBy", true, covered, NULL},
	{"Install", "RequiredBy", true, covered, NULL},
	{"Install", "Also", true, drop, ORDER},
	{"Install", "Alias", true, drop, "a section has one name"},

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
	{"Socket", "BindToDevice", false, refuse, "listen = has addresses, not interfaces"},
	{"Socket", "Broadcast", false, unless_no, NOT_SET},
	{"Socket", "DeferAcceptSec", false, duration, "defer_accept"},
	{"Socket", "DirectoryMode", false, drop, "directories of sockets are not made"},
	{"Socket", "ExecStartPre", true, drop, DURING},
	{"Socket", "ExecStartPost", true, drop, DURING},
	{"Socket", "ExecStopPre", true, drop, DURING},
	{"Socket", "ExecStopPost", true, drop, DURING},
	{"Socket", "FileDescriptorName", false, drop, "of sd_listen_fds(3) alone"},
	{"Socket", "FlushPending", false, unless_no, "what waits in the socket is served"},
	{"Socket", "FreeBind", false, unless_no, "an address that nobody has yet cannot be listened on"},
	{"Socket", "IPAddressAllow", true, refuse, "hark.conf has no rules of access yet"},
	{"Socket", "IPAddressDeny", true, refuse, "hark.conf has no rules of access yet"},
	{"Socket", "IPTOS", false, drop, NOT_SET},
	{"Socket", "IPTTL", false, drop, NOT_SET},
	{"Socket", "KeepAlive", false, unless_no, "no SO_KEEPALIVE; idle_timeout = ends connections whose peer is gone"},
	{"Socket", "KeepAliveIntervalSec", false, drop, NOT_SET},
	{"Socket", "KeepAliveProbes", false, drop, NOT_SET},
	{"Socket", "KeepAliveTimeSec", false, drop, NOT_SET},
	{"Socket", "Mark", false, drop, NOT_SET},
	{"Socket", "MaxConnections", false, count, "max_conns"},
	{"Socket", "MaxConnectionsPerSource", false, count, "max_per_source"},
	{"Socket", "NoDelay", false, no_delay, NULL},
	{"Socket", "PassCredentials", false, unless_no, NOT_SET},
	{"Socket", "PassPacketInfo", false, unless_no, NOT_SET},
	{"Socket", "PassSecurity", false, unless_no, NOT_SET},
	{"Socket", "PipeSize", false, drop, "of FIFOs alone"},
	{"Socket", "PollLimitBurst", false, drop, "a service is never disabled; rate = limits how fast connections are taken"},
	{"Socket", "PollLimitIntervalSec", false, drop, "a service is never disabled; rate = limits how fast connections are taken"},
	{"Socket", "Priority", false, drop, NOT_SET},
	{"Socket", "ReceiveBuffer", false, drop, NOT_SET},
	{"Socket", "RemoveOnStop", false, yes, NULL},
	{"Socket", "ReusePort", false, yes, "reuseport"},
	{"Socket", "SendBuffer", false, drop, NOT_SET},
	{"Socket", "SocketGroup", false, of_path, "socket_group"},
	{"Socket", "SocketMode", false, mode, "socket_mode"},
	{"Socket", "SocketUser", false, of_path, "socket_user"},
	{"Socket", "Symlinks", true, drop, "one path a socket; listen = takes several"},
	{"Socket", "TCPCongestion", false, drop, NOT_SET},
	{"Socket", "TimeoutSec", false, drop, DURING},
	{"Socket", "Transparent", false, unless_no, NOT_SET},
	{"Socket", "TriggerLimitBurst", false, drop, "a service is never disabled; rate = limits how fast connections are taken"},
	{"Socket", "TriggerLimitIntervalSec", false, drop, "a service is never disabled; rate = limits how fast connections are taken"},
	{"Socket", "Writable", false, drop, "of special files alone"},

	{"Service", "ExecStart", true, covered, NULL},
	{"Service", "Environment", true, covered, NULL},
	{"Service", "StandardInput", false, covered, NULL},
	{"Service", "StandardOutput", false, stdout_to, NULL},
	{"Service", "StandardError", false, stderr_to, "stderr"},
	{"Service", "User", false, user, "user"},
	{"Service", "Group", false, user, "group"},
	{"Service", "SupplementaryGroups", true, groups, NULL},
	{"Service", "DynamicUser", false, dynamic_user, NULL},
	{"Service", "WorkingDirectory", false, directory, "directory"},
	{"Service", "RootDirectory", false, directory, "chroot"},
	{"Service", "UMask", false, mode, "umask"},
	{"Service", "Nice", false, nice, "nice"},
	{"Service", "PassEnvironment", true, pass_env, NULL},
	{"Service", "EnvironmentFile", true, drop, "no file of variables is read; env = takes them"},
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
	{"Service", "RestartSec", false, drop, "harkd backs off by itself"},
	{"Service", "RemainAfterExit", false, unless_no, "a program that ended is gone"},
	{"Service", "Sockets", true, covered, NULL},
	{"Service", "ExecStartPre", true, drop, DURING},
	{"Service", "ExecStartPost", true, drop, DURING},
	{"Service", "ExecStop", true, drop, DURING},
	{"Service", "ExecStopPost", true, drop, DURING},
	{"Service", "ExecReload", true, drop, DURING},
	{"Service", "ExecCondition", true, refuse, "only the program itself is run"},
	{"Service", "IPAddressAllow", true, refuse, "hark.conf has no rules of access yet"},
	{"Service", "IPAddressDeny", true, refuse, "hark.conf has no rules of access yet"},
	{"Service", "NonBlocking", false, unless_no, "sockets are passed as they are"},
	{"Service", "IgnoreSIGPIPE", false, unless_no, "a program has SIGPIPE's default"},
};

/* Directives that are all dropped for one reason, by how they begin. */
static const struct {
	const char *section, *begins, *why;
} groups_of[] = {
	{"Unit", "Condition", "harkd asks for no conditions"},
	{"Unit", "Assert", "harkd asks for no conditions"},
	{"Service", "Protect", SANDBOX},
	{"Service", "Private", SANDBOX},
	{"Service", "Restrict", SANDBOX},
	{"Service", "SystemCall", SANDBOX},
	{"Service", "Capability", SANDBOX},
	{"Service", "AmbientCapabilities", SANDBOX},
	{"Service", "NoNewPrivileges", SANDBOX},
	{"Service", "MemoryDenyWriteExecute", SANDBOX},
	{"Service", "LockPersonality", SANDBOX},
	{"Service", "ReadOnly", SANDBOX},
	{"Service", "ReadWrite", SANDBOX},
	{"Service", "Inaccessible", SANDBOX},
	{"Service", "Device", SANDBOX},
};

static const struct directive *find(const struct unit_line *l)
{
	for (size_t i = 0; i < sizeof table / sizeof table[0]; i++)
		if (strcmp(table[i].name, l->key) == 0 && strcmp(table[i].section, l->section) == 0)
			return &table[i];
	return NULL;
}

/* Nothing in the table: of a group, or one that we do not know. */
static void other(struct making *m, const struct unit_line *l)
{
	for (size_t i = 0; i < sizeof groups_of / sizeof groups_of[0]; i++)
		if (strcmp(groups_of[i].section, l->section) == 0 && strncmp(l->key, groups_of[i].begins, strlen(groups_of[i].begins)) == 0)
			return drop(m, l, groups_of[i].why);
	drop(m, l, "hark.conf has nothing like it");
}

/* Each line of u that holds, through the table. */
static void make_lines(struct making *m, const struct unit *u)
{
	for (size_t i = 0; i < u->n && !m->d->broken; i++) {
		const struct unit_line *l = &u->lines[i];
		const struct directive *d = find(l);
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

/* ---- what is listened on ---- */

/* One address of ListenStream= or ListenDatagram=, as listen = has it. False: hark has no such. */
static bool address(const struct making *m, const char *value, bool stream, char *buf, size_t cap)
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
static void make_address(struct making *m, const struct unit_line *l)
{
	static const char *const others[] = {"ListenFIFO", "ListenMessageQueue", "ListenNetlink", "ListenSequentialPacket",
	                                     "ListenSpecial", "ListenUSBFunction"};
	bool stream = strcmp(l->key, "ListenStream") == 0;
	char buf[HARK_ADDRESS_MAX + 2];

	for (size_t i = 0; i < sizeof others / sizeof others[0]; i++)
		if (strcmp(others[i], l->key) == 0)
			drop(m, l, "streams and datagrams alone are listened on");
	if (!stream && strcmp(l->key, "ListenDatagram") != 0)
		return;
	char *value = specified(m, l, m->socket);
	if (value == NULL)
		return;
	if (!stream && m->accept)
		draft_error(m->d, l->place, "%s=%.80s: Accept=yes is of streams alone", l->key, l->value);
	else if (!address(m, value, stream, buf, sizeof buf))
		drop(m, l, "no address that hark knows");
	else
		wordlist_add(m->d, &m->listen, buf, strlen(buf));
	m->unix_path = m->unix_path || (value[0] == '/' && m->listen.n > 0);
	free(value);
}

static void make_listen(struct making *m)
{
	for (size_t i = 0; i < m->socket->n; i++)
		if (strcmp(m->socket->lines[i].section, "Socket") == 0 && unit_holds(m->socket, i, true))
			make_address(m, &m->socket->lines[i]);
	char *listen = wordlist_join(m->d, &m->listen, 0);
	if (listen != NULL && m->listen.n > 0)
		draft_set(m->d, m->s, m->place, "listen", "%s", listen);
	free(listen);
	if (m->unix_path && unit_last(m->socket, "Socket", "SocketMode") == NULL)
		draft_set(m->d, m->s, m->place, "socket_mode", "0666"); /* systemd's own */
}

/* ---- the program ---- */

/* The value of a variable that Environment= sets, or NULL. */
static const char *variable(const struct making *m, const char *name, size_t n)
{
	const char *value = NULL;

	for (size_t i = 0; i < m->env.n; i++)
		if (strncmp(m->env.word[i], name, n) == 0 && m->env.word[i][n] == '=')
			value = m->env.word[i] + n + 1;
	return value;
}

static void unset(struct making *m, const char *name, size_t n)
{
	draft_drop(m->d, m->s, m->shown->place, "ExecStart= $%.*s: not set by Environment=, and taken for empty", (int)(n < 64 ? n : 64), name);
}

/* Whether argv may have so many bytes more. That it may not is said once. */
static bool room(struct making *m, size_t n)
{
	bool was = m->bytes <= BYTES_MAX;

	m->bytes += n;
	if (was && m->bytes > BYTES_MAX)
		draft_error(m->d, m->shown->place, "ExecStart: longer than %d bytes", BYTES_MAX);
	return m->bytes <= BYTES_MAX;
}

/* The word with its ${NAME}s and $$s put in; the caller's to free. */
static char *expand(struct making *m, const char *word)
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
			if (value == NULL)
				unset(m, p + 2, (size_t)(end - p - 2));
			if (value != NULL && room(m, strlen(value)))
				fputs(value, to);
			p = end;
		} else {
			fputc(*p, to);
		}
	}
	if (fclose(to) != 0)
		m->d->broken = true;
	return out;
}

/* An argument: "$NAME" alone is as many words as are in it. */
static void add_argument(struct making *m, const char *word, bool variables)
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
		for (value = value != NULL ? value : ""; *(value += strspn(value, " \t\n")) != '\0';) {
			size_t len = strcspn(value, " \t\n");
			if (room(m, len + 1))
				wordlist_add(m->d, &m->argv, value, len);
			value += len;
		}
	} else {
		char *whole = expand(m, word);
		if (whole != NULL)
			wordlist_add(m->d, &m->argv, whole, strlen(whole));
		free(whole);
	}
}

/* Takes "-", "@", ":", "+", "!" off the program's name. */
static char *prefixes(struct making *m, char *program, bool *named, bool *variables)
{
	for (; *program != '\0' && strchr("-@:+!|", *program) != NULL; program++) {
		if (*program == '@')
			*named = true;
		else if (*program == ':')
			*variables = false;
		else if (*program != '-' && m->why[0] == '\0')
			refuse(m, m->shown, "its prefix asks for other rights than the section has");
	}
	return program;
}

/* ExecStart= taken apart into argv; with @, its second word is *name, the program's argv[0]. */
static void cut_command(struct making *m, const char *command, char **name)
{
	bool named = false, variables = true, plain, first = true;
	char *word;

	while ((word = systemd_cut(m->d, &command, &plain)) != NULL) {
		bool end = plain && strcmp(word, ";") == 0;
		if (end) {
			drop(m, m->shown, "the first of its commands alone is run");
		} else if (first) {
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
		if (end)
			return;
	}
}

/* exec = or box = exec --argv0. False: there is no program. */
static bool make_exec(struct making *m)
{
	char *name = NULL, *command = NULL, *line = NULL;

	for (size_t i = 0; i < m->service->n; i++) {
		const struct unit_line *l = &m->service->lines[i];
		if (strcmp(l->key, "ExecStart") != 0 || strcmp(l->section, "Service") != 0 || !unit_holds(m->service, i, true))
			continue;
		if (m->shown == NULL)
			m->shown = l;
		else
			drop(m, l, "the first of the programs alone is run");
	}
	if (m->shown != NULL)
		command = specified(m, m->shown, m->service);
	if (m->shown != NULL && command == NULL && !m->d->broken)
		command = strdup(m->shown->value); /* with what is not known left in it: shown, and disabled */
	if (command != NULL)
		cut_command(m, command, &name);
	if (m->argv.n > 0 && m->argv.word[0][0] != '\0')
		line = wordlist_join(m->d, &m->argv, 0);
	char *quoted = name != NULL ? malloc(2 * strlen(name) + 3) : NULL;
	if (line != NULL && quoted != NULL)
		draft_set(m->d, m->s, m->shown->place, "box", "exec --argv0 %s %s", draft_quote(name, quoted, 2 * strlen(name) + 3), line);
	else if (line != NULL)
		draft_set(m->d, m->s, m->shown->place, "exec", "%s", line);
	free(quoted);
	free(command);
	free(name);
	free(line);
	return draft_get(m->s, "exec") != NULL || draft_get(m->s, "box") != NULL;
}

/* Before the rest, because ExecStart= may have its variables. */
static void read_environment(struct making *m)
{
	for (size_t i = 0; i < m->service->n; i++) {
		const struct unit_line *l = &m->service->lines[i];
		if (strcmp(l->key, "Environment") == 0 && strcmp(l->section, "Service") == 0 && unit_holds(m->service, i, true))
			gather(m, l, &m->env, &m->env_at);
	}
}

static void make_environment(struct making *m)
{
	reading_environment(m->d, m->s, m->env_at, &m->env, false, "");
	reading_environment(m->d, m->s, m->pass_at, &m->pass_env, true, "PATH TZ LANG LC_* ");
	char *line = m->groups.n > 0 ? wordlist_join(m->d, &m->groups, 0) : NULL;
	if (line != NULL)
		draft_set(m->d, m->s, m->groups_at, "groups", "%s", line);
	free(line);
}

/* Who gets what: the heart of the matter. */
static void make_passing(struct making *m)
{
	const struct unit_line *in = unit_last(m->service, "Service", "StandardInput");

	m->on_stdin = in != NULL && strcmp(in->value, "socket") == 0;
	if (m->on_stdin && !m->accept) {
		draft_set(m->d, m->s, in->place, "wait", "yes");
	} else if (m->on_stdin) {
		if (unit_last(m->service, "Service", "StandardError") == NULL)
			draft_set(m->d, m->s, in->place, "stderr", "connection"); /* what it inherits */
	} else if (m->accept) {
		draft_drop(m->d, m->s, m->place, "Accept=yes without StandardInput=socket: the program wants the connection as descriptor 3");
		disable(m, "the program must take the connection as its standard input");
	} else {
		draft_drop(m->d, m->s, m->place, "Accept=no: the program takes its sockets by sd_listen_fds(3), which harkd gives to none");
		disable(m, "the program must take the socket or the connection as its standard input");
	}
}

/* ---- the section ---- */

static void words_done(struct making *m)
{
	wordlist_clear(&m->listen);
	wordlist_clear(&m->argv);
	wordlist_clear(&m->groups);
	wordlist_clear(&m->env);
	wordlist_clear(&m->pass_env);
}

/* What has no address or no program is no service: it is told in one line, at the top. */
static void no_service(struct making *m, const char *why, const char *what)
{
	draft_remove(m->d, m->s);
	draft_drop(m->d, NULL, m->place, "%s: %s%s", m->socket->name, why, what);
}

static const char *what_it_has(const struct making *m)
{
	for (size_t i = 0; i < m->socket->n; i++)
		if (strncmp(m->socket->lines[i].key, "Listen", 6) == 0)
			return m->socket->lines[i].key;
	return "nothing";
}

static void make_section(struct making *m, const char *wanted)
{
	const struct unit_line *about = unit_last(m->socket, "Unit", "Description");
	const struct unit_line *dynamic = m->service == NULL ? NULL : unit_last(m->service, "Service", "DynamicUser");

	if (about != NULL)
		draft_remark(m->d, m->s, about->place, "%s", about->value);
	make_listen(m);
	if (m->listen.n == 0) {
		no_service(m, "hark cannot listen on what it has: ", what_it_has(m));
		return;
	}
	if (m->service == NULL) {
		no_service(m, "its service is not there: ", wanted);
		return;
	}
	m->not_known = dynamic != NULL && systemd_yes(dynamic->value) == 1;
	read_environment(m);
	if (!make_exec(m)) {
		no_service(m, "no ExecStart= in ", wanted);
		return;
	}
	make_passing(m);
	make_lines(m, m->socket);
	make_lines(m, m->service);
	make_environment(m);
	if (m->why[0] == '\0')
		return;
	draft_remark(m->d, m->s, m->place, "disabled: %s; once that is seen to, take out the next line", m->why);
	draft_set(m->d, m->s, m->place, "disable", "yes");
}

void systemd_make(struct draft *d, const struct unit *u, const struct unit *s, const char *wanted, struct config_place place)
{
	const struct unit_line *accept = unit_last(u, "Socket", "Accept");
	size_t n = strlen(u->name) - strlen(".socket");
	struct making m = {.d = d, .socket = u, .service = s, .place = place};
	char name[256];

	(void)snprintf(name, sizeof name, "%.*s", (int)(n < sizeof name ? n : sizeof name - 1), u->name);
	m.accept = accept != NULL && systemd_yes(accept->value) == 1;
	if (accept != NULL && systemd_yes(accept->value) < 0)
		bad(&m, accept, "yes or no");
	m.s = draft_section(d, name, place);
	make_section(&m, wanted != NULL ? wanted : "");
	words_done(&m);
}
