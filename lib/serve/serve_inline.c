/* serve_inline.c — the iterative server: the accepting worker serves each connection itself, one after the other.
 *
 * The box is called in the acceptor's own callback, with the loop put aside, so that its calls wait in poll(2). A loop
 * that the box makes for fibers of its own ends with its scope. The sockets are closed at once when a drain begins or
 * the process retires, though the box still runs: in its next wait. */
#include "serve/serve_drain.h"
#include "serve/serve_life.h"

static void interrupted(struct hark__interrupt *i)
{
	hark__server_close_sockets(hark__container(i, struct hark__server, interrupt));
}

static int start(struct hark__server *s, struct hark_conn *c)
{
	struct hark__loop *l = hark__loop_suspend();
	s->interrupt.run = interrupted;
	struct hark__interrupt *before = hark__wait_interrupt_by(&s->interrupt);
	hark__wait_served(true);
	hark__server_run(s, c);
	hark__wait_served(false);
	(void)hark__wait_interrupt_by(before);
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

const struct hark__model hark__model_inline = {.start = start, .cut = cut};
