/* test_xinetd.c — xinetd.conf: what a service's attributes become, what defaults give it, and what is refused. */
#include "xinetd_support.h"

/* A service that is complete, with more attributes, one a line. */
static struct document *read_service(const char *more)
{
	char text[2048];

	(void)snprintf(
		text, sizeof text,
		"service telnet\n{\n\tsocket_type = stream\n\twait = no\n\tuser = root\n\tserver = /bin/cat\n%s}\n",
		more);
	return read_text(text);
}

static void a_service_becomes_a_section(void **state)
{
	struct document *d = read_text(
		"# telnet\nservice telnet\n{\n\tsocket_type\t= stream\n\twait = no\n\tuser = nobody\n\tgroup = tty\n"
		"\tserver = /bin/cat\n\tserver_args = -a  'b'\tc\n\tumask = 27\n\tnice = -5\n"
		"\tinstances = 30\n\tper_source = 5\n\tmax_load = 2.5\n\tprotocol = tcp\n}\n");
	(void)state;
	assert_clean(d);
	assert_int_equal(d->n, 1);
	assert_setting(d, "telnet", "listen", "tcp://*:telnet");
	assert_setting(d, "telnet", "exec", "/bin/cat -a \"'b'\" c");
	assert_setting(d, "telnet", "stderr", "connection");
	assert_setting(d, "telnet", "user", "nobody");
	assert_setting(d, "telnet", "group", "tty");
	assert_setting(d, "telnet", "groups", "none");
	assert_setting(d, "telnet", "umask", "0027");
	assert_setting(d, "telnet", "nice", "-5");
	assert_setting(d, "telnet", "max_conns", "30");
	assert_setting(d, "telnet", "max_per_source", "5");
	assert_setting(d, "telnet", "max_load", "2.5");
	assert_setting(d, "telnet", "wait", NULL);
	assert_setting(d, "telnet", "disable", NULL);
	assert_int_equal(d->fates[DOCUMENT_DROPPED], 0);
	assert_loads(d);
	document_free(d);
}

static void a_datagram_service_that_waits_gets_the_socket(void **state)
{
	struct document *d = read_text(
		"service tftp\n{\nprotocol = udp\nsocket_type = dgram\nwait = yes\nuser = root\nserver = /bin/cat\n"
		"instances = 1\nper_source = 3\ncps = 3 5\n}\n");
	(void)state;
	assert_clean(d);
	assert_setting(d, "tftp", "listen", "udp://*:tftp");
	assert_setting(d, "tftp", "wait", "yes");
	assert_setting(d, "tftp", "stderr", "connection");
	assert_setting(d, "tftp", "max_conns", NULL);
	assert_setting(d, "tftp", "max_per_source", NULL);
	assert_setting(d, "tftp", "rate", "3/s");
	assert_remark(d, "tftp", "not carried over: per_source = 3: ");
	assert_loads(d);
	document_free(d);
}

static void ids_name_sections_and_internal_services_are_boxes(void **state)
{
	struct document *d = read_text(
		"service echo\n{\nid = echo-dgram\ntype = INTERNAL\nsocket_type = dgram\nwait = yes\n}\n"
		"service echo\n{\nid = echo-stream\ntype = INTERNAL UNLISTED\nport = 7007\nsocket_type = stream\nwait "
		"= no\n}\n");
	(void)state;
	assert_clean(d);
	assert_setting(d, "echo-dgram", "listen", "udp://*:echo");
	assert_setting(d, "echo-dgram", "box", "echo");
	assert_setting(d, "echo-dgram", "wait", NULL);
	assert_setting(d, "echo-stream", "listen", "tcp://*:7007");
	assert_setting(d, "echo-stream", "box", "echo");
	assert_loads(d);
	document_free(d);
}

static void what_hark_cannot_serve_is_refused_by_name(void **state)
{
	static const char *const refused[][2] = {
		{"service rstatd\n{\ntype = RPC\nrpc_version = 2-4\nsocket_type = dgram\nwait = yes\nuser = "
	         "root\nserver = /bin/cat\n}\n",
	         "service rstatd: type = RPC"},
		{"service myorg\n{\ntype = TCPMUX UNLISTED\nsocket_type = stream\nwait = no\nuser = root\nserver = "
	         "/bin/cat\n}\n",
	         "service myorg: no service tcpmux of type = INTERNAL listens"},
		{"service tcpmux\n{\ntype = INTERNAL\nsocket_type = stream\nwait = no\n}\n",
	         "service tcpmux: no service has type = TCPMUX"},
		{"service irc\n{\nid = trap\ntype = INTERNAL\nflags = SENSOR\nsocket_type = stream\nwait = "
	         "no\ndeny_time = 60\n}\n",
	         "service irc (trap): flags = SENSOR"},
		{"service services\n{\ntype = INTERNAL UNLISTED\nport = 9098\nsocket_type = stream\nwait = no\n}\n",
	         "service services: type = INTERNAL"},
		{"service servers\n{\ntype = INTERNAL UNLISTED\nport = 9099\nsocket_type = stream\nwait = no\n}\n",
	         "service servers: type = INTERNAL"},
		{"service xadmin\n{\ntype = INTERNAL UNLISTED\nport = 9100\nsocket_type = stream\nwait = no\n}\n",
	         "service xadmin: type = INTERNAL"},
		{"service icmp\n{\nsocket_type = raw\nwait = yes\nuser = root\nserver = /bin/cat\n}\n",
	         "service icmp: socket_type"},
	};
	(void)state;
	for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++) {
		struct document *d = read_text(refused[i][0]);
		assert_int_equal(d->n, 0);
		assert_remark(d, NULL, refused[i][1]);
		assert_clean(d);
		assert_int_equal(d->fates[DOCUMENT_DROPPED], 1);
		document_free(d);
	}
}

