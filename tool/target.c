/* target.c — see target.h. No state. */
#include "target.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

/* Whether "host…" names a port of its own: a ':' that is not inside an IPv6 address. */
static bool has_port(const char *host)
{
	const char *bracket = strrchr(host, ']');
	const char *colon = strrchr(bracket != NULL ? bracket : host, ':');

	return colon != NULL;
}

static bool is_bare_ipv6(const char *host)
{
	const char *colon = strchr(host, ':');

	return host[0] != '[' && colon != NULL && strchr(colon + 1, ':') != NULL;
}

int target_address(const char *host, const char *scheme, const char *port, char out[HARK_ADDRESS_MAX], struct hark_why *why)
{
	char full[2 * HARK_ADDRESS_MAX];
	struct hark_address a;
	const char *rest = strstr(host, "://");
	int scheme_len = rest != NULL ? (int)(rest - host) : (int)strlen(scheme);
	const char *name = rest != NULL ? rest + 3 : host;
	int n;

	if (strncmp(host, "unix:", 5) == 0 || strncmp(host, "unixgram:", 9) == 0 || strncmp(host, "fd:", 3) == 0)
		n = snprintf(full, sizeof full, "%s", host);
	else if (is_bare_ipv6(name))
		n = snprintf(full, sizeof full, "%.*s://[%s]:%s", scheme_len, rest != NULL ? host : scheme, name, port);
	else
		n = snprintf(full, sizeof full, "%.*s://%s%s%s", scheme_len, rest != NULL ? host : scheme, name,
		             has_port(name) ? "" : ":", has_port(name) ? "" : port);
	if (n < 0 || (size_t)n >= sizeof full) {
		if (why != NULL)
			(void)snprintf(why->text, sizeof why->text, "%.40s...: too long for an address", host);
		return -EINVAL;
	}
	int err = hark_address_parse(full, &a, why);
	if (err < 0)
		return err;
	return hark_address_format(&a, out, HARK_ADDRESS_MAX) < 0 ? -EINVAL : 0;
}
