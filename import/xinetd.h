/* xinetd.h — what xinetd.conf(5) says, taken apart: xinetd.c reads it, xinetd_service.c makes settings of it. */
#ifndef XINETD_H
#define XINETD_H

#include "reading.h"

enum xinetd_attribute {
	X_ACCESS_TIMES = 0,
	X_BANNER,
	X_BANNER_FAIL,
	X_BANNER_SUCCESS,
	X_BIND,
	X_CPS,
	X_DENY_TIME,
	X_DISABLE,
	X_DISABLED,
	X_ENABLED,
	X_ENV,
	X_FLAGS,
	X_GROUP,
	X_GROUPS,
	X_ID,
	X_INSTANCES,
	X_LIBWRAP,
	X_LOG_ON_FAILURE,
	X_LOG_ON_SUCCESS,
	X_LOG_TYPE,
	X_MAX_LOAD,
	X_MDNS,
	X_NICE,
	X_NO_ACCESS,
	X_ONLY_FROM,
	X_PASSENV,
	X_PER_SOURCE,
	X_PORT,
	X_PROTOCOL,
	X_REDIRECT,
	X_RLIMIT_AS,
	X_RLIMIT_CPU,
	X_RLIMIT_DATA,
	X_RLIMIT_FILES,
	X_RLIMIT_RSS,
	X_RLIMIT_STACK,
	X_RPC_NUMBER,
	X_RPC_VERSION,
	X_SERVER,
	X_SERVER_ARGS,
	X_SOCKET_TYPE,
	X_TYPE,
	X_UMASK,
	X_USER,
	X_V6ONLY,
	X_WAIT,
	X_ATTRIBUTES,
};

struct xinetd_value {
	bool set; /* by the service itself, or by defaults: place is there */
	struct config_place place;
	struct config_words words;
};

struct xinetd_entry {
	char *name;
	struct config_place place;
	struct xinetd_value value[X_ATTRIBUTES];
	bool broken;          /* a line of it could not be read: xinetd drops such a service */
	bool broken_defaults; /* the same of defaults: xinetd ends, or goes on without what they guard */
	char *listen;         /* what xinetd_make() made of its address; NULL: nothing, or it is disabled */
};

const char *xinetd_name(enum xinetd_attribute a);

/* What is to be said of defaults themselves, once, at the top of the file. False: xinetd does not take them. */
bool xinetd_make_defaults(struct document *d, const struct xinetd_entry *defaults);

/* The section of the i-th of n entries, all complete with the values of defaults; the ones before it were made. */
void xinetd_make(struct document *d, struct xinetd_entry *const *entries, size_t n, size_t i,
                 const struct xinetd_entry *defaults);

#endif
