/* test_systemd_search.c — which files a unit is read from, as systemd looks for them, in a tree of the test's own; and
 * what its defaults mean. */
#include "systemd_support.h"

#define CAT "[Service]\n" STDIN

/* A file of the tree, with the directories above it. */
static void put(const char *name, const char *text)
{
	char path[600];

	(void)snprintf(path, sizeof path, "%s/%s", directory, name);
	for (char *p = path + strlen(directory) + 1; (p = strchr(p, '/')) != NULL; p++) {
		*p = '\0';
		(void)mkdir(path, 0700);
		*p = '/';
	}
	write_file(name, text);
}

static void link_to(const char *to, const char *name)
{
	put(name, "");
	assert_int_equal(unlink(path_of(name)), 0);
	assert_int_equal(symlink(to, path_of(name)), 0);
}

static void clear(void)
{
	static const char *const tops[] = {"etc", "run", "usr", "lib", "other"};

	for (size_t i = 0; i < sizeof tops / sizeof tops[0]; i++)
		(void)nftw(path_of(tops[i]), remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

static struct document *read_units(const char *const *names)
{
	struct document *d = document_new();

	assert_non_null(d);
	for (; *names != NULL; names++)
		assert_int_equal(import_systemd(d, path_of(*names)), 0);
	return d;
}

static void the_first_of_the_search_path_counts(void **state)
{
	(void)state;
	clear();
	put("usr/lib/systemd/system/x.socket", "[Socket]\nListenStream=1\nAccept=yes\n");
	put("usr/lib/systemd/system/x@.service", CAT);
	put("run/systemd/system/x.socket", "[Socket]\nListenStream=2\nAccept=yes\n");
	put("etc/systemd/system/x@.service", CAT "User=nobody\n");
	struct document *d = read_socket("usr/lib/systemd/system/x.socket");
	assert_clean(d);
	assert_setting(d, "x", "listen", "tcp://*:2");
	assert_setting(d, "x", "user", "nobody");
	assert_remark(d, NULL, "takes the place of");
	document_free(d);
	put("usr/local/lib/systemd/system/y.socket", "[Socket]\nListenStream=1\nAccept=yes\n");
	put("lib/systemd/system/y@.service", CAT);
	d = read_socket("usr/local/lib/systemd/system/y.socket");
	assert_setting(d, "y", "listen", "tcp://*:1");
	document_free(d);
}

static void drop_ins_of_all_directories_are_sorted_by_name(void **state)
{
	(void)state;
	clear();
	put("usr/lib/systemd/system/a-b.socket", "[Socket]\nListenStream=1\nAccept=yes\n");
	put("usr/lib/systemd/system/a-b@.service", CAT);
	put("usr/lib/systemd/system/a-b.socket.d/20.conf", "[Socket]\nBacklog=20\nMaxConnections=2\n");
	put("etc/systemd/system/a-b.socket.d/10.conf", "[Socket]\nBacklog=10\nMaxConnectionsPerSource=3\n");
	put("usr/lib/systemd/system/a-b.socket.d/30.conf", "[Socket]\nListenStream=\nListenStream=9\n");
	put("run/systemd/system/a-b.socket.d/30.conf", "[Socket]\nListenStream=3\n"); /* in its place */
	put("usr/lib/systemd/system/a-b.socket.d/40.conf", "[Socket]\nListenStream=4\n");
	link_to("/dev/null", "etc/systemd/system/a-b.socket.d/40.conf"); /* a mask */
	put("etc/systemd/system/a-.socket.d/50.conf", "[Socket]\nListenStream=5\n");
	put("etc/systemd/system/socket.d/60.conf", "[Socket]\nListenStream=6\n");
	put("etc/systemd/system/a-b@.service.d/x.conf", "[Service]\nUser=nobody\n");
	put("etc/systemd/system/a-@.service.d/x.conf", "[Service]\nGroup=tty\n");
	put("etc/systemd/system/service.d/y.conf", "[Service]\nNice=3\n");
	struct document *d = read_socket("usr/lib/systemd/system/a-b.socket");
	assert_clean(d);
	assert_setting(d, "a-b", "listen", "tcp://*:1 tcp://*:3 tcp://*:5 tcp://*:6");
	assert_setting(d, "a-b", "backlog", "20");
	assert_setting(d, "a-b", "max_conns", "2");
	assert_setting(d, "a-b", "max_per_source", "3");
	assert_setting(d, "a-b", "user", "nobody");
	assert_setting(d, "a-b", "group", NULL);
	assert_setting(d, "a-b", "nice", "3");
	document_free(d);
}

static void masks_hide_a_unit(void **state)
{
	(void)state;
	clear();
	put("usr/lib/systemd/system/x.socket", "[Socket]\nListenStream=1\nAccept=yes\n");
	put("usr/lib/systemd/system/x@.service", CAT);
	put("usr/lib/systemd/system/y.socket", "[Socket]\nListenStream=2\nAccept=yes\n");
	put("usr/lib/systemd/system/y@.service", CAT);
	link_to("/dev/null", "etc/systemd/system/x.socket");
	put("etc/systemd/system/y@.service", "");
	const char *const names[] = {"usr/lib/systemd/system/x.socket", "etc/systemd/system/x.socket",
	                             "usr/lib/systemd/system/y.socket", NULL};
	struct document *d = read_units(names);
	assert_clean(d);
	assert_int_equal(d->n, 0);
	assert_int_equal(d->head.n, 2);
	assert_remark(d, NULL, "x.socket: it is masked");
	assert_remark(d, NULL, "y.socket: its service is not there: y@.service");
	document_free(d);
}

static void one_unit_is_read_once_whatever_its_names(void **state)
{
	(void)state;
	clear();
	put("usr/lib/systemd/system/x.socket", "[Socket]\nListenStream=1\nAccept=yes\n");
	put("usr/lib/systemd/system/x@.service", CAT);
	link_to("/usr/lib/systemd/system/x.socket", "etc/systemd/system/alias.socket");
	link_to("../../../../usr/lib/systemd/system/x.socket", "etc/systemd/system/sockets.target.wants/x.socket");
	link_to("loop.socket", "other/loop.socket");
	const char *const names[] = {"etc/systemd/system/alias.socket",
	                             "etc/systemd/system/sockets.target.wants/x.socket",
	                             "usr/lib/systemd/system/x.socket", NULL};
	struct document *d = read_units(names);
	assert_clean(d);
	assert_int_equal(d->n, 1);
	assert_setting(d, "x", "exec", "/bin/cat");
	document_free(d);
	d = read_socket("other/loop.socket");
	assert_int_equal(d->n_errors, 1);
	document_free(d);
}

static void an_instance_knows_its_name(void **state)
{
	(void)state;
	clear();
	put("usr/lib/systemd/system/x@.socket", "[Socket]\nListenStream=%i\n");
	put("usr/lib/systemd/system/x@.service", "[Service]\nExecStart=/bin/cat %i %p\nStandardInput=socket\n");
	link_to("/usr/lib/systemd/system/x@.socket", "etc/systemd/system/sockets.target.wants/x@71.socket");
	link_to("/usr/lib/systemd/system/x@.socket", "etc/systemd/system/x@72.socket");
	struct document *d = read_socket("etc/systemd/system/x@72.socket");
	assert_clean(d);
	assert_setting(d, "x-72", "listen", "tcp://*:72");
	assert_setting(d, "x-72", "exec", "/bin/cat 72 x");
	document_free(d);
	d = read_socket("etc/systemd/system/sockets.target.wants/x@71.socket");
	assert_setting(d, "x-71", "listen", "tcp://*:71");
	document_free(d);
}

/* As "systemctl link" makes them: the file is elsewhere, name and drop-ins are of the search path. */
static void a_linked_unit_keeps_its_drop_ins(void **state)
{
	static const char *const names[] = {"etc/systemd/system/x.socket",
	                                    "etc/systemd/system/sockets.target.wants/x.socket"};
	(void)state;
	clear();
	put("other/pkg.socket", "[Socket]\nListenStream=1\nAccept=yes\n");
	put("other/x@.service", CAT);
	link_to("/other/pkg.socket", "etc/systemd/system/x.socket");
	link_to("/other/pkg.socket", "etc/systemd/system/sockets.target.wants/x.socket");
	link_to("../../../other/x@.service", "etc/systemd/system/x@.service");
	put("etc/systemd/system/x.socket.d/a.conf", "[Socket]\nIPAddressDeny=any\n");
	put("run/systemd/system/x@.service.d/a.conf", "[Service]\nUser=nobody\n");
	for (size_t i = 0; i < 2; i++) {
		struct document *d = read_socket(names[i]);
		assert_clean(d);
		assert_setting(d, "x", "user", "nobody");
		assert_disabled(d, "x", "IPAddressDeny=");
		assert_int_equal(d->head.n, 0);
		document_free(d);
	}
}

/* systemd.unit(5): drop-ins of all names of a unit. */
static void drop_ins_of_an_alias_are_the_units(void **state)
{
	(void)state;
	clear();
	put("usr/lib/systemd/system/x.socket", "[Socket]\nListenStream=1\nAccept=yes\n");
	put("usr/lib/systemd/system/x@.service", CAT);
	link_to("x.socket", "usr/lib/systemd/system/second.socket");
	link_to("/usr/lib/systemd/system/second.socket", "etc/systemd/system/third.socket");
	link_to("/usr/lib/systemd/system/x@.service", "etc/systemd/system/y@.service");
	put("etc/systemd/system/second.socket.d/10.conf", "[Socket]\nBacklog=10\n");
	put("run/systemd/system/third.socket.d/20.conf", "[Socket]\nListenStream=\nListenStream=127.0.0.1:3\n");
	put("etc/systemd/system/y@.service.d/10.conf", "[Service]\nUser=nobody\n");
	put("etc/systemd/system/x.socket.d/10.conf", "[Socket]\nBacklog=11\n"); /* its own name's comes first */
	link_to("x.socket", "usr/lib/systemd/system/x.service");                /* of another kind: no name of it */
	put("etc/systemd/system/x.service.d/10.conf", "[Socket]\nBacklog=12\n");
	static const char *const names[] = {"usr/lib/systemd/system/x.socket", "etc/systemd/system/third.socket", NULL};
	for (int i = 0; i < 2; i++) {
		struct document *d = read_socket(names[i]);
		assert_clean(d);
		assert_setting(d, "x", "listen", "tcp://127.0.0.1:3");
		assert_setting(d, "x", "backlog", "11");
		assert_setting(d, "x", "user", "nobody");
		document_free(d);
	}
}

/* Service= may name an alias: the unit is the one that it is of. */
static void a_service_by_an_alias_has_the_drop_ins_of_all_its_names(void **state)
{
	(void)state;
	clear();
	put("usr/lib/systemd/system/x.socket", "[Socket]\nListenStream=1\nService=other.service\n");
	put("usr/lib/systemd/system/real.service", "[Service]\nExecStart=/bin/echo %n\nStandardInput=socket\n");
	link_to("real.service", "usr/lib/systemd/system/other.service");
	put("etc/systemd/system/real.service.d/10.conf", "[Service]\nUser=nobody\n");
	put("etc/systemd/system/other.service.d/20.conf", "[Service]\nNice=3\n");
	struct document *d = read_socket("usr/lib/systemd/system/x.socket");
	assert_clean(d);
	assert_setting(d, "x", "exec", "/bin/echo real.service");
	assert_setting(d, "x", "user", "nobody");
	assert_setting(d, "x", "nice", "3");
	document_free(d);
}

static void an_instance_has_the_drop_ins_of_its_templates_aliases(void **state)
{
	(void)state;
	clear();
	put("usr/lib/systemd/system/x@.socket", "[Socket]\nListenStream=1\nAccept=yes\n");
	put("usr/lib/systemd/system/x@.service", CAT);
	link_to("/usr/lib/systemd/system/x@.socket", "etc/systemd/system/y@.socket");
	link_to("/usr/lib/systemd/system/x@.socket", "etc/systemd/system/x@a.socket");
	put("etc/systemd/system/y@a.socket.d/10.conf", "[Socket]\nBacklog=10\n");
	put("etc/systemd/system/y@b.socket.d/10.conf", "[Socket]\nBacklog=11\n");
	put("etc/systemd/system/y@.socket.d/20.conf", "[Socket]\nMaxConnections=7\n");
	struct document *d = read_socket("etc/systemd/system/x@a.socket");
	assert_clean(d);
	assert_setting(d, "x-a", "backlog", "10");
	assert_setting(d, "x-a", "max_conns", "7");
	document_free(d);
}

static void a_directory_by_another_name_is_the_same(void **state)
{
	static const char *const names[] = {"etc/systemd//system/x.socket", "etc/systemd/system/./x.socket",
	                                    "lib/units/x.socket"};
	(void)state;
	clear();
	put("etc/systemd/system/x.socket", "[Socket]\nListenStream=1\nAccept=yes\n");
	put("usr/lib/systemd/system/x@.service", CAT);
	put("run/systemd/system/x.socket.d/a.conf", "[Socket]\nBacklog=3\n");
	link_to("../etc/systemd/system", "lib/units");
	for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
		struct document *d = read_socket(names[i]);
		assert_setting(d, "x", "backlog", "3");
		document_free(d);
	}
}

static void links_of_drop_ins_stay_in_the_root(void **state)
{
	(void)state;
	clear();
	put("etc/systemd/system/x.socket", "[Socket]\nListenStream=1\nAccept=yes\n");
	put("etc/systemd/system/x@.service", CAT);
	put("other/backlog", "[Socket]\nBacklog=3\n");
	link_to("/other/backlog", "etc/systemd/system/x.socket.d/a.conf");
	struct document *d = read_socket("etc/systemd/system/x.socket");
	assert_clean(d);
	assert_setting(d, "x", "backlog", "3");
	document_free(d);
}

static void each_instance_and_each_mask_counts(void **state)
{
	(void)state;
	clear();
	put("usr/lib/systemd/system/x@.socket", "[Socket]\nListenStream=%i\n");
	put("usr/lib/systemd/system/x@.service", "[Service]\nExecStart=/bin/cat\nStandardInput=socket\n");
	link_to("/usr/lib/systemd/system/x@.socket", "etc/systemd/system/x@71.socket");
	link_to("/usr/lib/systemd/system/x@.socket", "etc/systemd/system/x@72.socket");
	link_to("/dev/null", "etc/systemd/system/y.socket");
	link_to("/dev/null", "etc/systemd/system/z.socket");
	const char *const names[] = {"etc/systemd/system/x@71.socket",
	                             "etc/systemd/system/x@72.socket",
	                             "etc/systemd/system/x@71.socket",
	                             "etc/systemd/system/y.socket",
	                             "etc/systemd/system/z.socket",
	                             "etc/systemd/system/y.socket",
	                             NULL};
	struct document *d = read_units(names);
	assert_clean(d);
	assert_int_equal(d->n, 2);
	assert_setting(d, "x-71", "listen", "tcp://*:71");
	assert_setting(d, "x-72", "listen", "tcp://*:72");
	assert_int_equal(d->head.n, 2);
	assert_remark(d, NULL, "y.socket: it is masked");
	assert_remark(d, NULL, "z.socket: it is masked");
	document_free(d);
}

static void drop_ins_that_are_too_many_are_told(void **state)
{
	(void)state;
	clear();
	put("other/x.socket", "[Socket]\nListenStream=1\nAccept=yes\n");
	put("other/x@.service", CAT);
	for (int i = 0; i < 1002; i++) {
		char name[64];
		(void)snprintf(name, sizeof name, "other/x.socket.d/%04d.conf", i);
		put(name, "\n");
	}
	struct document *d = read_socket("other/x.socket");
	assert_int_equal(d->n_errors, 1);
	assert_non_null(strstr(d->errors[0], "x.socket.d: more than 1000 drop-ins"));
	document_free(d);
	clear();
}

static void escapes_are_systemds_and_wrong_ones_disable(void **state)
{
	static const char *const commands[][2] = {
		{"/bin/cat a \\; b", "/bin/cat a \";\" b"},    {"/bin/cat a\\u20acb", "/bin/cat a€b"},
		{"/bin/cat \\U0001F600", "/bin/cat 😀"},        {"/bin/cat \"%%\" '%p x'", "/bin/cat % \"x x\""},
		{"/bin/cat $A", "/bin/cat \"one two\" three"},
	};
	static const char *const wrong[] = {"/bin/cat \\q", "/bin/cat a\\xzz", "/bin/cat \"a b", "/bin/cat \\x00",
	                                    "/bin/cat \\ud800"};
	char text[256];
	(void)state;
	for (size_t i = 0; i < sizeof commands / sizeof commands[0]; i++) {
		(void)snprintf(text, sizeof text,
		               "Environment=\"A='one two' three\"\nStandardInput=socket\nExecStart=%s\n",
		               commands[i][0]);
		struct document *d = read_pair(ACCEPT, text);
		assert_clean(d);
		assert_setting(d, "x", "exec", commands[i][1]);
		assert_setting(d, "x", "disable", NULL);
		document_free(d);
	}
	for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
		(void)snprintf(text, sizeof text, "StandardInput=socket\nExecStart=%s\n\n", wrong[i]);
		struct document *d = read_pair(ACCEPT, text);
		assert_int_equal(d->n_errors, 1);
		assert_disabled(d, "x", "its command cannot be read");
		document_free(d);
	}
}

