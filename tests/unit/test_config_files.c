/* test_config_files.c — hark.conf: the files that it includes, and what the system has to say: programs and
 * users. */
#include "config_support.h"

#include <grp.h>

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
	assert_int_equal(config_check_system(c, true), 1);
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
	int n = config_check_system(c, true);
	assert_int_equal(n, 6);
	assert_true(says(c->errors, 1, "t.conf:3: exec: nobody cannot run ") &&
	            says(c->errors, 1, "Permission denied at /tmp/hark-config-"));
	assert_true(says(c->errors + 1, 1, "t.conf:9: directory: nobody cannot enter /tmp/hark-config-"));
	assert_true(says(c->errors + 2, 1, "t.conf:12: exec: harkd cannot run /bin/cat in /tmp/hark-config-"));
	assert_true(says(c->errors + 3, 1, "t.conf:21: chroot: cannot enter /no/such: No such file or directory"));
	assert_true(says(c->errors + 4, 1, "t.conf:25: exec: nobody cannot run /private in ") ||
	            says(c->errors + 4, 1, "t.conf:24: exec: nobody cannot run /private in "));
	assert_true(says(c->errors + 5, 1, "directory: harkd cannot enter /no/such: No such file or directory"));
	assert_int_equal(config_check_system(c, true), n); /* and not said twice */
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
	int n = config_check_system(c, true);
	CHECK(n == (geteuid() == 65534 ? 3 : 4));
	CHECK(strstr(c->errors[0], "t.conf:4: user: cannot become root: Operation not permitted (this needs root)") !=
	      NULL);
	CHECK(strstr(c->errors[1], "t.conf:8: group: cannot become root: Operation not permitted (this needs root)") !=
	      NULL);
	CHECK(strstr(c->errors[2], "t.conf:12: chroot: cannot enter /: Operation not permitted (this needs root)") !=
	      NULL);
	config_free(c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(includes_are_read_in_place_and_sorted),
		cmocka_unit_test(errors_of_included_files_stand_where_they_were_read),
		cmocka_unit_test(includes_that_cannot_be_are_said),
		cmocka_unit_test(includes_nest_so_deep_and_no_deeper),
		cmocka_unit_test(a_file_that_cannot_be_read_is_an_error),
		cmocka_unit_test(a_programs_path_is_meant_from_its_file),
		cmocka_unit_test(a_program_is_looked_for_where_the_worker_will),
		cmocka_unit_test(a_users_own_rights_are_tried),
		IN_CHILD(another_user_needs_root),
	};
	return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
