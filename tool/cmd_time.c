/* cmd_time.c — hark time: how far each host's clock is from ours, by RFC 868. */
#include <arpa/inet.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "ask.h"
#include "options.h"
#include "tool.h"

#define TIME_PORT  "37"                /* RFC 868 */
#define UNIX_EPOCH INT64_C(2208988800) /* seconds from 1900, where RFC 868 begins, to 1970 */
#define ERA        (INT64_C(1) << 32)  /* seconds after which its 32 bits begin again: first in 2036 */

static const struct option_row options[] = {
	ASK_UDP_ROW, ASK_PORT_ROW(TIME_PORT), ASK_TIMEOUT_ROW, ASK_TRIES_ROW, ASK_JSON_ROW, ASK_TLS_ROWS, {0},
};

/* Of all the moments that these 32 bits stand for, the one nearest to now. */
static int64_t unwrap(uint32_t seconds, int64_t now)
{
	int64_t t = (int64_t)seconds - UNIX_EPOCH;

	while (t - now < -ERA / 2)
		t += ERA;
	while (t - now > ERA / 2)
		t -= ERA;
	return t;
}

/* The host read its clock at some moment of the round trip, taken for its middle, and told whole seconds, taken for
 * their middle: so the difference is known to half the round trip and half a second. */
static int show(struct ask *a, bool many)
{
	uint32_t raw;

	if (a->len != sizeof raw) /* of a stream no more than 5 are read */
		return ask_failed(a, -EBADMSG, "read %s: %s%zu bytes where RFC 868 has 4", a->address,
		                  a->len == sizeof raw + 1 ? "at least " : "", a->len);
	memcpy(&raw, a->answer, sizeof raw);
	int64_t theirs = unwrap(ntohl(raw), a->answered.tv_sec);
	double round_trip = (double)(a->answered_ns - a->sent_ns) / 1e9;
	double ours = (double)a->answered.tv_nsec / 1e9 - round_trip / 2;
	double offset = (double)(theirs - a->answered.tv_sec) + 0.5 - ours;
	double uncertain = round_trip / 2 + 0.5;
	char stamp[64];
	struct tm tm;
	time_t t = (time_t)theirs;
	if (gmtime_r(&t, &tm) == NULL || strftime(stamp, sizeof stamp, "%Y-%m-%d %H:%M:%S", &tm) == 0)
		return ask_failed(a, -ERANGE, "read %s: a time beyond all calendars", a->address);
	if (a->args->json) {
		struct ask_json j;
		ask_json_begin(a, &j);
		json_put_int(&j.json, "time", theirs);
		json_put_real(&j.json, "offset_s", offset, 6);
		json_put_real(&j.json, "uncertainty_s", uncertain, 6);
		return ask_json_end(a, &j);
	}
	printf("%s%s%s UTC, ", many ? a->host : "", many ? ": " : "", stamp);
	if (fabs(offset) <= uncertain)
		printf("the same as ours within the error (+-%.3f s)\n", uncertain);
	else
		printf("%.3f s %s ours (+-%.3f s)\n", fabs(offset), offset < 0 ? "behind" : "ahead of", uncertain);
	return 0;
}

static int run(const struct verb *self, int argc, char *argv[])
{
	static const char question[4]; /* RFC 868: empty. But a careful service answers with no more than it was sent */
	static const struct ask_kind kind = {
		.question = question,
		.question_len = sizeof question,
		.stream_answer_len = 4, /* RFC 868 has the client close first: a server may wait for that */
		.port = TIME_PORT,
		.show = show,
	};

	return ask_run(self, argc, argv, &kind);
}

const struct verb verb_time = {
	.name = "time",
	.summary = "Tells how far the clocks of hosts are from ours (RFC 868)",
	.usage = "HOST...",
	.notes = "HOST is a host, host:port or a full address. All are asked at once and shown in order; exit code 1 "
		 "if any failed.\n"
		 "The protocol tells whole seconds: half a second and half the round trip is how well the difference "
		 "is known.\n",
	.options = options,
	.run = run,
};
