/* supervisor.h — the state of harkd's supervisor: which sockets are open, which services there are, which workers live.
 *
 *   supervisor.c  the loop: waits for signals, sockets, workers' ends and timers, and hands each to whom it concerns
 *   sockets.c     listening sockets by address: opened once, kept over reloads, handed to the next generation
 *   sockets_probe.c   whether an address could be listened on, for a dry run
 *   leaving.c     sockets of addresses that a reload removed: who waits there is still served
 *   service.c     one service: starts workers, at boot or on demand, restarts, drains, ends them when idle
 *   worker.c      what a forked worker does: becomes its user, then hark_serve()
 *   reload.c      a new configuration, by difference
 *   certs.c       TLS certificates that are renewed
 *   upgrade.c     a new binary
 *   control.c     the control socket
 *
 * One process, one thread, one poll(2). The supervisor parses no peer's byte: it never accepts a service's connection.
 */
#ifndef SUPERVISOR_H
#define SUPERVISOR_H

#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/resource.h>
#include <sys/types.h>

#include "config.h"
#include "counters.h"
#include "hark.h"
#include "limiter.h"
#include "log.h"
#include "memory.h"
#include "renew.h"

/* A configuration, kept as long as a service of it is. */
struct epoch {
	struct config *config;
	unsigned refs;
	bool forgotten; /* in a worker: other services' secrets in it are wiped */
};

struct epoch *epoch_new(struct config *c); /* consumes c; NULL: no memory, c is freed */
struct epoch *epoch_hold(struct epoch *e);
void epoch_release(struct epoch *e);

/* A listening socket. */
struct socket_entry {
	char *key; /* its address as configured; where the kernel chooses the port, with the service it is of */
	struct hark_listener *listener;
	struct service *service; /* who serves it, as conf of epoch says; NULL: nobody yet */
	struct epoch *epoch;
	const struct config_service *conf;
	bool wanted;  /* by the configuration that is being loaded */
	bool managed; /* a service manager's: its path stays when we end */
	dev_t dev;    /* a unix path's, as it was bound: what is changed, and removed in the end, must be that */
	ino_t ino;    /* 0: no path */
};

/* A socket of a removed address: closed once its backlog is empty. */
struct leaving_socket {
	struct leaving_socket *next;
	struct socket_entry *entry;
	pid_t worker;       /* serves the backlog; 0: nobody waits */
	int64_t look;       /* when it is next looked at */
	int64_t open_until; /* handshakes that are under way end at it */
	int64_t until;      /* the grace */
};

struct supervisor;
struct service;

struct sockets {
	struct socket_entry **entry;
	size_t n;
	struct leaving_socket *leaving;
	int64_t dropped; /* when one was last closed; 0: never */
};

/* The socket of the service's ith address, opened (or adopted from the environment) if it is not open. One that is
 * bound to what overlaps it and is not wanted any more does not stand in its way. 0 or -errno with why. */
int sockets_open(struct supervisor *v, const struct config_service *conf, size_t i, struct hark_why *why);
/* The nth socket of the service's ith address: a name may have several. NULL: there are no more. */
struct socket_entry *sockets_find(const struct sockets *s, const struct config_service *conf, size_t i, size_t nth);
/* Of a unix socket's key; NULL: it is not one, or an abstract one. */
const char *unix_path(const char *key);
/* Is the service's ith address one of conf's? */
bool sockets_shared(const struct config_service *s, size_t i, const struct config_service *conf);
/* Marks as wanted what c lists. */
void sockets_mark(struct sockets *s, const struct config *c);
/* s serves its sockets now, as its conf says. */
void sockets_assign(struct sockets *s, struct service *to);
/* Closes what no service wants, now or for the settings that it tries; but who waits there is served first. A service
 * that is gone must not be freed before. */
void sockets_sweep(struct supervisor *v);
void sockets_close(struct sockets *s, const struct config_service *conf, size_t i);
/* Logs what the environment handed over and nothing listens on. control_fd: that of the control socket, or -1. */
void sockets_tell_unclaimed(const struct sockets *s, int control_fd);
/* The port that it is bound to, and SOCK_STREAM or SOCK_DGRAM; 0: it is not of IP. */
unsigned socket_port(int fd, int *type);
void socket_entry_close(struct sockets *s, struct socket_entry *e); /* frees it; it is in no list */

/* sockets_probe.c: whether sockets_open() could open what is not open. 0 or -errno with why. */
int sockets_probe(const struct sockets *s, const struct config_service *conf, size_t i, struct hark_why *why);

