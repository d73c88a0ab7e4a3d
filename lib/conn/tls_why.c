/* tls_why.c — why TLS has failed, in words: OpenSSL's reasons name its own functions and eras ("sslv3 alert handshake
 * failure"), where a reader wants to know what was wrong and on which side.
 *
 * With the connection's guard. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/sys.h"
#include "base/why.h"
#include "conn/openssl.h"
#include "conn/tls.h"

/* OpenSSL's words where ours say more. */
static const struct {
	int reason;
	const char *text;
} reasons[] = {
	{SSL_R_HTTP_REQUEST, "plain HTTP came, not TLS"},
	{SSL_R_HTTPS_PROXY_REQUEST, "a request to a proxy came (HTTP CONNECT), not TLS"},
	{SSL_R_WRONG_VERSION_NUMBER, "what came is not TLS"},
	{SSL_R_UNKNOWN_PROTOCOL, "what came is not TLS"},
	{SSL_R_BAD_PROTOCOL_VERSION_NUMBER, "what came is not TLS"},
	{SSL_R_RECORD_LENGTH_MISMATCH, "what came is not TLS"},
	{SSL_R_PACKET_LENGTH_TOO_LONG, "what came is not TLS"},
	{SSL_R_ENCRYPTED_LENGTH_TOO_LONG, "what came is not TLS"},
	{SSL_R_EXCESSIVE_MESSAGE_SIZE, "a message of the handshake is too long, such as a chain of over 100 KB"},
	{SSL_R_UNSUPPORTED_PROTOCOL, "the peer offers no version of TLS that is high enough"},
	{SSL_R_VERSION_TOO_LOW, "the peer offers no version of TLS that is high enough"},
	{SSL_R_NO_SHARED_CIPHER, "no shared cipher"},
	{SSL_R_NO_SUITABLE_SIGNATURE_ALGORITHM, "no shared signature algorithm"},
	{SSL_R_NO_SHARED_SIGNATURE_ALGORITHMS, "no shared signature algorithm"},
	{SSL_R_NO_SUITABLE_KEY_SHARE, "no shared group"},
	{SSL_R_NO_SUITABLE_GROUPS, "no shared group"},
	{SSL_R_NO_APPLICATION_PROTOCOL, "no shared application protocol (ALPN)"},
	{SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE, "the peer shows no certificate, and one is required"},
	{SSL_R_DECRYPTION_FAILED_OR_BAD_RECORD_MAC, "a record was changed on its way"},
};

/* Without any there is none for the error itself, either. */
bool hark__tls_no_memory(void)
{
	unsigned long e = ERR_peek_error();
	return e == 0 || ERR_GET_REASON(e) == ERR_R_MALLOC_FAILURE;
}

static bool is_alert(int reason)
{
	return reason > SSL_AD_REASON_OFFSET && reason <= SSL_AD_REASON_OFFSET + 255;
}

void hark__tls_reason(char *buf, size_t cap)
{
	unsigned long e = ERR_peek_error();
	int reason = ERR_GET_REASON(e);
	const char *text = ERR_reason_error_string(e);
	if (ERR_GET_LIB(e) == ERR_LIB_SSL && is_alert(reason)) {
		int number = reason - SSL_AD_REASON_OFFSET;
		const char *alert = number == SSL_AD_CERTIFICATE_REQUIRED ? "certificate required"
		                                                          : SSL_alert_desc_string_long(number);
		(void)snprintf(buf, cap, "the peer's alert: %s", alert);
		return;
	}
	for (size_t i = 0; ERR_GET_LIB(e) == ERR_LIB_SSL && i < sizeof reasons / sizeof *reasons; i++)
		if (reasons[i].reason == reason)
			text = reasons[i].text;
	(void)snprintf(buf, cap, "%s",
	               e == 0         ? hark_strerror(ENOMEM)
	               : text != NULL ? text
	                              : "OpenSSL has no words for it");
}

static void keep(struct hark__tls_conn *t, int error, const char *text)
{
	size_t n = strlen(text) + 1;
	if (t->broken == 0)
		t->broken = (int16_t)error;
	if (t->failure != NULL)
		return;
	t->failure = hark__sys.malloc(n);
	if (t->failure != NULL)
		memcpy(t->failure, text, n);
}

void hark__tls_fail_as(struct hark__tls_conn *t, int error, const char *format, ...)
{
	struct hark_why words;
	char text[HARK__TLS_WHY];
	va_list args;
	va_start(args, format);
	(void)vsnprintf(text, sizeof text, format, args);
	va_end(args);
	hark__why(&words, "%s", text); /* what a peer says is one line, too */
	keep(t, error, words.text);
}

/* ---- a certificate that is not accepted ------------------------------------------------------------------- */

int hark__tls_verified(int ok, X509_STORE_CTX *store)
{
	const SSL *ssl = X509_STORE_CTX_get_ex_data(store, SSL_get_ex_data_X509_STORE_CTX_idx());
	struct hark__tls_conn *t = SSL_get_app_data(ssl);
	if (!ok && t->verify_error == X509_V_OK) {
		t->verify_error = X509_STORE_CTX_get_error(store);
		t->verify_depth = X509_STORE_CTX_get_error_depth(store);
		t->at_fault = X509_STORE_CTX_get_current_cert(store);
		if (t->at_fault != NULL)
			(void)X509_up_ref(t->at_fault);
	}
	return ok;
}

