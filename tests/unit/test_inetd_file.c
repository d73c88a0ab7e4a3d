/* test_inetd_file.c — inetd.conf as a file: lines and their ends, mistakes, NetBSD's key-value form, includes. */
#include "inetd_support.h"

#include "file_open.h"

static void an_indented_line_continues_the_one_before(void **state)
{
	(void)state;
	struct document *d = read_text(
		"ftp stream tcp\n\tnowait root\n  /bin/x x\n\t-a stream\n\nsmtp stream tcp nowait root /bin/y y\n");
	assert_clean(d);
	assert_int_equal(d->n, 2);
	assert_setting(d, "ftp", "exec", "/bin/x -a stream");
	assert_setting(d, "smtp", "exec", "/bin/y");
	assert_int_equal(find(d, "smtp")->place.line, 6);
	document_free(d);
}

static void an_indented_service_is_one_as_in_gnus(void **state)
{
	(void)state;
	struct document *d = read_text(
		"  ftp stream tcp nowait root /bin/x x\n  smtp stream tcp nowait root /bin/y y\n\t# comment\n");
	assert_clean(d);
	assert_int_equal(d->n, 2);
	assert_setting(d, "ftp", "exec", "/bin/x");
	assert_setting(d, "smtp", "exec", "/bin/y");
	document_free(d);
}

static void a_number_sign_after_the_program_is_an_argument(void **state)
{
	(void)state;
	struct document *d = read_text("ftp stream tcp nowait root /bin/x x # old\n");
	assert_setting(d, "ftp", "exec", "/bin/x \"#\" old");
	assert_remark(d, "ftp", "no comment");
	document_free(d);
}

static void lines_may_end_in_crlf_and_the_last_in_nothing(void **state)
{
	(void)state;
	struct document *d = read_text("\xef\xbb\xbf# dos\r\nftp stream tcp nowait root /bin/x x -a\r\n\r\nsmtp stream "
	                               "tcp nowait root /bin/y y");
	assert_clean(d);
	assert_int_equal(d->n, 2);
	assert_setting(d, "ftp", "exec", "/bin/x -a");
	assert_setting(d, "smtp", "exec", "/bin/y");
	document_free(d);
}

static void a_nul_byte_costs_its_line_alone(void **state)
{
	static const char text[] = "ftp stream tcp nowait root /bin/x x\0y\nsmtp stream tcp nowait root /bin/y y\n";

	(void)state;
	struct document *d = read_bytes(text, sizeof text - 1);
	assert_int_equal(d->n_errors, 1);
	assert_non_null(strstr(d->errors[0], ":1: a NUL byte"));
	assert_int_equal(d->n, 1);
	assert_setting(d, "smtp", "exec", "/bin/y");
	document_free(d);
}

static void a_line_of_64k_is_read_and_a_longer_one_told(void **state)
{
	(void)state;
	for (size_t n = 65536; n <= 65537; n++) {
		char *text = malloc(n + 128);
		int begin = sprintf(text, "ftp stream tcp nowait root /bin/x x ");
		memset(text + begin, 'a', n - (size_t)begin);
		int end = sprintf(text + n, "\nsmtp stream tcp nowait root /bin/y y\n");
		struct document *d = read_bytes(text, n + (size_t)end);
		assert_int_equal(d->n, n == 65536 ? 2 : 1);
		assert_int_equal(d->n_errors, n == 65536 ? 0 : 1);
		document_free(d);
		free(text);
	}
}

static void what_update_inetd_switched_off_is_mentioned(void **state)
{
	(void)state;
	struct document *d = read_text("#<off># imap stream tcp nowait root /usr/sbin/imapd imapd\n#:MAIL: Mail\n#pop3 "
	                               "stream tcp nowait root /x x\n");
	assert_clean(d);
	assert_int_equal(d->n, 0);
	assert_int_equal(d->head.n, 1);
	assert_remark(d, NULL, "imap was switched off by update-inetd(8)");
	document_free(d);
}

