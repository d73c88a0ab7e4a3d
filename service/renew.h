/* renew.h — files that a service reads once and that are renewed while it runs: its certificates and keys, and what its
 * box reads of files (renew in its row). harkd starts new workers, which read them with its rights: daemon/certs.c.
 * Where there is no supervisor, the process that serves reads them again itself, with the rights that it has. */
#ifndef RENEW_H
#define RENEW_H

#include "config.h"

#define RENEW_LOOK_NS HARK_S /* between two looks; files that are the same for so long are complete */

/* What tells that the files are others. */
struct renew_stamp {
	uint64_t hash;      /* 0: there are none */
	int64_t changed_ns; /* CLOCK_REALTIME, of the last change; INT64_MAX: a file is not there */
};

/* conf's TLS files, and those that the box names, whose state has been parsed. Either may be NULL. */
struct renew_stamp renew_stamp(const struct config_service *conf, const struct hark_box_row *box, const void *state);

/* They are complete, and others than when they were read. *seen: what the look before this one saw. */
bool renew_is_due(struct renew_stamp now, uint64_t read, uint64_t *seen);

/* For a process that reads them again itself: either conf and tls, or box and state. */
struct renew {
	const struct config_service *conf;
	const struct hark_tls_opts *opts; /* as config_tls_new() had them */
	struct hark_tls *tls;
	const struct hark_box_row *box;
	void *state;
	/* How it came out, in the process that accepts: 0; or a -errno with why, and what was read before goes on. */
	void (*told)(int error, const char *why, void *told_arg);
	void *told_arg;
	uint64_t read, seen;
	int64_t looked;
};

/* Before they are read for the first time. */
void renew_begin(struct renew *r);

/* Reads them again where they have changed; a look a second, however often it is called. On the thread that accepts. */
void renew_look(struct renew *r);

#endif
