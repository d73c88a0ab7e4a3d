/* listen_name.h — a name to listen on, which stands for several addresses: a service listens at all that are here. */
#ifndef LISTEN_NAME_H
#define LISTEN_NAME_H

#include "hark.h"

#define LISTEN_NAMES_MAX 16 /* addresses of one name */

/* Whether the host of a TCP or UDP address is a name, which is looked up. */
bool listen_is_name(const struct hark_address *a);

/* Whether a failure to listen at one of a name's addresses leaves the others: it is not here, or its family is not. */
bool listen_is_elsewhere(int err);

/* Writes one address of the name, with that port; 0: the name's own. Its length or a -errno. */
int listen_name_format(const struct hark_endpoint *at, unsigned port, char *buf, size_t cap);

#endif
