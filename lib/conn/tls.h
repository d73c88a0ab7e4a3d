/* tls.h — TLS by OpenSSL, as its files share it: settings (tls_settings.c, tls_pem.c, tls_names.c, tls_ticket.c), a
 * connection's state (transport_tls.c), the handshake (starttls.c), what is told of it (tls_info.c, tls_why.c).
 *
 * OpenSSL never touches the socket nor waits: its BIO receives from the socket's transport without waiting, and what it
 * has to send gathers in `wire`, which goes out by the socket's transport when OpenSSL has returned. So no call of
 * OpenSSL suspends, its error queue, which is the thread's, is read before anybody else runs, and a flush is one send.
 *
 * An SSL object is no two threads' at once: a reader and a writer take `guard` for each call of OpenSSL, and never wait
 * with it. */
#ifndef HARK__TLS_H
#define HARK__TLS_H

#include <openssl/ssl.h>
#include <pthread.h>
#include <stdatomic.h>

#include "base/buffer.h"
#include "conn/conn.h"
#include "conn/extra.h"

#define HARK__TLS_HANDSHAKE_NS (10 * HARK_S)
#define HARK__TLS_WHY          192 /* bytes of a reason */

/* ---- settings --------------------------------------------------------------------------------------- */

/* One context of OpenSSL: certificates that are for the same names. */
struct hark__tls_context {
	SSL_CTX *ctx;
	char **names; /* as in the certificate, in lower case and in order: "example.org", "*.example.org" */
	int n_names;
	unsigned key_kinds; /* that it has certificates for, a bit each */
};

/* What hark_tls_new() made of its options: never changed, shared by the connections that began with it. */
struct hark__tls_settings {
	atomic_int refs;
	struct hark__tls_context *contexts; /* at least one; the first one's is the default */
	int n_contexts;
	STACK_OF(X509) * *chains; /* as in opts.certs, the leaf first */
	int n_certs;
	X509_STORE *store; /* who vouches for the peer */
	char *store_name;  /* for messages; NULL: the system's */
	STACK_OF(X509_NAME) * client_names;
	enum hark_tls_clients clients;
	bool insecure;
	unsigned char *alpn; /* each with its length in front: RFC 7301 section 3.1 */
	unsigned n_alpn;
	int (*ticket_key)(const unsigned char *name, struct hark_ticket_key *out, void *ticket_arg);
	void *ticket_arg;
	struct hark_ticket_key own_key; /* where ticket_key is NULL */
};

struct hark_tls {
	pthread_mutex_t lock; /* guards settings */
	struct hark__tls_settings *settings;
	struct hark_ticket_key own_key; /* lasts over reloads */
};

/* The settings as they are now, NULL: a client's by default. The caller releases them. 0 or, with why, -ENOMEM,
 * -ENOPKG, -EINVAL. */
int hark__tls_settings(struct hark_tls *t, struct hark__tls_settings **out, struct hark_why *why);
void hark__tls_settings_release(struct hark__tls_settings *s);

/* ---- tls_pem.c: reading -------------------------------------------------------------------------------- */

/* A file's text, or one that was read already. */
struct hark__tls_pem {
	const char *what; /* "certificate", "key" … */
	const char *name; /* the file's; NULL: it has none */
	char *text;       /* owned; a NUL behind it */
	size_t len;
};

/* 0 or -errno, with why. */
int hark__tls_pem_read(struct hark__tls_pem *p, const char *what, const char *name, const char *text,
                       struct hark_why *why);
void hark__tls_pem_free(struct hark__tls_pem *p);

/* Each: 0, -EINVAL or -ENOMEM with why. certs: at least one, the caller's to free. */
int hark__tls_pem_certs(const struct hark__tls_pem *p, STACK_OF(X509) * *out, struct hark_why *why);
int hark__tls_pem_crls(const struct hark__tls_pem *p, X509_STORE *store, struct hark_why *why);
int hark__tls_pem_key(const struct hark__tls_pem *p, EVP_PKEY **out, struct hark_why *why);

/* ---- tls_names.c: by the name that is asked for ----------------------------------------------------------- */

