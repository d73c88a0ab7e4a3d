/* config.h — what harkd is told to serve, as read from hark.conf(5) or from a document that another format was turned
 * into.
 *
 * A configuration is read whole, every mistake in it is found in one pass, and nothing is acted upon here: no socket is
 * opened, no program started. Read by the main thread alone; what was read is constant from then on and owned by its
 * struct config. Sees hark.h, box.h and common/ alone; the daemon and the tool both use it. */
#ifndef CONFIG_H
#define CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/types.h>

#include "box.h"
#include "hark.h"
#include "network.h"

struct document;

struct config_place {
	const char *file; /* as it was named; lives as long as the struct config */
	int line;         /* from 1; 0: the file as a whole */
};

/* A list of words, NULL-terminated. */
struct config_words {
	char **word;
	size_t n;
};

/* A token bucket: tokens come at events per period_ns, at most burst gather. events 0: no limit. */
struct config_rate {
	double events; /* "50/s", "256/m", "1000/h", "50" (a second); "50/s burst 200" */
	int64_t period_ns;
	double burst; /* 0 in the file: as many as come in one period, at least 1 */
};

enum config_start { CONFIG_START_BOOT = 0, CONFIG_START_DEMAND };

#define CONFIG_RLIMITS 16 /* RLIM_NLIMITS on Linux */

struct config_service {
	char *name;
	struct config_place place; /* of its section's head */
	char *text;    /* its effective settings as hark.conf text: two services are the same if and only if this is */
	bool disabled; /* disable = yes: checked, not served */

	/* what */
	struct config_words listen; /* addresses as hark_listen() takes them, in canonical form */
	struct config_words argv;   /* the box's name and its arguments, keys that are its options included */
	size_t key_options;         /* words of argv behind the name that keys have set */
	const struct hark_box_row *box;
	bool wait;    /* inetd's wait */
	char *banner; /* sent first to each stream, '\n' and '\t' and "\\" undone; NULL: none */

	/* how */
	enum hark_model model;
	int workers;        /* 1… */
	char *engine;       /* NULL: the default */
	size_t stack_bytes; /* 0: the default */
	int client_first;   /* 1: first = client, 0: first = server, -1: as the box says */
	enum config_start start;
	int64_t stop_idle_ns; /* start = demand: the workers end when nobody was connected so long; 0: never */
	int64_t idle_timeout_ns, lifetime_ns;  /* 0: none */
	int64_t keepalive_ns, user_timeout_ns; /* of TCP; 0: the system's */
	int64_t grace_ns; /* what is busy may take so long to finish when it is reloaded or stopped */
	int backlog;      /* 0: the default */
	bool reuseport, v6only, freebind;
	int defer_accept_s;

	/* who speaks for others, by the PROXY protocol */
	struct network *proxy_from; /* whose streams begin with its header; n_proxy_from 0: nobody's */
	size_t n_proxy_from;
	bool proxy_direct;        /* others are served without one; else refused */
	int64_t proxy_timeout_ns; /* for the whole header */

	/* limits; 0: none */
	int max_conns; /* of the service, over all its workers */
	int max_per_source;
	int max_sessions;                   /* of datagrams, from one source: the box's sessions */
	int source_v4_bits, source_v6_bits; /* what counts as one source: 32 and 64 */
	struct config_rate rate, rate_per_source;
	double max_load; /* the 1 min load average above which connections wait */

	/* TLS, of tls:// addresses: files as they are named, read where the service's process begins (tls.c) */
	struct config_words cert, key; /* as many keys as certificates; none: they are in the same files */
	char *client_ca, *client_crl;  /* NULL: none */
	int client_cert;               /* enum hark_tls_clients; -1: as client_ca says */
	int tls_min;                   /* 12, 13 */
	char *alpn;                    /* names with a blank between; NULL: none */
	int64_t tls_handshake_timeout_ns;
	int64_t tls_tickets_ns; /* how long a session can be resumed; 0: never */
	int max_handshakes;     /* at once, of the service; 0: any number */

	/* as whom, and where */
	char *user, *group; /* NULL: as harkd runs; group NULL: the user's own */
	uid_t uid;          /* of user; -1: none */
	gid_t gid;          /* of group or the user's; -1: none */
	gid_t *groups;      /* supplementary ones: groups =, else those of the user in the group database */
	size_t n_groups;
	bool groups_named;                    /* groups = was given, be it none: they hold without a user, too */
	char *chroot, *directory;             /* absolute; NULL: none */
	int umask;                            /* -1: as harkd's */
	int nice;                             /* added to harkd's */
	struct rlimit rlimit[CONFIG_RLIMITS]; /* where rlimit_set has the bit */
	unsigned rlimit_set;
	struct config_words env;          /* "NAME=value" */
	struct config_words user_env;     /* the same of user: USER, LOGNAME, HOME, SHELL */
	struct config_words pass_env;     /* what programs get of harkd's; "*": all. Default: PATH TZ LANG LC_* */
	char *socket_user, *socket_group; /* of unix paths; NULL: harkd's */
	int socket_mode;                  /* -1: what the umask leaves */
};