static void mistakes_are_told_with_their_line_and_the_rest_is_read(void **state)
{
	(void)state;
	assert_wrong("\nftp\n", 2, "before its socket type");
	assert_wrong("ftp stream\n", 1, "before its protocol");
	assert_wrong("ftp stream tcp\n", 1, "before its wait or nowait");
	assert_wrong("ftp stream tcp nowait\n", 1, "before its user");
	assert_wrong("ftp stream tcp nowait root\n", 1, "before its program");
	assert_wrong("ftp steam tcp nowait root /bin/x x\n", 1, "\"steam\" is no socket type");
	assert_wrong("ftp stream tpc nowait root /bin/x x\n", 1, "did you mean tcp?");
	assert_wrong("ftp dgram tcp nowait root /bin/x x\n", 1, "dgram is not what tcp serves");
	assert_wrong("ftp stream tcp sometimes root /bin/x x\n", 1, "neither wait nor nowait");
	assert_wrong("ftp stream tcp nowait.x root /bin/x x\n", 1, "nowait.MAX");
	assert_wrong("ftp stream tcp nowait/1/2/3/4 root /bin/x x\n", 1, "nowait.MAX");
	assert_wrong("ftp stream tcp nowait.9999999999 root /bin/x x\n", 1, "nowait.MAX");
	assert_wrong("ftp stream tcp nowait :g /bin/x x\n", 1, "is no user");
	assert_wrong("ftp stream tcp nowait root: /bin/x x\n", 1, "is no group");
	assert_wrong("sshd stream tcp nowait root /bin/x x\n", 1, "no such service for tcp (did you mean ssh?)");
	assert_wrong("0 stream tcp nowait root /bin/x x\n", 1, "from 1 to 65535");
	assert_wrong("65536 stream tcp nowait root /bin/x x\n", 1, "from 1 to 65535");
	assert_wrong("a..b:ftp stream tcp nowait root /bin/x x\n", 1, "empty label");
	assert_wrong("::1:ftp stream tcp4 nowait root /bin/x x\n", 1, "IPv6 address");
	assert_wrong("\"\" stream tcp nowait root /bin/x x\n", 1, "without a name");
	struct document *d = read_text("ftp stream\nsmtp stream tcp nowait root /bin/y y\n");
	assert_int_equal(d->n, 1);
	document_free(d);
}

/* ---- NetBSD's key-value form ---- */

static void a_service_may_be_written_as_keys_and_values(void **state)
{
	(void)state;
	struct document *d = read_text(
		"http on\n"
		"\tbind = 127.0.0.1, # where\n"
		"# what\n"
		"\tsocktype = stream, protocol = tcp4, wait = no,\n"
		"\tuser = nobody, group = \"www-data\", service_max = 10, ip_max = 3, accept_max = 7,\n"
		"\texec = /usr/libexec/httpd, args = httpd -i \"a, b;\" 'it\\'s' \"\\x41\\n\",\n"
		"\tsndbuf = 64k, recvbuf = 32k, acceptfilter = httpready, ipsec =;\n");
	assert_clean(d);
	assert_int_equal(d->n, 1);
	assert_setting(d, "http", "listen", "tcp4://127.0.0.1:http");
	assert_setting(d, "http", "exec", "/usr/libexec/httpd -i \"a, b;\" \"it's\" \"A\\n\"");
	assert_setting(d, "http", "user", "nobody");
	assert_setting(d, "http", "group", "www-data");
	assert_setting(d, "http", "rate", "10/m");
	assert_setting(d, "http", "rate_per_source", "3/m");
	assert_setting(d, "http", "max_conns", "7");
	assert_setting(d, "http", "wait", NULL);
	assert_remark(d, "http", "sndbuf = 64k");
	assert_remark(d, "http", "recvbuf = 32k");
	assert_remark(d, "http", "accept filter httpready");
	document_free(d);
}

static void several_services_may_stand_on_a_line(void **state)
{
	(void)state;
	struct document *d = read_text("echo on protocol=tcp,user=root;discard on#c\nprotocol=udp, user=root ; time "
	                               "stream tcp nowait root internal\n"
	                               "[::1]:daytime on protocol = tcp, user = root;\n");
	assert_clean(d);
	assert_int_equal(d->n, 4);
	/* exec is internal where nothing is said, and the type follows from the protocol. */
	assert_setting(d, "echo", "box", "echo");
	assert_setting(d, "discard", "listen", "udp://*:discard");
	assert_setting(d, "time", "box", "time");
	assert_setting(d, "daytime", "listen", "tcp://[::1]:daytime");
	document_free(d);
}

