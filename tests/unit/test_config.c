/* test_config.c — hark.conf: its grammar, its keys, what is said of what is wrong, what collides, and that what is
 * printed is read to the same again. */
#include "net_support.h"

#include <grp.h>

#include "document.h"
#include "inside.h"

/* ---- what the tests share ---- */

static struct config *load_bytes(const char *bytes, size_t n)
{
	struct config *c = NULL;
	int r = inside_load_bytes("t.conf", bytes, n, &c);
	assert_non_null(c);
	assert_int_equal(r, c->n_errors);
	return c;
}

static struct config *load(const char *text)
{
	return load_bytes(text, strlen(text));
}

static struct config *load_good(const char *text)
{
	struct config *c = load(text);
	for (size_t i = 0; i < c->n_errors; i++)
		print_error("%s\n", c->errors[i]);
	assert_int_equal(c->n_errors, 0);
	return c;
}

static bool says(char *const *list, size_t n, const char *what)
{
	for (size_t i = 0; i < n; i++)
		if (strstr(list[i], what) != NULL)
			return true;
	for (size_t i = 0; i < n; i++)
		print_error("not \"%s\" but: %s\n", what, list[i]);
	return false;
}

/* One error, with those words in it. */
static void expect_error(const char *text, const char *what)
{
	struct config *c = load(text);
	if (c->n_errors != 1 || !says(c->errors, c->n_errors, what)) {
		print_error("for:\n%s\n%zu errors, wanted: %s\n", text, c->n_errors, what);
		says(c->errors, c->n_errors, "?");
		fail();
	}
	config_free(c);
}

static void expect_warning(const char *text, const char *what)
{
	struct config *c = load_good(text);
	assert_true(says(c->warnings, c->n_warnings, what));
	config_free(c);
}

#define ECHO   "[s]\nlisten = tcp://*:7\nbox = echo\n"
#define ECHO_T "[t]\nlisten = tcp://*:7\nbox = echo\n"
#define CAT    "[s]\nlisten = tcp://*:7\nexec = cat\n"

static bool has_line(const char *text, const char *line)
{
	size_t n = strlen(line);
	for (const char *p = text; (p = strstr(p, line)) != NULL; p++)
		if ((p == text || p[-1] == '\n') && p[n] == '\n')
			return true;
	return false;
}

static char *print(const struct config *c)
{
	char *text = NULL;
	size_t n;
	FILE *to = open_memstream(&text, &n);
	assert_non_null(to);
	assert_int_equal(config_print(c, to), 0);
	fclose(to);
	return text;
}

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
	{"stop_ladder = 3s 1s", "has SIGKILL before SIGTERM"},
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

/* ---- the grammar ---- */

static void comments_are_lines_of_their_own(void **state)
{
	(void)state;
	struct config *c = load_good(
		"# a\n; b\n  # c\n\n[s] \n;listen = tcp://*:9\n\tlisten=tcp://*:7\nbox\t = echo\n");
	assert_int_equal(c->n_services, 1);
	assert_int_equal(c->services[0]->listen.n, 1);
	config_free(c);
	c = load_good("[s]\nlisten = tcp://*:7\nexec = echo 'a ; b' \"#c\" d;e f#g\n");
	assert_int_equal(c->n_warnings, 0);
	assert_string_equal(c->services[0]->argv.word[2], "a ; b");
	assert_string_equal(c->services[0]->argv.word[3], "#c");
	assert_string_equal(c->services[0]->argv.word[4], "d;e");
	assert_string_equal(c->services[0]->argv.word[5], "f#g");
	config_free(c);
	expect_warning("[s]\nlisten = tcp://*:7\nexec = cat # copies\n",
	               "t.conf:3: exec: the # or ; is part of the value");
	expect_error("[s] # here\n", "follows the section's head (a comment needs a line of its own)");
}

static void lines_end_and_continue_as_they_may(void **state)
{
	static const char last[] = "[s]\nlisten = tcp://*:7\nbox = echo";
	(void)state;
	config_free(load_good("\xef\xbb\xbf[s]\r\nlisten = tcp://*:7\r\nbox = echo\r\n"));
	config_free(load_good(last));
	config_free(load_good("[s]\nlisten = tcp://*:7 \\\n  udp://*:7\\\n\nbox = echo\\\n"));
	struct config *c = load_good(
		"[s]\nlisten = tcp://*:7\nexec = echo a\\\n  b \\\n   c\n# not continued \\\nworkers = 2\n");
	assert_int_equal(c->services[0]->argv.n, 5);
	assert_string_equal(c->services[0]->argv.word[4], "c");
	assert_int_equal(c->services[0]->workers, 2);
	config_free(c);
	/* An even number of backslashes is the value's own. */
	c = load_good("[s]\nlisten = tcp://*:7\nbox = echo\nbanner = a\\\\\nworkers = 3\n");
	assert_string_equal(c->services[0]->banner, "a\\");
	config_free(c);
	/* A place is that of a setting's first line. */
	expect_error(ECHO "banner = \\\n\\\n\\q\nworkers = 2\n", "t.conf:4: banner");
}

static void an_indented_line_is_a_setting(void **state)
{
	(void)state;
	struct config *c = load_good("[s]\n  listen = tcp://*:7\n  box = echo\n    workers = 2\n");
	assert_int_equal(c->services[0]->workers, 2);
	config_free(c);
}

static char file[300000]; /* of a long file */

/* Formats to text + at. Returns how long it is. */
static __attribute__((format(printf, 2, 3))) int add(int at, const char *format, ...)
{
	va_list args;
	va_start(args, format);
	int n = vsnprintf(file + at, sizeof file - (size_t)at, format, args);
	va_end(args);
	return n;
}

