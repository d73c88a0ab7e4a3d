/* cmd_call.c — hark call: standard input to the peer, the peer to standard output; or the reverse, -l; or only a look
 * at which ports are open, -z.
 *
 * The letters are those of nc(1) where it has the same, so that what the fingers know works; what nc has and hark has
 * not is answered with what to use. All of it runs on one fiber of an outer scope: the loop, which standard input and
 * output are on, lasts for several connections. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "call.h"
#include "options.h"

#define AT(member) offsetof(struct call_args, member)

static const struct option_row options[] = {
	{"verbose", 'v', OPTION_FLAG, NULL, "tell each attempt as it happens, and what went each way", AT(verbose)},
	{"json", 0, OPTION_FLAG, NULL, "the same as JSON lines on standard error; -z: on standard output", AT(json)},
	{"udp", 'u', OPTION_FLAG, NULL, "datagrams; the same as udp://", AT(udp)},
	{"unix", 'U', OPTION_FLAG, NULL, "ADDRESS is a path; the same as unix:", AT(unix_socket)},
	{"ipv4", '4', OPTION_FLAG, NULL, "IPv4 alone; the same as tcp4:// and udp4://", AT(ipv4)},
	{"ipv6", '6', OPTION_FLAG, NULL, "IPv6 alone; the same as tcp6:// and udp6://", AT(ipv6)},
	{"numeric", 'n', OPTION_FLAG, NULL, "ask no name server: host and port are numbers", AT(numeric)},
	{"connect-timeout", 'w', OPTION_DURATION, "T",
         "for looking up and connecting (30s; -z: 2s); -l: for being called", AT(connect_timeout), 1},
	{"idle-timeout", 0, OPTION_DURATION, "T", "fail once nothing has gone either way for T (never)",
         AT(idle_timeout), 1},
	{"quit", 'q', OPTION_DURATION, "T", "end the call T after the input's end, whatever the peer does (never)",
         AT(quit), 0},
	{"wait", 0, OPTION_DURATION, "T", "datagrams: after the input's end, listen until T of silence (1s)", AT(wait),
         0},
	{"local", 's', OPTION_TEXT, "ADDR", "come from this host, host:port or :port; unix: this path", AT(local)},
	{"source-port", 'p', OPTION_TEXT, "PORT", "come from this port; -l: listen on it", AT(source_port)},
	{"reserved-port", 0, OPTION_FLAG, NULL, "come from a port between 512 and 1023, which root alone can",
         AT(reserved_port)},
	{"crlf", 'C', OPTION_FLAG, NULL, "send each line's end as CR LF", AT(crlf)},
	{"lines", 0, OPTION_FLAG, NULL, "datagrams: one for each line of the input, not for each read", AT(lines)},
	{"count", 'W', OPTION_COUNT, "N", "datagrams: end once N have come (never)", AT(count), 1, 1 << 30},
	{"half-close", 'N', OPTION_FLAG, NULL, "half-close at the input's end; so it is anyway", AT(half_close)},
	{"no-half-close", 0, OPTION_FLAG, NULL, "do not: for a peer that takes it for the whole end",
         AT(no_half_close)},
	{"send-only", 0, OPTION_FLAG, NULL, "drop what the peer says; its end does not end the call", AT(send_only)},
	{"recv-only", 'd', OPTION_FLAG, NULL, "do not read standard input", AT(recv_only)},
	{"raw", 0, OPTION_FLAG, NULL, "give a terminal the peer's bytes as they are, not what of them is text",
         AT(raw)},
	{"listen", 'l', OPTION_FLAG, NULL, "listen for one connection, and answer it", AT(listen)},
	{"keep-open", 'k', OPTION_FLAG, NULL, "-l: go on with the next one after each", AT(keep_open)},
	{"scan", 'z', OPTION_FLAG, NULL, "tell which ports are open, and send nothing", AT(scan)},
	TLS_ROWS(struct call_args, tls),
	{0},
};

static const struct option_hint hints[] = {
	{'e', "exec", "to serve a program: hark serve ADDRESS -- PROGRAM"},
	{'c', "sh-exec", "to serve a command: hark serve ADDRESS -- /bin/sh -c COMMAND; for TLS: tls://HOST:PORT"},
	{'i', "idle", "for a time-out: --idle-timeout T; lines cannot be sent at intervals"},
	{0, "timeout", "for connecting: --connect-timeout T, -w; for silence: --idle-timeout T"},
	{0, "max-time", "for connecting: --connect-timeout T, -w; for silence: --idle-timeout T"},
	{'o', "output", "to keep what the peer says: hark call ... | tee FILE"},
	{'x', "proxy", "proxies are not spoken to: ssh -W, or the proxy's own client"},
	{'X', "proxy-type", "proxies are not spoken to: ssh -W, or the proxy's own client"},
	{'m', "max-conns", "-l takes one connection at a time; for many: hark serve"},
	{'t', "telnet", "telnet's negotiation is not answered: telnet(1)"},
	{'T', NULL, "the type of service is left to the system"},
	{'r', "randomize", "ports are chosen by the system, and scanned in order"},
	{'b', "broadcast", "broadcasts are not sent"},
	{'I', NULL, "buffers are left to the system"},
	{'O', NULL, "buffers are left to the system"},
	{'M', NULL, "the hop limit is left to the system"},
	{'F', NULL, "descriptors are not passed on"},
	{'V', NULL, "routing tables are chosen by ip vrf exec"},
	{0, "ssl", "the address says so: tls://HOST:PORT"},
	{0, "tls", "the address says so: tls://HOST:PORT"},
	{0, "cacert", "--ca FILE"},
	{0, "ssl-trustfile", "--ca FILE"},
	{'R', NULL, "--ca FILE"},
	{0, "ssl-cert", "--cert FILE"},
	{'E', NULL, "--cert FILE"},
	{0, "ssl-key", "--key FILE"},
	{'K', NULL, "--key FILE"},
	{0, "ssl-alpn", "--alpn NAMES"},
	{0, "ssl-servername", "--server-name NAME"},
	{0, "servername", "--server-name NAME"},
	{0, "ssl-verify", "every server is verified, unless --insecure is given"},
	{0, "no-shutdown", "--no-half-close"},
	{0, "nodns", "--numeric, -n"},
	{0, "source", "--local, -s"},
	{0, NULL, NULL},
};

static int open_standard(struct call *c)
{
	int err = hark_conn_from_fd(STDIN_FILENO, &c->in);

	if (err == 0)
		err = hark_conn_from_fd(STDOUT_FILENO, &c->out);
	if (err == 0)
		return STATUS_DONE;
	report_error(c, "%s: %s", c->in == NULL ? "standard input" : "standard output", hark_strerror(err));
	return STATUS_SYSTEM;
}

static int close_standard(struct call *c, int status)
{
	int err = hark_close(c->out);

	if (err < 0 && status == STATUS_DONE) {
		report_error(c, "standard output: %s", hark_strerror(err));
		status = STATUS_FAILED;
	}
	(void)hark_close(c->in);
	return status;
}

static int dial_and_carry(struct call *c)
{
	int status = call_dial(c);

	if (status == STATUS_DONE && (status = open_standard(c)) == STATUS_DONE) {
		call_carry(c);
		status = close_standard(c, c->status);
	}
	return status;
}

static int listen_and_carry(struct call *c)
{
	int status = open_standard(c);

	return status == STATUS_DONE ? close_standard(c, call_listen(c)) : status;
}

static void call_fiber(void *arg)
{
	struct call *c = arg;

	c->status = c->args.listen ? listen_and_carry(c) : dial_and_carry(c);
}

/* Whether --local is a unix socket's path that this call makes: then it also removes it. */
static bool makes_path(const struct call *c)
{
	struct stat st;

	return (c->parsed.scheme == HARK_UNIX || c->parsed.scheme == HARK_UNIXGRAM) && c->local[0] != '\0' &&
	       c->local[0] != '@' && lstat(c->local, &st) < 0 && errno == ENOENT;
}

