/* test_config_values.c — hark.conf: the values of its keys, what is said of a wrong one, and its words. */
#include "config_support.h"

/* ---- values ---- */

static const struct {
	const char *setting, *effective; /* effective NULL: the same */
} good[] = {
	{"model = process", NULL},
	{"workers = 4", NULL},
	{"engine = poll", NULL},
	{"stack = 256k", "stack = 262144"},
	{"stack = 0", NULL},
	{"first = client", NULL},
	{"first = server", NULL},
	{"start = demand", NULL},
	{"stop_idle = 90s", NULL},
	{"idle_timeout = 1.5", "idle_timeout = 1500ms"},
	{"keepalive = 90s", NULL},
	{"user_timeout = 5s", NULL},
	{"until_eof = yes", NULL},
	{"lifetime = 120m", "lifetime = 2h"},
	{"grace = 0", NULL},
	{"stop_ladder = 2  5m", "stop_ladder = 2s 5m"},
	{"backlog = 128", NULL},
	{"reuseport = yes", NULL},
	{"v6only = yes", NULL},
	{"defer_accept = 1500ms", "defer_accept = 2s"},
	{"max_conns = 100", NULL},
	{"max_per_source = 3", NULL},
	{"source_prefix = 24 56", NULL},
	{"rate = 50", "rate = 50/s burst 50"},
	{"rate = 0.5/s", "rate = 0.5/s burst 1"},
	{"rate = 256/m burst 300", NULL},
	{"rate_per_source = 1000/h", "rate_per_source = 1000/h burst 1000"},
	{"rate = 1/d", "rate = 1/d burst 1"},
	{"max_load = 2.5", NULL},
	{"user = root", NULL},
	{"group = root", NULL},
	{"groups = root", NULL},
	{"groups = none", NULL},
	{"chroot = /", NULL},
	{"directory = /tmp", NULL},
	{"umask = 22", "umask = 022"},
	{"nice = -5", NULL},
	{"rlimit_nofile = 1k:4k", "rlimit_nofile = 1024:4096"},
	{"rlimit_as = 1g", "rlimit_as = 1073741824"},
	{"rlimit_core = 0:unlimited", NULL},
	{"rlimit_cpu = 60", NULL},
	{"rlimit_memlock = unlimited", NULL},
	{"env = TZ=UTC 'A=b c'", "env = \"A=b c\""},
	{"env = E=", NULL},
	{"pass_env = PATH HOME X_*", NULL},
	{"pass_env = *", NULL},
	{"pass_env = none", NULL},
	{"stdin = null", NULL},
	{"stderr = connection", NULL},
	{"stderr = /var/log/x", NULL},
	{"lookup_host = yes", NULL},
	{"socket_mode = 660", NULL},
	{"socket_user = root", NULL},
	{"socket_group = root", NULL},
	{"banner = hello\\n\\tyou\\\\ \\x07", "banner = hello\\n\\x09you\\\\ \\x07"},
	{"banner = login:\\x20", NULL},
	{"disable = yes", NULL},
	{"wait = yes", NULL},
};

static void each_key_is_read_and_printed(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
		char text[512];
		(void)snprintf(text, sizeof text, CAT "%s\n", good[i].setting);
		struct config *c = load_good(text);
		const char *want = good[i].effective != NULL ? good[i].effective : good[i].setting;
		if (!has_line(c->services[0]->text, want))
			fail_msg("%s: not %s in\n%s", good[i].setting, want, c->services[0]->text);
		config_free(c);
	}
}