#define MUX      "service tcpmux\n{\ntype = INTERNAL\nsocket_type = stream\nwait = no\nuser = root\n"
#define BEHIND   "socket_type = stream\nprotocol = tcp\nwait = no\n"
#define NOBODY   "user = nobody\ntype = TCPMUX UNLISTED\n" BEHIND
#define SERVED   "service one\n{\n" NOBODY "server = /bin/one\n}\n"
#define NOT_ONES "not carried over: service two: "

static void services_behind_tcpmux_are_one_with_the_user_of_the_first(void **state)
{
	struct document *d = read_text(
		"defaults\n{\ninstances = 9\n}\n"
		"service One\n{\nuser = nobody\ntype = TCPMUXPLUS UNLISTED\n" BEHIND
		"group = daemon\nserver = bin/one\nserver_args = -a $x\nport = 99\nbanner = /etc/hostname\n}\n" MUX
		"}\n"
		"service two\n{\n" NOBODY
		"group = daemon\nserver = /bin/two\nserver_args = 2 -b\nflags = NAMEINARGS\n}\n");
	(void)state;
	assert_clean(d);
	assert_int_equal(d->n, 1);
	assert_setting(d, "tcpmux", "listen", "tcp://*:tcpmux");
	assert_setting(d, "tcpmux", "box",
	               "tcpmux \"+One=exec --stderr /bin/one -a $x\" \"two=exec --stderr --argv0 2 /bin/two -b\"");
	assert_setting(d, "tcpmux", "user", "nobody");
	assert_setting(d, "tcpmux", "group", "daemon");
	assert_setting(d, "tcpmux", "groups", "none");
	assert_setting(d, "tcpmux", "umask", "0022");
	assert_setting(d, "tcpmux", "pass_env", "*");
	assert_setting(d, "tcpmux", "max_conns", "9");
	assert_setting(d, "tcpmux", "disable", NULL);
	assert_remark(d, "tcpmux", "not carried over: port of One: that of tcpmux holds");
	assert_remark(d, "tcpmux", "not carried over: banner of One: that of tcpmux holds");
	assert_loads(d);
	document_free(d);
}

/* Each begins with a service that is served, so that there is something for it to differ from. */
static void a_service_that_tcpmux_would_widen_is_refused(void **state)
{
	static const char *const refused[][2] = {
		{"service two\n{\n" NOBODY "server = /bin/two\nonly_from = 10.0.0.1\n}\n", NOT_ONES "only_from is"},
		{"service two\n{\n" NOBODY "server = /bin/two\nno_access = 10.0.0.1\n}\n", NOT_ONES "no_access is"},
		{"service two\n{\n" NOBODY "server = /bin/two\naccess_times = 1:00-2:00\n}\n",
	         NOT_ONES "access_times is"},
		{"service two\n{\n" NOBODY "server = /bin/two\nflags = IDONLY\n}\n", NOT_ONES "flags = IDONLY"},
		{"service two\n{\n" NOBODY "server = /bin/two\numask = 077\n}\n", NOT_ONES "umask is"},
		{"service two\n{\n" NOBODY "server = /bin/two\nenv = A=b\n}\n", NOT_ONES "env is"},
		{"service two\n{\n" NOBODY "server = /bin/two\nrlimit_cpu = 9\n}\n", NOT_ONES "rlimit_cpu is"},
		{"service two\n{\n" NOBODY "server = /bin/two\ndisable = yes\n}\n", NOT_ONES "disabled"},
		{"service two\n{\n" NOBODY "server = /bin/two\ngroup = daemon\n}\n", NOT_ONES "all services behind"},
		{"service two\n{\n" NOBODY "server = /bin/two\nnonsense\n}\n", NOT_ONES "not all of its lines"},
		{"service two\n{\nuser = root\ntype = TCPMUX UNLISTED\n" BEHIND "server = /bin/two\n}\n",
	         NOT_ONES "all services behind tcpmux run as the user of the first"},
		{"service two\n{\nuser = nobody\ntype = TCPMUX\n" BEHIND "server = /bin/two\n}\n",
	         NOT_ONES "it is not in /etc/services here"},
		{"service two\n{\nuser = nobody\ntype = TCPMUX UNLISTED\nsocket_type = stream\nwait = yes\nserver = "
	         "/bin/two\n}\n",
	         NOT_ONES "behind tcpmux each connection has its own program"},
		{"service two\n{\nuser = nobody\ntype = TCPMUX UNLISTED\nsocket_type = dgram\nwait = no\nserver = "
	         "/bin/two\n}\n",
	         NOT_ONES "behind tcpmux there is socket_type = stream alone"},
		{"service two\n{\n" NOBODY "redirect = 127.0.0.1 80\n}\n", NOT_ONES "behind tcpmux there are programs"},
		{"service two\n{\n" NOBODY "}\n", NOT_ONES "server or user is missing"},
		{"service two\n{\ntype = TCPMUX UNLISTED\n" BEHIND "server = /bin/two\n}\n",
	         NOT_ONES "server or user is missing"},
		{"service ONE\n{\n" NOBODY "server = /bin/two\n}\n",
	         "not carried over: service ONE: another one has its name"},
		{"service help\n{\n" NOBODY "server = /bin/two\n}\n", "not carried over: service help: no name"},
		{"service a=b\n{\n" NOBODY "server = /bin/two\n}\n", "not carried over: service a=b: no name"},
	};
	(void)state;
	for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++) {
		char text[1000];
		(void)snprintf(text, sizeof text, "%s}\n%s%s", MUX, SERVED, refused[i][0]);
		struct document *d = read_text(text);
		assert_int_equal(d->n, 1);
		assert_remark(d, NULL, refused[i][1]);
		assert_setting(d, "tcpmux", "box", "tcpmux \"one=exec --stderr /bin/one\"");
		assert_setting(d, "tcpmux", "user", "nobody");
		document_free(d);
	}
}

