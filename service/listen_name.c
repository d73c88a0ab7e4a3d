/* listen_name.c — see listen_name.h. Any thread. */
#include "listen_name.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <string.h>

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
