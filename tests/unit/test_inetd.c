/* test_inetd.c — inetd.conf in each of its dialects: a line in, settings out. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "import.h"

static char directory[] = "/tmp/hark-test-inetd-XXXXXX";

static const char *path_of(const char *name)
{
	static char path[256];

	(void)snprintf(path, sizeof path, "%s/%s", directory, name);
	return path;
}

static void write_file(const char *name, const void *text, size_t n)
{
	FILE *f = fopen(path_of(name), "w");

	assert_non_null(f);
	assert_int_equal(fwrite(text, 1, n, f), n);
	assert_int_equal(fclose(f), 0);
}

static struct document *read_bytes(const void *text, size_t n)
{
	struct document *d = document_new();

	write_file("inetd.conf", text, n);
	assert_non_null(d);
	assert_int_equal(import_inetd(d, path_of("inetd.conf")), 0);
	return d;
}

static struct document *read_text(const char *text)
{
	return read_bytes(text, strlen(text));
}

static struct document_section *find(const struct document *d, const char *name)
{
	for (size_t i = 0; i < d->n; i++)
		if (strcmp(d->sections[i]->name, name) == 0)
			return d->sections[i];
	return NULL;
}

static void assert_setting(const struct document *d, const char *section, const char *key, const char *value)
{
	const struct document_section *s = find(d, section);

	if (s == NULL)
		fail_msg("there is no section [%s] of %zu; error: %s", section, d->n,
		         d->n_errors > 0 ? d->errors[0] : "none");
	const char *got = document_get(s, key);
	if (value == NULL ? got != NULL : got == NULL || strcmp(got, value) != 0)
		fail_msg("[%s] %s = %s, not %s", section, key, got != NULL ? got : "(none)",
		         value != NULL ? value : "(none)");
}

/* section NULL: at the top. */
static bool has_remark(const struct document *d, const char *section, const char *part)
{
	const struct document_section *s = section != NULL ? find(d, section) : &d->head;

	for (size_t i = 0; s != NULL && i < s->n; i++)
		if (s->lines[i].kind == DOCUMENT_REMARK && strstr(s->lines[i].value, part) != NULL)
			return true;
	return false;
}

static void assert_remark(const struct document *d, const char *section, const char *part)
{
	if (!has_remark(d, section, part))
		fail_msg("[%s] has no remark with \"%s\"", section != NULL ? section : "top", part);
}

static void assert_clean(const struct document *d)
{
	if (d->n_errors > 0)
		fail_msg("%s", d->errors[0]);
}

/* A text with one mistake, told at that line with that word; and nothing is served of it. */
static void assert_wrong(const char *text, int line, const char *part)
{
	struct document *d = read_text(text);
	char begin[300];

	(void)snprintf(begin, sizeof begin, "%s/inetd.conf:%d: ", directory, line);
	if (d->n_errors != 1)
		fail_msg("\"%s\": %zu errors, not one", text, d->n_errors);
	if (strncmp(d->errors[0], begin, strlen(begin)) != 0 || strstr(d->errors[0], part) == NULL)
		fail_msg("\"%s\": %s", text, d->errors[0]);
	assert_int_equal(d->n, 0);
	document_free(d);
}

/* One line whose section has that name and that setting. */
static void assert_line(const char *line, const char *section, const char *key, const char *value)
{
	struct document *d = read_text(line);

	assert_clean(d);
	assert_setting(d, section, key, value);
	assert_int_equal(d->n, 1);
	document_free(d);
}

static void seven_columns_are_a_service(void **state)
{
	(void)state;
	struct document *d = read_text(
		"# a comment\n\nfinger\tstream  tcp\tnowait nobody /usr/sbin/in.fingerd in.fingerd -w\n");
	assert_clean(d);
	assert_int_equal(d->n, 1);
	assert_setting(d, "finger", "listen", "tcp://*:finger");
	assert_setting(d, "finger", "exec", "/usr/sbin/in.fingerd -w");
	assert_setting(d, "finger", "user", "nobody");
	assert_setting(d, "finger", "group", NULL);
	assert_setting(d, "finger", "wait", NULL);
	assert_setting(d, "finger", "stderr", "connection");
	assert_int_equal(find(d, "finger")->place.line, 3);
	document_free(d);
}

