/* users.c — the users who are active on this host, each once, one a line. RFC 866.
 *
 * A machine that keeps no utmp has nobody to name: the answer is empty. To a datagram as many whole lines are given
 * as fit into as many bytes as the request had, or into 512 with --longer (reply.h). Names are shown as far as they
 * are printable ASCII. */
#include "logins.h"
#include "table.h"

#include <string.h>

#define LIST_MAX     8192 /* bytes: a few hundred users */
#define DATAGRAM_MAX 512  /* bytes that need no fragment anywhere */

struct list {
	size_t limit, len;
	char text[LIST_MAX];
};

/* Whether line, with its CR LF, is in the list. Lines start at its start or after a '\n', which no name has. */
static bool has_line(const struct list *l, const char *line, size_t len)
{
	for (size_t at = 0; at + len <= l->len; at++)
		if ((at == 0 || l->text[at - 1] == '\n') && memcmp(l->text + at, line, len) == 0)
			return true;
	return false;
}

static bool add(const char *name, void *arg)
{
	struct list *l = arg;
	char line[LOGIN_NAME_BYTES + 2];
	size_t n = 0;
	for (; name[n] != '\0'; n++)
		line[n] = name[n] > ' ' && name[n] <= '~' ? name[n] : '?';
	line[n++] = '\r';
	line[n++] = '\n';
	if (l->len + n <= l->limit && !has_line(l, line, n)) {
		memcpy(l->text + l->len, line, n);
		l->len += n;
	}
	return true; /* a shorter name may still fit */
}

static void users_serve(struct hark_conn *c, void *arg)
{
	const struct logins *u = arg;
	struct list l;
	ssize_t limit = reply_limit(c, u != NULL ? &u->rules : NULL);
	size_t most = hark_type(c) == SOCK_DGRAM ? DATAGRAM_MAX : LIST_MAX;
	if (limit < 0)
		return;
	l.len = 0;
	l.limit = (size_t)limit < most ? (size_t)limit : most;
	if (logins_walk(u != NULL ? u->path : NULL, add, &l) == 0)
		(void)reply_write(c, l.text, l.len); /* a datagram also when it is empty: nobody is an answer */
}

const struct hark_box_row users_box = {
	.version = HARK_BOX_VERSION,
	.name = "users",
	.summary = "the users active on this host (RFC 866)",
	.options = logins_options,
	.state_bytes = sizeof(struct logins),
	.stream = true,
	.datagram = true,
	.open = reply_open,
	.serve = users_serve,
};
