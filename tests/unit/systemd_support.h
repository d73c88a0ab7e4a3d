/* systemd_support.h — what the tests of systemd's units share: a socket with its service, written and read. */
#ifndef SYSTEMD_SUPPORT_H
#define SYSTEMD_SUPPORT_H

#include "reader_support.h"

static inline struct document *read_socket(const char *name)
{
	struct document *d = document_new();

	assert_non_null(d);
	assert_int_equal(import_systemd(d, path_of(name)), 0);
	return d;
}

/* x.socket with those lines in [Socket], and the service it wants with those in [Service]. */
static inline struct document *read_pair(const char *socket, const char *service)
{
	char text[4096];

	(void)snprintf(text, sizeof text, "[Socket]\n%s", socket);
	write_file("x.socket", text);
	(void)snprintf(text, sizeof text, "[Service]\n%s", service);
	write_file("x@.service", text);
	write_file("x.service", text);
	return read_socket("x.socket");
}

#define ACCEPT "ListenStream=7007\nAccept=yes\n"
#define STDIN  "ExecStart=/bin/cat\nStandardInput=socket\n"

#endif
