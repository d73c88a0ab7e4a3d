/* daytime.c — date and time as a line of text. RFC 867, which leaves its form open.
 *
 * By default ISO 8601 in UTC, "2026-11-21T12:34:56Z"; with --nist the line of the NIST service, which many clients
 * know:
 *
 *   JJJJJ YY-MM-DD HH:MM:SS TT L H msADV UTC(NIST) OTM
 *
 * the modified Julian date; UTC; TT 00, as we do not follow American summer time; L 1 or 2 where the kernel will
 * insert or delete a leap second; H 0, or 1 where the kernel's clock is not synchronised (adjtimex(2)); msADV 0.0, as
 * we do not advance the time to make up for the network's delay; and '*', the on-time mark. Any datagram is
 * answered, at a rate (reply.h). */
#include "reply.h"
#include "table.h"

#include <stdio.h>
#include <string.h>
#include <sys/timex.h>
#include <time.h>

#define MJD_1970 40587 /* the modified Julian date of 1970-01-01 */
#define ISO_MAX  64    /* bytes of a line, with room for years to come */

struct daytime {
	struct reply_paced reply; /* first: a pointer to one is a pointer to the other */
	bool nist;
};

static int nist_line(char *buf, size_t cap, time_t now)
{
	struct tm utc;
	struct timex kernel = {0};
	if (gmtime_r(&now, &utc) == NULL)
		return 0;
	int state = adjtimex(&kernel);
	char date[32];
	(void)strftime(date, sizeof date, "%y-%m-%d %H:%M:%S", &utc);
	return snprintf(buf, cap, "%05lld %s 00 %d %d %5.1f UTC(NIST) *\r\n", MJD_1970 + (long long)now / 86400, date,
	                state == TIME_INS   ? 1
	                : state == TIME_DEL ? 2
	                                    : 0,
	                state == -1 || (kernel.status & STA_UNSYNC) != 0, 0.0);
}

/* Laid out once a second: that takes as long as a small system call. */
static int iso_line(char *buf, time_t now)
{
	static _Thread_local struct {
		time_t at;
		int n;
		char text[ISO_MAX];
	} last;
	struct tm utc;
	if (last.n == 0 || last.at != now) {
		if (gmtime_r(&now, &utc) == NULL)
			return 0;
		last.at = now;
		last.n = (int)strftime(last.text, sizeof last.text, "%Y-%m-%dT%H:%M:%SZ\r\n", &utc);
	}
	memcpy(buf, last.text, (size_t)last.n);
	return last.n;
}

static void daytime_serve(struct hark_conn *c, void *arg)
{
	struct daytime *d = arg;
	char line[80];
	struct timespec exact;
	(void)clock_gettime(CLOCK_REALTIME, &exact); /* cannot fail; time(2) is late by up to a tick */
	int n = d->nist ? nist_line(line, sizeof line, exact.tv_sec) : iso_line(line, exact.tv_sec);
	if (n > 0 && reply_now(c, &d->reply))
		(void)reply_write(c, line, (size_t)n);
}

static const struct hark_option options[] = {
	{"nist", HARK_OPTION_FLAG, offsetof(struct daytime, nist), .help = "the line of the NIST service"},
	REPLY_ANY_PORT,
	REPLY_ANSWERS,
	REPLY_LONGER_FORMER,
	{NULL},
};

const struct hark_box_row daytime_box = {
	.version = HARK_BOX_VERSION,
	.name = "daytime",
	.summary = "date and time in words, UTC (RFC 867)",
	.options = options,
	.state_bytes = sizeof(struct daytime),
	.stream = true,
	.datagram = true,
	.open = reply_paced_open,
	.serve = daytime_serve,
	.close = reply_paced_close,
};
