/* test_config_services.c — hark.conf: what a service must have, what defaults give it, which addresses conflict, and
 * that what is printed is read to the same again. */
#include "config_support.h"

#include "document.h"

#define ECHO_T "[t]\nlisten = tcp://*:7\nbox = echo\n"

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

/* ---- services ---- */

static void what_a_service_must_have(void **state)
{
	(void)state;
	expect_error("[s]\nbox = echo\n", "t.conf:1: [s] has no listen");
	expect_error("[s]\nlisten =\nbox = echo\n", "t.conf:1: [s] has no listen");
	expect_error("[s]\nlisten = tcp://*:7\n", "t.conf:1: [s] has neither exec nor box nor relay: nothing to serve");
	expect_error("[default]\nbox = echo\n", "t.conf:1: [default] has no listen (did you mean defaults?)");
	expect_error("[s]\nlisten = tcp://*:7\nbox = echo --any-prt\n", "t.conf:3: box: no such option: --any-prt");
	expect_error("[s]\nlisten = tcp://*:7\nbox = discard x\n", "t.conf:3: box: unexpected argument: x");
	expect_error("[s]\nlisten = tcp://*:7\nexec = /no/such prog\n",
	             "t.conf:3: exec: cannot run /no/such: No such file");
	expect_error("[s]\nlisten = tcp://*:7\nexec = /etc/passwd\n",
	             "t.conf:3: exec: cannot run /etc/passwd: Permission denied");
	expect_error("[s]\nlisten = tcp://*:7\nbox = exec bin/cat\n", "box: bin/cat: give an absolute path");
	expect_error("[s]\nlisten = tcp://*:7\nexec = bin/cat\nchroot = /\n", "exec: bin/cat: give an absolute path");
	expect_error("[s]\nlisten = tcp://*:7\nexec = bin/no-such\n", "/bin/no-such: No such file or directory");
	expect_error(ECHO "stdin = null\n", "t.conf:4: stdin is an option of the box exec, not of echo");
	expect_error(ECHO "stop_ladder = 1s 2s\n", "stop_ladder is an option of the box exec");
	expect_error("[s]\nlisten = tcp://*:7\nrelay = --no-such tcp://h:1\n", "t.conf:3: relay: ");
	expect_error("[s]\nlisten = tcp://*:7\nrelay = tcp://h\n", "t.conf:3: relay: ");
	expect_error("[s]\nlisten = udp://*:7\nrelay = tcp://h:1\n",
	             "t.conf:2: listen: udp://*:7: relay with these arguments takes no datagrams");
	expect_error("[s]\nlisten = unixgram:/tmp/x\nexec = /bin/true\n",
	             "t.conf:2: listen: unixgram:/tmp/x: exec takes unix datagrams with wait = yes alone");
	expect_warning("[s]\nlisten = tcp://*:7\nexec = cat a | wc\n",
	               "t.conf:3: exec: \"|\" is an argument of cat: there is no shell; for one write /bin/sh -c");
	expect_warning(ECHO "socket_mode = 600\n", "t.conf:4: socket_mode: the service listens on no Unix socket");
}

static void the_argv_is_what_hark_serve_takes(void **state)
{
	static const char *const want[] = {
		"exec", "--stdin=null", "--stderr=connection", "--lookup-host=yes", "--stop-ladder=2s 5s", "cat", "-u",
		NULL};
	(void)state;
	struct config *c = load_good(
		"[s]\nlisten = tcp://*:7\nexec = cat -u\nstderr = connection\nlookup_host = yes\nstdin = null\n"
		"stop_ladder = 2s 5s\n[t]\nlisten = tcp://*:8\nbox = exec --argv0 x cat\nstderr = connection\n"
		"[r]\nlisten = tcp://*:9\nrelay = tcp://localhost:1\n");
	for (size_t i = 0; want[i] != NULL; i++)
		assert_string_equal(c->services[0]->argv.word[i], want[i]);
	assert_int_equal(c->services[0]->argv.n, 7);
	assert_string_equal(c->services[1]->argv.word[1], "--stderr=connection");
	assert_string_equal(c->services[1]->argv.word[2], "--argv0");
	assert_string_equal(c->services[2]->argv.word[0], "relay");
	assert_string_equal(c->services[2]->argv.word[1], "tcp://localhost:1");
	assert_string_equal(c->services[2]->box->name, "relay");
	assert_string_equal(((struct service *)c->services[0])->program, "cat");
	assert_string_equal(((struct service *)c->services[1])->program, "cat");
	assert_null(((struct service *)c->services[2])->program);
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
	assert_true(has_line(c->services[0]->text, "workers = 3"));
	assert_null(strstr(c->services[0]->text, "stderr"));
	assert_true(has_line(c->services[1]->text, "stderr = null"));
	assert_int_equal(c->services[2]->env.n, 1);
	assert_string_equal(c->services[2]->env.word[0], "C=3");
	assert_true(has_line(c->services[2]->text, "stderr = log"));
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
	assert_true(has_line(s->text, "stderr = log"));
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

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_a_service_must_have),
		cmocka_unit_test(the_argv_is_what_hark_serve_takes),
		cmocka_unit_test(a_service_wins_over_defaults_wherever_they_stand),
		cmocka_unit_test(standards_are_what_the_table_says),
		cmocka_unit_test(a_disabled_service_may_lack_what_it_needs),
		cmocka_unit_test(addresses_collide_as_the_kernel_has_it),
		cmocka_unit_test(what_is_printed_is_read_to_the_same),
		cmocka_unit_test(a_services_text_is_its_effective_settings_alone),
		cmocka_unit_test(a_document_is_loaded_with_its_own_places),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