/* inih as Debian builds it has room for 200 bytes. */
static void long_values_come_through_whole(void **state)
{
	(void)state;
	for (size_t n = 150; n <= 16000; n = n < 260 ? n + 1 : n * 3) {
		int at = add(0, "[s]\nlisten = tcp://*:7\nexec = echo ");
		memset(file + at, 'x', n);
		strcpy(file + at + n, "\nworkers = 3\n");
		struct config *c = load_good(file);
		assert_int_equal(strlen(c->services[0]->argv.word[2]), n);
		assert_int_equal(c->services[0]->workers, 3);
		config_free(c);
	}
}

static void what_is_too_long_is_refused(void **state)
{
	(void)state;
	int at = add(0, "[s]\nlisten = tcp://*:7\nexec = echo ");
	memset(file + at, 'x', 100000);
	strcpy(file + at + 100000, "\nbox = echo\n");
	expect_error(file, "t.conf:3: the line is longer than 65536 bytes");
	strcpy(file + at + 50000, "\n");
	expect_error(file, "t.conf:3: exec: longer than 16384 bytes");
	at = add(0, ECHO);
	memset(file + at, 'k', 300);
	strcpy(file + at + 300, " = 1\n");
	expect_error(file, "t.conf:4: no such key: kkk");
	at = add(0, "[");
	memset(file + at, 's', 64);
	strcpy(file + at + 64, "]\nlisten = tcp://*:7\nbox = echo\n");
	expect_error(file, "has a name longer than 63 bytes");
	strcpy(file + at + 63, "]\nlisten = tcp://*:7\nbox = echo\n");
	struct config *c = load_good(file);
	assert_int_equal(strlen(c->services[0]->name), 63);
	config_free(c);
}

static void bytes_that_no_text_has_are_refused(void **state)
{
	static const char nul[] = ECHO "banner = a\0b\n", escape[] = ECHO "banner = \033[2J\n";
	(void)state;
	struct config *c = load_bytes(nul, sizeof nul - 1);
	assert_int_equal(c->n_errors, 1);
	assert_string_equal(c->errors[0], "t.conf:4: a NUL byte in the line");
	config_free(c);
	c = load_bytes(escape, sizeof escape - 1);
	assert_int_equal(c->n_errors, 1);
	assert_string_equal(c->errors[0], "t.conf:4: a control character in the line");
	config_free(c);
	expect_error(ECHO "x\x7fy = 1\n", "t.conf:4: a control character");
}

static void what_is_no_setting_is_said(void **state)
{
	(void)state;
	expect_error(ECHO "workers\n", "t.conf:4: this is neither [section] nor KEY = VALUE: workers");
	expect_error(ECHO "workers: 3\n", "t.conf:4: this is neither");
	expect_error(ECHO "= 3\n", "t.conf:4: this is neither");
	expect_error(ECHO "a ; b = 3\n", "t.conf:4: this is neither");
	expect_error(ECHO "[t\n", "t.conf:4: the \"[\" has no \"]\"");
	expect_error(ECHO "[]\nlisten = tcp://*:8\nbox = echo\n", "t.conf:4: a section has no name");
	expect_error(ECHO "[a b]\nlisten = tcp://*:8\nbox = echo\n", "t.conf:4: a section may have letters");
	expect_error("workers = 3\n" ECHO, "t.conf:1: workers stands before the first [section]");
	expect_error(ECHO "[s]\nworkers = 3\n", "t.conf:4: [s] was there already, at t.conf:1");
	expect_error(ECHO "[harkd]\nlisten = tcp://*:8\n",
	             "t.conf:5: listen is a key of a service or of [defaults], not of [harkd]");
	expect_error(ECHO "[harkd]\nlgo = syslog\n", "t.conf:5: no such key: lgo (did you mean log?)");
	expect_error(ECHO "[harkd]\nlog_format = xml\n", "t.conf:5: log_format: \"xml\" is not text|json");
	expect_error(ECHO "[harkd]\nlog_format = text\nlog_format = json\n",
	             "t.conf:6: log_format was given already, at line 5");
}

static void what_is_in_a_bad_section_is_checked_too(void **state)
{
	(void)state;
	struct config *c = load(ECHO "[s]\nworkers = 0\n");
	assert_int_equal(c->n_errors, 2);
	assert_true(says(c->errors, c->n_errors, "t.conf:5: workers"));
	assert_int_equal(c->n_services, 1);
	config_free(c);
}

static void all_errors_are_found_in_one_pass_and_in_order(void **state)
{
	static const char *const want[] = {
		"t.conf:1: include",     "t.conf:3: log_format",
		"t.conf:5: user",        "t.conf:6: [a] has no listen",
		"t.conf:7: no such key", "t.conf:8: box: no such box: ecko (did you mean echo?)",
		"t.conf:10: listen",     "t.conf:11: exec: cannot run /no/such",
		"t.conf:13: listen"};
	(void)state;
	struct config *c = load("include = \n[harkd]\nlog_format = x\n[defaults]\nuser = no-such-user-here\n[a]\nlisen "
	                        "= x\nbox = ecko\n"
	                        "[b]\nlisten = tcp\nexec = /no/such\n[c]\nlisten = udp://*:7 udp://*:7\nbox = echo\n");
	assert_int_equal(c->n_errors, sizeof want / sizeof want[0]);
	for (size_t i = 0; i < sizeof want / sizeof want[0]; i++)
		if (strncmp(c->errors[i], want[i], strlen(want[i])) != 0)
			fail_msg("%s instead of %s", c->errors[i], want[i]);
	config_free(c);
}

