/* test_tls_stream.c — a stream over TLS is a stream: what is written is read, its end and its cut are told apart. */
#include "tls_support.h"

#include <netinet/tcp.h>

static void what_is_written_is_read_and_then_comes_the_end(void)
{
	struct pair p = tls_pair();
	char buf[64];
	say(p.a, "hello\nthere");
	CHECK_INT(hark_readline(p.b, buf, sizeof buf), 6);
	CHECK_INT(hark_buffered(p.b), 5);
	CHECK_INT(hark_peek(p.b, buf, sizeof buf), 5);
	CHECK_INT(hark_readn(p.b, buf, 5), 5);
	CHECK(memcmp(buf, "there", 5) == 0);
	say(p.b, "answer");
	CHECK_INT(hark_readn(p.a, buf, 6), 6);
	CHECK_INT(hark_shutdown(p.a, HARK_OUT), 0);
	CHECK_INT(hark_write(p.a, "x", 1), -EPIPE);
	CHECK_INT(hark_read(p.b, buf, sizeof buf), 0);
	CHECK_INT(hark_read(p.b, buf, sizeof buf), 0);
	say(p.b, "the other half");
	CHECK_INT(hark_readn(p.a, buf, 14), 14);
	CHECK_INT(hark_close(p.b), 0);
	CHECK_INT(hark_read(p.a, buf, sizeof buf), 0);
	CHECK_INT(hark_close(p.a), 0);
}

static void shake_and_idle(void *arg)
{
	struct shaking *s = arg;
	char buf[8];
	shake_beside(s);
	CHECK_INT(s->got, 0);
	hark_deadline(s->c, hark_after(5 * HARK_S * SLOWER));
	CHECK_INT(hark_idle(s->c), 1);
	CHECK_INT(hark_read(s->c, buf, sizeof buf), 5);
}

/* The client's last message and its first bytes come together. */
static void bytes_behind_the_handshake_are_there_at_once(void)
{
	struct hark_tls *client = client_settings(), *server = server_settings();
	struct pair p = tcp_pair();
	struct shaking a = {.c = p.a, .t = client, .name = "a.example"}, b = {.c = p.b, .t = server};
	struct beside beside;
	int one = 1; /* else Nagle's algorithm holds them apart */
	CHECK_INT(setsockopt(hark_fd(p.a), IPPROTO_TCP, TCP_NODELAY, &one, sizeof one), 0);
	beside_start(&beside, shake_and_idle, &b);
	shake_beside(&a);
	CHECK_INT(a.got, 0);
	say(p.a, "early");
	beside_end(&beside);
	pair_drop(&p);
	hark_tls_free(client);
	hark_tls_free(server);
}

static void looks_and_shakes(void *arg)
{
	struct shaking *s = arg;
	char first;
	CHECK_INT(hark_peek(s->c, &first, 1), 1);
	CHECK_INT(first, 0x16); /* RFC 8446 section 5.1 */
	shake_beside(s);
}

/* What was looked at of the client's hello is no byte that came. */
static void bytes_that_came_are_those_that_can_be_read(void)
{
	struct hark_tls *client = client_settings(), *server = server_settings();
	struct pair p = tcp_pair();
	struct shaking a = {.c = p.a, .t = client, .name = "a.example"}, b = {.c = p.b, .t = server};
	struct hark_conn_stats stats;
	struct beside beside;
	char buf[5];
	beside_start(&beside, looks_and_shakes, &b);
	shake_beside(&a);
	beside_end(&beside);
	CHECK_INT(a.got, 0);
	CHECK_INT(b.got, 0);
	say(p.a, "hello");
	CHECK_INT(hark_readn(p.b, buf, sizeof buf), 5);
	hark_conn_stats(p.b, &stats);
	CHECK_INT(stats.bytes_in, 5);
	pair_drop(&p);
	hark_tls_free(client);
	hark_tls_free(server);
}

static void an_end_without_close_notify_is_a_cut(void)
{
	struct pair p = tls_pair();
	char buf[64];
	say(p.a, "half");
	CHECK_INT(shutdown(hark_fd(p.a), SHUT_WR), 0);
	CHECK_INT(hark_readn(p.b, buf, 4), 4);
	CHECK_INT(hark_read(p.b, buf, sizeof buf), -ECONNRESET);
	CHECK_INT(hark_read(p.b, buf, sizeof buf), -ECONNRESET);
	say(p.b, "still"); /* the other half goes on */
	CHECK_INT(hark_readn(p.a, buf, 5), 5);
	hark_abort(p.a);
	CHECK_INT(hark_read(p.b, buf, sizeof buf), -ECONNRESET);
	hark_abort(p.b);
}

/* As write_chunks(), of which two may run at once. */
static void write_pieces(void *arg)
{
	struct chunks *w = arg;
	char *buf = malloc(70000);
	CHECK(buf != NULL);
	for (size_t at = 0; at < w->total;) {
		size_t n = (size_t)rand_r(&w->seed) % (rand_r(&w->seed) % 8 == 0 ? 70000 : 300) + 1;
		n = n < w->total - at ? n : w->total - at;
		pattern_fill(buf, at, n);
		CHECK_INT(hark_write(w->c, buf, n), (long long)n);
		at += n;
		if (rand_r(&w->seed) % 16 == 0)
			CHECK_INT(hark_flush(w->c), 0);
	}
	free(buf);
	CHECK_INT(hark_shutdown(w->c, HARK_OUT), 0);
}

static void both_ways_at_once(struct pair p, size_t total)
{
	struct beside wa, wb, ra;
	struct chunks w[2] = {{.c = p.a, .total = total, .seed = 3}, {.c = p.b, .total = total, .seed = 4}};
	struct sink s[2] = {{.c = p.a, .piece = 9000}, {.c = p.b, .piece = 100001}};
	beside_start(&wa, write_pieces, &w[0]);
	beside_start(&wb, write_pieces, &w[1]);
	beside_start(&ra, drain_pattern, &s[0]);
	drain_pattern(&s[1]);
	beside_end(&wa);
	beside_end(&wb);
	beside_end(&ra);
	CHECK_INT(s[0].got, total);
	CHECK_INT(s[1].got, total);
	CHECK_INT(s[0].end, 0);
	CHECK_INT(s[1].end, 0);
}

static void a_reader_and_a_writer_at_once(void)
{
	struct pair p = tls_pair();
	both_ways_at_once(p, 4 * MB);
	CHECK_INT(hark_close(p.a), 0);
	CHECK_INT(hark_close(p.b), 0);
}

int main(int argc, char *argv[])
{
	const struct CMUnitTest tests[] = {
		EVERYWHERE(what_is_written_is_read_and_then_comes_the_end),
		EVERYWHERE(bytes_behind_the_handshake_are_there_at_once),
		EVERYWHERE(bytes_that_came_are_those_that_can_be_read),
		EVERYWHERE(an_end_without_close_notify_is_a_cut),
		EVERYWHERE(a_reader_and_a_writer_at_once),
	};
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, make_certs, NULL);
}
