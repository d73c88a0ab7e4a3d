/* drain.h — the state of a drain, or of retiring, shared by a process, its workers and their children. Floor 3; see drain.c. */
#ifndef HARK__DRAIN_H
#define HARK__DRAIN_H

#include <poll.h>
#include <stdbool.h>
#include <stdint.h>

/* When the drain's grace ends, here or in the process that forked this one; HARK_FOREVER: none has begun. */
int64_t hark__drain_until(void);

/* Fills in what poll(2) needs to notice a drain's beginning; returns how many of two places. */
int hark__drain_poll(struct pollfd p[2]);

/* The descriptor that becomes, and stays, readable when this process drains; the same of the process that forked it, or -1. */
int hark__drain_fd(void);
int hark__drain_upstream_fd(void);

/* Whether this process, or the one that forked it, accepts no more. */
bool hark__retired(void);

/* The descriptor that becomes, and stays, readable when this process retires, or -errno; the same of the process that forked it, or -1. */
int hark__retire_fd(void);
int hark__retire_upstream_fd(void);

/* A serve begins in this process: makes the shared state if there is none. 0 or -errno. And ends: the last one forgets
 * the drain, so that a later serve starts afresh. */
int hark__drain_enter(void);
void hark__drain_leave(void);

/* In a forked child: what was the parent's is now upstream, and a state of its own is made (on failure the child
 * goes on with the parent's). */
void hark__drain_forked(void);

#endif