static void a_service_that_is_off_is_kept_disabled(void **state)
{
	(void)state;
	assert_line("ftp off protocol = tcp, wait = yes, user = root, exec = /bin/x, args = x;\n", "ftp", "disable",
	            "yes");
	assert_line("ftp on protocol = tcp, wait = yes, user = root, exec = /bin/x, args = x;\n", "ftp", "wait", "yes");
}

static void mistakes_among_keys_are_told(void **state)
{
	(void)state;
	assert_wrong("ftp on protocol = tcp,\n\tuzer = root;\n", 2, "did you mean user?");
	assert_wrong("ftp on protocol = tcp\n", 1, "no ';' ends its options");
	assert_wrong("ftp on\n", 1, "no ';' ends its options");
	assert_wrong("ftp on protocol tcp;\n", 1, "option = value");
	assert_wrong("ftp on protocol = tcp udp, user = root;\n", 1, "takes one value, not 2");
	assert_wrong("ftp on protocol = , user = root;\n", 1, "takes one value, not 0");
	assert_wrong("ftp on user = root, user = root, protocol = tcp;\n", 1, "said twice");
	assert_wrong("ftp on protocol = tcp, wait = perhaps;\n", 1, "yes or no");
	assert_wrong("ftp on protocol = tcp, user = root, exec = /bin/x;\n", 1, "wait = yes or wait = no is missing");
	assert_wrong("ftp on protocol = tcp, wait = no, exec = /bin/x;\n", 1, "its user is missing");
	assert_wrong("ftp on user = root, wait = no, exec = /bin/x;\n", 1, "socket type is missing");
	assert_wrong("ftp on protocol = tcp, user = root;\n", 1, "exec is missing");
	assert_wrong("ftp on protocol = tcp, wait = no, user = root, exec = /bin/x, ip_max = many;\n", 1,
	             "ip_max is a number");
	assert_wrong("ftp on args = \"a\\q\", protocol = tcp;\n", 1, "an escape");
	assert_wrong("ftp on args = \"a\\x00\", protocol = tcp;\n", 1, "an escape");
	assert_wrong("ftp on args = \"a;\n", 1, "not closed");
}

static void what_follows_a_mistake_among_keys_is_read(void **state)
{
	static const char *const texts[] = {
		"ftp on protocol tcp; smtp stream tcp nowait root /bin/y y\n",
		"ftp on protocol = tcp, args = \"a;\nsmtp stream tcp nowait root /bin/y y\n",
		"ftp on protocol = tcp,\nsmtp stream tcp nowait root /bin/y y\nsmtp stream tcp nowait root /bin/y y\n",
		"ftp on uzer = root; smtp stream tcp nowait root /bin/y y\n",
	};
	(void)state;
	for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
		struct document *d = read_text(texts[i]);
		assert_true(d->n_errors > 0);
		assert_setting(d, "smtp", "exec", "/bin/y");
		document_free(d);
	}
}

static void included_files_are_read_in_place(void **state)
{
	(void)state;
	static const char a[] = "ftp stream tcp nowait root /bin/x x\n10.0.0.1:\n",
			  b[] = "smtp stream tcp nowait root /bin/x x\n";
	assert_int_equal(mkdir(path_of("sub"), 0700), 0);
	write_bytes("sub/a.conf", a, sizeof a - 1);
	write_bytes("sub/b.conf", b, sizeof b - 1);
	struct document *d = read_text("127.0.0.1:\n.include \"sub/*.conf\" and more\n.include none/*\npop3 stream tcp "
	                               "nowait root /bin/x x\n");
	assert_clean(d);
	assert_int_equal(d->n, 3);
	assert_setting(d, "ftp", "listen", "tcp://127.0.0.1:ftp");
	assert_setting(d, "smtp", "listen", "tcp://127.0.0.1:smtp"); /* a.conf's address ended with it */
	assert_setting(d, "pop3", "listen", "tcp://127.0.0.1:pop3");
	assert_non_null(strstr(find(d, "ftp")->place.file, "/sub/a.conf"));
	assert_int_equal(find(d, "ftp")->place.line, 1);
	document_free(d);
}

