/* environ.c — see environ.h. Any fiber or thread: nothing is shared, and the process's own environment is only read,
 * while a service starts. */
#include "environ.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <net/if.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>
#include <unistd.h>

__attribute__((format(printf, 2, 3))) static void put(struct conn_environ *e, const char *format, ...)
{
	va_list args;
	size_t room = sizeof e->text - e->used;
	if (e->count == ENVIRON_OWN_MAX)
		return;
	va_start(args, format);
	int n = vsnprintf(e->text + e->used, room, format, args);
	va_end(args);
	if (n < 0 || (size_t)n >= room)
		return;
	e->entries[e->count++] = e->text + e->used;
	e->used += (size_t)n + 1;
}

struct look_up {
	const struct hark_endpoint *peer;
	char host[NI_MAXHOST];
};

/* A name comes from whoever answers for the address: only what a host name may have goes into a program's
 * environment. */
static bool is_host_name(const char *name)
{
	if (*name == '\0' || *name == '-')
		return false;
	for (; *name != '\0'; name++)
		if (!isalnum((unsigned char)*name) && strchr("-._", *name) == NULL)
			return false;
	return true;
}

static void look_up(void *arg)
{
	struct look_up *l = arg;
	const struct sockaddr *peer = (const struct sockaddr *)&l->peer->addr;
	if (getnameinfo(peer, l->peer->len, l->host, sizeof l->host, NULL, 0, NI_NAMEREQD) != 0 ||
	    !is_host_name(l->host))
		l->host[0] = '\0';
	for (char *p = l->host; *p != '\0'; p++)
		*p = (char)tolower((unsigned char)*p);
}

/* Address and port of one end, under names that begin with prefix and side: "TCP6" and "LOCAL". */
static void put_inet(struct conn_environ *e, const char *prefix, const char *side, const struct hark_endpoint *end)
{
	char ip[INET6_ADDRSTRLEN];
	const struct sockaddr_in *v4 = (const struct sockaddr_in *)&end->addr;
	const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)&end->addr;
	bool is4 = end->addr.ss_family == AF_INET;
	const void *raw = is4 ? (const void *)&v4->sin_addr : (const void *)&v6->sin6_addr;
	if (inet_ntop(end->addr.ss_family, raw, ip, sizeof ip) == NULL)
		return;
	put(e, "%s%s%s=%s", prefix, side, prefix[0] != '\0' ? "IP" : "ADDR", ip);
	put(e, "%s%sPORT=%u", prefix, side, ntohs(is4 ? v4->sin_port : v6->sin6_port));
}

/* Those of systemd and xinetd: REMOTE_ADDR, REMOTE_PORT, REMOTE_HOST. */
static void put_remote(struct conn_environ *e, const struct hark_endpoint *peer, const char *host)
{
	size_t at = e->count;
	put_inet(e, "", "REMOTE_", peer);
	if (host[0] != '\0')
		put(e, "REMOTE_HOST=%s", host);
	else if (e->count > at)
		put(e, "REMOTE_HOST=%s", e->entries[at] + strlen("REMOTE_ADDR="));
}

static void describe_inet(struct conn_environ *e, const struct hark_endpoint *local, const struct hark_endpoint *peer,
                          bool want_host)
{
	const char *proto = local->type == SOCK_STREAM ? "TCP" : "UDP";
	bool six = (peer != NULL ? peer : local)->addr.ss_family == AF_INET6;
	char proto6[] = {proto[0], proto[1], proto[2], '6', '\0'};
	struct look_up l = {.peer = peer};
	l.host[0] = '\0';
	if (peer != NULL && want_host)
		(void)hark_offload(look_up, &l); /* no thread to be had: no name */
	put(e, "PROTO=%s", six ? proto6 : proto);
	for (const char *prefix = proto; prefix != NULL; prefix = six && prefix == proto ? proto6 : NULL) {
		put_inet(e, prefix, "LOCAL", local);
		if (peer != NULL)
			put_inet(e, prefix, "REMOTE", peer);
		if (l.host[0] != '\0')
			put(e, "%sREMOTEHOST=%s", prefix, l.host);
	}
	if (peer != NULL)
		put_remote(e, peer, l.host);
	char name[IF_NAMESIZE];
	const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)&(peer != NULL ? peer : local)->addr;
	if (six && v6->sin6_scope_id != 0 && if_indextoname(v6->sin6_scope_id, name) != NULL)
		put(e, "%sINTERFACE=%s", proto6, name);
}