static void what_guards_tcpmux_guards_all_behind_it(void **state)
{
	struct document *d = read_text("defaults\n{\nonly_from = 10.0.0.1\n}\n" MUX "}\n" SERVED);
	(void)state;
	assert_setting(d, "tcpmux", "box", "tcpmux \"one=exec --stderr /bin/one\"");
	assert_setting(d, "tcpmux", "disable", "yes");
	document_free(d);
	d = read_text(MUX "bind = 1 2\n}\n" SERVED);
	assert_int_equal(d->n, 0);
	assert_remark(d, NULL, "not carried over: service one: service tcpmux, which it is behind");
	document_free(d);
	d = read_text(MUX "disable = yes\n}\n" SERVED);
	assert_setting(d, "tcpmux", "disable", "yes");
	document_free(d);
}

static void rules_of_access_that_cannot_be_kept_disable_the_service(void **state)
{
	static const char *const rules[][2] = {
		{"only_from = 10.0.0.0/8\n", "not carried over: only_from = 10.0.0.0/8: "},
		{"only_from =\n", "not carried over: only_from = : nobody"},
		{"no_access = 10.0.0.1 10.0.0.2\n", "not carried over: no_access = 10.0.0.1 10.0.0.2: "},
		{"only_from = 127.0.0.1\nno_access = 127.0.0.1\n", "not carried over: no_access = 127.0.0.1: "},
		{"access_times = 2:00-9:00 12:00-24:00\n", "not carried over: access_times = 2:00-9:00 12:00-24:00: "},
		{"flags = IDONLY\n", "not carried over: flags = IDONLY: "},
		{"instances = 0\n", "not carried over: instances = 0: "},
		{"per_source = 0\n", "not carried over: per_source = 0: "},
		{"bind = 192.0.2.1\nonly_from = 127.0.0.1\n", "not carried over: only_from = 127.0.0.1: "},
		/* Of one family, where the socket is of the other or both. */
		{"flags = IPv6\nonly_from = 0.0.0.0/0\n", "not carried over: only_from = 0.0.0.0/0: "},
		{"bind = ::\nonly_from = 0.0.0.0\n", "not carried over: only_from = 0.0.0.0: "},
		{"v6only = yes\nonly_from = 0.0.0.0/0\n", "not carried over: only_from = 0.0.0.0/0: "},
		{"flags = IPv4\nonly_from = ::/0\n", "not carried over: only_from = ::/0: "},
		{"bind = 192.0.2.1\nonly_from = ::/0\n", "not carried over: only_from = ::/0: "},
	};
	(void)state;
	for (size_t i = 0; i < sizeof rules / sizeof rules[0]; i++) {
		struct document *d = read_service(rules[i][0]);
		assert_clean(d);
		assert_disabled(d, "telnet", rules[i][1]);
		assert_loads(d);
		document_free(d);
	}
}

