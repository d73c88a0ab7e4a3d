/* fuzz_proxy.c — any bytes whatever as a PROXY header, growing as a stream does: the verdict does not depend on the
 * pieces, nothing past the header is looked at, and what is taken is written again to what reads the same. */
#include <stdlib.h>
#include <string.h>

#include "conn/proxy.h"

#define TLVS_MAX 64
#define GROW_MAX 256 /* bytes that come one by one */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(bool holds)
{
	if (!holds)
		abort();
}

/* In memory of their own, so that reading past them is seen. */
static ssize_t measure(const uint8_t *data, size_t n, const char **wrong)
{
	uint8_t *copy = malloc(n + 1);
	must(copy != NULL);
	memcpy(copy + 1, data, n);
	ssize_t r = hark__proxy_measure(copy + 1, n, wrong);
	free(copy);
	return r;
}

static void check_grows(const uint8_t *data, size_t size, ssize_t whole)
{
	const char *wrong = NULL;
	for (size_t n = 0; n < size && n < GROW_MAX; n++) {
		ssize_t r = measure(data, n, &wrong);
		must(r == 0 || r == whole);
	}
}

static void check_same_end(const struct hark_endpoint *a, const struct hark_endpoint *b)
{
	must(a->type == b->type && a->len == b->len && memcmp(&a->addr, &b->addr, a->len) == 0);
}

static void check_same(const struct hark_proxy *a, const struct hark_proxy *b)
{
	must(a->version == b->version && a->local == b->local && a->checksum == b->checksum && a->ssl == b->ssl);
	must(a->ssl_client == b->ssl_client && a->ssl_verify == b->ssl_verify && a->n_tlvs == b->n_tlvs);
	check_same_end(&a->source, &b->source);
	check_same_end(&a->destination, &b->destination);
	for (int i = 0; i < a->n_tlvs; i++) { /* the first of each type keeps its place among its like */
		const struct hark_proxy_tlv *x = hark_proxy_find(a, a->tlvs[i].type),
					    *y = hark_proxy_find(b, a->tlvs[i].type);
		must(x != NULL && y != NULL && x->len == y->len && memcmp(x->value, y->value, x->len) == 0);
	}
}

static void check_taken(const struct hark_proxy *p, int n_tlvs)
{
	static uint8_t again[HARK__PROXY_MAX];
	char text[HARK_ADDRESS_MAX];
	struct hark_proxy_tlv tlvs[TLVS_MAX];
	struct hark_proxy second;
	const char *wrong = NULL;
	if (!p->local) {
		must(hark_endpoint_format(&p->source, text, sizeof text) > 0);
		must(hark_endpoint_format(&p->destination, text, sizeof text) > 0);
	}
	ssize_t n = hark_proxy_format(p, again, sizeof again);
	if (n == -EMSGSIZE && p->source.addr.ss_family != p->destination.addr.ss_family)
		return; /* written as IPv6 it is longer */
	must(n > 0 && n <= (ssize_t)sizeof again);
	must(hark__proxy_parse(again, (size_t)n, &second, tlvs, TLVS_MAX, &wrong) == 0);
	must(second.n_tlvs == n_tlvs);
	check_same(p, &second);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct hark_proxy_tlv tlvs[TLVS_MAX];
	struct hark_proxy p;
	const char *wrong = NULL;
	ssize_t whole = measure(data, size, &wrong);
	must(whole >= 0 || (whole == -EPROTO && strchr(wrong, ':') != NULL));
	check_grows(data, size, whole);
	if (whole <= 0 || (size_t)whole > size)
		return 0;
	uint8_t *copy = malloc((size_t)whole);
	must(copy != NULL);
	memcpy(copy, data, (size_t)whole);
	int r = hark__proxy_parse(copy, (size_t)whole, &p, tlvs, TLVS_MAX, &wrong);
	must(r == 0 || (r == -EPROTO && strchr(wrong, ':') != NULL));
	must(hark__proxy_parse(copy, (size_t)whole, &p, NULL, 0, &wrong) == r); /* what counts them decides the same */
	if (r == 0 && p.n_tlvs <= TLVS_MAX) {
		p.tlvs = tlvs;
		check_taken(&p, p.n_tlvs);
	}
	free(copy);
	return 0;
}
