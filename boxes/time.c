/* time.c — the seconds since 1900 in UTC, four bytes, high byte first. RFC 868; it wraps in February 2036.
 *
 * The server speaks at once, whatever the peer says. Any datagram is answered, at a rate (reply.h). */
#include "reply.h"
#include "table.h"

#include <arpa/inet.h>
#include <time.h>

#define SECONDS_1900_TO_1970 2208988800u /* RFC 868 */

/* Not time(2): it reads the clock of the last tick, and so is still in the second before for some milliseconds. */
static void time_serve(struct hark_conn *c, void *arg)
{
	struct timespec now;
	(void)clock_gettime(CLOCK_REALTIME, &now); /* cannot fail */
	uint32_t answer = htonl((uint32_t)now.tv_sec + SECONDS_1900_TO_1970);
	if (reply_now(c, arg))
		(void)reply_write(c, &answer, sizeof answer);
}

const struct hark_box_row time_box = {
	.version = HARK_BOX_VERSION,
	.name = "time",
	.summary = "the seconds since 1900, 4 bytes (RFC 868)",
	.options = reply_paced_options,
	.state_bytes = sizeof(struct reply_paced),
	.stream = true,
	.datagram = true,
	.open = reply_paced_open,
	.serve = time_serve,
	.close = reply_paced_close,
};
