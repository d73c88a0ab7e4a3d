/* tls_names.c — which certificate answers to which name, RFC 6125 section 6.4: the name itself, or a wildcard in place
 * of its first label.
 *
 * A certificate has few names and a server few certificates: a walk over them is short beside a handshake. */
#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/sys.h"
#include "conn/openssl.h"
#include "conn/tls.h"

void hark__tls_names_free(char **names, int n)
{
	for (int i = 0; i < n; i++)
		free(names[i]);
	free(names);
}

/* A name with a NUL or a control character inside is none: it would read as another one. */
static bool is_plain(const unsigned char *bytes, int n)
{
	for (int i = 0; i < n; i++)
		if (bytes[i] <= 0x20 || bytes[i] >= 0x7f)
			return false;
	return n > 0;
}

static int add(char **names, int *n, const unsigned char *bytes, int len)
{
	if (!is_plain(bytes, len))
		return 0;
	char *name = hark__sys.malloc((size_t)len + 1);
	if (name == NULL)
		return -ENOMEM;
	for (int i = 0; i < len; i++)
		name[i] = (char)tolower(bytes[i]);
	name[len] = '\0';
	names[(*n)++] = name;
	return 0;
}

static int add_common_name(const X509 *cert, char **names, int *n)
{
	const X509_NAME *subject = X509_get_subject_name(cert);
	int at = X509_NAME_get_index_by_NID(subject, NID_commonName, -1);
	if (at < 0)
		return 0;
	const ASN1_STRING *s = X509_NAME_ENTRY_get_data(X509_NAME_get_entry(subject, at));
	return add(names, n, ASN1_STRING_get0_data(s), ASN1_STRING_length(s));
}

static int by_text(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

int hark__tls_names_of(const X509 *cert, char ***names, int *n)
{
	int absent;
	ERR_clear_error();
	GENERAL_NAMES *alt = X509_get_ext_d2i(cert, NID_subject_alt_name, &absent, NULL);
	if (alt == NULL && absent != -1) /* else: whether it is critical; -2: there are two */
		return hark__tls_no_memory() ? -ENOMEM : -EINVAL;
	int count = sk_GENERAL_NAME_num(alt), r = 0;
	*n = 0;
	*names = hark__sys.calloc((size_t)(count > 0 ? count : 0) + 1, sizeof **names);
	if (*names == NULL)
		r = -ENOMEM;
	for (int i = 0; i < count && r == 0; i++) {
		const GENERAL_NAME *g = sk_GENERAL_NAME_value(alt, i);
		if (g->type == GEN_DNS)
			r = add(*names, n, ASN1_STRING_get0_data(g->d.dNSName), ASN1_STRING_length(g->d.dNSName));
	}
	if (r == 0 && *n == 0)
		r = add_common_name(cert, *names, n);
	GENERAL_NAMES_free(alt);
	if (r < 0) {
		hark__tls_names_free(*names, *n);
		return r;
	}
	qsort(*names, (size_t)*n, sizeof **names, by_text);
	return 0;
}

static bool has(const struct hark__tls_context *c, const char *name, size_t n)
{
	for (int i = 0; i < c->n_names; i++)
		if (strlen(c->names[i]) == n && strncasecmp(c->names[i], name, n) == 0)
			return true;
	return false;
}

static bool has_wildcard(const struct hark__tls_context *c, const char *name, size_t n)
{
	const char *rest = memchr(name, '.', n);
	size_t len = rest != NULL ? n - (size_t)(rest - name) : 0;
	for (int i = 0; i < c->n_names && len > 1; i++)
		if (c->names[i][0] == '*' && strlen(c->names[i]) == len + 1 &&
		    strncasecmp(c->names[i] + 1, rest, len) == 0)
			return true;
	return false;
}

bool hark__tls_names_cover(const struct hark__tls_context *all, const struct hark__tls_context *those)
{
	for (int i = 0; i < those->n_names; i++) {
		const char *name = those->names[i];
		if (!has(all, name, strlen(name)) && (name[0] == '*' || !has_wildcard(all, name, strlen(name))))
			return false;
	}
	return those->n_names > 0;
}

int hark__tls_context_for(const struct hark__tls_settings *s, const char *name)
{
	size_t n = strlen(name);
	int best = -1;
	if (n > 1 && name[n - 1] == '.')
		n--;
	for (int i = 0; i < s->n_contexts; i++) /* one of fewer names may have certificates of one of more, too */
		if (has(&s->contexts[i], name, n) && (best < 0 || s->contexts[i].n_names < s->contexts[best].n_names))
			best = i;
	for (int i = 0; i < s->n_contexts && best < 0; i++)
		if (has_wildcard(&s->contexts[i], name, n))
			best = i;
	return best;
}
