/* values_tls.c — kinds of values that TLS has: files, which are read later, and application protocols. And what must go
 * together. See values.c.
 *
 * Main thread. */
#include "inside.h"

#include <string.h>

#define AT(base, key, type)  ((type *)((char *)(base) + (key)->how->at))
#define SEE(base, key, type) ((const type *)((const char *)(base) + (key)->how->at))
#define CERTS_MAX            32 /* of a service */
#define PROTOCOL_MAX         63 /* bytes, as libhark has it */

/* On a command line from where it is typed. */
static bool check_path(struct reading *r, const char *path)
{
	if (path[0] == '\0' || (path[0] != '/' && !r->w->keys_alone))
		inside_bad(r, "\"%.80s\" is not an absolute path", path);
	else if (strlen(path) >= PATH_MAX)
		inside_bad(r, "the path is longer than %d bytes", PATH_MAX - 1);
	return !r->bad;
}

static void read_files(struct reading *r, const char *value, void *base)
{
	struct config_words *files = AT(base, r->key, struct config_words);
	size_t before = files->n;
	const char *wrong = words_split(r->w, value, files, NULL);

	if (wrong != NULL)
		return inside_bad(r, "%s", wrong);
	for (size_t i = before; i < files->n; i++)
		if (!check_path(r, files->word[i]))
			return;
	if (files->n > CERTS_MAX)
		inside_bad(r, "more than %d files", CERTS_MAX);
}

static void print_files(const struct config_key *key, const void *base, FILE *to)
{
	const struct config_words *files = SEE(base, key, struct config_words);

	for (size_t i = 0; i < files->n; i++) {
		fprintf(to, "%s = ", key->name);
		words_print(files->word[i], to);
		fputc('\n', to);
	}
}

const struct kind kind_files = {read_files, print_files};

static void read_file(struct reading *r, const char *value, void *base)
{
	if (check_path(r, value))
		inside_set_text(r, AT(base, r->key, char *), value);
}

const struct kind kind_file = {read_file, inside_print_text};

static void read_alpn(struct reading *r, const char *value, void *base)
{
	for (const char *p = value; *p != '\0';) {
		size_t n = strcspn(p, " \t,");
		if (n > PROTOCOL_MAX)
			return inside_bad(r, "\"%.40s...\" is longer than %d bytes", p, PROTOCOL_MAX);
		p += n + strspn(p + n, " \t,");
	}
	inside_set_text(r, AT(base, r->key, char *), value);
}

const struct kind kind_alpn = {read_alpn, inside_print_text};

/* ---- together ---- */

static void check_addresses(struct whole *w, const struct service *s)
{
	for (size_t i = 0; i < s->s.listen.n; i++) {
		const char *address = s->s.listen.word[i];
		if (strncmp(address, "tls:", 4) != 0)
			continue;
		if (s->s.cert.n == 0)
			inside_error(w, s->listen_at[i], "listen: %.200s: [%s] has no cert", address, s->s.name);
		if (s->s.wait)
			inside_error(w, s->listen_at[i],
			             "listen: %.200s: not with wait = yes: the program gets the socket itself",
			             address);
	}
}

void tls_check(struct whole *w, struct service *s)
{
	const struct config_service *c = &s->s;

	check_addresses(w, s);
	if (c->key.n > 0 && c->key.n != c->cert.n)
		inside_error(w, key_at(s->at, "key"), "key: %zu for %zu certificate%s", c->key.n, c->cert.n,
		             c->cert.n == 1 ? "" : "s");
	if (c->client_cert > HARK_TLS_CLIENTS_ANY && c->client_ca == NULL)
		inside_error(w, key_at(s->at, "client_cert"),
		             "client_cert: client_ca must say who vouches for clients");
	if (c->client_crl != NULL && c->client_ca == NULL)
		inside_error(w, key_at(s->at, "client_crl"), "client_crl: there is no client_ca");
}