static void who_is_reached_from_here_alone_listens_on_loopback(void **state)
{
	struct document *d = read_service("only_from = 127.0.0.1 localhost\n");
	(void)state;
	assert_setting(d, "telnet", "listen", "tcp://127.0.0.1:telnet");
	assert_setting(d, "telnet", "disable", NULL);
	assert_loads(d);
	document_free(d);
	d = read_service("only_from = 0.0.0.0/0\n");
	assert_setting(d, "telnet", "listen", "tcp4://*:telnet");
	assert_setting(d, "telnet", "disable", NULL);
	assert_loads(d);
	document_free(d);
	d = read_service("only_from = 0.0.0.0/0 ::/0\n");
	assert_setting(d, "telnet", "listen", "tcp://*:telnet");
	assert_setting(d, "telnet", "disable", NULL);
	document_free(d);
	d = read_service("only_from = ::/0\n"); /* mapped addresses are in it */
	assert_setting(d, "telnet", "listen", "tcp://*:telnet");
	assert_setting(d, "telnet", "disable", NULL);
	document_free(d);
	d = read_service("flags = IPv6\nonly_from = 127.0.0.1\n");
	assert_disabled(d, "telnet", "only_from");
	document_free(d);
}

static void flags_bind_and_v6only_choose_the_address(void **state)
{
	static const char *const cases[][2] = {
		{"flags = IPv4\n", "tcp4://*:telnet"},
		{"flags = IPv6\n", "tcp://*:telnet"},
		{"flags = REUSE\n", "tcp://*:telnet"},
		{"bind = 192.0.2.7\n", "tcp://192.0.2.7:telnet"},
		{"interface = 2001:db8::7\n", "tcp://[2001:db8::7]:telnet"},
		{"bind = 0.0.0.0\n", "tcp4://*:telnet"},
		{"bind = ::\n", "tcp://*:telnet"},
		{"bind = www.example.org\nflags = IPv6\n", "tcp6://www.example.org:telnet"},
		{"bind = www.example.org\nflags = IPv4\n", "tcp4://www.example.org:telnet"},
		{"port = 23\n", "tcp://*:23"},
		{"type = UNLISTED\nport = 2323\n", "tcp://*:2323"},
	};
	(void)state;
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		struct document *d = read_service(cases[i][0]);
		assert_clean(d);
		assert_setting(d, "telnet", "listen", cases[i][1]);
		assert_setting(d, "telnet", "disable", NULL);
		document_free(d);
	}
	struct document *d = read_service("v6only = yes\n");
	assert_setting(d, "telnet", "v6only", "yes");
	assert_loads(d);
	document_free(d);
	d = read_service("flags = IPv4 IPv6\n");
	assert_disabled(d, "telnet", "IPv4 and IPv6");
	document_free(d);
}

static void flags_are_carried_or_remarked(void **state)
{
	struct document *d = read_service("flags = REUSE NODELAY NORETRY NOLIBWRAP KEEPALIVE INTERCEPT LABELED\n");
	(void)state;
	assert_clean(d);
	assert_remark(d, "telnet", "flags = INTERCEPT: ");
	assert_remark(d, "telnet", "flags = LABELED: ");
	assert_int_equal(d->fates[DOCUMENT_DROPPED], 2);
	assert_setting(d, "telnet", "disable", NULL);
	document_free(d);
	d = read_service("flags = NODELAI\n");
	assert_error(d, "xinetd.conf", 7, "NODELAI (did you mean NODELAY?)");
	assert_disabled(d, "telnet", "flags cannot be read");
	document_free(d);
}

static void rules_of_tcp_wrappers_are_told_of_where_they_hold(void **state)
{
	struct document *d = read_service("");
	(void)state;
	assert_remark(d, NULL, "hosts.allow and hosts.deny");
	assert_int_equal(d->head.n, 1);
	document_free(d);
	d = read_service("flags = NOLIBWRAP\n");
	assert_int_equal(d->head.n, 0);
	document_free(d);
	d = read_service("disable = yes\n");
	assert_int_equal(d->head.n, 0);
	document_free(d);
}

static void the_name_may_be_in_the_arguments(void **state)
{
	struct document *d = read_service("flags = NAMEINARGS\nserver_args = in.telnetd -h\n");
	(void)state;
	assert_clean(d);
	assert_setting(d, "telnet", "exec", NULL);
	assert_setting(d, "telnet", "box", "exec --argv0 in.telnetd /bin/cat -h");
	document_free(d);
	d = read_service("flags = NAMEINARGS\nserver_args = cat -u\n");
	assert_setting(d, "telnet", "exec", "/bin/cat -u");
	assert_loads(d);
	document_free(d);
	d = read_service("flags = NAMEINARGS\n");
	assert_int_equal(d->n_errors, 1);
	assert_disabled(d, "telnet", "server_args is missing");
	document_free(d);
}

