/* listen.c — hark call -l: the peer calls, and this end answers with standard input and output.
 *
 * One connection at a time, as there is one standard input: others wait in the backlog. Over UDP the first datagram's
 * sender is the peer, and has a socket of its own from then on. */
#include <errno.h>

#include "call.h"

/* Of this process, not of one datagram's sender. */
static bool is_shortage(int err)
{
	return err == -EMFILE || err == -ENFILE || err == -ENOMEM || err == -ENOBUFS;
}

/* A datagram's sender that has a connection here already gets its datagram there. One that cannot be answered, since
 * its address is forged or there is no way to it, is nobody's call. */
static int accept_one(struct call *c, struct hark_listener *l)
{
	int64_t deadline = c->args.timeout > 0 ? hark_after(c->args.timeout) : HARK_FOREVER;

	for (;;) {
		int err = hark_accept(l, deadline, &c->peer);
		if (err < 0)
			return err;
		if (hark_type(c->peer) == SOCK_STREAM)
			return 0;
		err = hark_udp_connect(c->peer);
		if (err == 0)
			return 0;
		hark_abort(c->peer);
		c->peer = NULL;
		if (is_shortage(err))
			return err;
	}
}

static int serve(struct call *c, struct hark_listener **l, const char *address)
{
	do {
		int err = accept_one(c, *l);
		if (err == -ETIMEDOUT) {
			report_error(c, "%s: nobody has called (--timeout)", address);
			return STATUS_FAILED;
		}
		if (err < 0) {
			report_error(c, "accept %s: %s", address, hark_strerror(err));
			return STATUS_FAILED;
		}
		if (!c->args.keep_open) {
			hark_listener_close(*l); /* who calls now is refused, instead of waiting in vain */
			*l = NULL;
		}
		(void)hark_peer(c->peer, c->address, sizeof c->address); /* what goes wrong now is its */
		report_open(c);
		c->status = STATUS_DONE;
		c->error = 0;
		call_carry(c);
	} while (c->args.keep_open && !c->out_failed);
	return c->status;
}

int call_listen(struct call *c)
{
	struct hark_listener *l;
	struct hark_why why = {""};
	const struct hark_listen_opts opts = {.why = &why, .backlog = c->args.keep_open ? 0 : 1};
	char address[HARK_ADDRESS_MAX] = "";

	if (c->parsed.scheme == HARK_UNIXGRAM) {
		report_error(c, "%s: a unix datagram socket has no single peer to answer: hark serve %s message",
		             c->address, c->address);
		return STATUS_USAGE;
	}
	int err = hark_listen(c->address, &opts, &l);
	if (err < 0) {
		if (why.text[0] != '\0')
			report_error(c, "%s", why.text);
		else
			report_error(c, "listen %s: %s", c->address, hark_strerror(err));
		return err == -EINVAL ? STATUS_USAGE : STATUS_FAILED;
	}
	(void)hark_listener_address(l, address, sizeof address);
	report_listening(c, address);
	int status = serve(c, &l, address);
	hark_listener_close(l);
	return status;
}
