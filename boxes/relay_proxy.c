/* relay_proxy.c — says to the target on whose behalf a connection comes, by a PROXY header before its first byte
 * (haproxy's proxy-protocol.txt): the client's own ends, or those that a proxy before us told; and in version 2 what is
 * known beside: what that proxy told, the name that the client asks for, its TLS, an id for the logs; and a checksum.
 * Any model. */
#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "relay.h"

#define TLVS_MAX 64
#define ID_BYTES 128 /* a unique id has at most 128, here with a NUL */

/* Of ssl_client: PP2_CLIENT_SSL, PP2_CLIENT_CERT_CONN, PP2_CLIENT_CERT_SESS. */
enum { CLIENT_TLS = 1, CLIENT_NOW = 2, CLIENT_SESSION = 4 };

/* In the place of one of that type, or behind the others. */
static void put(struct hark_proxy_tlv *tlvs, int *n, int type, const void *value, size_t len)
{
	int at = 0;
	while (at < *n && tlvs[at].type != type)
		at++;
	if (at < TLVS_MAX)
		tlvs[at] = (struct hark_proxy_tlv){.type = type, .len = len, .value = value};
	*n += at == *n && at < TLVS_MAX;
}

static void put_text(struct hark_proxy_tlv *tlvs, int *n, int type, const char *text)
{
	if (text != NULL && text[0] != '\0')
		put(tlvs, n, type, text, strlen(text));
}

static int hex_of(char c)
{
	const char *digits = "0123456789ABCDEF", *at = c != '\0' ? strchr(digits, c) : NULL;
	return at != NULL ? (int)(at - digits) : -1;
}

/* The CN of a name as RFC 2253 writes it, what is escaped there as it is, be it a NUL. Its length; 0: there is none. */
static size_t find_cn(const char *subject, char *cn, size_t cap)
{
	bool begins = true, ours = false;
	size_t n = 0;
	for (const char *p = subject; *p != '\0'; p++) {
		bool ends = *p == ',' || *p == '+';
		if (ours && ends)
			break;
		if (begins && strncmp(p, "CN=", 3) == 0) {
			ours = true;
			p += 2;
			continue;
		}
		begins = ends;
		char byte = *p;
		if (*p == '\\' && p[1] != '\0') {
			int high = hex_of(p[1]), low = high >= 0 ? hex_of(p[2]) : -1;
			byte = low >= 0 ? (char)(high << 4 | low) : p[1];
			p += low >= 0 ? 2 : 1;
		}
		if (ours && n < cap)
			cn[n++] = byte;
	}
	return n;
}

/* What TLVs of the client's TLS point at. */
struct tls_facts {
	struct hark_tls_info info;
	struct hark_certificate its;
	char cn[sizeof((struct hark_certificate *)NULL)->subject];
};

/* The client's TLS, where it ends here. What a proxy has told is of the client itself, and counts for more. 0; -ENOMEM:
 * a certificate that cannot be told of is not to be taken for none. */
static int put_tls(struct hark_proxy *p, struct hark_proxy_tlv *tlvs, int *n, struct hark_conn *client,
                   struct tls_facts *f)
{
	if (hark_tls_info(client, &f->info) < 0)
		return 0;
	put_text(tlvs, n, HARK_PROXY_ALPN, f->info.alpn);
	put_text(tlvs, n, HARK_PROXY_AUTHORITY, f->info.name);
	if (p->ssl)
		return 0;
	int r = hark_tls_peer(client, 0, &f->its);
	bool shown = r == 0;
	if (r == -ENOMEM)
		return r;
	p->ssl = true;
	p->ssl_client = (uint8_t)(CLIENT_TLS | (!shown ? 0 : CLIENT_SESSION | (f->info.resumed ? 0 : CLIENT_NOW)));
	p->ssl_verify = shown && !f->info.verified;
	put_text(tlvs, n, HARK_PROXY_SSL_VERSION, f->info.version);
	put_text(tlvs, n, HARK_PROXY_SSL_CIPHER, f->info.cipher);
	put_text(tlvs, n, HARK_PROXY_SSL_GROUP, f->info.group);
	if (shown) {
		size_t len = find_cn(f->its.subject, f->cn, sizeof f->cn);
		if (len > 0)
			put(tlvs, n, HARK_PROXY_SSL_CN, f->cn, len);
	}
	return 0;
}

/* Without the scheme. */
static const char *ends_of(const char *address)
{
	const char *at = strstr(address, "://");
	return at != NULL ? at + 3 : address;
}

/* A text that no other connection has, by which its line in our log is found: both ends, the time, the process. */
static void put_id(struct hark_proxy_tlv *tlvs, int *n, const struct hark_proxy *p, char id[ID_BYTES])
{
	static atomic_uint count; /* relaxed: a number */
	char source[HARK_ADDRESS_MAX], destination[HARK_ADDRESS_MAX];
	if (p->local || hark_endpoint_format(&p->source, source, sizeof source) < 0 ||
	    hark_endpoint_format(&p->destination, destination, sizeof destination) < 0)
		return;
	int len = snprintf(id, ID_BYTES, "%llx:%x:%x_%s_%s", (unsigned long long)time(NULL), (unsigned)getpid(),
	                   atomic_fetch_add_explicit(&count, 1, memory_order_relaxed), ends_of(source),
	                   ends_of(destination));
	put(tlvs, n, HARK_PROXY_UNIQUE_ID, id, len < ID_BYTES ? (size_t)len : ID_BYTES - 1);
}

int relay_introduce(const struct relay *x, struct hark_conn *client, const struct client_hello *asked,
                    struct hark_conn *target)
{
	struct hark_proxy_tlv tlvs[TLVS_MAX];
	struct tls_facts facts;
	char id[ID_BYTES];
	const struct hark_proxy *before = hark_proxied(client);
	struct hark_proxy p;
	int n = 0;
	if (x->proxy_version == 0)
		return 0;
	int err = hark_proxy_describe(client, &p);
	for (int i = 0; before != NULL && i < before->n_tlvs && n < TLVS_MAX; i++)
		tlvs[n++] = before->tlvs[i];
	if (before != NULL && before->ssl) {
		p.ssl = true;
		p.ssl_client = before->ssl_client;
		p.ssl_verify = before->ssl_verify;
	}
	if (asked != NULL)
		put_text(tlvs, &n, HARK_PROXY_AUTHORITY, asked->name);
	if (err == 0)
		err = put_tls(&p, tlvs, &n, client, &facts);
	if (err < 0)
		return err;
	p.tlvs = tlvs;
	p.n_tlvs = n;
	if (hark_proxy_find(&p, HARK_PROXY_UNIQUE_ID) == NULL)
		put_id(tlvs, &n, &p, id);
	p.version = x->proxy_version;
	p.checksum = p.version == 2;
	p.n_tlvs = n;
	ssize_t r = hark_proxy_send(target, &p);
	return r < 0 ? (int)r : hark_flush(target);
}
