/* status.h — what harkd is doing, as facts: one walk over the supervisor's state, and printers that are handed them.
 *
 * The supervisor's thread. Facts are good while the printer's function runs. */
#ifndef STATUS_H
#define STATUS_H

#include "json.h"
#include "supervisor.h"

struct harkd_facts {
	const char *version, *config;
	pid_t pid;
	int generation;
	double uptime_s;
	int64_t realtime_ns;
	bool draining;
};

struct worker_facts {
	pid_t pid;
	uint32_t now;
	bool draining;
	double uptime_s;
};

struct service_facts {
	const char *name, *state, *box, *model;
	const char *error;                /* the last thing that went wrong; NULL: nothing */
	char (*listen)[HARK_ADDRESS_MAX]; /* as bound; as configured where it is not open */
	size_t n_listen;
	struct worker_facts *workers;
	size_t n_workers;
	bool bytes_known; /* false: programs move them on sockets that do not count */
	const struct counters *counters;
	const struct certs_shown *certs; /* NULL: it has no TLS */
	bool proxies_alone;              /* who is none cannot connect */
};

struct status_printer {
	void (*begin)(void *to, const struct harkd_facts *f);
	void (*service)(void *to, const struct service_facts *f);
	void (*end)(void *to);
};

/* One service, or all where name is NULL: those that serve, then those that the configuration disables. 0; -ENOENT: no
 * such service, and nothing was printed; -ENOMEM: it is cut short. */
int status_walk(const struct supervisor *v, const char *name, const struct status_printer *p, void *to);

/* The configuration's, if it is disabled; else NULL. */
const struct config_service *status_disabled(const struct supervisor *v, const char *name);

/* The control socket's answer, documented in control.h. to is a struct json. */
extern const struct status_printer status_json;

#endif