static void a_flood_of_errors_is_bounded(void **state)
{
	(void)state;
	int at = 0;
	for (int i = 0; i < 20000; i++)
		at += add(at, "x\n");
	struct config *c = load(file);
	assert_int_equal(c->n_errors, MESSAGES_MAX + 1);
	assert_string_equal(c->errors[MESSAGES_MAX], "and more than is told here");
	config_free(c);
}

static void services_and_settings_are_bounded(void **state)
{
	(void)state;
	int at = 0;
	for (int i = 0; i <= SERVICES_MAX; i++)
		at += add(at, "[s%d]\nlisten = unix:@hark-%d\nbox = echo\n", i, i);
	expect_error(file, "[s1024] is one too many");
	at = add(0, ECHO);
	for (int i = 0; i < SETTINGS_MAX; i++)
		at += add(at, "env = A=%d\n", i);
	struct config *c = load(file);
	assert_true(says(c->errors, c->n_errors, "env: too many words"));
	assert_true(says(c->errors, c->n_errors, "env is one too many: 4096 settings"));
	config_free(c);
	at = add(0, "[s]\nbox = echo\nlisten =");
	for (int i = 0; i <= LISTEN_MAX; i++)
		at += add(at, " tcp://*:%d", i + 1);
	expect_error(file, "listen: more than 64 addresses");
}

/* ---- services ---- */

static void what_a_service_must_have(void **state)
{
	(void)state;
	expect_error("[s]\nbox = echo\n", "t.conf:1: [s] has no listen");
	expect_error("[s]\nlisten =\nbox = echo\n", "t.conf:1: [s] has no listen");
	expect_error("[s]\nlisten = tcp://*:7\n", "t.conf:1: [s] has neither exec nor box nor relay: nothing to serve");
	expect_error("[default]\nbox = echo\n", "t.conf:1: [default] has no listen (did you mean defaults?)");
	expect_error("[s]\nlisten = tcp://*:7\nbox = echo --any-prt\n", "t.conf:3: box: no such option: --any-prt");
	expect_error("[s]\nlisten = tcp://*:7\nbox = discard x\n", "t.conf:3: box: discard takes no arguments");
	expect_error("[s]\nlisten = tcp://*:7\nexec = /no/such prog\n",
	             "t.conf:3: exec: cannot run /no/such: No such file");
	expect_error("[s]\nlisten = tcp://*:7\nexec = /etc/passwd\n",
	             "t.conf:3: exec: cannot run /etc/passwd: Permission denied");
	expect_error("[s]\nlisten = tcp://*:7\nbox = exec bin/cat\n", "box: bin/cat: give an absolute path");
	expect_error("[s]\nlisten = tcp://*:7\nexec = bin/cat\nchroot = /\n", "exec: bin/cat: give an absolute path");
	expect_error("[s]\nlisten = tcp://*:7\nexec = bin/no-such\n", "/bin/no-such: No such file or directory");
	expect_error(ECHO "stdin = null\n", "t.conf:4: stdin is for programs: it goes with exec, not with box");
	expect_error(ECHO "stop_ladder = 1s 2s\n", "stop_ladder is for programs");
	expect_error("[s]\nlisten = tcp://*:7\nrelay = --no-such tcp://h:1\n", "t.conf:3: relay: ");
	expect_error("[s]\nlisten = tcp://*:7\nrelay = tcp://h\n", "t.conf:3: relay: ");
	expect_error("[s]\nlisten = udp://*:7\nrelay = tcp://h:1\n",
	             "t.conf:2: listen: udp://*:7: relay with these arguments takes no datagrams");
	expect_warning(ECHO "socket_mode = 600\n", "t.conf:4: socket_mode: the service listens on no Unix socket");
}

static void the_argv_is_what_hark_serve_takes(void **state)
{
	static const char *const want[] = {"exec",
	                                   "--stderr",
	                                   "--host",
	                                   "--stdin-null",
	                                   "--term-after",
	                                   "2000000000ns",
	                                   "--kill-after",
	                                   "5000000000ns",
	                                   "cat",
	                                   "-u",
	                                   NULL};
	(void)state;
	struct config *c = load_good(
		"[s]\nlisten = tcp://*:7\nexec = cat -u\nstderr = connection\nlookup_host = yes\nstdin = null\n"
		"stop_ladder = 2s 5s\n[t]\nlisten = tcp://*:8\nbox = exec --argv0 x cat\nstderr = connection\n"
		"[r]\nlisten = tcp://*:9\nrelay = tcp://localhost:1\n");
	for (size_t i = 0; want[i] != NULL; i++)
		assert_string_equal(c->services[0]->argv.word[i], want[i]);
	assert_int_equal(c->services[0]->argv.n, 10);
	assert_string_equal(c->services[1]->argv.word[1], "--stderr");
	assert_string_equal(c->services[1]->argv.word[2], "--argv0");
	assert_string_equal(c->services[2]->argv.word[0], "relay");
	assert_string_equal(c->services[2]->argv.word[1], "tcp://localhost:1");
	assert_string_equal(c->services[2]->box->name, "relay");
	assert_string_equal(service_program((struct service *)c->services[0]), "cat");
	assert_string_equal(service_program((struct service *)c->services[1]), "cat");
	config_free(c);
}

