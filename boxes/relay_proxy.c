/* relay_proxy.c — says to the target on whose behalf a connection comes, by a PROXY header before its first byte
 * (haproxy's proxy-protocol.txt): the client's own ends, or those that a proxy before us told; and in version 2 what is
 * known beside: what that proxy told, and the name that the client asks for. A checksum goes with it. Any model. */
#include <string.h>

#include "relay.h"

#define TLVS_MAX 64

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

int relay_introduce(const struct relay *x, struct hark_conn *client, const struct client_hello *hello,
                    struct hark_conn *target)
{
	struct hark_proxy_tlv tlvs[TLVS_MAX];
	const struct hark_proxy *before = hark_proxied(client);
	struct hark_proxy p;
	int n = 0;
	if (x->proxy_version == 0)
		return 0;
	hark_proxy_describe(client, &p);
	for (int i = 0; before != NULL && i < before->n_tlvs && n < TLVS_MAX; i++)
		if (before->tlvs[i].type != HARK_PROXY_NOOP && before->tlvs[i].type != HARK_PROXY_CRC32C)
			tlvs[n++] = before->tlvs[i];
	if (before != NULL && before->ssl) {
		p.ssl = true;
		p.ssl_client = before->ssl_client;
		p.ssl_verify = before->ssl_verify;
	}
	if (hello != NULL && hello->name[0] != '\0')
		put(tlvs, &n, HARK_PROXY_AUTHORITY, hello->name, strlen(hello->name));
	p.version = x->proxy_version;
	p.checksum = p.version == 2;
	p.tlvs = tlvs;
	p.n_tlvs = n;
	ssize_t r = hark_proxy_send(target, &p);
	return r < 0 ? (int)r : hark_flush(target);
}
