/* test_box_keys.c — the options of boxes: typed, by one table; --x V on the box's line is the key x = V of its section.
 */
#include "config_support.h"

#include "box.h"

#define SERVICE "[s]\nlisten = tcp://*:7\n"

/* words: the service's argv, each followed by a '|'. */
static void expect_argv(const char *text, const char *words)
{
	char got[512] = "";
	struct config *c = load_good(text);
	for (size_t i = 0; i < c->services[0]->argv.n; i++)
		(void)snprintf(got + strlen(got), sizeof got - strlen(got), "%s|", c->services[0]->argv.word[i]);
	assert_string_equal(got, words);
	config_free(c);
}

static void no_option_has_the_name_of_a_services_key(void **state)
{
	(void)state;
	for (const struct hark_box_row *const *b = boxes; *b != NULL; b++) {
		size_t n = 0;
		assert_int_equal((*b)->version, HARK_BOX_VERSION);
		for (const struct hark_option *o = (*b)->options; o != NULL && o->name != NULL; o++, n++) {
			char key[64];
			(void)snprintf(key, sizeof key, "%s", o->name);
			for (char *p = key; *p != '\0'; p++)
				*p = *p == '-' ? '_' : *p;
			if (key_find(key) != NULL)
				fail_msg("--%s of %s is a key of every service", o->name, (*b)->name);
		}
		assert_true(n <= HARK_BOX_OPTIONS_MAX);
	}
}

static void every_standard_is_a_value_that_the_option_takes(void **state)
{
	(void)state;
	for (const struct hark_box_row *const *b = boxes; *b != NULL; b++) {
		void *s = box_new(*b);
		assert_non_null(s);
		for (const struct hark_option *o = (*b)->options; o != NULL && o->name != NULL; o++) {
			char *text = NULL;
			size_t n;
			FILE *to = open_memstream(&text, &n);
			box_option_print(o, s, to);
			assert_int_equal(fclose(to), 0);
			if (o->standard != NULL)
				assert_string_equal(text, o->standard);
			if (text[0] != '\0')
				assert_int_equal(box_option_set(o, text, s, NULL), 0);
			free(text);
		}
		box_free(*b, s);
	}
}

static void an_option_of_the_box_is_a_key_of_its_section(void **state)
{
	(void)state;
	expect_argv(SERVICE "box = chargen\nlonger = yes\nany_port = no\n", "chargen|--longer=yes|");
	expect_argv("[s]\nlonger = yes\nbox = chargen\nlisten = tcp://*:7\n", "chargen|--longer=yes|");
	expect_argv(SERVICE "box = chargen --any-port\nlonger = yes\n", "chargen|--longer=yes|--any-port|");
	expect_argv(SERVICE "relay = tcp://localhost:1\nconnect_timeout = 1500ms\nlocal = :99\n",
	            "relay|--connect-timeout=1500ms|--local=:99|tcp://localhost:1|");
	expect_argv(SERVICE "relay = --local 127.0.0.1 tcp://localhost:1\nconnect_timeout = 60\n",
	            "relay|--connect-timeout=1m|--local|127.0.0.1|tcp://localhost:1|");
	expect_argv(SERVICE "exec = cat --stderr\nargv0 = -x y\n", "exec|--argv0=-x y|cat|--stderr|");
	expect_argv(SERVICE "exec = cat\nargv0 = 0\n", "exec|--argv0=0|cat|");
	expect_argv(SERVICE "box = exec -- cat\nstop_ladder = 1 2\n", "exec|--stop-ladder=1s 2s|--|cat|");
}

static void the_line_and_the_key_together_are_an_error(void **state)
{
	(void)state;
	expect_error(SERVICE "box = chargen --longer\nlonger = yes\n",
	             "t.conf:4: longer: --longer stands in box, at line 3, too");
	expect_error("[s]\nlonger = no\nlisten = tcp://*:7\nbox = chargen --longer\n", "t.conf:2: longer: ");
	expect_error(SERVICE "relay = --connect-timeout=1s tcp://h:1\nconnect_timeout = 2s\n",
	             "t.conf:4: connect_timeout: ");
	expect_error(SERVICE "box = chargen\nlonger = yes\nlonger = yes\n", "longer was given already, at line 4");
}

static void a_wrong_value_is_said_at_its_key(void **state)
{
	(void)state;
	expect_error(SERVICE "box = chargen\nlonger = maybe\n", "t.conf:4: longer: \"maybe\" is not yes|no");
	expect_error(SERVICE "relay = tcp://h:1\nconnect_timeout = soon\n",
	             "t.conf:4: connect_timeout: \"soon\" is not a duration");
	expect_error(SERVICE "relay = tcp://h:1\nconnect_timeout = 0\n",
	             "t.conf:4: connect_timeout: \"0\" is too short");
	expect_error(SERVICE "box = qotd\nfile = quotes\n", "t.conf:4: file: \"quotes\" is not an absolute path");
	expect_error(SERVICE "exec = cat\nstderr = e\n", "t.conf:4: stderr: \"e\" is not log|connection|null|PATH");
}

