/* tls.h — what the verbs that dial tls:// share: their options, and what a handshake came to, for a person or as JSON.
 *
 * The peer is not trusted: of its chain the first certificates are told, and how many there are. */
#ifndef TOOL_TLS_H
#define TOOL_TLS_H

#include <stdbool.h>
#include <stddef.h>

#include "hark.h"
#include "json.h"
#include "options.h"
#include "tool.h"

struct tls_args {
	const char *ca, *cert, *key, *alpn, *server_name;
	bool insecure;
};

/* Rows of a table of options: in is the struct that is filled, member its struct tls_args. */
#define TLS_ROW(name, kind, value, help, in, at) \
	{ \
		name, 0, kind, value, help, offsetof(in, at) \
	}
#define TLS_ROWS(in, member) \
	TLS_ROW("ca", OPTION_TEXT, "FILE", "tls://: authorities, PEM, in place of the system's", in, member.ca), \
		TLS_ROW("cert", OPTION_TEXT, "FILE", "tls://: our own certificate, PEM, and those above it", in, \
	                member.cert), \
		TLS_ROW("key", OPTION_TEXT, "FILE", "tls://: its key, PEM (in --cert's file)", in, member.key), \
		TLS_ROW("alpn", OPTION_TEXT, "NAMES", "tls://: application protocols, best first: h2,http/1.1", in, \
	                member.alpn), \
		TLS_ROW("server-name", OPTION_TEXT, "NAME", \
	                "tls://: ask for this server, and verify that it is it (the host)", in, member.server_name), \
		TLS_ROW("insecure", OPTION_FLAG, NULL, "tls://: take any server's certificate", in, member.insecure)

/* Makes the settings that the options tell, or NULL where they tell none. used: an address is tls://; without one the
 * options are a mistake. server: it is listened at. Returns 0, or the exit code after an error was told. The caller
 * frees *out. */
int tls_settings(const struct verb *v, const struct tls_args *args, bool used, bool server, struct hark_tls **out);

/* Turns "tcp4://…" into "tls://…", in place. */
void tls_rename(char *address);

#define TLS_CHAIN_MAX 8 /* certificates of a peer's that are told */

/* What a handshake came to; malloc(3)'s. */
struct tls_facts {
	bool established;                             /* else only the chain is known */
	struct hark_tls_info info;                    /* if established */
	int n, count;                                 /* of chain; of the peer's */
	struct hark_certificate chain[TLS_CHAIN_MAX]; /* the peer's own first */
};

/* NULL: there is nothing to tell, or no memory. */
struct tls_facts *tls_facts(const struct hark_conn *c);

/* Says each fact in a line on standard error. */
void tls_say(const struct verb *v, const struct tls_facts *f);

/* The same as members of the object that is open in j. */
void tls_put(struct json *j, const struct tls_facts *f);

/* A certificate's names, spaces between, as the list "names". */
void tls_put_names(struct json *j, const char *names);

/* In few words: "TLSv1.3, CN=example.org, until 2027-01-31 12:00 UTC". */
void tls_brief(const struct tls_facts *f, char *buf, size_t cap);

#endif
