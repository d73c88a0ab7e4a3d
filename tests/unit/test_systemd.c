/* test_systemd.c — socket units and their services: what they become, and what harkd cannot do in their place. */
#include "systemd_support.h"

static void a_program_a_connection_is_a_section(void **state)
{
	struct document *d = read_pair(
		ACCEPT "MaxConnections=30\nMaxConnectionsPerSource=4\nBacklog=100\nDeferAcceptSec=2min\n"
		       "ReusePort=true\nNoDelay=1\nKeepAlive=no\n",
		STDIN "User=nobody\nGroup=tty\nUMask=0027\nNice=-3\nRuntimeMaxSec=1h 30min\nTimeoutStopSec=1500ms\n"
		      "WorkingDirectory=/tmp\nLimitNOFILE=1024:4096\nLimitCORE=infinity\nLimitAS=16M\nLimitCPU=2min\n"
		      "LimitNICE=+5\nSupplementaryGroups=tty games\nSupplementaryGroups=audio\n");
	(void)state;
	assert_clean(d);
	assert_setting(d, "x", "listen", "tcp://*:7007");
	assert_setting(d, "x", "exec", "/bin/cat");
	assert_setting(d, "x", "wait", NULL);
	assert_setting(d, "x", "stderr", "connection");
	assert_setting(d, "x", "max_conns", "30");
	assert_setting(d, "x", "max_per_source", "4");
	assert_setting(d, "x", "backlog", "100");
	assert_setting(d, "x", "defer_accept", "120s");
	assert_setting(d, "x", "reuseport", "yes");
	assert_setting(d, "x", "user", "nobody");
	assert_setting(d, "x", "group", "tty");
	assert_setting(d, "x", "groups", "tty games audio");
	assert_setting(d, "x", "umask", "0027");
	assert_setting(d, "x", "nice", "-3");
	assert_setting(d, "x", "lifetime", "5400s");
	assert_setting(d, "x", "grace", "1500ms");
	assert_setting(d, "x", "directory", "/tmp");
	assert_setting(d, "x", "rlimit_nofile", "1024:4096");
	assert_setting(d, "x", "rlimit_core", "unlimited");
	assert_setting(d, "x", "rlimit_as", "16777216");
	assert_setting(d, "x", "rlimit_cpu", "120");
	assert_setting(d, "x", "rlimit_nice", "15");
	assert_setting(d, "x", "disable", NULL);
	assert_int_equal(d->fates[DOCUMENT_DROPPED], 0);
	assert_loads(d);
	document_free(d);
}

/* systemd.time(7), and the sizes of systemd.exec(5). */
static void times_and_sizes_are_systemds(void **state)
{
	static const struct {
		const char *line, *key, *value;
	} rows[] = {
		{"RuntimeMaxSec=90", "lifetime", "90s"},
		{"RuntimeMaxSec=1.5h", "lifetime", "5400s"},
		{"RuntimeMaxSec=2 h 3min4s 5ms", "lifetime", "7384005ms"},
		{"RuntimeMaxSec=1M", "lifetime", "2629800s"},
		{"RuntimeMaxSec=1 year 2 months", "lifetime", "36817200s"},
		{"RuntimeMaxSec=1d1w", "lifetime", "691200s"},
		{"RuntimeMaxSec=1500\xc2\xb5s", "lifetime", "2ms"},
		{"RuntimeMaxSec=1500\xce\xbcs", "lifetime", "2ms"},
		{"RuntimeMaxSec=1us", "lifetime", "1ms"}, /* 0 would be none */
		{"RuntimeMaxSec=infinity", "lifetime", NULL},
		{"LimitAS=2G", "rlimit_as", "2147483648"},
		{"LimitAS=1P", "rlimit_as", "1125899906842624"},
		{"LimitAS=1E:2E", "rlimit_as", "1152921504606846976:2305843009213693952"},
		{"LimitCPU=1m", "rlimit_cpu", "60"},
		{"LimitCPU=1M", "rlimit_cpu", "2629800"},
	};
	(void)state;
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		char service[200];
		(void)snprintf(service, sizeof service, STDIN "%s\n", rows[i].line);
		struct document *d = read_pair(ACCEPT, service);
		assert_clean(d);
		assert_setting(d, "x", rows[i].key, rows[i].value);
		assert_loads(d);
		document_free(d);
	}
}

