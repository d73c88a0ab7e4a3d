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

/* Files that are looked at: each hash is a stamp's. All zero: nothing is known of them. */
struct renew_files {
	uint64_t read;  /* as they were when they were read; 0: there are none */
	uint64_t tried; /* when that was last tried */
	uint64_t seen;  /* at the last look */
	int64_t again;  /* when they are tried once more, as they could not be read; 0: they could */
	int64_t wait;   /* so long after the last time */
};

/* They are to be read again: others than when they were, and complete; or put off until now. That is a try, which
 * sets read, or is put off. */
bool renew_is_due(struct renew_files *f, struct renew_stamp now);

/* They could not be read, for want of memory perhaps: they are tried again, ever less often, without a change too. */
void renew_put_off(struct renew_files *f);

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
	struct renew_files files;
	int64_t looked;
};

/* Before they are read for the first time. */
void renew_begin(struct renew *r);

/* Reads them again where they have changed; a look a second, however often it is called. On the thread that accepts. */
void renew_look(struct renew *r);

#endif
