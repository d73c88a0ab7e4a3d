/* An echo server as a careful libuv user writes it: one shared read buffer, uv_try_write first, and
 * only what the socket did not take is copied and queued. One loop, one thread; libuv owns the
 * handles, each freed in its close callback. */
#include "peer.h"

#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uv.h>

#define BACKLOG     4096  /* connections */
#define BUFFER_SIZE 65536 /* bytes, what libuv suggests */

struct pending_write {
	uv_write_t request;
	char bytes[];
};

static char buffer[BUFFER_SIZE];

static void on_close(uv_handle_t *handle)
{
	free(handle);
}

static void on_written(uv_write_t *request, int status)
{
	if (status < 0 && !uv_is_closing((uv_handle_t *)request->handle))
		uv_close((uv_handle_t *)request->handle, on_close);
	free(request);
}

static void give_buffer(uv_handle_t *handle, size_t suggested, uv_buf_t *out)
{
	(void)handle;
	(void)suggested;
	*out = uv_buf_init(buffer, sizeof buffer);
}

static int queue_write(uv_stream_t *stream, const char *from, size_t size)
{
	struct pending_write *w = malloc(sizeof *w + size);

	if (w == NULL)
		return UV_ENOMEM;
	memcpy(w->bytes, from, size);
	uv_buf_t rest = uv_buf_init(w->bytes, (unsigned)size);
	int err = uv_write(&w->request, stream, &rest, 1, on_written);
	if (err < 0)
		free(w);
	return err;
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf)
{
	if (n == 0)
		return;
	int err = n < 0 ? (int)n : 0;
	if (err == 0) {
		uv_buf_t all = uv_buf_init(buf->base, (unsigned)n);
		int sent = uv_try_write(stream, &all, 1);
		if (sent == n)
			return;
		if (sent < 0 && sent != UV_EAGAIN)
			err = sent;
		else
			err = queue_write(stream, buf->base + (sent > 0 ? sent : 0),
			                  (size_t)(n - (sent > 0 ? sent : 0)));
	}
	if (err < 0 && !uv_is_closing((uv_handle_t *)stream))
		uv_close((uv_handle_t *)stream, on_close);
}

static void on_connection(uv_stream_t *listener, int status)
{
	uv_tcp_t *client = status < 0 ? NULL : malloc(sizeof *client);

	if (client == NULL || uv_tcp_init(listener->loop, client) < 0) {
		free(client);
		return;
	}
	if (uv_accept(listener, (uv_stream_t *)client) < 0 ||
	    uv_read_start((uv_stream_t *)client, give_buffer, on_read) < 0) {
		uv_close((uv_handle_t *)client, on_close);
		return;
	}
	(void)uv_tcp_nodelay(client, 1);
}

int main(int argc, char **argv)
{
	uv_loop_t *loop = uv_default_loop();
	uv_tcp_t listener;
	struct sockaddr_in a;
	int size = sizeof a;

	peer_raise_descriptors();
	(void)uv_ip4_addr("127.0.0.1", argc > 1 ? atoi(argv[1]) : 0, &a);
	if (uv_tcp_init(loop, &listener) < 0 || uv_tcp_bind(&listener, (struct sockaddr *)&a, 0) < 0 ||
	    uv_listen((uv_stream_t *)&listener, BACKLOG, on_connection) < 0 ||
	    uv_tcp_getsockname(&listener, (struct sockaddr *)&a, &size) < 0)
		peer_die("listen");
	printf("listening on tcp://127.0.0.1:%d\n", ntohs(a.sin_port));
	(void)fflush(stdout);
	return uv_run(loop, UV_RUN_DEFAULT);
}