static void outputs_default_to_the_one_before(void **state)
{
	static const char *const cases[][2] = {
		{"", "connection"},
		{"StandardOutput=journal\n", "log"},
		{"StandardOutput=null\nStandardError=inherit\n", "null"},
		{"StandardOutput=journal\nStandardError=socket\n", "connection"},
		{"StandardOutput=file:/var/log/x\n", "/var/log/x"},
	};
	char text[256];
	(void)state;
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
		for (int accept = 0; accept < 2; accept++) {
			(void)snprintf(text, sizeof text, STDIN "%s", cases[i][0]);
			struct document *d = read_pair(accept ? ACCEPT : "ListenStream=7007\n", text);
			assert_clean(d);
			assert_setting(d, "x", "stderr", cases[i][1]);
			assert_loads(d);
			document_free(d);
		}
}

static void a_socket_proxy_is_a_relay(void **state)
{
	static const char *const cases[][3] = {
		{"/usr/lib/systemd/systemd-socket-proxyd 127.0.0.1:8080", "tcp://127.0.0.1:8080", "256"},
		{"/lib/systemd/systemd-socket-proxyd --exit-idle-time=5min -c 9 /run/x.sock", "unix:/run/x.sock", "9"},
		{"systemd-socket-proxyd --connections-max=3 @x", "unix:@x", "3"},
		{"/usr/lib/systemd/systemd-socket-proxyd www.example.org", "tcp://www.example.org:80", "256"},
		{"/usr/lib/systemd/systemd-socket-proxyd [::1]:25", "tcp://[::1]:25", "256"},
	};
	char text[256];
	(void)state;
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		(void)snprintf(text, sizeof text, "ExecStart=%s\nUser=nobody\nStandardError=journal\nPrivateTmp=yes\n",
		               cases[i][0]);
		struct document *d = read_pair("ListenStream=7007\n", text);
		assert_clean(d);
		assert_setting(d, "x", "relay", cases[i][1]);
		assert_setting(d, "x", "max_conns", cases[i][2]);
		assert_setting(d, "x", "exec", NULL);
		assert_setting(d, "x", "disable", NULL);
		assert_setting(d, "x", "user", "nobody");
		assert_loads(d);
		document_free(d);
	}
	struct document *d = read_pair("ListenStream=7007\n",
	                               "ExecStart=/usr/lib/systemd/systemd-socket-proxyd --new-option x:1\n");
	assert_disabled(d, "x", "sd_listen_fds");
	document_free(d);
}

