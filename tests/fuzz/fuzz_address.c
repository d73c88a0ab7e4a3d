/* fuzz_address.c — any text whatever: an address, or one bounded line that says what is bad; and what is taken comes
 * back the same from its own canonical text. Nothing is looked up. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "hark.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(bool holds)
{
	if (!holds)
		abort();
}

static void check_refused(const char *text, const struct hark_why *why)
{
	size_t n = strnlen(why->text, sizeof why->text);
	must(n > 0 && n < sizeof why->text);
	for (size_t i = 0; i < n; i++)
		must((unsigned char)why->text[i] >= 0x20 && why->text[i] != 0x7f);
	must(hark_address_parse(text, &(struct hark_address){0}, NULL) == -EINVAL);
}

static void check_taken(const struct hark_address *a)
{
	char canonical[HARK_ADDRESS_MAX], again_text[HARK_ADDRESS_MAX];
	struct hark_address again;
	int n = hark_address_format(a, canonical, sizeof canonical);
	must(n > 0 && strlen(canonical) == (size_t)n);
	must(hark_address_parse(canonical, &again, NULL) == 0);
	must(memcmp(a, &again, sizeof again) == 0);
	must(hark_address_format(&again, again_text, sizeof again_text) == n);
	must(memcmp(canonical, again_text, (size_t)n) == 0);
	must(hark_address_format(a, again_text, (size_t)n) == -ENOSPC);
}

/* The bytes as a socket address: a peer's unix name may hold anything. */
static void check_endpoint(const uint8_t *data, size_t size)
{
	static const sa_family_t families[] = {AF_UNIX, AF_INET, AF_INET6};
	struct hark_endpoint e = {.type = size % 2 != 0 ? SOCK_STREAM : SOCK_DGRAM};
	char text[HARK_ADDRESS_MAX];
	e.len = (socklen_t)(size < sizeof e.addr ? size : sizeof e.addr);
	memcpy(&e.addr, data, e.len);
	e.addr.ss_family = families[size % 3];
	int n = hark_endpoint_format(&e, text, sizeof text);
	must(n == -EINVAL || (n > 0 && strlen(text) == (size_t)n));
	for (int i = 0; i < n; i++)
		must((unsigned char)text[i] >= 0x20 && text[i] != 0x7f);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct hark_address a;
	struct hark_why why = {""};
	char *text = malloc(size + 1); /* exactly as long as it is, so that reading past it shows */
	must(text != NULL);
	memcpy(text, data, size);
	text[size] = '\0';
	if (hark_address_parse(text, &a, &why) == 0)
		check_taken(&a);
	else
		check_refused(text, &why);
	check_endpoint(data, size);
	free(text);
	return 0;
}
