/* become.h — what a process becomes before it serves: its service's limits, environment, root directory and user.
 *
 * Once in a process's life, before it has threads. The order of the calls is that of this file. */
#ifndef BECOME_H
#define BECOME_H

#include "config.h"

/* Resource limits, umask and niceness. 0, or -errno with why. */
int become_limited(const struct config_service *c, struct hark_why *why);

/* The environment: what pass_env leaves of it, its user's, and env. c lives as long as the process. 0, or -errno with
 * why. */
int become_environ(const struct config_service *c, struct hark_why *why);

/* Root directory, groups, user, working directory. 0, or -errno with why: then it may have half of them, and must end.
 */
int become_user(const struct config_service *c, struct hark_why *why);

/* At any time: as many descriptors as the hard limit allows, unless rlimit_nofile says otherwise. */
void become_all_files(const struct config_service *c);

/* No other process of our user may read our memory, in which there are keys: neither by ptrace(2) nor by /proc/PID/mem,
 * nor in a core file. Before they are read, and again once the user has changed: prctl(2). Holds for forked children,
 * not for what they execute. 0, or -errno with why: then there must be none. */
int become_unreadable(struct hark_why *why);

#endif
