/* test_log.c — how a line of harkd's log looks, byte by byte, wherever it goes. */
#include "log_support.h"

#include <jansson.h>

#define HOSTILE "unix:/tmp/a b\n\"]\\\x1b[2J\xff\xc3\xbc=" /* blank, newline, quotes, escape, not UTF-8, UTF-8 */

/* What one connection, or where it is NULL one event, makes on standard error. */
static const char *told(enum config_log_format format, const struct log_connection *c, const char *service,
                        const char *words)
{
	int p[2];

	assert_int_equal(pipe(p), 0);
	take_stderr(p[1]);
	struct config config = {.log = (char *)"stderr", .log_format = format, .log_connections = true};
	int err = log_open(&config, NULL);
	if (c != NULL)
		log_connection(c, NULL);
	else
		log_event(LOG_LEVEL_WARNING, service, "%s", words != NULL ? words : "");
	give_back();
	assert_int_equal(err, 0);
	(void)close(p[1]);
	(void)drain(p[0], text, sizeof text);
	(void)close(p[0]);
	return text;
}

static void a_connection_is_a_line_whose_fields_have_their_places(void **state)
{
	(void)state;
	struct log_connection c = connection();
	assert_string_equal(
		told(CONFIG_LOG_TEXT, &c, NULL, NULL),
		"2026-11-21T15:00:00.123Z daytime tcp://127.0.0.1:4711 -> tcp://127.0.0.1:13 daytime pid 72 1.203 ms "
		"in 0 out 26 done\n");
	c.peer = c.local = "";
	c.bytes_in = c.bytes_out = -1;
	assert_string_equal(told(CONFIG_LOG_TEXT, &c, NULL, NULL),
	                    "2026-11-21T15:00:00.123Z daytime - -> - daytime pid 72 1.203 ms in - out - done\n");
}

static void what_else_is_known_has_its_place(void **state)
{
	(void)state;
	const struct hark_credentials user = {.pid = 4711, .uid = 1000};
	struct log_connection c = connection();
	c.peer = "unix:";
	c.user = &user;
	c.target = "tcp://10.0.0.1:80";
	c.ended = "lifetime";
	assert_non_null(strstr(told(CONFIG_LOG_TEXT, &c, NULL, NULL),
	                       " unix:[uid=1000,pid=4711] -> tcp://127.0.0.1:13 daytime pid 72 1.203 ms in 0 out 26 to "
	                       "tcp://10.0.0.1:80 lifetime\n"));
	assert_non_null(strstr(told(CONFIG_LOG_JSON, &c, NULL, NULL), "\"peer_uid\":1000,\"peer_pid\":4711,"));
	assert_non_null(strstr(text, "\"target\":\"tcp://10.0.0.1:80\","));
	assert_non_null(strstr(text, "\"ended\":\"lifetime\","));
}

static void the_line_ends_with_how_it_ended(void **state)
{
	(void)state;
	static const struct {
		int error, status;
		const char *refused, *words, *json;
	} rows[] = {
		{0, 0, NULL, " done\n", "\"ended\":null,\"refused\":null,\"error\":null,\"status\":0}"},
		{ECONNRESET, 0, NULL, " Connection reset by peer\n",
	         "\"error\":\"Connection reset by peer\",\"status\":0}"},
		{0, 3 << 8, NULL, " exit status 3\n", "\"error\":null,\"status\":3}"},
		{0, SIGKILL, NULL, " killed by signal 9 (Killed)\n", "\"error\":null,\"signal\":9}"},
		{ETIMEDOUT, SIGTERM, NULL, " Connection timed out, killed by signal 15 (Terminated)\n",
	         "\"signal\":15}"},
		{0, 0, "max_per_source", " refused: max_per_source\n",
	         "\"refused\":\"max_per_source\",\"error\":null}"},
	};
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		struct log_connection c = connection();
		c.error = rows[i].error;
		c.status = rows[i].status;
		c.refused = rows[i].refused;
		assert_non_null(strstr(told(CONFIG_LOG_TEXT, &c, NULL, NULL), rows[i].words));
		assert_non_null(strstr(told(CONFIG_LOG_JSON, &c, NULL, NULL), rows[i].json));
	}
}

static void hostile_values_stay_in_their_field(void **state)
{
	(void)state;
	struct log_connection c = connection();
	c.peer = HOSTILE;
	c.box = "/opt/my prog";
	assert_string_equal(
		told(CONFIG_LOG_TEXT, &c, NULL, NULL),
		"2026-11-21T15:00:00.123Z daytime unix:/tmp/a\\x20b\\x0a\"]\\x5c\\x1b[2J\\xff\\xc3\\xbc= -> "
		"tcp://127.0.0.1:13 /opt/my\\x20prog pid 72 1.203 ms in 0 out 26 done\n");
	assert_string_equal(told(CONFIG_LOG_TEXT, NULL, "x", "a b\nharkd: forged\r\x1b\xff"),
	                    "harkd: x: a b\\x0aharkd: forged\\x0d\\x1b\\xff\n");
}

