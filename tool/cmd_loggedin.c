/* cmd_loggedin.c — hark loggedin: whether a user is logged in on a host; of several hosts, as the first that answers
 * has it.
 *
 * Speaks to the box loggedin: the name in, "yes" or "no" out, by datagram unless the address says otherwise. No RFC
 * has this service and so no port is registered for it: LOGGEDIN_PORT is hark's own choice. Main thread, one host
 * after another. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "ask.h"
#include "options.h"
#include "tool.h"

#define LOGGEDIN_PORT "1313"
#define USER_MAX      255 /* bytes; far more than any login name has */

static const struct option_row options[] = {
	{"port", 'p', OPTION_TEXT, "PORT", "port or service, where HOST names none (" LOGGEDIN_PORT ")", ASK_AT(port)},
	ASK_TIMEOUT_ROW,
	ASK_TRIES_ROW,
	ASK_JSON_ROW,
	ASK_TLS_ROWS,
	{0},
};

/* Exit codes beside the common ones: a script can ask "if hark loggedin alice host". */
enum {
	STATUS_LOGGED_IN = STATUS_DONE,
	STATUS_NOT_LOGGED_IN = STATUS_FAILED,
	STATUS_NO_ANSWER = STATUS_SYSTEM,
};

static bool is_user_name(const char *user)
{
	size_t len = strlen(user);

	if (len == 0 || len > USER_MAX)
		return false;
	for (size_t i = 0; i < len; i++)
		if ((unsigned char)user[i] <= ' ' || user[i] == 0x7f)
			return false;
	return true;
}

/* Returns the exit code, or STATUS_NO_ANSWER with a->why. */
static int judge(struct ask *a)
{
	size_t len = strcspn(a->answer, "\r\n");

	if (a->error != 0)
		return STATUS_NO_ANSWER;
	if (len == 3 && memcmp(a->answer, "yes", 3) == 0)
		return STATUS_LOGGED_IN;
	if (len == 2 && memcmp(a->answer, "no", 2) == 0)
		return STATUS_NOT_LOGGED_IN;
	(void)ask_failed(a, -EBADMSG, "ask %s: the answer is neither yes nor no", a->address);
	return STATUS_NO_ANSWER;
}

static int show(struct ask *a, const char *user, bool yes)
{
	struct ask_json j;

	if (!a->args->json) {
		printf("%s is %slogged in on %s\n", user, yes ? "" : "not ", a->host);
		return 0;
	}
	ask_json_begin(a, &j);
	json_put_string(&j.json, "user", user);
	json_put_bool(&j.json, "logged_in", yes);
	return ask_json_end(a, &j);
}

static int ask_in_turn(const struct verb *self, struct ask asks[], int n, const char *user)
{
	char question[USER_MAX + 8];
	/* White space does not count there; with it, even the shortest name makes room for "yes" and a line's end:
	 * the answer to a datagram is no longer than the datagram. */
	int len = snprintf(question, sizeof question, "%-3s\r\n", user);

	for (int i = 0; i < n; i++) {
		asks[i].question = question;
		asks[i].question_len = asks[i].stream_question_len = (size_t)len;
		ask(&asks[i]);
		int status = judge(&asks[i]);
		if (status != STATUS_NO_ANSWER && show(&asks[i], user, status == STATUS_LOGGED_IN) == 0)
			return status;
		say(self, "%s", asks[i].why.text);
	}
	return STATUS_NO_ANSWER;
}

static int run(const struct verb *self, int argc, char *argv[])
{
	struct ask_args args = ASK_DEFAULTS;
	int status;
	int n = options_parse(self, argc, argv, &args, &status);

	if (n < 0)
		return status;
	if (n < 2)
		return options_usage(self, n == 0 ? "no user and no host to ask" : "no host to ask");
	if (!is_user_name(argv[0]))
		return options_usage(self, "a user name has 1 to 255 bytes, none of them white space");
	struct ask *asks = ask_new(self, &args, n - 1, argv + 1, "udp", LOGGEDIN_PORT, &status);
	if (asks == NULL)
		return status;
	status = ask_in_turn(self, asks, n - 1, argv[0]);
	ask_free(asks);
	return status;
}

const struct verb verb_loggedin = {
	.name = "loggedin",
	.summary = "Asks hosts, one after another until one answers, whether a user is logged in",
	.usage = "USER HOST...",
	.notes = "HOST is a host, host:port or a full address; udp unless it says otherwise. Exit code 0: logged in; "
		 "1: not; 111: no\n"
		 "host answered.\n",
	.options = options,
	.run = run,
};