static void a_redirect_is_a_relay(void **state)
{
	struct document *d = read_text(
		"service telnet\n{\nsocket_type = stream\nwait = no\nuser = root\nredirect = 192.0.2.9 23\n}\n");
	(void)state;
	assert_clean(d);
	assert_setting(d, "telnet", "relay", "tcp://192.0.2.9:23");
	assert_setting(d, "telnet", "exec", NULL);
	document_free(d);
	d = read_service("redirect = 2001:db8::1 telnet\n");
	assert_setting(d, "telnet", "relay", "tcp://[2001:db8::1]:telnet");
	assert_setting(d, "telnet", "exec", NULL);
	assert_remark(d, "telnet", "server = /bin/cat: ");
	document_free(d);
	d = read_text("service telnet\n{\nsocket_type = stream\nwait = yes\nuser = root\nredirect = 192.0.2.9 23\n}\n");
	assert_error(d, "xinetd.conf", 6, "redirect");
	assert_setting(d, "telnet", "disable", "yes");
	document_free(d);
}

static void the_rate_never_disables(void **state)
{
	struct document *d = read_service("cps = 50 10\n");
	(void)state;
	assert_setting(d, "telnet", "rate", "50/s");
	assert_remark(d, "telnet", "never disabled for 10 s");
	assert_loads(d);
	document_free(d);
}

static void resource_limits_have_their_units(void **state)
{
	struct document *d = read_service(
		"rlimit_as = 8M\nrlimit_cpu = 20\nrlimit_data = 4k\nrlimit_rss = UNLIMITED\nrlimit_stack = 1000\n"
		"rlimit_files = 64\n");
	(void)state;
	assert_clean(d);
	assert_setting(d, "telnet", "rlimit_as", "8388608");
	assert_setting(d, "telnet", "rlimit_cpu", "20");
	assert_setting(d, "telnet", "rlimit_data", "4096");
	assert_setting(d, "telnet", "rlimit_rss", "unlimited");
	assert_setting(d, "telnet", "rlimit_stack", "1000");
	assert_setting(d, "telnet", "rlimit_nofile", "64");
	assert_loads(d);
	document_free(d);
	d = read_service("rlimit_as = much\n");
	assert_error(d, "xinetd.conf", 7, "rlimit_as: \"much\"");
	assert_disabled(d, "telnet", "rlimit_as cannot be read");
	document_free(d);
}

static void the_environment_is_what_was_asked_for(void **state)
{
	struct document *d = read_service(
		"env = A=1 B=2\nenv += C=3\npassenv = PATH\npassenv += TERM HOME\npassenv -= TERM\n");
	(void)state;
	assert_clean(d);
	assert_setting(d, "telnet", "env", "A=1 B=2 C=3");
	assert_setting(d, "telnet", "pass_env", "PATH HOME");
	assert_loads(d);
	document_free(d);
	d = read_service("passenv =\n");
	assert_setting(d, "telnet", "pass_env", "none");
	assert_loads(d);
	document_free(d);
	d = read_service("env = A=1\nenv -= A=1\n");
	assert_error(d, "xinetd.conf", 8, "env: takes no -=");
	assert_setting(d, "telnet", "env", "A=1");
	document_free(d);
}

static void a_banner_is_the_words_of_its_file(void **state)
{
	char more[600];
	(void)state;
	write_file("banner", "Hi\tyou\\\r\n ");
	(void)snprintf(more, sizeof more, "banner = %s\nbanner_fail = /etc/no\n", path_of("banner"));
	struct document *d = read_service(more);
	assert_clean(d);
	assert_setting(d, "telnet", "banner", "Hi\\tyou\\\\\\r\\n\\x20");
	assert_remark(d, "telnet", "banner_fail = /etc/no: ");
	assert_loads(d);
	document_free(d);
	d = read_service("banner_success = /nonexistent/banner\n");
	assert_clean(d);
	assert_setting(d, "telnet", "banner", NULL);
	assert_remark(d, "telnet", "banner_success = /nonexistent/banner: ");
	assert_setting(d, "telnet", "disable", NULL);
	document_free(d);
}

static void what_is_logged_anyway_is_carried(void **state)
{
	struct document *d = read_service("log_type = SYSLOG daemon info\nlog_on_success = HOST PID\nlog_on_success += "
	                                  "USERID\nlog_on_failure = HOST\n");
	(void)state;
	assert_clean(d);
	assert_remark(d, "telnet", "log_type = SYSLOG daemon info: ");
	assert_remark(d, "telnet", "log_on_success = USERID: ");
	assert_int_equal(d->fates[DOCUMENT_DROPPED], 2);
	document_free(d);
}