/* A certificate's names in lower case and in order: DNS names, or the subject's CN where it has none. 0; -ENOMEM;
 * -EINVAL: they cannot be read. */
int hark__tls_names_of(const X509 *cert, char ***names, int *n);
void hark__tls_names_free(char **names, int n);

/* Whether what is for `all` is for each of `those`; false where there are none. */
bool hark__tls_names_cover(const struct hark__tls_context *all, const struct hark__tls_context *those);

/* The context whose names have name: itself, the one of fewest names, before a wildcard's; -1: none. */
int hark__tls_context_for(const struct hark__tls_settings *s, const char *name);

/* tls_info.c: a subject or issuer in RFC 2253's order and escapes; UTF-8 as it is, control characters as hexadecimal
 * digits. One that is too long does not pass for the beginning of it. False: no memory, and out is empty. */
bool hark__tls_copy_name(const X509_NAME *name, char *out, size_t cap);

/* Its DNS names and IP addresses, spaces between; those that do not fit are left out. False: there is no memory to read
 * them. */
bool hark__tls_copy_names(const X509 *cert, char *out, size_t cap);

/* tls_info.c: seconds, as time(2) counts them; 0: it is no time. */
int64_t hark__tls_seconds(const ASN1_TIME *at);

/* tls_ticket.c. Has ctx ask its settings for the keys of its session tickets. */
void hark__tls_ticket_use(SSL_CTX *ctx);

/* tls_ticket.c. The server's name that was asked for; "": none. */
void hark__tls_asked_name(SSL *ssl, char *out, size_t cap);

/* ---- a connection's ------------------------------------------------------------------------------------ */

struct hark__tls_conn {
	struct hark_conn *conn;
	SSL *ssl;
	struct hark__tls_settings *settings;
	pthread_mutex_t guard;
	struct hark__buffer early; /* received before TLS began, for it */
	struct hark__buffer wire;  /* to be sent, encrypted */
	uint32_t own_messages;     /* of TLS's own that came since the last data went either way */
	int16_t socket_error;      /* what receiving failed with; 0: nothing */
	int16_t broken;            /* a -errno: TLS has failed, and says so in failure */
	bool is_client;
	bool established;  /* the handshake is over */
	bool more;         /* OpenSSL holds more of what was received than was asked for */
	bool ended;        /* the peer's close_notify came */
	bool cut;          /* the socket's end came */
	bool deaf;         /* hark_shutdown(HARK_IN): the socket's end is the end */
	bool said_goodbye; /* our close_notify is in wire, or was sent */
	bool owes_tickets; /* a server's, before the first that it says */
	bool unheard;      /* OpenSSL gets nothing of the socket just now */
	int verify_error;  /* X509_V_ERR_…, the first one; 0: none */
	int verify_depth;  /* where in the chain, 0 is the leaf */
	X509 *at_fault;    /* while the handshake lasts: the certificate that is there */
	char *asked;       /* the client's: the server's name; NULL: none */
	char *failure;     /* in words; NULL: none was told, or no memory */
};

/* c's TLS; NULL: it has none. */
struct hark__tls_conn *hark__conn_tls(const struct hark_conn *c);

/* A state over c, which has an extra block. -ENOMEM. */
int hark__tls_conn_new(struct hark_conn *c, struct hark__tls_settings *s, struct hark__tls_conn **out);
void hark__tls_conn_free(struct hark__tls_conn *t);

/* With the guard, or alone. Sends what is in wire. 0, -EAGAIN, -errno. */
int hark__tls_push(struct hark__tls_conn *t);

/* ---- tls_why.c --------------------------------------------------------------------------------------- */

/* Right after a call of OpenSSL has failed: whether it is for memory, where the queue had been cleared before. */
bool hark__tls_no_memory(void);

/* What it says of it, in our words. */
void hark__tls_reason(char *buf, size_t cap);

/* Keeps why t has failed: error, and the words. After a failed call of OpenSSL. */
void hark__tls_fail(struct hark__tls_conn *t);
void hark__tls_fail_as(struct hark__tls_conn *t, int error, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

/* For SSL_set_verify(): notes what the first fault is. */
int hark__tls_verified(int ok, X509_STORE_CTX *store);

#endif
