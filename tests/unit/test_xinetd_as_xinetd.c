/* test_xinetd_as_xinetd.c — xinetd.conf means what xinetd 2.3.15.3 makes of it; what cannot be kept closed is disabled,
 * and nothing is opened that xinetd keeps closed. */
#include "xinetd_support.h"

/* Lines of defaults, and a service that is complete with more lines from line 9 + those of defaults on. */
static struct document *read_both(const char *defaults, const char *more)
{
	char text[2048];

	(void)snprintf(text, sizeof text,
	               "defaults\n{\n%s}\nservice telnet\n{\nsocket_type = stream\nwait = no\nuser = root\n"
	               "server = /bin/cat\n%s}\n",
	               defaults, more);
	return read_text(text);
}

static struct document *read_service(const char *more)
{
	return read_both("", more);
}

static void letter_case_does_not_count(void **state)
{
	struct document *d = read_text(
		"Defaults\n{\nInstances = UnLimited\nDISABLED = Finger\n}\n"
		"SERVICE telnet\n{\nSocket_Type = STREAM\nPROTOCOL = Tcp\nWAIT = No\nuser = root\nServer = /bin/cat\n"
		"FLAGS = ipv4 nodelay\nlog_type = syslog DAEMON Info\nlog_on_success = host Pid\nGroups = YES\n}\n"
		"service finger\n{\nsocket_type = stream\nwait = no\nuser = root\nserver = /bin/cat\n}\n"
		"service ECHO\n{\ntype = internal unlisted\nport = 7\nid = x\nsocket_type = dgram\nwait = YES\n}\n"
		"service ftp\n{\nsocket_type = stream\nwait = no\nuser = root\nserver = /bin/cat\n"
		"only_from = LOCALHOST\n}\n");
	(void)state;
	assert_clean(d);
	assert_setting(d, "telnet", "listen", "tcp4://*:telnet");
	assert_setting(d, "telnet", "disable", NULL);
	assert_setting(d, "telnet", "groups", NULL);
	assert_setting(d, "finger", "disable", "yes");
	assert_setting(d, "x", "box", "echo");
	assert_setting(d, "ftp", "listen", "tcp://127.0.0.1:ftp");
	document_free(d);
}

static void arguments_may_be_repeated_and_the_last_value_of_a_variable_counts(void **state)
{
	struct document *d = read_service("server_args = -v -v x x\nenv = A=1 B=2\nenv += A=3\n");
	(void)state;
	assert_clean(d);
	assert_setting(d, "telnet", "exec", "/bin/cat -v -v x x");
	assert_setting(d, "telnet", "env", "B=2 A=3");
	document_free(d);
}

static void a_bind_that_cannot_be_read_opens_nothing(void **state)
{
	static const char *const lines[] = {
		"bind = 127.0.0.1 127.0.0.2\n", "bind =\n",           "bind = *\n",   "bind = [::1]\n",
		"bind = 127.0.0.1,::1\n",       "bind = 1.2.3.4.5\n", "bind = a/b\n", "interface = tcp://x\n",
	};
	(void)state;
	for (size_t i = 0; i < sizeof lines / sizeof lines[0]; i++) {
		for (int in_defaults = 0; in_defaults < 2; in_defaults++) {
			struct document *d = read_both(in_defaults ? lines[i] : "", in_defaults ? "" : lines[i]);
			assert_int_equal(d->n_errors, 1);
			assert_int_equal(d->n, 0);
			document_free(d);
		}
	}
}

static void an_address_to_bind_is_read_as_xinetd_reads_it(void **state)
{
	static const char *const cases[][2] = {
		{"bind = 127.1\n", "tcp://127.0.0.1:telnet"},
		{"bind = 0\n", "tcp4://*:telnet"},
		{"bind = localhost\n", "tcp4://localhost:telnet"},
		{"bind = localhost\nflags = IPv6\n", "tcp6://localhost:telnet"},
		{"bind = ::1\n", "tcp://[::1]:telnet"},
	};
	(void)state;
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		struct document *d = read_service(cases[i][0]);
		assert_clean(d);
		assert_setting(d, "telnet", "listen", cases[i][1]);
		document_free(d);
	}
}

static void who_binds_to_this_host_may_be_reached_from_it(void **state)
{
	static const char *const lines[] = {
		"bind = 127.0.0.1\nonly_from = 127.0.0.1\n",
		"bind = localhost\nonly_from = localhost\n",
		"bind = ::1\nonly_from = ::1 localhost\n",
	};
	(void)state;
	for (size_t i = 0; i < sizeof lines / sizeof lines[0]; i++) {
		struct document *d = read_service(lines[i]);
		assert_clean(d);
		assert_setting(d, "telnet", "disable", NULL);
		assert_remark(d, "telnet", "only_from = ");
		assert_loads(d);
		document_free(d);
	}
	struct document *d = read_service("bind = ::1\nonly_from = 127.0.0.1\n");
	assert_disabled(d, "telnet", "only_from");
	document_free(d);
}

