/* loggedin.c — a user name in, "yes" or "no" out: whether that user is logged in on this host.
 *
 * One name a line and one answer a line, as many as the peer asks; or one name a datagram, with or without a line's
 * end. White space around a name does not count: a client makes room for the answer to a short name by adding some
 * (reply.h: no answer is longer than its request; 5 bytes always suffice, and 3 do if it may go without its line's
 * end). An empty name, or one that cannot be read, is "no". */
#include "logins.h"
#include "table.h"

#include <ctype.h>
#include <errno.h>
#include <string.h>

#define REQUEST_MAX 512 /* bytes; a name has at most LOGIN_NAME_BYTES */

struct question {
	const char *name;
	bool found;
};

static bool compare(const char *name, void *arg)
{
	struct question *q = arg;
	q->found = strcmp(name, q->name) == 0;
	return !q->found;
}

/* Answers for the name in request, which is n bytes and a NUL, and is changed. */
static const char *answer(char *request, ssize_t n, const struct logins *u)
{
	while (n > 0 && isspace((unsigned char)request[n - 1]))
		request[--n] = '\0';
	while (isspace((unsigned char)*request))
		request++;
	struct question q = {.name = request};
	if (*request == '\0' || logins_walk(u != NULL ? u->path : NULL, compare, &q) < 0)
		return "no\r\n";
	return q.found ? "yes\r\n" : "no\r\n";
}

static void loggedin_stream(struct hark_conn *c, const struct logins *u)
{
	char line[REQUEST_MAX];
	while (hark_idle(c) > 0) {
		ssize_t n = hark_readline(c, line, sizeof line);
		if (n <= 0)
			break; /* the end, or no name that there could be */
		const char *text = answer(line, n, u);
		if (hark_write(c, text, strlen(text)) < 0)
			break;
	}
}

static void loggedin_datagram(struct hark_conn *c, const struct logins *u)
{
	char request[REQUEST_MAX];
	ssize_t limit = reply_limit(c, u != NULL ? &u->rules : NULL);
	ssize_t n = limit < 0 ? -1 : hark_read(c, request, sizeof request - 1);
	if (n < 0)
		return;
	request[n] = '\0';
	const char *text = answer(request, n, u);
	ssize_t len = (ssize_t)strlen(text);
	if (len > limit)
		len -= 2;
	if (len <= limit)
		(void)reply_write(c, text, (size_t)len);
}

static void loggedin_serve(struct hark_conn *c, void *arg)
{
	if (hark_type(c) == SOCK_STREAM)
		loggedin_stream(c, arg);
	else
		loggedin_datagram(c, arg);
}

const struct hark_box_row loggedin_box = {
	.version = HARK_BOX_VERSION,
	.name = "loggedin",
	.summary = "a user name in, yes or no out: is that user logged in on this host",
	.options = logins_options,
	.state_bytes = sizeof(struct logins),
	.stream = true,
	.datagram = true,
	.client_first = true,
	.open = reply_open,
	.serve = loggedin_serve,
};