static void protocols_become_schemes(void **state)
{
	static const struct {
		const char *type, *protocol, *listen;
	} rows[] = {
		{"stream", "tcp", "tcp://*:7000"},      {"stream", "tcp4", "tcp4://*:7000"},
		{"stream", "tcp6", "tcp6://*:7000"},    {"stream", "tcp46", "tcp://*:7000"},
		{"stream", "tcp64", "tcp://*:7000"},    {"stream", "tcp6only", "tcp6://*:7000"},
		{"dgram", "udp", "udp://*:7000"},       {"dgram", "udp4", "udp4://*:7000"},
		{"dgram", "udp6", "udp6://*:7000"},     {"dgram", "udp46", "udp://*:7000"},
		{"dgram", "udp6only", "udp6://*:7000"},
	};
	char line[128];

	(void)state;
	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
		(void)snprintf(line, sizeof line, "7000 %s %s wait root /bin/cat cat\n", rows[i].type,
		               rows[i].protocol);
		assert_line(line, "port-7000", "listen", rows[i].listen);
	}
}

static void tcp_beside_tcp6_is_ipv4(void **state)
{
	(void)state;
	struct document *d = read_text("ftp stream tcp nowait root /usr/libexec/ftpd ftpd -l\n"
	                               "ftp stream tcp6 nowait root /usr/libexec/ftpd ftpd -l -6\n"
	                               "tftp dgram udp6 wait root /usr/libexec/tftpd tftpd a\n"
	                               "tftp dgram udp wait root /usr/libexec/tftpd tftpd b\n"
	                               "telnet stream tcp4 nowait root /usr/libexec/telnetd telnetd\n"
	                               "telnet stream tcp nowait root /usr/libexec/telnetd telnetd -x\n");
	assert_clean(d);
	assert_setting(d, "ftp", "listen", "tcp4://*:ftp");
	assert_setting(d, "ftp-tcp6", "listen", "tcp6://*:ftp");
	assert_setting(d, "tftp", "listen", "udp6://*:tftp");
	assert_setting(d, "tftp-udp", "listen", "udp4://*:tftp");
	assert_setting(d, "telnet", "listen", "tcp4://*:telnet");
	assert_setting(d, "telnet-tcp", "listen", "tcp6://*:telnet");
	document_free(d);
}

static void lines_that_differ_in_the_address_alone_share_a_section(void **state)
{
	(void)state;
	struct document *d = read_text("ftp stream tcp nowait root /usr/libexec/ftpd ftpd -l\n"
	                               "ftp stream tcp6 nowait root /usr/libexec/ftpd ftpd -l\n"
	                               "daytime stream tcp nowait root internal\n"
	                               "daytime dgram udp wait root internal\n"
	                               "time stream tcp nowait root internal\n"
	                               "time dgram udp wait nobody internal\n"
	                               "echo stream tcp nowait.9 root internal\n"
	                               "echo dgram udp wait.9 root internal\n");
	assert_clean(d);
	assert_setting(d, "ftp", "listen", "tcp4://*:ftp tcp6://*:ftp");
	assert_setting(d, "daytime", "listen", "tcp://*:daytime udp://*:daytime");
	assert_setting(d, "time", "listen", "tcp://*:time"); /* another user */
	assert_setting(d, "time-udp", "listen", "udp://*:time");
	assert_setting(d, "echo", "rate", "9/m"); /* each line has its own limit */
	assert_setting(d, "echo-udp", "rate", "9/m");
	assert_int_equal(d->n, 6);
	document_free(d);
}