static void includes_without_end_are_told(void **state)
{
	char text[300];

	(void)state;
	assert_wrong(".include inetd.conf\n", 1, "being read already");
	assert_wrong(".include none\n", 1, "No such file");
	assert_wrong(".include\n", 1, "names no file");
	assert_wrong(".exclude x\n", 1, "no directive");
	assert_wrong(".include /dev/null\n", 1, "not a regular file");
	for (int i = 0; i < 20; i++) {
		char name[32];
		int n = snprintf(text, sizeof text, ".include chain%d\n", i + 1);
		(void)snprintf(name, sizeof name, "chain%d", i);
		write_bytes(name, text, (size_t)n);
	}
	struct document *d = read_text(".include chain0\n");
	assert_int_equal(d->n_errors, 1);
	assert_non_null(strstr(d->errors[0], "files deep"));
	document_free(d);
}

static void many_services_are_read_in_bounded_time_and_number(void **state)
{
	(void)state;
	static char text[5000 * 64];
	size_t n = 0;
	for (int i = 1; i <= 5000; i++)
		n += (size_t)snprintf(text + n, sizeof text - n, "%d stream tcp nowait root /bin/x x %d\n", i, i);
	struct document *d = read_bytes(text, n);
	assert_int_equal(d->n, 4096);
	assert_int_equal(d->n_errors, 1);
	assert_non_null(strstr(d->errors[0], ":4097: more than 4096 services"));
	document_free(d);
}

static void a_file_that_cannot_be_read_is_an_error(void **state)
{
	(void)state;
	struct document *d = document_new();
	assert_int_equal(import_inetd(d, "/no/such/inetd.conf"), 0);
	assert_int_equal(import_inetd(d, directory), 0);
	assert_int_equal(mkfifo(path_of("fifo"), 0600), 0);
	assert_int_equal(import_inetd(d, path_of("fifo")), 0); /* which nobody writes to */
	(void)unlink(path_of("fifo"));
	assert_int_equal(d->n_errors, 3);
	assert_non_null(strstr(d->errors[2], "fifo: not a regular file"));
	assert_true(d->unread);
	assert_string_equal(d->errors[0], "/no/such/inetd.conf: No such file or directory");
	assert_non_null(strstr(d->errors[1], ": Is a directory"));
	document_free(d);
}

/* As /dev/stdin may be: a pipe whose writer says nothing, and goes on. */
static void a_silent_writer_does_not_hold_up_the_reading(void **state)
{
	int ends[2];
	char name[64];
	(void)state;
	assert_int_equal(pipe(ends), 0);
	(void)snprintf(name, sizeof name, "/proc/self/fd/%d", ends[0]);
	file_open_patience_ns = 20 * HARK_MS;
	(void)alarm(20);
	struct document *d = document_new();
	assert_int_equal(import_inetd(d, name), 0);
	(void)alarm(0);
	file_open_patience_ns = HARK_FOREVER;
	assert_int_equal(d->n_errors, 1);
	assert_non_null(strstr(d->errors[0], "nobody wrote it to its end in time"));
	assert_true(d->unread);
	document_free(d);
	(void)close(ends[0]);
	(void)close(ends[1]);
}

static void names_that_hark_conf_keeps_for_itself_are_not_taken(void **state)
{
	(void)state;
	assert_line("/run/harkd stream unix nowait root /bin/x x\n", "harkd-service", "listen", "unix:/run/harkd");
	assert_line("/run/defaults stream unix nowait root /bin/x x\n", "defaults-service", "listen",
	            "unix:/run/defaults");
	assert_line("@x stream unix nowait root /bin/x x\n", "x", "listen", "unix:@x");
}

static void assert_loaded(const struct config *c)
{
	if (c->n_errors > 0)
		fail_msg("%s", c->errors[0]);
	if (c->n_warnings > 0)
		fail_msg("%s", c->warnings[0]);
}