static int run_call(struct call *c)
{
	struct hark_scope scope;
	bool path_is_ours = makes_path(c);

	hark_scope_open(&scope);
	int err = hark_go(&scope, "call", call_fiber, c);
	if (err < 0) {
		report_error(c, "fiber: %s", hark_strerror(err));
		c->status = STATUS_SYSTEM;
	}
	(void)hark_join(&scope, HARK_FOREVER);
	hark_scope_close(&scope);
	if (path_is_ours)
		(void)unlink(c->local); /* it is not there if the socket was never bound */
	return c->status;               /* what is still open ends with the process */
}

static int take_tls(struct call *c)
{
	return tls_settings(c->verb, &c->args.tls, c->tls, c->args.listen, &c->tls_settings);
}

/* HOST PORTS..., or HOST:PORTS as one word: then the two are parted. */
static int run_scan(struct call *c, int n, char *operands[])
{
	char word[HARK_ADDRESS_MAX], *first_port[] = {word, "1"};
	char *colon = n == 1 ? strrchr(operands[0], ':') : NULL;
	int status;

	if (n == 1 && colon == NULL)
		return options_usage(c->verb, "-z wants HOST PORT..., or HOST:PORT");
	if (n == 1) {
		/* Any port will do to check and look up the host. */
		(void)snprintf(word, sizeof word, "%.*s:1", (int)(colon - operands[0]), operands[0]);
		status = call_target(c, 1, first_port);
		operands[0] = colon + 1;
	} else {
		first_port[0] = operands[0];
		status = call_target(c, n == 0 ? 0 : 2, first_port);
	}
	if (status != 0)
		return status;
	if (c->parsed.scheme > HARK_UDP6)
		return options_usage(c->verb, "-z is for the ports of a host");
	c->args.udp = c->parsed.scheme >= HARK_UDP;
	if ((status = take_tls(c)) != 0)
		return status;
	status = call_scan(c, c->parsed.host, n == 1 ? 1 : n - 1, n == 1 ? operands : operands + 1);
	hark_tls_free(c->tls_settings);
	return status;
}

