/* drain.h — the state of a drain, or of retiring, shared by a process, its workers and their children. Floor 3; see
 * drain.c. */
#ifndef HARK__DRAIN_H
#define HARK__DRAIN_H

#include <poll.h>
#include <stdbool.h>
#include <stdint.h>

#include "hark.h"

#define HARK__DRAIN_FDS     3              /* a connection's process, its worker, their supervisor */
#define HARK__DRAIN_TICK_NS (50 * HARK_MS) /* while draining: how soon a shortened grace is seen */

/* When the drain's grace ends, here or in a process that this one comes from; HARK_FOREVER: none has begun. */
int64_t hark__drain_until(void);

/* The descriptor that becomes, and stays, readable when this process drains; the same of the process that forked it,
 * and of the one that forked that; -1: there is none. */
void hark__drain_fds(int fds[HARK__DRAIN_FDS]);

/* Fills in what poll(2) needs to notice a drain's beginning; returns how many of the places. */
int hark__drain_poll(struct pollfd p[HARK__DRAIN_FDS]);

/* Whether a drain may come from above; then it is to be passed on to those who listen to this process. */
bool hark__drain_has_upstream(void);

/* Whether this process, or the one that forked it, accepts no more. */
bool hark__retired(void);

/* The descriptor that becomes, and stays, readable when this process retires, or -errno; the same of the process that
 * forked it, or -1. */
int hark__retire_fd(void);
int hark__retire_upstream_fd(void);

/* What hark__drain_poll() is, for retiring. */
#define HARK__RETIRE_FDS 2
int hark__retire_poll(struct pollfd p[HARK__RETIRE_FDS]);

/* A serve begins in this process: makes the shared state if there is none. 0 or -errno. And ends: the last one forgets
 * the drain, so that a later serve starts afresh. */
int hark__drain_enter(void);
void hark__drain_leave(void);

/* In a forked child that serves: a descriptor of its own for its own drains. Every child, one that a box forked
 * included, has the parent's state as upstream. */
void hark__drain_forked(void);

#endif
