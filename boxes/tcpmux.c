/* tcpmux.c — many services at one port: the client names one, the answer is '+' or '-', then that service has the
 * connection. RFC 1078.
 *
 *   tcpmux [+]NAME=BOX...
 *
 * BOX is a box of ours as hark serve takes it behind its addresses, its words parted by blanks: 'time=daytime --nist',
 * 'web=relay tcp://localhost:80', 'date=exec /bin/date -u'. With a '+' we say that the service is there, as inetd has
 * it; without one the service's first line says so itself. A name's case does not count. "help" lists the names, one a
 * line.
 *
 * The name is read byte by byte from the socket: what follows it is the service's, which may be a program. */
#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "options.h"
#include "table.h"

#define NAME_BYTES_MAX 64 /* of a service, "\r\n" included */
#define WORDS_MAX      64 /* of one */
#define SERVICES_MAX   64
#define NAME_NS        (30 * HARK_S) /* a client may take so long to say it */

struct service {
	char *text; /* "name\0box\0word\0…", what the others point into */
	const char *name;
	bool says; /* '+': we answer */
	char *words[WORDS_MAX];
	int n_words;
	const struct hark_box_row *box;
	void *state;
};

struct tcpmux {
	struct service *services;
	size_t n;
};

/* ---- one connection --------------------------------------------------------------------------- */

/* One byte that is at hand or comes in time. 1; 0: the end; -errno. */
static int read_byte(int fd, char *byte, int64_t deadline)
{
	for (;;) {
		ssize_t n = recv(fd, byte, 1, MSG_DONTWAIT);
		if (n >= 0 || (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR))
			return n >= 0 ? (int)n : -errno;
		int r = hark_wait_fd(fd, HARK_IN | HARK_DRAIN, deadline);
		if (r < 0 || !(r & HARK_IN))
			return r < 0 ? r : 0; /* in a drain, who has not said yet what it wants is sent away */
	}
}

/* The name without its end of line. 0; -ENODATA: the end came first, or a drain; -EBADMSG: no service has such a name;
 * -errno. */
static int read_name(struct hark_conn *c, char name[NAME_BYTES_MAX])
{
	struct hark_conn_stats stats;
	int64_t deadline = hark_after(NAME_NS);
	int n = 0, r = hark_handover(c), fd = r;
	hark_conn_stats(c, &stats);
	if (stats.deadline_ns < deadline)
		deadline = stats.deadline_ns;
	while (r >= 0 && n < NAME_BYTES_MAX) {
		r = read_byte(fd, &name[n], deadline);
		if (r <= 0)
			return r < 0 ? r : -ENODATA;
		if (name[n] == '\0')
			return -EBADMSG;
		if (name[n] != '\n') {
			n++;
			continue;
		}
		n -= n > 0 && name[n - 1] == '\r';
		name[n] = '\0';
		return 0;
	}
	return r < 0 ? r : -EBADMSG;
}

static void list_names(struct hark_conn *c, const struct tcpmux *m)
{
	for (size_t i = 0; i < m->n; i++)
		if (hark_printf(c, "%s\r\n", m->services[i].name) < 0)
			return;
}

static void tcpmux_serve(struct hark_conn *c, void *arg)
{
	const struct tcpmux *m = arg;
	char name[NAME_BYTES_MAX];
	int r = read_name(c, name);
	if (r < 0 && r != -EBADMSG) {
		if (r != -ENODATA)
			hark_outcome(c, 0, r);
		return;
	}
	if (r == 0 && strcasecmp(name, "help") == 0) {
		list_names(c, m);
		return;
	}
	for (size_t i = 0; i < m->n && r == 0; i++) {
		const struct service *s = &m->services[i];
		if (strcasecmp(s->name, name) != 0)
			continue;
		if (!s->says || (hark_printf(c, "+Go\r\n") >= 0 && hark_flush(c) >= 0))
			s->box->serve(c, s->state);
		return;
	}
	(void)hark_printf(c, "-Service not available\r\n");
}

/* ---- its arguments ---------------------------------------------------------------------------- */

