/* test_inetd.c — inetd.conf in each of its dialects: a line in, settings out. */
#include "inetd_support.h"

#include <pwd.h>

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
	/* Without its mode everybody could connect. */
	assert_wrong(":news:uucp:6x0:/var/run/echo stream unix nowait root /bin/cat cat\n", 1, ":USER:GROUP:MODE:");
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
	document_free(d);
	d = read_text("chargen dgram udp wait root internal\n");
	assert_remark(d, "chargen", "--longer");
	document_free(d);
	assert_wrong("ftp stream tcp nowait root internal\n", 1, "no internal service has its name");
}

static void what_cannot_be_served_is_refused_by_name_and_the_rest_is_served(void **state)
{
	(void)state;
	struct document *d = read_text("rusersd/2-3 dgram rpc/udp wait root /usr/libexec/rpc.rusersd rpc.rusersd\n"
	                               "mountd/1 stream rpc/tcp wait root /usr/libexec/mountd mountd\n"
	                               "tcpmux stream tcp nowait root internal\n"
	                               "auth stream tcp nowait root internal auth -r -f -n -o UNKNOWN -t 30\n"
	                               "ospf raw ospf wait root /bin/x x\n"
	                               "x rdm tcp wait root /bin/x x\n"
	                               "x seqpacket unix wait root /bin/x x\n"
	                               "telnet stream faith/tcp6 nowait root /bin/x x\n"
	                               "echo stream tcp nowait root internal\n");
	assert_clean(d);
	assert_int_equal(d->n, 1);
	assert_int_equal(d->fates[DOCUMENT_DROPPED], 8);
	assert_remark(d, NULL, "rusersd/2-3: Sun RPC is not served");
	assert_remark(d, NULL, "mountd/1: Sun RPC");
	assert_remark(d, NULL, "tcpmux: tcpmux (RFC 1078): no line has a service for it");
	assert_remark(d, NULL, "auth: auth (RFC 1413)");
	assert_remark(d, NULL, "ospf: sockets of the types raw");
	assert_remark(d, NULL, "faith");
	document_free(d);
}

static void services_behind_tcpmux_are_its_box(void **state)
{
	(void)state;
	struct document *d = read_text("tcpmux/+date stream tcp nowait nobody /bin/date date -u\n"
	                               "tcpmux/time stream tcp nowait nobody internal\n"
	                               "tcpmux/Other stream tcp nowait.9 nobody /bin/cat other -u\n"
	                               "tcpmux stream tcp nowait/5 root internal\n"
	                               "tcpmux stream tcp6 nowait root internal\n");
	assert_clean(d);
	assert_int_equal(d->n, 2);
	assert_setting(d, "tcpmux", "listen", "tcp4://*:tcpmux");
	assert_setting(d, "tcpmux", "box",
	               "tcpmux \"+date=exec --stderr /bin/date -u\" time=time "
	               "\"Other=exec --stderr --argv0 other /bin/cat -u\"");
	assert_setting(d, "tcpmux", "user", "nobody"); /* what is run, not tcpmux's own line, which needs nobody */
	assert_setting(d, "tcpmux", "max_conns", "5");
	assert_setting(d, "tcpmux", "stderr", NULL);
	assert_remark(d, "tcpmux", "limits of tcpmux/Other: those of tcpmux hold for all");
	assert_setting(d, "tcpmux-tcp6", "listen", "tcp6://*:tcpmux");
	document_free(d);
}

static void what_cannot_be_behind_tcpmux_is_told(void **state)
{
	static const struct {
		const char *line, *why;
	} rows[] = {
		{"tcpmux/a dgram udp nowait nobody /bin/a a\n", "behind tcpmux there is stream tcp alone"},
		{"tcpmux/a stream tcp wait nobody /bin/a a\n", "its own program: nowait"},
		{"tcpmux/ stream tcp nowait nobody /bin/a a\n", "\"\" is no name of a service behind tcpmux"},
		{"tcpmux/a=b stream tcp nowait nobody /bin/a a\n", "\"a=b\" is no name"},
		{"tcpmux/tcpmux stream tcp nowait nobody internal\n", "\"tcpmux\" is no name"},
		{"tcpmux/a stream tcp nowait nobody /bin/a a \"b c\"\n", "no argument is empty or has blanks"},
		{"tcpmux/a stream tcp nowait nobody bin/a a\n", "bin/a: give an absolute path"},
	};
	(void)state;
	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
		assert_wrong(rows[i].line, 1, rows[i].why);
}

static void nobody_behind_tcpmux_runs_as_another_user(void **state)
{
	(void)state;
	struct document *d = read_text("tcpmux stream tcp nowait root internal\n"
	                               "tcpmux/again stream tcp nowait nobody /bin/one one\n"
	                               "#@ esp/transport//require\n"
	                               "tcpmux/safe stream tcp nowait nobody /bin/safe safe\n"
	                               "#@\n"
	                               "tcpmux/+AGAIN stream tcp nowait nobody /bin/two two\n"
	                               "tcpmux/root stream tcp nowait root /bin/root root\n");
	assert_clean(d);
	assert_setting(d, "tcpmux", "box", "tcpmux \"+AGAIN=exec --stderr /bin/two\"");
	assert_setting(d, "tcpmux", "user", "nobody");
	assert_remark(d, NULL, "tcpmux/root: all services behind tcpmux run as the user of the first one");
	assert_remark(d, NULL, "tcpmux/safe: it has an IPsec policy");
	assert_remark(d, NULL, "tcpmux/again: ");
	document_free(d);
	d = read_text("tcpmux/a stream tcp nowait nobody /bin/a a\n");
	assert_clean(d);
	assert_int_equal(d->n, 0);
	assert_remark(d, NULL, "tcpmux/a: no line \"tcpmux stream tcp nowait USER internal\" listens for it");
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

static void an_ipsec_policy_is_dropped_for_each_service_it_is_for(void **state)
{
	(void)state;
	struct document *d = read_text("#@ in ipsec esp/transport//require\nftp stream tcp nowait root /bin/x x\n#@\n"
	                               "smtp stream tcp nowait root /bin/x x\n");
	assert_clean(d);
	assert_remark(d, "ftp", "IPsec policy \"in ipsec esp/transport//require\"");
	assert_setting(d, "ftp", "disable", "yes"); /* who may connect was IPsec's to say */
	assert_false(has_remark(d, "smtp", "IPsec"));
	assert_setting(d, "smtp", "disable", NULL);
	document_free(d);
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
		cmocka_unit_test(services_behind_tcpmux_are_its_box),
		cmocka_unit_test(what_cannot_be_behind_tcpmux_is_told),
		cmocka_unit_test(nobody_behind_tcpmux_runs_as_another_user),
		cmocka_unit_test(buffers_are_dropped_with_a_remark),
		cmocka_unit_test(netbsd_limits_and_filters_stand_in_the_socket_type),
		cmocka_unit_test(quotes_hold_an_argument_together),
		cmocka_unit_test(an_ipsec_policy_is_dropped_for_each_service_it_is_for),
	};
	return cmocka_run_group_tests(tests, set_up, tear_down);
}