static const struct {
	const char *setting, *error;
} bad[] = {
	{"model = fibre", "\"fibre\" is not inline|process|thread|fiber (did you mean fiber?)"},
	{"workers = 0", "\"0\" is not a number from 1 to 64"},
	{"workers = 65", "from 1 to 64"},
	{"workers = 2 # two", "(a comment needs a line of its own)"},
	{"workers = -1", "\"-1\" is not a number"},
	{"workers = 99999999999999999999", "is not a number"},
	{"engine = select", "is not epoll|uring|poll"},
	{"stack = 1k", "\"1k\" is not a size from 16384"},
	{"stack = 2g", "is not a size"},
	{"first = me", "is not client|server"},
	{"start = now", "is not boot|demand"},
	{"grace = soon", "is not a duration"},
	{"grace = -1s", "is not a duration"},
	{"grace = 9999999h", "longer than ten years"},
	{"defer_accept = 2h", "too long: 3600s is the most"},
	{"stop_ladder = 3s", "is not two durations"},
	{"stop_ladder = 3s 1s", "the second is sooner than the first"},
	{"reuseport = true", "is not yes|no"},
	{"source_prefix = 33 64", "is not two lengths"},
	{"source_prefix = 32", "is not two lengths"},
	{"rate = fast", "is not a rate"},
	{"rate = 5/w", "is not a rate"},
	{"rate = 5/sec", "is not a rate"},
	{"rate = 5/s burst", "is not a rate"},
	{"rate = 5/s burst 0.5", "is not a rate"},
	{"rate = 5/sburst 7", "is not a rate"},
	{"rate = 1e9", "is not a rate"},
	{"max_load = high", "is not a load average"},
	{"user = no-such-user-here", "no-such-user-here: no such user"},
	{"user = 4123456789", "the number 4123456789 has no entry, so the service needs a group"},
	{"group = no-such-group-here", "no such group"},
	{"groups = root no-such-group-here", "no such group"},
	{"socket_user = no-such-user-here", "no such user"},
	{"chroot = jail", "\"jail\" is not an absolute path"},
	{"directory = ~", "is not an absolute path"},
	{"umask = 9", "is not an octal mode"},
	{"umask = 1777", "is not an octal mode"},
	{"socket_mode = rw", "is not an octal mode"},
	{"nice = -41", "from -40 to 40"},
	{"rlimit_nofile = many", "is not a limit"},
	{"rlimit_nofile = 5:4", "has a soft limit above the hard one"},
	{"rlimit_nofile = unlimited:4", "has a soft limit above the hard one"},
	{"rlimit_cpu = 1k", "is not a limit: a number, \"unlimited\""},
	{"env = 1", "\"1\" is not NAME=VALUE"},
	{"env = =x", "is not NAME=VALUE"},
	{"env = A='x", "a ' has no second one"},
	{"pass_env = A=B", "is not a variable's name"},
	{"pass_env = *X", "is not a variable's name"},
	{"stdin = file", "is not connection|null"},
	{"stderr = err.log", "is not log|connection|null|PATH"},
	{"banner = \\q", "after a \\ stands"},
	{"banner = a\\x00", "after a \\ stands"},
	{"banner = \\x1", "after a \\ stands"},
	{"lisen = tcp://*:8", "t.conf:4: no such key: lisen (did you mean listen?)"},
	{"pid_fle = /x", "no such key: pid_fle ([harkd] has one like it)"},
	{"log = syslog", "log is a key of [harkd], not of a service"},
	{"include = x.conf", "include is a key of [harkd], not of a service"},
	{"exec = cat", "exec was given already, at line 3"},
	{"box = echo", "box: [s] has exec already, and one is served"},
	{"relay = tcp://localhost:1", "relay: [s] has exec already"},
	{"listen = tcp:/7", "listen: "},
	{"listen = 21100", "(did you mean tcp://*:21100?)"},
	{"listen = unix:run/x", "the path is not absolute"},
	{"listen = tcp://*:no-such-service", "no such tcp service: no-such-service"},
};

static void each_bad_value_is_said_with_its_place(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		char text[512];
		(void)snprintf(text, sizeof text, CAT "%s\n", bad[i].setting);
		struct config *c = load(text);
		if (c->n_errors != 1 || strncmp(c->errors[0], "t.conf:4: ", 10) != 0 ||
		    strstr(c->errors[0], bad[i].error) == NULL)
			fail_msg("%s: %zu errors, %s", bad[i].setting, c->n_errors,
			         c->n_errors > 0 ? c->errors[0] : "");
		config_free(c);
	}
}

static const struct {
	const char *text;
	const char *words[6]; /* NULL-terminated */
	const char *wrong;
} splits[] = {
	{"", {NULL}, NULL},
	{" a  b\tc ", {"a", "b", "c"}, NULL},
	{"'a b' \"c d\" e\\ f", {"a b", "c d", "e f"}, NULL},
	{"a'b'\"c\"\\d", {"abcd"}, NULL},
	{"'' \"\"", {"", ""}, NULL},
	{"'\\n' \"\\n\\t\\\\\\\"\"", {"\\n", "\n\t\\\""}, NULL},
	{"$HOME `x` *; # y", {"$HOME", "`x`", "*;", "#", "y"}, NULL},
	{"'a", {NULL}, "a ' has no second one"},
	{"\"a", {NULL}, "a \" has no second one"},
	{"\"a\\", {NULL}, "a \" has no second one"},
	{"a\\", {NULL}, "the \\ at the end has nothing after it"},
	{"\"\\d\"", {NULL}, "in \"..\" a \\ stands before"},
};

static void words_are_split_like_a_shells_and_nothing_is_expanded(void **state)
{
	struct whole w = {0};
	(void)state;
	for (size_t i = 0; i < sizeof splits / sizeof splits[0]; i++) {
		struct config_words words = {0};
		const char *wrong = words_split(&w, splits[i].text, &words, NULL);
		if (splits[i].wrong != NULL) {
			assert_non_null(wrong);
			assert_ptr_equal(strstr(wrong, splits[i].wrong), wrong);
		} else {
			size_t n = 0;
			assert_null(wrong);
			for (; splits[i].words[n] != NULL; n++) {
				assert_true(n < words.n);
				assert_string_equal(words.word[n], splits[i].words[n]);
			}
			assert_int_equal(words.n, n);
		}
		inside_free_words(&words);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(each_key_is_read_and_printed),
		cmocka_unit_test(each_bad_value_is_said_with_its_place),
		cmocka_unit_test(words_are_split_like_a_shells_and_nothing_is_expanded),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
