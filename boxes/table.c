/* table.c — every box by name, and the steps of its row with what they have in common. Any thread, one a state. */
#include "table.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "options.h"

const struct hark_box_row *const boxes[] = {
	&echo_box,     &discard_box, &chargen_box, &daytime_box, &time_box,   &qotd_box, &users_box,
	&loggedin_box, &message_box, &exec_box,    &relay_box,   &tcpmux_box, NULL,
};

bool box_trial;

const struct hark_box_row *box_find(const char *name)
{
	for (const struct hark_box_row *const *b = boxes; *b != NULL; b++)
		if (strcmp((*b)->name, name) == 0)
			return *b;
	return NULL;
}

void *box_new(const struct hark_box_row *b)
{
	void *state = calloc(1, b->state_bytes > 0 ? b->state_bytes : 1);
	for (const struct hark_option *o = b->options; state != NULL && o != NULL && o->name != NULL; o++)
		if (o->standard != NULL)
			(void)box_option_set(o, o->standard, state, NULL);
	return state;
}

int box_operands(const struct hark_box_row *b, int argc, char *const argv[], void *state, struct hark_why *why)
{
	if (b->parse != NULL)
		return b->parse(state, argc, argv, why);
	return argc == 0 ? 0 : box_why(why, -EINVAL, "unexpected argument: %s", argv[0]);
}

int box_parse(const struct hark_box_row *b, int argc, char *const argv[], void **state, struct hark_why *why)
{
	void *s = box_new(b);
	if (s == NULL)
		return box_why(why, -ENOMEM, "out of memory");
	int r = box_options(b, argc, argv, s, NULL, why);
	if (r >= 0)
		r = box_operands(b, argc - r, argv + r, s, why);
	if (r < 0) {
		box_free(b, s);
		s = NULL;
	}
	*state = s;
	return r;
}

int box_prepare(const struct hark_box_row *b, void *state, struct hark_why *why)
{
	return b->prepare != NULL ? b->prepare(state, why) : 0;
}

int box_open(const struct hark_box_row *b, void *state, struct hark_why *why)
{
	return b->open != NULL ? b->open(state, why) : 0;
}

void box_free(const struct hark_box_row *b, void *state)
{
	if (state != NULL && b->close != NULL)
		b->close(state);
	free(state);
}

bool box_takes(const struct hark_box_row *b, const void *state, int type)
{
	if (b->takes != NULL)
		return b->takes(state, type);
	return type == SOCK_STREAM ? b->stream : b->datagram;
}

const char *box_title(const struct hark_box_row *b, const void *state)
{
	const char *title = b->title != NULL ? b->title(state) : NULL;
	return title != NULL ? title : b->name;
}

const char *box_target(const struct hark_box_row *b, const void *state, const struct hark_conn *c)
{
	return b->target != NULL ? b->target(state, c) : NULL;
}

const char *box_failure(const struct hark_box_row *b, const void *state, const struct hark_conn *c)
{
	return b->failure != NULL ? b->failure(state, c) : NULL;
}
