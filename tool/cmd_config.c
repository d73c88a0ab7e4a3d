/* cmd_config.c — hark config: what harkd would make of a configuration.
 *
 * Nothing is opened or started. The same checks as harkd's own, so that what passes here is taken there; run as root it
 * also tries each service's user. */
#include <stdlib.h>
#include <string.h>

#include "config.h"
#include "options.h"

#define DEFAULT_FILE "/etc/hark/hark.conf"

struct opts {
	bool check, keys;
};

#define AT(field) offsetof(struct opts, field)

static const struct option_row options[] = {
	{"check", 0, OPTION_FLAG, NULL, "only check: say nothing if all is well", AT(check)},
	{"keys", 0, OPTION_FLAG, NULL, "list the keys of hark.conf with their values and defaults", AT(keys)},
	{NULL},
};

static void print_keys(bool global)
{
	printf("# %s\n", global ? "[harkd]" : "a service, and [defaults]");
	for (const struct config_key *k = config_keys; k->name != NULL; k++)
		if (k->global == global)
			printf("%s = %s\n    %s%s%s%s\n", k->name, k->value, k->summary,
			       k->standard[0] != '\0' ? " (" : "", k->standard, k->standard[0] != '\0' ? ")" : "");
}

/* The options of a box, as the keys that they are in a service that has it. */
static void print_box_keys(const struct hark_box_row *b)
{
	if (b->options == NULL || b->options->name == NULL)
		return;
	printf("\n# a service of the box %s\n", b->name);
	for (const struct hark_option *o = b->options; o->name != NULL; o++) {
		const char *standard = o->standard != NULL ? o->standard : o->kind == HARK_OPTION_FLAG ? "no" : "";
		if (o->help == NULL)
			continue;
		for (const char *p = o->name; *p != '\0'; p++)
			putchar(*p == '-' ? '_' : *p);
		printf(" = %s\n    %s%s%s%s\n", o->value != NULL ? o->value : "yes|no", o->help,
		       standard[0] != '\0' ? " (" : "", standard, standard[0] != '\0' ? ")" : "");
	}
}

static void print_messages(const struct config *c)
{
	for (size_t i = 0; i < c->n_warnings; i++)
		fprintf(stderr, "warning: %s\n", c->warnings[i]);
	for (size_t i = 0; i < c->n_errors; i++)
		fprintf(stderr, "%s\n", c->errors[i]);
}

static int out_of_memory(const struct verb *v)
{
	say(v, "out of memory");
	return STATUS_SYSTEM;
}

static int check_and_print(const struct verb *v, struct config *c, bool print)
{
	int errors = config_check_system(c, true);

	if (errors < 0)
		return out_of_memory(v);
	print_messages(c);
	if (errors > 0)
		return STATUS_USAGE;
	int err = print ? config_print(c, stdout) : 0;
	if (err < 0)
		say(v, "standard output: %s", hark_strerror(err));
	return err < 0 ? STATUS_FAILED : STATUS_DONE;
}

static int run(const struct verb *self, int argc, char *argv[])
{
	struct opts o = {0};
	struct config *c;
	int status;
	int n = options_parse(self, argc, argv, &o, &status);

	if (n < 0)
		return status;
	if (n > 1 || (o.keys && n > 0))
		return options_usage(self, n > 1 ? "one file at a time" : "--keys takes no file");
	if (o.keys) {
		print_keys(true);
		putchar('\n');
		print_keys(false);
		for (const struct hark_box_row *const *b = boxes; *b != NULL; b++)
			print_box_keys(*b);
		return STATUS_DONE;
	}
	if (config_load(n > 0 ? argv[0] : DEFAULT_FILE, &c) < 0)
		return out_of_memory(self);
	status = check_and_print(self, c, !o.check);
	config_free(c);
	return status;
}

const struct verb verb_config = {
	.name = "config",
	.summary = "Checks a configuration of harkd and prints what is in effect",
	.usage = "[FILE]",
	.notes = "FILE is " DEFAULT_FILE " unless another is named. Errors, one a line with file and line, go to\n"
		 "standard error; the exit code is then 100. The format: hark.conf(5).\n",
	.options = options,
	.run = run,
};
