/* environ.h — the environment that programs of inetd, xinetd, systemd and the ucspi tools expect of whoever starts
 * them; hark-serve(1) has the table.
 *
 *   PROTO           TCP, TCP6, UDP, UDP6 or UNIX
 *   TCPLOCALIP TCPLOCALPORT TCPREMOTEIP TCPREMOTEPORT  tcp-environ(5) of ucspi-tcp, and where it was asked for,
 *   TCPREMOTEHOST                                        if the peer's address has a name
 *   TCP6…           all of these once more over IPv6, and TCP6INTERFACE for a link-local peer, as ucspi-tcp6 has it
 *   UDP…, UDP6…     the same of a datagram's conversation
 *   UNIXLOCALPATH UNIXLOCALPID UNIXLOCALUID UNIXLOCALGID      of ucspi-unix, and hark's own process's;
 *   UNIXREMOTEPATH UNIXREMOTEPID UNIXREMOTEEUID UNIXREMOTEEGID  paths where they are bound
 *   REMOTE_ADDR REMOTE_PORT   systemd's, of TCP and UDP
 *   REMOTE_HOST     xinetd's: the address, or the name where it was asked for and there is one
 *   PROXY_VERSION PROXY_ALPN PROXY_AUTHORITY PROXY_UNIQUE_ID PROXY_NETNS PROXY_SSL_…  what a proxy in front has told
 *
 *   SSL_PROTOCOL SSL_CIPHER SSL_TLS_SNI SSL_SESSION_RESUMED  of TLS, as Apache's mod_ssl names them, and
 *   SSL_CLIENT_VERIFY SSL_CLIENT_S_DN SSL_CLIENT_I_DN SSL_CLIENT_M_SERIAL  of the client's certificate;
 *   SSL_CLIENT_DN stunnel's; SSL_ALPN_PROTOCOL
 *
 * Where there is no peer (inetd's wait form) the REMOTE ones are missing. What the server itself inherited under
 * these names, and under sd_listen_fds(3)'s, is not passed on: it is about other sockets. */
#ifndef BOX_ENVIRON_H
#define BOX_ENVIRON_H

#include "hark.h"

#define ENVIRON_OWN_MAX 56 /* variables about the connection */

struct conn_environ {
	size_t count, used;
	char *entries[ENVIRON_OWN_MAX]; /* into text: not to be copied or moved */
	char text[6144]; /* three host names, eight addresses and what proxies and TLS tell fit; others are left out */
};

/* Describes c. Asks for the peer's name if want_host, off the loop: may suspend. 0; -ENOBUFS, -ENOMEM: something of it
 * cannot be told, and who relies on it must not start. */
int conn_environ(struct hark_conn *c, bool want_host, struct conn_environ *out);

/* A copy of environ(7) without what conn_environ() is to tell: NULL-terminated, *count entries, one allocation to
 * free(3). NULL: no memory. */
char **environ_base(size_t *count);

/* A copy of n strings in one allocation, NULL-terminated. NULL: no memory. */
char **strings_copy(char *const from[], size_t n);

#endif
