/* test_tls_memory.c — OpenSSL's own allocations failed, each in turn: a handshake and a few bytes over it work, or fail
 * and say so; nothing crashes, and nothing hangs. Its memory is its own, so that fault_driver.h does not see it. */
#include "tls_support.h"

#include <malloc.h>

#define FIRST_ALL 400   /* each of the first so many: making the connection, and its first messages */
#define THEN_STEP 13    /* then each so manieth */
#define LAST      20000 /* more is a handshake without end */
#define RECORD    16384u

static bool armed, fired;
static int left;    /* allocations before the one that fails */
static int buffers; /* of OpenSSL's, a record or longer */

static void *count(void *p, int by)
{
	if (p != NULL && malloc_usable_size(p) >= RECORD)
		buffers += by;
	return p;
}

static bool strikes(void)
{
	if (!armed || --left > 0)
		return false;
	fired = true;
	armed = false;
	return true;
}

static void *failing_malloc(size_t n, const char *file, int line)
{
	(void)file;
	(void)line;
	return strikes() ? NULL : count(malloc(n), 1);
}

static void *failing_realloc(void *old, size_t n, const char *file, int line)
{
	(void)file;
	(void)line;
	if (strikes())
		return NULL;
	(void)count(old, -1);
	void *p = realloc(old, n);
	if (p == NULL)
		(void)count(old, 1);
	return count(p, 1);
}

static void plain_free(void *p, const char *file, int line)
{
	(void)file;
	(void)line;
	free(count(p, -1));
}

struct answering {
	struct hark_conn *c;
	struct hark_tls *t;
};

static void answer(void *arg)
{
	struct answering *a = arg;
	char buf[16];
	ssize_t n = hark_starttls(a->c, a->t, NULL);
	if (n == 0 && (n = hark_read(a->c, buf, sizeof buf)) > 0)
		(void)hark_write(a->c, buf, (size_t)n);
	if (n < 0 && n != -ECONNRESET)
		CHECK(hark_tls_failure(a->c) != NULL || hark__conn_tls(a->c) == NULL);
	hark_idle_timeout(a->c, 20 * HARK_MS);
	(void)hark_close(a->c);
}

/* True if all went well. */
static bool converse(struct hark_tls *client, struct hark_tls *server)
{
	struct pair p = unix_pair();
	struct answering a = {.c = p.b, .t = server};
	struct hark_scope s;
	char buf[16];
	hark_deadline(p.a, hark_after(5 * HARK_S * SLOWER));
	hark_deadline(p.b, hark_after(5 * HARK_S * SLOWER));
	hark_scope_open(&s);
	CHECK_INT(hark_go(&s, "server", answer, &a), 0);
	ssize_t n = hark_starttls(p.a, client, &(struct hark_starttls_opts){.name = "a.example"});
	if (n == 0)
		n = hark_write(p.a, "hello", 5);
	if (n == 5)
		n = hark_readn(p.a, buf, 5);
	CHECK(n != -ETIMEDOUT && n != -EINTR);
	hark_abort(p.a);
	CHECK_INT(hark_join(&s, HARK_FOREVER), 0);
	hark_scope_close(&s);
	return n == 5;
}

static void an_allocation_of_openssls_that_fails_is_told(void)
{
	struct hark_tls *client = client_settings(), *server = server_settings();
	struct hark__loop *l;
	(void)alarm(120 * SLOWER);
	CHECK_INT(hark__loop_open("epoll", 0, &l), 0);
	CHECK(converse(client, server)); /* what is made once is made now */
	int n = 1, failed = 0;
	for (fired = true; fired; n += n < FIRST_ALL ? 1 : THEN_STEP) {
		CHECK(n < LAST);
		left = n;
		fired = false;
		armed = true;
		bool well = converse(client, server);
		armed = false;
		CHECK(well || fired);
		failed += !well;
	}
	CHECK(n > FIRST_ALL && failed > 50);
	CHECK(converse(client, server));
	hark__loop_close(l);
	hark_tls_free(client);
	hark_tls_free(server);
}

static void answer_all(void *arg)
{
	struct answering *a = arg;
	char buf[16];
	CHECK_INT(hark_starttls(a->c, a->t, NULL), 0);
	for (ssize_t n; (n = hark_read(a->c, buf, sizeof buf)) > 0;)
		CHECK_INT(hark_write(a->c, buf, (size_t)n), n);
	CHECK_INT(hark_close(a->c), 0);
}

/* Its tickets went out with the first answer. */
static void who_has_answered_once_holds_no_buffer_while_it_waits(void)
{
	struct hark_tls *client = client_settings(), *server = server_settings();
	struct pair p = unix_pair();
	struct answering a = {.c = p.b, .t = server};
	struct hark__loop *l;
	struct hark_scope s;
	char buf[16];
	CHECK_INT(hark__loop_open("epoll", 0, &l), 0);
	hark_deadline(p.a, hark_after(5 * HARK_S * SLOWER));
	hark_deadline(p.b, hark_after(5 * HARK_S * SLOWER));
	hark_scope_open(&s);
	CHECK_INT(hark_go(&s, "server", answer_all, &a), 0);
	CHECK_INT(hark_starttls(p.a, client, &(struct hark_starttls_opts){.name = "a.example"}), 0);
	for (int i = 0; i < 3; i++) {
		CHECK_INT(hark_write(p.a, "hello", 5), 5);
		CHECK_INT(hark_readn(p.a, buf, 5), 5);
		CHECK_INT(hark_write(p.a, "!", 1), 1); /* the tickets had it take one, which this gives back */
		CHECK_INT(hark_flush(p.a), 0);
		CHECK_INT(buffers, 0);
		CHECK_INT(hark_readn(p.a, buf, 1), 1);
	}
	CHECK_INT(hark_close(p.a), 0);
	CHECK_INT(hark_join(&s, HARK_FOREVER), 0);
	hark_scope_close(&s);
	hark__loop_close(l);
	hark_tls_free(client);
	hark_tls_free(server);
}

int main(int argc, char *argv[])
{
	const struct CMUnitTest tests[] = {
		IN_CHILD(an_allocation_of_openssls_that_fails_is_told),
		IN_CHILD(who_has_answered_once_holds_no_buffer_while_it_waits),
	};
	if (CRYPTO_set_mem_functions(failing_malloc, failing_realloc, plain_free) != 1)
		return 1; /* OpenSSL was used before */
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, make_certs, NULL);
}
