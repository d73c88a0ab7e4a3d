/* print.c — the effective configuration as hark.conf text: for hark config, and as the text by which a reload tells
 * whether a service is the same. Any thread. */
#include "inside.h"

#include <errno.h>
#include <string.h>

/* Every key that has a value, in the order of the table; then the box's options. The numbers behind names are in it as
 * a comment: a user who is another one now, or is in another group, makes it another service. */
void print_service(const struct service *s, FILE *to)
{
	fprintf(to, "[%s]\n", s->s.name);
	for (const struct config_key *k = config_keys; k->name != NULL; k++)
		if (!k->global)
			k->how->kind->print(k, s, to);
	for (size_t i = 0; i < s->option_lines.n; i++)
		fprintf(to, "%s\n", s->option_lines.word[i]);
	if (s->s.uid == (uid_t)-1 && s->s.gid == (gid_t)-1 && s->s.n_groups == 0)
		return;
	fputs("#", to);
	if (s->s.uid != (uid_t)-1)
		fprintf(to, " uid %u", (unsigned)s->s.uid);
	if (s->s.gid != (gid_t)-1)
		fprintf(to, " gid %u", (unsigned)s->s.gid);
	for (size_t i = 0; i < s->s.n_groups; i++)
		fprintf(to, "%s %u", i == 0 ? " groups" : "", (unsigned)s->s.groups[i]);
	fputc('\n', to);
}

int config_print(const struct config *c, FILE *to)
{
	fputs("[harkd]\n", to);
	for (const struct config_key *k = config_keys; k->name != NULL; k++)
		if (k->global)
			k->how->kind->print(k, c, to);
	for (size_t i = 0; i < c->n_services; i++)
		fprintf(to, "\n%s", c->services[i]->text);
	errno = 0;
	if (fflush(to) != 0 || ferror(to))
		return errno != 0 ? -errno : -EIO;
	return 0;
}
