/* table.h — the functions that table.c's rows name; each box's file includes this, so that the compiler compares the
 * two. */
#ifndef BOX_TABLE_H
#define BOX_TABLE_H

#include "box.h"

typedef int box_open(int argc, char *const argv[], void **arg, struct hark_why *why);

hark_box echo_serve, discard_serve, chargen_serve, daytime_serve, time_serve, qotd_serve, users_serve, message_serve,
	loggedin_serve, exec_serve, relay_serve;

box_open reply_open, daytime_open, qotd_open, logins_open, exec_open, relay_open;
void reply_close(void *arg);
void qotd_close(void *arg);
void exec_close(void *arg);
void relay_close(void *arg);
bool relay_takes(const void *arg, int type);
const char *relay_target(const void *arg);

#endif
