/* listen_name.h — a name to listen on, which stands for several addresses: a service listens at all that are here. */
#ifndef LISTEN_NAME_H
#define LISTEN_NAME_H

#include "hark.h"

#define LISTEN_NAMES_MAX 16 /* addresses of one name */

/* Whether the host of a TCP or UDP address is a name, which is looked up. */
bool listen_is_name(const struct hark_address *a);

/* Whether a failure to listen at one of a name's addresses leaves the others: it is not here, or its family is not. */
bool listen_is_elsewhere(int err);

/* The port for all n addresses of a name. Where address says 0, one that is free at all that are here: the kernel's
 * choice for one of them may be taken at another. 0: address has it; -errno with opts->why. */
int listen_name_port(const char *address, const struct hark_endpoint *at, int n, const struct hark_listen_opts *opts);

/* Writes one address of the name, with that port; 0: the name's own. Its length or a -errno. */
int listen_name_format(const struct hark_endpoint *at, unsigned port, char *buf, size_t cap);

#endif
