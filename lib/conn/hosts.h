/* hosts.h — which names this machine answers itself, asking no server. Any thread; reads files. */
#ifndef HARK__HOSTS_H
#define HARK__HOSTS_H

#include <stdbool.h>

#define HARK__HOSTS_IPV4 1
#define HARK__HOSTS_IPV6 2

/* The families of the addresses that hosts(5) has for a name; 0: none. -EMFILE, -ENFILE. */
int hark__hosts_families(const char *name);

/* Whether hosts(5) is asked before any server, by nsswitch.conf(5). */
bool hark__hosts_come_first(void);

/* "localhost" and what ends in ".localhost": always loopback, RFC 6761 section 6.3. */
bool hark__hosts_is_localhost(const char *name);

#endif