static void a_service_wins_over_defaults_wherever_they_stand(void **state)
{
	(void)state;
	struct config *c = load_good("[a]\nlisten = tcp://*:7\nbox = echo\nworkers = 3\n"
	                             "[defaults]\nworkers = 2\nidle_timeout = 5s\nstderr = null\nenv = A=1 B=2\n"
	                             "[b]\nlisten = tcp://*:8\nexec = cat\nidle_timeout =\n"
	                             "[c]\nlisten = tcp://*:9\nexec = cat\nenv = C=3\nstderr = log\n");
	assert_int_equal(c->services[0]->workers, 3);
	assert_int_equal(c->services[0]->idle_timeout_ns, 5 * HARK_S);
	assert_int_equal(c->services[0]->env.n, 2);
	assert_int_equal(c->services[1]->workers, 2);
	assert_int_equal(c->services[1]->idle_timeout_ns, 0); /* an empty value: as if there were no default */
	assert_string_equal(c->services[1]->stderr_to, "null");
	assert_int_equal(c->services[2]->env.n, 1);
	assert_string_equal(c->services[2]->env.word[0], "C=3");
	assert_string_equal(c->services[2]->stderr_to, "log");
	config_free(c);
	expect_error(ECHO "[defaults]\nlisten = tcp://*:8\n",
	             "t.conf:5: listen is each service's own and cannot be a default");
	expect_error(ECHO "[t]\nlisten = tcp://*:8\nbox = echo\n[defaults]\nworkers = x\n", "t.conf:8: workers");
}

static void standards_are_what_the_table_says(void **state)
{
	(void)state;
	struct config *c = load_good(CAT);
	const struct config_service *s = c->services[0];
	assert_int_equal(s->model, HARK_MODEL_FIBER);
	assert_int_equal(s->workers, 1);
	assert_int_equal(s->client_first, -1);
	assert_int_equal(s->grace_ns, 10 * HARK_S);
	assert_int_equal(s->stop_idle_ns, 60 * HARK_S);
	assert_int_equal(s->source_v4_bits, 32);
	assert_int_equal(s->source_v6_bits, 64);
	assert_int_equal(s->umask, -1);
	assert_int_equal(s->socket_mode, -1);
	assert_true(s->uid == (uid_t)-1 && s->gid == (gid_t)-1 && s->groups == NULL);
	assert_int_equal(s->pass_env.n, 4);
	assert_string_equal(s->stderr_to, "log");
	assert_true(c->log_connections);
	assert_string_equal(c->log, "stderr");
	assert_string_equal(c->syslog_facility, "daemon");
	assert_int_equal(c->upgrade_timeout_ns, 30 * HARK_S);
	/* Every standard is one that its key takes: read as a setting it changes nothing. */
	for (const struct config_key *k = config_keys; k->name != NULL; k++) {
		char text[512];
		if (k->global || k->standard[0] == '\0')
			continue;
		(void)snprintf(text, sizeof text, CAT "%s = %s\n", k->name, k->standard);
		struct config *again = load_good(text);
		assert_string_equal(again->services[0]->text, s->text);
		config_free(again);
	}
	config_free(c);
}

static void a_disabled_service_may_lack_what_it_needs(void **state)
{
	(void)state;
	expect_warning("[s]\nlisten = tcp://*:7\ndisable = yes\nexec = /no/such\nuser = no-such-user-here\n" ECHO_T,
	               "cannot run /no/such");
	expect_error("[s]\nlisten = tcp://*:7\ndisable = yes\nbox = echo --what\n", "no such option: --what");
}

/* ---- addresses ---- */

static const struct {
	const char *a, *b;
	bool collide;
} pairs[] = {
	{"tcp://*:80", "tcp://*:80", true},
	{"tcp://*:80", "tcp://*:81", false},
	{"tcp://*:80", "udp://*:80", false},
	{"tcp://*:80", "tcp://127.0.0.1:80", true},
	{"tcp://127.0.0.1:80", "tcp://*:80", true},
	{"tcp://*:80", "tcp://[::1]:80", true},
	{"tcp4://*:80", "tcp6://*:80", false},
	{"tcp4://*:80", "tcp://*:80", true},
	{"tcp6://*:80", "tcp://*:80", true},
	{"tcp4://*:80", "tcp://[::1]:80", false},
	{"tcp6://*:80", "tcp://127.0.0.1:80", false},
	{"tcp://[::]:80", "tcp://127.0.0.1:80", true},
	{"tcp6://[::]:80", "tcp://127.0.0.1:80", false},
	{"tcp://0.0.0.0:80", "tcp://[::1]:80", false},
	{"tcp://0.0.0.0:80", "tcp://127.0.0.1:80", true},
	{"tcp://127.0.0.1:80", "tcp://127.0.0.2:80", false},
	{"tcp://[::1]:80", "tcp://[0:0::1]:80", true},
	{"tcp://127.0.0.1:80", "tcp4://127.0.0.1:80", true},
	{"tcp://*:http", "tcp://*:80", true},
	{"tcp://host:80", "tcp://HOST:80", true},
	{"tcp://host:80", "tcp://other:80", false},
	{"tcp://host:80", "tcp4://*:80", true},
	{"tcp://[fe80::1%eth0]:80", "tcp://[fe80::1%eth1]:80", false},
	{"tcp://*:0", "tcp://*:0", false},
	{"unix:/run/x", "unix:/run/x", true},
	{"unix:/run/x", "unixgram:/run/x", true},
	{"unix:@x", "unixgram:@x", false},
	{"unix:@x", "unix:@x", true},
	{"unix:/run/x", "unix:/run/y", false},
	{"fd:3", "fd:3", true},
	{"fd:3", "fd:4", false},
};