static void a_program_with_the_socket_waits(void **state)
{
	struct document *d = read_pair("ListenDatagram=69\n", STDIN);
	(void)state;
	assert_clean(d);
	assert_setting(d, "x", "listen", "udp://*:69");
	assert_setting(d, "x", "wait", "yes");
	assert_setting(d, "x", "stderr", "connection");
	assert_setting(d, "x", "disable", NULL);
	assert_loads(d);
	document_free(d);
	d = read_pair("ListenStream=7007\nAccept=no\nMaxConnections=3\n", STDIN);
	assert_setting(d, "x", "wait", "yes");
	assert_remark(d, "x", "MaxConnections=3: ");
	document_free(d);
}

static void a_program_that_takes_descriptors_is_disabled(void **state)
{
	struct document *d = read_pair("ListenStream=7007\n", "ExecStart=/bin/cat\n");
	(void)state;
	assert_clean(d);
	assert_disabled(d, "x", "Accept=no: the program takes its sockets by sd_listen_fds(3)");
	assert_loads(d);
	document_free(d);
	d = read_pair(ACCEPT, "ExecStart=/bin/cat\n");
	assert_disabled(d, "x", "Accept=yes without StandardInput=socket");
	document_free(d);
}

static void addresses_are_translated(void **state)
{
	static const char *const good[][2] = {
		{"ListenStream=80\n", "tcp://*:80"},
		{"ListenStream=80\nBindIPv6Only=ipv6-only\n", "tcp6://*:80"},
		{"ListenStream=80\nBindIPv6Only=both\n", "tcp://*:80"},
		{"ListenStream=127.0.0.1:631\n", "tcp://127.0.0.1:631"},
		{"ListenStream=[::1]:631\n", "tcp://[::1]:631"},
		{"ListenStream=0.0.0.0:631\n", "tcp://0.0.0.0:631"},
		{"ListenStream=%t/x y.sock\n", "\"unix:/run/x y.sock\""},
		{"ListenStream=@abstract\n", "unix:@abstract"},
		{"ListenStream=80\nListenStream=\nListenStream=81\nListenStream=127.0.0.1:82\n",
	         "tcp://*:81 tcp://127.0.0.1:82"},
		{"ListenStream=80\nListenStream=vsock::1234\n", "tcp://*:80"},
	};
	char text[256];
	(void)state;
	for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
		(void)snprintf(text, sizeof text, "%sAccept=yes\n", good[i][0]);
		struct document *d = read_pair(text, STDIN);
		assert_clean(d);
		assert_setting(d, "x", "listen", good[i][1]);
		assert_loads(d);
		document_free(d);
	}
	struct document *d = read_pair("ListenDatagram=/run/x\nListenDatagram=514\n", STDIN);
	assert_setting(d, "x", "listen", "unixgram:/run/x udp://*:514");
	document_free(d);
}

static void unix_sockets_have_their_owner_and_mode(void **state)
{
	struct document *d = read_pair(
		"ListenStream=/run/x\nAccept=yes\nSocketUser=root\nSocketGroup=tty\nSocketMode=0660\n", STDIN);
	(void)state;
	assert_setting(d, "x", "socket_user", "root");
	assert_setting(d, "x", "socket_group", "tty");
	assert_setting(d, "x", "socket_mode", "0660");
	assert_loads(d);
	document_free(d);
	d = read_pair("ListenStream=/run/x\nAccept=yes\n", STDIN);
	assert_setting(d, "x", "socket_mode", "0666");
	document_free(d);
	d = read_pair(ACCEPT "SocketMode=0600\n", STDIN);
	assert_setting(d, "x", "socket_mode", NULL);
	assert_loads(d);
	document_free(d);
}

