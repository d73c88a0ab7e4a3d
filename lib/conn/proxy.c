/* proxy.c — reads the PROXY protocol's header, versions 1 and 2.
 *
 * Strict: whoever sends it is a program, and what it says decides about access. Where the specification lets a receiver
 * skip what it does not understand (unknown TLVs, unspecified families, everything of LOCAL and UNKNOWN) it is skipped;
 * what contradicts itself (lengths, checksums, numbers) is refused. Values are not looked at: they are bytes.
 *
 * Any thread. */
#include "conn/proxy.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <string.h>
#include <sys/un.h>

#include "address/endpoint.h"

#define UNIQUE_ID_MAX 128 /* bytes; section 2.2.5 */
#define UNIX_BLOCK    (2 * HARK__PROXY_PATH)
#define INET_BLOCK    12
#define INET6_BLOCK   36

enum { LOCAL = 0x0, PROXY = 0x1 };
enum { UNSPEC = 0x0, INET = 0x1, INET6 = 0x2, UNIX = 0x3, FAMILIES };
enum { STREAM = 0x1, DGRAM = 0x2, TRANSPORTS };

const uint8_t hark__proxy_signature[12] = {0x0d, 0x0a, 0x0d, 0x0a, 0x00, 0x0d, 0x0a, 0x51, 0x55, 0x49, 0x54, 0x0a};
static const uint8_t magic[] = {'P', 'R', 'O', 'X', 'Y', ' '};

static const size_t blocks[FAMILIES] = {[INET] = INET_BLOCK, [INET6] = INET6_BLOCK, [UNIX] = UNIX_BLOCK};

static int refuse(const char **wrong, const char *why)
{
	*wrong = why;
	return -EPROTO;
}

static unsigned number16(const uint8_t *p)
{
	return (unsigned)p[0] << 8 | p[1];
}

bool hark__proxy_in_ssl(int type)
{
	return type >= 0x21 && type <= 0x2f;
}

/* ---- its length ------------------------------------------------------------------------------ */

static bool begins(const uint8_t *b, size_t n, const uint8_t *with, size_t len)
{
	return memcmp(b, with, n < len ? n : len) == 0;
}

/* A lone LF ends no line, and no lone CR either; section 2.1. */
static ssize_t measure_line(const uint8_t *b, size_t n, const char **wrong)
{
	size_t seen = n < HARK__PROXY_LINE_MAX ? n : HARK__PROXY_LINE_MAX;
	const uint8_t *lf = memchr(b, '\n', seen);
	if (lf == NULL && seen < HARK__PROXY_LINE_MAX)
		return 0;
	if (lf == NULL)
		return refuse(wrong, "line: no end within 107 bytes");
	return lf[-1] == '\r' ? lf - b + 1 : refuse(wrong, "line: its end is no CR LF"); /* the magic stands before */
}

static ssize_t measure_binary(const uint8_t *b, size_t n, const char **wrong)
{
	if (n > 12 && b[12] >> 4 != 2)
		return refuse(wrong, "version: not 2");
	if (n > 12 && (b[12] & 15) > PROXY)
		return refuse(wrong, "command: neither LOCAL nor PROXY");
	bool on_behalf = n > 12 && (b[12] & 15) == PROXY;
	if (on_behalf && n > 13 && b[13] >> 4 >= FAMILIES)
		return refuse(wrong, "family: not an assigned one");
	if (on_behalf && n > 13 && (b[13] & 15) >= TRANSPORTS)
		return refuse(wrong, "transport: not an assigned one");
	if (n < HARK__PROXY_HEAD)
		return 0;
	if (on_behalf && (b[13] & 15) != 0 && number16(b + 14) < blocks[b[13] >> 4])
		return refuse(wrong, "length: too short for the addresses");
	return (ssize_t)(HARK__PROXY_HEAD + number16(b + 14));
}

ssize_t hark__proxy_measure(const void *bytes, size_t n, const char **wrong)
{
	const uint8_t *b = bytes;
	if (n == 0)
		return 0;
	if (begins(b, n, magic, sizeof magic))
		return measure_line(b, n, wrong);
	if (begins(b, n, hark__proxy_signature, sizeof hark__proxy_signature))
		return measure_binary(b, n, wrong);
	return refuse(wrong, "signature: of neither version");
}

/* ---- version 1 ------------------------------------------------------------------------------- */

/* The next word, which ends with one space, or with the line. False: there is none, or one that is no address. */
static bool take_word(const uint8_t **at, const uint8_t *end, char *word, size_t cap)
{
	const uint8_t *space = memchr(*at, ' ', (size_t)(end - *at));
	size_t n = (size_t)((space != NULL ? space : end) - *at);
	if (n == 0 || n >= cap || memchr(*at, '\0', n) != NULL)
		return false;
	memcpy(word, *at, n);
	word[n] = '\0';
	*at += n + (space != NULL);
	return space == NULL || *at < end;
}

