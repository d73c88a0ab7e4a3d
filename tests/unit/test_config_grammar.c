/* test_config_grammar.c — hark.conf: its lines and sections, and where what is too long or too much is refused. */
#include "config_support.h"

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
	/* A terminal may take U+009B for ESC [. */
	expect_error(ECHO "workers = \xc2\x9b"
	                  "2J\xff\n",
	             "workers: \"??2J?\" is not");
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

int main(void)
{
	const struct CMUnitTest tests[] = {
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
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