static void what_is_no_socket_is_refused_by_name(void **state)
{
	static const char *const others[] = {
		"ListenFIFO=/run/x",     "ListenNetlink=audit 1",          "ListenSpecial=/dev/rfkill",
		"ListenMessageQueue=/x", "ListenSequentialPacket=/run/x",  "ListenUSBFunction=/x",
		"ListenStream=%i/x",     "ListenStream=www.example.org:80"};
	char text[128], name[32];
	(void)state;
	for (size_t i = 0; i < sizeof others / sizeof others[0]; i++) {
		(void)snprintf(text, sizeof text, "%s\n", others[i]);
		(void)snprintf(name, sizeof name, "%.*s", (int)strcspn(others[i], "="), others[i]);
		write_file("x@.socket", "[Socket]\n");
		struct document *d = read_pair(text, STDIN);
		if (strchr(others[i], '%') == NULL || d->n == 0) {
			assert_int_equal(d->n, 0);
			assert_remark(d, NULL, name);
		}
		document_free(d);
	}
}

static void commands_are_taken_apart_as_systemd_does(void **state)
{
	static const char *const commands[][2] = {
		{"-/bin/cat -u", "/bin/cat -u"},
		{"/bin/cat 'a b' \"c\\td\" e\\x20f \\x41 'it\\'s'", "/bin/cat \"a b\" \"c\\td\" \"e f\" A \"it's\""},
		{"/bin/cat %% %p %n", NULL},
		{"/bin/cat $$HOME a$$b", "/bin/cat $HOME a$b"},
		{":/bin/cat $A ${A}", "/bin/cat $A ${A}"},
		{"/bin/cat $A x${A}y \"$A\"", "/bin/cat one two \"xone  twoy\" one two"},
		{"/bin/cat ''", "/bin/cat \"\""},
		{"/bin/cat a ; /bin/echo b", "/bin/cat a"},
		{"/bin/cat a \";\" b", "/bin/cat a \";\" b"},
		{"/bin/cat \\\n# a comment\n  a \\\n  b", "/bin/cat a b"},
	};
	char text[512];
	(void)state;
	for (size_t i = 0; i < sizeof commands / sizeof commands[0]; i++) {
		(void)snprintf(text, sizeof text, "Environment=\"A=one  two\"\nStandardInput=socket\nExecStart=%s\n",
		               commands[i][0]);
		struct document *d = read_pair(ACCEPT, text);
		assert_clean(d);
		if (commands[i][1] != NULL)
			assert_setting(d, "x", "exec", commands[i][1]);
		else
			assert_disabled(d, "x", "%n is known to systemd alone"); /* of a unit a connection */
		document_free(d);
	}
	struct document *d = read_pair(ACCEPT, "StandardInput=socket\nExecStart=@/bin/cat kitten -u\n");
	assert_setting(d, "x", "box", "exec --argv0 kitten /bin/cat -u");
	document_free(d);
	d = read_pair(ACCEPT,
	              "StandardInput=socket\nEnvironmentFile=-/etc/default/x\nExecStart=/bin/cat -u $OPTIONS\n");
	assert_setting(d, "x", "exec", "/bin/cat -u");
	assert_remark(d, "x", "$OPTIONS: not set by Environment=");
	assert_remark(d, "x", "EnvironmentFile=-/etc/default/x: ");
	assert_setting(d, "x", "disable", NULL);
	document_free(d);
	d = read_pair(ACCEPT, "StandardInput=socket\nExecStart=/bin/cat ${OPTIONS}\n");
	assert_setting(d, "x", "exec", "/bin/cat \"\"");
	assert_disabled(d, "x", "empty arguments");
	document_free(d);
	d = read_pair(ACCEPT, "StandardInput=socket\nExecStart=+/bin/cat\n");
	assert_disabled(d, "x", "its prefix asks for other rights");
	document_free(d);
	d = read_pair(ACCEPT, "StandardInput=socket\nExecStart=/bin/cat %i\n");
	assert_disabled(d, "x", "%i is known to systemd alone");
	document_free(d);
}

static void standard_error_goes_where_it_went(void **state)
{
	static const char *const ways[][2] = {
		{"StandardError=journal\n", "log"},
		{"StandardError=inherit\n", "connection"},
		{"StandardError=socket\n", "connection"},
		{"StandardError=null\n", "null"},
		{"StandardError=append:/var/log/x\n", "/var/log/x"},
		{"StandardOutput=socket\n", "connection"},
	};
	char text[256];
	(void)state;
	for (size_t i = 0; i < sizeof ways / sizeof ways[0]; i++) {
		(void)snprintf(text, sizeof text, STDIN "%s", ways[i][0]);
		struct document *d = read_pair(ACCEPT, text);
		assert_clean(d);
		assert_setting(d, "x", "stderr", ways[i][1]);
		assert_int_equal(d->fates[DOCUMENT_DROPPED], 0);
		assert_loads(d);
		document_free(d);
	}
	struct document *d = read_pair(ACCEPT, STDIN "StandardOutput=journal\n");
	assert_remark(d, "x", "StandardOutput=journal: ");
	document_free(d);
}

