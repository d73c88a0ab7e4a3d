/* serve_help.c — see serve_help.h. */
#include "serve_help.h"

#define HELP_COLUMN 29

/* What precedes the help, then spaces up to its column. */
static void list_option(FILE *to, const struct hark_option *o)
{
	int n = fprintf(to, "      [--%s%s%s%s]", o->name,
	                o->value == NULL   ? ""
	                : o->alone != NULL ? "[="
	                                   : " ",
	                o->value != NULL ? o->value : "", o->value != NULL && o->alone != NULL ? "]" : "");

	fprintf(to, "%*s%s", n < HELP_COLUMN ? HELP_COLUMN - n : 1, "", o->help);
	fprintf(to, o->standard != NULL && o->kind != HARK_OPTION_FLAG ? " (%s)\n" : "\n", o->standard);
}

static void list_options(FILE *to, const struct hark_box_row *b)
{
	for (const struct hark_option *o = b->options; o != NULL && o->name != NULL; o++)
		if (o->help != NULL)
			list_option(to, o);
}

void serve_help_boxes(FILE *to)
{
	fputs("\nBoxes:\n", to);
	for (const struct hark_box_row *const *b = boxes; *b != NULL; b++) {
		fprintf(to, "  %-10s %s\n", (*b)->name, (*b)->summary);
		if ((*b)->usage != NULL)
			fprintf(to, "      %s\n", (*b)->usage);
		list_options(to, *b);
	}
}

void serve_help_box(const struct hark_box_row *b, const char *name, FILE *to)
{
	bool any = b->options != NULL && b->options->name != NULL;

	fprintf(to, "usage: hark serve [OPTION]... ADDRESS... %s%s%s%s\n%s.\n", name, any ? " [BOX OPTION]..." : "",
	        b->usage != NULL ? " " : "", b->usage != NULL ? b->usage : "", b->summary);
	if (!any)
		return;
	fputs("\nBox options, which are keys in hark.conf, with '_' for '-':\n", to);
	list_options(to, b);
}