static void when(const ASN1_TIME *at, char *buf, size_t cap)
{
	struct tm tm;
	buf[0] = '\0';
	if (ASN1_TIME_to_tm(at, &tm))
		(void)snprintf(buf, cap, "%04d-%02d-%02d %02d:%02d UTC", tm.tm_year + 1900, tm.tm_mon + 1, tm.tm_mday,
		               tm.tm_hour, tm.tm_min);
}

/* It is good, but for another name. */
static void other_name(struct hark__tls_conn *t, const X509 *leaf)
{
	char for_names[112] = "";
	char **names;
	int n;
	(void)hark__tls_copy_names(leaf, for_names, sizeof for_names);
	if (for_names[0] == '\0' && hark__tls_names_of(leaf, &names, &n) == 0) {
		if (n > 0) /* its CN */
			(void)snprintf(for_names, sizeof for_names, "%s", names[0]);
		hark__tls_names_free(names, n);
	}
	hark__tls_fail_as(t, -HARK_ECERT, "its certificate is not for %s%s%s%s", t->asked,
	                  for_names[0] != '\0' ? " (it is for " : "", for_names, for_names[0] != '\0' ? ")" : "");
}

/* at: where the chain failed; NULL: not known. */
static void issuer_of(const X509 *at, char *out, size_t cap)
{
	out[0] = '\0';
	if (at != NULL)
		hark__tls_copy_name(X509_get_issuer_name(at), out, cap);
}

/* Nobody whom we know vouches for it. */
static void unknown_issuer(struct hark__tls_conn *t, const X509 *at)
{
	char issuer[112];
	const char *store = t->settings->store_name;
	issuer_of(at, issuer, sizeof issuer);
	bool itself = t->verify_error == X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT;
	hark__tls_fail_as(t, -HARK_ECERT, "its certificate is %s%s, %s in %s", itself ? "self-signed" : "issued by ",
	                  itself ? "" : issuer, itself ? "and not" : "which is not",
	                  store != NULL ? store : "the system's store");
}

/* By one of the same name, but with another key. */
static void not_signed(struct hark__tls_conn *t, const X509 *at, const char *whose)
{
	char issuer[112];
	issuer_of(at, issuer, sizeof issuer);
	hark__tls_fail_as(t, -HARK_ECERT, "%s is not signed by the %s that is known", whose, issuer);
}

/* Nobody can say whether it was revoked. */
static void without_list(struct hark__tls_conn *t, const X509 *at, const char *whose)
{
	char issuer[112];
	issuer_of(at, issuer, sizeof issuer);
	const char *what = t->verify_error == X509_V_ERR_UNABLE_TO_GET_CRL ? "there is none"
	                   : t->verify_error == X509_V_ERR_CRL_HAS_EXPIRED ? "it has expired"
	                                                                   : "it is not valid yet";
	hark__tls_fail_as(t, -HARK_ECERT, "%s is not accepted without the revocation list (CRL) of %s, and %s", whose,
	                  issuer, what);
}

static void not_accepted(struct hark__tls_conn *t)
{
	const X509 *at = t->at_fault;
	const char *whose = t->verify_depth == 0 ? "its certificate" : "a certificate above its own";
	char moment[96];
	switch (t->verify_error) {
	case X509_V_ERR_HOSTNAME_MISMATCH:
	case X509_V_ERR_IP_ADDRESS_MISMATCH:
		if (at != NULL) {
			other_name(t, at);
			return;
		}
		break;
	case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT:
	case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY:
	case X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE:
	case X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT:
	case X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN: unknown_issuer(t, at); return;
	case X509_V_ERR_CERT_HAS_EXPIRED:
	case X509_V_ERR_CERT_NOT_YET_VALID:
		if (at != NULL) {
			bool expired = t->verify_error == X509_V_ERR_CERT_HAS_EXPIRED;
			when(expired ? X509_get0_notAfter(at) : X509_get0_notBefore(at), moment, sizeof moment);
			hark__tls_fail_as(t, -HARK_ECERT, "%s %s %s", whose,
			                  expired ? "expired at" : "is not valid before", moment);
			return;
		}
		break;
	case X509_V_ERR_CERT_REVOKED: hark__tls_fail_as(t, -HARK_ECERT, "%s is revoked", whose); return;
	case X509_V_ERR_CERT_SIGNATURE_FAILURE: not_signed(t, at, whose); return;
	case X509_V_ERR_UNABLE_TO_GET_CRL:
	case X509_V_ERR_CRL_HAS_EXPIRED:
	case X509_V_ERR_CRL_NOT_YET_VALID: without_list(t, at, whose); return;
	default: break;
	}
	hark__tls_fail_as(t, -HARK_ECERT, "%s is not accepted: %s", whose,
	                  X509_verify_cert_error_string(t->verify_error));
}

void hark__tls_fail(struct hark__tls_conn *t)
{
	char text[HARK__TLS_WHY];
	unsigned long e = ERR_peek_error(), last = ERR_peek_last_error(); /* a bad signature has told more before */
	bool refused = ERR_GET_LIB(last) == ERR_LIB_SSL && ERR_GET_REASON(last) == SSL_R_CERTIFICATE_VERIFY_FAILED;
	if (refused && t->verify_error != X509_V_OK) {
		not_accepted(t);
		ERR_clear_error();
		return;
	}
	bool no_memory = hark__tls_no_memory();
	hark__tls_reason(text, sizeof text);
	bool none = ERR_GET_LIB(e) == ERR_LIB_SSL && ERR_GET_REASON(e) == SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE;
	hark__tls_fail_as(t, no_memory ? -ENOMEM : none ? -HARK_ECERT : -EPROTO, "%s", text);
	ERR_clear_error();
}