/* One JSON object; the caller's to release. */
static json_t *parse(const char *line)
{
	json_error_t error;
	json_t *j = json_loads(line, JSON_REJECT_DUPLICATES, &error);

	if (j == NULL)
		fail_msg("%s in %s", error.text, line);
	return j;
}

static void check_string(json_t *j, const char *key, const char *wanted)
{
	const char *s = json_string_value(json_object_get(j, key));

	if (s == NULL || strcmp(s, wanted) != 0)
		fail_msg("%s is \"%s\", not \"%s\"", key, s != NULL ? s : "(none)", wanted);
}

static void json_carries_every_value_whole(void **state)
{
	(void)state;
	struct log_connection c = connection();
	c.peer = HOSTILE;
	c.bytes_in = -1;
	json_t *j = parse(told(CONFIG_LOG_JSON, &c, NULL, NULL));
	assert_true(text[strlen(text) - 1] == '\n' && strchr(text, '\n') == text + strlen(text) - 1);
	check_string(j, "time", "2026-11-21T15:00:00.123Z");
	check_string(j, "level", "info");
	check_string(j, "service", "daytime");
	check_string(j, "peer", "unix:/tmp/a b\n\"]\\\x1b[2J\xef\xbf\xbd\xc3\xbc=");
	assert_true(json_real_value(json_object_get(j, "seconds")) == 0.001203);
	assert_true(json_is_null(json_object_get(j, "bytes_in")));
	assert_int_equal(json_integer_value(json_object_get(j, "bytes_out")), 26);
	json_decref(j);
	j = parse(told(CONFIG_LOG_JSON, NULL, NULL, "say \"no\"\n"));
	check_string(j, "level", "warning");
	check_string(j, "message", "say \"no\"\n");
	assert_true(json_is_null(json_object_get(j, "service")));
	json_decref(j);
}

/* U+202E turns the rest of a line around on a screen, U+2028 begins a new one in some readers, U+E0041 is not seen. */
static void json_escapes_what_changes_how_a_text_is_seen(void **state)
{
	(void)state;
	struct log_connection c = connection();
	c.peer = "unix:/tmp/\xe2\x80\xae\xe2\x80\xa8\xf3\xa0\x81\x81\xe2\x82\xac\xf0\x9f\x98\x80";
	json_t *j = parse(told(CONFIG_LOG_JSON, &c, NULL, NULL));
	assert_non_null(strstr(text, "/tmp/\\u202e\\u2028\\udb40\\udc41\xe2\x82\xac\xf0\x9f\x98\x80\""));
	check_string(j, "peer", c.peer);
	json_decref(j);
}

static void a_line_is_bounded_whatever_is_in_it(void **state)
{
	(void)state;
	static char huge[5][20000];
	for (int seed = 1; seed < 256; seed += 2) {
		struct log_connection c = connection();
		for (int i = 0; i < 5; i++)
			memset(huge[i], seed, sizeof huge[i] - 1);
		c.peer = huge[0], c.local = huge[1], c.service = huge[2], c.box = huge[3], c.refused = huge[4];
		for (int format = 0; format < 2; format++) {
			(void)told((enum config_log_format)format, &c, NULL, NULL);
			assert_in_range(strlen(text), 100, 4096);
			assert_ptr_equal(strchr(text, '\n'), text + strlen(text) - 1);
			if (format == CONFIG_LOG_JSON)
				json_decref(parse(text));
			(void)told((enum config_log_format)format, NULL, huge[0], huge[1]);
			assert_in_range(strlen(text), 100, 4096);
			assert_ptr_equal(strchr(text, '\n'), text + strlen(text) - 1);
			if (format == CONFIG_LOG_JSON)
				json_decref(parse(text));
		}
	}
	struct log_connection c = connection();
	c.peer = huge[0];
	assert_non_null(strstr(told(CONFIG_LOG_TEXT, &c, NULL, NULL), "... -> tcp://127.0.0.1:13 "));
}

/* ---- daemons --------------------------------------------------------------------------------- */

