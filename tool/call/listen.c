/* listen.c — hark call -l: the peer calls, and this end answers with standard input and output.
 *
 * One connection at a time, as there is one standard input: others wait in the backlog. Of datagrams the first one's
 * sender is the peer: over UDP it has a socket of its own from then on, over unixgram the listener's takes nobody
 * else's. */
#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "call.h"

/* Of this process, not of one datagram's sender. */
static bool is_shortage(int err)
{
	return err == -EMFILE || err == -ENFILE || err == -ENOMEM || err == -ENOBUFS;
}

/* Connects the socket to the next datagram's sender, who then is the only one to reach it; that of the call before is
 * left first. A sender without a name is heard, as are others, and cannot be answered. unix(7). */
static int accept_unixgram(struct hark_listener *l, int64_t deadline, struct hark_conn **peer)
{
	static const struct sockaddr nobody = {.sa_family = AF_UNSPEC};
	struct sockaddr_un from;
	socklen_t len;
	char byte;
	ssize_t n;
	int err, fd = hark_listener_fd(l);

	(void)connect(fd, &nobody, sizeof nobody);
	do {
		if ((err = hark_wait_fd(fd, HARK_IN, deadline)) < 0)
			return err;
		len = sizeof from;
		n = recvfrom(fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT, (struct sockaddr *)&from, &len);
	} while (n < 0 && (errno == EAGAIN || errno == EINTR));
	if (n < 0)
		return -errno;
	if (len > sizeof from.sun_family)
		(void)connect(fd, (struct sockaddr *)&from, len); /* who has gone by now is heard all the same */
	fd = fcntl(fd, F_DUPFD_CLOEXEC, 3);
	return fd < 0 ? -errno : hark_conn_from_fd(fd, peer);
}

/* A datagram's sender that has a connection here already gets its datagram there. One that cannot be answered, since
 * its address is forged or there is no way to it, is nobody's call. */
static int accept_one(struct call *c, struct hark_listener *l)
{
	int64_t deadline = c->args.connect_timeout > 0 ? hark_after(c->args.connect_timeout) : HARK_FOREVER;

	if (c->parsed.scheme == HARK_UNIXGRAM)
		return accept_unixgram(l, deadline, &c->peer);
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

/* What goes wrong from now on is the peer's. Returns the exit code. */
static int begin(struct call *c)
{
	int64_t handshake_ns = c->args.connect_timeout;

	(void)hark_peer(c->peer, c->address, sizeof c->address);
	if (c->tls)
		tls_rename(c->address);
	report_open(c);
	return c->tls ? call_begin_tls(c, handshake_ns > 0 ? hark_after(handshake_ns) : 0) : STATUS_DONE;
}

static int serve(struct call *c, struct hark_listener **l, const char *address)
{
	do {
		int err = accept_one(c, *l);
		if (err == -ETIMEDOUT) {
			report_error(c, "%s: nobody has called (--connect-timeout)", address);
			return STATUS_FAILED;
		}
		if (err < 0) {
			report_error(c, "accept %s: %s", address, hark_strerror(err));
			return STATUS_FAILED;
		}
		if (!c->args.keep_open && c->parsed.scheme != HARK_UNIXGRAM) {
			hark_listener_close(*l); /* who calls now is refused, instead of waiting in vain */
			*l = NULL;
		}
		c->status = begin(c);
		c->error = 0;
		if (c->status == STATUS_DONE)
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

	int err = hark_listen(c->address, &opts, &l);
	if (err < 0) {
		if (why.text[0] != '\0')
			report_error(c, "%s", why.text);
		else
			report_error(c, "listen %s: %s", c->address, hark_strerror(err));
		return err == -EINVAL ? STATUS_USAGE : STATUS_FAILED;
	}
	(void)hark_listener_address(l, address, sizeof address);
	if (c->tls)
		tls_rename(address);
	report_listening(c, address);
	int status = serve(c, &l, address);
	hark_listener_close(l);
	return status;
}