static void addresses_collide_as_the_kernel_has_it(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof pairs / sizeof pairs[0]; i++) {
		char text[512];
		(void)snprintf(text, sizeof text, "[a]\nlisten = %s\nbox = echo\n[b]\nlisten = %s\nbox = echo\n",
		               pairs[i].a, pairs[i].b);
		struct config *c = load(text);
		if ((c->n_errors > 0) != pairs[i].collide)
			fail_msg("%s and %s: %s", pairs[i].a, pairs[i].b, c->n_errors > 0 ? c->errors[0] : "no error");
		if (pairs[i].collide)
			assert_true(says(c->errors, c->n_errors, "t.conf:5: listen: ") &&
			            says(c->errors, 1, "[a] (t.conf:2) listens on"));
		config_free(c);
		(void)snprintf(text, sizeof text, "[a]\nlisten = %s\nlisten = %s\nbox = echo\n", pairs[i].a,
		               pairs[i].b);
		c = load(text);
		assert_int_equal(c->n_errors, pairs[i].collide);
		if (pairs[i].collide)
			assert_true(says(c->errors, 1, "t.conf:3: listen: ") &&
			            says(c->errors, 1, "the service itself listens on"));
		config_free(c);
	}
	config_free(load_good(
		"[a]\nlisten = tcp://*:80\nv6only = yes\nbox = echo\n[b]\nlisten = tcp4://*:80\nbox = echo\n"));
	config_free(load_good(
		"[a]\nlisten = tcp://*:80\nbox = echo\ndisable = yes\n[b]\nlisten = tcp://*:80\nbox = echo\n"));
}

/* ---- printing ---- */

static const char full[] =
	"[harkd]\ncontrol = none\npid_file = /run/x.pid\nlog = /var/log/hark\nlog_format = json\nsyslog_facility = "
	"local3\n"
	"log_connections = no\nupgrade_timeout = 5s\n"
	"[a]\nlisten = tcp://*:1 udp://127.0.0.1:domain \"unix:/tmp/a b\"\nexec = cat '' \"a\\n\\\"b\" 'c\\d' e#f \\# "
	"x'y z'\n"
	"env = A=1 \"B=  \"\nenv = C='x'\npass_env = none\nrlimit_core = 0\nuser = root\ngroups = root\nbanner = "
	"\\x20a\\x1b \\\\\n"
	"rate = 0.25/m burst 3.5\nsocket_mode = 600\nsocket_user = root\nstop_ladder = 1ms 2h\nmax_load = 0.1\nfirst = "
	"server\nnice = -3\n"
	"[b]\nlisten = fd:3\nbox = daytime --nist\ndisable = yes\nstart = demand\nstop_idle = 1ns\nstack = 64k\nengine "
	"= epoll\n"
	"[c]\nlisten = tcp6://[::1]:5\nrelay = unix:/run/x\nwait = no\ndirectory = /\nchroot = /\numask = 077\n";

static void what_is_printed_is_read_to_the_same(void **state)
{
	(void)state;
	struct config *c = load_good(full);
	char *first = print(c);
	struct config *again = load_good(first);
	char *second = print(again);
	assert_string_equal(first, second);
	assert_int_equal(again->n_services, 3);
	for (size_t i = 0; i < 3; i++)
		assert_string_equal(c->services[i]->text, again->services[i]->text);
	assert_int_equal(c->services[0]->argv.n, again->services[0]->argv.n);
	for (size_t i = 0; i < c->services[0]->argv.n; i++)
		assert_string_equal(c->services[0]->argv.word[i], again->services[0]->argv.word[i]);
	assert_string_equal(c->services[0]->banner, again->services[0]->banner);
	assert_true(c->services[0]->rate.events == again->services[0]->rate.events);
	assert_null(again->control);
	free(first);
	free(second);
	config_free(c);
	config_free(again);
}

static void a_services_text_is_its_effective_settings_alone(void **state)
{
	(void)state;
	struct config *a = load_good("[s]\nlisten = tcp://*:7\nbox = echo\nidle_timeout = 60s\n");
	struct config *b = load_good(
		"# other\n[defaults]\nidle_timeout = 1m\n[s]\n\nworkers = 1\nbox  = \"echo\"\nlisten = *:007\n");
	struct config *c = load_good("[s]\nlisten = tcp://*:7\nbox = echo\nidle_timeout = 61s\n");
	assert_string_equal(a->services[0]->text, b->services[0]->text);
	assert_string_not_equal(a->services[0]->text, c->services[0]->text);
	assert_int_equal(b->services[0]->place.line, 4);
	assert_ptr_equal(config_find(b, "s"), b->services[0]);
	assert_null(config_find(b, "t"));
	config_free(a);
	config_free(b);
	config_free(c);
}

/* ---- documents ---- */

static void a_document_is_loaded_with_its_own_places(void **state)
{
	(void)state;
	struct document_line lines[] = {
		{DOCUMENT_SETTING, (char *)"listen", (char *)"tcp://*:7", {"inetd.conf", 3}},
		{DOCUMENT_REMARK, NULL, (char *)"not carried over: x", {"inetd.conf", 3}},
		{DOCUMENT_SETTING, (char *)"box", (char *)"echo", {"inetd.conf", 3}},
		{DOCUMENT_SETTING, (char *)"workers", (char *)"0", {"inetd.conf", 4}},
		{DOCUMENT_SETTING, (char *)"banner", (char *)"a\nb", {"inetd.conf", 5}},
	};
	struct document_section section = {.name = (char *)"echo", .place = {"inetd.conf", 3}, .lines = lines, .n = 5};
	struct document_section *sections[] = {&section};
	char *errors[] = {(char *)"inetd.conf:1: what is this"};
	struct document d = {.sections = sections, .n = 1, .errors = errors, .n_errors = 1};
	struct config *c = NULL;
	assert_int_equal(config_load_document(&d, &c), 3);
	assert_string_equal(c->errors[0], "inetd.conf:1: what is this");
	assert_string_equal(c->errors[1], "inetd.conf:4: workers: \"0\" is not a number from 1 to 64");
	assert_string_equal(c->errors[2], "inetd.conf:5: banner: a control character in the value");
	assert_int_equal(c->n_services, 1);
	assert_string_equal(c->services[0]->place.file, "inetd.conf");
	assert_ptr_not_equal(c->services[0]->place.file, section.place.file);
	config_free(c);
	lines[3].value = (char *)"2";
	lines[4].value = (char *)"b";
	d.n_errors = 0;
	assert_int_equal(config_load_document(&d, &c), 0);
	config_free(c);
	d.broken = true;
	assert_int_equal(config_load_document(&d, &c), -ENOMEM);
}

