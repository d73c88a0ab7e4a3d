/* listen_support.h — what the tests of listeners share: opening one, and looking at it. */
#ifndef LISTEN_SUPPORT_H
#define LISTEN_SUPPORT_H

#include "net_support.h"

#include "conn/listen.h"

static struct hark_why why;

static inline int open_at(const char *address, struct hark_listen_opts opts, struct hark_listener **out)
{
	*out = NULL;
	why.text[0] = '\0';
	opts.why = &why;
	return hark_listen(address, &opts, out);
}

static inline struct hark_listener *must_open(const char *address, struct hark_listen_opts opts)
{
	struct hark_listener *l;
	if (open_at(address, opts, &l) != 0)
		fail_msg("%s", why.text);
	return l;
}

static inline int port_bound(const struct hark_listener *l)
{
	char text[HARK_ADDRESS_MAX];
	assert_true(hark_listener_address(l, text, sizeof text) > 0);
	return atoi(strrchr(text, ':') + 1);
}

/* Namespaces of the test's machine may have no IPv6. */
static inline void need_ipv6(void)
{
	struct hark_endpoint e;
	int fd = plain_listener("::1", 1, &e);
	if (fd < 0) {
		print_message("skipped: no IPv6 on loopback\n");
		skip();
	}
	(void)close(fd);
}

#endif
