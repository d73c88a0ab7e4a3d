/* proxy.c — passes each connection on to another address, both directions at once.
 *
 * The box dials, then starts one fiber a direction in a scope and waits for both; the scope cannot end while either
 * still uses the box's variables. The end of the stream is passed on as a half-close, so a peer that ends its request
 * first still gets its answer. A failure cancels the other direction, and the client sees a cut, not an orderly end:
 * what it got may not be all. Any address will do on either side: this also turns TCP into a unix socket and back.
 *
 *   build/examples/proxy tcp://127.0.0.1:7080 tcp://127.0.0.1:7007 */
#include <stdio.h>

#include "hark.h"

struct passage {
	struct hark_conn *from, *to;
	struct hark_scope *scope;
	bool *broken;
};

static void pass(void *arg)
{
	struct passage *p = arg;

	if (hark_copy(p->from, p->to, NULL) < 0 || hark_shutdown(p->to, HARK_OUT) < 0) {
		*p->broken = true;
		hark_cancel(p->scope);
	}
}

/* The box; arg is the address to pass connections on to. */
static void proxy(struct hark_conn *client, void *arg)
{
	const char *address = arg;
	struct hark_why why;
	struct hark_dial_opts opts = {.deadline = hark_after(10 * HARK_S), .why = &why};
	struct hark_conn *upstream;
	struct hark_scope scope;
	bool broken = false;

	if (hark_dial(address, &opts, &upstream) < 0) {
		fprintf(stderr, "proxy: %s\n", why.text);
		return;
	}
	struct passage there = {client, upstream, &scope, &broken}, back = {upstream, client, &scope, &broken};
	hark_scope_open(&scope);
	if (hark_go(&scope, "there", pass, &there) < 0 || hark_go(&scope, "back", pass, &back) < 0)
		broken = true;
	else if (hark_join(&scope, HARK_FOREVER) < 0)
		broken = true;
	hark_scope_close(&scope);
	if (broken)
		hark_abort(upstream);
	else
		(void)hark_close(upstream);
}

int main(int argc, char *argv[])
{
	struct hark_why why = {"the service failed"};
	struct hark_listen_opts listening = {.why = &why};
	struct hark_serve_opts serving = {.why = &why};
	struct hark_listener *l;

	if (argc != 3) {
		fprintf(stderr, "usage: %s ADDRESS UPSTREAM-ADDRESS\n", argv[0]);
		return 100;
	}
	int rc = hark_listen(argv[1], &listening, &l);
	if (rc == 0)
		rc = hark_serve(&l, 1, proxy, argv[2], &serving);
	if (rc < 0)
		fprintf(stderr, "proxy: %s\n", why.text);
	return rc < 0;
}