static void the_environment_is_what_the_unit_says(void **state)
{
	struct document *d = read_pair(ACCEPT,
	                               STDIN "Environment=A=1 \"B=two words\"\nEnvironment=C=%p\nPassEnvironment=TERM\n"
	                                     "Environment=bad-name=1\n");
	(void)state;
	assert_setting(d, "x", "env", "A=1 \"B=two words\" C=x");
	assert_setting(d, "x", "pass_env", "PATH TZ LANG LC_* TERM");
	assert_remark(d, "x", "bad-name=1: ");
	assert_loads(d);
	document_free(d);
	d = read_pair(ACCEPT, STDIN "Environment=A=1\nEnvironment=\nEnvironment=B=2\n");
	assert_setting(d, "x", "env", "B=2");
	document_free(d);
}

/* systemd starts nothing where one does not hold, and harkd does not ask. */
static void a_condition_disables_the_service_and_is_told(void **state)
{
	static const char *const units[] = {"ConditionPathExists=!/etc/no", "AssertPathExists=/etc/yes",
	                                    "ConditionFirstBoot=no", "ConditionACPower=|true", "ConditionNew=x"};
	char text[256];
	(void)state;
	for (size_t i = 0; i < sizeof units / sizeof units[0]; i++) {
		(void)snprintf(text, sizeof text, ACCEPT "[Unit]\n%s\n", units[i]);
		struct document *d = read_pair(text, STDIN);
		assert_disabled(d, "x", units[i]);
		assert_loads(d);
		document_free(d);
		(void)snprintf(text, sizeof text, STDIN "[Unit]\n%s\n", units[i]);
		d = read_pair(ACCEPT, text);
		assert_disabled(d, "x", units[i]);
		document_free(d);
	}
	/* An empty one takes back all of its kind, but no assertion. */
	struct document *d = read_pair(ACCEPT "[Unit]\nConditionPathExists=/a\nConditionHost=b\nConditionUser=\n",
	                               STDIN);
	assert_setting(d, "x", "disable", NULL);
	document_free(d);
	d = read_pair(ACCEPT "[Unit]\nAssertPathExists=/a\nConditionUser=\n", STDIN);
	assert_disabled(d, "x", "AssertPathExists=/a");
	document_free(d);
}

static void what_would_open_the_service_disables_it(void **state)
{
	static const char *const services[] = {"DynamicUser=yes\nUser=x-made-up", "IPAddressDeny=any", "User=%i",
	                                       "RestrictNetworkInterfaces=eth0", "ExecCondition=/bin/false"};
	char text[256];
	(void)state;
	for (size_t i = 0; i < sizeof services / sizeof services[0]; i++) {
		(void)snprintf(text, sizeof text, STDIN "%s\n", services[i]);
		struct document *d = read_pair(ACCEPT, text);
		assert_clean(d);
		assert_disabled(d, "x", "is not carried over");
		assert_setting(d, "x", "user", NULL);
		assert_loads(d);
		document_free(d);
	}
	static const char *const sockets[] = {
		"IPAddressAllow=127.0.0.1", "BindToDevice=eth0",      "RestrictNetworkInterfaces=eth0",
		"SocketProtocol=sctp",      "BPFProgram=ingress:/x",  "NetworkNamespacePath=/run/netns/x",
		"PrivateNetwork=yes",       "IPIngressFilterPath=/x",
	};
	for (size_t i = 0; i < sizeof sockets / sizeof sockets[0]; i++) {
		(void)snprintf(text, sizeof text, ACCEPT "%s\n", sockets[i]);
		struct document *d = read_pair(text, STDIN);
		assert_disabled(d, "x", sockets[i]);
		document_free(d);
	}
	struct document *d = read_pair(ACCEPT "PrivateNetwork=no\nSocketProtocol=mptcp\n", STDIN);
	assert_setting(d, "x", "disable", NULL);
	document_free(d);
}