static void defaults_are_inherited_and_added_to(void **state)
{
	struct document *d = read_text("defaults\n{\nlog_type = FILE /var/log/x\nonly_from = 10.0.0.0/8\nonly_from = "
	                               "127.0.0.1\ninstances = 25\numask = 022\n"
	                               "passenv = PATH\n}\n"
	                               "service telnet\n{\nsocket_type = stream\nwait = no\nuser = root\nserver = "
	                               "/bin/cat\nonly_from -= 10.0.0.0/8\n"
	                               "passenv += TERM\n}\n"
	                               "service ftp\n{\nsocket_type = stream\nwait = no\nuser = root\nserver = "
	                               "/bin/cat\ninstances = UNLIMITED\n"
	                               "only_from += 192.0.2.0/24\n}\n"
	                               "service finger\n{\nsocket_type = stream\nwait = no\nuser = root\nserver = "
	                               "/bin/cat\nonly_from = 0.0.0.0/0\n}\n");
	(void)state;
	assert_clean(d);
	assert_setting(d, "telnet", "listen", "tcp://127.0.0.1:telnet");
	assert_setting(d, "telnet", "disable", NULL);
	assert_setting(d, "telnet", "max_conns", "25");
	assert_setting(d, "telnet", "umask", "0022");
	assert_setting(d, "telnet", "pass_env", "PATH TERM");
	assert_setting(d, "ftp", "max_conns", NULL);
	assert_setting(d, "ftp", "pass_env", "PATH");
	assert_disabled(d, "ftp", "only_from = 10.0.0.0/8 127.0.0.1 192.0.2.0/24");
	assert_setting(d, "finger", "disable", NULL);
	/* Once, and not of each service. */
	assert_remark(d, NULL, "log_type = FILE /var/log/x: ");
	assert_loads(d);
	document_free(d);
}

static void lists_of_defaults_begin_where_they_stand_all_else_is_inherited_in_the_end(void **state)
{
	struct document *d = read_text(
		"service telnet\n{\nsocket_type = stream\nwait = no\nuser = root\nserver = /bin/cat\n}\n"
		"defaults\n{\ninstances = 9\nno_access = 10.0.0.1\n}\n");
	(void)state;
	assert_clean(d);
	assert_setting(d, "telnet", "max_conns", "9");
	assert_disabled(d, "telnet", "no_access = 10.0.0.1");
	document_free(d);
}

static void defaults_enable_and_disable_ids(void **state)
{
	static const char services[] =
		"service telnet\n{\nid = one\nsocket_type = stream\nwait = no\nuser = root\nserver = /bin/cat\n}\n"
		"service ftp\n{\nid = two\nsocket_type = stream\nwait = no\nuser = root\nserver = /bin/cat\n}\n"
		"service finger\n{\nid = three\nsocket_type = stream\nwait = no\nuser = root\nserver = "
		"/bin/cat\ndisable = yes\n}\n";
	char text[2048];
	(void)state;
	(void)snprintf(text, sizeof text, "defaults\n{\ndisabled = two\n}\n%s", services);
	struct document *d = read_text(text);
	assert_setting(d, "one", "disable", NULL);
	assert_setting(d, "two", "disable", "yes");
	assert_setting(d, "three", "disable", "yes");
	document_free(d);
	(void)snprintf(text, sizeof text, "defaults\n{\nenabled = two three\n}\n%s", services);
	d = read_text(text);
	assert_setting(d, "one", "disable", "yes");
	assert_setting(d, "two", "disable", NULL);
	assert_setting(d, "three", "disable", "yes"); /* the manual: disable goes before */
	assert_loads(d);
	document_free(d);
}

static void mistakes_name_their_line_and_the_rest_is_read(void **state)
{
	static const struct {
		const char *text;
		int line;
		const char *part;
	} wrong[] = {
		{"sevice telnet\n{\n\tuser = root\n}\n", 1,
	         "sevice: service, defaults, include or includedir should stand here (did you mean service?)"},
		{"service\n", 1, "service: a name should follow"},
		{"service telnet {\n\tuser = root\n}\n", 1, "{ alone in the next line, not in this one"},
		{"defaults\n{\n}\ndefaults\n{\n}\n", 4, "a second entry"},
		{"defaults\n{\nsever = x\n}\n", 3, "unknown attribute"},
		{"defaults\n{\nuser = x\n}\n", 3, "not an attribute of defaults"},
		{"defaults\n{\ninstances += 3\n}\n", 3, "takes no +="},
		{"defaults\n{\ncps = 3\n}\n", 3, "takes 2 values, 1 is given"},
		{"include\n", 1, "a name should follow"},
		{"include /nonexistent/file\n", 1, "/nonexistent/file: No such file"},
		{"includedir /nonexistent/dir\n", 1, "/nonexistent/dir: No such file"},
		{"includedir /etc/passwd\n", 1, "/etc/passwd: Not a directory"},
		{"include /dev/zero\n", 1, "/dev/zero: not a regular file"},
		{"defaults\n{\numask = 22\n", 3, "the file ends within an entry"},
	};
	(void)state;
	for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
		struct document *d = read_text(wrong[i].text);
		assert_error(d, "xinetd.conf", wrong[i].line, wrong[i].part);
		assert_int_equal(d->n_errors, 1);
		document_free(d);
	}
	struct document *d = read_text(
		"nonsense\nservice telnet\n{\nsocket_type = stream\nwait = no\nuser = root\nserver = /bin/cat\n"
		"instancs = 3\ninstances = 3\ninstances = 4\n}\n");
	assert_error(d, "xinetd.conf", 1, "nonsense");
	assert_error(d, "xinetd.conf", 8, "instancs: unknown attribute (did you mean instances?)");
	assert_error(d, "xinetd.conf", 10, "instances: set twice; the first one counts (line 9)");
	assert_setting(d, "telnet", "max_conns", "3");
	assert_setting(d, "telnet", "disable", NULL); /* xinetd serves it */
	document_free(d);
}