enum config_log_format { CONFIG_LOG_TEXT = 0, CONFIG_LOG_JSON };

struct config {
	/* [harkd] */
	char *control;       /* path of the control socket; NULL: none; default: control_path.h */
	bool control_in_tmp; /* that default lies where anyone may be first: harkd does without */
	char *pid_file;      /* NULL: none; --pid-file overrides */
	char *log;           /* "stderr", "syslog", "journal", or an absolute path */
	enum config_log_format log_format;
	char *syslog_facility;      /* "daemon" */
	bool log_connections;       /* a line for each; default yes */
	int64_t upgrade_timeout_ns; /* a new generation that is not ready by then has failed; 30 s */

	struct config_service **services; /* in the order of the file */
	size_t n_services;

	char **errors; /* "FILE:LINE: what, and the nearest right key"; in the order of the file */
	size_t n_errors;
	char **warnings;
	size_t n_warnings;
	size_t n_refused; /* services of a document that its format has and hark has not: among the warnings */
	void *private;
};

/* Reads hark.conf and what it includes. *out is set in every case but -ENOMEM, and config_free()'s to free; whatever is
 * wrong, a file that cannot be opened included, is in its errors. Returns the number of errors, or -ENOMEM. */
int config_load(const char *file, struct config **out);

/* The same from a document (document.h): each setting's own place is told in errors. The document stays the caller's
 * and may be freed at once. */
int config_load_document(const struct document *d, struct config **out);

/* The same where a command line has said what is served: one section with keys alone, neither listen nor box. */
int config_load_keys(const struct document *d, struct config **out);

/* box_parse() of argv. An option that stands there and as a key is an error. */
int config_box_parse(const struct config_service *s, const struct hark_box_row *b, void **state, struct hark_why *why);

/* box_load(), of a box none of whose options has the name of a service's key. */
int config_box_load(const char *path, const struct hark_box_row **out, struct hark_why *why);

/* Takes out each service that has an error, so that the rest of a document can be served: every error stays, and is
 * that of a line that is skipped. Call it after each call that returned errors. Returns 0, or the number of errors if
 * one belongs to no service: then nothing can be served. */
int config_skip_wrong(struct config *c);

/* Adds to the warnings what the document's readers could not carry over, each with its place. 0 or -ENOMEM. */
int config_warn_of_document(struct config *c, const struct document *d);

/* Finds what can only be known here and now: users that exist but may not run the program, directories, chroots (each
 * service of another user is tried in a forked child that becomes that user). Adds to the errors and returns their
 * number, or -ENOMEM. foreign: shared objects are loaded there as well; not in a process that has other secrets than
 * c's and its environment's, which that child forgets first. */
int config_check_system(struct config *c, bool foreign);

/* Whether this process may not raise its hard limit of that resource so far as the service says: what tells it, with
 * the key's name first. */
bool config_limit_unmet(const struct config_service *s, unsigned resource, struct hark_why *what);

/* The effective configuration as hark.conf text, defaults written out, that config_load() reads to an equal one. */
int config_print(const struct config *c, FILE *to);

/* An equal one, by its text, as if it stood in file. As config_load(). */
int config_copy(const struct config *c, const char *file, struct config **out);

/* The service of that name, or NULL. */
struct config_service *config_find(const struct config *c, const char *name);

/* Wipes what the other services have in their environments, and their texts: in the process of one that is kept. */
void config_forget_others(struct config *c, const struct config_service *kept);

void config_free(struct config *c);

/* ---- tls.c ---- */

/* Whether it listens at tls://. */
bool config_has_tls(const struct config_service *s);

/* TLS settings of its files, which are read now, with the rights that the process has. more: tickets, if any; may be
 * NULL. 0 or -errno with why. */
int config_tls_new(const struct config_service *s, const struct hark_tls_opts *more, struct hark_tls **out,
                   struct hark_why *why);

/* The same in the place of t's, as hark_tls_reload(). */
int config_tls_reload(const struct config_service *s, const struct hark_tls_opts *more, struct hark_tls *t,
                      struct hark_why *why);

struct config_how;

/* One key of hark.conf: the table from which keys are read, checked, printed, completed, and which the man page is
 * tested against. */
struct config_key {
	const char *name;
	bool global;          /* of [harkd], else of a service and of [defaults] */
	const char *value;    /* what hark.conf(5) calls it: "DURATION", "yes|no" */
	const char *standard; /* the default, as it would be written; "" if none */
	const char *summary;
	const struct config_how *how; /* config/'s own: how it is read, checked and printed */
};

/* Ends with a row whose name is NULL. */
extern const struct config_key config_keys[];

#endif