/* What systemd itself takes for its own limit, or for none. */
static void a_limit_of_systemd_that_is_wrong_is_its_default(void **state)
{
	struct document *d = read_pair(ACCEPT "MaxConnections=many\nMaxConnectionsPerSource=0\n", STDIN);
	(void)state;
	assert_int_equal(d->n_errors, 1);
	assert_setting(d, "x", "max_conns", "64");
	assert_setting(d, "x", "max_per_source", NULL);
	assert_setting(d, "x", "disable", NULL);
	document_free(d);
	d = read_pair(ACCEPT "MaxConnections=0\n", STDIN);
	assert_disabled(d, "x", "nobody could connect");
	document_free(d);
}

static void each_directive_that_is_not_carried_is_one_remark(void **state)
{
	struct document *d = read_pair(
		ACCEPT "TriggerLimitBurst=5\nFreeBind=yes\nFreeBindd=yes\nSymlinks=/a /b\nSymlinks=/c\n",
		STDIN "ProtectSystem=strict\nPrivateTmp=yes\nKillMode=process\nRestart=always\nMemoryMax=1G\n");
	(void)state;
	assert_clean(d);
	assert_int_equal(d->fates[DOCUMENT_DROPPED], 9);
	assert_remark(d, "x", "not carried over: FreeBindd=yes: ");
	assert_remark(d, "x", "not carried over: MemoryMax=1G: ");
	assert_setting(d, "x", "disable", NULL);
	document_free(d);
}

static void drop_ins_come_after_the_unit_in_order(void **state)
{
	(void)state;
	write_file("x.socket", "[Unit]\nDescription=What x is "
	                       "for\nBefore=x@.service\nAfter=network.target\n[Socket]\nListenStream=1\nAccept=yes\n");
	write_file("x@.service", "[Service]\n" STDIN);
	assert_int_equal(mkdir(path_of("x.socket.d"), 0700), 0);
	assert_int_equal(mkdir(path_of("x@.service.d"), 0700), 0);
	write_file("x.socket.d/20.conf", "[Socket]\nListenStream=3\n");
	write_file("x.socket.d/10.conf", "[Socket]\nListenStream=\nListenStream=2\n");
	write_file("x.socket.d/30.conf.off", "[Socket]\nListenStream=4\n");
	write_file("x@.service.d/a.conf", "[Service]\nExecStart=\nExecStart=/bin/cat -u\n");
	struct document *d = read_socket("x.socket");
	assert_clean(d);
	assert_setting(d, "x", "listen", "tcp://*:2 tcp://*:3");
	assert_setting(d, "x", "exec", "/bin/cat -u");
	assert_remark(d, "x", "What x is for");
	assert_remark(d, "x", "After=network.target: ");
	assert_int_equal(d->fates[DOCUMENT_DROPPED], 1); /* that the two belong together needs no word */
	document_free(d);
	(void)remove(path_of("x.socket.d/20.conf"));
	(void)remove(path_of("x.socket.d/10.conf"));
	(void)remove(path_of("x@.service.d/a.conf"));
}

static void the_service_is_found_by_name(void **state)
{
	(void)state;
	write_file("one.socket", "[Socket]\nListenStream=1\nService=two.service\n");
	write_file("two.service", "[Service]\n" STDIN);
	struct document *d = read_socket("one.socket");
	assert_setting(d, "one", "exec", "/bin/cat");
	document_free(d);
	write_file("many@.socket", "[Socket]\nListenStream=1\nAccept=yes\n");
	write_file("many@.service", "[Service]\n" STDIN);
	d = read_socket("many@.socket");
	assert_setting(d, "many-", "exec", "/bin/cat");
	document_free(d);
	write_file("lone.socket", "[Socket]\nListenStream=1\n");
	d = read_socket("lone.socket");
	assert_int_equal(d->n, 0);
	assert_remark(d, NULL, "lone.socket: its service is not there: lone.service");
	document_free(d);
	write_file("bare.socket", "[Socket]\nListenStream=1\n");
	write_file("bare.service", "[Service]\nUser=root\n");
	d = read_socket("bare.socket");
	assert_remark(d, NULL, "bare.socket: no program is started by bare.service");
	document_free(d);
}

