/* network.c — see network.h. */
#include "network.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* RFC 4291 section 2.5.5.2. */
#define MAPPED_BITS 96
static const uint8_t mapped[MAPPED_BITS / 8] = {[10] = 0xff, [11] = 0xff};

/* -1: no length of a prefix. */
static int bits_of(const char *text, int most)
{
	size_t n = strspn(text, "0123456789");
	if (n == 0 || n > 3 || text[n] != '\0' || (n > 1 && text[0] == '0') || atoi(text) > most)
		return -1;
	return atoi(text);
}

/* True if there were some. */
static bool drop_bits_behind(struct network *n)
{
	bool any = false;
	for (unsigned i = 0; i < sizeof n->addr; i++) {
		unsigned left = n->bits > i * 8 ? n->bits - i * 8 : 0;
		uint8_t mask = left >= 8 ? 0xff : (uint8_t)(0xff00 >> left);
		any = any || (n->addr[i] & ~mask) != 0;
		n->addr[i] &= mask;
	}
	return any;
}

int network_parse(const char *text, struct network *out)
{
	char host[INET6_ADDRSTRLEN];
	struct network n = {.family = AF_INET};
	size_t len = strcspn(text, "/");
	if (strcmp(text, "unix") == 0) {
		*out = (struct network){.family = AF_UNIX};
		return 0;
	}
	if (len >= sizeof host)
		return -EINVAL;
	memcpy(host, text, len);
	host[len] = '\0';
	if (strchr(host, ':') != NULL)
		n.family = AF_INET6;
	if (inet_pton(n.family, host, n.addr) != 1)
		return -EINVAL;
	int most = n.family == AF_INET ? 32 : 128, bits = text[len] == '/' ? bits_of(text + len + 1, most) : most;
	if (bits < 0)
		return -EINVAL;
	n.bits = (uint8_t)bits;
	if (n.family == AF_INET6 && bits >= MAPPED_BITS && memcmp(n.addr, mapped, sizeof mapped) == 0) {
		n.family = AF_INET;
		n.bits = (uint8_t)(bits - MAPPED_BITS);
		memmove(n.addr, n.addr + 12, 4);
		memset(n.addr + 4, 0, 12);
	}
	int dropped = drop_bits_behind(&n);
	*out = n;
	return dropped;
}

const char *network_format(const struct network *n, char buf[NETWORK_TEXT_MAX])
{
	char host[INET6_ADDRSTRLEN] = "";
	if (n->family == AF_UNIX) {
		(void)snprintf(buf, NETWORK_TEXT_MAX, "unix");
		return buf;
	}
	(void)inet_ntop(n->family, n->addr, host, sizeof host);
	(void)snprintf(buf, NETWORK_TEXT_MAX, "%s/%u", host, n->bits);
	return buf;
}

static bool has(const struct network *n, const uint8_t *addr)
{
	unsigned whole = n->bits / 8, rest = n->bits % 8;
	return memcmp(n->addr, addr, whole) == 0 && (rest == 0 || (n->addr[whole] ^ addr[whole]) >> (8 - rest) == 0);
}

bool network_has(const struct network *networks, size_t count, const struct sockaddr *address)
{
	sa_family_t family = address->sa_family;
	const uint8_t *addr = NULL;
	if (family == AF_INET)
		addr = (const uint8_t *)&((const struct sockaddr_in *)address)->sin_addr;
	else if (family == AF_INET6)
		addr = (const uint8_t *)&((const struct sockaddr_in6 *)address)->sin6_addr;
	for (size_t i = 0; i < count; i++)
		if (networks[i].family == family && (addr == NULL || has(&networks[i], addr)))
			return true;
	return false;
}
