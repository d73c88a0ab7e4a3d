/* serve_listen.c — see serve_listen.h. */
#include "serve_listen.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "listen_name.h"

/* Takes l, also where it fails. */
static int add(struct serve_sockets *s, struct hark_listener *l, const char *asked)
{
	size_t n = (size_t)s->n;
	char text[HARK_ADDRESS_MAX] = "";
	(void)hark_listener_address(l, text, sizeof text);
	struct hark_listener **listeners = reallocarray(s->listeners, n + 1, sizeof *listeners);
	s->listeners = listeners != NULL ? listeners : s->listeners;
	const char **all = reallocarray(s->asked, n + 1, sizeof *all);
	s->asked = all != NULL ? all : s->asked;
	char **bound = reallocarray(s->bound, n + 2, sizeof *bound);
	s->bound = bound != NULL ? bound : s->bound;
	char *copy = listeners != NULL && all != NULL && bound != NULL ? strdup(text) : NULL;
	if (copy == NULL) {
		hark_listener_close(l);
		return -ENOMEM;
	}
	/* Inherited by what is accepted: peers that have vanished end. */
	(void)setsockopt(hark_listener_fd(l), SOL_SOCKET, SO_KEEPALIVE, &(int){1}, sizeof(int));
	listeners[n] = l;
	all[n] = asked;
	bound[n] = copy;
	bound[n + 1] = NULL;
	s->n++;
	return 0;
}

static int open_one(struct serve_sockets *s, const char *address, const char *asked,
                    const struct hark_listen_opts *opts)
{
	struct hark_listener *l;
	opts->why->text[0] = '\0';
	int r = hark_listen(address, opts, &l);
	return r < 0 ? r : add(s, l, asked);
}

static int open_name(struct serve_sockets *s, const char *address, const struct hark_listen_opts *opts)
{
	struct hark_endpoint at[LISTEN_NAMES_MAX];
	char one[HARK_ADDRESS_MAX];
	int first = s->n, n = hark_resolve(address, at, LISTEN_NAMES_MAX, HARK_FOREVER), r = n;
	int port = n > 0 ? listen_name_port(address, at, n, opts) : 0;
	if (port < 0)
		return port;
	for (int i = 0; i < n; i++) {
		if (listen_name_format(&at[i], (unsigned)port, one, sizeof one) < 0)
			continue;
		r = open_one(s, one, address, opts);
		if (r < 0 && !listen_is_elsewhere(r))
			return r;
	}
	return s->n > first ? 0 : r;
}

static int open_all(struct serve_sockets *s, const char *address, const struct hark_listen_opts *opts)
{
	struct hark_address a;
	int r = hark_address_parse(address, &a, opts->why);
	if (r < 0)
		return r;
	if (listen_is_name(&a))
		return open_name(s, address, opts);
	r = open_one(s, address, address, opts);
	struct hark_listen_opts more = *opts;
	more.why = &(struct hark_why){""};
	while (r == 0 && a.scheme == HARK_FD && a.fd < 0 && open_one(s, address, address, &more) == 0)
		;
	return r;
}

int serve_listen(struct serve_sockets *s, const struct verb *v, const char *address,
                 const struct hark_listen_opts *opts)
{
	opts->why->text[0] = '\0';
	int r = open_all(s, address, opts);
	if (r == 0)
		return STATUS_DONE;
	if (opts->why->text[0] != '\0')
		say(v, "%s", opts->why->text);
	else
		say(v, "listen %s: %s", address, hark_strerror(r));
	return STATUS_SYSTEM;
}

void serve_listen_close(struct serve_sockets *s)
{
	for (int i = 0; i < s->n; i++) {
		hark_listener_close(s->listeners[i]);
		free(s->bound[i]);
	}
	free(s->listeners);
	free(s->asked);
	free(s->bound);
	*s = (struct serve_sockets){0};
}
