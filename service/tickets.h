/* tickets.h — the keys of a service's TLS session tickets, in memory that its workers share, of all configurations and
 * generations (memory.h): a session that one began any other resumes.
 *
 * A key makes tickets for a twelfth of their lifetime, is good for their lifetime after that, and is then wiped: with
 * the next handshake, as are all that are over. RFC 5077 section 5.5. */
#ifndef TICKETS_H
#define TICKETS_H

#include <pthread.h>
#include <stdint.h>

#include "hark.h"

#define TICKETS_KEYS 16 /* more than 13 are never good at once */

/* Zeroes, and tickets_init(). */
struct tickets {
	pthread_mutex_t lock; /* shared_lock.h; guards the rest. Workers' alone */
	struct {
		int64_t made; /* hark_now(); 0: none */
		struct hark_ticket_key key;
	} slot[TICKETS_KEYS];
	uint32_t newest;
};

/* 0 or -errno. */
int tickets_init(struct tickets *t);

/* A process's own view. */
struct tickets_user {
	struct tickets *shared;
	int64_t lifetime_ns; /* 0: none are made, and none are good */
};

/* struct hark_tls_opts' ticket_key; tickets_user is one. Any thread. */
int tickets_key(const unsigned char *name, struct hark_ticket_key *out, void *tickets_user);

#endif