static void a_name_that_nobody_has_is_answered_with_the_nearest(void **state)
{
	(void)state;
	expect_error(SERVICE "box = chargen\nlongr = yes\n", "t.conf:4: no such key: longr (did you mean longer?)");
	expect_error(SERVICE "box = chargen\nany-port = yes\n", "no such key: any-port (did you mean any_port?)");
	expect_error(SERVICE "box = chargen\nnist = yes\n", "nist is an option of the box daytime, not of chargen");
	expect_error(SERVICE "box = ecko\nlonger = yes\n", "no such box: ecko");
	expect_error("longer = yes\n" SERVICE "box = chargen\n", "t.conf:1: no such key: longer");
	expect_error("[harkd]\nlonger = yes\n" SERVICE "box = chargen\n", "t.conf:2: no such key: longer");
}

static void defaults_count_where_the_box_has_the_option(void **state)
{
	(void)state;
	static const char text[] = "[defaults]\nlonger = yes\nconnect_timeout = 2s\n"
				   "[a]\nlisten = tcp://*:1\nbox = time\n"
				   "[b]\nlisten = tcp://*:2\nbox = time\nlonger = no\n"
				   "[c]\nlisten = tcp://*:3\nbox = time --longer\n"
				   "[d]\nlisten = tcp://*:4\nbox = discard\n"
				   "[e]\nlisten = tcp://*:5\nbox = time\nlonger =\n"
				   "[f]\nlisten = tcp://*:6\nrelay = tcp://localhost:1\n";
	static const char *const want[] = {"--longer=yes", NULL, "--longer", NULL, NULL, "--connect-timeout=2s"};
	struct config *c = load_good(text);
	for (size_t i = 0; i < c->n_services; i++) {
		assert_int_equal(c->services[i]->argv.n, 1 + (want[i] != NULL) + (i == 5));
		if (want[i] != NULL)
			assert_string_equal(c->services[i]->argv.word[1], want[i]);
	}
	config_free(c);
	expect_error("[defaults]\nlonger = maybe\n" SERVICE "box = chargen\n", "t.conf:2: longer: \"maybe\"");
	expect_error("[defaults]\nlongest = yes\n" SERVICE "box = chargen\n", "t.conf:2: no such key: longest");
}

static void what_is_printed_says_each_option_once(void **state)
{
	(void)state;
	static const char *const texts[] = {
		SERVICE "box = daytime --nist\nlonger = yes\n",
		SERVICE "exec = cat\nterm_after = 2s\nhost = yes\n",
		SERVICE "relay = --connect-timeout 3s tcp://localhost:1\nlocal = 127.0.0.1\n",
		SERVICE "box = exec --stderr=null cat\nargv0 = --x\n",
	};
	for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
		struct config *c = load_good(texts[i]);
		struct config *again = load_good(c->services[0]->text);
		assert_string_equal(again->services[0]->text, c->services[0]->text);
		config_free(again);
		config_free(c);
	}
}

static const char *parse_error(const char *box, const char *const argv[], int argc)
{
	static struct hark_why why;
	void *s = NULL;
	const struct hark_box_row *b = box_find(box);
	why.text[0] = '\0';
	int r = box_parse(b, argc, (char *const *)argv, &s, &why);
	assert_true((r < 0) == (why.text[0] != '\0'));
	box_free(b, s);
	return why.text;
}

#define PARSE(box, ...) \
	parse_error(box, (const char *const[]){__VA_ARGS__}, \
	            (int)(sizeof((const char *const[]){__VA_ARGS__}) / sizeof(const char *)))

static void a_command_line_is_read_by_the_same_table(void **state)
{
	(void)state;
	assert_string_equal(PARSE("chargen", "--longer", "--any-port=no"), "");
	assert_string_equal(PARSE("exec", "--stderr", "cat"), "");
	assert_string_equal(PARSE("exec", "--stderr=null", "--stdin", "null", "--", "-x"), "");
	assert_string_equal(PARSE("chargen", "--long"), "no such option: --long (did you mean --longer?)");
	assert_string_equal(PARSE("chargen", "--any_port"), "no such option: --any_port (did you mean --any-port?)");
	assert_string_equal(PARSE("chargen", "-l"), "no such option: -l");
	assert_string_equal(PARSE("chargen", "--longer=2"), "--longer: \"2\" is not yes|no");
	assert_string_equal(PARSE("chargen", "x"), "unexpected argument: x");
	assert_string_equal(PARSE("chargen", "--longer", "--longer=no"), ""); /* the last one counts */
	assert_string_equal(PARSE("exec", "--argv0"), "--argv0 wants a value");
	assert_string_equal(PARSE("exec", "--stdin", "nul", "cat"),
	                    "--stdin: \"nul\" is not connection|null (did you mean null?)");
	assert_string_equal(PARSE("exec", "--stop-ladder", "3s", "cat"),
	                    "--stop-ladder: \"3s\" is not two durations (1s 3s)");
	assert_string_equal(PARSE("relay", "--connect-timeout", "0", "tcp://h:1"),
	                    "--connect-timeout: \"0\" is too short");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(no_option_has_the_name_of_a_services_key),
		cmocka_unit_test(every_standard_is_a_value_that_the_option_takes),
		cmocka_unit_test(an_option_of_the_box_is_a_key_of_its_section),
		cmocka_unit_test(the_line_and_the_key_together_are_an_error),
		cmocka_unit_test(a_wrong_value_is_said_at_its_key),
		cmocka_unit_test(a_name_that_nobody_has_is_answered_with_the_nearest),
		cmocka_unit_test(defaults_count_where_the_box_has_the_option),
		cmocka_unit_test(what_is_printed_says_each_option_once),
		cmocka_unit_test(a_command_line_is_read_by_the_same_table),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