/* ---- files ---- */

static char dir[] = "/tmp/hark-config-XXXXXX";

static void put(const char *name, const char *text)
{
	char path[256];
	(void)snprintf(path, sizeof path, "%s/%s", dir, name);
	FILE *f = fopen(path, "w");
	assert_non_null(f);
	fputs(text, f);
	assert_int_equal(fclose(f), 0);
}

static struct config *load_file(const char *name)
{
	char path[256];
	struct config *c = NULL;
	(void)snprintf(path, sizeof path, "%s/%s", dir, name);
	assert_true(config_load(path, &c) >= 0);
	return c;
}

static void expect_errors(const char *name, const char *const want[])
{
	struct config *c = load_file(name);
	size_t n = 0;
	for (; want[n] != NULL; n++) {
		char line[512];
		(void)snprintf(line, sizeof line, want[n], dir, dir);
		if (n >= c->n_errors || strncmp(c->errors[n], line, strlen(line)) != 0)
			fail_msg("%s instead of %s", n < c->n_errors ? c->errors[n] : "nothing", line);
	}
	if (c->n_errors > n)
		fail_msg("%s too", c->errors[n]);
	config_free(c);
}

static int make_dir(void **state)
{
	char path[64];
	(void)state;
	if (mkdtemp(dir) == NULL)
		return -1;
	(void)snprintf(path, sizeof path, "%s/conf.d", dir);
	return mkdir(path, 0755);
}

static int remove_dir(void **state)
{
	char command[128];
	(void)state;
	(void)snprintf(command, sizeof command, "rm -rf '%s'", dir);
	return system(command);
}

static void includes_are_read_in_place_and_sorted(void **state)
{
	(void)state;
	put("conf.d/b.conf", "[b]\nlisten = tcp://*:2\nbox = echo\n");
	put("conf.d/a.conf", "[a]\nlisten = tcp://*:1\nbox = echo\n");
	put("conf.d/ignored", "nonsense");
	put("last.inc", "[d]\nlisten = tcp://*:4\nbox = echo\n");
	put("main.conf",
	    "include = conf.d/*.conf\n[harkd]\ninclude = last.inc\ninclude = conf.d/none*.conf\nlog = syslog\n"
	    "[c]\nlisten = tcp://*:3\nbox = echo\n");
	struct config *c = load_file("main.conf");
	assert_int_equal(c->n_errors, 0);
	assert_int_equal(c->n_services, 4);
	assert_string_equal(c->services[0]->name, "a");
	assert_string_equal(c->services[1]->name, "b");
	assert_string_equal(c->services[2]->name, "d");
	assert_string_equal(c->services[3]->name, "c");
	assert_string_equal(c->log, "syslog"); /* the section goes on after an include */
	config_free(c);
}

static void errors_of_included_files_stand_where_they_were_read(void **state)
{
	(void)state;
	put("conf.d/b.conf", "[b]\nlisten = tcp://*:2\nbox = echo\nworkers = b\n");
	put("conf.d/a.conf", "workers = 1\n[a]\nlisten = tcp://*:1\nbox = echo\nworkers = a\n");
	put("main.conf", "[harkd]\ninclude = conf.d/*.conf\nlog_format = x\n[c]\nlisten = tcp://*:2\nbox = echo\n");
	expect_errors("main.conf",
	              (const char *const[]){"%s/conf.d/a.conf:1: workers stands before the first [section]",
	                                    "%s/conf.d/a.conf:5: workers", "%s/conf.d/b.conf:4: workers",
	                                    "%s/main.conf:3: log_format",
	                                    "%s/main.conf:5: listen: tcp://*:2: [b] (%s/conf.d/b.conf:2) listens on",
	                                    NULL});
}

static void includes_that_cannot_be_are_said(void **state)
{
	char path[256];
	(void)state;
	put("main.conf", "include = none.conf\ninclude = conf.d\ninclude = loop.conf\ninclude = pipe*\ninclude =\n");
	put("loop.conf", "include = main.conf\ninclude = loop.conf\n");
	(void)snprintf(path, sizeof path, "%s/pipe.fifo", dir);
	assert_int_equal(mkfifo(path, 0600), 0);
	expect_errors("main.conf",
	              (const char *const[]){"%s/main.conf:1: include: %s/none.conf: No such file or directory",
	                                    "%s/main.conf:2: include: %s/conf.d: Is a directory",
	                                    "%s/loop.conf:1: include: %s/main.conf: includes itself",
	                                    "%s/loop.conf:2: include: %s/loop.conf: includes itself",
	                                    "%s/main.conf:4: include: %s/pipe.fifo: not a regular file",
	                                    "%s/main.conf:5: include: no file is named", NULL});
	assert_int_equal(unlink(path), 0);
}

static void includes_nest_so_deep_and_no_deeper(void **state)
{
	(void)state;
	for (int i = 0; i <= INCLUDE_DEPTH_MAX + 1; i++) {
		char name[32], text[64];
		(void)snprintf(name, sizeof name, "deep%d", i);
		(void)snprintf(text, sizeof text, "include = deep%d\n", i + 1);
		put(name, i < INCLUDE_DEPTH_MAX + 1 ? text : "");
	}
	expect_errors("deep0", (const char *const[]){"%s/deep8:1: include: deep9: more than 8 files deep", NULL});
	expect_errors("deep1", (const char *const[]){NULL});
}