/* leaving.c */
void leaving_add(struct sockets *s, struct socket_entry *e); /* consumes e */
void leaving_look(struct supervisor *v);                     /* timers */
int64_t leaving_due(const struct sockets *s);
bool leaving_of(const struct sockets *s, const struct service *of);         /* is there one? */
struct socket_entry *leaving_take_back(struct sockets *s, const char *key); /* NULL: there is none */
void leaving_free(struct sockets *s);
/* From now on the kernel looks past that socket: handshakes that are under way end at it, and what it holds can be read
 * and answered; what is bound to its address beside it is not in its way. */
void leaving_divert(int fd);
/* Consumes a socket of another generation: where another one has its port now, who comes there is served as that one's
 * service says. An older one's, which may still have to take over, until leaving_released(); of a newer one that has
 * failed (released) who has come. Else it is closed. */
void leaving_inherit(struct sockets *s, int fd, const char *key, bool released);
void leaving_released(struct sockets *s);
/* leave_paths: another generation has them now. */
void sockets_free(struct sockets *s, bool leave_paths);

struct conns;
struct json;

struct worker {
	pid_t pid;
	int ready_fd; /* it writes "" when it serves, or why it cannot; -1: it has */
	struct epoch *epoch;
	const struct config_service *conf;  /* in epoch: what it serves */
	struct hark_listener *last_backlog; /* it serves this socket's, and no other; NULL: all of conf's */
	int slot;                           /* in the service's memory */
	struct log_channel log;
	struct conns *conns; /* who is connected to it; NULL: not known */
	int64_t started;
	int64_t kill_at; /* HARK_FOREVER: not draining; else when it is killed if it has not ended */
	bool ready;
	bool killed;
	bool retired; /* it was told to accept no more */
	struct worker *next;
};

enum service_state {
	SERVICE_WAITING = 0, /* on demand, its sockets watched */
	SERVICE_RUNNING,
	SERVICE_BACKING_OFF,
	SERVICE_STOPPED,  /* by command: its sockets are closed */
	SERVICE_STANDBY,  /* its successor serves, and may yet fail: its workers are retired */
	SERVICE_GONE,     /* removed by a reload: its last workers drain */
	SERVICE_DISABLED, /* for control.c: the configuration has it, the supervisor has not */
};

struct service {
	struct service *next;
	struct epoch *epoch;
	const struct config_service *conf;
	enum service_state state;
	/* A reload's: new workers are started beside the old ones, which go on if those fail. NULL: none. */
	struct epoch *trial_epoch;
	const struct config_service *trial;
	bool trial_renews;      /* nothing but its certificates differs */
	char trial_error[256];  /* why a worker of it cannot start; "": none has failed */
	struct worker *workers; /* draining ones included */
	struct memory *memory;
	struct counters *counters; /* in it */
	int64_t again;             /* BACKING_OFF: when to start anew */
	int64_t backoff;
	bool settling;                       /* of the reload under way: its outcome waits for this one */
	int64_t foreign_look;                /* at slots of older generations' workers; HARK_FOREVER: there are none */
	pid_t foreign_ended[COUNTERS_SLOTS]; /* who had ended at the last look, by slot; 0: nobody */
	int64_t looked;                      /* stop_idle: when it was last seen at work */
	uint64_t looked_accepted;
	char error[256];          /* the last thing that went wrong; "" */
	struct renew_files certs; /* certs.c: read by its workers, tried by new ones */
	enum cert_age certs_age;  /* as it was told in the log last, and when */
	int64_t certs_latest, certs_told;
};

struct control;

struct reload_result {
	unsigned added, changed, removed, unchanged;
	unsigned failed; /* services that go on as they were, or do not start */
	bool renews;     /* for certificates' sake alone: nobody has asked */
	char **errors;   /* a line each, n_errors of them */
	unsigned n_errors;
	char **warnings; /* likewise: what is skipped of an inetd.conf, and warnings */
	unsigned n_warnings;
	struct config *mistakes; /* not NULL: nothing was changed, and why is in its errors; the caller's to free */
	char text[256];          /* nothing was changed otherwise, or it was given up: why */
};

