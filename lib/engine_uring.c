/* engine_uring.c — placeholder until the io_uring engine lands: not available. */
#include <errno.h>

#include "engine.h"

static int open_uring(struct hark__engine **out)
{
	(void)out;
	return -ENOSYS;
}

const struct hark__engine_ops hark__engine_uring = {.name = "uring", .open = open_uring};