static void a_file_that_cannot_be_read_is_an_error(void **state)
{
	struct config *c = NULL;
	(void)state;
	expect_errors("none", (const char *const[]){"%s/none: No such file or directory", NULL});
	expect_errors("conf.d", (const char *const[]){"%s/conf.d: Is a directory", NULL});
	assert_int_equal(config_load("/dev/zero", &c), 1);
	assert_string_equal(c->errors[0], "/dev/zero: longer than 1 MB");
	config_free(c);
	assert_int_equal(config_load("/dev/null", &c), 0);
	assert_int_equal(c->n_services, 0);
	config_free(c);
}

static void a_programs_path_is_meant_from_its_file(void **state)
{
	char path[256], *real = realpath(dir, NULL);
	(void)state;
	put("conf.d/prog", "#!/bin/sh\n");
	(void)snprintf(path, sizeof path, "%s/conf.d/prog", dir);
	assert_int_equal(chmod(path, 0755), 0);
	put("main.conf", "include = conf.d/p.inc\n[b]\nlisten = tcp://*:2\nexec = conf.d/../conf.d/prog x\n");
	put("conf.d/p.inc", "[a]\nlisten = tcp://*:1\nexec = ./prog\n");
	struct config *c = load_file("main.conf");
	assert_int_equal(c->n_errors, 0);
	(void)snprintf(path, sizeof path, "%s/conf.d/./prog", real);
	assert_string_equal(c->services[0]->argv.word[1], path);
	(void)snprintf(path, sizeof path, "%s/conf.d/../conf.d/prog", real);
	assert_string_equal(c->services[1]->argv.word[1], path);
	assert_string_equal(c->services[1]->argv.word[2], "x");
	config_free(c);
	free(real);
}

/* ---- the system ---- */

static void a_program_is_looked_for_where_the_worker_will(void **state)
{
	char text[512];
	(void)state;
	(void)snprintf(text, sizeof text,
	               "[a]\nlisten = tcp://*:1\nexec = prog\nenv = PATH=/no/such:%s/conf.d\n"
	               "[b]\nlisten = tcp://*:2\nexec = prog\nenv = PATH=/no/such\n",
	               dir);
	struct config *c = load_good(text);
	assert_int_equal(config_check_system(c), 1);
	assert_string_equal(c->errors[0], "t.conf:7: exec: harkd cannot run prog: No such file or directory");
	config_free(c);
}

static void a_users_own_rights_are_tried(void **state)
{
	char text[2048];
	(void)state;
	if (geteuid() != 0)
		skip(); /* to be another user takes root */
	put("private", "#!/bin/sh\n");
	(void)snprintf(text, sizeof text, "%s/private", dir);
	assert_int_equal(chmod(text, 0755), 0);
	assert_int_equal(chmod(dir, 0700), 0);
	(void)snprintf(text, sizeof text,
	               "[a]\nlisten = unix:@1\nexec = %s/private\nuser = nobody\n[b]\nlisten = unix:@2\nexec = "
	               "cat\nuser = nobody\ndirectory = %s\n"
	               "[c]\nlisten = unix:@3\nexec = /bin/cat\nchroot = %s\n[d]\nlisten = unix:@4\nexec = "
	               "/private\nchroot = %s\n"
	               "[e]\nlisten = unix:@5\nbox = echo\nchroot = /no/such\nuser = nobody\n[f]\nlisten = "
	               "unix:@6\nexec = /private\nchroot = %s\nuser = nobody\n"
	               "[g]\nlisten = unix:@7\nexec = cat\nuser = nobody\nchroot = /\ndirectory = /tmp\n[h]\nlisten = "
	               "unix:@8\nexec = %s/private\n"
	               "[i]\nlisten = unix:@9\nbox = echo\ndirectory = /no/such\n[j]\nlisten = unix:@10\nbox = "
	               "echo\nuser = nobody\ndisable = yes\nchroot = /no\n",
	               dir, dir, dir, dir, dir, dir);
	struct config *c = load_good(text);
	int n = config_check_system(c);
	assert_int_equal(n, 6);
	assert_true(says(c->errors, 1, "t.conf:3: exec: nobody cannot run ") &&
	            says(c->errors, 1, "Permission denied at /tmp/hark-config-"));
	assert_true(says(c->errors + 1, 1, "t.conf:9: directory: nobody cannot enter /tmp/hark-config-"));
	assert_true(says(c->errors + 2, 1, "t.conf:12: exec: harkd cannot run /bin/cat in /tmp/hark-config-"));
	assert_true(says(c->errors + 3, 1, "t.conf:21: chroot: cannot enter /no/such: No such file or directory"));
	assert_true(says(c->errors + 4, 1, "t.conf:25: exec: nobody cannot run /private in ") ||
	            says(c->errors + 4, 1, "t.conf:24: exec: nobody cannot run /private in "));
	assert_true(says(c->errors + 5, 1, "directory: harkd cannot enter /no/such: No such file or directory"));
	assert_int_equal(config_check_system(c), n); /* and not said twice */
	config_free(c);
	assert_int_equal(chmod(dir, 0755), 0);
}