struct supervisor {
	char *config_file;
	bool inetd;         /* config_file is an inetd.conf */
	char *pid_file;     /* --pid-file; NULL: the configuration's */
	char *pid_written;  /* where our number stands; NULL: nowhere */
	char *control_path; /* --control, be it "none"; NULL: the configuration's */
	struct epoch *epoch;
	struct sockets sockets;
	struct service *services;
	struct control *control;
	int signal_fd;
	/* Tells whoever started us that we are ready, or why not. An older generation answers on the control socket
	 * while it is open: two must not. -1: none. */
	int parent_fd;
	int generation; /* 1, and one more with each upgrade */
	pid_t pid;
	struct rlimit nofile; /* RLIMIT_NOFILE as it was, for workers and the next generation; ours is raised */
	int64_t began;
	bool in_background;            /* --daemon: nobody sees our standard error */
	char lacks[COUNTERS_NAME_MAX]; /* a service that there was no memory for as we began; "": none */
	bool told_ready;
	bool draining;           /* ends when the last worker has */
	bool ending;             /* because of SIGTERM, not of an upgrade alone: a second one ends at once */
	int told, told_by_elder; /* to end: by anybody, and how often the older generation was */
	bool failed;             /* an heir that cannot serve */
	bool handed_over;        /* an upgrade took place: what is left is the next generation's */
	/* upgrade.c */
	pid_t heir; /* the next generation, not ready yet or not proven; 0: none */
	int heir_fd;
	int heir_opened;     /* sockets that it has opened anew lie there; -1: nothing does */
	int heir_stderr;     /* in the background: what it wrote there; -1: the same as ours */
	char heir_said[256]; /* why it fails, as far as it told */
	int64_t heir_deadline;
	bool standby;    /* the heir serves; we take over again if it dies before heir_deadline */
	bool reload_due; /* SIGHUP came meanwhile: it is for whoever serves in the end */
	/* reload.c */
	bool reloading; /* new workers are being tried */
	int64_t certs_looked;
	struct reload_result reload;
};

/* service.c */
struct service *service_new(struct supervisor *v, struct epoch *e, const struct config_service *conf);
void service_begin(struct supervisor *v,
                   struct service *s);  /* opens nothing: its sockets are open. Starts it, or waits for demand */
void service_drain(struct service *s);  /* its workers finish and end, within its grace */
void service_hurry(struct service *s);  /* those that drain end now, those that were retired drain */
void service_retire(struct service *s); /* they accept no more, and end when their last connection has */
void service_stop(struct supervisor *v, struct service *s);
int service_start(struct supervisor *v, struct service *s, struct hark_why *why);
/* New settings. keep: the old workers go on until the new ones are ready; false, too, where none serves: at once. */
void service_replace(struct supervisor *v, struct service *s, struct epoch *e, const struct config_service *conf,
                     bool keep);
/* How service_replace() came out. 1: the new ones serve; 0: not known yet; -1: the old ones go on: trial_error. */
int service_outcome(struct supervisor *v, struct service *s);
/* A worker for the backlog of a socket that s has no more. Its pid or -errno. */
pid_t service_last_worker(struct supervisor *v, struct service *s, const struct socket_entry *e);
bool service_has_worker(const struct service *s, pid_t pid);
void service_retire_worker(struct service *s, pid_t pid); /* it accepts no more, and ends with its last connection */
void service_remove(struct supervisor *v, struct service *s);
void service_demand(struct supervisor *v, struct service *s);   /* something waits at one of its sockets */
void service_worker_ended(struct service *s, struct worker *w); /* waits for it: it must have ended */
void service_worker_spoke(struct service *s, struct worker *w); /* its ready_fd is readable */
int64_t service_due(const struct service *s);                   /* when service_look() is next needed */
void service_look(struct supervisor *v, struct service *s);     /* timers */
void service_hand_log(const struct service *s);                 /* the log was opened anew */
uint32_t worker_now(const struct service *s,
                    const struct worker *w);       /* connections that it serves, as far as it is counted */
unsigned service_workers(const struct service *s); /* alive, draining ones included */
const char *service_state_name(const struct service *s);
bool service_settled(const struct service *s); /* ready, or failed: start-up need not wait for it */
void service_forget(struct service *s);

/* worker.c: in the forked child; does not return. ready_fd: see struct worker. conns_fd: its table's; -1: none. */
_Noreturn void worker_main(struct supervisor *v, struct service *s, const struct worker *w, int ready_fd, int conns_fd);

/* reload.c: reads the configuration and changes what differs. Returns the number of errors, told in *out; 0: it has
 * begun, and reload_look() finds out how it ends. force: be it to no services at all. */
int reload(struct supervisor *v, bool force, struct reload_result *out);
void reload_look(struct supervisor *v); /* each turn: logs and answers the outcome, once all new workers are ready */
/* What reload() would change, as the control socket's answer. 0, or as reload(), with nothing written; what is wrong
 * with addresses is in errors, the caller's to free. */