static void a_line_that_xinetd_drops_the_service_for_disables_it(void **state)
{
	static const char *const lines[][2] = {
		{"port=23\n", "port=23: xinetd wants a blank"},
		{"port\n", "port: =, += or -= should follow"},
		{"port : 23\n", "port: =, += or -= should follow"},
		{"port + 23\n", "port: =, += or -= should follow"},
	};
	(void)state;
	for (size_t i = 0; i < sizeof lines / sizeof lines[0]; i++) {
		struct document *d = read_service(lines[i][0]);
		assert_error(d, "xinetd.conf", 7, lines[i][1]);
		assert_disabled(d, "telnet", "not all of its lines could be read");
		document_free(d);
	}
}

static void values_that_xinetd_refuses_disable_the_service(void **state)
{
	static const char *const values[][2] = {
		{"instances = many\n", "instances cannot be read"},
		{"umask = 99\n", "umask cannot be read"},
		{"nice = low\n", "nice cannot be read"},
		{"max_load = high\n", "max_load cannot be read"},
		{"cps = a b\n", "cps cannot be read"},
		{"groups = maybe\n", "groups cannot be read"},
		{"env = PATH\n", "env cannot be read"},
		{"type = UNLISTET\nport = 23\n", "type cannot be read"},
		{"disable = perhaps\n", "disable cannot be read"},
	};
	(void)state;
	for (size_t i = 0; i < sizeof values / sizeof values[0]; i++) {
		struct document *d = read_service(values[i][0]);
		assert_int_equal(d->n_errors, 1);
		assert_error(d, "xinetd.conf", 7, "");
		assert_disabled(d, "telnet", values[i][1]);
		document_free(d);
	}
}

static void what_is_missing_disables_the_service_unless_it_is_disabled(void **state)
{
	struct document *d = read_text("service telnet\n{\nsocket_type = stream\nwait = no\nserver = /bin/cat\n}\n");
	(void)state;
	assert_error(d, "xinetd.conf", 1, "user is missing");
	assert_disabled(d, "telnet", "user is missing");
	document_free(d);
	d = read_text("service telnet\n{\nsocket_type = stream\nuser = root\nserver = /bin/cat\n}\n");
	assert_error(d, "xinetd.conf", 1, "wait is missing");
	document_free(d);
	d = read_text("service telnet\n{\nsocket_type = stream\nwait = no\nuser = root\n}\n");
	assert_error(d, "xinetd.conf", 1, "server is missing");
	assert_int_equal(d->n, 0);
	document_free(d);
	d = read_text("service telnet\n{\ndisable = yes\nsocket_type = stream\nserver = /bin/cat\n}\n");
	assert_clean(d);
	assert_setting(d, "telnet", "disable", "yes");
	document_free(d);
	d = read_text("service distcc\n{\ndisable = yes\ntype = UNLISTED\nsocket_type = stream\nwait = no\nuser = "
	              "root\nserver = /bin/cat\n}\n");
	assert_clean(d); /* as distcc's example is */
	assert_int_equal(d->n, 0);
	document_free(d);
	d = read_text("service no-such-service-here\n{\nsocket_type = stream\nwait = no\nuser = root\nserver = "
	              "/bin/cat\n}\n");
	assert_clean(d);
	assert_disabled(d, "no-such-service-here", "/etc/services");
	document_free(d);
}

static void the_first_of_two_on_one_address_counts(void **state)
{
	static const char twice[] =
		"service telnet\n{\n%ssocket_type = stream\nwait = no\nuser = root\nserver = /bin/cat\n}\n"
		"service telnet\n{\nsocket_type = stream\nwait = no\nuser = root\nserver = /bin/cat\n}\n";
	char text[512];
	(void)state;
	(void)snprintf(text, sizeof text, twice, "");
	struct document *d = read_text(text);
	assert_error(d, "xinetd.conf", 8, "has the same address");
	assert_setting(d, "telnet", "disable", NULL);
	assert_setting(d, "telnet-2", "disable", "yes");
	document_free(d);
	(void)snprintf(text, sizeof text, twice, "disable = yes\n");
	d = read_text(text);
	assert_clean(d);
	assert_setting(d, "telnet-2", "disable", NULL);
	assert_loads(d);
	document_free(d);
}

