/* cmd_command.c — hark reload, stop, start, drain, upgrade: the operator's commands to a running harkd. They differ in
 * a word and in what is said when harkd has obeyed. Main thread. */
#include <string.h>

#include "control.h"
#include "hark.h"
#include "options.h"
#include "tool.h"

/* A reload checks every service's user and program, an upgrade starts the new binary, before they are answered. */
#define TIMEOUT_DEFAULT (60 * HARK_S)

struct args {
	struct control_args control; /* first: the rows' offsets */
	bool dry_run, force, no_wait;
	const char *service; /* the operand; NULL: there is none */
};

#define COMMON_ROWS CONTROL_PATH_ROW, CONTROL_TIMEOUT_ROW("1m"), CONTROL_JSON_ROW

static const struct option_row options[] = {COMMON_ROWS, {0}};

static const struct option_row reload_options[] = {
	{"dry-run", 'n', OPTION_FLAG, NULL, "say what would change, and change nothing",
         offsetof(struct args, dry_run)},
	{"force", 0, OPTION_FLAG, NULL, "be it to no services at all", offsetof(struct args, force)},
	COMMON_ROWS,
	{0},
};

static const struct option_row upgrade_options[] = {
	{"no-wait", 0, OPTION_FLAG, NULL, "do not wait for the outcome", offsetof(struct args, no_wait)},
	COMMON_ROWS,
	{0},
};

/* What a reload would change: each service, and its lines that differ. */
static void tell_changes(const json_t *answer)
{
	const json_t *services = json_object_get(answer, "services"), *s, *line;
	char name[80], change[20], text[400];

	for (size_t i = 0; (s = json_array_get(services, i)) != NULL; i++) {
		printf("[%s] %s\n", control_string(s, "name", name, sizeof name),
		       control_string(s, "change", change, sizeof change));
		for (size_t k = 0; (line = json_array_get(json_object_get(s, "lines"), k)) != NULL; k++)
			if (json_is_string(line))
				printf("  %s\n", control_clean(json_string_value(line), text, sizeof text));
	}
}

static void tell_warnings(const struct verb *v, const json_t *answer)
{
	const json_t *lines = json_object_get(answer, "warnings"), *line;
	char text[400];

	for (size_t i = 0; (line = json_array_get(lines, i)) != NULL; i++)
		if (json_is_string(line))
			say(v, "warning: %s", control_clean(json_string_value(line), text, sizeof text));
}

static void tell_reload(const struct verb *v, const json_t *answer, bool dry_run)
{
	tell_warnings(v, answer);
	if (dry_run)
		tell_changes(answer);
	printf("%s: %lld added, %lld changed, %lld removed, %lld unchanged\n", dry_run ? "would be" : "reloaded",
	       (long long)control_count(answer, "added"), (long long)control_count(answer, "changed"),
	       (long long)control_count(answer, "removed"), (long long)control_count(answer, "unchanged"));
}

static void tell(const struct control *c, const json_t *answer, const void *arg)
{
	const struct args *args = arg;
	const char *name = c->verb->name;

	if (strcmp(name, "reload") == 0)
		tell_reload(c->verb, answer, args->dry_run);
	else if (strcmp(name, "stop") == 0)
		printf("%s stops: what is busy may finish\n", args->service);
	else if (strcmp(name, "start") == 0)
		printf("%s starts\n", args->service);
	else if (strcmp(name, "drain") == 0)
		puts("harkd drains: what is busy may finish, then it ends");
	else if (args->no_wait)
		puts("the upgrade has begun");
	else
		printf("upgraded: generation %lld serves, process %lld\n",
		       (long long)control_count(answer, "generation"), (long long)control_count(answer, "pid"));
}

static int run(const struct verb *self, int argc, char *argv[])
{
	struct args args = {.control = {.timeout = TIMEOUT_DEFAULT}};
	struct control c;
	int status;
	int n = options_parse(self, argc, argv, &args, &status);
	int wanted = self->usage[0] != '\0';

	if (n < 0)
		return status;
	if (n < wanted)
		return options_usage(self, "no service is named");
	if (n > wanted)
		return options_usage(self, wanted > 0 ? "one service at a time" : "nothing is expected after it");
	args.service = wanted > 0 ? argv[0] : NULL;
	if (args.dry_run && args.force)
		return options_usage(self, "either --dry-run or --force, not both");
	const char *how = args.dry_run ? "dry-run" : args.force ? "force" : NULL;
	if (strcmp(self->name, "upgrade") == 0 && !args.no_wait)
		how = "wait";
	if ((status = control_init(&c, self, &args.control, how != NULL ? how : args.service)) != STATUS_DONE)
		return status;
	return control_run(&c, tell, &args);
}

const struct verb verb_reload = {
	.name = "reload",
	.summary = "Has harkd read its configuration again and act on what has changed",
	.usage = "",
	.notes = "The same as SIGHUP, and tells what came of it. A configuration with mistakes changes nothing, and a\n"
		 "service whose new workers cannot start goes on as it was: each is told, and the status is 1.\n",
	.options = reload_options,
	.run = run,
};

const struct verb verb_stop = {
	.name = "stop",
	.summary = "Has harkd stop a service until it is started again",
	.usage = "SERVICE",
	.notes = "Its connections may finish within the service's grace; no others are taken.\n",
	.options = options,
	.run = run,
};

const struct verb verb_start = {
	.name = "start",
	.summary = "Has harkd start a service that was stopped",
	.usage = "SERVICE",
	.options = options,
	.run = run,
};

const struct verb verb_drain = {
	.name = "drain",
	.summary = "Has harkd take no more connections, finish those it has, and end",
	.usage = "",
	.notes = "The same as SIGTERM. The answer comes at once; hark status tells how far it is.\n",
	.options = options,
	.run = run,
};

const struct verb verb_upgrade = {
	.name = "upgrade",
	.summary = "Has harkd hand its sockets to a new harkd of the binary that is there now",
	.usage = "",
	.notes = "The same as SIGUSR2, and waits for the outcome. If the new one does not start, or dies at once, the "
		 "old\n"
		 "one goes on serving: why is told, and the status is 1.\n",
	.options = upgrade_options,
	.run = run,
};