static void syslog_gets_rfc_5424(void **state)
{
	(void)state;
	int fd = daemon_socket("devlog", "HARKD_SYSLOG_SOCKET");
	struct config c = {.log = (char *)"syslog", .syslog_facility = (char *)"local3", .log_connections = true};
	struct log_connection l = connection();
	assert_int_equal(log_open(&c, NULL), 0);
	log_event(LOG_LEVEL_ERROR, NULL, "no\nsockets");
	assert_string_equal(syslog_rest(next(fd), 19 * 8 + 3), "event - no\\x0asockets");
	log_event(LOG_LEVEL_WARNING, "x", "dies");
	assert_string_equal(syslog_rest(next(fd), 19 * 8 + 4), "event [hark@32473 service=\"x\"] x: dies");
	l.peer = "unix:/a \"b\"]\\\n\xff";
	l.bytes_in = -1;
	l.status = SIGSEGV;
	log_connection(&l, NULL);
	assert_string_equal(
		syslog_rest(next(fd), 19 * 8 + 6),
		"connection [hark@32473 service=\"daytime\" box=\"daytime\" peer=\"unix:/a "
		"\\\"b\\\"\\]\\\\\\\\x0a\\\\xff\""
		" local=\"tcp://127.0.0.1:13\" pid=\"72\" seconds=\"0.001203\" bytes_out=\"26\" signal=\"11\"] "
		"daytime unix:/a\\x20\"b\"]\\x5c\\x0a\\xff -> tcp://127.0.0.1:13 daytime pid 72 1.203 ms in - out 26 "
		"killed by signal 11 (Segmentation fault)");
	c.log_format = CONFIG_LOG_JSON;
	assert_int_equal(log_open(&c, NULL), 0);
	log_connection(&l, NULL);
	json_decref(parse(strchr(syslog_rest(next(fd), 19 * 8 + 6), '{')));
	(void)close(fd);
	open_log("stderr", CONFIG_LOG_TEXT);
}

static void the_journal_gets_a_field_a_line(void **state)
{
	(void)state;
	int fd = daemon_socket("journal", "HARKD_JOURNAL_SOCKET");
	struct log_connection l = connection();
	open_log("journal", CONFIG_LOG_TEXT);
	log_event(LOG_LEVEL_ERROR, "x", "a\nMESSAGE=forged");
	assert_string_equal(next(fd), "PRIORITY=3\nSYSLOG_IDENTIFIER=harkd\nSYSLOG_FACILITY=3\nHARK_SERVICE=x\n"
	                              "MESSAGE=x: a\\x0aMESSAGE=forged\n");
	l.peer = HOSTILE;
	l.refused = "max_per_source";
	l.error = EACCES;
	log_connection(&l, NULL);
	assert_string_equal(
		next(fd),
		"PRIORITY=6\nSYSLOG_IDENTIFIER=harkd\nSYSLOG_FACILITY=3\nHARK_SERVICE=daytime\nHARK_BOX=daytime\n"
		"HARK_PEER=unix:/tmp/a "
		"b\\x0a\"]\\\\x1b[2J\\xff\\xc3\\xbc=\nHARK_LOCAL=tcp://127.0.0.1:13\nHARK_PID=72\n"
		"HARK_SECONDS=0.001203\nHARK_BYTES_IN=0\nHARK_BYTES_OUT=26\nHARK_REFUSED=max_per_source\n"
		"HARK_ERROR=Permission denied\n"
		"MESSAGE=daytime unix:/tmp/a\\x20b\\x0a\"]\\x5c\\x1b[2J\\xff\\xc3\\xbc= -> tcp://127.0.0.1:13 daytime "
		"pid 72 "
		"1.203 ms in 0 out 26 refused: max_per_source\n");
	open_log("journal", CONFIG_LOG_JSON);
	log_connection(&l, NULL);
	json_decref(parse(strstr(next(fd), "\nMESSAGE=") + strlen("\nMESSAGE=")));
	assert_ptr_equal(strchr(strstr(text, "\nMESSAGE=") + 1, '\n'), text + strlen(text) - 1);
	(void)close(fd);
	open_log("stderr", CONFIG_LOG_TEXT);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_connection_is_a_line_whose_fields_have_their_places),
		cmocka_unit_test(what_else_is_known_has_its_place),
		cmocka_unit_test(the_line_ends_with_how_it_ended),
		cmocka_unit_test(hostile_values_stay_in_their_field),
		cmocka_unit_test(json_carries_every_value_whole),
		cmocka_unit_test(json_escapes_what_changes_how_a_text_is_seen),
		cmocka_unit_test(a_line_is_bounded_whatever_is_in_it),
		cmocka_unit_test(syslog_gets_rfc_5424),
		cmocka_unit_test(the_journal_gets_a_field_a_line),
	};
	return cmocka_run_group_tests(tests, make_directory, remove_directory);
}