/* "UNIXLOCALPATH=/run/x", "…=@abstract"; nothing for an unnamed socket. */
static void put_unix(struct conn_environ *e, const char *side, const struct hark_endpoint *end)
{
	const struct sockaddr_un *un = (const struct sockaddr_un *)&end->addr;
	const size_t start = offsetof(struct sockaddr_un, sun_path);
	size_t len = end->len > start ? end->len - start : 0;
	if (len > sizeof un->sun_path)
		len = sizeof un->sun_path;
	if (len > 1 && un->sun_path[0] == '\0')
		put(e, "UNIX%sPATH=@%.*s", side, (int)(len - 1), un->sun_path + 1);
	else if (len > 0 && un->sun_path[0] != '\0')
		put(e, "UNIX%sPATH=%.*s", side, (int)len, un->sun_path);
}

static void describe_unix(struct conn_environ *e, struct hark_conn *c, const struct hark_endpoint *local,
                          const struct hark_endpoint *peer)
{
	struct hark_credentials who;
	put(e, "PROTO=UNIX");
	put_unix(e, "LOCAL", local);
	put(e, "UNIXLOCALPID=%ld", (long)getpid());
	put(e, "UNIXLOCALUID=%lu", (unsigned long)geteuid());
	put(e, "UNIXLOCALGID=%lu", (unsigned long)getegid());
	if (peer == NULL)
		return;
	put_unix(e, "REMOTE", peer);
	if (local->type != SOCK_STREAM || hark_peer_credentials(c, &who) < 0)
		return;
	put(e, "UNIXREMOTEPID=%ld", (long)who.pid);
	put(e, "UNIXREMOTEEUID=%lu", (unsigned long)who.uid);
	put(e, "UNIXREMOTEEGID=%lu", (unsigned long)who.gid);
}

/* ---- what a proxy told ----------------------------------------------------------------------- */

static const struct {
	int type;
	const char *name;
	bool of_certificate; /* the client's */
} proxy_names[] = {
	{HARK_PROXY_ALPN, "PROXY_ALPN", false},
	{HARK_PROXY_AUTHORITY, "PROXY_AUTHORITY", false},
	{HARK_PROXY_UNIQUE_ID, "PROXY_UNIQUE_ID", false},
	{HARK_PROXY_NETNS, "PROXY_NETNS", false},
	{HARK_PROXY_SSL_VERSION, "PROXY_SSL_VERSION", false},
	{HARK_PROXY_SSL_CIPHER, "PROXY_SSL_CIPHER", false},
	{HARK_PROXY_SSL_SIG_ALG, "PROXY_SSL_SIG_ALG", false},
	{HARK_PROXY_SSL_KEY_ALG, "PROXY_SSL_KEY_ALG", false},
	{HARK_PROXY_SSL_GROUP, "PROXY_SSL_GROUP", false},
	{HARK_PROXY_SSL_SIG_SCHEME, "PROXY_SSL_SIG_SCHEME", false},
	{HARK_PROXY_SSL_CN, "PROXY_SSL_CN", true},
};

#define PROXY_VALUE_MAX 256 /* bytes: a host's name, RFC 1035; longer ones are left out */
#define CERTIFICATE     6   /* bits of ssl_client: the client has shown one */

/* Much of it is the client's choice, and may hold any byte: control characters and the backslash are written \xNN. */
static void put_proxy_value(struct conn_environ *e, const char *name, const struct hark_proxy_tlv *tlv)
{
	char text[4 * PROXY_VALUE_MAX + 1], *to = text;
	const unsigned char *from = tlv->value;
	if (tlv->len > PROXY_VALUE_MAX)
		return;
	for (size_t i = 0; i < tlv->len; i++)
		if (from[i] < 0x20 || from[i] == 0x7f || from[i] == '\\')
			to += sprintf(to, "\\x%02x", from[i]);
		else
			*to++ = (char)from[i];
	*to = '\0';
	put(e, "%s=%s", name, text);
}

static void describe_proxied(struct conn_environ *e, const struct hark_proxy *p)
{
	bool certificate = p->ssl && (p->ssl_client & CERTIFICATE) != 0;
	put(e, "PROXY_VERSION=%d", p->version);
	for (size_t i = 0; i < sizeof proxy_names / sizeof *proxy_names; i++) {
		const struct hark_proxy_tlv *tlv = hark_proxy_find(p, proxy_names[i].type);
		if (tlv != NULL && (certificate || !proxy_names[i].of_certificate))
			put_proxy_value(e, proxy_names[i].name, tlv);
	}
	if (certificate) /* else it says nothing */
		put(e, "PROXY_SSL_VERIFY=%lu", (unsigned long)p->ssl_verify);
}

/* ---- TLS ------------------------------------------------------------------------------------- */

