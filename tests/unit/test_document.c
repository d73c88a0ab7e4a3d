/* test_document.c — documents: what is put in, what is printed, and that nothing foreign escapes its place. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "document.h"

static const struct config_place place = {.file = "f.conf", .line = 7};

static char *printed(const struct document *d)
{
	char *text = NULL;
	size_t n;
	FILE *to = open_memstream(&text, &n);

	assert_non_null(to);
	assert_int_equal(document_print(d, to), 0);
	assert_int_equal(fclose(to), 0);
	return text;
}

static void assert_printed(const struct document *d, const char *expected)
{
	char *text = printed(d);

	assert_string_equal(text, expected);
	free(text);
}

static void a_document_is_printed_as_hark_conf(void **state)
{
	(void)state;
	struct document *d = document_new();
	document_remark(d, NULL, (struct config_place){0}, "from %s", "somewhere");
	document_drop(d, NULL, place, "tcpmux");
	struct document_section *s = document_section(d, "echo", place);
	document_set(d, s, place, "listen", "tcp://*:%d", 7);
	document_drop(d, s, place, "sndbuf = %d", 4096);
	(void)document_section(d, "time", (struct config_place){0});
	assert_printed(
		d, "# from somewhere\n# f.conf:7: not carried over: tcpmux\n\n[echo]\n# f.conf:7\nlisten = tcp://*:7\n"
		   "# not carried over: sndbuf = 4096\n\n[time]\n");
	assert_int_equal(d->fates[DOCUMENT_CARRIED], 1);
	assert_int_equal(d->fates[DOCUMENT_DROPPED], 2);
	document_free(d);
}

static void a_name_that_is_taken_gets_a_number(void **state)
{
	static const struct {
		const char *asked, *got;
	} names[] = {
		{"telnet", "telnet"},     {"telnet", "telnet-2"},  {"telnet", "telnet-3"}, {"telnet-2", "telnet-2-2"},
		{"telnet-9", "telnet-9"}, {"telnet", "telnet-10"}, {"tel", "tel"},         {"telnet-", "telnet-"},
		{"telnet-x", "telnet-x"}, {"telnet", "telnet-11"},
	};
	(void)state;
	struct document *d = document_new();
	for (size_t i = 0; i < sizeof names / sizeof *names; i++)
		assert_string_equal(document_section(d, names[i].asked, place)->name, names[i].got);
	document_free(d);
}

static void a_section_name_has_only_characters_that_it_may_have(void **state)
{
	(void)state;
	struct document *d = document_new();
	assert_string_equal(document_section(d, "a]\n[b", place)->name, "a---b");
	assert_string_equal(document_section(d, "\xc3\xa4 x", place)->name, "---x");
	assert_string_equal(document_section(d, "", place)->name, "service");
	char longer[300];
	memset(longer, 'n', sizeof longer - 1);
	longer[sizeof longer - 1] = '\0';
	assert_true(strlen(document_section(d, longer, place)->name) < 48);
	assert_true(strlen(document_section(d, longer, place)->name) < 48);
	document_free(d);
}

static void no_value_or_remark_breaks_out_of_its_line(void **state)
{
	(void)state;
	struct document *d = document_new();
	struct document_section *s = document_section(d, "x", (struct config_place){0});
	document_set(d, s, place, "user", "%s", "root\nexec = /bin/evil");
	document_remark(d, s, (struct config_place){0}, "%s", "one\nexec = /bin/evil\x1b[2J");
	document_drop(d, NULL, (struct config_place){.file = "a\nb", .line = 1}, "%s", "x\ry");
	assert_printed(d, "# a?b:1: not carried over: x?y\n\n[x]\n# one?exec = /bin/evil?[2J\n");
	assert_int_equal(d->n_errors, 1);
	assert_string_equal(d->errors[0],
	                    "f.conf:7: user = root?exec = /bin/evil: a control character, which no setting may have");
	assert_null(document_get(s, "user"));
	document_free(d);
}

static void blanks_around_a_value_go(void **state)
{
	(void)state;
	struct document *d = document_new();
	struct document_section *s = document_section(d, "x", place);
	document_set(d, s, place, "a", " \tb c \t ");
	document_set(d, s, place, "e", "  ");
	assert_string_equal(document_get(s, "a"), "b c");
	assert_string_equal(document_get(s, "e"), "");
	document_free(d);
}

static void the_last_value_of_a_key_counts(void **state)
{
	(void)state;
	struct document *d = document_new();
	struct document_section *s = document_section(d, "x", place);
	document_set(d, s, place, "user", "a");
	document_set(d, s, place, "user", "b");
	assert_string_equal(document_get(s, "user"), "b");
	assert_null(document_get(s, "group"));
	assert_null(document_get(NULL, "user"));
	document_free(d);
}

static void a_removed_section_takes_its_counts_with_it(void **state)
{
	(void)state;
	struct document *d = document_new();
	struct document_section *all[5];
	for (int i = 0; i < 5; i++) {
		all[i] = document_section(d, "x", place);
		document_set(d, all[i], place, "n", "%d", i);
		document_drop(d, all[i], place, "something");
	}
	document_remove(d, all[0]);
	document_remove(d, all[4]);
	document_remove(d, NULL);
	assert_int_equal(d->n, 3);
	assert_int_equal(d->fates[DOCUMENT_CARRIED], 3);
	assert_int_equal(d->fates[DOCUMENT_DROPPED], 3);
	assert_ptr_equal(d->sections[0], all[1]);
	assert_ptr_equal(d->sections[2], all[3]);
	for (int i = 0; i < 6; i++)
		assert_non_null(document_section(d, "y", place));
	assert_int_equal(d->n, 9);
	document_free(d);
}

static void a_word_is_quoted_where_it_must_be(void **state)
{
	static const struct {
		const char *word, *quoted;
	} words[] = {
		{"plain", "plain"},     {"-x=/y,z", "-x=/y,z"},       {"", "\"\""},
		{"a b", "\"a b\""},     {"it's", "\"it's\""},         {"say \"x\"", "\"say \\\"x\\\"\""},
		{"a\\b", "\"a\\\\b\""}, {"a\nb\tc", "\"a\\nb\\tc\""}, {";", "\";\""},
		{"#1", "\"#1\""},       {"$HOME", "$HOME"},           {"\xc3\xa4", "\xc3\xa4"},
	};
	char buf[64];

	(void)state;
	for (size_t i = 0; i < sizeof words / sizeof *words; i++)
		assert_string_equal(document_quote(words[i].word, buf, sizeof buf), words[i].quoted);
}

static void a_quoted_word_never_overruns_and_fits_its_bound(void **state)
{
	static const char word[] = "\"\"\\\\\n\"";

	(void)state;
	for (size_t cap = 0; cap <= 2 * strlen(word) + 3; cap++) {
		char *buf = malloc(cap + 1); /* exactly enough, so that one more shows under the sanitizer */
		buf[cap] = 'X';
		(void)document_quote(word, buf, cap);
		assert_int_equal(buf[cap], 'X');
		if (cap > 0)
			assert_true(strlen(buf) < cap);
		if (cap == 2 * strlen(word) + 3)
			assert_string_equal(buf, "\"\\\"\\\"\\\\\\\\\\n\\\"\"");
		free(buf);
	}
}

