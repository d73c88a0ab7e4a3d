/* cmd_daytime.c — hark daytime: what time it is there, in the words of RFC 867. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "ask.h"
#include "options.h"
#include "tool.h"

#define DAYTIME_PORT "13" /* RFC 867 */

static const struct option_row options[] = {
	ASK_UDP_ROW, ASK_PORT_ROW(DAYTIME_PORT), ASK_TIMEOUT_ROW, ASK_TRIES_ROW, ASK_JSON_ROW, ASK_TLS_ROWS, {0},
};

static int show(struct ask *a, bool many)
{
	size_t len = a->len;

	while (len > 0 && strchr("\r\n", a->answer[len - 1]) != NULL)
		len--;
	if (len == 0)
		return ask_failed(a, -ENODATA, "ask %s: the answer is empty", a->address);
	if (!a->args->json) {
		ask_print_lines(a, many);
		return 0;
	}
	struct ask_json j;
	ask_json_begin(a, &j);
	json_put_bytes(&j.json, "daytime", a->answer, len);
	return ask_json_end(a, &j);
}

static int run(const struct verb *self, int argc, char *argv[])
{
	/* The service ignores what is in the datagram; a careful one answers with no more bytes than it was sent. */
	static const char question[128];
	static const struct ask_kind kind = {.question = question,
	                                     .question_len = sizeof question,
	                                     .port = DAYTIME_PORT,
	                                     .show = show};

	return ask_run(self, argc, argv, &kind);
}

const struct verb verb_daytime = {
	.name = "daytime",
	.summary = "Asks hosts for the time of day, in words (RFC 867)",
	.usage = "HOST...",
	.notes = "HOST is a host, host:port or a full address. All are asked at once and shown in order; exit code 1 "
		 "if any failed.\n",
	.options = options,
	.run = run,
};
