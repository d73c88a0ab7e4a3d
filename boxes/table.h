/* table.h — the rows that table.c lists; each box's file includes this, so that the compiler compares the two. */
#ifndef BOX_TABLE_H
#define BOX_TABLE_H

#include "box.h"

extern const struct hark_box_row chargen_box, daytime_box, discard_box, echo_box, exec_box, loggedin_box, message_box,
	qotd_box, relay_box, tcpmux_box, time_box, users_box;

#endif
