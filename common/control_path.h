/* control_path.h — where harkd's control socket lies unless it is named: harkd takes the first place that is there, and
 * hark asks at each, as the two may have been started from sessions with different environments.
 *
 *   root         /run/harkd.sock
 *   other users  $XDG_RUNTIME_DIR/harkd.sock, /run/user/UID/harkd.sock, /tmp/harkd-UID.sock
 *
 * Any thread while nobody changes the environment. */
#ifndef CONTROL_PATH_H
#define CONTROL_PATH_H

#include <stdbool.h>
#include <stddef.h>

#include "hark.h"

#define CONTROL_PLACES_MAX 3

struct control_place {
	char path[HARK_PATH_MAX + 1];
	bool own; /* in a directory of this user's (or root's /run): nobody else puts a socket there */
};

/* Fills to, at least one. Returns how many. */
size_t control_places(struct control_place to[CONTROL_PLACES_MAX]);

/* The first of own places, else the last one. */
const struct control_place *control_place_to_take(const struct control_place *places, size_t n);

#endif