static void the_later_of_two_lines_for_one_address_counts(void **state)
{
	(void)state;
	struct document *d = read_text(
		"ftp stream tcp nowait root /sbin/old old\nftp stream tcp nowait root /sbin/new new\n");
	assert_clean(d);
	assert_int_equal(d->n, 1);
	assert_setting(d, "ftp", "exec", "/sbin/new");
	assert_remark(d, NULL, "inetd.conf:2 says it again");
	document_free(d);
}

static void an_address_before_the_service_is_where_it_listens(void **state)
{
	(void)state;
	assert_line("127.0.0.1:ftp stream tcp nowait root /bin/x x\n", "ftp", "listen", "tcp://127.0.0.1:ftp");
	assert_line("[::1]:ftp stream tcp6 nowait root /bin/x x\n", "ftp", "listen", "tcp6://[::1]:ftp");
	assert_line("::1:ftp stream tcp6 nowait root /bin/x x\n", "ftp", "listen", "tcp6://[::1]:ftp");
	assert_line("*:ftp stream tcp nowait root /bin/x x\n", "ftp", "listen", "tcp://*:ftp");
	assert_line("localhost:ftp stream tcp nowait root /bin/x x\n", "ftp", "listen", "tcp://localhost:ftp");
	assert_line("127.0.0.1,10.0.0.1,[::1]:ftp stream tcp nowait root /bin/x x\n", "ftp", "listen",
	            "tcp://127.0.0.1:ftp tcp://10.0.0.1:ftp tcp://[::1]:ftp");
	assert_line("127.0.0.1: ftp stream tcp nowait root /bin/x x\n", "ftp", "listen", "tcp://127.0.0.1:ftp");
}

static void an_address_alone_is_for_the_lines_that_follow(void **state)
{
	(void)state;
	struct document *d = read_text(
		"10.0.0.1,10.0.0.2:\nftp stream tcp nowait root /bin/x x\n127.0.0.1:telnet stream tcp nowait root "
		"/bin/x x\n"
		"smtp stream tcp nowait root /bin/x x\n*: \npop3 stream tcp nowait root /bin/x x\n");
	assert_clean(d);
	assert_setting(d, "ftp", "listen", "tcp://10.0.0.1:ftp tcp://10.0.0.2:ftp");
	assert_setting(d, "telnet", "listen", "tcp://127.0.0.1:telnet");
	assert_setting(d, "smtp", "listen", "tcp://10.0.0.1:smtp tcp://10.0.0.2:smtp");
	assert_setting(d, "pop3", "listen", "tcp://*:pop3");
	document_free(d);
}

static void a_path_is_a_unix_socket(void **state)
{
	(void)state;
	assert_line("/run/x.sock stream unix nowait root /bin/x x\n", "x.sock", "listen", "unix:/run/x.sock");
	assert_line("/run/x dgram unix wait root /bin/x x\n", "x", "listen", "unixgram:/run/x");
	assert_line("/run/a:b stream unix nowait root /bin/x x\n", "a-b", "listen", "unix:/run/a:b");
	assert_line("10.0.0.1:/run/x stream unix nowait root /bin/x x\n", "x", "listen", "unix:/run/x");
	assert_wrong("run/x stream unix nowait root /bin/x x\n", 1, "a path belongs here");
}

static void freebsd_gives_unix_sockets_an_owner(void **state)
{
	(void)state;
	struct document *d = read_text(":news:uucp:660:/var/run/echo stream unix nowait root /bin/cat cat\n");
	assert_clean(d);
	assert_setting(d, "echo", "listen", "unix:/var/run/echo");
	assert_setting(d, "echo", "socket_user", "news");
	assert_setting(d, "echo", "socket_group", "uucp");
	assert_setting(d, "echo", "socket_mode", "660");
	document_free(d);
	assert_wrong(":news:/var/run/echo stream unix nowait root /bin/cat cat\n", 1, ":USER:GROUP:MODE:/PATH");
}

