/* cmd_command.c — hark reload, stop, start, drain, upgrade: the operator's commands to a running harkd. They differ in
 * a word and in what is said when harkd has obeyed. Main thread. */
#include <string.h>

#include "control.h"
#include "hark.h"
#include "options.h"
#include "tool.h"

/* A reload checks every service's user and program, an upgrade starts the new binary, before they are answered. */
#define TIMEOUT_DEFAULT (60 * HARK_S)

static const struct option_row options[] = {
	CONTROL_PATH_ROW,
	CONTROL_TIMEOUT_ROW("1m"),
	CONTROL_JSON_ROW,
	{0},
};

static void tell(const struct verb *self, const char *service, const json_t *answer)
{
	if (strcmp(self->name, "reload") == 0)
		printf("reloaded: %lld added, %lld changed, %lld removed, %lld unchanged\n",
		       (long long)control_count(answer, "added"), (long long)control_count(answer, "changed"),
		       (long long)control_count(answer, "removed"), (long long)control_count(answer, "unchanged"));
	else if (strcmp(self->name, "stop") == 0)
		printf("%s stops: what is busy may finish\n", service);
	else if (strcmp(self->name, "start") == 0)
		printf("%s starts\n", service);
	else if (strcmp(self->name, "drain") == 0)
		puts("harkd drains: what is busy may finish, then it ends");
	else
		puts("the upgrade has begun");
}

static int ask(const struct control *c, const char *service)
{
	struct control_answer answer;
	struct hark_why why = {""};

	if (control_ask(c, &answer, &why) < 0) {
		say(c->verb, "%s", why.text);
		return STATUS_SYSTEM;
	}
	int status = answer.ok ? STATUS_DONE : STATUS_FAILED;
	if (c->args->json)
		puts(answer.line);
	else if (answer.ok)
		tell(c->verb, service, answer.json);
	if (!answer.ok)
		control_tell_refusal(c->verb, &answer);
	control_answer_free(&answer);
	return status;
}

static int run(const struct verb *self, int argc, char *argv[])
{
	struct control_args args = {.timeout = TIMEOUT_DEFAULT};
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
	const char *service = wanted > 0 ? argv[0] : NULL;
	if ((status = control_init(&c, self, &args, service)) != STATUS_DONE)
		return status;
	return ask(&c, service);
}

const struct verb verb_reload = {
	.name = "reload",
	.summary = "Has harkd read its configuration again and act on what has changed",
	.usage = "",
	.notes = "The same as SIGHUP, and tells what came of it. A configuration with mistakes changes nothing: each "
		 "is told.\n",
	.options = options,
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
	.notes = "The same as SIGUSR2. If the new one does not start, the old one goes on serving.\n",
	.options = options,
	.run = run,
};
