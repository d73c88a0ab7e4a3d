/* listen_name.c — see listen_name.h. Any thread. */
#include "listen_name.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>

#define PORT_TRIES 16

bool listen_is_name(const struct hark_address *a)
{
	struct in6_addr six;
	struct in_addr four;
	bool is_ip = a->scheme == HARK_TCP || a->scheme == HARK_TCP4 || a->scheme == HARK_TCP6 ||
	             a->scheme == HARK_UDP || a->scheme == HARK_UDP4 || a->scheme == HARK_UDP6 || a->scheme == HARK_TLS;
	return is_ip && strcmp(a->host, "*") != 0 && strchr(a->host, '%') == NULL &&
	       inet_pton(AF_INET, a->host, &four) != 1 && inet_pton(AF_INET6, a->host, &six) != 1;
}

bool listen_is_elsewhere(int err)
{
	return err == -EADDRNOTAVAIL || err == -EAFNOSUPPORT;
}

int listen_name_format(const struct hark_endpoint *at, unsigned port, char *buf, size_t cap)
{
	struct hark_endpoint e = *at;
	if (port != 0 && e.addr.ss_family == AF_INET)
		((struct sockaddr_in *)(void *)&e.addr)->sin_port = htons((uint16_t)port);
	else if (port != 0)
		((struct sockaddr_in6 *)(void *)&e.addr)->sin6_port = htons((uint16_t)port);
	return hark_endpoint_format(&e, buf, cap);
}

static int port_of(const struct hark_listener *l)
{
	char text[HARK_ADDRESS_MAX];
	return hark_listener_address(l, text, sizeof text) < 0 ? 0 : atoi(strrchr(text, ':') + 1);
}

/* What an attempt holds is open during the next one: the kernel chooses another port for that. */
static int find_port(const struct hark_endpoint *at, int n, const struct hark_listen_opts *opts, int tries)
{
	struct hark_listener *held[LISTEN_NAMES_MAX];
	char one[HARK_ADDRESS_MAX];
	int r = 0, opened = 0, port = 0;
	for (int i = 0; i < n && (r >= 0 || listen_is_elsewhere(r)); i++) {
		r = listen_name_format(&at[i], (unsigned)port, one, sizeof one);
		if (r >= 0)
			r = hark_listen(one, opts, &held[opened]);
		if (r == 0)
			port = port_of(held[opened++]);
	}
	if (opened > 0 && listen_is_elsewhere(r))
		r = 0;
	else if (opened > 0 && r == -EADDRINUSE && tries > 1)
		port = r = find_port(at, n, opts, tries - 1);
	while (opened > 0)
		hark_listener_close(held[--opened]);
	return r < 0 ? r : port;
}

int listen_name_port(const char *address, const struct hark_endpoint *at, int n, const struct hark_listen_opts *opts)
{
	bool any = strcmp(strrchr(address, ':'), ":0") == 0;
	return any && n > 1 ? find_port(at, n, opts, PORT_TRIES) : 0;
}
