/* supervisor.h — the state of harkd's supervisor: which sockets are open, which services there are, which workers live.
 *
 *   supervisor.c  the loop: waits for signals, sockets, workers' ends and timers, and hands each to whom it concerns
 *   sockets.c     listening sockets by address: opened once, kept over reloads, handed to the next generation
 *   service.c     one service: starts workers, at boot or on demand, restarts, drains, ends them when idle
 *   worker.c      what a forked worker does: becomes its user, then hark_serve()
 *   reload.c      a new configuration, by difference
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
#include "memory.h"

/* A configuration, kept as long as a service of it is. */
struct epoch {
	struct config *config;
	unsigned refs;
};

struct epoch *epoch_new(struct config *c); /* consumes c; NULL: no memory, c is freed */
struct epoch *epoch_hold(struct epoch *e);
void epoch_release(struct epoch *e);

/* A listening socket. */
struct socket_entry {
	char *key; /* its address as configured; where the kernel chooses the port, with the service it is of */
	struct hark_listener *listener;
	bool wanted;    /* reload: by the new configuration */
	bool fresh;     /* reload: opened for it, closed again if it fails */
	bool managed;   /* a service manager's: its path stays when we end */
	bool inherited; /* an older generation's, who goes on with it if we fail */
	dev_t dev;      /* a unix path's, as it was bound: what is changed, and removed in the end, must be that */
	ino_t ino;      /* 0: no path */
};

struct sockets {
	struct socket_entry **entry;
	size_t n;
	int64_t dropped; /* when one was last closed; 0: never */
};

/* The socket of the service's ith address, opened (or adopted from the environment) if it is not open. 0 or -errno with
 * why. */
int sockets_open(struct sockets *s, const struct config_service *conf, size_t i, struct hark_why *why);
struct socket_entry *sockets_find(const struct sockets *s, const struct config_service *conf, size_t i);
/* Of a unix socket's key; NULL: it is not one, or an abstract one. */
const char *unix_path(const char *key);
/* Marks all as neither wanted nor fresh. */
void sockets_mark(struct sockets *s);
/* Closes those that are not wanted; or, undoing, those that are fresh. */
/* Lets go of what was opened or kept for the service: sockets_sweep() closes it. */
void sockets_give_up(struct sockets *s, const struct config_service *conf);
void sockets_sweep(struct sockets *s);
void sockets_undo(struct sockets *s);
void sockets_close(struct sockets *s, const struct config_service *conf, size_t i);
/* leave_paths: another generation has them now. */
void sockets_free(struct sockets *s, bool leave_paths);

struct worker {
	pid_t pid;
	int ready_fd; /* it writes "" when it serves, or why it cannot; -1: it has */
	int slot;     /* in the service's memory */
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
	SERVICE_GONE,     /* removed by a reload: its last workers drain */
	SERVICE_DISABLED, /* for control.c: the configuration has it, the supervisor has not */
};

struct service {
	struct service *next;
	struct epoch *epoch;
	const struct config_service *conf;
	enum service_state state;
	struct worker *workers; /* draining ones included */
	struct memory *memory;
	struct counters *counters; /* in it */
	int64_t again;             /* BACKING_OFF: when to start anew */
	int64_t backoff;
	int64_t looked; /* stop_idle: when it was last seen at work */
	uint64_t looked_accepted;
	char error[256]; /* the last thing that went wrong; "" */
};

struct control;

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
	bool in_background; /* --daemon: nobody sees our standard error */
	bool told_ready;
	bool draining;    /* ends when the last worker has */
	bool ending;      /* because of SIGTERM, not of an upgrade alone: a second one ends at once */
	bool failed;      /* an heir that cannot serve */
	bool handed_over; /* an upgrade took place: what is left is the next generation's */
	/* upgrade.c */
	pid_t heir; /* the next generation, not ready yet; 0: none */
	int heir_fd;
	int64_t heir_deadline;
	bool reload_due; /* SIGHUP came meanwhile: it is for whoever serves in the end */
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
void service_replace(struct supervisor *v, struct service *s, struct epoch *e, const struct config_service *conf);
void service_remove(struct supervisor *v, struct service *s);
void service_demand(struct supervisor *v, struct service *s);   /* something waits at one of its sockets */
void service_worker_ended(struct service *s, struct worker *w); /* waits for it: it must have ended */
void service_worker_spoke(struct service *s, struct worker *w); /* its ready_fd is readable */
int64_t service_due(const struct service *s);                   /* when service_look() is next needed */
void service_look(struct supervisor *v, struct service *s);     /* timers */
uint32_t worker_now(const struct service *s,
                    const struct worker *w);       /* connections that it serves, as far as it is counted */
unsigned service_workers(const struct service *s); /* alive, draining ones included */
const char *service_state_name(const struct service *s);
bool service_settled(const struct service *s); /* ready, or failed: start-up need not wait for it */
void service_forget(struct service *s);

/* worker.c: in the forked child; does not return. ready_fd: see struct worker. */
_Noreturn void worker_main(struct supervisor *v, struct service *s, const struct worker *w, int ready_fd);

/* reload.c: reads the configuration and changes what differs. out may be NULL. Returns the number of errors; 0: done.
 */
struct reload_result {
	unsigned added, changed, removed, unchanged;
	struct config *failed; /* not NULL: its errors; the caller's to free */
	char text[256];        /* failed otherwise: why */
};
int reload(struct supervisor *v, struct reload_result *out);
int load_config(const struct supervisor *v,
                struct config **out); /* config_load() or the inetd form, and config_check_system() */

/* upgrade.c */
#define UPGRADE_MEMORY "memory " /* then a service's name: what its memory is handed over by */
int upgrade_begin(struct supervisor *v, char *const argv[], struct hark_why *why);
void upgrade_heard(struct supervisor *v);   /* heir_fd is readable, or heir_deadline is over */
void upgrade_ended(struct supervisor *v);   /* the heir's process has ended */
void upgrade_abandon(struct supervisor *v); /* we are about to end: so is the heir, if there is one */
void upgrade_self(struct supervisor *v);    /* at start: takes over what the environment says */
int upgrade_inherited(const char *key,
                      bool *managed); /* the descriptor that the older generation had for it, once; -1 */
void upgrade_close_rest(void);        /* what nobody wanted of it */
void upgrade_tell_ready(struct supervisor *v);
void upgrade_done(void);
void upgrade_alone(struct supervisor *v); /* parent_fd has no reader any more: the older generation has let go */

/* control.c */
int control_open(struct supervisor *v, const char *path, struct hark_why *why);
int control_poll(struct control *c, struct pollfd *p, int room); /* fills p; returns how many */
int64_t control_due(const struct control *c);                    /* when control_poll() is next needed */
void control_run(struct supervisor *v, const struct pollfd *p, int n);
void control_close(struct supervisor *v);
int control_listener_fd(const struct control *c);
const char *control_key(const struct control *c); /* what the next generation asks for it by */

/* supervisor.c */
int supervisor_signals(struct supervisor *v); /* before the first worker is forked */
int supervisor_run(struct supervisor *v, char *const argv[]);
void supervisor_drain(struct supervisor *v);
int supervisor_upgrade(struct supervisor *v, struct hark_why *why);
void supervisor_pid_file(struct supervisor *v); /* writes it, where it is wanted now */

/* notify.c: sd_notify(3) and the pid file. */
void notify(const char *format, ...) __attribute__((format(printf, 1, 2)));
int pid_file_write(const char *path, struct hark_why *why);
void pid_file_remove(const char *path); /* if it still holds our number */

#endif
