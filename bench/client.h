/* What the load generators share: the address to reach, a socket on its way there, room for many
 * descriptors, reading the command line, and the end of what they print. One thread; every descriptor returned
 * belongs to the caller. */
#ifndef BENCH_CLIENT_H
#define BENCH_CLIENT_H

#include "common/histogram.h"
#include "usage.h"

#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>

/* Parses "tcp://127.0.0.1:PORT", or the same without "tcp://". IPv4 loopback only: a load generator
 * that is pointed elsewhere by a slip of the hand is an attack. Returns 0 or -EINVAL. */
int client_parse_address(const char *text, struct sockaddr_in *out);

/* Raises the soft limit of open descriptors to the hard one if fewer than `needed` are allowed.
 * Returns 0, or -EMFILE when even the hard limit is too low. */
int client_need_descriptors(unsigned needed);

/* A non-blocking TCP socket whose connect has begun, from 127.0.0.(1 + source); source 0 leaves the
 * choice to the kernel. Returns a descriptor or -errno. */
int client_connect(const struct sockaddr_in *to, unsigned source);

/* The same from that port of the source; 0: one of the kernel's choice. */
int client_connect_from(const struct sockaddr_in *to, unsigned source, unsigned port);

/* Both end the program, saying why on standard error, if text is not a number from low to high. */
unsigned client_number(const char *option, const char *text, unsigned low, unsigned high);
double client_seconds(const char *option, const char *text, double high);

/* Reads an option of whom to watch: -p, --server-pid; -C, --server-core; -b, --backend-pid. False: it is
 * another. */
bool client_subject_option(int option, const char *text, struct usage_subject *s);

/* The one operand. Ends the program if it is none, naming the program and the port of an example. */
void client_operand(int argc, char **argv, const char *program, unsigned port, struct sockaddr_in *out);

/* Prints "p50_us", "p99_us" and "max_us", and ends the JSON object and the line. */
void client_print_latency(const struct histogram *latency);

/* Ends the program with status 100, saying why. */
_Noreturn void client_usage(const char *why, const char *what);

#endif