static void a_limit_that_cannot_be_read_is_no_limit_lifted(void **state)
{
	static const char *const lines[] = {
		"only_from\n",         "instances = 3 4\n", "per_source =\n", "cps = 3\n",         "cps += 3 4\n",
		"access_times += 1\n", "flags += IDONLY\n", "umask = 0 7\n",  "rlimit_as = 1 2\n", "v6only = yes no\n",
	};
	(void)state;
	for (size_t i = 0; i < sizeof lines / sizeof lines[0]; i++) {
		struct document *d = read_service(lines[i]);
		assert_int_equal(d->n_errors, 1);
		assert_disabled(d, "telnet", "not all of its lines could be read");
		document_free(d);
	}
	static const char *const defaults[] = {"only_from\n", "instances = 3 4\n", "cps = 3\n", "log_type = FILES x\n"};
	for (size_t i = 0; i < sizeof defaults / sizeof defaults[0]; i++) {
		struct document *d = read_both(defaults[i], "");
		assert_int_equal(d->n_errors, 1);
		assert_disabled(d, "telnet", "not all of defaults could be read");
		document_free(d);
	}
}

static void what_to_log_must_be_right(void **state)
{
	static const char *const wrong[] = {
		"log_type = FILES /x\n",
		"log_type =\n",
		"log_type = FILE\n",
		"log_type = FILE /x many\n",
		"log_type = FILE /x 20K 10K\n",
		"log_type = SYSLOG\n",
		"log_type = SYSLOG local8\n",
		"log_type = SYSLOG daemon loud\n",
		"log_on_success = HOSTS\n",
		"log_on_failure = PID\n",
		"log_on_success = TRAFFIC\n",
	};
	static const char *const right[] = {"log_type = FILE /x 10K 20K\n", "log_type = syslog authpriv\n",
	                                    "log_on_failure = HOST ATTEMPT\n"};
	(void)state;
	for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
		struct document *d = read_service(wrong[i]);
		assert_int_equal(d->n_errors, 1);
		assert_setting(d, "telnet", "disable", "yes");
		document_free(d);
	}
	for (size_t i = 0; i < sizeof right / sizeof right[0]; i++) {
		struct document *d = read_service(right[i]);
		assert_clean(d);
		assert_setting(d, "telnet", "disable", NULL);
		document_free(d);
	}
}

static void a_port_that_is_not_that_of_etc_services_needs_unlisted(void **state)
{
	struct document *d = read_service("port = 2323\n");
	(void)state;
	assert_disabled(d, "telnet", "/etc/services");
	document_free(d);
	d = read_service("port = 23\n");
	assert_setting(d, "telnet", "disable", NULL);
	document_free(d);
	d = read_text("service nobody-lists-this\n{\nsocket_type = stream\nwait = no\nuser = root\nserver = /bin/cat\n"
	              "port = 2323\n}\n");
	assert_disabled(d, "nobody-lists-this", "/etc/services");
	document_free(d);
}

static void programs_have_xinetds_umask_and_environment(void **state)
{
	struct document *d = read_service("");
	(void)state;
	assert_setting(d, "telnet", "umask", "0022");
	assert_setting(d, "telnet", "pass_env", "*");
	document_free(d);
	d = read_both("umask = 077\npassenv = PATH\n", "");
	assert_setting(d, "telnet", "umask", "0077");
	assert_setting(d, "telnet", "pass_env", "PATH");
	document_free(d);
}

static void files_that_xinetd_passes_over_are_named(void **state)
{
	(void)state;
	(void)mkdir(path_of("some"), 0700);
	(void)mkdir(path_of("some/directory"), 0700);
	write_file("some/telnet.conf", "service telnet\n{\n");
	write_file("some/ftp~", "service ftp\n{\n");
	struct document *d = read_text("includedir some\n");
	assert_clean(d);
	assert_int_equal(d->n, 0);
	assert_remark(d, NULL, "telnet.conf is passed over, as by xinetd: its name has a .");
	assert_remark(d, NULL, "ftp~ is passed over");
	assert_remark(d, NULL, "directory is passed over, as by xinetd: it is no regular file");
	document_free(d);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(letter_case_does_not_count),
		cmocka_unit_test(arguments_may_be_repeated_and_the_last_value_of_a_variable_counts),
		cmocka_unit_test(a_bind_that_cannot_be_read_opens_nothing),
		cmocka_unit_test(an_address_to_bind_is_read_as_xinetd_reads_it),
		cmocka_unit_test(who_binds_to_this_host_may_be_reached_from_it),
		cmocka_unit_test(a_limit_that_cannot_be_read_is_no_limit_lifted),
		cmocka_unit_test(what_to_log_must_be_right),
		cmocka_unit_test(a_port_that_is_not_that_of_etc_services_needs_unlisted),
		cmocka_unit_test(programs_have_xinetds_umask_and_environment),
		cmocka_unit_test(files_that_xinetd_passes_over_are_named),
	};
	return cmocka_run_group_tests(tests, set_up, tear_down);
}