static void a_file_name_is_kept_once(void **state)
{
	(void)state;
	struct document *d = document_new();
	char name[] = "a.conf";
	const char *kept = document_file(d, name);
	name[0] = 'b';
	assert_string_equal(kept, "a.conf");
	assert_ptr_equal(document_file(d, "a.conf"), kept);
	(void)document_file(d, name);
	assert_int_equal(d->n_files, 2);
	document_free(d);
}

static void a_broken_document_takes_everything_and_prints_nothing(void **state)
{
	(void)state;
	struct document *d = document_new();
	d->broken = true;
	struct document_section *s = document_section(d, "x", place);
	assert_null(s);
	document_set(d, s, place, "a", "b");
	document_remark(d, s, place, "c");
	document_drop(d, NULL, place, "d");
	document_error(d, place, "e");
	document_remove(d, s);
	assert_true(document_broken(d));
	assert_int_equal(document_print(d, stdout), -ENOMEM);
	document_free(d);
	document_free(NULL);
}

static void a_failed_write_is_told(void **state)
{
	(void)state;
	FILE *full = fopen("/dev/full", "w");
	if (full == NULL)
		skip();
	struct document *d = document_new();
	(void)document_section(d, "x", place);
	assert_int_equal(document_print(d, full), -ENOSPC);
	(void)fclose(full);
	document_free(d);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_document_is_printed_as_hark_conf),
		cmocka_unit_test(a_name_that_is_taken_gets_a_number),
		cmocka_unit_test(a_section_name_has_only_characters_that_it_may_have),
		cmocka_unit_test(no_value_or_remark_breaks_out_of_its_line),
		cmocka_unit_test(blanks_around_a_value_go),
		cmocka_unit_test(the_last_value_of_a_key_counts),
		cmocka_unit_test(a_removed_section_takes_its_counts_with_it),
		cmocka_unit_test(a_word_is_quoted_where_it_must_be),
		cmocka_unit_test(a_quoted_word_never_overruns_and_fits_its_bound),
		cmocka_unit_test(a_file_name_is_kept_once),
		cmocka_unit_test(a_broken_document_takes_everything_and_prints_nothing),
		cmocka_unit_test(a_failed_write_is_told),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
