/* daytime.c — asks daytime servers (RFC 867) for the time, one after another.
 *
 * hark_dial() tries every address that a name has, IPv6 and IPv4 in turn, and keeps what became of each attempt; where
 * it fails it tells in words why. The deadline covers look-up and connecting; from then on the connection has one of
 * its own.
 *
 *   build/examples/daytime 127.0.0.1:7013 */
#include <stdio.h>

#include "hark.h"

#define PATIENCE (5 * HARK_S) /* for one server, all in all */

/* Prints the line that the server at this address answers. 0 or -errno, said. */
static int ask(const char *address)
{
	struct hark_why why;
	struct hark_dial_opts opts = {.deadline = hark_after(PATIENCE), .why = &why};
	struct hark_conn *c;
	int rc = hark_dial(address, &opts, &c);
	if (rc < 0) {
		fprintf(stderr, "daytime: %s\n", why.text);
		return rc;
	}

	char line[256];
	hark_deadline(c, opts.deadline);
	ssize_t n = hark_readline(c, line, sizeof line);
	if (n > 0)
		printf("%s: %s%s", address, line, line[n - 1] == '\n' ? "" : "\n");
	else
		fprintf(stderr, "daytime: %s: %s\n", address,
		        n == 0 ? "ended without an answer" : hark_strerror((int)n));
	(void)hark_close(c); /* there was nothing to send, so nothing can be lost */
	return n > 0 ? 0 : -1;
}

int main(int argc, char *argv[])
{
	int failed = 0;

	if (argc < 2) {
		fprintf(stderr, "usage: %s ADDRESS...\n", argv[0]);
		return 100;
	}
	for (int i = 1; i < argc; i++)
		failed |= ask(argv[i]) < 0;
	return failed;
}
