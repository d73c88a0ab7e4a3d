/* whoami.c — a service of one's own with TLS: tells each client who it is.
 *
 * hark_serve() does the handshake before the box, which reads and writes plain bytes as any other, and asks for what it
 * wants to know of TLS. A thread waits for signals: SIGHUP takes a renewed certificate over, for handshakes from then
 * on, and a bad one changes nothing; SIGTERM and SIGINT let what is busy finish.
 *
 *   build/examples/whoami tls://127.0.0.1:7443 CERTIFICATE KEY [CLIENT-AUTHORITY]
 *   build/hark call --ca CERTIFICATE tls://127.0.0.1:7443       the files are PEM */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>

#include "hark.h"

#define PATIENCE (5 * HARK_S) /* for a client that reads slowly, and for a drain */

struct settings {
	struct hark_tls_cert cert;
	struct hark_tls_opts opts;
	struct hark_tls *tls;
	sigset_t signals;
};

/* The box. */
static void whoami(struct hark_conn *c, void *arg __attribute__((unused)))
{
	char peer[HARK_ADDRESS_MAX];
	struct hark_tls_info tls;
	struct hark_certificate shown;

	hark_deadline(c, hark_after(PATIENCE));
	if (hark_peer(c, peer, sizeof peer) < 0 || hark_tls_info(c, &tls) < 0)
		return;
	int r = hark_tls_peer(c, 0, &shown);
	if (r == 0)
		hark_printf(c, "%s at %s, %s %s\n", shown.subject, peer, tls.version, tls.cipher);
	else if (r == -ENOENT)
		hark_printf(c, "somebody at %s, %s %s\n", peer, tls.version, tls.cipher);
	else
		hark_outcome(c, 0, r); /* no memory: a client with a certificate must not pass for one without */
}

static void *wait_for_signals(void *arg)
{
	struct settings *s = arg;

	for (int signal; sigwait(&s->signals, &signal) == 0;) {
		if (signal != SIGHUP)
			hark_drain(PATIENCE);
		else if (hark_tls_reload(s->tls, &s->opts) < 0)
			fprintf(stderr, "whoami: %s\n", s->opts.why->text);
	}
	return NULL;
}

/* Before the server starts: its threads have these signals blocked, too. */
static void start_waiting(struct settings *s)
{
	pthread_t thread;

	sigemptyset(&s->signals);
	sigaddset(&s->signals, SIGHUP);
	sigaddset(&s->signals, SIGTERM);
	sigaddset(&s->signals, SIGINT);
	pthread_sigmask(SIG_BLOCK, &s->signals, NULL);
	if (pthread_create(&thread, NULL, wait_for_signals, s) == 0)
		pthread_detach(thread);
}

int main(int argc, char *argv[])
{
	static struct settings s; /* the thread that waits for signals has them to the end */
	static struct hark_why reloading;
	struct hark_why why = {"the service failed"};
	struct hark_listener *l;

	if (argc < 4 || argc > 5) {
		fprintf(stderr, "usage: %s ADDRESS CERTIFICATE KEY [CLIENT-AUTHORITY]\n", argv[0]);
		return 100;
	}
	s.cert = (struct hark_tls_cert){.cert = argv[2], .key = argv[3]};
	s.opts = (struct hark_tls_opts){.certs = &s.cert, .n_certs = 1, .why = &why};
	if (argc == 5) {
		s.opts.ca = argv[4];
		s.opts.clients = HARK_TLS_CLIENTS_OPTIONAL;
	}
	int rc = hark_tls_new(&s.opts, &s.tls);
	if (rc == 0)
		rc = hark_listen(argv[1], &(struct hark_listen_opts){.tls = true, .why = &why}, &l);
	if (rc == 0) {
		s.opts.why = &reloading; /* of the other thread */
		start_waiting(&s);
		rc = hark_serve(&l, 1, whoami, NULL, &(struct hark_serve_opts){.tls = s.tls, .why = &why});
	}
	if (rc < 0)
		fprintf(stderr, "whoami: %s\n", why.text);
	return rc < 0;
}