/* -1: no port. No sign, no leading zero: section 2.1. */
static int port_of(const char *word)
{
	size_t n = strlen(word);
	int port = 0;
	if (n > 5 || strspn(word, "0123456789") != n || (word[0] == '0' && n > 1))
		return -1;
	for (const char *p = word; *p != '\0'; p++)
		port = port * 10 + (*p - '0');
	return port <= 0xffff ? port : -1;
}

/* inet_pton(3) refuses leading zeros and too many digits; a dotted tail in IPv6, which it takes, is outside the format.
 */
static bool address_of(const char *word, int family, void *addr)
{
	const char *of = family == AF_INET ? "0123456789." : "0123456789abcdefABCDEF:";
	return word[strspn(word, of)] == '\0' && inet_pton(family, word, addr) == 1;
}

static int parse_line(const uint8_t *b, size_t n, struct hark_proxy *out, const char **wrong)
{
	const uint8_t *at = b + sizeof magic, *end = b + n - 2;
	char protocol[8] = "", word[4][INET6_ADDRSTRLEN];
	struct in6_addr from, to; /* room for either */
	(void)take_word(&at, end, protocol, sizeof protocol);
	out->version = 1;
	if (strcmp(protocol, "UNKNOWN") == 0) { /* whatever follows is to be ignored */
		out->local = true;
		return 0;
	}
	int family = strcmp(protocol, "TCP4") == 0 ? AF_INET : strcmp(protocol, "TCP6") == 0 ? AF_INET6 : 0;
	if (family == 0)
		return refuse(wrong, "protocol: none of TCP4, TCP6, UNKNOWN");
	for (int i = 0; i < 4; i++)
		if (!take_word(&at, end, word[i], sizeof word[i]))
			return refuse(wrong, "line: not two addresses and two ports with a space between");
	if (at != end)
		return refuse(wrong, "line: more than two addresses and two ports");
	int source_port = port_of(word[2]), destination_port = port_of(word[3]);
	if (!address_of(word[0], family, &from) || !address_of(word[1], family, &to))
		return refuse(wrong, "address: none of its family");
	if (source_port < 0 || destination_port < 0)
		return refuse(wrong, "port: no number from 0 to 65535");
	hark__endpoint_ip(&out->source, SOCK_STREAM, family, &from, 0, (unsigned)source_port);
	hark__endpoint_ip(&out->destination, SOCK_STREAM, family, &to, 0, (unsigned)destination_port);
	return 0;
}

/* ---- version 2 ------------------------------------------------------------------------------- */

/* 108 bytes: a path, up to its NUL where it has one; an abstract name, whose trailing NULs may be padding; or nothing.
 */
static void unix_endpoint(struct hark_endpoint *out, int type, const uint8_t *path)
{
	struct sockaddr_un *un = (struct sockaddr_un *)&out->addr;
	size_t n = path[0] != '\0' ? strnlen((const char *)path, HARK__PROXY_PATH) : HARK__PROXY_PATH;
	while (path[0] == '\0' && n > 0 && path[n - 1] == '\0')
		n--;
	*out = (struct hark_endpoint){.type = type};
	un->sun_family = AF_UNIX;
	memcpy(un->sun_path, path, n);
	if (path[0] != '\0' && n < HARK__PROXY_PATH)
		n++; /* its NUL counts, as the kernel has it */
	out->len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n);
}

static void parse_block(const uint8_t *block, int family, int type, struct hark_proxy *out)
{
	size_t size = family == INET ? 4 : 16;
	if (family == UNIX) {
		unix_endpoint(&out->source, type, block);
		unix_endpoint(&out->destination, type, block + HARK__PROXY_PATH);
		return;
	}
	int af = family == INET ? AF_INET : AF_INET6;
	struct in6_addr addr[2]; /* aligned, and room for either */
	memcpy(&addr[0], block, size);
	memcpy(&addr[1], block + size, size);
	hark__endpoint_ip(&out->source, type, af, &addr[0], 0, number16(block + 2 * size));
	hark__endpoint_ip(&out->destination, type, af, &addr[1], 0, number16(block + 2 * size + 2));
}

/* A walk through TLVs. */
struct walk {
	const uint8_t *at, *end;
	struct hark_proxy *out;
	struct hark_proxy_tlv *tlvs;
	int max;
};

/* 1: the next one, 0: there is none, -1: it does not end where it should. */
static int next(const uint8_t **at, const uint8_t *end, struct hark_proxy_tlv *tlv)
{
	if (*at == end)
		return 0;
	if (end - *at < HARK__PROXY_TLV_HEAD || (size_t)(end - *at) - HARK__PROXY_TLV_HEAD < number16(*at + 1))
		return -1;
	*tlv = (struct hark_proxy_tlv){.type = **at, .len = number16(*at + 1), .value = *at + HARK__PROXY_TLV_HEAD};
	*at += HARK__PROXY_TLV_HEAD + tlv->len;
	return 1;
}

static void keep(struct walk *w, const struct hark_proxy_tlv *tlv)
{
	if (w->out->n_tlvs < w->max)
		w->tlvs[w->out->n_tlvs] = *tlv;
	w->out->n_tlvs++;
}