static void max_is_a_rate_and_never_the_end(void **state)
{
	(void)state;
	assert_line("ftp stream tcp nowait.40 root /bin/x x\n", "ftp", "rate", "40/m");
	assert_line("ftp stream tcp nowait:40 root /bin/x x\n", "ftp", "rate", "40/m");
	assert_line("ftp stream tcp nowait.0 root /bin/x x\n", "ftp", "rate", NULL);
	assert_line("tftp dgram udp wait.400 root /bin/x x\n", "tftp", "rate", "400/m");
}

static void freebsd_limits_children_and_sources(void **state)
{
	(void)state;
	struct document *d = read_text(
		"ftp stream tcp nowait/10/60/5 root /bin/x x\nsmtp stream tcp nowait/0/0/3 root /bin/x x\n"
		"pop3 stream tcp nowait/7 root /bin/x x\ntftp dgram udp wait/1 root /bin/x x\n");
	assert_clean(d);
	assert_setting(d, "ftp", "max_conns", "10");
	assert_setting(d, "ftp", "rate_per_source", "60/m");
	assert_setting(d, "ftp", "max_per_source", "5");
	assert_setting(d, "smtp", "max_conns", NULL);
	assert_setting(d, "smtp", "rate_per_source", NULL);
	assert_setting(d, "smtp", "max_per_source", "3");
	assert_setting(d, "pop3", "max_conns", "7");
	assert_setting(d, "tftp", "max_conns", NULL);
	assert_int_equal(d->fates[DOCUMENT_DROPPED], 0);
	document_free(d);
}

static void the_default_rate_is_told_once_where_a_line_has_none(void **state)
{
	(void)state;
	struct document *d = read_text("ftp stream tcp nowait root /bin/x x\nsmtp stream tcp nowait root /bin/x x\n");
	assert_int_equal(d->head.n, 1);
	assert_remark(d, NULL, "rate = 256/m");
	assert_int_equal(import_inetd(d, path_of("inetd.conf")), 0); /* as from a second file */
	assert_int_equal(d->head.n, 1);
	document_free(d);
	d = read_text("ftp stream tcp nowait.9 root /bin/x x\n");
	assert_int_equal(d->head.n, 0);
	document_free(d);
}

static void wait_hands_the_socket_over(void **state)
{
	(void)state;
	assert_line("tftp dgram udp wait root /bin/x x\n", "tftp", "wait", "yes");
	assert_line("ssh stream tcp wait root /bin/x x\n", "ssh", "wait", "yes");
	struct document *d = read_text("tftp dgram udp nowait root /bin/x x\n");
	assert_setting(d, "tftp", "wait", NULL);
	assert_remark(d, "tftp", "each peer gets a program of its own");
	document_free(d);
}

static void a_group_follows_a_dot_or_a_colon(void **state)
{
	(void)state;
	struct document *d = read_text(
		"ftp stream tcp nowait nobody.mail /bin/x x\nsmtp stream tcp nowait nobody:news /bin/x x\n"
		"pop3 stream tcp nowait no.such.user /bin/x x\n");
	assert_clean(d);
	assert_setting(d, "ftp", "user", "nobody");
	assert_setting(d, "ftp", "group", "mail");
	assert_setting(d, "smtp", "user", "nobody");
	assert_setting(d, "smtp", "group", "news");
	assert_setting(d, "pop3", "user", "no");
	assert_setting(d, "pop3", "group", "such.user");
	document_free(d);
}

/* The C library's look-up, for this program: there is one user more. */
struct passwd *getpwnam(const char *name)
{
	static struct passwd dotted = {.pw_name = (char *)"www.data"}, found;
	static char room[4096];
	struct passwd *result = NULL;

	if (strcmp(name, dotted.pw_name) == 0)
		return &dotted;
	return getpwnam_r(name, &found, room, sizeof room, &result) == 0 ? result : NULL;
}

