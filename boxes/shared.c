/* shared.c — a shared object that is a box: it exports a row, hark_box_row, and is loaded into the process that serves.
 *
 * What it is can be told once it is loaded, and it is loaded by the service's user alone: its initialisers are foreign
 * code. Until then shared_box stands in its row's place: it can serve anything and has no options that we know. It is
 * never unloaded. Main thread of that process. */
#include <dlfcn.h>
#include <errno.h>
#include <string.h>

#include "options.h"
#include "table.h"

static void serve_nothing(struct hark_conn *c, void *arg)
{
	(void)arg;
	hark_outcome(c, 0, -ENOSYS); /* nobody starts a stand-in */
}

const struct hark_box_row shared_box = {
	.version = HARK_BOX_VERSION,
	.name = "shared object",
	.summary = "a box of one's own: hark-box(7)",
	.usage = "[ARGUMENT...]",
	.stream = true,
	.datagram = true,
	.serve = serve_nothing,
};

bool box_is_path(const char *name)
{
	return strchr(name, '/') != NULL;
}

/* Whether it is of a kind that we know, and its value lies in the state. */
static bool is_option(const struct hark_option *o, size_t state_bytes)
{
	static const size_t bytes[] = {
		[HARK_OPTION_FLAG] = sizeof(bool),
		[HARK_OPTION_TEXT] = sizeof(char *),
		[HARK_OPTION_PATH] = sizeof(char *),
		[HARK_OPTION_NUMBER] = sizeof(int64_t),
		[HARK_OPTION_SIZE] = sizeof(int64_t),
		[HARK_OPTION_DURATION] = sizeof(int64_t),
		[HARK_OPTION_DURATIONS] = sizeof(int64_t[2]),
		[HARK_OPTION_CHOICE] = sizeof(int),
	};
	if (o->kind < HARK_OPTION_FLAG || o->kind > HARK_OPTION_CHOICE ||
	    (o->kind == HARK_OPTION_CHOICE && (o->choices == NULL || o->value == NULL)))
		return false;
	return o->at <= state_bytes && state_bytes - o->at >= bytes[o->kind];
}

/* Why the row cannot be one of ours; NULL: it can. */
static const char *wrong_row(const struct hark_box_row *b)
{
	size_t n = 0;
	if (b->name == NULL || b->summary == NULL)
		return "its row has no name or no summary";
	if (b->serve == NULL)
		return "its row has no serve()";
	if (!b->stream && !b->datagram && b->takes == NULL)
		return "its row serves neither streams nor datagrams";
	for (const struct hark_option *o = b->options; o != NULL && o->name != NULL; o++)
		if (++n > HARK_BOX_OPTIONS_MAX || !is_option(o, b->state_bytes))
			return "its options are not such as this version knows";
	return NULL;
}

int box_load(const char *path, const struct hark_box_row **out, struct hark_why *why)
{
	void *object = dlopen(path, RTLD_NOW | RTLD_LOCAL);
	if (object == NULL) {
		const char *said = dlerror();
		return box_why(why, -ENOEXEC, "cannot load %s", said != NULL ? said : path);
	}
	const struct hark_box_row *b = dlsym(object, "hark_box_row");
	if (b == NULL)
		return box_why(why, -ENOEXEC, "%s: no box: it exports no hark_box_row", path);
	if (b->version != HARK_BOX_VERSION)
		return box_why(why, -EPROTO, "%s: a box of version %u; this is version %u", path, b->version,
		               HARK_BOX_VERSION);
	const char *wrong = wrong_row(b);
	if (wrong != NULL)
		return box_why(why, -EINVAL, "%s: %s", path, wrong);
	*out = b;
	return 0;
}
