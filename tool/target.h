/* target.h — a HOST of the command line made into an address: daytime, time, ping, users, loggedin know their ports
 * themselves. */
#ifndef TARGET_H
#define TARGET_H

#include <stddef.h>

#include "hark.h"

/* host is a host, host:port, an IPv6 address with or without brackets, or a full address, whose port may be missing;
 * scheme ("tcp", "udp") and port fill in what it leaves out. Returns 0; -EINVAL with why. */
int target_address(const char *host, const char *scheme, const char *port, char out[HARK_ADDRESS_MAX], struct hark_why *why);

#endif