static void a_name_with_dots_that_is_a_user_is_one(void **state)
{
	(void)state;
	struct document *d = read_text(
		"ftp stream tcp nowait www.data /bin/x x\nsmtp stream tcp nowait www.data.web /bin/x x\n");
	assert_setting(d, "ftp", "user", "www.data");
	assert_setting(d, "ftp", "group", NULL);
	assert_setting(d, "smtp", "user", "www.data");
	assert_setting(d, "smtp", "group", "web");
	document_free(d);
}

static void a_login_class_is_dropped_with_a_remark(void **state)
{
	(void)state;
	struct document *d = read_text(
		"ftp stream tcp nowait root:wheel/daemon /bin/x x\nsmtp stream tcp nowait root/daemon /bin/x x\n");
	assert_clean(d);
	assert_setting(d, "ftp", "user", "root");
	assert_setting(d, "ftp", "group", "wheel");
	assert_remark(d, "ftp", "not carried over: login class daemon");
	assert_setting(d, "smtp", "user", "root");
	assert_setting(d, "smtp", "group", NULL);
	document_free(d);
}

static void another_name_for_the_program_is_given_to_it(void **state)
{
	(void)state;
	struct document *d = read_text("ftp stream tcp nowait root /usr/sbin/ftpd in.ftpd -l\n");
	assert_setting(d, "ftp", "box", "exec --argv0 in.ftpd /usr/sbin/ftpd -l");
	assert_setting(d, "ftp", "exec", NULL);
	document_free(d);
	assert_line("ftp stream tcp nowait root /usr/sbin/ftpd /usr/sbin/ftpd -l\n", "ftp", "exec",
	            "/usr/sbin/ftpd -l");
	assert_line("ftp stream tcp nowait root /usr/sbin/ftpd\n", "ftp", "exec", "/usr/sbin/ftpd");
}

static void tcpd_stays_before_its_program(void **state)
{
	(void)state;
	struct document *d = read_text("telnet stream tcp nowait telnetd /usr/sbin/tcpd /usr/sbin/in.telnetd\n");
	assert_clean(d);
	assert_setting(d, "telnet", "box", "exec --argv0 /usr/sbin/in.telnetd /usr/sbin/tcpd");
	assert_remark(d, "telnet", "hosts.allow");
	document_free(d);
}

static void internal_services_are_boxes(void **state)
{
	static const char *const names[] = {"echo", "discard", "chargen", "daytime", "time"};
	char line[128];

	(void)state;
	for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
		(void)snprintf(line, sizeof line, "%s stream tcp nowait root internal\n", names[i]);
		assert_line(line, names[i], "box", names[i]);
		(void)snprintf(line, sizeof line, "%s dgram udp wait root internal\n", names[i]);
		assert_line(line, names[i], "box", names[i]);
		assert_line(line, names[i], "wait", NULL);
		assert_line(line, names[i], "stderr", NULL);
	}
	assert_line("13 stream tcp nowait root internal\n", "port-13", "box", "daytime");
	/* By its argument. */
	assert_line("7013 stream tcp nowait root internal daytime\n", "port-7013", "box", "daytime");
	assert_wrong("7013 stream tcp nowait root internal cat\n", 1, "no internal service has its name");
	assert_line("sink stream tcp nowait root internal\n", "sink", "box", "discard"); /* an alias in services(5) */
	struct document *d = read_text("daytime dgram udp wait root internal\n");
	assert_remark(d, "daytime", "local time");
	assert_remark(d, "daytime", "--longer");
	document_free(d);
	assert_wrong("ftp stream tcp nowait root internal\n", 1, "no internal service has its name");
}