static void another_user_needs_root(void)
{
	struct config *c = NULL;
	if (geteuid() == 0)
		CHECK(setgroups(0, NULL) == 0 && setresgid(65534, 65534, 65534) == 0 &&
		      setresuid(65534, 65534, 65534) == 0);
	static const char text[] =
		"[a]\nlisten = unix:@1\nbox = echo\nuser = root\n[b]\nlisten = unix:@2\nbox = echo\ngroup = root\n"
		"[c]\nlisten = unix:@3\nbox = echo\nchroot = /\n[d]\nlisten = unix:@4\nbox = echo\nuser = nobody\n";
	CHECK(inside_load_bytes("t.conf", text, sizeof text - 1, &c) == 0);
	int n = config_check_system(c);
	CHECK(n == (geteuid() == 65534 ? 3 : 4));
	CHECK(strstr(c->errors[0], "t.conf:4: user: cannot become root: Operation not permitted (this needs root)") !=
	      NULL);
	CHECK(strstr(c->errors[1], "t.conf:8: group: cannot become root: Operation not permitted (this needs root)") !=
	      NULL);
	CHECK(strstr(c->errors[2], "t.conf:12: chroot: cannot enter /: Operation not permitted (this needs root)") !=
	      NULL);
	config_free(c);
}

/* ---- out of memory ---- */

static long allocations_left = -1; /* -1: without end */

static bool spent(void)
{
	if (allocations_left < 0)
		return false;
	if (allocations_left == 0)
		return true;
	allocations_left--;
	return false;
}

/* The linker sends the calls of everything that is linked in here (-Wl,--wrap), the libraries' own excepted. */
void *__real_malloc(size_t n);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *old, size_t n);
void *__real_reallocarray(void *old, size_t n, size_t size);
char *__real_strndup(const char *text, size_t n);
void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *old, size_t n);
void *__wrap_reallocarray(void *old, size_t n, size_t size);
char *__wrap_strndup(const char *text, size_t n);

void *__wrap_malloc(size_t n)
{
	return spent() ? NULL : __real_malloc(n);
}

void *__wrap_calloc(size_t n, size_t size)
{
	return spent() ? NULL : __real_calloc(n, size);
}

void *__wrap_realloc(void *old, size_t n)
{
	return spent() ? NULL : __real_realloc(old, n);
}

void *__wrap_reallocarray(void *old, size_t n, size_t size)
{
	return spent() ? NULL : __real_reallocarray(old, n, size);
}

char *__wrap_strndup(const char *text, size_t n)
{
	return spent() ? NULL : __real_strndup(text, n);
}

static void out_of_memory_at_any_call_is_told_and_nothing_leaks(void **state)
{
	static const char text[] = "[harkd]\nlog = syslog\nx = y\n[a]\nlisten = tcp://*:7 udp://*:7\nexec = cat 'a "
				   "b'\nenv = A=b C=d\nuser = root\n"
				   "banner = x\\n\n[b]\nlisten = unix:/x\nbox = daytime --nist\n";
	long n = 0;
	int r = -ENOMEM;
	(void)state;
	for (; r == -ENOMEM; n++) {
		struct config *c = (struct config *)&n;
		allocations_left = n;
		r = inside_load_bytes("t.conf", text, sizeof text - 1, &c);
		bool enough = allocations_left > 0;
		allocations_left = -1;
		if (r == -ENOMEM) {
			assert_ptr_equal(c, &n);
			continue;
		}
		assert_true(enough || r == 1);
		config_free(c);
	}
	assert_int_equal(r, 1);
	assert_true(n > 100);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(each_key_is_read_and_printed),
		cmocka_unit_test(each_bad_value_is_said_with_its_place),
		cmocka_unit_test(words_are_split_like_a_shells_and_nothing_is_expanded),
		cmocka_unit_test(comments_are_lines_of_their_own),
		cmocka_unit_test(lines_end_and_continue_as_they_may),
		cmocka_unit_test(an_indented_line_is_a_setting),
		cmocka_unit_test(long_values_come_through_whole),
		cmocka_unit_test(what_is_too_long_is_refused),
		cmocka_unit_test(bytes_that_no_text_has_are_refused),
		cmocka_unit_test(what_is_no_setting_is_said),
		cmocka_unit_test(what_is_in_a_bad_section_is_checked_too),
		cmocka_unit_test(all_errors_are_found_in_one_pass_and_in_order),
		cmocka_unit_test(a_flood_of_errors_is_bounded),
		cmocka_unit_test(services_and_settings_are_bounded),
		cmocka_unit_test(what_a_service_must_have),
		cmocka_unit_test(the_argv_is_what_hark_serve_takes),
		cmocka_unit_test(a_service_wins_over_defaults_wherever_they_stand),
		cmocka_unit_test(standards_are_what_the_table_says),
		cmocka_unit_test(a_disabled_service_may_lack_what_it_needs),
		cmocka_unit_test(addresses_collide_as_the_kernel_has_it),
		cmocka_unit_test(what_is_printed_is_read_to_the_same),
		cmocka_unit_test(a_services_text_is_its_effective_settings_alone),
		cmocka_unit_test(a_document_is_loaded_with_its_own_places),
		cmocka_unit_test(includes_are_read_in_place_and_sorted),
		cmocka_unit_test(errors_of_included_files_stand_where_they_were_read),
		cmocka_unit_test(includes_that_cannot_be_are_said),
		cmocka_unit_test(includes_nest_so_deep_and_no_deeper),
		cmocka_unit_test(a_file_that_cannot_be_read_is_an_error),
		cmocka_unit_test(a_programs_path_is_meant_from_its_file),
		cmocka_unit_test(a_program_is_looked_for_where_the_worker_will),
		cmocka_unit_test(a_users_own_rights_are_tried),
		IN_CHILD(another_user_needs_root),
		cmocka_unit_test(out_of_memory_at_any_call_is_told_and_nothing_leaks),
	};
	return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