static void mistakes_name_their_line_and_the_rest_is_read(void **state)
{
	struct document *d;
	(void)state;
	write_file("w.socket", "before=1\n[Socket]\nListenStream=80\n; comment\n# "
	                       "comment\nnonsense\nAccept=perhaps\nBacklog=many\n[Bad\n=x\n");
	write_file("w.service", "[Service]\n" STDIN "UMask=99\nLimitCORE=much\nRuntimeMaxSec=5 parsecs\nNice=low\n");
	d = read_socket("w.socket");
	assert_error(d, "w.socket", 1, "before: before the first section");
	assert_error(d, "w.socket", 6, "neither [SECTION] nor KEY=VALUE: nonsense");
	assert_error(d, "w.socket", 7, "Accept=perhaps: not yes or no");
	assert_error(d, "w.socket", 8, "Backlog=many: not a number");
	assert_error(d, "w.socket", 9, "neither [SECTION]");
	assert_error(d, "w.socket", 10, "neither [SECTION]");
	assert_error(d, "w.service", 4, "UMask=99: not an octal mode");
	assert_error(d, "w.service", 5, "LimitCORE=much: not a limit");
	assert_error(d, "w.service", 6, "RuntimeMaxSec=5 parsecs: not a time");
	assert_error(d, "w.service", 7, "Nice=low: not a number");
	assert_int_equal(d->n_errors, 10);
	assert_setting(d, "w", "listen", "tcp://*:80");
	document_free(d);
	d = read_pair(ACCEPT "ListenDatagram=1\n", STDIN);
	assert_error(d, "x.socket", 4, "Accept=yes is of streams alone");
	document_free(d);
	write_file("x.service", "[Service]\n" STDIN);
	d = read_socket("x.service");
	assert_int_equal(d->n_errors, 1);
	assert_non_null(strstr(d->errors[0], "should end in .socket"));
	document_free(d);
	d = read_socket("none.socket");
	assert_int_equal(d->n_errors, 1);
	assert_non_null(strstr(d->errors[0], "none.socket: No such file or directory"));
	document_free(d);
}

static void a_command_that_grows_without_end_is_cut(void **state)
{
	static char text[40000];
	size_t n;
	(void)state;
	n = (size_t)snprintf(text, sizeof text, "[Service]\nStandardInput=socket\nEnvironment=A=");
	memset(text + n, 'a', 10000);
	n += 10000;
	n += (size_t)snprintf(text + n, sizeof text - n, "\nExecStart=/bin/cat ");
	for (int i = 0; i < 1000; i++)
		n += (size_t)snprintf(text + n, sizeof text - n, "${A}${A}${A} ");
	write_file("x@.service", text);
	write_file("x.socket", "[Socket]\n" ACCEPT);
	struct document *d = read_socket("x.socket");
	assert_int_equal(d->n_errors, 1);
	assert_non_null(strstr(d->errors[0], "ExecStart: longer than 65536 bytes"));
	document_free(d);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_program_a_connection_is_a_section),
		cmocka_unit_test(times_and_sizes_are_systemds),
		cmocka_unit_test(a_program_with_the_socket_waits),
		cmocka_unit_test(a_program_that_takes_descriptors_is_disabled),
		cmocka_unit_test(addresses_are_translated),
		cmocka_unit_test(unix_sockets_have_their_owner_and_mode),
		cmocka_unit_test(what_is_no_socket_is_refused_by_name),
		cmocka_unit_test(commands_are_taken_apart_as_systemd_does),
		cmocka_unit_test(standard_error_goes_where_it_went),
		cmocka_unit_test(the_environment_is_what_the_unit_says),
		cmocka_unit_test(a_condition_disables_the_service_and_is_told),
		cmocka_unit_test(what_would_open_the_service_disables_it),
		cmocka_unit_test(a_limit_of_systemd_that_is_wrong_is_its_default),
		cmocka_unit_test(each_directive_that_is_not_carried_is_one_remark),
		cmocka_unit_test(drop_ins_come_after_the_unit_in_order),
		cmocka_unit_test(the_service_is_found_by_name),
		cmocka_unit_test(mistakes_name_their_line_and_the_rest_is_read),
		cmocka_unit_test(a_command_that_grows_without_end_is_cut),
	};

	return cmocka_run_group_tests(tests, set_up, tear_down);
}