/* Parts text into name and words. */
static int take_apart(struct service *s, const char *text, struct hark_why *why)
{
	s->says = text[0] == '+';
	s->text = strdup(text + s->says);
	if (s->text == NULL)
		return box_why(why, -ENOMEM, "out of memory");
	char *at = strchr(s->text, '='), *rest;
	if (at == NULL || at == s->text || at - s->text > NAME_BYTES_MAX - 3)
		return box_why(why, -EINVAL, "\"%.80s\" is not NAME=BOX, its name at most %d bytes long", text,
		               NAME_BYTES_MAX - 3);
	*at++ = '\0';
	s->name = s->text;
	for (const char *p = s->name; *p != '\0'; p++)
		if (!isgraph((unsigned char)*p))
			return box_why(why, -EINVAL, "\"%.80s\": a name has printable characters alone", text);
	for (char *word = strtok_r(at, " \t", &rest); word != NULL; word = strtok_r(NULL, " \t", &rest)) {
		if (s->n_words == WORDS_MAX)
			return box_why(why, -EINVAL, "%s: more than %d words", s->name, WORDS_MAX);
		s->words[s->n_words++] = word;
	}
	return s->n_words > 0 ? 0 : box_why(why, -EINVAL, "%s: no box is named", s->name);
}

static int take_service(struct tcpmux *m, const char *text, struct hark_why *why)
{
	struct service *s = &m->services[m->n++];
	struct hark_why about = {""};
	int r = take_apart(s, text, why);
	if (r < 0)
		return r;
	for (size_t i = 0; i + 1 < m->n; i++)
		if (strcasecmp(m->services[i].name, s->name) == 0)
			return box_why(why, -EINVAL, "%s is named twice", s->name);
	s->box = box_find(s->words[0]);
	if (s->box == NULL || s->box == &tcpmux_box)
		return box_why(why, -EINVAL, "%s: no such box: %.80s", s->name, s->words[0]);
	r = box_parse(s->box, s->n_words - 1, s->words + 1, &s->state, &about);
	if (r < 0)
		return box_why(why, r, "%s: %s: %.180s", s->name, s->box->name, about.text);
	if (!box_takes(s->box, s->state, SOCK_STREAM))
		return box_why(why, -EINVAL, "%s: %s serves no streams with these arguments", s->name, s->box->name);
	return 0;
}

static int tcpmux_parse(void *state, int argc, char *const argv[], struct hark_why *why)
{
	struct tcpmux *m = state;
	if (argc == 0 || argc > SERVICES_MAX)
		return box_why(why, -EINVAL, argc == 0 ? "no service is named: NAME=BOX" : "more than 64 services");
	m->services = calloc((size_t)argc, sizeof *m->services);
	if (m->services == NULL)
		return box_why(why, -ENOMEM, "out of memory");
	int r = 0;
	for (int i = 0; i < argc && r == 0; i++)
		r = take_service(m, argv[i], why);
	return r;
}

static int each(struct tcpmux *m, int (*step)(const struct hark_box_row *, void *, struct hark_why *),
                struct hark_why *why)
{
	int r = 0;
	for (size_t i = 0; i < m->n && r == 0; i++) {
		struct hark_why about = {""};
		const struct service *s = &m->services[i];
		r = step(s->box, s->state, &about);
		if (r < 0)
			(void)box_why(why, r, "%s: %s: %.180s", s->name, s->box->name, about.text);
	}
	return r;
}

static int tcpmux_prepare(void *state, struct hark_why *why)
{
	return each(state, box_prepare, why);
}

static int tcpmux_open(void *state, struct hark_why *why)
{
	return each(state, box_open, why);
}

static void tcpmux_close(void *state)
{
	struct tcpmux *m = state;
	for (size_t i = 0; i < m->n; i++) {
		if (m->services[i].state != NULL)
			box_free(m->services[i].box, m->services[i].state);
		free(m->services[i].text);
	}
	free(m->services);
}

const struct hark_box_row tcpmux_box = {
	.version = HARK_BOX_VERSION,
	.name = "tcpmux",
	.summary = "many services at one port, by name (RFC 1078)",
	.usage = "[+]NAME=BOX...",
	.state_bytes = sizeof(struct tcpmux),
	.stream = true,
	.client_first = true,
	.hands_over = true, /* the name is read past hark, and the service may be a program */
	.conn_fds = 2,      /* a program's end or a relay's target, and what goes with it */
	.parse = tcpmux_parse,
	.prepare = tcpmux_prepare,
	.open = tcpmux_open,
	.serve = tcpmux_serve,
	.close = tcpmux_close,
};