static void directories_are_read_by_name_without_dots_and_tildes(void **state)
{
	static const char service[] =
		"service %s\n{\nsocket_type = stream\nwait = no\nuser = root\nserver = /bin/cat\n}\n";
	static const char *const names[][2] = {{"d/b", "ftp"},
	                                       {"d/a", "telnet"},
	                                       {"d/a.rpmsave", "finger"},
	                                       {"d/c~", "finger"},
	                                       {"d/.d", "finger"}};
	char text[256];
	(void)state;
	assert_int_equal(mkdir(path_of("d"), 0700), 0);
	assert_int_equal(mkdir(path_of("d/inner"), 0700), 0);
	for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
		(void)snprintf(text, sizeof text, service, names[i][1]);
		write_file(names[i][0], text);
	}
	struct document *d = read_text("includedir d\n");
	assert_clean(d);
	assert_remark(d, NULL, "inner is passed over");
	assert_int_equal(d->n, 2);
	assert_string_equal(d->sections[0]->name, "telnet");
	assert_string_equal(d->sections[1]->name, "ftp");
	assert_string_equal(d->sections[1]->place.file, path_of("d/b"));
	assert_int_equal(d->sections[1]->place.line, 1);
	document_free(d);
}

static void a_file_that_includes_itself_is_refused(void **state)
{
	struct document *d;
	(void)state;
	write_file("other", "include xinetd.conf\ndefaults\n{\ninstances = 3\n}\n");
	d = read_text("include other\ninclude xinetd.conf\nservice telnet\n{\nsocket_type = stream\nwait = no\nuser = "
	              "root\nserver = /bin/cat\n}\n");
	assert_error(d, "other", 1, "includes itself");
	assert_error(d, "xinetd.conf", 2, "includes itself");
	assert_int_equal(d->n_errors, 2);
	assert_setting(d, "telnet", "max_conns", "3");
	document_free(d);
}

static void a_file_that_cannot_be_read_is_an_error(void **state)
{
	struct document *d = document_new();
	(void)state;
	assert_int_equal(import_xinetd(d, "/nonexistent/xinetd.conf"), 0);
	assert_int_equal(d->n_errors, 1);
	assert_string_equal(d->errors[0], "/nonexistent/xinetd.conf: No such file or directory");
	assert_int_equal(import_xinetd(d, "/"), 0);
	assert_int_equal(d->n_errors, 2);
	document_free(d);
}

static void lines_may_end_as_on_windows(void **state)
{
	struct document *d = read_text("service telnet\r\n{\r\n\tsocket_type = stream\r\n\twait = no\r\n\tuser = "
	                               "root\r\n\tserver = /bin/cat\r\n}\r\n");
	(void)state;
	assert_clean(d);
	assert_setting(d, "telnet", "exec", "/bin/cat");
	document_free(d);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_service_becomes_a_section),
		cmocka_unit_test(a_datagram_service_that_waits_gets_the_socket),
		cmocka_unit_test(ids_name_sections_and_internal_services_are_boxes),
		cmocka_unit_test(what_hark_cannot_serve_is_refused_by_name),
		cmocka_unit_test(rules_of_access_that_cannot_be_kept_disable_the_service),
		cmocka_unit_test(who_is_reached_from_here_alone_listens_on_loopback),
		cmocka_unit_test(flags_bind_and_v6only_choose_the_address),
		cmocka_unit_test(flags_are_carried_or_remarked),
		cmocka_unit_test(rules_of_tcp_wrappers_are_told_of_where_they_hold),
		cmocka_unit_test(the_name_may_be_in_the_arguments),
		cmocka_unit_test(a_redirect_is_a_relay),
		cmocka_unit_test(the_rate_never_disables),
		cmocka_unit_test(resource_limits_have_their_units),
		cmocka_unit_test(the_environment_is_what_was_asked_for),
		cmocka_unit_test(a_banner_is_the_words_of_its_file),
		cmocka_unit_test(what_is_logged_anyway_is_carried),
		cmocka_unit_test(defaults_are_inherited_and_added_to),
		cmocka_unit_test(lists_of_defaults_begin_where_they_stand_all_else_is_inherited_in_the_end),
		cmocka_unit_test(defaults_enable_and_disable_ids),
		cmocka_unit_test(mistakes_name_their_line_and_the_rest_is_read),
		cmocka_unit_test(a_line_that_xinetd_drops_the_service_for_disables_it),
		cmocka_unit_test(values_that_xinetd_refuses_disable_the_service),
		cmocka_unit_test(what_is_missing_disables_the_service_unless_it_is_disabled),
		cmocka_unit_test(services_behind_tcpmux_are_one_with_the_user_of_the_first),
		cmocka_unit_test(a_service_that_tcpmux_would_widen_is_refused),
		cmocka_unit_test(what_guards_tcpmux_guards_all_behind_it),
		cmocka_unit_test(the_first_of_two_on_one_address_counts),
		cmocka_unit_test(directories_are_read_by_name_without_dots_and_tildes),
		cmocka_unit_test(a_file_that_includes_itself_is_refused),
		cmocka_unit_test(a_file_that_cannot_be_read_is_an_error),
		cmocka_unit_test(lines_may_end_as_on_windows),
	};

	return cmocka_run_group_tests(tests, set_up, tear_down);
}