/* The first one counts, as a lookup finds the first of each type. */
static int parse_ssl(struct walk *w, const struct hark_proxy_tlv *ssl, const char **wrong)
{
	const uint8_t *v = ssl->value, *at = v + HARK__PROXY_SSL_HEAD;
	struct hark_proxy_tlv sub;
	bool first = !w->out->ssl;
	int r;
	if (ssl->len < HARK__PROXY_SSL_HEAD)
		return refuse(wrong, "ssl: shorter than 5 bytes");
	if (first) {
		w->out->ssl = true;
		w->out->ssl_client = v[0];
		w->out->ssl_verify = (uint32_t)number16(v + 1) << 16 | number16(v + 3);
	}
	while ((r = next(&at, v + ssl->len, &sub)) > 0)
		if (first && hark__proxy_in_ssl(sub.type))
			keep(w, &sub);
	return r < 0 ? refuse(wrong, "ssl: a part of it is longer than it") : 0;
}

/* The whole header with the checksum's own bytes 0; section 2.2.3. */
static int check_sum(const uint8_t *b, size_t n, const struct hark_proxy_tlv *tlv, const char **wrong)
{
	static const uint8_t zeroes[4];
	const uint8_t *v = tlv->value;
	if (tlv->len != sizeof zeroes)
		return refuse(wrong, "checksum: not 4 bytes");
	uint32_t crc = hark__crc32c(0, b, (size_t)(v - b));
	crc = hark__crc32c(crc, zeroes, sizeof zeroes);
	crc = hark__crc32c(crc, v + sizeof zeroes, (size_t)(b + n - v) - sizeof zeroes);
	uint32_t told = (uint32_t)number16(v) << 16 | number16(v + 2);
	return crc == told ? 0 : refuse(wrong, "checksum: it does not match");
}

static int parse_tlv(struct walk *w, const uint8_t *b, size_t n, const struct hark_proxy_tlv *tlv, const char **wrong)
{
	switch (tlv->type) {
	case HARK__PROXY_NOOP: return 0;
	case HARK__PROXY_SSL: return parse_ssl(w, tlv, wrong);
	case HARK__PROXY_CRC32C:
		if (w->out->checksum)
			return refuse(wrong, "checksum: more than one");
		w->out->checksum = true;
		return check_sum(b, n, tlv, wrong);
	case HARK_PROXY_UNIQUE_ID:
		if (tlv->len > UNIQUE_ID_MAX)
			return refuse(wrong, "unique id: longer than 128 bytes");
		break;
	default:
		if (hark__proxy_in_ssl(tlv->type)) /* else it could pass for TLS's */
			return 0;
	}
	keep(w, tlv);
	return 0;
}

static int parse_binary(const uint8_t *b, size_t n, struct walk *w, const char **wrong)
{
	struct hark_proxy *out = w->out;
	struct hark_proxy_tlv tlv;
	int family = b[13] >> 4, transport = b[13] & 15, r, bad = 0;
	out->version = 2;
	out->local = (b[12] & 15) == LOCAL || family == UNSPEC || transport == UNSPEC;
	if (out->local) /* all that follows is to be ignored */
		return 0;
	parse_block(b + HARK__PROXY_HEAD, family, transport == DGRAM ? SOCK_DGRAM : SOCK_STREAM, out);
	w->at = b + HARK__PROXY_HEAD + blocks[family];
	w->end = b + n;
	while (bad == 0 && (r = next(&w->at, w->end, &tlv)) > 0)
		bad = parse_tlv(w, b, n, &tlv, wrong);
	return bad < 0 ? bad : r < 0 ? refuse(wrong, "tlv: longer than the header") : 0;
}

int hark__proxy_parse(const void *bytes, size_t n, struct hark_proxy *out, struct hark_proxy_tlv tlvs[], int max,
                      const char **wrong)
{
	struct walk w = {.out = out, .tlvs = tlvs, .max = max};
	ssize_t whole = hark__proxy_measure(bytes, n, wrong);
	*out = (struct hark_proxy){.tlvs = tlvs, .bytes = n};
	if (whole < 0 || (size_t)whole != n)
		return whole < 0 ? -EPROTO : refuse(wrong, "length: not that of the header");
	return *(const uint8_t *)bytes == magic[0] ? parse_line(bytes, n, out, wrong)
	                                           : parse_binary(bytes, n, &w, wrong);
}

const struct hark_proxy_tlv *hark_proxy_find(const struct hark_proxy *p, int type)
{
	for (int i = 0; i < p->n_tlvs; i++)
		if (p->tlvs[i].type == type)
			return &p->tlvs[i];
	return NULL;
}

/* ---- checksum -------------------------------------------------------------------------------- */

/* Bit by bit: headers are short. */
uint32_t hark__crc32c(uint32_t crc, const void *bytes, size_t n)
{
	crc = ~crc;
	for (const uint8_t *p = bytes; n > 0; p++, n--) {
		crc ^= *p;
		for (int i = 0; i < 8; i++)
			crc = crc >> 1 ^ (crc & 1 ? 0x82f63b78u : 0);
	}
	return ~crc;
}