static int describe_client(struct conn_environ *e, const struct hark_conn *c, const struct hark_tls_info *tls)
{
	struct hark_certificate client;
	int r = hark_tls_peer(c, 0, &client);
	if (r < 0) {
		put(e, "SSL_CLIENT_VERIFY=NONE");
		return r == -ENOENT ? 0 : r;
	}
	put(e, "SSL_CLIENT_VERIFY=%s%s", tls->verified ? "SUCCESS" : "FAILED:", tls->verified ? "" : tls->why);
	put(e, "SSL_CLIENT_S_DN=%s", client.subject);
	put(e, "SSL_CLIENT_DN=%s", client.subject);
	put(e, "SSL_CLIENT_I_DN=%s", client.issuer);
	put(e, "SSL_CLIENT_M_SERIAL=%s", client.serial);
	return 0;
}

/* What a client asks for is any bytes. */
static int describe_tls(struct conn_environ *e, const struct hark_conn *c)
{
	struct hark_tls_info tls;
	if (hark_tls_info(c, &tls) < 0)
		return 0;
	put(e, "SSL_PROTOCOL=%s", tls.version);
	put(e, "SSL_CIPHER=%s", tls.cipher);
	put(e, "SSL_SESSION_RESUMED=%s", tls.resumed ? "Resumed" : "Initial");
	if (is_host_name(tls.name))
		put(e, "SSL_TLS_SNI=%s", tls.name);
	if (tls.alpn[0] != '\0') /* one of ours */
		put(e, "SSL_ALPN_PROTOCOL=%s", tls.alpn);
	return describe_client(e, c, &tls);
}

/* What kept an end from being told; 0: it has none, as a pipe, a terminal, a socket that listens. */
static int lacking(int r)
{
	return r == -ENOBUFS || r == -ENOMEM ? r : 0;
}

int conn_environ(struct hark_conn *c, bool want_host, struct conn_environ *out)
{
	struct hark_endpoint local, peer;
	out->count = out->used = 0;
	int r = hark_local_endpoint(c, &local);
	if (r < 0)
		return lacking(r);
	r = hark_peer_endpoint(c, &peer);
	if (lacking(r) < 0)
		return r;
	bool has_peer = r == 0;
	if (local.addr.ss_family == AF_UNIX)
		describe_unix(out, c, &local, has_peer ? &peer : NULL);
	else if (local.addr.ss_family == AF_INET || local.addr.ss_family == AF_INET6)
		describe_inet(out, &local, has_peer ? &peer : NULL, want_host);
	if (hark_proxied(c) != NULL)
		describe_proxied(out, hark_proxied(c));
	return describe_tls(out, c);
}

char **strings_copy(char *const from[], size_t n)
{
	size_t bytes = (n + 1) * sizeof(char *);
	for (size_t i = 0; i < n; i++)
		bytes += strlen(from[i]) + 1;
	char **copy = malloc(bytes);
	if (copy == NULL)
		return NULL;
	char *text = (char *)(copy + n + 1);
	for (size_t i = 0; i < n; i++) {
		copy[i] = text;
		text = stpcpy(text, from[i]) + 1;
	}
	copy[n] = NULL;
	return copy;
}

static bool is_about_other_sockets(const char *entry)
{
	static const char *const starts[] = {
		"PROTO=",          "TCPLOCAL",           "TCPREMOTE",
		"TCP6LOCAL",       "TCP6REMOTE",         "TCP6INTERFACE=",
		"UDPLOCAL",        "UDPREMOTE",          "UDP6LOCAL",
		"UDP6REMOTE",      "UDP6INTERFACE=",     "UNIXLOCAL",
		"UNIXREMOTE",      "LISTEN_PID=",        "LISTEN_FDS=",
		"LISTEN_FDNAMES=", "REMOTE_ADDR=",       "REMOTE_PORT=",
		"REMOTE_HOST=",    "PROXY_VERSION=",     "PROXY_SSL_VERIFY=",
		"SSL_PROTOCOL=",   "SSL_CIPHER=",        "SSL_SESSION_RESUMED=",
		"SSL_TLS_SNI=",    "SSL_ALPN_PROTOCOL=", "SSL_CLIENT_",
	};
	for (size_t i = 0; i < sizeof starts / sizeof *starts; i++)
		if (strncmp(entry, starts[i], strlen(starts[i])) == 0)
			return true;
	for (size_t i = 0; i < sizeof proxy_names / sizeof *proxy_names; i++) {
		size_t n = strlen(proxy_names[i].name);
		if (strncmp(entry, proxy_names[i].name, n) == 0 && entry[n] == '=')
			return true;
	}
	return false;
}

char **environ_base(size_t *count)
{
	size_t n = 0, kept = 0;
	while (environ != NULL && environ[n] != NULL)
		n++;
	char **keep = calloc(n + 1, sizeof *keep);
	if (keep == NULL)
		return NULL;
	for (size_t i = 0; i < n; i++)
		if (!is_about_other_sockets(environ[i]))
			keep[kept++] = environ[i];
	char **copy = strings_copy(keep, kept);
	free(keep);
	if (copy != NULL)
		*count = kept;
	return copy;
}