int reload_compare(struct supervisor *v, struct json *to, struct reload_result *out);
void reload_free_lines(struct reload_result *r);
void reload_counts(struct json *to, const struct reload_result *r); /* "added" to "unchanged" */
int load_config(const struct supervisor *v,
                struct config **out); /* config_load() or the inetd form, and config_check_system() */

void reload_renews(struct supervisor *v, unsigned n); /* n services try new workers: reload_look() finds out */

/* certs.c: of what the service's workers read once. */
struct renew_stamp certs_stamp(const struct config_service *c);
int64_t certs_due(const struct supervisor *v);
void certs_look(struct supervisor *v); /* timers */

/* upgrade.c */
#define UPGRADE_MEMORY "memory " /* then a service's name: what its memory is handed over by */
int upgrade_begin(struct supervisor *v, char *const argv[], struct hark_why *why);
void upgrade_heard(struct supervisor *v);                     /* heir_fd is readable, or heir_deadline is over */
void upgrade_ended(struct supervisor *v);                     /* the heir's process has ended */
void upgrade_forget(struct supervisor *v);                    /* the heir goes its own way */
void upgrade_hand_on(const struct supervisor *v, int signal); /* to the heir, with how often we were told to end */
void upgrade_abandon(struct supervisor *v);                   /* we are about to end: so is the heir, if there is one */
int upgrade_self(struct supervisor *v); /* at start: takes over what the environment says. 0 or -ENOMEM */
/* A socket of the older generation. */
struct inherited_socket {
	int fd; /* -1: none */
	bool managed;
	dev_t dev; /* of its path, as it was bound; 0 with ino: not known, or none */
	ino_t ino;
};
bool upgrade_inherited(const char *key, struct inherited_socket *out); /* one that has that key; each once */
int upgrade_share_port(int type, unsigned port, bool on); /* SO_REUSEPORT of those that nobody has taken; how many */
void upgrade_opened(const char *key, int fd);  /* one that the older generation has not: it keeps it if we fail */
void upgrade_close_rest(struct supervisor *v); /* what nobody wanted of it */
void upgrade_tell_ready(struct supervisor *v);
void upgrade_tell_failed(const struct supervisor *v, const char *why); /* the older generation goes on, and says why */
void upgrade_tell_end(struct supervisor *v); /* we end as we were told to: the older one need not take over again */
void upgrade_await_release(struct supervisor *v); /* the older generation lets go of the sockets, or 1 s */
void upgrade_done(void);
void upgrade_alone(struct supervisor *v); /* parent_fd has no reader any more: the older generation has let go */

/* control.c */
int control_open(struct supervisor *v, const char *path, struct hark_why *why);
int control_poll(struct control *c, struct pollfd *p, int room); /* fills p; returns how many */
int64_t control_due(const struct control *c);                    /* when control_poll() is next needed */
void control_run(struct supervisor *v, const struct pollfd *p, int n);
void control_close(struct supervisor *v);
void control_pause(struct supervisor *v, bool pause); /* pause: the next generation answers, except who waits for it */
void control_reloaded(struct supervisor *v, const struct reload_result *r); /* it is complete */
void control_upgraded(struct supervisor *v, const char *error);             /* NULL: the next generation serves */
void control_path(const struct control *c, dev_t *dev, ino_t *ino);
int control_listener_fd(const struct control *c);
const char *control_key(const struct control *c); /* what the next generation asks for it by */

/* supervisor.c */
int supervisor_signals(struct supervisor *v); /* before the first worker is forked */
int supervisor_run(struct supervisor *v, char *const argv[]);
void supervisor_drain(struct supervisor *v);
void supervisor_hang_up(struct supervisor *v);
/* The next generation serves: this one stands by. It takes over again, or lets go for good. */
void supervisor_stand_by(struct supervisor *v);
void supervisor_take_over(struct supervisor *v);
void supervisor_let_go(struct supervisor *v);
int supervisor_upgrade(struct supervisor *v, struct hark_why *why);
void supervisor_pid_file(struct supervisor *v); /* writes it, where it is wanted now */

/* notify.c: sd_notify(3) and the pid file. */
bool notify_wanted(void); /* a service manager listens */
void notify(const char *format, ...) __attribute__((format(printf, 1, 2)));
int pid_file_write(const char *path, struct hark_why *why);
void pid_file_remove(const char *path); /* if it still holds our number */

#endif
