/* discard.c — reads everything, answers nothing. RFC 863. A datagram is discarded by not looking at it. */
#include "table.h"

static void discard_serve(struct hark_conn *c, void *arg)
{
	char buf[16384];
	(void)arg;
	if (hark_type(c) == SOCK_DGRAM)
		return;
	while (hark_idle(c) > 0 && hark_read(c, buf, sizeof buf) > 0)
		;
}

const struct hark_box_row discard_box = {
	.version = HARK_BOX_VERSION,
	.name = "discard",
	.summary = "reads everything, answers nothing (RFC 863)",
	.stream = true,
	.datagram = true,
	.client_first = true,
	.serve = discard_serve,
};
