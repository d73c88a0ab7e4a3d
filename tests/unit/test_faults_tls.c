/* test_faults_tls.c — every system call and allocation of ours failed at its Nth use beneath TLS: nothing crashes,
 * hangs or leaks, and nothing looks like an end in order that was none. See fault_driver.h. */
#include "fault_peers.h"
#include "tls_certs.h"

static char cert_path[64], key_path[64], ca_path[64];

static void write_file(char *path, const char *text)
{
	(void)strcpy(path, "/tmp/hark-tls-XXXXXX");
	int fd = mkostemp(path, O_CLOEXEC);
	assert_true(fd >= 0);
	assert_int_equal(write(fd, text, strlen(text)), (long long)strlen(text));
	(void)close(fd);
}

static int make_files(void **state)
{
	(void)make_certs(state);
	write_file(cert_path, server_cert.pem);
	write_file(key_path, server_cert.key_pem);
	write_file(ca_path, authority.pem);
	return 0;
}

static int remove_files(void **state)
{
	(void)state;
	return unlink(cert_path) | unlink(key_path) | unlink(ca_path);
}

/* ---- settings --------------------------------------------------------------------------------------------- */

static void make_settings(void *arg)
{
	const struct hark_tls_cert c = {.cert = cert_path, .key = key_path};
	const struct hark_tls_opts o = {.certs = &c, .n_certs = 1, .ca = ca_path, .alpn = "h2 http/1.1"};
	struct hark_tls *t;
	(void)arg;
	fault_arm();
	int r = hark_tls_new(&o, &t);
	HOLD_VALUE(sensible(r), r);
	if (r < 0)
		return;
	r = hark_tls_reload(t, &o);
	HOLD_VALUE(sensible(r), r);
	hark_tls_free(t);
}

static void faults_in_settings(void **state)
{
	(void)state;
	fault_each_use("settings", make_settings, NULL);
}

/* ---- a connection ----------------------------------------------------------------------------------------- */

#define BULK 200000 /* bytes each way: more than one record, and than a socket's room at first */

static struct hark_tls *server_side, *client_side;

static void be_settings(void)
{
	const struct hark_tls_cert c = pem_pair(&server_cert);
	if (server_side != NULL)
		return;
	HOLD(hark_tls_new(&(struct hark_tls_opts){.certs = &c, .n_certs = 1}, &server_side) == 0);
	HOLD(hark_tls_new(&(struct hark_tls_opts){.ca_pem = authority.pem}, &client_side) == 0);
}

struct side {
	struct hark_conn *c;
	const char *name; /* NULL: the server's */
	int r;            /* the first failure */
	size_t got;
	bool ended; /* the other side's end came, in order */
};

static void note(struct side *s, long long r)
{
	if (r < 0 && s->r == 0)
		s->r = (int)r;
}

/* Each writes, ends its half, and reads to the other's end. The client writes first: neither holds the other up. */
static void converse(struct side *s)
{
	static char bytes[BULK];
	char buf[4096];
	ssize_t n = 0;
	hark_deadline(s->c, hark_after(5 * HARK_S));
	note(s, hark_starttls(s->c, s->name != NULL ? client_side : server_side,
	                      &(struct hark_starttls_opts){.name = s->name}));
	for (int turn = 0; turn < 2 && s->r == 0; turn++) {
		if ((s->name != NULL) == (turn == 0)) {
			note(s, hark_write(s->c, "hello\n", 6));
			note(s, hark_write(s->c, bytes, sizeof bytes));
			note(s, hark_shutdown(s->c, HARK_OUT));
			continue;
		}
		while ((n = hark_read(s->c, buf, sizeof buf)) > 0)
			s->got += (size_t)n;
		note(s, n);
		s->ended = n == 0;
	}
	if (s->r < 0)
		hark_abort(s->c);
	else
		note(s, hark_close(s->c));
}

static void *converse_in_thread(void *arg)
{
	converse(arg);
	return NULL;
}

static void converse_in_fiber(void *arg)
{
	converse(arg);
}

static void check_sides(const struct side *a, const struct side *b)
{
	const struct side *both[] = {a, b};
	for (int i = 0; i < 2; i++) {
		HOLD_VALUE(both[i]->r == 0 || fault_fired(), both[i]->r);
		HOLD_VALUE(both[i]->r != -EINTR && both[i]->r != -ETIMEDOUT, both[i]->r);
		HOLD_VALUE(!both[i]->ended || both[i]->got == BULK + 6, (long long)both[i]->got);
	}
}

static bool meet(struct side *a, struct side *b)
{
	struct hark_conn *c[2];
	*a = (struct side){.name = "a.example"};
	*b = (struct side){0};
	if (hark_pair(c) < 0)
		return false;
	a->c = c[0];
	b->c = c[1];
	return true;
}

static void on_threads(void *arg)
{
	struct side a, b;
	pthread_t t;
	(void)arg;
	be_settings();
	HOLD(meet(&a, &b));
	HOLD(pthread_create(&t, NULL, converse_in_thread, &b) == 0);
	fault_arm();
	converse(&a);
	HOLD(pthread_join(t, NULL) == 0);
	check_sides(&a, &b);
}

static void on_loop(void *engine)
{
	struct side a, b;
	struct hark__loop *l;
	struct hark_scope scope;
	be_settings();
	HOLD(hark__loop_open(engine, 0, &l) == 0);
	hark_scope_open(&scope);
	HOLD(meet(&a, &b));
	HOLD(hark_go(&scope, "server", converse_in_fiber, &b) == 0);
	fault_arm();
	converse(&a);
	(void)hark_join(&scope, hark_after(10 * HARK_S));
	atomic_store(&now->armed, false);
	hark_scope_close(&scope);
	hark__loop_close(l);
	check_sides(&a, &b);
}

static void faults_in_connections(void **state)
{
	struct faulty f[ENGINES + 1];
	char name[ENGINES + 1][32];
	int n = 0;
	(void)state;
	fault_begin(&f[n++], "TLS, threads", on_threads, NULL);
	for (size_t i = 0; i < ENGINES; i++) {
		if (!have_engine(engines[i]))
			continue;
		(void)snprintf(name[i], sizeof name[i], "TLS, %s", engines[i]);
		fault_begin(&f[n++], name[i], on_loop, (void *)engines[i]);
	}
	fault_end(f, n);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(faults_in_settings),
		cmocka_unit_test(faults_in_connections),
	};
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, make_files, remove_files);
}
