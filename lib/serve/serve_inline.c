/* serve_inline.c — the iterative server: the accepting worker serves each connection itself, one after the other.
 *
 * The box is called in the acceptor's own callback, with the loop put aside, so that its calls wait in poll(2). A loop
 * that the box makes for fibers of its own ends with its scope. */
#include "serve/serve_life.h"

static int start(struct hark__server *s, struct hark_conn *c)
{
	struct hark__loop *l = hark__loop_suspend();
	hark__wait_served(true);
	hark__server_run(s, c);
	hark__wait_served(false);
	hark__loop_resume(l);
	hark__server_finish(s, c);
	return 0;
}

/* While a box runs nobody calls this; its waits end by the drain's deadline themselves. */
static void cut(struct hark__server *s, int64_t late_ns)
{
	(void)late_ns;
	(void)s;
}

const struct hark__model hark__model_inline = {.start = start, .cut = cut, .gathers = true};