static void what_is_printed_is_loaded_as_the_document_itself_is(void **state)
{
	(void)state;
	struct document *d = read_text(
		"ftp stream tcp nowait.40 root:daemon /bin/cat cat 'a  b' \"it's\" ';x' '#y' 'end\\' '\"' $HOME\n"
		"7000 stream tcp6 nowait/10/60/5 nobody /bin/cat cat\n"
		"7001 dgram udp wait nobody /bin/cat\n"
		"127.0.0.1,[::1]:7002 stream tcp nowait root /bin/cat cat\n"
		"/run/hark-test-inetd/a,b stream unix nowait root /bin/cat cat\n"
		":root:daemon:0660:/run/hark-test-inetd/c dgram unix wait root /bin/cat cat\n"
		"daytime stream tcp nowait root internal\ndaytime dgram udp wait root internal\n"
		"echo off protocol = tcp4, user = root;\n"
		"7003 on protocol = tcp, wait = no, user = root, exec = /bin/cat, args = cat \"a\\n\\tb\\\\\";\n");
	assert_clean(d);
	assert_int_equal(d->n, 9);
	struct config *from_document, *from_file;
	assert_int_equal(config_load_document(d, &from_document), 0);
	assert_loaded(from_document);
	FILE *to = fopen(path_of("hark.conf"), "w");
	assert_int_equal(document_print(d, to), 0);
	assert_int_equal(fclose(to), 0);
	assert_int_equal(config_load(path_of("hark.conf"), &from_file), 0);
	assert_loaded(from_file);
	assert_int_equal(from_file->n_services, 9);
	assert_int_equal(from_document->n_services, 9);
	for (size_t i = 0; i < 9; i++)
		assert_string_equal(from_file->services[i]->text, from_document->services[i]->text);
	const struct config_words *argv = &config_find(from_file, "ftp")->argv;
	static const char *const words[] = {"a  b", "it's", ";x", "#y", "end\\", "\"", "$HOME"};
	for (size_t i = 0; i < sizeof words / sizeof *words; i++)
		assert_string_equal(argv->word[argv->n - sizeof words / sizeof *words + i], words[i]);
	argv = &config_find(from_file, "port-7003")->argv;
	assert_string_equal(argv->word[argv->n - 1], "a\n\tb\\");
	assert_true(config_find(from_file, "echo")->disabled);
	assert_true(config_find(from_file, "port-7001")->wait);
	config_free(from_document);
	config_free(from_file);
	document_free(d);
	(void)remove(path_of("hark.conf"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(an_indented_line_continues_the_one_before),
		cmocka_unit_test(an_indented_service_is_one_as_in_gnus),
		cmocka_unit_test(a_number_sign_after_the_program_is_an_argument),
		cmocka_unit_test(lines_may_end_in_crlf_and_the_last_in_nothing),
		cmocka_unit_test(a_nul_byte_costs_its_line_alone),
		cmocka_unit_test(a_line_of_64k_is_read_and_a_longer_one_told),
		cmocka_unit_test(what_update_inetd_switched_off_is_mentioned),
		cmocka_unit_test(mistakes_are_told_with_their_line_and_the_rest_is_read),
		cmocka_unit_test(a_service_may_be_written_as_keys_and_values),
		cmocka_unit_test(several_services_may_stand_on_a_line),
		cmocka_unit_test(a_service_that_is_off_is_kept_disabled),
		cmocka_unit_test(mistakes_among_keys_are_told),
		cmocka_unit_test(what_follows_a_mistake_among_keys_is_read),
		cmocka_unit_test(included_files_are_read_in_place),
		cmocka_unit_test(includes_without_end_are_told),
		cmocka_unit_test(many_services_are_read_in_bounded_time_and_number),
		cmocka_unit_test(a_file_that_cannot_be_read_is_an_error),
		cmocka_unit_test(a_silent_writer_does_not_hold_up_the_reading),
		cmocka_unit_test(names_that_hark_conf_keeps_for_itself_are_not_taken),
		cmocka_unit_test(what_is_printed_is_loaded_as_the_document_itself_is),
	};
	return cmocka_run_group_tests(tests, set_up, tear_down);
}