static void what_cannot_be_served_is_refused_by_name_and_the_rest_is_served(void **state)
{
	(void)state;
	struct document *d = read_text("rusersd/2-3 dgram rpc/udp wait root /usr/libexec/rpc.rusersd rpc.rusersd\n"
	                               "mountd/1 stream rpc/tcp wait root /usr/libexec/mountd mountd\n"
	                               "tcpmux stream tcp nowait root internal\n"
	                               "tcpmux/+date stream tcp nowait guest /bin/date date\n"
	                               "auth stream tcp nowait root internal auth -r -f -n -o UNKNOWN -t 30\n"
	                               "ospf raw ospf wait root /bin/x x\n"
	                               "x rdm tcp wait root /bin/x x\n"
	                               "x seqpacket unix wait root /bin/x x\n"
	                               "telnet stream faith/tcp6 nowait root /bin/x x\n"
	                               "echo stream tcp nowait root internal\n");
	assert_clean(d);
	assert_int_equal(d->n, 1);
	assert_int_equal(d->fates[DOCUMENT_DROPPED], 9);
	assert_remark(d, NULL, "rusersd/2-3: Sun RPC is not served");
	assert_remark(d, NULL, "mountd/1: Sun RPC");
	assert_remark(d, NULL, "tcpmux/+date: tcpmux (RFC 1078)");
	assert_remark(d, NULL, "auth: auth (RFC 1413)");
	assert_remark(d, NULL, "ospf: sockets of the types raw");
	assert_remark(d, NULL, "faith");
	document_free(d);
}

static void buffers_are_dropped_with_a_remark(void **state)
{
	(void)state;
	struct document *d = read_text("ftp stream tcp,sndbuf=64k,rcvbuf=1m nowait root /bin/x x\nsmtp stream tcp/ttcp "
	                               "nowait root /bin/x x\n");
	assert_clean(d);
	assert_setting(d, "ftp", "listen", "tcp://*:ftp");
	assert_remark(d, "ftp", "not carried over: protocol option sndbuf=64k,rcvbuf=1m");
	assert_setting(d, "smtp", "listen", "tcp://*:smtp");
	assert_remark(d, "smtp", "protocol option ttcp");
	document_free(d);
}

static void netbsd_limits_and_filters_stand_in_the_socket_type(void **state)
{
	(void)state;
	struct document *d = read_text(
		"http stream,10:httpready tcp nowait root /bin/x x\nftp stream:dataready tcp nowait root /bin/x x\n");
	assert_clean(d);
	assert_setting(d, "http", "max_conns", "10");
	assert_remark(d, "http", "accept filter httpready");
	assert_remark(d, "ftp", "accept filter dataready");
	document_free(d);
	assert_wrong("http stream,x tcp nowait root /bin/x x\n", 1, "number");
}

static void quotes_hold_an_argument_together(void **state)
{
	(void)state;
	assert_line("ftp stream tcp nowait root /bin/sh sh -c 'echo \"a  b\"' \"it's\" a'b c'd\n", "ftp", "exec",
	            "/bin/sh -c \"echo \\\"a  b\\\"\" \"it's\" \"ab cd\"");
	assert_line("ftp stream tcp nowait root '/opt/a b/x' x\n", "ftp", "exec", "\"/opt/a b/x\"");
	assert_line("ftp stream tcp nowait root /bin/x x don't\n", "ftp", "exec", "/bin/x \"don't\"");
}

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

