/* cmd_users.c — hark users: who is logged in there, by RFC 866. */
#include <stdlib.h>
#include <string.h>

#include "ask.h"
#include "options.h"
#include "tool.h"

#define USERS_PORT "11" /* RFC 866 */

static const struct option_row options[] = {
	ASK_UDP_ROW, ASK_PORT_ROW(USERS_PORT), ASK_TIMEOUT_ROW, ASK_TRIES_ROW, ASK_JSON_ROW, ASK_TLS_ROWS, {0},
};

static int show_json(struct ask *a)
{
	const char *at = a->answer, *end = a->answer + a->len;
	struct ask_json j;

	ask_json_begin(a, &j);
	json_open(&j.json, "users", '[');
	while (at < end) {
		size_t len = strcspn(at, "\r\n");
		if (len > (size_t)(end - at))
			len = (size_t)(end - at);
		if (len > 0)
			json_put_bytes(&j.json, NULL, at, len);
		at += len + 1; /* a NUL byte ends an item as well: names hold none */
	}
	json_close(&j.json, ']');
	return ask_json_end(a, &j);
}

static int show(struct ask *a, bool many)
{
	if (a->args->json)
		return show_json(a);
	ask_print_lines(a, many);
	return 0;
}

static int run(const struct verb *self, int argc, char *argv[])
{
	/* Ignored by the service; a careful one answers with no more bytes than it was sent. */
	static const char question[1400];
	static const struct ask_kind kind = {
		.question = question,
		.question_len = sizeof question,
		.may_be_empty = true, /* nobody is logged in: no lines */
		.port = USERS_PORT,
		.show = show,
	};

	return ask_run(self, argc, argv, &kind);
}

const struct verb verb_users = {
	.name = "users",
	.summary = "Asks hosts who is logged in there (RFC 866)",
	.usage = "HOST...",
	.notes = "HOST is a host, host:port or a full address. All are asked at once and shown in order; exit code 1 "
		 "if any failed.\n",
	.options = options,
	.run = run,
};
