/* tls_pem.c — certificates, keys and revocation lists from PEM, RFC 7468; what is wrong with which file.
 *
 * Keys are wiped when they have been read. The caller's thread, which may be blocked by the disk. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "base/sys.h"
#include "base/why.h"
#include "conn/openssl.h"
#include "conn/tls.h"

#define FILE_MAX  ((size_t)16 << 20) /* bytes: from here on it is no PEM file, or a device's */
#define FILE_STEP 16384u

/* ---- the text ------------------------------------------------------------------------------------------- */

static int complain(const struct hark__tls_pem *p, int error, const char *what, struct hark_why *why)
{
	hark__why(why, "%s%s%s: %s", p->what, p->name != NULL ? " " : "", p->name != NULL ? p->name : "", what);
	return error;
}

static int read_all(struct hark__tls_pem *p, int fd)
{
	size_t cap = 0;
	ssize_t n = 1;
	while (n > 0) {
		if (p->len >= FILE_MAX)
			return -EFBIG;
		if (p->len == cap) {
			char *more = hark__sys.malloc(cap + cap / 2 + FILE_STEP + 1);
			if (more == NULL)
				return -ENOMEM;
			if (p->text != NULL)
				memcpy(more, p->text, p->len);
			OPENSSL_cleanse(p->text, p->len);
			free(p->text);
			p->text = more;
			cap += cap / 2 + FILE_STEP;
		}
		do
			n = hark__sys.read(fd, p->text + p->len, cap - p->len);
		while (n < 0 && errno == EINTR);
		p->len += n > 0 ? (size_t)n : 0;
	}
	p->text[p->len] = '\0';
	return n < 0 ? -errno : 0;
}

int hark__tls_pem_read(struct hark__tls_pem *p, const char *what, const char *name, const char *text,
                       struct hark_why *why)
{
	int r = 0;
	*p = (struct hark__tls_pem){.what = what, .name = name};
	if (text != NULL) {
		p->len = strlen(text);
		p->text = hark__sys.malloc(p->len + 1);
		if (p->text != NULL)
			memcpy(p->text, text, p->len + 1);
		return p->text != NULL ? 0 : complain(p, -ENOMEM, hark_strerror(ENOMEM), why);
	}
	if (name == NULL)
		return complain(p, -EINVAL, "neither a file nor its text is given", why);
	int fd = hark__sys_high(hark__sys.open(name, O_RDONLY | O_CLOEXEC | O_NOCTTY));
	r = fd < 0 ? -errno : read_all(p, fd);
	if (fd >= 0)
		(void)hark__sys.close(fd);
	if (r < 0) {
		hark__tls_pem_free(p);
		return complain(p, r, hark_strerror(r), why);
	}
	return 0;
}

void hark__tls_pem_free(struct hark__tls_pem *p)
{
	if (p->text != NULL)
		OPENSSL_cleanse(p->text, p->len);
	free(p->text);
	p->text = NULL;
	p->len = 0;
}

/* ---- what it holds -------------------------------------------------------------------------------------- */

static BIO *reader(const struct hark__tls_pem *p)
{
	ERR_clear_error();
	return BIO_new_mem_buf(p->text, (int)p->len);
}

/* The last object was followed by no further one. */
static bool is_at_end(void)
{
	unsigned long e = ERR_peek_last_error();
	bool end = ERR_GET_LIB(e) == ERR_LIB_PEM && ERR_GET_REASON(e) == PEM_R_NO_START_LINE;
	if (end)
		ERR_clear_error();
	return end;
}

static int complain_of_openssl(const struct hark__tls_pem *p, const char *before, struct hark_why *why)
{
	char reason[HARK__TLS_WHY], text[HARK__TLS_WHY + 32];
	int error = hark__tls_no_memory() ? -ENOMEM : -EINVAL;
	hark__tls_reason(reason, sizeof reason);
	ERR_clear_error();
	(void)snprintf(text, sizeof text, "%s%s", before, reason);
	return complain(p, error, text, why);
}

/* No pass phrase is asked for: nobody is there to type one. */
static int no_phrase(char *buf, int cap, int writes, void *asked)
{
	(void)buf;
	(void)cap;
	(void)writes;
	*(bool *)asked = true;
	return -1;
}

int hark__tls_pem_certs(const struct hark__tls_pem *p, STACK_OF(X509) * *out, struct hark_why *why)
{
	BIO *b = reader(p);
	STACK_OF(X509) *all = sk_X509_new_null();
	X509 *one = NULL;
	bool asked = false;
	while (b != NULL && all != NULL && (one = PEM_read_bio_X509(b, NULL, no_phrase, &asked)) != NULL)
		if (sk_X509_push(all, one) <= 0) {
			X509_free(one);
			break;
		}
	BIO_free(b);
	int r = 0;
	if (b == NULL || all == NULL || !is_at_end())
		r = complain_of_openssl(p, "", why);
	else if (sk_X509_num(all) == 0)
		r = complain(p, -EINVAL, "holds no certificate in PEM", why);
	if (r == 0)
		*out = all;
	else
		sk_X509_pop_free(all, X509_free);
	return r;
}

int hark__tls_pem_crls(const struct hark__tls_pem *p, X509_STORE *store, struct hark_why *why)
{
	BIO *b = reader(p);
	X509_CRL *one;
	bool asked = false;
	int n = 0;
	while (b != NULL && (one = PEM_read_bio_X509_CRL(b, NULL, no_phrase, &asked)) != NULL) {
		bool added = X509_STORE_add_crl(store, one) == 1;
		X509_CRL_free(one);
		if (!added)
			break;
		n++;
	}
	BIO_free(b);
	if (b == NULL || !is_at_end())
		return complain_of_openssl(p, "", why);
	return n > 0 ? 0 : complain(p, -EINVAL, "holds no revocation list (CRL) in PEM", why);
}

int hark__tls_pem_key(const struct hark__tls_pem *p, EVP_PKEY **out, struct hark_why *why)
{
	BIO *b = reader(p);
	bool asked = false;
	EVP_PKEY *key = b != NULL ? PEM_read_bio_PrivateKey(b, NULL, no_phrase, &asked) : NULL;
	BIO_free(b);
	if (key != NULL) {
		ERR_clear_error();
		*out = key;
		return 0;
	}
	if (asked) {
		ERR_clear_error();
		return complain(p, -EINVAL, "is encrypted (openssl pkey -in FILE -out PLAIN decrypts it)", why);
	}
	if (is_at_end() || strstr(p->text, "PRIVATE KEY-----") == NULL)
		return complain(p, -EINVAL, "holds no private key in PEM", why);
	return complain_of_openssl(p, "", why);
}
