/* echo.c — an echo server (RFC 862).
 *
 * The box, echo(), is straight-line code: it reads and writes one connection as if there were no other. hark_serve()
 * runs it on a fiber for each connection; another model or more workers are a word in the last argument, and nothing
 * here changes. The server owns the connection and closes it when the box returns.
 *
 *   build/examples/echo                        tcp://127.0.0.1:7007
 *   build/examples/echo udp://127.0.0.1:7007   or any other address */
#include <hark.h>
#include <stdio.h>

static void echo(struct hark_conn *c, void *arg __attribute__((unused)))
{
	char buf[4096];
	for (ssize_t n; (n = hark_read(c, buf, sizeof buf)) > 0 && hark_write(c, buf, (size_t)n) == n;)
		;
}

int main(int argc, char *argv[])
{
	struct hark_why why = {"the service failed"};
	struct hark_listener *l;
	int rc = hark_listen(argc > 1 ? argv[1] : "tcp://127.0.0.1:7007", &(struct hark_listen_opts){.why = &why}, &l);
	if (rc == 0)
		rc = hark_serve(&l, 1, echo, NULL, &(struct hark_serve_opts){.why = &why});
	return rc == 0 ? 0 : (fprintf(stderr, "echo: %s\n", why.text), 1);
}
