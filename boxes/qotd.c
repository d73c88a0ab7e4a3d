/* qotd.c — one short quotation, chosen anew for each connection. RFC 865: less than 512 characters.
 *
 * From a file in fortune(6)'s form (quotations between lines of a single '%'), read once at the start, or from a few
 * that we bring along. A quotation of 512 bytes or more is left out. To a datagram the answer is one that is no
 * longer than the request was (reply.h); where there is none, no answer is given. */
#include "options.h"
#include "reply.h"
#include "table.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define QUOTE_MAX 511                /* bytes, RFC 865 */
#define FILE_MAX  (16 * 1024 * 1024) /* bytes of a file of quotations */

struct quote {
	const char *text;
	size_t len;
};

struct qotd {
	struct reply_rules rules;
	const char *file;
	char *text; /* what quotes point into; NULL: the built-in ones */
	struct quote *quotes;
	size_t count;
};

#define QUOTE(text) \
	{ \
		text "\r\n", sizeof text + 1 \
	}
static const struct quote builtin[] = {
	QUOTE("We shall not cease from exploration. -- T. S. Eliot"),
	QUOTE("Brevity is the soul of wit. -- William Shakespeare"),
	QUOTE("It is a capital mistake to theorize before one has data. -- Arthur Conan Doyle"),
	QUOTE("The art of being wise is the art of knowing what to overlook. -- William James"),
	QUOTE("Nature uses only the longest threads to weave her patterns. -- Richard Feynman"),
	QUOTE("The unexamined life is not worth living. -- Socrates"),
	QUOTE("What we know is a drop, what we don't know is an ocean. -- attributed to Isaac Newton"),
	QUOTE("Give every man thy ear, but few thy voice. -- William Shakespeare"),
};

/* One quotation of at most limit bytes, each as likely as the other; NULL if there is none. */
static const struct quote *choose(const struct quote quotes[], size_t count, size_t limit)
{
	const struct quote *chosen = NULL;
	uint32_t fitting = 0;
	for (size_t i = 0; i < count; i++)
		if (quotes[i].len <= limit && arc4random_uniform(++fitting) == 0)
			chosen = &quotes[i];
	return chosen;
}

static void qotd_serve(struct hark_conn *c, void *arg)
{
	const struct qotd *q = arg;
	ssize_t limit = reply_limit(c, q != NULL ? &q->rules : NULL);
	const struct quote *quotes = q != NULL && q->text != NULL ? q->quotes : builtin;
	size_t count = q != NULL && q->text != NULL ? q->count : sizeof builtin / sizeof *builtin;
	if (limit < 0)
		return;
	size_t at = arc4random_uniform((uint32_t)count); /* the common case, without a walk through all */
	const struct quote *quote = quotes[at].len <= (size_t)limit ? &quotes[at]
	                                                            : choose(quotes, count, (size_t)limit);
	if (quote != NULL)
		(void)reply_write(c, quote->text, quote->len);
}

/* Reads what fd holds into buf, at most cap bytes. Returns how many, or -errno. */
static ssize_t read_up_to(int fd, char *buf, size_t cap)
{
	size_t have = 0;
	while (have < cap) {
		ssize_t n = read(fd, buf + have, cap - have);
		if (n < 0 && errno != EINTR)
			return -errno;
		if (n == 0)
			break;
		have += n > 0 ? (size_t)n : 0;
	}
	return (ssize_t)have;
}

/* Reads a regular file whole. *text is to be freed. Returns its size or -errno. */
static ssize_t read_file(const char *path, char **text)
{
	struct stat st;
	ssize_t r = -ENOMEM;
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	if (fd < 0)
		return -errno;
	if (fstat(fd, &st) < 0)
		r = -errno;
	else if (!S_ISREG(st.st_mode))
		r = -EINVAL;
	else if (st.st_size > FILE_MAX)
		r = -EFBIG;
	else if ((*text = malloc((size_t)st.st_size + 1)) != NULL)
		r = read_up_to(fd, *text, (size_t)st.st_size);
	(void)close(fd);
	return r;
}

/* Copies len bytes with each line's end as CR LF, as RFC 865 wants; out has room for 2 * len. Returns the length. */
static size_t to_network(const char *from, size_t len, char *out)
{
	size_t n = 0;
	for (size_t i = 0; i < len; i++) {
		if (from[i] == '\n' && (i == 0 || from[i - 1] != '\r'))
			out[n++] = '\r';
		out[n++] = from[i];
	}
	return n;
}

/* The length of the quotation at p, up to a line that is '%' alone; *next is where the one after it begins. */
static size_t one_quote(const char *p, const char *end, const char **next)
{
	const char *line = p;
	while (line < end) {
		const char *newline = memchr(line, '\n', (size_t)(end - line));
		const char *after = newline != NULL ? newline + 1 : end;
		size_t len = (size_t)(after - line);
		if (line[0] == '%' && (len == 1 || line[1] == '\n' || (len == 3 && line[1] == '\r'))) {
			*next = after;
			return (size_t)(line - p);
		}
		line = after;
	}
	*next = end;
	return (size_t)(end - p);
}

/* Lays raw's quotations out in q. 0; -ENOMEM; -ENODATA: not one that can be served. */
static int take_apart(struct qotd *q, const char *raw, size_t size)
{
	size_t room = 1;
	for (size_t i = 0; i < size; i++)
		room += raw[i] == '%';
	q->text = malloc(2 * size + 2);
	q->quotes = calloc(room, sizeof *q->quotes);
	if (q->text == NULL || q->quotes == NULL)
		return -ENOMEM;
	char *out = q->text;
	const char *next;
	for (const char *p = raw; p < raw + size; p = next) {
		size_t len = to_network(p, one_quote(p, raw + size, &next), out);
		if (len == 0 || len > QUOTE_MAX)
			continue;
		q->quotes[q->count++] = (struct quote){out, len};
		out += len;
	}
	return q->count > 0 ? 0 : -ENODATA;
}

static int load(struct qotd *q, const char *path, struct hark_why *why)
{
	char *raw = NULL;
	ssize_t size = read_file(path, &raw);
	int r = size < 0 ? (int)size : take_apart(q, raw, (size_t)size);
	free(raw);
	if (size < 0)
		return box_why(why, r, "cannot read %s: %s", path, hark_strerror(r));
	if (r == -ENODATA)
		return box_why(why, r, "%s: no quotation of 1 to %d bytes in it", path, QUOTE_MAX);
	return r < 0 ? box_why(why, r, "out of memory") : 0;
}

static int qotd_open(void *state, struct hark_why *why)
{
	struct qotd *q = state;
	reply_begin();
	return q->file != NULL ? load(q, q->file, why) : 0;
}

static void qotd_close(void *state)
{
	struct qotd *q = state;
	free(q->quotes);
	free(q->text);
}

static const struct hark_option options[] = {
	{"file", HARK_OPTION_PATH, offsetof(struct qotd, file), "FILE", "quotations, in fortune(6)'s form"},
	REPLY_ANY_PORT,
	REPLY_LONGER,
	{NULL},
};

const struct hark_box_row qotd_box = {
	.version = HARK_BOX_VERSION,
	.name = "qotd",
	.summary = "a quotation, another each time (RFC 865)",
	.options = options,
	.state_bytes = sizeof(struct qotd),
	.stream = true,
	.datagram = true,
	.open = qotd_open,
	.serve = qotd_serve,
	.close = qotd_close,
};
