/* echo.c — sends back what it is sent. RFC 862.
 *
 * The example of a box: the same code, and the same object file, serves as an iterative server, in a forked child, on
 * a thread or on a fiber. hark_idle() marks where one request has been dealt with and the next may be long in coming:
 * there a drain may end the connection, and a fiber's stack may be given back. Datagrams: see reply.h for whom it
 * does not answer. */
#include "reply.h"
#include "table.h"

#include <stdlib.h>

static void echo_stream(struct hark_conn *c)
{
	while (hark_idle(c) > 0 && hark_pass(c, c) > 0)
		;
}

/* A datagram may be larger than what a fiber's stack holds, and may be empty: that, too, is sent back. */
static void echo_datagram(struct hark_conn *c)
{
	size_t size = hark_buffered(c);
	char *buf = malloc(size + 1);
	if (buf == NULL)
		return;
	ssize_t n = hark_read(c, buf, size + 1);
	if (n >= 0)
		(void)reply_write(c, buf, (size_t)n);
	free(buf);
}

static void echo_serve(struct hark_conn *c, void *arg)
{
	if (hark_type(c) == SOCK_STREAM)
		echo_stream(c);
	else if (reply_limit(c, arg) >= 0)
		echo_datagram(c);
}

static const struct hark_option options[] = {REPLY_ANY_PORT, {NULL}};

const struct hark_box_row echo_box = {
	.version = HARK_BOX_VERSION,
	.name = "echo",
	.summary = "sends back what it is sent (RFC 862)",
	.options = options,
	.state_bytes = sizeof(struct reply_rules),
	.stream = true,
	.datagram = true,
	.client_first = true,
	.open = reply_open,
	.serve = echo_serve,
};