static void keepalive_and_freebind_are_hark_confs(void **state)
{
	struct document *d = read_pair(ACCEPT "KeepAlive=yes\nKeepAliveTimeSec=5min\nFreeBind=yes\n", STDIN);
	(void)state;
	assert_clean(d);
	assert_setting(d, "x", "keepalive", "300s");
	assert_setting(d, "x", "freebind", "yes");
	assert_int_equal(d->fates[DOCUMENT_DROPPED], 0);
	assert_loads(d);
	document_free(d);
}

static void a_name_that_harkd_keeps_for_itself_is_another(void **state)
{
	(void)state;
	clear();
	put("other/harkd.socket", "[Socket]\n" ACCEPT);
	put("other/harkd@.service", CAT);
	put("other/defaults.socket", "[Socket]\nListenStream=7008\nAccept=yes\n");
	put("other/defaults@.service", CAT);
	const char *const names[] = {"other/harkd.socket", "other/defaults.socket", NULL};
	struct document *d = read_units(names);
	assert_setting(d, "harkd-service", "exec", "/bin/cat");
	assert_setting(d, "defaults-service", "exec", "/bin/cat");
	assert_loads(d);
	document_free(d);
}

static void remarks_tell_of_losses_alone(void **state)
{
	struct document *d = read_pair(ACCEPT, STDIN "PrivateTmp=no\nProtectHome=false\nNoNewPrivileges=off\n");
	(void)state;
	assert_clean(d);
	assert_int_equal(d->fates[DOCUMENT_DROPPED], 0);
	assert_setting(d, "x", "max_conns", "64"); /* MaxConnections= of systemd */
	document_free(d);
	d = read_pair(ACCEPT, STDIN "PrivateTmp=yes\n");
	assert_int_equal(d->fates[DOCUMENT_DROPPED], 1);
	document_free(d);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_first_of_the_search_path_counts),
		cmocka_unit_test(drop_ins_of_all_directories_are_sorted_by_name),
		cmocka_unit_test(masks_hide_a_unit),
		cmocka_unit_test(one_unit_is_read_once_whatever_its_names),
		cmocka_unit_test(an_instance_knows_its_name),
		cmocka_unit_test(a_linked_unit_keeps_its_drop_ins),
		cmocka_unit_test(drop_ins_of_an_alias_are_the_units),
		cmocka_unit_test(a_service_by_an_alias_has_the_drop_ins_of_all_its_names),
		cmocka_unit_test(an_instance_has_the_drop_ins_of_its_templates_aliases),
		cmocka_unit_test(a_directory_by_another_name_is_the_same),
		cmocka_unit_test(links_of_drop_ins_stay_in_the_root),
		cmocka_unit_test(each_instance_and_each_mask_counts),
		cmocka_unit_test(drop_ins_that_are_too_many_are_told),
		cmocka_unit_test(escapes_are_systemds_and_wrong_ones_disable),
		cmocka_unit_test(outputs_default_to_the_one_before),
		cmocka_unit_test(a_socket_proxy_is_a_relay),
		cmocka_unit_test(keepalive_and_freebind_are_hark_confs),
		cmocka_unit_test(a_name_that_harkd_keeps_for_itself_is_another),
		cmocka_unit_test(remarks_tell_of_losses_alone),
	};
	return cmocka_run_group_tests(tests, set_up, tear_down);
}