static void an_ipsec_policy_is_dropped_for_each_service_it_is_for(void **state)
{
	(void)state;
	struct document *d = read_text("#@ in ipsec esp/transport//require\nftp stream tcp nowait root /bin/x x\n#@\n"
	                               "smtp stream tcp nowait root /bin/x x\n");
	assert_clean(d);
	assert_remark(d, "ftp", "IPsec policy \"in ipsec esp/transport//require\"");
	assert_false(has_remark(d, "smtp", "IPsec"));
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
	write_file("sub/a.conf", a, sizeof a - 1);
	write_file("sub/b.conf", b, sizeof b - 1);
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
	assert_wrong(".include /dev/null\n", 1, "no regular file");
	for (int i = 0; i < 20; i++) {
		char name[32];
		int n = snprintf(text, sizeof text, ".include chain%d\n", i + 1);
		(void)snprintf(name, sizeof name, "chain%d", i);
		write_file(name, text, (size_t)n);
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

static void names_that_hark_conf_keeps_for_itself_are_not_taken(void **state)
{
	(void)state;
	assert_line("/run/harkd stream unix nowait root /bin/x x\n", "harkd-service", "listen", "unix:/run/harkd");
	assert_line("/run/defaults stream unix nowait root /bin/x x\n", "defaults-service", "listen",
	            "unix:/run/defaults");
	assert_line("@x stream unix nowait root /bin/x x\n", "x", "listen", "unix:@x");
}

static void assert_loads(const struct config *c)
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
	assert_loads(from_document);
	FILE *to = fopen(path_of("hark.conf"), "w");
	assert_int_equal(document_print(d, to), 0);
	assert_int_equal(fclose(to), 0);
	assert_int_equal(config_load(path_of("hark.conf"), &from_file), 0);
	assert_loads(from_file);
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

static int make_directory(void **state)
{
	(void)state;
	return mkdtemp(directory) == NULL ? -1 : 0;
}

static int remove_directory(void **state)
{
	static const char *const names[] = {"sub/a.conf", "sub/b.conf", "sub", "inetd.conf"};
	char name[32];

	(void)state;
	for (int i = 0; i < 20; i++) {
		(void)snprintf(name, sizeof name, "chain%d", i);
		(void)remove(path_of(name));
	}
	for (size_t i = 0; i < sizeof names / sizeof *names; i++)
		(void)remove(path_of(names[i]));
	return rmdir(directory);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(seven_columns_are_a_service),
		cmocka_unit_test(protocols_become_schemes),
		cmocka_unit_test(tcp_beside_tcp6_is_ipv4),
		cmocka_unit_test(lines_that_differ_in_the_address_alone_share_a_section),
		cmocka_unit_test(the_later_of_two_lines_for_one_address_counts),
		cmocka_unit_test(an_address_before_the_service_is_where_it_listens),
		cmocka_unit_test(an_address_alone_is_for_the_lines_that_follow),
		cmocka_unit_test(a_path_is_a_unix_socket),
		cmocka_unit_test(freebsd_gives_unix_sockets_an_owner),
		cmocka_unit_test(max_is_a_rate_and_never_the_end),
		cmocka_unit_test(freebsd_limits_children_and_sources),
		cmocka_unit_test(the_default_rate_is_told_once_where_a_line_has_none),
		cmocka_unit_test(wait_hands_the_socket_over),
		cmocka_unit_test(a_group_follows_a_dot_or_a_colon),
		cmocka_unit_test(a_name_with_dots_that_is_a_user_is_one),
		cmocka_unit_test(a_login_class_is_dropped_with_a_remark),
		cmocka_unit_test(another_name_for_the_program_is_given_to_it),
		cmocka_unit_test(tcpd_stays_before_its_program),
		cmocka_unit_test(internal_services_are_boxes),
		cmocka_unit_test(what_cannot_be_served_is_refused_by_name_and_the_rest_is_served),
		cmocka_unit_test(buffers_are_dropped_with_a_remark),
		cmocka_unit_test(netbsd_limits_and_filters_stand_in_the_socket_type),
		cmocka_unit_test(quotes_hold_an_argument_together),
		cmocka_unit_test(an_indented_line_continues_the_one_before),
		cmocka_unit_test(an_indented_service_is_one_as_in_gnus),
		cmocka_unit_test(a_number_sign_after_the_program_is_an_argument),
		cmocka_unit_test(lines_may_end_in_crlf_and_the_last_in_nothing),
		cmocka_unit_test(a_nul_byte_costs_its_line_alone),
		cmocka_unit_test(a_line_of_64k_is_read_and_a_longer_one_told),
		cmocka_unit_test(what_update_inetd_switched_off_is_mentioned),
		cmocka_unit_test(an_ipsec_policy_is_dropped_for_each_service_it_is_for),
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
		cmocka_unit_test(names_that_hark_conf_keeps_for_itself_are_not_taken),
		cmocka_unit_test(what_is_printed_is_loaded_as_the_document_itself_is),
	};
	return cmocka_run_group_tests(tests, make_directory, remove_directory);
}