/* Options that exclude each other. NULL: none do. */
static const char *contradiction(const struct call_args *a)
{
	return a->send_only && a->recv_only        ? "--send-only and --recv-only exclude each other"
	       : a->listen && a->scan              ? "-l and -z exclude each other"
	       : a->keep_open && !a->listen        ? "-k goes with -l; to take any certificate: --insecure"
	       : a->ipv4 && a->ipv6                ? "-4 and -6 exclude each other"
	       : a->half_close && a->no_half_close ? "-N and --no-half-close exclude each other"
	       : a->listen && a->reserved_port     ? "--reserved-port does not go with -l"
	       : a->listen && a->local != NULL     ? "-s does not go with -l: the address says where to listen"
	                                           : NULL;
}

static int run(const struct verb *self, int argc, char *argv[])
{
	struct call c = {.verb = self, .args = {.wait = HARK_S, .quit = -1}};
	int status;
	int n = options_parse(self, argc, argv, &c.args, &status);

	if (n < 0)
		return status;
	const char *wrong = contradiction(&c.args);
	if (wrong != NULL)
		return options_usage(self, wrong);
	if (c.args.scan)
		return run_scan(&c, n, argv);
	if ((status = call_target(&c, n, argv)) != 0 || (status = take_tls(&c)) != 0)
		return status;
	c.to_terminal = !c.args.raw && isatty(STDOUT_FILENO) == 1;
	status = run_call(&c);
	hark_tls_free(c.tls_settings);
	return status;
}

const struct verb verb_call = {
	.name = "call",
	.summary = "Connects standard input and output to an address",
	.usage = "ADDRESS | HOST PORT",
	.notes = "At the end of standard input the connection is half-closed and the peer read to its end. The peer's "
		 "end\n"
		 "ends the call: exit code 0. Over udp:// and unixgram: each read of standard input is a datagram.\n"
		 "-l takes PORT alone, too; -z takes several PORTs, lists (22,80) and ranges (20-30): 0 if any is "
		 "open.\n",
	.options = options,
	.hints = hints,
	.run = run,
};
