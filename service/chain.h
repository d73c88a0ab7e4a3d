/* chain.h — the session chain: what stands between an accepted connection and its box, the same in every model and for
 * hark serve and harkd.
 *
 * It runs where the box will run (a child, a thread, a fiber), so that a link may wait. Each link goes on to the next,
 * or refuses with a reason: then the connection is reset, and the reason is its outcome. */
#ifndef CHAIN_H
#define CHAIN_H

#include "config.h"

struct chain {
	const struct config_service *conf;
	const struct hark_box_row *box;
	void *state; /* the box's */
};

/* For hark_serve(): arg is a struct chain, constant while it serves. */
hark_box chain_serve;

#endif
