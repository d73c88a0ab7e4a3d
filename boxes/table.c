/* table.c — every box by name. A new box is a new file, its functions in table.h, and one row here. */
#include "table.h"

#include <string.h>

#define REPLY "[--any-port] [--longer]"

const struct box boxes[] = {
	{.name = "echo",
         .arguments = "[--any-port]",
         .summary = "sends back what it is sent (RFC 862)",
         .serve = echo_serve,
         .client_first = true,
         .stream = true,
         .datagram = true,
         .open = reply_open,
         .close = reply_close},
	{.name = "discard",
         .arguments = "",
         .summary = "reads everything, answers nothing (RFC 863)",
         .serve = discard_serve,
         .client_first = true,
         .stream = true,
         .datagram = true},
	{.name = "chargen",
         .arguments = REPLY,
         .summary = "lines of characters without end (RFC 864)",
         .serve = chargen_serve,
         .stream = true,
         .datagram = true,
         .open = reply_open,
         .close = reply_close},
	{.name = "daytime",
         .arguments = "[--nist] " REPLY,
         .summary = "date and time in words, UTC (RFC 867)",
         .serve = daytime_serve,
         .stream = true,
         .datagram = true,
         .open = daytime_open,
         .close = reply_close},
	{.name = "time",
         .arguments = REPLY,
         .summary = "the seconds since 1900, 4 bytes (RFC 868)",
         .serve = time_serve,
         .stream = true,
         .datagram = true,
         .open = reply_open,
         .close = reply_close},
	{.name = "qotd",
         .arguments = "[--file FILE] " REPLY,
         .summary = "a quotation, another each time (RFC 865)",
         .serve = qotd_serve,
         .stream = true,
         .datagram = true,
         .open = qotd_open,
         .close = qotd_close},
	{.name = "users",
         .arguments = "[--utmp FILE] " REPLY,
         .summary = "the users active on this host (RFC 866)",
         .serve = users_serve,
         .stream = true,
         .datagram = true,
         .open = logins_open,
         .close = reply_close},
	{.name = "loggedin",
         .arguments = "[--utmp FILE] " REPLY,
         .summary = "a user name in, yes or no out: is that user logged in on this host",
         .serve = loggedin_serve,
         .client_first = true,
         .stream = true,
         .datagram = true,
         .open = logins_open,
         .close = reply_close},
	{.name = "message",
         .arguments = REPLY,
         .summary = "shows a message on standard output and answers that it got it",
         .serve = message_serve,
         .client_first = true,
         .stream = true,
         .datagram = true,
         .open = reply_open,
         .close = reply_close},
	{.name = "exec",
         .arguments = "[--stderr] [--stdin-null] [--host] [--until-eof] [--argv0 NAME] [--directory DIR] "
                      "[--term-after T] [--kill-after T] PROGRAM [ARGUMENT...]",
         .summary = "a program with the connection as its standard input and output",
         .serve = exec_serve,
         .conn_fds = 2, /* the program's end, and what tells of an idle connection */
         .stream = true,
         .datagram = true,
         .sessions = true,
         .open = exec_open,
         .close = exec_close},
	{.name = "relay",
         .arguments = "[--timeout T] [--local ADDRESS] ADDRESS",
         .summary = "joins each connection to another address, whatever it speaks",
         .serve = relay_serve,
         .conn_fds = 1, /* the target */
         .stream = true,
         .datagram = true,
         .sessions = true,
         .takes = relay_takes,
         .target = relay_target,
         .open = relay_open,
         .close = relay_close},
	{.name = NULL},
};

bool box_takes(const struct box *b, const void *arg, int type)
{
	if (b->takes != NULL)
		return b->takes(arg, type);
	return type == SOCK_STREAM ? b->stream : b->datagram;
}

const struct box *box_find(const char *name)
{
	for (const struct box *b = boxes; b->name != NULL; b++)
		if (strcmp(b->name, name) == 0)
			return b;
	return NULL;
}
